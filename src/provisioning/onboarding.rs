//! Every device's life driven end to end: facts in, events and orders for the SIP engine out. No clock, no store.
//!
//! `binding/state.rs` says what a fact means for one device. Around it, this keeps all devices and their bindings, holds
//! a reload back while the phone is in a call, tries one way of reloading after the other, and finds two boxes that claim
//! one MAC. A bind is *planned* here, stored by `worker.rs`, and only then *done* here: nothing is true that is not on
//! disk. Driven by `worker.rs`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{
    calls::Calls,
    duplicates::Heard,
    reload::{Proof, Run, Step},
    rollout::{Standing, Times},
};
use crate::{
    binding::{Effect, Fact, Life, Limits, ReloadSettings},
    model::{
        BindingRecord, CallId, DeviceRecord, DeviceState, Event, Extension, FamilyName, Generation, Inventory, LineNumber, MacAddr,
        Timestamp, User,
    },
    sip,
    store::ContactRecord,
};

pub use super::calls::CallKind;
pub use super::reload::{Contact, Order, Reload, ReloadMethod, ReloadMethods};

/// Devices held at most. MACs can be made up faster than phones: what comes after is counted, not kept.
const MOST_DEVICES: usize = 100_000;
/// `last_seen` is written again after this long, so that renewals do not cost a write each.
const SEEN_AGAIN: i64 = 60;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    #[error("line {line} of {mac} has no owner: `plugtone bindings` lists those that have one")]
    NotBound { mac: MacAddr, line: LineNumber },
    #[error("there is no line 0: lines count from 1")]
    NoSuchLine,
    #[error("{0} was never seen here")]
    Unseen(MacAddr),
    #[error(transparent)]
    Swap(#[from] super::inventory::swap::Refusal),
    #[error("onboarding has stopped")]
    Stopped,
}

impl Error {
    /// A rule said no, and trying again changes nothing; otherwise the server is in trouble.
    pub fn is_rule(&self) -> bool {
        use crate::store::Error as Store;
        !matches!(self, Self::Stopped | Self::Store(Store::Refused { .. } | Store::Stopped | Store::Open { .. } | Store::TooNew { .. }))
    }
}

#[derive(Clone, Debug)]
pub struct Config {
    pub devices_per_extension: u8,
    /// First and last of those given to users without one in the directory.
    pub extensions: (Extension, Extension),
    pub reload: ReloadSettings,
    pub limits: Limits,
}

/// Both clocks: one for timers, one for what is stored.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub instant: Instant,
    pub wall: Timestamp,
}

/// A device shows itself: by DHCP, by a file that it asks for, by SIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub mac: MacAddr,
    pub family: Option<FamilyName>,
    pub model: Option<String>,
    pub firmware: Option<String>,
    /// Where it is heard from.
    pub address: Option<IpAddr>,
    /// Where it is, as somebody writes.
    pub location: Option<String>,
    /// Its switch port (option 82).
    pub port: Option<String>,
    /// It is surely a phone, even if its family is not known.
    pub phone: bool,
}

impl Sighting {
    pub fn of(mac: MacAddr) -> Self {
        Self { mac, family: None, model: None, firmware: None, address: None, location: None, port: None, phone: false }
    }
}

/// A REGISTER was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub mac: MacAddr,
    /// Of the secret that it was made with.
    pub generation: Generation,
    pub contact: Contact,
    /// Of the REGISTER: a phone keeps one until it restarts.
    pub call_id: String,
}

impl From<&sip::Contact> for Registration {
    fn from(contact: &sip::Contact) -> Self {
        let sip::Contact { mac, line, generation, user, uri, flow, call_id, .. } = contact;
        let contact = Contact { line: *line, user: user.as_str().into(), uri: uri.as_str().into(), flow: *flow };
        Self { mac: *mac, generation: *generation, contact, call_id: call_id.clone() }
    }
}

/// An order to the SIP engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Reload(Reload),
    /// Forget the device's contacts, but those that registered with this generation, or on one of these lines.
    DropContacts {
        mac: MacAddr,
        keep_generation: Generation,
        /// Lines whose owner has not changed: their secrets are alive.
        keep_lines: Vec<LineNumber>,
    },
}

/// What the shell does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Tell(Event),
    /// The shell adds the credentials, which need the key.
    Reload(Order),
    DropContacts {
        mac: MacAddr,
        keep_generation: Generation,
        /// Lines whose owner has not changed: their secrets are alive.
        keep_lines: Vec<LineNumber>,
    },
}

/// A bind that is right but not stored yet.
#[derive(Clone, Debug, PartialEq)]
pub struct BindPlan {
    pub device: DeviceRecord,
    pub binding: BindingRecord,
    /// Bindings that end with it: other devices of the extension beyond what it may have.
    pub instead: Vec<(DeviceRecord, BindingRecord)>,
}

/// An unbind that is right but not stored yet.
#[derive(Clone, Debug, PartialEq)]
pub struct UnbindPlan {
    pub device: DeviceRecord,
    pub binding: BindingRecord,
}

pub struct Core {
    pub(super) config: Config,
    pub(super) methods: ReloadMethods,
    pub(super) devices: HashMap<MacAddr, Box<Device>>,
    pub(super) timers: BTreeSet<(Instant, MacAddr)>,
    /// Records that are newer than the store's.
    dirty: BTreeSet<MacAddr>,
    pub(super) actions: VecDeque<Action>,
}

/// Whose the lines of a device are. In boxes: a map has room for eleven at once, and nearly every phone has one.
pub(super) type Bindings = BTreeMap<LineNumber, Box<BindingRecord>>;

pub(super) struct Device {
    pub(super) record: DeviceRecord,
    pub(super) bindings: Bindings,
    pub(super) calls: Calls,
    times: Times,
    /// Lines registered with the secret that they have now.
    registered: BTreeSet<LineNumber>,
    /// The last contact, of whatever generation.
    pub(super) contact: Option<Contact>,
    /// Of the secret that it was made with.
    contact_generation: Option<Generation>,
    /// The generation of the file that the phone has shown to hold.
    pub(super) holds: Option<Generation>,
    pub(super) reload: Option<Box<Run>>,
    heard: Heard,
}

impl Core {
    pub fn new(config: Config, methods: ReloadMethods) -> Self {
        Self { config, methods, devices: HashMap::new(), timers: BTreeSet::new(), dirty: BTreeSet::new(), actions: VecDeque::new() }
    }

    /// Takes what the store holds, once, at start. What a stop cut short is begun again.
    pub fn restore(&mut self, now: Now, devices: Vec<DeviceRecord>, bindings: Vec<BindingRecord>, contacts: Vec<ContactRecord>) {
        for record in devices {
            self.devices.insert(record.mac, Box::new(Device::new(record)));
        }
        for binding in bindings {
            if let Some(device) = self.devices.get_mut(&binding.mac) {
                device.bindings.insert(binding.line, Box::new(binding));
            }
        }
        let mut contacts = contacts;
        // The latest counts.
        contacts.sort_by_key(|contact| (contact.generation, contact.expires));
        for contact in contacts {
            let Some(device) = self.devices.get_mut(&contact.mac) else { continue };
            device.holds = Some(contact.generation);
            // One of an earlier generation is where the phone is told to reload, but it is not registered.
            if contact.generation == device.generation_of(contact.line) && contact.expires > now.wall {
                device.registered.insert(contact.line);
            }
            if let Ok(flow) = contact.flow.parse() {
                device.contact_generation = Some(contact.generation);
                device.contact = Some(Contact { line: contact.line, user: contact.user.into(), uri: contact.uri.into(), flow });
            }
        }
        let mut macs: Vec<_> = self.devices.keys().copied().collect();
        macs.sort_unstable();
        for mac in macs {
            let Some(device) = self.devices.get(&mac) else { continue };
            let generation = device.record.generation;
            match (device.record.state, device.registered.is_empty()) {
                (DeviceState::InService, true) => self.apply(now, mac, Fact::Unregistered),
                (DeviceState::InService | DeviceState::Provisional, false) => {}
                // It came back before the stop; only its record was behind.
                (DeviceState::Bound | DeviceState::Reloading, false) => self.apply(now, mac, Fact::Registered { generation }),
                _ => self.apply(now, mac, Fact::Restarted),
            }
        }
    }

    // --- facts

    /// A device shows itself.
    pub fn handle_sighting(&mut self, now: Now, sighting: Sighting) {
        let mac = sighting.mac;
        let Some(is_new) = self.admit(now, mac) else { return };
        let recognised = sighting.phone || sighting.family.is_some();
        let source = sighting.address;
        let Some(device) = self.devices.get_mut(&mac) else { return };
        let news = device.update(now, sighting);
        let duplicate = source.and_then(|source| device.heard.at(now.instant, source));
        if news.write {
            self.dirty.insert(mac);
        }
        if is_new || news.tell {
            let (family, model) = (device.record.family.clone(), device.record.model.clone());
            self.actions.push_back(Action::Tell(Event::DeviceSeen { mac, family, model, source }));
        }
        self.tell_duplicate(mac, duplicate, "both are heard by turns");
        self.apply(now, mac, if recognised { Fact::Recognised } else { Fact::Seen });
        self.nudge(now, mac);
    }

    /// A call of the device began. While it lasts the phone is not told to reload.
    pub fn handle_call_began(&mut self, now: Now, mac: MacAddr, call: CallId, kind: CallKind) {
        if self.admit(now, mac).is_none() {
            return;
        }
        let Some(device) = self.devices.get_mut(&mac) else { return };
        device.calls.begin(call, kind);
        if kind == CallKind::Ivr {
            self.apply(now, mac, Fact::CallBegan);
        }
    }

    /// A call of the device is over, however it ended.
    pub fn handle_call_ended(&mut self, now: Now, mac: MacAddr, call: CallId) {
        let Some(device) = self.devices.get_mut(&mac) else { return };
        let last_in_ivr = device.calls.end(call) == Some(CallKind::Ivr) && !device.calls.is_in_ivr();
        let waits = device.waits_for_idle();
        if last_in_ivr {
            self.apply(now, mac, Fact::CallEnded);
        }
        if waits {
            self.wait_for(mac, Step::Settled, now.instant + self.config.reload.settle());
        }
    }

    /// A leg of a call begins or ends at the device, whoever called. While there is one the phone is not told to reload.
    pub fn handle_leg(&mut self, now: Now, mac: MacAddr, (call, leg): (CallId, u32), up: bool) {
        let Some(device) = self.devices.get_mut(&mac) else { return };
        if up {
            return device.calls.begin_leg(call, leg);
        }
        device.calls.end_leg(call, leg);
        if device.waits_for_idle() {
            self.wait_for(mac, Step::Settled, now.instant + self.config.reload.settle());
        }
    }

    /// A log-in of the device was refused for its password. It is heard from there.
    pub fn handle_refused(&mut self, now: Now, mac: MacAddr, source: SocketAddr) {
        let Some(device) = self.devices.get_mut(&mac) else { return };
        if device.record.address.map(IpAddr::V4) != Some(source.ip().to_canonical()) {
            // Anybody can say any name.
            return;
        }
        let Times { registered_at, fetched_old_at, fetched_new_at, refused_at, .. } = device.times;
        if refused_at <= registered_at.max(fetched_old_at).max(fetched_new_at) {
            device.times.refused_at = Some(now.wall);
        }
        // It has started anew and has another port: there it can be told to fetch its files.
        if let Some(contact) =
            device.contact.as_mut().filter(|contact| contact.flow.peer != source && contact.flow.transport == sip::Transport::Udp)
        {
            contact.flow.peer = source;
            contact.uri = format!("sip:{}@{source}", contact.user).into();
        }
    }

    /// How these devices stand.
    pub fn standings(&self, macs: &[MacAddr]) -> Vec<(MacAddr, Standing)> {
        let of = |mac: &MacAddr| {
            let device = self.devices.get(mac)?;
            let firmware = device.record.firmware.clone();
            let (registered, in_call) = (!device.registered.is_empty(), device.is_busy());
            Some((*mac, Standing { registered, in_call, firmware, times: device.times }))
        };
        macs.iter().filter_map(of).collect()
    }

    /// The device has every byte of its own file, rendered for `generation`; `first`: by templates that go to some phones first.
    pub fn handle_file_fetched(&mut self, now: Now, mac: MacAddr, generation: Generation, first: bool) {
        if self.admit(now, mac).is_some() {
            if let Some(device) = self.devices.get_mut(&mac) {
                let Times { fetched_new_at, fetched_old_at, .. } = &mut device.times;
                *(if first { fetched_new_at } else { fetched_old_at }) = Some(now.wall);
            }
            self.apply(now, mac, Fact::FileTaken { generation });
        }
    }

    /// A REGISTER was accepted.
    pub fn handle_registered(&mut self, now: Now, registration: Registration) {
        let mac = registration.mac;
        let source = registration.contact.flow.peer.ip().to_canonical();
        self.handle_sighting(now, Sighting { address: Some(source), phone: true, ..Sighting::of(mac) });
        let Some(device) = self.devices.get_mut(&mac) else { return };
        let duplicate = device.heard.registers(now.instant, registration.contact.line, &registration.call_id, source);
        let (present, mut shown) = (device.record.generation, registration.generation);
        if registration.generation == device.generation_of(registration.contact.line) {
            // A line whose owner has not changed shows nothing of the new file by itself.
            if device.holds == Some(present) {
                shown = present;
            } else {
                device.holds = Some(shown);
            }
            device.registered.insert(registration.contact.line);
            device.contact = Some(registration.contact);
            device.contact_generation = Some(registration.generation);
            device.times.registered_at = Some(now.wall);
        }
        self.tell_duplicate(mac, duplicate, "both register by turns");
        self.apply(now, mac, Fact::Registered { generation: shown });
    }

    /// A registration of `generation` was withdrawn or ran out, and the line has no other.
    pub fn handle_unregistered(&mut self, now: Now, mac: MacAddr, line: LineNumber, generation: Generation) {
        let Some(device) = self.devices.get_mut(&mac) else { return };
        if generation != device.generation_of(line) {
            return;
        }
        device.registered.remove(&line);
        if device.registered.is_empty() {
            self.apply(now, mac, Fact::Unregistered);
        }
    }

    // --- bind and unbind

    /// What binding the line to this user would change.
    pub fn plan_bind(&self, now: Now, mac: MacAddr, line: LineNumber, user: &User, extension: Extension) -> Result<BindPlan, Error> {
        if line == 0 {
            return Err(Error::NoSuchLine);
        }
        let device = self.devices.get(&mac).map_or_else(|| unseen(now.wall, mac), |device| device.record.clone());
        let generation = device.generation + 1;
        let binding = BindingRecord {
            mac,
            line,
            user_id: user.id.clone(),
            display_name: user.display_name.clone(),
            extension: extension.clone(),
            generation,
            since: now.wall,
        };
        let device = after(device, Fact::OwnerStored { generation });
        let ends = self.too_many(&extension, mac, line);
        let instead = ends
            .iter()
            .map(|old| {
                // On this very device the line changes hands with it.
                let record = if old.mac == mac { device.clone() } else { self.without(old, &ends) };
                (record, old.clone())
            })
            .collect();
        Ok(BindPlan { device, binding, instead })
    }

    /// The plan is on disk.
    pub fn handle_bound(&mut self, now: Now, plan: BindPlan) {
        let BindPlan { device, binding, instead } = plan;
        let mac = device.mac;
        let mut lost = BTreeSet::new();
        for (record, old) in instead {
            let reason = format!("the extension went to {mac}");
            self.ended(&old, record.generation, reason);
            if record.mac != mac {
                lost.insert(record.mac);
            }
        }
        for other in lost {
            let Some(device) = self.devices.get(&other) else { continue };
            let fact = Fact::OwnerRemoved { generation: device.record.generation + 1, others: !device.bindings.is_empty() };
            self.apply(now, other, fact);
        }
        let entry = self.devices.entry(mac).or_insert_with(|| Box::new(Device::new(unseen(now.wall, mac))));
        let line = binding.line;
        let before = entry.bindings.insert(line, Box::new(binding.clone()));
        let generation = device.generation;
        if let Some(before) = before.filter(|before| before.extension != binding.extension) {
            let reason = format!("the line went to {}", binding.display_name);
            self.actions.push_back(Action::Tell(Event::Unbound { mac, line, extension: before.extension, generation, reason }));
        }
        let (extension, display_name) = (binding.extension, binding.display_name);
        self.actions.push_back(Action::Tell(Event::Bound { mac, line, extension, display_name, generation }));
        self.apply(now, mac, Fact::OwnerStored { generation });
    }

    /// What unbinding the line would change.
    pub fn plan_unbind(&self, mac: MacAddr, line: LineNumber) -> Result<UnbindPlan, Error> {
        let bindings = self.devices.get(&mac).map(|device| &device.bindings);
        let binding = bindings.and_then(|bindings| bindings.get(&line)).ok_or(Error::NotBound { mac, line })?;
        Ok(UnbindPlan { device: self.without(binding, std::slice::from_ref(binding.as_ref())), binding: BindingRecord::clone(binding) })
    }

    /// The plan is on disk.
    pub fn handle_unbound(&mut self, now: Now, plan: UnbindPlan, reason: &str) {
        let (mac, generation) = (plan.device.mac, plan.device.generation);
        self.ended(&plan.binding, generation, reason.to_owned());
        let others = self.devices.get(&mac).is_some_and(|device| !device.bindings.is_empty());
        self.apply(now, mac, Fact::OwnerRemoved { generation, others });
    }

    /// Bindings of the extension that must end so that one more may begin: the oldest.
    fn too_many(&self, extension: &Extension, mac: MacAddr, line: LineNumber) -> Vec<BindingRecord> {
        let all = self.devices.values().flat_map(|device| device.bindings.values().map(AsRef::as_ref));
        let mut others: Vec<&BindingRecord> =
            all.filter(|binding| binding.extension == *extension && (binding.mac, binding.line) != (mac, line)).collect();
        others.sort_by_key(|binding| (binding.since, binding.mac, binding.line));
        let may_stay = usize::from(self.config.devices_per_extension.max(1)) - 1;
        let surplus = others.len().saturating_sub(may_stay);
        others.into_iter().take(surplus).cloned().collect()
    }

    /// The record of the device once those bindings of it have ended.
    fn without(&self, binding: &BindingRecord, ends: &[BindingRecord]) -> DeviceRecord {
        let Some(device) = self.devices.get(&binding.mac) else { return unseen(binding.since, binding.mac) };
        let others = device.bindings.values().any(|held| !ends.contains(held.as_ref()));
        after(device.record.clone(), Fact::OwnerRemoved { generation: device.record.generation + 1, others })
    }

    fn ended(&mut self, old: &BindingRecord, generation: Generation, reason: String) {
        if let Some(device) = self.devices.get_mut(&old.mac) {
            device.bindings.remove(&old.line);
        }
        let (mac, line, extension) = (old.mac, old.line, old.extension.clone());
        self.actions.push_back(Action::Tell(Event::Unbound { mac, line, extension, generation, reason }));
    }

    // --- out

    /// The next thing to do, oldest first. Drain to `None` after every `handle_*`.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Time has passed. Earlier than asked is harmless.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some((at, mac)) = self.timers.first().copied() {
            if at > now.instant {
                break;
            }
            self.timers.remove(&(at, mac));
            self.reload_timed_out(now, mac);
        }
    }

    /// Records to be stored, at most `limit`.
    pub fn take_dirty(&mut self, limit: usize) -> Vec<DeviceRecord> {
        let macs: Vec<MacAddr> = self.dirty.iter().copied().take(limit).collect();
        macs.iter().for_each(|mac| {
            self.dirty.remove(mac);
        });
        macs.iter().filter_map(|mac| self.devices.get(mac)).map(|device| device.record.clone()).collect()
    }

    /// The store did not take them.
    pub fn put_back(&mut self, macs: impl Iterator<Item = MacAddr>) {
        self.dirty.extend(macs);
    }

    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub fn device(&self, mac: MacAddr) -> Option<&DeviceRecord> {
        self.devices.get(&mac).map(|device| &device.record)
    }

    /// What the identities and the profile of a device are made of.
    pub fn standing(&self, mac: MacAddr) -> Option<(&DeviceRecord, &Bindings)> {
        self.devices.get(&mac).map(|device| (&device.record, &device.bindings))
    }

    pub fn devices(&self) -> impl Iterator<Item = (&DeviceRecord, &Bindings)> {
        self.devices.values().map(|device| (&device.record, &device.bindings))
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    // --- inside

    /// Knows the device from now on; `Some(true)` when it is new, `None` when there are too many.
    fn admit(&mut self, now: Now, mac: MacAddr) -> Option<bool> {
        if self.devices.contains_key(&mac) {
            return Some(false);
        }
        if self.devices.len() >= MOST_DEVICES {
            metrics::counter!("plugtone_onboarding_too_many_devices_total").increment(1);
            return None;
        }
        self.devices.insert(mac, Box::new(Device::new(unseen(now.wall, mac))));
        self.dirty.insert(mac);
        Some(true)
    }

    pub(super) fn apply(&mut self, now: Now, mac: MacAddr, fact: Fact) {
        let Some(device) = self.devices.get_mut(&mac) else { return };
        let before = Life { state: device.record.state, generation: device.record.generation };
        let step = before.apply(fact);
        if step.impossible {
            metrics::counter!("plugtone_onboarding_late_facts_total").increment(1);
            tracing::debug!(%mac, state = ?before.state, generation = before.generation, ?fact, "came too late and changes nothing");
            return;
        }
        if step.life != before {
            device.record.state = step.life.state;
            device.record.generation = step.life.generation;
            self.dirty.insert(mac);
        }
        if step.life.state != before.state {
            let (from, to) = (before.state, step.life.state);
            self.actions.push_back(Action::Tell(Event::DeviceChanged { mac, from, to }));
        }
        for effect in step.effects {
            match effect {
                Effect::DropContacts => self.drop_contacts(mac),
                // One that was only written down is in its box yet: it will come for its file.
                Effect::Reload if self.devices.get(&mac).is_some_and(|device| device.record.first_seen == DeviceRecord::NEVER) => {}
                Effect::Reload => self.start_reload(now, mac, Proof::Register),
                Effect::Taken => self.taken(now, mac),
                Effect::Done => self.done(mac, step.life.state != before.state),
            }
        }
    }

    fn tell_duplicate(&mut self, mac: MacAddr, places: Option<(IpAddr, IpAddr)>, reason: &str) {
        let Some((known, other)) = places else { return };
        metrics::counter!("plugtone_onboarding_duplicate_macs_total").increment(1);
        self.actions.push_back(Action::Tell(Event::DuplicateMac { mac, known, other, reason: reason.to_owned() }));
    }

    fn drop_contacts(&mut self, mac: MacAddr) {
        let Some(device) = self.devices.get_mut(&mac) else { return };
        let keep_generation = device.record.generation;
        let keep_lines: Vec<_> = device.unchanged().collect();
        device.registered.retain(|line| keep_lines.contains(line));
        self.actions.push_back(Action::DropContacts { mac, keep_generation, keep_lines });
    }
}

/// What a sighting changed.
struct News {
    /// Something to be stored.
    write: bool,
    /// Something that people want to know.
    tell: bool,
}

/// There may be 100,000 of them after a power cut: what few of them have is in boxes.
const _: () = assert!(size_of::<Device>() <= 640, "a device takes more than the allocator's pieces of 640 bytes");

impl Device {
    pub(super) fn new(record: DeviceRecord) -> Self {
        Self {
            record,
            bindings: BTreeMap::new(),
            calls: Calls::default(),
            times: Times::default(),
            registered: BTreeSet::new(),
            contact: None,
            contact_generation: None,
            holds: None,
            reload: None,
            heard: Heard::default(),
        }
    }

    /// Of the secret of a line: since its owner has it, or since any line had another.
    pub(super) fn generation_of(&self, line: LineNumber) -> Generation {
        self.bindings.get(&line).map_or(self.record.generation, |binding| binding.generation)
    }

    /// Lines that are whose they were before the present generation.
    fn unchanged(&self) -> impl Iterator<Item = LineNumber> {
        self.bindings.values().filter(|binding| binding.generation < self.record.generation).map(|binding| binding.line)
    }

    /// The phone goes on with the accounts that it has: nothing was given anew, and one of them is registered.
    pub(super) fn goes_on(&self) -> bool {
        self.unchanged().count() == self.bindings.len() && self.unchanged().any(|line| self.registered.contains(&line))
    }

    /// Of the secret that the phone has for a line, as far as it has shown.
    pub(super) fn held(&self, line: LineNumber) -> Generation {
        let present = self.record.generation;
        match self.holds {
            Some(holds) if holds == present => self.generation_of(line),
            holds => self.contact_generation.or(holds).unwrap_or(present.saturating_sub(1)),
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.calls.is_empty()
    }

    /// A reload waits for the end of its calls, and that is now.
    fn waits_for_idle(&self) -> bool {
        !self.is_busy() && self.reload.as_ref().is_some_and(|run| run.step == Step::Idle)
    }

    fn update(&mut self, now: Now, sighting: Sighting) -> News {
        let record = &mut self.record;
        let address = match sighting.address {
            Some(IpAddr::V4(address)) => Some(address),
            _ => None,
        };
        let mut tell = replace(&mut record.family, sighting.family);
        tell |= replace(&mut record.model, sighting.model);
        if replace(&mut record.firmware, sighting.firmware) {
            tell = true;
            self.times.firmware_at = Some(now.wall);
        }
        tell |= replace(&mut record.address, address);
        // What was written was written of the place that it was at then.
        let moved = sighting.port.is_some() && record.port.is_some() && record.port != sighting.port;
        if moved && record.location.take().is_some() {
            tracing::warn!(mac = %record.mac, "the phone is at another switch port: where it was said to be does not count any more");
        }
        tell |= replace(&mut record.port, sighting.port);
        tell |= replace(&mut record.location, sighting.location);
        if record.first_seen == DeviceRecord::NEVER {
            record.first_seen = now.wall;
            tell = true;
        }
        let later = now.wall.secs_since(record.last_seen) >= SEEN_AGAIN;
        if tell || later {
            record.last_seen = now.wall;
        }
        News { write: tell || later, tell }
    }
}

/// Takes over what is known now; `true` when it is new.
fn replace<T: PartialEq>(held: &mut Option<T>, news: Option<T>) -> bool {
    let changed = news.is_some() && *held != news;
    if changed {
        *held = news;
    }
    changed
}

pub(super) fn unseen(at: Timestamp, mac: MacAddr) -> DeviceRecord {
    DeviceRecord {
        mac,
        family: None,
        model: None,
        firmware: None,
        state: Life::UNSEEN.state,
        generation: Life::UNSEEN.generation,
        first_seen: at,
        last_seen: at,
        address: None,
        location: None,
        port: None,
        inventory: Inventory::default(),
    }
}

/// The record as it will be once the fact is true.
pub(super) fn after(record: DeviceRecord, fact: Fact) -> DeviceRecord {
    let life = Life { state: record.state, generation: record.generation }.apply(fact).life;
    DeviceRecord { state: life.state, generation: life.generation, ..record }
}
