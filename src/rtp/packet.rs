//! One RTP packet, read and written in place (RFC 3550 §5.1): no allocation, no copy of the payload.
//!
//! CSRC lists and header extensions are skipped when read and never written.

use super::Error;

/// Length of the header that we write.
pub const HEADER: usize = 12;

/// A packet as a view over the bytes it came in, or over the payload it shall carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// 0–127; what it means is agreed in SDP.
    pub payload_type: u8,
    /// First packet after a pause (RFC 3551 §4.1), or of a key press (RFC 4733 §2.3).
    pub marker: bool,
    pub sequence: u16,
    /// In units of the payload's clock, 8 kHz for all that we speak (G.722 too, RFC 3551 §4.5.2).
    pub timestamp: u32,
    pub ssrc: u32,
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads a datagram. Padding is taken off the payload.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let short = Error::Short { got: bytes.len() };
        let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or(short)?;
        let [flags, kind, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3] = *header;
        if flags >> 6 != 2 {
            return Err(Error::Version(flags >> 6));
        }
        let mut payload = rest.get(usize::from(flags & 0x0f) * 4..).ok_or(short)?;
        if flags & 0x10 != 0 {
            let ([_, _, high, low], after) = payload.split_first_chunk::<4>().ok_or(short)?;
            payload = after.get(usize::from(u16::from_be_bytes([*high, *low])) * 4..).ok_or(short)?;
        }
        if flags & 0x20 != 0 {
            let padding = *payload.last().ok_or(short)?;
            let kept = payload.len().checked_sub(usize::from(padding)).filter(|_| padding > 0).ok_or(Error::Padding(padding))?;
            payload = payload.get(..kept).ok_or(Error::Padding(padding))?;
        }
        Ok(Self {
            payload_type: kind & 0x7f,
            marker: kind & 0x80 != 0,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([c0, c1, c2, c3]),
            payload,
        })
    }

    /// Writes header and payload, and gives the length; `None` when `out` is too short.
    pub fn write(&self, out: &mut [u8]) -> Option<usize> {
        let (header, body) = out.split_first_chunk_mut::<HEADER>()?;
        *header = self.header();
        body.get_mut(..self.payload.len())?.copy_from_slice(self.payload);
        Some(HEADER + self.payload.len())
    }

    /// The twelve bytes before the payload.
    pub fn header(&self) -> [u8; HEADER] {
        let [s0, s1] = self.sequence.to_be_bytes();
        let [t0, t1, t2, t3] = self.timestamp.to_be_bytes();
        let [c0, c1, c2, c3] = self.ssrc.to_be_bytes();
        [0x80, u8::from(self.marker) << 7 | self.payload_type & 0x7f, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3]
    }
}

/// Whether a datagram is RTCP where both share a port (RFC 5761 §4): packet types 192 to 223 in the second byte.
pub fn is_rtcp(bytes: &[u8]) -> bool {
    bytes.get(1).is_some_and(|kind| (192..=223).contains(kind))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_skipped_and_what_is_kept() {
        let plain = Packet { payload_type: 8, marker: true, sequence: 65535, timestamp: 160, ssrc: 0xdead_beef, payload: b"abc" };
        let mut bytes = [0; 64];
        let length = plain.write(&mut bytes).expect("fits");
        assert_eq!(Packet::parse(&bytes[..length]), Ok(plain));

        // Two CSRCs, an extension of one word, and three bytes of padding around the same payload.
        let mut decorated = plain.header().to_vec();
        decorated[0] = 0x80 | 0x20 | 0x10 | 2;
        decorated.extend_from_slice(&[1; 8]);
        decorated.extend_from_slice(&[0xbe, 0xde, 0, 1, 9, 9, 9, 9]);
        decorated.extend_from_slice(b"abc\0\0\x03");
        assert_eq!(Packet::parse(&decorated), Ok(plain));
    }

    #[test]
    fn faults_have_names() {
        for (story, bytes, fault) in [
            ("empty", vec![], Error::Short { got: 0 }),
            ("SIP text", b"OPTIONS sip:a SIP/2.0".to_vec(), Error::Version(1)),
            ("CSRCs announced, none there", [&[0x8f][..], &[0; 11]].concat(), Error::Short { got: 12 }),
            ("only padding, and too much", [&[0xa0][..], &[0; 11], &[9]].concat(), Error::Padding(9)),
            ("padding of zero bytes", [&[0xa0][..], &[0; 11], &[0]].concat(), Error::Padding(0)),
        ] {
            assert_eq!(Packet::parse(&bytes), Err(fault), "{story}");
        }
        assert_eq!(Packet { payload: &[0; 20], ..Packet::parse(&[0x80; 12]).expect("a header") }.write(&mut [0; 20]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = (Packet::parse(&bytes), is_rtcp(&bytes));
        }

        #[test]
        fn what_was_written_is_read(
            payload_type in 0u8..128, marker: bool, sequence: u16, timestamp: u32, ssrc: u32,
            payload in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let packet = Packet { payload_type, marker, sequence, timestamp, ssrc, payload: &payload };
            let mut bytes = [0; 256];
            let length = packet.write(&mut bytes).expect("fits");
            prop_assert_eq!(Packet::parse(&bytes[..length]), Ok(packet));
        }
    }
}
