//! Log-ins and registrations that must not be believed.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use plugtone::{
    model::Secret,
    sip::{Credentials, Login, Message, Name},
};

use super::{
    bed, forgets,
    phone::{Phone, status},
};
use crate::call::{Bed, mac, password};

/// Contacts as (user, URI, CSeq).
async fn contacts(bed: &Bed) -> Vec<(String, String, u32)> {
    let contacts = bed.running.handle.contacts().await;
    contacts.into_iter().map(|contact| (contact.user, contact.uri, contact.cseq)).collect()
}

fn is_stale(answer: &Message) -> bool {
    answer.auths(Name::WwwAuthenticate).any(|auth| auth.get("stale").is_some_and(|stale| stale == "true"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_is_ours_and_each_count_is_good_once() {
    let bed = bed().await;
    let mut phone = Phone::new(&bed, 1).await;
    // Right user, right password, over nonces of somebody's own making.
    for nonce in ["00000000", "", &URL_SAFE_NO_PAD.encode([0; 32]), &URL_SAFE_NO_PAD.encode([255; 32]), "\u{e4}\\\"x"] {
        let challenge = format!(
            "SIP/2.0 401 Unauthorized\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>;tag=2\r\n\
             Call-ID: 1\r\nCSeq: 1 REGISTER\r\nWWW-Authenticate: Digest realm=\"plugtone\", nonce=\"{nonce}\", algorithm=MD5, qop=\"auth\"\r\n\r\n"
        );
        let mut forger = Login::new(Credentials { username: format!("{}-1", mac(1).bare()), secret: Secret::new(password(mac(1))) });
        forger.handle_challenge(&Message::parse(challenge.into()).expect("a message")).expect("a challenge");
        phone.login = forger;
        let mut registration = phone.registration();
        phone.signs(&mut registration);
        let answer = phone.asks(&registration).await;
        assert_eq!((status(&answer), is_stale(&answer)), (401, true), "{nonce:?}");
        let mut call = phone.invitation("2042", 9);
        phone.signs(&mut call);
        assert_eq!(status(&phone.asks(&call).await), 401, "{nonce:?}");
    }
    assert!(contacts(&bed).await.is_empty());

    // Over one of ours it is let in; then nobody else is with the same credentials, nor by a count that is behind.
    let mut first = phone.registration();
    assert_eq!(status(&phone.does(&mut first).await), 200);
    let kept = contacts(&bed).await;
    let mut second = first.clone();
    phone.signs(&mut second);
    assert_eq!(status(&phone.asks(&second).await), 200, "the next count is good");
    let mut thief = Phone::new(&bed, 2).await;
    for stolen in [&first, &second] {
        let mut replay = stolen.clone();
        replay.via = thief.via();
        replay.cseq += 10;
        replay.call_id = thief.new_word();
        replay.more = replay.more.replace(&phone.at().to_string(), &thief.at().to_string());
        let answer = thief.asks(&replay).await;
        assert_eq!((status(&answer), is_stale(&answer)), (401, true));
    }
    assert_eq!(
        contacts(&bed).await.into_iter().map(|(user, uri, _)| (user, uri)).collect::<Vec<_>>(),
        [(kept[0].0.clone(), kept[0].1.clone())]
    );
    assert!(bed.running.handle.bans().await.is_empty(), "an old nonce is no guess");
    assert!(phone.is_answered().await.is_empty());
    forgets(&bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_registers_its_own_number_only() {
    let bed = bed().await;
    let mut phone = Phone::new(&bed, 1).await;
    for other in ["2042", "new001565000004", "", "2041;x", "%32042", "20 41"] {
        let mut registration = phone.registration();
        registration.to = format!("<sip:{other}@{}>", phone.server);
        let answer = status(&phone.does(&mut registration).await);
        assert!(matches!(answer, 400 | 403 | 404), "{other:?}: {answer}");
    }
    assert!(contacts(&bed).await.is_empty());
    // Whom the From names is nobody's concern: the call is of who has logged in.
    let mut callee = Phone::new(&bed, 2).await;
    callee.registers().await;
    let mut call = phone.invitation("2042", 9);
    call.from = call.from.replace("2041", "2043");
    phone.prepares(&mut call).await;
    phone.send(call.text()).await;
    let rings = callee.is_asked().await;
    assert!(rings.text(Name::From).expect("a From").contains("sip:2041@"), "{rings:?}");
    callee.answers(&rings, 486, None).await;
    assert_eq!(status(&phone.answer_to(&call).await), 486);
    assert!(phone.is_answered().await.is_empty());
    forgets(&bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_late_changes_no_registration() {
    let bed = bed().await;
    let mut phone = Phone::new(&bed, 1).await;
    let mut registration = phone.registration();
    registration.cseq = 10;
    assert_eq!(status(&phone.does(&mut registration).await), 200);
    let kept = contacts(&bed).await;
    assert_eq!(kept[0].2, 11);
    for (story, cseq, more) in [
        ("the same number again", 10, "Expires: 300\r\n"),
        ("an older one, from elsewhere", 3, "Contact: <sip:2041@10.9.9.9>\r\n"),
        ("an older one that takes it back", 9, "Expires: 0\r\n"),
        ("an older one that takes all back", 9, "*"),
    ] {
        let mut late = registration.clone();
        late.cseq = cseq;
        late.more = match more {
            "*" => "Contact: *\r\nExpires: 0\r\n".to_owned(),
            more if more.starts_with("Contact") => more.to_owned(),
            more => format!("Contact: <sip:2041@{}>\r\n{more}", phone.at()),
        };
        phone.signs(&mut late);
        assert_eq!(status(&phone.asks(&late).await), 500, "{story}");
        assert_eq!(contacts(&bed).await, kept, "{story}");
    }
    assert!(phone.is_answered().await.is_empty());
    forgets(&bed).await;
}
