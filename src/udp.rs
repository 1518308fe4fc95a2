//! Datagrams by the system's own calls: many at once in, each with the address of ours that it came to, and out from that address.
//!
//! On a host with several addresses the kernel would answer from the one nearest to the phone, which then does not know the
//! sender: IP_PKTINFO tells and sets it. Not here: what a socket is for (`sip/transport/udp.rs`, `fileserver/tftp/socket.rs`).

use std::{
    cell::RefCell,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsRawFd, RawFd},
    ptr,
};

use nix::{
    cmsg_space,
    libc::{self, in_addr, in_pktinfo, in6_addr, in6_pktinfo},
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrLike, SockaddrStorage, recvmmsg, sendmsg, sendto, setsockopt,
        sockopt,
    },
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
            let mut beside = message.cmsgs().into_iter().flatten().filter(|_| bound.tells);
            let told = beside.find_map(|part| destination(bound.at, part));
            whole &= told.is_some() || !bound.tells;
            let (to, local) = told.unwrap_or((bound.at.ip(), bound.at));
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
            sendmsg(fd, &slices, &[ControlMessage::Ipv4PacketInfo(&from_v4(ip))], flags, Some(&to))?;
        }
        Some(IpAddr::V6(ip)) => {
            sendmsg(fd, &slices, &[ControlMessage::Ipv6PacketInfo(&from_v6(ip))], flags, Some(&to))?;
        }
        // Less for the system to look at.
        None => {
            sendto(fd, bytes, &to, flags)?;
        }
    }
    Ok(())
}

/// Sends these at once, by one call of the system: of the first [`BATCH`] as many as it takes, in their order. Returns how many.
///
/// # Errors
/// Of the first one, which is not sent.
pub fn send_many<'a>(
    socket: &impl AsRawFd,
    source: Option<IpAddr>,
    packets: impl IntoIterator<Item = (SocketAddr, &'a [u8])>,
) -> io::Result<usize> {
    let mut beside = Beside::new(source);
    let mut addresses = [const { None::<SockaddrStorage> }; BATCH];
    let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
    // SAFETY: pointers that are null, lengths that are zero.
    let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
    let mut count = 0;
    for ((((to, bytes), header), address), part) in packets.into_iter().zip(&mut headers).zip(&mut addresses).zip(&mut parts) {
        let address = address.insert(SockaddrStorage::from(to));
        *part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let header = &mut header.msg_hdr;
        (header.msg_name, header.msg_namelen) = (address.as_ptr().cast_mut().cast(), address.len());
        (header.msg_iov, header.msg_iovlen) = (part, 1);
        (header.msg_control, header.msg_controllen) = (beside.room.as_mut_ptr().cast(), beside.len);
        count += 1;
    }
    // SAFETY: the first `count` headers are filled in; what they point to lives until here, and is only read.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
    // Below zero is an error.
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// What stands beside each packet, for the system to read: where it leaves from.
struct Beside {
    /// As aligned as a header must be.
    room: [u64; 8],
    len: usize,
}

impl Beside {
    fn new(source: Option<IpAddr>) -> Self {
        match source {
            Some(IpAddr::V4(ip)) => Self::with(libc::IPPROTO_IP, libc::IP_PKTINFO, from_v4(ip)),
            Some(IpAddr::V6(ip)) => Self::with(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, from_v6(ip)),
            None => Self { room: [0; 8], len: 0 },
        }
    }

    fn with<T>(level: i32, kind: i32, value: T) -> Self {
        let (mut room, size) = ([0u64; 8], size_of::<T>() as u32);
        // SAFETY: computes.
        let (len, space) = unsafe { (libc::CMSG_LEN(size), libc::CMSG_SPACE(size)) };
        assert!(space as usize <= size_of_val(&room), "two sorts of address, both short");
        let header: *mut libc::cmsghdr = room.as_mut_ptr().cast();
        // SAFETY: there is room for header and value, and the header is aligned.
        unsafe {
            header.write(libc::cmsghdr { cmsg_len: len as usize, cmsg_level: level, cmsg_type: kind });
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        }
        Self { room, len: space as usize }
    }
}

fn from_v4(ip: Ipv4Addr) -> in_pktinfo {
    in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: in_addr { s_addr: u32::from_ne_bytes(ip.octets()) }, ipi_addr: in_addr { s_addr: 0 } }
}

fn from_v6(ip: Ipv6Addr) -> in6_pktinfo {
    in6_pktinfo { ipi6_addr: in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 }
}

/// `None`: of no family that we speak.
pub fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}
