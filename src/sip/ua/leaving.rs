//! The end of a leg, from either side and in any state.

use std::time::Instant;

use super::{
    Ended, LegEvent, LegId, UserAgent, answer_to,
    leg::{Stage, Timer, Use},
};
use crate::sip::{
    build::Response,
    endpoint::{Endpoint, ServerTx},
    message::{Message, Method},
    name::Name,
};

impl UserAgent {
    /// Ends a leg in whatever state: CANCEL, BYE, or a refusal. The owner hears no more of it.
    /// `reason` becomes a Reason header where there is room for one (RFC 3326).
    pub fn hangup(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, reason: Option<&str>) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        leg.owned = false;
        match &mut leg.stage {
            Stage::Calling { tx, calling } => {
                calling.cancelled = true;
                endpoint.cancel(now, *tx, reason);
            }
            Stage::Offered { .. } => self.reject(now, endpoint, id, 480, &[]),
            Stage::Up(_) if leg.unacked.is_some() => {
                leg.bye_wanted = true;
            }
            Stage::Up(_) => self.send_bye(now, endpoint, id, reason),
            Stage::Leaving(_) => {}
        }
    }

    pub(super) fn handle_bye(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, tx: ServerTx, request: &Message) {
        endpoint.respond(now, tx, Response::to(request, 200));
        let Some(leg) = self.legs.get_mut(&id) else { return };
        // What still waits for an answer gets 487 (RFC 3261 §15.1.2).
        if let Some(theirs) = leg.theirs.take() {
            endpoint.respond(now, theirs.tx, Response::to(&theirs.request, 487));
        }
        if let Stage::Offered { tx, invite, dialog } = &leg.stage {
            endpoint.respond(now, *tx, Response::to(invite, 487).to_tag(&dialog.id.local_tag));
        }
        self.tell(id, LegEvent::Ended { how: Ended::HungUp });
        self.forget(id);
    }

    pub(super) fn handle_bye_final(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, status: u16, response: &Message) {
        if let Some(leg) = self.legs.get_mut(&id)
            && let Stage::Leaving(dialog) = &mut leg.stage
            && matches!(status, 401 | 407)
            && let Some((name, value)) = answer_to(&mut leg.login, &mut leg.challenged, response, &Method::Bye, dialog.target(), endpoint)
        {
            let tx = endpoint.request(now, leg.flow, dialog.request(Method::Bye).header(name, value));
            self.clients.insert(tx, Use::Bye(id));
            return;
        }
        self.forget(id);
    }

    pub(super) fn send_bye(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, reason: Option<&str>) {
        self.set_timed(now, id, None);
        let Some(leg) = self.legs.get_mut(&id) else { return };
        if let Some(unacked) = leg.unacked.take() {
            self.schedule.remove(&(unacked.next, id, Timer::Unacknowledged));
        }
        if let Some(theirs) = leg.theirs.take() {
            endpoint.respond(now, theirs.tx, Response::to(&theirs.request, 487));
        }
        leg.owned = false;
        leg.calm();
        let Stage::Up(dialog) = &mut leg.stage else { return };
        let mut dialog = dialog.clone();
        let request = dialog.request(Method::Bye);
        let request = match reason {
            Some(reason) => request.header(Name::Reason, reason),
            None => request,
        };
        let tx = endpoint.request(now, leg.flow, request);
        leg.stage = Stage::Leaving(dialog);
        self.clients.insert(tx, Use::Bye(id));
    }

    /// The peer knows nothing of the dialog.
    pub(super) fn lose(&mut self, id: LegId) {
        self.tell(id, LegEvent::Ended { how: Ended::Lost });
        self.forget(id);
    }

    pub(super) fn forget(&mut self, id: LegId) {
        self.keep_for_referral(id);
        self.identity_is_told(id);
        let Some(leg) = self.legs.remove(&id) else { return };
        if let Some(unacked) = &leg.unacked {
            self.schedule.remove(&(unacked.next, id, Timer::Unacknowledged));
        }
        if let Some(next) = leg.reliable.as_ref().and_then(|reliable| reliable.timer()) {
            self.schedule.remove(&(next, id, Timer::Unheard));
        }
        if let Some(timed) = &leg.timed {
            self.schedule.remove(&(timed.at, id, Timer::Session));
        }
        match &leg.stage {
            Stage::Calling { tx, calling } => {
                self.clients.remove(tx);
                for early in &calling.early {
                    self.dialogs.remove(&early.dialog.id);
                }
                for prack in &calling.pracks {
                    self.clients.remove(&prack.tx);
                }
            }
            Stage::Offered { tx, dialog, .. } => {
                self.offered.remove(tx);
                self.dialogs.remove(&dialog.id);
            }
            Stage::Up(dialog) | Stage::Leaving(dialog) => drop(self.dialogs.remove(&dialog.id)),
        }
    }
}
