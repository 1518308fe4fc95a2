//! Phones that watch: joins what is true of users ([`Presence`]) with who wants to know ([`Subscriptions`]). No I/O, no clock.
//!
//! The engine gives it each SUBSCRIBE whose sender it knows, each event of the endpoint, and lets it [`Watching::settle`]
//! after everything; what is to be kept comes back as [`Kept`]. Not here: the documents (`presence.rs`), the protocol
//! (`sip::subscription`), the disk.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    Office,
    presence::{DialogTags, Facts, Lamp, MESSAGE_SUMMARY, Mailbox, PACKAGES, Party, Presence},
};
use crate::{
    model::{CallId, Generation, LineNumber, MacAddr, Timestamp},
    sip::{
        Account, Accounts, Endpoint, Event, Flow, Message, Method, Registrar, Response, ServerTx,
        dialog::{self, DialogId},
        endpoint, registrar,
        subscription::{self, Action, Stored, Subscriptions, Watcher},
        ua::{LegId, UserAgent},
    },
    store::SubscriptionRecord,
};

/// What it looks at while it settles.
pub(super) struct Around<'a> {
    pub endpoint: &'a mut Endpoint,
    pub agent: &'a UserAgent,
    pub registrar: &'a Registrar,
    pub office: &'a dyn Office,
}

/// What is to be written behind.
pub(super) enum Kept {
    Save(Box<Stored>),
    Remove(String),
}

pub(super) struct Watching {
    subscriptions: Subscriptions,
    presence: Presence,
}

impl Watching {
    pub fn new(config: subscription::Config) -> Self {
        let subscriptions = Subscriptions::new(subscription::Config { packages: PACKAGES.to_vec(), ..config });
        Self { subscriptions, presence: Presence::new() }
    }

    /// Lets SUBSCRIBE in and names the packages in Allow-Events.
    pub fn announce(config: &mut endpoint::Config) {
        let abilities = &mut config.abilities;
        if !abilities.methods.contains(&Method::Subscribe) {
            abilities.methods.push(Method::Subscribe);
        }
        abilities.events.extend(PACKAGES.map(|package| package.name));
    }

    pub fn handle_subscribe(&mut self, now: Instant, endpoint: &mut Endpoint, tx: ServerTx, request: &Message, flow: Flow, who: &Account) {
        // A phone without an owner has nobody to watch.
        if who.provisional {
            return endpoint.respond(now, tx, Response::to(request, 403));
        }
        // Whose messages wait is nobody else's affair.
        let may = |package: &str, resource: &str| match package == MESSAGE_SUMMARY.name && resource != who.user {
            true => Err(403),
            false => Ok(()),
        };
        self.subscriptions.handle_subscribe(now, endpoint, tx, request, flow, Watcher::from(who), may);
    }

    /// Takes the endpoint's events that belong to it; gives all others back.
    pub fn handle_event(&mut self, now: Instant, event: Event) -> Option<Event> {
        self.subscriptions.handle_event(now, event)
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.subscriptions.handle_timeout(now);
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.subscriptions.poll_timeout()
    }

    /// A phone of this user has registered.
    pub fn handle_registered(&mut self, user: &str, mac: MacAddr, line: LineNumber, flow: Flow, refreshed: bool) {
        self.subscriptions.handle_moved(mac, line, flow);
        if !refreshed {
            self.presence.reachability_changed(user);
        }
    }

    pub fn handle_unregistered(&mut self, user: &str) {
        self.presence.reachability_changed(user);
    }

    pub fn handle_flow_closed(&mut self, flow: Flow) {
        self.subscriptions.handle_flow_closed(flow.id);
    }

    /// The binding of a device has ended: it watches no more with the secrets of before.
    pub fn drop_generation_below(&mut self, mac: MacAddr, generation: Generation, keep: &[LineNumber]) {
        self.subscriptions.drop_generation_below(mac, generation, keep);
    }

    /// `true`: that is new.
    pub fn set_mailbox(&mut self, user: &str, mailbox: Mailbox) -> bool {
        self.presence.set_mailbox(user, mailbox)
    }

    /// What a phone is told of its messages that has not asked; `None`: it has, or nothing was ever there.
    pub fn unasked(&self, contact: &registrar::Contact, entity: &str) -> Option<Bytes> {
        let asked = self.subscriptions.watches(MESSAGE_SUMMARY.name, &contact.user, contact.mac, contact.line);
        (!asked).then(|| self.presence.summary(&contact.user, entity))?
    }

    pub fn show(&mut self, resource: &str, lamp: Option<Lamp>) {
        self.presence.show(resource, lamp);
    }

    /// Who is in this call now.
    pub fn update(&mut self, call: CallId, parties: Vec<Party>) {
        self.presence.update(call, parties);
    }

    /// Sends what there is to tell. `keep` gets what is to be written. `true`: something was done.
    pub fn settle(&mut self, now: Instant, around: Around<'_>, mut keep: impl FnMut(Kept)) -> bool {
        while let Some((package, resource)) = self.presence.poll_changed() {
            self.subscriptions.changed(package, &resource);
        }
        let mut busy = false;
        let Around { endpoint, agent, registrar, office } = around;
        while let Some(action) = self.subscriptions.poll_action() {
            busy = true;
            match action {
                Action::Write { id, package, resource, entity, version } => {
                    let facts = Now { agent, registrar, office };
                    let body = self.presence.document(package, &resource, &entity, version, &facts);
                    self.subscriptions.notify(now, endpoint, id, body);
                }
                Action::Save(stored) => keep(Kept::Save(stored)),
                Action::Remove { local_tag } => keep(Kept::Remove(local_tag)),
            }
        }
        busy
    }

    /// Puts back what was watched before a restart, as far as the phone is still whose it was.
    pub fn restore(&mut self, now: Instant, wall: Timestamp, records: Vec<SubscriptionRecord>, accounts: &dyn Accounts) {
        for record in records {
            let Some(account) = accounts.account(&super::worker::auth_user(record.mac, record.line)) else { continue };
            if account.user != record.user || account.provisional {
                continue;
            }
            if let Some(stored) = stored(now, wall, record, &account) {
                self.subscriptions.restore(now, stored);
            }
        }
        if !self.subscriptions.is_empty() {
            tracing::info!(subscriptions = self.subscriptions.len(), "what phones watch is restored");
        }
    }
}

/// What documents ask, of the moment.
struct Now<'a> {
    agent: &'a UserAgent,
    registrar: &'a Registrar,
    office: &'a dyn Office,
}

impl Facts for Now<'_> {
    fn is_reachable(&self, user: &str) -> bool {
        self.registrar.contacts(user).next().is_some()
    }

    fn display_name(&self, number: &str) -> String {
        self.office.display_name(number)
    }

    fn tags(&self, leg: LegId) -> Option<DialogTags> {
        let DialogId { call_id, local_tag, remote_tag } = self.agent.dialog_of(leg)?;
        // What is remote for us is the phone's own.
        Some(DialogTags { call_id, local_tag: Some(remote_tag).filter(|tag| !tag.is_empty()), remote_tag: Some(local_tag) })
    }
}

pub(super) fn record(stored: Stored, now: Instant, wall: Timestamp) -> SubscriptionRecord {
    let Stored { dialog, watcher, flow, event, resource, expires } = stored;
    let left = expires.saturating_duration_since(now);
    SubscriptionRecord {
        local_tag: dialog.id.local_tag,
        call_id: dialog.id.call_id,
        remote_tag: dialog.id.remote_tag,
        mac: watcher.mac,
        line: watcher.line,
        user: watcher.user,
        event,
        resource,
        local: dialog.local,
        remote: dialog.remote,
        contact: dialog.contact,
        target: dialog.remote_target,
        routes: dialog.routes.join("\n"),
        flow: flow.to_string(),
        local_cseq: dialog.local_cseq,
        remote_cseq: dialog.remote_cseq,
        expires: wall.plus_secs(i64::try_from(left.as_secs()).unwrap_or(i64::MAX)),
    }
}

fn stored(now: Instant, wall: Timestamp, record: SubscriptionRecord, account: &Account) -> Option<Stored> {
    let left = u64::try_from(record.expires.secs_since(wall)).ok()?;
    Some(Stored {
        dialog: dialog::Kept {
            id: DialogId { call_id: record.call_id, local_tag: record.local_tag, remote_tag: record.remote_tag },
            local: record.local,
            remote: record.remote,
            contact: record.contact,
            local_cseq: record.local_cseq,
            remote_cseq: record.remote_cseq,
            routes: record.routes.lines().map(str::to_owned).collect(),
            remote_target: record.target,
        },
        watcher: Watcher { user: record.user, mac: record.mac, line: record.line, generation: account.generation },
        flow: record.flow.parse().ok()?,
        event: record.event,
        resource: record.resource,
        expires: now + Duration::from_secs(left),
    })
}
