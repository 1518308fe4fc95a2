//! SIP over WebSocket (RFC 7118): handshakes, frames in pieces, pings, and a phone in a browser that is called.

use std::{process::Stdio, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use plugtone::sip::{
    Flow, Transmit, Transport,
    transport::{Config, Inbound, Transports},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    sync::mpsc::Receiver,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest, protocol::frame::coding::CloseCode},
};

use crate::sip_transport::{OPTIONS, config, local, message, next};

fn start(change: impl FnOnce(&mut Config)) -> (Transports, Receiver<Inbound>) {
    let mut config = Config { udp: vec![], tcp: vec![], ws: vec![local(0)], max_connections_per_source: 10, ..config() };
    change(&mut config);
    Transports::bind(config, &tokio::runtime::Handle::current()).expect("bound")
}

/// A connection by the library that the server uses too; for what other clients do not show.
async fn connect(transports: &Transports, protocol: Option<&str>, origin: Option<&str>) -> Result<WebSocketStream<TcpStream>, Error> {
    let at = transports.addresses(Transport::Ws)[0];
    let mut request = format!("ws://{at}/").into_client_request()?;
    for (name, value) in [("Sec-WebSocket-Protocol", protocol), ("Origin", origin)] {
        if let Some(value) = value {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
    }
    let stream = TcpStream::connect(at).await?;
    Ok(client_async(request, stream).await?.0)
}

#[tokio::test]
async fn only_sip_and_only_our_pages_are_let_in() {
    let (transports, _inbox) = start(|config| config.web_origins = vec!["https://phone.example.com".into()]);
    for (protocol, origin, status) in [
        (Some("sip"), Some("https://phone.example.com"), None),
        (Some("chat, sip"), Some("https://Phone.example.com"), None),
        (Some("sip"), None, None),
        (None, None, Some(400)),
        (Some("chat"), None, Some(400)),
        (Some("sip"), Some("https://evil.example.com"), Some(403)),
        (Some("sip"), Some("null"), Some(403)),
    ] {
        let refused = match connect(&transports, protocol, origin).await {
            Ok(_) => None,
            Err(Error::Http(response)) => Some(response.status().as_u16()),
            Err(other) => panic!("{protocol:?} {origin:?}: {other}"),
        };
        assert_eq!(refused, status, "{protocol:?} {origin:?}");
    }
    // Who speaks no HTTP.
    let mut stranger = TcpStream::connect(transports.addresses(Transport::Ws)[0]).await.unwrap();
    stranger.write_all(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n").await.unwrap();
    let _ = timeout(Duration::from_secs(10), stranger.read_to_end(&mut Vec::new())).await.expect("cut off");
}

#[tokio::test]
async fn a_message_is_a_frame_whatever_it_was_cut_into() {
    let (transports, mut inbox) = start(|_| {});
    let script = r#"
import asyncio, sys, websockets
OPTIONS = b"OPTIONS sip:a SIP/2.0\r\nContent-Length: 3\r\n\r\nabc"
async def main():
    ws = await websockets.connect(sys.argv[1], subprotocols=["sip"], ping_interval=None)
    await ws.send(OPTIONS.decode())
    await ws.send(OPTIONS)
    await ws.send("\r\n\r\n")
    assert await ws.recv() == "\r\n"
    # The server sends its own when it has three.
    await ws.send([OPTIONS[i:i + 1] for i in range(len(OPTIONS))])
    await asyncio.wait_for(await ws.ping(), 10)
    assert await ws.recv() == OPTIONS.decode()
    binary = await ws.recv()
    assert binary == b"INFO sip:a SIP/2.0\r\n\r\n\xff", binary
    await ws.send("x" * 65536)
    try:
        await asyncio.wait_for(ws.recv(), 10)
    except websockets.ConnectionClosed as closed:
        assert closed.rcvd.code == 1009, closed
        print("too long")
asyncio.run(main())
"#;
    let url = format!("ws://{}/", transports.addresses(Transport::Ws)[0]);
    let mut browser = Command::new("/usr/bin/python3");
    let browser = browser.args(["-c", script, &url]).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let browser = browser.spawn().expect("cannot run python3: install the Debian packages python3 and python3-websockets");
    let mut from = None;
    for _ in 0..3 {
        let (flow, bytes) = message(&mut inbox).await;
        assert_eq!((&bytes[..], flow.transport), (OPTIONS, Transport::Ws));
        from = Some(flow);
    }
    let flow = from.expect("a flow");
    assert!(transports.send(Transmit { flow, bytes: Bytes::from_static(OPTIONS) }));
    assert!(transports.send(Transmit { flow, bytes: Bytes::from_static(b"INFO sip:a SIP/2.0\r\n\r\n\xff") }));
    let done = timeout(Duration::from_secs(20), browser.wait_with_output()).await.expect("in time").expect("its words");
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), "too long", "{}", String::from_utf8_lossy(&done.stderr));
    assert!(matches!(next(&mut inbox).await, Inbound::Closed { flow: closed } if closed == flow));
    assert!(!transports.send(Transmit { flow, bytes: Bytes::from_static(OPTIONS) }));
    // A browser that went away is not called back.
    assert!(!transports.send(Transmit { flow: Flow::of(Transport::Ws, flow.local, flow.peer), bytes: Bytes::from_static(OPTIONS) }));
}

#[tokio::test]
async fn a_browser_that_sleeps_is_noticed_and_one_that_answers_stays() {
    let (transports, mut inbox) = start(|config| config.web_ping = Duration::from_millis(300));
    let mut awake = connect(&transports, Some("sip"), None).await.expect("let in");
    let asleep = connect(&transports, Some("sip"), None).await.expect("let in");
    let sleeper = asleep.get_ref().local_addr().unwrap();
    let mut pings = 0;
    let closed = loop {
        tokio::select! {
            // Reading is what answers pings.
            frame = awake.next() => {
                assert!(matches!(frame, Some(Ok(Message::Ping(_)))), "{frame:?}");
                pings += 1;
            }
            inbound = next(&mut inbox) => break inbound,
        }
    };
    assert!(matches!(closed, Inbound::Closed { flow } if flow.peer == sleeper));
    while pings < 4 {
        assert!(matches!(timeout(Duration::from_secs(10), awake.next()).await.expect("a ping"), Some(Ok(Message::Ping(_)))));
        pings += 1;
    }
    awake.send(Message::text(std::str::from_utf8(OPTIONS).unwrap())).await.unwrap();
    assert_eq!(&message(&mut inbox).await.1[..], OPTIONS);

    // A frame that trickles in for ever leaves no room for a pong.
    let mut slow = connect(&transports, Some("sip"), None).await.expect("let in").into_inner();
    slow.write_all(&[0x81, 0xfe, 0x40, 0x00, 0, 0, 0, 0]).await.unwrap();
    let drip = async {
        while slow.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await
        }
    };
    timeout(Duration::from_secs(10), drip).await.expect("cut off");
    // It says good-bye where it is asked to go.
    awake.close(None).await.unwrap();
    while let Some(frame) = awake.next().await {
        if let Ok(Message::Close(frame)) = frame {
            assert!(frame.is_none_or(|frame| frame.code == CloseCode::Normal));
        }
    }
}
