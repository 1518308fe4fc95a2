//! The INVITE to a phone: who calls, on whose behalf it comes, and how the phone shall take it. Also what an INVITE that comes
//! says of these. Pure: text in, text out.
//!
//! Here: P-Asserted-Identity (RFC 3325), callers who hide (RFC 3323), Diversion (RFC 5806) and History-Info (RFC 7044) of calls
//! that somebody sent elsewhere, and the headers by which an intercom is taken. Not here: what a trunk wants (`trunk.rs`).

use super::{
    half::{Contact, Diversion, DiversionReason},
    switch::CallerId,
};
use crate::sip::{
    Message,
    build::name_addr,
    header::{NameAddr, text},
    transport::Flow,
    ua::Invite,
    uri::{Uri, escape_user},
};

/// What else the phone is told.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Who has transferred the call there.
    pub(super) referred_by: Option<String>,
    pub(super) diversions: Vec<Diversion>,
    pub(super) auto_answer: bool,
    /// What names the caller's device.
    pub(super) gr: Option<String>,
}

/// `own_host`: as the phone knows us.
pub(super) fn to_phone(own_host: &str, flow: Flow, contact: Contact, caller: CallerId, told: Told, offer: bytes::Bytes) -> Invite {
    let at = |user: &str| format!("sip:{}@{own_host}", escape_user(user));
    let mut headers = Vec::new();
    let mut add = |name: &str, value: String| headers.push((name.to_owned(), value));
    let from = if caller.is_hidden() {
        add("Privacy", "id".to_owned());
        anonymous()
    } else {
        // Phones take the caller from here or from From, as they are set; the two are the same.
        add("P-Asserted-Identity", name_addr(&caller.display_name, &at(&caller.user)));
        (caller.display_name.clone(), at(&caller.user))
    };
    if let Some(user) = told.referred_by {
        add("Referred-By", format!("<{}>", at(&user)));
    }
    let history: Vec<_> = told.diversions.iter().map(|one| (at(&one.by), one.reason)).collect();
    headers.extend(diverted(&history, &contact.uri, false));
    if told.auto_answer {
        headers.extend(auto_answer(own_host));
    }
    Invite {
        to: contact.uri.clone(),
        uri: contact.uri,
        from,
        flow,
        contact_user: caller.user,
        offer: Some(offer),
        credentials: None,
        routes: contact.path,
        headers,
        spare: contact.spare,
        gr: told.gr,
    }
}

/// Who is at our end of a call, for P-Asserted-Identity.
pub(super) fn identity(own_host: &str, who: &CallerId) -> String {
    let (name, uri) = match who.is_hidden() {
        true => anonymous(),
        false => (who.display_name.clone(), format!("sip:{}@{own_host}", escape_user(&who.user))),
    };
    name_addr(&name, &uri)
}

/// RFC 3323 §4.1.1.3
pub(super) fn anonymous() -> (String, String) {
    ("Anonymous".to_owned(), "sip:anonymous@anonymous.invalid".to_owned())
}

/// RFC 3323 §4.2, RFC 3325 §9.3: the one who calls does not want to be known.
pub(super) fn hides(request: &Message) -> bool {
    let wanted = request.header_named("Privacy").is_some_and(|value| {
        let text = text(value).to_ascii_lowercase();
        text.split([';', ',']).any(|word| matches!(word.trim(), "id" | "user" | "header"))
    });
    wanted || request.from().is_ok_and(|from| from.uri_str().to_ascii_lowercase().contains("anonymous"))
}

/// Each maker reads one of these: Grandstream, Snom and Yealink Call-Info, Poly and Cisco Alert-Info, others RFC 5373.
fn auto_answer(own_host: &str) -> [(String, String); 3] {
    [
        ("Call-Info".to_owned(), format!("<sip:{own_host}>;answer-after=0")),
        ("Alert-Info".to_owned(), format!("<http://{own_host}>;info=alert-autoanswer;delay=0")),
        ("Answer-Mode".to_owned(), "Auto".to_owned()),
    ]
}

/// The headers of a call that these have sent elsewhere, the first first, and that now goes to `target`. `hidden`: the last of
/// them does not want to be known. Both headers are written, as each is read by some only.
pub(super) fn diverted(history: &[(String, DiversionReason)], target: &str, hidden: bool) -> Vec<(String, String)> {
    let Some((last, reason)) = history.last() else { return Vec::new() };
    let privacy = if hidden { "full" } else { "off" };
    let diversion = format!("<{last}>;reason={};counter=1;privacy={privacy}", reason.as_str());
    let earlier = history.iter().rev().skip(1).map(|(uri, reason)| format!("<{uri}>;reason={};counter=1", reason.as_str()));
    let diversion = std::iter::once(diversion).chain(earlier).collect::<Vec<_>>().join(", ");
    // RFC 7044 §5: each entry is whom the call was for; its cause says why it did not stay with the one before.
    let mut index = "1".to_owned();
    let mut entries = Vec::new();
    let mut cause = None;
    for (uri, reason) in history.iter().map(|(uri, reason)| (uri.as_str(), Some(*reason))).chain([(target, None)]) {
        entries.push(match cause {
            None => format!("<{uri}>;index={index}"),
            Some(cause) => {
                let before = index.clone();
                index.push_str(".1");
                format!("<{};cause={cause}>;index={index};mp={before}", uri.split('?').next().unwrap_or_default())
            }
        });
        cause = reason.map(DiversionReason::cause);
    }
    vec![("Diversion".to_owned(), diversion), ("History-Info".to_owned(), entries.join(", "))]
}

/// More of them than this are an attack or a loop.
const MOST_DIVERSIONS: usize = 8;

/// Who has sent a call elsewhere before it came here, the first first, as written. `counter`s are kept by repetition, so that
/// a call that goes round between two servers ends.
pub(super) fn diversions(request: &Message) -> Vec<Diversion> {
    let values = |name: &'static str| request.headers().filter(move |(_, written, _)| written.eq_ignore_ascii_case(name.as_bytes()));
    let all = |name| values(name).flat_map(|(_, _, value)| crate::sip::header::Elements::new(value)).flat_map(NameAddr::parse);
    let mut read: Vec<Diversion> = Vec::new();
    for one in all("Diversion") {
        let reason = one.params().value("reason").map_or(DiversionReason::Unconditional, reason_of);
        let Some(by) = user(one.uri_str()) else { continue };
        let counter = one.params().value("counter").and_then(|counter| counter.parse().ok()).unwrap_or(1).clamp(1, MOST_DIVERSIONS);
        read.extend(std::iter::repeat_n(Diversion { by, reason }, counter));
    }
    read.reverse();
    if read.is_empty() {
        let mut before: Option<String> = None;
        for one in all("History-Info") {
            let cause = Uri::parse(one.uri_str()).ok().and_then(|uri| uri.params().value("cause").and_then(reason_of_cause));
            if let (Some(reason), Some(by)) = (cause, before.take()) {
                read.push(Diversion { by, reason });
            }
            before = user(one.uri_str());
        }
    }
    let surplus = read.len().saturating_sub(MOST_DIVERSIONS);
    read.split_off(surplus)
}

fn reason_of(word: &str) -> DiversionReason {
    match word.to_ascii_lowercase().as_str() {
        "user-busy" => DiversionReason::Busy,
        "no-answer" => DiversionReason::NoAnswer,
        "unavailable" | "out-of-service" => DiversionReason::Unavailable,
        "deflection" => DiversionReason::Deflection,
        _ => DiversionReason::Unconditional,
    }
}

fn reason_of_cause(cause: &str) -> Option<DiversionReason> {
    Some(match cause {
        "302" => DiversionReason::Unconditional,
        "486" => DiversionReason::Busy,
        "408" => DiversionReason::NoAnswer,
        "404" | "503" => DiversionReason::Unavailable,
        "480" | "487" => DiversionReason::Deflection,
        _ => return None,
    })
}

/// The number or name in a URI.
pub(super) fn user(uri: &str) -> Option<String> {
    if let Some(number) = uri.strip_prefix("tel:") {
        return number.split(';').next().map(str::to_owned);
    }
    Uri::parse(uri).ok()?.user().map(|user| user.split(';').next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(by: &str, reason: DiversionReason) -> Diversion {
        Diversion { by: by.to_owned(), reason }
    }

    fn message(headers: &str) -> Message {
        let text = format!(
            "INVITE sip:1@10.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:2@h>;tag=a\r\nTo: <sip:1@h>\r\n\
             {headers}Call-ID: c\r\nCSeq: 1 INVITE\r\n\r\n"
        );
        Message::parse(text.into_bytes().into()).unwrap()
    }

    fn invite(caller: CallerId, told: Told) -> Vec<String> {
        let flow = Flow::udp("10.0.0.1:5060".parse().unwrap(), "10.0.0.5:5060".parse().unwrap());
        let contact = Contact {
            uri: "sip:2042@10.0.0.5".into(),
            flow,
            mac: crate::model::MacAddr::NOBODY,
            line: 1,
            q: 1000,
            path: vec![],
            spare: vec![],
        };
        let invite = to_phone("10.0.0.1:5060", flow, contact, caller, told, bytes::Bytes::new());
        let from = name_addr(&invite.from.0, &invite.from.1);
        std::iter::once(format!("From: {from}")).chain(invite.headers.iter().map(|(name, value)| format!("{name}: {value}"))).collect()
    }

    #[test]
    fn a_phone_is_shown_who_calls_unless_they_hide() {
        let ada = CallerId { user: "2041".into(), display_name: "Ada".into() };
        let shown = ["From: \"Ada\" <sip:2041@10.0.0.1:5060>", "P-Asserted-Identity: \"Ada\" <sip:2041@10.0.0.1:5060>"];
        assert_eq!(invite(ada.clone(), Told::default()), shown);
        let hidden = invite(CallerId::hidden(), Told::default());
        assert_eq!(hidden, ["From: \"Anonymous\" <sip:anonymous@anonymous.invalid>", "Privacy: id"]);
        let intercom = invite(ada, Told { auto_answer: true, ..Told::default() });
        let wanted = [
            "Call-Info: <sip:10.0.0.1:5060>;answer-after=0",
            "Alert-Info: <http://10.0.0.1:5060>;info=alert-autoanswer;delay=0",
            "Answer-Mode: Auto",
        ];
        assert_eq!(intercom[2..], wanted);
    }

    #[test]
    fn who_hides_says_so_in_one_of_several_ways() {
        for (headers, hidden) in
            [("", false), ("Privacy: none\r\n", false), ("Privacy: id;critical\r\n", true), ("Privacy: user\r\n", true)]
        {
            assert_eq!(hides(&message(headers)), hidden, "{headers}");
        }
    }

    #[test]
    fn who_diverted_a_call_is_shown_and_read_again() {
        let told = vec![by("2042", DiversionReason::Unconditional), by("2043", DiversionReason::NoAnswer)];
        let shown = invite(CallerId::hidden(), Told { diversions: told.clone(), ..Told::default() })[2..].to_vec();
        assert_eq!(
            shown,
            [
                "Diversion: <sip:2043@10.0.0.1:5060>;reason=no-answer;counter=1;privacy=off, \
                 <sip:2042@10.0.0.1:5060>;reason=unconditional;counter=1",
                "History-Info: <sip:2042@10.0.0.1:5060>;index=1, <sip:2043@10.0.0.1:5060;cause=302>;index=1.1;mp=1, \
                 <sip:2042@10.0.0.5;cause=408>;index=1.1.1;mp=1.1",
            ]
        );
        for header in &shown {
            assert_eq!(diversions(&message(&format!("{header}\r\n"))), told);
        }
        for (headers, read) in [
            ("", vec![]),
            ("Diversion: \"Bo\" <sip:+49301@h>;reason=user-busy\r\n", vec![by("+49301", DiversionReason::Busy)]),
            ("diversion: <tel:+49301>;reason=odd;counter=2\r\n", vec![by("+49301", DiversionReason::Unconditional); 2]),
            (
                "Diversion: <sip:2@h>\r\nDiversion: <sip:1@h>\r\n",
                vec![by("1", DiversionReason::Unconditional), by("2", DiversionReason::Unconditional)],
            ),
            ("Diversion: <sip:1@h>;counter=4000000000\r\n", vec![by("1", DiversionReason::Unconditional); 8]),
            ("History-Info: <sip:1@h>;index=1, <sip:2@h>;index=1.1\r\n", vec![]),
        ] {
            assert_eq!(diversions(&message(headers)), read, "{headers}");
        }
    }
}
