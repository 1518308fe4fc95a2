//! DHCPv6 for phones: RFC 8415, 3319, 3646, 4075, 5908, 5970, 6939.
//!
//! `server.rs` decides, without sockets and clocks; `socket.rs` runs it on a network. `options.rs` reads and writes messages, `lease.rs`
//! knows who has which address, `reply.rs` chooses what is said, `class.rs` is what others say of a kind of client, `settings.rs` the YAML.
//!
//! Not here: prefixes (IA_PD), temporary addresses (IA_TA), Reconfigure, leasequery, authentication; and router advertisements, by which
//! a network tells its phones to ask (RFC 4861: the flags M and O) and which name the router, as DHCPv6 cannot.

pub mod class;
mod lease;
pub mod options;
mod reply;
pub mod server;
pub mod settings;
pub mod socket;

pub use class::{Class, Classify, ClientFacts, VendorOption};
pub use settings::{Config, Settings};

/// Where clients and relays find us (RFC 8415 §7.1): servers and relays of a link, and servers of a site.
pub const ALL_SERVERS_AND_RELAYS: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
pub const ALL_SERVERS: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 3);
/// RFC 8415 §7.2.
pub const CLIENT_PORT: u16 = 546;
pub const SERVER_PORT: u16 = 547;

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen for DHCPv6 on {at}: run as root or grant CAP_NET_BIND_SERVICE")]
    NotAllowed {
        at: String,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "cannot listen for DHCPv6 on {at}: another DHCPv6 server of this machine holds the port; stop it (`ss -lunp sport = :547` names it)"
    )]
    Busy {
        at: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot listen for DHCPv6 on {at}: is IPv6 switched on? check `dhcp6.interfaces`")]
    Bind {
        at: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot read the leases of DHCPv6 of the last run")]
    Leases {
        #[source]
        source: crate::store::Error,
    },
    #[error("dhcp6.interfaces: there is no interface '{name}'; `ip link` lists them")]
    Interface { name: String },
    #[error("cannot start the thread that answers DHCPv6")]
    Thread(#[source] std::io::Error),
}
