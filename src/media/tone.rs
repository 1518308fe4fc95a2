//! Tones that are computed: what callers hear while they wait, by country, and the sound of keys.

/// The row and the column of each key in Hz, by event code (ITU-T Q.23).
pub fn key_frequencies(code: u8) -> (f32, f32) {
    const ROWS: [f32; 4] = [697.0, 770.0, 852.0, 941.0];
    const COLUMNS: [f32; 4] = [1209.0, 1336.0, 1477.0, 1633.0];
    let (row, column) = match code {
        0 => (3, 1),
        1..=9 => ((code - 1) / 3, (code - 1) % 3),
        10 => (3, 0),
        11 => (3, 2),
        _ => ((code - 12) & 3, 3),
    };
    (ROWS[usize::from(row)], COLUMNS[usize::from(column)])
}

/// Peak of a sine of −9 dBm0: each tone of a key, as phones send them (a sine of 0 dBm0 peaks at 22,300; ITU-T G.711).
const KEY_PEAK: f32 = 7_900.0;

/// One key's sound, frame by frame.
#[derive(Debug)]
pub struct KeyTone {
    steps: (f32, f32),
    phases: (f32, f32),
}

impl KeyTone {
    pub fn new(code: u8, rate_hz: u32) -> Self {
        let (low, high) = key_frequencies(code);
        let step = |hz: f32| std::f32::consts::TAU * hz / rate_hz as f32;
        Self { steps: (step(low), step(high)), phases: (0.0, 0.0) }
    }

    pub fn fill(&mut self, out: &mut [i16]) {
        for sample in out {
            *sample = (KEY_PEAK * (self.phases.0.sin() + self.phases.1.sin())) as i16;
            self.phases.0 = (self.phases.0 + self.steps.0) % std::f32::consts::TAU;
            self.phases.1 = (self.phases.1 + self.steps.1) % std::f32::consts::TAU;
        }
    }
}
