//! Calls that are confirmed now and then, and calls whose far end is not there any more.

use super::*;
use crate::sip::ua::session::Session;

const MINUTE: u64 = 60_000;

impl Pair {
    /// Two sides with terms of their own, of which A calls B, and B answers.
    fn timed(seed: u8, a: Session, b: Session, asks: &str) -> Self {
        let mut pair = Self::new(seed, 0);
        for (side, session) in pair.sides.iter_mut().zip([a, b]) {
            side.agent.set_session(session);
        }
        if !asks.is_empty() {
            pair.headers = vec![("Session-Expires".into(), asks.into())];
        }
        pair.invite(None);
        pair.run_until(60);
        if !pair.sides[B].legs.is_empty() {
            pair.on(B, |ua, now, ep, leg| ua.answer(now, ep, leg, Bytes::from_static(b"answer")));
            pair.run_until(100);
        }
        pair
    }

    /// The first message of this kind that was sent.
    fn text(&self, first_line: &str) -> &str {
        self.texts.iter().find(|text| text.starts_with(first_line)).unwrap_or_else(|| panic!("no {first_line}"))
    }

    fn hangs_up(mut self) {
        let now = (self.now - self.start).as_millis() as u64;
        self.on(A, |ua, now, ep, leg| ua.hangup(now, ep, leg, None));
        self.run_until(now + 100_000);
        assert_nothing_left(&self);
    }
}

fn session(expires_secs: u32, min_secs: u32) -> Session {
    Session { expires_secs, min_secs }
}

#[test]
fn a_call_is_confirmed_by_whoever_called() {
    let mut pair = Pair::timed(40, Session::default(), Session::default(), "");
    let invite = pair.text("INVITE");
    assert!(invite.contains("Session-Expires: 1800\r\nMin-SE: 90\r\n") && invite.contains("Supported: replaces"), "{invite}");
    let answer = pair.text("SIP/2.0 200");
    assert!(answer.contains("Session-Expires: 1800;refresher=uac\r\nRequire: timer\r\n"), "{answer}");
    pair.run_until(50 * MINUTE);
    // At half of the time, and again at half of the next.
    let times: Vec<_> = pair.times(A, "UPDATE").iter().map(|at| at / MINUTE).collect();
    assert_eq!(times, [15, 30, 45]);
    assert!(pair.times(B, "UPDATE").is_empty());
    let update = pair.text("UPDATE");
    assert!(update.contains("Session-Expires: 1800;refresher=uac\r\n") && update.ends_with("Content-Length: 0\r\n\r\n"), "{update}");
    // Nobody heard of it.
    assert_eq!((pair.sides[A].heard.len(), pair.sides[B].heard.len()), (1, 2));
    pair.hangs_up();
}

#[test]
fn whoever_was_called_confirms_where_that_is_asked() {
    let mut pair = Pair::timed(41, session(0, 90), session(0, 90), "600;refresher=uas");
    assert!(pair.text("SIP/2.0 200").contains("Session-Expires: 600;refresher=uas\r\n"));
    pair.run_until(16 * MINUTE);
    assert_eq!((pair.times(A, "UPDATE").len(), pair.times(B, "UPDATE").len()), (0, 3));
    pair.hangs_up();
}

#[test]
fn a_peer_that_knows_no_update_gets_what_it_has_again() {
    let mut pair = Pair::new(42, 0);
    let mut config = endpoint::Config::default();
    config.abilities.methods.retain(|method| *method != Method::Update);
    pair.sides[B].endpoint = Endpoint::new(config, [42; 32]);
    pair.invite(None);
    pair.run_until(20);
    pair.on(B, |ua, now, ep, leg| ua.answer(now, ep, leg, Bytes::from_static(b"answer")));
    pair.run_until(15 * MINUTE + 200);
    let again = pair.texts.iter().filter(|text| text.starts_with("INVITE")).nth(1).expect("a re-INVITE");
    assert!(again.ends_with("\r\n\r\noffer") && again.contains("Session-Expires: 1800;refresher=uac\r\n"), "{again}");
    pair.on(B, |ua, now, ep, leg| ua.answer_reoffer(now, ep, leg, Bytes::from_static(b"answer")));
    pair.run_until(16 * MINUTE);
    // The owner at B answers it like any change, the one at A did not want it and hears nothing.
    assert_eq!(pair.sides[B].heard, ["incoming", "acked", "reoffered offer", "acked"]);
    assert_eq!(pair.sides[A].heard, ["answered answer"]);
    pair.hangs_up();
}

#[test]
fn a_change_confirms_the_call_too() {
    let mut pair = Pair::timed(43, Session::default(), Session::default(), "");
    pair.run_until(14 * MINUTE);
    pair.on(B, |ua, now, ep, leg| ua.reoffer(now, ep, leg, Bytes::from_static(b"hold")));
    pair.run_until(14 * MINUTE + 100);
    pair.on(A, |ua, now, ep, leg| ua.answer_reoffer(now, ep, leg, Bytes::from_static(b"held")));
    pair.run_until(28 * MINUTE);
    assert_eq!(pair.times(A, "UPDATE").len(), 0);
    pair.run_until(30 * MINUTE);
    // Who confirmed before does so still.
    assert_eq!((pair.times(A, "UPDATE").len(), pair.times(B, "UPDATE").len()), (1, 0));
    pair.hangs_up();
}

#[test]
fn a_far_end_that_vanished_ends_the_call_at_both_ends() {
    let mut pair = Pair::timed(44, Session::default(), Session::default(), "");
    pair.lose = Some((A, ""));
    pair.run_until(60 * MINUTE);
    // A hears no answer to its UPDATE for 32 s; B waits until 32 s before the end.
    assert_eq!(pair.times(B, "BYE").first().map(|at| at / 1000), Some(1800 - 32));
    assert!(pair.text("BYE sip:a").contains("Reason: SIP;cause=408;text=\"Session expired\"\r\n"));
    assert_eq!(pair.sides[A].heard, ["answered answer", "ended Lost"]);
    assert_eq!(pair.sides[B].heard, ["incoming", "acked", "ended Lost"]);
    assert_nothing_left(&pair);
}

#[test]
fn who_asks_for_too_little_asks_again_for_more() {
    let mut pair = Pair::timed(45, session(600, 90), session(3600, 1200), "");
    assert_eq!((pair.times(B, "422").len(), pair.times(A, "INVITE").len()), (1, 2));
    assert!(pair.text("SIP/2.0 422").contains("Min-SE: 1200\r\n"));
    pair.run_until(11 * MINUTE);
    assert_eq!(pair.times(A, "UPDATE").iter().map(|at| at / MINUTE).collect::<Vec<_>>(), [10]);
    // A change of terms at the other side: the refresh, too, asks for more.
    pair.sides[B].agent.set_session(session(3600, 1800));
    pair.run_until(21 * MINUTE);
    assert_eq!((pair.times(B, "422").len(), pair.times(A, "UPDATE").len()), (2, 3));
    pair.run_until(34 * MINUTE);
    assert_eq!(pair.times(A, "UPDATE").len(), 3);
    pair.hangs_up();
}

#[test]
fn what_a_request_says_of_the_session_is_met_where_it_can_be() {
    let request = |headers: &str| {
        let text = format!(
            "INVITE sip:b@h SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@h>;tag=a\r\nTo: <sip:b@h>\r\n\
             {headers}Call-ID: c\r\nCSeq: 1 INVITE\r\n\r\n"
        );
        Message::parse(text.into_bytes().into()).unwrap()
    };
    let ours = session(1800, 90);
    for (headers, off, on) in [
        // Whoever knows nothing of it is left alone.
        ("", None, None),
        ("Supported: timer\r\n", None, Some((1800, false))),
        ("Supported: timer\r\nSession-Expires: 600\r\n", Some((600, false)), Some((600, false))),
        ("k: timer\r\nx: 7200;refresher=UAS\r\n", Some((7200, true)), Some((1800, true))),
        ("Supported: timer\r\nSession-Expires: 7200\r\nMin-SE: 3600\r\n", Some((7200, false)), Some((3600, false))),
        // A proxy asks, and its phone cannot.
        ("Session-Expires: 900\r\n", Some((900, true)), Some((900, true))),
        ("Session-Expires: 60\r\n", None, None),
        ("Session-Expires: soon\r\n", None, None),
    ] {
        let request = request(headers);
        assert_eq!(session(0, 90).of_request(&request), off, "{headers}");
        assert_eq!(ours.of_request(&request), on, "{headers}");
        assert_eq!(ours.too_short(&request), None);
    }
    assert_eq!(ours.too_short(&request("Supported: timer\r\nSession-Expires: 60\r\n")), Some(90));
}
