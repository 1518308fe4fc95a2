//! What has happened, by number.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{all, refused, run};
use crate::{
    model::{Event, MacAddr, Recorded, Timestamp},
    store::{Error, Result},
};

pub(in crate::store) fn append_events(db: &Connection, events: &[Arc<Recorded>]) -> Result<()> {
    let what = "append events";
    let Some(last) = events.iter().map(|recorded| recorded.seq).max() else { return Ok(()) };
    // First: when one of them is refused, those before it keep their numbers.
    run(
        db,
        what,
        "INSERT INTO counters (name, value) VALUES ('last_seq', ?1)
         ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
        params![last as i64],
    )?;
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
    Ok(())
}

pub(in crate::store) fn events_after(db: &Connection, seq: u64, limit: usize) -> rusqlite::Result<Vec<Recorded>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let seq = i64::try_from(seq).unwrap_or(i64::MAX);
    all(db, "SELECT seq, at_ms, body FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2", &[&seq, &limit], event_row).map(known)
}

pub(in crate::store) fn timeline(db: &Connection, mac: MacAddr, limit: usize) -> rusqlite::Result<Vec<Recorded>> {
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

pub(in crate::store) fn last_seq(db: &Connection) -> rusqlite::Result<u64> {
    let last: Option<i64> = db.query_row("SELECT value FROM counters WHERE name = 'last_seq'", [], |row| row.get(0)).optional()?;
    Ok(last.unwrap_or(0) as u64)
}

pub(in crate::store) fn prune_events(db: &Connection, before: Timestamp, now: Timestamp) -> Result<usize> {
    // From the oldest on, by their numbers: an index by time would cost every event more than this costs once an hour.
    let sql = "DELETE FROM events WHERE seq < coalesce(
                 (SELECT seq FROM events WHERE at_ms BETWEEN ?1 AND ?2 ORDER BY seq LIMIT 1), 9223372036854775807)";
    run(db, "forget old events", sql, params![before.0, now.0])
}
