//! Ring groups: who rings, in what order, for how long.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::model::Extension;

/// In what order the members ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// All at once.
    #[default]
    All,
    /// One after the other, always from the first: a hunt group.
    InOrder,
    /// One after the other, each call from the next.
    RoundRobin,
    /// One after the other, whoever has not talked for longest first.
    LongestIdle,
}

/// A number behind which several people are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// What is dialled to reach it.
    pub number: Extension,
    /// Shown with it.
    #[serde(default)]
    pub name: String,
    pub members: Vec<Extension>,
    #[serde(default)]
    pub strategy: Strategy,
    /// Seconds that each rings before the next one does; with `all`, before the overflow.
    #[serde(default = "ring_secs")]
    pub ring_secs: u16,
    /// How often the members are gone through.
    #[serde(default = "rounds")]
    pub rounds: u8,
    /// Members who talk are left out.
    #[serde(default = "yes")]
    pub skip_busy: bool,
    /// Where calls go that nobody has taken. Without it the caller is told so.
    #[serde(default)]
    pub overflow: Option<String>,
}

fn ring_secs() -> u16 {
    20
}

fn rounds() -> u8 {
    1
}

fn yes() -> bool {
    true
}

/// What is known of the groups' past: whose turn it is. Forgotten at a restart.
#[derive(Debug, Default)]
pub struct Turns {
    next: HashMap<Extension, usize>,
    /// Counts up with each call that ends: who has the smallest has been idle for longest.
    clock: u64,
    ended: BTreeMap<String, u64>,
}

impl Turns {
    /// Somebody's call is over.
    pub fn talked(&mut self, extension: &str) {
        self.clock += 1;
        self.ended.insert(extension.to_owned(), self.clock);
    }

    /// Has nobody heard of a call of this extension?
    #[cfg(test)]
    pub fn idle(&self, extension: &str) -> bool {
        !self.ended.contains_key(extension)
    }

    /// Who rings for a call to the group, wave by wave.
    pub fn waves(&mut self, group: &Group) -> Vec<Vec<Extension>> {
        let mut members = group.members.clone();
        match group.strategy {
            Strategy::All => return vec![members; usize::from(group.rounds)],
            Strategy::InOrder => {}
            Strategy::RoundRobin => {
                let next = self.next.entry(group.number.clone()).or_default();
                let count = members.len().max(1);
                members.rotate_left(*next % count);
                *next = (*next + 1) % count;
            }
            Strategy::LongestIdle => members.sort_by_key(|member| self.ended.get(member.as_str()).copied().unwrap_or(0)),
        }
        let one_round: Vec<_> = members.into_iter().map(|member| vec![member]).collect();
        std::iter::repeat_n(one_round, usize::from(group.rounds)).flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(strategy: Strategy) -> Group {
        let extension = |number: &str| number.parse().unwrap();
        Group {
            number: extension("600"),
            name: "Sales".into(),
            members: ["1", "2", "3"].map(extension).to_vec(),
            strategy,
            ring_secs: 20,
            rounds: 1,
            skip_busy: true,
            overflow: None,
        }
    }

    fn words(waves: Vec<Vec<Extension>>) -> String {
        let wave = |wave: Vec<Extension>| wave.iter().map(Extension::as_str).collect::<Vec<_>>().join("+");
        waves.into_iter().map(wave).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_strategy_has_its_order() {
        let mut turns = Turns::default();
        assert_eq!(words(turns.waves(&group(Strategy::All))), "1+2+3");
        assert_eq!(words(turns.waves(&Group { rounds: 2, ..group(Strategy::InOrder) })), "1 2 3 1 2 3");
        let round_robin: Vec<_> = (0..4).map(|_| words(turns.waves(&group(Strategy::RoundRobin)))).collect();
        assert_eq!(round_robin, ["1 2 3", "2 3 1", "3 1 2", "1 2 3"]);
        turns.talked("1");
        turns.talked("3");
        assert_eq!(words(turns.waves(&group(Strategy::LongestIdle))), "2 1 3");
        turns.talked("1");
        assert_eq!(words(turns.waves(&group(Strategy::LongestIdle))), "2 3 1");
    }
}
