//! What was rendered lately, so that a phone which asks whether its file still holds costs no rendering. Rendering is pure: the same
//! file for the same subject is the same bytes, as long as the set lives; each set has a memory of its own. The same for the DHCP
//! options of a make, which are alike for all phones of a model in a subnet, and for what a User-Agent says.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use super::options::DhcpOption;
use super::subject::{Line, Server, SipPorts, Subject};
use crate::model::{Inventory, MacAddr};

/// Bytes of files that are kept, in each of the two halves.
const HALF: usize = 16 << 20;
/// What an entry costs beside its file.
const OVERHEAD: usize = 256;

/// A file as it was rendered.
#[derive(Debug)]
pub struct Kept {
    pub name: String,
    pub bytes: Bytes,
    pub content_type: String,
    /// Of the bytes.
    pub hash: blake3::Hash,
}

/// By [`key`].
pub(super) type Key = [u8; 32];

/// What is kept takes so many bytes beside its [`OVERHEAD`].
pub(super) trait Size {
    fn size(&self) -> usize;
}

impl Size for Kept {
    fn size(&self) -> usize {
        self.bytes.len()
    }
}

impl Size for Vec<DhcpOption> {
    fn size(&self) -> usize {
        // A value is a URL, mostly.
        self.len() * 128
    }
}

/// Two halves: when the newer is full it becomes the older, which is forgotten but for what somebody asked for meanwhile.
pub(super) struct Memo<T>(Mutex<Halves<T>>);

struct Halves<T> {
    newer: HashMap<Key, Arc<T>>,
    older: HashMap<Key, Arc<T>>,
    size: usize,
}

impl<T> Default for Memo<T> {
    fn default() -> Self {
        Self(Mutex::new(Halves { newer: HashMap::new(), older: HashMap::new(), size: 0 }))
    }
}

impl<T: Size> Memo<T> {
    pub(super) fn get(&self, key: &Key) -> Option<Arc<T>> {
        let mut halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = halves.newer.get(key) {
            return Some(kept.clone());
        }
        let kept = halves.older.remove(key)?;
        halves.put(*key, kept.clone());
        Some(kept)
    }

    pub(super) fn put(&self, key: Key, kept: Arc<T>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(key, kept);
    }
}

impl<T: Size> Halves<T> {
    fn put(&mut self, key: Key, kept: Arc<T>) {
        let size = kept.size() + OVERHEAD;
        if self.size + size > HALF {
            self.older = mem::take(&mut self.newer);
            self.size = 0;
        }
        self.size += size;
        self.newer.insert(key, kept);
    }
}

/// Texts whose meaning is kept. A fleet has few; some makes write the phone's MAC into their User-Agent.
const TEXTS: usize = 1000;

/// What texts mean that phones say again and again: User-Agents, of which each registration and each request for a file brings one, and to
/// try the expressions of all families on it was a twentieth of a registration; and names of files that all phones of a make fetch.
pub(super) struct Meanings<T>(Mutex<HashMap<Box<[u8]>, T>>);

impl<T> Default for Meanings<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Meanings<T> {
    /// `find` is asked when the text is new, and what it finds is kept. When too many are kept all are forgotten: whoever sends another
    /// each time fills no memory.
    pub(super) fn get(&self, text: &[u8], find: impl FnOnce() -> Option<T>) -> Option<T> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = known().get(text) {
            return Some(kept.clone());
        }
        let found = find()?;
        let mut known = known();
        if known.len() >= TEXTS {
            known.clear();
        }
        known.insert(text.into(), found.clone());
        Some(found)
    }
}

/// Stands for a file of a family and all that a rendering of it can see. `site`: the subject's address says no more than this.
pub(super) fn key(family: &str, (file, page): (usize, Option<u32>), site: Option<&str>, subject: &Subject) -> Key {
    key_as(subject.mac, family, (file, page), site, subject)
}

/// Stands for the DHCP options of a family. `mac`: of a device that layers set something for; no option tells a phone who it is.
pub(super) fn options_key(mac: Option<MacAddr>, family: &str, site: Option<&str>, subject: &Subject) -> Key {
    key_as(mac, family, (usize::MAX, None), site, subject)
}

fn key_as(mac: Option<MacAddr>, family: &str, (file, page): (usize, Option<u32>), site: Option<&str>, subject: &Subject) -> Key {
    // Named whole, so that a field that comes later cannot be forgotten.
    let Subject {
        mac: _,
        model,
        bound,
        lines,
        server,
        address: _,
        user_id,
        inventory,
        contacts,
        admin_password,
        file_key,
        key_only,
        firmware,
    } = subject;
    let Inventory { label, group, notes, stands_for } = inventory;
    let Server { host, sip, url, secure_url, realm, authority } = server;
    let SipPorts { udp, tcp, tls } = sip;
    let mut hash = blake3::Hasher::new();
    let mut part = |bytes: Option<&[u8]>| {
        // With its length before it: no two lists of parts run into one.
        hash.update(&bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_le_bytes());
        hash.update(bytes.unwrap_or_default());
    };
    part(Some(family.as_bytes()));
    part(Some(&file.to_le_bytes()));
    part(page.map(u32::to_le_bytes).as_ref().map(|page| &page[..]));
    part(contacts.as_ref().map(|contacts| &contacts.hash.as_bytes()[..]));
    part(site.map(str::as_bytes));
    part(mac.as_ref().map(|mac| &mac.0[..]));
    part(model.as_deref().map(str::as_bytes));
    part(Some(&[u8::from(*bound)]));
    for text in [host, url, realm] {
        part(Some(text.as_bytes()));
    }
    part(secure_url.as_deref().map(str::as_bytes));
    part(authority.as_deref().map(str::as_bytes));
    for port in [udp, tcp, tls] {
        part(port.map(u16::to_le_bytes).as_ref().map(|port| &port[..]));
    }
    for text in [user_id, label, group, notes] {
        part(text.as_deref().map(str::as_bytes));
    }
    part(Some(&(stands_for.len() as u64).to_le_bytes()));
    stands_for.iter().for_each(|mac| part(Some(&mac.0)));
    let due = firmware.iter().flat_map(|due| [&due.make, &due.version].into_iter().chain(&due.files));
    part(Some(&(due.clone().count() as u64).to_le_bytes()));
    due.for_each(|text| part(Some(text.as_bytes())));
    part(admin_password.as_ref().map(|password| password.expose().as_bytes()));
    part(file_key.as_ref().map(|key| key.expose().as_bytes()));
    part(Some(&[u8::from(*key_only)]));
    for Line { number, user, auth_user, secret, display_name, label, extension } in lines {
        part(Some(&[*number]));
        for text in [user, auth_user, secret.expose(), display_name] {
            part(Some(text.as_bytes()));
        }
        part(label.as_deref().map(str::as_bytes));
        part(extension.as_ref().map(|extension| extension.as_str().as_bytes()));
    }
    *hash.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{
        model::{MacAddr, Secret},
        template::{Contacts, Due},
    };

    fn kept(len: usize) -> Arc<Kept> {
        let bytes = Bytes::from(vec![0; len]);
        Arc::new(Kept { name: "x".into(), hash: blake3::hash(&bytes), bytes, content_type: "text/plain".into() })
    }

    fn due(file: &str) -> Option<Due> {
        Some(Due { make: "yealink".into(), version: "2".into(), files: vec![file.into()] })
    }

    #[test]
    fn a_text_is_looked_at_once_and_too_many_are_forgotten() {
        let meanings = Meanings::default();
        let mut asked = 0;
        for _ in 0..3 {
            let yealink = meanings.get(b"Yealink", || {
                asked += 1;
                Some(1)
            });
            assert_eq!((yealink, asked), (Some(1), 1), "it is known");
        }
        assert_eq!([meanings.get(b"Junk", || None), meanings.get(b"Junk", || Some(2))], [None, Some(2)], "what means nothing is not kept");
        for number in 0..3 * TEXTS {
            meanings.get(&number.to_le_bytes(), || Some(3));
            assert!(meanings.0.lock().unwrap().len() <= TEXTS);
        }
        assert_eq!(meanings.get(b"Yealink", || Some(4)), Some(4));

        let agents = Meanings::<Option<u32>>::default();
        assert_eq!(agents.get(b"Junk", || Some(None)), Some(None));
        assert_eq!(agents.get(b"Junk", || panic!("it is known to be nobody's")), Some(None));
    }

    #[test]
    fn everything_that_a_template_sees_counts() {
        let line = Line {
            number: 1,
            user: "2041".into(),
            auth_user: "001565aabbcc-1".into(),
            secret: Secret::new("s"),
            display_name: "Ada".into(),
            label: None,
            extension: "2041".parse().ok(),
        };
        let server = Server {
            host: "10.0.0.2".into(),
            sip: SipPorts { udp: Some(5060), ..SipPorts::default() },
            url: "http://10.0.0.2".into(),
            secure_url: None,
            realm: "plugtone".into(),
            authority: None,
        };
        let subject = Subject {
            mac: "001565aabbcc".parse().ok(),
            model: Some("T46S".into()),
            bound: true,
            lines: vec![line.clone()],
            server,
            address: None,
            user_id: Some("ada".into()),
            inventory: Inventory::default(),
            contacts: None,
            admin_password: Some(Secret::new("a")),
            file_key: None,
            key_only: false,
            firmware: None,
        };
        let changes: [fn(&mut Subject); 30] = [
            |_| (),
            |s| s.mac = None,
            |s| s.model = None,
            |s| s.bound = false,
            |s| s.lines.clear(),
            |s| s.lines.push(s.lines[0].clone()),
            |s| s.lines[0].number = 2,
            |s| s.lines[0].user = "2042".into(),
            |s| s.lines[0].auth_user = "001565aabbcc-2".into(),
            |s| s.lines[0].secret = Secret::new("t"),
            |s| s.lines[0].display_name = "Bo".into(),
            |s| s.lines[0].label = Some("".into()),
            |s| s.lines[0].extension = None,
            |s| s.server.url = "http://10.0.0.3".into(),
            |s| s.server.authority = Some("-----BEGIN".into()),
            |s| s.server.secure_url = Some("https://10.0.0.2".into()),
            |s| s.server.host = "10.0.0.3".into(),
            |s| s.server.sip.udp = Some(5061),
            |s| s.server.sip.tcp = Some(5060),
            |s| s.server.sip.tls = Some(5060),
            |s| s.user_id = None,
            |s| s.contacts = Some(Contacts::new([("Bo", vec![])].into_iter())),
            |s| s.contacts = Some(Contacts::new([("Bo", vec![("work", "2042")])].into_iter())),
            |s| s.inventory.group = Some("hall".into()),
            |s| s.inventory.stands_for = vec![MacAddr([9; 6])],
            |s| s.admin_password = None,
            |s| s.file_key = Some(Secret::new("k")),
            |s| s.key_only = true,
            |s| s.firmware = due("a.rom"),
            |s| s.firmware = due("b.rom"),
        ];
        let changed = |change: &fn(&mut Subject)| {
            let mut subject = subject.clone();
            change(&mut subject);
            key("yealink", (0, None), None, &subject)
        };
        let keys: HashSet<Key> = changes.iter().map(changed).collect();
        let others = [
            key("yealink", (1, None), None, &subject),
            key("yealink", (0, Some(2)), None, &subject),
            key("poly", (0, None), None, &subject),
            key("yealink", (0, None), Some("hq"), &subject),
        ];
        assert_eq!(keys.into_iter().chain(others).collect::<HashSet<_>>().len(), changes.len() + others.len());
        let moved = Subject { address: "10.0.0.9".parse().ok(), ..subject.clone() };
        assert_eq!(key("yealink", (0, None), None, &moved), key("yealink", (0, None), None, &subject), "an address of the same site");
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_goes() {
        let memo = Memo::<Kept>::default();
        let nth = |number: u32| *blake3::hash(&number.to_le_bytes()).as_bytes();
        for number in 0..10_000 {
            memo.put(nth(number), kept(20_000));
            assert!(memo.get(&nth(0)).is_some(), "asked for all the time: {number}");
        }
        let (newer, older) = {
            let halves = memo.0.lock().unwrap();
            (halves.newer.len(), halves.older.len())
        };
        assert!((newer + older) * 20_000 <= 2 * HALF, "{newer} and {older}");
        assert!(memo.get(&nth(9_999)).is_some() && memo.get(&nth(1)).is_none());
    }
}
