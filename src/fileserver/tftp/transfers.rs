//! All transfers of one listening address: what is a new request, by which port of ours it is answered, what is due and when. Sans-I/O.
//!
//! ```text
//!  RRQ ─► Effect::Ask ─────── answer ─► sender.rs ⇄ datagrams ─────────────────────────► Effect::Ended
//!                                          └ Effect::Read ─ piece of a long file ─┘
//!  WRQ ─► Effect::MayUpload ─ limit ──► receiver.rs ⇄ datagrams ─► Effect::Store ─ kept ─► the last ACK
//! ```
//! Driven with `handle_*(now, …)`; after each drain [`Transfers::poll_transmit`] for every port, then [`Transfers::poll_effect`], until
//! there is neither; wake at [`Transfers::poll_timeout`].
//!
//! A few ports carry all transfers: one of its own for each costs as much as a short file takes otherwise. A transfer is known by the
//! ports of both ends (RFC 1350 §4). A client that always asks from the same port meets another one of ours each time, or a block of its
//! last file that was late would be taken for one of the next. Who forges a client's address has to guess its port.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Settings, netascii,
    options::{Caps, negotiate},
    packet::{self, Direction, ErrorCode, Mode, Request},
    receiver::Receiver,
    sender::{Fault, Outcome, Sender},
};
use crate::{
    fileserver::{
        climbs,
        limits::{Full, Slot, Slots},
    },
    model::{MacAddr, NumberHash, event::Door},
    provisioning::{Body, FileAnswer, FileRequest, firmware::Stored},
};

/// How many ports of ours carry transfers: a client never meets the same twice in succession.
pub const PORTS: usize = 2;
/// A client that is this long without progress and asks again begins anew; before, it is a repeated request.
const STALE: Duration = Duration::from_secs(3);
/// A client that has the last block may ask again for the same before we have read its ACK: it waits there already. Later than this it was
/// the last block that was lost, and the request is a repeated one.
const OVERTAKES: Duration = Duration::from_millis(100);
/// So long after a transfer its client does not meet the same port again; as packets live no longer in any network of ours.
const REMEMBERED: Duration = Duration::from_secs(60);
/// And no more clients than these: who sends requests from many ports does not fill our memory.
const MOST_REMEMBERED: usize = 4096;
/// Deadlines that are nearer to each other are looked at together: when a network is cut off, thousands come near each other.
const TOGETHER: Duration = Duration::from_millis(10);

/// A transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id(u64);

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    Begun,
    /// It is being served already.
    Repeated,
    Full(Full),
}

/// Where a packet goes, and which address of ours it leaves from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

/// What is wanted of others.
pub enum Effect {
    /// Which file is it? For [`Transfers::handle_answer`].
    Ask { id: Id, asked: FileRequest },
    /// May this be uploaded? For [`Transfers::handle_limit`].
    MayUpload { id: Id, asked: FileRequest },
    /// This part of the file, and what is at hand behind it. For [`Transfers::handle_read`].
    Read { id: Id, stored: Arc<Stored>, start: u64, end: u64 },
    /// Keep this. For [`Transfers::handle_stored`].
    Store { id: Id, asked: FileRequest, body: Bytes },
    /// A file was delivered, or a transfer failed.
    Ended(Box<Ended>),
}

/// How a transfer ended.
pub struct Ended {
    pub peer: SocketAddr,
    pub asked: FileRequest,
    /// Whose file it was.
    pub mac: Option<MacAddr>,
    pub direction: Direction,
    /// Of the file that was sent.
    pub bytes: u64,
    /// From the answer of the pipeline on.
    pub took: Duration,
    pub outcome: Outcome,
}

/// See the head of this file.
pub struct Transfers {
    settings: Settings,
    slots: Slots,
    /// The transfer that each client began last, also when it is over.
    clients: HashMap<SocketAddr, Latest>,
    all: HashMap<Id, Transfer, NumberHash>,
    begun: u64,
    /// By port: those that may have something to send.
    ready: [VecDeque<Id>; PORTS],
    effects: VecDeque<Effect>,
    /// Those that are over, oldest first, until their clients are forgotten.
    over: VecDeque<(Instant, SocketAddr, Id)>,
    /// No deadline is before this.
    wake: Option<Instant>,
    looked_at: Option<Instant>,
    stopping: bool,
}

struct Latest {
    id: Id,
    port: usize,
}

struct Transfer {
    way: Way,
    port: usize,
    request: Request,
    asked: FileRequest,
    mac: Option<MacAddr>,
    bytes: u64,
    course: Course,
    began: Instant,
    /// When its client was heard last.
    heard: Instant,
    /// When the same was asked for again after the last block.
    again: Option<Instant>,
    slot: Option<Slot>,
    is_ready: bool,
}

enum Course {
    /// Of the pipeline.
    Asked,
    /// With these words, until they are sent. An error is never acknowledged nor repeated (RFC 1350 §7): the client asks again if it is lost.
    Refused(Option<Vec<u8>>),
    Sending {
        sender: Sender,
        /// Where the file is, if not in memory, and whether a part of it is on its way.
        stored: Option<(Arc<Stored>, bool)>,
    },
    Receiving {
        receiver: Receiver,
        /// All is here, and is being kept.
        storing: bool,
    },
}

impl Transfers {
    /// `slots`: how many there may be, over all listening addresses.
    pub fn new(settings: Settings, slots: Slots) -> Self {
        Self {
            settings,
            slots,
            clients: HashMap::new(),
            all: HashMap::default(),
            begun: 0,
            ready: Default::default(),
            effects: VecDeque::new(),
            over: VecDeque::new(),
            wake: None,
            looked_at: None,
            stopping: false,
        }
    }

    /// A request that is still being served is a repetition (its answer was lost; the transfer repeats that itself).
    /// Another name from the same port, or the same after a silence, means that the phone began anew.
    pub fn handle_request(&mut self, now: Instant, way: Way, request: Request) -> Taken {
        let before = self.clients.get(&way.peer).map(|latest| latest.id);
        if let Some((id, transfer)) = before.and_then(|id| Some((id, self.all.get_mut(&id)?))) {
            if transfer.request == request && now.saturating_duration_since(transfer.heard) < STALE {
                if transfer.course.is_ending() {
                    transfer.again = Some(now);
                }
                return Taken::Repeated;
            }
            // Not a word to it: it would take that for the answer to its new request.
            self.end(now, id, Some(Outcome::Failed(Fault::Replaced)));
        }
        match self.slots.take(way.peer.ip()) {
            Ok(slot) => self.begin(now, way, request, Some(slot)),
            Err(full) => return Taken::Full(full),
        }
        Taken::Begun
    }

    fn begin(&mut self, now: Instant, way: Way, request: Request, slot: Option<Slot>) {
        let id = Id(self.begun);
        self.begun += 1;
        let port = match self.clients.get(&way.peer) {
            Some(latest) => (latest.port + 1) % PORTS,
            None => (id.0 % PORTS as u64) as usize,
        };
        self.clients.insert(way.peer, Latest { id, port });
        let asked = FileRequest {
            door: Door::Tftp,
            path: request.name.clone(),
            query: Default::default(),
            source: way.peer.ip().to_canonical(),
            local: Some(way.local),
            user_agent: request.agent.clone(),
            held: None,
            certified: None,
            head: false,
        };
        self.effects.push_back(match request.direction {
            Direction::Read => Effect::Ask { id, asked: asked.clone() },
            Direction::Write => Effect::MayUpload { id, asked: asked.clone() },
        });
        let transfer = Transfer {
            way,
            port,
            request,
            asked,
            mac: None,
            bytes: 0,
            course: Course::Asked,
            began: now,
            heard: now,
            again: None,
            slot,
            is_ready: false,
        };
        self.all.insert(id, transfer);
    }

    /// What the pipeline says. Nobody may want it any more.
    pub fn handle_answer(&mut self, now: Instant, id: Id, answer: FileAnswer) {
        let (caps, retries) = (self.caps(), self.settings.retries);
        let Some(transfer) = self.asking(id) else { return };
        let file = match answer {
            FileAnswer::Found(file) => file,
            FileAnswer::NotFound => return self.refuse(id, ErrorCode::NotFound, "file not found"),
            FileAnswer::Broken => return self.refuse(id, ErrorCode::Undefined, "the file cannot be made now"),
        };
        let body = match (file.body, transfer.request.mode) {
            (Body::Whole(bytes), Mode::Netascii) => Body::Whole(netascii::encode(&bytes)),
            // Firmware has no lines, whatever the client thinks.
            (body, _) => body,
        };
        (transfer.mac, transfer.bytes, transfer.began) = (file.mac, body.len(), now);
        let terms = negotiate(&transfer.request.asked, caps, transfer.bytes);
        transfer.course = match body {
            Body::Whole(bytes) => Course::Sending { sender: Sender::new(bytes, terms, retries), stored: None },
            Body::Stored(stored) => {
                Course::Sending { sender: Sender::of_length(transfer.bytes, terms, retries), stored: Some((stored, false)) }
            }
        };
        self.make_ready(id);
    }

    /// How many bytes may be uploaded; `None`: by this name nothing.
    pub fn handle_limit(&mut self, now: Instant, id: Id, limit: Option<usize>) {
        let (caps, retries) = (self.caps(), self.settings.retries);
        let Some(transfer) = self.asking(id) else { return };
        let Some(limit) = limit.filter(|_| !climbs(&transfer.asked.path)) else {
            super::count("upload");
            return self.refuse(id, ErrorCode::AccessViolation, "uploads of this name are not allowed");
        };
        let size = transfer.request.asked.tsize.unwrap_or(0);
        if size > limit as u64 {
            return self.refuse(id, ErrorCode::DiskFull, "larger than allowed");
        }
        transfer.began = now;
        let terms = negotiate(&transfer.request.asked, caps, size);
        transfer.course = Course::Receiving { receiver: Receiver::new(limit, terms, retries), storing: false };
        self.make_ready(id);
    }

    fn asking(&mut self, id: Id) -> Option<&mut Transfer> {
        self.all.get_mut(&id).filter(|transfer| matches!(transfer.course, Course::Asked))
    }

    fn caps(&self) -> Caps {
        Caps { block_bytes: self.settings.max_block_bytes, window_blocks: self.settings.max_window_blocks }
    }

    fn refuse(&mut self, id: Id, code: ErrorCode, text: &str) {
        if let Some(transfer) = self.all.get_mut(&id) {
            transfer.course = Course::Refused(Some(packet::error(code, text)));
            self.make_ready(id);
        }
    }

    /// A part of a file, or why there is none.
    pub fn handle_read(&mut self, id: Id, start: u64, read: Result<Bytes, String>) {
        let Some(Transfer { course: Course::Sending { sender, stored: Some((_, reading)) }, .. }) = self.all.get_mut(&id) else { return };
        *reading = false;
        match read {
            Ok(bytes) => sender.handle_read(start, bytes),
            Err(error) => sender.abort(Fault::Unreadable(error)),
        }
        self.make_ready(id);
    }

    /// An upload is kept, or was refused after all.
    pub fn handle_stored(&mut self, now: Instant, id: Id, kept: bool) {
        let Some(transfer) = self.all.get_mut(&id) else { return };
        if let Course::Receiving { receiver, storing } = &mut transfer.course {
            *storing = false;
            receiver.handle_stored(now, kept);
            // What follows only answers repetitions: a phone that brings many logs in a row is not refused for it.
            transfer.slot = None;
        }
        self.make_ready(id);
    }

    /// A datagram at one of our ports. A client's last one may come when its transfer is over; what strangers send is not heard.
    pub fn handle_packet(&mut self, now: Instant, port: usize, peer: SocketAddr, datagram: &[u8]) {
        let Some(id) = self.at(port, peer) else { return };
        let Some(transfer) = self.all.get_mut(&id) else { return };
        transfer.heard = now;
        match &mut transfer.course {
            Course::Asked | Course::Refused(_) => return,
            Course::Sending { sender, .. } => sender.handle_packet(now, datagram),
            Course::Receiving { receiver, .. } => receiver.handle_packet(now, datagram),
        }
        self.make_ready(id);
    }

    /// The client's host says that nobody listens there any more (ICMP port unreachable).
    pub fn handle_closed(&mut self, port: usize, peer: SocketAddr) {
        let Some(id) = self.at(port, peer) else { return };
        match self.all.get_mut(&id).map(|transfer| &mut transfer.course) {
            Some(Course::Sending { sender, .. }) => sender.handle_closed(),
            Some(Course::Receiving { receiver, .. }) => receiver.handle_closed(),
            Some(Course::Asked | Course::Refused(_)) | None => return,
        }
        self.make_ready(id);
    }

    /// What was to be sent there can never be.
    pub fn handle_broken(&mut self, port: usize, peer: SocketAddr, error: String) {
        if let Some(id) = self.at(port, peer) {
            self.abort(id, Fault::Socket(error));
        }
    }

    fn at(&self, port: usize, peer: SocketAddr) -> Option<Id> {
        self.clients.get(&peer).filter(|latest| latest.port == port).map(|latest| latest.id)
    }

    /// The server stops: everybody is told.
    pub fn handle_stop(&mut self, now: Instant) {
        self.stopping = true;
        let all: Vec<Id> = self.all.keys().copied().collect();
        for id in all {
            match self.all.get(&id).map(|transfer| &transfer.course) {
                Some(Course::Asked) => self.end(now, id, None),
                // It is told when it is kept.
                Some(Course::Receiving { storing: true, .. }) => {}
                _ => self.abort(id, Fault::Stopping),
            }
        }
    }

    fn abort(&mut self, id: Id, fault: Fault) {
        match self.all.get_mut(&id).map(|transfer| &mut transfer.course) {
            Some(Course::Sending { sender, .. }) => sender.abort(fault),
            Some(Course::Receiving { receiver, .. }) => receiver.abort(ErrorCode::Undefined, fault),
            Some(Course::Asked | Course::Refused(_)) | None => {}
        }
        self.make_ready(id);
    }

    /// Time has passed; call at [`Self::poll_timeout`]. Earlier is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|wake| now < wake) {
            return;
        }
        (self.wake, self.looked_at) = (None, Some(now));
        let mut due = Vec::new();
        for (id, transfer) in &mut self.all {
            match transfer.course.poll_timeout() {
                Some(deadline) if deadline <= now => {
                    transfer.course.handle_timeout(now);
                    due.push(*id);
                }
                later => self.wake = earlier(self.wake, later),
            }
        }
        due.into_iter().for_each(|id| self.make_ready(id));
    }

    /// When [`Self::handle_timeout`] wants to be called next; it may find that nothing is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let not_before = self.looked_at.map(|at| at + TOGETHER);
        self.wake.map(|wake| not_before.map_or(wake, |not_before| wake.max(not_before)))
    }

    fn make_ready(&mut self, id: Id) {
        if let Some(transfer) = self.all.get_mut(&id)
            && !std::mem::replace(&mut transfer.is_ready, true)
            && let Some(ready) = self.ready.get_mut(transfer.port)
        {
            ready.push_back(id);
        }
    }

    /// Writes the next packet that leaves by `port` over `packet`. `None`: there is none now.
    pub fn poll_transmit(&mut self, now: Instant, port: usize, packet: &mut Vec<u8>) -> Option<Way> {
        while let Some(&id) = self.ready.get(port)?.front() {
            if let Some(transfer) = self.all.get_mut(&id) {
                if transfer.course.poll_transmit(now, packet) {
                    return Some(transfer.way);
                }
                transfer.is_ready = false;
                self.settle(now, id);
            }
            self.ready.get_mut(port)?.pop_front();
        }
        None
    }

    /// It has sent what it can for now: what else does it need?
    fn settle(&mut self, now: Instant, id: Id) {
        let Some(transfer) = self.all.get_mut(&id) else { return };
        match &mut transfer.course {
            Course::Asked => return,
            Course::Refused(_) => return self.end(now, id, None),
            Course::Sending { stored: None, .. } => {}
            Course::Sending { sender, stored: Some((stored, reading)) } => {
                if let Some((start, end)) = sender.poll_read().filter(|_| !*reading) {
                    *reading = true;
                    self.effects.push_back(Effect::Read { id, stored: stored.clone(), start, end });
                }
            }
            Course::Receiving { receiver, storing } => {
                if let Some(body) = receiver.poll_received() {
                    *storing = true;
                    let body = if transfer.request.mode == Mode::Netascii { netascii::decode(body) } else { body };
                    self.effects.push_back(Effect::Store { id, asked: transfer.asked.clone(), body: body.into() });
                } else if self.stopping && !*storing {
                    // It is kept, and its client has been told so.
                    receiver.abort(ErrorCode::Undefined, Fault::Stopping);
                }
            }
        }
        match transfer.course.outcome().cloned() {
            Some(outcome) => self.end(now, id, Some(outcome)),
            None => self.wake = earlier(self.wake, transfer.course.poll_timeout()),
        }
    }

    /// `outcome`: of what was more than asked and refused.
    fn end(&mut self, now: Instant, id: Id, outcome: Option<Outcome>) {
        let Some(transfer) = self.all.remove(&id) else { return };
        let Transfer { way, request, asked, mac, bytes, course, began, again, slot, .. } = transfer;
        self.over.push_back((now, way.peer, id));
        self.forget(now);
        let delivered = outcome == Some(Outcome::Delivered);
        if let Some(outcome) = outcome.filter(|_| !matches!(course, Course::Asked | Course::Refused(_))) {
            let (peer, direction, took) = (way.peer, request.direction, now.saturating_duration_since(began));
            self.effects.push_back(Effect::Ended(Box::new(Ended { peer, asked, mac, direction, bytes, took, outcome })));
        }
        if delivered && !self.stopping && again.is_some_and(|at| now.saturating_duration_since(at) < OVERTAKES) {
            self.begin(now, way, request, slot);
        }
    }

    /// Clients whose last transfer is over for long.
    fn forget(&mut self, now: Instant) {
        while let Some((at, client, id)) = self.over.front() {
            if self.over.len() <= MOST_REMEMBERED && now.saturating_duration_since(*at) < REMEMBERED {
                return;
            }
            if self.clients.get(client).is_some_and(|latest| latest.id == *id) {
                self.clients.remove(client);
            }
            self.over.pop_front();
        }
    }

    /// What others shall do, oldest first.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// How many are going on.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// None is going on.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

impl Course {
    /// The last block was sent.
    fn is_ending(&self) -> bool {
        matches!(self, Self::Sending { sender, .. } if sender.is_ending())
    }

    fn poll_transmit(&mut self, now: Instant, packet: &mut Vec<u8>) -> bool {
        match self {
            Self::Asked => false,
            Self::Refused(words) => words.take().map(|words| *packet = words).is_some(),
            Self::Sending { sender, .. } => sender.poll_transmit(now, packet),
            Self::Receiving { receiver, .. } => receiver.poll_transmit(now, packet),
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Asked | Self::Refused(_) => None,
            Self::Sending { sender, .. } => sender.poll_timeout(),
            Self::Receiving { receiver, .. } => receiver.poll_timeout(),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Asked | Self::Refused(_) => {}
            Self::Sending { sender, .. } => sender.handle_timeout(now),
            Self::Receiving { receiver, .. } => receiver.handle_timeout(now),
        }
    }

    fn outcome(&self) -> Option<&Outcome> {
        match self {
            Self::Asked | Self::Refused(_) => None,
            Self::Sending { sender, .. } => sender.outcome(),
            Self::Receiving { receiver, .. } => receiver.outcome(),
        }
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provisioning::ServedFile;

    const MS: Duration = Duration::from_millis(1);

    /// A door in virtual time: what leaves and what is wanted, as words.
    struct Script {
        now: Instant,
        transfers: Transfers,
        slots: Slots,
        /// Those that were asked for, in order.
        ids: Vec<Id>,
    }

    fn client(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn request(direction: Direction, name: &str) -> Request {
        Request { direction, name: name.into(), mode: Mode::Octet, asked: Default::default(), agent: None }
    }

    fn file(len: usize) -> FileAnswer {
        let body = Body::Whole(vec![7; len].into());
        FileAnswer::Found(ServedFile { body, content_type: "text/plain".into(), hash: "hash".into(), mac: None })
    }

    impl Script {
        fn new() -> Self {
            let slots = Slots::new(1000, 1000);
            let transfers = Transfers::new(Settings::default(), slots.clone());
            Self { now: Instant::now(), transfers, slots, ids: Vec::new() }
        }

        fn ask(&mut self, from: u16, name: &str) -> Taken {
            let way = Way { peer: client(from), local: SocketAddr::from(([192, 0, 2, 9], 69)) };
            self.transfers.handle_request(self.now, way, request(Direction::Read, name))
        }

        /// `PORT→CLIENT DATA n`, `Ask NAME`, `Ended …`; each in order.
        fn out(&mut self) -> Vec<String> {
            let (mut out, mut packet) = (Vec::new(), Vec::new());
            loop {
                for port in 0..PORTS {
                    while let Some(way) = self.transfers.poll_transmit(self.now, port, &mut packet) {
                        let number = u16::from_be_bytes([packet[2], packet[3]]);
                        let what = ["DATA", "ACK", "ERROR"][usize::from(packet[1]) - 3];
                        out.push(format!("{port}→{} {what} {number}", way.peer.port()));
                    }
                }
                match self.transfers.poll_effect() {
                    None => return out,
                    Some(Effect::Ask { id, asked }) => {
                        self.ids.push(id);
                        out.push(format!("Ask {}", asked.path));
                    }
                    Some(Effect::MayUpload { id, asked }) => {
                        self.ids.push(id);
                        out.push(format!("MayUpload {}", asked.path));
                    }
                    Some(Effect::Store { body, .. }) => out.push(format!("Store {}", body.len())),
                    Some(Effect::Read { start, end, .. }) => out.push(format!("Read {start}..{end}")),
                    Some(Effect::Ended(ended)) => out.push(format!("Ended {:?}", ended.outcome)),
                }
            }
        }

        fn answer(&mut self, which: usize, answer: FileAnswer) -> Vec<String> {
            self.transfers.handle_answer(self.now, self.ids[which], answer);
            self.out()
        }

        fn ack(&mut self, port: usize, from: u16, block: u16) -> Vec<String> {
            let mut packet = Vec::new();
            packet::write_ack(&mut packet, block);
            self.transfers.handle_packet(self.now, port, client(from), &packet);
            self.out()
        }

        fn wait(&mut self, time: Duration) -> Vec<String> {
            self.now += time;
            self.transfers.handle_timeout(self.now);
            self.out()
        }
    }

    #[test]
    fn a_file_from_the_request_to_its_end() {
        let mut s = Script::new();
        assert_eq!((s.ask(1000, "a.cfg"), s.out()), (Taken::Begun, vec!["Ask a.cfg".into()]));
        assert_eq!(s.answer(0, file(600)), ["0→1000 DATA 1"]);
        assert_eq!(s.slots.in_use(), 1);
        assert!(s.ack(1, 1000, 1).is_empty(), "at another port of ours");
        assert!(s.ack(0, 1001, 1).is_empty(), "from another port of theirs");
        assert_eq!(s.ack(0, 1000, 1), ["0→1000 DATA 2"]);
        assert_eq!(s.ack(0, 1000, 2), ["Ended Delivered"]);
        assert!(s.ack(0, 1000, 2).is_empty() && s.transfers.is_empty());
        assert_eq!(s.slots.in_use(), 0);
    }

    #[test]
    fn what_is_missing_is_told_once_and_over() {
        let mut s = Script::new();
        s.ask(1000, "none");
        s.out();
        assert_eq!(s.answer(0, FileAnswer::NotFound), ["0→1000 ERROR 1"]);
        assert!(s.transfers.is_empty() && s.slots.in_use() == 0);
        assert_eq!(s.transfers.poll_timeout(), None);
    }

    #[test]
    fn the_same_twice_is_one_request_and_another_begins_anew() {
        let mut s = Script::new();
        s.ask(1000, "a.cfg");
        assert_eq!(s.ask(1000, "a.cfg"), Taken::Repeated);
        s.out();
        s.answer(0, file(600));
        assert_eq!((s.ask(1000, "a.cfg"), s.out()), (Taken::Repeated, vec![]));
        // Another name, while the first is under way: not a word by its port.
        assert_eq!(s.ask(1000, "b.cfg"), Taken::Begun);
        assert_eq!(s.out(), ["Ended Failed(Replaced)", "Ask b.cfg"]);
        assert!(s.answer(0, file(600)).is_empty(), "nobody waits for it");
        assert_eq!(s.answer(1, file(600)), ["1→1000 DATA 1"]);
        // The same after a silence.
        s.now += STALE;
        assert_eq!(s.ask(1000, "b.cfg"), Taken::Begun);
        assert_eq!(s.out(), ["Ended Failed(Replaced)", "Ask b.cfg"]);
        assert_eq!((s.transfers.len(), s.slots.in_use()), (1, 1));
    }

    #[test]
    fn a_request_that_overtakes_the_last_ack_is_served() {
        let mut s = Script::new();
        s.ask(1000, "a.cfg");
        s.out();
        s.answer(0, file(100));
        assert_eq!(s.ask(1000, "a.cfg"), Taken::Repeated, "for all we know");
        assert_eq!(s.ack(0, 1000, 1), ["Ended Delivered", "Ask a.cfg"]);
        assert_eq!(s.answer(1, file(100)), ["1→1000 DATA 1"]);
        // So late it was the last block that was lost.
        s.ask(1000, "a.cfg");
        s.now += OVERTAKES;
        assert_eq!(s.ack(1, 1000, 1), ["Ended Delivered"]);
    }

    #[test]
    fn a_client_meets_another_port_each_time_and_is_forgotten() {
        let mut s = Script::new();
        for round in 0..10 {
            s.ask(1000, "a.cfg");
            s.out();
            let port = round % PORTS;
            assert_eq!(s.answer(round, file(100)), [format!("{port}→1000 DATA 1")]);
            assert_eq!(s.ack(port, 1000, 1), ["Ended Delivered"]);
        }
        s.now += REMEMBERED;
        for port in 0..2 * MOST_REMEMBERED as u16 {
            s.ask(2000 + port, "none");
            s.out();
            let which = s.ids.len() - 1;
            s.answer(which, FileAnswer::NotFound);
            assert!(s.transfers.clients.len() <= MOST_REMEMBERED + 1 && s.transfers.over.len() <= MOST_REMEMBERED);
        }
        assert!(!s.transfers.clients.contains_key(&client(1000)));
        s.now += REMEMBERED;
        s.ask(1, "none");
        s.out();
        let which = s.ids.len() - 1;
        s.answer(which, FileAnswer::NotFound);
        assert_eq!((s.transfers.clients.len(), s.transfers.over.len()), (1, 1));
    }

    #[test]
    fn thousands_that_fall_silent_are_looked_at_together() {
        const PHONES: u16 = 1000;
        let mut s = Script::new();
        for phone in 0..PHONES {
            s.ask(phone, "a.cfg");
            s.out();
            s.answer(usize::from(phone), file(100));
            s.now += MS / 10;
        }
        let (mut looks, mut blocks, mut silent) = (0, 0, 0);
        while let Some(wake) = s.transfers.poll_timeout() {
            looks += 1;
            for line in s.wait(wake.saturating_duration_since(s.now)) {
                blocks += usize::from(line.contains("DATA 1"));
                silent += usize::from(line.contains("Silent"));
            }
        }
        assert_eq!((blocks, silent), (6 * usize::from(PHONES), usize::from(PHONES)));
        // A tenth of a second for all to be due, seven times.
        assert!(looks < 100, "{looks}");
    }

    #[test]
    fn an_upload_is_acknowledged_when_it_is_kept_also_while_stopping() {
        let upload = |s: &mut Script, from| {
            let way = Way { peer: client(from), local: SocketAddr::from(([192, 0, 2, 9], 69)) };
            s.transfers.handle_request(s.now, way, request(Direction::Write, "x.log"));
            s.out();
            s.transfers.handle_limit(s.now, *s.ids.last().expect("asked"), Some(1000));
        };
        let mut s = Script::new();
        upload(&mut s, 1000);
        assert_eq!(s.out(), ["0→1000 ACK 0"]);
        s.transfers.handle_packet(s.now, 0, client(1000), b"\0\x03\0\x01short");
        assert_eq!(s.out(), ["Store 5"]);
        upload(&mut s, 1001);
        s.ask(1002, "a.cfg");
        s.out();
        s.transfers.handle_stop(s.now);
        assert_eq!(s.out(), ["1→1001 ERROR 0", "Ended Failed(Stopping)"]);
        s.transfers.handle_stored(s.now, s.ids[0], true);
        assert_eq!(s.out(), ["0→1000 ACK 1", "Ended Delivered"]);
        assert!(s.transfers.is_empty());
    }

    #[test]
    fn a_closed_port_ends_what_was_sent_there() {
        let mut s = Script::new();
        s.ask(1000, "a.cfg");
        s.out();
        s.transfers.handle_closed(0, client(1000));
        s.answer(0, file(600));
        s.transfers.handle_closed(1, client(1000));
        assert!(s.out().is_empty(), "neither before anything was sent, nor for another port");
        s.transfers.handle_closed(0, client(1000));
        assert_eq!(s.out(), ["Ended Failed(Closed { block: 1, last: 2 })"]);
    }
}
