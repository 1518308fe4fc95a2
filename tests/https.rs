//! Files over HTTPS: curl and OpenSSL as phones that were given our authority, and as those that stall, or know it not.

use std::{sync::Arc, time::Duration};

use plugtone::{
    fileserver::http::Settings,
    model::event::Door,
    tls::{Certificates, Source},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::doors::{Open, Shelf, curl, https_door, run, seen};

/// The door, its authority's file for curl, and what shows another certificate.
struct Files {
    shelf: Arc<Shelf>,
    door: Open,
    certificates: Arc<Certificates>,
    folder: TempDir,
}

impl Files {
    fn open(settings: Settings) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let certificates = Certificates::open(Source { folder: folder.path().join("tls"), ..Source::default() }).expect("made");
        let shelf = Arc::new(Shelf::new());
        let door = https_door(&shelf, settings, certificates.tls());
        Self { shelf, door, certificates, folder }
    }

    fn authority(&self) -> String {
        self.folder.path().join("tls/ca.pem").display().to_string()
    }

    fn url(&self, name: &str) -> String {
        format!("https://{}/{name}", self.door.secure())
    }
}

#[tokio::test]
async fn a_phone_that_knows_our_authority_gets_the_same_files_by_https() {
    let files = Files::open(Settings::default());
    let (authority, got, url) = (files.authority(), files.folder.path().join("got"), files.url("20480.bin"));
    let target = got.display().to_string();
    for version in [["--tlsv1.2", "--tls-max", "1.2"], ["--tlsv1.3", "--tls-max", "1.3"]] {
        let arguments = [&version[..], &["--cacert", &authority, "--fail", "-o", &target, &url]].concat();
        let output = curl(&arguments).await;
        assert!(output.status.success(), "{}", seen(&output));
        assert_eq!(std::fs::read(&got).expect("there"), files.shelf.files["20480.bin"]);
    }
    let doors: Vec<_> = files.shelf.asked.lock().expect("lock").iter().map(|request| request.door).collect();
    assert_eq!(doors, [Door::Https, Door::Https], "the account of fetches says so");

    // Uploads too, two requests on one connection.
    let log = files.folder.path().join("phone.log");
    std::fs::write(&log, "it rang\n").expect("written");
    let (log, put) = (log.display().to_string(), files.url("phone.log"));
    let output = curl(&[
        "--cacert",
        &authority,
        "-w",
        "%{http_code} %{num_connects} ",
        "-T",
        &log,
        &put,
        "--next",
        "-o",
        &target,
        "-w",
        "%{http_code} %{num_connects}",
        "--cacert",
        &authority,
        &files.url("nothing.cfg"),
    ])
    .await;
    assert_eq!(seen(&output), "201 1 404 0");
}

#[tokio::test]
async fn who_knows_our_authority_not_hangs_up_and_others_are_served() {
    let files = Files::open(Settings::default());
    let output = curl(&[&files.url("text.cfg")]).await;
    assert_eq!(output.status.code(), Some(60), "{}", seen(&output));
    let plain = curl(&[&format!("http://{}/text.cfg", files.door.secure())]).await;
    assert!(!plain.status.success() && files.shelf.asked.lock().expect("lock").is_empty(), "{}", seen(&plain));
    let output = curl(&["--cacert", &files.authority(), "--fail", &files.url("text.cfg")]).await;
    assert!(output.status.success(), "{}", seen(&output));
}

#[tokio::test]
async fn a_certificate_that_is_exchanged_is_shown_to_the_next_who_comes() {
    let files = Files::open(Settings::default());
    let at = files.door.secure().to_string();
    let serial = async || {
        let shown = run("openssl", "openssl", &["s_client", "-connect", &at, "-showcerts"]).await;
        let pem = files.folder.path().join("shown.pem");
        std::fs::write(&pem, &shown.stdout).expect("written");
        seen(&run("openssl", "openssl", &["x509", "-noout", "-serial", "-in", &pem.display().to_string()]).await)
    };
    let first = serial().await;
    assert!(first.starts_with("serial="), "{first}");
    std::fs::remove_file(files.folder.path().join("tls/server.pem")).expect("removed");
    files.certificates.refresh().expect("made anew");
    assert_ne!(serial().await, first);
    let output = curl(&["--cacert", &files.authority(), "--fail", &files.url("text.cfg")]).await;
    assert!(output.status.success(), "of the same authority: {}", seen(&output));
}

#[tokio::test]
async fn who_stalls_in_the_handshake_is_cut_off_and_has_no_more_places_than_others() {
    let files = Files::open(Settings { header_timeout_secs: 1, max_connections_per_client: 2, ..Settings::default() });
    let mut stalled = Vec::new();
    for bytes in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = TcpStream::connect(files.door.secure()).await.expect("connected");
        stream.write_all(bytes).await.expect("sent");
        stalled.push(stream);
    }
    // Both its places are taken, at either port. The server has seen them when it says so.
    let refused = curl(&["--fail", &format!("http://{}/text.cfg", files.door.at())]).await;
    assert!(!refused.status.success(), "{}", seen(&refused));
    for stream in &mut stalled {
        let ended = timeout(Duration::from_secs(10), stream.read(&mut [0; 16])).await.expect("cut off");
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
    let served = async {
        loop {
            let output = curl(&["--fail", "--cacert", &files.authority(), &files.url("text.cfg")]).await;
            if output.status.success() {
                return;
            }
        }
    };
    timeout(Duration::from_secs(10), served).await.expect("the places are free again");
}
