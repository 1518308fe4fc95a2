//! Changes of a running session, by either side: re-INVITE, UPDATE, and 491 when two of them meet (RFC 3261 §14).

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    Ended, Event, LegEvent, LegId, SDP, UserAgent, accepted, body_of,
    leg::{Ours, SentAck, Stage, Theirs, Timer, Use},
    second_try,
};
use crate::sip::{
    build::Response,
    dialog::DialogId,
    endpoint::{ClientTx, Endpoint, ServerTx},
    message::{Message, Method},
    name::Name,
};

/// Tries of one change of ours that meets the peer's.
pub(super) const MOST_GLARES: u8 = 5;

impl UserAgent {
    /// Changes the session by re-INVITE. It waits for a change of the peer that is under way, and tries again after 491.
    pub fn reoffer(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, body: Bytes) {
        let Some(leg) = self.legs.get_mut(&id).filter(|leg| matches!(leg.stage, Stage::Up(_))) else { return };
        leg.calm();
        leg.ours = Some(Ours { body, tx: None, cseq: 0, tries: 0, refresh: false });
        self.send_reoffer(now, endpoint, id);
    }

    /// 200 to the peer's change.
    pub fn answer_reoffer(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, body: Bytes) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Some(theirs) = leg.theirs.take() else { return };
        leg.said = Some(body.clone());
        let Some(dialog) = DialogId::of_request(&theirs.request).and_then(|dialog| leg.dialog_mut(&dialog)) else { return };
        let response = accepted(endpoint, dialog, &theirs.request);
        let response = self.time_as_called(now, id, &theirs.request, response).body(SDP, body);
        if !theirs.request.is(&Method::Invite) {
            endpoint.respond(now, theirs.tx, response);
            return self.send_reoffer(now, endpoint, id);
        }
        let cseq = theirs.request.cseq().map_or(0, |cseq| cseq.number);
        self.send_accepted(now, endpoint, id, theirs.tx, cseq, response);
    }

    /// Refuses the peer's change: all stays as it was.
    pub fn reject_reoffer(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, status: u16) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Some(theirs) = leg.theirs.take() else { return };
        endpoint.respond(now, theirs.tx, Response::to(&theirs.request, status));
        self.send_reoffer(now, endpoint, id);
    }

    /// re-INVITE or UPDATE.
    pub(super) fn handle_change(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, tx: ServerTx, request: Message) {
        let random = endpoint.ids().next_u64();
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let is_update = request.is(&Method::Update);
        let described = DialogId::of_request(&request).is_some_and(|dialog| leg.is_described(&dialog));
        let refusal = match &leg.stage {
            // A refresh changes nothing, before the answer as well (RFC 3311 §5.2).
            Stage::Up(_) | Stage::Offered { .. } if is_update && request.body().is_empty() => None,
            Stage::Up(_) if leg.ours.as_ref().is_some_and(|ours| ours.tx.is_some()) => Some(491),
            Stage::Up(_) if leg.theirs.is_some() || (leg.unacked.is_some() && !is_update) => Some(500),
            Stage::Up(_) => None,
            // An offer before the answer (RFC 3311 §5.2).
            Stage::Offered { .. } | Stage::Calling { .. } if is_update && leg.theirs.is_none() && described => None,
            _ => Some(500),
        };
        if let Some(status) = refusal {
            let response = Response::to(&request, status);
            // RFC 3261 §14.2: 500 with a Retry-After of 0 to 10 s.
            let response = if status == 500 { response.header(Name::RetryAfter, random % 11) } else { response };
            return endpoint.respond(now, tx, response);
        }
        if let Some(min_secs) = self.config.session.too_short(&request) {
            return endpoint.respond(now, tx, Response::to(&request, 422).header(Name::MinSe, min_secs));
        }
        leg.note_methods(&request);
        let Some(dialog) = DialogId::of_request(&request).and_then(|dialog| leg.dialog_mut(&dialog)) else { return };
        dialog.refresh_target(&request);
        if is_update && request.body().is_empty() {
            let response = accepted(endpoint, dialog, &request);
            let response = self.time_as_called(now, id, &request, response);
            return endpoint.respond(now, tx, response);
        }
        let body = body_of(&request);
        leg.theirs = Some(Theirs { tx, request: Box::new(request) });
        if leg.owned {
            self.events.push_back(Event::Leg { leg: id, event: LegEvent::Reoffered { body } });
        } else {
            // We are leaving: all that is left for it is the BYE.
            self.reject_reoffer(now, endpoint, id, 488);
        }
    }

    pub(super) fn handle_reinvite_final(
        &mut self,
        now: Instant,
        endpoint: &mut Endpoint,
        id: LegId,
        tx: ClientTx,
        status: u16,
        response: &Message,
    ) {
        let random = endpoint.ids().next_u64();
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let flow = leg.flow;
        let is_caller = leg.unacked.is_none() && leg.we_called();
        let Stage::Up(dialog) = &mut leg.stage else {
            // We hung up meanwhile; a 2xx wants its ACK all the same.
            if let (Stage::Leaving(dialog), 200..300) = (&leg.stage, status) {
                let cseq = response.cseq().map_or(0, |cseq| cseq.number);
                endpoint.send(flow, dialog.ack(cseq));
            }
            return;
        };
        let Some(ours) = leg.ours.as_mut().filter(|ours| ours.tx == Some(tx)) else { return };
        match status {
            200..300 => {
                dialog.refresh_target(response);
                let cseq = ours.cseq;
                let transmit = endpoint.send(flow, dialog.ack(cseq));
                let to_tag = dialog.id.remote_tag.clone();
                let (local_tag, contact) = (dialog.id.local_tag.clone(), dialog.contact().to_owned());
                let ours = leg.ours.take();
                let refresh = ours.as_ref().is_some_and(|ours| ours.refresh);
                leg.said = ours.map(|ours| ours.body);
                self.remember_ack(now, endpoint, tx, SentAck { to_tag, transmit, local: String::new(), local_tag, contact, cseq });
                self.time_as_caller(now, id, response);
                if !refresh {
                    self.tell(id, LegEvent::ReofferAnswered { body: body_of(response) });
                }
            }
            491 if ours.tries < MOST_GLARES => {
                // RFC 3261 §14.1: who made the Call-ID waits 2.1 to 4 s, the other up to 2 s.
                let wait_ms = if is_caller { 2100 + random % 1900 } else { random % 2000 };
                ours.tx = None;
                self.schedule.insert((now + Duration::from_millis(wait_ms), id, Timer::ReofferAgain));
            }
            401 | 407 | 422 => {
                let secs = leg.timed.as_mut().map(|timed| &mut timed.secs);
                let more = second_try(&mut leg.login, &mut leg.challenged, secs, response, &Method::Invite, dialog.target(), endpoint);
                let Some(more) = more else { return self.reoffer_failed(now, id, status) };
                let asked = leg.asks_again(endpoint);
                let (Stage::Up(dialog), Some(ours)) = (&mut leg.stage, &mut leg.ours) else { return };
                let request = more.into_iter().fold(dialog.request(Method::Invite), |request, (name, value)| request.header(name, value));
                let tx = endpoint.request(now, flow, asked(request).body(SDP, ours.body.clone()));
                ours.cseq = dialog.local_cseq();
                ours.tx = Some(tx);
                self.clients.insert(tx, Use::Reinvite(id));
            }
            481 | 408 => {
                self.tell(id, LegEvent::Ended { how: Ended::Lost });
                self.send_bye(now, endpoint, id, None);
            }
            _ => self.reoffer_failed(now, id, status),
        }
    }

    fn reoffer_failed(&mut self, now: Instant, id: LegId, status: u16) {
        match self.legs.get_mut(&id).and_then(|leg| leg.ours.take()) {
            Some(ours) if ours.refresh => self.refresh_again(now, id),
            _ => self.tell(id, LegEvent::ReofferFailed { status }),
        }
    }

    /// Sends our change if there is one and nothing stands in its way.
    pub(super) fn send_reoffer(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let busy = leg.theirs.is_some() || leg.unacked.is_some();
        let asked = leg.asks_again(endpoint);
        let (Stage::Up(dialog), Some(ours)) = (&mut leg.stage, &mut leg.ours) else { return };
        if busy || ours.tx.is_some() {
            return;
        }
        let request = asked(dialog.request(Method::Invite)).body(SDP, ours.body.clone());
        let tx = endpoint.request(now, leg.flow, request);
        ours.tx = Some(tx);
        ours.cseq = dialog.local_cseq();
        ours.tries += 1;
        self.clients.insert(tx, Use::Reinvite(id));
        self.identity_is_told(id);
    }
}
