//! One SIP element without sockets: matches messages to transactions, drives them, and tells its owner of requests and answers.
//!
//! In: [`Endpoint::handle_message`], [`Endpoint::handle_timeout`], [`Endpoint::handle_transport_error`], and what the owner wants:
//! [`Endpoint::request`], [`Endpoint::respond`], [`Endpoint::cancel`], [`Endpoint::send`]. Out: [`Endpoint::poll_transmit`],
//! [`Endpoint::poll_event`], [`Endpoint::poll_timeout`]; drain the first two after every call.
//!
//! What is refused here never reaches the owner: malformed requests (400, 505, 416), unknown methods and extensions (501, 405,
//! 420), merged requests (482), spent hops (483), bodies that nobody reads (406, 415), a CANCEL of nothing (481), and more
//! transactions than fit (503). These answers are stateless (RFC 3261 §8.2.7): abuse leaves nothing in memory.
//! In this folder: what tells two requests from one that came twice (`key.rs`), answers kept for repetitions (`answered.rs`).
//! Not here: dialogs and the repetition of 2xx and its ACK (`ua`), who may do what (`digest.rs`).

mod answered;
mod key;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use answered::Answered;
use key::{Key, Keys};

use super::{
    build::{Request, Response},
    header::MAGIC_COOKIE,
    ids::Ids,
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
use crate::model::NumberHash;

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
    keys: Keys,
    /// Seconds after which new calls shall try again; `None`: they are taken.
    crowded: Option<u32>,
    next: u64,
    // In boxes: the tables themselves stay small, and are not copied whole each time they grow.
    servers: HashMap<ServerTx, Box<ServerEntry>, NumberHash>,
    server_keys: HashMap<Key, ServerTx, NumberHash>,
    /// Requests but INVITE, oldest first, and when they are forgotten unless they are answered: by then the client has given up,
    /// and a 408 would only confuse those behind it (RFC 4320 §4).
    unanswered: VecDeque<(Instant, ServerTx)>,
    answered: Answered,
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
        let answered = Answered::new(config.timers.patience());
        Self {
            config,
            ids: Ids::new(seed),
            keys: Keys::new(),
            crowded: None,
            next: 0,
            servers: HashMap::default(),
            server_keys: HashMap::default(),
            unanswered: VecDeque::new(),
            answered,
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
        (self.answering(), self.clients.len() + self.cancels.len())
    }

    fn answering(&self) -> usize {
        self.servers.len() + self.answered.len()
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
        self.answered.handle_timeout(now);
        while let Some((_, tx)) = self.unanswered.pop_front_if(|(at, _)| *at <= now) {
            self.forget(tx);
        }
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
            ServerMachine::Other(machine) => machine.respond(status),
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
        let response = signed(&self.config, response);
        if let ServerMachine::Other(machine) = &entry.machine
            && !machine.is_unanswered()
        {
            let bytes = if entry.flow.transport.is_reliable() {
                response.encode()
            } else {
                let (bytes, remembered) = response.encode_and_remember();
                self.answered.insert(now, entry.key, remembered);
                bytes
            };
            self.transmits.push_back(Transmit { flow: entry.flow, bytes });
            return self.forget(tx);
        }
        let bytes = response.encode();
        self.transmits.push_back(Transmit { flow: entry.flow, bytes: bytes.clone() });
        // A copy of its own size: the buffer that it was written into is larger, and this one is kept for half a minute.
        entry.last = Some(if entry.flow.transport.is_reliable() { bytes } else { Bytes::copy_from_slice(&bytes) });
        if status >= 200 {
            entry.request = None;
            // What is answered for good is not done twice; of an INVITE the 2xx has to be acknowledged first.
            if !entry.machine.is_open()
                && let Some(merge) = entry.merge.take()
            {
                self.merges.remove(&merge);
            }
        }
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
        self.transmits.push_back(Transmit { flow, bytes: signed(&self.config, response).encode() });
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
        let timers = self.timers.peek().map(|Reverse((at, _))| *at);
        let unanswered = self.unanswered.front().map(|(at, _)| *at);
        timers.into_iter().chain(unanswered).chain(self.answered.poll_timeout()).min()
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
        let key = self.keys.transaction(&request, &via);
        let known = self.server_keys.get(&key).copied();
        match (request.method(), known) {
            (Some(Method::Ack), known) => self.handle_ack(now, flow, request, known),
            (Some(Method::Cancel), known) => self.handle_cancel(flow, request, known),
            (_, Some(tx)) => self.handle_repetition(tx),
            (_, None) => match self.answered.get(&key, &request) {
                Some(bytes) => self.transmits.push_back(Transmit { flow: reply_flow(&flow, &request), bytes }),
                None => self.begin(now, flow, request, key),
            },
        }
    }

    fn begin(&mut self, now: Instant, flow: Flow, request: Message, key: Key) {
        if let Some(secs) = self.crowded
            && request.is(&Method::Invite)
            && request.to().is_ok_and(|to| to.tag().is_none())
            && !self.keys.number(request.call_id().unwrap_or_default()).is_multiple_of(TAKEN_WHEN_CROWDED)
        {
            metrics::counter!("plugtone_sip_refused_total", "status" => "503").increment(1);
            return self.answer_statelessly(flow, &request, Response::to(&request, 503).header(Name::RetryAfter, secs));
        }
        if let Some(refusal) = self.config.abilities.screen(&request) {
            metrics::counter!("plugtone_sip_refused_total", "status" => refusal.status.to_string()).increment(1);
            return self.answer_statelessly(flow, &request, refusal);
        }
        let merge = self.keys.merge(&request);
        if let Some(merge) = &merge
            && let Some(other) = self.merges.get(merge).and_then(|tx| self.servers.get(tx))
            && other.machine.is_open()
        {
            metrics::counter!("plugtone_sip_refused_total", "status" => "482").increment(1);
            return self.answer_statelessly(flow, &request, Response::to(&request, 482));
        }
        if self.answering() >= self.config.max_transactions {
            metrics::counter!("plugtone_sip_refused_total", "status" => "503").increment(1);
            return self.answer_statelessly(flow, &request, Response::to(&request, 503).header(Name::RetryAfter, 10));
        }
        self.next += 1;
        let tx = ServerTx(self.next);
        let (machine, kept) = if request.is(&Method::Invite) {
            let machine = ServerInvite::new(now, self.config.timers, flow.transport.is_reliable());
            (ServerMachine::Invite(Box::new(machine)), Some(Box::new(request.clone())))
        } else {
            self.await_answer(now + self.config.timers.patience(), tx);
            (ServerMachine::Other(Server::default()), None)
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

    /// All wait for as long, so the queue is in order; those at its front that were answered leave it.
    fn await_answer(&mut self, ends: Instant, tx: ServerTx) {
        while self.unanswered.pop_front_if(|(_, tx)| !self.servers.contains_key(tx)).is_some() {}
        self.unanswered.push_back((ends, tx));
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
        let bytes = signed(&self.config, response).encode();
        self.transmits.push_back(Transmit { flow: reply_flow(&flow, request), bytes });
    }

    fn handle_server_timeout(&mut self, now: Instant, at: Instant, tx: ServerTx) {
        let Some(entry) = self.servers.get_mut(&tx).filter(|entry| entry.armed == Some(at)) else { return };
        entry.armed = None;
        let ServerMachine::Invite(machine) = &mut entry.machine else { return };
        if machine.handle_timeout(now) == Due::Repeat {
            if entry.last.is_none()
                && let Some(request) = &entry.request
            {
                entry.last = Some(signed(&self.config, Response::to(request, 100)).encode());
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
        // The others have none of their own.
        let ServerMachine::Invite(machine) = &entry.machine else { return };
        if machine.is_done() {
            self.forget(tx);
        } else {
            arm(&mut self.timers, &mut entry.armed, machine.poll_timeout(), TimerKey::Server(tx));
        }
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

fn signed(config: &Config, response: Response) -> Response {
    if config.product.is_empty() { response } else { response.header(Name::Server, &config.product) }
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
