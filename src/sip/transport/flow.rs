//! A flow: the pair of addresses, and for streams the connection, that a message came by or shall leave by (RFC 5626 §2).

use std::{fmt, net::SocketAddr, str::FromStr};

use bytes::Bytes;

/// What carries the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    Udp,
    Tcp,
    Tls,
    /// WebSocket (RFC 7118): browsers and soft phones made like them.
    Ws,
    /// WebSocket over TLS.
    Wss,
}

impl Transport {
    pub const ALL: [Self; 5] = [Self::Udp, Self::Tcp, Self::Tls, Self::Ws, Self::Wss];

    /// As in Via: `UDP`.
    pub fn as_via(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Ws => "WS",
            Self::Wss => "WSS",
        }
    }

    /// In the store and in the settings: `udp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    /// What a URI of ours says about it: nothing for UDP. RFC 7118 §5.2 knows `ws` only, whether over TLS or not.
    pub fn as_uri_param(self) -> &'static str {
        match self {
            Self::Udp => "",
            Self::Tcp => ";transport=tcp",
            Self::Tls => ";transport=tls",
            Self::Ws | Self::Wss => ";transport=ws",
        }
    }

    /// Whether nobody on the way can read it.
    pub fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    /// Whether frames of WebSocket hold the messages. Such a peer can be reached by the connection that it made only.
    pub fn is_web(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
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
        Self::ALL.into_iter().find(|t| text.eq_ignore_ascii_case(t.as_str())).ok_or(ParseFlowError)
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
        Self::of(Transport::Tcp, local, peer)
    }

    pub fn of(transport: Transport, local: SocketAddr, peer: SocketAddr) -> Self {
        Self { transport, local, peer, id: FlowId::NONE }
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    pub flow: Flow,
    pub bytes: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_survive_the_store() {
        for text in [
            "udp 10.0.0.5:5060 via 10.0.0.1:5060",
            "tcp [::1]:49152 via [::1]:5060",
            "tls 10.0.0.5:40000 via 10.0.0.1:5061",
            "ws 10.0.0.5:40000 via 10.0.0.1:80",
            "wss [::1]:40000 via [::1]:443",
        ] {
            assert_eq!(text.parse::<Flow>().map(|flow| flow.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "udp", "udp 10.0.0.5 via 10.0.0.1:5060", "sctp 10.0.0.5:1 via 10.0.0.1:2", "udp 10.0.0.5:1 via 10.0.0.1:2 x"] {
            assert!(text.parse::<Flow>().is_err(), "{text}");
        }
    }
}
