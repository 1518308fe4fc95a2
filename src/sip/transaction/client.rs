//! Client transaction of any request but INVITE and ACK (RFC 3261 §17.1.2).
//!
//! ```text
//! Trying ──1xx──► Proceeding ──final──► Completed ──K──► done
//!    └───────────final───────────────────►┘        F in the first two: give up
//! ```

use std::time::Instant;

use super::{Due, Repeat, Timers, earlier};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Trying,
    Proceeding,
    Completed,
    Done,
}

#[derive(Clone, Debug)]
pub struct Client {
    state: State,
    timers: Timers,
    reliable: bool,
    /// Timer E.
    repeat: Repeat,
    /// Timer F until a final answer, then K.
    ends: Instant,
}

impl Client {
    /// The request is being sent now.
    pub fn new(now: Instant, timers: Timers, reliable: bool) -> Self {
        let repeat = if reliable { Repeat::never() } else { Repeat::starting(now, timers.t1, timers.t2) };
        Self { state: State::Trying, timers, reliable, repeat, ends: now + timers.patience() }
    }

    /// An answer came; returns whether its user is to be told.
    pub fn handle_response(&mut self, now: Instant, status: u16) -> bool {
        match self.state {
            State::Trying | State::Proceeding if status < 200 => {
                if self.state == State::Trying {
                    self.state = State::Proceeding;
                    self.repeat.at_longest();
                }
                true
            }
            State::Trying | State::Proceeding => {
                self.repeat = Repeat::never();
                self.state = if self.reliable { State::Done } else { State::Completed };
                self.ends = now + self.timers.t4;
                true
            }
            State::Completed | State::Done => false,
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) -> Due {
        match self.state {
            State::Trying | State::Proceeding if now >= self.ends => {
                self.state = State::Done;
                Due::GiveUp
            }
            State::Trying | State::Proceeding if self.repeat.is_due(now) => Due::Repeat,
            State::Completed if now >= self.ends => {
                self.state = State::Done;
                Due::Nothing
            }
            _ => Due::Nothing,
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.is_done()).then_some(self.ends).and_then(|ends| earlier(Some(ends), self.repeat.at()))
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether no final answer has come.
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Trying | State::Proceeding)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::Clock, *};

    #[test]
    fn a_request_is_repeated_until_somebody_answers() {
        let clock = Clock::new();
        let mut tx = Client::new(clock.at(0), Timers::default(), false);
        // Timer E: 500 ms doubling to 4 s; timer F at 32 s.
        let repeats = clock.run(32_000, |now| tx.poll_timeout().filter(|t| *t <= now).map(|_| tx.handle_timeout(now)));
        let times: Vec<_> = repeats.iter().filter(|(_, due)| *due == Due::Repeat).map(|(at, _)| *at).collect();
        assert_eq!(times, [500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500]);
        assert_eq!(repeats.last(), Some(&(32_000, Due::GiveUp)));
        assert!(tx.is_done());
    }

    #[test]
    fn after_a_provisional_answer_the_interval_is_t2() {
        let clock = Clock::new();
        let mut tx = Client::new(clock.at(0), Timers::default(), false);
        assert!(tx.handle_response(clock.at(100), 100));
        let repeats = clock.run(10_000, |now| tx.poll_timeout().filter(|t| *t <= now).map(|_| tx.handle_timeout(now)));
        assert_eq!(repeats.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [500, 4500, 8500]);
        assert!(tx.handle_response(clock.at(10_001), 200));
        assert!(!tx.handle_response(clock.at(10_002), 200), "a repeated answer is absorbed");
        assert_eq!(tx.poll_timeout(), Some(clock.at(15_001)), "timer K = T4");
        tx.handle_timeout(clock.at(15_001));
        assert!(tx.is_done());
    }

    #[test]
    fn a_reliable_transport_is_not_helped() {
        let clock = Clock::new();
        let mut tx = Client::new(clock.at(0), Timers::default(), true);
        assert_eq!(tx.poll_timeout(), Some(clock.at(32_000)));
        assert!(tx.handle_response(clock.at(1), 404));
        assert!(tx.is_done(), "timer K is 0");
    }
}
