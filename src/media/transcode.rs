//! From one leg's codec to the other's, packet by packet, and how loud it is.
//!
//! Packets keep their length and their time: the far phone's own buffer evens them out.

use super::{
    Codec,
    codec::{Decoder, Encoder, decode_g711},
    resample::{Doubler, Halver},
    session::MAX_PAYLOAD,
};

/// From the bridged session's codec to this one's.
pub(super) struct Transcoder {
    pub(super) decoder: Decoder,
    doubler: Doubler,
    halver: Halver,
}

impl Transcoder {
    pub(super) fn new(from: Codec) -> Self {
        Self { decoder: Decoder::new(from), doubler: Doubler::default(), halver: Halver::default() }
    }

    pub(super) fn run(&mut self, payload: &[u8], encoder: &mut Encoder, out: &mut [u8]) -> usize {
        let (mut decoded, mut other) = ([0i16; 2 * MAX_PAYLOAD], [0i16; 2 * MAX_PAYLOAD]);
        let count = self.decoder.decode(payload, &mut decoded);
        let decoded = decoded.get(..count).unwrap_or_default();
        match (self.decoder.codec().sample_rate(), encoder.codec().sample_rate()) {
            (8_000, 16_000) => {
                let count = self.doubler.run(decoded, &mut other);
                encoder.encode(other.get(..count).unwrap_or_default(), out)
            }
            (16_000, 8_000) => {
                let count = self.halver.run(decoded, &mut other);
                encoder.encode(other.get(..count).unwrap_or_default(), out)
            }
            _ => encoder.encode(decoded, out),
        }
    }
}

/// Loudness of G.711 as it passes by; a table look-up a sample.
#[derive(Default)]
pub(super) struct Level {
    squares: f64,
    count: u32,
    pub(super) dbfs: Option<f32>,
}

impl Level {
    pub(super) fn handle(&mut self, codec: Codec, payload: &[u8]) {
        if codec == Codec::G722 {
            return;
        }
        let squares: i64 = payload.iter().map(|byte| i64::from(decode_g711(codec, *byte)).pow(2)).sum();
        self.add(squares as f64, payload.len() as u32, 8_000);
    }

    pub(super) fn add(&mut self, squares: f64, count: u32, per_second: u32) {
        self.squares += squares;
        self.count += count;
        if self.count >= per_second {
            let rms = (self.squares / f64::from(self.count)).sqrt() / 32_768.0;
            self.dbfs = Some((20.0 * rms.max(1e-5).log10()) as f32);
            (self.squares, self.count) = (0.0, 0);
        }
    }
}
