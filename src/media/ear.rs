//! Listens to one leg where somebody wants to know what is said: playout buffer, decoder, key detector, listener, recorder.
//!
//! Fed with packets and the 20 ms tick. A session has one only while it was asked to recognise keys by sound or to tell
//! what it hears: a relay needs to decode nothing.

use std::time::Instant;

use super::{
    Codec, Heard,
    codec::Decoder,
    goertzel::Detector,
    listen::{Listener, Sound},
    recorder::Recorder,
    resample::Halver,
    session::MAX_PAYLOAD,
};
use crate::rtp::{
    Key, Packet,
    jitter::{Playout, Pulled},
};

/// Samples of a tick at 8 kHz.
const FRAME: usize = 160;
/// Decoded samples that wait: the longest packet and what was left over.
const ROOM: usize = MAX_PAYLOAD + FRAME;
/// So many ticks with nothing are a late packet or two; after that it is silence.
const PAUSE: u32 = 3;

pub struct Ear {
    pub detector: Option<Detector>,
    pub listener: Option<Listener>,
    pub recorder: Option<Recorder>,
    playout: Playout,
    decoder: Decoder,
    halver: Halver,
    samples: Box<[i16; ROOM]>,
    filled: usize,
    /// Ticks without a packet.
    empty: u32,
}

impl Default for Ear {
    fn default() -> Self {
        Self {
            detector: None,
            listener: None,
            recorder: None,
            playout: Playout::default(),
            decoder: Decoder::new(Codec::Pcmu),
            halver: Halver::default(),
            samples: Box::new([0; ROOM]),
            filled: 0,
            empty: PAUSE,
        }
    }
}

impl Ear {
    /// Takes a packet of the believed source: audio, or a telephone-event, which takes its place in the order.
    pub fn handle_packet(&mut self, now: Instant, packet: &Packet<'_>) {
        self.playout.push(now, packet);
    }

    /// 20 ms have passed. Ask for keys and sounds afterwards.
    pub fn handle_tick(&mut self) {
        // A packet of 10 ms does not fill the tick: two of them do.
        for _ in 0..4 {
            if self.filled >= FRAME {
                break;
            }
            match self.playout.pull() {
                Pulled::Packet { payload_type, payload } => {
                    self.empty = 0;
                    let room = self.samples.get_mut(self.filled..).unwrap_or_default();
                    self.filled += match Codec::of_payload_type(payload_type) {
                        Some(codec) => decode(&mut self.decoder, &mut self.halver, codec, payload, room),
                        // A telephone-event stands beside the audio or in its place, and has no sound of its own.
                        None => 0,
                    };
                }
                // What is lost is left out: a tone goes on behind it, and the detector knows about seams.
                Pulled::Missing => {}
                Pulled::Empty => {
                    self.empty = self.empty.saturating_add(1);
                    if self.empty > PAUSE {
                        self.filled += silence(self.samples.get_mut(self.filled..).unwrap_or_default(), FRAME);
                    }
                    break;
                }
            }
        }
        let frame = self.samples.get(..self.filled.min(FRAME)).unwrap_or_default();
        if let Some(detector) = &mut self.detector {
            detector.push(frame);
        }
        if let Some(listener) = &mut self.listener {
            listener.push(frame);
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.push(frame);
        }
        let used = frame.len();
        self.samples.copy_within(used..self.filled, 0);
        self.filled -= used;
    }

    /// The next key that was heard.
    pub fn poll_key(&mut self) -> Option<Key> {
        self.detector.as_mut()?.poll()
    }

    /// The next sound that began.
    pub fn poll_heard(&mut self) -> Option<Heard> {
        self.listener.as_mut()?.poll()
    }

    /// What sounds now, if somebody listens.
    pub fn current(&self) -> Option<Sound> {
        self.listener.as_ref()?.current()
    }

    /// Whether a key may be sounding that was not told yet.
    pub fn suspects_key(&self) -> bool {
        self.detector.as_ref().is_some_and(Detector::suspects)
    }
}

fn silence(room: &mut [i16], count: usize) -> usize {
    let room = room.iter_mut().take(count);
    let count = room.len();
    room.for_each(|sample| *sample = 0);
    count
}

/// Decodes to 8 kHz; gives how many samples.
fn decode(decoder: &mut Decoder, halver: &mut Halver, codec: Codec, payload: &[u8], room: &mut [i16]) -> usize {
    if decoder.codec() != codec {
        *decoder = Decoder::new(codec);
    }
    if codec.sample_rate() == 8_000 {
        return decoder.decode(payload, room);
    }
    let mut wide = [0i16; 2 * MAX_PAYLOAD];
    let count = decoder.decode(payload, &mut wide);
    halver.run(wide.get(..count).unwrap_or_default(), room)
}
