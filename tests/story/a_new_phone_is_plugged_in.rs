//! Somebody takes a phone out of its box, plugs it in, says who they are, and calls a colleague: for each family.

use futures_util::future::join_all;
use plugtone::{
    media::listen::Sound,
    model::Event,
    phone::{
        audio::Say,
        desk::News,
        make::{MAKES, Make},
    },
};

use super::office::{Office, Somebody};

/// Two people with phones of this family, from the box to their first call.
async fn two_people_get_phones(office: &Office, family: &str, number: u32, ada: [&str; 3], alan: [&str; 3]) {
    let mut adas = office.plugs_in(family, number);
    let mut alans = office.plugs_in(family, number + 1);

    let (ada_extension, alan_extension) = (ada[2], alan[2]);
    tokio::join!(signs_in(&mut adas, family, ada), signs_in(&mut alans, family, alan));

    let ada_speaks = async {
        adas.call(alan_extension).await.expect("the colleague answers");
        adas.say(Say::Tone { hz: 440.0 }).await;
        adas.hear("the colleague", |sound| sound.is_like(Sound::Tone { hz: 660.0 })).await.expect("Ada hears Alan");
    };
    let alan_speaks = async {
        alans.wait("a call", |news| matches!(news, News::Answered).then_some(Ok(()))).await.expect("it rings");
        alans.say(Say::Tone { hz: 660.0 }).await;
        alans.hear("the caller", |sound| sound.is_like(Sound::Tone { hz: 440.0 })).await.expect("Alan hears Ada");
    };
    tokio::join!(ada_speaks, alan_speaks);
    adas.hang_up().await;
    alans.until_hung_up().await.expect("the call ends for both");

    let mac = adas.phone.mac;
    let reloaded = |event: &Event| event.mac() == Some(mac) && matches!(event, Event::ReloadDone { .. });
    let talked = |event: &Event| event.mac() == Some(mac) && matches!(event, Event::CallEnded { cause, .. } if cause != "menu done");
    office.journal().until("the end of the reload", reloaded).await;
    office.journal().until("the end of the call", talked).await;
    let told = office.events_of(mac).await;
    let at = |what: &str, wanted: &dyn Fn(&Event) -> bool| {
        told.iter().position(wanted).unwrap_or_else(|| panic!("{family}: nothing tells of {what}: {told:#?}"))
    };
    let reload = at("the reload", &|event| matches!(event, Event::ReloadRequested { .. }));
    let new_file = told.iter().skip(reload).position(|event| matches!(event, Event::FileServed { .. }));
    // The timeline tells the steps in their order.
    let way = [
        at("the DISCOVER", &|event| matches!(event, Event::DhcpDiscover { .. })),
        at("the lease", &|event| matches!(event, Event::LeaseGranted { .. })),
        at("the files", &|event| matches!(event, Event::FileServed { .. })),
        at("the provisional registration", &|event| matches!(event, Event::Registered { user, .. } if user.starts_with("new"))),
        at("the menu", &|event| matches!(event, Event::IvrStarted { .. })),
        at("the keys", &|event| matches!(event, Event::IvrKeys { count: 4, .. })),
        at("the directory", &|event| matches!(event, Event::DirectoryChecked { .. })),
        at("the binding", &|event| matches!(event, Event::Bound { .. })),
        reload,
        reload + new_file.unwrap_or_else(|| panic!("{family}: nothing tells of the new file: {told:#?}")),
        at("the owner's registration", &|event| matches!(event, Event::Registered { user, .. } if user == ada_extension)),
        at("the call", &|event| matches!(event, Event::CallStarted { to, .. } if to == alan_extension)),
        at("its answer", &|event| matches!(event, Event::CallAnswered { to, .. } if to == alan_extension)),
    ];
    assert!(way.is_sorted(), "{family}: {way:?} {told:#?}");
    // Whoever judges the reload sees the file and the registration a moment later than those who served them: a phone that calls at
    // once, as no hand can, may be first.
    let taken = at("the new file being taken", &|event| matches!(event, Event::ReloadTaken { .. }));
    let done = at("the end of the reload", &|event| matches!(event, Event::ReloadDone { .. }));
    let registered = at("the owner's registration", &|event| matches!(event, Event::Registered { user, .. } if user == ada_extension));
    assert!(reload < taken && taken < done && registered < done, "{family}: {reload} {taken} {registered} {done} {told:#?}");
    // And nowhere what was keyed. Other events have ports and sizes, which may look like a PIN.
    let of_the_menu =
        |event: &&Event| matches!(event, Event::IvrPrompt { .. } | Event::IvrKeys { .. } | Event::IvrEnded { .. } | Event::Bound { .. });
    for event in told.iter().filter(of_the_menu) {
        let text = serde_json::to_string(event).expect("JSON").replace(&event.call().map(|call| call.to_string()).unwrap_or_default(), "");
        assert!(!text.contains(ada[1]), "{family}: the PIN is in {text}");
    }
}

async fn signs_in(somebody: &mut Somebody, make: &str, [login, pin, extension]: [&str; 3]) {
    let user = somebody.until_registered().await.unwrap_or_else(|trouble| panic!("{make} does not register as nobody's: {trouble}"));
    assert!(user.starts_with("new"), "{user}");
    somebody.sign_in("0", login, pin, extension).await.unwrap_or_else(|trouble| panic!("{make} does not become theirs: {trouble}"));
}

const ADA: [&str; 3] = ["1001", "1815", "2041"];
const ALAN: [&str; 3] = ["1002", "1912", "2042"];
const GRACE: [&str; 3] = ["1003", "1906", "2043"];
const HEDY: [&str; 3] = ["1004", "1914", "2044"];

#[tokio::test(flavor = "multi_thread")]
async fn yealink_and_poly() {
    let office = Office::opens(|_| {}).await;
    tokio::join!(two_people_get_phones(&office, "yealink", 1, ADA, ALAN), two_people_get_phones(&office, "poly", 1, GRACE, HEDY));
    office.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grandstream_and_any_other() {
    let office = Office::opens(|_| {}).await;
    tokio::join!(two_people_get_phones(&office, "grandstream", 1, ADA, ALAN), two_people_get_phones(&office, "generic", 1, GRACE, HEDY));
    office.node.stop().await;
}

/// From the box to the owner's registration.
async fn somebody_gets_a_phone(office: &Office, make: &Make, number: u32, person: [&str; 3]) {
    let name = make.name;
    let mut somebody = office.plugs_in(name, number);
    if name == "algo" {
        // A loudspeaker has no keys to sign in with: it is given its extension by hand.
        somebody.until_registered().await.expect("it registers as nobody's");
        office.node.give(somebody.phone.mac, person[0]).await.expect("it is given away");
        somebody.until_registered_as(person[2]).await.expect("it registers anew");
    } else {
        signs_in(&mut somebody, name, person).await;
    }
    let told = office.events_of(somebody.phone.mac).await;
    let leased = told.iter().find_map(|event| match event {
        Event::LeaseGranted { family, .. } => family.clone(),
        _ => None,
    });
    assert_eq!(leased.as_deref(), Some(make.family), "{name} is known when it asks for an address");
}

/// Those that the two stories above do not have, four to an office: it has as many people.
#[tokio::test(flavor = "multi_thread")]
async fn every_other_make() {
    let told = ["yealink", "poly", "grandstream", "generic"];
    let (by_tftp_alone, others): (Vec<_>, Vec<_>) =
        MAKES.iter().filter(|make| !told.contains(&make.name)).partition(|make| make.knows_tftp_alone());
    let offices = others.chunks(4).map(|makes| (makes, false)).chain([(&by_tftp_alone[..], true)]);
    let days = offices.map(async |(makes, tftp_alone)| {
        let office = Office::opens(|settings| {
            settings.http.enabled = !tftp_alone;
        })
        .await;
        // One maker may have several makes: no two phones have the same address.
        let people = (1..).zip([ADA, ALAN, GRACE, HEDY]);
        let phones = makes.iter().zip(people).map(|(make, (number, person))| somebody_gets_a_phone(&office, make, number, person));
        join_all(phones).await;
        office.node.stop().await;
    });
    join_all(days).await;
}
