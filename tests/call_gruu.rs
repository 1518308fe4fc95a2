//! GRUUs (RFC 5627): URIs that reach one phone of a user and no other, with SIPp as the phones.

use super::call::{Bed, Sipp, free_port};

/// The instance of a phone (RFC 5626).
fn instance(last: u8) -> String {
    format!("urn:uuid:00000000-0000-1000-8000-0015650000{last:02x}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gruu_reaches_just_the_phone_that_it_is_of() {
    let bed = Bed::start().await;
    let ports = [(2, free_port()), (3, free_port())];
    for (phone, port) in ports {
        let contact = format!("transport=[transport]>;+sip.instance=\"<{}>\"\n    Supported: gruu", instance(phone));
        let edits = [("EXPECTED", "200"), ("transport=[transport]>", &*contact)];
        let gruu = bed.phone(phone, port, "register.xml", "x", &edits).finishes(Sipp::log).await;
        let told = format!("pub-gruu=\"sip:2042@127.0.0.1;gr={}\"", instance(phone));
        assert!(gruu.contains(&told), "{told} in\n{gruu}");
    }
    let to = |last: u8| format!("sip:[service]@[remote_ip]:[remote_port];gr={} SIP/2.0", instance(last));
    // The caller has a GRUU of its own: the phone that is called may call back just there.
    bed.registers(1).await;
    for (phone, port) in ports {
        let callee = bed.phone(phone, port, "uas_answer.xml", "x", &[("CALLER", "2041")]);
        let edits = [("PAUSE", "100"), ("sip:[service]@[remote_ip]:[remote_port] SIP/2.0", &*to(phone))];
        bed.phone(1, free_port(), "uac_call.xml", "2042", &edits).succeeds().await;
        callee.succeeds().await;
        bed.ended("caller hung up").await;
        bed.events.lock().unwrap().clear();
    }
    let captured = bed.running.handle.captured().await;
    let invited = |(_, port): (u8, u16)| {
        let all = captured.iter().flat_map(|(_, messages)| messages);
        all.filter(|one| one.flow.peer.port() == port && one.bytes.starts_with(b"INVITE")).count()
    };
    assert_eq!(ports.map(invited), [1, 1], "each was called once");
    for (number, status) in [("2042", "480"), ("2999", "404")] {
        let edits = [("EXPECTED", status), ("sip:[service]@[remote_ip]:[remote_port] SIP/2.0", &*to(9))];
        bed.phone(1, free_port(), "uac_refused.xml", number, &edits).succeeds().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_called_may_call_back_just_the_phone_that_called() {
    let bed = Bed::start().await;
    let contact = format!("transport=[transport]>;+sip.instance=\"<{}>\"\n    Supported: gruu", instance(1));
    bed.phone(1, free_port(), "register.xml", "x", &[("EXPECTED", "200"), ("transport=[transport]>", &*contact)]).succeeds().await;
    let port = bed.registers(2).await;
    for (phone, shown) in [(1, true), (9, false)] {
        let callee = bed.phone(2, port, "uas_answer.xml", "x", &[("CALLER", "2041")]);
        // A phone that has a GRUU names it in its Contact; nobody may name another's.
        let own = format!("Contact: <sip:[user]@[remote_ip];gr={}>", instance(phone));
        let edits = [("PAUSE", "100"), ("Contact: <sip:[user]@[local_ip]:[local_port];transport=[transport]>", &*own)];
        bed.phone(1, free_port(), "uac_call.xml", "2042", &edits).succeeds().await;
        let told = callee.finishes(Sipp::log).await;
        let contact = told.lines().find(|line| line.starts_with("Contact: <sip:2041@")).expect("our Contact");
        assert_eq!(contact.contains(&format!(";gr={}", instance(1))), shown, "{contact}");
        assert_eq!(contact.contains("gr="), shown, "{contact}");
        bed.ended("caller hung up").await;
        bed.events.lock().unwrap().clear();
    }
}
