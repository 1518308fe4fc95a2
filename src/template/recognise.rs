//! Tells makes apart: DHCP option 60 (16 of DHCPv6), host name, MAC prefix; User-Agent. From the families' own YAML, so that IT can add a
//! prefix.
//!
//! Prefixes are hints and never proof: Gigaset P8xx sit inside snom's range, rebadged Fanvil and Htek phones carry their
//! seller's. So option 60 beats the prefix, and a User-Agent beats both. Everything is compared as bytes: many Cisco phones end
//! option 60 with NUL, Polycom sends binary, an Avaya 1200 has a control byte in its User-Agent.

use std::cmp::Reverse;

use regex::bytes::{Regex, RegexBuilder};

use super::fault::{Fault, fault};
use super::schema::{Recognise, VendorClass};
use crate::model::MacAddr;

/// Memory of a compiled expression, in bytes. One as makers' names need takes a few KB.
const EXPRESSION_SIZE: usize = 128 << 10;
/// Expressions and classes of a family. Shipped ones have a handful.
const MARKS_MAX: usize = 64;

/// What a DHCP client says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct DhcpFacts<'a> {
    pub mac: Option<MacAddr>,
    /// Option 60 as sent.
    pub vendor_class: Option<&'a [u8]>,
    /// Option 12 as sent.
    pub host_name: Option<&'a [u8]>,
    /// Option 55.
    pub parameter_list: &'a [u8],
}

/// A make, and what else was learnt with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recognised {
    pub family: String,
    pub model: Option<String>,
    pub firmware: Option<String>,
    /// Named by the phone itself, thus not proven.
    pub mac: Option<MacAddr>,
}

/// One family's marks, compiled.
#[derive(Debug, Default)]
pub(super) struct Marks {
    prefixes: Vec<Vec<u8>>,
    vendor_classes: Vec<ClassMark>,
    host_names: Vec<Vec<u8>>,
    enterprises: Vec<u32>,
    user_agents: Vec<Regex>,
    asks_for: Vec<u8>,
    never: Vec<String>,
}

/// What other DHCP servers can tell a family by, as its YAML has it.
#[derive(Debug)]
pub struct Signs<'a> {
    /// Beginnings of MAC addresses, three to six bytes.
    pub prefixes: &'a [Vec<u8>],
    /// Option 60: how it is compared, and with what.
    pub vendor_classes: Vec<(Match, &'a [u8])>,
    /// Options that only phones ask for.
    pub asks_for: &'a [u8],
    /// What asks for them and is no phone, by the beginning of option 60.
    pub never: &'a [String],
}

#[derive(Debug)]
struct ClassMark {
    matches: Match,
    bytes: Vec<u8>,
    model: Option<Regex>,
}

/// How option 60 is compared: as bytes, ASCII letters in any case, without NULs at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    Exact,
    Prefix,
    Contains,
}

impl Marks {
    pub(super) fn new(file: &str, written: &Recognise, faults: &mut Vec<Fault>) -> Self {
        let mut marks = Self::default();
        for oui in &written.ouis {
            match hex(&oui.value).filter(|bytes| (3..=6).contains(&bytes.len())) {
                Some(bytes) => marks.prefixes.push(bytes),
                None => {
                    let message = format!("'{}' is not the beginning of a MAC address: write three bytes as \"001565\"", oui.value);
                    faults.push(fault(file, oui.referenced.line() as u32, oui.referenced.column() as u32, message));
                }
            }
        }
        if written.vendor_classes.len().max(written.user_agents.len()) > MARKS_MAX {
            faults.push(fault(file, 0, 0, format!("`recognise` has more than {MARKS_MAX} vendor classes or user agents")));
            return marks;
        }
        for class in &written.vendor_classes {
            match ClassMark::new(&class.value) {
                Ok(mark) => marks.vendor_classes.push(mark),
                Err(message) => {
                    faults.push(fault(file, class.referenced.line() as u32, class.referenced.column() as u32, message));
                }
            }
        }
        (marks.asks_for, marks.never) = (written.asks_for.clone(), written.never.clone());
        marks.enterprises.clone_from(&written.enterprises);
        marks.host_names = written.host_names.iter().map(|name| name.value.to_lowercase().into_bytes()).collect();
        for agent in &written.user_agents {
            match expression(&agent.value) {
                Ok(regex) => marks.user_agents.push(regex),
                Err(reason) => {
                    let (line, column) = (agent.referenced.line() as u32, agent.referenced.column() as u32);
                    faults.push(fault(file, line, column, format!("the expression for the User-Agent is wrong: {reason}")));
                }
            }
        }
        marks
    }

    pub(super) fn signs(&self) -> Signs<'_> {
        let vendor_classes = self.vendor_classes.iter().map(|mark| (mark.matches, &*mark.bytes)).collect();
        Signs { prefixes: &self.prefixes, vendor_classes, asks_for: &self.asks_for, never: &self.never }
    }

    /// How many of its bytes are this family's, and the model, if the option names it. The longest wins, between families too.
    pub(super) fn vendor_class(&self, sent: &[u8]) -> Option<(usize, Option<String>)> {
        let sent = sent.trim_suffix_nul();
        let fitting = self.vendor_classes.iter().filter(|mark| mark.fits(sent));
        // The first of those that are as long.
        let mark = fitting.min_by_key(|mark| Reverse(mark.bytes.len()))?;
        let model = mark.model.as_ref().and_then(|regex| regex.captures(sent)).and_then(|c| text(c.name("model")));
        Some((mark.bytes.len(), model))
    }

    pub(super) fn host_name(&self, sent: &[u8]) -> bool {
        let sent = sent.to_ascii_lowercase();
        self.host_names.iter().any(|prefix| sent.starts_with(prefix))
    }

    /// By the number of its maker.
    pub(super) fn enterprise(&self, number: u32) -> bool {
        self.enterprises.contains(&number)
    }

    /// Asks for what only phones want.
    pub(super) fn asks(&self, parameter_list: &[u8], vendor_class: Option<&[u8]>) -> bool {
        let starts = |prefix: &String| vendor_class.is_some_and(|sent| sent.starts_with(prefix.as_bytes()));
        self.asks_for.iter().any(|code| parameter_list.contains(code)) && !self.never.iter().any(starts)
    }

    /// How many bytes of the MAC are this family's: the longest prefix wins between families.
    pub(super) fn mac(&self, mac: MacAddr) -> Option<usize> {
        self.prefixes.iter().filter(|prefix| mac.0.starts_with(prefix)).map(Vec::len).max()
    }

    /// An address under the first prefix.
    pub(super) fn sample_mac(&self) -> Option<MacAddr> {
        let prefix = self.prefixes.first()?;
        let mut mac = [0, 0, 0, 0, 0, 1];
        mac.iter_mut().zip(prefix).for_each(|(byte, known)| *byte = *known);
        Some(MacAddr(mac))
    }

    pub(super) fn user_agent(&self, sent: &[u8]) -> Option<Recognised> {
        let found = self.user_agents.iter().find_map(|regex| regex.captures(sent))?;
        Some(Recognised {
            family: String::new(),
            model: text(found.name("model")),
            // A Poly's boot loader has a version of its own.
            firmware: text(found.name("fw")).filter(|_| found.name("type").is_none_or(|kind| kind.as_bytes() != b"Updater")),
            mac: text(found.name("mac")).and_then(|mac| mac.parse().ok()),
        })
    }
}

impl ClassMark {
    fn new(written: &VendorClass) -> Result<Self, String> {
        let written_as = [
            written.exact.as_ref().map(|t| (Match::Exact, t.clone().into_bytes())),
            written.prefix.as_ref().map(|t| (Match::Prefix, t.clone().into_bytes())),
            written.contains.as_ref().map(|t| (Match::Contains, t.clone().into_bytes())),
            written.hex_prefix.as_ref().map(|t| (Match::Prefix, hex(t).unwrap_or_default())),
        ];
        let mut given: Vec<_> = written_as.into_iter().flatten().collect();
        let one = "a vendor class has exactly one of exact, prefix, contains, hex_prefix";
        let (matches, bytes) = given.pop().filter(|(_, bytes)| !bytes.is_empty()).ok_or(one)?;
        if !given.is_empty() {
            return Err(one.to_owned());
        }
        let model = written.model.as_deref().map(expression).transpose();
        Ok(Self { matches, bytes, model: model.map_err(|reason| format!("the expression for the model is wrong: {reason}"))? })
    }

    fn fits(&self, sent: &[u8]) -> bool {
        // Case is ignored for ASCII: one batch of a make says `yealink`, another `Yealink`.
        let same = |a: &[u8], b: &[u8]| a.eq_ignore_ascii_case(b);
        match self.matches {
            Match::Exact => same(sent, &self.bytes),
            Match::Prefix => sent.get(..self.bytes.len()).is_some_and(|start| same(start, &self.bytes)),
            Match::Contains => sent.windows(self.bytes.len()).any(|window| same(window, &self.bytes)),
        }
    }
}

/// What a make calls itself. An expression of a few characters can take megabytes.
fn expression(text: &str) -> Result<Regex, String> {
    let compiled = RegexBuilder::new(text).size_limit(EXPRESSION_SIZE).dfa_size_limit(4 * EXPRESSION_SIZE).build();
    compiled.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            format!("it takes more than {} KB of memory: repeat less, and \\w and \\d least", EXPRESSION_SIZE / 1024)
        }
        error => error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    })
}

trait TrimNul {
    fn trim_suffix_nul(&self) -> &[u8];
}

impl TrimNul for [u8] {
    fn trim_suffix_nul(&self) -> &[u8] {
        let end = self.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
        &self[..end]
    }
}

/// Printable, at most 64 letters: it comes from the network and ends up in logs and pages.
fn text(found: Option<regex::bytes::Match>) -> Option<String> {
    let text = String::from_utf8_lossy(found?.as_bytes());
    let text: String = text.chars().filter(|c| !c.is_control()).take(64).collect();
    (!text.is_empty()).then_some(text)
}

pub(super) fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().filter(|c| !matches!(c, ' ' | ':' | '-')).map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
