//! The trunks of this node: which is up, how much each carries, where a call leaves by, and whose call came in. No sockets.
//!
//! ```text
//!              OPTIONS answered, registered
//!   Untried ────────────────────────────────► Up ◄──────────────┐
//!      │                                       │ no answer       │ answered
//!      │ no answer, twice                      ▼ twice           │
//!      └─────────────────────────────────────► Down ── asked again, ever more rarely
//! ```
//! A trunk that was not tried yet is used: its first call finds out. A call that meets silence or a broken connection makes
//! us ask at once. It stands on an [`Endpoint`] only to register; what else is to be sent it tells in [`Action`]s. Fed by
//! `worker.rs`. Not here: which trunk a call may take (`routing`), calls, DNS.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    half::Diversion,
    invite::{anonymous, diverted},
    locate::Question,
};
use crate::{
    media::SessionId,
    model::Event,
    routing::{
        Hop, Trunk,
        settings::{self, CallerIdForm, DivertedShows},
    },
    sip::{
        Endpoint,
        digest::Credentials,
        endpoint,
        register_client::{self, RegisterClient},
        transport::{Flow, Transport},
        ua::Invite,
    },
};

/// What is to be done for the trunks.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Find the servers of a host: answer with [`Trunks::resolved`].
    Resolve {
        trunk: Arc<str>,
        question: Question,
    },
    /// Register at the first server: answer with [`Trunks::register`].
    Register {
        trunk: Arc<str>,
    },
    /// Ask with OPTIONS whether it is there: answer with [`Trunks::asked`].
    Ask {
        trunk: Arc<str>,
        uri: String,
        transport: Transport,
        peer: SocketAddr,
    },
    Tell(Event),
}

/// Where a call may leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    pub transport: Transport,
    pub peer: SocketAddr,
    /// There is no further server to try.
    pub last: bool,
}

/// Why it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unusable {
    /// The configuration has no such trunk any more.
    Unknown,
    /// Its host has no address.
    NoAddress,
    Down,
    Full,
    /// More new calls than it may get in a second.
    TooFast,
}

impl Unusable {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "not configured",
            Self::NoAddress => "has no address",
            Self::Down => "is down",
            Self::Full => "is full",
            Self::TooFast => "gets too many calls a second",
        }
    }
}

/// How a trunk stands, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub name: Arc<str>,
    pub host: String,
    pub address: Option<SocketAddr>,
    pub state: State,
    /// Why it is down.
    pub reason: Option<String>,
    /// Since when the state is so.
    pub since: Duration,
    /// `None`: it is not one that registers.
    pub registered: Option<bool>,
    pub calls: usize,
    pub max_calls: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Untried,
    Up,
    Down,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Untried => "untried",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

#[derive(Default)]
pub struct Trunks {
    lines: BTreeMap<Arc<str>, Line>,
    /// Which trunk a call's sound belongs to.
    calls: HashMap<SessionId, Arc<str>>,
    actions: VecDeque<Action>,
}

/// One trunk.
struct Line {
    trunk: Arc<Trunk>,
    /// Of its servers, in the order in which they are tried; the first is in use.
    addresses: Vec<SocketAddr>,
    resolve_at: Option<Instant>,
    state: State,
    since: Instant,
    reason: Option<String>,
    /// Why a server's certificate is not believed.
    distrust: Option<String>,
    /// Questions in a row that nobody answered.
    unanswered: u32,
    asking: Option<Asking>,
    ask_at: Option<Instant>,
    calls: usize,
    bucket: Bucket,
    registration: Option<Registration>,
}

struct Asking {
    give_up: Instant,
}

struct Registration {
    client: RegisterClient,
    registered: bool,
}

/// New calls that may begin now: fills evenly.
struct Bucket {
    tokens: f64,
    filled: Instant,
}

/// How long what name servers say is believed at least and at most, whatever they say of that.
const RESOLVE_AGAIN: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(3600)];
/// Servers that one call tries.
const MOST_SERVERS: usize = 4;
/// After a name had no address.
const RESOLVE_RETRY: Duration = Duration::from_secs(15);
/// Pauses between questions to a trunk that is down, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Unanswered questions that make a trunk down: one datagram may be lost.
const PATIENCE: u32 = 2;

impl Trunks {
    /// Takes what the configuration says now. What has not changed goes on as it is.
    pub fn configure(&mut self, now: Instant, endpoint: &mut Endpoint, trunks: &BTreeMap<Arc<str>, Arc<Trunk>>) {
        let gone: Vec<_> =
            self.lines.iter().filter(|(name, line)| trunks.get(*name) != Some(&line.trunk)).map(|(name, _)| name.clone()).collect();
        let mut calls = BTreeMap::new();
        for name in gone {
            let Some(mut line) = self.lines.remove(&name) else { continue };
            calls.insert(name, line.calls);
            if let Some(registration) = &mut line.registration {
                registration.client.unregister(now, endpoint);
            }
        }
        for (name, trunk) in trunks {
            if self.lines.contains_key(name) {
                continue;
            }
            let line = Line {
                trunk: trunk.clone(),
                addresses: Vec::new(),
                resolve_at: Some(now),
                state: State::Untried,
                since: now,
                reason: None,
                distrust: None,
                unanswered: 0,
                asking: None,
                ask_at: None,
                // Calls of a trunk whose settings have changed are still its own.
                calls: calls.get(name).copied().unwrap_or(0),
                bucket: Bucket { tokens: f64::from(trunk.calls_per_second), filled: now },
                registration: None,
            };
            self.lines.insert(name.clone(), line);
        }
        self.handle_timeout(now, endpoint);
    }

    /// The servers of a trunk, in the order in which they are to be tried, and how long that is true; `None`: for ever. Or why
    /// there are none.
    pub fn resolved(
        &mut self,
        now: Instant,
        endpoint: &mut Endpoint,
        name: &str,
        found: Result<(Vec<SocketAddr>, Option<Duration>), String>,
    ) {
        let Some(line) = self.lines.get_mut(name) else { return };
        let (addresses, ttl) = match found {
            Ok(found) => found,
            Err(reason) => {
                line.resolve_at = Some(now + RESOLVE_RETRY);
                if line.addresses.is_empty() {
                    self.actions.extend(line.down(now, &reason));
                }
                return;
            }
        };
        let [least, most] = RESOLVE_AGAIN;
        line.resolve_at = ttl.map(|ttl| now + ttl.clamp(least, most));
        let used = line.addresses.first().copied();
        line.addresses = addresses;
        // The one that is in use stays so: where it is ill another was chosen already.
        if let Some(at) = line.addresses.iter().position(|address| Some(*address) == used) {
            let used = line.addresses.remove(at);
            line.addresses.insert(0, used);
            return;
        }
        (line.unanswered, line.asking) = (0, None);
        if line.trunk.options_secs > 0 {
            line.ask_at = Some(now);
        }
        self.actions.extend(line.register_there());
        self.handle_timeout(now, endpoint);
    }

    /// Registers at the server that is in use; `flow_to` says how we reach it.
    pub fn register(
        &mut self,
        now: Instant,
        endpoint: &mut Endpoint,
        name: &str,
        flow_to: impl FnOnce(Transport, SocketAddr) -> Option<Flow>,
    ) {
        let Some(line) = self.lines.get_mut(name) else { return };
        let Some(expires_secs) = line.trunk.register_secs else { return };
        let (Some(account), Some(peer)) = (&line.trunk.account, line.addresses.first()) else { return };
        let Some(flow) = flow_to(transport(&line.trunk), *peer) else { return };
        let Some(credentials) = credentials(&line.trunk) else { return };
        let config = register_client::Config {
            aor: format!("sip:{}@{}", account.user, line.trunk.domain),
            display_name: String::new(),
            registrar: format!("sip:{}", line.trunk.domain),
            flow,
            contact_user: account.user.clone(),
            credentials,
            expires_secs,
        };
        let mut client = RegisterClient::new(endpoint, config);
        client.register(now, endpoint);
        // Until the other server says no, calls go on as they did.
        let registered = line.registration.as_ref().is_some_and(|registration| registration.registered);
        line.registration = Some(Registration { client, registered });
        self.handle_timeout(now, endpoint);
    }

    /// Takes the event if it is about one of our registrations; gives it back otherwise.
    pub fn handle(&mut self, now: Instant, endpoint: &mut Endpoint, event: endpoint::Event) -> Option<endpoint::Event> {
        let mut event = event;
        for line in self.lines.values_mut() {
            let Some(registration) = &mut line.registration else { continue };
            match registration.client.handle(now, endpoint, event) {
                Some(back) => event = back,
                None => {
                    self.actions.extend(line.registration_events(now));
                    return None;
                }
            }
        }
        Some(event)
    }

    /// A place on this trunk for a new call to the outside. `emergency`: whatever its state. `tried`: so many of its servers
    /// were asked already and are ill.
    pub fn take(&mut self, now: Instant, name: &str, emergency: bool, tried: usize) -> Result<Way, Unusable> {
        let line = self.lines.get_mut(name).ok_or(Unusable::Unknown)?;
        let peer = *line.addresses.get(tried).ok_or(Unusable::NoAddress)?;
        let last = tried + 1 >= line.addresses.len().min(MOST_SERVERS);
        let way = Way { transport: transport(&line.trunk), peer, last };
        if emergency || tried > 0 {
            return Ok(way);
        }
        if line.state == State::Down {
            return Err(Unusable::Down);
        }
        if line.is_full() {
            return Err(Unusable::Full);
        }
        if !line.bucket.take(now, line.trunk.calls_per_second) {
            return Err(Unusable::TooFast);
        }
        Ok(way)
    }

    /// The call with this sound is on the trunk, until [`Self::leave`].
    pub fn hold(&mut self, name: &Arc<str>, media: SessionId) {
        if let Some(line) = self.lines.get_mut(name)
            && self.calls.insert(media, name.clone()).is_none()
        {
            line.calls += 1;
        }
    }

    /// The sound of a call is another from now on.
    pub fn go_on_as(&mut self, was: SessionId, media: SessionId) {
        if let Some(name) = self.calls.remove(&was) {
            self.calls.insert(media, name);
        }
    }

    /// This sound is no more.
    pub fn leave(&mut self, media: SessionId) {
        if let Some(name) = self.calls.remove(&media)
            && let Some(line) = self.lines.get_mut(&name)
        {
            line.calls = line.calls.saturating_sub(1);
        }
    }

    /// The trunk of which a call comes that came by this flow. `None`: of none.
    pub fn whose(&self, flow: &Flow) -> Option<Arc<str>> {
        let of = |line: &Line| {
            let trunk = &line.trunk;
            // By UDP providers send from the port that they listen on; a phone may live at the same address. A connection that
            // they open comes from any port.
            let from_host = line.addresses.iter().any(|at| match flow.transport.is_reliable() {
                true => transport(trunk) == flow.transport && at.ip() == flow.peer.ip(),
                false => *at == flow.peer,
            });
            from_host || trunk.accept_from.iter().any(|net| net.contains(&flow.peer.ip().to_canonical()))
        };
        self.lines.iter().find(|(_, line)| of(line)).map(|(name, _)| name.clone())
    }

    /// May one more call come in?
    pub fn has_room(&self, name: &str) -> bool {
        self.lines.get(name).is_some_and(|line| !line.is_full())
    }

    /// The provider has answered a call in some way, so it is there.
    pub fn lives(&mut self, now: Instant, name: &str) {
        if let Some(line) = self.lines.get_mut(name)
            && line.may_be_up()
        {
            self.actions.extend(line.up(now));
        }
    }

    /// A call met silence or a broken connection at this server: ask at once, or go on with the next.
    pub fn suspect(&mut self, now: Instant, name: &str, peer: SocketAddr) {
        let Some(line) = self.lines.get_mut(name) else { return };
        if line.trunk.options_secs == 0 {
            // Nobody asks it; so the next call need not find out again.
            if line.addresses.first() == Some(&peer) {
                self.actions.extend(line.use_next());
            }
        } else if line.asking.is_none() {
            line.ask_at = Some(now);
        }
    }

    /// The certificate of a server is not believed.
    pub fn distrusted(&mut self, peer: SocketAddr, reason: &str) {
        for line in self.lines.values_mut().filter(|line| transport(&line.trunk) == Transport::Tls && line.addresses.contains(&peer)) {
            line.distrust = Some(reason.to_owned());
        }
    }

    /// The answer to OPTIONS; `None` for silence or a broken connection.
    pub fn asked(&mut self, now: Instant, name: &str, status: Option<u16>) {
        let Some(line) = self.lines.get_mut(name) else { return };
        line.asking = None;
        match status {
            // Whatever it says, it is there; but one that says "come later" takes no calls.
            Some(status) if !matches!(status, 408 | 503) => {
                line.unanswered = 0;
                line.ask_at = Some(now + Duration::from_secs(u64::from(line.trunk.options_secs)));
                if line.may_be_up() {
                    self.actions.extend(line.up(now));
                }
            }
            other => {
                let reason = if other == Some(503) { "it says that it takes no calls (503)" } else { "it does not answer" };
                let missed = line.missed(now, reason);
                self.actions.extend(missed);
            }
        }
    }

    /// Time has passed; call at [`Self::poll_timeout`]. Earlier is harmless.
    pub fn handle_timeout(&mut self, now: Instant, endpoint: &mut Endpoint) {
        for (name, line) in &mut self.lines {
            if line.resolve_at.is_some_and(|at| at <= now) {
                // Until the answer is there it is not asked again.
                line.resolve_at = Some(now + RESOLVE_RETRY);
                let Trunk { host, port, transport, .. } = &*line.trunk;
                let question = Question { host: host.clone(), port: *port, transport: *transport };
                self.actions.push_back(Action::Resolve { trunk: name.clone(), question });
            }
            if line.asking.as_ref().is_some_and(|asking| asking.give_up <= now) {
                line.asking = None;
                self.actions.extend(line.missed(now, "it does not answer"));
            }
            if line.ask_at.is_some_and(|at| at <= now) && line.asking.is_none() {
                line.ask_at = None;
                if let Some(peer) = line.addresses.first() {
                    line.asking = Some(Asking { give_up: now + Duration::from_secs(u64::from(line.trunk.silence_secs)) });
                    let uri = format!("sip:{}", line.trunk.domain);
                    self.actions.push_back(Action::Ask { trunk: name.clone(), uri, transport: transport(&line.trunk), peer: *peer });
                }
            }
            if let Some(registration) = &mut line.registration {
                registration.client.handle_timeout(now, endpoint);
                self.actions.extend(line.registration_events(now));
            }
        }
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let of = |line: &Line| {
            let registration = line.registration.as_ref().and_then(|registration| registration.client.poll_timeout());
            let give_up = line.asking.as_ref().map(|asking| asking.give_up);
            let ask = line.ask_at.filter(|_| line.asking.is_none());
            [line.resolve_at, give_up, ask, registration].into_iter().flatten().min()
        };
        self.lines.values().filter_map(of).min()
    }

    /// All trunks, by name.
    pub fn list(&self, now: Instant) -> Vec<Standing> {
        let standing = |(name, line): (&Arc<str>, &Line)| Standing {
            name: name.clone(),
            host: line.trunk.host.clone(),
            address: line.addresses.first().copied(),
            state: line.state,
            reason: line.reason.clone(),
            since: now.saturating_duration_since(line.since),
            registered: line.trunk.register_secs.map(|_| line.registration.as_ref().is_some_and(|registration| registration.registered)),
            calls: line.calls,
            max_calls: line.trunk.max_calls,
        };
        self.lines.iter().map(standing).collect()
    }

    /// The settings of a trunk.
    pub fn settings(&self, name: &str) -> Option<&Arc<Trunk>> {
        self.lines.get(name).map(|line| &line.trunk)
    }

    /// Takes the registrations back, for shutdown.
    pub fn end_all(&mut self, now: Instant, endpoint: &mut Endpoint) {
        for registration in self.lines.values_mut().filter_map(|line| line.registration.as_mut()) {
            registration.client.unregister(now, endpoint);
        }
    }
}

impl Line {
    fn is_full(&self) -> bool {
        self.trunk.max_calls > 0 && self.calls >= self.trunk.max_calls
    }

    /// One that must register is up when it has.
    fn may_be_up(&self) -> bool {
        self.trunk.register_secs.is_none() || self.registration.as_ref().is_some_and(|registration| registration.registered)
    }

    fn up(&mut self, now: Instant) -> Option<Action> {
        self.unanswered = 0;
        self.reason = None;
        self.distrust = None;
        if self.state == State::Up {
            return None;
        }
        (self.state, self.since) = (State::Up, now);
        Some(Action::Tell(Event::TrunkUp { trunk: self.trunk.name.to_string() }))
    }

    fn down(&mut self, now: Instant, reason: &str) -> Option<Action> {
        let news = self.state != State::Down || self.reason.as_deref() != Some(reason);
        if self.state != State::Down {
            (self.state, self.since) = (State::Down, now);
        }
        self.reason = Some(reason.to_owned());
        news.then(|| Action::Tell(Event::TrunkDown { trunk: self.trunk.name.to_string(), reason: reason.to_owned() }))
    }

    /// Goes on with the next server, if there is one.
    fn use_next(&mut self) -> Option<Action> {
        if self.addresses.len() < 2 {
            return None;
        }
        self.addresses.rotate_left(1);
        self.register_there()
    }

    fn register_there(&self) -> Option<Action> {
        self.trunk.register_secs.map(|_| Action::Register { trunk: self.trunk.name.clone() })
    }

    /// A question was not answered: ask again, and the next server if there is one.
    fn missed(&mut self, now: Instant, reason: &str) -> Vec<Action> {
        self.unanswered += 1;
        let mut actions: Vec<_> = self.use_next().into_iter().collect();
        if self.unanswered < PATIENCE {
            self.ask_at = Some(now);
            return actions;
        }
        let pause = FIRST_PAUSE * 2u32.saturating_pow((self.unanswered - PATIENCE).min(6));
        self.ask_at = Some(now + pause.min(LONGEST_PAUSE));
        let reason = self.distrust.take().unwrap_or_else(|| reason.to_owned());
        actions.extend(self.down(now, &reason));
        actions
    }

    fn registration_events(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(event) = self.registration.as_mut().and_then(|registration| registration.client.poll_event()) {
            match event {
                register_client::Event::Registered { .. } => {
                    self.registration.iter_mut().for_each(|registration| registration.registered = true);
                    actions.extend(self.up(now));
                }
                register_client::Event::Failed { status, .. } => {
                    self.registration.iter_mut().for_each(|registration| registration.registered = false);
                    let reason = match (status, self.distrust.take()) {
                        (408 | 503, Some(distrust)) => distrust,
                        (408, None) => "it does not answer our registration".to_owned(),
                        (status, _) => format!("it refuses our registration ({status})"),
                    };
                    actions.extend(self.down(now, &reason));
                    if matches!(status, 408 | 503) {
                        actions.extend(self.use_next());
                    }
                }
                register_client::Event::Unregistered => {}
            }
        }
        actions
    }
}

impl Bucket {
    fn take(&mut self, now: Instant, per_second: u32) -> bool {
        if per_second == 0 {
            return true;
        }
        let most = f64::from(per_second);
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + passed * most).min(most);
        let has = self.tokens >= 1.0;
        if has {
            self.tokens -= 1.0;
        }
        has
    }
}

fn transport(trunk: &Trunk) -> Transport {
    match trunk.transport {
        settings::Transport::Udp => Transport::Udp,
        settings::Transport::Tcp => Transport::Tcp,
        settings::Transport::Tls => Transport::Tls,
    }
}

fn credentials(trunk: &Trunk) -> Option<Credentials> {
    let account = trunk.account.as_ref()?;
    Some(Credentials { username: account.login.clone(), secret: account.password.clone() })
}

/// The INVITE of a call to the outside, as this trunk wants it.
/// Of whom a call to the outside comes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Presented<'a> {
    pub display_name: &'a str,
    /// Somebody outside, as numbers are written on the trunk.
    pub caller: Option<&'a str>,
    /// Of these the last is one of ours, as whom the call goes out, unless it is somebody outside.
    pub diversions: &'a [Diversion],
}

pub fn invite(trunk: &Trunk, hop: &Hop, shown: Presented<'_>, own_host: &str, flow: Flow, offer: bytes::Bytes) -> Invite {
    let at = |user: &str| format!("sip:{user}@{}", trunk.domain);
    let account = trunk.account.as_ref().map(|account| account.user.as_str());
    let number = hop.caller.number.as_deref();
    // Without any number the provider shows what it knows us by.
    let known = number.or(account).unwrap_or("anonymous");
    let identity = if trunk.domain == trunk.host && trunk.account.is_none() { format!("sip:{known}@{own_host}") } else { at(known) };
    let mut headers = Vec::new();
    let diverted_by = shown.diversions.last().filter(|last| !last.by.starts_with('+'));
    let foreign = shown.caller.filter(|_| diverted_by.is_some() && trunk.diverted_shows == DivertedShows::Caller);
    let from = match (hop.caller.withheld, trunk.caller_id, account) {
        (false, ..) if foreign.is_some() => (shown.display_name.to_owned(), at(foreign.unwrap_or_default())),
        (_, CallerIdForm::Account, Some(account)) => (String::new(), at(account)),
        (true, ..) => anonymous(),
        _ => (shown.display_name.to_owned(), identity.clone()),
    };
    let name = match trunk.caller_id {
        CallerIdForm::PAssertedIdentity | CallerIdForm::Account => Some("P-Asserted-Identity"),
        CallerIdForm::PPreferredIdentity => Some("P-Preferred-Identity"),
        CallerIdForm::From => None,
    };
    if let (Some(name), Some(_)) = (name, number) {
        headers.push((name.to_owned(), format!("<{identity}>")));
    }
    if hop.caller.withheld {
        headers.push(("Privacy".to_owned(), "id".to_owned()));
    }
    if let Some(uri) = &hop.geolocation {
        // RFC 6442 §4.1 and §4.2
        headers.push(("Geolocation".to_owned(), format!("<{uri}>")));
        headers.push(("Geolocation-Routing".to_owned(), "yes".to_owned()));
    }
    let uri = at(&hop.number);
    if let (Some(last), Some(_)) = (diverted_by, number) {
        let history = vec![(identity.clone(), last.reason)];
        headers.extend(diverted(&history, &uri, hop.caller.withheld));
    }
    Invite {
        to: uri.clone(),
        uri,
        from,
        flow,
        contact_user: account.or(number).unwrap_or("plugtone").to_owned(),
        offer: Some(offer),
        credentials: credentials(trunk),
        routes: Vec::new(),
        headers,
        spare: Vec::new(),
        gr: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Secret,
        routing::{Account, Shown, number::Form},
    };

    /// A trunk and its clock.
    struct Bed {
        now: Instant,
        endpoint: Endpoint,
        trunks: Trunks,
        registers: Vec<bytes::Bytes>,
    }

    fn settings(change: impl FnOnce(&mut Trunk)) -> Trunk {
        let mut trunk = Trunk {
            name: "first".into(),
            host: "192.0.2.5".into(),
            port: None,
            transport: settings::Transport::Udp,
            authorities: None,
            domain: "192.0.2.5".into(),
            account: None,
            register_secs: None,
            accept_from: Vec::new(),
            form: Form::E164,
            caller_id: CallerIdForm::PAssertedIdentity,
            diverted_shows: DivertedShows::User,
            direct_media: false,
            max_calls: 0,
            calls_per_second: 0,
            options_secs: 30,
            silence_secs: 6,
        };
        change(&mut trunk);
        trunk
    }

    fn peer() -> SocketAddr {
        "192.0.2.5:5060".parse().unwrap()
    }

    impl Bed {
        fn new(change: impl FnOnce(&mut Trunk)) -> Self {
            let endpoint = Endpoint::new(endpoint::Config::default(), [1; 32]);
            let mut bed = Self { now: Instant::now(), endpoint, trunks: Trunks::default(), registers: Vec::new() };
            bed.configure(settings(change));
            assert!(matches!(bed.trunks.poll_action(), Some(Action::Resolve { .. })));
            bed.resolved(&[peer()], None);
            bed
        }

        fn configure(&mut self, trunk: Trunk) {
            let all = BTreeMap::from([(trunk.name.clone(), Arc::new(trunk))]);
            self.trunks.configure(self.now, &mut self.endpoint, &all);
        }

        fn resolved(&mut self, servers: &[SocketAddr], ttl_secs: Option<u64>) {
            let found = Ok((servers.to_vec(), ttl_secs.map(Duration::from_secs)));
            self.trunks.resolved(self.now, &mut self.endpoint, "first", found);
        }

        /// What is to be done now, in a word or two each.
        fn actions(&mut self) -> Vec<String> {
            let mut words = Vec::new();
            while let Some(action) = self.trunks.poll_action() {
                words.push(match action {
                    Action::Resolve { question, .. } => format!("resolve {}", question.host),
                    Action::Register { trunk } => {
                        let flow_to = |_, peer| Some(Flow::udp("10.0.0.1:5060".parse().unwrap(), peer));
                        self.trunks.register(self.now, &mut self.endpoint, &trunk, flow_to);
                        let request = self.endpoint.poll_transmit().expect("a REGISTER");
                        self.registers.push(request.bytes);
                        format!("register at {}", request.flow.peer)
                    }
                    Action::Ask { peer, .. } => format!("ask {peer}"),
                    Action::Tell(Event::TrunkUp { .. }) => "up".to_owned(),
                    Action::Tell(Event::TrunkDown { reason, .. }) => format!("down: {reason}"),
                    Action::Tell(other) => format!("{other:?}"),
                });
            }
            words
        }

        /// Waits for the next thing to do; how long that was, and what it is.
        fn waits(&mut self) -> (u64, Vec<String>) {
            let at = self.trunks.poll_timeout().expect("something to wait for");
            let waited = at.saturating_duration_since(self.now).as_secs();
            self.now = self.now.max(at);
            self.trunks.handle_timeout(self.now, &mut self.endpoint);
            (waited, self.actions())
        }

        fn asked(&mut self, status: Option<u16>) -> Vec<String> {
            self.trunks.asked(self.now, "first", status);
            self.actions()
        }

        fn take(&mut self) -> Result<Way, Unusable> {
            self.trunks.take(self.now, "first", false, 0)
        }
    }

    #[test]
    fn a_trunk_goes_down_after_two_silences_and_comes_back() {
        let mut bed = Bed::new(|_| {});
        assert_eq!(bed.actions(), ["ask 192.0.2.5:5060"]);
        assert!(bed.take().is_ok(), "untried is not down");
        assert_eq!(bed.asked(Some(404)), ["up"], "any answer is an answer");
        assert_eq!(bed.waits(), (30, vec!["ask 192.0.2.5:5060".into()]));
        // One lost packet is no reason.
        assert_eq!(bed.waits(), (6, vec!["ask 192.0.2.5:5060".into()]));
        assert_eq!(bed.waits(), (6, vec!["down: it does not answer".into()]));
        assert_eq!(bed.take(), Err(Unusable::Down));
        assert!(bed.trunks.take(bed.now, "first", true, 0).is_ok(), "for help it is tried all the same");
        for pause in [2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(bed.waits(), (pause, vec!["ask 192.0.2.5:5060".into()]));
            assert_eq!(bed.waits(), (6, vec![]));
        }
        assert_eq!(bed.asked(Some(200)), ["up"], "a late answer counts");
        assert_eq!(bed.asked(Some(503)), [""; 0]);
        assert_eq!(bed.waits(), (0, vec!["ask 192.0.2.5:5060".into()]));
        assert_eq!(bed.asked(Some(503)), ["down: it says that it takes no calls (503)"]);
        // A call comes from there: it lives.
        bed.trunks.lives(bed.now, "first");
        assert_eq!(bed.actions(), ["up"]);
    }

    #[test]
    fn of_several_servers_the_next_is_used_when_one_is_ill() {
        let server = |last: u8| SocketAddr::from(([192, 0, 2, last], 5060));
        let registers = |trunk: &mut Trunk| {
            trunk.account = Some(Account { user: "acct".into(), login: "acct".into(), password: Secret::new("p") });
            trunk.register_secs = Some(600);
        };
        let mut bed = Bed::new(registers);
        bed.actions();
        bed.resolved(&[server(1), server(2)], Some(60));
        assert_eq!(bed.actions(), ["register at 192.0.2.1:5060", "ask 192.0.2.1:5060"]);
        // One call tries one after the other.
        let way = |bed: &mut Bed, tried| bed.trunks.take(bed.now, "first", false, tried).map(|way| (way.peer, way.last));
        assert_eq!((way(&mut bed, 0), way(&mut bed, 1)), (Ok((server(1), false)), Ok((server(2), true))));
        assert_eq!(way(&mut bed, 2), Err(Unusable::NoAddress));
        // Silence: the other is asked, and the registration goes there.
        assert_eq!(bed.asked(None), ["register at 192.0.2.2:5060", "ask 192.0.2.2:5060"]);
        bed.asked(Some(200));
        assert_eq!(way(&mut bed, 0), Ok((server(2), false)));
        // What is in use stays, also when name servers put it last; a new one is taken where it is gone.
        bed.resolved(&[server(1), server(3), server(2)], Some(60));
        assert_eq!((bed.actions(), way(&mut bed, 0), way(&mut bed, 1)), (vec![], Ok((server(2), false)), Ok((server(1), false))));
        bed.resolved(&[server(3)], Some(60));
        assert_eq!(bed.actions(), ["register at 192.0.2.3:5060", "ask 192.0.2.3:5060"]);
        // Nobody asks the one that is never to be asked: its calls find out.
        let mut bed = Bed::new(|trunk| trunk.options_secs = 0);
        bed.resolved(&[server(1), server(2)], Some(1));
        bed.trunks.suspect(bed.now, "first", server(2));
        assert_eq!(way(&mut bed, 0), Ok((server(1), false)));
        bed.trunks.suspect(bed.now, "first", server(1));
        assert_eq!(way(&mut bed, 0), Ok((server(2), false)));
        // What is true for a second only is asked again after half a minute all the same.
        assert_eq!(bed.waits(), (30, vec!["resolve 192.0.2.5".into()]));
        bed.trunks.resolved(bed.now, &mut bed.endpoint, "first", Err("gone".into()));
        assert_eq!((bed.actions(), way(&mut bed, 0)), (vec![], Ok((server(2), false))), "what is known is better than nothing");
        assert_eq!(bed.waits(), (15, vec!["resolve 192.0.2.5".into()]));
    }

    #[test]
    fn why_a_certificate_is_not_believed_is_told() {
        let mut bed = Bed::new(|trunk| trunk.transport = settings::Transport::Tls);
        bed.actions();
        bed.trunks.distrusted(peer(), "its certificate is for somebody else");
        bed.asked(None);
        bed.actions();
        assert_eq!(bed.asked(None), ["down: its certificate is for somebody else"]);
        // By UDP nobody has seen one.
        let mut bed = Bed::new(|_| {});
        bed.actions();
        bed.trunks.distrusted(peer(), "its certificate is for somebody else");
        bed.asked(None);
        bed.actions();
        assert_eq!(bed.asked(None), ["down: it does not answer"]);
    }

    #[test]
    fn a_call_that_meets_silence_makes_us_ask_at_once() {
        let mut bed = Bed::new(|_| {});
        bed.actions();
        bed.asked(Some(200));
        bed.trunks.suspect(bed.now, "first", peer());
        assert_eq!(bed.waits(), (0, vec!["ask 192.0.2.5:5060".into()]));
        // Nobody asks a trunk that is never to be asked.
        let mut bed = Bed::new(|trunk| trunk.options_secs = 0);
        assert_eq!(bed.actions(), [""; 0]);
        bed.trunks.suspect(bed.now, "first", peer());
        assert_eq!(bed.trunks.poll_timeout(), None);
    }

    #[test]
    fn a_trunk_carries_so_many_calls_and_takes_so_many_a_second() {
        let mut bed = Bed::new(|trunk| (trunk.max_calls, trunk.calls_per_second) = (2, 2));
        let name: Arc<str> = "first".into();
        for media in [1, 2] {
            assert!(bed.take().is_ok());
            bed.trunks.hold(&name, SessionId(media));
        }
        assert_eq!(bed.take(), Err(Unusable::Full));
        assert!(!bed.trunks.has_room("first"));
        bed.trunks.leave(SessionId(1));
        bed.trunks.leave(SessionId(1));
        bed.trunks.leave(SessionId(9));
        assert_eq!(bed.trunks.list(bed.now)[0].calls, 1);
        assert_eq!(bed.take(), Err(Unusable::TooFast));
        bed.now += Duration::from_millis(500);
        assert!(bed.take().is_ok());
        // Other settings, the same calls.
        bed.configure(settings(|trunk| trunk.max_calls = 1));
        assert!(!bed.trunks.has_room("first"));
        bed.trunks.leave(SessionId(2));
        assert!(bed.trunks.has_room("first"));
    }

    #[test]
    fn a_call_is_its_trunks_by_where_it_comes_from() {
        let bed = Bed::new(|trunk| trunk.accept_from = vec!["198.51.100.0/28".parse().unwrap()]);
        let whose = |peer: &str, tcp: bool| {
            let (local, peer) = ("10.0.0.1:5060".parse().unwrap(), peer.parse().unwrap());
            bed.trunks.whose(&if tcp { Flow::tcp(local, peer) } else { Flow::udp(local, peer) }).is_some()
        };
        assert!(whose("192.0.2.5:5060", false));
        assert!(!whose("192.0.2.5:40000", false), "a phone may live at the provider's address");
        assert!(!whose("192.0.2.5:40000", true), "the trunk is one by UDP");
        assert!(whose("198.51.100.14:40000", false) && whose("198.51.100.14:40000", true));
        assert!(!whose("198.51.100.16:5060", false));
    }

    #[test]
    fn one_that_must_register_is_up_when_it_has() {
        let mut bed = Bed::new(|trunk| {
            trunk.account = Some(Account { user: "acct".into(), login: "acct".into(), password: Secret::new("p") });
            trunk.register_secs = Some(600);
            trunk.options_secs = 0;
        });
        assert_eq!(bed.actions(), ["register at 192.0.2.5:5060"]);
        let register = crate::sip::Message::parse(bed.registers.remove(0)).unwrap();
        bed.trunks.lives(bed.now, "first");
        assert_eq!(bed.actions(), [""; 0]);
        let answer = |bed: &mut Bed, request: &crate::sip::Message, status| {
            let response = crate::sip::Response::to(request, status).to_tag("t").encode();
            bed.endpoint.handle_message(bed.now, Flow::udp("10.0.0.1:5060".parse().unwrap(), peer()), response);
            while let Some(event) = bed.endpoint.poll_event() {
                assert!(bed.trunks.handle(bed.now, &mut bed.endpoint, event).is_none());
            }
            bed.actions()
        };
        assert_eq!(answer(&mut bed, &register, 403), ["down: it refuses our registration (403)"]);
        assert_eq!(bed.waits().0, 2);
        let again = crate::sip::Message::parse(bed.endpoint.poll_transmit().expect("a REGISTER").bytes).unwrap();
        assert_eq!(answer(&mut bed, &again, 200), ["up"]);
        assert_eq!(bed.trunks.list(bed.now)[0].registered, Some(true));
        // Taken out of the configuration, it says goodbye.
        bed.trunks.configure(bed.now, &mut bed.endpoint, &BTreeMap::new());
        let last = crate::sip::Message::parse(bed.endpoint.poll_transmit().expect("a REGISTER").bytes).unwrap();
        assert_eq!(last.expires(), Some(0));
    }

    #[test]
    fn providers_see_the_caller_where_they_look() {
        let hop = |number: Option<&str>, withheld, geolocation: Option<&str>| Hop {
            trunk: "first".into(),
            number: "+4930999".into(),
            caller: Shown { number: number.map(str::to_owned), withheld },
            geolocation: geolocation.map(str::to_owned),
        };
        let account = |trunk: &mut Trunk, form| {
            trunk.account = Some(Account { user: "acct".into(), login: "acct".into(), password: Secret::new("p") });
            trunk.domain = "provider.example".into();
            trunk.caller_id = form;
        };
        let plain = settings(|_| {});
        let (with_account, asserted) =
            (settings(|trunk| account(trunk, CallerIdForm::Account)), settings(|trunk| account(trunk, CallerIdForm::PPreferredIdentity)));
        for (trunk, hop, from, headers) in [
            (&plain, hop(Some("+49301"), false, None), "Ada sip:+49301@ours", vec!["P-Asserted-Identity: <sip:+49301@ours>"]),
            (&plain, hop(None, false, None), "Ada sip:anonymous@ours", vec![]),
            (
                &plain,
                hop(Some("+49301"), true, None),
                "Anonymous sip:anonymous@anonymous.invalid",
                vec!["P-Asserted-Identity: <sip:+49301@ours>", "Privacy: id"],
            ),
            (
                &with_account,
                hop(Some("+49301"), false, None),
                " sip:acct@provider.example",
                vec!["P-Asserted-Identity: <sip:+49301@provider.example>"],
            ),
            (
                &asserted,
                hop(Some("+49301"), false, None),
                "Ada sip:+49301@provider.example",
                vec!["P-Preferred-Identity: <sip:+49301@provider.example>"],
            ),
            (
                &plain,
                hop(None, false, Some("https://lis/2")),
                "Ada sip:anonymous@ours",
                vec!["Geolocation: <https://lis/2>", "Geolocation-Routing: yes"],
            ),
        ] {
            let flow = Flow::udp("10.0.0.1:5060".parse().unwrap(), peer());
            let invite = invite(trunk, &hop, Presented { display_name: "Ada", ..Presented::default() }, "ours", flow, "v=0".into());
            assert_eq!(format!("{} {}", invite.from.0, invite.from.1), from);
            let told: Vec<_> = invite.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            assert_eq!(told, headers);
            assert_eq!(invite.uri, format!("sip:+4930999@{}", trunk.domain));
        }
    }
}
