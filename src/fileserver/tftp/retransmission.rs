//! When to repeat: the round trip is measured and followed (RFC 6298), each repetition doubles the wait, and some day it ends.
//!
//! A client may wish for a fixed time instead (RFC 2349 `timeout`). Repeated packets are not measured (Karn).

use std::time::{Duration, Instant};

/// Before anything was measured (RFC 6298 §2.1).
const INITIAL: Duration = Duration::from_secs(1);
/// Phones write flash between blocks: less would repeat what is only slow.
const LEAST: Duration = Duration::from_millis(250);
const MOST: Duration = Duration::from_secs(8);

#[derive(Clone, Debug)]
pub struct Retransmission {
    fixed: Option<Duration>,
    /// Smoothed round trip and its variation.
    measured: Option<(Duration, Duration)>,
    tries: u32,
    retries: u32,
    deadline: Option<Instant>,
}

/// What the end of a wait means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    NotYet,
    Repeat,
    /// Repeated `tries` times for nothing.
    GiveUp {
        tries: u32,
    },
}

impl Retransmission {
    pub fn new(fixed: Option<Duration>, retries: u32) -> Self {
        Self { fixed, measured: None, tries: 0, retries, deadline: None }
    }

    /// Something left for the wire that wants an answer.
    pub fn sent(&mut self, now: Instant) {
        self.deadline = Some(now + self.wait());
    }

    /// The answer moved the transfer on. `round_trip` where it was measured on a packet that was sent once.
    pub fn progressed(&mut self, round_trip: Option<Duration>) {
        self.tries = 0;
        self.deadline = None;
        let Some(sample) = round_trip else { return };
        self.measured = Some(match self.measured {
            None => (sample, sample / 2),
            Some((smooth, variation)) => ((smooth * 7 + sample) / 8, (variation * 3 + smooth.abs_diff(sample)) / 4),
        });
    }

    /// Time has passed.
    pub fn expire(&mut self, now: Instant) -> Expiry {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return Expiry::NotYet;
        }
        self.deadline = None;
        if self.tries >= self.retries {
            return Expiry::GiveUp { tries: self.tries };
        }
        self.tries += 1;
        Expiry::Repeat
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// How long the next packet waits for its answer.
    pub fn wait(&self) -> Duration {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        let first = self.measured.map_or(INITIAL, |(smooth, variation)| (smooth + variation * 4).max(LEAST));
        first.saturating_mul(1 << self.tries.min(16)).min(MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn waits_double_and_end() {
        let mut clock = Retransmission::new(None, 4);
        let start = Instant::now();
        let mut now = start;
        let mut at = Vec::new();
        loop {
            clock.sent(now);
            now = clock.deadline().expect("armed");
            assert_eq!(clock.expire(now - MS), Expiry::NotYet);
            match clock.expire(now) {
                Expiry::Repeat => at.push((now - start).as_secs()),
                end => {
                    assert_eq!(end, Expiry::GiveUp { tries: 4 });
                    break;
                }
            }
        }
        assert_eq!(at, [1, 3, 7, 15]);
        assert_eq!((now - start).as_secs(), 23);
    }

    #[test]
    fn follows_the_round_trip_within_bounds() {
        let mut clock = Retransmission::new(None, 4);
        clock.progressed(Some(MS));
        assert_eq!(clock.wait(), LEAST);
        let mut far = Retransmission::new(None, 4);
        for _ in 0..50 {
            far.progressed(Some(600 * MS));
        }
        assert!((600 * MS..900 * MS).contains(&far.wait()), "{:?}", far.wait());
        far.progressed(None);
        assert!(far.wait() < 900 * MS);
    }

    #[test]
    fn a_client_may_fix_the_time() {
        let mut clock = Retransmission::new(Some(Duration::from_secs(4)), 4);
        clock.progressed(Some(MS));
        assert_eq!(clock.wait(), Duration::from_secs(4));
    }
}
