//! Takes secrets out of a message that is to be shown: credentials, keyed digits, keys of encrypted sound.
//!
//! What is hidden becomes as many asterisks, so that all lengths stay true. Works line by line and not by the parser: what is
//! shown may be just what the parser refuses.

/// Parameters of digest headers that prove or help to guess a password.
const SECRETS: &[&str] = &["response", "nonce", "cnonce", "nextnonce", "rspauth", "opaque"];
const DIGEST_HEADERS: &[&str] = &["authorization", "proxy-authorization", "www-authenticate", "proxy-authenticate", "authentication-info"];

/// The message without its secrets.
pub fn masked(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let body_at = end_of_head(bytes);
    let (mut digest, mut keys) = (false, bytes.starts_with(b"INFO "));
    for (start, end) in lines(bytes, 0, body_at) {
        let Some(line) = bytes.get(start..end) else { continue };
        // A folded line belongs to the header above it.
        if !matches!(line.first(), Some(b' ' | b'\t')) {
            let colon = memchr::memchr(b':', line).unwrap_or(0);
            let name = String::from_utf8_lossy(line.get(..colon).unwrap_or_default()).trim().to_ascii_lowercase();
            digest = DIGEST_HEADERS.contains(&name.as_str());
            keys |= matches!(name.as_str(), "content-type" | "c") && line.to_ascii_lowercase().windows(4).any(|word| word == b"dtmf");
        }
        if digest {
            mask_parameters(&mut out, start, end);
        }
    }
    for (start, end) in lines(bytes, body_at, bytes.len()) {
        let Some(line) = bytes.get(start..end) else { continue };
        if let Some(at) = line.windows(7).position(|word| word == b"inline:") {
            // The key of SRTP (RFC 4568 §6.1).
            mask(&mut out, start + at + 7, end);
        } else if keys {
            match memchr::memchr(b'=', line) {
                Some(at) if line.get(..at).unwrap_or_default().trim_ascii().eq_ignore_ascii_case(b"signal") => {
                    mask(&mut out, start + at + 1, end)
                }
                // application/dtmf is the bare key.
                None => mask(&mut out, start, end),
                Some(_) => {}
            }
        }
    }
    out
}

/// Where the body begins.
fn end_of_head(bytes: &[u8]) -> usize {
    let crlf = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
    let bare = bytes.windows(2).position(|two| two == b"\n\n").map(|at| at + 2);
    crlf.into_iter().chain(bare).min().unwrap_or(bytes.len())
}

/// Start and end of each line, without its end.
fn lines(bytes: &[u8], from: usize, to: usize) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut start = from;
    while start < to {
        let end = bytes.get(start..to).and_then(|rest| memchr::memchr(b'\n', rest)).map_or(to, |at| start + at);
        let text_end = if end > start && bytes.get(end - 1) == Some(&b'\r') { end - 1 } else { end };
        found.push((start, text_end));
        start = end + 1;
    }
    found
}

/// `response="…"` and its like, wherever they stand in the line.
fn mask_parameters(out: &mut [u8], start: usize, end: usize) {
    let mut at = start;
    while let Some(equals) = out.get(at..end).and_then(|rest| memchr::memchr(b'=', rest)).map(|found| at + found) {
        let before = out.get(at..equals).unwrap_or_default();
        let name_from = before.iter().rposition(|b| matches!(b, b',' | b' ' | b'\t' | b':')).map_or(0, |found| found + 1);
        let name = String::from_utf8_lossy(before.get(name_from..).unwrap_or_default()).to_ascii_lowercase();
        let quoted = out.get(equals + 1) == Some(&b'"');
        let value_from = if quoted { equals + 2 } else { equals + 1 };
        let stop = |b: &u8| if quoted { *b == b'"' } else { matches!(b, b',' | b' ') };
        let value_to = out.get(value_from..end).and_then(|rest| rest.iter().position(stop)).map_or(end, |found| value_from + found);
        if SECRETS.contains(&name.as_str()) {
            mask(out, value_from, value_to);
        }
        at = (value_to + 1).min(end);
    }
}

fn mask(out: &mut [u8], from: usize, to: usize) {
    if let Some(hidden) = out.get_mut(from..to) {
        hidden.iter_mut().filter(|b| !b.is_ascii_whitespace()).for_each(|b| *b = b'*');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_all_else_stays() {
        for (text, shown) in [
            (
                "REGISTER sip:x SIP/2.0\r\nAuthorization: Digest username=\"2041\", nonce=\"abc\", uri=\"sip:x\",\r\n response=\"00ff\",nc=1,cnonce=q\r\nTo: <sip:a;response=1>\r\n\r\n",
                "REGISTER sip:x SIP/2.0\r\nAuthorization: Digest username=\"2041\", nonce=\"***\", uri=\"sip:x\",\r\n response=\"****\",nc=1,cnonce=*\r\nTo: <sip:a;response=1>\r\n\r\n",
            ),
            (
                "INFO sip:x SIP/2.0\r\nContent-Type: application/dtmf-relay\r\n\r\nSignal=5\r\nDuration=160\r\n",
                "INFO sip:x SIP/2.0\r\nContent-Type: application/dtmf-relay\r\n\r\nSignal=*\r\nDuration=160\r\n",
            ),
            ("INFO sip:x SIP/2.0\nc: application/dtmf\n\n7\n", "INFO sip:x SIP/2.0\nc: application/dtmf\n\n*\n"),
            (
                "SIP/2.0 401 No\r\nWWW-Authenticate: Digest realm=\"r\", nonce=\"abc\", qop=\"auth\"\r\n\r\n",
                "SIP/2.0 401 No\r\nWWW-Authenticate: Digest realm=\"r\", nonce=\"***\", qop=\"auth\"\r\n\r\n",
            ),
            (
                "INVITE sip:x SIP/2.0\r\n\r\nv=0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:S3cr3t\r\na=x\r\n",
                "INVITE sip:x SIP/2.0\r\n\r\nv=0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:******\r\na=x\r\n",
            ),
            ("half a message, Authorization: response=x", "half a message, Authorization: response=x"),
        ] {
            assert_eq!(String::from_utf8(masked(text.as_bytes())).unwrap(), shown);
        }
    }

    #[test]
    fn nothing_makes_it_fall_over() {
        for text in ["", "\r\n", "Authorization:=\r\n=\"", "authorization: nonce=\"", "INFO a\r\n\r\n=\n\n=", "a: b\r\n\r\ninline:"] {
            assert_eq!(masked(text.as_bytes()).len(), text.len(), "{text}");
        }
    }
}
