//! The whole product, as `plugtone serve` on the real ports of a network namespace, with peers that are not ours: udhcpc,
//! dhclient, tftp-hpa, curl, lftp and slapd; and in `calls.rs` baresip and SIPp, from the lease to calls placed by the API.
//!
//! What single parts do in detail is in the tests of their names.

pub mod baresip;
mod calls;
mod sipp;
pub mod tap;

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    dhcp::{Client, POLY_CLASS},
    ldap::Slapd,
    netns::{Namespace, Running, need, within},
};

const PATIENCE: Duration = Duration::from_secs(60);
const PLUGTONE: &str = env!("CARGO_BIN_EXE_plugtone");
const SERVER: &str = "10.77.0.1";

/// The product at work in a network of its own, with a directory beside it. It tells its log when a test fails.
struct Office {
    child: std::process::Child,
    token: String,
    folder: TempDir,
    _slapd: Slapd,
    network: Namespace,
}

impl Office {
    fn open() -> Self {
        let network = Namespace::new("office");
        network.bridge("lan", "10.77.0.1/24");
        let folder = tempfile::tempdir().expect("a folder");
        let slapd = network.enter(Slapd::start).join().expect("slapd starts in the namespace");
        let config = folder.path().join("plugtone.yaml");
        let text = format!(
            "extensions: {{ range: 2500-2599 }}\n\
             directory:\n  ldap:\n    servers: ['ldap://{}']\n    tls: starttls\n    ca_file: '{}'\n    bind_dn: cn=service,dc=example,dc=com\n    bind_password: service secret\n    base: ou=people,dc=example,dc=com\n\
             dhcp:\n  interfaces: [lan]\n  conflict_check: false\n  subnets:\n  - {{ cidr: 10.77.0.0/24, range: 10.77.0.100-10.77.0.150, router: {SERVER} }}\n\
             features: {{ paging: [{{ number: '650', members: ['2041', '2042'] }}] }}\n\
             store: {{ path: '{}' }}\n",
            slapd.plain,
            slapd.path("ca.pem").display(),
            folder.path().join("plugtone.db").display(),
        );
        fs::write(&config, text).expect("written");
        let config = config.display().to_string();
        let token = network.run(PLUGTONE, &["token", "--config", &config, "create", "test"]);
        let token = token.lines().find(|line| !line.contains(' ') && !line.is_empty()).expect("a token").to_owned();
        let log = File::create(folder.path().join("log")).expect("a log");
        let mut command = network.command(PLUGTONE);
        command.args(["serve", "--config", &config]).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("the server starts");
        let office = Self { child, token, folder, _slapd: slapd, network };
        let ready = within(PATIENCE, || fs::read_to_string(office.folder.path().join("log")).is_ok_and(|log| log.contains("ready")));
        assert!(ready, "the server is not ready");
        office
    }

    /// The API's answer.
    fn api(&self, path: &str, more: &[&str]) -> Value {
        let (url, header) = (format!("http://127.0.0.1:8088/api/v1{path}"), format!("Authorization: Bearer {}", self.token));
        let text = self.network.run("curl", &[&["-sS", "-m", "20", "-H", &header, &url][..], more].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    /// The stream of events, as curl receives it; `query` as in `call=…`.
    fn follow(&self, name: &str, query: &str) -> Stream {
        let received = self.folder.path().join(name);
        let (url, header) = (format!("http://127.0.0.1:8088/api/v1/events?{query}"), format!("Authorization: Bearer {}", self.token));
        let curl = self.network.start("curl", &["-sS", "-N", "-H", &header, "-o", &received.display().to_string(), &url]);
        Stream { received, _curl: curl }
    }

    /// Whether a device's timeline tells that this source was refused the file at this door.
    fn refused(&self, mac: &str, door: &str, source: &str) -> bool {
        let timeline = self.api(&format!("/devices/{mac}"), &[])["timeline"].clone();
        timeline
            .as_array()
            .expect("a timeline")
            .iter()
            .any(|event| event["type"] == "file_refused" && event["door"] == door && event["source"] == source)
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the server's last words\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// Server-Sent Events that are being received.
struct Stream {
    received: PathBuf,
    _curl: Running,
}

impl Stream {
    /// What has come until now, oldest first.
    fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.received).unwrap_or_default();
        // Whole lines only: the last may be still on its way.
        let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.strip_prefix("data:"));
        lines.map(|json| serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))).collect()
    }

    /// Waits for the first event of this type that `wanted` accepts.
    fn until(&self, kind: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        let told = within(PATIENCE, || {
            found = self.events().into_iter().find(|event| event["type"] == kind && wanted(event));
            found.is_some()
        });
        assert!(told, "no {kind} was told, but {:#?}", self.events());
        found.expect("found")
    }
}

/// A file through one door, as this client's program gives it; `None` where it gives none.
fn fetch(client: &Client, door: &str, file: &str) -> Option<Vec<u8>> {
    let out = client.path("fetched");
    let _ = fs::remove_file(&out);
    let at = out.display().to_string();
    let script = match door {
        "tftp-hpa" => format!("tftp -m binary {SERVER} -c get {file} {at}"),
        "curl tftp" => format!("curl -sS -f -m 20 -o {at} tftp://{SERVER}/{file}"),
        "curl ftp" => format!("curl -sS -f -m 20 -o {at} ftp://PlcmSpIp:PlcmSpIp@{SERVER}/{file}"),
        "curl http" => format!("curl -sS -f -m 20 -o {at} http://{SERVER}/{file}"),
        "curl http 8080" => format!("curl -sS -f -m 20 -o {at} http://{SERVER}:8080/{file}"),
        "lftp" => format!("lftp -u PlcmSpIp,PlcmSpIp -e 'set net:max-retries 1; set net:timeout 10; get {file} -o {at}; quit' {SERVER}"),
        other => panic!("no door '{other}'"),
    };
    let _ = client.namespace.command("timeout").args(["30", "sh", "-c", &script]).output().expect("runs");
    fs::read(&out).ok().filter(|bytes| !bytes.is_empty())
}

const DOORS: [&str; 6] = ["tftp-hpa", "curl tftp", "curl ftp", "curl http", "curl http 8080", "lftp"];

#[test]
fn phones_get_addresses_and_their_own_files_through_every_door() {
    for (program, package) in [("tftp", "tftp-hpa"), ("curl", "curl"), ("lftp", "lftp")] {
        need(program, package);
    }
    let office = Office::open();
    let yealink = Client::new("yealink", "00:15:65:00:00:01", &office.network);
    let _udhcpc = yealink.udhcpc(&["-V", "yealink", "-O", "42", "-O", "66", "-O", "43", "-O", "120"]);
    let told = yealink.hears("bound");
    let address = told.get("ip").expect("an address").clone();
    assert_eq!(told.get("siaddr").map(String::as_str), Some(SERVER), "{told:?}");

    let poly = Client::new("poly", "64:16:7f:00:00:01", &office.network);
    let _dhclient = poly.dhclient(&format!(
        "option poly-url code 160 = text;\nsend vendor-class-identifier {POLY_CLASS};\n\
         request subnet-mask, routers, poly-url, tftp-server-name;\ntimeout 10; retry 2; initial-interval 1;\n"
    ));
    let told = poly.hears("BOUND");
    for option in ["new_poly_url", "new_tftp_server_name"] {
        assert!(told.get(option).is_some_and(|url| url.starts_with(&format!("http://{SERVER}"))), "{option}: {told:?}");
    }

    let stranger = Client::new("stranger", "00:11:22:00:00:09", &office.network);
    stranger.namespace.ip("addr add 10.77.0.200/24 dev eth0");
    for (phone, file) in [(&yealink, "001565000001.cfg"), (&poly, "64167f000001-user.cfg")] {
        let first = fetch(phone, DOORS[0], file).unwrap_or_else(|| panic!("{file} by {}", DOORS[0]));
        for door in DOORS {
            assert_eq!(fetch(phone, door, file).as_ref(), Some(&first), "{file} by {door}");
            assert_eq!(fetch(&stranger, door, file), None, "{file} by {door} from a wrong address");
        }
    }
    for door in ["tftp", "ftp", "http"] {
        assert!(within(PATIENCE, || office.refused("001565000001", door, "10.77.0.200")), "no event that {door} refused the stranger");
    }
    assert!(!office.refused("001565000001", "http", &address), "the phone itself was refused");

    // The directory is asked over StartTLS.
    let users = office.api("/users", &[]);
    let extensions: Vec<&str> = users.as_array().expect("users").iter().filter_map(|user| user["extension"].as_str()).collect();
    assert!((2041..=2060).all(|number| extensions.contains(&number.to_string().as_str())), "{users}");
}
