//! One press, heard several ways, counts once: telephone-event, sound in the audio, SIP INFO.
//!
//! Each press that was told is remembered for a moment with the ways it came by; the same key by another way within that
//! moment is the same press. The same key by the same way is a new one.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::rtp::Key;

/// How a press was learnt of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Event,
    Inband,
    Signalling,
}

/// INFO may come when the key is released, and be sent again after a lost packet.
const MOMENT: Duration = Duration::from_millis(1500);
const REMEMBERED: usize = 8;

#[derive(Debug, Default)]
pub struct Presses {
    recent: VecDeque<Press>,
}

#[derive(Debug)]
struct Press {
    key: Key,
    at: Instant,
    ways: u8,
}

impl Presses {
    /// Whether this is a press that was not yet told.
    pub fn is_new(&mut self, now: Instant, key: Key, way: Way) -> bool {
        let way = 1 << way as u8;
        self.recent.retain(|press| now.saturating_duration_since(press.at) < MOMENT);
        if let Some(same) = self.recent.iter_mut().find(|press| press.key == key && press.ways & way == 0) {
            same.ways |= way;
            return false;
        }
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(Press { key, at: now, ways: way });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_press_counts_once() {
        use Way::*;
        for (story, script, told) in [
            ("one way", &[(0, '1', Event), (200, '1', Event), (400, '2', Event)][..], "112"),
            ("both ways", &[(0, '1', Event), (50, '1', Inband), (200, '1', Event), (250, '1', Inband)], "11"),
            ("the sound first", &[(0, '7', Inband), (30, '7', Event), (60, '8', Inband), (90, '8', Event)], "78"),
            ("all three ways", &[(0, '5', Event), (40, '5', Inband), (300, '5', Signalling)], "5"),
            ("a sound missed", &[(0, '1', Event), (200, '1', Event), (240, '1', Inband)], "11"),
            ("much later by another way", &[(0, '1', Event), (2000, '1', Inband)], "11"),
        ] {
            let (start, mut presses, mut heard) = (Instant::now(), Presses::default(), String::new());
            for (ms, key, way) in script {
                let key = Key::from_char(*key).expect("a key");
                if presses.is_new(start + Duration::from_millis(*ms), key, *way) {
                    heard.push(key.expose());
                }
            }
            assert_eq!(heard, told, "{story}");
        }
    }
}
