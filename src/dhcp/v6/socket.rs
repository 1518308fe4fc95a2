//! The server on a network: sockets and interfaces around `server.rs`, in the loop of `dhcp/worker.rs`.
//!
//! Port 547 is read with IPV6_PKTINFO, which tells the interface and the address that a message came to; with
//! `dhcp6.interfaces` there is a socket for each, bound to it. Groups are joined on each interface, also on one that comes later. Not
//! here: any decision.

use std::{
    collections::HashSet,
    io::{self, IoSlice, IoSliceMut},
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::AsRawFd,
    sync::Arc,
};

use futures_util::FutureExt;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{io::Interest, net::UdpSocket, sync::mpsc, task::JoinSet};
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
        worker::{self, Door, Links, RECEIVE_BUFFER, Service, WAITING, Writes, now},
    },
    model::{Events, Timestamp},
    store::Store,
    thread::Thread,
};

/// A server at work.
pub type Running = worker::Running<Config>;

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
    let leases = store.leases6().await.map_err(|source| Error::Leases { source })?;
    tracing::info!(mode = ?config.mode, leases = leases.len(), subnets = config.subnets.len(), "DHCPv6 server starts");
    let thread = Thread::new("dhcp6").map_err(Error::Thread)?;
    // Sockets belong to the loop that reads them.
    let network = {
        let _there = thread.handle().enter();
        Network::open(&config)?
    };
    let (packet_tx, packets) = mpsc::channel(WAITING);
    // Nothing else is heard.
    let (_, news) = mpsc::channel(1);
    let mut readers = JoinSet::new();
    for port in &network.ports {
        readers.spawn_on(worker::read(port.clone(), packet_tx.clone()), thread.handle());
    }
    let server = Server::new(config, classify, duid, leases, network.own(), view, now());
    let addresses = network.ports.iter().map(|port| port.address).collect();
    let worker = Worker { server, network, store, events };
    worker::start(thread, worker, addresses, packets, news, readers, shutdown).map_err(Error::Thread)
}

/// A message as it was read.
struct Datagram {
    bytes: Vec<u8>,
    link: u32,
    destination: Ipv6Addr,
    source: Ipv6Addr,
}

/// The core with its network.
struct Worker {
    server: Server,
    network: Network,
    store: Arc<dyn Store>,
    events: Events,
}

impl Service for Worker {
    const NAME: &str = "DHCPv6";
    type Config = Config;
    type Packet = Datagram;
    type News = ();
    type Written = u64;

    fn handle_packet(&mut self, now: Timestamp, packet: Datagram) {
        let locals = self.network.locals(packet.link);
        let arrival = Arrival { link: packet.link, locals: &locals, destination: packet.destination, source: packet.source };
        self.server.handle_packet(now, &arrival, &packet.bytes);
    }

    fn handle_news(&mut self, _: Timestamp, (): ()) {}

    fn handle_committed(&mut self, now: Timestamp, id: u64, outcome: Result<(), String>) {
        self.server.handle_committed(now, id, outcome);
    }

    fn handle_timeout(&mut self, now: Timestamp) {
        self.server.handle_timeout(now);
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        self.server.poll_timeout()
    }

    fn set_config(&mut self, now: Timestamp, config: Config) {
        self.server.set_config(now, config);
    }

    fn apply(&mut self, writes: &mut Writes<u64>) {
        while let Some(action) = self.server.poll_action() {
            match action {
                Action::Send(outgoing) => self.network.send(&outgoing),
                Action::Tell(event) => self.events.tell(event),
                Action::Commit { id, leases } => {
                    let store = self.store.clone();
                    let write = async move { (id, store.save_leases6(leases).await.map_err(|error| error.to_string())) };
                    writes.push(write.boxed());
                }
            }
        }
    }

    fn refresh(&mut self) {
        self.network.refresh();
        self.server.set_own(self.network.own());
    }
}

/// A socket on port 547, on one interface or on all.
struct Port {
    socket: UdpSocket,
    address: SocketAddr,
    /// Index of the one interface that it serves; 0 for all.
    link: u32,
}

struct Network {
    ports: Vec<Arc<Port>>,
    links: Links,
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
        let mut network = Self { ports, links: Links::default(), joined: HashSet::new(), deaf: HashSet::new(), warned: false };
        network.refresh();
        Ok(network)
    }

    fn refresh(&mut self) {
        self.links.refresh();
        self.joined.retain(|link| self.links.get(*link).is_some());
        for interface in self.links.iter() {
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
        self.links.iter().flat_map(|interface| interface.addresses6.iter().copied()).collect()
    }

    fn locals(&mut self, link: u32) -> Vec<Ipv6Addr> {
        if self.links.get(link).is_none() {
            self.refresh();
        }
        self.links.get(link).map(|interface| interface.addresses6.clone()).unwrap_or_default()
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
        let address = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, SERVER_PORT, 0, link).into();
        Ok(Self { socket, address, link })
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

impl Door for Port {
    const ERRORS: &str = "plugtone_dhcp6_read_errors_total";
    type Packet = Datagram;

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<Datagram> {
        let (length, link, destination, source) = self
            .socket
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
            .await?;
        Ok(Datagram { bytes: buffer[..length].to_vec(), link, destination, source })
    }
}
