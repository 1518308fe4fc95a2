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
        let config = serde_yaml::from_str::<Settings>(yaml).unwrap().check().unwrap();
        let server = Server::new(config, Arc::new(phones), DUID.to_vec());
        Self { server, now: Timestamp(1_000_000_000_000), events: vec![] }
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
            }
        }
        answers
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
    assert_eq!(told(lab.send(&avaya().asks(&[code::DNS]))), [always.clone()], "it did not even ask");
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
        bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..200, value in any::<u8>(), which in 0usize..4,
    ) {
        let mut lab = Lab::new(OFFICE);
        let valid = [
            msg(kind::INFORMATION_REQUEST, 1).asks(&[23, 59]),
            msg(kind::INFORMATION_REQUEST, 1).with(code::VENDOR_CLASS, b"\0\0\x36\x3d\0\x07Polycom"),
            msg(kind::INFORMATION_REQUEST, 1).relayed(&["::", "fd00:41::1"]),
            msg(kind::SOLICIT, 1).with(code::IA_NA, &[0; 12]),
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
