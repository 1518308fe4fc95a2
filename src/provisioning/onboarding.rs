//! Every device's life driven end to end: facts in, events and orders for the SIP engine out. No clock, no store.
//!
//! `binding/state.rs` says what a fact means for one device. Around it, this keeps all devices and their bindings, holds
//! a reload back while the phone is in a call, tries one way of reloading after the other, and finds two boxes that claim
//! one MAC. A bind is *planned* here, stored by `worker.rs`, and only then *done* here: nothing is true that is not on
//! disk. Driven by `worker.rs`.
//!
//! A reload's way: calls end → settle → NOTIFY (the family's events, one after the other) → the phone's own polling →
//! overdue, and again after a while. Fetching its file at any point moves the phone on to *taken*, registering ends it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use super::identities::provisional_user;
use crate::{
    binding::{Effect, Fact, Life, Limits, ReloadSettings},
    model::{
        BindingRecord, CallId, DeviceRecord, DeviceState, Event, Extension, FamilyName, Generation, LineNumber, MacAddr, Timestamp, User,
    },
    sip::{self, Credentials, Flow, notify},
    store::ContactRecord,
};

/// Devices held at most. MACs can be made up faster than phones: what comes after is counted, not kept.
const MOST_DEVICES: usize = 100_000;
/// Calls of one device that are told apart.
const MOST_CALLS: usize = 16;
/// `last_seen` is written again after this long, so that renewals do not cost a write each.
const SEEN_AGAIN: i64 = 60;
/// Two places that alternate within this time are two boxes.
const ALTERNATES: Duration = Duration::from_secs(300);
/// The same pair is told again after this long.
const DUPLICATE_AGAIN: Duration = Duration::from_secs(600);
/// An overdue phone that shows itself is told to reload at most so often.
const NUDGE_AGAIN: Duration = Duration::from_secs(60);

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

/// How the phones of a family are made to reload, from its template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadMethod {
    /// Values of the NOTIFY's Event header, best first, as `check-sync;reboot=false`.
    pub events: Vec<String>,
    /// How often the phone looks by itself.
    pub poll: Option<Duration>,
}

/// (family, model) → how it reloads.
pub type ReloadMethods = Arc<dyn Fn(Option<&str>, Option<&str>) -> ReloadMethod + Send + Sync>;

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
    /// Its switch port (option 82).
    pub location: Option<String>,
    /// It is surely a phone, even if its family is not known.
    pub phone: bool,
}

impl Sighting {
    pub fn of(mac: MacAddr) -> Self {
        Self { mac, family: None, model: None, firmware: None, address: None, location: None, phone: false }
    }
}

/// A REGISTER was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub mac: MacAddr,
    /// Of the secret that it was made with.
    pub generation: Generation,
    pub contact: Contact,
}

impl From<&sip::Contact> for Registration {
    fn from(contact: &sip::Contact) -> Self {
        let sip::Contact { mac, line, generation, user, uri, flow, .. } = contact.clone();
        Self { mac, generation, contact: Contact { line, user, uri, flow } }
    }
}

/// Where a phone listens, also after the registrar has dropped it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    pub line: LineNumber,
    /// User part of the address of record that it registered.
    pub user: String,
    /// As registered.
    pub uri: String,
    pub flow: Flow,
}

/// An order to the SIP engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Reload(Reload),
    /// Forget the device's contacts, but those that registered with this generation.
    DropContacts {
        mac: MacAddr,
        keep_generation: Generation,
    },
}

/// Send a NOTIFY, and tell [`Core::handle_reload_answered`] what the phone answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    pub mac: MacAddr,
    /// What the phone shall come back with; echoed in the answer.
    pub generation: Generation,
    pub attempt: u32,
    /// The Event header's value.
    pub notify_event: String,
    /// Its last contact, which the registrar may have dropped by now.
    pub contact: Option<Contact>,
    /// Where it was last heard, for a phone without contact.
    pub address: Option<Ipv4Addr>,
    /// What the phone holds until it has reloaded, should it challenge the NOTIFY.
    pub credentials: Credentials,
}

impl Reload {
    /// The NOTIFY: to the contact, or to SIP's port where the phone was last heard. `None` when it was never heard.
    pub fn order(&self) -> Option<notify::Order> {
        let (uri, user, flow) = match (&self.contact, self.address) {
            (Some(contact), _) => (contact.uri.clone(), contact.user.clone(), contact.flow),
            (None, Some(address)) => {
                let user = provisional_user(self.mac);
                let flow = Flow::udp(SocketAddr::from(([0, 0, 0, 0], 0)), SocketAddr::from((address, 5060)));
                (format!("sip:{user}@{address}:5060"), user, flow)
            }
            (None, None) => return None,
        };
        let (event, credentials) = (self.notify_event.clone(), Some(self.credentials.clone()));
        Some(notify::Order { mac: self.mac, uri, user, flow, event, credentials })
    }
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
    },
}

/// A [`Reload`] whose secret is still to be derived from `line` and `holds`.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    pub mac: MacAddr,
    pub generation: Generation,
    pub attempt: u32,
    pub notify_event: String,
    pub contact: Option<Contact>,
    pub address: Option<Ipv4Addr>,
    pub line: LineNumber,
    /// The generation that the phone is thought to hold.
    pub holds: Generation,
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
    config: Config,
    methods: ReloadMethods,
    devices: HashMap<MacAddr, Device>,
    timers: BTreeSet<(Instant, MacAddr)>,
    /// Records that are newer than the store's.
    dirty: BTreeSet<MacAddr>,
    actions: VecDeque<Action>,
}

struct Device {
    record: DeviceRecord,
    bindings: BTreeMap<LineNumber, BindingRecord>,
    calls: HashMap<CallId, CallKind>,
    /// Lines registered with the present generation.
    registered: BTreeSet<LineNumber>,
    /// The last contact, of whatever generation.
    contact: Option<Contact>,
    /// The generation that the phone has shown to hold.
    holds: Option<Generation>,
    reload: Option<Run>,
    heard: Heard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    Ivr,
    /// Between people: it holds a reload back, and means nothing else here.
    Other,
}

/// A reload under way.
#[derive(Debug)]
struct Run {
    proof: Proof,
    step: Step,
    deadline: Instant,
    /// Which of the family's events comes next.
    next: usize,
    attempt: u32,
    last_sent: Option<Instant>,
    overdue_told: bool,
}

/// What shows that a reload is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    /// The secret changed: only a registration with the new one.
    Register,
    /// An admin asked: the file may be the same, and a phone that finds so does not register again.
    File,
}

/// What a reload waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The end of the phone's calls.
    Idle,
    /// That the phone is really out of its call.
    Settled,
    /// An answer to the NOTIFY.
    Answer,
    /// The NOTIFY was accepted: that the phone fetches its file.
    Fetch,
    /// The phone's own look at its file.
    Poll,
    /// Fetched: that it registers.
    Register,
    /// Nothing more; at the deadline it is told again.
    Retry,
}

/// The places that a MAC is heard from, to find two boxes with one MAC.
#[derive(Default)]
struct Heard {
    here: Option<(IpAddr, Instant)>,
    before: Option<(IpAddr, Instant)>,
    /// How often it went back to where it had just been.
    returns: u32,
    told: Option<Instant>,
}

impl Core {
    pub fn new(config: Config, methods: ReloadMethods) -> Self {
        Self { config, methods, devices: HashMap::new(), timers: BTreeSet::new(), dirty: BTreeSet::new(), actions: VecDeque::new() }
    }

    /// Takes what the store holds, once, at start. What a stop cut short is begun again.
    pub fn restore(&mut self, now: Now, devices: Vec<DeviceRecord>, bindings: Vec<BindingRecord>, contacts: Vec<ContactRecord>) {
        for record in devices {
            self.devices.insert(record.mac, Device::new(record));
        }
        for binding in bindings {
            if let Some(device) = self.devices.get_mut(&binding.mac) {
                device.bindings.insert(binding.line, binding);
            }
        }
        for contact in contacts {
            if let Some(device) = self.devices.get_mut(&contact.mac) {
                // One of an earlier generation is left when the server was killed right after a bind: the phone is told
                // there, but it is not registered.
                let owner = device.bindings.get(&contact.line).map(|binding| binding.extension.to_string());
                if contact.user == owner.unwrap_or_else(|| provisional_user(contact.mac)) {
                    device.registered.insert(contact.line);
                }
                if let Ok(flow) = contact.flow.parse() {
                    device.contact = Some(Contact { line: contact.line, user: contact.user, uri: contact.uri, flow });
                }
            }
        }
        let mut macs: Vec<_> = self.devices.keys().copied().collect();
        macs.sort_unstable();
        for mac in macs {
            let Some(device) = self.devices.get(&mac) else { continue };
            let absent = device.registered.is_empty();
            let told_again = device.record.state != DeviceState::Provisional || absent;
            if device.record.state == DeviceState::InService && absent {
                self.apply(now, mac, Fact::Unregistered);
            } else if told_again {
                self.apply(now, mac, Fact::Restarted);
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
        if let Some((known, other)) = duplicate {
            metrics::counter!("plugtone_onboarding_duplicate_macs_total").increment(1);
            let reason = "both are heard by turns".to_owned();
            self.actions.push_back(Action::Tell(Event::DuplicateMac { mac, known, other, reason }));
        }
        self.apply(now, mac, if recognised { Fact::Recognised } else { Fact::Seen });
        self.nudge(now, mac);
    }

    /// A call of the device began. While it lasts the phone is not told to reload.
    pub fn handle_call_began(&mut self, now: Now, mac: MacAddr, call: CallId, kind: CallKind) {
        if self.admit(now, mac).is_none() {
            return;
        }
        let Some(device) = self.devices.get_mut(&mac) else { return };
        if device.calls.len() < MOST_CALLS {
            device.calls.insert(call, kind);
        }
        if kind == CallKind::Ivr {
            self.apply(now, mac, Fact::CallBegan);
        }
    }

    /// A call of the device is over, however it ended.
    pub fn handle_call_ended(&mut self, now: Now, mac: MacAddr, call: CallId) {
        let Some(device) = self.devices.get_mut(&mac) else { return };
        let ended = device.calls.remove(&call);
        let others_in_ivr = device.calls.values().any(|kind| *kind == CallKind::Ivr);
        let waits = device.calls.is_empty() && device.reload.as_ref().is_some_and(|run| run.step == Step::Idle);
        if ended == Some(CallKind::Ivr) && !others_in_ivr {
            self.apply(now, mac, Fact::CallEnded);
        }
        if waits {
            self.wait_for(mac, Step::Settled, now.instant + self.config.reload.settle());
        }
    }

    /// The device has every byte of its own file, rendered for `generation`.
    pub fn handle_file_fetched(&mut self, now: Now, mac: MacAddr, generation: Generation) {
        if self.admit(now, mac).is_some() {
            self.apply(now, mac, Fact::FileTaken { generation });
        }
    }

    /// A REGISTER was accepted.
    pub fn handle_registered(&mut self, now: Now, registration: Registration) {
        let mac = registration.mac;
        let source = registration.contact.flow.peer.ip().to_canonical();
        self.handle_sighting(now, Sighting { address: Some(source), phone: true, ..Sighting::of(mac) });
        let Some(device) = self.devices.get_mut(&mac) else { return };
        if registration.generation == device.record.generation {
            device.registered.insert(registration.contact.line);
            device.contact = Some(registration.contact);
            device.holds = Some(registration.generation);
        }
        self.apply(now, mac, Fact::Registered { generation: registration.generation });
    }

    /// A registration of `generation` was withdrawn or ran out, and the line has no other.
    pub fn handle_unregistered(&mut self, now: Now, mac: MacAddr, line: LineNumber, generation: Generation) {
        let Some(device) = self.devices.get_mut(&mac) else { return };
        if generation != device.record.generation {
            return;
        }
        device.registered.remove(&line);
        if device.registered.is_empty() {
            self.apply(now, mac, Fact::Unregistered);
        }
    }

    /// What came back to a NOTIFY; 408 when nothing did.
    pub fn handle_reload_answered(&mut self, now: Now, mac: MacAddr, generation: Generation, status: u16) {
        let Some(device) = self.devices.get(&mac) else { return };
        let waits = device.reload.as_ref().is_some_and(|run| run.step == Step::Answer);
        if generation != device.record.generation || !waits || status < 200 {
            return;
        }
        self.actions.push_back(Action::Tell(Event::ReloadAnswered { mac, status }));
        if status < 300 {
            let deadline = now.instant + Duration::from_secs(self.config.reload.take_secs);
            self.wait_for(mac, Step::Fetch, deadline);
        } else {
            self.tell_phone(now, mac);
        }
    }

    /// An admin wants the device to reload, as soon as it is idle.
    pub fn handle_reload_asked(&mut self, now: Now, mac: MacAddr) -> Result<(), Error> {
        if !self.devices.contains_key(&mac) {
            return Err(Error::Unseen(mac));
        }
        self.start_reload(now, mac, Proof::File);
        Ok(())
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
        let entry = self.devices.entry(mac).or_insert_with(|| Device::new(unseen(now.wall, mac)));
        let before = entry.bindings.insert(binding.line, binding.clone());
        let generation = device.generation;
        if let Some(before) = before.filter(|before| before.extension != binding.extension) {
            let reason = format!("the line went to {}", binding.display_name);
            self.actions.push_back(Action::Tell(Event::Unbound { mac, extension: before.extension, generation, reason }));
        }
        let (extension, display_name) = (binding.extension, binding.display_name);
        self.actions.push_back(Action::Tell(Event::Bound { mac, extension, display_name, generation }));
        self.apply(now, mac, Fact::OwnerStored { generation });
    }

    /// What unbinding the line would change.
    pub fn plan_unbind(&self, mac: MacAddr, line: LineNumber) -> Result<UnbindPlan, Error> {
        let bindings = self.devices.get(&mac).map(|device| &device.bindings);
        let binding = bindings.and_then(|bindings| bindings.get(&line)).ok_or(Error::NotBound { mac, line })?;
        Ok(UnbindPlan { device: self.without(binding, std::slice::from_ref(binding)), binding: binding.clone() })
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
        let all = self.devices.values().flat_map(|device| device.bindings.values());
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
        let others = device.bindings.values().any(|held| !ends.contains(held));
        after(device.record.clone(), Fact::OwnerRemoved { generation: device.record.generation + 1, others })
    }

    fn ended(&mut self, old: &BindingRecord, generation: Generation, reason: String) {
        if let Some(device) = self.devices.get_mut(&old.mac) {
            device.bindings.remove(&old.line);
        }
        let (mac, extension) = (old.mac, old.extension.clone());
        self.actions.push_back(Action::Tell(Event::Unbound { mac, extension, generation, reason }));
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

    /// What the identities of a device are made of.
    pub fn standing(&self, mac: MacAddr) -> Option<(MacAddr, Generation, &BTreeMap<LineNumber, BindingRecord>)> {
        self.devices.get(&mac).map(|device| (mac, device.record.generation, &device.bindings))
    }

    pub fn devices(&self) -> impl Iterator<Item = (&DeviceRecord, &BTreeMap<LineNumber, BindingRecord>)> {
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
        self.devices.insert(mac, Device::new(unseen(now.wall, mac)));
        self.dirty.insert(mac);
        Some(true)
    }

    fn apply(&mut self, now: Now, mac: MacAddr, fact: Fact) {
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
            device.bindings.values_mut().for_each(|binding| binding.generation = step.life.generation);
            self.dirty.insert(mac);
        }
        if step.life.state != before.state {
            let (from, to) = (before.state, step.life.state);
            self.actions.push_back(Action::Tell(Event::DeviceChanged { mac, from, to }));
        }
        for effect in step.effects {
            match effect {
                Effect::DropContacts => self.drop_contacts(mac),
                Effect::Reload => self.start_reload(now, mac, Proof::Register),
                Effect::Taken => self.taken(now, mac),
                Effect::Done => self.done(mac, step.life.state != before.state),
            }
        }
    }

    fn drop_contacts(&mut self, mac: MacAddr) {
        let Some(device) = self.devices.get_mut(&mac) else { return };
        device.registered.clear();
        self.actions.push_back(Action::DropContacts { mac, keep_generation: device.record.generation });
    }

    /// Reload when idle.
    fn start_reload(&mut self, now: Now, mac: MacAddr, proof: Proof) {
        let Some(device) = self.devices.get_mut(&mac) else { return };
        if let Some(run) = device.reload.take() {
            self.timers.remove(&(run.deadline, mac));
        }
        let settings = &self.config.reload;
        let (step, wait) = if device.calls.is_empty() {
            (Step::Settled, settings.settle())
        } else {
            (Step::Idle, Duration::from_secs(settings.hold_secs))
        };
        let deadline = now.instant + wait;
        device.reload = Some(Run { proof, step, deadline, next: 0, attempt: 0, last_sent: None, overdue_told: false });
        self.timers.insert((deadline, mac));
    }

    fn wait_for(&mut self, mac: MacAddr, step: Step, deadline: Instant) {
        let Some(run) = self.devices.get_mut(&mac).and_then(|device| device.reload.as_mut()) else { return };
        self.timers.remove(&(run.deadline, mac));
        (run.step, run.deadline) = (step, deadline);
        self.timers.insert((deadline, mac));
    }

    fn reload_timed_out(&mut self, now: Now, mac: MacAddr) {
        let Some(device) = self.devices.get_mut(&mac) else { return };
        let Some(run) = device.reload.as_mut() else { return };
        match run.step {
            Step::Idle => {
                // No call is this long here; its end was missed.
                device.calls.clear();
                self.tell_phone(now, mac);
            }
            Step::Settled | Step::Answer | Step::Fetch => self.tell_phone(now, mac),
            Step::Retry => {
                run.next = 0;
                self.tell_phone(now, mac);
            }
            Step::Poll => self.overdue(now, mac, "it neither followed a NOTIFY nor looked for its file by itself; restart it by hand"),
            Step::Register => self.overdue(now, mac, "it has fetched its file and does not register; look at its log, or restart it"),
        }
    }

    /// The next NOTIFY, or when there is none left, the phone's own polling.
    fn tell_phone(&mut self, now: Now, mac: MacAddr) {
        let settings = self.config.reload.clone();
        let Some(device) = self.devices.get_mut(&mac) else { return };
        let Some(run) = device.reload.as_mut() else { return };
        if !device.calls.is_empty() {
            self.wait_for(mac, Step::Idle, now.instant + Duration::from_secs(settings.hold_secs));
            return;
        }
        let method = (self.methods)(device.record.family.as_deref(), device.record.model.as_deref());
        let reachable = device.contact.is_some() || device.record.address.is_some();
        let Some(notify_event) = method.events.get(run.next).filter(|_| reachable).cloned() else {
            // A quarter more than the interval, for phones that count from their last look.
            let poll = method.poll.map_or(Duration::from_secs(settings.poll_secs), |poll| poll + poll / 4);
            self.wait_for(mac, Step::Poll, now.instant + poll);
            return;
        };
        run.next += 1;
        run.attempt += 1;
        run.last_sent = Some(now.instant);
        let generation = device.record.generation;
        let order = Order {
            mac,
            generation,
            attempt: run.attempt,
            notify_event: notify_event.clone(),
            contact: device.contact.clone(),
            address: device.record.address,
            line: device.contact.as_ref().map_or(1, |contact| contact.line),
            holds: device.holds.unwrap_or(generation.saturating_sub(1)),
        };
        let attempt = run.attempt;
        self.actions.push_back(Action::Tell(Event::ReloadRequested { mac, notify_event, attempt }));
        self.actions.push_back(Action::Reload(order));
        self.wait_for(mac, Step::Answer, now.instant + Duration::from_secs(settings.answer_secs));
        self.apply(now, mac, Fact::ReloadSent);
    }

    fn overdue(&mut self, now: Now, mac: MacAddr, reason: &str) {
        let retry = now.instant + Duration::from_secs(self.config.reload.retry_secs);
        let Some(run) = self.devices.get_mut(&mac).and_then(|device| device.reload.as_mut()) else { return };
        if !run.overdue_told {
            run.overdue_told = true;
            self.actions.push_back(Action::Tell(Event::ReloadOverdue { mac, reason: reason.to_owned() }));
        }
        self.wait_for(mac, Step::Retry, retry);
    }

    /// An overdue phone shows itself: perhaps it listens now.
    fn nudge(&mut self, now: Now, mac: MacAddr) {
        let Some(run) = self.devices.get_mut(&mac).and_then(|device| device.reload.as_mut()) else { return };
        let quiet = run.last_sent.is_none_or(|sent| now.instant.saturating_duration_since(sent) >= NUDGE_AGAIN);
        if run.step == Step::Retry && quiet {
            run.next = 0;
            self.wait_for(mac, Step::Settled, now.instant + self.config.reload.settle());
        }
    }

    fn taken(&mut self, now: Now, mac: MacAddr) {
        let deadline = now.instant + Duration::from_secs(self.config.reload.register_secs);
        let Some(device) = self.devices.get_mut(&mac) else { return };
        device.holds = Some(device.record.generation);
        let Some(run) = device.reload.as_ref() else { return };
        if run.step == Step::Register {
            return;
        }
        let proven = run.proof == Proof::File;
        self.actions.push_back(Action::Tell(Event::ReloadTaken { mac }));
        if proven {
            self.end_reload(mac);
        } else {
            self.wait_for(mac, Step::Register, deadline);
        }
    }

    fn done(&mut self, mac: MacAddr, came_into_service: bool) {
        let proven = self.devices.get(&mac).and_then(|device| device.reload.as_ref()).is_some_and(|run| run.proof == Proof::Register);
        if proven {
            self.end_reload(mac);
        }
        let binding = self.devices.get(&mac).and_then(|device| device.bindings.values().next());
        if let (true, Some(binding)) = (came_into_service, binding) {
            let extension = binding.extension.clone();
            self.actions.push_back(Action::Tell(Event::ReloadDone { mac, extension }));
        }
    }

    fn end_reload(&mut self, mac: MacAddr) {
        if let Some(run) = self.devices.get_mut(&mac).and_then(|device| device.reload.take()) {
            self.timers.remove(&(run.deadline, mac));
        }
    }
}

/// What a sighting changed.
struct News {
    /// Something to be stored.
    write: bool,
    /// Something that people want to know.
    tell: bool,
}

impl Device {
    fn new(record: DeviceRecord) -> Self {
        Self {
            record,
            bindings: BTreeMap::new(),
            calls: HashMap::new(),
            registered: BTreeSet::new(),
            contact: None,
            holds: None,
            reload: None,
            heard: Heard::default(),
        }
    }

    fn update(&mut self, now: Now, sighting: Sighting) -> News {
        let record = &mut self.record;
        let address = match sighting.address {
            Some(IpAddr::V4(address)) => Some(address),
            _ => None,
        };
        let mut tell = replace(&mut record.family, sighting.family);
        tell |= replace(&mut record.model, sighting.model);
        tell |= replace(&mut record.firmware, sighting.firmware);
        tell |= replace(&mut record.address, address);
        tell |= replace(&mut record.location, sighting.location);
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

impl Heard {
    /// The device is heard from `source`. Gives both places when two boxes must be behind it: one box may move, but it
    /// does not go to and fro.
    fn at(&mut self, now: Instant, source: IpAddr) -> Option<(IpAddr, IpAddr)> {
        let Some((here, _)) = self.here.filter(|(here, _)| here.is_ipv4() == source.is_ipv4()) else {
            // IPv4 and IPv6 of one phone are not two places.
            if self.here.is_none() {
                self.here = Some((source, now));
            }
            return None;
        };
        if here == source {
            self.here = Some((source, now));
            return None;
        }
        let returned = self.before.is_some_and(|(place, at)| place == source && now.saturating_duration_since(at) < ALTERNATES);
        self.returns = if returned { self.returns + 1 } else { 0 };
        self.before = self.here.replace((source, now));
        let told_lately = self.told.is_some_and(|told| now.saturating_duration_since(told) < DUPLICATE_AGAIN);
        if self.returns < 2 || told_lately {
            return None;
        }
        self.told = Some(now);
        Some((here, source))
    }
}

fn unseen(at: Timestamp, mac: MacAddr) -> DeviceRecord {
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
    }
}

/// The record as it will be once the fact is true.
fn after(record: DeviceRecord, fact: Fact) -> DeviceRecord {
    let life = Life { state: record.state, generation: record.generation }.apply(fact).life;
    DeviceRecord { state: life.state, generation: life.generation, ..record }
}
