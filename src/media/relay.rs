//! Renumbers one stream into another: the far phone sees one SSRC, sequence and time, whoever speaks.
//!
//! Gaps and order of the incoming stream are kept, so that the far phone's jitter buffer sees what the network did. At
//! each new start (another source, a jump, after a prompt) the numbers are anchored to where the outgoing stream stands.

use std::time::Instant;

/// A jump in time by more than this is a new start, and not a pause of a phone that suppresses silence. In timestamp units.
const JUMP: u32 = 8_000 * 10;

/// From the numbers that come in to those that go out.
#[derive(Debug)]
pub struct Renumber {
    ssrc: u32,
    highest_in: u16,
    highest_out: u16,
    /// Packets since the anchor: what is older than that belongs to before and is dropped.
    span: u16,
    time_offset: u32,
    newest_time: u32,
    pub last_at: Instant,
}

impl Renumber {
    /// The next packet in shall bear `sequence` and `timestamp` when it goes out.
    pub fn anchor(now: Instant, frame: &super::session::Frame<'_>, sequence: u16, timestamp: u32) -> Self {
        Self {
            ssrc: frame.ssrc,
            highest_in: frame.sequence,
            highest_out: sequence,
            span: 0,
            time_offset: timestamp.wrapping_sub(frame.timestamp),
            newest_time: frame.timestamp,
            last_at: now,
        }
    }

    /// Whether the frame goes on with the stream that was anchored.
    pub fn follows(&self, frame: &super::session::Frame<'_>) -> bool {
        let step = frame.timestamp.wrapping_sub(self.newest_time).wrapping_add(JUMP);
        self.ssrc == frame.ssrc && step <= 2 * JUMP
    }

    /// Sequence and timestamp to send with; `None` for a packet from before the anchor.
    pub fn map(&mut self, now: Instant, frame: &super::session::Frame<'_>) -> Option<(u16, u32)> {
        let step = frame.sequence.wrapping_sub(self.highest_in) as i16;
        if step < 0 && step.unsigned_abs() > self.span {
            return None;
        }
        let sequence = self.highest_out.wrapping_add(step as u16);
        if step > 0 {
            (self.highest_in, self.highest_out) = (frame.sequence, sequence);
            self.span = self.span.saturating_add(step as u16).min(1000);
            self.newest_time = frame.timestamp;
        }
        self.last_at = now;
        Some((sequence, frame.timestamp.wrapping_add(self.time_offset)))
    }

    /// The highest sequence number given out.
    pub fn highest_out(&self) -> u16 {
        self.highest_out
    }
}
