//! What each phone was given last, so that only what is new is rendered again for people and written down.
//!
//! The hash of the real bytes is compared in memory and kept nowhere: somebody could try passwords against it. On disk are texts in
//! which every secret is masked, by the hash of that text; it is also what the events of the audit name. What the phone has uploaded
//! itself and reads back is no text of ours and is not here. `worker.rs` writes.

pub mod worker;

use std::collections::HashMap;

pub use worker::History;

use crate::model::{MacAddr, Timestamp};

/// Files remembered at most; beyond that all are forgotten, and rendered for people once more.
const MOST_FILES: usize = 500_000;

/// The files of all phones, as they were given last.
#[derive(Default)]
pub struct Recent {
    phones: HashMap<MacAddr, Vec<Last>>,
    files: usize,
}

/// One file as one phone was given it last.
struct Last {
    file: Box<str>,
    /// Of the real bytes. `None`: they are not known since the start.
    real: Option<blake3::Hash>,
    /// Of the masked text.
    shown: blake3::Hash,
    at: Timestamp,
    /// The store has an older `at`.
    touched: bool,
}

/// What [`Recent::put`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It is to be written down.
    New,
    /// People would see no change: only secrets have changed, or the server was started anew.
    Same,
}

impl Recent {
    /// What the store says was given last.
    pub fn restore(&mut self, mac: MacAddr, file: &str, shown: blake3::Hash, at: Timestamp) {
        self.insert(mac, Last { file: file.into(), real: None, shown, at, touched: false });
    }

    /// The hash of the masked text, when these are the very bytes that the phone was given last.
    pub fn again(&mut self, mac: MacAddr, file: &str, real: blake3::Hash, at: Timestamp) -> Option<blake3::Hash> {
        let last = self.find(mac, file)?;
        if last.real != Some(real) {
            return None;
        }
        (last.at, last.touched) = (at, true);
        Some(last.shown)
    }

    /// The phone is given something else, or nobody knew what it had.
    pub fn put(&mut self, mac: MacAddr, file: &str, real: blake3::Hash, shown: blake3::Hash, at: Timestamp) -> News {
        match self.find(mac, file) {
            Some(last) => {
                let news = if last.shown == shown { News::Same } else { News::New };
                (last.real, last.shown, last.at, last.touched) = (Some(real), shown, at, news == News::Same);
                news
            }
            None => {
                self.insert(mac, Last { file: file.into(), real: Some(real), shown, at, touched: false });
                News::New
            }
        }
    }

    /// It could not be written down: the next time it is new again.
    pub fn forget(&mut self, mac: MacAddr, file: &str) {
        if let Some(files) = self.phones.get_mut(&mac) {
            let before = files.len();
            files.retain(|last| *last.file != *file);
            self.files -= before - files.len();
        }
    }

    /// When files were given last, for those of which the store has an older time.
    pub fn take_touched(&mut self) -> Vec<(MacAddr, String, Timestamp)> {
        let of = |(mac, files): (&MacAddr, &mut Vec<Last>)| {
            let mac = *mac;
            let touched =
                files.iter_mut().filter_map(move |last| std::mem::take(&mut last.touched).then(|| (mac, last.file.to_string(), last.at)));
            touched.collect::<Vec<_>>()
        };
        self.phones.iter_mut().flat_map(of).collect()
    }

    fn find(&mut self, mac: MacAddr, file: &str) -> Option<&mut Last> {
        self.phones.get_mut(&mac)?.iter_mut().find(|last| *last.file == *file)
    }

    fn insert(&mut self, mac: MacAddr, last: Last) {
        if self.files >= MOST_FILES {
            (self.phones, self.files) = (HashMap::new(), 0);
        }
        self.files += 1;
        self.phones.entry(mac).or_default().push(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0, 0x15, 0x65, 0, 0, 1]);

    fn hash(text: &str) -> blake3::Hash {
        blake3::hash(text.as_bytes())
    }

    #[test]
    fn only_what_people_would_see_change_is_news() {
        let mut recent = Recent::default();
        recent.restore(MAC, "a.cfg", hash("masked 1"), Timestamp(1));
        // (file, real bytes, masked, known by its bytes alone, news)
        for (story, file, real, shown, again, news) in [
            ("after a start nobody knows the bytes", "a.cfg", "secret 1", "masked 1", false, News::Same),
            ("the same again", "a.cfg", "secret 1", "masked 1", true, News::Same),
            ("only a secret has changed", "a.cfg", "secret 2", "masked 1", false, News::Same),
            ("another text", "a.cfg", "secret 3", "masked 2", false, News::New),
            ("back to what was before", "a.cfg", "secret 1", "masked 1", false, News::New),
            ("another file", "b.cfg", "secret 1", "masked 1", false, News::New),
        ] {
            let known = recent.again(MAC, file, hash(real), Timestamp(2));
            assert_eq!(known, again.then(|| hash(shown)), "{story}");
            if known.is_none() {
                assert_eq!(recent.put(MAC, file, hash(real), hash(shown), Timestamp(2)), news, "{story}");
            }
        }
    }

    #[test]
    fn times_are_written_behind_once_and_what_was_not_written_is_new_again() {
        let mut recent = Recent::default();
        assert_eq!(recent.put(MAC, "a.cfg", hash("r"), hash("m"), Timestamp(1)), News::New);
        assert_eq!(recent.take_touched(), [], "its row has this time");
        recent.again(MAC, "a.cfg", hash("r"), Timestamp(5));
        assert_eq!(recent.take_touched(), [(MAC, "a.cfg".to_owned(), Timestamp(5))]);
        assert_eq!(recent.take_touched(), []);
        recent.forget(MAC, "a.cfg");
        assert_eq!(recent.put(MAC, "a.cfg", hash("r"), hash("m"), Timestamp(6)), News::New);
    }
}
