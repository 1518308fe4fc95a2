//! Phones that are called and name somebody else (302), and what is shown of that, with SIPp as the phones and the provider.

use plugtone::model::Event;

use super::{
    call::{Bed, free_port},
    trunks::{BY_ADDRESS, Office},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_diverts_its_call_to_a_colleague_who_sees_so() {
    let bed = Bed::start().await;
    let (one, other) = (bed.registers(2).await, bed.registers(5).await);
    let moved = bed.phone(2, one, "uas_moved.xml", "x", &[("TARGET", "sip:2043@[remote_ip]")]);
    // Who calls, and who has sent him.
    let shown = "Ada. .sip:2041@[^|]*Diversion: .sip:2042@[^;]*;reason=deflection;counter=1[^|]*History-Info: .sip:2042@[^,]*;index=1, ";
    let takes = bed.phone(5, other, "uas_answer.xml", "x", &[("From: [^\\r\\n]*CALLER", shown)]);
    bed.phone(1, free_port(), "uac_call.xml", "2042", &[("PAUSE", "200")]).succeeds().await;
    bed.tells(|event| matches!(event, Event::CallDiverted { by, to, .. } if by == "2042" && to == "2043")).await;
    moved.succeeds().await;
    takes.succeeds().await;
    bed.ended("caller hung up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_phones_that_divert_to_each_other_end_the_call() {
    let bed = Bed::start().await;
    let (one, other) = (bed.registers(2).await, bed.registers(5).await);
    let first = bed.phone(2, one, "uas_moved.xml", "x", &[("TARGET", "sip:2043@[remote_ip]")]);
    let second = bed.phone(5, other, "uas_moved.xml", "x", &[("TARGET", "sip:2042@[remote_ip]")]);
    bed.phone(1, free_port(), "uac_refused.xml", "2042", &[("EXPECTED", "480")]).succeeds().await;
    first.succeeds().await;
    second.succeeds().await;
    bed.ended("diverted in a circle").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_diverted_to_a_mobile_and_not_abroad() {
    let office = Office::start(BY_ADDRESS, BY_ADDRESS).await;
    let port = office.bed.registers(5).await;
    let moved = office.bed.phone(5, port, "uas_moved.xml", "x", &[("TARGET", "tel:001712345678")]);
    let told = "P-Asserted-Identity: .sip:.493012342043@";
    let provider = office.answers(office.first, ".491712345678", told, "Diversion: .sip:.493012342043@[^;]*;reason=deflection");
    office.dials(1, "2043").await;
    provider.succeeds().await;
    moved.succeeds().await;
    // Its user may not call abroad, whoever calls him.
    let moved = office.bed.phone(5, port, "uas_moved.xml", "x", &[("TARGET", "sip:00041446681800@[remote_ip]")]);
    office.bed.phone(2, free_port(), "uac_refused.xml", "2043", &[("EXPECTED", "403")]).succeeds().await;
    moved.succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_from_outside_to_a_mobile_shows_its_caller_where_the_provider_lets_it() {
    let office = Office::start("options_secs: 0, numbers: national, diverted_shows: caller", BY_ADDRESS).await;
    let port = office.bed.registers(1).await;
    let moved = office.bed.phone(1, port, "uas_moved.xml", "x", &[("TARGET", "sip:001712345678@[remote_ip]")]);
    // It comes by the second trunk and leaves by the first, where the user is known and the caller is shown.
    let told = "From: [^\\r\\n]*sip:01719999999@";
    let also = "P-Asserted-Identity: .sip:03012342041@[^|]*Diversion: .sip:03012342041@";
    let mobile = office.answers(office.first, "01712345678", told, also);
    let edits = [("CALLER", "+491719999999"), ("NUMBER", "x"), ("PAUSE", "300")];
    office.bed.phone(1, office.second, "provider_calls.xml", "+493012342041", &edits).succeeds().await;
    moved.succeeds().await;
    mobile.succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hides_is_not_named() {
    let office = Office::start(BY_ADDRESS, BY_ADDRESS).await;
    let port = office.bed.registers(2).await;
    let hides = ("Content-Type: application/sdp", "Privacy: id\n    Content-Type: application/sdp");
    // To a colleague, whose phone finds his number nowhere in the request.
    let shown = "From: .Anonymous. .sip:anonymous@anonymous.invalid>";
    let rings = office.bed.phone(2, port, "uas_answer.xml", "x", &[("From: [^\\r\\n]*CALLER", shown)]);
    office.bed.phone(1, free_port(), "uac_call.xml", "2042", &[hides, ("PAUSE", "200")]).succeeds().await;
    let log = rings.log();
    let invite = log.split("INVITE sip:").nth(1).expect("an INVITE").split("\r\n\r\n").next().unwrap_or_default();
    assert!(!invite.contains("2041") && !invite.contains("Ada") && invite.contains("Privacy: id"), "{invite}");
    rings.succeeds().await;
    // And to the outside, where the provider knows and keeps it to himself.
    let provider = office.answers(office.first, ".491712345678", shown, "P-Asserted-Identity: .*2041@[^|]*Privacy: id");
    office.bed.phone(1, free_port(), "uac_call.xml", "001712345678", &[hides, ("PAUSE", "200")]).succeeds().await;
    provider.succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_diverted_outside_shows_by_whom() {
    let office = Office::start("options_secs: 0, numbers: national", BY_ADDRESS).await;
    let phone = office.bed.registers(1).await;
    let shown = "sip:.491719999999@[^|]*Diversion: .sip:.49305556677@[^;]*;reason=no-answer";
    let callee = office.bed.phone(1, phone, "uas_answer.xml", "x", &[("From: [^\\r\\n]*CALLER", shown)]);
    let diverted = "Diversion: <sip:0305556677@p>;reason=no-answer\n    Content-Type: application/sdp";
    let edits = [("CALLER", "01719999999"), ("NUMBER", "x"), ("PAUSE", "300"), ("Content-Type: application/sdp", diverted)];
    office.bed.phone(1, office.first, "provider_calls.xml", "03012342041", &edits).succeeds().await;
    callee.succeeds().await;
}
