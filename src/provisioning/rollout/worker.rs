//! Rollouts at work: one task keeps the state on disk, puts the new templates before the phones of the waves, and has phones told.
//!
//! [`Rollouts`] is its handle. Between a decision and what follows from it lies a commit: after `kill -9` a rollout goes on with both
//! sets of templates as they were when it began, whatever the folder holds by then.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use jiff::tz::TimeZone;
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval},
};

use super::{
    Action, Candidate, Now, Rollout, Stage, Step, Wanted,
    settings::{Config, Settings},
};
use crate::{
    directory::{Denied, Directory},
    model::{DeviceRecord, Events, MacAddr, Timestamp},
    provisioning::{Files, Onboarding, onboarding},
    store::{self, Store, StoredRollout},
    template::{Faults, Source, TemplateSet, Templates},
};

/// Between two looks at the phones.
const LOOK: Duration = Duration::from_millis(super::LOOK_MS.unsigned_abs());
const QUEUE: usize = 64;
/// People whose groups are looked at.
const MOST_PEOPLE: usize = 50_000;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("a rollout is under way: `plugtone rollout show` says how far; pause, resume or abort it")]
    UnderWay,
    #[error("no rollout is under way")]
    None,
    #[error("it cannot be {0} now: `plugtone rollout show` says where it stands")]
    NotNow(&'static str),
    #[error("the templates on disk have faults: {0}")]
    Faults(String),
    #[error("no phone's files change by the templates on disk: `plugtone reload` makes them live")]
    NothingChanges,
    #[error("no phone whose files change is among those that were asked for: `plugtone template diff --phones` names those that do")]
    NobodyFirst,
    #[error("who is in the group '{group}' cannot be told: {denied}")]
    Group { group: String, denied: Denied },
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Onboarding(#[from] onboarding::Error),
    #[error("the server is stopping")]
    Stopped,
}

/// Handle of the task; cheap to clone.
#[derive(Clone)]
pub struct Rollouts {
    queue: mpsc::Sender<Message>,
    under_way: Arc<AtomicBool>,
}

pub struct Neighbours {
    pub templates: Templates,
    pub onboarding: Onboarding,
    pub files: Files,
    pub directory: Arc<dyn Directory>,
    pub store: Arc<dyn Store>,
    pub events: Events,
}

/// How far it is.
#[derive(Clone, Debug)]
pub struct Shown {
    pub rollout: Rollout,
    pub now: Timestamp,
    /// Phones may be told now.
    pub quiet: bool,
}

type Reply<T> = oneshot::Sender<Result<T, Error>>;

enum Message {
    Start(Wanted, Reply<Shown>),
    Show(Reply<Shown>),
    Pause(Reply<Shown>),
    Resume(Reply<Shown>),
    Abort(Reply<Shown>),
    /// The templates on disk are live now, and so are these settings.
    Reloaded(Settings),
    Stop(oneshot::Sender<()>),
}

/// Puts the templates of a rollout that a stop has cut short, or that has gone back, in the place of those on disk. To be asked before
/// anything is served.
pub async fn restore(store: &dyn Store, templates: &Templates) -> store::Result<Option<Restored>> {
    let Some(stored) = store.rollout().await? else { return Ok(None) };
    let Ok(rollout) = serde_json::from_str::<Rollout>(&stored.state) else {
        tracing::error!("the rollout that was under way cannot be read: the templates on disk are live for all phones");
        return Ok(None);
    };
    let set = |text: Option<String>| -> Option<Arc<TemplateSet>> {
        let sources: Vec<Source> = serde_json::from_str(&text?).ok()?;
        let set = TemplateSet::load(&sources).map_err(Faults);
        Some(Arc::new(set.inspect_err(|faults| tracing::error!("the templates of the rollout have faults by now: {faults}")).ok()?))
    };
    let mut new = None;
    if rollout.stage != Stage::Done {
        match (set(stored.old), set(stored.new)) {
            (Some(old), Some(candidate)) => {
                templates.replace(old);
                templates.serve_ring(Some((candidate.clone(), rollout.ring())));
                new = Some(candidate);
            }
            _ => {
                tracing::error!("the templates of the last rollout cannot be used any more: those on disk are live for all phones");
                return Ok(None);
            }
        }
        if let Stage::RolledBack { reason } = &rollout.stage {
            tracing::warn!(
                reason,
                "the templates from before the last rollout are live, not those on disk: `plugtone reload` or `plugtone rollout start` change that"
            );
        }
    }
    Ok(Some(Restored { rollout, new }))
}

/// What [`restore`] found.
pub struct Restored {
    rollout: Rollout,
    new: Option<Arc<TemplateSet>>,
}

impl Rollouts {
    /// `restored`: what [`restore`] gave.
    pub fn start(config: Config, neighbours: Neighbours, restored: Option<Restored>) -> Self {
        let (queue, inbox) = mpsc::channel(QUEUE);
        let under_way = Arc::new(AtomicBool::new(restored.as_ref().is_some_and(|restored| !restored.rollout.stage.is_over())));
        let mut service = Service { config, neighbours, rollout: None, new: None, under_way: under_way.clone() };
        if let Some(Restored { mut rollout, new }) = restored {
            if !rollout.stage.is_over() {
                tracing::warn!(stage = ?rollout.stage, wave = rollout.wave, "a rollout goes on");
                rollout.restored(service.now());
            }
            (service.rollout, service.new) = (Some(rollout), new);
        }
        tokio::spawn(service.run(inbox));
        Self { queue, under_way }
    }

    /// The templates that are live are not to be changed otherwise.
    pub fn is_under_way(&self) -> bool {
        self.under_way.load(Ordering::Acquire)
    }

    /// Brings the templates on disk to the phones, some first.
    pub async fn begin(&self, wanted: Wanted) -> Result<Shown, Error> {
        self.ask(|reply| Message::Start(wanted, reply)).await
    }

    /// The one that is under way, or the last.
    pub async fn show(&self) -> Result<Shown, Error> {
        self.ask(Message::Show).await
    }

    /// No more phones are told.
    pub async fn pause(&self) -> Result<Shown, Error> {
        self.ask(Message::Pause).await
    }

    pub async fn resume(&self) -> Result<Shown, Error> {
        self.ask(Message::Resume).await
    }

    /// All get the old files back.
    pub async fn abort(&self) -> Result<Shown, Error> {
        self.ask(Message::Abort).await
    }

    /// The configuration was read again, and the templates too unless one is [under way](Self::is_under_way).
    pub async fn reloaded(&self, settings: Settings) {
        let _ = self.queue.send(Message::Reloaded(settings)).await;
    }

    /// What was decided is on disk; a rollout goes on at the next start.
    pub async fn stop(&self) {
        let (reply, done) = oneshot::channel();
        if self.queue.send(Message::Stop(reply)).await.is_ok() {
            let _ = done.await;
        }
    }

    async fn ask<T>(&self, message: impl FnOnce(Reply<T>) -> Message) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(message(reply)).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
    }
}

struct Service {
    config: Config,
    neighbours: Neighbours,
    /// The one that is under way, or the last.
    rollout: Option<Rollout>,
    /// Its templates, until it is over.
    new: Option<Arc<TemplateSet>>,
    under_way: Arc<AtomicBool>,
}

impl Service {
    async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.act().await;
        loop {
            let active = self.rollout.as_ref().is_some_and(|rollout| !rollout.stage.is_over());
            tokio::select! {
                _ = look.tick(), if active => {
                    self.look().await;
                    self.act().await;
                }
                message = inbox.recv() => match message {
                    Some(Message::Stop(reply)) => {
                        let _ = reply.send(());
                        return;
                    }
                    Some(message) => self.handle(message).await,
                    None => return,
                }
            }
        }
    }

    async fn handle(&mut self, message: Message) {
        let now = self.now();
        match message {
            Message::Start(wanted, reply) => {
                let started = self.begin(wanted).await;
                self.act().await;
                let _ = reply.send(started.and_then(|()| self.shown()));
            }
            Message::Show(reply) => drop(reply.send(self.shown())),
            Message::Pause(reply) => {
                self.order(reply, "paused", |rollout| rollout.pause("somebody has paused it".to_owned())).await;
            }
            Message::Resume(reply) => self.order(reply, "resumed", |rollout| rollout.resume(now)).await,
            Message::Abort(reply) => {
                self.order(reply, "aborted", |rollout| rollout.roll_back(now, "somebody has aborted it".to_owned())).await;
            }
            Message::Reloaded(settings) => {
                if let Ok(config) = settings.check() {
                    self.config = config;
                }
                if self.rollout.as_ref().is_some_and(|rollout| rollout.stage.is_over()) {
                    self.forget().await;
                }
            }
            Message::Stop(_) => {}
        }
    }

    async fn order(&mut self, reply: Reply<Shown>, what: &'static str, order: impl FnOnce(&mut Rollout) -> bool) {
        let done = match &mut self.rollout {
            None => Err(Error::None),
            Some(rollout) => order(rollout).then_some(()).ok_or(Error::NotNow(what)),
        };
        self.act().await;
        let _ = reply.send(done.and_then(|()| self.shown()));
    }

    fn shown(&self) -> Result<Shown, Error> {
        let Now { at, quiet } = self.now();
        Ok(Shown { rollout: self.rollout.clone().ok_or(Error::None)?, now: at, quiet })
    }

    async fn begin(&mut self, wanted: Wanted) -> Result<(), Error> {
        if self.rollout.as_ref().is_some_and(|rollout| !rollout.stage.is_over()) {
            return Err(Error::UnderWay);
        }
        let Neighbours { templates, onboarding, files, .. } = &self.neighbours;
        let (reading, live) = (templates.clone(), templates.current());
        let read = tokio::task::spawn_blocking(move || reading.on_disk()).await.map_err(|_| Error::Stopped)?;
        let new = Arc::new(read.map_err(|faults| Error::Faults(faults.to_string()))?);
        let devices = onboarding.devices().await?;
        let groups = files.compare(new.clone(), devices.clone()).await;
        let changed: HashSet<MacAddr> = groups.into_iter().flat_map(|group| group.phones).collect();
        if changed.is_empty() {
            return Err(Error::NothingChanges);
        }
        let mut groups = match &wanted.group {
            Some(group) => self.groups().await.map_err(|denied| Error::Group { group: group.clone(), denied })?,
            None => HashMap::new(),
        };
        let mut named: HashMap<_, _> = files.firmware_of(&new, &devices).await.into_iter().map(|phone| (phone.mac, phone)).collect();
        let standings = onboarding.standings(changed.iter().copied().collect()).await?;
        let standings: HashMap<_, _> = standings.into_iter().collect();
        let candidate = |device: DeviceRecord| {
            let (mac, family) = (device.mac, device.family.unwrap_or_else(|| "generic".to_owned()));
            let (firmware, site, own) = named.remove(&mac).map(|phone| (phone.due, phone.site, phone.groups)).unwrap_or_default();
            let groups = [own, groups.remove(&mac).unwrap_or_default()].concat();
            let standing = standings.get(&mac).cloned().unwrap_or_default();
            Candidate { mac, family, model: device.model, firmware, site, groups, standing }
        };
        let candidates: Vec<_> = devices.into_iter().filter(|device| changed.contains(&device.mac)).map(candidate).collect();
        let first = wanted.choose(&candidates, self.config.canary);
        if first.is_empty() {
            return Err(Error::NobodyFirst);
        }
        let rollout = Rollout::start(self.now(), self.config.pace.clone(), candidates, &first);
        let sources = |set: &TemplateSet| serde_json::to_string(set.sources()).unwrap_or_default();
        let stored = StoredRollout {
            state: serde_json::to_string(&rollout).unwrap_or_default(),
            old: Some(sources(&live)),
            new: Some(sources(&new)),
        };
        self.neighbours.store.save_rollout(stored).await?;
        self.under_way.store(true, Ordering::Release);
        (self.rollout, self.new) = (Some(rollout), Some(new));
        Ok(())
    }

    /// By the directory: those of the people whose phone it is.
    async fn groups(&self) -> Result<HashMap<MacAddr, Vec<String>>, Denied> {
        let Neighbours { directory, store, .. } = &self.neighbours;
        let people: HashMap<_, _> = directory.list(MOST_PEOPLE).await?.into_iter().map(|user| (user.id, user.groups)).collect();
        let mut groups: HashMap<_, Vec<_>> = HashMap::new();
        for owner in store.bindings().await.map_err(|error| Denied::Unavailable(error.to_string()))? {
            groups.entry(owner.mac).or_default().extend(people.get(&owner.user_id).cloned().unwrap_or_default());
        }
        Ok(groups)
    }

    async fn look(&mut self) {
        let now = self.now();
        let Some(rollout) = &mut self.rollout else { return };
        let of: Vec<_> = rollout.phones().map(|(mac, _)| mac).collect();
        if let Ok(standings) = self.neighbours.onboarding.standings(of).await {
            rollout.handle_standings(now, standings);
        }
    }

    /// Writes the state down, then does what follows from it. While the disk refuses, nothing follows.
    async fn act(&mut self) {
        let Some(rollout) = &mut self.rollout else { return };
        if rollout.take_changed() {
            let state = serde_json::to_string(rollout).unwrap_or_default();
            while let Err(error) = self.neighbours.store.save_rollout_state(&state).await {
                tracing::error!(%error, "the rollout stands still until its state is on disk");
                if matches!(error, store::Error::Stopped) {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        }
        let mut finished = false;
        while let Some(action) = rollout.poll_action() {
            match action {
                Action::Tell(event) => self.neighbours.events.tell(event),
                Action::Serve => {
                    let ring = self.new.clone().map(|new| (new, rollout.ring()));
                    self.neighbours.templates.serve_ring(ring.filter(|(_, phones)| !phones.is_empty()));
                }
                Action::TellPhone(mac) => {
                    if let Err(error) = self.neighbours.onboarding.reload_when_idle(mac).await {
                        tracing::warn!(%mac, %error, "the phone cannot be told");
                    }
                }
                Action::Finish => {
                    if let Some(new) = self.new.take() {
                        self.neighbours.templates.replace(new);
                    }
                    self.neighbours.templates.serve_ring(None);
                    finished = true;
                }
            }
        }
        let over = rollout.stage.is_over();
        if finished {
            // Its templates are those on disk: there is nothing to be held on to.
            if let Err(error) = self.neighbours.store.forget_rollout_sets().await {
                tracing::warn!(%error, "the templates of the rollout stay in the database");
            }
        }
        self.under_way.store(!over, Ordering::Release);
    }

    /// The last one is history: what is on disk counts.
    async fn forget(&mut self) {
        self.new = None;
        match self.neighbours.store.remove_rollout().await {
            Ok(()) => self.rollout = None,
            Err(error) => tracing::error!(%error, "the last rollout cannot be forgotten: after a restart its old templates would be live"),
        }
    }

    fn now(&self) -> Now {
        let at = Timestamp::of(SystemTime::now());
        let zone = self.config.time_zone.clone().unwrap_or_else(TimeZone::system);
        let minute =
            jiff::Timestamp::from_millisecond(at.0).map(|at| at.to_zoned(zone)).map(|at| at.hour() as u16 * 60 + at.minute() as u16);
        Now { at, quiet: minute.is_ok_and(|minute| self.config.is_quiet(minute)) }
    }
}

/// How many phones are at which step.
pub fn counts(rollout: &Rollout) -> Vec<(&'static str, usize)> {
    let mut counts: Vec<(&'static str, usize)> = Vec::new();
    let order = |step: &Step| match step {
        Step::Waits => 0,
        Step::Told | Step::BackWaits => 1,
        Step::Fetched | Step::BackTold => 2,
        Step::Registered | Step::BackFetched => 3,
        Step::Through | Step::Restored => 4,
        Step::Spared => 5,
        _ => 6,
    };
    let mut steps: Vec<_> = rollout.phones().map(|(_, phone)| (order(&phone.step), phone.step.as_str())).collect();
    steps.sort_unstable();
    for (_, step) in steps {
        match counts.last_mut() {
            Some((last, count)) if *last == step => *count += 1,
            _ => counts.push((step, 1)),
        }
    }
    counts
}
