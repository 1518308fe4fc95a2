//! SIP plug and play: phones that ask a multicast group where their settings are (`SUBSCRIBE`, event package `ua-profile`, RFC 6080
//! in the older form that desk phones speak). Pure: datagrams in, datagrams out; `worker.rs` has the sockets.
//!
//! ```text
//! SUBSCRIBE sip:MAC…@224.0.1.75 ─► 200 ─► whose network card is it? ─► NOTIFY with the URL, three times at most
//! ```
//! Whoever says a MAC here would get the key to that phone's files (`provisioning.url_tokens`). So what the message says is not believed:
//! the phone is whom the neighbour table of the system names, and a message that names another is not answered. That works in one's
//! own segment, where multicast without routing ends as well.
//!
//! The phone's 200 to our NOTIFY goes to the port of the SIP engine, which knows nothing of it: so the NOTIFY is repeated a little, whether
//! it came or not; a phone takes what is repeated for one.
//! Not here: subscriptions that last (`Expires` other than 0 gets one answer too), profiles of users.

pub mod worker;

use std::net::{Ipv4Addr, SocketAddrV4};

use bytes::Bytes;

use crate::{
    model::MacAddr,
    sip::{
        build::{Request, Response},
        header::{Params, unquote},
        message::{Message, Method},
        name::Name,
        uri::unescape,
    },
};

/// Where phones ask.
pub const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 1, 75);

/// A phone that asks for its settings.
#[derive(Clone, Debug)]
pub struct Ask {
    message: Message,
    source: SocketAddrV4,
    /// The MAC that it says to be; some makes name none that we can find.
    pub claims: Option<MacAddr>,
    /// `vendor`, `model` and `version` of the Event header, as far as they are there.
    pub vendor: Option<String>,
    pub model: Option<String>,
    pub version: Option<String>,
    pub user_agent: Option<String>,
}

impl Ask {
    /// `None`: nothing that is asked of us.
    pub fn parse(datagram: Bytes, source: SocketAddrV4) -> Option<Self> {
        let mut message = Message::parse(datagram).ok()?;
        message.set_source(source.into());
        if !message.is(&Method::Subscribe) || message.check().is_err() {
            return None;
        }
        let event = message.text(Name::Event)?;
        let (package, parameters) = event.split_at(event.find(';').unwrap_or(event.len()));
        if !package.trim().eq_ignore_ascii_case("ua-profile") {
            return None;
        }
        let parameters = Params::new(parameters.as_bytes());
        let parameter = |name| parameters.value(name).map(|value| shortened(&unquote(value)));
        let (vendor, model, version) = (parameter("vendor"), parameter("model"), parameter("version"));
        let user_agent = message.text(Name::UserAgent).map(|text| shortened(&text));
        let uris = [Name::From, Name::To, Name::Contact].map(|name| message.text(name).unwrap_or_default().into_owned());
        let whole = String::from_utf8_lossy(message.raw_uri()).into_owned();
        let claims = [whole].iter().chain(&uris).find_map(|text| mac_in(&unescape(text)));
        Some(Self { source, claims, vendor, model, version, user_agent, message })
    }

    /// Whom to answer.
    pub fn source(&self) -> SocketAddrV4 {
        self.source
    }

    /// That it was heard. Sending it makes the system ask whose the address is.
    pub fn accepted(&self, local: SocketAddrV4, tag: &str) -> Bytes {
        let contact = format!("<sip:{local}>");
        Response::to(&self.message, 200).to_tag(tag).header(Name::Contact, contact).header(Name::Expires, 0).encode()
    }

    /// Where its settings are, in the dialog that [`accepted`](Self::accepted) made. `branch` names the transaction.
    pub fn told(&self, local: SocketAddrV4, tag: &str, branch: &str, url: &str) -> Bytes {
        let text = |name| self.message.text(name).unwrap_or_default().into_owned();
        let to_us = text(Name::To);
        let us = if to_us.contains(";tag=") { to_us } else { format!("{to_us};tag={tag}") };
        let target = self.message.contact_uri().map_or_else(|| format!("sip:{}", self.source), str::to_owned);
        Request::new(Method::Notify, target)
            .header(Name::From, us)
            .header(Name::To, text(Name::From))
            .header(Name::CallId, text(Name::CallId))
            .header(Name::CSeq, "1 NOTIFY")
            .header(Name::Contact, format!("<sip:{local}>"))
            .header(Name::Event, text(Name::Event))
            .header(Name::SubscriptionState, "terminated;reason=timeout")
            .body("application/url", url.to_owned())
            .encode(format_args!("SIP/2.0/UDP {local};rport;branch={branch}"), "Plugtone")
    }

    /// Whether the phone is the one at `owner`, by the neighbour table.
    pub fn is_of(&self, owner: MacAddr) -> bool {
        self.claims.is_none_or(|claimed| claimed == owner)
    }
}

/// For a log and an event: what phones say is long at times.
fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

/// The MAC in what phones write: `MAC001565aabbcc`, `MAC:000413aabbcc`, `MAC=00304faabbcc`, `00-15-65-aa-bb-cc`.
fn mac_in(text: &str) -> Option<MacAddr> {
    let user = text.find("sip:").map_or(text, |at| &text[at + 4..]);
    let user = user.split('@').next().unwrap_or(user);
    let bare = ["MAC", "mac"].iter().find_map(|word| user.strip_prefix(word)).unwrap_or(user).trim_start_matches([':', '=', '%']);
    let digits = bare.find(|c: char| !(c.is_ascii_hexdigit() || matches!(c, ':' | '-'))).map_or(bare, |end| &bare[..end]);
    digits.parse().ok()
}

/// The MAC of a neighbour in the text of `/proc/net/arp`: complete entries only.
fn owner_in(table: &str, address: Ipv4Addr) -> Option<MacAddr> {
    let address = address.to_string();
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_whitespace();
        (columns.next()? == address).then_some(())?;
        let (_kind, flags, mac) = (columns.next()?, columns.next()?, columns.next()?);
        // ATF_COM: the entry is whole.
        let whole = u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok()? & 2 != 0;
        mac.parse().ok().filter(|mac| whole && *mac != MacAddr::NOBODY)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHONE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 66, 0, 7), 5059);
    const US: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 66, 0, 1), 5060);
    const MAC: MacAddr = MacAddr([0x00, 0x15, 0x65, 0xaa, 0xbb, 0xcc]);

    fn subscribe(uri: &str, from: &str, event: &str) -> Bytes {
        format!(
            "SUBSCRIBE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 10.66.0.7:5059;branch=z9hG4bK1\r\nMax-Forwards: 70\r\nFrom: <{from}>;tag=1\r\n\
             To: <{uri}>\r\nCall-ID: 1@10.66.0.7\r\nCSeq: 1 SUBSCRIBE\r\nContact: <sip:10.66.0.7:5059>\r\nEvent: {event}\r\nExpires: 0\r\n\
             Accept: application/url\r\nUser-Agent: Yealink SIP-T46S 66.86.0.15\r\nContent-Length: 0\r\n\r\n"
        )
        .into()
    }

    const EVENT: &str = "ua-profile;profile-type=\"device\";vendor=\"Yealink\";model=\"T46S\";version=\"66.86.0.15\"";

    #[test]
    fn makes_name_their_mac_in_their_own_ways() {
        for (uri, from, claims) in [
            ("sip:MAC001565aabbcc@224.0.1.75", "sip:MAC001565aabbcc@224.0.1.75", true),
            ("sip:MAC%3a001565AABBCC@intern.snom.de", "sip:x@y", true),
            ("sip:MAC=001565aabbcc@224.0.1.75", "sip:x@y", true),
            ("sip:224.0.1.75", "sip:001565aabbcc@10.66.0.7", true),
            ("sip:224.0.1.75", "sip:00-15-65-aa-bb-cc@10.66.0.7", true),
            ("sip:224.0.1.75", "sip:phone@10.66.0.7", false),
        ] {
            let ask = Ask::parse(subscribe(uri, from, EVENT), PHONE).unwrap_or_else(|| panic!("{uri}"));
            assert_eq!(ask.claims, claims.then_some(MAC), "{uri}");
            assert!(ask.is_of(MAC) && ask.is_of(MacAddr([9; 6])) != claims, "{uri}");
            let said = (ask.vendor.as_deref(), ask.model.as_deref(), ask.version.as_deref());
            assert_eq!(said, (Some("Yealink"), Some("T46S"), Some("66.86.0.15")));
        }
    }

    #[test]
    fn what_is_not_asked_of_us_is_not_answered() {
        let uri = "sip:MAC001565aabbcc@224.0.1.75";
        for datagram in [
            subscribe(uri, uri, "dialog"),
            subscribe(uri, uri, "ua-profiles"),
            Bytes::from_static(b"SUBSCRIBE"),
            Bytes::from(String::from_utf8(subscribe(uri, uri, EVENT).to_vec()).unwrap().replace("SUBSCRIBE", "REGISTER")),
            Bytes::from(String::from_utf8(subscribe(uri, uri, EVENT).to_vec()).unwrap().replace("Call-ID", "X-Call-ID")),
        ] {
            assert!(Ask::parse(datagram.clone(), PHONE).is_none(), "{}", datagram.escape_ascii());
        }
    }

    #[test]
    fn the_answer_and_the_url_are_in_one_dialog() {
        let uri = "sip:MAC001565aabbcc@224.0.1.75";
        let ask = Ask::parse(subscribe(uri, uri, EVENT), PHONE).unwrap();
        let accepted = Message::parse(ask.accepted(US, "ours")).unwrap();
        assert_eq!((accepted.status(), accepted.to().unwrap().tag()), (Some(200), Some("ours")));
        assert_eq!(accepted.contact_uri(), Some("sip:10.66.0.1:5060"));
        let notify = Message::parse(ask.told(US, "ours", "z9hG4bKx", "http://10.66.0.1")).unwrap();
        assert!(notify.check().is_ok() && notify.is(&Method::Notify));
        assert_eq!((notify.from().unwrap().tag(), notify.to().unwrap().tag()), (Some("ours"), Some("1")));
        assert_eq!((notify.call_id().unwrap(), notify.raw_uri()), ("1@10.66.0.7", &b"sip:10.66.0.7:5059"[..]));
        assert_eq!((&*notify.text(Name::Event).unwrap(), notify.body()), (EVENT, &b"http://10.66.0.1"[..]));
    }

    #[test]
    fn a_neighbour_is_believed_when_its_entry_is_whole() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     10.66.0.70       0x1         0x2         00:15:65:aa:bb:00     *        office\n\
                     10.66.0.7        0x1         0x2         00:15:65:aa:bb:cc     *        office\n\
                     10.66.0.8        0x1         0x0         00:00:00:00:00:00     *        office\n";
        assert_eq!(owner_in(table, Ipv4Addr::new(10, 66, 0, 7)), Some(MAC));
        assert_eq!((owner_in(table, Ipv4Addr::new(10, 66, 0, 8)), owner_in("", Ipv4Addr::LOCALHOST)), (None, None));
    }
}
