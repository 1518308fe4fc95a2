//! Calls that must not happen, or not twice.

use plugtone::sip::{Method, Name};

use super::{
    bed, forgets,
    phone::{Phone, status},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_must_be_understood_and_is_not_is_refused() {
    let bed = bed().await;
    let mut phone = Phone::new(&bed, 1).await;
    for method in ["REGISTER", "INVITE", "OPTIONS", "SUBSCRIBE", "NOTIFY", "REFER", "INFO", "BYE"] {
        for header in ["Require: 100rel, nonsense", "Proxy-Require: nonsense"] {
            let draft = phone.draft(method, "2042").with(header).with("Event: dialog").with("Refer-To: <sip:2043@x>");
            let answer = phone.asks(&draft).await;
            assert_eq!(status(&answer), 420, "{method} {header}");
            assert!(answer.lists(Name::Unsupported, "nonsense"), "{method} {header}");
        }
    }
    assert!(phone.is_answered().await.is_empty());
    assert!(bed.running.handle.list().await.is_empty());
    forgets(&bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_comes_by_two_ways_is_one_call() {
    let bed = bed().await;
    let (mut caller, mut callee) = (Phone::new(&bed, 1).await, Phone::new(&bed, 2).await);
    callee.registers().await;
    let mut call = caller.invitation("2042", 9);
    caller.prepares(&mut call).await;
    let mut copy = call.clone();
    copy.via = caller.via();
    caller.send(call.text()).await;
    caller.send(copy.text()).await;
    let mut merged = caller.hears().await;
    while status(&merged) < 200 {
        merged = caller.hears().await;
    }
    assert_eq!((status(&merged), merged.via().expect("a Via").branch()), (482, copy.via.rsplit('=').next()));
    assert_eq!(bed.running.handle.list().await.len(), 1);
    let rings = callee.is_asked().await;
    callee.answers(&rings, 200, Some(9)).await;
    assert_eq!(status(&caller.answer_to(&call).await), 200);
    // Also once it is up.
    copy.via = caller.via();
    caller.send(copy.text()).await;
    let merged = caller.hears().await;
    assert!(status(&merged) == 482 || status(&merged) == 200 && merged.via().expect("a Via").branch() != copy.via.rsplit('=').next());
    let others = callee.is_answered().await;
    assert!(others.iter().all(|m| !m.is(&Method::Invite) || m.call_id() == rings.call_id()), "{others:?}");
    assert_eq!(bed.running.handle.list().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_once() {
    let bed = bed().await;
    let (mut caller, mut callee) = (Phone::new(&bed, 1).await, Phone::new(&bed, 2).await);
    callee.registers().await;
    let mut call = caller.invitation("2042", 9);
    caller.prepares(&mut call).await;
    caller.send(call.text()).await;
    let rings = callee.is_asked().await;
    callee.answers(&rings, 200, Some(9)).await;
    let accepted = caller.answer_to(&call).await;
    let mut bye = caller.within(&call, &accepted, "BYE");
    // Of somebody who guesses: not quite this dialog.
    for (from, to) in [("x", ""), ("", "x")] {
        let mut guess = bye.clone();
        guess.via = caller.via();
        guess.from.push_str(from);
        guess.to.push_str(to);
        assert_eq!(status(&caller.asks(&guess).await), 481);
    }
    assert_eq!(bed.running.handle.list().await.len(), 1);
    assert_eq!(status(&caller.asks(&bye).await), 200);
    assert_eq!(status(&caller.asks(&bye).await), 200, "the same BYE again is a repetition, and answered alike");
    for method in ["BYE", "BYE", "INVITE", "INFO", "UPDATE", "REFER"] {
        bye.method = method;
        bye.via = caller.via();
        bye.cseq += 1;
        assert_eq!(status(&caller.asks(&bye).await), 481, "{method} after the end");
    }
    loop {
        let message = callee.is_asked().await;
        if message.is(&Method::Bye) {
            callee.answers(&message, 200, None).await;
            break;
        }
    }
    assert!(bed.running.handle.list().await.is_empty());
    caller.is_answered().await;
    forgets(&bed).await;
}
