//! How many new clients one network or one switch port may bring per minute: a bucket of tokens for each.
//!
//! Against address starvation (a host that makes up MACs) and loops. Known clients never pass here.

use std::collections::HashMap;

use crate::model::Timestamp;

/// More sources than this are not told apart: a relay that invents ports must not fill the memory.
const MOST_SOURCES: usize = 4096;

/// A bucket per source, each holding at most one minute's worth.
#[derive(Debug, Default)]
pub struct Limiter {
    buckets: HashMap<Vec<u8>, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// In thousandths of a token.
    level: i64,
    filled: Timestamp,
}

impl Limiter {
    /// Takes a token of `source`, of which it gets `per_minute`; 0 is no limit.
    pub fn admits(&mut self, now: Timestamp, source: &[u8], per_minute: u32) -> bool {
        if per_minute == 0 {
            return true;
        }
        let most = i64::from(per_minute) * 1000;
        if self.buckets.len() >= MOST_SOURCES && !self.buckets.contains_key(source) {
            // A minute without a request is a full bucket: nothing is lost by forgetting it.
            self.buckets.retain(|_, bucket| now.0 - bucket.filled.0 < 60_000);
            if self.buckets.len() >= MOST_SOURCES {
                return false;
            }
        }
        let bucket = self.buckets.entry(source.to_vec()).or_insert(Bucket { level: most, filled: now });
        let elapsed_ms = (now.0 - bucket.filled.0).clamp(0, 60_000);
        bucket.level = (bucket.level + elapsed_ms * most / 60_000).min(most);
        bucket.filled = now;
        let admitted = bucket.level >= 1000;
        if admitted {
            bucket.level -= 1000;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minutes_worth_at_once_then_a_trickle() {
        let mut limiter = Limiter::default();
        let mut at = |ms| (0..100).filter(|_| limiter.admits(Timestamp(ms), b"port 1", 30)).count();
        assert_eq!((at(0), at(1_000), at(2_000), at(6_000), at(500_000)), (30, 0, 1, 2, 30));
        assert!(limiter.admits(Timestamp(500_000), b"port 2", 30) && limiter.admits(Timestamp(0), b"x", 0));
    }

    #[test]
    fn invented_ports_do_not_fill_the_memory() {
        let mut limiter = Limiter::default();
        let admitted = (0..10_000u32).filter(|port| limiter.admits(Timestamp(0), &port.to_be_bytes(), 5)).count();
        assert_eq!((admitted, limiter.buckets.len()), (MOST_SOURCES, MOST_SOURCES));
        assert!(limiter.admits(Timestamp(61_000), b"new", 5));
    }
}
