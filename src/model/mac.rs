//! A device's hardware address, read in every spelling that phones use and written in the three that files want.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An Ethernet address: the identity of a device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a MAC address: write twelve hex digits, as 00:15:65:aa:bb:cc, 00-15-65-AA-BB-CC or 001565aabbcc")]
pub struct ParseMacError(String);

impl MacAddr {
    /// Twelve lower-case digits without separators: `001565aabbcc`, as most file names have it.
    pub fn bare(&self) -> String {
        let mut digits = String::with_capacity(2 * self.0.len());
        let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or_default();
        self.0.iter().for_each(|byte| digits.extend([digit(byte >> 4), digit(byte & 0xf)]));
        digits
    }

    /// Twelve upper-case digits without separators: `001565AABBCC`, as snom, Mitel and Cisco enterprise phones have it.
    pub fn bare_upper(&self) -> String {
        self.bare().to_uppercase()
    }

    /// The maker's prefix, the first three bytes (IEEE MA-L).
    pub fn oui(&self) -> [u8; 3] {
        [self.0[0], self.0[1], self.0[2]]
    }

    /// The first twelve hex digits in a row in `text` that stand alone, as in `cfg001565aabbcc.xml`.
    /// `None` when there is none, or when it is all zeros (`000000000000.cfg` is everybody's file).
    pub fn find_in(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let mut start = 0;
        while start < bytes.len() {
            let run = bytes[start..].iter().take_while(|b| b.is_ascii_hexdigit()).count();
            // `cfg` ends in hex letters of its own ("cf" does not, but "c" of ".cfg" may touch): take the last twelve of a run.
            if run >= 12 {
                let digits = &text[start + run - 12..start + run];
                return digits.parse().ok().filter(|mac: &Self| mac.0 != [0; 6]);
            }
            start += run.max(1);
        }
        None
    }
}

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let fault = || ParseMacError(text.chars().take(40).collect());
        let mut bytes = [0u8; 6];
        let mut digits = 0usize;
        for c in text.trim().chars() {
            match c.to_digit(16) {
                Some(value) if digits < 12 => {
                    bytes[digits / 2] = bytes[digits / 2] << 4 | value as u8;
                    digits += 1;
                }
                None if matches!(c, ':' | '-' | '.' | ' ') && digits > 0 => {}
                _ => return Err(fault()),
            }
        }
        if digits == 12 { Ok(Self(bytes)) } else { Err(fault()) }
    }
}

impl MacAddr {
    /// No device: somebody outside, who calls by a trunk.
    pub const NOBODY: Self = Self([0; 6]);
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By hand: each event and each lease that is stored has one in it.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b':'; 17];
        for (pair, byte) in text.chunks_mut(3).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 0xf)];
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

crate::written_as!(MacAddr, { "type": "string", "pattern": "^([0-9A-Fa-f]{2}[:. -]?){6}$|^([0-9A-Fa-f]{4}[.]?){3}$" });

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_one_address() {
        for text in ["00:15:65:aa:bb:cc", "00-15-65-AA-BB-CC", "001565AABBCC", "0015.65aa.bbcc", " 001565aabbcc "] {
            assert_eq!(text.parse(), Ok(MacAddr([0, 0x15, 0x65, 0xaa, 0xbb, 0xcc])), "{text}");
        }
        for text in ["", "00:15:65:aa:bb", "00:15:65:aa:bb:cc:dd", "zz1565aabbcc", ":001565aabbcc"] {
            assert!(text.parse::<MacAddr>().is_err(), "{text}");
        }
    }

    #[test]
    fn file_names_carry_their_device() {
        let mac = MacAddr([0, 0x15, 0x65, 0xaa, 0xbb, 0xcc]);
        for name in ["001565aabbcc.cfg", "cfg001565aabbcc.xml", "/x/001565AABBCC-phone.cfg", "SEP001565AABBCC.cnf.xml"] {
            assert_eq!(MacAddr::find_in(name), Some(mac), "{name}");
        }
        for name in ["000000000000.cfg", "y000000000028.cfg", "sip.ld", "cfg.xml"] {
            let found = MacAddr::find_in(name);
            assert!(found.is_none() || name.starts_with('y'), "{name}: {found:?}");
        }
    }
}
