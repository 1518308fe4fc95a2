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

mod invite;
mod line;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use line::{Asking, Line, Registration};

pub use invite::{Presented, invite};

use super::locate::Question;
use crate::{
    media::SessionId,
    model::{Event, NumberHash},
    routing::{Trunk, settings},
    sip::{
        Endpoint,
        digest::Credentials,
        endpoint,
        register_client::{self, RegisterClient},
        transport::{Flow, Transport},
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
    calls: HashMap<SessionId, Arc<str>, NumberHash>,
    actions: VecDeque<Action>,
}

/// How long what name servers say is believed at least and at most, whatever they say of that.
const RESOLVE_AGAIN: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(3600)];
/// Servers that one call tries.
const MOST_SERVERS: usize = 4;
/// After a name had no address.
const RESOLVE_RETRY: Duration = Duration::from_secs(15);
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
            // Calls of a trunk whose settings have changed are still its own.
            let calls = calls.get(name).copied().unwrap_or(0);
            self.lines.insert(name.clone(), Line::new(now, trunk.clone(), calls));
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
        if !line.takes_one_more_now(now) {
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
