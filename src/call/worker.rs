//! The engine: one task, on a thread of its own, that owns the SIP endpoint, the registrar, the digest and all calls, and does what they answer.
//!
//! It waits for messages, commands, media events and time, whichever comes first; between two waits nothing is awaited and
//! nothing is locked. Everybody else talks to it through [`Handle`]. What must reach the disk goes to a writer of its own
//! (contacts are written behind). Here is the loop; beside it: what comes in by SIP (`requests.rs`), what the switch wants done
//! (`apply.rs`), the trunks, the disk (`contacts.rs`, `records.rs`). Not here: decisions about calls (`switch`), about messages (`sip`).

mod apply;
mod contacts;
mod ground;
mod handle;
mod load;
mod names;
mod records;
mod requests;
mod translate;
mod trunks;

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::sleep_until,
};

use self::{
    contacts::{Contacts, Kept as Keep, Write, restore, write, write_contacts},
    ground::Ground,
    handle::{Command, Of},
    load::Gauges,
    names::Names,
    records::Records,
};
pub use self::{
    handle::{Handle, NotKept, ServiceCall, ServiceControl},
    load::Load,
    records::forget as forget_records,
};
use super::{
    Config,
    config::HoldMusic,
    switch::Switch,
    trunk::Trunks,
    watching::{self, Around, Watching},
};
use crate::{
    media::{self, Clip, Country, Media, MediaEvent, SessionId},
    model::{CallId, Events, LineNumber, MacAddr, Timestamp},
    sip::{
        self, Accounts, Endpoint, Ids,
        capture::{Capture, Captured, Kept, Way},
        digest::Verifier,
        guard::Guard,
        notify::{self, Notifier},
        registrar::{self, Registrar},
        transport::{Beside, Inbound, Transport, Transports, socket::BindError},
        ua::{self, UserAgent},
    },
    store::{CallLegQuery, ContactKey, Store},
    thread::Thread,
};

/// What the engine asks and tells `provisioning`. Answer from memory; never wait.
pub trait Office: Send + Sync + 'static {
    /// Has somebody this number, registered or not?
    fn is_extension(&self, number: &str) -> bool;
    /// The name of whom the number belongs to; empty if nobody.
    fn display_name(&self, number: &str) -> String;
    /// Groups of the directory that its user is in.
    fn groups(&self, _number: &str) -> Vec<String> {
        Vec::new()
    }
    /// Where a device is, if that is known.
    fn location(&self, _mac: MacAddr) -> Option<String> {
        None
    }
    /// May messages be left for this number?
    fn has_mailbox(&self, _number: &str) -> bool {
        false
    }
    /// A phone has registered, or has refreshed its registration.
    fn registered(&self, contact: &registrar::Contact, refreshed: bool);
    /// A leg of a call begins (`up`) or ends at a phone, whoever called. `leg`: its number in its call.
    fn leg(&self, _mac: MacAddr, _call: CallId, _leg: u32, _up: bool) {}
    /// A contact is gone: taken back, expired, or of a binding that has ended.
    fn unregistered(&self, contact: &registrar::Contact);
}

/// Everybody that the engine works with.
pub struct Neighbours {
    pub media: Media,
    pub accounts: Arc<dyn Accounts>,
    pub office: Arc<dyn Office>,
    pub store: Arc<dyn Store>,
    pub events: Events,
    /// Whose ring-back tone a caller hears that is connected to us while somebody rings.
    pub tones: Country,
    /// The voice menu's inbox. Its capacity bounds how many callers wait to be greeted.
    pub service: mpsc::Sender<ServiceCall>,
    /// The inbox of voicemail.
    pub voicemail: mpsc::Sender<ServiceCall>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("the system gives no random numbers: {0}")]
    Random(String),
    #[error("cannot start the thread that speaks SIP")]
    Thread(#[source] std::io::Error),
    #[error("cannot read the registered phones from the store")]
    Store(#[from] crate::store::Error),
}
/// Commands that may wait for the engine; beyond it callers wait.
const COMMANDS: usize = 1024;
/// Calls that are listed with their messages at once.
const MOST_LISTED: usize = 200;
/// Media events of bridged calls that may wait.
const MEDIA_EVENTS: usize = 1024;
/// Batches of contacts that may wait for the disk; while it takes no more, the registrar keeps what is due.
const CONTACT_BATCHES: usize = 4;
/// Legs of the account, the newest, from which the last numbers of each extension are taken at the start.
const REMEMBERED: usize = 20_000;
/// Subscriptions that may wait for the disk. Beyond it one is lost, which costs a phone's lamps after a restart.
const WRITES: usize = 4096;
/// Messages taken at once before answers go out.
const BATCH: usize = 64;
/// Messages waiting beyond which new calls are told to come later: what is up goes first.
const CROWDED: usize = 2048;
/// What those are told.
const CROWDED_RETRY_AFTER_SECS: u32 = 5;
/// Timers are looked at no more often: those of hundreds of calls come due each in a moment of its own, and none of them is hurt by
/// so little. SIP counts in halves of a second.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long calls get to end when the engine is stopped.
const FAREWELL: Duration = Duration::from_secs(2);

/// A running engine.
pub struct Running {
    pub handle: Handle,
    /// Ends when the engine does. The runtime that it is on keeps the engine alive: with it the engine ends at once.
    pub task: JoinHandle<()>,
    /// Where it listens, with the ports that the system chose.
    pub udp: Vec<SocketAddr>,
    pub tcp: Vec<SocketAddr>,
    pub tls: Vec<SocketAddr>,
    pub ws: Vec<SocketAddr>,
    pub wss: Vec<SocketAddr>,
    /// For the multicast group of the configuration.
    pub beside: Vec<Beside>,
}

/// Opens the sockets, puts the stored contacts back and starts the engine.
pub async fn start(sip: sip::settings::Config, calls: Config, neighbours: Neighbours) -> Result<Running, Error> {
    let thread = Thread::new("sip").map_err(Error::Thread)?;
    let (transports, inbox) = Transports::bind(sip.transports, thread.handle())?;
    let beside = transports.beside();
    let [udp, tcp, tls, ws, wss] = Transport::ALL.map(|transport| transports.addresses(transport));
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|fault| Error::Random(fault.to_string()))?;
    let now = Instant::now();
    let mut endpoint_config = sip.endpoint;
    endpoint_config.ports = transports.ports();
    endpoint_config.abilities.extensions.extend([registrar::OUTBOUND, registrar::GRUU]);
    Watching::announce(&mut endpoint_config);
    let mut endpoint = Endpoint::new(endpoint_config, seed);
    let guard = Guard::new(sip.guard, now);
    let verifier = Verifier::new(sip.verifier, endpoint.ids().seed(), now);
    let ids = Ids::new(endpoint.ids().seed());
    let mut registrar = Registrar::new(sip.registrar);
    let expired = restore(now, &mut registrar, neighbours.store.contacts().await?, neighbours.accounts.as_ref());
    let expired = expired.into_iter().map(|one| ContactKey { user: one.user, uri: one.uri, reg_id: one.reg_id }).collect();
    neighbours.store.write_contacts(expired, Vec::new()).await?;
    let mut watching = Watching::new(sip.subscriptions);
    let wall = Timestamp::of(SystemTime::now());
    watching.restore(now, wall, neighbours.store.subscriptions().await?, neighbours.accounts.as_ref());
    let (writes, write_inbox) = mpsc::channel(WRITES);
    let (contact_writes, contact_inbox) = mpsc::channel(CONTACT_BATCHES);
    let contact_writer = tokio::spawn(write_contacts(neighbours.store.clone(), contact_inbox));
    let cut_off = neighbours.store.close_call_legs().await?;
    if cut_off > 0 {
        tracing::warn!(legs = cut_off, "calls were up when the server was killed");
    }
    let (records, record_writer) = Records::start(neighbours.store.clone());
    let (commands, command_inbox) = mpsc::channel(COMMANDS);
    let writer = tokio::spawn(write(neighbours.store.clone(), write_inbox, commands.downgrade()));
    let (media_events, media_inbox) = mpsc::channel(MEDIA_EVENTS);
    let handle = Handle { commands: commands.clone(), retry_after_secs: calls.retry_after_secs };
    let hold_music = hold_music(&calls.hold_music);
    let names = Names::new(&calls.name_servers);
    let (max_legs, session) = (calls.max_calls * 4 + 64, calls.session);
    let agent = UserAgent::new(ua::Config { max_legs, retry_after_secs: calls.retry_after_secs, session });
    let capture = Capture::new(calls.capture);
    let mut switch = Switch::new(Arc::new(calls));
    switch.restore(neighbours.store.wishes().await?);
    let legs = neighbours.store.call_legs(CallLegQuery { limit: REMEMBERED, ..CallLegQuery::default() }).await?;
    switch.remember(legs, |number| neighbours.office.is_extension(number));
    let ground = Ground {
        agent,
        endpoint,
        registrar,
        transports,
        ids,
        media: neighbours.media,
        office: neighbours.office,
        service: neighbours.service,
        voicemail: neighbours.voicemail,
        media_events,
        commands,
        taps: HashMap::default(),
        trunks: Trunks::default(),
        on_trunk: HashMap::default(),
        asked: HashMap::default(),
    };
    let mut engine = Engine {
        ground,
        capture,
        switch,
        verifier,
        guard,
        gone: VecDeque::new(),
        notifier: Notifier::new(),
        names,
        watching,
        accounts: neighbours.accounts,
        events: neighbours.events,
        writes,
        contact_writes,
        records,
        notified: HashMap::new(),
        ring_back: Arc::new(media::tone::clip(neighbours.tones, media::tone::Signal::RingBack)),
        beep: Arc::new(media::tone::clip(neighbours.tones, media::tone::Signal::Beep)),
        hold_music,
        save_again: None,
        save_from: now,
        refusals: (now, 0),
        gauges: Gauges::new(),
    };
    engine.configure_trunks(now);
    let run = thread.run(engine.run(inbox, command_inbox, media_inbox)).map_err(Error::Thread)?;
    let task = tokio::spawn(async move {
        run.await;
        // The engine's end of the channel is gone: the writer empties it and ends.
        let _ = writer.await;
        let _ = contact_writer.await;
        let _ = record_writer.await;
    });
    Ok(Running { handle, task, udp, tcp, tls, ws, wss, beside })
}

struct Engine {
    ground: Ground,
    switch: Switch,
    verifier: Verifier,
    guard: Guard,
    /// Contacts that the disk shall forget.
    gone: VecDeque<ContactKey>,
    notifier: Notifier,
    watching: Watching,
    /// Who is asked for addresses.
    names: Names,
    /// What was said in each call.
    capture: Capture,
    accounts: Arc<dyn Accounts>,
    events: Events,
    writes: mpsc::Sender<Write>,
    contact_writes: mpsc::Sender<Contacts>,
    /// Who called whom.
    records: Records,
    /// Who waits for the answer to a NOTIFY, by phone and event.
    notified: HashMap<(MacAddr, String), VecDeque<oneshot::Sender<notify::Outcome>>>,
    ring_back: Arc<Clip>,
    beep: Arc<Clip>,
    hold_music: Option<Arc<Clip>>,
    /// When to offer the disk again what it did not take.
    save_again: Option<Instant>,
    /// Not before this.
    save_from: Instant,
    /// Failed log-ins told in the second that began then.
    refusals: (Instant, u32),
    gauges: Gauges,
}

impl Engine {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Inbound>,
        mut commands: mpsc::Receiver<Command>,
        mut media: mpsc::Receiver<(SessionId, MediaEvent)>,
    ) {
        let mut stopping: Option<(Instant, oneshot::Sender<()>)> = None;
        let mut busy = false;
        let mut looked = Instant::now();
        let mut alarm = pin!(sleep_until(looked.into()));
        loop {
            let now = Instant::now();
            self.settle(now);
            // Who reads the sockets is on the same thread: it must see what comes meanwhile, so that too much of it is noticed.
            if std::mem::take(&mut busy) {
                tokio::task::yield_now().await;
            }
            self.gauges.show(self.load());
            if stopping.as_ref().is_some_and(|(until, _)| *until <= now || self.ground.agent.is_empty()) {
                break;
            }
            let wake = self.poll_timeout().into_iter().chain(stopping.as_ref().map(|(until, _)| *until)).min();
            let wake = wake.unwrap_or(now + Duration::from_secs(60)).max(looked + LOOK_EVERY).into();
            // An alarm that is due earlier is looked at when it rings: setting it anew with each message costs more.
            if alarm.deadline() > wake || alarm.is_elapsed() {
                alarm.as_mut().reset(wake);
            }
            tokio::select! {
                Some(inbound) = inbox.recv() => {
                    let now = Instant::now();
                    self.ground.endpoint.set_crowded((inbox.len() > CROWDED).then_some(CROWDED_RETRY_AFTER_SECS));
                    self.handle_inbound(now, inbound);
                    for _ in 1..BATCH {
                        let Ok(inbound) = inbox.try_recv() else { break };
                        self.handle_inbound(now, inbound);
                    }
                    busy = !inbox.is_empty();
                }
                Some(command) = commands.recv() => match command {
                    Command::Stop { answer } => {
                        let now = Instant::now();
                        self.switch.end_all(now);
                        self.ground.trunks.end_all(now, &mut self.ground.endpoint);
                        stopping.get_or_insert((now + FAREWELL, answer));
                    }
                    command => self.handle_command(Instant::now(), command),
                },
                Some((session, event)) = media.recv() => {
                    if let MediaEvent::Silent { .. } = event {
                        self.switch.handle_silence(Instant::now(), session);
                    }
                }
                () = &mut alarm => {
                    looked = Instant::now();
                    self.handle_timeout(looked);
                }
            }
        }
        self.save_all().await;
        self.records.finish().await;
        if let Some((_, answer)) = stopping {
            let _ = answer.send(());
        }
    }

    fn handle_inbound(&mut self, now: Instant, inbound: Inbound) {
        match inbound {
            Inbound::Message { flow, bytes } => {
                self.capture.note(now, Way::In, flow, &bytes);
                self.ground.endpoint.handle_message(now, flow, bytes);
            }
            Inbound::Distrusted { flow, reason } => {
                tracing::warn!(peer = %flow.peer, reason, "no connection by TLS");
                self.ground.trunks.distrusted(flow.peer, &reason);
            }
            Inbound::Closed { flow } => {
                self.ground.registrar.handle_flow_closed(flow.id);
                self.watching.handle_flow_closed(flow);
                self.ground.endpoint.handle_transport_error(now, flow);
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        let ground = &mut self.ground;
        ground.endpoint.handle_timeout(now);
        ground.agent.handle_timeout(now, &mut ground.endpoint);
        ground.registrar.handle_timeout(now);
        self.watching.handle_timeout(now);
        ground.trunks.handle_timeout(now, &mut ground.endpoint);
        self.switch.handle_timeout(now, &mut self.ground);
        if self.save_timeout().is_some_and(|at| at <= now) {
            self.save(now);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let ground = &self.ground;
        let all = [
            ground.endpoint.poll_timeout(),
            ground.agent.poll_timeout(),
            ground.registrar.poll_timeout(),
            self.watching.poll_timeout(),
            ground.trunks.poll_timeout(),
            self.switch.poll_timeout(),
            self.save_timeout(),
            self.records.poll_timeout(),
        ];
        all.into_iter().flatten().min()
    }

    fn handle_command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Originate { wanted, answer } => {
                let _ = answer.send(self.switch.originate(now, &mut self.ground, *wanted));
            }
            Command::Hangup { call, answer } => {
                let _ = answer.send(self.switch.hangup(now, call));
            }
            Command::List { answer } => {
                let _ = answer.send(self.switch.list(now));
            }
            Command::Contacts { answer } => {
                let _ = answer.send(self.ground.registrar.all().cloned().collect());
            }
            Command::Notify { mut order, answer } => {
                order.flow = self.ground.with_local(order.flow);
                self.notified.entry((order.mac, order.event.clone())).or_default().push_back(answer);
                self.notifier.notify(now, &mut self.ground.endpoint, *order);
            }
            Command::Load { answer } => {
                let _ = answer.send(self.load());
            }
            Command::Bans { answer } => {
                let _ = answer.send(self.guard.bans(now).cloned().collect());
            }
            Command::Pardon { source, answer } => {
                let _ = answer.send(self.guard.pardon(source));
            }
            Command::DropContacts { mac, keep_generation, keep_lines } => {
                self.ground.registrar.drop_generation_below(mac, keep_generation, &keep_lines);
                self.watching.drop_generation_below(mac, keep_generation, &keep_lines);
            }
            Command::Messages { of, answer } => {
                let _ = answer.send(match of {
                    Of::Call(call) => self.capture.of_call(now, call),
                    Of::CallId(id) => self.capture.of_call_id(now, &id),
                });
            }
            Command::Captured { answer } => {
                let _ = answer.send(self.captured(now));
            }
            Command::Mailbox { user, mailbox } => {
                if self.watching.set_mailbox(&user, mailbox) {
                    let devices = self.ground.registrar.devices(&user);
                    let contacts: Vec<_> = devices.iter().filter_map(|flows| flows.first().copied().cloned()).collect();
                    contacts.iter().for_each(|contact| self.tell_messages(now, contact));
                }
            }
            Command::Show { resource, lamp } => self.watching.show(&resource, lamp),
            Command::Reload { config } => {
                self.capture.set_limits(config.capture);
                self.hold_music = hold_music(&config.hold_music);
                self.names = Names::new(&config.name_servers);
                self.ground.agent.set_session(config.session);
                self.switch.reload(Arc::new(*config));
                self.configure_trunks(now);
            }
            Command::Trunks { answer } => {
                let _ = answer.send(self.ground.trunks.list(now));
            }
            Command::Resolved { trunk, found } => self.resolved(now, &trunk, found),
            Command::Service { call, command, answer } => {
                if let (Some(tap), Some(answer)) = (self.ground.taps.get_mut(&call), answer) {
                    tap.transfer = Some(answer);
                }
                self.switch.handle_service(now, &mut self.ground, call, command);
            }
            Command::Wishes { extension, answer } => {
                let _ = answer.send(self.switch.wishes(&extension));
            }
            Command::Wish { extension, change, answer } => match self.switch.wish(&extension, *change) {
                Ok(row) => {
                    let (stored, outcome) = oneshot::channel();
                    self.keep(row, Keep::Asker(stored));
                    let _ = answer.send(Ok(outcome));
                }
                Err(fault) => drop(answer.send(Err(fault))),
            },
            Command::Nights { answer } => {
                let _ = answer.send(self.switch.nights());
            }
            Command::TurnNight { hours, to, answer } => {
                let (stored, outcome) = oneshot::channel();
                let known = self.switch.turn_night(&hours, to).map(|row| self.keep(row, Keep::Asker(stored))).map(|()| outcome);
                let _ = answer.send(known);
            }
            Command::Kept { call, stored } => self.switch.kept(now, call, stored),
            Command::Stop { .. } => {}
        }
    }

    /// Does what there is to do until nothing is left.
    fn settle(&mut self, now: Instant) {
        loop {
            let mut quiet = true;
            self.switch.handle_free(now, &mut self.ground);
            while let Some(event) = self.ground.endpoint.poll_event() {
                quiet = false;
                self.handle_endpoint(now, event);
            }
            while let Some(event) = self.ground.agent.poll_event() {
                quiet = false;
                self.handle_agent(now, event);
            }
            while let Some(action) = self.switch.poll_action() {
                quiet = false;
                let ids = &mut self.ground.ids;
                self.records.handle_action(now, &action, |wall| CallId::new(wall, ids.next_u64()));
                self.apply(now, action);
            }
            self.records.settle(now);
            while let Some(line) = self.records.poll_line() {
                self.ground.office.leg(line.mac, line.call, line.leg, line.up);
            }
            while let Some(action) = self.ground.registrar.poll_action() {
                self.apply_registrar(action);
            }
            quiet &= !self.settle_watching(now);
            while let Some(action) = self.ground.trunks.poll_action() {
                quiet = false;
                self.apply_trunk(now, action);
            }
            while let Some(done) = self.notifier.poll_done() {
                self.tell_notified(done);
            }
            while let Some(transmit) = self.ground.endpoint.poll_transmit() {
                quiet = false;
                let flow = transmit.flow;
                self.capture.note(now, Way::Out, flow, &transmit.bytes);
                if !self.ground.transports.send(transmit) {
                    self.ground.endpoint.handle_transport_error(now, flow);
                }
            }
            if quiet {
                return;
            }
        }
    }

    /// Tells watchers what is new. `true`: something was done.
    fn settle_watching(&mut self, now: Instant) -> bool {
        while let Some((call, parties)) = self.switch.poll_parties() {
            for party in &parties {
                if let Some(call_id) = self.ground.agent.call_id_of(party.leg) {
                    self.capture.attach(now, call, call_id);
                }
            }
            if parties.is_empty() {
                self.capture.finish(now, call);
            }
            self.watching.update(call, parties);
        }
        while let Some((resource, lamp)) = self.switch.poll_lamp() {
            self.watching.show(&resource, lamp);
        }
        let Ground { agent, endpoint, registrar, office, .. } = &mut self.ground;
        let around = Around { endpoint, agent, registrar, office: office.as_ref() };
        let mut kept = Vec::new();
        let busy = self.watching.settle(now, around, |one| kept.push(one));
        for one in kept {
            let wall = Timestamp::of(SystemTime::now());
            self.write(match one {
                watching::Kept::Save(stored) => Write::SaveSubscription(Box::new(watching::record(*stored, now, wall))),
                watching::Kept::Remove(local_tag) => Write::RemoveSubscription { local_tag },
            });
        }
        busy
    }

    fn captured(&mut self, now: Instant) -> Vec<(Kept, Vec<Captured>)> {
        let kept: Vec<_> = self.capture.list(now).into_iter().take(MOST_LISTED).collect();
        let mut messages = |one: &Kept| self.capture.of_call_id(now, &one.sip_call_id).unwrap_or_default();
        kept.into_iter().map(|one| (one.clone(), messages(&one))).collect()
    }

    fn tell_notified(&mut self, done: notify::Done) {
        let key = (done.mac, done.event);
        if let Some(waiting) = self.notified.get_mut(&key) {
            if let Some(answer) = waiting.pop_front() {
                let _ = answer.send(done.outcome);
            }
            if waiting.is_empty() {
                self.notified.remove(&key);
            }
        }
    }
}

/// A file that cannot be played is no reason to stand still: its tune is ours then.
fn hold_music(wanted: &HoldMusic) -> Option<Arc<Clip>> {
    let clip = match wanted {
        HoldMusic::Silence => return None,
        HoldMusic::Tune => media::tone::tune(),
        HoldMusic::File(path) => media::files::load(path).unwrap_or_else(|fault| {
            tracing::warn!(%fault, "no music on hold from `calls.hold_music`");
            media::tone::tune()
        }),
    };
    Some(Arc::new(clip))
}
/// The digest user name of a device's line.
pub(super) fn auth_user(mac: MacAddr, line: LineNumber) -> String {
    format!("{}-{line}", mac.bare())
}
