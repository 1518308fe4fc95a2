//! `/templates/diff`: what the templates on disk would change, before they are live.

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Context, problem::Problem};
use crate::provisioning::preview::{Change, Group};

/// What the phones would get by the templates on disk, beside what they get now.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TemplateDiff {
    /// Phones that were compared.
    pub phones: usize,
    /// Those of them whose files change.
    pub changed: usize,
    /// Whose files change in the same way, the largest group first.
    pub groups: Vec<DiffGroup>,
}

/// Phones whose files change in the same way.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DiffGroup {
    #[schema(example = json!(["00:15:65:aa:bb:cc"]))]
    pub phones: Vec<String>,
    pub files: Vec<FileDiff>,
}

/// How one file changes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FileDiff {
    /// Its name, the phone's own MAC as `‹mac›`.
    #[schema(example = "‹mac›.cfg")]
    pub file: String,
    /// As `diff -u` writes it, or words, for a file that is new, gone or cannot be rendered. Secrets are masked; what is a phone's
    /// own is `‹number›`, `‹name›` and the like.
    pub diff: String,
}

impl From<Group> for DiffGroup {
    fn from(group: Group) -> Self {
        let files = group.files.into_iter().map(|Change { file, diff }| FileDiff { file, diff });
        Self { phones: group.phones.iter().map(ToString::to_string).collect(), files: files.collect() }
    }
}

/// What the templates on disk would change. Nothing is changed by it: `POST /reload` makes them live.
#[utoipa::path(post, path = "/templates/diff", tag = "devices",
    responses((status = 200, body = TemplateDiff), (status = 409, body = Problem)))]
pub async fn diff(State(context): State<Context>) -> Result<Json<TemplateDiff>, Problem> {
    let templates = context.templates.clone();
    let stopped = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping", "ask again");
    let read = tokio::task::spawn_blocking(move || templates.on_disk()).await.map_err(stopped)?;
    let new = read.map_err(|faults| Problem::new(StatusCode::CONFLICT, "the templates on disk have faults", faults.to_string()))?;
    let devices = context.owners.devices().await?;
    let phones = devices.len();
    let groups = context.files.compare(std::sync::Arc::new(new), devices).await;
    let changed = groups.iter().map(|group| group.phones.len()).sum();
    Ok(Json(TemplateDiff { phones, changed, groups: groups.into_iter().map(DiffGroup::from).collect() }))
}
