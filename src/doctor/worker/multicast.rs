//! Asks 224.0.1.75, the group of SIP plug and play, and hears who answers.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::UdpSocket,
    time::{Instant, timeout_at},
};

use super::random;
use crate::{
    dhcp::Interface,
    doctor::multicast::{is_heard, subscribe},
    sip::Ids,
};

const GROUP: (Ipv4Addr, u16) = (Ipv4Addr::new(224, 0, 1, 75), 5060);
const LISTEN: Duration = Duration::from_secs(2);

pub async fn ask(interface: &Interface) -> io::Result<Vec<IpAddr>> {
    let address = interface.addresses.first().copied().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_multicast_if_v4(&address)?;
    socket.bind(&SocketAddr::from((address, 0)).into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    let question = subscribe(&mut Ids::new(random()), socket.local_addr()?);
    let mut answered = Vec::new();
    let mut buffer = [0; 4096];
    for _ in 0..2 {
        socket.send_to(&question, GROUP).await?;
        let ends = Instant::now() + LISTEN / 2;
        while let Ok(received) = timeout_at(ends, socket.recv_from(&mut buffer)).await {
            let (length, from) = received?;
            if is_heard(Bytes::copy_from_slice(&buffer[..length])) && !answered.contains(&from.ip()) {
                answered.push(from.ip());
            }
        }
    }
    Ok(answered)
}
