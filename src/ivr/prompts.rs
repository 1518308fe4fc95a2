//! The prompts of one language: their words and their sound, by id. Pure; `loader.rs` reads them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::speech::{Piece, Utterance};
use crate::{
    media::Clip,
    yaml::{self, Fault},
};

/// Everything that can be said in one language.
#[derive(Debug, Default)]
pub struct Prompts {
    pub language: String,
    texts: BTreeMap<String, String>,
    recordings: HashMap<String, Recording>,
}

/// The sound of one prompt. Made ready for the player when it is first played: most prompts of a language never are.
pub struct Recording {
    rate_hz: u32,
    samples: Box<[i16]>,
    clip: OnceLock<Arc<Clip>>,
}

impl Recording {
    /// From mono samples.
    pub fn new(rate_hz: u32, samples: Vec<i16>) -> Self {
        Self { rate_hz: rate_hz.max(1), samples: samples.into(), clip: OnceLock::new() }
    }

    pub fn rate_hz(&self) -> u32 {
        self.rate_hz
    }

    pub fn samples(&self) -> &[i16] {
        &self.samples
    }

    pub fn duration(&self) -> Duration {
        Duration::from_micros(self.samples.len() as u64 * 1_000_000 / u64::from(self.rate_hz))
    }

    pub fn clip(&self, name: &str) -> Arc<Clip> {
        self.clip.get_or_init(|| Arc::new(Clip::new(name, self.rate_hz, &self.samples))).clone()
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recording({:?})", self.duration())
    }
}

/// The JSON Schema of a `prompts.yaml`, for editors.
pub fn schema() -> schemars::Schema {
    schemars::SchemaGenerator::default().into_root_schema_for::<BTreeMap<String, String>>()
}

impl Prompts {
    /// None yet.
    pub fn new(language: &str) -> Self {
        Self { language: language.to_owned(), ..Self::default() }
    }

    /// Takes from a `prompts.yaml` (`file` names it in faults) what is not there yet, with a way to get the sound of an id. Every
    /// text must have a sound. Gives the ids of what was taken.
    pub fn add(
        &mut self,
        file: &str,
        text: &str,
        mut sound: impl FnMut(&str) -> Result<Recording, String>,
    ) -> Result<Vec<String>, Vec<Fault>> {
        let mut texts: BTreeMap<String, String> = yaml::read(file, text).map_err(|fault| vec![fault])?;
        texts.retain(|id, _| !self.texts.contains_key(id));
        let mut faults = Vec::new();
        for id in texts.keys() {
            match sound(id) {
                Ok(recording) => drop(self.recordings.insert(id.clone(), recording)),
                Err(reason) => faults.push(
                    Fault::in_file(file, format!("the prompt '{id}' has no sound: {reason}"))
                        .hint("run scripts/make-prompts, or record it"),
                ),
            }
        }
        let added = texts.keys().cloned().collect();
        self.texts.append(&mut texts);
        if faults.is_empty() { Ok(added) } else { Err(faults) }
    }

    pub fn ids(&self) -> BTreeSet<String> {
        self.texts.keys().cloned().collect()
    }

    pub fn text(&self, id: &str) -> Option<String> {
        self.texts.get(id).cloned()
    }

    pub fn recording(&self, id: &str) -> Option<&Recording> {
        self.recordings.get(id)
    }

    /// The sound of what is to be said; an id without sound is left out.
    pub fn clips(&self, utterance: &Utterance) -> Vec<Arc<Clip>> {
        utterance
            .pieces()
            .iter()
            .filter_map(|piece| match piece {
                Piece::Clip(id) => self.recording(id).map(|recording| recording.clip(id)),
                Piece::Silence(pause) => Some(Arc::new(silence(*pause))),
            })
            .collect()
    }

    /// How long it takes to say.
    pub fn length(&self, utterance: &Utterance) -> Duration {
        let length = |piece: &Piece| match piece {
            Piece::Clip(id) => self.recording(id).map(Recording::duration).unwrap_or_default(),
            Piece::Silence(pause) => *pause,
        };
        utterance.pieces().iter().map(length).sum()
    }

    /// What the caller hears, in words.
    pub fn words(&self, speech: &[Utterance]) -> String {
        let words: Vec<String> = speech.iter().map(|u| u.text(|id| self.text(id))).filter(|text| !text.is_empty()).collect();
        words.join(" ")
    }
}

fn silence(pause: Duration) -> Clip {
    let samples = usize::try_from(pause.as_millis()).unwrap_or(0).min(10_000) * 8;
    Clip::new("silence", 8000, &vec![0; samples])
}
