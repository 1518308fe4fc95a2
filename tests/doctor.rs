//! `plugtone doctor` in whole small networks: a healthy one, and ones with what offices really have: a second DHCP server, options that were
//! forgotten, firewalls, NAT, a SIP ALG, wrong clocks, expired certificates.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use plugtone::phone::make::MAKES;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UdpSocket;

use crate::{
    cli,
    netns::{Guest, Namespace, Running, need, within},
};

const PLUGTONE: &str = env!("CARGO_BIN_EXE_plugtone");
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const LEASES: &str =
    "dhcp: { interfaces: [lan], subnets: [{ cidr: 10.77.0.0/24, range: 10.77.0.100-10.77.0.150, router: 10.77.0.1, ntp: [10.77.0.1] }] }\n";
const BESIDE: &str = "dhcp: { mode: beside, interfaces: [lan], subnets: [{ cidr: 10.77.0.0/24 }] }\n";

/// A network with the server at 10.77.0.1, a time server, and a bridge for others.
struct Office {
    network: Namespace,
    folder: TempDir,
    _clock: Guest,
    _serve: Running,
}

impl Office {
    fn opens(config: &str) -> Self {
        Self::with_clock(config, 0)
    }

    /// `ahead_secs`: how wrong its time server is.
    fn with_clock(config: &str, ahead_secs: i64) -> Self {
        let (network, folder) = (Namespace::new("lan"), tempfile::tempdir().expect("folder"));
        network.bridge("lan", "10.77.0.1/24");
        let clock = time_server(&network, ahead_secs);
        Self::with(network, folder, clock, config)
    }

    fn with(network: Namespace, folder: TempDir, clock: Guest, config: &str) -> Self {
        let base = "extensions: { range: 2041-2099 }\ndirectory: { file: { path: users.yaml } }\nstore: { path: plugtone.db }\n";
        fs::write(folder.path().join("plugtone.yaml"), [base, config].concat()).expect("written");
        fs::write(folder.path().join("users.yaml"), "users: []\n").expect("written");
        let (config, log) = (at(&folder, "plugtone.yaml"), folder.path().join("log"));
        let serve = format!("exec {PLUGTONE} serve --config {config} 2> {}", log.display());
        let _serve = network.start("sh", &["-c", &serve]);
        let said = || fs::read_to_string(&log).unwrap_or_default();
        assert!(within(Duration::from_secs(60), || said().contains("ready")), "{}", said());
        Self { network, folder, _clock: clock, _serve }
    }

    /// The doctor on the server.
    fn examined(&self) -> Report {
        examined(&self.network, &["--config", &at(&self.folder, "plugtone.yaml")])
    }

    /// Another computer in the network.
    fn computer(&self, label: &str, address: &str, mac: &str) -> Namespace {
        let computer = Namespace::new(label);
        self.network.plug("lan", &computer);
        computer.ip(&format!("link set eth0 address {mac}"));
        computer.ip(&format!("addr add {address}/24 dev eth0"));
        computer
    }

    /// A DHCP server that is not ours, at 10.77.0.9.
    fn stranger(&self, more: &[&str]) -> (Namespace, Running) {
        need("dnsmasq", "dnsmasq-base");
        let stranger = self.computer("stranger", "10.77.0.9", "02:00:00:00:00:99");
        let leases = format!("--dhcp-leasefile={}", at(&self.folder, "leases"));
        let arguments = ["-k", "--user=root", "--port=0", "--no-ping", "--pid-file=", "--interface=eth0", &leases];
        let range = ["--dhcp-range=10.77.0.160,10.77.0.190,1h", "--dhcp-option=3,10.77.0.1", "--dhcp-option=42,10.77.0.1"];
        let running = stranger.start("dnsmasq", &[&arguments[..], &range, more].concat());
        listens(&stranger, "-Hlun", 67);
        (stranger, running)
    }
}

fn listens(place: &Namespace, of_protocol: &str, port: u16) {
    let at_port = format!("sport = :{port}");
    let up = || !place.run("ss", &[of_protocol, &at_port]).trim().is_empty();
    assert!(within(Duration::from_secs(20), up), "nobody listens at port {port}");
}

fn at(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

/// Answers as a time server does whose clock is so many seconds ahead.
fn time_server(network: &Namespace, ahead_secs: i64) -> Guest {
    let ((), guest) = network.host(move |_| async move {
        let socket = UdpSocket::bind((SERVER, 123)).await.expect("port 123");
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((_, from)) = socket.recv_from(&mut buffer).await {
                let now = now_ms() + ahead_secs * 1000;
                let mut stamp = [0; 8];
                stamp[..4].copy_from_slice(&((now / 1000 + 2_208_988_800) as u32).to_be_bytes());
                stamp[4..].copy_from_slice(&((((now % 1000) << 32) / 1000) as u32).to_be_bytes());
                // A server's answer, stratum 2; the client's own time comes back.
                let asked: [u8; 8] = buffer[40..48].try_into().expect("eight bytes");
                let mut answer = [0; 48];
                (answer[0], answer[1]) = (0x24, 2);
                answer[24..32].copy_from_slice(&asked);
                answer[32..40].copy_from_slice(&stamp);
                answer[40..48].copy_from_slice(&stamp);
                let _ = socket.send_to(&answer, from).await;
            }
        });
        ((), async {})
    });
    guest
}

/// What the doctor found, and how it ended.
#[derive(Debug)]
struct Report {
    status: i32,
    found: Vec<Value>,
}

fn examined(place: &Namespace, arguments: &[&str]) -> Report {
    let output = place.command("timeout").args(["120", PLUGTONE, "doctor", "--json"]).args(arguments).output().expect("it runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let found = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}"));
    Report { status: output.status.code().expect("it ended by itself"), found }
}

impl Report {
    #[track_caller]
    fn says(&self, severity: &str, part: &str) -> &Value {
        let fits = |finding: &&Value| finding["severity"] == severity && finding["says"].as_str().is_some_and(|says| says.contains(part));
        self.found.iter().find(fits).unwrap_or_else(|| panic!("nothing {severity} says '{part}': {self:#?}"))
    }

    #[track_caller]
    fn remedy(&self, part: &str, remedy: &str) {
        let found = self.says("wrong", part);
        assert!(found["remedy"].as_str().is_some_and(|text| text.contains(remedy)), "{found:#}");
    }

    #[track_caller]
    fn is_well(&self) {
        assert!(self.status == 0 && self.found.iter().all(|finding| finding["severity"] != "wrong"), "{self:#?}");
    }
}

fn tells_all() -> String {
    format!("10.77.0.1 tells all {} makes of phones where their files are", MAKES.len())
}

#[test]
fn a_healthy_network_is_well_on_the_server_and_on_a_desk() {
    let office = Office::opens(&[LEASES, "provisioning: { pnp: true }\n"].concat());
    let desk = office.computer("desk", "10.77.0.200", "02:00:00:00:00:20");
    let on_the_server = office.examined();
    on_the_server.says("good", "the server hears phones that ask 224.0.1.75 on lan");
    for report in [on_the_server, examined(&desk, &["--server", "10.77.0.1"])] {
        report.is_well();
        for good in [
            "10.77.0.1 (hardware address",
            "and leases in 10.77.0.0/24",
            &tells_all(),
            "TFTP at 10.77.0.1 port 69 gives files",
            "HTTP at 10.77.0.1 port 80 gives files",
            "FTP at 10.77.0.1 port 21 gives files",
            "SIP by UDP at 10.77.0.1:5060 answers, and nothing on the way touches it",
            "SIP by TCP at 10.77.0.1:5060 answers",
            "the time server 10.77.0.1 and this machine agree",
        ] {
            report.says("good", good);
        }
    }
    // Nobody was plugged in, and nobody has an address.
    let config = at(&office.folder, "plugtone.yaml");
    assert_eq!(office.network.run(PLUGTONE, &["devices", "--json", "--config", &config]).trim(), "[]");
    let out = desk.run(PLUGTONE, &["doctor", "--server", "10.77.0.1", "--interface", "eth0"]);
    assert!(out.lines().any(|line| line.starts_with("dhcp       good   10.77.0.1")) && out.ends_with("all is well\n"), "{out}");
}

#[test]
fn a_second_dhcp_server_is_named_with_its_hardware_address() {
    let office = Office::opens(LEASES);
    let (_stranger, _dnsmasq) = office.stranger(&[]);
    let report = office.examined();
    assert_eq!(report.status, 1);
    report.says("good", &tells_all());
    report.remedy(
        "a second DHCP server answers on lan beside 10.77.0.1: 10.77.0.9 (hardware address 02:00:00:00:00:99)",
        "show mac address-table",
    );
    let desk = office.computer("desk", "10.77.0.200", "02:00:00:00:00:20");
    examined(&desk, &["--server", "10.77.0.1"]).says("wrong", "more than one DHCP server answers on eth0");
}

#[test]
fn a_server_that_must_stay_lacks_the_options_until_it_has_the_sheet() {
    let office = Office::opens(BESIDE);
    let (config, sheet) = (at(&office.folder, "plugtone.yaml"), office.folder.path().join("sheet.conf"));
    {
        let (_stranger, _dnsmasq) = office.stranger(&[]);
        let report = office.examined();
        report.says("good", "10.77.0.9 (hardware address 02:00:00:00:00:99) answers on lan");
        report.remedy(
            "does not tell where the files are; these makes find no server by DHCP: yealink (option 66 or 43)",
            "plugtone dhcp sheet",
        );
        assert_eq!(report.status, 1);
    }
    fs::write(&sheet, office.network.run(PLUGTONE, &["dhcp", "sheet", "dnsmasq", "--config", &config])).expect("written");
    let conf = format!("--conf-file={}", sheet.display());
    let (_stranger, _dnsmasq) = office.stranger(&[&conf]);
    let report = office.examined();
    report.is_well();
    report.says("good", &tells_all().replace("10.77.0.1", "10.77.0.9"));
}

#[test]
fn options_that_lead_elsewhere_and_addresses_of_another_network_are_named() {
    let office = Office::opens(BESIDE);
    let more = ["--dhcp-option-force=66,http://10.99.0.1", "--dhcp-option-force=160,http://10.77.0.1:8081"];
    let (stranger, dnsmasq) = office.stranger(&more);
    let report = office.examined();
    report.says("wrong", "option 66 of 10.77.0.9 sends phones to http://10.99.0.1, which is not the Plugtone server");
    report.says("wrong", "to port 8081 by HTTP, and files are at 80 and 8080");
    drop(dnsmasq);
    let arguments = ["-k", "--user=root", "--port=0", "--no-ping", "--pid-file=", "--interface=eth0", "--dhcp-leasefile=/dev/null"];
    stranger.ip("addr add 192.168.1.1/24 dev eth0");
    let _dnsmasq = stranger.start("dnsmasq", &[&arguments[..], &["--dhcp-range=192.168.1.50,192.168.1.90,1h"]].concat());
    listens(&stranger, "-Hlun", 67);
    let report = office.examined();
    report.remedy("offers an address of 192.168.1.0/24, which is none of `dhcp.subnets` (10.77.0.0/24)", "voice VLAN");
}

#[test]
fn nobody_who_leases_is_told_as_well() {
    let office = Office::opens(BESIDE);
    office.examined().remedy("nobody answers a DISCOVER on lan", "phones' VLAN");
}

#[test]
fn what_a_firewall_blocks_is_named_with_the_port_to_open() {
    need("nft", "nftables");
    let office = Office::opens(LEASES);
    let desk = office.computer("desk", "10.77.0.200", "02:00:00:00:00:20");
    let rules = "add table inet wall; add chain inet wall incoming { type filter hook input priority 0 ; }; \
        add rule inet wall incoming udp dport { 69, 123 } drop; add rule inet wall incoming tcp dport 5060 drop; add rule inet wall incoming tcp dport 21 reject with tcp reset";
    office.network.run("nft", &[rules]);
    let report = examined(&desk, &["--server", "10.77.0.1"]);
    report.remedy("TFTP at 10.77.0.1 port 69 does not answer: blocked by a firewall", "open UDP 69");
    report.remedy("SIP by TCP at 10.77.0.1:5060 does not answer", "open TCP 5060");
    report.remedy("the time server 10.77.0.1, which phones are told, does not answer", "open UDP 123");
    report.says("wrong", "nobody listens at 10.77.0.1 port 21 for FTP");
    report.says("good", "HTTP at 10.77.0.1 port 80 gives files");
    report.says("good", "SIP by UDP at 10.77.0.1:5060 answers");
}

#[test]
fn a_service_that_is_off_is_not_listened_for() {
    let office = Office::opens(&[LEASES, "tftp: { enabled: false }\n"].concat());
    let desk = office.computer("desk", "10.77.0.200", "02:00:00:00:00:20");
    office.examined().is_well();
    examined(&desk, &["--server", "10.77.0.1"]).remedy("nobody listens at 10.77.0.1 port 69 for TFTP", "`tftp.enabled`");
}

#[test]
fn nat_is_noted_and_a_sip_alg_is_told_apart_from_it() {
    need("nft", "nftables");
    let office = Office::opens(LEASES);
    let router = office.computer("router", "10.77.0.8", "02:00:00:00:00:08");
    let home = Namespace::new("home");
    router.cable("eth1", &home, "eth0");
    router.ip("addr add 192.168.9.1/24 dev eth1");
    home.ip("addr add 192.168.9.2/24 dev eth0");
    home.ip("route add default via 192.168.9.1");
    router.run("sysctl", &["-w", "net.ipv4.ip_forward=1"]);
    router.run(
        "nft",
        &["add table ip nat; add chain ip nat post { type nat hook postrouting priority 100 ; }; add rule ip nat post oif eth0 masquerade"],
    );
    let report = examined(&home, &["--server", "10.77.0.1"]);
    report.says("note", "NAT is between: 10.77.0.1:5060 sees 192.168.9.2:");
    assert!(!report.found.iter().any(|finding| finding["says"].as_str().is_some_and(|says| says.contains("ALG"))), "{report:#?}");

    // A box that reads SIP: what it makes of Via comes back as it is, or is put right again on the way back.
    let desk = office.computer("desk", "10.77.0.200", "02:00:00:00:00:20");
    for (address, back, says) in
        [("10.77.0.6", false, "it rewrote Via (10.77.0.200:"), ("10.77.0.7", true, "it rewrote Via there and back")]
    {
        let box_between = office.computer("alg", address, if back { "02:00:00:00:00:07" } else { "02:00:00:00:00:06" });
        let _alg = alg(&box_between, address.parse().expect("an address"), back);
        let report = examined(&desk, &["--server", address]);
        report.remedy(says, "SIP ALG");
    }
}

/// Passes datagrams to the server and back, with its own address in Via; `back` puts Via right in what returns.
fn alg(place: &Namespace, own: Ipv4Addr, back: bool) -> Guest {
    let ((), guest) = place.host(move |_| async move {
        let inside = UdpSocket::bind((own, 5060)).await.expect("bound");
        let outside = UdpSocket::bind((own, 0)).await.expect("bound");
        let outer = outside.local_addr().expect("an address");
        tokio::spawn(async move {
            let (mut phone, mut question, mut answer) = (None::<SocketAddr>, [0; 4096], [0; 4096]);
            loop {
                tokio::select! {
                    Ok((length, from)) = inside.recv_from(&mut question) => {
                        phone = Some(from);
                        let changed = replaced(&question[..length], &format!("UDP {from}"), &format!("UDP {outer}"));
                        let _ = outside.send_to(&changed, (SERVER, 5060)).await;
                    }
                    Ok((length, _)) = outside.recv_from(&mut answer) => {
                        let Some(phone) = phone else { continue };
                        let whole = answer[..length].to_vec();
                        let changed = match back {
                            true => {
                                let known = format!(";received={};rport={}", outer.ip(), outer.port());
                                replaced(&replaced(&whole, &format!("UDP {outer}"), &format!("UDP {phone}")), &known, "")
                            }
                            false => whole,
                        };
                        let _ = inside.send_to(&changed, phone).await;
                    }
                }
            }
        });
        ((), async {})
    });
    guest
}

/// In text only: STUN is none.
fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.replace(from, to).into_bytes(),
        Err(_) => bytes.to_vec(),
    }
}

#[test]
fn a_time_server_that_is_two_hours_ahead_is_named() {
    let office = Office::with_clock(LEASES, 7200);
    let desk = office.computer("desk", "10.77.0.200", "02:00:00:00:00:20");
    let says = "the time server 10.77.0.1 is 2 h ahead of this machine's clock";
    office.examined().says("wrong", says);
    examined(&desk, &["--server", "10.77.0.1"]).says("wrong", &format!("{says}; the Plugtone server agrees with this machine"));
}

#[test]
fn phones_that_are_sent_to_https_find_their_files_there() {
    let (network, folder) = (Namespace::new("lan"), tempfile::tempdir().expect("folder"));
    network.bridge("lan", "10.77.0.1/24");
    fs::create_dir(folder.path().join("templates")).expect("made");
    let overrides = "sites: { office: { subnets: [10.77.0.0/16], variables: { https: true } } }\n";
    fs::write(folder.path().join("templates/overrides.yaml"), overrides).expect("written");
    let clock = time_server(&network, 0);
    let more = "http: { tls: ['0.0.0.0:443'] }\ntemplates: { path: templates }\nprovisioning: { open: { subnets: [10.77.0.200/32] } }\n";
    let office = Office::with(network, folder, clock, &[LEASES, more].concat());
    let desk = office.computer("desk", "10.77.0.200", "02:00:00:00:00:20");
    let report = office.examined();
    report.is_well();
    report.says("good", &tells_all());
    report.says("good", "TLS at 10.77.0.1:443 shows a certificate for ");
    // What option 66 says leads there, with the certificate of an authority that the phone was given.
    let authority = at(&office.folder, "tls/ca.pem");
    let file = desk.run("curl", &["-sS", "--fail", "--noproxy", "*", "--cacert", &authority, "https://10.77.0.1/001565aabbcc.cfg"]);
    assert!(file.contains("https://10.77.0.1") && !file.contains("http://10.77.0.1"), "{file}");
    // Where it is not spoken, nobody is sent there, and the check says so.
    let config = at(&office.folder, "plugtone.yaml");
    let without = fs::read_to_string(&config).expect("there").replace("http: { tls: ['0.0.0.0:443'] }", "");
    fs::write(&config, without).expect("written");
    let said = office.network.run(PLUGTONE, &["check", "--config", &config]);
    assert!(said.contains("note: templates send phones to HTTPS, which is off: name an address in `http.tls`"), "{said}");
    let sheet = office.network.run(PLUGTONE, &["dhcp", "sheet", "dnsmasq", "--config", &config]);
    assert!(!sheet.contains("https:"), "{sheet}");
}

#[test]
fn certificates_that_phones_refuse_are_named() {
    let (network, folder) = (Namespace::new("lan"), tempfile::tempdir().expect("folder"));
    network.bridge("lan", "10.77.0.1/24");
    certificate(folder.path(), "old", "10.77.0.1", &["-days", "-1", "-sha256"], "2048");
    certificate(folder.path(), "weak", "10.77.0.33", &["-days", "20", "-sha1"], "1024");
    let (old, weak) = ((at(&folder, "old.pem"), at(&folder, "old.key")), (at(&folder, "weak.pem"), at(&folder, "weak.key")));
    let tls = format!("{LEASES}sip: {{ tls: ['0.0.0.0:5061'] }}\ntls: {{ certificate: {}, key: {} }}\n", old.0, old.1);
    let clock = time_server(&network, 0);
    let office = Office::with(network, folder, clock, &tls);
    let desk = office.computer("desk", "10.77.0.200", "02:00:00:00:00:20");
    for report in [office.examined(), examined(&desk, &["--server", "10.77.0.1"])] {
        report.remedy("the certificate at 10.77.0.1:5061 expired on ", "`tls.certificate`");
        report.says("wrong", "the chain at 10.77.0.1:5061 ends with the server's certificate");
    }
    let other = office.computer("other", "10.77.0.5", "02:00:00:00:00:05");
    let _openssl = other
        .start("openssl", &["s_server", "-quiet", "-accept", "5061", "-cert", &weak.0, "-key", &weak.1, "-cipher", "DEFAULT@SECLEVEL=0"]);
    listens(&other, "-Hltn", 5061);
    let report = examined(&desk, &["--server", "10.77.0.5"]);
    report.says("wrong", "has an RSA key of 1024 bits");
    report.says("wrong", "is signed with SHA-1");
    report.says("wrong", "is for 10.77.0.33, and not for 10.77.0.5");
}

/// `name.pem`, `name.key` for an address, signed by an authority that is not in the file.
fn certificate(folder: &Path, name: &str, address: &str, more: &[&str], bits: &str) {
    need("openssl", "openssl");
    let run = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(folder).output().expect("openssl");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let file = |end: &str| format!("{name}.{end}");
    run(&["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9", "-subj", "/CN=Test CA", "-keyout", "ca.key", "-out", "ca.pem"]);
    let key = format!("rsa:{bits}");
    run(&["req", "-newkey", &key, "-nodes", "-subj", "/CN=pbx", "-keyout", &file("key"), "-out", &file("csr")]);
    fs::write(folder.join("ext"), format!("subjectAltName=IP:{address}\nbasicConstraints=CA:FALSE\n")).expect("written");
    let sign = [
        "x509",
        "-req",
        "-in",
        &file("csr"),
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        "ext",
        "-out",
        &file("pem"),
    ];
    run(&[&sign[..], more].concat());
}

#[test]
fn a_table_of_neighbours_that_is_too_small_is_told_by_check_and_serve() {
    // On this machine itself: in a namespace the system does not tell how large it is.
    let many =
        cli::office(cli::USERS).replace("127.64.0.0/16", "10.0.0.0/8").replace("127.64.8.10-127.64.8.250", "10.1.0.0-10.200.255.255");
    let folder = cli::folder(&[(cli::ITS, &many), ("users.yaml", &cli::shipped("config/demo/users.yaml"))]);
    fs::create_dir_all(folder.path().join("data")).expect("made");
    let says = "addresses, and this machine's table of neighbours";
    let check = cli::plugtone(folder.path(), &["check", "--config", cli::ITS]).good();
    assert!(check.contains(says) && check.contains("net.ipv4.neigh.default.gc_thresh3="), "{check}");
    let server = cli::Server::start_in(folder, &[]);
    assert!(server.until_logged(says).contains("WARN"));
}
