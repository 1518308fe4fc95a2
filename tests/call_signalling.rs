//! What SIP has for calls beyond INVITE and BYE, with SIPp at both ends: session timers, reliable provisional answers.

use plugtone::model::Event;

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

#[tokio::test(flavor = "multi_thread")]
async fn phones_of_one_user_ring_one_after_the_other_where_they_say_so() {
    let bed = Bed::with(|calls| calls.ring_timeout_secs = 6).await;
    let (first, second) = (bed.registers(2).await, free_port());
    let later = [("EXPECTED", "200"), ("[transport]>\n    Expires", "[transport]>;q=0.5\n    Expires")];
    bed.phone(3, second, "register.xml", "x", &later).succeeds().await;
    let rings = bed.phone(2, first, "uas_cancelled.xml", "x", &[("CALLER", "2041")]);
    let takes = bed.phone(3, second, "uas_answer.xml", "x", &[("CALLER", "2041")]);
    let caller = bed.phone(1, free_port(), "uac_call.xml", "2042", &[("PAUSE", "200")]);
    bed.tells(|event| matches!(event, Event::CallAnswered { .. })).await;
    // It had its time, before the other rang: nobody took the call from it.
    let log = rings.log();
    assert!(log.contains("CANCEL sip:") && !log.contains("elsewhere"), "{log}");
    caller.succeeds().await;
    takes.succeeds().await;
    rings.succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_behind_a_proxy_is_called_by_the_way_it_registered() {
    let bed = Bed::start().await;
    let port = free_port();
    let proxy = format!("    Path: <sip:127.0.0.1:{port};lr;ob>\n    Supported: path\n    Expires");
    bed.phone(2, port, "register.xml", "x", &[("EXPECTED", "200"), ("    Expires", &proxy)]).succeeds().await;
    let callee = bed.phone(2, port, "uas_answer.xml", "x", &[("CALLER", "2041")]);
    bed.phone(1, free_port(), "uac_call.xml", "2042", &[("PAUSE", "200")]).succeeds().await;
    let log = callee.log();
    assert!(log.contains(&format!("\nRoute: <sip:127.0.0.1:{port};lr;ob>")), "{log}");
    callee.succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn phones_show_with_whom_they_talk() {
    let bed = Bed::start().await;
    let (one, other) = (bed.registers(2).await, bed.registers(5).await);
    let sent_on = bed.phone(2, one, "uas_sees.xml", "x", &[("CALLER", "2041"), ("NAME", ".Cy. .sip:2043@")]);
    let takes = bed.phone(5, other, "uas_bye.xml", "x", &[("CALLER", "2042")]);
    let caller = bed.phone(1, free_port(), "uac_transfer_and_go.xml", "2042", &[("TARGET", "2043")]);
    bed.tells(|event| matches!(event, Event::CallAnswered { to, .. } if to == "2042")).await;
    // Who answers is named to the caller, and to whom is sent on who that is now.
    let log = caller.log();
    caller.succeeds().await;
    takes.succeeds().await;
    sent_on.succeeds().await;
    let answer = log.split("SIP/2.0 ").find(|text| text.starts_with("180")).expect("a 180");
    assert!(answer.contains("P-Asserted-Identity: \"Bo\" <sip:2042@"), "{answer}");
}
