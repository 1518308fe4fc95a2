//! Key presses as RTP events (RFC 4733): a receiver that tells each press once, and a sender with the right spacing.
//!
//! The receiver knows a press by its timestamp, which all packets of one press share (§2.3.1): so any of start, update and
//! end packets may be lost, repeated or late. The sender is driven by the 20 ms tick. Missing of the standard: several
//! events in one packet (§2.5.1.5), tones (telephone-events 16 and up are skipped), RFC 2198 redundancy.

use std::{collections::VecDeque, fmt, time::Duration};

/// A key of a phone: `0`–`9`, `*`, `#`, `A`–`D`. It may be part of a PIN: `Debug` does not tell which.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key(u8);

const KEYS: &[u8; 16] = b"0123456789*#ABCD";

impl Key {
    /// Reads a key as written; `a`–`d` too.
    pub fn from_char(key: char) -> Option<Self> {
        let key = key.to_ascii_uppercase();
        KEYS.iter().position(|k| char::from(*k) == key).map(|code| Self(code as u8))
    }

    /// By event code (RFC 4733 §3.2, table 3); `None` above 15.
    pub fn from_event(code: u8) -> Option<Self> {
        (code < 16).then_some(Self(code))
    }

    /// 0–15, as on the wire.
    pub fn event(self) -> u8 {
        self.0
    }

    /// The key itself. Call it where it is collected, and nowhere else.
    pub fn expose(self) -> char {
        char::from(KEYS[usize::from(self.0 & 15)])
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// The four bytes of a named event (RFC 4733 §2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub code: u8,
    pub end: bool,
    /// Attenuation: −dBm0, 0–63.
    pub volume: u8,
    /// Since the press began, in timestamp units.
    pub duration: u16,
}

impl Event {
    /// The first event of a payload.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let [code, flags, high, low] = *payload.first_chunk::<4>()?;
        Some(Self { code, end: flags & 0x80 != 0, volume: flags & 0x3f, duration: u16::from_be_bytes([high, low]) })
    }

    pub fn bytes(self) -> [u8; 4] {
        let [high, low] = self.duration.to_be_bytes();
        [self.code, u8::from(self.end) << 7 | self.volume & 0x3f, high, low]
    }
}

/// How many presses are remembered, so that their late packets are not taken for new ones.
const REMEMBERED: usize = 16;
/// A press first heard of this much after a newer one still counts; older is a stray. In timestamp units: 2 s.
const LATE_LIMIT: u32 = 16_000;

/// Turns the events of one source into presses, each once and at its first packet.
#[derive(Clone, Debug, Default)]
pub struct Receiver {
    ssrc: Option<u32>,
    /// Timestamps of the last presses, newest overwriting oldest.
    known: VecDeque<u32>,
    newest: Option<Press>,
}

#[derive(Clone, Copy, Debug)]
struct Press {
    timestamp: u32,
    code: u8,
    ended: bool,
    duration: u16,
}

impl Receiver {
    /// Takes a packet of the agreed payload type; gives the key when this press was not yet told.
    pub fn handle_packet(&mut self, ssrc: u32, timestamp: u32, payload: &[u8]) -> Option<Key> {
        let event = Event::parse(payload)?;
        let key = Key::from_event(event.code)?;
        if self.ssrc != Some(ssrc) {
            *self = Self { ssrc: Some(ssrc), ..Self::default() };
        }
        if self.known.contains(&timestamp) {
            if let Some(press) = self.newest.as_mut().filter(|press| press.timestamp == timestamp) {
                press.ended |= event.end;
                press.duration = press.duration.max(event.duration);
            }
            return None;
        }
        let age = self.newest.map_or(0, |press| press.timestamp.wrapping_sub(timestamp) as i32);
        if age > LATE_LIMIT as i32 {
            return None;
        }
        if self.known.len() == REMEMBERED {
            self.known.pop_front();
        }
        self.known.push_back(timestamp);
        let continues = self.newest.is_some_and(|press| press.is_continued_by(timestamp, &event));
        if age <= 0 {
            self.newest = Some(Press { timestamp, code: event.code, ended: event.end, duration: event.duration });
        }
        (!continues).then_some(key)
    }
}

impl Press {
    /// A press of more than 8.19 s goes on in a segment of its own (RFC 4733 §2.5.1.3): the next timestamp is where the
    /// longest duration that fits ended.
    fn is_continued_by(&self, timestamp: u32, event: &Event) -> bool {
        self.code == event.code && !self.ended && self.duration > 0xff00 && timestamp.wrapping_sub(self.timestamp) <= 0xffff
    }
}

/// How long each key is held. Longer than the 40 ms that detectors need (ITU-T Q.24), so that a lost packet does not matter.
pub const PRESS: Duration = Duration::from_millis(100);
/// From the end of one press to the start of the next.
pub const GAP: Duration = Duration::from_millis(80);
/// Keys that may wait; more are dropped (a caller's whole card number fits).
pub const QUEUE: usize = 64;
/// The last packet is sent three times (RFC 4733 §2.5.1.4).
const END_PACKETS: u8 = 3;
/// −dBm0: what phones commonly write.
const VOLUME: u8 = 10;

/// What to send in this tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub marker: bool,
    /// Of the press's beginning.
    pub timestamp: u32,
    pub payload: [u8; 4],
}

/// Sends keys one after the other. Tick it every 20 ms.
#[derive(Debug, Default)]
pub struct Sender {
    queue: VecDeque<Key>,
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    Pressed {
        key: Key,
        since: u32,
        /// In timestamp units.
        held: u16,
    },
    /// Repeats the end.
    Released {
        key: Key,
        since: u32,
        held: u16,
        left: u8,
        /// Ticks since the release.
        ticks: u32,
    },
    Gap {
        ticks: u32,
    },
}

const TICK_MS: u128 = 20;
const TICK_UNITS: u16 = 160;

impl Sender {
    /// Adds a key; false when too many wait.
    pub fn push(&mut self, key: Key) -> bool {
        let fits = self.queue.len() < QUEUE;
        if fits {
            self.queue.push_back(key);
        }
        fits
    }

    /// Whether nothing is pressed and nothing waits.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && matches!(self.state, State::Idle)
    }

    /// One tick: `timestamp` is what audio sent now would bear. `None` leaves the tick to audio.
    pub fn handle_tick(&mut self, timestamp: u32) -> Option<Outgoing> {
        let gap_ticks = (GAP.as_millis() / TICK_MS) as u32;
        match self.state {
            State::Gap { ticks } if ticks <= gap_ticks => {
                self.state = State::Gap { ticks: ticks + 1 };
                None
            }
            State::Idle | State::Gap { .. } => {
                let Some(key) = self.queue.pop_front() else {
                    self.state = State::Idle;
                    return None;
                };
                self.state = State::Pressed { key, since: timestamp, held: TICK_UNITS };
                Some(outgoing(key, timestamp, TICK_UNITS, true, false))
            }
            State::Pressed { key, since, held } => {
                let held = held + TICK_UNITS;
                let ended = u128::from(held) * TICK_MS / u128::from(TICK_UNITS) >= PRESS.as_millis();
                self.state = match ended {
                    true => State::Released { key, since, held, left: END_PACKETS - 1, ticks: 1 },
                    false => State::Pressed { key, since, held },
                };
                Some(outgoing(key, since, held, false, ended))
            }
            State::Released { key, since, held, left, ticks } => {
                self.state = match left {
                    0 | 1 => State::Gap { ticks: ticks + 1 },
                    _ => State::Released { key, since, held, left: left - 1, ticks: ticks + 1 },
                };
                Some(outgoing(key, since, held, false, true))
            }
        }
    }
}

fn outgoing(key: Key, timestamp: u32, duration: u16, marker: bool, end: bool) -> Outgoing {
    Outgoing { marker, timestamp, payload: Event { code: key.event(), end, volume: VOLUME, duration }.bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys_of(packets: &[(u32, Outgoing)]) -> String {
        let mut receiver = Receiver::default();
        packets
            .iter()
            .filter_map(|(ssrc, packet)| receiver.handle_packet(*ssrc, packet.timestamp, &packet.payload))
            .map(Key::expose)
            .collect()
    }

    /// All packets of a text keyed in, from some timestamp near the wrap.
    fn keyed(text: &str) -> Vec<(u32, Outgoing)> {
        let mut sender = Sender::default();
        assert!(text.chars().all(|key| sender.push(Key::from_char(key).expect("a key"))));
        let mut timestamp = 0u32.wrapping_sub(3000);
        let mut packets = Vec::new();
        while !sender.is_idle() {
            packets.extend(sender.handle_tick(timestamp).map(|packet| (1, packet)));
            timestamp = timestamp.wrapping_add(160);
        }
        packets
    }

    /// xorshift: the tests want the same luck every time.
    fn dice(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn a_press_is_sent_as_the_standard_says() {
        let packets: Vec<_> = keyed("5").into_iter().map(|(_, packet)| packet).collect();
        let events: Vec<_> = packets.iter().map(|packet| Event::parse(&packet.payload).expect("four bytes")).collect();
        let durations: Vec<_> = events.iter().map(|event| event.duration).collect();
        assert_eq!(durations, [160, 320, 480, 640, 800, 800, 800]);
        assert_eq!(events.iter().filter(|event| event.end).count(), 3);
        assert!(packets.iter().enumerate().all(|(i, packet)| packet.marker == (i == 0) && packet.timestamp == packets[0].timestamp));
    }

    #[test]
    fn presses_are_far_enough_apart() {
        let packets = keyed("11");
        let first_end = packets[0].1.timestamp.wrapping_add(800);
        let second = packets.iter().find(|(_, packet)| packet.timestamp != packets[0].1.timestamp).expect("a second press");
        assert_eq!(second.1.timestamp.wrapping_sub(first_end), 640, "80 ms");
    }

    #[test]
    fn each_press_is_told_once_on_a_bad_line() {
        let text = "1122*0#99A4711";
        let sent = keyed(text);
        assert_eq!(keys_of(&sent), text);
        for seed in 1..300u64 {
            let mut luck = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed);
            let mut arrived = Vec::new();
            let mut survivors = std::collections::HashMap::<u32, usize>::new();
            for packet in &sent {
                // Half of all packets lost, but of each press at least the one that comes last survives.
                let last_of_press = sent.iter().rposition(|p| p.1.timestamp == packet.1.timestamp).map(|at| sent[at].1) == Some(packet.1);
                let alone = !survivors.contains_key(&packet.1.timestamp);
                if dice(&mut luck).is_multiple_of(2) && !(last_of_press && alone) {
                    continue;
                }
                *survivors.entry(packet.1.timestamp).or_default() += 1;
                arrived.push(*packet);
                if dice(&mut luck).is_multiple_of(4) {
                    arrived.push(*packet);
                }
            }
            for i in 1..arrived.len() {
                if dice(&mut luck).is_multiple_of(3) && arrived[i].1.timestamp == arrived[i - 1].1.timestamp {
                    arrived.swap(i, i - 1);
                }
            }
            // An end packet that took the long way comes during the next press.
            let stray = arrived[0];
            arrived.insert(arrived.len() / 2, stray);
            assert_eq!(keys_of(&arrived), text, "seed {seed}");
        }
    }

    #[test]
    fn long_presses_new_sources_and_strange_events() {
        let mut receiver = Receiver::default();
        let mut hear = |ssrc, timestamp, code, duration| {
            receiver.handle_packet(ssrc, timestamp, &Event { code, end: false, volume: 10, duration }.bytes()).map(Key::expose)
        };
        assert_eq!(hear(1, 1000, 5, 160), Some('5'));
        assert_eq!(hear(1, 1000, 5, 0xffff), None);
        assert_eq!(hear(1, 1000 + 0xffff, 5, 160), None, "held for more than eight seconds");
        assert_eq!(hear(2, 1000, 5, 160), Some('5'), "another source");
        assert_eq!(hear(2, 5000, 16, 160), None, "a hook flash is no key");
        assert_eq!(hear(2, 1000u32.wrapping_sub(40_000), 7, 160), None, "a stray from long ago");
        assert_eq!(receiver.handle_packet(2, 9000, &[1, 2, 3]), None, "cut short");
    }

    #[test]
    fn keys_do_not_print() {
        assert_eq!(format!("{:?}", Key::from_char('7')), "Some(Key(…))");
    }
}
