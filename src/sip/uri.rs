//! SIP, SIPS and TEL URIs as views of the text they stand in (RFC 3261 §19.1, RFC 3966).
//!
//! Other schemes are carried as text. Escapes stay as written until [`Uri::user`] is asked. Not here: finding a host's address.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::header::Params;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Sip,
    Sips,
    Tel,
    /// Anything else, as `http` or `urn`: only [`Uri::as_str`] is of use.
    Other,
}

/// Why a text is no URI. The words are short enough for a reason phrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    #[error("URI has no scheme")]
    NoScheme,
    #[error("URI has a character that must be escaped")]
    BadCharacter,
    #[error("URI has no valid host")]
    BadHost,
    #[error("URI has no valid port")]
    BadPort,
}

/// A URI taken apart; everything points into the text it was parsed from.
#[derive(Clone, Copy)]
pub struct Uri<'a> {
    text: &'a str,
    pub scheme: Scheme,
    /// User part as written, without password; for `tel:` the number as written.
    raw_user: Option<&'a str>,
    host: &'a str,
    /// As written; `None` means the transport's own.
    pub port: Option<u16>,
    params: &'a str,
    headers: &'a str,
}

impl<'a> Uri<'a> {
    /// Takes `text` apart; it must be the URI and nothing else: no `<>`, no spaces.
    pub fn parse(text: &'a str) -> Result<Self, UriError> {
        let colon = memchr::memchr(b':', text.as_bytes()).ok_or(UriError::NoScheme)?;
        let (scheme, rest) = (&text[..colon], &text[colon + 1..]);
        if !is_scheme(scheme) {
            return Err(UriError::NoScheme);
        }
        if text.bytes().any(|b| b <= b' ' || b == 0x7f || matches!(b, b'<' | b'>' | b'"' | b'`' | b'\\' | b'^' | b'{' | b'}' | b'|')) {
            // The user part of RFC 3261 allows no backquote or backslash; what needs them escapes them.
            return Err(UriError::BadCharacter);
        }
        let scheme = if scheme.eq_ignore_ascii_case("sip") {
            Scheme::Sip
        } else if scheme.eq_ignore_ascii_case("sips") {
            Scheme::Sips
        } else if scheme.eq_ignore_ascii_case("tel") {
            let (number, params) = rest.split_at(rest.find(';').unwrap_or(rest.len()));
            return Ok(Self { text, scheme: Scheme::Tel, raw_user: Some(number), host: "", port: None, params, headers: "" });
        } else {
            return Ok(Self { text, scheme: Scheme::Other, raw_user: None, host: "", port: None, params: "", headers: "" });
        };
        // A user part may hold `;` and `?`; neither parameters nor headers may hold `@`: look for that first.
        let (raw_user, rest) = match rest.split_once('@') {
            Some(("", _)) => return Err(UriError::BadHost),
            Some((_, rest)) if rest.contains('@') => return Err(UriError::BadCharacter),
            Some((user, rest)) => (Some(user.split_once(':').map_or(user, |(user, _password)| user)), rest),
            None => (None, rest),
        };
        let (rest, headers) = rest.split_once('?').unwrap_or((rest, ""));
        let (hostport, params) = rest.split_at(rest.find(';').unwrap_or(rest.len()));
        let (host, port) = split_host_port(hostport)?;
        Ok(Self { text, scheme, raw_user, host, port, params, headers })
    }

    /// The whole URI as written.
    pub fn as_str(&self) -> &'a str {
        self.text
    }

    /// The user part with its escapes resolved, without password; for `tel:` the number without visual separators.
    pub fn user(&self) -> Option<Cow<'a, str>> {
        let user = self.raw_user?;
        if self.scheme == Scheme::Tel {
            let number: String = user.chars().filter(|c| !matches!(c, '-' | '.' | '(' | ')')).collect();
            return Some(Cow::Owned(number));
        }
        Some(unescape(user))
    }

    /// The user part as written.
    pub fn raw_user(&self) -> Option<&'a str> {
        self.raw_user
    }

    /// Domain or address as written; IPv6 without its brackets. Empty for schemes without a host.
    pub fn host(&self) -> &'a str {
        self.host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(self.host)
    }

    /// The host, if it is an address and not a name.
    pub fn ip(&self) -> Option<IpAddr> {
        parse_ip(self.host)
    }

    /// Where a request to it goes if the host is an address: port 5060, or 5061 for `sips` and TLS, where none is written.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        let tls = self.scheme == Scheme::Sips || self.transport().is_some_and(|t| t.eq_ignore_ascii_case("tls"));
        Some(SocketAddr::new(self.ip()?, self.port.unwrap_or(if tls { 5061 } else { 5060 })))
    }

    /// URI parameters, as `;transport=tcp;lr`.
    pub fn params(&self) -> Params<'a> {
        Params::new(self.params.as_bytes())
    }

    /// The value of `;transport=`.
    pub fn transport(&self) -> Option<&'a str> {
        self.params().value("transport")
    }

    /// Whether it is a loose router's URI (RFC 3261 §19.1.1).
    pub fn is_loose(&self) -> bool {
        self.params().has("lr")
    }

    /// The headers part, after `?`, as written.
    pub fn headers(&self) -> &'a str {
        self.headers
    }

    /// Whether both mean the same resource (RFC 3261 §19.1.4). Other schemes compare as text.
    pub fn is_same_as(&self, other: &Uri<'_>) -> bool {
        // As written it is the same whatever it means, also where a parameter is there twice.
        if self.scheme != other.scheme || self.text == other.text {
            return self.text == other.text;
        }
        match self.scheme {
            Scheme::Other => false,
            Scheme::Tel => self.user() == other.user() && params_agree(self, other),
            Scheme::Sip | Scheme::Sips => {
                self.user() == other.user()
                    && self.port == other.port
                    && (self.host.eq_ignore_ascii_case(other.host) || (self.ip().is_some() && self.ip() == other.ip()))
                    && self.headers == other.headers
                    && params_agree(self, other)
            }
        }
    }
}

/// `user`, `ttl`, `method`, `maddr` and `transport` must be in both or in none; any other only has to agree where both have it.
fn params_agree(a: &Uri<'_>, b: &Uri<'_>) -> bool {
    let covered = |one: &Uri<'_>, other: &Uri<'_>| {
        one.params().iter().all(|(name, value)| match other.params().get(name) {
            Some(theirs) => value.unwrap_or("").eq_ignore_ascii_case(theirs.unwrap_or("")),
            None => !["user", "ttl", "method", "maddr", "transport"].iter().any(|n| name.eq_ignore_ascii_case(n)),
        })
    };
    covered(a, b) && covered(b, a)
}

impl fmt::Display for Uri<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

impl fmt::Debug for Uri<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`. The host keeps its brackets. Also what a Via's sent-by is made of.
pub(super) fn split_host_port(text: &str) -> Result<(&str, Option<u16>), UriError> {
    let (host, port) = if text.starts_with('[') {
        let end = text.find(']').ok_or(UriError::BadHost)? + 1;
        let (host, rest) = text.split_at(end);
        if parse_ip(host).is_none() {
            return Err(UriError::BadHost);
        }
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err(UriError::BadHost),
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if host.is_empty() || !(host.starts_with('[') || host.bytes().all(name)) {
        return Err(UriError::BadHost);
    }
    let port = match port {
        // `host:` without digits is seen from phones whose port field was left empty.
        None | Some("") => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().map_err(|_| UriError::BadPort)?),
        Some(_) => return Err(UriError::BadPort),
    };
    Ok((host, port))
}

fn parse_ip(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// Resolves `%41`. What is no escape stays; what is no UTF-8 afterwards becomes U+FFFD.
pub fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while let Some(&b) = bytes.get(i) {
        let hex = |at: usize| bytes.get(at).and_then(|d| (*d as char).to_digit(16));
        match (b, hex(i + 1), hex(i + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                i += 3;
            }
            _ => {
                out.push(b);
                i += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// Writes a user part so that every character survives (RFC 3261 §25.1 `user-unreserved`).
pub fn escape_user(text: &str) -> Cow<'_, str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&b);
    if text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for b in text.bytes() {
        if plain(b) {
            out.push(b as char);
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_taken_apart() {
        for (text, user, host, port) in [
            ("sip:2041@10.0.0.1", Some("2041"), "10.0.0.1", None),
            ("sip:2041:secret@pbx.example.com:5070;transport=tcp?Subject=x", Some("2041"), "pbx.example.com", Some(5070)),
            ("sips:[2001:db8::1]:5061", None, "2001:db8::1", Some(5061)),
            ("SIP:a;b?c=1@host;lr", Some("a;b?c=1"), "host", None),
            ("sip:sip%3Auser%40example.com@company.com", Some("sip:user@example.com"), "company.com", None),
            ("tel:+49-30-1234;phone-context=example.com", Some("+49301234"), "", None),
            ("sip:host:", None, "host", None),
        ] {
            let uri = Uri::parse(text).expect(text);
            assert_eq!((uri.user().as_deref(), uri.host(), uri.port), (user, host, port), "{text}");
            assert_eq!(uri.to_string(), text);
        }
        for text in
            ["", "host", "sip:", "sip:@h", "sip:a@b@c", "sip:a b@h", "sip:[::1", "sip:[zz]", "sip:h:70000", "sip:h:x", "<sip:h>", "1sip:h"]
        {
            assert!(Uri::parse(text).is_err(), "{text}");
        }
        assert_eq!(Uri::parse("http://www.example.com/x?y").unwrap().scheme, Scheme::Other);
        assert!(Uri::parse("sip:h;lr").unwrap().is_loose());
        assert_eq!(Uri::parse("sip:[::1]").unwrap().socket_addr(), Some("[::1]:5060".parse().unwrap()));
    }

    #[test]
    fn uris_compare_as_rfc_3261_says() {
        for (a, b, same) in [
            ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp", true),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5", true),
            ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;newparam=5", true),
            ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off", false),
            ("sip:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP", false),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060", false),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp", false),
            ("sip:bob@10.0.0.1", "sip:bob@10.0.0.2", false),
            ("sip:a@[::1]", "sip:a@[0:0::1]", true),
            ("sip:a@h", "sips:a@h", false),
        ] {
            let (a, b) = (Uri::parse(a).unwrap(), Uri::parse(b).unwrap());
            assert_eq!(a.is_same_as(&b), same, "{a} {b}");
            assert_eq!(b.is_same_as(&a), same, "{b} {a}");
        }
    }

    #[test]
    fn user_parts_survive() {
        for user in ["2041", "a b", "sip:x@y", "Zoë", "*21#"] {
            assert_eq!(unescape(&escape_user(user)), user);
        }
        assert_eq!(unescape("%4"), "%4");
        assert_eq!(unescape("%zz%00"), "%zz\0");
    }
}
