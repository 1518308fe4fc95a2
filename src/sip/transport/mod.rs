//! How messages travel: flows, the framing of streams, and the sockets for UDP and TCP.
//!
//! [`flow`] and [`framing`] are pure; the other files hold the sockets and no decisions about SIP.

pub mod flow;
pub mod framing;
pub mod socket;
mod tcp;
mod udp;

use std::{net::SocketAddr, time::Duration};

pub use flow::{Flow, FlowId, Transmit, Transport};
pub use socket::{Inbound, Transports};

/// What to listen on, and how much of it.
#[derive(Clone, Debug)]
pub struct Config {
    pub udp: Vec<SocketAddr>,
    pub tcp: Vec<SocketAddr>,
    /// Streams at once, accepted and made.
    pub max_connections: usize,
    /// Accepted streams from one address.
    pub max_connections_per_source: usize,
    /// A stream without a byte for so long is closed.
    pub idle: Duration,
}
