//! `/rollout`: a change of templates that goes to some phones first.

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Context, problem::Problem};
use crate::{
    model::MacAddr,
    provisioning::rollout::{
        Stage, Wanted,
        worker::{Error, Shown, counts},
    },
};

/// Which phones get the templates on disk first. Without anything: as many as `rollout.canary` says.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutRequest {
    /// How many: a number, or a share of those whose files change.
    #[schema(example = "5")]
    pub canary: Option<String>,
    /// Only of this family.
    pub family: Option<String>,
    /// Only of this model; `*` stands for anything.
    #[schema(example = "T46*")]
    pub model: Option<String>,
    /// Only of this site of overrides.yaml: all of it, where `canary` does not say how many.
    pub site: Option<String>,
    /// Only of this group, of the directory, of overrides.yaml or of the phones' table: all of it, where `canary` does not say how many.
    #[schema(example = "it-department")]
    pub group: Option<String>,
    /// Just these.
    pub phones: Vec<String>,
}

/// How far a change has come.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Rollout {
    /// `running`, `paused`, `rolling_back`, `done` or `rolled_back`.
    pub stage: String,
    /// Why it is paused or goes back.
    pub reason: Option<String>,
    #[schema(example = "2026-11-21T19:30:00.000Z")]
    pub began: String,
    /// Which wave it is in; 1 is the first phones.
    pub wave: u32,
    /// Phones may be told now: `rollout.only_between`.
    pub may_tell: bool,
    /// How many phones are at which step, in the order in which they go.
    pub steps: Vec<RolloutStep>,
    /// Every phone whose files change.
    pub phones: Vec<RolloutPhone>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RolloutStep {
    pub step: String,
    pub phones: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RolloutPhone {
    pub mac: String,
    pub make: String,
    /// 0: none has come to it yet.
    pub wave: u32,
    pub step: String,
    pub since: String,
    /// What keeps it, in words; absent: nothing does.
    pub reason: Option<String>,
}

impl From<Shown> for Rollout {
    fn from(shown: Shown) -> Self {
        let Shown { rollout, now, quiet } = shown;
        let (stage, reason) = match &rollout.stage {
            Stage::Running => ("running", None),
            Stage::Paused { reason } => ("paused", Some(reason)),
            Stage::RollingBack { reason } => ("rolling_back", Some(reason)),
            Stage::Done => ("done", None),
            Stage::RolledBack { reason } => ("rolled_back", Some(reason)),
        };
        let phone = |(mac, phone): (MacAddr, &crate::provisioning::rollout::Phone)| RolloutPhone {
            mac: mac.to_string(),
            make: phone.make.clone(),
            wave: phone.wave,
            step: phone.step.as_str().to_owned(),
            since: phone.since.to_string(),
            reason: rollout.hindrance(now, phone),
        };
        Self {
            stage: stage.to_owned(),
            reason: reason.cloned(),
            began: rollout.began.to_string(),
            wave: rollout.wave,
            may_tell: quiet,
            steps: counts(&rollout).into_iter().map(|(step, phones)| RolloutStep { step: step.to_owned(), phones }).collect(),
            phones: rollout.phones().map(phone).collect(),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::None => Self::not_found("no rollout", detail),
            Error::Store(error) => error.into(),
            Error::Onboarding(error) => error.into(),
            Error::Stopped => Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping", detail),
            Error::Group { .. } => Self::new(StatusCode::SERVICE_UNAVAILABLE, "the directory does not answer", detail),
            Error::Faults(_) => Self::new(StatusCode::CONFLICT, "the templates on disk have faults", detail),
            Error::UnderWay | Error::NotNow(_) | Error::NothingChanges | Error::NobodyFirst => {
                Self::new(StatusCode::CONFLICT, "not now", detail)
            }
        }
    }
}

/// Brings the templates on disk to the phones whose files they change: first to some; when those are up with them to more, and so on.
/// When too many fail, all get the old files back.
#[utoipa::path(post, path = "/rollout", tag = "devices", request_body = RolloutRequest,
    responses((status = 200, body = Rollout), (status = 400, body = Problem), (status = 409, body = Problem)))]
pub async fn start(State(context): State<Context>, Json(request): Json<RolloutRequest>) -> Result<Json<Rollout>, Problem> {
    let bad = |error: &dyn std::fmt::Display| Problem::bad_request(error.to_string());
    let RolloutRequest { canary, family, model, site, group, phones } = request;
    let canary =
        canary.map(|text| text.parse()).transpose().map_err(|error: crate::provisioning::rollout::ParseCanaryError| bad(&error))?;
    let phones: Result<_, crate::model::ParseMacError> = phones.iter().map(|mac| mac.parse()).collect();
    let wanted = Wanted { canary, family, model, site, group, phones: phones.map_err(|error| bad(&error))? };
    Ok(Json(context.rollouts.begin(wanted).await?.into()))
}

/// How far it is: the one under way, or the last.
#[utoipa::path(get, path = "/rollout", tag = "devices", responses((status = 200, body = Rollout), (status = 404, body = Problem)))]
pub async fn show(State(context): State<Context>) -> Result<Json<Rollout>, Problem> {
    Ok(Json(context.rollouts.show().await?.into()))
}

/// No more phones are told until it is resumed.
#[utoipa::path(post, path = "/rollout/pause", tag = "devices",
    responses((status = 200, body = Rollout), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn pause(State(context): State<Context>) -> Result<Json<Rollout>, Problem> {
    Ok(Json(context.rollouts.pause().await?.into()))
}

/// It goes on.
#[utoipa::path(post, path = "/rollout/resume", tag = "devices",
    responses((status = 200, body = Rollout), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn resume(State(context): State<Context>) -> Result<Json<Rollout>, Problem> {
    Ok(Json(context.rollouts.resume().await?.into()))
}

/// All phones that have the new files get the old ones back.
#[utoipa::path(post, path = "/rollout/abort", tag = "devices",
    responses((status = 200, body = Rollout), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn abort(State(context): State<Context>) -> Result<Json<Rollout>, Problem> {
    Ok(Json(context.rollouts.abort().await?.into()))
}
