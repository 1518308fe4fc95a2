//! Branches, tags, Call-IDs and nonces that nobody can guess, all from one seed: the same seed gives the same ids, so tests replay.

use super::message::Message;
use super::name::Name;

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
