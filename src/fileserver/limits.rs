//! How many at once, in all and from one source; and how often the log hears of what strangers do.
//!
//! A [`Slot`] is held as long as the transfer or connection lives. Not here: what a door does when there is no slot.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Which limit was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The server is at its limit.
    InAll,
    /// This source is at its limit.
    Source,
}

/// Counts what is going on; cheap to clone.
#[derive(Clone, Debug)]
pub struct Slots {
    in_all: usize,
    per_source: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    in_all: usize,
    by_source: HashMap<IpAddr, usize>,
}

impl Slots {
    pub fn new(in_all: usize, per_source: usize) -> Self {
        Self { in_all, per_source, taken: Arc::default() }
    }

    /// One more for `source`, until the slot is dropped.
    pub fn take(&self, source: IpAddr) -> Result<Slot, Full> {
        // `::ffff:192.0.2.1` is the phone 192.0.2.1.
        let source = source.to_canonical();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.in_all >= self.in_all {
            return Err(Full::InAll);
        }
        let count = taken.by_source.entry(source).or_default();
        if *count >= self.per_source {
            return Err(Full::Source);
        }
        *count += 1;
        taken.in_all += 1;
        Ok(Slot { source, taken: self.taken.clone() })
    }

    /// How many are going on.
    pub fn in_use(&self) -> usize {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).in_all
    }
}

/// A place that is given back when dropped.
#[derive(Debug)]
pub struct Slot {
    source: IpAddr,
    taken: Arc<Mutex<Taken>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.in_all = taken.in_all.saturating_sub(1);
        if let Some(count) = taken.by_source.get_mut(&self.source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                // What strangers send must not make the table grow.
                taken.by_source.remove(&self.source);
            }
        }
    }
}

/// Lets a few log lines through per second, so that nobody can fill the disk from outside.
#[derive(Debug, Default)]
pub struct LogBudget(Mutex<Option<(Instant, u32)>>);

impl LogBudget {
    const LINES_PER_SECOND: u32 = 5;

    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// May a line be written now?
    pub fn allows(&self, now: Instant) -> bool {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *window {
            Some((since, lines)) if now.saturating_duration_since(*since) < Duration::from_secs(1) => {
                *lines = lines.saturating_add(1);
                *lines <= Self::LINES_PER_SECOND
            }
            other => {
                *other = Some((now, 1));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_limited_in_all_and_per_source_and_come_back() {
        let ip = |n: u8| IpAddr::from([192, 0, 2, n]);
        let slots = Slots::new(3, 2);
        let first = slots.take(ip(1)).expect("free");
        let _second = slots.take("::ffff:192.0.2.1".parse().expect("address")).expect("free");
        assert_eq!(slots.take(ip(1)).err(), Some(Full::Source));
        let _third = slots.take(ip(2)).expect("free");
        assert_eq!(slots.take(ip(3)).err(), Some(Full::InAll));
        drop(first);
        assert!(slots.take(ip(1)).is_ok());
        assert_eq!(slots.in_use(), 2);
    }

    #[test]
    fn the_log_is_bounded() {
        let budget = LogBudget::new();
        let now = Instant::now();
        assert_eq!((0..100).filter(|_| budget.allows(now)).count(), 5);
        assert!(budget.allows(now + Duration::from_secs(1)));
    }
}
