//! Sound that goes past us, from phone to phone, where that is wanted and nothing needs it here.
//!
//! ```text
//!  No ── both are up, nothing in the way: each is told where the other is ──► Going ── both agree ──► Past: our ports are free
//!   ▲                                                                           │ one does not          │
//!   └──────────────────── each is told a port of ours again ◄───────────────────┴─ music, a transfer ───┘
//! ```
//! A call begins with us whatever comes of it: so phones that ring together, announcements, the menu and voicemail are as ever.
//! What is told is written by the half's own [`crate::sdp::Session`], which stands for the other end then, so that versions and
//! lines go on (RFC 3264 §8). Once past us a change of one phone is answered for the other, which is told of it.
//!
//! Not past us: who is behind NAT, has another sound format than the other, or sends keys as sound; browsers. Not here: who sets it.

use std::mem;

use super::{
    Action, Switch, World,
    state::{Call, Side},
};
use crate::{
    call::half::{Half, HalfState, Sound},
    model::CallId,
    sdp::{Description, Direction, MediaParams},
    sip::ua::LegId,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direct {
    /// The sound comes to us.
    No,
    /// Both were told where the other is, and have not both agreed.
    Going,
    Past,
    /// It was tried, and a phone did not want it.
    Never,
}

impl Switch {
    /// How the sound of a call by this trunk may go.
    pub(super) fn sound_by(&self, trunk: &str) -> Sound {
        match self.config.plan.trunks().get(trunk) {
            Some(trunk) if trunk.direct_media => Sound::Trunk,
            _ => Sound::Here,
        }
    }

    /// Sends the sound of two that talk past us, if it may.
    pub(super) fn go_direct(&mut self, id: CallId) {
        let inside = self.config.direct_media;
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.direct == Direct::No) else { return };
        if call.transfer.is_some() || call.lent {
            return;
        }
        let (Side::One(near), Side::One(far)) = (&mut call.near, &mut call.far) else { return };
        let may = match (near.sound, far.sound) {
            (Sound::Here, _) | (_, Sound::Here) => false,
            (Sound::Phone(_), Sound::Phone(_)) => inside,
            _ => true,
        };
        let (Some(of_near), Some(of_far)) = (plain(near).filter(|_| may), plain(far)) else { return };
        if of_near.codec != of_far.codec {
            return;
        }
        near.sdp.stand_for(&of_far);
        far.sdp.stand_for(&of_near);
        (near.moved, far.moved) = (true, true);
        call.direct = Direct::Going;
        for leg in [near.leg, far.leg] {
            self.align(id, leg);
        }
    }

    /// Both have agreed: our ports are free.
    pub(super) fn settle_direct(&mut self, id: CallId) {
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.direct == Direct::Going) else { return };
        let busy = |half: &Half| half.reoffered.is_some() || half.reoffer_again || half.moved;
        if call.halves().any(busy) {
            return;
        }
        call.direct = Direct::Past;
        tracing::info!(call = %id, "its sound goes past us");
        for half in call.halves() {
            self.actions.push_back(Action::ReleaseMedia { media: half.media.id });
        }
    }

    /// The sound comes to us from now on. `answering`: this phone changes the session just now, and hears so by our answer; the
    /// other is told when that is known. `false`: there is no port for it, and nothing has changed.
    pub(super) fn anchor(&mut self, world: &mut dyn World, id: CallId, answering: Option<LegId>) -> bool {
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.is_direct()) else { return true };
        let past = call.direct == Direct::Past;
        let (Side::One(near), Side::One(far)) = (&mut call.near, &mut call.far) else { return true };
        if past {
            let Some(of_near) = world.reopen_media(near.media.address.ip(), None) else { return false };
            let Some(of_far) = world.reopen_media(far.media.address.ip(), Some(of_near.id)) else {
                self.actions.push_back(Action::ReleaseMedia { media: of_near.id });
                return false;
            };
            for (half, port) in [(&mut *near, of_near), (&mut *far, of_far)] {
                let was = mem::replace(&mut half.media, port).id;
                self.actions.push_back(Action::Reopened { was, media: port.id });
            }
            tracing::info!(call = %id, "its sound comes to us again");
        }
        for half in [&mut *near, &mut *far] {
            half.sdp.stand_at(half.media.address);
            half.moved = Some(half.leg) != answering;
            if let Some(params) = half.sdp.agreed().copied() {
                self.actions.push_back(Action::SetRemote { media: half.media.id, params });
            }
        }
        let (legs, media) = ([near.leg, far.leg], (near.media.id, far.media.id));
        call.direct = Direct::No;
        self.actions.push_back(Action::Bridge { near: media.0, far: media.1 });
        if answering.is_none() {
            legs.into_iter().for_each(|leg| self.align(id, leg));
        }
        true
    }

    /// A phone has told anew where it is: the other has to know.
    pub(super) fn follow(&mut self, id: CallId, leg: LegId) {
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.is_direct()) else { return };
        let Some(params) = call.half(leg).and_then(|half| half.sdp.agreed().copied()) else { return };
        let Some(other) = call.other_of(leg).map(|other| other.leg) else { return };
        let Some(half) = call.half_mut(other) else { return };
        if params.remote.is_some_and(|at| at != half.sdp.local()) {
            half.sdp.stand_for(&params);
            half.moved = true;
            self.align(id, other);
        }
    }

    /// A phone does not take what it is told of the other: the sound of this call goes by us, now and later.
    pub(super) fn stay_here(&mut self, world: &mut dyn World, id: CallId, leg: LegId) {
        if !self.calls.get(&id).is_some_and(Call::is_direct) {
            return;
        }
        // A phone that refuses goes on with what it had: with our port, if that was what it had.
        let has_ours = self.calls.get(&id).is_some_and(|call| call.direct == Direct::Going);
        if !self.anchor(world, id, Some(leg).filter(|_| has_ours)) {
            return;
        }
        if let Some(call) = self.calls.get_mut(&id) {
            call.direct = Direct::Never;
        }
        self.reoffer_other(id, leg);
    }
}

impl Call {
    pub(super) fn is_direct(&self) -> bool {
        matches!(self.direct, Direct::Going | Direct::Past)
    }
}

/// What was agreed with a phone whose sound may go past us: nothing of it is under way, and nobody in between changes addresses.
fn plain(half: &Half) -> Option<MediaParams> {
    let calm = matches!(half.state, HalfState::Up) && half.reoffered.is_none() && !half.reoffer_again && !half.music;
    let talks = half.wants == Direction::SendRecv && half.told == Direction::SendRecv;
    let agreed = half.sdp.agreed().filter(|_| calm && talks)?;
    let seen = match half.sound {
        Sound::Phone(at) => agreed.remote.is_some_and(|remote| remote.ip().to_canonical() == at),
        _ => agreed.remote.is_some(),
    };
    let usual = agreed.payload_type == agreed.codec.static_payload_type() && agreed.dtmf_payload_type.is_some();
    (seen && usual && agreed.direction == Direction::SendRecv).then_some(*agreed)
}

/// Whether what a phone says of the session can be met with our own sound only: it wants our offer, or the other hears music.
pub(super) fn needs_us(offer: Option<&[u8]>, music: bool) -> bool {
    let Some(offer) = offer else { return true };
    let direction = Description::parse(offer).ok().and_then(|offer| offer.audio().map(|(_, stream)| stream.direction()));
    music && direction != Some(Direction::SendRecv)
}
