//! One SIP message as a view of the bytes it came in: headers are located once, decoded when asked for, never copied.
//!
//! [`Message::parse`] finds the start line, the headers and the body with one allocation. It takes what real senders send:
//! compact names, folded lines, bare LF, CRLF before the message, bytes that are no UTF-8. What it does not know it keeps
//! byte for byte. [`Message::check`] is the strictness of RFC 3261 and RFC 4475 §3.1.2, in one place, with the status to
//! answer. Not here: cutting a stream into messages (`transport/framing.rs`), writing one (`build.rs`).

use std::{borrow::Cow, fmt, net::SocketAddr};

use bytes::Bytes;

use super::{
    header::{Auth, CSeq, Contact, Elements, NameAddr, Via, is_space, is_token, number, text, trim},
    name::Name,
    uri::{Scheme, Uri, UriError},
};

/// Longest message taken: what a datagram can carry. Offsets are 16 bits wide.
pub const MAX_LEN: usize = 65_535;
/// Most header lines taken. The busiest real ones have about 60 (SBCs with long Via and Record-Route lists).
pub const MAX_HEADERS: usize = 256;
/// Headers that there is room for at once: as many as phones send. A message is handed on by value many times, so they are not in it.
const USUAL_HEADERS: usize = 24;

/// A method. Unknown ones are kept as written: they may get 405 or pass through, by who answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    Invite,
    Ack,
    Bye,
    Cancel,
    Register,
    Options,
    Info,
    Notify,
    Subscribe,
    Update,
    Prack,
    Refer,
    Message,
    Publish,
    Other(Box<str>),
}

impl Method {
    /// Methods are case-sensitive (RFC 3261 §7.1). `text` must be a token.
    pub fn of(text: &str) -> Self {
        match text {
            "INVITE" => Self::Invite,
            "ACK" => Self::Ack,
            "BYE" => Self::Bye,
            "CANCEL" => Self::Cancel,
            "REGISTER" => Self::Register,
            "OPTIONS" => Self::Options,
            "INFO" => Self::Info,
            "NOTIFY" => Self::Notify,
            "SUBSCRIBE" => Self::Subscribe,
            "UPDATE" => Self::Update,
            "PRACK" => Self::Prack,
            "REFER" => Self::Refer,
            "MESSAGE" => Self::Message,
            "PUBLISH" => Self::Publish,
            other => Self::Other(other.into()),
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Invite => "INVITE",
            Self::Ack => "ACK",
            Self::Bye => "BYE",
            Self::Cancel => "CANCEL",
            Self::Register => "REGISTER",
            Self::Options => "OPTIONS",
            Self::Info => "INFO",
            Self::Notify => "NOTIFY",
            Self::Subscribe => "SUBSCRIBE",
            Self::Update => "UPDATE",
            Self::Prack => "PRACK",
            Self::Refer => "REFER",
            Self::Message => "MESSAGE",
            Self::Publish => "PUBLISH",
            Self::Other(text) => text,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why bytes are no SIP message at all: there is nothing to answer, so they are counted and dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("no bytes but line ends: a keep-alive")]
    Empty,
    #[error("longer than {MAX_LEN} bytes")]
    TooLong,
    #[error("more than {MAX_HEADERS} headers")]
    TooManyHeaders,
    #[error("the first line is neither a request nor a status line of SIP")]
    NotSip,
    #[error("the headers do not end with an empty line")]
    Unfinished,
    #[error("a header line has no name")]
    NoName,
}

/// What is wrong with a message that can still be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{what}", .header.as_str(), if *.header == Name::Other { "" } else { ": " })]
pub struct Fault {
    /// The status to answer: 400, 416, 505.
    pub status: u16,
    /// Where; [`Name::Other`] for the start line and the body.
    pub header: Name,
    /// What, short enough for a reason phrase.
    pub what: &'static str,
}

impl Fault {
    pub(super) fn new(header: Name, what: &'static str) -> Self {
        Self { status: 400, header, what }
    }
}

#[derive(Clone)]
enum Start {
    Request { method: Method, uri: Span },
    Status { code: u16, reason: Span },
}

/// Offsets into the message.
#[derive(Clone, Copy, Default)]
struct Span {
    start: u16,
    end: u16,
}

#[derive(Clone, Copy)]
struct Slot {
    name: Name,
    /// The name as written starts here, ends before the colon.
    name_at: Span,
    /// Without the white space around it; may hold the line ends of folding.
    value: Span,
}

/// A request or a response. Cloning copies offsets and shares the bytes.
#[derive(Clone)]
pub struct Message {
    bytes: Bytes,
    start: Start,
    version_is_2: bool,
    /// Something in the start line that RFC 4475 §3.1.2 wants refused.
    start_fault: Option<&'static str>,
    slots: Vec<Slot>,
    body: Span,
    length_fault: Option<&'static str>,
    /// Where it came from, once known: copied into the top Via of answers (RFC 3261 §18.2.1).
    source: Option<SocketAddr>,
}

impl Message {
    /// Parses one whole message: a datagram, or what the stream framer cut out.
    pub fn parse(bytes: Bytes) -> Result<Self, ParseError> {
        let lead = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        // RFC 3261 §7.5: ignore line ends before the start line. Two phones in ten send a keep-alive and a request in one.
        let bytes = if lead > 0 { bytes.slice(lead..) } else { bytes };
        if bytes.is_empty() || bytes.iter().all(|b| *b == 0) {
            return Err(ParseError::Empty);
        }
        if bytes.len() > MAX_LEN {
            return Err(ParseError::TooLong);
        }
        let first_line = Line::at(&bytes, 0).ok_or(ParseError::Unfinished)?;
        let (start, version_is_2, start_fault) = parse_start(&bytes, first_line.span(0))?;
        let mut message = Self {
            start,
            version_is_2,
            start_fault,
            slots: Vec::with_capacity(USUAL_HEADERS),
            body: Span::default(),
            length_fault: None,
            source: None,
            bytes: Bytes::new(),
        };
        let body = message.locate_headers(&bytes, first_line.next)?;
        message.body = Span { start: body as u16, end: bytes.len() as u16 };
        message.bytes = bytes;
        message.bound_body();
        Ok(message)
    }

    /// Walks the header lines from `at`; returns where the body starts.
    fn locate_headers(&mut self, bytes: &[u8], mut at: usize) -> Result<usize, ParseError> {
        loop {
            let line = Line::at(bytes, at).ok_or(ParseError::Unfinished)?;
            if line.end == at {
                return Ok(line.next);
            }
            let mut end = line.end;
            let mut next = line.next;
            // Folded: the next line starts with white space (RFC 3261 §7.3.1).
            while let Some(b' ' | b'\t') = bytes.get(next) {
                let more = Line::at(bytes, next).ok_or(ParseError::Unfinished)?;
                (end, next) = (more.end, more.next);
            }
            let colon = bytes.get(at..end).and_then(|l| memchr::memchr(b':', l)).ok_or(ParseError::NoName)? + at;
            let name_at = trimmed(bytes, at, colon);
            if name_at.start == name_at.end {
                return Err(ParseError::NoName);
            }
            let name = Name::of(bytes.get(usize::from(name_at.start)..usize::from(name_at.end)).unwrap_or_default());
            self.push(Slot { name, name_at, value: trimmed(bytes, colon + 1, end) })?;
            at = next;
        }
    }

    fn push(&mut self, slot: Slot) -> Result<(), ParseError> {
        if self.slots.len() >= MAX_HEADERS {
            return Err(ParseError::TooManyHeaders);
        }
        self.slots.push(slot);
        Ok(())
    }

    /// Applies Content-Length: a datagram's body may be longer than said (cut) but not shorter (RFC 3261 §18.3).
    fn bound_body(&mut self) {
        let mut said: Option<u32> = None;
        let mut fault = None;
        for value in self.all(Name::ContentLength) {
            match number(value) {
                None => fault = Some("not a number"),
                Some(n) if said.is_some_and(|s| s != n) => fault = Some("said twice, and differently"),
                Some(n) => said = Some(n),
            }
        }
        let there = u32::from(self.body.end - self.body.start);
        match said {
            Some(n) if n > there => fault = fault.or(Some("more than there is")),
            Some(n) => self.body.end = self.body.start + n as u16,
            None => {}
        }
        self.length_fault = fault;
    }

    // --- start line

    pub fn is_request(&self) -> bool {
        matches!(self.start, Start::Request { .. })
    }

    /// The method of a request; of a response, `None` (its CSeq has it: [`Self::cseq`]).
    pub fn method(&self) -> Option<&Method> {
        match &self.start {
            Start::Request { method, .. } => Some(method),
            Start::Status { .. } => None,
        }
    }

    pub fn is(&self, method: &Method) -> bool {
        self.method() == Some(method)
    }

    /// The Request-URI as written; empty in a response.
    pub fn raw_uri(&self) -> &[u8] {
        match &self.start {
            Start::Request { uri, .. } => self.get(*uri),
            Start::Status { .. } => b"",
        }
    }

    /// The Request-URI taken apart.
    pub fn uri(&self) -> Result<Uri<'_>, Fault> {
        let text = std::str::from_utf8(self.raw_uri()).map_err(|_| Fault::new(Name::Other, "Request-URI is no text"))?;
        Uri::parse(text).map_err(|e| Fault::new(Name::Other, uri_fault(e)))
    }

    /// The status of a response, 100–699.
    pub fn status(&self) -> Option<u16> {
        match self.start {
            Start::Status { code, .. } => Some(code),
            Start::Request { .. } => None,
        }
    }

    /// The words after the status.
    pub fn reason(&self) -> Cow<'_, str> {
        match self.start {
            Start::Status { reason, .. } => text(self.get(reason)),
            Start::Request { .. } => Cow::Borrowed(""),
        }
    }

    // --- headers, raw

    /// The first header of that name: its value without the white space around it. It may be folded.
    pub fn header(&self, name: Name) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// Every header of that name, in order.
    pub fn all(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        self.slots.iter().filter(move |slot| slot.name == name).map(|slot| self.get(slot.value))
    }

    /// The first header whose name is `name` as text, known or not, without case.
    pub fn header_named(&self, name: &str) -> Option<&[u8]> {
        self.headers().find(|(_, written, _)| written.eq_ignore_ascii_case(name.as_bytes())).map(|(_, _, value)| value)
    }

    /// All headers in order: known name, name as written, value.
    pub fn headers(&self) -> impl Iterator<Item = (Name, &[u8], &[u8])> {
        self.slots.iter().map(|slot| (slot.name, self.get(slot.name_at), self.get(slot.value)))
    }

    /// A header's value as text with its folds taken out.
    pub fn text(&self, name: Name) -> Option<Cow<'_, str>> {
        self.header(name).map(unfold)
    }

    /// The elements of every header of that name, split at commas.
    pub fn elements(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        self.all(name).flat_map(Elements::new)
    }

    /// Whether a list header (Require, Supported, Allow …) names `token`, without case.
    pub fn lists(&self, name: Name, token: &str) -> bool {
        self.elements(name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }

    // --- headers, decoded

    /// The topmost Via.
    pub fn via(&self) -> Result<Via<'_>, Fault> {
        let value = self.elements(Name::Via).next().ok_or_else(|| missing(Name::Via))?;
        Via::parse(value).map_err(|what| Fault::new(Name::Via, what))
    }

    pub fn from(&self) -> Result<NameAddr<'_>, Fault> {
        self.name_addr(Name::From)
    }

    pub fn to(&self) -> Result<NameAddr<'_>, Fault> {
        self.name_addr(Name::To)
    }

    /// The first element of a header that holds addresses, as Contact or Refer-To.
    pub fn name_addr(&self, name: Name) -> Result<NameAddr<'_>, Fault> {
        let value = self.header(name).ok_or_else(|| missing(name))?;
        let single = matches!(name, Name::From | Name::To);
        let value = if single { value } else { Elements::new(value).next().unwrap_or_default() };
        NameAddr::parse(value).map_err(|what| Fault::new(name, what))
    }

    /// All elements of a header that holds addresses, as Route and Record-Route, top first.
    pub fn name_addrs(&self, name: Name) -> impl Iterator<Item = Result<NameAddr<'_>, Fault>> {
        self.elements(name).map(move |value| NameAddr::parse(value).map_err(|what| Fault::new(name, what)))
    }

    pub fn call_id(&self) -> Result<&str, Fault> {
        let value = self.header(Name::CallId).ok_or_else(|| missing(Name::CallId))?;
        match std::str::from_utf8(value) {
            Ok(id) if !id.is_empty() && !id.bytes().any(is_space) => Ok(id),
            _ => Err(Fault::new(Name::CallId, "not a word")),
        }
    }

    pub fn cseq(&self) -> Result<CSeq<'_>, Fault> {
        let value = self.header(Name::CSeq).ok_or_else(|| missing(Name::CSeq))?;
        CSeq::parse(value).map_err(|what| Fault::new(Name::CSeq, what))
    }

    /// The Contacts, with `*` as what it is.
    pub fn contacts(&self) -> impl Iterator<Item = Result<Contact<'_>, Fault>> {
        self.elements(Name::Contact).map(Contact::parse)
    }

    /// The URI of the first Contact, as written.
    pub fn contact_uri(&self) -> Option<&str> {
        self.name_addr(Name::Contact).ok().map(|contact| contact.uri_str()).filter(|uri| *uri != "*")
    }

    /// A header that is one number, as Expires and Max-Forwards. `Ok(None)` when it is not there.
    pub fn number(&self, name: Name) -> Result<Option<u32>, Fault> {
        match self.header(name) {
            None => Ok(None),
            Some(value) => number(value).map(Some).ok_or_else(|| Fault::new(name, "not a number below 2^32")),
        }
    }

    /// Seconds. A number that does not fit is taken as the largest (RFC 3261 §10.2.1.1 leaves it to us; RFC 4475 §3.1.2.4).
    pub fn expires(&self) -> Option<u32> {
        self.number(Name::Expires).ok().flatten()
    }

    /// Hops left; `None` if the header is missing or no number.
    pub fn max_forwards(&self) -> Option<u32> {
        self.number(Name::MaxForwards).ok().flatten()
    }

    /// `application/sdp` without parameters, in lower case.
    pub fn content_type(&self) -> Option<String> {
        let value = self.text(Name::ContentType)?;
        let kind = value.split(';').next().unwrap_or_default();
        Some(kind.split_whitespace().collect::<String>().to_ascii_lowercase())
    }

    /// Credentials in `name` (Authorization, Proxy-Authorization), or challenges in WWW-/Proxy-Authenticate. One per header line.
    pub fn auths(&self, name: Name) -> impl Iterator<Item = Auth<'_>> {
        self.all(name).filter_map(Auth::parse)
    }

    // --- the rest

    pub fn body(&self) -> &[u8] {
        self.get(self.body)
    }

    /// The body, sharing the message's memory.
    pub fn body_bytes(&self) -> Bytes {
        self.bytes.slice(usize::from(self.body.start)..usize::from(self.body.end))
    }

    /// The whole message as it came, without line ends before it.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Where it came from, if told.
    pub fn source(&self) -> Option<SocketAddr> {
        self.source
    }

    /// Notes where it came from: answers then carry `received` and `rport` (RFC 3261 §18.2.1, RFC 3581 §4).
    pub fn set_source(&mut self, source: SocketAddr) {
        self.source = Some(source);
    }

    /// Whether the message may be acted upon; if not, what to answer (a bad response is dropped instead).
    pub fn check(&self) -> Result<(), Fault> {
        if let Some(what) = self.start_fault {
            return Err(Fault::new(Name::Other, what));
        }
        if !self.version_is_2 {
            return Err(Fault { status: 505, header: Name::Other, what: "only SIP/2.0 is spoken here" });
        }
        for name in [Name::From, Name::To, Name::CallId, Name::CSeq, Name::MaxForwards, Name::ContentType, Name::Expires] {
            if self.all(name).nth(1).is_some() {
                return Err(Fault::new(name, "there twice"));
            }
        }
        self.via()?;
        // The others are copied into answers and followed by nobody here, but half a Via is no Via.
        for value in self.elements(Name::Via).skip(1) {
            Via::parse(value).map_err(|what| Fault::new(Name::Via, what))?;
        }
        for name in [Name::From, Name::To] {
            self.name_addr(name)?.uri().map_err(|e| Fault::new(name, uri_fault(e)))?;
        }
        self.call_id()?;
        let cseq = self.cseq()?;
        if let Some(what) = self.length_fault {
            return Err(Fault::new(Name::ContentLength, what));
        }
        if self.number(Name::MaxForwards)?.is_some_and(|hops| hops > 255) {
            return Err(Fault::new(Name::MaxForwards, "not a number up to 255"));
        }
        if let Some(method) = self.method() {
            if cseq.method != method.as_str() {
                return Err(Fault::new(Name::CSeq, "another method than the request's"));
            }
            // Where to reach the sender must be plain (RFC 4475 §3.1.2.13); elsewhere a bad Contact does no harm.
            if matches!(method, Method::Register | Method::Invite) {
                self.contacts().try_for_each(|contact| contact.map(|_| ()))?;
            }
            // A scheme that nobody here speaks is 416, whatever else may be in the URI (RFC 3261 §8.2.2.1).
            let uri = self.uri()?;
            if uri.scheme == Scheme::Other {
                return Err(Fault { status: 416, header: Name::Other, what: "only sip, sips and tel are spoken here" });
            }
            // RFC 3261 §19.1.1: no headers in a Request-URI.
            if !uri.headers().is_empty() {
                return Err(Fault::new(Name::Other, "Request-URI with headers"));
            }
        }
        Ok(())
    }

    fn get(&self, span: Span) -> &[u8] {
        self.bytes.get(usize::from(span.start)..usize::from(span.end)).unwrap_or_default()
    }
}

impl fmt::Debug for Message {
    /// The start line only: headers may hold credentials, a body keyed digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.start {
            Start::Request { method, uri } => write!(f, "{method} {}", text(self.get(*uri))),
            Start::Status { code, reason } => write!(f, "{code} {}", text(self.get(*reason))),
        }
    }
}

fn missing(name: Name) -> Fault {
    Fault::new(name, "missing")
}

fn uri_fault(error: UriError) -> &'static str {
    match error {
        UriError::NoScheme => "a URI without scheme",
        UriError::BadCharacter => "a URI with a character that must be escaped",
        UriError::BadHost => "a URI without valid host",
        UriError::BadPort => "a URI without valid port",
    }
}

/// A value on one line: each fold becomes a space.
fn unfold(value: &[u8]) -> Cow<'_, str> {
    if !value.iter().any(|b| matches!(b, b'\r' | b'\n')) {
        return text(value);
    }
    let mut out = Vec::with_capacity(value.len());
    for line in value.split(|b| *b == b'\n') {
        if !out.is_empty() {
            out.push(b' ');
        }
        out.extend_from_slice(trim(line));
    }
    Cow::Owned(text(&out).into_owned())
}

/// A line: `end` is before its CRLF or LF, `next` after it.
struct Line {
    end: usize,
    next: usize,
}

impl Line {
    fn at(bytes: &[u8], at: usize) -> Option<Self> {
        let lf = memchr::memchr(b'\n', bytes.get(at..)?)? + at;
        let end = if lf > at && bytes.get(lf - 1) == Some(&b'\r') { lf - 1 } else { lf };
        Some(Self { end, next: lf + 1 })
    }

    fn span(&self, start: usize) -> Span {
        Span { start: start as u16, end: self.end as u16 }
    }
}

fn trimmed(bytes: &[u8], mut start: usize, mut end: usize) -> Span {
    while start < end && bytes.get(start).is_some_and(|b| is_space(*b)) {
        start += 1;
    }
    while end > start && bytes.get(end - 1).is_some_and(|b| is_space(*b)) {
        end -= 1;
    }
    Span { start: start as u16, end: end as u16 }
}

/// Request-Line or Status-Line; whether the version is ours; what is wrong with it though it can be read.
fn parse_start(bytes: &[u8], line: Span) -> Result<(Start, bool, Option<&'static str>), ParseError> {
    let (from, to) = (usize::from(line.start), usize::from(line.end));
    let text = bytes.get(from..to).unwrap_or_default();
    if text.len() >= 4 && text[..4].eq_ignore_ascii_case(b"SIP/") {
        return parse_status_line(text, from);
    }
    let method_len = memchr::memchr(b' ', text).ok_or(ParseError::NotSip)?;
    let (method, _) = text.split_at(method_len);
    if !is_token(method) {
        return Err(ParseError::NotSip);
    }
    // The version is the last word, so that a URI with spaces can be refused rather than misread.
    let body_end = text.len() - text.iter().rev().take_while(|b| is_space(**b)).count();
    let version_at = memchr::memrchr(b' ', text.get(..body_end).unwrap_or_default()).ok_or(ParseError::NotSip)? + 1;
    let version = text.get(version_at..body_end).unwrap_or_default();
    if version.len() < 5 || !version.get(..4).unwrap_or_default().eq_ignore_ascii_case(b"SIP/") {
        return Err(ParseError::NotSip);
    }
    let version_is_2 = version.eq_ignore_ascii_case(b"SIP/2.0");
    let uri = trimmed(bytes, from + method_len, from + version_at);
    let exact = (usize::from(uri.start), usize::from(uri.end)) == (from + method_len + 1, from + version_at - 1);
    let spaces = text.get(method_len + 1..version_at.saturating_sub(1)).unwrap_or_default().iter().any(|b| is_space(*b));
    let fault = if !exact || body_end != text.len() {
        Some("Request line with extra spaces")
    } else if uri.start >= uri.end || spaces {
        Some("Request-URI with spaces")
    } else {
        None
    };
    let method = Method::of(std::str::from_utf8(method).map_err(|_| ParseError::NotSip)?);
    Ok((Start::Request { method, uri }, version_is_2, fault))
}

fn parse_status_line(text: &[u8], from: usize) -> Result<(Start, bool, Option<&'static str>), ParseError> {
    let version_end = memchr::memchr(b' ', text).ok_or(ParseError::NotSip)?;
    let (version, rest) = text.split_at(version_end);
    let rest = rest.get(1..).unwrap_or_default();
    let digits = memchr::memchr(b' ', rest).unwrap_or(rest.len());
    let code = rest.get(..digits).and_then(number).filter(|code| digits == 3 && (100..700).contains(code)).ok_or(ParseError::NotSip)?;
    let start = (from + version_end + 1 + digits + 1).min(from + text.len());
    let reason = Span { start: start as u16, end: (from + text.len()) as u16 };
    Ok((Start::Status { code: code as u16, reason }, version.eq_ignore_ascii_case(b"SIP/2.0"), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = "Via: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: 1\r\nCSeq: 1 INFO\r\n";

    fn parse(text: impl Into<Bytes>) -> Message {
        Message::parse(text.into()).expect("a message")
    }

    #[test]
    fn what_real_senders_send_is_read() {
        let compact = "\r\n\r\nINFO sip:a SIP/2.0\nv:SIP/2.0/UDP [2001:db8::5]:5062;branch=z9hG4bKx\nf : A <tel:+49301;phone-context=x>;tag = 7\n\
                       t: sip:b@[::1]\ni: id\nm: *\nCSeq: 3\n INFO\nl:2\n\nhello";
        let message = parse(compact);
        assert!(message.check().is_ok());
        assert_eq!(message.via().unwrap().host(), "[2001:db8::5]");
        assert_eq!((message.from().unwrap().tag(), message.from().unwrap().display_name().as_ref()), (Some("7"), "A"));
        assert_eq!(message.to().unwrap().uri().unwrap().host(), "::1");
        assert_eq!((message.call_id(), message.cseq().unwrap().number), (Ok("id"), 3));
        assert!(matches!(message.contacts().next(), Some(Ok(Contact::Star))));
        assert_eq!(message.body(), b"he", "a datagram may be longer than it says");
        let latin1 = [b"INFO sip:a SIP/2.0\r\nX-Name: Zo\xeb\r\nSubject: \xff\xfe\r\n", REST.as_bytes(), b"\r\n\x00\xff\xfe"].concat();
        let message = parse(latin1.clone());
        assert_eq!(message.header_named("x-name"), Some(&b"Zo\xeb"[..]));
        assert_eq!((message.check(), message.body()), (Ok(()), &b"\x00\xff\xfe"[..]));
        assert_eq!(message.bytes(), &latin1);
    }

    #[test]
    fn what_is_no_message_is_told_apart() {
        let with = |line: &str| format!("{line}\r\n{REST}\r\n");
        for (text, error) in [
            ("\r\n\r\n".to_owned(), ParseError::Empty),
            ("\0\0\0\0".to_owned(), ParseError::Empty),
            ("hello".to_owned(), ParseError::Unfinished),
            (with("GET / HTTP/1.1"), ParseError::NotSip),
            (with("SIP/2.0 99 Too Small"), ParseError::NotSip),
            (with("SIP/2.0 0200 OK"), ParseError::NotSip),
            ("INFO sip:a SIP/2.0\r\nVia: x\r\n".to_owned(), ParseError::Unfinished),
            ("INFO sip:a SIP/2.0\r\nno colon\r\n\r\n".to_owned(), ParseError::NoName),
            ("INFO sip:a SIP/2.0\r\n: x\r\n\r\n".to_owned(), ParseError::NoName),
            (format!("INFO sip:a SIP/2.0\r\n{}\r\n", "a:b\r\n".repeat(MAX_HEADERS + 1)), ParseError::TooManyHeaders),
            (format!("INFO sip:a SIP/2.0\r\nX: {}\r\n\r\n", "x".repeat(MAX_LEN)), ParseError::TooLong),
        ] {
            assert_eq!(Message::parse(text.clone().into()).err(), Some(error), "{text:.60}");
        }
    }

    #[test]
    fn more_headers_than_usual_are_found() {
        let message = parse(format!("INFO sip:a SIP/2.0\r\n{}{REST}\r\n", "X: y\r\n".repeat(USUAL_HEADERS)));
        assert!(message.check().is_ok());
        assert_eq!(message.headers().count(), USUAL_HEADERS + 5);
    }

    #[test]
    fn answers_copy_what_they_must_and_smuggle_nothing() {
        use crate::sip::build::{Request, Response};
        let mut request = parse(
            "INVITE sip:a SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.5:5060;branch=z9hG4bK1;rport;received=9.9.9.9, SIP/2.0/TCP second\r\n\
             Via: SIP/2.0/UDP third\r\nRecord-Route: <sip:p;lr>\r\nf: <sip:a@b>;tag=1\r\nTo: \"X\"\r\n <sip:a@b>\r\ni: 1\r\nCSeq: 1 INVITE\r\n\r\n",
        );
        request.set_source("203.0.113.7:1024".parse().unwrap());
        let answer = Response::to(&request, 200)
            .to_tag("t\r\nEvil: 1")
            .record_routes_of(&request)
            .header(Name::Subject, "a\r\nEvil: 2")
            .body("text/plain", "hi");
        let text = String::from_utf8(answer.encode().to_vec()).unwrap();
        assert_eq!(
            text,
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.168.1.5:5060;branch=z9hG4bK1;received=203.0.113.7;rport=1024, SIP/2.0/TCP second\r\n\
             Via: SIP/2.0/UDP third\r\nFrom: <sip:a@b>;tag=1\r\nTo: \"X\"   <sip:a@b>;tag=t  Evil: 1\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\n\
             Record-Route: <sip:p;lr>\r\nSubject: a  Evil: 2\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi"
        );
        let again = parse(text);
        assert_eq!(again.via().unwrap().seen_at(), Some("203.0.113.7:1024".parse().unwrap()));
        let sent = Request::new(Method::Bye, "sip:a@b")
            .header_named("X-A\r\nEvil", "1")
            .raw_header(b"X-B", b"2\r\n 3")
            .encode("SIP/2.0/UDP h", "");
        assert!(!parse(sent.clone()).headers().any(|(_, name, _)| name.starts_with(b"Evil")), "{sent:?}");
    }
}
