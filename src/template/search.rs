//! A phone book that phones search: what a make writes behind the `?` of its URL says which part of it is wanted. Pure.

use std::collections::BTreeMap;

use minijinja::{Value, context};
use serde::Deserialize;

use super::subject::Contacts;

/// Numbers in one answer: where a phone does not say how many it wants, and at most.
const USUAL: usize = 16;
const MOST: usize = 100;

/// What a phone wrote behind the `?`, decoded.
pub type Query = BTreeMap<String, String>;

/// By which words a make asks. A value may have `*` at its beginning and end, for any letters; alone, or without a value, it asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "PhoneBookSearch")]
pub struct SearchKeys {
    /// Beginning of a part of the name.
    pub name: Vec<String>,
    /// The number.
    pub number: Vec<String>,
    /// Which one of those found is to be the first in the answer, from 1 …
    pub first: String,
    /// … or the last; -1: the last of all.
    pub last: String,
    /// How many of them are wanted.
    pub count: String,
}

impl Contacts {
    /// The numbers that are asked for; what was asked, and how many there are, with them. People stay as they are.
    pub fn found(&self, keys: &SearchKeys, asked: &Query) -> Self {
        let wanted = |keys: &[String]| -> Vec<Wanted> { keys.iter().filter_map(|key| Wanted::of(asked.get(key)?)).collect() };
        let (names, numbers) = (wanted(&keys.name), wanted(&keys.number));
        let text = |contact: &Value, what: &str| contact.get_attr(what).map(|value| value.to_string()).unwrap_or_default();
        let fits = |contact: &Value| {
            names.iter().all(|wanted| wanted.begins_in(&text(contact, "name")))
                && numbers.iter().all(|wanted| wanted.is_number(&text(contact, "number")))
        };
        let all: Vec<Value> = self.numbers.try_iter().into_iter().flatten().filter(fits).collect();
        let part = part(all.len(), |key| asked.get(key)?.trim().parse().ok(), keys);
        let (total, first, last) = (all.len(), part.start + 1, part.end);
        let mut hash = blake3::Hasher::new();
        hash.update(self.hash.as_bytes());
        for text in asked.iter().flat_map(|(key, value)| [key, value]) {
            hash.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        Self {
            people: self.people.clone(),
            numbers: all.get(part).unwrap_or_default().to_vec().into(),
            found: context! { total, first, last, asked },
            hash: hash.finalize(),
        }
    }
}

/// Which of so many.
fn part(total: usize, asked: impl Fn(&str) -> Option<i64>, keys: &SearchKeys) -> std::ops::Range<usize> {
    let place = |key: &str| asked(key).filter(|place| *place != 0);
    let count = asked(&keys.count).and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0).unwrap_or(USUAL).min(MOST);
    match (place(&keys.first), place(&keys.last)) {
        (None, Some(last)) => {
            let end = usize::try_from(last).unwrap_or(total).min(total);
            end.saturating_sub(count)..end
        }
        (first, _) => {
            let start = first.and_then(|first| usize::try_from(first.checked_sub(1)?).ok()).unwrap_or(0).min(total);
            start..start.saturating_add(count).min(total)
        }
    }
}

struct Wanted {
    text: String,
    /// Anything may stand before it, or behind.
    before: bool,
    behind: bool,
}

impl Wanted {
    /// `None`: nothing is asked for.
    fn of(value: &str) -> Option<Self> {
        let (before, behind) = (value.starts_with('*'), value.ends_with('*'));
        let text = value.trim_matches('*').trim().to_lowercase();
        (!text.is_empty()).then_some(Self { text, before, behind })
    }

    fn begins_in(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        let parts = || name.char_indices().filter(|(at, c)| c.is_alphanumeric() && !name[..*at].ends_with(char::is_alphanumeric));
        if self.before { name.contains(&self.text) } else { parts().any(|(at, _)| name[at..].starts_with(&self.text)) }
    }

    fn is_number(&self, number: &str) -> bool {
        match (self.before, self.behind) {
            (true, true) => number.contains(&self.text),
            (true, false) => number.ends_with(&self.text),
            (false, true) => number.starts_with(&self.text),
            (false, false) => number == self.text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> SearchKeys {
        serde_yaml::from_str("{ name: [ln, fn], number: [hm], first: first, last: last, count: count }").expect("good")
    }

    fn asked(text: &str) -> Query {
        text.split('&').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect()
    }

    #[test]
    fn a_part_is_found_by_names_and_numbers() {
        let people = [
            ("Doe, Jane", vec![("work", "2041"), ("mobile", "+49171204")]),
            ("Éclair, Bo", vec![("work", "2042")]),
            ("O'Donnell-Doe", vec![("work", "2043")]),
        ];
        let book = Contacts::new(people.into_iter());
        for (query, total, first, last, numbers) in [
            ("", 4, 1, 4, "2041 +49171204 2042 2043"),
            ("ln=*&fn=*&hm=*", 4, 1, 4, "2041 +49171204 2042 2043"),
            ("ln=doe*", 3, 1, 3, "2041 +49171204 2043"),
            ("ln=do*&fn=ja*", 2, 1, 2, "2041 +49171204"),
            ("ln=é", 1, 1, 1, "2042"),
            ("ln=oe", 0, 1, 0, ""),
            ("ln=*oe*", 3, 1, 3, "2041 +49171204 2043"),
            ("hm=2042", 1, 1, 1, "2042"),
            ("hm=204", 0, 1, 0, ""),
            ("hm=204*", 3, 1, 3, "2041 2042 2043"),
            ("hm=*204", 1, 1, 1, "+49171204"),
            ("first=2&count=2", 4, 2, 3, "+49171204 2042"),
            ("first=9&count=2", 4, 5, 4, ""),
            ("last=-1&count=3", 4, 2, 4, "+49171204 2042 2043"),
            ("last=2&count=9", 4, 1, 2, "2041 +49171204"),
            ("first=0&last=0&count=-1", 4, 1, 4, "2041 +49171204 2042 2043"),
            ("first=-9223372036854775808&count=99999999999999999999", 4, 1, 4, "2041 +49171204 2042 2043"),
        ] {
            let found = book.found(&keys(), &asked(query));
            let say = |what: &str| found.found.get_attr(what).expect("it is there").to_string();
            let told: Vec<String> =
                found.numbers.try_iter().expect("a list").map(|one| one.get_attr("number").expect("a number").to_string()).collect();
            assert_eq!((say("total"), say("first"), say("last")), (total.to_string(), first.to_string(), last.to_string()), "{query}");
            assert_eq!(told.join(" "), numbers, "{query}");
            assert_eq!(found.hash == book.found(&keys(), &asked("")).hash, query.is_empty(), "{query}");
        }
    }

    #[test]
    fn an_answer_has_a_bound() {
        let names: Vec<String> = (0..300).map(|n| format!("Person {n}")).collect();
        let book = Contacts::new(names.iter().map(|name| (name.as_str(), vec![("work", "1")])));
        for (query, count) in [("", USUAL), ("count=50", 50), ("count=4000", MOST)] {
            assert_eq!(book.found(&keys(), &asked(query)).numbers.len(), Some(count), "{query}");
        }
    }
}
