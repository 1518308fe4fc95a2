//! Writes down what phones are given: news at once, many in a commit; times of what they had already every minute and at the end.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::{News, Recent};
use crate::{
    model::{MacAddr, Timestamp},
    store::{self, NewConfig, Store},
};

/// Texts that wait to be written.
const QUEUE: usize = 1024;
/// Texts in one commit.
const BATCH: usize = 256;
const TOUCH_EVERY: Duration = Duration::from_secs(60);

/// Handle of the running history; cheap to clone.
#[derive(Clone)]
pub struct History(Arc<Shared>);

struct Shared {
    recent: Mutex<Recent>,
    /// `None`: nothing is written down.
    queue: Option<mpsc::Sender<Message>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

enum Message {
    New(NewConfig),
    Stop(oneshot::Sender<()>),
}

impl History {
    /// `most`: bytes of texts that are kept; 0: none.
    pub async fn start(store: Arc<dyn Store>, most: u64) -> store::Result<Self> {
        if most == 0 {
            return Ok(Self::off());
        }
        let mut recent = Recent::default();
        for given in store.latest_configs().await? {
            if let Ok(shown) = blake3::Hash::from_hex(&given.hash) {
                recent.restore(given.mac, &given.file, shown, given.last);
            }
        }
        let bytes = store.config_bytes().await?;
        let (queue, inbox) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared { recent: Mutex::new(recent), queue: Some(queue), task: Mutex::default() });
        let task = tokio::spawn(run(shared.clone(), store, inbox, bytes, most));
        *shared.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(Self(shared))
    }

    /// Remembers, and writes nothing down.
    pub fn off() -> Self {
        Self(Arc::new(Shared { recent: Mutex::default(), queue: None, task: Mutex::default() }))
    }

    /// The hash of what people may see of it, when these are the very bytes that the phone was given last, and is given once more.
    pub fn again(&self, mac: MacAddr, file: &str, real: blake3::Hash, now: Timestamp) -> Option<blake3::Hash> {
        self.0.recent().again(mac, file, real, now)
    }

    /// The phone is given a file with this hash; gives the hash of what people may see of it. `shown` makes that text, and is asked only
    /// when these are not the bytes that the phone was given last.
    pub fn given(
        &self,
        mac: MacAddr,
        file: &str,
        real: blake3::Hash,
        now: Timestamp,
        shown: impl FnOnce() -> Option<String>,
    ) -> Option<blake3::Hash> {
        if let Some(known) = self.again(mac, file, real, now) {
            return Some(known);
        }
        let text = shown()?;
        let hash = blake3::hash(text.as_bytes());
        let news = self.0.recent().put(mac, file, real, hash, now);
        let Some(queue) = self.0.queue.as_ref().filter(|_| news == News::New) else { return Some(hash) };
        let new = NewConfig { mac, file: file.to_owned(), hash: hash.to_hex().to_string(), text, at: now };
        if queue.try_send(Message::New(new)).is_err() {
            metrics::counter!("plugtone_provisioning_history_dropped_total").increment(1);
            self.0.recent().forget(mac, file);
        }
        Some(hash)
    }

    /// Writes what waits, and stops.
    pub async fn stop(&self) {
        let Some(queue) = &self.0.queue else { return };
        let (reply, done) = oneshot::channel();
        if queue.send(Message::Stop(reply)).await.is_ok() {
            let _ = done.await;
        }
        let task = self.0.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

impl Shared {
    /// Never held across an await or any I/O.
    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(shared: Arc<Shared>, store: Arc<dyn Store>, mut inbox: mpsc::Receiver<Message>, mut bytes: u64, most: u64) {
    let mut messages = Vec::with_capacity(BATCH);
    let mut touch = interval(TOUCH_EVERY);
    touch.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            got = inbox.recv_many(&mut messages, BATCH) => {
                let (mut new, mut stop) = (Vec::with_capacity(got), None);
                for message in messages.drain(..) {
                    match message {
                        Message::New(config) => new.push(config),
                        Message::Stop(reply) => stop = Some(reply),
                    }
                }
                save(&shared, &*store, new, &mut bytes, most).await;
                if got == 0 || stop.is_some() {
                    touched(&shared, &*store).await;
                    if let Some(reply) = stop {
                        // Who asked may have gone.
                        let _ = reply.send(());
                    }
                    return;
                }
            }
            _ = touch.tick() => touched(&shared, &*store).await,
        }
    }
}

async fn save(shared: &Shared, store: &dyn Store, new: Vec<NewConfig>, bytes: &mut u64, most: u64) {
    if new.is_empty() {
        return;
    }
    let names: Vec<_> = new.iter().map(|config| (config.mac, config.file.clone())).collect();
    match store.save_configs(new).await {
        Ok(added) => *bytes += added,
        Err(error) => {
            tracing::warn!(%error, files = names.len(), "what phones were given is not written down; it is when they fetch it again");
            names.iter().for_each(|(mac, file)| shared.recent().forget(*mac, file));
        }
    }
    if *bytes > most {
        // Some room at once, so that not every text of a full history has to look for some.
        match store.prune_configs(most - most / 10).await {
            Ok(left) => *bytes = left,
            Err(error) => tracing::warn!(%error, "what phones were given long ago cannot be forgotten"),
        }
    }
}

async fn touched(shared: &Shared, store: &dyn Store) {
    let served = shared.recent().take_touched();
    if served.is_empty() {
        return;
    }
    if let Err(error) = store.touch_configs(served).await {
        tracing::warn!(%error, "when phones fetched their files last is not written down");
    }
}
