//! Server transaction of an INVITE (RFC 3261 §17.2.1, RFC 6026 §7.1).
//!
//! ```text
//! Proceeding ──300..699──► Completed ──ACK──► Confirmed ──I──► done
//!     │                        └──H──► give up
//!     └──2xx──► Accepted ──L──► done
//! ```
//! A 100 goes out by itself if the user is silent for 200 ms. The repetition of a 2xx is the user's (RFC 3261 §13.3.1.4).

use std::time::{Duration, Instant};

use super::{Due, Repeat, Timers, earlier};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Proceeding,
    Completed,
    Confirmed,
    Accepted,
    Done,
}

/// RFC 3261 §17.2.1: a 100 within 200 ms.
const TRYING_AFTER: Duration = Duration::from_millis(200);

#[derive(Clone, Debug)]
pub struct ServerInvite {
    state: State,
    timers: Timers,
    reliable: bool,
    /// When the 100 is due; `None` once anything was answered.
    trying: Option<Instant>,
    /// Timer G.
    repeat: Repeat,
    /// Timer H, I or L.
    ends: Option<Instant>,
}

/// What the repetition of a request, or an ACK, asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Send the last answer again.
    Repeat,
    /// An ACK to a 2xx: the user's.
    Tell,
    Absorb,
}

impl ServerInvite {
    pub fn new(now: Instant, timers: Timers, reliable: bool) -> Self {
        Self { state: State::Proceeding, timers, reliable, trying: Some(now + TRYING_AFTER), repeat: Repeat::never(), ends: None }
    }

    /// The INVITE came again.
    pub fn handle_invite(&self) -> Received {
        match self.state {
            State::Proceeding if self.trying.is_none() => Received::Repeat,
            State::Completed => Received::Repeat,
            _ => Received::Absorb,
        }
    }

    /// An ACK with the INVITE's branch came.
    pub fn handle_ack(&mut self, now: Instant) -> Received {
        match self.state {
            State::Completed => {
                self.repeat = Repeat::never();
                self.state = if self.reliable { State::Done } else { State::Confirmed };
                self.ends = Some(now + self.timers.t4);
                Received::Absorb
            }
            State::Accepted => Received::Tell,
            _ => Received::Absorb,
        }
    }

    /// The user answers; returns whether it is to be sent.
    pub fn respond(&mut self, now: Instant, status: u16) -> bool {
        match (self.state, status) {
            (State::Proceeding, ..200) => {}
            (State::Proceeding, 200..300) => {
                self.state = State::Accepted;
                self.ends = Some(now + self.timers.patience());
            }
            (State::Proceeding, _) => {
                self.state = State::Completed;
                self.ends = Some(now + self.timers.patience());
                if !self.reliable {
                    self.repeat = Repeat::starting(now, self.timers.t1, self.timers.t2);
                }
            }
            // The user repeats its 2xx until the ACK comes.
            (State::Accepted, 200..300) => return true,
            _ => return false,
        }
        self.trying = None;
        true
    }

    /// [`Due::Repeat`] while nothing was answered means: send a 100.
    pub fn handle_timeout(&mut self, now: Instant) -> Due {
        if self.trying.is_some_and(|at| at <= now) {
            self.trying = None;
            return Due::Repeat;
        }
        let ended = self.ends.is_some_and(|at| at <= now);
        match self.state {
            State::Completed if ended => {
                self.state = State::Done;
                Due::GiveUp
            }
            State::Completed if self.repeat.is_due(now) => Due::Repeat,
            State::Confirmed | State::Accepted if ended => {
                self.state = State::Done;
                Due::Nothing
            }
            _ => Due::Nothing,
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_done() { None } else { earlier(self.trying, earlier(self.ends, self.repeat.at())) }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether a CANCEL can still change anything.
    pub fn is_unanswered(&self) -> bool {
        self.state == State::Proceeding
    }

    /// Whether a 2xx was sent.
    pub fn is_accepted(&self) -> bool {
        self.state == State::Accepted
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::Clock, *};

    fn run(tx: &mut ServerInvite, clock: &Clock, until: u64) -> Vec<(u64, Due)> {
        clock.run(until, |now| tx.poll_timeout().filter(|t| *t <= now).map(|_| tx.handle_timeout(now)))
    }

    #[test]
    fn a_silent_user_gets_a_100_said_for_it() {
        let clock = Clock::new();
        let mut tx = ServerInvite::new(clock.at(0), Timers::default(), false);
        assert_eq!(tx.handle_invite(), Received::Absorb);
        assert_eq!(run(&mut tx, &clock, 60_000), [(200, Due::Repeat)]);
        assert_eq!(tx.handle_invite(), Received::Repeat);
    }

    #[test]
    fn a_refusal_is_repeated_until_the_ack() {
        let clock = Clock::new();
        let mut tx = ServerInvite::new(clock.at(0), Timers::default(), false);
        assert!(tx.respond(clock.at(0), 486));
        assert!(!tx.respond(clock.at(0), 200), "only one final answer");
        assert_eq!(run(&mut tx, &clock, 8000).iter().map(|(at, _)| *at).collect::<Vec<_>>(), [500, 1500, 3500, 7500]);
        assert_eq!(tx.handle_invite(), Received::Repeat);
        assert_eq!(tx.handle_ack(clock.at(8000)), Received::Absorb);
        assert_eq!(tx.poll_timeout(), Some(clock.at(13_000)), "timer I");
        run(&mut tx, &clock, 13_000);
        assert!(tx.is_done());
    }

    #[test]
    fn a_refusal_that_is_never_acknowledged_ends_with_timer_h() {
        let clock = Clock::new();
        let mut tx = ServerInvite::new(clock.at(0), Timers::default(), true);
        tx.respond(clock.at(0), 486);
        assert_eq!(run(&mut tx, &clock, 40_000), [(32_000, Due::GiveUp)]);
    }

    #[test]
    fn a_2xx_stays_32_s_for_its_repetitions_and_acks() {
        let clock = Clock::new();
        let mut tx = ServerInvite::new(clock.at(0), Timers::default(), false);
        assert!(tx.respond(clock.at(0), 180) && tx.respond(clock.at(5), 200));
        assert!(tx.respond(clock.at(505), 200), "the user repeats its 2xx");
        assert_eq!(tx.handle_invite(), Received::Absorb);
        assert_eq!(tx.handle_ack(clock.at(600)), Received::Tell);
        assert_eq!(run(&mut tx, &clock, 33_000), [(32_005, Due::Nothing)]);
        assert!(tx.is_done());
    }
}
