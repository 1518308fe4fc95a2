//! Who every phone is in SIP, right now: a snapshot that is read without a lock and replaced whole.
//!
//! Only devices with a history (generation above 0) are in it. Any other MAC has, from the moment that somebody asks,
//! the provisional identity of generation 0: derived, not stored, so that ten thousand new phones at once cost nothing.
//! That gives nobody anything: the secret is in the phone's own file only. Written by `worker.rs`, read by the SIP
//! engine (digest), by call routing and by whoever renders files. Not here: who may have which extension.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arc_swap::ArcSwap;

use crate::{
    binding::MasterKey,
    model::{DeviceRecord, Extension, Generation, LineNumber, MacAddr, Secret},
    sip::{Account, Accounts},
};

use super::onboarding::Bindings;

/// What is on the display of a phone, or reaches whoever it calls, before it is somebody's.
pub const NOBODY: &str = "New phone";

/// Lock-free reads of everybody's identity; cheap to clone.
#[derive(Clone)]
pub struct Identities {
    key: MasterKey,
    now: Arc<ArcSwap<Snapshot>>,
    /// Where devices are, of those that it is known of.
    places: Arc<ArcSwap<HashMap<MacAddr, String>>>,
}

/// One line of a device as SIP knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub mac: MacAddr,
    pub line: LineNumber,
    /// What the phone logs in as: `001565aabbcc-1`.
    pub auth_user: String,
    /// The user part of its address of record: the extension, or `new001565aabbcc`, or `new001565aabbcc-2` of a line behind the first.
    pub user: String,
    pub display_name: String,
    pub secret: Secret,
    pub generation: Generation,
    /// The owner's; `None` while provisional.
    pub extension: Option<Extension>,
}

impl Identity {
    /// Has no owner: reaches the IVR and emergency numbers only.
    pub fn provisional(&self) -> bool {
        self.extension.is_none()
    }
}

#[derive(Clone, Default)]
struct Snapshot {
    devices: HashMap<MacAddr, Entry>,
    extensions: HashMap<Extension, Vec<(MacAddr, LineNumber)>>,
}

#[derive(Clone, Default)]
struct Entry {
    generation: Generation,
    lines: BTreeMap<LineNumber, Box<Owner>>,
}

#[derive(Clone)]
struct Owner {
    /// Since when it is theirs: what becomes of the device's other lines does not change their secret.
    generation: Generation,
    extension: Extension,
    display_name: String,
}

impl Identities {
    pub fn new(key: MasterKey) -> Self {
        Self { key, now: Arc::default(), places: Arc::default() }
    }

    /// Who a user name of the digest is. `None` when no device can be called so.
    pub fn find(&self, auth_user: &str) -> Option<Identity> {
        let (mac, line) = parse_auth_user(auth_user)?;
        Some(self.identity(mac, line))
    }

    /// A line of a device. Which lines it has is not known here: its file says how many are there to sign in at (`variables.rs`),
    /// and any other is somebody whose secret nobody was told.
    pub fn identity(&self, mac: MacAddr, line: LineNumber) -> Identity {
        self.identity_in(&self.now.load(), mac, line)
    }

    fn identity_in(&self, now: &Snapshot, mac: MacAddr, line: LineNumber) -> Identity {
        let entry = now.devices.get(&mac);
        let owner = entry.and_then(|entry| entry.lines.get(&line));
        let generation = owner.map(|owner| owner.generation).or(entry.map(|entry| entry.generation)).unwrap_or(0);
        Identity {
            mac,
            line,
            auth_user: auth_user(mac, line),
            user: owner.map_or_else(|| provisional_user(mac, line), |owner| owner.extension.to_string()),
            display_name: owner.map_or_else(|| NOBODY.to_owned(), |owner| owner.display_name.clone()),
            secret: self.key.sip_secret(mac, line, generation),
            generation,
            extension: owner.map(|owner| owner.extension.clone()),
        }
    }

    /// The first line of a device and all that have an owner, and the generation of the file that has them.
    pub fn lines(&self, mac: MacAddr) -> (Generation, Vec<Identity>) {
        let now = self.now.load();
        let generation = now.devices.get(&mac).map_or(0, |entry| entry.generation);
        let further = now.devices.get(&mac).into_iter().flat_map(|entry| entry.lines.keys().copied()).filter(|line| *line != 1);
        (generation, std::iter::once(1).chain(further).map(|line| self.identity_in(&now, mac, line)).collect())
    }

    /// The generation of the device, which counts up with each change of an owner; 0 for one that was never bound.
    pub fn generation(&self, mac: MacAddr) -> Generation {
        self.now.load().devices.get(&mac).map_or(0, |entry| entry.generation)
    }

    /// Where an extension rings: the devices and lines that are bound to it.
    pub fn devices_of(&self, extension: &str) -> Vec<(MacAddr, LineNumber)> {
        match extension.parse::<Extension>() {
            Ok(extension) => self.now.load().extensions.get(&extension).cloned().unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    /// Where a device is, if that is known.
    pub fn location(&self, mac: MacAddr) -> Option<String> {
        self.places.load().get(&mac).cloned()
    }

    /// Takes over where these devices are.
    pub(super) fn located<'a>(&self, records: impl Iterator<Item = &'a DeviceRecord>) {
        let old = self.places.load();
        let place = |record: &'a DeviceRecord| record.location.as_ref().or(record.port.as_ref());
        let news: Vec<_> = records.filter(|record| old.get(&record.mac) != place(record)).collect();
        if news.is_empty() {
            return;
        }
        let mut places = HashMap::clone(&old);
        for record in news {
            match place(record) {
                Some(place) => places.insert(record.mac, place.clone()),
                None => places.remove(&record.mac),
            };
        }
        self.places.store(Arc::new(places));
    }

    /// What a line logged in with before its device's generation changed: it answers a phone that challenges the NOTIFY.
    pub(super) fn secret_of(&self, mac: MacAddr, line: LineNumber, generation: Generation) -> Secret {
        self.key.sip_secret(mac, line, generation)
    }

    pub(super) fn key(&self) -> &MasterKey {
        &self.key
    }

    /// Replaces everything, at start.
    pub(super) fn load<'a>(&self, devices: impl Iterator<Item = (&'a DeviceRecord, &'a Bindings)>) {
        let mut next = Snapshot::default();
        for (device, bindings) in devices {
            next.put(device.mac, device.generation, bindings);
        }
        self.now.store(Arc::new(next));
    }

    /// Replaces some devices in one step: nobody sees an extension on two devices or on none.
    pub(super) fn update<'a>(&self, changed: impl Iterator<Item = (MacAddr, Generation, &'a Bindings)>) {
        let mut next = Snapshot::clone(&self.now.load());
        for (mac, generation, bindings) in changed {
            next.put(mac, generation, bindings);
        }
        self.now.store(Arc::new(next));
    }
}

impl Accounts for Identities {
    fn account(&self, auth_user: &str) -> Option<Account> {
        let identity = self.find(auth_user)?;
        Some(Account {
            provisional: identity.provisional(),
            user: identity.user,
            mac: identity.mac,
            line: identity.line,
            generation: identity.generation,
            display_name: identity.display_name,
            secret: identity.secret,
        })
    }
}

impl Snapshot {
    fn put(&mut self, mac: MacAddr, generation: Generation, bindings: &Bindings) {
        if let Some(before) = self.devices.remove(&mac) {
            for owner in before.lines.values() {
                if let Some(places) = self.extensions.get_mut(&owner.extension) {
                    places.retain(|(place, _)| *place != mac);
                }
            }
            self.extensions.retain(|_, places| !places.is_empty());
        }
        if generation == 0 && bindings.is_empty() {
            return;
        }
        let mut entry = Entry { generation, lines: BTreeMap::new() };
        for (line, binding) in bindings {
            let (generation, extension) = (binding.generation, binding.extension.clone());
            let owner = Owner { generation, extension, display_name: binding.display_name.clone() };
            self.extensions.entry(owner.extension.clone()).or_default().push((mac, *line));
            entry.lines.insert(*line, Box::new(owner));
        }
        self.devices.insert(mac, entry);
    }
}

/// `001565aabbcc-1`.
pub fn auth_user(mac: MacAddr, line: LineNumber) -> String {
    format!("{}-{line}", mac.bare())
}

/// The address of record of a line without owner: `new001565aabbcc`, and `new001565aabbcc-2` behind the first.
pub fn provisional_user(mac: MacAddr, line: LineNumber) -> String {
    match line {
        1 => format!("new{}", mac.bare()),
        _ => format!("new{}-{line}", mac.bare()),
    }
}

/// Only the one spelling that we hand out: a second would be a second account for the same secret.
fn parse_auth_user(text: &str) -> Option<(MacAddr, LineNumber)> {
    let (mac, line) = text.split_once('-')?;
    let mac: MacAddr = mac.parse().ok()?;
    let line: LineNumber = line.parse().ok()?;
    (line > 0 && auth_user(mac, line) == text).then_some((mac, line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BindingRecord, Timestamp};

    const MAC: MacAddr = MacAddr([0, 0x15, 0x65, 0xaa, 0xbb, 0xcc]);
    const OTHER: MacAddr = MacAddr([0, 0x15, 0x65, 0xaa, 0xbb, 0xcd]);

    fn identities() -> Identities {
        Identities::new(MasterKey::new([7; 32]))
    }

    fn bound(mac: MacAddr, line: LineNumber, extension: &str) -> Bindings {
        let record = BindingRecord {
            mac,
            line,
            user_id: "ann".into(),
            display_name: "Ann".into(),
            extension: extension.parse().expect("extension"),
            generation: 1,
            since: Timestamp(0),
        };
        BTreeMap::from([(line, Box::new(record))])
    }

    #[test]
    fn a_phone_that_nobody_knows_is_provisional() {
        let phone = identities().find("001565aabbcc-1").expect("known on the fly");
        assert_eq!((phone.user.as_str(), phone.generation, phone.provisional()), ("new001565aabbcc", 0, true));
        for strange in
            ["", "001565aabbcc", "001565aabbcc-0", "001565aabbcc-256", "001565AABBCC-1", "001565aabbcc-01", "00:15:65:aa:bb:cc-1"]
        {
            assert!(identities().find(strange).is_none(), "{strange}");
        }
    }

    #[test]
    fn binding_changes_name_and_secret_at_once() {
        let identities = identities();
        let before = identities.find("001565aabbcc-1").expect("provisional");
        identities.update([(MAC, 1, &bound(MAC, 1, "2041"))].into_iter());
        let after = identities.find("001565aabbcc-1").expect("bound");
        assert_eq!((after.user.as_str(), after.generation, after.provisional()), ("2041", 1, false));
        assert_ne!(before.secret, after.secret);
        assert_eq!(identities.devices_of("2041"), [(MAC, 1)]);
        identities.update([(MAC, 2, &BTreeMap::new()), (OTHER, 1, &bound(OTHER, 1, "2041"))].into_iter());
        assert_eq!(identities.devices_of("2041"), [(OTHER, 1)]);
        assert_eq!(identities.find("001565aabbcc-1").expect("again").user, "new001565aabbcc");
        assert_eq!(identities.generation(MAC), 2);
    }

    #[test]
    fn every_line_is_somebody_by_itself() {
        let identities = identities();
        let port = identities.find("001565aabbcc-2").expect("a port to sign in at");
        assert_eq!((port.user.as_str(), port.line, port.provisional()), ("new001565aabbcc-2", 2, true));
        assert_ne!(port.secret, identities.identity(MAC, 1).secret);
        let other = provisional_user(OTHER, 1);
        assert!([provisional_user(MAC, 1), port.user].iter().all(|user| *user != other));
        identities.update([(MAC, 1, &bound(MAC, 2, "2042"))].into_iter());
        let lines: Vec<_> = identities.lines(MAC).1.into_iter().map(|line| (line.line, line.user)).collect();
        assert_eq!(lines, [(1, "new001565aabbcc".to_owned()), (2, "2042".to_owned())]);
    }
}
