//! The account of who called whom on its way to the disk, behind the engine and in order.
//!
//! What happens in a call is on disk one commit later, at most every 50 ms: a server that is killed loses what was under way,
//! a tenth of a second of it, and leaves open records, which the next start closes. While the disk takes nothing, the ledger keeps
//! what there is.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    call::{
        ledger::{Ledger, LineNews},
        switch::Action,
    },
    model::{CallId, Timestamp},
    sip::ua::LegId,
    store::{CallLeg, Store},
};

/// Batches that may wait for the disk.
const BATCHES: usize = 4;
/// Records in one batch at most.
const AT_ONCE: usize = 1024;
/// While the disk is busy, what is due is offered again after this.
const SAVE_AGAIN: Duration = Duration::from_millis(50);
/// A disk that refuses is tried again after this.
const WRITE_AGAIN: Duration = Duration::from_secs(1);
/// Between two writes: under load many records share one, and a leg that begins and is answered meanwhile is written once. The store
/// waits as long again for company.
const GATHER: Duration = Duration::from_millis(25);
const FORGET_EVERY: Duration = Duration::from_secs(3600);

pub(super) struct Records {
    ledger: Ledger,
    /// The wall clock at a moment: it is read once for all that happens in it.
    clock: (Instant, Timestamp),
    writes: mpsc::Sender<Vec<CallLeg>>,
    save_again: Option<Instant>,
}

impl Records {
    /// The writer ends when the records are dropped and all is written.
    pub(super) fn start(store: Arc<dyn Store>) -> (Self, JoinHandle<()>) {
        let (writes, inbox) = mpsc::channel(BATCHES);
        (Self { ledger: Ledger::default(), clock: (Instant::now(), wall()), writes, save_again: None }, tokio::spawn(write(store, inbox)))
    }

    pub(super) fn handle_leg(&mut self, now: Instant, leg: LegId, event: &crate::call::LegEvent) {
        let wall = self.wall(now);
        self.ledger.handle_leg(wall, leg, event);
    }

    pub(super) fn handle_action(&mut self, now: Instant, action: &Action, fresh: impl FnOnce(Timestamp) -> CallId) {
        let wall = self.wall(now);
        self.ledger.handle_action(wall, action, fresh);
    }

    /// The switch wants nothing more: hands over what is new, as much as the disk takes.
    pub(super) fn settle(&mut self, now: Instant) {
        let wall = self.wall(now);
        self.ledger.settle(wall);
        self.save_again = None;
        while self.ledger.has_unsaved() {
            let Ok(permit) = self.writes.try_reserve() else {
                self.save_again = Some(now + SAVE_AGAIN);
                return;
            };
            permit.send(std::iter::from_fn(|| self.ledger.poll_save()).take(AT_ONCE).collect());
        }
    }

    fn wall(&mut self, now: Instant) -> Timestamp {
        if self.clock.0 != now {
            self.clock = (now, wall());
        }
        self.clock.1
    }

    pub(super) fn poll_line(&mut self) -> Option<LineNews> {
        self.ledger.poll_line()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.save_again
    }

    /// Hands over all, before the end.
    pub(super) async fn finish(mut self) {
        let left = std::iter::from_fn(|| self.ledger.poll_save()).collect();
        let _ = self.writes.send(left).await;
    }
}

fn wall() -> Timestamp {
    Timestamp::of(SystemTime::now())
}

async fn write(store: Arc<dyn Store>, mut inbox: mpsc::Receiver<Vec<CallLeg>>) {
    while let Some(mut legs) = inbox.recv().await {
        // What waits shares the commit.
        while let Ok(more) = inbox.try_recv() {
            legs.extend(more);
        }
        while let Err(fault) = store.save_call_legs(legs.clone()).await {
            tracing::error!(%fault, records = legs.len(), "who called whom is not on disk; it is kept and tried again");
            if inbox.is_closed() {
                metrics::counter!("plugtone_call_records_lost_total").increment(legs.len() as u64);
                break;
            }
            tokio::time::sleep(WRITE_AGAIN).await;
        }
        if !inbox.is_closed() {
            tokio::time::sleep(GATHER).await;
        }
    }
}

/// Forgets records that are older than `keep`, every hour.
pub async fn forget(store: Arc<dyn Store>, keep: Duration) {
    // Not at the very start, when phones come back.
    tokio::time::sleep(Duration::from_secs(60)).await;
    loop {
        if let Some(before) = SystemTime::now().checked_sub(keep) {
            match store.prune_call_legs(Timestamp::of(before)).await {
                Ok(0) => {}
                Ok(records) => tracing::info!(records, "records of calls older than `store.call_records_days` were forgotten"),
                Err(fault) => tracing::warn!(%fault, "old records of calls could not be removed; tried again in an hour"),
            }
        }
        tokio::time::sleep(FORGET_EVERY).await;
    }
}
