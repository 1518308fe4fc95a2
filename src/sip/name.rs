//! The header names that some code here asks for, in long, compact and canonical spelling.
//!
//! Any other name is [`Name::Other`]: kept byte for byte in the message and found by its text.

/// A header name that is known to this code. Compared without case; `v` is `Via` (RFC 3261 §7.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Name {
    Other,
    Accept,
    AlertInfo,
    Allow,
    AllowEvents,
    AuthenticationInfo,
    Authorization,
    CallId,
    Contact,
    ContentDisposition,
    ContentEncoding,
    ContentLength,
    ContentType,
    CSeq,
    Date,
    Event,
    Expires,
    From,
    MaxForwards,
    MinExpires,
    MinSe,
    PAssertedIdentity,
    Path,
    ProxyAuthenticate,
    ProxyAuthorization,
    ProxyRequire,
    RAck,
    Reason,
    RecordRoute,
    ReferTo,
    ReferredBy,
    Replaces,
    Require,
    RetryAfter,
    Route,
    RSeq,
    Server,
    SessionExpires,
    Subject,
    SubscriptionState,
    Supported,
    Timestamp,
    To,
    Unsupported,
    UserAgent,
    Via,
    Warning,
    WwwAuthenticate,
}

/// Canonical spelling of each known name.
const SPELLINGS: &[(Name, &str)] = &[
    (Name::Accept, "Accept"),
    (Name::AlertInfo, "Alert-Info"),
    (Name::Allow, "Allow"),
    (Name::AllowEvents, "Allow-Events"),
    (Name::AuthenticationInfo, "Authentication-Info"),
    (Name::Authorization, "Authorization"),
    (Name::CallId, "Call-ID"),
    (Name::Contact, "Contact"),
    (Name::ContentDisposition, "Content-Disposition"),
    (Name::ContentEncoding, "Content-Encoding"),
    (Name::ContentLength, "Content-Length"),
    (Name::ContentType, "Content-Type"),
    (Name::CSeq, "CSeq"),
    (Name::Date, "Date"),
    (Name::Event, "Event"),
    (Name::Expires, "Expires"),
    (Name::From, "From"),
    (Name::MaxForwards, "Max-Forwards"),
    (Name::MinExpires, "Min-Expires"),
    (Name::MinSe, "Min-SE"),
    (Name::PAssertedIdentity, "P-Asserted-Identity"),
    (Name::Path, "Path"),
    (Name::ProxyAuthenticate, "Proxy-Authenticate"),
    (Name::ProxyAuthorization, "Proxy-Authorization"),
    (Name::ProxyRequire, "Proxy-Require"),
    (Name::RAck, "RAck"),
    (Name::Reason, "Reason"),
    (Name::RecordRoute, "Record-Route"),
    (Name::ReferTo, "Refer-To"),
    (Name::ReferredBy, "Referred-By"),
    (Name::Replaces, "Replaces"),
    (Name::Require, "Require"),
    (Name::RetryAfter, "Retry-After"),
    (Name::Route, "Route"),
    (Name::RSeq, "RSeq"),
    (Name::Server, "Server"),
    (Name::SessionExpires, "Session-Expires"),
    (Name::Subject, "Subject"),
    (Name::SubscriptionState, "Subscription-State"),
    (Name::Supported, "Supported"),
    (Name::Timestamp, "Timestamp"),
    (Name::To, "To"),
    (Name::Unsupported, "Unsupported"),
    (Name::UserAgent, "User-Agent"),
    (Name::Via, "Via"),
    (Name::Warning, "Warning"),
    (Name::WwwAuthenticate, "WWW-Authenticate"),
];

/// Indices into [`SPELLINGS`] by length and first letter, so that recognising a name is one or two comparisons.
static BY_SHAPE: [[u8; 4]; 26 * 20] = index_by_shape();

const fn shape(len: usize, first: u8) -> usize {
    len * 26 + (first.to_ascii_lowercase() - b'a') as usize
}

const fn index_by_shape() -> [[u8; 4]; 26 * 20] {
    let mut table = [[u8::MAX; 4]; 26 * 20];
    let mut i = 0;
    while i < SPELLINGS.len() {
        let text = SPELLINGS[i].1.as_bytes();
        let at = shape(text.len(), text[0]);
        let mut slot = 0;
        while table[at][slot] != u8::MAX {
            slot += 1;
        }
        table[at][slot] = i as u8;
        i += 1;
    }
    table
}

impl Name {
    /// Recognises a name as it stands in a message, without the colon and the spaces before it.
    pub fn of(text: &[u8]) -> Self {
        match *text {
            [] => Self::Other,
            [letter] => Self::of_compact(letter),
            [first, ..] if text.len() < 20 && first.is_ascii_alphabetic() => {
                for &i in &BY_SHAPE[shape(text.len(), first)] {
                    match SPELLINGS.get(usize::from(i)) {
                        Some((name, spelling)) if text.eq_ignore_ascii_case(spelling.as_bytes()) => return *name,
                        Some(_) => {}
                        None => break,
                    }
                }
                Self::Other
            }
            _ => Self::Other,
        }
    }

    /// RFC 3261 §20 and the registrations of RFC 6665, 3515, 3892, 4028.
    fn of_compact(letter: u8) -> Self {
        match letter.to_ascii_lowercase() {
            b'v' => Self::Via,
            b'f' => Self::From,
            b't' => Self::To,
            b'i' => Self::CallId,
            b'm' => Self::Contact,
            b'l' => Self::ContentLength,
            b'c' => Self::ContentType,
            b'e' => Self::ContentEncoding,
            b'k' => Self::Supported,
            b's' => Self::Subject,
            b'o' => Self::Event,
            b'u' => Self::AllowEvents,
            b'r' => Self::ReferTo,
            b'b' => Self::ReferredBy,
            b'x' => Self::SessionExpires,
            _ => Self::Other,
        }
    }

    /// As it is written into our messages. Empty for [`Name::Other`].
    pub fn as_str(self) -> &'static str {
        // `SPELLINGS` follows the order of the variants; a test holds that.
        match (self as usize).checked_sub(1).and_then(|i| SPELLINGS.get(i)) {
            Some((_, spelling)) => spelling,
            None => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_recognised_in_any_case() {
        for (name, spelling) in SPELLINGS {
            assert_eq!(name.as_str(), *spelling);
            assert_eq!(Name::of(spelling.as_bytes()), *name);
            assert_eq!(Name::of(spelling.to_uppercase().as_bytes()), *name);
            assert_eq!(Name::of(format!("{spelling}x").as_bytes()), Name::Other);
        }
        assert_eq!(Name::of(b"i"), Name::CallId);
        assert_eq!(Name::of(b"X-Anything-That-Is-Rather-Long"), Name::Other);
        assert_eq!(Name::of(b"1a"), Name::Other);
    }
}
