//! One upload on its way in: OACK or ACK out, DATA in. Sans-I/O.
//!
//! ```text
//!  new ─► OACK or ACK 0 ─► DATA ⇄ ACK ─► last DATA: Received ── handle_stored ─► last ACK, dally ─► Delivered
//!  any ── ERROR, silence, too large ─► Failed
//! ```
//! The last block is acknowledged only when the bytes are kept: what a phone was told is saved, is saved. It then
//! lingers to answer a repeated last block (RFC 1350 §6). Not here: where uploads go (`provisioning`).

use std::time::{Duration, Instant};

use super::{
    options::Terms,
    packet::{self, ErrorCode, Packet},
    retransmission::{Expiry, Retransmission},
    sender::{Fault, Outcome},
};

/// How long a repeated last block is still answered.
const DALLY: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Receiving,
    /// All is here; the shell stores it.
    Received,
    /// The last ACK is out; over at this time.
    Dallying {
        until: Instant,
    },
}

pub struct Receiver {
    body: Vec<u8>,
    limit: usize,
    block_bytes: usize,
    window: u16,
    /// The answer to the request: OACK, or `None` for ACK 0.
    oack: Option<Vec<u8>>,
    /// The block that is awaited, counted from 1 without wrapping.
    next: u64,
    /// Blocks taken since the last ACK.
    unanswered: u16,
    answer_due: bool,
    gap_told: bool,
    /// The body was given to the shell.
    handed_over: bool,
    state: State,
    clock: Retransmission,
    farewell: Option<Vec<u8>>,
    outcome: Option<Outcome>,
}

impl Receiver {
    /// `limit` bytes at most are taken; `retries`: how often an unanswered packet is repeated.
    pub fn new(limit: usize, terms: Terms, retries: u32) -> Self {
        Self {
            body: Vec::new(),
            limit,
            block_bytes: terms.block_bytes,
            window: terms.window_blocks.max(1),
            oack: terms.oack,
            next: 1,
            unanswered: 0,
            answer_due: true,
            gap_told: false,
            handed_over: false,
            state: State::Receiving,
            clock: Retransmission::new(terms.timeout, retries),
            farewell: None,
            outcome: None,
        }
    }

    /// A datagram from the client's transfer port.
    pub fn handle_packet(&mut self, now: Instant, datagram: &[u8]) {
        if self.outcome.is_some() {
            return;
        }
        match Packet::parse(datagram) {
            Some(Packet::Data { block, bytes }) => self.handle_data(now, block, bytes),
            Some(Packet::Error { code, message }) => self.fail(Fault::ClientError { code, message, block: self.next }),
            Some(Packet::Ack { .. }) | None => {}
        }
    }

    fn handle_data(&mut self, now: Instant, wire: u16, bytes: &[u8]) {
        let ahead = i64::from(wire.wrapping_sub(self.next as u16) as i16);
        match self.state {
            State::Receiving if ahead == 0 => self.take(now, bytes),
            State::Receiving if ahead > 0 => {
                // A block is missing: tell once which was the last in order (RFC 7440 §4).
                self.answer_due |= !self.gap_told;
                self.gap_told = true;
            }
            // Our ACK was lost. In a window only its last block asks again, or each would be answered.
            State::Receiving => self.answer_due |= self.window == 1 || ahead == -1,
            State::Received => {}
            State::Dallying { .. } => self.answer_due |= ahead == -1,
        }
    }

    fn take(&mut self, now: Instant, bytes: &[u8]) {
        if bytes.len() > self.block_bytes {
            return self.abort(ErrorCode::Illegal, Fault::BlockTooLarge);
        }
        if self.body.len() + bytes.len() > self.limit {
            return self.abort(ErrorCode::DiskFull, Fault::TooLarge { limit: self.limit });
        }
        self.body.extend_from_slice(bytes);
        self.next += 1;
        self.gap_told = false;
        self.clock.progressed(None);
        if bytes.len() < self.block_bytes {
            self.state = State::Received;
            return;
        }
        self.unanswered += 1;
        if self.unanswered >= self.window {
            self.answer_due = true;
        } else {
            self.clock.sent(now);
        }
    }

    /// All bytes, once, when the last block is here; tell [`Self::handle_stored`] what became of them.
    pub fn poll_received(&mut self) -> Option<Vec<u8>> {
        (self.state == State::Received && !std::mem::replace(&mut self.handed_over, true)).then(|| std::mem::take(&mut self.body))
    }

    /// The bytes are kept, or were refused after all.
    pub fn handle_stored(&mut self, now: Instant, kept: bool) {
        if self.state != State::Received || self.outcome.is_some() {
            return;
        }
        if kept {
            self.state = State::Dallying { until: now + DALLY };
            self.answer_due = true;
        } else {
            self.abort(ErrorCode::AccessViolation, Fault::Refused);
        }
    }

    /// Time has passed; call at [`Self::poll_timeout`]. Earlier is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            State::Dallying { until } if now >= until => {
                self.outcome.get_or_insert(Outcome::Delivered);
            }
            State::Receiving if self.outcome.is_none() => match self.clock.expire(now) {
                Expiry::NotYet => {}
                Expiry::Repeat => self.answer_due = true,
                Expiry::GiveUp { tries } => self.fail(Fault::Silent { block: self.next, tries }),
            },
            _ => {}
        }
    }

    /// The client's host says that nobody listens at its port any more. After the last block that is an orderly end.
    pub fn handle_closed(&mut self) {
        match self.state {
            State::Dallying { .. } => {
                self.outcome.get_or_insert(Outcome::Delivered);
            }
            State::Received => {}
            State::Receiving => self.fail(Fault::Closed { block: self.next, last: self.next }),
        }
    }

    /// Ends the transfer from our side; the client is told.
    pub fn abort(&mut self, code: ErrorCode, fault: Fault) {
        if matches!(self.state, State::Dallying { .. }) {
            self.outcome.get_or_insert(Outcome::Delivered);
        } else if self.outcome.is_none() {
            self.farewell = Some(packet::error(code, &fault.to_string()));
            self.fail(fault);
        }
    }

    fn fail(&mut self, fault: Fault) {
        // What is stored and acknowledged is delivered, whatever the client says afterwards.
        let outcome = if matches!(self.state, State::Dallying { .. }) { Outcome::Delivered } else { Outcome::Failed(fault) };
        self.outcome.get_or_insert(outcome);
    }

    /// Writes the next packet for the client over `packet`; `false` when there is none now.
    pub fn poll_transmit(&mut self, now: Instant, packet: &mut Vec<u8>) -> bool {
        if let Some(farewell) = self.farewell.take() {
            *packet = farewell;
            return true;
        }
        if self.outcome.is_some() || !std::mem::take(&mut self.answer_due) {
            return false;
        }
        match &self.oack {
            // A repeated request is answered with the OACK again, never with ACK 0.
            Some(oack) if self.next == 1 => {
                packet.clear();
                packet.extend_from_slice(oack);
            }
            _ => packet::write_ack(packet, (self.next - 1) as u16),
        }
        self.unanswered = 0;
        if self.state == State::Receiving {
            self.clock.sent(now);
        }
        true
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            _ if self.outcome.is_some() => None,
            State::Receiving => self.clock.deadline(),
            State::Received => None,
            State::Dallying { until } => Some(until),
        }
    }

    /// The block size that was agreed.
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// How it ended; `None` while it runs.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fileserver::tftp::{
        options::{Caps, negotiate},
        packet::Asked,
    };

    struct Script {
        now: Instant,
        receiver: Receiver,
    }

    impl Script {
        fn new(limit: usize, asked: Asked) -> Self {
            let terms = negotiate(&asked, Caps { block_bytes: 65464, window_blocks: 64 }, 0);
            Self { now: Instant::now(), receiver: Receiver::new(limit, terms, 6) }
        }

        fn out(&mut self) -> Vec<String> {
            let mut packet = Vec::new();
            let mut out = Vec::new();
            while self.receiver.poll_transmit(self.now, &mut packet) {
                out.push(match packet.as_slice() {
                    [0, 6, ..] => "OACK".into(),
                    [0, 4, hi, lo] => format!("ACK {}", u16::from_be_bytes([*hi, *lo])),
                    [0, 5, _, code, ..] => format!("ERROR {code}"),
                    other => format!("{other:?}"),
                });
            }
            out
        }

        fn data(&mut self, block: u16, len: usize) -> Vec<String> {
            let mut packet = Vec::new();
            packet::write_data(&mut packet, block, &vec![block as u8; len]);
            self.receiver.handle_packet(self.now, &packet);
            self.out()
        }

        fn wait_ms(&mut self, ms: u64) -> Vec<String> {
            self.now += Duration::from_millis(ms);
            self.receiver.handle_timeout(self.now);
            self.out()
        }
    }

    #[test]
    fn lockstep_then_stored_then_the_last_ack() {
        let mut s = Script::new(10_000, Asked::default());
        assert_eq!(s.out(), ["ACK 0"]);
        assert_eq!(s.data(1, 512), ["ACK 1"]);
        assert_eq!(s.data(1, 512), ["ACK 1"], "our ACK was lost");
        assert!(s.data(2, 10).is_empty(), "not before it is stored");
        assert_eq!(s.receiver.poll_received().map(|body| body.len()), Some(522));
        assert!(s.data(2, 10).is_empty());
        s.receiver.handle_stored(s.now, true);
        assert_eq!(s.out(), ["ACK 2"]);
        assert_eq!(s.data(2, 10), ["ACK 2"], "the last ACK was lost");
        assert!(s.receiver.outcome().is_none());
        s.wait_ms(3000);
        assert_eq!(s.receiver.outcome(), Some(&Outcome::Delivered));
    }

    #[test]
    fn an_empty_upload_is_one_empty_block() {
        let mut s = Script::new(0, Asked::default());
        s.out();
        s.data(1, 0);
        assert_eq!(s.receiver.poll_received(), Some(Vec::new()));
    }

    #[test]
    fn a_repeated_request_gets_the_oack_again() {
        let mut s = Script::new(1000, Asked { blksize: Some(1024), ..Asked::default() });
        assert_eq!(s.out(), ["OACK"]);
        assert_eq!(s.wait_ms(1000), ["OACK"]);
    }

    #[test]
    fn too_much_is_refused_as_it_comes() {
        let mut s = Script::new(600, Asked::default());
        s.out();
        s.data(1, 512);
        assert_eq!(s.data(2, 512), ["ERROR 3"]);
        assert_eq!(s.receiver.outcome(), Some(&Outcome::Failed(Fault::TooLarge { limit: 600 })));
        let mut s = Script::new(6000, Asked::default());
        s.out();
        assert_eq!(s.data(1, 513), ["ERROR 4"]);
    }

    #[test]
    fn refused_after_all() {
        let mut s = Script::new(600, Asked::default());
        s.out();
        s.data(1, 5);
        s.receiver.handle_stored(s.now, false);
        assert_eq!(s.out(), ["ERROR 2"]);
        assert_eq!(s.receiver.outcome(), Some(&Outcome::Failed(Fault::Refused)));
    }

    #[test]
    fn windows_gaps_and_duplicates() {
        let mut s = Script::new(1 << 20, Asked { windowsize: Some(4), ..Asked::default() });
        s.out();
        assert!(s.data(1, 512).is_empty());
        assert!(s.data(2, 512).is_empty());
        assert_eq!(s.data(4, 512), ["ACK 2"], "3 is missing");
        assert!(s.data(5, 512).is_empty(), "told once");
        for block in 3..6 {
            assert!(s.data(block, 512).is_empty());
        }
        assert_eq!(s.data(6, 512), ["ACK 6"]);
        assert!(s.data(5, 512).is_empty());
        assert_eq!(s.data(6, 512), ["ACK 6"], "the window was repeated: its last block asks");
        assert!(s.data(7, 100).is_empty());
        assert_eq!(s.receiver.poll_received().map(|body| body.len()), Some(6 * 512 + 100));
    }

    #[test]
    fn numbers_roll_over() {
        let mut s = Script::new(10 << 20, Asked { blksize: Some(8), ..Asked::default() });
        s.out();
        for block in 1..=70_000u32 {
            assert_eq!(s.data(block as u16, 8), [format!("ACK {}", block % 65536)]);
        }
        s.data(70_001u32 as u16, 1);
        assert_eq!(s.receiver.poll_received().map(|body| body.len()), Some(560_001));
    }

    #[test]
    fn a_client_that_vanishes() {
        let mut s = Script::new(1000, Asked::default());
        s.out();
        let mut acks = 0;
        while s.receiver.outcome().is_none() {
            acks += s.wait_ms(1000).len();
        }
        assert_eq!(acks, 6);
        assert_eq!(s.receiver.outcome(), Some(&Outcome::Failed(Fault::Silent { block: 1, tries: 6 })));
    }
}
