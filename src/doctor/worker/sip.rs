//! Sends an OPTIONS, by UDP with STUN beside it, or by TCP, and brings back what came.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout, timeout_at},
};

use super::{PATIENCE, local_for};
use crate::{
    doctor::signalling::{Exchange, Heard, options},
    sip::{
        Ids, Message,
        transport::{
            framing::{Frame, Framer},
            stun,
        },
    },
};

/// T1 of RFC 3261.
const AGAIN: Duration = Duration::from_millis(500);

pub async fn ask_by_udp(server: SocketAddr, ids: &mut Ids) -> io::Result<Exchange> {
    let socket = UdpSocket::bind((local_for(server).await?, 0)).await?;
    socket.connect(server).await?;
    let local = socket.local_addr()?;
    let sent = options(ids, "UDP", local, server);
    let mut id = [0; 12];
    id.copy_from_slice(&ids.seed()[..12]);
    let question = stun::question(id);
    let (mut heard, mut mapped) = (Heard::Silent, None);
    let ends = Instant::now() + PATIENCE;
    let mut buffer = vec![0; 65_536];
    let mut wait = AGAIN;
    'asking: while Instant::now() < ends {
        for datagram in [&sent[..], &question] {
            if let Err(error) = socket.send(datagram).await
                && error.kind() != io::ErrorKind::ConnectionRefused
            {
                return Err(error);
            }
        }
        let again = ends.min(Instant::now() + wait);
        wait *= 2;
        while let Ok(received) = timeout_at(again, socket.recv(&mut buffer)).await {
            match received {
                Ok(length) if stun::is_stun(&buffer[..length]) => mapped = mapped.or_else(|| stun::mapped(&buffer[..length], id)),
                // A provisional answer is followed by another.
                Ok(length) if !is_provisional(&buffer[..length]) => heard = Heard::Answer(Bytes::copy_from_slice(&buffer[..length])),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    heard = Heard::Refused;
                    break 'asking;
                }
                Err(error) => return Err(error),
            }
            if matches!(heard, Heard::Answer(_)) && mapped.is_some() {
                break 'asking;
            }
        }
        if matches!(heard, Heard::Answer(_)) {
            break;
        }
    }
    Ok(Exchange { transport: "UDP", server, local, sent, heard, mapped })
}

fn is_provisional(datagram: &[u8]) -> bool {
    Message::parse(Bytes::copy_from_slice(datagram)).is_ok_and(|answer| answer.status().is_some_and(|status| status < 200))
}

pub async fn ask_by_tcp(server: SocketAddr, ids: &mut Ids) -> io::Result<Exchange> {
    let exchange = |local, sent, heard| Exchange { transport: "TCP", server, local, sent, heard, mapped: None };
    let nowhere = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 0);
    let mut stream = match timeout(PATIENCE, TcpStream::connect(server)).await {
        Err(_) => return Ok(exchange(nowhere, Bytes::new(), Heard::Silent)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return Ok(exchange(nowhere, Bytes::new(), Heard::Refused));
        }
        Ok(connected) => connected?,
    };
    let local = stream.local_addr()?;
    let sent = options(ids, "TCP", local, server);
    let heard = match timeout(PATIENCE, answer(&mut stream, &sent)).await {
        Err(_) => Heard::Broken("connected, and no answer".into()),
        Ok(Ok(bytes)) => Heard::Answer(bytes),
        Ok(Err(error)) => Heard::Broken(error.to_string()),
    };
    Ok(exchange(local, sent, heard))
}

async fn answer(stream: &mut TcpStream, question: &[u8]) -> io::Result<Bytes> {
    stream.write_all(question).await?;
    let mut framer = Framer::new();
    loop {
        match framer.next_frame() {
            Ok(Some(Frame::Message(bytes))) if !is_provisional(&bytes) => return Ok(bytes),
            Ok(Some(_)) => continue,
            Ok(None) => {}
            Err(error) => return Err(io::Error::other(error.to_string())),
        }
        if stream.read_buf(framer.space()).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
