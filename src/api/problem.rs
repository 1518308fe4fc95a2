//! Errors as RFC 9457 problem details: what happened and what to do, for the developer who called.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    directory,
    provisioning::{
        inventory::{swap, worker as inventory},
        onboarding,
    },
    store,
};

pub const CONTENT_TYPE: &str = "application/problem+json";

/// An error for programs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The HTTP status again.
    #[schema(example = 404)]
    pub status: u16,
    /// The kind of problem, in few words.
    #[schema(example = "no such device")]
    pub title: String,
    /// What happened to this request, and what to do.
    pub detail: String,
}

impl Problem {
    pub fn new(status: StatusCode, title: &str, detail: impl Into<String>) -> Self {
        Self { status: status.as_u16(), title: title.to_owned(), detail: detail.into() }
    }

    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad request", detail)
    }

    pub fn not_found(title: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, title, detail)
    }

    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        response
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        let status = match error {
            store::Error::ExtensionTaken { .. } | store::Error::NoExtensionFree { .. } => StatusCode::CONFLICT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, "the store refused", error.to_string())
    }
}

impl From<directory::Denied> for Problem {
    fn from(denied: directory::Denied) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "the directory did not answer", denied.to_string())
    }
}

impl From<onboarding::Error> for Problem {
    fn from(error: onboarding::Error) -> Self {
        let (status, title) = match &error {
            onboarding::Error::Store(error) => return error.clone().into(),
            onboarding::Error::NotBound { .. } => (StatusCode::NOT_FOUND, "not bound"),
            onboarding::Error::Swap(swap::Refusal::OldUnknown(_)) => (StatusCode::NOT_FOUND, "no such device"),
            onboarding::Error::Swap(_) => (StatusCode::CONFLICT, "no swap"),
            onboarding::Error::NoSuchLine | onboarding::Error::Unseen(_) => (StatusCode::NOT_FOUND, "no such device or line"),
            onboarding::Error::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        };
        Self::new(status, title, error.to_string())
    }
}

impl From<inventory::Error> for Problem {
    fn from(error: inventory::Error) -> Self {
        match error {
            inventory::Error::Sheet(fault) => Self::bad_request(fault.to_string()),
            inventory::Error::Directory(denied) => denied.into(),
            inventory::Error::Onboarding(error) => error.into(),
        }
    }
}
