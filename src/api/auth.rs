//! Bearer tokens: made by `plugtone token create`, shown once, kept as SHA-256, compared by hash.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use std::time::SystemTime;

use super::{Context, problem::Problem};
use crate::{
    model::{Secret, Timestamp},
    store,
};

/// Bytes of chance in a token: nobody guesses 2^192.
const TOKEN_BYTES: usize = 24;

/// A new token, to be shown once, and the hash to keep.
pub fn new_token() -> Result<(Secret, [u8; 32]), getrandom::Error> {
    let mut bytes = [0u8; TOKEN_BYTES];
    getrandom::fill(&mut bytes)?;
    let token = Secret::new(format!("ptk_{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)));
    let hash = hash_of(token.expose());
    Ok((token, hash))
}

/// What is kept of a token. A fast hash is enough: a token is chance, not a password.
pub fn hash_of(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Lets a request pass whose token is known.
pub async fn require_token(State(context): State<Context>, request: Request, next: Next) -> Response {
    match check(&context, request.headers()).await {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Why a request may not pass.
pub enum Refusal {
    Token(&'static str),
    Store(store::Error),
}

/// Looks for `Authorization: Bearer` with a token that is known and has not expired.
pub async fn check(context: &Context, headers: &HeaderMap) -> Result<(), Refusal> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| hash_of(token.trim()));
    let Some(hash) = bearer else {
        return Err(Refusal::Token("send `Authorization: Bearer <token>`; make a token with `plugtone token create`"));
    };
    // Hashes of chance may be compared in ordinary time: nobody can steer one towards another.
    if hash == context.local_token {
        return Ok(());
    }
    let now = Timestamp::of(SystemTime::now());
    let tokens = context.store.tokens().await.map_err(Refusal::Store)?;
    if tokens.iter().any(|known| known.hash == hash && known.expires.is_none_or(|expires| expires > now)) {
        return Ok(());
    }
    metrics::counter!("plugtone_api_refused_total").increment(1);
    Err(Refusal::Token("this token is not known, was revoked, or has expired"))
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let detail = match self {
            Self::Store(error) => return Problem::from(error).into_response(),
            Self::Token(detail) => detail,
        };
        let mut response = Problem::new(StatusCode::UNAUTHORIZED, "a valid token is needed", detail).into_response();
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"plugtone\""));
        response
    }
}
