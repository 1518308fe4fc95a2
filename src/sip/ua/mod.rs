//! A user agent core: turns dialogs into legs that one can ring, answer, change and hang up. No sockets, no clock.
//!
//! It stands on an [`Endpoint`], which is lent to every call. The owner hands each endpoint event to [`UserAgent::handle`]
//! and drains [`UserAgent::poll_event`]. The server's calls and the simulated phone use the same core.
//!
//! ```text
//!  we call     Calling ──2xx, ACK──► Up ──► Leaving (BYE) ──► gone
//!                 └─ CANCEL ─► (487, or a 2xx that crossed: ACK and BYE) ─► gone
//!  we answer   Offered ──200──► Up, unacknowledged ──ACK──► Up
//!                 └─ CANCEL: 487 ─► gone
//! ```
//! Here: the repetition of a 2xx until its ACK comes (64·T1, then BYE), ACK for each copy of a 2xx, BYE for the second phone
//! behind a forking proxy, CANCEL and BYE that cross answers, re-INVITE and UPDATE with glare (491), digest on 401 and 407.
//! REFER and the NOTIFYs that report on it, session timers, provisional
//! answers that must arrive (PRACK). Not here: SUBSCRIBE; what a body says.

mod calling;
mod change;
mod identity;
mod leaving;
mod leg;
mod offered;
mod outside;
mod refer;
mod reliable;
mod session;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Instant,
};

use bytes::Bytes;

pub use self::{
    calling::{Invite, Way},
    outside::{Outside, RequestId},
    refer::Refer,
    session::{LEAST_SESSION_SECS, Session},
};
use self::{
    leg::{Leg, SentAck, Stage, Timer, Use},
    outside::OutsideState,
    refer::Referral,
    session::raise,
};
use super::{
    build::Response,
    dialog::{Dialog, DialogId},
    digest::Login,
    endpoint::{ClientTx, Endpoint, Event as EndpointEvent, ServerTx},
    message::{Message, Method},
    name::Name,
    transport::Flow,
    uri::Uri,
};
use crate::model::NumberHash;

/// One dialog, from its first INVITE on. Never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LegId(pub u64);

#[derive(Debug)]
pub enum Event {
    /// Somebody calls. Answer the leg with [`UserAgent::ring`], [`UserAgent::answer`] or [`UserAgent::reject`].
    Incoming {
        leg: LegId,
        request: Message,
        flow: Flow,
    },
    Leg {
        leg: LegId,
        event: LegEvent,
    },
    /// A request outside of any dialog, as REGISTER, OPTIONS, NOTIFY: the owner answers it with [`Endpoint::respond`].
    Request {
        tx: ServerTx,
        request: Message,
        flow: Flow,
    },
    /// What became of [`UserAgent::request`]. `None`: no answer in time, or it could not be sent.
    Replied {
        request: RequestId,
        response: Option<Message>,
    },
}

/// What a leg tells. After [`LegEvent::Refused`], [`LegEvent::Redirected`] and [`LegEvent::Ended`] there is no such leg any more.
#[derive(Clone, Debug)]
pub enum LegEvent {
    /// 100: the request has arrived.
    Trying,
    /// 180 to 199. More than one may come.
    Ringing {
        status: u16,
        body: Option<Bytes>,
    },
    /// 2xx; its ACK is sent.
    Answered {
        body: Option<Bytes>,
    },
    /// The proxy before the device has lost its flow to this contact (430); another is tried, if there is one.
    FlowFailed {
        uri: String,
        flow: Flow,
    },
    /// Any other final answer: 408 when there was none, 503 when it could not be sent.
    Refused {
        status: u16,
        reason: String,
    },
    /// 3xx that names somebody else to be called instead: the user part of its best Contact, unescaped.
    Redirected {
        status: u16,
        to: String,
    },
    /// The ACK to our answer, or to our answer to a change.
    Acked {
        body: Option<Bytes>,
    },
    /// The peer changes the session: [`UserAgent::answer_reoffer`] or [`UserAgent::reject_reoffer`]. Without a body it wants an offer.
    Reoffered {
        body: Option<Bytes>,
    },
    ReofferAnswered {
        body: Option<Bytes>,
    },
    ReofferFailed {
        status: u16,
    },
    /// INFO with a body; it is answered.
    Info {
        content_type: String,
        body: Bytes,
    },
    /// The peer wants its call transferred: [`UserAgent::accept_refer`] or [`UserAgent::refuse_refer`].
    Referred {
        refer: Refer,
    },
    /// What became of our [`UserAgent::refer`] so far; a status from 200 on is the end of it.
    ReferProgress {
        status: u16,
    },
    Ended {
        how: Ended,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// BYE.
    HungUp,
    /// CANCEL before the answer.
    Cancelled,
    /// The peer does not answer any more, or knows nothing of the dialog.
    Lost,
}

#[derive(Clone, Debug)]
pub struct Config {
    /// Legs at once; beyond it an INVITE gets 503.
    pub max_legs: usize,
    /// Told in Retry-After then.
    pub retry_after_secs: u32,
    pub session: Session,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_legs: 10_000, retry_after_secs: 10, session: Session::default() }
    }
}

pub struct UserAgent {
    config: Config,
    legs: HashMap<LegId, Leg, NumberHash>,
    dialogs: HashMap<DialogId, LegId>,
    /// Answers to our requests are for these.
    clients: HashMap<ClientTx, Use, NumberHash>,
    /// INVITEs without a final answer of ours.
    offered: HashMap<ServerTx, LegId, NumberHash>,
    outsides: HashMap<RequestId, OutsideState, NumberHash>,
    /// Transfers that peers have asked for, by the leg that asked.
    referrals: HashMap<LegId, Referral, NumberHash>,
    /// ACKs that may have to be repeated, and when they may be forgotten, oldest first.
    acks: HashMap<ClientTx, Box<SentAck>, NumberHash>,
    acks_end: VecDeque<(Instant, ClientTx)>,
    schedule: BTreeSet<(Instant, LegId, Timer)>,
    events: VecDeque<Event>,
    next: u64,
}

/// A server that says "stale" again and again is given up.
const MOST_CHALLENGES: u8 = 3;

impl UserAgent {
    pub fn new(config: Config) -> Self {
        Self {
            config,
            legs: HashMap::default(),
            dialogs: HashMap::new(),
            clients: HashMap::default(),
            offered: HashMap::default(),
            outsides: HashMap::default(),
            referrals: HashMap::default(),
            acks: HashMap::default(),
            acks_end: VecDeque::new(),
            schedule: BTreeSet::new(),
            events: VecDeque::new(),
            next: 0,
        }
    }

    /// Legs in memory, those included that are being ended.
    pub fn len(&self) -> usize {
        self.legs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.legs.is_empty()
    }

    /// A name for [`Self::invite`].
    pub fn new_leg(&mut self) -> LegId {
        self.next += 1;
        LegId(self.next)
    }

    /// Call-ID and tags of a leg; the peer's tag is empty until it has one.
    pub fn dialog_of(&self, leg: LegId) -> Option<DialogId> {
        Some(match &self.legs.get(&leg)?.stage {
            Stage::Calling { calling, .. } => {
                // Of several phones behind a forking proxy the first.
                let remote_tag = calling.early.first().map(|early| early.dialog.id.remote_tag.clone()).unwrap_or_default();
                DialogId { call_id: calling.call_id.clone(), local_tag: calling.tag.clone(), remote_tag }
            }
            Stage::Offered { dialog, .. } | Stage::Up(dialog) | Stage::Leaving(dialog) => dialog.id.clone(),
        })
    }

    /// Call-ID of a leg.
    pub fn call_id_of(&self, leg: LegId) -> Option<&str> {
        Some(match &self.legs.get(&leg)?.stage {
            Stage::Calling { calling, .. } => &calling.call_id,
            Stage::Offered { dialog, .. } | Stage::Up(dialog) | Stage::Leaving(dialog) => &dialog.id.call_id,
        })
    }

    /// By which the peer of a leg is reached.
    pub fn flow(&self, leg: LegId) -> Option<Flow> {
        self.legs.get(&leg).map(|leg| leg.flow)
    }

    /// INFO within the dialog, as for keys.
    pub fn info(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, content_type: &str, body: Bytes) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Stage::Up(dialog) = &mut leg.stage else { return };
        let tx = endpoint.request(now, leg.flow, dialog.request(Method::Info).body(content_type, body));
        self.clients.insert(tx, Use::Info(id));
    }

    /// Takes every event of the endpoint.
    pub fn handle(&mut self, now: Instant, endpoint: &mut Endpoint, event: EndpointEvent) {
        match event {
            EndpointEvent::Request { tx, request, flow } => self.handle_request(now, endpoint, tx, request, flow),
            EndpointEvent::Cancel { tx, .. } => self.handle_cancel(now, endpoint, tx),
            EndpointEvent::Ack { request, flow } => self.handle_ack(now, endpoint, &request, flow),
            EndpointEvent::Response { tx, response, .. } => self.handle_response(now, endpoint, tx, &response),
            EndpointEvent::TimedOut { tx } => self.handle_failure(now, endpoint, tx, 408),
            EndpointEvent::TransportFailed { tx } => self.handle_failure(now, endpoint, tx, 503),
        }
    }

    /// Time has passed; call at [`Self::poll_timeout`]. Earlier is harmless.
    pub fn handle_timeout(&mut self, now: Instant, endpoint: &mut Endpoint) {
        while let Some(&(_, tx)) = self.acks_end.front().filter(|(at, _)| *at <= now) {
            self.acks_end.pop_front();
            self.acks.remove(&tx);
        }
        while let Some(&(at, id, timer)) = self.schedule.first().filter(|(at, _, _)| *at <= now) {
            self.schedule.remove(&(at, id, timer));
            match timer {
                Timer::Unacknowledged => self.repeat_accepted(now, endpoint, id),
                Timer::Unheard => self.repeat_reliable(now, endpoint, id),
                Timer::ReofferAgain => self.send_reoffer(now, endpoint, id),
                Timer::ReferralEnds => self.refer_progress(now, endpoint, id, 408),
                Timer::Session => self.session_is_due(now, endpoint, id),
                Timer::Identity => self.tell_identity(now, endpoint, id),
            }
        }
    }

    /// What happened, oldest first. Drain to `None` after every call.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let acks = self.acks_end.front().map(|(at, _)| *at);
        let legs = self.schedule.first().map(|(at, _, _)| *at);
        acks.into_iter().chain(legs).min()
    }

    fn handle_request(&mut self, now: Instant, endpoint: &mut Endpoint, tx: ServerTx, request: Message, flow: Flow) {
        match DialogId::of_request(&request) {
            Some(dialog) => self.handle_inside(now, endpoint, tx, request, flow, &dialog),
            None if request.is(&Method::Invite) => self.handle_invite(now, endpoint, tx, request, flow),
            // Without a dialog there is nothing to end or to change (RFC 3261 §15.1.2).
            None if matches!(request.method(), Some(Method::Bye | Method::Info | Method::Update | Method::Prack | Method::Refer)) => {
                endpoint.respond(now, tx, Response::to(&request, 481));
            }
            None => self.events.push_back(Event::Request { tx, request, flow }),
        }
    }

    fn handle_inside(&mut self, now: Instant, endpoint: &mut Endpoint, tx: ServerTx, request: Message, flow: Flow, dialog_id: &DialogId) {
        let Some(&id) = self.dialogs.get(dialog_id) else {
            return endpoint.respond(now, tx, Response::to(&request, 481));
        };
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Some(dialog) = leg.dialog_mut(dialog_id) else { return };
        if dialog.accept(&request).is_err() {
            return endpoint.respond(now, tx, Response::to(&request, 500));
        }
        leg.flow = flow;
        // Before its own answer the one that we call may not hang up: it refuses (RFC 3261 §15).
        if matches!(leg.stage, Stage::Calling { .. }) && request.is(&Method::Bye) {
            return endpoint.respond(now, tx, Response::to(&request, 481));
        }
        match request.method() {
            Some(Method::Bye) => self.handle_bye(now, endpoint, id, tx, &request),
            Some(Method::Invite | Method::Update) => self.handle_change(now, endpoint, id, tx, request),
            Some(Method::Prack) => self.handle_prack(now, endpoint, id, tx, request),
            Some(Method::Info) => {
                endpoint.respond(now, tx, Response::to(&request, 200));
                if !request.body().is_empty() {
                    let content_type = request.content_type().unwrap_or_default();
                    self.tell(id, LegEvent::Info { content_type, body: request.body_bytes() });
                }
            }
            Some(Method::Options) => {
                let answer = endpoint.config().abilities.answer_options(&request);
                endpoint.respond(now, tx, answer);
            }
            Some(Method::Refer) => self.handle_refer(now, endpoint, id, tx, request),
            Some(Method::Notify) => self.handle_notify(now, endpoint, id, tx, &request),
            _ => {
                let allow = endpoint.config().abilities.allow();
                endpoint.respond(now, tx, Response::to(&request, 405).header(Name::Allow, allow));
            }
        }
    }

    fn handle_response(&mut self, now: Instant, endpoint: &mut Endpoint, tx: ClientTx, response: &Message) {
        let Some(status) = response.status() else { return };
        if let Some(ack) = self.acks.get(&tx) {
            return self.handle_repeated_accept(now, endpoint, ack.answer_to(response), tx, response);
        }
        let Some(&what) = self.clients.get(&tx) else { return };
        if status < 200 {
            if let Use::Invite(id) = what {
                match status {
                    100 => self.tell(id, LegEvent::Trying),
                    _ => self.handle_invite_provisional(now, endpoint, id, status, response),
                }
            }
            return;
        }
        self.clients.remove(&tx);
        match what {
            Use::Invite(id) => self.handle_invite_final(now, endpoint, id, tx, status, response),
            Use::Reinvite(id) => self.handle_reinvite_final(now, endpoint, id, tx, status, response),
            Use::Refresh(id) => self.handle_refresh_final(now, endpoint, id, status, response),
            Use::Bye(id) => self.handle_bye_final(now, endpoint, id, status, response),
            Use::Info(id) => {
                if status == 481 || status == 408 {
                    self.lose(id);
                }
            }
            Use::Refer(id) => self.handle_refer_final(id, status),
            Use::Notify(id) => self.handle_notify_final(id, status),
            Use::Outside(id) => self.handle_outside_final(now, endpoint, id, status, response),
            Use::Prack(id) => self.handle_prack_final(now, endpoint, id, tx, response),
            Use::Nobody => {}
        }
    }

    /// No answer, or it could not be sent.
    fn handle_failure(&mut self, now: Instant, endpoint: &mut Endpoint, tx: ClientTx, status: u16) {
        match self.clients.remove(&tx) {
            Some(Use::Invite(id)) => {
                if self.go_on_by_spare(now, endpoint, id) {
                    return;
                }
                self.tell(id, LegEvent::Refused { status, reason: super::build::reason_phrase(status).to_owned() });
                self.forget(id);
            }
            // RFC 3261 §12.2.1.2: no answer within a dialog ends it.
            Some(Use::Reinvite(id) | Use::Refresh(id)) => {
                self.tell(id, LegEvent::Ended { how: Ended::Lost });
                self.send_bye(now, endpoint, id, None);
            }
            Some(Use::Info(id)) => self.lose(id),
            Some(Use::Bye(id)) => self.forget(id),
            Some(Use::Refer(id)) => self.handle_refer_final(id, status),
            Some(Use::Notify(id)) => self.handle_notify_final(id, status),
            Some(Use::Outside(id)) => {
                self.outsides.remove(&id);
                self.events.push_back(Event::Replied { request: id, response: None });
            }
            Some(Use::Prack(id)) => self.forget_prack(id, tx),
            Some(Use::Nobody) | None => {}
        }
    }

    fn tell(&mut self, id: LegId, event: LegEvent) {
        if self.legs.get(&id).is_some_and(|leg| leg.owned) {
            self.events.push_back(Event::Leg { leg: id, event });
        }
    }
}

const SDP: &str = "application/sdp";

/// The header for another try after a 401 or 407, if there is one worth it.
fn answer_to(
    login: &mut Option<Login>,
    challenged: &mut u8,
    response: &Message,
    method: &Method,
    uri: &str,
    endpoint: &mut Endpoint,
) -> Option<(Name, String)> {
    let login = login.as_mut().filter(|_| matches!(response.status(), Some(401 | 407)) && *challenged < MOST_CHALLENGES)?;
    login.handle_challenge(response).ok()?;
    *challenged += 1;
    login.authorize(method.as_str(), uri, &endpoint.ids().token())
}

/// What an INVITE or UPDATE needs more than the last time to be worth another try: an answer to a challenge, or after a 422
/// the longer session that `secs` asks for then. `None`: there is nothing to be done.
fn second_try(
    login: &mut Option<Login>,
    challenged: &mut u8,
    secs: Option<&mut u32>,
    response: &Message,
    method: &Method,
    uri: &str,
    endpoint: &mut Endpoint,
) -> Option<Option<(Name, String)>> {
    if !secs.is_some_and(|secs| raise(secs, response)) {
        return answer_to(login, challenged, response, method, uri, endpoint).map(Some);
    }
    // Who asks for a longer session has taken the password, if it was asked for.
    Some(login.as_mut().and_then(|login| {
        login.handle_success();
        login.authorize(method.as_str(), uri, &endpoint.ids().token())
    }))
}

/// A 200 that makes or keeps a dialog.
fn accepted(endpoint: &Endpoint, dialog: &Dialog, request: &Message) -> Response {
    let abilities = &endpoint.config().abilities;
    dialog.response(request, 200).header(Name::Allow, abilities.allow()).header(Name::Supported, abilities.supported())
}

fn body_of(message: &Message) -> Option<Bytes> {
    (!message.body().is_empty()).then(|| message.body_bytes())
}

/// Our Contact: where requests within the dialog shall come.
/// Who was called by `sips:` shall be answered by it (RFC 3261 §12.1.1).
fn contact(endpoint: &Endpoint, flow: &Flow, user: &str, called: &[u8]) -> String {
    let secure = flow.transport.is_secure() && called.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"sips:"));
    let (scheme, transport) = if secure { ("sips", "") } else { ("sip", flow.transport.as_uri_param()) };
    let at = if user.is_empty() { "" } else { "@" };
    let uri = format!("{scheme}:{user}{at}{}{transport}", endpoint.sent_by(flow));
    // A user part that makes no URI is left out.
    match Uri::parse(&uri) {
        Ok(_) => format!("<{uri}>"),
        Err(_) => format!("<{scheme}:{}{transport}>", endpoint.sent_by(flow)),
    }
}

#[cfg(test)]
mod tests;
