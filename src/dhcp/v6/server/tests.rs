//! Scripts in time for the server core: each message of RFC 8415 that a phone sends, from its link and through relays.

use proptest::prelude::*;

use super::*;
use crate::dhcp::v6::{
    class::VendorOption,
    options::{self, Options},
    settings::Settings,
};

const OFFICE: &str = "
mode: stateless
subnets:
- prefix: fd00:40::/64
  dns: [fd00:40::2]
  domains: [office.example]
  ntp: [fd00:40::4]
- prefix: fd00:41::/64
";
/// Four addresses in the first network.
const LEASED: &str = "
mode: server
lease_secs: 1000
subnets:
- { prefix: fd00:40::/64, pool: fd00:40::1000-fd00:40::1003, dns: [fd00:40::2] }
- { prefix: fd00:41::/64 }
- { prefix: fd00:42::/64, pool: fd00:42::1-fd00:42::9 }
";
const SERVER: &str = "fd00:40::1";
const DUID: &[u8] = b"\0\x04the-server-itself";
const LINK: u32 = 2;

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// Of a phone's make, as all MACs here are.
fn mac(n: u8) -> MacAddr {
    MacAddr([0, 0x15, 0x65, 0, 0, n])
}

fn duid(n: u8) -> Vec<u8> {
    [&[0, 3, 0, 1][..], &mac(n).0].concat()
}

fn oro(codes: &[u16]) -> (u16, Vec<u8>) {
    (code::ORO, codes.iter().flat_map(|code| code.to_be_bytes()).collect())
}

/// A message under construction.
#[derive(Clone)]
struct Msg {
    kind: u8,
    list: Vec<(u16, Vec<u8>)>,
    /// Links of the relays that it comes through, the outermost last.
    relays: Vec<&'static str>,
    source: Ipv6Addr,
    destination: Ipv6Addr,
}

fn msg(kind: u8, n: u8) -> Msg {
    let list = vec![(code::CLIENT_ID, duid(n))];
    Msg { kind, list, relays: Vec::new(), source: ip("fe80::99"), destination: super::super::ALL_SERVERS_AND_RELAYS }
}

impl Msg {
    fn with(mut self, code: u16, value: &[u8]) -> Self {
        self.list.push((code, value.to_vec()));
        self
    }

    fn asks(mut self, codes: &[u16]) -> Self {
        self.list.push(oro(codes));
        self
    }

    fn relayed(mut self, links: &[&'static str]) -> Self {
        self.relays = links.to_vec();
        self.source = ip("fd00:41::ff");
        self.destination = ip(SERVER);
        self
    }

    fn from(mut self, source: &str) -> Self {
        self.source = ip(source);
        self
    }

    fn unicast(mut self) -> Self {
        self.destination = ip(SERVER);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        self.relays.iter().fold(options::message(self.kind, [1, 2, 3], &self.list), |inner, link| {
            let head = [&[kind::RELAY_FORWARD, 0][..], &ip(link).octets(), &ip("fe80::99").octets()].concat();
            [head, options::encoded(&[(code::INTERFACE_ID, b"p7".to_vec()), (code::RELAY_MESSAGE, inner)])].concat()
        })
    }
}

/// What came back, taken out of the relays' messages.
#[derive(Debug, PartialEq)]
struct Answer {
    kind: u8,
    list: Vec<(u16, Vec<u8>)>,
    relays: usize,
    to: SocketAddrV6,
}

impl Answer {
    fn of(outgoing: &Outgoing) -> Self {
        let (mut bytes, mut relays) = (&outgoing.bytes[..], 0);
        while bytes[0] == kind::RELAY_REPLY {
            let options = Options::parse(&bytes[34..]).unwrap();
            assert_eq!(options.get(code::INTERFACE_ID), Some(&b"p7"[..]));
            (bytes, relays) = (options.get(code::RELAY_MESSAGE).unwrap(), relays + 1);
        }
        assert_eq!(bytes[1..4], [1, 2, 3]);
        let list = Options::parse(&bytes[4..]).unwrap().iter().map(|(code, value)| (code, value.to_vec())).collect();
        Self { kind: bytes[0], list, relays, to: outgoing.to }
    }

    fn get(&self, code: u16) -> Option<&[u8]> {
        self.list.iter().find(|(known, _)| *known == code).map(|(_, value)| &value[..])
    }

    fn codes(&self) -> Vec<u16> {
        self.list.iter().map(|(code, _)| *code).collect()
    }
}

/// The core with a clock and a network that a test looks at.
struct Lab {
    server: Server,
    now: Timestamp,
    events: Vec<Event>,
    view: LeaseView,
    /// What is on disk, and what is still to be written there, where a test looks at that.
    disk: Vec<Lease6Record>,
    unwritten: Option<Vec<(u64, Vec<Lease6Record>)>>,
}

/// Phones are those whose MAC is known; they find their files by our address.
fn phones(facts: &ClientFacts<'_>) -> Class {
    let Some(mac) = facts.mac.filter(|mac| mac.0[..3] == [0, 0x15, 0x65]) else { return Class::default() };
    Class {
        family: Some("yealink".into()),
        phone: true,
        boot_file_url: facts.server.map(|server| format!("http://[{server}]/t/{}", mac.bare())),
        sip_addresses: facts.server.into_iter().collect(),
        sip_domains: vec!["sip.example".into()],
        vendor_options: vec![],
    }
}

impl Lab {
    fn new(yaml: &str) -> Self {
        Self::after(yaml, Timestamp(1_000_000_000_000), vec![])
    }

    /// A server that starts with what is on disk.
    fn after(yaml: &str, now: Timestamp, disk: Vec<Lease6Record>) -> Self {
        let config = serde_yaml::from_str::<Settings>(yaml).unwrap().check().unwrap();
        let (own, view) = (vec![ip(SERVER)], LeaseView::default());
        let server = Server::new(config, Arc::new(phones), DUID.to_vec(), disk.clone(), own, view.clone(), now);
        Self { server, now, events: vec![], view, disk, unwritten: None }
    }

    fn write(&mut self, leases: Vec<Lease6Record>) {
        for lease in leases {
            self.disk.retain(|known| known.address != lease.address);
            self.disk.push(lease);
        }
    }

    fn holder(&self, address: &str) -> Option<MacAddr> {
        self.view.holder(ip(address), self.now).map(|holder| holder.mac)
    }

    fn send(&mut self, msg: &Msg) -> Option<Answer> {
        self.send_bytes(msg, &msg.bytes())
    }

    fn send_bytes(&mut self, msg: &Msg, bytes: &[u8]) -> Option<Answer> {
        self.hear(msg, bytes);
        let mut answers = self.drain();
        assert!(answers.len() <= 1, "one message makes at most one: {answers:?}");
        answers.pop().map(|outgoing| Answer::of(&outgoing))
    }

    fn hear(&mut self, msg: &Msg, bytes: &[u8]) {
        let locals = [ip("fe80::1"), ip(SERVER)];
        let arrival = Arrival { link: LINK, locals: &locals, destination: msg.destination, source: msg.source };
        self.server.handle_packet(self.now, &arrival, bytes);
    }

    fn drain(&mut self) -> Vec<Outgoing> {
        let mut answers = Vec::new();
        while let Some(action) = self.server.poll_action() {
            match action {
                Action::Send(outgoing) => answers.push(outgoing),
                Action::Tell(event) => self.events.push(event),
                Action::Commit { id, leases } => match &mut self.unwritten {
                    Some(list) => list.push((id, leases)),
                    None => {
                        self.write(leases);
                        self.server.handle_committed(self.now, id, Ok(()));
                    }
                },
            }
        }
        answers
    }
}

/// With IA 7, and these addresses in it.
fn wants(kind: u8, n: u8, addresses: &[&str]) -> Msg {
    msg(kind, n).with(code::IA_NA, &ia(7, addresses))
}

fn ia(iaid: u32, addresses: &[&str]) -> Vec<u8> {
    let address = |text: &&str| (code::IA_ADDRESS, [&ip(text).octets()[..], &[0; 8]].concat());
    let addresses: Vec<_> = addresses.iter().map(address).collect();
    [&iaid.to_be_bytes()[..], &[0; 8], &options::encoded(&addresses)].concat()
}

/// An IA, and its addresses with their seconds, or the status that says why not.
type Given = (u32, Result<Vec<(String, u32)>, u16>);

fn given(answer: &Answer) -> Vec<Given> {
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().unwrap());
    let one = |value: &Vec<u8>| {
        let inner = Options::parse(&value[12..]).unwrap();
        let address = |value: &[u8]| {
            let octets: [u8; 16] = value[..16].try_into().unwrap();
            (Ipv6Addr::from(octets).to_string(), number(&value[20..]))
        };
        let status = inner.get(code::STATUS).map(|status| u16::from_be_bytes(status.try_into().unwrap()));
        (number(value), status.map_or_else(|| Ok(inner.all(code::IA_ADDRESS).map(address).collect()), Err))
    };
    answer.list.iter().filter(|(code, _)| *code == code::IA_NA).map(|(_, value)| one(value)).collect()
}

/// The same of the only IA, in words.
fn said(answer: Option<Answer>) -> String {
    let Some(answer) = answer else { return "nothing".into() };
    let of_all = answer.get(code::STATUS).map(|status| format!("status {}", status[1]));
    let of_ia = given(&answer).into_iter().map(|(_, given)| match given {
        Ok(list) => list.into_iter().map(|(address, secs)| format!("{address} for {secs}")).collect::<Vec<_>>().join(", "),
        Err(status) => format!("no address: {status}"),
    });
    of_all.into_iter().chain(of_ia).collect::<Vec<_>>().join("; ")
}

impl Lab {
    /// Lets a client have an address, and says which.
    fn lease(&mut self, n: u8) -> Option<String> {
        let offered = self.send(&wants(kind::SOLICIT, n, &[]))?;
        assert_eq!(offered.kind, kind::ADVERTISE);
        let address = given(&offered).remove(0).1.ok()?.remove(0).0;
        let asks = wants(kind::REQUEST, n, &[&address]).with(code::SERVER_ID, DUID);
        let granted = self.send(&asks).expect("a reply");
        assert_eq!((granted.kind, said(Some(granted))), (kind::REPLY, format!("{address} for 1000")));
        Some(address)
    }
}

#[test]
fn a_phone_gets_an_address_that_is_on_disk_before_it_hears_of_it() {
    let mut lab = Lab::new(&format!("{LEASED}preference: 255\n"));
    let offered = lab.send(&wants(kind::SOLICIT, 1, &[]).asks(&[code::DNS])).expect("an advertisement");
    assert_eq!((offered.kind, said(Some(offered))), (kind::ADVERTISE, "fd00:40::1000 for 1000".into()));
    assert_eq!((lab.disk.len(), lab.holder("fd00:40::1000")), (0, None));
    assert_eq!(said(lab.send(&wants(kind::SOLICIT, 2, &["fd00:40::1000"]))), "fd00:40::1001 for 1000", "it is kept for the first");

    lab.unwritten = Some(vec![]);
    let asks = wants(kind::REQUEST, 1, &["fd00:40::1000"]).with(code::SERVER_ID, DUID);
    assert_eq!((lab.send(&asks), lab.send(&asks)), (None, None), "neither does its repetition");
    let (id, leases) = lab.unwritten.take().unwrap().remove(0);
    lab.write(leases);
    lab.server.handle_committed(lab.now, id, Ok(()));
    let reply = Answer::of(&lab.drain().remove(0));
    assert_eq!((reply.kind, reply.get(code::SERVER_ID)), (kind::REPLY, Some(DUID)));
    let (secs, ia) = (|at: usize, ia: &[u8]| u32::from_be_bytes(ia[at..at + 4].try_into().unwrap()), reply.get(code::IA_NA).unwrap());
    assert_eq!((secs(0, ia), secs(4, ia), secs(8, ia), &ia[12..16]), (7, 500, 800, &[0, 5, 0, 24][..]), "T1 and T2");
    assert_eq!((reply.get(code::BOOT_FILE_URL).is_some(), reply.get(code::DNS).is_some()), (true, true), "and where its files are");
    assert_eq!(lab.holder("fd00:40::1000"), Some(mac(1)));
    let lease = &lab.disk[0];
    assert_eq!((lease.mac, lease.iaid, &lease.duid, lease.expires), (Some(mac(1)), 7, &duid(1), lab.now.plus_secs(1000)));
    let granted = |event: &Event| matches!(event, Event::LeaseGranted { address, lease_secs: 1000, .. } if *address == ip("fd00:40::1000"));
    assert!(granted(lab.events.last().unwrap()), "{:?}", lab.events);
    assert_eq!(
        Lab::new(&format!("{LEASED}preference: 9")).send(&wants(kind::SOLICIT, 1, &[])).unwrap().get(code::PREFERENCE),
        Some(&[9][..])
    );
}

#[test]
fn a_hurried_phone_gets_it_at_once_where_that_is_allowed() {
    let hurried = wants(kind::SOLICIT, 1, &[]).with(code::RAPID_COMMIT, b"");
    let mut lab = Lab::new(LEASED);
    let answer = lab.send(&hurried).expect("a reply");
    assert_eq!((answer.kind, answer.get(code::RAPID_COMMIT), lab.disk.len()), (kind::REPLY, Some(&b""[..]), 1));
    let answer = Lab::new(&format!("{LEASED}rapid_commit: false")).send(&hurried).expect("an advertisement");
    assert_eq!((answer.kind, answer.get(code::RAPID_COMMIT)), (kind::ADVERTISE, None));
}

#[test]
fn each_question_has_its_answer() {
    const OWN: &str = "fd00:40::1000";
    const OTHERS: &str = "fd00:40::1001";
    let named = |kind, n, addresses: &[&str]| wants(kind, n, addresses).with(code::SERVER_ID, DUID);
    for (story, msg, answer) in [
        ("it goes on", named(kind::RENEW, 1, &[OWN]), "fd00:40::1000 for 1000"),
        ("it has one too many", named(kind::RENEW, 1, &[OWN, OTHERS]), "fd00:40::1000 for 1000, fd00:40::1001 for 0"),
        ("its server is away", wants(kind::REBIND, 1, &[OWN]), "fd00:40::1000 for 1000"),
        ("asks for another", named(kind::REQUEST, 1, &["fd00:40::1003"]), "fd00:40::1000 for 1000"),
        ("our notes are lost, and it is free", named(kind::RENEW, 3, &["fd00:40::1003"]), "fd00:40::1003 for 1000"),
        ("and by the other way", wants(kind::REBIND, 3, &["fd00:40::1003"]), "fd00:40::1003 for 1000"),
        ("it is another's by now", named(kind::RENEW, 3, &[OWN]), "no address: 3"),
        ("and by the other way", wants(kind::REBIND, 3, &[OWN]), "fd00:40::1000 for 0"),
        ("never one of ours", wants(kind::REBIND, 3, &["fd00:40::9999"]), "nothing"),
        ("from another link", named(kind::RENEW, 3, &["fd00:42::1"]), "fd00:42::1 for 0"),
        ("and by the other way", wants(kind::REBIND, 3, &["fd00:42::1"]), "fd00:42::1 for 0"),
        ("wants one of another link", named(kind::REQUEST, 3, &["fd00:42::1"]), "no address: 4"),
        ("wakes up here", wants(kind::CONFIRM, 1, &[OWN]), "status 0"),
        ("wakes up elsewhere", wants(kind::CONFIRM, 1, &[OWN, "fd00:42::1"]), "status 4"),
        ("wakes up without", wants(kind::CONFIRM, 1, &[]), "nothing"),
        ("wakes up with what is another's", wants(kind::CONFIRM, 3, &[OWN]), "status 4"),
        ("gives it back", named(kind::RELEASE, 1, &[OWN]), "status 0"),
        ("gives back what is not its", named(kind::RELEASE, 1, &[OTHERS]), "status 0; no address: 3"),
        ("finds it in use", named(kind::DECLINE, 1, &[OWN]), "status 0"),
        ("in another's name", named(kind::RELEASE, 1, &[OWN]).from("fe80::bad"), "nothing"),
        ("in another's name", named(kind::DECLINE, 1, &[OWN]).from("fe80::bad"), "nothing"),
        ("asks us alone", named(kind::REQUEST, 1, &[OWN]).unicast(), "status 5"),
        ("from its address", named(kind::RENEW, 1, &[OWN]).unicast().from(OWN), "status 5"),
        ("from the Internet", named(kind::RENEW, 1, &[OWN]).unicast().from("2001:db8::1"), "nothing"),
        ("asks another alone", wants(kind::RENEW, 1, &[OWN]).with(code::SERVER_ID, b"\0\x04x").unicast(), "nothing"),
        ("everybody, alone", wants(kind::SOLICIT, 1, &[]).unicast(), "nothing"),
        ("took another's offer", wants(kind::REQUEST, 1, &[OWN]).with(code::SERVER_ID, b"\0\x04another"), "nothing"),
        ("names no server", wants(kind::REQUEST, 1, &[OWN]), "nothing"),
        ("names one to all", named(kind::REBIND, 1, &[OWN]), "nothing"),
        ("names one too early", named(kind::SOLICIT, 1, &[]), "nothing"),
        ("nobody", Msg { list: vec![(code::IA_NA, ia(7, &[]))], ..wants(kind::SOLICIT, 1, &[]) }, "nothing"),
        ("for no interface", msg(kind::SOLICIT, 1), "nothing"),
        ("where routers give addresses", wants(kind::SOLICIT, 1, &[]).relayed(&["fd00:41::1"]), "nothing"),
        ("was told by us once", named(kind::RENEW, 1, &["fd00:41::1"]).relayed(&["fd00:41::1"]), "no address: 3"),
        ("behind a relay", wants(kind::SOLICIT, 3, &[]).relayed(&["fd00:42::1"]), "fd00:42::1 for 1000"),
    ] {
        let mut lab = Lab::new(LEASED);
        assert_eq!((lab.lease(1).as_deref(), lab.lease(2).as_deref()), (Some(OWN), Some(OTHERS)));
        lab.now = lab.now.plus_secs(100);
        assert_eq!(said(lab.send(&msg)), answer, "{story}");
    }
}

#[test]
fn what_is_given_back_is_free_and_what_is_in_use_is_left_alone() {
    let named = |kind, n, addresses: &[&str]| wants(kind, n, addresses).with(code::SERVER_ID, DUID);
    let mut lab = Lab::new(LEASED);
    for n in 1..=4 {
        assert!(lab.lease(n).is_some());
    }
    assert_eq!(said(lab.send(&wants(kind::SOLICIT, 5, &[]))), "no address: 2");
    assert!(lab.events.iter().any(|event| matches!(event, Event::PoolExhausted { subnet, .. } if subnet == "fd00:40::/64")));
    lab.send(&named(kind::RELEASE, 2, &["fd00:40::1001"])).expect("a reply");
    assert_eq!((lab.holder("fd00:40::1001"), lab.holder("fd00:40::1000")), (None, Some(mac(1))));
    assert_eq!(lab.lease(2).as_deref(), Some("fd00:40::1001"), "it comes back to it");
    lab.send(&named(kind::DECLINE, 2, &["fd00:40::1001"])).expect("a reply");
    assert_eq!(lab.lease(2), None, "somebody else sits on it");
    let told = |kind: fn(&Event) -> bool| lab.events.iter().filter(|event| kind(event)).count();
    assert_eq!(
        (told(|event| matches!(event, Event::LeaseReleased { .. })), told(|event| matches!(event, Event::LeaseDeclined { .. }))),
        (1, 1)
    );
    lab.now = lab.now.plus_secs(1001);
    lab.server.handle_timeout(lab.now);
    lab.drain();
    assert_eq!(lab.events.iter().filter(|event| matches!(event, Event::LeaseExpired { .. })).count(), 3);
    assert_eq!((lab.view.len(), lab.server.poll_timeout()), (0, None), "and nothing more will happen");
    assert_eq!(lab.lease(5).as_deref(), Some("fd00:40::1000"), "the longest free");
    lab.now = lab.now.plus_secs(3600);
    assert_eq!(said(lab.send(&wants(kind::SOLICIT, 6, &["fd00:40::1001"]))), "fd00:40::1001 for 1000", "it is tried again");
}

#[test]
fn an_interface_is_a_client_of_its_own_and_prefixes_are_refused() {
    let mut lab = Lab::new(LEASED);
    let head = [&9u32.to_be_bytes()[..], &[0; 8]].concat();
    let both = wants(kind::SOLICIT, 1, &[]).with(code::IA_NA, &ia(8, &[])).with(code::IA_PD, &head).with(code::RAPID_COMMIT, b"");
    let answer = lab.send(&both).expect("a reply");
    let one = |address: &str| Ok(vec![(address.to_owned(), 1000)]);
    assert_eq!(given(&answer), [(7, one("fd00:40::1000")), (8, one("fd00:40::1001"))]);
    assert_eq!(answer.get(code::IA_PD), Some(&[&head[..], &[0, 13, 0, 2, 0, 6]].concat()[..]));
    assert_eq!(lab.disk.len(), 2);
    let many = (0..50).fold(msg(kind::SOLICIT, 2), |msg, iaid| msg.with(code::IA_NA, &ia(iaid, &[])));
    assert_eq!(given(&lab.send(&many).expect("an advertisement")).len(), 4, "not the whole pool for one");
}

#[test]
fn a_restart_changes_nothing_and_a_disk_that_fails_promises_nothing() {
    let mut lab = Lab::new(LEASED);
    assert_eq!(lab.lease(1).as_deref(), Some("fd00:40::1000"));
    let mut lab = Lab::after(LEASED, lab.now.plus_secs(10), lab.disk);
    assert_eq!(lab.holder("fd00:40::1000"), Some(mac(1)));
    assert_eq!((lab.lease(2).as_deref(), lab.lease(1).as_deref()), (Some("fd00:40::1001"), Some("fd00:40::1000")));
    let mut lost = Lab::after(LEASED, lab.now, vec![]);
    let wakes = wants(kind::CONFIRM, 1, &["fd00:40::1003"]);
    assert_eq!((said(lost.send(&wakes)), lost.disk.len()), ("status 0".into(), 1), "a phone that we forgot is noted");
    assert_eq!(lost.holder("fd00:40::1003"), Some(mac(1)));

    lab.unwritten = Some(vec![]);
    let (renews, asks) = (wants(kind::RENEW, 1, &[]), wants(kind::SOLICIT, 3, &[]).with(code::RAPID_COMMIT, b""));
    assert_eq!((lab.send(&renews.with(code::SERVER_ID, DUID)), lab.send(&asks)), (None, None));
    lab.now = lab.now.plus_secs(1);
    for (id, _) in lab.unwritten.take().unwrap() {
        lab.server.handle_committed(lab.now, id, Err("disk full".into()));
    }
    assert_eq!((lab.drain(), lab.disk.len()), (vec![], 2));
    assert_eq!((lab.holder("fd00:40::1000"), lab.holder("fd00:40::1002")), (Some(mac(1)), None));
    assert_eq!(lab.lease(4).as_deref(), Some("fd00:40::1002"), "nobody has it");

    // The office renumbers: leases of the old pool end when they are to be renewed.
    let other = LEASED.replace("fd00:40::1000-fd00:40::1003", "fd00:40::2000-fd00:40::2003");
    lab.server.set_config(lab.now, serde_yaml::from_str::<Settings>(&other).unwrap().check().unwrap());
    assert_eq!(lab.holder("fd00:40::1000"), Some(mac(1)), "until then it is its");
    assert_eq!(said(lab.send(&wants(kind::RENEW, 1, &["fd00:40::1000"]).with(code::SERVER_ID, DUID))), "no address: 3");
    assert_eq!(lab.lease(1).as_deref(), Some("fd00:40::2000"));

    // An address is kept for a phone that has another: it hears of it when it renews, and others never get it.
    let kept = format!("{other}  reservations: [{{ mac: {}, address: 'fd00:43::10' }}]\n", mac(1));
    let kept = kept.replace("fd00:42::1-fd00:42::9 }\n", "fd00:42::1-fd00:42::9 }\n- prefix: fd00:43::/64\n");
    lab.server.set_config(lab.now, serde_yaml::from_str::<Settings>(&kept).unwrap().check().unwrap());
    let there = |msg: Msg| msg.relayed(&["fd00:43::1"]);
    assert_eq!(said(lab.send(&there(wants(kind::SOLICIT, 1, &[])))), "fd00:43::10 for 1000", "where there is no pool");
    assert_eq!(said(lab.send(&there(wants(kind::SOLICIT, 2, &["fd00:43::10"])))), "no address: 2");
    assert!(!lab.events.iter().any(|event| matches!(event, Event::PoolExhausted { .. })), "that is no fault");
    let kept = other.replace("fd00:40::2003", &format!("fd00:40::2003, reservations: [{{ mac: {}, address: 'fd00:40::2001' }}]", mac(1)));
    lab.server.set_config(lab.now, serde_yaml::from_str::<Settings>(&kept).unwrap().check().unwrap());
    let renews = wants(kind::RENEW, 1, &["fd00:40::2000"]).with(code::SERVER_ID, DUID);
    assert_eq!(said(lab.send(&renews)), "fd00:40::2001 for 1000, fd00:40::2000 for 0");
    assert_eq!((lab.holder("fd00:40::2001"), lab.lease(2).as_deref()), (Some(mac(1)), Some("fd00:40::2002")));
}

#[test]
fn a_flood_of_made_up_clients_leaves_the_known_ones_alone() {
    let mut lab = Lab::new(&format!("{LEASED}new_clients_per_minute: 2\nnew_clients_per_port_per_minute: 1\n"));
    assert!(lab.lease(1).is_some());
    let flood = |lab: &mut Lab, kind, wish: &str| {
        (10..200).filter(|n| lab.send(&wants(kind, *n, &[wish]).with(code::RAPID_COMMIT, b"")).is_some()).count()
    };
    assert_eq!((flood(&mut lab, kind::SOLICIT, "fd00:40::1003"), flood(&mut lab, kind::REBIND, "fd00:40::1002")), (1, 1), "it may go on");
    assert_eq!(said(lab.send(&wants(kind::REBIND, 1, &["fd00:40::1000"]))), "fd00:40::1000 for 1000");
    assert_eq!(lab.lease(1).as_deref(), Some("fd00:40::1000"));
    let behind = |n| wants(kind::SOLICIT, n, &[]).relayed(&["fd00:42::1"]);
    assert_eq!((lab.send(&behind(1)).is_some(), lab.send(&behind(2)).is_some()), (true, false), "one port, one new client a minute");
    assert!(lab.send(&behind(1)).is_some(), "and it may go on");
}

#[test]
fn one_mac_at_two_ports_is_contested() {
    let mut lab = Lab::new(LEASED);
    let asks = |duid: &[u8]| {
        let list = vec![(code::CLIENT_ID, [duid, &mac(1).0].concat()), (code::IA_NA, ia(7, &[])), (code::RAPID_COMMIT, vec![])];
        Msg { list, ..msg(kind::SOLICIT, 1) }.relayed(&["fd00:42::1"])
    };
    let contested = |lab: &Lab, address: &str| lab.view.holder(ip(address), lab.now).map(|holder| holder.contested);
    let through = |lab: &mut Lab, msg: &Msg, port: &[u8]| {
        let bytes = msg.bytes();
        let at = bytes.windows(2).position(|two| two == b"p7").unwrap();
        let moved = [&bytes[..at], port, &bytes[at + 2..]].concat();
        lab.hear(msg, &moved);
        assert_eq!(lab.drain().len(), 1);
    };
    through(&mut lab, &asks(b"\0\x03\0\x01"), b"p7");
    assert_eq!(contested(&lab, "fd00:42::1"), Some(false));
    let granted = |event: &Event| matches!(event, Event::LeaseGranted { port: Some(port), .. } if port == "p7");
    assert!(lab.events.iter().any(granted), "{:?}", lab.events);
    through(&mut lab, &asks(b"\0\x01\0\x01time"), b"p8");
    assert_eq!((contested(&lab, "fd00:42::1"), contested(&lab, "fd00:42::2")), (Some(true), Some(true)));
    assert!(lab.events.iter().any(|event| matches!(event, Event::DuplicateMac { .. })));
}

/// Whatever clients do and however often the power fails: what somebody was told is on disk, and is nobody else's.
#[test]
fn no_two_are_told_one_address() {
    for seed in 0..40u32 {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        let mut next = move |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % below
        };
        let yaml = LEASED.replace("lease_secs: 1000", "lease_secs: 60\nnew_clients_per_minute: 0\nnew_clients_per_port_per_minute: 0");
        let mut lab = Lab::new(&yaml);
        // Until when a client was told that it has an address.
        let mut told: HashMap<(u8, Ipv6Addr), Timestamp> = HashMap::new();
        for _ in 0..400 {
            lab.now = Timestamp(lab.now.0 + i64::from(next(20_000)));
            lab.server.handle_timeout(lab.now);
            let (n, wish) = (next(7) as u8, format!("fd00:40::{:x}", 0xfff + next(6)));
            let kinds = [kind::SOLICIT, kind::REQUEST, kind::RENEW, kind::REBIND, kind::CONFIRM, kind::RELEASE, kind::DECLINE];
            let kind = kinds[next(7) as usize];
            let mut msg = wants(kind, n, &[&wish]);
            if !matches!(kind, kind::SOLICIT | kind::REBIND | kind::CONFIRM) {
                msg = msg.with(code::SERVER_ID, DUID);
            }
            if next(2) == 0 {
                msg = msg.with(code::RAPID_COMMIT, b"");
            }
            if next(25) == 0 {
                // The power fails before it is written, and comes back.
                lab.unwritten = Some(vec![]);
                assert!(lab.send(&msg).is_none_or(|answer| answer.kind == kind::ADVERTISE || !said(Some(answer)).contains("for 60")));
                lab = Lab::after(&yaml, lab.now, lab.disk);
                continue;
            }
            let Some(answer) = lab.send(&msg).filter(|answer| answer.kind == kind::REPLY) else { continue };
            if matches!(kind, kind::RELEASE | kind::DECLINE) {
                told.remove(&(n, ip(&wish)));
            }
            for (address, secs) in given(&answer).into_iter().filter_map(|(_, given)| given.ok()).flatten() {
                let address = ip(&address);
                if secs == 0 {
                    told.remove(&(n, address));
                    continue;
                }
                let rival = told.iter().find(|((other, known), until)| *known == address && *other != n && **until > lab.now);
                assert_eq!(rival, None, "seed {seed}: {address} told to {n}");
                assert!(lab.disk.iter().any(|lease| lease.address == address && lease.duid == duid(n) && lease.expires > lab.now));
                told.insert((n, address), lab.now.plus_secs(secs.into()));
            }
        }
    }
}

#[test]
fn a_phone_with_an_address_from_its_router_hears_where_its_files_are() {
    let mut lab = Lab::new(OFFICE);
    let wanted = [code::DNS, code::DOMAINS, code::SNTP, code::NTP, code::SIP_ADDRESSES, code::SIP_DOMAINS, 39];
    let answer = lab.send(&msg(kind::INFORMATION_REQUEST, 1).asks(&wanted)).expect("an answer");
    assert_eq!(answer.to, "[fe80::99%2]:546".parse().unwrap(), "to the port of clients, whatever it asked from");
    assert_eq!((answer.kind, answer.get(code::CLIENT_ID), answer.get(code::SERVER_ID)), (kind::REPLY, Some(&duid(1)[..]), Some(DUID)));
    assert_eq!(answer.get(code::BOOT_FILE_URL), Some(&b"http://[fd00:40::1]/t/001565000001"[..]), "it did not even ask");
    assert_eq!(answer.get(code::REFRESH_TIME), Some(&14400u32.to_be_bytes()[..]));
    assert_eq!(answer.get(code::DNS), Some(&ip("fd00:40::2").octets()[..]));
    assert_eq!(answer.get(code::DOMAINS), Some(&b"\x06office\x07example\0"[..]));
    assert_eq!(answer.get(code::SNTP), Some(&ip("fd00:40::4").octets()[..]));
    assert_eq!(answer.get(code::NTP), Some(&[&[0, 1, 0, 16][..], &ip("fd00:40::4").octets()].concat()[..]));
    assert_eq!(answer.get(code::SIP_ADDRESSES), Some(&ip(SERVER).octets()[..]));
    assert_eq!(answer.get(code::SIP_DOMAINS), Some(&b"\x03sip\x07example\0"[..]));
    let told = Event::DhcpInform { mac: mac(1), address: ip("fe80::99").into(), family: Some("yealink".into()) };
    assert_eq!(lab.events, [told]);

    let few = lab.send(&msg(kind::INFORMATION_REQUEST, 1).asks(&[code::DNS])).expect("an answer");
    assert_eq!(few.codes(), [code::CLIENT_ID, code::SERVER_ID, code::REFRESH_TIME, code::BOOT_FILE_URL, code::DNS]);
    let all = lab.send(&msg(kind::INFORMATION_REQUEST, 1)).expect("an answer");
    assert_eq!(all.list.len(), 3 + 7, "it does not say what it wants: {all:?}");
    // Without an identifier: RFC 8415 §18.2.6 lets it leave that out.
    let nameless = Msg { list: vec![oro(&[code::DNS])], source: ip("fe80::215:65ff:fe00:9"), ..msg(kind::INFORMATION_REQUEST, 0) };
    assert!(lab.send(&nameless).is_some_and(|answer| answer.codes()[0] == code::SERVER_ID && answer.get(code::BOOT_FILE_URL).is_some()));
}

#[test]
fn a_maker_has_options_of_its_own() {
    let mut lab = Lab::new(OFFICE);
    lab.server.class = Arc::new(|facts: &ClientFacts<'_>| {
        let option = |enterprise, code, value: &[u8], always| VendorOption { enterprise, code, value: value.to_vec(), always };
        let known = facts.enterprises.contains(&6889);
        let list = [option(6889, 242, b"HTTPSRVR=x", true), option(9, 1, b"one", false), option(6889, 3, b"", false)];
        Class { vendor_options: list.into_iter().filter(|_| known).collect(), ..Class::default() }
    });
    let avaya = || msg(kind::INFORMATION_REQUEST, 1).with(code::VENDOR_CLASS, b"\0\0\x1a\xe9\0\0");
    let told = |answer: Option<Answer>| {
        let list = answer.expect("an answer").list;
        list.into_iter().filter(|(code, _)| *code == code::VENDOR_OPTIONS).map(|(_, value)| value).collect::<Vec<_>>()
    };
    let always = b"\0\0\x1a\xe9\0\xf2\0\x0aHTTPSRVR=x".to_vec();
    assert_eq!(told(lab.send(&avaya().asks(&[code::DNS]))), std::slice::from_ref(&always), "it did not even ask");
    let both = [always, b"\0\x03\0\0".to_vec()].concat();
    let all = [both, b"\0\0\0\x09\0\x01\0\x03one".to_vec()];
    assert_eq!(told(lab.send(&avaya().asks(&[code::DNS, code::VENDOR_OPTIONS]))), all, "those of one maker go together");
    assert_eq!(told(lab.send(&avaya())), all, "it does not say what it wants");
    assert_eq!(told(lab.send(&msg(kind::INFORMATION_REQUEST, 1))), Vec::<Vec<u8>>::new());
}

#[test]
fn a_computer_gets_no_url_and_may_be_ignored() {
    let computer = Msg { list: vec![(code::CLIENT_ID, b"\0\x04some-computers-id".to_vec())], ..msg(kind::INFORMATION_REQUEST, 0) };
    let served = Lab::new(OFFICE).send(&computer).expect("an answer");
    assert_eq!((served.get(code::BOOT_FILE_URL), served.get(code::SIP_ADDRESSES)), (None, None));
    assert!(served.get(code::DNS).is_some());
    let mut lab = Lab::new(&format!("{OFFICE}non_phones: ignore\n"));
    assert_eq!(lab.send(&computer), None);
    assert!(lab.send(&msg(kind::INFORMATION_REQUEST, 1)).is_some());
}

#[test]
fn relays_are_answered_by_the_way_they_asked() {
    let mut lab = Lab::new(OFFICE);
    let asks = msg(kind::INFORMATION_REQUEST, 1);
    let answer = lab.send(&asks.clone().relayed(&["fd00:41::1"])).expect("an answer");
    assert_eq!((answer.relays, answer.to), (1, "[fd00:41::ff]:547".parse().unwrap()));
    assert_eq!(answer.get(code::DNS), None, "the settings of the relay's network");
    // A relay of layer 2 in front of it knows no address of the link.
    let answer = lab.send(&asks.clone().relayed(&["::", "fd00:40::9"])).expect("an answer");
    assert_eq!((answer.relays, answer.get(code::DNS).is_some()), (2, true));
    for (story, msg) in [
        ("a network that is not served", asks.clone().relayed(&["fd00:99::1"])),
        ("a relay from anywhere", asks.clone().relayed(&["fd00:41::1"]).from("2001:db8::1")),
        ("a relay that is a group", asks.clone().relayed(&["fd00:41::1"]).from("ff02::1")),
        ("more relays than there may be", asks.relayed(&["fd00:41::1"; 9])),
    ] {
        assert_eq!(lab.send(&msg), None, "{story}");
    }
}

#[test]
fn what_is_not_for_us_is_not_answered() {
    let mut lab = Lab::new(OFFICE);
    let asks = || msg(kind::INFORMATION_REQUEST, 1);
    for (story, msg) in [
        ("by unicast", asks().unicast()),
        ("from another link", asks().from("fd00:40::5")),
        ("from nobody", asks().from("::")),
        ("for another server", asks().with(code::SERVER_ID, b"\0\x04another")),
        ("with an address", asks().with(code::IA_NA, &[0; 12])),
        ("what servers say", msg(kind::REPLY, 1)),
        ("what relays are told", msg(kind::RELAY_REPLY, 1)),
        ("what servers order", msg(10, 1)),
        ("nothing known", msg(77, 1)),
        ("for an address, where routers give them", msg(kind::SOLICIT, 1).with(code::IA_NA, &[0; 12])),
    ] {
        assert_eq!(lab.send(&msg), None, "{story}");
    }
    assert!(lab.send(&asks().with(code::SERVER_ID, DUID)).is_some());
}

#[test]
fn a_flood_is_answered_at_a_bounded_rate() {
    let mut lab = Lab::new(&format!("{OFFICE}new_clients_per_minute: 5\n"));
    let answered = |lab: &mut Lab| (0..50).filter(|n| lab.send(&msg(kind::INFORMATION_REQUEST, *n)).is_some()).count();
    assert_eq!(answered(&mut lab), 5);
    let behind = |lab: &mut Lab| lab.send(&msg(kind::INFORMATION_REQUEST, 1).relayed(&["fd00:41::1"])).is_some();
    assert!(behind(&mut lab), "another network is not in its way");
    lab.now = lab.now.plus_secs(60);
    assert_eq!(answered(&mut lab), 5);
}

#[test]
fn an_answer_fits_into_one_packet() {
    for (servers, fits) in [(50, true), (200, false)] {
        let many = (0..servers).map(|n| format!("'fd00:40::{n}'")).collect::<Vec<_>>().join(", ");
        let mut lab = Lab::new(&format!("mode: stateless\nsubnets:\n- prefix: fd00:40::/64\n  dns: [{many}]\n  ntp: ['fd00:40::4']"));
        let asks = msg(kind::INFORMATION_REQUEST, 1);
        let answer = lab.send(&asks).expect("an answer");
        let has = [code::BOOT_FILE_URL, code::NTP, code::DNS].map(|code| answer.get(code).is_some());
        assert_eq!(has, [true, true, fits], "{servers} name servers");
        let relayed = asks.relayed(&["fd00:40::1"]).from("fd00:40::ff");
        lab.hear(&relayed, &relayed.bytes());
        assert!(matches!(&lab.drain()[..], [answer] if answer.bytes.len() < 1232), "with what the relay needs");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_and_none_make_two(
        bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..200, value in any::<u8>(), which in 0usize..8,
    ) {
        let mut lab = Lab::new(LEASED);
        lab.lease(1);
        let valid = [
            msg(kind::INFORMATION_REQUEST, 1).asks(&[23, 59]),
            msg(kind::INFORMATION_REQUEST, 1).with(code::VENDOR_CLASS, b"\0\0\x36\x3d\0\x07Polycom"),
            msg(kind::INFORMATION_REQUEST, 1).relayed(&["::", "fd00:41::1"]),
            msg(kind::SOLICIT, 1).with(code::IA_NA, &[0; 12]),
            wants(kind::SOLICIT, 1, &["fd00:40::1002"]).with(code::RAPID_COMMIT, b""),
            wants(kind::REQUEST, 1, &["fd00:40::1002"]).with(code::SERVER_ID, DUID),
            wants(kind::REBIND, 1, &["fd00:40::1000", "fd00:99::1"]),
            wants(kind::RELEASE, 1, &["fd00:40::1000"]).with(code::SERVER_ID, DUID),
        ];
        let mut mutated = valid[which].bytes();
        let at = at % mutated.len();
        mutated[at] = value;
        for bytes in [&bytes[..], &mutated, &mutated[..at]] {
            lab.hear(&valid[which], bytes);
            let answers = lab.drain();
            prop_assert!(answers.len() <= 1 && answers.iter().all(|answer| *answer.to.ip() == valid[which].source), "{:?}", answers);
        }
    }
}
