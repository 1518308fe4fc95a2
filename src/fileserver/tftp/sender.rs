//! One file on its way to a client: OACK and DATA out, ACK in. Sans-I/O.
//!
//! ```text
//!  new ─ options ─► OACK out ── ACK 0 ─┐
//!   └──── none ────────────────────────┴─► window out ⇄ ACK n ─► … ─► ACK of the last block: Delivered
//!  any ── ERROR, closed port, broken protocol, silence ─► Failed
//! ```
//! Driven with `handle_*(now, …)`; drain [`Sender::poll_transmit`] after each, wake at [`Sender::poll_timeout`].
//!
//! A repeated ACK never repeats DATA in lockstep (the Sorcerer's Apprentice, RFC 1123 §4.2.3.1); in a window it tells of
//! a gap (RFC 7440 §4) and is heeded once per window. Block numbers go on with 0 after 65535, as every client expects.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    options::Terms,
    packet::{self, ErrorCode, Packet},
    retransmission::{Expiry, Retransmission},
};

/// How a transfer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The other side has acknowledged everything.
    Delivered,
    Failed(Fault),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the client gave up with error {code} {message:?} at block {block}")]
    ClientError { code: u16, message: String, block: u64 },
    #[error("the client was silent at block {block} though it was repeated {tries} times: unplugged, or a firewall drops UDP")]
    Silent { block: u64, tries: u32 },
    #[error("the client closed its port at block {block} of {last}")]
    Closed { block: u64, last: u64 },
    #[error("the client sent a block larger than agreed")]
    BlockTooLarge,
    #[error("the upload is larger than the {limit} bytes that are allowed")]
    TooLarge { limit: usize },
    #[error("the upload was refused")]
    Refused,
    #[error("the phone began anew from the same port")]
    Replaced,
    #[error("the server is stopping")]
    Stopping,
    #[error("the socket failed: {0}")]
    Socket(String),
    #[error("the file cannot be read: {0}")]
    Unreadable(String),
}

pub struct Sender {
    /// How long the file is.
    len: u64,
    /// What is at hand of it, and where that begins.
    held: Bytes,
    held_at: u64,
    block_bytes: usize,
    window: u64,
    /// Until its ACK 0 is here.
    oack: Option<Vec<u8>>,
    oack_due: bool,
    oack_sent: bool,
    /// Blocks are counted from 1 without wrapping; the wire carries the low 16 bits.
    acked: u64,
    next: u64,
    highest: u64,
    /// The file's last block, shorter than the others and perhaps empty.
    last: u64,
    /// This window was already sent again because of a repeated ACK.
    gap_heeded: bool,
    /// The block whose round trip is being measured, and when it left.
    timed: Option<(u64, Instant)>,
    clock: Retransmission,
    farewell: Option<Vec<u8>>,
    outcome: Option<Outcome>,
}

impl Sender {
    /// A file that is in memory. `retries`: how often an unanswered packet is repeated.
    pub fn new(file: Bytes, terms: Terms, retries: u32) -> Self {
        Self { held: file.clone(), ..Self::of_length(file.len() as u64, terms, retries) }
    }

    /// A file of which no more than a piece is in memory: [`Self::poll_read`] says from where on.
    pub fn of_length(len: u64, terms: Terms, retries: u32) -> Self {
        let block_bytes = terms.block_bytes.max(1);
        Self {
            last: len / block_bytes as u64 + 1,
            len,
            held: Bytes::new(),
            held_at: 0,
            block_bytes,
            window: u64::from(terms.window_blocks.max(1)),
            oack_due: terms.oack.is_some(),
            oack: terms.oack,
            oack_sent: false,
            acked: 0,
            next: 1,
            highest: 0,
            gap_heeded: false,
            timed: None,
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
            Some(Packet::Ack { block }) => self.handle_ack(now, block),
            Some(Packet::Error { code, message }) => self.fail(Fault::ClientError { code, message, block: self.acked + 1 }),
            // Not for us; answering could begin a quarrel between two programs.
            Some(Packet::Data { .. }) | None => {}
        }
    }

    /// All that was sent is acknowledged.
    pub fn nothing_is_out(&self) -> bool {
        self.oack.is_none() && self.acked == self.highest
    }

    /// The last block was sent, and only its ACK is missing.
    pub fn is_ending(&self) -> bool {
        self.highest == self.last
    }

    fn handle_ack(&mut self, now: Instant, wire: u16) {
        if self.oack.is_some() {
            if wire == 0 {
                self.oack = None;
                self.oack_due = false;
                let round_trip = self.round_trip(now, 0);
                self.clock.progressed(round_trip);
            }
            return;
        }
        // Which of the blocks that are out does the number name?
        let block = self.highest.checked_sub(u64::from((self.highest as u16).wrapping_sub(wire)));
        match block {
            Some(block) if block > self.acked => self.advance(now, block),
            Some(block) if block == self.acked && self.window > 1 && !self.gap_heeded && self.next > block + 1 => {
                self.gap_heeded = true;
                self.rewind();
            }
            // Older than what is acknowledged, or never sent.
            _ => {}
        }
    }

    fn advance(&mut self, now: Instant, block: u64) {
        let round_trip = self.round_trip(now, block);
        self.clock.progressed(round_trip);
        self.acked = block;
        self.gap_heeded = false;
        if block == self.last {
            self.outcome = Some(Outcome::Delivered);
        } else {
            // Short of what is out: the client misses the block after it (RFC 7440 §4).
            self.rewind();
        }
    }

    /// The next block to send is the one after the last acknowledged.
    fn rewind(&mut self) {
        if self.next != self.acked + 1 {
            self.timed = None;
            self.next = self.acked + 1;
        }
    }

    fn round_trip(&mut self, now: Instant, block: u64) -> Option<Duration> {
        let (timed, sent) = self.timed?;
        (block >= timed).then(|| {
            self.timed = None;
            now.saturating_duration_since(sent)
        })
    }

    /// Time has passed; call at [`Self::poll_timeout`]. Earlier is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.outcome.is_some() {
            return;
        }
        match self.clock.expire(now) {
            Expiry::NotYet => {}
            Expiry::Repeat => {
                self.timed = None;
                self.gap_heeded = false;
                self.oack_due = self.oack.is_some();
                self.next = self.acked + 1;
            }
            Expiry::GiveUp { tries } => self.fail(Fault::Silent { block: self.acked + 1, tries }),
        }
    }

    /// The client's host says that nobody listens at its port any more (ICMP port unreachable).
    pub fn handle_closed(&mut self) {
        self.fail(Fault::Closed { block: self.acked + 1, last: self.last });
    }

    /// Ends the transfer from our side; the client is told.
    pub fn abort(&mut self, fault: Fault) {
        if self.outcome.is_none() {
            self.farewell = Some(packet::error(ErrorCode::Undefined, &fault.to_string()));
            self.fail(fault);
        }
    }

    fn fail(&mut self, fault: Fault) {
        self.outcome.get_or_insert(Outcome::Failed(fault));
    }

    /// Writes the next packet for the client over `packet`; `false` when there is none now.
    pub fn poll_transmit(&mut self, now: Instant, packet: &mut Vec<u8>) -> bool {
        if let Some(farewell) = self.farewell.take() {
            *packet = farewell;
            return true;
        }
        if self.outcome.is_some() {
            return false;
        }
        if let Some(oack) = &self.oack {
            if self.oack_due {
                packet.clear();
                packet.extend_from_slice(oack);
                self.oack_due = false;
                self.timed = (!std::mem::replace(&mut self.oack_sent, true)).then_some((0, now));
                self.clock.sent(now);
                return true;
            }
            return false;
        }
        if self.next > self.last || self.next > self.acked + self.window {
            return false;
        }
        let Some(bytes) = self.bytes_of(self.next) else { return false };
        packet::write_data(packet, self.next as u16, bytes);
        // The end of a window is answered at once; a block within may wait for its neighbours.
        if self.next > self.highest {
            self.timed = Some((self.next, now));
            self.highest = self.next;
        }
        self.next += 1;
        self.clock.sent(now);
        true
    }

    /// Where a block begins and ends.
    fn range_of(&self, block: u64) -> (u64, u64) {
        let start = (block - 1).saturating_mul(self.block_bytes as u64).min(self.len);
        (start, start.saturating_add(self.block_bytes as u64).min(self.len))
    }

    /// `None`: it is not at hand.
    fn bytes_of(&self, block: u64) -> Option<&[u8]> {
        let (start, end) = self.range_of(block);
        let within = |at: u64| usize::try_from(at.checked_sub(self.held_at)?).ok();
        self.held.get(within(start)?..within(end)?)
    }

    /// The part of the file that is wanted next, for [`Self::handle_read`]; more behind it is welcome. Ask after each drain of
    /// [`Self::poll_transmit`].
    pub fn poll_read(&self) -> Option<(u64, u64)> {
        let due = self.outcome.is_none() && self.oack.is_none() && self.next <= self.last && self.next <= self.acked + self.window;
        (due && self.bytes_of(self.next).is_none()).then(|| self.range_of(self.next))
    }

    /// The file from there on.
    pub fn handle_read(&mut self, at: u64, bytes: Bytes) {
        (self.held_at, self.held) = (at, bytes);
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.outcome.is_some() { None } else { self.clock.deadline() }
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

    /// A scripted client in virtual time.
    struct Script {
        now: Instant,
        sender: Sender,
    }

    impl Script {
        fn new(len: usize, asked: Asked) -> Self {
            let file = Bytes::from((0..len).map(|i| (i / 7) as u8).collect::<Vec<_>>());
            let caps = Caps { block_bytes: 65464, window_blocks: 64 };
            let terms = negotiate(&asked, caps, len as u64);
            Self { now: Instant::now(), sender: Sender::new(file, terms, 6) }
        }

        /// What leaves now: `OACK`, `DATA n/len` by wire number, `ERROR`.
        fn out(&mut self) -> Vec<String> {
            let mut packet = Vec::new();
            let mut out = Vec::new();
            while self.sender.poll_transmit(self.now, &mut packet) {
                out.push(match packet.as_slice() {
                    [0, 6, ..] => "OACK".into(),
                    [0, 5, ..] => "ERROR".into(),
                    [0, 3, hi, lo, data @ ..] => format!("DATA {}/{}", u16::from_be_bytes([*hi, *lo]), data.len()),
                    other => format!("{other:?}"),
                });
            }
            out
        }

        fn ack(&mut self, block: u16) -> Vec<String> {
            let mut packet = Vec::new();
            packet::write_ack(&mut packet, block);
            self.sender.handle_packet(self.now, &packet);
            self.out()
        }

        fn wait_ms(&mut self, ms: u64) -> Vec<String> {
            self.now += Duration::from_millis(ms);
            self.sender.handle_timeout(self.now);
            self.out()
        }
    }

    #[test]
    fn lockstep_to_the_end() {
        let mut s = Script::new(1100, Asked::default());
        assert_eq!(s.out(), ["DATA 1/512"]);
        assert_eq!(s.ack(1), ["DATA 2/512"]);
        assert_eq!(s.ack(2), ["DATA 3/76"]);
        assert!(s.sender.outcome().is_none());
        assert!(s.ack(3).is_empty());
        assert_eq!(s.sender.outcome(), Some(&Outcome::Delivered));
        assert_eq!(s.sender.poll_timeout(), None);
    }

    #[test]
    fn a_file_of_whole_blocks_ends_with_an_empty_one() {
        for (len, blocks) in [(0, &["DATA 1/0"][..]), (512, &["DATA 1/512", "DATA 2/0"]), (511, &["DATA 1/511"])] {
            let mut s = Script::new(len, Asked::default());
            let mut out = s.out();
            for block in 1.. {
                if s.sender.outcome().is_some() {
                    break;
                }
                out.extend(s.ack(block));
            }
            assert_eq!(out, blocks, "{len}");
        }
    }

    #[test]
    fn options_are_confirmed_before_the_first_block() {
        let mut s = Script::new(100, Asked { blksize: Some(1024), ..Asked::default() });
        assert_eq!(s.out(), ["OACK"]);
        assert!(s.ack(1).is_empty(), "nothing was sent that this could acknowledge");
        assert_eq!(s.wait_ms(1000), ["OACK"]);
        assert_eq!(s.ack(0), ["DATA 1/100"]);
        assert!(s.ack(0).is_empty(), "the second OACK's acknowledgement sends nothing twice");
        s.ack(1);
        assert_eq!(s.sender.outcome(), Some(&Outcome::Delivered));
    }

    #[test]
    fn repeated_acks_do_not_repeat_data() {
        let mut s = Script::new(5000, Asked::default());
        s.out();
        assert_eq!(s.ack(1), ["DATA 2/512"]);
        for _ in 0..5 {
            assert!(s.ack(1).is_empty());
        }
        assert!(s.ack(0).is_empty());
        assert!(s.ack(7).is_empty(), "from the future");
        assert_eq!(s.ack(2), ["DATA 3/512"]);
    }

    #[test]
    fn lost_packets_are_repeated_ever_slower_and_then_it_ends() {
        let mut s = Script::new(5000, Asked::default());
        assert_eq!(s.out(), ["DATA 1/512"]);
        let start = s.now;
        let mut repeated = Vec::new();
        while s.sender.outcome().is_none() {
            let deadline = s.sender.poll_timeout().expect("a client is awaited");
            let ms = (deadline - s.now).as_millis() as u64;
            assert!(s.wait_ms(ms - 1).is_empty());
            if !s.wait_ms(1).is_empty() {
                repeated.push((s.now - start).as_secs());
            }
        }
        assert_eq!(repeated, [1, 3, 7, 15, 23, 31]);
        assert_eq!(s.sender.outcome(), Some(&Outcome::Failed(Fault::Silent { block: 1, tries: 6 })));
    }

    #[test]
    fn progress_gives_new_patience() {
        let mut s = Script::new(2000, Asked::default());
        s.out();
        for block in 1..=4 {
            for _ in 0..6 {
                let ms = s.sender.poll_timeout().expect("armed") - s.now;
                assert_eq!(s.wait_ms(ms.as_millis() as u64).len(), 1);
            }
            s.ack(block);
        }
        assert_eq!(s.sender.outcome(), Some(&Outcome::Delivered));
    }

    #[test]
    fn the_client_may_fix_the_waiting_time() {
        let mut s = Script::new(2000, Asked { timeout: Some(4), ..Asked::default() });
        assert_eq!(s.out(), ["OACK"]);
        assert!(s.wait_ms(3999).is_empty());
        assert_eq!(s.wait_ms(1), ["OACK"]);
        assert_eq!(s.wait_ms(4000), ["OACK"]);
    }

    #[test]
    fn a_window_goes_out_at_once() {
        let mut s = Script::new(512 * 9, Asked { windowsize: Some(4), ..Asked::default() });
        assert_eq!(s.out(), ["OACK"]);
        assert_eq!(s.ack(0), ["DATA 1/512", "DATA 2/512", "DATA 3/512", "DATA 4/512"]);
        assert_eq!(s.ack(4).len(), 4);
        assert_eq!(s.ack(8), ["DATA 9/512", "DATA 10/0"]);
        s.ack(10);
        assert_eq!(s.sender.outcome(), Some(&Outcome::Delivered));
    }

    #[test]
    fn a_gap_in_a_window_is_filled_from_where_it_began() {
        let mut s = Script::new(512 * 20, Asked { windowsize: Some(4), ..Asked::default() });
        s.out();
        s.ack(0);
        // Block 3 was lost: the client acknowledges 2.
        assert_eq!(s.ack(2), ["DATA 3/512", "DATA 4/512", "DATA 5/512", "DATA 6/512"]);
        // Block 3 again: the client repeats ACK 2, and again for each later block; heeded once.
        assert_eq!(s.ack(2).len(), 4);
        assert!(s.ack(2).is_empty());
        assert!(s.ack(2).is_empty());
        // Reordered: a late ACK 4 after 6.
        assert_eq!(s.ack(6).len(), 4);
        assert!(s.ack(4).is_empty());
        // The whole window lost: silence repeats it.
        assert_eq!(s.wait_ms(8000), ["DATA 7/512", "DATA 8/512", "DATA 9/512", "DATA 10/512"]);
    }

    #[test]
    fn numbers_roll_over_after_65535() {
        for window in [1, 16] {
            let blocks = 65536 * 2 + 10;
            let mut s = Script::new(8 * blocks, Asked { blksize: Some(8), windowsize: Some(window), ..Asked::default() });
            s.out();
            let mut out = s.ack(0);
            let mut received: u64 = 0;
            let mut near = Vec::new();
            while s.sender.outcome().is_none() {
                for packet in &out {
                    received += 1;
                    let expected = format!("DATA {}/", received % 65536);
                    assert!(packet.starts_with(&expected), "{packet} for {expected}");
                    if (65534..65539).contains(&received) {
                        near.push(packet.clone());
                    }
                }
                assert!(s.ack((received as u16).wrapping_sub(window as u16)).len() <= window as usize);
                out = s.ack(received as u16);
                if s.sender.outcome().is_none() {
                    assert!(!out.is_empty());
                }
            }
            assert_eq!(near, ["DATA 65534/8", "DATA 65535/8", "DATA 0/8", "DATA 1/8", "DATA 2/8"]);
            assert_eq!(received, blocks as u64 + 1);
            assert_eq!(s.sender.outcome(), Some(&Outcome::Delivered));
        }
    }

    #[test]
    fn of_a_long_file_only_a_piece_is_at_hand() {
        let whole: Vec<u8> = (0..512 * 20 + 7).map(|i| (i / 7) as u8).collect();
        let caps = Caps { block_bytes: 65464, window_blocks: 64 };
        let terms = negotiate(&Asked { windowsize: Some(4), ..Asked::default() }, caps, whole.len() as u64);
        let mut s = Script { now: Instant::now(), sender: Sender::of_length(whole.len() as u64, terms, 6) };
        // Pieces of a thousand bytes: a block may lie in two.
        let (mut read, mut got) = (Vec::new(), Vec::new());
        let mut out = |s: &mut Script, got: &mut Vec<u8>| {
            let (mut packet, mut sent) = (Vec::new(), Vec::new());
            loop {
                while s.sender.poll_transmit(s.now, &mut packet) {
                    if let [0, 3, hi, lo, data @ ..] = packet.as_slice() {
                        let block = usize::from(u16::from_be_bytes([*hi, *lo]));
                        got.truncate((block - 1) * 512);
                        got.extend_from_slice(data);
                        sent.push(block);
                    }
                }
                let Some((start, end)) = s.sender.poll_read() else { return sent };
                read.push(start);
                let end = ((start / 1000 + 1) * 1000).max(end).min(whole.len() as u64);
                s.sender.handle_read(start, Bytes::copy_from_slice(&whole[start as usize..end as usize]));
            }
        };
        assert_eq!(out(&mut s, &mut got), [0usize; 0], "only the options");
        let (mut acked, mut lost) = (0, false);
        while s.sender.outcome().is_none() {
            let mut packet = Vec::new();
            packet::write_ack(&mut packet, acked);
            s.sender.handle_packet(s.now, &packet);
            let sent = out(&mut s, &mut got);
            acked = match lost {
                // A window is lost: it is sent again, and read again from its beginning.
                false if acked == 8 => {
                    lost = true;
                    s.now += Duration::from_secs(8);
                    s.sender.handle_timeout(s.now);
                    assert_eq!(out(&mut s, &mut got), [9, 10, 11, 12]);
                    12
                }
                _ => sent.last().map_or(acked, |block| *block as u16),
            };
        }
        assert_eq!(s.sender.outcome(), Some(&Outcome::Delivered));
        assert_eq!(got, whole);
    }

    #[test]
    fn aborts_end_it_at_once() {
        let mut s = Script::new(5000, Asked::default());
        s.out();
        s.ack(1);
        s.sender.handle_packet(s.now, &packet::error(ErrorCode::Undefined, "user aborted"));
        let fault = Fault::ClientError { code: 0, message: "user aborted".into(), block: 2 };
        assert_eq!(s.sender.outcome(), Some(&Outcome::Failed(fault)));
        assert!(s.wait_ms(60_000).is_empty());

        let mut s = Script::new(5000, Asked::default());
        s.out();
        s.sender.handle_closed();
        assert_eq!(s.sender.outcome(), Some(&Outcome::Failed(Fault::Closed { block: 1, last: 10 })));

        let mut s = Script::new(5000, Asked::default());
        s.out();
        s.sender.abort(Fault::Stopping);
        assert_eq!(s.out(), ["ERROR"]);
        assert_eq!(s.sender.outcome(), Some(&Outcome::Failed(Fault::Stopping)));
    }

    #[test]
    fn junk_changes_nothing() {
        let mut s = Script::new(5000, Asked::default());
        s.out();
        for junk in [&b""[..], b"\0", b"\0\x04", b"\0\x03\0\x01data", b"\0\x06blksize\x008\0", b"\0\x01x\0octet\0"] {
            s.sender.handle_packet(s.now, junk);
            assert!(s.out().is_empty() && s.sender.outcome().is_none(), "{junk:?}");
        }
    }
}
