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
