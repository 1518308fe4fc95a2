//! Server transaction of any request but INVITE and ACK (RFC 3261 §17.2.2).
//!
//! ```text
//! Trying ──1xx──► Proceeding ──final──► Completed ──J──► done
//! ```
//! A user that never answers is forgotten after 64·T1: the client has given up by then, and a 408 would only confuse
//! those behind it (RFC 4320 §4).

use std::time::Instant;

use super::{Due, Timers};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Trying,
    Proceeding,
    Completed,
    Done,
}

#[derive(Clone, Debug)]
pub struct Server {
    state: State,
    timers: Timers,
    reliable: bool,
    /// Timer J; before that, the user's time to answer.
    ends: Instant,
}

impl Server {
    pub fn new(now: Instant, timers: Timers, reliable: bool) -> Self {
        Self { state: State::Trying, timers, reliable, ends: now + timers.patience() }
    }

    /// The request came again; returns whether to send the last answer again.
    pub fn handle_request(&self) -> bool {
        matches!(self.state, State::Proceeding | State::Completed)
    }

    /// The user answers; returns whether it is to be sent.
    pub fn respond(&mut self, now: Instant, status: u16) -> bool {
        match self.state {
            State::Trying | State::Proceeding if status < 200 => self.state = State::Proceeding,
            State::Trying | State::Proceeding => {
                self.state = if self.reliable { State::Done } else { State::Completed };
                self.ends = now + self.timers.patience();
            }
            State::Completed | State::Done => return false,
        }
        true
    }

    pub fn handle_timeout(&mut self, now: Instant) -> Due {
        if self.state != State::Done && now >= self.ends {
            self.state = State::Done;
        }
        Due::Nothing
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.is_done()).then_some(self.ends)
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the user has not finally answered.
    pub fn is_unanswered(&self) -> bool {
        matches!(self.state, State::Trying | State::Proceeding)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::Clock, *};

    #[test]
    fn a_repeated_request_gets_the_same_answer_for_32_s() {
        let clock = Clock::new();
        let mut tx = Server::new(clock.at(0), Timers::default(), false);
        assert!(!tx.handle_request(), "nothing to repeat yet");
        assert!(tx.respond(clock.at(10), 100));
        assert!(tx.handle_request());
        assert!(tx.respond(clock.at(20), 200));
        assert!(!tx.respond(clock.at(30), 500), "only one final answer");
        assert!(tx.handle_request());
        assert_eq!(tx.poll_timeout(), Some(clock.at(32_020)));
        tx.handle_timeout(clock.at(32_020));
        assert!(tx.is_done());
    }

    #[test]
    fn a_user_that_never_answers_is_forgotten() {
        let clock = Clock::new();
        let mut tx = Server::new(clock.at(0), Timers::default(), false);
        tx.handle_timeout(clock.at(31_999));
        assert!(!tx.is_done());
        tx.handle_timeout(clock.at(32_000));
        assert!(tx.is_done() && !tx.respond(clock.at(32_001), 200));
    }

    #[test]
    fn on_tcp_nothing_is_remembered() {
        let clock = Clock::new();
        let mut tx = Server::new(clock.at(0), Timers::default(), true);
        assert!(tx.respond(clock.at(1), 200) && tx.is_done());
    }
}
