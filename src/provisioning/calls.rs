//! The calls that one device is in, which hold its reload back. Pure.
//!
//! Three tell of them: the IVR of calls to it and the event stream of calls that the device began, as a whole; and the engine of each
//! leg at the device, whoever called. The end of a leg is never missed, that of a call may be. Nearly every device is in none: one list, which is empty.

use crate::model::CallId;

/// Calls and legs of one device that are told apart.
const MOST: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    Ivr,
    /// Between people: it holds a reload back, and means nothing else here.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole(CallKind),
    Leg(u32),
}

#[derive(Default)]
pub(super) struct Calls(Vec<(CallId, Part)>);

impl Calls {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has_legs(&self) -> bool {
        self.0.iter().any(|(_, part)| matches!(part, Part::Leg(_)))
    }

    pub(super) fn is_in_ivr(&self) -> bool {
        self.0.iter().any(|(_, part)| *part == Part::Whole(CallKind::Ivr))
    }

    pub(super) fn begin(&mut self, call: CallId, kind: CallKind) {
        self.end(call);
        self.put(call, Part::Whole(kind));
    }

    /// What it was, if it was known.
    pub(super) fn end(&mut self, call: CallId) -> Option<CallKind> {
        let at = self.0.iter().position(|(known, part)| *known == call && matches!(part, Part::Whole(_)))?;
        match self.take(at) {
            (_, Part::Whole(kind)) => Some(kind),
            (_, Part::Leg(_)) => None,
        }
    }

    pub(super) fn begin_leg(&mut self, call: CallId, leg: u32) {
        self.end_leg(call, leg);
        self.put(call, Part::Leg(leg));
    }

    pub(super) fn end_leg(&mut self, call: CallId, leg: u32) {
        if let Some(at) = self.0.iter().position(|held| *held == (call, Part::Leg(leg))) {
            self.take(at);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0 = Vec::new();
    }

    fn put(&mut self, call: CallId, part: Part) {
        if self.0.len() < MOST {
            self.0.push((call, part));
        }
    }

    /// A list that is empty holds no memory.
    fn take(&mut self, at: usize) -> (CallId, Part) {
        let taken = self.0.swap_remove(at);
        if self.0.is_empty() {
            self.clear();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_and_its_legs_are_told_apart() {
        let mut calls = Calls::default();
        let (ivr, other) = (CallId(1), CallId(2));
        calls.begin(ivr, CallKind::Ivr);
        calls.begin(other, CallKind::Other);
        calls.begin(other, CallKind::Other);
        calls.begin_leg(other, 1);
        calls.begin_leg(other, 1);
        assert!(calls.is_in_ivr() && calls.has_legs() && !calls.is_empty());
        assert_eq!((calls.end(ivr), calls.end(ivr)), (Some(CallKind::Ivr), None));
        assert!(!calls.is_in_ivr());
        assert_eq!((calls.end(other), calls.end(other)), (Some(CallKind::Other), None));
        assert!(calls.has_legs(), "the leg is still up");
        calls.end_leg(other, 2);
        assert!(calls.has_legs(), "another's");
        calls.end_leg(other, 1);
        assert!(!calls.has_legs() && calls.is_empty());
        assert_eq!(calls.0.capacity(), 0);
    }

    #[test]
    fn ends_that_are_missed_do_not_pile_up() {
        let mut calls = Calls::default();
        (0..100).for_each(|n| calls.begin(CallId(n), CallKind::Other));
        assert_eq!(calls.0.len(), MOST);
        calls.clear();
        assert!(calls.is_empty());
    }
}
