//! The DHCP server against clients that are not ours (busybox udhcpc, ISC dhclient) and a relay (ISC dhcrelay), by
//! broadcast on the real ports, in network namespaces; and with our own client on loopback, without root.

use std::{
    collections::HashMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use plugtone::{
    dhcp::{
        Class, ClientFacts, Error, LeaseView, OptionValue, Settings,
        client::{LoopbackClient, load},
        client_core::{ClientConfig, ClientEvent, Lease},
        options::{self, Head},
        socket::{Running as Server, serve},
    },
    model::{Event, Events, LeaseState, MacAddr, Timestamp},
    store::{Store, sqlite::Sqlite},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::netns::{Guest, Namespace, Running, need, within};

const PATIENCE: Duration = Duration::from_secs(20);
/// What a Polycom sends as option 60: RFC 3925 layout, enterprise number 13885, "Polycom", "VVX-VVX_411".
pub const POLY_CLASS: &str = "00:00:36:3d:16:01:07:50:6f:6c:79:63:6f:6d:02:0b:56:56:58:2d:56:56:58:5f:34:31:31";

/// What the templates of the two families say, in short.
fn classify(facts: &ClientFacts<'_>) -> Class {
    let class = facts.vendor_class.unwrap_or_default();
    let url = OptionValue::Text(format!("http://{}:8080", facts.server));
    let phone =
        |family: &str, options, always_send| Class { family: Some(family.into()), phone: true, options, always_send, ..Class::default() };
    if class == b"yealink" {
        phone("yealink", vec![(66, url.clone()), (43, url), (120, OptionValue::SipAddresses(vec![facts.server]))], vec![66, 42])
    } else if class.windows(7).any(|part| part == b"Polycom") {
        phone("poly", vec![(160, url.clone()), (66, url), (128, OptionValue::Text("VLAN-A=10;".into()))], vec![160])
    } else {
        Class::default()
    }
}

fn now() -> Timestamp {
    Timestamp::of(SystemTime::now())
}

pub fn settings(yaml: &str) -> Settings {
    serde_yaml::from_str(yaml).expect("settings")
}

/// A server with a store, wherever it runs.
pub struct Office {
    view: LeaseView,
    events: Arc<Mutex<Vec<Event>>>,
    pub store: Arc<Sqlite>,
    folder: TempDir,
}

impl Office {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let store = Sqlite::open(folder.path().join("plugtone.db")).expect("store");
        Self { view: LeaseView::default(), events: Arc::default(), store, folder }
    }

    pub async fn start(&self, settings: &Settings, stop: CancellationToken) -> Server {
        let events = self.events.clone();
        let events = Events::new(move |event| events.lock().unwrap().push(event));
        let config = settings.check().expect("settings");
        // A program that a test beside this one is just starting holds our old sockets too, until it is that program.
        let ends = Instant::now() + PATIENCE;
        loop {
            let (classify, store) = (Arc::new(classify), self.store.clone());
            match serve(config.clone(), classify, store, events.clone(), self.view.clone(), stop.clone()).await {
                Err(Error::Busy { .. }) if Instant::now() < ends => tokio::time::sleep(Duration::from_millis(50)).await,
                served => return served.expect("serve"),
            }
        }
    }

    /// In a namespace, until the guard is dropped.
    fn host(self: &Arc<Self>, namespace: &Namespace, yaml: &str) -> Guest {
        let (office, settings) = (self.clone(), settings(yaml));
        let ((), guest) = namespace.host(move |stop| async move {
            let server = office.start(&settings, stop).await;
            ((), server.stopped())
        });
        guest
    }

    fn told(&self, test: impl Fn(&Event) -> bool) -> usize {
        self.events.lock().unwrap().iter().filter(|event| test(event)).count()
    }

    pub fn holder(&self, address: &str) -> Option<MacAddr> {
        self.view.holder(address.parse::<Ipv4Addr>().unwrap(), now()).map(|holder| holder.mac)
    }
}

/// A namespace with `eth0`, and a place where the scripts of DHCP clients leave what they were told.
pub struct Client {
    pub namespace: Namespace,
    folder: TempDir,
}

impl Client {
    /// Plugged into the bridge `lan` of a network, with this MAC.
    pub fn new(label: &str, mac: &str, network: &Namespace) -> Self {
        let client = Self { namespace: Namespace::new(label), folder: tempfile::tempdir().expect("folder") };
        client.write_script();
        network.plug("lan", &client.namespace);
        client.namespace.ip(&format!("link set eth0 address {mac}"));
        client
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Sets the address and writes the environment down, for udhcpc (`$1`, `$ip`) and for dhclient (`$reason`, `$new_ip_address`).
    fn write_script(&self) {
        let folder = self.folder.path().display();
        let script = format!(
            "#!/bin/sh\n\
             event=${{1:-$reason}}; address=${{ip:-$new_ip_address}}; mask=${{subnet:-$new_subnet_mask}}; gateway=${{router:-$new_routers}}\n\
             case $event in\n\
             bound|renew|BOUND|RENEW|REBIND|REBOOT)\n\
               ip addr flush dev $interface\n\
               ip addr add $address/$mask dev $interface\n\
               [ -z \"$gateway\" ] || ip route replace default via $gateway ;;\n\
             deconfig|PREINIT|EXPIRE|RELEASE)\n\
               ip link set $interface up; ip addr flush dev $interface ;;\n\
             esac\n\
             env > {folder}/told.tmp; mv {folder}/told.tmp {folder}/told.$event\n"
        );
        fs::write(self.path("script"), script).unwrap();
        fs::set_permissions(self.path("script"), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What the script was told with `event`.
    fn told(&self, event: &str) -> Option<HashMap<String, String>> {
        let text = fs::read(self.path(&format!("told.{event}"))).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        Some(text.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// Waits for `event` and forgets it, so that the next of its kind can be waited for.
    pub fn hears(&self, event: &str) -> HashMap<String, String> {
        let path = self.path(&format!("told.{event}"));
        assert!(within(PATIENCE, || path.exists()), "the client was never told '{event}'");
        let told = self.told(event).unwrap();
        fs::remove_file(path).unwrap();
        told
    }

    /// A udhcpc that stays, in the foreground of a guard.
    pub fn udhcpc(&self, more: &[&str]) -> Running {
        need("udhcpc", "udhcpc");
        let script = self.path("script").display().to_string();
        let arguments = [&["-i", "eth0", "-f", "-t", "10", "-T", "1", "-A", "1", "-s", &script][..], more].concat();
        self.namespace.start("udhcpc", &arguments)
    }

    /// What dhcpcd is told when it asks by DHCPINFORM, with an address that it has.
    fn informs(&self, address: &str, config: &str) -> HashMap<String, String> {
        // Its own name for option 66 takes host names only.
        let config = format!("ipv4only\nnoarp\ndefine 66 string file_server\noption file_server\n{config}");
        fs::write(self.path("dhcpcd.conf"), config).unwrap();
        // It sets the address itself, and would take it for lost if a script did.
        let folder = self.folder.path().display();
        fs::write(self.path("note"), format!("#!/bin/sh\nenv > {folder}/told.tmp; mv {folder}/told.tmp {folder}/told.$reason\n")).unwrap();
        fs::set_permissions(self.path("note"), fs::Permissions::from_mode(0o755)).unwrap();
        let (file, script) = (self.path("dhcpcd.conf").display().to_string(), self.path("note").display().to_string());
        let inform = format!("--inform={address}/24");
        let _dhcpcd = self.namespace.dhcpcd(&["--oneshot", "--config", &file, "--script", &script, &inform, "eth0"]);
        self.hears("INFORM")
    }

    fn dhclient_files(&self) -> Vec<String> {
        let path = |name: &str| self.path(name).display().to_string();
        ["-cf", &path("dhclient.conf"), "-lf", &path("leases"), "-pf", &path("pid"), "-sf", &path("script")].map(str::to_owned).to_vec()
    }

    /// A dhclient that stays.
    pub fn dhclient(&self, config: &str) -> Running {
        need("dhclient", "isc-dhcp-client");
        fs::write(self.path("dhclient.conf"), config).unwrap();
        let files = self.dhclient_files();
        let arguments: Vec<&str> = ["-d", "-v"].into_iter().chain(files.iter().map(String::as_str)).chain(["eth0"]).collect();
        self.namespace.start("dhclient", &arguments)
    }
}

/// A network with the server at 10.77.0.1 and a bridge for clients.
pub fn lan() -> Namespace {
    let network = Namespace::new("lan");
    network.bridge("lan", "10.77.0.1/24");
    network
}

const LAN: &str = "
interfaces: [lan]
conflict_check: false
time_zone: UTC
lease_secs: 600
subnets:
- cidr: 10.77.0.0/24
  range: 10.77.0.100-10.77.0.150
  router: 10.77.0.1
  dns: [10.77.0.1]
  ntp: [10.77.0.1]
";

#[test]
fn udhcpc_as_a_yealink_gets_renews_and_releases() {
    let (network, office) = (lan(), Arc::new(Office::new()));
    let _server = office.host(&network, LAN);
    let phone = Client::new("yealink", "00:15:65:00:00:01", &network);
    // What a Yealink asks for, beyond udhcpc's own list.
    let asks = ["-V", "yealink", "-O", "42", "-O", "66", "-O", "43", "-O", "120", "-O", "2"];
    let mut udhcpc = phone.udhcpc(&[&asks[..], &["-R"]].concat());
    let told = phone.hears("bound");
    let value = |name: &str| told.get(name).map(String::as_str);
    assert_eq!((value("ip"), value("router"), value("ntpsrv")), (Some("10.77.0.100"), Some("10.77.0.1"), Some("10.77.0.1")), "{told:?}");
    // busybox shows option 66 only when it is a bare host name: the frames below are looked at instead.
    assert_eq!((value("tftp"), value("siaddr")), (Some("bad"), Some("10.77.0.1")), "{told:?}");
    assert_eq!((value("timezone"), value("lease"), value("serverid")), (Some("0"), Some("600"), Some("10.77.0.1")), "{told:?}");
    let hex: String = b"http://10.77.0.1:8080".iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((value("opt43"), value("sipsrv")), (Some(hex.as_str()), Some("10.77.0.1")), "{told:?}");
    let mac = "00:15:65:00:00:01".parse().unwrap();
    assert_eq!(office.holder("10.77.0.100"), Some(mac));
    let granted = |event: &Event| matches!(event, Event::LeaseGranted { family: Some(family), .. } if family == "yealink");
    assert_eq!(office.told(granted), 1);

    udhcpc.signal(libc::SIGUSR1);
    assert_eq!(phone.hears("renew").get("ip").map(String::as_str), Some("10.77.0.100"));
    assert_eq!(office.told(granted), 2);

    udhcpc.signal(libc::SIGTERM);
    assert!(udhcpc.wait(PATIENCE));
    assert!(within(PATIENCE, || office.view.is_empty()), "given back");
    assert!(within(PATIENCE, || office.told(|event| matches!(event, Event::LeaseReleased { .. })) == 1));
    let _again = phone.udhcpc(&asks);
    assert_eq!(phone.hears("bound").get("ip").map(String::as_str), Some("10.77.0.100"), "the same address again");
}

#[test]
fn dhclient_as_a_poly_gets_reboots_renews_and_releases() {
    let (network, office) = (lan(), Arc::new(Office::new()));
    let server = office.host(&network, LAN);
    let phone = Client::new("poly", "64:16:7f:00:00:01", &network);
    let config = format!(
        "option poly-url code 160 = text;\n\
         send vendor-class-identifier {POLY_CLASS};\n\
         send dhcp-lease-time 12;\n\
         request subnet-mask, broadcast-address, routers, poly-url, tftp-server-name, vendor-encapsulated-options, ntp-servers, time-offset, domain-name-servers;\n\
         timeout 10; retry 2; initial-interval 1;\n"
    );
    let dhclient = phone.dhclient(&config);
    let told = phone.hears("BOUND");
    let value = |name: &str| told.get(name).map(String::as_str);
    assert_eq!((value("new_ip_address"), value("new_routers")), (Some("10.77.0.100"), Some("10.77.0.1")), "{told:?}");
    assert_eq!(value("new_poly_url"), Some("http://10.77.0.1:8080"), "{told:?}");
    assert_eq!(value("new_tftp_server_name"), Some("http://10.77.0.1:8080"), "{told:?}");
    assert_eq!(value("new_dhcp_lease_time"), Some("60"), "no less than a minute");
    assert_eq!(value("new_vendor_encapsulated_options"), None, "asked for, and not a Poly's");
    assert_eq!(office.told(|event| matches!(event, Event::LeaseGranted { family: Some(family), .. } if family == "poly")), 1);

    // Unplugged without a word, plugged in again: INIT-REBOOT, also with a server that was restarted meanwhile.
    // It writes its lease down only after the script has run.
    let noted = || fs::read_to_string(phone.path("leases")).is_ok_and(|text| text.contains("fixed-address 10.77.0.100"));
    assert!(within(PATIENCE, noted));
    dhclient.signal(libc::SIGKILL);
    drop(dhclient);
    drop(server);
    let _server = office.host(&network, LAN);
    let discovers = |event: &Event| matches!(event, Event::DhcpDiscover { .. });
    let before = office.told(discovers);
    let _dhclient = phone.dhclient(&config);
    assert_eq!(phone.hears("REBOOT").get("new_ip_address").map(String::as_str), Some("10.77.0.100"));
    assert_eq!(office.told(discovers), before, "it did not have to ask anew");

    let files = phone.dhclient_files();
    let arguments: Vec<&str> = ["-r"].into_iter().chain(files.iter().map(String::as_str)).chain(["eth0"]).collect();
    phone.namespace.run("dhclient", &arguments);
    assert!(within(PATIENCE, || office.view.is_empty()), "given back");
}

#[test]
fn replies_are_frames_to_the_client_or_broadcasts_as_it_asks() {
    need("tcpdump", "tcpdump");
    let (network, office) = (lan(), Arc::new(Office::new()));
    let _server = office.host(&network, LAN);
    for (mac, flag, expected) in
        [("00:0b:82:00:00:01", &[][..], "00:0b:82:00:00:01"), ("00:0b:82:00:00:02", &["-B"][..], "ff:ff:ff:ff:ff:ff")]
    {
        let phone = Client::new("phone", mac, &network);
        let capture = phone.path("frames");
        let written = capture.display().to_string();
        let mut tcpdump = phone.namespace.start("tcpdump", &["-i", "eth0", "--immediate-mode", "-U", "-w", &written, "udp src port 67"]);
        assert!(within(PATIENCE, || capture.metadata().is_ok_and(|file| file.len() >= 24)), "tcpdump listens");
        let _udhcpc = phone.udhcpc(&[&["-V", "yealink", "-O", "66"][..], flag].concat());
        phone.hears("bound");
        // A file header of 24 bytes, then records of at least 16 and 342 (Ethernet, IP, UDP, 300 of DHCP).
        assert!(within(PATIENCE, || capture.metadata().is_ok_and(|file| file.len() >= 24 + 2 * 358)), "both replies were captured");
        tcpdump.signal(libc::SIGTERM);
        assert!(tcpdump.wait(PATIENCE));
        let replies = frames(&capture);
        assert_eq!(replies.len(), 2, "OFFER and ACK");
        for frame in replies {
            let to: Vec<String> = frame[..6].iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(to.join(":"), expected);
            assert!(frame.len() >= 14 + 28 + 300, "padded: {}", frame.len());
            let flags = u16::from_be_bytes([frame[14 + 28 + 10], frame[14 + 28 + 11]]);
            assert_eq!(flags != 0, !flag.is_empty(), "the flag is echoed");
            let option = b"\x42\x15http://10.77.0.1:8080";
            assert!(frame.windows(option.len()).any(|part| part == option), "option 66 as a URL, without NUL");
        }
    }
}

/// The frames of a capture file in the byte order of this machine.
pub fn frames(path: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(path).unwrap();
    let (mut rest, mut list) = (&bytes[24..], Vec::new());
    while let Some((header, more)) = rest.split_at_checked(16) {
        let length = u32::from_ne_bytes(header[8..12].try_into().unwrap()) as usize;
        let Some((frame, after)) = more.split_at_checked(length) else { break };
        list.push(frame.to_vec());
        rest = after;
    }
    list
}

#[test]
fn an_address_in_use_is_neither_offered_nor_kept() {
    let (network, office) = (lan(), Arc::new(Office::new()));
    let printer = Client::new("printer", "00:11:22:00:00:01", &network);
    printer.namespace.ip("addr add 10.77.0.100/24 dev eth0");
    {
        let _server = office.host(&network, &LAN.replace("conflict_check: false", "conflict_check: true"));
        let phone = Client::new("phone", "00:15:65:00:00:01", &network);
        let _udhcpc = phone.udhcpc(&[]);
        assert_eq!(phone.hears("bound").get("ip").map(String::as_str), Some("10.77.0.101"), "the server asked by ARP");
        assert_eq!(office.told(|event| matches!(event, Event::LeaseDeclined { .. })), 1);
    }
    // Without the question the client finds out, and says DECLINE.
    let office = Arc::new(Office::new());
    let _server = office.host(&network, LAN);
    let phone = Client::new("phone", "00:15:65:00:00:02", &network);
    let _udhcpc = phone.udhcpc(&["-a500"]);
    let address = phone.hears("bound").get("ip").cloned();
    assert_eq!(address.as_deref(), Some("10.77.0.101"));
    assert_eq!(office.told(|event| matches!(event, Event::LeaseDeclined { address, .. } if address.to_string() == "10.77.0.100")), 1);
}

/// Somebody on the phone's own network writes the phone's MAC into a RELEASE and a DECLINE.
#[test]
fn who_speaks_in_a_phones_name_does_not_take_its_address() {
    let (network, office) = (lan(), Arc::new(Office::new()));
    let _server = office.host(&network, &LAN.replace("conflict_check: false", "conflict_check: true"));
    let mac: MacAddr = "00:15:65:00:00:01".parse().unwrap();
    let phone = Client::new("phone", &mac.to_string(), &network);
    let _udhcpc = phone.udhcpc(&[]);
    let address: Ipv4Addr = phone.hears("bound")["ip"].parse().unwrap();

    let rogue = Client::new("rogue", "02:00:00:00:00:66", &network);
    rogue.namespace.ip("addr add 10.77.0.66/24 dev eth0");
    rogue.namespace.ip("route add default dev eth0");
    let server = Ipv4Addr::new(10, 77, 0, 1);
    let says = move || {
        let socket = std::net::UdpSocket::bind("10.77.0.66:68").expect("a socket");
        socket.set_broadcast(true).expect("broadcasts");
        let us = (54, server.octets().to_vec());
        let release = Head { ciaddr: address, ..Head::request(1, mac) };
        let release = options::encode(&release, &[(53, vec![7]), us.clone()], 0);
        let decline = options::encode(&Head::request(2, mac), &[(53, vec![4]), us, (50, address.octets().to_vec())], 0);
        socket.send_to(&release.bytes, (server, 67)).expect("sent");
        socket.send_to(&decline.bytes, (Ipv4Addr::BROADCAST, 67)).expect("sent");
    };
    rogue.namespace.enter(says).join().expect("it says so");
    // The next address is asked for by ARP as long as the phone was, and later: then it is decided.
    let other = Client::new("other", "00:15:65:00:00:02", &network);
    let _other = other.udhcpc(&[]);
    assert_ne!(other.hears("bound")["ip"], address.to_string());
    assert_eq!(office.holder(&address.to_string()), Some(mac), "it has its address");
    assert_eq!(office.told(|event| matches!(event, Event::LeaseReleased { .. } | Event::LeaseDeclined { .. })), 0);
}

#[test]
fn a_relay_passes_on_requests_and_says_where_they_came_from() {
    need("dhcrelay", "isc-dhcp-relay");
    let (network, office) = (lan(), Arc::new(Office::new()));
    let relay = Namespace::new("relay");
    network.plug("lan", &relay);
    relay.ip("addr add 10.77.0.2/24 dev eth0");
    relay.bridge("lan", "10.88.0.1/24");
    relay.run("sysctl", &["-q", "-w", "net.ipv4.ip_forward=1"]);
    network.ip("route add 10.88.0.0/24 via 10.77.0.2");
    // Without `interfaces` one socket serves all, and the kernel says where a packet came in.
    let yaml =
        format!("{}- cidr: 10.88.0.0/24\n  range: 10.88.0.50-10.88.0.60\n  router: 10.88.0.1\n", LAN.replace("interfaces: [lan]", ""));
    let _server = office.host(&network, &yaml);
    let _dhcrelay = relay.start("dhcrelay", &["-4", "-d", "-a", "-id", "lan", "-iu", "eth0", "10.77.0.1"]);

    let phone = Client::new("phone", "00:15:65:00:00:01", &relay);
    let udhcpc = phone.udhcpc(&["-V", "yealink", "-O", "66"]);
    let told = phone.hears("bound");
    assert_eq!((told["ip"].as_str(), told["router"].as_str(), told["siaddr"].as_str()), ("10.88.0.50", "10.88.0.1", "10.77.0.1"));
    let holder = office.view.holder("10.88.0.50".parse::<Ipv4Addr>().unwrap(), now()).unwrap();
    assert_eq!(holder.relay, Some(Ipv4Addr::new(10, 88, 0, 1).into()));
    assert!(holder.relay_info.is_some_and(|info| info.windows(3).any(|part| part == b"lan")), "the relay's circuit id");
    assert_eq!(office.told(|event| matches!(event, Event::LeaseGranted { port: Some(port), .. } if port == "lan")), 1);
    // Renewed by unicast, past the relay.
    udhcpc.signal(libc::SIGUSR1);
    assert_eq!(phone.hears("renew")["ip"], "10.88.0.50");
    // By broadcast flag too.
    let other = Client::new("other", "00:15:65:00:00:02", &relay);
    let _udhcpc = other.udhcpc(&["-B"]);
    assert_eq!(other.hears("bound")["ip"], "10.88.0.51");
    // And one beside the server, by the same socket.
    let near = Client::new("near", "00:15:65:00:00:03", &network);
    let _udhcpc = near.udhcpc(&["-B"]);
    assert_eq!(near.hears("bound")["ip"], "10.77.0.100");
}

#[test]
fn beside_a_server_that_must_stay_phones_ask_us_and_computers_do_not_hear_us() {
    need("dnsmasq", "dnsmasq-base");
    need("dhcpcd", "dhcpcd-base");
    let (network, office) = (lan(), Arc::new(Office::new()));
    // The office's server, on a machine of its own, which knows no phones.
    let other = Namespace::new("other");
    network.plug("lan", &other);
    other.ip("addr add 10.77.0.2/24 dev eth0");
    let folder = tempfile::tempdir().expect("folder");
    let leases = format!("--dhcp-leasefile={}", folder.path().join("leases").display());
    let arguments = ["-k", "--user=root", "--port=0", "--no-ping", "--pid-file=", "--conf-file=/dev/null", "--interface=eth0"];
    let _dnsmasq = other.start("dnsmasq", &[&arguments[..], &["--dhcp-range=10.77.0.100,10.77.0.150,10m", &leases]].concat());
    let _server = office.host(&network, "mode: beside\ninterfaces: [lan]\nconflict_check: false\nsubnets: [{ cidr: 10.77.0.0/24 }]\n");

    let phone = Client::new("phone", "00:15:65:00:00:01", &network);
    let udhcpc = phone.udhcpc(&["-V", "yealink", "-O", "66"]);
    let told = phone.hears("bound");
    let address = told["ip"].clone();
    assert_eq!((&*told["serverid"], told.get("tftp")), ("10.77.0.2", None), "the other server leases: {told:?}");
    udhcpc.signal(libc::SIGUSR1);
    assert_eq!(phone.hears("renew")["serverid"], "10.77.0.2");
    assert!(within(PATIENCE, || office.told(|event| matches!(event, Event::DhcpDiscover { .. })) > 0), "the phone is seen");

    // It asks who else knows something; the other's answer has nothing for it.
    let told = phone.informs(&address, "vendorclassid yealink\nblacklist 10.77.0.2\n");
    let value = |name: &str| told.get(name).map(String::as_str);
    assert_eq!(
        (value("new_dhcp_server_identifier"), value("new_file_server")),
        (Some("10.77.0.1"), Some("http://10.77.0.1:8080")),
        "{told:?}"
    );
    assert_eq!((value("new_ip_address"), value("new_dhcp_lease_time")), (Some(&*address), None), "{told:?}");

    // A computer hears the other server only.
    let computer = Client::new("computer", "00:11:22:00:00:01", &network);
    let _udhcpc = computer.udhcpc(&[]);
    let address = computer.hears("bound")["ip"].clone();
    let told = computer.informs(&address, "vendorclassid MSFT 5.0\n");
    assert_eq!(told.get("new_dhcp_server_identifier").map(String::as_str), Some("10.77.0.2"), "{told:?}");
    assert_eq!(office.told(|event| matches!(event, Event::DhcpInform { .. })), 1);
    let leased = |event: &Event| matches!(event, Event::DhcpOffer { .. } | Event::LeaseGranted { .. } | Event::LeaseRefused { .. });
    assert_eq!((office.told(leased), office.view.len()), (0, 0), "nothing was leased, nobody refused");
}

#[test]
fn without_raw_sockets_new_clients_are_answered_by_broadcast() {
    let (network, office) = (lan(), Arc::new(Office::new()));
    let (inside, settings) = (office.clone(), settings(&LAN.replace("conflict_check: false", "conflict_check: true")));
    let ((), _server) = network.host(move |stop| {
        give_up_raw_sockets();
        async move {
            let server = inside.start(&settings, stop).await;
            ((), server.stopped())
        }
    });
    let phone = Client::new("phone", "00:15:65:00:00:01", &network);
    let _udhcpc = phone.udhcpc(&[]);
    assert_eq!(phone.hears("bound")["ip"], "10.77.0.100");
}

/// Takes CAP_NET_RAW from this thread, as a service without it would run (capabilities(7)).
fn give_up_raw_sockets() {
    const VERSION_3: u32 = 0x2008_0522;
    const NET_RAW: u32 = 13;
    let header = [VERSION_3, 0];
    // Effective, permitted, inheritable of capabilities 0 to 31, then of 32 to 63.
    let mut sets = [0u32; 6];
    // SAFETY: both arrays are as capget(2) and capset(2) have them for version 3, and live through the calls.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()), 0);
        sets[0] &= !(1 << NET_RAW);
        assert_eq!(libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()), 0);
        let refused = libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0);
        assert_eq!(refused, -1, "the capability is gone");
    }
}

#[test]
fn a_busy_or_missing_place_to_listen_is_named() {
    let (network, office) = (lan(), Arc::new(Office::new()));
    let _server = office.host(&network, LAN);
    let second = Office::new();
    let reports = network.enter(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        [LAN.to_owned(), LAN.replace("[lan]", "[eth7]")].map(|yaml| {
            let config = settings(&yaml).check().unwrap();
            let start =
                serve(config, Arc::new(classify), second.store.clone(), Events::nowhere(), LeaseView::default(), CancellationToken::new());
            runtime.block_on(start).err().expect("it cannot").to_string()
        })
    });
    let [busy, missing] = reports.join().unwrap();
    assert!(busy.contains("0.0.0.0:67 on lan") && busy.contains("another DHCP server"), "{busy}");
    assert!(missing.contains("no interface 'eth7'"), "{missing}");
}

// --- loopback: no root

const LOOPBACK: &str = "
loopback: true
listen: 127.0.0.1:0
new_clients_per_minute: 0
subnets:
- cidr: 127.64.0.0/16
  range: 127.64.1.0-127.64.9.255
";

pub async fn bound(client: &mut LoopbackClient) -> Lease {
    let wait = async {
        loop {
            if let ClientEvent::Bound(lease) | ClientEvent::Renewed(lease) = client.event().await.expect("socket") {
                return lease;
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("an address in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_clients_get_durable_leases() {
    let office = Office::new();
    let stop = CancellationToken::new();
    let server = office.start(&settings(LOOPBACK), stop.clone()).await;
    let SocketAddr::V4(at) = server.addresses[0] else { panic!("IPv4") };
    let mac: MacAddr = "00:15:65:00:00:01".parse().unwrap();
    let mut config = ClientConfig::new(mac);
    config.vendor_class = Some(b"yealink".to_vec());
    config.parameter_list = vec![1, 3, 6, 66];
    let mut client = LoopbackClient::new(at.into(), Ipv4Addr::LOCALHOST, config.clone(), 1).await.unwrap();
    client.start();
    let lease = bound(&mut client).await;
    assert_eq!((lease.address, lease.server), (Ipv4Addr::new(127, 64, 1, 0), Ipv4Addr::LOCALHOST));
    assert_eq!(lease.options.text(66).as_deref(), Some("http://127.0.0.1:8080"));
    assert_eq!(office.view.address_of(mac, now()), Some(lease.address.into()));
    client.core().renew(std::time::Instant::now());
    assert_eq!(bound(&mut client).await.address, lease.address);

    // The server is killed; what it acknowledged is known to the next one, and the phone reboots into it.
    stop.cancel();
    server.stopped().await;
    let office = Office {
        store: Sqlite::open(office.folder.path().join("plugtone.db")).unwrap(),
        view: LeaseView::default(),
        events: Arc::default(),
        folder: office.folder,
    };
    let stop = CancellationToken::new();
    let server = office.start(&settings(LOOPBACK), stop.clone()).await;
    assert_eq!(office.view.holder(lease.address, now()).map(|holder| holder.mac), Some(mac));
    config.last_address = Some(lease.address);
    let mut client = LoopbackClient::new(server.addresses[0], Ipv4Addr::LOCALHOST, config, 2).await.unwrap();
    client.start();
    assert_eq!(bound(&mut client).await.address, lease.address);
    client.core().release();
    client.flush().await.unwrap();
    let released = async {
        while office.store.leases().await.unwrap()[0].state != LeaseState::Released {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, released).await.expect("the release is on disk");
    stop.cancel();
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_morning_of_a_thousand_phones() {
    let office = Office::new();
    let stop = CancellationToken::new();
    let server = office.start(&settings(LOOPBACK), stop.clone()).await;
    let report = load(server.addresses[0], 1000, 100, MacAddr([2, 0, 0, 0, 0, 0]), Duration::from_secs(60)).await.unwrap();
    assert_eq!(report.failed, 0, "{report:?}");
    assert_eq!((office.view.len(), office.store.leases().await.unwrap().len()), (1000, 1000));
    stop.cancel();
    server.stopped().await;
}
