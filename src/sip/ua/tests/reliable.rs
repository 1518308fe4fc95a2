//! Provisional answers that must arrive, and sessions that are changed before the call is answered.

use super::*;

impl Pair {
    /// A calls B and says this of 100rel.
    fn calls(seed: u8, says: Option<(&str, &str)>) -> Self {
        let mut pair = Self::new(seed, 0);
        let mut config = endpoint::Config::default();
        config.abilities.extensions.retain(|tag| *tag != "100rel");
        pair.sides[A].endpoint = Endpoint::new(config, [seed; 32]);
        pair.headers = says.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        pair.invite(None);
        pair.run_until(20);
        pair
    }

    fn rings(&mut self) {
        self.on(B, |ua, now, ep, leg| ua.ring(now, ep, leg));
    }

    fn progresses(&mut self) {
        self.on(B, |ua, now, ep, leg| ua.progress(now, ep, leg, Bytes::from_static(b"early")));
    }

    fn answers(&mut self) {
        self.on(B, |ua, now, ep, leg| ua.answer(now, ep, leg, Bytes::from_static(b"early")));
    }

    /// Arrives at one side as if the other had sent it.
    fn inject(&mut self, to: usize, text: &str) {
        let from = self.sides[1 - to].address;
        let side = &mut self.sides[to];
        side.endpoint.handle_message(self.now, Flow::udp(side.address, from), text.to_owned().into());
    }

    fn first(&self, first_line: &str) -> String {
        self.texts.iter().find(|text| text.starts_with(first_line)).unwrap_or_else(|| panic!("no {first_line}")).clone()
    }
}

fn field(text: &str, name: &str) -> String {
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
}

const SUPPORTED: Option<(&str, &str)> = Some(("Supported", "100rel"));
const REQUIRED: Option<(&str, &str)> = Some(("Require", "100rel"));

#[test]
fn a_caller_who_cannot_take_it_gets_what_it_always_got() {
    let mut pair = Pair::calls(60, None);
    pair.progresses();
    pair.run_until(3_000);
    assert!(!pair.first("SIP/2.0 183").contains("RSeq"));
    pair.answers();
    pair.run_until(3_100);
    assert_eq!((pair.times(B, "183").len(), pair.times(A, "PRACK").len()), (1, 0));
    assert!(pair.first("SIP/2.0 200").ends_with("\r\n\r\nearly"));
    // Nothing to be heard in a 180: nobody minds if it is lost.
    let mut pair = Pair::calls(60, SUPPORTED);
    pair.rings();
    pair.run_until(100);
    assert!(!pair.first("SIP/2.0 180").contains("RSeq"));
}

#[test]
fn what_is_heard_before_the_answer_arrives_for_sure() {
    let mut pair = Pair::calls(61, SUPPORTED);
    pair.lose = Some((A, "PRACK"));
    pair.progresses();
    pair.run_until(5_000);
    assert_eq!(pair.times(B, "183"), [20, 520, 1520, 3520]);
    let early = pair.first("SIP/2.0 183");
    assert!(early.contains("Require: 100rel\r\n") && early.ends_with("\r\n\r\nearly"), "{early}");
    // Each copy is the same to the caller, and the answer waits for the first.
    pair.answers();
    pair.run_until(6_000);
    assert_eq!((pair.sides[A].heard.clone(), pair.times(B, "200").len()), (vec!["ringing 183".to_owned()], 0));
    pair.lose = None;
    pair.run_until(9_000);
    assert_eq!(field(&pair.first("PRACK"), "RAck:"), format!("{} 1 INVITE", field(&early, "RSeq:")));
    // What has arrived is not said again.
    assert_eq!(pair.sides[A].heard, ["ringing 183", "answered"]);
    pair.on(A, |ua, now, ep, leg| ua.hangup(now, ep, leg, None));
    pair.run_until(100_000);
    assert_nothing_left(&pair);
}

#[test]
fn a_caller_who_insists_gets_one_after_the_other() {
    let mut pair = Pair::calls(62, REQUIRED);
    pair.rings();
    pair.progresses();
    pair.run_until(35);
    assert_eq!((pair.times(B, "180"), pair.times(B, "183")), (vec![20], vec![]));
    pair.run_until(100);
    assert_eq!(pair.times(B, "183"), [40]);
    let rseq = |line: &str| field(&pair.first(line), "RSeq:").parse::<u32>().unwrap();
    assert_eq!(rseq("SIP/2.0 183"), rseq("SIP/2.0 180") + 1);
    pair.answers();
    pair.run_until(200);
    assert_eq!(pair.sides[A].heard, ["ringing 180", "ringing 183", "answered"]);
    // A ringing that is still on its way does not hold up the answer.
    let mut pair = Pair::calls(62, REQUIRED);
    pair.rings();
    pair.answers();
    pair.run_until(200);
    assert_eq!(pair.sides[A].heard, ["ringing 180", "answered early"]);
    assert_eq!((pair.times(B, "180").len(), pair.times(B, "481").len()), (1, 0));
}

#[test]
fn a_caller_who_insists_and_is_gone_is_given_up() {
    let mut pair = Pair::calls(63, REQUIRED);
    pair.lose = Some((A, "PRACK"));
    pair.rings();
    pair.run_until(100_000);
    assert_eq!((pair.times(B, "180").len(), pair.times(B, "504")), (7, vec![32_020]));
    assert_eq!(pair.sides[B].heard, ["incoming", "ended Lost"]);
    assert_eq!(pair.sides[A].heard, ["ringing 180", "refused 504"]);
    assert_nothing_left(&pair);
}

#[test]
fn a_prack_of_nothing_is_481() {
    let mut pair = Pair::calls(64, REQUIRED);
    pair.lose = Some((A, "PRACK"));
    pair.rings();
    pair.run_until(100);
    let ringing = pair.first("SIP/2.0 180");
    let prack = |rack: &str, branch: u8| {
        format!(
            "PRACK sip:b@10.0.0.2 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKx{branch}\r\nMax-Forwards: 70\r\nFrom: {}\r\n\
             To: {}\r\nCall-ID: {}\r\nCSeq: {} PRACK\r\n{rack}Content-Length: 0\r\n\r\n",
            field(&ringing, "From:"),
            field(&ringing, "To:"),
            field(&ringing, "Call-ID:"),
            20 + branch,
        )
    };
    let rseq = field(&ringing, "RSeq:");
    for (branch, rack) in
        ["".to_owned(), "RAck: 1 1 INVITE\r\n".to_owned(), format!("RAck: {rseq} 2 INVITE\r\n"), format!("RAck: {rseq} 1 BYE\r\n")]
            .iter()
            .enumerate()
    {
        pair.inject(B, &prack(rack, branch as u8));
    }
    pair.run_until(200);
    assert_eq!(pair.times(B, "481").len(), 4);
    pair.inject(B, &prack(&format!("RAck: {rseq} 1 INVITE\r\n"), 9));
    pair.run_until(10_000);
    assert_eq!((pair.times(B, "180").len(), pair.times(B, "200").len()), (1, 1));
}

#[test]
fn of_several_phones_each_is_acknowledged_in_order() {
    let mut pair = Pair::new(65, 0);
    pair.invite(None);
    pair.run_until(20);
    let invite = pair.first("INVITE");
    assert!(field(&invite, "Supported:").contains("100rel"));
    for (tag, rseq) in [("f1", 7), ("f1", 7), ("f1", 9), ("f2", 100), ("f1", 8)] {
        let answer = format!(
            "SIP/2.0 183 Session Progress\r\nVia: {}\r\nFrom: {}\r\nTo: <sip:b@10.0.0.2>;tag={tag}\r\nCall-ID: {}\r\nCSeq: 1 INVITE\r\n\
             Contact: <sip:{tag}@10.0.0.2>\r\nRequire: 100rel\r\nRSeq: {rseq}\r\nContent-Length: 0\r\n\r\n",
            field(&invite, "Via:"),
            field(&invite, "From:"),
            field(&invite, "Call-ID:")
        );
        pair.inject(A, &answer);
    }
    pair.run_until(25);
    let pracks: Vec<_> = pair.texts.iter().filter(|text| text.starts_with("PRACK")).map(|text| field(text, "RAck:")).collect();
    assert_eq!(pracks, ["7 1 INVITE", "100 1 INVITE", "8 1 INVITE"]);
    assert_eq!(pair.times(A, "PRACK sip:f1@10.0.0.2").len(), 2);
    assert_eq!(pair.sides[A].heard.len(), 3);
}

#[test]
fn a_session_is_changed_before_the_call_is_answered() {
    let update = |dialog: &str, from: &str, to: &str, cseq: u8| {
        format!(
            "UPDATE sip:x@10.0.0.2 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.9;branch=z9hG4bKu{cseq}{}\r\nMax-Forwards: 70\r\nFrom: {}\r\n\
             To: {}\r\nCall-ID: {}\r\nCSeq: {cseq} UPDATE\r\nContact: <sip:x@10.0.0.9>\r\nContent-Type: application/sdp\r\n\
             Content-Length: 3\r\n\r\nnew",
            from.len(),
            field(dialog, from),
            field(dialog, to),
            field(dialog, "Call-ID:"),
        )
    };
    // The caller's own offer has no answer yet.
    let mut pair = Pair::calls(66, SUPPORTED);
    pair.rings();
    pair.run_until(40);
    pair.inject(B, &update(&pair.first("SIP/2.0 180"), "From:", "To:", 20));
    pair.run_until(60);
    assert_eq!(pair.times(B, "500").len(), 1);
    let mut pair = Pair::calls(67, SUPPORTED);
    pair.rings();
    pair.progresses();
    pair.run_until(40);
    let ringing = pair.first("SIP/2.0 180");
    pair.run_until(100);
    // By either side, once the description has arrived.
    for (side, from, to) in [(B, "From:", "To:"), (A, "To:", "From:")] {
        pair.inject(side, &update(&ringing, from, to, 30));
        pair.run_until(120);
        assert_eq!(pair.sides[side].heard.last().map(String::as_str), Some("reoffered new"));
        pair.on(side, |ua, now, ep, leg| ua.answer_reoffer(now, ep, leg, Bytes::from_static(b"yes")));
        pair.run_until(140);
        let answer = pair.texts.last().unwrap();
        assert!(answer.starts_with("SIP/2.0 200") && answer.contains("30 UPDATE") && answer.ends_with("\r\n\r\nyes"), "{answer}");
    }
    pair.answers();
    pair.run_until(200);
    assert_eq!(pair.sides[A].heard, ["ringing 180", "ringing 183", "reoffered new", "answered"]);
}
