//! Offer and answer: RFC 4566, 3264, for one audio stream with telephone-events.
//!
//! [`Description`] reads what a peer wrote, [`Session`] speaks for one leg of ours and remembers what was agreed.
//! Not here: who holds whom, and who is connected to whom (`call`); packets (`rtp`, `media`).

pub mod negotiate;
pub mod parse;

pub use negotiate::{Codec, Direction, MediaParams, Session, Terms};
pub use parse::{Attribute, Description};

/// Why two sides cannot agree. Each maps to one SIP status ([`Error::status`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the session description is larger than {limit} bytes")]
    TooLong { limit: usize },
    #[error("the body is not a session description: it has no m= line")]
    NotSdp,
    #[error("no audio stream in common: offer PCMU, PCMA or G722 over RTP/AVP")]
    NothingInCommon,
    #[error("the answer does not fit the offer: it must have the same m= lines in the same order (RFC 3264 §6)")]
    BadAnswer,
}

impl Error {
    /// What to answer to a request that carried it (RFC 3261 §21.4).
    pub fn status(self) -> u16 {
        match self {
            Self::TooLong { .. } => 413,
            Self::NotSdp => 400,
            Self::NothingInCommon | Self::BadAnswer => 488,
        }
    }
}
