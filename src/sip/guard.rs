//! Whom to answer no longer: budgets of failed log-ins, and bans, by address and by user name from an address.
//!
//! Pure: [`Guard::admits`] before a request's credentials are looked at, [`Guard::handle_failure`] and
//! [`Guard::handle_success`] after. Only credentials over a nonce of ours count as a failure, so that a phone that has never
//! been challenged costs nobody anything. A phone is not punished for its neighbours behind the same address:
//!
//! - *a name from an address* is banned after [`Config::failures`] wrong passwords, unless that name has logged in from there;
//! - *an address* is banned after [`Config::failures_of_source`], unless any name has logged in from there. Its requests with
//!   credentials are still checked, as one of its phones may know its password (that lifts the ban), but wrong ones get no
//!   answer, and challenges only so many a minute.
//!
//! What is remembered is bounded: names and addresses as keyed hashes, forgotten with time. Not here: what a ban looks like to
//! the banned (nothing: no answer), who is told.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::model::NumberHash;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Wrong passwords of one name from one address within [`Self::window`] until that name is banned there.
    pub failures: u32,
    /// The same for all names from an address together.
    pub failures_of_source: u32,
    pub window: Duration,
    pub ban: Duration,
    /// How long a log-in protects: longer than any registration lasts.
    pub trust: Duration,
    /// Most names and addresses remembered of each kind.
    pub most: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            failures: 10,
            failures_of_source: 30,
            window: Duration::from_secs(60),
            ban: Duration::from_secs(300),
            trust: Duration::from_secs(4 * 3600),
            most: 200_000,
        }
    }
}

/// Challenges that a banned address gets within [`Config::window`]: enough for the phones of a household.
const CHALLENGES_WHEN_BANNED: u32 = 10;
/// Bans in force at most; beyond it the oldest are lifted.
const MOST_BANS: usize = 10_000;

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Look,
    /// Look at it, but answer nothing unless it is let in.
    LookQuietly,
    /// As if it had never come.
    Drop,
}

/// A ban as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    pub source: IpAddr,
    /// The one name that is banned there; `None`: the address.
    pub user: Option<String>,
    pub until: Instant,
}

/// A name from an address, or an address, as a keyed hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key(u64);

#[derive(Clone, Copy)]
struct Failures {
    since: Instant,
    count: u32,
}

pub struct Guard {
    config: Config,
    hash: RandomState,
    /// In the window and in the one before it.
    failures: Aging<Failures>,
    /// When a log-in was last seen.
    trusted: Aging<Instant>,
    bans: HashMap<Key, Ban, NumberHash>,
    /// In order of their ends.
    ends: VecDeque<(Instant, Key)>,
    gauge: metrics::Gauge,
}

impl Guard {
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            failures: Aging::new(now, config.window, config.most),
            trusted: Aging::new(now, config.trust, config.most),
            config,
            hash: RandomState::new(),
            bans: HashMap::default(),
            ends: VecDeque::new(),
            gauge: metrics::gauge!("plugtone_sip_bans"),
        }
    }

    /// Whether to look at a request from there; `user`: whom its credentials claim, if it has any.
    pub fn admits(&mut self, now: Instant, source: IpAddr, user: Option<&str>) -> Verdict {
        self.handle_timeout(now);
        if self.bans.is_empty() {
            return Verdict::Look;
        }
        let source = source.to_canonical();
        if user.is_some_and(|user| self.bans.contains_key(&self.key(source, Some(user)))) {
            return Verdict::Drop;
        }
        let of_source = self.key(source, None);
        match user {
            _ if !self.bans.contains_key(&of_source) => Verdict::Look,
            Some(_) => Verdict::LookQuietly,
            None => {
                // Counted apart from failures: under a key that no name can have.
                let challenges = self.count(now, Key(of_source.0 ^ 1));
                if challenges <= CHALLENGES_WHEN_BANNED { Verdict::Look } else { Verdict::Drop }
            }
        }
    }

    /// A wrong password, or a name that nobody has, over a genuine nonce. Gives the bans that follow from it.
    pub fn handle_failure(&mut self, now: Instant, source: IpAddr, user: &str) -> Vec<Ban> {
        let source = source.to_canonical();
        let (pair, of_source) = (self.key(source, Some(user)), self.key(source, None));
        let mut new = Vec::new();
        if self.count(now, pair) >= self.config.failures && !self.trusted.has(now, pair) {
            new.extend(self.ban(now, pair, source, Some(user.to_owned())));
        }
        if self.count(now, of_source) >= self.config.failures_of_source && !self.trusted.has(now, of_source) {
            new.extend(self.ban(now, of_source, source, None));
        }
        new
    }

    /// Somebody logged in from there: neither the address nor that name from there is banned while it is trusted.
    pub fn handle_success(&mut self, now: Instant, source: IpAddr, user: &str) {
        let source = source.to_canonical();
        let (pair, of_source) = (self.key(source, Some(user)), self.key(source, None));
        self.trusted.put(now, pair, now);
        self.trusted.put(now, of_source, now);
        if !self.bans.is_empty() && self.bans.remove(&of_source).is_some() {
            self.gauge.set(self.bans.len() as f64);
        }
    }

    /// Ends bans whose time is over. Called by the others, too.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((until, key)) = self.ends.front().copied().filter(|(until, _)| *until <= now || self.ends.len() > MOST_BANS) {
            self.ends.pop_front();
            if self.bans.get(&key).is_some_and(|ban| ban.until == until) {
                self.bans.remove(&key);
                self.gauge.set(self.bans.len() as f64);
            }
        }
    }

    /// Bans in force, in no order.
    pub fn bans(&mut self, now: Instant) -> impl Iterator<Item = &Ban> {
        self.handle_timeout(now);
        self.bans.values()
    }

    /// Lifts every ban of that address, and forgets what it did. `false`: there was none.
    pub fn pardon(&mut self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        let before = self.bans.len();
        let pardoned: Vec<_> = self.bans.iter().filter(|(_, ban)| ban.source == source).map(|(key, _)| *key).collect();
        for key in pardoned.into_iter().chain([self.key(source, None)]) {
            self.bans.remove(&key);
            self.failures.forget(key);
        }
        self.gauge.set(self.bans.len() as f64);
        self.bans.len() < before
    }

    fn ban(&mut self, now: Instant, key: Key, source: IpAddr, user: Option<String>) -> Option<Ban> {
        if self.bans.contains_key(&key) {
            return None;
        }
        let ban = Ban { source, user, until: now + self.config.ban };
        self.bans.insert(key, ban.clone());
        self.ends.push_back((ban.until, key));
        self.handle_timeout(now);
        self.gauge.set(self.bans.len() as f64);
        Some(ban)
    }

    /// Counts one more; gives how many there are within the window.
    fn count(&mut self, now: Instant, key: Key) -> u32 {
        let known = self.failures.get(now, key);
        let going_on = known.filter(|failures| now.saturating_duration_since(failures.since) < self.config.window);
        let Failures { since, count } = going_on.unwrap_or(Failures { since: now, count: 0 });
        self.failures.put(now, key, Failures { since, count: count + 1 });
        count + 1
    }

    fn key(&self, source: IpAddr, user: Option<&str>) -> Key {
        Key(self.hash.hash_one((source, user)) << 1)
    }
}

/// A table that forgets: what was not put for one to two lifetimes is gone, at no cost per entry.
struct Aging<V> {
    young: HashMap<Key, V, NumberHash>,
    old: HashMap<Key, V, NumberHash>,
    since: Instant,
    life: Duration,
    most: usize,
}

impl<V: Copy> Aging<V> {
    fn new(now: Instant, life: Duration, most: usize) -> Self {
        Self { young: HashMap::default(), old: HashMap::default(), since: now, life, most }
    }

    fn get(&mut self, now: Instant, key: Key) -> Option<V> {
        self.age(now);
        self.young.get(&key).or_else(|| self.old.get(&key)).copied()
    }

    fn has(&mut self, now: Instant, key: Key) -> bool {
        self.get(now, key).is_some()
    }

    fn put(&mut self, now: Instant, key: Key, value: V) {
        self.age(now);
        self.young.insert(key, value);
    }

    fn forget(&mut self, key: Key) {
        self.young.remove(&key);
        self.old.remove(&key);
    }

    fn age(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.since);
        if age >= self.life || self.young.len() >= self.most {
            self.old = std::mem::take(&mut self.young);
            // Nobody came by for so long that even the young are old.
            if age >= self.life * 2 {
                self.old.clear();
            }
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bed {
        start: Instant,
        guard: Guard,
    }

    const OFFICE: &str = "203.0.113.7";

    impl Bed {
        fn new() -> Self {
            let start = Instant::now();
            Self { start, guard: Guard::new(Config { failures: 3, failures_of_source: 5, ..Config::default() }, start) }
        }

        fn at(&self, secs: u64) -> Instant {
            self.start + Duration::from_secs(secs)
        }

        /// A log-in attempt as the engine makes it: what the phone gets, and who is banned for it.
        fn attempt(&mut self, secs: u64, source: &str, user: &str, good: bool) -> &'static str {
            let (now, source) = (self.at(secs), source.parse().unwrap());
            let verdict = self.guard.admits(now, source, Some(user));
            if verdict == Verdict::Drop {
                return "silence";
            }
            if good {
                self.guard.handle_success(now, source, user);
                return "in";
            }
            let bans = self.guard.handle_failure(now, source, user);
            match (bans.iter().any(|ban| ban.user.is_some()), bans.iter().any(|ban| ban.user.is_none()), verdict) {
                (true, true, _) => "name and address banned",
                (true, ..) => "name banned",
                (_, true, _) => "address banned",
                (.., Verdict::LookQuietly) => "silence",
                _ => "refused",
            }
        }
    }

    #[test]
    fn who_guesses_is_banned_and_may_come_back() {
        let mut bed = Bed::new();
        for (story, secs, user, good, outcome) in [
            ("a first mistake", 0, "a", false, "refused"),
            ("", 1, "a", false, "refused"),
            ("the third", 2, "a", false, "name banned"),
            ("even with the right password", 3, "a", true, "silence"),
            ("another name, from the same place", 4, "b", false, "refused"),
            ("the fifth from there", 5, "c", false, "address banned"),
            ("then nobody gets an answer", 6, "d", false, "silence"),
            ("the address's time is over", 306, "d", false, "refused"),
        ] {
            assert_eq!(bed.attempt(secs, "198.51.100.1", user, good), outcome, "{story}");
        }
        assert_eq!(bed.guard.bans(bed.at(306)).count(), 0);
        assert_eq!(bed.attempt(310, "198.51.100.1", "a", true), "in");
    }

    #[test]
    fn a_phone_is_not_punished_for_its_neighbours() {
        let mut bed = Bed::new();
        assert_eq!(bed.attempt(0, OFFICE, "good", true), "in");
        for round in 0..100 {
            let outcome = bed.attempt(round / 10, OFFICE, "intruder", false);
            assert_ne!(outcome, "address banned");
            assert_eq!(bed.attempt(round / 10, OFFICE, "good", true), "in");
        }
        // Somebody behind the same address guesses the good phone's own name: it stays in all the same.
        for round in 0..100 {
            assert_eq!(bed.attempt(20, OFFICE, "good", false), "refused", "{round}");
        }
        assert_eq!(bed.attempt(20, OFFICE, "good", true), "in");
        let bans: Vec<_> = bed.guard.bans(bed.at(20)).map(|ban| ban.user.clone()).collect();
        assert_eq!(bans, [Some("intruder".to_owned())]);
    }

    #[test]
    fn a_good_phone_behind_a_banned_address_gets_in_and_lifts_the_ban() {
        let mut bed = Bed::new();
        let names = ["a", "b", "c", "d", "e"];
        let outcomes = names.map(|name| bed.attempt(0, OFFICE, name, false));
        assert_eq!(outcomes, ["refused", "refused", "refused", "refused", "address banned"]);
        let office = OFFICE.parse().unwrap();
        let challenges = (0..100).filter(|_| bed.guard.admits(bed.at(1), office, None) == Verdict::Look).count();
        assert_eq!(challenges, CHALLENGES_WHEN_BANNED as usize, "a few are challenged: the good phone may be among them");
        assert_eq!(bed.attempt(2, OFFICE, "good", true), "in");
        assert_eq!((bed.guard.bans(bed.at(2)).count(), bed.guard.admits(bed.at(2), office, None)), (0, Verdict::Look));
    }

    #[test]
    fn mistakes_over_a_long_time_are_no_attack_and_an_admin_may_pardon() {
        let mut bed = Bed::new();
        for minute in 0..100 {
            assert_eq!(bed.attempt(minute * 61, OFFICE, "a", false), "refused");
        }
        for source in ["::ffff:198.51.100.1", "198.51.100.1", "198.51.100.1"] {
            bed.attempt(7000, source, "a", false);
        }
        let banned: Vec<_> = bed.guard.bans(bed.at(7000)).map(|ban| ban.source.to_string()).collect();
        assert_eq!(banned, ["198.51.100.1"], "however it is written");
        assert!(!bed.guard.pardon(OFFICE.parse().unwrap()));
        assert!(bed.guard.pardon("198.51.100.1".parse().unwrap()));
        assert_eq!(bed.attempt(7001, "198.51.100.1", "a", false), "refused", "and begins anew");
    }

    #[test]
    fn a_million_addresses_cost_no_more_than_is_allowed() {
        let start = Instant::now();
        let mut guard = Guard::new(Config { failures: 1, failures_of_source: 1, most: 1000, ..Config::default() }, start);
        for n in 0..100_000u32 {
            guard.handle_failure(start, IpAddr::from(n.to_be_bytes()), "x");
        }
        assert!(guard.failures.young.len() + guard.failures.old.len() <= 2001);
        assert!(guard.bans.len() <= MOST_BANS && guard.ends.len() <= MOST_BANS, "{}", guard.bans.len());
    }
}
