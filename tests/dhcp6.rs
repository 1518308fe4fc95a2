//! DHCPv6 as phones use it, by clients that are not ours (ISC dhclient, dhcpcd, Kea's perfdhcp) and a relay (ISC dhcrelay), in network
//! namespaces: from the question to the phone's own file over HTTP on IPv6, and to everybody else who does not get it. The server is the
//! real binary.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt,
    process::{Child, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use super::netns::{Namespace, Running, need, within};

const PATIENCE: Duration = Duration::from_secs(40);
const PLUGTONE: &str = env!("CARGO_BIN_EXE_plugtone");
const YEALINK: &str = "00:15:65:00:00:01";
const STATELESS: &str = "
dhcp6:
  mode: stateless
  subnets: [{ prefix: 'fd00:77::/64', dns: ['fd00:77::2'], domains: [office.example], ntp: ['fd00:77::4'] }]
provisioning: { url_tokens: true }
";

const LEASED: &str = "
dhcp6:
  mode: server
  subnets: [{ prefix: 'fd00:77::/64', pool: 'fd00:77::1000-fd00:77::1fff', dns: ['fd00:77::2'] }]
";

/// Addresses are of use at once: nobody else can have them here (RFC 4862 §5.4 would take a second for each).
fn without_detection(namespace: &Namespace, interface: &str) {
    namespace.run("sysctl", &["-q", "-w", &format!("net.ipv6.conf.{interface}.accept_dad=0")]);
}

/// The server at fd00:77::1, on the bridge `lan`.
struct Office {
    child: Child,
    folder: TempDir,
    network: Namespace,
}

impl Office {
    fn open(more: &str) -> Self {
        let network = Namespace::new("office");
        without_detection(&network, "default");
        network.bridge("lan", "fd00:77::1/64");
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("users.yaml"), "users: []\n").expect("written");
        let config = format!(
            "extensions: {{ range: 2041-2099 }}\ndirectory: {{ file: {{ path: users.yaml }} }}\ndhcp: {{ mode: 'off' }}\n\
             http: {{ listen: ['[::]:80'] }}\nstore: {{ path: data/plugtone.db }}\n{more}"
        );
        fs::write(folder.path().join("plugtone.yaml"), config).expect("written");
        let child = network.command("true").spawn().expect("true");
        let mut office = Self { child, folder, network };
        office.serve();
        office
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn serve(&mut self) {
        let log = fs::File::create(self.path("log")).expect("a log");
        let mut command = self.network.command(PLUGTONE);
        command.args(["serve", "--config", &self.path("plugtone.yaml")]).stdout(Stdio::null()).stderr(log);
        let _ = self.child.wait();
        self.child = command.spawn().expect("the server starts");
        assert!(within(PATIENCE, || self.log().contains("ready")), "{}", self.log());
    }

    /// Ends the server as a power cut would, and starts it again.
    fn cut_power(&mut self) {
        self.child.kill().expect("killed");
        self.serve();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// What the server answers to a command.
    fn ask(&self, words: &[&str]) -> String {
        let output = self.network.command(PLUGTONE).args(words).args(["--config", &self.path("plugtone.yaml")]).output();
        String::from_utf8_lossy(&output.expect("it runs").stdout).into_owned()
    }

    /// What the server says of a phone, as JSON.
    fn timeline(&self, mac: &str) -> String {
        self.ask(&["devices", mac, "--json"])
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the server's log\n{}", self.log());
        }
    }
}

/// A machine with `eth0`, and a place where the scripts of clients leave what they were told.
struct Machine {
    namespace: Namespace,
    folder: TempDir,
}

impl Machine {
    fn new(mac: &str, network: &Namespace) -> Self {
        let machine = Self { namespace: Namespace::new("machine"), folder: tempfile::tempdir().expect("folder") };
        without_detection(&machine.namespace, "default");
        network.plug("lan", &machine.namespace);
        // Its link-local address is made of its MAC when it comes up.
        for change in ["down", &format!("address {mac}"), "up"] {
            machine.namespace.ip(&format!("link set eth0 {change}"));
        }
        let folder = machine.folder.path().display().to_string();
        let script = format!(
            "#!/bin/sh\n\
             seen() {{ ip -6 addr show dev $interface to $new_ip6_address | grep -q $1; }}\n\
             case $reason in\n\
             BOUND6|RENEW6|REBIND6) [ -z \"$new_ip6_address\" ] || ip -6 addr replace $new_ip6_address/64 dev $interface\n\
             while [ -n \"$new_ip6_address\" ] && seen tentative; do\n\
             if seen dadfailed; then ip -6 addr del $new_ip6_address/64 dev $interface; exit 3; fi; sleep 0.05\n\
             done ;;\n\
             EXPIRE6|RELEASE6|STOP6) [ -z \"$old_ip6_address\" ] || ip -6 addr del $old_ip6_address/64 dev $interface ;;\n\
             esac\n\
             env > {folder}/told.tmp; mv {folder}/told.tmp {folder}/told.$reason\n"
        );
        for (name, text) in [
            ("script", &script[..]),
            ("note", &format!("#!/bin/sh\nenv > {folder}/told.tmp; mv {folder}/told.tmp {folder}/told.$reason\n")),
        ] {
            fs::write(machine.folder.path().join(name), text).unwrap();
            fs::set_permissions(machine.folder.path().join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        machine
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Waits until the script was told one of these, and forgets it, so that the next can be waited for.
    fn hears(&self, reasons: &[&str]) -> HashMap<String, String> {
        let told = || reasons.iter().map(|reason| self.folder.path().join(format!("told.{reason}"))).find(|path| path.exists());
        let others = || fs::read_dir(self.folder.path()).map(|list| list.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>());
        assert!(within(PATIENCE, || told().is_some()), "the client was never told {reasons:?}, only {:?}", others());
        let path = told().unwrap();
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        fs::remove_file(path).unwrap();
        text.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn dhclient_arguments(&self, more: &[&str]) -> Vec<String> {
        let config = "option space avaya code width 2 length width 2;\n\
                      option avaya.settings code 242 = text;\n\
                      option vsio.avaya code 6889 = encapsulate avaya;\n\
                      also request dhcp6.bootfile-url, dhcp6.sip-servers-addresses, dhcp6.sntp-servers, dhcp6.vendor-opts;\n";
        fs::write(self.path("dhclient.conf"), config).unwrap();
        let files =
            ["-cf", &self.path("dhclient.conf"), "-lf", &self.path("leases"), "-pf", &self.path("pid"), "-sf", &self.path("script")]
                .map(str::to_owned);
        more.iter().map(|word| (*word).to_owned()).chain(files).chain(["eth0".to_owned()]).collect()
    }

    /// A dhclient that stays, with the MAC as its identifier.
    fn dhclient(&self, more: &[&str]) -> Running {
        need("dhclient", "isc-dhcp-client");
        let arguments = self.dhclient_arguments(&[&["-6", "-d", "-v", "-D", "LL"][..], more].concat());
        self.namespace.start("dhclient", &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// A dhcpcd with what `dhcpcd.conf` says.
    fn dhcpcd(&self, more: &[&str]) -> Running {
        let (file, script) = (self.path("dhcpcd.conf"), self.path("note"));
        self.namespace.dhcpcd(&[&["--noipv6rs", "--config", &file, "--script", &script], more, &["eth0"]].concat())
    }

    /// The file at a URL, or the status that says why not.
    fn fetch(&self, url: &str) -> Result<String, String> {
        let written = self.path("fetched");
        let status = self.namespace.run("curl", &["-6", "-g", "-sS", "-o", &written, "-w", "%{http_code}", url]);
        if status.trim() == "200" { Ok(fs::read_to_string(written).expect("text")) } else { Err(status.trim().to_owned()) }
    }
}

#[test]
fn a_phone_with_an_address_from_its_router_gets_its_own_file_by_its_key() {
    let office = Office::open(STATELESS);
    let phone = Machine::new(YEALINK, &office.network);
    // As its router would have it.
    phone.namespace.ip("addr add fd00:77::1234/64 dev eth0");
    let _dhclient = phone.dhclient(&["-S"]);
    let told = phone.hears(&["RENEW6", "BOUND6"]);
    let value = |name: &str| told.get(name).map(String::as_str).unwrap_or_default();
    let url = value("new_dhcp6_bootfile_url");
    assert!(url.starts_with("http://[fd00:77::1]/t/001565000001-"), "{told:?}");
    assert_eq!((value("new_dhcp6_name_servers"), value("new_dhcp6_domain_search")), ("fd00:77::2", "office.example."), "{told:?}");
    assert_eq!((value("new_dhcp6_sntp_servers"), value("new_dhcp6_sip_servers_addresses")), ("fd00:77::4", "fd00:77::1"), "{told:?}");
    let file = phone.fetch(&format!("{url}/001565000001.cfg")).expect("its own file");
    assert!(file.contains("001565000001-1"), "{file}");
    assert!(within(PATIENCE, || office.timeline("001565000001").contains("dhcp_inform")), "{}", office.timeline("001565000001"));
    assert!(office.timeline("001565000001").contains("yealink"));

    // Its address alone proves nothing, its key proves nobody else.
    assert_eq!(phone.fetch("http://[fd00:77::1]/001565000001.cfg"), Err("404".into()));
    let other = Machine::new("00:15:65:00:00:02", &office.network);
    other.namespace.ip("addr add fd00:77::5678/64 dev eth0");
    assert_eq!(other.fetch(&format!("{}/001565000002.cfg", url)), Err("404".into()));
}

#[test]
fn an_avaya_reads_where_its_files_are_in_the_option_of_its_maker() {
    let office = Office::open(&STATELESS.replace("url_tokens: true", "open: { subnets: ['fd00:77::/64'] }"));
    let phone = Machine::new("00:04:0d:00:00:01", &office.network);
    phone.namespace.ip("addr add fd00:77::1234/64 dev eth0");
    let _dhclient = phone.dhclient(&["-S"]);
    let told = phone.hears(&["RENEW6", "BOUND6"]);
    assert_eq!(told.get("new_avaya_settings").map(String::as_str), Some("HTTPSRVR=fd00:77::1,HTTPPORT=80"), "{told:?}");
    phone.fetch("http://[fd00:77::1]:80/46xxsettings.txt").expect("what is there for every Avaya");
}

#[test]
fn a_phone_leases_an_address_and_gets_its_own_file_by_it_also_after_a_power_cut() {
    let mut office = Office::open(LEASED);
    let phone = Machine::new(YEALINK, &office.network);
    let dhclient = phone.dhclient(&[]);
    let told = phone.hears(&["BOUND6"]);
    let value = |name: &str| told.get(name).map(String::as_str).unwrap_or_default();
    assert_eq!((value("new_ip6_address"), value("new_dhcp6_name_servers")), ("fd00:77::1000", "fd00:77::2"), "{told:?}");
    assert_eq!((value("new_max_life"), value("new_renew"), value("new_rebind")), ("28800", "14400", "23040"), "{told:?}");
    assert_eq!(value("new_dhcp6_bootfile_url"), "http://[fd00:77::1]", "{told:?}");
    const FILE: &str = "http://[fd00:77::1]/001565000001.cfg";
    assert!(phone.fetch(FILE).expect("its own file").contains("001565000001-1"));
    assert!(within(PATIENCE, || office.timeline("001565000001").contains("lease_granted")), "{}", office.timeline("001565000001"));

    // Another has another address, and by that no file of this one.
    let other = Machine::new("00:15:65:00:00:02", &office.network);
    let _other = other.dhclient(&[]);
    assert_eq!(other.hears(&["BOUND6"]).get("new_ip6_address").map(String::as_str), Some("fd00:77::1001"));
    assert_eq!(other.fetch(FILE), Err("404".into()));
    other.fetch("http://[fd00:77::1]/001565000002.cfg").expect("its own file");

    office.cut_power();
    phone.fetch(FILE).expect("the lease was on disk");
    assert_eq!(other.fetch(FILE), Err("404".into()));
    // The phone's own power fails: it asks whether it is still on the link, and keeps its address.
    dhclient.signal(libc::SIGKILL);
    drop(dhclient);
    let dhclient = phone.dhclient(&[]);
    let told = phone.hears(&["REBIND6", "RENEW6", "BOUND6", "REBOOT6"]);
    assert_eq!(told.get("new_ip6_address").or(told.get("cur_ip6_address")).map(String::as_str), Some("fd00:77::1000"), "{told:?}");
    drop(dhclient);
    let arguments = phone.dhclient_arguments(&["-6", "-r", "-v", "-D", "LL"]);
    phone.namespace.run("dhclient", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(within(PATIENCE, || office.timeline("001565000001").contains("lease_released")), "{}", office.timeline("001565000001"));
    phone.namespace.ip("addr replace fd00:77::1000/64 dev eth0");
    assert_eq!(phone.fetch(FILE), Err("404".into()), "it gave the address back");

    let listed = office.ask(&["dhcp", "leases"]);
    assert!(listed.contains("fd00:77::1001  00:15:65:00:00:02  yealink  until 20") && !listed.contains("fd00:77::1000"), "{listed}");
    let listed = office.ask(&["dhcp", "leases", "--all"]);
    assert!(listed.contains("fd00:77::1000  00:15:65:00:00:01  yealink  released"), "{listed}");
    let pools = office.ask(&["dhcp", "pools"]);
    assert!(pools.contains("fd00:77::/64  fd00:77::1000-fd00:77::1fff  4096       1       0 %"), "{pools}");
}

#[test]
fn an_address_is_kept_for_a_phone() {
    let reserved = "pool: 'fd00:77::1000-fd00:77::1001', reservations: [{ mac: 00:15:65:00:00:01, address: 'fd00:77::1000' }]";
    let office = Office::open(&LEASED.replace("pool: 'fd00:77::1000-fd00:77::1fff'", reserved));
    let (phone, other) = (Machine::new(YEALINK, &office.network), Machine::new("00:15:65:00:00:02", &office.network));
    let has = |machine: &Machine| machine.hears(&["BOUND6"]).get("new_ip6_address").cloned();
    let _others = other.dhclient(&[]);
    assert_eq!(has(&other).as_deref(), Some("fd00:77::1001"), "the first in the pool is not for it");
    let _own = phone.dhclient(&[]);
    assert_eq!(has(&phone).as_deref(), Some("fd00:77::1000"));
}

#[test]
fn an_address_that_somebody_sits_on_is_left_to_him() {
    let office = Office::open(LEASED);
    let squatter = Machine::new("02:00:00:00:00:06", &office.network);
    squatter.namespace.ip("addr add fd00:77::1000/64 dev eth0");
    let phone = Machine::new(YEALINK, &office.network);
    // The kernel asks who has it (RFC 4862 §5.4), and dhclient hands on the answer.
    phone.namespace.run("sysctl", &["-q", "-w", "net.ipv6.conf.eth0.accept_dad=1"]);
    let _dhclient = phone.dhclient(&[]);
    let told = phone.hears(&["BOUND6"]);
    assert_eq!(told.get("new_ip6_address").map(String::as_str), Some("fd00:77::1001"), "{told:?}");
    assert!(office.timeline("001565000001").contains("lease_declined"), "{}", office.timeline("001565000001"));
    phone.fetch("http://[fd00:77::1]/001565000001.cfg").expect("its own file");
}

#[test]
fn a_phone_in_a_hurry_has_its_address_with_the_first_answer() {
    need("dhcpcd", "dhcpcd-base");
    let office = Office::open(LEASED);
    let phone = Machine::new("00:15:65:00:00:07", &office.network);
    fs::write(phone.path("dhcpcd.conf"), "ipv6only\nduid ll\nia_na\noption dhcp6_bootfile_url\noption dhcp6_rapid_commit\n").unwrap();
    let _dhcpcd = phone.dhcpcd(&[]);
    let told = phone.hears(&["BOUND6"]);
    assert!(told.iter().any(|(name, value)| name.ends_with("ia_addr1") && value == "fd00:77::1000"), "{told:?}");
    // As its router would tell it.
    phone.namespace.ip("route add fd00:77::/64 dev eth0");
    phone.fetch("http://[fd00:77::1]/001565000007.cfg").expect("its own file");
    let told = office.timeline("001565000007");
    assert!(told.contains("lease_granted") && !told.contains("dhcp_offer"), "{told}");
}

#[test]
fn three_hundred_phones_come_in_a_few_seconds_renew_and_go() {
    need("perfdhcp", "kea-admin");
    let office = Office::open(LEASED);
    let crowd = Machine::new("02:00:00:00:00:08", &office.network);
    // It ends with 3 where an exchange failed.
    let rates = ["-r", "100", "-R", "300", "-n", "300", "-u", "-f", "30", "-F", "10", "-W", "1000000", "-s", "1"];
    let report = crowd.namespace.run("perfdhcp", &[&["-6", "-l", "eth0"], &rates[..], &["all"]].concat());
    assert_eq!(report.matches("drops: 0").count(), 4, "{report}");
    assert!(!report.contains("non unique addresses: 1"), "{report}");
}

#[test]
fn a_make_is_known_by_what_dhcpcd_says_of_itself() {
    need("dhcpcd", "dhcpcd-base");
    let office = Office::open(STATELESS);
    let phone = Machine::new("02:00:00:00:00:07", &office.network);
    let config = "ipv6only\nduid ll\nvendclass 13885 VVX411\noption dhcp6_bootfile_url\noption dhcp6_name_servers\n";
    fs::write(phone.path("dhcpcd.conf"), config).unwrap();
    let _dhcpcd = phone.dhcpcd(&["--inform6"]);
    let told = phone.hears(&["INFORM6"]);
    let value = |name: &str| told.iter().find(|(known, _)| known.ends_with(name)).map(|(_, value)| value.as_str()).unwrap_or_default();
    let url = value("dhcp6_bootfile_url");
    assert!(url.starts_with("http://[fd00:77::1]/t/020000000007-") && url.ends_with("/000000000000.cfg"), "{told:?}");
    assert_eq!(value("dhcp6_name_servers"), "fd00:77::2", "{told:?}");
}

#[test]
fn a_phone_behind_a_relay_leases_an_address_of_its_own_network() {
    need("dhcrelay", "isc-dhcp-relay");
    let office = Office::open(&LEASED.replace("subnets: [", "subnets: [{ prefix: 'fd00:78::/64', pool: 'fd00:78::100-fd00:78::1ff' }, "));
    let router = Namespace::new("router");
    without_detection(&router, "default");
    router.run("sysctl", &["-q", "-w", "net.ipv6.conf.all.forwarding=1"]);
    router.bridge("lan", "fd00:78::1/64");
    office.network.plug("lan", &router);
    router.ip("addr add fd00:77::ff/64 dev eth0");
    office.network.ip("route add fd00:78::/64 via fd00:77::ff");
    let _relay = router.start("dhcrelay", &["-6", "-d", "-l", "lan", "-u", "fd00:77::1%eth0"]);
    let phone = Machine::new(YEALINK, &router);
    let _dhclient = phone.dhclient(&[]);
    let told = phone.hears(&["BOUND6"]);
    assert_eq!(told.get("new_ip6_address").map(String::as_str), Some("fd00:78::100"), "{told:?}");
    // As its router would tell it.
    phone.namespace.ip("route add default via fd00:78::1 dev eth0");
    assert!(phone.fetch("http://[fd00:77::1]/001565000001.cfg").expect("its own file").contains("001565000001-1"));
}

#[test]
fn a_phone_behind_a_relay_is_answered_through_it() {
    need("dhcrelay", "isc-dhcp-relay");
    let settings = STATELESS.replace("subnets: [", "subnets: [{ prefix: 'fd00:78::/64', dns: ['fd00:78::2'] }, ");
    let office = Office::open(&settings);
    // A router between the two networks.
    let router = Namespace::new("router");
    without_detection(&router, "default");
    router.bridge("lan", "fd00:78::1/64");
    office.network.plug("lan", &router);
    router.ip("addr add fd00:77::ff/64 dev eth0");
    let _relay = router.start("dhcrelay", &["-6", "-d", "-l", "lan", "-u", "fd00:77::1%eth0"]);
    let phone = Machine::new(YEALINK, &router);
    let _dhclient = phone.dhclient(&["-S"]);
    let told = phone.hears(&["RENEW6", "BOUND6"]);
    assert_eq!(told.get("new_dhcp6_name_servers").map(String::as_str), Some("fd00:78::2"), "{told:?}");
    assert!(told.get("new_dhcp6_bootfile_url").is_some_and(|url| url.starts_with("http://[fd00:77::1]/t/001565000001-")), "{told:?}");
}
