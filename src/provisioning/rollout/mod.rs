//! A change of templates goes to a few phones first, is looked at, and goes on in growing waves, or back by itself. Pure.
//!
//! ```text
//!  waits ─► told ─► fetched ─► registered ─stays up─► through           wave done ─► the next, larger ─► done
//!    │        └─► late  └────────┴─► failed ─ too many ─► rolling back ─► rolled back
//!    └ offline · in a call: not told
//!  back: to be told ─► told ─► fetched ─► restored                      by itself, or when somebody aborts it
//! ```
//! A phone of a wave has the new files from its beginning on, told or not: who boots meanwhile gets them. All others have the old ones.
//! Driven by `worker.rs`, which looks at the phones' standing twice a second and passes both clocks in. The state is one document,
//! written before what follows from it is done. Not here: what a change does (`preview.rs`), how a phone is told (`reload.rs`).

mod choose;
mod settings;
#[cfg(test)]
mod tests;
pub mod worker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

pub use choose::{Canary, Candidate, ParseCanaryError, Wanted};
pub use settings::{Settings, SettingsError};
pub use worker::Rollouts;

use crate::model::{Event, MacAddr, Timestamp};

/// Between two looks at the phones, in milliseconds.
const LOOK_MS: i64 = 500;
/// A phone whose log-in is refused is given so long to find the right one, in milliseconds.
const REFUSED_MS: i64 = 10_000;
/// Fetching and registering are told by two tasks: what is so near is in no order, in milliseconds.
const APART_MS: i64 = 50;
/// How long a wave waits for phones that are in a call or away before it goes without them, in milliseconds.
const PATIENCE_MS: i64 = 60_000;

/// How it goes about it: frozen when it is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Each wave is so many times as large as the one before.
    pub growth: u32,
    pub per_minute: u32,
    pub take_secs: u32,
    pub register_secs: u32,
    #[serde(default = "settings::firmware_secs")]
    pub firmware_secs: u32,
    pub stay_secs: u32,
    pub max_failed_percent: u32,
}

/// The moment, and whether phones may be told now: hours of the office are over.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub at: Timestamp,
    pub quiet: bool,
}

/// What is known of a phone now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub registered: bool,
    pub in_call: bool,
    /// What it runs, as it last said.
    pub firmware: Option<String>,
    pub times: Times,
}

/// When a phone last did what shows how it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// The last REGISTER of it that was accepted.
    pub registered_at: Option<Timestamp>,
    /// The first that was refused for its password since it last registered or fetched its account.
    pub refused_at: Option<Timestamp>,
    /// When it had all of its account by the old templates, and by the new ones.
    pub fetched_old_at: Option<Timestamp>,
    pub fetched_new_at: Option<Timestamp>,
    /// Since when it runs what it runs; `None`: since before the server was started.
    pub firmware_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Stage {
    Running,
    Paused { reason: String },
    RollingBack { reason: String },
    Done,
    RolledBack { reason: String },
}

impl Stage {
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Done | Self::RolledBack { .. })
    }
}

/// Where a phone stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    Waits,
    Told,
    Fetched,
    Registered,
    Through,
    Failed {
        reason: String,
    },
    /// It was told and has not fetched its files.
    Late,
    // --- back
    /// It never had the new files.
    Spared,
    BackWaits,
    BackTold,
    BackFetched,
    Restored,
    /// It was told to fetch the old files and is not back.
    BackLate {
        reason: String,
    },
}

impl Step {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Waits => "waits",
            Self::Told => "told",
            Self::Fetched => "fetched",
            Self::Registered => "registered",
            Self::Through => "through",
            Self::Failed { .. } => "failed",
            Self::Late => "late",
            Self::Spared => "spared",
            Self::BackWaits => "to be told to go back",
            Self::BackTold => "told to go back",
            Self::BackFetched => "has the old files",
            Self::Restored => "restored",
            Self::BackLate { .. } => "not back",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phone {
    /// Family and model.
    pub make: String,
    /// The firmware that it has to come back with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// From 1, the canary; 0: no wave has come to it yet.
    pub wave: u32,
    #[serde(flatten)]
    pub step: Step,
    /// Of the step.
    pub since: Timestamp,
    #[serde(skip)]
    pub standing: Standing,
}

/// What the shell does next, after the state is on disk.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Who has the new files has changed.
    Serve,
    /// Fetch your files again, as soon as you are idle.
    TellPhone(MacAddr),
    /// Everybody has the new ones from now on.
    Finish,
    Tell(Event),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rollout {
    pub began: Timestamp,
    pub pace: Pace,
    #[serde(flatten)]
    pub stage: Stage,
    /// From 1; 0 before the first.
    pub wave: u32,
    wave_began: Timestamp,
    canary: usize,
    /// It was paused as nobody had shown anything.
    doubted: bool,
    next_tell: Timestamp,
    phones: BTreeMap<MacAddr, Phone>,
    #[serde(skip)]
    actions: VecDeque<Action>,
    /// The disk has an older state.
    #[serde(skip)]
    changed: bool,
}

impl Rollout {
    /// `phones`: all whose files change; `first`: those of them who get the change first.
    pub fn start(now: Now, pace: Pace, phones: Vec<Candidate>, first: &[MacAddr]) -> Self {
        let entry = |candidate: Candidate| {
            let Candidate { mac, family, model, firmware, standing, .. } = candidate;
            let make = [Some(family), model].into_iter().flatten().collect::<Vec<_>>().join(" ");
            (mac, Phone { make, firmware, wave: 0, step: Step::Waits, since: now.at, standing })
        };
        let mut rollout = Self {
            began: now.at,
            pace,
            stage: Stage::Running,
            wave: 0,
            wave_began: now.at,
            canary: first.len().max(1),
            doubted: false,
            next_tell: now.at,
            phones: phones.into_iter().map(entry).collect(),
            actions: VecDeque::new(),
            changed: true,
        };
        rollout.tell(Event::RolloutStarted { phones: rollout.phones.len(), canary: first.len() });
        rollout.begin_wave(now, first.to_vec());
        rollout
    }

    /// After a restart of the server. Who was on the way is told again: nobody knows what the phone did meanwhile.
    pub fn restored(&mut self, now: Now) {
        for phone in self.phones.values_mut() {
            match phone.step {
                Step::Told | Step::Fetched | Step::Registered => phone.step = Step::Waits,
                Step::BackTold | Step::BackFetched => phone.step = Step::BackWaits,
                _ => {}
            }
            // The time that the server was away is not the phone's.
            phone.since = phone.since.max(now.at);
        }
        self.wave_began = now.at;
        self.changed = true;
        self.actions.push_back(Action::Serve);
    }

    // --- what people want

    pub fn pause(&mut self, reason: String) -> bool {
        let running = self.stage == Stage::Running;
        if running {
            self.tell(Event::RolloutPaused { reason: reason.clone() });
            self.stage = Stage::Paused { reason };
            self.changed = true;
        }
        running
    }

    pub fn resume(&mut self, now: Now) -> bool {
        let paused = matches!(self.stage, Stage::Paused { .. });
        if paused {
            self.stage = Stage::Running;
            self.tell(Event::RolloutResumed);
            self.changed = true;
            self.go_on(now);
        }
        paused
    }

    /// The phones that have the new files get the old ones back.
    pub fn roll_back(&mut self, now: Now, reason: String) -> bool {
        if !matches!(self.stage, Stage::Running | Stage::Paused { .. }) {
            return false;
        }
        self.tell(Event::RolloutGoesBack { reason: reason.clone() });
        self.stage = Stage::RollingBack { reason };
        self.next_tell = now.at;
        for phone in self.phones.values_mut() {
            let had = matches!(phone.step, Step::Fetched | Step::Registered | Step::Through | Step::Failed { .. });
            (phone.step, phone.since) = (if had { Step::BackWaits } else { Step::Spared }, now.at);
        }
        self.actions.push_back(Action::Serve);
        self.changed = true;
        self.back(now);
        true
    }

    // --- facts

    /// How phones stand now: to be called twice a second.
    pub fn handle_standings(&mut self, now: Now, standings: impl IntoIterator<Item = (MacAddr, Standing)>) {
        for (mac, standing) in standings {
            if let Some(phone) = self.phones.get_mut(&mac) {
                phone.standing = standing;
            }
        }
        match self.stage {
            Stage::Running | Stage::Paused { .. } => self.forward(now),
            Stage::RollingBack { .. } => self.back(now),
            Stage::Done | Stage::RolledBack { .. } => {}
        }
    }

    // --- out

    /// The next thing to do. First write down the state, if it has [changed](Self::take_changed).
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Who has the new files now.
    pub fn ring(&self) -> BTreeSet<MacAddr> {
        match self.stage {
            Stage::Running | Stage::Paused { .. } => self.phones.iter().filter(|(_, phone)| phone.wave > 0).map(|(mac, _)| *mac).collect(),
            _ => BTreeSet::new(),
        }
    }

    /// Every phone whose files change.
    pub fn phones(&self) -> impl Iterator<Item = (MacAddr, &Phone)> {
        self.phones.iter().map(|(mac, phone)| (*mac, phone))
    }

    /// Why a phone is not through, in words; `None`: it is, or is not to be.
    pub fn hindrance(&self, now: Timestamp, phone: &Phone) -> Option<String> {
        let secs = now.secs_since(phone.since);
        Some(match &phone.step {
            Step::Through | Step::Spared | Step::Restored => return None,
            Step::Waits if phone.wave == 0 => return None,
            Step::Waits | Step::BackWaits if phone.standing.in_call => "in a call".to_owned(),
            Step::Waits if !phone.standing.registered => "offline: gets its files when it is back".to_owned(),
            Step::Waits | Step::BackWaits => "waits for its turn".to_owned(),
            Step::Told | Step::BackTold => format!("told {secs} s ago, has not fetched its files"),
            Step::Fetched if phone.installs() => match (&phone.firmware, &phone.standing.firmware) {
                (Some(wanted), Some(runs)) => format!("fetched its files {secs} s ago, runs {runs}, is to come back with {wanted}"),
                _ => format!("fetched its files {secs} s ago, has not said what it runs"),
            },
            Step::Fetched | Step::BackFetched => format!("fetched its files {secs} s ago, has not registered"),
            Step::Registered => format!("registered {secs} s ago"),
            Step::Late => "was told, and has not fetched its files".to_owned(),
            Step::Failed { reason } | Step::BackLate { reason } => reason.clone(),
        })
    }

    // --- inside

    fn forward(&mut self, now: Now) {
        let pace = self.pace.clone();
        let mut news = Vec::new();
        for (mac, phone) in self.phones.iter_mut().filter(|(_, phone)| phone.wave > 0) {
            if let Some(step) = phone.next(now.at, &pace) {
                news.push((*mac, phone.wave, step.clone()));
                (phone.step, phone.since) = step;
            }
        }
        for (mac, wave, (step, _)) in news {
            self.stepped(mac, wave, &step);
        }
        if let Some(reason) = self.too_many_failed() {
            self.roll_back(now, reason);
            return;
        }
        if self.stage == Stage::Running {
            self.tell_phones(now);
            self.go_on(now);
        }
    }

    /// More than may be have failed, of those in the waves so far that can be judged.
    fn too_many_failed(&self) -> Option<String> {
        let in_waves = self.phones.iter().filter(|(_, phone)| phone.wave > 0);
        let judged = in_waves.filter(|(_, phone)| !matches!(phone.step, Step::Late) && !phone.is_away());
        let (mut all, mut failed) = (0, Vec::new());
        for (mac, phone) in judged {
            all += 1;
            if let Step::Failed { reason } = &phone.step {
                failed.push((mac, reason));
            }
        }
        let (mac, reason) = failed.first()?;
        let most = u64::from(self.pace.max_failed_percent);
        let too_many = failed.len() as u64 * 100 > most * all;
        too_many.then(|| format!("{} of {all} phones failed, {most} % may; {mac} {reason}", failed.len()))
    }

    /// Tells those of the wave who can be told, not too fast.
    fn tell_phones(&mut self, now: Now) {
        if !now.quiet {
            return;
        }
        let can = |phone: &Phone| phone.wave > 0 && phone.step == Step::Waits && phone.standing.registered && !phone.standing.in_call;
        let macs: Vec<_> = self.phones.iter().filter(|(_, phone)| can(phone)).map(|(mac, _)| *mac).collect();
        self.tell_some(now, macs, Step::Told);
    }

    fn tell_some(&mut self, now: Now, macs: Vec<MacAddr>, step: Step) {
        let pause_ms = 60_000 / i64::from(self.pace.per_minute.max(1));
        for mac in macs {
            if self.next_tell > now.at {
                return;
            }
            // Several in one look where they are that many, but not all at once after a quiet minute.
            let slack_ms = (LOOK_MS - pause_ms).max(0);
            self.next_tell = Timestamp(self.next_tell.0.max(now.at.0 - slack_ms) + pause_ms);
            let Some(phone) = self.phones.get_mut(&mac) else { continue };
            (phone.step, phone.since) = (step.clone(), now.at);
            let wave = phone.wave;
            self.actions.push_back(Action::TellPhone(mac));
            self.stepped(mac, wave, &step);
        }
    }

    /// The next wave, when this one is through; the end after the last.
    fn go_on(&mut self, now: Now) {
        let left: Vec<_> = self.phones.iter().filter(|(_, phone)| phone.wave == 0).collect();
        let patient = now.at.0 - self.wave_began.0 < PATIENCE_MS;
        let is_open = |phone: &Phone| match phone.step {
            Step::Told | Step::Fetched | Step::Registered => true,
            // At the end there is no other wave that could take it along.
            Step::Waits if phone.standing.in_call => patient || left.is_empty(),
            Step::Waits if phone.standing.registered => true,
            Step::Waits => patient && self.wave == 1,
            _ => false,
        };
        if self.phones.values().any(|phone| phone.wave > 0 && is_open(phone)) {
            return;
        }
        let through = self.phones.values().filter(|phone| phone.step == Step::Through).count();
        if through == 0 && !left.is_empty() {
            let reason = "none of the first phones is through, so nobody knows whether the change is good; resume it to go on all the same";
            // Once is enough: who resumes it knows.
            if !std::mem::replace(&mut self.doubted, true) {
                self.pause(reason.to_owned());
                return;
            }
        }
        if left.is_empty() {
            self.stage = Stage::Done;
            self.changed = true;
            self.actions.push_back(Action::Finish);
            self.ended("done");
            return;
        }
        let size = (self.canary as u64).saturating_mul(u64::from(self.pace.growth).saturating_pow(self.wave));
        let mut next: Vec<_> = left.into_iter().map(|(mac, phone)| (!phone.standing.registered, *mac)).collect();
        // Who is there comes first; who is away gets the new files at the end, whenever it is back.
        next.sort();
        next.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        self.begin_wave(now, next.into_iter().map(|(_, mac)| mac).collect());
    }

    fn begin_wave(&mut self, now: Now, macs: Vec<MacAddr>) {
        self.wave += 1;
        self.wave_began = now.at;
        for mac in &macs {
            if let Some(phone) = self.phones.get_mut(mac) {
                (phone.wave, phone.since) = (self.wave, now.at);
            }
        }
        self.changed = true;
        self.actions.push_back(Action::Serve);
        self.tell(Event::RolloutWave { wave: self.wave, phones: macs.len() });
    }

    fn back(&mut self, now: Now) {
        let pace = self.pace.clone();
        let mut news = Vec::new();
        for (mac, phone) in &mut self.phones {
            if let Some(step) = phone.next_back(now.at, &pace) {
                news.push((*mac, phone.wave, step.clone()));
                (phone.step, phone.since) = (step, now.at);
            }
        }
        for (mac, wave, step) in news {
            self.stepped(mac, wave, &step);
        }
        // Those that do not work come first, and nobody waits for the evening with them.
        let waits = |phone: &Phone| phone.step == Step::BackWaits && !phone.standing.in_call;
        let mut macs: Vec<_> = self.phones.iter().filter(|(_, phone)| waits(phone)).collect();
        macs.sort_by_key(|(mac, phone)| (phone.standing.times.registered_at > phone.standing.times.fetched_new_at, **mac));
        let macs = macs.into_iter().map(|(mac, _)| *mac).collect();
        self.tell_some(now, macs, Step::BackTold);
        let is_open = |phone: &Phone| matches!(phone.step, Step::BackWaits | Step::BackTold | Step::BackFetched);
        if !self.phones.values().any(is_open)
            && let Stage::RollingBack { reason } = &self.stage
        {
            self.stage = Stage::RolledBack { reason: reason.clone() };
            self.changed = true;
            self.ended("rolled back");
        }
    }

    fn stepped(&mut self, mac: MacAddr, wave: u32, step: &Step) {
        let reason = match step {
            Step::Failed { reason } | Step::BackLate { reason } => Some(reason.clone()),
            _ => None,
        };
        self.tell(Event::RolloutPhone { mac, wave, step: step.as_str().to_owned(), reason });
        self.changed = true;
    }

    fn ended(&mut self, outcome: &str) {
        let count = |wanted: fn(&Step) -> bool| self.phones.values().filter(|phone| wanted(&phone.step)).count();
        let well = count(|step| matches!(step, Step::Through | Step::Restored | Step::Spared));
        let left = self.phones.len() - well;
        self.tell(Event::RolloutEnded { outcome: outcome.to_owned(), well, left });
    }

    fn tell(&mut self, event: Event) {
        self.actions.push_back(Action::Tell(event));
    }
}

impl Phone {
    /// It does not run yet what it has to come back with.
    fn installs(&self) -> bool {
        self.firmware.is_some() && self.firmware != self.standing.firmware
    }

    fn is_away(&self) -> bool {
        self.step == Step::Waits && !self.standing.registered
    }

    /// The step that follows from how it stands, and since when.
    fn next(&self, now: Timestamp, pace: &Pace) -> Option<(Step, Timestamp)> {
        let Standing { registered, in_call, times, .. } = self.standing;
        let Times { registered_at, refused_at, fetched_new_at, .. } = times;
        // With a new firmware it says so before it registers; what it had registered before does not count.
        let since = self.since.max(times.firmware_at.filter(|_| self.firmware.is_some()).unwrap_or(self.since));
        let register_secs = if self.firmware.is_some() { pace.firmware_secs } else { pace.register_secs };
        let after = |at: Option<Timestamp>, before: Timestamp| at.filter(|at| *at > before);
        let over = |secs: u32| now.0 - self.since.0 >= i64::from(secs) * 1000;
        let failed = |reason: &str| Some((Step::Failed { reason: reason.to_owned() }, now));
        match self.step {
            // Told or not: it came by itself.
            Step::Waits | Step::Told | Step::Late if after(fetched_new_at, Timestamp(self.since.0 - 1)).is_some() => {
                Some((Step::Fetched, fetched_new_at?))
            }
            Step::Told if !in_call && over(pace.take_secs) => Some((Step::Late, now)),
            Step::Fetched => match (after(registered_at, Timestamp(since.0 - APART_MS)), after(refused_at, self.since)) {
                (Some(at), _) if registered && !self.installs() => Some((Step::Registered, at)),
                (_, Some(at)) if now.0 - at.0 >= REFUSED_MS => failed("is refused: its password is wrong"),
                _ if over(register_secs) => match (&self.firmware, &self.standing.firmware) {
                    (Some(wanted), Some(runs)) if self.installs() && registered => failed(&format!("runs {runs} still, not {wanted}")),
                    (Some(wanted), _) if self.installs() => failed(&format!("was to come back with {wanted} and does not register")),
                    _ => failed("has fetched its files and does not register"),
                },
                _ => None,
            },
            Step::Registered if !registered => failed("has registered and is gone again"),
            Step::Registered if over(pace.stay_secs) => Some((Step::Through, now)),
            // It was through too early.
            Step::Through if !registered && !over(pace.stay_secs) => failed("was through and is gone"),
            _ => None,
        }
    }

    fn next_back(&self, now: Timestamp, pace: &Pace) -> Option<Step> {
        let Standing { registered, times, .. } = self.standing;
        let Times { registered_at, fetched_old_at, fetched_new_at, .. } = times;
        let over = |secs: u32| now.0 - self.since.0 >= i64::from(secs) * 1000;
        let late = |reason: &str| Some(Step::BackLate { reason: reason.to_owned() });
        let has_old = fetched_old_at.is_some_and(|at| at >= self.since);
        match self.step {
            // They were on their way when it was decided.
            Step::Spared if fetched_new_at.is_some_and(|at| at >= self.since) && fetched_old_at < fetched_new_at => Some(Step::BackWaits),
            Step::BackWaits | Step::BackTold | Step::BackLate { .. } if has_old => Some(Step::BackFetched),
            Step::BackTold if over(pace.take_secs) => late("was told, and has not fetched the old files"),
            Step::BackFetched if registered && registered_at.is_some_and(|at| at.0 > fetched_old_at.map_or(0, |at| at.0) - APART_MS) => {
                Some(Step::Restored)
            }
            Step::BackFetched if over(pace.register_secs) => late("has the old files and does not register"),
            _ => None,
        }
    }
}
