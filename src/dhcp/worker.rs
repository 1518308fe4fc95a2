//! What a DHCP server does around its core, of either version of IP: packets in as they come, leases to the store, then the answers.
//!
//! One task, on a thread of its own with those that read the sockets, owns the core: no file that is rendered and no crowd of sightings
//! makes a lease wait. It handles a batch of packets before it looks at other work, and writes many leases at a time: the store
//! groups them. Not here: sockets (`socket.rs`, `v6/socket.rs`) and any decision.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::raw::{Interface, interfaces};
use crate::{model::Timestamp, thread::Thread};

/// Larger than any DHCP packet on Ethernet.
const LARGEST: usize = 2048;
/// Packets read and not yet handled, over all interfaces; the kernel keeps more.
pub(super) const WAITING: usize = 1024;
/// Packets handled before answers are sent and other work is looked at.
const AT_ONCE: usize = 64;
pub(super) const RECEIVE_BUFFER: usize = 4 << 20;
/// Wall time may be set: timers are looked at this often at least.
const TICK: Duration = Duration::from_secs(1);
/// Interfaces come and go: they are looked at this often.
const REFRESH: Duration = Duration::from_secs(5);
/// How long the leases that are being written may take when the server stops.
const LAST_WRITES: Duration = Duration::from_secs(3);

pub(super) fn now() -> Timestamp {
    Timestamp::of(SystemTime::now())
}

/// A core with its network.
pub(super) trait Service: Send + 'static {
    const NAME: &str;
    type Config: Send + 'static;
    /// A packet as it was read.
    type Packet: Send + 'static;
    /// What else the network tells.
    type News: Send + 'static;
    /// Which leases were written.
    type Written: Send + 'static;

    fn handle_packet(&mut self, now: Timestamp, packet: Self::Packet);
    fn handle_news(&mut self, now: Timestamp, news: Self::News);
    fn handle_committed(&mut self, now: Timestamp, written: Self::Written, outcome: Result<(), String>);
    fn handle_timeout(&mut self, now: Timestamp);
    fn poll_timeout(&self) -> Option<Timestamp>;
    fn set_config(&mut self, now: Timestamp, config: Self::Config);
    /// Does what the core wants done; leases on their way to the store go into `writes`.
    fn apply(&mut self, writes: &mut Writes<Self::Written>);
    /// Looks at the interfaces again.
    fn refresh(&mut self);
}

/// Leases on their way to the store.
pub(super) type Writes<W> = FuturesUnordered<BoxFuture<'static, (W, Result<(), String>)>>;

/// A server at work.
pub struct Running<C> {
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    commands: mpsc::Sender<C>,
    task: JoinHandle<()>,
}

impl<C> Running<C> {
    /// Goes on with other subnets, ranges and times. Where it listens stays: that takes a restart.
    pub async fn reload(&self, config: C) {
        let _ = self.commands.send(config).await;
    }

    /// `false`: it was stopped, or has ended by a fault.
    pub fn is_running(&self) -> bool {
        !self.task.is_finished()
    }

    /// Waits until it has stopped: cancel its token first.
    pub async fn stopped(self) {
        let _ = self.task.await;
    }
}

/// Runs the service on the thread until `shutdown` is cancelled. `readers` are on that thread too and end with it.
///
/// # Errors
/// The system has no thread left.
pub(super) fn start<S: Service>(
    thread: Thread,
    service: S,
    addresses: Vec<SocketAddr>,
    packets: mpsc::Receiver<S::Packet>,
    news: mpsc::Receiver<S::News>,
    readers: JoinSet<()>,
    shutdown: CancellationToken,
) -> io::Result<Running<S::Config>> {
    let (commands, reloads) = mpsc::channel(4);
    let task = tokio::spawn(thread.run(run(service, packets, news, reloads, readers, shutdown))?);
    Ok(Running { addresses, commands, task })
}

async fn run<S: Service>(
    mut service: S,
    mut packets: mpsc::Receiver<S::Packet>,
    mut news: mpsc::Receiver<S::News>,
    mut reloads: mpsc::Receiver<S::Config>,
    _readers: JoinSet<()>,
    shutdown: CancellationToken,
) {
    let mut refresh = tokio::time::interval(REFRESH);
    let mut writes = FuturesUnordered::new();
    loop {
        service.apply(&mut writes);
        let wake = service.poll_timeout().map_or(TICK, |at| Duration::from_millis((at.0 - now().0).max(0) as u64).min(TICK));
        tokio::select! {
            Some(packet) = packets.recv() => {
                service.handle_packet(now(), packet);
                for _ in 1..AT_ONCE {
                    let Ok(packet) = packets.try_recv() else { break };
                    service.handle_packet(now(), packet);
                }
            }
            Some((written, outcome)) = writes.next(), if !writes.is_empty() => {
                service.handle_committed(now(), written, outcome);
                // Those of the same group are ready too.
                while let Some(Some((written, outcome))) = writes.next().now_or_never() {
                    service.handle_committed(now(), written, outcome);
                }
            }
            Some(news) = news.recv() => service.handle_news(now(), news),
            Some(config) = reloads.recv() => service.set_config(now(), config),
            _ = refresh.tick() => service.refresh(),
            () = tokio::time::sleep(wake) => service.handle_timeout(now()),
            () = shutdown.cancelled() => break,
        }
    }
    // What is being written is acknowledged still; nothing new is taken.
    let last_writes = async {
        while let Some((written, outcome)) = writes.next().await {
            service.handle_committed(now(), written, outcome);
            service.apply(&mut writes);
        }
    };
    if tokio::time::timeout(LAST_WRITES, last_writes).await.is_err() {
        tracing::warn!("the store did not take the last leases in time; their clients were not told that they have them");
    }
    tracing::info!("{} server has stopped", S::NAME);
}

/// A socket that packets come by.
pub(super) trait Door: Send + Sync + 'static {
    /// Counts what could not be read.
    const ERRORS: &str;
    type Packet: Send + 'static;

    /// The next packet; its bytes are copied out of the buffer.
    fn receive(&self, buffer: &mut [u8]) -> impl Future<Output = io::Result<Self::Packet>> + Send;
}

/// Hands on what comes by a socket.
pub(super) async fn read<D: Door>(door: Arc<D>, packets: mpsc::Sender<D::Packet>) {
    let mut buffer = [0; LARGEST];
    loop {
        match door.receive(&mut buffer).await {
            Ok(packet) => {
                if packets.send(packet).await.is_err() {
                    return;
                }
            }
            // An ICMP error of an earlier reply, say: the next packet may be well.
            Err(error) => {
                tracing::debug!(%error, "reading DHCP");
                metrics::counter!(D::ERRORS).increment(1);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// The interfaces of this machine, as they were when they were last looked at.
#[derive(Debug, Default)]
pub(super) struct Links(Vec<Interface>);

impl Links {
    pub fn refresh(&mut self) {
        match interfaces() {
            Ok(list) => self.0 = list,
            Err(error) => tracing::warn!(%error, "cannot list the network interfaces; going on with those known"),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Interface> {
        self.0.iter()
    }

    pub fn get(&self, index: u32) -> Option<&Interface> {
        self.0.iter().find(|interface| interface.index == index)
    }

    /// One that a packet came by: perhaps it is new.
    pub fn get_or_look(&mut self, index: u32) -> Option<&Interface> {
        if self.get(index).is_none() {
            self.refresh();
        }
        self.get(index)
    }
}
