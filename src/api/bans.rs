//! `/sip/bans`: who gets no answer for too many wrong passwords, and their pardon.

use std::{
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Context, problem::Problem};
use crate::{model::Timestamp, sip::guard};

/// An address, or one user name from it, that gets no answer for a while.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Ban {
    #[schema(example = "192.168.40.17")]
    pub source: String,
    /// The name that is banned there; absent: the whole address, until one of its phones logs in.
    pub user: Option<String>,
    /// When it ends by itself, RFC 3339.
    pub until: String,
    /// Seconds until then.
    pub secs: u64,
}

impl Ban {
    fn of(ban: guard::Ban, now: Instant, wall: SystemTime) -> Self {
        let left = ban.until.saturating_duration_since(now);
        Self {
            source: ban.source.to_string(),
            user: ban.user,
            until: Timestamp::of(wall + Duration::from_secs(left.as_secs())).to_string(),
            secs: left.as_secs(),
        }
    }
}

/// Who gets no answer by SIP for too many wrong passwords, those first whose ban ends first.
#[utoipa::path(get, path = "/sip/bans", tag = "server", responses((status = 200, body = Vec<Ban>)))]
pub async fn list(State(context): State<Context>) -> Result<Json<Vec<Ban>>, Problem> {
    let mut bans = context.calls.bans().await;
    bans.sort_by_key(|ban| ban.until);
    let (now, wall) = (Instant::now(), SystemTime::now());
    Ok(Json(bans.into_iter().map(|ban| Ban::of(ban, now, wall)).collect()))
}

/// Lifts every ban of an address, its names' included, and forgets what it did wrong.
#[utoipa::path(delete, path = "/sip/bans/{address}", tag = "server", params(("address" = String, Path)),
    responses((status = 204), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub async fn pardon(State(context): State<Context>, Path(address): Path<String>) -> Result<StatusCode, Problem> {
    let source: IpAddr = address.parse().map_err(|_| Problem::bad_request("the address is an IPv4 or IPv6 address, as 192.168.40.17"))?;
    match context.calls.pardon(source).await {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found("no such ban", format!("{source} is not banned: GET /api/v1/sip/bans lists who is"))),
    }
}
