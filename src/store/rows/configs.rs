//! What phones were given, and a change of templates that is under way.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{all, refused, run, text};
use crate::{
    model::{MacAddr, Timestamp},
    store::{NewConfig, Result, ServedConfig, StoredRollout},
};

// --- what phones were given

const CONFIGS: &str = "SELECT c.mac, c.file, c.hash, t.bytes, c.first_ms, c.last_ms FROM configs c JOIN config_texts t ON t.hash = c.hash";
/// Rows that go at once: few enough that not much more goes than must.
const PRUNE_STEP: usize = 64;

pub(in crate::store) fn configs(db: &Connection, mac: MacAddr) -> rusqlite::Result<Vec<ServedConfig>> {
    all(db, &format!("{CONFIGS} WHERE c.mac = ?1 ORDER BY c.id DESC"), &[&mac.to_string()], config_row)
}

pub(in crate::store) fn latest_configs(db: &Connection) -> rusqlite::Result<Vec<ServedConfig>> {
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

pub(in crate::store) fn config_text(db: &Connection, hash: &str) -> rusqlite::Result<Option<String>> {
    db.query_row("SELECT body FROM config_texts WHERE hash = ?1", [hash], |row| row.get(0)).optional()
}

pub(in crate::store) fn save_configs(db: &Connection, configs: &[NewConfig]) -> Result<u64> {
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

pub(in crate::store) fn touch_configs(db: &Connection, served: &[(MacAddr, String, Timestamp)]) -> Result<()> {
    served.iter().try_for_each(|(mac, file, at)| {
        let sql = "UPDATE configs SET last_ms = max(last_ms, ?3) WHERE id = (SELECT max(id) FROM configs WHERE mac = ?1 AND file = ?2)";
        run(db, "keep when a phone was given its file", sql, params![mac.to_string(), file, at.0]).map(drop)
    })
}

pub(in crate::store) fn config_bytes(db: &Connection) -> rusqlite::Result<u64> {
    db.query_row("SELECT coalesce(sum(bytes), 0) FROM config_texts", [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
}

pub(in crate::store) fn prune_configs(db: &Connection, most: u64) -> Result<u64> {
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

// --- a change of templates

pub(in crate::store) fn rollout(db: &Connection) -> rusqlite::Result<Option<StoredRollout>> {
    let row = |row: &Row<'_>| Ok(StoredRollout { state: row.get(0)?, old: row.get(1)?, new: row.get(2)? });
    db.query_row("SELECT state, old_set, new_set FROM rollout WHERE id = 1", [], row).optional()
}

pub(in crate::store) fn save_rollout(db: &Connection, StoredRollout { state, old, new }: &StoredRollout) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO rollout (id, state, old_set, new_set) VALUES (1, ?1, ?2, ?3)";
    run(db, "keep a rollout", sql, params![state, old, new]).map(drop)
}

pub(in crate::store) fn save_rollout_state(db: &Connection, state: &str) -> Result<()> {
    run(db, "keep how far a rollout is", "UPDATE rollout SET state = ?1 WHERE id = 1", params![state]).map(drop)
}

pub(in crate::store) fn forget_rollout_sets(db: &Connection) -> Result<()> {
    run(db, "forget a rollout's templates", "UPDATE rollout SET old_set = NULL, new_set = NULL WHERE id = 1", []).map(drop)
}

pub(in crate::store) fn remove_rollout(db: &Connection) -> Result<()> {
    run(db, "forget a rollout", "DELETE FROM rollout WHERE id = 1", []).map(drop)
}
