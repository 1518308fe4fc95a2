//! `/links`: soft phones for people, by a link that works once.

use std::time::SystemTime;

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Context, problem::Problem};
use crate::{
    model::{MacAddr, Timestamp},
    provisioning::links::Link,
    yaml::Fault,
};

/// Longest life of a link, hours: a month.
const HOURS_MAX: u32 = 744;

/// Who is to have a soft phone.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkRequest {
    /// As the user would key it in: employee number or extension.
    #[schema(example = "1001")]
    pub login: String,
    /// The app, as its family of templates is called.
    #[serde(default = "usual_app")]
    #[schema(example = "linphone")]
    pub app: String,
    /// How long the link waits to be used, 1 to 744.
    #[serde(default = "usual_hours")]
    pub hours: u32,
}

fn usual_app() -> String {
    "linphone".to_owned()
}

fn usual_hours() -> u32 {
    24
}

/// A link that gives somebody a soft phone.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SoftPhoneLink {
    /// To be given to the app, as text or as a picture to scan: a URL, or what this app wants instead. Whoever has it has the account.
    pub url: String,
    /// The device that it becomes when it is used.
    #[schema(example = "02:a1:b2:c3:d4:e5")]
    pub mac: String,
    pub display_name: String,
    /// RFC 3339.
    pub until: String,
}

/// Makes a link by which somebody's soft phone gets its account, once. Only with its use the device is theirs, and counts among their
/// devices.
#[utoipa::path(post, path = "/links", tag = "devices", request_body = LinkRequest,
    responses((status = 201, body = SoftPhoneLink), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub async fn make(State(context): State<Context>, Json(request): Json<LinkRequest>) -> Result<(StatusCode, Json<SoftPhoneLink>), Problem> {
    if !(1..=HOURS_MAX).contains(&request.hours) {
        return Err(Problem::bad_request(format!("`hours` is a number from 1 to {HOURS_MAX}")));
    }
    let set = context.templates.current();
    if set.family(&request.app).is_none() {
        let known = set.families().map(|family| family.id.as_str()).collect::<Vec<_>>().join(", ");
        return Err(Problem::bad_request(format!("there are no templates for '{}'; there are {known}", request.app)));
    }
    let nobody = || Problem::not_found("no such user", format!("nobody in the directory has the login '{}'", request.login));
    let user = context.directory.find(&request.login).await?.ok_or_else(nobody)?;
    let mac = chosen().map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no random numbers", error.to_string()))?;
    let until = Timestamp::of(SystemTime::now()).plus_secs(i64::from(request.hours) * 3600);
    let link = Link { mac, family: request.app, login: request.login, until };
    let missing = || {
        Problem::bad_request(format!("the app needs a setting that is not made yet: the top of templates/{}.yaml names it", link.family))
    };
    let failed = |fault: Fault| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the link cannot be made", fault.to_string());
    let made = SoftPhoneLink {
        url: context.files.link(&link).map_err(failed)?.ok_or_else(missing)?,
        mac: mac.to_string(),
        display_name: user.display_name,
        until: until.to_string(),
    };
    Ok((StatusCode::CREATED, Json(made)))
}

/// A MAC that no maker owns: locally administered. Of 2⁴⁰, so that two are never the same.
fn chosen() -> Result<MacAddr, getrandom::Error> {
    let mut mac = [2; 6];
    getrandom::fill(&mut mac[1..])?;
    Ok(MacAddr(mac))
}
