//! Makes a phone fetch its files again: one way after the other, never during a call, until it has come back. Pure.
//!
//! calls end → settle → NOTIFY (the family's events, one after the other) → the phone's own polling → overdue, and again
//! after a while. Fetching its file at any point moves the phone on to *taken*; registering with the new
//! secret ends it, or where only a line went and others stay as they are, that file.
//! The part of [`Core`] that `onboarding.rs` calls when a device must reload, or shows that it does. Not here: sending.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    identities::provisional_user,
    onboarding::{Action, Core, Error, Now},
};
use crate::{
    binding::Fact,
    model::{Event, Generation, LineNumber, MacAddr},
    sip::{Credentials, Flow, notify},
};

/// An overdue phone that shows itself is told to reload at most so often.
const NUDGE_AGAIN: Duration = Duration::from_secs(60);
/// The longest that a leg of a call is believed to be up.
const LONGEST_CALL: Duration = Duration::from_secs(12 * 3600);

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

/// Where a phone listens, also after the registrar has dropped it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    pub line: LineNumber,
    /// User part of the address of record that it registered.
    pub user: Box<str>,
    /// As registered.
    pub uri: Box<str>,
    pub flow: Flow,
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
            (Some(contact), _) => (contact.uri.to_string(), contact.user.to_string(), contact.flow),
            (None, Some(address)) => {
                let user = provisional_user(self.mac, 1);
                let flow = Flow::udp(SocketAddr::from(([0, 0, 0, 0], 0)), SocketAddr::from((address, 5060)));
                (format!("sip:{user}@{address}:5060"), user, flow)
            }
            (None, None) => return None,
        };
        let (event, credentials) = (self.notify_event.clone(), Some(self.credentials.clone()));
        Some(notify::Order { mac: self.mac, uri, user, flow, event, credentials, body: None })
    }
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
    /// The generation of the line's secret that the phone is thought to hold.
    pub holds: Generation,
}

/// A reload under way.
#[derive(Debug)]
pub(super) struct Run {
    proof: Proof,
    pub(super) step: Step,
    deadline: Instant,
    /// Which of the family's events comes next.
    next: usize,
    attempt: u32,
    last_sent: Option<Instant>,
    overdue_told: bool,
    began: Instant,
}

/// What shows that a reload is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// The secret changed: only a registration with the new one.
    Register,
    /// An admin asked: the file may be the same, and a phone that finds so does not register again.
    File,
}

/// What a reload waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
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

impl Core {
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

    /// Reload when idle.
    pub(super) fn start_reload(&mut self, now: Now, mac: MacAddr, proof: Proof) {
        let Some(device) = self.devices.get_mut(&mac) else { return };
        if let Some(run) = device.reload.take() {
            self.timers.remove(&(run.deadline, mac));
        }
        let settings = &self.config.reload;
        let (step, wait) =
            if !device.is_busy() { (Step::Settled, settings.settle()) } else { (Step::Idle, Duration::from_secs(settings.hold_secs)) };
        let deadline = now.instant + wait;
        let run = Run { proof, step, deadline, next: 0, attempt: 0, last_sent: None, overdue_told: false, began: now.instant };
        device.reload = Some(Box::new(run));
        self.timers.insert((deadline, mac));
    }

    pub(super) fn wait_for(&mut self, mac: MacAddr, step: Step, deadline: Instant) {
        let Some(run) = self.devices.get_mut(&mac).and_then(|device| device.reload.as_mut()) else { return };
        self.timers.remove(&(run.deadline, mac));
        (run.step, run.deadline) = (step, deadline);
        self.timers.insert((deadline, mac));
    }

    pub(super) fn reload_timed_out(&mut self, now: Now, mac: MacAddr) {
        let Some(device) = self.devices.get_mut(&mac) else { return };
        let Some(run) = device.reload.as_mut() else { return };
        match run.step {
            // The engine knows of each leg when it ends.
            Step::Idle if device.calls.has_legs() && now.instant < run.began + LONGEST_CALL => {
                let hold = Duration::from_secs(self.config.reload.hold_secs);
                self.wait_for(mac, Step::Idle, now.instant + hold);
            }
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
        let busy = device.is_busy();
        let line = device.contact.as_ref().map_or(1, |contact| contact.line);
        let holds = device.held(line);
        let Some(run) = device.reload.as_mut() else { return };
        if busy {
            self.wait_for(mac, Step::Idle, now.instant + Duration::from_secs(settings.hold_secs));
            return;
        }
        let method = (self.methods)(device.record.family.as_deref(), device.record.model.as_deref());
        let reachable = device.contact.is_some() || device.record.address.is_some();
        let Some(notify_event) = method.events.get(run.next).filter(|_| reachable).cloned() else {
            // A quarter more than the interval, for phones that count from their last look. A Grandstream looks once an
            // hour at most: people should know before that.
            let poll = method.poll.map_or(Duration::from_secs(settings.poll_secs), |poll| poll + poll / 4);
            let poll = poll.min(Duration::from_secs(settings.retry_secs));
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
            line,
            holds,
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
    pub(super) fn nudge(&mut self, now: Now, mac: MacAddr) {
        let Some(run) = self.devices.get_mut(&mac).and_then(|device| device.reload.as_mut()) else { return };
        let quiet = run.last_sent.is_none_or(|sent| now.instant.saturating_duration_since(sent) >= NUDGE_AGAIN);
        if run.step == Step::Retry && quiet {
            run.next = 0;
            self.wait_for(mac, Step::Settled, now.instant + self.config.reload.settle());
        }
    }

    pub(super) fn taken(&mut self, now: Now, mac: MacAddr) {
        let deadline = now.instant + Duration::from_secs(self.config.reload.register_secs);
        let Some(device) = self.devices.get_mut(&mac) else { return };
        device.holds = Some(device.record.generation);
        let Some(run) = device.reload.as_ref() else { return };
        if run.step == Step::Register {
            return;
        }
        let (proven, goes_on, generation) = (run.proof == Proof::File, device.goes_on(), device.record.generation);
        self.actions.push_back(Action::Tell(Event::ReloadTaken { mac }));
        if proven {
            self.end_reload(mac);
        } else if goes_on {
            // A phone does not register again for an account that it has.
            self.apply(now, mac, Fact::Registered { generation });
        } else {
            self.wait_for(mac, Step::Register, deadline);
        }
    }

    pub(super) fn done(&mut self, mac: MacAddr, came_into_service: bool) {
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
