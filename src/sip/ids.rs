//! Branches, tags, Call-IDs and nonces that nobody can guess, all from one seed: the same seed gives the same ids, so tests replay.

use std::hash::{BuildHasherDefault, Hasher};

use super::message::Message;
use super::name::Name;

/// For tables whose keys are numbers of our own making, or hashes that are keyed already: nobody can choose them so that they collide.
pub(super) type NumberHash = BuildHasherDefault<NumberHasher>;

#[derive(Default)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = mixed(self.0 ^ number);
    }
}

/// Every bit of the number in every bit of the result (the last step of SplitMix64).
pub(super) fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// A stream of unguessable numbers (BLAKE3 in extendable output mode).
#[derive(Clone)]
pub struct Ids {
    stream: blake3::OutputReader,
    key: [u8; 32],
}

impl Ids {
    /// In production `seed` is 32 bytes from the operating system.
    pub fn new(seed: [u8; 32]) -> Self {
        let mut stream = blake3::Hasher::new_keyed(&seed).update(b"sip ids").finalize_xof();
        let mut key = [0; 32];
        stream.fill(&mut key);
        Self { stream, key }
    }

    pub fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.stream.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// 16 hex digits: a tag, or the left part of a Call-ID.
    pub fn token(&mut self) -> String {
        format!("{:016x}", self.next_u64())
    }

    /// A seed for another such stream.
    pub fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.stream.fill(&mut seed);
        seed
    }

    /// The To tag of an answer that nothing remembers: the same for each copy of the request (RFC 3261 §8.2.7).
    pub fn tag_for(&self, request: &Message) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        for name in [Name::CallId, Name::From] {
            hasher.update(request.header(name).unwrap_or_default());
            hasher.update(b"\n");
        }
        hasher.update(&request.cseq().map_or(0, |cseq| cseq.number).to_be_bytes());
        let mut bytes = [0; 8];
        hasher.finalize_xof().fill(&mut bytes);
        format!("{:016x}", u64::from_be_bytes(bytes))
    }
}
