//! The account of who called whom, of calls that SIPp's phones make: what is on disk when they are over.

use std::time::{Duration, Instant};

use plugtone::store::{CallLeg, CallLegQuery, LegDirection, Store};

use super::call::{Bed, free_port, mac};

/// All legs, once there are so many and all are over, in their order.
async fn account(bed: &Bed, count: usize) -> Vec<CallLeg> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let query = CallLegQuery { limit: 100, ..CallLegQuery::default() };
        let mut legs = bed.store.call_legs(query).await.expect("read");
        if legs.len() == count && legs.iter().all(|leg| leg.cause.is_some()) {
            legs.sort_by_key(|leg| (leg.began, leg.call, leg.leg));
            return legs;
        }
        assert!(Instant::now() < until, "not so on disk: {legs:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `in 2041>2042 200 caller hung up`
fn words(legs: &[CallLeg]) -> Vec<String> {
    let word = |leg: &CallLeg| {
        let direction = if leg.direction == LegDirection::In { "in" } else { "out" };
        format!("{direction} {}>{} {} {}", leg.from, leg.to, leg.status.unwrap_or_default(), leg.cause.as_deref().unwrap_or_default())
    };
    legs.iter().map(word).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_answered() {
    let bed = Bed::start().await;
    let port = bed.registers(2).await;
    let callee = bed.phone(2, port, "uas_answer.xml", "x", &[("CALLER", "2041")]);
    bed.phone(1, free_port(), "uac_call.xml", "2042", &[("PAUSE", "500")]).succeeds().await;
    callee.succeeds().await;
    let legs = account(&bed, 2).await;
    assert_eq!(words(&legs), ["in 2041>2042 200 caller hung up", "out 2041>2042 200 caller hung up"]);
    assert_eq!(
        legs.iter().map(|leg| (leg.mac, leg.leg, leg.codec.as_deref())).collect::<Vec<_>>(),
        [(Some(mac(1)), 1, Some("PCMA")), (Some(mac(2)), 2, Some("PCMA"))]
    );
    for leg in &legs {
        let talked = leg.ended.zip(leg.answered).map(|(ended, answered)| ended.0 - answered.0);
        assert!(talked.is_some_and(|ms| (400..5000).contains(&ms)), "{leg:?}");
        assert!(leg.rang.is_some_and(|rang| leg.began <= rang && Some(rang) <= leg.answered), "{leg:?}");
    }
    // It is there for each of the two, and for nobody else.
    for (user, count) in [("2041", 2), ("2042", 2), ("2043", 0)] {
        let query = CallLegQuery { user: Some(user.into()), limit: 100, ..CallLegQuery::default() };
        assert_eq!(bed.store.call_legs(query).await.expect("read").len(), count, "{user}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_nobody_took() {
    let bed = Bed::start().await;
    let port = bed.registers(2).await;
    bed.phone(1, free_port(), "uac_refused.xml", "2999", &[("EXPECTED", "404")]).succeeds().await;
    let busy = bed.phone(2, port, "uas_refuse.xml", "x", &[("STATUS", "486 Busy Here"), ("CALLER", "2041")]);
    bed.phone(1, free_port(), "uac_refused.xml", "2042", &[("EXPECTED", "486")]).succeeds().await;
    busy.succeeds().await;
    let rings = bed.phone(2, port, "uas_cancelled.xml", "x", &[("CALLER", "2041")]);
    bed.phone(1, free_port(), "uac_cancel.xml", "2042", &[]).succeeds().await;
    rings.succeeds().await;
    let legs = account(&bed, 5).await;
    assert_eq!(
        words(&legs),
        [
            "in 2041>2999 404 no such number",
            "in 2041>2042 486 busy",
            "out 2041>2042 486 busy",
            "in 2041>2042 487 cancelled",
            "out 2041>2042 487 cancelled",
        ]
    );
    assert!(legs.iter().all(|leg| leg.answered.is_none()), "{legs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_rang_at_two_phones() {
    let bed = Bed::start().await;
    let (one, other) = (bed.registers(2).await, bed.registers(3).await);
    let rings = bed.phone(2, one, "uas_cancelled.xml", "x", &[("CALLER", "2041")]);
    let takes = bed.phone(3, other, "uas_answer.xml", "x", &[("CALLER", "2041")]);
    bed.phone(1, free_port(), "uac_call.xml", "2042", &[("PAUSE", "300")]).succeeds().await;
    takes.succeeds().await;
    rings.succeeds().await;
    let mut legs = account(&bed, 3).await;
    legs.sort_by_key(|leg| leg.mac);
    assert_eq!(words(&legs), ["in 2041>2042 200 caller hung up", "out 2041>2042 487 taken elsewhere", "out 2041>2042 200 caller hung up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_sent_on() {
    let bed = Bed::start().await;
    let (one, other) = (bed.registers(2).await, bed.registers(5).await);
    let sent_on = bed.phone(2, one, "uas_held.xml", "x", &[("CALLER", "2041")]);
    let takes = bed.phone(5, other, "uas_bye.xml", "x", &[("CALLER", "2042")]);
    bed.phone(1, free_port(), "uac_transfer.xml", "2042", &[("TARGET", "2043@[remote_ip]")]).succeeds().await;
    takes.succeeds().await;
    sent_on.succeeds().await;
    let legs = account(&bed, 3).await;
    let wanted = ["in 2041>2042 200 transferred", "out 2041>2042 200 callee hung up", "out 2042>2043 200 callee hung up"];
    assert_eq!(words(&legs), wanted);
    assert_eq!(legs.iter().map(|leg| leg.diverted_by.as_deref()).collect::<Vec<_>>(), [None, None, Some("2041")]);
}
