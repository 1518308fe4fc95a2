//! The `features` section of the configuration file, and what it means.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{book, code::Codes, group::Group, paging::Paging};
use crate::model::Extension;

/// Park places of an office at most.
const MOST_PLACES: u32 = 1000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What phones dial to change or ask something. An empty one is off.
    pub codes: Codes,
    /// Numbers behind which several people are.
    pub groups: Vec<Group>,
    /// Numbers by which many are spoken to at once.
    pub paging: Vec<Paging>,
    /// Who may take each other's calls with `codes.group_pickup`: lists of extensions. Members of a ring group may anyway.
    pub pickup_groups: Vec<Vec<Extension>>,
    pub park: Park,
    /// Digit after `codes.night` → the hours of the routes whose switch it turns.
    pub night: BTreeMap<String, String>,
    /// Extensions that may turn night switches; empty: all.
    pub night_extensions: Vec<Extension>,
    /// Minutes that a call-back waits for the other to be free.
    pub call_back_minutes: u32,
}

/// Where calls wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Park {
    /// Transfer a call here to park it at the first free place.
    pub number: Option<Extension>,
    /// The places: `701-710`. Transfer to one to park there, dial it to take the call. Empty: none.
    pub places: String,
    /// Seconds before the one who parked is called back.
    pub timeout_secs: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            codes: Codes::default(),
            groups: Vec::new(),
            paging: Vec::new(),
            pickup_groups: Vec::new(),
            park: Park::default(),
            night: BTreeMap::new(),
            night_extensions: Vec::new(),
            call_back_minutes: 60,
        }
    }
}

impl Default for Park {
    fn default() -> Self {
        Self { number: None, places: String::new(), timeout_secs: 120 }
    }
}

/// What is wrong with the section: the key, and what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("`features.codes.{0}` is no star code: begin with * or #, go on with digits, 8 characters at most")]
    Code(&'static str),
    #[error("`features.codes` has the same code for {0} and {1}: change one, or write \"\" to switch it off")]
    SameCode(&'static str, &'static str),
    #[error("`features.groups` has no member in {0}: name at least one extension")]
    NoMember(Extension),
    #[error("`features.groups` has {0} twice: each group wants a number of its own")]
    SameGroup(Extension),
    #[error("`features.groups` has {0}, whose ring_secs or rounds are out of bounds: 5 to 600, and 1 to 10")]
    Bounds(Extension),
    #[error("`features.groups` has {group}: {fault}")]
    Overflow { group: Extension, fault: book::Error },
    #[error("`features.paging` has {number}: {fault}")]
    Paging { number: Extension, fault: &'static str },
    #[error("`features.park.places` is '{0}': write the first and the last place, as 701-710; 1000 at most")]
    Places(String),
    #[error("`features.park` has a number but no places: write places, as 701-710")]
    NoPlaces,
    #[error("`features.park.number` {0} is one of the places: choose another")]
    ParkIsPlace(Extension),
    #[error("`features.park.timeout_secs` is {0}: write 10 to 3600")]
    ParkTimeout(u64),
    #[error("`features.night` has '{0}': write one or two digits")]
    NightKey(String),
    #[error("{0} is a number of `features` twice: a group, a paging group and a park place each want one of their own")]
    SameNumber(Extension),
}

/// The section after [`Settings::check`].
#[derive(Clone, Debug)]
pub struct Rules {
    pub codes: Codes,
    groups: HashMap<String, Group>,
    paging: HashMap<String, Paging>,
    pickup: Vec<HashSet<String>>,
    pub park_number: Option<String>,
    places: Option<(u32, u32)>,
    pub park_timeout: Duration,
    pub night: BTreeMap<String, String>,
    night_extensions: HashSet<String>,
    pub call_back: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Settings::default().check().unwrap_or_else(|_| unreachable!("the defaults are sound, as a test shows"))
    }
}

impl Settings {
    pub fn check(&self) -> Result<Rules, Error> {
        match self.codes.fault() {
            Some((key, None)) => return Err(Error::Code(key)),
            Some((key, Some(other))) => return Err(Error::SameCode(key, other)),
            None => {}
        }
        let mut groups = HashMap::new();
        for group in &self.groups {
            if group.members.is_empty() {
                return Err(Error::NoMember(group.number.clone()));
            }
            if !(5..=600).contains(&group.ring_secs) || !(1..=10).contains(&group.rounds) {
                return Err(Error::Bounds(group.number.clone()));
            }
            if let Some(Err(fault)) = group.overflow.as_deref().map(book::check_number) {
                return Err(Error::Overflow { group: group.number.clone(), fault });
            }
            if groups.insert(group.number.to_string(), group.clone()).is_some() {
                return Err(Error::SameGroup(group.number.clone()));
            }
        }
        let places = self.places()?;
        let within = |number: &str| places.is_some_and(|range| is_place(range, number));
        if let Some(number) = &self.park.number {
            if places.is_none() {
                return Err(Error::NoPlaces);
            }
            if within(number.as_str()) {
                return Err(Error::ParkIsPlace(number.clone()));
            }
        }
        let mut paging = HashMap::new();
        for one in &self.paging {
            if let Some(fault) = one.fault() {
                return Err(Error::Paging { number: one.number.clone(), fault });
            }
            if paging.insert(one.number.to_string(), one.clone()).is_some() || groups.contains_key(one.number.as_str()) {
                return Err(Error::SameNumber(one.number.clone()));
            }
        }
        let numbers = self.groups.iter().map(|group| &group.number).chain(self.paging.iter().map(|one| &one.number));
        if let Some(number) = numbers.into_iter().find(|number| within(number.as_str()) || Some(*number) == self.park.number.as_ref()) {
            return Err(Error::SameNumber(number.clone()));
        }
        if !(10..=3600).contains(&self.park.timeout_secs) {
            return Err(Error::ParkTimeout(self.park.timeout_secs));
        }
        if let Some(key) = self.night.keys().find(|key| !(1..=2).contains(&key.len()) || !key.bytes().all(|b| b.is_ascii_digit())) {
            return Err(Error::NightKey(key.clone()));
        }
        let all = |list: &[Extension]| list.iter().map(Extension::to_string).collect();
        let of_groups = self.groups.iter().map(|group| all(&group.members));
        Ok(Rules {
            codes: self.codes.clone(),
            groups,
            paging,
            pickup: self.pickup_groups.iter().map(|list| all(list)).chain(of_groups).collect(),
            park_number: self.park.number.as_ref().map(Extension::to_string),
            places,
            park_timeout: Duration::from_secs(self.park.timeout_secs),
            night: self.night.clone(),
            night_extensions: all(&self.night_extensions),
            call_back: Duration::from_secs(u64::from(self.call_back_minutes) * 60),
        })
    }

    fn places(&self) -> Result<Option<(u32, u32)>, Error> {
        let text = self.park.places.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let range = text.split_once('-').and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
        match range {
            Some((first, last)) if 0 < first && first <= last && last - first < MOST_PLACES => Ok(Some((first, last))),
            _ => Err(Error::Places(text.to_owned())),
        }
    }
}

fn is_place((first, last): (u32, u32), number: &str) -> bool {
    // The number as it is written: 0701 is another one.
    number.parse().is_ok_and(|place: u32| (first..=last).contains(&place) && place.to_string() == number)
}

impl Rules {
    pub fn group(&self, number: &str) -> Option<&Group> {
        self.groups.get(number)
    }

    pub fn paging(&self, number: &str) -> Option<&Paging> {
        self.paging.get(number)
    }

    pub fn is_place(&self, number: &str) -> bool {
        self.places.is_some_and(|range| is_place(range, number))
    }

    pub fn places(&self) -> impl Iterator<Item = String> + use<> {
        self.places.into_iter().flat_map(|(first, last)| first..=last).map(|place| place.to_string())
    }

    /// A number of an office that is nobody's phone: a group, a paging group, a park place.
    pub fn has(&self, number: &str) -> bool {
        self.groups.contains_key(number)
            || self.paging.contains_key(number)
            || self.is_place(number)
            || self.park_number.as_deref() == Some(number)
    }

    /// May `who` take a call that rings at `at`?
    pub fn picks_up(&self, who: &str, at: &str) -> bool {
        self.pickup.iter().any(|group| group.contains(who) && group.contains(at))
    }

    pub fn may_turn_night(&self, extension: &str) -> bool {
        self.night_extensions.is_empty() || self.night_extensions.contains(extension)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Rules, Error> {
        serde_yaml::from_str::<Settings>(text).unwrap().check()
    }

    #[test]
    fn the_section_is_read_and_slips_are_named() {
        let rules = read(
            "groups: [{number: '600', members: ['2041', '2042'], strategy: longest_idle, overflow: '2000'}]\n\
             paging: [{number: '650', name: All, members: ['2041', '2042'], speakers: ['2041']}]\n\
             pickup_groups: [['2043', '2044']]\n\
             park: {number: '700', places: 701-703}\n\
             night: {'0': office}\n\
             night_extensions: ['2041']",
        )
        .unwrap();
        assert!(rules.has("600") && rules.has("700") && rules.has("703") && !rules.has("704") && !rules.has("0701"));
        assert!(rules.picks_up("2041", "2042") && rules.picks_up("2043", "2044") && !rules.picks_up("2041", "2044"));
        let paging = rules.paging("650").unwrap();
        assert!(rules.has("650") && paging.may_speak("2041") && !paging.may_speak("2042") && paging.longest_secs == 180);
        assert!(rules.may_turn_night("2041") && !rules.may_turn_night("2042"));
        assert_eq!(rules.places().collect::<Vec<_>>(), ["701", "702", "703"]);
        for (text, start) in [
            ("codes: {redial: '66'}", "`features.codes.redial`"),
            ("codes: {redial: '*78'}", "`features.codes` has the same code for redial and do_not_disturb"),
            ("groups: [{number: '600', members: []}]", "`features.groups` has no member in 600"),
            ("groups: [{number: '600', members: ['1'], ring_secs: 1}]", "`features.groups` has 600, whose ring_secs"),
            ("groups: [{number: '600', members: ['1'], overflow: x}]", "`features.groups` has 600: 'x' cannot be dialled"),
            ("groups: [{number: '701', members: ['1']}]\npark: {places: 701-702}", "701 is a number of `features` twice"),
            ("paging: [{number: '650', members: []}]", "`features.paging` has 650: name 1 to 100 members"),
            ("paging: [{number: '650', members: ['1'], longest_secs: 1}]", "`features.paging` has 650: longest_secs is out of bounds"),
            ("paging: [{number: '650', members: ['1']}]\ngroups: [{number: '650', members: ['1']}]", "650 is a number of `features` twice"),
            ("paging: [{number: '701', members: ['1']}]\npark: {places: 701-702}", "701 is a number of `features` twice"),
            ("park: {places: 702-701}", "`features.park.places` is '702-701'"),
            ("park: {number: '700'}", "`features.park` has a number but no places"),
            ("park: {number: '701', places: 701-702}", "`features.park.number` 701 is one of the places"),
            ("park: {timeout_secs: 1}", "`features.park.timeout_secs` is 1"),
            ("night: {x: office}", "`features.night` has 'x'"),
        ] {
            let fault = read(text).expect_err(text).to_string();
            assert!(fault.starts_with(start), "{text}: {fault}");
        }
    }

    #[test]
    fn the_defaults_are_sound() {
        assert!(Settings::default().check().is_ok());
        assert!(!Rules::default().has("600"));
    }
}
