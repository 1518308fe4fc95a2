//! What tells two copies of a request from two requests: the keys of server transactions.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use super::super::{
    header::{MAGIC_COOKIE, Via},
    message::{Message, Method},
};

/// What makes two requests the same, as 128 bits that nobody can choose: a table of these costs no allocation per request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key([u64; 2]);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [first, _] = self.0;
        state.write_u64(first);
    }
}

/// Makes keys; each process has its own.
pub(super) struct Keys([RandomState; 2]);

impl Keys {
    pub(super) fn new() -> Self {
        Self([RandomState::new(), RandomState::new()])
    }

    /// A number for a text that nobody can choose.
    pub(super) fn number(&self, text: &str) -> u64 {
        let Self([first, _]) = self;
        first.hash_one(text)
    }

    /// What makes two requests the same transaction (RFC 3261 §17.2.3). ACK and CANCEL have the key of their INVITE.
    pub(super) fn transaction(&self, request: &Message, via: &Via<'_>) -> Key {
        let mut key = self.collect();
        let method = match request.method() {
            Some(Method::Ack | Method::Cancel) | None => "INVITE",
            Some(method) => method.as_str(),
        };
        key.put(method.as_bytes());
        key.put(via.host().as_bytes());
        key.put(&via.port.unwrap_or_default().to_be_bytes());
        match via.branch().and_then(|branch| branch.strip_prefix(MAGIC_COOKIE)) {
            Some(branch) if !branch.is_empty() => key.put(branch.as_bytes()),
            // RFC 2543, or a branch that is only the cookie: everything that such clients keep equal. The To tag is left out:
            // an ACK has one where its INVITE had none.
            _ => {
                key.put(request.raw_uri());
                key.put(request.call_id().unwrap_or_default().as_bytes());
                key.put(request.from().ok().and_then(|from| from.tag()).unwrap_or_default().as_bytes());
                key.put(&request.cseq().map_or(0, |cseq| cseq.number).to_be_bytes());
                key.put(via.branch().unwrap_or_default().as_bytes());
            }
        }
        key.finish()
    }

    /// What two copies of a request have in common that came by different ways; `None` within a dialog.
    pub(super) fn merge(&self, request: &Message) -> Option<Key> {
        if request.to().ok()?.tag().is_some() {
            return None;
        }
        let cseq = request.cseq().ok()?;
        let mut key = self.collect();
        for part in [request.from().ok()?.tag()?, request.call_id().ok()?, cseq.method] {
            key.put(part.as_bytes());
        }
        key.put(&cseq.number.to_be_bytes());
        Some(key.finish())
    }

    fn collect(&self) -> Collected<impl Hasher> {
        Collected(self.0.each_ref().map(BuildHasher::build_hasher))
    }
}

/// The parts of a [`Key`].
struct Collected<H>([H; 2]);

impl<H: Hasher> Collected<H> {
    /// With its length, so that no two lists of parts look alike.
    fn put(&mut self, part: &[u8]) {
        self.0.iter_mut().for_each(|hasher| part.hash(hasher));
    }

    fn finish(self) -> Key {
        Key(self.0.map(|hasher| hasher.finish()))
    }
}
