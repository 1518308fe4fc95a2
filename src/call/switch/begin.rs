//! Calls begin: a phone dials, or the API asks.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Action, CallerId, LegBegins, OriginateError, Purpose, Replaced, Switch, World,
    codes::Coded,
    reach::Arrival,
    ringing::{Plan, groups},
    state::{Call, Side},
};
use crate::{
    call::{
        half::{Cause, Half, HalfState, Sound},
        routing::{Caller, Errand, Origin, Route},
    },
    model::{CallId, Event, Extension, MacAddr, Timestamp},
    sdp::{self, Codec, Description, Direction},
    sip::{transport::Flow, ua::LegId},
    store::LegDirection,
};

/// A call that came in and was authenticated.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub leg: LegId,
    pub caller: Caller,
    /// User part of the request URI, unescaped.
    pub dialled: String,
    /// This device of theirs and no other, as a GRUU says.
    pub only: Option<MacAddr>,
    /// What names the caller's own device in its GRUU.
    pub gr: Option<String>,
    pub offer: Option<Bytes>,
    pub flow: Flow,
    pub source: SocketAddr,
    /// The call whose place this one shall take.
    pub replaces: Option<Replaced>,
    /// It comes from outside.
    pub origin: Option<Origin>,
    /// The caller does not want to be known by whom it calls.
    pub hides: bool,
    /// The called phone answers by itself.
    pub auto_answer: bool,
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

impl Switch {
    /// Somebody calls: a phone that was authenticated as `incoming.caller`, or a trunk.
    pub fn handle_incoming(&mut self, now: Instant, world: &mut dyn World, incoming: Incoming) {
        if let Some(replaced) = incoming.replaces {
            return self.replace(now, world, incoming, replaced);
        }
        let inside = !incoming.caller.provisional && incoming.origin.is_none();
        let mut incoming = incoming;
        if inside && let Some(code) = self.config.features.codes.read(&incoming.dialled) {
            // A code is a call like another: it takes a port and a while.
            if let Err(cause) = self.admit(&incoming.caller, &Route::Service) {
                return self.refuse(&incoming, cause);
            }
            let Some(Coded { dialled, hides, auto_answer }) = self.handle_code(now, world, &incoming, code) else { return };
            incoming = Incoming { dialled, hides: incoming.hides || hides, auto_answer, ..incoming };
        }
        if inside && self.config.features.is_place(&incoming.dialled) {
            return self.unpark(now, world, incoming);
        }
        if inside && self.config.features.park_number.as_ref() == Some(&incoming.dialled) {
            return self.offer_place(now, world, incoming);
        }
        let route = self.route(world, &incoming.caller, incoming.origin.as_ref(), &incoming.dialled);
        if inside {
            self.desk.last.entry(incoming.caller.user.clone()).or_default().dialled = Some(incoming.dialled.clone());
        }
        if let Err(cause) = self.admit(&incoming.caller, &route) {
            return self.refuse(&incoming, cause);
        }
        let offer = match incoming.offer.as_deref().map(Description::parse).transpose() {
            Ok(offer) => offer,
            Err(_) => return self.refuse(&incoming, Cause::NothingInCommon),
        };
        // Say so before anybody's phone rings.
        let joined = matches!(route, Route::Extension(_) | Route::Extensions(_) | Route::Outside(_));
        if joined && offer.as_ref().is_some_and(|offer| self.usable_codecs(offer).is_empty()) {
            return self.refuse(&incoming, Cause::NothingInCommon);
        }
        let id = self.new_id(world);
        match route {
            Route::Refused(cause) => self.refuse(&incoming, cause),
            Route::Service => self.enter_service(now, world, id, incoming, offer, Errand::Menu),
            Route::Mailbox(errand) => self.enter_service(now, world, id, incoming, offer, errand),
            Route::Extension(extension) => self.call_out(now, world, id, incoming, offer, &[extension]),
            Route::Extensions(all) => self.call_out(now, world, id, incoming, offer, &all),
            Route::Outside(ways) => {
                let call = self.new_call(now, &incoming);
                if self.wait_with(now, world, id, &incoming, offer, call) {
                    self.go_outside(now, world, id, ways);
                }
            }
        }
    }

    /// Begins a call for the API. Its end is told by events.
    pub fn originate(&mut self, now: Instant, world: &mut dyn World, wanted: Originate) -> Result<CallId, OriginateError> {
        let display_name = world.display_name(wanted.from.as_str());
        let Some(first) = world.contacts(wanted.from.as_str()).into_iter().next() else {
            return Err(OriginateError::NotRegistered(wanted.from));
        };
        let caller = Caller { user: wanted.from.to_string(), display_name, mac: first.mac, line: first.line, provisional: false };
        let next = self.route(world, &caller, None, &wanted.to);
        if let Route::Refused(cause) = next {
            return Err(match cause {
                Cause::Unknown => OriginateError::NoSuchNumber(wanted.to),
                cause => OriginateError::Refused { to: wanted.to, why: cause.as_str() },
            });
        }
        let overload = OriginateError::Overload { retry_after_secs: self.config.retry_after_secs };
        if self.admit(&caller, &next).is_err() {
            return Err(overload);
        }
        let id = self.new_id(world);
        let errand = next.errand();
        if errand.as_ref().is_some_and(|errand| !world.reserve_service(id, errand)) {
            return Err(overload);
        }
        let shown = match wanted.caller_id {
            Some(number) => CallerId { user: number, display_name: String::new() },
            None => CallerId { user: caller.user.clone(), display_name: caller.display_name.clone() },
        };
        let mut call = Call::new(now, caller, wanted.to.clone(), shown, first.flow.peer);
        call.labels = wanted.labels;
        call.ring_timeout = wanted.timeout.unwrap_or(self.config.ring_timeout);
        let purpose = if errand.is_some() { Purpose::Service(id) } else { Purpose::Bridge { near: None } };
        // The user's own phone shows where the call will go.
        let callee = CallerId { display_name: world.display_name(&wanted.to), user: wanted.to };
        let plan = Plan {
            shown: callee,
            referred_by: None,
            diversions: Vec::new(),
            auto_answer: false,
            gr: None,
            direction: Direction::SendRecv,
            codecs: self.config.codecs.clone(),
            foreign: Vec::new(),
            purpose,
            near: true,
        };
        // All at once: whoever asked is at one of them.
        let phones = groups(world, std::slice::from_ref(&wanted.from), |_| true, self.config.max_contacts);
        let near = self.ring(world, id, phones.into_iter().flatten().collect(), &plan);
        if near.is_empty() {
            return Err(overload);
        }
        call.near = Side::Ringing(near);
        call.next = Some(next);
        self.insert(now, id, call);
        Ok(id)
    }

    pub(super) fn admit(&self, caller: &Caller, route: &Route) -> Result<(), Cause> {
        let count = self.calls.len();
        // Emergency calls are not limited; only memory is.
        if matches!(route, Route::Outside(ways) if ways.help.is_some()) {
            return if count < self.config.max_calls.saturating_mul(2) + 16 { Ok(()) } else { Err(Cause::Overload) };
        }
        let own = self.callers.get(&caller.user).copied().unwrap_or(0);
        let own_limit = match caller.device() {
            // Trunks have limits of their own.
            None => usize::MAX,
            Some(_) if caller.provisional => self.config.max_calls_unbound,
            Some(_) => self.config.max_calls_extension,
        };
        if count >= self.config.max_calls || own >= own_limit { Err(Cause::Overload) } else { Ok(()) }
    }

    /// Says no before there is a call.
    pub(super) fn refuse(&mut self, incoming: &Incoming, cause: Cause) {
        let retry_after_secs = (cause == Cause::Overload).then_some(self.config.retry_after_secs);
        self.actions.push_back(Action::Refuse { leg: incoming.leg, status: cause.status(), retry_after_secs });
        self.tell(Event::CallRefused {
            from: incoming.caller.user.clone(),
            to: incoming.dialled.clone(),
            mac: incoming.caller.device(),
            reason: cause.as_str().to_owned(),
        });
    }

    /// The caller's half of a call that came in.
    pub(super) fn near_half(
        &mut self,
        world: &mut dyn World,
        incoming: &Incoming,
        offer: Option<Description>,
        purpose: Purpose,
    ) -> Option<Half> {
        let media = world.open_media(&incoming.flow, purpose)?;
        let sdp = sdp::Session::new(world.random(), media.address, &self.config.codecs);
        let wants = offer.as_ref().and_then(|o| o.audio().map(|(_, stream)| stream.direction()));
        let mut half =
            Half::new(incoming.leg, &incoming.caller.user, incoming.caller.mac, media, sdp, HalfState::Offered(offer.map(Box::new)));
        half.wants = wants.unwrap_or(Direction::SendRecv);
        half.line = incoming.caller.line;
        half.name.clone_from(&incoming.caller.display_name);
        half.hides = incoming.hides;
        half.owned = !incoming.caller.provisional && incoming.origin.is_none();
        half.sound = match &incoming.origin {
            None => Sound::of_phone(&incoming.flow),
            Some(origin) => self.sound_by(&origin.trunk),
        };
        if let Some(origin) = &incoming.origin {
            self.actions.push_back(Action::HoldTrunk { trunk: origin.trunk.clone(), media: media.id });
        }
        Some(half)
    }

    pub(super) fn new_call(&self, now: Instant, incoming: &Incoming) -> Call {
        let caller = incoming.caller.clone();
        let shown = match incoming.hides {
            true => CallerId::hidden(),
            false => CallerId { user: caller.user.clone(), display_name: caller.display_name.clone() },
        };
        let mut call = Call::new(now, caller, incoming.dialled.clone(), shown, incoming.source);
        call.diversions = incoming.origin.as_ref().map(|origin| origin.diversions.clone()).unwrap_or_default();
        call.ring_timeout = self.config.ring_timeout;
        call.auto_answer = incoming.auto_answer;
        call.only = incoming.only;
        call.gr = incoming.gr.clone().filter(|_| !incoming.hides);
        call
    }

    pub(super) fn call_out(
        &mut self,
        now: Instant,
        world: &mut dyn World,
        id: CallId,
        incoming: Incoming,
        offer: Option<Description>,
        targets: &[Extension],
    ) {
        let mut call = self.new_call(now, &incoming);
        let arrival = self.arrive(world, call.number(), incoming.caller.device_line(), targets);
        self.note_caller(&call, targets);
        call.give_mailbox(self.mailbox_of(world, targets));
        if let Arrival::Refuse(cause) = arrival {
            return match call.mailbox.filter(|_| Self::is_for_mailbox(cause)) {
                // Whoever calls himself wants his messages.
                Some(own) if own.as_str() == incoming.caller.user => {
                    self.enter_service(now, world, id, incoming, offer, Errand::Listen { mailbox: Some(own) });
                }
                Some(mailbox) => self.enter_service(now, world, id, incoming, offer, Errand::Leave { mailbox }),
                None => self.refuse(&incoming, cause),
            };
        }
        if self.wait_with(now, world, id, &incoming, offer, call) {
            self.proceed(now, world, id, arrival);
        }
    }

    /// The caller waits from now on, for whom is to be found. `false`: there is no port for him, and he is told so.
    pub(super) fn wait_with(
        &mut self,
        now: Instant,
        world: &mut dyn World,
        id: CallId,
        incoming: &Incoming,
        offer: Option<Description>,
        mut call: Call,
    ) -> bool {
        let Some(half) = self.near_half(world, incoming, offer, Purpose::Bridge { near: None }) else {
            self.refuse(incoming, Cause::Overload);
            return false;
        };
        call.near = Side::One(Box::new(half));
        self.insert(now, id, call);
        true
    }

    /// Whoever is called may want to call back.
    fn note_caller(&mut self, call: &Call, targets: &[Extension]) {
        if let ([target], Some(number)) = (targets, call.number())
            && !self.config.features.has(target.as_str())
        {
            self.desk.last.entry(target.to_string()).or_default().caller = Some(number.to_owned());
        }
    }

    pub(super) fn insert(&mut self, now: Instant, id: CallId, mut call: Call) {
        for half in call.near.halves() {
            self.legs.insert(half.leg, id, &half.user);
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
        if let Side::One(near) = &call.near {
            let (from, to) = (call.caller.user.clone(), call.dialled.clone());
            self.actions.push_back(Self::comes_in(id, near, from, to));
        }
        self.calls.insert(id, call);
    }

    /// For the account: a leg by which somebody calls us.
    pub(super) fn comes_in(call: CallId, half: &Half, from: String, to: String) -> Action {
        let (leg, media, mac) = (half.leg, half.media.id, half.mac);
        Action::LegBegins(Box::new(LegBegins {
            call,
            leg,
            media,
            direction: LegDirection::In,
            near: true,
            mac,
            from,
            to,
            diverted_by: None,
        }))
    }

    pub(super) fn new_id(&self, world: &mut dyn World) -> CallId {
        loop {
            let id = CallId::new(Timestamp(world.wall().as_millisecond()), world.random());
            if !self.calls.contains_key(&id) {
                return id;
            }
        }
    }

    pub(super) fn usable_codecs(&self, offer: &Description) -> Vec<Codec> {
        let Some((_, stream)) = offer.audio() else { return Vec::new() };
        let mut usable = Vec::new();
        for (codec, _) in stream.codecs() {
            if self.config.codecs.contains(&codec) && !usable.contains(&codec) {
                usable.push(codec);
            }
        }
        usable
    }
}
