//! What an authority that is asked for a certificate looks for at our door (RFC 8555 §8.3, HTTP-01): for whoever asks, and nothing else.

use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use crate::tls::acme::Challenges;

/// Goes before the phones' files, whose rules of who may have what do not count here.
pub fn router(challenges: Challenges) -> Router {
    Router::new().route("/.well-known/acme-challenge/{token}", get(answer)).with_state(challenges)
}

async fn answer(State(challenges): State<Challenges>, Path(token): Path<String>) -> Response {
    match challenges.answer(&token) {
        Some(text) => ([(header::CONTENT_TYPE, "application/octet-stream")], text).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
