//! `/devices/import`, `/devices/export`, `/devices/{mac}/swap`: the list of all phones as a table, and a phone in the place of another.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State},
    http::header,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Context,
    devices::{Binding, mac_of},
    problem::Problem,
};
use crate::{
    model::MacAddr,
    provisioning::inventory::{self, Verdict, swap},
};

/// Largest table that is read.
pub const MAX_TABLE: usize = 4 * 1024 * 1024;

#[derive(Debug, Deserialize, IntoParams)]
pub struct Import {
    /// `false` does it; otherwise the answer only says what would be done.
    #[serde(default = "yes")]
    dry_run: bool,
    /// How the table is called in faults.
    #[serde(default = "table")]
    file: String,
}

fn yes() -> bool {
    true
}

fn table() -> String {
    "table".to_owned()
}

/// What an import did, or would do.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImportReport {
    /// It was done: all of it. `false` in a dry run, and where a row is refused: then nothing was done.
    pub applied: bool,
    pub rows: Vec<ImportedRow>,
}

/// What becomes of a row.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImportedRow {
    /// Counted from 1.
    pub line: u64,
    /// Absent where it cannot be read.
    pub mac: Option<String>,
    /// `added`, `changed`, `unchanged` or `refused`.
    pub verdict: String,
    pub changes: Vec<Change>,
    /// What else is to be known.
    pub remarks: Vec<String>,
    pub faults: Vec<RowFault>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Change {
    #[schema(example = "label")]
    pub what: String,
    pub from: Option<String>,
    pub to: Option<String>,
}

/// What is wrong with a row.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RowFault {
    /// Counted from 1; 0 where it has no place of its own.
    pub line: u64,
    pub column: u64,
    pub message: String,
    /// What to do, where that can be said.
    pub hint: Option<String>,
    /// In words for a terminal, with its place and the line itself.
    pub text: String,
}

/// Which phone comes in the place of this one.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SwapRequest {
    /// The new phone, seen or not.
    #[schema(example = "00:15:65:aa:bb:cd")]
    pub with: String,
    /// Only say what would go over.
    #[serde(default)]
    pub dry_run: bool,
}

/// What went over from a phone to another, or would.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Swapped {
    /// `false` in a dry run.
    pub applied: bool,
    pub old: String,
    pub new: String,
    /// Lines that change phones, as they were.
    pub lines: Vec<Binding>,
    /// Of the new phone.
    pub changes: Vec<Change>,
    /// What else is to be known.
    pub remarks: Vec<String>,
}

impl From<inventory::Change> for Change {
    fn from(change: inventory::Change) -> Self {
        Self { what: change.what.to_owned(), from: change.from, to: change.to }
    }
}

impl From<inventory::Outcome> for ImportedRow {
    fn from(row: inventory::Outcome) -> Self {
        let verdict = match row.verdict {
            Verdict::Added => "added",
            Verdict::Changed => "changed",
            Verdict::Unchanged => "unchanged",
            Verdict::Refused => "refused",
        };
        let fault = |fault: crate::yaml::Fault| {
            let text = fault.to_string();
            RowFault { line: fault.line, column: fault.column, message: fault.message, hint: fault.hint, text }
        };
        Self {
            line: row.line,
            mac: (row.mac != MacAddr::NOBODY).then(|| row.mac.to_string()),
            verdict: verdict.to_owned(),
            changes: row.changes.into_iter().map(Change::from).collect(),
            remarks: row.remarks,
            faults: row.faults.into_iter().map(fault).collect(),
        }
    }
}

impl From<swap::Swapped> for Swapped {
    fn from(swapped: swap::Swapped) -> Self {
        Self {
            applied: swapped.applied,
            old: swapped.old.to_string(),
            new: swapped.new.to_string(),
            lines: swapped.lines.into_iter().map(Binding::from).collect(),
            changes: swapped.changes.into_iter().map(Change::from).collect(),
            remarks: swapped.remarks,
        }
    }
}

/// Takes a table of phones, as `/devices/export` writes it: labels, places, groups, notes, and whose they are. All or nothing.
#[utoipa::path(post, path = "/devices/import", tag = "devices", params(Import), request_body(content = String, content_type = "text/csv"),
    responses((status = 200, body = ImportReport), (status = 400, body = Problem), (status = 502, body = Problem)))]
pub async fn import(State(context): State<Context>, Query(how): Query<Import>, table: Bytes) -> Result<Json<ImportReport>, Problem> {
    let set = context.templates.current();
    let report = context.owners.import(&*context.directory, &set, &how.file, &table, how.dry_run).await?;
    Ok(Json(ImportReport { applied: report.applied, rows: report.rows.into_iter().map(ImportedRow::from).collect() }))
}

/// All phones as a table.
#[utoipa::path(get, path = "/devices/export", tag = "devices", responses((status = 200, content_type = "text/csv", body = String)))]
pub async fn export(State(context): State<Context>) -> Result<Response, Problem> {
    let table = context.owners.export(&*context.directory).await?;
    Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], table).into_response())
}

/// Puts another phone in the place of this one: its owners, label, place, group and settings go over; both reload.
#[utoipa::path(post, path = "/devices/{mac}/swap", tag = "devices", params(("mac" = String, Path, description = "The old one, in any spelling")),
    request_body = SwapRequest, responses((status = 200, body = Swapped), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn swap(
    State(context): State<Context>,
    Path(mac): Path<String>,
    Json(request): Json<SwapRequest>,
) -> Result<Json<Swapped>, Problem> {
    let (old, new) = (mac_of(&mac)?, mac_of(&request.with)?);
    let set = context.templates.current();
    Ok(Json(context.owners.swap(&set, old, new, request.dry_run).await?.into()))
}
