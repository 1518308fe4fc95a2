//! TFTP, our own: RFC 1350, options 2347, 2348 (blksize), 2349 (tsize, timeout), 7440 (windowsize).
//!
//! ```text
//! socket.rs ── datagrams ──► packet.rs                      who says what
//!     │  one thread, a few ports for all
//! transfers.rs ─► options.rs                                which transfer, on which terms      ┐
//!     ├── RRQ ─► sender.rs    OACK/DATA out, ACK in  ┐                                           │ sans-I/O
//!     └── WRQ ─► receiver.rs  OACK/ACK out, DATA in  ┘ both on retransmission.rs                 ┘
//! ```
//! Not here: which file (`provisioning`); mode `mail`, which RFC 1350 §1 calls obsolete; multicast (RFC 2090).

pub mod netascii;
pub mod options;
pub mod packet;
pub mod receiver;
pub mod retransmission;
pub mod sender;
mod socket;
pub mod transfers;

use std::net::SocketAddr;

use serde::Deserialize;

pub use socket::start;

/// `tftp:` the oldest door; Cisco 79xx, old Linksys and Grandstream have no other.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Serve files over TFTP.
    pub enabled: bool,
    /// Addresses and ports to listen on. On `0.0.0.0` each answer leaves from the address that was asked.
    pub listen: Vec<SocketAddr>,
    /// Transfers at once; a request beyond is dropped, and the phone repeats it a moment later.
    pub max_transfers: usize,
    /// Transfers at once for one client address; a request beyond is answered with an error.
    pub max_transfers_per_client: usize,
    /// Largest block that is granted (RFC 2348: 8–65464 bytes). 1428 avoids fragments on Ethernet.
    pub max_block_bytes: usize,
    /// Largest window that is granted, in blocks (RFC 7440). 1 turns windows off.
    pub max_window_blocks: u16,
    /// How often an unanswered packet is repeated before the transfer is given up. The wait doubles each time.
    pub retries: u32,
}

/// A request that is not served.
fn count(why: &'static str) {
    metrics::counter!("plugtone_tftp_refused_total", "why" => why).increment(1);
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 69))],
            max_transfers: 1000,
            max_transfers_per_client: 8,
            max_block_bytes: options::MAX_BLOCK,
            max_window_blocks: 64,
            retries: 6,
        }
    }
}

impl Settings {
    /// Refuses what could not work.
    pub fn check(&self) -> Result<(), super::Error> {
        let fault = |key, fault: String| Err(super::Error::Setting { section: "tftp", key, fault });
        if !(options::MIN_BLOCK..=options::MAX_BLOCK).contains(&self.max_block_bytes) {
            return fault("max_block_bytes", format!("{} is outside 8–65464 (RFC 2348)", self.max_block_bytes));
        }
        if self.max_window_blocks == 0 {
            return fault("max_window_blocks", "0 would let nothing through: 1 turns windows off".into());
        }
        if self.max_transfers == 0 || self.max_transfers_per_client == 0 {
            return fault("max_transfers", "0 would let nothing through: set `tftp.enabled: false` to close the door".into());
        }
        if self.retries == 0 {
            return fault("retries", "0 would end a transfer at the first lost packet: 1 or more".into());
        }
        if self.enabled && self.listen.is_empty() {
            return Err(super::Error::NowhereToListen { section: "tftp", port: 69 });
        }
        Ok(())
    }
}
