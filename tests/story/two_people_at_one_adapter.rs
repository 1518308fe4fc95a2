//! Two old telephones at one adapter: each port is signed in at, and belongs to whoever did, as does each handset of a base.

use plugtone::{media::listen::Sound, model::Event, phone::audio::Say, phone::desk::News};

use super::office::{Office, Somebody};

#[tokio::test(flavor = "multi_thread")]
async fn each_signs_in_at_a_port_and_they_call_each_other() {
    let office = Office::opens(|_| {}).await;
    let Ok([mut adas, mut alans]) = <[Somebody; 2]>::try_from(office.plugs_in_adapter("grandstream_ht", 0xa7)) else {
        panic!("an adapter with two ports")
    };
    let mac = adas.phone.mac;
    let mut journal = office.journal();

    // Each port is somebody of its own from the beginning, who reaches the menu whatever is dialled.
    let (first, second) = tokio::join!(adas.until_registered(), alans.until_registered());
    let new = format!("new{}", mac.bare());
    assert_eq!((first, second), (Ok(new.clone()), Ok(format!("{new}-2"))));
    assert_eq!(adas.call(&format!("{new}-2")).await, Ok(()), "it dials its neighbour");
    adas.hear("the menu", |sound| sound == Sound::Speech).await.expect("and hears the voice");
    adas.hang_up().await;
    adas.until_hung_up().await.expect("it is over");

    alans.sign_in_at_once("0", "1002", "1912", "2042").await.expect("the second port is Alan's");
    assert_eq!(office.owner(mac), None, "and the first is nobody's still");
    let bound = journal.until("the binding", |event| matches!(event, Event::Bound { .. })).await;
    assert!(matches!(&bound, Event::Bound { line: 2, extension, .. } if extension.as_str() == "2042"), "{bound:?}");
    adas.sign_in_at_once("0", "1001", "1815", "2041").await.expect("the first is Ada's");
    alans.until_registered_as("2042").await.expect("the second is Alan's still");

    talk(&mut adas, &mut alans, "2042").await;
    talk(&mut alans, &mut adas, "2041").await;

    // What people see of it.
    let bindings = office.node.onboarding().bindings().await.expect("stored");
    let whose: Vec<_> = bindings.iter().map(|binding| (binding.mac, binding.line, binding.extension.as_str())).collect();
    assert_eq!(whose, [(mac, 1, "2041"), (mac, 2, "2042")]);
    let files = office.files_of(mac).await.concat();
    assert!(files.contains("2041") && files.contains("2042"), "{files}");

    let his = office.node.onboarding().identities().identity(mac, 2).secret;
    // Ada goes. Her port is to be signed in at again, and Alan's is as it was.
    office.node.onboarding().unbind(mac, 1, "she has moved").await.expect("she had it");
    tokio::join!(async { adas.until_registered_as(&new).await.expect("her port is nobody's") }, async {
        alans.until_registered_as("2042").await.expect("his is his")
    });
    let unbound = journal.until("the end of it", |event| matches!(event, Event::Unbound { .. })).await;
    assert!(matches!(&unbound, Event::Unbound { line: 1, extension, .. } if extension.as_str() == "2041"), "{unbound:?}");
    assert!(office.node.onboarding().identities().devices_of("2041").is_empty());
    assert_eq!(office.node.onboarding().identities().devices_of("2042"), [(mac, 2)]);
    adas.sign_in_at_once("0", "1003", "1906", "2043").await.expect("Grace takes her place");
    alans.until_registered_as("2042").await.expect("his is his");
    talk(&mut alans, &mut adas, "2043").await;
    assert_eq!(office.node.onboarding().identities().identity(mac, 2).secret, his, "whatever became of the port beside his");
    office.node.stop().await;
}

/// One calls, the other lifts, and each hears the other.
async fn talk(one: &mut Somebody, other: &mut Somebody, extension: &str) {
    let calls = async {
        one.call(extension).await.expect("the neighbour answers");
        one.say(Say::Tone { hz: 440.0 }).await;
        one.hear("the neighbour", |sound| sound.is_like(Sound::Tone { hz: 660.0 })).await.expect("the caller hears");
    };
    let lifts = async {
        other.wait("a call", |news| matches!(news, News::Answered).then_some(Ok(()))).await.expect("it rings");
        other.say(Say::Tone { hz: 660.0 }).await;
        other.hear("the caller", |sound| sound.is_like(Sound::Tone { hz: 440.0 })).await.expect("the called hears");
    };
    tokio::join!(calls, lifts);
    one.hang_up().await;
    one.until_hung_up().await.expect("the call ends");
    other.until_hung_up().await.expect("the call ends for both");
}
