//! DHCPv4 packets, read without losing a byte and written in the order that phones expect (RFC 2131 §2, 2132, 3396).
//!
//! [`Packet::parse`] walks every option of the options field and, as option 52 says, of `file` and `sname`; joins
//! options that come in parts (RFC 3396), keeps values as raw bytes and never stops at one it does not know.
//! [`encode`] writes what it is given: 53 first, 82 last, long values in parts, padded to 300 bytes. The type of a
//! message is `dhcproto`'s, which is also the oracle of the tests; its decoder drops what follows an option that it
//! dislikes and panics at `hlen` over 16, so the reading is ours. Not here: what options mean (`server.rs`, `class.rs`).

use std::net::Ipv4Addr;

pub use dhcproto::v4::MessageType;

use crate::model::MacAddr;

/// Codes that this folder speaks of (RFC 2132 unless said otherwise).
pub mod code {
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const TIME_OFFSET: u8 = 2;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN: u8 = 15;
    pub const BROADCAST: u8 = 28;
    pub const NTP: u8 = 42;
    pub const VENDOR: u8 = 43;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const PARAMETER_LIST: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const MAX_SIZE: u8 = 57;
    pub const T1: u8 = 58;
    pub const T2: u8 = 59;
    pub const VENDOR_CLASS: u8 = 60;
    pub const CLIENT_ID: u8 = 61;
    pub const TFTP_SERVER: u8 = 66;
    pub const BOOT_FILE: u8 = 67;
    /// RFC 3004.
    pub const USER_CLASS: u8 = 77;
    /// RFC 3046.
    pub const RELAY_INFO: u8 = 82;
    /// RFC 4833.
    pub const POSIX_TZ: u8 = 100;
    /// RFC 4833.
    pub const TZ_NAME: u8 = 101;
    pub const END: u8 = 255;
}

/// Where the options begin: 236 bytes of BOOTP and the magic cookie.
const OPTIONS_AT: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Some stacks drop a reply that is shorter than the BOOTP of RFC 951.
const MIN_REPLY: usize = 300;
/// What every client must accept: 576 bytes of IP (RFC 2131 §2), less IP and UDP header.
pub const MIN_MAX_SIZE: usize = 548;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0} bytes are too few for a DHCP packet")]
    Short(usize),
    #[error("no DHCP magic cookie: a plain BOOTP client, which is not served")]
    Cookie,
}

/// The fixed part of a packet, as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// 1 from clients and relays, 2 from servers.
    pub op: u8,
    pub htype: u8,
    /// As sent. [`Head::hardware`] never reads more than the sixteen bytes that there are.
    pub hlen: u8,
    pub hops: u8,
    pub xid: u32,
    pub secs: u16,
    pub flags: u16,
    pub ciaddr: Ipv4Addr,
    pub yiaddr: Ipv4Addr,
    pub siaddr: Ipv4Addr,
    pub giaddr: Ipv4Addr,
    pub chaddr: [u8; 16],
    pub sname: [u8; 64],
    pub file: [u8; 128],
}

impl Head {
    pub const REQUEST: u8 = 1;
    pub const REPLY: u8 = 2;
    pub const BROADCAST: u16 = 0x8000;

    /// A request of an Ethernet client, all else zero.
    pub fn request(xid: u32, mac: MacAddr) -> Self {
        let mut chaddr = [0; 16];
        chaddr[..6].copy_from_slice(&mac.0);
        let none = Ipv4Addr::UNSPECIFIED;
        Self {
            op: Self::REQUEST,
            htype: 1,
            hlen: 6,
            hops: 0,
            xid,
            secs: 0,
            flags: 0,
            ciaddr: none,
            yiaddr: none,
            siaddr: none,
            giaddr: none,
            chaddr,
            sname: [0; 64],
            file: [0; 128],
        }
    }

    /// The hardware address, at most the sixteen bytes that the field has.
    pub fn hardware(&self) -> &[u8] {
        &self.chaddr[..usize::from(self.hlen).min(16)]
    }

    /// The MAC of an Ethernet client; other media are not ours.
    pub fn mac(&self) -> Option<MacAddr> {
        let bytes: [u8; 6] = self.hardware().try_into().ok()?;
        (self.htype == 1 && bytes != [0; 6]).then_some(MacAddr(bytes))
    }

    pub fn wants_broadcast(&self) -> bool {
        self.flags & Self::BROADCAST != 0
    }
}

/// A received packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub head: Head,
    pub options: Options,
}

impl Packet {
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let short = Error::Short(bytes.len());
        let (fixed, rest) = bytes.split_at_checked(OPTIONS_AT - 4).ok_or(short)?;
        let (cookie, area) = rest.split_at_checked(4).ok_or(short)?;
        if cookie != COOKIE {
            return Err(Error::Cookie);
        }
        let head = Head {
            op: fixed[0],
            htype: fixed[1],
            hlen: fixed[2],
            hops: fixed[3],
            xid: u32::from_be_bytes(array(fixed, 4)),
            secs: u16::from_be_bytes(array(fixed, 8)),
            flags: u16::from_be_bytes(array(fixed, 10)),
            ciaddr: array::<4>(fixed, 12).into(),
            yiaddr: array::<4>(fixed, 16).into(),
            siaddr: array::<4>(fixed, 20).into(),
            giaddr: array::<4>(fixed, 24).into(),
            chaddr: array(fixed, 28),
            sname: array(fixed, 44),
            file: array(fixed, 108),
        };
        Ok(Self { options: Options::walk(area, &head), head })
    }

    /// `None` for a packet without option 53: BOOTP with a cookie.
    pub fn message_type(&self) -> Option<MessageType> {
        self.options.get(code::MESSAGE_TYPE)?.first().map(|&byte| byte.into())
    }
}

/// Bytes at `at`, which the caller knows to be there: zeros if not, rather than a panic.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

/// Options in the order of their first part, each once, values joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    list: Vec<(u8, Vec<u8>)>,
    /// The walk met a length that points past the end of its field; that option is left out, all before it are here.
    pub damaged: bool,
}

impl Options {
    fn walk(area: &[u8], head: &Head) -> Self {
        let mut found = Self::default();
        // Where the first part of each code went: 256 small numbers make joining linear, whatever is sent.
        let mut places = [u16::MAX; 256];
        found.take(area, &mut places);
        // The areas follow in the order that RFC 3396 §5 joins them in.
        match found.get(code::OVERLOAD).and_then(|value| value.first().copied()) {
            Some(1) => found.take(&head.file, &mut places),
            Some(2) => found.take(&head.sname, &mut places),
            Some(3) => {
                found.take(&head.file, &mut places);
                found.take(&head.sname, &mut places);
            }
            _ => {}
        }
        found
    }

    fn take(&mut self, mut area: &[u8], places: &mut [u16; 256]) {
        while let Some((&option, rest)) = area.split_first() {
            match option {
                code::PAD => area = rest,
                code::END => return,
                _ => {
                    let Some((value, after)) = rest.split_first().and_then(|(&length, rest)| rest.split_at_checked(length.into())) else {
                        self.damaged = true;
                        return;
                    };
                    let place = &mut places[usize::from(option)];
                    match self.list.get_mut(usize::from(*place)) {
                        Some((_, joined)) => joined.extend_from_slice(value),
                        None => {
                            *place = self.list.len() as u16;
                            self.list.push((option, value.to_vec()));
                        }
                    }
                    area = after;
                }
            }
        }
    }

    pub fn get(&self, option: u8) -> Option<&[u8]> {
        self.list.iter().find(|(code, _)| *code == option).map(|(_, value)| value.as_slice())
    }

    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.list.iter().map(|(code, value)| (*code, value.as_slice()))
    }

    /// An option of exactly four bytes, as an address.
    pub fn address(&self, option: u8) -> Option<Ipv4Addr> {
        <[u8; 4]>::try_from(self.get(option)?).ok().map(Into::into)
    }

    /// An option of one or more addresses; bytes beyond the last whole one are ignored.
    pub fn addresses(&self, option: u8) -> Vec<Ipv4Addr> {
        self.get(option).unwrap_or_default().chunks_exact(4).map(|part| array::<4>(part, 0).into()).collect()
    }

    pub fn u16(&self, option: u8) -> Option<u16> {
        self.get(option)?.try_into().ok().map(u16::from_be_bytes)
    }

    pub fn u32(&self, option: u8) -> Option<u32> {
        self.get(option)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// An option as text: what is not UTF-8 is replaced, NULs at the end (which many phones send) are cut.
    pub fn text(&self, option: u8) -> Option<String> {
        self.get(option).map(|value| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned())
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// Sub-options, as in options 43, 82 and 125: code, length, value. Stops where a length points past the end.
pub fn sub_options(mut value: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&code, rest) = value.split_first()?;
        let (&length, rest) = rest.split_first()?;
        let (part, after) = rest.split_at_checked(length.into())?;
        value = after;
        Some((code, part))
    })
}

/// One sub-option of a value.
pub fn sub_option(value: &[u8], wanted: u8) -> Option<&[u8]> {
    sub_options(value).find(|(code, _)| *code == wanted).map(|(_, part)| part)
}

/// A packet ready for the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    pub bytes: Vec<u8>,
    /// Options that had no room, not even in `file` and `sname`.
    pub dropped: Vec<u8>,
}

/// Writes `head` and `options` in the given order, 82 last, within `limit` bytes (at least [`MIN_MAX_SIZE`]).
///
/// What does not fit goes whole into `file` and `sname`, if `head` leaves them empty, announced by option 52.
pub fn encode(head: &Head, options: &[(u8, Vec<u8>)], limit: usize) -> Encoded {
    let limit = limit.max(MIN_MAX_SIZE);
    let relay: Vec<u8> =
        options.iter().filter(|(code, _)| *code == code::RELAY_INFO).flat_map(|(code, value)| wire(*code, value)).collect();
    let others: Vec<(u8, Vec<u8>)> =
        options.iter().filter(|(code, _)| *code != code::RELAY_INFO).map(|(code, value)| (*code, wire(*code, value))).collect();
    let room = limit.saturating_sub(OPTIONS_AT + relay.len() + 1);
    let needed: usize = others.iter().map(|(_, bytes)| bytes.len()).sum();

    let mut head = *head;
    let mut area = Vec::with_capacity(needed.min(room) + relay.len() + 1);
    let mut dropped = Vec::new();
    if needed <= room {
        others.iter().for_each(|(_, bytes)| area.extend_from_slice(bytes));
    } else {
        // Three bytes are kept for option 52 itself.
        let mut spill = Spill::over(&head);
        for (code, bytes) in &others {
            if area.len() + bytes.len() + 3 <= room {
                area.extend_from_slice(bytes);
            } else if !spill.take(bytes) {
                dropped.push(*code);
            }
        }
        if let Some(overload) = spill.into_fields(&mut head) {
            area.extend_from_slice(&[code::OVERLOAD, 1, overload]);
        }
    }
    // RFC 3046 §2.1: the agent's option comes last.
    area.extend_from_slice(&relay);
    area.push(code::END);

    let mut bytes = Vec::with_capacity((OPTIONS_AT + area.len()).max(MIN_REPLY));
    bytes.extend_from_slice(&[head.op, head.htype, head.hlen, head.hops]);
    bytes.extend_from_slice(&head.xid.to_be_bytes());
    bytes.extend_from_slice(&head.secs.to_be_bytes());
    bytes.extend_from_slice(&head.flags.to_be_bytes());
    for address in [head.ciaddr, head.yiaddr, head.siaddr, head.giaddr] {
        bytes.extend_from_slice(&address.octets());
    }
    bytes.extend_from_slice(&head.chaddr);
    bytes.extend_from_slice(&head.sname);
    bytes.extend_from_slice(&head.file);
    bytes.extend_from_slice(&COOKIE);
    bytes.extend_from_slice(&area);
    bytes.resize(bytes.len().max(MIN_REPLY), code::PAD);
    Encoded { bytes, dropped }
}

/// An option as it goes out: values over 255 bytes in parts (RFC 3396 §7).
fn wire(option: u8, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 2);
    if value.is_empty() {
        out.extend_from_slice(&[option, 0]);
    }
    for part in value.chunks(255) {
        out.extend_from_slice(&[option, part.len() as u8]);
        out.extend_from_slice(part);
    }
    out
}

/// The two old fields that options may overflow into, each ending in END.
struct Spill {
    file: Option<Vec<u8>>,
    sname: Option<Vec<u8>>,
}

impl Spill {
    fn over(head: &Head) -> Self {
        Self { file: (head.file == [0; 128]).then(Vec::new), sname: (head.sname == [0; 64]).then(Vec::new) }
    }

    fn take(&mut self, option: &[u8]) -> bool {
        for (field, size) in [(&mut self.file, 128), (&mut self.sname, 64)] {
            if let Some(field) = field.as_mut().filter(|field| field.len() + option.len() < size) {
                field.extend_from_slice(option);
                return true;
            }
        }
        false
    }

    /// The value of option 52, if anything was spilled.
    fn into_fields(self, head: &mut Head) -> Option<u8> {
        let mut overload = 0;
        if let Some(mut field) = self.file.filter(|field| !field.is_empty()) {
            field.push(code::END);
            field.resize(128, code::PAD);
            head.file.copy_from_slice(&field);
            overload |= 1;
        }
        if let Some(mut field) = self.sname.filter(|field| !field.is_empty()) {
            field.push(code::END);
            field.resize(64, code::PAD);
            head.sname.copy_from_slice(&field);
            overload |= 2;
        }
        (overload != 0).then_some(overload)
    }
}

#[cfg(test)]
mod tests {
    use dhcproto::{Decodable, Decoder, v4};
    use proptest::prelude::*;

    use super::*;

    fn head() -> Head {
        Head::request(0x1234_5678, MacAddr([0, 0x15, 0x65, 1, 2, 3]))
    }

    fn packet(area: &[u8]) -> Vec<u8> {
        let mut bytes = encode(&head(), &[], 0).bytes;
        bytes.truncate(OPTIONS_AT);
        bytes.extend_from_slice(area);
        bytes
    }

    #[test]
    fn options_are_found_whatever_stands_before_them() {
        let mut area = vec![53, 1, 1];
        area.extend_from_slice(&[12, 3, 0xff, 0xfe, 0x41]); // a host name that is no text
        area.extend_from_slice(&[150, 8, 10, 0, 0, 1, 10, 0, 0, 2]); // two addresses
        area.extend_from_slice(&[81, 1, 9]); // a broken FQDN
        area.extend_from_slice(&[51, 2, 1, 1]); // a lease time of two bytes
        area.extend_from_slice(&[0, 0, 0]);
        area.extend_from_slice(&[55, 3, 1, 66, 43, 60, 8]);
        area.extend_from_slice(b"yealink\0");
        area.extend_from_slice(&[82, 4, 2, 2, 7, 7, 255, 99]);
        let read = Packet::parse(&packet(&area)).unwrap();
        assert_eq!(read.message_type(), Some(MessageType::Discover));
        assert_eq!(read.options.get(55), Some(&[1, 66, 43][..]));
        assert_eq!(read.options.text(60).as_deref(), Some("yealink"));
        assert_eq!(read.options.get(82), Some(&[2, 2, 7, 7][..]));
        assert_eq!(read.options.addresses(150), [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)]);
        assert_eq!(read.options.u32(51), None);
        assert!(!read.options.damaged);
        assert_eq!(read.options.len(), 8);
    }

    #[test]
    fn parts_are_joined_even_when_others_stand_between() {
        let read = Packet::parse(&packet(&[43, 2, b'a', b'b', 12, 1, b'h', 43, 1, b'c', 255])).unwrap();
        assert_eq!(read.options.text(43).as_deref(), Some("abc"));
        assert_eq!(read.options.text(12).as_deref(), Some("h"));
    }

    #[test]
    fn overloaded_fields_are_read_in_order() {
        let mut bytes = packet(&[52, 1, 3, 43, 1, b'1', 255]);
        bytes[108..115].copy_from_slice(&[43, 1, b'2', 66, 1, b't', 255]);
        bytes[44..48].copy_from_slice(&[43, 1, b'3', 255]);
        let read = Packet::parse(&bytes).unwrap();
        assert_eq!(read.options.text(43).as_deref(), Some("123"));
        assert_eq!(read.options.text(66).as_deref(), Some("t"));
    }

    #[test]
    fn a_length_past_the_end_loses_only_that_option() {
        let read = Packet::parse(&packet(&[53, 1, 3, 61, 40, 1])).unwrap();
        assert_eq!(read.message_type(), Some(MessageType::Request));
        assert!(read.options.damaged && read.options.get(61).is_none());
    }

    #[test]
    fn what_is_no_dhcp_is_told_apart() {
        assert_eq!(Packet::parse(&[0; 100]), Err(Error::Short(100)));
        assert_eq!(Packet::parse(&[0; 300]), Err(Error::Cookie));
        let mut long = packet(&[255]);
        long[2] = 255;
        let read = Packet::parse(&long).unwrap();
        assert_eq!((read.head.hardware().len(), read.head.mac()), (16, None));
    }

    #[test]
    fn replies_are_padded_ordered_and_split() {
        let long = vec![b'x'; 300];
        let written = encode(&head(), &[(53, vec![2]), (82, vec![1, 1, 9]), (1, vec![255; 4]), (3, vec![1; 4])], 0);
        assert_eq!(written.bytes.len(), 300);
        assert_eq!(written.bytes[240..261], [53, 1, 2, 1, 4, 255, 255, 255, 255, 3, 4, 1, 1, 1, 1, 82, 3, 1, 1, 9, 255]);
        let read = Packet::parse(&encode(&head(), &[(43, long.clone())], 1400).bytes).unwrap();
        assert_eq!(read.options.get(43), Some(&long[..]));
    }

    #[test]
    fn what_does_not_fit_overflows_and_then_is_named() {
        let options = [(53, vec![2]), (43, vec![7; 250]), (66, vec![8; 100]), (67, vec![9; 50]), (120, vec![1; 200])];
        let written = encode(&head(), &options, 0);
        assert!(written.bytes.len() <= MIN_MAX_SIZE);
        assert_eq!(written.dropped, [120]);
        let read = Packet::parse(&written.bytes).unwrap();
        for (code, value) in &options[..4] {
            assert_eq!(read.options.get(*code), Some(&value[..]), "{code}");
        }
    }

    #[test]
    fn dhcproto_reads_what_we_write() {
        let options = [
            (53, vec![2]),
            (54, vec![10, 0, 0, 1]),
            (51, vec![0, 0, 14, 16]),
            (1, vec![255, 255, 255, 0]),
            (3, vec![10, 0, 0, 1]),
            (66, b"http://10.0.0.1".to_vec()),
            (160, b"http://10.0.0.1".to_vec()),
        ];
        let written = encode(&head(), &options, 0);
        let theirs = v4::Message::decode(&mut Decoder::new(&written.bytes)).unwrap();
        assert_eq!(theirs.xid(), 0x1234_5678);
        assert_eq!(theirs.opts().msg_type(), Some(MessageType::Offer));
        assert_eq!(theirs.opts().get(v4::OptionCode::Router), Some(&v4::DhcpOption::Router(vec![Ipv4Addr::new(10, 0, 0, 1)])));
        assert_eq!(theirs.opts().get(v4::OptionCode::TFTPServerName), Some(&v4::DhcpOption::TFTPServerName(b"http://10.0.0.1".to_vec())));
    }

    #[test]
    fn a_hundred_thousand_mutations_do_no_harm() {
        let mut area = vec![53, 1, 1, 52, 1, 3, 55, 4, 1, 3, 66, 150, 60, 7];
        area.extend_from_slice(b"yealink");
        area.extend_from_slice(&[61, 7, 1, 0, 0x15, 0x65, 1, 2, 3, 82, 8, 1, 2, 0, 5, 2, 2, 9, 9, 255]);
        let good = packet(&area);
        // xorshift64: the same bytes on every run.
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as usize
        };
        for _ in 0..100_000 {
            let mut bytes = good.clone();
            for _ in 0..1 + next() % 6 {
                let at = next() % bytes.len();
                bytes[at] = next() as u8;
            }
            bytes.truncate(bytes.len() - (next() % 4) * (next() % 20));
            if let Ok(read) = Packet::parse(&bytes) {
                let _ = (read.head.mac(), read.message_type(), read.options.get(82).map(|value| sub_options(value).count()));
                let options: Vec<_> = read.options.iter().map(|(code, value)| (code, value.to_vec())).collect();
                assert!(encode(&read.head, &options, 0).bytes.len() >= MIN_REPLY);
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
            let _ = Packet::parse(&bytes);
            let _ = Packet::parse(&packet(&bytes));
            let _ = sub_options(&bytes).count();
        }

        #[test]
        fn what_is_written_is_read(values in prop::collection::btree_map(1u8..=254, prop::collection::vec(any::<u8>(), 0..400), 0..8)) {
            let options: Vec<_> = values.into_iter().filter(|(code, _)| *code != code::OVERLOAD).collect();
            let written = encode(&head(), &options, 4000);
            let read = Packet::parse(&written.bytes).unwrap();
            prop_assert!(written.dropped.is_empty() && !read.options.damaged);
            for (code, value) in &options {
                prop_assert_eq!(read.options.get(*code), Some(&value[..]));
            }
        }
    }
}
