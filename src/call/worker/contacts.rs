//! Contacts and subscriptions on their way to the disk, behind the engine, and back after a restart.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{mpsc, oneshot};

use super::{Engine, auth_user, handle::Command};
use crate::{
    call::presence::MESSAGE_SUMMARY,
    features::book::Row,
    model::{CallId, Event, Timestamp},
    sip::{
        Accounts, Credentials, notify,
        registrar::{self, Registrar},
        transport::Flow,
    },
    store::{ContactKey, ContactRecord, Store, SubscriptionRecord},
};

/// How long contacts that are gone are gathered before the disk forgets them.
const GATHER_GONE: Duration = Duration::from_millis(500);
/// While the disk is busy, what is due is offered again after this.
const SAVE_AGAIN: Duration = Duration::from_millis(100);
/// Contacts in one batch at most.
const CONTACTS_AT_ONCE: usize = 2048;
/// Contacts to be removed that may wait for a disk that does not write; older ones stay until they expire.
const MOST_GONE: usize = 100_000;

pub(super) enum Write {
    SaveSubscription(Box<SubscriptionRecord>),
    RemoveSubscription {
        local_tag: String,
    },
    /// What people wish; who waits for it is told.
    Row {
        row: Row,
        then: Kept,
    },
}

/// Who waits for a row to be stored.
pub(super) enum Kept {
    /// The call of a star code.
    Call(CallId),
    Asker(oneshot::Sender<bool>),
    Nobody,
}

/// Contacts for the disk.
pub(super) struct Contacts {
    pub(super) gone: Vec<ContactKey>,
    pub(super) saved: Vec<ContactRecord>,
}

impl Engine {
    pub(super) fn apply_registrar(&mut self, action: registrar::Action) {
        match action {
            registrar::Action::Registered { contact, expires_secs, refreshed } => {
                self.watching.handle_registered(&contact.user, contact.mac, contact.line, contact.flow, refreshed);
                if !refreshed {
                    tracing::info!(mac = %contact.mac, user = %contact.user, flow = %contact.flow, expires_secs, "registered");
                    self.events.tell(Event::Registered {
                        mac: contact.mac,
                        user: contact.user.clone(),
                        contact: contact.uri.clone(),
                        source: contact.flow.peer,
                        user_agent: contact.user_agent.clone(),
                        expires_secs,
                    });
                }
                if !refreshed {
                    self.switch.handle_phone_came();
                    self.tell_messages(Instant::now(), &contact);
                }
                self.ground.office.registered(&contact, refreshed);
            }
            registrar::Action::Unregistered { contact, reason } => {
                if self.gone.len() >= MOST_GONE {
                    self.gone.pop_front();
                    metrics::counter!("plugtone_call_contact_writes_lost_total").increment(1);
                }
                self.save_again.get_or_insert(Instant::now() + GATHER_GONE);
                self.gone.push_back(ContactKey { user: contact.user.clone(), uri: contact.uri.clone(), reg_id: contact.reg_id });
                self.unregistered(contact, reason);
            }
            registrar::Action::Outdated { contact } => self.unregistered(contact, "its binding has ended"),
            registrar::Action::Refused { user, mac, flow, reason } => {
                tracing::info!(%mac, %user, peer = %flow.peer, %reason, "registration refused");
                self.events.tell(Event::RegisterRefused { user, source: flow.peer, reason });
            }
        }
    }

    /// Lights the lamp of a phone that has not asked for it (RFC 3842 §3.8 leaves that to the server): many never do.
    pub(super) fn tell_messages(&mut self, now: Instant, contact: &registrar::Contact) {
        let flow = self.ground.with_local(contact.flow);
        let entity = format!("sip:{}@{}", contact.user, self.ground.endpoint.sent_by(&flow));
        let Some(summary) = self.watching.unasked(contact, &entity).filter(|_| !contact.provisional) else { return };
        let credentials = self.accounts.account(&auth_user(contact.mac, contact.line));
        let credentials = credentials.map(|account| Credentials { username: auth_user(contact.mac, contact.line), secret: account.secret });
        let order = notify::Order::to(contact, MESSAGE_SUMMARY.name, credentials);
        let body = Some((MESSAGE_SUMMARY.content_type, summary));
        self.notifier.notify(now, &mut self.ground.endpoint, notify::Order { flow, body, ..order });
    }

    pub(super) fn unregistered(&mut self, contact: registrar::Contact, reason: &str) {
        tracing::info!(mac = %contact.mac, user = %contact.user, reason, "unregistered");
        self.watching.handle_unregistered(&contact.user);
        // A device is there as long as one of its flows is.
        let same = |other: &registrar::Contact| (other.line, other.generation) == (contact.line, contact.generation);
        if contact.reg_id == 0 || !self.ground.registrar.contacts_of(contact.mac).any(same) {
            self.ground.office.unregistered(&contact);
        }
        let registrar::Contact { mac, user, uri, .. } = contact;
        self.events.tell(Event::Unregistered { mac, user, contact: uri, reason: reason.to_owned() });
    }

    pub(super) fn write(&self, write: Write) {
        if self.writes.try_send(write).is_err() {
            metrics::counter!("plugtone_call_subscription_writes_lost_total").increment(1);
        }
    }

    /// Has something stored; whoever waits for it is told when it is.
    pub(super) fn keep(&mut self, row: Row, then: Kept) {
        if let Err(mpsc::error::TrySendError::Full(Write::Row { then, .. }) | mpsc::error::TrySendError::Closed(Write::Row { then, .. })) =
            self.writes.try_send(Write::Row { row, then })
        {
            match then {
                Kept::Call(call) => self.switch.kept(Instant::now(), call, false),
                Kept::Asker(asker) => drop(asker.send(false)),
                Kept::Nobody => metrics::counter!("plugtone_call_subscription_writes_lost_total").increment(1),
            }
        }
    }

    /// Hands over what is due to be written, as much as the disk takes: the rest stays where it is.
    pub(super) fn save(&mut self, now: Instant) {
        self.save_again = None;
        while let Ok(permit) = self.contact_writes.try_reserve() {
            let wall = Timestamp::of(SystemTime::now());
            let due = std::iter::from_fn(|| self.ground.registrar.poll_save(now).map(|contact| record(contact, Instant::now(), wall)));
            let saved: Vec<_> = due.take(CONTACTS_AT_ONCE).collect();
            if saved.is_empty() && self.gone.is_empty() {
                return;
            }
            // Gone before saved: what left and came back is there.
            permit.send(Contacts { gone: self.gone.drain(..).collect(), saved });
        }
        self.save_from = now + SAVE_AGAIN;
        self.save_again = Some(self.save_from);
    }

    /// When there is something for the disk, and it is not too busy to take it.
    pub(super) fn save_timeout(&self) -> Option<Instant> {
        let due = [self.ground.registrar.poll_save_timeout(), self.save_again];
        due.into_iter().flatten().min().map(|due| due.max(self.save_from))
    }

    /// Hands over all that the disk does not know, before the end.
    pub(super) async fn save_all(&mut self) {
        let (now, wall) = (Instant::now(), Timestamp::of(SystemTime::now()));
        let far = now + Duration::from_secs(3600);
        let saved = std::iter::from_fn(|| self.ground.registrar.poll_save(far).map(|contact| record(contact, now, wall))).collect();
        let _ = self.contact_writes.send(Contacts { gone: self.gone.drain(..).collect(), saved }).await;
    }
}

/// Writes behind the engine, in order. A fault is logged: the phone subscribes again anyway, and whoever wishes something is
/// told that it is not kept.
pub(super) async fn write(store: Arc<dyn Store>, mut inbox: mpsc::Receiver<Write>, commands: mpsc::WeakSender<Command>) {
    while let Some(write) = inbox.recv().await {
        let done = match write {
            Write::Row { row, then } => {
                let stored = store.save_wish(&row.key, row.value.as_deref()).await;
                if let Err(fault) = &stored {
                    tracing::warn!(%fault, key = row.key, "what was wished could not be stored: it counts until a restart");
                }
                match then {
                    Kept::Asker(asker) => drop(asker.send(stored.is_ok())),
                    Kept::Nobody => {}
                    Kept::Call(call) => {
                        if let Some(commands) = commands.upgrade() {
                            let _ = commands.send(Command::Kept { call, stored: stored.is_ok() }).await;
                        }
                    }
                }
                continue;
            }
            Write::SaveSubscription(record) => store.save_subscription(*record).await,
            Write::RemoveSubscription { local_tag } => store.remove_subscription(&local_tag).await,
        };
        if let Err(fault) = done {
            metrics::counter!("plugtone_call_subscription_writes_lost_total").increment(1);
            tracing::warn!(%fault, "what a phone watches could not be stored");
        }
    }
}

/// Writes contacts behind the engine, in order, each batch in one commit. A fault is logged: the phones register again anyway.
pub(super) async fn write_contacts(store: Arc<dyn Store>, mut inbox: mpsc::Receiver<Contacts>) {
    while let Some(Contacts { gone, saved }) = inbox.recv().await {
        let contacts = gone.len() + saved.len();
        if let Err(fault) = store.write_contacts(gone, saved).await {
            metrics::counter!("plugtone_call_contact_writes_lost_total").increment(contacts as u64);
            tracing::warn!(%fault, contacts, "registered phones could not be stored");
        }
    }
}

pub(super) fn record(contact: &registrar::Contact, now: Instant, wall: Timestamp) -> ContactRecord {
    let left = contact.expires.saturating_duration_since(now);
    ContactRecord {
        user: contact.user.clone(),
        mac: contact.mac,
        line: contact.line,
        generation: contact.generation,
        uri: contact.uri.clone(),
        flow: contact.flow.to_string(),
        call_id: contact.call_id.clone(),
        cseq: contact.cseq,
        user_agent: contact.user_agent.clone(),
        instance: contact.instance.clone(),
        reg_id: contact.reg_id,
        q: contact.q,
        path: contact.path.clone(),
        expires: wall.plus_secs(i64::try_from(left.as_secs()).unwrap_or(i64::MAX)),
    }
}

/// Puts back what was registered before a restart, as far as the identity is still the same. Gives back what has expired
/// meanwhile; a contact of an earlier generation is neither, see [`registrar::Action::Outdated`].
pub(super) fn restore(now: Instant, registrar: &mut Registrar, records: Vec<ContactRecord>, accounts: &dyn Accounts) -> Vec<ContactRecord> {
    let wall = Timestamp::of(SystemTime::now());
    let (mut restored, mut expired) = (0, Vec::new());
    for record in records {
        let left = record.expires.secs_since(wall);
        let account = accounts.account(&auth_user(record.mac, record.line));
        let Some(account) = account.filter(|account| (account.generation, &account.user) == (record.generation, &record.user)) else {
            continue;
        };
        let (Ok(flow), Ok(left @ 1..)) = (record.flow.parse::<Flow>(), u64::try_from(left)) else {
            expired.push(record);
            continue;
        };
        restored += 1;
        registrar.restore(
            now,
            registrar::Contact {
                user: record.user,
                mac: record.mac,
                line: record.line,
                generation: account.generation,
                provisional: account.provisional,
                uri: record.uri,
                flow,
                instance: record.instance,
                reg_id: record.reg_id,
                q: record.q,
                path: record.path,
                call_id: record.call_id,
                cseq: record.cseq,
                user_agent: record.user_agent,
                expires: now + Duration::from_secs(left),
            },
        );
    }
    if restored > 0 {
        tracing::info!(contacts = restored, "registered phones restored");
    }
    expired
}
