//! Messages that are malformed, too large or too deep, by datagram and by connection.

use plugtone::sip::{Message, Name};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Duration, timeout},
};

use super::{
    bed, forgets,
    phone::{Phone, status},
};
use crate::{
    call::Bed,
    rfc::rfc4475::{Outcome, TABLE, vector},
};

/// Sends bytes on a connection of their own, and hangs up.
async fn sent_by_tcp(bed: &Bed, bytes: &[u8]) {
    let mut stream = TcpStream::connect(bed.running.tcp[0]).await.expect("a connection");
    let _ = stream.write_all(bytes).await;
}

/// The same, and waits for the first line of an answer; empty where the server hangs up instead.
async fn said_by_tcp(bed: &Bed, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(bed.running.tcp[0]).await.expect("a connection");
    let _ = stream.write_all(bytes).await;
    let mut said = [0; 65_535];
    let len = timeout(Duration::from_secs(10), stream.read(&mut said)).await.expect("an answer").unwrap_or(0);
    String::from_utf8_lossy(&said[..len]).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_via_stops_the_server() {
    let bed = bed().await;
    let mut phone = Phone::new(&bed, 1).await;
    let long = "x".repeat(30_000);
    let many = "SIP/2.0/UDP h;branch=z9hG4bK1,".repeat(1000);
    for via in [
        "",
        " ",
        "SIP",
        "SIP/2.0",
        "SIP/2.0/UDP",
        "SIP/2.0/UDP ",
        "SIP/2.0/UDP ;branch=z9hG4bK1",
        "SIP/2.0/UDP :5060",
        "SIP/2.0/UDP h:",
        "SIP/2.0/UDP h:99999",
        "SIP/2.0/UDP h:-1;branch=z9hG4bK1",
        "SIP/2.0/UDP h:0;branch=z9hG4bK1",
        "SIP/2.0/UDP [::1",
        "SIP/2.0/UDP ]:5060",
        "SIP/2.0/UDP [::1]x;branch",
        "SIP/2.0/UDP h;branch",
        "SIP/2.0/UDP h;branch=",
        "SIP/2.0/UDP h;branch=z9hG4bK",
        "SIP/2.0/UDP h;branch=\"",
        "SIP/2.0/UDP h;branch=z9hG4bK1;rport=x;received=y",
        "SIP/2.0/UDP h;rport=99999999999;branch=z9hG4bK1",
        "SIP/2.0/UDP 255.255.255.255;branch=z9hG4bK1;maddr=239.255.255.1;ttl=999",
        "SIP/2.0/UDP 0.0.0.0:0;branch=z9hG4bK1",
        "SIP / 2.0 / UDP h ; branch = z9hG4bK1",
        "SIP/7.0/UDP h;branch=z9hG4bK1",
        "\u{0}/\u{0}/\u{0} \u{0}",
        ",,,,;;;;",
        "SIP/2.0/UDP h;branch=z9hG4bK1,",
        ",SIP/2.0/UDP h;branch=z9hG4bK1",
        "SIP/2.0/UDP h\r\n ;branch=z9hG4bK1\r\n\t;x",
        "\u{feff}SIP/2.0/UDP \u{202e}h;branch=\u{1f4a9}",
        &long,
        &format!("SIP/2.0/UDP {long};branch=z9hG4bK{long}"),
        &many,
    ] {
        for method in ["OPTIONS", "INVITE", "ACK", "CANCEL", "BYE", "REGISTER"] {
            let mut draft = phone.draft(method, "2042");
            draft.via = via.to_owned();
            let text = draft.text();
            phone.send(&text).await;
            if method == "OPTIONS" {
                sent_by_tcp(&bed, text.as_bytes()).await;
                // An answer, too, is read.
                sent_by_tcp(&bed, text.replacen(&format!("OPTIONS {} SIP/2.0", draft.uri), "SIP/2.0 200 OK", 1).as_bytes()).await;
            }
        }
        phone.is_answered().await;
    }
    assert!(bed.running.handle.list().await.is_empty());
    forgets(&bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_torture_messages_are_answered_over_sockets() {
    let bed = bed().await;
    let mut phone = Phone::new(&bed, 1).await;
    for (name, outcome, why) in TABLE {
        phone.send(vector(name)).await;
        let said = phone.is_answered().await;
        // What comes again of a message before has that one's Call-ID.
        let call_id = Message::parse(vector(name)).ok().and_then(|message| message.call_id().map(str::to_owned).ok());
        let answers: Vec<_> = said.iter().filter(|answer| answer.call_id().ok() == call_id.as_deref()).map(status).collect();
        match outcome {
            Outcome::Refused(expected) => assert_eq!(answers, [*expected], "{name}: {why}"),
            // Who calls is asked for a password first; within a dialog there is none that it could be about.
            Outcome::Served(200) => assert_eq!(answers, [200], "{name}: {why}"),
            Outcome::Served(_) => assert!(matches!(answers.last(), Some(401 | 481)), "{name}: {why}: {answers:?}"),
            Outcome::Dropped => assert!(answers.is_empty(), "{name}: {why}: {answers:?}"),
        }
    }
    phone.is_answered().await;
    // By connections to another: to this one they would be repetitions.
    let bed = self::bed().await;
    let mut phone = Phone::new(&bed, 1).await;
    for (name, outcome, _) in TABLE {
        if *outcome == Outcome::Dropped {
            sent_by_tcp(&bed, &vector(name)).await;
            continue;
        }
        let said = said_by_tcp(&bed, &vector(name)).await;
        match outcome {
            // The length is what divides messages there: without a right one the connection is cut off.
            _ if ["clerr", "ncl", "mcl01"].contains(name) => assert_eq!(said, "", "{name} by TCP"),
            Outcome::Refused(expected) => assert!(said.starts_with(&format!("SIP/2.0 {expected} ")), "{name} by TCP: {said}"),
            _ => assert!(said.starts_with("SIP/2.0 "), "{name} by TCP: {said}"),
        }
    }
    phone.is_answered().await;
    assert!(bed.running.handle.list().await.is_empty());
    forgets(&bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_and_deep_messages_cost_their_bytes_only() {
    let bed = bed().await;
    let mut phone = Phone::new(&bed, 1).await;
    let fill = |unit: &str| unit.repeat(60_000 / unit.len());
    // Each within the other: a reader that calls itself for each runs out of stack.
    let nested: String = (0..900).map(|n| format!("--b{n}\r\nContent-Type: multipart/mixed;boundary=b{}\r\n\r\n", n + 1)).collect();
    for (story, draft, expected) in [
        ("60 KB in one Via", phone.draft("OPTIONS", "").with(&format!("Via: {}", fill("SIP/2.0/UDP h;branch=1,"))), 200),
        ("60 KB of parameters", phone.draft("OPTIONS", "").with(&format!("Subject: {}", fill(";a=b"))), 200),
        ("60 KB of continuation lines", phone.draft("OPTIONS", "").with(&format!("Subject: a{}", fill("\r\n b"))), 200),
        ("nested multiparts", phone.draft("INVITE", "2042").carrying("multipart/mixed;boundary=b0", &nested), 480),
        (
            "a session description of 60 KB",
            phone.draft("INVITE", "2042").carrying("application/sdp", &fill("m=audio 9 RTP/AVP 0\r\n")),
            480,
        ),
    ] {
        let mut draft = draft;
        let answer = status(&phone.does(&mut draft).await);
        assert!(answer == expected || (expected == 480 && matches!(answer, 480 | 488 | 400 | 415)), "{story}: {answer}");
        assert!(phone.is_answered().await.is_empty(), "{story}");
    }
    for line in ["Via: SIP/2.0/UDP h;branch=1\r\n", "Route: <sip:a;lr>\r\n", "X-Y: abcdefgh\r\n"] {
        // More headers than a message may have: nobody reads it.
        let draft = phone.draft("OPTIONS", "").with(fill(line).trim_end());
        phone.send(draft.text()).await;
        assert!(phone.is_answered().await.is_empty(), "60 KB of {line}");
    }
    // A number that is rung, so that the description is read.
    let mut callee = Phone::new(&bed, 2).await;
    callee.registers().await;
    for body in [
        nested.clone(),
        fill("m=audio 9 RTP/AVP 0\r\n"),
        fill("a=rtpmap:0 PCMU/8000\r\n"),
        format!("v=0\r\n{}", fill("c=IN IP4 127.0.0.1\r\n")),
    ] {
        let kind = if body.starts_with("--") { "multipart/mixed;boundary=b0" } else { "application/sdp" };
        let mut draft = phone.draft("INVITE", "2042").carrying(kind, &body);
        let answer = status(&phone.does(&mut draft).await);
        assert!(matches!(answer, 400 | 415 | 488), "{answer}");
    }
    // 64 KB are more than a datagram takes and more than a message may have: no connection either.
    let vias = "Via: SIP/2.0/TCP h;branch=z9hG4bKx\r\n".repeat(1900);
    let said = said_by_tcp(&bed, format!("OPTIONS sip:a SIP/2.0\r\n{vias}Content-Length: 0\r\n\r\n").as_bytes()).await;
    assert_eq!(said, "");
    assert!(phone.is_answered().await.is_empty());
    let known = callee.is_answered().await;
    assert!(known.iter().all(|message| message.header(Name::From).is_none()), "nobody was rung: {known:?}");
    forgets(&bed).await;
}
