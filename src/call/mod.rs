//! Legs, bridges, routing: what a call means.
//!
//! `switch` holds all calls as pairs of halves (`half.rs`), `routing.rs` says who may reach what, `worker.rs` is the one
//! task that owns SIP and the switch and does what they answer. `presence.rs` knows what watchers are shown, `watching.rs` lets
//! phones watch. Not here: SIP syntax (`sip`), RTP bytes (`media`), trunks.

pub mod config;
pub mod half;
pub mod presence;
pub mod routing;
pub mod switch;
mod watching;
pub mod worker;

pub use crate::sip::capture::{Captured, Kept, Way};
pub use config::{Config, Settings};
pub use half::{CallState, Cause, Contact, LegEnd, LegEvent, MediaPort, Snapshot};
pub use routing::{Caller, Route};
pub use switch::{Originate, OriginateError, ServiceCommand, Switch};
pub use worker::{Handle, Neighbours, Office, Running, ServiceCall, ServiceControl};
