//! `/calls`: place a call for somebody, see the calls that are up, end one.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::time::SystemTime;
use utoipa::ToSchema;

use super::{Context, problem::Problem};
use crate::{
    call,
    model::{CallId, Timestamp},
    store::Claim,
};

/// A call to place: the user's phones ring first; when one is lifted, the far end rings.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCall {
    /// The extension whose phones ring first.
    #[schema(example = "2041")]
    pub from: String,
    /// Whom to call then.
    #[schema(example = "2042")]
    pub to: String,
    /// Shown to the far end instead of `from`.
    pub caller_id: Option<String>,
    /// How long each side may ring, in seconds, 5 to 600; the configured time if absent.
    pub timeout_secs: Option<u64>,
    /// Kept with the call and repeated in its events.
    #[serde(default)]
    #[schema(example = json!({"ticket": "4711"}))]
    pub labels: BTreeMap<String, String>,
}

/// A call that was placed. Follow it with `GET /events?call=…`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Placed {
    #[schema(example = "00000000000004d2")]
    pub id: String,
}

/// A call that is up or ringing.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Call {
    pub id: String,
    pub from: String,
    pub to: String,
    /// The caller's device.
    pub mac: Option<String>,
    /// `ringing_caller`, `ringing`, `menu` or `talking`.
    pub state: String,
    /// Seconds since it began.
    pub age_secs: f64,
    /// Seconds since it was answered.
    pub talk_secs: Option<f64>,
    pub labels: BTreeMap<String, String>,
}

impl From<call::Snapshot> for Call {
    fn from(snapshot: call::Snapshot) -> Self {
        let state = serde_json::to_value(snapshot.state).ok().and_then(|state| state.as_str().map(str::to_owned)).unwrap_or_default();
        Self {
            id: snapshot.call.to_string(),
            from: snapshot.from,
            to: snapshot.to,
            mac: snapshot.mac.map(|mac| mac.to_string()),
            state,
            age_secs: snapshot.age.as_secs_f64(),
            talk_secs: snapshot.talk.map(|talk| talk.as_secs_f64()),
            labels: snapshot.labels.into_iter().collect(),
        }
    }
}

/// Limits on what a caller may hang on a call: it is repeated in every event.
const MAX_LABELS: usize = 16;
const MAX_LABEL_CHARS: usize = 128;

impl NewCall {
    fn checked(self) -> Result<call::Originate, Problem> {
        let from =
            self.from.parse().map_err(|error: crate::model::ParseExtensionError| Problem::bad_request(format!("`from`: {error}")))?;
        let dialable =
            |text: &str| (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'*' | b'#' | b'+'));
        if !dialable(&self.to) {
            return Err(Problem::bad_request("`to`: 1 to 32 of 0-9 * # +"));
        }
        if self.caller_id.as_deref().is_some_and(|id| !dialable(id)) {
            return Err(Problem::bad_request("`caller_id`: 1 to 32 of 0-9 * # +"));
        }
        if self.timeout_secs.is_some_and(|secs| !(5..=600).contains(&secs)) {
            return Err(Problem::bad_request("`timeout_secs`: 5 to 600"));
        }
        let long = |text: &String| text.chars().count() > MAX_LABEL_CHARS;
        if self.labels.len() > MAX_LABELS || self.labels.iter().any(|(name, value)| long(name) || long(value)) {
            return Err(Problem::bad_request(format!("`labels`: at most {MAX_LABELS}, of at most {MAX_LABEL_CHARS} characters each")));
        }
        Ok(call::Originate {
            from,
            to: self.to,
            caller_id: self.caller_id,
            timeout: self.timeout_secs.map(Duration::from_secs),
            labels: self.labels.into_iter().collect(),
        })
    }
}

impl From<call::OriginateError> for Problem {
    fn from(error: call::OriginateError) -> Self {
        use call::OriginateError::*;
        let (status, title) = match error {
            NotRegistered(_) => (StatusCode::CONFLICT, "no phone registered"),
            NoSuchNumber(_) => (StatusCode::NOT_FOUND, "no such number"),
            Refused { .. } => (StatusCode::FORBIDDEN, "not allowed"),
            Overload { .. } => (StatusCode::SERVICE_UNAVAILABLE, "too many calls"),
        };
        Self::new(status, title, error.to_string())
    }
}

/// What an idempotent answer looks like in the store.
#[derive(Serialize, Deserialize)]
struct Answer {
    status: u16,
    body: serde_json::Value,
}

/// Places a call.
///
/// Send `Idempotency-Key` with a value of your own (at most 128 characters) to make a repetition harmless: the same
/// request with the same key gets the first one's answer, and no second call is made. An answer of 500 or more is not
/// kept: no call came of it, and the same key may be used to try again.
#[utoipa::path(post, path = "/calls", tag = "calls", request_body = NewCall,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition harmless")),
    responses((status = 201, body = Placed), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 503, body = Problem)))]
pub async fn place(State(context): State<Context>, headers: HeaderMap, Json(new): Json<NewCall>) -> Result<Response, Problem> {
    let request_hash = Sha256::digest(serde_json::to_vec(&new).unwrap_or_default()).into();
    let key = match headers.get("idempotency-key").map(HeaderValue::to_str) {
        None => None,
        Some(Ok(key)) if (1..=128).contains(&key.len()) => Some(key.to_owned()),
        Some(_) => return Err(Problem::bad_request("`Idempotency-Key`: 1 to 128 visible ASCII characters")),
    };
    let originate = new.checked()?;
    if let Some(key) = &key {
        match context.store.claim_action(key, request_hash, Timestamp::of(SystemTime::now())).await? {
            Claim::New => {}
            Claim::Conflict => return Err(Problem::conflict("this Idempotency-Key was used for another request: choose a new one")),
            Claim::Repeated { answer: Some(answer) } => return replay(&answer),
            Claim::Repeated { answer: None } => {
                return Err(Problem::conflict(
                    "the first request with this Idempotency-Key is not answered yet, or was cut off: look at GET /calls",
                ));
            }
        }
    }
    let (status, body) = match context.calls.originate(originate).await {
        Ok(call) => (StatusCode::CREATED, serde_json::json!(Placed { id: call.to_string() })),
        Err(error) => {
            let problem = Problem::from(error);
            (StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), serde_json::json!(problem))
        }
    };
    if let Some(key) = &key
        && status.is_server_error()
    {
        // Kept, it would be said for a day: the server may well be able to do it a moment later. If it cannot be
        // forgotten, a repetition hears that this one is not answered.
        if let Err(fault) = context.store.forget_action(key).await {
            tracing::warn!(%fault, "an Idempotency-Key stays taken, of a call that was not placed");
        }
    } else if let Some(key) = &key {
        let answer = serde_json::json!(Answer { status: status.as_u16(), body: body.clone() });
        context.store.finish_action(key, &answer.to_string()).await?;
    }
    Ok(respond(status, &body))
}

fn replay(answer: &str) -> Result<Response, Problem> {
    let answer: Answer = serde_json::from_str(answer)
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the stored answer cannot be read", error.to_string()))?;
    let mut response = respond(StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK), &answer.body);
    response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    Ok(response)
}

fn respond(status: StatusCode, body: &serde_json::Value) -> Response {
    if status.is_success() {
        return (status, Json(body)).into_response();
    }
    match serde_json::from_value::<Problem>(body.clone()) {
        Ok(problem) => problem.into_response(),
        Err(_) => (status, Json(body)).into_response(),
    }
}

/// The calls that are up or ringing.
#[utoipa::path(get, path = "/calls", tag = "calls", responses((status = 200, body = Vec<Call>)))]
pub async fn list(State(context): State<Context>) -> Result<Json<Vec<Call>>, Problem> {
    Ok(Json(context.calls.list().await.into_iter().map(Call::from).collect()))
}

/// Ends a call for everybody in it.
#[utoipa::path(delete, path = "/calls/{id}", tag = "calls", params(("id" = String, Path)), responses((status = 204), (status = 404, body = Problem)))]
pub async fn hang_up(State(context): State<Context>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let call: CallId = id.parse().map_err(|_| Problem::bad_request("the id is what POST /calls returned"))?;
    match context.calls.hangup(call).await {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found("no such call", format!("{call} is over, or never was"))),
    }
}
