//! Somebody answers: the caller is answered too, and the two are joined, or the voice menu has the call.

use std::{mem, time::Instant};

use bytes::Bytes;

use super::{
    Action, Switch, World,
    state::{Place, Side},
};
use crate::{
    call::{
        half::{Cause, DeviceLine, HalfState},
        routing::Route,
    },
    media::SessionId,
    model::{CallId, Event},
    sdp::{self, Codec, Description, Direction, Terms},
    sip::ua::LegId,
};

impl Switch {
    pub(super) fn on_answered(&mut self, now: Instant, world: &mut dyn World, id: CallId, leg: LegId, body: Option<Bytes>) {
        if self.is_paged(id, leg) {
            return self.on_page_answered(now, world, id, leg, body);
        }
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Some(place) = call.place_of(leg) else { return };
        let side = call.side_mut(place);
        let Side::Ringing(halves) = side else { return };
        let Some(at) = halves.iter().position(|half| half.leg == leg) else { return };
        let mut half = halves.swap_remove(at);
        let agreed = match (body, half.sdp.agreed()) {
            // It has answered with its 183 already.
            (None, Some(agreed)) => Ok(*agreed),
            (body, _) => body
                .ok_or(sdp::Error::NotSdp)
                .and_then(|body| Description::parse(&body))
                .and_then(|answer| half.sdp.accept(&answer, Direction::SendRecv)),
        };
        let agreed = match agreed {
            Ok(agreed) => agreed,
            Err(_) => {
                // It took the call and cannot talk: put it back among the ringing, hang it up, count it as failed.
                halves.push(half);
                self.actions.push_back(Action::Hangup { leg, elsewhere: false });
                return self.on_refused(now, world, id, leg, Cause::NothingInCommon, Some(488));
            }
        };
        half.state = HalfState::Up;
        for other in mem::replace(side, Side::One(Box::new(half.clone()))).into_halves() {
            self.legs.remove(other.leg);
            self.actions.push_back(Action::Hangup { leg: other.leg, elsewhere: true });
            self.actions.push_back(Action::CloseMedia { media: other.media.id });
        }
        self.actions.push_back(Action::SetRemote { media: half.media.id, params: agreed });
        if let Some(at) = call.deadline.take() {
            self.deadlines.remove(&(at, id));
        }
        if place == Place::Far {
            call.later.clear();
            call.ways = None;
            call.no_sign_yet = false;
        }
        match place {
            Place::Far => self.connect(now, id, Some(agreed.codec), half.media.id),
            Place::Near => self.near_is_there(now, world, id, half.device_line()),
        }
    }

    /// The one who asked for an originated call has picked up.
    pub(super) fn near_is_there(&mut self, now: Instant, world: &mut dyn World, id: CallId, (mac, line): DeviceLine) {
        self.call_back_rings(id);
        let Some(call) = self.calls.get_mut(&id) else { return };
        (call.caller.mac, call.caller.line) = (mac, line);
        call.mac = Some(mac);
        let next = call.next.take();
        call.errand = next.as_ref().and_then(Route::errand).unwrap_or_default();
        match next {
            Some(Route::Service | Route::Mailbox(_)) => {
                call.far = Side::Menu { handed: false };
                call.answered = Some(now);
                self.hand_over(id);
            }
            Some(Route::Extension(extension)) => self.reach(now, world, id, &[extension]),
            Some(Route::Extensions(all)) => self.reach(now, world, id, &all),
            Some(Route::Outside(ways)) => self.go_outside(now, world, id, ways),
            Some(Route::Refused(cause)) => self.end(now, id, cause, None, None),
            None => self.end(now, id, Cause::Unknown, None, None),
        }
    }

    /// The far side is there: answer the caller and join the two.
    pub(super) fn connect(&mut self, now: Instant, id: CallId, codec: Option<Codec>, far_media: SessionId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Some(near) = call.near.one() else { return };
        let (near_media, near_up, near_early) = (near.media.id, near.is_up(), near.early.is_some());
        call.early = None;
        call.seeking = None;
        let parked = call.parked.take();
        let near_leg = near.leg;
        if let Some(parked) = parked {
            self.forget_parked(id, &parked);
        }
        self.identify(id, near_leg);
        let Some(call) = self.calls.get_mut(&id) else { return };
        if near_up {
            call.answered.get_or_insert(now);
            if mem::take(&mut call.lent) {
                self.actions.push_back(Action::Transferred { call: id, taken: true });
            }
            let answered = Event::CallAnswered { call: id, to: call.answerer(), mac: call.mac };
            self.actions.push_back(Action::RingBack { media: near_media, on: false });
            self.actions.push_back(Action::Bridge { near: near_media, far: far_media });
            self.tell(answered);
            self.transfer_done(id);
            return self.go_direct(id);
        }
        if self.answer_near(now, id, codec) {
            if near_early {
                self.actions.push_back(Action::RingBack { media: near_media, on: false });
            }
            self.actions.push_back(Action::Bridge { near: near_media, far: far_media });
        }
    }

    /// 200 to the caller. `false`: it could not be, and the call is over.
    pub(super) fn answer_near(&mut self, now: Instant, id: CallId, prefer: Option<Codec>) -> bool {
        let Some(call) = self.calls.get_mut(&id) else { return false };
        let Side::One(near) = &mut call.near else { return false };
        let HalfState::Offered(offer) = mem::replace(&mut near.state, HalfState::Called) else { return false };
        let (sdp, params) = match &offer {
            // What was said with the 183 holds (RFC 3261 §13.2.1).
            _ if near.early.is_some() => (near.early.take().unwrap_or_default(), None),
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

    pub(super) fn on_acked(&mut self, now: Instant, id: CallId, leg: LegId, body: Option<Bytes>) {
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
        self.go_direct(id);
    }

    /// Gives the call to the voice menu: the caller hears us from now on.
    pub(super) fn hand_over(&mut self, id: CallId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Side::One(near) = &call.near else { return };
        call.far = Side::Menu { handed: true };
        let over = Action::HandOver {
            call: id,
            leg: near.leg,
            caller: call.caller.clone(),
            media: near.media,
            source: call.source,
            errand: call.errand.clone(),
        };
        self.actions.push_back(over);
    }
}
