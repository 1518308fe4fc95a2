//! Digest authentication (RFC 7616, RFC 3261 §22, RFC 8760): MD5, SHA-256 and SHA-512-256, `qop=auth`.
//!
//! [`verifier`] is the side that challenges, [`login`] the side that answers; the arithmetic that both share is here.
//! Not here: `auth-int` and the `-sess` algorithms, which no phone insists on.

pub mod login;
pub mod verifier;

use std::fmt;

use md5::Md5;
use sha2::{Sha256, Sha512_256};

use crate::model::{Generation, LineNumber, MacAddr, Secret};

pub use login::{Credentials, Login};
pub use verifier::{Refusal, Verifier};

/// Who may log in. Asked for every authenticated request: answer from memory, without locks.
pub trait Accounts: Send + Sync {
    /// By the digest user name, `<mac12lower>-<line>`. Called for names that nobody has, too.
    fn account(&self, auth_user: &str) -> Option<Account>;
}

/// One line of one device, as it may register now.
#[derive(Clone, Debug)]
pub struct Account {
    /// User part of the address of record: `new<mac12lower>` while provisional, else the extension.
    pub user: String,
    pub mac: MacAddr,
    pub line: LineNumber,
    /// Of the binding whose secret this is.
    pub generation: Generation,
    /// May reach the IVR and emergency numbers, and nothing else.
    pub provisional: bool,
    pub display_name: String,
    pub secret: Secret,
}

/// A hash that phones know, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub enum Algorithm {
    #[serde(rename = "MD5")]
    Md5,
    #[serde(rename = "SHA-256")]
    Sha256,
    #[serde(rename = "SHA-512-256")]
    Sha512Of256,
}

impl Algorithm {
    /// As in `algorithm=`; nothing means MD5 (RFC 7616 §3.3).
    pub fn of(text: Option<&str>) -> Option<Self> {
        let text = text.unwrap_or("MD5");
        [Self::Md5, Self::Sha256, Self::Sha512Of256].into_iter().find(|known| text.eq_ignore_ascii_case(known.as_str()))
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
            Self::Sha512Of256 => "SHA-512-256",
        }
    }

    /// The hash of the parts joined by colons.
    fn hash(self, parts: &[&[u8]]) -> Hex {
        match self {
            Self::Md5 => joined::<Md5>(parts),
            Self::Sha256 => joined::<Sha256>(parts),
            Self::Sha512Of256 => joined::<Sha512_256>(parts),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Lower-case hex digits of a hash.
struct Hex {
    digits: [u8; 64],
    len: usize,
}

impl Hex {
    fn as_bytes(&self) -> &[u8] {
        self.digits.get(..self.len).unwrap_or_default()
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

#[cfg(test)]
thread_local! {
    static HASHED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Bytes that were hashed while `work` ran, on this thread.
#[cfg(test)]
fn hashed_bytes(work: impl FnOnce()) -> usize {
    HASHED.set(0);
    work();
    HASHED.get()
}

fn joined<D: md5::Digest>(parts: &[&[u8]]) -> Hex {
    #[cfg(test)]
    HASHED.set(HASHED.get() + parts.iter().map(|part| part.len()).sum::<usize>());
    let mut hasher = D::new();
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            hasher.update(b":");
        }
        hasher.update(part);
    }
    let mut hex = Hex { digits: [0; 64], len: 0 };
    for byte in hasher.finalize().iter() {
        for nibble in [byte >> 4, byte & 15] {
            if let Some(digit) = hex.digits.get_mut(hex.len) {
                *digit = b"0123456789abcdef".get(usize::from(nibble)).copied().unwrap_or_default();
                hex.len += 1;
            }
        }
    }
    hex
}

/// What goes into `response=`.
struct Proof<'a> {
    algorithm: Algorithm,
    username: &'a str,
    realm: &'a str,
    secret: &'a str,
    method: &'a str,
    uri: &'a str,
    nonce: &'a str,
    /// `nc` and `cnonce` as written, with `qop=auth`; `None` for the form of RFC 2069.
    qop: Option<(&'a str, &'a str)>,
}

impl Proof<'_> {
    /// RFC 7616 §3.4.1.
    fn response(&self) -> Hex {
        let h = |parts: &[&[u8]]| self.algorithm.hash(parts);
        let a1 = h(&[self.username.as_bytes(), self.realm.as_bytes(), self.secret.as_bytes()]);
        let a2 = h(&[self.method.as_bytes(), self.uri.as_bytes()]);
        match self.qop {
            Some((nc, cnonce)) => h(&[a1.as_bytes(), self.nonce.as_bytes(), nc.as_bytes(), cnonce.as_bytes(), b"auth", a2.as_bytes()]),
            None => h(&[a1.as_bytes(), self.nonce.as_bytes(), a2.as_bytes()]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_7616_and_2069_come_out() {
        let mut proof = Proof {
            algorithm: Algorithm::Md5,
            username: "Mufasa",
            realm: "http-auth@example.org",
            secret: "Circle of Life",
            method: "GET",
            uri: "/dir/index.html",
            nonce: "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
            qop: Some(("00000001", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ")),
        };
        assert_eq!(proof.response().as_str(), "8ca523f5e9506fed4657c9700eebdbec");
        proof.algorithm = Algorithm::Sha256;
        assert_eq!(proof.response().as_str(), "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1");
        // The request of RFC 7616 §3.9.2, which prints a result that no hash gives (its errata): this one is OpenSSL's, by
        // `printf %s … | openssl dgst -sha512-256` thrice.
        let doe = Proof {
            algorithm: Algorithm::Sha512Of256,
            username: "J\u{e4}s\u{f8}n Doe",
            realm: "api@example.org",
            secret: "Secret, or not?",
            method: "GET",
            uri: "/doe.json",
            nonce: "5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK",
            qop: Some(("00000001", "NTg6RKcb9boFIAS3KrFK9BGeh+niz/sm")),
        };
        assert_eq!(doe.response().as_str(), "7a4e1192babbba02e91182d2895bfdbf7adafc6e48d4e517ca301974843d840c");
        let old = Proof {
            algorithm: Algorithm::Md5,
            username: "Mufasa",
            realm: "testrealm@host.com",
            // RFC 2069 §2.4 with the erratum's result.
            secret: "CircleOfLife",
            method: "GET",
            uri: "/dir/index.html",
            nonce: "dcd98b7102dd2f0e8b11d0f600bfb0c093",
            qop: None,
        };
        assert_eq!(old.response().as_str(), "1949323746fe6a43ef61f9606e7febea");
    }
}
