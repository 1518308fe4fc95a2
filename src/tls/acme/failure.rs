//! What is told when there is no certificate from the authority, and what can be done about it. Pure.

use super::renewal::Failed;

/// An order that failed, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: Failed,
    pub error: String,
    /// For whoever must act.
    pub remedy: String,
}

impl Failure {
    /// The authority said no: `kind` is the end of the problem's type (RFC 8555 §6.7), as `dns`; `detail` its words.
    pub fn refused(kind: &str, detail: &str, names: &[String]) -> Self {
        let names = names.join(", ");
        let lead = || {
            format!(
                "{names} must lead to this server from where the authority is, and TCP port 80 of it to an address of `http.listen`; look \
                 from there at http://{}/.well-known/acme-challenge/x, which is answered with 404",
                names.split(", ").next().unwrap_or_default()
            )
        };
        let remedy = match kind {
            "connection" | "dns" | "unauthorized" | "incorrectResponse" | "tls" => lead(),
            "rateLimited" => "nothing: it is asked again after a pause. Where many orders failed, see what was told of them".to_owned(),
            "caa" => format!("the DNS of {names} has CAA records that do not allow this authority: add it there"),
            "rejectedIdentifier" | "unsupportedIdentifier" => {
                format!("`tls.acme.names`: the authority signs no certificate for one of {names}; take names of yours in the public DNS")
            }
            "userActionRequired" => "the authority has new terms: agree to them as its page says".to_owned(),
            "externalAccountRequired" => {
                "the authority wants an account that was made beforehand, which this server cannot use: take another".to_owned()
            }
            "invalidContact" | "unsupportedContact" => "`tls.acme.contact` is no address that the authority writes to".to_owned(),
            // The authority's own disorder (RFC 8555 §6.5: nonces run out).
            "badNonce" | "serverInternal" => return Self::unreached(detail.to_owned(), "nothing: it is asked again soon".to_owned()),
            _ => "ask whoever runs the authority".to_owned(),
        };
        Self { kind: Failed::Refused, error: format!("{detail} ({kind})"), remedy }
    }

    pub fn unreached(error: String, remedy: String) -> Self {
        Self { kind: Failed::Unreached, error, remedy }
    }

    /// `directory` did not answer as ACME does.
    pub fn away(directory: &str, error: String) -> Self {
        let remedy = format!(
            "can this server reach {directory}: name server, firewall? If it is an authority of your own, `tls.acme.ca` names the root of its \
             HTTPS"
        );
        Self::unreached(error, remedy)
    }

    /// Our own disk.
    pub fn ours(error: String) -> Self {
        Self::unreached(error, "the folder `tls` beside the database must be writable, and its files whole".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_says_what_is_to_be_done() {
        let names = ["pbx.example.com".to_owned(), "sip.example.com".to_owned()];
        for (kind, says, failed) in [
            ("connection", "http://pbx.example.com/.well-known/acme-challenge/x", Failed::Refused),
            ("dns", "pbx.example.com, sip.example.com must lead to this server", Failed::Refused),
            ("rateLimited", "nothing", Failed::Refused),
            ("caa", "CAA", Failed::Refused),
            ("rejectedIdentifier", "`tls.acme.names`", Failed::Refused),
            ("externalAccountRequired", "take another", Failed::Refused),
            ("badNonce", "soon", Failed::Unreached),
            ("somethingNew", "whoever runs", Failed::Refused),
        ] {
            let failure = Failure::refused(kind, "it said so", &names);
            assert!(failure.remedy.contains(says) && failure.kind == failed, "{kind}: {failure:?}");
            assert!(failure.error.contains("it said so"), "{kind}");
        }
    }
}
