//! `/firmware`: the makers' files, which phones shall run what, and what they run.

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
    http::StatusCode,
};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Context, problem::Problem};
use crate::{
    provisioning::{files::Standing, firmware::Error},
    template::firmware::{Image, Pin},
};

/// All of it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Firmware {
    pub files: Vec<FirmwareFile>,
    /// As they are on disk; `POST /reload` or a rollout brings them to the phones.
    pub pins: Vec<FirmwarePin>,
    pub phones: Vec<FirmwarePhone>,
}

/// A maker's file.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FirmwareFile {
    #[schema(example = "yealink")]
    pub make: String,
    #[schema(example = "108.86.0.90")]
    pub version: String,
    #[schema(example = "T46U-108.86.0.90.rom")]
    pub name: String,
    /// Empty: all models of the make.
    pub models: Vec<String>,
    pub sha256: String,
    pub bytes: u64,
    pub added: String,
    /// `false`: it is on disk otherwise than it was added, and is served to nobody.
    pub sound: bool,
}

/// These phones shall run this version.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FirmwarePin {
    #[schema(example = "yealink")]
    pub make: String,
    /// `*` stands for anything.
    #[schema(example = "T46*")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// A MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    pub version: String,
}

/// Which phones shall run what from now on.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FirmwarePinRequest {
    pub make: String,
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default)]
    pub group: Option<String>,
    #[serde(default)]
    pub device: Option<String>,
    /// Absent: the pin is taken away.
    #[serde(default)]
    pub version: Option<String>,
    /// Only say what would change.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a pin changes once it is live.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FirmwarePinned {
    /// `false` in a dry run.
    pub applied: bool,
    /// Those that would be told of another version than now, or of none.
    pub phones: Vec<FirmwarePhone>,
}

/// What a phone runs, and what it shall run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FirmwarePhone {
    pub mac: String,
    pub family: Option<String>,
    pub model: Option<String>,
    /// As it says itself; absent: it did not say.
    pub runs: Option<String>,
    /// Absent: nothing is pinned for it.
    pub pinned: Option<String>,
    /// It runs another, and there is a file for its model: it is told when the pin is live.
    pub due: bool,
}

#[derive(Debug, Deserialize, IntoParams)]
pub struct Adding {
    /// Models, with commas between them; `*` stands for anything. Without it: all models of the make.
    #[serde(default)]
    models: String,
    /// The SHA-256 that the file must have.
    #[serde(default)]
    sha256: Option<String>,
}

impl From<&Image> for FirmwareFile {
    fn from(image: &Image) -> Self {
        let Image { make, version, name, models, sha256, bytes, added } = image.clone();
        Self { make, version, name, models, sha256, bytes, added, sound: true }
    }
}

impl From<&Pin> for FirmwarePin {
    fn from(pin: &Pin) -> Self {
        let Pin { make, model, group, device, version } = pin.clone();
        Self { make, model, group, device, version }
    }
}

impl From<Standing> for FirmwarePhone {
    fn from(standing: Standing) -> Self {
        let Standing { mac, family, model, runs, pinned, due, .. } = standing;
        Self { mac: mac.to_string(), family, model, runs, pinned, due: due.is_some() }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::Name(_) | Error::Device(_) | Error::TooNarrow | Error::Damaged { .. } => Self::bad_request(detail),
            Error::NoFile(_) | Error::NotPinned(_) | Error::NoVersion { .. } => Self::not_found("no such firmware", detail),
            Error::Another { .. } | Error::Pinned { .. } | Error::Live { .. } => Self::new(StatusCode::CONFLICT, "not now", detail),
            Error::Disk { .. } => Self::new(StatusCode::INSUFFICIENT_STORAGE, "the disk refuses", detail),
        }
    }
}

/// What there is, who shall run what, and what each phone runs.
#[utoipa::path(get, path = "/firmware", tag = "devices", responses((status = 200, body = Firmware)))]
pub async fn show(State(context): State<Context>) -> Result<Json<Firmware>, Problem> {
    let verdicts = context.firmware.verdicts().await;
    let files = verdicts.iter().map(|(image, sound)| FirmwareFile { sound: *sound, ..image.into() }).collect();
    let known = context.firmware.known();
    let set = context.templates.with_firmware(known.text()).map_err(faulty)?;
    let phones = context.files.firmware_of(&set, &context.owners.devices().await?).await;
    Ok(Json(Firmware { files, pins: known.pins.iter().map(Into::into).collect(), phones: phones.into_iter().map(Into::into).collect() }))
}

/// Adds a file: the body, whatever its size. It is there when the answer is.
#[utoipa::path(put, path = "/firmware/{make}/{version}/{name}", tag = "devices", params(Adding, ("make" = String, Path), ("version" = String, Path), ("name" = String, Path)),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = FirmwareFile, description = "It was there already"), (status = 201, body = FirmwareFile), (status = 400, body = Problem), (status = 409, body = Problem)))]
pub async fn add(
    State(context): State<Context>,
    Path((make, version, name)): Path<(String, String, String)>,
    Query(Adding { models, sha256 }): Query<Adding>,
    body: Body,
) -> Result<(StatusCode, Json<FirmwareFile>), Problem> {
    let models = models.split(',').map(str::trim).filter(|model| !model.is_empty()).map(str::to_owned).collect();
    let image = Image { make, version, name, models, sha256: String::new(), bytes: 0, added: String::new() };
    let mut incoming = match context.templates.current().family(&image.make) {
        Some(_) => context.firmware.begin(image).map_err(Problem::from),
        None => Err(Problem::bad_request(format!("there is no family '{}' of templates", image.make))),
    };
    // To its end also where it is not wanted: who is still sending does not hear.
    let mut body = body;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Problem::bad_request(format!("the file broke off: {error}")))?;
        let Ok(bytes) = frame.into_data() else { continue };
        if let Ok(mut open) = incoming {
            let written = tokio::task::spawn_blocking(move || open.write(&bytes).map(|()| open)).await;
            incoming = written.map_err(|error| Problem::bad_request(error.to_string()))?.map_err(Problem::from);
        }
    }
    let (image, new) = context.firmware.finish(incoming?, sha256).await?;
    Ok((if new { StatusCode::CREATED } else { StatusCode::OK }, Json((&image).into())))
}

/// Takes a file away, unless it is pinned.
#[utoipa::path(delete, path = "/firmware/{make}/{version}/{name}", tag = "devices", params(("make" = String, Path), ("version" = String, Path), ("name" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn remove(
    State(context): State<Context>,
    Path((make, version, name)): Path<(String, String, String)>,
) -> Result<StatusCode, Problem> {
    let live = context.templates.live().iter().map(|set| set.firmware().clone()).collect::<Vec<_>>();
    context.firmware.remove(&Image { make, version, name, ..Image::default() }.path(), &live).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Pins a version for a make, a model, a group or a device, or takes the pin away. No phone is told by it: `POST /reload` makes it live
/// for all, `POST /rollout` for some first.
#[utoipa::path(post, path = "/firmware/pins", tag = "devices", request_body = FirmwarePinRequest,
    responses((status = 200, body = FirmwarePinned), (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn pin(State(context): State<Context>, Json(request): Json<FirmwarePinRequest>) -> Result<Json<FirmwarePinned>, Problem> {
    let FirmwarePinRequest { make, model, group, device, version, dry_run } = request;
    match context.templates.current().family(&make) {
        None => return Err(Problem::bad_request(format!("there is no family '{make}' of templates"))),
        Some(family) if !family.capabilities.firmware => {
            return Err(Problem::bad_request(format!("no setting is known by which a phone of {make} is told its firmware")));
        }
        Some(_) => {}
    }
    let unpin = version.is_none();
    let pin = Pin { make, model, group, device, version: version.unwrap_or_default() };
    let set = context.templates.with_firmware(context.firmware.would_pin(&pin, unpin)?.text()).map_err(faulty)?;
    let devices = context.owners.devices().await?;
    let now = context.files.firmware_of(&context.templates.current(), &devices).await;
    let then = context.files.firmware_of(&set, &devices).await;
    let changed = now.into_iter().zip(then).filter(|(now, then)| now.due != then.due).map(|(_, then)| then.into());
    let phones = changed.collect();
    if !dry_run {
        context.firmware.pin(pin, unpin).await?;
    }
    Ok(Json(FirmwarePinned { applied: !dry_run, phones }))
}

fn faulty(faults: crate::template::Faults) -> Problem {
    Problem::new(StatusCode::CONFLICT, "the templates on disk have faults", faults.to_string())
}
