//! The account of who called whom: a record for each leg, made of what the switch wants and what the legs tell. No I/O.
//!
//! A record is given out when its leg begins, when it is answered and when it is over, each time whole; the later one counts.
//! So a server that is killed leaves records without a cause, which the next start closes as cut off. What nobody could
//! write waits here, bounded. Not here: the disk (`worker`), what becomes of calls (`switch`).

use std::collections::{HashMap, VecDeque};

use super::{
    half::{Cause, LegEnd, LegEvent},
    switch::{Action, LegBegins},
};
use crate::{
    media::SessionId,
    model::{CallId, Event, MacAddr, NumberHash, Timestamp},
    sip::ua::LegId,
    store::{CallLeg, LegDirection},
};

/// Records that may wait for a disk that does not write; older ones are lost and counted.
const MOST_UNSAVED: usize = 100_000;

#[derive(Default)]
pub struct Ledger {
    legs: HashMap<LegId, Open, NumberHash>,
    by_media: HashMap<SessionId, LegId, NumberHash>,
    calls: HashMap<CallId, Known, NumberHash>,
    /// Trunks of legs that are about to begin.
    trunks: HashMap<SessionId, String, NumberHash>,
    /// Legs that have hung up or were hung up. The end of the call tells why, if that is what ended them; otherwise this is why.
    closing: Vec<(LegId, Option<Cause>)>,
    /// Refused before there was a call; who it was is told next.
    refused: Option<u16>,
    /// Legs that are up and whose record is new.
    changed: VecDeque<LegId>,
    done: VecDeque<CallLeg>,
    lines: VecDeque<LineNews>,
}

/// A leg has begun or ended at a phone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineNews {
    pub mac: MacAddr,
    pub call: CallId,
    pub leg: u32,
    pub up: bool,
}

struct Open {
    record: CallLeg,
    /// The side of the one who called.
    near: bool,
    changed: bool,
}

/// What is known of a call that is up.
#[derive(Default)]
struct Known {
    legs: Vec<LegId>,
    dialled: String,
    labels: Vec<(String, String)>,
}

impl Ledger {
    /// What a leg tells of itself; before the switch hears of it.
    pub fn handle_leg(&mut self, wall: Timestamp, leg: LegId, event: &LegEvent) {
        let Some(open) = self.legs.get_mut(&leg) else { return };
        match event {
            LegEvent::Ringing { .. } => drop(open.record.rang.get_or_insert(wall)),
            LegEvent::Answered { .. } => self.answered(wall, leg),
            LegEvent::Refused { status } => {
                let outside = open.record.trunk.is_some();
                let cause = if outside { Cause::of_outside(*status) } else { Cause::of_status(*status) };
                self.close(wall, leg, cause.as_str(), Some(*status));
            }
            LegEvent::Redirected { .. } => self.close(wall, leg, "diverted", Some(302)),
            LegEvent::Ended { how } => {
                let cause = match how {
                    LegEnd::Lost => Cause::Lost,
                    LegEnd::Cancelled => Cause::Cancelled,
                    LegEnd::HungUp if !open.near => Cause::CalleeHungUp,
                    LegEnd::HungUp if open.record.answered.is_none() => Cause::Cancelled,
                    LegEnd::HungUp => Cause::CallerHungUp,
                };
                self.closing.push((leg, Some(cause)));
            }
            _ => {}
        }
    }

    /// What the switch wants, in its order. `fresh` numbers what was refused before it was a call.
    pub fn handle_action(&mut self, wall: Timestamp, action: &Action, fresh: impl FnOnce(Timestamp) -> CallId) {
        match action {
            Action::HoldTrunk { trunk, media } => drop(self.trunks.insert(*media, trunk.to_string())),
            Action::LegBegins(begins) => self.begin(wall, begins),
            Action::Ring { leg } | Action::Progress { leg, .. } => {
                if let Some(open) = self.legs.get_mut(leg) {
                    open.record.rang.get_or_insert(wall);
                }
            }
            Action::Answer { leg, .. } => self.answered(wall, *leg),
            Action::SetRemote { media, params } => {
                if let Some(open) = self.by_media.get(media).and_then(|leg| self.legs.get_mut(leg)) {
                    open.record.codec = Some(params.codec.name().to_owned());
                }
            }
            Action::Refuse { leg, status, .. } => match self.legs.get_mut(leg) {
                Some(open) => {
                    open.record.status = Some(*status);
                    self.closing.push((*leg, None));
                }
                None => self.refused = Some(*status),
            },
            Action::Hangup { leg, elsewhere: true } => self.close(wall, *leg, "taken elsewhere", Some(487)),
            Action::Hangup { leg, elsewhere: false } if self.legs.contains_key(leg) => self.closing.push((*leg, None)),
            Action::CloseMedia { media } => drop((self.by_media.remove(media), self.trunks.remove(media))),
            Action::Reopened { was, media } => {
                let (leg, trunk) = (self.by_media.remove(was), self.trunks.remove(was));
                self.by_media.extend(leg.map(|leg| (*media, leg)));
                self.trunks.extend(trunk.map(|trunk| (*media, trunk)));
            }
            Action::Tell(event) => self.handle_event(wall, event, fresh),
            _ => {}
        }
    }

    /// All that the switch wanted was told: who was hung up while the call goes on was replaced, or rang in vain.
    pub fn settle(&mut self, wall: Timestamp) {
        self.refused = None;
        for (leg, cause) in std::mem::take(&mut self.closing) {
            let answered = self.legs.get(&leg).is_some_and(|open| open.record.answered.is_some());
            let cause = if answered { Cause::Transferred } else { cause.unwrap_or(Cause::NoAnswer) };
            self.close(wall, leg, cause.as_str(), None);
        }
    }

    pub fn has_unsaved(&self) -> bool {
        !self.done.is_empty() || !self.changed.is_empty()
    }

    /// Which phones are in a call, and no more, oldest first.
    pub fn poll_line(&mut self) -> Option<LineNews> {
        self.lines.pop_front()
    }

    /// The next record for the disk.
    pub fn poll_save(&mut self) -> Option<CallLeg> {
        while let Some(leg) = self.changed.pop_front() {
            if let Some(open) = self.legs.get_mut(&leg) {
                open.changed = false;
                return Some(open.record.clone());
            }
        }
        self.done.pop_front()
    }

    fn begin(&mut self, wall: Timestamp, begins: &LegBegins) {
        let known = self.calls.entry(begins.call).or_default();
        known.legs.push(begins.leg);
        let record = CallLeg {
            call: begins.call,
            leg: u32::try_from(known.legs.len()).unwrap_or(u32::MAX),
            direction: begins.direction,
            from: begins.from.clone(),
            to: begins.to.clone(),
            dialled: known.dialled.clone(),
            mac: Some(begins.mac).filter(|mac| *mac != MacAddr::NOBODY),
            trunk: self.trunks.remove(&begins.media),
            diverted_by: begins.diverted_by.clone(),
            began: wall,
            rang: None,
            answered: None,
            ended: None,
            cause: None,
            status: None,
            codec: None,
            labels: known.labels.clone(),
        };
        self.lines.extend(line_news(&record, true));
        self.by_media.insert(begins.media, begins.leg);
        self.legs.insert(begins.leg, Open { record, near: begins.near, changed: true });
        self.changed.push_back(begins.leg);
    }

    fn answered(&mut self, wall: Timestamp, leg: LegId) {
        let Some(open) = self.legs.get_mut(&leg) else { return };
        open.record.answered.get_or_insert(wall);
        open.record.status = Some(200);
        if !std::mem::replace(&mut open.changed, true) {
            self.changed.push_back(leg);
        }
    }

    fn handle_event(&mut self, wall: Timestamp, event: &Event, fresh: impl FnOnce(Timestamp) -> CallId) {
        match event {
            Event::CallStarted { call, to, labels, .. } => {
                let known = self.calls.entry(*call).or_default();
                (known.dialled, known.labels) = (to.clone(), labels.clone());
                // Of a call that a program began, the first leg is there before its call.
                for leg in &known.legs {
                    if let Some(open) = self.legs.get_mut(leg) {
                        (open.record.dialled, open.record.labels) = (to.clone(), labels.clone());
                    }
                }
            }
            Event::CallTransferred { call, to, .. } => {
                if let Some(known) = self.calls.get_mut(call) {
                    known.dialled.clone_from(to);
                }
            }
            Event::CallEnded { call, cause, .. } => {
                self.calls.remove(call);
                for (leg, why) in std::mem::take(&mut self.closing) {
                    // A leg that a transfer has brought here began in a call that is over already.
                    let here = self.legs.get(&leg).is_some_and(|o| o.record.call == *call || !self.calls.contains_key(&o.record.call));
                    match here {
                        true => self.close(wall, leg, cause, None),
                        false => self.closing.push((leg, why)),
                    }
                }
            }
            Event::CallRefused { from, to, mac, reason } => {
                let Some(status) = self.refused.take() else { return };
                self.keep(CallLeg {
                    call: fresh(wall),
                    leg: 1,
                    direction: LegDirection::In,
                    from: from.clone(),
                    to: to.clone(),
                    dialled: to.clone(),
                    mac: *mac,
                    trunk: None,
                    diverted_by: None,
                    began: wall,
                    rang: None,
                    answered: None,
                    ended: Some(wall),
                    cause: Some(reason.clone()),
                    status: Some(status),
                    codec: None,
                    labels: Vec::new(),
                });
            }
            _ => {}
        }
    }

    fn close(&mut self, wall: Timestamp, leg: LegId, cause: &str, status: Option<u16>) {
        let Some(Open { mut record, .. }) = self.legs.remove(&leg) else { return };
        self.lines.extend(line_news(&record, false));
        record.ended = Some(wall);
        record.cause = Some(cause.to_owned());
        // A phone that rang and was hung up answers 487 (RFC 3261 §9.2).
        record.status = record.status.or(status).or(Some(487));
        self.keep(record);
    }

    fn keep(&mut self, record: CallLeg) {
        if self.done.len() >= MOST_UNSAVED {
            self.done.pop_front();
            metrics::counter!("plugtone_call_records_lost_total").increment(1);
        }
        self.done.push_back(record);
    }
}

fn line_news(record: &CallLeg, up: bool) -> Option<LineNews> {
    Some(LineNews { mac: record.mac?, call: record.call, leg: record.leg, up })
}
