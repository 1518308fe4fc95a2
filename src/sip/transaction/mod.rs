//! The four transaction machines of RFC 3261 §17, with the corrections of RFC 6026: states and timers, no messages.
//!
//! Each is told what happened and answers what to do; [`super::endpoint`] holds the bytes and does it. None keeps a clock:
//! `now` comes in, `poll_timeout` goes out, and `is_done` says when it may be forgotten.

pub mod client;
pub mod client_invite;
pub mod server;
pub mod server_invite;

use std::time::{Duration, Instant};

/// RFC 3261 §17.1.1.1 and table 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// Estimate of the round trip: 500 ms.
    pub t1: Duration,
    /// Longest interval between repetitions of a non-INVITE request or an INVITE's answer: 4 s.
    pub t2: Duration,
    /// How long a message may stay in the network: 5 s.
    pub t4: Duration,
}

impl Timers {
    /// How long a sender repeats, and a receiver remembers: 64·T1, 32 s.
    pub fn patience(&self) -> Duration {
        self.t1 * 64
    }
}

impl Default for Timers {
    fn default() -> Self {
        Self { t1: Duration::from_millis(500), t2: Duration::from_secs(4), t4: Duration::from_secs(5) }
    }
}

/// What a timer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Send the last message again.
    Repeat,
    /// Nobody answered: tell the user of the transaction.
    GiveUp,
    /// The transaction has ended quietly, or nothing was due.
    Nothing,
}

/// A repetition whose interval doubles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repeat {
    at: Option<Instant>,
    interval: Duration,
    longest: Duration,
}

impl Repeat {
    pub(super) fn never() -> Self {
        Self { at: None, interval: Duration::ZERO, longest: Duration::ZERO }
    }

    pub(super) fn starting(now: Instant, interval: Duration, longest: Duration) -> Self {
        Self { at: Some(now + interval), interval, longest }
    }

    /// Whether it is time; sets the next time.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        match self.at {
            Some(at) if at <= now => {
                self.interval = (self.interval * 2).min(self.longest);
                self.at = Some(now + self.interval);
                true
            }
            _ => false,
        }
    }

    /// Keeps the interval constant from here on: timer E in Proceeding (RFC 3261 §17.1.2.2).
    pub(super) fn at_longest(&mut self) {
        self.interval = self.longest;
    }

    pub(super) fn at(&self) -> Option<Instant> {
        self.at
    }
}

pub(super) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Virtual time in milliseconds from its making.
    pub(super) struct Clock(Instant);

    impl Clock {
        pub(super) fn new() -> Self {
            Self(Instant::now())
        }

        pub(super) fn at(&self, ms: u64) -> Instant {
            self.0 + Duration::from_millis(ms)
        }

        /// Steps through time up to and including `until`; collects what `step` gives, with its millisecond.
        pub(super) fn run<T>(&self, until: u64, mut step: impl FnMut(Instant) -> Option<T>) -> Vec<(u64, T)> {
            (0..=until).filter_map(|ms| step(self.at(ms)).map(|what| (ms, what))).collect()
        }
    }
}
