//! The server on a network: sockets and interfaces around `server.rs`, in the loop of `worker.rs`.
//!
//! Port 67 is read with IP_PKTINFO, which tells the interface and the address that a packet
//! came to; with `dhcp.interfaces` there is a socket for each, bound to it. A client without address is answered by a
//! frame to its MAC (`raw.rs`) or by broadcast.
//!
//! With `dhcp.loopback` every answer goes back to the address and port that the question came from, so that everything
//! works on one machine without root. Not here: any decision.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsRawFd,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::Interest, net::UdpSocket, sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    Error,
    class::Classify,
    lease::LeaseView,
    raw::{Arp, Frames},
    server::{Action, Arrival, Destination, Outgoing, Server},
    settings::Config,
    worker::{self, Door, Links, RECEIVE_BUFFER, Service, WAITING, Writes, now},
};
use crate::{
    model::{Events, MacAddr, Timestamp},
    store::Store,
    thread::Thread,
};

/// A server at work.
pub type Running = worker::Running<Config>;

/// Starts the server; it runs until `shutdown` is cancelled. `view` shows the leases of the store when this returns.
pub async fn serve(
    config: Config,
    classify: Arc<dyn Classify>,
    store: Arc<dyn Store>,
    events: Events,
    view: LeaseView,
    shutdown: CancellationToken,
) -> Result<Running, Error> {
    let now = now();
    let leases = store.leases().await.map_err(|source| Error::Leases { source })?;
    tracing::info!(leases = leases.len(), subnets = config.subnets.len(), listen = %config.listen, "DHCP server starts");
    let thread = Thread::new("dhcp").map_err(Error::Thread)?;
    // Sockets belong to the loop that reads them.
    let network = {
        let _there = thread.handle().enter();
        Network::open(&config)?
    };
    let (packet_tx, packets) = mpsc::channel(WAITING);
    let (claim_tx, claims) = mpsc::channel(WAITING);
    let addresses = network.ports.iter().map(|port| port.address).collect();
    let mut readers = JoinSet::new();
    for port in &network.ports {
        readers.spawn_on(worker::read(port.clone(), packet_tx.clone()), thread.handle());
    }
    if let Some(arp) = network.arp.clone() {
        readers.spawn_on(listen_to_arp(arp, claim_tx), thread.handle());
    }
    let server = Server::new(config, classify, leases, network.own(), view, now);
    let worker = Worker { server, network, store, events };
    worker::start(thread, worker, addresses, packets, claims, readers, shutdown).map_err(Error::Thread)
}

/// A packet as it was read.
struct Datagram {
    bytes: Vec<u8>,
    link: u32,
    destination: Ipv4Addr,
    source: SocketAddrV4,
}

/// The core with its network.
struct Worker {
    server: Server,
    network: Network,
    store: Arc<dyn Store>,
    events: Events,
}

impl Service for Worker {
    const NAME: &str = "DHCP";
    type Config = Config;
    type Packet = Datagram;
    /// Who says by ARP that it has an address.
    type News = (MacAddr, Ipv4Addr);
    type Written = Ipv4Addr;

    fn handle_packet(&mut self, now: Timestamp, packet: Datagram) {
        let locals = self.network.locals(packet.link);
        let arrival = Arrival { link: packet.link, locals: &locals, destination: packet.destination, source: packet.source };
        self.server.handle_packet(now, &arrival, &packet.bytes);
    }

    fn handle_news(&mut self, now: Timestamp, (mac, address): (MacAddr, Ipv4Addr)) {
        self.server.handle_probe(now, address, mac);
    }

    fn handle_committed(&mut self, now: Timestamp, address: Ipv4Addr, outcome: Result<(), String>) {
        self.server.handle_committed(now, address, outcome);
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

    fn apply(&mut self, writes: &mut Writes<Ipv4Addr>) {
        while let Some(action) = self.server.poll_action() {
            match action {
                Action::Send(outgoing) => self.network.send(&outgoing),
                Action::Tell(event) => self.events.tell(event),
                Action::Probe { link, address } => self.network.probe(link, address),
                Action::Commit(lease) => {
                    let store = self.store.clone();
                    let address = lease.address;
                    let write = async move { (address, store.save_lease(lease).await.map_err(|error| error.to_string())) };
                    writes.push(write.boxed());
                }
            }
        }
    }

    fn refresh(&mut self) {
        self.network.links.refresh();
        self.server.set_own(self.network.own());
    }
}

/// A socket on port 67, on one interface or on all.
struct Port {
    socket: UdpSocket,
    address: SocketAddr,
    /// Index of the one interface that it serves; 0 for all.
    link: u32,
}

struct Network {
    ports: Vec<Arc<Port>>,
    frames: Option<Frames>,
    arp: Option<Arc<Arp>>,
    links: Links,
    /// The address to be ours on every interface, in loopback mode.
    loopback: Option<Ipv4Addr>,
    port: u16,
    warned: bool,
}

impl Network {
    fn open(config: &Config) -> Result<Self, Error> {
        let mut ports = Vec::new();
        if config.interfaces.is_empty() {
            ports.push(Arc::new(Port::open(config.listen, None)?));
        }
        for name in &config.interfaces {
            ports.push(Arc::new(Port::open(config.listen, Some(name))?));
        }
        let raw = !config.loopback;
        let frames = if raw { allowed(Frames::open(), "unicast to new clients is replaced by broadcast") } else { None };
        let arp = if raw && config.conflict_wait_ms.is_some() {
            allowed(Arp::open(), "addresses are offered without asking whether they are in use").map(Arc::new)
        } else {
            None
        };
        let loopback = config.loopback.then_some(*config.listen.ip());
        let port = config.listen.port();
        let mut links = Links::default();
        links.refresh();
        Ok(Self { ports, frames, arp, links, loopback, port, warned: false })
    }

    fn own(&self) -> Vec<Ipv4Addr> {
        self.links.iter().flat_map(|interface| interface.addresses.iter().copied()).chain(self.loopback).collect()
    }

    fn locals(&mut self, link: u32) -> Vec<Ipv4Addr> {
        if let Some(address) = self.loopback {
            return vec![address];
        }
        self.links.get_or_look(link).map(|interface| interface.addresses.clone()).unwrap_or_default()
    }

    fn send(&mut self, outgoing: &Outgoing) {
        let Outgoing { bytes, link, from, .. } = outgoing;
        let Some(port) = self.ports.iter().find(|port| port.link == *link).or(self.ports.first()) else { return };
        let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, 68);
        let sent = match (outgoing.to, &self.frames) {
            // The kernel finds the way; which interface the question came by does not matter.
            (Destination::Address(to), _) => port.send(bytes, to, *from, 0),
            (Destination::Hardware { mac, address }, Some(frames)) => {
                frames.send(*link, mac, SocketAddrV4::new(*from, self.port), SocketAddrV4::new(address, 68), bytes)
            }
            (Destination::Broadcast | Destination::Hardware { .. }, _) => port.send(bytes, everybody, *from, *link),
        };
        if let Err(error) = sent {
            metrics::counter!("plugtone_dhcp_unsent_total").increment(1);
            if !std::mem::replace(&mut self.warned, true) {
                tracing::warn!(to = ?outgoing.to, %error, "a DHCP reply could not be sent; further ones are only counted");
            }
        }
    }

    fn probe(&self, link: u32, address: Ipv4Addr) {
        let mac = self.links.get(link).and_then(|interface| interface.mac);
        if let (Some(arp), Some(mac)) = (&self.arp, mac)
            && let Err(error) = arp.probe(link, mac, address)
        {
            tracing::debug!(%address, %error, "ARP probe could not be sent");
        }
    }
}

/// What needs CAP_NET_RAW, or a warning of what is lost without.
fn allowed<T>(opened: io::Result<T>, loss: &str) -> Option<T> {
    opened.inspect_err(|error| tracing::warn!(%error, "no raw sockets, so {loss}: run as root or grant CAP_NET_RAW")).ok()
}

impl Port {
    fn open(listen: SocketAddrV4, interface: Option<&str>) -> Result<Self, Error> {
        let at = || format!("{listen}{}", interface.map(|name| format!(" on {name}")).unwrap_or_default());
        let link = match interface {
            Some(name) => nix::net::if_::if_nametoindex(name).map_err(|_| Error::Interface { name: name.to_owned() })?,
            None => 0,
        };
        let open = || -> io::Result<(Socket, SocketAddr)> {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_nonblocking(true)?;
            socket.set_broadcast(true)?;
            // A building that gets its power back asks all at once. Root gets it all, others what the system allows.
            if nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
                let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
            }
            if let Some(name) = interface {
                socket.bind_device(Some(name.as_bytes()))?;
            }
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Ipv4PacketInfo, &true)?;
            socket.bind(&listen.into())?;
            let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidData)?;
            Ok((socket, address))
        };
        let (socket, address) = open().map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => Error::Busy { at: at(), source },
            io::ErrorKind::PermissionDenied => Error::NotAllowed { at: at(), source },
            _ => Error::Bind { at: at(), source },
        })?;
        let socket = UdpSocket::from_std(socket.into()).map_err(|source| Error::Bind { at: at(), source })?;
        Ok(Self { socket, address, link })
    }

    fn send(&self, bytes: &[u8], to: SocketAddrV4, from: Ipv4Addr, link: u32) -> io::Result<()> {
        let info = libc::in_pktinfo {
            ipi_ifindex: i32::try_from(link).map_err(|_| io::ErrorKind::InvalidInput)?,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from(from).to_be() },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let parts = [IoSlice::new(bytes)];
        let control = [ControlMessage::Ipv4PacketInfo(&info)];
        sendmsg(self.socket.as_raw_fd(), &parts, &control, MsgFlags::MSG_DONTWAIT, Some(&SockaddrIn::from(to)))?;
        Ok(())
    }
}

impl Door for Port {
    const ERRORS: &str = "plugtone_dhcp_read_errors_total";
    type Packet = Datagram;

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<Datagram> {
        let (length, link, destination, source) = self
            .socket
            .async_io(Interest::READABLE, || {
                let mut control = nix::cmsg_space!(libc::in_pktinfo);
                let mut parts = [IoSliceMut::new(buffer)];
                let message = recvmsg::<SockaddrIn>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
                let source = message.address.map(|address| SocketAddrV4::new(address.ip(), address.port()));
                let info = message.cmsgs()?.find_map(|part| match part {
                    ControlMessageOwned::Ipv4PacketInfo(info) => Some(info),
                    _ => None,
                });
                let (Some(source), Some(info)) = (source, info) else { return Err(io::ErrorKind::InvalidData.into()) };
                let destination = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
                let (length, link) = (message.bytes, info.ipi_ifindex as u32);
                Ok((length, link, destination, source))
            })
            .await?;
        Ok(Datagram { bytes: buffer[..length].to_vec(), link, destination, source })
    }
}

async fn listen_to_arp(arp: Arc<Arp>, claims: mpsc::Sender<(MacAddr, Ipv4Addr)>) {
    loop {
        match arp.heard().await {
            // A full channel means a storm of ARP; a lost claim costs one address that the client will decline.
            Ok(claim) => drop(claims.try_send(claim)),
            Err(error) => {
                tracing::debug!(%error, "reading ARP");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        if claims.is_closed() {
            return;
        }
    }
}
