//! The notifier's side of RFC 6665: who has subscribed to what, and the NOTIFYs that they get.
//!
//! The owner gives every SUBSCRIBE whose sender it knows to [`Subscriptions::handle_subscribe`], every event of the
//! [`Endpoint`] to [`Subscriptions::handle_event`] first, and says by [`Subscriptions::changed`] that something watched is
//! not what it was. When a subscription may be told, [`Action::Write`] asks for its document *of that moment*, and
//! [`Subscriptions::notify`] sends it. So there is one NOTIFY under way per subscription, and what changes meanwhile is
//! told once, as it is then: the newest state wins and a slow phone costs one document, not a queue.
//!
//! ```text
//!  SUBSCRIBE ──200──► due ──Write, NOTIFY──► told ──changed──► due …
//!                      ▲                      │  408 · 481 and its like: gone
//!                      └── 500, 503, no way: again after a pause, a few times; then gone
//!  SUBSCRIBE, Expires: 0, or its time is over: one last NOTIFY with `terminated`, gone
//! ```
//! Each is kept ([`Action::Save`]) so that it goes on in its own dialog after a restart ([`Subscriptions::restore`]): the
//! CSeq that is kept runs ahead of the one in use, so that no NOTIFY needs the disk.
//! Not here: what a document says, who may watch whom, PUBLISH, event lists (RFC 4662), partial states.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::model::{Generation, LineNumber, MacAddr, NumberHash};

use super::{
    build::Response,
    dialog::{Dialog, DialogId, Kept},
    digest::Account,
    endpoint::{ClientTx, Endpoint, Event, ServerTx},
    header::Params,
    message::{Message, Method},
    name::Name,
    transport::{Flow, FlowId},
    uri::Uri,
};

/// An event package and the one form in which its state is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Package {
    pub name: &'static str,
    pub content_type: &'static str,
}

#[derive(Clone, Debug)]
pub struct Config {
    pub packages: Vec<Package>,
    /// Shorter wishes get 423 with this as Min-Expires.
    pub min_expires: Duration,
    /// Longer wishes are cut to this.
    pub max_expires: Duration,
    /// For a phone that wishes nothing.
    pub default_expires: Duration,
    /// Subscriptions in all; beyond it a new one gets 503.
    pub max: usize,
    /// Subscriptions of one device; beyond it its longest unrefreshed one is forgotten, as after a restart of the phone.
    pub max_per_device: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            packages: Vec::new(),
            min_expires: Duration::from_secs(60),
            max_expires: Duration::from_secs(3600),
            default_expires: Duration::from_secs(3600),
            max: 50_000,
            max_per_device: 250,
        }
    }
}

/// Who watches, as proved by digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watcher {
    pub user: String,
    pub mac: MacAddr,
    pub line: LineNumber,
    pub generation: Generation,
}

impl From<&Account> for Watcher {
    fn from(account: &Account) -> Self {
        Self { user: account.user.clone(), mac: account.mac, line: account.line, generation: account.generation }
    }
}

/// Names a subscription as long as the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionId(u64);

/// What is to be done. Drain after every call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Answer with [`Subscriptions::notify`]: the state of `resource` now. `version` counts this subscription's documents;
    /// `entity` is the URI that the phone asked for.
    Write {
        id: SubscriptionId,
        package: &'static str,
        resource: String,
        entity: String,
        version: u32,
    },
    Save(Box<Stored>),
    Remove {
        local_tag: String,
    },
}

/// A subscription as it is kept, by its local tag, which is ours and never used twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub dialog: Kept,
    pub watcher: Watcher,
    pub flow: Flow,
    /// The value of Event: the package, and its `id` where the phone gave one.
    pub event: String,
    pub resource: String,
    pub expires: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Expires,
    /// A pause is over.
    Again,
}

/// Why a subscription ends (RFC 6665 §4.1.3): tells the phone whether to come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// Its time is over, or the phone wants no more: come again whenever.
    Timeout,
    /// It may no longer.
    Rejected,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Rejected => "rejected",
        }
    }
}

struct Subscription {
    dialog: Dialog,
    watcher: Watcher,
    flow: Flow,
    package: Package,
    event: String,
    resource: String,
    expires: Instant,
    refreshed: Instant,
    /// CSeqs up to here are on disk as used.
    reserved: u32,
    under_way: Option<ClientTx>,
    /// There is something that the phone was not told.
    due: bool,
    /// A document is asked for and not here yet.
    asked: bool,
    /// Nothing is sent before.
    pause: Option<Instant>,
    /// NOTIFYs in a row that failed.
    failures: u32,
    ending: Option<Reason>,
}

pub struct Subscriptions {
    config: Config,
    next: u64,
    all: HashMap<SubscriptionId, Subscription, NumberHash>,
    by_tag: HashMap<String, SubscriptionId>,
    by_resource: HashMap<String, Vec<SubscriptionId>>,
    by_device: HashMap<MacAddr, Vec<SubscriptionId>>,
    under_way: HashMap<ClientTx, SubscriptionId, NumberHash>,
    /// Last NOTIFYs, whose answers change nothing.
    farewells: HashSet<ClientTx, NumberHash>,
    schedule: BTreeSet<(Instant, SubscriptionId, Timer)>,
    restored: u32,
    actions: VecDeque<Action>,
}

/// CSeqs that are written as used at once: one write for so many NOTIFYs.
const RESERVE: u32 = 500;
/// Failures in a row after which a phone is given up.
const MOST_FAILURES: u32 = 5;
/// Pause after the first failure; it doubles with each.
const PAUSE: Duration = Duration::from_secs(5);
/// After a restart each phone is told how things are now, one after the other, so that they are not all told at once.
const RESTORED_FIRST: Duration = Duration::from_millis(500);
const RESTORED_EACH: Duration = Duration::from_millis(1);
/// Longest name of something watched, and longest `id` of an Event.
const LONGEST: usize = 64;

impl Subscriptions {
    pub fn new(config: Config) -> Self {
        Self {
            config,
            next: 0,
            all: HashMap::default(),
            by_tag: HashMap::new(),
            by_resource: HashMap::new(),
            by_device: HashMap::new(),
            under_way: HashMap::default(),
            farewells: HashSet::default(),
            schedule: BTreeSet::new(),
            restored: 0,
            actions: VecDeque::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Answers a SUBSCRIBE of `watcher`. `may` decides about a new one: the package and what is to be watched in, the
    /// status of a refusal out.
    #[allow(clippy::too_many_arguments)]
    pub fn handle_subscribe(
        &mut self,
        now: Instant,
        endpoint: &mut Endpoint,
        tx: ServerTx,
        request: &Message,
        flow: Flow,
        watcher: Watcher,
        may: impl FnOnce(&str, &str) -> Result<(), u16>,
    ) {
        let answer = match DialogId::of_request(request) {
            Some(dialog) => self.refresh(now, request, flow, &watcher, &dialog),
            None => self.begin(now, endpoint, request, flow, watcher, may),
        };
        let (id, response) = match answer {
            Ok((id, response)) => (Some(id), response),
            Err(refusal) => (None, refusal),
        };
        if response.status >= 300 {
            metrics::counter!("plugtone_sip_subscribe_refused_total", "status" => response.status.to_string()).increment(1);
        }
        // The answer leaves before the NOTIFY does: phones that get them the other way round know no such dialog.
        endpoint.respond(now, tx, response);
        if let Some(id) = id {
            self.ask(id);
        }
    }

    /// Takes the endpoint's events that belong to it; gives all others back.
    pub fn handle_event(&mut self, now: Instant, event: Event) -> Option<Event> {
        let tx = match &event {
            Event::Response { tx, .. } | Event::TimedOut { tx } | Event::TransportFailed { tx } => *tx,
            _ => return Some(event),
        };
        let last = match &event {
            Event::Response { response, .. } => response.status().is_some_and(|status| status >= 200),
            _ => true,
        };
        if self.farewells.contains(&tx) {
            if last {
                self.farewells.remove(&tx);
            }
            return None;
        }
        let Some(&id) = self.under_way.get(&tx) else { return Some(event) };
        if !last {
            return None;
        }
        self.under_way.remove(&tx);
        if let Some(subscription) = self.all.get_mut(&id) {
            subscription.under_way = None;
        }
        match event {
            Event::Response { response, .. } => self.handle_answer(now, id, &response),
            Event::TimedOut { .. } => self.remove(id, "no answer"),
            _ => self.handle_failure(now, id, None),
        }
        None
    }

    /// What is watched under this name in this package is not what it was.
    pub fn changed(&mut self, package: &str, resource: &str) {
        let ids = self.by_resource.get(resource).into_iter().flatten();
        let ids: Vec<_> = ids.copied().filter(|id| self.all.get(id).is_some_and(|s| s.package.name == package)).collect();
        for id in ids {
            self.make_due(id);
        }
    }

    /// Whether this line watches it in this package.
    pub fn watches(&self, package: &str, resource: &str, mac: MacAddr, line: LineNumber) -> bool {
        let ids = self.by_resource.get(resource).into_iter().flatten();
        ids.filter_map(|id| self.all.get(id)).any(|s| s.package.name == package && (s.watcher.mac, s.watcher.line) == (mac, line))
    }

    /// Whether anybody watches it.
    pub fn is_watched(&self, resource: &str) -> bool {
        self.by_resource.contains_key(resource)
    }

    /// Sends the document that [`Action::Write`] asked for.
    pub fn notify(&mut self, now: Instant, endpoint: &mut Endpoint, id: SubscriptionId, body: Bytes) {
        let Some(subscription) = self.all.get_mut(&id) else { return };
        subscription.asked = false;
        subscription.due = false;
        let state = match subscription.ending {
            Some(reason) => format!("terminated;reason={}", reason.as_str()),
            None => format!("active;expires={}", subscription.expires.saturating_duration_since(now).as_secs()),
        };
        let request = subscription.dialog.request(Method::Notify);
        let request = request.header(Name::Event, &subscription.event).header(Name::SubscriptionState, state);
        let request = request.body(subscription.package.content_type, body);
        let tx = endpoint.request(now, subscription.flow, request);
        metrics::counter!("plugtone_sip_notifies_total").increment(1);
        if subscription.ending.is_some() {
            self.farewells.insert(tx);
            return self.remove(id, "ended");
        }
        subscription.under_way = Some(tx);
        let spent = subscription.dialog.local_cseq() >= subscription.reserved;
        self.under_way.insert(tx, id);
        if spent {
            self.save(id);
        }
    }

    /// A line of a device is reached by this flow now: it has registered.
    pub fn handle_moved(&mut self, mac: MacAddr, line: LineNumber, flow: Flow) {
        let moved = |s: &Subscription| s.watcher.line == line && s.flow != flow && s.flow.transport == flow.transport;
        for id in self.ids_of(mac, moved) {
            let Some(subscription) = self.all.get_mut(&id) else { continue };
            subscription.flow = flow;
            subscription.failures = 0;
            if let Some(at) = subscription.pause.take() {
                self.schedule.remove(&(at, id, Timer::Again));
            }
            self.ask(id);
        }
    }

    /// A connection is gone: what went by it tries the address that the phone named, until it registers anew.
    pub fn handle_flow_closed(&mut self, flow: FlowId) {
        for subscription in self.all.values_mut().filter(|s| flow != FlowId::NONE && s.flow.id == flow) {
            subscription.flow.id = FlowId::NONE;
            if let Some(address) = Uri::parse(subscription.dialog.target()).ok().and_then(|uri| uri.socket_addr()) {
                subscription.flow.peer = address;
            }
        }
    }

    /// Ends what the device watched with secrets that are dead.
    /// Those of the lines in `keep` are alive.
    pub fn drop_generation_below(&mut self, mac: MacAddr, generation: Generation, keep: &[LineNumber]) {
        for id in self.ids_of(mac, |s| s.watcher.generation < generation && !keep.contains(&s.watcher.line)) {
            self.end(id, Reason::Rejected);
        }
    }

    /// Puts a stored subscription back at start. Its phone is told soon how things are now.
    pub fn restore(&mut self, now: Instant, stored: Stored) {
        let Stored { dialog, watcher, flow, event, resource, expires } = stored;
        let name = event.split(';').next().unwrap_or_default();
        let Some(package) = self.config.packages.iter().find(|package| package.name == name).copied() else { return };
        if expires <= now || self.all.len() >= self.config.max || self.by_tag.contains_key(&dialog.id.local_tag) {
            return;
        }
        self.restored += 1;
        let pause = now + RESTORED_FIRST + RESTORED_EACH * self.restored;
        let reserved = dialog.local_cseq;
        let dialog = Dialog::restore(dialog);
        let mut subscription = Subscription::new(now, dialog, watcher, flow, package, event, resource, expires);
        (subscription.reserved, subscription.due, subscription.pause) = (reserved, true, Some(pause));
        let id = self.insert(subscription);
        self.schedule.insert((pause, id, Timer::Again));
    }

    /// Time has passed; call at [`Self::poll_timeout`]. Earlier is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, id, timer)) = self.schedule.first().filter(|(at, ..)| *at <= now) {
            self.schedule.remove(&(at, id, timer));
            match timer {
                Timer::Expires => self.end(id, Reason::Timeout),
                Timer::Again => {
                    if let Some(subscription) = self.all.get_mut(&id) {
                        subscription.pause = None;
                    }
                    self.ask(id);
                }
            }
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.schedule.first().map(|(at, ..)| *at)
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    // --- SUBSCRIBE

    fn begin(
        &mut self,
        now: Instant,
        endpoint: &mut Endpoint,
        request: &Message,
        flow: Flow,
        watcher: Watcher,
        may: impl FnOnce(&str, &str) -> Result<(), u16>,
    ) -> Result<(SubscriptionId, Response), Response> {
        let (package, event) = self.event_of(request)?;
        let fits = |accepted: &[u8]| {
            let kind = super::header::text(accepted);
            let kind = kind.split(';').next().unwrap_or_default().trim();
            kind == "*/*" || kind.eq_ignore_ascii_case("application/*") || kind.eq_ignore_ascii_case(package.content_type)
        };
        if request.header(Name::Accept).is_some_and(|value| !value.is_empty()) && !request.elements(Name::Accept).any(fits) {
            return Err(Response::to(request, 406).header(Name::Accept, package.content_type));
        }
        let expires = self.expires_of(request)?;
        let uri = request.uri().map_err(|fault| Response::fault(request, &fault))?;
        let resource = uri.user().unwrap_or_default().into_owned();
        if resource.is_empty() || resource.len() > LONGEST || resource.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(Response::to(request, 404));
        }
        may(package.name, &resource).map_err(|status| Response::to(request, status))?;
        if self.all.len() >= self.config.max {
            return Err(Response::to(request, 503).header(Name::RetryAfter, 60));
        }
        let tag = endpoint.ids().token();
        let contact = contact(endpoint, &flow, &resource);
        let dialog = Dialog::from_request(request, &tag, &contact).map_err(|fault| Response::fault(request, &fault))?;
        let response = dialog.response(request, 200).header(Name::Expires, expires.as_secs());
        self.make_room(watcher.mac);
        let subscription = Subscription::new(now, dialog, watcher, flow, package, event, resource, now + expires);
        let id = self.insert(subscription);
        if expires.is_zero() {
            // A phone that only asks once (RFC 6665 §4.4.3).
            self.end(id, Reason::Timeout);
        } else {
            self.save(id);
        }
        Ok((id, response))
    }

    fn refresh(
        &mut self,
        now: Instant,
        request: &Message,
        flow: Flow,
        watcher: &Watcher,
        dialog: &DialogId,
    ) -> Result<(SubscriptionId, Response), Response> {
        let known = self.by_tag.get(&dialog.local_tag).copied();
        let subscription = known.and_then(|id| self.all.get_mut(&id).map(|s| (id, s)));
        let Some((id, subscription)) = subscription.filter(|(_, s)| s.dialog.id == *dialog && s.ending.is_none()) else {
            return Err(Response::to(request, 481));
        };
        if (subscription.watcher.mac, subscription.watcher.line) != (watcher.mac, watcher.line) {
            return Err(Response::to(request, 403));
        }
        let (_, event) = self.event_of(request)?;
        let expires = self.expires_of(request)?;
        let Some(subscription) = self.all.get_mut(&id).filter(|s| s.event == event) else {
            return Err(Response::to(request, 481));
        };
        if subscription.dialog.accept(request).is_err() {
            return Err(Response::to(request, 500));
        }
        subscription.dialog.refresh_target(request);
        subscription.flow = flow;
        subscription.watcher = watcher.clone();
        subscription.refreshed = now;
        subscription.failures = 0;
        subscription.due = true;
        let response = subscription.dialog.response(request, 200).header(Name::Expires, expires.as_secs());
        if expires.is_zero() {
            self.end(id, Reason::Timeout);
        } else {
            self.schedule.remove(&(subscription.expires, id, Timer::Expires));
            subscription.expires = now + expires;
            self.schedule.insert((subscription.expires, id, Timer::Expires));
            self.save(id);
        }
        Ok((id, response))
    }

    /// The package that is asked for, and the Event that NOTIFYs carry: an `id` is part of it (RFC 6665 §8.2.1).
    fn event_of(&self, request: &Message) -> Result<(Package, String), Response> {
        let value = request.text(Name::Event).unwrap_or_default();
        let (name, params) = value.split_once(';').unwrap_or((&value, ""));
        let Some(package) = self.config.packages.iter().find(|package| name.trim() == package.name) else {
            let names: Vec<_> = self.config.packages.iter().map(|package| package.name).collect();
            return Err(Response::to(request, 489).header(Name::AllowEvents, names.join(", ")));
        };
        let id = Params::new(params.as_bytes()).value("id").filter(|id| id.len() <= LONGEST);
        Ok((*package, id.map_or_else(|| package.name.to_owned(), |id| format!("{};id={id}", package.name))))
    }

    fn expires_of(&self, request: &Message) -> Result<Duration, Response> {
        Ok(match request.expires().map(|secs| Duration::from_secs(secs.into())) {
            None => self.config.default_expires,
            Some(Duration::ZERO) => Duration::ZERO,
            Some(wished) if wished < self.config.min_expires => {
                return Err(Response::to(request, 423).header(Name::MinExpires, self.config.min_expires.as_secs()));
            }
            Some(wished) => wished.min(self.config.max_expires),
        })
    }

    /// A phone that was restarted subscribes anew and leaves its old ones behind.
    fn make_room(&mut self, mac: MacAddr) {
        let own = self.by_device.get(&mac).into_iter().flatten();
        let own: Vec<_> = own.filter_map(|id| self.all.get(id).map(|s| (s.refreshed, *id))).collect();
        if own.len() >= self.config.max_per_device
            && let Some((_, oldest)) = own.into_iter().min()
        {
            self.remove(oldest, "more than a phone may have");
        }
    }

    // --- answers to NOTIFY

    fn handle_answer(&mut self, now: Instant, id: SubscriptionId, response: &Message) {
        match response.status().unwrap_or_default() {
            200..300 => {
                if let Some(subscription) = self.all.get_mut(&id) {
                    subscription.failures = 0;
                }
                self.ask(id);
            }
            // RFC 5057 §5.1: these end the subscription, all others only the transaction.
            404 | 405 | 408 | 410 | 416 | 480..=485 | 489 | 501 | 604 => self.remove(id, "the phone knows nothing of it"),
            _ => self.handle_failure(now, id, response.number(Name::RetryAfter).ok().flatten()),
        }
    }

    fn handle_failure(&mut self, now: Instant, id: SubscriptionId, retry_after_secs: Option<u32>) {
        let Some(subscription) = self.all.get_mut(&id) else { return };
        subscription.failures += 1;
        if subscription.failures >= MOST_FAILURES {
            return self.remove(id, "failed again and again");
        }
        let pause = PAUSE * 2u32.pow(subscription.failures - 1);
        let pause = retry_after_secs.map_or(pause, |secs| Duration::from_secs(secs.into()).clamp(Duration::from_secs(1), pause * 8));
        subscription.due = true;
        subscription.pause = Some(now + pause);
        self.schedule.insert((now + pause, id, Timer::Again));
    }

    // --- within

    fn make_due(&mut self, id: SubscriptionId) {
        if let Some(subscription) = self.all.get_mut(&id) {
            subscription.due = true;
        }
        self.ask(id);
    }

    /// Asks for the document if there is something to tell and nothing in the way.
    fn ask(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.all.get_mut(&id) else { return };
        let waits = subscription.under_way.is_some() || subscription.pause.is_some();
        // The last word does not wait.
        if !subscription.due || subscription.asked || (waits && subscription.ending.is_none()) {
            return;
        }
        subscription.asked = true;
        self.actions.push_back(Action::Write {
            id,
            package: subscription.package.name,
            resource: subscription.resource.clone(),
            entity: subscription.dialog.local_uri().to_owned(),
            version: subscription.dialog.local_cseq(),
        });
    }

    fn end(&mut self, id: SubscriptionId, reason: Reason) {
        let Some(subscription) = self.all.get_mut(&id) else { return };
        subscription.ending.get_or_insert(reason);
        subscription.due = true;
        self.ask(id);
    }

    fn save(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.all.get_mut(&id) else { return };
        subscription.reserved = subscription.dialog.local_cseq().saturating_add(RESERVE);
        let mut dialog = subscription.dialog.kept();
        dialog.local_cseq = subscription.reserved;
        self.actions.push_back(Action::Save(Box::new(Stored {
            dialog,
            watcher: subscription.watcher.clone(),
            flow: subscription.flow,
            event: subscription.event.clone(),
            resource: subscription.resource.clone(),
            expires: subscription.expires,
        })));
    }

    fn insert(&mut self, subscription: Subscription) -> SubscriptionId {
        self.next += 1;
        let id = SubscriptionId(self.next);
        self.by_tag.insert(subscription.dialog.id.local_tag.clone(), id);
        self.by_resource.entry(subscription.resource.clone()).or_default().push(id);
        self.by_device.entry(subscription.watcher.mac).or_default().push(id);
        self.schedule.insert((subscription.expires, id, Timer::Expires));
        self.all.insert(id, subscription);
        metrics::gauge!("plugtone_sip_subscriptions").set(self.all.len() as f64);
        id
    }

    fn remove(&mut self, id: SubscriptionId, why: &'static str) {
        let Some(subscription) = self.all.remove(&id) else { return };
        let Subscription { dialog, watcher, resource, expires, pause, under_way, .. } = subscription;
        tracing::debug!(mac = %watcher.mac, user = %watcher.user, %resource, why, "subscription is over");
        self.by_tag.remove(&dialog.id.local_tag);
        forget(&mut self.by_resource, &resource, id);
        forget(&mut self.by_device, &watcher.mac, id);
        self.schedule.remove(&(expires, id, Timer::Expires));
        if let Some(at) = pause {
            self.schedule.remove(&(at, id, Timer::Again));
        }
        if let Some(tx) = under_way {
            self.under_way.remove(&tx);
            self.farewells.insert(tx);
        }
        self.actions.push_back(Action::Remove { local_tag: dialog.id.local_tag });
        metrics::gauge!("plugtone_sip_subscriptions").set(self.all.len() as f64);
    }

    fn ids_of(&self, mac: MacAddr, wanted: impl Fn(&Subscription) -> bool) -> Vec<SubscriptionId> {
        let ids = self.by_device.get(&mac).into_iter().flatten();
        ids.copied().filter(|id| self.all.get(id).is_some_and(&wanted)).collect()
    }
}

impl Subscription {
    #[allow(clippy::too_many_arguments)]
    fn new(
        now: Instant,
        dialog: Dialog,
        watcher: Watcher,
        flow: Flow,
        package: Package,
        event: String,
        resource: String,
        expires: Instant,
    ) -> Self {
        Self {
            dialog,
            watcher,
            flow,
            package,
            event,
            resource,
            expires,
            refreshed: now,
            reserved: 0,
            under_way: None,
            due: true,
            asked: false,
            pause: None,
            failures: 0,
            ending: None,
        }
    }
}

fn forget<K: std::hash::Hash + Eq>(index: &mut HashMap<K, Vec<SubscriptionId>>, key: &K, id: SubscriptionId) {
    if let Some(ids) = index.get_mut(key) {
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

fn contact(endpoint: &Endpoint, flow: &Flow, resource: &str) -> String {
    let user = super::uri::escape_user(resource);
    format!("<sip:{user}@{}{}>", endpoint.sent_by(flow), flow.transport.as_uri_param())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::endpoint;

    const DIALOG: Package = Package { name: "dialog", content_type: "application/dialog-info+xml" };

    /// A notifier and a phone that answers what `answers` says, or nothing when it is 0.
    struct Bed {
        start: Instant,
        now: Instant,
        endpoint: Endpoint,
        subscriptions: Subscriptions,
        cseq: u32,
        answers: u16,
        /// What is true now: goes into documents.
        truth: u32,
        /// Second, state and body of each NOTIFY, and the message.
        told: Vec<(u64, String, String)>,
        notifies: Vec<Message>,
        kept: HashMap<String, Stored>,
    }

    fn flow() -> Flow {
        Flow::udp("10.0.0.1:5060".parse().unwrap(), "10.0.0.5:5060".parse().unwrap())
    }

    fn watcher(last: u8) -> Watcher {
        Watcher { user: "2041".into(), mac: MacAddr([0, 0, 0, 0, 0, last]), line: 1, generation: 1 }
    }

    impl Bed {
        fn new() -> Self {
            let config = Config { packages: vec![DIALOG], max: 4, max_per_device: 2, ..Config::default() };
            let mut endpoint = endpoint::Config::default();
            endpoint.abilities.methods.push(Method::Subscribe);
            let start = Instant::now();
            Self {
                start,
                now: start,
                endpoint: Endpoint::new(endpoint, [7; 32]),
                subscriptions: Subscriptions::new(config),
                cseq: 0,
                answers: 200,
                truth: 0,
                told: vec![],
                notifies: vec![],
                kept: HashMap::new(),
            }
        }

        /// Sends a SUBSCRIBE of this phone; returns the answer.
        fn subscribe(&mut self, phone: u8, call_id: &str, to_tag: &str, headers: &str) -> Message {
            self.cseq += 1;
            let cseq = self.cseq;
            let tag = if to_tag.is_empty() { String::new() } else { format!(";tag={to_tag}") };
            let text = format!(
                "SUBSCRIBE sip:2042@pbx SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.5;branch=z9hG4bK{cseq}{to_tag}\r\nMax-Forwards: 70\r\n\
                 From: <sip:2041@pbx>;tag=p\r\nTo: <sip:2042@pbx>{tag}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} SUBSCRIBE\r\n\
                 Contact: <sip:2041@10.0.0.5>\r\n{headers}Content-Length: 0\r\n\r\n"
            );
            self.endpoint.handle_message(self.now, flow(), text.into());
            while let Some(event) = self.endpoint.poll_event() {
                if let Event::Request { tx, request, flow } = event {
                    let may = |_: &str, resource: &str| if resource == "2042" { Ok(()) } else { Err(404) };
                    let watcher = watcher(phone);
                    self.subscriptions.handle_subscribe(self.now, &mut self.endpoint, tx, &request, flow, watcher, may);
                }
            }
            let answer = self.endpoint.poll_transmit().expect("an answer, before any NOTIFY");
            let answer = Message::parse(answer.bytes).unwrap();
            assert!(answer.status().is_some(), "{answer:?}");
            self.settle();
            answer
        }

        fn settle(&mut self) {
            loop {
                let mut quiet = true;
                while let Some(action) = self.subscriptions.poll_action() {
                    quiet = false;
                    match action {
                        Action::Write { id, version, .. } => {
                            let body = format!("{} v{version}", self.truth);
                            self.subscriptions.notify(self.now, &mut self.endpoint, id, body.into());
                        }
                        Action::Save(stored) => drop(self.kept.insert(stored.dialog.id.local_tag.clone(), *stored)),
                        Action::Remove { local_tag } => drop(self.kept.remove(&local_tag)),
                    }
                }
                while let Some(transmit) = self.endpoint.poll_transmit() {
                    quiet = false;
                    let message = Message::parse(transmit.bytes).unwrap();
                    if !message.is(&Method::Notify) {
                        continue;
                    }
                    let known = self.notifies.iter().any(|seen| seen.bytes() == message.bytes());
                    if !known {
                        let state = message.text(Name::SubscriptionState).unwrap().into_owned();
                        let body = String::from_utf8_lossy(message.body()).into_owned();
                        self.told.push(((self.now - self.start).as_secs(), state, body));
                        self.notifies.push(message.clone());
                    }
                    if self.answers > 0 {
                        self.answer(&message);
                    }
                }
                while let Some(event) = self.endpoint.poll_event() {
                    quiet = false;
                    assert!(self.subscriptions.handle_event(self.now, event).is_none());
                }
                if quiet {
                    return;
                }
            }
        }

        fn answer(&mut self, notify: &Message) {
            let answer = Response::to(notify, self.answers).encode();
            self.endpoint.handle_message(self.now, flow(), answer);
        }

        fn changes(&mut self) {
            self.truth += 1;
            self.subscriptions.changed("dialog", "2042");
            self.settle();
        }

        fn run_to(&mut self, secs: u64) {
            let end = self.start + Duration::from_secs(secs);
            loop {
                let next = [self.subscriptions.poll_timeout(), self.endpoint.poll_timeout()].into_iter().flatten().min();
                let Some(next) = next.filter(|at| *at <= end) else { break };
                self.now = next.max(self.now);
                self.endpoint.handle_timeout(self.now);
                self.subscriptions.handle_timeout(self.now);
                self.settle();
            }
            self.now = end;
        }

        fn tag(answer: &Message) -> String {
            answer.to().unwrap().tag().expect("a tag").to_owned()
        }

        fn told(&mut self) -> Vec<(u64, String, String)> {
            std::mem::take(&mut self.told)
        }

        fn assert_nothing_left(&self) {
            let s = &self.subscriptions;
            assert_eq!((s.all.len(), s.by_tag.len(), s.by_resource.len(), s.by_device.len()), (0, 0, 0, 0));
            assert_eq!((s.under_way.len(), s.schedule.len(), self.kept.len()), (0, 0, 0));
        }
    }

    fn row(at: u64, state: &str, body: &str) -> (u64, String, String) {
        (at, state.into(), body.into())
    }

    #[test]
    fn a_phone_watches_refreshes_and_leaves() {
        let mut bed = Bed::new();
        let ok = bed.subscribe(1, "c", "", "Event: dialog;id=4\r\nExpires: 300\r\n");
        assert_eq!((ok.status(), ok.expires()), (Some(200), Some(300)));
        assert_eq!(ok.contact_uri(), Some("sip:2042@10.0.0.1:5060"));
        let tag = Bed::tag(&ok);
        assert_eq!(bed.told(), [row(0, "active;expires=300", "0 v0")]);
        let notify = &bed.notifies[0];
        assert_eq!((notify.raw_uri(), notify.header(Name::Event)), (&b"sip:2041@10.0.0.5"[..], Some(&b"dialog;id=4"[..])));
        assert_eq!((notify.from().unwrap().tag(), notify.to().unwrap().tag()), (Some(tag.as_str()), Some("p")));
        bed.run_to(100);
        bed.changes();
        assert_eq!(bed.told(), [row(100, "active;expires=200", "1 v1")]);
        let ok = bed.subscribe(1, "c", &tag, "Event: dialog;id=4\r\nExpires: 9000\r\n");
        assert_eq!(ok.expires(), Some(3600), "cut to the most");
        assert_eq!(bed.told(), [row(100, "active;expires=3600", "1 v2")], "each SUBSCRIBE is answered by a NOTIFY");
        bed.run_to(500);
        assert_eq!(bed.subscriptions.len(), 1, "the first expiry counts no more");
        bed.subscribe(1, "c", &tag, "Event: dialog;id=4\r\nExpires: 0\r\n");
        assert_eq!(bed.told(), [row(500, "terminated;reason=timeout", "1 v3")]);
        bed.run_to(600);
        bed.assert_nothing_left();
        assert_eq!(bed.subscribe(1, "c", &tag, "Event: dialog;id=4\r\n").status(), Some(481));
    }

    #[test]
    fn what_is_not_refreshed_ends_by_itself_and_a_single_question_is_answered_once() {
        let mut bed = Bed::new();
        bed.subscribe(1, "c", "", "Event: dialog\r\nExpires: 60\r\n");
        bed.run_to(70);
        assert_eq!(bed.told()[1..], [row(60, "terminated;reason=timeout", "0 v1")]);
        bed.assert_nothing_left();
        bed.subscribe(1, "d", "", "Event: dialog\r\nExpires: 0\r\n");
        assert_eq!(bed.told(), [row(70, "terminated;reason=timeout", "0 v0")]);
        bed.run_to(200);
        bed.assert_nothing_left();
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let mut bed = Bed::new();
        for (headers, status, header, value) in [
            ("Event: line-seize\r\n", 489, Name::AllowEvents, "dialog"),
            ("", 489, Name::AllowEvents, "dialog"),
            ("Event: dialog\r\nExpires: 5\r\n", 423, Name::MinExpires, "60"),
            ("Event: dialog\r\nAccept: application/pidf+xml\r\n", 406, Name::Accept, "application/dialog-info+xml"),
        ] {
            let answer = bed.subscribe(1, "c", "", headers);
            assert_eq!((answer.status(), answer.text(header).as_deref()), (Some(status), Some(value)), "{headers}");
        }
        assert_eq!(bed.subscribe(1, "c", "guess", "Event: dialog\r\n").status(), Some(481));
        let ok = bed.subscribe(1, "c", "", "Event: dialog\r\nAccept: text/x, application/dialog-info+xml\r\n");
        assert_eq!((ok.status(), ok.expires()), (Some(200), Some(3600)));
        let tag = Bed::tag(&ok);
        assert_eq!(bed.subscribe(2, "c", &tag, "Event: dialog\r\n").status(), Some(403), "another's phone");
        assert_eq!(bed.subscribe(1, "c", &tag, "Event: dialog;id=9\r\n").status(), Some(481), "another subscription");
        bed.cseq = 0;
        assert_eq!(bed.subscribe(1, "c", &tag, "Event: dialog\r\n").status(), Some(500), "a CSeq of before");
        assert_eq!(bed.told().len(), 1);
    }

    #[test]
    fn the_newest_state_wins_while_a_phone_is_slow() {
        let mut bed = Bed::new();
        bed.answers = 0;
        bed.subscribe(1, "c", "", "Event: dialog\r\n");
        for _ in 0..5 {
            bed.changes();
        }
        bed.run_to(3);
        assert_eq!(bed.told(), [row(0, "active;expires=3600", "0 v0")], "one under way");
        bed.answers = 200;
        let first = bed.notifies[0].clone();
        bed.answer(&first);
        while let Some(event) = bed.endpoint.poll_event() {
            bed.subscriptions.handle_event(bed.now, event);
        }
        bed.settle();
        assert_eq!(bed.told(), [row(3, "active;expires=3597", "5 v1")], "and then the last of five");
    }

    #[test]
    fn a_phone_that_fails_is_tried_again_and_one_that_forgot_is_let_go() {
        for (status, times) in [(481, 1), (489, 1), (500, 5), (401, 5)] {
            let mut bed = Bed::new();
            bed.answers = status;
            bed.subscribe(1, "c", "", "Event: dialog\r\n");
            bed.run_to(200);
            assert_eq!(bed.told().len(), times, "{status}");
            bed.assert_nothing_left();
        }
        let mut bed = Bed::new();
        bed.answers = 503;
        bed.subscribe(1, "c", "", "Event: dialog\r\n");
        bed.answers = 200;
        bed.changes();
        bed.run_to(100);
        assert_eq!(bed.told()[1..], [row(5, "active;expires=3595", "1 v1")], "after a pause, as it is then");
        bed.answers = 0;
        bed.changes();
        bed.run_to(200);
        assert_eq!(bed.told().len(), 1, "no answer in 64·T1");
        bed.assert_nothing_left();
    }

    #[test]
    fn tables_are_bounded_and_a_restarted_phone_pushes_out_its_own() {
        let mut bed = Bed::new();
        for call_id in ["1", "2", "3"] {
            assert_eq!(bed.subscribe(1, call_id, "", "Event: dialog\r\n").status(), Some(200));
            let next = (bed.now - bed.start).as_secs() + 10;
            bed.run_to(next);
        }
        let left: BTreeSet<_> = bed.subscriptions.all.values().map(|s| s.dialog.id.call_id.clone()).collect();
        assert_eq!(left, BTreeSet::from(["2".to_owned(), "3".to_owned()]));
        for (phone, status) in [(2, 200), (3, 200), (4, 503)] {
            assert_eq!(bed.subscribe(phone, &format!("x{phone}"), "", "Event: dialog\r\n").status(), Some(status));
        }
        assert_eq!(bed.kept.len(), 4);
        bed.told();
        bed.subscriptions.drop_generation_below(watcher(1).mac, 2, &[]);
        bed.settle();
        assert_eq!(bed.told().iter().filter(|(_, state, _)| state == "terminated;reason=rejected").count(), 2);
        assert_eq!(bed.subscriptions.len(), 2);
    }

    #[test]
    fn a_restart_goes_unnoticed() {
        let mut bed = Bed::new();
        let tag = Bed::tag(&bed.subscribe(1, "c", "", "Event: dialog\r\nExpires: 600\r\n"));
        // More NOTIFYs than were written as used at once.
        for _ in 0..RESERVE + 3 {
            bed.changes();
        }
        let last = bed.notifies.last().unwrap().cseq().unwrap().number;
        let kept: Vec<_> = bed.kept.values().cloned().collect();
        let mut after = Bed::new();
        after.cseq = bed.cseq;
        after.start = bed.start;
        after.truth = 7;
        for stored in kept {
            after.subscriptions.restore(after.now, stored);
        }
        after.settle();
        assert!(after.told().is_empty(), "not all at once");
        after.run_to(2);
        let notify = after.notifies[0].clone();
        assert_eq!(notify.call_id(), Ok("c"));
        assert_eq!((notify.from().unwrap().tag(), notify.to().unwrap().tag()), (Some(tag.as_str()), Some("p")));
        assert!(notify.cseq().unwrap().number > last, "{:?} after {last}", notify.cseq());
        assert!(after.told()[0].2.starts_with("7 v"));
        assert_eq!(after.subscribe(1, "c", &tag, "Event: dialog\r\nExpires: 600\r\n").status(), Some(200), "and it is refreshed");
        after.run_to(2000);
        after.assert_nothing_left();
    }

    #[test]
    fn a_phone_from_a_new_port_is_told_there() {
        let mut bed = Bed::new();
        bed.subscribe(1, "c", "", "Event: dialog\r\n");
        let moved = Flow { peer: "10.0.0.5:2048".parse().unwrap(), ..flow() };
        bed.subscriptions.handle_moved(watcher(1).mac, 1, moved);
        bed.subscriptions.changed("dialog", "2042");
        let Some(Action::Write { id, .. }) = bed.subscriptions.poll_action() else { panic!("a document is wanted") };
        bed.subscriptions.notify(bed.now, &mut bed.endpoint, id, Bytes::new());
        assert_eq!(bed.endpoint.poll_transmit().map(|transmit| transmit.flow), Some(moved));
    }
}
