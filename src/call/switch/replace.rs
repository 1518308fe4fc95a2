//! A call takes the place of another one (INVITE with Replaces, RFC 3891): a phone picks up what rings elsewhere, or a user
//! moves a call from one phone to another.

use std::{mem, time::Instant};

use super::{
    Action, Incoming, Purpose, Switch, World,
    connected::shown,
    state::{Place, Side},
};
use crate::{
    call::half::HalfState,
    model::CallId,
    sdp::{Description, Direction, Terms},
    sip::ua::LegId,
};

/// Whose place a call wants to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced {
    pub leg: LegId,
    /// Only while it rings.
    pub early_only: bool,
}

impl Switch {
    pub(super) fn replace(&mut self, now: Instant, world: &mut dyn World, incoming: Incoming, replaced: Replaced) {
        if let Err(status) = self.try_replace(now, world, &incoming, replaced) {
            self.actions.push_back(Action::Refuse { leg: incoming.leg, status, retry_after_secs: None });
        }
    }

    fn try_replace(&mut self, now: Instant, world: &mut dyn World, incoming: &Incoming, replaced: Replaced) -> Result<(), u16> {
        let id = self.legs.call_of(replaced.leg).ok_or(481_u16)?;
        let call = self.calls.get(&id).ok_or(481_u16)?;
        let place = call.place_of(replaced.leg).ok_or(481_u16)?;
        let half = call.halves().find(|half| half.leg == replaced.leg).ok_or(481_u16)?;
        let rings = matches!(half.state, HalfState::Called) && place == Place::Far;
        match rings {
            // Whoever has an owner may pick up; a call that is up moves between phones of one user only.
            _ if incoming.caller.provisional => return Err(403),
            // Who is spoken to with many others is nobody to be called.
            _ if matches!(call.far, Side::Paged(_)) => return Err(603),
            // RFC 3891 §3: the early dialog of a call that somebody places is not to be replaced.
            false if !half.is_up() => return Err(481),
            false if replaced.early_only => return Err(486),
            false if half.user != incoming.caller.user => return Err(403),
            false if !call.other_of(replaced.leg).is_some_and(|other| other.is_up()) => return Err(603),
            _ => {}
        }
        if !self.anchor(world, id, None) {
            return Err(503);
        }
        self.put_through(now, world, incoming, id, place, rings)
    }

    /// Joins the one who calls with the other side of a call, in place of who is, or rings, there.
    pub(super) fn put_through(
        &mut self,
        now: Instant,
        world: &mut dyn World,
        incoming: &Incoming,
        id: CallId,
        place: Place,
        rings: bool,
    ) -> Result<(), u16> {
        let call = self.calls.get(&id).ok_or(481_u16)?;
        let other = match place {
            Place::Near => call.far.one(),
            Place::Far => call.near.one(),
        };
        let other = other.ok_or(603_u16)?;
        let (other_media, prefer, sees) = (other.media.id, other.sdp.agreed().map(|agreed| agreed.codec), shown(other));
        let offer = incoming.offer.as_deref().map(Description::parse).transpose().map_err(|_| 488_u16)?;
        let mut new = self.near_half(world, incoming, None, Purpose::Bridge { near: Some(other_media) }).ok_or(503_u16)?;
        let (sdp, params) = match &offer {
            None => (new.sdp.offer(Direction::SendRecv, prefer, &[]), None),
            Some(offer) => match new.sdp.answer(offer, Terms { prefer, ..Terms::default() }) {
                Ok((sdp, params)) => (sdp, Some(params)),
                Err(error) => {
                    self.actions.push_back(Action::CloseMedia { media: new.media.id });
                    return Err(error.status());
                }
            },
        };
        new.state = HalfState::AwaitsAck { ours: offer.is_none() };
        self.actions.push_back(Self::comes_in(id, &new, incoming.caller.user.clone(), incoming.dialled.clone()));
        let (leg, media, codec) = (new.leg, new.media.id, params.map(|params| params.codec).or(prefer));
        self.actions.extend(params.map(|params| Action::SetRemote { media, params }));
        self.actions.push_back(Action::Identify { leg, who: sees });
        self.actions.push_back(Action::Answer { leg, sdp });
        self.legs.insert(leg, id, &incoming.caller.user);
        self.put_in_place(id, place, Side::One(Box::new(new)), rings);
        if rings {
            self.connect(now, id, codec, media);
        } else {
            self.actions.push_back(Action::Bridge { near: other_media, far: media });
            if let Some(other) = self.calls.get(&id).and_then(|call| call.other_of(leg)).map(|other| other.leg) {
                self.identify(id, other);
            }
            self.reoffer_other(id, leg);
            self.align(id, leg);
        }
        Ok(())
    }

    fn put_in_place(&mut self, id: CallId, place: Place, new: Side, rings: bool) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if let Some(at) = call.deadline.take() {
            self.deadlines.remove(&(at, id));
        }
        call.later.clear();
        for old in mem::replace(call.side_mut(place), new).into_halves() {
            self.legs.remove(old.leg);
            self.actions.push_back(Action::Hangup { leg: old.leg, elsewhere: rings });
            self.actions.push_back(Action::CloseMedia { media: old.media.id });
        }
    }
}
