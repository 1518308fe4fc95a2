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
//!  Offered      Called…      nobody takes the call:   the same with voicemail (`service.rs`)
//!  Called…      None         originated:              near 200 → ring far (or hand over)
//!  Up           Called…      originated, transferred: far 200 → bridge
//!  Offered      Called       outside: one trunk after the other (`outside.rs`)
//!  Offered      Called…      diverted: by a phone's 302 or a user's setting, before anybody answers (`divert.rs`)
//!  Up           Up           talking;                 who leaves ends it
//!  Up           Parked       waits at a number:        who dials it is joined (`park.rs`)
//!  Offered      Paged        many hear one:            the first takes it → answer near (`page.rs`)
//!  Offered      Code         a star code:              stored, answer near, its ACK → hand over (`codes.rs`)
//!  Up           Called…      transferred by a phone:  far 200 → bridge, the phone that asked is hung up (`transfer.rs`)
//! ```
//! Where it may, the sound of two that talk goes past us (`direct.rs`).
//! Between "it is for 2041" and a phone that rings are wishes, groups and forwards: `reach.rs`.
//! Not here: who may call whom (`routing.rs`), SIP, packets, whether a trunk is up (`trunk.rs`).

mod action;
mod answer;
mod begin;
mod change;
mod codes;
mod connected;
mod desk;
mod direct;
mod divert;
mod leaving;
mod legs;
mod outside;
mod page;
mod park;
mod parties;
mod reach;
mod replace;
mod ringing;
mod service;
mod state;
mod transfer;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use super::{
    Config,
    half::{Cause, Contact, LegEvent, MediaPort, Snapshot},
    routing::Errand,
    trunk::Unusable,
};
use crate::{
    media::SessionId,
    model::{CallId, Event, Extension, MacAddr, NumberHash},
    routing::Plan,
    sip::{transport::Flow, ua::LegId},
};

pub use self::replace::Replaced;
pub use self::{
    action::{Action, CallerId, LegBegins},
    begin::{Incoming, Originate},
    outside::Seat,
};
use self::{
    desk::Desk,
    legs::Legs,
    state::{Call, Side},
};

/// What the switch asks and must know at once. None of it may wait.
pub trait World {
    /// Phones registered for this user now, the latest first; one that has two flows is one.
    fn contacts(&self, user: &str) -> Vec<Contact>;
    /// Has somebody this number, registered or not?
    fn is_extension(&self, number: &str) -> bool;
    /// The name that goes with an extension; empty when there is none.
    fn display_name(&self, extension: &str) -> String;
    /// A number for a new leg.
    fn new_leg(&mut self) -> LegId;
    /// A port that a phone behind `flow` can send to. `None`: there are no more.
    fn open_media(&mut self, flow: &Flow, purpose: Purpose) -> Option<MediaPort>;
    /// The same at this address of ours, for a call that had given its port back. `near`: whom it will be joined with.
    fn reopen_media(&mut self, local: IpAddr, near: Option<SessionId>) -> Option<MediaPort>;
    /// A place in the inbox of the service, kept until the call is handed over or over. `false`: it is full.
    fn reserve_service(&mut self, call: CallId, errand: &Errand) -> bool;
    /// May messages be left for this number?
    fn has_mailbox(&self, number: &str) -> bool;
    /// A place on a trunk for a new call. `emergency`: whatever its state. `tried`: servers of it that were ill.
    fn take_trunk(&mut self, now: Instant, trunk: &str, emergency: bool, tried: usize) -> Result<Seat, Unusable>;
    /// Groups of the directory that the user of an extension is in.
    fn groups(&self, extension: &str) -> Vec<String>;
    /// Where a device is.
    fn location(&self, mac: MacAddr) -> Option<String>;
    /// What the clock on the wall says.
    fn wall(&self) -> jiff::Timestamp;
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

/// Why an originated call did not even begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginateError {
    #[error("{0} has no phone registered: plug one in, or choose another user")]
    NotRegistered(Extension),
    #[error("nobody has the number {0}")]
    NoSuchNumber(String),
    #[error("a call to {to} is refused: {why}")]
    Refused { to: String, why: &'static str },
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
    /// The same for any number that the caller may dial.
    Dial {
        to: String,
    },
}

pub struct Switch {
    config: Arc<Config>,
    calls: HashMap<CallId, Call, NumberHash>,
    legs: Legs,
    /// Calls of each caller, by user part.
    callers: HashMap<String, usize>,
    /// One deadline per ringing call.
    deadlines: BTreeSet<(Instant, CallId)>,
    actions: VecDeque<Action>,
    /// What is remembered for the features of the office.
    desk: Desk,
    /// Calls that something has happened to, for those who watch.
    touched: BTreeSet<CallId>,
}

impl Switch {
    pub fn new(config: Arc<Config>) -> Self {
        Self {
            config,
            calls: HashMap::default(),
            legs: Legs::default(),
            callers: HashMap::new(),
            deadlines: BTreeSet::new(),
            actions: VecDeque::new(),
            desk: Desk::default(),
            touched: BTreeSet::new(),
        }
    }

    /// New rules for new calls; those that are up go on.
    pub fn reload(&mut self, config: Arc<Config>) {
        self.config = config;
    }

    /// The plan that new calls are routed by.
    pub fn plan(&self) -> &Plan {
        &self.config.plan
    }

    /// The phone of a leg.
    pub fn device_of(&self, leg: LegId) -> Option<MacAddr> {
        let call = self.calls.get(&self.legs.call_of(leg)?)?;
        call.half(leg).map(|half| half.mac)
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
        // Who is told a place only listens.
        let may_go = handed && call.parked.is_none();
        match command {
            ServiceCommand::Hangup if handed || call.lent => self.end(now, id, Cause::ServiceDone, None, None),
            ServiceCommand::Transfer { to } if may_go => {
                call.far = Side::None;
                call.lent = true;
                call.dialled = to.to_string();
                self.reach(now, world, id, &[to]);
            }
            ServiceCommand::Dial { to } if may_go => self.dial_for_service(now, world, id, to),
            // The menu has given the call away, or never had it.
            ServiceCommand::Hangup | ServiceCommand::Transfer { .. } | ServiceCommand::Dial { .. } => {}
        }
    }

    /// What a leg tells of itself.
    pub fn handle_leg(&mut self, now: Instant, world: &mut dyn World, leg: LegId, event: LegEvent) {
        let Some(id) = self.legs.call_of(leg) else { return };
        self.touched.insert(id);
        match event {
            LegEvent::Trying => self.on_trying(now, id),
            LegEvent::Ringing { sdp } => self.on_ringing(now, id, leg, sdp),
            LegEvent::Answered { sdp } => self.on_answered(now, world, id, leg, sdp),
            LegEvent::Refused { status } => {
                let cause = if self.is_outside(id, leg) { Cause::of_outside(status) } else { Cause::of_status(status) };
                self.on_refused(now, world, id, leg, cause, Some(status));
            }
            LegEvent::Redirected { to } => self.on_redirected(now, world, id, leg, to),
            LegEvent::Acked { sdp } => self.on_acked(now, id, leg, sdp),
            LegEvent::Reoffered { offer } => self.on_reoffered(world, id, leg, offer),
            LegEvent::ReofferAnswered { sdp } => self.on_reoffer_answered(world, id, leg, sdp),
            LegEvent::ReofferFailed { .. } => self.on_reoffer_failed(world, id, leg),
            LegEvent::Referred { to, only, replaces } => self.on_referred(now, world, (id, leg), &to, only, replaces),
            LegEvent::Key { key } => self.on_key(id, leg, key),
            LegEvent::Ended { how } => self.on_ended(now, world, id, leg, how),
        }
    }

    /// Time has passed; call at [`Self::poll_timeout`]. Earlier is harmless.
    pub fn handle_timeout(&mut self, now: Instant, world: &mut dyn World) {
        while let Some(&(at, id)) = self.deadlines.first().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, id));
            let Some(call) = self.calls.get_mut(&id) else { continue };
            call.deadline = None;
            self.touched.insert(id);
            if matches!(call.far, Side::Code { .. }) {
                self.end(now, id, Cause::ServiceDone, None, None);
            } else if !self.on_page_timeout(now, world, id)
                && !self.on_park_timeout(now, world, id)
                && !self.on_no_sign(now, world, id)
                && !self.ring_later(now, world, id)
            {
                self.nobody(now, world, id, Cause::NoAnswer, None);
            }
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

    fn tell(&mut self, event: Event) {
        self.touched.extend(event.call());
        self.actions.push_back(Action::Tell(event));
    }
}

#[cfg(test)]
mod tests;
