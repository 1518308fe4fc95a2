//! Calls to and from the outside, against SIPp as the providers: by address and with a log-in, with fail-over, for help.

use std::time::Duration;

use plugtone::{
    call::trunk::State,
    model::{Event, MacAddr},
};

use crate::call::{Bed, Sipp, free_port, mac};

/// An office with two trunks, whose providers listen on these ports of loopback.
pub struct Office {
    pub bed: Bed,
    pub first: u16,
    pub second: u16,
}

const RULES: &str = r#"
country: DE
area_code: "30"
outside_line: "0"
main_number: "+49 30 1234-0"
emergency:
  numbers: ["112", "110"]
  trunks: [first, second]
  caller_id: "+49 30 1234-0"
  locations:
    - { device: "floor4-*", name: fourth floor, caller_id: "+49 30 1234-400", geolocation: "https://lis.example.com/floor4" }
  test: { numbers: ["*112"], to: { number: "933" } }
permissions:
  groups: { sales: [international] }
inbound:
  - { numbers: ["+49 30 1234-XXXX"], to: { last_digits: 4 } }
blocked: { incoming: ["+49301111111"] }
outbound:
  - { trunks: [first, second] }
"#;

impl Office {
    /// `first` and `second`: what the trunks have beside their host.
    pub async fn start(first: &str, second: &str) -> Self {
        let ports = (free_port(), free_port());
        let folder = tempfile::tempdir().expect("a folder");
        let trunks = format!(
            "trunks:\n  first: {{ host: \"127.0.0.1:{}\", silence_secs: 1, {first} }}\n  second: {{ host: \"127.0.0.1:{}\", silence_secs: 1, {second} }}\n",
            ports.0, ports.1
        );
        std::fs::write(folder.path().join("password"), "hunter2\n").expect("written");
        let routes = folder.path().join("routes.yaml");
        std::fs::write(&routes, format!("{RULES}{trunks}")).expect("written");
        let bed = Bed::within(folder, |calls| {
            calls.routes = Some(routes);
            calls.emergency.clear();
        })
        .await;
        let office = Self { bed, first: ports.0, second: ports.1 };
        // Their addresses are found a moment after the start.
        while office.bed.running.handle.trunks().await.iter().any(|trunk| trunk.address.is_none()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        office
    }

    fn provider(&self, port: u16, scenario: &str, edits: &[(&str, &str)]) -> Sipp {
        self.bed.phone(1, port, scenario, "x", edits)
    }

    /// A provider that is called with this number, and takes the call if the INVITE shows both.
    pub fn answers(&self, port: u16, number: &str, expected: &str, also: &str) -> Sipp {
        self.provider(port, "provider_answers.xml", &[("NUMBER", number), ("EXPECTED", expected), ("ALSO", also)])
    }

    pub async fn dials(&self, phone: u8, number: &str) {
        self.bed.phone(phone, free_port(), "uac_call.xml", number, &[("PAUSE", "200")]).succeeds().await;
    }
}

pub const BY_ADDRESS: &str = "options_secs: 0";

#[tokio::test(flavor = "multi_thread")]
async fn a_call_outside_shows_the_users_own_number() {
    let office = Office::start(BY_ADDRESS, BY_ADDRESS).await;
    let own = "P-Asserted-Identity: .sip:.493012342041@";
    let provider = office.answers(office.first, ".491712345678", own, "From: .*493012342041@");
    office.dials(1, "001712345678").await;
    provider.succeeds().await;
    office.bed.ended("caller hung up").await;
    // What the caller may not is refused before any provider hears of it.
    office.bed.phone(1, free_port(), "uac_refused.xml", "00041446681800", &[("EXPECTED", "403")]).succeeds().await;
    office.bed.tells(|event| matches!(event, Event::CallRefused { reason, .. } if reason == "not allowed")).await;
    // A colleague is in a group that may.
    let provider = office.answers(office.first, ".41446681800", "493012342042@", "INVITE");
    office.dials(2, "00041446681800").await;
    provider.succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_trunk_takes_the_call_when_one_is_ill_or_silent() {
    let office = Office::start(BY_ADDRESS, BY_ADDRESS).await;
    let ill = office.provider(office.first, "provider_refuses.xml", &[("STATUS", "503")]);
    let well = office.answers(office.second, ".491712345678", "2041@", "INVITE");
    office.dials(1, "001712345678").await;
    ill.succeeds().await;
    well.succeeds().await;
    // Busy is the called one's answer and not the trunk's.
    let busy = office.provider(office.first, "provider_refuses.xml", &[("STATUS", "486")]);
    office.bed.phone(1, free_port(), "uac_refused.xml", "001712345678", &[("EXPECTED", "486")]).succeeds().await;
    busy.succeeds().await;
    // Silence for a second is enough. The silent one is told last: what was sent there is repeated for a while.
    let silent = office.provider(office.first, "provider_silent.xml", &[]);
    let well = office.answers(office.second, ".491712345678", "2041@", "INVITE");
    office.dials(1, "001712345678").await;
    silent.succeeds().await;
    well.succeeds().await;
    // With nobody there the caller is told so, and soon.
    office.bed.phone(1, free_port(), "uac_refused.xml", "001712345678", &[("EXPECTED", "480")]).succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_registers_and_logs_in_for_calls() {
    let account = "user: acct, password_file: password, domain: provider.example, register: true, caller_id: account, options_secs: 0";
    let port_waits = Office::start(account, BY_ADDRESS);
    let office = port_waits.await;
    // The provider comes up after us: the REGISTER is repeated until it is there.
    office.provider(office.first, "provider_registers.xml", &[]).succeeds().await;
    office.bed.tells(|event| matches!(event, Event::TrunkUp { trunk } if trunk == "first")).await;
    let trunks = office.bed.running.handle.trunks().await;
    assert_eq!(
        trunks.iter().map(|t| (&*t.name, t.state, t.registered)).collect::<Vec<_>>(),
        [("first", State::Up, Some(true)), ("second", State::Untried, None)]
    );
    let provider = office.provider(office.first, "provider_challenges.xml", &[]);
    office.bed.phone(1, free_port(), "uac_refused.xml", "001712345678", &[("EXPECTED", "486")]).succeeds().await;
    provider.succeeds().await;
    // The account is in From, the caller beside it.
    let provider = office.answers(office.first, ".491712345678", "From: .*sip:acct@provider.example", "P-Asserted-Identity: .*2041@");
    office.dials(1, "001712345678").await;
    provider.succeeds().await;
    // A call from outside comes to our contact, with the number in To.
    let phone = office.bed.registers(2).await;
    let callee = office.bed.phone(2, phone, "uas_answer.xml", "x", &[("CALLER", "sip:.491719999999@")]);
    let caller = [("CALLER", "+491719999999"), ("NUMBER", "+493012342042"), ("PAUSE", "300")];
    office.bed.phone(1, office.first, "provider_calls.xml", "acct", &caller).succeeds().await;
    callee.succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_from_outside_rings_the_extension_of_its_number() {
    let office = Office::start("options_secs: 0, numbers: national, max_calls: 1", BY_ADDRESS).await;
    let phone = office.bed.registers(1).await;
    let callee = office.bed.phone(1, phone, "uas_answer.xml", "x", &[("CALLER", "sip:.491719999999@")]);
    let edits = |caller: &'static str| [("CALLER", caller), ("NUMBER", "x"), ("PAUSE", "600")];
    let caller = office.bed.phone(1, office.first, "provider_calls.xml", "03012342041", &edits("01719999999"));
    office.bed.tells(|event| matches!(event, Event::CallAnswered { to, mac: None, .. } if to == "2041")).await;
    assert_eq!(office.bed.running.handle.trunks().await[0].calls, 1);
    caller.succeeds().await;
    callee.succeeds().await;
    office.bed.ended("caller hung up").await;
    assert_eq!(office.bed.running.handle.trunks().await[0].calls, 0);
    // Nobody has the number; a blocked caller; and somebody who is no provider has to log in.
    for (port, number, caller, status) in [
        (office.first, "03012342999", "01719999999", "404"),
        (office.first, "03012342041", "0301111111", "403"),
        (free_port(), "03012342041", "01719999999", "401"),
    ] {
        let refused = [("CALLER", caller), ("STATUS", status)];
        office.bed.phone(1, port, "provider_refused.xml", number, &refused).succeeds().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_for_help_goes_out_from_a_phone_without_owner() {
    // The first is full and down as far as anybody knows: for help it is tried all the same.
    let office = Office::start("options_secs: 5, max_calls: 1", BY_ADDRESS).await;
    office.bed.tells(|event| matches!(event, Event::TrunkDown { trunk, .. } if trunk == "first")).await;
    let place = "Geolocation: .https://lis.example.com/floor4>";
    let provider = office.answers(office.first, "112", place, "P-Asserted-Identity: .sip:.49301234400@");
    office.dials(4, "112").await;
    provider.succeeds().await;
    let of_floor = |event: &Event| match event {
        Event::EmergencyCalled { mac: Some(from), number, location, test, .. } => {
            (*from, number.as_str(), location.as_deref(), *test) == (mac(4), "112", Some("fourth floor"), false)
        }
        _ => false,
    };
    office.bed.tells(of_floor).await;
    // A trial goes the same way and calls nobody for help.
    let provider = office.answers(office.first, "933", place, "INVITE");
    office.dials(4, "*112").await;
    provider.succeeds().await;
    // Everything else is the menu's.
    assert!(!office.bed.happened(|event| matches!(event, Event::EmergencyCalled { mac: Some(MacAddr([0, 0x15, 0x65, 0, 0, 1])), .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_that_does_not_answer_is_passed_over_until_it_does() {
    let office = Office::start("options_secs: 5", BY_ADDRESS).await;
    office.bed.tells(|event| matches!(event, Event::TrunkDown { trunk, .. } if trunk == "first")).await;
    let well = office.answers(office.second, ".491712345678", "2041@", "INVITE");
    office.dials(1, "001712345678").await;
    well.succeeds().await;
    let options = office.provider(office.first, "provider_options.xml", &[]);
    office.bed.tells(|event| matches!(event, Event::TrunkUp { trunk } if trunk == "first")).await;
    options.succeeds().await;
    let first = &office.bed.running.handle.trunks().await[0];
    assert_eq!((first.state, first.reason.as_deref()), (State::Up, None));
}
