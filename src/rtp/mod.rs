//! RTP packets, reception figures, RTCP reports and telephone-events: RFC 3550, 3551, 4733.
//!
//! Values and bytes only: who sends what and when is decided in `media`. Not here: SRTP, header extensions beyond skipping them.

pub mod jitter;
pub mod packet;
pub mod reception;
pub mod rtcp;
pub mod telephone_event;

pub use packet::Packet;
pub use reception::Reception;
pub use telephone_event::Key;

/// Why bytes from the network are not RTP, RTCP or a telephone-event. A peer's fault: counted, never answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{got} bytes are too few for what the header announces")]
    Short { got: usize },
    #[error("version {0} where RTP has 2: is another protocol sent to this port?")]
    Version(u8),
    #[error("padding of {0} bytes is longer than the packet")]
    Padding(u8),
    #[error("type {0} is no RTCP report")]
    NotRtcp(u8),
}
