//! `/extensions/{extension}/wishes` and `/night`: what people wish of their telephones, the same that star codes change.

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
    features::{Change, Wishes},
    model::Extension,
    routing::hours::Switch,
};

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
    Ok(Json(context.calls.wishes(extension.as_str()).await))
}

/// Sets all that an extension wishes; what is absent is not wished any more. It is stored when this answers.
#[utoipa::path(put, path = "/extensions/{extension}/wishes", tag = "users", params(("extension" = String, Path, example = "2041")),
    request_body = Wishes, responses((status = 200, body = Wishes), (status = 400, body = Problem)))]
pub async fn set(
    State(context): State<Context>,
    Path(extension): Path<Extension>,
    Json(wishes): Json<Wishes>,
) -> Result<Json<Wishes>, Problem> {
    context.calls.wish(extension.as_str(), Change::All(Box::new(wishes))).await?;
    Ok(Json(context.calls.wishes(extension.as_str()).await))
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
