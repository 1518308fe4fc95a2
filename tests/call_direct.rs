//! Sound that goes from phone to phone, past the server, with SIPp as the phones.

use std::time::{Duration, Instant};

use super::{
    call::{Bed, Sipp, free_port, is_bound},
    trunks::{BY_ADDRESS, Office},
};

/// Waits until the server's port that this phone was told of is nobody's any more.
async fn is_let_go(phone: &Sipp) {
    let until = Instant::now() + Duration::from_secs(10);
    let ours = || {
        let log = phone.log();
        let mut ports = log.split("m=audio ").skip(1).filter_map(|rest| rest.split(' ').next()?.parse::<u16>().ok());
        ports.find(|port| ![7000, 7002].contains(port))
    };
    while ours().is_none_or(is_bound) {
        assert!(Instant::now() < until, "{:?} is still taken", ours());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_goes_from_phone_to_phone_and_comes_back_for_music_on_hold() {
    let bed = Bed::with(|calls| calls.direct_media = true).await;
    let port = bed.registers(2).await;
    // Ports of theirs that nobody needs to hear on.
    let (callers, callees) = (["[media_port]", "7000"], ["[media_port]", "7002"]);
    let callee = bed.phone(2, port, "uas_direct.xml", "x", &[("CALLER", "2041"), (callees[0], callees[1]), ("OTHER", callers[1])]);
    let pause = ("PAUSE", "1500");
    let caller = bed.phone(1, free_port(), "uac_direct.xml", "2042", &[(callers[0], callers[1]), ("OTHER", callees[1]), pause]);
    // What each was told of the server's ports is void while they talk.
    is_let_go(&callee).await;
    is_let_go(&caller).await;
    assert_eq!(bed.running.handle.list().await.len(), 1, "they talk");
    caller.succeeds().await;
    callee.succeeds().await;
    bed.ended("caller hung up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_goes_from_phone_to_provider_where_its_trunk_lets_it() {
    let office = Office::start("options_secs: 0, direct_media: true, max_calls: 1", BY_ADDRESS).await;
    let callee = [("CALLER", ""), ("[media_port]", "7002"), ("OTHER", "7000")];
    let provider = office.bed.phone(1, office.first, "uas_direct.xml", "x", &callee);
    let caller = [("[media_port]", "7000"), ("OTHER", "7002"), ("PAUSE", "500")];
    let caller = office.bed.phone(1, free_port(), "uac_direct.xml", "001712345678", &caller);
    office.bed.tells(|event| matches!(event, plugtone::model::Event::CallAnswered { .. })).await;
    is_let_go(&caller).await;
    // The call is still one of the trunk's, of which it may carry one.
    let calls = async || office.bed.running.handle.trunks().await[0].calls;
    assert_eq!(calls().await, 1);
    caller.succeeds().await;
    provider.succeeds().await;
    office.bed.ended("caller hung up").await;
    assert_eq!(calls().await, 0);
}

/// The part of a scenario in which a phone is told that its sound goes to this port.
fn told_of(port: &str, variable: &str) -> String {
    let whole = std::fs::read_to_string("tests/sipp/uac_direct.xml").expect("the scenario");
    let (begin, end) = (whole.find("  <recv request=\"INVITE\">"), whole.find("  <recv request=\"ACK\"/>\n"));
    let part = &whole[begin.expect("an INVITE")..end.expect("an ACK") + "  <recv request=\"ACK\"/>\n".len()];
    part.replace("OTHER", port).replace("assign_to=\"there\"", &format!("assign_to=\"{variable}\""))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_transferred_talks_past_the_server_with_whoever_takes_the_call() {
    let bed = Bed::with(|calls| calls.direct_media = true).await;
    let (one, other) = (bed.registers(2).await, bed.registers(5).await);
    // Told of the first phone, held, told of the other that has the same port at its own place.
    let sent_on = [("CALLER", "2041"), ("[media_port]", "7002"), ("OTHER", "7000")];
    let sent_on = bed.phone(2, one, "uas_direct.xml", "x", &sent_on);
    let talks = format!("  <recv request=\"ACK\"/>\n{}  <pause milliseconds=\"300\"/>", told_of("7002", "there"));
    let takes = [
        ("CALLER", "2042"),
        ("  <recv request=\"ACK\"/>\n  <pause milliseconds=\"300\"/>", &*talks),
        ("variables=\"from\"", "variables=\"from,there\""),
        ("[media_port]", "7000"),
    ];
    let takes = bed.phone(5, other, "uas_bye.xml", "x", &takes);
    let holds = "  <pause milliseconds=\"200\"/>\n  <send retrans=\"500\"><![CDATA[\n\n    INVITE sip:server";
    let sends = format!("{}{holds}", told_of("7002", "there"));
    let sends = [
        ("TARGET", "2043@[remote_ip]"),
        (holds, &*sends),
        ("<Reference variables=\"", "<Reference variables=\"there,"),
        ("[media_port]", "7000"),
    ];
    bed.phone(1, free_port(), "uac_transfer.xml", "2042", &sends).succeeds().await;
    takes.succeeds().await;
    sent_on.succeeds().await;
    bed.ended("callee hung up").await;
}
