//! Client transaction of an INVITE (RFC 3261 §17.1.1, RFC 6026 §7.2).
//!
//! ```text
//! Calling ──1xx──► Proceeding ──300..699 (ACK)──► Completed ──D──► done
//!    │                  └──2xx──► Accepted ──M──► done
//!    └──B──► give up
//! ```
//! The ACK to a 2xx is the user's; a 2xx in Accepted is passed up each time, so that the user can repeat it.

use std::time::Instant;

use super::{Due, Repeat, Timers, earlier};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Calling,
    Proceeding,
    Completed,
    Accepted,
    Done,
}

/// What to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The user is to be told.
    pub tell: bool,
    /// An ACK is to be sent by the transaction.
    pub ack: bool,
}

#[derive(Clone, Debug)]
pub struct ClientInvite {
    state: State,
    timers: Timers,
    reliable: bool,
    /// Timer A.
    repeat: Repeat,
    /// Timer B, D or M; `None` while it rings.
    ends: Option<Instant>,
}

impl ClientInvite {
    /// The INVITE is being sent now.
    pub fn new(now: Instant, timers: Timers, reliable: bool) -> Self {
        // Timer A has no upper bound but timer B.
        let repeat = if reliable { Repeat::never() } else { Repeat::starting(now, timers.t1, timers.patience()) };
        Self { state: State::Calling, timers, reliable, repeat, ends: Some(now + timers.patience()) }
    }

    pub fn handle_response(&mut self, now: Instant, status: u16) -> Heard {
        let heard = |tell, ack| Heard { tell, ack };
        match (self.state, status) {
            (State::Calling | State::Proceeding, ..200) => {
                self.repeat = Repeat::never();
                // A CANCEL that was not obeyed may have set an end already: keep it (RFC 3261 §9.1).
                if self.state == State::Calling {
                    self.ends = None;
                }
                self.state = State::Proceeding;
                heard(true, false)
            }
            (State::Calling | State::Proceeding, 200..300) => {
                self.repeat = Repeat::never();
                self.state = State::Accepted;
                self.ends = Some(now + self.timers.patience());
                heard(true, false)
            }
            (State::Calling | State::Proceeding, _) => {
                self.repeat = Repeat::never();
                self.state = if self.reliable { State::Done } else { State::Completed };
                // Timer D on UDP: as long as the far end may repeat its refusal, 64·T1 (RFC 3261 §17.1.1.2).
                self.ends = Some(now + self.timers.patience());
                heard(true, true)
            }
            (State::Completed, 300..) => heard(false, true),
            (State::Accepted, 200..300) => heard(true, false),
            _ => heard(false, false),
        }
    }

    /// A CANCEL went out: the callee has 64·T1 to answer the INVITE (RFC 3261 §9.1).
    pub fn handle_cancelled(&mut self, now: Instant) {
        if self.state == State::Proceeding {
            self.ends = Some(now + self.timers.patience());
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) -> Due {
        let ended = self.ends.is_some_and(|at| at <= now);
        match self.state {
            State::Calling | State::Proceeding if ended => {
                self.state = State::Done;
                Due::GiveUp
            }
            State::Calling if self.repeat.is_due(now) => Due::Repeat,
            State::Completed | State::Accepted if ended => {
                self.state = State::Done;
                Due::Nothing
            }
            _ => Due::Nothing,
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_done() { None } else { earlier(self.ends, self.repeat.at()) }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether nothing at all has been heard: a CANCEL must wait (RFC 3261 §9.1).
    pub fn is_calling(&self) -> bool {
        self.state == State::Calling
    }

    /// Whether no final answer has come.
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Calling | State::Proceeding)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::Clock, *};

    fn run(tx: &mut ClientInvite, clock: &Clock, until: u64) -> Vec<(u64, Due)> {
        clock.run(until, |now| tx.poll_timeout().filter(|t| *t <= now).map(|_| tx.handle_timeout(now)))
    }

    #[test]
    fn an_invite_is_repeated_seven_times_then_given_up() {
        let clock = Clock::new();
        let mut tx = ClientInvite::new(clock.at(0), Timers::default(), false);
        let seen = run(&mut tx, &clock, 40_000);
        assert_eq!(seen.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [500, 1500, 3500, 7500, 15_500, 31_500, 32_000]);
        assert_eq!(seen.last().unwrap().1, Due::GiveUp);
    }

    #[test]
    fn ringing_may_last_and_ends_with_an_acknowledged_refusal() {
        let clock = Clock::new();
        let mut tx = ClientInvite::new(clock.at(0), Timers::default(), false);
        assert_eq!(tx.handle_response(clock.at(10), 180), Heard { tell: true, ack: false });
        assert_eq!(tx.poll_timeout(), None, "nothing hurries a ringing phone");
        assert_eq!(tx.handle_response(clock.at(90_000), 486), Heard { tell: true, ack: true });
        assert_eq!(tx.handle_response(clock.at(90_500), 486), Heard { tell: false, ack: true }, "our ACK was lost");
        assert_eq!(tx.handle_response(clock.at(90_600), 180), Heard { tell: false, ack: false });
        assert_eq!(tx.poll_timeout(), Some(clock.at(122_000)), "timer D");
    }

    #[test]
    fn repeated_and_forked_2xx_go_up_for_32_s() {
        let clock = Clock::new();
        let mut tx = ClientInvite::new(clock.at(0), Timers::default(), false);
        assert!(tx.handle_response(clock.at(10), 200).tell);
        assert!(tx.handle_response(clock.at(600), 200).tell);
        assert_eq!(tx.handle_response(clock.at(700), 486), Heard { tell: false, ack: false });
        run(&mut tx, &clock, 32_011);
        assert!(tx.is_done(), "timer M");
    }

    #[test]
    fn a_cancel_that_nobody_obeys_ends_after_64_t1() {
        let clock = Clock::new();
        let mut tx = ClientInvite::new(clock.at(0), Timers::default(), true);
        tx.handle_response(clock.at(10), 180);
        tx.handle_cancelled(clock.at(1000));
        tx.handle_response(clock.at(1010), 180);
        assert_eq!(run(&mut tx, &clock, 40_000), [(33_000, Due::GiveUp)]);
    }
}
