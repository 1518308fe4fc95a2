//! Transfers: what the one who asks is told, in every order.

use super::*;

/// A asks B to call somebody else.
fn referred(seed: u8, refer_to: &str) -> Pair {
    let mut pair = Pair::answered(seed);
    pair.on(A, |ua, now, ep, leg| ua.refer(now, ep, leg, refer_to));
    pair.run_until(150);
    pair
}

#[test]
fn who_transfers_is_told_how_it_goes() {
    let mut pair = referred(20, "<sip:20%2042@10.0.0.2>");
    assert_eq!(pair.sides[B].heard.last().unwrap(), "referred to 20 42 replacing None");
    pair.on(B, |ua, now, ep, leg| ua.accept_refer(now, ep, leg));
    pair.run_until(200);
    pair.on(B, |ua, now, ep, leg| ua.refer_progress(now, ep, leg, 180));
    pair.run_until(300);
    pair.on(B, |ua, now, ep, leg| ua.refer_progress(now, ep, leg, 486));
    pair.run_until(400);
    assert_eq!(pair.sides[A].heard, ["answered answer", "refer 100", "refer 180", "refer 486"]);
    let notifies: Vec<_> = pair.texts.iter().filter(|text| text.starts_with("NOTIFY")).collect();
    for (notify, state, said) in [
        (notifies[0], "Subscription-State: active;expires=299\r\n", "\r\n\r\nSIP/2.0 100 Trying\r\n"),
        (notifies[2], "Subscription-State: terminated;reason=noresource\r\n", "\r\n\r\nSIP/2.0 486 Busy Here\r\n"),
    ] {
        assert!(notify.contains("Event: refer;id=2\r\n") && notify.contains("Content-Type: message/sipfrag;version=2.0\r\n"), "{notify}");
        assert!(notify.contains(state) && notify.ends_with(said), "{notify}");
    }
    // The call is as it was, and may be transferred again.
    pair.on(A, |ua, now, ep, leg| ua.refer(now, ep, leg, "<sip:2043@10.0.0.2>"));
    pair.run_until(500);
    pair.on(B, |ua, now, ep, leg| ua.refuse_refer(now, ep, leg, 403));
    pair.run_until(600);
    assert_eq!(pair.sides[A].heard.last().unwrap(), "refer 403");
    pair.on(A, |ua, now, ep, leg| ua.hangup(now, ep, leg, None));
    pair.run_until(400_000);
    assert_nothing_left(&pair);
}

#[test]
fn a_phone_may_hang_up_before_it_is_told() {
    let mut pair = referred(21, "<sip:2042@10.0.0.2>");
    pair.on(B, |ua, now, ep, leg| ua.accept_refer(now, ep, leg));
    pair.on(A, |ua, now, ep, leg| ua.hangup(now, ep, leg, None));
    pair.run_until(300);
    assert_eq!(pair.sides[B].heard.last().unwrap(), "ended HungUp");
    // The subscription outlives the call (RFC 5057); a phone that has forgotten it says 481 and hears no more.
    pair.on(B, |ua, now, ep, leg| ua.refer_progress(now, ep, leg, 180));
    pair.run_until(400);
    assert_eq!(pair.times(B, "NOTIFY").len(), 2);
    pair.on(B, |ua, now, ep, leg| ua.refer_progress(now, ep, leg, 200));
    pair.run_until(400_000);
    assert_eq!(pair.times(B, "NOTIFY").len(), 2);
    assert_nothing_left(&pair);
}

#[test]
fn the_dialog_of_a_consultation_is_found_whichever_way_its_tags_are_written() {
    for swapped in [false, true] {
        let mut pair = Pair::answered(22);
        let side = &pair.sides[B];
        let (dialog, leg) = side.agent.dialogs.iter().next().map(|(dialog, leg)| (dialog.clone(), *leg)).unwrap();
        let (to, from) = if swapped { (dialog.remote_tag, dialog.local_tag) } else { (dialog.local_tag, dialog.remote_tag) };
        let refer_to = format!("<sip:2042@10.0.0.2?Replaces={}%3Bto-tag%3D{to}%3Bfrom-tag%3D{from}>", dialog.call_id);
        pair.on(A, |ua, now, ep, leg| ua.refer(now, ep, leg, &refer_to));
        pair.run_until(200);
        assert_eq!(pair.sides[B].heard.last().unwrap(), &format!("referred to 2042 replacing {:?}", Some(leg)));
    }
}

#[test]
fn a_referral_that_makes_no_sense_is_refused() {
    for (refer_to, status) in [
        ("<sip:2042@10.0.0.2>, <sip:2043@10.0.0.2>", 400),
        ("<sip:10.0.0.2>", 416),
        ("nonsense", 400),
        ("<sip:2042@10.0.0.2?Replaces=x%3Bto-tag%3D1%3Bfrom-tag%3D2>", 481),
        ("<sip:2042@10.0.0.2?Replaces=x>", 400),
    ] {
        let pair = referred(23, refer_to);
        assert_eq!(pair.sides[A].heard.last().unwrap(), &format!("refer {status}"), "{refer_to}");
        assert!(pair.sides[B].agent.referrals.is_empty());
    }
}

#[test]
fn a_transfer_that_nobody_ends_is_forgotten() {
    let mut pair = referred(24, "<sip:2042@10.0.0.2>");
    pair.on(B, |ua, now, ep, leg| ua.accept_refer(now, ep, leg));
    pair.run_until(301_000);
    assert_eq!(pair.sides[A].heard.last().unwrap(), "refer 408");
    assert!(
        pair.sides[B].agent.referrals.is_empty() && !pair.sides[B].agent.schedule.iter().any(|(_, _, timer)| *timer == Timer::ReferralEnds)
    );
}
