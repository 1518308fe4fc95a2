//! Onboarding at work: one task owns [`Core`], asks the store, swaps identities, hands orders to the SIP engine.
//!
//! [`Onboarding`] is its handle, cheap to clone. Facts are told without waiting; when the queue is nearly full, sightings
//! are dropped and counted, as phones show themselves again. `bind` and `unbind` return when the change is on disk *and*
//! every new identity is in force: the old secret is dead then. A caller that gives up waiting changes nothing about it.
//! Device records of mere sightings are written behind, many in a commit. Not here: rules (`onboarding.rs`,
//! `binding/state.rs`).

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, sleep_until},
};

use super::{
    identities::{Identities, auth_user},
    inventory::{
        self, Owner, Verdict as Row,
        draft::{Draft, Standing},
        sheet::Sheet,
        swap::{self, Swapped},
    },
    onboarding::{Action, CallKind, Config, Core, Error, Now, Order, Output, Registration, Reload, ReloadMethods, Sighting},
    profiles::{Profile, Profiles},
    rollout,
};
use crate::{
    binding::{Attempts, Outcome, Verdict, Who},
    model::{BindingRecord, CallId, DeviceRecord, Events, Extension, Generation, LineNumber, MacAddr, Recorded, Timestamp, User},
    sip::Credentials,
    store::{self, Store},
};

/// Facts and requests that wait.
const QUEUE: usize = 16 * 1024;
/// Between two looks at what was told.
const GATHER: Duration = Duration::from_millis(10);
/// Orders that wait for the SIP engine.
const OUTPUTS: usize = 1024;
/// Orders that wait for a place among those.
const MOST_WAITING: usize = 16 * 1024;
/// Facts taken at once.
const BATCH: usize = 512;
/// Device records in one commit.
const RECORDS: usize = 1024;
/// How long a sighting may be in memory only.
const WRITE_BEHIND: Duration = Duration::from_millis(200);

/// Handle of the running service.
#[derive(Clone)]
pub struct Onboarding {
    queue: mpsc::Sender<Message>,
    store: Arc<dyn Store>,
    identities: Identities,
    profiles: Profiles,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
    extension_digits: usize,
}

enum Message {
    Seen { sighting: Sighting, announced: bool },
    CallBegan(MacAddr, CallId, CallKind),
    CallEnded(MacAddr, CallId),
    Leg(MacAddr, (CallId, u32), bool),
    FileFetched(MacAddr, Generation, bool),
    Refused(MacAddr, SocketAddr),
    Standings(Vec<MacAddr>, oneshot::Sender<Vec<(MacAddr, rollout::Standing)>>),
    Registered(Registration),
    Unregistered(MacAddr, LineNumber, Generation),
    ReloadAnswered(MacAddr, Generation, u16),
    ReloadAsked(MacAddr, Reply<()>),
    Bind { mac: MacAddr, line: LineNumber, user: User, by: String, reply: Reply<BindingRecord> },
    Unbind { mac: MacAddr, line: LineNumber, reason: String, reply: Reply<BindingRecord> },
    Claim(User, Reply<Extension>),
    Admit(Who, oneshot::Sender<Verdict>),
    Settle(Who, Outcome),
    Pardon(Who),
    Enter { sheet: Box<Sheet>, owners: Vec<Owner>, dry_run: bool, reply: Reply<(Vec<inventory::Outcome>, bool)> },
    Swap { old: MacAddr, new: MacAddr, has_settings: bool, dry_run: bool, reply: Reply<Swapped> },
    Devices(oneshot::Sender<Vec<DeviceRecord>>),
    Profile(MacAddr, oneshot::Sender<Option<Profile>>),
    Device(MacAddr, oneshot::Sender<Option<DeviceRecord>>),
    Stop(oneshot::Sender<()>),
}

impl Message {
    /// Somebody waits for the answer.
    fn is_asked(&self) -> bool {
        use Message::*;
        match self {
            Seen { .. } | CallBegan(..) | CallEnded(..) | Leg(..) | FileFetched(..) | Registered(..) | Unregistered(..) => false,
            Refused(..) | ReloadAnswered(..) | Settle(..) | Pardon(..) => false,
            ReloadAsked(..) | Bind { .. } | Unbind { .. } | Enter { .. } | Swap { .. } | Claim(..) | Admit(..) => true,
            Devices(..) | Device(..) | Profile(..) | Standings(..) | Stop(..) => true,
        }
    }
}

type Reply<T> = oneshot::Sender<Result<T, Error>>;

impl Onboarding {
    /// Reads the store, puts everybody's identity in force, begins again what a stop cut short. The SIP engine takes
    /// its orders from the receiver.
    pub async fn start(
        store: Arc<dyn Store>,
        identities: Identities,
        events: Events,
        config: Config,
        methods: ReloadMethods,
    ) -> store::Result<(Self, mpsc::Receiver<Output>)> {
        let (devices, bindings, contacts) = (store.devices().await?, store.bindings().await?, store.contacts().await?);
        let attempts = store.attempts().await?.map(|text| Attempts::from_json(&text)).unwrap_or_default();
        let first = config.extensions.0.as_str();
        let extension_digits = if first.starts_with('0') { first.len() } else { 0 };
        let mut core = Core::new(config, methods);
        core.restore(now(), devices, bindings, contacts);
        identities.load(core.devices());
        identities.located(core.devices().map(|(record, _)| record));
        let profiles = Profiles::default();
        core.devices().for_each(|(record, bindings)| profiles.put(record, bindings));
        let (queue, inbox) = mpsc::channel(QUEUE);
        let (outputs, engine) = mpsc::channel(OUTPUTS);
        let service = Service {
            store: store.clone(),
            identities: identities.clone(),
            profiles: profiles.clone(),
            events,
            core,
            attempts,
            attempts_changed: false,
            outputs,
            waiting: VecDeque::new(),
        };
        let task = tokio::spawn(service.run(inbox));
        Ok((Self { queue, store, identities, profiles, task: Arc::new(Mutex::new(Some(task))), extension_digits }, engine))
    }

    /// Who every phone is in SIP.
    pub fn identities(&self) -> &Identities {
        &self.identities
    }

    /// A device showed itself, by DHCP, a file or SIP.
    pub fn seen(&self, sighting: Sighting) {
        // Phones show themselves again: in a crowd the other facts go first.
        if self.queue.capacity() > self.queue.max_capacity() / 4 {
            let (mac, announced) = (sighting.mac, self.profiles.announce(&sighting));
            if !self.tell(Message::Seen { sighting, announced }) && announced {
                self.profiles.heard(mac);
            }
        } else {
            metrics::counter!("plugtone_onboarding_dropped_total", "what" => "sighting").increment(1);
        }
    }

    /// What has happened to the device lately, oldest first; nothing while the store does not answer.
    pub async fn timeline(&self, mac: MacAddr, limit: usize) -> Vec<Recorded> {
        self.store.timeline(mac, limit).await.unwrap_or_default()
    }

    /// A call of the device began. Until [`Self::call_ended`] it is not told to reload.
    pub fn call_began(&self, mac: MacAddr, call: CallId, kind: CallKind) {
        self.tell(Message::CallBegan(mac, call, kind));
    }

    /// The call is over, however it ended. A reload that waited for it follows.
    pub fn call_ended(&self, mac: MacAddr, call: CallId) {
        self.tell(Message::CallEnded(mac, call));
    }

    /// The device has every byte of its own file, rendered with [`Identities::generation`] as it was then.
    /// `first`: by templates that go to some phones first.
    pub fn file_fetched(&self, mac: MacAddr, generation: Generation, first: bool) {
        self.tell(Message::FileFetched(mac, generation, first));
    }

    /// A leg of a call begins (`up`) or ends at the device, whoever called.
    pub fn leg(&self, mac: MacAddr, call: CallId, leg: u32, up: bool) {
        self.tell(Message::Leg(mac, (call, leg), up));
    }

    /// A log-in of the device was refused for its password.
    pub fn refused(&self, mac: MacAddr, source: SocketAddr) {
        self.tell(Message::Refused(mac, source));
    }

    /// How these devices stand; those that nobody knows are left out.
    pub async fn standings(&self, macs: Vec<MacAddr>) -> Result<Vec<(MacAddr, rollout::Standing)>, Error> {
        self.ask(|reply| Message::Standings(macs, reply)).await
    }

    /// A REGISTER was accepted, also a refreshing one.
    pub fn registered(&self, registration: Registration) {
        self.identities.registered(registration.mac, registration.generation);
        self.tell(Message::Registered(registration));
    }

    /// A registration made with `generation` ended, and the line has no other.
    pub fn unregistered(&self, mac: MacAddr, line: LineNumber, generation: Generation) {
        self.tell(Message::Unregistered(mac, line, generation));
    }

    /// What the phone said to [`Output::Reload`]; 408 when it said nothing.
    pub fn reload_answered(&self, mac: MacAddr, generation: Generation, status: u16) {
        self.tell(Message::ReloadAnswered(mac, generation, status));
    }

    /// Tells the phone to reload as soon as it is in no call.
    pub async fn reload_when_idle(&self, mac: MacAddr) -> Result<(), Error> {
        self.ask(|reply| Message::ReloadAsked(mac, reply)).await?
    }

    /// Gives the line to the user, with the user's extension or a free one. Durable, and in force, on return.
    ///
    /// # Errors
    /// [`store::Error::ExtensionTaken`], [`store::Error::NoExtensionFree`] and what else the store says; nothing changed.
    pub async fn bind(&self, mac: MacAddr, line: LineNumber, user: User, by: &str) -> Result<BindingRecord, Error> {
        let by = by.to_owned();
        self.ask(|reply| Message::Bind { mac, line, user, by, reply }).await?
    }

    /// The extension that the user has, or would be given: read out before a line is bound, and theirs from then on.
    ///
    /// # Errors
    /// [`store::Error::NoExtensionFree`] and what else the store says.
    pub async fn extension_of(&self, user: User) -> Result<Extension, Error> {
        self.ask(|reply| Message::Claim(user, reply)).await?
    }

    /// Takes the line from its owner, durably; gives the binding that ended.
    pub async fn unbind(&self, mac: MacAddr, line: LineNumber, reason: &str) -> Result<BindingRecord, Error> {
        let reason = reason.to_owned();
        self.ask(|reply| Message::Unbind { mac, line, reason, reply }).await?
    }

    /// Does what the rows of a table say, or with `dry_run` only says what that would be. `false`: nothing was done.
    pub(super) async fn enter(&self, sheet: Sheet, owners: Vec<Owner>, dry_run: bool) -> Result<(Vec<inventory::Outcome>, bool), Error> {
        let sheet = Box::new(sheet);
        self.ask(|reply| Message::Enter { sheet, owners, dry_run, reply }).await?
    }

    pub(super) async fn put_in_place(&self, old: MacAddr, new: MacAddr, has_settings: bool, dry_run: bool) -> Result<Swapped, Error> {
        self.ask(|reply| Message::Swap { old, new, has_settings, dry_run, reply }).await?
    }

    /// How many digits extensions have, where they begin with a zero; 0 where they do not.
    pub(super) fn extension_digits(&self) -> usize {
        self.extension_digits
    }

    /// Whose every line is.
    pub async fn bindings(&self) -> Result<Vec<BindingRecord>, Error> {
        Ok(self.store.bindings().await?)
    }

    /// May somebody try to log in now? After [`Verdict::Go`] ask the directory and call [`Self::settle`] with the same.
    pub async fn admit(&self, who: &Who) -> Result<Verdict, Error> {
        let who = who.clone();
        self.ask(|reply| Message::Admit(who, reply)).await
    }

    /// How an admitted attempt ended.
    pub fn settle(&self, who: &Who, outcome: Outcome) {
        self.tell(Message::Settle(who.clone(), outcome));
    }

    /// Whom an attempt is counted for. The login is blinded here, since it may be anything that somebody keyed.
    pub fn who(&self, device: Option<MacAddr>, login: Option<&str>, source: Option<IpAddr>) -> Who {
        Who { device, user: login.map(|login| self.identities.key().blind(login)), source }
    }

    /// Ends the lock-outs of a phone, user or source.
    pub fn pardon(&self, who: &Who) {
        self.tell(Message::Pardon(who.clone()));
    }

    /// Every device as it is now; the store's copy may be a moment behind.
    pub async fn devices(&self) -> Result<Vec<DeviceRecord>, Error> {
        self.ask(Message::Devices).await
    }

    pub async fn device(&self, mac: MacAddr) -> Result<Option<DeviceRecord>, Error> {
        self.ask(|reply| Message::Device(mac, reply)).await
    }

    /// What its files are made of, besides its identities, with all that was told before.
    pub async fn profile(&self, mac: MacAddr) -> Arc<Profile> {
        match self.profiles.of(mac) {
            Some(profile) => profile,
            // Facts that were told before are taken when this is.
            None => self.ask(|reply| Message::Profile(mac, reply)).await.ok().flatten().map(Arc::new).unwrap_or_default(),
        }
    }

    /// `false`: it was stopped, or has ended by a fault.
    pub fn is_running(&self) -> bool {
        self.task.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|task| !task.is_finished())
    }

    /// Does what was asked until now, stores everything and stops.
    pub async fn stop(&self) {
        let _ = self.ask(Message::Stop).await;
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }

    /// `false`: it is lost.
    fn tell(&self, message: Message) -> bool {
        let told = self.queue.try_send(message).is_ok();
        if !told {
            // Nothing hangs on one fact: holds have an end, phones register and fetch again.
            metrics::counter!("plugtone_onboarding_dropped_total", "what" => "fact").increment(1);
        }
        told
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(message(reply)).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)
    }
}

/// Whoever asked may have gone; the deed stands.
fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    let _ = reply.send(value);
}

fn now() -> Now {
    Now { instant: Instant::now(), wall: Timestamp::of(SystemTime::now()) }
}

struct Service {
    store: Arc<dyn Store>,
    identities: Identities,
    profiles: Profiles,
    events: Events,
    core: Core,
    attempts: Attempts,
    attempts_changed: bool,
    outputs: mpsc::Sender<Output>,
    /// Orders that the engine has no room for yet, in their order.
    waiting: VecDeque<Output>,
}

impl Service {
    async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        let outputs = self.outputs.clone();
        let mut messages = Vec::with_capacity(BATCH);
        let mut flush = interval(WRITE_BEHIND);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.drain();
            let wake = self.core.poll_timeout().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                biased;
                permit = outputs.reserve(), if !self.waiting.is_empty() => match (permit, self.waiting.pop_front()) {
                    (Ok(permit), Some(output)) => permit.send(output),
                    // The engine has gone: phones find their file by polling.
                    _ => self.waiting.clear(),
                },
                _ = flush.tick() => self.flush().await,
                () = sleep_until(wake.into()) => self.core.handle_timeout(now()),
                got = inbox.recv_many(&mut messages, BATCH) => {
                    let mut stop = None;
                    let patient = !messages.iter().any(Message::is_asked) && inbox.len() < QUEUE / 4;
                    for message in messages.drain(..) {
                        stop = stop.or(self.handle(message).await);
                    }
                    if got == 0 || stop.is_some() {
                        self.drain();
                        self.flush().await;
                        stop.into_iter().for_each(|reply| answer(reply, ()));
                        return;
                    }
                    // Each registration and each call brings some of these: they share a wake-up, and the first has not waited.
                    if patient {
                        sleep(GATHER).await;
                    }
                }
            }
        }
    }

    /// Gives back who waits for the end, when asked to stop.
    async fn handle(&mut self, message: Message) -> Option<oneshot::Sender<()>> {
        let now = now();
        match message {
            Message::Seen { sighting, announced } => {
                let (mac, placed) = (sighting.mac, sighting.location.is_some() || sighting.port.is_some());
                self.core.handle_sighting(now, sighting);
                if announced {
                    self.profile(mac);
                    self.profiles.heard(mac);
                }
                if placed {
                    // A call for help may be next.
                    self.identities.located(self.core.device(mac).into_iter());
                }
            }
            Message::CallBegan(mac, call, kind) => self.core.handle_call_began(now, mac, call, kind),
            Message::CallEnded(mac, call) => self.core.handle_call_ended(now, mac, call),
            Message::Leg(mac, leg, up) => self.core.handle_leg(now, mac, leg, up),
            Message::FileFetched(mac, generation, first) => self.core.handle_file_fetched(now, mac, generation, first),
            Message::Refused(mac, source) => self.core.handle_refused(now, mac, source),
            Message::Standings(macs, reply) => answer(reply, self.core.standings(&macs)),
            Message::Registered(registration) => self.core.handle_registered(now, registration),
            Message::Unregistered(mac, line, generation) => self.core.handle_unregistered(now, mac, line, generation),
            Message::ReloadAnswered(mac, generation, status) => self.core.handle_reload_answered(now, mac, generation, status),
            Message::ReloadAsked(mac, reply) => answer(reply, self.core.handle_reload_asked(now, mac)),
            Message::Bind { mac, line, user, by, reply } => {
                let result = self.bind(mac, line, user, &by).await;
                answer(reply, result);
            }
            Message::Unbind { mac, line, reason, reply } => {
                let result = self.unbind(mac, line, &reason).await;
                answer(reply, result);
            }
            Message::Claim(user, reply) => {
                let range = self.core.config().extensions.clone();
                let extension = self.store.claim_extension(&user.id, user.extension, range).await;
                answer(reply, extension.map_err(Error::from));
            }
            Message::Admit(who, reply) => {
                let verdict = self.attempts.admit(now.wall, &who, &self.core.config().limits);
                self.attempts_changed = true;
                answer(reply, verdict);
            }
            Message::Settle(who, outcome) => {
                let lockouts = self.attempts.settle(now.wall, &who, outcome, &self.core.config().limits);
                self.attempts_changed = true;
                lockouts.into_iter().for_each(|event| self.events.tell(event));
            }
            Message::Pardon(who) => {
                self.attempts.pardon(&who);
                self.attempts_changed = true;
            }
            Message::Devices(reply) => answer(reply, self.core.devices().map(|(record, _)| record.clone()).collect()),
            Message::Device(mac, reply) => answer(reply, self.core.device(mac).cloned()),
            Message::Profile(mac, reply) => {
                let profile = self.core.standing(mac).map(|(record, bindings)| Profile::new(record, bindings));
                answer(reply, profile);
            }
            Message::Enter { sheet, owners, dry_run, reply } => {
                let result = self.enter(&sheet, &owners, dry_run).await;
                answer(reply, result);
            }
            Message::Swap { old, new, has_settings, dry_run, reply } => {
                let result = self.swap(old, new, has_settings, dry_run).await;
                answer(reply, result);
            }
            Message::Stop(reply) => return Some(reply),
        }
        None
    }

    async fn bind(&mut self, mac: MacAddr, line: LineNumber, user: User, by: &str) -> Result<BindingRecord, Error> {
        let (range, most) = (self.core.config().extensions.clone(), self.core.config().devices_per_extension);
        let extension = self.store.claim_extension(&user.id, user.extension.clone(), range).await?;
        let plan = self.core.plan_bind(now(), mac, line, &user, extension)?;
        let binding = plan.binding.clone();
        let mut touched: Vec<MacAddr> = plan.instead.iter().map(|(record, _)| record.mac).collect();
        touched.push(mac);
        let instead = plan.instead.iter().map(|(record, old)| (record.clone(), old.line)).collect();
        self.store.bind(plan.device.clone(), plan.binding.clone(), instead, most).await?;
        tracing::info!(%mac, line, extension = %binding.extension, generation = binding.generation, by, "a line has a new owner");
        self.core.handle_bound(now(), plan);
        self.enforce(&touched);
        Ok(binding)
    }

    async fn unbind(&mut self, mac: MacAddr, line: LineNumber, reason: &str) -> Result<BindingRecord, Error> {
        let plan = self.core.plan_unbind(mac, line)?;
        let binding = plan.binding.clone();
        self.store.unbind(plan.device.clone(), line).await?;
        self.core.handle_unbound(now(), plan, reason);
        self.enforce(&[mac]);
        Ok(binding)
    }

    async fn enter(&mut self, sheet: &Sheet, owners: &[Owner], dry_run: bool) -> Result<(Vec<inventory::Outcome>, bool), Error> {
        let extensions = self.store.extensions().await?;
        let mut draft = Draft::new(&self.core, now().wall, extensions);
        let rows = inventory::enter(&mut draft, sheet, owners);
        if dry_run || rows.iter().any(|row| row.verdict == Row::Refused) {
            return Ok((rows, false));
        }
        let all = draft.finish();
        self.rearrange(all).await?;
        Ok((rows, true))
    }

    async fn swap(&mut self, old: MacAddr, new: MacAddr, has_settings: bool, dry_run: bool) -> Result<Swapped, Error> {
        let extensions = self.store.extensions().await?;
        let mut draft = Draft::new(&self.core, now().wall, extensions);
        let swapped = swap::swap(&mut draft, old, new, has_settings)?;
        if dry_run {
            return Ok(swapped);
        }
        let all = draft.finish();
        self.rearrange(all).await?;
        tracing::info!(%old, %new, lines = swapped.lines.len(), "a phone is in the place of another");
        Ok(Swapped { applied: true, ..swapped })
    }

    /// On disk in one step, then in force.
    async fn rearrange(&mut self, all: Vec<Standing>) -> Result<(), Error> {
        let most = self.core.config().devices_per_extension;
        let bindings = |standing: &Standing| standing.bindings.values().map(|binding| BindingRecord::clone(binding)).collect();
        self.store.rearrange(all.iter().map(|standing| (standing.device.clone(), bindings(standing))).collect(), most).await?;
        let macs: Vec<MacAddr> = all.iter().map(|standing| standing.device.mac).collect();
        self.core.handle_rearranged(now(), all);
        self.identities.located(macs.iter().filter_map(|mac| self.core.device(*mac)));
        self.enforce(&macs);
        Ok(())
    }

    /// Puts the identities of changed devices in force, all in one step, then says so.
    fn enforce(&mut self, macs: &[MacAddr]) {
        let core = &self.core;
        // Whoever finds the new identity finds what belongs to it.
        macs.iter().for_each(|mac| self.profile(*mac));
        let standing = macs.iter().filter_map(|mac| core.standing(*mac));
        self.identities.update(standing.map(|(record, bindings)| (record.mac, record.generation, bindings)));
        self.drain();
    }

    /// Puts what the files of a device are made of in force.
    fn profile(&self, mac: MacAddr) {
        if let Some((record, bindings)) = self.core.standing(mac) {
            self.profiles.put(record, bindings);
        }
    }

    fn drain(&mut self) {
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::Tell(event) => self.events.tell(event),
                // An engine that stands still misses these; the reload's own timers bring them again.
                Action::Reload(_) if self.waiting.len() > MOST_WAITING => {
                    metrics::counter!("plugtone_onboarding_dropped_total", "what" => "reload").increment(1);
                }
                Action::Reload(order) => self.waiting.push_back(Output::Reload(self.with_credentials(order))),
                Action::DropContacts { mac, keep_generation, keep_lines } => {
                    self.waiting.push_back(Output::DropContacts { mac, keep_generation, keep_lines });
                }
            }
        }
    }

    fn with_credentials(&self, order: Order) -> Reload {
        let credentials = Credentials {
            username: auth_user(order.mac, order.line),
            secret: self.identities.secret_of(order.mac, order.line, order.holds),
        };
        Reload {
            mac: order.mac,
            generation: order.generation,
            attempt: order.attempt,
            notify_event: order.notify_event,
            contact: order.contact,
            address: order.address,
            credentials,
        }
    }

    async fn flush(&mut self) {
        while self.core.is_dirty() {
            let records = self.core.take_dirty(RECORDS);
            self.identities.located(records.iter());
            let macs: Vec<MacAddr> = records.iter().map(|record| record.mac).collect();
            if let Err(error) = self.store.save_devices(records).await {
                tracing::warn!(%error, devices = macs.len(), "what was seen of devices is not on disk yet; it is tried again");
                self.core.put_back(macs.into_iter());
                break;
            }
        }
        if self.attempts_changed {
            match self.store.save_attempts(&self.attempts.to_json()).await {
                Ok(()) => self.attempts_changed = false,
                Err(error) => tracing::warn!(%error, "the counts of failed log-ins are not on disk yet; they are tried again"),
            }
        }
    }
}
