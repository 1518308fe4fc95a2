//! What is tried with bytes of any kind, one function for each way in from the network: none may panic, and what they read must be
//! what it says. `fuzz/` runs them under libFuzzer, `tests/fuzz.rs` over the corpus and its mutations.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use plugtone::{
    dhcp::{
        LeaseView, lease,
        options::{self, Packet},
        v6,
    },
    fileserver::{
        ftp::{command::Command, session::Session as Ftp},
        http::{files, range},
        limits::Slots,
        tftp::{
            netascii,
            packet::{Packet as TftpPacket, Request as TftpRequest},
            transfers::{Effect, PORTS, Taken, Transfers, Way},
        },
    },
    model::{MacAddr, Secret, Timestamp, event::Door},
    provisioning::{Body, FileAnswer, FileRequest, ServedFile, identify::Asked, pnp::Ask},
    rtp::{packet as rtp, rtcp, telephone_event},
    sdp::{Codec, Description, Direction, Session, Terms},
    sip::{
        Account, Accounts, CSeq, Credentials, Endpoint, Flow, Login, Message, Name, NameAddr, Response, Uri, Via,
        dialog::{Dialog, DialogId, Replaces},
        digest::{Verifier, verifier},
        endpoint,
        header::{self, Contact, Params, quote, unquote},
        mask,
        transport::{
            framing::{Frame, Framer},
            stun,
        },
        uri::{escape_user, unescape},
    },
};

pub type Target = fn(&[u8]);

/// Every target, by the name of its folder in `fuzz/corpus`.
pub const TARGETS: &[(&str, Target)] = &[
    ("message", message),
    ("uri", uri),
    ("sdp", sdp),
    ("digest", digest),
    ("framing", framing),
    ("header", header_value),
    ("replaces", replaces),
    ("dhcp", dhcp),
    ("dhcp6", dhcp6),
    ("tftp", tftp),
    ("media", media),
    ("http", http),
    ("ftp", ftp),
    ("pnp", pnp),
];

fn phone() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 5], 5060))
}

fn server() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 5060))
}

/// A datagram to a server: parsed, looked at throughout, answered.
pub fn message(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(message) = Message::parse(bytes.clone()) {
        look_at(&message);
        if message.is_request() {
            let answer = Message::parse(Response::to(&message, 200).to_tag("x").encode()).expect("our own answer is read");
            assert_eq!(answer.status(), Some(200));
        }
    }
    let now = Instant::now();
    let mut endpoint = Endpoint::new(endpoint::Config::default(), [1; 32]);
    endpoint.handle_message(now, Flow::udp(server(), phone()), bytes.clone());
    let mut told = false;
    while let Some(event) = endpoint.poll_event() {
        if let endpoint::Event::Request { tx, request, .. } = event {
            endpoint.respond(now, tx, Response::to(&request, 404));
            told = true;
        }
    }
    let mut sent: Vec<_> = std::iter::from_fn(|| endpoint.poll_transmit()).collect();
    if told {
        endpoint.handle_message(now, Flow::udp(server(), phone()), bytes);
        let again = endpoint.poll_transmit();
        assert_eq!(again, sent.last().cloned(), "it comes again, and is told the same at the same place");
    }
    endpoint.handle_timeout(now + Duration::from_secs(1));
    sent.extend(std::iter::from_fn(|| endpoint.poll_transmit()));
    for transmit in sent {
        Message::parse(transmit.bytes).expect("what we send is read");
    }
}

fn look_at(message: &Message) {
    let _ =
        (message.check().is_ok(), message.method(), message.status(), message.reason(), message.uri().is_ok(), message.call_id().is_ok());
    let _ = (message.cseq().is_ok(), message.max_forwards(), message.expires(), message.content_type(), message.contact_uri());
    if let Ok(via) = message.via() {
        let _ = (via.host(), via.branch(), via.received(), via.rport(), via.wants_rport(), via.seen_at());
    }
    for name in [Name::From, Name::To, Name::Contact, Name::Route, Name::RecordRoute, Name::ReferTo, Name::Path] {
        for address in message.name_addrs(name).flatten() {
            let _ = (address.display_name(), address.tag(), address.uri().is_ok(), address.params().iter().count());
        }
    }
    for name in [Name::Authorization, Name::WwwAuthenticate, Name::ProxyAuthenticate, Name::ProxyAuthorization] {
        let _ = message.auths(name).map(|auth| auth.iter().count()).sum::<usize>();
    }
    assert!(message.headers().map(|(_, name, value)| name.len() + value.len()).sum::<usize>() <= message.bytes().len());
    assert_eq!(message.body_bytes().len(), message.body().len());
    let _ = (DialogId::of_request(message), mask::masked(message.bytes()));
    if let Ok(mut dialog) = Dialog::from_request(message, "us", "<sip:us@192.0.2.1>") {
        let _ = (dialog.accept(message).is_ok(), dialog.request(plugtone::sip::Method::Bye).encode("SIP/2.0/UDP h;branch=z9hG4bK1", ""));
    }
}

/// A URI, and the parts that it is made of.
pub fn uri(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = (unescape(text), Replaces::in_uri(text));
    let Ok(uri) = Uri::parse(text) else { return };
    assert!(uri.is_same_as(&uri), "{uri:?} is not itself");
    assert_eq!(uri.as_str(), text);
    let _ = (uri.host(), uri.ip(), uri.socket_addr(), uri.transport(), uri.is_loose(), uri.headers(), uri.params().iter().count());
    if let Some(user) = uri.user().filter(|user| !user.is_empty()) {
        let again = format!("sip:{}@h", escape_user(&user));
        assert_eq!(Uri::parse(&again).expect("an escaped user").user().as_deref(), Some(&*user));
    }
}

/// A session description: as an offer, and as an answer to ours.
pub fn sdp(data: &[u8]) {
    let Ok(description) = Description::parse(data) else { return };
    for stream in description.streams() {
        let _ =
            (stream.address(), stream.direction(), stream.ptime_ms(), stream.codecs().count(), stream.events(), stream.foreign().count());
    }
    let codecs = [Codec::Pcma, Codec::Pcmu, Codec::G722];
    let mut session = Session::new(1, server(), &codecs);
    if let Ok((answer, agreed)) = session.answer(&description, Terms::default()) {
        let answer = Description::parse(&answer).expect("our own answer is read");
        assert_eq!(answer.streams().count(), description.streams().count(), "an answer has as many streams as its offer");
        assert!(codecs.contains(&agreed.codec));
        let again = session.offer(Direction::SendRecv, None, &[]);
        assert!(Description::parse(&again).is_ok());
    }
    let mut session = Session::new(1, server(), &codecs);
    session.offer(Direction::SendRecv, None, &[]);
    let _ = session.accept(&description, Direction::SendRecv);
}

struct One;

impl Accounts for One {
    fn account(&self, auth_user: &str) -> Option<Account> {
        (auth_user == "001565aabbcc-1").then(|| Account {
            user: "2041".into(),
            mac: MacAddr([0, 0x15, 0x65, 0xaa, 0xbb, 0xcc]),
            line: 1,
            generation: 2,
            provisional: false,
            display_name: String::new(),
            secret: Secret::new("opensesame"),
        })
    }
}

/// The value of a digest header: as credentials, which nobody can have right, and as a challenge.
pub fn digest(data: &[u8]) {
    if data.iter().any(|b| matches!(b, b'\r' | b'\n')) {
        return;
    }
    let with = |start: &str, header: &str| {
        let head = format!(
            "{start}\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: 1\r\nCSeq: 1 REGISTER\r\n{header}: "
        );
        Message::parse([head.as_bytes(), data, b"\r\n\r\n"].concat().into())
    };
    if let Ok(request) = with("REGISTER sip:pbx SIP/2.0", "Authorization") {
        let now = Instant::now();
        let mut verifier = Verifier::new(verifier::Config::default(), [7; 32], now);
        let _ = verifier.claims(&request).is_some_and(|claims| claims.user().is_some());
        let refusal = verifier.verify(now, &request, &One).expect_err("nobody knows the nonce");
        let challenge = verifier.challenge(now, &request, &refusal).to_tag("x").encode();
        assert!(Message::parse(challenge).is_ok());
        assert_eq!(verifier.nonces_in_use(), 0);
    }
    if let Ok(challenge) = with("SIP/2.0 401 Unauthorized", "WWW-Authenticate") {
        let mut login = Login::new(Credentials { username: "a\"b".into(), secret: Secret::new("x") });
        if login.handle_challenge(&challenge).is_ok() {
            let (_, value) = login.authorize("REGISTER", "sip:pbx", "c").expect("there was a challenge");
            assert!(header::Auth::parse(value.as_bytes()).is_some_and(|auth| auth.get("username").as_deref() == Some("a\"b")));
        }
    }
}

/// A stream: the first byte says how it is cut.
pub fn framing(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else { return };
    let frames = |cut: usize| {
        let (mut framer, mut frames) = (Framer::new(), Vec::new());
        for chunk in stream.chunks(cut.max(1)) {
            framer.push(chunk);
            loop {
                match framer.next_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(_) => return (frames, true),
                }
            }
        }
        (frames, false)
    };
    let (whole, broken) = frames(usize::MAX);
    let total: usize = whole.iter().map(|frame| if let Frame::Message(bytes) = frame { bytes.len() } else { 2 }).sum();
    assert!(total <= stream.len());
    let (cut, also_broken) = frames(usize::from(*cut));
    if !broken && !also_broken {
        assert_eq!(whole, cut, "however it is cut, the messages are the same");
    }
}

/// Values of single headers.
pub fn header_value(data: &[u8]) {
    let _ = (Via::parse(data).map(|via| via.params().iter().count()), CSeq::parse(data).is_ok(), Contact::parse(data).is_ok());
    let _ = (header::Auth::parse(data).map(|auth| auth.iter().count()), Params::new(data).iter().count());
    if let Ok(address) = NameAddr::parse(data) {
        let _ = (address.display_name(), address.uri().is_ok(), address.tag(), address.params().iter().count());
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = unquote(text);
        if !text.chars().any(char::is_control) {
            assert_eq!(unquote(&quote(text)), text);
        }
    }
}

/// Replaces, as a header and in a URI.
pub fn replaces(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(replaces) = Replaces::parse(text) {
        assert!(text.contains(&replaces.dialog.call_id));
    }
    let _ = Replaces::in_uri(text);
}

/// A datagram of DHCP. What is encoded of its options is read again.
pub fn dhcp(data: &[u8]) {
    let _ = options::sub_options(data).count();
    let Ok(packet) = Packet::parse(data) else { return };
    let _ = (
        packet.message_type(),
        packet.head.mac(),
        packet.head.hardware(),
        packet.options.get(82).map(|value| options::sub_option(value, 1)),
    );
    if let Some(mac) = packet.head.mac() {
        let _ = lease::ClientKey::new(packet.options.get(61), mac);
    }
    let again: Vec<_> = packet.options.iter().map(|(code, value)| (code, value.to_vec())).collect();
    let _ = options::encode(&packet.head, &again, 1400);
}

/// A datagram of DHCPv6 to a server, as if from a client and as if from a relay: answers go to whoever asked.
pub fn dhcp6(data: &[u8]) {
    let prefix = "fd00:77::/64".parse().expect("a prefix");
    let pool = Some("fd00:77::10-fd00:77::1f".parse().expect("a pool"));
    let subnet = v6::settings::SubnetSettings { prefix, pool, domains: vec!["office.example".into()], ..Default::default() };
    let settings = v6::Settings { mode: v6::settings::Mode::Server, subnets: vec![subnet], ..Default::default() };
    let classify = |facts: &v6::ClientFacts<'_>| v6::Class {
        phone: facts.mac.is_some(),
        boot_file_url: facts.server.map(|server| format!("http://[{server}]")),
        ..Default::default()
    };
    let locals = ["fe80::1", "fd00:77::1"].map(|address| address.parse().expect("an address"));
    let config = settings.check().expect("settings");
    let duid = b"\0\x04the-server-itself".to_vec();
    let view = LeaseView::default();
    let mut server = v6::server::Server::new(config, Arc::new(classify), duid, vec![], locals.to_vec(), view, Timestamp(0));
    for source in ["fe80::2", "fd00:77::2"] {
        let source = source.parse().expect("an address");
        let arrival = v6::server::Arrival { link: 1, locals: &locals, destination: v6::ALL_SERVERS_AND_RELAYS, source };
        server.handle_packet(Timestamp(0), &arrival, data);
        while let Some(action) = server.poll_action() {
            match action {
                v6::server::Action::Send(answer) => assert!(*answer.to.ip() == source && answer.bytes.len() > 4),
                v6::server::Action::Commit { id, .. } => server.handle_committed(Timestamp(0), id, Ok(())),
                v6::server::Action::Tell(_) => {}
            }
        }
    }
}

/// A datagram of TFTP: by itself, as a request, and in the middle of a download and of an upload.
pub fn tftp(data: &[u8]) {
    let _ = (TftpRequest::parse(data).is_ok(), TftpPacket::parse(data).is_some(), netascii::decode(data.to_vec()));
    let mut transfers = Transfers::new(Default::default(), Slots::new(8, 8));
    let (mut now, mut packet) = (Instant::now(), Vec::new());
    let requests = [data, b"\0\x01x\0octet\0blksize\x008\0windowsize\x004\0", b"\0\x02x\0netascii\0"];
    for (request, port) in requests.iter().zip(1000..) {
        let Ok(request) = TftpRequest::parse(request) else { continue };
        let way = Way { peer: SocketAddr::from(([192, 0, 2, 1], port)), local: phone() };
        assert_eq!(transfers.handle_request(now, way, request), Taken::Begun);
    }
    for _ in 0..20 {
        let mut sent = 0;
        loop {
            for port in 0..PORTS {
                while transfers.poll_transmit(now, port, &mut packet).is_some() {
                    sent += 1;
                }
            }
            match transfers.poll_effect() {
                None => break,
                Some(Effect::Ask { id, .. }) => {
                    let body = Body::Whole(Bytes::from_static(&[b'\n'; 100]));
                    let file = ServedFile { body, content_type: String::new(), hash: String::new(), mac: None };
                    transfers.handle_answer(now, id, FileAnswer::Found(file));
                }
                Some(Effect::MayUpload { id, .. }) => transfers.handle_limit(now, id, Some(100)),
                Some(Effect::Store { id, body, .. }) => {
                    assert!(body.len() <= 100);
                    transfers.handle_stored(now, id, true);
                }
                Some(Effect::Read { .. }) => panic!("no file is on the disk"),
                Some(Effect::Ended(_)) => {}
            }
        }
        assert!(sent <= 3 * 64, "{sent} packets for one");
        for (port, peer) in (0..PORTS).flat_map(|port| (1000..1003).map(move |peer| (port, peer))) {
            transfers.handle_packet(now, port, SocketAddr::from(([192, 0, 2, 1], peer)), data);
        }
        now = transfers.poll_timeout().map_or(now, |wake| wake.max(now));
        transfers.handle_timeout(now);
    }
    // Everybody was silent, but for what never changes.
    for _ in 0..100 {
        now += Duration::from_secs(300);
        transfers.handle_timeout(now);
        (0..PORTS).for_each(|port| while transfers.poll_transmit(now, port, &mut packet).is_some() {});
    }
    assert!(transfers.is_empty(), "{} never end", transfers.len());
}

/// A path as any door gets it, and as headers of HTTP: line by line the path, Range, If-None-Match.
pub fn http(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.lines();
    let path = lines.next().unwrap_or_default();
    if let Some(decoded) = files::percent_decode(path) {
        assert!(decoded.len() <= path.len());
        if let Ok(asked) = Asked::parse(&decoded) {
            assert!(!asked.path.is_empty() && asked.path.split('/').all(|part| !matches!(part, "" | "." | "..")), "{:?}", asked.path);
        }
    }
    let len = data.len();
    if let range::Wanted::Part(part) = range::wanted(lines.next(), len) {
        assert!(part.start < part.end && part.end <= len, "{part:?} of {len}");
    }
    let held = lines.next().map(str::to_owned);
    let request = FileRequest {
        door: Door::Http,
        path: path.to_owned(),
        query: Default::default(),
        source: phone().ip(),
        local: None,
        user_agent: None,
        held,
        certified: None,
        head: false,
    };
    let _ = request.holds("hash");
}

/// A line of an FTP control connection, before and after the log-in.
pub fn ftp(data: &[u8]) {
    let mut session = Ftp::new("PlcmSpIp", &Secret::new("PlcmSpIp"), phone().ip());
    for line in [data, b"USER PlcmSpIp", b"PASS PlcmSpIp", data] {
        let _ = session.handle(Command::parse(line));
    }
}

/// A datagram to the multicast group of SIP plug and play. What is answered is good SIP.
pub fn pnp(data: &[u8]) {
    let SocketAddr::V4(source) = phone() else { return };
    let SocketAddr::V4(local) = server() else { return };
    let Some(ask) = Ask::parse(Bytes::copy_from_slice(data), source) else { return };
    let answers = [ask.accepted(local, "ours"), ask.told(local, "ours", "z9hG4bKx", "http://192.0.2.1")];
    for answer in answers {
        let answer = Message::parse(answer).expect("what we send can be read");
        assert!(answer.call_id().is_ok());
    }
}

/// A datagram on a port for sound, or one that asks for its address.
pub fn media(data: &[u8]) {
    if let Ok(packet) = rtp::Packet::parse(data) {
        assert!(packet.payload.len() <= data.len());
        let _ = telephone_event::Event::parse(packet.payload);
    }
    let _ = (rtcp::parse(data).is_ok(), rtp::is_rtcp(data));
    if stun::is_stun(data) {
        let _ = stun::answer(data, phone());
    }
}
