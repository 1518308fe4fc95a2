//! Two user agents and a link between them that loses and delays, in virtual time.

use std::{collections::BTreeSet, time::Duration};

use super::*;
use crate::{
    model::Secret,
    sip::{build::Response, digest::Credentials, endpoint, ids::Ids},
};

mod identity;
mod refer;
mod reliable;
mod session;

/// Two user agents and a link between them that loses and delays, in virtual time.
struct Pair {
    now: Instant,
    start: Instant,
    sides: [Side; 2],
    /// In the air: when it arrives, in which order it left, where to, what.
    air: BTreeSet<(Instant, u64, usize, Bytes)>,
    sent: u64,
    loss_percent: u64,
    dice: Ids,
    /// First lines of what was sent, with milliseconds and sender.
    log: Vec<(u64, usize, String)>,
    /// The same in full.
    texts: Vec<String>,
    /// Goes into the next INVITE.
    headers: Vec<(String, String)>,
    /// Other flows to B.
    spare: Vec<Way>,
    /// Sent by one side from here on, thrown away if its first line has this word.
    lose: Option<(usize, &'static str)>,
}

struct Side {
    endpoint: Endpoint,
    agent: UserAgent,
    address: std::net::SocketAddr,
    heard: Vec<String>,
    legs: Vec<LegId>,
    incoming: Vec<Message>,
}

const A: usize = 0;
const B: usize = 1;

impl Pair {
    fn new(seed: u8, loss_percent: u64) -> Self {
        let now = Instant::now();
        let side = |which: u8| Side {
            endpoint: Endpoint::new(endpoint::Config::default(), [seed ^ which; 32]),
            agent: UserAgent::new(Config::default()),
            address: format!("10.0.0.{which}:5060").parse().unwrap(),
            heard: Vec::new(),
            legs: Vec::new(),
            incoming: Vec::new(),
        };
        let dice = Ids::new([seed; 32]);
        Self {
            now,
            start: now,
            sides: [side(1), side(2)],
            air: BTreeSet::new(),
            sent: 0,
            loss_percent,
            dice,
            log: vec![],
            texts: vec![],
            headers: vec![],
            spare: vec![],
            lose: None,
        }
    }

    fn invite(&mut self, credentials: Option<Credentials>) -> LegId {
        let flow = Flow::udp(self.sides[A].address, self.sides[B].address);
        let side = &mut self.sides[A];
        let leg = side.agent.new_leg();
        let invite = Invite {
            uri: "sip:b@10.0.0.2".into(),
            flow,
            from: ("Ada".into(), "sip:a@10.0.0.1".into()),
            to: "sip:b@10.0.0.2".into(),
            contact_user: "a".into(),
            offer: Some(Bytes::from_static(b"offer")),
            credentials,
            routes: vec![],
            headers: self.headers.clone(),
            spare: self.spare.clone(),
            gr: None,
        };
        side.agent.invite(self.now, &mut side.endpoint, leg, invite);
        leg
    }

    fn on<R>(&mut self, which: usize, act: impl FnOnce(&mut UserAgent, Instant, &mut Endpoint, LegId) -> R) -> R {
        let now = self.now;
        let side = &mut self.sides[which];
        let leg = *side.legs.last().expect("a leg");
        act(&mut side.agent, now, &mut side.endpoint, leg)
    }

    /// Moves messages, events and time until `millis` after the start.
    fn run_until(&mut self, millis: u64) {
        let end = self.start + Duration::from_millis(millis);
        loop {
            self.settle();
            let timers = self.sides.iter().flat_map(|s| [s.endpoint.poll_timeout(), s.agent.poll_timeout()]).flatten();
            let next = timers.chain(self.air.first().map(|(at, ..)| *at)).min().filter(|at| *at <= end);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            while let Some((_, _, to, bytes)) = self.air.first().filter(|(at, ..)| *at <= self.now).cloned() {
                self.air.pop_first();
                let from = self.sides[1 - to].address;
                let side = &mut self.sides[to];
                side.endpoint.handle_message(self.now, Flow::udp(side.address, from), bytes);
            }
            for side in &mut self.sides {
                side.endpoint.handle_timeout(self.now);
                side.agent.handle_timeout(self.now, &mut side.endpoint);
            }
        }
        self.now = end;
    }

    fn settle(&mut self) {
        for which in [A, B] {
            loop {
                let now = self.now;
                let side = &mut self.sides[which];
                while let Some(event) = side.endpoint.poll_event() {
                    side.agent.handle(now, &mut side.endpoint, event);
                }
                let mut quiet = true;
                while let Some(event) = side.agent.poll_event() {
                    quiet = false;
                    match event {
                        Event::Incoming { leg, request, .. } => {
                            side.heard.push("incoming".into());
                            side.incoming.push(request);
                            side.legs.push(leg);
                        }
                        Event::Leg { leg, event } => {
                            side.legs.push(leg);
                            // Each INVITE is heard by a 100 first.
                            if !matches!(event, LegEvent::Trying) {
                                side.heard.push(words(&event));
                            }
                        }
                        Event::Request { tx, request, .. } => {
                            side.heard.push(request.method().unwrap().to_string());
                            side.endpoint.respond(now, tx, Response::to(&request, 200));
                        }
                        Event::Replied { response, .. } => {
                            side.heard.push(format!("replied {:?}", response.and_then(|r| r.status())));
                        }
                    }
                }
                if quiet {
                    break;
                }
            }
            while let Some(transmit) = self.sides[which].endpoint.poll_transmit() {
                self.texts.push(String::from_utf8_lossy(&transmit.bytes).into_owned());
                let line = String::from_utf8_lossy(&transmit.bytes).lines().next().unwrap_or_default().to_owned();
                let millis = (self.now - self.start).as_millis() as u64;
                let lost = self.lose.is_some_and(|(who, word)| who == which && line.contains(word))
                    || self.dice.next_u64() % 100 < self.loss_percent;
                self.log.push((millis, which, line));
                if !lost {
                    self.sent += 1;
                    self.air.insert((self.now + Duration::from_millis(10), self.sent, 1 - which, transmit.bytes));
                }
            }
        }
    }

    /// When `who` sent a line with this word.
    fn times(&self, who: usize, word: &str) -> Vec<u64> {
        self.log.iter().filter(|(_, which, line)| *which == who && line.contains(word)).map(|(at, ..)| *at).collect()
    }

    fn answered(seed: u8) -> Self {
        let mut pair = Self::new(seed, 0);
        pair.invite(None);
        pair.run_until(20);
        pair.on(B, |ua, now, ep, leg| ua.answer(now, ep, leg, Bytes::from_static(b"answer")));
        pair.run_until(100);
        pair
    }
}

fn words(event: &LegEvent) -> String {
    let body = |body: &Option<Bytes>| body.as_ref().map(|b| format!(" {}", String::from_utf8_lossy(b))).unwrap_or_default();
    match event {
        LegEvent::Trying => "trying".to_owned(),
        LegEvent::Ringing { status, .. } => format!("ringing {status}"),
        LegEvent::Answered { body: b } => format!("answered{}", body(b)),
        LegEvent::FlowFailed { uri, .. } => format!("no flow to {uri}"),
        LegEvent::Refused { status, .. } => format!("refused {status}"),
        LegEvent::Redirected { status, to } => format!("redirected {status} to {to}"),
        LegEvent::Acked { body: b } => format!("acked{}", body(b)),
        LegEvent::Reoffered { body: b } => format!("reoffered{}", body(b)),
        LegEvent::ReofferAnswered { body: b } => format!("reoffer answered{}", body(b)),
        LegEvent::ReofferFailed { status } => format!("reoffer failed {status}"),
        LegEvent::Info { content_type, .. } => format!("info {content_type}"),
        LegEvent::ReferProgress { status } => format!("refer {status}"),
        LegEvent::Referred { refer } => format!("referred to {} replacing {:?}", refer.to, refer.replaces),
        LegEvent::Ended { how } => format!("ended {how:?}"),
    }
}

fn assert_nothing_left(pair: &Pair) {
    for side in &pair.sides {
        assert_eq!((side.agent.len(), side.agent.dialogs.len(), side.agent.clients.len(), side.agent.schedule.len()), (0, 0, 0, 0));
        assert_eq!(
            (side.agent.offered.len() + side.agent.referrals.len(), side.agent.acks.len(), side.endpoint.transactions()),
            (0, 0, (0, 0))
        );
    }
}

#[test]
fn a_call_from_ring_to_bye() {
    let mut pair = Pair::new(1, 0);
    pair.invite(None);
    pair.run_until(20);
    pair.on(B, |ua, now, ep, leg| ua.ring(now, ep, leg));
    pair.run_until(50);
    pair.on(B, |ua, now, ep, leg| ua.answer(now, ep, leg, Bytes::from_static(b"answer")));
    pair.run_until(100);
    pair.on(A, |ua, now, ep, leg| ua.info(now, ep, leg, "application/dtmf-relay", Bytes::from_static(b"Signal=5")));
    pair.run_until(150);
    pair.on(B, |ua, now, ep, leg| ua.hangup(now, ep, leg, Some("Q.850;cause=16")));
    pair.run_until(100_000);
    assert_eq!(pair.sides[A].heard, ["ringing 180", "answered answer", "ended HungUp"]);
    assert_eq!(pair.sides[B].heard, ["incoming", "acked", "info application/dtmf-relay"]);
    assert_nothing_left(&pair);
}

#[test]
fn a_device_is_called_by_its_other_flow_when_one_has_failed() {
    let way = |uri: &str| Way {
        uri: uri.into(),
        flow: Flow::udp("10.0.0.1:5060".parse().unwrap(), "10.0.0.2:5060".parse().unwrap()),
        routes: vec!["<sip:10.0.0.2;lr>".into()],
    };
    let start = |spare: &[&str]| {
        let mut pair = Pair::new(50, 0);
        pair.spare = spare.iter().map(|uri| way(uri)).collect();
        pair.invite(None);
        pair.run_until(20);
        pair
    };
    let refuse = |pair: &mut Pair, status| pair.on(B, |ua, now, ep, leg| ua.reject(now, ep, leg, status, &[]));
    let mut pair = start(&["sip:b@second", "sip:b@third"]);
    refuse(&mut pair, 430);
    pair.run_until(50);
    refuse(&mut pair, 408);
    pair.run_until(100);
    pair.on(B, |ua, now, ep, leg| ua.answer(now, ep, leg, Bytes::from_static(b"answer")));
    pair.run_until(150);
    pair.on(A, |ua, now, ep, leg| ua.hangup(now, ep, leg, None));
    pair.run_until(100_000);
    assert_eq!(pair.sides[A].heard, ["no flow to sip:b@10.0.0.2", "answered answer"]);
    let invites: Vec<_> = pair.sides[B].incoming.iter().map(|i| (i.uri().unwrap().as_str().to_owned(), i.cseq().unwrap().number)).collect();
    assert_eq!(invites, [("sip:b@10.0.0.2".into(), 1), ("sip:b@second".into(), 2), ("sip:b@third".into(), 3)]);
    assert_eq!(pair.sides[B].incoming[1].header(Name::Route), Some(&b"<sip:10.0.0.2;lr>"[..]));
    assert_nothing_left(&pair);
    // What the device says for itself holds, and when all flows have failed that is the answer.
    for (status, spare, heard) in
        [(486, &["sip:b@second"][..], &["refused 486"][..]), (430, &[], &["no flow to sip:b@10.0.0.2", "refused 430"])]
    {
        let mut pair = start(spare);
        refuse(&mut pair, status);
        pair.run_until(100_000);
        assert_eq!(pair.sides[A].heard, heard);
        assert_nothing_left(&pair);
    }
    // Nobody hears of the first at all.
    let mut pair = Pair::new(51, 0);
    pair.spare = vec![way("sip:b@second")];
    pair.lose = Some((A, "sip:b@10.0.0.2 SIP/2.0"));
    pair.invite(None);
    pair.run_until(33_000);
    assert_eq!(pair.sides[B].heard, ["incoming"]);
}

#[test]
fn whatever_is_lost_a_call_comes_about_and_ends() {
    for seed in 0..60 {
        let mut pair = Pair::new(seed, 35);
        pair.invite(None);
        pair.run_until(25_000);
        // The INVITE itself may have been lost eleven times: then it timed out, which is an end too.
        if pair.sides[B].legs.is_empty() {
            continue;
        }
        pair.on(B, |ua, now, ep, leg| ua.answer(now, ep, leg, Bytes::from_static(b"answer")));
        pair.run_until(60_000);
        assert!(pair.sides[A].heard.contains(&"answered answer".to_owned()), "{seed}: {:?}", pair.sides[A].heard);
        pair.on(A, |ua, now, ep, leg| ua.hangup(now, ep, leg, None));
        pair.run_until(200_000);
        assert_nothing_left(&pair);
    }
}

#[test]
fn an_answer_is_repeated_until_its_ack() {
    let mut pair = Pair::new(3, 0);
    pair.invite(None);
    pair.run_until(20);
    pair.lose = Some((A, "ACK"));
    pair.on(B, |ua, now, ep, leg| ua.answer(now, ep, leg, Bytes::from_static(b"answer")));
    pair.run_until(31_000);
    assert_eq!(pair.times(B, "200 OK"), [20, 520, 1520, 3520, 7520, 11520, 15520, 19520, 23520, 27520]);
    // Each copy had its ACK.
    assert_eq!(pair.times(A, "ACK").len(), 10);
    pair.run_until(100_000);
    // At 64·T1 the called side ends it.
    assert_eq!(pair.times(B, "BYE"), [32_020]);
    assert_eq!(pair.sides[B].heard, ["incoming", "ended Lost"]);
    assert_eq!(pair.sides[A].heard, ["answered answer", "ended HungUp"]);
    assert_nothing_left(&pair);
}

#[test]
fn hanging_up_before_the_ack_waits_for_it() {
    let mut pair = Pair::new(4, 0);
    pair.invite(None);
    pair.run_until(20);
    pair.on(B, |ua, now, ep, leg| {
        ua.answer(now, ep, leg, Bytes::from_static(b"answer"));
        ua.hangup(now, ep, leg, None);
    });
    pair.run_until(100_000);
    assert_eq!(pair.times(B, "BYE"), [40]);
    assert_eq!(pair.sides[A].heard, ["answered answer", "ended HungUp"]);
    assert_nothing_left(&pair);
}

#[test]
fn a_call_is_cancelled() {
    let mut pair = Pair::new(5, 0);
    let leg = pair.invite(None);
    pair.run_until(20);
    pair.on(B, |ua, now, ep, leg| ua.ring(now, ep, leg));
    pair.run_until(50);
    let (now, side) = (pair.now, &mut pair.sides[A]);
    side.agent.hangup(now, &mut side.endpoint, leg, Some("SIP;cause=200;text=\"Call completed elsewhere\""));
    pair.run_until(100_000);
    assert_eq!(pair.sides[B].heard, ["incoming", "ended Cancelled"]);
    assert_eq!(pair.times(B, "487").len(), 1);
    let cancel = pair.texts.iter().find(|text| text.starts_with("CANCEL")).unwrap();
    assert!(cancel.contains("Reason: SIP;cause=200;text=\"Call completed elsewhere\"\r\n"), "{cancel}");
    assert_nothing_left(&pair);
}

#[test]
fn a_cancel_that_crosses_the_answer_becomes_a_bye() {
    let mut pair = Pair::new(6, 0);
    let leg = pair.invite(None);
    pair.run_until(20);
    pair.on(B, |ua, now, ep, leg| ua.ring(now, ep, leg));
    pair.run_until(50);
    let (now, side) = (pair.now, &mut pair.sides[A]);
    side.agent.hangup(now, &mut side.endpoint, leg, None);
    pair.on(B, |ua, now, ep, leg| ua.answer(now, ep, leg, Bytes::from_static(b"answer")));
    pair.run_until(100_000);
    assert_eq!(pair.sides[B].heard, ["incoming", "acked", "ended HungUp"]);
    assert_eq!(pair.sides[A].heard, ["ringing 180"]);
    assert_nothing_left(&pair);
}

#[test]
fn both_hang_up_at_once() {
    let mut pair = Pair::answered(7);
    pair.on(A, |ua, now, ep, leg| ua.hangup(now, ep, leg, None));
    pair.on(B, |ua, now, ep, leg| ua.hangup(now, ep, leg, None));
    pair.run_until(200_000);
    assert_nothing_left(&pair);
}

#[test]
fn a_change_is_answered_and_acknowledged() {
    let mut pair = Pair::answered(8);
    pair.on(A, |ua, now, ep, leg| ua.reoffer(now, ep, leg, Bytes::from_static(b"hold")));
    pair.run_until(150);
    pair.on(B, |ua, now, ep, leg| ua.answer_reoffer(now, ep, leg, Bytes::from_static(b"held")));
    pair.run_until(300);
    pair.on(B, |ua, now, ep, leg| ua.reoffer(now, ep, leg, Bytes::from_static(b"x")));
    pair.run_until(350);
    pair.on(A, |ua, now, ep, leg| ua.reject_reoffer(now, ep, leg, 488));
    pair.run_until(400);
    assert_eq!(pair.sides[A].heard, ["answered answer", "reoffer answered held", "reoffered x"]);
    assert_eq!(pair.sides[B].heard, ["incoming", "acked", "reoffered hold", "acked", "reoffer failed 488"]);
    pair.on(A, |ua, now, ep, leg| ua.hangup(now, ep, leg, None));
    pair.run_until(200_000);
    assert_nothing_left(&pair);
}

#[test]
fn changes_that_meet_are_tried_again() {
    let mut pair = Pair::answered(9);
    pair.on(A, |ua, now, ep, leg| ua.reoffer(now, ep, leg, Bytes::from_static(b"from a")));
    pair.on(B, |ua, now, ep, leg| ua.reoffer(now, ep, leg, Bytes::from_static(b"from b")));
    for millis in (200..9_000).step_by(50) {
        pair.run_until(millis);
        for which in [A, B] {
            if pair.sides[which].heard.last().is_some_and(|last| last.starts_with("reoffered")) {
                pair.sides[which].heard.push("answering".into());
                pair.on(which, |ua, now, ep, leg| ua.answer_reoffer(now, ep, leg, Bytes::from_static(b"yes")));
            }
        }
    }
    assert_eq!(pair.log.iter().filter(|(_, _, line)| line.contains("491")).count(), 2);
    for which in [A, B] {
        assert!(pair.sides[which].heard.contains(&"reoffer answered yes".to_owned()), "{:?}", pair.sides[which].heard);
    }
}

#[test]
fn a_challenge_is_answered_once() {
    let mut pair = Pair::new(10, 0);
    pair.invite(Some(Credentials { username: "a".into(), secret: Secret::new("p") }));
    let challenge = vec![(Name::ProxyAuthenticate, "Digest realm=\"r\", nonce=\"n\", qop=\"auth\"".to_owned())];
    pair.run_until(20);
    pair.on(B, |ua, now, ep, leg| ua.reject(now, ep, leg, 407, &challenge));
    pair.run_until(60);
    assert_eq!(pair.sides[B].incoming.len(), 2);
    assert!(pair.sides[B].incoming[1].header(Name::ProxyAuthorization).is_some());
    // Asked again without "stale": the password is wrong, and trying on would lock us out.
    pair.on(B, |ua, now, ep, leg| ua.reject(now, ep, leg, 407, &challenge));
    pair.run_until(100_000);
    assert_eq!(pair.sides[A].heard, ["refused 407"]);
    assert_nothing_left(&pair);
}

#[test]
fn what_belongs_to_no_dialog_is_481() {
    let mut pair = Pair::answered(11);
    let mut stranger = None;
    for side in &mut pair.sides {
        stranger = side.agent.dialogs.keys().next().cloned().or(stranger);
    }
    let known = stranger.expect("a dialog");
    for method in ["BYE", "INVITE", "INFO", "UPDATE", "OPTIONS"] {
        let text = format!(
            "{method} sip:b@10.0.0.2 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK{method}\r\nMax-Forwards: 70\r\n\
             From: <sip:a@10.0.0.1>;tag=guess\r\nTo: <sip:b@10.0.0.2>;tag=guess\r\nCall-ID: {}\r\nCSeq: 9 {method}\r\n\
             Contact: <sip:a@10.0.0.1>\r\nContent-Length: 0\r\n\r\n",
            known.call_id
        );
        let side = &mut pair.sides[B];
        let flow = Flow::udp(side.address, "10.0.0.1:5060".parse().unwrap());
        side.endpoint.handle_message(pair.now, flow, text.into());
    }
    pair.run_until(200);
    assert_eq!(pair.times(B, "481").len(), 5);
    assert_eq!(pair.sides[B].heard, ["incoming", "acked"]);
}

#[test]
fn a_phone_that_vanished_is_lost() {
    let mut pair = Pair::answered(12);
    pair.lose = Some((A, ""));
    pair.on(B, |ua, now, ep, leg| ua.reoffer(now, ep, leg, Bytes::from_static(b"there?")));
    pair.run_until(200_000);
    assert_eq!(pair.sides[B].heard, ["incoming", "acked", "ended Lost"]);
    assert_eq!(pair.sides[B].agent.len(), 0);
}

#[test]
fn too_many_legs_are_503() {
    let mut pair = Pair::new(13, 0);
    pair.sides[B].agent.config.max_legs = 1;
    pair.invite(None);
    pair.invite(None);
    pair.run_until(100);
    assert_eq!(pair.sides[B].heard, ["incoming"]);
    assert_eq!(pair.sides[A].heard, ["refused 503"]);
}

#[test]
fn requests_outside_of_dialogs_have_answers() {
    let mut pair = Pair::new(14, 0);
    let flow = Flow::udp(pair.sides[A].address, pair.sides[B].address);
    let outside = Outside {
        method: Method::Notify,
        uri: "sip:b@10.0.0.2".into(),
        flow,
        from: (String::new(), "sip:server@10.0.0.1".into()),
        to: "sip:b@10.0.0.2".into(),
        headers: vec![("Event".into(), "check-sync".into())],
        body: None,
        credentials: None,
    };
    let (now, side) = (pair.now, &mut pair.sides[A]);
    side.agent.request(now, &mut side.endpoint, outside.clone());
    pair.run_until(100);
    assert_eq!((pair.sides[B].heard.clone(), pair.sides[A].heard.clone()), (vec!["NOTIFY".into()], vec!["replied Some(200)".into()]));
    pair.lose = Some((A, ""));
    let (now, side) = (pair.now, &mut pair.sides[A]);
    side.agent.request(now, &mut side.endpoint, outside);
    pair.run_until(200_000);
    assert_eq!(pair.sides[A].heard.last().map(String::as_str), Some("replied None"));
    assert!(pair.sides[A].agent.outsides.is_empty());
}

#[test]
fn sound_before_the_answer_is_passed_on_as_183() {
    let mut pair = Pair::new(15, 0);
    pair.invite(None);
    pair.run_until(20);
    pair.on(B, |ua, now, ep, leg| ua.progress(now, ep, leg, Bytes::from_static(b"early")));
    pair.run_until(60);
    pair.on(B, |ua, now, ep, leg| ua.answer(now, ep, leg, Bytes::from_static(b"early")));
    pair.run_until(100);
    assert_eq!(pair.sides[A].heard, ["ringing 183", "answered"]);
    assert!(pair.texts.iter().any(|text| text.starts_with("SIP/2.0 183") && text.ends_with("early")));
    pair.on(A, |ua, now, ep, leg| ua.hangup(now, ep, leg, None));
    pair.run_until(100_000);
    assert_nothing_left(&pair);
}
