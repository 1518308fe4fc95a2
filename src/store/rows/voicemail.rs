//! Messages that were left, and mails that tell of them.

use rusqlite::{Connection, params};

use super::{all, run};
use crate::{
    model::Timestamp,
    store::{Result, VoiceMail, VoiceMessage},
};

pub(in crate::store) fn voice_messages(db: &Connection, mailbox: Option<&str>) -> rusqlite::Result<Vec<VoiceMessage>> {
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

pub(in crate::store) fn voice_bytes(db: &Connection) -> rusqlite::Result<u64> {
    db.query_row("SELECT coalesce(sum(bytes), 0) FROM voice_messages", [], |row| row.get::<_, i64>(0)).map(|bytes| bytes as u64)
}

pub(in crate::store) fn save_voice_message(db: &Connection, message: &VoiceMessage, mail: bool) -> Result<()> {
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

pub(in crate::store) fn mark_voice_message(db: &Connection, mailbox: &str, id: &str, heard: Timestamp) -> Result<bool> {
    let sql = "UPDATE voice_messages SET heard_ms = coalesce(heard_ms, ?3) WHERE mailbox = ?1 AND id = ?2";
    run(db, "mark a voice message", sql, params![mailbox, id, heard.0]).map(|changed| changed > 0)
}

pub(in crate::store) fn remove_voice_message(db: &Connection, mailbox: &str, id: &str) -> Result<bool> {
    remove_voice_mail(db, mailbox, id)?;
    let sql = "DELETE FROM voice_messages WHERE mailbox = ?1 AND id = ?2";
    run(db, "delete a voice message", sql, params![mailbox, id]).map(|changed| changed > 0)
}

pub(in crate::store) fn voice_mails(
    db: &Connection,
    now: Timestamp,
    limit: usize,
) -> rusqlite::Result<(Vec<VoiceMail>, Option<Timestamp>)> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let sql = "SELECT mailbox, id, tries FROM voice_mails WHERE next_ms <= ?1 ORDER BY next_ms LIMIT ?2";
    let due = all(db, sql, &[&now.0, &limit], |row| Ok(VoiceMail { mailbox: row.get(0)?, id: row.get(1)?, tries: row.get(2)? }))?;
    let next: Option<i64> = db.query_row("SELECT min(next_ms) FROM voice_mails WHERE next_ms > ?1", [now.0], |row| row.get(0))?;
    Ok((due, next.map(Timestamp)))
}

pub(in crate::store) fn retry_voice_mail(db: &Connection, mailbox: &str, id: &str, next: Timestamp) -> Result<()> {
    let sql = "UPDATE voice_mails SET tries = tries + 1, next_ms = ?3 WHERE mailbox = ?1 AND id = ?2";
    run(db, "put off a mail", sql, params![mailbox, id, next.0]).map(drop)
}

pub(in crate::store) fn remove_voice_mail(db: &Connection, mailbox: &str, id: &str) -> Result<()> {
    run(db, "take off a mail", "DELETE FROM voice_mails WHERE mailbox = ?1 AND id = ?2", params![mailbox, id]).map(drop)
}
