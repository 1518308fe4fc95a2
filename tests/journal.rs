//! The journal on the real store: numbers without gaps, readers of every speed, restarts, and a disk that is gone.

use std::{sync::Arc, time::Duration};

use plugtone::{
    journal::{Config, Delivery, Journal},
    model::{CallId, Event, MacAddr, Timestamp},
    store::{Sqlite, Store},
};

fn milestone(n: u8) -> Event {
    Event::ReloadTaken { mac: MacAddr([0, 0x15, 0x65, 0, 0, n]) }
}

fn chatter() -> Event {
    Event::IvrKeys { mac: None, call: CallId(1), count: 1 }
}

fn small() -> Config {
    Config { queue: 64, ring: 8, keep: None }
}

async fn open(folder: &tempfile::TempDir) -> Arc<Sqlite> {
    Sqlite::open(folder.path().join("a.db")).expect("opens")
}

async fn next(subscription: &mut plugtone::journal::Subscription) -> Option<Delivery> {
    tokio::time::timeout(Duration::from_secs(20), subscription.next()).await.expect("in time")
}

async fn next_seq(subscription: &mut plugtone::journal::Subscription) -> u64 {
    match next(subscription).await {
        Some(Delivery::Event(recorded)) => recorded.seq,
        other => panic!("an event, not {other:?}"),
    }
}

#[tokio::test]
async fn a_reader_gets_everything_from_its_number_on() {
    let folder = tempfile::tempdir().expect("folder");
    let store = open(&folder).await;
    let journal = Journal::start(store.clone(), small()).await.expect("starts");
    let events = journal.events();
    let mut live = journal.subscribe_live();
    for n in 0..40 {
        events.tell(milestone(n));
        assert_eq!(next_seq(&mut live).await, u64::from(n) + 1, "seen when stored");
    }
    assert_eq!(store.events_after(0, 100).await.expect("read").len(), 40);
    // The ring holds 8: what is older comes from the store, without a gap.
    let mut slow = journal.subscribe(3);
    for seq in 4..=40 {
        assert_eq!(next_seq(&mut slow).await, seq);
    }
    assert_eq!(slow.next_if_any().await, None);
    journal.stop().await;
    store.close().await;
}

#[tokio::test]
async fn numbers_go_on_after_a_restart_and_old_readers_find_their_place() {
    let folder = tempfile::tempdir().expect("folder");
    for round in 0..3u64 {
        let store = open(&folder).await;
        let journal = Journal::start(store.clone(), small()).await.expect("starts");
        assert_eq!(journal.last_seq(), round * 20);
        let mut reader = journal.subscribe((round * 20).saturating_sub(5));
        (0..20).for_each(|n| journal.events().tell(milestone(n)));
        for seq in (round * 20).saturating_sub(5) + 1..=round * 20 + 20 {
            assert_eq!(next_seq(&mut reader).await, seq);
        }
        journal.stop().await;
        assert_eq!(store.last_seq().await.expect("read"), round * 20 + 20, "what was told before the stop is stored");
        store.close().await;
    }
}

#[tokio::test]
async fn what_was_pruned_is_told_as_a_gap() {
    let folder = tempfile::tempdir().expect("folder");
    let store = open(&folder).await;
    let journal = Journal::start(store.clone(), small()).await.expect("starts");
    let mut live = journal.subscribe_live();
    for n in 0..40 {
        journal.events().tell(milestone(n));
        next_seq(&mut live).await;
    }
    store.prune_events(Timestamp(i64::MAX), Timestamp(i64::MAX)).await.expect("pruned");
    let mut late = journal.subscribe(10);
    assert_eq!(next(&mut late).await, Some(Delivery::Lagged { missed: 22 }), "11 to 32");
    assert_eq!(next_seq(&mut late).await, 33);
    let mut newcomer = journal.subscribe(0);
    assert_eq!(next_seq(&mut newcomer).await, 33, "who asked for what there is has missed nothing");
    journal.stop().await;
    store.close().await;
}

#[tokio::test]
async fn in_a_crowd_chatter_goes_first() {
    let folder = tempfile::tempdir().expect("folder");
    let store = open(&folder).await;
    let journal = Journal::start(store.clone(), small()).await.expect("starts");
    let events = journal.events();
    // On one thread the loop has no turn until we wait: 64 places, 16 of them for milestones only.
    (0..200).for_each(|_| events.tell(chatter()));
    (0..10).for_each(|n| events.tell(milestone(n)));
    journal.stop().await;
    let kept = store.events_after(0, 1000).await.expect("read");
    let milestones = kept.iter().filter(|recorded| matches!(recorded.event, Event::ReloadTaken { .. })).count();
    assert_eq!((kept.len() - milestones, milestones), (48, 10));
    assert_eq!(kept.last().map(|recorded| recorded.seq), Some(58), "what was dropped has no number");
    store.close().await;
}

#[tokio::test]
async fn readers_hear_what_a_broken_disk_cannot_keep() {
    let folder = tempfile::tempdir().expect("folder");
    let store = open(&folder).await;
    let journal = Journal::start(store.clone(), small()).await.expect("starts");
    let mut live = journal.subscribe_live();
    store.close().await;
    journal.events().tell(milestone(1));
    assert_eq!(next_seq(&mut live).await, 1);
    journal.stop().await;
}

#[tokio::test]
async fn a_reader_that_never_reads_stalls_nobody() {
    let folder = tempfile::tempdir().expect("folder");
    let store = open(&folder).await;
    let journal = Journal::start(store.clone(), small()).await.expect("starts");
    let mut lazy = journal.subscribe_live();
    let mut keen = journal.subscribe_live();
    for n in 0..200u8 {
        journal.events().tell(milestone(n));
        next_seq(&mut keen).await;
    }
    for seq in 1..=200 {
        assert_eq!(next_seq(&mut lazy).await, seq, "and gets everything when it reads at last");
    }
    journal.stop().await;
    store.close().await;
}
