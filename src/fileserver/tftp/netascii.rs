//! Mode netascii (RFC 764 by way of RFC 1350): a line ends with CR LF, a lone CR is CR NUL.
//!
//! Here a line ends with LF, as in every file we render. Not here: what the end of line of a phone's grammar is.

use bytes::Bytes;

/// To the wire: LF → CR LF, CR → CR NUL.
pub fn encode(text: &Bytes) -> Bytes {
    let extra = memchr::memchr2_iter(b'\n', b'\r', text).count();
    if extra == 0 {
        return text.clone();
    }
    let mut wire = Vec::with_capacity(text.len() + extra);
    for byte in text {
        match byte {
            b'\n' => wire.extend_from_slice(b"\r\n"),
            b'\r' => wire.extend_from_slice(b"\r\0"),
            other => wire.push(*other),
        }
    }
    wire.into()
}

/// From the wire: CR LF → LF, CR NUL → CR; a CR before anything else is kept as it came.
pub fn decode(wire: Vec<u8>) -> Vec<u8> {
    if memchr::memchr(b'\r', &wire).is_none() {
        return wire;
    }
    let mut text = Vec::with_capacity(wire.len());
    let mut bytes = wire.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let decoded = match (byte, bytes.peek()) {
            (b'\r', Some(b'\n')) => Some(b'\n'),
            (b'\r', Some(b'\0')) => Some(b'\r'),
            _ => None,
        };
        if decoded.is_some() {
            bytes.next();
        }
        text.push(decoded.unwrap_or(byte));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_both_ways() {
        for (text, wire) in [
            (&b""[..], &b""[..]),
            (b"plain", b"plain"),
            (b"a\nb\n", b"a\r\nb\r\n"),
            (b"a\rb", b"a\r\0b"),
            (b"dos\r\n", b"dos\r\0\r\n"),
            (b"\n\n\r", b"\r\n\r\n\r\0"),
        ] {
            assert_eq!(encode(&Bytes::from_static(text)), wire, "{text:?}");
            assert_eq!(decode(wire.to_vec()), text, "{wire:?}");
        }
        assert_eq!(decode(b"a\rb\r".to_vec()), b"a\rb\r");
    }

    proptest::proptest! {
        #[test]
        fn decode_undoes_encode(bytes in proptest::collection::vec(proptest::prop_oneof![proptest::strategy::Just(b'\r'), proptest::strategy::Just(b'\n'), proptest::strategy::Just(0u8), proptest::num::u8::ANY], 0..200)) {
            proptest::prop_assert_eq!(decode(encode(&Bytes::from(bytes.clone())).to_vec()), bytes);
        }
    }
}
