//! STUN on the SIP port: phones behind NAT ask which address they are seen under, and so keep the way to them open
//! (RFC 5626 §4.4.2, RFC 5389, and RFC 3489 for old phones). Pure: a datagram in, the answer out; and the phone's side of it.
//!
//! Only Binding requests are answered, and nothing that is malformed: silence costs nothing and helps no reflector. Not here:
//! authentication, which keep-alives do not use; CHANGE-REQUEST, which would want a second address.

use std::net::{IpAddr, SocketAddr};

const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const HEADER: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
const MAPPED_ADDRESS: u16 = 0x0001;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// Attributes that may be in a request and change nothing here: RESPONSE-ADDRESS and CHANGE-REQUEST of RFC 3489, USERNAME,
/// MESSAGE-INTEGRITY, REALM, NONCE.
const IGNORED: [u16; 6] = [0x0002, 0x0003, 0x0006, 0x0008, 0x0014, 0x0015];

/// Whether a datagram is STUN and no SIP: no SIP message begins with a byte below 4.
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER && datagram.first().is_some_and(|first| *first < 4)
}

/// The answer to a Binding request that came from `peer`.
pub fn answer(datagram: &[u8], peer: SocketAddr) -> Option<Vec<u8>> {
    let (header, body) = datagram.split_at_checked(HEADER)?;
    let word = |at: usize| header.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_be_bytes);
    if word(0)? != BINDING_REQUEST || usize::from(word(2)?) != body.len() || body.len() % 4 != 0 {
        return None;
    }
    // Cookie and transaction id together: what RFC 3489 called the id.
    let id: [u8; 16] = header.get(4..)?.try_into().ok()?;
    let modern = id.starts_with(&MAGIC_COOKIE);
    let unknown = unknown_attributes(body)?;
    // RFC 5389 §7.3.1. Old clients get their answer: they ask for a change of address, and see that there was none.
    if modern && !unknown.is_empty() {
        let mut attributes = attribute(ERROR_CODE, &[&[0, 0, 4, 20][..], b"Unknown Attribute"].concat());
        attributes.extend(attribute(UNKNOWN_ATTRIBUTES, &unknown.iter().flat_map(|kind| kind.to_be_bytes()).collect::<Vec<_>>()));
        return Some(message(BINDING_ERROR, id, &attributes));
    }
    let (kind, mask) = if modern { (XOR_MAPPED_ADDRESS, id) } else { (MAPPED_ADDRESS, [0; 16]) };
    Some(message(BINDING_SUCCESS, id, &attribute(kind, &address(peer, mask))))
}

/// A Binding request, as a phone asks; `id` names the question.
pub fn question(id: [u8; 12]) -> Vec<u8> {
    message(BINDING_REQUEST, whole(id), &[])
}

/// The address that the answer to [`question`] tells; `None` if it is not that answer.
pub fn mapped(datagram: &[u8], id: [u8; 12]) -> Option<SocketAddr> {
    let (header, mut body) = datagram.split_at_checked(HEADER)?;
    if header.get(..2)? != BINDING_SUCCESS.to_be_bytes() || header.get(4..)? != whole(id) {
        return None;
    }
    while let Some((head, rest)) = body.split_at_checked(4) {
        let len = usize::from(u16::from_be_bytes([*head.get(2)?, *head.get(3)?]));
        let value = rest.get(..len)?;
        if head.get(..2)? == XOR_MAPPED_ADDRESS.to_be_bytes() {
            let plain = |masked: &[u8]| masked.iter().zip(whole(id)).map(|(byte, mask)| byte ^ mask).collect::<Vec<_>>();
            let port = u16::from_be_bytes(plain(value.get(2..4)?).try_into().ok()?);
            let ip = plain(value.get(4..)?);
            let ip = match ip.len() {
                4 => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
                _ => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
            };
            return Some(SocketAddr::new(ip, port));
        }
        body = rest.get(len.next_multiple_of(4)..)?;
    }
    None
}

fn whole(id: [u8; 12]) -> [u8; 16] {
    let mut whole = [0; 16];
    whole[..4].copy_from_slice(&MAGIC_COOKIE);
    whole[4..].copy_from_slice(&id);
    whole
}

/// Attributes that must be understood and are not, at most 8; `None` if they do not fit into the message.
fn unknown_attributes(mut body: &[u8]) -> Option<Vec<u16>> {
    let mut unknown = Vec::new();
    while !body.is_empty() {
        let (head, rest) = body.split_at_checked(4)?;
        let kind = u16::from_be_bytes([*head.first()?, *head.get(1)?]);
        let len = usize::from(u16::from_be_bytes([*head.get(2)?, *head.get(3)?]));
        body = rest.get(len.next_multiple_of(4)..)?;
        if kind < 0x8000 && !IGNORED.contains(&kind) && unknown.len() < 8 {
            unknown.push(kind);
        }
    }
    Some(unknown)
}

/// Family, port and address, each masked so that no helpful router rewrites it.
fn address(peer: SocketAddr, mask: [u8; 16]) -> Vec<u8> {
    let ip = match peer.ip().to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let masked = |bytes: &[u8]| bytes.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect::<Vec<_>>();
    [vec![0, if ip.len() == 4 { 1 } else { 2 }], masked(&peer.port().to_be_bytes()), masked(&ip)].concat()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut out = [&kind.to_be_bytes()[..], &(value.len() as u16).to_be_bytes(), value].concat();
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn message(kind: u16, id: [u8; 16], attributes: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(attributes.len() as u16).to_be_bytes(), &id, attributes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    const ID: &str = "2112a442 b7e7a701bc34d686fa87dfae";

    #[test]
    fn a_phone_learns_its_address() {
        // RFC 5769 §2.2 and §2.3: the addresses of the sample responses.
        for (peer, attribute) in [
            ("192.0.2.1:32853", "0020 0008 0001 a147 e112a643"),
            ("[2001:db8:1234:5678:11:2233:4455:6677]:32853", "0020 0014 0002 a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9"),
        ] {
            let answer = answer(&bytes(&format!("0001 0000 {ID}")), peer.parse().unwrap()).expect("an answer");
            let attribute = bytes(attribute);
            let expected = [bytes(&format!("0101 {:04x} {ID}", attribute.len())), attribute].concat();
            assert_eq!(answer, expected, "{peer}");
        }
        // A client of RFC 3489, which wants CHANGE-REQUEST.
        let old = "00112233445566778899aabbccddeeff";
        let answer = answer(&bytes(&format!("0001 0008 {old} 0003 0004 00000000")), "192.0.2.1:32853".parse().unwrap());
        assert_eq!(answer, Some(bytes(&format!("0101 000c {old} 0001 0008 0001 8055 c0000201"))));
    }

    #[test]
    fn who_asks_reads_what_is_answered() {
        for peer in ["192.0.2.1:32853", "[2001:db8::7]:5060"] {
            let (peer, id) = (peer.parse().unwrap(), [7; 12]);
            let answer = answer(&question(id), peer).expect("an answer");
            assert_eq!((mapped(&answer, id), mapped(&answer, [8; 12])), (Some(peer), None));
        }
    }

    #[test]
    fn what_must_be_understood_and_is_not_is_named() {
        // RFC 5769 §2.1 without the rest: PRIORITY (0x0024) is of ICE, SOFTWARE (0x8022) may be skipped.
        let request = bytes(&format!("0001 0010 {ID} 0024 0004 6e0001ff 8022 0003 61626300"));
        let answer = answer(&request, "192.0.2.1:1".parse().unwrap()).expect("an answer");
        assert_eq!(&answer[..2], bytes("0111"));
        assert!(answer.ends_with(&bytes("000a 0002 0024 0000")), "{answer:02x?}");
    }

    #[test]
    fn all_else_is_met_with_silence() {
        let peer = "192.0.2.1:1".parse().unwrap();
        for hex in [
            format!("0101 0000 {ID}"),
            format!("0011 0000 {ID}"),
            format!("0001 0004 {ID}"),
            format!("0001 0003 {ID} 000000"),
            format!("0001 0004 {ID} 0006 0008"),
            "0001 0000 2112a442".to_owned(),
        ] {
            assert_eq!(answer(&bytes(&hex), peer), None, "{hex}");
        }
        assert!(is_stun(&bytes(&format!("0001 0000 {ID}"))) && !is_stun(b"OPTIONS sip:a SIP/2.0\r\n\r\n") && !is_stun(b"\0"));
    }
}
