//! Who every phone is in SIP, right now: a snapshot that is read without a lock and replaced whole.
//!
//! Only devices with a history (generation above 0) are in it. Any other MAC has, from the moment that somebody asks,
//! the provisional identity of generation 0: derived, not stored, so that ten thousand new phones at once cost nothing.
//! That gives nobody anything: the secret is in the phone's own file only. Written by `worker.rs`, read by the SIP
//! engine (digest), by call routing and by whoever renders files. Not here: who may have which extension.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use subtle::ConstantTimeEq;

use crate::{
    binding::MasterKey,
    model::{DeviceRecord, DeviceState, Extension, Generation, LineNumber, MacAddr, Secret},
    sip::{Account, Accounts},
};

use super::{access::UrlKey, onboarding::Bindings};

/// What is on the display of a phone, or reaches whoever it calls, before it is somebody's.
pub const NOBODY: &str = "New phone";

/// Lock-free reads of everybody's identity; cheap to clone.
#[derive(Clone)]
pub struct Identities {
    key: MasterKey,
    now: Arc<ArcSwap<Snapshot>>,
    /// Where devices are, of those that it is known of.
    places: Arc<ArcSwap<HashMap<MacAddr, String>>>,
    heard: Arc<Mutex<HashMap<MacAddr, Heard>>>,
}

/// How a phone came last: what older keys in its URL are worth by it.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    /// The newest of its generations that it has proved to have: by the key in its URL, or in SIP.
    generation: Generation,
    /// Where it was with that key.
    home: Option<IpAddr>,
    /// Who has brought the last key since the owner changed, and of which generation that was the change.
    visitor: Option<(Generation, IpAddr)>,
}

/// Generations back that a phone may have missed without a restart: its URL may be one that DHCP told at its boot.
const OLDER_KEYS: Generation = 500;

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
        Self { key, now: Arc::default(), places: Arc::default(), heard: Arc::default() }
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

    /// The key that belongs into the device's URL now.
    pub fn url_token(&self, mac: MacAddr) -> Secret {
        self.key.url_token(mac, self.generation(mac))
    }

    /// What a key in the URL is worth, brought from `source`. A phone that has not heard that its owner changed has the last one, and one
    /// that keeps the URL of its boot an older one; nobody else is to have the next owner's file by what he once noted.
    pub fn url_key(&self, mac: MacAddr, key: &str, source: IpAddr) -> UrlKey {
        let present = self.generation(mac);
        let fits = |generation: Generation| {
            let right = self.key.url_token(mac, generation);
            bool::from(right.expose().as_bytes().ct_eq(key.as_bytes()))
        };
        if fits(present) {
            return UrlKey::Present;
        }
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner).get(&mac).copied().unwrap_or_default();
        let visitor = heard.visitor.filter(|(generation, _)| *generation == present).map(|(_, source)| source);
        let at_home = heard.home == Some(source) || visitor == Some(source);
        let back = if at_home { OLDER_KEYS } else { Generation::from(heard.generation < present && visitor.is_none()) };
        match (present.saturating_sub(back)..present).rev().any(fits) {
            true => UrlKey::Older,
            false => UrlKey::Wrong,
        }
    }

    /// The device came from `source` with this key. `true`: by an older one, and from elsewhere than before.
    pub fn came(&self, mac: MacAddr, source: IpAddr, key: UrlKey) -> bool {
        let present = self.generation(mac);
        let mut all = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = all.entry(mac).or_default();
        match key {
            UrlKey::Present => *heard = Heard { generation: present, home: Some(source), visitor: None },
            UrlKey::Older if heard.home != Some(source) => {
                heard.visitor = Some((present, source));
                return true;
            }
            UrlKey::Older | UrlKey::Wrong => {}
        }
        false
    }

    /// The device has registered with a secret of this generation: it has the key that is in the same file.
    pub(super) fn registered(&self, mac: MacAddr, generation: Generation) {
        let mut all = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = all.entry(mac).or_default();
        heard.generation = heard.generation.max(generation);
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
        let mut heard = HashMap::new();
        for (device, bindings) in devices {
            next.put(device.mac, device.generation, bindings);
            // Before it is in service it may not know that its owner changed.
            let generation = device.generation.saturating_sub(Generation::from(device.state != DeviceState::InService));
            heard.insert(device.mac, Heard { generation, home: device.address.map(IpAddr::V4), visitor: None });
        }
        self.now.store(Arc::new(next));
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = heard;
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
    fn a_key_dies_with_its_generation_for_everybody_but_the_phone() {
        use UrlKey::{Older, Present, Wrong};
        let identities = identities();
        let [phone, thief, moved]: [IpAddr; 3] = ["192.0.2.1", "192.0.2.66", "192.0.2.9"].map(|ip| ip.parse().unwrap());
        let worth = |key: &Secret, source| identities.url_key(MAC, key.expose(), source);
        let turn = |generation, bindings: &Bindings| {
            identities.update([(MAC, generation, bindings)].into_iter());
            identities.url_token(MAC)
        };
        let first = identities.url_token(MAC);
        assert_eq!((worth(&first, phone), identities.url_key(OTHER, first.expose(), phone)), (Present, Wrong));
        assert!(!identities.came(MAC, phone, Present));

        // Bound: the phone comes by the key that it has, and others with it.
        let second = turn(1, &bound(MAC, 1, "2041"));
        assert_eq!((worth(&first, phone), worth(&second, phone)), (Older, Present));
        assert!(!identities.came(MAC, phone, Older));
        identities.registered(MAC, 1);
        assert_eq!((worth(&first, thief), worth(&first, phone)), (Wrong, Older), "it may keep the URL of its boot");

        // Its owner notes the key, and is its owner no more. The phone is in another room meanwhile, and is first.
        let third = turn(2, &BTreeMap::new());
        assert_eq!((worth(&second, thief), worth(&first, thief)), (Older, Wrong));
        assert!(identities.came(MAC, moved, Older), "that is odd");
        assert_eq!((worth(&second, thief), worth(&second, moved)), (Wrong, Older), "until it has the next");
        identities.came(MAC, moved, Present);
        assert_eq!((worth(&second, thief), worth(&third, thief)), (Wrong, Present));

        // The next owner's file is behind the next key.
        turn(3, &bound(MAC, 1, "2042"));
        assert_eq!((worth(&second, thief), worth(&third, moved)), (Wrong, Older));
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
