//! The `store` section of the configuration: where the database lies and how long its history is kept.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What was written under `store:`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The database file. Its folder must exist and be writable; SQLite keeps `…-wal` and `…-shm` beside it, and the
    /// master key of the phones' secrets lies there too, as `master.key`. All are readable by the owner only.
    pub path: PathBuf,
    /// How many days events (the timelines, the audit of files) are kept. 0: for ever.
    pub journal_days: u32,
    /// How many days the records of calls (who called whom) are kept. 0: for ever.
    pub call_records_days: u32,
    /// How much of what phones were given is kept, in megabytes, for `plugtone template history`: the oldest goes first, what phones
    /// have now goes last. 0: nothing is kept.
    pub config_history_mb: u32,
    /// How many of the newest events are also held in memory, where readers of the stream find them without the disk.
    pub journal_ring: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            path: "/var/lib/plugtone/plugtone.db".into(),
            journal_days: 90,
            call_records_days: 180,
            config_history_mb: 200,
            journal_ring: 8192,
        }
    }
}
