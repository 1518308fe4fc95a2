//! The LDAP directory against a real OpenLDAP (`slapd`, Debian), and against servers that hang, lie or talk nonsense.
//!
//! Each test starts its own slapd in a temporary folder, on ports of 127.0.0.1 that were free a moment before.

use std::{
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use plugtone::{
    directory::{Denied, Directory, ldap::LdapDirectory, settings::LdapSettings},
    model::{
        Keys, User,
        event::{Event, Events},
    },
};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

pub const BASE: &str = "dc=example,dc=com";
pub const SERVICE: &str = "cn=service,dc=example,dc=com";

/// What to tell who has no slapd: a test must not pass without.
fn program(names: &[&str], package: &str) -> PathBuf {
    let found = names.iter().map(PathBuf::from).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{} is missing: apt-get install {package}", names[0]))
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// User `n` of 20: number 1000+n, extension 2040+n, PIN 4000+n.
fn pin(n: u32) -> Keys {
    Keys::from((4000 + n).to_string().as_str())
}

fn ldif() -> &'static str {
    static LDIF: OnceLock<String> = OnceLock::new();
    LDIF.get_or_init(|| {
        let slappasswd = program(&["/usr/sbin/slappasswd", "/sbin/slappasswd"], "slapd");
        let hashed = |secret: &str| run(Command::new(&slappasswd).args(["-h", "{SSHA}", "-s", secret])).trim().to_owned();
        let mut text = format!(
            "dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: Example\ndc: example\n\n\
             dn: ou=people,{BASE}\nobjectClass: organizationalUnit\nou: people\n\n\
             dn: {SERVICE}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: service\nuserPassword: {}\n\n",
            hashed("service secret")
        );
        for n in 1..=20 {
            let salted = [&Sha256::digest(format!("{}salt", 4000 + n))[..], b"salt"].concat();
            let _ = write!(
                text,
                "dn: uid=user{n},ou=people,{BASE}\nobjectClass: inetOrgPerson\nuid: user{n}\ncn: User Number {n}\nsn: {n}\n\
                 displayName: Person {n}\nemployeeNumber: {}\ntelephoneNumber: {}\nmail: user{n}@example.com\n\
                 departmentNumber: sales\ndepartmentNumber: floor{n}\ncarLicense: {{SSHA256}}{}\nuserPassword: {}\n\n",
                1000 + n,
                2040 + n,
                STANDARD.encode(salted),
                hashed(&(4000 + n).to_string())
            );
        }
        // Two people with one number: nobody may log in with it.
        for name in ["twin1", "twin2"] {
            let _ = write!(
                text,
                "dn: uid={name},ou=people,{BASE}\nobjectClass: inetOrgPerson\nuid: {name}\ncn: {name}\nsn: {name}\n\
                 employeeNumber: 1999\nuserPassword: {}\n\n",
                hashed("4999")
            );
        }
        text
    })
}

/// A certificate authority and a certificate for 127.0.0.1.
pub fn certificates(folder: &Path) {
    let openssl = || Command::new(program(&["/usr/bin/openssl"], "openssl"));
    let at = |name: &str| folder.join(name).display().to_string();
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    for ca in ["ca", "other"] {
        let (key_file, file, subject) = (at(&format!("{ca}.key")), at(&format!("{ca}.pem")), format!("/CN=Test {ca}"));
        run(openssl().args(["req", "-x509", "-days", "2", "-subj", &subject]).args(key).args(["-keyout", &key_file, "-out", &file]));
    }
    run(openssl().args(["req", "-subj", "/CN=ldap"]).args(key).args(["-keyout", &at("server.key"), "-out", &at("server.csr")]));
    fs::write(folder.join("ext"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n")
        .expect("written");
    let (csr, ca, ca_key, ext, out) = (at("server.csr"), at("ca.pem"), at("ca.key"), at("ext"), at("server.pem"));
    run(openssl()
        .args(["x509", "-req", "-in", &csr, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial", "-days", "2"])
        .args(["-extfile", &ext, "-out", &out]));
}

pub struct Slapd {
    folder: tempfile::TempDir,
    child: Option<Child>,
    pub plain: SocketAddr,
    tls: SocketAddr,
}

fn free_port() -> SocketAddr {
    StdListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port")
}

impl Slapd {
    pub fn start() -> Self {
        Self::holding("")
    }

    /// With more entries than everybody's.
    pub fn holding(more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        certificates(folder.path());
        let at = |name: &str| folder.path().join(name).display().to_string();
        fs::create_dir(folder.path().join("db")).expect("created");
        let config = format!(
            "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\ninclude /etc/ldap/schema/inetorgperson.schema\n\
             modulepath /usr/lib/ldap\nmoduleload back_mdb\npidfile {}\n\
             TLSCACertificateFile {}\nTLSCertificateFile {}\nTLSCertificateKeyFile {}\n\
             database mdb\nmaxsize 16777216\nsuffix \"{BASE}\"\ndirectory {}\n\
             access to attrs=userPassword by anonymous auth by * none\n\
             access to * by dn.exact=\"{SERVICE}\" read by anonymous auth by * none\n",
            at("pid"),
            at("ca.pem"),
            at("server.pem"),
            at("server.key"),
            at("db"),
        );
        fs::write(folder.path().join("slapd.conf"), config).expect("written");
        fs::write(folder.path().join("data.ldif"), format!("{}{more}", ldif())).expect("written");
        let slapadd = program(&["/usr/sbin/slapadd", "/sbin/slapadd"], "slapd");
        run(Command::new(slapadd).args(["-q", "-f", &at("slapd.conf"), "-l", &at("data.ldif")]));
        let mut slapd = Self { folder, child: None, plain: free_port(), tls: free_port() };
        slapd.up();
        slapd
    }

    fn up(&mut self) {
        let slapd = program(&["/usr/sbin/slapd", "/sbin/slapd"], "slapd");
        let urls = format!("ldap://{} ldaps://{}", self.plain, self.tls);
        let config = self.path("slapd.conf").display().to_string();
        let child = Command::new(slapd).args(["-d", "0", "-h", &urls, "-f", &config]).stderr(Stdio::null()).spawn().expect("slapd starts");
        self.child = Some(child);
        let end = Instant::now() + Duration::from_secs(20);
        while StdStream::connect(self.plain).is_err() || StdStream::connect(self.tls).is_err() {
            assert!(Instant::now() < end, "slapd does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn down(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.down();
    }
}

/// Settings for these servers, in the words that an administrator would write, and the events that were told.
fn directory(servers: &[String], more: &str) -> (LdapDirectory, Arc<Mutex<Vec<Event>>>) {
    let yaml = format!(
        "{{ servers: {servers:?}, base: 'ou=people,{BASE}', bind_dn: '{SERVICE}', bind_password: service secret, \
         server_timeout_ms: 1500, timeout_ms: 5000, attributes: {{ groups: departmentNumber }}, {more} }}"
    );
    let settings: LdapSettings = plugtone::yaml::read("test", &yaml).expect("settings");
    let told = Arc::new(Mutex::new(Vec::new()));
    let events = {
        let told = told.clone();
        Events::new(move |event| told.lock().expect("told").push(event))
    };
    (LdapDirectory::new(settings.check().expect("good settings"), events).expect("a directory"), told)
}

fn url(at: SocketAddr) -> String {
    format!("ldap://{at}")
}

async fn log_in(directory: &LdapDirectory, login: &str, pin: &Keys) -> Result<User, Denied> {
    tokio::time::timeout(Duration::from_secs(8), directory.authenticate(login, pin)).await.expect("never longer than the limit")
}

fn is_unavailable(answer: &Result<User, Denied>) -> bool {
    matches!(answer, Err(Denied::Unavailable(_)))
}

#[tokio::test]
async fn users_log_in_with_their_pin_and_nothing_else() {
    let slapd = Slapd::start();
    let (directory, told) = directory(&[url(slapd.plain)], "tls: none");
    let user = log_in(&directory, "1007", &pin(7)).await.expect("the right PIN");
    assert_eq!(user.id, format!("uid=user7,ou=people,{BASE}"));
    assert_eq!((user.login.as_str(), user.display_name.as_str(), user.mail.as_deref()), ("1007", "Person 7", Some("user7@example.com")));
    assert_eq!(user.extension.expect("one").as_str(), "2047");
    assert_eq!(user.groups, ["sales", "floor7"]);
    assert_eq!(log_in(&directory, "2047", &pin(7)).await.expect("by extension").login, "1007");
    for (login, keyed) in [
        ("1007", "4008"),
        ("1007", ""),
        ("9999", "4007"),
        ("", "4007"),
        ("1999", "4999"),
        ("*", "4007"),
        ("*)(uid=*", "4007"),
        ("1007)(|(uid=*", "4007"),
        ("100*", "4007"),
        ("1007\0", "4007"),
        ("\\2a", "4007"),
    ] {
        assert_eq!(log_in(&directory, login, &Keys::from(keyed)).await, Err(Denied::Refused), "{login:?} with {keyed:?}");
    }
    // After a user was refused, the same connections serve the next.
    assert!(log_in(&directory, "1020", &pin(20)).await.is_ok());
    assert_eq!(directory.find("1003").await.expect("asks").expect("there").display_name, "Person 3");
    assert_eq!(directory.find("9999").await, Ok(None));
    assert!(matches!(directory.find("1999").await, Err(Denied::Unavailable(_))), "two people");
    let users = directory.list(5).await.expect("lists");
    assert_eq!(users.len(), 5);
    assert!(directory.list(100).await.expect("lists").len() >= 20);
    assert!(told.lock().expect("told").is_empty());
}

#[tokio::test]
async fn nobody_and_a_wrong_pin_take_the_same_time() {
    let slapd = Slapd::start();
    let (directory, _) = directory(&[url(slapd.plain)], "tls: none");
    assert!(log_in(&directory, "1001", &pin(1)).await.is_ok());
    for (login, keyed) in [("1001", "1"), ("9999", "1"), ("1999", "1"), ("1001", "")] {
        let start = Instant::now();
        assert_eq!(log_in(&directory, login, &Keys::from(keyed)).await, Err(Denied::Refused));
        let step = start.elapsed().as_millis() % 300;
        assert!(start.elapsed().as_millis() >= 300 && step < 200, "{login}: {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_pin_attribute_is_compared() {
    let slapd = Slapd::start();
    let (directory, _) = directory(&[url(slapd.plain)], "tls: none, check: compare, pin_attribute: carLicense");
    assert_eq!(log_in(&directory, "1004", &pin(4)).await.expect("the right PIN").display_name, "Person 4");
    for (login, keyed) in [("1004", "4005"), ("1004", ""), ("9999", "4004"), ("1999", "4999")] {
        assert_eq!(log_in(&directory, login, &Keys::from(keyed)).await, Err(Denied::Refused), "{login}");
    }
}

#[tokio::test]
async fn tls_is_checked() {
    let slapd = Slapd::start();
    let (right, wrong) = (slapd.path("ca.pem").display().to_string(), slapd.path("other.pem").display().to_string());
    for server in [url(slapd.plain), format!("ldaps://{}", slapd.tls)] {
        let (good, _) = directory(std::slice::from_ref(&server), &format!("ca_file: '{right}'"));
        assert!(log_in(&good, "1001", &pin(1)).await.is_ok(), "{server}");
        let (bad, told) = directory(std::slice::from_ref(&server), &format!("ca_file: '{wrong}'"));
        let answer = log_in(&bad, "1001", &pin(1)).await;
        assert!(is_unavailable(&answer), "{server}: {answer:?}");
        let text = format!("{:?}", told.lock().expect("told"));
        assert!(text.contains("certificate") || text.contains("UnknownIssuer"), "{text}");
        let (blind, _) = directory(std::slice::from_ref(&server), "verify: none");
        assert!(log_in(&blind, "1001", &pin(1)).await.is_ok(), "{server} unverified");
    }
}

#[tokio::test]
async fn wrong_settings_say_so() {
    let slapd = Slapd::start();
    for (more, word) in
        [("tls: none, base: 'ou=nowhere,dc=example,dc=com'", "directory.ldap.base"), ("tls: none, bind_password: wrong", "bind_dn")]
    {
        let yaml = format!(
            "{{ servers: ['{}'], base: 'ou=people,{BASE}', bind_dn: '{SERVICE}', bind_password: service secret }}",
            url(slapd.plain)
        );
        let mut settings: LdapSettings = plugtone::yaml::read("test", &yaml).expect("settings");
        let changed: LdapSettings = plugtone::yaml::read("test", &format!("{{ {more} }}")).expect("settings");
        settings.tls = changed.tls;
        if !changed.base.is_empty() {
            settings.base = changed.base;
        }
        settings.bind_password = changed.bind_password.or(settings.bind_password);
        let directory = LdapDirectory::new(settings.check().expect("good"), Events::nowhere()).expect("a directory");
        let answer = log_in(&directory, "1001", &pin(1)).await;
        assert!(matches!(&answer, Err(Denied::Unavailable(text)) if text.contains(word)), "{word}: {answer:?}");
    }
}

#[tokio::test]
async fn a_server_that_was_restarted_is_used_again() {
    let mut slapd = Slapd::start();
    let (directory, told) = directory(&[url(slapd.plain)], "tls: none");
    assert!(log_in(&directory, "1001", &pin(1)).await.is_ok());
    // A restart between two log-ins: kept connections are dead, and the caller notices nothing.
    slapd.down();
    slapd.up();
    assert!(log_in(&directory, "1001", &pin(1)).await.is_ok());
    assert!(told.lock().expect("told").is_empty());
    slapd.down();
    let start = Instant::now();
    let (first, second) = (log_in(&directory, "1001", &pin(1)).await, log_in(&directory, "1001", &pin(1)).await);
    assert!(is_unavailable(&first) && is_unavailable(&second));
    assert!(start.elapsed() < Duration::from_secs(2), "a refused connection is known at once");
    slapd.up();
    // Told without anybody logging in: a background task looks.
    let end = Instant::now() + Duration::from_secs(10);
    while told.lock().expect("told").len() < 2 {
        assert!(Instant::now() < end, "nobody noticed that it is back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(log_in(&directory, "1001", &pin(1)).await.is_ok());
    let told = told.lock().expect("told");
    assert!(matches!(told[..], [Event::DirectoryUnavailable { .. }, Event::DirectoryAvailable { .. }]), "once each: {told:?}");
}

#[tokio::test]
async fn the_second_server_takes_over() {
    let slapd = Slapd::start();
    let hanging = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let servers = [url(hanging.local_addr().expect("bound")), url(slapd.plain)];
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = hanging.accept().await {
            held.push(stream);
        }
    });
    let (directory, told) = directory(&servers, "tls: none");
    let start = Instant::now();
    assert!(log_in(&directory, "1001", &pin(1)).await.is_ok());
    assert!(start.elapsed() >= Duration::from_millis(1500), "the first hangs");
    let start = Instant::now();
    assert!(log_in(&directory, "1002", &pin(2)).await.is_ok());
    assert!(start.elapsed() < Duration::from_millis(1200), "the first is not asked again: {:?}", start.elapsed());
    let told = told.lock().expect("told");
    assert!(matches!(&told[..], [Event::DirectoryUnavailable { server, .. }] if *server == servers[0]), "{told:?}");
}

/// A server that answers everything with these bytes.
async fn answering(bytes: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let bytes = bytes.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                while matches!(stream.read(&mut buffer).await, Ok(1..)) {
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    at
}

#[tokio::test]
async fn garbage_is_an_error_and_not_a_crash() {
    // Message 1 is the bind of the service account; anonymous, it is the search.
    for (story, bytes) in [
        ("text", &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..]),
        ("a bind response without result", &[0x30, 5, 2, 1, 1, 0x61, 0]),
        ("a result that ends early", &[0x30, 0x0a, 2, 1, 1, 0x61, 5, 0x0a, 1, 0, 4, 0]),
        ("a result of the wrong types", &[0x30, 0x0c, 2, 1, 1, 0x61, 7, 4, 1, 0, 4, 0, 4, 0]),
        ("a result with text that is not UTF-8", &[0x30, 0x0e, 2, 1, 1, 0x61, 9, 0x0a, 1, 0, 4, 2, 0xff, 0xfe, 4, 0]),
        ("a message without content", &[0x30, 0]),
        ("a message that is only a number", &[0x30, 3, 2, 1, 1]),
        ("an entry without content", &[0x30, 5, 2, 1, 1, 0x64, 0]),
        ("a search that is done, without result", &[0x30, 5, 2, 1, 1, 0x65, 0]),
        ("an operation that is none", &[0x30, 5, 2, 1, 1, 0x7e, 0]),
        ("two gigabytes to come", &[0x30, 0x84, 0x7f, 0xff, 0xff, 0xff]),
        ("zeros", &[0; 64]),
    ] {
        for account in [format!(", bind_dn: '{SERVICE}', bind_password: x"), String::new()] {
            let server = url(answering(bytes.to_vec()).await);
            let yaml =
                format!("{{ servers: ['{server}'], base: '{BASE}', tls: none, server_timeout_ms: 700, timeout_ms: 2000 {account} }}");
            let settings: LdapSettings = plugtone::yaml::read("test", &yaml).expect("settings");
            let directory = LdapDirectory::new(settings.check().expect("good"), Events::nowhere()).expect("a directory");
            let answer = log_in(&directory, "1001", &pin(1)).await;
            assert!(is_unavailable(&answer), "{story}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_late_answer_meets_nobody() {
    let slapd = Slapd::start();
    let delay = Arc::new(AtomicU64::new(0));
    let proxy = slow_proxy(slapd.plain, delay.clone()).await;
    let (directory, _) = directory(&[url(proxy)], "tls: none");
    assert!(log_in(&directory, "1001", &pin(1)).await.is_ok());
    delay.store(2500, Ordering::Relaxed);
    let start = Instant::now();
    assert!(is_unavailable(&log_in(&directory, "1001", &pin(1)).await));
    assert!(start.elapsed() < Duration::from_secs(6));
    delay.store(0, Ordering::Relaxed);
    // The answers to the questions above arrive during these; each gets its own.
    for n in 2..6 {
        assert_eq!(log_in(&directory, &format!("{}", 1000 + n), &pin(n)).await.expect("its own").display_name, format!("Person {n}"));
        assert_eq!(log_in(&directory, &format!("{}", 1000 + n), &pin(1)).await, Err(Denied::Refused));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Passes bytes on; those of the server so many milliseconds later.
async fn slow_proxy(server: SocketAddr, delay_ms: Arc<AtomicU64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(server).await else { continue };
            let (mut client_read, mut client_write) = client.into_split();
            let (mut far_read, mut far_write) = far.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut client_read, &mut far_write).await });
            let delay_ms = delay_ms.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = far_read.read(&mut buffer).await {
                    tokio::time::sleep(Duration::from_millis(delay_ms.load(Ordering::Relaxed))).await;
                    if client_write.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    at
}

#[tokio::test]
async fn many_log_in_at_once() {
    let slapd = Slapd::start();
    let (directory, _) = directory(&[url(slapd.plain)], "tls: none, connections: 4");
    let directory = Arc::new(directory);
    let tasks = (0..60).map(|n| {
        let directory = directory.clone();
        let n = n % 20 + 1;
        tokio::spawn(async move { log_in(&directory, &format!("{}", 1000 + n), &pin(n)).await.map(|user| (n, user)) })
    });
    for task in tasks.collect::<Vec<_>>() {
        let (n, user) = task.await.expect("no panic").expect("right PIN");
        assert_eq!(user.display_name, format!("Person {n}"), "nobody gets another's answer");
    }
}
