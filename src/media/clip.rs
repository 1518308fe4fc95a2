//! A recording ready to be played: its samples at 8 and 16 kHz, shared by all who play it.
//!
//! Loaded by `files.rs`, made by `tone.rs`. Not here: playing (`session.rs`).

use std::{fmt, time::Duration};

use super::resample;

/// Decoded audio, mono, at both rates that codecs want.
pub struct Clip {
    name: String,
    narrow: Box<[i16]>,
    wide: Box<[i16]>,
}

impl Clip {
    /// From mono samples of any rate; the name is for logs.
    pub fn new(name: impl Into<String>, rate_hz: u32, samples: &[i16]) -> Self {
        Self {
            name: name.into(),
            narrow: resample::convert(samples, rate_hz, 8_000).into(),
            wide: resample::convert(samples, rate_hz, 16_000).into(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The samples at 8 or 16 kHz; for any other rate those at 8.
    pub fn samples(&self, rate_hz: u32) -> &[i16] {
        if rate_hz == 16_000 { &self.wide } else { &self.narrow }
    }

    pub fn duration(&self) -> Duration {
        Duration::from_micros(self.narrow.len() as u64 * 125)
    }
}

impl fmt::Debug for Clip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clip({}, {:?})", self.name, self.duration())
    }
}
