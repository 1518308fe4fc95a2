//! One battery over the `Store` trait, run against each backend; then what only a real disk shows: properties under
//! random use, and `kill -9` in the middle of writing.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    future::Future,
    io::{BufRead, BufReader, Write},
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use plugtone::{
    model::{
        BindingRecord, CallId, DeviceRecord, DeviceState, Event, Extension, Inventory, Lease6Record, LeaseRecord, LeaseState, MacAddr,
        Recorded, Timestamp,
    },
    store::{
        CUT_OFF, CallLeg, CallLegQuery, Claim, ContactKey, ContactRecord, Error, LegDirection, NewConfig, Sqlite, Store,
        SubscriptionRecord, TokenRecord, worker::durable_leases,
    },
};
use proptest::prelude::*;

/// Runs every test of the battery on a fresh store of one backend. PostgreSQL will be a second line below.
macro_rules! battery {
    ($backend:ident: $($test:ident),+ $(,)?) => {
        mod $backend {
            $(#[test]
            fn $test() {
                super::on_a_fresh::$backend(super::$test);
            })+
        }
    };
}

battery!(sqlite:
    leases_are_kept_by_address,
    leases_of_ipv6_are_kept_together,
    a_living_lease_is_not_taken_away,
    devices_are_kept,
    a_late_record_does_not_revive_a_dead_generation,
    a_binding_and_its_device_are_one_step,
    an_extension_has_as_many_devices_as_it_may,
    a_refused_bind_changes_nothing,
    each_line_is_of_the_generation_of_its_owner,
    many_devices_are_rearranged_in_one_step,
    extensions_are_given_lowest_first_and_stay,
    the_directory_names_an_extension,
    two_users_cannot_claim_one_extension_at_once,
    events_are_read_from_any_number_on,
    numbers_outlive_their_events,
    contacts_come_and_go,
    subscriptions_come_and_go,
    who_called_whom_is_kept_and_found,
    tokens_are_kept_by_name,
    a_request_is_done_once,
    uploads_keep_the_newest,
    attempts_are_one_document,
    what_phones_were_given_is_kept_as_long_as_there_is_room,
    many_writers_share_commits,
);

mod on_a_fresh {
    use super::*;

    pub fn sqlite<F: Future<Output = ()>>(test: impl FnOnce(Arc<dyn Store>) -> F) {
        let folder = tempfile::tempdir().expect("folder");
        block_on(async {
            let store = Sqlite::open(folder.path().join("test.db")).expect("opens");
            test(store.clone()).await;
            store.close().await;
        });
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime").block_on(work)
}

fn mac(n: u8) -> MacAddr {
    MacAddr([0, 0x15, 0x65, 0, 0, n])
}

fn ext(text: &str) -> Extension {
    text.parse().expect("extension")
}

fn range() -> (Extension, Extension) {
    (ext("2000"), ext("2002"))
}

fn lease(address: [u8; 4], client: u8, starts: i64, expires: i64) -> LeaseRecord {
    LeaseRecord {
        address: address.into(),
        mac: mac(client),
        client_id: vec![],
        state: LeaseState::Active,
        starts: Timestamp(starts),
        expires: Timestamp(expires),
        hostname: Some("SIP-T46".into()),
        family: Some("yealink".into()),
        relay: Some([10, 9, 9, 1].into()),
        relay_info: Some(vec![1, 2, 0, 255]),
    }
}

fn device(n: u8, generation: u32) -> DeviceRecord {
    DeviceRecord {
        mac: mac(n),
        family: Some("poly".into()),
        model: Some("VVX411".into()),
        firmware: None,
        state: if generation == 0 { DeviceState::Provisional } else { DeviceState::Bound },
        generation,
        first_seen: Timestamp(1),
        last_seen: Timestamp(2),
        address: Some([10, 0, 0, n].into()),
        location: None,
        port: (n == 1).then(|| "floor2/7".to_owned()),
        inventory: if n == 1 { written() } else { Inventory::default() },
    }
}

fn written() -> Inventory {
    Inventory {
        label: Some("Empfang".into()),
        group: Some("reception".into()),
        notes: Some("a\nb".into()),
        stands_for: vec![mac(8), mac(9)],
    }
}

fn binding(n: u8, line: u8, user: &str, extension: &str, generation: u32) -> BindingRecord {
    BindingRecord {
        mac: mac(n),
        line,
        user_id: user.into(),
        display_name: user.to_uppercase(),
        extension: ext(extension),
        generation,
        since: Timestamp(3),
    }
}

fn event(seq: u64, n: u8, at: i64) -> Recorded {
    Recorded { seq, at: Timestamp(at), event: Event::ReloadTaken { mac: mac(n) } }
}

async fn append(store: &dyn Store, events: impl IntoIterator<Item = Recorded>) -> plugtone::store::Result<()> {
    store.append_events(events.into_iter().map(Arc::new).collect()).await
}

// --- the battery

async fn leases_are_kept_by_address(store: Arc<dyn Store>) {
    let first = lease([10, 0, 0, 5], 1, 0, 100);
    let renewed = LeaseRecord { expires: Timestamp(500), hostname: None, client_id: vec![1, 0, 255], ..first.clone() };
    let second = LeaseRecord { state: LeaseState::Declined, ..lease([10, 0, 0, 6], 2, 0, 100) };
    for record in [&first, &renewed, &second] {
        store.save_lease(record.clone()).await.expect("saved");
    }
    let mut leases = store.leases().await.expect("listed");
    leases.sort_by_key(|lease| lease.address);
    assert_eq!(leases, [renewed, second.clone()]);
    store.remove_lease([10, 0, 0, 5].into()).await.expect("removed");
    assert_eq!(store.leases().await.expect("listed"), [second]);
}

async fn leases_of_ipv6_are_kept_together(store: Arc<dyn Store>) {
    let lease = |last: u16, client: u8, starts: i64| Lease6Record {
        address: [0xfd00, 0, 0, 0, 0, 0, 0, last].into(),
        duid: vec![0, 3, 0, 255, client],
        iaid: u32::MAX,
        mac: (client != 9).then(|| mac(client)),
        state: LeaseState::Active,
        starts: Timestamp(starts),
        expires: Timestamp(starts + 1000),
        family: Some("yealink".into()),
        peer: [0xfe80, 0, 0, 0, 0, 0, 0, 1].into(),
        relay: (client == 1).then(|| [0xfd01, 0, 0, 0, 0, 0, 0, 1].into()),
        port: (client == 1).then(|| vec![0, 18, 0, 1, 255]),
    };
    let listed = async || {
        let mut leases = store.leases6().await.expect("listed");
        leases.sort_by_key(|lease| lease.address);
        leases
    };
    let both = [lease(1, 1, 0), lease(2, 9, 0)];
    store.save_leases6(both.to_vec()).await.expect("saved");
    assert_eq!(listed().await, both);
    let refused = store.save_leases6(vec![lease(3, 3, 999), lease(2, 3, 999)]).await.expect_err("the other's").to_string();
    assert!(refused.contains("fd00::2 is leased to another client"), "{refused}");
    assert_eq!(listed().await, both, "all or none");
    let back = Lease6Record { state: LeaseState::Released, ..lease(1, 1, 500) };
    let renewed = lease(2, 9, 500);
    store.save_leases6(vec![back.clone(), renewed.clone()]).await.expect("its own");
    store.save_leases6(vec![lease(3, 3, 1500)]).await.expect("free");
    assert_eq!(listed().await, [back, renewed, lease(3, 3, 1500)]);
    store.save_leases6(vec![lease(1, 3, 501), lease(2, 3, 1500)]).await.expect("given back, and expired");
}

async fn a_living_lease_is_not_taken_away(store: Arc<dyn Store>) {
    store.save_lease(lease([10, 0, 0, 5], 1, 0, 1000)).await.expect("free");
    let refused = store.save_lease(lease([10, 0, 0, 5], 2, 999, 2000)).await.expect_err("still the first's").to_string();
    assert!(refused.contains("10.0.0.5 is leased to another client"), "{refused}");
    store.save_lease(lease([10, 0, 0, 5], 2, 1000, 2000)).await.expect("it had expired");
    store.save_lease(LeaseRecord { state: LeaseState::Released, ..lease([10, 0, 0, 5], 2, 1000, 2000) }).await.expect("released");
    store.save_lease(lease([10, 0, 0, 5], 3, 1500, 2500)).await.expect("it was free");
    assert_eq!(store.leases().await.expect("listed").first().map(|lease| lease.mac), Some(mac(3)));
}

async fn devices_are_kept(store: Arc<dyn Store>) {
    let bare = DeviceRecord { family: None, model: None, address: None, ..device(1, 0) };
    store.save_device(bare.clone()).await.expect("saved");
    assert_eq!(store.device(mac(1)).await.expect("found"), Some(bare));
    store.save_devices(vec![device(1, 0), device(2, 0)]).await.expect("saved");
    assert_eq!(store.devices().await.expect("listed"), [device(1, 0), device(2, 0)]);
    assert_eq!(store.device(mac(9)).await.expect("asked"), None);
    for state in [DeviceState::Unknown, DeviceState::Authenticating, DeviceState::Reloading, DeviceState::InService] {
        store.save_device(DeviceRecord { state, ..device(3, 0) }).await.expect("saved");
        assert_eq!(store.device(mac(3)).await.expect("found").map(|device| device.state), Some(state));
    }
}

async fn a_late_record_does_not_revive_a_dead_generation(store: Arc<dyn Store>) {
    store.save_device(device(1, 4)).await.expect("saved");
    assert!(matches!(store.save_device(device(1, 3)).await, Err(Error::Refused { .. })));
    assert!(store.save_devices(vec![device(2, 0), device(1, 3)]).await.is_err());
    assert_eq!(store.devices().await.expect("listed"), [device(1, 4), device(2, 0)], "who is before it is saved");
}

async fn a_binding_and_its_device_are_one_step(store: Arc<dyn Store>) {
    store.bind(device(1, 1), binding(1, 1, "ann", "2041", 1), vec![], 1).await.expect("bound");
    assert_eq!(store.bindings().await.expect("listed"), [binding(1, 1, "ann", "2041", 1)]);
    assert_eq!(store.device(mac(1)).await.expect("found"), Some(device(1, 1)));
    // Another owner for the same line.
    store.bind(device(1, 2), binding(1, 1, "bob", "2042", 2), vec![], 1).await.expect("bound again");
    assert_eq!(store.bindings().await.expect("listed"), [binding(1, 1, "bob", "2042", 2)]);
    store.unbind(device(1, 3), 1).await.expect("unbound");
    assert_eq!(store.bindings().await.expect("listed"), []);
    assert_eq!(store.device(mac(1)).await.expect("found").map(|device| device.generation), Some(3));
}

async fn an_extension_has_as_many_devices_as_it_may(store: Arc<dyn Store>) {
    store.bind(device(1, 1), binding(1, 1, "ann", "2041", 1), vec![], 1).await.expect("first");
    let taken = store.bind(device(2, 1), binding(2, 1, "ann", "2041", 1), vec![], 1).await;
    assert!(matches!(taken, Err(Error::ExtensionTaken { .. })), "{taken:?}");
    // The older makes way in the same step.
    store.bind(device(2, 1), binding(2, 1, "ann", "2041", 1), vec![(device(1, 2), 1)], 1).await.expect("instead");
    assert_eq!(store.bindings().await.expect("listed"), [binding(2, 1, "ann", "2041", 1)]);
    store.bind(device(1, 3), binding(1, 1, "ann", "2041", 3), vec![], 2).await.expect("two are allowed now");
    assert_eq!(store.bindings().await.expect("listed").len(), 2);
    let third = store.bind(device(3, 1), binding(3, 1, "ann", "2041", 1), vec![], 2).await;
    assert!(matches!(third, Err(Error::ExtensionTaken { .. })), "{third:?}");
}

async fn a_refused_bind_changes_nothing(store: Arc<dyn Store>) {
    store.bind(device(1, 1), binding(1, 1, "ann", "2041", 1), vec![], 1).await.expect("bound");
    store.bind(device(2, 1), binding(2, 1, "bob", "2042", 1), vec![], 1).await.expect("bound");
    // Bob's phone would end, but the extension is Ann's.
    let refused = store.bind(device(3, 1), binding(3, 1, "eve", "2041", 1), vec![(device(2, 2), 1)], 1).await;
    let Err(Error::ExtensionTaken { owner, .. }) = &refused else { panic!("{refused:?}") };
    assert_eq!(owner, "ann");
    assert_eq!(store.bindings().await.expect("listed").len(), 2);
    assert_eq!(store.devices().await.expect("listed"), [device(1, 1), device(2, 1)]);
}

async fn each_line_is_of_the_generation_of_its_owner(store: Arc<dyn Store>) {
    store.bind(device(1, 1), binding(1, 1, "ann", "2041", 1), vec![], 1).await.expect("line 1");
    store.bind(device(1, 2), binding(1, 2, "bob", "2042", 2), vec![], 1).await.expect("line 2");
    let generations = |bindings: Vec<BindingRecord>| bindings.into_iter().map(|binding| binding.generation).collect::<Vec<_>>();
    assert_eq!(generations(store.bindings().await.expect("listed")), [1, 2]);
    store.unbind(device(1, 3), 1).await.expect("unbound");
    assert_eq!(generations(store.bindings().await.expect("listed")), [2]);
}

async fn many_devices_are_rearranged_in_one_step(store: Arc<dyn Store>) {
    store.bind(device(1, 1), binding(1, 1, "ann", "2041", 1), vec![], 1).await.expect("bound");
    store.bind(device(2, 1), binding(2, 1, "bob", "2042", 1), vec![], 1).await.expect("bound");
    // They change phones, and a third gets a second line.
    let swapped = vec![
        (device(1, 2), vec![binding(1, 1, "bob", "2042", 2)]),
        (device(2, 2), vec![binding(2, 1, "ann", "2041", 2), binding(2, 2, "eve", "2043", 2)]),
        (device(3, 0), vec![]),
    ];
    store.rearrange(swapped.clone(), 1).await.expect("rearranged");
    let bindings: Vec<_> = swapped.iter().flat_map(|(_, bindings)| bindings.clone()).collect();
    assert_eq!(store.bindings().await.expect("listed"), bindings);
    assert_eq!(store.devices().await.expect("listed"), [device(1, 2), device(2, 2), device(3, 0)]);
    let owners = store.extensions().await.expect("listed");
    assert_eq!(owners, [(ext("2041"), "ann".to_owned()), (ext("2042"), "bob".into()), (ext("2043"), "eve".into())]);
    // One that cannot be is none.
    for wrong in [
        vec![(device(1, 3), vec![]), (device(3, 1), vec![binding(3, 1, "zoe", "2041", 1)])],
        vec![(device(1, 3), vec![]), (device(3, 1), vec![binding(3, 1, "ann", "2041", 1)])],
        vec![(device(1, 3), vec![]), (device(2, 1), vec![])],
    ] {
        assert!(store.rearrange(wrong.clone(), 1).await.is_err(), "{wrong:?}");
        assert_eq!(store.bindings().await.expect("listed"), bindings, "{wrong:?}");
        assert_eq!(store.device(mac(1)).await.expect("found"), Some(device(1, 2)), "{wrong:?}");
    }
}

async fn extensions_are_given_lowest_first_and_stay(store: Arc<dyn Store>) {
    for (user, given) in [("ann", "2000"), ("bob", "2001"), ("ann", "2000"), ("eve", "2002"), ("bob", "2001")] {
        assert_eq!(store.claim_extension(user, None, range()).await.expect("given"), ext(given), "{user}");
    }
    let full = store.claim_extension("zoe", None, range()).await;
    assert!(matches!(full, Err(Error::NoExtensionFree { .. })), "{full:?}");
    let wide = store.claim_extension("zoe", None, (ext("0001"), ext("0009"))).await.expect("another range");
    assert_eq!(wide, ext("0001"), "as wide as the range's first");
}

async fn the_directory_names_an_extension(store: Arc<dyn Store>) {
    assert_eq!(store.claim_extension("ann", None, range()).await.expect("given"), ext("2000"));
    // The directory says 2000 is Bob's, and Ann has no phone on it.
    assert_eq!(store.claim_extension("bob", Some(ext("2000")), range()).await.expect("moved"), ext("2000"));
    assert_eq!(store.claim_extension("ann", None, range()).await.expect("another"), ext("2001"));
    store.bind(device(1, 1), binding(1, 1, "bob", "2000", 1), vec![], 1).await.expect("bound");
    let taken = store.claim_extension("eve", Some(ext("2000")), range()).await;
    let Err(Error::ExtensionTaken { extension, owner }) = taken else { panic!("{taken:?}") };
    assert_eq!((extension, owner.as_str()), (ext("2000"), "bob"));
    // His own latest counts when the directory is silent again.
    store.claim_extension("bob", Some(ext("777")), range()).await.expect("a second");
    assert_eq!(store.claim_extension("bob", None, range()).await.expect("the latest"), ext("777"));
    store.claim_extension("bob", Some(ext("2000")), range()).await.expect("back");
    assert_eq!(store.claim_extension("bob", None, range()).await.expect("the latest"), ext("2000"));
}

async fn two_users_cannot_claim_one_extension_at_once(store: Arc<dyn Store>) {
    let claims = (0..50).map(|user| {
        let store = store.clone();
        async move { store.claim_extension(&format!("user{user}"), None, (ext("3000"), ext("3999"))).await.expect("given") }
    });
    let given: HashSet<Extension> = futures_util::future::join_all(claims).await.into_iter().collect();
    assert_eq!(given.len(), 50);
}

async fn events_are_read_from_any_number_on(store: Arc<dyn Store>) {
    assert_eq!(store.last_seq().await.expect("asked"), 0);
    let call = CallId(7);
    let rich = Recorded {
        seq: 3,
        at: Timestamp(30),
        event: Event::CallStarted {
            call,
            from: "2041".into(),
            to: "0".into(),
            mac: Some(mac(2)),
            labels: vec![("shop".into(), "3".into())],
        },
    };
    append(&*store, [event(1, 1, 10), event(2, 2, 20), rich.clone()]).await.expect("appended");
    append(&*store, []).await.expect("nothing is fine");
    assert_eq!(store.last_seq().await.expect("asked"), 3);
    assert_eq!(store.events_after(1, 10).await.expect("read"), [event(2, 2, 20), rich.clone()]);
    assert_eq!(store.events_after(0, 1).await.expect("read"), [event(1, 1, 10)]);
    assert_eq!(store.events_after(u64::MAX, usize::MAX).await.expect("read"), []);
    assert_eq!(store.timeline(mac(2), 10).await.expect("read"), [event(2, 2, 20), rich.clone()]);
    assert_eq!(store.timeline(mac(2), 1).await.expect("read"), [rich], "the newest");
    assert!(append(&*store, [event(3, 1, 40), event(4, 1, 40)]).await.is_err(), "a number is given once");
    assert_eq!(store.events_after(2, 10).await.expect("read").len(), 1, "what is refused, and what follows it, is not there");
    assert!(append(&*store, [event(4, 2, 4), event(3, 1, 40)]).await.is_err());
    assert_eq!(store.events_after(3, 10).await.expect("read"), [event(4, 2, 4)], "what is before it is");
    assert_eq!(store.last_seq().await.expect("asked"), 4, "and its number is not given again");

    // One of many is refused: what is before it in its piece, and the other pieces, are stored, and stored once.
    append(&*store, [event(100, 1, 40)]).await.expect("appended");
    let many = |skipped: u64| (4..200).filter(move |seq| *seq != skipped).map(|seq| event(seq, 2, seq as i64));
    assert!(append(&*store, many(0)).await.is_err());
    append(&*store, many(100)).await.expect("again, without the one that was wrong");
    let stored = store.events_after(3, 1000).await.expect("read");
    assert!(stored.iter().map(|stored| stored.seq).eq(4..200), "{stored:?}");
}

async fn numbers_outlive_their_events(store: Arc<dyn Store>) {
    append(&*store, (1..=9).map(|seq| event(seq, 1, seq as i64))).await.expect("appended");
    assert_eq!(store.prune_events(Timestamp(5), Timestamp(20)).await.expect("pruned"), 4);
    assert_eq!(store.events_after(0, 1).await.expect("read"), [event(5, 1, 5)]);
    assert_eq!(store.prune_events(Timestamp(100), Timestamp(200)).await.expect("pruned"), 5);
    assert_eq!(store.last_seq().await.expect("asked"), 9);
    // Told while the clock was years ahead, then it was set right.
    append(&*store, [event(10, 1, 9_000), event(11, 1, 210), event(12, 1, 300)]).await.expect("appended");
    assert_eq!(store.prune_events(Timestamp(250), Timestamp(310)).await.expect("pruned"), 2);
    assert_eq!(store.events_after(0, 9).await.expect("read"), [event(12, 1, 300)]);
}

async fn contacts_come_and_go(store: Arc<dyn Store>) {
    let contact = |uri: &str, cseq| ContactRecord {
        user: "2041".into(),
        mac: mac(1),
        line: 1,
        generation: 1,
        uri: uri.into(),
        flow: "udp 10.0.0.5:5060".into(),
        call_id: "abc@phone".into(),
        cseq,
        user_agent: Some("Yealink".into()),
        instance: Some("<urn:uuid:1>".into()),
        reg_id: 2,
        q: 500,
        path: vec!["<sip:p1;lr>".into(), "<sip:p2;lr>".into()],
        expires: Timestamp(99),
    };
    for saved in [contact("sip:a@x", 1), contact("sip:b@x", 1), contact("sip:a@x", 2)] {
        store.write_contacts(vec![], vec![saved]).await.expect("saved");
    }
    assert_eq!(store.contacts().await.expect("listed"), [contact("sip:a@x", 2), contact("sip:b@x", 1)]);
    let key = |reg_id| vec![ContactKey { user: "2041".into(), uri: "sip:a@x".into(), reg_id }];
    let flow = ContactRecord { reg_id: 3, ..contact("sip:a@x", 7) };
    store.write_contacts(vec![], vec![flow.clone()]).await.expect("saved");
    assert_eq!(store.contacts().await.expect("listed"), [contact("sip:a@x", 2), flow, contact("sip:b@x", 1)], "two flows to one URI");
    store.write_contacts(key(3), vec![]).await.expect("removed");
    store.write_contacts(key(2), vec![]).await.expect("removed");
    store.write_contacts(key(2), vec![]).await.expect("twice is fine");
    assert_eq!(store.contacts().await.expect("listed"), [contact("sip:b@x", 1)]);
    let (of_another, back) = (
        ContactRecord { mac: mac(2), ..contact("sip:c@x", 1) },
        ContactRecord { user: "new001565000001".into(), generation: 2, ..contact("sip:d@x", 1) },
    );
    for saved in [of_another.clone(), back.clone()] {
        store.write_contacts(vec![], vec![saved]).await.expect("saved");
    }
    assert_eq!(store.contacts().await.expect("listed"), [of_another, back], "what it registered with dead secrets is gone");
}

async fn subscriptions_come_and_go(store: Arc<dyn Store>) {
    let watching = |tag: &str, local_cseq| SubscriptionRecord {
        local_tag: tag.into(),
        call_id: "abc@phone".into(),
        remote_tag: "p".into(),
        mac: mac(1),
        line: 2,
        user: "2041".into(),
        event: "dialog;id=4".into(),
        resource: "2042".into(),
        local: format!("<sip:2042@pbx>;tag={tag}"),
        remote: "<sip:2041@pbx>;tag=p".into(),
        contact: "<sip:2042@10.0.0.1>".into(),
        target: "sip:2041@10.0.0.5".into(),
        routes: "<sip:a;lr>\n<sip:b;lr>".into(),
        flow: "udp 10.0.0.5:5060 via 10.0.0.1:5060".into(),
        local_cseq,
        remote_cseq: 7,
        expires: Timestamp(99),
    };
    for saved in [watching("a", 500), watching("b", 500), watching("a", u32::MAX)] {
        store.save_subscription(saved).await.expect("saved");
    }
    assert_eq!(store.subscriptions().await.expect("listed"), [watching("a", u32::MAX), watching("b", 500)]);
    store.remove_subscription("a").await.expect("removed");
    store.remove_subscription("a").await.expect("twice is fine");
    assert_eq!(store.subscriptions().await.expect("listed"), [watching("b", 500)]);
}

fn leg(call: u64, number: u32, from: &str, to: &str, began: i64) -> CallLeg {
    CallLeg {
        call: CallId(call),
        leg: number,
        direction: LegDirection::Out,
        from: from.into(),
        to: to.into(),
        dialled: to.into(),
        mac: Some(mac(1)),
        trunk: Some("provider".into()),
        diverted_by: Some("2043".into()),
        began: Timestamp(began),
        rang: Some(Timestamp(began + 1)),
        answered: None,
        ended: None,
        cause: None,
        status: None,
        codec: Some("PCMA".into()),
        labels: vec![("ticket".into(), "4711".into())],
    }
}

async fn who_called_whom_is_kept_and_found(store: Arc<dyn Store>) {
    let over = |leg: CallLeg| CallLeg { ended: Some(Timestamp(99)), cause: Some("busy".into()), status: Some(486), ..leg };
    let legs = vec![leg(1, 1, "2041", "2042", 10), leg(1, 2, "2041", "2042", 10), over(leg(2, 1, "2042", "2041", 20))];
    store.save_call_legs(legs.clone()).await.expect("kept");
    let all = CallLegQuery { limit: 100, ..CallLegQuery::default() };
    let found = async |query: &CallLegQuery| store.call_legs(query.clone()).await.expect("read");
    assert_eq!(found(&all).await, [legs[2].clone(), legs[1].clone(), legs[0].clone()], "the newest first");
    // One after the other, with any page.
    for limit in 1..=3 {
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let page = found(&CallLegQuery { after, limit, ..all.clone() }).await;
            let Some(last) = page.last() else { break };
            after = Some((last.began, last.call, last.leg));
            seen.extend(page);
        }
        assert_eq!(seen, found(&all).await, "{limit} at once");
    }
    for (query, count) in [
        (CallLegQuery { user: Some("2042".into()), ..all.clone() }, 3),
        (CallLegQuery { user: Some("2042".into()), limit: 2, ..all.clone() }, 2),
        (CallLegQuery { user: Some("204".into()), ..all.clone() }, 0),
        (CallLegQuery { since: Some(Timestamp(11)), ..all.clone() }, 1),
        (CallLegQuery { until: Some(Timestamp(20)), ..all.clone() }, 2),
    ] {
        assert_eq!(found(&query).await.len(), count, "{query:?}");
    }
    // The later word counts, but for one that is over.
    store.save_call_legs(vec![over(leg(1, 1, "2041", "2042", 10)), leg(2, 1, "2042", "2041", 20)]).await.expect("kept");
    assert_eq!(found(&all).await.iter().filter(|leg| leg.cause.is_none()).count(), 1);
    // A server that was killed: what is open was cut off, and nobody knows when.
    assert_eq!(store.close_call_legs().await.expect("closed"), 1);
    let cut_off = found(&all).await.into_iter().find(|leg| leg.leg == 2).expect("there");
    assert_eq!((cut_off.cause.as_deref(), cut_off.ended), (Some(CUT_OFF), None));
    assert_eq!(store.close_call_legs().await.expect("closed"), 0);
    assert_eq!(store.prune_call_legs(Timestamp(20)).await.expect("forgotten"), 2);
    assert_eq!(found(&all).await.len(), 1);
}

async fn tokens_are_kept_by_name(store: Arc<dyn Store>) {
    let token = TokenRecord { name: "crm".into(), hash: [9; 32], created: Timestamp(1), expires: Some(Timestamp(2)) };
    store.save_token(token.clone()).await.expect("saved");
    assert_eq!(store.tokens().await.expect("listed"), [token]);
    assert!(store.remove_token("crm").await.expect("removed"));
    assert!(!store.remove_token("crm").await.expect("gone"));
}

async fn a_request_is_done_once(store: Arc<dyn Store>) {
    let day = 24 * 3600 * 1000;
    assert_eq!(store.claim_action("k", [1; 32], Timestamp(0)).await.expect("claimed"), Claim::New);
    assert_eq!(store.claim_action("k", [1; 32], Timestamp(1)).await.expect("claimed"), Claim::Repeated { answer: None });
    assert_eq!(store.claim_action("k", [2; 32], Timestamp(1)).await.expect("claimed"), Claim::Conflict);
    store.finish_action("k", "201").await.expect("kept");
    store.claim_action("f", [1; 32], Timestamp(1)).await.expect("claimed");
    store.forget_action("f").await.expect("forgotten");
    assert_eq!(store.claim_action("f", [2; 32], Timestamp(1)).await.expect("claimed"), Claim::New, "nothing came of it");
    let again = store.claim_action("k", [1; 32], Timestamp(day)).await.expect("claimed");
    assert_eq!(again, Claim::Repeated { answer: Some("201".into()) });
    assert_eq!(store.claim_action("k", [2; 32], Timestamp(day + 1)).await.expect("claimed"), Claim::New, "after a day");
}

async fn uploads_keep_the_newest(store: Arc<dyn Store>) {
    store.save_upload(mac(1), "app.log", b"old".to_vec(), Timestamp(1)).await.expect("kept");
    store.save_upload(mac(1), "app.log", vec![0, 255], Timestamp(2)).await.expect("kept");
    assert_eq!(store.upload(mac(1), "app.log").await.expect("read"), Some(vec![0, 255]));
    assert_eq!(store.upload(mac(2), "app.log").await.expect("read"), None);
    assert_eq!(store.remove_uploads(mac(1)).await.expect("removed"), 1);
}

async fn attempts_are_one_document(store: Arc<dyn Store>) {
    assert_eq!(store.attempts().await.expect("read"), None);
    store.save_attempts("{}").await.expect("kept");
    store.save_attempts("{\"a\":1}").await.expect("kept");
    assert_eq!(store.attempts().await.expect("read").as_deref(), Some("{\"a\":1}"));
}

async fn what_phones_were_given_is_kept_as_long_as_there_is_room(store: Arc<dyn Store>) {
    let given = |n: u8, file: &str, text: &str, at: i64| NewConfig {
        mac: mac(n),
        file: file.into(),
        hash: format!("hash of {}", &text[..3]),
        text: text.into(),
        at: Timestamp(at),
    };
    let (old, new, common) = ("old".repeat(10), "new".repeat(10), "com".repeat(10));
    let all = vec![
        given(1, "1.cfg", &old, 1),
        given(1, "1.cfg", &new, 2),
        given(1, "all.cfg", &common, 3),
        given(2, "all.cfg", &common, 4),
        given(1, "1.cfg", &old, 5),
    ];
    assert_eq!(store.save_configs(all).await.expect("kept"), 90, "each text once");
    assert_eq!(store.config_bytes().await.expect("measured"), 90);
    let shown = async |n: u8| {
        let configs = store.configs(mac(n)).await.expect("read");
        configs.into_iter().map(|c| (c.file, c.hash, c.bytes, c.first.0, c.last.0)).collect::<Vec<_>>()
    };
    let row = |file: &str, what: &str, first, last| (file.to_owned(), format!("hash of {what}"), 30, first, last);
    store.touch_configs(vec![(mac(1), "1.cfg".into(), Timestamp(9)), (mac(7), "x".into(), Timestamp(9))]).await.expect("kept");
    let everything = [row("1.cfg", "old", 5, 9), row("all.cfg", "com", 3, 3), row("1.cfg", "new", 2, 2), row("1.cfg", "old", 1, 1)];
    assert_eq!(shown(1).await, everything, "the newest first; only the newest of a file is touched");
    assert_eq!(store.latest_configs().await.expect("read").len(), 3);
    assert_eq!(store.config_text("hash of new").await.expect("read"), Some(new));
    assert_eq!(store.config_text("hash of all").await.expect("read"), None);

    assert_eq!(store.prune_configs(90).await.expect("pruned"), 90, "there is room");
    assert_eq!(shown(1).await.len(), 4);
    assert_eq!(store.prune_configs(60).await.expect("pruned"), 60);
    assert_eq!(shown(1).await, everything[..2], "what was followed by something newer has gone");
    assert_eq!(store.config_text("hash of new").await.expect("read"), None);
    assert_eq!(store.prune_configs(0).await.expect("pruned"), 0, "a bound is a bound");
    assert_eq!((shown(1).await.len(), shown(2).await.len()), (0, 0));
}

async fn many_writers_share_commits(store: Arc<dyn Store>) {
    let refusals = (0..400u32).map(|n| {
        let store = store.clone();
        async move {
            // Every fourth asks for the same address, which only one can have.
            let last = if n % 4 == 0 { 0 } else { n };
            let address = Ipv4Addr::from(0x0a00_0000 + last);
            store.save_lease(LeaseRecord { client_id: n.to_be_bytes().to_vec(), address, ..lease([0; 4], (n % 251) as u8, 0, 9) }).await
        }
    });
    let outcomes = futures_util::future::join_all(refusals).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_err()).count(), 99, "one refusal does not undo its neighbours");
    assert_eq!(store.leases().await.expect("listed").len(), 301);
}

// --- the file itself

#[test]
fn the_database_is_private_and_survives_a_close() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("plugtone.db");
    block_on(async {
        let store = Sqlite::open(&path).expect("made");
        store.save_lease(lease([10, 0, 0, 5], 1, 0, 9)).await.expect("saved");
        for name in ["plugtone.db", "plugtone.db-wal", "plugtone.db-shm"] {
            let mode = std::fs::metadata(folder.path().join(name)).expect(name).permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        store.close().await;
        assert!(matches!(store.leases().await, Err(Error::Stopped)));
        assert!(matches!(store.remove_lease([10, 0, 0, 5].into()).await, Err(Error::Stopped)));
        store.close().await;
        assert!(!folder.path().join("plugtone.db-wal").exists(), "the log is folded into the file");
        let store = Sqlite::open(&path).expect("opened again");
        assert_eq!(store.leases().await.expect("listed").len(), 1);
        store.close().await;
    });
}

#[test]
fn a_long_log_is_folded_into_the_file_while_it_is_written() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("plugtone.db");
    let size = || path.metadata().expect("there").len();
    block_on(async {
        let store = Sqlite::open(&path).expect("made");
        let write_mb = async |mb: u64, first: u64| {
            for seq in (0..mb * 16).map(|count| first + count) {
                let vendor_class = Some("x".repeat(1 << 16));
                let told = Event::DhcpDiscover { mac: mac(1), family: None, vendor_class, relay: None, asked: vec![] };
                append(&*store, [Recorded { seq, at: Timestamp(0), event: told }]).await.expect("appended");
            }
        };
        write_mb(8, 1).await;
        assert!(size() < 4 << 20, "not before it is worth it: {}", size());
        write_mb(14, 1_000).await;
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while size() < 14 << 20 {
            assert!(std::time::Instant::now() < until, "the file has {} bytes", size());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        store.close().await;
        assert!(!path.with_extension("db-wal").exists(), "nobody holds it open");
    });
}

#[test]
fn an_admin_can_read_the_tables() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("plugtone.db");
    block_on(async {
        let store = Sqlite::open(&path).expect("made");
        store.bind(device(1, 1), binding(1, 1, "ann", "2041", 1), vec![], 1).await.expect("bound");
        let admin = rusqlite::Connection::open(&path).expect("beside the server");
        let row: (String, String, String) = admin
            .query_row("SELECT mac, extension, display_name FROM phones", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .expect("a readable view");
        assert_eq!(row, ("00:15:65:00:00:01".into(), "2041".into(), "ANN".into()));
        append(&*store, [event(1, 1, 0)]).await.expect("appended");
        let row: (String, String, String) = admin
            .query_row("SELECT at_utc, mac, type FROM timeline", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .expect("another");
        assert_eq!(row, ("1970-01-01 00:00:00".into(), "00:15:65:00:00:01".into(), "reload_taken".into()));
        let sql: String = admin.query_row("SELECT sql FROM sqlite_schema WHERE name = 'leases'", [], |row| row.get(0)).expect("schema");
        assert!(sql.contains("-- option 61 as sent"), "documented where an admin looks: {sql}");
        store.close().await;
    });
}

#[test]
fn a_newer_or_foreign_file_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("newer.db");
    block_on(async { Sqlite::open(&path).expect("made").close().await });
    let newer = rusqlite::Connection::open(&path).expect("opened");
    newer.pragma_update(None, "user_version", 4711).expect("set");
    drop(newer);
    assert!(matches!(Sqlite::open(&path), Err(Error::TooNew { found: 4711, .. })));
    let text = folder.path().join("text.db");
    std::fs::write(&text, "this is no database, it is a letter to one. ".repeat(50)).expect("written");
    assert!(matches!(Sqlite::open(&text), Err(Error::Open { .. })));
    let nowhere = Sqlite::open("/nonexistent/plugtone.db").err().map(|error| error.to_string()).unwrap_or_default();
    assert!(nowhere.contains("check that the folder exists"), "{nowhere}");
}

/// The rate is for people (`--nocapture`); that every lease is there is for the test.
#[test]
fn many_clients_share_an_fsync() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on the disk of the build");
    block_on(async {
        let store = Sqlite::open(folder.path().join("rate.db")).expect("opens");
        for (clients, each) in [(1, 100), (16, 50), (256, 20)] {
            let rate = durable_leases(store.clone(), clients, each).await.expect("saved");
            println!("{clients} clients: {:.0} durable leases/s", rate.per_second());
        }
        assert_eq!(store.leases().await.expect("listed").len(), 256);
        store.close().await;
    });
}

// --- properties

#[derive(Clone, Debug)]
enum Act {
    Lease { address: u8, client: u8, starts: i64, lasts: i64 },
    Forget { address: u8 },
    Bind { device: u8, line: u8, user: u8, extension: u8 },
    Unbind { device: u8, line: u8 },
    Claim { user: u8 },
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0u8..4, 0u8..4, 0i64..100, 1i64..50).prop_map(|(address, client, starts, lasts)| Act::Lease { address, client, starts, lasts }),
        1 => (0u8..4).prop_map(|address| Act::Forget { address }),
        3 => (0u8..4, 1u8..3, 0u8..3, 0u8..3).prop_map(|(device, line, user, extension)| Act::Bind { device, line, user, extension }),
        1 => (0u8..4, 1u8..3).prop_map(|(device, line)| Act::Unbind { device, line }),
        1 => (0u8..3).prop_map(|user| Act::Claim { user }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever is asked, and however much at once: an address is leased once, an extension is on one device and one
    /// user's, and what was refused left no trace.
    #[test]
    fn nothing_is_given_twice(rounds in prop::collection::vec(prop::collection::vec(acts(), 1..8), 1..12)) {
        on_a_fresh::sqlite(|store| async move {
            let mut generations: HashMap<u8, u32> = HashMap::new();
            for round in rounds {
                let mut asked = Vec::new();
                for act in round {
                    asked.push(perform(store.clone(), act, &mut generations));
                }
                futures_util::future::join_all(asked).await;
                check_all_given_once(&*store).await;
            }
        });
    }
}

fn perform(store: Arc<dyn Store>, act: Act, generations: &mut HashMap<u8, u32>) -> impl Future<Output = ()> + use<> {
    let mut next = |device: u8| {
        let generation = generations.entry(device).or_default();
        *generation += 1;
        *generation
    };
    let generation = match act {
        Act::Bind { device, .. } | Act::Unbind { device, .. } => next(device),
        _ => 0,
    };
    async move {
        // Refusals are right; what they leave behind is checked after each round.
        let _ = match act {
            Act::Lease { address, client, starts, lasts } => {
                store.save_lease(lease([10, 0, 0, address], client, starts, starts + lasts)).await
            }
            Act::Forget { address } => store.remove_lease([10, 0, 0, address].into()).await,
            Act::Bind { device: n, line, user, extension } => {
                let record = binding(n, line, &format!("user{user}"), &format!("200{extension}"), generation);
                store.bind(device(n, generation), record, vec![], 1).await
            }
            Act::Unbind { device: n, line } => store.unbind(device(n, generation), line).await,
            Act::Claim { user } => store.claim_extension(&format!("user{user}"), None, range()).await.map(drop),
        };
    }
}

async fn check_all_given_once(store: &dyn Store) {
    let leases = store.leases().await.expect("listed");
    let addresses: HashSet<_> = leases.iter().map(|lease| lease.address).collect();
    assert_eq!(addresses.len(), leases.len(), "no two leases share an address");
    let bindings = store.bindings().await.expect("listed");
    let extensions: HashSet<_> = bindings.iter().map(|binding| &binding.extension).collect();
    assert_eq!(extensions.len(), bindings.len(), "an extension is on one device");
    let devices: BTreeMap<_, _> = store.devices().await.expect("listed").into_iter().map(|device| (device.mac, device)).collect();
    for binding in &bindings {
        let device = devices.get(&binding.mac).expect("its device");
        assert!(binding.generation <= device.generation, "an owner came with a change of the device");
    }
}

// --- kill -9

const ROUNDS: usize = 24;
const STORE_OF_CHILD: &str = "PLUGTONE_TEST_KILLED_STORE";

/// A child writes and says what was acknowledged; it is killed at any moment; all of that is there when the store is
/// opened again, every time.
#[test]
fn kill_9_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("killed.db");
    let mut acknowledged = Acknowledged::default();
    let mut random = proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
    for round in 0..ROUNDS {
        let before = acknowledged.lines;
        let pause = Duration::from_micros(u64::from(random.next_u32() % 60_000));
        write_and_be_killed(&path, pause, &mut acknowledged);
        assert!(acknowledged.lines > before, "round {round}: the child wrote nothing");
        block_on(acknowledged.all_there(&path, round));
    }
    println!("{} acknowledged writes survived {ROUNDS} kills", acknowledged.lines);
}

/// The child's part; by itself it does nothing.
#[test]
#[ignore = "started by kill_9_loses_nothing_that_was_acknowledged"]
fn writes_until_killed() {
    let Some(path) = std::env::var_os(STORE_OF_CHILD) else { return };
    block_on(async {
        let store: Arc<dyn Store> = Sqlite::open(path).expect("opens after every kill");
        let first_seq = store.last_seq().await.expect("read") + 1;
        let devices = store.devices().await.expect("read");
        let generation_of = |n: u8| devices.iter().find(|device| device.mac == mac(n)).map_or(0, |device| device.generation);
        let mut writers = Vec::new();
        for n in 0..16u8 {
            let (store, generation) = (store.clone(), generation_of(n));
            writers.push(tokio::spawn(async move {
                match n {
                    0 => write_events(store, first_seq).await,
                    1..6 => write_bindings(store, n, generation).await,
                    SWAPPED => swap_phones(store, generation).await,
                    _ => write_leases(store, n).await,
                }
            }));
        }
        futures_util::future::join_all(writers).await;
    });
}

/// One write to the pipe, so that a kill leaves no half line but the last.
fn acknowledge(line: String) {
    let _ = std::io::stdout().lock().write_all(format!("\nACK {line}\n").as_bytes());
}

async fn write_events(store: Arc<dyn Store>, first: u64) {
    for seq in first.. {
        append(&*store, [event(seq, 1, 0)]).await.expect("appended");
        acknowledge(format!("event {seq} 0"));
    }
}

async fn write_bindings(store: Arc<dyn Store>, n: u8, generation: u32) {
    for generation in generation + 1.. {
        let extension = format!("30{n}");
        store.bind(device(n, generation), binding(n, 1, &format!("user{n}"), &extension, generation), vec![], 1).await.expect("bound");
        acknowledge(format!("binding {n} {generation}"));
    }
}

/// This device and the next are in each other's place by turns.
const SWAPPED: u8 = 15;

async fn swap_phones(store: Arc<dyn Store>, generation: u32) {
    for generation in generation + 1.. {
        let swapped = [0, 1].map(|n: u8| {
            let owned = generation % 2 == u32::from(n);
            let bindings = owned.then(|| binding(SWAPPED + n, 1, "ann", "399", generation));
            (device(SWAPPED + n, generation), bindings.into_iter().collect())
        });
        store.rearrange(swapped.to_vec(), 1).await.expect("swapped");
        acknowledge(format!("swap 399 {generation}"));
    }
}

async fn write_leases(store: Arc<dyn Store>, n: u8) {
    let began = Timestamp::of(std::time::SystemTime::now()).0;
    for count in 0u32.. {
        let last = (count % 50) as u8;
        let expires = began + i64::from(count);
        store.save_lease(lease([10, 0, n, last], n, 0, expires)).await.expect("leased");
        acknowledge(format!("lease 10.0.{n}.{last} {expires}"));
    }
}

#[derive(Default)]
struct Acknowledged {
    lines: usize,
    /// What was written → its highest value.
    highest: HashMap<(String, String), i64>,
}

impl Acknowledged {
    /// Takes a whole line; another one than ours is of the test harness.
    fn take(&mut self, line: &str) -> bool {
        let Some(parts) = line.strip_prefix("ACK ").map(|rest| rest.split(' ').collect::<Vec<_>>()) else { return false };
        let [kind, what, value] = parts[..] else { panic!("a strange line: {line}") };
        let highest = self.highest.entry((kind.into(), what.into())).or_insert(i64::MIN);
        *highest = (*highest).max(value.parse().expect("a number"));
        self.lines += 1;
        true
    }

    async fn all_there(&self, path: &Path, round: usize) {
        let store = Sqlite::open(path).expect("opens");
        let mut held: HashMap<(String, String), i64> = HashMap::new();
        for lease in store.leases().await.expect("read") {
            held.insert(("lease".into(), lease.address.to_string()), lease.expires.0);
        }
        for binding in store.bindings().await.expect("read") {
            held.insert(("binding".into(), binding.mac.0[5].to_string()), i64::from(binding.generation));
            held.insert(("swap".into(), binding.extension.to_string()), i64::from(binding.generation));
        }
        for recorded in store.events_after(0, usize::MAX).await.expect("read") {
            held.insert(("event".into(), recorded.seq.to_string()), 0);
        }
        for (what, value) in &self.highest {
            let found = held.get(what);
            assert!(found.is_some_and(|found| found >= value), "round {round}: {what:?} {value} was acknowledged, {found:?} is there");
        }
        check_all_given_once(&*store).await;
        store.close().await;
    }
}

fn write_and_be_killed(path: &Path, pause: Duration, acknowledged: &mut Acknowledged) {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "store::writes_until_killed", "--ignored", "--nocapture"])
        .env(STORE_OF_CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test binary starts again");
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    let mut kill_at = None;
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut line = String::new();
    // Kills at the set moment, then reads on to what the child had still said.
    while lines.read_line(&mut line).expect("readable") > 0 {
        let whole = line.ends_with('\n');
        if whole && acknowledged.take(line.trim_end()) {
            kill_at.get_or_insert(Instant::now() + pause);
        }
        line.clear();
        if kill_at.is_some_and(|at| Instant::now() >= at) || Instant::now() > deadline {
            // SIGKILL; harmless when repeated on a child that is not reaped yet.
            child.kill().expect("killed");
        }
    }
    child.wait().expect("reaped");
}
