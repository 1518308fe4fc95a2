//! A call is parked: it waits at a number, with music, until somebody dials it; if nobody does, who parked it is called.
//!
//! It is transferred there at once (blind): to a place, or to the number for any of them. Or its owner calls that number, or a
//! free place, first, is told the place, which is kept for him, and then transfers the call to whom he hears (attended); who
//! only calls and hangs up has parked nothing.

use std::time::Instant;

use super::{
    Incoming, Switch, World,
    state::{Place, Side},
};
use crate::{
    call::{
        half::Cause,
        routing::{Errand, Route},
    },
    model::{CallId, Extension},
    sdp::Description,
    sip::ua::LegId,
};

/// How often a call goes back to its place when who parked it does not answer either.
const MOST_ROUNDS: u8 = 5;

/// A call that waits, goes back to who parked it, or is told where another one may wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parked {
    pub(super) place: String,
    /// Who is called when it takes too long.
    by: Extension,
    rounds: u8,
}

impl Switch {
    /// Somebody dials the number for any place, or a free one: he is told which, and it is kept for his other call while he
    /// listens.
    pub(super) fn offer_place(&mut self, now: Instant, world: &mut dyn World, incoming: Incoming) {
        if let Err(cause) = self.admit(&incoming.caller, &Route::Service) {
            return self.refuse(&incoming, cause);
        }
        let (Ok(by), Ok(offer)) = (incoming.caller.user.parse(), incoming.offer.as_deref().map(Description::parse).transpose()) else {
            return self.refuse(&incoming, Cause::NothingInCommon);
        };
        let id = self.new_id(world);
        let rules = &self.config.features;
        let wanted = Some(incoming.dialled.as_str()).filter(|dialled| rules.is_place(dialled));
        let Some(place) = self.desk.places.put(id, wanted, rules.places()) else {
            return self.refuse(&incoming, Cause::Busy);
        };
        self.enter_service(now, world, id, incoming, offer, Errand::Park { place: place.clone() });
        match self.calls.get_mut(&id) {
            Some(call) => call.parked = Some(Parked { place, by, rounds: 0 }),
            None => self.desk.places.leave(&place, id),
        }
    }

    /// A phone transfers its call to the one by which it was told a place. `false`: nobody was told one there.
    pub(super) fn park_as_told(&mut self, now: Instant, world: &mut dyn World, id: CallId, leg: LegId, told: CallId) -> Result<bool, u16> {
        let Some(call) = self.calls.get_mut(&told).filter(|call| matches!(call.far, Side::Menu { .. })) else { return Ok(false) };
        let Some(Parked { place, .. }) = call.parked.take() else { return Ok(false) };
        self.desk.places.leave(&place, told);
        self.end(now, told, Cause::Transferred, None, None);
        self.park(now, world, id, leg, &place)?;
        Ok(true)
    }

    /// A phone transfers its call to a park place, or to the number for any of them: then the place's lamp and the event say
    /// which it is.
    pub(super) fn park(&mut self, now: Instant, world: &mut dyn World, id: CallId, leg: LegId, to: &str) -> Result<(), u16> {
        let rules = &self.config.features;
        let wanted = rules.is_place(to).then_some(to);
        let by = self.calls.get(&id).and_then(|call| call.half(leg)).and_then(|half| half.user.parse().ok()).ok_or(403_u16)?;
        let place = self.desk.places.put(id, wanted, rules.places()).ok_or(486_u16)?;
        self.call_away(id, leg, &place, world);
        let Some(call) = self.calls.get_mut(&id) else { return Ok(()) };
        let transfer = call.transfer.take();
        call.parked = Some(Parked { place, by, rounds: 0 });
        if let Some(transfer) = transfer {
            self.release_transferor(*transfer, 200);
        }
        self.wait_parked(now, id);
        Ok(())
    }

    fn wait_parked(&mut self, now: Instant, id: CallId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.far = Side::Parked;
        let near = call.near.one().map(|near| near.leg);
        self.set_deadline(id, now + self.config.features.park_timeout);
        if let Some(near) = near {
            self.align(id, near);
        }
        self.touched.insert(id);
    }

    /// It has waited for too long. `false`: the call is not parked.
    pub(super) fn on_park_timeout(&mut self, now: Instant, world: &mut dyn World, id: CallId) -> bool {
        let Some(call) = self.calls.get_mut(&id).filter(|call| matches!(call.far, Side::Parked)) else { return false };
        let Some(parked) = &call.parked else { return false };
        let (place, by) = (parked.place.clone(), parked.by.clone());
        self.desk.places.leave(&place, id);
        self.leave_place(id);
        self.ring_far(now, world, id, &[by]);
        true
    }

    /// Who parked the call does not take it back: it waits again. `false`: it has waited long enough, or there is no place.
    pub(super) fn park_again(&mut self, now: Instant, id: CallId) -> bool {
        let Some(call) = self.calls.get_mut(&id) else { return false };
        let Some(parked) = call.parked.as_mut() else { return false };
        parked.rounds += 1;
        if parked.rounds >= MOST_ROUNDS {
            return false;
        }
        let all = self.config.features.places();
        let wanted = parked.place.clone();
        let Some(place) =
            self.desk.places.put(id, Some(&wanted), all).or_else(|| self.desk.places.put(id, None, self.config.features.places()))
        else {
            return false;
        };
        parked.place = place;
        self.stop_ringing(id, Side::None);
        self.wait_parked(now, id);
        true
    }

    /// Somebody dials a park place.
    pub(super) fn unpark(&mut self, now: Instant, world: &mut dyn World, incoming: Incoming) {
        // A place that is only kept for somebody is empty.
        let waits = |id: &CallId| self.calls.get(id).is_some_and(|call| matches!(call.far, Side::Parked));
        let Some(id) = self.desk.places.at(&incoming.dialled).filter(waits) else {
            // Who dials it while he talks wants to park his call there.
            return match self.is_engaged(&incoming.caller.user) && self.desk.places.at(&incoming.dialled).is_none() {
                true => self.offer_place(now, world, incoming),
                false => self.refuse(&incoming, Cause::Unknown),
            };
        };
        match self.put_through(now, world, &incoming, id, Place::Far, false) {
            Ok(()) => {
                self.desk.places.leave(&incoming.dialled, id);
                if let Some(call) = self.calls.get_mut(&id) {
                    call.parked = None;
                    call.seeking = None;
                }
                self.tell_answered(id);
            }
            Err(status) => self.refuse_with(&incoming, status),
        }
    }

    /// The one who waited hears no more music.
    fn leave_place(&mut self, id: CallId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.far = Side::None;
        if let Some(near) = call.near.one().map(|near| near.leg) {
            self.align(id, near);
        }
    }

    /// The call is over.
    pub(super) fn forget_parked(&mut self, id: CallId, parked: &Parked) {
        self.desk.places.leave(&parked.place, id);
    }
}
