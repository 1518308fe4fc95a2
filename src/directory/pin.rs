//! PIN hashes as directories store them: reading one, checking keyed digits against it, making a new one. Pure.
//!
//! Known forms: `$argon2id$…` with or without `{ARGON2}`, `{SSHA256}`, `{SSHA512}`, `{SHA256}`, `{SHA512}` (RFC 2307 style,
//! as OpenLDAP's pw-sha2 writes them), and plain text. Comparisons take the same time wherever the two differ.
//! Not here: salted SHA-1 and crypt(3), which guard no four-digit PIN; let the LDAP server check those (`check: bind`).

use argon2::{
    Algorithm, Argon2, Params, PasswordVerifier, Version,
    password_hash::phc::{ParamsString, PasswordHash},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;

use crate::model::Keys;

/// Memory of one argon2id computation, in KiB: 19 MiB, with two passes (OWASP's smallest recommended pair).
/// A PIN has few digits, so the lock-out is its guard and not this hash; more memory would only slow the server.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
/// A stored hash may ask for more than ours; beyond this it is a fault or an attack on the server's memory.
const MEMORY_KIB_MOST: u32 = 256 * 1024;

/// What a directory keeps in place of a PIN.
pub enum StoredPin {
    Argon2(String),
    Sha256 {
        hash: Vec<u8>,
        salt: Vec<u8>,
    },
    Sha512 {
        hash: Vec<u8>,
        salt: Vec<u8>,
    },
    /// Only where an administrator chose to store it so.
    Plain(Keys),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("not an argon2id hash; make one with `plugtone pin hash`")]
    NotArgon2,
    #[error("asks for {0} KiB of memory per check, at most {MEMORY_KIB_MOST} are allowed")]
    TooCostly(u32),
    #[error("the scheme {0} is not known here: use {{ARGON2}}, {{SSHA256}} or {{SSHA512}}, or `check: bind`")]
    UnknownScheme(String),
    #[error("broken base64 or too short")]
    Broken,
    #[error("a PIN has 1 to 64 characters of 0-9, *, # and A-D")]
    NotAPin,
    #[error("could not be computed")]
    Failed,
}

impl StoredPin {
    /// Reads what an attribute or a file holds. Text without a scheme is a plain PIN.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.starts_with("$argon2") {
            return Self::argon2(text);
        }
        let Some((scheme, rest)) = text.strip_prefix('{').and_then(|t| t.split_once('}')) else {
            return Ok(Self::Plain(Keys::from(text)));
        };
        match scheme.to_ascii_uppercase().as_str() {
            "ARGON2" => Self::argon2(rest),
            "SSHA256" | "SHA256" => split_salted(rest, 32).map(|(hash, salt)| Self::Sha256 { hash, salt }),
            "SSHA512" | "SHA512" => split_salted(rest, 64).map(|(hash, salt)| Self::Sha512 { hash, salt }),
            _ => Err(Error::UnknownScheme(format!("{{{scheme}}}"))),
        }
    }

    /// As [`Self::parse`], but only argon2id will do.
    pub fn argon2(text: &str) -> Result<Self, Error> {
        let hash = PasswordHash::new(text).map_err(|_| Error::NotArgon2)?;
        if hash.algorithm.as_str() != "argon2id" || hash.hash.is_none() || hash.salt.is_none() {
            return Err(Error::NotArgon2);
        }
        let params = Params::try_from(&hash).map_err(|_| Error::NotArgon2)?;
        if params.m_cost() > MEMORY_KIB_MOST {
            return Err(Error::TooCostly(params.m_cost()));
        }
        Ok(Self::Argon2(text.to_owned()))
    }

    /// Is this the PIN? An empty one never is. Argon2 takes about 30 ms of a core: call it off the runtime.
    pub fn verify(&self, pin: &Keys) -> bool {
        if pin.is_empty() {
            return false;
        }
        let keyed = pin.expose().as_bytes();
        match self {
            Self::Argon2(text) => PasswordHash::new(text).is_ok_and(|hash| Argon2::default().verify_password(keyed, &hash).is_ok()),
            Self::Sha256 { hash, salt } => Sha256::new().chain_update(keyed).chain_update(salt).finalize()[..].ct_eq(hash).into(),
            Self::Sha512 { hash, salt } => Sha512::new().chain_update(keyed).chain_update(salt).finalize()[..].ct_eq(hash).into(),
            Self::Plain(plain) => plain.expose().as_bytes().ct_eq(keyed).into(),
        }
    }
}

impl std::fmt::Debug for StoredPin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoredPin(…)")
    }
}

/// `base64(hash ‖ salt)` → the two.
fn split_salted(text: &str, hash_len: usize) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let mut hash = STANDARD.decode(text.trim()).map_err(|_| Error::Broken)?;
    if hash.len() < hash_len {
        return Err(Error::Broken);
    }
    let salt = hash.split_off(hash_len);
    Ok((hash, salt))
}

/// The argon2id hash of a PIN in the form that `pin_hash:` takes. `salt` comes from the caller: 16 random bytes.
pub fn hash(pin: &Keys, salt: [u8; 16]) -> Result<String, Error> {
    let digits = pin.expose();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit() || b"*#ABCD".contains(&b)) {
        return Err(Error::NotAPin);
    }
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params()?);
    let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
    argon2.hash_password_into(digits.as_bytes(), &salt, &mut output).map_err(|_| Error::Failed)?;
    written(salt, output)
}

/// Takes as long to check as any of [`hash`], and is of no PIN that anybody knows: from random bytes, without the work.
pub fn nobodys(salt: [u8; 16], output: [u8; Params::DEFAULT_OUTPUT_LEN]) -> Result<StoredPin, Error> {
    written(salt, output).map(StoredPin::Argon2)
}

fn params() -> Result<Params, Error> {
    Params::new(MEMORY_KIB, PASSES, 1, None).map_err(|_| Error::Failed)
}

fn written(salt: [u8; 16], output: [u8; Params::DEFAULT_OUTPUT_LEN]) -> Result<String, Error> {
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params()?).map_err(|_| Error::Failed)?,
        salt: Some(argon2::password_hash::phc::Salt::new(&salt).map_err(|_| Error::Failed)?),
        hash: Some(argon2::password_hash::phc::Output::new(&output).map_err(|_| Error::Failed)?),
    };
    Ok(hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_knows_its_pin() {
        let argon2 = hash(&Keys::from("4711"), [7; 16]).expect("hashes");
        // From `slappasswd -o module-load=pw-sha2 -h {SSHA256}` the form; the bytes are computed here.
        let salted = |bytes: &[u8], salt: &[u8]| STANDARD.encode([bytes, salt].concat());
        let sha256 = format!("{{SSHA256}}{}", salted(&Sha256::digest(b"4711salt"), b"salt"));
        let sha512 = format!("{{ssha512}}{}", salted(&Sha512::digest(b"4711salt"), b"salt"));
        for stored in [argon2.clone(), format!("{{ARGON2}}{argon2}"), sha256, sha512, "4711".into()] {
            let parsed = StoredPin::parse(&stored).expect(&stored);
            for (keyed, right) in [("4711", true), ("4712", false), ("471", false), ("47111", false), ("", false)] {
                assert_eq!(parsed.verify(&Keys::from(keyed)), right, "{keyed} against {stored}");
            }
        }
    }

    #[test]
    fn the_hash_of_nobody_costs_what_others_cost() {
        let (StoredPin::Argon2(nobodys), hash) =
            (nobodys([7; 16], [9; 32]).expect("written"), hash(&Keys::from("4711"), [7; 16]).expect("hashes"))
        else {
            panic!("not argon2")
        };
        let before_output = |text: &str| text.rsplit_once('$').expect("a hash").0.to_owned();
        assert_eq!(before_output(&nobodys), before_output(&hash));
        let read = StoredPin::argon2(&nobodys).expect("as good as any");
        assert!(!read.verify(&Keys::from("4711")));
    }

    #[test]
    fn an_empty_stored_pin_lets_nobody_in() {
        assert!(!StoredPin::parse("").expect("plain").verify(&Keys::default()));
    }

    #[test]
    fn what_cannot_be_checked_is_refused_when_read() {
        for (stored, why) in [
            ("{SSHA}AAAA", Error::UnknownScheme("{SSHA}".into())),
            ("{CRYPT}x", Error::UnknownScheme("{CRYPT}".into())),
            ("{SSHA256}!!", Error::Broken),
            ("{SSHA256}AAAA", Error::Broken),
            (
                "$argon2id$v=19$m=99999999,t=2,p=1$BwcHBwcHBwcHBwcHBwcHBw$BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc",
                Error::TooCostly(99_999_999),
            ),
            ("$argon2id$", Error::NotArgon2),
        ] {
            assert_eq!(StoredPin::parse(stored).expect_err(stored), why);
        }
        assert_eq!(hash(&Keys::from("abc"), [0; 16]), Err(Error::NotAPin));
        assert_eq!(format!("{:?}", StoredPin::parse("4711")), "Ok(StoredPin(…))");
    }
}
