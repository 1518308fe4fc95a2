//! Transfers and calls that take another's place, in every order that phones know.

use super::*;

const SECOND: LegId = LegId(1_000_001);

impl Bed {
    fn refers(&mut self, leg: LegId, to: &str, replaces: Option<LegId>) -> Vec<String> {
        self.leg(leg, LegEvent::Referred { to: to.into(), only: None, replaces })
    }

    /// The caller's phone has the first call on hold and talks, or rings, on a second one.
    fn consulting() -> Self {
        let mut bed = Self::talking();
        bed.world.phones.push(("2043", 3));
        bed.offers(CALLER, "sendonly");
        bed.held(0, "recvonly");
        bed.dials(SECOND, "2043", Some(OFFER));
        bed
    }

    fn held(&mut self, which: usize, direction: &str) -> Vec<String> {
        let sdp = format!("v=0\r\nc=IN IP4 10.0.0.6\r\nm=audio 5000 RTP/AVP 8\r\na={direction}\r\n");
        self.leg(self.called[which], LegEvent::ReofferAnswered { sdp: Some(sdp.into()) })
    }
}

#[test]
fn a_call_is_sent_on_and_the_phone_waits_until_it_is_taken() {
    let mut bed = Bed::talking();
    bed.world.phones.push(("2043", 3));
    // Held first, as most phones do.
    bed.offers(CALLER, "sendonly");
    bed.held(0, "recvonly");
    assert_eq!(
        bed.refers(CALLER, "2043", None),
        ["accept refer caller", "unbridge", "reoffer callee0 8 sendrecv", "invite for 2042 8 sendrecv", "ring-back true"]
    );
    assert_eq!(bed.leg(bed.called[1], LegEvent::Ringing { sdp: None }), ["tell caller 180"]);
    let done = bed.answers(1, 8);
    assert_eq!(done, ["remote Pcma SendRecv", "ring-back false", "bridge", "tell caller 200", "hang up caller", "close"]);
    assert!(bed.events.iter().any(|event| matches!(event, Event::CallTransferred { by, to, .. } if by == "2041" && to == "2043")));
    bed.leg(bed.called[1], LegEvent::Ended { how: LegEnd::HungUp });
    bed.assert_over("callee hung up");
}

#[test]
fn the_phone_hangs_up_before_the_transfer_is_over() {
    // The one who was called transfers, and goes at once: the caller hears ringing, and then the new one.
    let mut bed = Bed::talking();
    bed.world.phones.push(("2043", 3));
    let callee = bed.called[0];
    assert_eq!(bed.refers(callee, "2043", None)[2..], ["invite for 2041 8 sendrecv", "ring-back true"]);
    assert_eq!(bed.leg(callee, LegEvent::Ended { how: LegEnd::HungUp }), ["close"]);
    let done = bed.answers(1, 8);
    assert_eq!(done, ["remote Pcma SendRecv", "ring-back false", "bridge", "tell callee0 200"]);
    bed.leg(CALLER, LegEvent::Ended { how: LegEnd::HungUp });
    bed.assert_over("caller hung up");
}

#[test]
fn a_transfer_that_fails_gives_the_call_back() {
    let mut bed = Bed::talking();
    bed.world.phones.push(("2043", 3));
    bed.offers(CALLER, "sendonly");
    bed.held(0, "recvonly");
    bed.refers(CALLER, "2043", None);
    bed.held(0, "sendrecv");
    // Busy: whoever asked is told so and has the call again, on hold as it was.
    let back = bed.leg(bed.called[1], LegEvent::Refused { status: 486 });
    assert_eq!(back, ["close", "ring-back false", "tell caller 486", "bridge", "reoffer callee0 8 sendonly"]);
    bed.held(0, "recvonly");
    assert_eq!(bed.offers(CALLER, "sendrecv")[2], "reoffer callee0 8 sendrecv");
    bed.held(0, "sendrecv");
    // Nobody lifts.
    bed.refers(CALLER, "2043", None);
    bed.now += Duration::from_secs(60);
    bed.switch.handle_timeout(bed.now, &mut bed.world);
    assert_eq!(bed.actions(), ["hang up callee2", "close", "ring-back false", "tell caller 480", "bridge"]);
    // The phone that asked is gone: its extension rings for the one who is left.
    bed.world.phones.push(("2041", 5));
    bed.refers(CALLER, "2043", None);
    bed.leg(CALLER, LegEvent::Ended { how: LegEnd::HungUp });
    let back = bed.leg(bed.called[3], LegEvent::Refused { status: 603 });
    assert_eq!(back, ["close", "ring-back false", "tell caller 603", "invite for 2042 8 sendrecv", "ring-back true"]);
    bed.answers(4, 8);
    bed.leg(bed.called[0], LegEvent::Ended { how: LegEnd::HungUp });
    bed.assert_over("caller hung up");
}

#[test]
fn the_one_who_is_transferred_hangs_up_on_the_way() {
    let mut bed = Bed::talking();
    bed.world.phones.push(("2043", 3));
    bed.refers(CALLER, "2043", None);
    let done = bed.leg(bed.called[0], LegEvent::Ended { how: LegEnd::HungUp });
    assert_eq!(done, ["tell caller 487", "hang up caller", "close", "close", "hang up callee1", "close"]);
    bed.assert_over("caller hung up");
}

#[test]
fn not_everybody_may_transfer_and_not_everywhere() {
    let mut bed = Bed::talking();
    for (to, replaces, status) in [("2999", None, 404), ("0", None, 403), ("2042", Some(LegId(77)), 481), ("2042", Some(CALLER), 481)] {
        assert_eq!(bed.refers(CALLER, to, replaces), [format!("refuse refer caller {status}")], "{to}");
    }
    // Somebody else's call, whose tags were overheard.
    bed.world.phones.extend([("2043", 3), ("2044", 4)]);
    let stranger = Caller { user: "2044".into(), display_name: String::new(), mac: mac(4), line: 1, provisional: false };
    let offer = Some(Bytes::from_static(OFFER.as_bytes()));
    let incoming = Incoming {
        leg: SECOND,
        caller: stranger,
        dialled: "2043".into(),
        only: None,
        gr: None,
        offer,
        flow: flow(),
        source: flow().peer,
        replaces: None,
        origin: None,
        hides: false,
        auto_answer: false,
    };
    bed.switch.handle_incoming(bed.now, &mut bed.world, incoming);
    bed.actions();
    assert_eq!(bed.refers(CALLER, "2043", Some(SECOND)), ["refuse refer caller 603"]);
    // A phone without an owner talks with emergency numbers only, and sends nobody anywhere.
    let mut bed = Bed::new(&[("2000", 3), ("2042", 2)]);
    let nobody = Caller { user: "new1".into(), display_name: String::new(), mac: mac(9), line: 1, provisional: true };
    let offer = Some(Bytes::from_static(OFFER.as_bytes()));
    let incoming = Incoming {
        leg: CALLER,
        caller: nobody,
        dialled: "112".into(),
        only: None,
        gr: None,
        offer,
        flow: flow(),
        source: flow().peer,
        replaces: None,
        origin: None,
        hides: false,
        auto_answer: false,
    };
    bed.switch.handle_incoming(bed.now, &mut bed.world, incoming);
    bed.actions();
    bed.answers(0, 8);
    assert_eq!(bed.refers(CALLER, "2042", None), ["refuse refer caller 403"]);
}

#[test]
fn two_calls_of_one_phone_are_joined_whichever_is_referred() {
    for from_second in [false, true] {
        let mut bed = Bed::consulting();
        bed.answers(1, 8);
        bed.leg(SECOND, LegEvent::Acked { sdp: None });
        let done = match from_second {
            false => bed.refers(CALLER, "2043", Some(SECOND)),
            true => bed.refers(SECOND, "2042", Some(CALLER)),
        };
        // Both legs of the one who asked go; who was on hold is not any more.
        for said in ["accept refer caller", "bridge", "tell caller 200", "hang up caller", "reoffer callee0 8 sendrecv"] {
            assert!(done.contains(&said.to_owned()), "{said}: {done:?}");
        }
        assert_eq!((done.iter().filter(|word| *word == "hang up caller").count(), bed.switch.len()), (2, 1));
        assert!(matches!(bed.events.last(), Some(Event::CallEnded { cause, .. }) if cause == "transferred"));
        bed.held(0, "sendrecv");
        assert_eq!(bed.leg(bed.called[0], LegEvent::Ended { how: LegEnd::HungUp }).len(), 3);
        assert_eq!((bed.switch.len(), bed.switch.legs.len(), bed.switch.callers.len(), bed.switch.deadlines.len()), (0, 0, 0, 0));
    }
}

#[test]
fn whom_the_phone_still_rings_is_rung_for_the_other() {
    let mut bed = Bed::consulting();
    bed.leg(bed.called[1], LegEvent::Ringing { sdp: None });
    assert_eq!(
        bed.refers(CALLER, "2043", Some(SECOND)),
        [
            "accept refer caller",
            "unbridge",
            "reoffer callee0 8 sendrecv",
            "ring-back true",
            "tell caller 180",
            "refuse caller 487",
            "close"
        ]
    );
    bed.held(0, "sendrecv");
    let done = bed.answers(1, 8);
    assert_eq!(done, ["remote Pcma SendRecv", "ring-back false", "bridge", "tell caller 200", "hang up caller", "close"]);
    bed.leg(bed.called[0], LegEvent::Ended { how: LegEnd::HungUp });
    bed.assert_over("caller hung up");
}

#[test]
fn a_phone_picks_up_what_rings_elsewhere_and_moves_its_own_calls() {
    let take = |bed: &mut Bed, user: &str, last: u8, replaced: LegId, early_only: bool| {
        let caller = Caller { user: user.into(), display_name: String::new(), mac: mac(last), line: 1, provisional: false };
        let offer = Some(Bytes::from_static(OFFER.as_bytes()));
        let replaces = Some(Replaced { leg: replaced, early_only });
        let incoming = Incoming {
            leg: SECOND,
            caller,
            dialled: "2042".into(),
            only: None,
            gr: None,
            offer,
            flow: flow(),
            source: flow().peer,
            replaces,
            origin: None,
            hides: false,
            auto_answer: false,
        };
        bed.switch.handle_incoming(bed.now, &mut bed.world, incoming);
        bed.actions()
    };
    let mut bed = Bed::new(&[("2042", 2), ("2042", 3)]);
    bed.dials(CALLER, "2042", Some(OFFER));
    assert_eq!(take(&mut bed, "2043", 4, LegId(77), false), ["refuse caller 481"]);
    assert_eq!(take(&mut bed, "2043", 4, CALLER, false), ["refuse caller 481"]);
    let ringing = bed.called[0];
    assert_eq!(
        take(&mut bed, "2043", 4, ringing, true),
        [
            "remote Pcmu SendRecv",
            "answer caller 0 sendrecv",
            "hang up callee0 elsewhere",
            "close",
            "hang up callee1 elsewhere",
            "close",
            "remote Pcmu SendRecv",
            "answer caller 0 sendrecv",
            "bridge"
        ]
    );
    bed.leg(SECOND, LegEvent::Acked { sdp: None });
    bed.leg(SECOND, LegEvent::Ended { how: LegEnd::HungUp });
    bed.assert_over("callee hung up");

    let mut bed = Bed::talking();
    let callee = bed.called[0];
    assert_eq!(take(&mut bed, "2043", 4, callee, false), ["refuse caller 403"]);
    assert_eq!(take(&mut bed, "2042", 4, callee, true), ["refuse caller 486"]);
    let moved = take(&mut bed, "2042", 4, callee, false);
    assert_eq!(moved, ["remote Pcma SendRecv", "answer caller 8 sendrecv", "hang up callee0", "close", "bridge"]);
    bed.leg(SECOND, LegEvent::Ended { how: LegEnd::HungUp });
    bed.assert_over("callee hung up");
}
