//! The typed parts of header values: parameters, name-addr, Via, CSeq, credentials. Views, decoded when asked for.
//!
//! A value comes raw from [`super::Message`]: it may be folded over lines and hold bytes that are no UTF-8. White space is
//! skipped wherever RFC 3261 §25.1 allows it; display names are read as UTF-8, else as Latin-1, which old phones send.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::{
    message::Fault,
    name::Name,
    uri::{Uri, split_host_port},
};

/// Space, tab, and the line ends of a folded value.
pub(super) fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\r' | b'\n')
}

pub(super) fn trim(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && is_space(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_space(*last)
    {
        text = rest;
    }
    text
}

/// RFC 3261 §25.1 `token`.
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|b| b.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(b))
}

/// Bytes as text: UTF-8, else each byte as the Latin-1 character it is.
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(bytes.iter().map(|b| *b as char).collect()),
    }
}

/// Length of the quoted string that `text` starts with, quotes included; `None` if it does not end.
fn quoted_len(text: &[u8]) -> Option<usize> {
    let mut i = 1;
    while let Some(b) = text.get(i) {
        match b {
            b'"' => return Some(i + 1),
            b'\\' => i += 2,
            _ => i += 1,
        }
    }
    None
}

/// Takes the quotes and backslashes of a quoted string off; anything else stays as it is.
pub fn unquote(value: &str) -> Cow<'_, str> {
    let Some(inner) = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) else {
        return Cow::Borrowed(value);
    };
    if !inner.contains('\\') {
        return Cow::Borrowed(inner);
    }
    let mut out = String::with_capacity(inner.len());
    let mut escaped = false;
    for c in inner.chars() {
        if c == '\\' && !escaped {
            escaped = true;
        } else {
            out.push(c);
            escaped = false;
        }
    }
    Cow::Owned(out)
}

/// Writes a text as a quoted string. Control characters, which RFC 3261 forbids even there, become spaces.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// How many bytes there are before the first comma that counts. What is begun and not finished takes the rest with it.
fn element_len(text: &[u8]) -> usize {
    let mut i = 0;
    // From one byte that means something to the next: most values have one of them, or none.
    while let Some(found) = text.get(i..).and_then(|rest| memchr::memchr3(b',', b'<', b'"', rest)) {
        i += found;
        let rest = text.get(i..).unwrap_or_default();
        i += match rest.first() {
            Some(b',') => return i,
            Some(b'<') => memchr::memchr(b'>', rest).map_or(rest.len(), |end| end + 1),
            _ => quoted_len(rest).unwrap_or(rest.len()),
        };
    }
    text.len()
}

/// Splits a value at its commas: those within quotes and `<>` do not count. Empty elements are left out.
#[derive(Clone)]
pub struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    pub fn new(value: &'a [u8]) -> Self {
        Self(value)
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while !self.0.is_empty() {
            let (element, rest) = self.0.split_at(element_len(self.0));
            self.0 = rest.get(1..).unwrap_or_default();
            let element = trim(element);
            if !element.is_empty() {
                return Some(element);
            }
        }
        None
    }
}

/// Parameters, as `;tag=x; lr ;q = "0.5"`. Names compare without case; values are as written, quotes included.
#[derive(Clone, Copy)]
pub struct Params<'a>(&'a [u8]);

impl<'a> Params<'a> {
    /// From the first `;` on.
    pub fn new(text: &'a [u8]) -> Self {
        Self(text)
    }

    /// Each as name and, where there is a `=`, value. Those that are no UTF-8 are left out.
    pub fn iter(&self) -> ParamsIter<'a> {
        ParamsIter { rest: self.0, separator: b';' }
    }

    /// `None`: not there; `Some(None)`: there without value.
    pub fn get(&self, name: &str) -> Option<Option<&'a str>> {
        self.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The value of a parameter that has one.
    pub fn value(&self, name: &str) -> Option<&'a str> {
        self.get(name).flatten()
    }

    /// The parameters as written, from the first `;`.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Debug for Params<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text(self.0))
    }
}

pub struct ParamsIter<'a> {
    rest: &'a [u8],
    separator: u8,
}

impl<'a> Iterator for ParamsIter<'a> {
    type Item = (&'a str, Option<&'a str>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            while let [first, rest @ ..] = self.rest
                && (is_space(*first) || *first == self.separator)
            {
                self.rest = rest;
            }
            if self.rest.is_empty() {
                return None;
            }
            let name_end = self.rest.iter().position(|b| *b == b'=' || *b == self.separator).unwrap_or(self.rest.len());
            let (name, rest) = self.rest.split_at(name_end);
            let mut value = None;
            self.rest = rest;
            if let [b'=', after @ ..] = rest {
                let lead = after.iter().take_while(|b| is_space(**b)).count();
                let after = after.get(lead..).unwrap_or_default();
                let quoted = if after.first() == Some(&b'"') { quoted_len(after).unwrap_or(after.len()) } else { 0 };
                let end = after.iter().skip(quoted).position(|b| *b == self.separator).map_or(after.len(), |at| at + quoted);
                let (written, rest) = after.split_at(end);
                value = Some(trim(written));
                self.rest = rest;
            }
            let name = std::str::from_utf8(trim(name));
            match (name, value.map(std::str::from_utf8)) {
                (Ok(name), None) if !name.is_empty() => return Some((name, None)),
                (Ok(name), Some(Ok(value))) if !name.is_empty() => return Some((name, Some(value))),
                _ => {}
            }
        }
    }
}

/// From, To, Contact, Route and their kin: `"Display" <uri>;params`, or `uri;params` (RFC 3261 §20.10).
#[derive(Clone, Copy)]
pub struct NameAddr<'a> {
    display: &'a [u8],
    uri: &'a str,
    params: Params<'a>,
}

impl<'a> NameAddr<'a> {
    /// Reads one element. The URI is only delimited here; [`Self::uri`] checks it.
    pub fn parse(value: &'a [u8]) -> Result<Self, &'static str> {
        let value = trim(value);
        let open = if value.first() == Some(&b'"') {
            let quoted = quoted_len(value).ok_or("a quoted string does not end")?;
            let gap = value.iter().skip(quoted).take_while(|b| is_space(**b)).count();
            match value.get(quoted + gap) {
                Some(b'<') => Some(quoted + gap),
                _ => return Err("no <uri> after the display name"),
            }
        } else {
            // Without `<` before the first `;`, it is a bare URI and the parameters are the header's.
            let stop = value.iter().position(|b| matches!(b, b'<' | b';' | b'"'));
            stop.filter(|at| value.get(*at) == Some(&b'<'))
        };
        let (display, uri, params) = match open {
            Some(open) => {
                let (display, rest) = value.split_at(open);
                let close = memchr::memchr(b'>', rest).ok_or("no > after the URI")?;
                let (uri, rest) = rest.split_at(close);
                (trim(display), uri.get(1..).unwrap_or_default(), trim(rest.get(1..).unwrap_or_default()))
            }
            None => {
                let end = value.iter().position(|b| *b == b';' || is_space(*b)).unwrap_or(value.len());
                let (uri, rest) = value.split_at(end);
                (&b""[..], uri, trim(rest))
            }
        };
        if !params.is_empty() && params.first() != Some(&b';') {
            return Err("text where ;parameters belong");
        }
        let uri = std::str::from_utf8(uri).map_err(|_| "the URI has bytes that must be escaped")?;
        if open.is_none() && uri.contains(['?', ',']) {
            // RFC 3261 §20.10: such a URI must stand in <>. Whose headers would they be otherwise?
            return Err("a URI with , or ? must stand in <>");
        }
        Ok(Self { display, uri, params: Params::new(params) })
    }

    /// The display name without quotes; empty if there is none.
    pub fn display_name(&self) -> Cow<'a, str> {
        match text(self.display) {
            Cow::Borrowed(name) => unquote(name),
            Cow::Owned(name) => Cow::Owned(unquote(&name).into_owned()),
        }
    }

    /// The URI taken apart.
    pub fn uri(&self) -> Result<Uri<'a>, super::uri::UriError> {
        Uri::parse(self.uri)
    }

    /// The URI as written.
    pub fn uri_str(&self) -> &'a str {
        self.uri
    }

    /// The header's parameters, those after the `>`.
    pub fn params(&self) -> Params<'a> {
        self.params
    }

    /// The dialog's tag in From and To.
    pub fn tag(&self) -> Option<&'a str> {
        self.params.iter().filter(|(name, _)| name.eq_ignore_ascii_case("tag")).find_map(|(_, value)| value.filter(|tag| !tag.is_empty()))
    }
}

impl fmt::Debug for NameAddr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} <{}>{:?}", text(self.display), self.uri, self.params)
    }
}

/// One hop of the way that a request took (RFC 3261 §20.42).
#[derive(Clone, Copy)]
pub struct Via<'a> {
    /// `UDP`, `TCP`, … as written.
    pub transport: &'a str,
    host: &'a str,
    pub port: Option<u16>,
    params: Params<'a>,
}

/// What a branch of RFC 3261 starts with; others are of RFC 2543 and do not identify a transaction.
pub const MAGIC_COOKIE: &str = "z9hG4bK";

impl<'a> Via<'a> {
    pub fn parse(value: &'a [u8]) -> Result<Self, &'static str> {
        let value = trim(value);
        let (protocol, rest) = split_word(value, b'/')?;
        let (version, rest) = split_word(rest, b'/')?;
        if !protocol.eq_ignore_ascii_case(b"SIP") || version != b"2.0" {
            return Err("not SIP/2.0");
        }
        let rest = trim(rest);
        let end = rest.iter().position(|b| is_space(*b)).ok_or("no host after the transport")?;
        let (transport, rest) = rest.split_at(end);
        if !is_token(transport) {
            return Err("no transport");
        }
        let rest = trim(rest);
        let (sent_by, params) = rest.split_at(memchr::memchr(b';', rest).unwrap_or(rest.len()));
        let sent_by = std::str::from_utf8(trim(sent_by)).map_err(|_| "the host is no text")?;
        let (host, port) = match split_host_port(sent_by) {
            Ok(parts) => parts,
            // `host : port` with spaces is allowed, if rare (RFC 3261 §25.1 COLON).
            Err(_) => {
                let (host, port) = sent_by.rsplit_once(':').ok_or("no valid host")?;
                let port = port.trim().parse().map_err(|_| "no valid port")?;
                (split_host_port(host.trim()).map_err(|_| "no valid host")?.0, Some(port))
            }
        };
        let transport = std::str::from_utf8(transport).map_err(|_| "no transport")?;
        Ok(Self { transport, host, port, params: Params::new(params) })
    }

    /// Host or address as written; IPv6 with its brackets.
    pub fn host(&self) -> &'a str {
        self.host
    }

    pub fn params(&self) -> Params<'a> {
        self.params
    }

    pub fn branch(&self) -> Option<&'a str> {
        self.params.value("branch").filter(|b| !b.is_empty())
    }

    /// Whether the sender asked for answers to the port that it sent from (RFC 3581).
    pub fn wants_rport(&self) -> bool {
        self.params.has("rport")
    }

    /// The address that the next hop saw.
    pub fn received(&self) -> Option<IpAddr> {
        self.params.value("received")?.trim_matches(['[', ']']).parse().ok()
    }

    /// The port that the next hop saw, if it filled it in.
    pub fn rport(&self) -> Option<u16> {
        self.params.value("rport")?.parse().ok()
    }

    /// Where the sender was seen, by `received` and `rport`, as a client learns its outer address from an answer.
    pub fn seen_at(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.received()?, self.rport().or(self.port).unwrap_or(5060)))
    }
}

fn split_word(text: &[u8], at: u8) -> Result<(&[u8], &[u8]), &'static str> {
    let end = memchr::memchr(at, text).ok_or("not SIP/2.0")?;
    let (word, rest) = text.split_at(end);
    Ok((trim(word), rest.get(1..).unwrap_or_default()))
}

/// Number and method of a request within its dialog or registration (RFC 3261 §20.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CSeq<'a> {
    pub number: u32,
    pub method: &'a str,
}

impl<'a> CSeq<'a> {
    pub fn parse(value: &'a [u8]) -> Result<Self, &'static str> {
        let value = trim(value);
        let (digits, method) = value.split_at(value.iter().position(|b| is_space(*b)).ok_or("no method")?);
        // RFC 3261 §8.1.1.5: less than 2**31.
        let number = number(digits).filter(|n| *n < 1 << 31).ok_or("no number below 2^31")?;
        let method = trim(method);
        if !is_token(method) {
            return Err("no method");
        }
        Ok(Self { number, method: std::str::from_utf8(method).map_err(|_| "no method")? })
    }
}

/// Decimal digits and nothing else; `None` when it does not fit.
pub(super) fn number(digits: &[u8]) -> Option<u32> {
    let digits = trim(digits);
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u32, |sum, b| {
        let digit = b.is_ascii_digit().then(|| u32::from(b - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// Credentials or a challenge: a scheme and `name=value` pairs (RFC 3261 §20.7, §20.44).
#[derive(Clone, Copy)]
pub struct Auth<'a> {
    pub scheme: &'a str,
    params: &'a [u8],
}

impl<'a> Auth<'a> {
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        let value = trim(value);
        let (scheme, params) = value.split_at(value.iter().position(|b| is_space(*b)).unwrap_or(value.len()));
        is_token(scheme).then(|| std::str::from_utf8(scheme).ok())?.map(|scheme| Self { scheme, params })
    }

    pub fn is_digest(&self) -> bool {
        self.scheme.eq_ignore_ascii_case("Digest")
    }

    /// A parameter without its quotes.
    pub fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        self.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| unquote(value))
    }

    /// Name and value as written.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        ParamsIter { rest: self.params, separator: b',' }.map(|(name, value)| (name, value.unwrap_or_default()))
    }
}

impl fmt::Debug for Auth<'_> {
    /// Only the scheme: the rest tells who it is and lets a password be guessed at.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} …", self.scheme)
    }
}

/// One element of Contact in a REGISTER (RFC 3261 §10.2.1).
#[derive(Clone, Copy, Debug)]
pub enum Contact<'a> {
    /// `*`: every contact of the address of record.
    Star,
    One(NameAddr<'a>),
}

impl<'a> Contact<'a> {
    pub fn parse(value: &'a [u8]) -> Result<Self, Fault> {
        match trim(value) {
            b"*" => Ok(Self::Star),
            value => NameAddr::parse(value).map(Self::One).map_err(|what| Fault::new(Name::Contact, what)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_addrs_come_in_many_shapes() {
        for (text, display, uri, tag) in [
            ("<sip:a@b>;tag=1", "", "sip:a@b", Some("1")),
            ("sip:a@b;tag=1", "", "sip:a@b", Some("1")),
            ("\"A \\\"quoted\\\" > ; , name\" <sip:a@b;lr> ; Tag = 1 ; x", "A \"quoted\" > ; , name", "sip:a@b;lr", Some("1")),
            ("Two  Words<sip:a@b>", "Two  Words", "sip:a@b", None),
            ("\"caller\"\r\n <sip:a@b>\r\n ;\r\n tag=q", "caller", "sip:a@b", Some("q")),
            ("tel:+1234;tag=x", "", "tel:+1234", Some("x")),
            ("<sip:a@b>;x=\"a;tag=no\";tag=yes", "", "sip:a@b", Some("yes")),
        ] {
            let addr = NameAddr::parse(text.as_bytes()).expect(text);
            assert_eq!((addr.display_name().as_ref(), addr.uri_str(), addr.tag()), (display, uri, tag), "{text}");
        }
        assert_eq!(NameAddr::parse(b"\"Zo\xeb\" <sip:a@b>").unwrap().display_name(), "Zoë");
        for text in ["\"open <sip:a@b>", "<sip:a@b", "\"x\" sip:a@b", "<sip:a@b> junk", "sip:a@b?x=y"] {
            assert!(NameAddr::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn elements_end_where_a_comma_counts() {
        /// The definition, byte by byte.
        fn plain(text: &[u8]) -> usize {
            let (mut i, mut in_angles) = (0, false);
            while let Some(b) = text.get(i) {
                match b {
                    b',' if !in_angles => return i,
                    b'<' => in_angles = true,
                    b'>' => in_angles = false,
                    b'"' if !in_angles => i += quoted_len(&text[i..]).unwrap_or(text.len() - i) - 1,
                    _ => {}
                }
                i += 1;
            }
            i.min(text.len())
        }
        // All texts of up to seven of these.
        let alphabet = b"a,<>\"\\";
        for length in 0..=7 {
            let mut digits = vec![0; length];
            loop {
                let text: Vec<u8> = digits.iter().map(|digit| alphabet[*digit]).collect();
                assert_eq!(element_len(&text), plain(&text), "{}", String::from_utf8_lossy(&text));
                let Some(at) = digits.iter().position(|digit| digit + 1 < alphabet.len()) else { break };
                digits[..at].fill(0);
                digits[at] += 1;
            }
        }
        let value = b" <sip:a,b@c>;x=\"1,2\" , \"D, E\" <sip:f> ,, g";
        assert!(Elements::new(value).eq([&b"<sip:a,b@c>;x=\"1,2\""[..], b"\"D, E\" <sip:f>", b"g"]));
    }

    #[test]
    fn vias_and_cseqs_are_read() {
        let via = Via::parse(b"SIP / 2.0 / UDP\t [::1]:5070 ; branch = z9hG4bKx;received=10.0.0.1;rport=77").unwrap();
        assert_eq!((via.transport, via.host(), via.port, via.branch()), ("UDP", "[::1]", Some(5070), Some("z9hG4bKx")));
        assert_eq!(via.seen_at(), Some("10.0.0.1:77".parse().unwrap()));
        assert_eq!(Via::parse(b"SIP/2.0/TCP host : 5061;branch=x").unwrap().port, Some(5061));
        for text in ["", "SIP/2.0", "SIP/2.0/UDP", "SIP/7.0/UDP h", "SIP/2.0/UDP h:99999", "SIP/2.0/UDP ;branch=1"] {
            assert!(Via::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(CSeq::parse(b"0009\r\n INVITE"), Ok(CSeq { number: 9, method: "INVITE" }));
        for text in ["", "1", "x INVITE", "4294967296 INVITE", "2147483648 INVITE", "1 ", "-1 ACK", "1 IN VITE"] {
            assert!(CSeq::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_and_credentials_are_split_at_the_right_commas() {
        let parts: Vec<_> = Elements::new(b"<sip:a,b@c>, \"x,\\\"y\" <sip:d>,, sip:e ,").collect();
        assert_eq!(parts, [&b"<sip:a,b@c>"[..], b"\"x,\\\"y\" <sip:d>", b"sip:e"]);
        let auth = Auth::parse(b"digest  username=\"a, \\\"b\",\r\n realm = \"r\" , nc=00000001,qop=auth").unwrap();
        assert!(auth.is_digest());
        assert_eq!(auth.get("Username").as_deref(), Some("a, \"b"));
        assert_eq!(auth.get("realm").as_deref(), Some("r"));
        assert_eq!((auth.get("nc").as_deref(), auth.get("qop").as_deref(), auth.get("cnonce")), (Some("00000001"), Some("auth"), None));
        assert_eq!(unquote(&quote("a\\b\"c")), "a\\b\"c");
    }
}
