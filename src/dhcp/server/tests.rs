//! Scripts in time for the server core: every message of RFC 2131 and what phones and relays make of it.

use proptest::prelude::*;

use super::*;
use crate::dhcp::{
    class::OptionValue,
    options::{self, Head},
    settings::Settings,
};

const OFFICE: &str = "
lease_secs: 3600
conflict_check: false
time_zone: UTC
subnets:
- cidr: 10.0.0.0/24
  range: 10.0.0.10-10.0.0.12
  router: 10.0.0.254
  dns: [10.0.0.2, 10.0.0.3]
  ntp: [10.0.0.4]
  reservations: [{mac: 00:00:00:00:00:99, address: 10.0.0.99}]
- cidr: 10.1.0.0/24
  range: 10.1.0.10-10.1.0.20
";
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const RELAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const EVERYBODY: Ipv4Addr = Ipv4Addr::BROADCAST;

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn mac(n: u8) -> MacAddr {
    MacAddr([0, 0, 0, 0, 0, n])
}

/// A message under construction.
#[derive(Clone)]
struct Msg {
    head: Head,
    list: Vec<(u8, Vec<u8>)>,
    destination: Ipv4Addr,
    source: SocketAddrV4,
}

fn msg(kind: MessageType, n: u8) -> Msg {
    let head = Head::request(u32::from(n) + 100, mac(n));
    Msg { head, list: vec![(53, vec![kind.into()])], destination: EVERYBODY, source: "0.0.0.0:68".parse().unwrap() }
}

impl Msg {
    fn with(mut self, code: u8, value: &[u8]) -> Self {
        self.list.push((code, value.to_vec()));
        self
    }

    fn wish(self, address: &str) -> Self {
        self.with(50, &ip(address).octets())
    }

    fn chose(self, server: Ipv4Addr) -> Self {
        self.with(54, &server.octets())
    }

    fn head(mut self, change: impl FnOnce(&mut Head)) -> Self {
        change(&mut self.head);
        self
    }

    fn ciaddr(self, address: &str) -> Self {
        self.head(|head| head.ciaddr = ip(address))
    }

    fn relayed(mut self) -> Self {
        self.head.giaddr = RELAY;
        self.destination = SERVER;
        self
    }

    /// To us alone, and from the address that it has.
    fn unicast(mut self) -> Self {
        self.destination = SERVER;
        self.source.set_ip(self.head.ciaddr);
        self
    }

    fn from(mut self, address: &str) -> Self {
        self.source.set_ip(ip(address));
        self
    }
}

/// The core with a clock, a disk and a network that a test looks at.
struct Lab {
    server: Server,
    now: Timestamp,
    disk: HashMap<Ipv4Addr, LeaseRecord>,
    view: LeaseView,
    events: Vec<Event>,
    probes: Vec<Ipv4Addr>,
    /// Written but not yet said to be.
    writing: Vec<Ipv4Addr>,
    slow_disk: bool,
}

fn yealink(facts: &ClientFacts<'_>) -> Class {
    if facts.vendor_class != Some(b"yealink") {
        return Class::default();
    }
    Class {
        family: Some("yealink".into()),
        phone: true,
        options: vec![
            (66, OptionValue::Text(format!("http://{}:8080", facts.server))),
            (43, OptionValue::Text("for those who ask".into())),
            (150, OptionValue::Addresses(vec![facts.server])),
            (51, OptionValue::U32(1)),
        ],
        always_send: vec![66, 42],
        ..Class::default()
    }
}

fn config(yaml: &str) -> Config {
    serde_yaml::from_str::<Settings>(yaml).unwrap().check().unwrap()
}

impl Lab {
    fn new(yaml: &str) -> Self {
        let now = Timestamp(1_000_000_000_000);
        let view = LeaseView::default();
        let server = Server::new(config(yaml), Arc::new(yealink), vec![], vec![SERVER], view.clone(), now);
        Self { server, now, disk: HashMap::new(), view, events: vec![], probes: vec![], writing: vec![], slow_disk: false }
    }

    /// Killed and started again: what is not on disk is lost.
    fn restart(&mut self, yaml: &str) {
        self.view = LeaseView::default();
        let leases = self.disk.values().cloned().collect();
        self.server = Server::new(config(yaml), Arc::new(yealink), leases, vec![SERVER], self.view.clone(), self.now);
    }

    fn send(&mut self, msg: Msg) -> Vec<(Packet, Destination)> {
        let bytes = options::encode(&msg.head, &msg.list, 0).bytes;
        let arrival = Arrival { link: 2, locals: &[SERVER], destination: msg.destination, source: msg.source };
        self.server.handle_packet(self.now, &arrival, &bytes);
        self.drain()
    }

    fn drain(&mut self) -> Vec<(Packet, Destination)> {
        let mut sent = vec![];
        while let Some(action) = self.server.poll_action() {
            match action {
                Action::Send(outgoing) => sent.push((Packet::parse(&outgoing.bytes).unwrap(), outgoing.to)),
                Action::Tell(event) => self.events.push(event),
                Action::Probe { address, .. } => self.probes.push(address),
                Action::Commit(lease) => {
                    let address = lease.address;
                    self.writing.push(address);
                    if !self.slow_disk {
                        self.disk.insert(address, lease);
                        self.written(Ok(()));
                    }
                }
            }
        }
        sent
    }

    fn written(&mut self, outcome: Result<(), String>) {
        for address in std::mem::take(&mut self.writing) {
            self.server.handle_committed(self.now, address, outcome.clone());
        }
    }

    fn one(&mut self, msg: Msg) -> (Packet, Destination) {
        let mut sent = self.send(msg);
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }

    fn silent(&mut self, msg: Msg) {
        let sent = self.send(msg);
        assert!(sent.is_empty(), "{sent:?}");
    }

    fn sleep(&mut self, secs: i64) -> Vec<(Packet, Destination)> {
        self.now = self.now.plus_secs(secs);
        self.server.handle_timeout(self.now);
        self.drain()
    }

    /// DISCOVER to ACK.
    fn lease(&mut self, n: u8) -> Ipv4Addr {
        self.lease_by(n, |msg| msg)
    }

    fn lease_by(&mut self, n: u8, change: impl Fn(Msg) -> Msg) -> Ipv4Addr {
        let (offer, _) = self.one(change(msg(MessageType::Discover, n)));
        assert_eq!(offer.message_type(), Some(MessageType::Offer));
        let request = change(msg(MessageType::Request, n)).wish(&offer.head.yiaddr.to_string()).chose(SERVER);
        let (ack, _) = self.one(request);
        assert_eq!((ack.message_type(), ack.head.yiaddr), (Some(MessageType::Ack), offer.head.yiaddr));
        ack.head.yiaddr
    }

    fn told(&self, test: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|event| test(event)).count()
    }
}

fn kind((packet, _): &(Packet, Destination)) -> MessageType {
    packet.message_type().unwrap()
}

#[test]
fn a_phone_gets_what_it_reads() {
    let mut lab = Lab::new(OFFICE);
    let phone = |msg: Msg| msg.with(60, b"yealink").with(55, &[1, 3, 150, 6, 2]).with(61, &[1, 0, 0, 0, 0, 0, 1]);
    let (offer, to) = lab.one(phone(msg(MessageType::Discover, 1)));
    assert_eq!(to, Destination::Hardware { mac: mac(1), address: ip("10.0.0.10") });
    let order: Vec<u8> = offer.options.iter().map(|(code, _)| code).collect();
    assert_eq!(order, [53, 54, 51, 58, 59, 1, 3, 6, 42, 2, 66, 150, 61], "43 was not asked for, 66 and 42 are known to be needed");
    assert_eq!(offer.options.text(66).as_deref(), Some("http://10.0.0.1:8080"));
    assert_eq!((offer.head.siaddr, offer.options.u32(51)), (SERVER, Some(3600)), "a family cannot set the lease time by option");
    assert_eq!(offer.options.addresses(6), [ip("10.0.0.2"), ip("10.0.0.3")]);

    lab.now = lab.now.plus_secs(1);
    let (ack, _) = lab.one(phone(msg(MessageType::Request, 1)).wish("10.0.0.10").chose(SERVER));
    assert_eq!(kind(&(ack.clone(), to)), MessageType::Ack);
    assert_eq!(ack.options.text(66), offer.options.text(66));
    let holder = lab.view.holder(ip("10.0.0.10"), lab.now).unwrap();
    assert_eq!((holder.mac, holder.family.as_deref(), holder.contested), (mac(1), Some("yealink"), false));
    assert_eq!(lab.view.address_of(mac(1), lab.now), Some(ip("10.0.0.10").into()));
    let names: Vec<_> = lab.events.iter().map(|event| format!("{event:?}").split_once(' ').unwrap().0.to_owned()).collect();
    assert_eq!(names, ["DhcpDiscover", "DhcpOffer", "DhcpRequest", "LeaseGranted"]);
}

#[test]
fn others_get_plain_settings_or_nothing() {
    let mut lab = Lab::new(OFFICE);
    let (offer, _) = lab.one(msg(MessageType::Discover, 1));
    assert_eq!((offer.options.get(66), offer.head.siaddr), (None, Ipv4Addr::UNSPECIFIED));
    assert_eq!(offer.options.addresses(3), [ip("10.0.0.254")]);
    for mode in ["non_phones: ignore", "mode: beside"] {
        let mut lab = Lab::new(&format!("{mode}{OFFICE}"));
        lab.silent(msg(MessageType::Discover, 1));
        lab.silent(msg(MessageType::Inform, 1).ciaddr("10.0.0.77"));
        assert_eq!(lab.lease_by(1, |msg| msg.with(60, b"yealink")), ip("10.0.0.10"));
    }
}

#[test]
fn the_broadcast_flag_is_obeyed_and_echoed() {
    let mut lab = Lab::new(OFFICE);
    let (offer, to) = lab.one(msg(MessageType::Discover, 1).head(|head| head.flags = 0x8000));
    assert_eq!((offer.head.flags, to), (0x8000, Destination::Broadcast));
    let (offer, to) = lab.one(msg(MessageType::Discover, 2));
    assert_eq!((offer.head.flags, to), (0, Destination::Hardware { mac: mac(2), address: ip("10.0.0.11") }));
    lab.one(msg(MessageType::Discover, 2));
    let (offer, to) = lab.one(msg(MessageType::Discover, 2));
    assert_eq!((offer.head.flags, to), (0x8000, Destination::Broadcast), "asked three times: it does not hear unicast");
    let (_, to) = lab.one(msg(MessageType::Discover, 3).ciaddr("10.9.9.9"));
    assert_eq!(to, Destination::Broadcast, "a DISCOVER with ciaddr");
}

#[test]
fn leases_are_renewed_rebound_and_expire() {
    let mut lab = Lab::new(OFFICE);
    let address = lab.lease(1);
    lab.sleep(1800);
    let (ack, to) = lab.one(msg(MessageType::Request, 1).ciaddr("10.0.0.10").unicast());
    assert_eq!((ack.head.yiaddr, to), (address, Destination::Address("10.0.0.10:68".parse().unwrap())));
    lab.sleep(3500);
    let rebind = lab.one(msg(MessageType::Request, 1).ciaddr("10.0.0.10"));
    assert_eq!(kind(&rebind), MessageType::Ack);
    assert!(lab.view.holder(address, lab.now).is_some());
    assert_eq!(lab.server.poll_timeout(), Some(lab.now.plus_secs(3600)));
    lab.sleep(3600);
    assert!(lab.view.holder(address, lab.now).is_none() && lab.view.is_empty());
    assert_eq!(lab.told(|event| *event == Event::LeaseExpired { mac: mac(1), address: address.into() }), 1);
    assert_eq!(lab.lease(1), address, "and it gets the same again");
}

#[test]
fn a_renewal_from_behind_a_router_is_answered_there() {
    let mut lab = Lab::new(OFFICE);
    let address = lab.lease_by(1, Msg::relayed);
    assert_eq!(address, ip("10.1.0.10"));
    let mut renewal = msg(MessageType::Request, 1).ciaddr("10.1.0.10").unicast();
    renewal.source = "10.1.0.10:68".parse().unwrap();
    let (ack, to) = lab.one(renewal);
    assert_eq!((ack.head.yiaddr, to), (address, Destination::Address("10.1.0.10:68".parse().unwrap())));
    assert_eq!(ack.options.address(1), Some(ip("255.255.255.0")));
}

#[test]
fn who_reboots_is_refused_only_when_we_know_better() {
    let reboot = |n, address| msg(MessageType::Request, n).wish(address).with(60, b"yealink");
    for (story, mode, request, answer) in [
        ("its own", "server", reboot(1, "10.0.0.10"), Some(MessageType::Ack)),
        ("its own, beside", "beside", reboot(1, "10.0.0.10"), Some(MessageType::Ack)),
        ("another than noted", "server", reboot(1, "10.0.0.12"), Some(MessageType::Nak)),
        ("another than noted, beside", "beside", reboot(1, "10.0.0.12"), Some(MessageType::Nak)),
        ("of another network", "server", reboot(1, "172.16.0.9"), Some(MessageType::Nak)),
        ("of another network, beside", "beside", reboot(1, "172.16.0.9"), None),
        ("a stranger's", "server", reboot(5, "10.0.0.12"), None),
        ("a stranger's outside of the range", "server", reboot(5, "10.0.0.77"), None),
        ("one that is another's", "server", reboot(5, "10.0.0.10"), Some(MessageType::Nak)),
        ("one that is another's, beside", "beside", reboot(5, "10.0.0.10"), None),
        ("reserved for it", "server", reboot(0x99, "10.0.0.99"), Some(MessageType::Ack)),
        ("not what is reserved for it", "server", reboot(0x99, "10.0.0.12"), Some(MessageType::Nak)),
    ] {
        let mut lab = Lab::new(&format!("mode: {mode}{OFFICE}"));
        lab.lease_by(1, |msg| msg.with(60, b"yealink"));
        let sent = lab.send(request);
        assert_eq!(sent.first().map(kind), answer, "{story}");
    }
}

#[test]
fn who_renews_is_refused_only_when_we_know_better() {
    let renewal = |n, address| msg(MessageType::Request, n).ciaddr(address).with(60, b"yealink");
    for (story, mode, request, answer) in [
        ("lost, and free", "server", renewal(5, "10.0.0.12"), Some(MessageType::Ack)),
        ("lost, and free, beside", "beside", renewal(5, "10.0.0.12"), None),
        ("lost, and free, beside, to us", "beside", renewal(5, "10.0.0.12").unicast(), Some(MessageType::Ack)),
        ("another's", "server", renewal(5, "10.0.0.10"), Some(MessageType::Nak)),
        ("outside of the range", "server", renewal(5, "10.0.0.77"), None),
        ("outside of the range, to us", "server", renewal(5, "10.0.0.77").unicast(), Some(MessageType::Nak)),
        ("of another network", "server", renewal(5, "172.16.0.9"), Some(MessageType::Nak)),
        ("of another network, beside", "beside", renewal(5, "172.16.0.9"), None),
        ("our own", "server", renewal(5, "10.0.0.1"), None),
    ] {
        let mut lab = Lab::new(&format!("mode: {mode}{OFFICE}"));
        lab.lease_by(1, |msg| msg.with(60, b"yealink"));
        let sent = lab.send(request);
        assert_eq!(sent.first().map(kind), answer, "{story}");
    }
}

#[test]
fn a_refusal_reaches_who_has_no_address() {
    let mut lab = Lab::new(OFFICE);
    let (nak, to) = lab.one(msg(MessageType::Request, 1).wish("172.16.0.9").with(61, b"id").with(82, &[9, 1, 9]));
    assert_eq!(to, Destination::Broadcast);
    let order: Vec<u8> = nak.options.iter().map(|(code, _)| code).collect();
    assert_eq!((order, nak.head.yiaddr), (vec![53, 54, 56, 61, 82], Ipv4Addr::UNSPECIFIED));
    let (nak, to) = lab.one(msg(MessageType::Request, 1).wish("172.16.0.9").relayed());
    assert_eq!((nak.head.flags, to), (0x8000, Destination::Address("10.1.0.1:67".parse().unwrap())));
    assert_eq!(lab.told(|event| matches!(event, Event::LeaseRefused { .. })), 2);
}

#[test]
fn choosing_another_server_frees_our_offer() {
    let mut lab = Lab::new(OFFICE);
    lab.one(msg(MessageType::Discover, 1));
    lab.silent(msg(MessageType::Request, 1).wish("10.0.0.50").chose(ip("10.0.0.7")));
    let (offer, _) = lab.one(msg(MessageType::Discover, 2));
    assert_eq!(offer.head.yiaddr, ip("10.0.0.10"));
}

#[test]
fn a_server_killed_between_offer_and_request_goes_on() {
    let mut lab = Lab::new(OFFICE);
    lab.one(msg(MessageType::Discover, 1));
    lab.restart(OFFICE);
    let ack = lab.one(msg(MessageType::Request, 1).wish("10.0.0.10").chose(SERVER));
    assert_eq!(kind(&ack), MessageType::Ack);
    lab.restart(OFFICE);
    assert_eq!(lab.view.holder(ip("10.0.0.10"), lab.now).map(|holder| holder.mac), Some(mac(1)));
    let nak = lab.one(msg(MessageType::Request, 2).wish("10.0.0.10").chose(SERVER));
    assert_eq!(kind(&nak), MessageType::Nak);
    assert_eq!(lab.lease(2), ip("10.0.0.11"));
}

#[test]
fn an_ack_waits_for_the_disk() {
    let mut lab = Lab::new(OFFICE);
    lab.one(msg(MessageType::Discover, 1));
    lab.slow_disk = true;
    let request = msg(MessageType::Request, 1).wish("10.0.0.10").chose(SERVER);
    lab.silent(request.clone());
    lab.silent(request.clone());
    assert_eq!(lab.writing.len(), 1, "a repeated request is not written twice");
    assert!(lab.view.is_empty());
    lab.written(Err("disk full".into()));
    assert!(lab.drain().is_empty() && lab.view.is_empty());
    assert_eq!(lab.told(|event| matches!(event, Event::LeaseGranted { .. })), 0);

    lab.silent(request);
    lab.written(Ok(()));
    assert_eq!(lab.drain().iter().map(kind).collect::<Vec<_>>(), [MessageType::Ack]);
    // Given back and taken again while the disk is slow: in order.
    lab.silent(msg(MessageType::Release, 1).ciaddr("10.0.0.10").unicast());
    lab.silent(msg(MessageType::Request, 1).wish("10.0.0.10").chose(SERVER));
    assert_eq!((lab.writing.len(), lab.view.len()), (1, 0), "what is given back is hidden at once");
    lab.written(Ok(()));
    assert!(lab.drain().is_empty());
    assert_eq!(lab.writing.len(), 1);
    lab.written(Ok(()));
    assert_eq!((lab.drain().len(), lab.view.len()), (1, 1));
}

#[test]
fn a_lease_is_given_up_through_its_own_switch_port_only() {
    let port = |msg: Msg, port: u8| msg.relayed().with(82, &[1, 1, port, 2, 2, 7, 7]);
    for kind in [MessageType::Release, MessageType::Decline] {
        let mut lab = Lab::new(OFFICE);
        let address = lab.lease_by(1, |msg| port(msg, 4)).to_string();
        let gives_up = |at: u8| {
            let told = msg(kind, 1).chose(SERVER);
            port(if kind == MessageType::Release { told.ciaddr(&address) } else { told.wish(&address) }, at)
        };
        lab.silent(gives_up(5));
        assert_eq!(lab.view.len(), 1, "{kind:?} from the port beside it");
        lab.silent(gives_up(4));
        assert_eq!(lab.view.len(), 0, "{kind:?}");
    }
}

/// Nobody may know who sent a DECLINE; but whoever says that its address is in use by another does not use it.
#[test]
fn a_phone_that_answers_on_its_address_has_not_declined_it() {
    let declined = |answer: Option<u8>| {
        let mut lab = Lab::new(&OFFICE.replace("conflict_check: false", "conflict_wait_ms: 500"));
        lab.silent(msg(MessageType::Discover, 1));
        lab.sleep(1);
        let address = lab.probes[0];
        lab.one(msg(MessageType::Request, 1).wish(&address.to_string()).chose(SERVER));
        lab.silent(msg(MessageType::Decline, 1).wish(&address.to_string()).chose(SERVER));
        assert_eq!((lab.probes.len(), lab.view.len()), (2, 1), "asked, and not yet believed");
        if let Some(answer) = answer {
            lab.server.handle_probe(lab.now, address, mac(answer));
            lab.drain();
        }
        lab.sleep(1);
        lab.disk[&address].state
    };
    for (answer, state) in [(Some(1), LeaseState::Active), (Some(9), LeaseState::Declined), (None, LeaseState::Declined)] {
        assert_eq!(declined(answer), state, "{answer:?} answers");
    }
}

#[test]
fn addresses_are_given_back_and_declined() {
    let mut lab = Lab::new(OFFICE);
    assert_eq!(lab.lease(1), ip("10.0.0.10"));
    lab.silent(msg(MessageType::Release, 2).ciaddr("10.0.0.10").unicast());
    assert_eq!(lab.view.len(), 1, "only its holder gives it back");
    for elsewhere in ["10.0.0.66", "0.0.0.0", "192.168.1.1"] {
        lab.silent(msg(MessageType::Release, 1).ciaddr("10.0.0.10").unicast().from(elsewhere));
        assert_eq!(lab.view.len(), 1, "in its name, but from {elsewhere}");
    }
    lab.silent(msg(MessageType::Release, 1).ciaddr("10.0.0.10").unicast());
    assert_eq!((lab.view.len(), lab.disk[&ip("10.0.0.10")].state), (0, LeaseState::Released));
    assert_eq!(lab.lease(2), ip("10.0.0.11"), "it is kept for its holder while others are free");
    assert_eq!(lab.lease(1), ip("10.0.0.10"));

    lab.silent(msg(MessageType::Decline, 2).wish("10.0.0.10").chose(SERVER));
    assert_eq!(lab.view.len(), 2, "only its holder finds it in use");
    lab.silent(msg(MessageType::Decline, 1).wish("10.0.0.10").chose(SERVER));
    assert_eq!(lab.disk[&ip("10.0.0.10")].state, LeaseState::Declined);
    assert_eq!(lab.lease(1), ip("10.0.0.12"));
    lab.restart(OFFICE);
    lab.silent(msg(MessageType::Discover, 3));
    lab.sleep(3600);
    assert_eq!(lab.lease(3), ip("10.0.0.10"), "the quarantine is over");
    assert_eq!((lab.told(|e| matches!(e, Event::LeaseReleased { .. })), lab.told(|e| matches!(e, Event::LeaseDeclined { .. }))), (1, 1));
}

#[test]
fn an_inform_gets_settings_and_no_lease() {
    let mut lab = Lab::new(OFFICE);
    let (ack, to) = lab.one(msg(MessageType::Inform, 1).ciaddr("10.0.0.200").with(60, b"yealink").with(55, &[1, 3, 43]));
    assert_eq!((ack.head.yiaddr, to), (Ipv4Addr::UNSPECIFIED, Destination::Address("10.0.0.200:68".parse().unwrap())));
    let order: Vec<u8> = ack.options.iter().map(|(code, _)| code).collect();
    assert_eq!(order, [53, 54, 1, 3, 6, 42, 66, 43]);
    assert!(lab.disk.is_empty());
    lab.silent(msg(MessageType::Inform, 1));
    assert_eq!(lab.told(|event| matches!(event, Event::LeaseRefused { .. })), 0);
}

/// Another server leases here; we are told of no range.
const BESIDE: &str = "
mode: beside
new_clients_per_minute: 2
conflict_check: false
subnets:
- cidr: 10.0.0.0/24
";

#[test]
fn beside_another_server_nothing_is_leased_unless_told_to() {
    let phone = |kind| msg(kind, 1).with(60, b"yealink");
    let request = || phone(MessageType::Request);
    for (story, message) in [
        ("looking for a server", phone(MessageType::Discover)),
        ("it took the other's offer", request().wish("10.0.0.50").chose(ip("10.0.0.2"))),
        ("it takes an offer that we never made", request().wish("10.0.0.50").chose(SERVER)),
        ("a reboot", request().wish("10.0.0.50")),
        ("a reboot from another network", request().wish("172.16.0.9")),
        ("a renewal by broadcast", request().ciaddr("10.0.0.50")),
        ("a renewal sent to us", request().ciaddr("10.0.0.50").unicast()),
        ("a computer's question", msg(MessageType::Inform, 2).ciaddr("10.0.0.51")),
        ("a question from nowhere", phone(MessageType::Inform).ciaddr("192.0.2.7")),
        ("a question without an address", phone(MessageType::Inform)),
    ] {
        let mut lab = Lab::new(BESIDE);
        lab.silent(message);
        let loud = |event: &Event| !matches!(event, Event::DhcpDiscover { .. });
        assert_eq!((lab.told(loud), lab.disk.len()), (0, 0), "{story}");
    }
    // With a range of ours it is a phone's to choose.
    let mut lab = Lab::new(&format!("{BESIDE}  range: 10.0.0.10-10.0.0.12\n"));
    assert_eq!(kind(&lab.one(phone(MessageType::Discover))), MessageType::Offer);
    lab.silent(msg(MessageType::Discover, 2));
}

#[test]
fn beside_another_server_phones_that_ask_are_answered() {
    let mut lab = Lab::new(BESIDE);
    let asks = |n: u8| msg(MessageType::Inform, n).ciaddr(&format!("10.0.0.{n}")).with(60, b"yealink").with(55, &[1, 3]);
    let (ack, to) = lab.one(asks(50));
    assert_eq!((ack.message_type(), to), (Some(MessageType::Ack), Destination::Address("10.0.0.50:68".parse().unwrap())));
    assert_eq!((ack.head.yiaddr, ack.head.ciaddr), (Ipv4Addr::UNSPECIFIED, ip("10.0.0.50")));
    let order: Vec<u8> = ack.options.iter().map(|(code, _)| code).collect();
    assert_eq!(order, [53, 54, 1, 66], "no lease, and no router that the other server may know better");
    assert_eq!((lab.told(|event| matches!(event, Event::DhcpInform { .. })), lab.disk.len()), (1, 0));
    // Nobody makes us talk without end.
    lab.one(asks(51));
    lab.silent(asks(52));
    lab.sleep(60);
    lab.one(asks(52));
}

#[test]
fn relays_are_answered_with_their_own_bytes() {
    let mut lab = Lab::new(OFFICE);
    // Sub-options out of order and one that nobody knows: they come back as they are.
    let info = [2, 2, 7, 7, 151, 1, 0, 1, 4, 0, 5, 0, 3];
    let (offer, to) = lab.one(msg(MessageType::Discover, 1).relayed().with(82, &info));
    assert_eq!((offer.head.yiaddr, to), (ip("10.1.0.10"), Destination::Address("10.1.0.1:67".parse().unwrap())));
    assert_eq!((offer.options.get(82), offer.options.iter().last().map(|(code, _)| code)), (Some(&info[..]), Some(82)));
    assert_eq!((offer.head.giaddr, offer.options.address(1)), (RELAY, Some(ip("255.255.255.0"))));

    // RFC 3527: the relay's own address is elsewhere; RFC 5107: it wants the renewals.
    let link = [&[5, 4, 10, 1, 0, 0, 11, 4][..], &RELAY.octets()].concat();
    let (offer, to) = lab.one(msg(MessageType::Discover, 2).relayed().head(|head| head.giaddr = ip("172.16.0.1")).with(82, &link));
    assert_eq!((offer.head.yiaddr, to), (ip("10.1.0.11"), Destination::Address("172.16.0.1:67".parse().unwrap())));
    assert_eq!(offer.options.address(54), Some(RELAY));
    let request = msg(MessageType::Request, 2).relayed().with(82, &link).wish("10.1.0.11").chose(RELAY);
    let (ack, _) = lab.one(request);
    assert_eq!(ack.message_type(), Some(MessageType::Ack));
    assert_eq!(lab.disk[&ip("10.1.0.11")].relay_info.as_deref(), Some(&link[..]));
    assert_eq!(lab.told(|event| matches!(event, Event::LeaseGranted { port: Some(_), .. })), 0, "it says nothing of ports");
    lab.silent(msg(MessageType::Discover, 3).relayed().head(|head| head.giaddr = ip("172.16.0.1")));
}

#[test]
fn the_switch_port_of_a_phone_is_told_as_its_switch_writes_it() {
    for (parts, port) in [
        (&[(1, &b"Gi1/0/7"[..]), (2, b"floor2")][..], Some("floor2/Gi1/0/7")),
        (&[(2, b"floor 2")], Some("floor 2")),
        // Cisco: VLAN, module and port; the switch's MAC.
        (&[(1, &[0, 4, 0, 20, 1, 7]), (2, &[0, 6, 0, 0x1b, 0x54, 0xaa, 0, 1])], Some("0006001b54aa0001/000400140107")),
        (&[(1, b"port\0")], Some("706f727400")),
        (&[(1, b""), (5, &[10, 1, 0, 0])], None),
        (&[], None),
    ] {
        let info: Vec<u8> = parts.iter().flat_map(|(code, id)| [&[*code, id.len() as u8], *id].concat()).collect();
        assert_eq!(super::port(&info).as_deref(), port, "{parts:?}");
    }
    // A switch that puts it in on the way, and is no relay.
    let mut lab = Lab::new(OFFICE);
    lab.one(msg(MessageType::Discover, 1).with(82, b"\x01\x02p7"));
    lab.one(msg(MessageType::Request, 1).with(82, b"\x01\x02p7").wish("10.0.0.10").chose(SERVER));
    assert_eq!(lab.told(|event| matches!(event, Event::LeaseGranted { port: Some(port), .. } if port == "p7")), 1);
}

#[test]
fn an_empty_pool_is_told_and_silent() {
    let mut lab = Lab::new(OFFICE);
    for n in 1..=3 {
        lab.lease(n);
    }
    lab.silent(msg(MessageType::Discover, 4));
    lab.silent(msg(MessageType::Discover, 5));
    let exhausted = |event: &Event| matches!(event, Event::PoolExhausted { subnet, .. } if subnet == "10.0.0.0/24");
    assert_eq!(lab.told(exhausted), 1, "at a bounded rate");
    assert_eq!(lab.lease(0x99), ip("10.0.0.99"), "what is reserved is there");
    lab.sleep(10);
    assert_eq!(lab.lease(2), ip("10.0.0.11"), "and who has one keeps it");
    lab.sleep(1000);
    lab.lease(1);
    lab.sleep(2700);
    assert_eq!(lab.lease(4), ip("10.0.0.12"), "the first to have expired: 2 renewed after 3");
}

#[test]
fn a_port_that_invents_phones_is_held_back() {
    let mut lab = Lab::new(&format!("new_clients_per_port_per_minute: 2{OFFICE}"));
    let port = |port: u8| move |msg: Msg| msg.relayed().with(82, &[1, 1, port]);
    for n in 1..=2 {
        lab.lease_by(n, port(7));
    }
    lab.silent(port(7)(msg(MessageType::Discover, 3)));
    lab.silent(port(7)(msg(MessageType::Request, 3)).wish("10.1.0.15").chose(SERVER));
    lab.lease_by(1, port(7));
    lab.lease_by(4, port(8));
    lab.sleep(30);
    lab.lease_by(3, port(7));
}

#[test]
fn an_address_that_answers_is_left_alone() {
    let yaml = OFFICE.replace("conflict_check: false", "conflict_wait_ms: 500");
    let mut lab = Lab::new(&yaml);
    lab.silent(msg(MessageType::Discover, 1));
    lab.silent(msg(MessageType::Discover, 1).head(|head| head.xid = 7));
    assert_eq!(lab.probes, [ip("10.0.0.10")]);
    lab.server.handle_probe(lab.now, ip("10.0.0.10"), mac(1));
    lab.server.handle_probe(lab.now, ip("10.0.0.10"), mac(0x66));
    assert!(lab.drain().is_empty());
    assert_eq!(lab.probes, [ip("10.0.0.10"), ip("10.0.0.11")], "its own answer is no conflict, a stranger's is");
    assert_eq!(lab.disk[&ip("10.0.0.10")].state, LeaseState::Declined);
    assert_eq!(lab.server.poll_timeout(), Some(Timestamp(lab.now.0 + 500)));
    let sent = lab.sleep(1);
    let (offer, _) = &sent[0];
    assert_eq!((sent.len(), offer.head.yiaddr, offer.head.xid), (1, ip("10.0.0.11"), 7), "to the latest transaction");
    let ack = lab.one(msg(MessageType::Request, 1).wish("10.0.0.11").chose(SERVER));
    assert_eq!(kind(&ack), MessageType::Ack);
    lab.one(msg(MessageType::Discover, 1));
    lab.one(msg(MessageType::Discover, 2).relayed());
    assert_eq!(lab.probes.len(), 2, "neither for who has it nor through relays");
}

#[test]
fn one_mac_in_two_places_is_told() {
    let mut lab = Lab::new(OFFICE);
    let at = |port: u8| move |msg: Msg| msg.relayed().with(61, &[0, 1, port]).with(82, &[1, 1, port]);
    let (first, second) = (lab.lease_by(1, at(1)), lab.lease_by(1, at(2)));
    assert_ne!(first, second);
    for address in [first, second] {
        assert!(lab.view.holder(address, lab.now).unwrap().contested, "{address}");
    }
    assert_eq!(lab.told(|event| matches!(event, Event::DuplicateMac { .. })), 1);
    // Data VLAN first, then voice VLAN: two leases of one phone, and no conflict.
    let address = lab.lease_by(2, |msg| msg);
    lab.lease_by(2, Msg::relayed);
    assert!(!lab.view.holder(address, lab.now).unwrap().contested);
}

#[test]
fn other_settings_take_hold_at_renewal() {
    let mut lab = Lab::new(OFFICE);
    assert_eq!(lab.lease(1), ip("10.0.0.10"));
    let narrower = OFFICE.replace("10.0.0.10-", "10.0.0.11-");
    lab.server.set_config(lab.now, config(&narrower));
    assert!(lab.view.holder(ip("10.0.0.10"), lab.now).is_some());
    let nak = lab.one(msg(MessageType::Request, 1).ciaddr("10.0.0.10").unicast());
    assert_eq!(kind(&nak), MessageType::Nak);
    assert_eq!(lab.lease(1), ip("10.0.0.11"));
}

#[test]
fn a_rehearsal_is_answered_and_leaves_nothing() {
    let mut lab = Lab::new(OFFICE);
    let (offer, _) = lab.one(msg(MessageType::Discover, 1).with(77, crate::dhcp::class::REHEARSAL));
    assert_eq!((offer.message_type(), offer.head.yiaddr), (Some(MessageType::Offer), ip("10.0.0.10")));
    assert!(lab.events.is_empty(), "no device is seen: {:?}", lab.events);
    lab.now = lab.now.plus_secs(2);
    lab.server.handle_timeout(lab.now);
    assert_eq!(lab.lease(2), ip("10.0.0.10"), "the address is free again for a phone");
}

#[test]
fn a_client_may_ask_for_less_time() {
    let mut lab = Lab::new(OFFICE);
    for (asked, got) in [(600u32, 600), (1, 60), (u32::MAX, 3600)] {
        let (offer, _) = lab.one(msg(MessageType::Discover, 1).with(51, &asked.to_be_bytes()));
        assert_eq!(offer.options.u32(51), Some(got));
        assert_eq!(offer.options.u32(58), Some(got / 2));
    }
}

#[test]
fn what_is_not_for_us_is_not_answered() {
    let mut lab = Lab::new(OFFICE);
    lab.silent(msg(MessageType::Discover, 1).head(|head| head.op = 2));
    lab.silent(msg(MessageType::Discover, 1).head(|head| head.htype = 6));
    lab.silent(msg(MessageType::Discover, 1).head(|head| head.hlen = 200));
    lab.silent(msg(MessageType::Offer, 1));
    lab.silent(msg(MessageType::Request, 1));
    let arrival = Arrival { link: 9, locals: &[ip("192.168.9.9")], destination: EVERYBODY, source: "0.0.0.0:68".parse().unwrap() };
    lab.server.handle_packet(lab.now, &arrival, &options::encode(&msg(MessageType::Discover, 1).head, &[(53, vec![1])], 0).bytes);
    lab.server.handle_packet(lab.now, &arrival, b"nonsense");
    assert!(lab.drain().is_empty() && lab.events.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_packet_panics(area in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..9, n in 0u8..3, flags in any::<u16>(), relayed in any::<bool>()) {
        let mut lab = Lab::new(OFFICE);
        lab.lease(1);
        let head = Head { flags, ..msg(MessageType::Discover, n).head };
        let mut bytes = options::encode(&head, &[(53, vec![kind])], 0).bytes;
        bytes.truncate(243);
        bytes.extend_from_slice(&area);
        if relayed {
            bytes[24..28].copy_from_slice(&RELAY.octets());
        }
        let arrival = Arrival { link: 2, locals: &[SERVER], destination: EVERYBODY, source: "10.0.0.10:68".parse().unwrap() };
        lab.server.handle_packet(lab.now, &arrival, &bytes);
        lab.drain();
    }

    /// Whatever clients do, nobody is granted an address that lives with another, and the disk knows every grant.
    #[test]
    fn no_two_clients_share_an_address(steps in prop::collection::vec((1u8..6, 0u8..7, 8u8..14, 0i64..2000), 1..60)) {
        let mut lab = Lab::new(OFFICE);
        let mut held: HashMap<Ipv4Addr, (MacAddr, Timestamp)> = HashMap::new();
        for (n, what, last, pause) in steps {
            let address = format!("10.0.0.{last}");
            let message = match what {
                0 => msg(MessageType::Discover, n).wish(&address),
                1 | 2 => msg(MessageType::Request, n).wish(&address).chose(SERVER),
                3 => msg(MessageType::Request, n).wish(&address),
                4 => msg(MessageType::Request, n).ciaddr(&address),
                5 => msg(MessageType::Release, n).ciaddr(&address).unicast(),
                _ => msg(MessageType::Decline, n).wish(&address).chose(SERVER),
            };
            for reply in lab.send(message) {
                let address = reply.0.head.yiaddr;
                if kind(&reply) == MessageType::Ack {
                    let owner = held.get(&address);
                    prop_assert!(owner.is_none_or(|(owner, until)| *owner == mac(n) || *until <= lab.now));
                    prop_assert!(lab.disk[&address].is_alive(lab.now) && lab.disk[&address].mac == mac(n));
                    held.insert(address, (mac(n), lab.now.plus_secs(reply.0.options.u32(51).unwrap().into())));
                }
            }
            // What is not alive on disk (given back, declined) is nobody's.
            held.retain(|address, _| lab.disk[address].is_alive(lab.now));
            lab.sleep(pause);
        }
    }
}
