//! Records as rows and back, and the statements of each request: what runs inside the writer's transaction or on a reader.
//!
//! Every function takes the connection it runs on and leaves transactions to `sqlite.rs`.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
    sync::Arc,
};

use rusqlite::{
    Connection, OptionalExtension, Row, ToSql, params,
    types::{FromSqlError, Type},
};

use super::{
    CUT_OFF, CallLeg, CallLegQuery, Claim, ContactKey, ContactRecord, Error, LegDirection, NewConfig, Result, ServedConfig, StoredRollout,
    SubscriptionRecord, TokenRecord, VoiceMail, VoiceMessage,
};
use crate::model::{
    BindingRecord, DeviceRecord, DeviceState, Event, Extension, Inventory, Lease6Record, LeaseRecord, LeaseState, LineNumber, MacAddr,
    Recorded, Timestamp,
};

/// An idempotency key is remembered for a day: longer than any client repeats.
const ACTION_KEPT_MS: i64 = 24 * 3600 * 1000;

/// What could not be done, in the words of [`Error::Refused`].
pub(super) fn refused(what: &'static str) -> impl Fn(rusqlite::Error) -> Error {
    move |error| Error::Refused { what, reason: error.to_string() }
}

// --- leases

pub(super) fn leases(db: &Connection) -> rusqlite::Result<Vec<LeaseRecord>> {
    all(db, "SELECT address, mac, client_id, state, starts_ms, expires_ms, hostname, family, relay, relay_info FROM leases", &[], |row| {
        Ok(LeaseRecord {
            address: text(row, 0)?,
            mac: text(row, 1)?,
            client_id: row.get(2)?,
            state: lease_state(&row.get::<_, String>(3)?).ok_or_else(|| strange(3))?,
            starts: Timestamp(row.get(4)?),
            expires: Timestamp(row.get(5)?),
            hostname: row.get(6)?,
            family: row.get(7)?,
            relay: text_or_null(row, 8)?,
            relay_info: row.get(9)?,
        })
    })
}

pub(super) fn save_lease(db: &Connection, lease: &LeaseRecord) -> Result<()> {
    let what = "save a lease";
    // The last guard behind the DHCP server's own rules: a living lease is not taken away from another client.
    let changed = db
        .prepare_cached(
            "INSERT INTO leases (address, mac, client_id, state, starts_ms, expires_ms, hostname, family, relay, relay_info)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT (address) DO UPDATE SET mac = excluded.mac, client_id = excluded.client_id, state = excluded.state,
               starts_ms = excluded.starts_ms, expires_ms = excluded.expires_ms, hostname = excluded.hostname,
               family = excluded.family, relay = excluded.relay, relay_info = excluded.relay_info
             WHERE leases.state <> 'active' OR leases.expires_ms <= excluded.starts_ms OR excluded.state <> 'active'
                OR leases.mac = excluded.mac OR (leases.client_id = excluded.client_id AND length(leases.client_id) > 0)",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                lease.address.to_string(),
                lease.mac.to_string(),
                lease.client_id,
                lease_state_name(lease.state),
                lease.starts.0,
                lease.expires.0,
                lease.hostname,
                lease.family,
                lease.relay.map(|relay| relay.to_string()),
                lease.relay_info,
            ])
        })
        .map_err(refused(what))?;
    if changed == 0 {
        return Err(Error::Refused { what, reason: format!("{} is leased to another client", lease.address) });
    }
    Ok(())
}

pub(super) fn remove_lease(db: &Connection, address: Ipv4Addr) -> Result<()> {
    run(db, "remove a lease", "DELETE FROM leases WHERE address = ?1", params![address.to_string()]).map(drop)
}

pub(super) fn leases6(db: &Connection) -> rusqlite::Result<Vec<Lease6Record>> {
    all(db, "SELECT address, duid, iaid, mac, state, starts_ms, expires_ms, family, peer, relay, port FROM leases6", &[], |row| {
        Ok(Lease6Record {
            address: text(row, 0)?,
            duid: row.get(1)?,
            iaid: row.get(2)?,
            mac: text_or_null(row, 3)?,
            state: lease_state(&row.get::<_, String>(4)?).ok_or_else(|| strange(4))?,
            starts: Timestamp(row.get(5)?),
            expires: Timestamp(row.get(6)?),
            family: row.get(7)?,
            peer: text(row, 8)?,
            relay: text_or_null(row, 9)?,
            port: row.get(10)?,
        })
    })
}

pub(super) fn save_lease6(db: &Connection, lease: &Lease6Record) -> Result<()> {
    let what = "save a lease of DHCPv6";
    // The last guard, as above.
    let changed = run(
        db,
        what,
        "INSERT INTO leases6 (address, duid, iaid, mac, state, starts_ms, expires_ms, family, peer, relay, port)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT (address) DO UPDATE SET duid = excluded.duid, iaid = excluded.iaid, mac = excluded.mac, state = excluded.state,
           starts_ms = excluded.starts_ms, expires_ms = excluded.expires_ms, family = excluded.family, peer = excluded.peer,
           relay = excluded.relay, port = excluded.port
         WHERE leases6.state <> 'active' OR leases6.expires_ms <= excluded.starts_ms OR excluded.state <> 'active'
            OR (leases6.duid = excluded.duid AND leases6.iaid = excluded.iaid)",
        params![
            lease.address.to_string(),
            lease.duid,
            lease.iaid,
            lease.mac.map(|mac| mac.to_string()),
            lease_state_name(lease.state),
            lease.starts.0,
            lease.expires.0,
            lease.family,
            lease.peer.to_string(),
            lease.relay.map(|relay| relay.to_string()),
            lease.port,
        ],
    )?;
    if changed == 0 {
        return Err(Error::Refused { what, reason: format!("{} is leased to another client", lease.address) });
    }
    Ok(())
}

fn lease_state_name(state: LeaseState) -> &'static str {
    match state {
        LeaseState::Active => "active",
        LeaseState::Released => "released",
        LeaseState::Declined => "declined",
    }
}

fn lease_state(name: &str) -> Option<LeaseState> {
    Some(match name {
        "active" => LeaseState::Active,
        "released" => LeaseState::Released,
        "declined" => LeaseState::Declined,
        _ => return None,
    })
}

// --- devices and bindings

const DEVICE_COLUMNS: &str = "mac, family, model, firmware, state, generation, first_seen_ms, last_seen_ms, address, location, port, \
                              label, in_group, notes, stands_for";

pub(super) fn devices(db: &Connection) -> rusqlite::Result<Vec<DeviceRecord>> {
    all(db, &format!("SELECT {DEVICE_COLUMNS} FROM devices ORDER BY mac"), &[], device_row)
}

pub(super) fn device(db: &Connection, mac: MacAddr) -> rusqlite::Result<Option<DeviceRecord>> {
    db.prepare_cached(&format!("SELECT {DEVICE_COLUMNS} FROM devices WHERE mac = ?1"))?.query_row([mac.to_string()], device_row).optional()
}

fn device_row(row: &Row<'_>) -> rusqlite::Result<DeviceRecord> {
    Ok(DeviceRecord {
        mac: text(row, 0)?,
        family: row.get(1)?,
        model: row.get(2)?,
        firmware: row.get(3)?,
        state: device_state(&row.get::<_, String>(4)?).ok_or_else(|| strange(4))?,
        generation: row.get(5)?,
        first_seen: Timestamp(row.get(6)?),
        last_seen: Timestamp(row.get(7)?),
        address: text_or_null(row, 8)?,
        location: row.get(9)?,
        port: row.get(10)?,
        inventory: Inventory {
            label: row.get(11)?,
            group: row.get(12)?,
            notes: row.get(13)?,
            stands_for: row.get::<_, String>(14)?.split_whitespace().filter_map(|mac| mac.parse().ok()).collect(),
        },
    })
}

pub(super) fn save_device(db: &Connection, device: &DeviceRecord) -> Result<()> {
    // A generation never goes back: a late write of an old record cannot revive dead secrets.
    let changed = run(
        db,
        "save a device",
        "INSERT INTO devices (mac, family, model, firmware, state, generation, first_seen_ms, last_seen_ms, address, location, port,
           label, in_group, notes, stands_for)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
         ON CONFLICT (mac) DO UPDATE SET family = excluded.family, model = excluded.model, firmware = excluded.firmware,
           state = excluded.state, generation = excluded.generation, first_seen_ms = excluded.first_seen_ms,
           last_seen_ms = excluded.last_seen_ms, address = excluded.address, location = excluded.location, port = excluded.port,
           label = excluded.label, in_group = excluded.in_group, notes = excluded.notes, stands_for = excluded.stands_for
         WHERE devices.generation <= excluded.generation",
        params![
            device.mac.to_string(),
            device.family,
            device.model,
            device.firmware,
            device_state_name(device.state),
            device.generation,
            device.first_seen.0,
            device.last_seen.0,
            device.address.map(|address| address.to_string()),
            device.location,
            device.port,
            device.inventory.label,
            device.inventory.group,
            device.inventory.notes,
            device.inventory.stands_for.iter().map(MacAddr::to_string).collect::<Vec<_>>().join(" "),
        ],
    )?;
    if changed == 0 {
        let reason = format!("{} has moved on from generation {}", device.mac, device.generation);
        return Err(Error::Refused { what: "save a device", reason });
    }
    Ok(())
}

pub(super) fn bindings(db: &Connection) -> rusqlite::Result<Vec<BindingRecord>> {
    all(db, "SELECT mac, line, user_id, display_name, extension, generation, since_ms FROM bindings ORDER BY mac, line", &[], |row| {
        Ok(BindingRecord {
            mac: text(row, 0)?,
            line: row.get(1)?,
            user_id: row.get(2)?,
            display_name: row.get(3)?,
            extension: text(row, 4)?,
            generation: row.get(5)?,
            since: Timestamp(row.get(6)?),
        })
    })
}

pub(super) fn bind(
    db: &Connection,
    device: &DeviceRecord,
    binding: &BindingRecord,
    instead: &[(DeviceRecord, LineNumber)],
    devices_per_extension: u8,
) -> Result<()> {
    for (other, line) in instead {
        unbind(db, other, *line)?;
    }
    save_device(db, device)?;
    run(db, "free the line", "DELETE FROM bindings WHERE mac = ?1 AND line = ?2", params![binding.mac.to_string(), binding.line])?;
    insert_binding(db, binding, devices_per_extension)
}

pub(super) fn rearrange(db: &Connection, devices: &[(DeviceRecord, Vec<BindingRecord>)], devices_per_extension: u8) -> Result<()> {
    // Every line is free before one is given: what leaves one of them for another is in nobody's way.
    for (device, _) in devices {
        save_device(db, device)?;
        run(db, "free the lines", "DELETE FROM bindings WHERE mac = ?1", params![device.mac.to_string()])?;
    }
    devices.iter().flat_map(|(_, bindings)| bindings).try_for_each(|binding| insert_binding(db, binding, devices_per_extension))
}

/// Its line and its device are there, and the line is free.
fn insert_binding(db: &Connection, binding: &BindingRecord, devices_per_extension: u8) -> Result<()> {
    own_extension(db, &binding.user_id, &binding.extension)?;
    let slot = free_slot(db, &binding.extension, devices_per_extension)?;
    run(
        db,
        "bind a device",
        "INSERT INTO bindings (mac, line, user_id, display_name, extension, slot, generation, since_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            binding.mac.to_string(),
            binding.line,
            binding.user_id,
            binding.display_name,
            binding.extension.as_str(),
            slot,
            binding.generation,
            binding.since.0,
        ],
    )
    .map(drop)
}

pub(super) fn unbind(db: &Connection, device: &DeviceRecord, line: LineNumber) -> Result<()> {
    save_device(db, device)?;
    run(db, "end a binding", "DELETE FROM bindings WHERE mac = ?1 AND line = ?2", params![device.mac.to_string(), line]).map(drop)
}

fn free_slot(db: &Connection, extension: &Extension, devices_per_extension: u8) -> Result<u8> {
    let taken: Vec<(u8, String)> =
        all(db, "SELECT slot, mac FROM bindings WHERE extension = ?1", &[&extension.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(refused("look for a free place"))?;
    (1..=devices_per_extension.max(1)).find(|slot| taken.iter().all(|(used, _)| used != slot)).ok_or_else(|| Error::ExtensionTaken {
        extension: extension.clone(),
        owner: taken.into_iter().map(|(_, mac)| mac).collect::<Vec<_>>().join(", "),
    })
}

// --- extensions

pub(super) fn extensions(db: &Connection) -> rusqlite::Result<Vec<(Extension, String)>> {
    all(db, "SELECT extension, user_id FROM extensions ORDER BY given", &[], |row| Ok((text(row, 0)?, row.get(1)?)))
}

pub(super) fn claim_extension(
    db: &Connection,
    user_id: &str,
    wanted: Option<&Extension>,
    (first, last): (&Extension, &Extension),
) -> Result<Extension> {
    if let Some(wanted) = wanted {
        own_extension(db, user_id, wanted)?;
        return Ok(wanted.clone());
    }
    if let Some(given) = given_before(db, user_id)? {
        return Ok(given);
    }
    let free = lowest_free(db, first, last)?.ok_or_else(|| Error::NoExtensionFree { first: first.clone(), last: last.clone() })?;
    own_extension(db, user_id, &free)?;
    Ok(free)
}

/// Makes the extension this user's. The directory's word counts: from somebody without a device it is taken away.
fn own_extension(db: &Connection, user_id: &str, extension: &Extension) -> Result<()> {
    let what = "claim an extension";
    let owner: Option<String> = db
        .prepare_cached("SELECT user_id FROM extensions WHERE extension = ?1")
        .and_then(|mut statement| statement.query_row([extension.as_str()], |row| row.get(0)).optional())
        .map_err(refused(what))?;
    if let Some(owner) = owner.filter(|owner| owner != user_id) {
        let in_use: bool = db
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM bindings WHERE extension = ?1)")
            .and_then(|mut statement| statement.query_row([extension.as_str()], |row| row.get(0)))
            .map_err(refused(what))?;
        if in_use {
            return Err(Error::ExtensionTaken { extension: extension.clone(), owner });
        }
    }
    run(
        db,
        what,
        "INSERT INTO extensions (extension, user_id, given) VALUES (?1, ?2, (SELECT coalesce(max(given), 0) + 1 FROM extensions))
         ON CONFLICT (extension) DO UPDATE SET user_id = excluded.user_id, given = excluded.given
         WHERE extensions.user_id <> excluded.user_id
            OR extensions.given < (SELECT max(given) FROM extensions WHERE user_id = excluded.user_id)",
        params![extension.as_str(), user_id],
    )
    .map(drop)
}

fn given_before(db: &Connection, user_id: &str) -> Result<Option<Extension>> {
    db.prepare_cached("SELECT extension FROM extensions WHERE user_id = ?1 ORDER BY given DESC LIMIT 1")
        .and_then(|mut statement| statement.query_row([user_id], |row| text(row, 0)).optional())
        .map_err(refused("look for the user's extension"))
}

/// The lowest number of the range that is nobody's, written as wide as the range's first: 0200 is not 200.
fn lowest_free(db: &Connection, first: &Extension, last: &Extension) -> Result<Option<Extension>> {
    let taken: HashSet<String> =
        all(db, "SELECT extension FROM extensions", &[], |row| row.get(0)).map_err(refused("list extensions"))?.into_iter().collect();
    let width = first.as_str().len();
    let (Ok(from), Ok(to)) = (first.as_str().parse::<u64>(), last.as_str().parse::<u64>()) else { return Ok(None) };
    // Ends after at most as many steps as there are extensions taken.
    let free = (from..=to).map(|number| format!("{number:0width$}")).find(|number| !taken.contains(number));
    Ok(free.and_then(|number| number.parse().ok()))
}

// --- events

pub(super) fn append_events(db: &Connection, events: &[Arc<Recorded>]) -> Result<()> {
    let what = "append events";
    // The same event may be there already, from an attempt of which another part was refused; not another one by its number.
    let mut is_there = db.prepare_cached("SELECT at_ms = ?2 AND body = ?3 FROM events WHERE seq = ?1").map_err(refused(what))?;
    let mut insert = db
        .prepare_cached("INSERT OR IGNORE INTO events (seq, at_ms, type, mac, call, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")
        .map_err(refused(what))?;
    for recorded in events {
        let body = serde_json::to_string(&recorded.event).map_err(|e| Error::Refused { what, reason: e.to_string() })?;
        // An event's JSON begins with its type.
        let kind = body.strip_prefix(r#"{"type":""#).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        let mac = recorded.event.mac().map(|mac| mac.to_string());
        let call = recorded.event.call().map(|call| call.to_string());
        let stored = insert.execute(params![recorded.seq as i64, recorded.at.0, kind, mac, call, body]).map_err(refused(what))?;
        let known = stored == 1
            || is_there.query_row(params![recorded.seq as i64, recorded.at.0, body], |row| row.get(0)).map_err(refused(what))?;
        if !known {
            return Err(Error::Refused { what, reason: format!("number {} is another event's", recorded.seq) });
        }
    }
    let Some(last) = events.iter().map(|recorded| recorded.seq).max() else { return Ok(()) };
    run(
        db,
        what,
        "INSERT INTO counters (name, value) VALUES ('last_seq', ?1)
         ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
        params![last as i64],
    )
    .map(drop)
}

pub(super) fn events_after(db: &Connection, seq: u64, limit: usize) -> rusqlite::Result<Vec<Recorded>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let seq = i64::try_from(seq).unwrap_or(i64::MAX);
    all(db, "SELECT seq, at_ms, body FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2", &[&seq, &limit], event_row).map(known)
}

pub(super) fn timeline(db: &Connection, mac: MacAddr, limit: usize) -> rusqlite::Result<Vec<Recorded>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let sql = "SELECT seq, at_ms, body FROM events WHERE mac = ?1 ORDER BY seq DESC LIMIT ?2";
    let mut events = known(all(db, sql, &[&mac.to_string(), &limit], event_row)?);
    events.reverse();
    Ok(events)
}

/// `None` for an event that a later version wrote, or an earlier one whose event is gone: it is passed over.
fn event_row(row: &Row<'_>) -> rusqlite::Result<Option<Recorded>> {
    let event: Option<Event> = serde_json::from_str(&row.get::<_, String>(2)?).ok();
    let seq = row.get::<_, i64>(0)? as u64;
    let at = Timestamp(row.get(1)?);
    Ok(event.map(|event| Recorded { seq, at, event }))
}

fn known(rows: Vec<Option<Recorded>>) -> Vec<Recorded> {
    rows.into_iter().flatten().collect()
}

pub(super) fn last_seq(db: &Connection) -> rusqlite::Result<u64> {
    let last: Option<i64> = db.query_row("SELECT value FROM counters WHERE name = 'last_seq'", [], |row| row.get(0)).optional()?;
    Ok(last.unwrap_or(0) as u64)
}

pub(super) fn prune_events(db: &Connection, before: Timestamp, now: Timestamp) -> Result<usize> {
    // From the oldest on, by their numbers: an index by time would cost every event more than this costs once an hour.
    let sql = "DELETE FROM events WHERE seq < coalesce(
                 (SELECT seq FROM events WHERE at_ms BETWEEN ?1 AND ?2 ORDER BY seq LIMIT 1), 9223372036854775807)";
    run(db, "forget old events", sql, params![before.0, now.0])
}

// --- contacts

pub(super) fn contacts(db: &Connection) -> rusqlite::Result<Vec<ContactRecord>> {
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

pub(super) fn save_contact(db: &Connection, contact: &ContactRecord) -> Result<()> {
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

pub(super) fn remove_contact(db: &Connection, ContactKey { user, uri, reg_id }: &ContactKey) -> Result<()> {
    let which = "DELETE FROM contacts WHERE user = ?1 AND uri = ?2 AND reg_id = ?3";
    run(db, "remove a contact", which, params![user, uri, reg_id]).map(drop)
}

// --- subscriptions

pub(super) fn subscriptions(db: &Connection) -> rusqlite::Result<Vec<SubscriptionRecord>> {
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

pub(super) fn save_subscription(db: &Connection, record: &SubscriptionRecord) -> Result<()> {
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

pub(super) fn remove_subscription(db: &Connection, local_tag: &str) -> Result<()> {
    run(db, "remove a subscription", "DELETE FROM subscriptions WHERE local_tag = ?1", params![local_tag]).map(drop)
}

// --- API

pub(super) fn tokens(db: &Connection) -> rusqlite::Result<Vec<TokenRecord>> {
    all(db, "SELECT name, hash, created_ms, expires_ms FROM tokens ORDER BY name", &[], |row| {
        Ok(TokenRecord {
            name: row.get(0)?,
            hash: row.get(1)?,
            created: Timestamp(row.get(2)?),
            expires: row.get::<_, Option<i64>>(3)?.map(Timestamp),
        })
    })
}

pub(super) fn save_token(db: &Connection, token: &TokenRecord) -> Result<()> {
    run(
        db,
        "save a token",
        "INSERT OR REPLACE INTO tokens (name, hash, created_ms, expires_ms) VALUES (?1, ?2, ?3, ?4)",
        params![token.name, token.hash, token.created.0, token.expires.map(|at| at.0)],
    )
    .map(drop)
}

pub(super) fn remove_token(db: &Connection, name: &str) -> Result<bool> {
    run(db, "remove a token", "DELETE FROM tokens WHERE name = ?1", params![name]).map(|removed| removed > 0)
}

pub(super) fn claim_action(db: &Connection, key: &str, request_hash: [u8; 32], now: Timestamp) -> Result<Claim> {
    let what = "claim an idempotency key";
    run(db, what, "DELETE FROM actions WHERE at_ms < ?1", params![now.0.saturating_sub(ACTION_KEPT_MS)])?;
    let known: Option<([u8; 32], Option<String>)> = db
        .prepare_cached("SELECT request_hash, answer FROM actions WHERE key = ?1")
        .and_then(|mut statement| statement.query_row([key], |row| Ok((row.get(0)?, row.get(1)?))).optional())
        .map_err(refused(what))?;
    match known {
        Some((hash, answer)) if hash == request_hash => Ok(Claim::Repeated { answer }),
        Some(_) => Ok(Claim::Conflict),
        None => {
            let insert = "INSERT INTO actions (key, request_hash, at_ms) VALUES (?1, ?2, ?3)";
            run(db, what, insert, params![key, request_hash, now.0]).map(|_| Claim::New)
        }
    }
}

pub(super) fn finish_action(db: &Connection, key: &str, answer: &str) -> Result<()> {
    run(db, "keep an answer", "UPDATE actions SET answer = ?2 WHERE key = ?1", params![key, answer]).map(drop)
}

pub(super) fn forget_action(db: &Connection, key: &str) -> Result<()> {
    run(db, "forget an idempotency key", "DELETE FROM actions WHERE key = ?1", params![key]).map(drop)
}

// --- who called whom

pub(super) fn save_call_leg(db: &Connection, leg: &CallLeg) -> Result<()> {
    let what = "keep the record of a call";
    let labels = serde_json::to_string(&leg.labels).map_err(|e| Error::Refused { what, reason: e.to_string() })?;
    run(
        db,
        what,
        "INSERT INTO call_legs (call, leg, direction, from_number, to_number, dialled, mac, trunk, diverted_by, began_ms, rang_ms,
           answered_ms, ended_ms, cause, status, codec, labels)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
         ON CONFLICT (call, leg) DO UPDATE SET dialled = excluded.dialled, rang_ms = excluded.rang_ms,
           answered_ms = excluded.answered_ms, ended_ms = excluded.ended_ms, cause = excluded.cause, status = excluded.status,
           codec = excluded.codec, labels = excluded.labels
         WHERE call_legs.cause IS NULL",
        params![
            leg.call.to_string(),
            leg.leg,
            match leg.direction {
                LegDirection::In => "in",
                LegDirection::Out => "out",
            },
            leg.from,
            leg.to,
            leg.dialled,
            leg.mac.map(|mac| mac.to_string()),
            leg.trunk,
            leg.diverted_by,
            leg.began.0,
            leg.rang.map(|at| at.0),
            leg.answered.map(|at| at.0),
            leg.ended.map(|at| at.0),
            leg.cause,
            leg.status,
            leg.codec,
            labels,
        ],
    )
    .map(drop)
}

pub(super) fn call_legs(db: &Connection, query: &CallLegQuery) -> rusqlite::Result<Vec<CallLeg>> {
    let columns = "call, leg, direction, from_number, to_number, dialled, mac, trunk, diverted_by, began_ms, rang_ms, answered_ms,
                   ended_ms, cause, status, codec, labels";
    let order = "ORDER BY began_ms DESC, call DESC, leg DESC LIMIT ?6";
    let when = "began_ms >= ?1 AND began_ms < ?2 AND (began_ms, call, leg) < (?3, ?4, ?5)";
    let since = query.since.map_or(i64::MIN, |at| at.0);
    let until = query.until.map_or(i64::MAX, |at| at.0);
    // `~` is after every digit.
    let (after_ms, after_call, after_leg) =
        query.after.map_or((i64::MAX, "~".to_owned(), 0), |(at, call, leg)| (at.0, call.to_string(), leg));
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
    match &query.user {
        None => {
            let sql = format!("SELECT {columns} FROM call_legs WHERE {when} {order}");
            all(db, &sql, &[&since, &until, &after_ms, &after_call, &after_leg, &limit], call_leg_row)
        }
        Some(user) => {
            // Two indexes: each gives its newest, and the newest of both are taken.
            let half = |column: &str| format!("SELECT * FROM (SELECT {columns} FROM call_legs WHERE {column} = ?7 AND {when} {order})");
            let sql = format!("{} UNION {} {order}", half("from_number"), half("to_number"));
            all(db, &sql, &[&since, &until, &after_ms, &after_call, &after_leg, &limit, user], call_leg_row)
        }
    }
}

fn call_leg_row(row: &Row<'_>) -> rusqlite::Result<CallLeg> {
    let at = |column| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.map(Timestamp));
    Ok(CallLeg {
        call: text(row, 0)?,
        leg: row.get(1)?,
        direction: match row.get::<_, String>(2)?.as_str() {
            "in" => LegDirection::In,
            _ => LegDirection::Out,
        },
        from: row.get(3)?,
        to: row.get(4)?,
        dialled: row.get(5)?,
        mac: text_or_null(row, 6)?,
        trunk: row.get(7)?,
        diverted_by: row.get(8)?,
        began: Timestamp(row.get(9)?),
        rang: at(10)?,
        answered: at(11)?,
        ended: at(12)?,
        cause: row.get(13)?,
        status: row.get(14)?,
        codec: row.get(15)?,
        labels: serde_json::from_str(&row.get::<_, String>(16)?).map_err(|_| strange(16))?,
    })
}

pub(super) fn close_call_legs(db: &Connection) -> Result<usize> {
    run(db, "close the records of calls", "UPDATE call_legs SET cause = ?1 WHERE cause IS NULL", params![CUT_OFF])
}

pub(super) fn prune_call_legs(db: &Connection, before: Timestamp) -> Result<usize> {
    run(db, "forget old records of calls", "DELETE FROM call_legs WHERE began_ms < ?1", params![before.0])
}

// --- voice messages

pub(super) fn voice_messages(db: &Connection, mailbox: Option<&str>) -> rusqlite::Result<Vec<VoiceMessage>> {
    let sql = "SELECT mailbox, id, from_number, from_name, call, left_ms, length_ms, bytes, heard_ms FROM voice_messages
               WHERE ?1 IS NULL OR mailbox = ?1";
    all(db, sql, &[&mailbox], |row| {
        Ok(VoiceMessage {
            mailbox: row.get(0)?,
            id: row.get(1)?,
            from: row.get(2)?,
            from_name: row.get(3)?,
            call: row.get(4)?,
            left: Timestamp(row.get(5)?),
            length_ms: row.get::<_, i64>(6)? as u64,
            bytes: row.get::<_, i64>(7)? as u64,
            heard: row.get::<_, Option<i64>>(8)?.map(Timestamp),
        })
    })
}

pub(super) fn voice_bytes(db: &Connection) -> rusqlite::Result<u64> {
    db.query_row("SELECT coalesce(sum(bytes), 0) FROM voice_messages", [], |row| row.get::<_, i64>(0)).map(|bytes| bytes as u64)
}

pub(super) fn save_voice_message(db: &Connection, message: &VoiceMessage, mail: bool) -> Result<()> {
    let what = "keep a voice message";
    run(
        db,
        what,
        "INSERT INTO voice_messages (mailbox, id, from_number, from_name, call, left_ms, length_ms, bytes, heard_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            message.mailbox,
            message.id,
            message.from,
            message.from_name,
            message.call,
            message.left.0,
            message.length_ms as i64,
            message.bytes as i64,
            message.heard.map(|heard| heard.0),
        ],
    )?;
    if mail {
        let sql = "INSERT INTO voice_mails (mailbox, id, tries, next_ms) VALUES (?1, ?2, 0, ?3)";
        run(db, what, sql, params![message.mailbox, message.id, message.left.0])?;
    }
    Ok(())
}

pub(super) fn mark_voice_message(db: &Connection, mailbox: &str, id: &str, heard: Timestamp) -> Result<bool> {
    let sql = "UPDATE voice_messages SET heard_ms = coalesce(heard_ms, ?3) WHERE mailbox = ?1 AND id = ?2";
    run(db, "mark a voice message", sql, params![mailbox, id, heard.0]).map(|changed| changed > 0)
}

pub(super) fn remove_voice_message(db: &Connection, mailbox: &str, id: &str) -> Result<bool> {
    remove_voice_mail(db, mailbox, id)?;
    let sql = "DELETE FROM voice_messages WHERE mailbox = ?1 AND id = ?2";
    run(db, "delete a voice message", sql, params![mailbox, id]).map(|changed| changed > 0)
}

pub(super) fn voice_mails(db: &Connection, now: Timestamp, limit: usize) -> rusqlite::Result<(Vec<VoiceMail>, Option<Timestamp>)> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let sql = "SELECT mailbox, id, tries FROM voice_mails WHERE next_ms <= ?1 ORDER BY next_ms LIMIT ?2";
    let due = all(db, sql, &[&now.0, &limit], |row| Ok(VoiceMail { mailbox: row.get(0)?, id: row.get(1)?, tries: row.get(2)? }))?;
    let next: Option<i64> = db.query_row("SELECT min(next_ms) FROM voice_mails WHERE next_ms > ?1", [now.0], |row| row.get(0))?;
    Ok((due, next.map(Timestamp)))
}

pub(super) fn retry_voice_mail(db: &Connection, mailbox: &str, id: &str, next: Timestamp) -> Result<()> {
    let sql = "UPDATE voice_mails SET tries = tries + 1, next_ms = ?3 WHERE mailbox = ?1 AND id = ?2";
    run(db, "put off a mail", sql, params![mailbox, id, next.0]).map(drop)
}

pub(super) fn remove_voice_mail(db: &Connection, mailbox: &str, id: &str) -> Result<()> {
    run(db, "take off a mail", "DELETE FROM voice_mails WHERE mailbox = ?1 AND id = ?2", params![mailbox, id]).map(drop)
}

// --- uploads and attempts

pub(super) fn save_upload(db: &Connection, mac: MacAddr, name: &str, body: &[u8], at: Timestamp) -> Result<()> {
    run(
        db,
        "keep an upload",
        "INSERT OR REPLACE INTO uploads (mac, name, body, at_ms) VALUES (?1, ?2, ?3, ?4)",
        params![mac.to_string(), name, body, at.0],
    )
    .map(drop)
}

pub(super) fn upload(db: &Connection, mac: MacAddr, name: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    db.query_row("SELECT body FROM uploads WHERE mac = ?1 AND name = ?2", params![mac.to_string(), name], |row| row.get(0)).optional()
}

pub(super) fn remove_uploads(db: &Connection, mac: MacAddr) -> Result<usize> {
    run(db, "remove uploads", "DELETE FROM uploads WHERE mac = ?1", params![mac.to_string()])
}

pub(super) fn attempts(db: &Connection) -> rusqlite::Result<Option<String>> {
    db.query_row("SELECT state FROM attempts WHERE id = 1", [], |row| row.get(0)).optional()
}

pub(super) fn save_attempts(db: &Connection, state: &str) -> Result<()> {
    run(db, "keep the counts of log-ins", "INSERT OR REPLACE INTO attempts (id, state) VALUES (1, ?1)", params![state]).map(drop)
}

// --- what phones were given

const CONFIGS: &str = "SELECT c.mac, c.file, c.hash, t.bytes, c.first_ms, c.last_ms FROM configs c JOIN config_texts t ON t.hash = c.hash";
/// Rows that go at once: few enough that not much more goes than must.
const PRUNE_STEP: usize = 64;

pub(super) fn configs(db: &Connection, mac: MacAddr) -> rusqlite::Result<Vec<ServedConfig>> {
    all(db, &format!("{CONFIGS} WHERE c.mac = ?1 ORDER BY c.id DESC"), &[&mac.to_string()], config_row)
}

pub(super) fn latest_configs(db: &Connection) -> rusqlite::Result<Vec<ServedConfig>> {
    all(db, &format!("{CONFIGS} WHERE c.id IN (SELECT max(id) FROM configs GROUP BY mac, file)"), &[], config_row)
}

fn config_row(row: &Row<'_>) -> rusqlite::Result<ServedConfig> {
    Ok(ServedConfig {
        mac: text(row, 0)?,
        file: row.get(1)?,
        hash: row.get(2)?,
        bytes: row.get::<_, i64>(3)?.unsigned_abs(),
        first: Timestamp(row.get(4)?),
        last: Timestamp(row.get(5)?),
    })
}

pub(super) fn config_text(db: &Connection, hash: &str) -> rusqlite::Result<Option<String>> {
    db.query_row("SELECT body FROM config_texts WHERE hash = ?1", [hash], |row| row.get(0)).optional()
}

pub(super) fn save_configs(db: &Connection, configs: &[NewConfig]) -> Result<u64> {
    let what = "keep what a phone was given";
    let mut added = 0;
    for NewConfig { mac, file, hash, text, at } in configs {
        let sql = "INSERT INTO config_texts (hash, bytes, body) VALUES (?1, ?2, ?3) ON CONFLICT (hash) DO NOTHING";
        if run(db, what, sql, params![hash, text.len() as i64, text])? > 0 {
            added += text.len() as u64;
        }
        let sql = "INSERT INTO configs (mac, file, hash, first_ms, last_ms) VALUES (?1, ?2, ?3, ?4, ?4)";
        run(db, what, sql, params![mac.to_string(), file, hash, at.0])?;
    }
    Ok(added)
}

pub(super) fn touch_configs(db: &Connection, served: &[(MacAddr, String, Timestamp)]) -> Result<()> {
    served.iter().try_for_each(|(mac, file, at)| {
        let sql = "UPDATE configs SET last_ms = max(last_ms, ?3) WHERE id = (SELECT max(id) FROM configs WHERE mac = ?1 AND file = ?2)";
        run(db, "keep when a phone was given its file", sql, params![mac.to_string(), file, at.0]).map(drop)
    })
}

pub(super) fn config_bytes(db: &Connection) -> rusqlite::Result<u64> {
    db.query_row("SELECT coalesce(sum(bytes), 0) FROM config_texts", [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
}

pub(super) fn prune_configs(db: &Connection, most: u64) -> Result<u64> {
    let what = "forget what phones were given long ago";
    let followed = "WHERE EXISTS (SELECT 1 FROM configs n WHERE n.mac = c.mac AND n.file = c.file AND n.id > c.id)";
    // First what a newer one has followed, then all.
    for which in [followed, ""] {
        loop {
            let left = config_bytes(db).map_err(refused(what))?;
            if left <= most {
                return Ok(left);
            }
            let sql =
                format!("DELETE FROM configs WHERE id IN (SELECT c.id FROM configs c {which} ORDER BY c.last_ms, c.id LIMIT {PRUNE_STEP})");
            if run(db, what, &sql, [])? == 0 {
                break;
            }
            run(db, what, "DELETE FROM config_texts WHERE NOT EXISTS (SELECT 1 FROM configs c WHERE c.hash = config_texts.hash)", [])?;
        }
    }
    config_bytes(db).map_err(refused(what))
}

// --- phones that are here for the first time

pub(super) fn first_boots(db: &Connection) -> rusqlite::Result<Vec<(MacAddr, Timestamp, IpAddr)>> {
    let row = |row: &Row<'_>| Ok((text(row, 0)?, Timestamp(row.get(1)?), text(row, 2)?));
    db.prepare("SELECT mac, at, address FROM first_boots")?.query_map([], row)?.collect()
}

pub(super) fn save_first_boot(db: &Connection, mac: MacAddr, at: Timestamp, address: IpAddr) -> Result<()> {
    let sql = "INSERT INTO first_boots (mac, at, address) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
    run(db, "keep a first boot", sql, params![mac.to_string(), at.0, address.to_string()]).map(drop)
}

// --- a change of templates

pub(super) fn rollout(db: &Connection) -> rusqlite::Result<Option<StoredRollout>> {
    let row = |row: &Row<'_>| Ok(StoredRollout { state: row.get(0)?, old: row.get(1)?, new: row.get(2)? });
    db.query_row("SELECT state, old_set, new_set FROM rollout WHERE id = 1", [], row).optional()
}

pub(super) fn save_rollout(db: &Connection, StoredRollout { state, old, new }: &StoredRollout) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO rollout (id, state, old_set, new_set) VALUES (1, ?1, ?2, ?3)";
    run(db, "keep a rollout", sql, params![state, old, new]).map(drop)
}

pub(super) fn save_rollout_state(db: &Connection, state: &str) -> Result<()> {
    run(db, "keep how far a rollout is", "UPDATE rollout SET state = ?1 WHERE id = 1", params![state]).map(drop)
}

pub(super) fn forget_rollout_sets(db: &Connection) -> Result<()> {
    run(db, "forget a rollout's templates", "UPDATE rollout SET old_set = NULL, new_set = NULL WHERE id = 1", []).map(drop)
}

pub(super) fn remove_rollout(db: &Connection) -> Result<()> {
    run(db, "forget a rollout", "DELETE FROM rollout WHERE id = 1", []).map(drop)
}

// --- wishes

pub(super) fn wishes(db: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    db.prepare_cached("SELECT key, value FROM wishes ORDER BY key")?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

pub(super) fn save_wish(db: &Connection, key: &str, value: Option<&str>) -> Result<()> {
    let what = "keep what is wished";
    match value {
        Some(value) => run(db, what, "INSERT OR REPLACE INTO wishes (key, value) VALUES (?1, ?2)", params![key, value]).map(drop),
        None => run(db, what, "DELETE FROM wishes WHERE key = ?1", params![key]).map(drop),
    }
}

// --- helpers

fn run(db: &Connection, what: &'static str, sql: &str, values: impl rusqlite::Params) -> Result<usize> {
    db.prepare_cached(sql).and_then(|mut statement| statement.execute(values)).map_err(refused(what))
}

fn all<T>(
    db: &Connection,
    sql: &str,
    values: &[&dyn ToSql],
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    db.prepare_cached(sql)?.query_map(values, read)?.collect()
}

/// A column of text that one of our types parses.
fn text<T: FromStr>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    row.get::<_, String>(column)?.parse().map_err(|_| strange(column))
}

fn text_or_null<T: FromStr>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    row.get::<_, Option<String>>(column)?.map(|value| value.parse().map_err(|_| strange(column))).transpose()
}

/// Somebody edited the table by hand and wrote what no type of ours reads.
fn strange(column: usize) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(FromSqlError::InvalidType))
}

fn device_state_name(state: DeviceState) -> &'static str {
    match state {
        DeviceState::Unknown => "unknown",
        DeviceState::Provisional => "provisional",
        DeviceState::Authenticating => "authenticating",
        DeviceState::Bound => "bound",
        DeviceState::Reloading => "reloading",
        DeviceState::InService => "in_service",
    }
}

fn device_state(name: &str) -> Option<DeviceState> {
    Some(match name {
        "unknown" => DeviceState::Unknown,
        "provisional" => DeviceState::Provisional,
        "authenticating" => DeviceState::Authenticating,
        "bound" => DeviceState::Bound,
        "reloading" => DeviceState::Reloading,
        "in_service" => DeviceState::InService,
        _ => return None,
    })
}
