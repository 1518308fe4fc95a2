//! Cuts a byte stream into SIP messages, however the stream was split or joined on its way. Pure: bytes in, frames out.
//!
//! A message ends where its Content-Length says (RFC 3261 §18.3); without one it has no body. CRLFs between messages are
//! keep-alives (RFC 5626 §3.5.1): two are a ping, which wants one back. A stream whose boundaries cannot be told any more
//! is an error: close it. No lie about the length makes us hold more than one message's worth.

use bytes::{Buf, Bytes, BytesMut};

use crate::sip::{header, message::MAX_LEN, name::Name};

#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    Message(Bytes),
    /// Answer with CRLF.
    Ping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a message longer than {MAX_LEN} bytes, or one that says so")]
    TooLong,
    #[error("a Content-Length that is no number, or two that differ")]
    BadLength,
    #[error("bytes that are no SIP")]
    NotSip,
}

#[derive(Default)]
pub struct Framer {
    buffer: BytesMut,
    /// How far the end of the headers was looked for already.
    scanned: usize,
    /// The length of the message at the front, once its headers are there.
    wanted: Option<usize>,
    /// Whether an odd number of CRLFs was seen since the last message.
    half_ping: bool,
}

impl Framer {
    pub fn new() -> Self {
        Self::default()
    }

    /// Where to put what was read. Take all frames out before reading on.
    pub fn space(&mut self) -> &mut BytesMut {
        self.buffer.reserve(4096);
        &mut self.buffer
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether a message has begun and not ended: it should not take long.
    pub fn is_partial(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next whole frame, if there is one.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.wanted.is_none() {
            if let Some(ping) = self.skip_line_ends() {
                return Ok(Some(ping));
            }
            self.look_for_headers()?;
        }
        let Some(len) = self.wanted.filter(|len| self.buffer.len() >= *len) else {
            return Ok(None);
        };
        self.wanted = None;
        self.scanned = 0;
        self.half_ping = false;
        Ok(Some(Frame::Message(self.buffer.split_to(len).freeze())))
    }

    fn skip_line_ends(&mut self) -> Option<Frame> {
        loop {
            match self.buffer.get(..2) {
                Some(b"\r\n") => {
                    self.buffer.advance(2);
                    self.scanned = 0;
                    self.half_ping = !self.half_ping;
                    if !self.half_ping {
                        return Some(Frame::Ping);
                    }
                }
                _ if self.buffer.first() == Some(&b'\n') => self.buffer.advance(1),
                _ => return None,
            }
        }
    }

    fn look_for_headers(&mut self) -> Result<(), FrameError> {
        // A SIP message begins with a letter or another character of a token, or it is somebody's TLS or HTTP/2.
        if self.buffer.first().is_some_and(|b| *b != b'\r' && !header::is_token(&[*b])) {
            return Err(FrameError::NotSip);
        }
        loop {
            let Some(lf) = memchr::memchr(b'\n', self.buffer.get(self.scanned..).unwrap_or_default()) else {
                self.scanned = self.buffer.len();
                break;
            };
            let next = self.scanned + lf + 1;
            let end = match self.buffer.get(next..) {
                Some([b'\n', ..]) => next + 1,
                Some([b'\r', b'\n', ..]) => next + 2,
                // The empty line may be cut in two: look again from this line end.
                Some([] | [b'\r']) => break,
                _ => {
                    self.scanned = next;
                    continue;
                }
            };
            let body = content_length(self.buffer.get(..end).unwrap_or_default())?;
            let len = end.checked_add(body).filter(|len| *len <= MAX_LEN).ok_or(FrameError::TooLong)?;
            self.wanted = Some(len);
            return Ok(());
        }
        if self.buffer.len() > MAX_LEN { Err(FrameError::TooLong) } else { Ok(()) }
    }
}

/// The body's length by the headers; none said is none there.
fn content_length(head: &[u8]) -> Result<usize, FrameError> {
    let mut found = None;
    for line in head.split(|b| *b == b'\n').skip(1) {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (name, value) = line.split_at(colon);
        // A line that starts with white space goes on with the header before.
        if name.first().is_none_or(|b| header::is_space(*b)) || Name::of(header::trim(name)) != Name::ContentLength {
            continue;
        }
        let value = header::number(value.get(1..).unwrap_or_default()).ok_or(FrameError::BadLength)? as usize;
        if found.replace(value).is_some_and(|before| before != value) {
            return Err(FrameError::BadLength);
        }
    }
    Ok(found.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &[u8] = b"OPTIONS sip:a SIP/2.0\r\nContent-Length: 5\r\n\r\nab\r\nc";
    const B: &[u8] = b"INFO sip:b SIP/2.0\nX: l : 7\n l: 9\nl : 3\n\nxyz";
    const C: &[u8] = b"SIP/2.0 200 OK\r\nVia: x\r\n\r\n";

    fn frames(chunks: &[&[u8]]) -> Result<Vec<Frame>, FrameError> {
        let mut framer = Framer::new();
        let mut frames = Vec::new();
        for chunk in chunks {
            framer.push(chunk);
            while let Some(frame) = framer.next_frame()? {
                frames.push(frame);
            }
        }
        assert!(!framer.is_partial());
        Ok(frames)
    }

    #[test]
    fn any_split_and_any_join_gives_the_same_messages() {
        let stream = [A, b"\r\n\r\n", B, b"\r\n", C, A, b"\r\n\r\n\r\n\r\n"].concat();
        let message = |bytes: &'static [u8]| Frame::Message(Bytes::from_static(bytes));
        let expected = [message(A), Frame::Ping, message(B), message(C), message(A), Frame::Ping, Frame::Ping];
        assert_eq!(frames(&[&stream]).unwrap(), expected);
        assert_eq!(frames(&stream.chunks(1).collect::<Vec<_>>()).unwrap(), expected);
        for cut in 0..stream.len() {
            let (left, right) = stream.split_at(cut);
            assert_eq!(frames(&[left, right]).unwrap(), expected, "cut at {cut}");
            for second in [cut + 1, cut + 2, cut + 3] {
                if second < stream.len() {
                    assert_eq!(frames(&[left, &stream[cut..second], &stream[second..]]).unwrap(), expected, "cut at {cut} and {second}");
                }
            }
        }
    }

    #[test]
    fn lies_and_noise_end_the_stream() {
        for (bytes, error) in [
            (&b"OPTIONS sip:a SIP/2.0\r\nContent-Length: 4000000000\r\n\r\n"[..], FrameError::TooLong),
            (b"OPTIONS sip:a SIP/2.0\r\nl: 65535\r\n\r\n", FrameError::TooLong),
            (b"OPTIONS sip:a SIP/2.0\r\nl: -1\r\n\r\n", FrameError::BadLength),
            (b"OPTIONS sip:a SIP/2.0\r\nl: 99999999999999999999\r\n\r\n", FrameError::BadLength),
            (b"OPTIONS sip:a SIP/2.0\r\nl: 1\r\nContent-Length: 2\r\n\r\n", FrameError::BadLength),
            (b"\x16\x03\x01", FrameError::NotSip),
            (&[b'a'; MAX_LEN + 1], FrameError::TooLong),
        ] {
            assert_eq!(frames(&[bytes]).unwrap_err(), error);
        }
    }
}
