//! Final answers to requests that came by UDP, all but INVITE, for who asks again: the state Completed and timer J of RFC 3261
//! §17.2.2, kept apart from the transactions that still have something to do. After a power cut there are 100,000 of these.
//!
//! Of the answer only that is held which is not in the request: the one that comes again is the same, and says where the answer
//! goes, too. All are held for as long, so they leave in the order in which they came, and no timer is set for each.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    super::{build::Remembered, message::Message},
    key::Key,
};
use crate::model::NumberHash;

pub(super) struct Answered {
    /// Timer J.
    kept_for: Duration,
    answers: HashMap<Key, Remembered, NumberHash>,
    ends: VecDeque<(Instant, Key)>,
}

impl Answered {
    pub(super) fn new(kept_for: Duration) -> Self {
        Self { kept_for, answers: HashMap::default(), ends: VecDeque::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.answers.len()
    }

    pub(super) fn insert(&mut self, now: Instant, key: Key, answer: Remembered) {
        self.answers.insert(key, answer);
        self.ends.push_back((now + self.kept_for, key));
    }

    /// The answer to a request that came again.
    pub(super) fn get(&self, key: &Key, request: &Message) -> Option<Bytes> {
        self.answers.get(key).map(|answer| answer.encode(request))
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, key)) = self.ends.pop_front_if(|(at, _)| *at <= now) {
            self.answers.remove(&key);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.ends.front().map(|(at, _)| *at)
    }
}
