//! When a certificate is asked for: at once where there is none, in the last third of the life of one that there is, and again after
//! longer and longer pauses while that does not go well.
//!
//! ```text
//!  none, or of other names ──► asking ──► held ── two thirds of its life, and up to a thirtieth more ──► asking
//!                                │  ▲
//!                      failed ───┘  └── a pause, twice as long each time, up to a bound
//! ```
//! Fed with the time and with how orders ended, it answers in [`Action`]s. A held certificate that ends meanwhile is told by
//! [`Action::Ended`], once: then another has to be shown. Moments are of the wall clock, which may be set: whoever drives it looks
//! every hour at least. Pure; `draw` is a random number from 0 up to 1. Not here: ACME (`client.rs`).

use std::time::Duration;

use crate::model::Timestamp;

/// Pauses after failures that cost nobody anything: nobody was reached.
const UNREACHED: Pauses = Pauses { first: Duration::from_secs(5), longest: Duration::from_secs(3600) };
/// Pauses after refusals. Let's Encrypt allows five in an hour for one name, and forgets one every twelve minutes.
const REFUSED: Pauses = Pauses { first: Duration::from_secs(300), longest: Duration::from_secs(12 * 3600) };
/// No pause is longer than this part of the certificate's life: one of a few days must not end in a pause.
const PART_OF_LIFE: i64 = 30;

#[derive(Clone, Copy, Debug)]
struct Pauses {
    first: Duration,
    longest: Duration,
}

/// From when until when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub begins: Timestamp,
    pub ends: Timestamp,
}

/// How an order failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The authority was not reached, or is in disorder.
    Unreached,
    /// It said no.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the authority, and tell how it went: [`Renewal::handle_obtained`], [`Renewal::handle_failed`].
    Order,
    /// The certificate that was held is valid no longer.
    Ended,
}

#[derive(Debug)]
pub struct Renewal {
    held: Option<Life>,
    /// `None` while an order is under way.
    next: Option<Timestamp>,
    failures: u32,
    /// [`Action::Ended`] was told of what is held.
    ended: bool,
    action: Option<Action>,
}

impl Renewal {
    /// `held`: of the certificate that there is, if it is from this authority and for all of these names.
    pub fn new(held: Option<Life>, now: Timestamp, draw: f64) -> Self {
        let mut renewal = Self { held, next: Some(held.map_or(now, |life| due(life, draw))), failures: 0, ended: false, action: None };
        renewal.handle_timeout(now);
        renewal
    }

    /// Time has passed; call at [`Self::poll_timeout`]. Earlier is harmless.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.action.is_some() {
            // To be taken first.
        } else if !self.ended && self.held.is_some_and(|life| life.ends <= now) {
            self.ended = true;
            self.action = Some(Action::Ended);
        } else if self.next.is_some_and(|next| next <= now) {
            self.next = None;
            self.action = Some(Action::Order);
        }
    }

    /// The order brought this.
    pub fn handle_obtained(&mut self, life: Life, draw: f64) {
        (self.held, self.failures, self.ended) = (Some(life), 0, false);
        self.next = Some(due(life, draw));
    }

    /// The order failed. When the next is made.
    pub fn handle_failed(&mut self, now: Timestamp, failed: Failed, draw: f64) -> Timestamp {
        let pauses = match failed {
            Failed::Unreached => UNREACHED,
            Failed::Refused => REFUSED,
        };
        let doubled = pauses.first.saturating_mul(2_u32.saturating_pow(self.failures));
        let part = self.held.map_or(i64::MAX, |life| (life.ends.0 - life.begins.0) / PART_OF_LIFE);
        let part = Duration::from_millis(part.try_into().unwrap_or(0));
        let pause = doubled.min(pauses.longest).min(part.max(pauses.first));
        self.failures = self.failures.saturating_add(1);
        // Servers that failed together do not come again together.
        let next = Timestamp(now.0.saturating_add(millis(pause.mul_f64(0.75 + draw / 2.0))));
        self.next = Some(next);
        next
    }

    /// The next thing to do. Drain to `None` after every `handle_*`.
    pub fn poll_action(&mut self, now: Timestamp) -> Option<Action> {
        let action = self.action.take();
        if action == Some(Action::Ended) {
            self.handle_timeout(now);
        }
        action
    }

    /// When [`Self::handle_timeout`] wants to be called next; `None` while an order is under way.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let ends = self.held.filter(|_| !self.ended).map(|life| life.ends);
        self.next.map(|next| ends.map_or(next, |ends| next.min(ends)))
    }
}

/// Two thirds of the life, and up to a thirtieth more: not all servers that were set up on one day come on one day.
fn due(life: Life, draw: f64) -> Timestamp {
    let whole = Duration::from_millis(life.ends.0.saturating_sub(life.begins.0).try_into().unwrap_or(0));
    Timestamp(life.begins.0.saturating_add(millis(whole.mul_f64(2.0 / 3.0 + draw / 30.0))))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn at(secs: i64) -> Timestamp {
        Timestamp(secs * 1000)
    }

    fn life(begins: i64, ends: i64) -> Life {
        Life { begins: at(begins), ends: at(ends) }
    }

    /// All that it wants at `now`.
    fn wants(renewal: &mut Renewal, now: Timestamp) -> Vec<Action> {
        renewal.handle_timeout(now);
        std::iter::from_fn(|| renewal.poll_action(now)).collect()
    }

    #[test]
    fn a_certificate_is_renewed_in_the_last_third_of_its_life_a_little_different_on_each_server() {
        for (story, held, draw, due) in [
            ("90 days", life(0, 90 * DAY), 0.0, 60 * DAY),
            ("90 days, another server", life(0, 90 * DAY), 0.999_999, 63 * DAY),
            ("six days", life(0, 6 * DAY), 0.5, 4 * DAY + DAY / 10),
            ("five minutes", life(100, 400), 0.0, 300),
        ] {
            let mut renewal = Renewal::new(Some(held), at(1), draw);
            assert_eq!(renewal.poll_action(at(1)), None, "{story}");
            let next = renewal.poll_timeout().expect("waits");
            assert!(next.secs_since(at(due)).abs() <= 1, "{story}: {next}");
            assert_eq!(wants(&mut renewal, Timestamp(next.0 - 1)), [], "{story}");
            assert_eq!(wants(&mut renewal, next), [Action::Order], "{story}");
            assert_eq!((wants(&mut renewal, next), renewal.poll_timeout()), (vec![], None), "{story}: one order at a time");
        }
    }

    #[test]
    fn where_there_is_none_it_is_asked_for_at_once_and_then_left_alone() {
        let mut renewal = Renewal::new(None, at(0), 0.5);
        assert_eq!(wants(&mut renewal, at(0)), [Action::Order]);
        renewal.handle_obtained(life(0, 90 * DAY), 0.0);
        assert_eq!((wants(&mut renewal, at(59 * DAY)), renewal.poll_timeout()), (vec![], Some(at(60 * DAY))));
        // The server was off for months.
        let mut renewal = Renewal::new(Some(life(0, 90 * DAY)), at(100 * DAY), 0.5);
        assert_eq!(wants(&mut renewal, at(100 * DAY)), [Action::Ended, Action::Order]);
    }

    #[test]
    fn pauses_grow_to_a_bound_and_shrink_again_with_success() {
        for (story, held, failed, pauses) in [
            ("nobody reached", None, Failed::Unreached, &[5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600][..]),
            ("refused", None, Failed::Refused, &[300, 600, 1200, 2400, 4800, 9600, 19_200, 38_400, 43_200, 43_200]),
            ("refused, of six days", Some(life(0, 6 * DAY)), Failed::Refused, &[300, 600, 1200, 2400, 4800, 9600, 17_280, 17_280]),
            ("of five minutes", Some(life(0, 300)), Failed::Refused, &[300, 300]),
            ("of five minutes, nobody reached", Some(life(0, 300)), Failed::Unreached, &[5, 10, 10]),
        ] {
            let mut renewal = Renewal::new(held, at(0), 0.0);
            let mut now = renewal.poll_timeout().unwrap_or(at(0));
            for (number, pause) in pauses.iter().enumerate() {
                assert!(wants(&mut renewal, now).ends_with(&[Action::Order]), "{story}: order {number}");
                let next = renewal.handle_failed(now, failed, 0.5);
                assert_eq!(next.secs_since(now), *pause, "{story}: pause {number}");
                now = next;
            }
        }
        let mut renewal = Renewal::new(None, at(0), 0.0);
        let pauses: Vec<_> =
            [0.0, 0.999_999].into_iter().map(|draw| renewal.handle_failed(at(0), Failed::Refused, draw).secs_since(at(0))).collect();
        assert_eq!(pauses, [225, 749], "no two servers in step");
        renewal.handle_obtained(life(0, 90 * DAY), 0.0);
        assert_eq!(renewal.handle_failed(at(0), Failed::Refused, 0.5), at(300));
        // For years.
        for _ in 0..100_000 {
            renewal.handle_failed(at(0), Failed::Unreached, 0.9);
        }
    }

    #[test]
    fn one_that_ends_while_the_authority_is_away_is_told_once_and_still_asked_for() {
        let mut renewal = Renewal::new(Some(life(0, 90 * DAY)), at(0), 0.0);
        let (mut now, mut told, mut orders) = (at(0), vec![], 0);
        while now < at(91 * DAY) {
            for action in wants(&mut renewal, now) {
                match action {
                    Action::Ended => told.push(now),
                    Action::Order => {
                        orders += 1;
                        renewal.handle_failed(now, Failed::Refused, 0.5);
                    }
                }
            }
            now = renewal.poll_timeout().expect("waits");
        }
        assert_eq!(told, [at(90 * DAY)]);
        assert!((60..75).contains(&orders), "{orders} orders in a month");
        assert_eq!(wants(&mut renewal, now), [Action::Order]);
        renewal.handle_obtained(life(91 * DAY, 181 * DAY), 0.0);
        assert_eq!(renewal.poll_timeout(), Some(at(151 * DAY)));
    }
}
