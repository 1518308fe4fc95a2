//! The wishes of every extension, and where the night switches stand: one truth for star codes, API and lamps.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::routing::hours::Switch as Night;

/// Blocked numbers of one extension at most.
const MOST_BLOCKED: usize = 200;
/// Characters of a number that is kept.
const LONGEST_NUMBER: usize = 32;

/// What an extension wishes of calls to it, as it is stored and as the API has it. Absent, or `false`: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Wishes {
    /// Where all calls go instead.
    #[schema(example = "2050")]
    pub always: Option<String>,
    /// Where calls go while the user talks, or does not want to be disturbed.
    pub busy: Option<String>,
    /// Where calls go that nobody has taken.
    pub no_answer: Option<String>,
    /// Where calls go while no phone can be reached.
    pub unreachable: Option<String>,
    /// Seconds that calls ring before `no_answer` counts: 5 to 600; the office's time without it.
    pub ring_secs: Option<u16>,
    /// Nothing rings.
    pub do_not_disturb: bool,
    /// A second caller hears "busy" while the user talks.
    pub one_call_only: bool,
    /// Callers who hide their number are refused.
    pub refuse_hidden: bool,
    /// Numbers that are refused, as they are shown; 200 at most.
    pub blocked: BTreeSet<String>,
    /// Speed dials, by key from 0 to 99.
    #[schema(value_type = BTreeMap<String, String>)]
    pub speed: BTreeMap<u8, String>,
}

/// Which forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    Always,
    Busy,
    NoAnswer,
    Unreachable,
}

impl When {
    pub const ALL: [Self; 4] = [Self::Always, Self::Busy, Self::NoAnswer, Self::Unreachable];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Busy => "busy",
            Self::NoAnswer => "no answer",
            Self::Unreachable => "unreachable",
        }
    }
}

/// One step in the book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Forward {
        when: When,
        to: Option<String>,
    },
    RingSecs(Option<u16>),
    DoNotDisturb(bool),
    OneCallOnly(bool),
    RefuseHidden(bool),
    Block(String),
    Unblock(String),
    Speed {
        key: u8,
        to: Option<String>,
    },
    /// All at once, as the API has it.
    All(Box<Wishes>),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("'{0}' cannot be dialled: write digits, `*`, `#`, and a leading `+` if you like; 32 at most")]
    Number(String),
    #[error("{0} numbers can be blocked at most")]
    TooManyBlocked(usize),
    #[error("a phone rings for 5 to 600 seconds, not for {0}")]
    RingSecs(u16),
    #[error("speed dials are 0 to 99, not {0}")]
    Speed(u8),
}

/// A document for the store: `None` takes it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub key: String,
    pub value: Option<String>,
}

/// What a call to an extension does before anything rings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    AsUsual,
    Forward(String),
    DoNotDisturb,
    /// It is in a call, and wants one at a time.
    Busy,
    Blocked,
    Hidden,
}

#[derive(Debug, Default)]
pub struct Book {
    wishes: HashMap<String, Wishes>,
    night: HashMap<String, Night>,
}

impl Wishes {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub fn forward(&self, when: When) -> Option<&str> {
        match when {
            When::Always => self.always.as_deref(),
            When::Busy => self.busy.as_deref(),
            When::NoAnswer => self.no_answer.as_deref(),
            When::Unreachable => self.unreachable.as_deref(),
        }
    }

    fn forward_mut(&mut self, when: When) -> &mut Option<String> {
        match when {
            When::Always => &mut self.always,
            When::Busy => &mut self.busy,
            When::NoAnswer => &mut self.no_answer,
            When::Unreachable => &mut self.unreachable,
        }
    }

    /// A call arrives. `caller`: the number as it is shown; `None`: hidden. `talks`: the user is in a call.
    pub fn on_arrival(&self, caller: Option<&str>, talks: bool) -> Reach {
        match (caller, &self.always) {
            (None, _) if self.refuse_hidden => Reach::Hidden,
            (Some(caller), _) if self.blocked.contains(caller) => Reach::Blocked,
            (_, Some(to)) => Reach::Forward(to.clone()),
            _ if self.do_not_disturb => Reach::DoNotDisturb,
            _ if self.one_call_only && talks => Reach::Busy,
            _ => Reach::AsUsual,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let forwards = When::ALL.into_iter().filter_map(|when| self.forward(when));
        for number in forwards.chain(self.blocked.iter().map(String::as_str)).chain(self.speed.values().map(String::as_str)) {
            check_number(number)?;
        }
        if let Some(key) = self.speed.keys().find(|key| **key > 99) {
            return Err(Error::Speed(*key));
        }
        if let Some(secs) = self.ring_secs.filter(|secs| !(5..=600).contains(secs)) {
            return Err(Error::RingSecs(secs));
        }
        if self.blocked.len() > MOST_BLOCKED {
            return Err(Error::TooManyBlocked(MOST_BLOCKED));
        }
        Ok(())
    }
}

impl Book {
    pub fn of(&self, extension: &str) -> Option<&Wishes> {
        self.wishes.get(extension)
    }

    /// Changes what an extension wishes. The row is to be stored before anybody is told that it is so.
    pub fn change(&mut self, extension: &str, change: Change) -> Result<Row, Error> {
        let mut wishes = self.wishes.get(extension).cloned().unwrap_or_default();
        match change {
            Change::Forward { when, to } => *wishes.forward_mut(when) = to,
            Change::RingSecs(secs) => wishes.ring_secs = secs,
            Change::DoNotDisturb(on) => wishes.do_not_disturb = on,
            Change::OneCallOnly(on) => wishes.one_call_only = on,
            Change::RefuseHidden(on) => wishes.refuse_hidden = on,
            Change::Block(number) => drop(wishes.blocked.insert(number)),
            Change::Unblock(number) => drop(wishes.blocked.remove(&number)),
            Change::Speed { key, to: Some(to) } => drop(wishes.speed.insert(key, to)),
            Change::Speed { key, to: None } => drop(wishes.speed.remove(&key)),
            Change::All(all) => wishes = *all,
        }
        wishes.check()?;
        let key = format!("extension/{extension}");
        if wishes.is_default() {
            self.wishes.remove(extension);
            return Ok(Row { key, value: None });
        }
        let value = serde_json::to_string(&wishes).ok();
        self.wishes.insert(extension.to_owned(), wishes);
        Ok(Row { key, value })
    }

    /// Where the night switch of these hours stands.
    pub fn night(&self, hours: &str) -> Night {
        self.night.get(hours).copied().unwrap_or_default()
    }

    pub fn set_night(&mut self, hours: &str, to: Night) -> Row {
        let key = format!("night/{hours}");
        if to == Night::Auto {
            self.night.remove(hours);
            return Row { key, value: None };
        }
        self.night.insert(hours.to_owned(), to);
        Row { key, value: Some(to.as_str().to_owned()) }
    }

    /// Puts back what was stored. `false`: not a document that this program knows.
    pub fn restore(&mut self, key: &str, value: &str) -> bool {
        match key.split_once('/') {
            Some(("extension", extension)) => {
                let Ok(wishes) = serde_json::from_str(value) else { return false };
                self.wishes.insert(extension.to_owned(), wishes);
                true
            }
            Some(("night", hours)) => {
                let Some(to) = [Night::Day, Night::Night].into_iter().find(|to| to.as_str() == value) else { return false };
                self.night.insert(hours.to_owned(), to);
                true
            }
            _ => false,
        }
    }
}

/// Can this be dialled?
pub fn check_number(number: &str) -> Result<(), Error> {
    let digits = number.strip_prefix('+').unwrap_or(number);
    let fits = !digits.is_empty() && number.len() <= LONGEST_NUMBER;
    if fits && digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'*' | b'#')) {
        return Ok(());
    }
    Err(Error::Number(number.chars().take(40).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(when: When, to: &str) -> Change {
        Change::Forward { when, to: Some(to.to_owned()) }
    }

    #[test]
    fn what_is_wished_decides_in_this_order() {
        let mut book = Book::default();
        let reach = |book: &Book, caller: Option<&str>, talks| book.of("2041").map_or(Reach::AsUsual, |w| w.on_arrival(caller, talks));
        assert_eq!(reach(&book, Some("2042"), true), Reach::AsUsual);
        book.change("2041", Change::OneCallOnly(true)).unwrap();
        assert_eq!((reach(&book, Some("2042"), true), reach(&book, Some("2042"), false)), (Reach::Busy, Reach::AsUsual));
        book.change("2041", Change::DoNotDisturb(true)).unwrap();
        assert_eq!(reach(&book, Some("2042"), true), Reach::DoNotDisturb);
        book.change("2041", forward(When::Always, "2050")).unwrap();
        assert_eq!(reach(&book, Some("2042"), false), Reach::Forward("2050".into()));
        book.change("2041", Change::Block("2042".into())).unwrap();
        book.change("2041", Change::RefuseHidden(true)).unwrap();
        assert_eq!((reach(&book, Some("2042"), false), reach(&book, None, false)), (Reach::Blocked, Reach::Hidden));
        assert_eq!(reach(&book, Some("2043"), false), Reach::Forward("2050".into()));
        book.change("2041", forward(When::NoAnswer, "+4930123")).unwrap();
        let wishes = book.of("2041").unwrap();
        assert_eq!((wishes.forward(When::NoAnswer), wishes.forward(When::Busy)), (Some("+4930123"), None));
    }

    #[test]
    fn what_is_stored_comes_back_and_nothing_is_stored_of_no_wish() {
        let mut book = Book::default();
        let row = book.change("2041", forward(When::Busy, "2050")).unwrap();
        let night = book.set_night("office", Night::Night);
        let mut after = Book::default();
        for row in [&row, &night] {
            assert!(after.restore(&row.key, row.value.as_deref().unwrap()));
        }
        assert_eq!((after.of("2041"), after.night("office")), (book.of("2041"), Night::Night));
        let row = book.change("2041", Change::Forward { when: When::Busy, to: None }).unwrap();
        assert_eq!((row.value, book.of("2041")), (None, None));
        assert!(!after.restore("extension/2041", "{") && !after.restore("other/1", "x"));
    }

    #[test]
    fn what_cannot_be_dialled_is_not_taken() {
        let mut book = Book::default();
        for bad in ["", "+", "20 41", "sip:x@y", "1234567890123456789012345678901234"] {
            assert!(matches!(book.change("2041", forward(When::Always, bad)), Err(Error::Number(_))), "{bad}");
        }
        assert_eq!(book.change("2041", Change::RingSecs(Some(2))), Err(Error::RingSecs(2)));
        assert_eq!(book.change("2041", Change::Speed { key: 100, to: Some("1".into()) }), Err(Error::Speed(100)));
        for number in 0..MOST_BLOCKED {
            book.change("2041", Change::Block(number.to_string())).unwrap();
        }
        assert_eq!(book.change("2041", Change::Block("999".into())), Err(Error::TooManyBlocked(MOST_BLOCKED)));
        assert_eq!(book.of("2041").unwrap().blocked.len(), MOST_BLOCKED, "a refused change changes nothing");
    }
}
