//! Files that are encrypted for one phone: as `openssl enc -aes-256-cbc -md md5 -k KEY` writes them, which Cisco's multiplatform and SPA
//! phones read (their guides name OpenSSL 0.9.7, whose digest was MD5), and Grandstream's (whose provisioning guide of 2011 has the same
//! command, when MD5 was still its digest).
//!
//! `Salted__`, eight bytes of salt, AES-256 in CBC mode with PKCS #7; key and vector are MD5 of what came before, the password and the
//! salt, as often as it takes (EVP_BytesToKey with one round). It keeps listeners from reading, and does not show who wrote it. Here the
//! salt is made of key and text: the same file is the same bytes, so that phones need not load it again, and no salt is used for two texts.
//! Pure. Missing: RFC 8188 (`aes128gcm`), which newer multiplatform firmware reads as well.

use cbc::cipher::{BlockModeEncrypt, KeyIvInit, block_padding::Pkcs7};
use md5::{Digest, Md5};
use zeroize::Zeroize;

use crate::model::Secret;

const MAGIC: &[u8; 8] = b"Salted__";

pub fn salted(key: &Secret, text: &[u8]) -> Vec<u8> {
    let mut hash = blake3::Hasher::new_derive_key("plugtone 2026 salt of an encrypted file");
    hash.update(key.expose().as_bytes()).update(text);
    let mut salt = [0; 8];
    hash.finalize_xof().fill(&mut salt);
    salted_with(key, salt, text)
}

fn salted_with(key: &Secret, salt: [u8; 8], text: &[u8]) -> Vec<u8> {
    let mut made = [0; 48];
    let mut before: &[u8] = &[];
    let mut rest = &mut made[..];
    while !rest.is_empty() {
        let digest = Md5::new().chain_update(before).chain_update(key.expose()).chain_update(salt).finalize();
        let (filled, after) = rest.split_at_mut(digest.len().min(rest.len()));
        filled.copy_from_slice(&digest[..filled.len()]);
        (before, rest) = (filled, after);
    }
    let (aes_key, vector) = made.split_at(32);
    let encryptor = cbc::Encryptor::<aes::Aes256>::new_from_slices(aes_key, vector);
    let Ok(encryptor) = encryptor else { unreachable!("a key of 32 bytes and a vector of 16") };
    let encrypted = encryptor.encrypt_padded_vec::<Pkcs7>(text);
    made.zeroize();
    [&MAGIC[..], &salt, &encrypted].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `printf 'a file' | openssl enc -aes-256-cbc -md md5 -S 0102030405060708 -k 'a key' | xxd -p`, which leaves out the first
    /// sixteen bytes where the salt is given.
    #[test]
    fn openssl_writes_the_same() {
        let bytes = salted_with(&Secret::new("a key"), [1, 2, 3, 4, 5, 6, 7, 8], b"a file");
        assert_eq!(bytes[..16], *b"Salted__\x01\x02\x03\x04\x05\x06\x07\x08");
        assert_eq!(crate::model::hex(&bytes[16..]), "eb8d65e6f8ef6b642da9bce9cf5fbeb9");
    }

    #[test]
    fn the_same_file_is_the_same_bytes_and_another_has_another_salt() {
        let made = |key: &str, text: &str| salted(&Secret::new(key), text.as_bytes());
        assert_eq!(made("k", "text"), made("k", "text"));
        for (story, other) in [("text", made("k", "texT")), ("key", made("K", "text"))] {
            assert_ne!(other[8..16], made("k", "text")[8..16], "another {story}");
        }
        // A whole block is padded with another.
        assert_eq!(made("k", "sixteen bytes.16").len(), 16 + 32);
    }
}
