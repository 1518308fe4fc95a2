//! What is heard before the answer, and on hold.

use super::*;

const EARLY: &str = "v=0\r\nc=IN IP4 10.0.0.6\r\nm=audio 5000 RTP/AVP 8\r\n";

impl Bed {
    fn rings(&mut self, which: usize, sdp: Option<&str>) -> Vec<String> {
        self.leg(self.called[which], LegEvent::Ringing { sdp: sdp.map(|sdp| Bytes::from(sdp.to_owned())) })
    }
}

#[test]
fn the_caller_hears_the_far_side_before_it_answers() {
    let mut bed = Bed::new(&[("2042", 2)]);
    bed.dials(CALLER, "2042", Some(OFFER));
    assert_eq!(bed.rings(0, None), ["ring caller"]);
    let heard = bed.rings(0, Some(EARLY));
    assert_eq!(heard, ["remote Pcma SendRecv", "remote Pcma SendRecv", "progress caller 8 sendrecv", "bridge"]);
    // Another description, as of a second phone behind a proxy: the first goes on.
    assert_eq!(bed.rings(0, Some(EARLY)), [""; 0]);
    // What was told with the 183 holds, whether the answer says it again or not.
    let answered = bed.leg(bed.called[0], LegEvent::Answered { sdp: None });
    assert_eq!(answered, ["remote Pcma SendRecv", "answer caller 8 sendrecv", "ring-back false", "bridge"]);
    bed.leg(CALLER, LegEvent::Ended { how: LegEnd::HungUp });
    bed.assert_over("caller hung up");
}

#[test]
fn a_phone_that_was_not_heard_need_not_say_again_what_it_said() {
    let mut bed = Bed::new(&[("2042", 2), ("2042", 3)]);
    bed.dials(CALLER, "2042", Some(OFFER));
    bed.rings(0, Some(EARLY));
    assert_eq!(bed.rings(1, Some(EARLY)), [""; 0]);
    let answered = bed.leg(bed.called[1], LegEvent::Answered { sdp: None });
    assert!(answered.contains(&"answer caller 8 sendrecv".to_owned()), "{answered:?}");
    bed.leg(CALLER, LegEvent::Ended { how: LegEnd::HungUp });
    bed.assert_over("caller hung up");
}

#[test]
fn a_session_is_changed_before_the_answer() {
    let mut bed = Bed::new(&[("2042", 2), ("2042", 3)]);
    bed.dials(CALLER, "2042", Some(OFFER));
    // Before anything is heard there is nothing to change.
    assert_eq!(bed.offers(bed.called[0], "sendrecv"), ["refuse reoffer callee0 491"]);
    bed.rings(0, Some(EARLY));
    assert_eq!(bed.offers(bed.called[0], "sendrecv"), ["answer reoffer callee0 8 sendrecv", "remote Pcma SendRecv"]);
    assert_eq!(bed.offers(CALLER, "sendrecv"), ["answer reoffer caller 8 sendrecv", "remote Pcma SendRecv"]);
    assert_eq!(bed.offers(bed.called[1], "sendrecv"), ["refuse reoffer callee1 491"]);
    let answered = bed.leg(bed.called[0], LegEvent::Answered { sdp: None });
    assert!(answered.contains(&"answer caller 8 sendrecv".to_owned()), "{answered:?}");
    bed.leg(CALLER, LegEvent::Ended { how: LegEnd::HungUp });
    bed.assert_over("caller hung up");
}

#[test]
fn the_first_that_is_heard_may_not_be_the_one_that_answers() {
    let mut bed = Bed::new(&[("2042", 2), ("2042", 3), ("2042", 4)]);
    bed.dials(CALLER, "2042", Some(OFFER));
    bed.rings(0, Some(EARLY));
    assert_eq!(bed.rings(1, Some(EARLY)), [""; 0]);
    assert_eq!(bed.leg(bed.called[0], LegEvent::Refused { status: 480 }), ["close", "ring-back true"]);
    let answered = bed.answers(2, 0);
    assert_eq!(answered[2..], ["remote Pcmu SendRecv", "answer caller 8 sendrecv", "ring-back false", "bridge"]);
    bed.leg(CALLER, LegEvent::Ended { how: LegEnd::HungUp });
    bed.assert_over("caller hung up");
    // Without an offer there is nothing to answer before the call is: it just rings.
    let mut bed = Bed::new(&[("2042", 2)]);
    bed.dials(CALLER, "2042", None);
    assert_eq!(bed.rings(0, Some(EARLY)), ["ring caller"]);
}

#[test]
fn whoever_is_on_hold_hears_music() {
    let mut bed = Bed::talking();
    let settings = Settings { hold_music: "tune".into(), ..Settings::default() };
    bed.switch.reload(Arc::new(settings.check().unwrap()));
    let callee = bed.called[0];
    let answered = |bed: &mut Bed, direction: &str| {
        let sdp = format!("{EARLY}a={direction}\r\n").into();
        bed.leg(callee, LegEvent::ReofferAnswered { sdp: Some(sdp) })
    };
    // In each of the ways in which phones say it.
    for hold in ["sendonly", "inactive"] {
        assert_eq!(bed.offers(CALLER, hold)[2..], ["music true", "reoffer callee0 8 sendonly"], "{hold}");
        assert_eq!(answered(&mut bed, "recvonly"), ["remote Pcma SendOnly"]);
        assert_eq!(bed.offers(CALLER, "sendrecv")[2..], ["music false", "reoffer callee0 8 sendrecv"]);
        answered(&mut bed, "sendrecv");
    }
    let old = OFFER.replace("c=IN IP4 10.0.0.5", "c=IN IP4 0.0.0.0");
    let held = bed.leg(CALLER, LegEvent::Reoffered { offer: Some(old.into()) });
    assert_eq!(held[2..], ["music true", "reoffer callee0 8 sendonly"]);
    answered(&mut bed, "recvonly");
    // Sent on to somebody else it hears the ringing instead.
    bed.world.phones.push(("2043", 3));
    let sent_on = bed.leg(CALLER, LegEvent::Referred { to: "2043".into(), only: None, replaces: None });
    assert_eq!(sent_on[1..4], ["unbridge", "music false", "reoffer callee0 8 sendrecv"]);
    assert_eq!(sent_on.last().unwrap(), "ring-back true");
}
