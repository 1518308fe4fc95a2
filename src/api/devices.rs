//! `/devices`, `/bindings`, `/users`: what is on the wall, whose it is, and who there is.

use std::{collections::HashMap, net::IpAddr};

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Context, problem::Problem};
use crate::{
    model::{BindingRecord, DeviceRecord, LineNumber, MacAddr, Recorded, Timestamp, User},
    provisioning::{inventory::Searched, onboarding::Sighting},
};

/// The line that is meant where none is named: nearly every phone has no other.
fn first_line() -> LineNumber {
    1
}

/// A device as it stands now.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Device {
    #[schema(example = "00:15:65:aa:bb:cc")]
    pub mac: String,
    pub family: Option<String>,
    pub model: Option<String>,
    pub firmware: Option<String>,
    /// `unknown`, `provisional`, `authenticating`, `bound`, `reloading` or `in_service`.
    pub state: String,
    pub generation: u32,
    /// Absent: it was written down before it was plugged in.
    #[schema(example = "2026-11-21T08:30:00.000Z")]
    pub first_seen: Option<String>,
    pub last_seen: Option<String>,
    pub address: Option<String>,
    /// Where somebody said that it is.
    pub location: Option<String>,
    /// The switch port that it is plugged into, by DHCP's option 82: its place where nobody said another.
    #[schema(example = "floor2/Gi1/0/7")]
    pub port: Option<String>,
    /// By its address, of those in `overrides.yaml`.
    pub site: Option<String>,
    /// What an admin has written of it.
    #[schema(example = "reception")]
    pub label: Option<String>,
    /// Of `overrides.yaml`: the device's own, whoever owns it.
    pub group: Option<String>,
    pub notes: Option<String>,
    /// Phones whose settings it has, as it came in their place.
    pub stands_for: Vec<String>,
    /// Whose it is; absent while it is nobody's.
    pub binding: Option<Binding>,
    /// Whose the lines behind the first are: ports of an adapter, handsets of a base.
    pub further_lines: Vec<Binding>,
}

/// Whose line it is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Binding {
    #[schema(example = "00:15:65:aa:bb:cc")]
    pub mac: String,
    pub line: u8,
    #[schema(example = "2041")]
    pub extension: String,
    pub user_id: String,
    pub display_name: String,
    pub generation: u32,
    pub since: String,
}

/// A device with what happened to it, oldest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeviceDetail {
    #[serde(flatten)]
    pub device: Device,
    /// Events as in `/events`: `seq`, `at` (milliseconds since 1970), `type` and its fields.
    #[schema(value_type = Vec<Object>)]
    pub timeline: Vec<Recorded>,
}

/// Somebody in the directory.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Person {
    pub id: String,
    pub login: String,
    pub display_name: String,
    pub mail: Option<String>,
    pub extension: Option<String>,
    pub groups: Vec<String>,
}

/// Who is to own the device.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BindRequest {
    /// As the user would key it in: employee number or extension.
    #[schema(example = "1001")]
    pub login: String,
    /// Which line of the device, from 1.
    #[serde(default = "first_line")]
    pub line: LineNumber,
}

#[derive(Debug, Deserialize, IntoParams)]
pub struct Which {
    /// Which line of the device, from 1; the first if absent.
    #[serde(default = "first_line")]
    pub line: LineNumber,
}

#[derive(Debug, Deserialize, IntoParams)]
pub struct Limit {
    /// At most so many, 1 to 10000.
    #[serde(default = "usual_limit")]
    pub limit: usize,
}

fn usual_limit() -> usize {
    1000
}

impl Limit {
    fn checked(&self) -> usize {
        self.limit.clamp(1, 10_000)
    }
}

impl From<BindingRecord> for Binding {
    fn from(record: BindingRecord) -> Self {
        Self {
            mac: record.mac.to_string(),
            line: record.line,
            extension: record.extension.to_string(),
            user_id: record.user_id,
            display_name: record.display_name,
            generation: record.generation,
            since: record.since.to_string(),
        }
    }
}

impl From<User> for Person {
    fn from(user: User) -> Self {
        let extension = user.extension.map(|extension| extension.to_string());
        Self { id: user.id, login: user.login, display_name: user.display_name, mail: user.mail, extension, groups: user.groups }
    }
}

/// `lines`: whose they are, in any order.
fn device(record: DeviceRecord, site: Option<&str>, mut lines: Vec<BindingRecord>) -> Device {
    lines.sort_unstable_by_key(|binding| binding.line);
    let (first, further): (Vec<_>, Vec<_>) = lines.into_iter().map(Binding::from).partition(|binding| binding.line == first_line());
    let state = serde_json::to_value(record.state).ok().and_then(|state| state.as_str().map(str::to_owned)).unwrap_or_default();
    Device {
        mac: record.mac.to_string(),
        family: record.family,
        model: record.model,
        firmware: record.firmware,
        state,
        generation: record.generation,
        first_seen: seen(record.first_seen),
        last_seen: seen(record.last_seen),
        address: record.address.map(|address| address.to_string()),
        location: record.location,
        port: record.port,
        site: site.map(str::to_owned),
        label: record.inventory.label,
        group: record.inventory.group,
        notes: record.inventory.notes,
        stands_for: record.inventory.stands_for.iter().map(MacAddr::to_string).collect(),
        binding: first.into_iter().next(),
        further_lines: further,
    }
}

fn seen(at: Timestamp) -> Option<String> {
    (at != DeviceRecord::NEVER).then(|| at.to_string())
}

/// Which devices are wanted.
#[derive(Debug, Deserialize, IntoParams)]
pub struct Wanted {
    /// At most so many, 1 to 10000.
    #[serde(default = "usual_limit")]
    pub limit: usize,
    /// Only those in which every word is found: a MAC or part of one, make, model, label, place, group, site, address, owner.
    #[serde(default)]
    pub q: String,
}

/// All devices ever seen or written down.
#[utoipa::path(get, path = "/devices", tag = "devices", params(Wanted), responses((status = 200, body = Vec<Device>), (status = 401, body = Problem)))]
pub async fn list(State(context): State<Context>, Query(wanted): Query<Wanted>) -> Result<Json<Vec<Device>>, Problem> {
    let mut bindings: HashMap<_, Vec<_>> = HashMap::new();
    for binding in context.store.bindings().await? {
        bindings.entry(binding.mac).or_default().push(binding);
    }
    let set = context.templates.current();
    // As they are now: the store's copy is a moment behind.
    let mut devices = context.owners.devices().await?;
    devices.sort_unstable_by_key(|record| record.mac);
    let found = devices.into_iter().filter_map(|record| {
        let (owned, site) = (bindings.remove(&record.mac).unwrap_or_default(), set.site(record.address.map(IpAddr::V4)));
        let searched = Searched { device: &record, bindings: &owned, site };
        searched.matches(&wanted.q).then(|| device(record, site, owned))
    });
    Ok(Json(found.take(Limit { limit: wanted.limit }.checked()).collect()))
}

/// One device with its timeline, the newest 500 events.
#[utoipa::path(get, path = "/devices/{mac}", tag = "devices", params(("mac" = String, Path, description = "In any spelling")),
    responses((status = 200, body = DeviceDetail), (status = 404, body = Problem)))]
pub async fn show(State(context): State<Context>, Path(mac): Path<String>) -> Result<Json<DeviceDetail>, Problem> {
    let mac = mac_of(&mac)?;
    let record = context.owners.device(mac).await?.ok_or_else(|| unknown(mac))?;
    let lines = context.store.bindings().await?.into_iter().filter(|binding| binding.mac == mac).collect();
    let timeline = context.store.timeline(mac, 500).await?;
    let set = context.templates.current();
    let site = set.site(record.address.map(IpAddr::V4));
    Ok(Json(DeviceDetail { device: device(record, site, lines), timeline }))
}

/// All bindings.
#[utoipa::path(get, path = "/bindings", tag = "devices", responses((status = 200, body = Vec<Binding>)))]
pub async fn bindings(State(context): State<Context>) -> Result<Json<Vec<Binding>>, Problem> {
    Ok(Json(context.store.bindings().await?.into_iter().map(Binding::from).collect()))
}

/// Gives the device, or a line of it, to a user, as the IVR would; the phone reloads by itself.
#[utoipa::path(put, path = "/devices/{mac}/binding", tag = "devices", request_body = BindRequest,
    params(("mac" = String, Path, description = "In any spelling")),
    responses((status = 200, body = Binding), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn bind(
    State(context): State<Context>,
    Path(mac): Path<String>,
    Json(request): Json<BindRequest>,
) -> Result<Json<Binding>, Problem> {
    let mac = mac_of(&mac)?;
    let nobody = || Problem::not_found("no such user", format!("nobody in the directory has the login '{}'", request.login));
    let user = context.directory.find(&request.login).await?.ok_or_else(nobody)?;
    if context.owners.device(mac).await?.is_none() {
        return Err(unknown(mac));
    }
    Ok(Json(context.owners.bind(mac, request.line, user, "the API").await?.into()))
}

/// Takes the device, or a line of it, from its user; the phone reloads, and without its first owner it is provisional again.
#[utoipa::path(delete, path = "/devices/{mac}/binding", tag = "devices",
    params(("mac" = String, Path, description = "In any spelling"), Which),
    responses((status = 204), (status = 404, body = Problem)))]
pub async fn unbind(State(context): State<Context>, Path(mac): Path<String>, Query(which): Query<Which>) -> Result<StatusCode, Problem> {
    let mac = mac_of(&mac)?;
    context.owners.unbind(mac, which.line, "the API").await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The directory's users.
#[utoipa::path(get, path = "/users", tag = "users", params(Limit), responses((status = 200, body = Vec<Person>), (status = 502, body = Problem)))]
pub async fn users(State(context): State<Context>, Query(limit): Query<Limit>) -> Result<Json<Vec<Person>>, Problem> {
    Ok(Json(context.directory.list(limit.checked()).await?.into_iter().map(Person::from).collect()))
}

pub(super) fn mac_of(text: &str) -> Result<MacAddr, Problem> {
    text.parse().map_err(|error: crate::model::ParseMacError| Problem::bad_request(error.to_string()))
}

fn unknown(mac: MacAddr) -> Problem {
    Problem::not_found("no such device", format!("{mac} was never seen: plug it in, or look for it in GET /api/v1/devices"))
}

/// For how long a phone is let in.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdmissionRequest {
    /// 1 to 1440.
    #[schema(example = 30)]
    pub minutes: u32,
}

/// A phone that is let in.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Admission {
    #[schema(example = "00:15:65:aa:bb:cc")]
    pub mac: String,
    /// RFC 3339.
    pub until: String,
}

/// Lets a phone without a lease of ours have its files for a while: the first address that asks for them, whatever the key in its URL.
#[utoipa::path(put, path = "/devices/{mac}/admission", tag = "devices", request_body = AdmissionRequest,
    params(("mac" = String, Path, description = "In any spelling; it need not have been seen")),
    responses((status = 200, body = Admission), (status = 400, body = Problem)))]
pub async fn admit(
    State(context): State<Context>,
    Path(mac): Path<String>,
    Json(request): Json<AdmissionRequest>,
) -> Result<Json<Admission>, Problem> {
    let mac = mac_of(&mac)?;
    if !(1..=1440).contains(&request.minutes) {
        return Err(Problem::bad_request("`minutes` is a number from 1 to 1440"));
    }
    Ok(Json(Admission { mac: mac.to_string(), until: context.files.admit(mac, request.minutes).to_string() }))
}

/// Where a device is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// 1 to 128 characters; `emergency.locations` of the routes matches it.
    #[schema(example = "floor2-port7")]
    pub location: String,
}

/// Says where a device is, for calls for help.
#[utoipa::path(put, path = "/devices/{mac}/location", tag = "devices", params(("mac" = String, Path)), request_body = Place,
    responses((status = 200, body = Place), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub async fn locate(State(context): State<Context>, Path(mac): Path<String>, Json(place): Json<Place>) -> Result<Json<Place>, Problem> {
    let mac = mac_of(&mac)?;
    if place.location.trim().is_empty() || place.location.chars().count() > 128 || place.location.chars().any(char::is_control) {
        return Err(Problem::bad_request("`location`: 1 to 128 characters"));
    }
    if context.owners.device(mac).await?.is_none() {
        return Err(Problem::not_found("no such device", format!("{mac} was never seen: GET /devices lists those that were")));
    }
    context.owners.seen(Sighting { location: Some(place.location.clone()), ..Sighting::of(mac) });
    Ok(Json(place))
}
