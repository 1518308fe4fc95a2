//! Gives every event its number, keeps the recent ones, fans them out, writes the timelines.
//!
//! Mechanisms tell their part through `model::Events`; `worker.rs` numbers, stores and logs it; readers subscribe from
//! any number on and get all that followed, from memory or from the store. `ring.rs` is the pure core, `sentence.rs`
//! the words of the log. Not here: what events mean to anybody.

mod ring;
mod sentence;
mod worker;

pub use ring::Ring;
pub use sentence::sentence;
pub use worker::{Config, Delivery, Journal, Subscription};
