//! What a phone gets to hear: the sound on its wire (tcpdump), decoded and judged.

use std::{f32::consts::TAU, fs, path::PathBuf};

use plugtone::{
    media::{Codec, Sound, codec::Decoder, listen::Listener},
    rtp::Packet,
};

use super::{PATIENCE, SERVER};
use crate::{
    dhcp::{Client, frames},
    netns::{Running, within},
};

/// Ethernet, IPv4 without options, UDP.
const HEADERS: usize = 14 + 20 + 8;
/// The audio ports of the server's default configuration.
const AUDIO: &str = "src portrange 16384-32767";

/// A listener at the phone's socket; hears from when it was made.
pub struct Tap {
    capture: PathBuf,
    _tcpdump: Running,
}

impl Tap {
    pub fn at(phone: &Client) -> Self {
        let capture = phone.path("tap");
        let _ = fs::remove_file(&capture);
        let written = capture.display().to_string();
        let filter = format!("udp and src host {SERVER} and {AUDIO}");
        let tcpdump = phone.namespace.start("tcpdump", &["-i", "eth0", "--immediate-mode", "-U", "-w", &written, &filter]);
        assert!(within(PATIENCE, || capture.metadata().is_ok_and(|file| file.len() >= 24)), "tcpdump listens");
        Self { capture, _tcpdump: tcpdump }
    }

    /// Waits until this sound has reached the phone.
    pub fn hears(&self, sound: Sound) {
        let mut heard = Vec::new();
        let there = within(PATIENCE, || {
            heard = self.heard();
            contains(&heard, sound)
        });
        assert!(there, "{sound:?} did not reach the phone, but {heard:?}");
    }

    /// Has this sound reached the phone so far?
    pub fn has_heard(&self, sound: Sound) -> bool {
        contains(&self.heard(), sound)
    }

    /// But for the last second: what was there before it, the phone behind the wire has heard as well.
    fn heard(&self) -> Vec<Sound> {
        let mut samples = Vec::new();
        for frame in frames(&self.capture) {
            let Some(Ok(packet)) = frame.get(HEADERS..).map(Packet::parse) else { continue };
            let Some(codec) = Codec::of_payload_type(packet.payload_type) else { continue };
            let mut decoded = [0; 2048];
            let count = Decoder::new(codec).decode(packet.payload, &mut decoded);
            samples.extend_from_slice(&decoded[..count]);
        }
        sounds(&samples[..samples.len().saturating_sub(8000)])
    }
}

/// What these samples at 8 kHz sound like, one after the other.
pub fn sounds(samples: &[i16]) -> Vec<Sound> {
    let mut heard = Vec::new();
    let mut listener = Listener::default();
    for second in samples.chunks(8000) {
        listener.push(second);
        heard.extend(std::iter::from_fn(|| listener.poll()).map(|heard| heard.sound));
    }
    heard
}

pub fn contains(heard: &[Sound], sound: Sound) -> bool {
    heard.iter().any(|heard| heard.is_like(sound))
}

/// A tone at 8 kHz.
pub fn tone(hz: f32, secs: u32) -> impl Iterator<Item = i16> {
    // Counted anew each second, where whole numbers of waves meet: the sine keeps its precision.
    (0..secs * 8000).map(move |i| (8000.0 * (TAU * hz * (i % 8000) as f32 / 8000.0).sin()) as i16)
}
