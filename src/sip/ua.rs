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
//! Not here: PRACK, REFER, SUBSCRIBE, session timers; what a body says.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    build::{Request, Response, name_addr},
    dialog::{Dialog, DialogId},
    digest::{Credentials, Login},
    endpoint::{ClientTx, Endpoint, Event as EndpointEvent, ServerTx},
    message::{Message, Method},
    name::Name,
    transport::{Flow, Transmit},
    uri::Uri,
};

/// One dialog, from its first INVITE on. Never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LegId(pub u64);

/// A request outside of any dialog that we sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(u64);

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

/// What a leg tells. After [`LegEvent::Refused`] and [`LegEvent::Ended`] there is no such leg any more.
#[derive(Clone, Debug)]
pub enum LegEvent {
    /// 180 to 199. More than one may come.
    Ringing {
        status: u16,
        body: Option<Bytes>,
    },
    /// 2xx; its ACK is sent.
    Answered {
        body: Option<Bytes>,
    },
    /// Any other final answer: 408 when there was none, 503 when it could not be sent.
    Refused {
        status: u16,
        reason: String,
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

/// A call to be made.
#[derive(Clone, Debug)]
pub struct Invite {
    /// Request-URI.
    pub uri: String,
    pub flow: Flow,
    /// Display name and URI for From.
    pub from: (String, String),
    /// URI for To.
    pub to: String,
    /// User part for our Contact.
    pub contact_user: String,
    /// A session description.
    pub offer: Option<Bytes>,
    pub credentials: Option<Credentials>,
    /// More headers: name and value.
    pub headers: Vec<(String, String)>,
}

/// A request outside of any dialog.
#[derive(Clone, Debug)]
pub struct Outside {
    pub method: Method,
    pub uri: String,
    pub flow: Flow,
    pub from: (String, String),
    pub to: String,
    pub headers: Vec<(String, String)>,
    /// Content type and bytes.
    pub body: Option<(String, Bytes)>,
    pub credentials: Option<Credentials>,
}

#[derive(Clone, Debug)]
pub struct Config {
    /// Legs at once; beyond it an INVITE gets 503.
    pub max_legs: usize,
    /// Told in Retry-After then.
    pub retry_after_secs: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_legs: 10_000, retry_after_secs: 10 }
    }
}

pub struct UserAgent {
    config: Config,
    legs: HashMap<LegId, Leg>,
    dialogs: HashMap<DialogId, LegId>,
    /// Answers to our requests are for these.
    clients: HashMap<ClientTx, Use>,
    /// INVITEs without a final answer of ours.
    offered: HashMap<ServerTx, LegId>,
    outsides: HashMap<RequestId, OutsideState>,
    /// ACKs that may have to be repeated, and when they may be forgotten, oldest first.
    acks: HashMap<ClientTx, SentAck>,
    acks_end: VecDeque<(Instant, ClientTx)>,
    schedule: BTreeSet<(Instant, LegId, Timer)>,
    events: VecDeque<Event>,
    next: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// The 2xx is sent again, or given up.
    Unacknowledged,
    /// After 491: our change is tried again (RFC 3261 §14.1).
    ReofferAgain,
}

/// What an answer is to.
#[derive(Clone, Copy, Debug)]
enum Use {
    Invite(LegId),
    Reinvite(LegId),
    Bye(LegId),
    Info(LegId),
    Outside(RequestId),
    /// BYE to a phone that answered second: nobody waits for the answer.
    Nobody,
}

struct Leg {
    flow: Flow,
    stage: Stage,
    /// The owner still wants to hear of it.
    owned: bool,
    login: Option<Login>,
    unacked: Option<Unacked>,
    /// A change of the peer that the owner has to answer.
    theirs: Option<Theirs>,
    /// A change of ours that the peer has to answer.
    ours: Option<Ours>,
    /// Hang up as soon as the ACK is here: before it, the called side may not (RFC 3261 §15).
    bye_wanted: bool,
    /// Times that the present request was challenged.
    challenged: u8,
}

enum Stage {
    Calling { tx: ClientTx, calling: Box<Calling> },
    Offered { tx: ServerTx, invite: Box<Message>, dialog: Box<Dialog> },
    Up(Box<Dialog>),
    Leaving(Box<Dialog>),
}

struct Calling {
    invite: Invite,
    call_id: String,
    tag: String,
    contact: String,
    cseq: u32,
    /// The owner has given up.
    cancelled: bool,
}

/// A 2xx of ours whose ACK is not here.
struct Unacked {
    tx: ServerTx,
    response: Response,
    cseq: u32,
    next: Instant,
    interval: Duration,
    give_up: Instant,
}

struct Theirs {
    tx: ServerTx,
    request: Box<Message>,
}

struct Ours {
    body: Bytes,
    /// `None` while it waits for its turn or after a 491.
    tx: Option<ClientTx>,
    cseq: u32,
    tries: u8,
}

struct SentAck {
    to_tag: String,
    transmit: Transmit,
    /// To make a dialog of another phone's 2xx.
    local: String,
    local_tag: String,
    contact: String,
    cseq: u32,
}

struct OutsideState {
    outside: Outside,
    call_id: String,
    tag: String,
    cseq: u32,
    login: Option<Login>,
    challenged: u8,
}

/// A server that says "stale" again and again is given up.
const MOST_CHALLENGES: u8 = 3;
/// Tries of one change of ours that meets the peer's.
const MOST_GLARES: u8 = 5;

impl UserAgent {
    pub fn new(config: Config) -> Self {
        Self {
            config,
            legs: HashMap::new(),
            dialogs: HashMap::new(),
            clients: HashMap::new(),
            offered: HashMap::new(),
            outsides: HashMap::new(),
            acks: HashMap::new(),
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

    /// By which the peer of a leg is reached.
    pub fn flow(&self, leg: LegId) -> Option<Flow> {
        self.legs.get(&leg).map(|leg| leg.flow)
    }

    // --- the owner's wishes. Those that come too late, as a leg has ended meanwhile, do nothing.

    /// Calls somebody.
    pub fn invite(&mut self, now: Instant, endpoint: &mut Endpoint, leg: LegId, invite: Invite) {
        let call_id = endpoint.ids().token();
        let tag = endpoint.ids().token();
        let contact = contact(endpoint, &invite.flow, &invite.contact_user);
        let (flow, login) = (invite.flow, invite.credentials.clone().map(Login::new));
        let calling = Calling { invite, call_id, tag, contact, cseq: 1, cancelled: false };
        let request = calling.request(endpoint);
        let tx = endpoint.request(now, flow, request);
        self.clients.insert(tx, Use::Invite(leg));
        self.legs.insert(leg, Leg::new(flow, Stage::Calling { tx, calling: Box::new(calling) }, login));
    }

    /// 180 to the caller.
    pub fn ring(&mut self, now: Instant, endpoint: &mut Endpoint, leg: LegId) {
        if let Some(Stage::Offered { tx, invite, dialog }) = self.legs.get(&leg).map(|leg| &leg.stage) {
            endpoint.respond(now, *tx, dialog.response(invite, 180));
        }
    }

    /// 200 with our session description; repeated until the ACK is here.
    pub fn answer(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, body: Bytes) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Stage::Offered { tx, invite, dialog } = &leg.stage else { return };
        let (tx, dialog) = (*tx, dialog.clone());
        let response = accepted(endpoint, &dialog, invite).body(SDP, body);
        let cseq = invite.cseq().map_or(0, |cseq| cseq.number);
        self.offered.remove(&tx);
        leg.stage = Stage::Up(dialog);
        self.send_accepted(now, endpoint, id, tx, cseq, response);
    }

    /// A final answer that is no 2xx, with more headers where they help.
    pub fn reject(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, status: u16, headers: &[(Name, String)]) {
        let Some(Stage::Offered { tx, invite, dialog }) = self.legs.get(&id).map(|leg| &leg.stage) else { return };
        let response = Response::to(invite, status).to_tag(&dialog.id.local_tag);
        let response = headers.iter().fold(response, |response, (name, value)| response.header(*name, value));
        endpoint.respond(now, *tx, response);
        self.forget(id);
    }

    /// The same with an answer that somebody else has made from the INVITE, as a challenge.
    pub fn reject_with(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, response: Response) {
        let Some(Stage::Offered { tx, dialog, .. }) = self.legs.get(&id).map(|leg| &leg.stage) else { return };
        endpoint.respond(now, *tx, response.to_tag(&dialog.id.local_tag));
        self.forget(id);
    }

    /// Ends a leg in whatever state: CANCEL, BYE, or a refusal. The owner hears no more of it.
    /// `reason` becomes a Reason header where there is room for one (RFC 3326).
    pub fn hangup(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, reason: Option<&str>) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        leg.owned = false;
        match &mut leg.stage {
            Stage::Calling { tx, calling } => {
                calling.cancelled = true;
                endpoint.cancel(now, *tx);
            }
            Stage::Offered { .. } => self.reject(now, endpoint, id, 480, &[]),
            Stage::Up(_) if leg.unacked.is_some() => {
                leg.bye_wanted = true;
            }
            Stage::Up(_) => self.send_bye(now, endpoint, id, reason),
            Stage::Leaving(_) => {}
        }
    }

    /// Changes the session by re-INVITE. It waits for a change of the peer that is under way, and tries again after 491.
    pub fn reoffer(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, body: Bytes) {
        let Some(leg) = self.legs.get_mut(&id).filter(|leg| matches!(leg.stage, Stage::Up(_))) else { return };
        leg.calm();
        leg.ours = Some(Ours { body, tx: None, cseq: 0, tries: 0 });
        self.send_reoffer(now, endpoint, id);
    }

    /// 200 to the peer's change.
    pub fn answer_reoffer(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, body: Bytes) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let (Stage::Up(dialog), Some(theirs)) = (&leg.stage, leg.theirs.take()) else { return };
        let response = accepted(endpoint, dialog, &theirs.request).body(SDP, body);
        if theirs.request.is(&Method::Update) {
            endpoint.respond(now, theirs.tx, response);
            return self.send_reoffer(now, endpoint, id);
        }
        let cseq = theirs.request.cseq().map_or(0, |cseq| cseq.number);
        self.send_accepted(now, endpoint, id, theirs.tx, cseq, response);
    }

    /// Refuses the peer's change: all stays as it was.
    pub fn reject_reoffer(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, status: u16) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Some(theirs) = leg.theirs.take() else { return };
        endpoint.respond(now, theirs.tx, Response::to(&theirs.request, status));
        self.send_reoffer(now, endpoint, id);
    }

    /// INFO within the dialog, as for keys.
    pub fn info(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, content_type: &str, body: Bytes) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Stage::Up(dialog) = &mut leg.stage else { return };
        let tx = endpoint.request(now, leg.flow, dialog.request(Method::Info).body(content_type, body));
        self.clients.insert(tx, Use::Info(id));
    }

    /// Sends a request outside of any dialog; a challenge is answered once there are credentials.
    pub fn request(&mut self, now: Instant, endpoint: &mut Endpoint, outside: Outside) -> RequestId {
        self.next += 1;
        let id = RequestId(self.next);
        let (call_id, tag) = (endpoint.ids().token(), endpoint.ids().token());
        let login = outside.credentials.clone().map(Login::new);
        let state = OutsideState { outside, call_id, tag, cseq: 1, login, challenged: 0 };
        let tx = endpoint.request(now, state.outside.flow, state.request());
        self.outsides.insert(id, state);
        self.clients.insert(tx, Use::Outside(id));
        id
    }

    // --- in and out

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
                Timer::ReofferAgain => self.send_reoffer(now, endpoint, id),
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

    // --- requests of the peer

    fn handle_request(&mut self, now: Instant, endpoint: &mut Endpoint, tx: ServerTx, request: Message, flow: Flow) {
        match DialogId::of_request(&request) {
            Some(dialog) => self.handle_inside(now, endpoint, tx, request, flow, &dialog),
            None if request.is(&Method::Invite) => self.handle_invite(now, endpoint, tx, request, flow),
            // Without a dialog there is nothing to end or to change (RFC 3261 §15.1.2).
            None if matches!(request.method(), Some(Method::Bye | Method::Info | Method::Update | Method::Prack)) => {
                endpoint.respond(now, tx, Response::to(&request, 481));
            }
            None => self.events.push_back(Event::Request { tx, request, flow }),
        }
    }

    fn handle_invite(&mut self, now: Instant, endpoint: &mut Endpoint, tx: ServerTx, request: Message, flow: Flow) {
        if self.legs.len() >= self.config.max_legs {
            metrics::counter!("plugtone_sip_refused_total", "status" => "503").increment(1);
            let busy = Response::to(&request, 503).header(Name::RetryAfter, self.config.retry_after_secs);
            return endpoint.respond(now, tx, busy);
        }
        let tag = endpoint.ids().token();
        let user = request.uri().ok().and_then(|uri| uri.raw_user().map(str::to_owned)).unwrap_or_default();
        let contact = contact(endpoint, &flow, &user);
        let dialog = match Dialog::from_request(&request, &tag, &contact) {
            Ok(dialog) => dialog,
            Err(fault) => return endpoint.respond(now, tx, Response::fault(&request, &fault)),
        };
        let leg = self.new_leg();
        self.dialogs.insert(dialog.id.clone(), leg);
        self.offered.insert(tx, leg);
        let stage = Stage::Offered { tx, invite: Box::new(request.clone()), dialog: Box::new(dialog) };
        self.legs.insert(leg, Leg::new(flow, stage, None));
        self.events.push_back(Event::Incoming { leg, request, flow });
    }

    fn handle_inside(&mut self, now: Instant, endpoint: &mut Endpoint, tx: ServerTx, request: Message, flow: Flow, dialog: &DialogId) {
        let Some(&id) = self.dialogs.get(dialog) else {
            return endpoint.respond(now, tx, Response::to(&request, 481));
        };
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Some(dialog) = leg.dialog_mut() else { return };
        if dialog.accept(&request).is_err() {
            return endpoint.respond(now, tx, Response::to(&request, 500));
        }
        leg.flow = flow;
        match request.method() {
            Some(Method::Bye) => self.handle_bye(now, endpoint, id, tx, &request),
            Some(Method::Invite | Method::Update) => self.handle_change(now, endpoint, id, tx, request),
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
            // No subscription was made in this dialog (RFC 6665 §4.1.3).
            Some(Method::Notify) => endpoint.respond(now, tx, Response::to(&request, 481)),
            _ => {
                let allow = endpoint.config().abilities.allow();
                endpoint.respond(now, tx, Response::to(&request, 405).header(Name::Allow, allow));
            }
        }
    }

    fn handle_bye(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, tx: ServerTx, request: &Message) {
        endpoint.respond(now, tx, Response::to(request, 200));
        let Some(leg) = self.legs.get_mut(&id) else { return };
        // What still waits for an answer gets 487 (RFC 3261 §15.1.2).
        if let Some(theirs) = leg.theirs.take() {
            endpoint.respond(now, theirs.tx, Response::to(&theirs.request, 487));
        }
        if let Stage::Offered { tx, invite, dialog } = &leg.stage {
            endpoint.respond(now, *tx, Response::to(invite, 487).to_tag(&dialog.id.local_tag));
        }
        self.tell(id, LegEvent::Ended { how: Ended::HungUp });
        self.forget(id);
    }

    /// re-INVITE or UPDATE.
    fn handle_change(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, tx: ServerTx, request: Message) {
        let random = endpoint.ids().next_u64();
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let is_update = request.is(&Method::Update);
        let refusal = match &leg.stage {
            Stage::Up(_) if leg.ours.as_ref().is_some_and(|ours| ours.tx.is_some()) => Some(491),
            Stage::Up(_) if leg.theirs.is_some() || (leg.unacked.is_some() && !is_update) => Some(500),
            Stage::Up(_) => None,
            // A refresh before the answer changes nothing (RFC 3311 §5.2).
            Stage::Offered { .. } if is_update && request.body().is_empty() => None,
            _ => Some(500),
        };
        if let Some(status) = refusal {
            let response = Response::to(&request, status);
            // RFC 3261 §14.2: 500 with a Retry-After of 0 to 10 s.
            let response = if status == 500 { response.header(Name::RetryAfter, random % 11) } else { response };
            return endpoint.respond(now, tx, response);
        }
        let Some(dialog) = leg.dialog_mut() else { return };
        dialog.refresh_target(&request);
        if is_update && request.body().is_empty() {
            let response = accepted(endpoint, dialog, &request);
            return endpoint.respond(now, tx, response);
        }
        let body = body_of(&request);
        leg.theirs = Some(Theirs { tx, request: Box::new(request) });
        if leg.owned {
            self.events.push_back(Event::Leg { leg: id, event: LegEvent::Reoffered { body } });
        } else {
            // We are leaving: all that is left for it is the BYE.
            self.reject_reoffer(now, endpoint, id, 488);
        }
    }

    fn handle_cancel(&mut self, now: Instant, endpoint: &mut Endpoint, tx: ServerTx) {
        if let Some(id) = self.offered.get(&tx).copied() {
            self.tell(id, LegEvent::Ended { how: Ended::Cancelled });
            return self.reject(now, endpoint, id, 487, &[]);
        }
        // A CANCEL of a re-INVITE: refuse the change.
        let change = self.legs.iter().find(|(_, leg)| leg.theirs.as_ref().is_some_and(|theirs| theirs.tx == tx)).map(|(id, _)| *id);
        if let Some(id) = change {
            self.reject_reoffer(now, endpoint, id, 487);
        }
    }

    fn handle_ack(&mut self, now: Instant, endpoint: &mut Endpoint, request: &Message, flow: Flow) {
        let Some(id) = DialogId::of_request(request).and_then(|dialog| self.dialogs.get(&dialog).copied()) else { return };
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        let Some(unacked) = leg.unacked.take_if(|unacked| unacked.cseq == cseq) else { return };
        self.schedule.remove(&(unacked.next, id, Timer::Unacknowledged));
        leg.flow = flow;
        let bye_wanted = leg.bye_wanted;
        self.tell(id, LegEvent::Acked { body: body_of(request) });
        if bye_wanted {
            self.send_bye(now, endpoint, id, None);
        } else {
            self.send_reoffer(now, endpoint, id);
        }
    }

    // --- our 2xx until its ACK

    fn send_accepted(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, tx: ServerTx, cseq: u32, response: Response) {
        let timers = endpoint.config().timers;
        endpoint.respond(now, tx, response.clone());
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let next = now + timers.t1;
        leg.unacked = Some(Unacked { tx, response, cseq, next, interval: timers.t1, give_up: now + timers.patience() });
        self.schedule.insert((next, id, Timer::Unacknowledged));
    }

    /// RFC 3261 §13.3.1.4: again after T1, 2·T1 … T2, over any transport; after 64·T1 the leg is ended.
    fn repeat_accepted(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId) {
        let t2 = endpoint.config().timers.t2;
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Some(unacked) = &mut leg.unacked else { return };
        if now >= unacked.give_up {
            leg.unacked = None;
            self.tell(id, LegEvent::Ended { how: Ended::Lost });
            return self.send_bye(now, endpoint, id, None);
        }
        endpoint.respond(now, unacked.tx, unacked.response.clone());
        unacked.interval = (unacked.interval * 2).min(t2);
        unacked.next = (now + unacked.interval).min(unacked.give_up);
        self.schedule.insert((unacked.next, id, Timer::Unacknowledged));
    }

    // --- answers of the peer

    fn handle_response(&mut self, now: Instant, endpoint: &mut Endpoint, tx: ClientTx, response: &Message) {
        let Some(status) = response.status() else { return };
        if let Some(ack) = self.acks.get(&tx) {
            return self.handle_repeated_accept(now, endpoint, ack.answer_to(response), tx, response);
        }
        let Some(&what) = self.clients.get(&tx) else { return };
        if status < 200 {
            if let Use::Invite(id) = what
                && status > 100
            {
                self.tell(id, LegEvent::Ringing { status, body: body_of(response) });
            }
            return;
        }
        self.clients.remove(&tx);
        match what {
            Use::Invite(id) => self.handle_invite_final(now, endpoint, id, tx, status, response),
            Use::Reinvite(id) => self.handle_reinvite_final(now, endpoint, id, tx, status, response),
            Use::Bye(id) => self.handle_bye_final(now, endpoint, id, status, response),
            Use::Info(id) => {
                if status == 481 || status == 408 {
                    self.lose(id);
                }
            }
            Use::Outside(id) => self.handle_outside_final(now, endpoint, id, status, response),
            Use::Nobody => {}
        }
    }

    /// No answer, or it could not be sent.
    fn handle_failure(&mut self, now: Instant, endpoint: &mut Endpoint, tx: ClientTx, status: u16) {
        match self.clients.remove(&tx) {
            Some(Use::Invite(id)) => {
                self.tell(id, LegEvent::Refused { status, reason: super::build::reason_phrase(status).to_owned() });
                self.forget(id);
            }
            // RFC 3261 §12.2.1.2: no answer within a dialog ends it.
            Some(Use::Reinvite(id)) => {
                self.tell(id, LegEvent::Ended { how: Ended::Lost });
                self.send_bye(now, endpoint, id, None);
            }
            Some(Use::Info(id)) => self.lose(id),
            Some(Use::Bye(id)) => self.forget(id),
            Some(Use::Outside(id)) => {
                self.outsides.remove(&id);
                self.events.push_back(Event::Replied { request: id, response: None });
            }
            Some(Use::Nobody) | None => {}
        }
    }

    fn handle_invite_final(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, tx: ClientTx, status: u16, response: &Message) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Stage::Calling { tx: current, calling } = &mut leg.stage else { return };
        if status >= 300 {
            let answer = answer_to(&mut leg.login, &mut leg.challenged, response, &Method::Invite, &calling.invite.uri, endpoint);
            if let Some((name, value)) = answer.filter(|_| !calling.cancelled) {
                calling.cseq += 1;
                let request = calling.request(endpoint).header(name, value);
                *current = endpoint.request(now, leg.flow, request);
                self.clients.insert(*current, Use::Invite(id));
                return;
            }
            self.tell(id, LegEvent::Refused { status, reason: response.reason().into_owned() });
            return self.forget(id);
        }
        let (local, local_tag, contact, cseq) = (calling.local(), calling.tag.clone(), calling.contact.clone(), calling.cseq);
        let cancelled = calling.cancelled;
        let Ok(dialog) = Dialog::from_response(response, &local, &local_tag, cseq, &contact) else {
            self.tell(id, LegEvent::Refused { status: 502, reason: "answer without a dialog".to_owned() });
            return self.forget(id);
        };
        let transmit = endpoint.send(leg.flow, dialog.ack(cseq));
        let to_tag = dialog.id.remote_tag.clone();
        self.dialogs.insert(dialog.id.clone(), id);
        leg.stage = Stage::Up(Box::new(dialog));
        leg.calm();
        self.remember_ack(now, endpoint, tx, SentAck { to_tag, transmit, local, local_tag, contact, cseq });
        if cancelled {
            // Our CANCEL and their answer have crossed.
            return self.send_bye(now, endpoint, id, None);
        }
        self.tell(id, LegEvent::Answered { body: body_of(response) });
    }

    fn remember_ack(&mut self, now: Instant, endpoint: &Endpoint, tx: ClientTx, ack: SentAck) {
        self.acks.insert(tx, ack);
        self.acks_end.push_back((now + endpoint.config().timers.patience(), tx));
    }

    /// A copy of a 2xx, or the 2xx of another phone behind a forking proxy, which is too late.
    fn handle_repeated_accept(&mut self, now: Instant, endpoint: &mut Endpoint, answer: RepeatedAccept, tx: ClientTx, response: &Message) {
        match answer {
            RepeatedAccept::Ack(transmit) => endpoint.transmit(transmit),
            RepeatedAccept::Ignore => {}
            RepeatedAccept::Other => {
                let Some(ack) = self.acks.get(&tx) else { return };
                let flow = ack.transmit.flow;
                let Ok(mut dialog) = Dialog::from_response(response, &ack.local, &ack.local_tag, ack.cseq, &ack.contact) else { return };
                endpoint.send(flow, dialog.ack(ack.cseq));
                let bye = endpoint.request(now, flow, dialog.request(Method::Bye));
                self.clients.insert(bye, Use::Nobody);
            }
        }
    }

    fn handle_reinvite_final(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, tx: ClientTx, status: u16, response: &Message) {
        let random = endpoint.ids().next_u64();
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let flow = leg.flow;
        let is_caller = leg.unacked.is_none() && leg.we_called();
        let Stage::Up(dialog) = &mut leg.stage else {
            // We hung up meanwhile; a 2xx wants its ACK all the same.
            if let (Stage::Leaving(dialog), 200..300) = (&leg.stage, status) {
                let cseq = response.cseq().map_or(0, |cseq| cseq.number);
                endpoint.send(flow, dialog.ack(cseq));
            }
            return;
        };
        let Some(ours) = leg.ours.as_mut().filter(|ours| ours.tx == Some(tx)) else { return };
        match status {
            200..300 => {
                dialog.refresh_target(response);
                let cseq = ours.cseq;
                let transmit = endpoint.send(flow, dialog.ack(cseq));
                let to_tag = dialog.id.remote_tag.clone();
                let (local_tag, contact) = (dialog.id.local_tag.clone(), dialog.contact().to_owned());
                leg.ours = None;
                self.remember_ack(now, endpoint, tx, SentAck { to_tag, transmit, local: String::new(), local_tag, contact, cseq });
                self.tell(id, LegEvent::ReofferAnswered { body: body_of(response) });
            }
            491 if ours.tries < MOST_GLARES => {
                // RFC 3261 §14.1: who made the Call-ID waits 2.1 to 4 s, the other up to 2 s.
                let wait_ms = if is_caller { 2100 + random % 1900 } else { random % 2000 };
                ours.tx = None;
                self.schedule.insert((now + Duration::from_millis(wait_ms), id, Timer::ReofferAgain));
            }
            401 | 407 => {
                let answer = answer_to(&mut leg.login, &mut leg.challenged, response, &Method::Invite, dialog.target(), endpoint);
                let Some((name, value)) = answer else {
                    leg.ours = None;
                    return self.tell(id, LegEvent::ReofferFailed { status });
                };
                let request = dialog.request(Method::Invite).header(name, value).body(SDP, ours.body.clone());
                let tx = endpoint.request(now, flow, request);
                ours.cseq = dialog.local_cseq();
                ours.tx = Some(tx);
                self.clients.insert(tx, Use::Reinvite(id));
            }
            481 | 408 => {
                self.tell(id, LegEvent::Ended { how: Ended::Lost });
                self.send_bye(now, endpoint, id, None);
            }
            _ => {
                leg.ours = None;
                self.tell(id, LegEvent::ReofferFailed { status });
            }
        }
    }

    fn handle_bye_final(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, status: u16, response: &Message) {
        if let Some(leg) = self.legs.get_mut(&id)
            && let Stage::Leaving(dialog) = &mut leg.stage
            && matches!(status, 401 | 407)
            && let Some((name, value)) = answer_to(&mut leg.login, &mut leg.challenged, response, &Method::Bye, dialog.target(), endpoint)
        {
            let tx = endpoint.request(now, leg.flow, dialog.request(Method::Bye).header(name, value));
            self.clients.insert(tx, Use::Bye(id));
            return;
        }
        self.forget(id);
    }

    fn handle_outside_final(&mut self, now: Instant, endpoint: &mut Endpoint, id: RequestId, status: u16, response: &Message) {
        if matches!(status, 401 | 407)
            && let Some(state) = self.outsides.get_mut(&id)
            && let (method, uri) = (&state.outside.method, &state.outside.uri)
            && let Some((name, value)) = answer_to(&mut state.login, &mut state.challenged, response, method, uri, endpoint)
        {
            state.cseq += 1;
            let tx = endpoint.request(now, state.outside.flow, state.request().header(name, value));
            self.clients.insert(tx, Use::Outside(id));
            return;
        }
        self.outsides.remove(&id);
        self.events.push_back(Event::Replied { request: id, response: Some(response.clone()) });
    }

    // --- within a dialog

    fn send_bye(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, reason: Option<&str>) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        if let Some(unacked) = leg.unacked.take() {
            self.schedule.remove(&(unacked.next, id, Timer::Unacknowledged));
        }
        if let Some(theirs) = leg.theirs.take() {
            endpoint.respond(now, theirs.tx, Response::to(&theirs.request, 487));
        }
        leg.owned = false;
        leg.calm();
        let Stage::Up(dialog) = &mut leg.stage else { return };
        let mut dialog = dialog.clone();
        let request = dialog.request(Method::Bye);
        let request = match reason {
            Some(reason) => request.header(Name::Reason, reason),
            None => request,
        };
        let tx = endpoint.request(now, leg.flow, request);
        leg.stage = Stage::Leaving(dialog);
        self.clients.insert(tx, Use::Bye(id));
    }

    /// Sends our change if there is one and nothing stands in its way.
    fn send_reoffer(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let busy = leg.theirs.is_some() || leg.unacked.is_some();
        let (Stage::Up(dialog), Some(ours)) = (&mut leg.stage, &mut leg.ours) else { return };
        if busy || ours.tx.is_some() {
            return;
        }
        let allow = endpoint.config().abilities.allow();
        let request = dialog.request(Method::Invite).header(Name::Allow, allow).body(SDP, ours.body.clone());
        let tx = endpoint.request(now, leg.flow, request);
        ours.tx = Some(tx);
        ours.cseq = dialog.local_cseq();
        ours.tries += 1;
        self.clients.insert(tx, Use::Reinvite(id));
    }

    /// The peer knows nothing of the dialog.
    fn lose(&mut self, id: LegId) {
        self.tell(id, LegEvent::Ended { how: Ended::Lost });
        self.forget(id);
    }

    fn tell(&mut self, id: LegId, event: LegEvent) {
        if self.legs.get(&id).is_some_and(|leg| leg.owned) {
            self.events.push_back(Event::Leg { leg: id, event });
        }
    }

    fn forget(&mut self, id: LegId) {
        let Some(leg) = self.legs.remove(&id) else { return };
        if let Some(unacked) = &leg.unacked {
            self.schedule.remove(&(unacked.next, id, Timer::Unacknowledged));
        }
        match &leg.stage {
            Stage::Calling { tx, .. } => drop(self.clients.remove(tx)),
            Stage::Offered { tx, dialog, .. } => {
                self.offered.remove(tx);
                self.dialogs.remove(&dialog.id);
            }
            Stage::Up(dialog) | Stage::Leaving(dialog) => drop(self.dialogs.remove(&dialog.id)),
        }
    }
}

enum RepeatedAccept {
    /// The same phone again: it did not get our ACK.
    Ack(Transmit),
    /// Another phone.
    Other,
    Ignore,
}

impl SentAck {
    fn answer_to(&self, response: &Message) -> RepeatedAccept {
        let tag = response.to().ok().and_then(|to| to.tag()).unwrap_or_default();
        match response.status() {
            Some(200..300) if tag == self.to_tag => RepeatedAccept::Ack(self.transmit.clone()),
            Some(200..300) if !self.local.is_empty() => RepeatedAccept::Other,
            _ => RepeatedAccept::Ignore,
        }
    }
}

impl Leg {
    fn new(flow: Flow, stage: Stage, login: Option<Login>) -> Self {
        Self { flow, stage, owned: true, login, unacked: None, theirs: None, ours: None, bye_wanted: false, challenged: 0 }
    }

    fn dialog_mut(&mut self) -> Option<&mut Dialog> {
        match &mut self.stage {
            Stage::Calling { .. } => None,
            Stage::Offered { dialog, .. } | Stage::Up(dialog) | Stage::Leaving(dialog) => Some(dialog),
        }
    }

    /// A new request begins, or the last was accepted: a challenge is again the first.
    fn calm(&mut self) {
        self.challenged = 0;
        if let Some(login) = &mut self.login {
            login.handle_success();
        }
    }

    /// Whether the Call-ID is ours.
    fn we_called(&self) -> bool {
        match &self.stage {
            Stage::Calling { .. } => true,
            Stage::Offered { .. } => false,
            Stage::Up(dialog) | Stage::Leaving(dialog) => dialog.we_called(),
        }
    }
}

impl Calling {
    /// From, with our tag.
    fn local(&self) -> String {
        format!("{};tag={}", name_addr(&self.invite.from.0, &self.invite.from.1), self.tag)
    }

    fn request(&self, endpoint: &Endpoint) -> Request {
        let request = Request::new(Method::Invite, self.invite.uri.as_str())
            .header(Name::From, self.local())
            .header(Name::To, format_args!("<{}>", self.invite.to))
            .header(Name::CallId, &self.call_id)
            .header(Name::CSeq, format_args!("{} INVITE", self.cseq))
            .header(Name::Contact, &self.contact)
            .header(Name::Allow, endpoint.config().abilities.allow());
        let request = self.invite.headers.iter().fold(request, |request, (name, value)| request.header_named(name, value));
        match &self.invite.offer {
            Some(offer) => request.body(SDP, offer.clone()),
            None => request,
        }
    }
}

impl OutsideState {
    fn request(&self) -> Request {
        let outside = &self.outside;
        let request = Request::new(outside.method.clone(), outside.uri.as_str())
            .header(Name::From, format_args!("{};tag={}", name_addr(&outside.from.0, &outside.from.1), self.tag))
            .header(Name::To, format_args!("<{}>", outside.to))
            .header(Name::CallId, &self.call_id)
            .header(Name::CSeq, format_args!("{} {}", self.cseq, outside.method));
        let request = outside.headers.iter().fold(request, |request, (name, value)| request.header_named(name, value));
        match &outside.body {
            Some((kind, body)) => request.body(kind, body.clone()),
            None => request,
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

/// A 200 that makes or keeps a dialog.
fn accepted(endpoint: &Endpoint, dialog: &Dialog, request: &Message) -> Response {
    dialog.response(request, 200).header(Name::Allow, endpoint.config().abilities.allow())
}

fn body_of(message: &Message) -> Option<Bytes> {
    (!message.body().is_empty()).then(|| message.body_bytes())
}

/// Our Contact: where requests within the dialog shall come.
fn contact(endpoint: &Endpoint, flow: &Flow, user: &str) -> String {
    let transport = if flow.transport.is_reliable() { format!(";transport={}", flow.transport) } else { String::new() };
    let at = if user.is_empty() { "" } else { "@" };
    let uri = format!("sip:{user}{at}{}{transport}", endpoint.sent_by(flow));
    // A user part that makes no URI is left out.
    match Uri::parse(&uri) {
        Ok(_) => format!("<{uri}>"),
        Err(_) => format!("<sip:{}{transport}>", endpoint.sent_by(flow)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Secret,
        sip::{endpoint, ids::Ids},
    };

    /// Two user agents and a link between them that loses and delays, in virtual time.
    struct Pair {
        now: Instant,
        start: Instant,
        sides: [Side; 2],
        /// In the air: when it arrives, in which order it left, where to, what.
        air: BTreeSet<(Instant, u64, usize, Bytes)>,
        sent: u64,
        loss_percent: u64,
        dice: Ids,
        /// First lines of what was sent, with milliseconds and sender.
        log: Vec<(u64, usize, String)>,
        /// Sent by one side from here on, thrown away if its first line has this word.
        lose: Option<(usize, &'static str)>,
    }

    struct Side {
        endpoint: Endpoint,
        agent: UserAgent,
        address: std::net::SocketAddr,
        heard: Vec<String>,
        legs: Vec<LegId>,
        incoming: Vec<Message>,
    }

    const A: usize = 0;
    const B: usize = 1;

    impl Pair {
        fn new(seed: u8, loss_percent: u64) -> Self {
            let now = Instant::now();
            let side = |which: u8| Side {
                endpoint: Endpoint::new(endpoint::Config::default(), [seed ^ which; 32]),
                agent: UserAgent::new(Config::default()),
                address: format!("10.0.0.{which}:5060").parse().unwrap(),
                heard: Vec::new(),
                legs: Vec::new(),
                incoming: Vec::new(),
            };
            let dice = Ids::new([seed; 32]);
            Self { now, start: now, sides: [side(1), side(2)], air: BTreeSet::new(), sent: 0, loss_percent, dice, log: vec![], lose: None }
        }

        fn invite(&mut self, credentials: Option<Credentials>) -> LegId {
            let flow = Flow::udp(self.sides[A].address, self.sides[B].address);
            let side = &mut self.sides[A];
            let leg = side.agent.new_leg();
            let invite = Invite {
                uri: "sip:b@10.0.0.2".into(),
                flow,
                from: ("Ada".into(), "sip:a@10.0.0.1".into()),
                to: "sip:b@10.0.0.2".into(),
                contact_user: "a".into(),
                offer: Some(Bytes::from_static(b"offer")),
                credentials,
                headers: vec![],
            };
            side.agent.invite(self.now, &mut side.endpoint, leg, invite);
            leg
        }

        fn on<R>(&mut self, which: usize, act: impl FnOnce(&mut UserAgent, Instant, &mut Endpoint, LegId) -> R) -> R {
            let now = self.now;
            let side = &mut self.sides[which];
            let leg = *side.legs.last().expect("a leg");
            act(&mut side.agent, now, &mut side.endpoint, leg)
        }

        /// Moves messages, events and time until `millis` after the start.
        fn run_until(&mut self, millis: u64) {
            let end = self.start + Duration::from_millis(millis);
            loop {
                self.settle();
                let timers = self.sides.iter().flat_map(|s| [s.endpoint.poll_timeout(), s.agent.poll_timeout()]).flatten();
                let next = timers.chain(self.air.first().map(|(at, ..)| *at)).min().filter(|at| *at <= end);
                let Some(next) = next else { break };
                self.now = self.now.max(next);
                while let Some((_, _, to, bytes)) = self.air.first().filter(|(at, ..)| *at <= self.now).cloned() {
                    self.air.pop_first();
                    let from = self.sides[1 - to].address;
                    let side = &mut self.sides[to];
                    side.endpoint.handle_message(self.now, Flow::udp(side.address, from), bytes);
                }
                for side in &mut self.sides {
                    side.endpoint.handle_timeout(self.now);
                    side.agent.handle_timeout(self.now, &mut side.endpoint);
                }
            }
            self.now = end;
        }

        fn settle(&mut self) {
            for which in [A, B] {
                loop {
                    let now = self.now;
                    let side = &mut self.sides[which];
                    while let Some(event) = side.endpoint.poll_event() {
                        side.agent.handle(now, &mut side.endpoint, event);
                    }
                    let mut quiet = true;
                    while let Some(event) = side.agent.poll_event() {
                        quiet = false;
                        match event {
                            Event::Incoming { leg, request, .. } => {
                                side.heard.push("incoming".into());
                                side.incoming.push(request);
                                side.legs.push(leg);
                            }
                            Event::Leg { leg, event } => {
                                side.legs.push(leg);
                                side.heard.push(words(&event));
                            }
                            Event::Request { tx, request, .. } => {
                                side.heard.push(request.method().unwrap().to_string());
                                side.endpoint.respond(now, tx, Response::to(&request, 200));
                            }
                            Event::Replied { response, .. } => {
                                side.heard.push(format!("replied {:?}", response.and_then(|r| r.status())));
                            }
                        }
                    }
                    if quiet {
                        break;
                    }
                }
                while let Some(transmit) = self.sides[which].endpoint.poll_transmit() {
                    let line = String::from_utf8_lossy(&transmit.bytes).lines().next().unwrap_or_default().to_owned();
                    let millis = (self.now - self.start).as_millis() as u64;
                    let lost = self.lose.is_some_and(|(who, word)| who == which && line.contains(word))
                        || self.dice.next_u64() % 100 < self.loss_percent;
                    self.log.push((millis, which, line));
                    if !lost {
                        self.sent += 1;
                        self.air.insert((self.now + Duration::from_millis(10), self.sent, 1 - which, transmit.bytes));
                    }
                }
            }
        }

        /// When `who` sent a line with this word.
        fn times(&self, who: usize, word: &str) -> Vec<u64> {
            self.log.iter().filter(|(_, which, line)| *which == who && line.contains(word)).map(|(at, ..)| *at).collect()
        }

        fn answered(seed: u8) -> Self {
            let mut pair = Self::new(seed, 0);
            pair.invite(None);
            pair.run_until(20);
            pair.on(B, |ua, now, ep, leg| ua.answer(now, ep, leg, Bytes::from_static(b"answer")));
            pair.run_until(100);
            pair
        }
    }

    fn words(event: &LegEvent) -> String {
        let body = |body: &Option<Bytes>| body.as_ref().map(|b| format!(" {}", String::from_utf8_lossy(b))).unwrap_or_default();
        match event {
            LegEvent::Ringing { status, .. } => format!("ringing {status}"),
            LegEvent::Answered { body: b } => format!("answered{}", body(b)),
            LegEvent::Refused { status, .. } => format!("refused {status}"),
            LegEvent::Acked { body: b } => format!("acked{}", body(b)),
            LegEvent::Reoffered { body: b } => format!("reoffered{}", body(b)),
            LegEvent::ReofferAnswered { body: b } => format!("reoffer answered{}", body(b)),
            LegEvent::ReofferFailed { status } => format!("reoffer failed {status}"),
            LegEvent::Info { content_type, .. } => format!("info {content_type}"),
            LegEvent::Ended { how } => format!("ended {how:?}"),
        }
    }

    fn assert_nothing_left(pair: &Pair) {
        for side in &pair.sides {
            assert_eq!((side.agent.len(), side.agent.dialogs.len(), side.agent.clients.len(), side.agent.schedule.len()), (0, 0, 0, 0));
            assert_eq!((side.agent.offered.len(), side.agent.acks.len(), side.endpoint.transactions()), (0, 0, (0, 0)));
        }
    }

    #[test]
    fn a_call_from_ring_to_bye() {
        let mut pair = Pair::new(1, 0);
        pair.invite(None);
        pair.run_until(20);
        pair.on(B, |ua, now, ep, leg| ua.ring(now, ep, leg));
        pair.run_until(50);
        pair.on(B, |ua, now, ep, leg| ua.answer(now, ep, leg, Bytes::from_static(b"answer")));
        pair.run_until(100);
        pair.on(A, |ua, now, ep, leg| ua.info(now, ep, leg, "application/dtmf-relay", Bytes::from_static(b"Signal=5")));
        pair.run_until(150);
        pair.on(B, |ua, now, ep, leg| ua.hangup(now, ep, leg, Some("Q.850;cause=16")));
        pair.run_until(100_000);
        assert_eq!(pair.sides[A].heard, ["ringing 180", "answered answer", "ended HungUp"]);
        assert_eq!(pair.sides[B].heard, ["incoming", "acked", "info application/dtmf-relay"]);
        assert_nothing_left(&pair);
    }

    #[test]
    fn whatever_is_lost_a_call_comes_about_and_ends() {
        for seed in 0..60 {
            let mut pair = Pair::new(seed, 35);
            pair.invite(None);
            pair.run_until(25_000);
            // The INVITE itself may have been lost eleven times: then it timed out, which is an end too.
            if pair.sides[B].legs.is_empty() {
                continue;
            }
            pair.on(B, |ua, now, ep, leg| ua.answer(now, ep, leg, Bytes::from_static(b"answer")));
            pair.run_until(60_000);
            assert!(pair.sides[A].heard.contains(&"answered answer".to_owned()), "{seed}: {:?}", pair.sides[A].heard);
            pair.on(A, |ua, now, ep, leg| ua.hangup(now, ep, leg, None));
            pair.run_until(200_000);
            assert_nothing_left(&pair);
        }
    }

    #[test]
    fn an_answer_is_repeated_until_its_ack() {
        let mut pair = Pair::new(3, 0);
        pair.invite(None);
        pair.run_until(20);
        pair.lose = Some((A, "ACK"));
        pair.on(B, |ua, now, ep, leg| ua.answer(now, ep, leg, Bytes::from_static(b"answer")));
        pair.run_until(31_000);
        assert_eq!(pair.times(B, "200 OK"), [20, 520, 1520, 3520, 7520, 11520, 15520, 19520, 23520, 27520]);
        // Each copy had its ACK.
        assert_eq!(pair.times(A, "ACK").len(), 10);
        pair.run_until(100_000);
        // At 64·T1 the called side ends it.
        assert_eq!(pair.times(B, "BYE"), [32_020]);
        assert_eq!(pair.sides[B].heard, ["incoming", "ended Lost"]);
        assert_eq!(pair.sides[A].heard, ["answered answer", "ended HungUp"]);
        assert_nothing_left(&pair);
    }

    #[test]
    fn hanging_up_before_the_ack_waits_for_it() {
        let mut pair = Pair::new(4, 0);
        pair.invite(None);
        pair.run_until(20);
        pair.on(B, |ua, now, ep, leg| {
            ua.answer(now, ep, leg, Bytes::from_static(b"answer"));
            ua.hangup(now, ep, leg, None);
        });
        pair.run_until(100_000);
        assert_eq!(pair.times(B, "BYE"), [40]);
        assert_eq!(pair.sides[A].heard, ["answered answer", "ended HungUp"]);
        assert_nothing_left(&pair);
    }

    #[test]
    fn a_call_is_cancelled() {
        let mut pair = Pair::new(5, 0);
        let leg = pair.invite(None);
        pair.run_until(20);
        pair.on(B, |ua, now, ep, leg| ua.ring(now, ep, leg));
        pair.run_until(50);
        let (now, side) = (pair.now, &mut pair.sides[A]);
        side.agent.hangup(now, &mut side.endpoint, leg, None);
        pair.run_until(100_000);
        assert_eq!(pair.sides[B].heard, ["incoming", "ended Cancelled"]);
        assert_eq!(pair.times(B, "487").len(), 1);
        assert_nothing_left(&pair);
    }

    #[test]
    fn a_cancel_that_crosses_the_answer_becomes_a_bye() {
        let mut pair = Pair::new(6, 0);
        let leg = pair.invite(None);
        pair.run_until(20);
        pair.on(B, |ua, now, ep, leg| ua.ring(now, ep, leg));
        pair.run_until(50);
        let (now, side) = (pair.now, &mut pair.sides[A]);
        side.agent.hangup(now, &mut side.endpoint, leg, None);
        pair.on(B, |ua, now, ep, leg| ua.answer(now, ep, leg, Bytes::from_static(b"answer")));
        pair.run_until(100_000);
        assert_eq!(pair.sides[B].heard, ["incoming", "acked", "ended HungUp"]);
        assert_eq!(pair.sides[A].heard, ["ringing 180"]);
        assert_nothing_left(&pair);
    }

    #[test]
    fn both_hang_up_at_once() {
        let mut pair = Pair::answered(7);
        pair.on(A, |ua, now, ep, leg| ua.hangup(now, ep, leg, None));
        pair.on(B, |ua, now, ep, leg| ua.hangup(now, ep, leg, None));
        pair.run_until(200_000);
        assert_nothing_left(&pair);
    }

    #[test]
    fn a_change_is_answered_and_acknowledged() {
        let mut pair = Pair::answered(8);
        pair.on(A, |ua, now, ep, leg| ua.reoffer(now, ep, leg, Bytes::from_static(b"hold")));
        pair.run_until(150);
        pair.on(B, |ua, now, ep, leg| ua.answer_reoffer(now, ep, leg, Bytes::from_static(b"held")));
        pair.run_until(300);
        pair.on(B, |ua, now, ep, leg| ua.reoffer(now, ep, leg, Bytes::from_static(b"x")));
        pair.run_until(350);
        pair.on(A, |ua, now, ep, leg| ua.reject_reoffer(now, ep, leg, 488));
        pair.run_until(400);
        assert_eq!(pair.sides[A].heard, ["answered answer", "reoffer answered held", "reoffered x"]);
        assert_eq!(pair.sides[B].heard, ["incoming", "acked", "reoffered hold", "acked", "reoffer failed 488"]);
        pair.on(A, |ua, now, ep, leg| ua.hangup(now, ep, leg, None));
        pair.run_until(200_000);
        assert_nothing_left(&pair);
    }

    #[test]
    fn changes_that_meet_are_tried_again() {
        let mut pair = Pair::answered(9);
        pair.on(A, |ua, now, ep, leg| ua.reoffer(now, ep, leg, Bytes::from_static(b"from a")));
        pair.on(B, |ua, now, ep, leg| ua.reoffer(now, ep, leg, Bytes::from_static(b"from b")));
        for millis in (200..9_000).step_by(50) {
            pair.run_until(millis);
            for which in [A, B] {
                if pair.sides[which].heard.last().is_some_and(|last| last.starts_with("reoffered")) {
                    pair.sides[which].heard.push("answering".into());
                    pair.on(which, |ua, now, ep, leg| ua.answer_reoffer(now, ep, leg, Bytes::from_static(b"yes")));
                }
            }
        }
        assert_eq!(pair.log.iter().filter(|(_, _, line)| line.contains("491")).count(), 2);
        for which in [A, B] {
            assert!(pair.sides[which].heard.contains(&"reoffer answered yes".to_owned()), "{:?}", pair.sides[which].heard);
        }
    }

    #[test]
    fn a_challenge_is_answered_once() {
        let mut pair = Pair::new(10, 0);
        pair.invite(Some(Credentials { username: "a".into(), secret: Secret::new("p") }));
        let challenge = vec![(Name::ProxyAuthenticate, "Digest realm=\"r\", nonce=\"n\", qop=\"auth\"".to_owned())];
        pair.run_until(20);
        pair.on(B, |ua, now, ep, leg| ua.reject(now, ep, leg, 407, &challenge));
        pair.run_until(60);
        assert_eq!(pair.sides[B].incoming.len(), 2);
        assert!(pair.sides[B].incoming[1].header(Name::ProxyAuthorization).is_some());
        // Asked again without "stale": the password is wrong, and trying on would lock us out.
        pair.on(B, |ua, now, ep, leg| ua.reject(now, ep, leg, 407, &challenge));
        pair.run_until(100_000);
        assert_eq!(pair.sides[A].heard, ["refused 407"]);
        assert_nothing_left(&pair);
    }

    #[test]
    fn what_belongs_to_no_dialog_is_481() {
        let mut pair = Pair::answered(11);
        let mut stranger = None;
        for side in &mut pair.sides {
            stranger = side.agent.dialogs.keys().next().cloned().or(stranger);
        }
        let known = stranger.expect("a dialog");
        for method in ["BYE", "INVITE", "INFO", "UPDATE", "OPTIONS"] {
            let text = format!(
                "{method} sip:b@10.0.0.2 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK{method}\r\nMax-Forwards: 70\r\n\
                 From: <sip:a@10.0.0.1>;tag=guess\r\nTo: <sip:b@10.0.0.2>;tag=guess\r\nCall-ID: {}\r\nCSeq: 9 {method}\r\n\
                 Contact: <sip:a@10.0.0.1>\r\nContent-Length: 0\r\n\r\n",
                known.call_id
            );
            let side = &mut pair.sides[B];
            let flow = Flow::udp(side.address, "10.0.0.1:5060".parse().unwrap());
            side.endpoint.handle_message(pair.now, flow, text.into());
        }
        pair.run_until(200);
        assert_eq!(pair.times(B, "481").len(), 5);
        assert_eq!(pair.sides[B].heard, ["incoming", "acked"]);
    }

    #[test]
    fn a_phone_that_vanished_is_lost() {
        let mut pair = Pair::answered(12);
        pair.lose = Some((A, ""));
        pair.on(B, |ua, now, ep, leg| ua.reoffer(now, ep, leg, Bytes::from_static(b"there?")));
        pair.run_until(200_000);
        assert_eq!(pair.sides[B].heard, ["incoming", "acked", "ended Lost"]);
        assert_eq!(pair.sides[B].agent.len(), 0);
    }

    #[test]
    fn too_many_legs_are_503() {
        let mut pair = Pair::new(13, 0);
        pair.sides[B].agent.config.max_legs = 1;
        pair.invite(None);
        pair.invite(None);
        pair.run_until(100);
        assert_eq!(pair.sides[B].heard, ["incoming"]);
        assert_eq!(pair.sides[A].heard, ["refused 503"]);
    }

    #[test]
    fn requests_outside_of_dialogs_have_answers() {
        let mut pair = Pair::new(14, 0);
        let flow = Flow::udp(pair.sides[A].address, pair.sides[B].address);
        let outside = Outside {
            method: Method::Notify,
            uri: "sip:b@10.0.0.2".into(),
            flow,
            from: (String::new(), "sip:server@10.0.0.1".into()),
            to: "sip:b@10.0.0.2".into(),
            headers: vec![("Event".into(), "check-sync".into())],
            body: None,
            credentials: None,
        };
        let (now, side) = (pair.now, &mut pair.sides[A]);
        side.agent.request(now, &mut side.endpoint, outside.clone());
        pair.run_until(100);
        assert_eq!((pair.sides[B].heard.clone(), pair.sides[A].heard.clone()), (vec!["NOTIFY".into()], vec!["replied Some(200)".into()]));
        pair.lose = Some((A, ""));
        let (now, side) = (pair.now, &mut pair.sides[A]);
        side.agent.request(now, &mut side.endpoint, outside);
        pair.run_until(200_000);
        assert_eq!(pair.sides[A].heard.last().map(String::as_str), Some("replied None"));
        assert!(pair.sides[A].agent.outsides.is_empty());
    }
}
