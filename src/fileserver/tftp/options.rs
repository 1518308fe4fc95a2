//! Which options are granted, and on what terms: only what was asked for appears in the OACK (RFC 2347).
//!
//! Pure. Junk is treated as not sent, what is too large is granted smaller, as RFC 2348 and 7440 allow.

use std::time::Duration;

use super::packet::{self, Asked};

/// Without the option (RFC 1350 §2).
pub const DEFAULT_BLOCK: usize = 512;
pub const MIN_BLOCK: usize = 8;
pub const MAX_BLOCK: usize = 65464;

/// The most that we grant.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    pub block_bytes: usize,
    pub window_blocks: u16,
}

/// The terms of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    pub block_bytes: usize,
    /// Blocks sent before an ACK is awaited.
    pub window_blocks: u16,
    /// The client's own wish for the time between repetitions (RFC 2349); else it adapts.
    pub timeout: Option<Duration>,
    /// The OACK packet; `None` when no option was granted: then the transfer begins as RFC 1350 says.
    pub oack: Option<Vec<u8>>,
}

/// Judges what was asked. `tsize_bytes` answers `tsize`: the file's size for a read, the client's own figure for a write.
pub fn negotiate(asked: &Asked, caps: Caps, tsize_bytes: u64) -> Terms {
    let mut granted = Vec::new();
    let mut terms = Terms { block_bytes: DEFAULT_BLOCK, window_blocks: 1, timeout: None, oack: None };
    if let Some(block) = asked.blksize.filter(|block| *block >= MIN_BLOCK as u64) {
        terms.block_bytes = usize::try_from(block).unwrap_or(MAX_BLOCK).min(caps.block_bytes).min(MAX_BLOCK);
        granted.push(("blksize", terms.block_bytes as u64));
    }
    if let Some(secs) = asked.timeout.filter(|secs| (1..=255).contains(secs)) {
        terms.timeout = Some(Duration::from_secs(secs));
        granted.push(("timeout", secs));
    }
    if asked.tsize.is_some() {
        granted.push(("tsize", tsize_bytes));
    }
    if let Some(window) = asked.windowsize.filter(|window| (1..=65535).contains(window)) {
        terms.window_blocks = u16::try_from(window).unwrap_or(u16::MAX).min(caps.window_blocks);
        granted.push(("windowsize", u64::from(terms.window_blocks)));
    }
    if !granted.is_empty() {
        terms.oack = Some(packet::oack(&granted));
    }
    terms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_and_what_is_granted() {
        let caps = Caps { block_bytes: 1428, window_blocks: 16 };
        let none = Asked::default();
        for (story, asked, block, window, oack) in [
            ("nothing asked", none, 512, 1, None),
            ("a size", Asked { blksize: Some(1024), ..none }, 1024, 1, Some(&b"\0\x06blksize\x001024\0"[..])),
            ("smallest", Asked { blksize: Some(8), ..none }, 8, 1, Some(b"\0\x06blksize\x008\0")),
            ("too large", Asked { blksize: Some(65464), ..none }, 1428, 1, Some(b"\0\x06blksize\x001428\0")),
            ("absurd", Asked { blksize: Some(u64::MAX), ..none }, 1428, 1, Some(b"\0\x06blksize\x001428\0")),
            ("zero", Asked { blksize: Some(0), ..none }, 512, 1, None),
            ("seven, but tsize", Asked { blksize: Some(7), tsize: Some(0), ..none }, 512, 1, Some(b"\0\x06tsize\x0020480\0")),
            ("no window of 0", Asked { windowsize: Some(0), ..none }, 512, 1, None),
            ("large window", Asked { windowsize: Some(65535), ..none }, 512, 16, Some(b"\0\x06windowsize\x0016\0")),
            ("timeout of 0", Asked { timeout: Some(0), ..none }, 512, 1, None),
            ("timeout of 256", Asked { timeout: Some(256), ..none }, 512, 1, None),
            ("timeout", Asked { timeout: Some(4), ..none }, 512, 1, Some(b"\0\x06timeout\x004\0")),
        ] {
            let terms = negotiate(&asked, caps, 20480);
            assert_eq!((terms.block_bytes, terms.window_blocks, terms.oack.as_deref()), (block, window, oack), "{story}");
        }
    }
}
