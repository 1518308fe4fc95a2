//! Connections: accepts and makes them, over TCP and TLS, cuts them into messages, answers pings, and closes those that idle or
//! dawdle. Those of browsers go on in `websocket.rs` once they are up.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Handle,
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{
    Config, Flow, FlowId, Transport,
    framing::{Frame, Framer},
    rate::{Rates, Verdict},
    socket::Inbound,
    tls::{self, Far},
    websocket,
};

/// A peer that does not read for so long is gone.
pub(super) const WRITE_TIME: Duration = Duration::from_secs(10);
/// How long a connection may take to come up.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long the far end of a silent connection may be gone before the system asks it. NAT forgets connections after minutes.
const PROBE_AFTER: Duration = Duration::from_secs(120);
const PROBE_EVERY: Duration = Duration::from_secs(20);
/// Messages waiting to be written on one connection; a peer that lets more pile up is disconnected.
const OUTBOX: usize = 256;

/// All connections of this process. The lock is held for a look-up, never across an await.
pub(super) struct Connections {
    config: Config,
    /// Where connections live.
    runtime: Handle,
    table: Mutex<Table>,
    next: AtomicU64,
    inbound: mpsc::Sender<Inbound>,
    rates: Arc<Mutex<Rates>>,
}

#[derive(Default)]
struct Table {
    by_id: HashMap<FlowId, Entry>,
    by_peer: HashMap<(Transport, SocketAddr), FlowId>,
    /// Whom streams by TLS must lead to.
    expected: HashMap<SocketAddr, Far>,
    accepted: HashMap<IpAddr, usize>,
}

struct Entry {
    outbox: mpsc::Sender<Bytes>,
    transport: Transport,
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
pub(super) async fn accept(listener: TcpListener, transport: Transport, connections: Arc<Connections>) {
    loop {
        let accepted = tokio::select! {
            () = connections.inbound.closed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => connections.take_in(stream, transport, peer),
            // Out of file descriptors, mostly: let some close.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a SIP connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Connections {
    pub(super) fn new(config: Config, rates: Arc<Mutex<Rates>>, inbound: mpsc::Sender<Inbound>) -> Arc<Self> {
        Arc::new(Self { config, runtime: Handle::current(), table: Mutex::default(), next: AtomicU64::new(1), inbound, rates })
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Hands a message to the flow's connection; without one, makes it. False if it cannot be sent.
    pub(super) fn send(self: &Arc<Self>, flow: &Flow, bytes: Bytes) -> bool {
        let mut table = self.table();
        let there = || table.by_peer.get(&(flow.transport, flow.peer)).copied();
        let id = if flow.id == FlowId::NONE { there() } else { Some(flow.id) };
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
            // A browser cannot be called, only answered.
            None if flow.transport.is_web() => false,
            None => {
                let Some((id, outbox)) = self.enter(&mut table, flow, false) else { return false };
                // There is room: the outbox is new.
                if let Some(entry) = table.by_id.get(&id) {
                    let _ = entry.outbox.try_send(bytes);
                }
                self.runtime.spawn(self.clone().connect(id, *flow, outbox));
                true
            }
        }
    }

    pub(super) fn expect(&self, peer: SocketAddr, far: Far) {
        self.table().expected.insert(peer, far);
    }

    /// Connections that are up or coming up.
    pub(super) fn len(&self) -> usize {
        self.table().by_id.len()
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        // Nobody panics while holding it; if somebody did, the table is still a table.
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn enter(&self, table: &mut Table, flow: &Flow, accepted: bool) -> Option<(FlowId, mpsc::Receiver<Bytes>)> {
        let Flow { transport, peer, .. } = *flow;
        let from_there = table.accepted.get(&peer.ip()).copied().unwrap_or(0);
        if table.by_id.len() >= self.config.max_connections || (accepted && from_there >= self.config.max_connections_per_source) {
            metrics::counter!("plugtone_sip_connections_refused_total", "transport" => transport.as_str()).increment(1);
            tracing::debug!(%transport, %peer, "connection refused: there are as many as there may be");
            return None;
        }
        let id = FlowId(self.next.fetch_add(1, Ordering::Relaxed));
        let (outbox, mail) = mpsc::channel(OUTBOX);
        table.by_id.insert(id, Entry { outbox, transport, peer, accepted });
        table.by_peer.insert((transport, peer), id);
        if accepted {
            *table.accepted.entry(peer.ip()).or_default() += 1;
        }
        Some((id, mail))
    }

    fn take_in(self: &Arc<Self>, stream: TcpStream, transport: Transport, peer: SocketAddr) {
        let Ok(local) = stream.local_addr() else { return };
        let flow = Flow::of(transport, local, peer);
        let Some((id, mail)) = self.enter(&mut self.table(), &flow, true) else { return };
        let (connections, flow) = (self.clone(), Flow { id, ..flow });
        tokio::spawn(async move {
            let ended = connections.welcome(stream, flow, mail).await;
            connections.ended(flow, ended).await;
        });
    }

    async fn connect(self: Arc<Self>, id: FlowId, flow: Flow, mail: mpsc::Receiver<Bytes>) {
        let mut flow = Flow { id, ..flow };
        let ended = match timeout(CONNECT_TIME, open(&flow)).await {
            Ok(Ok(stream)) => {
                flow.local = stream.local_addr().unwrap_or(flow.local);
                self.greet(stream, flow, mail).await
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        if let Some(reason) = ended.as_ref().err().and_then(tls::distrust) {
            let _ = self.inbound.send(Inbound::Distrusted { flow, reason }).await;
        }
        self.ended(flow, ended).await;
    }

    async fn ended(&self, flow: Flow, ended: io::Result<()>) {
        if let Err(error) = ended {
            tracing::debug!(transport = %flow.transport, peer = %flow.peer, %error, "connection ended");
        }
        self.table().remove(flow.id);
        let _ = self.inbound.send(Inbound::Closed { flow }).await;
    }

    /// A connection that was made to us, from its handshake to its end.
    async fn welcome(&self, stream: TcpStream, flow: Flow, mail: mpsc::Receiver<Bytes>) -> io::Result<()> {
        tune(&stream);
        let origins = &self.config.web_origins;
        match flow.transport {
            Transport::Udp | Transport::Tcp => self.talk(stream, flow, mail).await,
            Transport::Tls => self.talk(self.in_time(self.accept_tls(stream)).await?, flow, mail).await,
            Transport::Ws => websocket::talk(self, self.in_time(websocket::accept(stream, origins)).await?, flow, mail).await,
            Transport::Wss => {
                let handshakes = async { websocket::accept(self.accept_tls(stream).await?, origins).await };
                websocket::talk(self, self.in_time(handshakes).await?, flow, mail).await
            }
        }
    }

    /// A connection that we made.
    async fn greet(&self, stream: TcpStream, flow: Flow, mail: mpsc::Receiver<Bytes>) -> io::Result<()> {
        tune(&stream);
        if flow.transport != Transport::Tls {
            return self.talk(stream, flow, mail).await;
        }
        let Some(tls) = self.config.identity.as_ref() else { return Err(tls::no_identity()) };
        let far = self.table().expected.get(&flow.peer).cloned().unwrap_or_else(|| Far::at(flow.peer.ip()));
        let (name, client) = tls::client(tls, &far)?;
        let stream = self.in_time(TlsConnector::from(client).connect(name, stream)).await?;
        self.talk(stream, flow, mail).await
    }

    async fn in_time<T>(&self, handshake: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        timeout(self.config.handshake_time, handshake).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn accept_tls(&self, stream: TcpStream) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
        let tls = self.config.identity.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        TlsAcceptor::from(tls.server()).accept(stream).await
    }

    async fn talk<S>(&self, mut stream: S, flow: Flow, mut mail: mpsc::Receiver<Bytes>) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut framer = Framer::new();
        let mut deadline = Instant::now() + self.config.idle;
        loop {
            tokio::select! {
                () = self.engine_gone() => break,
                () = sleep_until(deadline) => return Err(io::ErrorKind::TimedOut.into()),
                bytes = mail.recv() => match bytes {
                    Some(bytes) => write(&mut stream, &bytes).await?,
                    None => return Err(io::Error::other("it does not take what is sent")),
                },
                read = stream.read_buf(framer.space()) => {
                    if read? == 0 {
                        break;
                    }
                    let mut whole = false;
                    while let Some(frame) = framer.next_frame().map_err(io::Error::other)? {
                        whole = true;
                        match frame {
                            Frame::Ping => write(&mut stream, b"\r\n").await?,
                            Frame::Message(bytes) => self.pass_on(flow, bytes).await?,
                        }
                    }
                    let now = Instant::now();
                    if !framer.is_partial() {
                        deadline = now + self.config.idle;
                    } else if whole || deadline > now + self.config.message_time {
                        deadline = now + self.config.message_time;
                    }
                }
            }
        }
        // TLS says good-bye; who cannot hear it does not matter.
        let _ = timeout(WRITE_TIME, stream.shutdown()).await;
        Ok(())
    }

    /// Nobody takes messages any more.
    pub(super) async fn engine_gone(&self) {
        self.inbound.closed().await;
    }

    /// Gives a message to the engine. Waits while the engine has no time, or the source has had its share: the peer then feels it.
    pub(super) async fn pass_on(&self, flow: Flow, bytes: Bytes) -> io::Result<()> {
        while let Verdict::Over { wait, tell } = admit(&self.rates, flow.peer.ip()) {
            metrics::counter!("plugtone_sip_over_rate_total", "transport" => flow.transport.as_str()).increment(1);
            if tell {
                tracing::warn!(source = %flow.peer, "more messages a second than `sip.max_messages_per_source`: they are read later");
            }
            sleep(wait).await;
        }
        self.inbound.send(Inbound::Message { flow, bytes }).await.map_err(io::Error::other)
    }
}

/// The lock is held for a look-up.
pub(super) fn admit(rates: &Mutex<Rates>, source: IpAddr) -> Verdict {
    rates.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).admit(std::time::Instant::now(), source)
}

/// Small messages leave at once, and who is gone without a word is noticed. Neither matters enough to fail.
fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(3);
    let _ = SockRef::from(stream).set_tcp_keepalive(&probes);
}

impl Table {
    fn remove(&mut self, id: FlowId) {
        let Some(entry) = self.by_id.remove(&id) else { return };
        let far = (entry.transport, entry.peer);
        if self.by_peer.get(&far) == Some(&id) {
            self.by_peer.remove(&far);
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

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> io::Result<()> {
    let whole = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    timeout(WRITE_TIME, whole).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
