//! What is wrong with a template, where, and what to do: for the person who edits it.

use std::fmt;

pub use crate::yaml::Fault;
use crate::yaml::closest;

/// A fault at a place. Lines and columns count from 1; 0 means that the place is not known.
pub(super) fn fault(file: &str, line: u32, column: u32, message: impl Into<String>) -> Fault {
    Fault { line: line.into(), column: column.into(), ..Fault::in_file(file, message) }
}

pub(super) trait Suggest {
    /// "did you mean …?", when a known name is near enough to what was written; else `otherwise`, if that says anything.
    fn suggest<'a>(self, written: &str, known: impl IntoIterator<Item = &'a str>, otherwise: &str) -> Self;
}

impl Suggest for Fault {
    fn suggest<'a>(self, written: &str, known: impl IntoIterator<Item = &'a str>, otherwise: &str) -> Self {
        match closest(written, known) {
            Some(name) => self.hint(format!("did you mean '{name}'?")),
            None if otherwise.is_empty() => self,
            None => self.hint(otherwise),
        }
    }
}

/// Everything that is wrong with a set: the whole list, so that it can be mended in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
