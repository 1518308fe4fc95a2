//! All sockets of the SIP side together: one way in, one way out, bounded both.
//!
//! [`Transports::bind`] opens what the settings name. Everything that comes in arrives in one channel; [`Transports::send`]
//! never waits. Dropping the receiver closes everything.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use tokio::{runtime::Handle, sync::mpsc};

use super::{
    Config, Flow, Ports, Transmit, Transport,
    rate::Rates,
    tcp::{self, Connections},
    tls::Far,
    udp::{self, Beside, Udp},
};

/// Messages waiting for the engine: a tenth of a second's worth at full speed. UDP beyond it is lost,
/// new calls beyond half of it; TCP waits.
const INBOX: usize = 8192;

#[derive(Debug)]
pub enum Inbound {
    Message {
        flow: Flow,
        bytes: Bytes,
    },
    /// No stream was made: who answered is not whom we wanted. It is told as closed, too.
    Distrusted {
        flow: Flow,
        reason: String,
    },
    /// A stream is closed, or could not be made, or does not take what is sent.
    Closed {
        flow: Flow,
    },
}

#[derive(Debug, thiserror::Error)]
#[error("cannot listen for SIP on {transport} {at}: {source}; if another program holds the port, stop it or change `sip.{transport}`")]
pub struct BindError {
    transport: Transport,
    at: SocketAddr,
    source: io::Error,
}

/// The sending side. Cheap to clone.
#[derive(Clone)]
pub struct Transports {
    beside: Arc<Mutex<Vec<Beside>>>,
    udp: Arc<[Arc<Udp>]>,
    streams: Arc<[(Transport, SocketAddr)]>,
    connections: Arc<Connections>,
}

impl Transports {
    /// Opens every address of the configuration. Datagrams are read on `datagrams`, where the receiver should be too; streams,
    /// with the arithmetic of their handshakes, on the runtime around it.
    pub fn bind(config: Config, datagrams: &Handle) -> Result<(Self, mpsc::Receiver<Inbound>), BindError> {
        let (inbound, inbox) = mpsc::channel(INBOX);
        let rates = Arc::new(Mutex::new(Rates::new(config.max_messages_per_source, config.unlimited.clone())));
        let connections = Connections::new(config.clone(), rates.clone(), inbound.clone());
        let fault = |transport, at| move |source| BindError { transport, at, source };
        let mut udp = Vec::new();
        for at in &config.udp {
            let _there = datagrams.enter();
            udp.push(Arc::new(Udp::bind(*at).map_err(fault(Transport::Udp, *at))?));
        }
        let mut beside = Vec::new();
        for (socket, group) in udp.iter().zip(std::iter::repeat(config.group)) {
            beside.extend(
                group.map(|group| socket.beside(group)).transpose().map_err(fault(Transport::Udp, socket.local))?.unwrap_or_default(),
            );
        }
        let mut listeners = Vec::new();
        let mut streams = Vec::new();
        for (transport, at) in config.streams() {
            if transport.is_secure() && config.identity.is_none() {
                return Err(fault(transport, at)(io::Error::other("there is no certificate")));
            }
            let listener = tcp::listen(at).map_err(fault(transport, at))?;
            streams.push((transport, listener.local_addr().map_err(fault(transport, at))?));
            listeners.push((transport, listener));
        }
        for socket in &udp {
            datagrams.spawn(udp::receive(socket.clone(), rates.clone(), inbound.clone()));
        }
        for (transport, listener) in listeners {
            tokio::spawn(tcp::accept(listener, transport, connections.clone()));
        }
        Ok((Self { beside: Arc::new(Mutex::new(beside)), udp: udp.into(), streams: streams.into(), connections }, inbox))
    }

    /// Sends at once, or hands over to the connection. False: it cannot be sent, and nothing more will be heard of it.
    pub fn send(&self, transmit: Transmit) -> bool {
        let Transmit { flow, bytes } = transmit;
        match flow.transport {
            Transport::Udp => match self.socket_for(&flow) {
                Some(socket) => match socket.send(&flow, &bytes) {
                    Ok(()) => true,
                    // Full: lost as on the network, and repeated by its transaction.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
                    Err(error) => {
                        tracing::debug!(%flow, %error, "cannot send");
                        false
                    }
                },
                None => false,
            },
            _ => self.connections.send(&flow, bytes),
        }
    }

    /// Takes the sockets for the multicast group of the configuration, one for each network.
    pub fn beside(&self) -> Vec<Beside> {
        std::mem::take(&mut *self.beside.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on a stream by TLS to this address must lead to `far`, and not just to the address.
    pub fn expect(&self, peer: SocketAddr, far: Far) {
        self.connections.expect(peer, far);
    }

    /// Where UDP is listened for, with the ports that the system chose where 0 was asked for.
    pub fn udp_addresses(&self) -> Vec<SocketAddr> {
        self.udp.iter().map(|socket| socket.local).collect()
    }

    /// The same for connections of a kind.
    pub fn addresses(&self, transport: Transport) -> Vec<SocketAddr> {
        match transport {
            Transport::Udp => self.udp_addresses(),
            _ => self.streams.iter().filter(|(of, _)| *of == transport).map(|(_, at)| *at).collect(),
        }
    }

    /// The port of the first listener of each kind.
    pub fn ports(&self) -> Ports {
        let port = |transport| self.addresses(transport).first().map(SocketAddr::port);
        Ports { tcp: port(Transport::Tcp), tls: port(Transport::Tls), ws: port(Transport::Ws), wss: port(Transport::Wss) }
    }

    /// Streams that are up or coming up.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// The flow from us to `peer`, for requests to somebody that we never heard from: our address is the one that the
    /// system would route from.
    pub fn flow_to(&self, transport: Transport, peer: SocketAddr) -> io::Result<Flow> {
        let probe = std::net::UdpSocket::bind(SocketAddr::new(unspecified(peer), 0))?;
        probe.connect(peer)?;
        let mut local = probe.local_addr()?;
        let port = self.addresses(transport).into_iter().find(|at| fits(at, &local)).map(|at| at.port());
        local.set_port(port.unwrap_or(0));
        Ok(Flow::of(transport, local, peer))
    }

    /// The socket bound to the flow's address, else one that serves all addresses.
    fn socket_for(&self, flow: &Flow) -> Option<&Udp> {
        let same_port = |socket: &&Arc<Udp>| flow.local.port() == 0 || socket.local.port() == flow.local.port();
        let family = || self.udp.iter().filter(|socket| socket.local.is_ipv4() == flow.peer.is_ipv4()).filter(same_port);
        let exact = family().find(|socket| socket.local.ip() == flow.local.ip());
        exact.or_else(|| family().find(|socket| socket.local.ip().is_unspecified() || flow.local.ip().is_unspecified())).map(|s| &**s)
    }
}

fn fits(listener: &SocketAddr, local: &SocketAddr) -> bool {
    listener.ip() == local.ip() || (listener.ip().is_unspecified() && listener.is_ipv4() == local.is_ipv4())
}

fn unspecified(peer: SocketAddr) -> IpAddr {
    if peer.is_ipv4() { IpAddr::from([0u8; 4]) } else { IpAddr::from([0u8; 16]) }
}
