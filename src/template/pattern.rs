//! File names with places to fill: `{mac}.cfg`, `y{model_code}.cfg`. Matching ignores case and finds the MAC in the name.
//!
//! A wrong case is a real fault report: snom asks in upper case (fusionpbx/fusionpbx#1335), Cisco 78xx in lower where the code
//! assumed upper (provisioner/Provisioner#248). So a pattern's case decides only what we write, never what we accept.

use std::ops::RangeInclusive;

use regex::Regex;

use crate::model::MacAddr;

/// What stands for a place in a name: (place, what it matches, of how many characters).
const PLACES: &[(&str, &str, RangeInclusive<usize>)] = &[
    ("{mac}", "(?P<mac>[0-9a-f]{12})", 12..=12),
    ("{MAC}", "(?P<mac>[0-9a-f]{12})", 12..=12),
    ("{model}", "(?P<model>[a-z0-9][a-z0-9_.+-]{0,39})", 1..=40),
    // Yealink: twelve digits, of which the last ones are the model's code.
    ("{model_code}", "(?P<code>[0-9]{12})", 12..=12),
    // Of something too long for one file, as a phone book, from 1.
    ("{page}", "(?P<page>[1-9][0-9]{0,3})", 1..=4),
];

#[derive(Clone, Debug)]
pub(super) struct FilePattern {
    pub(super) text: String,
    /// Before the first place and behind the last: most names differ from most patterns in these, or in their length, which takes no
    /// expression to see.
    before: usize,
    behind: usize,
    len: RangeInclusive<usize>,
    /// `None`: it has no place.
    regex: Option<Regex>,
    /// Slashes in the pattern: as many folders of the request take part.
    depth: usize,
    pub(super) names_mac: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Captured {
    pub(super) mac: Option<MacAddr>,
    pub(super) model: Option<String>,
    pub(super) model_code: Option<u32>,
    pub(super) page: Option<u32>,
}

impl FilePattern {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.starts_with('/') || text.contains("..") || text.contains('\\') {
            return Err(format!("'{text}' is not a file name below the root: write it as {{mac}}.cfg or folder/name.xml"));
        }
        let mut pattern = String::from("(?i)^");
        let mut rest = text;
        let (mut shortest, mut longest) = (text.len(), text.len());
        while let Some(at) = rest.find('{') {
            pattern += &regex::escape(&rest[..at]);
            rest = &rest[at..];
            let Some((place, matches, takes)) = PLACES.iter().find(|(place, ..)| rest.starts_with(place)) else {
                let known: Vec<_> = PLACES.iter().map(|(place, ..)| *place).collect();
                return Err(format!("'{text}' has a place that is not known; known are {}", known.join(", ")));
            };
            pattern += matches;
            shortest = shortest - place.len() + takes.start();
            longest = longest - place.len() + takes.end();
            rest = &rest[place.len()..];
        }
        pattern += &regex::escape(rest);
        pattern.push('$');
        let places = text.contains('{').then(|| Regex::new(&pattern).map_err(|_| format!("'{text}' names a place twice")));
        Ok(Self {
            text: text.to_owned(),
            len: shortest..=longest,
            regex: places.transpose()?,
            before: text.find('{').unwrap_or(text.len()),
            behind: text.rfind('}').map_or(0, |at| text.len() - at - 1),
            depth: text.matches('/').count(),
            names_mac: text.contains("{mac}") || text.contains("{MAC}"),
        })
    }

    /// `path` is normalised: no slash in front, no `..`. Folders in front of the pattern's own are ignored, because what an
    /// office's own DHCP server writes into option 66 may carry one (`http://10.0.0.2/Polycom`).
    pub(super) fn captures(&self, path: &str) -> Option<Captured> {
        let mut slashes = path.bytes().enumerate().rev().filter(|(_, byte)| *byte == b'/');
        let start = slashes.nth(self.depth).map_or(0, |(at, _)| at + 1);
        let name = path.get(start..).filter(|name| self.may_be(name))?;
        let Some(regex) = &self.regex else { return Some(Captured::default()) };
        let found = regex.captures(name)?;
        let mac = match found.name("mac") {
            Some(digits) => Some(digits.as_str().parse().ok().filter(|mac: &MacAddr| mac.0 != [0; 6])?),
            None => None,
        };
        Some(Captured {
            mac,
            model: found.name("model").map(|m| m.as_str().to_owned()),
            model_code: found.name("code").and_then(|c| c.as_str().parse().ok()),
            page: found.name("page").and_then(|page| page.as_str().parse().ok()),
        })
    }

    fn may_be(&self, name: &str) -> bool {
        if !self.len.contains(&name.len()) {
            return false;
        }
        let parts = self.ends(name).zip(self.ends(&self.text));
        parts.is_some_and(|((begin, end), (ours, our_end))| begin.eq_ignore_ascii_case(ours) && end.eq_ignore_ascii_case(our_end))
    }

    /// What stands before the first place and behind the last, of a name that is long enough for both.
    fn ends<'a>(&self, name: &'a str) -> Option<(&'a [u8], &'a [u8])> {
        let (begin, rest) = name.as_bytes().split_at_checked(self.before)?;
        Some((begin, rest.get(rest.len().checked_sub(self.behind)?..)?))
    }

    /// The name as we write it for one phone. `None` when the name has a place that is not known for it.
    pub(super) fn expand(&self, mac: Option<MacAddr>, model: Option<&str>, model_code: Option<u32>) -> Option<String> {
        let mut name = self.text.clone();
        for (place, value) in [
            ("{mac}", mac.map(|m| m.bare())),
            ("{MAC}", mac.map(|m| m.bare_upper())),
            ("{model}", model.map(str::to_lowercase)),
            ("{model_code}", model_code.map(|code| format!("{code:012}"))),
            ("{page}", Some("1".to_owned())),
        ] {
            if name.contains(place) {
                name = name.replace(place, &value?);
            }
        }
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0, 0x15, 0x65, 0xaa, 0xbb, 0xcc]);

    #[test]
    fn names_match_without_case_and_below_any_folder() {
        for (pattern, path, mac) in [
            ("{mac}.cfg", "001565aabbcc.cfg", Some(MAC)),
            ("{mac}.cfg", "001565AABBCC.CFG", Some(MAC)),
            ("{mac}.cfg", "Polycom/001565aabbcc.cfg", Some(MAC)),
            ("cfg{mac}.xml", "cfg001565aabbcc.xml", Some(MAC)),
            ("a/{mac}.bin", "x/a/001565aabbcc.bin", Some(MAC)),
        ] {
            assert_eq!(FilePattern::parse(pattern).unwrap().captures(path).unwrap().mac, mac, "{pattern} {path}");
        }
        for (pattern, path) in [
            ("{mac}.cfg", "000000000000.cfg"),
            ("{mac}.cfg", "y001565aabbcc.cfg"),
            ("{mac}.cfg", "001565aabbcc.cfg.bak"),
            ("{mac}.cfg", "001565aabbcc.cfg/"),
            ("a/{mac}.bin", "001565aabbcc.bin"),
            ("a.cfg", "axcfg"),
        ] {
            assert_eq!(FilePattern::parse(pattern).unwrap().captures(path), None, "{pattern} {path}");
        }
    }

    #[test]
    fn places_are_filled() {
        let name = |pattern: &str| FilePattern::parse(pattern).unwrap().expand(Some(MAC), Some("T46S"), Some(66));
        assert_eq!(name("cfg{mac}.xml").as_deref(), Some("cfg001565aabbcc.xml"));
        assert_eq!(name("{MAC}.cfg").as_deref(), Some("001565AABBCC.cfg"));
        assert_eq!(name("y{model_code}.cfg").as_deref(), Some("y000000000066.cfg"));
        assert_eq!(FilePattern::parse("{mac}.cfg").unwrap().expand(None, None, None), None);
        assert!(FilePattern::parse("{nonsense}.cfg").unwrap_err().contains("{model_code}"));
        assert!(FilePattern::parse("../{mac}.cfg").is_err());
    }
}
