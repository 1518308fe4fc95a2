//! TFTP packets: what arrives becomes a type here once, what leaves is written here (RFC 1350 §5, RFC 2347).
//!
//! Not here: what options are granted (`options.rs`).

/// No request with a name and options that a phone sends is longer (RFC 2347 allows 512).
pub const MAX_REQUEST: usize = 2048;
/// Opcode and block number before the data.
pub const DATA_HEADER: usize = 4;

const RRQ: u16 = 1;
const WRQ: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OACK: u16 = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// RRQ: the client wants a file.
    Read,
    /// WRQ: the client brings one.
    Write,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Octet,
    Netascii,
}

/// RRQ or WRQ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub direction: Direction,
    pub name: String,
    pub mode: Mode,
    pub asked: Asked,
    /// What an old Grandstream tells about itself in private options (`grandstream_MODEL`, `grandstream_ID`).
    pub agent: Option<String>,
}

/// The options of a request that we know, as numbers and not yet judged. Values that are no number are as if not sent
/// (RFC 2347: an option that cannot be honoured is left out of the OACK).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub blksize: Option<u64>,
    pub tsize: Option<u64>,
    pub timeout: Option<u64>,
    pub windowsize: Option<u64>,
}

/// Why a datagram at the listening port is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Not RRQ or WRQ at all: answering could start a loop between two servers.
    NotARequest,
    /// A request that is cut short or has no name.
    Broken,
    /// Neither `octet` nor `netascii`.
    Mode,
}

/// What arrives within a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    Data { block: u16, bytes: &'a [u8] },
    Ack { block: u16 },
    Error { code: u16, message: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum ErrorCode {
    Undefined = 0,
    NotFound = 1,
    AccessViolation = 2,
    DiskFull = 3,
    Illegal = 4,
}

impl Request {
    /// Reads a datagram that came to the listening port.
    pub fn parse(datagram: &[u8]) -> Result<Self, Malformed> {
        let (opcode, rest) = split_u16(datagram).ok_or(Malformed::NotARequest)?;
        let direction = match opcode {
            RRQ => Direction::Read,
            WRQ => Direction::Write,
            _ => return Err(Malformed::NotARequest),
        };
        if datagram.len() > MAX_REQUEST {
            return Err(Malformed::Broken);
        }
        let mut fields = Fields(rest);
        let name = fields.next().ok_or(Malformed::Broken)?;
        let mode = fields.next().ok_or(Malformed::Broken)?;
        let mode = match () {
            () if mode.eq_ignore_ascii_case("octet") => Mode::Octet,
            () if mode.eq_ignore_ascii_case("netascii") => Mode::Netascii,
            () => return Err(Malformed::Mode),
        };
        if name.is_empty() {
            return Err(Malformed::Broken);
        }
        let mut request = Self { direction, name, mode, asked: Asked::default(), agent: None };
        let (mut model, mut id) = (None, None);
        while let Some((option, value)) = fields.next().and_then(|option| Some((option, fields.next()?))) {
            let number = value.parse().ok();
            let asked = &mut request.asked;
            match option.to_ascii_lowercase().as_str() {
                "blksize" => asked.blksize = asked.blksize.or(number),
                "tsize" => asked.tsize = asked.tsize.or(number),
                "timeout" => asked.timeout = asked.timeout.or(number),
                "windowsize" => asked.windowsize = asked.windowsize.or(number),
                // Old Grandstreams (GXP2000, HT, GXE) name themselves nowhere else.
                "grandstream_model" => model = Some(value),
                "grandstream_id" => id = Some(value),
                _ => {}
            }
        }
        if model.is_some() || id.is_some() {
            let text = format!("Grandstream {} {}", model.unwrap_or_default(), id.unwrap_or_default());
            request.agent = Some(text.split_whitespace().collect::<Vec<_>>().join(" "));
        }
        Ok(request)
    }
}

/// Fields that end with NUL. One that does not end is none (RFC 1350 §5).
struct Fields<'a>(&'a [u8]);

impl Iterator for Fields<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let end = memchr::memchr(0, self.0)?;
        let (field, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        Some(String::from_utf8_lossy(field).into_owned())
    }
}

impl<'a> Packet<'a> {
    /// Reads a datagram of a running transfer; `None` for what has no place there.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (opcode, rest) = split_u16(datagram)?;
        let (number, rest) = split_u16(rest)?;
        match opcode {
            DATA => Some(Self::Data { block: number, bytes: rest }),
            ACK => Some(Self::Ack { block: number }),
            ERROR => {
                let text = rest.split(|byte| *byte == 0).next().unwrap_or_default();
                let text = String::from_utf8_lossy(text.get(..128).unwrap_or(text)).into_owned();
                Some(Self::Error { code: number, message: text.chars().filter(|c| !c.is_control()).collect() })
            }
            _ => None,
        }
    }
}

fn split_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*head), rest))
}

/// Writes a DATA packet over what was in `to`.
pub fn write_data(to: &mut Vec<u8>, block: u16, bytes: &[u8]) {
    to.clear();
    to.extend_from_slice(&DATA.to_be_bytes());
    to.extend_from_slice(&block.to_be_bytes());
    to.extend_from_slice(bytes);
}

/// Writes an ACK over what was in `to`.
pub fn write_ack(to: &mut Vec<u8>, block: u16) {
    to.clear();
    to.extend_from_slice(&ACK.to_be_bytes());
    to.extend_from_slice(&block.to_be_bytes());
}

/// An ERROR packet.
pub fn error(code: ErrorCode, message: &str) -> Vec<u8> {
    let mut packet = ERROR.to_be_bytes().to_vec();
    packet.extend_from_slice(&(code as u16).to_be_bytes());
    packet.extend(message.bytes().filter(|byte| *byte != 0));
    packet.push(0);
    packet
}

/// An OACK packet with these options (RFC 2347).
pub fn oack(options: &[(&str, u64)]) -> Vec<u8> {
    let mut packet = OACK.to_be_bytes().to_vec();
    for (name, value) in options {
        packet.extend_from_slice(name.as_bytes());
        packet.push(0);
        packet.extend_from_slice(value.to_string().as_bytes());
        packet.push(0);
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_as_phones_send_them() {
        let plain = Request::parse(b"\0\x01/spa504G.cfg\0octet\0").expect("a request");
        assert_eq!((plain.direction, plain.name.as_str(), plain.mode), (Direction::Read, "/spa504G.cfg", Mode::Octet));
        assert_eq!((plain.asked, plain.agent), (Asked::default(), None));

        // The options of an old Grandstream, as its vendor's GXE502x manual prints them.
        let old = Request::parse(
            b"\0\x01cfg000b82aabbcc\0octet\0blksize\x001024\0tsize\x000\0timeout\x004\0grandstream_MODEL\0GXP2000\0grandstream_ID\x00000b82aabbcc\0grandstream_NAT\x000\0",
        )
        .expect("a request");
        assert_eq!(old.asked, Asked { blksize: Some(1024), tsize: Some(0), timeout: Some(4), windowsize: None });
        assert_eq!(old.agent.as_deref(), Some("Grandstream GXP2000 000b82aabbcc"));

        let shouting = Request::parse(b"\0\x02x\0NetASCII\0BLKSIZE\0junk\0BlkSize\x0099\0WindowSize\0-4\0tsize").expect("a request");
        assert_eq!((shouting.direction, shouting.mode), (Direction::Write, Mode::Netascii));
        assert_eq!(shouting.asked, Asked { blksize: Some(99), ..Asked::default() });
    }

    #[test]
    fn what_is_no_request() {
        for (bytes, fault) in [
            (&b""[..], Malformed::NotARequest),
            (b"\0", Malformed::NotARequest),
            (b"\0\x03\0\x01x", Malformed::NotARequest),
            (b"\0\x05\0\0no\0", Malformed::NotARequest),
            (b"\0\x01", Malformed::Broken),
            (b"\0\x01name", Malformed::Broken),
            (b"\0\x01name\0octet", Malformed::Broken),
            (b"\0\x01\0octet\0", Malformed::Broken),
            (b"\0\x01name\0mail\0", Malformed::Mode),
        ] {
            assert_eq!(Request::parse(bytes), Err(fault), "{bytes:?}");
        }
        let mut long = b"\0\x01".to_vec();
        long.resize(3000, b'a');
        long.extend_from_slice(b"\0octet\0");
        assert_eq!(Request::parse(&long), Err(Malformed::Broken));
    }

    #[test]
    fn packets_within_a_transfer() {
        assert_eq!(Packet::parse(b"\0\x04\xff\xff"), Some(Packet::Ack { block: 65535 }));
        assert_eq!(Packet::parse(b"\0\x03\0\x01"), Some(Packet::Data { block: 1, bytes: b"" }));
        assert_eq!(Packet::parse(b"\0\x05\0\x08stop\x1b[0m"), Some(Packet::Error { code: 8, message: "stop[0m".into() }));
        for junk in [&b""[..], b"\0\x04", b"\0\x04\0", b"\0\x09\0\x01", b"\0\x01name\0octet\0"] {
            assert_eq!(Packet::parse(junk), None, "{junk:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            let _ = Request::parse(&bytes);
            let _ = Packet::parse(&bytes);
        }
    }
}
