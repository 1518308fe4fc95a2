//! What UDP sockets cannot do: frames to a MAC whose address does not answer ARP yet, ARP probes, answers
//! to clients that have no address, and which interfaces there are (packet(7), RFC 826, RFC 5227 §2.1.1).
//!
//! Needs CAP_NET_RAW; `socket.rs` does without where it is missing. Not here: the DHCP inside.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

use crate::model::MacAddr;

const IP_UDP: usize = 28;
const ARP: usize = 28;

/// A network interface with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    pub mac: Option<MacAddr>,
    pub addresses: Vec<Ipv4Addr>,
    pub addresses6: Vec<Ipv6Addr>,
}

/// The interfaces as they are now.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let mut list: Vec<Interface> = Vec::new();
    for entry in nix::ifaddrs::getifaddrs()? {
        let at = match list.iter().position(|known| known.name == entry.interface_name) {
            Some(at) => at,
            None => {
                let index = nix::net::if_::if_nametoindex(entry.interface_name.as_str()).unwrap_or(0);
                list.push(Interface {
                    index,
                    name: entry.interface_name.clone(),
                    mac: None,
                    addresses: Vec::new(),
                    addresses6: Vec::new(),
                });
                list.len() - 1
            }
        };
        if let Some(address) = entry.address {
            list[at].addresses.extend(address.as_sockaddr_in().map(|address| address.ip()));
            list[at].addresses6.extend(address.as_sockaddr_in6().map(|address| address.ip()));
            if let Some(mac) = address.as_link_addr().and_then(|link| link.addr()) {
                list[at].mac = Some(MacAddr(mac));
            }
        }
    }
    Ok(list)
}

/// Sends UDP in frames that we address ourselves.
pub struct Frames(OwnedFd);

impl Frames {
    pub fn open() -> io::Result<Self> {
        // Protocol 0: nothing is received by it.
        packet_socket(0).map(Self)
    }

    /// One datagram to `mac`, as if `to` were in the ARP table.
    pub fn send(&self, link: u32, mac: MacAddr, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> io::Result<()> {
        send_to(&self.0, link, libc::ETH_P_IP as u16, mac, &datagram(from, to, payload)?)
    }
}

/// Asks who has an address, and hears who answers.
pub struct Arp(AsyncFd<OwnedFd>);

impl Arp {
    pub fn open() -> io::Result<Self> {
        let socket = packet_socket(libc::ETH_P_ARP as u16)?;
        // SAFETY: the `AsyncFd` owns the descriptor, never gives it away, and `OwnedFd` never changes its number.
        Ok(Self(unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)?))
    }

    /// A probe: from nobody (0.0.0.0), so that no cache learns anything from it.
    pub fn probe(&self, link: u32, own: MacAddr, address: Ipv4Addr) -> io::Result<()> {
        let mut packet = Vec::with_capacity(ARP);
        packet.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
        packet.extend_from_slice(&own.0);
        packet.extend_from_slice(&[0; 10]);
        packet.extend_from_slice(&address.octets());
        send_to(self.0.get_ref(), link, libc::ETH_P_ARP as u16, MacAddr([0xff; 6]), &packet)
    }

    /// The next one who says of an address that it has it, in a request or in a reply.
    pub async fn heard(&self) -> io::Result<(MacAddr, Ipv4Addr)> {
        loop {
            let mut bytes = [0u8; 128];
            let length = self
                .0
                .async_io(Interest::READABLE, |socket| {
                    // SAFETY: the buffer is ours and as long as we say.
                    let got = unsafe { libc::recv(socket.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT) };
                    usize::try_from(got).map_err(|_| io::Error::last_os_error())
                })
                .await?;
            if let Some(claim) = bytes.get(..length).and_then(claim) {
                return Ok(claim);
            }
        }
    }
}

/// Hears what DHCP servers say to clients, on one interface, whoever is asked: as phones would, which have no address yet.
pub struct Replies(AsyncFd<OwnedFd>);

/// Only UDP to port 68 gets past it, without fragments: the rest of the traffic costs nothing.
const TO_CLIENTS: [(u16, u8, u8, u32); 11] = [
    (0x30, 0, 0, 0),      // first byte
    (0x54, 0, 0, 0xf0),   // its upper half
    (0x15, 0, 7, 0x40),   // is IPv4,
    (0x30, 0, 0, 9),      // the protocol
    (0x15, 0, 5, 17),     // is UDP,
    (0x28, 0, 0, 6),      // flags and offset
    (0x45, 3, 0, 0x1fff), // have no offset,
    (0xb1, 0, 0, 0),      // behind the IP header
    (0x48, 0, 0, 2),      // the destination port
    (0x15, 1, 0, 68),     // is 68
    (0x06, 0, 0, 0),      // else nothing
];

impl Replies {
    pub fn open(link: u32) -> io::Result<Self> {
        // Protocol 0 until the filter is in place.
        let socket = packet_socket(0)?;
        let mut program: Vec<libc::sock_filter> =
            TO_CLIENTS.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
        program.push(libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: u32::MAX });
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            // All: answers of a server on this machine are seen where they leave.
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: i32::try_from(link).map_err(|_| io::ErrorKind::InvalidInput)?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: the pointers are to values that live through the calls, with their own lengths.
        let failed = unsafe {
            let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const filter).cast(), size) < 0
                || libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t) < 0
        };
        if failed {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as for ARP above.
        Ok(Self(unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)?))
    }

    /// The next one: who put it on the wire, and what DHCP it is.
    pub async fn heard(&self) -> io::Result<(MacAddr, Vec<u8>)> {
        loop {
            let mut bytes = [0u8; 2048];
            // SAFETY: zeros are a valid address structure.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let length = self
                .0
                .async_io(Interest::READABLE, |socket| {
                    let mut size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
                    let (fd, room) = (socket.as_raw_fd(), bytes.len());
                    // SAFETY: buffer and address are ours and as long as we say.
                    let got = unsafe {
                        libc::recvfrom(fd, bytes.as_mut_ptr().cast(), room, libc::MSG_DONTWAIT, (&raw mut from).cast(), &raw mut size)
                    };
                    usize::try_from(got).map_err(|_| io::Error::last_os_error())
                })
                .await?;
            let [a, b, c, d, e, f, ..] = from.sll_addr;
            if let Some(payload) = bytes.get(..length).and_then(udp_payload) {
                return Ok((MacAddr([a, b, c, d, e, f]), payload.to_vec()));
            }
        }
    }
}

/// What a UDP datagram in an IPv4 packet carries.
fn udp_payload(packet: &[u8]) -> Option<&[u8]> {
    let header = usize::from(packet.first()? & 15) * 4;
    packet.get(header + 8..)
}

/// Sender of an ARP packet for IPv4 over Ethernet that claims an address.
fn claim(packet: &[u8]) -> Option<(MacAddr, Ipv4Addr)> {
    if packet.get(..6)? != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    let mac: [u8; 6] = packet.get(8..14)?.try_into().ok()?;
    let address: [u8; 4] = packet.get(14..18)?.try_into().ok()?;
    (address != [0; 4]).then_some((MacAddr(mac), address.into()))
}

fn packet_socket(protocol: u16) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: a plain system call; the descriptor that it gives is owned by nobody else.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, kind, i32::from(protocol.to_be()));
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

fn send_to(socket: &OwnedFd, link: u32, protocol: u16, mac: MacAddr, bytes: &[u8]) -> io::Result<()> {
    let mut sll_addr = [0; 8];
    sll_addr[..6].copy_from_slice(&mac.0);
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: i32::try_from(link).map_err(|_| io::ErrorKind::InvalidInput)?,
        sll_hatype: libc::ARPHRD_ETHER,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr,
    };
    // SAFETY: both pointers are to values that live through the call, with their own lengths.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// IP and UDP headers (RFC 791, 768) and the payload.
fn datagram(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(payload.len() + IP_UDP).map_err(|_| io::ErrorKind::InvalidInput)?;
    let udp_length = length - 20;
    let mut packet = Vec::with_capacity(length.into());
    // Version and header length, low delay, length, no id, do not fragment, 64 hops, UDP, checksum below.
    packet.extend_from_slice(&[0x45, 0x10]);
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend_from_slice(&from.ip().octets());
    packet.extend_from_slice(&to.ip().octets());
    let header = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&header.to_be_bytes());

    let mut udp = Vec::with_capacity(8);
    udp.extend_from_slice(&from.port().to_be_bytes());
    udp.extend_from_slice(&to.port().to_be_bytes());
    udp.extend_from_slice(&udp_length.to_be_bytes());
    udp.extend_from_slice(&[0, 0]);
    let pseudo = [&packet[12..20], &[0, 17], &udp_length.to_be_bytes()].concat();
    let sum = match checksum(&[&pseudo, &udp, payload]) {
        // Zero would say that there is none.
        0 => 0xffff,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(&udp);
    packet.extend_from_slice(payload);
    Ok(packet)
}

/// RFC 1071, over parts of even length but the last.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_come_out_even() {
        let packet = datagram("10.0.0.1:67".parse().unwrap(), "10.0.0.9:68".parse().unwrap(), b"odd").unwrap();
        assert_eq!(packet.len(), 31);
        // A sum over what includes its own checksum is all ones, so its complement is zero.
        assert_eq!(checksum(&[&packet[..20]]), 0);
        let pseudo = [&packet[12..20], &[0, 17, 0, 11][..]].concat();
        assert_eq!(checksum(&[&pseudo, &packet[20..]]), 0);
    }

    #[test]
    fn claims_are_heard_and_probes_are_not() {
        let reply = [0, 1, 8, 0, 6, 4, 0, 2, 0, 0x15, 0x65, 1, 2, 3, 10, 0, 0, 9, 1, 1, 1, 1, 1, 1, 10, 0, 0, 1];
        assert_eq!(claim(&reply), Some((MacAddr([0, 0x15, 0x65, 1, 2, 3]), Ipv4Addr::new(10, 0, 0, 9))));
        let mut probe = reply;
        probe[14..18].copy_from_slice(&[0; 4]);
        assert_eq!((claim(&probe), claim(&reply[..12]), claim(&[])), (None, None, None));
    }
}
