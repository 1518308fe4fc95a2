//! Leases and options for phones: RFC 2131, 2132, 3046, 3396, 3527, 5107, 6842.
//!
//! `server.rs` decides, without sockets and clocks; `socket.rs`, `raw.rs` and `worker.rs` run it on a network. `options.rs` reads and
//! writes packets, `table.rs` knows who has which address, `lease.rs` what a client of IPv4 may have, and shows the leases to others;
//! `class.rs` is what others say of a kind of client, `reply.rs` what is said to it, `limit.rs` how many strangers are served, `settings.rs` the YAML.
//! `client_core.rs` is the other side, for simulated phones and load; `client.rs` runs it. `v6/` is DHCPv6. Not here: what a phone then
//! downloads, and which family reads which option.

pub mod class;
pub mod client;
pub mod client_core;
pub mod lease;
mod limit;
pub mod options;
mod raw;
mod reply;
pub mod server;
pub mod settings;
pub mod socket;
mod table;
pub mod v6;
mod worker;

pub use class::{Class, Classify, ClientFacts, OptionValue};
pub use lease::{Holder, LeaseView, PoolView};
pub use raw::{Interface, Replies, interfaces};
pub use settings::{Config, Settings};

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen for DHCP on {at}: run as root or grant CAP_NET_BIND_SERVICE and CAP_NET_RAW")]
    NotAllowed {
        at: String,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "cannot listen for DHCP on {at}: another DHCP server of this machine holds the port; stop it (`ss -lunp sport = :67` names it)"
    )]
    Busy {
        at: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot listen for DHCP on {at}: check `dhcp.listen` and `dhcp.interfaces`")]
    Bind {
        at: String,
        #[source]
        source: std::io::Error,
    },
    #[error("dhcp.interfaces: there is no interface '{name}'; `ip link` lists them")]
    Interface { name: String },
    #[error("cannot start the thread that answers DHCP")]
    Thread(#[source] std::io::Error),
    #[error("cannot read the leases of the last run")]
    Leases {
        #[source]
        source: crate::store::Error,
    },
}
