//! What a receiver knows about one stream: highest sequence number, losses, jitter (RFC 3550 §6.4.1, A.1, A.3, A.8).
//!
//! Fed with each packet's numbers and its arrival; read by reports, statistics and the playout buffer.

use std::time::{Duration, Instant};

/// A jump larger than this, forward, is a new start of the sender and not thousands of losses (RFC 3550 A.1, MAX_DROPOUT).
const MAX_DROPOUT: u16 = 3000;
/// A packet this much older than the newest is late, not the sign of a restart (RFC 3550 A.1, MAX_MISORDER).
const MAX_MISORDER: u16 = 100;

/// Figures of one incoming stream. A new SSRC starts a new stream but keeps the totals.
#[derive(Clone, Debug, Default)]
pub struct Reception {
    stream: Option<Stream>,
    /// Packets taken, repeated ones included.
    pub packets: u64,
    /// Losses of streams that ended.
    lost_before: u64,
}

#[derive(Clone, Debug)]
struct Stream {
    ssrc: u32,
    /// Highest sequence number with its wraps in the upper half, and the first one.
    highest: u32,
    first: u32,
    received: u32,
    /// Arrival minus timestamp of the last packet, in timestamp units: jitter is how much this moves.
    transit: i64,
    /// In sixteenths of a timestamp unit, as in RFC 3550 A.8.
    jitter_x16: i64,
    epoch: Instant,
    /// At the last report.
    expected_prior: u32,
    received_prior: u32,
    /// The middle 32 bits of the NTP time in the sender's last report, and when it came (RFC 3550 §6.4.1, LSR, DLSR).
    sender_report: Option<(u32, Instant)>,
}

/// One block of a receiver report, without its SSRC's sender's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub ssrc: u32,
    /// Of the packets expected since the last report, in 1/256.
    pub fraction_lost: u8,
    pub lost: u32,
    pub highest: u32,
    /// In timestamp units.
    pub jitter: u32,
    pub last_sr: u32,
    /// In 1/65536 s.
    pub delay_since_sr: u32,
}

impl Reception {
    /// Takes one packet of an 8 kHz stream.
    pub fn handle_packet(&mut self, now: Instant, ssrc: u32, sequence: u16, timestamp: u32) {
        self.packets += 1;
        if let Some(stream) = self.stream.as_mut().filter(|stream| stream.ssrc == ssrc)
            && stream.advance(sequence)
        {
            stream.note_arrival(now, timestamp);
        } else {
            self.lost_before += self.lost_now();
            self.stream = Some(Stream::new(now, ssrc, sequence, timestamp));
        }
    }

    /// Takes a sender report of the stream's source: `ntp` is the middle of its NTP time.
    pub fn handle_sender_report(&mut self, now: Instant, ssrc: u32, ntp: u32) {
        if let Some(stream) = self.stream.as_mut().filter(|stream| stream.ssrc == ssrc) {
            stream.sender_report = Some((ntp, now));
        }
    }

    /// Packets that never came, as far as one can know by now.
    pub fn lost(&self) -> u64 {
        self.lost_before + self.lost_now()
    }

    fn lost_now(&self) -> u64 {
        self.stream.as_ref().map_or(0, Stream::lost)
    }

    /// How much the packets' spacing varies (RFC 3550 A.8).
    pub fn jitter(&self) -> Duration {
        Duration::from_micros(self.stream.as_ref().map_or(0, |stream| (stream.jitter_x16 / 16 * 125) as u64))
    }

    /// The block of a report on this stream, and the start of the next interval.
    pub fn report(&mut self, now: Instant) -> Option<Block> {
        let stream = self.stream.as_mut()?;
        let expected = stream.highest.wrapping_sub(stream.first).wrapping_add(1);
        let expected_now = expected.wrapping_sub(stream.expected_prior);
        let received_now = stream.received.wrapping_sub(stream.received_prior);
        (stream.expected_prior, stream.received_prior) = (expected, stream.received);
        let lost_now = u64::from(expected_now.saturating_sub(received_now));
        let (last_sr, delay) = stream.sender_report.map_or((0, Duration::ZERO), |(ntp, at)| (ntp, now.saturating_duration_since(at)));
        Some(Block {
            ssrc: stream.ssrc,
            fraction_lost: (lost_now * 256).checked_div(u64::from(expected_now)).unwrap_or(0).min(255) as u8,
            lost: stream.lost().min(0x7f_ffff) as u32,
            highest: stream.highest,
            jitter: (stream.jitter_x16 / 16) as u32,
            last_sr,
            delay_since_sr: (delay.as_micros().min(60_000_000 * 60) * 65_536 / 1_000_000) as u32,
        })
    }
}

impl Stream {
    fn new(now: Instant, ssrc: u32, sequence: u16, timestamp: u32) -> Self {
        let first = u32::from(sequence) | 0x1_0000;
        let transit = -i64::from(timestamp);
        Self {
            ssrc,
            highest: first,
            first,
            received: 1,
            transit,
            jitter_x16: 0,
            epoch: now,
            expected_prior: 0,
            received_prior: 0,
            sender_report: None,
        }
    }

    /// Follows the sequence number; false when the sender has started anew.
    fn advance(&mut self, sequence: u16) -> bool {
        let ahead = sequence.wrapping_sub(self.highest as u16);
        if ahead < MAX_DROPOUT {
            self.highest = self.highest.wrapping_add(u32::from(ahead));
        } else if ahead < u16::MAX - MAX_MISORDER {
            return false;
        }
        self.received = self.received.wrapping_add(1);
        true
    }

    fn note_arrival(&mut self, now: Instant, timestamp: u32) {
        let arrival = now.saturating_duration_since(self.epoch).as_micros() as i64 / 125;
        let transit = arrival - i64::from(timestamp);
        // The timestamp wraps every six days, and the difference is taken in its 32 bits.
        let moved = i64::from((transit - self.transit) as i32).abs().min(80_000);
        self.transit = transit;
        self.jitter_x16 += moved - ((self.jitter_x16 + 8) >> 4);
    }

    fn lost(&self) -> u64 {
        u64::from(self.highest.wrapping_sub(self.first).wrapping_add(1).saturating_sub(self.received))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(numbers: impl IntoIterator<Item = u16>) -> Reception {
        let start = Instant::now();
        let mut reception = Reception::default();
        for (i, sequence) in numbers.into_iter().enumerate() {
            reception.handle_packet(start + Duration::from_millis(20) * i as u32, 7, sequence, (i as u32).wrapping_mul(160));
        }
        reception
    }

    #[test]
    fn losses_are_gaps_that_stay_open() {
        for (story, numbers, lost) in [
            ("in order", vec![1, 2, 3, 4], 0),
            ("over the wrap", vec![65534, 65535, 0, 1], 0),
            ("two missing", vec![1, 2, 5, 6], 2),
            ("one late", vec![1, 3, 2, 4], 0),
            ("a restart is no loss", vec![1, 2, 40_000, 40_001], 0),
        ] {
            assert_eq!(run(numbers).lost(), lost, "{story}");
        }
    }

    #[test]
    fn even_spacing_has_no_jitter_and_uneven_has() {
        assert_eq!(run(0..100).jitter(), Duration::ZERO);
        let start = Instant::now();
        let mut reception = Reception::default();
        for i in 0..500u32 {
            let late = if i % 2 == 0 { 0 } else { 10 };
            reception.handle_packet(start + Duration::from_millis(u64::from(20 * i + late)), 7, i as u16, i * 160);
        }
        let jitter = reception.jitter().as_secs_f32() * 1000.0;
        assert!((9.0..11.0).contains(&jitter), "{jitter} ms");
    }

    #[test]
    fn a_report_tells_the_interval() {
        let mut reception = run([10, 11, 13, 14]);
        let block = reception.report(Instant::now()).expect("a stream");
        assert_eq!((block.fraction_lost, block.lost, block.highest as u16), (51, 1, 14));
        assert_eq!(reception.report(Instant::now()).expect("a stream").fraction_lost, 0, "nothing expected since");
    }
}
