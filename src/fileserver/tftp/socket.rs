//! The sockets: one per listening address for requests, and a few beside it that carry transfers (`transfers.rs`, which decides).
//!
//! All of it is on a thread of its own, which reads and sends block after block; a file that takes time to make is made on those that are
//! shared (`provisioning/files/making.rs`), and a slow answer of the pipeline holds up nobody else. Answers leave from the
//! address that the request came to (IP_PKTINFO), so that a host with several addresses answers from the right one. That a client has
//! closed its port is told by the system (ICMP, IP_RECVERR).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Range,
    os::fd::AsRawFd,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use metrics::{Counter, counter};
use nix::{
    cmsg_space, libc,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{Interest, Ready, unix::AsyncFd},
    runtime::Handle,
    sync::Notify,
    time::{sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Settings, count,
    packet::{self, DATA_HEADER, Direction, ErrorCode, MAX_REQUEST, Malformed, Request},
    sender::Outcome,
    transfers::{Effect, Ended, PORTS, Taken, Transfers, Way},
};
use crate::{
    fileserver::{
        Error, Running, ask,
        limits::{Full, LogBudget, Slots},
    },
    provisioning::{FileAnswer, FileRequest, FileService, Transfer, firmware::Stored},
    thread::Thread,
    udp::{self, Arrived, BATCH, Bound},
};

/// A burst of requests (power is back) waits here rather than in the phones' time-outs; so do the answers of a thousand phones.
const BUFFER: usize = 1 << 20;
/// Calls of the system before another socket gets its turn.
const TURNS: usize = 64;
/// A socket that is full is tried again after this. To wait until it has room would be to be woken by each packet that leaves.
const FULL: Duration = Duration::from_millis(1);
/// One that fails whenever it is read is read again after this.
const FAILED: Duration = Duration::from_millis(5);

static LOG: LogBudget = LogBudget::new();

/// Opens the door. Call within a tokio runtime; stops when `shutdown` is cancelled.
pub fn start(settings: &Settings, service: Arc<dyn FileService>, shutdown: CancellationToken) -> Result<Running, Error> {
    settings.check()?;
    let tasks = TaskTracker::new();
    let mut addrs = Vec::new();
    if settings.enabled {
        let slots = Slots::new(settings.max_transfers, settings.max_transfers_per_client);
        let shared = Handle::current();
        let thread = Thread::new("tftp").map_err(Error::Thread)?;
        // Sockets belong to the loop that reads them.
        let there = thread.handle().enter();
        let mut desks = Vec::new();
        for at in &settings.listen {
            let transfers = Transfers::new(settings.clone(), slots.clone());
            let desk = Desk::open(*at, transfers, settings, service.clone(), tasks.clone(), shutdown.clone());
            let desk = desk.map_err(|source| Error::bind("TFTP", "tftp", *at, source))?;
            addrs.push(desk.listening.bound.at);
            desks.push(Arc::new(desk));
        }
        for desk in desks {
            for port in 0..PORTS {
                tasks.spawn(desk.clone().carry(port));
            }
            tasks.spawn(desk.clone().watch());
            tasks.spawn(desk.listen());
        }
        drop(there);
        let all = tasks.clone();
        // Until the door is closed and every transfer has ended.
        shared.spawn(thread.run(async move { all.wait().await }).map_err(Error::Thread)?);
        for at in &addrs {
            tracing::info!(%at, "tftp: listening");
        }
    }
    Ok(Running::new(addrs, tasks))
}

/// A socket that is watched for reading and for errors only: each datagram that has left makes one writable again, and would wake us once
/// more.
struct Watched {
    socket: AsyncFd<Socket>,
    bound: Bound,
}

const WATCHED: Interest = Interest::READABLE.add(Interest::ERROR);

impl Watched {
    fn open(at: SocketAddr, prepare: impl FnOnce(&Socket) -> io::Result<bool>) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
        if at.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // As large as the system lets us; the default still works.
        let _ = socket.set_recv_buffer_size(BUFFER);
        let _ = socket.set_send_buffer_size(BUFFER);
        socket.set_nonblocking(true)?;
        let tells = prepare(&socket)?;
        socket.bind(&at.into())?;
        let at = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        // SAFETY: the `AsyncFd` owns the socket and never gives it away, and a `Socket` never changes its descriptor.
        let socket = unsafe { AsyncFd::register_with_interest(socket, WATCHED) }.map_err(io::Error::from)?;
        Ok(Self { socket, bound: Bound { at, tells } })
    }

    /// Where requests come.
    fn listening(at: SocketAddr) -> io::Result<Self> {
        Self::open(at, |socket| udp::tell_destination(socket, at).map(|()| true))
    }

    /// Where transfers go on.
    fn carrying(mut at: SocketAddr) -> io::Result<Self> {
        at.set_port(0);
        Self::open(at, |socket| {
            match at {
                SocketAddr::V4(_) => setsockopt(socket, sockopt::Ipv4RecvErr, &true)?,
                SocketAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvErr, &true)?,
            }
            Ok(false)
        })
    }

    fn send(&self, way: &Way, packet: &[u8]) -> io::Result<()> {
        udp::send(&self.socket, self.source(way), way.peer, packet)
    }

    /// Those at the front that leave from the same address, as many as the system takes.
    fn send_many(&self, packets: &[(Way, Vec<u8>)]) -> io::Result<usize> {
        let source = packets.first().and_then(|(way, _)| self.source(way));
        let alike = packets.iter().take_while(|(way, _)| self.source(way) == source);
        udp::send_many(&self.socket, source, alike.map(|(way, packet)| (way.peer, &packet[..])))
    }

    /// Where it shall leave from, if that is not plain.
    fn source(&self, way: &Way) -> Option<IpAddr> {
        self.bound.at.ip().is_unspecified().then(|| way.local.ip())
    }

    /// Whose port is closed, of those to whom something was sent. `None`: nothing more is told. What else is told (a router that has no way
    /// for the moment) is as good as lost packets.
    fn closed(&self) -> Option<Option<SocketAddr>> {
        let mut control = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<SockaddrStorage>(self.socket.as_raw_fd(), &mut [], Some(&mut control), flags).ok()?;
        let refused = message.cmsgs().into_iter().flatten().any(|part| match part {
            ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) => {
                error.ee_errno == libc::ECONNREFUSED as u32
            }
            _ => false,
        });
        Some(message.address.as_ref().and_then(udp::to_std).filter(|_| refused))
    }
}

/// A listening address and what is served from there.
struct Desk {
    listening: Watched,
    ports: [Watched; PORTS],
    state: Mutex<State>,
    /// A deadline is nearer than that which is waited for.
    rearmed: Notify,
    /// Bytes of the largest datagram that a transfer has: one byte more than may be agreed, to notice a block that is too large.
    largest: usize,
    service: Arc<dyn FileService>,
    counts: Counts,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

struct State {
    transfers: Transfers,
    /// What is waited for.
    armed: Option<Instant>,
    outgoing: [Outgoing; PORTS],
    /// Somebody comes and tries again.
    retrying: bool,
}

/// What leaves by a port at once. What does not fit into its socket stays, and until it does, no more is asked for.
struct Outgoing {
    packets: [(Way, Vec<u8>); BATCH],
    /// Of them these are to be sent.
    due: Range<usize>,
}

impl Outgoing {
    fn new() -> Self {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Self { packets: std::array::from_fn(|_| (Way { peer: nowhere, local: nowhere }, Vec::new())), due: 0..0 }
    }

    /// All that there is room for. `false`: there is more.
    fn fill(&mut self, transfers: &mut Transfers, now: Instant, port: usize) -> bool {
        if self.due.is_empty() {
            self.due = 0..0;
        }
        for (way, packet) in self.packets.iter_mut().skip(self.due.end) {
            match transfers.poll_transmit(now, port, packet) {
                Some(next) => *way = next,
                None => return true,
            }
            self.due.end += 1;
        }
        false
    }

    fn due(&self) -> &[(Way, Vec<u8>)] {
        self.packets.get(self.due.clone()).unwrap_or_default()
    }
}

/// Found once: by its name each is looked for in all there are.
struct Counts {
    requests: Counter,
    delivered: Counter,
    delivered_bytes: Counter,
    failed: Counter,
}

impl Desk {
    fn open(
        at: SocketAddr,
        transfers: Transfers,
        settings: &Settings,
        service: Arc<dyn FileService>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> io::Result<Self> {
        let ports: Vec<_> = (0..PORTS).map(|_| Watched::carrying(at)).collect::<io::Result<_>>()?;
        Ok(Self {
            listening: Watched::listening(at)?,
            ports: ports.try_into().map_err(|_| io::ErrorKind::Other)?,
            state: Mutex::new(State { transfers, armed: None, outgoing: std::array::from_fn(|_| Outgoing::new()), retrying: false }),
            rearmed: Notify::new(),
            largest: settings.max_block_bytes + DATA_HEADER + 1,
            service,
            counts: Counts {
                requests: counter!("plugtone_tftp_requests_total"),
                delivered: counter!("plugtone_tftp_delivered_total"),
                delivered_bytes: counter!("plugtone_tftp_delivered_bytes_total"),
                failed: counter!("plugtone_tftp_failed_total"),
            },
            tasks,
            shutdown,
        })
    }

    /// Takes requests until the server stops.
    async fn listen(self: Arc<Self>) {
        self.read(&self.listening, None, MAX_REQUEST + 1, |state, now, arrived| self.handle(state, now, &arrived)).await;
        self.with(|transfers, now| transfers.handle_stop(now));
    }

    /// Takes what comes to one of the ports that carry transfers.
    async fn carry(self: Arc<Self>, port: usize) {
        let Some(watched) = self.ports.get(port) else { return };
        let take = |state: &mut State, now, arrived: Arrived| state.transfers.handle_packet(now, port, arrived.peer, arrived.bytes);
        self.read(watched, Some(port), self.largest, take).await;
    }

    async fn read(
        self: &Arc<Self>,
        watched: &Watched,
        port: Option<usize>,
        largest: usize,
        mut take: impl FnMut(&mut State, Instant, Arrived),
    ) {
        // The system gives the pages when they are written to: a few, as most datagrams are short.
        let mut room = vec![0; BATCH * largest];
        // Waited for from one datagram to the next: to begin anew takes locks.
        let mut stopped = pin!(self.shutdown.cancelled());
        loop {
            let ready = tokio::select! {
                () = &mut stopped => return,
                ready = watched.socket.ready(WATCHED) => ready,
            };
            let Ok(mut ready) = ready else { return };
            if ready.ready().is_error() {
                ready.clear_ready_matching(Ready::ERROR);
                self.hear_errors(port);
            }
            let (mut drained, mut failed) = (false, None);
            for _ in 0..TURNS {
                let got = ready.try_io(|socket| {
                    let (mut state, mut now) = (lock(&self.state), None);
                    let got = udp::receive(socket, watched.bound, &mut room, |arrived| {
                        take(&mut state, *now.get_or_insert_with(Instant::now), arrived);
                    })?;
                    self.go_on(&mut state, now.unwrap_or_else(Instant::now));
                    // Fewer than there was room for: no more are there, and the socket need not be asked to say so.
                    if got < BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
                });
                match got {
                    Ok(Ok(())) => failed = None,
                    // Of something that we sent; the socket lives on.
                    Ok(Err(error)) => {
                        failed = Some(error);
                        self.hear_errors(port);
                    }
                    Err(_) => {
                        drained = true;
                        break;
                    }
                }
            }
            match failed {
                // It fails and fails.
                Some(error) if !drained => {
                    if LOG.allows(Instant::now()) {
                        tracing::warn!(%error, "tftp: receiving failed");
                    }
                    sleep(FAILED).await;
                }
                _ if !drained => tokio::task::yield_now().await,
                _ => {}
            }
        }
    }

    fn hear_errors(self: &Arc<Self>, port: Option<usize>) {
        let Some(port) = port else { return };
        let mut state = lock(&self.state);
        self.end_closed(&mut state, port);
        self.go_on(&mut state, Instant::now());
    }

    /// Ends the transfers whose clients have closed their ports. `true`: something was told.
    fn end_closed(&self, state: &mut State, port: usize) -> bool {
        let mut told = false;
        while let Some(closed) = self.ports.get(port).and_then(Watched::closed) {
            told = true;
            if let Some(peer) = closed {
                state.transfers.handle_closed(port, peer);
            }
        }
        told
    }

    /// Looks at what is due.
    async fn watch(self: Arc<Self>) {
        loop {
            let armed = lock(&self.state).armed;
            let alarm = async {
                match armed {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = self.rearmed.notified() => continue,
                () = alarm => {}
            }
            lock(&self.state).armed = None;
            self.with(|transfers, now| transfers.handle_timeout(now));
        }
    }

    fn handle(&self, state: &mut State, now: Instant, arrived: &Arrived) {
        // Such a request is not answered (RFC 1123 §4.2.3.4).
        if arrived.is_broadcast() {
            return count("broadcast");
        }
        let request = match Request::parse(arrived.bytes) {
            Ok(request) => request,
            Err(fault) => return self.refuse_malformed(arrived, fault),
        };
        self.counts.requests.increment(1);
        let way = Way { peer: arrived.peer, local: arrived.local };
        match state.transfers.handle_request(now, way, request) {
            Taken::Begun => {}
            Taken::Repeated => count("repeated_request"),
            Taken::Full(full) => self.refuse_full(&way, full),
        }
    }

    fn refuse_malformed(&self, arrived: &Arrived, fault: Malformed) {
        count("malformed");
        if LOG.allows(Instant::now()) {
            tracing::debug!(peer = %arrived.peer, ?fault, "tftp: not a request");
        }
        let text = match fault {
            Malformed::NotARequest => return,
            Malformed::Broken => "malformed request",
            Malformed::Mode => "mode is neither octet nor netascii",
        };
        let way = Way { peer: arrived.peer, local: arrived.local };
        let _ = self.listening.send(&way, &packet::error(ErrorCode::Illegal, text));
    }

    fn refuse_full(&self, way: &Way, full: Full) {
        if LOG.allows(Instant::now()) {
            let hint = match full {
                Full::InAll => "tftp.max_transfers is reached: the phone will ask again",
                Full::Source => "tftp.max_transfers_per_client is reached",
            };
            tracing::warn!(peer = %way.peer, "tftp: {hint}");
        }
        match full {
            // Silence makes the phone repeat its request a moment later; an error would make it go without the file.
            Full::InAll => count("full"),
            Full::Source => {
                count("full_for_client");
                let _ = self.listening.send(way, &packet::error(ErrorCode::Undefined, "too many transfers at once"));
            }
        }
    }

    /// Something has happened.
    fn with(self: &Arc<Self>, happened: impl FnOnce(&mut Transfers, Instant)) {
        let (mut state, now) = (lock(&self.state), Instant::now());
        happened(&mut state.transfers, now);
        self.go_on(&mut state, now);
    }

    /// Does what follows from it.
    fn go_on(self: &Arc<Self>, state: &mut State, now: Instant) {
        loop {
            (0..PORTS).for_each(|port| self.transmit(state, now, port));
            let mut done = true;
            // All of them before anything is sent: what is found at once leaves together.
            while let Some(effect) = state.transfers.poll_effect() {
                done = false;
                self.carry_out(state, now, effect);
            }
            if done {
                break;
            }
        }
        let wake = state.transfers.poll_timeout();
        if wake.is_some_and(|wake| state.armed.is_none_or(|armed| wake < armed)) {
            state.armed = wake;
            self.rearmed.notify_one();
        }
    }

    fn transmit(self: &Arc<Self>, state: &mut State, now: Instant, port: usize) {
        let Some(watched) = self.ports.get(port) else { return };
        // Nothing more is told of others for a packet than once.
        let mut heard = false;
        loop {
            let State { outgoing, transfers, .. } = &mut *state;
            let Some(outgoing) = outgoing.get_mut(port) else { return };
            let all = outgoing.fill(transfers, now, port);
            let Some((first, _)) = outgoing.due().first() else { return };
            match watched.send_many(outgoing.due()) {
                Ok(sent) => {
                    outgoing.due.start += sent;
                    heard = false;
                    if all && outgoing.due.is_empty() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.try_again(state),
                // What was told may be of a packet to somebody else.
                Err(error) => {
                    let first = first.peer;
                    if !std::mem::replace(&mut heard, true) && self.end_closed(state, port) {
                        continue;
                    }
                    // The datagram is too long for this path, or the address is gone: nothing will get better. No route for a moment:
                    // as good as lost on the way, and repeated.
                    if matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::EINVAL | libc::EADDRNOTAVAIL)) {
                        state.transfers.handle_broken(port, first, error.to_string());
                    }
                    if let Some(outgoing) = state.outgoing.get_mut(port) {
                        outgoing.due.start += 1;
                    }
                    heard = false;
                }
            }
        }
    }

    /// In a moment.
    fn try_again(self: &Arc<Self>, state: &mut State) {
        if !std::mem::replace(&mut state.retrying, true) {
            let desk = self.clone();
            self.tasks.spawn(async move {
                sleep(FULL).await;
                let mut state = lock(&desk.state);
                state.retrying = false;
                desk.go_on(&mut state, Instant::now());
            });
        }
    }

    fn carry_out(self: &Arc<Self>, state: &mut State, now: Instant, effect: Effect) {
        let service = self.service.clone();
        match effect {
            Effect::Ask { id, asked } => {
                let answer = answer(service, asked);
                self.when_known(state, now, answer, move |transfers, now, answer| transfers.handle_answer(now, id, answer));
            }
            Effect::MayUpload { id, asked } => {
                let limit = async move { AssertUnwindSafe(service.upload_limit(&asked)).catch_unwind().await.unwrap_or(None) };
                self.when_known(state, now, limit, move |transfers, now, limit| transfers.handle_limit(now, id, limit));
            }
            Effect::Read { id, stored, start, end } => {
                let part = async move { whole(&stored, start, end).await.map_err(|error| error.to_string()) };
                self.when_known(state, now, part, move |transfers, _, part| transfers.handle_read(id, start, part));
            }
            Effect::Store { id, asked, body } => {
                let desk = self.clone();
                // Also when the server stops: what a phone was told is kept, is kept.
                self.tasks.spawn(async move {
                    let kept = AssertUnwindSafe(service.store(asked, body)).catch_unwind().await.unwrap_or(false);
                    desk.with(|transfers, now| transfers.handle_stored(now, id, kept));
                });
            }
            Effect::Ended(ended) => self.tell(&ended),
        }
    }

    /// At once, if it is known at once.
    fn when_known<T: Send + 'static>(
        self: &Arc<Self>,
        state: &mut State,
        now: Instant,
        known: impl Future<Output = T> + Send + 'static,
        then: impl FnOnce(&mut Transfers, Instant, T) + Send + 'static,
    ) {
        let mut known = Box::pin(known);
        match (&mut known).now_or_never() {
            Some(known) => then(&mut state.transfers, now, known),
            None => {
                let desk = self.clone();
                self.tasks.spawn(async move {
                    let known = tokio::select! {
                        known = known => known,
                        () = desk.shutdown.cancelled() => return,
                    };
                    desk.with(|transfers, now| then(transfers, now, known));
                });
            }
        }
    }

    fn tell(&self, ended: &Ended) {
        let Ended { peer, asked, mac, direction, bytes, took, outcome } = ended;
        let transfer = match (outcome, direction) {
            (Outcome::Delivered, Direction::Write) => return,
            (Outcome::Delivered, Direction::Read) => {
                self.counts.delivered.increment(1);
                self.counts.delivered_bytes.increment(*bytes);
                tracing::debug!(%peer, path = %asked.path, bytes, ms = took.as_millis(), "tftp: delivered");
                Transfer::Delivered
            }
            (Outcome::Failed(fault), _) => {
                self.counts.failed.increment(1);
                if LOG.allows(Instant::now()) {
                    let what = if *direction == Direction::Read { "not delivered" } else { "upload failed" };
                    tracing::info!(%peer, path = %asked.path, %fault, "tftp: {what}");
                }
                Transfer::Failed { reason: fault.to_string() }
            }
        };
        self.service.ended(asked, *mac, transfer);
    }
}

async fn answer(service: Arc<dyn FileService>, asked: FileRequest) -> FileAnswer {
    // One that panics is told by the log, and the client that it may ask again.
    AssertUnwindSafe(ask(&service, asked)).catch_unwind().await.unwrap_or(FileAnswer::Broken)
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file from `start` on, to `end` at least.
async fn whole(stored: &Arc<Stored>, start: u64, end: u64) -> io::Result<Bytes> {
    let first = stored.read(start).await?;
    if start + first.len() as u64 >= end {
        return Ok(first);
    }
    let mut bytes = BytesMut::from(&first[..]);
    while start + (bytes.len() as u64) < end {
        let next = stored.read(start + bytes.len() as u64).await?;
        if next.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&next);
    }
    Ok(bytes.freeze())
}
