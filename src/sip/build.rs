//! Writes messages: requests and responses from parts, one allocation each.
//!
//! Via, Max-Forwards and Content-Length of a request are added when the endpoint sends it. A response starts as a copy of what
//! RFC 3261 §8.2.6.2 wants copied. Header values are cut at line ends: no value can smuggle a header in.

use std::{fmt, net::SocketAddr, ops::Range};

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    header::{Elements, NameAddr, Via},
    message::{Fault, Message, Method},
    name::Name,
};

/// A request before it is sent.
#[derive(Clone)]
pub struct Request {
    pub method: Method,
    /// Request-URI.
    pub uri: String,
    headers: BytesMut,
    has_max_forwards: bool,
    has_user_agent: bool,
    body: Bytes,
}

impl Request {
    pub fn new(method: Method, uri: impl Into<String>) -> Self {
        Self {
            method,
            uri: uri.into(),
            headers: BytesMut::with_capacity(512),
            has_max_forwards: false,
            has_user_agent: false,
            body: Bytes::new(),
        }
    }

    /// Adds a header below those there are. Not for Via and Content-Length, which are added when it is sent.
    #[must_use]
    pub fn header(mut self, name: Name, value: impl fmt::Display) -> Self {
        self.has_max_forwards |= name == Name::MaxForwards;
        self.has_user_agent |= name == Name::UserAgent;
        put_header(&mut self.headers, name.as_str(), value);
        self
    }

    /// Adds a header that has no [`Name`] here.
    #[must_use]
    pub fn header_named(mut self, name: &str, value: impl fmt::Display) -> Self {
        put_header(&mut self.headers, name, value);
        self
    }

    /// Adds a header whose value is bytes, as copied from another message.
    #[must_use]
    pub fn raw_header(mut self, name: &[u8], value: &[u8]) -> Self {
        put_raw(&mut self.headers, name, value);
        self
    }

    #[must_use]
    pub fn body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        put_header(&mut self.headers, Name::ContentType.as_str(), content_type);
        self.body = body.into();
        self
    }

    /// The bytes for the wire, with `via` (the value, without the name) on top, and with `product` as User-Agent, unless that is empty
    /// or there is one.
    pub fn encode(&self, via: impl fmt::Display, product: &str) -> Bytes {
        let mut out = BytesMut::with_capacity(self.headers.len() + self.body.len() + self.uri.len() + product.len() + 224);
        out.put_slice(self.method.as_str().as_bytes());
        out.put_u8(b' ');
        put_clean(&mut out, self.uri.as_bytes());
        out.put_slice(b" SIP/2.0\r\n");
        put_header(&mut out, "Via", via);
        if !self.has_max_forwards {
            out.put_slice(b"Max-Forwards: 70\r\n");
        }
        out.put_slice(&self.headers);
        if !self.has_user_agent && !product.is_empty() {
            put_header(&mut out, Name::UserAgent.as_str(), product);
        }
        finish(out, &self.body)
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.uri)
    }
}

/// A response before it is sent.
#[derive(Clone)]
pub struct Response {
    pub status: u16,
    head: BytesMut,
    /// Of `head`: what is copied from the request, with our tag.
    copied: Range<u32>,
    to_tag: ToTag,
    body: Bytes,
}

/// Whose tag the To header has, by places in the head.
#[derive(Clone, Copy)]
enum ToTag {
    /// Ours is to go there.
    Missing {
        at: u32,
    },
    Ours {
        from: u32,
        until: u32,
    },
    /// The request's, or none in a 100.
    Theirs,
}

impl Response {
    /// Answers `request` with the usual words: Via, From, To, Call-ID and CSeq are copied, `received` and `rport` filled in
    /// where the request's source is known.
    pub fn to(request: &Message, status: u16) -> Self {
        Self::with_reason(request, status, reason_phrase(status))
    }

    pub fn with_reason(request: &Message, status: u16, reason: &str) -> Self {
        Self::copying(request, status, |head| {
            head.put_slice(b"SIP/2.0 ");
            put_display(head, status.clamp(100, 699));
            head.put_u8(b' ');
            put_clean(head, reason.as_bytes());
            head.put_slice(b"\r\n");
        })
    }

    fn copying(request: &Message, status: u16, put_first_line: impl FnOnce(&mut BytesMut)) -> Self {
        // What is copied, and room for what the answer adds: a challenge or two, contacts.
        let copied: usize =
            request.headers().filter(|(name, ..)| is_copied(*name)).map(|(_, name, value)| name.len() + value.len() + 8).sum();
        let mut head = BytesMut::with_capacity(copied + 384);
        put_first_line(&mut head);
        let first_line = head.len() as u32;
        let mut first_via = true;
        let mut once = [Name::From, Name::To, Name::CallId, Name::CSeq].map(Some);
        let mut to_tag = ToTag::Theirs;
        for (name, written, value) in request.headers() {
            match name {
                Name::Via if first_via => {
                    put_top_via(&mut head, value, request.source());
                    first_via = false;
                }
                Name::Via => put_raw(&mut head, b"Via", value),
                // A request that has one of these twice is refused, and its answer has each once.
                Name::From | Name::To | Name::CallId | Name::CSeq
                    if once.iter_mut().any(|left| left.take_if(|left| *left == name).is_some()) =>
                {
                    put_raw(&mut head, name.as_str().as_bytes(), value);
                    if name == Name::To && status > 100 && NameAddr::parse(value).is_ok_and(|to| to.tag().is_none()) {
                        to_tag = ToTag::Missing { at: head.len() as u32 - 2 };
                    }
                }
                // RFC 3261 §8.2.6.1: a 100 repeats the Timestamp.
                Name::Timestamp if status == 100 => put_raw(&mut head, written, value),
                _ => {}
            }
        }
        let copied = first_line..head.len() as u32;
        Self { status, head, copied, to_tag, body: Bytes::new() }
    }

    /// The answer that [`Message::check`] asks for.
    pub fn fault(request: &Message, fault: &Fault) -> Self {
        if fault.status == 400 {
            Self::with_reason(request, 400, &format!("Bad Request ({fault})"))
        } else {
            Self::to(request, fault.status)
        }
    }

    /// Gives the To header its tag, if it has none. All but a 100 must have one; the endpoint makes one up otherwise.
    #[must_use]
    pub fn to_tag(mut self, tag: &str) -> Self {
        self.insert_tag(|head| {
            head.put_slice(b";tag=");
            put_clean(head, tag.as_bytes());
        });
        self
    }

    fn insert_tag(&mut self, put_tag: impl FnOnce(&mut BytesMut)) {
        if let ToTag::Missing { at } = self.to_tag {
            let rest = self.head.split_off(at as usize);
            put_tag(&mut self.head);
            let until = self.head.len() as u32;
            self.to_tag = ToTag::Ours { from: at, until };
            self.copied.end += until - at;
            self.head.unsplit(rest);
        }
    }

    pub fn needs_to_tag(&self) -> bool {
        matches!(self.to_tag, ToTag::Missing { .. })
    }

    /// Copies the Record-Route headers: needed in answers that make a dialog (RFC 3261 §12.1.1).
    #[must_use]
    pub fn record_routes_of(mut self, request: &Message) -> Self {
        for value in request.all(Name::RecordRoute) {
            put_raw(&mut self.head, b"Record-Route", value);
        }
        self
    }

    #[must_use]
    pub fn header(mut self, name: Name, value: impl fmt::Display) -> Self {
        put_header(&mut self.head, name.as_str(), value);
        self
    }

    #[must_use]
    pub fn header_named(mut self, name: &str, value: impl fmt::Display) -> Self {
        put_header(&mut self.head, name, value);
        self
    }

    #[must_use]
    pub fn body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        put_header(&mut self.head, Name::ContentType.as_str(), content_type);
        self.body = body.into();
        self
    }

    /// The bytes for the wire.
    pub fn encode(self) -> Bytes {
        finish(self.head, &self.body)
    }

    /// The bytes for the wire, and what makes them once more from the same request.
    pub fn encode_and_remember(self) -> (Bytes, Remembered) {
        let copied = self.copied.clone();
        let (from, until) = match self.to_tag {
            ToTag::Ours { from, until } => (from, until),
            ToTag::Missing { .. } | ToTag::Theirs => (0, 0),
        };
        let bytes = self.encode();
        let part = |from: u32, until: u32| bytes.get(from as usize..until as usize).unwrap_or_default();
        let kept = [part(0, copied.start), part(from, until), part(copied.end, bytes.len() as u32)].concat().into_boxed_slice();
        let remembered = Remembered { first_line: copied.start, tag: until - from, kept };
        (bytes, remembered)
    }
}

/// An answer but for what its request says itself, which is more than half of most: for one that is kept in case the request
/// comes again.
pub struct Remembered {
    /// Lengths in `kept`, whose third part is all behind what was copied.
    first_line: u32,
    tag: u32,
    kept: Box<[u8]>,
}

impl Remembered {
    /// The same bytes again, if it is the same request.
    pub fn encode(&self, request: &Message) -> Bytes {
        let (first_line, rest) = self.kept.split_at_checked(self.first_line as usize).unwrap_or_default();
        let (tag, rest) = rest.split_at_checked(self.tag as usize).unwrap_or_default();
        // Any final status does: it decides about a tag and nothing else here.
        let mut response = Response::copying(request, 200, |head| head.put_slice(first_line));
        response.insert_tag(|head| head.put_slice(tag));
        response.head.put_slice(rest);
        response.head.freeze()
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)
    }
}

/// What RFC 3261 §8.2.6.2 copies into answers.
fn is_copied(name: Name) -> bool {
    matches!(name, Name::Via | Name::From | Name::To | Name::CallId | Name::CSeq)
}

/// `<uri>` with a display name where there is one, as From, To and Contact want it.
pub fn name_addr(display_name: &str, uri: &str) -> String {
    if display_name.is_empty() { format!("<{uri}>") } else { format!("{} <{uri}>", super::header::quote(display_name)) }
}

fn finish(mut out: BytesMut, body: &[u8]) -> Bytes {
    out.put_slice(b"Content-Length: ");
    put_display(&mut out, body.len());
    out.put_slice(b"\r\n\r\n");
    out.put_slice(body);
    out.freeze()
}

/// The first element's `received` and `rport` as the source says; all else as it came.
fn put_top_via(out: &mut BytesMut, value: &[u8], source: Option<SocketAddr>) {
    let top = Elements::new(value).next().unwrap_or_default();
    let (Some(source), Ok(via)) = (source, Via::parse(top)) else {
        return put_raw(out, b"Via", value);
    };
    let sent_from = via.host().trim_matches(['[', ']']).parse() == Ok(source.ip());
    if sent_from && !via.wants_rport() && via.received().is_none() {
        return put_raw(out, b"Via", value);
    }
    out.put_slice(b"Via: SIP/2.0/");
    out.put_slice(via.transport.as_bytes());
    out.put_u8(b' ');
    out.put_slice(via.host().as_bytes());
    if let Some(port) = via.port {
        put_display(out, format_args!(":{port}"));
    }
    for (name, value) in via.params().iter() {
        // What the sender claims of these is not true unless we say it.
        if name.eq_ignore_ascii_case("received") || name.eq_ignore_ascii_case("rport") {
            continue;
        }
        out.put_u8(b';');
        put_clean(out, name.as_bytes());
        if let Some(value) = value {
            out.put_u8(b'=');
            put_clean(out, value.as_bytes());
        }
    }
    // RFC 3581 §4: with rport, received is there even if it is what sent-by says.
    put_display(out, format_args!(";received={}", source.ip()));
    if via.wants_rport() {
        put_display(out, format_args!(";rport={}", source.port()));
    }
    let consumed = top.as_ptr() as usize - value.as_ptr() as usize + top.len();
    put_clean(out, value.get(consumed..).unwrap_or_default());
    out.put_slice(b"\r\n");
}

fn put_header(out: &mut BytesMut, name: &str, value: impl fmt::Display) {
    put_clean(out, name.as_bytes());
    out.put_slice(b": ");
    put_display(out, value);
    out.put_slice(b"\r\n");
}

fn put_raw(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    put_clean(out, name);
    out.put_slice(b": ");
    put_clean(out, value);
    out.put_slice(b"\r\n");
}

/// Line ends, as of folds, become spaces.
fn put_clean(out: &mut BytesMut, bytes: &[u8]) {
    let from = out.len();
    out.put_slice(bytes);
    // Folds are rare: nothing is looked at twice where there are none.
    if memchr::memchr2(b'\r', b'\n', bytes).is_some() {
        let put = out.get_mut(from..).unwrap_or_default();
        put.iter_mut().filter(|b| matches!(b, b'\r' | b'\n')).for_each(|b| *b = b' ');
    }
}

fn put_display(out: &mut BytesMut, value: impl fmt::Display) {
    struct Clean<'a>(&'a mut BytesMut);
    impl fmt::Write for Clean<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            put_clean(self.0, text.as_bytes());
            Ok(())
        }
    }
    // Writing into memory does not fail.
    let _ = fmt::Write::write_fmt(&mut Clean(out), format_args!("{value}"));
}

/// The words that RFC 3261 §21 and its kin give a status.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        181 => "Call Is Being Forwarded",
        182 => "Queued",
        183 => "Session Progress",
        200 => "OK",
        202 => "Accepted",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        305 => "Use Proxy",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        410 => "Gone",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        421 => "Extension Required",
        422 => "Session Interval Too Small",
        423 => "Interval Too Brief",
        430 => "Flow Failed",
        429 => "Provide Referrer Identity",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        484 => "Address Incomplete",
        485 => "Ambiguous",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        493 => "Undecipherable",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        606 => "Not Acceptable",
        _ if status < 200 => "Progress",
        _ if status < 300 => "OK",
        _ if status < 400 => "Redirected",
        _ if status < 500 => "Client Error",
        _ if status < 600 => "Server Error",
        _ => "Global Failure",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_of_an_answer_makes_the_same_bytes_and_is_less() {
        let long = "Subject: x\r\nVIA: SIP/2.0/UDP p,\r\n SIP/2.0/UDP q\r\nf: <sip:a@b>\r\n ;tag=1\r\nCSeq: 1 INFO\r\ni: 1@h\r\n";
        for (via, to) in [("h;rport", "<sip:c@d>"), ("[2001:db8::1]:5062", "C <sip:c@d>;tag=theirs"), ("h", "\"C, D\" <sip:c@d>;x=y")] {
            let text = format!("INFO sip:c@d SIP/2.0\r\nVia: SIP/2.0/UDP {via};branch=z9hG4bK1\r\nTo: {to}\r\n{long}\r\n");
            let mut request = Message::parse(text.into()).unwrap();
            request.set_source("10.0.0.5:40000".parse().unwrap());
            let plain = Response::to(&request, 200).to_tag("ours");
            let full =
                Response::with_reason(&request, 500, "Odd\r\nthing").to_tag("a\nb").header(Name::Server, "x").body("text/plain", "hello");
            for response in [plain, full, Response::to(&request, 404)] {
                let expected = response.clone().encode();
                let (bytes, remembered) = response.encode_and_remember();
                assert_eq!((&bytes, &remembered.encode(&request)), (&expected, &expected));
                assert!(remembered.kept.len() < bytes.len() / 2, "{} of {}", remembered.kept.len(), bytes.len());
            }
        }
    }
}
