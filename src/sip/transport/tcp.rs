//! TCP: accepts and makes connections, cuts them into messages, answers pings, and closes those that idle or dawdle.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Config, Flow, FlowId, Transport,
    framing::{Frame, Framer},
    socket::Inbound,
};

/// A message that has begun must have ended by then: who trickles bytes holds no connection for ever.
const MESSAGE_TIME: Duration = Duration::from_secs(20);
/// A peer that does not read for so long is gone.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// How long a connection may take to come up.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Messages waiting to be written on one connection; a peer that lets more pile up is disconnected.
const OUTBOX: usize = 256;

/// All connections of this process. The lock is held for a look-up, never across an await.
pub(super) struct Connections {
    config: Config,
    table: Mutex<Table>,
    next: AtomicU64,
    inbound: mpsc::Sender<Inbound>,
}

#[derive(Default)]
struct Table {
    by_id: HashMap<FlowId, Entry>,
    by_peer: HashMap<SocketAddr, FlowId>,
    accepted: HashMap<IpAddr, usize>,
}

struct Entry {
    outbox: mpsc::Sender<Bytes>,
    peer: SocketAddr,
    accepted: bool,
}

pub(super) fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for old connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until the receiver of inbound messages is gone.
pub(super) async fn accept(listener: TcpListener, connections: Arc<Connections>) {
    loop {
        let accepted = tokio::select! {
            () = connections.inbound.closed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => connections.take_in(stream, peer),
            // Out of file descriptors, mostly: let some close.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a SIP connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Connections {
    pub(super) fn new(config: Config, inbound: mpsc::Sender<Inbound>) -> Arc<Self> {
        Arc::new(Self { config, table: Mutex::default(), next: AtomicU64::new(1), inbound })
    }

    /// Hands a message to the flow's connection; without one, makes it. False if it cannot be sent.
    pub(super) fn send(self: &Arc<Self>, flow: &Flow, bytes: Bytes) -> bool {
        let mut table = self.table();
        let id = if flow.id == FlowId::NONE { table.by_peer.get(&flow.peer).copied() } else { Some(flow.id) };
        match id {
            Some(id) => match table.by_id.get(&id).map(|entry| entry.outbox.try_send(bytes)) {
                Some(Ok(())) => true,
                // Full: the peer does not read. Dropping the sender ends its task.
                Some(Err(_)) => {
                    table.remove(id);
                    false
                }
                None => false,
            },
            None => {
                let Some((id, outbox)) = self.enter(&mut table, flow.peer, false) else { return false };
                // There is room: the outbox is new.
                if let Some(entry) = table.by_id.get(&id) {
                    let _ = entry.outbox.try_send(bytes);
                }
                tokio::spawn(self.clone().connect(id, *flow, outbox));
                true
            }
        }
    }

    /// Connections that are up or coming up.
    pub(super) fn len(&self) -> usize {
        self.table().by_id.len()
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        // Nobody panics while holding it; if somebody did, the table is still a table.
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn enter(&self, table: &mut Table, peer: SocketAddr, accepted: bool) -> Option<(FlowId, mpsc::Receiver<Bytes>)> {
        let from_there = table.accepted.get(&peer.ip()).copied().unwrap_or(0);
        if table.by_id.len() >= self.config.max_connections || (accepted && from_there >= self.config.max_connections_per_source) {
            metrics::counter!("plugtone_sip_connections_refused_total").increment(1);
            return None;
        }
        let id = FlowId(self.next.fetch_add(1, Ordering::Relaxed));
        let (outbox, mail) = mpsc::channel(OUTBOX);
        table.by_id.insert(id, Entry { outbox, peer, accepted });
        table.by_peer.insert(peer, id);
        if accepted {
            *table.accepted.entry(peer.ip()).or_default() += 1;
        }
        Some((id, mail))
    }

    fn take_in(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let Ok(local) = stream.local_addr() else { return };
        let Some((id, mail)) = self.enter(&mut self.table(), peer, true) else { return };
        tokio::spawn(self.clone().serve(stream, Flow { transport: Transport::Tcp, local, peer, id }, mail));
    }

    async fn connect(self: Arc<Self>, id: FlowId, flow: Flow, mail: mpsc::Receiver<Bytes>) {
        let flow = Flow { id, ..flow };
        match timeout(CONNECT_TIME, open(&flow)).await {
            Ok(Ok(stream)) => {
                let local = stream.local_addr().unwrap_or(flow.local);
                self.serve(stream, Flow { local, ..flow }, mail).await;
            }
            _ => {
                tracing::debug!(peer = %flow.peer, "cannot connect");
                self.table().remove(id);
                let _ = self.inbound.send(Inbound::Closed { flow }).await;
            }
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, flow: Flow, mail: mpsc::Receiver<Bytes>) {
        let _ = stream.set_nodelay(true);
        if let Err(error) = self.talk(stream, flow, mail).await {
            tracing::debug!(peer = %flow.peer, %error, "connection ended");
        }
        self.table().remove(flow.id);
        let _ = self.inbound.send(Inbound::Closed { flow }).await;
    }

    async fn talk(&self, mut stream: TcpStream, flow: Flow, mut mail: mpsc::Receiver<Bytes>) -> io::Result<()> {
        let mut framer = Framer::new();
        let mut deadline = Instant::now() + self.config.idle;
        loop {
            tokio::select! {
                () = self.inbound.closed() => return Ok(()),
                () = sleep_until(deadline) => return Err(io::ErrorKind::TimedOut.into()),
                bytes = mail.recv() => match bytes {
                    Some(bytes) => write(&mut stream, &bytes).await?,
                    None => return Err(io::Error::other("it does not take what is sent")),
                },
                read = stream.read_buf(framer.space()) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    let mut whole = false;
                    while let Some(frame) = framer.next_frame().map_err(io::Error::other)? {
                        whole = true;
                        match frame {
                            Frame::Ping => write(&mut stream, b"\r\n").await?,
                            // Waits while nobody has time: the peer then feels it.
                            Frame::Message(bytes) => {
                                self.inbound.send(Inbound::Message { flow, bytes }).await.map_err(io::Error::other)?;
                            }
                        }
                    }
                    let now = Instant::now();
                    if !framer.is_partial() {
                        deadline = now + self.config.idle;
                    } else if whole || deadline > now + MESSAGE_TIME {
                        deadline = now + MESSAGE_TIME;
                    }
                }
            }
        }
    }
}

impl Table {
    fn remove(&mut self, id: FlowId) {
        let Some(entry) = self.by_id.remove(&id) else { return };
        if self.by_peer.get(&entry.peer) == Some(&id) {
            self.by_peer.remove(&entry.peer);
        }
        if entry.accepted
            && let Some(count) = self.accepted.get_mut(&entry.peer.ip())
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.accepted.remove(&entry.peer.ip());
            }
        }
    }
}

async fn open(flow: &Flow) -> io::Result<TcpStream> {
    let socket = if flow.peer.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if !flow.local.ip().is_unspecified() {
        // Our address as the far end knows it, from any port: the one we listen on is taken.
        socket.bind(SocketAddr::new(flow.local.ip(), 0))?;
    }
    socket.connect(flow.peer).await
}

async fn write(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    timeout(WRITE_TIME, stream.write_all(bytes)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
