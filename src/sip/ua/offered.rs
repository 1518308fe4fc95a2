//! Calls that come to us: answered, refused, cancelled; our 2xx, repeated until its ACK is here.

use std::time::Instant;

use bytes::Bytes;

use super::{
    Ended, Event, LegEvent, LegId, SDP, UserAgent, accepted, body_of, contact,
    identity::identified,
    leg::{Leg, Stage, Timer, Unacked},
    reliable::Reliable,
};
use crate::sip::{
    build::Response,
    dialog::{Dialog, DialogId},
    endpoint::{Endpoint, ServerTx},
    message::Message,
    name::Name,
    transport::Flow,
};

impl UserAgent {
    /// 180 to the caller.
    pub fn ring(&mut self, now: Instant, endpoint: &mut Endpoint, leg: LegId) {
        self.provisional(now, endpoint, leg, 180, None);
    }

    /// 183 with our session description: the caller hears what comes before the answer. [`Self::answer`] is given it again.
    pub fn progress(&mut self, now: Instant, endpoint: &mut Endpoint, leg: LegId, body: Bytes) {
        self.provisional(now, endpoint, leg, 183, Some(body));
    }

    /// 200 with our session description; repeated until the ACK is here.
    pub fn answer(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, body: Bytes) {
        let Some(said) = self.answer_after_reliable(id, body.clone()) else { return };
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Stage::Offered { tx, invite, dialog } = &leg.stage else { return };
        let (tx, dialog) = (*tx, dialog.clone());
        let invite = invite.clone();
        let response = identified(accepted(endpoint, &dialog, &invite), leg.identity.as_ref());
        let cseq = invite.cseq().map_or(0, |cseq| cseq.number);
        self.offered.remove(&tx);
        leg.stage = Stage::Up(dialog);
        leg.said = Some(body);
        let response = self.time_as_called(now, id, &invite, response);
        let response = if let Some(said) = said { response.body(SDP, said) } else { response };
        self.send_accepted(now, endpoint, id, tx, cseq, response);
    }

    /// A final answer that is no 2xx, with more headers where they help.
    pub fn reject(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, status: u16, headers: &[(Name, String)]) {
        let Some(Stage::Offered { tx, invite, dialog }) = self.legs.get(&id).map(|leg| &leg.stage) else { return };
        let response = Response::to(invite, status).to_tag(&dialog.id.local_tag);
        let response = headers.iter().fold(response, |response, (name, value)| response.header(*name, value));
        endpoint.respond(now, *tx, response);
        self.forget(id);
    }

    /// A final answer to a call of nobody knows whom, as a challenge: neither leg nor transaction stays.
    pub fn turn_away(&mut self, endpoint: &mut Endpoint, id: LegId, response: Response) {
        if let Some(Stage::Offered { tx, .. }) = self.legs.get(&id).map(|leg| &leg.stage) {
            endpoint.respond_and_forget(*tx, response);
            self.forget(id);
        }
    }

    pub(super) fn handle_invite(&mut self, now: Instant, endpoint: &mut Endpoint, tx: ServerTx, request: Message, flow: Flow) {
        if self.legs.len() >= self.config.max_legs {
            metrics::counter!("plugtone_sip_refused_total", "status" => "503").increment(1);
            let busy = Response::to(&request, 503).header(Name::RetryAfter, self.config.retry_after_secs);
            return endpoint.respond(now, tx, busy);
        }
        if let Some(min_secs) = self.config.session.too_short(&request) {
            return endpoint.respond(now, tx, Response::to(&request, 422).header(Name::MinSe, min_secs));
        }
        let tag = endpoint.ids().token();
        let user = request.uri().ok().and_then(|uri| uri.raw_user().map(str::to_owned)).unwrap_or_default();
        let contact = contact(endpoint, &flow, &user, request.raw_uri());
        let dialog = match Dialog::from_request(&request, &tag, &contact) {
            Ok(dialog) => dialog,
            Err(fault) => return endpoint.respond(now, tx, Response::fault(&request, &fault)),
        };
        let leg = self.new_leg();
        self.dialogs.insert(dialog.id.clone(), leg);
        self.offered.insert(tx, leg);
        let stage = Stage::Offered { tx, invite: Box::new(request.clone()), dialog: Box::new(dialog) };
        let mut new = Leg::new(flow, stage, None);
        new.note_methods(&request);
        new.reliable = Reliable::of(&request, endpoint.ids().next_u64());
        self.legs.insert(leg, new);
        self.events.push_back(Event::Incoming { leg, request, flow });
    }

    pub(super) fn handle_cancel(&mut self, now: Instant, endpoint: &mut Endpoint, tx: ServerTx) {
        if let Some(id) = self.offered.get(&tx).copied() {
            self.tell(id, LegEvent::Ended { how: Ended::Cancelled });
            return self.reject(now, endpoint, id, 487, &[]);
        }
        // A CANCEL of a re-INVITE: refuse the change.
        let change = self.legs.iter().find(|(_, leg)| leg.theirs.as_ref().is_some_and(|theirs| theirs.tx == tx)).map(|(id, _)| *id);
        if let Some(id) = change {
            self.reject_reoffer(now, endpoint, id, 487);
        }
    }

    pub(super) fn handle_ack(&mut self, now: Instant, endpoint: &mut Endpoint, request: &Message, flow: Flow) {
        let Some(id) = DialogId::of_request(request).and_then(|dialog| self.dialogs.get(&dialog).copied()) else { return };
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        let Some(unacked) = leg.unacked.take_if(|unacked| unacked.cseq == cseq) else { return };
        self.schedule.remove(&(unacked.next, id, Timer::Unacknowledged));
        leg.flow = flow;
        let bye_wanted = leg.bye_wanted;
        self.tell(id, LegEvent::Acked { body: body_of(request) });
        if bye_wanted {
            self.send_bye(now, endpoint, id, None);
        } else {
            self.send_reoffer(now, endpoint, id);
        }
    }

    pub(super) fn send_accepted(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, tx: ServerTx, cseq: u32, response: Response) {
        let timers = endpoint.config().timers;
        endpoint.respond(now, tx, response.clone());
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let next = now + timers.t1;
        leg.unacked = Some(Unacked { tx, response, cseq, next, interval: timers.t1, give_up: now + timers.patience() });
        self.schedule.insert((next, id, Timer::Unacknowledged));
    }

    /// RFC 3261 §13.3.1.4: again after T1, 2·T1 … T2, over any transport; after 64·T1 the leg is ended.
    pub(super) fn repeat_accepted(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId) {
        let t2 = endpoint.config().timers.t2;
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Some(unacked) = &mut leg.unacked else { return };
        if now >= unacked.give_up {
            leg.unacked = None;
            self.tell(id, LegEvent::Ended { how: Ended::Lost });
            return self.send_bye(now, endpoint, id, None);
        }
        endpoint.respond(now, unacked.tx, unacked.response.clone());
        unacked.interval = (unacked.interval * 2).min(t2);
        unacked.next = (now + unacked.interval).min(unacked.give_up);
        self.schedule.insert((unacked.next, id, Timer::Unacknowledged));
    }
}
