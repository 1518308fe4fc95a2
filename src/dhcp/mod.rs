//! Leases and options for phones: RFC 2131, 2132, 3046, 3396.
//!
//! `options.rs` reads and writes packets, `lease.rs` knows who has which address, `class.rs` is what others say of a
//! kind of client, `settings.rs` the YAML. Not here: what a phone then downloads.
pub mod class;
pub mod lease;
mod limit;
pub mod options;
pub mod settings;
