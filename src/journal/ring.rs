//! Numbers events and keeps the newest of them: no clock, no store, no readers.

use std::{collections::VecDeque, sync::Arc};

use crate::model::{Event, Recorded, Timestamp};

/// The newest events in order of their numbers, which have no gaps.
#[derive(Debug)]
pub struct Ring {
    newest: VecDeque<Arc<Recorded>>,
    capacity: usize,
    last_seq: u64,
}

/// What the ring knows of the events after some number.
#[derive(Debug, PartialEq)]
pub enum Since {
    /// These follow, none is missing; empty when nothing happened since.
    Here(Vec<Arc<Recorded>>),
    /// The ring begins later: older ones are in the store.
    Gone,
}

impl Ring {
    /// A ring that holds `capacity` events and goes on after number `last_seq`, the store's last.
    pub fn new(capacity: usize, last_seq: u64) -> Self {
        Self { newest: VecDeque::new(), capacity: capacity.max(1), last_seq }
    }

    /// Gives the next number; the event is kept when [`Self::keep`] gets it back.
    pub fn number(&mut self, at: Timestamp, event: Event) -> Arc<Recorded> {
        self.last_seq += 1;
        Arc::new(Recorded { seq: self.last_seq, at, event })
    }

    /// Takes numbered events, in order. The oldest make room.
    pub fn keep(&mut self, recorded: impl IntoIterator<Item = Arc<Recorded>>) {
        for recorded in recorded {
            if self.newest.len() == self.capacity {
                self.newest.pop_front();
            }
            self.newest.push_back(recorded);
        }
    }

    /// At most `limit` events after number `seq`.
    pub fn since(&self, seq: u64, limit: usize) -> Since {
        match self.newest.front() {
            Some(first) if seq.saturating_add(1) >= first.seq => {
                let skip = usize::try_from(seq.saturating_add(1) - first.seq).unwrap_or(usize::MAX);
                Since::Here(self.newest.iter().skip(skip).take(limit).cloned().collect())
            }
            _ if seq >= self.last_seq => Since::Here(Vec::new()),
            _ => Since::Gone,
        }
    }

    /// The number of the oldest event here, or of the next one when none is.
    pub fn first_seq(&self) -> u64 {
        self.newest.front().map_or(self.last_seq + 1, |first| first.seq)
    }

    /// The highest number given so far.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring_of(capacity: usize, last_seq: u64, events: usize) -> Ring {
        let mut ring = Ring::new(capacity, last_seq);
        for at in 0..events {
            let recorded = ring.number(Timestamp(at as i64), Event::Stopping);
            ring.keep([recorded]);
        }
        ring
    }

    fn numbers(since: Since) -> Option<Vec<u64>> {
        match since {
            Since::Here(events) => Some(events.iter().map(|recorded| recorded.seq).collect()),
            Since::Gone => None,
        }
    }

    #[test]
    fn readers_get_what_followed_or_hear_that_it_is_elsewhere() {
        for (story, ring, after, limit, expected) in [
            ("a new store", ring_of(3, 0, 0), 0, 9, Some(vec![])),
            ("after a restart nothing is in memory", ring_of(3, 7, 0), 5, 9, None),
            ("after a restart, up to date", ring_of(3, 7, 0), 7, 9, Some(vec![])),
            ("from the first", ring_of(3, 0, 3), 0, 9, Some(vec![1, 2, 3])),
            ("from the middle", ring_of(3, 10, 3), 11, 9, Some(vec![12, 13])),
            ("no more than asked", ring_of(3, 10, 3), 10, 2, Some(vec![11, 12])),
            ("the oldest went", ring_of(3, 0, 5), 1, 9, None),
            ("just not too old", ring_of(3, 0, 5), 2, 9, Some(vec![3, 4, 5])),
            ("from the future: nothing yet", ring_of(3, 0, 5), 99, 9, Some(vec![])),
        ] {
            assert_eq!(numbers(ring.since(after, limit)), expected, "{story}");
        }
    }
}
