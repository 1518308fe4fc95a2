//! Asks what time it is: by NTP, and of the Date in an answer by HTTP.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{PATIENCE, local_for, now_ms};
use crate::doctor::clock::{NoTime, offset, question};

/// Milliseconds that the time server is ahead of this machine.
pub async fn of_ntp(server: SocketAddr) -> Result<i64, NoTime> {
    let asked = async {
        let socket = UdpSocket::bind((local_for(server).await?, 0)).await?;
        socket.connect(server).await?;
        let mut buffer = [0; 512];
        for _ in 0..3 {
            let sent = now_ms();
            socket.send(&question(sent)).await?;
            let Ok(received) = timeout(Duration::from_secs(1), socket.recv(&mut buffer)).await else { continue };
            if let Some(time) = offset(&buffer[..received?], sent, now_ms()) {
                return Ok(time);
            }
        }
        Ok(Err(NoTime::Silent))
    };
    match asked.await {
        Ok(time) => time,
        Err(error) if io::Error::kind(&error) == io::ErrorKind::ConnectionRefused => Err(NoTime::Refused),
        Err(_) => Err(NoTime::Silent),
    }
}

/// The same of a web server; it tells whole seconds.
pub async fn of_http(server: SocketAddr) -> Option<i64> {
    let asked = async {
        let mut stream = TcpStream::connect(server).await.ok()?;
        let question = format!("HEAD / HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
        stream.write_all(question.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.take(16_384).read_to_end(&mut answer).await.ok()?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let date =
            text.lines().find_map(|line| line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("date")))?.1.trim().to_owned();
        let told = jiff::fmt::rfc2822::parse(&date).ok()?.timestamp().as_millisecond();
        let ahead = told - now_ms();
        // The second that has begun is told, not how far it has gone.
        Some(if (-1000..=0).contains(&ahead) { 0 } else { ahead })
    };
    timeout(PATIENCE, asked).await.ok().flatten()
}
