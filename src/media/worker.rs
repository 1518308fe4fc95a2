//! The threads that move audio: sockets, the 20 ms tick and commands in one epoll loop each.
//!
//! A session lives on one thread (its *lane*) for its whole life, named by its id. Frames of a bridged session go straight
//! to the other one if both share a lane, and through a bounded channel if not; so do those that others overhear. Nothing here waits for anybody: commands
//! come by a bounded channel with an eventfd, events leave by `try_send`, and what does not fit is counted.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    eventfd::{EfdFlags, EventFd},
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, oneshot};

use super::{
    Command, Config, Error, MediaEvent, Session, SessionConfig, SessionId, Stats,
    session::{Channel, Core, CoreConfig, Frame, FrameKind, MAX_PAYLOAD, TICK},
};

use crate::{model::NumberHash, rtp::packet};

/// Commands that may wait for one lane: a second's worth for thousands of calls.
const COMMANDS: usize = 8192;
/// Frames that may wait on their way from another lane.
const FRAMES: usize = 1024;
/// Datagrams read from one socket before the others have their turn.
const BURST: usize = 16;
/// Sessions tick in so many groups, spread over the 20 ms, so that packets do not leave all at once.
const PHASES: u64 = 4;
const STEP: Duration = Duration::from_millis(TICK.as_millis() as u64 / PHASES);
/// Counts go to the metrics after so many steps: a second.
const REPORT: u64 = 200;
/// A step that comes later than this is counted as late.
const LATE: Duration = Duration::from_millis(10);
/// Lanes a session id can name.
const MAX_LANES: u64 = 64;

/// The handle on all audio. Cheap to clone; when the last clone is dropped, the threads end.
#[derive(Clone)]
pub struct Media(Arc<Owner>);

struct Owner {
    config: Config,
    lanes: Lanes,
    /// Counts sessions; with the lane in the lowest digits it is the id.
    sessions: AtomicU64,
    /// Counts ports tried, so that a port that was just closed is not the next to be opened.
    ports: AtomicU32,
    /// Where sessions begin to count from.
    random: RandomState,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

type Lanes = Arc<Vec<Lane>>;

/// How to reach one thread.
struct Lane {
    messages: SyncSender<Message>,
    frames: SyncSender<(SessionId, OwnedFrame)>,
    wake: EventFd,
    /// `wake` is written to and not yet read.
    woken: AtomicBool,
    /// The thread looks into its channels by itself at each step.
    stepping: AtomicBool,
    /// The system's number of the thread, once it runs; 0 before.
    task: AtomicU64,
}

/// Where RTP is received, its socket, and the one for RTCP.
type Ports = (SocketAddr, UdpSocket, Option<UdpSocket>);

enum Message {
    Open(Box<Opening>),
    Command(SessionId, Command),
    /// The other half of a bridge.
    Join(SessionId, SessionId),
    /// The session's partner, or whom it overheard, has left it.
    Part(SessionId, SessionId),
    /// Somebody overhears the session from now on, or does so no more.
    Listener(SessionId, SessionId),
    Deaf(SessionId, SessionId),
    Stats(SessionId, oneshot::Sender<Stats>),
    Stop,
}

struct Opening {
    id: SessionId,
    rtp: UdpSocket,
    rtcp: Option<UdpSocket>,
    events: mpsc::Sender<(SessionId, MediaEvent)>,
    core: CoreConfig,
}

/// A frame on its way to another lane.
struct OwnedFrame {
    kind: FrameKind,
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    marker: bool,
    length: usize,
    payload: [u8; MAX_PAYLOAD],
}

impl Media {
    /// Starts the threads.
    pub fn start(config: Config) -> Result<Self, Error> {
        let count = config.threads.clamp(1, MAX_LANES as usize);
        let mut inboxes = Vec::new();
        let mut lanes = Vec::new();
        for _ in 0..count {
            let (messages, message_inbox) = sync_channel(COMMANDS);
            let (frames, frame_inbox) = sync_channel(FRAMES);
            let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).map_err(os_thread)?;
            lanes.push(Lane {
                messages,
                frames,
                wake,
                woken: AtomicBool::new(false),
                stepping: AtomicBool::new(false),
                task: AtomicU64::new(0),
            });
            inboxes.push((message_inbox, frame_inbox));
        }
        let owner = Owner {
            config,
            lanes: Arc::new(lanes),
            sessions: AtomicU64::new(1),
            ports: AtomicU32::new(0),
            random: RandomState::new(),
            threads: Mutex::new(Vec::new()),
        };
        for (number, (messages, frames)) in inboxes.into_iter().enumerate() {
            let worker = Worker::new(number, owner.lanes.clone(), messages, frames)?;
            let thread = std::thread::Builder::new().name(format!("media-{number}")).spawn(move || worker.run()).map_err(Error::Thread)?;
            owner.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(Self(Arc::new(owner)))
    }

    /// Opens a port and a session on it. Silent and deaf until [`Command::SetRemote`].
    pub fn open(&self, config: SessionConfig) -> Result<Session, Error> {
        let (local, rtp, rtcp) = self.bind(config.local_ip)?;
        let number = self.0.sessions.fetch_add(1, Ordering::Relaxed);
        let lanes = self.0.lanes.len() as u64;
        let lane = config.near.map_or(number % lanes, |near| near.0 % MAX_LANES);
        let id = SessionId(number * MAX_LANES + lane);
        // A keyed hash: nobody can guess these, and the system need not be asked each time.
        let [first, second] = [0, 1].map(|part| self.0.random.hash_one((number, part)));
        let core = CoreConfig {
            ssrc: first as u32,
            // The upper bit is left clear so that the first wrap is far (RFC 3711 §3.3.1 wants it for SRTP).
            sequence: second as u16 & 0x7fff,
            timestamp: (first >> 32) as u32,
            silence: self.0.config.silence,
            inband_dtmf: self.0.config.inband_dtmf,
        };
        let opening = Opening { id, rtp, rtcp, events: config.events, core };
        self.lane(id)?.send(Message::Open(Box::new(opening)))?;
        Ok(Session { id, local })
    }

    /// Tells a session what to do; returns at once. A session that is closed ignores it. If the thread is so far behind
    /// that the command finds no room, it is lost, logged and counted.
    pub fn command(&self, id: SessionId, command: Command) {
        if let Err(fault) = self.lane(id).and_then(|lane| lane.send(Message::Command(id, command))) {
            metrics::counter!("plugtone_media_commands_lost_total").increment(1);
            tracing::warn!(session = %id, %fault, "a media command was lost");
        }
    }

    /// Asks for the figures until now. The receiver fails if the session is closed.
    pub fn stats(&self, id: SessionId) -> oneshot::Receiver<Stats> {
        let (reply, answer) = oneshot::channel();
        // If there is no room, `reply` is dropped and the asker learns it.
        let _ = self.lane(id).and_then(|lane| lane.send(Message::Stats(id, reply)));
        answer
    }

    /// The threads by the system's numbers, as in `/proc/self/task`; 0 for one that does not run yet.
    pub fn tasks(&self) -> Vec<u64> {
        self.0.lanes.iter().map(|lane| lane.task.load(Ordering::Relaxed)).collect()
    }

    /// `false`: it was shut down, or a thread has ended by a fault.
    pub fn is_running(&self) -> bool {
        let threads = self.0.threads.lock().unwrap_or_else(PoisonError::into_inner);
        !threads.is_empty() && !threads.iter().any(JoinHandle::is_finished)
    }

    /// Ends all sessions and the threads; returns when they have ended.
    pub fn shutdown(&self) {
        self.0.stop();
        let threads = std::mem::take(&mut *self.0.threads.lock().unwrap_or_else(PoisonError::into_inner));
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }

    fn lane(&self, id: SessionId) -> Result<&Lane, Error> {
        self.0.lanes.get((id.0 % MAX_LANES) as usize).ok_or(Error::Stopped)
    }

    /// An even port and the one above it.
    fn bind(&self, address: IpAddr) -> Result<Ports, Error> {
        let Some((first, last)) = self.0.config.ports else { return self.bind_anywhere(address) };
        let first = first.next_multiple_of(2);
        let pairs = u32::from(last.saturating_sub(first).saturating_add(1) / 2);
        for _ in 0..pairs {
            let pair = self.0.ports.fetch_add(1, Ordering::Relaxed) % pairs;
            let at = SocketAddr::new(address, first + 2 * pair as u16);
            if let Some((rtp, rtcp)) = self.bind_pair(at)? {
                return Ok((at, rtp, Some(rtcp)));
            }
        }
        Err(Error::PortsExhausted { first, last })
    }

    fn bind_pair(&self, at: SocketAddr) -> Result<Option<(UdpSocket, UdpSocket)>, Error> {
        let (address, port) = (at.ip(), at.port());
        let bound = self.bind_one(address, port).and_then(|rtp| Ok((rtp, self.bind_one(address, port + 1)?)));
        match bound {
            Ok(pair) => Ok(Some(pair)),
            Err(fault) if fault.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(source) => Err(Error::Socket { address, source }),
        }
    }

    /// Whatever the system gives, even with a free port above it if a few tries find one.
    fn bind_anywhere(&self, address: IpAddr) -> Result<Ports, Error> {
        let fault = |source| Error::Socket { address, source };
        for _ in 0..16 {
            let probe = self.bind_one(address, 0).map_err(fault)?;
            let at = probe.local_addr().map_err(fault)?;
            if at.port() % 2 == 0
                && at.port() < u16::MAX
                && let Ok(rtcp) = self.bind_one(address, at.port() + 1)
            {
                return Ok((at, probe, Some(rtcp)));
            }
        }
        let rtp = self.bind_one(address, 0).map_err(fault)?;
        Ok((rtp.local_addr().map_err(fault)?, rtp, None))
    }

    fn bind_one(&self, address: IpAddr, port: u16) -> io::Result<UdpSocket> {
        let at = SocketAddr::new(address, port);
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        socket.bind(&at.into())?;
        let tos = u32::from(self.0.config.dscp) << 2;
        // Marking is a wish: a container may not allow it, and audio works without.
        let _ = if address.is_ipv4() { socket.set_tos_v4(tos) } else { socket.set_tclass_v6(tos) };
        Ok(socket.into())
    }
}

impl std::fmt::Debug for Media {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Media({} threads)", self.0.lanes.len())
    }
}

impl Owner {
    fn stop(&self) {
        for lane in self.lanes.iter() {
            // A full channel means that the thread is alive and behind: wait for room, for this is the last message.
            let _ = lane.messages.send(Message::Stop);
            lane.wake();
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Lane {
    fn send(&self, message: Message) -> Result<(), Error> {
        self.messages.try_send(message).map_err(|fault| match fault {
            TrySendError::Full(_) => Error::Overloaded(COMMANDS),
            TrySendError::Disconnected(_) => Error::Stopped,
        })?;
        // 5 ms at most, and one wake-up less for half a dozen commands of each call.
        if !self.stepping.load(Ordering::SeqCst) {
            self.wake();
        }
        Ok(())
    }

    /// To be called when there is something in a channel. A call brings half a dozen commands at once: one system call does.
    fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            let _ = self.wake.write(1);
        }
    }

    /// The thread is awake and looks into its channels next: what is put there from now on wakes it again.
    fn awake(&self) {
        let _ = self.wake.read();
        self.woken.swap(false, Ordering::AcqRel);
    }
}

fn os_thread(fault: nix::Error) -> Error {
    Error::Thread(fault.into())
}

/// What epoll calls our own descriptors; sessions are twice their id, and one more for RTCP.
const WAKE: u64 = 0;
const TIMER: u64 = 1;

/// One lane's thread.
struct Worker {
    number: usize,
    lanes: Lanes,
    messages: Receiver<Message>,
    frames: Receiver<(SessionId, OwnedFrame)>,
    epoll: Epoll,
    timer: TimerFd,
    /// When the timer was armed; it is not while there are no sessions.
    armed: Option<Instant>,
    step: u64,
    sessions: HashMap<SessionId, Slot, NumberHash>,
    phases: [Vec<SessionId>; PHASES as usize],
    counts: Counts,
}

struct Slot {
    core: Core,
    rtp: UdpSocket,
    rtcp: Option<UdpSocket>,
    events: mpsc::Sender<(SessionId, MediaEvent)>,
    peer: Option<SessionId>,
    /// Whom it overhears.
    hears: Option<SessionId>,
    /// Who overhears it.
    listeners: Vec<SessionId>,
}

/// Added up here and given to the metrics once a second.
#[derive(Default)]
struct Counts {
    received: u64,
    sent: u64,
    send_failed: u64,
    late: u64,
    frames_lost: u64,
    events_lost: u64,
}

impl Worker {
    fn new(number: usize, lanes: Lanes, messages: Receiver<Message>, frames: Receiver<(SessionId, OwnedFrame)>) -> Result<Self, Error> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(os_thread)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC).map_err(os_thread)?;
        if let Some(lane) = lanes.get(number) {
            epoll.add(&lane.wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE)).map_err(os_thread)?;
        }
        epoll.add(timer.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, TIMER)).map_err(os_thread)?;
        Ok(Self {
            number,
            lanes,
            messages,
            frames,
            epoll,
            timer,
            armed: None,
            step: 0,
            sessions: HashMap::default(),
            phases: Default::default(),
            counts: Counts::default(),
        })
    }

    fn run(mut self) {
        let task = std::fs::read_link("/proc/thread-self").ok();
        let task = task.as_ref().and_then(|path| path.file_name()?.to_str()?.parse().ok()).unwrap_or(0);
        if let Some(lane) = self.lanes.get(self.number) {
            lane.task.store(task, Ordering::Relaxed);
        }
        let mut ready = vec![EpollEvent::empty(); 256];
        let mut buffer = vec![0; 2048];
        loop {
            let count = match self.epoll.wait(&mut ready, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(nix::Error::EINTR) => continue,
                Err(fault) => {
                    tracing::error!(lane = self.number, %fault, "audio thread ends: epoll failed");
                    return;
                }
            };
            let now = Instant::now();
            for event in ready.iter().take(count) {
                match event.data() {
                    WAKE | TIMER => {
                        if event.data() == WAKE
                            && let Some(lane) = self.lanes.get(self.number)
                        {
                            lane.awake();
                        }
                        if self.take_messages(now).is_break() {
                            return;
                        }
                        if event.data() == TIMER {
                            self.tick(now);
                        }
                    }
                    session => self.receive(now, SessionId(session / 2), session % 2 == 1, &mut buffer),
                }
            }
        }
    }

    fn take_messages(&mut self, now: Instant) -> std::ops::ControlFlow<()> {
        while let Ok(message) = self.messages.try_recv() {
            match message {
                Message::Open(opening) => self.open(now, *opening),
                Message::Command(id, Command::Close) => self.close(now, id),
                Message::Command(id, Command::Bridge(with)) => {
                    self.join(id, with);
                    self.tell_lane(Message::Join(with, id), with);
                }
                Message::Command(id, Command::Overhear(whom)) => self.overhear(id, whom),
                Message::Command(id, Command::Unbridge) => self.unbridge(id),
                Message::Command(id, Command::TellTo(events)) => {
                    if let Some(slot) = self.sessions.get_mut(&id) {
                        slot.events = events;
                    }
                }
                Message::Command(id, command) => {
                    if let Some(slot) = self.sessions.get_mut(&id) {
                        slot.core.handle_command(now, command);
                        slot.flush(id, &mut self.counts);
                    }
                }
                Message::Join(id, with) => self.join(id, with),
                Message::Part(id, from) => self.part(id, from),
                Message::Listener(id, who) => self.listener(id, who),
                Message::Deaf(id, who) => self.deaf(id, who),
                Message::Stats(id, reply) => {
                    if let Some(slot) = self.sessions.get(&id) {
                        let _ = reply.send(slot.core.stats());
                    }
                }
                Message::Stop => return std::ops::ControlFlow::Break(()),
            }
        }
        while let Ok((to, frame)) = self.frames.try_recv() {
            self.deliver(now, to, &frame.view());
        }
        std::ops::ControlFlow::Continue(())
    }

    fn open(&mut self, now: Instant, opening: Opening) {
        let Opening { id, rtp, rtcp, events, core } = opening;
        let added = self.epoll.add(&rtp, EpollEvent::new(EpollFlags::EPOLLIN, id.0 * 2)).and_then(|()| match &rtcp {
            Some(rtcp) => self.epoll.add(rtcp, EpollEvent::new(EpollFlags::EPOLLIN, id.0 * 2 + 1)),
            None => Ok(()),
        });
        if let Err(fault) = added {
            tracing::error!(session = %id, %fault, "no audio: the port cannot be watched; raise the limit of open files");
            return;
        }
        let phase = id.0 / MAX_LANES % PHASES;
        let start = self.start_of(now, phase);
        self.sessions.insert(id, Slot { core: Core::new(start, core), rtp, rtcp, events, peer: None, hears: None, listeners: Vec::new() });
        if let Some(group) = self.phases.get_mut(phase as usize) {
            group.push(id);
        }
        metrics::gauge!("plugtone_media_sessions").increment(1.0);
    }

    /// A moment just before a step of this phase, so that the step finds the session's tick due however it wavers.
    fn start_of(&mut self, now: Instant, phase: u64) -> Instant {
        let armed = match self.armed {
            Some(armed) => armed,
            None => self.arm(now),
        };
        let reached = steps(now.saturating_duration_since(armed));
        let ahead = (phase + PHASES - reached % PHASES) % PHASES;
        armed + step_time(reached + ahead) - STEP / 2
    }

    fn arm(&mut self, now: Instant) -> Instant {
        let every = Expiration::Interval(TimeSpec::from_duration(STEP));
        match self.timer.set(every, TimerSetTimeFlags::empty()) {
            Ok(()) => self.set_stepping(true),
            Err(fault) => tracing::error!(lane = self.number, %fault, "the audio clock does not start"),
        }
        self.step = 0;
        self.armed = Some(now);
        now
    }

    fn close(&mut self, now: Instant, id: SessionId) {
        self.unbridge(id);
        let Some(mut slot) = self.sessions.remove(&id) else { return };
        slot.core.handle_command(now, Command::StopPlay);
        slot.flush(id, &mut self.counts);
        slot.tell(id, MediaEvent::Stats(slot.core.stats()), &mut self.counts);
        for listener in std::mem::take(&mut slot.listeners) {
            self.tell_lane(Message::Part(listener, id), listener);
        }
        // The sockets are closed here, and with that epoll forgets them.
        drop(slot);
        self.phases.iter_mut().for_each(|group| group.retain(|other| *other != id));
        metrics::gauge!("plugtone_media_sessions").decrement(1.0);
        if self.sessions.is_empty() {
            // Nobody listens: no reason to wake two hundred times a second.
            let _ = self.timer.unset();
            self.armed = None;
            self.set_stepping(false);
            self.counts.report();
        }
    }

    fn set_stepping(&self, stepping: bool) {
        let Some(lane) = self.lanes.get(self.number) else { return };
        lane.stepping.store(stepping, Ordering::SeqCst);
        // Who has sent something meanwhile may have relied on the next step.
        if !stepping {
            lane.wake();
        }
    }

    fn join(&mut self, id: SessionId, with: SessionId) {
        let Some(slot) = self.sessions.get_mut(&id) else { return };
        let before = slot.peer.replace(with).filter(|before| *before != with);
        let heard = slot.hears.take();
        slot.core.set_bridged(true);
        if let Some(before) = before {
            self.tell_lane(Message::Part(before, id), before);
        }
        if let Some(heard) = heard {
            self.tell_lane(Message::Deaf(heard, id), heard);
        }
    }

    fn unbridge(&mut self, id: SessionId) {
        let Some(slot) = self.sessions.get_mut(&id) else { return };
        let (peer, heard) = (slot.peer.take(), slot.hears.take());
        slot.core.set_bridged(!slot.listeners.is_empty());
        if let Some(peer) = peer {
            self.tell_lane(Message::Part(peer, id), peer);
        }
        if let Some(heard) = heard {
            self.tell_lane(Message::Deaf(heard, id), heard);
        }
    }

    fn part(&mut self, id: SessionId, from: SessionId) {
        let Some(slot) = self.sessions.get_mut(&id) else { return };
        let left = [&mut slot.peer, &mut slot.hears].map(|other| other.take_if(|other| *other == from).is_some());
        if left.contains(&true) {
            slot.core.set_bridged(!slot.listeners.is_empty());
        }
    }

    fn overhear(&mut self, id: SessionId, whom: SessionId) {
        self.unbridge(id);
        let Some(slot) = self.sessions.get_mut(&id).filter(|_| id != whom) else { return };
        slot.hears = Some(whom);
        slot.core.set_bridged(true);
        self.tell_lane(Message::Listener(whom, id), whom);
    }

    fn listener(&mut self, id: SessionId, who: SessionId) {
        match self.sessions.get_mut(&id) {
            Some(slot) => {
                slot.listeners.push(who);
                if slot.peer.is_none() {
                    slot.core.set_bridged(true);
                }
            }
            // It was closed meanwhile.
            None => self.tell_lane(Message::Part(who, id), who),
        }
    }

    fn deaf(&mut self, id: SessionId, who: SessionId) {
        let Some(slot) = self.sessions.get_mut(&id) else { return };
        slot.listeners.retain(|listener| *listener != who);
        if slot.listeners.is_empty() && slot.peer.is_none() {
            slot.core.set_bridged(false);
        }
    }

    /// Sends to the lane of `of`, be it this one.
    fn tell_lane(&mut self, message: Message, of: SessionId) {
        let lane = (of.0 % MAX_LANES) as usize;
        match message {
            Message::Join(id, with) if lane == self.number => self.join(id, with),
            Message::Part(id, from) if lane == self.number => self.part(id, from),
            Message::Listener(id, who) if lane == self.number => self.listener(id, who),
            Message::Deaf(id, who) if lane == self.number => self.deaf(id, who),
            message => {
                if self.lanes.get(lane).is_none_or(|lane| lane.send(message).is_err()) {
                    metrics::counter!("plugtone_media_commands_lost_total").increment(1);
                }
            }
        }
    }

    fn receive(&mut self, now: Instant, id: SessionId, rtcp: bool, buffer: &mut [u8]) {
        for _ in 0..BURST {
            let Some(slot) = self.sessions.get_mut(&id) else { return };
            let socket = if rtcp { slot.rtcp.as_ref() } else { Some(&slot.rtp) };
            let Some(Ok((length, from))) = socket.map(|socket| socket.recv_from(buffer)) else { return };
            self.counts.received += 1;
            let Some(bytes) = buffer.get(..length) else { continue };
            // RTCP may also come on the RTP port (RFC 5761), agreed or not.
            if rtcp || packet::is_rtcp(bytes) {
                slot.core.handle_rtcp(now, from, bytes);
                continue;
            }
            let frame = slot.core.handle_packet(now, from, bytes);
            slot.flush(id, &mut self.counts);
            let Some(frame) = frame else { continue };
            let overheard = !slot.listeners.is_empty();
            if let Some(peer) = slot.peer {
                self.deliver(now, peer, &frame);
            }
            if overheard {
                self.spread(now, id, &frame);
            }
        }
    }

    /// Gives a frame to all who overhear the session.
    fn spread(&mut self, now: Instant, id: SessionId, frame: &Frame<'_>) {
        // Lent for the while, so that nothing is copied.
        let Some(listeners) = self.sessions.get_mut(&id).map(|slot| std::mem::take(&mut slot.listeners)) else { return };
        for listener in &listeners {
            self.deliver(now, *listener, frame);
        }
        if let Some(slot) = self.sessions.get_mut(&id) {
            slot.listeners = listeners;
        }
    }

    /// Gives a frame to the session `to`, here or on its lane.
    fn deliver(&mut self, now: Instant, to: SessionId, frame: &Frame<'_>) {
        let lane = (to.0 % MAX_LANES) as usize;
        if lane == self.number {
            if let Some(slot) = self.sessions.get_mut(&to) {
                slot.core.handle_frame(now, frame);
                slot.flush(to, &mut self.counts);
            }
            return;
        }
        let Some((lane, frame)) = self.lanes.get(lane).zip(OwnedFrame::of(frame)) else { return };
        match lane.frames.try_send((to, frame)) {
            Ok(()) => lane.wake(),
            Err(_) => self.counts.frames_lost += 1,
        }
    }

    fn tick(&mut self, now: Instant) {
        let _ = self.timer.wait();
        let Some(armed) = self.armed else { return };
        let reached = steps(now.saturating_duration_since(armed));
        if now.saturating_duration_since(armed + step_time(self.step + 1)) > LATE {
            self.counts.late += 1;
        }
        let first = self.step.max(reached.saturating_sub(PHASES)) + 1;
        for step in first..=reached {
            let Some(group) = self.phases.get((step % PHASES) as usize) else { return };
            for id in group {
                let Some(slot) = self.sessions.get_mut(id) else { continue };
                while slot.core.poll_timeout() <= now {
                    slot.core.handle_timeout(now);
                    slot.flush(*id, &mut self.counts);
                }
            }
        }
        if reached / REPORT != self.step / REPORT {
            self.counts.report();
        }
        self.step = self.step.max(reached);
    }
}

/// Whole steps in a time, and back.
fn steps(time: Duration) -> u64 {
    (time.as_micros() / STEP.as_micros()) as u64
}

fn step_time(steps: u64) -> Duration {
    Duration::from_micros(steps.saturating_mul(STEP.as_micros() as u64))
}

impl Slot {
    /// Sends and tells what the core has ready.
    fn flush(&mut self, id: SessionId, counts: &mut Counts) {
        while let Some(transmit) = self.core.poll_transmit() {
            let socket = match transmit.channel {
                Channel::Rtp => Some(&self.rtp),
                Channel::Rtcp => self.rtcp.as_ref(),
            };
            match socket.map(|socket| socket.send_to(transmit.bytes, transmit.to)) {
                Some(Ok(_)) => counts.sent += 1,
                // A full buffer or a route that is gone: audio is not sent twice.
                Some(Err(_)) | None => counts.send_failed += 1,
            }
        }
        while let Some(event) = self.core.poll_event() {
            self.tell(id, event, counts);
        }
    }

    fn tell(&self, id: SessionId, event: MediaEvent, counts: &mut Counts) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.events.try_send((id, event)) {
            counts.events_lost += 1;
        }
    }
}

impl Counts {
    fn report(&mut self) {
        let counts = std::mem::take(self);
        for (name, count) in [
            ("plugtone_media_packets_received_total", counts.received),
            ("plugtone_media_packets_sent_total", counts.sent),
            ("plugtone_media_send_failures_total", counts.send_failed),
            ("plugtone_media_late_ticks_total", counts.late),
            ("plugtone_media_frames_lost_total", counts.frames_lost),
            ("plugtone_media_events_lost_total", counts.events_lost),
        ] {
            if count > 0 {
                metrics::counter!(name).increment(count);
            }
        }
    }
}

impl OwnedFrame {
    fn of(frame: &Frame<'_>) -> Option<Self> {
        let Frame { kind, ssrc, sequence, timestamp, marker, payload: bytes } = *frame;
        let mut payload = [0; MAX_PAYLOAD];
        payload.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self { kind, ssrc, sequence, timestamp, marker, length: bytes.len(), payload })
    }

    fn view(&self) -> Frame<'_> {
        let Self { kind, ssrc, sequence, timestamp, marker, length, ref payload } = *self;
        Frame { kind, ssrc, sequence, timestamp, marker, payload: payload.get(..length).unwrap_or_default() }
    }
}
