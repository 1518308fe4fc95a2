//! Transfers, with SIPp as the phones that ask for them, in the orders in which phones of different makes do it.

use std::time::{Duration, Instant};

use plugtone::{call::CallState, model::Event};
use tokio::time::timeout;

use super::call::{Bed, Sipp, free_port};

/// Told: somebody sent a call on.
async fn transferred(bed: &Bed, by: &str, to: &str) {
    bed.tells(|event| matches!(event, Event::CallTransferred { by: b, to: t, .. } if b == by && t == to)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_sends_its_call_on_and_waits_until_it_is_taken() {
    let bed = Bed::start().await;
    let (one, other) = (bed.registers(2).await, bed.registers(5).await);
    let sent_on = bed.phone(2, one, "uas_held.xml", "x", &[("CALLER", "2041")]);
    // It shows who comes, and who sent him.
    let takes = bed.phone(5, other, "uas_bye.xml", "x", &[("From: [^\\r\\n]*CALLER", "Bo. .sip:2042@[^\\r\\n]*|Referred-By: .sip:2041@")]);
    bed.phone(1, free_port(), "uac_transfer.xml", "2042", &[("TARGET", "2043@[remote_ip]")]).succeeds().await;
    transferred(&bed, "2041", "2043").await;
    takes.succeeds().await;
    sent_on.succeeds().await;
    bed.ended("callee hung up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_sends_its_call_on_and_hangs_up_at_once() {
    let bed = Bed::start().await;
    let (one, other) = (bed.registers(2).await, bed.registers(5).await);
    let sent_on = bed.phone(2, one, "uas_answer.xml", "x", &[("CALLER", "2041")]);
    let takes = bed.phone(5, other, "uas_bye.xml", "x", &[("CALLER", "2042")]);
    bed.phone(1, free_port(), "uac_transfer_and_go.xml", "2042", &[("TARGET", "2043")]).succeeds().await;
    takes.succeeds().await;
    sent_on.succeeds().await;
    bed.ended("callee hung up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_comes_back_when_nobody_takes_it() {
    let bed = Bed::start().await;
    let (one, other) = (bed.registers(2).await, bed.registers(5).await);
    let sent_on = bed.phone(2, one, "uas_held_twice.xml", "x", &[("CALLER", "2041")]);
    let busy = bed.phone(5, other, "uas_refuse.xml", "x", &[("STATUS", "486 Busy Here"), ("CALLER", "2042")]);
    bed.phone(1, free_port(), "uac_transfer_failed.xml", "2042", &[("TARGET", "2043"), ("STATUS", "486")]).succeeds().await;
    busy.succeeds().await;
    sent_on.succeeds().await;
    bed.ended("caller hung up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_sent_where_the_phone_itself_may_not_call() {
    let mut bed = Bed::start().await;
    let port = bed.registers(2).await;
    for (target, status) in [("2999", "404"), ("0", "403")] {
        let callee = bed.phone(2, port, "uas_answer.xml", "x", &[("CALLER", "2041")]);
        bed.phone(1, free_port(), "uac_transfer_refused.xml", "2042", &[("TARGET", target), ("STATUS", status)]).succeeds().await;
        callee.succeeds().await;
        bed.ended("caller hung up").await;
    }
    // A phone without an owner is with the menu, which goes nowhere.
    let caller = bed.phone(4, free_port(), "uac_transfer_refused.xml", "0", &[("TARGET", "2042"), ("STATUS", "403")]);
    let call = timeout(Duration::from_secs(10), bed.service.recv()).await.expect("in time").expect("a call");
    caller.succeeds().await;
    drop(call);
}

/// How a REFER names the call that this SIPp is in.
pub async fn named(sipp: &Sipp) -> String {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        assert!(Instant::now() < until, "the second call does not come about");
        // The last answer with a tag that is the server's and no challenge: 180 or 200.
        let log = sipp.log();
        let answer = log.split("SIP/2.0 ").filter(|text| text.starts_with("180") || text.starts_with("200")).last();
        let field = |from: &str| answer.and_then(|text| text.split(from).nth(1)?.split(['\r', '\n']).next());
        if let (Some(call_id), Some(from), Some(to)) = (field("Call-ID: "), field("From: "), field("To: "))
            && let (Some((_, from)), Some((_, to))) = (from.split_once("tag="), to.split_once("tag="))
        {
            return format!("{call_id}%3Bto-tag%3D{to}%3Bfrom-tag%3D{from}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_joins_its_two_calls() {
    let bed = Bed::start().await;
    let (one, other) = (bed.registers(2).await, bed.registers(5).await);
    let asked = bed.phone(5, other, "uas_answer.xml", "x", &[("CALLER", "2041")]);
    let second = bed.phone(1, free_port(), "uac_called_off.xml", "2043", &[]);
    bed.tells(|event| matches!(event, Event::CallAnswered { to, .. } if to == "2043")).await;
    let replaces = named(&second).await;
    let held = bed.phone(2, one, "uas_held.xml", "x", &[("CALLER", "2041")]);
    let target = format!("2043@[remote_ip]?Replaces={replaces}");
    bed.phone(1, free_port(), "uac_transfer_attended.xml", "2042", &[("TARGET", &target)]).succeeds().await;
    transferred(&bed, "2041", "2043").await;
    second.succeeds().await;
    bed.tells(|event| matches!(event, Event::CallEnded { cause, .. } if cause == "transferred")).await;
    let calls = bed.running.handle.list().await;
    assert_eq!(calls.iter().map(|call| call.state).collect::<Vec<_>>(), [CallState::Talking]);
    assert!(bed.running.handle.hangup(calls[0].call).await);
    asked.succeeds().await;
    held.succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_lets_its_two_calls_have_each_other_while_one_still_rings() {
    let bed = Bed::start().await;
    let (one, other) = (bed.registers(2).await, bed.registers(5).await);
    let rings = bed.phone(5, other, "uas_answer_late.xml", "x", &[("CALLER", "2041")]);
    // The server ends the ringing call of the phone that asked.
    let second = bed.phone(1, free_port(), "uac_ringing_ended.xml", "2043", &[]);
    bed.tells(|event| matches!(event, Event::CallRinging { to, .. } if to == "2043")).await;
    let replaces = named(&second).await;
    let held = bed.phone(2, one, "uas_held.xml", "x", &[("CALLER", "2041")]);
    let target = format!("2043@[remote_ip]?Replaces={replaces}");
    bed.phone(1, free_port(), "uac_transfer.xml", "2042", &[("TARGET", &target)]).succeeds().await;
    transferred(&bed, "2041", "2043").await;
    second.succeeds().await;
    let calls = bed.running.handle.list().await;
    assert!(bed.running.handle.hangup(calls[0].call).await);
    rings.succeeds().await;
    held.succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_picks_up_what_rings_elsewhere() {
    let bed = Bed::start().await;
    let port = bed.registers(2).await;
    let rings = bed.phone(2, port, "uas_cancelled.xml", "x", &[("CALLER", "2041")]);
    let caller = bed.phone(1, free_port(), "uac_called_off.xml", "2042", &[]);
    bed.tells(|event| matches!(event, Event::CallRinging { .. })).await;
    let invited = rings.log();
    let field =
        |from: &str| invited.split(from).nth(1).and_then(|text| text.split(['\r', '\n', ';']).next()).expect("an INVITE").to_owned();
    // As busy lamps tell it: the dialog between the server and the phone that rings.
    let replaces = format!("Replaces: {};from-tag=1to;to-tag={}", field("Call-ID: "), field(";tag="));
    let takes = bed.phone(
        5,
        free_port(),
        "uac_call.xml",
        "2042",
        &[("PAUSE", "300"), ("[authentication]", &format!("[authentication]\n    {replaces}"))],
    );
    takes.succeeds().await;
    caller.succeeds().await;
    rings.succeeds().await;
    bed.ended("callee hung up").await;
}
