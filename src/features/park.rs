//! Park places: a call waits at a number until somebody dials it.

use std::collections::BTreeMap;

use crate::model::CallId;

/// The places of an office, and who waits at which. Places are numbers, `701` to `710`.
#[derive(Debug, Default)]
pub struct Places {
    taken: BTreeMap<String, CallId>,
}

impl Places {
    /// Takes a place for a call: this one, or the first that is free. `None`: there is none.
    pub fn put(&mut self, call: CallId, wanted: Option<&str>, all: impl IntoIterator<Item = String>) -> Option<String> {
        let mut free = all.into_iter().filter(|place| !self.taken.contains_key(place));
        let place = match wanted {
            Some(wanted) => free.find(|place| place == wanted)?,
            None => free.next()?,
        };
        self.taken.insert(place.clone(), call);
        Some(place)
    }

    /// Who waits there.
    pub fn at(&self, place: &str) -> Option<CallId> {
        self.taken.get(place).copied()
    }

    /// The place is free again, if this call had it.
    pub fn leave(&mut self, place: &str, call: CallId) {
        if self.at(place) == Some(call) {
            self.taken.remove(place);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_in_order_or_as_wanted() {
        let mut places = Places::default();
        let all = || (701..=702).map(|place| place.to_string());
        assert_eq!(places.put(CallId(1), Some("702"), all()).as_deref(), Some("702"));
        assert_eq!(places.put(CallId(2), Some("702"), all()), None);
        assert_eq!(places.put(CallId(2), Some("900"), all()), None);
        assert_eq!(places.put(CallId(2), None, all()).as_deref(), Some("701"));
        assert_eq!(places.put(CallId(3), None, all()), None);
        places.leave("701", CallId(9));
        assert_eq!(places.at("701"), Some(CallId(2)), "only who is there leaves");
        places.leave("701", CallId(2));
        assert_eq!((places.at("701"), places.at("702")), (None, Some(CallId(1))));
        places.leave("702", CallId(1));
        assert!(places.is_empty());
    }
}
