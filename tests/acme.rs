//! A certificate by ACME, from pebble: Let's Encrypt's own test server, which looks at our door for real, refuses some nonces on purpose,
//! and forgets everything when it ends.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use plugtone::{
    fileserver::{self, http},
    model::{
        Timestamp,
        event::{Event, Events},
    },
    tls::{
        Certificates, Source,
        acme::{self, Challenges},
        certificate,
    },
};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    call::free_port,
    doors::{Shelf, curl, run, seen},
    https::Whole,
};

const NAME: &str = "pbx.example.com";
const PATIENCE: Duration = Duration::from_secs(90);

/// Where pebble will be, and by what its own HTTPS is believed.
struct Place {
    folder: TempDir,
    port: u16,
    management: u16,
    dns: u16,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let day = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
        let authority = certificate::new_authority(day).expect("made");
        let server = certificate::issue(&authority, &["127.0.0.1".into()], day).expect("made");
        for (name, text) in [("ca.pem", &*authority.certificate), ("server.pem", &*server.certificate), ("server.key", server.key.expose())]
        {
            std::fs::write(folder.path().join(name), text).expect("written");
        }
        Self { folder, port: free_port(), management: free_port(), dns: free_port() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    fn settings(&self, names: &[&str]) -> acme::Settings {
        acme::Settings {
            directory: self.directory(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            contact: Some("it@example.com".into()),
            ca: Some(self.path("ca.pem")),
        }
    }
}

/// Pebble, and a name server by which every name is this machine's.
struct Pebble<'a> {
    place: &'a Place,
    _children: [Child; 2],
}

impl<'a> Pebble<'a> {
    /// `http`: the port at which it looks. `think`: for how many seconds at most, before it does.
    async fn start(place: &'a Place, http: u16, think: u32) -> Self {
        let config = place.path("pebble.json");
        let text = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{}", place.port),
            "managementListenAddress": format!("127.0.0.1:{}", place.management),
            "certificate": place.path("server.pem"),
            "privateKey": place.path("server.key"),
            "httpPort": http,
            "tlsPort": free_port(),
        }});
        std::fs::write(&config, text.to_string()).expect("written");
        let dns = format!("127.0.0.1:{}", place.dns);
        let spawn = |program: &str, arguments: &[&str]| {
            let log = File::options().create(true).append(true).open(place.path("log")).expect("a log");
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log).kill_on_drop(true);
            match think {
                0 => command.env("PEBBLE_VA_NOSLEEP", "1"),
                secs => command.env("PEBBLE_VA_SLEEPTIME", secs.to_string()),
            };
            command.spawn().unwrap_or_else(|error| panic!("cannot run `{program}`: {error}; install the Debian package pebble"))
        };
        let management = format!("127.0.0.1:{}", free_port());
        let off = ["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""];
        let names = spawn("pebble-challtestsrv", &[&off[..], &["-dns01", &dns, "-management", &management]].concat());
        let pebble = spawn("pebble", &["-config", &config.display().to_string(), "-dnsserver", &dns]);
        for port in [&management, &format!("127.0.0.1:{}", place.management), &format!("127.0.0.1:{}", place.port)] {
            let up = async {
                while TcpStream::connect(port).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            timeout(PATIENCE, up).await.unwrap_or_else(|_| panic!("nobody listens at {port}: {}", place.log()));
        }
        Self { place, _children: [names, pebble] }
    }

    /// The file with the root that it signs by; a new one each time it starts.
    async fn root(&self) -> String {
        let (ca, root) = (self.place.path("ca.pem").display().to_string(), self.place.path("root.pem").display().to_string());
        let url = format!("https://127.0.0.1:{}/roots/0", self.place.management);
        let output = curl(&["--fail", "--cacert", &ca, "-o", &root, &url]).await;
        assert!(output.status.success(), "{}", seen(&output));
        root
    }
}

impl Place {
    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    async fn says(&self, words: &str) {
        let said = async {
            while !self.log().contains(words) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, said).await.unwrap_or_else(|_| panic!("pebble never says '{words}': {}", self.log()));
    }
}

/// Believes `authority`, and nobody else: does it get the phones' file there?
async fn believes(authority: &str, name: &str, at: &str, file: &str) -> bool {
    let port = at.rsplit(':').next().expect("a port");
    let (resolve, url) = (format!("{name}:{port}:127.0.0.1"), format!("https://{name}:{port}/{file}"));
    curl(&["--fail", "--cacert", authority, "--resolve", &resolve, "-o", "/dev/null", &url]).await.status.success()
}

async fn until_believed(authority: &str, at: &str, file: &str, place: &Place) {
    let shown = async {
        while !believes(authority, NAME, at, file).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, shown).await.unwrap_or_else(|_| panic!("it is never shown: {}", place.log()));
}

/// What OpenSSL's client is shown, checked by `authority`.
async fn serial(folder: &Path, at: &str, authority: &str) -> String {
    let shown = run("openssl", "openssl", &["s_client", "-connect", at, "-CAfile", authority, "-verify_return_error"]).await;
    assert!(shown.status.success(), "{}", seen(&shown));
    let pem = folder.join("shown.pem");
    std::fs::write(&pem, &shown.stdout).expect("written");
    seen(&run("openssl", "openssl", &["x509", "-noout", "-serial", "-in", &pem.display().to_string()]).await)
}

#[tokio::test]
async fn a_server_shows_its_own_certificate_until_the_authority_comes_and_then_that_ones() {
    let place = Place::new();
    let folder = tempfile::tempdir().expect("a folder");
    let (plain, https, sips, api) = (free_port(), free_port(), free_port(), free_port());
    let (directory, ca) = (place.directory(), place.path("ca.pem").display().to_string());
    let text = format!(
        "extensions: {{ range: 2041-2099 }}\ndirectory: {{ file: {{ path: users.yaml }} }}\ndhcp: {{ mode: off }}\ntftp: {{ enabled: false }}\n\
         ftp: {{ enabled: false }}\nhttp: {{ listen: ['127.0.0.1:{plain}'], tls: ['127.0.0.1:{https}'] }}\nstore: {{ path: plugtone.db }}\n\
         api: {{ listen: '127.0.0.1:{api}' }}\nsip: {{ udp: ['127.0.0.1:0'], tcp: [], tls: ['127.0.0.1:{sips}'] }}\n\
         tls:\n  acme: {{ directory: '{directory}', ca: {ca}, names: [{NAME}, 127.0.0.1], contact: it@example.com }}\n"
    );
    let mut server = Whole::serve(folder, &text, format!("127.0.0.1:{https}")).await;
    let said = server.says(&["check"]).await;
    assert!(said.contains("the authority asks at port 80, which is not in `http.listen`"), "{said}");

    // Nobody signs yet.
    let ours = server.path("tls/ca.pem");
    assert!(believes(&ours, NAME, &server.at, "ca.crt").await, "its own is shown");
    let account = || std::fs::read_to_string(server.path("tls/acme.key"));
    let made = async {
        while account().is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, made).await.expect("the account's key is on disk before anybody is asked");
    let key = account().expect("there");

    // It comes, and thinks for a while; meanwhile our power goes, after it has made the account.
    let pebble = Pebble::start(&place, plain, 3).await;
    let said = server.says(&["reload"]).await;
    assert!(said.contains("certificates"), "it is asked at once: {said}");
    place.says("There are now 1 accounts in memory").await;
    server.is_cut_off_and_comes_back().await;
    let root = pebble.root().await;
    until_believed(&root, &server.at, "ca.crt", &place).await;
    assert_eq!(std::fs::read_to_string(server.path("tls/acme.key")).expect("there"), key);
    assert!(!place.log().contains("There are now 2 accounts"), "{}", place.log());
    assert!(believes(&root, "127.0.0.1", &server.at, "ca.crt").await, "by address, too");
    assert!(!believes(&ours, NAME, &server.at, "ca.crt").await, "one is shown, and not both");
    let of_https = serial(server.folder.path(), &server.at, &root).await;
    assert_eq!(serial(server.folder.path(), &format!("127.0.0.1:{sips}"), &root).await, of_https, "phones and their files see one");

    // What phones are given has not changed: they believe ours, beside those that they know.
    let body = server.path("body");
    assert!(curl(&["--fail", "-o", &body, &format!("http://127.0.0.1:{plain}/ca.crt")]).await.status.success());
    assert_eq!(std::fs::read_to_string(&body).expect("there"), std::fs::read_to_string(&ours).expect("there"));
    // And the authority's door is shut again.
    let url = format!("http://127.0.0.1:{plain}/.well-known/acme-challenge/x");
    assert_eq!(seen(&curl(&["-o", &body, "-w", "%{http_code}", &url]).await), "404");

    // It is on disk.
    drop(pebble);
    server.is_cut_off_and_comes_back().await;
    assert_eq!(serial(server.folder.path(), &server.at, &root).await, of_https);
    let said = server.says(&["reload"]).await;
    assert!(said.contains("certificates"), "{said}");
    assert_eq!(serial(server.folder.path(), &server.at, &root).await, of_https);
}

/// A door with its certificates, kept by a worker whose clock can be put forward.
struct Kept {
    certificates: Arc<Certificates>,
    door: fileserver::Running,
    ahead_ms: Arc<AtomicI64>,
    events: mpsc::Receiver<Event>,
    folder: TempDir,
    shutdown: CancellationToken,
}

impl Kept {
    fn open(settings: acme::Settings) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let source = Source { folder: folder.path().join("tls"), acme: Some(settings), ..Source::default() };
        let certificates = Certificates::open(source).expect("made");
        let (challenges, shutdown) = (Challenges::default(), CancellationToken::new());
        let any = vec!["127.0.0.1:0".parse().expect("an address")];
        let doors = http::Settings { listen: any.clone(), tls: any, ..http::Settings::default() };
        let beside = http::challenge::router(challenges.clone());
        let door = http::start(&doors, Arc::new(Shelf::new()), beside, Some(certificates.tls()), shutdown.clone()).expect("free ports");
        let (tell, events) = mpsc::channel(100);
        let ahead_ms = Arc::new(AtomicI64::new(0));
        let ahead = ahead_ms.clone();
        let clock: acme::worker::Clock = Arc::new(move || Timestamp(Timestamp::of(SystemTime::now()).0 + ahead.load(Ordering::Relaxed)));
        let events_of = Events::new(move |event| drop(tell.try_send(event)));
        let keep = acme::worker::keep(certificates.clone(), challenges, events_of, clock);
        let stop = shutdown.clone();
        tokio::spawn(async move { stop.run_until_cancelled(keep).await });
        Self { certificates, door, ahead_ms, events, folder, shutdown }
    }

    fn plain(&self) -> u16 {
        self.door.addrs().first().expect("it listens").port()
    }

    fn at(&self) -> String {
        self.door.secure().first().expect("it listens").to_string()
    }

    /// What `plugtone reload` does.
    fn reload(&self) {
        let source = Source::clone(&self.certificates.source());
        let identity = source.load().expect("good");
        self.certificates.replace(source, identity);
    }

    async fn told(&mut self) -> Event {
        timeout(PATIENCE, self.events.recv()).await.expect("in time").expect("told")
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[tokio::test]
async fn a_certificate_is_renewed_and_shown_without_a_restart_and_what_fails_is_told() {
    let place = Place::new();
    let mut kept = Kept::open(place.settings(&[NAME]));
    // Nobody is there.
    match kept.told().await {
        Event::CertificateFailed { directory, error, remedy, .. } => {
            assert_eq!(directory, place.directory());
            assert!(error.contains("onnect") && remedy.contains("firewall"), "{error}; {remedy}");
        }
        other => panic!("{other:?}"),
    }
    let pebble = Pebble::start(&place, kept.plain(), 0).await;
    let root = pebble.root().await;
    let obtained = loop {
        match kept.told().await {
            Event::CertificateFailed { .. } => {}
            other => break other,
        }
    };
    let Event::CertificateObtained { names, issuer, ends } = obtained else { panic!("{obtained:?}") };
    assert!(names == [NAME] && issuer.starts_with("Pebble Intermediate"), "{names:?} by {issuer}");
    assert!(believes(&root, NAME, &kept.at(), "text.cfg").await);
    let first = serial(kept.folder.path(), &kept.at(), &root).await;

    // A day later it is left alone; two thirds of its life later there is another, on the same door. The worker sees that its clock was
    // put forward when it is woken.
    let life = kept.certificates.source().obtained_life(&place.settings(&[NAME])).expect("there");
    assert_eq!(life.ends, ends);
    let whole_ms = life.ends.0 - life.begins.0;
    kept.ahead_ms.store(whole_ms / 3 * 2 - 3_600_000, Ordering::Relaxed);
    kept.reload();
    assert!(timeout(Duration::from_secs(2), kept.events.recv()).await.is_err(), "not yet");
    assert_eq!(serial(kept.folder.path(), &kept.at(), &root).await, first);
    kept.ahead_ms.store(whole_ms / 10 * 7 + 3_600_000, Ordering::Relaxed);
    kept.reload();
    let renewed = kept.told().await;
    assert!(matches!(renewed, Event::CertificateObtained { .. }), "{renewed:?}");
    let second = serial(kept.folder.path(), &kept.at(), &root).await;
    assert_ne!(second, first);

    // One more address, at which nobody answers: what there is stays, and what is to be done is said.
    let more = Source { acme: Some(place.settings(&[NAME, "127.0.0.2"])), ..Source::clone(&kept.certificates.source()) };
    let identity = more.load().expect("good");
    kept.certificates.replace(more, identity);
    match kept.told().await {
        Event::CertificateFailed { error, remedy, .. } => {
            assert!(error.contains("(connection)"), "{error}");
            assert!(remedy.contains("TCP port 80") && remedy.contains("127.0.0.2"), "{remedy}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(serial(kept.folder.path(), &kept.at(), &root).await, second);
    drop(pebble);
}
