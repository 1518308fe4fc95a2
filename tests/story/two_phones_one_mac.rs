//! A second box has the MAC of a phone that is somebody's: a copied one, or a maker's mistake.
//!
//! | what the second box does                        | what comes of it                                                        |
//! |--------------------------------------------------|------------------------------------------------------------------------|
//! | takes an address that DHCP did not lease to it   | gets no file of the phone's, so no secret; the administrator reads why  |
//! | asks DHCP                                        | is leased the phone's own address, is the phone for all that can be     |
//! |                                                  | told by its MAC, and rings by turns with it: the administrator reads so |
//! | is unplugged                                     | the phone is its owner's as before                                      |
//!
//! Two that hang on two ports of a switch which names them (option 82) get different addresses, and no files at all until
//! one is unplugged: `dhcp/server/tests.rs`, `provisioning/access.rs`.

use std::{net::IpAddr, time::Duration};

use plugtone::{
    model::{Event, MacAddr},
    phone::{
        desk::{Config, Network, News, Phone},
        make::Make,
        person::Person,
    },
};

use super::office::{Office, Somebody};

const ADA: [&str; 2] = ["1001", "2041"];
const ALAN: [&str; 2] = ["1002", "2042"];

async fn owns(office: &Office, desk: &mut Somebody, [login, extension]: [&str; 2]) {
    desk.until_registered().await.expect("registered as nobody's");
    office.node.give(desk.phone.mac, login).await.expect("given");
    desk.until_registered_as(extension).await.expect("theirs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_phone_stays_its_owners_and_the_administrator_is_told() {
    let office = Office::opens(|settings| {
        // So short that two phones soon meet.
        let sip = &mut settings.sip;
        (sip.min_expires_secs, sip.default_expires_secs, sip.max_expires_secs) = (3, 3, 3);
    })
    .await;
    let mut journal = office.journal();
    let mut adas = office.plugs_in("yealink", 0xd1);
    let mac = adas.phone.mac;
    let mut alans = office.plugs_in("yealink", 0xd2);
    tokio::join!(owns(&office, &mut adas, ADA), owns(&office, &mut alans, ALAN));

    // At an address that nobody leased.
    let elsewhere: IpAddr = "127.64.200.200".parse().expect("an address");
    let server = format!("http://{}", office.node.addresses.http[0]);
    let network = Network::Given { address: elsewhere, server };
    let make = Make::of("yealink").expect("a make");
    let mut copy = Person::new(Phone::plug_in(Config { make, mac, network, answer_after: None }), |_: &News| {});
    copy.patience = Duration::from_secs(60);
    let refused = |event: &Event| matches!(event, Event::FileRefused { mac: Some(of), source, .. } if *of == mac && *source == elsewhere);
    journal.until("the refusal", refused).await;
    copy.wait("its despair", |news| matches!(news, News::BootFailed { .. }).then_some(Ok(()))).await.expect("it has no account");
    drop(copy);

    // As DHCP has it: the same box.
    let [own] = contacts(&office).await.try_into().expect("one phone is Ada's");
    let mut copy = office.plugs_in("yealink", 0xd1);
    copy.until_registered_as(ADA[1]).await.expect("it is the phone, for all that can be told");
    let duplicate = |event: &Event| matches!(event, Event::DuplicateMac { mac: of, .. } if *of == mac);
    journal.until("two phones with one MAC", duplicate).await;
    assert_eq!(office.owner(mac).expect("owned").as_str(), ADA[1]);
    drop(copy);

    // Ada's phone is back within a registration's life, and it is what rings.
    let back = async {
        while contacts(&office).await != [own.clone()] {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), back).await.expect("Ada's phone registers again");
    alans.call(ADA[1]).await.expect("Ada's phone answers");
    adas.wait("a call", |news| matches!(news, News::Answered).then_some(Ok(()))).await.expect("it rings");

    secret_went_to_the_leaseholder_only(&office, mac, elsewhere).await;
    office.node.stop().await;
}

/// Where Ada's number rings.
async fn contacts(office: &Office) -> Vec<String> {
    let contacts = office.node.calls().contacts().await.into_iter();
    contacts.filter(|contact| contact.user == ADA[1]).map(|contact| contact.uri).collect()
}

async fn secret_went_to_the_leaseholder_only(office: &Office, mac: MacAddr, elsewhere: IpAddr) {
    let told = office.events_of(mac).await;
    let leased = |address: &IpAddr| told.iter().any(|event| matches!(event, Event::LeaseGranted { address: of, .. } if of == address));
    let served = told.iter().filter_map(|event| match event {
        Event::FileServed { path, source, .. } if path.contains(&mac.bare()) => Some(source),
        _ => None,
    });
    for source in served {
        assert!(leased(source) && *source != elsewhere, "its file went to {source}: {told:#?}");
    }
}
