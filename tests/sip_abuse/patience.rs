//! Phones that never stop: the same request for ever, and another port each time.

use std::time::Instant;

use plugtone::{model::Event, sip::Method};

use super::{
    TIMER_J, bed, forgets,
    phone::{Phone, status},
};

/// More than one phone sends in a day of repetitions, in batches that a socket can hold.
const ROUNDS: usize = 100;
const BATCH: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_repeats_for_ever_costs_one_answer_each_time() {
    let bed = bed().await;
    let (mut phone, mut callee) = (Phone::new(&bed, 1).await, Phone::new(&bed, 2).await);
    callee.registers().await;
    let mut call = phone.invitation("2042", 9);
    phone.prepares(&mut call).await;
    let mut registration = phone.registration();
    phone.signs(&mut registration);
    let (mut stranger, mut lost) = (phone.registration(), phone.draft("ACK", "2042"));
    stranger.via = phone.via();
    lost.to.push_str(";tag=nobody");
    let bye = {
        let mut bye = phone.draft("BYE", "2042");
        bye.to.push_str(";tag=nobody");
        bye
    };
    phone.send(call.text()).await;
    let rings = callee.is_asked().await;
    callee.answers(&rings, 180, None).await;
    for (story, draft, answers) in [
        ("an INVITE that rings", &call, None),
        ("a REGISTER", &registration, Some(200)),
        ("a REGISTER without password", &stranger, Some(401)),
        ("an ACK to nothing", &lost, None),
        ("a BYE to nothing", &bye, Some(481)),
    ] {
        let (mut sent, mut heard, began) = (0, 0, Instant::now());
        for _ in 0..ROUNDS {
            for _ in 0..BATCH {
                phone.send(draft.text()).await;
            }
            sent += BATCH;
            let said = phone.is_answered().await;
            let remembered = began.elapsed() < TIMER_J;
            for answer in said.iter().filter(|answer| answer.call_id() == Ok(draft.call_id.as_str())) {
                heard += 1;
                // What comes when its answer is forgotten is a new request, whose nonce count was used before.
                let as_ever = answers.is_none() || answer.status() == answers;
                assert!(as_ever || !remembered && answer.status() == Some(401), "{story}: {answer:?} after {:?}", began.elapsed());
            }
        }
        assert!(heard <= sent + 20, "{story}: {heard} answers to {sent} requests");
        // Those that come while the first is looked at are answered with it.
        assert!(answers.is_none() || heard >= ROUNDS, "{story}: {heard} answers to {sent} requests");
        let load = bed.running.handle.load().await;
        assert!(load.answering <= ROUNDS * 6 && load.calls <= 1 && load.legs <= 2, "{story}: {load:?}");
    }
    let copies = callee.is_answered().await;
    assert!(copies.len() < 20 && copies.iter().all(|m| m.call_id() == rings.call_id()), "the callee is asked once: {copies:?}");
    let registered =
        bed.events.lock().unwrap().iter().filter(|event| matches!(event, Event::Registered { user, .. } if user == "2041")).count();
    assert_eq!(registered, 1, "told once");
    callee.answers(&rings, 486, None).await;
    assert_eq!(status(&phone.answer_to(&call).await), 486);
    forgets(&bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_without_a_password_leaves_nothing_and_is_answered_once() {
    let bed = bed().await;
    let mut phone = Phone::new(&bed, 1).await;
    for round in 0..300 {
        let call = phone.invitation("2042", 9);
        phone.send(call.text()).await;
        // Nobody acknowledges: an answer that was remembered would come again after 20 ms.
        let said = phone.is_answered().await;
        assert!(said.iter().all(|answer| (answer.call_id(), status(answer)) == (Ok(call.call_id.as_str()), 401)), "{round}: {said:?}");
        assert_eq!(said.len(), 1, "{round}");
        let load = bed.running.handle.load().await;
        assert!((load.legs, load.calls) == (0, 0) && load.answering <= round + 1, "only what is asked with OPTIONS: {load:?}");
    }
    forgets(&bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_from_a_new_port_each_time_is_one_phone() {
    let bed = bed().await;
    let mut phone = Phone::new(&bed, 1).await;
    phone.registers().await;
    for _ in 0..300 {
        phone.moves().await;
        // With a password, over the last nonce; without; and what only asks.
        let mut registration = phone.registration();
        phone.signs(&mut registration);
        assert_eq!(status(&phone.asks(&registration).await), 200);
        let unsigned = phone.registration();
        assert_eq!(status(&phone.asks(&unsigned).await), 401);
        let mut watch = phone.draft("SUBSCRIBE", "2042").with("Event: dialog").with("Expires: 300");
        phone.signs(&mut watch);
        let watches = status(&phone.asks(&watch).await);
        assert!(matches!(watches, 200 | 202 | 403 | 480 | 503), "{watches}");
        phone.is_answered().await;
    }
    let contacts = bed.running.handle.contacts().await;
    assert_eq!(contacts.iter().map(|contact| contact.flow.peer).collect::<Vec<_>>(), [phone.at()], "the last port alone");
    let mut refused = 0;
    for _ in 0..20 {
        phone.moves().await;
        let mut call = phone.invitation("0", 9);
        phone.signs(&mut call);
        refused += usize::from(status(&phone.asks(&call).await) >= 400);
    }
    let up = bed.running.handle.list().await;
    assert!(up.len() <= 8 && refused >= 12, "{up:?}, {refused} refused");
    for call in up {
        bed.running.handle.hangup(call.call).await;
    }
    assert!(phone.is_answered().await.iter().all(|message| message.is(&Method::Bye) || message.status().is_some()));
    // Who watched from ports that are no longer there is asked, does not answer, and is forgotten.
    forgets(&bed).await;
}
