//! The file pipeline with a real store and real onboarding behind it: who gets what, and what is told about it.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use plugtone::{
    binding::{AttemptSettings, MasterKey, ReloadSettings},
    model::{
        DeviceRecord, DeviceState, Event, Events, MacAddr, Timestamp, User,
        event::{Door, Oddity},
    },
    provisioning::{
        Body, Endpoints, FileAnswer, FileRequest, FileService, Files, Guests, History, Holding, Identities, Leases, Neighbours, Onboarding,
        PhoneBook, ServedFile, Settings, Transfer, classify::reload_methods, firmware::Depot, onboarding::Config,
    },
    store::{Sqlite, Store},
    template::{Templates, shipped},
};

const YEALINK: MacAddr = MacAddr([0x00, 0x15, 0x65, 0xaa, 0xbb, 0xcc]);
const POLY: MacAddr = MacAddr([0x64, 0x16, 0x7f, 0xaa, 0xbb, 0xcc]);
const GRANDSTREAM: MacAddr = MacAddr([0xc0, 0x74, 0xad, 0xaa, 0xbb, 0xcc]);

/// Who has which address, as the test says.
#[derive(Default)]
struct Leased(Mutex<HashMap<IpAddr, Holding>>);

impl Leased {
    fn put(&self, address: &str, mac: MacAddr, contested: bool) {
        let family = None;
        self.0.lock().expect("lock").insert(address.parse().expect("address"), Holding { mac, family, contested });
    }
}

impl Leases for Leased {
    fn holder(&self, address: IpAddr, _: Timestamp) -> Option<Holding> {
        self.0.lock().expect("lock").get(&address).cloned()
    }

    fn is_leased(&self, mac: MacAddr, _: Timestamp) -> bool {
        self.0.lock().expect("lock").values().any(|holding| holding.mac == mac)
    }
}

struct Office {
    files: Files,
    onboarding: Onboarding,
    leases: Arc<Leased>,
    events: Arc<Mutex<Vec<Event>>>,
    key: MasterKey,
    store: Arc<Sqlite>,
    history: History,
    _folder: tempfile::TempDir,
}

/// Nobody comes by a link here; `soft_phones.rs` has those who do.
struct NoGuests;

#[async_trait::async_trait]
impl Guests for NoGuests {
    async fn welcome(&self, mac: MacAddr, _: &str, login: &str) -> Result<(), String> {
        Err(format!("{mac} is not for {login}"))
    }
}

impl Office {
    async fn open(settings: Settings) -> Self {
        Self::with_history(settings, 0).await
    }

    /// `history`: bytes of what phones were given that are kept.
    async fn with_history(settings: Settings, history: u64) -> Self {
        Self::in_folder(tempfile::tempdir().expect("folder"), settings, history).await
    }

    async fn in_folder(folder: tempfile::TempDir, settings: Settings, history: u64) -> Self {
        let store = Sqlite::open(folder.path().join("plugtone.db")).expect("store");
        let told = Arc::new(Mutex::new(Vec::new()));
        let events = Events::new({
            let told = told.clone();
            move |event| told.lock().expect("lock").push(event)
        });
        let key = MasterKey::new([7; 32]);
        let templates = Templates::load(None).expect("the shipped set is good");
        let config = Config {
            devices_per_extension: 1,
            extensions: ("2000".parse().expect("extension"), "2099".parse().expect("extension")),
            reload: ReloadSettings::default(),
            limits: AttemptSettings::default().limits(),
        };
        let identities = Identities::new(key.clone());
        let methods = reload_methods(templates.clone());
        let (onboarding, mut orders) =
            Onboarding::start(store.clone(), identities, events.clone(), config, methods).await.expect("onboarding");
        tokio::spawn(async move { while orders.recv().await.is_some() {} });
        let leases = Arc::new(Leased::default());
        let history = History::start(store.clone(), history).await.expect("the history is read");
        let neighbours = Neighbours {
            guests: Arc::new(NoGuests),
            templates,
            leases: leases.clone(),
            devices: Arc::new(onboarding.clone()),
            keys: Arc::new(key.clone()),
            store: store.clone(),
            history: history.clone(),
            phone_book: PhoneBook::default(),
            firmware: Depot::open(folder.path().join("firmware"), events.clone()).expect("a folder"),
            events,
        };
        let endpoints = Endpoints { http_port: Some(8080), ..Default::default() };
        let files = Files::new(settings, endpoints, neighbours);
        files.restore().await.expect("read");
        Self { files, onboarding, leases, events: told, key, store, history, _folder: folder }
    }

    fn request(&self, door: Door, source: &str, path: &str) -> FileRequest {
        let local = "10.0.0.2:8080".parse().ok();
        FileRequest {
            door,
            path: path.into(),
            query: Default::default(),
            source: source.parse().expect("address"),
            local,
            user_agent: None,
            held: None,
            certified: None,
            head: false,
        }
    }

    /// The text, or `None` for what looks like a missing file.
    async fn get(&self, source: &str, path: &str) -> Option<String> {
        match self.files.fetch(self.request(Door::Http, source, path)).await {
            FileAnswer::Found(ServedFile { body: Body::Whole(bytes), .. }) => Some(String::from_utf8(bytes.to_vec()).expect("UTF-8")),
            FileAnswer::Found(_) => panic!("no firmware is there"),
            FileAnswer::NotFound => None,
            FileAnswer::Broken => panic!("{path} cannot be made"),
        }
    }

    async fn put(&self, source: &str, path: &str, body: &str) -> bool {
        let request = self.request(Door::Http, source, path);
        match self.files.upload_limit(&request).await {
            Some(limit) if body.len() <= limit => self.files.store(request, Bytes::copy_from_slice(body.as_bytes())).await,
            _ => false,
        }
    }

    async fn bind(&self, mac: MacAddr, name: &str) -> String {
        let user = User { id: name.into(), login: name.into(), display_name: name.into(), mail: None, extension: None, groups: Vec::new() };
        self.onboarding.bind(mac, 1, user, "test").await.expect("bound").extension.to_string()
    }

    fn secret(&self, mac: MacAddr) -> String {
        self.onboarding.identities().lines(mac).1[0].secret.expose().to_owned()
    }

    /// What was told about files since the last question.
    fn told(&self) -> Vec<String> {
        let events = std::mem::take(&mut *self.events.lock().expect("lock"));
        let line = |event: Event| match event {
            Event::FileServed { mac, path, .. } => Some(format!("served {path} {mac:?}")),
            Event::FileMissing { path, .. } => Some(format!("missing {path}")),
            Event::FileRefused { path, reason, .. } => Some(format!("refused {path}: {reason}")),
            Event::FileUploaded { path, bytes, .. } => Some(format!("uploaded {path} {bytes}")),
            Event::FileDelivered { path, .. } => Some(format!("delivered {path}")),
            Event::FileFailed { path, .. } => Some(format!("failed {path}")),
            _ => None,
        };
        events.into_iter().filter_map(line).collect()
    }
}

#[tokio::test]
async fn fetches_that_no_phone_makes_are_told_once() {
    let office = Office::open(Settings::default()).await;
    office.leases.put("10.0.1.1", YEALINK, false);
    office.bind(YEALINK, "Ann").await;
    let odd = |office: &Office| -> Vec<(Option<MacAddr>, String, Oddity, usize)> {
        let events = std::mem::take(&mut *office.events.lock().expect("lock"));
        let line = |event: Event| match event {
            Event::OddFetches { mac, source, what, count } => Some((mac, source.to_string(), what, count)),
            _ => None,
        };
        events.into_iter().filter_map(line).collect()
    };
    // The phone itself, and one that is asked for files that are not there.
    office.get("10.0.1.1", "001565aabbcc.cfg").await.expect("its file");
    for path in ["y000000000066.boot", "features.cfg", "001565aabbcc.boot2"] {
        office.get("10.0.1.1", path).await;
    }
    assert_eq!(odd(&office), []);
    // Ann's file, from somewhere else: told once, however often it is tried.
    for _ in 0..5 {
        assert_eq!(office.get("10.9.9.9", "001565aabbcc.cfg").await, None);
    }
    assert_eq!(odd(&office), [(Some(YEALINK), "10.9.9.9".into(), Oddity::ForeignAddress, 1)]);
    for number in 0..100u8 {
        office.get("10.9.9.8", &format!("0015650000{number:02x}.cfg")).await;
    }
    let tried = |count| (None, "10.9.9.8".into(), Oddity::Enumeration, count);
    assert_eq!(odd(&office), [tried(3), tried(30)]);
    // What has Ann's phone's address says to be a Poly.
    let poly = Some("FileTransport PolycomVVX-VVX_411-UA/5.9.6.2327".to_owned());
    let request = FileRequest { user_agent: poly, ..office.request(Door::Http, "10.0.1.1", "001565aabbcc.cfg") };
    office.files.fetch(request).await;
    assert_eq!(odd(&office), [(Some(YEALINK), "10.0.1.1".into(), Oddity::OtherMake, 1)]);
}

#[tokio::test]
async fn a_phone_gets_its_own_files_before_and_after_binding() {
    let office = Office::open(Settings::default()).await;
    for (number, mac, account) in [
        (1, YEALINK, "001565aabbcc.cfg"),
        (2, POLY, "64167faabbcc-user.cfg"),
        (3, GRANDSTREAM, "cfgc074adaabbcc.xml"),
        (4, MacAddr([2, 0x70, 0x67, 0, 0, 1]), "027067000001.txt"),
    ] {
        let address = format!("10.0.1.{number}");
        office.leases.put(&address, mac, false);
        let before = office.get(&address, account).await.expect(account);
        assert!(before.contains(&format!("new{}", mac.bare())) && before.contains(&office.secret(mac)), "{before}");
        assert!(before.contains("10.0.0.2"), "names the address at which the phone reached us");

        let provisional = office.secret(mac);
        let extension = office.bind(mac, &format!("Ann {number}")).await;
        let after = office.get(&address, account).await.expect(account);
        assert!(after.contains(&extension) && after.contains(&office.secret(mac)) && after.contains(&format!("Ann {number}")), "{after}");
        assert!(!after.contains(&provisional), "the old secret is gone");
        assert_eq!(after, office.get(&address, account).await.expect(account), "byte for byte");
        assert_eq!(office.told(), vec![format!("served {account} Some({mac})"); 3]);
    }
}

#[tokio::test]
async fn nobody_else_learns_anything() {
    let office = Office::open(Settings::default()).await;
    office.leases.put("10.0.1.1", YEALINK, false);
    office.leases.put("10.0.1.2", POLY, false);
    let extension = office.bind(YEALINK, "Ann").await;
    let secret = office.secret(YEALINK);
    office.told();

    // From another phone's address, from none of ours, from the server itself.
    for source in ["10.0.1.2", "10.9.9.9", "127.0.0.1", "::1", "::ffff:10.0.1.2"] {
        for path in [
            "001565aabbcc.cfg",
            "001565AABBCC.CFG",
            "/x/001565aabbcc.boot",
            "001565aabbcc.txt",
            "001565aabbcc.json",
            "001565aabbcc-baresip.txt",
        ] {
            assert_eq!(office.get(source, path).await, None, "{source} {path}");
        }
        let told = office.told();
        assert!(told.len() == 6 && told.iter().all(|event| event.starts_with("refused")), "{told:?}");
    }
    // Guessing addresses: those that exist and those that do not look the same, and every guess is told.
    for number in 0..200u8 {
        let mac = MacAddr([0x00, 0x15, 0x65, 0xaa, 0xbb, number]);
        assert_eq!(office.get("10.9.9.9", &format!("{}.cfg", mac.bare())).await, None);
    }
    let told = office.told();
    assert!(told.len() == 200 && told.iter().all(|event| event.contains("not leased to that phone")), "{:?}", told.first());
    // What everybody may have tells nothing of anybody.
    for path in ["y000000000066.cfg", "yealink-common.cfg", "000000000000.cfg"] {
        let text = office.get("10.9.9.9", path).await.expect(path);
        assert!(!text.contains(&secret) && !text.contains(&extension) && !text.contains("001565"), "{text}");
    }
    for path in ["../001565aabbcc.cfg", "..\\x", "y000000000000.boot", "sip.ld", "cfg.xml", "etc/passwd", "", "/"] {
        assert_eq!(office.get("10.0.1.1", path).await, None, "{path}");
    }
    // A User-Agent proves nothing.
    let agent = Some("Yealink SIP-T46S 66.86.0.15 00:15:65:aa:bb:cc".to_owned());
    let request = FileRequest { user_agent: agent, ..office.request(Door::Http, "10.9.9.9", "001565aabbcc.cfg") };
    assert!(matches!(office.files.fetch(request).await, FileAnswer::NotFound));
    // Two devices that claim one address: neither gets it.
    office.leases.put("10.0.1.1", YEALINK, true);
    assert_eq!(office.get("10.0.1.1", "001565aabbcc.cfg").await, None);
}

#[tokio::test]
async fn a_key_in_the_url_proves_a_phone_behind_nat() {
    let office = Office::open(Settings { url_tokens: true, ..Default::default() }).await;
    let url = office.files.token_url(YEALINK);
    let path = url.strip_prefix("http://127.0.0.1:8080/").expect("our own address");
    assert!(path.contains(office.key.url_token(YEALINK, 0).expose()));
    let file = office.get("192.0.2.77", &format!("{path}/001565aabbcc.cfg")).await.expect("with its key");
    assert!(file.contains(&format!("static.auto_provision.server.url = http://10.0.0.2:8080/{path}")), "and keeps it: {file}");
    assert_eq!(office.get("192.0.2.77", &format!("{path}/64167faabbcc-user.cfg")).await, None, "for another phone");
    assert_eq!(office.get("192.0.2.77", &format!("{path}x/001565aabbcc.cfg")).await, None, "wrong");
    assert!(office.get("192.0.2.77", &format!("{path}/000000000000.cfg")).await.is_some(), "common files too");
}

#[tokio::test]
async fn a_key_that_somebody_noted_does_not_open_the_next_owners_file() {
    let office = Office::open(Settings { url_tokens: true, ..Default::default() }).await;
    let url = || office.files.token_url(YEALINK).strip_prefix("http://127.0.0.1:8080/").expect("our own address").to_owned();
    let own = async |source: &str, key: &str| office.get(source, &format!("{key}/001565aabbcc.cfg")).await;
    const DESK: &str = "192.0.2.77";
    let mut keys = vec![url()];
    own(DESK, &keys[0]).await.expect("typed in");
    for owner in ["Ann", "Bob"] {
        office.bind(YEALINK, owner).await;
        // The phone was told to reload, and has the key that it had.
        let file = own(DESK, keys.last().expect("one")).await.expect("its file");
        keys.push(url());
        assert!(file.contains(keys.last().expect("one").as_str()), "the next key is in it");
        own(DESK, keys.last().expect("one")).await.expect("by the next key");
    }
    // Who is faster with it than the phone is told, and no second one has it.
    office.bind(YEALINK, "Eve").await;
    assert!(own("192.0.2.66", &keys[2]).await.is_some());
    assert_eq!(own("192.0.2.67", &keys[2]).await, None);
    let odd = |event: &Event| matches!(event, Event::OddFetches { source, what: Oddity::ForeignAddress, .. } if source.to_string() == "192.0.2.66");
    assert!(office.events.lock().expect("lock").iter().any(odd));
    let secret = office.secret(YEALINK);
    assert!(own(DESK, &keys[2]).await.expect("the phone has its file all the same").contains(&secret));
    assert!(own(DESK, &keys[0]).await.expect("the phone may keep the URL of its boot").contains(&secret));
    for key in &keys[..2] {
        assert_eq!(own("192.0.2.68", key).await, None, "who noted it elsewhere");
    }
    // A phone that was off meanwhile, and is somewhere else now, is let in by an admin: whoever asks first.
    const HOTEL: &str = "198.51.100.9";
    assert_eq!(own(HOTEL, &keys[0]).await, None);
    office.files.admit(YEALINK, 30);
    assert!(own(HOTEL, &keys[0]).await.expect("let in").contains(&secret));
    assert_eq!(own("192.0.2.68", &keys[0]).await, None, "the second address");
    assert_eq!(office.get(HOTEL, "64167faabbcc-user.cfg").await, None, "another phone's");
}

#[tokio::test]
async fn in_an_open_window_an_address_gets_one_phone() {
    let mut settings = Settings::default();
    settings.open.subnets = vec!["10.20.0.0/16".parse().expect("subnet")];
    let office = Office::open(settings).await;
    assert!(office.get("10.20.0.1", "001565aabbcc.cfg").await.is_some());
    assert!(office.get("10.20.0.1", "001565aabbcc.boot").await.is_some(), "again");
    assert_eq!(office.get("10.20.0.1", "64167faabbcc-user.cfg").await, None, "a second phone");
    assert_eq!(office.get("10.20.0.2", "001565aabbcc.cfg").await, None, "a second address");
    assert_eq!(office.get("10.21.0.1", "c074adaabbcc.txt").await, None, "outside");
    office.leases.put("10.0.1.3", GRANDSTREAM, false);
    assert_eq!(office.get("10.20.0.3", "cfgc074adaabbcc.xml").await, None, "leased elsewhere");
}

#[tokio::test]
async fn a_phone_that_was_never_here_opens_the_window_for_itself_once() {
    let mut settings = Settings { url_tokens: true, ..Default::default() };
    settings.open.subnets = vec!["10.20.0.0/16".parse().expect("subnet")];
    settings.open.first_boot_minutes = 15;
    let office = Office::open(settings.clone()).await;
    let provisional = format!("new{}", YEALINK.bare());
    let file = office.get("10.20.0.1", "001565aabbcc.cfg").await.expect("its first boot");
    let key = office.files.token_url(YEALINK).strip_prefix("http://127.0.0.1:8080/").expect("our own address").to_owned();
    assert!(file.contains(&provisional) && file.contains(&key), "nobody's, with the key for later: {file}");
    assert!(office.get("10.20.0.1", "001565aabbcc.boot").await.is_some(), "more of it");
    assert_eq!(office.get("10.21.0.1", "c074adaabbcc.txt").await, None, "outside");
    let opened = |event: &Event| matches!(event, Event::FirstBoot { mac, source, minutes: 15 } if *mac == YEALINK && source.to_string() == "10.20.0.1");
    assert_eq!(office.events.lock().expect("lock").iter().filter(|event| opened(event)).count(), 1);

    // A second device says to be that phone: it has nothing, and is told.
    let odd = |office: &Office| {
        let odd = |event: &Event| matches!(event, Event::OddFetches { mac: Some(YEALINK), source, what: Oddity::SecondFirstBoot, .. } if source.to_string() == "10.20.0.2");
        office.events.lock().expect("lock").iter().filter(|event| odd(event)).count()
    };
    for _ in 0..3 {
        assert_eq!(office.get("10.20.0.2", "001565aabbcc.cfg").await, None);
    }
    assert_eq!(odd(&office), 1);
    // A restart forgets nothing.
    let Office { _folder: folder, store, .. } = office;
    store.close().await;
    let office = Office::in_folder(folder, settings.clone(), 0).await;
    assert_eq!(office.get("10.20.0.2", "001565aabbcc.cfg").await, None);
    assert_eq!(odd(&office), 1);
    assert!(office.get("10.20.0.1", "001565aabbcc.cfg").await.is_some());

    // Somebody's: from now on by its key, and nobody's file by none.
    office.bind(YEALINK, "Ann").await;
    assert_eq!(office.get("10.20.0.1", "001565aabbcc.cfg").await, None);
    assert!(
        office
            .get("10.20.0.1", &format!("{key}/001565aabbcc.cfg"))
            .await
            .expect("by the key that it has")
            .contains(&office.secret(YEALINK))
    );
    office.files.admit(YEALINK, 5);
    assert!(office.get("10.20.0.3", "001565aabbcc.cfg").await.is_some(), "an admin lets it in");

    // One that was there long before has no first boot.
    let long_ago = Timestamp::of(std::time::SystemTime::now()).plus_secs(-3600);
    let known = DeviceRecord { first_seen: long_ago, ..office.store.device(YEALINK).await.expect("read").expect("known") };
    office.store.save_device(DeviceRecord { mac: POLY, generation: 0, ..known }).await.expect("saved");
    let Office { _folder: folder, store, .. } = office;
    store.close().await;
    let office = Office::in_folder(folder, settings, 0).await;
    assert_eq!(office.get("10.20.0.4", "64167faabbcc-user.cfg").await, None);
}

#[tokio::test]
async fn uploads_belong_to_the_phone_and_its_owner() {
    let office = Office::open(Settings::default()).await;
    office.leases.put("10.0.1.2", POLY, false);
    office.leases.put("10.0.1.3", GRANDSTREAM, false);
    assert!(office.put("10.0.1.2", "64167faabbcc-phone.cfg", "<x/>").await);
    assert_eq!(office.get("10.0.1.2", "64167faabbcc-phone.cfg").await.as_deref(), Some("<x/>"), "reads it back");
    assert_eq!(office.get("10.0.1.3", "64167faabbcc-phone.cfg").await, None, "never others");
    assert!(office.put("10.0.1.2", "64167faabbcc-app.log", "log").await);
    assert_eq!(office.get("10.0.1.2", "64167faabbcc-app.log").await, None, "a log is not read back");
    for (source, path) in [
        ("10.0.1.3", "64167faabbcc-phone.cfg"),
        ("10.9.9.9", "64167faabbcc-phone.cfg"),
        ("10.0.1.2", "64167faabbcc-user.cfg"),
        ("10.0.1.2", "64167faabbcc.cfg"),
        ("10.0.1.2", "000000000000.cfg"),
        ("10.0.1.2", "../64167faabbcc-phone.cfg"),
        ("10.0.1.3", "c074adaabbcc-phone.cfg"),
    ] {
        assert!(!office.put(source, path, "x").await, "{source} {path}");
    }
    assert!(!office.put("10.0.1.2", "64167faabbcc-phone.cfg", &"x".repeat(600_000)).await, "too big");
    // A directory that somebody has edited on the phone comes before ours.
    let directory = async || office.get("10.0.1.2", "64167faabbcc-directory.xml").await.expect("a directory");
    let ours = directory().await;
    assert!(ours.contains("<item_list>"), "{ours}");
    assert!(office.put("10.0.1.2", "64167faabbcc-directory.xml", "<directory/>").await);
    assert_eq!(directory().await, "<directory/>");
    // The next owner's phone does not find what the last one left.
    office.bind(POLY, "Ann").await;
    assert_eq!(directory().await, ours);
    assert_eq!(office.get("10.0.1.2", "64167faabbcc-phone.cfg").await, None);

    let office = Office::open(Settings { uploads: false, ..Default::default() }).await;
    office.leases.put("10.0.1.2", POLY, false);
    assert!(!office.put("10.0.1.2", "64167faabbcc-phone.cfg", "x").await, "switched off");
}

#[tokio::test]
async fn a_reload_is_taken_when_the_account_has_arrived() {
    let office = Office::open(Settings::default()).await;
    office.leases.put("10.0.1.1", YEALINK, false);
    office.get("10.0.1.1", "001565aabbcc.cfg").await.expect("provisional");
    office.bind(YEALINK, "Ann").await;
    let taken = || office.events.lock().expect("lock").iter().any(|event| matches!(event, Event::ReloadTaken { .. }));
    let fetch = async |path: &str, transfer| {
        let request = office.request(Door::Tftp, "10.0.1.1", path);
        assert!(matches!(office.files.fetch(request.clone()).await, FileAnswer::Found(_)), "{path}");
        office.files.ended(&request, Some(YEALINK), transfer);
        // The same queue, so that the fact before it has been taken.
        office.onboarding.device(YEALINK).await.expect("running").expect("known").state
    };
    fetch("001565aabbcc.boot", Transfer::Delivered).await;
    assert!(!taken(), "the boot file has no account");
    fetch("001565aabbcc.cfg", Transfer::Failed { reason: "timeout".into() }).await;
    assert!(!taken(), "it never arrived");
    let state = fetch("001565aabbcc.cfg", Transfer::Delivered).await;
    assert!(taken(), "{state:?}");
    assert_eq!(state, DeviceState::Reloading);
}

#[test]
fn a_template_that_breaks_while_running_changes_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let templates = Templates::load(Some(folder.path())).expect("good");
    let shipped = shipped().into_iter().find(|source| source.name == "yealink/account.cfg.j2").expect("shipped");
    let file = folder.path().join("yealink/account.cfg.j2");
    std::fs::create_dir(folder.path().join("yealink")).expect("folder");
    std::fs::write(&file, format!("{}# ours\n{{{{ pol_minutes }}}}\n", shipped.text)).expect("written");
    let before = templates.current();
    let faults = templates.reload().expect_err("broken").to_string();
    assert!(faults.contains("yealink/account.cfg.j2") && faults.contains("did you mean 'poll_minutes'?"), "{faults}");
    assert!(Arc::ptr_eq(&before, &templates.current()));
    std::fs::write(&file, format!("{}# ours\n", shipped.text)).expect("written");
    templates.reload().expect("mended");
    assert!(!Arc::ptr_eq(&before, &templates.current()));
}

#[tokio::test]
async fn what_phones_were_given_has_a_bound_and_no_secrets() {
    const MOST: u64 = 30_000;
    let office = Office::with_history(Settings { url_tokens: true, ..Default::default() }, MOST).await;
    office.leases.put("10.0.1.1", YEALINK, false);
    office.leases.put("10.0.1.2", POLY, false);
    let file = "001565aabbcc.cfg";
    office.get("10.0.1.2", "64167faabbcc-user.cfg").await.expect("the other phone's");
    let (mut secrets, mut hashes) = (vec![office.secret(YEALINK), office.key.url_token(YEALINK, 0).expose().to_owned()], Vec::new());
    for owner in 0..30 {
        office.bind(YEALINK, &format!("Owner {owner}")).await;
        secrets.push(office.secret(YEALINK));
        office.get("10.0.1.1", "yealink-common.cfg").await.expect("common");
        for _ in 0..2 {
            office.get("10.0.1.1", file).await.expect("its own");
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
    office.history.stop().await;
    let events = office.events.lock().expect("lock").clone();
    for event in events {
        if let Event::FileServed { path, hash, .. } = event
            && path == file
        {
            hashes.push(hash);
        }
    }
    assert!(office.store.config_bytes().await.expect("measured") <= MOST);
    let given = office.store.configs(YEALINK).await.expect("read");
    let own: Vec<_> = given.iter().filter(|config| config.file == file).collect();
    assert!((2..30).contains(&own.len()), "some of the thirty are there: {}", own.len());
    assert_eq!(Some(&own[0].hash), hashes.last(), "the event names what the history has");
    assert!(own[0].last > own[0].first, "it was served twice");
    assert_eq!(given.iter().filter(|config| config.file == "yealink-common.cfg").count(), 1, "what does not change is there once");
    assert_eq!(office.store.configs(POLY).await.expect("read").len(), 1, "what a phone has now stays, however old");
    for config in &given {
        let text = office.store.config_text(&config.hash).await.expect("read").expect("there");
        assert_eq!((text.len() as u64, blake3::hash(text.as_bytes()).to_hex().to_string()), (config.bytes, config.hash.clone()));
        assert!(!secrets.iter().any(|secret| text.contains(secret)), "{text}");
    }
    assert!(office.store.config_text(&own[0].hash).await.expect("read").expect("there").contains("account.1.password = ••••••"));
}
