//! Who called whom, and what users wish of their calls.

use rusqlite::{Connection, Row, params};

use super::{all, run, strange, text, text_or_null};
use crate::{
    model::Timestamp,
    store::{CUT_OFF, CallLeg, CallLegQuery, Error, LegDirection, Result},
};

// --- who called whom

pub(in crate::store) fn save_call_leg(db: &Connection, leg: &CallLeg) -> Result<()> {
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

pub(in crate::store) fn call_legs(db: &Connection, query: &CallLegQuery) -> rusqlite::Result<Vec<CallLeg>> {
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

pub(in crate::store) fn close_call_legs(db: &Connection) -> Result<usize> {
    run(db, "close the records of calls", "UPDATE call_legs SET cause = ?1 WHERE cause IS NULL", params![CUT_OFF])
}

pub(in crate::store) fn prune_call_legs(db: &Connection, before: Timestamp) -> Result<usize> {
    run(db, "forget old records of calls", "DELETE FROM call_legs WHERE began_ms < ?1", params![before.0])
}

// --- wishes

pub(in crate::store) fn wishes(db: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    db.prepare_cached("SELECT key, value FROM wishes ORDER BY key")?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

pub(in crate::store) fn save_wish(db: &Connection, key: &str, value: Option<&str>) -> Result<()> {
    let what = "keep what is wished";
    match value {
        Some(value) => run(db, what, "INSERT OR REPLACE INTO wishes (key, value) VALUES (?1, ?2)", params![key, value]).map(drop),
        None => run(db, what, "DELETE FROM wishes WHERE key = ?1", params![key]).map(drop),
    }
}
