//! Tokens of programs, and which of their actions were done.

use rusqlite::{Connection, OptionalExtension, params};

use super::{all, refused, run};
use crate::{
    model::Timestamp,
    store::{Claim, Result, TokenRecord},
};

/// An idempotency key is remembered for a day: longer than any client repeats.
const ACTION_KEPT_MS: i64 = 24 * 3600 * 1000;

pub(in crate::store) fn tokens(db: &Connection) -> rusqlite::Result<Vec<TokenRecord>> {
    all(db, "SELECT name, hash, created_ms, expires_ms FROM tokens ORDER BY name", &[], |row| {
        Ok(TokenRecord {
            name: row.get(0)?,
            hash: row.get(1)?,
            created: Timestamp(row.get(2)?),
            expires: row.get::<_, Option<i64>>(3)?.map(Timestamp),
        })
    })
}

pub(in crate::store) fn save_token(db: &Connection, token: &TokenRecord) -> Result<()> {
    run(
        db,
        "save a token",
        "INSERT OR REPLACE INTO tokens (name, hash, created_ms, expires_ms) VALUES (?1, ?2, ?3, ?4)",
        params![token.name, token.hash, token.created.0, token.expires.map(|at| at.0)],
    )
    .map(drop)
}

pub(in crate::store) fn remove_token(db: &Connection, name: &str) -> Result<bool> {
    run(db, "remove a token", "DELETE FROM tokens WHERE name = ?1", params![name]).map(|removed| removed > 0)
}

pub(in crate::store) fn claim_action(db: &Connection, key: &str, request_hash: [u8; 32], now: Timestamp) -> Result<Claim> {
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

pub(in crate::store) fn finish_action(db: &Connection, key: &str, answer: &str) -> Result<()> {
    run(db, "keep an answer", "UPDATE actions SET answer = ?2 WHERE key = ?1", params![key, answer]).map(drop)
}

pub(in crate::store) fn forget_action(db: &Connection, key: &str) -> Result<()> {
    run(db, "forget an idempotency key", "DELETE FROM actions WHERE key = ?1", params![key]).map(drop)
}
