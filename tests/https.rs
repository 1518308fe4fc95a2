//! Files over HTTPS: curl and OpenSSL as phones that were given our authority, and as those that stall, or know it not.

use std::{path::Path, process::Stdio, sync::Arc, time::Duration};

use plugtone::{
    fileserver::http::Settings,
    model::event::Door,
    tls::{Certificates, Source},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
    time::timeout,
};

use crate::{
    call::free_port,
    doors::{Open, Shelf, curl, https_door, run, seen},
};

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

/// A whole server that speaks nothing but HTTPS to phones, and leases nothing.
pub struct Whole {
    pub folder: TempDir,
    pub at: String,
    config: String,
    child: Child,
}

impl Whole {
    async fn start(more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (https, api) = (free_port(), free_port());
        let text = format!(
            "extensions: {{ range: 2041-2099 }}\ndirectory: {{ file: {{ path: users.yaml }} }}\ndhcp: {{ mode: off }}\ntftp: {{ enabled: false }}\n\
             ftp: {{ enabled: false }}\nhttp: {{ listen: [], tls: ['127.0.0.1:{https}'] }}\nstore: {{ path: plugtone.db }}\n\
             api: {{ listen: '127.0.0.1:{api}' }}\nsip: {{ udp: ['127.0.0.1:0'], tcp: [] }}\n{more}"
        );
        Self::serve(folder, &text, format!("127.0.0.1:{https}")).await
    }

    pub async fn serve(folder: TempDir, text: &str, at: String) -> Self {
        let config = folder.path().join("plugtone.yaml");
        std::fs::write(&config, text).expect("written");
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/demo/users.yaml"), folder.path().join("users.yaml"))
            .expect("copied");
        let config = config.display().to_string();
        let child = Self::spawn(&config, &at).await;
        Self { folder, at, config, child }
    }

    /// As if the power went, and came back.
    pub async fn is_cut_off_and_comes_back(&mut self) {
        self.child.kill().await.expect("killed");
        self.child = Self::spawn(&self.config, &self.at).await;
    }

    async fn spawn(config: &str, at: &str) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plugtone"));
        command.args(["serve", "--config", config]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().expect("started");
        let up = async {
            while TcpStream::connect(at).await.is_err() {
                assert!(child.try_wait().expect("asked").is_none(), "the server has ended");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(60), up).await.expect("it listens");
        child
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// The status that curl gets for a file, and the body.
    pub async fn asks(&self, name: &str, more: &[&str]) -> (String, String) {
        let (authority, url) = (self.path("tls/ca.pem"), format!("https://{}/{name}", self.at));
        let body = self.path("body");
        let _ = std::fs::remove_file(&body);
        let output = curl(&[&["--cacert", &authority, "-o", &body, "-w", "%{http_code}", &url], more].concat()).await;
        (seen(&output), std::fs::read(&body).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default())
    }

    pub async fn says(&self, arguments: &[&str]) -> String {
        let arguments = [arguments, &["--config", &self.config]].concat();
        seen(&run("plugtone", env!("CARGO_BIN_EXE_plugtone"), &arguments).await)
    }
}

/// A certificate with its key, `name.pem` and `name.key`, that another signs, or itself.
async fn certificate(folder: &Path, name: &str, subject: &str, signed_by: Option<&str>, days: &str) {
    let file = |name: &str| folder.join(name).display().to_string();
    let (key, csr, pem, extensions) = (file(&format!("{name}.key")), file("csr.pem"), file(&format!("{name}.pem")), file("extensions"));
    let new_key = ["-newkey", "rsa:2048", "-nodes", "-keyout", &key, "-subj", subject];
    let made = match signed_by {
        None => run("openssl", "openssl", &[&["req", "-x509", "-days", days, "-out", &pem], &new_key[..]].concat()).await,
        Some(authority) => {
            std::fs::write(&extensions, "basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n").expect("written");
            run("openssl", "openssl", &[&["req", "-new", "-out", &csr], &new_key[..]].concat()).await;
            let (ca, ca_key) = (file(&format!("{authority}.pem")), file(&format!("{authority}.key")));
            let sign =
                ["x509", "-req", "-in", &csr, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial", "-days", days, "-extfile", &extensions];
            run("openssl", "openssl", &[&sign[..], &["-out", &pem]].concat()).await
        }
    };
    assert!(made.status.success(), "{}", seen(&made));
}

#[tokio::test]
async fn a_phone_that_shows_its_makers_certificate_gets_its_file_and_no_others() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, subject, signed_by, days) in [
        ("maker", "/O=Maker/CN=Maker Root", None, "2"),
        ("stranger", "/O=Maker/CN=Maker Root", None, "2"),
        ("phone", "/O=Maker/CN=001565aabbcc", Some("maker"), "2"),
        ("old", "/O=Maker/CN=001565aabbcc", Some("maker"), "-1"),
        ("forged", "/O=Maker/CN=001565aabbcc", Some("stranger"), "2"),
        ("poly", "/O=Maker/CN=64167faabbcc", Some("maker"), "2"),
    ] {
        certificate(folder.path(), name, subject, signed_by, days).await;
    }
    let makers = folder.path().join("makers");
    std::fs::create_dir(&makers).expect("made");
    std::fs::copy(folder.path().join("maker.pem"), makers.join("root.crt")).expect("copied");
    let setting = format!("tls: {{ makers: {{ yealink: {} }} }}\n", makers.display());
    let server = Whole::start(&setting).await;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let asks = async |name: &str, shows: Option<&str>, more: &[&str]| {
        let (pem, key) = shows.map(|shows| (file(&format!("{shows}.pem")), file(&format!("{shows}.key")))).unzip();
        let shown = pem.iter().zip(&key).flat_map(|(pem, key)| ["--cert", pem, "--key", key]);
        server.asks(name, &shown.chain(more.iter().copied()).collect::<Vec<_>>()).await
    };
    const OWN: &str = "001565aabbcc.cfg";
    for (story, name, shows, status) in [
        ("its own file", OWN, Some("phone"), "200"),
        ("without a certificate", OWN, None, "404"),
        ("another phone's file", "001565aabbcd.cfg", Some("phone"), "404"),
        ("a certificate that has expired", OWN, Some("old"), "404"),
        ("a certificate of somebody who calls himself the maker", OWN, Some("forged"), "404"),
        ("and what everybody may have", "y000000000066.cfg", Some("forged"), "200"),
        ("a phone of another make, by this maker's word", "64167faabbcc-user.cfg", Some("poly"), "404"),
    ] {
        assert_eq!(asks(name, shows, &[]).await.0, status, "{story}");
    }
    let (status, body) = asks(OWN, Some("phone"), &["--tls-max", "1.2"]).await;
    assert!(status == "200" && body.contains("account.1.auth_name = 001565aabbcc-1"), "{status}: {body}");

    // Without the maker's authority it proves nothing any more.
    let without = std::fs::read_to_string(&server.config).expect("there").replace(&setting, "");
    std::fs::write(&server.config, without).expect("written");
    let said = server.says(&["reload"]).await;
    assert!(said.contains("certificates"), "{said}");
    assert_eq!(asks(OWN, Some("phone"), &[]).await.0, "404");
    // And a make that is none is a fault.
    let wrong = std::fs::read_to_string(&server.config).expect("there") + &setting.replace("yealink", "yealnk");
    std::fs::write(&server.config, wrong).expect("written");
    let said = server.says(&["check"]).await;
    assert!(said.contains("tls.makers: there is no family 'yealnk'"), "{said}");
}

#[tokio::test]
async fn everybody_can_fetch_the_authority_and_phones_are_sent_to_it() {
    let server = Whole::start("").await;
    let ours = std::fs::read_to_string(server.path("tls/ca.pem")).expect("made");
    assert_eq!(server.asks("ca.crt", &[]).await, ("200".into(), ours.clone()));
    let (status, common) = server.asks("y000000000066.cfg", &[]).await;
    assert!(status == "200" && common.contains(&format!("static.trusted_certificates.url = https://{}/ca.crt", server.at)), "{common}");
    // The same in DER, as OpenSSL reads it.
    let der = server.path("ca.der");
    let (authority, url) = (server.path("tls/ca.pem"), format!("https://{}/ca.der", server.at));
    assert!(curl(&["--fail", "--cacert", &authority, "-o", &der, &url]).await.status.success());
    let read = run("openssl", "openssl", &["x509", "-inform", "DER", "-in", &der]).await;
    assert_eq!(String::from_utf8_lossy(&read.stdout).trim(), ours.trim());
    // A phone that proves nothing has no file of its own until an admin lets it in.
    let own = async || server.asks("001565aabbcc.cfg", &[]).await;
    assert_eq!(own().await.0, "404");
    let said = server.says(&["phones", "admit", "00:15:65:aa:bb:cc", "--for", "5m"]).await;
    assert!(said.contains("the first address that asks for the files of 00:15:65:aa:bb:cc has them, until "), "{said}");
    let (status, file) = own().await;
    assert!(status == "200" && file.contains("account.1.auth_name = 001565aabbcc-1"), "{file}");
    // What a phone gets is also what an admin is shown beforehand.
    let shown = server.says(&["render", "--mac", "64:16:7f:aa:bb:cc"]).await;
    assert!(shown.contains("device.sec.TLS.customCaCert1=\"-----BEGIN CERTIFICATE-----&#10;"), "{shown}");
}
