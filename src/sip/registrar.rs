//! The registrar (RFC 3261 §10.3): who can be reached where, by address of record and by device.
//!
//! Pure and in memory: [`Registrar::handle_register`] answers a REGISTER whose sender is known (`digest.rs`), and tells by
//! [`Registrar::poll_action`] what changed, for the event stream and for the store that is written behind.
//! [`Registrar::restore`] puts back what was stored. A contact is reached over the flow that registered it: behind NAT no other works.
//!
//! One line of one device has one contact (one per `reg-id` with RFC 5626): a phone that comes back from another port,
//! or was restarted by a power cut, replaces itself. Not here: `Path`, GRUU, presence.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::model::{Generation, LineNumber, MacAddr};

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
            max_per_user: 10,
            max_contacts: 100_000,
        }
    }
}

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
    pub call_id: String,
    pub cseq: u32,
    pub user_agent: Option<String>,
    pub expires: Instant,
}

/// What changed. Drain after every call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A new contact, or one refreshed. To be stored under `user` and `uri`.
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

pub struct Registrar {
    config: Config,
    next: u64,
    contacts: HashMap<ContactId, Contact>,
    by_user: HashMap<String, Vec<ContactId>>,
    by_mac: HashMap<MacAddr, Vec<ContactId>>,
    /// Of connections only: when one breaks, its contacts must be reached otherwise.
    by_flow: HashMap<FlowId, Vec<ContactId>>,
    by_expiry: BTreeMap<(Instant, ContactId), ()>,
    actions: VecDeque<Action>,
}

/// What one Contact element asks for.
struct Wish {
    uri: String,
    expires: Duration,
    instance: Option<String>,
    reg_id: u32,
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
            contacts: HashMap::new(),
            by_user: HashMap::new(),
            by_mac: HashMap::new(),
            by_flow: HashMap::new(),
            by_expiry: BTreeMap::new(),
            actions: VecDeque::new(),
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
            let Some(contact) = self.contacts.get_mut(&id) else { continue };
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

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.by_expiry.first_key_value().map(|((at, _), ())| *at)
    }

    /// Where the user can be reached, newest first.
    pub fn contacts(&self, user: &str) -> impl Iterator<Item = &Contact> {
        self.by_user.get(user).into_iter().flatten().rev().filter_map(|id| self.contacts.get(id))
    }

    /// Where the device can be reached, all its lines, newest first.
    pub fn contacts_of(&self, mac: MacAddr) -> impl Iterator<Item = &Contact> {
        self.by_mac.get(&mac).into_iter().flatten().rev().filter_map(|id| self.contacts.get(id))
    }

    /// Every contact, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Contact> {
        self.contacts.values()
    }

    pub fn len(&self) -> usize {
        self.contacts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.contacts.is_empty()
    }

    /// Forgets what the device registered with secrets that are dead. Send it its check-sync first: see [`Self::contacts_of`].
    pub fn drop_generation_below(&mut self, mac: MacAddr, generation: Generation) -> usize {
        let old: Vec<_> = self.ids_of(mac, |contact| contact.generation < generation);
        for id in &old {
            if let Some(contact) = self.take(*id) {
                self.actions.push_back(Action::Outdated { contact });
            }
        }
        metrics::gauge!("plugtone_sip_contacts").set(self.contacts.len() as f64);
        old.len()
    }

    /// Puts a stored contact back at start, without an action. One that is there already wins.
    pub fn restore(&mut self, now: Instant, contact: Contact) {
        let known = self.contacts_of(contact.mac).any(|c| c.line == contact.line && c.reg_id == contact.reg_id);
        if !known && contact.expires > now && self.contacts.len() < self.config.max_contacts {
            self.insert(contact);
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
                    wishes.push(self.wish(request, &contact)?);
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
                if self.contacts.get(&id).is_some_and(|contact| contact.user == account.user) {
                    self.remove(id, "unregistered by the phone");
                }
            }
            return Ok(());
        }
        if wishes.is_empty() {
            return Ok(());
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

    /// Removes what the phone no longer names, then puts in what it names.
    fn replace(&mut self, now: Instant, request: &Message, flow: Flow, account: &Account, wishes: Vec<Wish>, own: Vec<ContactId>) {
        let keeps = wishes.iter().any(|wish| !wish.expires.is_zero());
        let mut refreshed = false;
        for id in own {
            let Some(old) = self.contacts.get(&id) else { continue };
            let named = wishes.iter().find(|wish| same(&wish.uri, &old.uri));
            let superseded = wishes.iter().any(|wish| wish.reg_id == old.reg_id) || old.user != account.user;
            match named {
                Some(wish) if wish.expires.is_zero() => self.remove(id, "unregistered by the phone"),
                // Comes again below; the store overwrites it.
                Some(wish) if wish.uri == old.uri && old.user == account.user => {
                    refreshed = true;
                    self.take(id);
                }
                Some(_) => self.remove(id, "registered anew under another spelling"),
                None if keeps && superseded => self.remove(id, "the phone registered from elsewhere"),
                None => {}
            }
        }
        let text = |name| request.text(name).map(|text| text.chars().take(120).collect::<String>());
        for wish in wishes.into_iter().filter(|wish| !wish.expires.is_zero()) {
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
                call_id: request.call_id().unwrap_or_default().to_owned(),
                cseq: request.cseq().map_or(0, |cseq| cseq.number),
                user_agent: text(Name::UserAgent),
                expires: now + wish.expires,
            };
            self.insert(contact.clone());
            let expires_secs = wish.expires.as_secs() as u32;
            self.actions.push_back(Action::Registered { contact, expires_secs, refreshed });
        }
    }

    /// Within one Call-ID the CSeq rises: what comes late changes nothing (RFC 3261 §10.3 step 7).
    fn in_order(&self, own: &[ContactId], call_id: &str, cseq: u32, request: &Message) -> Result<(), Refused> {
        let late = own.iter().filter_map(|id| self.contacts.get(id)).any(|c| c.call_id == call_id && c.cseq >= cseq);
        if !late {
            return Ok(());
        }
        let response = Response::with_reason(request, 500, "CSeq is not above the last one");
        Err(Refused { response, reason: format!("CSeq {cseq} is not above the last one of this Call-ID") })
    }

    fn wish(&self, request: &Message, contact: &NameAddr<'_>) -> Result<Wish, Refused> {
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
            None => self.config.default_expires,
            Some(Duration::ZERO) => Duration::ZERO,
            Some(wished) if wished < self.config.min_expires => {
                let secs = self.config.min_expires.as_secs();
                return Err(Refused {
                    response: Response::to(request, 423).header(Name::MinExpires, secs),
                    reason: format!("wants {} s, the least is {secs} s", wished.as_secs()),
                });
            }
            Some(wished) => wished.min(self.config.max_expires),
        };
        Ok(Wish {
            uri: uri.as_str().to_owned(),
            expires,
            instance: params.value("+sip.instance").map(|i| unquote(i).chars().take(120).collect()),
            reg_id: params.value("reg-id").and_then(|id| id.parse().ok()).unwrap_or(0),
        })
    }

    /// The 200, with every contact of the user (RFC 3261 §10.3 step 8).
    fn list(&self, now: Instant, request: &Message, account: &Account) -> Response {
        let mut response = Response::to(request, 200);
        // RFC 5626 §6: it is told that its flow is what leads to it, and by when NAT must hear of it.
        let kept = |c: &Contact| (c.mac, c.line) == (account.mac, account.line) && c.instance.is_some() && c.reg_id != 0;
        if request.lists(Name::Supported, OUTBOUND) && self.contacts(&account.user).any(kept) {
            response = response.header(Name::Require, OUTBOUND).header_named("Flow-Timer", FLOW_TIMER_SECS);
        }
        self.contacts(&account.user).fold(response, |response, contact| {
            let secs = contact.expires.saturating_duration_since(now).as_secs();
            let mut value = format!("<{}>;expires={secs}", contact.uri);
            if let Some(instance) = &contact.instance {
                value.push_str(&format!(";+sip.instance={}", quote(instance)));
            }
            if contact.reg_id != 0 {
                value.push_str(&format!(";reg-id={}", contact.reg_id));
            }
            response.header(Name::Contact, value)
        })
    }

    fn ids_of(&self, mac: MacAddr, wanted: impl Fn(&Contact) -> bool) -> Vec<ContactId> {
        let ids = self.by_mac.get(&mac).into_iter().flatten();
        ids.copied().filter(|id| self.contacts.get(id).is_some_and(&wanted)).collect()
    }

    fn insert(&mut self, contact: Contact) {
        self.next += 1;
        let id = ContactId(self.next);
        self.by_user.entry(contact.user.clone()).or_default().push(id);
        self.by_mac.entry(contact.mac).or_default().push(id);
        if contact.flow.id != FlowId::NONE {
            self.by_flow.entry(contact.flow.id).or_default().push(id);
        }
        self.by_expiry.insert((contact.expires, id), ());
        self.contacts.insert(id, contact);
        metrics::gauge!("plugtone_sip_contacts").set(self.contacts.len() as f64);
    }

    fn remove(&mut self, id: ContactId, reason: &'static str) {
        if let Some(contact) = self.take(id) {
            metrics::gauge!("plugtone_sip_contacts").set(self.contacts.len() as f64);
            self.actions.push_back(Action::Unregistered { contact, reason });
        }
    }

    fn take(&mut self, id: ContactId) -> Option<Contact> {
        let contact = self.contacts.remove(&id)?;
        self.by_expiry.remove(&(contact.expires, id));
        forget(&mut self.by_user, &contact.user, id);
        forget(&mut self.by_mac, &contact.mac, id);
        forget(&mut self.by_flow, &contact.flow.id, id);
        Some(contact)
    }
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
            let config = Config { max_per_user: 2, ..Config::default() };
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
        assert_eq!(bed.changes(), ["=sip:2041@10.0.0.5"]);
        let ok = bed.register(110, &ada, "");
        assert_eq!(ok.elements(Name::Contact).count(), 1, "a query");
        let ok = bed.register(120, &ada, "Contact: <sip:2041@10.0.0.5>;expires=0\r\n");
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
        assert_eq!(bed.registrar.drop_generation_below(bound.mac, 1), 0);
        // Bound meanwhile: the same line of the same device, so the provisional contact goes when the new one comes.
        bed.register(30, &bound, "Contact: <sip:2041@10.0.0.5>;expires=600\r\n");
        assert_eq!(bed.changes(), ["-sip:new@10.0.0.5", "+sip:2041@10.0.0.5"]);
        assert_eq!(bed.registrar.contacts_of(bound.mac).count(), 1);
        assert_eq!(bed.registrar.poll_timeout(), Some(bed.at(100)));
        bed.registrar.handle_timeout(bed.at(99));
        assert_eq!(bed.registrar.len(), 2);
        bed.registrar.handle_timeout(bed.at(100));
        assert_eq!(bed.changes(), ["-sip:2042@10.0.0.6"]);
        assert_eq!(bed.registrar.drop_generation_below(bound.mac, 3), 1);
        assert_eq!(bed.changes(), ["~sip:2041@10.0.0.5"]);
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
