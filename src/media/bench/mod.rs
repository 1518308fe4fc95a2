//! What moving audio costs, measured: for `plugtone bench media`.

pub mod worker;

pub use worker::{Relay, relay};
