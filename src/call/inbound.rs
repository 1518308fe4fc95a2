//! What an INVITE from a provider says: whom it calls, and who calls. Pure.
//!
//! Providers put the called number into the request URI, or their own customer's account there and the number into
//! P-Called-Party-ID (RFC 7315 §4.2) or To. The caller is in P-Asserted-Identity (RFC 3325), or in From.

use super::{
    half::Diversion,
    invite,
    invite::user,
    routing::{Caller, Origin},
};
use crate::{
    model::MacAddr,
    routing::{Trunk, number::Site, plain, settings::CallerIdForm},
    sip::{Message, Name},
};

/// A call from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    pub number: String,
    pub caller: Caller,
    pub origin: Origin,
}

/// How a caller is named who hides.
pub(super) const HIDDEN: &str = "anonymous";
/// A name for a display.
const LONGEST_NAME: usize = 64;

pub fn read(trunk: &Trunk, site: Option<&Site>, request: &Message) -> Called {
    let number = called(trunk, request);
    let from = request.from().ok();
    let asserted = request.name_addrs(Name::PAssertedIdentity).flatten().find_map(|one| user(one.uri_str()));
    let of_from = from.as_ref().and_then(|from| user(from.uri_str()));
    let shown = match trunk.caller_id {
        CallerIdForm::From => of_from,
        _ => asserted.or(of_from),
    };
    let hides = invite::hides(request);
    let number_of_caller = shown.filter(|shown| !hides && !shown.eq_ignore_ascii_case(HIDDEN) && is_number(shown));
    let display_name = from.filter(|_| !hides).map(|from| from.display_name().chars().take(LONGEST_NAME).collect()).unwrap_or_default();
    // As it can be called back from here.
    let callable = |number: &str| site?.international_of(&plain(number), trunk.form);
    let international = number_of_caller.as_deref().and_then(callable);
    let diversions = invite::diversions(request).into_iter();
    let diversions = diversions.map(|one| Diversion { by: callable(&one.by).unwrap_or(one.by), ..one }).collect();
    let caller = Caller {
        user: international.or_else(|| number_of_caller.clone()).unwrap_or_else(|| HIDDEN.to_owned()),
        display_name,
        mac: MacAddr::NOBODY,
        line: 0,
        provisional: false,
    };
    Called { number, caller, origin: Origin { trunk: trunk.name.clone(), number: number_of_caller.map(|own| plain(&own)), diversions } }
}

fn called(trunk: &Trunk, request: &Message) -> String {
    let account = trunk.account.as_ref().map(|account| account.user.as_str());
    let uri = request.uri().ok().and_then(|uri| uri.user().map(|user| user.into_owned()));
    let is_account = uri.as_deref().is_none_or(|user| Some(user) == account || user == "plugtone");
    if !is_account {
        return uri.unwrap_or_default();
    }
    let party = request.header_named("P-Called-Party-ID").and_then(|value| {
        let value = std::str::from_utf8(value).ok()?;
        user(value.trim().trim_start_matches('<').split('>').next()?)
    });
    party.or_else(|| request.to().ok().and_then(|to| user(to.uri_str()))).or(uri).unwrap_or_default()
}

fn is_number(text: &str) -> bool {
    let plain = plain(text);
    let digits = plain.strip_prefix('+').unwrap_or(&plain);
    (1..=24).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::{Base, check};

    const RULES: &str = "country: DE\narea_code: \"30\"\ntrunks: { t: { host: 192.0.2.5, numbers: national } }\n";

    #[test]
    fn who_calls_whom_is_read_where_providers_write_it() {
        let plan = check("routes.yaml", RULES, Base::default(), &Default::default()).unwrap();
        let trunk = plan.trunks()["t"].clone();
        for (uri, headers, number, user, origin) in [
            ("03012342041", "From: <sip:01719999999@p>", "03012342041", "+491719999999", Some("01719999999")),
            (
                "03012342041",
                "From: <sip:x@p>\r\nP-Asserted-Identity: \"Bo\" <sip:0171-9999999@p>",
                "03012342041",
                "+491719999999",
                Some("01719999999"),
            ),
            ("plugtone", "From: <sip:01719999999@p>", "03012340", "+491719999999", Some("01719999999")),
            (
                "plugtone",
                "From: <sip:01719999999@p>\r\nP-Called-Party-ID: <sip:03012342042@p>",
                "03012342042",
                "+491719999999",
                Some("01719999999"),
            ),
            ("1", "From: <sip:anonymous@anonymous.invalid>\r\nP-Asserted-Identity: <sip:01719999999@p>", "1", "anonymous", None),
            ("1", "From: <sip:01719999999@p>\r\nPrivacy: id", "1", "anonymous", None),
            ("1", "From: <sip:alice@p>", "1", "anonymous", None),
            ("1", "From: <sip:115@p>", "1", "+4930115", Some("115")),
        ] {
            let text = format!(
                "INVITE sip:{uri}@10.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nTo: <sip:03012340@p>\r\n{headers}\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\n\r\n"
            );
            let request = Message::parse(text.into_bytes().into()).unwrap();
            let called = read(&trunk, plan.site(), &request);
            assert_eq!(
                (called.number.as_str(), called.caller.user.as_str(), called.origin.number.as_deref()),
                (number, user, origin),
                "{headers}"
            );
            assert_eq!(called.caller.device(), None);
        }
    }
}
