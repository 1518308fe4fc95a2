//! Sample rates: a clip of any usual rate to 8 and 16 kHz once when loaded, and 8 ↔ 16 kHz frame by frame between legs.
//!
//! Both are windowed-sinc filters. [`convert`] allocates; [`Doubler`] and [`Halver`] do not.

use std::f64::consts::PI;

/// Zero crossings of the sinc on each side, at the lower rate.
const CROSSINGS: usize = 24;

/// Converts a whole recording. Rates are in Hz and must not be 0; a rate that is the same already costs a copy.
pub fn convert(samples: &[i16], from_hz: u32, to_hz: u32) -> Vec<i16> {
    if from_hz == to_hz || from_hz == 0 || to_hz == 0 {
        return samples.to_vec();
    }
    let common = gcd(from_hz, to_hz);
    let (up, down) = (u64::from(to_hz / common), u64::from(from_hz / common));
    let filter = Polyphase::new(up, down);
    let count = (samples.len() as u64 * up).div_ceil(down);
    (0..count).map(|at| filter.output(samples, at)).collect()
}

/// One set of taps for each position that an output sample can have between two input samples.
struct Polyphase {
    up: u64,
    down: u64,
    /// Taps on each side of the middle.
    reach: i64,
    taps: Vec<f32>,
}

impl Polyphase {
    fn new(up: u64, down: u64) -> Self {
        // When the rate falls, the filter cuts at the new half rate and is longer by as much.
        let cutoff = (up as f64 / down as f64).min(1.0) * 0.94;
        let reach = (CROSSINGS as f64 / cutoff).ceil() as i64;
        let mut taps = Vec::with_capacity((up as i64 * (2 * reach + 1)) as usize);
        for phase in 0..up {
            let fraction = phase as f64 / up as f64;
            let set: Vec<f64> = (-reach..=reach).map(|k| windowed_sinc(k as f64 - fraction, cutoff, reach as f64 + 1.0)).collect();
            // Each set passes a constant unchanged: no tone at the rate of the phases.
            let sum: f64 = set.iter().sum();
            taps.extend(set.iter().map(|tap| (tap / sum) as f32));
        }
        Self { up, down, reach, taps }
    }

    fn output(&self, samples: &[i16], at: u64) -> i16 {
        let position = at * self.down;
        let (middle, phase) = ((position / self.up) as i64, (position % self.up) as usize);
        let width = (2 * self.reach + 1) as usize;
        let taps = self.taps.get(phase * width..(phase + 1) * width).unwrap_or_default();
        // Outside of the recording is silence: only the taps that lie on samples count.
        let first = middle - self.reach;
        let (mut tap, mut sample) = ((-first).clamp(0, width as i64) as usize, first.max(0) as usize);
        let mut sum = 0.0;
        // By hand: every start makes millions of these, and as iterators they take half a second where the program is built for debugging.
        while tap < taps.len() && sample < samples.len() {
            sum += taps[tap] * samples[sample] as f32;
            tap += 1;
            sample += 1;
        }
        sum.round() as i16
    }
}

fn windowed_sinc(x: f64, cutoff: f64, width: f64) -> f64 {
    let sinc = if x.abs() < 1e-9 { cutoff } else { (PI * cutoff * x).sin() / (PI * x) };
    let w = PI * x / width;
    // Blackman: side lobes below −58 dB, under what G.711 can tell.
    let window = if x.abs() >= width { 0.0 } else { 0.42 + 0.5 * w.cos() + 0.08 * (2.0 * w).cos() };
    sinc * window
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Taps on one side of a half-band filter; every second one is zero but the middle.
const SIDE: usize = 12;
const HISTORY: usize = 4 * SIDE;

/// The non-zero side taps, at distances 1, 3, 5 … from the middle tap of ½.
fn half_band() -> [f32; SIDE] {
    let raw: [f64; SIDE] = std::array::from_fn(|i| windowed_sinc((2 * i + 1) as f64, 0.5, 2.0 * SIDE as f64));
    let sum: f64 = 2.0 * raw.iter().sum::<f64>();
    raw.map(|tap| (tap * 0.5 / sum) as f32)
}

/// 8 → 16 kHz, frame by frame.
pub struct Doubler {
    taps: [f32; SIDE],
    history: [f32; 2 * SIDE],
}

impl Default for Doubler {
    fn default() -> Self {
        Self { taps: half_band(), history: [0.0; 2 * SIDE] }
    }
}

impl Doubler {
    /// Writes two samples for each one; gives how many. Delays by 1.5 ms.
    pub fn run(&mut self, input: &[i16], out: &mut [i16]) -> usize {
        let mut count = 0;
        for (sample, pair) in input.iter().zip(out.chunks_exact_mut(2)) {
            self.history.copy_within(1.., 0);
            self.history[2 * SIDE - 1] = f32::from(*sample);
            // The old samples sit on the filter's middle; those between come from its sides.
            let between: f32 = (0..SIDE).map(|i| self.taps[i] * 2.0 * (self.history[SIDE - 1 - i] + self.history[SIDE + i])).sum();
            pair[0] = self.history[SIDE - 1] as i16;
            pair[1] = between.round() as i16;
            count += 2;
        }
        count
    }
}

/// 16 → 8 kHz, frame by frame.
pub struct Halver {
    taps: [f32; SIDE],
    history: [f32; HISTORY],
}

impl Default for Halver {
    fn default() -> Self {
        Self { taps: half_band(), history: [0.0; HISTORY] }
    }
}

impl Halver {
    /// Writes one sample for each two; gives how many. Delays by 1.5 ms.
    pub fn run(&mut self, input: &[i16], out: &mut [i16]) -> usize {
        let mut count = 0;
        for (pair, out) in input.chunks_exact(2).zip(out) {
            self.history.copy_within(2.., 0);
            self.history[HISTORY - 2] = f32::from(pair[0]);
            self.history[HISTORY - 1] = f32::from(pair[1]);
            let middle = 2 * SIDE - 1;
            let sides: f32 = (0..SIDE).map(|i| self.taps[i] * (self.history[middle - 2 * i - 1] + self.history[middle + 2 * i + 1])).sum();
            *out = (0.5 * self.history[middle] + sides).round() as i16;
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sine(hz: f64, rate: u32, count: usize) -> Vec<i16> {
        (0..count).map(|i| (10_000.0 * (2.0 * PI * hz * i as f64 / f64::from(rate)).sin()).round() as i16).collect()
    }

    /// Level in dB of a tone against a sine of 10,000, and of all else against the tone.
    fn measure(samples: &[i16], hz: f64, rate: u32) -> (f64, f64) {
        let middle = &samples[samples.len() / 8..samples.len() - samples.len() / 8];
        let (mut re, mut im, mut all) = (0.0, 0.0, 0.0);
        for (i, sample) in middle.iter().enumerate() {
            let (angle, sample) = (2.0 * PI * hz * i as f64 / f64::from(rate), f64::from(*sample));
            re += sample * angle.cos();
            im += sample * angle.sin();
            all += sample * sample;
        }
        let n = middle.len() as f64;
        let tone = 2.0 * (re * re + im * im) / n;
        let rest = (all - tone).max(1e-9);
        (10.0 * (tone / n / 5e7).log10(), 10.0 * (rest / tone.max(1e-9)).log10())
    }

    #[test]
    fn tones_keep_their_pitch_and_level_from_every_usual_rate() {
        for from in [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000] {
            for to in [8000, 16000] {
                let out = convert(&sine(1000.0, from, from as usize), from, to);
                assert_eq!(out.len(), to as usize, "{from} → {to}");
                let (level, rest) = measure(&out, 1000.0, to);
                assert!(level.abs() < 0.1 && rest < -50.0, "{from} → {to}: level {level:.2} dB, rest {rest:.1} dB");
            }
        }
    }

    #[test]
    fn what_the_lower_rate_cannot_carry_is_gone() {
        let out = convert(&sine(5500.0, 44100, 44100), 44100, 8000);
        let (level, _) = measure(&out, 2500.0, 8000);
        assert!(level < -50.0, "the alias of 5.5 kHz at {level:.1} dB");
    }

    #[test]
    fn frames_there_and_back() {
        let (mut up, mut down) = (Doubler::default(), Halver::default());
        let mut back = Vec::new();
        for frame in sine(1000.0, 8000, 8000).chunks(160) {
            let (mut wide, mut narrow) = ([0; 320], [0; 160]);
            assert_eq!(up.run(frame, &mut wide), 320);
            assert_eq!(down.run(&wide, &mut narrow), 160);
            back.extend_from_slice(&narrow);
        }
        let (level, rest) = measure(&back, 1000.0, 8000);
        assert!(level.abs() < 0.1 && rest < -45.0, "level {level:.2} dB, rest {rest:.1} dB");
        let mut narrow = vec![0; 8000];
        Halver::default().run(&sine(6000.0, 16000, 16000), &mut narrow);
        assert!(measure(&narrow, 2000.0, 8000).0 < -45.0, "the alias of 6 kHz");
    }
}
