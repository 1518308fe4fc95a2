//! The master key, and the SIP secrets derived from it: nothing to store, nothing to leak with a backup of the database.
//!
//! secret = base64url(HMAC-SHA-256(master key, "sip" ‖ MAC ‖ line ‖ generation)), its first 24 characters (144 bits).
//! The MAC is its six bytes, the line one byte, the generation four, big-endian. A bind or unbind counts the generation
//! up, and every secret of the device is another. Not here: the key's file (`files.rs`).

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroize;

use crate::model::{Generation, LineNumber, MacAddr, Secret, hex};

/// Characters of a secret: phones take 24 everywhere; some cut off beyond 32.
const LENGTH: usize = 24;

/// 32 random bytes that all secrets derive from. `Debug` shows nothing; wiped when dropped.
#[derive(Clone)]
pub struct MasterKey([u8; 32]);

impl MasterKey {
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// What the line of a device logs in with while this generation lasts.
    pub fn sip_secret(&self, mac: MacAddr, line: LineNumber, generation: Generation) -> Secret {
        self.text(&[b"sip", &mac.0, &[line], &generation.to_be_bytes()])
    }

    /// The device's key in URLs while this generation lasts, for phones whose address proves nothing: letters, digits, `-` and `_`.
    pub fn url_token(&self, mac: MacAddr, generation: Generation) -> Secret {
        self.text(&[b"url", &mac.0, &generation.to_be_bytes()])
    }

    /// What the device's files are encrypted by, whoever owns it: a phone that misses one file must still be able to read the next. 32
    /// hexadecimal digits (128 bits).
    pub fn file_key(&self, mac: MacAddr) -> Secret {
        let mut tag = self.tag(&[b"file", &mac.0]);
        let digits = hex(&tag[..16]);
        tag.zeroize();
        Secret::new(digits)
    }

    /// Who our DHCPv6 server is, in every run (DUID-UUID, RFC 6355).
    pub fn server_duid(&self) -> Vec<u8> {
        let tag = self.tag(&[b"duid"]);
        [&[0, 4][..], &tag[..16]].concat()
    }

    /// For the web pages and menus of the phones of one site, `""` where there are no sites: 12 letters and digits (59 bits)
    /// that a person can key in, without those that look alike.
    pub fn admin_password(&self, site: &str) -> Secret {
        const LETTERS: &[u8] = b"abcdefghjkmnpqrstuvwxyz23456789";
        let mut tag = self.tag(&[b"admin", site.as_bytes()]);
        let letters = tag.iter().take(12).filter_map(|byte| LETTERS.get(usize::from(*byte) % LETTERS.len()));
        let secret = Secret::new(letters.map(|letter| char::from(*letter)).collect::<String>());
        tag.zeroize();
        secret
    }

    /// Proves that `bytes`, which everybody may read, were said by this server.
    pub fn seal(&self, bytes: &[u8]) -> Secret {
        self.text(&[b"seal", bytes])
    }

    /// A name for what somebody keyed in, by which it is recognised but not known: see `attempts.rs`.
    pub fn blind(&self, keyed: &str) -> String {
        let tag = self.tag(&[b"attempt", keyed.as_bytes()]);
        URL_SAFE_NO_PAD.encode(tag).chars().take(16).collect()
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn text(&self, parts: &[&[u8]]) -> Secret {
        let mut tag = self.tag(parts);
        let mut text = URL_SAFE_NO_PAD.encode(tag);
        tag.zeroize();
        let secret = Secret::new(text.get(..LENGTH).unwrap_or_default());
        text.zeroize();
        secret
    }

    fn tag(&self, parts: &[&[u8]]) -> [u8; 32] {
        let Ok(mut hmac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            // HMAC takes keys of every length (RFC 2104 §2).
            unreachable!("a key of 32 bytes")
        };
        parts.iter().for_each(|part| hmac.update(part));
        hmac.finalize().into_bytes().into()
    }
}

impl Drop for MasterKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const MAC: MacAddr = MacAddr([0, 0x15, 0x65, 0xaa, 0xbb, 0xcc]);

    /// Made with `printf 'sip\x00\x15\x65\xaa\xbb\xcc\x01\x00\x00\x00\x02' | openssl dgst -sha256 -mac HMAC -macopt
    /// hexkey:0707… -binary | basenc --base64url | cut -c1-24`.
    #[test]
    fn anybody_can_recompute_a_secret() {
        let secret = MasterKey::new([7; 32]).sip_secret(MAC, 1, 2);
        assert_eq!(secret.expose(), "vqWOKOWpPmlFbYI5gHnAC6bE");
    }

    #[test]
    fn every_device_line_and_generation_has_its_own() {
        let key = MasterKey::new([7; 32]);
        let mut seen = HashSet::new();
        for device in 0..4u8 {
            for line in 1..4 {
                for generation in 0..50 {
                    let secret = key.sip_secret(MacAddr([0, 0, 0, 0, 0, device]), line, generation);
                    assert_eq!(secret.expose().len(), LENGTH);
                    assert!(seen.insert(secret.expose().to_owned()));
                }
            }
        }
        assert_ne!(key.sip_secret(MAC, 1, 0), MasterKey::new([8; 32]).sip_secret(MAC, 1, 0));
    }

    #[test]
    fn the_key_does_not_print() {
        assert_eq!(format!("{:?}", MasterKey::new([7; 32])), "MasterKey(…)");
    }
}
