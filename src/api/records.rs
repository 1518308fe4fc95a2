//! `/calls/records`: the account of who called whom, a record for each leg, as JSON or as CSV.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Query, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Context, problem::Problem};
use crate::{
    model::{CallId, Timestamp},
    store::{CallLeg, CallLegQuery, LegDirection},
};

/// One leg of a call that is up or over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CallRecord {
    /// The call that it began in.
    pub call: String,
    /// Counted from 1 in the order in which the legs of the call began.
    pub leg: u32,
    /// `in`: its phone called; `out`: its phone was called.
    pub direction: String,
    /// Who is shown as the caller.
    pub from: String,
    /// Whose phones rang, or what the caller has dialled.
    pub to: String,
    /// What was dialled for the call as a whole.
    pub dialled: String,
    /// The phone at its end; absent outside.
    pub mac: Option<String>,
    pub trunk: Option<String>,
    /// Who has sent the call there.
    pub diverted_by: Option<String>,
    pub began: String,
    pub rang: Option<String>,
    pub answered: Option<String>,
    /// Absent while it is up, and where a server that was killed has cut it off.
    pub ended: Option<String>,
    /// Seconds from its answer to its end.
    pub talk_secs: Option<f64>,
    /// Why it is over, as `callee hung up`, `busy`, `no answer`, `taken elsewhere`, `cut off`; absent while it is up.
    pub cause: Option<String>,
    /// The final answer to its INVITE.
    pub status: Option<u16>,
    /// The sound format that was agreed last, as `PCMA`.
    pub codec: Option<String>,
    pub labels: BTreeMap<String, String>,
}

impl From<CallLeg> for CallRecord {
    fn from(leg: CallLeg) -> Self {
        let talk_ms = leg.answered.zip(leg.ended).map(|(answered, ended)| ended.0.saturating_sub(answered.0).max(0));
        let at = |at: Option<Timestamp>| at.map(|at| at.to_string());
        Self {
            call: leg.call.to_string(),
            leg: leg.leg,
            direction: match leg.direction {
                LegDirection::In => "in".to_owned(),
                LegDirection::Out => "out".to_owned(),
            },
            from: leg.from,
            to: leg.to,
            dialled: leg.dialled,
            mac: leg.mac.map(|mac| mac.to_string()),
            trunk: leg.trunk,
            diverted_by: leg.diverted_by,
            began: leg.began.to_string(),
            rang: at(leg.rang),
            answered: at(leg.answered),
            ended: at(leg.ended),
            talk_secs: talk_ms.map(|ms| ms as f64 / 1000.0),
            cause: leg.cause,
            status: leg.status,
            codec: leg.codec,
            labels: leg.labels.into_iter().collect(),
        }
    }
}

/// Records, the newest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CallRecords {
    pub records: Vec<CallRecord>,
    /// Where to go on: `after` of the next request. Absent: there are no more.
    pub next: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
pub struct Wanted {
    /// Only those from or to this number.
    pub user: Option<String>,
    /// Only those that began then or later: `2026-03-01`, in UTC, or `2026-03-01T08:00:00Z`.
    pub since: Option<String>,
    /// Only those that began before.
    pub until: Option<String>,
    /// How many at most, 1 to 1000; 100 if absent.
    pub limit: Option<usize>,
    /// `next` of the answer before.
    pub after: Option<String>,
    /// `json`, or `csv`, for which the header `Accept: text/csv` asks too.
    pub format: Option<String>,
}

const MOST: usize = 1000;

impl Wanted {
    fn read(&self) -> Result<CallLegQuery, Problem> {
        let limit = self.limit.unwrap_or(100);
        if !(1..=MOST).contains(&limit) {
            return Err(Problem::bad_request(format!("`limit`: 1 to {MOST}")));
        }
        let moment = |name: &str, text: &Option<String>| text.as_deref().map(|text| moment(name, text)).transpose();
        let after = self.after.as_deref().map(|text| cursor(text).ok_or_else(|| Problem::bad_request("`after`: `next` of an answer")));
        Ok(CallLegQuery {
            user: self.user.clone(),
            since: moment("since", &self.since)?,
            until: moment("until", &self.until)?,
            after: after.transpose()?,
            limit,
        })
    }

    fn wants_csv(&self, headers: &HeaderMap) -> Result<bool, Problem> {
        let accepts = || headers.get(header::ACCEPT).is_some_and(|accept| accept.as_bytes().starts_with(b"text/csv"));
        match self.format.as_deref() {
            None => Ok(accepts()),
            Some("csv") => Ok(true),
            Some("json") => Ok(false),
            Some(_) => Err(Problem::bad_request("`format`: json or csv")),
        }
    }
}

fn moment(name: &str, text: &str) -> Result<Timestamp, Problem> {
    let day = || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|day| day.timestamp());
    let at = text.parse::<jiff::Timestamp>().ok().or_else(day);
    let at = at.ok_or_else(|| Problem::bad_request(format!("`{name}`: 2026-03-01, or 2026-03-01T08:00:00Z")))?;
    Ok(Timestamp(at.as_millisecond()))
}

/// `<milliseconds>.<call>.<leg>`
fn cursor(text: &str) -> Option<(Timestamp, CallId, u32)> {
    let mut parts = text.split('.');
    let found = (Timestamp(parts.next()?.parse().ok()?), parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some(found)
}

/// The account of who called whom: one record for each leg, also of calls that were refused or that nobody took, and of
/// those that are up.
///
/// A record is there when its leg begins and is whole a moment after its end. What a server that is killed leaves open has
/// the cause `cut off`.
#[utoipa::path(get, path = "/calls/records", tag = "calls", params(Wanted), responses(
    (status = 200, content((CallRecords = "application/json"), (String = "text/csv"))), (status = 400, body = Problem)))]
pub async fn list(State(context): State<Context>, Query(wanted): Query<Wanted>, headers: HeaderMap) -> Result<Response, Problem> {
    let query = wanted.read()?;
    let csv = wanted.wants_csv(&headers)?;
    let limit = query.limit;
    let legs = context.store.call_legs(query).await?;
    let last = legs.last().filter(|_| legs.len() == limit);
    let next = last.map(|leg| format!("{}.{}.{}", leg.began.0, leg.call, leg.leg));
    let records: Vec<_> = legs.into_iter().map(CallRecord::from).collect();
    if !csv {
        return Ok(Json(CallRecords { records, next }).into_response());
    }
    let mut response = ([(header::CONTENT_TYPE, "text/csv; charset=utf-8; header=present")], table(&records)).into_response();
    if let Some(next) = next.and_then(|next| HeaderValue::from_str(&format!("<?after={next}>; rel=\"next\"")).ok()) {
        response.headers_mut().insert(header::LINK, next);
    }
    Ok(response)
}

/// The names of the columns, as in JSON.
pub const COLUMNS: [&str; 18] = [
    "call",
    "leg",
    "direction",
    "from",
    "to",
    "dialled",
    "mac",
    "trunk",
    "diverted_by",
    "began",
    "rang",
    "answered",
    "ended",
    "talk_secs",
    "cause",
    "status",
    "codec",
    "labels",
];

/// RFC 4180.
pub fn table(records: &[CallRecord]) -> String {
    let mut out = line(COLUMNS.map(str::to_owned));
    records.iter().for_each(|record| out.push_str(&row(record)));
    out
}

/// One line of it.
pub fn row(record: &CallRecord) -> String {
    let r = record.clone();
    let number = |number: Option<String>| number.unwrap_or_default();
    let labels = r.labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(";");
    line([
        r.call,
        r.leg.to_string(),
        r.direction,
        r.from,
        r.to,
        r.dialled,
        number(r.mac),
        number(r.trunk),
        number(r.diverted_by),
        r.began,
        number(r.rang),
        number(r.answered),
        number(r.ended),
        number(r.talk_secs.map(|secs| format!("{secs:.3}"))),
        number(r.cause),
        number(r.status.map(|status| status.to_string())),
        number(r.codec),
        labels,
    ])
}

fn line<const N: usize>(fields: [String; N]) -> String {
    let mut out = fields.map(|field| quoted(&field)).join(",");
    out.push_str("\r\n");
    out
}

fn quoted(field: &str) -> String {
    match field.contains([',', '"', '\r', '\n']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_read_or_named() {
        for (since, ms) in [("1970-01-02", 86_400_000), ("1970-01-01T01:00:00+01:00", 0), ("1970-01-01T00:00:00.5Z", 500)] {
            assert_eq!(moment("since", since).map(|at| at.0).ok(), Some(ms), "{since}");
        }
        for wrong in ["yesterday", "", "2026-02-30"] {
            assert!(moment("since", wrong).is_err(), "{wrong}");
        }
        assert_eq!(cursor("5.00000000000004d2.2"), Some((Timestamp(5), CallId(1234), 2)));
        for wrong in ["", "5", "5.x.1", "5.1.1.1"] {
            assert_eq!(cursor(wrong), None, "{wrong}");
        }
        assert!(Wanted { limit: Some(0), ..Wanted::default() }.read().is_err());
    }

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        for (field, written) in [("2041", "2041"), ("a,b", "\"a,b\""), ("say \"x\"", "\"say \"\"x\"\"\""), ("", "")] {
            assert_eq!(quoted(field), written);
        }
    }
}
