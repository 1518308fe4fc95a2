//! Reads a YAML text into a type and turns what is wrong into a [`Fault`]: file, line, column, what was expected, a hint.
//!
//! Used for everything that people edit: configuration, templates, flows, users. Not here: opening files.

use std::fmt;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_yaml::Error as Yaml;

/// Something wrong in a file that a person wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub file: String,
    /// Counted from 1; 0 where the fault has no place of its own.
    pub line: u64,
    pub column: u64,
    pub message: String,
    /// What to do, where that can be said.
    pub hint: Option<String>,
    /// The line itself, for a reader without an editor at hand.
    pub source: Option<String>,
}

impl Fault {
    /// A fault of the file as a whole.
    pub fn in_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self { file: file.into(), line: 0, column: 0, message: message.into(), hint: None, source: None }
    }

    /// A fault at a known place of `text`.
    pub fn at(file: &str, text: &str, line: u64, column: u64, message: impl Into<String>) -> Self {
        let source = line.checked_sub(1).and_then(|index| text.lines().nth(index as usize)).map(str::to_owned);
        Self { file: file.to_owned(), line, column, message: message.into(), hint: None, source }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Characters of a line that are shown.
const SHOWN: usize = 200;

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.column) {
            (0, _) => write!(f, "{}: {}", self.file, self.message)?,
            (line, 0) => write!(f, "{}:{line}: {}", self.file, self.message)?,
            (line, column) => write!(f, "{}:{line}:{column}: {}", self.file, self.message)?,
        }
        if let Some(source) = &self.source {
            // Of a line without end, what is around the place.
            let column = self.column.max(1) as usize;
            let before = if column > SHOWN { column - SHOWN / 2 } else { 0 };
            let shown: String = source.trim_end().chars().skip(before).take(SHOWN).collect();
            write!(f, "\n    {shown}\n    {:>width$}", "^", width = column - before)?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n    hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

/// Reads `text`; `file` is how the fault names it. An empty file is an empty mapping.
pub fn read<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, Fault> {
    let blank = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    serde_yaml::from_str(if blank { "{}" } else { text }).map_err(|error| explain(file, text, &error))
}

/// As [`read`], where values may be of any type: only `true` and `false` are booleans, `no` is text (and Norwegian).
pub fn read_untyped<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, Fault> {
    let blank = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    let mut options = serde_yaml::Options::default();
    options.strict_booleans = true;
    serde_yaml::from_str_with_options(if blank { "{}" } else { text }, options).map_err(|error| explain(file, text, &error))
}

/// The name of `known` that was probably meant by `written`.
pub fn closest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let tolerance = (written.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&written.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= tolerance)
        .min()
        .map(|(_, name)| name)
}

fn explain(file: &str, text: &str, error: &Yaml) -> Fault {
    let error = error.without_snippet();
    let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
    let (message, hint) = match error {
        Yaml::SerdeUnknownField { field, expected, .. } => (format!("there is no setting '{field}' here"), suggestion(field, expected)),
        Yaml::SerdeUnknownVariant { variant, expected, .. } => (format!("'{variant}' is not possible here"), suggestion(variant, expected)),
        Yaml::SerdeMissingField { field, .. } => (format!("the setting '{field}' is missing"), None),
        Yaml::SerdeInvalidType { unexpected, expected, .. } | Yaml::SerdeInvalidValue { unexpected, expected, .. } => {
            (format!("expected {expected}, found {unexpected}"), None)
        }
        Yaml::InvalidScalar { ty, .. } => (format!("expected {}", in_words(ty)), None),
        Yaml::Unexpected { expected, .. } => (format!("expected {}", in_words(expected)), None),
        Yaml::DuplicateMappingKey { key: Some(key), .. } => (format!("'{key}' is there twice"), Some("keep one of them".to_owned())),
        Yaml::Message { msg, .. } => (in_words(msg).to_owned(), None),
        other => (without_place(&other.to_string()).to_owned(), None),
    };
    Fault { hint, ..Fault::at(file, text, line, column, message) }
}

/// What Rust's types and the parser call a thing, as the person who edits the file would.
fn in_words(name: &str) -> &str {
    match name {
        "boolean" => "true or false",
        "floating point" => "a number",
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "u128" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" | "i128" => "a whole number",
        "mapping start" => "settings as `name: value`, indented below or in { }",
        "sequence start" => "a list, as [one, two]",
        "string scalar" => "one value, not a list or settings",
        "invalid socket address syntax" => "expected an address and a port, as 0.0.0.0:5060",
        "invalid IP address syntax" => "expected an IP address, or a network as 192.168.40.0/24",
        "invalid IPv4 address syntax" => "expected an IPv4 address, as 192.168.40.1",
        other => other,
    }
}

/// The parser's first line without "at line 3, column 5": the fault says that already.
fn without_place(text: &str) -> &str {
    let first = text.lines().next().unwrap_or("not valid YAML");
    first.rfind(" at line ").map_or(first, |at| &first[..at])
}

fn suggestion(written: &str, expected: &[&'static str]) -> Option<String> {
    match closest(written, expected.iter().copied()) {
        Some(name) => Some(format!("did you mean '{name}'?")),
        None if expected.is_empty() => None,
        None => Some(format!("possible here: {}", expected.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_line_without_end_what_is_around_the_place_is_shown() {
        for (column, begins) in [(1, 0), (200, 0), (201, 101), (5000, 4900)] {
            let line: String = (0..100_000).map(|at| char::from(b'a' + (at % 26) as u8)).collect();
            let shown = Fault::at("f.yaml", &line, 1, column, "is wrong").to_string();
            let lines: Vec<&str> = shown.lines().map(|line| line.get(4..).unwrap_or_default()).collect();
            assert_eq!(lines[1], &line[begins..begins + SHOWN], "{column}");
            let under = lines[2].len() - 1;
            assert_eq!(lines[1].as_bytes()[under], line.as_bytes()[column as usize - 1], "{column}: the mark is below it");
        }
    }

    #[derive(serde::Deserialize, Debug, Default)]
    #[serde(deny_unknown_fields, default)]
    struct Office {
        #[allow(dead_code)]
        name: String,
        dhcp: Dhcp,
    }

    #[derive(serde::Deserialize, Debug, Default)]
    #[serde(deny_unknown_fields, default)]
    struct Dhcp {
        lease_secs: u32,
    }

    #[test]
    fn faults_say_where_and_what_to_do() {
        let fault = read::<Office>("plugtone.yaml", "name: HQ\ndhcp:\n  lease_sec: 5\n").unwrap_err();
        assert_eq!((fault.line, fault.column), (3, 3), "{fault}");
        assert_eq!(fault.hint.as_deref(), Some("did you mean 'lease_secs'?"));
        let fault = read::<Office>("plugtone.yaml", "dhcp:\n  lease_secs: soon\n").unwrap_err();
        assert_eq!(fault.line, 2, "{fault}");
        assert!(fault.to_string().contains("plugtone.yaml:2:"), "{fault}");
    }

    #[test]
    fn faults_say_what_was_expected() {
        for (text, told) in [
            ("dhcp:\n  lease_secs: soon\n", "f:2:15: expected a whole number, 0 or more\n"),
            ("dhcp: [1]\n", "f:1:7: expected settings as `name: value`, indented below or in { }\n"),
            ("name: [HQ]\n", "f:1:7: expected one value, not a list or settings\n"),
            ("name: HQ\nname: Hall\n", "f:2:1: 'name' is there twice\n"),
            ("dhcp: { lease_secs: 1\n", "f:1:7: unclosed bracket '{'\n"),
        ] {
            let fault = read::<Office>("f", text).expect_err(text).to_string();
            assert!(fault.starts_with(told), "{fault}");
        }
        assert_eq!(Fault::at("f", "a\n", 1, 0, "somewhere in it").to_string(), "f:1: somewhere in it\n    a\n    ^");
    }

    #[test]
    fn however_much_is_written_about_a_setting_it_is_read() {
        let text = format!("# {0}\nname:\n{1}  given: Ada\n", "-".repeat(5000), "  # a line about it\n".repeat(2000));
        let read: std::collections::BTreeMap<String, std::collections::BTreeMap<String, String>> = read("f.yaml", &text).unwrap();
        assert_eq!(read["name"]["given"], "Ada");
    }

    #[test]
    fn windows_files_and_empty_files_are_read() {
        assert_eq!(read::<Office>("a", "\u{feff}dhcp:\r\n  lease_secs: 7\r\n").unwrap().dhcp.lease_secs, 7);
        assert_eq!(read::<Office>("a", "# nothing yet\n").unwrap().dhcp.lease_secs, 0);
    }
}
