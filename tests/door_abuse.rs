//! What servers of phones' files were seen to do wrong with bad input, one test per fault, against real doors over real sockets. After each
//! of them an honest phone gets its file.
//!
//! | fault | held here by | and elsewhere by |
//! |---|---|---|
//! | a path leads out, in whatever spelling | `no_spelling_of_a_path_leads_out` | `files::nobody_else_learns_anything`, `fuzz/`, target `http` |
//! | a doubled ACK doubles everything after it (the sorcerer's apprentice) | `tftp_arrives_whole_…` | `fileserver/tftp/sender.rs` |
//! | lost and late packets spoil a file | the same | the same |
//! | what does not fit into a socket is lost | `tftp_sends_by_a_narrow_line_…` | |
//! | block numbers end at 65,535 | `doors::tftp_block_numbers_roll_over_…` | |
//! | a stranger ends a transfer, a client vanishes | `doors::tftp_clients_that_abort_or_vanish_…` | |
//! | PORT to somebody else (bounce) | `doors::ftp_connects_to_nobody_but_the_client` | `fileserver/ftp/session.rs` |
//! | idle log-ins keep phones out | `ftp_who_logs_in_and_waits_keeps_nobody_out` | |
//! | half-open transfers hold a session for ever | `ftp_transfers_that_nobody_takes_end` | |
//! | slow-loris, endless heads | `doors::http_connections_are_kept_…` | |
//! | many ranges make many copies of a file | `http_ranges_cost_no_more_than_the_file` | `fileserver/http/range.rs` |
//! | a DHCP packet kills the server, or leases an address twice | `dhcp::mutations_…` | `dhcp/server/tests.rs`, `fuzz/`, target `dhcp` |
//! | forged MACs take every address, or the place of known phones | `dhcp::forged_macs_…` | `dhcp/limit.rs` |
//! | somebody gives back or spoils another's address | `dhcp::nobody_gives_back_…` | `dhcp/server/tests.rs`; in the phone's own name: `dhcp::who_speaks_in_a_phones_name_…` |

mod dhcp;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use plugtone::{
    fileserver::{ftp, http, tftp},
    phone,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream, UdpSocket},
    task::JoinSet,
    time::timeout,
};

use super::{
    doors::{Folder, HERE, Shelf, Typed, bytes, curl, ftp_door, http_door, run, same, seen, tftp_door, tftp_hpa},
    netns::Namespace,
    sip_abuse::mutator::Random,
};

/// What a line between a phone and the server does to packets; from the same seed the same.
struct BadLine {
    at: SocketAddr,
    /// Blocks that the server sent.
    sent: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for BadLine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl BadLine {
    /// One in ten packets of each way is lost, one in five doubled, one in five late and so behind its successor.
    async fn to(server: SocketAddr, seed: u64) -> Self {
        let outside = UdpSocket::bind((HERE, 0)).await.expect("a socket");
        let inside = Arc::new(UdpSocket::bind((HERE, 0)).await.expect("a socket"));
        let (at, sent) = (outside.local_addr().expect("bound"), Arc::new(AtomicUsize::new(0)));
        let (outside, count) = (Arc::new(outside), sent.clone());
        let task = tokio::spawn(async move {
            let (mut random, mut phone, mut transfer) = (Random(seed), None, server);
            let (mut from_phone, mut from_server) = ([0; 2048], [0; 2048]);
            let mut first = true;
            loop {
                let (socket, to, packet) = tokio::select! {
                    got = outside.recv_from(&mut from_phone) => {
                        let (len, from) = got.expect("received");
                        phone = Some(from);
                        (&inside, transfer, from_phone[..len].to_vec())
                    }
                    got = inside.recv_from(&mut from_server) => {
                        // A closed port of the server's is told as an error.
                        let Ok((len, from)) = got else { continue };
                        transfer = from;
                        if from_server[1] == 3 {
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                        (&outside, phone.expect("the phone asked"), from_server[..len].to_vec())
                    }
                };
                // The request itself must arrive: a phone that is not answered begins again after many seconds.
                let fate = if std::mem::take(&mut first) { 9 } else { random.below(10) };
                let socket = socket.clone();
                match fate {
                    0 => {}
                    1 | 2 => {
                        let _ = socket.send_to(&packet, to).await;
                        let _ = socket.send_to(&packet, to).await;
                    }
                    3 | 4 => {
                        tokio::spawn(async move {
                            tokio::time::sleep(Duration::from_millis(30)).await;
                            let _ = socket.send_to(&packet, to).await;
                        });
                    }
                    _ => {
                        let _ = socket.send_to(&packet, to).await;
                    }
                }
            }
        });
        Self { at, sent, task }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tftp_arrives_whole_by_a_line_that_loses_doubles_and_delays() {
    let shelf = Arc::new(Shelf::new());
    let door = tftp_door(&shelf, tftp::Settings::default());
    let blocks = 20_480 / 512 + 1;
    for seed in 1..=3 {
        let (line, folder) = (BadLine::to(door.at(), seed).await, Folder::new());
        let output = tftp_hpa("binary", line.at, &["get", "20480.bin", &folder.text("file")]).await;
        assert!(output.status.success(), "seed {seed}: {}", seen(&output));
        same(&folder.read("file"), &bytes(20_480), "by a bad line");
        // About one repetition for each loss of either way; the apprentice doubles all that comes after each doubled ACK.
        let sent = line.sent.load(Ordering::Relaxed);
        assert!((blocks..2 * blocks).contains(&sent), "seed {seed}: {sent} for {blocks} blocks");
    }
    assert_eq!(shelf.asked.lock().expect("lock").len(), 3);
}

/// More is under way than the system has room for: what does not fit waits, and is not lost.
#[test]
fn tftp_sends_by_a_narrow_line_what_it_can_take() {
    const PHONES: usize = 40;
    const LONG: usize = 150_000;
    const BLOCK: usize = 1428;
    const WINDOW: usize = 64;
    // So slow that a machine which is busy elsewhere for half a second loses nothing of it.
    let here = Namespace::new("narrow");
    here.run("tc", &["qdisc", "add", "dev", "lo", "root", "tbf", "rate", "25mbit", "burst", "64kb", "limit", "20mb"]);
    let load = here.enter(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut shelf = Shelf::new();
            shelf.files.insert("long.bin".into(), bytes(LONG));
            let door = tftp_door(&Arc::new(shelf), tftp::Settings { max_transfers_per_client: PHONES, ..Default::default() });
            // Neither repeats anything because it takes long.
            let options = phone::tftp::Options {
                block_bytes: Some(BLOCK as u16),
                window_blocks: Some(WINDOW as u16),
                timeout_secs: Some(60),
                wait: Duration::from_secs(60),
                ..Default::default()
            };
            let phones: JoinSet<_> = (0..PHONES).map(|_| phone::tftp::get(HERE, door.at(), "long.bin", options)).collect();
            for got in phones.join_all().await {
                same(&got.expect("the file"), &bytes(LONG), "by a narrow line");
            }
        });
    });
    load.join().expect("all have it");
    let told = here.run("tc", &["-s", "qdisc", "show", "dev", "lo"]);
    let blocks = LONG / BLOCK + 1;
    // The request, its answer, the ACK of that; then the blocks and an ACK for each window.
    let each = 3 + blocks + blocks.div_ceil(WINDOW);
    assert!(told.contains(&format!(" {} pkt ", PHONES * each)), "{each} for each of {PHONES}: {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_path_leads_out() {
    let shelf = Arc::new(Shelf::new());
    let (tftp, http) = (tftp_door(&shelf, tftp::Settings::default()), http_door(&shelf, http::Settings::default()));
    let folder = Folder::new();
    for path in [
        "../../etc/passwd",
        "..\\..\\etc\\passwd",
        "..\\../etc/passwd",
        "a/../../etc/passwd",
        "./.././etc/passwd",
        "/../etc/passwd",
        "//../etc/passwd",
        "\\..\\etc\\passwd",
        "x/..",
        "..",
    ] {
        let output = tftp_hpa("binary", tftp.at(), &["get", path, &folder.text("stolen")]).await;
        let stolen = std::fs::read(folder.path("stolen")).unwrap_or_default();
        assert!(stolen.is_empty(), "{path}: {}", seen(&output));
    }
    for path in [
        "/../etc/passwd",
        "/%2e%2e/etc/passwd",
        "/%2E%2E%2Fetc%2Fpasswd",
        "/..%5cetc%5cpasswd",
        "/%2e%2e%5c%2e./etc/passwd",
        "/a/%2e%2e/%2e%2e/etc/passwd",
        "/..%00/etc/passwd",
        "/513.bin%00",
        "/%2e%2e",
        "//..//etc/passwd",
        "/t/001565aabbcc-x/../../etc/passwd",
    ] {
        let url = format!("http://127.0.0.1:{}{path}", http.port());
        let output = curl(&["--path-as-is", "-w", "%{http_code}", &url]).await;
        let said = seen(&output);
        assert!(said.ends_with("404") && !said.contains("root:"), "{path}: {said}");
    }
    // What is decoded once is not decoded again: a name with a percent sign is a name, and there is no such file.
    let twice = format!("http://127.0.0.1:{}/%252e%252e/etc/passwd", http.port());
    assert_eq!(seen(&curl(&["--path-as-is", "-o", "/dev/null", "-w", "%{http_code}", &twice]).await), "404");
    let url = format!("http://127.0.0.1:{}/513.bin", http.port());
    same(&curl(&["-f", &url]).await.stdout, &bytes(513), "an honest phone");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_ranges_cost_no_more_than_the_file() {
    let shelf = Arc::new(Shelf::new());
    let door = http_door(&shelf, http::Settings::default());
    let url = format!("http://127.0.0.1:{}/20480.bin", door.port());
    let many = |part: &str| format!("Range: bytes={}", vec![part; 1000].join(","));
    for header in [many("0-"), many("0-0"), many("5-,-5"), "Range: bytes=18446744073709551616-".into(), "Range: bytes=--".into()] {
        let output = curl(&["-H", &header, &url]).await;
        assert!(output.stdout.len() <= 20_480, "{} bytes for {}", output.stdout.len(), &header[..30]);
    }
    let part = curl(&["-f", "-r", "0-0", &url]).await;
    same(&part.stdout, &bytes(20_480)[..1], "an honest range");
}

async fn from(last: [u8; 2], at: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(IpAddr::from([127, 0, last[0], last[1]]), 0))?;
    socket.connect(at).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ftp_who_logs_in_and_waits_keeps_nobody_out() {
    let shelf = Arc::new(Shelf::new());
    let door = ftp_door(&shelf, ftp::Settings { idle_timeout_secs: 2, ..Default::default() });
    // As many as the door takes in all, from many addresses; each logs in and says no more.
    let mut idle = Vec::new();
    for number in 0..500u16 {
        let mut session = Typed(from([1 + (number / 250) as u8, (number % 250) as u8 + 1], door.at()).await.expect("connected"));
        assert!(session.reply().await.starts_with("220"), "{number}");
        session.says("USER PlcmSpIp", "331").await;
        session.says("PASS PlcmSpIp", "230").await;
        idle.push(session);
    }
    let mut late = Typed(from([9, 9], door.at()).await.expect("connected"));
    assert!(late.reply().await.starts_with("421"), "one more is told to come again");
    // They are sent away, and a phone that tries again is served by lftp's protocol and curl's.
    let url = format!("ftp://127.0.0.1:{}/513.bin", door.port());
    let served = async {
        loop {
            let output = curl(&["-f", "-u", "PlcmSpIp:PlcmSpIp", &url]).await;
            if output.status.success() {
                return output.stdout;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    same(&timeout(Duration::from_secs(20), served).await.expect("served in the end"), &bytes(513), "a phone");
    for session in &mut idle {
        assert!(session.reply().await.starts_with("421 Idle"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ftp_transfers_that_nobody_takes_end() {
    let shelf = Arc::new(Shelf::new());
    let door = ftp_door(&shelf, ftp::Settings { stall_timeout_secs: 1, ..Default::default() });
    let mut half_open = Vec::new();
    for number in 0..50u8 {
        let mut session = Typed(from([3, number + 1], door.at()).await.expect("connected"));
        session.reply().await;
        for (line, code) in [("USER PlcmSpIp", "331"), ("PASS PlcmSpIp", "230"), ("TYPE I", "200"), ("EPSV", "229")] {
            session.says(line, code).await;
        }
        // It asks for the file and never opens the data connection.
        session.0.write_all(b"RETR 20480.bin\r\n").await.expect("sent");
        half_open.push(session);
    }
    let output =
        run("lftp", "lftp", &["-c", &format!("set net:timeout 10; open -u PlcmSpIp,PlcmSpIp 127.0.0.1:{}; cat 513.bin", door.port())])
            .await;
    same(&output.stdout, &bytes(513), "meanwhile");
    for session in &mut half_open {
        let reply = loop {
            let reply = timeout(Duration::from_secs(20), session.reply()).await.expect("an end");
            if !reply.starts_with("150") {
                break reply;
            }
        };
        assert!(reply.starts_with("425"), "{reply}");
        session.says("NOOP", "200").await;
    }
    // Nor does one hold its session that opened the connection and takes nothing.
    let mut glutton = Typed::logged_in(door.at()).await;
    let reply = glutton.says("EPSV", "229").await;
    let port: u16 = reply.rsplit('|').nth(1).and_then(|port| port.parse().ok()).expect("a port");
    let _data = TcpStream::connect((HERE, port)).await.expect("connected");
    glutton.says("TYPE I", "200").await;
    glutton.says("RETR 20480.bin", "150").await;
    let end = timeout(Duration::from_secs(20), glutton.reply()).await.expect("an end");
    assert!(end.starts_with("426"), "{end}");
    glutton.says("NOOP", "200").await;
}
