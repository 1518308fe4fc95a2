//! FTP, our own, for phones: one virtual account that reaches phone files and nothing else (RFC 959, 2428, 3659 in part).
//!
//! ```text
//! socket.rs ── line ──► command.rs ─► session.rs ── Step ──► socket.rs does it: reply, data connection, pipeline
//! ```
//! The account is not one of the system's: its password is published with every Polycom, and brute-force lists have it.
//! PORT and EPRT are taken only for the address that the client itself comes from: no bounce. Not here: TLS, listings
//! (always empty: names are not told), renaming, deleting; which file a phone may have (`provisioning`).

pub mod command;
pub mod session;
mod socket;

use std::net::{Ipv4Addr, SocketAddr};

use serde::Deserialize;

use super::Error;
use crate::model::Secret;

pub use socket::start;

/// `ftp:` the factory protocol of Polycom.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Serve files over FTP.
    pub enabled: bool,
    /// Addresses and ports to listen on.
    pub listen: Vec<SocketAddr>,
    /// The name that phones log in with; case matters. Polycom's factory setting is `PlcmSpIp`.
    pub user: String,
    /// The password that phones log in with. It guards nothing: who may have a file is decided per file.
    pub password: Secret,
    /// Ports for passive data connections, both included; any free port when not set. For firewalls.
    pub passive_ports: Option<PortRange>,
    /// The address that PASV names, where a NAT stands between; the one that the phone came to when not set.
    pub passive_address: Option<Ipv4Addr>,
    /// Control connections at once; one beyond is told to come again later.
    pub max_connections: usize,
    /// Control connections at once from one address.
    pub max_connections_per_client: usize,
    /// How long a control connection may be idle.
    pub idle_timeout_secs: u64,
    /// How long a data connection may take to open, and how long it may stand still.
    pub stall_timeout_secs: u64,
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 21))],
            user: "PlcmSpIp".into(),
            password: Secret::new("PlcmSpIp"),
            passive_ports: None,
            passive_address: None,
            max_connections: 500,
            max_connections_per_client: 8,
            idle_timeout_secs: 120,
            stall_timeout_secs: 30,
        }
    }
}

impl Settings {
    /// Refuses what could not work.
    pub fn check(&self) -> Result<(), Error> {
        let fault = |key, fault: &str| Err(Error::Setting { section: "ftp", key, fault: fault.into() });
        if self.user.is_empty() {
            return fault("user", "phones log in with a name: the factory setting of Polycom is PlcmSpIp");
        }
        if self.passive_ports.is_some_and(|ports| ports.first == 0 || ports.last < ports.first) {
            return fault("passive_ports", "`first` must be 1 or more and `last` not below it");
        }
        if self.max_connections == 0 || self.max_connections_per_client == 0 {
            return fault("max_connections", "0 would let nobody in: set `ftp.enabled: false` to close the door");
        }
        if self.idle_timeout_secs == 0 || self.stall_timeout_secs == 0 {
            return fault("idle_timeout_secs", "0 would cut off everybody: 1 second or more");
        }
        if self.enabled && self.listen.is_empty() {
            return Err(Error::NowhereToListen { section: "ftp", port: 21 });
        }
        Ok(())
    }
}
