//! SIP over real sockets on the loopback: source addresses, streams in pieces, pings, limits, broken connections.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use plugtone::sip::{
    Flow, Transmit, Transport,
    transport::{Config, Inbound, Transports, socket::BindError},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::mpsc::Receiver,
    time::timeout,
};

pub const OPTIONS: &[u8] = b"OPTIONS sip:a SIP/2.0\r\nContent-Length: 3\r\n\r\nabc";

/// UDP and TCP on free ports, with limits that are easily met.
pub fn config() -> Config {
    Config {
        udp: vec!["0.0.0.0:0".parse().unwrap(), "[::1]:0".parse().unwrap()],
        tcp: vec!["0.0.0.0:0".parse().unwrap()],
        tls: vec![],
        ws: vec![],
        wss: vec![],
        group: None,
        identity: None,
        web_origins: vec![],
        web_ping: Duration::from_secs(25),
        max_connections: 10,
        max_connections_per_source: 3,
        max_messages_per_source: 0,
        unlimited: vec![],
        handshake_time: Duration::from_secs(10),
        message_time: Duration::from_secs(20),
        idle: Duration::from_secs(3700),
    }
}

pub fn bind(config: Config) -> Result<(Transports, Receiver<Inbound>), BindError> {
    Transports::bind(config, &tokio::runtime::Handle::current())
}

pub async fn next(inbox: &mut Receiver<Inbound>) -> Inbound {
    timeout(Duration::from_secs(10), inbox.recv()).await.expect("in time").expect("open")
}

pub async fn message(inbox: &mut Receiver<Inbound>) -> (Flow, Bytes) {
    match next(inbox).await {
        Inbound::Message { flow, bytes } => (flow, bytes),
        other => panic!("{other:?}"),
    }
}

pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[tokio::test]
async fn answers_leave_from_the_address_that_was_asked() {
    let (transports, mut inbox) = bind(config()).unwrap();
    let port = transports.udp_addresses()[0].port();
    let phone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // Two addresses of one host: the kernel alone would answer both from 127.0.0.1.
    for server in ["127.0.0.1", "127.0.0.77"] {
        let server = SocketAddr::new(server.parse().unwrap(), port);
        phone.send_to(OPTIONS, server).await.unwrap();
        let (flow, bytes) = message(&mut inbox).await;
        assert_eq!((flow.local, flow.peer, &bytes[..]), (server, phone.local_addr().unwrap(), OPTIONS));
        assert!(transports.send(Transmit { flow, bytes: Bytes::from(vec![b'x'; 60_000]) }), "large answers too");
        let mut buffer = vec![0; 65_535];
        let (len, from) = timeout(Duration::from_secs(10), phone.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!((len, from), (60_000, server));
    }
    let six = UdpSocket::bind("[::1]:0").await.unwrap();
    six.send_to(OPTIONS, transports.udp_addresses()[1]).await.unwrap();
    let (flow, bytes) = message(&mut inbox).await;
    assert!(transports.send(Transmit { flow, bytes }));
    let mut buffer = [0; 100];
    assert_eq!(timeout(Duration::from_secs(10), six.recv(&mut buffer)).await.unwrap().unwrap(), OPTIONS.len());
}

#[tokio::test]
async fn streams_are_cut_answered_and_limited() {
    let (transports, mut inbox) = bind(config()).unwrap();
    let port = transports.addresses(Transport::Tcp)[0].port();
    let mut phone = TcpStream::connect(local(port)).await.unwrap();
    for piece in [OPTIONS, b"\r\n\r\n", OPTIONS].concat().chunks(7) {
        phone.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let (flow, first) = message(&mut inbox).await;
    let (_, second) = message(&mut inbox).await;
    assert_eq!((&first[..], &second[..], flow.transport), (OPTIONS, OPTIONS, Transport::Tcp));
    let mut pong = [0; 2];
    timeout(Duration::from_secs(10), phone.read_exact(&mut pong)).await.unwrap().unwrap();
    assert_eq!(&pong, b"\r\n");
    assert!(transports.send(Transmit { flow, bytes: Bytes::from_static(OPTIONS) }));
    let mut answer = vec![0; OPTIONS.len()];
    timeout(Duration::from_secs(10), phone.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, OPTIONS);
    // The same connection is found by its peer alone.
    assert!(transports.send(Transmit { flow: Flow::tcp(flow.local, flow.peer), bytes: Bytes::from_static(OPTIONS) }));
    timeout(Duration::from_secs(10), phone.read_exact(&mut answer)).await.unwrap().unwrap();

    // Three from one address, and no more.
    let others = [TcpStream::connect(local(port)).await.unwrap(), TcpStream::connect(local(port)).await.unwrap()];
    let mut fourth = TcpStream::connect(local(port)).await.unwrap();
    assert_eq!(timeout(Duration::from_secs(10), fourth.read(&mut pong)).await.unwrap().unwrap_or(0), 0, "closed at once");
    assert_eq!(transports.connections(), 3);
    drop(others);
    for _ in 0..2 {
        assert!(matches!(next(&mut inbox).await, Inbound::Closed { .. }));
    }
    // Who talks no SIP is cut off; what is sent there afterwards fails.
    phone.write_all(b"\x16\x03\x01\x00\x00").await.unwrap();
    assert!(matches!(next(&mut inbox).await, Inbound::Closed { flow: closed } if closed == flow));
    assert!(!transports.send(Transmit { flow, bytes: Bytes::from_static(OPTIONS) }));
}

#[tokio::test]
async fn connections_are_made_where_there_is_none() {
    let (transports, mut inbox) = bind(config()).unwrap();
    let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let flow = transports.flow_to(Transport::Tcp, far.local_addr().unwrap()).unwrap();
    assert_eq!(flow.local, local(transports.addresses(Transport::Tcp)[0].port()));
    assert!(transports.send(Transmit { flow, bytes: Bytes::from_static(OPTIONS) }));
    let (mut stream, _) = timeout(Duration::from_secs(10), far.accept()).await.unwrap().unwrap();
    let mut got = vec![0; OPTIONS.len()];
    timeout(Duration::from_secs(10), stream.read_exact(&mut got)).await.unwrap().unwrap();
    stream.write_all(OPTIONS).await.unwrap();
    assert_eq!(message(&mut inbox).await.0.peer, flow.peer);
    drop(stream);
    assert!(matches!(next(&mut inbox).await, Inbound::Closed { .. }));
    drop(far);
    assert!(transports.send(Transmit { flow, bytes: Bytes::from_static(OPTIONS) }));
    assert!(matches!(next(&mut inbox).await, Inbound::Closed { flow: closed } if closed.peer == flow.peer), "nobody there any more");
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_by_name() {
    let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let _held = UdpSocket::bind(taken).await.unwrap();
    let error = bind(Config { udp: vec![taken], ..config() }).err().expect("it is taken");
    assert!(error.to_string().contains(&taken.to_string()) && error.to_string().contains("sip.udp"), "{error}");
}

#[tokio::test]
async fn phones_learn_their_address_on_the_sip_port() {
    let (transports, _inbox) = bind(Config { udp: vec![local(0)], ..config() }).unwrap();
    let at = transports.udp_addresses()[0];
    // Debian's client speaks RFC 3489; `-v` is what makes it print.
    let mut stun = tokio::process::Command::new("stun");
    stun.args([&at.to_string(), "1", "-v"]).stdin(std::process::Stdio::null());
    let said = timeout(Duration::from_secs(30), stun.output()).await.expect("in time");
    let said = said.expect("cannot run stun: install the Debian package stun-client");
    let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    assert!(said.contains("MappedAddress = 127.0.0.1:"), "{said}");

    let phone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], b"transaction0"].concat();
    for rubbish in [
        &b"\x00\x01\x00\x08\x21\x12\xa4\x42transaction0"[..],
        &[0; 20],
        &[1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        phone.send_to(rubbish, at).await.unwrap();
    }
    phone.send_to(&request, at).await.unwrap();
    let mut answer = [0; 100];
    let len = timeout(Duration::from_secs(10), phone.recv(&mut answer)).await.unwrap().unwrap();
    let port = (u16::from_be_bytes([answer[26], answer[27]]) ^ 0x2112).to_be_bytes();
    assert_eq!((len, &answer[..2], port), (32, &[1, 1][..], phone.local_addr().unwrap().port().to_be_bytes()));
}

#[tokio::test]
async fn who_sends_too_much_is_bounded_and_nobody_else_is() {
    let limits = Config { max_messages_per_source: 10, unlimited: vec!["127.0.0.2/32".parse().unwrap()], ..config() };
    let (transports, mut inbox) = bind(limits).unwrap();
    let (udp, tcp) = (local(transports.udp_addresses()[0].port()), local(transports.addresses(Transport::Tcp)[0].port()));
    let mut counts = [0; 3];
    for (phone, source) in ["127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0"].into_iter().enumerate() {
        let socket = UdpSocket::bind(source).await.unwrap();
        // The last is a phone like others; it comes from another port each time.
        for n in 0..if phone == 2 { 20 } else { 300 } {
            let fresh = UdpSocket::bind(source).await.unwrap();
            let from = if phone == 2 { &fresh } else { &socket };
            from.send_to(OPTIONS, udp).await.unwrap();
            if n % 20 == 19 {
                while let Ok(Some(_)) = timeout(Duration::from_millis(30), inbox.recv()).await {
                    counts[phone] += 1;
                }
            }
        }
    }
    assert!((100..200).contains(&counts[0]), "{counts:?}");
    assert_eq!(counts[1..], [300, 20]);

    // A stream is read more slowly instead: all arrives, nothing is lost.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.4:0".parse().unwrap()).unwrap();
    let mut stream = socket.connect(tcp).await.unwrap();
    let start = std::time::Instant::now();
    stream.write_all(&OPTIONS.repeat(108)).await.unwrap();
    for _ in 0..108 {
        message(&mut inbox).await;
    }
    assert!(start.elapsed() > Duration::from_millis(400), "{:?}", start.elapsed());
}

#[tokio::test]
async fn lies_about_length_and_endless_headers_hold_nothing() {
    let limits = Config { message_time: Duration::from_millis(700), max_connections_per_source: 10, ..config() };
    let (transports, mut inbox) = bind(limits).unwrap();
    let at = local(transports.addresses(Transport::Tcp)[0].port());
    let vias = "Via: SIP/2.0/TCP 10.0.0.1;branch=z9hG4bKx\r\n".repeat(1600);
    for (story, bytes, endless) in [
        ("4 GB announced", "OPTIONS sip:a SIP/2.0\r\nContent-Length: 4294967295\r\n\r\n".to_owned(), false),
        ("beyond any number", "OPTIONS sip:a SIP/2.0\r\nl: 99999999999999999999999\r\n\r\n".to_owned(), false),
        ("two lengths", "OPTIONS sip:a SIP/2.0\r\nl: 3\r\nContent-Length: 4\r\n\r\nabcd".to_owned(), false),
        ("64 KB of Via", format!("OPTIONS sip:a SIP/2.0\r\n{vias}l: 0\r\n\r\n"), false),
        ("headers without end", "OPTIONS sip:a SIP/2.0\r\n".to_owned(), true),
        ("a body that never comes", "OPTIONS sip:a SIP/2.0\r\nContent-Length: 50\r\n\r\n".to_owned(), false),
        ("a byte now and then", "O".to_owned(), true),
    ] {
        let mut phone = TcpStream::connect(at).await.unwrap();
        let _ = phone.write_all(bytes.as_bytes()).await;
        let more: &[u8] = if story.starts_with("headers") { &[b'x'; 4000] } else { b"x" };
        let cut = async {
            while endless && phone.write_all(more).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let _ = phone.read(&mut [0; 1]).await;
        };
        timeout(Duration::from_secs(10), cut).await.unwrap_or_else(|_| panic!("{story}: not cut off"));
        assert!(matches!(next(&mut inbox).await, Inbound::Closed { .. }), "{story}: told as a message");
    }
    assert_eq!(transports.connections(), 0);
    let mut honest = TcpStream::connect(at).await.unwrap();
    honest.write_all(OPTIONS).await.unwrap();
    assert_eq!(&message(&mut inbox).await.1[..], OPTIONS);
}
