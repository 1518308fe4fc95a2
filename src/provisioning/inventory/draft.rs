//! Many changes to devices and to who owns them as one: worked out beside what is, stored in one step, and only then true.
//!
//! A [`Draft`] is made over [`Core`] and asks nobody: so a dry run and the deed are the same. What it comes to goes to
//! `Store::rearrange` and then to [`Core::handle_rearranged`]. Not here: what people ask for (`mod.rs`, `swap.rs`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::super::onboarding::{Action, Bindings, Core, Device, Now, after, unseen};
use super::super::reload::Proof;
use crate::{
    binding::Fact,
    model::{BindingRecord, DeviceRecord, Event, Extension, LineNumber, MacAddr, Timestamp, User},
    store,
};

/// A device as it will be.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub device: DeviceRecord,
    pub bindings: Bindings,
    /// Why those that end do.
    reason: String,
}

/// See the file's header.
pub struct Draft<'a> {
    core: &'a Core,
    now: Timestamp,
    touched: BTreeMap<MacAddr, Standing>,
    /// Lines by extension, as they will be.
    lines: HashMap<Extension, BTreeSet<(MacAddr, LineNumber)>>,
    given: HashSet<(MacAddr, LineNumber)>,
    owners: Owners,
}

/// Why somebody cannot be given a line.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Extension(#[from] store::Error),
    #[error("{extension} has gone to {others} in this very list, and may have no more phones (`bindings.devices_per_extension`)")]
    GivenAlready { extension: Extension, others: String },
}

impl<'a> Draft<'a> {
    /// `extensions`: whose each is, in the order of giving.
    pub fn new(core: &'a Core, now: Timestamp, extensions: Vec<(Extension, String)>) -> Self {
        let mut lines: HashMap<Extension, BTreeSet<(MacAddr, LineNumber)>> = HashMap::new();
        for binding in core.devices.values().flat_map(|device| device.bindings.values()) {
            lines.entry(binding.extension.clone()).or_default().insert((binding.mac, binding.line));
        }
        let mut owners = Owners::default();
        extensions.into_iter().for_each(|(extension, user)| owners.own(&extension, &user));
        Self { core, now, touched: BTreeMap::new(), lines, given: HashSet::new(), owners }
    }

    /// Was the device here before?
    pub fn knows(&self, mac: MacAddr) -> bool {
        self.core.devices.contains_key(&mac)
    }

    /// A device as it will be, to be changed.
    pub fn device(&mut self, mac: MacAddr) -> &mut DeviceRecord {
        &mut self.standing(mac).device
    }

    /// Whose the line will be.
    pub fn owner(&self, mac: MacAddr, line: LineNumber) -> Option<&BindingRecord> {
        self.bindings(mac)?.get(&line).map(AsRef::as_ref)
    }

    pub fn bindings(&self, mac: MacAddr) -> Option<&Bindings> {
        let touched = self.touched.get(&mac).map(|standing| &standing.bindings);
        touched.or_else(|| self.core.devices.get(&mac).map(|device| &device.bindings))
    }

    /// Gives the line to the user, with the user's extension or a free one. Gives back what ends elsewhere because of it: the oldest
    /// devices of the extension beyond what it may have.
    pub fn give(&mut self, mac: MacAddr, line: LineNumber, user: &User) -> Result<(Extension, Vec<BindingRecord>), Refusal> {
        let extension = self.claim(user)?;
        let mut others: Vec<BindingRecord> =
            self.lines_of(&extension).into_iter().filter(|held| (held.mac, held.line) != (mac, line)).collect();
        others.sort_by_key(|held| (held.since, held.mac, held.line));
        let may_stay = usize::from(self.core.config().devices_per_extension.max(1)) - 1;
        others.truncate(others.len().saturating_sub(may_stay));
        if others.iter().any(|held| self.given.contains(&(held.mac, held.line))) {
            let others = others.iter().map(|held| held.mac.to_string()).collect::<Vec<_>>().join(", ");
            return Err(Refusal::GivenAlready { extension, others });
        }
        for held in &others {
            self.take(held.mac, held.line, format!("the extension went to {mac}"));
        }
        let (user_id, display_name) = (user.id.clone(), user.display_name.clone());
        let binding = BindingRecord { mac, line, user_id, display_name, extension: extension.clone(), generation: 0, since: self.now };
        self.put(binding);
        Ok((extension, others))
    }

    /// As it is, on another device.
    pub fn move_line(&mut self, binding: &BindingRecord, to: MacAddr, reason: String) {
        self.take(binding.mac, binding.line, reason);
        self.put(BindingRecord { mac: to, since: self.now, ..binding.clone() });
    }

    /// Takes the line from its owner.
    pub fn take(&mut self, mac: MacAddr, line: LineNumber, reason: String) {
        let standing = self.standing(mac);
        standing.reason = reason;
        if let Some(gone) = standing.bindings.remove(&line)
            && let Some(lines) = self.lines.get_mut(&gone.extension)
        {
            lines.remove(&(mac, line));
        }
    }

    fn put(&mut self, binding: BindingRecord) {
        let (mac, line, extension) = (binding.mac, binding.line, binding.extension.clone());
        let reason = format!("the line went to {}", binding.display_name);
        self.take(mac, line, reason);
        self.standing(mac).bindings.insert(line, Box::new(binding));
        self.lines.entry(extension).or_default().insert((mac, line));
        self.given.insert((mac, line));
    }

    /// What it comes to: devices that are not as they were. The secrets of lines whose owners change are new.
    pub fn finish(self) -> Vec<Standing> {
        let core = self.core;
        let as_they_will_be = self.touched.into_values().filter_map(|mut standing| {
            let before = core.devices.get(&standing.device.mac);
            let nobodys = Bindings::new();
            if standing.bindings != *before.map_or(&nobodys, |device| &device.bindings) {
                let generation = standing.device.generation + 1;
                standing.device = after(standing.device, owners_changed(generation, &standing.bindings));
                standing.device.generation = generation;
                let stays = |binding: &BindingRecord| {
                    before.and_then(|device| device.bindings.get(&binding.line)).is_some_and(|held| **held == *binding)
                };
                standing.bindings.values_mut().filter(|binding| !stays(binding)).for_each(|binding| binding.generation = generation);
            }
            let same = before.is_some_and(|before| before.record == standing.device && before.bindings == standing.bindings);
            (!same).then_some(standing)
        });
        as_they_will_be.collect()
    }

    fn standing(&mut self, mac: MacAddr) -> &mut Standing {
        let core = self.core;
        self.touched.entry(mac).or_insert_with(|| {
            let (device, bindings) = match core.devices.get(&mac) {
                Some(device) => (device.record.clone(), device.bindings.clone()),
                None => (unseen(DeviceRecord::NEVER, mac), Bindings::new()),
            };
            Standing { device, bindings, reason: String::new() }
        })
    }

    fn lines_of(&self, extension: &Extension) -> Vec<BindingRecord> {
        let places = self.lines.get(extension).into_iter().flatten();
        places.filter_map(|(mac, line)| self.owner(*mac, *line)).cloned().collect()
    }

    /// The same rules as `Store::claim_extension`, which follows when the draft is stored.
    fn claim(&mut self, user: &User) -> Result<Extension, store::Error> {
        let extension = match (&user.extension, self.owners.latest(&user.id)) {
            (Some(wanted), _) => {
                let other = self.owners.of.get(wanted).filter(|owner| **owner != user.id);
                if let Some(owner) = other.filter(|_| !self.lines_of(wanted).is_empty()) {
                    return Err(store::Error::ExtensionTaken { extension: wanted.clone(), owner: owner.clone() });
                }
                wanted.clone()
            }
            (None, Some(given)) => given.clone(),
            (None, None) => {
                let (first, last) = &self.core.config().extensions;
                let none = || store::Error::NoExtensionFree { first: first.clone(), last: last.clone() };
                self.owners.lowest_free(first, last).ok_or_else(none)?
            }
        };
        self.owners.own(&extension, &user.id);
        Ok(extension)
    }
}

fn owners_changed(generation: u32, bindings: &Bindings) -> Fact {
    match bindings.is_empty() {
        true => Fact::OwnerRemoved { generation, others: false },
        false => Fact::OwnerStored { generation },
    }
}

/// Whose every extension is.
#[derive(Default)]
struct Owners {
    of: HashMap<Extension, String>,
    /// In the order of giving; some may be others' by now.
    given: HashMap<String, Vec<Extension>>,
}

impl Owners {
    fn own(&mut self, extension: &Extension, user: &str) {
        self.of.insert(extension.clone(), user.to_owned());
        let given = self.given.entry(user.to_owned()).or_default();
        given.retain(|before| before != extension);
        given.push(extension.clone());
    }

    fn latest(&self, user: &str) -> Option<&Extension> {
        self.given.get(user)?.iter().rev().find(|extension| self.of.get(*extension).is_some_and(|owner| owner == user))
    }

    fn lowest_free(&self, first: &Extension, last: &Extension) -> Option<Extension> {
        let width = first.as_str().len();
        let (from, to) = (first.as_str().parse::<u64>().ok()?, last.as_str().parse::<u64>().ok()?);
        (from..=to).filter_map(|number| format!("{number:0width$}").parse().ok()).find(|number| !self.of.contains_key(number))
    }
}

impl Core {
    /// These are on disk as they stand.
    pub fn handle_rearranged(&mut self, now: Now, all: Vec<Standing>) {
        for Standing { device: record, bindings, reason } in all {
            let (mac, generation) = (record.mac, record.generation);
            let device = self.devices.entry(mac).or_insert_with(|| Box::new(Device::new(unseen(DeviceRecord::NEVER, mac))));
            let owners_change = generation != device.record.generation;
            let noted = noted(&device.record, &record);
            let settings_change = (&device.record.inventory.group, &device.record.inventory.stands_for)
                != (&record.inventory.group, &record.inventory.stands_for);
            (device.record.location, device.record.inventory) = (record.location, record.inventory);
            (device.record.family, device.record.model) = (record.family, record.model);
            let before = std::mem::replace(&mut device.bindings, bindings);
            let is_in = |bindings: &Bindings, one: &BindingRecord| {
                bindings.get(&one.line).is_some_and(|other| (&other.extension, &other.user_id) == (&one.extension, &one.user_id))
            };
            if !noted.is_empty() {
                self.actions.push_back(Action::Tell(Event::Noted { mac, what: noted }));
            }
            for gone in before.values().filter(|gone| !is_in(&device.bindings, gone)) {
                let (line, extension, reason) = (gone.line, gone.extension.clone(), reason.clone());
                self.actions.push_back(Action::Tell(Event::Unbound { mac, line, extension, generation, reason }));
            }
            for new in device.bindings.values().filter(|new| !is_in(&before, new)) {
                let (line, extension, display_name) = (new.line, new.extension.clone(), new.display_name.clone());
                self.actions.push_back(Action::Tell(Event::Bound { mac, line, extension, display_name, generation }));
            }
            let seen = device.record.first_seen != DeviceRecord::NEVER;
            let fact = owners_changed(generation, &device.bindings);
            if owners_change {
                self.apply(now, mac, fact);
            } else if settings_change && seen {
                self.start_reload(now, mac, Proof::File);
            }
        }
    }
}

/// What is written of the device now and was not before, in words.
fn noted(before: &DeviceRecord, now: &DeviceRecord) -> String {
    let stands_for = |record: &DeviceRecord| {
        let all: Vec<_> = record.inventory.stands_for.iter().map(MacAddr::to_string).collect();
        (!all.is_empty()).then(|| all.join(", "))
    };
    let things = [
        ("family", before.family.clone(), now.family.clone()),
        ("model", before.model.clone(), now.model.clone()),
        ("label", before.inventory.label.clone(), now.inventory.label.clone()),
        ("location", before.location.clone(), now.location.clone()),
        ("group", before.inventory.group.clone(), now.inventory.group.clone()),
        ("notes", before.inventory.notes.clone(), now.inventory.notes.clone()),
        ("in the place of", stands_for(before), stands_for(now)),
    ];
    let changed = things.into_iter().filter(|(_, before, now)| before != now);
    changed.map(|(what, _, now)| format!("{what} {}", now.as_deref().unwrap_or("-"))).collect::<Vec<_>>().join(", ")
}
