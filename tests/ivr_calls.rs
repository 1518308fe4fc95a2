//! The voice menu on real parts: audio over loopback, a store on disk, the file directory, onboarding. Only SIP is left out.

use std::{
    cell::RefCell,
    io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    path::Path,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use plugtone::{
    binding::{Limits, MasterKey, ReloadSettings},
    directory::{
        Directory,
        files::{Files, hash_pin},
    },
    ivr::{
        loader,
        machine::Facts,
        settings::Settings,
        worker::{Control, Ivr, IvrCall},
    },
    media::{self, Codec, Command, Media, Remote, SessionConfig, SessionId},
    model::{
        CallId, DeviceState, Extension, Keys, MacAddr,
        event::{Event, Events},
    },
    provisioning::{
        Identities, Onboarding,
        onboarding::{Config, ReloadMethod, Sighting},
    },
    rtp::Key,
    store::Sqlite,
};
use tokio::sync::{mpsc, oneshot};
use tracing_subscriber::{Layer, filter::dynamic_filter_fn, layer::SubscriberExt, util::SubscriberInitExt};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Digits that turn up nowhere by chance.
const NUMBER: &str = "9021077";
const PIN: &str = "73519428";

struct Office {
    _folder: tempfile::TempDir,
    media: Media,
    onboarding: Onboarding,
    ivr: Ivr,
    told: Arc<Mutex<Vec<Event>>>,
    mac: MacAddr,
}

impl Office {
    async fn open() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Sqlite::open(folder.path().join("plugtone.db")).expect("a store");
        let told = Arc::new(Mutex::new(Vec::new()));
        let events = {
            let told = told.clone();
            Events::new(move |event| told.lock().expect("told").push(event))
        };
        let limits = Limits {
            per_device: 3,
            per_user: 10,
            per_source: 30,
            pause_ms: 50,
            longest_pause_ms: 1000,
            lockout_ms: 600_000,
            forget_ms: 3_600_000,
        };
        let range = ("2001".parse::<Extension>().expect("one"), "2099".parse().expect("one"));
        let config = Config { devices_per_extension: 1, extensions: range, reload: ReloadSettings::default(), limits };
        let identities = Identities::new(MasterKey::new([7; 32]));
        let methods = Arc::new(|_: Option<&str>, _: Option<&str>| ReloadMethod::default());
        let (onboarding, mut orders) = Onboarding::start(store, identities, events.clone(), config, methods).await.expect("starts");
        tokio::spawn(async move { while orders.recv().await.is_some() {} });
        let hash = hash_pin(&Keys::from(PIN)).expect("hashes");
        let users = format!("users: [{{ login: '{NUMBER}', display_name: Ada Lovelace, pin_hash: '{hash}' }}]\n");
        let directory: Arc<dyn Directory> = Arc::new(Files::parse(&users, Path::new("users.yaml")).expect("users"));
        let media = Media::start(media::Config::default()).expect("audio");
        let settings = Settings::default();
        let loaded = loader::load(&settings).expect("the shipped flow");
        let ivr = Ivr::new(&settings, loaded, media.clone(), onboarding.clone(), directory, events);
        let mac: MacAddr = "00:15:65:aa:bb:cc".parse().expect("a MAC");
        onboarding.seen(Sighting { phone: true, address: Some(LOOPBACK), ..Sighting::of(mac) });
        Self { _folder: folder, media, onboarding, ivr, told, mac }
    }

    fn call(&self, id: u64) -> Caller {
        let (events, received) = mpsc::channel(64);
        let session = self.media.open(SessionConfig::new(LOOPBACK, events)).expect("a session");
        let phone = UdpSocket::bind((LOOPBACK, 0)).expect("a port");
        phone.set_nonblocking(true).expect("a socket");
        self.media.command(session.id, Command::SetRemote(Remote::new(phone.local_addr().expect("bound"), Codec::Pcmu)));
        let hung_up = Arc::new(AtomicBool::new(false));
        let (ends, ended) = oneshot::channel();
        let call = IvrCall {
            call: CallId(id),
            mac: Some(self.mac),
            line: 1,
            source: LOOPBACK,
            facts: Facts { device_state: "provisional".into(), device_extension: None },
            session: session.id,
            events: received,
            ended,
            control: Box::new(Line { hung_up: hung_up.clone() }),
        };
        let ivr = self.ivr.clone();
        let task = tokio::spawn(async move { ivr.take(call).await });
        Caller { session: session.id, phone, hung_up, ends: Some(ends), task }
    }

    async fn keys(&self, caller: &Caller, keys: &str) {
        for key in keys.chars() {
            self.media.command(caller.session, Command::Key(Key::from_char(key).expect("a key")));
            tokio::time::sleep(Duration::from_millis(120)).await;
        }
    }

    /// Waits until something was told.
    async fn until<T>(&self, what: &str, find: impl Fn(&Event) -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(found) = self.told.lock().expect("told").iter().find_map(&find) {
                return found;
            }
            assert!(Instant::now() < end, "never: {what}; told: {:#?}", self.told.lock().expect("told"));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn hears(&self, words: &str) {
        self.until(words, |event| matches!(event, Event::IvrPrompt { text, .. } if text.contains(words)).then_some(())).await;
    }

    fn forget(&self) {
        self.told.lock().expect("told").clear();
    }
}

struct Line {
    hung_up: Arc<AtomicBool>,
}

impl Control for Line {
    fn hang_up(&self) {
        self.hung_up.store(true, Ordering::Relaxed);
    }

    fn transfer(&self, _: Extension) -> oneshot::Receiver<bool> {
        oneshot::channel().1
    }
}

struct Caller {
    session: SessionId,
    phone: UdpSocket,
    hung_up: Arc<AtomicBool>,
    ends: Option<oneshot::Sender<plugtone::call::half::Cause>>,
    task: tokio::task::JoinHandle<String>,
}

impl Caller {
    async fn hang_up(mut self) -> String {
        self.ends.take().map(|ends| ends.send(plugtone::call::half::Cause::CallerHungUp));
        tokio::time::timeout(Duration::from_secs(5), self.task).await.expect("ends").expect("no panic")
    }

    /// Packets with sound in them (µ-law silence is 0xff or 0x7f).
    fn loud_packets(&self) -> usize {
        let mut bytes = [0; 400];
        let mut loud = 0;
        while let Ok(length) = self.phone.recv(&mut bytes) {
            loud += usize::from(bytes[12..length].iter().any(|b| b & 0x7f < 0x60));
        }
        loud
    }
}

/// Everything that this thread logs, from TRACE up.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

thread_local! {
    /// Where this thread's log goes; nowhere for other tests.
    static CAUGHT: RefCell<Option<Log>> = const { RefCell::new(None) };
}

impl Log {
    /// One subscriber for the whole process that listens to threads that want to be heard. A subscriber of one thread
    /// would not do: whether a line is of interest to anybody is remembered for the process, and a test that meets the
    /// line first, on a thread without subscriber, may settle that it is not.
    fn catch() -> Self {
        static SUBSCRIBER: OnceLock<()> = OnceLock::new();
        SUBSCRIBER.get_or_init(|| {
            let wanted = dynamic_filter_fn(|_, _| CAUGHT.with_borrow(Option::is_some));
            let layer = tracing_subscriber::fmt::layer().with_writer(|| CAUGHT.with_borrow(|log| log.clone().unwrap_or_default()));
            tracing_subscriber::registry().with(layer.with_filter(wanted)).init();
        });
        let log = Self::default();
        CAUGHT.set(Some(log.clone()));
        log
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("log").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_caller_is_bound_and_what_was_keyed_is_nowhere() {
    let log = Log::catch();
    let office = Office::open().await;
    let caller = office.call(1);
    office.hears("Welcome").await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(caller.loud_packets() > 10, "the greeting is heard");
    office.keys(&caller, &format!("{NUMBER}#")).await;
    office.hears("enter your pin").await;
    office.keys(&caller, &format!("{PIN}#")).await;
    office.hears("Hello. Ada Lovelace Your extension will be, 2 0 0 1").await;
    let state = office.onboarding.device(office.mac).await.expect("asks").expect("seen").state;
    assert_eq!(state, DeviceState::Authenticating);
    office.keys(&caller, "1").await;
    let bound =
        office.until("bound", |event| if let Event::Bound { extension, .. } = event { Some(extension.clone()) } else { None }).await;
    assert_eq!(bound.as_str(), "2001");
    office.hears("This phone is now yours").await;
    assert_eq!(caller.hang_up().await, "hung up");
    let state = office.onboarding.device(office.mac).await.expect("asks").expect("seen").state;
    assert!(matches!(state, DeviceState::Bound | DeviceState::Reloading), "{state:?}");
    let told = format!("{:?}", office.told.lock().expect("told"));
    for word in ["IvrStarted", "IvrKeys", "count: 8", "DirectoryChecked", "Accepted", "IvrEnded"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let logged = String::from_utf8_lossy(&log.0.lock().expect("log")).into_owned();
    assert!(logged.contains("a log-in was checked"), "the log was caught");
    for secret in [NUMBER, PIN] {
        assert!(!told.contains(secret), "keyed digits in an event");
        let at = logged.find(secret).map(|at| &logged[at.saturating_sub(200)..(at + 20).min(logged.len())]);
        assert!(at.is_none(), "keyed digits in the log: {at:?}");
    }
}

#[tokio::test]
async fn three_wrong_pins_lock_the_phone_out() {
    let office = Office::open().await;
    let caller = office.call(1);
    office.hears("Welcome").await;
    for _ in 0..3 {
        office.forget();
        office.keys(&caller, &format!("{NUMBER}#")).await;
        office.hears("enter your pin").await;
        office.keys(&caller, "1111#").await;
        office.hears("is not right").await;
    }
    office.hears("this was the last try").await;
    office.until("locked out", |event| matches!(event, Event::LockedOut { .. }).then_some(())).await;
    assert!(!caller.hung_up.load(Ordering::Relaxed), "the sentence is said to its end");
    assert_eq!(caller.hang_up().await, "hung up");
    // The right PIN does not help now: nobody is even asked.
    office.forget();
    let caller = office.call(2);
    office.hears("Welcome").await;
    office.keys(&caller, &format!("{NUMBER}#")).await;
    office.hears("enter your pin").await;
    office.keys(&caller, &format!("{PIN}#")).await;
    office.hears("too many wrong tries").await;
    assert_eq!(caller.hang_up().await, "hung up");
    assert!(!office.told.lock().expect("told").iter().any(|event| matches!(event, Event::Bound { .. })));
}

#[tokio::test]
async fn a_phone_that_is_unplugged_leaves_the_menu() {
    let office = Office::open().await;
    let caller = office.call(1);
    office.hears("Welcome").await;
    assert_eq!(caller.hang_up().await, "hung up");
    office.until("ended", |event| matches!(event, Event::IvrEnded { .. }).then_some(())).await;
    let end = Instant::now() + Duration::from_secs(5);
    while office.onboarding.device(office.mac).await.expect("asks").expect("seen").state != DeviceState::Provisional {
        assert!(Instant::now() < end, "it is a new phone again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // An engine that is gone ends it as well.
    let mut caller = office.call(2);
    let ends = caller.ends.take();
    drop(ends);
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), caller.task).await.expect("ends").expect("no panic"), "hung up");
}
