//! Legs, bridges, routing: what a call means.
//!
//! `routing.rs` says who may reach what. Not here: SIP syntax (`sip`), RTP bytes (`media`).

pub mod config;
pub mod routing;

pub use config::{Config, Settings};
pub use routing::{Caller, Route};
