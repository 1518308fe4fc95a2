//! `/trunks`: the ways to the outside, and how they stand.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Context, problem::Problem};
use crate::call::trunk::Standing;

/// A way to the outside.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Trunk {
    #[schema(example = "provider")]
    pub name: String,
    pub host: String,
    /// Where calls are sent now; absent while the host has no address.
    pub address: Option<String>,
    /// `untried`, `up` or `down`.
    pub state: String,
    /// Why it is down.
    pub reason: Option<String>,
    /// Seconds since the state is so.
    pub since_secs: f64,
    /// Whether the provider has registered us; absent for a trunk that does not register.
    pub registered: Option<bool>,
    /// Calls that it carries now.
    pub calls: usize,
    /// Calls that it carries at most; 0: no limit.
    pub max_calls: usize,
}

impl From<Standing> for Trunk {
    fn from(standing: Standing) -> Self {
        Self {
            name: standing.name.to_string(),
            host: standing.host,
            address: standing.address.map(|address| address.to_string()),
            state: standing.state.as_str().to_owned(),
            reason: standing.reason,
            since_secs: standing.since.as_secs_f64(),
            registered: standing.registered,
            calls: standing.calls,
            max_calls: standing.max_calls,
        }
    }
}

/// The ways to the outside.
#[utoipa::path(get, path = "/trunks", tag = "calls", responses((status = 200, body = Vec<Trunk>)))]
pub async fn list(State(context): State<Context>) -> Result<Json<Vec<Trunk>>, Problem> {
    Ok(Json(context.calls.trunks().await.into_iter().map(Trunk::from).collect()))
}
