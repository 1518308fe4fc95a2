//! Connections that lie about lengths, or take their time.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{bed, bed_patient, forgets, phone::Phone};

const OPTIONS: &str = "OPTIONS sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bK#\r\nFrom: <sip:a@b>;tag=1\r\n\
                       To: <sip:127.0.0.1>\r\nCall-ID: #\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";

/// A whole answer to the OPTIONS with this number.
async fn is_answered(stream: &mut TcpStream, number: u32) {
    stream.write_all(OPTIONS.replace('#', &number.to_string()).as_bytes()).await.expect("written");
    let mut said = String::new();
    while !(said.contains("SIP/2.0 200 OK") && said.ends_with("\r\n\r\n")) {
        let mut buffer = [0; 4096];
        let len = timeout(Duration::from_secs(10), stream.read(&mut buffer)).await.expect("an answer").expect("read");
        assert_ne!(len, 0, "closed after {said:?}");
        said.push_str(&String::from_utf8_lossy(&buffer[..len]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_about_length_cost_a_connection_only() {
    let bed = bed().await;
    let mut phone = Phone::new(&bed, 1).await;
    let with = |header: &str| OPTIONS.replace("Content-Length: 0", header);
    for (story, bytes, endless) in [
        ("4 GB announced", with("Content-Length: 4294967295"), false),
        ("4 GB announced and sent as long as one may", with("Content-Length: 4294967295"), true),
        ("beyond 64 bits", with("Content-Length: 99999999999999999999999"), false),
        ("less than nothing", with("Content-Length: -1"), false),
        ("two lengths", with("Content-Length: 0\r\nl: 4"), false),
        ("more than comes", with("Content-Length: 40"), false),
        ("headers without end", "OPTIONS sip:a SIP/2.0\r\nX: ".to_owned(), true),
        ("header lines without end", "OPTIONS sip:a SIP/2.0\r\nX: a\r\n".to_owned(), true),
    ] {
        let mut stream = TcpStream::connect(bed.running.tcp[0]).await.expect("a connection");
        stream.write_all(bytes.as_bytes()).await.expect("written");
        let mut sent = 0;
        let cut = async {
            while endless && stream.write_all(&b"X: abcd\r\n".repeat(400)).await.is_ok() {
                sent += 3600;
            }
            let mut said = Vec::new();
            let _ = stream.read_to_end(&mut said).await;
        };
        timeout(Duration::from_secs(10), cut).await.unwrap_or_else(|_| panic!("{story}: not cut off after {sent} bytes"));
        // What the kernel takes on both sides is more than what we read.
        assert!(sent < 20 << 20, "{story}: {sent} bytes were taken");
        assert!(phone.is_answered().await.is_empty(), "{story}");
    }
    // Less than comes: what is over is another message, which is none.
    let mut stream = TcpStream::connect(bed.running.tcp[0]).await.expect("a connection");
    is_answered(&mut stream, 1).await;
    stream.write_all(b"\x00\x01rest").await.expect("written");
    assert_eq!(timeout(Duration::from_secs(10), stream.read(&mut [0; 100])).await.expect("closed").unwrap_or(0), 0);
    forgets(&bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_dawdles_keeps_nobody_out() {
    // Long enough for a hundred connections on a busy machine.
    let bed = bed_patient(Duration::from_secs(6), |_| {}).await;
    let server = bed.running.tcp[0];
    // As many as one address may have, each with a message that never ends.
    let mut slow = Vec::new();
    for number in 0..100 {
        let mut stream = TcpStream::connect(server).await.expect("a connection");
        if number == 0 {
            is_answered(&mut stream, 0).await;
        }
        stream.write_all(b"OPTIONS sip:a SIP/2.0\r\nVia: S").await.expect("written");
        slow.push(stream);
    }
    let mut more = TcpStream::connect(server).await.expect("a connection");
    assert_eq!(timeout(Duration::from_secs(10), more.read(&mut [0; 1])).await.expect("closed").unwrap_or(0), 0, "one too many");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.9:0".parse().expect("an address")).expect("bound");
    let mut neighbour = socket.connect(server).await.expect("another address has room");
    let began = Instant::now();
    let mut round = 1;
    // A byte now and then keeps none of them.
    while !slow.is_empty() {
        assert!(began.elapsed() < Duration::from_secs(30), "{} are still there", slow.len());
        is_answered(&mut neighbour, round).await;
        round += 1;
        let mut kept = Vec::new();
        for mut stream in slow {
            let gone = stream.write_all(b"x").await.is_err()
                || matches!(timeout(Duration::from_millis(1), stream.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_)));
            if !gone {
                kept.push(stream);
            }
        }
        slow = kept;
    }
    let mut again = TcpStream::connect(server).await.expect("there is room again");
    is_answered(&mut again, 9_999).await;
    is_answered(&mut neighbour, 9_998).await;
}
