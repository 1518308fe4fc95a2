//! What a session says of its own, frame by frame: clips without a gap between them, and keys as sound.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{Clip, PlaybackId, session::TICK, tone::KeyTone};
use crate::rtp::{Key, telephone_event};

/// Clips one after the other.
pub(super) struct Playback {
    pub(super) id: PlaybackId,
    clips: Vec<Arc<Clip>>,
    repeat: bool,
    clip: usize,
    /// Within the clip, in samples of 16 kHz, so that a codec may change in the middle.
    offset: usize,
}

impl Playback {
    pub(super) fn new(id: PlaybackId, clips: Vec<Arc<Clip>>, repeat: bool) -> Self {
        // Repeating nothing would never give a sample.
        let repeat = repeat && clips.iter().any(|clip| !clip.samples(8_000).is_empty());
        Self { id, clips, repeat, clip: 0, offset: 0 }
    }

    /// Fills a frame, with silence after the end; true when that was the end.
    pub(super) fn fill(&mut self, rate_hz: u32, out: &mut [i16]) -> bool {
        let scale = if rate_hz == 16_000 { 1 } else { 2 };
        let mut room = out.iter_mut().peekable();
        while room.peek().is_some() {
            let Some(clip) = self.clips.get(self.clip) else {
                if !self.repeat {
                    break;
                }
                (self.clip, self.offset) = (0, 0);
                continue;
            };
            let samples = clip.samples(rate_hz).get(self.offset / scale..).unwrap_or_default();
            if samples.is_empty() {
                (self.clip, self.offset) = (self.clip + 1, 0);
                continue;
            }
            for sample in samples {
                let Some(slot) = room.next() else { break };
                *slot = *sample;
                self.offset += scale;
            }
        }
        room.for_each(|slot| *slot = 0);
        !self.repeat
            && self.clips.iter().skip(self.clip + 1).all(|clip| clip.samples(rate_hz).is_empty())
            && self.clips.get(self.clip).is_none_or(|clip| self.offset / scale >= clip.samples(rate_hz).len())
    }
}

/// Keys as sound, for a far end that knows no telephone-events.
#[derive(Default)]
pub(super) struct KeyTones {
    tone: Option<(KeyTone, Duration)>,
    gap: Duration,
}

impl KeyTones {
    pub(super) fn is_idle(&self) -> bool {
        self.tone.is_none() && self.gap.is_zero()
    }

    /// Fills one frame if a key sounds or has just done so.
    pub(super) fn fill(&mut self, keys: &mut VecDeque<Key>, rate_hz: u32, out: &mut [i16]) -> bool {
        if self.is_idle() {
            self.tone = keys.pop_front().map(|key| (KeyTone::new(key.event(), rate_hz), telephone_event::PRESS));
        }
        if let Some((tone, left)) = &mut self.tone {
            tone.fill(out);
            *left = left.saturating_sub(TICK);
            if left.is_zero() {
                (self.tone, self.gap) = (None, telephone_event::GAP);
            }
            return true;
        }
        let gap = !self.gap.is_zero();
        self.gap = self.gap.saturating_sub(TICK);
        gap
    }
}
