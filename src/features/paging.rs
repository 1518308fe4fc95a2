//! Paging groups: one speaks, and the phones of many take the call by themselves and let them hear.

use serde::{Deserialize, Serialize};

use crate::model::Extension;

/// Members of one group at most: each is a call of its own.
const MOST_MEMBERS: usize = 100;

/// A number by which many are spoken to at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Paging {
    /// What is dialled to speak.
    pub number: Extension,
    /// Shown with it.
    #[serde(default)]
    pub name: String,
    pub members: Vec<Extension>,
    /// Who may speak; nobody named: everybody.
    #[serde(default)]
    pub speakers: Vec<Extension>,
    /// Members who are in a call are called too.
    #[serde(default)]
    pub interrupts: bool,
    /// Members who do not want to be disturbed are called too.
    #[serde(default)]
    pub disturbs: bool,
    /// Seconds after which it ends by itself, as who speaks may have put the handset aside.
    #[serde(default = "longest_secs")]
    pub longest_secs: u16,
}

fn longest_secs() -> u16 {
    180
}

impl Paging {
    pub(super) fn fault(&self) -> Option<&'static str> {
        if self.members.is_empty() || self.members.len() > MOST_MEMBERS {
            return Some("name 1 to 100 members");
        }
        (!(10..=3600).contains(&self.longest_secs)).then_some("longest_secs is out of bounds, write 10 to 3600")
    }

    pub fn may_speak(&self, extension: &str) -> bool {
        self.speakers.is_empty() || self.speakers.iter().any(|speaker| speaker.as_str() == extension)
    }
}
