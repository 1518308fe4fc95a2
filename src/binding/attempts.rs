//! How often somebody may try to log in: counts per phone, per user and per source, pauses that grow, lock-outs that end.
//!
//! An attempt counts as failed from the moment it is admitted until [`Attempts::settle`] says otherwise, so that many
//! calls at once get no more guesses than one after the other. The login as keyed is never kept: `Who::user` is what
//! `MasterKey::blind` makes of it, since somebody may key a PIN where the number was asked for. The state is serialised
//! and survives a restart; times are wall-clock. Not here: the directory, what the caller hears.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::model::{Event, MacAddr, Timestamp};

/// Counters of each kind; when there are more, those that failed longest ago go first.
const MOST: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub per_device: u32,
    pub per_user: u32,
    pub per_source: u32,
    pub pause_ms: i64,
    pub longest_pause_ms: i64,
    pub lockout_ms: i64,
    pub forget_ms: i64,
}

/// Who tries. What is not known is not counted.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Who {
    pub device: Option<MacAddr>,
    /// The login, blinded.
    pub user: Option<String>,
    pub source: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ask the directory, then settle.
    Go,
    /// Too soon after a failure.
    Wait {
        until: Timestamp,
    },
    LockedOut {
        until: Timestamp,
    },
}

/// How an admitted attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Accepted,
    Refused,
    /// The directory did not answer: nobody's failure.
    Unavailable,
}

/// All counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attempts {
    devices: BTreeMap<MacAddr, Count>,
    users: BTreeMap<String, Count>,
    sources: BTreeMap<IpAddr, Count>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Count {
    /// Failures, with those still under way.
    failures: u32,
    /// Of the last failure or admission.
    last: Timestamp,
    /// No attempt before this.
    #[serde(default)]
    pause_until: Timestamp,
    #[serde(default)]
    locked_until: Timestamp,
}

impl Attempts {
    /// From [`Self::to_json`]. What cannot be read counts as nothing tried.
    pub fn from_json(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// May they try now? [`Verdict::Go`] counts the attempt.
    pub fn admit(&mut self, now: Timestamp, who: &Who, limits: &Limits) -> Verdict {
        self.forget(now, limits);
        let mut counts: Vec<&Count> = Vec::with_capacity(3);
        counts.extend(who.device.as_ref().and_then(|device| self.devices.get(device)));
        counts.extend(who.user.as_ref().and_then(|user| self.users.get(user)));
        counts.extend(who.source.as_ref().and_then(|source| self.sources.get(source)));
        let latest = |pick: fn(&Count) -> Timestamp| counts.iter().map(|count| pick(count)).max().filter(|until| *until > now);
        if let Some(until) = latest(|count| count.locked_until) {
            return Verdict::LockedOut { until };
        }
        if let Some(until) = latest(|count| count.pause_until) {
            return Verdict::Wait { until };
        }
        // As many as may still fail are under way already.
        let full = |count: Option<&Count>, limit: u32| count.is_some_and(|count| count.failures >= limit);
        if full(who.device.as_ref().and_then(|device| self.devices.get(device)), limits.per_device)
            || full(who.user.as_ref().and_then(|user| self.users.get(user)), limits.per_user)
            || full(who.source.as_ref().and_then(|source| self.sources.get(source)), limits.per_source)
        {
            return Verdict::Wait { until: Timestamp(now.0 + limits.pause_ms.max(1000)) };
        }
        self.each(who, limits, |count, _, _| {
            count.failures += 1;
            count.last = now;
        });
        Verdict::Go
    }

    /// Says how an admitted attempt ended; gives the lock-outs that follow.
    pub fn settle(&mut self, now: Timestamp, who: &Who, outcome: Outcome, limits: &Limits) -> Vec<Event> {
        let mut events = Vec::new();
        match outcome {
            Outcome::Accepted => {
                // Who knows the PIN has earned a clean sheet, but the source has not: others may share it.
                self.pardon(&Who { source: None, ..who.clone() });
                let source = Who { source: who.source, ..Who::default() };
                self.each(&source, limits, |count, _, _| count.failures = count.failures.saturating_sub(1));
            }
            Outcome::Unavailable => self.each(who, limits, |count, _, _| count.failures = count.failures.saturating_sub(1)),
            Outcome::Refused => self.each(who, limits, |count, limit, what| {
                count.last = now;
                count.pause_until = Timestamp(now.0 + limits.pause_after(count.failures));
                if count.failures >= limit {
                    let until = Timestamp(now.0 + limits.lockout_ms);
                    *count = Count { failures: 0, last: now, pause_until: until, locked_until: until };
                    events.push(Event::LockedOut { mac: who.device, what: what.into(), until });
                }
            }),
        }
        self.bound();
        events
    }

    /// Ends every count and lock-out of a phone or a user, for admins.
    pub fn pardon(&mut self, who: &Who) {
        if let Some(device) = &who.device {
            self.devices.remove(device);
        }
        if let Some(user) = &who.user {
            self.users.remove(user);
        }
        if let Some(source) = &who.source {
            self.sources.remove(source);
        }
    }

    fn each(&mut self, who: &Who, limits: &Limits, mut change: impl FnMut(&mut Count, u32, &'static str)) {
        if let Some(device) = who.device {
            change(self.devices.entry(device).or_default(), limits.per_device, "the phone");
        }
        if let Some(user) = &who.user {
            change(self.users.entry(user.clone()).or_default(), limits.per_user, "the user");
        }
        if let Some(source) = who.source {
            change(self.sources.entry(source).or_default(), limits.per_source, "the address");
        }
    }

    fn forget(&mut self, now: Timestamp, limits: &Limits) {
        let lives = |count: &Count| {
            let locked = count.locked_until > now;
            // A clock that was set back must not keep anybody out for longer than a lock-out.
            let sane = count.locked_until.0 - now.0 <= limits.lockout_ms && count.last.0 - now.0 <= limits.lockout_ms;
            sane && (locked || (count.failures > 0 && now.0 - count.last.0 < limits.forget_ms))
        };
        self.devices.retain(|_, count| lives(count));
        self.users.retain(|_, count| lives(count));
        self.sources.retain(|_, count| lives(count));
    }

    fn bound(&mut self) {
        bound_map(&mut self.devices);
        bound_map(&mut self.users);
        bound_map(&mut self.sources);
    }
}

/// Drops the stalest, those that are locked out last.
fn bound_map<K: Ord + Clone>(map: &mut BTreeMap<K, Count>) {
    while map.len() > MOST {
        let stalest = map.iter().min_by_key(|(_, count)| (count.locked_until, count.last)).map(|(key, _)| key.clone());
        if let Some(key) = stalest {
            map.remove(&key);
        }
    }
}

impl Limits {
    fn pause_after(&self, failures: u32) -> i64 {
        let doubled = self.pause_ms.saturating_mul(1i64 << failures.saturating_sub(1).min(30));
        doubled.min(self.longest_pause_ms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        per_device: 3,
        per_user: 5,
        per_source: 8,
        pause_ms: 1000,
        longest_pause_ms: 4000,
        lockout_ms: 60_000,
        forget_ms: 600_000,
    };

    fn phone(device: u8) -> Who {
        Who { device: Some(MacAddr([0, 0, 0, 0, 0, device])), user: Some("blinded".into()), source: None }
    }

    fn try_and_fail(attempts: &mut Attempts, now: i64, who: &Who) -> (Verdict, usize) {
        let verdict = attempts.admit(Timestamp(now), who, &LIMITS);
        let events = match verdict {
            Verdict::Go => attempts.settle(Timestamp(now), who, Outcome::Refused, &LIMITS).len(),
            _ => 0,
        };
        (verdict, events)
    }

    #[test]
    fn pauses_grow_then_the_phone_is_locked_out_then_it_may_again() {
        let mut attempts = Attempts::default();
        let wait = |until| (Verdict::Wait { until: Timestamp(until) }, 0);
        for (at, expected) in [
            (0, (Verdict::Go, 0)),
            (999, wait(1000)),
            (1000, (Verdict::Go, 0)),
            (2500, wait(3000)),
            (3000, (Verdict::Go, 1)),
            (3001, (Verdict::LockedOut { until: Timestamp(63_000) }, 0)),
            (62_999, (Verdict::LockedOut { until: Timestamp(63_000) }, 0)),
            (63_000, (Verdict::Go, 0)),
        ] {
            assert_eq!(try_and_fail(&mut attempts, at, &phone(1)), expected, "at {at} ms");
            attempts = Attempts::from_json(&attempts.to_json());
        }
    }

    #[test]
    fn a_user_is_protected_from_many_phones() {
        let mut attempts = Attempts::default();
        for device in 0..5 {
            assert_eq!(try_and_fail(&mut attempts, i64::from(device) * 5000, &phone(device)).0, Verdict::Go);
        }
        assert!(matches!(try_and_fail(&mut attempts, 30_000, &phone(9)).0, Verdict::LockedOut { .. }));
        let other = Who { user: Some("somebody else".into()), ..phone(9) };
        assert_eq!(try_and_fail(&mut attempts, 30_000, &other).0, Verdict::Go);
    }

    #[test]
    fn many_calls_at_once_get_no_more_guesses() {
        let mut attempts = Attempts::default();
        let admitted = (0..20).filter(|_| attempts.admit(Timestamp(0), &phone(1), &LIMITS) == Verdict::Go).count();
        assert_eq!(admitted, 3);
    }

    #[test]
    fn a_directory_that_is_down_is_nobodys_failure_and_success_forgives() {
        let mut attempts = Attempts::default();
        for at in 0..20 {
            assert_eq!(attempts.admit(Timestamp(at), &phone(1), &LIMITS), Verdict::Go);
            assert_eq!(attempts.settle(Timestamp(at), &phone(1), Outcome::Unavailable, &LIMITS), []);
        }
        try_and_fail(&mut attempts, 100, &phone(1));
        try_and_fail(&mut attempts, 1100, &phone(1));
        assert_eq!(attempts.admit(Timestamp(3100), &phone(1), &LIMITS), Verdict::Go);
        attempts.settle(Timestamp(3100), &phone(1), Outcome::Accepted, &LIMITS);
        assert_eq!(attempts, Attempts::default());
    }

    #[test]
    fn spoilt_state_and_a_clock_set_back_lock_nobody_out() {
        assert_eq!(Attempts::from_json("{nonsense"), Attempts::default());
        let mut attempts = Attempts::default();
        for at in [1_000_000_000, 1_000_005_000, 1_000_010_000] {
            try_and_fail(&mut attempts, at, &phone(1));
        }
        assert_eq!(attempts.admit(Timestamp(0), &phone(1), &LIMITS), Verdict::Go);
    }

    proptest! {
        /// However the tries are spread, no phone fails more than its limit per lock-out.
        #[test]
        fn no_more_failures_than_allowed(tries in prop::collection::vec((0u8..3, 0i64..10_000), 1..200)) {
            let mut attempts = Attempts::default();
            let mut now = 0;
            let mut failed: Vec<(i64, u8)> = Vec::new();
            for (device, pause) in tries {
                now += pause;
                if try_and_fail(&mut attempts, now, &phone(device)).0 == Verdict::Go {
                    failed.push((now, device));
                }
                let recent = failed.iter().filter(|(at, who)| *who == device && now - at < LIMITS.lockout_ms).count();
                prop_assert!(recent <= LIMITS.per_device as usize * 2, "{recent} failures of one phone within a lock-out");
            }
        }
    }
}
