//! One SIP element without sockets: matches messages to transactions, drives them, and tells its owner of requests and answers.
//!
//! In: [`Endpoint::handle_message`], [`Endpoint::handle_timeout`], [`Endpoint::handle_transport_error`], and what the owner wants:
//! [`Endpoint::request`], [`Endpoint::respond`], [`Endpoint::cancel`], [`Endpoint::send`]. Out: [`Endpoint::poll_transmit`],
//! [`Endpoint::poll_event`], [`Endpoint::poll_timeout`]; drain the first two after every call.
//!
//! What is refused here never reaches the owner: malformed requests (400, 505, 416), unknown methods and extensions (501, 405,
//! 420), merged requests (482), spent hops (483), bodies that nobody reads (406, 415), a CANCEL of nothing (481), and more
//! transactions than fit (503). These answers are stateless (RFC 3261 §8.2.7): abuse leaves nothing in memory.
//! Not here: dialogs and the repetition of 2xx and its ACK (`ua`), who may do what (`digest.rs`).

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    fmt,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    build::{Request, Response},
    header::{MAGIC_COOKIE, Via},
    ids::{Ids, NumberHash},
    message::{Message, Method, ParseError},
    name::Name,
    screen::Abilities,
    transaction::{
        Due, Timers,
        client::Client,
        client_invite::ClientInvite,
        server::Server,
        server_invite::{Received, ServerInvite},
    },
    transport::{Flow, Ports, Transmit, Transport},
    uri::Uri,
};

/// A request that we sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientTx(u64);

/// A request that we answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerTx(u64);

#[derive(Debug)]
pub enum Event {
    /// A new request, well formed and of a method in [`Abilities`]. Answer it with [`Endpoint::respond`].
    Request { tx: ServerTx, request: Message, flow: Flow },
    /// The caller gives up an INVITE that has no final answer yet: answer `tx` with 487. The CANCEL itself is answered.
    Cancel { tx: ServerTx, request: Message },
    /// An ACK to a 2xx, or to nothing we know.
    Ack { request: Message, flow: Flow },
    /// An answer: any number of 1xx, then one final. For an INVITE, each copy of a 2xx is told, so that the ACK can be repeated.
    Response { tx: ClientTx, response: Message, flow: Flow },
    /// No final answer in time: as good as a 408. Also when a cancelled INVITE never ended.
    TimedOut { tx: ClientTx },
    /// It could not be sent: as good as a 503.
    TransportFailed { tx: ClientTx },
}

#[derive(Clone, Debug)]
pub struct Config {
    pub abilities: Abilities,
    pub timers: Timers,
    /// Goes into Server and User-Agent where the owner wrote none; empty for none at all.
    pub product: String,
    /// Host name or address that the world knows us by, if it is not the address of the flow; IPv6 in brackets.
    pub external: Option<String>,
    /// The ports that a stream's answers would be sent to if its connection broke, and that Contacts name.
    pub ports: Ports,
    /// Most transactions of each side at a time; beyond it a request gets 503.
    pub max_transactions: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            abilities: Abilities::default(),
            timers: Timers::default(),
            product: concat!("Plugtone/", env!("CARGO_PKG_VERSION")).into(),
            external: None,
            ports: Ports::default(),
            max_transactions: 200_000,
        }
    }
}

/// A longer request goes by TCP where it can: a datagram that is cut on its way is often lost (RFC 3261 §18.1.1).
const LONGEST_DATAGRAM: usize = 1300;
/// Phones do learn TCP, with a new firmware or another setting.
const ASK_TCP_AGAIN: Duration = Duration::from_secs(3600);
/// Peers without TCP that are remembered.
const MOST_WITHOUT_TCP: usize = 10_000;

/// Of the calls that begin while there is too much to do, one in so many is taken: if saying no takes all the time there is, a storm
/// would let nobody through. By its Call-ID, so that the same one is let through with its credentials and each time it is repeated.
const TAKEN_WHEN_CROWDED: u64 = 8;

pub struct Endpoint {
    config: Config,
    ids: Ids,
    hash: [RandomState; 2],
    /// Seconds after which new calls shall try again; `None`: they are taken.
    crowded: Option<u32>,
    next: u64,
    // In boxes: the tables themselves stay small, and are not copied whole each time they grow.
    servers: HashMap<ServerTx, Box<ServerEntry>, NumberHash>,
    server_keys: HashMap<Key, ServerTx, NumberHash>,
    /// By From tag, Call-ID and CSeq: finds a request that came by two ways (RFC 3261 §8.2.2.2).
    merges: HashMap<Key, ServerTx, NumberHash>,
    clients: HashMap<ClientTx, Box<ClientEntry>, NumberHash>,
    /// Peers that took no TCP, and when that was seen.
    without_tcp: HashMap<SocketAddr, Instant>,
    cancels: HashMap<ClientTx, CancelEntry, NumberHash>,
    timers: BinaryHeap<Reverse<(Instant, TimerKey)>>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TimerKey {
    Server(ServerTx),
    Client(ClientTx),
    Cancel(ClientTx),
}

/// What makes two requests the same, as 128 bits that nobody can choose: a table of these costs no allocation per request.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key([u64; 2]);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [first, _] = self.0;
        state.write_u64(first);
    }
}

/// Collects the parts of a [`Key`].
struct Keyed<H>([H; 2]);

impl<H: Hasher> Keyed<H> {
    fn new(hash: &[impl BuildHasher<Hasher = H>; 2]) -> Self {
        Self(hash.each_ref().map(BuildHasher::build_hasher))
    }

    /// With its length, so that no two lists of parts look alike.
    fn put(&mut self, part: &[u8]) {
        self.0.iter_mut().for_each(|hasher| part.hash(hasher));
    }

    fn key(self) -> Key {
        Key(self.0.map(|hasher| hasher.finish()))
    }
}

enum ServerMachine {
    Invite(Box<ServerInvite>),
    Other(Server),
}

struct ServerEntry {
    machine: ServerMachine,
    key: Key,
    merge: Option<Key>,
    /// Where answers go.
    flow: Flow,
    last: Option<Bytes>,
    /// Of an INVITE only: what the 100 is made from.
    request: Option<Box<Message>>,
    cancelled: bool,
    armed: Option<Instant>,
}

enum ClientMachine {
    Invite(ClientInvite),
    Other(Client),
}

struct ClientEntry {
    machine: ClientMachine,
    flow: Flow,
    bytes: Bytes,
    /// Too long for a datagram and so sent by TCP: by UDP after all, if the peer has no TCP. Until something was heard.
    datagram: Option<Box<Transmit>>,
    /// Second half of the branch: an answer must know it.
    nonce: u64,
    cancel_wanted: bool,
    /// Why it is given up, for Reason in the CANCEL (RFC 3326).
    cancel_reason: Option<Box<str>>,
    armed: Option<Instant>,
}

struct CancelEntry {
    machine: Client,
    flow: Flow,
    bytes: Bytes,
    nonce: u64,
    armed: Option<Instant>,
}

/// Writes `host:port`.
pub struct SentBy<'a> {
    external: Option<&'a str>,
    address: SocketAddr,
}

impl fmt::Display for SentBy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.external {
            Some(host) => write!(f, "{host}:{}", self.address.port()),
            None => self.address.fmt(f),
        }
    }
}

impl Endpoint {
    /// `seed`: what branches and tags come from, 32 unguessable bytes in production.
    pub fn new(config: Config, seed: [u8; 32]) -> Self {
        Self {
            config,
            ids: Ids::new(seed),
            hash: [RandomState::new(), RandomState::new()],
            crowded: None,
            next: 0,
            servers: HashMap::default(),
            server_keys: HashMap::default(),
            merges: HashMap::default(),
            clients: HashMap::default(),
            without_tcp: HashMap::new(),
            cancels: HashMap::default(),
            timers: BinaryHeap::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Tags, Call-IDs and seeds for the owner.
    pub fn ids(&mut self) -> &mut Ids {
        &mut self.ids
    }

    /// Transactions in memory: those that we answer, those that we sent.
    pub fn transactions(&self) -> (usize, usize) {
        (self.servers.len(), self.clients.len() + self.cancels.len())
    }

    /// `host:port` under which the far end of this flow reaches us: for Via and Contact.
    pub fn sent_by(&self, flow: &Flow) -> SentBy<'_> {
        let port = self.config.ports.of(flow.transport).unwrap_or(flow.local.port());
        SentBy { external: self.config.external.as_deref(), address: SocketAddr::new(flow.local.ip(), port) }
    }

    // --- in

    /// A message came: a datagram, or what the framer cut from a stream.
    pub fn handle_message(&mut self, now: Instant, flow: Flow, bytes: Bytes) {
        match Message::parse(bytes) {
            Ok(mut message) if message.is_request() => {
                message.set_source(flow.peer);
                self.handle_request(now, flow, message);
            }
            Ok(message) => self.handle_response(now, flow, message),
            Err(ParseError::Empty) => {}
            Err(error) => {
                metrics::counter!("plugtone_sip_dropped_total", "reason" => "no_message").increment(1);
                tracing::debug!(peer = %flow.peer, %error, "dropped what is no SIP message");
            }
        }
    }

    /// Time has passed; call at [`Self::poll_timeout`]. Earlier is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(Reverse((at, key))) = self.timers.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            self.timers.pop();
            match key {
                TimerKey::Server(tx) => self.handle_server_timeout(now, at, tx),
                TimerKey::Client(tx) => self.handle_client_timeout(now, at, tx),
                TimerKey::Cancel(tx) => self.handle_cancel_timeout(now, at, tx),
            }
        }
    }

    /// A flow broke, or nothing could be sent on it: what waits for answers there will not get them.
    pub fn handle_transport_error(&mut self, now: Instant, flow: Flow) {
        // A request that was to go by any connection went by this one.
        let none = super::transport::FlowId::NONE;
        let same = |f: &Flow| f.transport == flow.transport && f.peer == flow.peer && (f.id == flow.id || f.id == none || flow.id == none);
        let failed: Vec<_> =
            self.clients.iter().filter(|(_, entry)| same(&entry.flow) && entry.machine.is_waiting()).map(|(tx, _)| *tx).collect();
        for tx in failed {
            if !self.send_as_datagram(now, tx) {
                self.clients.remove(&tx);
                self.events.push_back(Event::TransportFailed { tx });
            }
        }
        self.cancels.retain(|_, entry| !same(&entry.flow));
    }

    /// RFC 3261 §18.1.1: whom TCP does not reach gets the long request by UDP, and the next ones at once.
    fn send_as_datagram(&mut self, now: Instant, tx: ClientTx) -> bool {
        let Some(entry) = self.clients.get_mut(&tx) else { return false };
        let Some(datagram) = entry.datagram.take() else { return false };
        let Transmit { flow, bytes } = *datagram;
        entry.machine = ClientMachine::new(now, matches!(entry.machine, ClientMachine::Invite(_)), self.config.timers, &flow);
        (entry.flow, entry.bytes, entry.armed) = (flow, bytes.clone(), None);
        if self.without_tcp.len() >= MOST_WITHOUT_TCP {
            self.without_tcp.clear();
        }
        self.without_tcp.insert(flow.peer, now);
        self.transmits.push_back(Transmit { flow, bytes });
        self.settle_client(tx);
        true
    }

    /// Whether a request to this URI may as well go by TCP: it does not say UDP, it is no phone behind NAT, whose address leads
    /// nowhere, and it was not found to have none.
    fn permits_tcp(&self, now: Instant, flow: &Flow, uri: &str) -> bool {
        let found_without = self.without_tcp.get(&flow.peer).is_some_and(|at| now.saturating_duration_since(*at) < ASK_TCP_AGAIN);
        let direct = |uri: Uri<'_>| uri.transport().is_none() && uri.socket_addr() == Some(flow.peer);
        flow.transport == Transport::Udp && self.config.ports.tcp.is_some() && !found_without && Uri::parse(uri).is_ok_and(direct)
    }

    // --- the owner's wishes

    /// Answers a request: any number of 1xx, then one final; after a 2xx to an INVITE also its repetitions.
    /// An answer that comes too late is dropped. A missing To tag is made up.
    pub fn respond(&mut self, now: Instant, tx: ServerTx, response: Response) {
        let Some(entry) = self.servers.get_mut(&tx) else { return };
        let status = response.status;
        let send = match &mut entry.machine {
            ServerMachine::Invite(machine) => machine.respond(now, status),
            ServerMachine::Other(machine) => machine.respond(now, status),
        };
        if !send {
            return;
        }
        let response = if response.needs_to_tag() {
            let tag = entry.request.as_deref().map(|request| self.ids.tag_for(request));
            let tag = tag.unwrap_or_else(|| self.ids.token());
            response.to_tag(&tag)
        } else {
            response
        };
        let bytes = finish(&self.config, response);
        // A copy of its own size: the buffer that it was written into is larger, and this one is kept for half a minute.
        entry.last = Some(if entry.flow.transport.is_reliable() { bytes.clone() } else { Bytes::copy_from_slice(&bytes) });
        if status >= 200 {
            entry.request = None;
            // What is answered for good is not done twice; of an INVITE the 2xx has to be acknowledged first.
            if !entry.machine.is_open()
                && let Some(merge) = entry.merge.take()
            {
                self.merges.remove(&merge);
            }
        }
        self.transmits.push_back(Transmit { flow: entry.flow, bytes });
        self.settle_server(tx);
    }

    /// Answers a request and forgets it: should it come again, it is a new one. For challenges, so that who never answers them
    /// leaves nothing behind, and a forged sender gets one answer and not the eleven of timer G (RFC 3261 §26.3.2.4).
    pub fn respond_and_forget(&mut self, tx: ServerTx, response: Response) {
        let Some(entry) = self.servers.get(&tx) else { return };
        let ServerEntry { flow, request, .. } = entry.as_ref();
        let flow = *flow;
        // By this tag the ACK to the answer of an INVITE is known for one that has done its work.
        let tag = request.as_deref().map(|request| self.ids.tag_for(request));
        let response = if response.needs_to_tag() { response.to_tag(&tag.unwrap_or_else(|| self.ids.token())) } else { response };
        self.transmits.push_back(Transmit { flow, bytes: finish(&self.config, response) });
        self.forget(tx);
    }

    /// Forgets a request without any answer.
    pub fn forget(&mut self, tx: ServerTx) {
        let Some(entry) = self.servers.remove(&tx) else { return };
        self.server_keys.remove(&entry.key);
        if let Some(merge) = entry.merge
            && self.merges.get(&merge) == Some(&tx)
        {
            self.merges.remove(&merge);
        }
    }

    /// There is more to do than can be done soon: requests that begin a call get 503 with these seconds in Retry-After, before
    /// anything is remembered of them, but for one in eight. All else, and so every call that is up, goes on.
    pub fn set_crowded(&mut self, retry_after_secs: Option<u32>) {
        self.crowded = retry_after_secs;
    }

    /// Sends a request in a transaction of its own. Via is added; the owner gives all else, From tag, Call-ID and CSeq included.
    pub fn request(&mut self, now: Instant, flow: Flow, request: Request) -> ClientTx {
        self.next += 1;
        let tx = ClientTx(self.next);
        if self.clients.len() >= self.config.max_transactions {
            metrics::counter!("plugtone_sip_dropped_total", "reason" => "client_table_full").increment(1);
            self.events.push_back(Event::TransportFailed { tx });
            return tx;
        }
        let nonce = self.ids.next_u64();
        let (invite, permitted) = (request.method == Method::Invite, self.permits_tcp(now, &flow, &request.uri));
        let mut bytes = self.encode(&flow, &request, tx.0, nonce);
        let (mut flow, mut datagram) = (flow, None);
        if bytes.len() > LONGEST_DATAGRAM && permitted {
            datagram = Some(Box::new(Transmit { flow, bytes }));
            flow = Flow::tcp(flow.local, flow.peer);
            bytes = self.encode(&flow, &request, tx.0, nonce);
        }
        let machine = ClientMachine::new(now, invite, self.config.timers, &flow);
        self.transmits.push_back(Transmit { flow, bytes: bytes.clone() });
        let entry = ClientEntry { machine, flow, bytes, datagram, nonce, cancel_wanted: false, cancel_reason: None, armed: None };
        self.clients.insert(tx, Box::new(entry));
        self.settle_client(tx);
        tx
    }

    /// Sends a request outside of any transaction: the ACK to a 2xx. Returns what was sent, to be repeated with
    /// [`Self::transmit`] at each copy of the 2xx.
    pub fn send(&mut self, flow: Flow, request: Request) -> Transmit {
        self.next += 1;
        let nonce = self.ids.next_u64();
        let bytes = self.encode(&flow, &request, self.next, nonce);
        let transmit = Transmit { flow, bytes };
        self.transmits.push_back(transmit.clone());
        transmit
    }

    /// Sends bytes that were made before.
    pub fn transmit(&mut self, transmit: Transmit) {
        self.transmits.push_back(transmit);
    }

    /// Gives up an INVITE: the CANCEL goes out at once, or at the first provisional answer (RFC 3261 §9.1).
    /// A final answer still comes as an event: 487, or a 2xx that crossed. Of other requests nothing can be cancelled.
    /// `reason` becomes its Reason header: a phone that knows that the call was taken elsewhere lists no missed call (RFC 3326).
    pub fn cancel(&mut self, now: Instant, tx: ClientTx, reason: Option<&str>) {
        let Some(entry) = self.clients.get_mut(&tx) else { return };
        let ClientMachine::Invite(machine) = &mut entry.machine else { return };
        if !machine.is_waiting() || self.cancels.contains_key(&tx) {
            return;
        }
        if let Some(reason) = reason {
            entry.cancel_reason = Some(reason.into());
        }
        if machine.is_calling() {
            entry.cancel_wanted = true;
            return;
        }
        entry.cancel_wanted = false;
        machine.handle_cancelled(now);
        let (flow, nonce) = (entry.flow, entry.nonce);
        let reason = entry.cancel_reason.take();
        if let Some(bytes) = follow_up(&entry.bytes, Method::Cancel, None, reason.as_deref()) {
            self.transmits.push_back(Transmit { flow, bytes: bytes.clone() });
            let machine = Client::new(now, self.config.timers, flow.transport.is_reliable());
            self.cancels.insert(tx, CancelEntry { machine, flow, bytes, nonce, armed: None });
            self.settle_cancel(tx);
        }
        self.settle_client(tx);
    }

    // --- out

    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    // --- requests

    fn handle_request(&mut self, now: Instant, flow: Flow, request: Message) {
        let is_ack = request.is(&Method::Ack);
        if let Err(fault) = request.check() {
            metrics::counter!("plugtone_sip_refused_total", "status" => fault.status.to_string()).increment(1);
            tracing::debug!(peer = %flow.peer, ?request, %fault, "refused a malformed request");
            if !is_ack {
                self.answer_statelessly(flow, &request, Response::fault(&request, &fault));
            }
            return;
        }
        let Ok(via) = request.via() else { return };
        let key = server_key(&self.hash, &request, &via);
        let known = self.server_keys.get(&key).copied();
        match (request.method(), known) {
            (Some(Method::Ack), known) => self.handle_ack(now, flow, request, known),
            (Some(Method::Cancel), known) => self.handle_cancel(flow, request, known),
            (_, Some(tx)) => self.handle_repetition(tx),
            (_, None) => self.begin(now, flow, request, key),
        }
    }

    fn begin(&mut self, now: Instant, flow: Flow, request: Message, key: Key) {
        if let Some(secs) = self.crowded
            && request.is(&Method::Invite)
            && request.to().is_ok_and(|to| to.tag().is_none())
            && !self.hash[0].hash_one(request.call_id().unwrap_or_default()).is_multiple_of(TAKEN_WHEN_CROWDED)
        {
            metrics::counter!("plugtone_sip_refused_total", "status" => "503").increment(1);
            return self.answer_statelessly(flow, &request, Response::to(&request, 503).header(Name::RetryAfter, secs));
        }
        if let Some(refusal) = self.config.abilities.screen(&request) {
            metrics::counter!("plugtone_sip_refused_total", "status" => refusal.status.to_string()).increment(1);
            return self.answer_statelessly(flow, &request, refusal);
        }
        let merge = merge_key(&self.hash, &request);
        if let Some(merge) = &merge
            && let Some(other) = self.merges.get(merge).and_then(|tx| self.servers.get(tx))
            && other.machine.is_open()
        {
            metrics::counter!("plugtone_sip_refused_total", "status" => "482").increment(1);
            return self.answer_statelessly(flow, &request, Response::to(&request, 482));
        }
        if self.servers.len() >= self.config.max_transactions {
            metrics::counter!("plugtone_sip_refused_total", "status" => "503").increment(1);
            return self.answer_statelessly(flow, &request, Response::to(&request, 503).header(Name::RetryAfter, 10));
        }
        self.next += 1;
        let tx = ServerTx(self.next);
        let reliable = flow.transport.is_reliable();
        let (machine, kept) = if request.is(&Method::Invite) {
            (ServerMachine::Invite(Box::new(ServerInvite::new(now, self.config.timers, reliable))), Some(Box::new(request.clone())))
        } else {
            (ServerMachine::Other(Server::new(now, self.config.timers, reliable)), None)
        };
        if let Some(merge) = &merge {
            self.merges.insert(*merge, tx);
        }
        self.server_keys.insert(key, tx);
        let back = reply_flow(&flow, &request);
        let entry = ServerEntry { machine, key, merge, flow: back, last: None, request: kept, cancelled: false, armed: None };
        self.servers.insert(tx, Box::new(entry));
        self.settle_server(tx);
        self.events.push_back(Event::Request { tx, request, flow });
    }

    fn handle_repetition(&mut self, tx: ServerTx) {
        let Some(entry) = self.servers.get(&tx) else { return };
        let repeat = match &entry.machine {
            ServerMachine::Invite(machine) => machine.handle_invite() == Received::Repeat,
            ServerMachine::Other(machine) => machine.handle_request(),
        };
        if let (true, Some(bytes)) = (repeat, entry.last.clone()) {
            self.transmits.push_back(Transmit { flow: entry.flow, bytes });
        }
    }

    fn handle_ack(&mut self, now: Instant, flow: Flow, request: Message, known: Option<ServerTx>) {
        let entry = known.and_then(|tx| self.servers.get_mut(&tx).map(|entry| (tx, entry.as_mut())));
        match entry {
            Some((tx, ServerEntry { machine: ServerMachine::Invite(machine), .. })) => {
                let received = machine.handle_ack(now);
                self.settle_server(tx);
                if received == Received::Tell {
                    self.events.push_back(Event::Ack { request, flow });
                }
            }
            Some(_) => {}
            // The ACK to an answer that was stateless carries the tag that we made up then: it has done its work.
            None if request.to().is_ok_and(|to| to.tag() == Some(self.ids.tag_for(&request).as_str())) => {}
            None => self.events.push_back(Event::Ack { request, flow }),
        }
    }

    fn handle_cancel(&mut self, flow: Flow, request: Message, known: Option<ServerTx>) {
        let entry = known.and_then(|tx| self.servers.get_mut(&tx).map(|entry| (tx, entry)));
        let Some((tx, entry)) = entry else {
            return self.answer_statelessly(flow, &request, Response::to(&request, 481));
        };
        let first = !std::mem::replace(&mut entry.cancelled, true);
        let open = matches!(&entry.machine, ServerMachine::Invite(machine) if machine.is_unanswered());
        self.answer_statelessly(flow, &request, Response::to(&request, 200));
        if first && open {
            self.events.push_back(Event::Cancel { tx, request });
        }
    }

    fn answer_statelessly(&mut self, flow: Flow, request: &Message, response: Response) {
        let response = if response.needs_to_tag() { response.to_tag(&self.ids.tag_for(request)) } else { response };
        let bytes = finish(&self.config, response);
        self.transmits.push_back(Transmit { flow: reply_flow(&flow, request), bytes });
    }

    fn handle_server_timeout(&mut self, now: Instant, at: Instant, tx: ServerTx) {
        let Some(entry) = self.servers.get_mut(&tx).filter(|entry| entry.armed == Some(at)) else { return };
        entry.armed = None;
        let due = match &mut entry.machine {
            ServerMachine::Invite(machine) => machine.handle_timeout(now),
            ServerMachine::Other(machine) => machine.handle_timeout(now),
        };
        if due == Due::Repeat {
            if entry.last.is_none()
                && let Some(request) = &entry.request
            {
                entry.last = Some(finish(&self.config, Response::to(request, 100)));
            }
            if let Some(bytes) = entry.last.clone() {
                self.transmits.push_back(Transmit { flow: entry.flow, bytes });
            }
        }
        self.settle_server(tx);
    }

    // --- responses

    fn handle_response(&mut self, now: Instant, flow: Flow, response: Message) {
        let Some((tx, nonce, method)) = ours(&response) else {
            metrics::counter!("plugtone_sip_dropped_total", "reason" => "stray_response").increment(1);
            return;
        };
        let status = response.status().unwrap_or_default();
        if method == Method::Cancel {
            if let Some(entry) = self.cancels.get_mut(&tx).filter(|entry| entry.nonce == nonce) {
                entry.machine.handle_response(now, status);
                self.settle_cancel(tx);
            }
            return;
        }
        let Some(entry) = self.clients.get_mut(&tx).filter(|entry| entry.nonce == nonce) else {
            metrics::counter!("plugtone_sip_dropped_total", "reason" => "stray_response").increment(1);
            return;
        };
        entry.datagram = None;
        let tell = match &mut entry.machine {
            ClientMachine::Invite(machine) if method == Method::Invite => {
                let heard = machine.handle_response(now, status);
                if heard.ack
                    && let Some(bytes) = follow_up(&entry.bytes, Method::Ack, Some(&response), None)
                {
                    self.transmits.push_back(Transmit { flow: entry.flow, bytes });
                }
                heard.tell
            }
            ClientMachine::Other(machine) if method != Method::Invite => machine.handle_response(now, status),
            // An answer whose CSeq names another method than the branch's request is of nothing that we sent.
            _ => false,
        };
        let cancel = entry.cancel_wanted;
        if tell {
            self.events.push_back(Event::Response { tx, response, flow });
        }
        if cancel {
            self.cancel(now, tx, None);
        }
        self.settle_client(tx);
    }

    fn handle_client_timeout(&mut self, now: Instant, at: Instant, tx: ClientTx) {
        let Some(entry) = self.clients.get_mut(&tx).filter(|entry| entry.armed == Some(at)) else { return };
        entry.armed = None;
        let due = match &mut entry.machine {
            ClientMachine::Invite(machine) => machine.handle_timeout(now),
            ClientMachine::Other(machine) => machine.handle_timeout(now),
        };
        match due {
            Due::Repeat => self.transmits.push_back(Transmit { flow: entry.flow, bytes: entry.bytes.clone() }),
            Due::GiveUp => self.events.push_back(Event::TimedOut { tx }),
            Due::Nothing => {}
        }
        self.settle_client(tx);
    }

    fn handle_cancel_timeout(&mut self, now: Instant, at: Instant, tx: ClientTx) {
        let Some(entry) = self.cancels.get_mut(&tx).filter(|entry| entry.armed == Some(at)) else { return };
        entry.armed = None;
        if entry.machine.handle_timeout(now) == Due::Repeat {
            self.transmits.push_back(Transmit { flow: entry.flow, bytes: entry.bytes.clone() });
        }
        self.settle_cancel(tx);
    }

    // --- forgetting and timers

    fn settle_server(&mut self, tx: ServerTx) {
        let Some(entry) = self.servers.get_mut(&tx) else { return };
        let (done, wanted) = match &entry.machine {
            ServerMachine::Invite(machine) => (machine.is_done(), machine.poll_timeout()),
            ServerMachine::Other(machine) => (machine.is_done(), machine.poll_timeout()),
        };
        if !done {
            return arm(&mut self.timers, &mut entry.armed, wanted, TimerKey::Server(tx));
        }
        self.forget(tx);
    }

    fn settle_client(&mut self, tx: ClientTx) {
        let Some(entry) = self.clients.get_mut(&tx) else { return };
        let (done, wanted) = match &entry.machine {
            ClientMachine::Invite(machine) => (machine.is_done(), machine.poll_timeout()),
            ClientMachine::Other(machine) => (machine.is_done(), machine.poll_timeout()),
        };
        if done {
            self.clients.remove(&tx);
        } else {
            arm(&mut self.timers, &mut entry.armed, wanted, TimerKey::Client(tx));
        }
    }

    fn settle_cancel(&mut self, tx: ClientTx) {
        let Some(entry) = self.cancels.get_mut(&tx) else { return };
        if entry.machine.is_done() {
            self.cancels.remove(&tx);
        } else {
            arm(&mut self.timers, &mut entry.armed, entry.machine.poll_timeout(), TimerKey::Cancel(tx));
        }
    }

    fn encode(&self, flow: &Flow, request: &Request, tx: u64, nonce: u64) -> Bytes {
        let (transport, sent_by) = (flow.transport.as_via(), self.sent_by(flow));
        let via = format_args!("SIP/2.0/{transport} {sent_by};branch={MAGIC_COOKIE}{tx:x}-{nonce:016x};rport");
        request.encode(via, &self.config.product)
    }
}

impl ServerMachine {
    /// Whether the same request by another way would be done twice.
    fn is_open(&self) -> bool {
        match self {
            Self::Invite(machine) => machine.is_unanswered() || machine.is_accepted(),
            Self::Other(machine) => machine.is_unanswered(),
        }
    }
}

impl ClientMachine {
    fn new(now: Instant, invite: bool, timers: Timers, flow: &Flow) -> Self {
        let reliable = flow.transport.is_reliable();
        if invite { Self::Invite(ClientInvite::new(now, timers, reliable)) } else { Self::Other(Client::new(now, timers, reliable)) }
    }

    fn is_waiting(&self) -> bool {
        match self {
            Self::Invite(machine) => machine.is_waiting(),
            Self::Other(machine) => machine.is_waiting(),
        }
    }
}

/// Puts a timer into the heap unless an earlier one of the same transaction is there already: that one will ask again.
fn arm(timers: &mut BinaryHeap<Reverse<(Instant, TimerKey)>>, armed: &mut Option<Instant>, wanted: Option<Instant>, key: TimerKey) {
    if let Some(at) = wanted
        && armed.is_none_or(|armed| at < armed)
    {
        *armed = Some(at);
        timers.push(Reverse((at, key)));
    }
}

fn finish(config: &Config, response: Response) -> Bytes {
    if config.product.is_empty() { response.encode() } else { response.header(Name::Server, &config.product).encode() }
}

/// Where answers to a request go (RFC 3261 §18.2.2, RFC 3581).
fn reply_flow(flow: &Flow, request: &Message) -> Flow {
    if flow.transport.is_reliable() {
        return *flow;
    }
    let Ok(via) = request.via() else { return *flow };
    // A phone that names another address than it was seen at sits behind NAT: only the port that it came from leads back,
    // whether it knows of rport or not. maddr is not followed: it would let anybody aim our answers.
    let honest = via.host().trim_matches(['[', ']']).parse() == Ok(flow.peer.ip());
    if via.wants_rport() || !honest {
        return *flow;
    }
    Flow { peer: SocketAddr::new(flow.peer.ip(), via.port.unwrap_or(5060)), ..*flow }
}

/// What makes two requests the same transaction (RFC 3261 §17.2.3). ACK and CANCEL have the key of their INVITE.
fn server_key(hash: &[RandomState; 2], request: &Message, via: &Via<'_>) -> Key {
    let mut key = Keyed::new(hash);
    let method = match request.method() {
        Some(Method::Ack | Method::Cancel) | None => "INVITE",
        Some(method) => method.as_str(),
    };
    key.put(method.as_bytes());
    key.put(via.host().as_bytes());
    key.put(&via.port.unwrap_or_default().to_be_bytes());
    match via.branch().and_then(|branch| branch.strip_prefix(MAGIC_COOKIE)) {
        Some(branch) if !branch.is_empty() => key.put(branch.as_bytes()),
        // RFC 2543, or a branch that is only the cookie: everything that such clients keep equal. The To tag is left out:
        // an ACK has one where its INVITE had none.
        _ => {
            key.put(request.raw_uri());
            key.put(request.call_id().unwrap_or_default().as_bytes());
            key.put(request.from().ok().and_then(|from| from.tag()).unwrap_or_default().as_bytes());
            key.put(&request.cseq().map_or(0, |cseq| cseq.number).to_be_bytes());
            key.put(via.branch().unwrap_or_default().as_bytes());
        }
    }
    key.key()
}

/// What two copies of a request have in common that came by different ways; `None` within a dialog.
fn merge_key(hash: &[RandomState; 2], request: &Message) -> Option<Key> {
    if request.to().ok()?.tag().is_some() {
        return None;
    }
    let cseq = request.cseq().ok()?;
    let mut key = Keyed::new(hash);
    for part in [request.from().ok()?.tag()?, request.call_id().ok()?, cseq.method] {
        key.put(part.as_bytes());
    }
    key.put(&cseq.number.to_be_bytes());
    Some(key.key())
}

/// The transaction that an answer names in a branch of our making; `None` for strays and for answers that are malformed.
fn ours(response: &Message) -> Option<(ClientTx, u64, Method)> {
    let branch = response.via().ok()?.branch()?.strip_prefix(MAGIC_COOKIE)?;
    let (tx, nonce) = branch.split_once('-')?;
    let tx = ClientTx(u64::from_str_radix(tx, 16).ok()?);
    let nonce = u64::from_str_radix(nonce, 16).ok()?;
    response.check().ok()?;
    // RFC 3261 §18.1.2: more than one Via in an answer means that it is not for us.
    if response.elements(Name::Via).nth(1).is_some() {
        return None;
    }
    Some((tx, nonce, Method::of(response.cseq().ok()?.method)))
}

/// CANCEL, or the ACK to a refusal, of an INVITE: the same Request-URI, top Via, From, Call-ID, CSeq number and Routes
/// (RFC 3261 §9.1, §17.1.1.3). The ACK's To is the answer's.
fn follow_up(invite: &Bytes, method: Method, response: Option<&Message>, reason: Option<&str>) -> Option<Bytes> {
    let invite = Message::parse(invite.clone()).ok()?;
    let to = response.and_then(|response| response.header(Name::To)).or_else(|| invite.header(Name::To))?;
    let uri = std::str::from_utf8(invite.raw_uri()).ok()?;
    let number = invite.cseq().ok()?.number;
    let mut request = Request::new(method.clone(), uri)
        .raw_header(b"From", invite.header(Name::From)?)
        .raw_header(b"To", to)
        .raw_header(b"Call-ID", invite.header(Name::CallId)?)
        .header(Name::CSeq, format_args!("{number} {method}"));
    for route in invite.all(Name::Route) {
        request = request.raw_header(b"Route", route);
    }
    if let Some(reason) = reason {
        request = request.header(Name::Reason, reason);
    }
    Some(request.encode(invite.text(Name::Via)?, ""))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Two endpoints, a phone and a server, over a link in virtual time that may lose datagrams.
    struct Link {
        now: Instant,
        start: Instant,
        ends: [Endpoint; 2],
        flows: [Flow; 2],
        /// Of each end, oldest first.
        events: [Vec<Event>; 2],
        /// Start lines that went over the link, with the millisecond and the sender.
        log: Vec<(u64, usize, String)>,
        /// Whether the n-th message is lost.
        lost: Box<dyn FnMut(u64) -> bool>,
        sent: u64,
    }

    const PHONE: usize = 0;
    const SERVER: usize = 1;

    impl Link {
        fn new(transport: super::super::Transport) -> Self {
            let now = Instant::now();
            let (phone, server) = ("10.0.0.5:5060".parse().unwrap(), "10.0.0.1:5060".parse().unwrap());
            let flow = |local, peer| Flow { transport, ..Flow::udp(local, peer) };
            Self {
                now,
                start: now,
                ends: [1, 2].map(|n| Endpoint::new(Config::default(), [n; 32])),
                flows: [flow(phone, server), flow(server, phone)],
                events: [vec![], vec![]],
                log: vec![],
                lost: Box::new(|_| false),
                sent: 0,
            }
        }

        fn udp() -> Self {
            Self::new(super::super::Transport::Udp)
        }

        /// Delivers what is due now, then lets time pass up to `ms` after the start.
        fn run_to(&mut self, ms: u64) {
            let until = self.start + Duration::from_millis(ms);
            loop {
                self.deliver();
                let next = self.ends.iter().filter_map(Endpoint::poll_timeout).min().filter(|at| *at <= until);
                let Some(next) = next else { break };
                self.now = self.now.max(next);
                for end in &mut self.ends {
                    end.handle_timeout(self.now);
                }
            }
            self.now = until;
        }

        fn deliver(&mut self) {
            loop {
                let mut quiet = true;
                for from in [PHONE, SERVER] {
                    while let Some(event) = self.ends[from].poll_event() {
                        self.events[from].push(event);
                    }
                    let Some(transmit) = self.ends[from].poll_transmit() else { continue };
                    quiet = false;
                    let line = String::from_utf8_lossy(&transmit.bytes).lines().next().unwrap_or_default().to_owned();
                    self.sent += 1;
                    let lost = (self.lost)(self.sent);
                    self.log.push(((self.now - self.start).as_millis() as u64, from, line));
                    if !lost {
                        self.ends[1 - from].handle_message(self.now, self.flows[1 - from], transmit.bytes);
                    }
                }
                if quiet {
                    return;
                }
            }
        }

        fn send(&mut self, request: Request) -> ClientTx {
            let (now, flow) = (self.now, self.flows[PHONE]);
            self.ends[PHONE].request(now, flow, request)
        }

        /// What reached the server as a request.
        fn requests(&mut self) -> Vec<(ServerTx, Message)> {
            let events = std::mem::take(&mut self.events[SERVER]);
            let (requests, others): (Vec<_>, Vec<_>) = events.into_iter().partition(|e| matches!(e, Event::Request { .. }));
            self.events[SERVER] = others;
            let take = |event| if let Event::Request { tx, request, .. } = event { Some((tx, request)) } else { None };
            requests.into_iter().filter_map(take).collect()
        }

        fn respond(&mut self, tx: ServerTx, request: &Message, status: u16) {
            let now = self.now;
            self.ends[SERVER].respond(now, tx, Response::to(request, status));
        }

        /// Statuses and ends that the phone heard of.
        fn heard(&mut self) -> Vec<String> {
            let word = |event| match event {
                Event::Response { response, .. } => response.status().unwrap().to_string(),
                Event::TimedOut { .. } => "timed out".into(),
                Event::TransportFailed { .. } => "failed".into(),
                other => format!("{other:?}"),
            };
            std::mem::take(&mut self.events[PHONE]).into_iter().map(word).collect()
        }

        fn lines(&self, from: usize) -> Vec<(u64, &str)> {
            self.log.iter().filter(|(_, f, _)| *f == from).map(|(ms, _, line)| (*ms, line.as_str())).collect()
        }
    }

    fn request(method: Method) -> Request {
        Request::new(method.clone(), "sip:2042@10.0.0.1")
            .header(Name::From, "<sip:2041@10.0.0.1>;tag=a")
            .header(Name::To, "<sip:2042@10.0.0.1>")
            .header(Name::CallId, "call-1")
            .header(Name::CSeq, format_args!("7 {method}"))
            .header(Name::Contact, "<sip:2041@10.0.0.5>")
    }

    #[test]
    fn a_refused_call_is_acknowledged_by_itself() {
        let mut link = Link::udp();
        link.send(request(Method::Invite));
        link.run_to(1000);
        let (tx, invite) = link.requests().pop().expect("the INVITE");
        link.respond(tx, &invite, 180);
        link.run_to(2000);
        link.respond(tx, &invite, 486);
        link.run_to(3000);
        assert_eq!(link.heard(), ["100", "180", "486"]);
        assert_eq!(
            link.log.iter().map(|(ms, from, line)| (*ms, *from, line.as_str())).collect::<Vec<_>>(),
            [
                (0, PHONE, "INVITE sip:2042@10.0.0.1 SIP/2.0"),
                (200, SERVER, "SIP/2.0 100 Trying"),
                (1000, SERVER, "SIP/2.0 180 Ringing"),
                (2000, SERVER, "SIP/2.0 486 Busy Here"),
                (2000, PHONE, "ACK sip:2042@10.0.0.1 SIP/2.0"),
            ]
        );
        assert!(link.events[SERVER].is_empty(), "nobody is bothered with that ACK");
        link.run_to(60_000);
        assert_eq!((link.ends[PHONE].transactions(), link.ends[SERVER].transactions()), ((0, 0), (0, 0)));
    }

    #[test]
    fn an_answered_call_tells_each_2xx_and_its_ack() {
        let mut link = Link::udp();
        link.send(request(Method::Invite));
        link.run_to(10);
        let (tx, invite) = link.requests().pop().unwrap();
        link.respond(tx, &invite, 200);
        link.run_to(20);
        link.respond(tx, &invite, 200);
        link.run_to(30);
        assert_eq!(link.heard(), ["200", "200"]);
        let (flow, ack) = (link.flows[PHONE], request(Method::Ack));
        let ack = link.ends[PHONE].send(flow, ack);
        link.ends[PHONE].transmit(ack);
        link.run_to(40);
        assert_eq!(link.events[SERVER].iter().filter(|e| matches!(e, Event::Ack { .. })).count(), 2);
        link.run_to(60_000);
        assert_eq!((link.ends[PHONE].transactions(), link.ends[SERVER].transactions()), ((0, 0), (0, 0)));
    }

    #[test]
    fn a_cancel_waits_for_the_first_answer_and_reaches_the_invite() {
        let mut link = Link::udp();
        let call = link.send(request(Method::Invite));
        let now = link.now;
        link.ends[PHONE].cancel(now, call, None);
        link.run_to(100);
        assert_eq!(link.lines(PHONE).len(), 1, "nothing was heard yet");
        link.run_to(300);
        let (tx, invite) = link.requests().pop().unwrap();
        assert!(matches!(link.events[SERVER].pop(), Some(Event::Cancel { tx: cancelled, .. }) if cancelled == tx));
        link.respond(tx, &invite, 487);
        link.run_to(400);
        assert_eq!(link.heard(), ["100", "487"]);
        let sent: Vec<_> = link.lines(PHONE).iter().map(|(_, line)| line.split(' ').next().unwrap()).collect();
        assert_eq!(sent, ["INVITE", "CANCEL", "ACK"]);
        let answers: Vec<_> = link.lines(SERVER).iter().map(|(_, line)| &line[8..11]).collect();
        assert_eq!(answers, ["100", "200", "487"]);
        link.run_to(60_000);
        assert_eq!((link.ends[PHONE].transactions(), link.ends[SERVER].transactions()), ((0, 0), (0, 0)));
    }

    #[test]
    fn repetitions_are_absorbed_and_answered_alike() {
        let mut link = Link::udp();
        // The first answer is lost.
        link.lost = Box::new(|n| n == 2);
        link.send(request(Method::Options));
        link.run_to(10);
        let (tx, options) = link.requests().pop().unwrap();
        link.respond(tx, &options, 200);
        link.run_to(1000);
        assert_eq!(link.heard(), ["200"]);
        assert!(link.requests().is_empty(), "told once");
        assert_eq!(link.lines(SERVER).len(), 2);
    }

    #[test]
    fn whatever_the_link_loses_both_sides_agree_in_the_end() {
        for seed in 1..200u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut link = Link::udp();
            // Every third is lost, but not for ever.
            link.lost = Box::new(move |n| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                n < 20 && random.is_multiple_of(3)
            });
            link.send(request(Method::Invite));
            link.send(request(Method::Info));
            for second in 1..200 {
                link.run_to(second * 1000);
                for (tx, message) in link.requests() {
                    let status = if message.is(&Method::Invite) { 603 } else { 200 };
                    link.respond(tx, &message, status);
                }
            }
            let mut heard = link.heard();
            heard.retain(|word| word != "100");
            heard.sort();
            assert_eq!(heard, ["200", "603"], "seed {seed}: {:?}", link.log);
            assert_eq!((link.ends[PHONE].transactions(), link.ends[SERVER].transactions()), ((0, 0), (0, 0)), "seed {seed}");
        }
    }

    #[test]
    fn silence_and_broken_connections_are_told() {
        let mut link = Link::udp();
        link.lost = Box::new(|_| true);
        link.send(request(Method::Invite));
        link.send(request(Method::Options));
        link.run_to(40_000);
        assert_eq!(link.heard(), ["timed out", "timed out"]);
        let mut link = Link::new(super::super::Transport::Tcp);
        link.lost = Box::new(|_| true);
        link.send(request(Method::Options));
        let (now, flow) = (link.now, Flow { id: super::super::FlowId(9), ..link.flows[PHONE] });
        link.ends[PHONE].handle_transport_error(now, flow);
        link.run_to(40_000);
        assert_eq!(link.heard(), ["failed"]);
        assert_eq!(link.lines(PHONE).len(), 1, "TCP repeats by itself");
    }

    #[test]
    fn a_long_request_goes_by_tcp_where_there_is_some() {
        let flow = Flow::udp("10.0.0.1:5060".parse().unwrap(), "10.0.0.5:5060".parse().unwrap());
        let long = "x".repeat(1300);
        let by = |endpoint: &mut Endpoint| {
            let sent = std::iter::from_fn(|| endpoint.poll_transmit());
            sent.map(|t| {
                let via = String::from_utf8_lossy(&t.bytes).contains(&format!("Via: SIP/2.0/{} ", t.flow.transport.as_via()));
                assert!(via, "Via says how it is sent");
                t.flow.transport.as_str()
            })
            .collect::<Vec<_>>()
        };
        let now = Instant::now();
        let start = || {
            let ports = Ports { tcp: Some(5060), ..Ports::default() };
            Endpoint::new(Config { ports, ..Config::default() }, [1; 32])
        };
        let send = |endpoint: &mut Endpoint, uri: &str, subject: &str| {
            let mut request = request(Method::Invite).header_named("Subject", subject);
            request.uri = uri.into();
            endpoint.request(now, flow, request);
            by(endpoint)
        };
        for (uri, subject, transport) in [
            ("sip:2042@10.0.0.5", "short", "udp"),
            ("sip:2042@10.0.0.5", &long, "tcp"),
            ("sip:2042@10.0.0.5:5060", &long, "tcp"),
            ("sip:2042@10.0.0.5;transport=UDP", &long, "udp"),
            ("sip:2042@192.168.1.9", &long, "udp"),
            ("sip:2042@phone.example.com", &long, "udp"),
        ] {
            assert_eq!(send(&mut start(), uri, subject), [transport], "{uri} {subject:.5}");
        }
        // Refused: by UDP after all, with its repetitions; the next one at once, but not for ever.
        let mut endpoint = start();
        assert_eq!(send(&mut endpoint, "sip:2042@10.0.0.5", &long), ["tcp"]);
        endpoint.handle_transport_error(now, Flow { id: super::super::FlowId(3), ..Flow::tcp(flow.local, flow.peer) });
        assert_eq!(by(&mut endpoint), ["udp"]);
        endpoint.handle_timeout(now + Duration::from_millis(500));
        assert_eq!(by(&mut endpoint), ["udp"]);
        assert_eq!(send(&mut endpoint, "sip:2042@10.0.0.5", &long), ["udp"]);
        assert!(endpoint.poll_event().is_none(), "the owner is not bothered");
        endpoint.handle_transport_error(now, flow);
        assert_eq!(std::iter::from_fn(|| endpoint.poll_event()).filter(|e| matches!(e, Event::TransportFailed { .. })).count(), 2);
        let mut request = request(Method::Options).header_named("Subject", &long);
        request.uri = "sip:2042@10.0.0.5".into();
        endpoint.request(now + Duration::from_secs(3601), flow, request);
        assert_eq!(by(&mut endpoint), ["tcp"]);
    }

    /// An endpoint alone, and what it answers to bytes.
    fn answers(endpoint: &mut Endpoint, text: &str) -> Vec<String> {
        let flow = Flow::udp("10.0.0.1:5060".parse().unwrap(), "10.0.0.5:40000".parse().unwrap());
        endpoint.handle_message(Instant::now(), flow, Bytes::from(text.to_owned()));
        std::iter::from_fn(|| endpoint.poll_transmit())
            .map(|t| format!("{} {}", &String::from_utf8_lossy(&t.bytes)[8..11], t.flow.peer))
            .collect()
    }

    fn text(method: &str, via: &str, more: &str) -> String {
        format!(
            "{method} sip:2042@10.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {via}\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\n\
             Call-ID: x\r\nCSeq: 1 {method}\r\n{more}\r\n"
        )
    }

    #[test]
    fn answers_find_their_way_back() {
        for (via, to) in [
            ("10.0.0.5;branch=z9hG4bK1;rport", "10.0.0.5:40000"),
            ("10.0.0.5;branch=z9hG4bK1", "10.0.0.5:5060"),
            ("10.0.0.5:5070;branch=z9hG4bK1", "10.0.0.5:5070"),
            ("192.168.1.9:5070;branch=z9hG4bK1", "10.0.0.5:40000"),
            ("10.0.0.5;branch=z9hG4bK1;maddr=10.9.9.9", "10.0.0.5:5060"),
        ] {
            let mut endpoint = Endpoint::new(Config::default(), [0; 32]);
            assert_eq!(answers(&mut endpoint, &text("NOSUCH", via, "")), [format!("501 {to}")], "{via}");
            assert_eq!(endpoint.transactions(), (0, 0), "nothing is kept");
        }
    }

    #[test]
    fn copies_by_another_way_are_refused_and_old_clients_are_matched() {
        let mut endpoint = Endpoint::new(Config::default(), [0; 32]);
        let via = |branch: &str| format!("10.0.0.5;rport;branch={branch}");
        assert!(answers(&mut endpoint, &text("INVITE", &via("z9hG4bK1"), "")).is_empty());
        assert!(answers(&mut endpoint, &text("INVITE", &via("z9hG4bK1"), "")).is_empty(), "repeated");
        assert_eq!(answers(&mut endpoint, &text("INVITE", &via("z9hG4bK2"), "")), ["482 10.0.0.5:40000"]);
        assert_eq!(answers(&mut endpoint, &text("CANCEL", &via("z9hG4bK1"), "")), ["200 10.0.0.5:40000"]);
        assert_eq!(answers(&mut endpoint, &text("CANCEL", &via("z9hG4bK3"), "")), ["481 10.0.0.5:40000"]);
        let mut old = Endpoint::new(Config::default(), [0; 32]);
        for _ in 0..3 {
            answers(&mut old, &text("INVITE", "10.0.0.5", ""));
        }
        assert_eq!(old.transactions().0, 1);
        assert_eq!(answers(&mut old, &text("CANCEL", "10.0.0.5", "")), ["200 10.0.0.5:5060"]);
        let mut full = Endpoint::new(Config { max_transactions: 1, ..Config::default() }, [0; 32]);
        answers(&mut full, &text("INVITE", &via("z9hG4bK1"), ""));
        assert_eq!(answers(&mut full, &text("INVITE", &via("z9hG4bK1"), "").replace("ID: x", "ID: y")), [""; 0], "the same branch");
        let other = text("INVITE", &via("z9hG4bK2"), "").replace("ID: x", "ID: y");
        assert_eq!(answers(&mut full, &other), ["503 10.0.0.5:40000"]);
    }

    #[test]
    fn in_a_storm_some_get_through() {
        let mut endpoint = Endpoint::new(Config::default(), [0; 32]);
        endpoint.set_crowded(Some(5));
        let invite = |call: usize, branch: &str| {
            text("INVITE", &format!("10.0.0.5;rport;branch=z9hG4bK{branch}{call}"), "").replace("ID: x", &format!("ID: {call}"))
        };
        let refused = |endpoint: &mut Endpoint, invite: &str| match answers(endpoint, invite).as_slice() {
            [] => false,
            [one] if one.starts_with("503") => true,
            other => panic!("{other:?}"),
        };
        let through: Vec<_> = (0..800).filter(|call| !refused(&mut endpoint, &invite(*call, "a"))).collect();
        assert!((40..200).contains(&through.len()), "{}", through.len());
        // Each is a transaction; who was told to wait has left nothing. With credentials it comes by another branch.
        assert_eq!(endpoint.transactions().0, through.len());
        let again: Vec<_> = (0..800).filter(|call| answers(&mut endpoint, &invite(*call, "b")) != ["503 10.0.0.5:40000"]).collect();
        assert_eq!(again, through);
        endpoint.set_crowded(None);
        assert!(!refused(&mut endpoint, &invite(900, "a")));
    }

    #[test]
    fn strays_change_nothing() {
        let mut link = Link::udp();
        link.send(request(Method::Options));
        link.run_to(1);
        let branch = |b: &str| {
            format!(
                "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 10.0.0.5:5060;branch={b}\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=2\r\n\
                 Call-ID: call-1\r\nCSeq: 7 OPTIONS\r\n\r\n"
            )
        };
        for b in ["z9hG4bK1-0000000000000000", "z9hG4bK1", "z9hG4bK-", "z9hG4bKzz-1", "x", "z9hG4bKffffffffffffffffff-1"] {
            let (now, flow) = (link.now, link.flows[PHONE]);
            link.ends[PHONE].handle_message(now, flow, branch(b).into());
        }
        link.deliver();
        assert!(link.heard().is_empty());
    }
}
