//! How messages travel: flows, the framing of streams, and the sockets for UDP and TCP.
//!
//! [`flow`] and [`framing`] are pure; the other files hold the sockets and no decisions about SIP.

pub mod flow;

pub use flow::{Flow, FlowId, Transmit, Transport};
