//! The engine: one task that owns the SIP endpoint, the registrar, the digest and all calls, and does what they answer.
//!
//! It waits for messages, commands, media events and time, whichever comes first; between two waits nothing is awaited and
//! nothing is locked. Everybody else talks to it through [`Handle`]. What must reach the disk goes to a writer of its own
//! (contacts are written behind). Not here: decisions about calls (`switch`), about messages (`sip`).

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::sleep_until,
};

use super::{
    Config,
    config::HoldMusic,
    half::{Cause, Contact, LegEnd, LegEvent, MediaPort, Snapshot},
    inbound,
    presence::{Lamp, Mailbox},
    routing::Caller,
    switch::{Action, CallerId, Incoming, Originate, OriginateError, Purpose, Replaced, Seat, ServiceCommand, Switch, World},
    trunk::{self, Standing, Trunks, Unusable},
    watching::{self, Around, Watching},
};
use crate::{
    media::{self, Clip, Country, Media, MediaEvent, PlaybackId, SessionConfig, SessionId},
    model::{CallId, Event, Events, Generation, LineNumber, MacAddr, Timestamp},
    routing::hours::Switch as NightSwitch,
    sdp::{self, MediaParams},
    sip::{
        self, Accounts, Endpoint, Ids, Message, Method, Name, Response,
        capture::{Capture, Captured, Kept, Way},
        dialog::Replaces,
        digest::{Account, Refusal, Verifier},
        endpoint::{self, ServerTx},
        guard::{Ban, Guard, Verdict},
        notify::{self, Notifier},
        registrar::{self, Registrar},
        transport::{Flow, Inbound, Transport, Transports, socket::BindError},
        ua::{self, Ended, Invite, LegId, RequestId, UserAgent},
    },
    store::{ContactRecord, Store, SubscriptionRecord},
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
    /// Where the night switch of these hours stands.
    fn night_switch(&self, _hours: &str) -> NightSwitch {
        NightSwitch::Auto
    }
    /// A phone has registered, or has refreshed its registration.
    fn registered(&self, contact: &registrar::Contact, refreshed: bool);
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
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("the system gives no random numbers: {0}")]
    Random(String),
    #[error("cannot read the registered phones from the store")]
    Store(#[from] crate::store::Error),
}

/// A call that was answered and is the voice menu's now.
pub struct ServiceCall {
    pub call: CallId,
    pub caller: Caller,
    /// Where its signalling comes from.
    pub source: SocketAddr,
    /// Its audio, connected.
    pub session: SessionId,
    /// Keys and ends of prompts. Closes when the call is over.
    pub events: mpsc::Receiver<(SessionId, MediaEvent)>,
    /// Fires when the call is over for the menu, with the reason.
    pub ended: oneshot::Receiver<Cause>,
    /// Dropping it hangs up, unless the call was transferred.
    pub control: ServiceControl,
}

/// What the menu may do with a call that it has.
pub struct ServiceControl {
    call: CallId,
    commands: mpsc::Sender<Command>,
}

impl ServiceControl {
    /// Ends the call.
    pub fn hang_up(&self) {
        self.send(Command::Service { call: self.call, command: ServiceCommand::Hangup, answer: None });
    }

    /// Rings the extension. `true`: somebody took the call, and the menu is done with it. `false`, or nothing: the menu still has it.
    pub fn transfer(&self, to: crate::model::Extension) -> oneshot::Receiver<bool> {
        let (answer, outcome) = oneshot::channel();
        self.send(Command::Service { call: self.call, command: ServiceCommand::Transfer { to }, answer: Some(answer) });
        outcome
    }

    fn send(&self, command: Command) {
        if let Err(mpsc::error::TrySendError::Full(command)) = self.commands.try_send(command) {
            // The engine is busy: wait for it elsewhere, the menu must go on. At most two per call are under way.
            let commands = self.commands.clone();
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { commands.send(command).await.ok() });
            }
        }
    }
}

impl Drop for ServiceControl {
    fn drop(&mut self) {
        self.hang_up();
    }
}

/// The way to the engine. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    retry_after_secs: u32,
}

enum Command {
    Originate { wanted: Box<Originate>, answer: oneshot::Sender<Result<CallId, OriginateError>> },
    Hangup { call: CallId, answer: oneshot::Sender<bool> },
    List { answer: oneshot::Sender<Vec<Snapshot>> },
    Contacts { answer: oneshot::Sender<Vec<registrar::Contact>> },
    Trunks { answer: oneshot::Sender<Vec<Standing>> },
    Resolved { trunk: Arc<str>, addresses: Vec<SocketAddr> },
    Notify { order: Box<notify::Order>, answer: oneshot::Sender<notify::Outcome> },
    Bans { answer: oneshot::Sender<Vec<Ban>> },
    Pardon { source: IpAddr, answer: oneshot::Sender<bool> },
    DropContacts { mac: MacAddr, keep_generation: Generation },
    Reload { config: Box<Config> },
    Mailbox { user: String, mailbox: Mailbox },
    Show { resource: String, lamp: Option<Lamp> },
    Messages { of: Of, answer: oneshot::Sender<Option<Vec<Captured>>> },
    Captured { answer: oneshot::Sender<Vec<(Kept, Vec<Captured>)>> },
    Service { call: CallId, command: ServiceCommand, answer: Option<oneshot::Sender<bool>> },
    Stop { answer: oneshot::Sender<()> },
}

/// Whose messages are wanted.
enum Of {
    Call(CallId),
    /// The SIP Call-ID of one side.
    CallId(String),
}

/// Commands that may wait for the engine; beyond it callers wait.
const COMMANDS: usize = 1024;
/// Calls that are listed with their messages at once.
const MOST_LISTED: usize = 200;
/// Media events of bridged calls that may wait.
const MEDIA_EVENTS: usize = 1024;
/// Events of one call that may wait for the voice menu.
const SERVICE_EVENTS: usize = 64;
/// Batches of contacts that may wait for the disk; while it takes no more, the registrar keeps what is due.
const CONTACT_BATCHES: usize = 4;
/// Subscriptions that may wait for the disk. Beyond it one is lost, which costs a phone's lamps after a restart.
const WRITES: usize = 4096;
/// How long contacts that are gone are gathered before the disk forgets them.
const GATHER_GONE: Duration = Duration::from_millis(500);
/// While the disk is busy, what is due is offered again after this.
const SAVE_AGAIN: Duration = Duration::from_millis(100);
/// Contacts in one batch at most.
const CONTACTS_AT_ONCE: usize = 2048;
/// Contacts to be removed that may wait for a disk that does not write; older ones stay until they expire.
const MOST_GONE: usize = 100_000;
/// Messages taken at once before answers go out.
const BATCH: usize = 64;
/// Messages waiting beyond which new calls are told to come later: what is up goes first.
const CROWDED: usize = 2048;
/// What those are told.
const CROWDED_RETRY_AFTER_SECS: u32 = 5;
/// How long calls get to end when the engine is stopped.
const FAREWELL: Duration = Duration::from_secs(2);
/// Failed log-ins told a second; the rest is counted.
const REFUSALS_PER_SEC: u32 = 20;

/// A running engine.
pub struct Running {
    pub handle: Handle,
    pub task: JoinHandle<()>,
    /// Where it listens, with the ports that the system chose.
    pub udp: Vec<SocketAddr>,
    pub tcp: Vec<SocketAddr>,
    pub tls: Vec<SocketAddr>,
    pub ws: Vec<SocketAddr>,
    pub wss: Vec<SocketAddr>,
}

/// Opens the sockets, puts the stored contacts back and starts the engine.
pub async fn start(sip: sip::settings::Config, calls: Config, neighbours: Neighbours) -> Result<Running, Error> {
    let (transports, inbox) = Transports::bind(sip.transports)?;
    let [udp, tcp, tls, ws, wss] = Transport::ALL.map(|transport| transports.addresses(transport));
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|fault| Error::Random(fault.to_string()))?;
    let now = Instant::now();
    let mut endpoint_config = sip.endpoint;
    endpoint_config.ports = transports.ports();
    endpoint_config.abilities.extensions.push(registrar::OUTBOUND);
    Watching::announce(&mut endpoint_config);
    let mut endpoint = Endpoint::new(endpoint_config, seed);
    let guard = Guard::new(sip.guard, now);
    let verifier = Verifier::new(sip.verifier, endpoint.ids().seed(), now);
    let ids = Ids::new(endpoint.ids().seed());
    let mut registrar = Registrar::new(sip.registrar);
    let expired = restore(now, &mut registrar, neighbours.store.contacts().await?, neighbours.accounts.as_ref());
    let expired = expired.into_iter().map(|record| (record.user, record.uri)).collect();
    neighbours.store.write_contacts(expired, Vec::new()).await?;
    let mut watching = Watching::new(sip.subscriptions);
    let wall = Timestamp::of(SystemTime::now());
    watching.restore(now, wall, neighbours.store.subscriptions().await?, neighbours.accounts.as_ref());
    let (writes, write_inbox) = mpsc::channel(WRITES);
    let (contact_writes, contact_inbox) = mpsc::channel(CONTACT_BATCHES);
    let writer = tokio::spawn(write(neighbours.store.clone(), write_inbox));
    let contact_writer = tokio::spawn(write_contacts(neighbours.store.clone(), contact_inbox));
    let (commands, command_inbox) = mpsc::channel(COMMANDS);
    let (media_events, media_inbox) = mpsc::channel(MEDIA_EVENTS);
    let handle = Handle { commands: commands.clone(), retry_after_secs: calls.retry_after_secs };
    let hold_music = hold_music(&calls.hold_music);
    let agent = UserAgent::new(ua::Config { max_legs: calls.max_calls * 4 + 64, retry_after_secs: calls.retry_after_secs });
    let ground = Ground {
        agent,
        endpoint,
        registrar,
        transports,
        ids,
        media: neighbours.media,
        office: neighbours.office,
        service: neighbours.service,
        media_events,
        commands,
        taps: HashMap::new(),
        trunks: Trunks::default(),
        on_trunk: HashMap::new(),
        asked: HashMap::new(),
    };
    let mut engine = Engine {
        ground,
        capture: Capture::new(calls.capture),
        switch: Switch::new(Arc::new(calls)),
        verifier,
        guard,
        gone: VecDeque::new(),
        notifier: Notifier::new(),
        watching,
        accounts: neighbours.accounts,
        events: neighbours.events,
        writes,
        contact_writes,
        notified: HashMap::new(),
        ring_back: Arc::new(media::tone::clip(neighbours.tones, media::tone::Signal::RingBack)),
        hold_music,
        save_again: None,
        save_from: now,
        refusals: (now, 0),
    };
    engine.configure_trunks(now);
    let task = tokio::spawn(async move {
        engine.run(inbox, command_inbox, media_inbox).await;
        // The engine's end of the channel is gone: the writer empties it and ends.
        let _ = writer.await;
        let _ = contact_writer.await;
    });
    Ok(Running { handle, task, udp, tcp, tls, ws, wss })
}

impl Handle {
    /// Rings the user's phones, then the far end. The rest is told by events.
    pub async fn originate(&self, wanted: Originate) -> Result<CallId, OriginateError> {
        let overload = OriginateError::Overload { retry_after_secs: self.retry_after_secs };
        self.ask(|answer| Command::Originate { wanted: Box::new(wanted), answer }).await.unwrap_or(Err(overload))
    }

    /// `false`: there is no such call.
    pub async fn hangup(&self, call: CallId) -> bool {
        self.ask(|answer| Command::Hangup { call, answer }).await.unwrap_or(false)
    }

    /// All calls, the oldest first.
    pub async fn list(&self) -> Vec<Snapshot> {
        self.ask(|answer| Command::List { answer }).await.unwrap_or_default()
    }

    /// All registered contacts.
    pub async fn contacts(&self) -> Vec<registrar::Contact> {
        self.ask(|answer| Command::Contacts { answer }).await.unwrap_or_default()
    }

    /// All trunks, by name.
    pub async fn trunks(&self) -> Vec<Standing> {
        self.ask(|answer| Command::Trunks { answer }).await.unwrap_or_default()
    }

    /// Who gets no answer for too many wrong passwords, in no order.
    pub async fn bans(&self) -> Vec<Ban> {
        self.ask(|answer| Command::Bans { answer }).await.unwrap_or_default()
    }

    /// Lifts the bans of an address. `false`: there were none.
    pub async fn pardon(&self, source: IpAddr) -> bool {
        self.ask(|answer| Command::Pardon { source, answer }).await.unwrap_or(false)
    }

    /// Sends a NOTIFY and waits for the phone's answer, for up to a minute.
    pub async fn notify(&self, order: notify::Order) -> notify::Outcome {
        self.ask(|answer| Command::Notify { order: Box::new(order), answer }).await.unwrap_or(notify::Outcome::Unreachable)
    }

    /// Forgets the device's contacts but those of this generation and later.
    pub async fn drop_contacts(&self, mac: MacAddr, keep_generation: Generation) {
        let _ = self.commands.send(Command::DropContacts { mac, keep_generation }).await;
    }

    /// New rules for new calls.
    pub async fn reload(&self, config: Config) {
        let _ = self.commands.send(Command::Reload { config: Box::new(config) }).await;
    }

    /// How many messages lie in somebody's mailbox now: phones that watch it light their lamp.
    pub async fn set_mailbox(&self, user: &str, mailbox: Mailbox) {
        let _ = self.commands.send(Command::Mailbox { user: user.to_owned(), mailbox }).await;
    }

    /// Sets a lamp that phones may watch under this name, as that of a park slot. `None`: dark.
    pub async fn show(&self, resource: &str, lamp: Option<Lamp>) {
        let _ = self.commands.send(Command::Show { resource: resource.to_owned(), lamp }).await;
    }

    /// The SIP messages of a call, as they were: hide their secrets before they are shown. `None`: nothing is kept of it.
    pub async fn messages_of(&self, call: CallId) -> Option<Vec<Captured>> {
        self.ask(|answer| Command::Messages { of: Of::Call(call), answer }).await.flatten()
    }

    /// The same by the Call-ID of one side.
    pub async fn messages_of_call_id(&self, id: String) -> Option<Vec<Captured>> {
        self.ask(|answer| Command::Messages { of: Of::CallId(id), answer }).await.flatten()
    }

    /// What messages are kept of, the newest first, 200 at most, each with its messages.
    pub async fn captured(&self) -> Vec<(Kept, Vec<Captured>)> {
        self.ask(|answer| Command::Captured { answer }).await.unwrap_or_default()
    }

    /// Ends all calls and the engine.
    pub async fn stop(&self) {
        let _ = self.ask(|answer| Command::Stop { answer }).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, outcome) = oneshot::channel();
        self.commands.send(command(answer)).await.ok()?;
        outcome.await.ok()
    }
}

/// What the switch stands on: all but the switch itself.
struct Ground {
    agent: UserAgent,
    endpoint: Endpoint,
    registrar: Registrar,
    transports: Transports,
    ids: Ids,
    media: Media,
    office: Arc<dyn Office>,
    service: mpsc::Sender<ServiceCall>,
    media_events: mpsc::Sender<(SessionId, MediaEvent)>,
    commands: mpsc::Sender<Command>,
    /// Calls that are with the voice menu, or on their way there.
    taps: HashMap<CallId, Tap>,
    trunks: Trunks,
    /// Legs that we call by a trunk, and whether the provider has shown a sign of life.
    on_trunk: HashMap<LegId, (Arc<str>, bool)>,
    /// Trunks that were asked whether they are there.
    asked: HashMap<RequestId, Arc<str>>,
}

struct Tap {
    /// Its place in the menu's inbox, until it is handed over.
    permit: Option<mpsc::OwnedPermit<ServiceCall>>,
    events: Option<mpsc::Receiver<(SessionId, MediaEvent)>>,
    ended: Option<oneshot::Sender<Cause>>,
    transfer: Option<oneshot::Sender<bool>>,
}

impl World for Ground {
    fn contacts(&self, user: &str) -> Vec<Contact> {
        // A contact of a phone without an owner is nobody's extension.
        let bound = self.registrar.contacts(user).filter(|contact| !contact.provisional);
        bound.map(|c| Contact { uri: c.uri.clone(), flow: c.flow, mac: c.mac, line: c.line }).collect()
    }

    fn is_extension(&self, number: &str) -> bool {
        self.office.is_extension(number)
    }

    fn display_name(&self, extension: &str) -> String {
        self.office.display_name(extension)
    }

    fn new_leg(&mut self) -> LegId {
        self.agent.new_leg()
    }

    fn open_media(&mut self, flow: &Flow, purpose: Purpose) -> Option<MediaPort> {
        let local_ip = self.local_ip(flow)?;
        let (events, near) = match purpose {
            Purpose::Bridge { near } => (self.media_events.clone(), near),
            Purpose::Service(call) => {
                let (events, inbox) = mpsc::channel(SERVICE_EVENTS);
                self.taps.get_mut(&call)?.events = Some(inbox);
                (events, None)
            }
        };
        match self.media.open(SessionConfig { near, ..SessionConfig::new(local_ip, events) }) {
            Ok(session) => Some(MediaPort { id: session.id, address: SocketAddr::new(local_ip, session.local.port()) }),
            Err(fault) => {
                metrics::counter!("plugtone_call_media_refused_total").increment(1);
                tracing::warn!(%fault, "no audio port for a call");
                None
            }
        }
    }

    fn reserve_service(&mut self, call: CallId) -> bool {
        let Ok(permit) = self.service.clone().try_reserve_owned() else {
            metrics::counter!("plugtone_call_service_full_total").increment(1);
            return false;
        };
        self.taps.insert(call, Tap { permit: Some(permit), events: None, ended: None, transfer: None });
        true
    }

    fn take_trunk(&mut self, now: Instant, trunk: &str, emergency: bool) -> Result<Seat, Unusable> {
        let way = self.trunks.take(now, trunk, emergency)?;
        let silence = self.trunks.settings(trunk).map_or(6, |trunk| trunk.silence_secs);
        let flow = self.transports.flow_to(way.transport, way.peer).map_err(|_| Unusable::NoAddress)?;
        Ok(Seat { flow, silence: Duration::from_secs(u64::from(silence)) })
    }

    fn groups(&self, extension: &str) -> Vec<String> {
        self.office.groups(extension)
    }

    fn location(&self, mac: MacAddr) -> Option<String> {
        self.office.location(mac)
    }

    fn night_switch(&self, hours: &str) -> NightSwitch {
        self.office.night_switch(hours)
    }

    fn wall(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }

    fn random(&mut self) -> u64 {
        self.ids.next_u64()
    }
}

impl Ground {
    /// Our address that the far end of this flow reaches.
    fn local_ip(&self, flow: &Flow) -> Option<IpAddr> {
        if !flow.local.ip().is_unspecified() {
            return Some(flow.local.ip());
        }
        self.transports.flow_to(flow.transport, flow.peer).ok().map(|flow| flow.local.ip())
    }

    /// The call whose place an INVITE wants to take (RFC 3891 §3).
    fn replaced(&self, request: &Message) -> Result<Option<Replaced>, u16> {
        let mut all = request.all(Name::Replaces);
        let Some(value) = all.next() else { return Ok(None) };
        let replaces = Replaces::parse(&sip::header::text(value)).filter(|_| all.next().is_none()).ok_or(400_u16)?;
        let leg = self.agent.find(&replaces).ok_or(481_u16)?;
        Ok(Some(Replaced { leg, early_only: replaces.early_only }))
    }

    /// The flow with our own address in it, so that Via and Contact can name it.
    fn with_local(&self, flow: Flow) -> Flow {
        if !flow.local.ip().is_unspecified() && flow.local.port() != 0 {
            return flow;
        }
        match self.transports.flow_to(flow.transport, flow.peer) {
            Ok(found) => Flow { id: flow.id, ..found },
            Err(_) => flow,
        }
    }
}

struct Engine {
    ground: Ground,
    switch: Switch,
    verifier: Verifier,
    guard: Guard,
    /// Contacts that the disk shall forget.
    gone: VecDeque<(String, String)>,
    notifier: Notifier,
    watching: Watching,
    /// What was said in each call.
    capture: Capture,
    accounts: Arc<dyn Accounts>,
    events: Events,
    writes: mpsc::Sender<Write>,
    contact_writes: mpsc::Sender<Contacts>,
    /// Who waits for the answer to a NOTIFY, by phone and event.
    notified: HashMap<(MacAddr, String), VecDeque<oneshot::Sender<notify::Outcome>>>,
    ring_back: Arc<Clip>,
    hold_music: Option<Arc<Clip>>,
    /// When to offer the disk again what it did not take.
    save_again: Option<Instant>,
    /// Not before this.
    save_from: Instant,
    /// Failed log-ins told in the second that began then.
    refusals: (Instant, u32),
}

impl Engine {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Inbound>,
        mut commands: mpsc::Receiver<Command>,
        mut media: mpsc::Receiver<(SessionId, MediaEvent)>,
    ) {
        let mut stopping: Option<(Instant, oneshot::Sender<()>)> = None;
        loop {
            let now = Instant::now();
            self.settle(now);
            if stopping.as_ref().is_some_and(|(until, _)| *until <= now || self.ground.agent.is_empty()) {
                break;
            }
            let wake = self.poll_timeout().into_iter().chain(stopping.as_ref().map(|(until, _)| *until)).min();
            let wake = wake.unwrap_or(now + Duration::from_secs(60));
            tokio::select! {
                Some(inbound) = inbox.recv() => {
                    let now = Instant::now();
                    self.ground.endpoint.set_crowded((inbox.len() > CROWDED).then_some(CROWDED_RETRY_AFTER_SECS));
                    self.handle_inbound(now, inbound);
                    for _ in 1..BATCH {
                        let Ok(inbound) = inbox.try_recv() else { break };
                        self.handle_inbound(now, inbound);
                    }
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
                () = sleep_until(wake.into()) => self.handle_timeout(Instant::now()),
            }
        }
        self.save_all().await;
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
            Command::Bans { answer } => {
                let _ = answer.send(self.guard.bans(now).cloned().collect());
            }
            Command::Pardon { source, answer } => {
                let _ = answer.send(self.guard.pardon(source));
            }
            Command::DropContacts { mac, keep_generation } => {
                self.ground.registrar.drop_generation_below(mac, keep_generation);
                self.watching.drop_generation_below(mac, keep_generation);
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
            Command::Mailbox { user, mailbox } => self.watching.set_mailbox(&user, mailbox),
            Command::Show { resource, lamp } => self.watching.show(&resource, lamp),
            Command::Reload { config } => {
                self.capture.set_limits(config.capture);
                self.hold_music = hold_music(&config.hold_music);
                self.switch.reload(Arc::new(*config));
                self.configure_trunks(now);
            }
            Command::Trunks { answer } => {
                let _ = answer.send(self.ground.trunks.list(now));
            }
            Command::Resolved { trunk, addresses } => {
                let ground = &mut self.ground;
                let flow_to = |transport, peer| ground.transports.flow_to(transport, peer).ok();
                ground.trunks.resolved(now, &mut ground.endpoint, &trunk, addresses, flow_to);
            }
            Command::Service { call, command, answer } => {
                if let (Some(tap), Some(answer)) = (self.ground.taps.get_mut(&call), answer) {
                    tap.transfer = Some(answer);
                }
                self.switch.handle_service(now, &mut self.ground, call, command);
            }
            Command::Stop { .. } => {}
        }
    }

    /// Does what there is to do until nothing is left.
    fn settle(&mut self, now: Instant) {
        loop {
            let mut quiet = true;
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
                self.apply(now, action);
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
                if let Some(dialog) = self.ground.agent.dialog_of(party.leg) {
                    self.capture.attach(now, call, &dialog.call_id);
                }
            }
            if parties.is_empty() {
                self.capture.finish(now, call);
            }
            self.watching.update(call, parties);
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

    // --- from SIP

    fn handle_endpoint(&mut self, now: Instant, event: endpoint::Event) {
        let Some(event) = self.notifier.handle_event(now, &mut self.ground.endpoint, event) else { return };
        let Some(event) = self.watching.handle_event(now, event) else { return };
        let Some(event) = self.ground.trunks.handle(now, &mut self.ground.endpoint, event) else { return };
        match event {
            endpoint::Event::Request { tx, request, flow } if request.is(&Method::Register) => self.register(now, tx, &request, flow),
            endpoint::Event::Request { tx, request, flow } if request.is(&Method::Subscribe) => self.subscribe(now, tx, &request, flow),
            event => self.ground.agent.handle(now, &mut self.ground.endpoint, event),
        }
    }

    fn subscribe(&mut self, now: Instant, tx: ServerTx, request: &Message, flow: Flow) {
        let verified = self.verify(now, request, flow.peer.ip());
        let endpoint = &mut self.ground.endpoint;
        match verified {
            None => endpoint.forget(tx),
            Some(Ok(account)) => self.watching.handle_subscribe(now, endpoint, tx, request, flow, &account),
            Some(Err(refusal)) => {
                let challenge = self.verifier.challenge(now, request, &refusal);
                endpoint.respond_and_forget(tx, challenge);
                if let Refusal::Wrong { user } = refusal
                    && self.may_tell_refusal(now)
                {
                    tracing::info!(%user, peer = %flow.peer, "subscription refused: wrong user name or password");
                }
            }
        }
    }

    fn register(&mut self, now: Instant, tx: ServerTx, request: &Message, flow: Flow) {
        let source = flow.peer.ip();
        let response = match self.verify(now, request, source) {
            None => return self.ground.endpoint.forget(tx),
            Some(Ok(account)) => self.ground.registrar.handle_register(now, request, flow, &account),
            Some(Err(refusal)) => {
                if let Refusal::Wrong { user } = &refusal
                    && self.may_tell_refusal(now)
                {
                    tracing::info!(%user, peer = %flow.peer, "registration refused: {refusal}");
                    self.events.tell(Event::RegisterRefused { user: user.clone(), source: flow.peer, reason: refusal.to_string() });
                }
                // Who never answers a challenge leaves nothing behind here.
                let challenge = self.verifier.challenge(now, request, &refusal);
                return self.ground.endpoint.respond_and_forget(tx, challenge);
            }
        };
        self.ground.endpoint.respond(now, tx, response);
    }

    /// Whose request it is. `None`: of somebody who gets no answer.
    fn verify(&mut self, now: Instant, request: &Message, source: IpAddr) -> Option<Result<Account, Refusal>> {
        let claimed = self.verifier.claimed_user(request);
        let verdict = self.guard.admits(now, source, claimed.as_deref());
        if verdict == Verdict::Drop {
            metrics::counter!("plugtone_sip_dropped_total", "reason" => "banned").increment(1);
            return None;
        }
        let verified = self.verifier.verify(now, request, self.accounts.as_ref());
        match &verified {
            Ok(_) => self.guard.handle_success(now, source, claimed.as_deref().unwrap_or_default()),
            Err(Refusal::Wrong { user }) => {
                for ban in self.guard.handle_failure(now, source, user) {
                    let secs = ban.until.saturating_duration_since(now).as_secs();
                    tracing::warn!(%source, user = ban.user.as_deref(), secs, "too many wrong passwords: no answer for a while");
                    self.events.tell(Event::Banned { source, user: ban.user, secs });
                }
                if verdict == Verdict::LookQuietly {
                    return None;
                }
            }
            Err(_) => {}
        }
        Some(verified)
    }

    fn may_tell_refusal(&mut self, now: Instant) -> bool {
        metrics::counter!("plugtone_call_logins_refused_total").increment(1);
        if now.saturating_duration_since(self.refusals.0) > Duration::from_secs(1) {
            self.refusals = (now, 0);
        }
        self.refusals.1 += 1;
        self.refusals.1 <= REFUSALS_PER_SEC
    }

    fn handle_agent(&mut self, now: Instant, event: ua::Event) {
        match event {
            ua::Event::Incoming { leg, request, flow } => self.incoming(now, leg, &request, flow),
            ua::Event::Leg { leg, event } => {
                self.notice_trunk(now, leg, &event);
                if let Some(event) = leg_event(event) {
                    self.switch.handle_leg(now, &mut self.ground, leg, event);
                }
            }
            ua::Event::Request { tx, request, .. } => self.outside(now, tx, &request),
            ua::Event::Replied { request, response } => {
                if let Some(trunk) = self.ground.asked.remove(&request) {
                    self.ground.trunks.asked(now, &trunk, response.and_then(|response| response.status()));
                }
            }
        }
    }

    /// A call: who is it? Only who has logged in may place one, and is who the login says.
    fn incoming(&mut self, now: Instant, leg: LegId, request: &Message, flow: Flow) {
        let dialled = request.uri().ok().and_then(|uri| uri.user().map(|user| user.into_owned())).unwrap_or_default();
        if let Some(trunk) = self.ground.trunks.whose(&flow) {
            return self.trunk_calls(now, leg, request, flow, &trunk);
        }
        let verified = self.verify(now, request, flow.peer.ip());
        let ground = &mut self.ground;
        match verified {
            // A call must be answered by something: it would be repeated for half a minute.
            None => ground.agent.reject(now, &mut ground.endpoint, leg, 403, &[]),
            Some(Ok(account)) => {
                let offer = (!request.body().is_empty()).then(|| request.body_bytes());
                let replaces = match ground.replaced(request) {
                    Ok(replaces) => replaces,
                    Err(status) => return ground.agent.reject(now, &mut ground.endpoint, leg, status, &[]),
                };
                let (caller, source, origin) = (caller(account), flow.peer, None);
                let incoming = Incoming { leg, caller, dialled, offer, flow, source, replaces, origin };
                self.switch.handle_incoming(now, ground, incoming);
            }
            Some(Err(refusal)) => {
                let challenge = self.verifier.challenge(now, request, &refusal);
                ground.agent.reject_with(now, &mut ground.endpoint, leg, challenge);
                if let Refusal::Wrong { user } = refusal
                    && self.may_tell_refusal(now)
                {
                    tracing::info!(%user, peer = %flow.peer, "call refused: wrong user name or password");
                    let reason = "wrong user name or password".to_owned();
                    self.events.tell(Event::CallRefused { from: user, to: dialled.chars().take(64).collect(), mac: None, reason });
                }
            }
        }
    }

    /// A call from outside: the trunk that it comes by is proved by the address that it comes from.
    fn trunk_calls(&mut self, now: Instant, leg: LegId, request: &Message, flow: Flow, trunk: &Arc<str>) {
        let ground = &mut self.ground;
        ground.trunks.lives(now, trunk);
        let settings = ground.trunks.settings(trunk).cloned();
        let Some(settings) = settings.filter(|_| ground.trunks.has_room(trunk)) else {
            return ground.agent.reject(now, &mut ground.endpoint, leg, 503, &[]);
        };
        let called = inbound::read(&settings, self.switch.plan().site(), request);
        let offer = (!request.body().is_empty()).then(|| request.body_bytes());
        let incoming = Incoming {
            leg,
            caller: called.caller,
            dialled: called.number,
            offer,
            flow,
            source: flow.peer,
            // Nobody outside takes the place of our people's calls.
            replaces: None,
            origin: Some(called.origin),
        };
        self.switch.handle_incoming(now, ground, incoming);
    }

    /// What a call by a trunk tells of the trunk.
    fn notice_trunk(&mut self, now: Instant, leg: LegId, event: &ua::LegEvent) {
        let ground = &mut self.ground;
        let Some((trunk, lives)) = ground.on_trunk.get_mut(&leg) else { return };
        let trunk = trunk.clone();
        match event {
            ua::LegEvent::Refused { status: 408 | 503, .. } if !*lives => ground.trunks.suspect(now, &trunk),
            _ if !std::mem::replace(lives, true) => ground.trunks.lives(now, &trunk),
            _ => {}
        }
        if matches!(event, ua::LegEvent::Refused { .. } | ua::LegEvent::Answered { .. } | ua::LegEvent::Ended { .. }) {
            ground.on_trunk.remove(&leg);
        }
    }

    fn configure_trunks(&mut self, now: Instant) {
        let ground = &mut self.ground;
        ground.trunks.configure(now, &mut ground.endpoint, self.switch.plan().trunks());
    }

    fn apply_trunk(&mut self, now: Instant, action: trunk::Action) {
        let ground = &mut self.ground;
        match action {
            trunk::Action::Resolve { trunk, host, port } => {
                let commands = ground.commands.clone();
                // A name server may be slow; nobody waits for it here.
                tokio::spawn(async move {
                    let found = tokio::net::lookup_host((host.as_str(), port)).await;
                    if let Err(error) = &found {
                        tracing::warn!(%trunk, host, %error, "no address for a trunk");
                    }
                    let addresses = found.map(Iterator::collect).unwrap_or_default();
                    let _ = commands.send(Command::Resolved { trunk, addresses }).await;
                });
            }
            trunk::Action::Ask { trunk, uri, transport, peer } => {
                let Ok(flow) = ground.transports.flow_to(transport, peer) else {
                    return ground.trunks.asked(now, &trunk, None);
                };
                let from = format!("sip:{}", ground.endpoint.sent_by(&flow));
                let outside = ua::Outside {
                    method: Method::Options,
                    to: uri.clone(),
                    uri,
                    flow,
                    from: (String::new(), from),
                    headers: Vec::new(),
                    body: None,
                    credentials: None,
                };
                let request = ground.agent.request(now, &mut ground.endpoint, outside);
                ground.asked.insert(request, trunk);
            }
            trunk::Action::Tell(event) => {
                log(&event);
                self.events.tell(event);
            }
        }
    }

    /// Requests that belong to no call and are no REGISTER.
    fn outside(&mut self, now: Instant, tx: ServerTx, request: &Message) {
        let endpoint = &mut self.ground.endpoint;
        let response = match request.method() {
            Some(Method::Options) => endpoint.config().abilities.answer_options(request),
            // Nobody here has subscribed to anything (RFC 6665 §4.1.3).
            Some(Method::Notify) => Response::to(request, 481),
            _ => Response::to(request, 405).header(Name::Allow, endpoint.config().abilities.allow()),
        };
        endpoint.respond(now, tx, response);
    }

    // --- what the switch wants

    fn apply(&mut self, now: Instant, action: Action) {
        let Ground { agent, endpoint, media, taps, commands, transports, trunks, on_trunk, .. } = &mut self.ground;
        match action {
            Action::Invite { leg, contact, caller, referred_by, offer } => {
                // Asking the system for a route costs three calls: only where the flow does not tell our address.
                let flow = match contact.flow.local.ip().is_unspecified() {
                    true => {
                        let found = transports.flow_to(contact.flow.transport, contact.flow.peer);
                        found.map_or(contact.flow, |found| Flow { id: contact.flow.id, ..found })
                    }
                    false => contact.flow,
                };
                let mut invite = invite(endpoint, flow, contact, caller, offer);
                if let Some(user) = referred_by {
                    let host = endpoint.sent_by(&flow);
                    invite.headers.push(("Referred-By".to_owned(), format!("<sip:{user}@{host}>")));
                }
                agent.invite(now, endpoint, leg, invite);
            }
            Action::InviteOutside { leg, hop, display_name, flow, offer } => {
                let Some(settings) = trunks.settings(&hop.trunk) else { return };
                let own = endpoint.sent_by(&flow);
                let invite = trunk::invite(settings, &hop, &display_name, &own, flow, offer);
                on_trunk.insert(leg, (hop.trunk.clone(), false));
                agent.invite(now, endpoint, leg, invite);
            }
            Action::HoldTrunk { trunk, media } => trunks.hold(&trunk, media),
            Action::Ring { leg } => agent.ring(now, endpoint, leg),
            Action::Progress { leg, sdp } => agent.progress(now, endpoint, leg, sdp),
            Action::Answer { leg, sdp } => agent.answer(now, endpoint, leg, sdp),
            Action::Refuse { leg, status, retry_after_secs } => {
                let headers: Vec<_> = retry_after_secs.map(|secs| (Name::RetryAfter, secs.to_string())).into_iter().collect();
                agent.reject(now, endpoint, leg, status, &headers);
            }
            Action::Hangup { leg, elsewhere } => {
                if let Some((trunk, false)) = on_trunk.remove(&leg) {
                    trunks.suspect(now, &trunk);
                }
                let reason = elsewhere.then_some("SIP;cause=200;text=\"Call completed elsewhere\"");
                agent.hangup(now, endpoint, leg, reason);
            }
            Action::Reoffer { leg, sdp } => agent.reoffer(now, endpoint, leg, sdp),
            Action::AnswerReoffer { leg, sdp } => agent.answer_reoffer(now, endpoint, leg, sdp),
            Action::RefuseReoffer { leg, status } => agent.reject_reoffer(now, endpoint, leg, status),
            Action::AcceptRefer { leg } => agent.accept_refer(now, endpoint, leg),
            Action::RefuseRefer { leg, status } => agent.refuse_refer(now, endpoint, leg, status),
            Action::ReferProgress { leg, status } => agent.refer_progress(now, endpoint, leg, status),
            Action::SetRemote { media: id, params } => media.command(id, media::Command::SetRemote(remote(params))),
            Action::Bridge { near, far } => media.command(near, media::Command::Bridge(far)),
            Action::Unbridge { media: id } => media.command(id, media::Command::Unbridge),
            Action::Key { media: id, key } => {
                if let Some(key) = media::Key::from_char(key) {
                    media.command(id, media::Command::Key(key));
                }
            }
            Action::RingBack { media: id, on: true } => {
                let clips = vec![self.ring_back.clone()];
                media.command(id, media::Command::Play { playback: PlaybackId(0), clips, repeat: true });
            }
            Action::RingBack { media: id, on: false } => media.command(id, media::Command::StopPlay),
            Action::HoldMusic { media: id, on: true } => {
                let clips = self.hold_music.iter().cloned().collect();
                media.command(id, media::Command::Play { playback: PlaybackId(0), clips, repeat: true });
            }
            Action::HoldMusic { media: id, on: false } => media.command(id, media::Command::StopPlay),
            Action::CloseMedia { media: id } => {
                trunks.leave(id);
                media.command(id, media::Command::Close);
            }
            Action::HandOver { call, caller, media: port, source, .. } => {
                let Some(tap) = taps.get_mut(&call) else { return };
                let (Some(permit), Some(events)) = (tap.permit.take(), tap.events.take()) else { return };
                let (ended, ended_inbox) = oneshot::channel();
                tap.ended = Some(ended);
                tracing::info!(%call, mac = %caller.mac, user = %caller.user, "call handed to the voice menu");
                let control = ServiceControl { call, commands: commands.clone() };
                permit.send(ServiceCall { call, caller, source, session: port.id, events, ended: ended_inbox, control });
            }
            Action::ServiceEnded { call, cause } => {
                if let Some(ended) = taps.remove(&call).and_then(|tap| tap.ended) {
                    let _ = ended.send(cause);
                }
            }
            Action::Transferred { call, taken } => {
                let answer = taps.get_mut(&call).and_then(|tap| tap.transfer.take());
                if taken {
                    taps.remove(&call);
                }
                if let Some(answer) = answer {
                    let _ = answer.send(taken);
                }
            }
            Action::Tell(event) => {
                log(&event);
                self.events.tell(event);
            }
        }
    }

    fn apply_registrar(&mut self, action: registrar::Action) {
        match action {
            registrar::Action::Registered { contact, expires_secs, refreshed } => {
                self.watching.handle_registered(&contact.user, contact.mac, contact.line, contact.flow, refreshed);
                if !refreshed {
                    tracing::info!(mac = %contact.mac, user = %contact.user, flow = %contact.flow, expires_secs, "registered");
                    self.events.tell(Event::Registered {
                        mac: contact.mac,
                        user: contact.user.clone(),
                        contact: contact.uri.clone(),
                        source: contact.flow.peer,
                        user_agent: contact.user_agent.clone(),
                        expires_secs,
                    });
                }
                self.ground.office.registered(&contact, refreshed);
            }
            registrar::Action::Unregistered { contact, reason } => {
                if self.gone.len() >= MOST_GONE {
                    self.gone.pop_front();
                    metrics::counter!("plugtone_call_contact_writes_lost_total").increment(1);
                }
                self.save_again.get_or_insert(Instant::now() + GATHER_GONE);
                self.gone.push_back((contact.user.clone(), contact.uri.clone()));
                self.unregistered(contact, reason);
            }
            registrar::Action::Outdated { contact } => self.unregistered(contact, "its binding has ended"),
            registrar::Action::Refused { user, mac, flow, reason } => {
                tracing::info!(%mac, %user, peer = %flow.peer, %reason, "registration refused");
                self.events.tell(Event::RegisterRefused { user, source: flow.peer, reason });
            }
        }
    }

    fn unregistered(&mut self, contact: registrar::Contact, reason: &str) {
        tracing::info!(mac = %contact.mac, user = %contact.user, reason, "unregistered");
        self.watching.handle_unregistered(&contact.user);
        self.ground.office.unregistered(&contact);
        let registrar::Contact { mac, user, uri, .. } = contact;
        self.events.tell(Event::Unregistered { mac, user, contact: uri, reason: reason.to_owned() });
    }

    fn write(&self, write: Write) {
        if self.writes.try_send(write).is_err() {
            metrics::counter!("plugtone_call_subscription_writes_lost_total").increment(1);
        }
    }

    /// Hands over what is due to be written, as much as the disk takes: the rest stays where it is.
    fn save(&mut self, now: Instant) {
        self.save_again = None;
        while let Ok(permit) = self.contact_writes.try_reserve() {
            let wall = Timestamp::of(SystemTime::now());
            let due = std::iter::from_fn(|| self.ground.registrar.poll_save(now).map(|contact| record(contact, Instant::now(), wall)));
            let saved: Vec<_> = due.take(CONTACTS_AT_ONCE).collect();
            if saved.is_empty() && self.gone.is_empty() {
                return;
            }
            // Gone before saved: what left and came back is there.
            permit.send(Contacts { gone: self.gone.drain(..).collect(), saved });
        }
        self.save_from = now + SAVE_AGAIN;
        self.save_again = Some(self.save_from);
    }

    /// When there is something for the disk, and it is not too busy to take it.
    fn save_timeout(&self) -> Option<Instant> {
        let due = [self.ground.registrar.poll_save_timeout(), self.save_again];
        due.into_iter().flatten().min().map(|due| due.max(self.save_from))
    }

    /// Hands over all that the disk does not know, before the end.
    async fn save_all(&mut self) {
        let (now, wall) = (Instant::now(), Timestamp::of(SystemTime::now()));
        let far = now + Duration::from_secs(3600);
        let saved = std::iter::from_fn(|| self.ground.registrar.poll_save(far).map(|contact| record(contact, now, wall))).collect();
        let _ = self.contact_writes.send(Contacts { gone: self.gone.drain(..).collect(), saved }).await;
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

fn caller(account: Account) -> Caller {
    let Account { user, display_name, mac, line, provisional, .. } = account;
    Caller { user, display_name, mac, line, provisional }
}

fn invite(endpoint: &Endpoint, flow: Flow, contact: Contact, caller: CallerId, offer: bytes::Bytes) -> Invite {
    let host = endpoint.sent_by(&flow);
    Invite {
        to: contact.uri.clone(),
        uri: contact.uri,
        from: (caller.display_name, format!("sip:{}@{host}", caller.user)),
        flow,
        contact_user: caller.user,
        offer: Some(offer),
        credentials: None,
        headers: Vec::new(),
    }
}

fn leg_event(event: ua::LegEvent) -> Option<LegEvent> {
    Some(match event {
        ua::LegEvent::Trying => LegEvent::Trying,
        ua::LegEvent::Ringing { body, .. } => LegEvent::Ringing { sdp: body },
        ua::LegEvent::Answered { body } => LegEvent::Answered { sdp: body },
        ua::LegEvent::Refused { status, .. } => LegEvent::Refused { status },
        ua::LegEvent::Acked { body } => LegEvent::Acked { sdp: body },
        ua::LegEvent::Reoffered { body } => LegEvent::Reoffered { offer: body },
        ua::LegEvent::ReofferAnswered { body } => LegEvent::ReofferAnswered { sdp: body },
        ua::LegEvent::ReofferFailed { status } => LegEvent::ReofferFailed { status },
        ua::LegEvent::Referred { refer } => LegEvent::Referred { to: refer.to, replaces: refer.replaces },
        // Nobody here asks a phone to call somebody.
        ua::LegEvent::ReferProgress { .. } => return None,
        ua::LegEvent::Info { content_type, body } => LegEvent::Key { key: info_key(&content_type, &body)? },
        ua::LegEvent::Ended { how } => LegEvent::Ended {
            how: match how {
                Ended::HungUp => LegEnd::HungUp,
                Ended::Cancelled => LegEnd::Cancelled,
                Ended::Lost => LegEnd::Lost,
            },
        },
    })
}

/// The key in an INFO: `Signal=5` of application/dtmf-relay, or the bare key of application/dtmf.
fn info_key(content_type: &str, body: &[u8]) -> Option<char> {
    let text = std::str::from_utf8(body).ok()?;
    let word = match content_type {
        "application/dtmf-relay" => text.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            name.trim().eq_ignore_ascii_case("signal").then(|| value.trim())
        })?,
        "application/dtmf" => text.trim(),
        _ => return None,
    };
    match word {
        "10" => Some('*'),
        "11" => Some('#'),
        word => word.chars().next().filter(|key| word.len() == 1 && media::Key::from_char(*key).is_some()),
    }
}

fn remote(params: MediaParams) -> media::Remote {
    let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
    media::Remote {
        addr: params.remote.unwrap_or(unspecified),
        rtcp: None,
        codec: match params.codec {
            sdp::Codec::Pcmu => media::Codec::Pcmu,
            sdp::Codec::Pcma => media::Codec::Pcma,
            sdp::Codec::G722 => media::Codec::G722,
        },
        dtmf_payload_type: params.dtmf_payload_type,
        dtmf_receive_type: params.dtmf_receive_payload_type,
        direction: match params.direction {
            sdp::Direction::SendRecv => media::Direction::SendRecv,
            sdp::Direction::SendOnly => media::Direction::SendOnly,
            sdp::Direction::RecvOnly => media::Direction::RecvOnly,
            sdp::Direction::Inactive => media::Direction::Inactive,
        },
    }
}

fn log(event: &Event) {
    let mac = event.mac().map(tracing::field::display);
    match event {
        Event::CallStarted { call, from, to, .. } => tracing::info!(%call, mac, %from, %to, "call started"),
        Event::CallRinging { call, to, .. } => tracing::info!(%call, mac, %to, "ringing"),
        Event::CallAnswered { call, to, .. } => tracing::info!(%call, mac, %to, "answered"),
        Event::CallTransferred { call, by, to, .. } => tracing::info!(%call, mac, %by, %to, "transferred"),
        Event::CallEnded { call, cause, talk_ms, .. } => tracing::info!(%call, mac, %cause, talk_ms, "call ended"),
        Event::TrunkUp { trunk } => tracing::info!(%trunk, "trunk up"),
        Event::TrunkDown { trunk, reason } => tracing::warn!(%trunk, %reason, "trunk down"),
        Event::EmergencyCalled { call, from, number, location, test, .. } => {
            tracing::warn!(%call, mac, %from, %number, location, test, "emergency call");
        }
        Event::CallRefused { from, to, reason, .. } => tracing::info!(mac, %from, %to, %reason, "call refused"),
        _ => {}
    }
}

// --- contacts and the disk

enum Write {
    SaveSubscription(Box<SubscriptionRecord>),
    RemoveSubscription { local_tag: String },
}

/// Contacts for the disk.
struct Contacts {
    /// By user and URI.
    gone: Vec<(String, String)>,
    saved: Vec<ContactRecord>,
}

/// Writes behind the engine, in order. A fault is logged: the phone subscribes again anyway.
async fn write(store: Arc<dyn Store>, mut inbox: mpsc::Receiver<Write>) {
    while let Some(write) = inbox.recv().await {
        let done = match write {
            Write::SaveSubscription(record) => store.save_subscription(*record).await,
            Write::RemoveSubscription { local_tag } => store.remove_subscription(&local_tag).await,
        };
        if let Err(fault) = done {
            metrics::counter!("plugtone_call_subscription_writes_lost_total").increment(1);
            tracing::warn!(%fault, "what a phone watches could not be stored");
        }
    }
}

/// Writes contacts behind the engine, in order, each batch in one commit. A fault is logged: the phones register again anyway.
async fn write_contacts(store: Arc<dyn Store>, mut inbox: mpsc::Receiver<Contacts>) {
    while let Some(Contacts { gone, saved }) = inbox.recv().await {
        let contacts = gone.len() + saved.len();
        if let Err(fault) = store.write_contacts(gone, saved).await {
            metrics::counter!("plugtone_call_contact_writes_lost_total").increment(contacts as u64);
            tracing::warn!(%fault, contacts, "registered phones could not be stored");
        }
    }
}

fn record(contact: &registrar::Contact, now: Instant, wall: Timestamp) -> ContactRecord {
    let left = contact.expires.saturating_duration_since(now);
    ContactRecord {
        user: contact.user.clone(),
        mac: contact.mac,
        line: contact.line,
        generation: contact.generation,
        uri: contact.uri.clone(),
        flow: contact.flow.to_string(),
        call_id: contact.call_id.clone(),
        cseq: contact.cseq,
        user_agent: contact.user_agent.clone(),
        instance: contact.instance.clone(),
        reg_id: contact.reg_id,
        q: contact.q,
        path: contact.path.clone(),
        expires: wall.plus_secs(i64::try_from(left.as_secs()).unwrap_or(i64::MAX)),
    }
}

/// Puts back what was registered before a restart, as far as the identity is still the same. Gives back what has expired
/// meanwhile; a contact of an earlier generation is neither, see [`registrar::Action::Outdated`].
fn restore(now: Instant, registrar: &mut Registrar, records: Vec<ContactRecord>, accounts: &dyn Accounts) -> Vec<ContactRecord> {
    let wall = Timestamp::of(SystemTime::now());
    let (mut restored, mut expired) = (0, Vec::new());
    for record in records {
        let left = record.expires.secs_since(wall);
        let account = accounts.account(&auth_user(record.mac, record.line));
        let Some(account) = account.filter(|account| (account.generation, &account.user) == (record.generation, &record.user)) else {
            continue;
        };
        let (Ok(flow), Ok(left @ 1..)) = (record.flow.parse::<Flow>(), u64::try_from(left)) else {
            expired.push(record);
            continue;
        };
        restored += 1;
        registrar.restore(
            now,
            registrar::Contact {
                user: record.user,
                mac: record.mac,
                line: record.line,
                generation: account.generation,
                provisional: account.provisional,
                uri: record.uri,
                flow,
                instance: record.instance,
                reg_id: record.reg_id,
                q: record.q,
                path: record.path,
                call_id: record.call_id,
                cseq: record.cseq,
                user_agent: record.user_agent,
                expires: now + Duration::from_secs(left),
            },
        );
    }
    if restored > 0 {
        tracing::info!(contacts = restored, "registered phones restored");
    }
    expired
}

/// The digest user name of a device's line.
pub(super) fn auth_user(mac: MacAddr, line: LineNumber) -> String {
    format!("{}-{line}", mac.bare())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_by_info_in_two_forms() {
        for (kind, body, key) in [
            ("application/dtmf-relay", "Signal=5\r\nDuration=160\r\n", Some('5')),
            ("application/dtmf-relay", "Duration=160\r\nsignal = # \r\n", Some('#')),
            ("application/dtmf-relay", "Signal=11\r\n", Some('#')),
            ("application/dtmf", "*", Some('*')),
            ("application/dtmf", "10", Some('*')),
            ("application/dtmf", "hello", None),
            ("text/plain", "5", None),
        ] {
            assert_eq!(info_key(kind, body.as_bytes()), key, "{kind} {body}");
        }
    }
}
