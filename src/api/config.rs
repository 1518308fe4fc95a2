//! `/config/diff`: what the configuration on disk would change.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Context, problem::Problem, templates::DiffGroup};
use crate::provisioning::preview::Group;

/// Asks the node to read its configuration and to compare; changes nothing.
pub type Differs = Arc<dyn Fn() -> BoxFuture<'static, Result<Difference, String>> + Send + Sync>;

/// What the node finds.
pub struct Difference {
    /// Key, before and after, as JSON; and whether only a restart changes it.
    pub keys: Vec<(Key, bool)>,
    /// Phones that were compared.
    pub phones: usize,
    pub groups: Vec<Group>,
}

/// A key that is written otherwise.
pub struct Key {
    pub key: String,
    pub old: Option<String>,
    pub new: Option<String>,
}

/// What the configuration on disk would change.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ConfigChanges {
    pub keys: Vec<KeyChange>,
    /// Phones that were compared.
    pub phones: usize,
    /// Those of them whose files change by it. Templates on disk are not looked at: `POST /templates/diff`.
    pub changed: usize,
    /// Whose files change in the same way, the largest group first.
    pub groups: Vec<DiffGroup>,
}

/// A key whose value changes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct KeyChange {
    #[schema(example = "sip.realm")]
    pub key: String,
    /// As JSON, secrets masked; absent: the default.
    pub old: Option<String>,
    pub new: Option<String>,
    /// A reload does not change it.
    pub restart: bool,
}

/// What the configuration on disk would change, beside what is live. Changes nothing.
#[utoipa::path(post, path = "/config/diff", tag = "server",
    responses((status = 200, body = ConfigChanges), (status = 409, body = Problem)))]
pub async fn diff(State(context): State<Context>) -> Result<Json<ConfigChanges>, Problem> {
    let fault = |faults| Problem::new(StatusCode::CONFLICT, "the configuration on disk has faults", faults);
    let Difference { keys, phones, groups } = (context.differs)().await.map_err(fault)?;
    let keys = keys.into_iter().map(|(Key { key, old, new }, restart)| KeyChange { key, old, new, restart }).collect();
    let changed = groups.iter().map(|group| group.phones.len()).sum();
    Ok(Json(ConfigChanges { keys, phones, changed, groups: groups.into_iter().map(DiffGroup::from).collect() }))
}
