//! `rollout:` in the configuration: how a change of templates goes over a fleet of phones.

use std::str::FromStr;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::{Canary, Pace};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How many phones get a change first: a number as `5`, or a share of those that it changes as `10%`.
    pub canary: String,
    /// Each wave that follows is so many times as large as the one before.
    pub growth: u32,
    /// Phones that are told to fetch their files, in a minute.
    pub per_minute: u32,
    /// How long a phone that was told may need until it has fetched its files, in seconds; then it is left behind.
    pub take_secs: u32,
    /// How long a phone that has fetched its files may need until it registers, in seconds; then it has failed. Longer than the
    /// phones' registrations last by half, for such as do not register anew where nothing of their account has changed.
    pub register_secs: u32,
    /// The same where it has a firmware to load and install on the way (`plugtone firmware pin`), in seconds; when it does not come back
    /// with that it has failed.
    pub firmware_secs: u32,
    /// How long it must stay registered until it is through, in seconds.
    pub stay_secs: u32,
    /// When more hundredths of the phones in the waves so far have failed, all get the old files back.
    pub max_failed_percent: u32,
    /// The hours in which phones may be told, as `19:00-06:30`; an empty list is any time.
    pub only_between: Vec<String>,
    /// IANA name, as `Europe/Berlin`, of the clock that `only_between` means. Empty: the server's.
    pub time_zone: String,
}

/// For rollouts that began before there was such a setting, too.
pub(super) fn firmware_secs() -> u32 {
    1800
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            canary: "5".to_owned(),
            growth: 4,
            per_minute: 60,
            take_secs: 600,
            register_secs: 900,
            firmware_secs: firmware_secs(),
            stay_secs: 60,
            max_failed_percent: 10,
            only_between: Vec::new(),
            time_zone: String::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("rollout.canary: {0}")]
    Canary(#[from] super::ParseCanaryError),
    #[error("rollout.{key} is {value}: {hint}")]
    Number { key: &'static str, value: u32, hint: &'static str },
    #[error("rollout.only_between: '{0}' is not from when to when: write 19:00-06:30")]
    Hours(String),
    #[error("rollout.time_zone: there is no time zone '{0}': write it as Europe/Berlin")]
    TimeZone(String),
}

/// What the settings mean.
#[derive(Clone, Debug)]
pub struct Config {
    pub canary: Canary,
    pub pace: Pace,
    pub hours: Vec<Hours>,
    /// `None`: the server's own.
    pub time_zone: Option<TimeZone>,
}

/// From and to, in minutes since midnight; over midnight where it ends before it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    from: u16,
    to: u16,
}

impl Settings {
    pub fn check(&self) -> Result<Config, SettingsError> {
        let Self { growth, per_minute, take_secs, register_secs, firmware_secs, stay_secs, max_failed_percent, .. } = *self;
        for (key, value, range, hint) in [
            ("growth", growth, 1..=100, "write 1 for waves of the same size, 4 is usual"),
            ("per_minute", per_minute, 1..=60_000, "write how many phones may be told in a minute, 60 is usual"),
            ("take_secs", take_secs, 1..=86_400, "write 600; a day at most"),
            ("register_secs", register_secs, 1..=86_400, "write 900; a day at most"),
            ("firmware_secs", firmware_secs, 1..=86_400, "write 1800; a day at most"),
            ("stay_secs", stay_secs, 0..=86_400, "write 60; a day at most"),
            ("max_failed_percent", max_failed_percent, 0..=100, "write 0 to 100"),
        ] {
            if !range.contains(&value) {
                return Err(SettingsError::Number { key, value, hint });
            }
        }
        let time_zone = match self.time_zone.as_str() {
            "" => None,
            name => Some(TimeZone::get(name).map_err(|_| SettingsError::TimeZone(name.to_owned()))?),
        };
        let hours = self.only_between.iter().map(|text| text.parse().map_err(|()| SettingsError::Hours(text.clone())));
        Ok(Config {
            canary: self.canary.parse()?,
            pace: Pace { growth, per_minute, take_secs, register_secs, firmware_secs, stay_secs, max_failed_percent },
            hours: hours.collect::<Result<_, _>>()?,
            time_zone,
        })
    }
}

impl Config {
    /// May phones be told at this minute of the day?
    pub fn is_quiet(&self, minute: u16) -> bool {
        self.hours.is_empty() || self.hours.iter().any(|hours| hours.contain(minute))
    }
}

impl Hours {
    fn contain(self, minute: u16) -> bool {
        match self.from <= self.to {
            true => (self.from..self.to).contains(&minute),
            false => minute >= self.from || minute < self.to,
        }
    }
}

impl FromStr for Hours {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let minutes = |text: &str| {
            let (hours, minutes) = text.trim().split_once(':')?;
            let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
            (hours < 24 && minutes < 60 || (hours, minutes) == (24, 0)).then_some(hours * 60 + minutes)
        };
        let (from, to) = text.split_once('-').ok_or(())?;
        let (from, to) = (minutes(from).ok_or(())?, minutes(to).ok_or(())?);
        if from == to { Err(()) } else { Ok(Self { from, to }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_may_go_over_midnight() {
        for (hours, minute, quiet) in [
            ("19:00-06:30", 18 * 60 + 59, false),
            ("19:00-06:30", 19 * 60, true),
            ("19:00-06:30", 0, true),
            ("19:00-06:30", 6 * 60 + 30, false),
            ("12:00-13:00", 12 * 60 + 30, true),
            ("12:00-13:00", 13 * 60, false),
            ("22:00-24:00", 23 * 60 + 59, true),
        ] {
            let config = Settings { only_between: vec![hours.into()], ..Default::default() }.check().expect(hours);
            assert_eq!(config.is_quiet(minute), quiet, "{hours} {minute}");
        }
        assert!(Settings::default().check().expect("good").is_quiet(720), "any time");
        for wrong in ["19-06", "19:00", "25:00-06:00", "07:00-07:00", "evening"] {
            let fault = Settings { only_between: vec![wrong.into()], ..Default::default() }.check();
            assert_eq!(fault.map(drop), Err(SettingsError::Hours(wrong.into())));
        }
    }
}
