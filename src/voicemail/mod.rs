//! Voice messages: callers leave them, owners hear them by phone, by mail or by the API.
//!
//! `mailbox.rs` knows what lies in a box and what its limits are, `machine.rs` what is said and which key does what, neither
//! with sound or clock. `worker.rs` is the task for each call, `files.rs` the WAV files, `client.rs` sends mail.
//!
//! A message is a file and a row: the file is on disk under its name before the row is, and the caller hears "thank you"
//! after the row. A row without a file, or a file without a row, is swept at the start. Not here: which calls come here
//! (`call::switch`), lamps (`call::watching`).

pub mod client;
pub mod files;
pub mod machine;
pub mod mailbox;
pub mod settings;
pub mod worker;

pub use settings::{Config, Settings};
pub use worker::Voicemail;
