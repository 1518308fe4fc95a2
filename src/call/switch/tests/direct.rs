//! Sound that goes past us, and comes back.

use super::*;

const EVENTS: &str = "a=rtpmap:101 telephone-event/8000\r\n";

impl Bed {
    /// An office that lets sound go past it.
    fn letting_past(routes: &str, change: impl FnOnce(&mut Settings)) -> Self {
        let mut bed = Self::new(&[("2042", 2), ("2043", 3)]);
        let mut settings = Settings { direct_media: true, hold_music: "tune".into(), ..Settings::default() };
        change(&mut settings);
        let plan = crate::routing::check("routes.yaml", routes, settings.base(), &Default::default()).unwrap();
        bed.switch.reload(Arc::new(Config { plan: Arc::new(plan), ..settings.check().unwrap() }));
        bed
    }

    /// A description of a phone that is seen at the address that it names.
    fn sdp(port: u16, codec: u8, direction: &str) -> Bytes {
        format!("v=0\r\nc=IN IP4 10.0.0.5\r\nm=audio {port} RTP/AVP {codec} 101\r\n{EVENTS}a={direction}\r\n").into()
    }

    /// The next to be called answers so, and the caller's ACK arrives.
    fn talks(&mut self, which: usize, sdp: Bytes) -> Vec<String> {
        self.leg(self.called[which], LegEvent::Answered { sdp: Some(sdp) });
        self.leg(CALLER, LegEvent::Acked { sdp: None })
    }

    fn agrees(&mut self, leg: LegId, sdp: Bytes) -> Vec<String> {
        let all = self.leg(leg, LegEvent::ReofferAnswered { sdp: Some(sdp) });
        all.into_iter().filter(|word| !word.starts_with("remote")).collect()
    }

    /// 2041 at port 4000 and 2042 at 5000 talk past us.
    fn past() -> Self {
        let mut bed = Self::letting_past("", |_| {});
        bed.dials(CALLER, "2042", Some(OFFER));
        assert_eq!(
            bed.talks(0, Self::sdp(5000, 8, "sendrecv")),
            ["reoffer caller 8 sendrecv at 10.0.0.5:5000", "reoffer callee0 8 sendrecv at 10.0.0.5:4000"]
        );
        assert_eq!(bed.agrees(CALLER, Self::sdp(4000, 8, "sendrecv")), [""; 0]);
        assert_eq!(bed.agrees(bed.called[0], Self::sdp(5000, 8, "sendrecv")), ["release", "release"]);
        bed
    }

    fn without_remotes(words: Vec<String>) -> Vec<String> {
        words.into_iter().filter(|word| !word.starts_with("remote")).collect()
    }
}

#[test]
fn two_that_talk_send_their_sound_to_each_other() {
    let mut bed = Bed::past();
    assert_eq!(bed.leg(CALLER, LegEvent::Key { key: '5' }), ["send 5 to callee0"]);
    // One moves to another port: the other is told, and nobody needs us for it.
    let offer = |bed: &mut Bed, sdp| bed.leg(CALLER, LegEvent::Reoffered { offer: Some(sdp) });
    let moved = offer(&mut bed, Bed::sdp(4444, 8, "sendrecv"));
    assert_eq!(
        Bed::without_remotes(moved),
        ["answer reoffer caller 8 sendrecv at 10.0.0.5:5000", "reoffer callee0 8 sendrecv at 10.0.0.5:4444"]
    );
    assert_eq!(bed.agrees(bed.called[0], Bed::sdp(5000, 8, "sendrecv")), [""; 0]);
    // Nothing new is not passed on, as when a session is only confirmed.
    let same = offer(&mut bed, Bed::sdp(4444, 8, "sendrecv"));
    assert_eq!(Bed::without_remotes(same), ["answer reoffer caller 8 sendrecv at 10.0.0.5:5000"]);
    assert_eq!(bed.leg(bed.called[0], LegEvent::Ended { how: LegEnd::HungUp }), ["hang up caller", "close", "close"]);
    bed.assert_over("callee hung up");
}

#[test]
fn sound_comes_back_for_music_and_goes_again() {
    let mut bed = Bed::past();
    let held = bed.leg(CALLER, LegEvent::Reoffered { offer: Some(Bed::sdp(4000, 8, "sendonly")) });
    assert_eq!(
        Bed::without_remotes(held),
        ["reopen", "reopen", "bridge", "answer reoffer caller 8 recvonly", "music true", "reoffer callee0 8 sendonly"]
    );
    assert_eq!(bed.agrees(bed.called[0], Bed::sdp(5000, 8, "recvonly")), [""; 0], "who is on hold needs us");
    let resumed = bed.leg(CALLER, LegEvent::Reoffered { offer: Some(Bed::sdp(4000, 8, "sendrecv")) });
    assert_eq!(Bed::without_remotes(resumed), ["answer reoffer caller 8 sendrecv", "music false", "reoffer callee0 8 sendrecv"]);
    assert_eq!(
        bed.agrees(bed.called[0], Bed::sdp(5000, 8, "sendrecv")),
        ["reoffer caller 8 sendrecv at 10.0.0.5:5000", "reoffer callee0 8 sendrecv at 10.0.0.5:4000"]
    );
    bed.agrees(bed.called[0], Bed::sdp(5000, 8, "sendrecv"));
    assert_eq!(bed.agrees(CALLER, Bed::sdp(4000, 8, "sendrecv")), ["release", "release"]);
    // Without music the hold goes from phone to phone, too.
    let mut bed = Bed::letting_past("", |settings| settings.hold_music = "silence".into());
    bed.dials(CALLER, "2042", Some(OFFER));
    bed.talks(0, Bed::sdp(5000, 8, "sendrecv"));
    bed.agrees(CALLER, Bed::sdp(4000, 8, "sendrecv"));
    bed.agrees(bed.called[0], Bed::sdp(5000, 8, "sendrecv"));
    let held = bed.leg(CALLER, LegEvent::Reoffered { offer: Some(Bed::sdp(4000, 8, "sendonly")) });
    assert_eq!(
        Bed::without_remotes(held),
        ["answer reoffer caller 8 recvonly at 10.0.0.5:5000", "reoffer callee0 8 sendonly at 10.0.0.5:4000"]
    );
}

#[test]
fn a_transfer_brings_sound_back_and_the_new_two_talk_past_us() {
    let mut bed = Bed::past();
    let sent = bed.leg(bed.called[0], LegEvent::Referred { to: "2043".into(), only: None, replaces: None });
    assert_eq!(
        Bed::without_remotes(sent),
        [
            "reopen",
            "reopen",
            "bridge",
            "reoffer caller 8 sendrecv",
            "reoffer callee0 8 sendrecv",
            "accept refer callee0",
            "unbridge",
            "invite for 2041 8 sendrecv",
            "ring-back true"
        ]
    );
    bed.agrees(CALLER, Bed::sdp(4000, 8, "sendrecv"));
    let answered = bed.leg(bed.called[1], LegEvent::Answered { sdp: Some(Bed::sdp(6000, 8, "sendrecv")) });
    let answered = Bed::without_remotes(answered);
    assert!(answered.contains(&"tell callee0 200".into()) && answered.contains(&"hang up callee0".into()), "{answered:?}");
    assert_eq!(
        answered[answered.len() - 2..],
        ["reoffer caller 8 sendrecv at 10.0.0.5:6000", "reoffer callee1 8 sendrecv at 10.0.0.5:4000"]
    );
    bed.agrees(bed.called[1], Bed::sdp(6000, 8, "sendrecv"));
    assert_eq!(bed.agrees(CALLER, Bed::sdp(4000, 8, "sendrecv")), ["release", "release"]);
    bed.leg(CALLER, LegEvent::Ended { how: LegEnd::HungUp });
    bed.assert_over("caller hung up");
}

#[test]
fn a_phone_that_does_not_want_it_is_left_in_peace() {
    // Refused before both had agreed, or when one has moved: in both cases all sound is ours, for the rest of the call.
    let mut bed = Bed::letting_past("", |_| {});
    bed.dials(CALLER, "2042", Some(OFFER));
    bed.talks(0, Bed::sdp(5000, 8, "sendrecv"));
    bed.agrees(bed.called[0], Bed::sdp(5000, 8, "sendrecv"));
    let back = bed.leg(CALLER, LegEvent::ReofferFailed { status: 488 });
    assert_eq!(Bed::without_remotes(back), ["bridge", "reoffer callee0 8 sendrecv"]);
    assert_eq!(bed.agrees(bed.called[0], Bed::sdp(5000, 8, "sendrecv")), [""; 0], "it is not tried again");
    let mut bed = Bed::past();
    bed.leg(CALLER, LegEvent::Reoffered { offer: Some(Bed::sdp(4444, 8, "sendrecv")) });
    let back = bed.leg(bed.called[0], LegEvent::ReofferFailed { status: 488 });
    let both = ["reopen", "reopen", "bridge", "reoffer caller 8 sendrecv", "reoffer callee0 8 sendrecv"];
    assert_eq!(Bed::without_remotes(back), both);
    // Without a port to come back to, the change is refused and the call goes on.
    let mut bed = Bed::past();
    bed.world.ports = 1;
    let held = bed.leg(CALLER, LegEvent::Reoffered { offer: Some(Bed::sdp(4000, 8, "sendonly")) });
    assert_eq!(held, ["release", "refuse reoffer caller 500"]);
    bed.world.ports = 1;
    let sent = bed.leg(bed.called[0], LegEvent::Referred { to: "2043".into(), only: None, replaces: None });
    assert_eq!(sent, ["release", "refuse refer callee0 503"]);
}

#[test]
fn sound_goes_past_us_only_where_it_can_and_may() {
    let nat = Bytes::from("v=0\r\nc=IN IP4 192.168.1.9\r\nm=audio 5000 RTP/AVP 8 101\r\na=rtpmap:101 telephone-event/8000\r\n");
    let no_keys = Bytes::from("v=0\r\nc=IN IP4 10.0.0.5\r\nm=audio 5000 RTP/AVP 8\r\n");
    for (story, answer, may) in [
        ("as it should be", Bed::sdp(5000, 8, "sendrecv"), true),
        ("behind NAT", nat, false),
        ("keys as sound", no_keys, false),
        ("on hold from the beginning", Bed::sdp(5000, 8, "sendonly"), false),
    ] {
        let mut bed = Bed::letting_past("", |_| {});
        bed.dials(CALLER, "2042", Some(OFFER));
        assert_eq!(!bed.talks(0, answer).is_empty(), may, "{story}");
    }
    // Phones by the setting of calls, trunks by their own.
    let routes =
        |allowed: bool| TRUNKS.replace("first: { host: 192.0.2.5 }", &format!("first: {{ host: 192.0.2.5, direct_media: {allowed} }}"));
    for (inside, trunk, number, may) in [
        (false, false, "2042", false),
        (true, false, "01712345678", false),
        (false, true, "01712345678", true),
        (false, true, "2042", false),
    ] {
        let mut bed = Bed::letting_past(&routes(trunk), |settings| settings.direct_media = inside);
        bed.dials(CALLER, number, Some(OFFER));
        // A provider's sound comes from elsewhere than its signals.
        let answer = if number == "2042" {
            Bed::sdp(5000, 8, "sendrecv")
        } else {
            format!("v=0\r\nc=IN IP4 203.0.113.9\r\nm=audio 5000 RTP/AVP 8 101\r\n{EVENTS}").into()
        };
        assert_eq!(!bed.talks(0, answer).is_empty(), may, "{inside} {trunk} {number}");
    }
    // The menu is ours.
    let mut bed = Bed::letting_past("", |_| {});
    bed.dials(CALLER, "0", Some(OFFER));
    assert_eq!(bed.leg(CALLER, LegEvent::Acked { sdp: None }), ["hand over"]);
}
