//! What happens between "it is for 2041" and a phone that rings: wishes of the called, ring groups, forwards; and what happens
//! when nobody takes the call. The wishes are [`crate::features`]' affair, the ringing is `ringing.rs`'s.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    Switch, World,
    divert::Divert,
    state::{Call, Side},
};
use crate::{
    call::{
        half::{Cause, DeviceLine, DiversionReason, Half},
        routing::{Caller, Origin, Route, route},
    },
    features::{
        Group, Paging,
        book::{Reach, When},
    },
    model::{CallId, Extension, MacAddr},
};

/// Whom a call looks for, until somebody has taken it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seeking {
    /// The extension, or group, whose rules count if nobody takes the call.
    pub(super) user: String,
    /// Who rings next, and then.
    waves: VecDeque<Vec<Extension>>,
    /// How long each wave rings; as the call wants it without.
    pub(super) ring: Option<Duration>,
    /// It is a group.
    pub(super) group: bool,
}

/// What is to be done with a call that has arrived somewhere.
pub(super) enum Arrival {
    Ring(Seeking),
    Divert {
        by: String,
        to: String,
        when: When,
    },
    /// Many hear it.
    Page(Paging),
    /// Nothing rings.
    Refuse(Cause),
}

impl Switch {
    /// Where the plan sends a call.
    pub(super) fn route(&self, world: &dyn World, caller: &Caller, origin: Option<&Origin>, dialled: &str) -> Route {
        route(&self.config, &self.desk.book, world, caller, origin, dialled)
    }

    /// What the called wish. `from`: the caller's number; `None`: hidden. The caller's own line, `except`, does not ring.
    pub(super) fn arrive(&mut self, world: &dyn World, from: Option<&str>, except: DeviceLine, targets: &[Extension]) -> Arrival {
        let reachable = |extension: &Extension| world.contacts(extension.as_str()).iter().any(|contact| contact.device_line() != except);
        let [target] = targets else {
            let user = targets.first().map(Extension::to_string).unwrap_or_default();
            return match targets.iter().any(reachable) {
                true => Arrival::Ring(Seeking { user, waves: [targets.to_vec()].into(), ring: None, group: true }),
                false => Arrival::Refuse(Cause::Unavailable),
            };
        };
        if let Some(group) = self.config.features.group(target.as_str()).cloned() {
            return self.arrive_at_group(world, &group, except);
        }
        if let Some(paging) = self.config.features.paging(target.as_str()) {
            return Arrival::Page(paging.clone());
        }
        let user = target.to_string();
        let talks = self.desk.book.of(&user).is_some_and(|wishes| wishes.one_call_only) && self.is_engaged(&user);
        let wishes = self.desk.book.of(&user);
        let missed = |when, cause| match wishes.and_then(|wishes| wishes.forward(when)) {
            Some(to) => Arrival::Divert { by: user.clone(), to: to.to_owned(), when },
            None => Arrival::Refuse(cause),
        };
        match wishes.map_or(Reach::AsUsual, |wishes| wishes.on_arrival(from, talks)) {
            Reach::Forward(to) => Arrival::Divert { by: user, to, when: When::Always },
            Reach::Blocked => Arrival::Refuse(Cause::Blocked),
            Reach::Hidden => Arrival::Refuse(Cause::Anonymous),
            Reach::DoNotDisturb | Reach::Busy => missed(When::Busy, Cause::Busy),
            Reach::AsUsual if !reachable(target) => missed(When::Unreachable, Cause::Unavailable),
            Reach::AsUsual => {
                let ring = wishes.and_then(|wishes| wishes.ring_secs).map(|secs| Duration::from_secs(secs.into()));
                Arrival::Ring(Seeking { user, waves: [vec![target.clone()]].into(), ring, group: false })
            }
        }
    }

    fn arrive_at_group(&mut self, world: &dyn World, group: &Group, except: DeviceLine) -> Arrival {
        let waves: VecDeque<_> = self.desk.turns.waves(group).into();
        let ring = Some(Duration::from_secs(group.ring_secs.into()));
        if waves.iter().flatten().any(|member| self.may_ring(world, group, member, except)) {
            return Arrival::Ring(Seeking { user: group.number.to_string(), waves, ring, group: true });
        }
        match &group.overflow {
            Some(to) => Arrival::Divert { by: group.number.to_string(), to: to.clone(), when: When::Busy },
            None => Arrival::Refuse(Cause::Busy),
        }
    }

    /// Does this member's phone ring for its group? Its own forwards do not count: they are for calls to the member.
    fn may_ring(&self, world: &dyn World, group: &Group, member: &Extension, except: DeviceLine) -> bool {
        let disturb = self.desk.book.of(member.as_str()).is_none_or(|wishes| !wishes.do_not_disturb);
        disturb
            && world.contacts(member.as_str()).iter().any(|contact| contact.device_line() != except)
            && !(group.skip_busy && self.is_engaged(member.as_str()))
    }

    /// Is the user in a call, or called?
    pub(super) fn is_engaged(&self, user: &str) -> bool {
        self.legs.is_engaged(user)
    }

    /// Sends a call whose near side is there where the plan says; who may not be sent there was asked before.
    pub(super) fn head_for(&mut self, now: Instant, world: &mut dyn World, id: CallId, target: Route) {
        match target {
            Route::Extension(extension) => self.reach(now, world, id, &[extension]),
            Route::Extensions(all) => self.reach(now, world, id, &all),
            Route::Outside(ways) => self.go_outside(now, world, id, ways),
            Route::Mailbox(errand) => {
                if !self.go_to_service(now, world, id, errand) {
                    self.nobody(now, world, id, Cause::Overload, None);
                }
            }
            Route::Service | Route::Refused(_) => {}
        }
    }

    /// Finds a far side for a call whose near side is there.
    pub(super) fn reach(&mut self, now: Instant, world: &mut dyn World, id: CallId, targets: &[Extension]) {
        let Some(call) = self.calls.get(&id) else { return };
        let (from, except) = (call.number().map(str::to_owned), call.near.one().map_or((MacAddr::NOBODY, 1), Half::device_line));
        let mailbox = self.mailbox_of(world, targets);
        if let Some(call) = self.calls.get_mut(&id) {
            call.give_mailbox(mailbox);
        }
        let arrival = self.arrive(world, from.as_deref(), except, targets);
        self.proceed(now, world, id, arrival);
    }

    pub(super) fn proceed(&mut self, now: Instant, world: &mut dyn World, id: CallId, arrival: Arrival) {
        match arrival {
            Arrival::Ring(seeking) => {
                let Some(call) = self.calls.get_mut(&id) else { return };
                call.seeking = Some(Box::new(seeking));
                if !self.next_wave(now, world, id) {
                    self.nobody(now, world, id, Cause::Unavailable, None);
                }
            }
            Arrival::Page(group) => self.page(now, world, id, &group),
            Arrival::Divert { by, to, when } => self.send_on(now, world, id, by, to, when),
            Arrival::Refuse(cause) => {
                if let Some(call) = self.calls.get_mut(&id) {
                    call.seeking = None;
                }
                self.nobody(now, world, id, cause, None);
            }
        }
    }

    /// Rings the next of whom the call looks for. `false`: there is nobody left.
    fn next_wave(&mut self, now: Instant, world: &mut dyn World, id: CallId) -> bool {
        loop {
            let Some(call) = self.calls.get_mut(&id) else { return true };
            let except = call.near.one().map_or((MacAddr::NOBODY, 1), Half::device_line);
            let rang = matches!(call.far, Side::Ringing(_));
            let Some(seeking) = call.seeking.as_mut() else { return false };
            let Some(mut wave) = seeking.waves.pop_front() else { return false };
            if let Some(group) = self.config.features.group(&seeking.user).cloned() {
                wave.retain(|member| self.may_ring(world, &group, member, except));
            }
            if wave.is_empty() {
                continue;
            }
            if rang {
                self.stop_ringing(id, Side::None);
            }
            self.ring_far(now, world, id, &wave);
            return true;
        }
    }

    /// Nobody has taken the call so far: the next of a group, or where the called wants such calls. `false`: it is at its end.
    pub(super) fn go_on(&mut self, now: Instant, world: &mut dyn World, id: CallId, cause: Cause) -> bool {
        let Some(call) = self.calls.get_mut(&id) else { return false };
        if call.parked.is_some() {
            return self.park_again(now, id);
        }
        // With too much to do others would not help.
        let Some(seeking) = call.seeking.as_deref().filter(|_| cause != Cause::Overload) else { return false };
        let (user, group) = (seeking.user.clone(), seeking.group);
        if self.next_wave(now, world, id) {
            return true;
        }
        let when = match cause {
            Cause::Busy | Cause::Declined => When::Busy,
            Cause::NoAnswer => When::NoAnswer,
            _ => When::Unreachable,
        };
        let to = match group {
            true => self.config.features.group(&user).and_then(|group| group.overflow.clone()),
            false => self.desk.book.of(&user).and_then(|wishes| wishes.forward(when)).map(str::to_owned),
        };
        let Some(to) = to else { return false };
        self.send_on(now, world, id, user, to, when);
        true
    }

    /// Sends a call on, as somebody wishes who was called.
    fn send_on(&mut self, now: Instant, world: &mut dyn World, id: CallId, by: String, to: String, when: When) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.seeking = None;
        }
        let reason = match when {
            When::Always => DiversionReason::Unconditional,
            When::Busy => DiversionReason::Busy,
            When::NoAnswer => DiversionReason::NoAnswer,
            When::Unreachable => DiversionReason::Unavailable,
        };
        let wanted = Divert { by, leg: None, mac: MacAddr::NOBODY, line: 1, to, reason };
        if let Err(cause) = self.divert(now, world, id, wanted) {
            self.nobody(now, world, id, cause, None);
        }
    }
}

impl Call {
    /// The caller's number as the called sees it. `None`: hidden.
    pub(super) fn number(&self) -> Option<&str> {
        (!self.shown.is_hidden()).then_some(self.shown.user.as_str())
    }
}
