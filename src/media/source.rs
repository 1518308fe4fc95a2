//! Whose packets are believed: symmetric RTP with a lock on one source (RFC 4961; RFC 7362 calls it latching).
//!
//! A phone behind NAT sends from an address that its SDP does not tell. So packets are answered to where they come from;
//! but only one source is believed at a time, and another must wait until it has been silent. Pure; no sockets.
//!
//! ```text
//! Unlocked ─packet from the signalled address─► Locked
//!     │ └─3 in a row from elsewhere──────────────► Locked
//!     └◄── signalling changed, or 2 s of silence ──┘
//! ```

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// The locked source must be silent for so long before another may take over.
pub const SILENCE: Duration = Duration::from_secs(2);
/// Packets in a row that make an address that was not signalled believable.
const PROOF: u8 = 3;

#[derive(Debug, Default)]
pub struct Source {
    signalled: Option<SocketAddr>,
    locked: Option<Locked>,
    candidate: Option<Candidate>,
}

#[derive(Clone, Copy, Debug)]
struct Locked {
    addr: SocketAddr,
    heard: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    addr: SocketAddr,
    ssrc: u32,
    sequence: u16,
    proofs: u8,
}

impl Source {
    /// SDP told an address. The same one again changes nothing: a re-INVITE must not interrupt the audio.
    pub fn signalled(&mut self, addr: SocketAddr) {
        if self.signalled != Some(addr) {
            *self = Self { signalled: Some(addr), ..Self::default() };
        }
    }

    /// Whether to believe a packet that is well-formed.
    pub fn accept(&mut self, now: Instant, from: SocketAddr, ssrc: u32, sequence: u16) -> bool {
        if let Some(locked) = &mut self.locked {
            if locked.addr == from {
                locked.heard = now;
                return true;
            }
            let quiet = now.saturating_duration_since(locked.heard) >= SILENCE;
            // A lock on a guess yields to the address that signalling vouches for, once that has proved itself.
            if !quiet && self.signalled != Some(from) {
                return false;
            }
        }
        let vouched = self.locked.is_none() && self.signalled == Some(from);
        if vouched || self.proves(from, ssrc, sequence) {
            self.locked = Some(Locked { addr: from, heard: now });
            self.candidate = None;
            return true;
        }
        false
    }

    fn proves(&mut self, addr: SocketAddr, ssrc: u32, sequence: u16) -> bool {
        let proofs = match self.candidate {
            Some(known) if known.addr == addr && known.ssrc == ssrc => {
                let step = sequence.wrapping_sub(known.sequence);
                if (1..=8).contains(&step) { known.proofs + 1 } else { 1 }
            }
            _ => 1,
        };
        self.candidate = Some(Candidate { addr, ssrc, sequence, proofs });
        proofs >= PROOF
    }

    /// Where to send: to where packets come from, else to where signalling says.
    pub fn destination(&self) -> Option<SocketAddr> {
        self.locked().or(self.signalled).filter(|addr| {
            addr.port() != 0 && !addr.ip().is_unspecified() && !self.signalled.is_some_and(|addr| addr.ip().is_unspecified())
        })
    }

    /// The source that is believed.
    pub fn locked(&self) -> Option<SocketAddr> {
        self.locked.map(|locked| locked.addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (milliseconds, sender, ssrc, sequence, believed)
    type Line = (u64, &'static str, u32, u16, bool);

    fn play(signalled: &str, script: &[Line]) -> Source {
        let start = Instant::now();
        let mut source = Source::default();
        source.signalled(signalled.parse().expect("an address"));
        for line @ (ms, from, ssrc, sequence, believed) in script {
            let got = source.accept(start + Duration::from_millis(*ms), from.parse().expect("an address"), *ssrc, *sequence);
            assert_eq!(got, *believed, "{line:?}");
        }
        source
    }

    const PHONE: &str = "192.0.2.1:4000";
    const NAT: &str = "198.51.100.9:61000";
    const THIEF: &str = "203.0.113.66:4000";

    #[test]
    fn the_signalled_source_is_believed_at_once_and_alone() {
        let source = play(
            PHONE,
            &[
                (0, PHONE, 1, 1, true),
                (20, THIEF, 2, 1, false),
                (40, THIEF, 2, 2, false),
                (60, THIEF, 2, 3, false),
                (80, PHONE, 1, 2, true),
            ],
        );
        assert_eq!(source.destination(), PHONE.parse().ok());
    }

    #[test]
    fn a_source_behind_nat_proves_itself() {
        let source = play(PHONE, &[(0, NAT, 1, 65535, false), (20, NAT, 1, 0, false), (40, NAT, 1, 1, true), (60, THIEF, 1, 2, false)]);
        assert_eq!(source.destination(), NAT.parse().ok());
    }

    #[test]
    fn two_strangers_who_alternate_prove_nothing() {
        let source = play(
            PHONE,
            &[(0, NAT, 1, 1, false), (10, THIEF, 2, 1, false), (20, NAT, 1, 2, false), (30, THIEF, 2, 2, false), (40, NAT, 1, 3, false)],
        );
        assert_eq!(source.destination(), PHONE.parse().ok(), "still where signalling says");
    }

    #[test]
    fn the_signalled_address_takes_over_from_a_guess() {
        play(
            PHONE,
            &[
                (0, THIEF, 2, 1, false),
                (20, THIEF, 2, 2, false),
                (40, THIEF, 2, 3, true),
                (60, PHONE, 1, 1, false),
                (80, PHONE, 1, 2, false),
                (100, PHONE, 1, 3, true),
                (120, THIEF, 2, 4, false),
            ],
        );
    }

    #[test]
    fn another_may_speak_after_two_seconds_of_silence_or_new_signalling() {
        let mut source = play(
            PHONE,
            &[
                (0, PHONE, 1, 1, true),
                (1990, NAT, 9, 1, false),
                (2010, NAT, 9, 2, false),
                (2030, NAT, 9, 3, false),
                (2050, NAT, 9, 4, true),
            ],
        );
        source.signalled(PHONE.parse().expect("an address"));
        assert_eq!(source.destination(), NAT.parse().ok(), "a re-INVITE with the same address");
        source.signalled(THIEF.parse().expect("an address"));
        assert_eq!((source.locked(), source.destination()), (None, THIEF.parse().ok()));
    }

    #[test]
    fn nothing_is_sent_to_nowhere() {
        assert_eq!(play("0.0.0.0:4000", &[(0, PHONE, 1, 1, false), (1, PHONE, 1, 2, false), (2, PHONE, 1, 3, true)]).destination(), None);
    }
}
