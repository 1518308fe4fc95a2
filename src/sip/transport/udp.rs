//! UDP sockets: datagrams in, with the address of ours that they came to, and out from the same address (`crate::udp`).
//!
//! STUN is answered here, at once (`stun.rs`): it keeps NAT open and nobody else needs it.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsRawFd,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use nix::{
    net::if_::InterfaceFlags,
    sys::socket::{MsgFlags, SockaddrIn, recvmsg},
};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};

use super::{
    Flow,
    rate::{Rates, Verdict},
    socket::Inbound,
    stun,
    tcp::admit,
};
use crate::{
    sip::{message::MAX_LEN, screen::begins_a_call},
    udp::{self, BATCH, Bound},
};

/// Calls of the system before the engine, which is on the same thread, gets its turn again.
const TURNS: usize = 64;
/// Room for a second's worth of 4,000 phones coming back.
const RECEIVE_BUFFER: usize = 4 << 20;

pub(super) struct Udp {
    /// Watched for reading only: each datagram that has left makes a socket writable again, and would wake us once more.
    socket: AsyncFd<Socket>,
    pub(super) local: SocketAddr,
}

impl Udp {
    pub(super) fn bind(at: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
        if at.is_ipv6() {
            socket.set_only_v6(true)?;
        } else {
            // What others on this machine have joined is not for us.
            socket.set_multicast_all_v4(false)?;
        }
        // The kernel may give less; it does not fail.
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        socket.set_nonblocking(true)?;
        udp::tell_destination(&socket, at)?;
        socket.bind(&at.into())?;
        let local = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        // SAFETY: the `AsyncFd` owns the socket and never gives it away, and a `Socket` never changes its descriptor.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(io::Error::from)?;
        Ok(Self { socket, local })
    }

    fn bound(&self) -> Bound {
        Bound { at: self.local, tells: true }
    }

    /// Sends at once or not at all: a full socket loses datagrams, as the network does, and SIP repeats them.
    pub(super) fn send(&self, flow: &Flow, bytes: &[u8]) -> io::Result<()> {
        let source = if self.local.ip().is_unspecified() { Some(flow.local.ip()).filter(|ip| !ip.is_unspecified()) } else { None };
        udp::send(&self.socket, source, flow.peer, bytes)
    }
}

/// Listens for a multicast group at the port of a UDP socket of ours, on one network, for somebody who knows what is asked there.
/// What it sends comes from that port.
pub struct Beside {
    socket: AsyncFd<Socket>,
    local: SocketAddrV4,
}

impl Udp {
    /// Joins `group` on every network that the socket is reached from.
    pub(super) fn beside(&self, group: Ipv4Addr) -> io::Result<Vec<Beside>> {
        let SocketAddr::V4(bound) = self.local else { return Ok(Vec::new()) };
        let ours = self.socket.get_ref();
        // Only for the moment: as long as a port may be shared, somebody else could take it, and with it what phones send.
        ours.set_reuse_address(true)?;
        let open = |(index, address)| Beside::open(index, SocketAddrV4::new(address, bound.port()), group);
        let here = networks()?.into_iter().filter(|(_, address)| bound.ip().is_unspecified() || bound.ip() == address);
        let sockets: io::Result<Vec<_>> = here.map(open).collect();
        ours.set_reuse_address(false)?;
        let sockets = sockets?;
        sockets.iter().try_for_each(|beside| beside.socket.get_ref().set_reuse_address(false))?;
        Ok(sockets)
    }
}

impl Beside {
    fn open(index: u32, local: SocketAddrV4, group: Ipv4Addr) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_address(true)?;
        // Of the group only what comes by this network: so we know which address of ours the sender can reach.
        socket.set_multicast_all_v4(false)?;
        socket.bind(&SocketAddrV4::new(group, local.port()).into())?;
        socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index))?;
        // SAFETY: as in `Udp::bind`.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(io::Error::from)?;
        Ok(Self { socket, local })
    }

    /// Our own address in this network, and the port.
    pub fn local(&self) -> SocketAddrV4 {
        self.local
    }

    /// The next datagram: how long it is, and from whom. What does not fit is cut off.
    pub async fn receive(&self, room: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            let mut ready = self.socket.readable().await?;
            let got = ready.try_io(|socket| {
                let mut slices = [IoSliceMut::new(room)];
                let message = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut slices, None, MsgFlags::MSG_DONTWAIT)?;
                let from = message.address.ok_or(io::ErrorKind::AddrNotAvailable)?;
                Ok((message.bytes, SocketAddr::new(IpAddr::V4(from.ip()), from.port())))
            });
            if let Ok(got) = got {
                return got;
            }
        }
    }

    /// Sends at once or not at all.
    pub fn send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        udp::send(&self.socket, Some(IpAddr::V4(*self.local.ip())), to, bytes)
    }
}

/// Networks that have multicast: index and our first address of each.
fn networks() -> io::Result<Vec<(u32, Ipv4Addr)>> {
    let mut found: Vec<(u32, Ipv4Addr)> = Vec::new();
    for interface in nix::ifaddrs::getifaddrs()? {
        let up = interface.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_MULTICAST);
        let address = interface.address.as_ref().and_then(|address| address.as_sockaddr_in()).map(SockaddrIn::ip);
        if let Some(address) = address.filter(|_| up) {
            let index = nix::net::if_::if_nametoindex(&*interface.interface_name)?;
            if !found.iter().any(|(known, _)| *known == index) {
                found.push((index, address));
            }
        }
    }
    Ok(found)
}

/// Reads until the receiver of `inbound` is gone.
pub(super) async fn receive(udp: Arc<Udp>, rates: Arc<Mutex<Rates>>, inbound: mpsc::Sender<Inbound>) {
    // The system gives the pages when they are written to: a few, as messages are short.
    let mut room = vec![0u8; BATCH * MAX_LEN];
    let mut closed = std::pin::pin!(inbound.closed());
    loop {
        let mut ready = tokio::select! {
            () = &mut closed => return,
            ready = udp.socket.readable() => match ready {
                Ok(ready) => ready,
                Err(_) => return,
            },
        };
        // All there is, as far as it fits: what waits in the socket nobody can tell apart, and nobody can see how much it is.
        let mut drained = false;
        for _ in 0..TURNS {
            let got = ready.try_io(|_| {
                let got = udp::receive(&udp.socket, udp.bound(), &mut room, |arrived| {
                    let local = SocketAddr::new(arrived.to, arrived.local.port());
                    take(&udp, &rates, &inbound, Flow::udp(local, arrived.peer), arrived.bytes);
                })?;
                // Fewer than there was room for: no more are there, and the socket need not be asked to say so.
                if got < BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            // An error but "would block" is an ICMP error for something that we sent; the socket lives on.
            drained = got.is_err();
            if drained {
                break;
            }
        }
        if !drained {
            tokio::task::yield_now().await;
        }
    }
}

fn take(udp: &Udp, rates: &Mutex<Rates>, inbound: &mpsc::Sender<Inbound>, flow: Flow, datagram: &[u8]) {
    if let Verdict::Over { tell, .. } = admit(rates, flow.peer.ip()) {
        metrics::counter!("plugtone_sip_over_rate_total", "transport" => "udp").increment(1);
        if tell {
            tracing::warn!(source = %flow.peer, "more messages a second than `sip.max_messages_per_source`: dropped");
        }
        return;
    }
    if stun::is_stun(datagram) {
        if let Some(answer) = stun::answer(datagram, flow.peer) {
            let _ = udp.send(&flow, &answer);
        }
        return;
    }
    let bytes = Bytes::copy_from_slice(datagram);
    // Half of the room is for calls that are up, and for all else.
    if inbound.capacity() < inbound.max_capacity() / 2 && begins_a_call(&bytes) {
        metrics::counter!("plugtone_sip_dropped_total", "reason" => "crowded").increment(1);
        return;
    }
    // Nobody has time for it: as good as lost on the way. Its sender repeats it.
    if inbound.try_send(Inbound::Message { flow, bytes }).is_err() {
        metrics::counter!("plugtone_sip_dropped_total", "reason" => "queue_full").increment(1);
    }
}
