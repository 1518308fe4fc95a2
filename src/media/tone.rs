//! Tones that are computed: what callers hear while they wait, by country, and the sound of keys.
//!
//! Frequencies and rhythms are those of ITU-T E.180 Supplement 2; levels those that phones and exchanges commonly use.

use std::{f32::consts::TAU, sync::Arc};

use serde::{Deserialize, Serialize};

use super::Clip;

/// Peak of a sine of 0 dBm0 in 16 bits: full scale is +3.14 dBm0 (ITU-T G.711, note to table 1).
pub const PEAK_0_DBM0: f32 = 22_800.0;

/// Whose tones callers know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Country {
    /// 425 Hz, as most of Europe has it.
    #[default]
    Eu,
    Us,
    Uk,
    De,
}

/// What a caller is told without words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The far phone rings.
    RingBack,
    /// The far phone is in use.
    Busy,
    /// There is no way to the far phone.
    Congestion,
    /// Speak now.
    Beep,
}

/// All signals of one country, made once. Play all but the beep with `repeat`: each is one period of its rhythm.
#[derive(Clone, Debug)]
pub struct Tones {
    pub ring_back: Arc<Clip>,
    pub busy: Arc<Clip>,
    pub congestion: Arc<Clip>,
    pub beep: Arc<Clip>,
}

impl Tones {
    pub fn new(country: Country) -> Self {
        let clip = |signal| Arc::new(clip(country, signal));
        Self { ring_back: clip(Signal::RingBack), busy: clip(Signal::Busy), congestion: clip(Signal::Congestion), beep: clip(Signal::Beep) }
    }
}

/// Frequencies in Hz (0: none), and milliseconds of sound and silence by turns.
type Pattern = ([f32; 2], &'static [u32]);

fn pattern(country: Country, signal: Signal) -> Pattern {
    use Country::*;
    match (signal, country) {
        (Signal::RingBack, Us) => ([440.0, 480.0], &[2000, 4000]),
        (Signal::RingBack, Uk) => ([400.0, 450.0], &[400, 200, 400, 2000]),
        (Signal::RingBack, Eu | De) => ([425.0, 0.0], &[1000, 4000]),
        (Signal::Busy, Us) => ([480.0, 620.0], &[500, 500]),
        (Signal::Busy, Uk) => ([400.0, 0.0], &[375, 375]),
        (Signal::Busy, De) => ([425.0, 0.0], &[480, 480]),
        (Signal::Busy, Eu) => ([425.0, 0.0], &[500, 500]),
        (Signal::Congestion, Us) => ([480.0, 620.0], &[250, 250]),
        (Signal::Congestion, Uk) => ([400.0, 0.0], &[400, 350, 225, 525]),
        (Signal::Congestion, De) => ([425.0, 0.0], &[240, 240]),
        (Signal::Congestion, Eu) => ([425.0, 0.0], &[250, 250]),
        (Signal::Beep, _) => ([1000.0, 0.0], &[300]),
    }
}

const RATE: u32 = 16_000;
/// −13 dBm0 in all.
const SIGNAL_PEAK: f32 = PEAK_0_DBM0 * 0.224;
/// Sound rises and falls in 5 ms, so that it does not click.
const RAMP: f32 = RATE as f32 * 0.005;

/// One period of a signal.
pub fn clip(country: Country, signal: Signal) -> Clip {
    let (frequencies, rhythm) = pattern(country, signal);
    let sounding = frequencies.iter().filter(|hz| **hz > 0.0).count() as f32;
    let mut samples = Vec::new();
    for (turn, ms) in rhythm.iter().enumerate() {
        let count = RATE / 1000 * ms;
        if turn % 2 == 1 {
            samples.resize(samples.len() + count as usize, 0);
            continue;
        }
        for i in 0..count {
            let ramp = (i as f32 / RAMP).min((count - i) as f32 / RAMP).min(1.0);
            let wave: f32 = frequencies.iter().map(|hz| (TAU * hz * i as f32 / RATE as f32).sin()).sum();
            samples.push((SIGNAL_PEAK / sounding.sqrt() * ramp * wave) as i16);
        }
    }
    Clip::new(format!("{country:?} {signal:?}"), RATE, &samples)
}

/// Row and column frequencies of the keypad in Hz (ITU-T Q.23).
pub const ROWS: [f32; 4] = [697.0, 770.0, 852.0, 941.0];
pub const COLUMNS: [f32; 4] = [1209.0, 1336.0, 1477.0, 1633.0];

/// Row and column of a key, by event code.
fn place(code: u8) -> (u8, u8) {
    match code {
        0 => (3, 1),
        1..=9 => ((code - 1) / 3, (code - 1) % 3),
        10 => (3, 0),
        11 => (3, 2),
        _ => ((code - 12) & 3, 3),
    }
}

/// The event code at a row and a column.
pub fn key_at(row: usize, column: usize) -> Option<u8> {
    (0..16).find(|code| place(*code) == (row as u8, column as u8))
}

/// −9 dBm0 for each of the two tones of a key, as phones send them.
const KEY_PEAK: f32 = PEAK_0_DBM0 * 0.355;

/// One key's sound, frame by frame.
#[derive(Debug)]
pub struct KeyTone {
    steps: (f32, f32),
    phases: (f32, f32),
}

impl KeyTone {
    pub fn new(code: u8, rate_hz: u32) -> Self {
        let (row, column) = place(code);
        let step = |hz: f32| TAU * hz / rate_hz as f32;
        Self { steps: (step(ROWS[usize::from(row & 3)]), step(COLUMNS[usize::from(column & 3)])), phases: (0.0, 0.0) }
    }

    pub fn fill(&mut self, out: &mut [i16]) {
        for sample in out {
            *sample = (KEY_PEAK * (self.phases.0.sin() + self.phases.1.sin())) as i16;
            self.phases.0 = (self.phases.0 + self.steps.0) % TAU;
            self.phases.1 = (self.phases.1 + self.steps.1) % TAU;
        }
    }
}

/// What callers on hold hear where nobody has chosen anything else: soft broken chords, ten seconds, to be repeated.
pub fn tune() -> Clip {
    /// Samples of a note.
    const BEAT: usize = RATE / 4;
    // C, a, F, G7 in just enough of a voicing to be recognised as music.
    const CHORDS: [[f32; 4]; 4] =
        [[261.6, 329.6, 392.0, 523.3], [220.0, 329.6, 440.0, 523.3], [174.6, 261.6, 349.2, 440.0], [196.0, 293.7, 349.2, 493.9]];
    const RATE: usize = 8000;
    const ORDER: [usize; 10] = [0, 1, 2, 3, 2, 1, 2, 3, 2, 1];
    let notes = CHORDS.iter().flat_map(|chord| ORDER.iter().map(|at| chord[*at]));
    let mut samples = Vec::with_capacity(CHORDS.len() * ORDER.len() * BEAT);
    for hz in notes {
        samples.extend((0..BEAT).map(|i| {
            let (at, left) = (i as f32 / RATE as f32, (BEAT - i) as f32 / RATE as f32);
            // Plucked: a soft start, a fading end, nothing that clicks. 20 dB below the loudest tone.
            let loudness = (at / 0.01).min(1.0) * (-6.0 * at).exp() * (left / 0.01).min(1.0);
            (0.2 * PEAK_0_DBM0 * loudness * ((TAU * hz * at).sin() + 0.3 * (2.0 * TAU * hz * at).sin())) as i16
        }));
    }
    Clip::new("hold music", RATE as u32, &samples)
}

#[cfg(test)]
mod tests {
    use super::super::listen::{Listener, Sound};
    use super::*;

    #[test]
    fn signals_have_their_country_s_rhythm_and_pitch() {
        for (country, signal, millis, expected) in [
            (Country::Eu, Signal::RingBack, 5000, Sound::Tone { hz: 425.0 }),
            (Country::De, Signal::Busy, 960, Sound::Tone { hz: 425.0 }),
            (Country::Us, Signal::RingBack, 6000, Sound::Tones { low_hz: 440.0, high_hz: 480.0 }),
            (Country::Uk, Signal::Congestion, 1500, Sound::Tone { hz: 400.0 }),
            (Country::Eu, Signal::Beep, 300, Sound::Tone { hz: 1000.0 }),
        ] {
            let clip = clip(country, signal);
            assert_eq!(clip.duration().as_millis(), millis, "{country:?} {signal:?}");
            let mut listener = Listener::default();
            listener.push(clip.samples(8000));
            let heard = std::iter::from_fn(|| listener.poll()).find(|heard| heard.sound != Sound::Silence);
            assert!(heard.is_some_and(|heard| heard.sound.is_like(expected)), "{country:?} {signal:?}: {heard:?}");
        }
    }

    #[test]
    fn each_key_has_its_place() {
        for code in 0..16 {
            let (row, column) = place(code);
            assert_eq!(key_at(row.into(), column.into()), Some(code));
        }
    }

    #[test]
    fn the_tune_is_music_and_not_loud() {
        let tune = tune();
        assert_eq!(tune.duration().as_secs(), 10);
        let (peak, edge) = (tune.samples(8000).iter().map(|s| s.unsigned_abs()).max(), tune.samples(8000).last());
        assert!(peak.is_some_and(|peak| (2_000..8_000).contains(&peak)), "{peak:?}");
        assert!(edge.is_some_and(|edge| edge.unsigned_abs() < 100), "it can be repeated without a click");
    }
}
