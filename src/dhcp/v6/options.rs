//! Messages of DHCPv6 as bytes (RFC 8415 §8, §9, §21): read without copying, written from a list.
//!
//! Relays wrap messages into messages; [`Packet::parse`] takes them apart, outermost first, [`Packet::answer`] puts the answer into as
//! many. Every length is held against what is there. Our own, as dhcproto's decoder computes lengths of some options below zero, which
//! ends a debug build; it is the oracle of the tests. Not here: what the options mean.

use std::net::Ipv6Addr;

use crate::model::MacAddr;

/// Option codes.
pub mod code {
    pub const CLIENT_ID: u16 = 1;
    pub const SERVER_ID: u16 = 2;
    pub const IA_NA: u16 = 3;
    pub const IA_TA: u16 = 4;
    pub const IA_ADDRESS: u16 = 5;
    /// Which options the client asks for.
    pub const ORO: u16 = 6;
    pub const PREFERENCE: u16 = 7;
    pub const RELAY_MESSAGE: u16 = 9;
    pub const STATUS: u16 = 13;
    pub const RAPID_COMMIT: u16 = 14;
    pub const USER_CLASS: u16 = 15;
    pub const VENDOR_CLASS: u16 = 16;
    pub const VENDOR_OPTIONS: u16 = 17;
    pub const INTERFACE_ID: u16 = 18;
    pub const SIP_DOMAINS: u16 = 21;
    pub const SIP_ADDRESSES: u16 = 22;
    pub const DNS: u16 = 23;
    pub const DOMAINS: u16 = 24;
    pub const IA_PD: u16 = 25;
    pub const SNTP: u16 = 31;
    pub const REFRESH_TIME: u16 = 32;
    pub const REMOTE_ID: u16 = 37;
    pub const NTP: u16 = 56;
    pub const BOOT_FILE_URL: u16 = 59;
    /// The client's MAC, by the relay that heard it (RFC 6939).
    pub const CLIENT_MAC: u16 = 79;
}

/// Status codes (RFC 8415 §21.13).
pub mod status {
    pub const SUCCESS: u16 = 0;
    pub const NO_ADDRESSES: u16 = 2;
    pub const NO_BINDING: u16 = 3;
    pub const NOT_ON_LINK: u16 = 4;
    pub const USE_MULTICAST: u16 = 5;
    pub const NO_PREFIX: u16 = 6;
}

/// Message types.
pub mod kind {
    pub const SOLICIT: u8 = 1;
    pub const ADVERTISE: u8 = 2;
    pub const REQUEST: u8 = 3;
    pub const CONFIRM: u8 = 4;
    pub const RENEW: u8 = 5;
    pub const REBIND: u8 = 6;
    pub const REPLY: u8 = 7;
    pub const RELEASE: u8 = 8;
    pub const DECLINE: u8 = 9;
    pub const INFORMATION_REQUEST: u8 = 11;
    pub const RELAY_FORWARD: u8 = 12;
    pub const RELAY_REPLY: u8 = 13;
}

/// Relays that a message may have come through (RFC 8415 §7.6, HOP_COUNT_LIMIT).
pub const MOST_RELAYS: usize = 8;
/// A DUID has a type and at most 128 bytes more (RFC 8415 §11.1).
const LONGEST_DUID: usize = 130;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("the message ends within a field")]
    Truncated,
    #[error("a relay passed on no message")]
    Empty,
    #[error("it came through more than {MOST_RELAYS} relays")]
    TooManyRelays,
    #[error("an identifier of {0} bytes")]
    Duid(usize),
}

/// Options in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Options<'a> {
    pub fn parse(mut bytes: &'a [u8]) -> Result<Self, ParseError> {
        let mut list = Vec::new();
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at_checked(4).ok_or(ParseError::Truncated)?;
            let (code, length) = (u16_at(head, 0)?, u16_at(head, 2)?);
            let (value, rest) = rest.split_at_checked(length.into()).ok_or(ParseError::Truncated)?;
            list.push((code, value));
            bytes = rest;
        }
        Ok(Self(list))
    }

    /// The first of this code.
    pub fn get(&self, code: u16) -> Option<&'a [u8]> {
        self.all(code).next()
    }

    pub fn all(&self, code: u16) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |(known, _)| *known == code).map(|(_, value)| *value)
    }

    pub fn has(&self, code: u16) -> bool {
        self.get(code).is_some()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u16, &'a [u8])> {
        self.0.iter().copied()
    }

    /// What the client asks for; `None` when it does not say.
    pub fn asked(&self) -> Option<Vec<u16>> {
        let list = self.get(code::ORO)?;
        Some(list.chunks_exact(2).filter_map(|pair| u16_at(pair, 0).ok()).collect())
    }

    /// The client's identifier.
    pub fn client_id(&self) -> Option<&'a [u8]> {
        self.get(code::CLIENT_ID)
    }

    /// The texts of option 16, after the number of the enterprise (RFC 8415 §21.16).
    pub fn vendor_classes(&self) -> Vec<&'a [u8]> {
        self.all(code::VENDOR_CLASS).filter_map(|value| value.get(4..)).flat_map(texts).collect()
    }

    /// The numbers of enterprises in option 16.
    pub fn enterprises(&self) -> Vec<u32> {
        let number = |value: &[u8]| Some(u32::from_be_bytes(value.first_chunk().copied()?));
        self.all(code::VENDOR_CLASS).filter_map(number).collect()
    }

    /// The texts of option 15.
    pub fn user_classes(&self) -> Vec<&'a [u8]> {
        self.all(code::USER_CLASS).flat_map(texts).collect()
    }
}

/// Texts with two bytes of length before each; what is cut off is left out.
fn texts(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut list = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(2) {
        let Some((text, rest)) = u16_at(head, 0).ok().and_then(|length| rest.split_at_checked(length.into())) else { break };
        list.push(text);
        bytes = rest;
    }
    list
}

/// What a relay wrote around a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Relay<'a> {
    pub hops: u8,
    /// An address of the link that the message was heard on; unspecified when the relay knows none.
    pub link_address: Ipv6Addr,
    /// Who sent the message to this relay: the client, or the relay before.
    pub peer_address: Ipv6Addr,
    pub options: Options<'a>,
}

/// A client's message, and the relays that it came through.
#[derive(Clone, Debug, PartialEq)]
pub struct Packet<'a> {
    /// Outermost first, so that the last is the one that heard the client.
    pub relays: Vec<Relay<'a>>,
    pub kind: u8,
    pub xid: [u8; 3],
    pub options: Options<'a>,
}

impl<'a> Packet<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let (mut bytes, mut relays) = (bytes, Vec::new());
        while bytes.first() == Some(&kind::RELAY_FORWARD) {
            if relays.len() == MOST_RELAYS {
                return Err(ParseError::TooManyRelays);
            }
            let (head, rest) = bytes.split_at_checked(34).ok_or(ParseError::Truncated)?;
            let options = Options::parse(rest)?;
            let inner = options.get(code::RELAY_MESSAGE).filter(|inner| !inner.is_empty()).ok_or(ParseError::Empty)?;
            relays.push(Relay { hops: head[1], link_address: address_at(head, 2)?, peer_address: address_at(head, 18)?, options });
            bytes = inner;
        }
        let (head, rest) = bytes.split_at_checked(4).ok_or(ParseError::Truncated)?;
        let packet = Self { relays, kind: head[0], xid: [head[1], head[2], head[3]], options: Options::parse(rest)? };
        match packet.options.client_id().map(<[u8]>::len) {
            Some(length) if !(3..=LONGEST_DUID).contains(&length) => Err(ParseError::Duid(length)),
            _ => Ok(packet),
        }
    }

    /// An answer with these options, wrapped for the relays (RFC 8415 §19.3).
    pub fn answer(&self, kind: u8, options: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let answer = message(kind, self.xid, options);
        self.relays.iter().rev().fold(answer, |inner, relay| {
            let mut bytes = vec![kind::RELAY_REPLY, relay.hops];
            bytes.extend(relay.link_address.octets());
            bytes.extend(relay.peer_address.octets());
            if let Some(id) = relay.options.get(code::INTERFACE_ID) {
                push(&mut bytes, code::INTERFACE_ID, id);
            }
            push(&mut bytes, code::RELAY_MESSAGE, &inner);
            bytes
        })
    }

    /// The client's MAC: as its relay heard it, as its link-local address was made of it (RFC 4291 appendix A), or as its DUID says.
    /// The last may be that of another interface of the same device, and so it counts least.
    pub fn mac(&self, source: Ipv6Addr) -> Option<MacAddr> {
        let relay = self.relays.last();
        let heard = || ethernet(relay?.options.get(code::CLIENT_MAC)?);
        let by_address = || of_interface_id(relay.map_or(source, |relay| relay.peer_address));
        heard().or_else(by_address).or_else(|| of_duid(self.options.client_id()?))
    }
}

/// A message without relays around it.
pub fn message(kind: u8, xid: [u8; 3], options: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![kind, xid[0], xid[1], xid[2]];
    options.iter().for_each(|(code, value)| push(&mut bytes, *code, value));
    bytes
}

/// Options one after the other, as in a message or in another option.
pub fn encoded(options: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    options.iter().for_each(|(code, value)| push(&mut bytes, *code, value));
    bytes
}

/// What does not fit into an option is left out; we write nothing that long.
fn push(bytes: &mut Vec<u8>, code: u16, value: &[u8]) {
    let Ok(length) = u16::try_from(value.len()) else { return };
    bytes.extend(code.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(value);
}

/// Hardware type 1 and six bytes.
fn ethernet(value: &[u8]) -> Option<MacAddr> {
    let (kind, address) = value.split_at_checked(2)?;
    (kind == [0, 1]).then_some(MacAddr(address.try_into().ok()?))
}

/// DUID-LLT and DUID-LL (RFC 8415 §11.2, §11.4).
fn of_duid(duid: &[u8]) -> Option<MacAddr> {
    let (kind, rest) = duid.split_at_checked(2)?;
    match kind {
        [0, 1] => ethernet(&[rest.get(..2)?, rest.get(6..)?].concat()),
        [0, 3] => ethernet(rest),
        _ => None,
    }
}

fn of_interface_id(address: Ipv6Addr) -> Option<MacAddr> {
    let o = address.octets();
    let made_of_a_mac = address.is_unicast_link_local() && o[11..13] == [0xff, 0xfe];
    made_of_a_mac.then_some(MacAddr([o[8] ^ 2, o[9], o[10], o[13], o[14], o[15]]))
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, ParseError> {
    let part = bytes.get(at..at + 2).and_then(|part| part.try_into().ok()).ok_or(ParseError::Truncated)?;
    Ok(u16::from_be_bytes(part))
}

fn address_at(bytes: &[u8], at: usize) -> Result<Ipv6Addr, ParseError> {
    let part: [u8; 16] = bytes.get(at..at + 16).and_then(|part| part.try_into().ok()).ok_or(ParseError::Truncated)?;
    Ok(part.into())
}

#[cfg(test)]
mod tests {
    use dhcproto::{Decodable, v6};
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn relayed(link: &str, peer: &str, more: &[(u16, Vec<u8>)], inner: Vec<u8>) -> Vec<u8> {
        let head = [&[kind::RELAY_FORWARD, 0][..], &ip(link).octets(), &ip(peer).octets()].concat();
        [head, encoded(more), encoded(&[(code::RELAY_MESSAGE, inner)])].concat()
    }

    #[test]
    fn the_mac_comes_from_whoever_knows_best() {
        const DUID_LL: &[u8] = b"\0\x03\0\x01\x00\x15\x65\xaa\xbb\xcc";
        const DUID_LLT: &[u8] = b"\0\x01\0\x01\x12\x34\x56\x78\x00\x15\x65\xaa\xbb\xcc";
        const DUID_UUID: &[u8] = b"\0\x04aaaaaaaaaaaaaaaa";
        let (by_address, heard) = ("fe80::215:65ff:feaa:1", (code::CLIENT_MAC, b"\0\x01\x00\x15\x65\xaa\xff\xff".to_vec()));
        for (story, duid, source, relay, mac) in [
            ("by its DUID-LL", DUID_LL, "fe80::1", None, Some("00:15:65:aa:bb:cc")),
            ("by its DUID-LLT", DUID_LLT, "fe80::1", None, Some("00:15:65:aa:bb:cc")),
            ("of another interface", DUID_LLT, by_address, None, Some("00:15:65:aa:00:01")),
            ("only by its address", DUID_UUID, by_address, None, Some("00:15:65:aa:00:01")),
            ("nobody knows", DUID_UUID, "fe80::1", None, None),
            ("not of a global address", DUID_UUID, "fd00::215:65ff:feaa:1", None, None),
            ("by its relay", DUID_LLT, "fd00::2", Some(vec![heard]), Some("00:15:65:aa:ff:ff")),
            ("behind a relay that says nothing", DUID_UUID, "fd00::2", Some(vec![]), Some("00:15:65:aa:00:01")),
        ] {
            let mut bytes = message(kind::SOLICIT, [1, 2, 3], &[(code::CLIENT_ID, duid.to_vec())]);
            if let Some(more) = &relay {
                bytes = relayed("fd00:1::1", by_address, more, bytes);
            }
            let found = Packet::parse(&bytes).unwrap().mac(ip(source));
            assert_eq!(found.map(|mac| mac.to_string()).as_deref(), mac, "{story}");
        }
    }

    #[test]
    fn answers_go_back_the_way_the_question_came() {
        let question = message(kind::INFORMATION_REQUEST, [7, 8, 9], &[]);
        let inner = relayed("::", "fe80::1", &[(code::INTERFACE_ID, b"port 7".to_vec())], question);
        let outer = relayed("fd00:1::1", "fe80::2", &[(code::REMOTE_ID, b"\0\0\0\x09switch".to_vec())], inner);
        let packet = Packet::parse(&outer).unwrap();
        assert_eq!(packet.relays.iter().map(|relay| relay.peer_address).collect::<Vec<_>>(), [ip("fe80::2"), ip("fe80::1")]);
        let answer = packet.answer(kind::REPLY, &[(code::PREFERENCE, vec![3])]);

        let (head, rest) = answer.split_at(34);
        assert_eq!((head[0], head[1], address_at(head, 2), address_at(head, 18)), (13, 0, Ok(ip("fd00:1::1")), Ok(ip("fe80::2"))));
        let (head, rest) = Options::parse(rest).unwrap().get(code::RELAY_MESSAGE).unwrap().split_at(34);
        assert_eq!((head[0], address_at(head, 2), address_at(head, 18)), (13, Ok(ip("::")), Ok(ip("fe80::1"))));
        let options = Options::parse(rest).unwrap();
        assert_eq!(options.get(code::INTERFACE_ID), Some(&b"port 7"[..]));
        // dhcproto reads no message within a relay's, but the message.
        let inner = options.get(code::RELAY_MESSAGE).unwrap();
        let message = v6::Message::decode(&mut v6::Decoder::new(inner)).expect("read by another hand");
        assert_eq!((message.msg_type(), message.xid()), (v6::MessageType::Reply, [7, 8, 9]));
        assert_eq!(message.opts().get(v6::OptionCode::Preference), Some(&v6::DhcpOption::Preference(3)));
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let id = (code::CLIENT_ID, b"\0\x03\0\x01\x00\x15\x65\xaa\xbb\xcc".to_vec());
        let whole = relayed("fd00:1::1", "fe80::1", &[], message(kind::SOLICIT, [1, 2, 3], &[id]));
        assert!(Packet::parse(&whole).is_ok());
        for length in 0..whole.len() {
            let cut = Packet::parse(&whole[..length]);
            // An option less is a whole message, but of a relay that passes none on.
            assert!(matches!(cut, Err(ParseError::Truncated | ParseError::Empty)), "{length}: {cut:?}");
        }
        let nested = |depth| (0..depth).fold(message(kind::SOLICIT, [0; 3], &[]), |inner, _| relayed("::", "::", &[], inner));
        assert!(Packet::parse(&nested(MOST_RELAYS)).is_ok());
        assert_eq!(Packet::parse(&nested(MOST_RELAYS + 1)), Err(ParseError::TooManyRelays));
        for length in [0, 2, 131] {
            let bytes = message(kind::SOLICIT, [0; 3], &[(code::CLIENT_ID, vec![0; length])]);
            assert_eq!(Packet::parse(&bytes), Err(ParseError::Duid(length)));
        }
        // An enterprise's number, then two texts, the second of which is cut off.
        let options = encoded(&[(code::VENDOR_CLASS, b"\0\0\x36\x3d\0\x07Polycom\0\x09VVX".to_vec())]);
        let options = Options::parse(&options).unwrap();
        assert_eq!((options.vendor_classes(), options.enterprises()), (vec![&b"Polycom"[..]], vec![13885]));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), nested in any::<bool>()) {
            let bytes = if nested { relayed("fd00::1", "fe80::1", &[], bytes) } else { bytes };
            if let Ok(packet) = Packet::parse(&bytes) {
                let _ = (packet.mac(Ipv6Addr::UNSPECIFIED), packet.options.asked(), packet.options.vendor_classes(), packet.options.enterprises());
                let own: Vec<_> = packet.options.iter().map(|(code, value)| (code, value.to_vec())).collect();
                let again = message(packet.kind, packet.xid, &own);
                prop_assert_eq!(Packet::parse(&again).map(|again| again.options), Ok(packet.options.clone()));
            }
        }
    }
}
