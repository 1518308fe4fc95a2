//! A voice for tests: pitch pulses and breath through moving formants, the same every time.
//!
//! Not a speech synthesiser: it has the harmonics, formants, pauses and hisses that make a key detector err.

use std::f32::consts::TAU;

/// Random numbers that are the same in each run.
pub struct Dice(pub u64);

impl Dice {
    /// 0 to 1.
    pub fn roll(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.roll()
    }

    /// Roughly Gaussian, mean 0, variance 1.
    pub fn noise(&mut self) -> f32 {
        ((0..12).map(|_| self.roll()).sum::<f32>()) - 6.0
    }
}

/// F1 to F3 of common vowels in Hz, men's and women's (Peterson and Barney 1952), and of nasals.
const VOWELS: [[f32; 3]; 14] = [
    [270.0, 2290.0, 3010.0],
    [390.0, 1990.0, 2550.0],
    [530.0, 1840.0, 2480.0],
    [660.0, 1720.0, 2410.0],
    [730.0, 1090.0, 2440.0],
    [570.0, 840.0, 2410.0],
    [440.0, 1020.0, 2240.0],
    [300.0, 870.0, 2240.0],
    [640.0, 1190.0, 2390.0],
    [490.0, 1350.0, 1690.0],
    [850.0, 1220.0, 2810.0],
    [760.0, 1400.0, 2780.0],
    [860.0, 2050.0, 2850.0],
    [280.0, 1000.0, 2200.0],
];

/// An endless talker, 8 kHz.
pub struct Voice {
    dice: Dice,
    /// Of the whole: a man's 100 Hz, a woman's 200, a child's 300.
    base_hz: f32,
    pitch_hz: f32,
    glide: f32,
    phase: f32,
    voicing: f32,
    gain: f32,
    now: f32,
    left: u32,
    formants: [f32; 3],
    targets: [f32; 3],
    filters: [[f32; 2]; 3],
    last: f32,
}

impl Voice {
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let base_hz = dice.between(85.0, 330.0);
        Self {
            dice,
            base_hz,
            pitch_hz: base_hz,
            glide: 0.0,
            phase: 0.0,
            voicing: 0.0,
            gain: 0.0,
            now: 0.0,
            left: 0,
            formants: VOWELS[0],
            targets: VOWELS[0],
            filters: [[0.0; 2]; 3],
            last: 0.0,
        }
    }

    fn next_sound(&mut self) {
        let kind = self.dice.roll();
        self.left = (8000.0 * self.dice.between(0.05, 0.32)) as u32;
        (self.voicing, self.gain) = match kind {
            k if k < 0.12 => (0.0, 0.0),
            k if k < 0.25 => (0.0, self.dice.between(0.05, 0.3)),
            _ => (self.dice.between(0.85, 1.0), self.dice.between(0.3, 1.0)),
        };
        let vowel = (self.dice.roll() * VOWELS.len() as f32) as usize % VOWELS.len();
        let size = self.dice.between(0.92, 1.12);
        self.targets = VOWELS[vowel].map(|hz| hz * size);
        self.pitch_hz = self.base_hz * self.dice.between(0.8, 1.3);
        // Some vowels are sung, on one pitch: the worst for a key detector.
        self.glide = if self.dice.roll() < 0.3 { 0.0 } else { self.dice.between(-0.00004, 0.00004) };
    }
}

impl Iterator for Voice {
    type Item = i16;

    fn next(&mut self) -> Option<i16> {
        if self.left == 0 {
            self.next_sound();
        }
        self.left -= 1;
        self.pitch_hz *= 1.0 + self.glide;
        self.now += (self.gain - self.now) * 0.003;
        self.phase += self.pitch_hz / 8000.0;
        // A glottal pulse: a rise of 60 % of the period and a sharp fall.
        if self.phase >= 1.0 {
            self.phase -= 1.0;
        }
        let glottis = if self.phase < 0.6 { 0.5 - 0.5 * (TAU * self.phase / 1.2).cos() } else { 0.0 };
        let excitation = self.voicing * (glottis - self.last) * 8.0 + (1.0 - self.voicing) * (self.dice.roll() - 0.5) * 1.5;
        self.last = glottis;
        let mut sample = excitation;
        for i in 0..3 {
            self.formants[i] += (self.targets[i] - self.formants[i]) * 0.002;
            let radius = 1.0 - std::f32::consts::PI * (60.0 + 30.0 * i as f32) / 8000.0;
            let [one, two] = &mut self.filters[i];
            let b = 2.0 * radius * (TAU * self.formants[i] / 8000.0).cos();
            let out = sample * (1.0 - b + radius * radius).abs().max(0.02) + b * *one - radius * radius * *two;
            (*two, *one) = (*one, out);
            sample = out;
        }
        Some((sample * self.now * 24_000.0 + (self.dice.roll() - 0.5) * 60.0).clamp(-32_000.0, 32_000.0) as i16)
    }
}
