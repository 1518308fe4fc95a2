//! A playout buffer: packets in as the network brings them, out in order and evenly, for those who decode.
//!
//! Its depth follows the jitter: as shallow as the line allows. The reader asks for a packet whenever it needs more audio;
//! what has not come by then is missing. A relay needs none of this: the far phone has a buffer of its own.

use std::time::{Duration, Instant};

use super::{Packet, Reception};

/// Packets that can wait: 640 ms of 20 ms ones.
const SLOTS: usize = 32;
/// The longest payload that is kept.
const MAX_PAYLOAD: usize = 640;
/// Depth in packets, at least and at most.
const DEPTH: (u16, u16) = (1, 16);
/// Packets by which the buffer may be too full for [`PATIENCE`] reads before one is skipped.
const SURPLUS: u16 = 2;
const PATIENCE: u16 = 50;

/// What comes out.
#[derive(Debug, PartialEq, Eq)]
pub enum Pulled<'a> {
    Packet {
        payload_type: u8,
        payload: &'a [u8],
    },
    /// The next packet is lost; later ones are here.
    Missing,
    /// Nothing is here: the sender pauses, or everything is late.
    Empty,
}

/// The buffer of one stream; another SSRC empties it.
pub struct Playout {
    slots: Box<[Slot; SLOTS]>,
    ssrc: Option<u32>,
    /// The sequence number to come out next; `None` until the stream begins.
    next: Option<u16>,
    waiting: u16,
    /// Filling up to the depth, after a start or when it ran empty.
    filling: bool,
    /// Give nothing at the next read, so that the buffer gets deeper by one packet.
    hold: bool,
    surplus: u16,
    figures: Reception,
}

#[derive(Clone, Copy)]
struct Slot {
    sequence: Option<u16>,
    payload_type: u8,
    length: usize,
    payload: [u8; MAX_PAYLOAD],
}

impl Default for Playout {
    fn default() -> Self {
        let empty = Slot { sequence: None, payload_type: 0, length: 0, payload: [0; MAX_PAYLOAD] };
        Self {
            slots: Box::new([empty; SLOTS]),
            ssrc: None,
            next: None,
            waiting: 0,
            filling: true,
            hold: false,
            surplus: 0,
            figures: Reception::default(),
        }
    }
}

impl Playout {
    /// Keeps a packet until its turn. One that comes too late or twice is dropped.
    pub fn push(&mut self, now: Instant, packet: &Packet<'_>) {
        self.figures.handle_packet(now, packet.ssrc, packet.sequence, packet.timestamp);
        let ahead = self.next.map_or(0, |next| packet.sequence.wrapping_sub(next) as i16);
        if self.ssrc != Some(packet.ssrc) || ahead.unsigned_abs() >= 200 {
            self.restart(packet);
        } else if ahead < 0 && self.filling && self.waiting > 0 && -ahead < SLOTS as i16 / 2 {
            // The first packets came in the wrong order, and none has been played yet.
            self.next = Some(packet.sequence);
        } else if ahead < 0 {
            // Too late by a little: from here on wait for one packet's time longer, if the jitter says so.
            self.hold |= self.waiting < self.depth();
            return;
        }
        while self.next.is_some_and(|next| packet.sequence.wrapping_sub(next) as usize >= SLOTS) {
            self.drop_next();
        }
        let Some(slot) = self.slots.get_mut(usize::from(packet.sequence) % SLOTS) else { return };
        let Some(room) = slot.payload.get_mut(..packet.payload.len()) else { return };
        if slot.sequence.is_none() {
            room.copy_from_slice(packet.payload);
            (slot.sequence, slot.payload_type, slot.length) = (Some(packet.sequence), packet.payload_type, packet.payload.len());
            self.waiting += 1;
        }
    }

    /// The next packet, when one more is needed.
    pub fn pull(&mut self) -> Pulled<'_> {
        let Some(next) = self.next else { return Pulled::Empty };
        if self.filling && self.waiting < self.depth() || std::mem::take(&mut self.hold) {
            return Pulled::Empty;
        }
        self.filling = self.waiting == 0;
        if self.filling {
            return Pulled::Empty;
        }
        self.surplus = if self.waiting > self.depth() + SURPLUS { self.surplus + 1 } else { 0 };
        if self.surplus > PATIENCE {
            self.surplus = 0;
            self.drop_next();
            return self.pull();
        }
        self.next = Some(next.wrapping_add(1));
        let slot = self.slots.get_mut(usize::from(next) % SLOTS).filter(|slot| slot.sequence == Some(next));
        let Some(slot) = slot else { return Pulled::Missing };
        slot.sequence = None;
        self.waiting -= 1;
        Pulled::Packet { payload_type: slot.payload_type, payload: slot.payload.get(..slot.length).unwrap_or_default() }
    }

    /// Packets to have in hand: enough for three times the mean deviation.
    fn depth(&self) -> u16 {
        let packets = self.figures.jitter() * 3 / 20;
        let packets = packets.as_micros().div_ceil(Duration::from_millis(1).as_micros()) as u16;
        (1 + packets).clamp(DEPTH.0, DEPTH.1)
    }

    fn restart(&mut self, packet: &Packet<'_>) {
        self.slots.iter_mut().for_each(|slot| slot.sequence = None);
        (self.ssrc, self.next) = (Some(packet.ssrc), Some(packet.sequence));
        (self.waiting, self.filling, self.surplus) = (0, true, 0);
    }

    fn drop_next(&mut self) {
        let Some(next) = self.next else { return };
        self.next = Some(next.wrapping_add(1));
        if let Some(slot) = self.slots.get_mut(usize::from(next) % SLOTS)
            && slot.sequence.take().is_some()
        {
            self.waiting -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn push(playout: &mut Playout, at: Instant, sequence: u16) {
        let payload = sequence.to_be_bytes();
        playout.push(
            at,
            &Packet { payload_type: 0, marker: false, sequence, timestamp: u32::from(sequence) * 160, ssrc: 1, payload: &payload },
        );
    }

    /// Packets arrive at (ms, sequence); one is read each 20 ms. Digits are packets, `-` missing, `.` empty.
    fn story(arrivals: &[(u64, u16)], ticks: u64) -> String {
        let (start, mut playout, mut out) = (Instant::now(), Playout::default(), String::new());
        let mut arrivals = arrivals.iter().peekable();
        for tick in 0..ticks {
            while let Some((ms, sequence)) = arrivals.next_if(|(ms, _)| *ms <= tick * 20) {
                push(&mut playout, start + Duration::from_millis(*ms), *sequence);
            }
            out.push(match playout.pull() {
                Pulled::Packet { payload, .. } => char::from(b'0' + payload[1] % 10),
                Pulled::Missing => '-',
                Pulled::Empty => '.',
            });
        }
        out
    }

    #[test]
    fn order_loss_repetition_and_pauses() {
        for (story_name, arrivals, expected) in [
            ("even", &[(0, 1), (20, 2), (40, 3)][..], "123.."),
            ("swapped", &[(0, 1), (20, 3), (20, 2), (40, 4)], "1234."),
            ("lost", &[(0, 1), (20, 2), (60, 4), (80, 5)], "12.-4"),
            ("twice", &[(0, 1), (1, 1), (20, 2), (21, 2), (40, 3)], "123.."),
            ("a restart", &[(0, 1), (20, 2), (40, 30_007), (60, 30_008)], "1256."),
        ] {
            let got = story(arrivals, 5);
            // How long a gap is waited for depends on the depth; the order does not.
            let packets = |text: &str| text.replace(['.', '-'], "");
            assert_eq!(packets(&got), packets(expected), "{story_name}: {got}");
        }
    }

    #[test]
    fn a_jittery_line_gets_a_deeper_buffer_and_few_gaps() {
        let arrivals: Vec<(u64, u16)> = (0..500u16).map(|i| (u64::from(i) * 20 + [0, 35, 10, 50, 5][usize::from(i) % 5], i)).collect();
        let mut sorted = arrivals.clone();
        sorted.sort();
        let out = story(&sorted, 500);
        let tail = &out[100..];
        assert!(tail.matches(['.', '-']).count() <= 4, "{out}");
    }

    #[test]
    fn a_buffer_that_is_too_full_shrinks() {
        let mut arrivals: Vec<(u64, u16)> = (0..10).map(|i| (0, i)).collect();
        arrivals.extend((10..400u16).map(|i| (u64::from(i - 9) * 20, i)));
        let (start, mut playout) = (Instant::now(), Playout::default());
        let mut arrivals = arrivals.into_iter().peekable();
        for tick in 0..390u64 {
            while let Some((ms, sequence)) = arrivals.next_if(|(ms, _)| *ms <= tick * 20) {
                push(&mut playout, start + Duration::from_millis(ms), sequence);
            }
            playout.pull();
        }
        assert!(playout.waiting <= playout.depth() + SURPLUS + 2, "{} of {}", playout.waiting, playout.depth());
    }

    proptest! {
        #[test]
        fn what_comes_out_is_in_order_and_in_hand(numbers in proptest::collection::vec(any::<u16>(), 1..200)) {
            let (start, mut playout) = (Instant::now(), Playout::default());
            for (i, number) in numbers.iter().enumerate() {
                push(&mut playout, start + Duration::from_millis(i as u64 * 7), *number);
                prop_assert!(usize::from(playout.waiting) == playout.slots.iter().filter(|slot| slot.sequence.is_some()).count());
                if i % 3 == 0 {
                    playout.pull();
                }
            }
        }
    }
}
