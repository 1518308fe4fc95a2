//! Star codes, forwards, groups, pick-up and park, with SIPp as the phones.

use plugtone::{
    features::{self, Change, book::When},
    model::Event,
    store::Store,
};

use super::call::{Bed, free_port};

const RULES: &str = "
groups: [{number: '600', members: ['2042', '2043'], strategy: in_order}]
park: {number: '700', places: 701-702}
";

/// An office with a group and two park places.
async fn office() -> Bed {
    let bed = Bed::start().await;
    let features: features::Settings = serde_yaml::from_str(RULES).expect("good");
    bed.reload_with(|config| config.features = features.check().expect("sound").into()).await;
    bed
}

async fn diverted(bed: &Bed, by: &str, to: &str, reason: &str) {
    bed.tells(|event| matches!(event, Event::CallDiverted { by: b, to: t, reason: r, .. } if (b, t, r) == (&by.into(), &to.into(), &reason.into())))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_star_code_is_heard_to_be_done_and_outlives_the_server() {
    let bed = office().await;
    let (one, other) = (bed.registers(2).await, bed.registers(5).await);
    // The phone hears the beep and is hung up.
    bed.phone(2, free_port(), "uac_called_off.xml", "*722043", &[]).succeeds().await;
    bed.ended("menu done").await;
    let kept = bed.store.wishes().await.expect("read");
    assert!(kept.len() == 1 && kept[0].0 == "extension/2042" && kept[0].1.contains("\"always\":\"2043\""), "{kept:?}");
    bed.running.handle.stop().await;
    bed.running.task.await.expect("ended");
    bed.store.close().await;
    let bed = Bed::within(bed.folder, |_| {}).await;
    assert_eq!(bed.running.handle.wishes("2042").await.always.as_deref(), Some("2043"));
    let _ = (one, other);
    let other = bed.registers(5).await;
    let takes = bed.phone(
        5,
        other,
        "uas_answer.xml",
        "x",
        &[("From: [^\\r\\n]*CALLER", "sip:2041@[^|]*Diversion: .sip:2042@[^;]*;reason=unconditional")],
    );
    bed.phone(1, free_port(), "uac_call.xml", "2042", &[("PAUSE", "200")]).succeeds().await;
    takes.succeeds().await;
    diverted(&bed, "2042", "2043", "unconditional").await;
    // And off again.
    bed.phone(2, free_port(), "uac_called_off.xml", "*73", &[]).succeeds().await;
    assert!(bed.store.wishes().await.expect("read").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_phones_calls_go_where_its_user_wishes() {
    let bed = office().await;
    let (one, other) = (bed.registers(2).await, bed.registers(5).await);
    bed.running.handle.wish("2042", Change::Forward { when: When::Busy, to: Some("2043".into()) }).await.expect("kept");
    let busy = bed.phone(2, one, "uas_refuse.xml", "x", &[("STATUS", "486 Busy Here"), ("CALLER", "2041")]);
    let takes = bed.phone(5, other, "uas_answer.xml", "x", &[("CALLER", "2041")]);
    bed.phone(1, free_port(), "uac_call.xml", "2042", &[("PAUSE", "200")]).succeeds().await;
    busy.succeeds().await;
    takes.succeeds().await;
    diverted(&bed, "2042", "2043", "user-busy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_want_to_be_disturbed_is_busy() {
    let bed = office().await;
    bed.registers(2).await;
    bed.phone(2, free_port(), "uac_called_off.xml", "*78", &[]).succeeds().await;
    bed.phone(1, free_port(), "uac_refused.xml", "2042", &[("EXPECTED", "486")]).succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_of_a_group_rings_when_the_first_declines() {
    let bed = office().await;
    let (one, other) = (bed.registers(2).await, bed.registers(5).await);
    let declines = bed.phone(2, one, "uas_refuse.xml", "x", &[("STATUS", "603 Decline"), ("CALLER", "2041")]);
    let takes = bed.phone(5, other, "uas_answer.xml", "x", &[("CALLER", "2041")]);
    bed.phone(1, free_port(), "uac_call.xml", "600", &[("PAUSE", "200")]).succeeds().await;
    declines.succeeds().await;
    takes.succeeds().await;
    bed.ended("caller hung up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_colleague_picks_up_what_rings() {
    let bed = office().await;
    let one = bed.registers(2).await;
    let rings = bed.phone(2, one, "uas_cancelled.xml", "x", &[("CALLER", "2041")]);
    let caller = bed.phone(1, free_port(), "uac_called_off.xml", "2042", &[]);
    bed.tells(|event| matches!(event, Event::CallRinging { .. })).await;
    bed.phone(5, free_port(), "uac_call.xml", "**2042", &[("PAUSE", "300")]).succeeds().await;
    rings.succeeds().await;
    caller.succeeds().await;
    bed.ended("callee hung up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_parked_seen_and_taken_elsewhere() {
    let bed = office().await;
    let one = bed.registers(2).await;
    let waits = bed.phone(2, one, "uas_answer.xml", "x", &[("CALLER", "2041")]);
    bed.phone(1, free_port(), "uac_park.xml", "2042", &[("TARGET", "700")]).succeeds().await;
    bed.tells(|event| matches!(event, Event::CallTransferred { by, to, .. } if by == "2041" && to == "701")).await;
    assert_eq!(bed.running.handle.list().await[0].state, plugtone::call::CallState::Parked);
    bed.phone(5, free_port(), "uac_call.xml", "701", &[("PAUSE", "300")]).succeeds().await;
    waits.succeeds().await;
    bed.ended("callee hung up").await;
    bed.phone(5, free_port(), "uac_refused.xml", "701", &[("EXPECTED", "404")]).succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intercom_call_asks_the_phone_to_answer_by_itself() {
    let bed = office().await;
    let one = bed.registers(2).await;
    let answers = bed.phone(2, one, "uas_answer.xml", "x", &[("From: [^\\r\\n]*CALLER", "answer-after=0")]);
    bed.phone(1, free_port(), "uac_call.xml", "*802042", &[("PAUSE", "200")]).succeeds().await;
    answers.succeeds().await;
}
