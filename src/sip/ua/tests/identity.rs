//! Who is at the other end, as a phone hears it.

use super::*;

fn named(pair: &Pair, first_line: &str) -> Vec<String> {
    let of = pair.texts.iter().filter(|text| text.starts_with(first_line));
    of.flat_map(|text| text.lines().filter_map(|line| line.strip_prefix("P-Asserted-Identity: ")).map(str::to_owned)).collect()
}

#[test]
fn a_phone_hears_who_rings_and_who_it_is_after_a_transfer() {
    let mut pair = Pair::new(80, 0);
    pair.invite(None);
    pair.run_until(20);
    pair.on(B, |ua, now, ep, leg| {
        ua.identify(now, leg, "\"Bo\" <sip:2042@h>".into());
        ua.ring(now, ep, leg);
    });
    pair.run_until(40);
    pair.on(B, |ua, now, ep, leg| ua.answer(now, ep, leg, Bytes::from_static(b"answer")));
    pair.run_until(1_000);
    for line in ["SIP/2.0 180", "SIP/2.0 200"] {
        assert_eq!(named(&pair, line), ["\"Bo\" <sip:2042@h>"], "{line}");
    }
    assert!(pair.times(B, "UPDATE").is_empty());
    // Told once, a moment later, though it changes twice; and once more with the change that comes just then.
    pair.on(B, |ua, now, _, leg| ua.identify(now, leg, "<sip:2043@h>".into()));
    pair.on(B, |ua, now, _, leg| ua.identify(now, leg, "<sip:2044@h>".into()));
    pair.run_until(2_000);
    assert_eq!((pair.times(B, "UPDATE"), named(&pair, "UPDATE")), (vec![1_300], vec!["<sip:2044@h>".to_owned()]));
    pair.on(B, |ua, now, ep, leg| {
        ua.identify(now, leg, "<sip:2045@h>".into());
        ua.reoffer(now, ep, leg, Bytes::from_static(b"new"));
    });
    pair.run_until(2_100);
    pair.on(A, |ua, now, ep, leg| ua.answer_reoffer(now, ep, leg, Bytes::from_static(b"yes")));
    pair.run_until(4_000);
    assert_eq!((pair.times(B, "UPDATE").len(), named(&pair, "INVITE")), (1, vec!["<sip:2045@h>".to_owned()]));
    pair.on(B, |ua, now, ep, leg| {
        ua.identify(now, leg, "<sip:2046@h>".into());
        ua.hangup(now, ep, leg, None);
    });
    pair.run_until(200_000);
    assert_nothing_left(&pair);
    // Nobody else heard anything of it.
    assert_eq!(pair.sides[A].heard, ["ringing 180", "answered answer", "reoffered new", "acked", "ended HungUp"]);
}
