//! How many messages a second one address may bring: a bucket of tokens for each, in a table that does not grow beyond a bound.
//!
//! Pure. A phone sends a few a second at most; who sends hundreds is broken or means harm. What is over the limit is dropped
//! (datagrams) or read later (streams); not here: which. Networks of our own, as gateways and proxies, may be left out.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use ipnet::IpNet;

/// More addresses than this are not told apart; further ones pass: forged senders must not lock phones out.
const MOST_SOURCES: usize = 16_384;
/// A bucket holds so many seconds' worth: many phones behind one address come back at once.
const BURST_SECS: f64 = 10.0;
/// One address is told to the log so often.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// The log hears of all addresses together no more often than that.
const TELL_ANY_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Admitted,
    /// Over the limit. The next message fits after `wait`; `tell`: worth a line in the log.
    Over {
        wait: Duration,
        tell: bool,
    },
}

#[derive(Debug)]
pub struct Rates {
    /// 0: no limit.
    per_sec: u32,
    free: Vec<IpNet>,
    buckets: HashMap<IpAddr, Bucket>,
    swept: Option<Instant>,
    told: Option<Instant>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
    told: Option<Instant>,
}

impl Rates {
    /// `per_sec` of each address but those in `free`.
    pub fn new(per_sec: u32, free: Vec<IpNet>) -> Self {
        Self { per_sec, free, buckets: HashMap::new(), swept: None, told: None }
    }

    pub fn admit(&mut self, now: Instant, source: IpAddr) -> Verdict {
        if self.per_sec == 0 || self.free.iter().any(|net| net.contains(&source)) {
            return Verdict::Admitted;
        }
        let per_sec = f64::from(self.per_sec);
        let source = subscriber(source);
        if self.buckets.len() >= MOST_SOURCES && !self.buckets.contains_key(&source) {
            self.sweep(now);
            if self.buckets.len() >= MOST_SOURCES {
                return Verdict::Admitted;
            }
        }
        let most = per_sec * BURST_SECS;
        let bucket = self.buckets.entry(source).or_insert(Bucket { tokens: most, filled: now, told: None });
        bucket.tokens = (bucket.tokens + now.saturating_duration_since(bucket.filled).as_secs_f64() * per_sec).min(most);
        bucket.filled = now;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Verdict::Admitted;
        }
        let ago = |told: Option<Instant>, pause| told.is_none_or(|told| now.saturating_duration_since(told) >= pause);
        let tell = ago(bucket.told, TELL_EVERY) && ago(self.told, TELL_ANY_EVERY);
        if tell {
            (bucket.told, self.told) = (Some(now), Some(now));
        }
        Verdict::Over { wait: Duration::from_secs_f64((1.0 - bucket.tokens) / per_sec), tell }
    }

    /// Forgets those whose bucket is full again, at most once a second: a flood must not make us count for ever.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now.saturating_duration_since(swept) < Duration::from_secs(1)) {
            return;
        }
        self.swept = Some(now);
        let full = Duration::from_secs_f64(BURST_SECS);
        self.buckets.retain(|_, bucket| now.saturating_duration_since(bucket.filled) < full);
    }
}

/// Whom an address stands for: of IPv6, a host has a whole /64 to choose from.
fn subscriber(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_burst_passes_then_a_trickle_and_others_are_not_harmed() {
        let start = Instant::now();
        let mut rates = Rates::new(10, vec!["10.9.0.0/16".parse().unwrap()]);
        let mut passed = |ms: u64, source: &str| {
            let now = start + Duration::from_millis(ms);
            (0..1000).filter(|_| rates.admit(now, ip(source)) == Verdict::Admitted).count()
        };
        assert_eq!(passed(0, "10.0.0.5"), 100);
        assert_eq!(passed(1000, "10.0.0.5"), 10);
        assert_eq!(passed(1000, "10.0.0.6"), 100, "another phone");
        assert_eq!(passed(1000, "10.9.1.1"), 1000, "a gateway");
        assert_eq!(passed(1000, "fd00::1"), 100);
        assert_eq!(passed(1000, "fd00::2"), 0, "the same host under another of its addresses");
        assert_eq!(passed(61_000, "10.0.0.5"), 100);
    }

    #[test]
    fn the_log_hears_of_it_once_a_minute() {
        let start = Instant::now();
        let mut rates = Rates::new(1, vec![]);
        let mut told = 0;
        for ms in (0..120_000).step_by(100) {
            let verdict = rates.admit(start + Duration::from_millis(ms), ip("10.0.0.5"));
            if let Verdict::Over { wait, tell } = verdict {
                told += usize::from(tell);
                assert!(wait <= Duration::from_secs(1));
            }
        }
        assert_eq!(told, 2);
    }

    #[test]
    fn forged_senders_fill_a_bounded_table_and_lock_nobody_out() {
        let start = Instant::now();
        let mut rates = Rates::new(1, vec![]);
        for n in 0..100_000u32 {
            rates.admit(start, IpAddr::from(n.to_be_bytes()));
        }
        assert_eq!(rates.buckets.len(), MOST_SOURCES);
        assert_eq!(rates.admit(start, ip("192.0.2.1")), Verdict::Admitted);
        rates.admit(start + Duration::from_secs(20), ip("192.0.2.1"));
        assert_eq!(rates.buckets.len(), 1, "forgotten once they are silent");
    }
}
