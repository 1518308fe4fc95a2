//! A phone transfers its call: to a number (blind), or to whom it talks with, or rings, on another leg (attended).
//!
//! ```text
//!  T ── X                    T refers X to Y
//!  X ══ ringing Y…, T waits  202 to T; X hears ring-back; T may hang up at once, as many phones do
//!  X ── Y                    Y answers: T is told 200 and hung up
//!  T ── X                    nobody answers: T is told why and has X again; if T is gone, its phones ring for X
//! ```
//! Who may be reached is asked of `routing.rs` as if T had dialled. Not here: REFER and NOTIFY (`sip::ua`).

use std::{mem, time::Instant};

use super::{
    Action, CallerId, Switch, World,
    state::{Place, Side},
};
use crate::{
    call::{
        half::{Cause, Half},
        routing::{Caller, Errand, Route},
    },
    model::{CallId, Event, Extension, MacAddr},
    sip::ua::LegId,
};

pub(super) struct Transfer {
    /// The phone that asked; `None` once it has hung up.
    pub(super) by: Option<Box<Half>>,
    pub(super) leg: LegId,
    /// Who is there.
    pub(super) user: String,
    place: Place,
    /// What the call was before.
    shown: CallerId,
    dialled: String,
}

impl Switch {
    /// `only`: to this device of theirs.
    pub(super) fn on_referred(
        &mut self,
        now: Instant,
        world: &mut dyn World,
        (id, leg): (CallId, LegId),
        to: &str,
        only: Option<MacAddr>,
        replaces: Option<LegId>,
    ) {
        // Who waits for somebody else hears so from us.
        let second = replaces.and_then(|leg| self.legs.call_of(leg));
        let here = [Some(id), second].into_iter().flatten().all(|id| self.anchor(world, id, None));
        let begun = match replaces {
            _ if !here => Err(503),
            None => self.transfer_blind(now, world, (id, leg), to, only),
            Some(other) => self.transfer_attended(now, world, id, leg, other),
        };
        if let Err(status) = begun {
            self.actions.push_back(Action::RefuseRefer { leg, status });
        }
    }

    /// The half of this leg, if it talks with somebody and may send it elsewhere.
    fn transferor(&self, id: CallId, leg: LegId) -> Result<(Place, &Half), u16> {
        let call = self.calls.get(&id).ok_or(481_u16)?;
        let place = call.place_of(leg).ok_or(491_u16)?;
        let half = call.side(place).one().ok_or(491_u16)?;
        let talks = half.is_up() && call.other_of(leg).is_some_and(Half::is_up);
        match (half.owned, talks && !call.lent) {
            (false, _) => Err(403),
            (_, false) => Err(603),
            _ => Ok((place, half)),
        }
    }

    fn transfer_blind(
        &mut self,
        now: Instant,
        world: &mut dyn World,
        (id, leg): (CallId, LegId),
        to: &str,
        only: Option<MacAddr>,
    ) -> Result<(), u16> {
        let (_, half) = self.transferor(id, leg)?;
        let display_name = world.display_name(&half.user);
        let caller = Caller { user: half.user.clone(), display_name, mac: half.mac, line: half.line, provisional: false };
        if self.config.features.is_place(to) || self.config.features.park_number.as_deref() == Some(to) {
            return self.park(now, world, id, leg, to);
        }
        let target = match self.route(world, &caller, None, to) {
            // The menu asks its callers who they are: nobody is sent there by somebody else.
            Route::Service | Route::Mailbox(Errand::Listen { .. } | Errand::Menu) => return Err(403),
            Route::Refused(cause) => return Err(cause.status()),
            target => target,
        };
        self.call_away(id, leg, to, world);
        if let Some(call) = self.calls.get_mut(&id) {
            call.only = only;
        }
        self.head_for(now, world, id, target);
        Ok(())
    }

    /// Takes the other half away from the one that asked; a new far side is to be found for it.
    pub(super) fn call_away(&mut self, id: CallId, leg: LegId, to: &str, world: &mut dyn World) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Some(place) = call.place_of(leg) else { return };
        let (by, other) = match place {
            Place::Near => (&mut call.near, &mut call.far),
            Place::Far => (&mut call.far, &mut call.near),
        };
        let (Side::One(by), Side::One(other)) = (mem::replace(by, Side::None), mem::replace(other, Side::None)) else { return };
        let shown = match place {
            // Whoever called and hides goes on doing so.
            Place::Far if call.shown.is_hidden() => CallerId::hidden(),
            _ => CallerId { display_name: world.display_name(&other.user), user: other.user.clone() },
        };
        let (kept, media) = (other.leg, other.media.id);
        self.actions.push_back(Action::AcceptRefer { leg });
        self.actions.push_back(Action::Unbridge { media });
        let told = Event::CallTransferred { call: id, by: by.user.clone(), to: to.to_owned(), mac: call.mac };
        // How it came here is of no interest where it goes.
        call.diversions.clear();
        call.later.clear();
        (call.only, call.gr) = (None, None);
        call.transfer = Some(Box::new(Transfer {
            leg,
            user: by.user.clone(),
            by: Some(by),
            place,
            shown: mem::replace(&mut call.shown, shown),
            dialled: mem::replace(&mut call.dialled, to.to_owned()),
        }));
        call.near = Side::One(other);
        call.far = Side::None;
        // Whoever was on hold is not any more: it shall hear the ringing.
        self.align(id, kept);
        self.tell(told);
    }

    /// `leg` and `second` are two calls of one phone: joins the ones at their other ends.
    fn transfer_attended(&mut self, now: Instant, world: &mut dyn World, id: CallId, leg: LegId, second: LegId) -> Result<(), u16> {
        let (place, half) = self.transferor(id, leg)?;
        let second_id = self.legs.call_of(second).filter(|second| *second != id).ok_or(481_u16)?;
        let call = self.calls.get(&second_id).ok_or(481_u16)?;
        let own = call.halves().any(|other| other.leg == second && other.user == half.user);
        // Knowing the tags of somebody else's call gives no right to it.
        if !own || call.transfer.is_some() || call.lent || matches!(call.far, Side::Paged(_)) {
            return Err(603);
        }
        if matches!(call.far, Side::Ringing(_)) && call.place_of(second) == Some(Place::Near) {
            self.take_over_ringing(now, world, id, leg, second_id);
            return Ok(());
        }
        if self.park_as_told(now, world, id, leg, second_id)? {
            return Ok(());
        }
        let Some(call) = self.calls.get(&second_id) else { return Err(481) };
        if !call.other_of(second).is_some_and(Half::is_up) {
            return Err(603);
        }
        self.join(now, (id, leg, place), second_id, second);
        Ok(())
    }

    /// The far end of the second call has not answered yet: it rings on, for the one who is transferred.
    fn take_over_ringing(&mut self, now: Instant, world: &mut dyn World, id: CallId, leg: LegId, second_id: CallId) {
        let Some(second) = self.calls.get_mut(&second_id) else { return };
        let (dialled, rang) = (second.dialled.clone(), second.rang);
        let Side::Ringing(halves) = mem::replace(&mut second.far, Side::None) else { return };
        let deadline = second.deadline.take();
        if let Some(at) = deadline {
            self.deadlines.remove(&(at, second_id));
        }
        self.call_away(id, leg, &dialled, world);
        let Some(call) = self.calls.get_mut(&id) else { return };
        for half in &halves {
            self.legs.give(half.leg, id);
        }
        call.far = Side::Ringing(halves);
        call.rang = rang;
        call.failure = None;
        call.deadline = deadline;
        self.deadlines.extend(deadline.map(|at| (at, id)));
        if let Some(near) = call.near.one() {
            self.actions.push_back(Action::RingBack { media: near.media.id, on: true });
        }
        if rang {
            self.actions.push_back(Action::ReferProgress { leg, status: 180 });
        }
        // What is left of the second call is the phone that asked.
        self.end(now, second_id, Cause::Transferred, None, None);
    }

    /// Both are up: X of the first call and Y of the second talk from now on.
    fn join(&mut self, now: Instant, (id, leg, place): (CallId, LegId, Place), second_id: CallId, second: LegId) {
        let Some(call) = self.calls.get_mut(&second_id) else { return };
        let side = match call.place_of(second) {
            Some(Place::Near) => &mut call.far,
            _ => &mut call.near,
        };
        let Side::One(other) = mem::replace(side, Side::None) else { return };
        let (other_leg, other_media, other_user) = (other.leg, other.media.id, other.user.clone());
        self.legs.give(other_leg, id);
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Side::One(by) = mem::replace(call.side_mut(place), Side::One(other)) else { return };
        let Some(kept) = call.other_of(other_leg).map(|kept| (kept.leg, kept.media.id)) else { return };
        if place == Place::Far {
            call.dialled = other_user.clone();
        }
        let told = Event::CallTransferred { call: id, by: by.user.clone(), to: other_user, mac: call.mac };
        self.actions.push_back(Action::AcceptRefer { leg });
        self.actions.push_back(Action::Bridge { near: kept.1, far: other_media });
        self.tell(told);
        self.release(leg, &by, 200);
        self.identify(id, kept.0);
        self.identify(id, other_leg);
        self.end(now, second_id, Cause::Transferred, None, None);
        self.align(id, kept.0);
        self.align(id, other_leg);
        self.go_direct(id);
    }

    /// Whom the call was sent to has answered.
    pub(super) fn transfer_done(&mut self, id: CallId) {
        if let Some(transfer) = self.calls.get_mut(&id).and_then(|call| call.transfer.take()) {
            self.release_transferor(*transfer, 200);
        }
    }

    /// Nobody took the call: it goes back to the phone that sent it away, or rings there if that has hung up.
    pub(super) fn transfer_failed(&mut self, now: Instant, world: &mut dyn World, id: CallId, cause: Cause, status: Option<u16>) {
        self.stop_ringing(id, Side::None);
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Some(transfer) = call.transfer.take() else { return };
        call.only = None;
        let Transfer { by, leg, user, place, shown, dialled } = *transfer;
        self.actions.push_back(Action::ReferProgress { leg, status: status.unwrap_or(cause.status()) });
        let Some(by) = by else {
            call.dialled = user.clone();
            let Ok(back) = user.parse::<Extension>() else { return self.end(now, id, cause, None, status) };
            return self.ring_far(now, world, id, &[back]);
        };
        call.shown = shown;
        call.dialled = dialled;
        let media = by.media.id;
        let Side::One(kept) = mem::replace(&mut call.near, Side::None) else { return };
        let (kept_leg, kept_media) = (kept.leg, kept.media.id);
        (call.near, call.far) = match place {
            Place::Near => (Side::One(by), Side::One(kept)),
            Place::Far => (Side::One(kept), Side::One(by)),
        };
        self.actions.push_back(Action::Bridge { near: kept_media, far: media });
        self.identify(id, kept_leg);
        self.align(id, kept_leg);
        self.align(id, leg);
    }

    /// The phone that asked has hung up before its transfer came to an end.
    pub(super) fn transferor_left(&mut self, id: CallId, leg: LegId) {
        let Some(transfer) = self.calls.get_mut(&id).and_then(|call| call.transfer.as_mut()) else { return };
        if let Some(by) = transfer.by.take_if(|by| by.leg == leg) {
            self.legs.remove(leg);
            self.actions.push_back(Action::CloseMedia { media: by.media.id });
        }
    }

    pub(super) fn release_transferor(&mut self, transfer: Transfer, status: u16) {
        match &transfer.by {
            Some(by) => self.release(transfer.leg, by, status),
            None => self.actions.push_back(Action::ReferProgress { leg: transfer.leg, status }),
        }
    }

    fn release(&mut self, leg: LegId, by: &Half, status: u16) {
        self.legs.remove(leg);
        self.actions.push_back(Action::ReferProgress { leg, status });
        self.actions.push_back(Action::Hangup { leg, elsewhere: false });
        self.actions.push_back(Action::CloseMedia { media: by.media.id });
    }
}
