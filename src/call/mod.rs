//! Legs, bridges, routing: what a call means.
//!
//! `switch` holds all calls as pairs of halves (`half.rs`), `routing.rs` says who may reach what, `worker.rs` is the one
//! task that owns SIP and the switch and does what they answer. `trunk.rs` knows the ways to the outside, `inbound.rs` reads who
//! calls from there, `invite.rs` says what a phone is shown that is called. `ledger.rs` keeps the account of who called whom.
//! `presence.rs` knows what watchers are shown, `watching.rs` lets phones watch. Not here: SIP syntax (`sip`), RTP bytes (`media`),
//! the plan that a route is found by (`crate::routing`).

pub mod config;
pub mod half;
mod inbound;
mod invite;
mod ledger;
mod locate;
pub mod presence;
pub mod routing;
pub mod switch;
pub mod trunk;
mod watching;
pub mod worker;

pub use crate::sip::capture::{Captured, Kept, Way};
pub use config::{Config, Settings};
pub use half::{CallState, Cause, Contact, LegEnd, LegEvent, MediaPort, Snapshot};
pub use routing::{Caller, Errand, Origin, Route};
pub use switch::{Originate, OriginateError, ServiceCommand, Switch};
pub use worker::{Handle, Neighbours, NotKept, Office, Running, ServiceCall, ServiceControl};
