//! The `bindings` section of the configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Error, Limits};

/// What was written under `bindings:`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How many devices may have the same extension at a time, 1 to 16. When one more is bound, the one that was bound
    /// first becomes a new phone again.
    pub devices_per_extension: u8,
    /// How phones are told to fetch their new configuration.
    pub reload: ReloadSettings,
    /// How often a wrong number or PIN may be tried.
    pub attempts: AttemptSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self { devices_per_extension: 1, reload: ReloadSettings::default(), attempts: AttemptSettings::default() }
    }
}

impl Settings {
    /// What is wrong with it, if anything.
    pub fn check(&self) -> Result<(), Error> {
        if !(1..=16).contains(&self.devices_per_extension) {
            let value = self.devices_per_extension.to_string();
            return Err(Error::Setting { key: "bindings.devices_per_extension", value, hint: "write a number from 1 to 16" });
        }
        for (key, value) in [
            ("bindings.attempts.per_device", self.attempts.per_device),
            ("bindings.attempts.per_user", self.attempts.per_user),
            ("bindings.attempts.per_source", self.attempts.per_source),
        ] {
            if value == 0 {
                return Err(Error::Setting { key, value: value.to_string(), hint: "nobody could ever log in; write at least 1" });
            }
        }
        Ok(())
    }
}

/// What was written under `bindings.reload:`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReloadSettings {
    /// Pause after the phone's last call has ended, in milliseconds: a phone still on its way out of a call ignores the
    /// NOTIFY.
    pub settle_ms: u64,
    /// The longest that a reload waits for calls of the phone to end, in seconds.
    pub hold_secs: u64,
    /// How long a phone that took the NOTIFY may need until it fetches its file, in seconds. A Poly that restarts its
    /// application takes up to two minutes.
    pub take_secs: u64,
    /// How long a NOTIFY may stay without answer before the next way is tried, in seconds (RFC 3261 timer F: 32).
    pub answer_secs: u64,
    /// How long a phone that fetched its file may need until it registers, in seconds.
    pub register_secs: u64,
    /// How long to wait for the phone's own polling when no NOTIFY helped and its family names no interval, in seconds.
    pub poll_secs: u64,
    /// After this long an overdue phone is told again, in seconds.
    pub retry_secs: u64,
}

impl Default for ReloadSettings {
    fn default() -> Self {
        Self { settle_ms: 500, hold_secs: 300, take_secs: 150, answer_secs: 33, register_secs: 180, poll_secs: 120, retry_secs: 900 }
    }
}

impl ReloadSettings {
    pub fn settle(&self) -> Duration {
        Duration::from_millis(self.settle_ms)
    }
}

/// What was written under `bindings.attempts:`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AttemptSettings {
    /// Failures from one phone before it is locked out.
    pub per_device: u32,
    /// Failures for one user, from whatever phone, before the user is locked out. Higher than `per_device`, or anybody
    /// can lock a colleague out from one phone.
    pub per_user: u32,
    /// Failures from one IP address before it is locked out. Several phones may share one.
    pub per_source: u32,
    /// Pause after the first failure, in seconds; it doubles with each further one.
    pub pause_secs: u32,
    /// The longest pause, in seconds.
    pub longest_pause_secs: u32,
    /// How long a lock-out lasts, in seconds.
    pub lockout_secs: u32,
    /// Failures are forgotten after this long without another, in seconds.
    pub forget_secs: u32,
}

impl Default for AttemptSettings {
    fn default() -> Self {
        Self { per_device: 6, per_user: 10, per_source: 30, pause_secs: 1, longest_pause_secs: 30, lockout_secs: 900, forget_secs: 3600 }
    }
}

impl AttemptSettings {
    pub fn limits(&self) -> Limits {
        Limits {
            per_device: self.per_device.max(1),
            per_user: self.per_user.max(1),
            per_source: self.per_source.max(1),
            pause_ms: i64::from(self.pause_secs) * 1000,
            longest_pause_ms: i64::from(self.longest_pause_secs) * 1000,
            lockout_ms: i64::from(self.lockout_secs) * 1000,
            forget_ms: i64::from(self.forget_secs) * 1000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_good() {
        assert!(Settings::default().check().is_ok());
        assert!(Settings { devices_per_extension: 0, ..Settings::default() }.check().is_err());
    }
}
