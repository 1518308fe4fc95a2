//! What does it sound like? Decoded audio in; silence, a tone and its pitch, two tones, speech or noise out.
//!
//! The simulated phone and the tests judge by it what really arrived. Windows of 128 ms at 8 kHz go through a Fourier
//! transform; a change is told when it has lasted. Not here: words, keys (`goertzel.rs`), decoding (`ear.rs`).

use std::{collections::VecDeque, f32::consts::TAU, time::Duration};

use serde::{Deserialize, Serialize};

const WINDOW: usize = 1024;
/// Lasts one window.
pub const WINDOW_TIME: Duration = Duration::from_millis(128);
/// Quieter than this is silence, in dBFS: comfort noise is near −65, whispering near −45.
const SILENCE_DBFS: f32 = -50.0;
/// Bins that belong to one peak on each side: the main lobe of the Hann window and a little wavering.
const LOBE: usize = 3;
/// Of all energy, what one tone must hold, and two together.
const ONE_TONE: f32 = 0.85;
const TWO_TONES: f32 = 0.9;
/// Geometric over arithmetic mean of the spectrum: white noise has 0.56, voices far less.
const FLATNESS: f32 = 0.4;
/// News that may wait to be polled.
const QUEUE: usize = 64;

/// What a stretch of audio is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "sound", rename_all = "snake_case")]
pub enum Sound {
    Silence,
    Tone {
        hz: f32,
    },
    Tones {
        low_hz: f32,
        high_hz: f32,
    },
    /// Neither quiet, nor tones, nor noise; music too.
    Speech,
    Noise,
}

impl Sound {
    /// The same kind, and the same pitch within 1.5 %.
    pub fn is_like(self, other: Self) -> bool {
        let near = |a: f32, b: f32| (a - b).abs() <= 0.015 * a.max(b);
        match (self, other) {
            (Self::Tone { hz: a }, Self::Tone { hz: b }) => near(a, b),
            (Self::Tones { low_hz: a, high_hz: b }, Self::Tones { low_hz: c, high_hz: d }) => near(a, c) && near(b, d),
            (a, b) => a == b,
        }
    }
}

/// A sound that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heard {
    #[serde(flatten)]
    pub sound: Sound,
    /// Loudness when it was recognised; the loudest sine has −3.
    pub dbfs: f32,
}

/// Listens to 8 kHz samples.
pub struct Listener {
    window: Box<[f32; WINDOW]>,
    filled: usize,
    /// What was told last.
    current: Option<Sound>,
    /// What may come next, and for how many windows it has been heard.
    pending: Option<(Sound, u32)>,
    news: VecDeque<Heard>,
}

impl Default for Listener {
    fn default() -> Self {
        Self { window: Box::new([0.0; WINDOW]), filled: 0, current: None, pending: None, news: VecDeque::with_capacity(QUEUE) }
    }
}

impl Listener {
    pub fn push(&mut self, samples: &[i16]) {
        for sample in samples {
            if let Some(slot) = self.window.get_mut(self.filled) {
                *slot = f32::from(*sample) / 32_768.0;
            }
            self.filled += 1;
            if self.filled == WINDOW {
                self.filled = 0;
                let heard = classify(&self.window);
                self.note(heard);
            }
        }
    }

    /// The next change, oldest first.
    pub fn poll(&mut self) -> Option<Heard> {
        self.news.pop_front()
    }

    /// What sounds now; `None` in the first quarter of a second.
    pub fn current(&self) -> Option<Sound> {
        self.current
    }

    fn note(&mut self, heard: Heard) {
        if self.current.is_some_and(|current| current.is_like(heard.sound)) {
            self.pending = None;
            return;
        }
        let windows = match self.pending {
            Some((sound, windows)) if sound.is_like(heard.sound) => windows + 1,
            _ => 1,
        };
        self.pending = Some((heard.sound, windows));
        // Speech has pauses and hissing sounds of its own: they must last longer to be something else.
        let patience = match (self.current, heard.sound) {
            (Some(Sound::Speech), Sound::Silence | Sound::Noise) => 5,
            _ => 2,
        };
        if windows >= patience {
            self.current = Some(heard.sound);
            self.pending = None;
            if self.news.len() < QUEUE {
                self.news.push_back(heard);
            }
        }
    }
}

/// Judges one window.
fn classify(window: &[f32; WINDOW]) -> Heard {
    let mean_square = window.iter().map(|x| x * x).sum::<f32>() / WINDOW as f32;
    let dbfs = 10.0 * mean_square.max(1e-10).log10();
    let sound = if dbfs < SILENCE_DBFS { Sound::Silence } else { judge_spectrum(&power_spectrum(window)) };
    Heard { sound, dbfs }
}

fn judge_spectrum(power: &[f32; WINDOW / 2]) -> Sound {
    let total: f32 = power.iter().sum::<f32>().max(1e-20);
    let first = peak(power, None);
    let one = energy_around(power, first);
    if one >= ONE_TONE * total {
        return Sound::Tone { hz: pitch(power, first) };
    }
    let second = peak(power, Some(first));
    let two = energy_around(power, second);
    if one + two >= TWO_TONES * total && two >= 0.05 * one {
        let (a, b) = (pitch(power, first), pitch(power, second));
        return Sound::Tones { low_hz: a.min(b), high_hz: a.max(b) };
    }
    // 200 to 3400 Hz: what a telephone carries.
    let band = power.get(26..435).unwrap_or_default();
    let mean = band.iter().sum::<f32>() / band.len() as f32;
    let geometric = (band.iter().map(|p| p.max(1e-20).ln()).sum::<f32>() / band.len() as f32).exp();
    if geometric > FLATNESS * mean { Sound::Noise } else { Sound::Speech }
}

/// The strongest bin, outside the lobe of another peak.
fn peak(power: &[f32; WINDOW / 2], but: Option<usize>) -> usize {
    let allowed = |bin: &usize| but.is_none_or(|but| bin.abs_diff(but) > LOBE);
    (LOBE..WINDOW / 2 - LOBE).filter(allowed).max_by(|a, b| power[*a].total_cmp(&power[*b])).unwrap_or(LOBE)
}

fn energy_around(power: &[f32; WINDOW / 2], bin: usize) -> f32 {
    power.get(bin.saturating_sub(LOBE)..=bin + LOBE).unwrap_or_default().iter().sum()
}

/// The frequency of a peak between the bins, by a parabola through the logarithms: within 1 Hz for a Hann window.
fn pitch(power: &[f32; WINDOW / 2], bin: usize) -> f32 {
    let log = |bin: usize| power.get(bin).copied().unwrap_or(0.0).max(1e-20).ln();
    let (left, middle, right) = (log(bin.saturating_sub(1)), log(bin), log(bin + 1));
    let curve = left - 2.0 * middle + right;
    let shift = if curve.abs() < 1e-6 { 0.0 } else { 0.5 * (left - right) / curve };
    (bin as f32 + shift.clamp(-0.5, 0.5)) * 8000.0 / WINDOW as f32
}

/// Power in each bin of 7.8 Hz, after a Hann window.
fn power_spectrum(window: &[f32; WINDOW]) -> [f32; WINDOW / 2] {
    let mut re = [0.0f32; WINDOW];
    let mut im = [0.0f32; WINDOW];
    for (i, sample) in window.iter().enumerate() {
        re[i.reverse_bits() >> (usize::BITS - WINDOW.trailing_zeros())] = sample * (0.5 - 0.5 * (TAU * i as f32 / WINDOW as f32).cos());
    }
    let mut half = 1;
    while half < WINDOW {
        for k in 0..half {
            let (sin, cos) = (-TAU * k as f32 / (2 * half) as f32).sin_cos();
            for a in (k..WINDOW).step_by(2 * half) {
                let b = a + half;
                let (tr, ti) = (re[b] * cos - im[b] * sin, re[b] * sin + im[b] * cos);
                (re[b], im[b]) = (re[a] - tr, im[a] - ti);
                (re[a], im[a]) = (re[a] + tr, im[a] + ti);
            }
        }
        half *= 2;
    }
    std::array::from_fn(|bin| re[bin] * re[bin] + im[bin] * im[bin])
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{Dice, Voice};
    use super::*;

    fn story(samples: impl IntoIterator<Item = i16>) -> Vec<Sound> {
        let mut listener = Listener::default();
        listener.push(&samples.into_iter().collect::<Vec<_>>());
        std::iter::from_fn(|| listener.poll()).map(|heard| heard.sound).collect()
    }

    fn sine(hz: f32, peak: f32, secs: f32) -> impl Iterator<Item = i16> {
        (0..(secs * 8000.0) as usize).map(move |i| (peak * (TAU * hz * i as f32 / 8000.0).sin()) as i16)
    }

    #[test]
    fn tones_are_named_within_a_hertz() {
        for hz in [100.0, 425.0, 440.0, 697.3, 1004.0, 2500.0, 3399.0] {
            let heard = story(sine(hz, 500.0, 1.0));
            assert!(matches!(heard[..], [Sound::Tone { hz: found }] if (found - hz).abs() < 1.0), "{hz} Hz: {heard:?}");
        }
        let two: Vec<i16> = sine(350.0, 3000.0, 1.0).zip(sine(440.0, 4000.0, 1.0)).map(|(a, b)| a + b).collect();
        let heard = story(two);
        assert!(heard.len() == 1 && heard[0].is_like(Sound::Tones { low_hz: 350.0, high_hz: 440.0 }), "{heard:?}");
    }

    #[test]
    fn silence_speech_noise_and_changes() {
        let voice = || Voice::new(3).take(8 * 8000);
        let mut dice = Dice(9);
        let noise: Vec<i16> = (0..16_000).map(|_| (dice.noise() * 2000.0) as i16).collect();
        assert_eq!(story(vec![3; 8000]), [Sound::Silence]);
        assert_eq!(story(noise), [Sound::Noise]);
        let heard = story(voice());
        assert!(heard.contains(&Sound::Speech) && heard.iter().all(|s| matches!(s, Sound::Speech | Sound::Silence)), "{heard:?}");
        let change = story(sine(440.0, 4000.0, 1.0).chain(vec![0; 8000]).chain(sine(880.0, 4000.0, 1.0)));
        assert!(matches!(change[..], [Sound::Tone { .. }, Sound::Silence, Sound::Tone { hz }] if hz > 870.0), "{change:?}");
    }
}
