//! The journal's loop: takes what mechanisms tell, numbers, logs and stores it, then wakes the readers.
//!
//! *Telling* never waits. The queue is bounded: when three quarters of it are full, chatter (offers, files that are not
//! there …) is dropped and counted; milestones are dropped only when it is full to the brim, which is also logged. No
//! truth is lost with an event: leases, devices and bindings have tables of their own.
//!
//! *Reading* never holds anybody up. A [`Subscription`] only remembers the last number it gave out, and fetches what
//! follows from the ring or, when it was slow, from the store; what is in neither any more is told as a gap. Readers see
//! an event when it is stored, so a number that was read is never given to another event after a crash. When the disk
//! refuses, events reach readers all the same and are kept (bounded) for the next attempt.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{
    ring::{Ring, Since},
    sentence::{Weight, log, weight},
};
use crate::{
    model::{Event, Events, Recorded, Timestamp},
    store::{Result, Store},
};

/// Events stored in one go. Leases wait for the same disk, so that it is not taken for long.
const BATCH: usize = 256;
/// Between two commits.
const GATHER: Duration = Duration::from_millis(20);
/// The same after so many at once: nobody reads a thousand events a second as they come.
const GATHER_MORE: (usize, Duration) = (16, Duration::from_millis(40));
/// And after a full batch: a flood is written faster again, so that there is a place for what happens.
const GATHER_LESS: Duration = Duration::from_millis(10);
/// Events that a reader fetches in one go.
const PAGE: usize = 256;
/// Events that wait for a disk that refuses them; older ones are given up and counted.
const UNSAVED: usize = 16 * 1024;
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Events that wait to be numbered, at most.
    pub queue: usize,
    /// Newest events kept in memory for readers.
    pub ring: usize,
    /// How long events stay in the store. `None`: for ever.
    pub keep: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self { queue: 8192, ring: 8192, keep: Some(Duration::from_secs(90 * 24 * 3600)) }
    }
}

/// Handle of the running journal; cheap to clone.
#[derive(Clone)]
pub struct Journal {
    tell: mpsc::Sender<Message>,
    shared: Arc<Shared>,
    loop_ended: Arc<Mutex<Option<JoinHandle<()>>>>,
}

struct Shared {
    store: Arc<dyn Store>,
    ring: Mutex<Ring>,
    /// The number of the newest event that readers may see.
    head: watch::Sender<u64>,
}

impl Shared {
    /// Never held across an await or any I/O.
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Message {
    Told(Timestamp, Event),
    Stop,
}

impl Journal {
    /// Starts the loop; numbers go on where the store ended.
    pub async fn start(store: Arc<dyn Store>, config: Config) -> Result<Self> {
        let last_seq = store.last_seq().await?;
        let (tell, inbox) = mpsc::channel(config.queue.max(4));
        let (head, _) = watch::channel(last_seq);
        let shared = Arc::new(Shared { store, ring: Mutex::new(Ring::new(config.ring, last_seq)), head });
        let task = tokio::spawn(run(shared.clone(), inbox, config.keep));
        Ok(Self { tell, shared, loop_ended: Arc::new(Mutex::new(Some(task))) })
    }

    /// Where mechanisms tell what happened.
    pub fn events(&self) -> Events {
        let tell = self.tell.clone();
        Events::new(move |event| {
            let weight = weight(&event);
            // A quarter of the places is kept for what matters.
            let crowded = tell.capacity() <= tell.max_capacity() / 4;
            if weight == Weight::Chatter && crowded {
                metrics::counter!("plugtone_journal_dropped_total", "what" => "chatter").increment(1);
                return;
            }
            if tell.try_send(Message::Told(Timestamp::of(SystemTime::now()), event)).is_err() && weight == Weight::Milestone {
                metrics::counter!("plugtone_journal_dropped_total", "what" => "milestone").increment(1);
            }
        })
    }

    /// Everything after number `seq`, then what happens, without end. 0: from the oldest that is kept.
    pub fn subscribe(&self, after_seq: u64) -> Subscription {
        let head = self.shared.head.subscribe();
        // A number from the future is of another database: begin with what happens now.
        let last = after_seq.min(*head.borrow());
        Subscription { shared: self.shared.clone(), head, last, fetched: VecDeque::new() }
    }

    /// What happens from now on.
    pub fn subscribe_live(&self) -> Subscription {
        self.subscribe(u64::MAX)
    }

    /// The number of the newest event that readers can see.
    pub fn last_seq(&self) -> u64 {
        *self.shared.head.borrow()
    }

    /// `false`: it was stopped, or has ended by a fault.
    pub fn is_running(&self) -> bool {
        self.loop_ended.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|task| !task.is_finished())
    }

    /// Stores what was told until now, then stops; what is told later is lost.
    pub async fn stop(&self) {
        let _ = self.tell.send(Message::Stop).await;
        let task = self.loop_ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

async fn run(shared: Arc<Shared>, mut inbox: mpsc::Receiver<Message>, keep: Option<Duration>) {
    let mut prune = interval_at(Instant::now() + Duration::from_secs(30), PRUNE_EVERY);
    prune.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Vec::with_capacity(BATCH);
    let mut unsaved: VecDeque<Arc<Recorded>> = VecDeque::new();
    loop {
        tokio::select! {
            biased;
            got = inbox.recv_many(&mut told, BATCH) => {
                if got == 0 || take(&shared, &mut told, &mut unsaved).await {
                    break;
                }
                tokio::time::sleep(pause(got)).await;
            }
            _ = prune.tick(), if keep.is_some() => forget(&shared, keep).await,
        }
    }
    // What was told before the end is still in the queue.
    inbox.close();
    while inbox.recv_many(&mut told, BATCH).await > 0 {
        take(&shared, &mut told, &mut unsaved).await;
    }
    if !unsaved.is_empty() {
        tracing::error!(events = unsaved.len(), "the last events could not be stored: their part of the timelines is lost");
    }
}

/// How long the next events wait after so many: under load many share a commit, and the first of them has not waited. A flood is not
/// written as fast as it comes: leases wait for the same disk.
fn pause(got: usize) -> Duration {
    match got {
        BATCH.. => GATHER_LESS,
        got if got >= GATHER_MORE.0 => GATHER_MORE.1,
        _ => GATHER,
    }
}

/// Numbers, logs, stores and publishes; `true` when asked to stop.
async fn take(shared: &Shared, told: &mut Vec<Message>, unsaved: &mut VecDeque<Arc<Recorded>>) -> bool {
    let mut stop = false;
    let mut batch = Vec::with_capacity(told.len());
    {
        let mut ring = shared.ring();
        for message in told.drain(..) {
            match message {
                Message::Told(at, event) => batch.push(ring.number(at, event)),
                Message::Stop => stop = true,
            }
        }
    }
    batch.iter().for_each(|recorded| log(recorded));
    if batch.is_empty() {
        return stop;
    }
    unsaved.extend(batch.iter().cloned());
    save(shared, unsaved).await;
    let head = {
        let mut ring = shared.ring();
        ring.keep(batch);
        ring.last_seq()
    };
    shared.head.send_replace(head);
    stop
}

async fn save(shared: &Shared, unsaved: &mut VecDeque<Arc<Recorded>>) {
    match shared.store.append_events(unsaved.iter().cloned().collect()).await {
        Ok(()) => unsaved.clear(),
        Err(error) => {
            metrics::counter!("plugtone_journal_unsaved_total").increment(1);
            tracing::error!(%error, waiting = unsaved.len(), "events are not on disk; they are kept and tried again with the next");
            while unsaved.len() > UNSAVED {
                unsaved.pop_front();
                metrics::counter!("plugtone_journal_dropped_total", "what" => "unsaved").increment(1);
            }
        }
    }
}

async fn forget(shared: &Shared, keep: Option<Duration>) {
    let now = SystemTime::now();
    let Some(before) = keep.and_then(|keep| now.checked_sub(keep)) else { return };
    match shared.store.prune_events(Timestamp::of(before), Timestamp::of(now)).await {
        Ok(0) => {}
        Ok(events) => tracing::info!(events, "events older than `store.journal_days` were forgotten"),
        Err(error) => tracing::warn!(%error, "old events could not be removed; tried again in an hour"),
    }
}

/// What a reader gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivery {
    Event(Arc<Recorded>),
    /// `missed` events before the next one are not to be had any more: pruned, or never stored.
    Lagged {
        missed: u64,
    },
}

/// One reader's place in the stream. It holds a page at most, however slow the reader is.
pub struct Subscription {
    shared: Arc<Shared>,
    head: watch::Receiver<u64>,
    /// The number of the last event that was fetched or given up.
    last: u64,
    fetched: VecDeque<Delivery>,
}

impl Subscription {
    /// The next event, waiting for it if need be. `None`: the journal has stopped and everything was given.
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Delivery> {
        loop {
            if let Some(delivery) = self.fetched.pop_front() {
                return Some(delivery);
            }
            let head = *self.head.borrow_and_update();
            if self.last < head {
                self.fetch(head).await;
            } else if self.head.changed().await.is_err() {
                return None;
            }
        }
    }

    /// What can be had without waiting for something to happen.
    pub async fn next_if_any(&mut self) -> Option<Delivery> {
        let head = *self.head.borrow();
        while self.fetched.is_empty() && self.last < head {
            self.fetch(head).await;
        }
        self.fetched.pop_front()
    }

    async fn fetch(&mut self, head: u64) {
        let (since, ring_first) = {
            let ring = self.shared.ring();
            (ring.since(self.last, PAGE), ring.first_seq())
        };
        match since {
            Since::Here(events) if !events.is_empty() => events.into_iter().for_each(|event| self.deliver(event)),
            // All numbers up to the head are in the ring or before it.
            Since::Here(_) => self.last = head,
            Since::Gone => self.fetch_stored(ring_first).await,
        }
    }

    async fn fetch_stored(&mut self, ring_first: u64) {
        metrics::counter!("plugtone_journal_reread_total").increment(1);
        let stored = match self.shared.store.events_after(self.last, PAGE).await {
            Ok(stored) => stored,
            Err(error) => {
                tracing::warn!(%error, after = self.last, "a reader of events loses those that only the store has");
                Vec::new()
            }
        };
        let mut older = stored.into_iter().take_while(|recorded| recorded.seq < ring_first).peekable();
        if older.peek().is_none() {
            self.skip_to(ring_first);
        }
        older.for_each(|recorded| self.deliver(Arc::new(recorded)));
    }

    fn deliver(&mut self, event: Arc<Recorded>) {
        self.skip_to(event.seq);
        self.last = event.seq;
        self.fetched.push_back(Delivery::Event(event));
    }

    /// Tells of the numbers between the last and `next` that nobody has.
    fn skip_to(&mut self, next: u64) {
        let missed = next.saturating_sub(self.last + 1);
        if missed > 0 {
            // From the very beginning, what was pruned is not missed.
            if self.last > 0 {
                self.fetched.push_back(Delivery::Lagged { missed });
            }
            self.last = next - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_there_is_the_more_share_a_commit_and_a_flood_is_not_kept_waiting() {
        assert_eq!([1, 15, 16, 255, 256].map(|got| pause(got).as_millis()), [20, 20, 40, 40, 10]);
    }
}
