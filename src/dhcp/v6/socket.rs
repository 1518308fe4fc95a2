//! The server on a network: sockets, interfaces, the clock and the store around `server.rs`.
//!
//! One task owns the core. Port 547 is read with IPV6_PKTINFO, which tells the interface and the address that a message came to; with
//! `dhcp6.interfaces` there is a socket for each, bound to it. Groups are joined on each interface, also on one that comes later. Not
//! here: any decision.

use std::{
    collections::HashSet,
    io::{self, IoSlice, IoSliceMut},
    net::{Ipv6Addr, SocketAddrV6},
    os::fd::AsRawFd,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    io::Interest,
    net::UdpSocket,
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    ALL_SERVERS, ALL_SERVERS_AND_RELAYS, Error, SERVER_PORT,
    class::Classify,
    server::{Action, Arrival, Outgoing, Server},
    settings::Config,
};
use crate::{
    dhcp::{
        LeaseView,
        raw::{Interface, interfaces},
    },
    model::{Events, Timestamp},
    store::Store,
};

/// Larger than any message on Ethernet.
const LARGEST: usize = 2048;
/// Messages read and not yet handled, over all interfaces; the kernel keeps more.
const WAITING: usize = 1024;
/// Messages handled before other work is looked at.
const AT_ONCE: usize = 64;
const RECEIVE_BUFFER: usize = 4 << 20;
/// Interfaces come and go: they are looked at this often.
const REFRESH: Duration = Duration::from_secs(5);
/// Wall time may be set: timers are looked at this often at least.
const TICK: Duration = Duration::from_secs(1);
/// How long the leases that are being written may take when the server stops.
const LAST_WRITES: Duration = Duration::from_secs(3);

/// A server at work.
pub struct Running {
    commands: mpsc::Sender<Config>,
    task: JoinHandle<()>,
}

impl Running {
    /// Goes on with other subnets and times. Where it listens stays: that takes a restart.
    pub async fn reload(&self, config: Config) {
        let _ = self.commands.send(config).await;
    }

    /// Waits until it has stopped: cancel its token first.
    pub async fn stopped(self) {
        let _ = self.task.await;
    }
}

/// Starts the server, known to clients by `duid`; it runs until `shutdown` is cancelled. `view` shows the leases of the store when this
/// returns.
pub async fn serve(
    config: Config,
    classify: Arc<dyn Classify>,
    duid: Vec<u8>,
    store: Arc<dyn Store>,
    events: Events,
    view: LeaseView,
    shutdown: CancellationToken,
) -> Result<Running, Error> {
    let network = Network::open(&config)?;
    let leases = store.leases6().await.map_err(|source| Error::Leases { source })?;
    tracing::info!(mode = ?config.mode, leases = leases.len(), subnets = config.subnets.len(), "DHCPv6 server starts");
    let (packet_tx, packets) = mpsc::channel(WAITING);
    let (commands, reloads) = mpsc::channel(4);
    let mut readers = JoinSet::new();
    for port in &network.ports {
        readers.spawn(read(port.clone(), packet_tx.clone()));
    }
    let server = Server::new(config, classify, duid, leases, network.own(), view, now());
    let worker = Worker { server, network, store, events, commits: FuturesUnordered::new(), _readers: readers };
    let task = tokio::spawn(worker.run(packets, reloads, shutdown));
    Ok(Running { commands, task })
}

fn now() -> Timestamp {
    Timestamp::of(SystemTime::now())
}

/// A message as it was read.
struct Datagram {
    bytes: Vec<u8>,
    link: u32,
    destination: Ipv6Addr,
    source: Ipv6Addr,
}

/// The task that owns the core.
struct Worker {
    server: Server,
    network: Network,
    store: Arc<dyn Store>,
    events: Events,
    commits: FuturesUnordered<BoxFuture<'static, (u64, Result<(), String>)>>,
    /// End with the worker.
    _readers: JoinSet<()>,
}

impl Worker {
    async fn run(mut self, mut packets: mpsc::Receiver<Datagram>, mut reloads: mpsc::Receiver<Config>, shutdown: CancellationToken) {
        let mut refresh = tokio::time::interval(REFRESH);
        loop {
            self.apply();
            let wake = self.server.poll_timeout().map_or(TICK, |at| Duration::from_millis((at.0 - now().0).max(0) as u64).min(TICK));
            tokio::select! {
                Some(packet) = packets.recv() => {
                    self.handle(packet);
                    for _ in 1..AT_ONCE {
                        let Ok(packet) = packets.try_recv() else { break };
                        self.handle(packet);
                    }
                }
                Some((id, outcome)) = self.commits.next(), if !self.commits.is_empty() => {
                    self.server.handle_committed(now(), id, outcome);
                    // Those of the same group are ready too.
                    while let Some(Some((id, outcome))) = self.commits.next().now_or_never() {
                        self.server.handle_committed(now(), id, outcome);
                    }
                }
                Some(config) = reloads.recv() => self.server.set_config(now(), config),
                _ = refresh.tick() => {
                    self.network.refresh();
                    self.server.set_own(self.network.own());
                }
                () = tokio::time::sleep(wake) => self.server.handle_timeout(now()),
                () = shutdown.cancelled() => break,
            }
        }
        // What is being written is acknowledged still; nothing new is taken.
        let last_writes = async {
            while let Some((id, outcome)) = self.commits.next().await {
                self.server.handle_committed(now(), id, outcome);
                self.apply();
            }
        };
        if tokio::time::timeout(LAST_WRITES, last_writes).await.is_err() {
            tracing::warn!("the store did not take the last leases in time; their clients were not told that they have them");
        }
        tracing::info!("DHCPv6 server has stopped");
    }

    fn handle(&mut self, packet: Datagram) {
        let locals = self.network.locals(packet.link);
        let arrival = Arrival { link: packet.link, locals: &locals, destination: packet.destination, source: packet.source };
        self.server.handle_packet(now(), &arrival, &packet.bytes);
    }

    fn apply(&mut self) {
        while let Some(action) = self.server.poll_action() {
            match action {
                Action::Send(outgoing) => self.network.send(&outgoing),
                Action::Tell(event) => self.events.tell(event),
                Action::Commit { id, leases } => {
                    let store = self.store.clone();
                    let write = async move { (id, store.save_leases6(leases).await.map_err(|error| error.to_string())) };
                    self.commits.push(write.boxed());
                }
            }
        }
    }
}

/// A socket on port 547, on one interface or on all.
struct Port {
    socket: UdpSocket,
    /// Index of the one interface that it serves; 0 for all.
    link: u32,
}

struct Network {
    ports: Vec<Arc<Port>>,
    interfaces: Vec<Interface>,
    /// Interfaces on which groups are joined.
    joined: HashSet<u32>,
    /// Those where it was said that they could not be.
    deaf: HashSet<u32>,
    warned: bool,
}

impl Network {
    fn open(config: &Config) -> Result<Self, Error> {
        let names: Vec<_> = match config.interfaces.is_empty() {
            true => vec![None],
            false => config.interfaces.iter().map(|name| Some(name.as_str())).collect(),
        };
        let ports = names.into_iter().map(|name| Port::open(name).map(Arc::new)).collect::<Result<_, _>>()?;
        let mut network = Self { ports, interfaces: Vec::new(), joined: HashSet::new(), deaf: HashSet::new(), warned: false };
        network.refresh();
        Ok(network)
    }

    fn refresh(&mut self) {
        match interfaces() {
            Ok(list) => self.interfaces = list,
            Err(error) => tracing::warn!(%error, "cannot list the network interfaces; going on with those known"),
        }
        self.joined.retain(|link| self.interfaces.iter().any(|interface| interface.index == *link));
        for interface in &self.interfaces {
            let has_ipv6 = interface.addresses6.iter().any(Ipv6Addr::is_unicast_link_local);
            let port = self.ports.iter().find(|port| port.link == interface.index || (port.link == 0 && has_ipv6));
            let Some(port) = port.filter(|_| !self.joined.contains(&interface.index)) else { continue };
            match port.join(interface.index) {
                Ok(()) => {
                    self.joined.insert(interface.index);
                }
                Err(error) if self.deaf.insert(interface.index) => {
                    tracing::warn!(interface = interface.name, %error, "DHCPv6 is not heard on an interface yet");
                }
                Err(_) => {}
            }
        }
    }

    fn own(&self) -> Vec<Ipv6Addr> {
        self.interfaces.iter().flat_map(|interface| interface.addresses6.iter().copied()).collect()
    }

    fn locals(&mut self, link: u32) -> Vec<Ipv6Addr> {
        if !self.interfaces.iter().any(|interface| interface.index == link) {
            self.refresh();
        }
        self.interfaces.iter().find(|interface| interface.index == link).map(|interface| interface.addresses6.clone()).unwrap_or_default()
    }

    fn send(&mut self, outgoing: &Outgoing) {
        let Some(port) = self.ports.iter().find(|port| port.link == outgoing.link).or(self.ports.first()) else { return };
        if let Err(error) = port.send(outgoing) {
            metrics::counter!("plugtone_dhcp6_unsent_total").increment(1);
            if !std::mem::replace(&mut self.warned, true) {
                tracing::warn!(to = %outgoing.to, %error, "a DHCPv6 reply could not be sent; further ones are only counted");
            }
        }
    }
}

impl Port {
    fn open(interface: Option<&str>) -> Result<Self, Error> {
        let at = || format!("port {SERVER_PORT}{}", interface.map(|name| format!(" on {name}")).unwrap_or_default());
        let link = match interface {
            Some(name) => nix::net::if_::if_nametoindex(name).map_err(|_| Error::Interface { name: name.to_owned() })?,
            None => 0,
        };
        let open = || -> io::Result<Socket> {
            let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_nonblocking(true)?;
            socket.set_only_v6(true)?;
            // A building that gets its power back asks all at once. Root gets it all, others what the system allows.
            if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
                let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
            }
            if let Some(name) = interface {
                socket.bind_device(Some(name.as_bytes()))?;
            }
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            socket.bind(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, SERVER_PORT, 0, 0).into())?;
            Ok(socket)
        };
        let socket = open().map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => Error::Busy { at: at(), source },
            io::ErrorKind::PermissionDenied => Error::NotAllowed { at: at(), source },
            _ => Error::Bind { at: at(), source },
        })?;
        let socket = UdpSocket::from_std(socket.into()).map_err(|source| Error::Bind { at: at(), source })?;
        Ok(Self { socket, link })
    }

    fn join(&self, link: u32) -> io::Result<()> {
        for group in [ALL_SERVERS_AND_RELAYS, ALL_SERVERS] {
            match SockRef::from(&self.socket).join_multicast_v6(&group, link) {
                // Joined already.
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, u32, Ipv6Addr, Ipv6Addr)> {
        self.socket
            .async_io(Interest::READABLE, || {
                let mut control = nix::cmsg_space!(libc::in6_pktinfo);
                let mut parts = [IoSliceMut::new(buffer)];
                let message = recvmsg::<SockaddrIn6>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
                let source = message.address.map(|address| address.ip());
                let info = message.cmsgs()?.find_map(|part| match part {
                    ControlMessageOwned::Ipv6PacketInfo(info) => Some(info),
                    _ => None,
                });
                let (Some(source), Some(info)) = (source, info) else { return Err(io::ErrorKind::InvalidData.into()) };
                Ok((message.bytes, info.ipi6_ifindex, info.ipi6_addr.s6_addr.into(), source))
            })
            .await
    }

    fn send(&self, outgoing: &Outgoing) -> io::Result<()> {
        let from = outgoing.from.unwrap_or(Ipv6Addr::UNSPECIFIED);
        let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: from.octets() }, ipi6_ifindex: outgoing.to.scope_id() };
        let parts = [IoSlice::new(&outgoing.bytes)];
        let control = [ControlMessage::Ipv6PacketInfo(&info)];
        let to = SockaddrIn6::from(outgoing.to);
        sendmsg(self.socket.as_raw_fd(), &parts, &control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
        Ok(())
    }
}

async fn read(port: Arc<Port>, packets: mpsc::Sender<Datagram>) {
    let mut buffer = [0; LARGEST];
    loop {
        match port.receive(&mut buffer).await {
            Ok((length, link, destination, source)) => {
                let packet = Datagram { bytes: buffer[..length].to_vec(), link, destination, source };
                if packets.send(packet).await.is_err() {
                    return;
                }
            }
            // An ICMP error of an earlier reply, say: the next message may be well.
            Err(error) => {
                tracing::debug!(%error, "reading DHCPv6");
                metrics::counter!("plugtone_dhcp6_read_errors_total").increment(1);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
