//! The rules of a device's life, unknown → provisional → authenticating → bound → reloading → in service, and back; pure.
//!
//! `state.rs` is the machine, `secret.rs` derives what phones log in with, `attempts.rs` says how often one may try.
//! Only `files.rs` touches a file: the master key. Driven by `provisioning/onboarding.rs`. Not here: stores, SIP, time.

pub mod attempts;
pub mod files;
pub mod secret;
mod settings;
pub mod state;

pub use attempts::{Attempts, Limits, Outcome, Verdict, Who};
pub use secret::MasterKey;
pub use settings::{AttemptSettings, ReloadSettings, Settings};
pub use state::{Effect, Fact, Life, Step};

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot read the master key {path}: {reason}; restore it from a backup (without it every bound phone must reload) or remove it"
    )]
    KeyUnreadable { path: PathBuf, reason: String },
    #[error("cannot create the master key {path}: {reason}; the folder must exist and be writable for this user")]
    KeyNotCreated { path: PathBuf, reason: String },
    #[error("`{key}: {value}` makes no sense: {hint}")]
    Setting { key: &'static str, value: String, hint: &'static str },
}
