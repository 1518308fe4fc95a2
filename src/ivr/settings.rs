//! The `ivr:` section of the configuration.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

/// The voice menu that an unbound phone reaches.
#[derive(Clone, Debug, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The flow that callers meet: a file of `flows/` without `.yaml`.
    pub flow: String,
    /// The language of the prompts: a folder of `prompts/`.
    pub language: String,
    /// A folder with `flows/` and `prompts/` of your own. What is not there is taken from the program itself.
    pub path: Option<PathBuf>,
    /// How names are said where no command speaks them: `spell` or `omit`.
    pub names: Names,
    /// A command that speaks names: words of which `{text}` and `{file}` are replaced, as
    /// `[espeak-ng, -w, "{file}", "{text}"]`. It writes a WAV file within three seconds.
    pub tts_command: Vec<String>,
    /// Callers in the menu at once; more hear busy.
    pub calls: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { flow: "welcome".into(), language: "en".into(), path: None, names: Names::Spell, tts_command: Vec::new(), calls: 200 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Names {
    Spell,
    Omit,
}

/// How long the command that speaks names may take; then the name is said as if there were none.
pub const TTS_LIMIT: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`ivr.{key}`: {reason}")]
    Setting { key: &'static str, reason: String },
    #[error("{}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Faults { faults: Vec<crate::yaml::Fault> },
}

impl Settings {
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |key, reason: &str| Err(Error::Setting { key, reason: reason.to_owned() });
        for (key, name) in [("flow", &self.flow), ("language", &self.language)] {
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
                return wrong(key, &format!("'{name}' is a name of letters, digits, - and _, without folder or extension"));
            }
        }
        let holds = |place: &str| self.tts_command.iter().any(|word| word.contains(place));
        if !(self.tts_command.is_empty() || holds("{file}") && holds("{text}")) {
            return wrong("tts_command", "needs {file} and {text}, as [espeak-ng, -w, \"{file}\", \"{text}\"]");
        }
        if self.calls == 0 {
            return wrong("calls", "is at least 1");
        }
        Ok(())
    }
}
