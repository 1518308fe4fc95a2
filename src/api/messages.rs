//! `/calls/{id}/messages` and `/calls/{id}/pcap`: the SIP of a call, for people and for Wireshark. Secrets never leave here.

use std::time::SystemTime;

use axum::{
    Json,
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Context, problem::Problem};
use crate::{
    call::{Captured, Kept, Way},
    model::{CallId, Timestamp},
    sip::{Message, Name, mask::masked, pcap},
};

/// One SIP message as it came or left, without its secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SipMessage {
    /// Microseconds since 1970.
    pub at_us: u64,
    /// `in` or `out`, as the server sees it.
    pub way: String,
    /// `udp`, `tcp` …
    pub transport: String,
    /// The server's address.
    pub local: String,
    /// The phone's address.
    pub peer: String,
    /// Of a request its method; of a response the method that it answers.
    pub method: String,
    /// Of a response.
    pub status: Option<u16>,
    /// Of a response: the words after the status.
    pub reason: Option<String>,
    /// Whether it carries a session description.
    pub sdp: bool,
    /// The whole message; passwords, keyed digits and keys of sound are asterisks.
    pub text: String,
}

impl SipMessage {
    pub fn of(at_us: u64, way: &str, transport: &str, local: &str, peer: &str, bytes: &[u8]) -> Self {
        let bytes = masked(bytes);
        let message = Message::parse(bytes.clone().into()).ok();
        let message = message.as_ref();
        let asked = message.and_then(|message| message.method().map(ToString::to_string));
        let answered = || message.and_then(|message| message.cseq().ok().map(|cseq| cseq.method.to_owned()));
        Self {
            at_us,
            way: way.to_owned(),
            transport: transport.to_owned(),
            local: local.to_owned(),
            peer: peer.to_owned(),
            method: asked.or_else(answered).unwrap_or_default(),
            status: message.and_then(Message::status),
            reason: message.filter(|message| !message.is_request()).map(|message| message.reason().into_owned()),
            sdp: message.is_some_and(|m| !m.body().is_empty() && m.content_type().is_some_and(|kind| kind == "application/sdp")),
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    /// What stands on its arrow: `INVITE (SDP)`, `180 Ringing`, `200 OK (BYE)`.
    pub fn label(&self) -> String {
        let what = match self.status {
            Some(status) => format!("{status} {}", self.reason.as_deref().unwrap_or_default()),
            None => self.method.clone(),
        };
        match () {
            () if self.sdp => format!("{what} (SDP)"),
            () if self.status.is_some() && self.method != "INVITE" => format!("{what} ({})", self.method),
            () => what,
        }
    }
}

/// The SIP messages of a call, in order.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Messages {
    pub messages: Vec<SipMessage>,
}

/// A call, or what came to none, whose messages are kept.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CapturedCall {
    /// The number of the call; absent when it was refused before it was one.
    pub id: Option<String>,
    /// The Call-ID of this side of it.
    pub sip_call_id: String,
    pub began: String,
    /// Who was called by whom, as the first message has it.
    pub from: String,
    pub to: String,
    pub messages: usize,
    /// The last final answer to an INVITE.
    pub last_status: Option<u16>,
}

/// What is kept: calls that are up, and those of the last hour or so as far as there was room.
#[utoipa::path(get, path = "/calls/captured", tag = "calls", responses((status = 200, body = Vec<CapturedCall>)))]
pub async fn list(State(context): State<Context>) -> Result<Json<Vec<CapturedCall>>, Problem> {
    let kept = context.calls.captured().await;
    Ok(Json(kept.into_iter().map(|(kept, messages)| captured(kept, &messages)).collect()))
}

fn captured(kept: Kept, messages: &[Captured]) -> CapturedCall {
    let parsed: Vec<_> = messages.iter().filter_map(|message| Message::parse(message.bytes.clone()).ok()).collect();
    let user = |name| {
        let message = parsed.first()?;
        message.name_addr(name).ok()?.uri().ok()?.user().map(std::borrow::Cow::into_owned)
    };
    let final_answer = |message: &Message| {
        let status = message.status().filter(|status| *status >= 200)?;
        message.cseq().is_ok_and(|cseq| cseq.method == "INVITE").then_some(status)
    };
    CapturedCall {
        id: kept.call.map(|call| call.to_string()),
        sip_call_id: kept.sip_call_id,
        began: Timestamp::of(SystemTime::now() - kept.began.elapsed()).to_string(),
        from: user(Name::From).unwrap_or_default(),
        to: user(Name::To).unwrap_or_default(),
        messages: kept.messages,
        last_status: parsed.iter().rev().find_map(final_answer),
    }
}

/// The SIP messages of a call that is up, or was a while ago. Passwords, keyed digits and keys of sound are asterisks.
///
/// The id is that of the call, or the Call-ID of one side of it.
#[utoipa::path(get, path = "/calls/{id}/messages", tag = "calls", params(("id" = String, Path)),
    responses((status = 200, body = Messages), (status = 404, body = Problem)))]
pub async fn show(State(context): State<Context>, Path(id): Path<String>) -> Result<Json<Messages>, Problem> {
    let messages = find(&context, id).await?;
    let shown = messages.iter().map(|(at_us, message)| {
        let way = if message.way == Way::In { "in" } else { "out" };
        let flow = message.flow;
        SipMessage::of(*at_us, way, flow.transport.as_str(), &flow.local.to_string(), &flow.peer.to_string(), &message.bytes)
    });
    Ok(Json(Messages { messages: shown.collect() }))
}

/// The same as a pcap file: one UDP datagram a message, whatever it travelled by.
#[utoipa::path(get, path = "/calls/{id}/pcap", tag = "calls", params(("id" = String, Path)),
    responses((status = 200, content_type = "application/vnd.tcpdump.pcap", body = Vec<u8>), (status = 404, body = Problem)))]
pub async fn pcap(State(context): State<Context>, Path(id): Path<String>) -> Result<Response, Problem> {
    let messages = find(&context, id).await?;
    let hidden: Vec<_> = messages.iter().map(|(at_us, message)| (*at_us, message, masked(&message.bytes))).collect();
    let packets = hidden.iter().map(|(at_us, message, bytes)| {
        let (from, to) = match message.way {
            Way::In => (message.flow.peer, message.flow.local),
            Way::Out => (message.flow.local, message.flow.peer),
        };
        pcap::Packet { at_us: *at_us, from, to, payload: bytes }
    });
    Ok(([(header::CONTENT_TYPE, "application/vnd.tcpdump.pcap")], pcap::file(packets)).into_response())
}

async fn find(context: &Context, id: String) -> Result<Vec<(u64, Captured)>, Problem> {
    let missing =
        || Problem::not_found("no messages", "of that call nothing is kept: it is too long ago, there was no room, or it never was");
    let by_number = match id.parse::<CallId>() {
        Ok(call) => context.calls.messages_of(call).await,
        Err(_) => None,
    };
    let messages = match by_number {
        Some(messages) => messages,
        None => context.calls.messages_of_call_id(id).await.ok_or_else(missing)?,
    };
    // The engine tells how long ago each was.
    let now_us = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
    let at = |message: &Captured| now_us.saturating_sub(message.at.elapsed().as_micros() as u64);
    Ok(messages.into_iter().map(|message| (at(&message), message)).collect())
}
