//! SIP over WebSocket (RFC 7118): the handshake, and one message a frame. Framing itself is tungstenite's.
//!
//! A browser answers pings by itself, so we ask: one that is asleep or gone is noticed within two pauses. It is also what ends a
//! frame that trickles in for ever, as no pong fits into its middle. Not here: compression, which nobody needs for a few
//! hundred bytes.

use std::io;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config,
    tungstenite::{
        self, Message,
        handshake::server::{ErrorResponse, Request, Response},
        http::{HeaderValue, StatusCode},
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{
    Flow,
    tcp::{Connections, WRITE_TIME},
};
use crate::sip::message::MAX_LEN;

/// RFC 7118 §4.1.
const SUBPROTOCOL: &str = "sip";

/// Answers the handshake: the far end must speak `sip`, and come from a page that we allow.
// The library wants the refusal by value.
#[allow(clippy::result_large_err)]
pub(super) async fn accept<S>(stream: S, origins: &[String]) -> io::Result<WebSocketStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let greet = |request: &Request, mut response: Response| match refusal(request, origins) {
        Some((status, why)) => {
            let mut refused = ErrorResponse::new(Some(why.to_owned()));
            *refused.status_mut() = status;
            Err(refused)
        }
        None => {
            response.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(SUBPROTOCOL));
            Ok(response)
        }
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * MAX_LEN)
        .max_message_size(Some(MAX_LEN))
        .max_frame_size(Some(MAX_LEN));
    accept_hdr_async_with_config(stream, greet, Some(config)).await.map_err(io::Error::other)
}

fn refusal(request: &Request, origins: &[String]) -> Option<(StatusCode, &'static str)> {
    let mut protocols = request.headers().get_all("Sec-WebSocket-Protocol").iter().filter_map(|value| value.to_str().ok());
    if !protocols.any(|list| list.split(',').any(|protocol| protocol.trim().eq_ignore_ascii_case(SUBPROTOCOL))) {
        return Some((StatusCode::BAD_REQUEST, "the subprotocol here is 'sip' (RFC 7118)\n"));
    }
    // Browsers always say which page opened the connection; programs need not.
    let origin = request.headers().get("Origin").map(|origin| origin.to_str().unwrap_or_default());
    match origin {
        Some(origin) if !origins.is_empty() && !origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)) => {
            Some((StatusCode::FORBIDDEN, "this page may not use SIP here: see sip.ws_origins\n"))
        }
        _ => None,
    }
}

/// Carries messages both ways until either side has enough.
pub(super) async fn talk<S>(
    connections: &Connections,
    mut socket: WebSocketStream<S>,
    flow: Flow,
    mut mail: mpsc::Receiver<Bytes>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let pause = connections.config().web_ping;
    let (mut deadline, mut asked) = (Instant::now() + pause, false);
    let ended = loop {
        tokio::select! {
            () = connections.engine_gone() => break Ok(()),
            () = sleep_until(deadline) => {
                if asked {
                    break Err(io::ErrorKind::TimedOut.into());
                }
                send(&mut socket, Message::Ping(Bytes::new())).await?;
                (deadline, asked) = (Instant::now() + pause, true);
            }
            bytes = mail.recv() => match bytes {
                Some(bytes) => send(&mut socket, framed(bytes)).await?,
                None => break Err(io::Error::other("it does not take what is sent")),
            },
            frame = socket.next() => {
                let bytes = match frame {
                    Some(Ok(Message::Text(text))) => Bytes::from(text),
                    Some(Ok(Message::Binary(bytes))) => bytes,
                    // Pongs to their pings are the library's affair; they leave with the next read.
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Bytes::new(),
                    Some(Ok(Message::Close(_))) | None => break Ok(()),
                    Some(Err(error)) => {
                        // RFC 6455 §7.4.1: what it did wrong, where it may still listen.
                        if let tungstenite::Error::Capacity(_) = &error {
                            let frame = CloseFrame { code: CloseCode::Size, reason: "longer than a SIP message may be".into() };
                            let _ = send(&mut socket, Message::Close(Some(frame))).await;
                        }
                        break Err(io::Error::other(error));
                    }
                };
                // Keep-alives of SIP itself, which some stacks send here too (RFC 5626 §4.4.1).
                if bytes.iter().all(|b| matches!(b, b'\r' | b'\n')) {
                    if bytes.len() == 4 {
                        send(&mut socket, Message::Text("\r\n".into())).await?;
                    }
                } else {
                    connections.pass_on(flow, bytes).await?;
                }
                (deadline, asked) = (Instant::now() + pause, false);
            }
        }
    };
    if ended.is_ok() {
        let _ = timeout(WRITE_TIME, socket.close(None)).await;
    }
    ended
}

/// Text where it is text, as browsers want it; RFC 7118 §5 wants binary for all else.
fn framed(bytes: Bytes) -> Message {
    match tungstenite::Utf8Bytes::try_from(bytes.clone()) {
        Ok(text) => Message::Text(text),
        Err(_) => Message::Binary(bytes),
    }
}

async fn send<S>(socket: &mut WebSocketStream<S>, message: Message) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match timeout(WRITE_TIME, socket.send(message)).await {
        Ok(sent) => sent.map_err(io::Error::other),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
