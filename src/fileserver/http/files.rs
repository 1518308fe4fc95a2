//! GET, HEAD and PUT of the pipeline's files; everything that is not there is a quick 404.
//!
//! Conditional GET by ETag (RFC 9110 §13), one range (§14). Not here: multipart uploads, listings, `Last-Modified`
//! (files are rendered: their time means nothing, their hash does).

use std::{io, ops::Range, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, HttpBody},
    extract::{Extension, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::BodyExt;

use super::{
    Peer,
    range::{Wanted, wanted},
};
use crate::{
    fileserver::{ask, climbs},
    model::{MacAddr, event::Door},
    provisioning::{self, FileAnswer, FileRequest, FileService, ServedFile, Transfer, firmware::Stored},
};

const ALLOW: &str = "GET, HEAD, PUT";
/// Words behind the `?` that are looked at, and bytes of each.
const WORDS: usize = 32;
const WORD_BYTES: usize = 128;
/// When it is worth asking again for a file that a template keeps from being made.
const AGAIN_SECS: &str = "60";

#[derive(Clone)]
struct Files {
    service: Arc<dyn FileService>,
    stall: Duration,
}

/// Every path that no other route of the merged router takes. Needs [`Peer`] in the request, which `serve` puts there.
/// An upload that brings nothing for `stall` is cut off.
pub fn router(service: Arc<dyn FileService>, stall: Duration) -> Router {
    Router::new().fallback(answer).with_state(Files { service, stall })
}

async fn answer(State(files): State<Files>, Extension(peer): Extension<Peer>, request: Request) -> Response {
    let Some(path) = percent_decode(request.uri().path()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let asked = FileRequest {
        door: if peer.secure { Door::Https } else { Door::Http },
        path,
        query: decoded(request.uri().query().unwrap_or_default()),
        source: peer.remote.ip().to_canonical(),
        local: Some(peer.local),
        user_agent: request.headers().get(header::USER_AGENT).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
        held: held(request.headers()),
        certified: request.extensions().get().cloned(),
        head: request.method() == Method::HEAD,
    };
    let response = match *request.method() {
        Method::GET | Method::HEAD => download(&files.service, &asked, request.headers()).await,
        Method::PUT => upload(&files, asked, request).await,
        _ => (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, ALLOW)]).into_response(),
    };
    metrics::counter!("plugtone_http_responses_total", "status" => response.status().as_u16().to_string()).increment(1);
    response
}

/// Decodes `%41` once: what is still encoded then is part of the name. `None` for a cut `%`.
/// Phones put raw bytes where others put UTF-8: those become U+FFFD, and no file is called so.
/// `None`: what stands after a `%` is no number.
pub fn percent_decode(path: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            other => other,
        });
    }
    Some(String::from_utf8(decoded).unwrap_or_else(|fault| String::from_utf8_lossy(fault.as_bytes()).into_owned()))
}

/// What stands behind the `?`: as much of it as any phone says.
fn decoded(query: &str) -> provisioning::Query {
    let word = |text: &str| percent_decode(&text.replace('+', " ")).filter(|text| text.len() <= WORD_BYTES);
    let pairs = query.split('&').take(WORDS).filter_map(|pair| pair.split_once('='));
    pairs.filter_map(|(name, value)| Some((word(name)?, word(value)?))).collect()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

async fn download(service: &Arc<dyn FileService>, asked: &FileRequest, headers: &HeaderMap) -> Response {
    let file = match ask(service, asked.clone()).await {
        FileAnswer::Found(file) => file,
        FileAnswer::NotFound => return StatusCode::NOT_FOUND.into_response(),
        FileAnswer::Broken => return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, AGAIN_SECS)]).into_response(),
    };
    let etag = format!("\"{}\"", file.hash);
    if asked.holds(&file.hash) {
        return with_validators(Response::new(Body::empty()), StatusCode::NOT_MODIFIED, &etag);
    }
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    // `If-Range` with anything but this ETag: the client's first part is of another file (RFC 9110 §13.1.5).
    let range = text(header::RANGE).filter(|_| headers.get(header::IF_RANGE).is_none_or(|value| value.as_bytes() == etag.as_bytes()));
    let len = usize::try_from(file.body.len()).unwrap_or(usize::MAX);
    let body = |part: Range<usize>| match &file.body {
        provisioning::Body::Whole(bytes) => Body::from(bytes.slice(part)),
        provisioning::Body::Stored(stored) => {
            let carried =
                Carried { service: service.clone(), asked: asked.clone(), mac: file.mac, stored: stored.clone(), part, ended: false };
            carried.into_body()
        }
    };
    match wanted(range, len) {
        Wanted::Whole => with_body(StatusCode::OK, body(0..len), len, &file, &etag, None),
        Wanted::Part(part) => {
            let place = format!("bytes {}-{}/{len}", part.start, part.end - 1);
            with_body(StatusCode::PARTIAL_CONTENT, body(part.clone()), part.len(), &file, &etag, Some(place))
        }
        Wanted::Unsatisfiable => {
            let place = [(header::CONTENT_RANGE, format!("bytes */{len}"))];
            (StatusCode::RANGE_NOT_SATISFIABLE, place).into_response()
        }
    }
}

fn held(headers: &HeaderMap) -> Option<String> {
    let lists = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    Some(lists.collect::<Vec<_>>().join(", ")).filter(|held| !held.is_empty())
}

/// A file that is read from the disk as the client takes it.
struct Carried {
    service: Arc<dyn FileService>,
    asked: FileRequest,
    mac: Option<MacAddr>,
    stored: Arc<Stored>,
    /// What is left of it.
    part: Range<usize>,
    ended: bool,
}

impl Carried {
    fn into_body(self) -> Body {
        Body::from_stream(stream::unfold(self, async |mut carried| Some((carried.next().await?, carried))))
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.part.is_empty() || self.ended {
            return None;
        }
        let read = self.stored.read(self.part.start as u64).await;
        let read = read.and_then(|piece| if piece.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(piece) });
        let piece = match read {
            Ok(mut piece) => {
                piece.truncate(self.part.len());
                self.part.start += piece.len();
                Ok(piece)
            }
            Err(error) => {
                self.end(Transfer::Failed { reason: error.to_string() });
                return Some(Err(error));
            }
        };
        // The last byte is in the client's hands, or as good as.
        if self.part.is_empty() && self.part.end as u64 == self.stored.len() {
            self.end(Transfer::Delivered);
        }
        Some(piece)
    }

    fn end(&mut self, transfer: Transfer) {
        self.ended = true;
        self.service.ended(&self.asked, self.mac, transfer);
    }
}

/// `len`: of the body. It is set here so that HEAD has it too, whose body is taken away on the way out.
fn with_body(status: StatusCode, body: Body, len: usize, file: &ServedFile, etag: &str, place: Option<String>) -> Response {
    let mut response = with_validators(Response::new(body), status, etag);
    let headers = response.headers_mut();
    let content_type = HeaderValue::from_str(&file.content_type).unwrap_or(HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CONTENT_LENGTH, len.into());
    if let Some(place) = place.and_then(|place| HeaderValue::from_str(&place).ok()) {
        headers.insert(header::CONTENT_RANGE, place);
    }
    response
}

fn with_validators(mut response: Response, status: StatusCode, etag: &str) -> Response {
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(etag) {
        headers.insert(header::ETAG, etag);
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // A phone's file holds its secret: no proxy keeps it, and the phone asks whether it still holds.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    response
}

async fn upload(files: &Files, asked: FileRequest, request: Request) -> Response {
    let Some(limit) = files.service.upload_limit(&asked).await.filter(|_| !climbs(&asked.path)) else {
        // As a missing name: what may be uploaded is nobody's business.
        return StatusCode::NOT_FOUND.into_response();
    };
    // A part of a file is nothing that we could keep (RFC 9110 §14.5).
    if request.headers().contains_key(header::CONTENT_RANGE) {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let body = match collect(request.into_body(), limit, files.stall).await {
        Ok(body) => body,
        Err(status) => {
            if status != StatusCode::PAYLOAD_TOO_LARGE {
                let reason = "the upload stopped before its end".to_owned();
                files.service.ended(&asked, None, Transfer::Failed { reason });
            }
            // The rest of the body is on its way: this connection is of no further use.
            return (status, [(header::CONNECTION, "close")]).into_response();
        }
    };
    match files.service.store(asked, body).await {
        true => StatusCode::CREATED.into_response(),
        false => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn collect(mut body: Body, limit: usize, stall: Duration) -> Result<Bytes, StatusCode> {
    if body.size_hint().lower() > limit as u64 {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let mut collected = BytesMut::new();
    loop {
        let frame = tokio::time::timeout(stall, body.frame()).await.map_err(|_| StatusCode::REQUEST_TIMEOUT)?;
        let Some(frame) = frame else { return Ok(collected.freeze()) };
        let frame = frame.map_err(|_| StatusCode::BAD_REQUEST)?;
        let Ok(data) = frame.into_data() else { continue };
        if collected.len() + data.len() > limit {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        collected.extend_from_slice(&data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_once() {
        for (raw, decoded) in [
            ("/plain.cfg", Some("/plain.cfg")),
            ("/a%20b", Some("/a b")),
            ("/%2e%2E/x", Some("/../x")),
            ("/%252e%252e/x", Some("/%2e%2e/x")),
            ("/a%5cb", Some("/a\\b")),
            ("/%00", Some("/\0")),
            ("/%e4", Some("/\u{fffd}")),
            ("/%", None),
            ("/%2", None),
            ("/%zz", None),
        ] {
            assert_eq!(percent_decode(raw).as_deref(), decoded, "{raw}");
        }
    }
}
