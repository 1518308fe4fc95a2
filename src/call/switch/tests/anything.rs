//! Phones do anything in any order: whatever it is, nothing is left over, and what is indexed is what there is.

use super::{features::office, *};
use crate::features::{Change, book::When};

/// Everything that can be dialled in the office.
const NUMBERS: [&str; 18] = [
    "2041", "2042", "2043", "2044", "2045", "2999", "0", "2600", "2601", "2650", "2700", "2701", "2702", "*722043", "*78", "*37", "**2042",
    "*8",
];
const PEOPLE: [(&str, u8); 4] = [("2041", 1), ("2042", 2), ("2043", 3), ("2044", 4)];
const STATUSES: [u16; 6] = [486, 480, 603, 503, 408, 488];
const ANSWER: &str = "v=0\r\nc=IN IP4 10.0.0.6\r\nm=audio 5000 RTP/AVP 8\r\n";

/// The same each time for the same seed.
struct Luck(u64);

impl Luck {
    fn pick(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most.max(1)
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        of.get(self.pick(of.len())).copied()
    }
}

impl Bed {
    /// One thing that a phone, the disk, a service or the clock does.
    fn anything(&mut self, luck: &mut Luck, callers: &mut Vec<LegId>) {
        let all: Vec<LegId> = callers.iter().chain(&self.called).copied().collect();
        let Some(number) = luck.one(&NUMBERS) else { return };
        match luck.pick(16) {
            0..=2 => {
                let leg = LegId(2_000_000 + callers.len() as u64);
                callers.push(leg);
                if let Some((user, last)) = luck.one(&PEOPLE) {
                    self.dials_as(user, last, leg, number);
                }
            }
            3 | 4 => drop(luck.one(&self.called).map(|leg| self.leg(leg, LegEvent::Answered { sdp: Some(ANSWER.into()) }))),
            5 => drop(luck.one(&self.called).map(|leg| self.leg(leg, LegEvent::Ringing { sdp: None }))),
            6 => {
                if let (Some(leg), Some(status)) = (luck.one(&self.called), luck.one(&STATUSES)) {
                    self.leg(leg, LegEvent::Refused { status });
                }
            }
            7 => drop(luck.one(&self.called).map(|leg| self.leg(leg, LegEvent::Redirected { to: number.into() }))),
            8 => drop(luck.one(callers).map(|leg| self.leg(leg, LegEvent::Acked { sdp: None }))),
            9 => {
                if let (Some(leg), Some(how)) = (luck.one(&all), luck.one(&[LegEnd::HungUp, LegEnd::Cancelled, LegEnd::Lost])) {
                    self.leg(leg, LegEvent::Ended { how });
                }
            }
            10 => drop(luck.one(&all).map(|leg| self.leg(leg, LegEvent::Referred { to: number.into(), replaces: None, only: None }))),
            11 => {
                if let (Some(leg), Some(other)) = (luck.one(&all), luck.one(&all)) {
                    self.leg(leg, LegEvent::Referred { to: number.into(), replaces: Some(other), only: None });
                }
            }
            12 => {
                if let (Some(leg), Some(direction)) = (luck.one(&all), luck.one(&["sendonly", "sendrecv", "inactive"])) {
                    self.offers(leg, direction);
                }
            }
            13 => {
                self.now += Duration::from_secs([1, 3, 10, 61][luck.pick(4)]);
                self.switch.handle_timeout(self.now, &mut self.world);
            }
            14 => {
                if let Some(call) = self.keeping.pop() {
                    self.switch.kept(self.now, call, luck.pick(8) > 0);
                }
                self.switch.handle_free(self.now, &mut self.world);
            }
            _ => {
                let calls: Vec<CallId> = self.switch.calls.keys().copied().collect();
                let mut calls: Vec<_> = calls.into_iter().map(|call| call.0).collect();
                calls.sort_unstable();
                let command = match luck.pick(3) {
                    0 => ServiceCommand::Dial { to: number.into() },
                    _ => ServiceCommand::Hangup,
                };
                if let Some(call) = luck.one(&calls) {
                    self.switch.handle_service(self.now, &mut self.world, CallId(call), command);
                }
            }
        }
        self.actions();
    }

    /// What is indexed is what there is.
    fn assert_whole(&self, story: &str) {
        let switch = &self.switch;
        let mut halves: Vec<(LegId, CallId)> = Vec::new();
        for (id, call) in &switch.calls {
            let waiting = call.transfer.iter().filter_map(|transfer| transfer.by.as_deref());
            halves.extend(call.halves().chain(waiting).map(|half| (half.leg, *id)));
            assert!(!call.near.halves().is_empty(), "{story}: a call without anybody");
        }
        assert_eq!(switch.legs.len(), halves.len(), "{story}: legs");
        assert!(halves.iter().all(|(leg, call)| switch.legs.call_of(*leg) == Some(*call)), "{story}: a leg of another call");
        let due = switch.calls.iter().filter_map(|(id, call)| Some((call.deadline?, *id))).collect::<BTreeSet<_>>();
        assert_eq!(switch.deadlines, due, "{story}: deadlines");
        assert_eq!(switch.callers.values().sum::<usize>(), switch.calls.len(), "{story}: callers");
    }
}

#[test]
fn whatever_phones_do_nothing_is_left_of_it() {
    for seed in 0..400 {
        let mut bed = office();
        bed.world.ports = 100_000;
        bed.world.places = 100_000;
        let config = crate::call::Config { direct_media: seed % 2 == 1, ..(*bed.switch.config).clone() };
        bed.switch.reload(Arc::new(config));
        let config = crate::call::Config { direct_media: seed % 2 == 1, ..(*bed.switch.config).clone() };
        bed.switch.reload(Arc::new(config));
        bed.switch.wish("2042", Change::OneCallOnly(true)).unwrap();
        bed.switch.wish("2043", Change::Forward { when: When::NoAnswer, to: Some("2601".into()) }).unwrap();
        let (mut luck, mut callers) = (Luck(seed), Vec::new());
        for step in 0..120 {
            bed.anything(&mut luck, &mut callers);
            bed.assert_whole(&format!("seed {seed}, step {step}"));
        }
        bed.switch.end_all(bed.now);
        bed.actions();
        bed.assert_whole("the end");
        assert!(bed.world.open.is_empty(), "seed {seed}: a port is left open");
        assert!(bed.switch.is_empty() && bed.switch.desk.places.is_empty(), "seed {seed}");
        bed.lamps();
        assert!(bed.switch.desk.is_dark(), "seed {seed}: a lamp is lit");
    }
}
