//! The makers' firmware, with the real server and clients that are not ours: kept as it was added, served whole by every door, and
//! brought to phones some first.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use plugtone::{
    fileserver::{ftp, http},
    model::{Event, Events, MacAddr},
    provisioning::{Body, FileAnswer, FileRequest, FileService, ServedFile, Transfer, firmware::Depot},
    template::firmware::Image,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{Phones, Server},
    netns::{need, within},
};

const TEMPLATES: &str = "directory: { file: { path: users.yaml } }\ntemplates: { path: tpl }\n";
const PATH: &str = "firmware/yealink/66.86.0.90/T46S.rom";

/// So many bytes that no compression and no luck makes equal.
fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

fn run(program: &str, folder: &Path, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).current_dir(folder).stdin(Stdio::null()).output().expect("it runs")
}

fn curl(folder: &Path, arguments: &[&str]) -> Output {
    run("curl", folder, &[&["-sS", "-m", "60"], arguments].concat())
}

/// By the program that administrators use for it.
fn sha256(folder: &Path, name: &str) -> String {
    let output = run("sha256sum", folder, &[name]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text").split(' ').next().expect("a sum").to_owned()
}

fn add(server: &Server, name: &str, version: &str, more: &[&str]) -> crate::cli::Run {
    server.ask(&[&["firmware", "add", name, "--make", "yealink", "--version", version], more].concat())
}

#[test]
fn it_is_kept_with_its_checksum_and_comes_whole_by_http_and_tftp() {
    for (program, package) in [("curl", "curl"), ("tftp", "tftp-hpa")] {
        need(program, package);
    }
    let server = Server::start(TEMPLATES, &[]);
    let folder = server.folder.path();
    // No multiple of anything that is read or sent at once.
    let image = noise(1, 5_000_123);
    fs::write(server.path("T46S.rom"), &image).expect("written");
    let sum = sha256(folder, "T46S.rom");
    assert!(add(&server, "T46S.rom", "66.86.0.90", &["--model", "T46S"]).good().contains(&format!("5000123 bytes, SHA-256 {sum}")));
    assert_eq!(fs::read(server.path("data").join(PATH)).expect("it is there"), image);

    // The same again is nothing new; another by its name is refused, and of another version another file.
    add(&server, "T46S.rom", "66.86.0.90", &["--model", "T46S"]).good();
    fs::create_dir(server.path("other")).expect("made");
    fs::write(server.path("other/T46S.rom"), noise(2, 1000)).expect("written");
    let told = add(&server, "other/T46S.rom", "66.86.0.90", &[]).bad();
    assert!(told.contains("another file is there") && told.contains(&sum), "{told}");
    add(&server, "other/T46S.rom", "66.86.0.91", &[]).good();
    for (name, version, make, word) in [
        ("T46S.rom", "../..", "yealink", "cannot be a name"),
        ("T46S.rom", "1", "yaelink", "no family 'yaelink'"),
        ("nothing.rom", "1", "yealink", "cannot read nothing.rom"),
    ] {
        let told = server.ask(&["firmware", "add", name, "--make", make, "--version", version]).bad();
        assert!(told.contains(word), "{told}");
    }
    let listed = server.ask(&["firmware", "list", "--json"]).json();
    let files: Vec<_> = listed["files"].as_array().expect("files").iter().map(|file| (&file["version"], &file["sound"])).collect();
    assert_eq!(files, [(&"66.86.0.90".into(), &true.into()), (&"66.86.0.91".into(), &true.into())]);
    assert_eq!(listed["files"][0]["sha256"], sum);

    // By HTTP: whole, a part, from where a phone was cut off, and not at all where it has it.
    let url = format!("http://{}/{PATH}", server.http);
    let got = curl(folder, &["-D", "head", "-o", "got", &url]);
    assert!(got.status.success(), "{got:?}");
    assert_eq!(sha256(folder, "got"), sum);
    let head = fs::read_to_string(server.path("head")).expect("headers").to_lowercase();
    for header in ["content-length: 5000123", "accept-ranges: bytes", &format!("etag: \"{sum}\""), "content-type: application/octet-stream"]
    {
        assert!(head.contains(header), "no {header}: {head}");
    }
    for (range, part) in [
        ("0-0", &image[..1]),
        ("65535-65536", &image[65535..65537]),
        ("100000-399999", &image[100_000..400_000]),
        ("-7", &image[5_000_116..]),
    ] {
        let got = curl(folder, &["-r", range, &url]);
        assert_eq!(got.stdout, part, "{range}");
    }
    fs::write(server.path("half"), &image[..2_345_678]).expect("written");
    assert!(curl(folder, &["-C", "-", "-o", "half", &url]).status.success());
    assert_eq!(sha256(folder, "half"), sum);
    let unchanged = curl(folder, &["-H", &format!("If-None-Match: \"{sum}\""), "-w", "%{http_code}", "-o", "nothing", &url]);
    assert_eq!(String::from_utf8_lossy(&unchanged.stdout), "304");
    let head = String::from_utf8(curl(folder, &["-I", &url]).stdout).expect("text");
    assert!(head.contains("content-length: 5000123"), "{head}");

    // By TFTP: in blocks of 512 as a boot loader does, and in large ones; and by its bare name while that is one file's only.
    let (host, port) = (server.tftp.ip().to_string(), server.tftp.port().to_string());
    let got = run("tftp", folder, &[&host, &port, "-m", "binary", "-c", "get", PATH, "by-tftp"]);
    assert!(got.status.success(), "{got:?}");
    assert_eq!(sha256(folder, "by-tftp"), sum);
    let large = curl(folder, &["--tftp-blksize", "8192", "-o", "by-curl", &format!("tftp://{}/{PATH}", server.tftp)]);
    assert!(large.status.success(), "{large:?}");
    assert_eq!(sha256(folder, "by-curl"), sum);
    let bare = format!("tftp://{}/T46S.rom", server.tftp);
    assert!(!curl(folder, &["-o", "bare", &bare]).status.success(), "two are called so");
    server.ask(&["firmware", "remove", "T46S.rom", "--make", "yealink", "--version", "66.86.0.91"]).good();
    assert!(curl(folder, &["-o", "bare", &bare]).status.success());
    assert_eq!(sha256(folder, "bare"), sum);

    // Nothing else of the folder, and nothing beside it.
    for path in [
        "firmware/firmware.yaml",
        "firmware/",
        "firmware/yealink/66.86.0.90/",
        "firmware/yealink/66.86.0.91/T46S.rom",
        "firmware/yealink/66.86.0.90/../../../plugtone.db",
        "firmware/%2e%2e/plugtone.db",
        "firmware/yealink/66.86.0.90/..%5c..%5cfirmware.yaml",
        "firmware/yealink/66.86.0.90/T46S.rom%00.cfg",
    ] {
        let got = curl(folder, &["--path-as-is", "-w", "%{http_code}", "-o", "nothing", &format!("http://{}/{path}", server.http)]);
        assert_eq!(String::from_utf8_lossy(&got.stdout), "404", "{path}");
    }

    // One byte is another on disk: nobody gets any of it, and it is said. When it is as it was, it is served again.
    let disk = fs::File::options().read(true).write(true).open(server.path("data").join(PATH)).expect("opened");
    let mut byte = [0];
    disk.read_exact_at(&mut byte, 3_000_000).expect("read");
    disk.write_all_at(&[byte[0] ^ 1], 3_000_000).expect("written");
    let got = curl(folder, &["-w", "%{http_code}", "-o", "nothing", &url]);
    assert_eq!(String::from_utf8_lossy(&got.stdout), "404");
    assert!(!run("tftp", folder, &[&host, &port, "-m", "binary", "-c", "get", PATH, "x"]).stdout.is_empty(), "tftp-hpa says the error");
    assert!(fs::read(server.path("x")).unwrap_or_default().is_empty());
    assert!(server.ask(&["firmware", "list"]).good().contains("DAMAGED"));
    server.until_logged("firmware is not served: it is not what was added");
    disk.write_all_at(&byte, 3_000_000).expect("written");
    assert!(curl(folder, &["-o", "again", &url]).status.success());
    assert_eq!(sha256(folder, "again"), sum);
}

/// The highest that its memory ever was, in bytes.
fn peak_memory(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

#[test]
fn many_phones_load_a_large_one_at_once_and_none_of_it_stays_in_memory() {
    need("curl", "curl");
    let server = Server::start(TEMPLATES, &[]);
    let folder = server.folder.path();
    fs::write(server.path("T46S.rom"), noise(3, 60_000_000)).expect("written");
    add(&server, "T46S.rom", "66.86.0.90", &[]).good();
    let sum = sha256(folder, "T46S.rom");
    let before = peak_memory(server.pid());
    thread::scope(|scope| {
        for n in 0..12 {
            let (server, sum) = (&server, &sum);
            scope.spawn(move || {
                let (name, door) =
                    (format!("got-{n}"), if n % 3 == 0 { format!("tftp://{}", server.tftp) } else { format!("http://{}", server.http) });
                let got = curl(server.folder.path(), &["--tftp-blksize", "8192", "-o", &name, &format!("{door}/{PATH}")]);
                assert!(got.status.success(), "{got:?}");
                assert_eq!(&sha256(server.folder.path(), &name), sum);
                fs::remove_file(server.path(&name)).expect("removed");
            });
        }
    });
    // The kernel looks at a process from time to time: what it says for the highest may be a page less than it said before.
    let grown = peak_memory(server.pid()).saturating_sub(before);
    assert!(grown < 40_000_000, "{grown} bytes more for twelve times sixty million");
}

#[test]
fn an_upload_that_a_power_cut_ends_leaves_nothing() {
    need("curl", "curl");
    let server = Server::start(TEMPLATES, &[]);
    fs::write(server.path("T46S.rom"), noise(4, 8_000_000)).expect("written");
    let token = fs::read_to_string(server.path("data/cli.token")).expect("a token");
    let url = format!("http://{}/api/v1/firmware/yealink/66.86.0.90/T46S.rom", server.api);
    let authorization = format!("Authorization: Bearer {}", token.trim());
    let mut slow = Command::new("curl");
    slow.args(["-sS", "-m", "60", "--limit-rate", "1M", "-T", "T46S.rom", "-H", &authorization, &url]).current_dir(server.folder.path());
    let mut slow = slow.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("curl runs");
    let data = server.path("data/firmware");
    let names = |data: &Path| -> Vec<String> {
        fs::read_dir(data).expect("a folder").map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    };
    assert!(within(Duration::from_secs(20), || names(&data).iter().any(|name| name.starts_with(".incoming-"))), "it never came in");
    let server = server.dies_and_starts_again();
    assert!(!slow.wait().expect("it ends").success());
    assert_eq!(names(&data), [""; 0], "nothing is left of it");
    assert_eq!(server.ask(&["firmware", "list", "--json"]).json()["files"], serde_json::json!([]));

    // And what was added is there after one.
    add(&server, "T46S.rom", "66.86.0.90", &[]).good();
    server.ask(&["firmware", "pin", "--make", "yealink", "--version", "66.86.0.90"]).good();
    let server = server.dies_and_starts_again();
    let listed = server.ask(&["firmware", "list", "--json"]).json();
    assert_eq!((&listed["files"][0]["sound"], &listed["pins"][0]["version"]), (&true.into(), &"66.86.0.90".into()), "{listed}");
    assert_eq!(sha256(server.folder.path(), "T46S.rom"), listed["files"][0]["sha256"]);
    assert!(
        server.ask(&["firmware", "remove", "T46S.rom", "--make", "yealink", "--version", "66.86.0.90"]).bad().contains("is pinned for")
    );
}

/// A folder of firmware behind doors, and nothing else.
struct Shop(Depot, Mutex<Vec<Transfer>>);

#[async_trait]
impl FileService for Shop {
    async fn fetch(&self, request: FileRequest) -> FileAnswer {
        match self.0.open_file(request.path.trim_start_matches('/')).await {
            Some(stored) => {
                let hash = stored.image.sha256.clone();
                FileAnswer::Found(ServedFile {
                    body: Body::Stored(stored),
                    content_type: "application/octet-stream".into(),
                    hash,
                    mac: None,
                })
            }
            None => FileAnswer::NotFound,
        }
    }

    async fn upload_limit(&self, _: &FileRequest) -> Option<usize> {
        None
    }

    async fn store(&self, _: FileRequest, _: Bytes) -> bool {
        false
    }

    fn ended(&self, _: &FileRequest, _: Option<MacAddr>, transfer: Transfer) {
        self.1.lock().expect("lock").push(transfer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_while_it_goes_out_is_broken_off() {
    need("curl", "curl");
    let folder = tempfile::tempdir().expect("a folder");
    let told = Arc::new(Mutex::new(Vec::new()));
    let events = Events::new({
        let told = told.clone();
        move |event| told.lock().expect("lock").push(event)
    });
    let depot = Depot::open(folder.path().join("fw"), events).expect("a folder");
    let image = noise(5, 60_000_000);
    let named = || Image { make: "yealink".into(), version: "66.86.0.90".into(), name: "T46S.rom".into(), ..Image::default() };
    let mut incoming = depot.begin(named()).expect("begun");
    incoming.write(&image[..1000]).expect("written");
    let damaged = depot.finish(incoming, Some("00".repeat(32))).await.expect_err("it was to have another sum");
    assert!(damaged.to_string().contains("changed or cut on the way"), "{damaged}");
    let mut incoming = depot.begin(named()).expect("begun");
    incoming.write(&image).expect("written");
    let (kept, new) = depot.finish(incoming, None).await.expect("kept");
    assert!(new && kept.path() == PATH);

    let shop = Arc::new(Shop(depot, Mutex::default()));
    let (stop, any) = (CancellationToken::new(), "127.0.0.1:0".parse().expect("an address"));
    let settings = http::Settings { listen: vec![any], ..Default::default() };
    let http = http::start(&settings, shop.clone(), axum::Router::new(), None, stop.clone()).expect("a door");
    let ftp = ftp::start(&ftp::Settings { listen: vec![any], ..Default::default() }, shop.clone(), stop.clone()).expect("a door");
    let url = |door: &str, at: Option<SocketAddr>| format!("{door}://{}/{PATH}", at.expect("open"));
    let got = folder.path().join("got");

    // Whole, by FTP; and the rest of it, where a phone was cut off.
    let login = ["-u", "PlcmSpIp:PlcmSpIp", "--disable-eprt"];
    tokio::task::block_in_place(|| {
        fs::write(&got, &image[..50_000_000]).expect("written");
        let by_ftp = curl(folder.path(), &[&login[..], &["-C", "-", "-o", "got", &url("ftp", ftp.addr())]].concat());
        assert!(by_ftp.status.success(), "{by_ftp:?}");
    });
    assert!(fs::read(&got).expect("read") == image);
    assert_eq!(*shop.1.lock().expect("lock"), [Transfer::Delivered]);

    // A byte near its end changes while it is on its way: what has come by then is good, and the rest never comes.
    fs::remove_file(&got).expect("removed");
    let mut slow = Command::new("curl");
    slow.args(["-sS", "-m", "60", "--limit-rate", "40M", "-o", "got", &url("http", http.addr())]).current_dir(folder.path());
    let mut slow = slow.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("curl runs");
    assert!(within(Duration::from_secs(20), || fs::metadata(&got).is_ok_and(|meta| meta.len() > 0)), "nothing comes");
    let disk = fs::File::options().write(true).open(folder.path().join("fw/yealink/66.86.0.90/T46S.rom")).expect("opened");
    disk.write_all_at(&[!image[59_000_000]], 59_000_000).expect("written");
    let status = tokio::task::block_in_place(|| slow.wait()).expect("it ends");
    assert!(!status.success(), "curl sees that it is cut");
    let part = fs::read(&got).expect("read");
    assert!(part.len() < 59_000_000 && image.starts_with(&part), "{} bytes", part.len());
    let failed = |transfer: &Transfer| matches!(transfer, Transfer::Failed { reason } if reason.contains("not what was added"));
    assert!(shop.1.lock().expect("lock").iter().any(failed));
    // And who asks from now on gets none of it.
    let again = tokio::task::block_in_place(|| curl(folder.path(), &["-f", "-o", "got", &url("http", http.addr())]));
    assert!(!again.status.success());
    let corrupt = told.lock().expect("lock").iter().filter(|event| matches!(event, Event::FirmwareCorrupt { .. })).count();
    assert_eq!(corrupt, 2, "when it was seen, and when it was read through");
    stop.cancel();
}

/// Three Yealinks and a Grandstream with owners, and a server whose rollouts are quick.
fn fleet() -> (Server, Vec<Phones>) {
    let settings =
        "rollout: { canary: '1', growth: 2, per_minute: 6000, take_secs: 60, register_secs: 60, firmware_secs: 8, stay_secs: 1 }\n";
    let server = Server::start(&(TEMPLATES.to_owned() + settings), &[]);
    let phones = [("yealink", 3), ("grandstream", 1)].map(|(family, count)| {
        let phones = server.phones(family, &["--family", family, "--count", &count.to_string()]);
        phones.until(count, |news| news["type"] == "registered");
        phones
    });
    let devices = server.until(&["devices", "--json"], |devices| devices.as_array().is_some_and(|all| all.len() == 4));
    for (device, owner) in devices.as_array().expect("devices").iter().zip(["1001", "1002", "1003", "1004"]) {
        server.ask(&["bind", device["mac"].as_str().expect("a MAC"), owner]).good();
    }
    let in_service = |device: &Value| device["state"] == "in_service";
    server.until(&["devices", "--json"], |devices| devices.as_array().expect("devices").iter().all(in_service));
    (server, phones.into())
}

/// What the phones run, by their addresses.
fn run_now(listed: &Value) -> Vec<&str> {
    listed["phones"].as_array().expect("phones").iter().map(|phone| phone["runs"].as_str().unwrap_or("-")).collect()
}

#[test]
fn a_pin_goes_to_one_phone_first_and_each_is_done_when_it_comes_back_with_it() {
    let (server, phones) = fleet();
    // What simulated phones take for firmware.
    let image = |version: &str| [format!("firmware {version}\n").as_bytes(), &noise(6, 3_000_000)].concat();
    fs::write(server.path("T46S.rom"), image("66.86.0.90")).expect("written");
    add(&server, "T46S.rom", "66.86.0.90", &["--model", "T46*"]).good();
    fs::write(server.path("grp2614fw.bin"), image("1.0.13.50")).expect("written");
    server.ask(&["firmware", "add", "grp2614fw.bin", "--make", "grandstream", "--version", "1.0.13.50"]).good();

    // Seen before it is done, and nothing is done by looking.
    let pin = |more: &[&str]| server.ask(&[&["firmware", "pin", "--make", "yealink", "--model", "T46S"][..], more].concat());
    let seen = pin(&["--version", "66.86.0.90", "--dry-run", "--json"]).json();
    let macs: Vec<_> = seen["phones"].as_array().expect("phones").iter().map(|phone| phone["mac"].as_str().expect("a MAC")).collect();
    assert_eq!((&seen["applied"], &macs[..]), (&false.into(), &["00:15:65:00:00:01", "00:15:65:00:00:02", "00:15:65:00:00:03"][..]));
    let unknown = pin(&["--version", "1.0"]).bad();
    assert!(unknown.contains("there is no firmware '1.0' of yealink") && unknown.contains("there is 66.86.0.90"), "{unknown}");
    let algo = server.ask(&["firmware", "pin", "--make", "algo", "--version", "66.86.0.90"]).bad();
    assert!(algo.contains("no setting is known"), "{algo}");
    assert_eq!(server.ask(&["template", "diff", "--json"]).json()["changed"], 0);
    assert!(pin(&["--version", "66.86.0.90"]).good().contains("gets it"));
    server.ask(&["firmware", "pin", "--make", "grandstream", "--version", "1.0.13.50"]).good();
    let diff = server.ask(&["template", "diff"]).good();
    assert!(diff.contains(&format!("/{PATH}")) && diff.contains("static.firmware.url = "), "{diff}");
    assert!(diff.contains("firmware/grandstream/1.0.13.50</P192>"), "{diff}");

    // One after the other: what each runs is known from itself.
    let told = server.ask(&["rollout", "start", "--wait"]).good();
    assert!(told.lines().last().is_some_and(|line| line.contains(": done; 4 through")), "{told}");
    let listed = server.ask(&["firmware", "list", "--json"]).json();
    assert_eq!(run_now(&listed), ["66.86.0.90", "66.86.0.90", "66.86.0.90", "1.0.13.50"], "{listed}");
    assert!(listed["phones"].as_array().expect("phones").iter().all(|phone| phone["due"] == false), "{listed}");
    let installed = phones[0].news().into_iter().filter(|news| news["type"] == "installing").count();
    assert_eq!(installed, 3, "each once");
    let timeline = server.ask(&["devices", "00:15:65:00:00:01", "--json"]).json();
    let fetched: Vec<_> =
        timeline["timeline"].as_array().expect("events").iter().filter(|event| event["type"] == "firmware_fetched").collect();
    assert!(fetched.len() == 1 && fetched[0]["path"] == PATH, "{timeline:#}");

    // A file that is not what its adder says: the first phone comes back with another version, and the rest is spared.
    fs::create_dir(server.path("bad")).expect("made");
    fs::write(server.path("bad/T46S.rom"), image("66.86.0.50")).expect("written");
    add(&server, "bad/T46S.rom", "66.86.0.99", &[]).good();
    pin(&["--version", "66.86.0.99"]).good();
    let failed = server.ask(&["rollout", "start", "--phone", "00:15:65:00:00:02", "--wait"]).bad();
    assert!(failed.contains("runs 66.86.0.50 still, not 66.86.0.99"), "{failed}");
    let shown = server.ask(&["rollout", "show", "--json"]).json();
    let steps: Vec<_> = shown["phones"].as_array().expect("phones").iter().map(|phone| phone["step"].as_str().expect("a step")).collect();
    assert_eq!(steps, ["spared", "restored", "spared"]);
    // The old pin is live again, and by it the phone has gone back.
    server.until(&["firmware", "list", "--json"], |listed| run_now(listed)[..3] == ["66.86.0.90"; 3]);
    let remove = || server.ask(&["firmware", "remove", "T46S.rom", "--make", "yealink", "--version", "66.86.0.90"]);
    assert!(remove().bad().contains("is pinned by what is live"));
    let unpinned = server.ask(&["firmware", "unpin", "--make", "yealink", "--model", "T46S"]).good();
    assert!(unpinned.contains("no phone gets another firmware by it"), "{unpinned}");
    server.ask(&["reload"]).good();
    remove().good();
    assert_eq!(server.ask(&["template", "diff", "--json"]).json()["changed"], 0);
}

#[test]
fn a_rollout_of_firmware_survives_kill_9() {
    let (server, phones) = fleet();
    drop(phones);
    fs::write(server.path("T46S.rom"), [&b"firmware 66.86.0.90\n"[..], &noise(7, 100_000)].concat()).expect("written");
    add(&server, "T46S.rom", "66.86.0.90", &[]).good();
    server.ask(&["firmware", "pin", "--make", "yealink", "--version", "66.86.0.90"]).good();
    server.ask(&["rollout", "start", "--phone", "00:15:65:00:00:02"]).good();
    server.ask(&["rollout", "pause"]).good();
    // Whatever becomes of the pin meanwhile.
    server.ask(&["firmware", "unpin", "--make", "yealink"]).good();
    let server = server.dies_and_starts_again();
    let phones = server.phones("again", &["--family", "yealink", "--count", "3"]);
    phones.until(3, |news| news["type"] == "registered");
    let told = phones.until(1, |news| news["type"] == "installing");
    assert_eq!((&told[0]["mac"], &told[0]["to"]), (&"00:15:65:00:00:02".into(), &"66.86.0.90".into()), "{told:?}");
    server.until(&["rollout", "show", "--json"], |shown| {
        shown["phones"].as_array().expect("phones").iter().any(|phone| phone["mac"] == "00:15:65:00:00:02" && phone["step"] == "through")
    });
    let installing = phones.news().into_iter().filter(|news| news["type"] == "installing").count();
    assert_eq!(installing, 1, "only the first phone has the new files");
}
