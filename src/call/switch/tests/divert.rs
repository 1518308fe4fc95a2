//! A phone that is called names somebody else.

use super::*;

impl Bed {
    fn redirects(&mut self, which: usize, to: &str) -> Vec<String> {
        self.leg(self.called[which], LegEvent::Redirected { to: to.into() })
    }
}

#[test]
fn a_phone_sends_its_call_to_somebody_else() {
    // The user's other phone rings no more.
    let mut bed = Bed::new(&[("2042", 2), ("2042", 3), ("2043", 4)]);
    bed.dials(CALLER, "2042", Some(OFFER));
    bed.leg(bed.called[1], LegEvent::Ringing { sdp: None });
    let sent_on = bed.redirects(0, "2043");
    assert_eq!(sent_on, ["close", "hang up callee1", "close", "ring-back false", "invite for 2041 0 sendrecv by 2042 deflection"]);
    assert!(bed.events.iter().any(|event| matches!(event, Event::CallDiverted { by, to, .. } if by == "2042" && to == "2043")));
    assert_eq!(bed.leg(bed.called[2], LegEvent::Ringing { sdp: None }), ["ring caller"]);
    bed.answers(2, 0);
    bed.leg(CALLER, LegEvent::Ended { how: LegEnd::HungUp });
    bed.assert_over("caller hung up");
}

#[test]
fn a_call_does_not_go_round_in_circles() {
    let mut bed = Bed::new(&[("2042", 2), ("2043", 3)]);
    bed.dials(CALLER, "2042", Some(OFFER));
    assert_eq!(bed.redirects(0, "2043").last().unwrap(), "invite for 2041 0 sendrecv by 2042 deflection");
    assert_eq!(bed.redirects(1, "2042"), ["close", "refuse caller 480", "close"]);
    bed.assert_over("diverted in a circle");
    // Nor to ever more people.
    let mut bed = Bed::new(&[("2001", 2), ("2002", 3), ("2003", 4), ("2004", 5), ("2005", 6), ("2006", 7), ("2007", 8)]);
    bed.dials(CALLER, "2001", Some(OFFER));
    for which in 0..5 {
        bed.redirects(which, &format!("200{}", which + 2));
    }
    assert_eq!(bed.redirects(5, "2007"), ["close", "refuse caller 480", "close"]);
    bed.assert_over("diverted in a circle");
}

#[test]
fn nobody_is_diverted_where_the_phone_may_not_call() {
    // A number that nobody has, the menu, help, the phone itself, somebody whose phone is off.
    for (to, status, cause) in [
        ("2999", 404, "no such number"),
        ("0", 403, "not allowed"),
        ("112", 403, "not allowed"),
        ("2042", 480, "diverted in a circle"),
        ("2044", 480, "not reachable"),
    ] {
        let mut bed = Bed::new(&[("2042", 2)]);
        bed.dials(CALLER, "2042", Some(OFFER));
        assert_eq!(
            bed.redirects(0, to).iter().find(|word| word.starts_with("refuse")).unwrap(),
            &format!("refuse caller {status}"),
            "{to}"
        );
        bed.assert_over(cause);
    }
}

#[test]
fn a_call_is_diverted_outside_as_the_user_whom_it_was_for() {
    let mut bed = with_trunks(&[("2042", 2)]);
    bed.dials(CALLER, "2042", Some(OFFER));
    assert_eq!(bed.redirects(0, "01712345678").last().unwrap(), "invite +491712345678 by first for +49301234");
    // What a provider says of other numbers counts for nothing: it does not take the call.
    assert_eq!(bed.redirects(1, "2043"), ["close", "invite 01712345678 by second for 0301234"]);
    assert_eq!(bed.redirects(2, "2043"), ["close", "refuse caller 480", "close"]);
    bed.assert_over("not reachable");
}

#[test]
fn one_of_several_does_not_divert_the_call_of_all() {
    let mut bed = Bed::new(&[("2042", 2), ("2043", 3), ("2044", 4)]);
    let mut settings = Settings::default();
    settings.emergency.insert("112".into(), vec!["2042".parse().unwrap(), "2043".parse().unwrap()]);
    bed.switch.reload(Arc::new(settings.check().unwrap()));
    bed.dials(CALLER, "112", Some(OFFER));
    assert_eq!(bed.redirects(0, "2044"), ["close"]);
    bed.answers(1, 0);
    bed.leg(CALLER, LegEvent::Ended { how: LegEnd::HungUp });
    bed.assert_over("caller hung up");
}
