//! DHCP clients over UDP on loopback: one of them, or thousands for a load run (`client_core.rs` is what they speak).
//!
//! For servers with `dhcp.loopback`, which answer to the address and port that a question came from. Not here: clients
//! on a network, which need an interface of their own.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use tokio::{net::UdpSocket, time::timeout_at};

use super::client_core::{Client, ClientConfig, ClientEvent};
use crate::{model::MacAddr, thread};

/// New clients that [`load`] starts before it listens to those under way.
const AT_ONCE: usize = 16;

/// A client with a socket of its own.
pub struct LoopbackClient {
    core: Client,
    socket: UdpSocket,
}

impl LoopbackClient {
    /// `from` is the address that it sends from, as 127.0.0.1: the port is any.
    pub async fn new(server: SocketAddr, from: Ipv4Addr, config: ClientConfig, seed: u64) -> io::Result<Self> {
        let socket = UdpSocket::bind((from, 0)).await?;
        socket.connect(server).await?;
        Ok(Self { core: Client::new(config, seed, Instant::now()), socket })
    }

    pub fn core(&mut self) -> &mut Client {
        &mut self.core
    }

    /// Begins; [`LoopbackClient::event`] tells how it goes.
    pub fn start(&mut self) {
        self.core.start(Instant::now());
    }

    /// The next thing that happens, driving the exchange meanwhile. Waits for ever when nothing is going on.
    pub async fn event(&mut self) -> io::Result<ClientEvent> {
        let mut buffer = [0; 2048];
        loop {
            self.flush().await?;
            if let Some(event) = self.core.poll_event() {
                return Ok(event);
            }
            let wake = self.core.poll_timeout().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            match timeout_at(wake.into(), self.socket.recv(&mut buffer)).await {
                Ok(Ok(length)) => self.core.handle_packet(Instant::now(), &buffer[..length]),
                // Nobody listens yet: the next retransmission may find somebody.
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => self.core.handle_timeout(Instant::now()),
            }
        }
    }

    /// Sends what is due, as after `core().release()`.
    pub async fn flush(&mut self) -> io::Result<()> {
        while let Some(transmit) = self.core.poll_transmit() {
            match self.socket.send(&transmit.bytes).await {
                Err(error) if error.kind() != io::ErrorKind::ConnectionRefused => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// What came of [`load`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoadReport {
    pub clients: usize,
    /// How many had no address when the time was up.
    pub failed: usize,
    pub elapsed: Duration,
    /// From a client's DISCOVER to its ACK.
    pub median: Duration,
    pub p99: Duration,
    /// Messages that had to be sent again.
    pub retransmissions: usize,
}

impl LoadReport {
    pub fn per_second(&self) -> f64 {
        (self.clients - self.failed) as f64 / self.elapsed.as_secs_f64()
    }
}

/// `clients` new clients, `in_flight` of them at a time, each from DISCOVER to ACK, over one socket.
///
/// Their MACs begin at `first`, so that a second run with the same is one of known clients.
pub async fn load(server: SocketAddr, clients: usize, in_flight: usize, first: MacAddr, deadline: Duration) -> io::Result<LoadReport> {
    on_own_thread(load_by(server, None, clients, in_flight, first, deadline)).await
}

/// The same through a relay at `relay`, an address of this computer, for servers that answer on loopback to relays only.
pub async fn load_relayed(
    server: SocketAddr,
    relay: Ipv4Addr,
    clients: usize,
    in_flight: usize,
    first: MacAddr,
    deadline: Duration,
) -> io::Result<LoadReport> {
    on_own_thread(load_by(server, Some(relay), clients, in_flight, first, deadline)).await
}

/// On the threads that the rest shares each reply would wake two of them, on the processors that the server under load needs.
async fn on_own_thread(load: impl Future<Output = io::Result<LoadReport>> + Send + 'static) -> io::Result<LoadReport> {
    thread::alone("load", load).await?
}

/// How clients reach the server.
struct Line {
    socket: UdpSocket,
    relay: Option<Ipv4Addr>,
}

async fn load_by(
    server: SocketAddr,
    relay: Option<Ipv4Addr>,
    clients: usize,
    in_flight: usize,
    first: MacAddr,
    deadline: Duration,
) -> io::Result<LoadReport> {
    // Relays are answered at the servers' port (RFC 2131 §4.1).
    let from = relay.map_or((Ipv4Addr::LOCALHOST, 0), |relay| (relay, 67));
    let line = Line { socket: UdpSocket::bind(from).await?, relay };
    line.socket.connect(server).await?;
    // Acknowledgements come by the hundred, a group of leases at a time; a thousand phones would have a buffer each.
    let room = nix::sys::socket::setsockopt(&line.socket, nix::sys::socket::sockopt::RcvBufForce, &(8 << 20));
    if room.is_err() && in_flight > 100 {
        tracing::warn!("without CAP_NET_ADMIN the load client loses replies with more than 100 clients at a time");
    }
    let began = Instant::now();
    let ends = began + deadline;
    let mut active: HashMap<u32, (Client, Instant)> = HashMap::new();
    let (mut started, mut sent) = (0, 0);
    let mut times = Vec::with_capacity(clients);
    let mut buffer = [0; 2048];
    let mut next_look = began + Duration::from_millis(100);
    while times.len() < clients && Instant::now() < ends {
        // Not all at once: that would measure the sockets' buffers.
        for _ in 0..AT_ONCE.min(clients - started).min(in_flight - active.len()) {
            let now = Instant::now();
            let mut config = ClientConfig::new(nth_mac(first, started));
            config.parameter_list = vec![1, 3, 6, 15, 42, 66, 67, 43, 120];
            config.vendor_class = Some(b"yealink".to_vec());
            let mut client = Client::new(config, started as u64, now);
            client.start(now);
            sent += flush(&line, &mut client).await?;
            active.insert(client.xid(), (client, now));
            started += 1;
        }
        let more = started < clients && active.len() < in_flight;
        let wake = if more { next_look.min(Instant::now() + Duration::from_millis(1)) } else { next_look };
        if let Ok(received) = timeout_at(wake.into(), line.socket.recv(&mut buffer)).await {
            let length = received?;
            let xid = buffer[..length].get(4..8).and_then(|part| part.try_into().ok()).map(u32::from_be_bytes).unwrap_or_default();
            if let Some((client, began)) = active.get_mut(&xid) {
                client.handle_packet(Instant::now(), &buffer[..length]);
                sent += flush(&line, client).await?;
                if client.lease().is_some() {
                    times.push(began.elapsed());
                    active.remove(&xid);
                }
            }
        }
        let now = Instant::now();
        if now >= next_look {
            next_look = now + Duration::from_millis(100);
            // A client that starts over has a new transaction: it is found under it from then on.
            let due: Vec<u32> =
                active.iter().filter(|(_, (client, _))| client.poll_timeout().is_some_and(|at| at <= now)).map(|(xid, _)| *xid).collect();
            for xid in due {
                if let Some((mut client, began)) = active.remove(&xid) {
                    client.handle_timeout(now);
                    sent += flush(&line, &mut client).await?;
                    active.insert(client.xid(), (client, began));
                }
            }
        }
    }
    let elapsed = began.elapsed();
    times.sort_unstable();
    let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default();
    Ok(LoadReport {
        clients,
        failed: clients - times.len(),
        elapsed,
        median: at(50),
        p99: at(99),
        retransmissions: sent - (started + times.len()).min(sent),
    })
}

async fn flush(line: &Line, client: &mut Client) -> io::Result<usize> {
    let mut sent = 0;
    while let Some(mut transmit) = client.poll_transmit() {
        // giaddr (RFC 2131 §2).
        if let Some((relay, field)) = line.relay.zip(transmit.bytes.get_mut(24..28)) {
            field.copy_from_slice(&relay.octets());
        }
        match line.socket.send(&transmit.bytes).await {
            Err(error) if error.kind() != io::ErrorKind::ConnectionRefused => return Err(error),
            _ => sent += 1,
        }
    }
    Ok(sent)
}

fn nth_mac(first: MacAddr, n: usize) -> MacAddr {
    let [a, b, c, d, e, f] = first.0;
    let low = u32::from_be_bytes([0, d, e, f]).wrapping_add(n as u32).to_be_bytes();
    MacAddr([a, b, c, low[1], low[2], low[3]])
}
