//! Calls over real sockets, against SIPp with scenarios of our own (`tests/sipp/`): phones that register, call, cancel,
//! hold and hang up. The engine is whole; only the identities come from a table.

mod transports;

use std::{
    collections::HashMap,
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use plugtone::{
    call::{self, CallState, Neighbours, Office, Originate, OriginateError, ServiceCall},
    media::{self, Clip, Country, Media, MediaEvent, SessionConfig},
    model::{Event, Events, MacAddr, Secret},
    routing,
    sip::{self, Account, Accounts, registrar},
    store::{Store, sqlite::Sqlite},
};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};

/// Everybody's password is their MAC backwards.
pub struct People(HashMap<String, Account>);

pub fn mac(last: u8) -> MacAddr {
    MacAddr([0, 0x15, 0x65, 0, 0, last])
}

pub fn password(mac: MacAddr) -> String {
    mac.bare().chars().rev().collect()
}

const PEOPLE: [(u8, &str, &str); 5] =
    [(1, "2041", "Ada"), (2, "2042", "Bo"), (3, "2042", "Bo"), (4, "new001565000004", ""), (5, "2043", "Cy")];

/// The number that the phone with this MAC registers.
pub fn user_of(last: u8) -> &'static str {
    PEOPLE.iter().find(|(phone, ..)| *phone == last).map(|(_, user, _)| *user).expect("a phone")
}

impl People {
    fn new() -> Self {
        Self(
            PEOPLE
                .into_iter()
                .map(|(last, user, name)| {
                    let account = Account {
                        user: user.into(),
                        mac: mac(last),
                        line: 1,
                        generation: 1,
                        provisional: user.starts_with("new"),
                        display_name: name.into(),
                        secret: Secret::new(password(mac(last))),
                    };
                    (format!("{}-1", mac(last).bare()), account)
                })
                .collect(),
        )
    }
}

impl Accounts for People {
    fn account(&self, auth_user: &str) -> Option<Account> {
        self.0.get(auth_user).cloned()
    }
}

impl Office for People {
    fn is_extension(&self, number: &str) -> bool {
        ["2041", "2042", "2043", "2044"].contains(&number)
    }
    fn has_mailbox(&self, number: &str) -> bool {
        ["2041", "2042"].contains(&number)
    }
    fn display_name(&self, number: &str) -> String {
        self.0.values().find(|account| account.user == number).map(|a| a.display_name.clone()).unwrap_or_default()
    }
    fn groups(&self, number: &str) -> Vec<String> {
        if number == "2042" { vec!["cn=sales,ou=groups,dc=example,dc=com".to_owned()] } else { Vec::new() }
    }
    fn location(&self, mac: MacAddr) -> Option<String> {
        Some(format!("floor{}-port7", mac.0[5]))
    }
    fn registered(&self, _: &registrar::Contact, _: bool) {}
    fn unregistered(&self, _: &registrar::Contact) {}
}

pub struct Bed {
    pub running: call::Running,
    pub service: mpsc::Receiver<ServiceCall>,
    pub voicemail: mpsc::Receiver<ServiceCall>,
    pub events: Arc<Mutex<Vec<Event>>>,
    pub store: Arc<Sqlite>,
    pub media: Media,
    pub folder: TempDir,
    config: call::Config,
}

impl Bed {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut call::Settings)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self::within(folder, change).await
    }

    pub async fn within(folder: TempDir, change: impl FnOnce(&mut call::Settings)) -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), folder, change).await
    }

    pub async fn at(udp: SocketAddr, folder: TempDir, change: impl FnOnce(&mut call::Settings)) -> Self {
        let anywhere = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        let sip = sip::settings::Settings { udp: vec![udp], tcp: anywhere, ..Default::default() };
        Self::listening(sip.check().unwrap(), folder, change).await
    }

    pub async fn listening(sip: sip::settings::Config, folder: TempDir, change: impl FnOnce(&mut call::Settings)) -> Self {
        let mut calls = call::Settings::default();
        calls.emergency.insert("112".into(), vec!["2041".parse().unwrap()]);
        change(&mut calls);
        let store = Sqlite::open(folder.path().join("store.db")).expect("a store");
        let media = Media::start(media::Config::default()).expect("media");
        let events = Arc::new(Mutex::new(Vec::new()));
        let told = events.clone();
        let (service, inbox) = mpsc::channel(4);
        let (voicemail, left) = mpsc::channel(4);
        let people = Arc::new(People::new());
        let neighbours = Neighbours {
            media: media.clone(),
            accounts: people.clone(),
            office: people,
            store: store.clone(),
            events: Events::new(move |event| told.lock().unwrap().push(event)),
            tones: Country::Eu,
            service,
            voicemail,
        };
        let plan = routing::loader::load(calls.routes.as_deref(), calls.base()).unwrap_or_else(|faults| panic!("{faults:?}"));
        let calls = call::Config { plan: Arc::new(plan), ..calls.check().unwrap() };
        let running = call::worker::start(sip, calls.clone(), neighbours).await.expect("the engine");
        Self { running, service: inbox, voicemail: left, events, store, media, folder, config: calls }
    }

    /// Other rules for new calls.
    pub async fn reload_with(&self, change: impl FnOnce(&mut call::Config)) {
        let mut config = self.config.clone();
        change(&mut config);
        self.running.handle.reload(config).await;
    }

    /// Starts SIPp as the phone with this MAC. `edits` are replaced in the scenario.
    pub fn phone(&self, last: u8, port: u16, scenario: &str, dials: &str, edits: &[(&str, &str)]) -> Sipp {
        self.sipp(last, &password(mac(last)), port, scenario, dials, edits, "u1")
    }

    #[allow(clippy::too_many_arguments)]
    pub fn sipp(&self, last: u8, password: &str, port: u16, scenario: &str, dials: &str, edits: &[(&str, &str)], transport: &str) -> Sipp {
        let server = if transport == "t1" { self.running.tcp[0] } else { self.running.udp[0] };
        self.sipp_at(server, last, password, port, scenario, dials, edits, transport)
    }

    /// A phone that is behind a proxy: it knows that one only.
    pub fn phone_behind(&self, proxy: SocketAddr, last: u8, port: u16, scenario: &str, dials: &str, edits: &[(&str, &str)]) -> Sipp {
        self.sipp_at(proxy, last, &password(mac(last)), port, scenario, dials, edits, "u1")
    }

    #[allow(clippy::too_many_arguments)]
    fn sipp_at(
        &self,
        server: SocketAddr,
        last: u8,
        password: &str,
        port: u16,
        scenario: &str,
        dials: &str,
        edits: &[(&str, &str)],
        transport: &str,
    ) -> Sipp {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sipp").join(scenario);
        let mut text = fs::read_to_string(&source).expect("the scenario");
        for (from, to) in edits {
            text = text.replace(from, to);
        }
        let folder = tempfile::tempdir_in(self.folder.path()).expect("a folder");
        let file = folder.path().join("scenario.xml");
        fs::write(&file, text).expect("written");
        let host = if server.is_ipv6() { format!("[{}]", server.ip()) } else { server.ip().to_string() };
        let user = People::new().0[&format!("{}-1", mac(last).bare())].user.clone();
        // SIPp would sign for the server's URI and not for the one that it calls.
        let signs_for = if dials == "x" { server.to_string() } else { format!("{dials}@{server}") };
        let child = Command::new("sipp")
            .arg(server.to_string())
            .args(["-sf", file.to_str().unwrap(), "-i", &host, "-p", &port.to_string(), "-t", transport])
            .args(["-mp", &free_port().to_string(), "-m", "1", "-nostdin", "-timeout", "20", "-timeout_error", "-trace_err", "-trace_msg"])
            .args(["-au", &format!("{}-1", mac(last).bare()), "-ap", password, "-key", "user", &user, "-s", dials])
            // It would check others' credentials for this URI too, and those are right for their own.
            .args(if scenario.starts_with("provider") { vec![] } else { vec!["-auth_uri", &signs_for] })
            .args(["-cid_str", "%u-%p-%s"])
            .current_dir(folder.path())
            .env("TERM", "dumb")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("cannot run sipp: install the Debian package sip-tester");
        // A phone that is to be called must listen before somebody calls it.
        let until = Instant::now() + Duration::from_secs(10);
        while (scenario.starts_with("uas") || scenario.starts_with("provider")) && !is_bound(port) {
            assert!(Instant::now() < until, "sipp does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Sipp { child, folder, what: format!("{scenario} as {user}") }
    }

    /// Registers a phone and returns the port that it listens on.
    pub async fn registers(&self, last: u8) -> u16 {
        let port = free_port();
        self.phone(last, port, "register.xml", "x", &[("EXPECTED", "200")]).succeeds().await;
        port
    }

    pub fn happened(&self, what: impl Fn(&Event) -> bool) -> bool {
        self.events.lock().unwrap().iter().any(what)
    }

    /// Waits until something is told.
    pub async fn tells(&self, what: impl Fn(&Event) -> bool) {
        let until = Instant::now() + Duration::from_secs(10);
        while !self.happened(&what) {
            assert!(Instant::now() < until, "not told; but: {:#?}", self.events.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until somebody watches this, and until that is on disk.
    pub async fn watched(&self, resource: &str) {
        let until = Instant::now() + Duration::from_secs(10);
        while !self.store.subscriptions().await.expect("listed").iter().any(|kept| kept.resource == resource) {
            assert!(Instant::now() < until, "nobody watches {resource}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn ended(&self, cause: &str) {
        self.tells(|event| matches!(event, Event::CallEnded { cause: told, .. } if told == cause)).await;
        assert!(self.running.handle.list().await.is_empty());
    }
}

pub struct Sipp {
    child: Child,
    folder: TempDir,
    what: String,
}

impl Sipp {
    /// All messages that it sent and got so far.
    pub fn log(&self) -> String {
        let files = fs::read_dir(self.folder.path()).expect("a folder").flatten().map(|entry| entry.path());
        let logs = files.filter(|path| path.to_string_lossy().ends_with("_messages.log"));
        logs.map(|path| fs::read_to_string(path).unwrap_or_default()).collect()
    }

    /// Without a word.
    pub fn dies(mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("a child");
    }

    pub async fn succeeds(self) {
        self.finishes(|_| ()).await;
    }

    /// Waits for its success, then looks at what it wrote.
    pub async fn finishes<T>(mut self, look: impl FnOnce(&Self) -> T) -> T {
        let until = Instant::now() + Duration::from_secs(25);
        let status = loop {
            match self.child.try_wait().expect("a child") {
                Some(status) => break status,
                None if Instant::now() > until => break self.child.kill().and_then(|()| self.child.wait()).expect("a child"),
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        if !status.success() {
            let mut logs = String::new();
            for entry in fs::read_dir(self.folder.path()).expect("a folder").flatten() {
                if entry.path().extension().is_some_and(|e| e == "log") {
                    logs += &fs::read_to_string(entry.path()).unwrap_or_default();
                }
            }
            panic!("{} failed with {status}:\n{logs}", self.what);
        }
        look(&self)
    }
}

/// A UDP port of loopback that is free and that the system gives to nobody by itself: those begin at 32768.
pub fn free_port() -> u16 {
    // SIPp takes more ports for sound above the one that it is given. Round and round: two that run at once must not get the last one both.
    const FIRST: u16 = 20_000;
    const APART: u16 = 4;
    const PLACES: u16 = (32_700 - FIRST) / APART;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 1000) as u16 * 3;
    loop {
        let port = FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PLACES * APART;
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Whether somebody has bound the port; asked without touching it.
pub fn is_bound(port: u16) -> bool {
    is_in(port, &["udp", "udp6", "tcp", "tcp6"])
}

/// The same of UDP alone.
pub fn is_bound_by_udp(port: u16) -> bool {
    is_in(port, &["udp", "udp6"])
}

fn is_in(port: u16, tables: &[&str]) -> bool {
    let port = format!(":{port:04X}");
    tables.iter().any(|name| {
        let table = fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default();
        table.lines().any(|line| {
            let mut columns = line.split_whitespace().skip(1);
            // Of TCP who listens: connections of other tests have any number, and keep it for a minute after their end.
            let (local, state) = (columns.next(), columns.nth(1));
            local.is_some_and(|local| local.ends_with(&port)) && (name.starts_with("udp") || state == Some("0A"))
        })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_registers_and_is_still_known_after_a_restart() {
    let bed = Bed::start().await;
    bed.registers(1).await;
    bed.tells(|event| matches!(event, Event::Registered { user, .. } if user == "2041")).await;
    bed.running.handle.stop().await;
    bed.running.task.await.unwrap();
    bed.store.close().await;
    let again = Bed::within(bed.folder, |_| {}).await;
    let contacts = again.running.handle.contacts().await;
    assert_eq!(contacts.iter().map(|c| (c.user.as_str(), c.generation)).collect::<Vec<_>>(), [("2041", 1)]);
    // A new binding makes the old contact worthless.
    again.running.handle.drop_contacts(mac(1), 2, vec![]).await;
    assert!(again.running.handle.contacts().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_neither_registers_nor_calls() {
    let bed = Bed::start().await;
    bed.sipp(1, "guess", free_port(), "register.xml", "x", &[("EXPECTED", "401")], "u1").succeeds().await;
    bed.tells(|event| matches!(event, Event::RegisterRefused { .. })).await;
    bed.sipp(1, "guess", free_port(), "uac_no_login.xml", "2042", &[], "u1").succeeds().await;
    bed.tells(|event| matches!(event, Event::CallRefused { mac: None, .. })).await;
    assert!(bed.running.handle.contacts().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_is_banned_and_a_good_phone_behind_the_same_address_is_not() {
    let bed = Bed::start().await;
    bed.registers(2).await;
    for _ in 0..10 {
        bed.sipp(1, "guess", free_port(), "register.xml", "x", &[("EXPECTED", "401")], "u1").succeeds().await;
    }
    bed.tells(|event| matches!(event, Event::Banned { user: Some(_), .. })).await;
    let bans = bed.running.handle.bans().await;
    assert_eq!(bans.iter().map(|ban| ban.source.to_string()).collect::<Vec<_>>(), ["127.0.0.1"], "one name, not the address");
    bed.registers(2).await;
    assert!(bed.running.handle.pardon(bans[0].source).await);
    bed.registers(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_phones_talk_and_either_hangs_up() {
    let bed = Bed::start().await;
    let port = bed.registers(2).await;
    let callee = bed.phone(2, port, "uas_answer.xml", "x", &[("CALLER", "Ada. .sip:2041@")]);
    let caller = bed.phone(1, free_port(), "uac_call.xml", "2042", &[("PAUSE", "500")]);
    bed.tells(|event| matches!(event, Event::CallAnswered { to, .. } if to == "2042")).await;
    let calls = bed.running.handle.list().await;
    assert_eq!(calls.iter().map(|c| (c.from.as_str(), c.to.as_str(), c.state)).collect::<Vec<_>>(), [("2041", "2042", CallState::Talking)]);
    caller.succeeds().await;
    callee.succeeds().await;
    bed.ended("caller hung up").await;

    let callee = bed.phone(2, port, "uas_bye.xml", "x", &[("CALLER", "2041")]);
    bed.phone(1, free_port(), "uac_called_off.xml", "20-42", &[]).succeeds().await;
    callee.succeeds().await;
    bed.ended("callee hung up").await;
}

/// The port that the engine named to this SIPp for its sound.
pub async fn named_port(sipp: &Sipp, own: u16) -> u16 {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        assert!(Instant::now() < until, "no session description came to {}", sipp.what);
        for entry in fs::read_dir(sipp.folder.path()).expect("a folder").flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let ports = text.split("m=audio ").skip(1).filter_map(|rest| rest.split(' ').next()?.parse::<u16>().ok());
            if let Some(port) = ports.filter(|port| *port != own).last() {
                return port;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_and_keys_go_both_ways() {
    let bed = Bed::start().await;
    // SIPp speaks SIP for both phones; their ears and mouths are media sessions of the test.
    let phones = Media::start(media::Config::default()).expect("media");
    let (told, mut hears) = mpsc::channel(64);
    let open = || phones.open(SessionConfig::new(Ipv4Addr::LOCALHOST.into(), told.clone())).expect("a session");
    let (near, far) = (open(), open());
    let (near_port, far_port) = (near.local.port(), far.local.port());
    let port = bed.registers(2).await;
    let edit = |port: u16| port.to_string();
    let callee = bed.phone(2, port, "uas_answer.xml", "x", &[("CALLER", "2041"), ("[media_port]", &edit(far_port))]);
    let caller = bed.phone(1, free_port(), "uac_call.xml", "2042", &[("PAUSE", "4000"), ("[media_port]", &edit(near_port))]);
    bed.tells(|event| matches!(event, Event::CallAnswered { .. })).await;
    let wave: Vec<i16> = (0..8000).map(|i| (8000.0 * (i as f32 * 0.35).sin()) as i16).collect();
    let clip = Arc::new(Clip::new("tone", 8000, &wave));
    for (session, sipp, own) in [(near, &caller, near_port), (far, &callee, far_port)] {
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, named_port(sipp, own).await));
        phones.command(session.id, media::Command::SetRemote(media::Remote::new(server, media::Codec::Pcma)));
        let play = media::Command::Play { playback: media::PlaybackId(1), clips: vec![clip.clone()], repeat: true };
        phones.command(session.id, play);
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for session in [near, far] {
        let stats = phones.stats(session.id).await.expect("figures");
        // The tone has -15 dB below the loudest square wave; a lost or silent path has none.
        assert!(stats.rms_dbfs.is_some_and(|rms| (-20.0..-10.0).contains(&rms)) && stats.packets_received > 40, "{stats:?}");
    }
    phones.command(near.id, media::Command::SendKeys("5".into()));
    let key = async {
        loop {
            match hears.recv().await.expect("an event") {
                (session, MediaEvent::Key { key }) if session == far.id => break key,
                _ => {}
            }
        }
    };
    assert_eq!(Some(timeout(Duration::from_secs(3), key).await.expect("in time")), media::Key::from_char('5'));
    caller.succeeds().await;
    callee.succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_comes_over_tcp() {
    let bed = Bed::start().await;
    let port = bed.registers(2).await;
    let callee = bed.phone(2, port, "uas_answer.xml", "x", &[("CALLER", "2041")]);
    bed.sipp(1, &password(mac(1)), free_port(), "uac_call.xml", "2042", &[("PAUSE", "200")], "t1").succeeds().await;
    callee.succeeds().await;
    bed.ended("caller hung up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_gives_up() {
    let bed = Bed::start().await;
    let port = bed.registers(2).await;
    let callee = bed.phone(2, port, "uas_cancelled.xml", "x", &[("CALLER", "2041")]);
    bed.phone(1, free_port(), "uac_cancel.xml", "2042", &[]).succeeds().await;
    callee.succeeds().await;
    bed.ended("cancelled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_phones_of_an_extension_ring_and_one_takes_the_call() {
    let bed = Bed::start().await;
    let (one, other) = (bed.registers(2).await, bed.registers(3).await);
    let rings = bed.phone(2, one, "uas_cancelled.xml", "x", &[("CALLER", "2041")]);
    let takes = bed.phone(3, other, "uas_answer.xml", "x", &[("CALLER", "2041")]);
    bed.phone(1, free_port(), "uac_call.xml", "2042", &[("PAUSE", "300")]).succeeds().await;
    takes.succeeds().await;
    rings.succeeds().await;
    bed.ended("caller hung up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_nobody_takes_say_why() {
    let bed = Bed::with(|calls| calls.ring_timeout_secs = 5).await;
    for (dials, status) in [("2999", "404"), ("2043", "480"), ("2042", "480")] {
        bed.phone(1, free_port(), "uac_refused.xml", dials, &[("EXPECTED", status)]).succeeds().await;
    }
    bed.tells(|event| matches!(event, Event::CallRefused { to, reason, .. } if to == "2999" && reason == "no such number")).await;
    let port = bed.registers(2).await;
    for (says, status, cause) in
        [("486 Busy Here", "486", "busy"), ("603 Decline", "603", "declined"), ("404 Not Found", "480", "not reachable")]
    {
        let callee = bed.phone(2, port, "uas_refuse.xml", "x", &[("STATUS", says), ("CALLER", "2041")]);
        bed.phone(1, free_port(), "uac_refused.xml", "2042", &[("EXPECTED", status)]).succeeds().await;
        callee.succeeds().await;
        bed.ended(cause).await;
    }
    // Nobody lifts: the caller is told after the ring time, the phone stops ringing.
    let callee = bed.phone(2, port, "uas_cancelled.xml", "x", &[("CALLER", "2041")]);
    bed.phone(1, free_port(), "uac_refused.xml", "2042", &[("EXPECTED", "480")]).succeeds().await;
    callee.succeeds().await;
    bed.ended("no answer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hold_is_answered_and_told_to_the_other_phone() {
    let bed = Bed::start().await;
    let port = bed.registers(2).await;
    let callee = bed.phone(2, port, "uas_held.xml", "x", &[("CALLER", "2041")]);
    bed.phone(1, free_port(), "uac_hold.xml", "2042", &[]).succeeds().await;
    callee.succeeds().await;
    bed.ended("caller hung up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_without_owner_reaches_the_menu_whatever_it_dials() {
    let mut bed = Bed::start().await;
    for dials in ["2042", "anything", "0"] {
        let caller = bed.phone(4, free_port(), "uac_call.xml", dials, &[("PAUSE", "400")]);
        let call = timeout(Duration::from_secs(10), bed.service.recv()).await.expect("in time").expect("a call");
        assert_eq!((call.caller.mac, call.caller.provisional), (mac(4), true));
        assert_eq!(bed.running.handle.list().await.first().map(|c| c.state), Some(CallState::Menu));
        caller.succeeds().await;
        assert_eq!(timeout(Duration::from_secs(5), call.ended).await.expect("in time"), Ok(call::Cause::CallerHungUp));
        bed.ended("caller hung up").await;
    }
    // And emergency numbers.
    let port = bed.registers(1).await;
    let callee = bed.phone(1, port, "uas_answer.xml", "x", &[("CALLER", "new001565000004")]);
    bed.phone(4, free_port(), "uac_call.xml", "112", &[("PAUSE", "200")]).succeeds().await;
    callee.succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_menu_hangs_up_and_transfers() {
    let mut bed = Bed::start().await;
    let caller = bed.phone(1, free_port(), "uac_called_off.xml", "0", &[]);
    let call = timeout(Duration::from_secs(10), bed.service.recv()).await.expect("in time").expect("a call");
    // Nobody is registered there: the menu has the call again, and ends it.
    assert_eq!(call.control.transfer("2042".parse().unwrap()).await, Ok(false));
    call.control.hang_up();
    caller.succeeds().await;
    bed.ended("menu done").await;

    let port = bed.registers(2).await;
    let callee = bed.phone(2, port, "uas_answer.xml", "x", &[("CALLER", "2041")]);
    let caller = bed.phone(1, free_port(), "uac_call.xml", "0", &[("PAUSE", "1500")]);
    let call = timeout(Duration::from_secs(10), bed.service.recv()).await.expect("in time").expect("a call");
    assert_eq!(call.control.transfer("2042".parse().unwrap()).await, Ok(true));
    drop(call);
    caller.succeeds().await;
    callee.succeeds().await;
    bed.ended("caller hung up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_calls_for_somebody() {
    let bed = Bed::start().await;
    let wanted = |from: &str, to: &str| Originate {
        from: from.parse().unwrap(),
        to: to.into(),
        caller_id: None,
        timeout: Some(Duration::from_secs(10)),
        labels: vec![("ticket".into(), "7".into())],
    };
    let handle = bed.running.handle.clone();
    assert_eq!(handle.originate(wanted("2041", "2042")).await, Err(OriginateError::NotRegistered("2041".parse().unwrap())));
    let (near, far) = (bed.registers(1).await, bed.registers(2).await);
    assert_eq!(handle.originate(wanted("2041", "2999")).await, Err(OriginateError::NoSuchNumber("2999".into())));
    let caller = bed.phone(1, near, "uas_answer.xml", "x", &[("CALLER", "Bo. .sip:2042@")]);
    let callee = bed.phone(2, far, "uas_answer.xml", "x", &[("CALLER", "Ada. .sip:2041@")]);
    let call = handle.originate(wanted("2041", "2042")).await.expect("a call");
    bed.tells(|event| matches!(event, Event::CallAnswered { .. })).await;
    let listed = handle.list().await;
    assert_eq!(listed.first().map(|c| (c.call, c.state, c.labels.len())), Some((call, CallState::Talking, 1)));
    assert!(handle.hangup(call).await && !handle.hangup(call).await);
    caller.succeeds().await;
    callee.succeeds().await;
    bed.ended("ended on request").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_is_refused_and_what_is_up_goes_on() {
    let mut bed = Bed::with(|calls| calls.max_calls_unbound = 1).await;
    let caller = bed.phone(4, free_port(), "uac_call.xml", "0", &[("PAUSE", "2500")]);
    let call = timeout(Duration::from_secs(10), bed.service.recv()).await.expect("in time").expect("a call");
    bed.phone(4, free_port(), "uac_refused.xml", "0", &[("EXPECTED", "503")]).succeeds().await;
    caller.succeeds().await;
    drop(call);
    bed.ended("caller hung up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_stops_with_calls_up() {
    let mut bed = Bed::start().await;
    let caller = bed.phone(1, free_port(), "uac_called_off.xml", "0", &[]);
    let call = timeout(Duration::from_secs(10), bed.service.recv()).await.expect("in time").expect("a call");
    assert_eq!(call.caller.user, "2041");
    bed.running.handle.stop().await;
    caller.succeeds().await;
    bed.running.task.await.expect("the engine ends");
    assert!(bed.store.contacts().await.expect("contacts").is_empty());
    bed.media.shutdown();
}

/// What the watcher was told of the other, in order, without repetitions.
fn states_told(sipp: &Sipp) -> Vec<String> {
    let mut states = Vec::new();
    for entry in fs::read_dir(sipp.folder.path()).expect("a folder").flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        if !entry.path().to_string_lossy().ends_with("_messages.log") {
            continue;
        }
        for part in text.split("message received").skip(1) {
            let state = part.split("<state>").nth(1).and_then(|rest| rest.split("</state>").next());
            states.extend(state.map(str::to_owned));
        }
    }
    states.dedup();
    states
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_lamp_follows_a_call() {
    let bed = Bed::start().await;
    let port = bed.registers(2).await;
    let watcher = bed.phone(1, free_port(), "watch.xml", "2042", &[("PACKAGE", "dialog"), ("FIRST", "terminated"), ("LAST", "terminated")]);
    bed.watched("2042").await;
    // Rings long enough for the lamp to blink.
    let slowly = ("milliseconds=\"200\"", "milliseconds=\"1000\"");
    let callee = bed.phone(2, port, "uas_answer.xml", "x", &[("CALLER", "2041"), slowly]);
    let caller = bed.phone(1, free_port(), "uac_call.xml", "2042", &[("PAUSE", "500")]);
    caller.succeeds().await;
    callee.succeeds().await;
    let (states, told) = watcher.finishes(|watcher| (states_told(watcher), watcher.log())).await;
    // Call-ID and both tags of the phone that rings: what another needs to pick the call up.
    let early = told.split("<dialog ").find(|dialog| dialog.contains("<state>early")).expect("it rang");
    assert!(early.contains("call-id=\"") && early.contains("local-tag=\"1to\"") && early.contains("remote-tag=\""), "{early}");
    let blinks: Vec<_> = states.iter().map(String::as_str).filter(|state| *state != "trying").collect();
    assert_eq!(blinks, ["terminated", "early", "confirmed", "terminated"]);
    // It has left, and nothing is kept of it; the disk is written behind.
    let until = Instant::now() + Duration::from_secs(10);
    while !bed.store.subscriptions().await.unwrap().is_empty() {
        assert!(Instant::now() < until, "{:?}", bed.store.subscriptions().await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_leaves_lamps_lit_and_phones_do_not_notice() {
    let bed = Bed::start().await;
    let port = bed.registers(2).await;
    let edits = [("PACKAGE", "dialog"), ("FIRST", "terminated"), ("LAST", "confirmed")];
    let watcher = bed.phone(1, free_port(), "watch.xml", "2042", &edits);
    bed.watched("2042").await;
    let at = bed.running.udp[0];
    bed.running.handle.stop().await;
    bed.running.task.await.unwrap();
    bed.store.close().await;
    let bed = Bed::at(at, bed.folder, |_| {}).await;
    // In the dialog of before: the scenario would fail at any other. It refreshes and leaves in it, too.
    let callee = bed.phone(2, port, "uas_answer.xml", "x", &[("CALLER", "2041")]);
    let caller = bed.phone(1, free_port(), "uac_call.xml", "2042", &[("PAUSE", "3000")]);
    watcher.succeeds().await;
    caller.succeeds().await;
    callee.succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_message_lamp_is_lit_and_nobody_sees_anothers() {
    let bed = Bed::start().await;
    let edits = [("PACKAGE", "message-summary"), ("FIRST", "Messages-Waiting: no"), ("LAST", "Voice-Message: 2/1")];
    let watcher = bed.phone(1, free_port(), "watch.xml", "2041", &edits);
    bed.watched("2041").await;
    bed.running.handle.set_mailbox("2041", call::presence::Mailbox { new: 2, old: 1, ..Default::default() }).await;
    watcher.succeeds().await;
    for (phone, whom, package, expected) in
        [(2, "2041", "message-summary", "403"), (4, "2041", "dialog", "403"), (1, "2042", "line-seize", "489")]
    {
        bed.phone(phone, free_port(), "watch_refused.xml", whom, &[("PACKAGE", package), ("EXPECTED", expected)]).succeeds().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_does_not_ask_is_told_of_messages_all_the_same() {
    let bed = Bed::start().await;
    let told = |port: u16, summary: &str| {
        let body = format!("to=\"event\"/><ereg regexp=\"{summary}\" search_in=\"body\" check_it=\"true\" assign_to=\"body\"/>");
        let edits =
            [("check-sync *$", "message-summary *$"), ("to=\"event\"/>", body.as_str()), ("variables=\"event", "variables=\"body,event")];
        bed.phone(1, port, "uas_check_sync.xml", "x", &edits)
    };
    let port = bed.registers(1).await;
    let phone = told(port, "Voice-Message: 1/0");
    bed.running.handle.set_mailbox("2041", call::presence::Mailbox { new: 1, ..Default::default() }).await;
    phone.succeeds().await;
    let phone = told(port, "Messages-Waiting: no");
    bed.running.handle.set_mailbox("2041", call::presence::Mailbox { old: 1, ..Default::default() }).await;
    phone.succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lamp_of_a_feature_is_watched_like_a_phone() {
    let bed = Bed::start().await;
    let watcher = bed.phone(1, free_port(), "watch.xml", "701", &[("PACKAGE", "dialog"), ("FIRST", "terminated"), ("LAST", "sip:2042@")]);
    bed.watched("701").await;
    let lamp = call::presence::Lamp { state: call::presence::DialogState::Confirmed, peer: "2042".into(), peer_name: "Bo".into() };
    bed.running.handle.show("701", Some(lamp)).await;
    watcher.succeeds().await;
}

/// Method or status of each SIP message that tshark finds in a capture, and where it came from.
fn read_by_tshark(file: &Path) -> Vec<String> {
    let output = Command::new("tshark")
        .args(["-r", file.to_str().unwrap(), "-T", "fields", "-E", "separator=/t"])
        .args(["-e", "sip.Method", "-e", "sip.Status-Code", "-e", "udp.checksum.status", "-e", "ip.checksum.status"])
        .args(["-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"])
        .output()
        .expect("cannot run tshark: install the Debian package tshark");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // 1 is "good" for Wireshark; over IPv6 there is no sum but UDP's.
    let row = |line: &str| {
        let fields: Vec<_> = line.split('\t').collect();
        assert!(fields[2..].iter().all(|sum| ["1", ""].contains(sum)), "a sum is wrong: {line}");
        format!("{}{}", fields[0], fields[1])
    };
    text.lines().map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_can_be_looked_at_afterwards_without_its_secrets() {
    let bed = Bed::start().await;
    let port = bed.registers(2).await;
    let callee = bed.phone(2, port, "uas_answer.xml", "x", &[("CALLER", "2041")]);
    bed.phone(1, free_port(), "uac_call.xml", "2042", &[("PAUSE", "100")]).succeeds().await;
    callee.succeeds().await;
    bed.ended("caller hung up").await;
    let call = bed.events.lock().unwrap().iter().find_map(Event::call).expect("a call");
    let mut messages = bed.running.handle.messages_of(call).await.expect("they are kept");
    // On a busy machine something may have been said twice.
    let mut said = std::collections::HashSet::new();
    messages.retain(|message| said.insert(message.bytes.clone()));
    let hidden: Vec<_> = messages.iter().map(|message| sip::mask::masked(&message.bytes)).collect();
    let texts: Vec<_> = hidden.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
    let login = texts.iter().find(|text| text.contains("Authorization: Digest")).expect("a login");
    assert!(login.contains("response=\"********************************\""), "{login}");
    // As they were, and as if the phones had IPv6.
    for v6 in [false, true] {
        let address = |mut at: SocketAddr| {
            if v6 {
                at.set_ip(std::net::Ipv6Addr::LOCALHOST.into());
            }
            at
        };
        let packets = messages.iter().zip(&hidden).enumerate().map(|(number, (message, bytes))| {
            let (local, peer) = (address(message.flow.local), address(message.flow.peer));
            let (from, to) = if message.way == call::Way::In { (peer, local) } else { (local, peer) };
            sip::pcap::Packet { at_us: 1_700_000_000_000_000 + number as u64, from, to, payload: bytes }
        });
        let file = bed.folder.path().join("call.pcap");
        fs::write(&file, sip::pcap::file(packets)).expect("written");
        let read = read_by_tshark(&file);
        assert_eq!(read.len(), messages.len());
        let of = |wanted: &str| read.iter().filter(|one| *one == wanted).count();
        assert_eq!((of("INVITE"), of("401"), of("180"), of("BYE")), (3, 1, 2, 2), "{read:?}");
        assert!(of("ACK") >= 3 && of("200") >= 4 && of("") == 0, "{read:?}");
    }
    let kept = bed.running.handle.captured().await;
    assert_eq!(kept.iter().filter(|(kept, _)| kept.call == Some(call)).count(), 2, "both sides of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_call_can_be_looked_at_too() {
    let bed = Bed::start().await;
    bed.sipp(1, "guess", free_port(), "uac_no_login.xml", "2042", &[], "u1").succeeds().await;
    let kept = bed.running.handle.captured().await;
    assert_eq!(kept.iter().map(|(kept, _)| kept.call).collect::<Vec<_>>(), [None]);
    let messages = bed.running.handle.messages_of_call_id(kept[0].0.sip_call_id.clone()).await.expect("its messages");
    assert!(messages.iter().any(|message| message.bytes.starts_with(b"SIP/2.0 401 ")));
}

/// A soft phone that we did not write: registers as the phone with this MAC, watches its mailbox and a colleague.
struct Baresip {
    child: Child,
    log: std::path::PathBuf,
}

impl Baresip {
    fn start(bed: &Bed, last: u8, watches: &str) -> Self {
        let server = bed.running.udp[0];
        let folder = bed.folder.path().join("baresip");
        fs::create_dir(&folder).expect("a folder");
        let login = format!("auth_user={}-1;auth_pass={}", mac(last).bare(), password(mac(last)));
        let user = People::new().0[&format!("{}-1", mac(last).bare())].user.clone();
        // The one for messages first and the account last: a millisecond after it was loaded, mwi.so of baresip 1.0 subscribes once
        // more for each subscription that there is, the new ones included. Where a registration was through by then, it never ends.
        let modules =
            ["module_app mwi.so", "module_app contact.so", "module_app presence.so", "module_app menu.so", "module_app account.so"];
        let config = format!("sip_listen 127.0.0.1:0\nmodule_path /usr/lib/baresip/modules\n{}\n", modules.join("\n"));
        fs::write(folder.join("config"), config).expect("written");
        fs::write(folder.join("accounts"), format!("<sip:{user}@{server}>;{login};regint=60;mwi=yes\n")).expect("written");
        fs::write(folder.join("contacts"), format!("\"Colleague\" <sip:{watches}@{server}>;presence=p2p\n")).expect("written");
        let log = folder.join("log");
        let out = fs::File::create(&log).expect("a file");
        let child = Command::new("baresip")
            .args(["-f", folder.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a second handle"))
            .stderr(out)
            .spawn()
            .expect("cannot run baresip: install the Debian package baresip");
        Self { child, log }
    }

    async fn says(&self, text: &str) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            if log.contains(text) {
                return;
            }
            assert!(Instant::now() < until, "baresip does not say '{text}' but:\n{log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Baresip {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn baresip_sees_its_messages_and_its_colleague() {
    let bed = Bed::start().await;
    let phone = Baresip::start(&bed, 1, "2042");
    bed.watched("2041").await;
    bed.watched("2042").await;
    bed.running.handle.set_mailbox("2041", call::presence::Mailbox { new: 3, old: 1, ..Default::default() }).await;
    phone.says("Voice-Message: 3/1").await;
    bed.registers(2).await;
    phone.says("Online").await;
}
