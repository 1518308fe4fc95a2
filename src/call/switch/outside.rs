//! Calls to the outside: one trunk after the other, until one takes the call.

use std::time::{Duration, Instant};

use super::{
    Action, LegBegins, Purpose, Switch, World,
    state::{Call, Side},
};
use crate::{
    call::{
        half::{Cause, Half, HalfState},
        routing::Ways,
        trunk::Unusable,
    },
    model::{CallId, Event, MacAddr},
    sdp::{self, Attribute, Codec, Direction},
    sip::{transport::Flow, ua::LegId},
    store::LegDirection,
};

/// A place on a trunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    pub flow: Flow,
    /// How long the trunk may be silent after an INVITE.
    pub silence: Duration,
    /// It has no further server that could be tried.
    pub last: bool,
}

impl Switch {
    /// Sends a call whose near side is there on its ways.
    pub(super) fn go_outside(&mut self, now: Instant, world: &mut dyn World, id: CallId, ways: Ways) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if let Some(help) = &ways.help {
            let (from, number) = (call.caller.user.clone(), call.dialled.clone());
            let told = Event::EmergencyCalled { call: id, mac: call.mac, from, number, location: help.location.clone(), test: help.test };
            self.actions.push_back(Action::Tell(told));
        }
        call.ways = Some(Box::new(ways));
        if !self.next_way(now, world, id) {
            let cause = self.calls.get(&id).and_then(|call| call.failure).unwrap_or(Cause::Unavailable);
            self.nobody(now, world, id, cause, None);
        }
    }

    /// Tries the next way. `false`: there is none.
    pub(super) fn next_way(&mut self, now: Instant, world: &mut dyn World, id: CallId) -> bool {
        loop {
            let Some(call) = self.calls.get_mut(&id) else { return false };
            let Some(ways) = &mut call.ways else { return false };
            let emergency = ways.help.is_some();
            let tried = ways.tried;
            let Some(mut hop) = ways.hops.front().cloned() else {
                let then = std::mem::take(&mut ways.then);
                call.ways = None;
                if then.is_empty() {
                    return false;
                }
                self.ring_far(now, world, id, &then);
                return true;
            };
            // Who is called for help must know who calls.
            hop.caller.withheld |= call.shown.is_hidden() && !emergency;
            let seat = match world.take_trunk(now, &hop.trunk, emergency, tried) {
                Ok(seat) if seat.last => {
                    ways.leave_trunk();
                    seat
                }
                Ok(seat) => {
                    ways.tried += 1;
                    seat
                }
                Err(_) if tried > 0 => {
                    ways.leave_trunk();
                    continue;
                }
                Err(why) => {
                    ways.leave_trunk();
                    tracing::info!(call = %id, trunk = %hop.trunk, "the trunk is passed over: it {}", why.as_str());
                    call.failure =
                        Some(if matches!(why, Unusable::Full | Unusable::TooFast) { Cause::Overload } else { Cause::Unavailable });
                    continue;
                }
            };
            let Some(near) = call.near.one().map(|near| near.media.id) else { return false };
            let (codecs, foreign) = self.far_codecs(id);
            let Some(media) = world.open_media(&seat.flow, Purpose::Bridge { near: Some(near) }) else { return false };
            let leg = world.new_leg();
            let mut sdp = sdp::Session::new(world.random(), media.address, &codecs);
            let offer = sdp.offer(Direction::SendRecv, None, &foreign);
            self.legs.insert(leg, id, &hop.number);
            let mut half = Half::new(leg, &hop.number, MacAddr::NOBODY, media, sdp, HalfState::Called);
            // Nobody outside may send our people's calls elsewhere.
            half.owned = false;
            half.sound = self.sound_by(&hop.trunk);
            let Some(call) = self.calls.get_mut(&id) else { return false };
            tracing::info!(call = %id, trunk = %hop.trunk, number = %hop.number, "calls outside");
            self.actions.push_back(Action::HoldTrunk { trunk: hop.trunk.clone(), media: media.id });
            let begins = LegBegins {
                call: id,
                leg,
                media: media.id,
                direction: LegDirection::Out,
                near: false,
                mac: MacAddr::NOBODY,
                from: call.shown.user.clone(),
                to: hop.number.clone(),
                diverted_by: call.sent_by(),
            };
            self.actions.push_back(Action::LegBegins(Box::new(begins)));
            let (display_name, diversions) = (call.shown.display_name.clone(), call.diversions.clone());
            let caller = Some(&call.caller).filter(|caller| caller.device().is_none()).map(|caller| caller.user.clone());
            let (hop, flow) = (Box::new(hop), seat.flow);
            self.actions.push_back(Action::InviteOutside { leg, hop, display_name, caller, diversions, flow, offer });
            call.far = Side::Ringing(vec![half]);
            call.rang = false;
            // What the trunks before said is of no interest once one is asked.
            call.failure = None;
            call.no_sign_yet = true;
            self.set_deadline(id, now + seat.silence);
            return true;
        }
    }

    /// The provider works on it: from now on it may ring as long as anybody.
    pub(super) fn on_trying(&mut self, now: Instant, id: CallId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if std::mem::take(&mut call.no_sign_yet) {
            let at = now + call.ring_timeout;
            self.set_deadline(id, at);
        }
    }

    /// The time is over in which a trunk should have shown a sign of life. `false`: that is not what was waited for.
    pub(super) fn on_no_sign(&mut self, now: Instant, world: &mut dyn World, id: CallId) -> bool {
        let Some(call) = self.calls.get_mut(&id) else { return false };
        if !std::mem::take(&mut call.no_sign_yet) {
            return false;
        }
        let leg = call.far.halves().first().map(|half| half.leg);
        if let Some(leg) = leg {
            self.actions.push_back(Action::Hangup { leg, elsewhere: false });
            self.on_refused(now, world, id, leg, Cause::Unavailable, Some(408));
        }
        true
    }

    /// Whether the next way is worth trying after this answer: not when it was the called one's own.
    pub(super) fn may_go_elsewhere(call: &mut Call, status: Option<u16>) -> bool {
        let Some(ways) = &mut call.ways else { return false };
        // Another server of the same provider is for those that do not answer or have no time (RFC 3263 §4.3).
        if ways.tried > 0 && !matches!(status, None | Some(408 | 500 | 503 | 504)) {
            ways.leave_trunk();
        }
        ways.help.is_some() || matches!(status, None | Some(401 | 402 | 403 | 407 | 408 | 500..=599))
    }

    /// What the near side can talk, best first, and what else of its offer is passed on.
    pub(super) fn far_codecs(&self, id: CallId) -> (Vec<Codec>, Vec<Attribute>) {
        let Some(near) = self.calls.get(&id).and_then(|call| call.near.one()) else { return (Vec::new(), Vec::new()) };
        match &near.state {
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
        }
    }

    pub(super) fn set_deadline(&mut self, id: CallId, at: Instant) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if let Some(before) = call.deadline.replace(at) {
            self.deadlines.remove(&(before, id));
        }
        self.deadlines.insert((at, id));
    }

    /// Whether the leg is one that a trunk carries to the outside.
    pub(super) fn is_outside(&self, id: CallId, leg: LegId) -> bool {
        self.calls.get(&id).is_some_and(|call| call.ways.is_some() && call.far.halves().iter().any(|half| half.leg == leg))
    }
}
