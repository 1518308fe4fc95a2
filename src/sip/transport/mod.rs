//! How messages travel: flows, the framing of streams, and the sockets for UDP, TCP, TLS and WebSocket.
//!
//! [`flow`], [`framing`], [`rate`], [`stun`] and [`tls`] are pure; the other files hold the sockets, and no decisions about SIP.

pub mod flow;
pub mod framing;
pub mod rate;
pub mod socket;
pub mod stun;
mod tcp;
pub mod tls;
mod udp;
mod websocket;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

pub use flow::{Flow, FlowId, Transmit, Transport};
pub use socket::{Inbound, Transports};
pub use tls::Far;
pub use udp::Beside;

/// What to listen on, and how much of it.
#[derive(Clone, Debug)]
pub struct Config {
    pub udp: Vec<SocketAddr>,
    pub tcp: Vec<SocketAddr>,
    pub tls: Vec<SocketAddr>,
    pub ws: Vec<SocketAddr>,
    pub wss: Vec<SocketAddr>,
    /// A multicast group that is listened for at the ports of UDP, for [`Transports::beside`].
    pub group: Option<Ipv4Addr>,
    /// Who we are to TLS. Without it there can be no listener for it, and no connection is made.
    pub identity: Option<Arc<crate::tls::Tls>>,
    /// Pages whose scripts may connect by WebSocket, as `https://phone.example.com`; empty: all.
    pub web_origins: Vec<String>,
    /// Pause between our pings on a WebSocket. Two without an answer end it.
    pub web_ping: Duration,
    /// Streams at once, accepted and made.
    pub max_connections: usize,
    /// Accepted streams from one address.
    pub max_connections_per_source: usize,
    /// Messages a second from one address, on average over ten seconds; 0: no limit.
    pub max_messages_per_source: u32,
    /// Whom that limit is not for.
    pub unlimited: Vec<IpNet>,
    /// How long the handshakes of TLS and WebSocket may take together.
    pub handshake_time: Duration,
    /// A message that has begun must have ended by then: who trickles bytes holds no connection for ever.
    pub message_time: Duration,
    /// A stream without a byte for so long is closed.
    pub idle: Duration,
}

impl Config {
    /// All listeners but UDP's.
    fn streams(&self) -> impl Iterator<Item = (Transport, SocketAddr)> {
        let kinds = [(Transport::Tcp, &self.tcp), (Transport::Tls, &self.tls), (Transport::Ws, &self.ws), (Transport::Wss, &self.wss)];
        kinds.into_iter().flat_map(|(transport, addresses)| addresses.iter().map(move |at| (transport, *at)))
    }

    /// Whether anybody is spoken to by TLS.
    pub fn needs_identity(&self) -> bool {
        !self.tls.is_empty() || !self.wss.is_empty()
    }
}

/// Where connections are accepted: what Via and Contact name, as the port that a connection came from is the system's choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    pub tcp: Option<u16>,
    pub tls: Option<u16>,
    pub ws: Option<u16>,
    pub wss: Option<u16>,
}

impl Ports {
    pub fn of(&self, transport: Transport) -> Option<u16> {
        match transport {
            Transport::Udp => None,
            Transport::Tcp => self.tcp,
            Transport::Tls => self.tls,
            Transport::Ws => self.ws,
            Transport::Wss => self.wss,
        }
    }
}
