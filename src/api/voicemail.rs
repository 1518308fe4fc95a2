//! `/voicemail/{mailbox}`: messages that were left for somebody: list, hear, mark as heard, delete.

use axum::{
    Json,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Context, problem::Problem};
use crate::{
    store::VoiceMessage,
    voicemail::{Voicemail, worker},
};

/// A message that somebody has left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Message {
    pub id: String,
    /// The extension that it was left for.
    #[schema(example = "2041")]
    pub mailbox: String,
    pub from: String,
    /// Empty if it is not known.
    pub from_name: String,
    /// The call in which it was left.
    pub call: String,
    pub left: String,
    pub secs: f64,
    /// When it was first heard; absent: it is new.
    pub heard: Option<String>,
}

impl From<VoiceMessage> for Message {
    fn from(message: VoiceMessage) -> Self {
        Self {
            id: message.id,
            mailbox: message.mailbox,
            from: message.from,
            from_name: message.from_name,
            call: message.call,
            left: message.left.to_string(),
            secs: message.length_ms as f64 / 1000.0,
            heard: message.heard.map(|heard| heard.to_string()),
        }
    }
}

impl From<worker::Error> for Problem {
    fn from(error: worker::Error) -> Self {
        match error {
            worker::Error::Store(error) => Self::from(error),
            error => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the recording cannot be read", error.to_string()),
        }
    }
}

fn voicemail(context: &Context) -> Result<&Voicemail, Problem> {
    context.voicemail.as_ref().ok_or_else(|| Problem::not_found("no voicemail", "`voicemail.enabled` is false"))
}

fn missing() -> Problem {
    Problem::not_found("no such message", "it was deleted, or never was; GET /voicemail/{mailbox} lists what there is")
}

/// The messages in a mailbox in the order in which its owner hears them: new ones first.
#[utoipa::path(get, path = "/voicemail/{mailbox}", tag = "voicemail", params(("mailbox" = String, Path)),
    responses((status = 200, body = Vec<Message>), (status = 404, body = Problem)))]
pub async fn list(State(context): State<Context>, Path(mailbox): Path<String>) -> Result<Json<Vec<Message>>, Problem> {
    let messages = voicemail(&context)?.messages(&mailbox).await?;
    Ok(Json(messages.into_iter().map(Message::from).collect()))
}

/// A message as a WAV file. Its state stays as it is.
#[utoipa::path(get, path = "/voicemail/{mailbox}/{id}/audio", tag = "voicemail",
    params(("mailbox" = String, Path), ("id" = String, Path)),
    responses((status = 200, content_type = "audio/wav", body = Vec<u8>), (status = 404, body = Problem)))]
pub async fn audio(State(context): State<Context>, Path((mailbox, id)): Path<(String, String)>) -> Result<Response, Problem> {
    let wav = voicemail(&context)?.audio(&mailbox, &id).await?.ok_or_else(missing)?;
    Ok(([(header::CONTENT_TYPE, "audio/wav")], wav).into_response())
}

/// Marks a message as heard: the lamps of its owner's phones show so.
#[utoipa::path(post, path = "/voicemail/{mailbox}/{id}/heard", tag = "voicemail",
    params(("mailbox" = String, Path), ("id" = String, Path)), responses((status = 204), (status = 404, body = Problem)))]
pub async fn heard(State(context): State<Context>, Path((mailbox, id)): Path<(String, String)>) -> Result<StatusCode, Problem> {
    match voicemail(&context)?.mark_heard(&mailbox, &id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(missing()),
    }
}

/// Deletes a message.
#[utoipa::path(delete, path = "/voicemail/{mailbox}/{id}", tag = "voicemail",
    params(("mailbox" = String, Path), ("id" = String, Path)), responses((status = 204), (status = 404, body = Problem)))]
pub async fn delete(State(context): State<Context>, Path((mailbox, id)): Path<(String, String)>) -> Result<StatusCode, Problem> {
    match voicemail(&context)?.delete(&mailbox, &id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(missing()),
    }
}
