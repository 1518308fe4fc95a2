//! Which call each leg is of, and who is in calls: one cannot change without the other.

use std::{collections::HashMap, sync::Arc};

use crate::{
    model::{CallId, NumberHash},
    sip::ua::LegId,
};

#[derive(Default)]
pub(super) struct Legs {
    all: HashMap<LegId, (CallId, Arc<str>), NumberHash>,
    /// Legs of each user.
    users: HashMap<Arc<str>, usize>,
}

impl Legs {
    /// `user`: who is at its far end.
    pub(super) fn insert(&mut self, leg: LegId, call: CallId, user: &str) {
        let user = match self.users.get_key_value(user) {
            Some((known, _)) => known.clone(),
            None => Arc::from(user),
        };
        *self.users.entry(user.clone()).or_default() += 1;
        if let Some((_, before)) = self.all.insert(leg, (call, user)) {
            self.leave(&before);
        }
    }

    pub(super) fn remove(&mut self, leg: LegId) {
        if let Some((_, user)) = self.all.remove(&leg) {
            self.leave(&user);
        }
    }

    /// It is of another call from now on.
    pub(super) fn give(&mut self, leg: LegId, call: CallId) {
        if let Some((of, _)) = self.all.get_mut(&leg) {
            *of = call;
        }
    }

    pub(super) fn call_of(&self, leg: LegId) -> Option<CallId> {
        self.all.get(&leg).map(|(call, _)| *call)
    }

    /// Is the user in a call, or called?
    pub(super) fn is_engaged(&self, user: &str) -> bool {
        self.users.contains_key(user)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.all.len(), self.users.values().sum::<usize>());
        self.all.len()
    }

    fn leave(&mut self, user: &str) {
        if let Some(count) = self.users.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(user);
            }
        }
    }
}
