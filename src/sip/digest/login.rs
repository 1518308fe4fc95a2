//! Answers a 401 or 407: for the NOTIFYs that phones challenge, and for the simulated phone's own requests.

use std::fmt;

use crate::model::Secret;
use crate::sip::{
    header::{Auth, quote},
    message::Message,
    name::Name,
};

use super::{Algorithm, Proof};

/// A digest user name and its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub secret: Secret,
}

/// What a server asked for last, and how often it was answered.
#[derive(Clone)]
struct Challenge {
    header: Name,
    realm: String,
    nonce: String,
    opaque: Option<String>,
    algorithm: Algorithm,
    qop: bool,
    count: u32,
}

/// One identity towards one server. Keeps the last nonce, so that later requests need no challenge of their own.
#[derive(Clone)]
pub struct Login {
    credentials: Credentials,
    challenge: Option<Challenge>,
    /// The last request was sent with an answer to `challenge`.
    answered: bool,
}

/// Why a challenge cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    #[error("the server refused the user name or password")]
    Refused,
    #[error("the server asks for no digest that is known here (MD5, SHA-256 and SHA-512-256 are, with qop=auth or none)")]
    Unknown,
}

impl Login {
    pub fn new(credentials: Credentials) -> Self {
        Self { credentials, challenge: None, answered: false }
    }

    pub fn username(&self) -> &str {
        &self.credentials.username
    }

    /// Takes the challenge of a 401 or 407. `Ok` means: send the request again, with a higher CSeq and [`Self::authorize`].
    pub fn handle_challenge(&mut self, response: &Message) -> Result<(), LoginError> {
        let header = if response.status() == Some(407) { Name::ProxyAuthenticate } else { Name::WwwAuthenticate };
        // Of several the strongest (RFC 8760 §2.4).
        let offers = response.auths(header).filter(Auth::is_digest).filter_map(|auth| offer(header, &auth));
        let (challenge, stale) = offers.max_by_key(|(offer, _)| offer.algorithm).ok_or(LoginError::Unknown)?;
        // A second challenge is a refusal, unless only the nonce had become too old.
        if std::mem::take(&mut self.answered) && !stale {
            self.challenge = None;
            return Err(LoginError::Refused);
        }
        self.challenge = Some(challenge);
        Ok(())
    }

    /// The header for the next request, once there was a challenge. `cnonce`: anything unguessable.
    pub fn authorize(&mut self, method: &str, uri: &str, cnonce: &str) -> Option<(Name, String)> {
        let challenge = self.challenge.as_mut()?;
        challenge.count += 1;
        self.answered = true;
        let nc = format!("{:08x}", challenge.count);
        let response = Proof {
            algorithm: challenge.algorithm,
            username: &self.credentials.username,
            realm: &challenge.realm,
            secret: self.credentials.secret.expose(),
            method,
            uri,
            nonce: &challenge.nonce,
            qop: challenge.qop.then_some((nc.as_str(), cnonce)),
        }
        .response();
        let mut value = format!(
            "Digest username={}, realm={}, nonce={}, uri={}, response=\"{}\", algorithm={}",
            quote(&self.credentials.username),
            quote(&challenge.realm),
            quote(&challenge.nonce),
            quote(uri),
            response.as_str(),
            challenge.algorithm,
        );
        if challenge.qop {
            value.push_str(&format!(", qop=auth, nc={nc}, cnonce={}", quote(cnonce)));
        }
        if let Some(opaque) = &challenge.opaque {
            value.push_str(&format!(", opaque={}", quote(opaque)));
        }
        let header = if challenge.header == Name::ProxyAuthenticate { Name::ProxyAuthorization } else { Name::Authorization };
        Some((header, value))
    }

    /// A request was accepted: the next challenge is one for a new nonce.
    pub fn handle_success(&mut self) {
        self.answered = false;
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({})", self.credentials.username)
    }
}

/// A challenge that we can answer, and whether it says `stale=true`.
fn offer(header: Name, auth: &Auth<'_>) -> Option<(Challenge, bool)> {
    let algorithm = Algorithm::of(auth.get("algorithm").as_deref())?;
    let qop = auth.get("qop");
    let has_auth = qop.as_deref().is_some_and(|list| list.split(',').any(|q| q.trim().eq_ignore_ascii_case("auth")));
    if qop.is_some() && !has_auth {
        return None;
    }
    let challenge = Challenge {
        header,
        realm: auth.get("realm")?.into_owned(),
        nonce: auth.get("nonce")?.into_owned(),
        opaque: auth.get("opaque").map(|o| o.into_owned()),
        algorithm,
        qop: has_auth,
        count: 0,
    };
    Some((challenge, auth.get("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true"))))
}
