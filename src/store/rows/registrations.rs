//! Contacts of phones, and what they watch.

use rusqlite::{Connection, params};

use super::{all, run, text};
use crate::{
    model::Timestamp,
    store::{ContactKey, ContactRecord, Result, SubscriptionRecord},
};

// --- contacts

pub(in crate::store) fn contacts(db: &Connection) -> rusqlite::Result<Vec<ContactRecord>> {
    all(
        db,
        "SELECT user, mac, line, uri, flow, call_id, cseq, user_agent, expires_ms, generation, instance, reg_id, q, path FROM contacts",
        &[],
        |row| {
            Ok(ContactRecord {
                user: row.get(0)?,
                mac: text(row, 1)?,
                line: row.get(2)?,
                uri: row.get(3)?,
                flow: row.get(4)?,
                call_id: row.get(5)?,
                cseq: row.get(6)?,
                user_agent: row.get(7)?,
                expires: Timestamp(row.get(8)?),
                generation: row.get(9)?,
                instance: row.get(10)?,
                reg_id: row.get(11)?,
                q: row.get(12)?,
                path: row.get::<_, String>(13)?.lines().map(str::to_owned).collect(),
            })
        },
    )
}

pub(in crate::store) fn save_contact(db: &Connection, contact: &ContactRecord) -> Result<()> {
    let what = "save a contact";
    // A line that is back with a newer secret has lost the one before.
    let past = params![contact.mac.to_string(), contact.line, contact.generation];
    run(db, what, "DELETE FROM contacts WHERE mac = ?1 AND line = ?2 AND generation < ?3", past)?;
    run(
        db,
        what,
        "INSERT OR REPLACE INTO contacts
           (user, uri, mac, line, flow, call_id, cseq, user_agent, expires_ms, generation, instance, reg_id, q, path)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        params![
            contact.user,
            contact.uri,
            contact.mac.to_string(),
            contact.line,
            contact.flow,
            contact.call_id,
            contact.cseq,
            contact.user_agent,
            contact.expires.0,
            contact.generation,
            contact.instance,
            contact.reg_id,
            contact.q,
            contact.path.join("\n"),
        ],
    )
    .map(drop)
}

pub(in crate::store) fn remove_contact(db: &Connection, ContactKey { user, uri, reg_id }: &ContactKey) -> Result<()> {
    let which = "DELETE FROM contacts WHERE user = ?1 AND uri = ?2 AND reg_id = ?3";
    run(db, "remove a contact", which, params![user, uri, reg_id]).map(drop)
}

// --- subscriptions

pub(in crate::store) fn subscriptions(db: &Connection) -> rusqlite::Result<Vec<SubscriptionRecord>> {
    all(
        db,
        "SELECT local_tag, call_id, remote_tag, mac, line, user, event, resource, local, remote, contact, target, routes, flow,
                local_cseq, remote_cseq, expires_ms FROM subscriptions ORDER BY local_tag",
        &[],
        |row| {
            Ok(SubscriptionRecord {
                local_tag: row.get(0)?,
                call_id: row.get(1)?,
                remote_tag: row.get(2)?,
                mac: text(row, 3)?,
                line: row.get(4)?,
                user: row.get(5)?,
                event: row.get(6)?,
                resource: row.get(7)?,
                local: row.get(8)?,
                remote: row.get(9)?,
                contact: row.get(10)?,
                target: row.get(11)?,
                routes: row.get(12)?,
                flow: row.get(13)?,
                local_cseq: row.get(14)?,
                remote_cseq: row.get(15)?,
                expires: Timestamp(row.get(16)?),
            })
        },
    )
}

pub(in crate::store) fn save_subscription(db: &Connection, record: &SubscriptionRecord) -> Result<()> {
    run(
        db,
        "save a subscription",
        "INSERT OR REPLACE INTO subscriptions (local_tag, call_id, remote_tag, mac, line, user, event, resource, local, remote,
           contact, target, routes, flow, local_cseq, remote_cseq, expires_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
        params![
            record.local_tag,
            record.call_id,
            record.remote_tag,
            record.mac.to_string(),
            record.line,
            record.user,
            record.event,
            record.resource,
            record.local,
            record.remote,
            record.contact,
            record.target,
            record.routes,
            record.flow,
            record.local_cseq,
            record.remote_cseq,
            record.expires.0,
        ],
    )
    .map(drop)
}

pub(in crate::store) fn remove_subscription(db: &Connection, local_tag: &str) -> Result<()> {
    run(db, "remove a subscription", "DELETE FROM subscriptions WHERE local_tag = ?1", params![local_tag]).map(drop)
}
