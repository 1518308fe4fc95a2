//! What SIP has for calls beyond INVITE and BYE, with SIPp at both ends: session timers, reliable provisional answers.

use super::call::{Bed, free_port};

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_of_a_call_are_timed_as_they_want() {
    let bed = Bed::start().await;
    let port = bed.registers(2).await;
    let callee = bed.phone(2, port, "uas_timer.xml", "x", &[]);
    bed.phone(1, free_port(), "uac_timer.xml", "2042", &[]).succeeds().await;
    callee.succeeds().await;
    bed.ended("caller hung up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_before_the_answer_arrives_for_sure_at_both_ends() {
    let bed = Bed::start().await;
    let port = bed.registers(2).await;
    let callee = bed.phone(2, port, "uas_reliable.xml", "x", &[]);
    bed.phone(1, free_port(), "uac_reliable.xml", "2042", &[]).succeeds().await;
    callee.succeeds().await;
    bed.ended("caller hung up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_only_ever_works_on_it_is_called_off() {
    // Nothing but 100, for as long as anybody rings.
    let bed = Bed::with(|calls| calls.ring_timeout_secs = 5).await;
    let port = bed.registers(2).await;
    let rings =
        bed.phone(2, port, "uas_cancelled.xml", "x", &[("CALLER", "2041"), ("180 Ringing", "100 Trying"), (";tag=[call_number]to", "")]);
    bed.phone(1, free_port(), "uac_refused.xml", "2042", &[("EXPECTED", "480")]).succeeds().await;
    rings.succeeds().await;
    bed.ended("no answer").await;
}
