//! Strings that must not be seen: passwords and keyed digits. They cannot be printed, serialised or compared in a hurry.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// A password or key. `Debug` says only that it is there; wiped when dropped.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself. Call it where it leaves for the wire, and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Secret {
    /// In time that does not depend on where the two differ.
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

crate::written_as!(Secret, { "type": "string" });

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// Keys as pressed on a phone. They may be a PIN: `Debug` tells how many, never which; wiped when dropped.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Keys(String);

impl Keys {
    pub fn push(&mut self, key: char) {
        // A growing `String` may move and leave a copy behind: make room once.
        if self.0.capacity() < 64 {
            let mut roomy = String::with_capacity(64);
            roomy.push_str(&self.0);
            self.0.zeroize();
            self.0 = roomy;
        }
        if self.0.len() < 64 {
            self.0.push(key);
        }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys themselves. Call it where they are checked, and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Keys {
    fn from(text: &str) -> Self {
        let mut keys = Self::default();
        text.chars().for_each(|key| keys.push(key));
        keys
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?} {:?}", Secret::new("hunter2"), Keys::from("4711")), "Secret(…) Keys(4)");
    }
}
