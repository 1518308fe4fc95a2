//! The server dies in the middle of somebody's way from the box to a call: `kill -9`, then the same program on the same
//! database and the same ports. It is the real binary; phones are plugged in beside it and are not touched.
//!
//! | the server dies                              | what the user sees after the restart                                       |
//! |----------------------------------------------|----------------------------------------------------------------------------|
//! | after the OFFER                              | the phone asks on, gets an address and comes up as a new one               |
//! | directly after the ACK                       | the same: the address is this phone's, whoever else asks                   |
//! | between two files                            | the phone asks again for what did not come, and comes up as a new one      |
//! | when the phone has registered as nobody's    | nothing: the menu answers                                                  |
//! | in the menu                                  | silence; hangs up, calls again, signs in                                   |
//! | when the directory has said yes              | silence; hangs up, calls again, signs in; nothing was bound                |
//! | when the user has said yes                   | the phone is theirs, or is nobody's and they sign in: nothing in between   |
//! | directly after the phone was bound           | silence; hangs up, and the phone becomes theirs: it is told to reload now  |
//! | when its old registration was dropped        | the same                                                                   |
//! | when the phone was told to reload            | the phone becomes theirs                                                   |
//! | when the phone has fetched its new file      | the phone becomes theirs                                                   |
//! | during a call                                | silence; hangs up, calls again: the other phone rings at once              |
//! | when the caller of voicemail was thanked     | the message is there                                                       |
//! | in the middle of a message                   | silence; hangs up, calls again: nothing is left of that message            |
//!
//! To the administrator: numbers of events go on, `started` ends the calls that were told before it, a phone has one
//! owner, its generation counts on, and every secret but the present one is dead. Not here: the plug of the phone
//! (`what_goes_wrong.rs`), what a write is worth (`store.rs`).

use std::{
    collections::HashSet,
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket as Guard},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use plugtone::{
    binding,
    dhcp::client_core::{Client, ClientConfig, ClientEvent},
    media::listen::Sound,
    model::{Event, MacAddr, Recorded, event::CheckOutcome},
    phone::{
        audio::Say,
        desk::{Config, Network, News, Phone},
        make::Make,
        person::Person,
    },
    provisioning::identities::{auth_user, provisional_user},
    sip::{
        Credentials, Endpoint, Flow, endpoint,
        register_client::{self, RegisterClient},
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    net::UdpSocket,
    process::{Child, ChildStdout, Command},
    sync::watch,
    time::{sleep, timeout, timeout_at},
};

use super::office::Somebody;
use crate::netns::need;

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(90);
const PLUGTONE: &str = env!("CARGO_BIN_EXE_plugtone");
// Below those that the system gives to anybody who asks for any: they must be free again after a death.
const DHCP: u16 = 6767;
const TFTP: u16 = 6969;
const FTP: u16 = 2121;
const HTTP: u16 = 8081;
const SIP: u16 = 5070;
const API: u16 = 8088;

/// Somebody of config/demo/users.yaml: login, PIN, extension.
const ADA: [&str; 3] = ["1001", "1815", "2041"];
const ALAN: [&str; 3] = ["1002", "1912", "2042"];

/// A server that can be killed and started again, in a network of 256 loopback addresses of its own.
struct Office {
    child: Option<Child>,
    token: String,
    /// a and b of 127.a.b.0/24.
    network: [u8; 2],
    folder: TempDir,
    log: Arc<Mutex<Vec<String>>>,
    /// Keeps other offices out of the network, those of other processes too.
    _guard: Guard,
}

impl Office {
    /// Phones register so often that they soon find out that the server was away.
    async fn opens() -> Self {
        Self::opens_for(10).await
    }

    /// Phones register for so many seconds.
    async fn opens_for(expires_secs: u32) -> Self {
        need("curl", "curl");
        let taken = |network: [u8; 2]| Guard::bind((at(network, 254), 9)).ok().map(|guard| (network, guard));
        let (network, guard) = (0..=u16::MAX).find_map(|n| taken([200 + (n >> 8) as u8 % 50, n as u8])).expect("a free network");
        let folder = tempfile::tempdir().expect("a folder");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let server = at(network, 1);
        let [a, b] = network;
        let text = format!(
            "extensions: {{ range: 2041-2099 }}\n\
             directory: {{ file: {{ path: '{}' }} }}\n\
             dhcp:\n  listen: {server}:{DHCP}\n  loopback: true\n  conflict_check: false\n  \
             subnets: [{{ cidr: 127.{a}.{b}.0/24, range: 127.{a}.{b}.10-127.{a}.{b}.99 }}]\n\
             tftp: {{ listen: ['{server}:{TFTP}'] }}\n\
             ftp: {{ listen: ['{server}:{FTP}'] }}\n\
             http: {{ listen: ['{server}:{HTTP}'] }}\n\
             sip:\n  udp: ['{server}:{SIP}']\n  tcp: ['{server}:{SIP}']\n  \
             min_expires_secs: {expires_secs}\n  default_expires_secs: {expires_secs}\n  max_expires_secs: {expires_secs}\n\
             media: {{ first_port: 0 }}\n\
             api: {{ listen: '{server}:{API}' }}\n\
             store: {{ path: '{}' }}\n",
            root.join("config/demo/users.yaml").display(),
            folder.path().join("plugtone.db").display(),
        );
        fs::write(folder.path().join("plugtone.yaml"), text).expect("written");
        let mut office = Self { child: None, token: String::new(), network, folder, log: Arc::default(), _guard: guard };
        let made = office.plugtone("token").args(["create", "test"]).output().await.expect("plugtone runs");
        let words = String::from_utf8_lossy(&made.stdout).into_owned();
        office.token = words.lines().find(|line| !line.is_empty() && !line.contains(' ')).expect("a token").to_owned();
        office.starts().await;
        office
    }

    fn plugtone(&self, subcommand: &str) -> Command {
        let mut command = Command::new(PLUGTONE);
        command.arg(subcommand).arg("--config").arg(self.path("plugtone.yaml")).kill_on_drop(true);
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn server(&self, port: u16) -> SocketAddr {
        (at(self.network, 1), port).into()
    }

    /// Until it is ready.
    async fn starts(&mut self) {
        let mut child = self.plugtone("serve").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the server starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let (log, (tell, mut ready)) = (self.log.clone(), watch::channel(false));
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let _ = line.contains("ready addresses=").then(|| tell.send(true));
                log.lock().expect("whole").push(line);
            }
        });
        self.child = Some(child);
        let is_ready = timeout(PATIENCE, ready.wait_for(|ready| *ready)).await;
        assert!(matches!(is_ready, Ok(Ok(_))), "the server is not ready");
    }

    /// SIGKILL: nothing is said, nothing is written any more.
    async fn dies(&mut self) {
        let mut child = self.child.take().expect("a server runs");
        child.kill().await.expect("killed");
        self.log.lock().expect("whole").push("--- killed".into());
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/api/v1{path}", self.server(API))
    }

    fn authorization(&self) -> String {
        format!("Authorization: Bearer {}", self.token)
    }

    async fn api(&self, path: &str, more: &[&str]) -> Value {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-m", "30", "-H", &self.authorization(), &self.url(path)]).args(more).kill_on_drop(true);
        let output = curl.output().await.expect("curl runs");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{path}: {error}: {output:?}"))
    }

    async fn gives(&self, mac: MacAddr, login: &str) -> Value {
        let body = json!({ "login": login }).to_string();
        let more = ["-X", "PUT", "-H", "Content-Type: application/json", "-d", &body];
        let binding = self.api(&format!("/devices/{mac}/binding"), &more).await;
        assert!(binding["extension"].is_string(), "a phone that is plugged in can be given away: {binding}");
        binding
    }

    async fn bindings(&self) -> Vec<Value> {
        self.api("/bindings", &[]).await.as_array().expect("a list").clone()
    }

    /// Everything that is told, from the first day on, across deaths.
    fn follows(&self) -> Told {
        Told { url: self.url("/events"), header: self.authorization(), lines: None, after: 0 }
    }

    fn plugs_in(&self, number: u32) -> Somebody {
        let make = Make::of("yealink").expect("a make");
        let mac = make.mac(number);
        let network = Network::Loopback { dhcp: self.server(DHCP) };
        let answer_after = Some(Duration::from_millis(300));
        let mut somebody: Somebody = Person::new(Phone::plug_in(Config { make, mac, network, answer_after }), Box::new(|_| {}));
        somebody.patience = PATIENCE;
        somebody
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log.lock().map(|log| log.clone()).unwrap_or_default();
            eprintln!("--- the last words of the server at {}\n{}", self.server(API), log[log.len().saturating_sub(60)..].join("\n"));
        }
    }
}

fn at([a, b]: [u8; 2], host: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, a, b, host)
}

/// Reads the stream of events, and goes on reading when the server is back.
struct Told {
    url: String,
    header: String,
    lines: Option<(Child, Lines<BufReader<ChildStdout>>)>,
    after: u64,
}

impl Told {
    /// The next event that `wanted` accepts.
    async fn until(&mut self, what: &str, mut wanted: impl FnMut(&Event) -> bool) -> Event {
        let search = async {
            loop {
                let event = self.next().await;
                if wanted(&event) {
                    return event;
                }
            }
        };
        timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("nothing was told of {what}"))
    }

    async fn next(&mut self) -> Event {
        loop {
            if self.lines.is_none() {
                let mut curl = Command::new("curl");
                curl.args(["-sS", "-N", "-H", &self.header, &format!("{}?after={}", self.url, self.after)]);
                let mut child = curl.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn().expect("curl runs");
                let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
                self.lines = Some((child, lines));
            }
            let Some((_, lines)) = &mut self.lines else { continue };
            match lines.next_line().await {
                Ok(Some(line)) => {
                    let Some(told) = line.strip_prefix("data: ") else { continue };
                    let told: Recorded = serde_json::from_str(told).unwrap_or_else(|error| panic!("{error}: {told}"));
                    assert_eq!(told.seq, self.after + 1, "numbers go on, and none is told twice");
                    self.after = told.seq;
                    return told.event;
                }
                _ => {
                    self.lines = None;
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Whether the line 1 of the phone can log in with its secret of this generation.
async fn logs_in(office: &Office, mac: MacAddr, user: &str, generation: u32) -> bool {
    let key = binding::files::load_or_create(&office.path("master.key")).expect("the server's key");
    let socket = UdpSocket::bind((at(office.network, 200), 0)).await.expect("a port");
    let server = office.server(SIP);
    let flow = Flow::udp(socket.local_addr().expect("bound"), server);
    let mut endpoint = Endpoint::new(endpoint::Config::default(), [generation as u8 + 1; 32]);
    let config = register_client::Config {
        aor: format!("sip:{user}@{}", server.ip()),
        display_name: String::new(),
        registrar: format!("sip:{server}"),
        flow,
        contact_user: user.to_owned(),
        credentials: Credentials { username: auth_user(mac, 1), secret: key.sip_secret(mac, 1, generation) },
        expires_secs: 60,
    };
    let mut client = RegisterClient::new(&mut endpoint, config);
    client.register(Instant::now(), &mut endpoint);
    let mut datagram = [0; 4096];
    let exchange = async {
        loop {
            while let Some(transmit) = endpoint.poll_transmit() {
                socket.send_to(&transmit.bytes, server).await.expect("sent");
            }
            match client.poll_event() {
                Some(register_client::Event::Registered { .. }) => return true,
                Some(register_client::Event::Failed { status, .. }) => {
                    assert_eq!(status, 401, "refused as a stranger");
                    return false;
                }
                _ => {}
            }
            let wake = endpoint.poll_timeout().unwrap_or_else(|| Instant::now() + PATIENCE);
            match timeout_at(wake.into(), socket.recv(&mut datagram)).await {
                Ok(length) => endpoint.handle_message(Instant::now(), flow, Bytes::copy_from_slice(&datagram[..length.expect("read")])),
                Err(_) => endpoint.handle_timeout(Instant::now()),
            }
            while let Some(event) = endpoint.poll_event() {
                client.handle(Instant::now(), &mut endpoint, event);
            }
        }
    };
    timeout(PATIENCE, exchange).await.expect("the server answers a REGISTER")
}

/// Where the server dies.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Step {
    Offered,
    Leased,
    BetweenFiles,
    Registered,
    InTheMenu,
    Known,
    SaidYes,
    Bound,
    Dropped,
    Reloading,
    Taken,
}

/// Ada unpacks a phone, the server dies at that step, and Ada has her phone all the same.
async fn the_server_dies(step: Step) {
    let mut office = Office::opens().await;
    let mut told = office.follows();
    let mut desk = office.plugs_in(1);
    let mac = desk.phone.mac;
    let [login, pin, extension] = ADA;
    let trouble = |trouble| -> () { panic!("{step:?}: {trouble}") };

    let reached = |news: &News| match step {
        Step::Offered => matches!(news, News::Offered { .. }),
        Step::Leased => matches!(news, News::Leased { .. }),
        Step::BetweenFiles => matches!(news, News::Missing { .. } | News::Fetched { .. }),
        _ => matches!(news, News::Registered { .. }),
    };
    desk.wait("the step", |news| reached(news).then_some(Ok(()))).await.unwrap_or_else(trouble);
    if step >= Step::InTheMenu {
        desk.call("0").await.unwrap_or_else(trouble);
        desk.hear("the voice", |sound| sound == Sound::Speech).await.map(drop).unwrap_or_else(trouble);
    }
    if step >= Step::Known {
        desk.press(&format!("{login}#{pin}#")).await;
        let accepted = |event: &Event| matches!(event, Event::DirectoryChecked { outcome: CheckOutcome::Accepted, .. });
        told.until("the directory's yes", accepted).await;
    }
    if step >= Step::SaidYes {
        told.until("the question", |event| matches!(event, Event::IvrPrompt { text, .. } if text.contains("press one"))).await;
        desk.press("1").await;
        told.until("the user's yes", |event| matches!(event, Event::IvrKeys { count: 1, .. })).await;
    }
    if step >= Step::Bound {
        told.until("the binding", |event| matches!(event, Event::Bound { .. })).await;
    }
    if step >= Step::Dropped {
        told.until("the end of the old registration", |event| matches!(event, Event::Unregistered { .. })).await;
    }
    if step >= Step::Reloading {
        told.until("the reload", |event| matches!(event, Event::ReloadRequested { .. })).await;
    }
    if step >= Step::Taken {
        told.until("the new file", |event| matches!(event, Event::ReloadTaken { .. })).await;
    }

    office.dies().await;
    if (Step::InTheMenu..=Step::Dropped).contains(&step) {
        // Nothing is heard any more.
        desk.hang_up().await;
        desk.until_hung_up().await.unwrap_or_else(trouble);
    }
    office.starts().await;

    if step < Step::Registered {
        let user = desk.until_registered().await.unwrap_or_else(|trouble| panic!("{step:?}: {trouble}"));
        assert_eq!(user, provisional_user(mac, 1), "{step:?}");
    }
    let bound = office.bindings().await;
    match step {
        Step::SaidYes => assert!(bound.len() <= 1, "{bound:?}"),
        _ => assert_eq!(bound.len(), usize::from(step >= Step::Bound), "{step:?}: what was told is there, and nothing else: {bound:?}"),
    }
    if bound.is_empty() {
        desk.sign_in_at_once("0", login, pin, extension).await.unwrap_or_else(trouble);
    } else {
        desk.until_registered_as(extension).await.unwrap_or_else(trouble);
    }
    if matches!(step, Step::Bound | Step::Dropped) {
        let answer = told.until("the phone's answer", |event| matches!(event, Event::ReloadAnswered { .. })).await;
        assert!(matches!(answer, Event::ReloadAnswered { status: 200, .. }), "it was told where it does not listen: {answer:?}");
    }
    is_adas(&office, &mut told, mac, 1).await;

    if step == Step::Bound {
        let again = office.gives(mac, login).await;
        assert_eq!(again["generation"], 2, "it counts on: {again}");
        desk.until_registered_as(extension).await.unwrap_or_else(trouble);
        is_adas(&office, &mut told, mac, 2).await;
    }
}

/// In service, bound once, and every earlier secret is dead.
async fn is_adas(office: &Office, told: &mut Told, mac: MacAddr, generation: u32) {
    let came_back = |event: &Event| matches!(event, Event::ReloadDone { mac: of, .. } if *of == mac);
    let mut bindings = 0;
    told.until("the phone in service", |event| {
        bindings += usize::from(matches!(event, Event::Bound { .. }));
        came_back(event)
    })
    .await;
    assert!(bindings <= 1, "bound {bindings} times");
    let bindings = office.bindings().await;
    let of = |binding: &Value| (binding["mac"].clone(), binding["extension"].clone(), binding["generation"].clone());
    let wanted = (json!(mac.to_string()), json!(ADA[2]), json!(generation));
    assert_eq!(bindings.iter().map(of).collect::<Vec<_>>(), [wanted]);
    assert!(!logs_in(office, mac, &provisional_user(mac, 1), 0).await, "the secret of the phone that was nobody's is alive");
    for past in 1..generation {
        assert!(!logs_in(office, mac, ADA[2], past).await, "the secret of generation {past} is alive");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_a_phone_is_somebodys() {
    let steps = [Step::Offered, Step::Leased, Step::BetweenFiles, Step::Registered, Step::InTheMenu];
    futures_util::future::join_all(steps.map(the_server_dies)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_phone_becomes_somebodys() {
    let steps = [Step::Known, Step::SaidYes, Step::Bound, Step::Dropped, Step::Reloading, Step::Taken];
    futures_util::future::join_all(steps.map(the_server_dies)).await;
}

/// The one calls the other, and both hear each other.
async fn they_talk(adas: &mut Somebody, alans: &mut Somebody) {
    let ada_speaks = async {
        adas.call(ALAN[2]).await.expect("the colleague answers");
        adas.say(Say::Tone { hz: 440.0 }).await;
        adas.hear("the colleague", |sound| sound.is_like(Sound::Tone { hz: 660.0 })).await.expect("Ada hears Alan");
    };
    let alan_speaks = async {
        alans.wait("a call", |news| matches!(news, News::Answered).then_some(Ok(()))).await.expect("it rings");
        alans.say(Say::Tone { hz: 660.0 }).await;
        alans.hear("the caller", |sound| sound.is_like(Sound::Tone { hz: 440.0 })).await.expect("Alan hears Ada");
    };
    tokio::join!(ada_speaks, alan_speaks);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_a_call() {
    // So long that they need not register again: what is on disk of them must do.
    let mut office = Office::opens_for(600).await;
    let mut told = office.follows();
    let (mut adas, mut alans) = (office.plugs_in(1), office.plugs_in(2));
    for (desk, [login, _, extension]) in [(&mut adas, ADA), (&mut alans, ALAN)] {
        desk.until_registered().await.expect("registered");
        office.gives(desk.phone.mac, login).await;
        desk.until_registered_as(extension).await.expect("theirs");
    }
    they_talk(&mut adas, &mut alans).await;
    told.until("the answer", |event| matches!(event, Event::CallAnswered { .. })).await;
    // The account is written behind the call, by a tenth of a second at most.
    let until = Instant::now() + Duration::from_secs(10);
    let answered = |records: &Value| {
        records["records"].as_array().is_some_and(|all| all.iter().filter(|one| one["answered"].is_string()).count() == 2)
    };
    while !answered(&office.api("/calls/records?user=2041", &[]).await) {
        assert!(Instant::now() < until, "the answer is not in the account");
        sleep(Duration::from_millis(20)).await;
    }
    office.dies().await;
    office.starts().await;
    told.until("the restart", |event| matches!(event, Event::Started { .. })).await;
    assert_eq!(office.api("/calls", &[]).await, json!([]), "no call outlives the server");
    // What was in the account as answered still is, and that it was cut off.
    let records = office.api("/calls/records?user=2041", &[]).await["records"].as_array().expect("a list").clone();
    assert_eq!(records.len(), 2, "{records:?}");
    for record in &records {
        assert!(record["cause"] == "cut off" && record["answered"].is_string() && record["ended"].is_null(), "{record}");
    }
    for desk in [&mut adas, &mut alans] {
        desk.hang_up().await;
        desk.until_hung_up().await.expect("by the user");
    }
    they_talk(&mut adas, &mut alans).await;
}

/// Speaks for two seconds and a half after the beep.
async fn leaves_a_message(adas: &mut Somebody) {
    adas.call(&format!("*99{}", ADA[2])).await.expect("voicemail answers");
    adas.hear("the greeting", |sound| sound == Sound::Speech).await.expect("it speaks");
    adas.press("#").await;
    adas.hear("the beep", |sound| sound.is_like(Sound::Tone { hz: 1000.0 })).await.expect("it beeps");
    adas.say(Say::Tone { hz: 660.0 }).await;
    sleep(Duration::from_millis(2500)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_messages_are_left() {
    let mut office = Office::opens().await;
    let mut told = office.follows();
    let mut adas = office.plugs_in(1);
    adas.until_registered().await.expect("registered");
    office.gives(adas.phone.mac, ADA[0]).await;
    adas.until_registered_as(ADA[2]).await.expect("hers");
    // The caller was thanked: that counts.
    leaves_a_message(&mut adas).await;
    adas.press("#").await;
    told.until("the thanks", |event| matches!(event, Event::IvrPrompt { text, .. } if text.starts_with("Thank you"))).await;
    office.dies().await;
    office.starts().await;
    let path = format!("/voicemail/{}", ADA[2]);
    let messages = office.api(&path, &[]).await;
    assert!(messages.as_array().is_some_and(|all| all.len() == 1), "{messages}");
    let id = messages[0]["id"].as_str().expect("an id").to_owned();
    let wav = office.path("message.wav");
    let fetched = Command::new("curl")
        .args(["-sS", "-f", "-H", &office.authorization(), &office.url(&format!("{path}/{id}/audio")), "-o"])
        .arg(&wav)
        .status();
    assert!(fetched.await.expect("curl runs").success());
    let secs = plugtone::media::files::load(&wav).expect("it plays").duration().as_secs_f64();
    assert!((1.5..5.0).contains(&secs), "{secs} s");
    adas.hang_up().await;
    adas.until_hung_up().await.expect("by the user");
    // In the middle of a message: what there was of it is gone, and nothing else.
    leaves_a_message(&mut adas).await;
    office.dies().await;
    let files = || fs::read_dir(office.path("voicemail").join(ADA[2])).expect("a folder").count();
    assert_eq!(files(), 2, "the message, and the part of one");
    office.starts().await;
    let files = fs::read_dir(office.path("voicemail").join(ADA[2])).expect("a folder").count();
    assert_eq!((office.api(&path, &[]).await, files), (messages, 1));
}

/// Drives DHCP clients that share a socket until `done`.
async fn exchange(socket: &UdpSocket, clients: &mut [Client], mut done: impl FnMut(&mut [Client]) -> bool) {
    let mut packet = [0; 2048];
    let ends = Instant::now() + PATIENCE;
    loop {
        for transmit in clients.iter_mut().filter_map(Client::poll_transmit) {
            // Refused while the server is away: the next retransmission may find it.
            let _ = socket.send(&transmit.bytes).await;
        }
        if done(clients) {
            return;
        }
        assert!(Instant::now() < ends, "the clients wait for ever");
        let wake = clients.iter().filter_map(Client::poll_timeout).min().unwrap_or(ends);
        match timeout_at(wake.into(), socket.recv(&mut packet)).await {
            Ok(Ok(length)) => clients.iter_mut().for_each(|client| client.handle_packet(Instant::now(), &packet[..length])),
            Ok(Err(_)) => {}
            Err(_) => clients.iter_mut().for_each(|client| client.handle_timeout(Instant::now())),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_many_get_an_address() {
    const CLIENTS: u32 = 60;
    const SERVED: usize = 10;
    let mut office = Office::opens().await;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    socket.connect(office.server(DHCP)).await.expect("loopback");
    let make = Make::of("yealink").expect("a make");
    let client = |number: u32, last_address| {
        let first_retry = Duration::from_millis(300);
        let vendor_class = make.vendor_class.map(<[u8]>::to_vec);
        let config = ClientConfig { vendor_class, last_address, first_retry, ..ClientConfig::new(make.mac(number)) };
        let mut client = Client::new(config, u64::from(number), Instant::now());
        client.start(Instant::now());
        client
    };
    let address = |client: &Client| client.lease().map(|lease| lease.address);
    let served = |clients: &[Client]| clients.iter().filter_map(address).count();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|number| client(number, None)).collect();
    exchange(&socket, &mut clients, |clients| served(clients) >= SERVED).await;
    office.dies().await;
    // What the server said before it died still arrives.
    let mut packet = [0; 2048];
    while let Ok(length) = socket.try_recv(&mut packet) {
        clients.iter_mut().for_each(|client| client.handle_packet(Instant::now(), &packet[..length]));
    }
    office.starts().await;

    // Strangers first: they must not get what the others were told is theirs.
    let told: Vec<Option<Ipv4Addr>> = clients.iter().map(address).collect();
    let mut strangers: Vec<Client> = (CLIENTS..CLIENTS + 20).map(|number| client(number, None)).collect();
    exchange(&socket, &mut strangers, |clients| served(clients) == clients.len()).await;
    let mut clients: Vec<Client> = (0..CLIENTS).zip(&told).map(|(number, address)| client(number, *address)).collect();
    exchange(&socket, &mut clients, |clients| served(clients) == clients.len()).await;
    for (client, told) in clients.iter_mut().zip(told) {
        let refused = std::iter::from_fn(|| client.poll_event()).any(|event| matches!(event, ClientEvent::Refused { .. }));
        assert!(told.is_none() || (told == address(client) && !refused), "{told:?} was acknowledged, and is {:?} now", address(client));
    }
    let all: HashSet<Ipv4Addr> = clients.iter().chain(&strangers).filter_map(address).collect();
    assert_eq!(all.len(), clients.len() + strangers.len(), "nobody shares an address");
}
