//! Somebody leaves, or has fallen silent: the others are told and all is put away.

use std::time::{Duration, Instant};

use super::{
    Action, Switch, World,
    state::{Place, Side},
};
use crate::{
    call::half::{Cause, HalfState, LegEnd},
    media::SessionId,
    model::{CallId, Event},
    sip::ua::LegId,
};

impl Switch {
    /// A phone of a bridged call has sent nothing for too long: it was unplugged. One on hold may be silent.
    pub fn handle_silence(&mut self, now: Instant, media: SessionId) {
        let silent = self.calls.iter().find_map(|(id, call)| {
            let half = call.halves().find(|half| half.media.id == media)?;
            let should_send = half.is_up() && half.sdp.agreed().is_some_and(|agreed| agreed.direction.receives());
            (should_send && matches!(call.far, Side::One(_) | Side::Paged(_))).then_some(*id)
        });
        if let Some(id) = silent {
            self.end(now, id, Cause::Lost, None, None);
        }
    }

    pub(super) fn on_ended(&mut self, now: Instant, world: &mut dyn World, id: CallId, leg: LegId, how: LegEnd) {
        let Some(call) = self.calls.get(&id) else { return };
        let ringing = |side: &Side| matches!(side, Side::Ringing(_));
        let cause = match (call.place_of(leg), how) {
            // One of several phones that ring is gone; the others ring on.
            (Some(Place::Near), _) if ringing(&call.near) => return self.on_refused(now, world, id, leg, Cause::Unavailable, None),
            (Some(Place::Far), _) if matches!(call.far, Side::Paged(_)) => {
                return self.on_page_left(now, world, id, leg, Cause::Unavailable);
            }
            (Some(Place::Far), _) if ringing(&call.far) => return self.on_refused(now, world, id, leg, Cause::Unavailable, None),
            (Some(_), LegEnd::Lost) => Cause::Lost,
            (Some(_), LegEnd::Cancelled) => Cause::Cancelled,
            (Some(Place::Near), LegEnd::HungUp) if call.answered.is_none() => Cause::Cancelled,
            (Some(Place::Near), LegEnd::HungUp) => Cause::CallerHungUp,
            (Some(Place::Far), LegEnd::HungUp) => Cause::CalleeHungUp,
            // It was waiting to hear how its transfer goes.
            (None, _) => return self.transferor_left(id, leg),
        };
        self.end(now, id, cause, Some(leg), None);
    }

    /// Ends every half but `gone`, which has ended itself.
    pub(super) fn end(&mut self, now: Instant, id: CallId, cause: Cause, gone: Option<LegId>, status: Option<u16>) {
        let Some(call) = self.calls.remove(&id) else { return };
        if let Some(at) = call.deadline {
            self.deadlines.remove(&(at, id));
        }
        if let Some(count) = self.callers.get_mut(&call.caller.user) {
            *count -= 1;
            if *count == 0 {
                self.callers.remove(&call.caller.user);
            }
        }
        if matches!(call.far, Side::Menu { .. } | Side::Code { spoken: true })
            || call.lent
            || call.next.as_ref().is_some_and(|next| next.errand().is_some())
        {
            self.actions.push_back(Action::ServiceEnded { call: id, cause });
        }
        if let Some(transfer) = call.transfer {
            self.release_transferor(*transfer, cause.status());
        }
        if let Some(parked) = &call.parked {
            self.forget_parked(id, parked);
        }
        self.desk.someone_free = true;
        let talk = call.answered.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        for half in call.near.into_halves().into_iter().chain(call.far.into_halves()) {
            self.legs.remove(half.leg);
            // Of people outside nothing is remembered.
            if half.is_up() && half.owned && !half.listens {
                self.desk.turns.talked(&half.user);
            }
            if Some(half.leg) != gone {
                self.actions.push_back(match half.state {
                    HalfState::Offered(_) => {
                        let retry_after_secs = (cause == Cause::Overload).then_some(self.config.retry_after_secs);
                        Action::Refuse { leg: half.leg, status: cause.status(), retry_after_secs }
                    }
                    _ => Action::Hangup { leg: half.leg, elsewhere: false },
                });
            }
            self.actions.push_back(Action::CloseMedia { media: half.media.id });
        }
        let status = status.or_else(|| call.answered.is_none().then(|| cause.status()));
        let talk_ms = u64::try_from(talk.as_millis()).unwrap_or(u64::MAX);
        self.tell(Event::CallEnded { call: id, mac: call.mac, cause: cause.as_str().to_owned(), status, talk_ms });
    }
}
