//! What every phone is besides its identity, right now: what its files are made of, read without asking the task that knows.
//!
//! Each file that is fetched needs it, and each answer of that task would cost two wake-ups. Facts reach the task through a queue; while
//! one that changes something here waits there, the phone's profile is [`Profiles::of`] nobody, and whoever wants it asks the task, behind
//! that fact. Written and read by `worker.rs`. Not here: who the phone is in SIP (`identities.rs`).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::onboarding::{Bindings, Sighting};
use crate::model::{DeviceRecord, FamilyName, Inventory, MacAddr};

/// Of one phone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    pub family: Option<FamilyName>,
    pub model: Option<String>,
    /// What it runs, as it last said.
    pub firmware: Option<String>,
    pub inventory: Inventory,
    /// Whose its first line is.
    pub user_id: Option<String>,
}

impl Profile {
    pub(super) fn new(record: &DeviceRecord, bindings: &Bindings) -> Self {
        Self {
            family: record.family.clone(),
            model: record.model.clone(),
            firmware: record.firmware.clone(),
            inventory: record.inventory.clone(),
            user_id: bindings.get(&1).map(|binding| binding.user_id.clone()),
        }
    }

    fn is_of(&self, record: &DeviceRecord, bindings: &Bindings) -> bool {
        (&self.family, &self.model, &self.firmware, &self.inventory) == (&record.family, &record.model, &record.firmware, &record.inventory)
            && self.user_id.as_ref() == bindings.get(&1).map(|binding| &binding.user_id)
    }

    /// Whether a sighting says anything else than it does.
    fn differs(&self, sighting: &Sighting) -> bool {
        let other = |held: &Option<String>, said: &Option<String>| said.is_some() && held != said;
        other(&self.family, &sighting.family) || other(&self.model, &sighting.model) || other(&self.firmware, &sighting.firmware)
    }
}

/// Of all phones; cheap to clone.
#[derive(Clone, Default)]
pub struct Profiles(Arc<Mutex<HashMap<MacAddr, Entry>>>);

/// There is none for a phone of which nothing is known, and nothing is on its way.
#[derive(Default)]
struct Entry {
    profile: Option<Arc<Profile>>,
    /// Facts on their way that may change it.
    expected: u32,
}

impl Profiles {
    /// `None`: something is on its way, and only who takes it knows.
    pub fn of(&self, mac: MacAddr) -> Option<Arc<Profile>> {
        match self.lock().get(&mac) {
            None => Some(Arc::default()),
            Some(entry) if entry.expected > 0 => None,
            Some(entry) => Some(entry.profile.clone().unwrap_or_default()),
        }
    }

    /// A sighting is about to be told. `true`: it counts, and [`Self::heard`] is to be said when it was taken, or was lost.
    pub(super) fn announce(&self, sighting: &Sighting) -> bool {
        let mut all = self.lock();
        let counts = match all.get(&sighting.mac) {
            // What says what is known may follow on what says something else.
            Some(Entry { expected: 1.., .. }) => true,
            Some(Entry { profile: Some(profile), .. }) => profile.differs(sighting),
            _ => Profile::default().differs(sighting),
        };
        if counts {
            all.entry(sighting.mac).or_default().expected += 1;
        }
        counts
    }

    /// What was announced has come, or never will.
    pub(super) fn heard(&self, mac: MacAddr) {
        let mut all = self.lock();
        if let Some(entry) = all.get_mut(&mac) {
            entry.expected = entry.expected.saturating_sub(1);
            if entry.expected == 0 && entry.profile.is_none() {
                all.remove(&mac);
            }
        }
    }

    /// Takes over how the device stands.
    pub(super) fn put(&self, record: &DeviceRecord, bindings: &Bindings) {
        let mut all = self.lock();
        let held = all.get(&record.mac).and_then(|entry| entry.profile.as_deref());
        if held.is_some_and(|held| held.is_of(record, bindings)) {
            return;
        }
        let profile = Profile::new(record, bindings);
        // Of many phones nothing is known, after a power cut or under an attack: they take no room.
        if held.is_some() || profile != Profile::default() {
            all.entry(record.mac).or_default().profile = Some(Arc::new(profile));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MacAddr, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Timestamp, provisioning::onboarding::unseen};

    const MAC: MacAddr = MacAddr([0, 0x15, 0x65, 0xaa, 0xbb, 0xcc]);

    fn says(family: &str) -> Sighting {
        Sighting { family: Some(family.into()), ..Sighting::of(MAC) }
    }

    #[test]
    fn nobody_answers_while_a_fact_is_on_its_way() {
        let profiles = Profiles::default();
        let family = |profiles: &Profiles| profiles.of(MAC).map(|profile| profile.family.clone());
        assert_eq!(family(&profiles), Some(None), "a phone that nobody knows");
        assert!(!profiles.announce(&Sighting::of(MAC)), "it says nothing");

        assert!(profiles.announce(&says("yealink")));
        assert_eq!(family(&profiles), None);
        let record = DeviceRecord { family: Some("yealink".into()), ..unseen(Timestamp(0), MAC) };
        profiles.put(&record, &Bindings::new());
        profiles.heard(MAC);
        assert_eq!(family(&profiles), Some(Some("yealink".into())));
        assert!(!profiles.announce(&says("yealink")), "known already");

        // Another, and then the first again: the last word counts, and both have to come.
        assert!(profiles.announce(&says("snom")) && profiles.announce(&says("yealink")));
        profiles.put(&DeviceRecord { family: Some("snom".into()), ..record.clone() }, &Bindings::new());
        profiles.heard(MAC);
        assert_eq!(family(&profiles), None);
        profiles.put(&record, &Bindings::new());
        profiles.heard(MAC);
        assert_eq!(family(&profiles), Some(Some("yealink".into())));
    }

    #[test]
    fn what_is_lost_on_the_way_leaves_nothing() {
        let profiles = Profiles::default();
        assert!(profiles.announce(&says("yealink")));
        profiles.heard(MAC);
        profiles.put(&unseen(Timestamp(0), MAC), &Bindings::new());
        assert!(profiles.of(MAC).is_some() && profiles.lock().is_empty());
    }
}
