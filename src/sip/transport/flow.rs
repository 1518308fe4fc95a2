//! A flow: the pair of addresses, and for streams the connection, that a message came by or shall leave by (RFC 5626 §2).

use std::{fmt, net::SocketAddr, str::FromStr};

use bytes::Bytes;

/// What carries the messages. TLS and WebSocket will be further variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    /// As in Via: `UDP`.
    pub fn as_via(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }

    /// As in `;transport=` and in the store: `udp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }

    /// Whether the transport itself repeats what was lost: transactions then do not (RFC 3261 §17).
    pub fn is_reliable(self) -> bool {
        self != Self::Udp
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Transport {
    type Err = ParseFlowError;

    fn from_str(text: &str) -> Result<Self, ParseFlowError> {
        [Self::Udp, Self::Tcp].into_iter().find(|t| text.eq_ignore_ascii_case(t.as_str())).ok_or(ParseFlowError)
    }
}

/// Which connection: counts up, never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u64);

impl FlowId {
    /// UDP, which has no connections; for streams: whichever connection to that peer there is, or a new one.
    pub const NONE: Self = Self(0);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    pub transport: Transport,
    /// Our address that the message came to, or shall come from. Port 0 and an unspecified address leave it to the socket.
    pub local: SocketAddr,
    pub peer: SocketAddr,
    pub id: FlowId,
}

impl Flow {
    pub fn udp(local: SocketAddr, peer: SocketAddr) -> Self {
        Self { transport: Transport::Udp, local, peer, id: FlowId::NONE }
    }

    /// To `peer` by whichever connection there is, or a new one.
    pub fn tcp(local: SocketAddr, peer: SocketAddr) -> Self {
        Self { transport: Transport::Tcp, local, peer, id: FlowId::NONE }
    }
}

impl fmt::Display for Flow {
    /// `udp 10.0.0.5:5060 via 10.0.0.1:5060`: the form that is stored.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} via {}", self.transport, self.peer, self.local)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a flow: write it as 'udp 10.0.0.5:5060 via 10.0.0.1:5060'")]
pub struct ParseFlowError;

impl FromStr for Flow {
    type Err = ParseFlowError;

    /// A connection's number is not stored: after a restart it is another connection.
    fn from_str(text: &str) -> Result<Self, ParseFlowError> {
        let mut words = text.split(' ');
        let (Some(transport), Some(peer), Some("via"), Some(local), None) =
            (words.next(), words.next(), words.next(), words.next(), words.next())
        else {
            return Err(ParseFlowError);
        };
        Ok(Self {
            transport: transport.parse()?,
            local: local.parse().map_err(|_| ParseFlowError)?,
            peer: peer.parse().map_err(|_| ParseFlowError)?,
            id: FlowId::NONE,
        })
    }
}

/// A message on its way out.
#[derive(Clone, Debug)]
pub struct Transmit {
    pub flow: Flow,
    pub bytes: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_survive_the_store() {
        for text in ["udp 10.0.0.5:5060 via 10.0.0.1:5060", "tcp [::1]:49152 via [::1]:5060"] {
            assert_eq!(text.parse::<Flow>().map(|flow| flow.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "udp", "udp 10.0.0.5 via 10.0.0.1:5060", "sctp 10.0.0.5:1 via 10.0.0.1:2", "udp 10.0.0.5:1 via 10.0.0.1:2 x"] {
            assert!(text.parse::<Flow>().is_err(), "{text}");
        }
    }
}
