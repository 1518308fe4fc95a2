//! Datagrams by the system's own calls: many at once in, each with the address of ours that it came to, and out from that address.
//!
//! On a host with several addresses the kernel would answer from the one nearest to the phone, which then does not know the
//! sender: IP_PKTINFO tells and sets it. Not here: what a socket is for (`sip/transport/udp.rs`, `fileserver/tftp/socket.rs`).

use std::{
    cell::RefCell,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsRawFd, RawFd},
};

use nix::{
    cmsg_space,
    libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo},
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmsg, setsockopt, sockopt},
};
use socket2::Socket;

/// Datagrams taken by one system call.
pub const BATCH: usize = 16;

/// A datagram, who sent it and to which of our addresses.
#[derive(Debug)]
pub struct Arrived<'a> {
    pub peer: SocketAddr,
    /// The address that it was sent to, perhaps everybody's.
    pub to: IpAddr,
    /// The address of ours, and the port, that an answer leaves from.
    pub local: SocketAddr,
    pub bytes: &'a [u8],
}

impl Arrived<'_> {
    /// Sent to everybody, or to a group.
    pub fn is_broadcast(&self) -> bool {
        self.to.is_multicast() || self.to != self.local.ip()
    }
}

/// From now on each datagram comes with the address that it was sent to.
///
/// # Errors
/// The system's.
pub fn tell_destination(socket: &Socket, at: SocketAddr) -> io::Result<()> {
    match at {
        SocketAddr::V4(_) => setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?,
        SocketAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?,
    }
    Ok(())
}

/// Where a socket is bound.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    pub at: SocketAddr,
    /// Its datagrams come with the address that they were sent to ([`tell_destination`]); others' are taken to be sent to `at`.
    pub tells: bool,
}

thread_local! {
    /// Where the system writes what it says of datagrams, for IPv4 and for IPv6, for those who tell and those who do not. It writes how
    /// long addresses and what comes beside were, and cuts the next ones to that: of one kind they are all as long.
    static HEADERS: [RefCell<Headers>; 4] = const { [const { RefCell::new(None) }; 4] };
}

/// Made when it is used first. Kept, as it takes four pieces of memory.
type Headers = Option<MultiHeaders<SockaddrStorage>>;

/// Gives what one system call brings to `take`: at most [`BATCH`] datagrams, each cut to a [`BATCH`]th of `room`. Returns how many.
///
/// # Errors
/// Would block, and what else the system says; also the ICMP error for something that we sent.
pub fn receive(socket: &impl AsRawFd, bound: Bound, room: &mut [u8], mut take: impl FnMut(Arrived)) -> io::Result<usize> {
    HEADERS.with(|kinds| {
        let [v4, v4_tells, v6, v6_tells] = kinds;
        let kind = match (bound.at.is_ipv4(), bound.tells) {
            (true, false) => v4,
            (true, true) => v4_tells,
            (false, false) => v6,
            (false, true) => v6_tells,
        };
        let mut kept = kind.borrow_mut();
        let beside = || bound.tells.then(|| cmsg_space!(in_pktinfo, in6_pktinfo));
        let headers = kept.get_or_insert_with(|| MultiHeaders::preallocate(BATCH, beside()));
        let mut rest = room.chunks_exact_mut(room.len() / BATCH);
        let mut slices: [_; BATCH] = std::array::from_fn(|_| [IoSliceMut::new(rest.next().unwrap_or_default())]);
        let (mut got, mut whole) = (0, true);
        for message in recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)? {
            got += 1;
            let Some(peer) = message.address.as_ref().and_then(to_std) else { continue };
            let (to, local) = match bound.tells.then(|| message.cmsgs().into_iter().flatten().find_map(|part| destination(bound.at, part)))
            {
                Some(told) => {
                    whole &= told.is_some();
                    told.unwrap_or((bound.at.ip(), bound.at))
                }
                None => (bound.at.ip(), bound.at),
            };
            take(Arrived { peer, to, local, bytes: message.iovs().next().unwrap_or_default() });
        }
        if !whole {
            // Whatever was the matter, the next ones are not cut to it.
            *kept = None;
        }
        Ok(got)
    })
}

/// Where it was sent, and the address of ours that this means.
fn destination(bound: SocketAddr, part: ControlMessageOwned) -> Option<(IpAddr, SocketAddr)> {
    match part {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            let [to, ours] = [info.ipi_addr, info.ipi_spec_dst].map(|address| IpAddr::from(address.s_addr.to_ne_bytes()));
            Some((to, SocketAddr::new(ours, bound.port())))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            let ours = Ipv6Addr::from(info.ipi6_addr.s6_addr);
            let scope = if ours.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
            Some((IpAddr::V6(ours), SocketAddrV6::new(ours, bound.port(), 0, scope).into()))
        }
        _ => None,
    }
}

/// Sends at once or not at all; from `source`, where the socket has more than one address.
///
/// # Errors
/// The system's: would block when its buffer is full.
pub fn send(socket: &impl AsRawFd, source: Option<IpAddr>, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    let (fd, slices, to): (RawFd, _, _) = (socket.as_raw_fd(), [IoSlice::new(bytes)], SockaddrStorage::from(to));
    let flags = MsgFlags::MSG_DONTWAIT;
    match source {
        Some(IpAddr::V4(ip)) => {
            let address = in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
            let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: in_addr { s_addr: 0 } };
            sendmsg(fd, &slices, &[ControlMessage::Ipv4PacketInfo(&info)], flags, Some(&to))?;
        }
        Some(IpAddr::V6(ip)) => {
            let info = in6_pktinfo { ipi6_addr: in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 };
            sendmsg(fd, &slices, &[ControlMessage::Ipv6PacketInfo(&info)], flags, Some(&to))?;
        }
        None => {
            sendmsg(fd, &slices, &[], flags, Some(&to))?;
        }
    }
    Ok(())
}

/// `None`: of no family that we speak.
pub fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}
