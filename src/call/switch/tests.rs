//! Every way a call can go, on paper and in virtual time.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;

use super::*;
use crate::{
    call::{
        Caller, Settings,
        half::{CallState, LegEnd},
        ledger::Ledger,
    },
    model::{MacAddr, Timestamp},
};

mod anything;
mod direct;
mod divert;
mod early;
mod features;
mod records;
mod transfer;
mod voicemail;

/// An office on paper: who is registered, how many ports and places in the menu there are.
struct Paper {
    /// Extension and last byte of the MAC of each phone.
    phones: Vec<(&'static str, u8)>,
    /// What phones want to be tried later, in thousandths.
    q: HashMap<u8, u16>,
    next: u64,
    ports: usize,
    /// Ports that nobody has closed yet.
    open: BTreeSet<SessionId>,
    places: usize,
}

fn flow() -> Flow {
    Flow::udp("10.0.0.1:5060".parse().unwrap(), "10.0.0.5:5060".parse().unwrap())
}

fn mac(last: u8) -> MacAddr {
    MacAddr([0, 0x15, 0x65, 0, 0, last])
}

impl World for Paper {
    fn contacts(&self, user: &str) -> Vec<Contact> {
        let of = self.phones.iter().filter(|(extension, _)| *extension == user);
        of.map(|(extension, last)| Contact {
            uri: format!("sip:{extension}@10.0.0.{last}"),
            flow: flow(),
            // A hundred more: the next line of the same device.
            mac: mac(*last % 100),
            line: 1 + last / 100,
            q: self.q.get(last).copied().unwrap_or(1000),
            path: vec![],
            spare: vec![],
        })
        .collect()
    }
    fn is_extension(&self, number: &str) -> bool {
        number.len() == 4 && number != "2999"
    }
    fn display_name(&self, _: &str) -> String {
        "Somebody".into()
    }
    fn new_leg(&mut self) -> LegId {
        LegId(self.random())
    }
    fn open_media(&mut self, _: &Flow, _: Purpose) -> Option<MediaPort> {
        self.ports = self.ports.checked_sub(1)?;
        let id = self.random();
        self.open.insert(SessionId(id));
        Some(MediaPort { id: SessionId(id), address: SocketAddr::from(([10, 0, 0, 1], 16_000 + 2 * id as u16)) })
    }
    fn reopen_media(&mut self, _: IpAddr, _: Option<SessionId>) -> Option<MediaPort> {
        self.open_media(&flow(), Purpose::Bridge { near: None })
    }
    fn take_trunk(&mut self, _: Instant, trunk: &str, _: bool, tried: usize) -> Result<Seat, Unusable> {
        match trunk {
            "full" => Err(Unusable::Full),
            _ => Ok(Seat { flow: flow(), silence: Duration::from_secs(6), last: trunk != "two" || tried == 1 }),
        }
    }
    fn groups(&self, _: &str) -> Vec<String> {
        Vec::new()
    }
    fn location(&self, _: MacAddr) -> Option<String> {
        Some("floor2-port7".into())
    }
    fn wall(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }
    fn has_mailbox(&self, number: &str) -> bool {
        number == "2042"
    }
    fn reserve_service(&mut self, _: CallId, _: &Errand) -> bool {
        let free = self.places > 0;
        self.places = self.places.saturating_sub(1);
        free
    }
    fn random(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

struct Bed {
    now: Instant,
    switch: Switch,
    world: Paper,
    /// Legs that we called, in order.
    called: Vec<LegId>,
    events: Vec<Event>,
    /// Who is shown whom.
    seen: Vec<String>,
    ledger: Ledger,
    /// Legs by which phones are in a call, as the ledger tells it.
    busy: std::collections::BTreeSet<(CallId, u32)>,
    began: Instant,
    /// Calls that wait for something to be stored.
    keeping: Vec<CallId>,
}

const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 10.0.0.5\r\ns=-\r\nc=IN IP4 10.0.0.5\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 8 101\r\n\
                     a=rtpmap:101 telephone-event/8000\r\n";
const CALLER: LegId = LegId(1_000_000);

/// A call of somebody who is let in, as plain as there are.
fn incoming(leg: LegId, caller: Caller, dialled: &str, offer: Option<&str>) -> Incoming {
    Incoming {
        leg,
        caller,
        dialled: dialled.into(),
        only: None,
        gr: None,
        offer: offer.map(|offer| Bytes::from(offer.to_owned())),
        flow: flow(),
        source: flow().peer,
        replaces: None,
        origin: None,
        hides: false,
        auto_answer: false,
    }
}

impl Bed {
    fn new(phones: &[(&'static str, u8)]) -> Self {
        let mut settings = Settings { max_calls_extension: 2, hold_music: "silence".into(), ..Settings::default() };
        settings.emergency.insert("112".into(), vec!["2000".parse().unwrap()]);
        let world = Paper { phones: phones.to_vec(), q: HashMap::new(), next: 0, ports: 100, open: BTreeSet::new(), places: 10 };
        let switch = Switch::new(Arc::new(settings.check().unwrap()));
        let now = Instant::now();
        Self {
            now,
            switch,
            world,
            called: vec![],
            events: vec![],
            seen: vec![],
            keeping: vec![],
            ledger: Ledger::default(),
            busy: Default::default(),
            began: now,
        }
    }

    fn dials(&mut self, leg: LegId, number: &str, offer: Option<&str>) -> Vec<String> {
        let caller = Caller { user: "2041".into(), display_name: "Ada".into(), mac: mac(1), line: 1, provisional: false };
        let incoming = incoming(leg, caller, number, offer);
        self.switch.handle_incoming(self.now, &mut self.world, incoming);
        self.actions()
    }

    fn wall(&self) -> Timestamp {
        Timestamp(i64::try_from((self.now - self.began).as_millis()).unwrap())
    }

    fn leg(&mut self, leg: LegId, event: LegEvent) -> Vec<String> {
        self.ledger.handle_leg(self.wall(), leg, &event);
        self.switch.handle_leg(self.now, &mut self.world, leg, event);
        self.actions()
    }

    fn answers(&mut self, which: usize, payload_type: u8) -> Vec<String> {
        let sdp = format!("v=0\r\nc=IN IP4 10.0.0.6\r\nm=audio 5000 RTP/AVP {payload_type}\r\n");
        self.leg(self.called[which], LegEvent::Answered { sdp: Some(sdp.into()) })
    }

    fn offers(&mut self, leg: LegId, direction: &str) -> Vec<String> {
        self.leg(leg, LegEvent::Reoffered { offer: Some(format!("{OFFER}a={direction}\r\n").into()) })
    }

    /// What is to be done, in a word or two each; events apart.
    fn actions(&mut self) -> Vec<String> {
        let mut words = Vec::new();
        let name = |leg: LegId, called: &[LegId]| match called.iter().position(|one| *one == leg) {
            Some(at) => format!("callee{at}"),
            None => "caller".to_owned(),
        };
        let heading = |sdp: &Bytes| {
            let text = String::from_utf8_lossy(sdp).into_owned();
            let codec = text.split("RTP/AVP ").nth(1).and_then(|rest| rest.split_whitespace().next().map(str::to_owned));
            let direction = ["sendrecv", "sendonly", "recvonly", "inactive"].into_iter().find(|word| text.contains(word));
            // Of somebody else than us.
            let between = |before: &str, after: &str| Some(text.split(before).nth(1)?.split(after).next()?.to_owned());
            let elsewhere = between("c=IN IP4 ", "\r").filter(|ip| ip != "10.0.0.1");
            let at = elsewhere.map(|ip| format!(" at {ip}:{}", between("m=audio ", " ").unwrap_or_default())).unwrap_or_default();
            format!("{} {}{at}", codec.unwrap_or_default(), direction.unwrap_or_default())
        };
        while let Some(action) = self.switch.poll_action() {
            self.ledger.handle_action(self.wall(), &action, |_| CallId(999));
            let called = self.called.clone();
            let name = |leg| name(leg, &called);
            words.push(match action {
                Action::Invite { leg, caller, diversions, auto_answer, offer, .. } => {
                    self.called.push(leg);
                    let by: String = diversions.iter().map(|one| format!(" by {} {}", one.by, one.reason.as_str())).collect();
                    let how = if auto_answer { " answering by itself" } else { "" };
                    format!("invite for {} {}{by}{how}", caller.user, heading(&offer))
                }
                Action::InviteOutside { leg, hop, .. } => {
                    self.called.push(leg);
                    format!("invite {} by {} for {}", hop.number, hop.trunk, hop.caller.number.unwrap_or_default())
                }
                Action::Identify { leg, who } => {
                    self.seen.push(format!("{} sees {}", name(leg), who.user));
                    continue;
                }
                Action::HoldTrunk { .. } | Action::LegBegins(_) => continue,
                Action::Ring { leg } => format!("ring {}", name(leg)),
                Action::Progress { leg, sdp } => format!("progress {} {}", name(leg), heading(&sdp)),
                Action::HoldMusic { on, .. } => format!("music {on}"),
                Action::Answer { leg, sdp } => format!("answer {} {}", name(leg), heading(&sdp)),
                Action::Refuse { leg, status, retry_after_secs } => match retry_after_secs {
                    Some(secs) => format!("refuse {} {status} after {secs}", name(leg)),
                    None => format!("refuse {} {status}", name(leg)),
                },
                Action::Hangup { leg, elsewhere } => format!("hang up {}{}", name(leg), if elsewhere { " elsewhere" } else { "" }),
                Action::AcceptRefer { leg } => format!("accept refer {}", name(leg)),
                Action::RefuseRefer { leg, status } => format!("refuse refer {} {status}", name(leg)),
                Action::ReferProgress { leg, status } => format!("tell {} {status}", name(leg)),
                Action::Reoffer { leg, sdp } => format!("reoffer {} {}", name(leg), heading(&sdp)),
                Action::AnswerReoffer { leg, sdp } => format!("answer reoffer {} {}", name(leg), heading(&sdp)),
                Action::RefuseReoffer { leg, status } => format!("refuse reoffer {} {status}", name(leg)),
                Action::SetRemote { params, .. } => format!("remote {:?} {:?}", params.codec, params.direction),
                Action::Bridge { .. } => "bridge".into(),
                Action::Overhear { .. } => "overhear".into(),
                Action::Unbridge { .. } => "unbridge".into(),
                Action::Key { key, .. } => format!("key {key}"),
                Action::RingBack { on, .. } => format!("ring-back {on}"),
                Action::Beep { .. } => "beep".into(),
                Action::Keep { row, call } => {
                    self.keeping.extend(call);
                    format!("keep {} {}", row.key, row.value.unwrap_or_default())
                }
                Action::CloseMedia { media } => {
                    self.world.open.remove(&media);
                    "close".into()
                }
                Action::ReleaseMedia { media } => {
                    self.world.open.remove(&media);
                    "release".into()
                }
                Action::Reopened { .. } => "reopen".into(),
                Action::SendKey { leg, key } => format!("send {key} to {}", name(leg)),
                Action::HandOver { errand: Errand::Menu | Errand::Diagnosis, .. } => "hand over".into(),
                Action::HandOver { errand: Errand::Confirm(done), .. } => format!("say {done:?}"),
                Action::HandOver { errand: Errand::Park { place }, .. } => format!("say {place}"),
                Action::HandOver { errand: Errand::Leave { mailbox }, .. } => format!("leave for {mailbox}"),
                Action::HandOver { errand: Errand::Listen { mailbox }, .. } => format!("listen to {mailbox:?}"),
                Action::ServiceEnded { cause, .. } => format!("menu: {}", cause.as_str()),
                Action::Transferred { taken, .. } => format!("transferred {taken}"),
                Action::Tell(event) => {
                    self.events.push(event);
                    continue;
                }
            });
        }
        self.ledger.settle(self.wall());
        words
    }

    fn assert_over(&mut self, cause: &str) {
        assert!(matches!(self.events.last(), Some(Event::CallEnded { cause: told, .. }) if told == cause), "{:?}", self.events.last());
        let switch = &self.switch;
        assert_eq!((switch.calls.len(), switch.legs.len(), switch.callers.len(), switch.deadlines.len()), (0, 0, 0, 0));
    }

    fn talking() -> Self {
        let mut bed = Self::new(&[("2042", 2)]);
        bed.dials(CALLER, "2042", Some(OFFER));
        bed.answers(0, 8);
        bed.leg(CALLER, LegEvent::Acked { sdp: None });
        bed
    }
}

#[test]
fn the_ports_of_an_adapter_ring_for_each_other_and_not_for_themselves() {
    for (dialled, rings) in [("2042", true), ("2041", false)] {
        let mut bed = Bed::new(&[("2041", 1), ("2042", 101)]);
        let said = bed.dials(LegId(900), dialled, Some(OFFER));
        assert_eq!(said.iter().any(|word| word.starts_with("invite for 2041")), rings, "{dialled}: {said:?}");
    }
}

#[test]
fn a_call_between_two_phones() {
    let mut bed = Bed::new(&[("2042", 2)]);
    // The caller's own order of codecs is kept for the callee.
    assert_eq!(bed.dials(CALLER, "2042", Some(OFFER)), ["invite for 2041 0 sendrecv"]);
    assert_eq!(bed.leg(bed.called[0], LegEvent::Ringing { sdp: None }), ["ring caller"]);
    assert_eq!(bed.leg(bed.called[0], LegEvent::Ringing { sdp: None }), [""; 0]);
    // The callee takes its second codec: the caller gets the same.
    assert_eq!(bed.answers(0, 8), ["remote Pcma SendRecv", "remote Pcma SendRecv", "answer caller 8 sendrecv", "bridge"]);
    assert_eq!(bed.leg(CALLER, LegEvent::Acked { sdp: None }), [""; 0]);
    assert_eq!(bed.switch.list(bed.now)[0].state, CallState::Talking);
    assert_eq!(bed.seen, ["caller sees 2042"; 3]);
    bed.now += Duration::from_secs(3);
    assert_eq!(bed.leg(bed.called[0], LegEvent::Ended { how: LegEnd::HungUp }), ["hang up caller", "close", "close"]);
    assert!(matches!(bed.events.last(), Some(Event::CallEnded { talk_ms: 3000, status: None, mac: Some(_), .. })));
    bed.assert_over("callee hung up");
}

#[test]
fn a_caller_without_an_offer_answers_in_its_ack() {
    let mut bed = Bed::new(&[("2042", 2)]);
    bed.dials(CALLER, "2042", None);
    assert_eq!(bed.answers(0, 0), ["remote Pcmu SendRecv", "answer caller 0 sendrecv", "bridge"]);
    let answer = OFFER.replace("0 8 101", "0 101").into();
    assert_eq!(bed.leg(CALLER, LegEvent::Acked { sdp: Some(answer) }), ["remote Pcmu SendRecv"]);
    let mut bed = Bed::new(&[("2042", 2)]);
    bed.dials(CALLER, "2042", None);
    bed.answers(0, 0);
    assert_eq!(bed.leg(CALLER, LegEvent::Acked { sdp: None }), ["hang up caller", "close", "hang up callee0", "close"]);
    bed.assert_over("no sound format in common");
}

#[test]
fn the_first_phone_that_answers_has_the_call() {
    let mut bed = Bed::new(&[("2042", 2), ("2042", 3), ("2042", 4), ("2042", 1)]);
    // The caller's own phone, though it is on the list, does not ring.
    assert_eq!(bed.dials(CALLER, "2042", Some(OFFER)).len(), 3);
    assert_eq!(bed.leg(bed.called[2], LegEvent::Refused { status: 486 }), ["close"]);
    let done = bed.answers(1, 0);
    assert_eq!(done[..3], ["hang up callee0 elsewhere", "close", "remote Pcmu SendRecv"]);
    // The one that was too late is nobody's any more.
    assert_eq!(bed.answers(0, 0), [""; 0]);
    bed.leg(CALLER, LegEvent::Ended { how: LegEnd::HungUp });
    bed.assert_over("caller hung up");
}

#[test]
fn a_call_for_one_phone_of_a_user_rings_at_no_other() {
    let mut bed = Bed::new(&[("2042", 2), ("2042", 3), ("2043", 4), ("2043", 5)]);
    let caller = Caller { user: "2041".into(), display_name: "Ada".into(), mac: mac(1), line: 1, provisional: false };
    let incoming = Incoming {
        leg: CALLER,
        caller,
        dialled: "2042".into(),
        only: Some(mac(3)),
        gr: None,
        offer: Some(OFFER.into()),
        flow: flow(),
        source: flow().peer,
        replaces: None,
        origin: None,
        hides: false,
        auto_answer: false,
    };
    bed.switch.handle_incoming(bed.now, &mut bed.world, incoming);
    assert_eq!(bed.actions(), ["invite for 2041 0 sendrecv"]);
    assert_eq!(bed.switch.device_of(bed.called[0]), Some(mac(3)));
    bed.answers(0, 8);
    bed.leg(CALLER, LegEvent::Acked { sdp: None });
    // Sent on to one phone, and then by whom he reached to anybody's.
    bed.leg(bed.called[0], LegEvent::Referred { to: "2043".into(), only: Some(mac(5)), replaces: None });
    assert_eq!(bed.called.len(), 2);
    assert_eq!(bed.switch.device_of(bed.called[1]), Some(mac(5)));
    bed.answers(1, 8);
    bed.leg(bed.called[1], LegEvent::Referred { to: "2042".into(), only: None, replaces: None });
    assert_eq!(bed.called.len(), 4);
}

#[test]
fn the_best_reason_is_told_when_nobody_answers() {
    for (answers, status, cause) in [
        (vec![480, 486], 486, "busy"),
        (vec![486, 408], 486, "busy"),
        (vec![404, 500], 480, "not reachable"),
        (vec![603], 603, "declined"),
        (vec![480, 488], 488, "no sound format in common"),
    ] {
        let mut bed = Bed::new(&[("2042", 2), ("2042", 3)]);
        bed.dials(CALLER, "2042", Some(OFFER));
        let mut last = vec![];
        for (which, status) in answers.iter().enumerate() {
            last = bed.leg(bed.called[which], LegEvent::Refused { status: *status });
        }
        assert!(last.contains(&format!("refuse caller {status}")), "{answers:?}: {last:?}");
        bed.assert_over(cause);
    }
}

#[test]
fn ringing_ends() {
    let mut bed = Bed::new(&[("2042", 2)]);
    bed.dials(CALLER, "2042", Some(OFFER));
    assert_eq!(bed.switch.poll_timeout(), Some(bed.now + Duration::from_secs(45)));
    bed.now += Duration::from_secs(45);
    bed.switch.handle_timeout(bed.now, &mut bed.world);
    assert_eq!(bed.actions(), ["refuse caller 480", "close", "hang up callee0", "close"]);
    bed.assert_over("no answer");
}

#[test]
fn phones_that_want_to_be_tried_later_ring_later() {
    let mut bed = Bed::new(&[("2042", 2), ("2042", 3), ("2042", 4), ("2042", 5)]);
    bed.world.q = HashMap::from([(4, 500), (5, 100)]);
    let start = bed.now;
    assert_eq!(bed.dials(CALLER, "2042", Some(OFFER)).len(), 2);
    bed.leg(bed.called[0], LegEvent::Ringing { sdp: None });
    assert_eq!(bed.leg(bed.called[0], LegEvent::Refused { status: 486 }), ["close"]);
    assert_eq!(bed.leg(bed.called[1], LegEvent::Refused { status: 480 }), ["close", "ring-back false", "invite for 2041 0 sendrecv"]);
    // Each of the three rings for a third of the time.
    bed.now += Duration::from_secs(15);
    bed.switch.handle_timeout(bed.now, &mut bed.world);
    assert_eq!(bed.actions(), ["hang up callee2", "close", "ring-back false", "invite for 2041 0 sendrecv"]);
    bed.now += Duration::from_secs(15);
    bed.switch.handle_timeout(bed.now, &mut bed.world);
    assert_eq!(bed.actions(), ["refuse caller 480", "close", "hang up callee3", "close"]);
    assert_eq!(bed.now - start, Duration::from_secs(30));
    bed.assert_over("no answer");
    // Whoever declines does so for the person, and whoever answers is not called off by those who were to ring.
    bed.dials(CALLER, "2042", Some(OFFER));
    bed.leg(bed.called[4], LegEvent::Refused { status: 603 });
    bed.assert_over("declined");
    bed.dials(CALLER, "2042", Some(OFFER));
    bed.answers(6, 8);
    assert_eq!(bed.switch.poll_timeout(), None);
    bed.leg(CALLER, LegEvent::Ended { how: LegEnd::HungUp });
    bed.assert_over("caller hung up");
}

#[test]
fn hold_goes_through_and_comes_back() {
    let mut bed = Bed::talking();
    let callee = bed.called[0];
    assert_eq!(bed.offers(CALLER, "sendonly"), ["answer reoffer caller 8 recvonly", "remote Pcma RecvOnly", "reoffer callee0 8 sendonly"]);
    // Resumed before the callee has answered the first change: told when it has.
    assert_eq!(bed.offers(CALLER, "sendrecv"), ["answer reoffer caller 8 sendrecv", "remote Pcma SendRecv"]);
    let held = "v=0\r\nc=IN IP4 10.0.0.6\r\nm=audio 5000 RTP/AVP 8\r\na=recvonly\r\n".into();
    let then = bed.leg(callee, LegEvent::ReofferAnswered { sdp: Some(held) });
    assert_eq!(then, ["remote Pcma SendOnly", "reoffer callee0 8 sendrecv"]);
    let back = "v=0\r\nc=IN IP4 10.0.0.6\r\nm=audio 5000 RTP/AVP 8\r\n".into();
    assert_eq!(bed.leg(callee, LegEvent::ReofferAnswered { sdp: Some(back) }), ["remote Pcma SendRecv"]);
    // Both hold each other.
    bed.offers(CALLER, "sendonly");
    bed.leg(callee, LegEvent::ReofferFailed { status: 488 });
    assert_eq!(bed.offers(callee, "sendonly")[0], "answer reoffer callee0 8 inactive");
    // The same again changes nothing for the other.
    bed.leg(CALLER, LegEvent::ReofferFailed { status: 488 });
    assert_eq!(bed.offers(callee, "sendonly"), ["answer reoffer callee0 8 inactive", "remote Pcma Inactive"]);
    assert_eq!(bed.leg(CALLER, LegEvent::Reoffered { offer: Some("m=video 1 RTP/AVP 99".into()) }), ["refuse reoffer caller 488"]);
}

#[test]
fn a_phone_that_fell_silent_is_lost_unless_it_may() {
    let mut bed = Bed::talking();
    let media = |bed: &Bed| bed.switch.calls.values().next().unwrap().near.one().unwrap().media.id;
    bed.offers(CALLER, "inactive");
    bed.switch.handle_silence(bed.now, media(&bed));
    assert_eq!(bed.switch.len(), 1);
    bed.actions();
    bed.offers(CALLER, "sendrecv");
    bed.switch.handle_silence(bed.now, media(&bed));
    bed.actions();
    bed.assert_over("phone lost");
}

#[test]
fn the_menu_gets_the_call_with_the_ack_and_may_transfer_it() {
    let mut bed = Bed::new(&[("2042", 2)]);
    assert_eq!(bed.dials(CALLER, "0", Some(OFFER)), ["remote Pcmu SendRecv", "answer caller 0 sendrecv"]);
    assert_eq!(bed.leg(CALLER, LegEvent::Acked { sdp: None }), ["hand over"]);
    assert_eq!(bed.leg(CALLER, LegEvent::Key { key: '5' }), ["key 5"]);
    let id = bed.switch.list(bed.now)[0].call;
    let transfer = |bed: &mut Bed, to: &str| {
        let to = to.parse().unwrap();
        bed.switch.handle_service(bed.now, &mut bed.world, id, ServiceCommand::Transfer { to });
        bed.actions()
    };
    assert_eq!(transfer(&mut bed, "2043"), ["ring-back false", "transferred false"]);
    assert_eq!(transfer(&mut bed, "2042"), ["invite for 2041 0 sendrecv", "ring-back true"]);
    bed.now += Duration::from_secs(60);
    bed.switch.handle_timeout(bed.now, &mut bed.world);
    assert_eq!(bed.actions(), ["hang up callee0", "close", "ring-back false", "transferred false"]);
    transfer(&mut bed, "2042");
    assert_eq!(bed.answers(1, 0), ["remote Pcmu SendRecv", "transferred true", "ring-back false", "bridge"]);
    // The menu has given it away: its goodbye means nothing.
    bed.switch.handle_service(bed.now, &mut bed.world, id, ServiceCommand::Hangup);
    assert_eq!(bed.actions(), [""; 0]);
    bed.leg(CALLER, LegEvent::Ended { how: LegEnd::HungUp });
    bed.assert_over("caller hung up");
}

#[test]
fn the_menu_hears_that_its_caller_is_gone() {
    let mut bed = Bed::new(&[]);
    bed.dials(CALLER, "0", Some(OFFER));
    bed.leg(CALLER, LegEvent::Acked { sdp: None });
    assert_eq!(bed.leg(CALLER, LegEvent::Ended { how: LegEnd::HungUp }), ["menu: caller hung up", "close"]);
    bed.assert_over("caller hung up");
    bed.world.places = 0;
    assert_eq!(bed.dials(CALLER, "0", Some(OFFER)), ["refuse caller 503 after 10"]);
}

#[test]
fn calls_that_cannot_be_are_refused_before_anything_is_opened() {
    let mut bed = Bed::new(&[("2042", 2), ("2044", 1)]);
    for (number, offer, refusal) in [
        ("2999", OFFER, "refuse caller 404"),
        ("2043", OFFER, "refuse caller 480"),
        ("2044", OFFER, "refuse caller 480"),
        ("2042", "m=audio 1 RTP/SAVP 0", "refuse caller 488"),
        ("2042", "nonsense", "refuse caller 488"),
    ] {
        assert_eq!(bed.dials(CALLER, number, Some(offer)), [refusal], "{number}");
    }
    assert_eq!((bed.world.ports, bed.switch.len()), (100, 0));
    bed.world.ports = 1;
    assert_eq!(bed.dials(CALLER, "2042", Some(OFFER)), ["refuse caller 503 after 10", "close"], "others would find no port either");
    bed.assert_over("too much to do");
}

#[test]
fn limits_hold_but_for_emergencies() {
    let mut bed = Bed::new(&[("2042", 2), ("2000", 3)]);
    for leg in 0..2 {
        assert_eq!(bed.dials(LegId(2_000_000 + leg), "2042", Some(OFFER)).len(), 1);
    }
    assert_eq!(bed.dials(CALLER, "2042", Some(OFFER)), ["refuse caller 503 after 10"]);
    assert_eq!(bed.dials(CALLER, "112", Some(OFFER)), ["invite for 2041 0 sendrecv"]);
}

#[test]
fn the_api_rings_the_user_first() {
    let mut bed = Bed::new(&[("2041", 1), ("2042", 2)]);
    let wanted =
        Originate { from: "2041".parse().unwrap(), to: "2042".into(), caller_id: Some("100".into()), timeout: None, labels: vec![] };
    let id = bed.switch.originate(bed.now, &mut bed.world, wanted.clone()).unwrap();
    // The user's phone shows whom it will call, the far end what was asked for.
    assert_eq!(bed.actions(), ["invite for 2042 8 sendrecv"]);
    assert_eq!(bed.answers(0, 0), ["remote Pcmu SendRecv", "invite for 100 0 sendrecv", "ring-back true"]);
    assert_eq!(bed.answers(1, 0), ["remote Pcmu SendRecv", "ring-back false", "bridge"]);
    assert!(bed.switch.hangup(bed.now, id));
    assert_eq!(bed.actions(), ["hang up callee0", "close", "hang up callee1", "close"]);
    bed.assert_over("ended on request");
    // The menu is a far end like any other.
    let id = bed.switch.originate(bed.now, &mut bed.world, Originate { to: "0".into(), ..wanted }).unwrap();
    bed.actions();
    assert_eq!(bed.answers(2, 0), ["remote Pcmu SendRecv", "hand over"]);
    bed.switch.hangup(bed.now, id);
    assert_eq!(bed.actions()[0], "menu: ended on request");
    bed.assert_over("ended on request");
}

const TRUNKS: &str = "country: DE\nemergency: { numbers: [\"112\"], trunks: [full, first], extensions: [2000] }\n\
    trunks: { first: { host: 192.0.2.5 }, second: { host: 192.0.2.6, numbers: national }, full: { host: 192.0.2.7 } }\n\
    outbound: [{ trunks: [full, first, second], caller_id: \"+49301234\" }]\n";

/// A bed whose office has trunks: `full` never takes a call.
fn with_trunks(phones: &[(&'static str, u8)]) -> Bed {
    with_routes(phones, TRUNKS)
}

fn with_routes(phones: &[(&'static str, u8)], routes: &str) -> Bed {
    let mut bed = Bed::new(phones);
    let settings = Settings::default();
    let plan = crate::routing::check("routes.yaml", routes, settings.base(), &Default::default()).unwrap();
    bed.switch.reload(Arc::new(Config { plan: Arc::new(plan), ..settings.check().unwrap() }));
    bed
}

#[test]
fn one_trunk_after_the_other_is_asked() {
    let mut bed = with_trunks(&[]);
    assert_eq!(bed.dials(CALLER, "0171 2345678", Some(OFFER)), ["invite +491712345678 by first for +49301234"]);
    // No sign of life in six seconds.
    bed.now = bed.switch.poll_timeout().unwrap();
    let world = &mut bed.world;
    bed.switch.handle_timeout(bed.now, world);
    assert_eq!(bed.actions(), ["hang up callee0", "close", "invite 01712345678 by second for 0301234"]);
    assert_eq!(bed.leg(bed.called[1], LegEvent::Trying), [""; 0]);
    let patience = bed.switch.poll_timeout().unwrap() - bed.now;
    assert_eq!(patience, Duration::from_secs(45), "somebody works on it");
    assert_eq!(bed.leg(bed.called[1], LegEvent::Ringing { sdp: None }), ["ring caller"]);
    assert_eq!(bed.answers(1, 0), ["remote Pcmu SendRecv", "remote Pcmu SendRecv", "answer caller 0 sendrecv", "bridge"]);
    bed.leg(bed.called[1], LegEvent::Ended { how: LegEnd::HungUp });
    bed.assert_over("callee hung up");
}

#[test]
fn the_other_server_of_a_provider_is_asked_before_another_provider() {
    for (answers, asked) in [
        (&[503, 503][..], &["two", "two", "second"][..]),
        (&[408, 486], &["two", "two"]),
        // The account is refused: the other server would say the same.
        (&[403], &["two", "second"]),
        (&[404], &["two"]),
    ] {
        let mut bed = with_routes(&[], &TRUNKS.replace("first", "two"));
        let mut words = bed.dials(CALLER, "01712345678", Some(OFFER));
        for (at, status) in answers.iter().enumerate() {
            words.extend(bed.leg(bed.called[at], LegEvent::Refused { status: *status }));
        }
        let trunks: Vec<_> = words.iter().filter_map(|word| word.split(" by ").nth(1)?.split(' ').next()).collect();
        assert_eq!(trunks, asked, "{answers:?}");
    }
}

#[test]
fn what_the_called_one_says_is_final_and_what_the_trunk_says_is_not() {
    for (first, second, told) in [(503, 500, 480), (486, 0, 486), (404, 0, 404), (403, 603, 603), (408, 486, 486), (480, 0, 480)] {
        let mut bed = with_trunks(&[]);
        bed.dials(CALLER, "01712345678", Some(OFFER));
        let mut last = bed.leg(bed.called[0], LegEvent::Refused { status: first });
        assert_eq!(last.iter().any(|word| word.contains("by second")), second != 0, "{first}: {last:?}");
        if second != 0 {
            last = bed.leg(bed.called[1], LegEvent::Refused { status: second });
        }
        assert!(last.contains(&format!("refuse caller {told}")), "{first} {second}: {last:?}");
    }
}

#[test]
fn a_call_for_help_tries_everything() {
    let mut bed = with_trunks(&[("2000", 9)]);
    assert_eq!(bed.dials(CALLER, "112", Some(OFFER)), ["invite 112 by first for "]);
    // Even an answer that would be final elsewhere.
    assert_eq!(bed.leg(bed.called[0], LegEvent::Refused { status: 486 }), ["close", "invite for 2041 0 sendrecv"]);
    assert!(bed.events.iter().any(|event| matches!(event, Event::EmergencyCalled { number, test: false, .. } if number == "112")));
    bed.leg(CALLER, LegEvent::Ended { how: LegEnd::Cancelled });
    bed.assert_over("cancelled");
}
