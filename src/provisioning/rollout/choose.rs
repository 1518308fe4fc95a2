//! Which phones get a change first: as many as wanted, of different models, and such as can show something.

use std::{collections::BTreeMap, fmt, str::FromStr};

use super::Standing;
use crate::{
    directory::is_group,
    model::{FamilyName, MacAddr},
};

/// A phone whose files change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub mac: MacAddr,
    pub family: FamilyName,
    pub model: Option<String>,
    /// The firmware that it has to come back with.
    pub firmware: Option<String>,
    /// Where it is, by the sites of overrides.yaml.
    pub site: Option<String>,
    /// Those that it is in itself, and those of its owners.
    pub groups: Vec<String>,
    pub standing: Standing,
}

/// How many go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    Phones(u32),
    Percent(u32),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not how many phones go first: write a number as 5, or a share as 10%")]
pub struct ParseCanaryError(String);

/// Which ones somebody wants first; empty lists want nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub canary: Option<Canary>,
    pub family: Option<String>,
    /// With `*` for anything.
    pub model: Option<String>,
    pub site: Option<String>,
    /// By its name alone, or as the directory has it.
    pub group: Option<String>,
    pub phones: Vec<MacAddr>,
}

impl FromStr for Canary {
    type Err = ParseCanaryError;

    fn from_str(text: &str) -> Result<Self, ParseCanaryError> {
        let fault = || ParseCanaryError(text.to_owned());
        let canary = match text.trim().strip_suffix('%') {
            Some(percent) => Self::Percent(percent.trim_end().parse().ok().filter(|n| (1..=100).contains(n)).ok_or_else(fault)?),
            None => Self::Phones(text.trim().parse().ok().filter(|n| *n > 0).ok_or_else(fault)?),
        };
        Ok(canary)
    }
}

impl fmt::Display for Canary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Phones(phones) => write!(f, "{phones}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Wanted {
    /// The first ones: those that are registered and idle before others, and models by turns.
    pub fn choose(&self, candidates: &[Candidate], usual: Canary) -> Vec<MacAddr> {
        if !self.phones.is_empty() {
            return candidates.iter().map(|candidate| candidate.mac).filter(|mac| self.phones.contains(mac)).collect();
        }
        // A group or a site goes as a whole, unless somebody says how many of it.
        let all = self.group.is_some() || self.site.is_some();
        let count = match self.canary.unwrap_or(usual) {
            _ if all && self.canary.is_none() => candidates.len(),
            Canary::Phones(phones) => phones as usize,
            Canary::Percent(percent) => (candidates.len() * percent as usize).div_ceil(100),
        };
        let fits = |candidate: &&Candidate| {
            self.family.as_ref().is_none_or(|family| family.eq_ignore_ascii_case(&candidate.family))
                && self.model.as_ref().is_none_or(|model| is_like(model, candidate.model.as_deref().unwrap_or_default()))
                && self.site.as_ref().is_none_or(|site| candidate.site.as_ref() == Some(site))
                && self.group.as_ref().is_none_or(|group| candidate.groups.iter().any(|own| is_group(own, group)))
        };
        let mut by_model: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for candidate in candidates.iter().filter(fits) {
            let Standing { registered, in_call, .. } = candidate.standing;
            by_model.entry((&candidate.family, &candidate.model)).or_default().push((!registered, in_call, candidate.mac));
        }
        // The first of each model, then the second of each, and so on; who is away comes after all who are there.
        let mut turns: Vec<_> = by_model
            .into_values()
            .flat_map(|mut phones| {
                phones.sort();
                phones.into_iter().enumerate().map(|(turn, (away, in_call, mac))| (away, turn, in_call, mac))
            })
            .collect();
        turns.sort();
        turns.into_iter().take(count).map(|(.., mac)| mac).collect()
    }
}

/// `T4*U` in any case.
fn is_like(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_lowercase(), text.to_lowercase());
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let Some((last, middle)) = parts.collect::<Vec<_>>().split_last().map(|(last, middle)| (last.to_string(), middle.to_vec())) else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(&last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_shares_are_told_apart() {
        for (text, canary) in [
            ("5", Ok(Canary::Phones(5))),
            ("10%", Ok(Canary::Percent(10))),
            (" 10 % ", Ok(Canary::Percent(10))),
            ("0", Err(())),
            ("0%", Err(())),
            ("101%", Err(())),
            ("some", Err(())),
        ] {
            assert_eq!(text.parse::<Canary>().map_err(drop), canary, "{text}");
        }
    }

    #[test]
    fn patterns_of_models() {
        for (pattern, text, like) in [
            ("T46U", "t46u", true),
            ("T46U", "T46", false),
            ("T4*", "T46U", true),
            ("T4*U", "T46U", true),
            ("T4*U", "T46S", false),
            ("*", "", true),
            ("*6*", "T46U", true),
            ("T4*4", "T4", false),
        ] {
            assert_eq!(is_like(pattern, text), like, "{pattern} {text}");
        }
    }

    #[test]
    fn the_first_ones_are_there_idle_and_of_different_models() {
        let phone = |n: u8, model: &str, registered, in_call| Candidate {
            mac: MacAddr([0, 0, 0, 0, 0, n]),
            family: "yealink".into(),
            model: Some(model.into()),
            firmware: None,
            site: (n > 3).then(|| "berlin".into()),
            groups: if n % 2 == 1 { vec!["cn=IT,ou=groups,dc=x".into()] } else { vec!["lobby".into()] },
            standing: Standing { registered, in_call, ..Standing::default() },
        };
        let all = [
            phone(1, "T46U", true, true),
            phone(2, "T46U", true, false),
            phone(3, "T46U", true, false),
            phone(4, "T48U", false, false),
            phone(5, "T48U", true, false),
            phone(6, "T31G", true, false),
        ];
        let chosen = |wanted: Wanted| wanted.choose(&all, Canary::Phones(3)).into_iter().map(|mac| mac.0[5]).collect::<Vec<_>>();
        let canary = |text: &str| Some(text.parse().unwrap());
        assert_eq!(chosen(Wanted::default()), [2, 5, 6]);
        assert_eq!(chosen(Wanted { canary: canary("50%"), ..Default::default() }), [2, 5, 6]);
        assert_eq!(chosen(Wanted { canary: canary("6"), ..Default::default() }), [2, 5, 6, 3, 1, 4], "who is away comes last");
        assert_eq!(chosen(Wanted { model: Some("t48*".into()), ..Default::default() }), [5, 4]);
        assert_eq!(chosen(Wanted { family: Some("poly".into()), ..Default::default() }), [0; 0]);
        let in_group = |group: &str| Wanted { group: Some(group.into()), ..Default::default() };
        assert_eq!(chosen(in_group("it")), [3, 5, 1], "a group as a whole");
        assert_eq!(chosen(in_group("cn=it,ou=groups,dc=x")), [3, 5, 1]);
        assert_eq!(chosen(in_group("lobby")), [2, 6, 4], "the phones' own");
        assert_eq!(chosen(Wanted { canary: canary("1"), ..in_group("it") }), [3], "or so many of it");
        assert_eq!(chosen(Wanted { site: Some("berlin".into()), ..Default::default() }), [5, 6, 4]);
        assert_eq!(chosen(Wanted { site: Some("berlin".into()), ..in_group("it") }), [5]);
        let named = [1, 9].map(|n| MacAddr([0, 0, 0, 0, 0, n])).to_vec();
        assert_eq!(chosen(Wanted { phones: named, ..Default::default() }), [1], "and nobody whose files do not change");
    }
}
