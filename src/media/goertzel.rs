//! Recognises keys by their sound: two tones of ITU-T Q.23 in 8 kHz audio, by the tolerances of Q.24, and not in speech.
//!
//! Blocks of 13 ms that overlap by half go through eight Goertzel filters. Where a row and a column stand out, the two
//! sines are fitted in frequency, level and phase; a key is heard when they explain nearly all of the block, lie near
//! enough to their nominal frequencies, differ little in level, have no second harmonic, and last. Each press is told
//! once, when it has lasted long enough.

use std::{collections::VecDeque, f32::consts::TAU};

use super::tone::{COLUMNS, PEAK_0_DBM0, ROWS, key_at};
use crate::rtp::Key;

/// Samples of a block: long enough to tell the rows apart (73 Hz), short enough that 40 ms hold four half-overlapped ones.
const BLOCK: usize = 104;
const HOP: usize = BLOCK / 2;
/// So many blocks in a row make a press, 32 ms: Q.24 wants 40 ms accepted and 20 ms refused.
const TO_START: usize = 4;
/// So many blocks without the key end it: a drop-out of one packet's seam passes, a pause of 40 ms does not.
const TO_END: u32 = 3;
/// Of the block's energy, what the two sines must explain; noise 15 dB below leaves 97 %.
const EXPLAINED: f32 = 0.88;
/// Of the nominal frequency: Q.24 wants 1.5 % accepted and 3.5 % refused; noise moves the estimate of a block by 1 %.
const OFF_PITCH: f32 = 0.028;
/// The same for the mean of the blocks of a press.
const OFF_PITCH_MEAN: f32 = 0.021;
/// Between the loudest and the weakest block of a press, for each tone: 4 dB. Keys are steady, voices are not.
const UNSTEADY: f32 = 1.6;
/// Peaks of −38 dBm0, the weaker tone at a twist of 8 dB and −25 dBm0 in all, with room.
const WEAKEST_PEAK: f32 = PEAK_0_DBM0 * 0.0126;
/// Between the two tones in amplitude: 10.5 dB either way, for Q.24's 8 dB and what noise does to a block.
const TWIST: f32 = 3.35;
/// Amplitude of a second harmonic against its tone: −12 dB. Voices have more, keys have none.
const HARMONIC: f32 = 0.25;

pub struct Detector {
    block: [f32; BLOCK],
    filled: usize,
    /// What the last blocks said, newest last.
    recent: [Option<Found>; TO_START],
    /// The key that is down, and for how many blocks it has not been heard.
    down: Option<u8>,
    misses: u32,
    pressed: VecDeque<Key>,
}

impl Default for Detector {
    fn default() -> Self {
        Self { block: [0.0; BLOCK], filled: 0, recent: [None; TO_START], down: None, misses: 0, pressed: VecDeque::with_capacity(8) }
    }
}

impl Detector {
    /// Takes audio as it comes. What a lost packet held is best left out.
    pub fn push(&mut self, samples: &[i16]) {
        for sample in samples {
            if let Some(slot) = self.block.get_mut(self.filled) {
                *slot = f32::from(*sample);
            }
            self.filled += 1;
            if self.filled == BLOCK {
                let heard = judge(&self.block);
                self.note(heard);
                self.block.copy_within(HOP.., 0);
                self.filled = BLOCK - HOP;
            }
        }
    }

    /// The next press, oldest first.
    pub fn poll(&mut self) -> Option<Key> {
        self.pressed.pop_front()
    }

    /// Whether something like a key sounds just now, told or not.
    pub fn suspects(&self) -> bool {
        self.down.is_some() || self.recent.iter().rev().take(2).any(Option::is_some)
    }

    fn note(&mut self, found: Option<Found>) {
        if let Some(down) = self.down {
            self.misses = if found.is_some_and(|found| found.code == down) { 0 } else { self.misses + 1 };
            if self.misses >= TO_END {
                self.down = None;
            }
        }
        self.recent.rotate_left(1);
        if let Some(newest) = self.recent.last_mut() {
            *newest = found;
        }
        if let Some(code) = self.steady()
            && self.down != Some(code)
        {
            (self.down, self.misses) = (Some(code), 0);
            if self.pressed.len() < 8 {
                self.pressed.extend(Key::from_event(code));
            }
        }
    }

    /// The key of which all recent blocks speak, with one voice.
    fn steady(&self) -> Option<u8> {
        let code = self.recent.last().copied().flatten()?.code;
        let mut means = [0.0f32; 2];
        let mut ranges = [(f32::MAX, 0.0f32); 2];
        for found in self.recent {
            let found = found.filter(|found| found.code == code)?;
            for (i, (off, amplitude)) in found.tones.into_iter().enumerate() {
                means[i] += off / TO_START as f32;
                ranges[i] = (ranges[i].0.min(amplitude), ranges[i].1.max(amplitude));
            }
        }
        let on_pitch = means.iter().all(|off| off.abs() <= OFF_PITCH_MEAN);
        let even = ranges.iter().all(|(weakest, loudest)| *loudest <= UNSTEADY * weakest);
        (on_pitch && even).then_some(code)
    }
}

/// A key in a block.
#[derive(Clone, Copy, Debug)]
struct Found {
    code: u8,
    /// Of row and column: how far off the nominal frequency, as a fraction, and the amplitude.
    tones: [(f32, f32); 2],
}

/// The key that a block sounds like.
fn judge(block: &[f32; BLOCK]) -> Option<Found> {
    let total: f32 = block.iter().map(|x| x * x).sum();
    if total < WEAKEST_PEAK * WEAKEST_PEAK * BLOCK as f32 {
        return None;
    }
    let rows = ROWS.map(|hz| energy(block, hz));
    let columns = COLUMNS.map(|hz| energy(block, hz));
    let (row, column) = (strongest(&rows), strongest(&columns));
    let (low, high) = (*rows.get(row)?, *columns.get(column)?);
    // A cheap first look, which nearly all speech fails: off-pitch tones lose a third here.
    if low + high < 0.45 * total {
        return None;
    }
    let (low_hz, high_hz) = (*ROWS.get(row)?, *COLUMNS.get(column)?);
    // The stronger tone is fitted first and taken away, so that it does not pull the weaker one; then again with what the
    // other is known to be.
    let (first_hz, second_hz) = if low > high { (low_hz, high_hz) } else { (high_hz, low_hz) };
    let mut first = Sine::fit(block, first_hz, first_hz);
    let mut rest = first.taken_from(block);
    let mut second = Sine::fit(&rest, second_hz, second_hz);
    for _ in 0..2 {
        first = Sine::fit(&second.taken_from(block), first.hz, first_hz);
        rest = first.taken_from(block);
        second = Sine::fit(&rest, second.hz, second_hz);
    }
    rest = second.taken_from(&rest);
    let near = |sine: &Sine, nominal_hz: f32| (sine.hz - nominal_hz).abs() <= OFF_PITCH * nominal_hz;
    if !near(&first, first_hz) || !near(&second, second_hz) {
        return None;
    }
    let left: f32 = rest.iter().map(|x| x * x).sum();
    let fits = left <= (1.0 - EXPLAINED) * total;
    let (strong, weak) = (first.amplitude.max(second.amplitude), first.amplitude.min(second.amplitude));
    let loud = weak >= WEAKEST_PEAK && strong <= TWIST * weak;
    let pure = [&first, &second].into_iter().all(|sine| amplitude(energy(&rest, 2.0 * sine.hz)) <= HARMONIC * sine.amplitude);
    if !(fits && loud && pure) {
        return None;
    }
    let (of_row, of_column) = if low > high { (&first, &second) } else { (&second, &first) };
    let tones = [(of_row, low_hz), (of_column, high_hz)].map(|(sine, nominal_hz)| (sine.hz / nominal_hz - 1.0, sine.amplitude));
    Some(Found { code: key_at(row, column)?, tones })
}

fn strongest(energies: &[f32; 4]) -> usize {
    (0..4).max_by(|a, b| energies[*a].total_cmp(&energies[*b])).unwrap_or(0)
}

/// Energy of one frequency in a block, as part of the sum of squares (Goertzel's recursion).
fn energy(block: &[f32; BLOCK], hz: f32) -> f32 {
    let coefficient = 2.0 * (TAU * hz / 8000.0).cos();
    let (mut one, mut two) = (0.0f32, 0.0f32);
    for sample in block {
        (two, one) = (one, sample + coefficient * one - two);
    }
    2.0 / BLOCK as f32 * (one * one + two * two - coefficient * one * two)
}

fn amplitude(energy: f32) -> f32 {
    (2.0 * energy.max(0.0) / BLOCK as f32).sqrt()
}

/// A tone as found in a block.
struct Sine {
    hz: f32,
    amplitude: f32,
    cos: f32,
    sin: f32,
}

impl Sine {
    /// The strongest sine near a guess, at most 3.5 % off the nominal frequency.
    fn fit(block: &[f32; BLOCK], guess_hz: f32, nominal_hz: f32) -> Self {
        /// A quarter of the main lobe, where it is still round.
        const STEP_HZ: f32 = 20.0;
        let [left, middle, right] = [-STEP_HZ, 0.0, STEP_HZ].map(|side| energy(block, guess_hz + side));
        let curve = left - 2.0 * middle + right;
        let shift = if curve < 0.0 { 0.5 * (left - right) / curve } else { (right - left).signum() };
        let hz = (guess_hz + shift.clamp(-1.5, 1.5) * STEP_HZ).clamp(0.965 * nominal_hz, 1.035 * nominal_hz);
        let (turn_sin, turn_cos) = (TAU * hz / 8000.0).sin_cos();
        let (mut c, mut s) = (1.0f32, 0.0f32);
        let (mut cos, mut sin) = (0.0, 0.0);
        for sample in block {
            cos += sample * c;
            sin += sample * s;
            (c, s) = (c * turn_cos - s * turn_sin, s * turn_cos + c * turn_sin);
        }
        let scale = 2.0 / BLOCK as f32;
        let (cos, sin) = (cos * scale, sin * scale);
        Self { hz, amplitude: cos.hypot(sin), cos, sin }
    }

    /// What is left of a block without this sine.
    fn taken_from(&self, block: &[f32; BLOCK]) -> [f32; BLOCK] {
        let (turn_sin, turn_cos) = (TAU * self.hz / 8000.0).sin_cos();
        let (mut c, mut s) = (1.0f32, 0.0f32);
        block.map(|sample| {
            let left = sample - self.cos * c - self.sin * s;
            (c, s) = (c * turn_cos - s * turn_sin, s * turn_cos + c * turn_sin);
            left
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{Dice, Voice};
    use super::*;

    fn heard(samples: impl IntoIterator<Item = i16>) -> String {
        let mut detector = Detector::default();
        let mut keys = String::new();
        for sample in samples {
            detector.push(&[sample]);
            keys.extend(std::iter::from_fn(|| detector.poll()).map(Key::expose));
        }
        keys
    }

    /// How a key is pressed.
    #[derive(Clone, Copy, Debug)]
    struct Press {
        /// Of both tones together.
        dbm0: f32,
        /// High over low.
        twist_db: f32,
        offset: f32,
        on_ms: f32,
        off_ms: f32,
        /// Noise below the key; `None`: none.
        snr_db: Option<f32>,
    }

    const PLAIN: Press = Press { dbm0: -10.0, twist_db: 0.0, offset: 0.0, on_ms: 50.0, off_ms: 50.0, snr_db: None };

    /// Every key some times over, at random moments.
    fn keyed(press: Press, rounds: usize, dice: &mut Dice) -> (String, Vec<i16>) {
        let (mut text, mut samples) = (String::new(), vec![0; 400]);
        // Both tones' powers add up to the level.
        let ratio = 10f32.powf(press.twist_db / 20.0);
        let low = PEAK_0_DBM0 * 10f32.powf(press.dbm0 / 20.0) / (1.0 + ratio * ratio).sqrt();
        let noise = press.snr_db.map_or(0.0, |snr| PEAK_0_DBM0 / 2f32.sqrt() * 10f32.powf((press.dbm0 - snr) / 20.0));
        for code in (0..rounds).flat_map(|_| 0..16u8) {
            text.push(Key::from_event(code).expect("a key").expose());
            let (low_hz, high_hz) = (0..4)
                .flat_map(|r| (0..4).map(move |c| (r, c)))
                .find(|(r, c)| key_at(*r, *c) == Some(code))
                .map(|(r, c)| (ROWS[r], COLUMNS[c]))
                .expect("a place");
            let (p, q) = (dice.between(0.0, TAU), dice.between(0.0, TAU));
            let on = (press.on_ms * 8.0 + dice.between(0.0, 1.0)) as usize;
            for i in 0..on {
                let t = TAU * i as f32 / 8000.0 * (1.0 + press.offset);
                samples.push(
                    (low * ((low_hz * t + p).sin() + ratio * (high_hz * t + q).sin()) + noise * dice.noise()).clamp(-32_768.0, 32_767.0)
                        as i16,
                );
            }
            let off = (press.off_ms * 8.0 + dice.between(0.0, 50.0)) as usize;
            samples.extend((0..off).map(|_| (noise * dice.noise()) as i16));
        }
        samples.extend([0; 400]);
        (text, samples)
    }

    /// Share of keys told right; a key too many counts as badly as one missed.
    fn share(press: Press, rounds: usize, dice: &mut Dice) -> f32 {
        let (text, samples) = keyed(press, rounds, dice);
        let got = heard(samples);
        let (mut wrong, mut rest) = (0, got.as_str());
        for key in text.chars() {
            match rest.find(key).filter(|at| *at < 3) {
                Some(at) => {
                    wrong += at;
                    rest = &rest[at + 1..];
                }
                None => wrong += 1,
            }
        }
        1.0 - (wrong + rest.len()) as f32 / text.len() as f32
    }

    #[test]
    fn keys_are_heard_as_weak_short_crooked_and_noisy_as_they_may_be() {
        let mut dice = Dice(1);
        let mut worst: Vec<(f32, String)> = Vec::new();
        for dbm0 in [0.0, -10.0, -25.0] {
            for twist_db in [-8.0, -4.0, 0.0, 4.0, 8.0] {
                for offset in [-0.015, 0.0, 0.015] {
                    for (on_ms, off_ms) in [(40.0, 40.0), (100.0, 40.0)] {
                        for snr_db in [None, Some(15.0)] {
                            let press = Press { dbm0, twist_db, offset, on_ms, off_ms, snr_db };
                            worst.push((share(press, 2, &mut dice), format!("{press:?}")));
                        }
                    }
                }
            }
        }
        worst.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mean = worst.iter().map(|(share, _)| share).sum::<f32>() / worst.len() as f32;
        println!("mean {mean}, worst {:#?}", &worst[..4]);
        assert!(mean > 0.995 && worst[0].0 >= 0.96, "mean {mean}, worst {:#?}", &worst[..4]);
    }

    #[test]
    fn what_is_no_key_is_not_heard() {
        let mut dice = Dice(2);
        for (story, press) in [
            ("too short", Press { on_ms: 20.0, ..PLAIN }),
            ("off pitch", Press { offset: 0.04, ..PLAIN }),
            ("crooked", Press { twist_db: 14.0, ..PLAIN }),
            ("too weak", Press { dbm0: -45.0, ..PLAIN }),
        ] {
            let (_, samples) = keyed(press, 3, &mut dice);
            assert_eq!(heard(samples), "", "{story}");
        }
    }

    #[test]
    fn a_long_press_with_drop_outs_is_one() {
        let (_, mut samples) = keyed(Press { on_ms: 400.0, ..PLAIN }, 1, &mut Dice(4));
        samples.truncate(400 + 3200);
        // A packet was lost, and left out: the phase jumps.
        samples.drain(1200..1360);
        samples.drain(2200..2360);
        assert_eq!(heard(samples), "0");
    }

    #[test]
    fn ten_minutes_of_speech_hold_no_key() {
        for talker in 0..20 {
            let keys = heard(Voice::new(talker).take(30 * 8000));
            assert_eq!(keys, "", "talker {talker}");
        }
    }
}
