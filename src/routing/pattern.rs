//! Patterns of numbers, as people of telephone exchanges write them, and as regular expressions.
//!
//! | written | stands for |
//! |---|---|
//! | `2041`, `+`, `*`, `#` | themselves |
//! | `X` `Z` `N` | 0–9, 1–9, 2–9 |
//! | `[2-5]` `[139]` | one of these digits |
//! | `.` at the end | one key or more |
//! | `!` at the end | any number of keys, also none |
//! | `/^00[^1]/` | a regular expression, which must match the whole number |
//!
//! Spaces, `-` and brackets between digits are for the reader only. Not here: which number a pattern is held against.

use std::fmt;

use regex::Regex;

/// A checked pattern.
#[derive(Clone, Debug)]
pub struct Pattern {
    written: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Keys(Vec<Part>, Tail),
    Regex(Regex),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Key(u8),
    /// Bit n: the digit n.
    OneOf(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    Nothing,
    Some,
    Any,
}

/// Why a text is no pattern, and what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{written}' is no pattern: {reason}")]
pub struct Error {
    written: String,
    reason: String,
}

/// More than any number has (E.164: 15), with prefixes and codes before it.
const LONGEST: usize = 40;

impl Pattern {
    pub fn parse(written: &str) -> Result<Self, Error> {
        let kind = kind(written).map_err(|reason| Error { written: written.to_owned(), reason })?;
        Ok(Self { written: written.to_owned(), kind })
    }

    pub fn matches(&self, number: &str) -> bool {
        match &self.kind {
            Kind::Regex(regex) => regex.find(number).is_some_and(|found| found.len() == number.len()),
            Kind::Keys(parts, tail) => {
                let number = number.as_bytes();
                let long_enough = match tail {
                    Tail::Nothing => number.len() == parts.len(),
                    Tail::Some => number.len() > parts.len(),
                    Tail::Any => number.len() >= parts.len(),
                };
                long_enough && parts.iter().zip(number).all(|(part, key)| part.matches(*key))
            }
        }
    }

    /// Is held against a number in its international form, `+49…`.
    pub fn is_international(&self) -> bool {
        match &self.kind {
            Kind::Keys(parts, _) => parts.first() == Some(&Part::Key(b'+')),
            Kind::Regex(regex) => regex.as_str().trim_start_matches("^(?:").trim_start_matches('^').starts_with(r"\+"),
        }
    }

    /// The one number that matches, where there is only one.
    pub fn exact(&self) -> Option<String> {
        match &self.kind {
            Kind::Keys(parts, Tail::Nothing) => literal(parts),
            _ => None,
        }
    }

    /// The number that matches and ends with these digits, where what comes before them is one number only.
    pub fn ending_with(&self, digits: &str) -> Option<String> {
        let Kind::Keys(parts, tail) = &self.kind else { return None };
        let before = match tail {
            Tail::Nothing => parts.len().checked_sub(digits.len())?,
            _ => parts.len(),
        };
        let number = literal(&parts[..before])? + digits;
        self.matches(&number).then_some(number)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl Part {
    fn matches(self, key: u8) -> bool {
        match self {
            Self::Key(own) => own == key,
            Self::OneOf(digits) => key.is_ascii_digit() && digits & (1 << (key - b'0')) != 0,
        }
    }
}

fn literal(parts: &[Part]) -> Option<String> {
    let key = |part: &Part| match part {
        Part::Key(key) => Some(char::from(*key)),
        Part::OneOf(_) => None,
    };
    parts.iter().map(key).collect()
}

fn kind(written: &str) -> Result<Kind, String> {
    if let Some(inner) = written.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
        // Anchored, so that alternatives count as a whole.
        let regex = Regex::new(&format!("^(?:{})$", inner.trim_start_matches('^').trim_end_matches('$')));
        return regex.map(Kind::Regex).map_err(|error| error.to_string().lines().last().unwrap_or("not a regular expression").to_owned());
    }
    let mut parts = Vec::new();
    let mut tail = Tail::Nothing;
    let mut keys = written.chars();
    while let Some(key) = keys.next() {
        if tail != Tail::Nothing {
            return Err("`.` and `!` stand at its end only".to_owned());
        }
        match key {
            ' ' | '-' | '(' | ')' => {}
            '+' if !parts.is_empty() => return Err("`+` stands at its beginning only".to_owned()),
            '0'..='9' | '*' | '#' | '+' => parts.push(Part::Key(key as u8)),
            'X' | 'x' => parts.push(Part::OneOf(0x3ff)),
            'Z' | 'z' => parts.push(Part::OneOf(0x3fe)),
            'N' | 'n' => parts.push(Part::OneOf(0x3fc)),
            '[' => parts.push(Part::OneOf(one_of(&mut keys)?)),
            '.' => tail = Tail::Some,
            '!' => tail = Tail::Any,
            other => return Err(format!("'{other}' means nothing; possible are digits * # + X Z N [2-5] . ! and /regular expressions/")),
        }
        if parts.len() > LONGEST {
            return Err(format!("it is longer than {LONGEST} keys"));
        }
    }
    if parts.is_empty() && tail == Tail::Nothing { Err("it is empty".to_owned()) } else { Ok(Kind::Keys(parts, tail)) }
}

/// The digits up to `]`.
fn one_of(keys: &mut impl Iterator<Item = char>) -> Result<u16, String> {
    let inner: Vec<char> = keys.take_while(|key| *key != ']').collect();
    let digit = |key: char| key.to_digit(10).ok_or_else(|| format!("'{key}' between [ and ] is no digit"));
    let (mut set, mut at) = (0, 0);
    while at < inner.len() {
        let first = digit(inner[at])?;
        let last = if inner.get(at + 1) == Some(&'-') {
            inner.get(at + 2).copied().map_or(Err("a range ends with a digit, as [2-5]".to_owned()), digit)?
        } else {
            first
        };
        if last < first {
            return Err(format!("the range {first}-{last} runs backwards"));
        }
        (first..=last).for_each(|digit| set |= 1 << digit);
        at += if inner.get(at + 1) == Some(&'-') { 3 } else { 1 };
    }
    if set == 0 { Err("[ ] holds no digit".to_owned()) } else { Ok(set) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_what_they_say() {
        for (pattern, number, matches) in [
            ("2041", "2041", true),
            ("2041", "20410", false),
            ("20-41", "2041", true),
            ("2XXX", "2999", true),
            ("2XXX", "299*", false),
            ("NXX", "199", false),
            ("Z.", "01", false),
            ("Z.", "1", false),
            ("Z.", "12", true),
            ("+49.", "+4930", true),
            ("+49!", "+49", true),
            ("*21!", "*21", true),
            ("*21!", "*212042", true),
            ("+4915[1-3579]X.", "+49151234", true),
            ("+4915[1-3579]X.", "+49154234", false),
            ("+49 (30) 1234-XX", "+4930123456", true),
            ("/00(?!x)/", "00", false),
            ("/0[1-9]\\d{3,}/", "03012", true),
            ("/0[1-9]\\d{3,}/", "0301", false),
            ("/112|110/", "1120", false),
            ("/^112|110$/", "110", true),
        ] {
            let found = Pattern::parse(pattern).map(|pattern| pattern.matches(number)).unwrap_or(false);
            assert_eq!(found, matches, "{pattern} and {number}");
        }
    }

    #[test]
    fn slips_are_explained() {
        for (pattern, reason) in [
            ("", "empty"),
            ("2.4", "at its end"),
            ("20_1", "'_' means nothing"),
            ("[a]", "no digit"),
            ("[]1", "no digit"),
            ("[5-2]", "backwards"),
            ("4+9", "beginning"),
            ("/(/", "unclosed"),
        ] {
            let error = Pattern::parse(pattern).unwrap_err().to_string();
            assert!(error.contains(reason), "{pattern}: {error}");
        }
    }

    #[test]
    fn a_number_is_found_from_its_last_digits() {
        let from = |pattern: &str, digits: &str| Pattern::parse(pattern).unwrap().ending_with(digits);
        assert_eq!(from("+49 30 1234-2XXX", "2041").as_deref(), Some("+493012342041"));
        assert_eq!(from("+49 30 1234-2XXX", "3041"), None);
        assert_eq!(from("+49 30 1234-XXXX", "2041").as_deref(), Some("+493012342041"));
        assert_eq!(from("+49 30 1234-[23]XXX", "2041").as_deref(), Some("+493012342041"));
        assert_eq!(from("+49 30 1234-[23]XXX", "4041"), None);
        assert_eq!(from("+49301234.", "41").as_deref(), Some("+4930123441"));
        assert_eq!(from("/x/", "41"), None);
    }
}
