//! The client's half of digest: a challenge and a password in, an Authorization header out (RFC 7616, RFC 8760).
//!
//! The strongest algorithm that we know is answered, MD5 and SHA-256, with `qop=auth` where the server offers it. Pure: the
//! cnonce comes in. Not here: judging other people's answers (`digest.rs`).

use std::fmt::Write;

use md5::Md5;
use sha2::{Digest, Sha256};

use super::{
    header::Auth,
    message::{Message, Method},
    name::Name,
};
use crate::model::Secret;

/// Who we are to a server that asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: Secret,
}

/// The header that answers a challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Authorization for 401, Proxy-Authorization for 407.
    pub name: Name,
    pub value: String,
    /// The server says that the password was right and the nonce too old: worth another try.
    pub stale: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Algorithm {
    Md5,
    Sha256,
}

impl Credentials {
    /// Answers the challenge in a 401 or 407 for the request `method` `uri`. `None`: nothing in it that we can answer.
    pub fn answer(&self, challenge: &Message, method: &Method, uri: &str, cnonce: &str) -> Option<Answer> {
        let (asks, answers) = match challenge.status()? {
            401 => (Name::WwwAuthenticate, Name::Authorization),
            407 => (Name::ProxyAuthenticate, Name::ProxyAuthorization),
            _ => return None,
        };
        let known = challenge.auths(asks).filter(Auth::is_digest).filter_map(|auth| Some((algorithm(&auth)?, auth)));
        let (algorithm, auth) = known.max_by_key(|(algorithm, _)| *algorithm)?;
        let (realm, nonce) = (auth.get("realm")?, auth.get("nonce")?);
        let with_qop = auth.get("qop").is_some_and(|qop| qop.split(',').any(|one| one.trim().eq_ignore_ascii_case("auth")));
        if auth.get("qop").is_some() && !with_qop {
            return None;
        }
        let ha1 = algorithm.hash(&format!("{}:{realm}:{}", self.user, self.password.expose()));
        let ha2 = algorithm.hash(&format!("{method}:{uri}"));
        let mut value = format!(
            "Digest username={}, realm={}, nonce={}, uri={}, algorithm={}",
            quoted(&self.user),
            quoted(&realm),
            quoted(&nonce),
            quoted(uri),
            algorithm.name(),
        );
        let response = if with_qop {
            let _ = write!(value, ", qop=auth, nc=00000001, cnonce={}", quoted(cnonce));
            algorithm.hash(&format!("{ha1}:{nonce}:00000001:{cnonce}:auth:{ha2}"))
        } else {
            algorithm.hash(&format!("{ha1}:{nonce}:{ha2}"))
        };
        let _ = write!(value, ", response=\"{response}\"");
        if let Some(opaque) = auth.get("opaque") {
            let _ = write!(value, ", opaque={}", quoted(&opaque));
        }
        let stale = auth.get("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true"));
        Some(Answer { name: answers, value, stale })
    }
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
        }
    }

    fn hash(self, text: &str) -> String {
        match self {
            Self::Md5 => hex(&Md5::digest(text.as_bytes())),
            Self::Sha256 => hex(&Sha256::digest(text.as_bytes())),
        }
    }
}

fn algorithm(auth: &Auth<'_>) -> Option<Algorithm> {
    match auth.get("algorithm") {
        None => Some(Algorithm::Md5),
        Some(name) if name.eq_ignore_ascii_case("MD5") => Some(Algorithm::Md5),
        Some(name) if name.eq_ignore_ascii_case("SHA-256") => Some(Algorithm::Sha256),
        Some(_) => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn quoted(text: &str) -> String {
    super::header::quote(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(lines: &[&str]) -> Message {
        let text = format!("SIP/2.0 {}\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nCSeq: 1 INVITE\r\n\r\n", lines.join("\r\n"));
        Message::parse(text.into_bytes().into()).unwrap()
    }

    fn mufasa() -> Credentials {
        Credentials { user: "Mufasa".into(), password: Secret::new("Circle Of Life") }
    }

    /// RFC 2617 §3.5, whose password is "Circle Of Life".
    #[test]
    fn the_example_of_the_rfc() {
        let asked = challenge(&[
            "401 Unauthorized",
            "WWW-Authenticate: Digest realm=\"testrealm@host.com\", qop=\"auth,auth-int\", nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"",
        ]);
        let answer = mufasa().answer(&asked, &Method::Other("GET".into()), "/dir/index.html", "0a4f113b").unwrap();
        assert_eq!(answer.name, Name::Authorization);
        assert!(answer.value.contains("response=\"6629fae49393a05397450978507c4ef1\""), "{}", answer.value);
        assert!(answer.value.ends_with("opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"") && !answer.stale);
    }

    #[test]
    fn the_strongest_that_we_know_is_answered() {
        let asked = challenge(&[
            "407 Proxy Authentication Required",
            "Proxy-Authenticate: Digest realm=\"r\", nonce=\"n\", algorithm=SHA-512-256",
            "Proxy-Authenticate: Digest realm=\"r\", nonce=\"n\", algorithm=MD5, stale=true",
            "Proxy-Authenticate: Digest realm=\"r\", nonce=\"n\", algorithm=SHA-256, stale=TRUE",
        ]);
        let answer = mufasa().answer(&asked, &Method::Invite, "sip:a@b", "c").unwrap();
        assert!(answer.name == Name::ProxyAuthorization && answer.stale && answer.value.contains("algorithm=SHA-256"));
    }

    #[test]
    fn what_cannot_be_answered_is_not() {
        for line in [
            "WWW-Authenticate: Basic realm=\"r\"",
            "WWW-Authenticate: Digest realm=\"r\"",
            "WWW-Authenticate: Digest realm=\"r\", nonce=\"n\", qop=\"auth-int\"",
        ] {
            assert_eq!(mufasa().answer(&challenge(&["401 x", line]), &Method::Invite, "sip:a@b", "c"), None, "{line}");
        }
        assert_eq!(mufasa().answer(&challenge(&["486 x"]), &Method::Invite, "sip:a@b", "c"), None);
    }
}
