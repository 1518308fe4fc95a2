//! Records as rows and back, and the statements of each request: what runs inside the writer's transaction or on a reader.
//!
//! Every function takes the connection it runs on and leaves transactions to `sqlite.rs`. A file for each kind of record; here is what
//! they share.

mod calls;
mod configs;
mod devices;
mod events;
mod leases;
mod programs;
mod registrations;
mod voicemail;

use std::str::FromStr;

use rusqlite::{
    Connection, Row, ToSql,
    types::{FromSqlError, Type},
};

pub(super) use self::{calls::*, configs::*, devices::*, events::*, leases::*, programs::*, registrations::*, voicemail::*};
use super::{Error, Result};

/// What could not be done, in the words of [`Error::Refused`].
pub(super) fn refused(what: &'static str) -> impl Fn(rusqlite::Error) -> Error {
    move |error| Error::Refused { what, reason: error.to_string() }
}

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
