//! Files that are encrypted as `openssl enc -aes-256-cbc -md md5` does it, and the rule that names one with its key, as Cisco phones read
//! them: `[--key "SecretPhrase1234"] http://server/path`. Grandstream's are told the key by a setting of its own.

use cbc::cipher::{BlockModeDecrypt, KeyIvInit, block_padding::Pkcs7};
use md5::{Digest, Md5};

const MAGIC: &[u8] = b"Salted__";

/// The URL of a rule, and the key before it.
pub fn rule(text: &str) -> (Option<String>, &str) {
    let Some((options, url)) = text.trim().strip_prefix('[').and_then(|rest| rest.split_once(']')) else { return (None, text) };
    let key = options.split_once("--key").map(|(_, key)| key.trim().trim_matches('"').to_owned());
    (key, url.trim())
}

pub fn is_encrypted(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// What the file says; `None`: it is for another key, or spoilt.
pub fn decrypted(key: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let (salt, encrypted) = bytes.strip_prefix(MAGIC)?.split_at_checked(8)?;
    let mut made = Vec::new();
    let mut before = Vec::new();
    while made.len() < 48 {
        before = Md5::new().chain_update(&before).chain_update(key).chain_update(salt).finalize().to_vec();
        made.extend_from_slice(&before);
    }
    let (key, vector) = made.split_at_checked(32)?;
    cbc::Decryptor::<aes::Aes256>::new_from_slices(key, vector).ok()?.decrypt_padded_vec::<Pkcs7>(encrypted).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_may_bring_a_key() {
        for (text, key, url) in [
            ("http://s/$MA.xml", None, "http://s/$MA.xml"),
            ("[--key \"abc\"] http://s/$MA.enc", Some("abc"), "http://s/$MA.enc"),
            ("[ --key abc ]http://s/x", Some("abc"), "http://s/x"),
        ] {
            assert_eq!(rule(text), (key.map(str::to_owned), url));
        }
    }

    /// Made with `printf 'a file' | openssl enc -aes-256-cbc -md md5 -S 0102030405060708 -k 'a key'`.
    #[test]
    fn what_openssl_writes_is_read_with_its_key_only() {
        let digits = "eb8d65e6f8ef6b642da9bce9cf5fbeb9";
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("digits");
        let encrypted: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
        let file = [MAGIC, &[1, 2, 3, 4, 5, 6, 7, 8], &encrypted].concat();
        assert_eq!(decrypted("a key", &file).as_deref(), Some(&b"a file"[..]));
        assert_ne!(decrypted("another", &file).as_deref(), Some(&b"a file"[..]));
        assert_eq!((decrypted("a key", b"Salted__"), decrypted("a key", b"text")), (None, None));
    }
}
