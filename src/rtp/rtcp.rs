//! RTCP as far as a voice relay needs it (RFC 3550 §6): sender and receiver reports with a CNAME out, sender reports in.
//!
//! What else comes (SDES, BYE, APP, feedback) is stepped over. Missing: the randomised interval of §6.3, which is meant for
//! conferences; between two ends a fixed one does.

use std::time::Duration;

use super::{Error, reception::Block};

/// The interval that RFC 3550 §6.2 recommends at least.
pub const INTERVAL: Duration = Duration::from_secs(5);
/// Room for a report with one block and a CNAME.
pub const MAX_REPORT: usize = 28 + 24 + 8 + 2 + 24 + 4;

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const CNAME: u8 = 1;

/// What a sender tells of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderInfo {
    /// Seconds since 1900 and their fraction in 2⁻³² s. Only differences count for us: it need not be the wall clock (§4).
    pub ntp: u64,
    pub timestamp: u32,
    pub packets: u32,
    pub octets: u32,
}

/// Writes a compound report: SR, or RR without `sender`, then SDES with the SSRC as CNAME. Gives the length.
pub fn write(out: &mut [u8], ssrc: u32, sender: Option<SenderInfo>, block: Option<Block>) -> Option<usize> {
    let mut writer = Writer { out, at: 0 };
    let words = 1 + if sender.is_some() { 5 } else { 0 } + if block.is_some() { 6 } else { 0 };
    let kind = if sender.is_some() { SENDER_REPORT } else { RECEIVER_REPORT };
    writer.put(&[0x80 | u8::from(block.is_some()), kind, 0, words])?;
    writer.put(&ssrc.to_be_bytes())?;
    if let Some(sender) = sender {
        writer.put(&sender.ntp.to_be_bytes())?;
        writer.put(&sender.timestamp.to_be_bytes())?;
        writer.put(&sender.packets.to_be_bytes())?;
        writer.put(&sender.octets.to_be_bytes())?;
    }
    if let Some(block) = block {
        writer.put(&block.ssrc.to_be_bytes())?;
        writer.put(&(u32::from(block.fraction_lost) << 24 | block.lost & 0x00ff_ffff).to_be_bytes())?;
        writer.put(&block.highest.to_be_bytes())?;
        writer.put(&block.jitter.to_be_bytes())?;
        writer.put(&block.last_sr.to_be_bytes())?;
        writer.put(&block.delay_since_sr.to_be_bytes())?;
    }
    // A random name for each session, which tells nothing about the machine (RFC 7022 §4.2).
    writer.put(&[0x81, SOURCE_DESCRIPTION, 0, 4])?;
    writer.put(&ssrc.to_be_bytes())?;
    writer.put(&[CNAME, 8])?;
    for digit in (0..8).rev() {
        writer.put(&[b"0123456789abcdef"[(ssrc >> (4 * digit) & 15) as usize]])?;
    }
    // The list ends with a zero, and the chunk on a word.
    writer.put(&[0, 0])?;
    Some(writer.at)
}

struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.out.get_mut(self.at..self.at + bytes.len())?.copy_from_slice(bytes);
        self.at += bytes.len();
        Some(())
    }
}

/// A sender report as received: whose, and the middle 32 bits of its time, which our next report gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderReport {
    pub ssrc: u32,
    pub ntp_middle: u32,
}

/// Walks a compound packet to its sender report; `None` if it holds none.
pub fn parse(bytes: &[u8]) -> Result<Option<SenderReport>, Error> {
    let mut rest = bytes;
    let mut found = None;
    while !rest.is_empty() {
        let short = Error::Short { got: rest.len() };
        let [flags, kind, high, low] = *rest.first_chunk::<4>().ok_or(short)?;
        if flags >> 6 != 2 {
            return Err(Error::Version(flags >> 6));
        }
        if !(192..=223).contains(&kind) {
            return Err(Error::NotRtcp(kind));
        }
        let length = 4 + 4 * usize::from(u16::from_be_bytes([high, low]));
        let packet = rest.get(..length).ok_or(short)?;
        if kind == SENDER_REPORT {
            let [_, _, _, _, a, b, c, d, _, _, e, f, g, h] = *packet.first_chunk::<14>().ok_or(short)?;
            found = Some(SenderReport { ssrc: u32::from_be_bytes([a, b, c, d]), ntp_middle: u32::from_be_bytes([e, f, g, h]) });
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: Block = Block { ssrc: 7, fraction_lost: 128, lost: 3, highest: 0x1_0005, jitter: 9, last_sr: 1, delay_since_sr: 65_536 };

    #[test]
    fn a_report_is_laid_out_as_in_the_standard() {
        let mut bytes = [0; MAX_REPORT];
        let sender = SenderInfo { ntp: 0x0102_0304_0506_0708, timestamp: 160, packets: 1, octets: 160 };
        let length = write(&mut bytes, 0xdead_beef, Some(sender), Some(BLOCK)).expect("fits");
        assert_eq!(length, 28 + 24 + 20);
        assert_eq!(bytes[..8], [0x81, 200, 0, 12, 0xde, 0xad, 0xbe, 0xef]);
        assert_eq!(bytes[32..36], [128, 0, 0, 3], "lost");
        assert_eq!(&bytes[52..72], b"\x81\xca\0\x04\xde\xad\xbe\xef\x01\x08deadbeef\0\0");
        assert_eq!(parse(&bytes[..length]), Ok(Some(SenderReport { ssrc: 0xdead_beef, ntp_middle: 0x0304_0506 })));

        let length = write(&mut bytes, 1, None, None).expect("fits");
        assert_eq!(bytes[..4], [0x80, 201, 0, 1]);
        assert_eq!(parse(&bytes[..length]), Ok(None));
        assert_eq!(write(&mut [0; 20], 1, Some(sender), None), None, "no room");
    }

    #[test]
    fn faults_have_names() {
        for (story, bytes, fault) in [
            ("cut", &[0x80, 200, 0, 6, 1][..], Error::Short { got: 5 }),
            ("RTP", &[0x80, 0, 0, 0], Error::NotRtcp(0)),
            ("text", b"hello", Error::Version(1)),
            ("an SR too short for its head", &[0x80, 200, 0, 1, 1, 2, 3, 4], Error::Short { got: 8 }),
        ] {
            assert_eq!(parse(bytes), Err(fault), "{story}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), kind in 190u8..226) {
            if bytes.len() > 4 {
                (bytes[0], bytes[1], bytes[2]) = (0x80, kind, 0);
            }
            let _ = parse(&bytes);
        }
    }
}
