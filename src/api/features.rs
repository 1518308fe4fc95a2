//! `/extensions/{extension}/wishes` and `/night`: what people wish of their telephones, the same that star codes change.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Context, problem::Problem};
use crate::{
    call::NotKept,
    features::{Change, Wishes as Kept},
    model::Extension,
    routing::hours::Switch,
};

/// What an extension wishes of calls to it. Absent, or `false`: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Wishes {
    /// Where all calls go instead.
    #[schema(example = "2050")]
    pub always: Option<String>,
    /// Where calls go while the user talks, or does not want to be disturbed.
    pub busy: Option<String>,
    /// Where calls go that nobody has taken.
    pub no_answer: Option<String>,
    /// Where calls go while no phone can be reached.
    pub unreachable: Option<String>,
    /// Seconds that calls ring before `no_answer` counts: 5 to 600; the office's time without it.
    pub ring_secs: Option<u16>,
    /// Nothing rings.
    pub do_not_disturb: bool,
    /// A second caller hears "busy" while the user talks.
    pub one_call_only: bool,
    /// Callers who hide their number are refused.
    pub refuse_hidden: bool,
    /// Numbers that are refused, as they are shown; 200 at most.
    pub blocked: BTreeSet<String>,
    /// Speed dials, by key from 0 to 99.
    #[schema(value_type = BTreeMap<String, String>)]
    pub speed: BTreeMap<u8, String>,
}

/// Where a night switch stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// `auto`: as the clock says; `day`: open; `night`: closed.
    #[schema(example = "night")]
    pub position: String,
}

/// The night switch of some hours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NightSwitch {
    /// Name of the hours in the routes.
    #[schema(example = "office")]
    pub hours: String,
    /// `auto`, `day` or `night`.
    pub position: String,
}

impl From<Kept> for Wishes {
    fn from(kept: Kept) -> Self {
        let Kept { always, busy, no_answer, unreachable, ring_secs, do_not_disturb, one_call_only, refuse_hidden, blocked, speed } = kept;
        Self { always, busy, no_answer, unreachable, ring_secs, do_not_disturb, one_call_only, refuse_hidden, blocked, speed }
    }
}

impl From<Wishes> for Kept {
    fn from(wishes: Wishes) -> Self {
        let Wishes { always, busy, no_answer, unreachable, ring_secs, do_not_disturb, one_call_only, refuse_hidden, blocked, speed } =
            wishes;
        Self { always, busy, no_answer, unreachable, ring_secs, do_not_disturb, one_call_only, refuse_hidden, blocked, speed }
    }
}

impl From<NotKept> for Problem {
    fn from(error: NotKept) -> Self {
        match error {
            NotKept::Wish(fault) => Self::bad_request(fault.to_string()),
            NotKept::Store => Self::new(StatusCode::SERVICE_UNAVAILABLE, "not stored", error.to_string()),
        }
    }
}

/// What an extension wishes.
#[utoipa::path(get, path = "/extensions/{extension}/wishes", tag = "users", params(("extension" = String, Path, example = "2041")),
    responses((status = 200, body = Wishes)))]
pub async fn show(State(context): State<Context>, Path(extension): Path<Extension>) -> Result<Json<Wishes>, Problem> {
    Ok(Json(context.calls.wishes(extension.as_str()).await.into()))
}

/// Sets all that an extension wishes; what is absent is not wished any more. It is stored when this answers.
#[utoipa::path(put, path = "/extensions/{extension}/wishes", tag = "users", params(("extension" = String, Path, example = "2041")),
    request_body = Wishes, responses((status = 200, body = Wishes), (status = 400, body = Problem)))]
pub async fn set(
    State(context): State<Context>,
    Path(extension): Path<Extension>,
    Json(wishes): Json<Wishes>,
) -> Result<Json<Wishes>, Problem> {
    context.calls.wish(extension.as_str(), Change::All(Box::new(wishes.into()))).await?;
    Ok(Json(context.calls.wishes(extension.as_str()).await.into()))
}

/// Every night switch.
#[utoipa::path(get, path = "/night", tag = "calls", responses((status = 200, body = Vec<NightSwitch>)))]
pub async fn nights(State(context): State<Context>) -> Result<Json<Vec<NightSwitch>>, Problem> {
    let all = context.calls.nights().await.into_iter();
    Ok(Json(all.map(|(hours, position)| NightSwitch { hours, position: position.as_str().to_owned() }).collect()))
}

/// Turns a night switch. It is stored when this answers.
#[utoipa::path(put, path = "/night/{hours}", tag = "calls", params(("hours" = String, Path, example = "office")),
    request_body = Position, responses((status = 200, body = NightSwitch), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub async fn turn_night(
    State(context): State<Context>,
    Path(hours): Path<String>,
    Json(Position { position }): Json<Position>,
) -> Result<Json<NightSwitch>, Problem> {
    let to: Switch = position.parse().map_err(|fault| Problem::bad_request(format!("{fault}")))?;
    if !context.calls.turn_night(&hours, to).await? {
        return Err(Problem::not_found("no such hours", format!("the routes have no hours '{hours}': GET /api/v1/night lists them")));
    }
    Ok(Json(NightSwitch { hours, position: to.as_str().to_owned() }))
}
