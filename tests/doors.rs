//! The three doors against the tools that administrators have: tftp-hpa, curl, lftp; and against what strangers try.
//!
//! The files behind them are a fixture with known bytes (`Shelf`); it is careless on purpose and hands out a secret for
//! any name with `..`, so that what is refused here was refused by a door. The real pipeline has its own tests.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Output,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use bytes::Bytes;
use plugtone::{
    fileserver::{Running, ftp, http, tftp},
    model::Secret,
    phone,
    provisioning::{Body, FileAnswer, FileRequest, FileService, ServedFile, Transfer},
    tls::Tls,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UdpSocket},
    process::Command,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

pub const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const UPLOAD_LIMIT: usize = 50_000;
/// One byte more than 65,535 blocks of 512 and then some: block numbers wrap.
const ROLL_OVER: usize = 34_000_000;

/// Files whose bytes a test knows, and a memory of what was asked.
#[derive(Default)]
pub struct Shelf {
    pub files: HashMap<String, Bytes>,
    delay: Duration,
    pub asked: Mutex<Vec<FileRequest>>,
    uploads: Mutex<HashMap<String, Bytes>>,
    ended: Mutex<Vec<(String, Transfer)>>,
    unchanged: AtomicUsize,
}

/// Bytes in which a lost, doubled or swapped block shows.
pub fn bytes(len: usize) -> Bytes {
    let mut state = 0x9e37_79b9_u32;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 8) as u8
        })
        .collect::<Vec<_>>()
        .into()
}

impl Shelf {
    pub fn new() -> Self {
        let mut files: HashMap<_, _> = [0, 1, 511, 512, 513, 1428, 20_480].map(|len| (format!("{len}.bin"), bytes(len))).into();
        files.insert("text.cfg".into(), Bytes::from_static(b"one\ntwo\r\nthree\rfour\n"));
        files.insert("a b&c.cfg".into(), Bytes::from_static(b"blank"));
        Self { files, ..Self::default() }
    }

    fn with_big() -> Self {
        let mut shelf = Self::new();
        static BIG: OnceLock<Bytes> = OnceLock::new();
        shelf.files.insert("big.bin".into(), BIG.get_or_init(|| bytes(ROLL_OVER)).clone());
        shelf
    }

    pub fn ended(&self) -> Vec<(String, Transfer)> {
        self.ended.lock().expect("lock").clone()
    }

    /// Waits until that many transfers have ended.
    pub async fn wait_ended(&self, count: usize) -> Vec<(String, Transfer)> {
        for _ in 0..500 {
            if self.ended().len() >= count {
                return self.ended();
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("only {:?} of {count} transfers ended", self.ended());
    }

    fn upload(&self, name: &str) -> Option<Bytes> {
        self.uploads.lock().expect("lock").get(name).cloned()
    }
}

#[async_trait::async_trait]
impl FileService for Shelf {
    async fn fetch(&self, request: FileRequest) -> FileAnswer {
        sleep(self.delay).await;
        let path = request.path.replace('\\', "/");
        self.asked.lock().expect("lock").push(request.clone());
        let bytes = match self.files.get(path.trim_start_matches('/')) {
            Some(bytes) => bytes.clone(),
            None if path.ends_with("broken.cfg") => return FileAnswer::Broken,
            None if path.ends_with("panics.cfg") => panic!("as a fault of ours would"),
            None if path.contains("..") || path.contains('\0') => Bytes::from_static(b"root:x:0:0"),
            None => return FileAnswer::NotFound,
        };
        let hash = format!("hash-of-{}", bytes.len());
        self.unchanged.fetch_add(usize::from(request.holds(&hash)), Ordering::Relaxed);
        FileAnswer::Found(ServedFile { body: Body::Whole(bytes), content_type: "text/plain".into(), hash, mac: None })
    }

    async fn upload_limit(&self, request: &FileRequest) -> Option<usize> {
        (request.path.ends_with(".log") || request.path.contains("..")).then_some(UPLOAD_LIMIT)
    }

    async fn store(&self, request: FileRequest, body: Bytes) -> bool {
        let name = request.path.trim_start_matches('/').to_owned();
        let kept = !name.contains("refused");
        if kept {
            self.uploads.lock().expect("lock").insert(name, body);
        }
        kept
    }

    fn ended(&self, request: &FileRequest, _mac: Option<plugtone::model::MacAddr>, transfer: Transfer) {
        self.ended.lock().expect("lock").push((request.path.clone(), transfer));
    }
}

/// A door that closes when the test ends.
pub struct Open {
    running: Running,
    shutdown: CancellationToken,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Open {
    pub fn port(&self) -> u16 {
        self.running.addr().expect("a door that listens").port()
    }

    pub fn at(&self) -> SocketAddr {
        SocketAddr::new(HERE, self.port())
    }

    pub fn secure(&self) -> SocketAddr {
        SocketAddr::new(HERE, self.running.secure()[0].port())
    }
}

fn any_port() -> Vec<SocketAddr> {
    vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))]
}

pub fn tftp_door(shelf: &Arc<Shelf>, settings: tftp::Settings) -> Open {
    let shutdown = CancellationToken::new();
    let settings = tftp::Settings { listen: any_port(), ..settings };
    Open { running: tftp::start(&settings, shelf.clone(), shutdown.clone()).expect("a free port"), shutdown }
}

pub fn ftp_door(shelf: &Arc<Shelf>, settings: ftp::Settings) -> Open {
    let shutdown = CancellationToken::new();
    let settings = ftp::Settings { listen: any_port(), ..settings };
    Open { running: ftp::start(&settings, shelf.clone(), shutdown.clone()).expect("a free port"), shutdown }
}

pub fn http_door(shelf: &Arc<Shelf>, settings: http::Settings) -> Open {
    let shutdown = CancellationToken::new();
    let settings = http::Settings { listen: any_port(), ..settings };
    let beside = Router::new().route("/healthz", get(|| async { "ok" }));
    Open { running: http::start(&settings, shelf.clone(), beside, None, shutdown.clone()).expect("a free port"), shutdown }
}

/// With TLS and without; [`Open::secure`] is the port of the first.
pub fn https_door(shelf: &Arc<Shelf>, settings: http::Settings, tls: Arc<Tls>) -> Open {
    let shutdown = CancellationToken::new();
    let settings = http::Settings { listen: any_port(), tls: any_port(), ..settings };
    Open { running: http::start(&settings, shelf.clone(), Router::new(), Some(tls), shutdown.clone()).expect("free ports"), shutdown }
}

/// Runs a tool of Debian's; a missing one fails the test by naming its package.
pub async fn run(package: &str, program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true).env("LC_ALL", "C").env("HOME", "/nonexistent").stdin(std::process::Stdio::null());
    match timeout(Duration::from_secs(120), command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => panic!("cannot run `{program}`: {error}; install the Debian package {package}"),
        Err(_) => panic!("`{program} {}` hangs", arguments.join(" ")),
    }
}

pub async fn curl(arguments: &[&str]) -> Output {
    run("curl", "curl", &[&["-sS", "--noproxy", "*", "--max-time", "60"], arguments].concat()).await
}

pub fn seen(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

/// Compares without printing megabytes.
pub fn same(got: &[u8], expected: &[u8], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    if got != expected {
        let at = got.iter().zip(expected).position(|(a, b)| a != b);
        panic!("{what}: differs at byte {at:?}");
    }
}

// --- TFTP ---

pub async fn tftp_hpa(mode: &str, at: SocketAddr, arguments: &[&str]) -> Output {
    let (host, port) = (at.ip().to_string(), at.port().to_string());
    run("tftp-hpa", "tftp", &[&["-m", mode, &host, &port, "-c"], arguments].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tftp_files_arrive_whole_in_every_size() {
    let shelf = Arc::new(Shelf::new());
    let door = tftp_door(&shelf, tftp::Settings::default());
    let folder = Folder::new();
    let mut files: Vec<_> = shelf.files.iter().filter(|(name, _)| name.ends_with(".bin")).collect();
    files.sort();
    for (name, expected) in &files {
        tftp_hpa("binary", door.at(), &["get", name, &folder.text("hpa")]).await;
        same(&folder.read("hpa"), expected, &format!("tftp-hpa {name}"));
        for options in
            [&["--tftp-no-options"][..], &[], &["--tftp-blksize", "8"], &["--tftp-blksize", "1428"], &["--tftp-blksize", "65464"]]
        {
            // curl 7.88 takes `tsize` 0 in the OACK for a fault.
            let options = if expected.is_empty() { &["--tftp-no-options"] } else { options };
            let url = format!("tftp://127.0.0.1:{}/{name}", door.port());
            let output = curl(&[options, &["-o", &folder.text("curl"), &url]].concat()).await;
            assert!(output.status.success(), "{name} {options:?}: {}", seen(&output));
            // curl makes no file for no bytes.
            let got = if expected.is_empty() { Vec::new() } else { folder.read("curl") };
            same(&got, expected, &format!("curl {options:?} {name}"));
        }
        for window_blocks in [None, Some(1), Some(4), Some(64), Some(65535)] {
            let options = phone::tftp::Options { window_blocks, tsize: true, ..Default::default() };
            let got = phone::tftp::get(HERE, door.at(), name, options).await.expect("the file");
            same(&got, expected, &format!("window {window_blocks:?} {name}"));
        }
    }
    let ended = shelf.wait_ended(files.len() * 11).await;
    assert!(ended.iter().all(|(_, transfer)| *transfer == Transfer::Delivered), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tftp_block_numbers_roll_over_in_firmware_of_34_megabytes() {
    let shelf = Arc::new(Shelf::with_big());
    let door = tftp_door(&shelf, tftp::Settings::default());
    let folder = Folder::new();
    let expected = &shelf.files["big.bin"];
    tftp_hpa("binary", door.at(), &["get", "big.bin", &folder.text("hpa")]).await;
    same(&folder.read("hpa"), expected, "tftp-hpa");
    let options = phone::tftp::Options { window_blocks: Some(16), ..Default::default() };
    let got = phone::tftp::get(HERE, door.at(), "big.bin", options).await.expect("the file");
    same(&got, expected, "windows of 16");
    let ended = shelf.wait_ended(2).await;
    assert!(ended.iter().all(|(_, transfer)| *transfer == Transfer::Delivered), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tftp_names_with_slashes_and_text_mode() {
    let shelf = Arc::new(Shelf::new());
    let door = tftp_door(&shelf, tftp::Settings::default());
    let folder = Folder::new();
    for name in ["/513.bin", "\\513.bin", "//513.bin"] {
        let got = phone::tftp::get(HERE, door.at(), name, Default::default()).await.expect("the file");
        same(&got, &bytes(513), name);
    }
    // The client turns it back: what arrives is what was there.
    tftp_hpa("netascii", door.at(), &["get", "text.cfg", &folder.text("text")]).await;
    same(&folder.read("text"), &shelf.files["text.cfg"], "netascii");
    // And curl, which does not, sees the wire.
    let url = format!("tftp://127.0.0.1:{}/text.cfg;mode=netascii", door.port());
    assert_eq!(curl(&[&url]).await.stdout, b"one\r\ntwo\r\0\r\nthree\r\0four\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn tftp_missing_files_are_missing_at_once() {
    let shelf = Arc::new(Shelf::new());
    let door = tftp_door(&shelf, tftp::Settings::default());
    let started = Instant::now();
    let output = tftp_hpa("binary", door.at(), &["get", "000000000000.cfg", "/dev/null"]).await;
    assert!(seen(&output).contains("file not found"), "{}", seen(&output));
    for name in ["../secret", "/a/../../secret", "..\\secret", "x\\..\\..\\secret", "/.."] {
        let answer = phone::tftp::get(HERE, door.at(), name, Default::default()).await;
        assert!(matches!(answer, Err(phone::tftp::Error::Refused { code: 1, .. })), "{name}: {answer:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(shelf.asked.lock().expect("lock").len(), 6, "the pipeline hears of each, to tell of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn tftp_uploads_are_kept_by_policy() {
    let shelf = Arc::new(Shelf::new());
    let door = tftp_door(&shelf, tftp::Settings::default());
    let folder = Folder::new();
    for len in [0, 512, 513, 40_000] {
        std::fs::write(folder.path("up"), bytes(len)).expect("written");
        tftp_hpa("binary", door.at(), &["put", &folder.text("up"), &format!("{len}.log")]).await;
        same(&shelf.upload(&format!("{len}.log")).expect("kept"), &bytes(len), "tftp-hpa");
        let options = phone::tftp::Options { block_bytes: Some(1000), window_blocks: Some(8), ..Default::default() };
        phone::tftp::put(HERE, door.at(), "/windows.log", bytes(len).to_vec(), options).await.expect("kept");
        same(&shelf.upload("windows.log").expect("kept"), &bytes(len), "windows");
        let url = format!("tftp://127.0.0.1:{}/curl.log", door.port());
        let output = curl(&["-T", &folder.text("up"), &url]).await;
        assert!(len == 0 || output.status.success(), "{len}: {}", seen(&output));
        if len > 0 {
            same(&shelf.upload("curl.log").expect("kept"), &bytes(len), "curl");
        }
    }
    for (name, len, tsize, code) in [
        ("x.cfg", 10, false, 2),
        ("../x.log", 10, false, 2),
        ("big.log", 60_000, false, 3),
        ("big.log", 60_000, true, 3),
        ("refused.log", 10, false, 2),
    ] {
        let options = phone::tftp::Options { tsize, ..Default::default() };
        let answer = phone::tftp::put(HERE, door.at(), name, bytes(len).to_vec(), options).await;
        assert!(matches!(answer, Err(phone::tftp::Error::Refused { code: c, .. }) if c == code), "{name}: {answer:?}");
    }
    assert_eq!(shelf.uploads.lock().expect("lock").len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn tftp_answers_from_the_address_that_was_asked() {
    let shelf = Arc::new(Shelf::new());
    let door = tftp_door(&shelf, tftp::Settings::default());
    for host in [[127, 0, 0, 2], [127, 0, 0, 3]] {
        let server = SocketAddr::from((host, door.port()));
        // This client takes no answer from another address.
        let got = phone::tftp::get(IpAddr::from([127, 0, 0, 9]), server, "20480.bin", Default::default()).await.expect("the file");
        same(&got, &bytes(20_480), "multi-homed");
        let refused = phone::tftp::get(HERE, server, "none", Default::default()).await;
        assert!(matches!(refused, Err(phone::tftp::Error::Refused { code: 1, .. })), "{refused:?}");
    }
    let asked = shelf.asked.lock().expect("lock").clone();
    let locals: Vec<_> = asked.iter().filter_map(|request| request.local).map(|at| at.to_string()).collect();
    let expected = ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3"].map(|host| format!("{host}:{}", door.port()));
    assert_eq!(locals, expected);
    assert_eq!(asked[0].source, IpAddr::from([127, 0, 0, 9]));
}

#[tokio::test(flavor = "multi_thread")]
async fn tftp_serves_a_hundred_phones_at_once() {
    let shelf = Arc::new(Shelf { delay: Duration::from_millis(100), ..Shelf::new() });
    let door = tftp_door(&shelf, tftp::Settings::default());
    let server = door.at();
    let started = Instant::now();
    let mut phones = JoinSet::new();
    for phone in 0..100u8 {
        phones.spawn(async move {
            let local = IpAddr::from([127, 1, 0, phone + 1]);
            let options = phone::tftp::Options { block_bytes: (phone % 2 == 0).then_some(1428), ..Default::default() };
            for name in ["20480.bin", "512.bin", "513.bin"] {
                let got = phone::tftp::get(local, server, name, options).await.expect("the file");
                same(&got, &bytes(got.len()), name);
            }
        });
    }
    while let Some(done) = phones.join_next().await {
        done.expect("a phone got its files");
    }
    // Opening takes 100 ms; one after the other that would be half a minute.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(shelf.wait_ended(300).await.len(), 300);
}

/// A client of our own making, to do what no honest one does.
async fn raw_tftp(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((HERE, 0)).await.expect("a socket");
    socket.send_to(b"\0\x0120480.bin\0octet\0", server).await.expect("sent");
    socket
}

async fn hear(socket: &UdpSocket, wait: Duration) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; 2048];
    let (len, from) = timeout(wait, socket.recv_from(&mut buffer)).await.ok()?.ok()?;
    Some((buffer[..len].to_vec(), from))
}

#[tokio::test(flavor = "multi_thread")]
async fn tftp_limits_what_one_client_may_have_open() {
    let shelf = Arc::new(Shelf::new());
    let door = tftp_door(&shelf, tftp::Settings { max_transfers_per_client: 2, max_transfers: 3, ..Default::default() });
    let second = Duration::from_secs(1);
    let _first = raw_tftp(door.at()).await;
    let held = raw_tftp(door.at()).await;
    hear(&held, second).await.expect("a block");
    let (answer, from) = hear(&raw_tftp(door.at()).await, second).await.expect("an answer");
    assert_eq!((&answer[..4], from.port()), (&b"\0\x05\0\0"[..], door.port()), "{answer:?}");
    // Another phone is served; the one after it is not even answered, and will ask again.
    let other = |last| async move { UdpSocket::bind((IpAddr::from([127, 0, 0, last]), 0)).await.expect("a socket") };
    let (third, fourth) = (other(7).await, other(8).await);
    third.send_to(b"\0\x0120480.bin\0octet\0", door.at()).await.expect("sent");
    assert!(hear(&third, second).await.is_some());
    fourth.send_to(b"\0\x0120480.bin\0octet\0", door.at()).await.expect("sent");
    assert!(hear(&fourth, second / 2).await.is_none());
    // A slot that becomes free is given again.
    let (_, from) = hear(&held, 3 * second).await.expect("the block again");
    held.send_to(b"\0\x05\0\0enough\0", from).await.expect("sent");
    shelf.wait_ended(1).await;
    fourth.send_to(b"\0\x0120480.bin\0octet\0", door.at()).await.expect("sent");
    assert!(hear(&fourth, second).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn tftp_a_request_sent_twice_is_served_once() {
    let shelf = Arc::new(Shelf { delay: Duration::from_millis(200), ..Shelf::new() });
    let door = tftp_door(&shelf, tftp::Settings::default());
    let client = raw_tftp(door.at()).await;
    client.send_to(b"\0\x0120480.bin\0octet\0", door.at()).await.expect("sent");
    let (block, from) = hear(&client, Duration::from_secs(1)).await.expect("a block");
    assert_eq!(&block[..4], b"\0\x03\0\x01");
    client.send_to(b"\0\x0120480.bin\0octet\0", door.at()).await.expect("sent");
    // The next that comes is the repetition after a second, from the same port.
    let heard = Instant::now();
    let (_, again) = hear(&client, Duration::from_secs(3)).await.expect("a repetition");
    assert_eq!(again, from);
    assert!(heard.elapsed() > Duration::from_millis(700), "{:?}", heard.elapsed());
    assert_eq!(shelf.asked.lock().expect("lock").len(), 1);
    // Another file from the same port: the phone began anew.
    client.send_to(b"\0\x01513.bin\0octet\0", door.at()).await.expect("sent");
    let (block, other) = hear(&client, Duration::from_secs(1)).await.expect("a block");
    assert_ne!(other, from);
    same(&block[4..], &bytes(513)[..512], "the new file");
    let ended = shelf.wait_ended(1).await;
    assert!(matches!(&ended[0].1, Transfer::Failed { reason } if reason.contains("anew")), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tftp_a_client_with_one_port_may_ask_for_the_same_at_once() {
    const ROUNDS: usize = 200;
    let shelf = Arc::new(Shelf::new());
    let door = tftp_door(&shelf, tftp::Settings::default());
    let client = UdpSocket::bind((HERE, 0)).await.expect("a socket");
    let ask = || client.send_to(b"\0\x01511.bin\0octet\0", door.at());
    ask().await.expect("sent");
    let mut silences = 0;
    for round in 0..ROUNDS {
        let heard = hear(&client, Duration::from_secs(1)).await;
        silences += usize::from(heard.is_none());
        // One may be: that this program stood still between the two that it sends below.
        assert!(silences < 4, "request {round} is not answered");
        let Some((block, from)) = heard else {
            ask().await.expect("sent");
            continue;
        };
        same(&block[4..], &bytes(511), "the file");
        // The request comes before the ACK as often as after it: it is no repetition of the one that it ends.
        ask().await.expect("sent");
        client.send_to(b"\0\x04\0\x01", from).await.expect("sent");
    }
    let ended = shelf.wait_ended(ROUNDS - silences).await;
    assert!(ended.iter().all(|(_, transfer)| *transfer == Transfer::Delivered), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tftp_clients_that_abort_or_vanish_are_noticed() {
    let shelf = Arc::new(Shelf::new());
    let door = tftp_door(&shelf, tftp::Settings { retries: 1, ..Default::default() });
    let reason = |ended: &[(String, Transfer)], index: usize| match &ended[index].1 {
        Transfer::Failed { reason } => reason.clone(),
        Transfer::Delivered => panic!("it was not"),
    };
    let client = raw_tftp(door.at()).await;
    let (_, from) = hear(&client, Duration::from_secs(1)).await.expect("a block");
    client.send_to(b"\0\x05\0\0user aborted\0", from).await.expect("sent");
    assert!(reason(&shelf.wait_ended(1).await, 0).contains("user aborted"));
    // A closed port is told by the network.
    let client = raw_tftp(door.at()).await;
    let (_, from) = hear(&client, Duration::from_secs(1)).await.expect("a block");
    client.send_to(b"\0\x04\0\x01", from).await.expect("sent");
    drop(client);
    assert!(reason(&shelf.wait_ended(2).await, 1).contains("closed its port"));
    // One that is unplugged is not: it is waited for.
    let _mute = raw_tftp(door.at()).await;
    assert!(reason(&shelf.wait_ended(3).await, 2).contains("silent"));
    // A stranger who guesses the port changes nothing.
    let client = raw_tftp(door.at()).await;
    let (_, from) = hear(&client, Duration::from_secs(1)).await.expect("a block");
    let stranger = UdpSocket::bind((HERE, 0)).await.expect("a socket");
    stranger.send_to(b"\0\x05\0\0stop\0", from).await.expect("sent");
    client.send_to(b"\0\x04\0\x01", from).await.expect("sent");
    assert_eq!(&hear(&client, Duration::from_millis(500)).await.expect("goes on").0[..4], b"\0\x03\0\x02");
}

#[tokio::test(flavor = "multi_thread")]
async fn tftp_junk_is_not_answered_and_stops_nothing() {
    let shelf = Arc::new(Shelf::new());
    let door = tftp_door(&shelf, tftp::Settings::default());
    let client = UdpSocket::bind((HERE, 0)).await.expect("a socket");
    for junk in [&b""[..], b"\0", b"\0\x05\0\0loop\0", b"\0\x04\0\x01", b"\0\x03\0\x01data", &[0xff; 1400]] {
        client.send_to(junk, door.at()).await.expect("sent");
    }
    assert!(hear(&client, Duration::from_millis(200)).await.is_none());
    for broken in [&b"\0\x01"[..], b"\0\x01name", b"\0\x01name\0mail\0"] {
        client.send_to(broken, door.at()).await.expect("sent");
        assert_eq!(&hear(&client, Duration::from_secs(1)).await.expect("an error").0[..4], b"\0\x05\0\x04");
    }
    same(&phone::tftp::get(HERE, door.at(), "513.bin", Default::default()).await.expect("the file"), &bytes(513), "after junk");
}

#[tokio::test(flavor = "multi_thread")]
async fn doors_end_in_order_and_say_why_they_cannot_open() {
    let shelf = Arc::new(Shelf::new());
    let door = tftp_door(&shelf, tftp::Settings::default());
    let client = raw_tftp(door.at()).await;
    hear(&client, Duration::from_secs(1)).await.expect("a block");
    let taken = tftp::Settings { listen: vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, door.port()))], ..Default::default() };
    let error = tftp::start(&taken, shelf.clone(), CancellationToken::new()).expect_err("the port is taken").to_string();
    assert!(error.contains("another server"), "{error}");
    let nowhere = http::Settings { listen: vec!["192.0.2.1:0".parse().expect("address")], ..Default::default() };
    let error = http::start(&nowhere, shelf.clone(), Router::new(), None, CancellationToken::new()).expect_err("not ours").to_string();
    assert!(error.contains("no interface"), "{error}");
    door.shutdown.cancel();
    timeout(Duration::from_secs(2), door.running.stopped()).await.expect("stops");
    let (farewell, _) = hear(&client, Duration::from_secs(1)).await.expect("a farewell");
    assert_eq!(&farewell[..2], b"\0\x05");
    assert!(matches!(&shelf.ended()[0].1, Transfer::Failed { reason } if reason.contains("stopping")));
}

// --- HTTP ---

#[tokio::test(flavor = "multi_thread")]
async fn http_get_head_ranges_and_etags() {
    let shelf = Arc::new(Shelf::with_big());
    let door = http_door(&shelf, http::Settings::default());
    let url = |path: &str| format!("http://127.0.0.1:{}/{path}", door.port());
    for (name, expected) in &shelf.files {
        let output = curl(&["-f", &url(&name.replace(' ', "%20"))]).await;
        assert!(output.status.success(), "{name}: {}", seen(&output));
        same(&output.stdout, expected, name);
    }
    let head = seen(&curl(&["-I", &url("20480.bin")]).await).to_ascii_lowercase();
    for line in ["200 ok", "content-length: 20480", "content-type: text/plain", "etag: \"hash-of-20480\"", "accept-ranges: bytes"] {
        assert!(head.contains(line), "{line}: {head}");
    }
    let part = curl(&["-f", "-r", "100-199", &url("20480.bin")]).await;
    same(&part.stdout, &bytes(20_480)[100..200], "a range");
    let part = seen(&curl(&["-D", "-", "-o", "/dev/null", "-r", "-5", &url("20480.bin")]).await).to_ascii_lowercase();
    assert!(part.contains("206 partial content") && part.contains("content-range: bytes 20475-20479/20480"), "{part}");
    let none = seen(&curl(&["-i", "-r", "20480-", &url("20480.bin")]).await).to_ascii_lowercase();
    assert!(none.contains("416 ") && none.contains("content-range: bytes */20480"), "{none}");
    let stale = curl(&["-f", "-r", "0-9", "-H", "If-Range: \"old\"", &url("513.bin")]).await;
    same(&stale.stdout, &bytes(513), "a range of another version is the whole");
    let held = seen(&curl(&["-i", "-H", "If-None-Match: W/\"x\", \"hash-of-513\"", &url("513.bin")]).await);
    assert!(held.starts_with("HTTP/1.1 304") && held.ends_with("\r\n\r\n"), "{held}");
    assert_eq!(shelf.unchanged.load(Ordering::Relaxed), 1);
    // curl goes on where a download broke off.
    let folder = Folder::new();
    std::fs::write(folder.path("big"), &shelf.files["big.bin"][..1_000_000]).expect("written");
    assert!(curl(&["-f", "-C", "-", "-o", &folder.text("big"), &url("big.bin")]).await.status.success());
    same(&folder.read("big"), &shelf.files["big.bin"], "continued");
    assert_eq!(curl(&[&url("healthz")]).await.stdout, b"ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_missing_files_and_methods() {
    let shelf = Arc::new(Shelf::new());
    let door = http_door(&shelf, http::Settings::default());
    let status = async |arguments: &[&str], path: &str| {
        let url = format!("http://127.0.0.1:{}{path}", door.port());
        let output = curl(&[&["--path-as-is", "-o", "/dev/null", "-w", "%{http_code}"], arguments, &[&url]].concat()).await;
        seen(&output)
    };
    for path in [
        "/000000000000.cfg",
        "/",
        "/../secret",
        "/a/../../secret",
        "/..",
        "/%2e%2e/secret",
        "/%2E%2E%2Fsecret",
        "/..%2fsecret",
        "/..%5csecret",
        "/%2e%2e%5c%2e%2e%5csecret",
        "/..\\secret",
        "/%252e%252e/secret",
        "/%c0%ae%c0%ae/secret",
        "/x%00.cfg",
        "/..%00/x",
        "/%",
        "/%zz",
    ] {
        assert_eq!(status(&[], path).await, "404", "{path}");
    }
    assert_eq!(status(&["-X", "DELETE"], "/513.bin").await, "405");
    assert_eq!(status(&["-X", "OPTIONS"], "/513.bin").await, "405");
    // A raw byte where phones of Avaya put one.
    assert_eq!(status(&["-A", "Avaya \u{17}1200"], "/513.bin").await, "400");
    assert_eq!(status(&["-A", "Gigaset \u{e9}"], "/513.bin").await, "200");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_uploads_are_kept_by_policy() {
    let shelf = Arc::new(Shelf::new());
    let door = http_door(&shelf, http::Settings { stall_timeout_secs: 1, ..Default::default() });
    let folder = Folder::new();
    let put = async |name: &str, len: usize, more: &[&str]| {
        std::fs::write(folder.path("up"), bytes(len)).expect("written");
        let url = format!("http://127.0.0.1:{}/{name}", door.port());
        seen(&curl(&[&["--path-as-is", "-o", "/dev/null", "-w", "%{http_code}", "-T", &folder.text("up")], more, &[&url]].concat()).await)
    };
    assert_eq!(put("a.log", 40_000, &[]).await, "201");
    same(&shelf.upload("a.log").expect("kept"), &bytes(40_000), "a.log");
    assert_eq!(put("chunked.log", 40_000, &["-H", "Transfer-Encoding: chunked"]).await, "201");
    same(&shelf.upload("chunked.log").expect("kept"), &bytes(40_000), "chunked");
    assert_eq!(put("b.log", UPLOAD_LIMIT + 1, &[]).await, "413");
    assert_eq!(put("b.log", UPLOAD_LIMIT + 1, &["-H", "Expect:", "-H", "Transfer-Encoding: chunked"]).await, "413");
    assert_eq!(put("x.cfg", 10, &[]).await, "404");
    assert_eq!(put("refused.log", 10, &[]).await, "404");
    assert_eq!(put("%2e%2e/x.log", 10, &[]).await, "404");
    // One that stops in the middle is cut off.
    let mut stream = TcpStream::connect(door.at()).await.expect("connected");
    stream.write_all(b"PUT /slow.log HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf").await.expect("sent");
    let mut answer = String::new();
    timeout(Duration::from_secs(4), stream.read_to_string(&mut answer)).await.expect("cut off").expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(shelf.uploads.lock().expect("lock").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_connections_are_kept_and_those_who_dawdle_are_cut_off() {
    let shelf = Arc::new(Shelf::with_big());
    let settings = http::Settings { header_timeout_secs: 1, stall_timeout_secs: 1, ..Default::default() };
    let door = http_door(&shelf, settings);
    let url = format!("http://127.0.0.1:{}/513.bin", door.port());
    let connects = curl(&["-o", "/dev/null", "-o", "/dev/null", "-w", "%{num_connects} ", &url, &url]).await;
    assert_eq!(seen(&connects), "1 0 ");
    // A head that trickles: each byte in time, the whole not.
    let mut loris = TcpStream::connect(door.at()).await.expect("connected");
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < Duration::from_secs(4), "a slow head is never cut off");
        sleep(Duration::from_millis(100)).await;
        if loris.write_all(b"X").await.is_err() || loris.try_read(&mut [0; 512]).is_ok() {
            break;
        }
    }
    assert!(started.elapsed() > Duration::from_millis(800), "{:?}", started.elapsed());
    // A connection that says nothing, before and after a request.
    for first in [&b""[..], b"GET /513.bin HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut idle = TcpStream::connect(door.at()).await.expect("connected");
        idle.write_all(first).await.expect("sent");
        timeout(Duration::from_secs(4), idle.read_to_end(&mut Vec::new())).await.expect("idle connections are closed").expect("in order");
    }
    // One who asks for much and takes nothing.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("small");
    let mut glutton = socket.connect(door.at()).await.expect("connected");
    glutton.write_all(b"GET /big.bin HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    sleep(Duration::from_secs(3)).await;
    let mut taken = 0;
    let mut buffer = vec![0; 1 << 20];
    while let Ok(len @ 1..) = glutton.read(&mut buffer).await {
        taken += len;
    }
    assert!(taken < ROLL_OVER, "the server waited for ever");
    // And a head without end.
    let mut endless = TcpStream::connect(door.at()).await.expect("connected");
    let _ = endless.write_all(format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(100_000)).as_bytes()).await;
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(4), endless.read_to_end(&mut answer)).await.expect("closed");
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test(flavor = "multi_thread")]
async fn http_limits_connections_of_one_client_and_in_all() {
    let shelf = Arc::new(Shelf::new());
    let door = http_door(&shelf, http::Settings { max_connections_per_client: 2, max_connections: 3, ..Default::default() });
    let at = door.at();
    // Served: the connection answers and stays.
    let connect = async |last: u8| {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).expect("a loopback address");
        let mut stream = socket.connect(at).await.expect("connected");
        let _ = stream.write_all(b"HEAD /513.bin HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let served = matches!(timeout(Duration::from_secs(2), stream.read(&mut [0; 512])).await, Ok(Ok(1..)));
        (served, stream)
    };
    let (first, _one) = connect(7).await;
    let (second, two) = connect(7).await;
    let (third, _) = connect(7).await;
    let (other, _three) = connect(8).await;
    let (over, _) = connect(9).await;
    assert_eq!([first, second, third, other, over], [true, true, false, true, false]);
    drop(two);
    sleep(Duration::from_millis(200)).await;
    assert!(connect(9).await.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_phones_of_ours_see_what_curl_sees() {
    let shelf = Arc::new(Shelf::new());
    let door = http_door(&shelf, http::Settings::default());
    let phone = phone::http::Client::new(IpAddr::from([127, 0, 0, 9]), "Yealink SIP-T46S 66.86.0.15 00:15:65:aa:bb:cc");
    let url = format!("http://127.0.0.3:{}/20480.bin", door.port());
    let answer = phone.get(&url, None).await.expect("an answer");
    same(&answer.body, &bytes(20_480), "the file");
    let etag = answer.etag.expect("an ETag");
    assert_eq!(phone.get(&url, Some(&etag)).await.expect("an answer").status, 304);
    assert_eq!(phone.put(&format!("http://127.0.0.3:{}/p.log", door.port()), bytes(9)).await.expect("an answer").status, 201);
    let asked = shelf.asked.lock().expect("lock")[0].clone();
    assert_eq!((asked.source, asked.local), (IpAddr::from([127, 0, 0, 9]), Some(SocketAddr::from(([127, 0, 0, 3], door.port())))));
    assert_eq!(asked.user_agent.as_deref(), Some("Yealink SIP-T46S 66.86.0.15 00:15:65:aa:bb:cc"));
}

// --- FTP ---

pub const LOGIN: &str = "PlcmSpIp:PlcmSpIp";

#[tokio::test(flavor = "multi_thread")]
async fn ftp_files_arrive_whole_in_every_mode() {
    let shelf = Arc::new(Shelf::with_big());
    let door = ftp_door(&shelf, ftp::Settings::default());
    let folder = Folder::new();
    let mut files: Vec<_> = shelf.files.iter().filter(|(name, _)| name.ends_with(".bin")).collect();
    files.sort();
    for (name, expected) in &files {
        // EPSV, PASV, EPRT, PORT.
        for mode in [&[][..], &["--disable-epsv"], &["-P", "-"], &["-P", "-", "--disable-eprt"]] {
            let url = format!("ftp://127.0.0.1:{}/{name}", door.port());
            let output = curl(&[mode, &["-u", LOGIN, "-o", &folder.text("curl"), &url]].concat()).await;
            assert!(output.status.success(), "{name} {mode:?}: {}", seen(&output));
            let got = if expected.is_empty() { Vec::new() } else { folder.read("curl") };
            same(&got, expected, &format!("curl {mode:?} {name}"));
        }
        for passive in ["yes", "no"] {
            let script = format!(
                "set net:max-retries 1; set net:timeout 10; set ftp:ssl-allow no; set ftp:passive-mode {passive}; \
                 open -u PlcmSpIp,PlcmSpIp ftp://127.0.0.1:{}; get -e {name} -o {}",
                door.port(),
                folder.text("lftp")
            );
            let output = run("lftp", "lftp", &["--norc", "-c", &script]).await;
            assert!(output.status.success(), "{name} passive {passive}: {}", seen(&output));
            same(&folder.read("lftp"), expected, &format!("lftp passive {passive} {name}"));
        }
    }
    let ended = shelf.wait_ended(files.len() * 6 - 2).await;
    assert!(ended.iter().all(|(_, transfer)| *transfer == Transfer::Delivered), "{ended:?}");
    // SIZE before RETR is the same request to the pipeline.
    let asked = shelf.asked.lock().expect("lock").len();
    assert!(asked <= files.len() * 6, "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ftp_size_time_ranges_uploads_and_empty_listings() {
    let shelf = Arc::new(Shelf::new());
    let door = ftp_door(&shelf, ftp::Settings::default());
    let folder = Folder::new();
    let url = |name: &str| format!("ftp://127.0.0.1:{}/{name}", door.port());
    let head = seen(&curl(&["-I", "-u", LOGIN, &url("20480.bin")]).await);
    assert!(head.contains("Content-Length: 20480") && head.contains("Last-Modified: "), "{head}");
    let part = curl(&["-r", "100-", "-u", LOGIN, &url("20480.bin")]).await;
    same(&part.stdout, &bytes(20_480)[100..], "from byte 100");
    for listing in [&[][..], &["-l"], &["-X", "MLSD"]] {
        let output = curl(&[listing, &["-u", LOGIN, &url("")]].concat()).await;
        assert!(output.status.success() && output.stdout.is_empty(), "{}", seen(&output));
    }
    let text = curl(&["--use-ascii", "-u", LOGIN, &url("text.cfg")]).await;
    assert_eq!(text.stdout, b"one\ntwo\nthree\nfour\n", "curl turns the line ends of type A back, and a lone CR too");
    for len in [0, 1, 40_000] {
        std::fs::write(folder.path("up"), bytes(len)).expect("written");
        let output = curl(&["-u", LOGIN, "-T", &folder.text("up"), &url("sub/up.log")]).await;
        assert!(output.status.success(), "{}", seen(&output));
        same(&shelf.upload("sub/up.log").expect("kept"), &bytes(len), "uploaded");
    }
    std::fs::write(folder.path("up"), bytes(UPLOAD_LIMIT + 1)).expect("written");
    for name in ["big.log", "x.cfg", "refused.log"] {
        assert!(!curl(&["-u", LOGIN, "-T", &folder.text("up"), &url(name)]).await.status.success(), "{name}");
    }
    let account = phone::ftp::Account {
        local: IpAddr::from([127, 0, 0, 9]),
        server: SocketAddr::from(([127, 0, 0, 3], door.port())),
        user: "PlcmSpIp".into(),
        password: Secret::new("PlcmSpIp"),
    };
    same(&account.get("/513.bin").await.expect("the file"), &bytes(513), "our own client");
    account.put("/own.log", &bytes(100)).await.expect("kept");
    assert!(matches!(account.get("/none").await, Err(phone::ftp::Error::Refused { command: "RETR", .. })));
    let asked = shelf.asked.lock().expect("lock").last().cloned().expect("asked");
    assert_eq!((asked.source, asked.local.map(|at| at.ip())), (IpAddr::from([127, 0, 0, 9]), Some(IpAddr::from([127, 0, 0, 3]))));
}

/// A control connection to type into.
pub struct Typed(pub TcpStream);

impl Typed {
    pub async fn open(at: SocketAddr) -> Self {
        let mut typed = Self(TcpStream::connect(at).await.expect("connected"));
        assert!(typed.reply().await.starts_with("220 "));
        typed
    }

    pub async fn logged_in(at: SocketAddr) -> Self {
        let mut typed = Self::open(at).await;
        typed.says("USER PlcmSpIp", "331").await;
        typed.says("PASS PlcmSpIp", "230").await;
        typed
    }

    pub async fn reply(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            match timeout(Duration::from_secs(5), self.0.read_u8()).await.expect("a reply in time") {
                Ok(byte) => line.push(byte),
                Err(_) => break,
            }
        }
        String::from_utf8_lossy(&line).into_owned()
    }

    pub async fn says(&mut self, line: &str, code: &str) -> String {
        self.0.write_all(format!("{line}\r\n").as_bytes()).await.expect("sent");
        let reply = self.reply().await;
        assert!(reply.starts_with(code), "{line}: {reply}");
        reply
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ftp_lets_in_nobody_else_and_nobody_out() {
    let shelf = Arc::new(Shelf::new());
    let door = ftp_door(&shelf, ftp::Settings::default());
    let url = format!("ftp://127.0.0.1:{}/513.bin", door.port());
    for login in ["PlcmSpIp:wrong", "plcmspip:PlcmSpIp", "root:PlcmSpIp", "anonymous:me@"] {
        assert_eq!(curl(&["-u", login, &url]).await.status.code(), Some(67), "{login}");
    }
    assert!(shelf.asked.lock().expect("lock").is_empty());
    let mut stranger = Typed::open(door.at()).await;
    for command in ["PASV", "EPSV", "PORT 127,0,0,1,200,1", "RETR 513.bin", "STOR x.log", "SIZE 513.bin", "LIST", "CWD /"] {
        stranger.says(command, "530").await;
    }
    // Three wrong passwords, and slower each time than a list of words likes.
    let started = Instant::now();
    for reply in ["530", "530", "421"] {
        stranger.says("USER PlcmSpIp", "331").await;
        stranger.says("PASS guess", reply).await;
    }
    assert!(started.elapsed() > Duration::from_millis(1900));
    assert_eq!(stranger.reply().await, "");

    let mut phone = Typed::logged_in(door.at()).await;
    phone.says("TYPE I", "200").await;
    for name in ["../secret", "/../secret", "..\\secret", "a/../../secret", "/..", "\u{1}"] {
        phone.says(&format!("RETR {name}"), "550").await;
        phone.says(&format!("SIZE {name}"), "550").await;
        phone.says(&format!("STOR {name}"), "550").await;
    }
    phone.says("CWD ../../..", "250").await;
    phone.says("PWD", "257 \"/\"").await;
    for command in ["DELE 513.bin", "RNFR 513.bin", "MKD x", "RMD x", "APPE x.log", "SITE CHMOD 777 x"] {
        phone.says(command, "550").await;
    }
    phone.says(&"x".repeat(3000), "500").await;
    assert!(curl(&["-u", LOGIN, "--path-as-is", &format!("ftp://127.0.0.1:{}/%2e%2e/%2e%2e/secret", door.port())]).await.stdout.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn ftp_connects_to_nobody_but_the_client() {
    let shelf = Arc::new(Shelf::new());
    let door = ftp_door(&shelf, ftp::Settings::default());
    let victim = tokio::net::TcpListener::bind("127.0.0.4:0").await.expect("a victim");
    let port = victim.local_addr().expect("bound").port();
    let mut phone = Typed::logged_in(door.at()).await;
    phone.says(&format!("PORT 127,0,0,4,{},{}", port >> 8, port & 255), "504").await;
    phone.says(&format!("EPRT |1|127.0.0.4|{port}|"), "504").await;
    phone.says("PORT 127,0,0,1,0,25", "504").await;
    phone.says("RETR 513.bin", "425").await;
    assert!(timeout(Duration::from_millis(300), victim.accept()).await.is_err(), "a bounce");
    // And takes data connections from nobody else.
    let reply = phone.says("EPSV", "229").await;
    let data: u16 = reply.rsplit('|').nth(1).and_then(|port| port.parse().ok()).expect("a port");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.5:0".parse().expect("address")).expect("bound");
    let mut thief = socket.connect(SocketAddr::new(HERE, data)).await.expect("connected");
    phone.says("TYPE I", "200").await;
    phone.0.write_all(b"RETR 513.bin\r\n").await.expect("sent");
    let mut stolen = Vec::new();
    let _ = timeout(Duration::from_secs(2), thief.read_to_end(&mut stolen)).await.expect("sent away");
    assert!(stolen.is_empty());
    let mut own = TcpStream::connect((HERE, data)).await.expect("connected");
    let mut got = Vec::new();
    assert!(phone.reply().await.starts_with("150"));
    own.read_to_end(&mut got).await.expect("the file");
    drop(own);
    same(&got, &bytes(513), "the right client still gets it");
    assert!(phone.reply().await.starts_with("226"));
}

#[tokio::test(flavor = "multi_thread")]
async fn ftp_aborts_limits_port_ranges_and_idle_clients() {
    let shelf = Arc::new(Shelf::with_big());
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
    let settings = ftp::Settings {
        passive_ports: Some(ftp::PortRange { first: free, last: free }),
        max_connections_per_client: 2,
        idle_timeout_secs: 2,
        ..Default::default()
    };
    let door = ftp_door(&shelf, settings);
    let mut phone = Typed::logged_in(door.at()).await;
    phone.says("TYPE I", "200").await;
    phone.says("EPSV", &format!("229 Entering extended passive mode (|||{free}|)")).await;
    let data = TcpStream::connect((HERE, free)).await.expect("connected");
    phone.says("RETR big.bin", "150").await;
    phone.0.write_all(b"\xff\xf4\xff\xf2ABOR\r\n").await.expect("sent");
    assert!(phone.reply().await.starts_with("426"));
    assert!(phone.reply().await.starts_with("226"));
    drop(data);
    assert!(matches!(&shelf.wait_ended(1).await[0].1, Transfer::Failed { reason } if reason.contains("aborted")));
    phone.says("NOOP", "200").await;
    // The port of the range is used again for the next.
    phone.says("PASV", "227").await;
    let _second = Typed::open(door.at()).await;
    let mut third = Typed(TcpStream::connect(door.at()).await.expect("connected"));
    assert!(third.reply().await.starts_with("421"));
    assert!(phone.reply().await.starts_with("421 Idle"));
}

/// A phone that took it for missing would go on without, or with what is meant for everybody.
#[tokio::test(flavor = "multi_thread")]
async fn every_door_tells_what_is_broken_from_what_is_missing() {
    let shelf = Arc::new(Shelf::new());
    let tftp = tftp_door(&shelf, tftp::Settings::default());
    for (name, number) in [("broken.cfg", 0), ("panics.cfg", 0), ("none.cfg", 1)] {
        let answer = phone::tftp::get(HERE, tftp.at(), name, Default::default()).await;
        assert!(matches!(answer, Err(phone::tftp::Error::Refused { code, .. }) if code == number), "{name}: {answer:?}");
    }
    let heard = tftp_hpa("binary", tftp.at(), &["get", "broken.cfg", "/dev/null"]).await;
    assert!(seen(&heard).contains("cannot be made now"), "{}", seen(&heard));

    let http = http_door(&shelf, http::Settings::default());
    let url = |name: &str| format!("http://127.0.0.1:{}/{name}", http.port());
    let head = seen(&curl(&["-i", &url("broken.cfg")]).await);
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("retry-after: 60"), "{head}");
    assert!(seen(&curl(&["-i", &url("none.cfg")]).await).starts_with("HTTP/1.1 404 "));

    let ftp = ftp_door(&shelf, ftp::Settings::default());
    let mut client = Typed::logged_in(ftp.at()).await;
    client.says("TYPE I", "200").await;
    for command in ["SIZE", "MDTM", "RETR"] {
        client.says(&format!("{command} broken.cfg"), "451").await;
        client.says(&format!("{command} none.cfg"), "550").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_door_speaks_ipv6() {
    let shelf = Arc::new(Shelf::new());
    let listen: Vec<SocketAddr> = vec!["[::]:0".parse().expect("address")];
    let shutdown = CancellationToken::new();
    let tftp = tftp::Settings { listen: listen.clone(), ..Default::default() };
    let ftp = ftp::Settings { listen: listen.clone(), ..Default::default() };
    let http = http::Settings { listen, ..Default::default() };
    let doors = [
        ("tftp", tftp::start(&tftp, shelf.clone(), shutdown.clone()).expect("open")),
        ("ftp", ftp::start(&ftp, shelf.clone(), shutdown.clone()).expect("open")),
        ("http", http::start(&http, shelf.clone(), Router::new(), None, shutdown.clone()).expect("open")),
    ];
    for (scheme, door) in &doors {
        let url = format!("{scheme}://[::1]:{}/20480.bin", door.addr().expect("listening").port());
        let login: &[&str] = if *scheme == "ftp" { &["-u", LOGIN] } else { &[] };
        let output = curl(&[login, &["-g", &url]].concat()).await;
        same(&output.stdout, &bytes(20_480), &format!("{url}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    shutdown.cancel();
}
