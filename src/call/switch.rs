//! All calls of this engine: who rings, who is joined with whom, who hears what when somebody leaves. No I/O, no clock.
//!
//! A call has a near side (the caller) and a far side (who is called, or the voice menu). Each side is one [`Half`], or
//! several while an extension's phones ring at once. What a half tells ([`LegEvent`]) goes in, [`Action`]s come out; what
//! must be known at once (who is registered, a media port) is asked of the [`World`].
//!
//! ```text
//!  near         far
//!  Offered      Called…      a phone calls another:   far 200 → answer near, bridge
//!  Offered      Menu         a phone calls the menu:  answer near, its ACK → hand over
//!  Called…      None         originated:              near 200 → ring far (or hand over)
//!  Up           Called…      originated, transferred: far 200 → bridge
//!  Up           Up           talking;                 who leaves ends it
//! ```
//! Not here: who may call whom (`routing.rs`), SIP, packets, transfer by phones, trunks.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    mem,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Config,
    half::{CallState, Cause, Contact, Half, HalfState, LegEnd, LegEvent, MediaPort, Snapshot},
    routing::{Caller, Route, route},
};
use crate::{
    media::SessionId,
    model::{CallId, Event, Extension, MacAddr},
    sdp::{self, Attribute, Codec, Description, Direction, MediaParams, Terms},
    sip::{transport::Flow, ua::LegId},
};

/// What the switch asks and must know at once. None of it may wait.
pub trait World {
    /// Phones registered for this user now, the latest first.
    fn contacts(&self, user: &str) -> Vec<Contact>;
    /// Has somebody this number, registered or not?
    fn is_extension(&self, number: &str) -> bool;
    /// The name that goes with an extension; empty when there is none.
    fn display_name(&self, extension: &str) -> String;
    /// A number for a new leg.
    fn new_leg(&mut self) -> LegId;
    /// A port that a phone behind `flow` can send to. `None`: there are no more.
    fn open_media(&mut self, flow: &Flow, purpose: Purpose) -> Option<MediaPort>;
    /// A place in the voice menu's inbox, kept until the call is handed over or over. `false`: it is full.
    fn reserve_service(&mut self, call: CallId) -> bool;
    fn random(&mut self) -> u64;
}

/// Whom a media port's events are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `near`: whom it will be joined with, if that is known.
    Bridge {
        near: Option<SessionId>,
    },
    Service(CallId),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    // --- legs
    Invite {
        leg: LegId,
        contact: Contact,
        caller: CallerId,
        offer: Bytes,
    },
    Ring {
        leg: LegId,
    },
    Answer {
        leg: LegId,
        sdp: Bytes,
    },
    /// A final answer to a call that nobody took.
    Refuse {
        leg: LegId,
        status: u16,
        retry_after_secs: Option<u32>,
    },
    /// CANCEL or BYE, as its state wants. `elsewhere`: another phone of the extension took the call (RFC 3326).
    Hangup {
        leg: LegId,
        elsewhere: bool,
    },
    Reoffer {
        leg: LegId,
        sdp: Bytes,
    },
    AnswerReoffer {
        leg: LegId,
        sdp: Bytes,
    },
    RefuseReoffer {
        leg: LegId,
        status: u16,
    },
    // --- media
    SetRemote {
        media: SessionId,
        params: MediaParams,
    },
    Bridge {
        near: SessionId,
        far: SessionId,
    },
    /// Both stay open and hear nothing of each other.
    Unbridge {
        media: SessionId,
    },
    /// A key that came by SIP INFO: counts as if the phone had sent it by RTP.
    Key {
        media: SessionId,
        key: char,
    },
    /// The caller waits while somebody rings: let it hear so.
    RingBack {
        media: SessionId,
        on: bool,
    },
    CloseMedia {
        media: SessionId,
    },
    // --- the voice menu
    HandOver {
        call: CallId,
        leg: LegId,
        caller: Caller,
        media: MediaPort,
        source: SocketAddr,
    },
    ServiceEnded {
        call: CallId,
        cause: Cause,
    },
    /// How a transfer that the menu asked for went. If nobody took the call, the menu has it again.
    Transferred {
        call: CallId,
        taken: bool,
    },
    Tell(Event),
}

/// Who is shown to the phone that rings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerId {
    pub user: String,
    pub display_name: String,
}

/// A call that came in and was authenticated.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub leg: LegId,
    pub caller: Caller,
    /// User part of the request URI, unescaped.
    pub dialled: String,
    pub offer: Option<Bytes>,
    pub flow: Flow,
    pub source: SocketAddr,
}

/// Click to dial: ring the user's phones, then the far end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Originate {
    pub from: Extension,
    pub to: String,
    /// Shown to the far end instead of the user's own number.
    pub caller_id: Option<String>,
    /// How long each side may ring; the configured time when `None`.
    pub timeout: Option<Duration>,
    pub labels: Vec<(String, String)>,
}

/// Why an originated call did not even begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginateError {
    #[error("{0} has no phone registered: plug one in, or choose another user")]
    NotRegistered(Extension),
    #[error("nobody has the number {0}")]
    NoSuchNumber(String),
    #[error("too many calls at once: try again in {retry_after_secs} s")]
    Overload { retry_after_secs: u32 },
}

/// What the voice menu asks for a call that it was handed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceCommand {
    Hangup,
    /// Ring this extension and join the caller with it; [`Action::Transferred`] tells how it went.
    Transfer {
        to: Extension,
    },
}

pub struct Switch {
    config: Arc<Config>,
    calls: HashMap<CallId, Call>,
    legs: HashMap<LegId, CallId>,
    /// Calls of each caller, by user part.
    callers: HashMap<String, usize>,
    /// One deadline per ringing call.
    deadlines: BTreeSet<(Instant, CallId)>,
    actions: VecDeque<Action>,
}

struct Call {
    caller: Caller,
    /// For a call that the API began: no device asked for it.
    mac: Option<MacAddr>,
    shown: CallerId,
    dialled: String,
    labels: Vec<(String, String)>,
    source: SocketAddr,
    ring_timeout: Duration,
    started: Instant,
    answered: Option<Instant>,
    deadline: Option<Instant>,
    rang: bool,
    near: Side,
    far: Side,
    /// The menu waits to hear whether its transfer is taken.
    lent: bool,
    /// Where an originated call goes once its caller is there.
    next: Option<Route>,
    /// The best reason so far, of phones that did not answer.
    failure: Option<Cause>,
}

enum Side {
    None,
    /// Phones that we call, all at once.
    Ringing(Vec<Half>),
    One(Box<Half>),
    /// The voice menu; `handed` once the call is in its inbox.
    Menu {
        handed: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Near,
    Far,
}

impl Switch {
    pub fn new(config: Arc<Config>) -> Self {
        Self {
            config,
            calls: HashMap::new(),
            legs: HashMap::new(),
            callers: HashMap::new(),
            deadlines: BTreeSet::new(),
            actions: VecDeque::new(),
        }
    }

    /// New rules for new calls; those that are up go on.
    pub fn reload(&mut self, config: Arc<Config>) {
        self.config = config;
    }

    /// A phone calls. It was authenticated as `incoming.caller`.
    pub fn handle_incoming(&mut self, now: Instant, world: &mut dyn World, incoming: Incoming) {
        let route = route(&self.config, &incoming.caller, &incoming.dialled, |number| world.is_extension(number));
        if let Err(cause) = self.admit(&incoming.caller, &route) {
            return self.refuse(&incoming, cause);
        }
        let offer = match incoming.offer.as_deref().map(Description::parse).transpose() {
            Ok(offer) => offer,
            Err(_) => return self.refuse(&incoming, Cause::NothingInCommon),
        };
        let id = self.new_id(world);
        match route {
            Route::Unknown => self.refuse(&incoming, Cause::Unknown),
            Route::Service => self.enter_menu(now, world, id, incoming, offer),
            Route::Extension(extension) => self.call_out(now, world, id, incoming, offer, &[extension]),
            Route::Emergency(extensions) => self.call_out(now, world, id, incoming, offer, &extensions),
        }
    }

    /// Begins a call for the API. Its end is told by events.
    pub fn originate(&mut self, now: Instant, world: &mut dyn World, wanted: Originate) -> Result<CallId, OriginateError> {
        let display_name = world.display_name(wanted.from.as_str());
        let Some(first) = world.contacts(wanted.from.as_str()).into_iter().next() else {
            return Err(OriginateError::NotRegistered(wanted.from));
        };
        let caller = Caller { user: wanted.from.to_string(), display_name, mac: first.mac, line: first.line, provisional: false };
        let next = route(&self.config, &caller, &wanted.to, |number| world.is_extension(number));
        if next == Route::Unknown {
            return Err(OriginateError::NoSuchNumber(wanted.to));
        }
        let overload = OriginateError::Overload { retry_after_secs: self.config.retry_after_secs };
        if self.admit(&caller, &next).is_err() {
            return Err(overload);
        }
        let id = self.new_id(world);
        if next == Route::Service && !world.reserve_service(id) {
            return Err(overload);
        }
        let shown = match wanted.caller_id {
            Some(number) => CallerId { user: number, display_name: String::new() },
            None => CallerId { user: caller.user.clone(), display_name: caller.display_name.clone() },
        };
        let mut call = Call::new(now, caller, wanted.to.clone(), shown, first.flow.peer);
        call.labels = wanted.labels;
        call.ring_timeout = wanted.timeout.unwrap_or(self.config.ring_timeout);
        let purpose = if next == Route::Service { Purpose::Service(id) } else { Purpose::Bridge { near: None } };
        // The user's own phone shows where the call will go.
        let callee = CallerId { display_name: world.display_name(&wanted.to), user: wanted.to };
        let plan = Plan { shown: callee, codecs: self.config.codecs.clone(), foreign: Vec::new(), purpose, except: None };
        let near = self.ring(world, id, std::slice::from_ref(&wanted.from), plan);
        if near.is_empty() {
            return Err(overload);
        }
        call.near = Side::Ringing(near);
        call.next = Some(next);
        self.insert(now, id, call);
        Ok(id)
    }

    /// Ends a call from outside. `false`: there is no such call.
    pub fn hangup(&mut self, now: Instant, call: CallId) -> bool {
        let known = self.calls.contains_key(&call);
        if known {
            self.end(now, call, Cause::Requested, None, None);
        }
        known
    }

    /// The voice menu decides about a call that it has.
    pub fn handle_service(&mut self, now: Instant, world: &mut dyn World, id: CallId, command: ServiceCommand) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let handed = matches!(call.far, Side::Menu { handed: true });
        match command {
            ServiceCommand::Hangup if handed || call.lent => self.end(now, id, Cause::ServiceDone, None, None),
            ServiceCommand::Transfer { to } if handed => {
                call.far = Side::None;
                call.lent = true;
                call.dialled = to.to_string();
                self.ring_far(now, world, id, &[to]);
            }
            // The menu has given the call away, or never had it.
            ServiceCommand::Hangup | ServiceCommand::Transfer { .. } => {}
        }
    }

    /// What a leg tells of itself.
    pub fn handle_leg(&mut self, now: Instant, world: &mut dyn World, leg: LegId, event: LegEvent) {
        let Some(&id) = self.legs.get(&leg) else { return };
        match event {
            LegEvent::Ringing => self.on_ringing(id, leg),
            LegEvent::Answered { sdp } => self.on_answered(now, world, id, leg, sdp),
            LegEvent::Refused { status } => self.on_refused(now, id, leg, Cause::of_status(status), Some(status)),
            LegEvent::Acked { sdp } => self.on_acked(now, id, leg, sdp),
            LegEvent::Reoffered { offer } => self.on_reoffered(id, leg, offer),
            LegEvent::ReofferAnswered { sdp } => self.on_reoffer_answered(id, leg, sdp),
            LegEvent::ReofferFailed { .. } => self.on_reoffer_failed(id, leg),
            LegEvent::Key { key } => self.on_key(id, leg, key),
            LegEvent::Ended { how } => self.on_ended(now, id, leg, how),
        }
    }

    /// Time has passed; call at [`Self::poll_timeout`]. Earlier is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.deadlines.first().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, id));
            let Some(call) = self.calls.get_mut(&id) else { continue };
            call.deadline = None;
            self.nobody(now, id, Cause::NoAnswer, None);
        }
    }

    /// The next thing to do, oldest first. Drain to `None` after every `handle_*`.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// All calls, the oldest first.
    pub fn list(&self, now: Instant) -> Vec<Snapshot> {
        let mut all: Vec<_> = self.calls.iter().map(|(id, call)| call.snapshot(*id, now)).collect();
        all.sort_by_key(|one| (std::cmp::Reverse(one.age), one.call));
        all
    }

    pub fn len(&self) -> usize {
        self.calls.len()
    }

    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Ends all, for shutdown.
    pub fn end_all(&mut self, now: Instant) {
        for id in self.calls.keys().copied().collect::<Vec<_>>() {
            self.end(now, id, Cause::Requested, None, None);
        }
    }

    // --- a call begins

    fn admit(&self, caller: &Caller, route: &Route) -> Result<(), Cause> {
        let count = self.calls.len();
        // Emergency calls are not limited; only memory is.
        if matches!(route, Route::Emergency(_)) {
            return if count < self.config.max_calls.saturating_mul(2) + 16 { Ok(()) } else { Err(Cause::Overload) };
        }
        let own = self.callers.get(&caller.user).copied().unwrap_or(0);
        let own_limit = if caller.provisional { self.config.max_calls_unbound } else { self.config.max_calls_extension };
        if count >= self.config.max_calls || own >= own_limit { Err(Cause::Overload) } else { Ok(()) }
    }

    /// Says no before there is a call.
    fn refuse(&mut self, incoming: &Incoming, cause: Cause) {
        let retry_after_secs = (cause == Cause::Overload).then_some(self.config.retry_after_secs);
        self.actions.push_back(Action::Refuse { leg: incoming.leg, status: cause.status(), retry_after_secs });
        self.tell(Event::CallRefused {
            from: incoming.caller.user.clone(),
            to: incoming.dialled.clone(),
            mac: Some(incoming.caller.mac),
            reason: cause.as_str().to_owned(),
        });
    }

    /// The caller's half of a call that came in.
    fn near_half(&mut self, world: &mut dyn World, incoming: &Incoming, offer: Option<Description>, purpose: Purpose) -> Option<Half> {
        let media = world.open_media(&incoming.flow, purpose)?;
        let sdp = sdp::Session::new(world.random(), media.address, &self.config.codecs);
        let wants = offer.as_ref().and_then(|o| o.audio().map(|(_, stream)| stream.direction()));
        let mut half =
            Half::new(incoming.leg, &incoming.caller.user, incoming.caller.mac, media, sdp, HalfState::Offered(offer.map(Box::new)));
        half.wants = wants.unwrap_or(Direction::SendRecv);
        Some(half)
    }

    fn new_call(&self, now: Instant, incoming: &Incoming) -> Call {
        let caller = incoming.caller.clone();
        let shown = CallerId { user: caller.user.clone(), display_name: caller.display_name.clone() };
        let mut call = Call::new(now, caller, incoming.dialled.clone(), shown, incoming.source);
        call.ring_timeout = self.config.ring_timeout;
        call
    }

    fn enter_menu(&mut self, now: Instant, world: &mut dyn World, id: CallId, incoming: Incoming, offer: Option<Description>) {
        if !world.reserve_service(id) {
            return self.refuse(&incoming, Cause::Overload);
        }
        let Some(half) = self.near_half(world, &incoming, offer, Purpose::Service(id)) else {
            self.actions.push_back(Action::ServiceEnded { call: id, cause: Cause::Overload });
            return self.refuse(&incoming, Cause::Overload);
        };
        let mut call = self.new_call(now, &incoming);
        call.near = Side::One(Box::new(half));
        call.far = Side::Menu { handed: false };
        self.insert(now, id, call);
        self.answer_near(now, id, None);
    }

    fn call_out(
        &mut self,
        now: Instant,
        world: &mut dyn World,
        id: CallId,
        incoming: Incoming,
        offer: Option<Description>,
        targets: &[Extension],
    ) {
        // Say so before anybody's phone rings.
        if let Some(offer) = &offer
            && self.usable_codecs(offer).is_empty()
        {
            return self.refuse(&incoming, Cause::NothingInCommon);
        }
        let mac = incoming.caller.mac;
        if !targets.iter().any(|target| world.contacts(target.as_str()).iter().any(|contact| contact.mac != mac)) {
            return self.refuse(&incoming, Cause::Unavailable);
        }
        let Some(half) = self.near_half(world, &incoming, offer, Purpose::Bridge { near: None }) else {
            return self.refuse(&incoming, Cause::Overload);
        };
        let mut call = self.new_call(now, &incoming);
        call.near = Side::One(Box::new(half));
        self.insert(now, id, call);
        self.ring_far(now, world, id, targets);
    }

    fn insert(&mut self, now: Instant, id: CallId, mut call: Call) {
        for half in call.near.halves() {
            self.legs.insert(half.leg, id);
        }
        *self.callers.entry(call.caller.user.clone()).or_default() += 1;
        if matches!(call.near, Side::Ringing(_)) {
            let at = now + call.ring_timeout;
            call.deadline = Some(at);
            self.deadlines.insert((at, id));
        }
        self.tell(Event::CallStarted {
            call: id,
            from: call.caller.user.clone(),
            to: call.dialled.clone(),
            mac: call.mac,
            labels: call.labels.clone(),
        });
        self.calls.insert(id, call);
    }

    fn new_id(&self, world: &mut dyn World) -> CallId {
        loop {
            let id = CallId(world.random());
            if !self.calls.contains_key(&id) {
                return id;
            }
        }
    }

    fn usable_codecs(&self, offer: &Description) -> Vec<Codec> {
        let Some((_, stream)) = offer.audio() else { return Vec::new() };
        let mut usable = Vec::new();
        for (codec, _) in stream.codecs() {
            if self.config.codecs.contains(&codec) && !usable.contains(&codec) {
                usable.push(codec);
            }
        }
        usable
    }

    // --- phones ring

    /// Rings the far side of a call whose near side is there.
    fn ring_far(&mut self, now: Instant, world: &mut dyn World, id: CallId, targets: &[Extension]) {
        let Some(call) = self.calls.get(&id) else { return };
        let Some(near) = call.near.one() else { return };
        let (codecs, foreign) = match &near.state {
            HalfState::Offered(Some(offer)) => {
                let foreign = offer.audio().map(|(_, stream)| stream.foreign().cloned().collect()).unwrap_or_default();
                (self.usable_codecs(offer), foreign)
            }
            _ => {
                // Best what the caller has already.
                let mut codecs = self.config.codecs.clone();
                let has = near.sdp.agreed().map(|agreed| agreed.codec);
                codecs.sort_by_key(|codec| Some(*codec) != has);
                (codecs, Vec::new())
            }
        };
        let purpose = Purpose::Bridge { near: Some(near.media.id) };
        let plan = Plan { shown: call.shown.clone(), codecs, foreign, purpose, except: Some(near.mac) };
        let (near_media, near_up, ring_timeout) = (near.media.id, near.is_up(), call.ring_timeout);
        let far = self.ring(world, id, targets, plan);
        if far.is_empty() {
            return self.nobody(now, id, Cause::Unavailable, None);
        }
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.far = Side::Ringing(far);
        call.rang = false;
        call.failure = None;
        if let Some(before) = call.deadline.replace(now + ring_timeout) {
            self.deadlines.remove(&(before, id));
        }
        self.deadlines.insert((now + ring_timeout, id));
        if near_up {
            self.actions.push_back(Action::RingBack { media: near_media, on: true });
        }
    }

    /// Calls all phones of these extensions.
    fn ring(&mut self, world: &mut dyn World, id: CallId, targets: &[Extension], plan: Plan) -> Vec<Half> {
        let mut halves = Vec::new();
        let contacts = targets.iter().flat_map(|target| world.contacts(target.as_str()).into_iter().map(move |c| (target, c)));
        let contacts: Vec<_> = contacts.filter(|(_, c)| Some(c.mac) != plan.except).take(self.config.max_contacts).collect();
        for (target, contact) in contacts {
            let Some(media) = world.open_media(&contact.flow, plan.purpose) else { break };
            let leg = world.new_leg();
            let mut sdp = sdp::Session::new(world.random(), media.address, &plan.codecs);
            let offer = sdp.offer(Direction::SendRecv, None, &plan.foreign);
            self.legs.insert(leg, id);
            halves.push(Half::new(leg, target.as_str(), contact.mac, media, sdp, HalfState::Called));
            self.actions.push_back(Action::Invite { leg, contact, caller: plan.shown.clone(), offer });
        }
        halves
    }

    fn on_ringing(&mut self, id: CallId, leg: LegId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.place_of(leg) != Some(Place::Far) || mem::replace(&mut call.rang, true) {
            return;
        }
        if let Some(near) = call.near.one()
            && matches!(near.state, HalfState::Offered(_))
        {
            self.actions.push_back(Action::Ring { leg: near.leg });
        }
        let ringing = Event::CallRinging { call: id, to: call.dialled.clone(), mac: call.mac };
        self.tell(ringing);
    }

    /// A phone that we call did not take the call.
    fn on_refused(&mut self, now: Instant, id: CallId, leg: LegId, cause: Cause, status: Option<u16>) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Some(place) = call.place_of(leg) else { return };
        let side = call.side_mut(place);
        let Side::Ringing(halves) = side else { return };
        let Some(at) = halves.iter().position(|half| half.leg == leg) else { return };
        let half = halves.swap_remove(at);
        let left = halves.len();
        self.legs.remove(&leg);
        self.actions.push_back(Action::CloseMedia { media: half.media.id });
        let Some(call) = self.calls.get_mut(&id) else { return };
        let worst = call.failure.map_or(cause, |known| if known.rank() <= cause.rank() { known } else { cause });
        call.failure = Some(worst);
        // "Decline" is said for the person, not for one phone (RFC 3261 §21.6.2).
        if left == 0 || cause == Cause::Declined {
            self.nobody(now, id, worst, status);
        }
    }

    /// Nobody took the call: it is over, or goes back to the menu that wanted it transferred.
    fn nobody(&mut self, now: Instant, id: CallId, cause: Cause, status: Option<u16>) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if !mem::take(&mut call.lent) {
            return self.end(now, id, cause, None, status);
        }
        if let Some(at) = call.deadline.take() {
            self.deadlines.remove(&(at, id));
        }
        for half in mem::replace(&mut call.far, Side::Menu { handed: true }).into_halves() {
            self.legs.remove(&half.leg);
            self.actions.push_back(Action::Hangup { leg: half.leg, elsewhere: false });
            self.actions.push_back(Action::CloseMedia { media: half.media.id });
        }
        if let Some(near) = call.near.one() {
            self.actions.push_back(Action::RingBack { media: near.media.id, on: false });
        }
        self.actions.push_back(Action::Transferred { call: id, taken: false });
    }

    // --- somebody answers

    fn on_answered(&mut self, now: Instant, world: &mut dyn World, id: CallId, leg: LegId, body: Option<Bytes>) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Some(place) = call.place_of(leg) else { return };
        let side = call.side_mut(place);
        let Side::Ringing(halves) = side else { return };
        let Some(at) = halves.iter().position(|half| half.leg == leg) else { return };
        let mut half = halves.swap_remove(at);
        let agreed = body
            .ok_or(sdp::Error::NotSdp)
            .and_then(|body| Description::parse(&body))
            .and_then(|answer| half.sdp.accept(&answer, Direction::SendRecv).map(|agreed| (answer, agreed)));
        let (answer, agreed) = match agreed {
            Ok(agreed) => agreed,
            Err(_) => {
                // It took the call and cannot talk: put it back among the ringing, hang it up, count it as failed.
                halves.push(half);
                self.actions.push_back(Action::Hangup { leg, elsewhere: false });
                return self.on_refused(now, id, leg, Cause::NothingInCommon, None);
            }
        };
        let _ = answer;
        half.state = HalfState::Up;
        for other in mem::replace(side, Side::One(Box::new(half.clone()))).into_halves() {
            self.legs.remove(&other.leg);
            self.actions.push_back(Action::Hangup { leg: other.leg, elsewhere: true });
            self.actions.push_back(Action::CloseMedia { media: other.media.id });
        }
        self.actions.push_back(Action::SetRemote { media: half.media.id, params: agreed });
        if let Some(at) = call.deadline.take() {
            self.deadlines.remove(&(at, id));
        }
        match place {
            Place::Far => self.connect(now, id, agreed.codec, half.media.id),
            Place::Near => self.near_is_there(now, world, id, half.mac),
        }
    }

    /// The one who asked for an originated call has picked up.
    fn near_is_there(&mut self, now: Instant, world: &mut dyn World, id: CallId, mac: MacAddr) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.caller.mac = mac;
        call.mac = Some(mac);
        match call.next.take() {
            Some(Route::Service) => {
                call.far = Side::Menu { handed: false };
                call.answered = Some(now);
                self.hand_over(id);
            }
            Some(Route::Extension(extension)) => self.ring_far(now, world, id, &[extension]),
            Some(Route::Emergency(extensions)) => self.ring_far(now, world, id, &extensions),
            Some(Route::Unknown) | None => self.end(now, id, Cause::Unknown, None, None),
        }
    }

    /// The far side is there: answer the caller and join the two.
    fn connect(&mut self, now: Instant, id: CallId, codec: Codec, far_media: SessionId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Some(near) = call.near.one() else { return };
        let (near_media, near_up) = (near.media.id, near.is_up());
        if near_up {
            call.answered.get_or_insert(now);
            if mem::take(&mut call.lent) {
                self.actions.push_back(Action::Transferred { call: id, taken: true });
            }
            let answered = Event::CallAnswered { call: id, to: call.answerer(), mac: call.mac };
            self.actions.push_back(Action::RingBack { media: near_media, on: false });
            self.actions.push_back(Action::Bridge { near: near_media, far: far_media });
            return self.tell(answered);
        }
        if self.answer_near(now, id, Some(codec)) {
            self.actions.push_back(Action::Bridge { near: near_media, far: far_media });
        }
    }

    /// 200 to the caller. `false`: it could not be, and the call is over.
    fn answer_near(&mut self, now: Instant, id: CallId, prefer: Option<Codec>) -> bool {
        let Some(call) = self.calls.get_mut(&id) else { return false };
        let Side::One(near) = &mut call.near else { return false };
        let HalfState::Offered(offer) = mem::replace(&mut near.state, HalfState::Called) else { return false };
        let (sdp, params) = match &offer {
            None => (near.sdp.offer(Direction::SendRecv, prefer, &[]), None),
            Some(description) => match near.sdp.answer(description, Terms { prefer, ..Terms::default() }) {
                Ok((sdp, params)) => (sdp, Some(params)),
                Err(_) => {
                    near.state = HalfState::Offered(offer);
                    self.end(now, id, Cause::NothingInCommon, None, None);
                    return false;
                }
            },
        };
        near.state = HalfState::AwaitsAck { ours: offer.is_none() };
        call.answered = Some(now);
        let (leg, media) = (near.leg, near.media.id);
        let answered = Event::CallAnswered { call: id, to: call.answerer(), mac: call.mac };
        if let Some(params) = params {
            self.actions.push_back(Action::SetRemote { media, params });
        }
        self.actions.push_back(Action::Answer { leg, sdp });
        self.tell(answered);
        true
    }

    fn on_acked(&mut self, now: Instant, id: CallId, leg: LegId, body: Option<Bytes>) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Some(half) = call.half_mut(leg) else { return };
        let HalfState::AwaitsAck { ours } = half.state else { return self.on_late_answer(id, leg, body) };
        half.state = HalfState::Up;
        if ours {
            let agreed = body
                .ok_or(sdp::Error::NotSdp)
                .and_then(|body| Description::parse(&body))
                .and_then(|answer| half.sdp.accept(&answer, Direction::SendRecv));
            match agreed {
                Ok(params) => self.actions.push_back(Action::SetRemote { media: half.media.id, params }),
                Err(_) => return self.end(now, id, Cause::NothingInCommon, None, None),
            }
        }
        if matches!(call.far, Side::Menu { handed: false }) {
            self.hand_over(id);
        }
    }

    /// Gives the call to the voice menu: the caller hears us from now on.
    fn hand_over(&mut self, id: CallId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Side::One(near) = &call.near else { return };
        call.far = Side::Menu { handed: true };
        let over = Action::HandOver { call: id, leg: near.leg, caller: call.caller.clone(), media: near.media, source: call.source };
        self.actions.push_back(over);
    }

    // --- changes in a running call

    /// A phone changes the session: hold, resume, another address. Answered at once, since the media is ours; the other
    /// phone is told when what it may hear has changed.
    fn on_reoffered(&mut self, id: CallId, leg: LegId, body: Option<Bytes>) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let other_wants = call.other_of(leg).map_or(Direction::SendRecv, |other| other.wants);
        let Some(half) = call.half_mut(leg).filter(|half| half.is_up()) else {
            return self.actions.push_back(Action::RefuseReoffer { leg, status: 491 });
        };
        let Some(body) = body else {
            let sdp = half.sdp.offer(other_wants, None, &[]);
            half.reoffered = Some(other_wants);
            return self.actions.push_back(Action::AnswerReoffer { leg, sdp });
        };
        let prefer = half.sdp.agreed().map(|agreed| agreed.codec);
        let terms = Terms { direction: other_wants, prefer };
        let answered = Description::parse(&body).and_then(|offer| {
            let wants = offer.audio().map(|(_, stream)| stream.direction()).ok_or(sdp::Error::NothingInCommon)?;
            half.sdp.answer(&offer, terms).map(|(sdp, params)| (wants, sdp, params))
        });
        let (wants, sdp, params) = match answered {
            Ok(answered) => answered,
            Err(error) => return self.actions.push_back(Action::RefuseReoffer { leg, status: error.status() }),
        };
        let changed = mem::replace(&mut half.wants, wants) != wants;
        let media = half.media.id;
        self.actions.push_back(Action::AnswerReoffer { leg, sdp });
        self.actions.push_back(Action::SetRemote { media, params });
        if changed {
            self.reoffer_other(id, leg);
        }
    }

    /// Tells the other phone what this one now allows.
    fn reoffer_other(&mut self, id: CallId, leg: LegId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Some(wants) = call.half_mut(leg).map(|half| half.wants) else { return };
        let Some(other) = call.other_mut(leg).filter(|other| other.is_up()) else { return };
        if other.reoffered.is_some() || !matches!(other.state, HalfState::Up) {
            other.reoffer_again = true;
            return;
        }
        other.reoffered = Some(wants);
        let (leg, sdp) = (other.leg, other.sdp.offer(wants, None, &[]));
        self.actions.push_back(Action::Reoffer { leg, sdp });
    }

    fn on_reoffer_answered(&mut self, id: CallId, leg: LegId, body: Option<Bytes>) {
        self.take_answer(id, leg, body);
        self.offer_again(id, leg);
    }

    /// The ACK of a change that asked for our offer.
    fn on_late_answer(&mut self, id: CallId, leg: LegId, body: Option<Bytes>) {
        if body.is_some() {
            self.take_answer(id, leg, body);
        }
        self.offer_again(id, leg);
    }

    fn take_answer(&mut self, id: CallId, leg: LegId, body: Option<Bytes>) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Some(half) = call.half_mut(leg) else { return };
        let Some(direction) = half.reoffered.take() else { return };
        // An answer that does not fit leaves all as it was: the call goes on.
        let Some(answer) = body.and_then(|body| Description::parse(&body).ok()) else { return };
        if let Ok(params) = half.sdp.accept(&answer, direction) {
            self.actions.push_back(Action::SetRemote { media: half.media.id, params });
        }
    }

    fn on_reoffer_failed(&mut self, id: CallId, leg: LegId) {
        if let Some(half) = self.calls.get_mut(&id).and_then(|call| call.half_mut(leg)) {
            half.reoffered = None;
        }
        self.offer_again(id, leg);
    }

    /// A change of the other half waited for this one to be free.
    fn offer_again(&mut self, id: CallId, leg: LegId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Some(half) = call.half_mut(leg) else { return };
        if mem::take(&mut half.reoffer_again)
            && let Some(other) = call.other_of(leg).map(|other| other.leg)
        {
            self.reoffer_other(id, other);
        }
    }

    /// A key that came by INFO. `media` sends it where an RTP key would have gone.
    fn on_key(&mut self, id: CallId, leg: LegId, key: char) {
        let Some(half) = self.calls.get_mut(&id).and_then(|call| call.half_mut(leg)) else { return };
        self.actions.push_back(Action::Key { media: half.media.id, key });
    }

    /// A phone of a bridged call has sent nothing for too long: it was unplugged. One on hold may be silent.
    pub fn handle_silence(&mut self, now: Instant, media: SessionId) {
        let silent = self.calls.iter().find_map(|(id, call)| {
            let half = call.near.halves().chain(call.far.halves()).find(|half| half.media.id == media)?;
            let should_send = half.is_up() && half.sdp.agreed().is_some_and(|agreed| agreed.direction.receives());
            (should_send && matches!(call.far, Side::One(_))).then_some(*id)
        });
        if let Some(id) = silent {
            self.end(now, id, Cause::Lost, None, None);
        }
    }

    // --- somebody leaves

    fn on_ended(&mut self, now: Instant, id: CallId, leg: LegId, how: LegEnd) {
        let Some(call) = self.calls.get(&id) else { return };
        let ringing = |side: &Side| matches!(side, Side::Ringing(_));
        let cause = match (call.place_of(leg), how) {
            // One of several phones that ring is gone; the others ring on.
            (Some(Place::Near), _) if ringing(&call.near) => return self.on_refused(now, id, leg, Cause::Unavailable, None),
            (Some(Place::Far), _) if ringing(&call.far) => return self.on_refused(now, id, leg, Cause::Unavailable, None),
            (_, LegEnd::Lost) => Cause::Lost,
            (_, LegEnd::Cancelled) => Cause::Cancelled,
            (Some(Place::Near), LegEnd::HungUp) if call.answered.is_none() => Cause::Cancelled,
            (Some(Place::Near), LegEnd::HungUp) => Cause::CallerHungUp,
            (Some(Place::Far), LegEnd::HungUp) => Cause::CalleeHungUp,
            (None, _) => return,
        };
        self.end(now, id, cause, Some(leg), None);
    }

    /// Ends every half but `gone`, which has ended itself.
    fn end(&mut self, now: Instant, id: CallId, cause: Cause, gone: Option<LegId>, status: Option<u16>) {
        let Some(call) = self.calls.remove(&id) else { return };
        if let Some(at) = call.deadline {
            self.deadlines.remove(&(at, id));
        }
        if let Some(count) = self.callers.get_mut(&call.caller.user) {
            *count -= 1;
            if *count == 0 {
                self.callers.remove(&call.caller.user);
            }
        }
        if matches!(call.far, Side::Menu { .. }) || call.lent || call.next == Some(Route::Service) {
            self.actions.push_back(Action::ServiceEnded { call: id, cause });
        }
        let talk = call.answered.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        for half in call.near.into_halves().into_iter().chain(call.far.into_halves()) {
            self.legs.remove(&half.leg);
            if Some(half.leg) != gone {
                self.actions.push_back(match half.state {
                    HalfState::Offered(_) => {
                        let retry_after_secs = (cause == Cause::Overload).then_some(self.config.retry_after_secs);
                        Action::Refuse { leg: half.leg, status: cause.status(), retry_after_secs }
                    }
                    _ => Action::Hangup { leg: half.leg, elsewhere: false },
                });
            }
            self.actions.push_back(Action::CloseMedia { media: half.media.id });
        }
        let status = status.or_else(|| call.answered.is_none().then(|| cause.status()));
        let talk_ms = u64::try_from(talk.as_millis()).unwrap_or(u64::MAX);
        self.tell(Event::CallEnded { call: id, mac: call.mac, cause: cause.as_str().to_owned(), status, talk_ms });
    }

    fn tell(&mut self, event: Event) {
        self.actions.push_back(Action::Tell(event));
    }
}

/// How phones are to be called.
struct Plan {
    shown: CallerId,
    codecs: Vec<Codec>,
    foreign: Vec<Attribute>,
    purpose: Purpose,
    /// The caller's own device does not ring for its own call.
    except: Option<MacAddr>,
}

impl Call {
    fn new(now: Instant, caller: Caller, dialled: String, shown: CallerId, source: SocketAddr) -> Self {
        Self {
            mac: Some(caller.mac),
            caller,
            shown,
            dialled,
            labels: Vec::new(),
            source,
            ring_timeout: Duration::ZERO,
            started: now,
            answered: None,
            deadline: None,
            rang: false,
            near: Side::None,
            far: Side::None,
            lent: false,
            next: None,
            failure: None,
        }
    }

    /// Who took the call; the menu has no name but what was dialled.
    fn answerer(&self) -> String {
        self.far.one().map_or_else(|| self.dialled.clone(), |half| half.user.clone())
    }

    fn place_of(&self, leg: LegId) -> Option<Place> {
        if self.near.halves().any(|half| half.leg == leg) {
            Some(Place::Near)
        } else if self.far.halves().any(|half| half.leg == leg) {
            Some(Place::Far)
        } else {
            None
        }
    }

    fn side_mut(&mut self, place: Place) -> &mut Side {
        match place {
            Place::Near => &mut self.near,
            Place::Far => &mut self.far,
        }
    }

    fn half_mut(&mut self, leg: LegId) -> Option<&mut Half> {
        [&mut self.near, &mut self.far].into_iter().find_map(|side| side.one_mut().filter(|half| half.leg == leg))
    }

    /// The half that this leg talks with.
    fn other_of(&self, leg: LegId) -> Option<&Half> {
        match self.place_of(leg)? {
            Place::Near => self.far.one(),
            Place::Far => self.near.one(),
        }
    }

    fn other_mut(&mut self, leg: LegId) -> Option<&mut Half> {
        match self.place_of(leg)? {
            Place::Near => self.far.one_mut(),
            Place::Far => self.near.one_mut(),
        }
    }

    fn snapshot(&self, call: CallId, now: Instant) -> Snapshot {
        let state = match (&self.near, &self.far) {
            (_, Side::Menu { .. }) => CallState::Menu,
            (Side::Ringing(_), _) => CallState::RingingCaller,
            (_, Side::One(_)) => CallState::Talking,
            _ => CallState::Ringing,
        };
        Snapshot {
            call,
            from: self.caller.user.clone(),
            to: self.dialled.clone(),
            mac: self.mac,
            state,
            age: now.saturating_duration_since(self.started),
            talk: self.answered.map(|since| now.saturating_duration_since(since)),
            labels: self.labels.clone(),
        }
    }
}

impl Side {
    fn halves(&self) -> Box<dyn Iterator<Item = &Half> + '_> {
        match self {
            Self::Ringing(halves) => Box::new(halves.iter()),
            Self::One(half) => Box::new(std::iter::once(half.as_ref())),
            Self::None | Self::Menu { .. } => Box::new(std::iter::empty()),
        }
    }

    fn into_halves(self) -> Vec<Half> {
        match self {
            Self::Ringing(halves) => halves,
            Self::One(half) => vec![*half],
            Self::None | Self::Menu { .. } => Vec::new(),
        }
    }

    fn one(&self) -> Option<&Half> {
        match self {
            Self::One(half) => Some(half),
            _ => None,
        }
    }

    fn one_mut(&mut self) -> Option<&mut Half> {
        match self {
            Self::One(half) => Some(half),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Settings;

    /// An office on paper: who is registered, how many ports and places in the menu there are.
    struct Paper {
        /// Extension and last byte of the MAC of each phone.
        phones: Vec<(&'static str, u8)>,
        next: u64,
        ports: usize,
        places: usize,
    }

    fn flow() -> Flow {
        Flow::udp("10.0.0.1:5060".parse().unwrap(), "10.0.0.5:5060".parse().unwrap())
    }

    fn mac(last: u8) -> MacAddr {
        MacAddr([0, 0x15, 0x65, 0, 0, last])
    }

    impl World for Paper {
        fn contacts(&self, user: &str) -> Vec<Contact> {
            let of = self.phones.iter().filter(|(extension, _)| *extension == user);
            of.map(|(extension, last)| Contact { uri: format!("sip:{extension}@10.0.0.{last}"), flow: flow(), mac: mac(*last), line: 1 })
                .collect()
        }
        fn is_extension(&self, number: &str) -> bool {
            number.len() == 4 && number != "2999"
        }
        fn display_name(&self, _: &str) -> String {
            "Somebody".into()
        }
        fn new_leg(&mut self) -> LegId {
            LegId(self.random())
        }
        fn open_media(&mut self, _: &Flow, _: Purpose) -> Option<MediaPort> {
            self.ports = self.ports.checked_sub(1)?;
            let id = self.random();
            Some(MediaPort { id: SessionId(id), address: SocketAddr::from(([10, 0, 0, 1], 16_000 + 2 * id as u16)) })
        }
        fn reserve_service(&mut self, _: CallId) -> bool {
            let free = self.places > 0;
            self.places = self.places.saturating_sub(1);
            free
        }
        fn random(&mut self) -> u64 {
            self.next += 1;
            self.next
        }
    }

    struct Bed {
        now: Instant,
        switch: Switch,
        world: Paper,
        /// Legs that we called, in order.
        called: Vec<LegId>,
        events: Vec<Event>,
    }

    const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 10.0.0.5\r\ns=-\r\nc=IN IP4 10.0.0.5\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 8 101\r\n\
                         a=rtpmap:101 telephone-event/8000\r\n";
    const CALLER: LegId = LegId(1_000_000);

    impl Bed {
        fn new(phones: &[(&'static str, u8)]) -> Self {
            let mut settings = Settings { max_calls_extension: 2, ..Settings::default() };
            settings.emergency.insert("112".into(), vec!["2000".parse().unwrap()]);
            let world = Paper { phones: phones.to_vec(), next: 0, ports: 100, places: 10 };
            let switch = Switch::new(Arc::new(settings.check().unwrap()));
            Self { now: Instant::now(), switch, world, called: vec![], events: vec![] }
        }

        fn dials(&mut self, leg: LegId, number: &str, offer: Option<&str>) -> Vec<String> {
            let caller = Caller { user: "2041".into(), display_name: "Ada".into(), mac: mac(1), line: 1, provisional: false };
            let offer = offer.map(|offer| Bytes::from(offer.to_owned()));
            let incoming = Incoming { leg, caller, dialled: number.into(), offer, flow: flow(), source: flow().peer };
            self.switch.handle_incoming(self.now, &mut self.world, incoming);
            self.actions()
        }

        fn leg(&mut self, leg: LegId, event: LegEvent) -> Vec<String> {
            self.switch.handle_leg(self.now, &mut self.world, leg, event);
            self.actions()
        }

        fn answers(&mut self, which: usize, payload_type: u8) -> Vec<String> {
            let sdp = format!("v=0\r\nc=IN IP4 10.0.0.6\r\nm=audio 5000 RTP/AVP {payload_type}\r\n");
            self.leg(self.called[which], LegEvent::Answered { sdp: Some(sdp.into()) })
        }

        fn offers(&mut self, leg: LegId, direction: &str) -> Vec<String> {
            self.leg(leg, LegEvent::Reoffered { offer: Some(format!("{OFFER}a={direction}\r\n").into()) })
        }

        /// What is to be done, in a word or two each; events apart.
        fn actions(&mut self) -> Vec<String> {
            let mut words = Vec::new();
            let name = |leg: LegId, called: &[LegId]| match called.iter().position(|one| *one == leg) {
                Some(at) => format!("callee{at}"),
                None => "caller".to_owned(),
            };
            let heading = |sdp: &Bytes| {
                let text = String::from_utf8_lossy(sdp).into_owned();
                let codec = text.split("RTP/AVP ").nth(1).and_then(|rest| rest.split_whitespace().next().map(str::to_owned));
                let direction = ["sendrecv", "sendonly", "recvonly", "inactive"].into_iter().find(|word| text.contains(word));
                format!("{} {}", codec.unwrap_or_default(), direction.unwrap_or_default())
            };
            while let Some(action) = self.switch.poll_action() {
                let called = self.called.clone();
                let name = |leg| name(leg, &called);
                words.push(match action {
                    Action::Invite { leg, caller, offer, .. } => {
                        self.called.push(leg);
                        format!("invite for {} {}", caller.user, heading(&offer))
                    }
                    Action::Ring { leg } => format!("ring {}", name(leg)),
                    Action::Answer { leg, sdp } => format!("answer {} {}", name(leg), heading(&sdp)),
                    Action::Refuse { leg, status, retry_after_secs } => match retry_after_secs {
                        Some(secs) => format!("refuse {} {status} after {secs}", name(leg)),
                        None => format!("refuse {} {status}", name(leg)),
                    },
                    Action::Hangup { leg, elsewhere } => format!("hang up {}{}", name(leg), if elsewhere { " elsewhere" } else { "" }),
                    Action::Reoffer { leg, sdp } => format!("reoffer {} {}", name(leg), heading(&sdp)),
                    Action::AnswerReoffer { leg, sdp } => format!("answer reoffer {} {}", name(leg), heading(&sdp)),
                    Action::RefuseReoffer { leg, status } => format!("refuse reoffer {} {status}", name(leg)),
                    Action::SetRemote { params, .. } => format!("remote {:?} {:?}", params.codec, params.direction),
                    Action::Bridge { .. } => "bridge".into(),
                    Action::Unbridge { .. } => "unbridge".into(),
                    Action::Key { key, .. } => format!("key {key}"),
                    Action::RingBack { on, .. } => format!("ring-back {on}"),
                    Action::CloseMedia { .. } => "close".into(),
                    Action::HandOver { .. } => "hand over".into(),
                    Action::ServiceEnded { cause, .. } => format!("menu: {}", cause.as_str()),
                    Action::Transferred { taken, .. } => format!("transferred {taken}"),
                    Action::Tell(event) => {
                        self.events.push(event);
                        continue;
                    }
                });
            }
            words
        }

        fn assert_over(&mut self, cause: &str) {
            assert!(matches!(self.events.last(), Some(Event::CallEnded { cause: told, .. }) if told == cause), "{:?}", self.events.last());
            let switch = &self.switch;
            assert_eq!((switch.calls.len(), switch.legs.len(), switch.callers.len(), switch.deadlines.len()), (0, 0, 0, 0));
        }

        fn talking() -> Self {
            let mut bed = Self::new(&[("2042", 2)]);
            bed.dials(CALLER, "2042", Some(OFFER));
            bed.answers(0, 8);
            bed.leg(CALLER, LegEvent::Acked { sdp: None });
            bed
        }
    }

    #[test]
    fn a_call_between_two_phones() {
        let mut bed = Bed::new(&[("2042", 2)]);
        // The caller's own order of codecs is kept for the callee.
        assert_eq!(bed.dials(CALLER, "2042", Some(OFFER)), ["invite for 2041 0 sendrecv"]);
        assert_eq!(bed.leg(bed.called[0], LegEvent::Ringing), ["ring caller"]);
        assert_eq!(bed.leg(bed.called[0], LegEvent::Ringing), [""; 0]);
        // The callee takes its second codec: the caller gets the same.
        assert_eq!(bed.answers(0, 8), ["remote Pcma SendRecv", "remote Pcma SendRecv", "answer caller 8 sendrecv", "bridge"]);
        assert_eq!(bed.leg(CALLER, LegEvent::Acked { sdp: None }), [""; 0]);
        assert_eq!(bed.switch.list(bed.now)[0].state, CallState::Talking);
        bed.now += Duration::from_secs(3);
        assert_eq!(bed.leg(bed.called[0], LegEvent::Ended { how: LegEnd::HungUp }), ["hang up caller", "close", "close"]);
        assert!(matches!(bed.events.last(), Some(Event::CallEnded { talk_ms: 3000, status: None, mac: Some(_), .. })));
        bed.assert_over("callee hung up");
    }

    #[test]
    fn a_caller_without_an_offer_answers_in_its_ack() {
        let mut bed = Bed::new(&[("2042", 2)]);
        bed.dials(CALLER, "2042", None);
        assert_eq!(bed.answers(0, 0), ["remote Pcmu SendRecv", "answer caller 0 sendrecv", "bridge"]);
        let answer = OFFER.replace("0 8 101", "0 101").into();
        assert_eq!(bed.leg(CALLER, LegEvent::Acked { sdp: Some(answer) }), ["remote Pcmu SendRecv"]);
        let mut bed = Bed::new(&[("2042", 2)]);
        bed.dials(CALLER, "2042", None);
        bed.answers(0, 0);
        assert_eq!(bed.leg(CALLER, LegEvent::Acked { sdp: None }), ["hang up caller", "close", "hang up callee0", "close"]);
        bed.assert_over("no sound format in common");
    }

    #[test]
    fn the_first_phone_that_answers_has_the_call() {
        let mut bed = Bed::new(&[("2042", 2), ("2042", 3), ("2042", 4), ("2042", 1)]);
        // The caller's own phone, though it is on the list, does not ring.
        assert_eq!(bed.dials(CALLER, "2042", Some(OFFER)).len(), 3);
        assert_eq!(bed.leg(bed.called[2], LegEvent::Refused { status: 486 }), ["close"]);
        let done = bed.answers(1, 0);
        assert_eq!(done[..3], ["hang up callee0 elsewhere", "close", "remote Pcmu SendRecv"]);
        // The one that was too late is nobody's any more.
        assert_eq!(bed.answers(0, 0), [""; 0]);
        bed.leg(CALLER, LegEvent::Ended { how: LegEnd::HungUp });
        bed.assert_over("caller hung up");
    }

    #[test]
    fn the_best_reason_is_told_when_nobody_answers() {
        for (answers, status, cause) in [
            (vec![480, 486], 486, "busy"),
            (vec![486, 408], 486, "busy"),
            (vec![404, 500], 480, "not reachable"),
            (vec![603], 603, "declined"),
            (vec![480, 488], 488, "no sound format in common"),
        ] {
            let mut bed = Bed::new(&[("2042", 2), ("2042", 3)]);
            bed.dials(CALLER, "2042", Some(OFFER));
            let mut last = vec![];
            for (which, status) in answers.iter().enumerate() {
                last = bed.leg(bed.called[which], LegEvent::Refused { status: *status });
            }
            assert!(last.contains(&format!("refuse caller {status}")), "{answers:?}: {last:?}");
            bed.assert_over(cause);
        }
    }

    #[test]
    fn ringing_ends() {
        let mut bed = Bed::new(&[("2042", 2)]);
        bed.dials(CALLER, "2042", Some(OFFER));
        assert_eq!(bed.switch.poll_timeout(), Some(bed.now + Duration::from_secs(45)));
        bed.now += Duration::from_secs(45);
        bed.switch.handle_timeout(bed.now);
        assert_eq!(bed.actions(), ["refuse caller 480", "close", "hang up callee0", "close"]);
        bed.assert_over("no answer");
    }

    #[test]
    fn hold_goes_through_and_comes_back() {
        let mut bed = Bed::talking();
        let callee = bed.called[0];
        assert_eq!(
            bed.offers(CALLER, "sendonly"),
            ["answer reoffer caller 8 recvonly", "remote Pcma RecvOnly", "reoffer callee0 8 sendonly"]
        );
        // Resumed before the callee has answered the first change: told when it has.
        assert_eq!(bed.offers(CALLER, "sendrecv"), ["answer reoffer caller 8 sendrecv", "remote Pcma SendRecv"]);
        let held = "v=0\r\nc=IN IP4 10.0.0.6\r\nm=audio 5000 RTP/AVP 8\r\na=recvonly\r\n".into();
        let then = bed.leg(callee, LegEvent::ReofferAnswered { sdp: Some(held) });
        assert_eq!(then, ["remote Pcma SendOnly", "reoffer callee0 8 sendrecv"]);
        let back = "v=0\r\nc=IN IP4 10.0.0.6\r\nm=audio 5000 RTP/AVP 8\r\n".into();
        assert_eq!(bed.leg(callee, LegEvent::ReofferAnswered { sdp: Some(back) }), ["remote Pcma SendRecv"]);
        // Both hold each other.
        bed.offers(CALLER, "sendonly");
        bed.leg(callee, LegEvent::ReofferFailed { status: 488 });
        assert_eq!(bed.offers(callee, "sendonly")[0], "answer reoffer callee0 8 inactive");
        // The same again changes nothing for the other.
        bed.leg(CALLER, LegEvent::ReofferFailed { status: 488 });
        assert_eq!(bed.offers(callee, "sendonly"), ["answer reoffer callee0 8 inactive", "remote Pcma Inactive"]);
        assert_eq!(bed.leg(CALLER, LegEvent::Reoffered { offer: Some("m=video 1 RTP/AVP 99".into()) }), ["refuse reoffer caller 488"]);
    }

    #[test]
    fn a_phone_that_fell_silent_is_lost_unless_it_may() {
        let mut bed = Bed::talking();
        let media = |bed: &Bed| bed.switch.calls.values().next().unwrap().near.one().unwrap().media.id;
        bed.offers(CALLER, "inactive");
        bed.switch.handle_silence(bed.now, media(&bed));
        assert_eq!(bed.switch.len(), 1);
        bed.actions();
        bed.offers(CALLER, "sendrecv");
        bed.switch.handle_silence(bed.now, media(&bed));
        bed.actions();
        bed.assert_over("phone lost");
    }

    #[test]
    fn the_menu_gets_the_call_with_the_ack_and_may_transfer_it() {
        let mut bed = Bed::new(&[("2042", 2)]);
        assert_eq!(bed.dials(CALLER, "0", Some(OFFER)), ["remote Pcmu SendRecv", "answer caller 0 sendrecv"]);
        assert_eq!(bed.leg(CALLER, LegEvent::Acked { sdp: None }), ["hand over"]);
        assert_eq!(bed.leg(CALLER, LegEvent::Key { key: '5' }), ["key 5"]);
        let id = bed.switch.list(bed.now)[0].call;
        let transfer = |bed: &mut Bed, to: &str| {
            let to = to.parse().unwrap();
            bed.switch.handle_service(bed.now, &mut bed.world, id, ServiceCommand::Transfer { to });
            bed.actions()
        };
        assert_eq!(transfer(&mut bed, "2043"), ["ring-back false", "transferred false"]);
        assert_eq!(transfer(&mut bed, "2042"), ["invite for 2041 0 sendrecv", "ring-back true"]);
        bed.now += Duration::from_secs(60);
        bed.switch.handle_timeout(bed.now);
        assert_eq!(bed.actions(), ["hang up callee0", "close", "ring-back false", "transferred false"]);
        transfer(&mut bed, "2042");
        assert_eq!(bed.answers(1, 0), ["remote Pcmu SendRecv", "transferred true", "ring-back false", "bridge"]);
        // The menu has given it away: its goodbye means nothing.
        bed.switch.handle_service(bed.now, &mut bed.world, id, ServiceCommand::Hangup);
        assert_eq!(bed.actions(), [""; 0]);
        bed.leg(CALLER, LegEvent::Ended { how: LegEnd::HungUp });
        bed.assert_over("caller hung up");
    }

    #[test]
    fn the_menu_hears_that_its_caller_is_gone() {
        let mut bed = Bed::new(&[]);
        bed.dials(CALLER, "0", Some(OFFER));
        bed.leg(CALLER, LegEvent::Acked { sdp: None });
        assert_eq!(bed.leg(CALLER, LegEvent::Ended { how: LegEnd::HungUp }), ["menu: caller hung up", "close"]);
        bed.assert_over("caller hung up");
        bed.world.places = 0;
        assert_eq!(bed.dials(CALLER, "0", Some(OFFER)), ["refuse caller 503 after 10"]);
    }

    #[test]
    fn calls_that_cannot_be_are_refused_before_anything_is_opened() {
        let mut bed = Bed::new(&[("2042", 2), ("2044", 1)]);
        for (number, offer, refusal) in [
            ("2999", OFFER, "refuse caller 404"),
            ("2043", OFFER, "refuse caller 480"),
            ("2044", OFFER, "refuse caller 480"),
            ("2042", "m=audio 1 RTP/SAVP 0", "refuse caller 488"),
            ("2042", "nonsense", "refuse caller 488"),
        ] {
            assert_eq!(bed.dials(CALLER, number, Some(offer)), [refusal], "{number}");
        }
        assert_eq!((bed.world.ports, bed.switch.len()), (100, 0));
        bed.world.ports = 1;
        assert_eq!(bed.dials(CALLER, "2042", Some(OFFER)), ["refuse caller 480", "close"]);
        bed.assert_over("not reachable");
    }

    #[test]
    fn limits_hold_but_for_emergencies() {
        let mut bed = Bed::new(&[("2042", 2), ("2000", 3)]);
        for leg in 0..2 {
            assert_eq!(bed.dials(LegId(2_000_000 + leg), "2042", Some(OFFER)).len(), 1);
        }
        assert_eq!(bed.dials(CALLER, "2042", Some(OFFER)), ["refuse caller 503 after 10"]);
        assert_eq!(bed.dials(CALLER, "112", Some(OFFER)), ["invite for 2041 0 sendrecv"]);
    }

    #[test]
    fn the_api_rings_the_user_first() {
        let mut bed = Bed::new(&[("2041", 1), ("2042", 2)]);
        let wanted =
            Originate { from: "2041".parse().unwrap(), to: "2042".into(), caller_id: Some("100".into()), timeout: None, labels: vec![] };
        let id = bed.switch.originate(bed.now, &mut bed.world, wanted.clone()).unwrap();
        // The user's phone shows whom it will call, the far end what was asked for.
        assert_eq!(bed.actions(), ["invite for 2042 8 sendrecv"]);
        assert_eq!(bed.answers(0, 0), ["remote Pcmu SendRecv", "invite for 100 0 sendrecv", "ring-back true"]);
        assert_eq!(bed.answers(1, 0), ["remote Pcmu SendRecv", "ring-back false", "bridge"]);
        assert!(bed.switch.hangup(bed.now, id));
        assert_eq!(bed.actions(), ["hang up callee0", "close", "hang up callee1", "close"]);
        bed.assert_over("ended on request");
        // The menu is a far end like any other.
        let id = bed.switch.originate(bed.now, &mut bed.world, Originate { to: "0".into(), ..wanted }).unwrap();
        bed.actions();
        assert_eq!(bed.answers(2, 0), ["remote Pcmu SendRecv", "hand over"]);
        bed.switch.hangup(bed.now, id);
        assert_eq!(bed.actions()[0], "menu: ended on request");
        bed.assert_over("ended on request");
    }
}
