//! SIP over TLS: OpenSSL's client believes our authority and nobody else, certificates are exchanged under calls, records may be cut
//! anywhere.

use std::{
    io::Cursor,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use plugtone::{
    sip::{
        Flow, Ids, Transmit, Transport,
        transport::{Config, Inbound, Transports},
    },
    tls::{Certificates, Source},
};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::mpsc::Receiver,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use crate::{
    call::free_port,
    https::Whole as Plain,
    sip_transport::{OPTIONS, config, local, message, next},
};

struct Server {
    transports: Transports,
    inbox: Receiver<Inbound>,
    certificates: Arc<Certificates>,
    folder: TempDir,
}

impl Server {
    fn start(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let certificates = Certificates::open(Source { folder: folder.path().join("tls"), ..Source::default() }).expect("made");
        let any = vec![local(0)];
        let mut config = Config { udp: vec![], tcp: vec![], tls: any.clone(), wss: any, identity: Some(certificates.tls()), ..config() };
        change(&mut config);
        let (transports, inbox) = Transports::bind(config, &tokio::runtime::Handle::current()).expect("bound");
        Self { transports, inbox, certificates, folder }
    }

    fn authority(&self) -> PathBuf {
        self.folder.path().join("tls/ca.pem")
    }

    fn at(&self) -> SocketAddr {
        self.transports.addresses(Transport::Tls)[0]
    }

    /// A connection by rustls, for tests that look at single records.
    async fn connect(&self) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.authority()).expect("PEM")).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let connector = TlsConnector::from(Arc::new(client.with_root_certificates(roots).with_no_client_auth()));
        let stream = TcpStream::connect(self.at()).await.expect("connected");
        stream.set_nodelay(true).unwrap();
        connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.expect("trusted")
    }
}

/// OpenSSL's client as a phone that believes one authority, and insists on the address.
fn openssl(at: SocketAddr, authority: &Path, more: &[&str]) -> Child {
    Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-verify_ip", "127.0.0.1", "-connect", &at.to_string(), "-CAfile"])
        .arg(authority)
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("cannot run openssl: install the Debian package openssl")
}

async fn says(phone: &mut Child, bytes: &[u8]) {
    let stdin = phone.stdin.as_mut().unwrap();
    stdin.write_all(bytes).await.unwrap();
    stdin.flush().await.unwrap();
}

async fn hears(phone: &mut Child, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    timeout(Duration::from_secs(10), phone.stdout.as_mut().unwrap().read_exact(&mut got)).await.expect("in time").expect("open");
    assert_eq!(got, bytes);
}

#[tokio::test]
async fn a_phone_that_was_given_our_authority_is_served_and_others_hang_up() {
    let mut server = Server::start(|_| {});
    for version in ["-tls1_2", "-tls1_3"] {
        let mut phone = openssl(server.at(), &server.authority(), &[version]);
        says(&mut phone, &[OPTIONS, b"\r\n\r\n", OPTIONS].concat()).await;
        let (flow, first) = message(&mut server.inbox).await;
        assert_eq!((flow.transport, flow.local, &first[..]), (Transport::Tls, server.at(), OPTIONS));
        assert_eq!(&message(&mut server.inbox).await.1[..], OPTIONS);
        hears(&mut phone, b"\r\n").await;
        // Back over its connection: by its number, and by the phone's address alone.
        for flow in [flow, Flow::of(Transport::Tls, flow.local, flow.peer)] {
            assert!(server.transports.send(Transmit { flow, bytes: Bytes::from_static(OPTIONS) }));
            hears(&mut phone, OPTIONS).await;
        }
        drop(phone.stdin.take());
        phone.kill().await.unwrap();
        assert!(matches!(next(&mut server.inbox).await, Inbound::Closed { flow: closed } if closed == flow));
    }
    let stranger = TempDir::new().unwrap();
    Certificates::open(Source { folder: stranger.path().into(), ..Source::default() }).expect("another authority");
    let mut phone = openssl(server.at(), &stranger.path().join("ca.pem"), &[]);
    assert!(!timeout(Duration::from_secs(10), phone.wait()).await.expect("it ends").unwrap().success());
    assert!(matches!(next(&mut server.inbox).await, Inbound::Closed { .. }));
}

#[tokio::test]
async fn a_certificate_is_exchanged_while_a_phone_is_connected() {
    let mut server = Server::start(|_| {});
    let mut old = openssl(server.at(), &server.authority(), &[]);
    says(&mut old, OPTIONS).await;
    let (flow, _) = message(&mut server.inbox).await;

    // One that was bought: RSA, as old phones want it.
    let bought = server.folder.path().join("bought.pem");
    let key = server.folder.path().join("bought.key");
    let mut make = Command::new("openssl");
    make.args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=pbx",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]);
    assert!(make.arg("-out").arg(&bought).arg("-keyout").arg(&key).stderr(Stdio::null()).status().await.unwrap().success());
    let source = Source { given: Some((bought.clone(), key.clone())), ..Source::default() };
    server.certificates.replace(source.clone(), source.load().expect("good"));

    let mut new = openssl(server.at(), &bought, &[]);
    says(&mut new, OPTIONS).await;
    assert_ne!(message(&mut server.inbox).await.0.peer, flow.peer);
    let mut refused = openssl(server.at(), &server.authority(), &[]);
    assert!(!timeout(Duration::from_secs(10), refused.wait()).await.expect("it ends").unwrap().success());
    // Who was there before stays.
    assert!(server.transports.send(Transmit { flow, bytes: Bytes::from_static(OPTIONS) }));
    hears(&mut old, OPTIONS).await;
    says(&mut old, OPTIONS).await;
    while !matches!(next(&mut server.inbox).await, Inbound::Message { flow: from, .. } if from == flow) {}

    // A spoilt file changes nothing.
    std::fs::write(&bought, "no certificate").unwrap();
    let error = server.certificates.refresh().expect_err("it is spoilt").to_string();
    assert!(error.contains("bought.pem") && error.contains("BEGIN CERTIFICATE"), "{error}");
    assert_eq!(server.transports.connections(), 2);
}

#[tokio::test]
async fn records_may_be_cut_anywhere() {
    let mut server = Server::start(|_| {});
    let mut dice = Ids::new([7; 32]);
    let mut phone = server.connect().await;
    let long = format!("INFO sip:a SIP/2.0\r\nX: {}\r\nContent-Length: 30000\r\n\r\n{}", "y".repeat(20_000), "z".repeat(30_000));
    let stream = [OPTIONS, b"\r\n", long.as_bytes(), OPTIONS, b"\r\n\r\n", OPTIONS].concat();
    for _ in 0..20 {
        let mut rest = &stream[..];
        while !rest.is_empty() {
            // Each piece is a record of its own; short ones near the ends of messages.
            let most = if dice.next_u64().is_multiple_of(3) { 20_000 } else { 40 };
            let (piece, after) = rest.split_at(rest.len().min(1 + (dice.next_u64() % most) as usize));
            phone.write_all(piece).await.unwrap();
            phone.flush().await.unwrap();
            rest = after;
        }
        for expected in [OPTIONS, long.as_bytes(), OPTIONS, OPTIONS] {
            assert!(message(&mut server.inbox).await.1 == expected);
        }
        let mut pong = [0; 2];
        phone.read_exact(&mut pong).await.unwrap();
        assert_eq!(&pong, b"\r\n");
    }
}

#[tokio::test]
async fn who_dawdles_or_speaks_no_tls_is_cut_off() {
    let mut server = Server::start(|config| {
        (config.handshake_time, config.message_time) = (Duration::from_millis(700), Duration::from_millis(700));
        config.max_connections_per_source = 10;
    });
    let mut mute = TcpStream::connect(server.at()).await.unwrap();
    assert_eq!(timeout(Duration::from_secs(10), mute.read(&mut [0; 9])).await.expect("cut off").unwrap_or(0), 0);
    for at in [server.at(), server.transports.addresses(Transport::Wss)[0]] {
        let mut plain = TcpStream::connect(at).await.unwrap();
        plain.write_all(OPTIONS).await.unwrap();
        let mut alert = Vec::new();
        let _ = timeout(Duration::from_secs(10), plain.read_to_end(&mut alert)).await.expect("cut off");
        assert!(alert.len() < 10, "an alert and no more");
    }
    let mut slow = server.connect().await;
    slow.write_all(b"OPTIONS sip:a SIP/2.0\r\n").await.unwrap();
    let drip = async {
        // One more header every moment, for ever.
        while slow.write_all(b"X: y\r\n").await.is_ok() && slow.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(10), drip).await.expect("cut off");
    for _ in 0..4 {
        assert!(matches!(next(&mut server.inbox).await, Inbound::Closed { .. }));
    }
    assert_eq!(server.transports.connections(), 0);
}

#[tokio::test]
async fn we_connect_only_to_whom_we_believe() {
    let mut server = Server::start(|_| {});
    // The far end has a certificate of the same authority; then one of another.
    let other = TempDir::new().unwrap();
    for (folder, believed) in [(server.folder.path().join("tls"), true), (other.path().to_owned(), false)] {
        Certificates::open(Source { folder: folder.clone(), ..Source::default() }).expect("made");
        let chain = CertificateDer::pem_file_iter(folder.join("server.pem")).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
        let key =
            rustls::pki_types::PrivateKeyDer::from_pem_reader(Cursor::new(std::fs::read(folder.join("server.key")).unwrap())).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let far = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(far.with_no_client_auth().with_single_cert(chain, key).unwrap()));
        let listener = TcpListener::bind(local(0)).await.unwrap();
        let flow = server.transports.flow_to(Transport::Tls, listener.local_addr().unwrap()).unwrap();
        assert!(server.transports.send(Transmit { flow, bytes: Bytes::from_static(OPTIONS) }));
        let (stream, _) = listener.accept().await.unwrap();
        let accepted = acceptor.accept(stream).await;
        if believed {
            let mut got = vec![0; OPTIONS.len()];
            accepted.expect("believed").read_exact(&mut got).await.unwrap();
            assert_eq!(got, OPTIONS);
        } else {
            assert!(accepted.is_err(), "nothing may be said to a stranger");
            let why = next(&mut server.inbox).await;
            assert!(matches!(&why, Inbound::Distrusted { reason, .. } if reason.contains("`tls.trust`")), "{why:?}");
        }
        assert!(matches!(next(&mut server.inbox).await, Inbound::Closed { flow: closed } if closed.peer == flow.peer));
    }
}

/// A whole server that listens by TLS only, with a certificate that was made elsewhere.
struct Whole {
    child: Child,
    at: SocketAddr,
    folder: TempDir,
}

impl Whole {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (port, api) = (free_port(), free_port());
        let at = local(port);
        let text = format!(
            "extensions: {{ range: 2041-2099 }}\ndirectory: {{ file: {{ path: users.yaml }} }}\ndhcp: {{ mode: off }}\ntftp: {{ enabled: false }}\n\
             ftp: {{ enabled: false }}\nhttp: {{ enabled: false }}\nstore: {{ path: plugtone.db }}\napi: {{ listen: \"127.0.0.1:{api}\" }}\n\
             sip: {{ udp: [], tcp: [], tls: [\"{at}\"] }}\ntls: {{ certificate: sip.pem, key: sip.key }}\n"
        );
        std::fs::write(folder.path().join("plugtone.yaml"), text).unwrap();
        let users = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/demo/users.yaml");
        std::fs::copy(users, folder.path().join("users.yaml")).unwrap();
        certify(folder.path(), "first").await;
        let mut command = Command::new(env!("CARGO_BIN_EXE_plugtone"));
        command.args(["serve", "--config", "plugtone.yaml"]).current_dir(folder.path()).stdin(Stdio::null()).kill_on_drop(true);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let waits = async {
            while TcpStream::connect(at).await.is_err() {
                assert!(child.try_wait().unwrap().is_none(), "the server has ended");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(20), waits).await.expect("it listens");
        Self { child, at, folder }
    }

    fn hears_hup(&self) {
        let pid = self.child.id().expect("it runs").to_string();
        assert!(std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    }

    /// Whether a phone that believes this certificate only is served.
    async fn serves(&self, believes: &str) -> bool {
        let mut phone = openssl(self.at, &self.folder.path().join(believes), &[]);
        says(&mut phone, b"\r\n\r\n").await;
        let mut pong = [0; 2];
        matches!(timeout(Duration::from_secs(10), phone.stdout.as_mut().unwrap().read_exact(&mut pong)).await, Ok(Ok(_)))
    }
}

/// Makes a certificate that signs itself, as `sip.pem` and under its name.
async fn certify(folder: &Path, name: &str) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-subj", &format!("/CN={name}"), "-out", "sip.pem", "-keyout", "sip.key"])
        .current_dir(folder)
        .stderr(Stdio::null())
        .status()
        .await;
    assert!(made.unwrap().success());
    std::fs::copy(folder.join("sip.pem"), folder.join(name)).unwrap();
}

#[tokio::test]
async fn a_server_that_is_told_to_read_again_shows_its_new_certificate() {
    let server = Whole::start().await;
    assert!(server.serves("first").await);
    let mut old = openssl(server.at, &server.folder.path().join("first"), &[]);
    says(&mut old, b"\r\n\r\n").await;
    hears(&mut old, b"\r\n").await;
    certify(server.folder.path(), "second").await;
    assert!(!server.serves("second").await, "nobody has told it");
    server.hears_hup();
    let exchanged = async { while !server.serves("second").await {} };
    timeout(Duration::from_secs(20), exchanged).await.expect("it shows the new one");
    assert!(!server.serves("first").await);
    // Who was connected stays so, and a spoilt file changes nothing.
    std::fs::write(server.folder.path().join("sip.pem"), "no certificate").unwrap();
    server.hears_hup();
    says(&mut old, b"\r\n\r\n").await;
    hears(&mut old, b"\r\n").await;
    assert!(server.serves("second").await);
}

#[tokio::test]
async fn a_phone_whose_file_says_tls_registers_by_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (https, sips, udp, api) = (free_port(), free_port(), free_port(), free_port());
    std::fs::create_dir(folder.path().join("templates")).expect("made");
    let sent = "sites: { here: { subnets: [127.0.0.0/8], variables: { sip_transport: tls } } }\n";
    std::fs::write(folder.path().join("templates/overrides.yaml"), sent).expect("written");
    let text = |tls: &str| {
        format!(
            "extensions: {{ range: 2041-2099 }}\ndirectory: {{ file: {{ path: users.yaml }} }}\ndhcp: {{ mode: off }}\n\
             tftp: {{ enabled: false }}\nftp: {{ enabled: false }}\nhttp: {{ listen: [], tls: ['127.0.0.1:{https}'] }}\n\
             store: {{ path: plugtone.db }}\napi: {{ listen: '127.0.0.1:{api}' }}\nprovisioning: {{ open: {{ subnets: [127.0.0.0/8] }} }}\n\
             templates: {{ path: templates }}\nsip: {{ udp: ['127.0.0.1:{udp}'], tcp: []{tls} }}\n"
        )
    };
    let server = Plain::serve(folder, &text(&format!(", tls: ['127.0.0.1:{sips}']")), format!("127.0.0.1:{https}")).await;
    let (status, account) = server.asks("001565aabbcc-baresip.txt", &[]).await;
    let at = format!("@127.0.0.1:{sips};transport=tls>");
    assert!(status == "200" && account.contains(&at), "{account}");

    // baresip 1.0 looks for no authority behind the certificate; OpenSSL does, above.
    let phone = server.folder.path().join("baresip");
    std::fs::create_dir(&phone).expect("made");
    let config = "sip_listen 127.0.0.1:0\nmodule_path /usr/lib/baresip/modules\nmodule_app menu.so\nmodule_app account.so\n";
    std::fs::write(phone.join("config"), config).expect("written");
    std::fs::write(phone.join("accounts"), &account).expect("written");
    let log = std::fs::File::create(phone.join("log")).expect("a file");
    let mut command = Command::new("baresip");
    command.args(["-f", &phone.display().to_string()]).stdin(Stdio::null()).kill_on_drop(true);
    let child = command.stdout(log.try_clone().expect("a second")).stderr(log).spawn();
    let _child = child.expect("cannot run baresip: install the Debian package baresip");
    let read = || std::fs::read_to_string(phone.join("log")).unwrap_or_default();
    let said = async {
        while !read().contains("TLS/v4} 200 OK") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(30), said).await.unwrap_or_else(|_| panic!("baresip is not registered but {}", read()));

    // Where the server has no TLS, phones are told what there is, and IT that it is so.
    std::fs::write(server.path("plugtone.yaml"), text("")).expect("written");
    let said = server.says(&["check"]).await;
    assert!(said.contains("SIP over TLS, which is off"), "{said}");
    let shown = server.says(&["render", "--mac", "00:15:65:aa:bb:cc"]).await;
    assert!(shown.contains("account.1.sip_server.1.transport_type = 0"), "{shown}");
    let wrong = sent.replace("tls", "tsl");
    std::fs::write(server.path("templates/overrides.yaml"), wrong).expect("written");
    let said = server.says(&["check"]).await;
    assert!(said.contains("`sip_transport` is 'tsl'") && said.contains("did you mean 'tls'?"), "{said}");
}
