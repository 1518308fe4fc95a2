//! Call-backs: somebody wants to be called when somebody else is free. They outlive a restart.

use serde::{Deserialize, Serialize};

use super::book::Row;
use crate::model::{Extension, Timestamp};

/// Call-backs that wait at most, one an extension.
const MOST: usize = 1000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallBack {
    pub from: Extension,
    pub to: Extension,
    /// Then it is given up.
    pub until: Timestamp,
}

#[derive(Debug, Default)]
pub struct CallBacks {
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    wanted: CallBack,
    /// Its phone was called, and has not rung yet.
    tried: bool,
}

/// As it is stored, under who wants it.
#[derive(Serialize, Deserialize)]
struct Stored {
    to: Extension,
    until: Timestamp,
}

impl CallBacks {
    /// Instead of the one that the extension wanted before. The row is to be stored before anybody is told that it is so.
    /// `None`: there are too many.
    pub fn add(&mut self, wanted: CallBack) -> Option<Row> {
        self.waiting.retain(|one| one.wanted.from != wanted.from);
        if self.waiting.len() >= MOST {
            return None;
        }
        let stored = Stored { to: wanted.to.clone(), until: wanted.until };
        let row = Row { key: key(&wanted.from), value: serde_json::to_string(&stored).ok() };
        self.waiting.push(Waiting { wanted, tried: false });
        Some(row)
    }

    /// The first of which both can be called now. It is given out once, and again after [`Self::try_again`]; it waits until it is
    /// removed.
    pub fn due(&mut self, free: impl Fn(&Extension) -> bool) -> Option<CallBack> {
        let due = self.waiting.iter_mut().find(|one| !one.tried && free(&one.wanted.from) && free(&one.wanted.to))?;
        due.tried = true;
        Some(due.wanted.clone())
    }

    /// Phones that could not be reached may be there now.
    pub fn try_again(&mut self) {
        self.waiting.iter_mut().for_each(|one| one.tried = false);
    }

    /// It is not wanted any more, or done. `None`: there was none.
    pub fn remove(&mut self, from: &str) -> Option<Row> {
        let at = self.waiting.iter().position(|one| one.wanted.from.as_str() == from)?;
        let gone = self.waiting.remove(at).wanted;
        Some(Row { key: key(&gone.from), value: None })
    }

    /// Those whose time is over.
    pub fn expire(&mut self, now: Timestamp) -> Vec<Row> {
        let gone = self.waiting.extract_if(.., |one| one.wanted.until <= now);
        gone.map(|one| Row { key: key(&one.wanted.from), value: None }).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Puts back what was stored. `false`: not a document that this program knows.
    pub fn restore(&mut self, document: &str, value: &str) -> bool {
        let from = document.strip_prefix(PREFIX).and_then(|from| from.parse().ok());
        let (Some(from), Ok(Stored { to, until })) = (from, serde_json::from_str(value)) else { return false };
        self.waiting.push(Waiting { wanted: CallBack { from, to, until }, tried: false });
        true
    }
}

const PREFIX: &str = "call-back/";

fn key(from: &Extension) -> String {
    format!("{PREFIX}{from}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(from: &str, to: &str, until: i64) -> CallBack {
        CallBack { from: from.parse().unwrap(), to: to.parse().unwrap(), until: Timestamp(until) }
    }

    #[test]
    fn one_an_extension_waits_is_stored_and_comes_back() {
        let mut all = CallBacks::default();
        all.add(wanted("2041", "2042", 10)).unwrap();
        let row = all.add(wanted("2041", "2043", 20)).unwrap();
        assert_eq!((row.key.as_str(), row.value.as_deref()), ("call-back/2041", Some(r#"{"to":"2043","until":20}"#)));
        let mut after = CallBacks::default();
        assert!(after.restore(&row.key, &row.value.unwrap()));
        assert_eq!(after.due(|one| one.as_str() == "2041"), None, "the other is not free");
        let due = |all: &mut CallBacks| all.due(|_| true);
        assert_eq!((due(&mut after), due(&mut after)), (Some(wanted("2041", "2043", 20)), None));
        after.try_again();
        assert!(due(&mut after).is_some());
        assert!(!after.restore("call-back/x y", "{}") && !after.restore("extension/2041", "{}"));
        assert_eq!(after.remove("2041"), Some(Row { key: "call-back/2041".into(), value: None }));
        assert!(after.is_empty() && after.remove("2041").is_none());
        assert!(all.expire(Timestamp(19)).is_empty());
        assert_eq!((all.expire(Timestamp(20)).len(), all.is_empty()), (1, true));
        for from in 1000..1000 + MOST {
            all.add(wanted(&from.to_string(), "2", 1)).unwrap();
        }
        assert!(all.add(wanted("2041", "2042", 1)).is_none());
    }
}
