//! The registrar (RFC 3261 §10.3): who can be reached where, by address of record and by device.
//!
//! Pure and in memory: [`Registrar::handle_register`] answers a REGISTER whose sender is known (`digest.rs`), and tells by
//! [`Registrar::poll_action`] what changed, for the event stream. [`Registrar::restore`] puts back what was stored. A contact
//! is reached over the flow that registered it: behind NAT no other works.
//!
//! The disk is written behind: [`Registrar::poll_save`] gives what it does not know yet, a new contact at once, one that was only
//! refreshed after half a minute, so that a thousand refreshes are one transaction and no phone waits for it; at once too if
//! the disk would else take it for expired by then.
//!
//! One line of one device has one contact (one per `reg-id` with RFC 5626, see [`Registrar::devices`]): a phone that comes back from another port,
//! or was restarted by a power cut, replaces itself. What is granted is spread ([`Config::jitter_percent`]): phones that came
//! back together do not refresh together for ever. A device that is
//! known by its instance has a GRUU, by which it and no other is called (RFC 5627). Missing: temporary GRUUs. Not here: presence.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::model::{Generation, LineNumber, MacAddr, NumberHash, hash::mixed};

use super::{
    build::Response,
    digest::Account,
    header::{NameAddr, quote, unquote},
    message::{Fault, Message},
    name::Name,
    transport::{Flow, FlowId},
    uri::Uri,
};

/// The option tag of RFC 5626: also what a Require may name.
pub const OUTBOUND: &str = "outbound";
/// The option tag of RFC 5627.
pub const GRUU: &str = "gruu";
/// So often a phone shall send a keep-alive: most NAT remembers a connection for longer, and UDP's phones know better themselves.
const FLOW_TIMER_SECS: u32 = 120;

#[derive(Clone, Debug)]
pub struct Config {
    /// Shorter wishes get 423 with this as Min-Expires.
    pub min_expires: Duration,
    /// Longer wishes are cut to this.
    pub max_expires: Duration,
    /// For a phone that wishes nothing.
    pub default_expires: Duration,
    /// Up to so many hundredths less are granted, never less than `min_expires`.
    pub jitter_percent: u8,
    /// Most contacts of one address of record.
    pub max_per_user: usize,
    /// Most contacts in all; beyond it new ones get 503.
    pub max_contacts: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            min_expires: Duration::from_secs(60),
            max_expires: Duration::from_secs(3600),
            default_expires: Duration::from_secs(600),
            jitter_percent: 10,
            max_per_user: 10,
            max_contacts: 100_000,
        }
    }
}

/// How long what matters may be missing on disk: a new contact, another flow, one more `Path`. Long enough that phones that
/// come back together share a commit, too short for a person to unplug the server in between.
const SAVE_NEWS: Duration = Duration::from_millis(50);
/// The same for a later end and a higher CSeq, of a contact that on disk does not end before: it is reached after a crash too.
const SAVE_REFRESH: Duration = Duration::from_secs(30);
/// A refresh that changes nothing is told this often, for the times at which devices were last seen.
const TELL_REFRESH: Duration = Duration::from_secs(300);
/// Proxies before us whose `Path` is kept, at most.
const MAX_PATH: usize = 4;
/// The value of `q` that counts where none is written, in thousandths.
const WHOLE: u16 = 1000;

/// One way to reach a line of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// User part of the address of record.
    pub user: String,
    pub mac: MacAddr,
    pub line: LineNumber,
    pub generation: Generation,
    pub provisional: bool,
    /// As registered: the Request-URI of what is sent to it.
    pub uri: String,
    /// How it is reached.
    pub flow: Flow,
    /// `+sip.instance` (RFC 5626), without quotes.
    pub instance: Option<String>,
    /// Which of a device's flows (RFC 5626); 0 for phones that do not say.
    pub reg_id: u32,
    /// Its `q` in thousandths: contacts with more of it ring first.
    pub q: u16,
    /// Route to it through proxies, top first, as registered (RFC 3327).
    pub path: Vec<String>,
    pub call_id: String,
    pub cseq: u32,
    pub user_agent: Option<String>,
    pub expires: Instant,
}

impl Contact {
    /// Both are flows of one device.
    fn leads_where(&self, other: &Self) -> bool {
        self.reg_id != 0
            && other.reg_id != 0
            && self.instance.is_some()
            && (self.mac, self.line, &self.instance) == (other.mac, other.line, &other.instance)
    }
}

/// What changed. Drain after every call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A new contact, one of a phone that says another user agent than before, or one refreshed. Refreshes that change nothing are told every five minutes only.
    Registered { contact: Contact, expires_secs: u32, refreshed: bool },
    /// A contact is gone. To be removed from the store.
    Unregistered { contact: Contact, reason: &'static str },
    /// The binding that it was made for has ended: nobody is called there any more. It stays in the store until the device
    /// registers anew, as the phone is told there to reload, also by a server that was restarted meanwhile.
    Outdated { contact: Contact },
    /// A REGISTER by somebody who is who they say, and may not have what they ask.
    Refused { user: String, mac: MacAddr, flow: Flow, reason: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct ContactId(u64);

struct Entry {
    contact: Contact,
    /// When the disk shall know it as it is now; `None`: it does.
    save: Option<Instant>,
    /// Until when the disk takes it for reachable.
    saved_until: Option<Instant>,
    told: Instant,
}

pub struct Registrar {
    config: Config,
    next: u64,
    contacts: HashMap<ContactId, Box<Entry>, NumberHash>,
    by_user: HashMap<String, Vec<ContactId>>,
    by_mac: HashMap<MacAddr, Vec<ContactId>>,
    /// Of connections only: when one breaks, its contacts must be reached otherwise.
    by_flow: HashMap<FlowId, Vec<ContactId>>,
    by_expiry: BTreeMap<(Instant, ContactId), ()>,
    /// What the disk does not know, by when it shall: news, refreshes. Entries that have another time by now are void.
    unsaved: [VecDeque<(Instant, ContactId)>; 2],
    actions: VecDeque<Action>,
    gauge: metrics::Gauge,
}

/// What one Contact element asks for.
struct Wish {
    uri: String,
    expires: Duration,
    instance: Option<String>,
    reg_id: u32,
    q: u16,
    /// The contact that it prolongs.
    prolongs: Option<ContactId>,
}

impl Wish {
    /// Flows of a phone may have the same URI (RFC 5626 §6).
    fn may_be(&self, old: &Contact) -> bool {
        self.reg_id == old.reg_id || self.reg_id == 0 || old.reg_id == 0
    }
}

/// Why a REGISTER fails: the status, and words for the log.
struct Refused {
    response: Response,
    reason: String,
}

impl Registrar {
    pub fn new(config: Config) -> Self {
        Self {
            config,
            next: 0,
            contacts: HashMap::default(),
            by_user: HashMap::new(),
            by_mac: HashMap::new(),
            by_flow: HashMap::new(),
            by_expiry: BTreeMap::new(),
            unsaved: Default::default(),
            actions: VecDeque::new(),
            gauge: metrics::gauge!("plugtone_sip_contacts"),
        }
    }

    /// Answers a REGISTER of `account`, which came over `flow`. All of it is done, or nothing (RFC 3261 §10.3 step 7).
    pub fn handle_register(&mut self, now: Instant, request: &Message, flow: Flow, account: &Account) -> Response {
        match self.apply(now, request, flow, account) {
            Ok(()) => self.list(now, request, account),
            Err(Refused { response, reason }) => {
                metrics::counter!("plugtone_sip_register_refused_total", "status" => response.status.to_string()).increment(1);
                self.actions.push_back(Action::Refused { user: account.user.clone(), mac: account.mac, flow, reason });
                response
            }
        }
    }

    /// Time has passed: contacts that were not refreshed are gone.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(((at, id), ())) = self.by_expiry.first_key_value()
            && *at <= now
        {
            let id = *id;
            self.remove(id, "not refreshed in time");
        }
    }

    /// A connection is gone. Contacts that can be reached by it alone are gone too (RFC 5626 §5.3.1, RFC 7118 §5): those phones
    /// make another and register again. Others stay: the next request tries the address that they named.
    pub fn handle_flow_closed(&mut self, flow: FlowId) {
        for id in self.by_flow.remove(&flow).unwrap_or_default() {
            let Some(contact) = self.contacts.get_mut(&id).map(|entry| &mut entry.contact) else { continue };
            if contact.reg_id != 0 || contact.flow.transport.is_web() {
                self.remove(id, "its connection is gone");
            } else {
                contact.flow.id = FlowId::NONE;
                if let Some(address) = Uri::parse(&contact.uri).ok().and_then(|uri| uri.socket_addr()) {
                    contact.flow.peer = address;
                }
            }
        }
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// A contact that the disk shall know by now, each once. [`Instant`]s far ahead give all there are, before a stop.
    pub fn poll_save(&mut self, now: Instant) -> Option<&Contact> {
        for queue in &mut self.unsaved {
            while let Some((at, id)) = queue.front().copied().filter(|(at, _)| *at <= now) {
                queue.pop_front();
                if let Some(entry) = self.contacts.get_mut(&id).filter(|entry| entry.save == Some(at)) {
                    entry.save = None;
                    entry.saved_until = Some(entry.contact.expires);
                    return self.contacts.get(&id).map(|entry| &entry.contact);
                }
            }
        }
        None
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.by_expiry.first_key_value().map(|((at, _), ())| *at)
    }

    /// When [`Self::poll_save`] has something next.
    pub fn poll_save_timeout(&self) -> Option<Instant> {
        self.unsaved.iter().filter_map(|queue| queue.front()).map(|(at, _)| *at).min()
    }

    /// Where the user can be reached: those with the most `q` first, of these the newest.
    pub fn contacts(&self, user: &str) -> impl Iterator<Item = &Contact> {
        let ids = self.by_user.get(user).into_iter().flatten().rev();
        let mut all: Vec<_> = ids.filter_map(|id| self.contacts.get(id)).map(|entry| &entry.contact).collect();
        all.sort_by_key(|contact| std::cmp::Reverse(contact.q));
        all.into_iter()
    }

    /// The user's devices as [`Self::contacts`] has them, each with the flows that lead to it: of these one is used, and the
    /// next when it fails (RFC 5626 §5.3).
    pub fn devices(&self, user: &str) -> Vec<Vec<&Contact>> {
        let mut devices: Vec<Vec<&Contact>> = Vec::new();
        for contact in self.contacts(user) {
            match devices.iter_mut().find(|flows| flows.first().is_some_and(|first| first.leads_where(contact))) {
                Some(flows) => flows.push(contact),
                None => devices.push(vec![contact]),
            }
        }
        devices
    }

    /// The user's device that a GRUU means, by what its URI says in `gr`. `None`: it is not registered, or never was.
    pub fn device_of_gruu(&self, user: &str, gr: &str) -> Option<MacAddr> {
        let wanted = super::uri::unescape(gr);
        let is = |contact: &Contact| contact.instance.as_deref().is_some_and(|instance| bare(instance).eq_ignore_ascii_case(&wanted));
        self.contacts(user).find(|contact| !contact.provisional && is(contact)).map(|contact| contact.mac)
    }

    /// The proxy before a device has no way to it any more (430): the device will register anew (RFC 5626 §5.3.1).
    pub fn handle_flow_failed(&mut self, mac: MacAddr, uri: &str, flow: Flow) {
        for id in self.ids_of(mac, |contact| contact.uri == uri && contact.flow.peer == flow.peer) {
            self.remove(id, "the proxy before it has lost its flow");
        }
    }

    /// Where the device can be reached, all its lines, newest first.
    pub fn contacts_of(&self, mac: MacAddr) -> impl Iterator<Item = &Contact> {
        self.by_mac.get(&mac).into_iter().flatten().rev().filter_map(|id| self.contacts.get(id)).map(|entry| &entry.contact)
    }

    /// Every contact, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Contact> {
        self.contacts.values().map(|entry| &entry.contact)
    }

    pub fn len(&self) -> usize {
        self.contacts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.contacts.is_empty()
    }

    /// Forgets what the device registered with secrets that are dead. Send it its check-sync first: see [`Self::contacts_of`].
    /// Those of the lines in `keep` are alive.
    pub fn drop_generation_below(&mut self, mac: MacAddr, generation: Generation, keep: &[LineNumber]) -> usize {
        let old: Vec<_> = self.ids_of(mac, |contact| contact.generation < generation && !keep.contains(&contact.line));
        for id in &old {
            if let Some(contact) = self.take(*id) {
                self.actions.push_back(Action::Outdated { contact });
            }
        }
        old.len()
    }

    /// Puts a stored contact back at start, without an action. One that is there already wins.
    pub fn restore(&mut self, now: Instant, contact: Contact) {
        let known = self.contacts_of(contact.mac).any(|c| c.line == contact.line && c.reg_id == contact.reg_id);
        if !known && contact.expires > now && self.contacts.len() < self.config.max_contacts {
            self.insert(now, contact, None);
        }
    }

    fn apply(&mut self, now: Instant, request: &Message, flow: Flow, account: &Account) -> Result<(), Refused> {
        let fail = |status, reason: String| Refused { response: Response::to(request, status), reason };
        let faulty = |fault: Fault| Refused { response: Response::fault(request, &fault), reason: fault.to_string() };
        let to = request.to().map_err(faulty)?;
        let user = to.uri().ok().and_then(|uri| uri.user()).unwrap_or_default();
        // One user's login registers nobody else's number.
        if user != account.user.as_str() {
            return Err(fail(403, format!("'{}' may not register '{:.40}'", account.user, user)));
        }
        let call_id = request.call_id().map_err(faulty)?;
        let cseq = request.cseq().map_err(faulty)?.number;
        let mut wishes = Vec::new();
        let mut star = false;
        for contact in request.contacts() {
            match contact.map_err(faulty)? {
                super::header::Contact::Star => star = true,
                super::header::Contact::One(contact) => {
                    wishes.push(self.wish(request, &contact, account, cseq)?);
                    if wishes.len() > self.config.max_per_user {
                        return Err(fail(403, "more contacts in one request than a user may have".into()));
                    }
                }
            }
        }
        let own = self.ids_of(account.mac, |contact| contact.line == account.line);
        if star {
            // RFC 3261 §10.2.2: alone, and with Expires: 0. It removes what this phone registered: a phone that says so when it
            // restarts must not take the user's other phones with it.
            if !wishes.is_empty() || request.expires() != Some(0) {
                return Err(fail(400, "Contact: * without Expires: 0, or not alone".into()));
            }
            self.in_order(&own, call_id, cseq, request)?;
            for id in own {
                if self.contacts.get(&id).is_some_and(|entry| entry.contact.user == account.user) {
                    self.remove(id, "unregistered by the phone");
                }
            }
            return Ok(());
        }
        if wishes.is_empty() {
            return Ok(());
        }
        if request.elements(Name::Path).nth(MAX_PATH).is_some() {
            return Err(fail(403, format!("more than {MAX_PATH} proxies in Path")));
        }
        self.in_order(&own, call_id, cseq, request)?;
        let added = wishes.iter().filter(|wish| !wish.expires.is_zero()).count();
        let others = self.contacts(&account.user).filter(|c| (c.mac, c.line) != (account.mac, account.line)).count();
        if added > 0 && others + added > self.config.max_per_user {
            return Err(fail(403, format!("'{}' has as many contacts as it may have", account.user)));
        }
        if added > own.len() && self.contacts.len() + added > self.config.max_contacts {
            let response = Response::to(request, 503).header(Name::RetryAfter, 60);
            return Err(Refused { response, reason: "the table of contacts is full".into() });
        }
        self.replace(now, request, flow, account, wishes, own);
        Ok(())
    }

    /// Removes what the phone no longer names, then puts in or prolongs what it names.
    fn replace(&mut self, now: Instant, request: &Message, flow: Flow, account: &Account, mut wishes: Vec<Wish>, own: Vec<ContactId>) {
        let keeps = wishes.iter().any(|wish| !wish.expires.is_zero());
        for id in own {
            let Some(old) = self.contacts.get(&id).map(|entry| &entry.contact) else { continue };
            let superseded = wishes.iter().any(|wish| wish.reg_id == old.reg_id) || old.user != account.user;
            match wishes.iter_mut().find(|wish| wish.may_be(old) && same(&wish.uri, &old.uri)) {
                Some(wish) if wish.expires.is_zero() => self.remove(id, "unregistered by the phone"),
                Some(wish) if wish.uri == old.uri && old.user == account.user => wish.prolongs = Some(id),
                Some(_) => self.remove(id, "registered anew under another spelling"),
                None if keeps && superseded => self.remove(id, "the phone registered from elsewhere"),
                None => {}
            }
        }
        let user_agent = request.text(Name::UserAgent).map(|text| text.chars().take(120).collect::<String>());
        let path: Vec<String> = request.elements(Name::Path).map(|value| super::header::text(value).into_owned()).collect();
        for wish in wishes.into_iter().filter(|wish| !wish.expires.is_zero()) {
            let expires_secs = wish.expires.as_secs() as u32;
            let contact = Contact {
                user: account.user.clone(),
                mac: account.mac,
                line: account.line,
                generation: account.generation,
                provisional: account.provisional,
                uri: wish.uri,
                flow,
                instance: wish.instance,
                reg_id: wish.reg_id,
                q: wish.q,
                path: path.clone(),
                call_id: request.call_id().unwrap_or_default().to_owned(),
                cseq: request.cseq().map_or(0, |cseq| cseq.number),
                user_agent: user_agent.clone(),
                expires: now + wish.expires,
            };
            // With another firmware it has been started anew, though it is where it was.
            let same = |id: ContactId| self.contacts.get(&id).is_some_and(|entry| entry.contact.user_agent == contact.user_agent);
            let refreshed = wish.prolongs.is_some_and(same);
            let tell = match wish.prolongs {
                Some(id) => self.prolong(now, id, contact),
                None => Some(self.insert(now, contact, Some(now + SAVE_NEWS))),
            };
            let told = tell.and_then(|id| self.contacts.get(&id));
            if let Some(contact) = told.map(|entry| entry.contact.clone()) {
                self.actions.push_back(Action::Registered { contact, expires_secs, refreshed });
            }
        }
    }

    /// Puts a contact in the place of its former self; gives its number if that is worth telling.
    fn prolong(&mut self, now: Instant, id: ContactId, contact: Contact) -> Option<ContactId> {
        let entry = self.contacts.get_mut(&id)?;
        let old = &entry.contact;
        self.by_expiry.remove(&(old.expires, id));
        self.by_expiry.insert((contact.expires, id), ());
        if old.flow.id != contact.flow.id {
            forget(&mut self.by_flow, &old.flow.id, id);
            if contact.flow.id != FlowId::NONE {
                self.by_flow.entry(contact.flow.id).or_default().push(id);
            }
        }
        let as_before = |c: &Contact| (c.flow, c.generation, c.provisional, c.reg_id, c.q);
        let news = as_before(old) != as_before(&contact)
            || (&old.instance, &old.path, &old.user_agent) != (&contact.instance, &contact.path, &contact.user_agent);
        entry.contact = contact;
        let lapses = entry.saved_until.is_none_or(|end| end <= now + SAVE_REFRESH);
        let (queue, save) = if news || lapses { (0, now + SAVE_NEWS) } else { (1, now + SAVE_REFRESH) };
        if entry.save.is_none_or(|due| save < due) {
            entry.save = Some(save);
            if let Some(queue) = self.unsaved.get_mut(queue) {
                queue.push_back((save, id));
            }
        }
        let tell = news || now.saturating_duration_since(entry.told) >= TELL_REFRESH;
        if tell {
            entry.told = now;
        }
        tell.then_some(id)
    }

    /// Within one Call-ID the CSeq rises: what comes late changes nothing (RFC 3261 §10.3 step 7).
    fn in_order(&self, own: &[ContactId], call_id: &str, cseq: u32, request: &Message) -> Result<(), Refused> {
        let mut contacts = own.iter().filter_map(|id| self.contacts.get(id)).map(|entry| &entry.contact);
        if !contacts.any(|c| c.call_id == call_id && c.cseq >= cseq) {
            return Ok(());
        }
        let response = Response::with_reason(request, 500, "CSeq is not above the last one");
        Err(Refused { response, reason: format!("CSeq {cseq} is not above the last one of this Call-ID") })
    }

    fn wish(&self, request: &Message, contact: &NameAddr<'_>, account: &Account, cseq: u32) -> Result<Wish, Refused> {
        let uri = contact.uri().map_err(|error| Refused {
            response: Response::with_reason(request, 400, &format!("Contact: {error}")),
            reason: format!("Contact: {error}"),
        })?;
        let params = contact.params();
        // RFC 3261 §20.10: a wish that is no number counts as 3600.
        let written = match params.value("expires") {
            Some(text) => Some(text.parse::<u64>().unwrap_or(3600)),
            None => request.expires().map(u64::from),
        };
        let expires = match written.map(Duration::from_secs) {
            None => self.spread(self.config.default_expires, account, cseq),
            Some(Duration::ZERO) => Duration::ZERO,
            Some(wished) if wished < self.config.min_expires => {
                let secs = self.config.min_expires.as_secs();
                return Err(Refused {
                    response: Response::to(request, 423).header(Name::MinExpires, secs),
                    reason: format!("wants {} s, the least is {secs} s", wished.as_secs()),
                });
            }
            Some(wished) => self.spread(wished.min(self.config.max_expires), account, cseq),
        };
        Ok(Wish {
            uri: uri.as_str().to_owned(),
            expires,
            instance: params.value("+sip.instance").map(|i| unquote(i).chars().take(120).collect()),
            reg_id: params.value("reg-id").and_then(|id| id.parse().ok()).unwrap_or(0),
            q: params.value("q").map_or(WHOLE, thousandths),
            prolongs: None,
        })
    }

    /// What is granted instead of `expires`: whole seconds, some less for each phone and each time, so that phones that
    /// registered at once drift apart. No chance in it: the same device and CSeq get the same.
    fn spread(&self, expires: Duration, account: &Account, cseq: u32) -> Duration {
        let secs = expires.as_secs();
        let most = secs * u64::from(self.config.jitter_percent.min(100)) / 100;
        let device = account.mac.0.iter().chain(&[account.line]).fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
        let less = mixed(device ^ u64::from(cseq) << 32) % (most + 1);
        Duration::from_secs(secs - less).max(self.config.min_expires.min(expires))
    }

    /// The 200, with every contact of the user (RFC 3261 §10.3 step 8), and the Path that was noted (RFC 3327 §5.3).
    fn list(&self, now: Instant, request: &Message, account: &Account) -> Response {
        let mut response = Response::to(request, 200);
        // RFC 5626 §6: it is told that its flow is what leads to it, and by when NAT must hear of it.
        let kept = |c: &Contact| (c.mac, c.line) == (account.mac, account.line) && c.instance.is_some() && c.reg_id != 0;
        if request.lists(Name::Supported, OUTBOUND) && self.contacts(&account.user).any(kept) {
            response = response.header(Name::Require, OUTBOUND).header_named("Flow-Timer", FLOW_TIMER_SECS);
        }
        let aor = request.to().ok().filter(|_| request.lists(Name::Supported, GRUU)).map(|to| to.uri_str().to_owned());
        let listed = self.contacts(&account.user).fold(response, |response, contact| {
            let secs = contact.expires.saturating_duration_since(now).as_secs();
            let mut more = String::new();
            if contact.q != WHOLE {
                more.push_str(&format!(";q={:.3}", f32::from(contact.q) / 1000.0));
            }
            if let Some(instance) = &contact.instance {
                more.push_str(&format!(";+sip.instance={}", quote(instance)));
                if let Some(aor) = aor.as_deref().filter(|_| !contact.provisional) {
                    more.push_str(&format!(";pub-gruu={}", quote(&gruu(aor, instance))));
                }
            }
            if contact.reg_id != 0 {
                more.push_str(&format!(";reg-id={}", contact.reg_id));
            }
            response.header(Name::Contact, format_args!("<{}>;expires={secs}{more}", contact.uri))
        });
        match request.lists(Name::Supported, "path") {
            true => request.all(Name::Path).fold(listed, |response, value| response.header(Name::Path, super::header::text(value))),
            false => listed,
        }
    }

    fn ids_of(&self, mac: MacAddr, wanted: impl Fn(&Contact) -> bool) -> Vec<ContactId> {
        let ids = self.by_mac.get(&mac).into_iter().flatten();
        ids.copied().filter(|id| self.contacts.get(id).is_some_and(|entry| wanted(&entry.contact))).collect()
    }

    fn insert(&mut self, now: Instant, contact: Contact, save: Option<Instant>) -> ContactId {
        self.next += 1;
        let id = ContactId(self.next);
        self.by_user.entry(contact.user.clone()).or_insert_with(|| Vec::with_capacity(1)).push(id);
        self.by_mac.entry(contact.mac).or_insert_with(|| Vec::with_capacity(1)).push(id);
        if contact.flow.id != FlowId::NONE {
            self.by_flow.entry(contact.flow.id).or_default().push(id);
        }
        self.by_expiry.insert((contact.expires, id), ());
        if let (Some(save), [news, _]) = (save, &mut self.unsaved) {
            news.push_back((save, id));
        }
        let saved_until = save.is_none().then_some(contact.expires);
        self.contacts.insert(id, Box::new(Entry { contact, save, saved_until, told: now }));
        self.gauge.set(self.contacts.len() as f64);
        id
    }

    fn remove(&mut self, id: ContactId, reason: &'static str) {
        if let Some(contact) = self.take(id) {
            self.actions.push_back(Action::Unregistered { contact, reason });
        }
    }

    fn take(&mut self, id: ContactId) -> Option<Contact> {
        let Entry { contact, .. } = *self.contacts.remove(&id)?;
        self.by_expiry.remove(&(contact.expires, id));
        forget(&mut self.by_user, &contact.user, id);
        forget(&mut self.by_mac, &contact.mac, id);
        forget(&mut self.by_flow, &contact.flow.id, id);
        self.gauge.set(self.contacts.len() as f64);
        Some(contact)
    }
}

/// `urn:uuid:…` of `<urn:uuid:…>`.
fn bare(instance: &str) -> &str {
    instance.trim().trim_start_matches('<').trim_end_matches('>')
}

/// The public GRUU of an instance (RFC 5627 §5.1): its address of record, and what names it.
fn gruu(aor: &str, instance: &str) -> String {
    let mut gruu = aor.split([';', '?']).next().unwrap_or(aor).to_owned();
    gruu.push_str(";gr=");
    for byte in bare(instance).bytes() {
        // RFC 3261 §25.1: paramchar.
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => gruu.push(char::from(byte)),
            _ if b"-_.!~*'()[]/:&+$".contains(&byte) => gruu.push(char::from(byte)),
            _ => gruu.push_str(&format!("%{byte:02X}")),
        }
    }
    gruu
}

fn forget<K: std::hash::Hash + Eq>(index: &mut HashMap<K, Vec<ContactId>>, key: &K, id: ContactId) {
    if let Some(ids) = index.get_mut(key) {
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

fn same(a: &str, b: &str) -> bool {
    a == b || matches!((Uri::parse(a), Uri::parse(b)), (Ok(a), Ok(b)) if a.is_same_as(&b))
}

/// `0.5` as 500; what is no `q` of RFC 3261 §25.1 counts as 1.
fn thousandths(q: &str) -> u16 {
    q.parse::<f32>().ok().filter(|q| (0.0..=1.0).contains(q)).map_or(WHOLE, |q| (q * 1000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Secret;

    struct Bed {
        start: Instant,
        registrar: Registrar,
        cseq: u32,
    }

    fn account(device: u8, user: &str, generation: u32) -> Account {
        Account {
            user: user.into(),
            mac: MacAddr([0, 0, 0, 0, 0, device]),
            line: 1,
            generation,
            provisional: user.starts_with("new"),
            display_name: String::new(),
            secret: Secret::new("x"),
        }
    }

    impl Bed {
        fn new() -> Self {
            let config = Config { max_per_user: 2, jitter_percent: 0, ..Config::default() };
            Self { start: Instant::now(), registrar: Registrar::new(config), cseq: 0 }
        }

        fn at(&self, secs: u64) -> Instant {
            self.start + Duration::from_secs(secs)
        }

        /// Sends a REGISTER with the next CSeq for `account`'s own number; `contact` may hold several lines.
        fn register(&mut self, secs: u64, account: &Account, contact: &str) -> Message {
            self.cseq += 1;
            self.register_as(secs, account, &account.user.clone(), contact, "c1", self.cseq)
        }

        fn register_as(&mut self, secs: u64, account: &Account, user: &str, contact: &str, call_id: &str, cseq: u32) -> Message {
            let text = format!(
                "REGISTER sip:pbx SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.5;branch=z9hG4bK1\r\nFrom: <sip:{user}@pbx>;tag=1\r\n\
                 To: <sip:{user}@pbx>\r\nCall-ID: {call_id}\r\nCSeq: {cseq} REGISTER\r\n{contact}\r\n"
            );
            let request = Message::parse(text.into()).unwrap();
            let flow = Flow::udp("10.0.0.1:5060".parse().unwrap(), "10.0.0.5:5060".parse().unwrap());
            let response = self.registrar.handle_register(self.at(secs), &request, flow, account);
            Message::parse(response.encode()).unwrap()
        }

        fn uris(&self, user: &str) -> Vec<String> {
            self.registrar.contacts(user).map(|c| c.uri.clone()).collect()
        }

        /// `+uri`, `-uri`, and `~uri` of an ended binding.
        fn changes(&mut self) -> Vec<String> {
            let mut seen = Vec::new();
            while let Some(action) = self.registrar.poll_action() {
                seen.push(match action {
                    Action::Registered { contact, refreshed, .. } => format!("{}{}", if refreshed { "=" } else { "+" }, contact.uri),
                    Action::Unregistered { contact, .. } => format!("-{}", contact.uri),
                    Action::Outdated { contact } => format!("~{}", contact.uri),
                    Action::Refused { reason, .. } => format!("!{reason}"),
                });
            }
            seen
        }
    }

    #[test]
    fn a_phone_registers_refreshes_and_leaves() {
        let mut bed = Bed::new();
        let ada = account(1, "2041", 1);
        let ok = bed.register(0, &ada, "Contact: <sip:2041@10.0.0.5>;expires=120\r\n");
        assert_eq!((ok.status(), ok.header(Name::Contact)), (Some(200), Some(&b"<sip:2041@10.0.0.5>;expires=120"[..])));
        assert_eq!(bed.changes(), ["+sip:2041@10.0.0.5"]);
        let ok = bed.register(100, &ada, "Contact: <sip:2041@10.0.0.5>\r\nExpires: 90000\r\n");
        assert_eq!(ok.header(Name::Contact), Some(&b"<sip:2041@10.0.0.5>;expires=3600"[..]), "cut to the most");
        assert!(bed.changes().is_empty(), "nothing that anybody must know");
        bed.register(400, &ada, "Contact: <sip:2041@10.0.0.5>\r\nExpires: 90000\r\n");
        assert_eq!(bed.changes(), ["=sip:2041@10.0.0.5"], "but that it is still there");
        let ok = bed.register(410, &ada, "");
        assert_eq!(ok.elements(Name::Contact).count(), 1, "a query");
        let ok = bed.register(420, &ada, "Contact: <sip:2041@10.0.0.5>;expires=0\r\n");
        assert_eq!((ok.status(), ok.header(Name::Contact)), (Some(200), None));
        assert_eq!(bed.changes(), ["-sip:2041@10.0.0.5"]);
        assert_eq!((bed.registrar.len(), bed.registrar.poll_timeout()), (0, None));
    }

    #[test]
    fn a_phone_from_a_new_port_replaces_itself_and_nobody_else() {
        let mut bed = Bed::new();
        bed.register(0, &account(1, "2041", 1), "Contact: <sip:2041@10.0.0.5:1024>\r\n");
        bed.register(0, &account(2, "2041", 1), "Contact: <sip:2041@10.0.0.6:1024>\r\n");
        bed.changes();
        bed.register(10, &account(1, "2041", 1), "Contact: <sip:2041@10.0.0.5:2048>\r\n");
        assert_eq!(bed.changes(), ["-sip:2041@10.0.0.5:1024", "+sip:2041@10.0.0.5:2048"]);
        assert_eq!(bed.uris("2041"), ["sip:2041@10.0.0.5:2048", "sip:2041@10.0.0.6:1024"]);
        let refused = bed.register(20, &account(3, "2041", 1), "Contact: <sip:2041@10.0.0.7>\r\n");
        assert_eq!(refused.status(), Some(403), "a user has so many contacts and no more");
        let ok = bed.register(30, &account(1, "2041", 1), "Contact: *\r\nExpires: 0\r\n");
        assert_eq!((ok.status(), bed.uris("2041")), (Some(200), vec!["sip:2041@10.0.0.6:1024".to_owned()]), "* is for one's own");
    }

    #[test]
    fn nobody_registers_another_number() {
        let mut bed = Bed::new();
        let ada = account(1, "2041", 1);
        for user in ["2042", "", "204%32", "02041"] {
            let answer = bed.register_as(0, &ada, user, "Contact: <sip:x@10.0.0.5>\r\n", "c", 1);
            assert_eq!(answer.status(), Some(403), "{user}");
        }
        assert_eq!(bed.register_as(0, &ada, "%32041", "Contact: <sip:x@10.0.0.5>\r\n", "c", 1).status(), Some(200), "the same, escaped");
    }

    #[test]
    fn what_comes_late_changes_nothing() {
        let mut bed = Bed::new();
        let ada = account(1, "2041", 1);
        let contact = "Contact: <sip:x@10.0.0.5>\r\n";
        assert_eq!(bed.register_as(0, &ada, "2041", contact, "c", 5).status(), Some(200));
        for (call_id, cseq, contact, status) in [
            ("c", 5, "Contact: <sip:x@10.0.0.5>;expires=0\r\n", 500),
            ("c", 4, "Contact: *\r\nExpires: 0\r\n", 500),
            ("c", 4, "Contact: <sip:x@10.0.0.9>\r\n", 500),
            ("other", 1, contact, 200),
            ("other", 2, "Contact: *\r\n", 400),
            ("other", 2, "Contact: *, <sip:x@h>\r\nExpires: 0\r\n", 400),
            ("other", 2, "Contact: <sip:x@10.0.0.5>;expires=5\r\n", 423),
            ("other", 2, "Contact: sip:x@h?y=z\r\n", 400),
            ("other", 2, "Contact: <sip:x y@h>\r\n", 400),
        ] {
            assert_eq!(bed.register_as(1, &ada, "2041", contact, call_id, cseq).status(), Some(status), "{call_id} {cseq} {contact}");
            assert_eq!(bed.uris("2041"), ["sip:x@10.0.0.5"]);
        }
    }

    #[test]
    fn time_and_bindings_end_contacts() {
        let mut bed = Bed::new();
        let (new, bound) = (account(1, "new000000000001", 1), account(1, "2041", 2));
        bed.register(0, &new, "Contact: <sip:new@10.0.0.5>;expires=60\r\n");
        bed.register(0, &account(2, "2042", 1), "Contact: <sip:2042@10.0.0.6>;expires=100\r\n");
        bed.changes();
        assert_eq!(bed.registrar.drop_generation_below(bound.mac, 1, &[]), 0);
        // Bound meanwhile: the same line of the same device, so the provisional contact goes when the new one comes.
        bed.register(30, &bound, "Contact: <sip:2041@10.0.0.5>;expires=600\r\n");
        assert_eq!(bed.changes(), ["-sip:new@10.0.0.5", "+sip:2041@10.0.0.5"]);
        assert_eq!(bed.registrar.contacts_of(bound.mac).count(), 1);
        assert_eq!(bed.registrar.poll_timeout(), Some(bed.at(100)));
        bed.registrar.handle_timeout(bed.at(99));
        assert_eq!(bed.registrar.len(), 2);
        bed.registrar.handle_timeout(bed.at(100));
        assert_eq!(bed.changes(), ["-sip:2042@10.0.0.6"]);
        assert_eq!(bed.registrar.drop_generation_below(bound.mac, 3, &[1]), 0, "another line has changed hands");
        assert_eq!(bed.registrar.drop_generation_below(bound.mac, 3, &[2]), 1);
        assert_eq!(bed.changes(), ["~sip:2041@10.0.0.5"]);
    }

    #[test]
    fn the_disk_learns_news_soon_and_refreshes_together() {
        let mut bed = Bed::new();
        let ada = account(1, "2041", 1);
        let contact = "Contact: <sip:2041@10.0.0.5>;expires=600\r\n";
        let saves = |bed: &mut Bed, ms: u64| {
            let at = bed.start + Duration::from_millis(ms);
            std::iter::from_fn(|| bed.registrar.poll_save(at).map(|contact| contact.cseq)).collect::<Vec<_>>()
        };
        bed.register(0, &ada, contact);
        let due = bed.start + SAVE_NEWS;
        assert_eq!((saves(&mut bed, 49), bed.registrar.poll_save_timeout()), (vec![], Some(due)));
        assert_eq!(saves(&mut bed, 50), [1]);
        for secs in [10, 20, 30] {
            bed.register(secs, &ada, contact);
        }
        bed.register(30, &account(2, "2042", 1), "Contact: <sip:2042@10.0.0.6>;expires=600\r\n");
        assert_eq!(saves(&mut bed, 31_000), [5], "a new phone does not wait for those that only refresh");
        assert_eq!(saves(&mut bed, 40_000), [4], "three refreshes are one write");
        bed.register(50, &ada, contact);
        bed.register(51, &ada, "Contact: <sip:2041@10.0.0.5>;expires=600;q=0.5\r\n");
        assert_eq!(saves(&mut bed, 52_000), [7], "what changes is not kept waiting by a refresh");
        assert!(saves(&mut bed, 200_000).is_empty());
        let contact = "Contact: <sip:2041@10.0.0.5>;expires=600;q=0.5\r\n";
        bed.register(620, &ada, contact);
        assert!(saves(&mut bed, 649_000).is_empty(), "on disk it ends at 651");
        assert_eq!(saves(&mut bed, 650_000), [8]);
        bed.register(1200, &ada, contact);
        assert_eq!(saves(&mut bed, 1_200_050), [9], "on disk it would end at 1220, before a refresh gets there");
        bed.register(1210, &ada, contact);
        bed.register(1211, &ada, "Contact: *\r\nExpires: 0\r\n");
        assert!(saves(&mut bed, 2_000_000).is_empty(), "who has left is not saved");
    }

    #[test]
    fn phones_that_came_back_together_do_not_refresh_together() {
        let mut registrar = Registrar::new(Config::default());
        let start = Instant::now();
        let mut granted = |device: u8, cseq: u32, expires: u32| {
            let text = format!(
                "REGISTER sip:pbx SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:{device}@pbx>;tag=1\r\nTo: <sip:{device}@pbx>\r\n\
                 Call-ID: {device}\r\nCSeq: {cseq} REGISTER\r\nContact: <sip:{device}@10.0.0.{device}>;expires={expires}\r\n\r\n"
            );
            let flow = Flow::udp("10.0.0.1:5060".parse().unwrap(), "10.0.0.5:5060".parse().unwrap());
            let account = account(device, &device.to_string(), 1);
            let ok = registrar.handle_register(start, &Message::parse(text.into()).unwrap(), flow, &account);
            let ok = Message::parse(ok.encode()).unwrap();
            let contact = ok.name_addr(Name::Contact).unwrap();
            contact.params().value("expires").unwrap().parse::<u32>().unwrap()
        };
        let first: Vec<_> = (0..=250).map(|device| granted(device, 1, 3600)).collect();
        assert!(first.iter().all(|secs| (3240..=3600).contains(secs)), "up to a tenth less: {first:?}");
        let tenths = first.iter().map(|secs| (secs - 3240) / 37).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(tenths.len(), 10, "in every part of the span");
        assert_ne!(granted(1, 2, 3600), first[1], "and another time the next time");
        assert_eq!(granted(1, 3, 60), 60, "never less than the least");
        assert!((60..=65).contains(&granted(1, 4, 65)));
    }

    #[test]
    fn the_better_contact_comes_first_and_paths_are_kept() {
        let mut bed = Bed::new();
        bed.register(0, &account(1, "2041", 1), "Contact: <sip:a@10.0.0.5>;q=0.3\r\n");
        bed.register(0, &account(2, "2041", 1), "Contact: <sip:b@10.0.0.6>;q=0.7;+sip.instance=\"<urn:uuid:1>\";reg-id=1\r\n");
        assert_eq!(bed.uris("2041"), ["sip:b@10.0.0.6", "sip:a@10.0.0.5"]);
        let ok =
            bed.register(1, &account(1, "2041", 1), "Contact: <sip:a@10.0.0.5>\r\nPath: <sip:p1;lr>, <sip:p2;lr>\r\nSupported: path\r\n");
        assert_eq!(ok.header(Name::Path), Some(&b"<sip:p1;lr>, <sip:p2;lr>"[..]));
        assert_eq!(bed.uris("2041"), ["sip:a@10.0.0.5", "sip:b@10.0.0.6"], "without a q it is the best");
        let listed: Vec<_> = ok.elements(Name::Contact).map(|c| String::from_utf8_lossy(c).into_owned()).collect();
        assert!(listed[1].contains(";q=0.700;+sip.instance=\"<urn:uuid:1>\";reg-id=1"), "{listed:?}");
        assert_eq!(bed.registrar.contacts("2041").next().unwrap().path, ["<sip:p1;lr>", "<sip:p2;lr>"]);
        let long = format!("Contact: <sip:a@10.0.0.5>\r\nPath: {}\r\n", ["<sip:p;lr>"; 5].join(","));
        assert_eq!(bed.register(2, &account(1, "2041", 1), &long).status(), Some(403));
        for (text, q) in [("1", 1000), ("0.5", 500), ("0", 0), ("0.123", 123), ("2", 1000), ("-1", 1000), ("x", 1000), ("NaN", 1000)] {
            assert_eq!(thousandths(text), q, "{text}");
        }
    }

    #[test]
    fn a_device_that_is_known_by_its_instance_has_a_uri_of_its_own() {
        let mut bed = Bed::new();
        let ada = account(1, "2041", 1);
        let contact = "Contact: <sip:2041@10.0.0.5>;+sip.instance=\"<urn:uuid:F81D>\"\r\n";
        let told = |ok: &Message| ok.name_addr(Name::Contact).unwrap().params().value("pub-gruu").map(|value| unquote(value).into_owned());
        assert_eq!(told(&bed.register(0, &ada, contact)), None, "who does not know them is not told");
        let ok = bed.register(1, &ada, &format!("{contact}Supported: gruu, outbound\r\n"));
        assert_eq!(told(&ok).as_deref(), Some("sip:2041@pbx;gr=urn:uuid:F81D"));
        assert_eq!(told(&bed.register(2, &ada, "Contact: <sip:2041@10.0.0.5>\r\nSupported: gruu\r\n")), None, "nor who says no instance");
        bed.register(3, &ada, contact);
        for (user, gr, device) in [
            ("2041", "urn:uuid:f81d", Some(ada.mac)),
            ("2041", "urn%3Auuid:f81d", Some(ada.mac)),
            ("2042", "urn:uuid:f81d", None),
            ("2041", "urn:uuid:f81e", None),
            ("2041", "", None),
        ] {
            assert_eq!(bed.registrar.device_of_gruu(user, gr), device, "{user} {gr}");
        }
        let new = account(3, "new000000000003", 1);
        let ok = bed.register(4, &new, &format!("{contact}Supported: gruu\r\n"));
        assert_eq!(
            (told(&ok), bed.registrar.device_of_gruu(&new.user, "urn:uuid:f81d")),
            (None, None),
            "nobody calls a phone without owner"
        );
        assert_eq!(gruu("sip:a@h;transport=tcp", "<urn:x y;\"\u{e9}>"), "sip:a@h;gr=urn:x%20y%3B%22%C3%A9");
    }

    #[test]
    fn two_flows_of_one_device_are_one_device() {
        let mut bed = Bed::new();
        let (ada, other) = (account(1, "2041", 1), account(2, "2041", 1));
        let flow = |uri: &str, instance: &str, reg_id: u8| {
            format!("Contact: <sip:{uri}>;+sip.instance=\"<urn:uuid:{instance}>\";reg-id={reg_id}\r\nSupported: outbound\r\n")
        };
        bed.register(0, &ada, &flow("a1@10.0.0.5", "1", 1));
        bed.register(1, &other, "Contact: <sip:b@10.0.0.6>\r\n");
        bed.register(2, &ada, &flow("a2@10.0.0.5", "1", 2));
        let devices = |bed: &Bed| {
            let flows = |flows: Vec<&Contact>| flows.iter().map(|flow| flow.uri.clone()).collect::<Vec<_>>();
            bed.registrar.devices("2041").into_iter().map(flows).collect::<Vec<_>>()
        };
        assert_eq!(devices(&bed), [vec!["sip:a2@10.0.0.5", "sip:a1@10.0.0.5"], vec!["sip:b@10.0.0.6"]], "the latest flow first");
        bed.changes();
        // Its proxy has lost one.
        let by = Flow::udp("10.0.0.1:5060".parse().unwrap(), "10.0.0.5:5060".parse().unwrap());
        let elsewhere = Flow { peer: "10.0.0.9:5060".parse().unwrap(), ..by };
        for (mac, uri, flow) in [(ada.mac, "a2", by), (other.mac, "a1", by), (ada.mac, "a1", elsewhere)] {
            bed.registrar.handle_flow_failed(mac, &format!("sip:{uri}@10.0.0.5"), flow);
        }
        assert_eq!(bed.changes(), ["-sip:a2@10.0.0.5"]);
        assert_eq!(devices(&bed), [["sip:b@10.0.0.6"], ["sip:a1@10.0.0.5"]]);
        // Both may have the same URI.
        bed.register(2, &ada, &flow("a1@10.0.0.5", "1", 2));
        assert_eq!(devices(&bed)[0], ["sip:a1@10.0.0.5"; 2]);
        assert_eq!(bed.changes(), ["+sip:a1@10.0.0.5"]);
        // Another soft phone with the same log-in is another device.
        bed.register(3, &ada, &flow("c@10.0.0.7", "2", 2));
        assert_eq!(devices(&bed).len(), 3);
    }

    #[test]
    fn contacts_come_back_after_a_restart_unless_the_phone_was_faster() {
        let mut bed = Bed::new();
        bed.register(0, &account(1, "2041", 1), "Contact: <sip:2041@10.0.0.5>;expires=600\r\n");
        let stored = bed.registrar.contacts("2041").next().unwrap().clone();
        let mut after = Registrar::new(Config::default());
        after.restore(bed.at(601), stored.clone());
        assert!(after.is_empty(), "expired meanwhile");
        after.restore(bed.at(10), stored.clone());
        after.restore(bed.at(10), Contact { uri: "sip:older@10.0.0.5".into(), ..stored.clone() });
        assert_eq!(after.contacts("2041").collect::<Vec<_>>(), [&stored]);
        assert_eq!(after.poll_action(), None);
    }
}
