//! The account of who called whom, for every way that a call can go.

use super::*;
use crate::store::{CallLeg, LegDirection};

impl Bed {
    fn later(&mut self, secs: u64) {
        self.now += Duration::from_secs(secs);
    }

    /// Every leg as it stands last, in its order: `1 in 2041>2042 0-2-9 200 callee hung up PCMA`, with the seconds of its
    /// beginning, answer and end.
    fn account(&mut self) -> Vec<String> {
        let mut last: Vec<CallLeg> = Vec::new();
        while let Some(leg) = self.ledger.poll_save() {
            match last.iter_mut().find(|known| (known.call, known.leg) == (leg.call, leg.leg)) {
                Some(known) => *known = leg,
                None => last.push(leg),
            }
        }
        assert!(!self.ledger.has_unsaved());
        while let Some(line) = self.ledger.poll_line() {
            let (known, leg) = (self.busy.contains(&(line.call, line.leg)), (line.call, line.leg));
            assert_ne!(known, line.up, "each begins once and ends once: {line:?}");
            if line.up {
                self.busy.insert(leg)
            } else {
                self.busy.remove(&leg)
            };
        }
        for leg in last.iter().filter(|leg| leg.mac.is_some()) {
            let busy = self.busy.contains(&(leg.call, leg.leg));
            assert_eq!(busy, leg.cause.is_none(), "a phone is in a call as long as its leg: {}", words(leg));
        }
        let calls: Vec<_> = last.iter().map(|leg| leg.call).collect();
        let first = |leg: &CallLeg| calls.iter().position(|call| *call == leg.call);
        last.sort_by_key(|leg| (first(leg), leg.leg));
        last.iter().map(words).collect()
    }
}

fn words(leg: &CallLeg) -> String {
    let direction = if leg.direction == LegDirection::In { "in" } else { "out" };
    let secs = |at: Option<Timestamp>| at.map_or_else(|| "x".to_owned(), |at| (at.0 / 1000).to_string());
    let mut words = format!("{} {direction} {}>{}", leg.leg, leg.from, leg.to);
    words.push_str(&format!(" {}-{}-{}", secs(Some(leg.began)), secs(leg.answered), secs(leg.ended)));
    words.push_str(&leg.status.map_or_else(String::new, |status| format!(" {status}")));
    let about = [leg.cause.as_deref(), leg.codec.as_deref(), leg.trunk.as_deref(), leg.diverted_by.as_deref()];
    about.into_iter().flatten().for_each(|word| words.push_str(&format!(" {word}")));
    words
}

#[test]
fn a_call_that_is_answered_has_two_legs() {
    let mut bed = Bed::new(&[("2042", 2)]);
    bed.dials(CALLER, "2042", Some(OFFER));
    // A server that is killed now leaves this.
    assert_eq!(bed.account(), ["1 in 2041>2042 0-x-x", "2 out 2041>2042 0-x-x"]);
    assert_eq!(bed.busy.len(), 2, "the phone that is called is in a call as the one that calls");
    bed.leg(bed.called[0], LegEvent::Ringing { sdp: None });
    bed.later(2);
    bed.answers(0, 8);
    assert_eq!(bed.account().len(), 2, "that it was answered is told at once");
    bed.leg(CALLER, LegEvent::Acked { sdp: None });
    bed.later(7);
    bed.leg(bed.called[0], LegEvent::Ended { how: LegEnd::HungUp });
    assert_eq!(bed.account(), ["1 in 2041>2042 0-2-9 200 callee hung up PCMA", "2 out 2041>2042 0-2-9 200 callee hung up PCMA"]);
}

#[test]
fn calls_that_nobody_takes_say_why() {
    for (how, near, far) in [
        ("busy", "1 in 2041>2042 0-x-3 486 busy", "2 out 2041>2042 0-x-3 486 busy"),
        ("cancelled", "1 in 2041>2042 0-x-3 487 cancelled", "2 out 2041>2042 0-x-3 487 cancelled"),
        ("silent", "1 in 2041>2042 0-x-45 480 no answer", "2 out 2041>2042 0-x-45 487 no answer"),
    ] {
        let mut bed = Bed::new(&[("2042", 2)]);
        bed.dials(CALLER, "2042", Some(OFFER));
        bed.later(if how == "silent" { 45 } else { 3 });
        match how {
            "busy" => drop(bed.leg(bed.called[0], LegEvent::Refused { status: 486 })),
            "cancelled" => drop(bed.leg(CALLER, LegEvent::Ended { how: LegEnd::Cancelled })),
            _ => {
                bed.switch.handle_timeout(bed.now, &mut bed.world);
                bed.actions();
            }
        }
        let mut account = bed.account();
        account.sort();
        assert_eq!(account, [near, far], "{how}");
    }
}

#[test]
fn of_several_phones_one_has_the_call() {
    let mut bed = Bed::new(&[("2042", 2), ("2042", 3), ("2042", 4)]);
    bed.dials(CALLER, "2042", Some(OFFER));
    bed.later(1);
    bed.leg(bed.called[2], LegEvent::Refused { status: 486 });
    bed.later(1);
    bed.answers(1, 0);
    bed.later(1);
    bed.leg(CALLER, LegEvent::Ended { how: LegEnd::HungUp });
    assert_eq!(
        bed.account(),
        [
            "1 in 2041>2042 0-2-3 200 caller hung up PCMU",
            "2 out 2041>2042 0-x-2 487 taken elsewhere",
            "3 out 2041>2042 0-2-3 200 caller hung up PCMU",
            "4 out 2041>2042 0-x-1 486 busy",
        ]
    );
}

#[test]
fn who_sent_a_call_on_stands_by_it() {
    let mut bed = Bed::talking();
    bed.world.phones.push(("2043", 3));
    bed.later(5);
    bed.leg(CALLER, LegEvent::Referred { to: "2043".into(), only: None, replaces: None });
    bed.later(1);
    bed.answers(1, 8);
    bed.later(4);
    bed.leg(bed.called[1], LegEvent::Ended { how: LegEnd::HungUp });
    assert_eq!(
        bed.account(),
        [
            "1 in 2041>2042 0-0-6 200 transferred PCMA",
            "2 out 2041>2042 0-0-10 200 callee hung up PCMA",
            "3 out 2042>2043 5-6-10 200 callee hung up PCMA 2041",
        ]
    );
}

#[test]
fn what_came_to_no_call_is_a_record_too() {
    let mut bed = Bed::new(&[]);
    bed.dials(CALLER, "2999", Some(OFFER));
    bed.dials(CALLER, "2043", Some(OFFER));
    bed.later(1);
    let refused = ["1 in 2041>2999 0-x-0 404 no such number", "1 in 2041>2043 0-x-0 480 not reachable"];
    let mut found = Vec::new();
    while let Some(leg) = bed.ledger.poll_save() {
        found.push(words(&leg));
    }
    assert_eq!(found, refused);
}

#[test]
fn every_trunk_that_was_asked_has_its_leg() {
    let mut bed = with_trunks(&[]);
    bed.dials(CALLER, "01712345678", Some(OFFER));
    bed.leg(bed.called[0], LegEvent::Refused { status: 503 });
    bed.answers(1, 8);
    bed.later(9);
    bed.leg(bed.called[1], LegEvent::Ended { how: LegEnd::HungUp });
    assert_eq!(
        bed.account(),
        [
            "1 in 2041>01712345678 0-0-9 200 callee hung up PCMA",
            "2 out 2041>+491712345678 0-x-0 503 not reachable first",
            "3 out 2041>01712345678 0-0-9 200 callee hung up PCMA second",
        ]
    );
}

#[test]
fn a_program_rings_its_user_first() {
    let mut bed = Bed::new(&[("2041", 1), ("2042", 2)]);
    let labels = vec![("ticket".to_owned(), "4711".to_owned())];
    let wanted = Originate { from: "2041".parse().unwrap(), to: "2042".into(), caller_id: None, timeout: None, labels: labels.clone() };
    bed.switch.originate(bed.now, &mut bed.world, wanted).unwrap();
    bed.actions();
    bed.answers(0, 0);
    let first = std::iter::from_fn(|| bed.ledger.poll_save()).next().expect("a record");
    assert_eq!((first.dialled.as_str(), first.labels), ("2042", labels));
    bed.leg(bed.called[0], LegEvent::Ended { how: LegEnd::HungUp });
    let account = bed.account();
    assert_eq!(account[0], "1 out 2042>2041 0-0-0 200 cancelled PCMU");
    assert!(account[1].starts_with("2 out 2041>2042 0-x-0 487 "), "{account:?}");
}

#[test]
fn two_calls_that_are_joined_end_with_their_own_legs() {
    // Who was called first is on the side of the caller when his is the call that goes on.
    let mut bed = Bed::talking();
    bed.world.phones.push(("2043", 3));
    let second = LegId(1_000_001);
    bed.dials(second, "2043", Some(OFFER));
    bed.answers(1, 8);
    bed.later(1);
    bed.leg(CALLER, LegEvent::Referred { to: "2043".into(), only: None, replaces: Some(second) });
    bed.later(1);
    bed.leg(bed.called[1], LegEvent::Ended { how: LegEnd::HungUp });
    assert_eq!(
        bed.account(),
        [
            "1 in 2041>2043 0-0-1 200 transferred PCMA",
            "2 out 2041>2043 0-0-2 200 caller hung up PCMA",
            "1 in 2041>2042 0-0-1 200 transferred PCMA",
            "2 out 2041>2042 0-0-2 200 caller hung up PCMA",
        ]
    );
}
