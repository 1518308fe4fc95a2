//! Provisional answers that must arrive (RFC 3262): sent until the PRACK for them is here, and acknowledged where peers send them.
//!
//! We send one where the caller insists (`Require: 100rel`), and where what it says matters: with a session description, if the
//! caller can take it so. One at a time; the others wait, and a 200 waits behind a description that is on its way. What was said
//! so and acknowledged is not said again in the 200. Not here: what an UPDATE makes of it (`change.rs`).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Ended, LegEvent, LegId, SDP, UserAgent, answer_to, body_of,
    identity::identified,
    leg::{Stage, Theirs, Timer, Use},
};
use crate::sip::{
    build::Response,
    dialog::DialogId,
    endpoint::{ClientTx, Endpoint, ServerTx},
    message::{Message, Method},
    name::Name,
};

/// The option tag.
pub(super) const RELIABLE: &str = "100rel";
/// Answers that wait for their turn: a caller who acknowledges none has none of it.
const MOST_WAITING: usize = 4;

/// What a caller gets reliably.
pub(super) struct Reliable {
    /// It insists.
    required: bool,
    /// Number of the last one.
    rseq: u32,
    /// The last number that has arrived.
    arrived: u32,
    invite_cseq: u32,
    /// The one whose PRACK is not here.
    sent: Option<Sent>,
    waiting: VecDeque<(u16, Option<Bytes>)>,
    /// Our session description has arrived.
    pub(super) described: bool,
    /// The call is answered as soon as `sent` has arrived.
    answer: Option<Bytes>,
}

struct Sent {
    response: Response,
    has_body: bool,
    interval: Duration,
    next: Instant,
    give_up: Instant,
}

/// A PRACK of ours that has no answer.
pub(super) struct SentPrack {
    pub(super) tx: ClientTx,
    dialog: DialogId,
    rack: String,
}

impl Reliable {
    /// For a caller who can take them.
    pub(super) fn of(invite: &Message, random: u64) -> Option<Box<Self>> {
        let required = invite.lists(Name::Require, RELIABLE);
        // RFC 3262 §3: the first number is any below 2³¹.
        let rseq = (random % 0x7FFF_FFFF) as u32;
        (required || invite.lists(Name::Supported, RELIABLE)).then(|| {
            let invite_cseq = invite.cseq().map_or(0, |cseq| cseq.number);
            let waiting = VecDeque::new();
            Box::new(Self { required, rseq, arrived: rseq, invite_cseq, sent: None, waiting, described: false, answer: None })
        })
    }

    pub(super) fn timer(&self) -> Option<Instant> {
        self.sent.as_ref().map(|sent| sent.next)
    }
}

impl UserAgent {
    /// 101 to 199 to a caller, reliably where it must or should be.
    pub(super) fn provisional(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, status: u16, body: Option<Bytes>) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Stage::Offered { tx, invite, dialog } = &leg.stage else { return };
        match leg.reliable.as_mut().filter(|reliable| reliable.required || body.is_some()) {
            None => {
                let response = identified(dialog.response(invite, status), leg.identity.as_ref());
                let response = if let Some(body) = body { response.body(SDP, body) } else { response };
                endpoint.respond(now, *tx, response);
            }
            Some(reliable) => {
                if reliable.waiting.len() < MOST_WAITING {
                    reliable.waiting.push_back((status, body));
                }
                self.send_reliable(now, endpoint, id);
            }
        }
    }

    /// Sends what waits, if nothing is on its way.
    fn send_reliable(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId) {
        let timers = endpoint.config().timers;
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Stage::Offered { tx, invite, dialog } = &leg.stage else { return };
        let Some(reliable) = leg.reliable.as_mut().filter(|reliable| reliable.sent.is_none()) else { return };
        let Some((status, body)) = reliable.waiting.pop_front() else { return };
        reliable.rseq += 1;
        let has_body = body.is_some();
        let abilities = &endpoint.config().abilities;
        let response = identified(dialog.response(invite, status), leg.identity.as_ref());
        let response = response.header(Name::Require, RELIABLE).header(Name::RSeq, reliable.rseq);
        // The caller may send an UPDATE before the answer, if it knows that we can take it (RFC 3311 §5.1).
        let response = response.header(Name::Allow, abilities.allow());
        let response = if let Some(body) = body { response.body(SDP, body) } else { response };
        endpoint.respond(now, *tx, response.clone());
        let next = now + timers.t1;
        reliable.sent = Some(Sent { response, has_body, interval: timers.t1, next, give_up: now + timers.patience() });
        self.schedule.insert((next, id, Timer::Unheard));
    }

    /// RFC 3262 §3: again after T1, 2·T1, 4·T1 …; after 64·T1 the call is given up.
    pub(super) fn repeat_reliable(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Stage::Offered { tx, .. } = &leg.stage else { return };
        let Some(sent) = leg.reliable.as_mut().and_then(|reliable| reliable.sent.as_mut()) else { return };
        if now >= sent.give_up {
            self.tell(id, LegEvent::Ended { how: Ended::Lost });
            return self.reject(now, endpoint, id, 504, &[]);
        }
        endpoint.respond(now, *tx, sent.response.clone());
        sent.interval *= 2;
        sent.next = (now + sent.interval).min(sent.give_up);
        self.schedule.insert((sent.next, id, Timer::Unheard));
    }

    /// The call shall be answered. `None`: it waits until the description before has arrived (RFC 3262 §5). Otherwise what
    /// the 200 is to say: nothing, where it was said and has arrived.
    pub(super) fn answer_after_reliable(&mut self, id: LegId, body: Bytes) -> Option<Option<Bytes>> {
        let Some(leg) = self.legs.get_mut(&id) else { return Some(Some(body)) };
        let Some(reliable) = &mut leg.reliable else { return Some(Some(body)) };
        reliable.waiting.retain(|(_, body)| body.is_some());
        if reliable.sent.as_ref().is_some_and(|sent| sent.has_body) || !reliable.waiting.is_empty() {
            reliable.answer = Some(body);
            return None;
        }
        if let Some(sent) = reliable.sent.take() {
            self.schedule.remove(&(sent.next, id, Timer::Unheard));
        }
        Some((!reliable.described).then_some(body))
    }

    pub(super) fn handle_prack(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, tx: ServerTx, request: Message) {
        let rack = request.text(Name::RAck).and_then(|text| {
            let mut words = text.split_whitespace().map(str::to_owned);
            Some((words.next()?.parse::<u32>().ok()?, words.next()?.parse::<u32>().ok()?, words.next()?))
        });
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let wanted = leg.reliable.as_mut().filter(|reliable| {
            let named = rack.as_ref().map(|(rseq, cseq, method)| (*rseq, *cseq, method.as_str()));
            reliable.arrived != reliable.rseq && named == Some((reliable.rseq, reliable.invite_cseq, "INVITE"))
        });
        let Some(reliable) = wanted else { return endpoint.respond(now, tx, Response::to(&request, 481)) };
        reliable.arrived = reliable.rseq;
        let answer = reliable.answer.take_if(|_| reliable.waiting.is_empty());
        // `None`: it has crossed our 200.
        if let Some(sent) = reliable.sent.take() {
            reliable.described |= sent.has_body;
            self.schedule.remove(&(sent.next, id, Timer::Unheard));
        }
        match body_of(&request) {
            // It offers another session at once: as an UPDATE would.
            Some(body) if leg.reliable.as_ref().is_some_and(|reliable| reliable.described) && leg.theirs.is_none() => {
                leg.theirs = Some(Theirs { tx, request: Box::new(request) });
                self.tell(id, LegEvent::Reoffered { body: Some(body) });
            }
            _ => endpoint.respond(now, tx, Response::to(&request, 200)),
        }
        self.send_reliable(now, endpoint, id);
        if let Some(body) = answer {
            self.answer(now, endpoint, id, body);
        }
    }

    /// What a provisional answer is worth that came reliably: `false` for one that came before, or too early (RFC 3262 §4).
    pub(super) fn acknowledge(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, response: &Message) -> bool {
        if !response.lists(Name::Require, RELIABLE) {
            return true;
        }
        let Some(rseq) = response.number(Name::RSeq).ok().flatten() else { return true };
        let Some(leg) = self.legs.get_mut(&id) else { return false };
        let flow = leg.flow;
        let Stage::Calling { calling, .. } = &mut leg.stage else { return false };
        let tag = response.to().ok().and_then(|to| to.tag()).unwrap_or_default();
        let cseq = calling.cseq;
        let Some(early) = calling.early.iter_mut().find(|early| early.dialog.id.remote_tag == tag) else { return false };
        if early.rseq.is_some_and(|last| rseq != last.wrapping_add(1)) {
            return false;
        }
        early.rseq = Some(rseq);
        early.described |= !response.body().is_empty();
        let rack = format!("{rseq} {cseq} INVITE");
        let dialog = early.dialog.id.clone();
        let tx = endpoint.request(now, flow, early.dialog.request(Method::Prack).header(Name::RAck, &rack));
        calling.pracks.push(SentPrack { tx, dialog, rack });
        self.clients.insert(tx, Use::Prack(id));
        true
    }

    /// The answer to our PRACK: only a challenge is of interest.
    pub(super) fn handle_prack_final(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, tx: ClientTx, response: &Message) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let flow = leg.flow;
        let Stage::Calling { calling, .. } = &mut leg.stage else { return };
        let Some(at) = calling.pracks.iter().position(|prack| prack.tx == tx) else { return };
        let SentPrack { dialog, rack, .. } = calling.pracks.swap_remove(at);
        let Some(early) = calling.early.iter_mut().find(|early| early.dialog.id == dialog) else { return };
        if !matches!(response.status(), Some(401 | 407)) {
            return;
        }
        let target = early.dialog.target().to_owned();
        let answer = answer_to(&mut leg.login, &mut leg.challenged, response, &Method::Prack, &target, endpoint);
        let Some((name, value)) = answer else { return };
        let request = early.dialog.request(Method::Prack).header(Name::RAck, &rack).header(name, value);
        let tx = endpoint.request(now, flow, request);
        calling.pracks.push(SentPrack { tx, dialog, rack });
        self.clients.insert(tx, Use::Prack(id));
    }

    /// It has no answer: the peer sends its own again.
    pub(super) fn forget_prack(&mut self, id: LegId, tx: ClientTx) {
        if let Some(Stage::Calling { calling, .. }) = self.legs.get_mut(&id).map(|leg| &mut leg.stage) {
            calling.pracks.retain(|prack| prack.tx != tx);
        }
    }
}
