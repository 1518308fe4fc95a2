//! Forwards, groups, star codes, pick-up, park and call-back, on paper.

use std::time::Duration;

use super::*;
use crate::features::{self, Change, book::When};

const SETTINGS: &str = "
groups:
  - {number: '2600', name: Sales, members: ['2042', '2043'], strategy: in_order, ring_secs: 10, overflow: '2044'}
  - {number: '2601', members: ['2042', '2043'], ring_secs: 10}
paging: [{number: '2650', name: All, members: ['2041', '2042', '2043', '2044'], speakers: ['2041', '2042'], longest_secs: 60}]
pickup_groups: [['2041', '2043']]
park: {number: '2700', places: 2701-2702, timeout_secs: 60}
";

/// Everybody has a phone: 2041 is the caller's own.
pub(super) fn office() -> Bed {
    let mut bed = Bed::new(&[("2041", 1), ("2042", 2), ("2043", 3), ("2044", 4)]);
    let settings: features::Settings = serde_yaml::from_str(SETTINGS).unwrap();
    let config = crate::call::Config { features: Arc::new(settings.check().unwrap()), ..(*bed.switch.config).clone() };
    bed.switch.reload(Arc::new(config));
    bed
}

impl Bed {
    fn wish(&mut self, who: &str, change: Change) {
        self.switch.wish(who, change).unwrap();
    }

    fn passes(&mut self, secs: u64) -> Vec<String> {
        self.now += Duration::from_secs(secs);
        self.switch.handle_timeout(self.now, &mut self.world);
        self.actions()
    }

    fn stored(&mut self) -> Vec<String> {
        let call = self.keeping.pop().expect("something is to be stored");
        self.switch.kept(self.now, call, true);
        self.actions()
    }

    /// The service has said what is done, and hangs up.
    fn heard_out(&mut self) -> String {
        let mut said = self.leg(CALLER, LegEvent::Acked { sdp: None });
        let id = self.switch.legs.call_of(CALLER).expect("a call");
        self.switch.handle_service(self.now, &mut self.world, id, ServiceCommand::Hangup);
        assert_eq!(self.actions(), ["menu: menu done", "hang up caller", "close"]);
        said.pop().expect("something is said")
    }

    fn refused(&mut self, which: usize, status: u16) -> Vec<String> {
        self.leg(self.called[which], LegEvent::Refused { status })
    }

    /// Another phone than the caller's dials.
    pub(super) fn dials_as(&mut self, user: &str, last: u8, leg: LegId, number: &str) -> Vec<String> {
        let caller = Caller { user: user.into(), display_name: "Bo".into(), mac: mac(last), line: 1, provisional: false };
        let incoming = incoming(leg, caller, number, Some(OFFER));
        self.switch.handle_incoming(self.now, &mut self.world, incoming);
        self.actions()
    }

    fn diversions(&self) -> Vec<String> {
        let told = self.events.iter().filter_map(|event| match event {
            Event::CallDiverted { by, to, reason, .. } => Some(format!("{by} to {to}: {reason}")),
            _ => None,
        });
        told.collect()
    }

    pub(super) fn lamps(&mut self) -> Vec<String> {
        while self.switch.poll_parties().is_some() {}
        let mut all = Vec::new();
        while let Some((resource, lamp)) = self.switch.poll_lamp() {
            all.push(format!("{resource} {}", lamp.map_or("dark".to_owned(), |lamp| format!("{:?} {}", lamp.state, lamp.peer))));
        }
        all
    }
}

fn forward(when: When, to: &str) -> Change {
    Change::Forward { when, to: Some(to.into()) }
}

#[test]
fn a_forward_counts_when_its_time_has_come() {
    // Always: the called phone does not ring.
    let mut bed = office();
    bed.wish("2042", forward(When::Always, "2043"));
    assert_eq!(bed.dials(CALLER, "2042", Some(OFFER)), ["invite for 2041 0 sendrecv by 2042 unconditional"]);
    assert_eq!(bed.diversions(), ["2042 to 2043: unconditional"]);
    // Busy.
    let mut bed = office();
    bed.wish("2042", forward(When::Busy, "2043"));
    bed.dials(CALLER, "2042", Some(OFFER));
    assert_eq!(bed.refused(0, 486), ["close", "ring-back false", "invite for 2041 0 sendrecv by 2042 user-busy"]);
    assert_eq!(bed.diversions(), ["2042 to 2043: user-busy"]);
    // No answer, after the user's own time.
    let mut bed = office();
    bed.wish("2042", forward(When::NoAnswer, "2043"));
    bed.wish("2042", Change::RingSecs(Some(7)));
    bed.dials(CALLER, "2042", Some(OFFER));
    assert!(bed.passes(6).is_empty());
    assert_eq!(bed.passes(1), ["hang up callee0", "close", "ring-back false", "invite for 2041 0 sendrecv by 2042 no-answer"]);
    assert_eq!(bed.answers(1, 8).last().unwrap(), "bridge");
    // Nobody registered.
    let mut bed = office();
    bed.wish("2045", forward(When::Unreachable, "2043"));
    assert_eq!(bed.dials(CALLER, "2045", Some(OFFER)), ["invite for 2041 0 sendrecv by 2045 unavailable"]);
    assert_eq!(bed.diversions(), ["2045 to 2043: unavailable"]);
}

#[test]
fn forwards_that_lead_in_a_circle_end() {
    let mut bed = office();
    bed.wish("2042", forward(When::Always, "2043"));
    bed.wish("2043", forward(When::Always, "2042"));
    assert_eq!(bed.dials(CALLER, "2042", Some(OFFER)), ["refuse caller 480", "close"]);
    bed.assert_over("diverted in a circle");
    assert_eq!(bed.diversions().len(), 1);
    // To oneself.
    bed.wish("2044", forward(When::Always, "2044"));
    assert_eq!(bed.dials(CALLER, "2044", Some(OFFER)), ["refuse caller 480", "close"]);
    bed.assert_over("diverted in a circle");
}

#[test]
fn who_is_not_wanted_is_told_so_and_nothing_rings() {
    let mut bed = office();
    bed.wish("2042", Change::DoNotDisturb(true));
    assert_eq!(bed.dials(CALLER, "2042", Some(OFFER)), ["refuse caller 486"]);
    bed.wish("2043", Change::Block("2041".into()));
    assert_eq!(bed.dials(CALLER, "2043", Some(OFFER)), ["refuse caller 403"]);
    bed.wish("2044", Change::RefuseHidden(true));
    assert_eq!(bed.dials(CALLER, "*672044", Some(OFFER)), ["refuse caller 433"]);
    assert_eq!(bed.dials(CALLER, "2044", Some(OFFER)), ["invite for 2041 0 sendrecv"]);
    // One call only: 2044 is called already.
    bed.wish("2044", Change::OneCallOnly(true));
    assert_eq!(bed.dials_as("2043", 3, LegId(900_007), "2044"), ["refuse caller 486"]);
}

#[test]
fn a_hidden_number_is_not_shown() {
    let mut bed = office();
    assert_eq!(bed.dials(CALLER, "*672042", Some(OFFER)), ["invite for anonymous 0 sendrecv"]);
}

#[test]
fn a_hunt_group_rings_one_after_the_other_and_overflows() {
    let mut bed = office();
    assert_eq!(bed.dials(CALLER, "2600", Some(OFFER)), ["invite for 2041 0 sendrecv"]);
    assert_eq!(bed.lamps(), ["2600 Early 2041"]);
    assert_eq!(bed.refused(0, 603), ["close", "ring-back false", "invite for 2041 0 sendrecv"]);
    assert_eq!(bed.passes(10), ["hang up callee1", "close", "ring-back false", "invite for 2041 0 sendrecv by 2600 no-answer"]);
    assert_eq!(bed.diversions(), ["2600 to 2044: no-answer"]);
    assert_eq!(bed.lamps(), ["2600 dark"]);
    // Whoever talks, or is not to be disturbed, is left out.
    let mut bed = office();
    bed.wish("2042", Change::DoNotDisturb(true));
    bed.dials_as("2043", 3, LegId(900_007), "2044");
    assert_eq!(bed.dials(CALLER, "2600", Some(OFFER)), ["invite for 2041 0 sendrecv by 2600 user-busy"]);
    assert_eq!(bed.diversions(), ["2600 to 2044: user-busy"]);
}

#[test]
fn a_group_rings_all_its_members_at_once() {
    let mut bed = office();
    assert_eq!(bed.dials(CALLER, "2601", Some(OFFER)).len(), 2);
    let joined = bed.answers(1, 8);
    assert!(joined.contains(&"hang up callee0 elsewhere".to_owned()) && joined.contains(&"bridge".to_owned()), "{joined:?}");
    bed.leg(CALLER, LegEvent::Ended { how: LegEnd::HungUp });
    bed.actions();
    bed.dials(CALLER, "2601", Some(OFFER));
    assert_eq!(bed.passes(10).last().unwrap(), "close");
    bed.assert_over("no answer");
}

#[test]
fn one_speaks_and_the_phones_of_many_let_it_be_heard() {
    let mut bed = office();
    let invite = "invite for 2041 0 sendonly answering by itself";
    assert_eq!(bed.dials(CALLER, "2650", Some(OFFER)), [invite; 3], "but not the speaker's own");
    assert_eq!(bed.lamps(), ["2650 Early 2041"]);
    let heard = bed.answers(0, 8);
    assert_eq!(heard, ["remote Pcma SendOnly", "overhear", "remote Pcmu SendRecv", "answer caller 0 sendrecv"]);
    assert_eq!(bed.seen, ["caller sees 2650"]);
    bed.leg(CALLER, LegEvent::Acked { sdp: None });
    assert_eq!(bed.lamps(), ["2650 Confirmed 2041"]);
    assert_eq!(bed.answers(1, 0), ["remote Pcmu SendOnly", "overhear"]);
    // The third does not take the call by itself: it is called off, and it is time to speak.
    assert_eq!(bed.passes(3), ["hang up callee2", "close", "beep"]);
    // Nobody of them is heard, takes the call elsewhere, or is taken out of it.
    let held = bed.offers(bed.called[1], "sendrecv");
    assert_eq!(held, ["answer reoffer callee1 0 sendonly", "remote Pcmu SendOnly"]);
    let to = || "2044".to_owned();
    assert_eq!(bed.leg(bed.called[0], LegEvent::Referred { to: to(), only: None, replaces: None }), ["refuse refer callee0 491"]);
    assert_eq!(bed.leg(CALLER, LegEvent::Referred { to: to(), only: None, replaces: None }), ["refuse refer caller 603"]);
    assert_eq!(bed.dials_as("2044", 4, LegId(900_007), "**2042"), ["refuse caller 404"]);
    // Who hangs up hears no more, with the last it is over.
    assert_eq!(bed.leg(bed.called[0], LegEvent::Ended { how: LegEnd::HungUp }), ["close"]);
    assert_eq!(bed.leg(bed.called[1], LegEvent::Ended { how: LegEnd::HungUp }), ["close", "hang up caller", "close"]);
    bed.assert_over("callee hung up");
    assert_eq!(bed.lamps(), ["2650 dark"]);
}

#[test]
fn who_speaks_to_many_ends_it_for_all_and_so_does_the_clock() {
    let mut bed = office();
    bed.dials(CALLER, "2650", Some(OFFER));
    for (which, status) in [(0, 480), (1, 486)] {
        bed.refused(which, status);
    }
    assert_eq!(bed.answers(2, 8).last().unwrap(), "beep", "who said no is not waited for");
    let over = bed.leg(CALLER, LegEvent::Ended { how: LegEnd::HungUp });
    assert_eq!(over, ["close", "hang up callee2", "close"]);
    bed.assert_over("caller hung up");
    // A handset that was put aside.
    bed.dials(CALLER, "2650", Some(OFFER));
    (3..6).for_each(|which| drop(bed.answers(which, 8)));
    assert!(bed.passes(59).is_empty());
    assert_eq!(bed.passes(1).len(), 8);
    bed.assert_over("too long");
    // Nobody takes it.
    bed.dials(CALLER, "2650", Some(OFFER));
    assert_eq!(bed.passes(10).last_chunk(), Some(&["refuse caller 480".to_owned(), "close".to_owned()]));
    bed.assert_over("no answer");
    assert!(bed.switch.desk.turns.idle("2042"), "who only heard has not talked");
}

#[test]
fn a_program_has_somebody_speak_to_many() {
    let mut bed = office();
    let (from, to) = ("2041".parse().unwrap(), "2650".to_owned());
    let wanted = Originate { from, to, caller_id: None, timeout: None, labels: vec![] };
    bed.switch.originate(bed.now, &mut bed.world, wanted).unwrap();
    assert_eq!(bed.actions(), ["invite for 2650 8 sendrecv"]);
    assert_eq!(bed.answers(0, 8).len(), 4, "its own sound, and three phones");
    assert_eq!(bed.answers(1, 8), ["remote Pcma SendOnly", "overhear"]);
    assert_eq!(bed.passes(3).last().unwrap(), "beep");
    assert!(matches!(bed.events.last(), Some(Event::CallAnswered { to, .. }) if to == "2650"));
    bed.leg(bed.called[0], LegEvent::Ended { how: LegEnd::HungUp });
    bed.assert_over("caller hung up");
}

#[test]
fn whoever_is_not_to_be_disturbed_hears_nothing_and_not_everybody_may_speak() {
    let mut bed = office();
    bed.wish("2043", Change::DoNotDisturb(true));
    bed.dials_as("2044", 4, LegId(900_007), "0");
    assert_eq!(bed.dials(CALLER, "2650", Some(OFFER)).len(), 1, "one talks, one wants to be left alone");
    assert_eq!(bed.dials_as("2043", 3, LegId(900_009), "2650"), ["refuse caller 403", "close"]);
    // Nor may somebody be sent there, not even on behalf of who may.
    let mut bed = office();
    bed.wish("2042", forward(When::Always, "2650"));
    assert_eq!(bed.dials_as("2043", 3, LegId(900_009), "2042"), ["refuse caller 403", "close"]);
    // Everybody talks already.
    let mut bed = office();
    bed.dials_as("2043", 3, LegId(900_009), "2042");
    bed.dials_as("2044", 4, LegId(900_010), "0");
    assert_eq!(bed.dials(CALLER, "2650", Some(OFFER)), ["refuse caller 486", "close"]);
}

#[test]
fn a_star_code_is_stored_before_it_is_confirmed() {
    let mut bed = office();
    let kept = bed.dials(CALLER, "*722043", Some(OFFER));
    assert_eq!(kept.len(), 1, "no answer yet: {kept:?}");
    assert!(kept[0].starts_with("keep extension/2041 {\"always\":\"2043\""), "{kept:?}");
    assert_eq!(bed.stored(), ["remote Pcmu SendRecv", "answer caller 0 sendrecv"]);
    assert_eq!(bed.switch.wishes("2041").always.as_deref(), Some("2043"));
    assert_eq!(bed.heard_out(), "say Changed(Forward { when: Always, to: Some(\"2043\") })");
    bed.assert_over("menu done");
    // The disk is full.
    bed.dials(CALLER, "*73", Some(OFFER));
    let call = bed.keeping.pop().unwrap();
    bed.switch.kept(bed.now, call, false);
    assert_eq!(bed.actions(), ["menu: too much to do", "refuse caller 503 after 10", "close"]);
    // The disk does not answer at all.
    bed.dials(CALLER, "*78", Some(OFFER));
    assert_eq!(bed.passes(10), ["menu: menu done", "refuse caller 480", "close"]);
    bed.assert_over("menu done");
    // The service has no room: a beep says that it is done.
    bed.world.places = 0;
    bed.dials(CALLER, "*79", Some(OFFER));
    assert_eq!(bed.stored(), ["remote Pcmu SendRecv", "answer caller 0 sendrecv", "beep"]);
    bed.leg(CALLER, LegEvent::Acked { sdp: None });
    assert_eq!(bed.passes(2), ["hang up caller", "close"]);
    bed.assert_over("menu done");
}

#[test]
fn what_may_not_or_cannot_be_is_said_and_changes_nothing() {
    let mut bed = office();
    let settings = format!("{SETTINGS}night: {{'0': office}}\nnight_extensions: ['2042']\n");
    let settings: features::Settings = serde_yaml::from_str(&settings).unwrap();
    let config = crate::call::Config { features: Arc::new(settings.check().unwrap()), ..(*bed.switch.config).clone() };
    bed.switch.reload(Arc::new(config));
    let answered = ["remote Pcmu SendRecv", "answer caller 0 sendrecv"];
    assert_eq!(bed.dials(CALLER, "*280", Some(OFFER)), answered);
    assert_eq!(bed.heard_out(), "say NotAllowed");
    for number in 0..200 {
        bed.wish("2041", Change::Block(number.to_string()));
    }
    assert_eq!(bed.dials(CALLER, "*30999", Some(OFFER)), answered);
    assert_eq!(bed.heard_out(), "say Impossible");
    bed.world.places = 0;
    assert_eq!(bed.dials(CALLER, "*280", Some(OFFER)), ["refuse caller 403"]);
}

#[test]
fn codes_call_what_was_called_before() {
    let mut bed = office();
    assert_eq!(bed.dials(CALLER, "*66", Some(OFFER)), ["refuse caller 404"]);
    bed.dials(CALLER, "2042", Some(OFFER));
    bed.leg(CALLER, LegEvent::Ended { how: LegEnd::Cancelled });
    bed.actions();
    assert_eq!(bed.dials(CALLER, "*66", Some(OFFER)), ["invite for 2041 0 sendrecv"]);
    bed.leg(CALLER, LegEvent::Ended { how: LegEnd::Cancelled });
    bed.actions();
    // 2042 has been called: it calls back, or blocks the caller.
    assert_eq!(bed.dials_as("2042", 2, LegId(900_007), "*69"), ["invite for 2042 0 sendrecv"]);
    bed.leg(LegId(900_007), LegEvent::Ended { how: LegEnd::Cancelled });
    bed.actions();
    bed.dials_as("2042", 2, LegId(900_008), "*32");
    assert!(bed.switch.wishes("2042").blocked.contains("2041"));
    // A speed dial.
    bed.dials(CALLER, "*75072043", Some(OFFER));
    bed.stored();
    bed.heard_out();
    assert_eq!(bed.dials(CALLER, "*07", Some(OFFER)), ["invite for 2041 0 sendrecv"]);
    bed.leg(CALLER, LegEvent::Ended { how: LegEnd::Cancelled });
    bed.actions();
    assert_eq!(bed.dials(CALLER, "*802043", Some(OFFER)), ["invite for 2041 0 sendrecv answering by itself"]);
}

#[test]
fn a_ringing_call_is_picked_up_by_who_may() {
    let mut bed = office();
    bed.dials(CALLER, "2042", Some(OFFER));
    // 2044 is in no group with 2042.
    assert_eq!(bed.dials_as("2044", 4, LegId(900_006), "*8"), ["refuse caller 404"]);
    let taken = bed.dials_as("2043", 3, LegId(900_007), "**2042");
    assert_eq!(taken[..2], ["remote Pcmu SendRecv", "answer caller 0 sendrecv"]);
    assert!(taken.contains(&"hang up callee0 elsewhere".to_owned()) && taken.contains(&"bridge".to_owned()), "{taken:?}");
    // A call to 2043 rings; 2041 is in its group.
    let mut bed = office();
    bed.dials_as("2044", 4, LegId(900_007), "2043");
    assert!(bed.dials(CALLER, "*8", Some(OFFER)).contains(&"bridge".to_owned()));
    // A call to a ring group is everybody's who is in it.
    let mut bed = office();
    bed.dials(CALLER, "2600", Some(OFFER));
    assert!(bed.dials_as("2043", 3, LegId(900_007), "*8").contains(&"bridge".to_owned()));
}

#[test]
fn a_parked_call_waits_with_music_and_is_taken_by_who_dials_its_place() {
    let mut bed = Bed::talking();
    let settings: features::Settings = serde_yaml::from_str(SETTINGS).unwrap();
    let config = crate::call::Config {
        features: Arc::new(settings.check().unwrap()),
        hold_music: crate::call::config::HoldMusic::Tune,
        ..(*bed.switch.config).clone()
    };
    bed.switch.reload(Arc::new(config));
    let callee = bed.called[0];
    let parked = bed.leg(callee, LegEvent::Referred { to: "2700".into(), only: None, replaces: None });
    assert_eq!(parked, ["accept refer callee0", "unbridge", "tell callee0 200", "hang up callee0", "close", "music true"]);
    assert_eq!(bed.lamps().last().unwrap(), "2701 Confirmed 2041");
    assert_eq!(bed.switch.list(bed.now)[0].state, CallState::Parked);
    // Nobody takes it: who parked it is called, does not answer, and it waits on.
    assert_eq!(bed.passes(60), ["music false", "invite for 2041 8 sendrecv", "ring-back true"]);
    assert_eq!(bed.lamps(), ["2701 dark"]);
    assert_eq!(bed.passes(45), ["hang up callee1", "close", "ring-back false", "music true"]);
    assert_eq!(bed.lamps(), ["2701 Confirmed 2041"]);
    let taken = bed.dials_as("2043", 3, LegId(900_007), "2701");
    assert_eq!(taken, ["remote Pcma SendRecv", "answer caller 8 sendrecv", "bridge", "music false"]);
    assert_eq!(bed.lamps(), ["2701 dark"]);
    assert_eq!(bed.dials_as("2044", 4, LegId(900_008), "2701"), ["refuse caller 404"]);
    bed.leg(LegId(900_007), LegEvent::Ended { how: LegEnd::HungUp });
    bed.actions();
    bed.assert_over("callee hung up");
    assert!(bed.switch.desk.places.is_empty());
}

#[test]
fn whoever_asks_for_a_place_is_told_one_and_may_transfer_his_call_there() {
    let mut bed = office();
    // 2041 talks with 2042, and dials the number for any place on a second line.
    bed.dials(CALLER, "2042", Some(OFFER));
    bed.answers(0, 8);
    bed.leg(CALLER, LegEvent::Acked { sdp: None });
    let second = LegId(1_000_001);
    bed.dials(second, "2700", Some(OFFER));
    assert_eq!(bed.leg(second, LegEvent::Acked { sdp: None }), ["say 2701"]);
    assert_eq!(bed.lamps(), [""; 0], "nobody waits there yet");
    assert_eq!(bed.dials_as("2043", 3, LegId(900_007), "2701"), ["refuse caller 404"]);
    let parked = bed.leg(CALLER, LegEvent::Referred { to: String::new(), only: None, replaces: Some(second) });
    assert_eq!(
        parked,
        ["menu: transferred", "hang up caller", "close", "accept refer caller", "unbridge", "tell caller 200", "hang up caller", "close"]
    );
    assert_eq!(bed.lamps().last().unwrap(), "2701 Confirmed 2042");
    let taken = bed.dials_as("2043", 3, LegId(900_008), "2701");
    assert!(taken.contains(&"bridge".to_owned()), "{taken:?}");
    bed.leg(LegId(900_008), LegEvent::Ended { how: LegEnd::HungUp });
    assert!(bed.switch.desk.places.is_empty() && bed.switch.is_empty());
    // The same at a place of his choice; who talks with nobody has nothing to park.
    bed.dials(CALLER, "2042", Some(OFFER));
    bed.answers(1, 8);
    bed.leg(CALLER, LegEvent::Acked { sdp: None });
    bed.dials(second, "2702", Some(OFFER));
    assert_eq!(bed.leg(second, LegEvent::Acked { sdp: None }), ["say 2702"]);
    bed.leg(CALLER, LegEvent::Referred { to: String::new(), replaces: Some(second), only: None });
    assert_eq!(bed.lamps().last().unwrap(), "2702 Confirmed 2042");
    bed.leg(bed.called[1], LegEvent::Ended { how: LegEnd::HungUp });
    assert_eq!(bed.dials(second, "2702", Some(OFFER)), ["refuse caller 404"]);
    // Who only asks has parked nothing.
    bed.dials(second, "2700", Some(OFFER));
    bed.leg(second, LegEvent::Acked { sdp: None });
    bed.leg(second, LegEvent::Ended { how: LegEnd::HungUp });
    assert!(bed.switch.desk.places.is_empty());
    // All places are taken.
    bed.dials(second, "2700", Some(OFFER));
    bed.dials(LegId(1_000_002), "2700", Some(OFFER));
    assert_eq!(bed.dials_as("2043", 3, LegId(900_009), "2700"), ["refuse caller 486"]);
}

#[test]
fn one_is_called_back_when_the_other_is_free() {
    let mut bed = office();
    bed.dials_as("2043", 3, LegId(900_007), "2042");
    bed.answers(0, 8);
    bed.leg(LegId(900_007), LegEvent::Acked { sdp: None });
    bed.wish("2042", Change::OneCallOnly(true));
    assert_eq!(bed.dials(CALLER, "2042", Some(OFFER)), ["refuse caller 486"]);
    let kept = bed.dials(CALLER, "*37", Some(OFFER));
    assert_eq!(kept, ["keep call-back/2041 {\"to\":\"2042\",\"until\":3600000}"]);
    bed.stored();
    assert_eq!(bed.heard_out(), "say CallBack { to: Some(\"2042\") }");
    bed.switch.handle_free(bed.now, &mut bed.world);
    assert!(bed.actions().is_empty(), "2042 still talks");
    bed.leg(LegId(900_007), LegEvent::Ended { how: LegEnd::HungUp });
    bed.switch.handle_free(bed.now, &mut bed.world);
    assert_eq!(bed.actions(), ["invite for 2042 8 sendrecv"], "the phone of 2041 is called, and shows whom it is about");
    let phone = *bed.called.last().unwrap();
    // It cannot be reached, and is tried again once it has registered anew.
    bed.leg(phone, LegEvent::Refused { status: 503 });
    bed.switch.handle_free(bed.now, &mut bed.world);
    assert!(bed.actions().is_empty());
    bed.switch.handle_phone_came();
    bed.switch.handle_free(bed.now, &mut bed.world);
    assert_eq!(bed.actions(), ["invite for 2042 8 sendrecv"]);
    let phone = *bed.called.last().unwrap();
    assert_eq!(bed.leg(phone, LegEvent::Ringing { sdp: None }), ["keep call-back/2041 "], "it rings: that is what was wanted");
    assert!(bed.switch.desk.call_backs.is_empty());
}

#[test]
fn what_was_wanted_and_dialled_before_a_restart_is_known_after_it() {
    // A call-back rings as soon as both have a phone.
    let mut bed = office();
    let phone = bed.world.phones.remove(1);
    bed.switch.restore(vec![("call-back/2041".into(), r#"{"to":"2042","until":1000}"#.into())]);
    bed.switch.handle_free(bed.now, &mut bed.world);
    assert_eq!(bed.actions(), [""; 0]);
    bed.world.phones.push(phone);
    bed.switch.handle_phone_came();
    bed.switch.handle_free(bed.now, &mut bed.world);
    assert_eq!(bed.actions(), ["invite for 2042 8 sendrecv"]);
    // The account of who called whom knows the last numbers.
    let mut bed = office();
    bed.dials(CALLER, "2042", Some(OFFER));
    bed.leg(CALLER, LegEvent::Ended { how: LegEnd::Cancelled });
    bed.actions();
    bed.dials(CALLER, "*672043", Some(OFFER));
    bed.leg(CALLER, LegEvent::Ended { how: LegEnd::Cancelled });
    bed.actions();
    bed.dials(CALLER, "*78", Some(OFFER));
    bed.dials_as("2044", 4, LegId(900_007), "2600");
    bed.dials_as("2044", 4, LegId(900_008), "2701");
    let mut account: Vec<_> = std::iter::from_fn(|| bed.ledger.poll_save()).collect();
    account.reverse();
    let mut after = office();
    after.switch.remember(account, |number| number.len() == 4);
    let last = |who: &str| after.switch.desk.last.get(who).cloned().unwrap_or_default();
    assert_eq!((last("2041").dialled.as_deref(), last("2041").caller), (Some("2043"), None), "no star code");
    assert_eq!(last("2042").caller.as_deref(), Some("2041"), "and not the one who called the group");
    assert_eq!((last("2043").caller, last("2044").dialled.as_deref()), (None, Some("2600")), "neither who hides nor a park place");
}

#[test]
fn a_phone_is_told_of_itself_by_the_service() {
    let mut bed = office();
    assert_eq!(bed.dials(CALLER, "*65", Some(OFFER)), ["remote Pcmu SendRecv", "answer caller 0 sendrecv"]);
    assert_eq!(bed.leg(CALLER, LegEvent::Acked { sdp: None }), ["hand over"]);
}

#[test]
fn star_codes_count_as_calls() {
    let mut bed = office();
    bed.dials(CALLER, "*78", Some(OFFER));
    bed.dials(LegId(900_001), "*78", Some(OFFER));
    assert_eq!(bed.dials(LegId(900_002), "*79", Some(OFFER)), ["refuse caller 503 after 10"]);
    assert!(bed.switch.wishes("2041").do_not_disturb);
}
