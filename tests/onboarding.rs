//! A device's life end to end: the core by scripts in time, then the service on the real store, stopped where it hurts.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use plugtone::{
    binding::{self, MasterKey, Outcome, Verdict},
    model::{BindingRecord, CallId, DeviceRecord, DeviceState, Event, Events, Extension, Inventory, MacAddr, Secret, Timestamp, User},
    provisioning::{
        Identities, Onboarding,
        onboarding::{Action, CallKind, Config, Contact, Core, Error, Now, Output, Registration, ReloadMethod, ReloadMethods, Sighting},
    },
    sip::Flow,
    store::{ContactRecord, Sqlite, Store},
};
use proptest::prelude::*;
use tokio::sync::mpsc;

const CALL: CallId = CallId(1);

fn mac(n: u8) -> MacAddr {
    MacAddr([0, 0x15, 0x65, 0, 0, n])
}

fn ext(text: &str) -> Extension {
    text.parse().expect("extension")
}

fn user(id: &str, extension: Option<&str>) -> User {
    User { id: id.into(), login: id.into(), display_name: id.to_uppercase(), mail: None, extension: extension.map(ext), groups: vec![] }
}

fn config(devices_per_extension: u8) -> Config {
    let settings = binding::Settings::default();
    Config { devices_per_extension, extensions: (ext("2000"), ext("2009")), reload: settings.reload, limits: settings.attempts.limits() }
}

fn methods() -> ReloadMethods {
    Arc::new(|family, _| match family {
        Some("yealink") => ReloadMethod {
            events: vec!["check-sync;reboot=false".into(), "check-sync;reboot=true".into()],
            poll: Some(Duration::from_secs(60)),
        },
        _ => ReloadMethod { events: vec!["check-sync".into()], poll: None },
    })
}

fn registration(n: u8, generation: u32) -> Registration {
    let peer = format!("10.0.0.{n}:5060").parse().expect("address");
    let contact = Contact {
        line: 1,
        user: "any".into(),
        uri: format!("sip:any@{peer}").into(),
        flow: Flow::udp("10.0.0.1:5060".parse().expect("address"), peer),
    };
    Registration { mac: mac(n), generation, contact, call_id: "its only one".into() }
}

// --- the core, in time

struct Script {
    core: Core,
    began: Instant,
}

impl Script {
    fn new(devices_per_extension: u8) -> Self {
        Self { core: Core::new(config(devices_per_extension), methods()), began: Instant::now() }
    }

    /// `ms` after the beginning.
    fn at(&self, ms: u64) -> Now {
        Now { instant: self.began + Duration::from_millis(ms), wall: Timestamp(ms as i64) }
    }

    /// A Yealink that registered as a new phone, at 0.
    fn with_phone(mut self, n: u8) -> Self {
        let now = self.at(0);
        let seen = Sighting { family: Some("yealink".into()), address: Some([10, 0, 0, n].into()), ..Sighting::of(mac(n)) };
        self.core.handle_sighting(now, seen);
        self.core.handle_registered(now, registration(n, 0));
        self.said();
        self
    }

    fn bind(&mut self, ms: u64, n: u8, who: &str, extension: &str) {
        let plan = self.core.plan_bind(self.at(ms), mac(n), 1, &user(who, None), ext(extension)).expect("planned");
        self.core.handle_bound(self.at(ms), plan);
    }

    fn state(&self, n: u8) -> DeviceState {
        self.core.device(mac(n)).expect("known").state
    }

    /// Lets time pass until `ms`, timer by timer; what was done, each with its milliseconds.
    fn until(&mut self, ms: u64) -> Vec<String> {
        let mut log = Vec::new();
        while let Some(at) = self.core.poll_timeout().filter(|at| *at <= self.at(ms).instant) {
            let at = at.duration_since(self.began).as_millis() as u64;
            self.core.handle_timeout(self.at(at));
            log.extend(self.said().into_iter().map(|said| format!("{at} {said}")));
        }
        log
    }

    fn said(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.core.poll_action()).filter_map(|action| words(&action)).collect()
    }
}

/// An action in short; what other tests look at is left out.
fn words(action: &Action) -> Option<String> {
    Some(match action {
        Action::Reload(order) => {
            let place = order.contact.as_ref().map_or("nowhere".to_owned(), |contact| contact.flow.peer.to_string());
            format!("NOTIFY {} {place} holding {}", order.notify_event, order.holds)
        }
        Action::DropContacts { mac, keep_generation, keep_lines } => match keep_lines[..] {
            [] => format!("drop {} keep {keep_generation}", mac.0[5]),
            _ => format!("drop {} keep {keep_generation} and lines {keep_lines:?}", mac.0[5]),
        },
        Action::Tell(Event::DeviceChanged { from, to, .. }) => format!("{from:?}>{to:?}"),
        Action::Tell(Event::Bound { mac, extension, .. }) => format!("bound {} {extension}", mac.0[5]),
        Action::Tell(Event::Unbound { mac, extension, .. }) => format!("unbound {} {extension}", mac.0[5]),
        Action::Tell(Event::ReloadTaken { .. }) => "taken".into(),
        Action::Tell(Event::ReloadDone { extension, .. }) => format!("done {extension}"),
        Action::Tell(Event::ReloadOverdue { .. }) => "overdue".into(),
        Action::Tell(Event::DuplicateMac { known, other, .. }) => format!("duplicate {known} {other}"),
        Action::Tell(_) => return None,
    })
}

#[test]
fn a_phone_is_bound_in_a_call_and_reloads_after_it() {
    let mut script = Script::new(1).with_phone(1);
    script.core.handle_call_began(script.at(1000), mac(1), CALL, CallKind::Ivr);
    assert_eq!(script.said(), ["Provisional>Authenticating"]);
    script.bind(5000, 1, "ann", "2041");
    assert_eq!(script.said(), ["bound 1 2041", "Authenticating>Bound", "drop 1 keep 1"]);
    assert_eq!(script.until(20_000), [""; 0], "never during a call");
    script.core.handle_call_ended(script.at(20_000), mac(1), CALL);
    assert_eq!(script.until(20_499), [""; 0], "the phone is still on its way out of the call");
    let sent = "20500 NOTIFY check-sync;reboot=false 10.0.0.1:5060 holding 0";
    assert_eq!(script.until(21_000), [sent, "20500 Bound>Reloading"]);
    script.core.handle_reload_answered(script.at(20_600), mac(1), 1, 200);
    script.core.handle_file_fetched(script.at(30_000), mac(1), 1, false);
    assert_eq!(script.said(), ["taken"]);
    script.core.handle_registered(script.at(31_000), registration(1, 0));
    assert_eq!(script.said(), [""; 0], "a registration that was under way with the old secret is not it");
    script.core.handle_registered(script.at(32_000), registration(1, 1));
    assert_eq!(script.said(), ["Reloading>InService", "done 2041"]);
    assert_eq!(script.core.poll_timeout(), None, "nothing is waited for any more");
}

#[test]
fn a_port_goes_on_while_the_one_beside_it_changes_hands() {
    let mut script = Script::new(1).with_phone(1);
    script.bind(0, 1, "ann", "2041");
    script.core.handle_file_fetched(script.at(1000), mac(1), 1, false);
    script.core.handle_registered(script.at(2000), registration(1, 1));
    script.said();
    let at_port_2 = |generation| {
        let first = registration(1, generation);
        Registration { contact: Contact { line: 2, ..first.contact.clone() }, call_id: "of the second".into(), ..first }
    };

    let plan = script.core.plan_bind(script.at(3000), mac(1), 2, &user("bob", None), ext("2042")).expect("planned");
    script.core.handle_bound(script.at(3000), plan);
    assert_eq!(script.said(), ["bound 1 2042", "InService>Bound", "drop 1 keep 2 and lines [1]"]);
    script.core.handle_registered(script.at(3100), registration(1, 1));
    assert_eq!(script.said(), [""; 0], "the first refreshes, with its own secret, which shows nothing of the new file");
    assert_eq!(script.until(4000)[0], "3500 NOTIFY check-sync;reboot=false 10.0.0.1:5060 holding 1");
    script.core.handle_file_fetched(script.at(5000), mac(1), 2, false);
    assert_eq!(script.said(), ["taken"]);
    script.core.handle_registered(script.at(6000), at_port_2(2));
    assert_eq!(script.said(), ["Reloading>InService", "done 2041"]);

    let plan = script.core.plan_unbind(mac(1), 2).expect("planned");
    script.core.handle_unbound(script.at(7000), plan, "moved");
    assert_eq!(script.said(), ["unbound 1 2042", "InService>Bound", "drop 1 keep 3 and lines [1]"]);
    script.core.handle_registered(script.at(7100), at_port_2(2));
    assert_eq!(script.said(), [""; 0], "the second's secret is dead");
    script.core.handle_file_fetched(script.at(8000), mac(1), 3, false);
    assert_eq!(script.said(), ["Bound>Reloading", "taken", "Reloading>InService", "done 2041"], "the first never went");
    assert_eq!(script.core.poll_timeout(), None);
}

#[test]
fn one_way_of_reloading_after_the_other() {
    let mut script = Script::new(1).with_phone(1);
    script.bind(0, 1, "ann", "2041");
    script.said();
    // The first NOTIFY stays without answer, the second is refused, the phone does not poll (60 s and a quarter).
    let first = script.until(33_000);
    assert_eq!(first, ["500 NOTIFY check-sync;reboot=false 10.0.0.1:5060 holding 0", "500 Bound>Reloading"]);
    assert_eq!(script.until(34_000), ["33500 NOTIFY check-sync;reboot=true 10.0.0.1:5060 holding 0"]);
    script.core.handle_reload_answered(script.at(34_000), mac(1), 1, 489);
    assert_eq!(script.until(109_000), ["109000 overdue"]);
    let again = "1009000 NOTIFY check-sync;reboot=false 10.0.0.1:5060 holding 0";
    assert_eq!(script.until(1_009_000), [again], "and once more after a while");
    // It hangs on in the background, and says so only once.
    assert!(!script.until(4_000_000).iter().any(|line| line.ends_with("overdue")));
    script.core.handle_registered(script.at(4_000_000), registration(1, 1));
    assert_eq!(script.said(), ["Reloading>InService", "done 2041"]);
}

#[test]
fn an_accepted_notify_gives_the_phone_time_to_restart() {
    let mut script = Script::new(1).with_phone(1);
    script.bind(0, 1, "ann", "2041");
    script.until(1000);
    script.core.handle_reload_answered(script.at(1000), mac(1), 1, 200);
    assert_eq!(script.until(150_999), [""; 0]);
    assert_eq!(script.until(151_000).len(), 1, "then the family's other event");
}

#[test]
fn a_phone_that_polls_by_itself_needs_no_notify() {
    let mut script = Script::new(1).with_phone(1);
    script.core.handle_call_began(script.at(0), mac(1), CALL, CallKind::Ivr);
    script.bind(1000, 1, "ann", "2041");
    script.said();
    script.core.handle_file_fetched(script.at(2000), mac(1), 1, false);
    assert_eq!(script.said(), ["Bound>Reloading", "taken"]);
    script.core.handle_call_ended(script.at(9000), mac(1), CALL);
    assert_eq!(script.until(180_000), [""; 0]);
    assert_eq!(script.until(182_000), ["182000 overdue"], "it has its file and does not register");
}

#[test]
fn a_call_whose_end_is_never_told_does_not_hold_for_ever() {
    let mut script = Script::new(1).with_phone(1);
    script.core.handle_call_began(script.at(0), mac(1), CALL, CallKind::Ivr);
    script.bind(1000, 1, "ann", "2041");
    script.said();
    assert_eq!(script.until(301_000).len(), 2, "sent, and reloading, after the longest hold");
}

#[test]
fn a_call_that_begins_before_the_notify_holds_it_back() {
    let mut script = Script::new(1).with_phone(1);
    script.bind(0, 1, "ann", "2041");
    script.said();
    script.core.handle_call_began(script.at(200), mac(1), CALL, CallKind::Other);
    assert_eq!(script.until(60_000), [""; 0]);
    script.core.handle_call_ended(script.at(60_000), mac(1), CALL);
    assert_eq!(script.until(61_000).len(), 2);
}

#[test]
fn a_phone_that_was_called_is_not_told_to_reload_however_long_the_call_is() {
    let mut script = Script::new(1).with_phone(1);
    let leg = (CALL, 2);
    script.said();
    script.core.handle_leg(script.at(0), mac(1), leg, true);
    script.core.handle_reload_asked(script.at(1000), mac(1)).expect("known");
    assert_eq!(script.until(3_600_000), [""; 0], "an hour");
    script.core.handle_leg(script.at(3_600_000), mac(1), leg, false);
    assert!(script.until(3_602_000)[0].contains("NOTIFY"), "then at once");
}

#[test]
fn a_phone_with_a_wrong_password_is_told_where_it_is_heard() {
    for (story, from, told) in [
        ("it has another port since it started anew", "10.0.0.1:4444", "10.0.0.1:4444"),
        ("anybody can say its name from elsewhere", "10.0.0.99:4444", "10.0.0.1:5060"),
    ] {
        let mut script = Script::new(1).with_phone(1);
        script.core.handle_registered(script.at(0), registration(1, 0));
        script.said();
        script.core.handle_refused(script.at(1000), mac(1), from.parse().expect("an address"));
        script.core.handle_reload_asked(script.at(2000), mac(1)).expect("known");
        let said = script.until(3000);
        assert!(said.iter().any(|said| said.contains(&format!("reboot=false {told} "))), "{story}: {said:?}");
    }
}

#[test]
fn the_second_device_of_an_extension_replaces_the_first() {
    let mut script = Script::new(1).with_phone(1).with_phone(2);
    script.bind(0, 1, "ann", "2041");
    script.core.handle_registered(script.at(10), registration(1, 1));
    script.said();
    script.bind(1000, 2, "ann", "2041");
    let said = script.said();
    let expected = ["unbound 1 2041", "InService>Provisional", "drop 1 keep 2", "bound 2 2041", "Provisional>Bound", "drop 2 keep 1"];
    assert_eq!(said, expected);
    let told = script.until(1500);
    assert!(told.iter().any(|line| line.contains("10.0.0.1:5060 holding 1")), "the first learns that it is new again: {told:?}");
    assert!(told.iter().any(|line| line.contains("10.0.0.2:5060 holding 0")), "{told:?}");
}

#[test]
fn where_two_are_allowed_the_oldest_of_three_goes() {
    let mut script = Script::new(2).with_phone(1).with_phone(2).with_phone(3);
    for n in 1..=3 {
        script.bind(u64::from(n) * 1000, n, "ann", "2041");
    }
    let bound: Vec<_> = (1..=3).map(|n| script.state(n)).collect();
    assert_eq!(bound, [DeviceState::Provisional, DeviceState::Bound, DeviceState::Bound]);
}

#[test]
fn another_owner_for_the_same_phone() {
    let mut script = Script::new(1).with_phone(1);
    script.bind(0, 1, "ann", "2041");
    script.core.handle_registered(script.at(10), registration(1, 1));
    script.said();
    // Bob calls the IVR from Ann's phone.
    script.core.handle_call_began(script.at(100), mac(1), CALL, CallKind::Ivr);
    assert_eq!(script.state(1), DeviceState::InService, "Ann's until Bob has proved himself");
    script.bind(200, 1, "bob", "2042");
    assert_eq!(script.said(), ["unbound 1 2041", "bound 1 2042", "InService>Bound", "drop 1 keep 2"]);
}

#[test]
fn where_a_phone_was_said_to_be_holds_until_it_is_plugged_in_elsewhere() {
    let mut script = Script::new(1).with_phone(1);
    let mut place = |sighting: Sighting| {
        script.core.handle_sighting(script.at(0), sighting);
        let record = script.core.device(mac(1)).expect("it was seen");
        (record.location.clone(), record.port.clone())
    };
    let port = |port: &str| Sighting { port: Some(port.into()), ..Sighting::of(mac(1)) };
    let said = |location: &str| Sighting { location: Some(location.into()), ..Sighting::of(mac(1)) };
    let some = |text: &str| Some(text.to_owned());
    for (sighting, location, at) in [
        (said("porter"), some("porter"), None),
        (port("sw1/7"), some("porter"), some("sw1/7")),
        (Sighting::of(mac(1)), some("porter"), some("sw1/7")),
        (port("sw1/7"), some("porter"), some("sw1/7")),
        (port("sw1/8"), None, some("sw1/8")),
        (said("lobby"), some("lobby"), some("sw1/8")),
    ] {
        assert_eq!(place(sighting.clone()), (location, at), "{sighting:?}");
    }
}

#[test]
fn two_phones_that_claim_one_mac_are_told_apart_from_one_that_moves() {
    let heard = |places: &[(u64, u8)]| {
        let mut script = Script::new(1);
        for (secs, place) in places {
            let seen = Sighting { phone: true, address: Some([10, 0, 0, *place].into()), ..Sighting::of(mac(1)) };
            script.core.handle_sighting(script.at(secs * 1000), seen);
        }
        script.said().into_iter().filter(|said| said.starts_with("duplicate")).collect::<Vec<_>>()
    };
    assert_eq!(heard(&[(0, 5), (10, 6), (20, 7), (30, 8)]), [""; 0], "it moves");
    assert_eq!(heard(&[(0, 5), (10, 6), (20, 5)]), [""; 0], "it comes back once");
    assert_eq!(heard(&[(0, 5), (10, 6), (20, 5), (30, 6)]), ["duplicate 10.0.0.5 10.0.0.6"]);
    assert_eq!(heard(&[(0, 5), (10, 6), (20, 5), (30, 6), (40, 5), (50, 6)]).len(), 1, "said once, not with each packet");
    assert_eq!(heard(&[(0, 5), (1000, 6), (2000, 5), (3000, 6)]), [""; 0], "from one desk to the other, every quarter of an hour");
}

#[test]
fn two_phones_that_are_leased_one_address_are_told_apart_by_how_they_register() {
    let heard = |registrations: &[(u64, &str)]| {
        let mut script = Script::new(1).with_phone(1);
        for (secs, call_id) in registrations {
            script.core.handle_registered(script.at(secs * 1000), Registration { call_id: (*call_id).into(), ..registration(1, 0) });
        }
        script.said().into_iter().filter(|said| said.starts_with("duplicate")).collect::<Vec<_>>()
    };
    assert_eq!(heard(&[(0, "a"), (60, "a"), (120, "b"), (180, "c"), (240, "d")]), [""; 0], "it restarts, and restarts");
    assert_eq!(heard(&[(0, "a"), (1800, "b"), (3600, "a"), (5400, "b")]), ["duplicate 10.0.0.1 10.0.0.1"]);
    assert_eq!(heard(&[(0, "a"), (10, "b"), (20, "a"), (30, "b"), (40, "a"), (50, "b")]).len(), 1, "said once");
}

#[test]
fn an_admin_reloads_a_phone_whose_file_is_the_same() {
    let mut script = Script::new(1).with_phone(1);
    script.bind(0, 1, "ann", "2041");
    script.core.handle_registered(script.at(10), registration(1, 1));
    script.said();
    script.core.handle_reload_asked(script.at(1000), mac(1)).expect("known");
    assert_eq!(script.until(1500), ["1500 NOTIFY check-sync;reboot=false 10.0.0.1:5060 holding 1"]);
    script.core.handle_registered(script.at(2000), registration(1, 1));
    assert!(script.core.poll_timeout().is_some(), "a refreshed registration proves nothing");
    script.core.handle_file_fetched(script.at(3000), mac(1), 1, false);
    assert_eq!((script.said(), script.core.poll_timeout()), (vec!["taken".to_owned()], None));
    assert!(matches!(script.core.handle_reload_asked(script.at(0), mac(9)), Err(Error::Unseen(_))));
}

#[test]
fn an_unplugged_phone_comes_back_without_being_told() {
    let mut script = Script::new(1).with_phone(1);
    script.bind(0, 1, "ann", "2041");
    script.core.handle_registered(script.at(10), registration(1, 1));
    script.said();
    script.core.handle_unregistered(script.at(20), mac(1), 1, 0);
    assert_eq!(script.said(), [""; 0], "the provisional contact's end means nothing");
    script.core.handle_unregistered(script.at(30), mac(1), 1, 1);
    assert_eq!(script.said(), ["InService>Bound"]);
    assert_eq!(script.until(100_000), [""; 0]);
    script.core.handle_registered(script.at(100_000), registration(1, 1));
    assert_eq!(script.said(), ["Bound>InService", "done 2041"]);
}

#[test]
fn a_restart_begins_again_what_was_cut_short() {
    let contact = |generation: u32, expires: i64| ContactRecord {
        user: "any".into(),
        mac: mac(1),
        line: 1,
        generation,
        uri: "sip:any@10.0.0.1:5060".into(),
        flow: "udp 10.0.0.1:5060 via 10.0.0.9:5060".into(),
        call_id: "c".into(),
        cseq: 1,
        user_agent: None,
        instance: None,
        reg_id: 0,
        q: 1000,
        path: vec![],
        expires: Timestamp(expires),
    };
    let told = Some("500 NOTIFY check-sync 10.0.0.1:5060 holding 0".to_owned());
    let (past, ahead) = (0, i64::MAX);
    for (story, state, generation, registered, after, expected) in [
        ("in the IVR", DeviceState::Authenticating, 0, contact(0, ahead), DeviceState::Provisional, None),
        ("bound, not told", DeviceState::Bound, 1, contact(0, ahead), DeviceState::Reloading, told.clone()),
        ("bound, and down for long", DeviceState::Bound, 1, contact(0, past), DeviceState::Reloading, told.clone()),
        ("told, not back", DeviceState::Reloading, 1, contact(0, ahead), DeviceState::Reloading, told.clone()),
        ("back, and the record behind", DeviceState::Reloading, 1, contact(1, ahead), DeviceState::InService, None),
        ("in service", DeviceState::InService, 1, contact(1, ahead), DeviceState::InService, None),
        ("in service, and down for long", DeviceState::InService, 1, contact(1, past), DeviceState::Bound, None),
        ("in service, contact lost", DeviceState::InService, 1, contact(0, ahead), DeviceState::Bound, None),
        ("unbound, not told", DeviceState::Provisional, 1, contact(0, ahead), DeviceState::Provisional, told.clone()),
        ("unbound and back", DeviceState::Provisional, 1, contact(1, ahead), DeviceState::Provisional, None),
        ("new", DeviceState::Provisional, 0, contact(0, ahead), DeviceState::Provisional, None),
    ] {
        let mut script = Script::new(1);
        let record = DeviceRecord {
            mac: mac(1),
            family: None,
            model: None,
            firmware: None,
            state,
            generation,
            first_seen: Timestamp(0),
            last_seen: Timestamp(0),
            address: None,
            location: None,
            port: None,
            inventory: Inventory::default(),
        };
        let owned = matches!(state, DeviceState::Bound | DeviceState::Reloading | DeviceState::InService);
        let binding = BindingRecord {
            mac: mac(1),
            line: 1,
            user_id: "ann".into(),
            display_name: "Ann".into(),
            extension: ext("2041"),
            generation,
            since: Timestamp(0),
        };
        let bindings = owned.then_some(binding).into_iter().collect();
        script.core.restore(script.at(0), vec![record], bindings, vec![registered]);
        script.said();
        let told = script.until(1000).into_iter().find(|line| line.contains("NOTIFY"));
        assert_eq!((script.state(1), told), (after, expected), "{story}");
    }
}

// --- the service, on the real store

/// What a test holds of a running service.
struct Running {
    store: Arc<Sqlite>,
    onboarding: Onboarding,
    orders: mpsc::Receiver<Output>,
    told: Arc<Mutex<Vec<Event>>>,
}

async fn start(path: &Path) -> Running {
    let store = Sqlite::open(path).expect("opens");
    let told = Arc::new(Mutex::new(Vec::new()));
    let events = Events::new({
        let told = told.clone();
        move |event| told.lock().expect("not poisoned").push(event)
    });
    let identities = Identities::new(MasterKey::new([7; 32]));
    let (onboarding, orders) = Onboarding::start(store.clone(), identities, events, config(1), methods()).await.expect("starts");
    Running { store, onboarding, orders, told }
}

impl Running {
    async fn stop(self) {
        self.onboarding.stop().await;
        self.store.close().await;
    }

    async fn order(&mut self) -> Output {
        tokio::time::timeout(Duration::from_secs(20), self.orders.recv()).await.expect("in time").expect("running")
    }

    fn secret(&self, n: u8) -> Secret {
        self.onboarding.identities().identity(mac(n), 1).secret
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime")
}

#[test]
fn when_bind_returns_it_is_stored_and_the_old_secret_is_dead() {
    let folder = tempfile::tempdir().expect("folder");
    runtime().block_on(async {
        let mut running = start(&folder.path().join("a.db")).await;
        let onboarding = running.onboarding.clone();
        onboarding.registered(registration(1, 0));
        onboarding.call_began(mac(1), CALL, CallKind::Ivr);
        let before = running.secret(1);
        let binding = onboarding.bind(mac(1), 1, user("ann", None), "ivr").await.expect("bound");
        assert_eq!((binding.extension.as_str(), binding.generation), ("2000", 1), "the lowest free one");
        assert_eq!(running.store.bindings().await.expect("read"), [binding]);
        assert_ne!(running.secret(1), before);
        assert_eq!(onboarding.identities().devices_of("2000"), [(mac(1), 1)]);
        assert_eq!(running.order().await, Output::DropContacts { mac: mac(1), keep_generation: 1, keep_lines: vec![] });
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(running.orders.try_recv().is_err(), "the call goes on");
        onboarding.call_ended(mac(1), CALL);
        let Output::Reload(reload) = running.order().await else { panic!("a reload") };
        assert_eq!((reload.generation, reload.credentials.secret.clone()), (1, before), "the phone still holds the old secret");
        let order = reload.order().expect("it has a contact");
        assert_eq!((order.uri.as_str(), order.flow.peer.to_string().as_str()), ("sip:any@10.0.0.1:5060", "10.0.0.1:5060"));
        onboarding.registered(registration(1, 1));
        assert_eq!(onboarding.device(mac(1)).await.expect("asked").map(|device| device.state), Some(DeviceState::InService));
        let old = onboarding.unbind(mac(1), 1, "left the company").await.expect("unbound");
        assert_eq!((old.extension.as_str(), onboarding.identities().devices_of("2000").len()), ("2000", 0));
        assert!(matches!(onboarding.unbind(mac(1), 1, "again").await, Err(Error::NotBound { .. })));
        assert!(matches!(onboarding.bind(mac(1), 0, user("ann", None), "admin").await, Err(Error::NoSuchLine)));
        onboarding.stop().await;
        let stored = running.store.device(mac(1)).await.expect("read").expect("stored at the latest when stopped");
        assert_eq!((stored.state, stored.generation), (DeviceState::Provisional, 2));
        running.store.close().await;
    });
}

#[test]
fn killed_between_bind_and_reload_the_phone_is_told_after_the_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a.db");
    let first = runtime();
    first.block_on(async {
        let running = start(&path).await;
        running.onboarding.registered(registration(1, 0));
        running.onboarding.call_began(mac(1), CALL, CallKind::Ivr);
        running.onboarding.bind(mac(1), 1, user("ann", Some("2041")), "ivr").await.expect("bound");
        let now = Timestamp(i64::MAX);
        let contact = ContactRecord {
            user: "new001565000001".into(),
            mac: mac(1),
            line: 1,
            generation: 0,
            uri: "sip:any@10.0.0.1:5060".into(),
            flow: "udp 10.0.0.1:5060 via 10.0.0.9:5060".into(),
            call_id: "c".into(),
            cseq: 1,
            user_agent: None,
            instance: None,
            reg_id: 0,
            q: 1000,
            path: vec![],
            expires: now,
        };
        running.store.write_contacts(vec![], vec![contact]).await.expect("saved");
    });
    // Nothing is stopped in order.
    first.shutdown_background();
    runtime().block_on(async {
        let mut running = start(&path).await;
        assert_eq!(running.onboarding.identities().devices_of("2041"), [(mac(1), 1)]);
        assert_eq!(running.order().await, Output::DropContacts { mac: mac(1), keep_generation: 1, keep_lines: vec![] });
        let Output::Reload(reload) = running.order().await else { panic!("a reload") };
        assert_eq!((reload.generation, reload.contact.map(|contact| contact.uri)), (1, Some("sip:any@10.0.0.1:5060".into())));
        running.onboarding.registered(registration(1, 1));
        let state = running.onboarding.device(mac(1)).await.expect("asked").map(|device| device.state);
        assert_eq!(state, Some(DeviceState::InService));
        running.stop().await;
    });
}

#[test]
fn an_extension_of_somebody_else_is_refused_and_nothing_changes() {
    let folder = tempfile::tempdir().expect("folder");
    runtime().block_on(async {
        let running = start(&folder.path().join("a.db")).await;
        let onboarding = &running.onboarding;
        onboarding.bind(mac(1), 1, user("ann", Some("2041")), "ivr").await.expect("bound");
        let secret = running.secret(2);
        let refused = onboarding.bind(mac(2), 1, user("eve", Some("2041")), "ivr").await.expect_err("Ann's");
        assert!(refused.to_string().contains("extension 2041 already belongs to ann"), "{refused}");
        assert_eq!(running.secret(2), secret);
        assert_eq!(onboarding.identities().devices_of("2041"), [(mac(1), 1)]);
        // Ann herself moves to another desk.
        onboarding.bind(mac(2), 1, user("ann", Some("2041")), "ivr").await.expect("moved");
        assert_eq!(onboarding.identities().devices_of("2041"), [(mac(2), 1)]);
        let told = running.told.lock().expect("not poisoned").clone();
        assert!(told.iter().any(|event| matches!(event, Event::Unbound { mac: old, .. } if *old == mac(1))), "{told:?}");
        running.stop().await;
    });
}

#[test]
fn a_lock_out_survives_a_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a.db");
    runtime().block_on(async {
        let running = start(&path).await;
        let source: Option<IpAddr> = Some([10, 0, 0, 1].into());
        let limit = config(1).limits.per_device;
        // As many calls at once as may fail, which all fail.
        let who = running.onboarding.who(Some(mac(1)), None, source);
        for _ in 0..limit {
            assert_eq!(running.onboarding.admit(&who).await.expect("asked"), Verdict::Go);
        }
        (0..limit).for_each(|_| running.onboarding.settle(&who, Outcome::Refused));
        assert!(matches!(running.onboarding.admit(&who).await, Ok(Verdict::LockedOut { .. })));
        let told = running.told.lock().expect("not poisoned").clone();
        assert!(matches!(told[..], [Event::LockedOut { .. }]), "{told:?}");
        running.stop().await;
        let running = start(&path).await;
        assert!(matches!(running.onboarding.admit(&who).await, Ok(Verdict::LockedOut { .. })));
        running.onboarding.pardon(&who);
        assert_eq!(running.onboarding.admit(&who).await.expect("asked"), Verdict::Go);
        let keyed = running.onboarding.who(None, Some("4711"), None);
        assert!(!format!("{keyed:?}").contains("4711"), "what was keyed may be a PIN");
        running.stop().await;
    });
}

#[derive(Clone, Debug)]
enum Deed {
    Bind { device: u8, line: u8, user: u8 },
    Unbind { device: u8, line: u8 },
    Register { device: u8, generation: u32 },
    Fetch { device: u8, generation: u32 },
    Call { device: u8, began: bool },
    Restart,
}

fn deeds() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (0u8..3, 1u8..3, 0u8..3).prop_map(|(device, line, user)| Deed::Bind { device, line, user }),
        2 => (0u8..3, 1u8..3).prop_map(|(device, line)| Deed::Unbind { device, line }),
        3 => (0u8..3, 0u32..6).prop_map(|(device, generation)| Deed::Register { device, generation }),
        1 => (0u8..3, 0u32..6).prop_map(|(device, generation)| Deed::Fetch { device, generation }),
        1 => (0u8..3, any::<bool>()).prop_map(|(device, began)| Deed::Call { device, began }),
        1 => Just(Deed::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// The invariants of a device's life, whatever happens in whatever order, restarts included, on the real store.
    #[test]
    fn whatever_happens(story in prop::collection::vec(deeds(), 1..25)) {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.db");
        runtime().block_on(async {
            let mut running = start(&path).await;
            let mut secrets: HashMap<u8, Vec<(u32, Secret)>> = HashMap::new();
            for deed in story {
                if matches!(deed, Deed::Restart) {
                    running.stop().await;
                    running = start(&path).await;
                } else {
                    perform(&running.onboarding, deed).await;
                }
                check(&running, &mut secrets).await;
            }
            running.stop().await;
        });
    }
}

async fn perform(onboarding: &Onboarding, deed: Deed) {
    match deed {
        // Refusals are right: user 2 wants the extension of user 0.
        Deed::Bind { device, line, user: n } => {
            let extension = ["2041", "2042", "2041"].get(usize::from(n)).copied();
            drop(onboarding.bind(mac(device), line, user(&format!("user{n}"), extension), "test").await);
        }
        Deed::Unbind { device, line } => drop(onboarding.unbind(mac(device), line, "test").await),
        Deed::Register { device, generation } => onboarding.registered(registration(device, generation)),
        Deed::Fetch { device, generation } => onboarding.file_fetched(mac(device), generation, false),
        Deed::Call { device, began: true } => onboarding.call_began(mac(device), CALL, CallKind::Ivr),
        Deed::Call { device, began: false } => onboarding.call_ended(mac(device), CALL),
        Deed::Restart => {}
    }
}

async fn check(running: &Running, secrets: &mut HashMap<u8, Vec<(u32, Secret)>>) {
    let devices = running.onboarding.devices().await.expect("asked");
    let bindings = running.store.bindings().await.expect("read");
    let extensions: HashSet<_> = bindings.iter().map(|binding| &binding.extension).collect();
    assert_eq!(extensions.len(), bindings.len(), "an extension is on one device");
    let owner = |extension: &str| {
        bindings.iter().find(|binding| binding.extension.as_str() == extension).map(|binding| (binding.mac, binding.line))
    };
    for extension in ["2041", "2042"] {
        let rings = running.onboarding.identities().devices_of(extension);
        assert_eq!(rings, owner(extension).into_iter().collect::<Vec<_>>(), "what rings is what is stored");
    }
    for device in &devices {
        let owned = bindings.iter().any(|binding| binding.mac == device.mac);
        let says_owned = matches!(device.state, DeviceState::Bound | DeviceState::Reloading | DeviceState::InService);
        assert_eq!(owned, says_owned, "{device:?}");
        assert!(bindings.iter().all(|binding| binding.mac != device.mac || binding.generation <= device.generation));
    }
    for n in 0..3 {
        let identity = running.onboarding.identities().identity(mac(n), 1);
        let known = secrets.entry(n).or_default();
        assert!(known.iter().all(|(generation, _)| *generation <= identity.generation), "a generation never goes back");
        for (generation, old) in known.iter() {
            assert_eq!(*generation == identity.generation, *old == identity.secret, "an earlier secret is dead");
        }
        known.push((identity.generation, identity.secret));
    }
}
