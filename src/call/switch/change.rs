//! Changes in a running call: hold, resume, another address, keys by INFO.

use std::mem;

use bytes::Bytes;

use super::{
    Action, Switch, World,
    direct::{Direct, needs_us},
    state::Side,
};
use crate::{
    call::{config::HoldMusic, half::HalfState},
    model::CallId,
    sdp::{self, Description, Direction, Terms},
    sip::ua::LegId,
};

impl Switch {
    /// A phone changes the session: hold, resume, another address. Answered at once, since the media is ours; the other
    /// phone is told when what it may hear has changed.
    pub(super) fn on_reoffered(&mut self, world: &mut dyn World, id: CallId, leg: LegId, body: Option<Bytes>) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if !call.half_mut(leg).is_some_and(|half| half.is_up()) {
            return self.on_early_reoffer(id, leg, body);
        }
        let music = self.config.hold_music != HoldMusic::Silence;
        let comes_here = call.is_direct() && needs_us(body.as_deref(), music);
        if comes_here && !self.anchor(world, id, Some(leg)) {
            return self.actions.push_back(Action::RefuseReoffer { leg, status: 500 });
        }
        let Some(call) = self.calls.get_mut(&id) else { return };
        let other_wants = told(call.wanted_of(leg), music);
        let Some(half) = call.half_mut(leg) else { return };
        let Some(body) = body else {
            let sdp = half.sdp.offer(other_wants, None, &[]);
            (half.reoffered, half.moved) = (Some(other_wants), false);
            self.actions.push_back(Action::AnswerReoffer { leg, sdp });
            if comes_here {
                self.reoffer_other(id, leg);
            }
            return;
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
        (half.told, half.moved) = (other_wants, false);
        let changed = mem::replace(&mut half.wants, wants) != wants;
        let media = half.media.id;
        self.actions.push_back(Action::AnswerReoffer { leg, sdp });
        self.actions.push_back(Action::SetRemote { media, params });
        self.follow(id, leg);
        if changed || comes_here {
            self.reoffer_other(id, leg);
        }
    }

    /// A session that is changed before the call is answered (UPDATE, RFC 3311): only what is heard already can be.
    fn on_early_reoffer(&mut self, id: CallId, leg: LegId, body: Option<Bytes>) {
        let changed = self.calls.get_mut(&id).and_then(|call| {
            let far_is_heard = call.early == Some(leg);
            let half = match (&mut call.near, &mut call.far) {
                (Side::One(near), _) if near.leg == leg && near.early.is_some() => near.as_mut(),
                (_, Side::Ringing(halves)) if far_is_heard => halves.iter_mut().find(|half| half.leg == leg)?,
                _ => return None,
            };
            let offer = Description::parse(&body?).ok()?;
            let terms = Terms { prefer: half.sdp.agreed().map(|agreed| agreed.codec), ..Terms::default() };
            let (sdp, params) = half.sdp.answer(&offer, terms).ok()?;
            if half.early.is_some() {
                half.early = Some(sdp.clone());
            }
            Some((half.media.id, sdp, params))
        });
        match changed {
            Some((media, sdp, params)) => {
                self.actions.extend([Action::AnswerReoffer { leg, sdp }, Action::SetRemote { media, params }]);
            }
            None => self.actions.push_back(Action::RefuseReoffer { leg, status: 491 }),
        }
    }

    /// Tells the other phone what this one now allows.
    pub(super) fn reoffer_other(&mut self, id: CallId, leg: LegId) {
        if let Some(other) = self.calls.get(&id).and_then(|call| call.other_of(leg)).map(|other| other.leg) {
            self.align(id, other);
        }
    }

    /// Tells a phone what it may do by now, if it does not know: as its other half wants, and all while there is none.
    /// One that is on hold hears music, if there is any.
    pub(super) fn align(&mut self, id: CallId, leg: LegId) {
        let music = self.config.hold_music != HoldMusic::Silence;
        let Some(call) = self.calls.get_mut(&id) else { return };
        let wants = call.wanted_of(leg);
        let parked = matches!(call.far, Side::Parked);
        let Some(half) = call.half_mut(leg).filter(|half| half.is_up()) else { return };
        let (music, told) = (music && (parked || !wants.receives()), told(wants, music));
        if mem::replace(&mut half.music, music) != music {
            self.actions.push_back(Action::HoldMusic { media: half.media.id, on: music });
        }
        if half.reoffered.is_some() || !matches!(half.state, HalfState::Up) {
            half.reoffer_again = true;
        } else if mem::take(&mut half.moved) || half.told != told {
            half.reoffered = Some(told);
            let sdp = half.sdp.offer(told, None, &[]);
            self.actions.push_back(Action::Reoffer { leg, sdp });
        }
    }

    pub(super) fn on_reoffer_answered(&mut self, world: &mut dyn World, id: CallId, leg: LegId, body: Option<Bytes>) {
        let fits = self.take_answer(id, leg, body);
        self.reoffer_is_over(world, id, leg, fits);
    }

    /// The ACK of a change that asked for our offer.
    pub(super) fn on_late_answer(&mut self, id: CallId, leg: LegId, body: Option<Bytes>) {
        if body.is_some() {
            self.take_answer(id, leg, body);
        }
        self.offer_again(id, leg);
        self.go_direct(id);
    }

    /// `false`: an answer that does not fit. It leaves all as it was: the call goes on.
    fn take_answer(&mut self, id: CallId, leg: LegId, body: Option<Bytes>) -> bool {
        let Some(half) = self.calls.get_mut(&id).and_then(|call| call.half_mut(leg)) else { return true };
        let Some(direction) = half.reoffered.take() else { return true };
        let Some(answer) = body.and_then(|body| Description::parse(&body).ok()) else { return false };
        let Ok(params) = half.sdp.accept(&answer, direction) else { return false };
        half.told = direction;
        self.actions.push_back(Action::SetRemote { media: half.media.id, params });
        true
    }

    pub(super) fn on_reoffer_failed(&mut self, world: &mut dyn World, id: CallId, leg: LegId) {
        if let Some(half) = self.calls.get_mut(&id).and_then(|call| call.half_mut(leg)) {
            half.reoffered = None;
        }
        self.reoffer_is_over(world, id, leg, false);
    }

    /// `agreed`: the phone has taken our change.
    fn reoffer_is_over(&mut self, world: &mut dyn World, id: CallId, leg: LegId, agreed: bool) {
        match agreed {
            true => self.follow(id, leg),
            false => self.stay_here(world, id, leg),
        }
        self.offer_again(id, leg);
        self.settle_direct(id);
        self.go_direct(id);
    }

    /// A change of the other half waited for this one to be free.
    pub(super) fn offer_again(&mut self, id: CallId, leg: LegId) {
        let half = self.calls.get_mut(&id).and_then(|call| call.half_mut(leg));
        if half.is_some_and(|half| mem::take(&mut half.reoffer_again)) {
            self.align(id, leg);
        }
    }

    /// A key that came by INFO. `media` sends it where an RTP key would have gone.
    pub(super) fn on_key(&mut self, id: CallId, leg: LegId, key: char) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if let Some(other) = call.other_of(leg).filter(|_| call.direct == Direct::Past) {
            let leg = other.leg;
            return self.actions.push_back(Action::SendKey { leg, key });
        }
        let Some(half) = call.half_mut(leg) else { return };
        self.actions.push_back(Action::Key { media: half.media.id, key });
    }
}

/// What a phone is told when its other half wants this: who is held listens to the music, also where the holding phone
/// wants nothing at all to be sent.
fn told(wants: Direction, music: bool) -> Direction {
    if music && wants == Direction::Inactive { Direction::SendOnly } else { wants }
}
