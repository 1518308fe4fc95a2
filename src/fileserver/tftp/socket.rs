//! The sockets: one per listening address for requests, one of its own for each transfer (RFC 1350 §4).
//!
//! All of it is on a thread of its own, which reads and sends block after block; a file that takes time to make is made on those that are
//! shared (`provisioning/files/making.rs`). Each transfer is a task: a slow answer of the pipeline holds up nobody else. Its socket is bound to the
//! address that the request came to (IP_PKTINFO), so that a host with several addresses answers from the right one, and connected,
//! so that other ports of the network are not heard and a closed port is (ICMP). Decisions are in `sender.rs` and `receiver.rs`.

use std::{
    collections::HashMap,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6},
    os::fd::AsRawFd,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::Interest, net::UdpSocket, runtime::Handle, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Settings, netascii,
    options::{Caps, negotiate},
    packet::{self, Direction, ErrorCode, MAX_REQUEST, Malformed, Mode, Request},
    receiver::Receiver,
    sender::{Fault, Outcome, Sender},
};
use crate::{
    fileserver::{
        Error, Running, ask,
        limits::{Full, LogBudget, Slot, Slots},
    },
    model::event::Door,
    provisioning::{Body, FileAnswer, FileRequest, FileService, Transfer, firmware::Stored},
    thread::Thread,
};

/// A client that is this long without progress and asks again begins anew; before, it is a repeated request.
const STALE: Duration = Duration::from_secs(3);
/// A client that has the last block may ask again for the same before we have read its ACK: it waits there already. Later than this it was
/// the last block that was lost, and the request is a repeated one.
const OVERTAKES: Duration = Duration::from_millis(100);
/// A burst of requests (power is back) waits here rather than in the phones' time-outs.
const RECEIVE_BUFFER: usize = 1 << 20;

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
        let mut sockets = Vec::new();
        for at in &settings.listen {
            let bind = |source| Error::bind("TFTP", "tftp", *at, source);
            let socket = listening_socket(*at).map_err(bind)?;
            addrs.push(socket.local_addr().map_err(bind)?);
            sockets.push(socket);
        }
        for (socket, bound) in sockets.into_iter().zip(&addrs) {
            let listener = Arc::new(Listener {
                socket,
                bound: *bound,
                service: service.clone(),
                settings: settings.clone(),
                slots: slots.clone(),
                running: Mutex::default(),
                tasks: tasks.clone(),
                shutdown: shutdown.clone(),
            });
            tasks.spawn(listener.run());
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

fn listening_socket(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    match at {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
    }
    // As large as the system lets us; the default still works.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    UdpSocket::from_std(socket.into())
}

struct Listener {
    socket: UdpSocket,
    bound: SocketAddr,
    service: Arc<dyn FileService>,
    settings: Settings,
    slots: Slots,
    running: Mutex<HashMap<SocketAddr, Ongoing>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// What the listener knows of a transfer, to tell a repeated request from a new one.
struct Ongoing {
    request: Request,
    progress: Arc<Mutex<Progress>>,
    stop: CancellationToken,
}

struct Progress {
    /// When the client was heard last.
    at: Instant,
    stage: Stage,
    /// When the same was asked for again after the last block.
    again: Option<Instant>,
}

#[derive(PartialEq)]
enum Stage {
    Underway,
    /// The last block was sent.
    Ending,
    Delivered,
}

/// A datagram, who sent it and to which of our addresses.
struct Arrived {
    len: usize,
    peer: SocketAddr,
    local: SocketAddr,
    /// Sent to everybody: such a request is not answered (RFC 1123 §4.2.3.4).
    broadcast: bool,
}

impl Listener {
    async fn run(self: Arc<Self>) {
        let mut buffer = vec![0; MAX_REQUEST + 1];
        loop {
            let arrived = tokio::select! {
                () = self.shutdown.cancelled() => return,
                arrived = self.receive(&mut buffer) => arrived,
            };
            match arrived {
                Ok(arrived) => self.handle(&arrived, buffer.get(..arrived.len).unwrap_or_default()),
                // An ICMP error of some earlier answer shows up here: not ours to end for.
                Err(error) => {
                    if LOG.allows(Instant::now()) {
                        tracing::warn!(%error, "tftp: receiving failed");
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<Arrived> {
        self.socket.async_io(Interest::READABLE, || receive_now(&self.socket, self.bound, buffer)).await
    }

    fn handle(self: &Arc<Self>, arrived: &Arrived, datagram: &[u8]) {
        if arrived.broadcast {
            return count("broadcast");
        }
        let request = match Request::parse(datagram) {
            Ok(request) => request,
            Err(fault) => return self.refuse_malformed(arrived.peer, fault),
        };
        metrics::counter!("plugtone_tftp_requests_total").increment(1);
        if self.is_repeated(arrived.peer, &request) {
            return count("repeated_request");
        }
        self.begin(arrived.peer, arrived.local, request);
    }

    fn begin(self: &Arc<Self>, peer: SocketAddr, local: SocketAddr, request: Request) {
        let slot = match self.slots.take(peer.ip()) {
            Ok(slot) => slot,
            Err(full) => return self.refuse_full(peer, full),
        };
        let progress = Arc::new(Mutex::new(Progress { at: Instant::now(), stage: Stage::Underway, again: None }));
        let stop = self.shutdown.child_token();
        lock(&self.running).insert(peer, Ongoing { request: request.clone(), progress: progress.clone(), stop: stop.clone() });
        let transfer = TransferTask {
            asked: FileRequest {
                door: Door::Tftp,
                path: request.name.clone(),
                query: Default::default(),
                source: peer.ip().to_canonical(),
                local: Some(local),
                user_agent: request.agent.clone(),
                held: None,
                certified: None,
                head: false,
            },
            request,
            peer,
            local,
            listener: self.clone(),
            progress,
            slot: Mutex::new(Some(slot)),
            stop,
        };
        self.tasks.spawn(transfer.run());
    }

    /// A request that is still being served is a repetition (its answer was lost; the transfer repeats that itself).
    /// Another name from the same port, or the same after a silence, means that the phone began anew.
    fn is_repeated(&self, peer: SocketAddr, request: &Request) -> bool {
        let mut running = lock(&self.running);
        let Some(ongoing) = running.get(&peer) else { return false };
        let mut progress = lock(&ongoing.progress);
        if ongoing.request == *request && progress.at.elapsed() < STALE {
            if progress.stage != Stage::Underway {
                progress.again = Some(Instant::now());
            }
            return true;
        }
        drop(progress);
        if let Some(old) = running.remove(&peer) {
            old.stop.cancel();
        }
        false
    }

    /// A transfer has ended. `true`: the client, which has it all, has asked for the same again.
    fn forget(&self, transfer: &TransferTask) -> bool {
        let mut running = lock(&self.running);
        // A newer transfer of the same port has cancelled this one and taken its place.
        if !transfer.stop.is_cancelled() {
            running.remove(&transfer.peer);
        }
        let progress = lock(&transfer.progress);
        progress.stage == Stage::Delivered && progress.again.is_some_and(|at| at.elapsed() < OVERTAKES)
    }

    fn refuse_malformed(&self, peer: SocketAddr, fault: Malformed) {
        count("malformed");
        if LOG.allows(Instant::now()) {
            tracing::debug!(%peer, ?fault, "tftp: not a request");
        }
        let text = match fault {
            Malformed::NotARequest => return,
            Malformed::Broken => "malformed request",
            Malformed::Mode => "mode is neither octet nor netascii",
        };
        let _ = self.socket.try_send_to(&packet::error(ErrorCode::Illegal, text), peer);
    }

    fn refuse_full(&self, peer: SocketAddr, full: Full) {
        if LOG.allows(Instant::now()) {
            let hint = match full {
                Full::InAll => "tftp.max_transfers is reached: the phone will ask again",
                Full::Source => "tftp.max_transfers_per_client is reached",
            };
            tracing::warn!(%peer, "tftp: {hint}");
        }
        match full {
            // Silence makes the phone repeat its request a moment later; an error would make it go without the file.
            Full::InAll => count("full"),
            Full::Source => {
                count("full_for_client");
                let _ = self.socket.try_send_to(&packet::error(ErrorCode::Undefined, "too many transfers at once"), peer);
            }
        }
    }
}

fn count(what: &'static str) {
    metrics::counter!("plugtone_tftp_refused_total", "why" => what).increment(1);
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn receive_now(socket: &UdpSocket, bound: SocketAddr, buffer: &mut [u8]) -> io::Result<Arrived> {
    let mut control = nix::cmsg_space!(nix::libc::in6_pktinfo, nix::libc::in_pktinfo);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty())?;
    let peer = message.address.as_ref().and_then(socket_addr).ok_or(io::ErrorKind::InvalidData)?;
    let (mut local, mut broadcast) = (bound, false);
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let to = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
                let ours = Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr));
                broadcast = to.is_broadcast() || to.is_multicast() || to != ours;
                local = SocketAddr::new(IpAddr::V4(ours), bound.port());
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let to = std::net::Ipv6Addr::from(info.ipi6_addr.s6_addr);
                broadcast = to.is_multicast();
                let scope = if to.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
                local = SocketAddr::V6(SocketAddrV6::new(to, bound.port(), 0, scope));
            }
            _ => {}
        }
    }
    Ok(Arrived { len: message.bytes, peer, local, broadcast })
}

/// At once where the system takes it, which is always but when its buffer is full: a new socket is said to be ready only one round of the
/// runtime later.
async fn send(socket: &UdpSocket, packet: &[u8]) -> io::Result<usize> {
    match nix::sys::socket::send(socket.as_raw_fd(), packet, MsgFlags::MSG_DONTWAIT) {
        Err(nix::errno::Errno::EAGAIN) => socket.send(packet).await,
        sent => Ok(sent?),
    }
}

fn socket_addr(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    v4.or_else(|| storage.as_sockaddr_in6().map(|v6| SocketAddrV6::new(v6.ip(), v6.port(), v6.flowinfo(), v6.scope_id()).into()))
}

struct TransferTask {
    request: Request,
    asked: FileRequest,
    peer: SocketAddr,
    local: SocketAddr,
    listener: Arc<Listener>,
    progress: Arc<Mutex<Progress>>,
    slot: Mutex<Option<Slot>>,
    /// Cancelled when the door closes, or when the same port asks for something new.
    stop: CancellationToken,
}

impl TransferTask {
    async fn run(self) {
        match self.transfer_socket().await {
            Ok(socket) => match self.request.direction {
                Direction::Read => self.read(&socket).await,
                Direction::Write => self.write(&socket).await,
            },
            Err(error) if LOG.allows(Instant::now()) => {
                tracing::warn!(peer = %self.peer, local = %self.local.ip(), %error, "tftp: no socket for the transfer");
            }
            Err(_) => {}
        }
        if self.listener.forget(&self) {
            let Self { listener, peer, local, request, slot, .. } = self;
            drop(slot);
            listener.begin(peer, local, request);
        }
    }

    async fn transfer_socket(&self) -> io::Result<UdpSocket> {
        let mut local = self.local;
        local.set_port(0);
        let socket = UdpSocket::bind(local).await?;
        socket.connect(self.peer).await?;
        Ok(socket)
    }

    async fn answer(&self) -> FileAnswer {
        let asked = AssertUnwindSafe(ask(&self.listener.service, self.asked.clone())).catch_unwind();
        // One that panics is told by the log, and the client that it may ask again.
        asked.await.unwrap_or(FileAnswer::Broken)
    }

    fn caps(&self) -> Caps {
        let settings = &self.listener.settings;
        Caps { block_bytes: settings.max_block_bytes, window_blocks: settings.max_window_blocks }
    }

    async fn read(&self, socket: &UdpSocket) {
        let answer = tokio::select! {
            answer = self.answer() => answer,
            () = self.stop.cancelled() => return,
        };
        let file = match answer {
            FileAnswer::Found(file) => file,
            FileAnswer::NotFound => return self.refuse(socket, ErrorCode::NotFound, "file not found").await,
            FileAnswer::Broken => return self.refuse(socket, ErrorCode::Undefined, "the file cannot be made now").await,
        };
        let body = match (file.body, self.request.mode) {
            (Body::Whole(bytes), Mode::Netascii) => Body::Whole(netascii::encode(&bytes)),
            // Firmware has no lines, whatever the client thinks.
            (body, _) => body,
        };
        let len = body.len();
        let terms = negotiate(&self.request.asked, self.caps(), len);
        let started = Instant::now();
        let outcome = match body {
            Body::Whole(bytes) => self.drive(socket, &mut Sender::new(bytes, terms, self.listener.settings.retries)).await,
            Body::Stored(stored) => {
                let sender = Sender::of_length(len, terms, self.listener.settings.retries);
                self.drive(socket, &mut Carried { sender, stored }).await
            }
        };
        let transfer = match outcome {
            Outcome::Delivered => {
                lock(&self.progress).stage = Stage::Delivered;
                metrics::counter!("plugtone_tftp_delivered_total").increment(1);
                metrics::counter!("plugtone_tftp_delivered_bytes_total").increment(len);
                tracing::debug!(peer = %self.peer, path = %self.request.name, bytes = len, ms = started.elapsed().as_millis(), "tftp: delivered");
                Transfer::Delivered
            }
            Outcome::Failed(fault) => {
                metrics::counter!("plugtone_tftp_failed_total").increment(1);
                if LOG.allows(Instant::now()) {
                    tracing::info!(peer = %self.peer, path = %self.request.name, %fault, "tftp: not delivered");
                }
                Transfer::Failed { reason: fault.to_string() }
            }
        };
        self.listener.service.ended(&self.asked, file.mac, transfer);
    }

    async fn write(&self, socket: &UdpSocket) {
        let limit = tokio::select! {
            limit = self.listener.service.upload_limit(&self.asked) => limit,
            () = self.stop.cancelled() => return,
        };
        let limit = match limit {
            Some(limit) if !super::super::climbs(&self.asked.path) => limit,
            _ => {
                count("upload");
                return self.refuse(socket, ErrorCode::AccessViolation, "uploads of this name are not allowed").await;
            }
        };
        let size = self.request.asked.tsize.unwrap_or(0);
        if size > limit as u64 {
            return self.refuse(socket, ErrorCode::DiskFull, "larger than allowed").await;
        }
        let terms = negotiate(&self.request.asked, self.caps(), size);
        let mut receiver = Receiver::new(limit, terms, self.listener.settings.retries);
        if let Outcome::Failed(fault) = self.drive(socket, &mut receiver).await {
            metrics::counter!("plugtone_tftp_failed_total").increment(1);
            if LOG.allows(Instant::now()) {
                tracing::info!(peer = %self.peer, path = %self.request.name, %fault, "tftp: upload failed");
            }
            self.listener.service.ended(&self.asked, None, Transfer::Failed { reason: fault.to_string() });
        }
    }

    async fn refuse(&self, socket: &UdpSocket, code: ErrorCode, text: &str) {
        // An error is never acknowledged nor repeated (RFC 1350 §7): the client asks again if it is lost.
        let _ = send(socket, &packet::error(code, text)).await;
    }

    async fn drive(&self, socket: &UdpSocket, core: &mut impl Core) -> Outcome {
        let mut packet = Vec::with_capacity(1500);
        let mut buffer = vec![0; core.largest_datagram()];
        // Both are waited for from block to block: to begin anew with each takes two locks that all transfers share.
        let mut stopped = pin!(self.stop.cancelled());
        let mut alarm = pin!(sleep(STALE));
        // The clock is read when something has happened, and not for each step that follows from it.
        let mut now = Instant::now();
        loop {
            while core.poll_transmit(now, &mut packet) {
                // Before it leaves: the client may be quicker than we are.
                if core.is_ending() {
                    lock(&self.progress).stage = Stage::Ending;
                }
                match send(socket, &packet).await {
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => core.handle_closed(),
                    // The datagram is too long for this path, or the address is gone: nothing will get better.
                    Err(error)
                        if matches!(error.raw_os_error(), Some(nix::libc::EMSGSIZE | nix::libc::EINVAL | nix::libc::EADDRNOTAVAIL)) =>
                    {
                        core.handle_broken(error.to_string());
                    }
                    // Buffers full, no route for a moment: as good as lost on the way, and repeated.
                    _ => {}
                }
            }
            if core.read().await {
                now = Instant::now();
                continue;
            }
            if let Some(body) = core.poll_received() {
                let body = if self.request.mode == Mode::Netascii { netascii::decode(body) } else { body };
                let kept = self.listener.service.store(self.asked.clone(), body.into()).await;
                now = Instant::now();
                core.handle_stored(now, kept);
                // What follows only answers repetitions: a phone that brings many logs in a row is not refused for it.
                drop(lock(&self.slot).take());
                continue;
            }
            if let Some(outcome) = core.outcome() {
                return outcome.clone();
            }
            let wake = core.poll_timeout().unwrap_or(now + STALE).into();
            // One that rings too early is looked at when it rings, once in dozens of blocks.
            if alarm.deadline() > wake || alarm.is_elapsed() {
                alarm.as_mut().reset(wake);
            }
            tokio::select! {
                biased;
                received = socket.recv(&mut buffer) => match received {
                    Ok(len) => {
                        now = Instant::now();
                        lock(&self.progress).at = now;
                        if core.handle_packet(now, buffer.get(..len).unwrap_or_default()) {
                            // To ask the system whether there is more is a call for nothing with each block.
                            let _ = socket.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => core.handle_closed(),
                    Err(error) => core.handle_broken(error.to_string()),
                },
                () = &mut alarm => {
                    now = Instant::now();
                    core.handle_timeout(now);
                }
                () = &mut stopped => {
                    if !self.listener.shutdown.is_cancelled() {
                        // Not a word: the client would take it for the answer to its new request.
                        return Outcome::Failed(Fault::Replaced);
                    }
                    core.handle_stop();
                }
            }
        }
    }
}

/// What both directions have in common for the loop above.
trait Core {
    /// `true`: nothing more is to come before we have sent something. Should there be all the same, it is found with what comes next.
    fn handle_packet(&mut self, now: Instant, datagram: &[u8]) -> bool;
    fn handle_timeout(&mut self, now: Instant);
    fn handle_closed(&mut self);
    fn handle_broken(&mut self, error: String);
    fn handle_stop(&mut self);
    fn poll_transmit(&mut self, now: Instant, packet: &mut Vec<u8>) -> bool;
    fn poll_timeout(&self) -> Option<Instant>;
    fn outcome(&self) -> Option<&Outcome>;
    fn largest_datagram(&self) -> usize;
    /// The last block was sent.
    fn is_ending(&self) -> bool {
        false
    }
    fn poll_received(&mut self) -> Option<Vec<u8>> {
        None
    }
    fn handle_stored(&mut self, _now: Instant, _kept: bool) {}
    /// Reads what is to be sent next, if it is not at hand. `true`: there is more to transmit.
    async fn read(&mut self) -> bool {
        false
    }
}

/// A file that is read from the disk as the client takes it.
struct Carried {
    sender: Sender,
    stored: Arc<Stored>,
}

impl Core for Carried {
    fn handle_packet(&mut self, now: Instant, datagram: &[u8]) -> bool {
        Core::handle_packet(&mut self.sender, now, datagram)
    }
    fn handle_timeout(&mut self, now: Instant) {
        self.sender.handle_timeout(now);
    }
    fn handle_closed(&mut self) {
        self.sender.handle_closed();
    }
    fn handle_broken(&mut self, error: String) {
        self.sender.abort(Fault::Socket(error));
    }
    fn handle_stop(&mut self) {
        self.sender.abort(Fault::Stopping);
    }
    fn poll_transmit(&mut self, now: Instant, packet: &mut Vec<u8>) -> bool {
        self.sender.poll_transmit(now, packet)
    }
    fn poll_timeout(&self) -> Option<Instant> {
        self.sender.poll_timeout()
    }
    fn outcome(&self) -> Option<&Outcome> {
        self.sender.outcome()
    }
    fn largest_datagram(&self) -> usize {
        Core::largest_datagram(&self.sender)
    }
    fn is_ending(&self) -> bool {
        self.sender.is_ending()
    }
    async fn read(&mut self) -> bool {
        let Some((start, end)) = self.sender.poll_read() else { return false };
        match whole(&self.stored, start, end).await {
            Ok(bytes) => self.sender.handle_read(start, bytes),
            Err(error) => self.sender.abort(Fault::Unreadable(error.to_string())),
        }
        true
    }
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

impl Core for Sender {
    fn handle_packet(&mut self, now: Instant, datagram: &[u8]) -> bool {
        Sender::handle_packet(self, now, datagram);
        self.nothing_is_out()
    }
    fn handle_timeout(&mut self, now: Instant) {
        Sender::handle_timeout(self, now);
    }
    fn handle_closed(&mut self) {
        Sender::handle_closed(self);
    }
    fn handle_broken(&mut self, error: String) {
        self.abort(Fault::Socket(error));
    }
    fn handle_stop(&mut self) {
        self.abort(Fault::Stopping);
    }
    fn poll_transmit(&mut self, now: Instant, packet: &mut Vec<u8>) -> bool {
        Sender::poll_transmit(self, now, packet)
    }
    fn poll_timeout(&self) -> Option<Instant> {
        Sender::poll_timeout(self)
    }
    fn outcome(&self) -> Option<&Outcome> {
        Sender::outcome(self)
    }
    fn is_ending(&self) -> bool {
        Sender::is_ending(self)
    }
    /// ACK and ERROR are small; the rest of a longer datagram is of no interest.
    fn largest_datagram(&self) -> usize {
        516
    }
}

impl Core for Receiver {
    fn handle_packet(&mut self, now: Instant, datagram: &[u8]) -> bool {
        Receiver::handle_packet(self, now, datagram);
        // A window has many blocks.
        false
    }
    fn handle_timeout(&mut self, now: Instant) {
        Receiver::handle_timeout(self, now);
    }
    fn handle_closed(&mut self) {
        Receiver::handle_closed(self);
    }
    fn handle_broken(&mut self, error: String) {
        self.abort(ErrorCode::Undefined, Fault::Socket(error));
    }
    fn handle_stop(&mut self) {
        self.abort(ErrorCode::Undefined, Fault::Stopping);
    }
    fn poll_transmit(&mut self, now: Instant, packet: &mut Vec<u8>) -> bool {
        Receiver::poll_transmit(self, now, packet)
    }
    fn poll_timeout(&self) -> Option<Instant> {
        Receiver::poll_timeout(self)
    }
    fn outcome(&self) -> Option<&Outcome> {
        Receiver::outcome(self)
    }
    /// One byte more than agreed, to notice a block that is too large.
    fn largest_datagram(&self) -> usize {
        self.block_bytes() + packet::DATA_HEADER + 1
    }
    fn poll_received(&mut self) -> Option<Vec<u8>> {
        Receiver::poll_received(self)
    }
    fn handle_stored(&mut self, now: Instant, kept: bool) {
        Receiver::handle_stored(self, now, kept);
    }
}
