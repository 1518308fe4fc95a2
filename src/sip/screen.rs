//! What may be refused before anybody looks at a request's meaning: methods, extensions, hops, bodies (RFC 3261 §8.2).
//!
//! Pure: a request and what we can do in, an answer or nothing out. Not here: the form of the message ([`Message::check`]),
//! who may send it (`digest.rs`), whether there is such a dialog (`dialog.rs`).

use bytes::Bytes;

use super::{
    build::Response,
    message::{Message, Method},
    name::Name,
};

/// What this side can do; it goes into Allow, Accept and Supported.
#[derive(Clone, Debug)]
pub struct Abilities {
    pub methods: Vec<Method>,
    /// Option tags that a Require may name.
    pub extensions: Vec<&'static str>,
    /// Types of the bodies that an INVITE may carry.
    pub bodies: Vec<&'static str>,
    /// Packages that a SUBSCRIBE or NOTIFY may name.
    pub events: Vec<&'static str>,
    /// Whether calls go on from here to others: then a Max-Forwards of 0 ends them with 483.
    pub forwards: bool,
}

impl Default for Abilities {
    fn default() -> Self {
        Self {
            methods: vec![
                Method::Invite,
                Method::Ack,
                Method::Cancel,
                Method::Bye,
                Method::Options,
                Method::Info,
                Method::Notify,
                Method::Register,
                Method::Update,
                Method::Prack,
                Method::Refer,
            ],
            extensions: vec!["replaces", "norefersub", "timer", "100rel"],
            bodies: vec!["application/sdp"],
            events: vec![],
            forwards: true,
        }
    }
}

impl Abilities {
    /// The value of Allow.
    pub fn allow(&self) -> String {
        self.methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")
    }

    /// The value of Supported.
    pub fn supported(&self) -> String {
        self.extensions.join(", ")
    }

    /// Adds Allow, Accept and Supported, as the 200 to OPTIONS and answers to INVITE have them (RFC 3261 §11.2).
    #[must_use]
    pub fn describe(&self, response: Response) -> Response {
        let response = response
            .header(Name::Allow, self.allow())
            .header(Name::Accept, self.bodies.join(", "))
            .header_named("Accept-Encoding", "identity")
            .header(Name::Supported, self.supported());
        if self.events.is_empty() { response } else { response.header(Name::AllowEvents, self.events.join(", ")) }
    }

    /// The 200 to an OPTIONS.
    pub fn answer_options(&self, request: &Message) -> Response {
        self.describe(Response::to(request, 200))
    }

    /// The refusal of a well-formed request that begins a transaction, if it is one that nobody here could serve.
    pub fn screen(&self, request: &Message) -> Option<Response> {
        let method = request.method()?;
        if !self.methods.contains(method) {
            // RFC 3261 §21.5.2: 501 for a method that is not known at all, 405 for one that is not done here.
            let status = if matches!(method, Method::Other(_)) { 501 } else { 405 };
            return Some(Response::to(request, status).header(Name::Allow, self.allow()));
        }
        // RFC 3261 §8.2.2.3: Require means nothing in CANCEL and in the ACK of a refusal.
        if !matches!(method, Method::Cancel | Method::Ack)
            && let Some(refusal) = self.screen_extensions(request)
        {
            return Some(refusal);
        }
        // Whom it is for is answered here: only what would go on is stopped (RFC 3261 §16.3, §11).
        if self.forwards && matches!(method, Method::Invite | Method::Message | Method::Refer) && request.max_forwards() == Some(0) {
            return Some(Response::to(request, 483));
        }
        if *method == Method::Invite { self.screen_invite(request) } else { None }
    }

    fn screen_extensions(&self, request: &Message) -> Option<Response> {
        let unknown: Vec<_> = [Name::Require, Name::ProxyRequire]
            .into_iter()
            .flat_map(|name| request.elements(name))
            // Enough to see what is meant; an answer must not be longer than what it answers.
            .map(|tag| super::header::text(tag).chars().take(64).collect::<String>())
            .filter(|tag| !self.extensions.iter().any(|known| tag.eq_ignore_ascii_case(known)))
            .take(16)
            .collect();
        (!unknown.is_empty()).then(|| Response::to(request, 420).header(Name::Unsupported, unknown.join(", ")))
    }

    fn screen_invite(&self, request: &Message) -> Option<Response> {
        let known = |kind: &str| self.bodies.iter().any(|body| body.eq_ignore_ascii_case(kind));
        // A call whose peer cannot read our session description cannot be made (RFC 3261 §13.3.1.3, RFC 4475 §3.3.11).
        if request.header(Name::Accept).is_some() && !request.elements(Name::Accept).any(|range| accepts(range, known)) {
            return Some(Response::to(request, 406));
        }
        let kind = request.content_type()?;
        let optional = request.text(Name::ContentDisposition).is_some_and(|d| d.to_ascii_lowercase().contains("handling=optional"));
        let encoded = request.text(Name::ContentEncoding).is_some_and(|e| !e.eq_ignore_ascii_case("identity") && !e.is_empty());
        if request.body().is_empty() || optional || ((known(&kind) || kind.starts_with("multipart/")) && !encoded) {
            return None;
        }
        let refusal = Response::to(request, 415).header(Name::Accept, self.bodies.join(", "));
        Some(refusal.header_named("Accept-Encoding", "identity"))
    }
}

/// Whether a message asks for a new call: what may wait when there is too much to do. A change of one that is up does not.
pub fn begins_a_call(bytes: &Bytes) -> bool {
    bytes.starts_with(b"INVITE ") && Message::parse(bytes.clone()).is_ok_and(|message| message.to().is_ok_and(|to| to.tag().is_none()))
}

fn accepts(range: &[u8], known: impl Fn(&str) -> bool) -> bool {
    let range = super::header::text(range);
    let kind: String = range.split(';').next().unwrap_or_default().split_whitespace().collect();
    kind == "*/*" || kind.eq_ignore_ascii_case("application/*") || known(&kind) || kind.starts_with("multipart/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(method: &str, headers: &str) -> Option<u16> {
        let text = format!(
            "{method} sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\n\
             Call-ID: 1\r\nCSeq: 1 {method}\r\n{headers}\r\nbody"
        );
        let request = Message::parse(text.into()).expect("a message");
        Abilities::default().screen(&request).map(|r| r.status)
    }

    #[test]
    fn new_calls_are_told_from_changes_of_those_that_are_up() {
        for (start, to, begins) in [
            ("INVITE sip:a SIP/2.0", "<sip:a@b>", true),
            ("INVITE sip:a SIP/2.0", "<sip:a@b>;tag=1", false),
            ("BYE sip:a SIP/2.0", "<sip:a@b>;tag=1", false),
            ("OPTIONS sip:a SIP/2.0", "<sip:a@b>", false),
            ("SIP/2.0 200 OK", "<sip:a@b>", false),
            ("INVITE", "", false),
        ] {
            let bytes = Bytes::from(format!("{start}\r\nTo: {to}\r\n\r\n"));
            assert_eq!(begins_a_call(&bytes), begins, "{start} {to}");
        }
    }

    #[test]
    fn what_nobody_here_can_serve_is_refused() {
        for (method, headers, status) in [
            ("INVITE", "Content-Type: application/sdp\r\n", None),
            ("INVITE", "Content-Type: application / SDP ;x=y\r\nMax-Forwards: 1\r\n", None),
            ("INVITE", "Content-Type: application/unknown\r\n", Some(415)),
            ("INVITE", "Content-Type: application/unknown\r\nContent-Disposition: x;handling=optional\r\n", None),
            ("INVITE", "Content-Type: application/sdp\r\nContent-Encoding: gzip\r\n", Some(415)),
            ("INVITE", "Content-Type: application/sdp\r\nAccept: text/nothing\r\n", Some(406)),
            ("INVITE", "Accept: text/plain, application/*;q=0.1\r\n", None),
            ("INVITE", "Max-Forwards: 0\r\n", Some(483)),
            ("OPTIONS", "Max-Forwards: 0\r\n", None),
            ("OPTIONS", "Require: foo\r\n", Some(420)),
            ("OPTIONS", "Proxy-Require: foo, bar\r\n", Some(420)),
            ("PUBLISH", "", Some(405)),
            ("NEWMETHOD", "", Some(501)),
            ("REGISTER", "Content-Type: anything/else\r\n", None),
        ] {
            assert_eq!(refusal(method, headers), status, "{method} {headers}");
        }
    }
}
