//! Captured messages as a pcap file that Wireshark and tshark read: one datagram a message, between the real addresses.
//!
//! The link type is raw IP (LINKTYPE_RAW, 101). Messages that came by a connection are written as datagrams too: their
//! segments and acknowledgements were not captured and are not made up. Not here: what is hidden (`mask.rs`).

use std::net::{IpAddr, SocketAddr};

/// One message on its way.
pub struct Packet<'a> {
    /// Since 1970, in microseconds.
    pub at_us: u64,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub payload: &'a [u8],
}

const MAGIC: u32 = 0xa1b2_c3d4;
const LINKTYPE_RAW: u32 = 101;
const UDP: u8 = 17;
/// Longest payload of a datagram over IPv4.
const MAX_PAYLOAD: usize = 65_507;

/// The whole file.
pub fn file<'a>(packets: impl IntoIterator<Item = Packet<'a>>) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(MAGIC.to_le_bytes());
    out.extend(2u16.to_le_bytes());
    out.extend(4u16.to_le_bytes());
    // Time zone, accuracy: unused. Then the longest packet, and what packets begin with.
    out.extend([0; 8]);
    out.extend(0x0004_0000u32.to_le_bytes());
    out.extend(LINKTYPE_RAW.to_le_bytes());
    for packet in packets {
        let bytes = datagram(&packet);
        let length = (bytes.len() as u32).to_le_bytes();
        out.extend(((packet.at_us / 1_000_000) as u32).to_le_bytes());
        out.extend(((packet.at_us % 1_000_000) as u32).to_le_bytes());
        out.extend(length);
        out.extend(length);
        out.extend(bytes);
    }
    out
}

fn datagram(packet: &Packet<'_>) -> Vec<u8> {
    let payload = packet.payload.get(..packet.payload.len().min(MAX_PAYLOAD)).unwrap_or_default();
    let length = (payload.len() + 8) as u16;
    let mut udp = Vec::with_capacity(payload.len() + 8);
    udp.extend(packet.from.port().to_be_bytes());
    udp.extend(packet.to.port().to_be_bytes());
    udp.extend(length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    let (from, to) = (packet.from.ip(), packet.to.ip());
    let mut pseudo = Vec::new();
    let mut out = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            // RFC 791: version and length, total length, no fragments, 64 hops.
            let mut head = vec![0x45, 0];
            head.extend((length + 20).to_be_bytes());
            head.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
            head.extend(from.octets());
            head.extend(to.octets());
            let sum = checksum(&[&head]);
            head.splice(10..12, sum.to_be_bytes());
            pseudo.extend(from.octets());
            pseudo.extend(to.octets());
            head
        }
        _ => {
            let [from, to] = [from, to].map(|ip| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            });
            let mut head = vec![0x60, 0, 0, 0];
            head.extend(length.to_be_bytes());
            head.extend([UDP, 64]);
            head.extend(from.octets());
            head.extend(to.octets());
            pseudo.extend(from.octets());
            pseudo.extend(to.octets());
            head
        }
    };
    pseudo.extend([0, UDP]);
    pseudo.extend(length.to_be_bytes());
    // RFC 768: a sum of 0 would mean "none".
    let sum = match checksum(&[&pseudo, &udp]) {
        0 => 0xffff,
        sum => sum,
    };
    udp.splice(6..8, sum.to_be_bytes());
    out.extend(udp);
    out
}

/// RFC 1071. Each part but the last has an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_have_right_lengths_and_sums() {
        for (from, to, head) in [("10.0.0.5:5060", "10.0.0.1:5060", 20), ("[::1]:5060", "[::2]:5070", 40)] {
            let packet = Packet { at_us: 1_500_000, from: from.parse().unwrap(), to: to.parse().unwrap(), payload: b"BYE" };
            let bytes = datagram(&packet);
            assert_eq!(bytes.len(), head + 8 + 3);
            // A receiver sums everything, the sum included, and gets nothing.
            if head == 20 {
                assert_eq!(checksum(&[&bytes[..20]]), 0);
            }
            let addresses = if head == 20 { &bytes[12..20] } else { &bytes[8..40] };
            assert_eq!(checksum(&[addresses, &[0, UDP, 0, 11], &bytes[head..]]), 0);
            assert_eq!(file([packet]).len(), 24 + 16 + bytes.len());
        }
    }
}
