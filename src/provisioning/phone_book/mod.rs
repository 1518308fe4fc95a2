//! The office's phone book: who is in it, under which numbers. Phones get it from memory, in the words of their makes (`templates/`).
//!
//! `worker.rs` reads the directory again and again, so that no phone ever waits for it; while it does not answer, what was read last
//! counts. Names come from people, and go into files that simple parsers read: they are made harmless here. Pure.

pub mod worker;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::{directory::Contact, model::Extension, template::Contacts};

/// Characters of a name; displays show less.
const LONGEST_NAME: usize = 64;
const LONGEST_NUMBER: usize = 32;

/// The `phone_book` part of `provisioning:`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Phones that somebody owns get a phone book of everybody in the directory who has a number.
    pub enabled: bool,
    /// How often the directory is read again, in minutes. A phone is never kept waiting for it.
    pub refresh_minutes: u32,
    /// Entries at most, 1 to 5000; by name. Many phones take no more than some thousand.
    pub max_entries: usize,
    /// Others that shall be in it.
    pub more: Vec<More>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct More {
    pub name: String,
    /// As it is dialled.
    pub number: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { enabled: true, refresh_minutes: 15, max_entries: 2000, more: Vec::new() }
    }
}

impl Settings {
    /// What is wrong, as key and reason.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if !(1..=5000).contains(&self.max_entries) {
            return Err(("max_entries", "is 1 to 5000".to_owned()));
        }
        if self.refresh_minutes == 0 {
            return Err(("refresh_minutes", "is 1 or more".to_owned()));
        }
        match self.more.iter().find(|more| clean_number(&more.number).is_none() || clean_name(&more.name).is_none()) {
            Some(more) => Err(("more", format!("'{}' with '{}' needs a name, and a number to dial", more.name, more.number))),
            None => Ok(()),
        }
    }
}

/// Somebody in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    /// Never empty.
    pub numbers: Vec<Number>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Number {
    /// `work` is the extension; others are as `directory.ldap.attributes.more_numbers` calls them.
    pub kind: String,
    pub number: String,
}

/// The book that phones get. Cheap to clone.
#[derive(Clone, Default)]
pub struct PhoneBook(Arc<Inner>);

#[derive(Default)]
struct Inner {
    now: ArcSwapOption<Contacts>,
    read_again: Notify,
}

impl PhoneBook {
    /// What templates see. `None`: there is no phone book.
    pub fn contacts(&self) -> Option<Contacts> {
        self.0.now.load().as_deref().cloned()
    }

    pub fn set(&self, entries: &[Entry]) {
        metrics::gauge!("plugtone_phone_book_entries").set(entries.len() as f64);
        let people = entries.iter().map(|entry| {
            let numbers = entry.numbers.iter().map(|number| (&*number.kind, &*number.number));
            (&*entry.name, numbers.collect::<Vec<_>>())
        });
        self.0.now.store(Some(Arc::new(Contacts::new(people))));
    }

    /// Something has changed: the directory is read again soon.
    pub fn read_again(&self) {
        self.0.read_again.notify_one();
    }
}

/// Who is in the book. `given`: extensions that were given here, by user.
pub fn entries(people: Vec<Contact>, given: &HashMap<String, Extension>, settings: &Settings) -> Vec<Entry> {
    let mut entries: Vec<Entry> = people
        .into_iter()
        .filter_map(|person| {
            let extension = person.extension.or_else(|| given.get(&person.id).cloned());
            let work = extension.map(|extension| ("work".to_owned(), extension.to_string()));
            entry(&person.name, work.into_iter().chain(person.numbers))
        })
        .collect();
    entries.extend(settings.more.iter().filter_map(|more| entry(&more.name, [("work".to_owned(), more.number.clone())].into_iter())));
    entries.sort_by_cached_key(|entry| (entry.name.to_lowercase(), entry.numbers[0].number.clone()));
    if entries.len() > settings.max_entries {
        let (all, most) = (entries.len(), settings.max_entries);
        tracing::warn!(all, most, "the phone book is cut: raise `provisioning.phone_book.max_entries`");
    }
    entries.truncate(settings.max_entries);
    entries
}

fn entry(name: &str, numbers: impl Iterator<Item = (String, String)>) -> Option<Entry> {
    let mut seen = HashSet::new();
    let clean = numbers.filter_map(|(kind, number)| Some(Number { kind, number: clean_number(&number)? }));
    let numbers: Vec<Number> = clean.filter(|number| seen.insert(number.number.clone())).collect();
    if numbers.is_empty() { None } else { Some(Entry { name: clean_name(name)?, numbers }) }
}

/// One line, of what XML 1.0 can hold (§2.2), and not too long.
fn clean_name(name: &str) -> Option<String> {
    // Marks that change the direction of what follows would turn the rest of a list around.
    let kept = |c: char| match c {
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => None,
        c if c.is_control() || c.is_whitespace() || matches!(c, '\u{2028}' | '\u{2029}') => Some(' '),
        c => Some(c),
    };
    let text: String = name.chars().filter_map(kept).collect();
    let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
    let name: String = words.join(" ").chars().take(LONGEST_NAME).collect();
    Some(name.trim_end().to_owned()).filter(|name| !name.is_empty())
}

/// What can be dialled of it.
fn clean_number(number: &str) -> Option<String> {
    let number = number.trim();
    let digits: String = number.chars().filter(|c| c.is_ascii_digit() || matches!(c, '*' | '#')).take(LONGEST_NUMBER).collect();
    match (digits.is_empty(), number.starts_with('+')) {
        (true, _) => None,
        (false, true) => Some(format!("+{digits}")),
        (false, false) => Some(digits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(id: &str, name: &str, extension: Option<&str>, numbers: &[(&str, &str)]) -> Contact {
        let extension = extension.map(|extension| extension.parse().expect("an extension"));
        let numbers = numbers.iter().map(|(kind, number)| ((*kind).to_owned(), (*number).to_owned())).collect();
        Contact { id: id.into(), name: name.into(), extension, numbers }
    }

    #[test]
    fn who_has_a_number_is_in_the_book_by_name() {
        let people = vec![
            person("z", "zoe", Some("2050"), &[("mobile", "+49 (171) 123-45"), ("home", "n/a"), ("other", "2050")]),
            person("a", "Ada", None, &[]),
            person("n", "Nobody", None, &[("mobile", " - ")]),
            person("e", "\u{202e}\u{7} ", Some("2051"), &[]),
            person("m", "Max\r\n<Muster>\u{ffff}\t\"&'", Some("2052"), &[]),
        ];
        let given = HashMap::from([("a".to_owned(), "2041".parse().expect("an extension"))]);
        let settings =
            Settings { more: vec![More { name: "Porter".into(), number: "0 800-1".into() }], max_entries: 4, ..Settings::default() };
        let told: Vec<_> = entries(people, &given, &settings)
            .into_iter()
            .map(|entry| {
                format!(
                    "{}: {}",
                    entry.name,
                    entry.numbers.iter().map(|n| format!("{} {}", n.kind, n.number)).collect::<Vec<_>>().join(", ")
                )
            })
            .collect();
        let expected = ["Ada: work 2041", "Max <Muster> \"&': work 2052", "Porter: work 08001", "zoe: work 2050, mobile +4917112345"];
        assert_eq!(told, expected);
    }

    #[test]
    fn names_of_any_kind_stay_one_short_line() {
        for (name, clean) in [("Zoë 🎉 Μαρία", Some("Zoë 🎉 Μαρία")), ("a\u{2028}b\u{0}c", Some("a b c")), (" \u{200f} ", None), ("", None)]
        {
            assert_eq!(clean_name(name).as_deref(), clean, "{name:?}");
        }
        assert_eq!(clean_name(&"x".repeat(500)).map(|name| name.len()), Some(LONGEST_NAME));
    }
}
