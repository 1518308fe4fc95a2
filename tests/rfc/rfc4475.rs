//! The torture messages of RFC 4475, all 49: through the parser, and through a server that challenges and registers.
//!
//! The table says what each must lead to. Where the RFC leaves a choice, it says which one is ours.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use plugtone::{
    model::{MacAddr, Secret},
    sip::{
        Account, Accounts, Endpoint, Event, Flow, Message, Method, Name, Registrar, Request, Response, Uri,
        digest::{Refusal, Verifier, verifier},
        endpoint, registrar,
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Refused before anybody looks at its meaning.
    Refused(u16),
    /// Reaches the server's logic, which answers so: 200 to OPTIONS, 401 to REGISTER, 404 to all else.
    Served(u16),
    /// No answer, no effect.
    Dropped,
}
use Outcome::*;

pub const TABLE: &[(&str, Outcome, &str)] = &[
    // 3.1.1 valid
    ("wsinv", Served(404), "3.1.1.1 white space, folds, compact names, several Vias"),
    ("intmeth", Refused(501), "3.1.1.2 a method of every token character: valid, and unknown here"),
    ("esc01", Served(404), "3.1.1.3 an escaped sip: URI as user part"),
    ("escnull", Served(401), "3.1.1.4 escaped NULs"),
    ("esc02", Refused(501), "3.1.1.5 % in a method is no escape: RE%47IST%45R is not REGISTER"),
    ("lwsdisp", Served(200), "3.1.1.6 no space between display name and <"),
    ("longreq", Served(404), "3.1.1.7 long values everywhere"),
    ("dblreq", Served(401), "3.1.1.8 a second request in the datagram is noise"),
    ("semiuri", Served(200), "3.1.1.9 ; in the user part"),
    ("transports", Served(200), "3.1.1.10 unknown transports in Via"),
    ("mpart01", Refused(405), "3.1.1.11 a multipart MESSAGE: read, and MESSAGE is not done here"),
    ("unreason", Dropped, "3.1.1.12 a response with a reason in Unicode: read, and nobody waits for it"),
    ("noreason", Dropped, "3.1.1.13 a response with an empty reason: likewise"),
    // 3.1.2 invalid
    ("badinv01", Refused(400), "3.1.2.1 superfluous separators"),
    ("clerr", Refused(400), "3.1.2.2 Content-Length beyond the datagram"),
    ("ncl", Refused(400), "3.1.2.3 a negative Content-Length"),
    ("scalar02", Refused(400), "3.1.2.4 numbers beyond their range in a request"),
    ("scalarlg", Dropped, "3.1.2.5 numbers beyond their range in a response"),
    ("quotbal", Refused(400), "3.1.2.6 an unfinished quoted string"),
    ("ltgtruri", Refused(400), "3.1.2.7 <> around the Request-URI"),
    ("lwsruri", Refused(400), "3.1.2.8 white space in the Request-URI"),
    ("lwsstart", Refused(400), "3.1.2.9 several spaces in the request line"),
    ("trws", Refused(400), "3.1.2.10 spaces after the request line"),
    ("escruri", Refused(400), "3.1.2.11 headers in the Request-URI"),
    ("baddate", Served(404), "3.1.2.12 a Date in another time zone: we do not read Date"),
    ("regbadct", Refused(400), "3.1.2.13 a Contact with ? outside <>"),
    ("badaspec", Refused(400), "3.1.2.14 spaces within <>"),
    ("baddn", Served(200), "3.1.2.15 a comma in an unquoted display name: harmless in From, so we are lenient"),
    ("badvers", Refused(505), "3.1.2.16 SIP/7.0"),
    ("mismatch01", Refused(400), "3.1.2.17 CSeq with another method"),
    ("mismatch02", Refused(400), "3.1.2.18 the same with an unknown method: 400 or 501"),
    ("bigcode", Dropped, "3.1.2.19 a status beyond 699"),
    // 3.2 transactions
    ("badbranch", Served(200), "3.2.1 a branch that is only the cookie"),
    // 3.3 applications
    ("insuf", Refused(400), "3.3.1 no From, To, Call-ID"),
    ("unkscm", Refused(416), "3.3.2 an unknown scheme"),
    ("novelsc", Refused(416), "3.3.3 a known scheme that is not SIP's"),
    ("unksm2", Served(401), "3.3.4 unknown schemes in To and Contact: challenged, then nobody's address"),
    ("bext01", Refused(420), "3.3.5 Require and Proxy-Require of unknown extensions"),
    ("invut", Refused(415), "3.3.6 a body that nobody reads"),
    ("regaut01", Served(401), "3.3.7 an unknown authorization scheme"),
    ("multi01", Refused(400), "3.3.8 single headers there twice"),
    ("mcl01", Refused(400), "3.3.9 two Content-Lengths that differ"),
    ("bcast", Dropped, "3.3.10 a response to a broadcast Via: never forwarded"),
    ("zeromf", Served(200), "3.3.11 OPTIONS with Max-Forwards 0: its target answers"),
    ("cparam01", Served(401), "3.3.12 a parameter of Contact"),
    ("cparam02", Served(401), "3.3.13 a parameter of the Contact's URI"),
    ("regescrt", Served(401), "3.3.14 a Route escaped in the Contact's URI"),
    ("sdp01", Refused(406), "3.3.15 Accept without application/sdp"),
    // 3.4 backward compatibility
    ("inv2543", Served(404), "3.4.1 an INVITE of RFC 2543: no branch, no Max-Forwards, no tags"),
];

pub fn vector(name: &str) -> Bytes {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/rfc4475").join(format!("{name}.dat"));
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).into()
}

fn flow() -> Flow {
    Flow::udp("192.0.2.250:5060".parse().unwrap(), "192.0.2.1:5060".parse().unwrap())
}

struct Nobody;

impl Accounts for Nobody {
    fn account(&self, _: &str) -> Option<Account> {
        None
    }
}

/// A server of the smallest logic over the real parts.
struct Server {
    now: Instant,
    endpoint: Endpoint,
    verifier: Verifier,
}

impl Server {
    fn new() -> Self {
        let now = Instant::now();
        let verifier = Verifier::new(verifier::Config::default(), [2; 32], now);
        Self { now, endpoint: Endpoint::new(endpoint::Config::default(), [1; 32]), verifier }
    }

    fn take(&mut self, bytes: Bytes) -> Outcome {
        self.endpoint.handle_message(self.now, flow(), bytes);
        let mut served = false;
        while let Some(event) = self.endpoint.poll_event() {
            let Event::Request { tx, request, .. } = event else { continue };
            served = true;
            let response = match request.method() {
                Some(Method::Options) => self.endpoint.config().abilities.answer_options(&request),
                Some(Method::Register) => {
                    let refusal = self.verifier.verify(self.now, &request, &Nobody).expect_err("nobody has an account");
                    assert_eq!(refusal, Refusal::Missing);
                    self.verifier.challenge(self.now, &request, &refusal)
                }
                _ => Response::to(&request, 404),
            };
            self.endpoint.respond(self.now, tx, response);
        }
        let answers: Vec<_> = std::iter::from_fn(|| self.endpoint.poll_transmit()).collect();
        assert!(answers.len() < 2, "one request, one answer");
        let Some(answer) = answers.into_iter().next() else { return Dropped };
        let answer = Message::parse(answer.bytes).expect("what we write can be read");
        assert!(!served || answer.to().is_ok_and(|to| to.tag().is_some()), "every answer but a 100 has a tag");
        let status = answer.status().expect("an answer");
        if served { Served(status) } else { Refused(status) }
    }

    /// Whether it still does its work.
    fn is_alive(&mut self) -> bool {
        let options = Request::new(Method::Options, "sip:192.0.2.250")
            .header(Name::From, "<sip:probe@192.0.2.1>;tag=1")
            .header(Name::To, "<sip:192.0.2.250>")
            .header(Name::CallId, self.endpoint.ids().token())
            .header(Name::CSeq, "1 OPTIONS");
        let branch = self.endpoint.ids().token();
        self.take(options.encode(format!("SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK{branch};rport"), "")) == Served(200)
    }
}

#[test]
fn every_message_gets_the_answer_that_the_rfc_names() {
    let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/rfc4475")).expect("the vectors");
    let files = files.filter(|f| f.as_ref().is_ok_and(|f| f.path().extension().is_some_and(|e| e == "dat"))).count();
    assert_eq!((files, TABLE.len()), (49, 49));
    let mut report = String::new();
    let mut wrong = 0;
    for (name, expected, why) in TABLE {
        let mut server = Server::new();
        let outcome = server.take(vector(name));
        let mark = if outcome == *expected && server.is_alive() { "  " } else { "✗ " };
        wrong += usize::from(mark != "  ");
        report.push_str(&format!("{mark}{name:11} {:14} {:14} {why}\n", format!("{outcome:?}"), format!("{expected:?}")));
    }
    assert_eq!(wrong, 0, "\n  message     outcome        expected\n{report}");
}

#[test]
fn the_valid_ones_are_understood_and_not_only_survived() {
    let message = |name| Message::parse(vector(name)).expect(name);
    let wsinv = message("wsinv");
    let via = wsinv.via().unwrap();
    assert_eq!((via.transport, via.host(), via.branch()), ("UDP", "192.0.2.2", Some("390skdjuw")));
    assert_eq!(wsinv.elements(Name::Via).count(), 3);
    assert_eq!((wsinv.to().unwrap().tag(), wsinv.from().unwrap().tag()), (Some("1918181833n"), Some("98asjd8")));
    assert_eq!(wsinv.from().unwrap().display_name(), "J Rosenberg \\\"");
    assert_eq!((wsinv.cseq().unwrap().number, wsinv.max_forwards()), (9, Some(68)));
    assert_eq!(wsinv.name_addr(Name::Contact).unwrap().display_name(), "Quoted string \"\"");
    assert_eq!(wsinv.header_named("newfangledheader").map(|v| v.len() > 20), Some(true));
    assert_eq!(wsinv.text(Name::Subject).as_deref(), Some(""));
    assert_eq!(wsinv.header_named("UnknownHeaderWithUnusualValue"), Some(&b";;,,;;,;"[..]));
    assert_eq!(wsinv.content_type().as_deref(), Some("application/sdp"));
    assert!(wsinv.name_addrs(Name::Route).next().unwrap().unwrap().uri().unwrap().is_loose());
    assert_eq!(wsinv.body().len(), 150);

    assert_eq!(message("esc01").uri().unwrap().user().as_deref(), Some("sips:user@example.com"));
    assert_eq!(message("escnull").to().unwrap().uri().unwrap().user().as_deref(), Some("null-\0-null"));
    assert_eq!(message("semiuri").uri().unwrap().user().as_deref(), Some("user;par=u@example.net"));
    assert_eq!(message("lwsdisp").from().unwrap().display_name(), "caller");
    assert_eq!(message("unreason").reason(), "= 2**3 * 5**2 но сто девяносто девять - простое");
    assert_eq!((message("noreason").status(), message("noreason").reason().as_ref()), (Some(100), ""));
    assert_eq!(message("dblreq").body(), b"");
    // The binary part of the multipart body comes through byte for byte.
    assert!(message("mpart01").body().windows(2).any(|w| w == [0x30, 0x82]));
    let long = message("longreq");
    assert_eq!(long.elements(Name::Via).count(), 34);
    assert!(long.check().is_ok());
    let cparam = message("cparam01");
    assert!(cparam.name_addr(Name::Contact).unwrap().params().has("unknownparam"));
    let cparam = message("cparam02");
    let contact = cparam.name_addr(Name::Contact).unwrap();
    assert!(contact.uri().unwrap().params().has("unknownparam") && !contact.params().has("unknownparam"));
}

#[test]
fn the_registrations_among_them_do_what_they_say() {
    let now = Instant::now();
    let mut seen = BTreeMap::new();
    for name in ["escnull", "dblreq", "cparam01", "cparam02", "regescrt", "unksm2"] {
        let request = Message::parse(vector(name)).unwrap();
        let user = request.to().unwrap().uri().unwrap().user().unwrap_or_default().into_owned();
        let account = Account {
            user,
            mac: MacAddr([0, 1, 2, 3, 4, 5]),
            line: 1,
            generation: 1,
            provisional: false,
            display_name: String::new(),
            secret: Secret::new("x"),
        };
        let mut registrar = Registrar::new(registrar::Config::default());
        let response = registrar.handle_register(now, &request, flow(), &account);
        let uris: Vec<_> = registrar.contacts(&account.user).map(|c| c.uri.clone()).collect();
        seen.insert(name, (response.status, uris));
    }
    let text = |s: &str| vec![s.to_owned()];
    // Two NULs and one NUL are two users.
    assert_eq!(seen["escnull"].1.len(), 2);
    assert_eq!(seen["cparam01"], (200, text("sip:+19725552222@gw1.example.net")));
    assert_eq!(seen["cparam02"], (200, text("sip:+19725552222@gw1.example.net;unknownparam")));
    assert_eq!(seen["regescrt"], (200, text("sip:user@example.com?Route=%3Csip:sip.example.com%3E")));
    assert_eq!(seen["dblreq"].0, 200);
    assert_eq!(seen["unksm2"].0, 200, "for whoever could log in as nobody; an account always has a user");
}

/// xorshift64*: the same bytes on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n.max(1)
    }

    /// Bytes changed, cut, doubled, or joined with another message.
    fn mutate(&mut self, bytes: &[u8], other: &[u8]) -> Vec<u8> {
        const LIKED: &[u8] = b"\r\n\r\n \t:;,<>\"\\@?=%/[]*0\0\xff\xc3";
        let mut bytes = bytes.to_vec();
        for _ in 0..1 + self.below(4) {
            let (a, b) = (self.below(bytes.len() + 1), self.below(bytes.len() + 1));
            let (a, b) = (a.min(b), a.max(b));
            match self.below(7) {
                0 | 1 if a < bytes.len() => bytes[a] = LIKED[self.below(LIKED.len())],
                2 if a < bytes.len() => bytes[a] = self.below(256) as u8,
                3 => drop(bytes.drain(a..(a + self.below(20)).min(bytes.len()))),
                4 => bytes.insert(a, LIKED[self.below(LIKED.len())]),
                5 if b - a < 200 => {
                    let part = bytes[a..b].to_vec();
                    bytes.splice(a..a, part);
                }
                6 => {
                    let at = self.below(other.len() + 1);
                    let part = &other[at..(at + 60).min(other.len())];
                    bytes.splice(a..a, part.iter().copied());
                }
                _ => {}
            }
        }
        bytes
    }
}

/// Asks for everything that a message can be asked for.
fn look_at_all(message: &Message) {
    let _ = (message.check(), message.via(), message.cseq(), message.call_id(), message.contact_uri(), message.content_type());
    let _ = (message.uri().map(|uri| (uri.user(), uri.socket_addr(), uri.is_loose())), message.reason(), message.expires());
    for name in [Name::From, Name::To, Name::Contact, Name::Route, Name::RecordRoute, Name::ReferTo] {
        for address in message.name_addrs(name).flatten() {
            let _ = (address.display_name(), address.tag(), address.uri(), address.params().iter().count());
            if let Ok(uri) = Uri::parse(address.uri_str()) {
                assert!(uri.is_same_as(&uri), "{uri:?}");
            }
        }
    }
    for name in [Name::Authorization, Name::WwwAuthenticate, Name::ProxyAuthenticate] {
        let _ = message.auths(name).map(|auth| auth.iter().count()).sum::<usize>();
    }
    assert!(message.headers().map(|(_, name, value)| name.len() + value.len()).sum::<usize>() <= message.bytes().len());
    assert!(message.body_bytes().len() == message.body().len());
}

#[test]
fn mutated_messages_neither_panic_nor_stop_the_server() {
    let vectors: Vec<_> = TABLE.iter().map(|(name, ..)| vector(name)).collect();
    let mut random = Random(0x5157_0f0f_1234_5678);
    let mut server = Server::new();
    let mut understood = 0;
    for round in 0..20_000 {
        let (one, other) = (random.below(vectors.len()), random.below(vectors.len()));
        let bytes = Bytes::from(random.mutate(&vectors[one], &vectors[other]));
        if let Ok(message) = Message::parse(bytes.clone()) {
            look_at_all(&message);
            understood += 1;
            if message.is_request() {
                let answer = Response::to(&message, 200).to_tag("x").encode();
                assert!(Message::parse(answer).is_ok_and(|answer| answer.status() == Some(200)));
            }
        }
        if round % 4 == 0 {
            server.take(bytes);
            server.now += Duration::from_millis(20);
            server.endpoint.handle_timeout(server.now);
            while server.endpoint.poll_transmit().is_some() {}
            while server.endpoint.poll_event().is_some() {}
        }
    }
    assert!(understood > 10_000, "the mutations are too wild: {understood}");
    assert!(server.is_alive());
    server.endpoint.handle_timeout(server.now + Duration::from_secs(3600));
    server.endpoint.handle_timeout(server.now + Duration::from_secs(7200));
    let (open, _) = server.endpoint.transactions();
    assert!(open < 600, "only calls that nobody answered stay: {open}");
}

#[test]
fn hostile_sizes_cost_no_more_than_their_bytes() {
    let started = Instant::now();
    let head = "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\n\
                Call-ID: 1\r\nCSeq: 1 OPTIONS\r\n";
    let fill = |unit: &str| unit.repeat((60_000 - head.len()) / unit.len());
    for more in [
        fill("Via: SIP/2.0/UDP h;branch=1\r\n"),
        format!("Via: {}\r\n", fill("SIP/2.0/UDP h,")),
        format!("X: {}\r\n", fill("a\r\n ")),
        format!("Contact: {}\r\n", fill("\"")),
        format!("Contact: {}\r\n", fill("<")),
        format!("Contact: {}\r\n", fill("<sip:a>,")),
        format!("Contact: <sip:a>{}\r\n", fill(";")),
        format!("Authorization: Digest {}\r\n", fill("a=\",\\\",")),
        format!("Require: {}\r\n", fill("x,")),
        fill("\r\n \r\n"),
    ] {
        let mut server = Server::new();
        let bytes = Bytes::from(format!("{head}{more}\r\n"));
        if let Ok(message) = Message::parse(bytes.clone()) {
            look_at_all(&message);
        }
        server.take(bytes);
        assert!(server.is_alive());
    }
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}
