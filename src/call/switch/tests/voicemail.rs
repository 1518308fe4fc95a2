//! Calls that voicemail gets: those that nobody takes, and those that dial it.

use super::*;
use crate::call::config::VoicemailRules;

/// 2042 has a mailbox.
fn with_mailbox(phones: &[(&'static str, u8)]) -> Bed {
    let mut bed = Bed::new(phones);
    let rules =
        VoicemailRules { own: "*97".into(), any: "*98".into(), direct: "*99".into(), ring: Duration::from_secs(20), without: vec![] };
    let config = Settings { hold_music: "silence".into(), ..Settings::default() }.check().unwrap();
    bed.switch.reload(Arc::new(Config { voicemail: Some(rules), ..config }));
    bed
}

#[test]
fn whoever_is_not_answered_may_leave_a_message() {
    for (story, refused) in [("nobody lifts", None), ("busy", Some(486)), ("declined", Some(603)), ("unreachable", Some(480))] {
        let mut bed = with_mailbox(&[("2042", 2)]);
        bed.dials(CALLER, "2042", Some(OFFER));
        let told = match refused {
            Some(status) => bed.leg(bed.called[0], LegEvent::Refused { status }),
            None => {
                bed.leg(bed.called[0], LegEvent::Ringing { sdp: None });
                assert_eq!(bed.switch.poll_timeout(), Some(bed.now + Duration::from_secs(20)), "the ring time of voicemail");
                bed.now += Duration::from_secs(20);
                bed.switch.handle_timeout(bed.now, &mut bed.world);
                bed.actions()
            }
        };
        assert_eq!(told[told.len() - 2..], ["remote Pcmu SendRecv", "answer caller 0 sendrecv"], "{story}: {told:?}");
        assert_eq!(bed.leg(CALLER, LegEvent::Acked { sdp: None }), ["leave for 2042"], "{story}");
        assert_eq!(bed.leg(CALLER, LegEvent::Ended { how: LegEnd::HungUp }), ["menu: caller hung up", "close"]);
        bed.assert_over("caller hung up");
    }
}

#[test]
fn a_phone_that_is_not_there_is_answered_for_at_once() {
    let mut bed = with_mailbox(&[]);
    assert_eq!(bed.dials(CALLER, "2042", Some(OFFER)), ["remote Pcmu SendRecv", "answer caller 0 sendrecv"]);
    assert_eq!(bed.leg(CALLER, LegEvent::Acked { sdp: None }), ["leave for 2042"]);
    // Who has no mailbox is not there.
    assert_eq!(bed.dials(LegId(7), "2043", Some(OFFER)), ["refuse caller 480"]);
    // No sound in common is no reason.
    let mut bed = with_mailbox(&[("2042", 2)]);
    bed.dials(CALLER, "2042", Some(OFFER));
    assert!(bed.leg(bed.called[0], LegEvent::Refused { status: 488 }).contains(&"refuse caller 488".to_owned()));
    // All places are taken.
    let mut bed = with_mailbox(&[("2042", 2)]);
    bed.world.places = 0;
    bed.dials(CALLER, "2042", Some(OFFER));
    assert!(bed.leg(bed.called[0], LegEvent::Refused { status: 486 }).contains(&"refuse caller 486".to_owned()));
}

#[test]
fn codes_lead_to_mailboxes() {
    for (number, handed) in [("*98", "listen to None"), ("*992042", "leave for 2042")] {
        let mut bed = with_mailbox(&[]);
        bed.dials(CALLER, number, Some(OFFER));
        assert_eq!(bed.leg(CALLER, LegEvent::Acked { sdp: None }), [handed], "{number}");
    }
    // 2041 has none itself, nor has 2043.
    for number in ["*97", "*992043", "*99"] {
        assert_eq!(with_mailbox(&[]).dials(CALLER, number, Some(OFFER)), ["refuse caller 404"], "{number}");
    }
}

#[test]
fn a_call_is_sent_to_a_mailbox() {
    let mut bed = Bed::talking();
    let rules =
        VoicemailRules { own: "*97".into(), any: "*98".into(), direct: "*99".into(), ring: Duration::from_secs(20), without: vec![] };
    let config = Settings { hold_music: "silence".into(), ..Settings::default() }.check().unwrap();
    bed.switch.reload(Arc::new(Config { voicemail: Some(rules), ..config }));
    let refer = |bed: &mut Bed, to: &str| bed.leg(CALLER, LegEvent::Referred { to: to.into(), only: None, replaces: None });
    assert_eq!(refer(&mut bed, "*98"), ["refuse refer caller 403"], "nobody is sent to messages by somebody else");
    let told = refer(&mut bed, "*992042");
    assert_eq!(told[..2], ["accept refer caller", "unbridge"]);
    assert_eq!(told[told.len() - 4..], ["leave for 2042", "tell caller 200", "hang up caller", "close"], "{told:?}");
}
