//! A dialog: what two user agents must remember of each other between INVITE and BYE (RFC 3261 §12).
//!
//! Made from an INVITE and its answer, on either side; it then writes requests within itself and checks those that come.
//! Where messages travel is not here: phones sit behind NAT, so `ua` answers by the flow that the peer was last heard on.
//! Not here: what a request means, transactions.

use super::{
    build::{Request, Response},
    header::Params,
    message::{Fault, Message, Method},
    name::Name,
    uri::unescape,
};

/// Names a dialog at our end (RFC 3261 §12).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DialogId {
    pub call_id: String,
    pub local_tag: String,
    pub remote_tag: String,
}

impl DialogId {
    /// The dialog that a request claims to belong to. `None` for a request outside of any: its To has no tag.
    pub fn of_request(request: &Message) -> Option<Self> {
        let to = request.to().ok()?;
        let from = request.from().ok()?;
        Some(Self {
            call_id: request.call_id().ok()?.to_owned(),
            local_tag: to.tag()?.to_owned(),
            // RFC 2543 peers send no tag: an empty one then (RFC 3261 §12.1.1).
            remote_tag: from.tag().unwrap_or_default().to_owned(),
        })
    }
}

/// Which dialog a call shall take the place of (RFC 3891), seen from our end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaces {
    pub dialog: DialogId,
    /// Only while that call rings.
    pub early_only: bool,
}

impl Replaces {
    /// A Replaces header's value. `None` if it names no dialog.
    pub fn parse(value: &str) -> Option<Self> {
        let (call_id, params) = value.trim().split_once(';')?;
        let params = format!(";{params}");
        let params = Params::new(params.as_bytes());
        let tag = |name| params.value(name).map(str::to_owned);
        // Tags are seen from whom the header is sent to: to-tag is ours (RFC 3891 §3). A peer of RFC 2543 has the tag 0.
        let dialog = DialogId { call_id: call_id.trim().to_owned(), local_tag: tag("to-tag")?, remote_tag: tag("from-tag")? };
        Some(Self { dialog, early_only: params.has("early-only") })
    }

    /// The Replaces header in the headers part of a Refer-To URI: `Replaces=a%40b%3Bto-tag%3D1%3Bfrom-tag%3D2&Require=replaces`.
    pub fn in_uri(headers: &str) -> Option<Result<Self, Fault>> {
        let mut all = headers.split('&').filter_map(|header| header.split_once('='));
        let (_, value) = all.find(|(name, _)| name.eq_ignore_ascii_case("replaces"))?;
        Some(Self::parse(&unescape(value)).ok_or(Fault::new(Name::ReferTo, "its Replaces names no dialog")))
    }
}

/// Routes beyond this many are an attack or a loop.
const MAX_ROUTES: usize = 16;

#[derive(Clone, Debug)]
pub struct Dialog {
    pub id: DialogId,
    /// We, as From says in our requests: with our tag.
    local: String,
    /// The peer, as To says in our requests: with its tag.
    remote: String,
    /// Our Contact header.
    contact: String,
    local_cseq: u32,
    /// `None` until the peer has sent a request.
    remote_cseq: Option<u32>,
    /// In the order in which they go into Route, as written.
    routes: Vec<String>,
    /// Request-URI for the peer: its Contact.
    remote_target: String,
    we_called: bool,
}

/// A dialog as it is stored, to go on after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub id: DialogId,
    pub local: String,
    pub remote: String,
    pub contact: String,
    pub local_cseq: u32,
    pub remote_cseq: u32,
    pub routes: Vec<String>,
    pub remote_target: String,
}

/// A request of the peer that does not fit into the dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfOrder {
    /// Its CSeq is lower than one before: answer 500 (RFC 3261 §12.2.2).
    Old,
}

impl Dialog {
    /// For the side that was called. `local_tag` goes into our answers; `contact` is our Contact header's value.
    pub fn from_request(invite: &Message, local_tag: &str, contact: &str) -> Result<Self, Fault> {
        let (from, to) = (invite.from()?, invite.to()?);
        let id = DialogId {
            call_id: invite.call_id()?.to_owned(),
            local_tag: local_tag.to_owned(),
            remote_tag: from.tag().unwrap_or_default().to_owned(),
        };
        let local = format!("<{}>;tag={local_tag}", to.uri_str());
        let remote = with_tag(&format!("<{}>", from.uri_str()), &id.remote_tag);
        let remote_target = invite.contact_uri().unwrap_or(from.uri_str()).to_owned();
        Ok(Self {
            id,
            local,
            remote,
            contact: contact.to_owned(),
            local_cseq: 0,
            remote_cseq: Some(invite.cseq()?.number),
            routes: routes(invite).collect(),
            remote_target,
            we_called: false,
        })
    }

    /// For the side that called: from the answer (1xx with a tag, or 2xx) to an INVITE that we sent with this From
    /// (its tag in it), this CSeq and this Contact.
    pub fn from_response(response: &Message, local: &str, local_tag: &str, cseq: u32, contact: &str) -> Result<Self, Fault> {
        let to = response.to()?;
        let id = DialogId {
            call_id: response.call_id()?.to_owned(),
            local_tag: local_tag.to_owned(),
            remote_tag: to.tag().unwrap_or_default().to_owned(),
        };
        let remote = with_tag(&format!("<{}>", to.uri_str()), &id.remote_tag);
        let remote_target = response.contact_uri().unwrap_or(to.uri_str()).to_owned();
        let mut routes: Vec<_> = routes(response).collect();
        routes.reverse();
        let contact = contact.to_owned();
        Ok(Self {
            id,
            local: local.to_owned(),
            remote,
            contact,
            local_cseq: cseq,
            remote_cseq: None,
            routes,
            remote_target,
            we_called: true,
        })
    }

    /// What is stored of it.
    pub fn kept(&self) -> Kept {
        Kept {
            id: self.id.clone(),
            local: self.local.clone(),
            remote: self.remote.clone(),
            contact: self.contact.clone(),
            local_cseq: self.local_cseq,
            remote_cseq: self.remote_cseq.unwrap_or(0),
            routes: self.routes.clone(),
            remote_target: self.remote_target.clone(),
        }
    }

    /// Goes on with a dialog in which we were called.
    pub fn restore(kept: Kept) -> Self {
        let Kept { id, local, remote, contact, local_cseq, remote_cseq, routes, remote_target } = kept;
        Self { id, local, remote, contact, local_cseq, remote_cseq: Some(remote_cseq), routes, remote_target, we_called: false }
    }

    /// The dialog was early and is confirmed: sequence numbers go on.
    pub fn go_on_from(&mut self, early: &Self) {
        self.local_cseq = self.local_cseq.max(early.local_cseq);
        self.remote_cseq = early.remote_cseq;
    }

    /// The next request within the dialog, with a CSeq of its own. Not for ACK.
    pub fn request(&mut self, method: Method) -> Request {
        self.local_cseq = self.local_cseq.wrapping_add(1);
        self.write(method, self.local_cseq)
    }

    /// The ACK for a 2xx to our INVITE with this CSeq (RFC 3261 §13.2.2.4).
    pub fn ack(&self, cseq: u32) -> Request {
        self.write(Method::Ack, cseq)
    }

    /// CSeq of our latest request.
    pub fn local_cseq(&self) -> u32 {
        self.local_cseq
    }

    /// The peer's Contact: the Request-URI of what we send, unless a strict router stands between.
    pub fn target(&self) -> &str {
        &self.remote_target
    }

    /// The URI that the peer knows us by: what stood in its To.
    pub fn local_uri(&self) -> &str {
        bare(&self.local)
    }

    /// Whether the first INVITE was ours.
    pub fn we_called(&self) -> bool {
        self.we_called
    }

    /// Our Contact header's value.
    pub fn contact(&self) -> &str {
        &self.contact
    }

    /// Checks the order of a request of the peer, ACK and CANCEL excepted: they repeat a number.
    pub fn accept(&mut self, request: &Message) -> Result<(), OutOfOrder> {
        let number = request.cseq().map_or(0, |cseq| cseq.number);
        if self.remote_cseq.is_some_and(|last| number <= last) {
            return Err(OutOfOrder::Old);
        }
        self.remote_cseq = Some(number);
        Ok(())
    }

    /// An INVITE or its 2xx may move the peer (RFC 3261 §12.2.1.2, §12.2.2).
    pub fn refresh_target(&mut self, message: &Message) {
        if let Some(contact) = message.contact_uri() {
            self.remote_target = contact.to_owned();
        }
    }

    /// Fits an answer to a request of this dialog with what makes or keeps it.
    pub fn response(&self, request: &Message, status: u16) -> Response {
        Response::to(request, status).to_tag(&self.id.local_tag).record_routes_of(request).header(Name::Contact, &self.contact)
    }

    fn write(&self, method: Method, cseq: u32) -> Request {
        let sequence = format!("{cseq} {method}");
        let needs_contact = !matches!(method, Method::Bye | Method::Ack | Method::Info);
        // A strict router wants to be the Request-URI itself, and the target last (RFC 3261 §12.2.1.1).
        let strict = self.routes.first().filter(|first| !is_loose(first));
        let mut request = match strict {
            Some(first) => Request::new(method, bare(first)),
            None => Request::new(method, self.remote_target.as_str()),
        };
        for route in self.routes.iter().skip(usize::from(strict.is_some())) {
            request = request.header(Name::Route, route);
        }
        if strict.is_some() {
            request = request.header(Name::Route, format_args!("<{}>", self.remote_target));
        }
        request = request
            .header(Name::From, &self.local)
            .header(Name::To, &self.remote)
            .header(Name::CallId, &self.id.call_id)
            .header(Name::CSeq, sequence);
        if needs_contact { request.header(Name::Contact, &self.contact) } else { request }
    }
}

fn routes(message: &Message) -> impl Iterator<Item = String> {
    message.elements(Name::RecordRoute).take(MAX_ROUTES).map(|route| String::from_utf8_lossy(route).trim().to_owned())
}

fn is_loose(route: &str) -> bool {
    super::Uri::parse(bare(route)).is_ok_and(|uri| uri.is_loose())
}

/// The URI of `"name" <uri>;params`.
fn bare(route: &str) -> &str {
    super::NameAddr::parse(route.as_bytes()).map_or(route, |address| address.uri_str())
}

fn with_tag(address: &str, tag: &str) -> String {
    if tag.is_empty() { address.to_owned() } else { format!("{address};tag={tag}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(lines: &[&str]) -> Message {
        Message::parse(format!("{}\r\n\r\n", lines.join("\r\n")).into_bytes().into()).unwrap()
    }

    fn invite(extra: &[&str]) -> Message {
        let mut lines = vec![
            "INVITE sip:2042@10.0.0.1 SIP/2.0",
            "Via: SIP/2.0/UDP 10.0.0.5;branch=z9hG4bK1",
            "From: \"Ada\" <sip:2041@10.0.0.1>;tag=a",
            "To: <sip:2042@10.0.0.1>",
            "Call-ID: c@x",
            "CSeq: 7 INVITE",
            "Contact: <sip:2041@10.0.0.5:5062>",
        ];
        lines.extend(extra);
        message(&lines)
    }

    fn text(request: &Request) -> String {
        String::from_utf8(request.encode("SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKx", "").to_vec()).unwrap()
    }

    #[test]
    fn calls_name_the_dialog_that_they_replace() {
        let dialog = |call_id: &str| DialogId { call_id: call_id.into(), local_tag: "7".into(), remote_tag: "9".into() };
        for (value, read) in [
            ("98asjd8@test.com;from-tag=9;to-tag=7", Some((dialog("98asjd8@test.com"), false))),
            (" a ; to-tag=7;from-tag = 9 ;early-only", Some((dialog("a"), true))),
            ("a;to-tag=7", None),
            ("a", None),
        ] {
            let read = read.map(|(dialog, early_only)| Replaces { dialog, early_only });
            assert_eq!(Replaces::parse(value), read, "{value}");
        }
        let in_uri = Replaces::in_uri("Require=replaces&Replaces=a%40b%3Bto-tag%3D7%3Bfrom-tag%3D9");
        assert_eq!(in_uri.unwrap().unwrap().dialog, dialog("a@b"));
        assert!(Replaces::in_uri("Replaces=a").unwrap().is_err());
        assert_eq!(Replaces::in_uri("Subject=a"), None);
    }

    #[test]
    fn the_called_side_speaks_back() {
        let invite = invite(&["Record-Route: <sip:p2;lr>, <sip:p1;lr>"]);
        let mut dialog = Dialog::from_request(&invite, "b", "<sip:10.0.0.1>").unwrap();
        let bye = text(&dialog.request(Method::Bye));
        assert!(bye.starts_with("BYE sip:2041@10.0.0.5:5062 SIP/2.0\r\n"), "{bye}");
        for line in [
            "Route: <sip:p2;lr>\r\nRoute: <sip:p1;lr>\r\n",
            "From: <sip:2042@10.0.0.1>;tag=b\r\n",
            "To: <sip:2041@10.0.0.1>;tag=a\r\n",
            "Call-ID: c@x\r\n",
            "CSeq: 1 BYE\r\n",
        ] {
            assert!(bye.contains(line), "{line} in\n{bye}");
        }
        assert!(text(&dialog.request(Method::Invite)).contains("CSeq: 2 INVITE\r\nContact: <sip:10.0.0.1>\r\n"));
    }

    #[test]
    fn the_calling_side_takes_routes_backwards() {
        let answer = message(&[
            "SIP/2.0 200 OK",
            "Via: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1",
            "Record-Route: <sip:p1;lr>",
            "Record-Route: <sip:p2>",
            "From: <sip:2041@10.0.0.1>;tag=a",
            "To: <sip:2042@10.0.0.1>;tag=b",
            "Call-ID: c@x",
            "CSeq: 7 INVITE",
            "Contact: <sip:2042@10.0.0.6>",
        ]);
        let dialog = Dialog::from_response(&answer, "<sip:2041@10.0.0.1>;tag=a", "a", 7, "<sip:10.0.0.1>").unwrap();
        // p2 knows no loose routing: it becomes the Request-URI and the target goes last.
        let ack = text(&dialog.ack(7));
        assert!(ack.starts_with("ACK sip:p2 SIP/2.0\r\n"), "{ack}");
        assert!(ack.contains("Route: <sip:p1;lr>\r\nRoute: <sip:2042@10.0.0.6>\r\n"), "{ack}");
        assert!(ack.contains("CSeq: 7 ACK\r\n"), "{ack}");
    }

    #[test]
    fn old_requests_are_out_of_order() {
        let mut dialog = Dialog::from_request(&invite(&[]), "b", "<sip:10.0.0.1>").unwrap();
        let bye = |number: u32| {
            message(&[
                "BYE sip:10.0.0.1 SIP/2.0",
                "Via: SIP/2.0/UDP 10.0.0.5;branch=z9hG4bK2",
                "From: <sip:2041@10.0.0.1>;tag=a",
                "To: <sip:2042@10.0.0.1>;tag=b",
                "Call-ID: c@x",
                &format!("CSeq: {number} BYE"),
            ])
        };
        assert_eq!(DialogId::of_request(&bye(9)).as_ref(), Some(&dialog.id));
        assert_eq!(dialog.accept(&bye(7)), Err(OutOfOrder::Old));
        assert_eq!(dialog.accept(&bye(9)), Ok(()));
        assert_eq!(dialog.accept(&bye(8)), Err(OutOfOrder::Old));
        assert_eq!(DialogId::of_request(&invite(&[])), None);
    }
}
