//! Which sound says what: prompts, and names by a command where one is set. Pure but for the sound it is given.
//!
//! `worker.rs` runs the command and keeps what it spoke here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{prompts::Prompts, settings::Names, speech::Utterance};
use crate::media::Clip;

/// Names kept as spoken; when there are more, all are spoken anew.
const NAMES_MOST: usize = 256;

/// How things are said.
pub struct Voice {
    names: Names,
    spoken: Mutex<HashMap<String, Arc<Clip>>>,
}

impl Voice {
    pub fn new(names: Names) -> Self {
        Self { names, spoken: Mutex::default() }
    }

    pub fn knows(&self, name: &str) -> bool {
        self.spoken.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name)
    }

    /// From now on the name is said so.
    pub fn learn(&self, name: &str, clip: Clip) {
        let mut spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        if spoken.len() >= NAMES_MOST {
            spoken.clear();
        }
        spoken.insert(name.to_owned(), Arc::new(clip));
    }

    /// The clips that say all this, in order.
    pub fn clips(&self, prompts: &Prompts, speech: &[Utterance]) -> Vec<Arc<Clip>> {
        speech.iter().flat_map(|utterance| self.clips_of(prompts, utterance)).collect()
    }

    fn clips_of(&self, prompts: &Prompts, utterance: &Utterance) -> Vec<Arc<Clip>> {
        if let Utterance::Name(name) = utterance {
            if let Some(clip) = self.spoken.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
                return vec![clip.clone()];
            }
            if self.names == Names::Omit {
                return Vec::new();
            }
        }
        prompts.clips(utterance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelled_omitted_or_spoken() {
        let mut left = super::super::speech::all_pieces();
        left.sort();
        let text: String = left.iter().map(|id| format!("{id}: x\n")).collect();
        let sound = |_: &str| Ok(super::super::prompts::Recording::new(8000, vec![9; 80]));
        let mut prompts = Prompts::new("en");
        prompts.add("p", &text, sound).expect("prompts");
        let speech = [Utterance::Name("Ada".into())];
        assert_eq!(Voice::new(Names::Spell).clips(&prompts, &speech).len(), 3);
        let voice = Voice::new(Names::Omit);
        assert_eq!(voice.clips(&prompts, &speech).len(), 0);
        voice.learn("Ada", Clip::new("Ada", 8000, &[1; 800]));
        assert!(voice.knows("Ada"));
        assert_eq!(voice.clips(&prompts, &speech)[0].name(), "Ada");
    }
}
