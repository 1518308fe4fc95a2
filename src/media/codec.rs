//! What audio looks like on the wire: G.711 µ-law and A-law with tables of our own, G.722 by `audio-codec`.
//!
//! Encoders and decoders keep what state their codec has and never allocate once made. Not here: payload types agreed in
//! SDP beyond the static ones, packets, clocks.

use audio_codec::{
    Decoder as _, Encoder as _,
    g722::{G722Decoder, G722Encoder},
};

/// The codecs that a leg can speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// G.711 µ-law.
    Pcmu,
    /// G.711 A-law.
    Pcma,
    /// 64 kbit/s, 16 kHz audio.
    G722,
}

impl Codec {
    pub const ALL: [Self; 3] = [Self::Pcmu, Self::Pcma, Self::G722];

    /// The static type (RFC 3551 §6).
    pub fn payload_type(self) -> u8 {
        match self {
            Self::Pcmu => 0,
            Self::Pcma => 8,
            Self::G722 => 9,
        }
    }

    pub fn of_payload_type(payload_type: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.payload_type() == payload_type)
    }

    /// As SDP's `rtpmap` writes it; the clock is 8000 for all three (RFC 3551 §4.5.2).
    pub fn name(self) -> &'static str {
        match self {
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
            Self::G722 => "G722",
        }
    }

    /// By its name in SDP, in any case.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name().eq_ignore_ascii_case(name))
    }

    /// Samples per second of the audio itself: 16000 for G.722.
    pub fn sample_rate(self) -> u32 {
        if self == Self::G722 { 16_000 } else { 8_000 }
    }

    /// Samples in 20 ms.
    pub fn frame_samples(self) -> usize {
        self.sample_rate() as usize / 50
    }
}

/// Samples to bytes.
pub enum Encoder {
    Pcmu,
    Pcma,
    G722(Box<G722Encoder>),
}

impl Encoder {
    pub fn new(codec: Codec) -> Self {
        match codec {
            Codec::Pcmu => Self::Pcmu,
            Codec::Pcma => Self::Pcma,
            Codec::G722 => Self::G722(Box::new(G722Encoder::new())),
        }
    }

    pub fn codec(&self) -> Codec {
        match self {
            Self::Pcmu => Codec::Pcmu,
            Self::Pcma => Codec::Pcma,
            Self::G722(_) => Codec::G722,
        }
    }

    /// Encodes samples of the codec's own rate; gives the length. What does not fit into `out` is left out.
    pub fn encode(&mut self, samples: &[i16], out: &mut [u8]) -> usize {
        match self {
            Self::Pcmu => map_into(samples, out, encode_ulaw),
            Self::Pcma => map_into(samples, out, encode_alaw),
            Self::G722(encoder) => {
                let fits = samples.len().min(out.len().saturating_sub(1) * 2) & !1;
                encoder.encode_into(samples.get(..fits).unwrap_or_default(), out).unwrap_or(0)
            }
        }
    }
}

/// Bytes to samples.
pub enum Decoder {
    Pcmu,
    Pcma,
    G722(Box<G722Decoder>),
}

impl Decoder {
    pub fn new(codec: Codec) -> Self {
        match codec {
            Codec::Pcmu => Self::Pcmu,
            Codec::Pcma => Self::Pcma,
            Codec::G722 => Self::G722(Box::new(G722Decoder::new())),
        }
    }

    pub fn codec(&self) -> Codec {
        match self {
            Self::Pcmu => Codec::Pcmu,
            Self::Pcma => Codec::Pcma,
            Self::G722(_) => Codec::G722,
        }
    }

    /// Decodes to samples of the codec's own rate; gives how many. What does not fit into `out` is left out.
    pub fn decode(&mut self, bytes: &[u8], out: &mut [i16]) -> usize {
        match self {
            Self::Pcmu => map_into(bytes, out, |byte| ULAW[usize::from(byte)]),
            Self::Pcma => map_into(bytes, out, |byte| ALAW[usize::from(byte)]),
            Self::G722(decoder) => {
                let fits = bytes.len().min(out.len() / 2);
                decoder.decode_into(bytes.get(..fits).unwrap_or_default(), out).unwrap_or(0)
            }
        }
    }
}

fn map_into<A: Copy, B>(from: &[A], to: &mut [B], convert: impl Fn(A) -> B) -> usize {
    let count = from.len().min(to.len());
    to.iter_mut().zip(from).for_each(|(to, from)| *to = convert(*from));
    count
}

/// A byte of µ-law or A-law as a sample, without state.
pub fn decode_g711(codec: Codec, byte: u8) -> i16 {
    if codec == Codec::Pcma { ALAW[usize::from(byte)] } else { ULAW[usize::from(byte)] }
}

macro_rules! table {
    ($decode:ident) => {{
        let mut table = [0i16; 256];
        let mut byte = 0;
        while byte < 256 {
            table[byte] = $decode(byte as u8);
            byte += 1;
        }
        table
    }};
}

static ULAW: [i16; 256] = table!(decode_ulaw);
static ALAW: [i16; 256] = table!(decode_alaw);

/// Added to the magnitude so that each segment starts at a power of two (G.711 table 2a, in 14 bits: 33).
const ULAW_BIAS: i32 = 33 << 2;
/// The largest magnitude µ-law can tell.
const ULAW_CLIP: i32 = 8158 << 2;

const fn decode_ulaw(byte: u8) -> i16 {
    let byte = !byte;
    let magnitude = ((((byte & 0x0f) as i32) << 3) + ULAW_BIAS) << ((byte >> 4) & 7);
    let value = magnitude - ULAW_BIAS;
    (if byte & 0x80 != 0 { -value } else { value }) as i16
}

fn encode_ulaw(sample: i16) -> u8 {
    let magnitude = i32::from(sample).abs().min(ULAW_CLIP) + ULAW_BIAS;
    // The segment is the place of the highest bit, which the bias puts at 7 at least.
    let segment = (24 - magnitude.leading_zeros() as i32).clamp(0, 7);
    let step = (magnitude >> (segment + 3)) & 0x0f;
    let sign = if sample < 0 { 0x80 } else { 0 };
    !(sign | (segment << 4 | step) as u8)
}

const fn decode_alaw(byte: u8) -> i16 {
    let byte = byte ^ 0x55;
    let step = ((byte & 0x0f) as i32) << 4;
    let segment = (byte >> 4) & 7;
    let value = match segment {
        0 => step + 8,
        _ => (step + 0x108) << (segment - 1),
    };
    (if byte & 0x80 != 0 { value } else { -value }) as i16
}

fn encode_alaw(sample: i16) -> u8 {
    // A-law has no zero: −1 … −16 share the code that lies below it, hence the complement.
    let (sign, magnitude) = if sample >= 0 { (0x80, i32::from(sample)) } else { (0, i32::from(!sample)) };
    let segment = (24 - (magnitude | 0xff).leading_zeros() as i32).clamp(0, 7);
    let step = (magnitude >> segment.max(1).saturating_add(3)) & 0x0f;
    (sign | (segment << 4 | step) as u8) ^ 0x55
}

#[cfg(test)]
mod tests {
    use audio_codec::{pcma, pcmu};

    use super::*;

    #[test]
    fn g711_is_the_one_of_everybody_else() {
        let all: Vec<u8> = (0..=255).collect();
        let mut ours = [0; 256];
        Decoder::new(Codec::Pcmu).decode(&all, &mut ours);
        assert_eq!(pcmu::PcmuDecoder::new().decode(&all), ours);
        Decoder::new(Codec::Pcma).decode(&all, &mut ours);
        assert_eq!(pcma::PcmaDecoder::new().decode(&all), ours);
    }

    #[test]
    fn every_sample_becomes_the_nearest_code() {
        for codec in [Codec::Pcmu, Codec::Pcma] {
            for sample in i16::MIN..=i16::MAX {
                let mut byte = [0];
                Encoder::new(codec).encode(&[sample], &mut byte);
                let error = (i32::from(decode_g711(codec, byte[0])) - i32::from(sample)).abs();
                // Half a step of the segment: 1/32 of the magnitude, and what clipping takes at the top.
                assert!(
                    error <= (i32::from(sample).abs() + 132) / 32 + 4 || error <= 644 && sample.unsigned_abs() > 32_124,
                    "{codec:?} {sample}: {error}"
                );
            }
            for code in 0..=255u8 {
                let mut byte = [0];
                Encoder::new(codec).encode(&[decode_g711(codec, code)], &mut byte);
                // µ-law has two zeros; ours sends the positive one.
                assert!(byte[0] == code || codec == Codec::Pcmu && code == 0x7f, "{codec:?} {code:#x} {:#x}", byte[0]);
            }
        }
    }

    #[test]
    fn g722_carries_a_tone() {
        let (mut encoder, mut decoder) = (Encoder::new(Codec::G722), Decoder::new(Codec::G722));
        let sine: Vec<i16> = (0..3200).map(|i| (8000.0 * (i as f32 * 0.4).sin()) as i16).collect();
        let mut back = Vec::new();
        for frame in sine.chunks(320) {
            let (mut bytes, mut samples) = ([0; 200], [0; 400]);
            let length = encoder.encode(frame, &mut bytes);
            assert_eq!(length, 160);
            let count = decoder.decode(&bytes[..length], &mut samples);
            back.extend_from_slice(&samples[..count]);
        }
        assert_eq!(back.len(), sine.len());
        // The two filter banks delay by 22 samples (ITU-T G.722, 6.2.1).
        let error: f64 = (500..3100).map(|i| f64::from(i32::from(back[i + 22]) - i32::from(sine[i])).powi(2)).sum();
        let power: f64 = (500..3100).map(|i| f64::from(sine[i]).powi(2)).sum();
        assert!(power / error > 100.0, "SNR {:.1} dB", 10.0 * (power / error).log10());
    }
}
