//! `calls records`: the account of who called whom, as a table, as JSON or as CSV.

use clap::Args;

use super::{
    ServerArg,
    out::{json, text},
    table,
};
use crate::{
    api::records::{self, CallRecord, CallRecords},
    model::Timestamp,
};

/// Shows who called whom, a line for each leg, the newest first.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone calls records
  plugtone calls records --user 2041 --since 24h
  plugtone calls records --since 2026-03-01 --until 2026-04-01 --csv > march.csv")]
pub struct Records {
    /// Only those from or to this number.
    #[arg(long)]
    user: Option<String>,
    /// Only those that began then or later: 2026-03-01 (UTC), 2026-03-01T08:00:00Z, or 90m, 24h, 7d ago.
    #[arg(long, value_parser = moment)]
    since: Option<String>,
    /// Only those that began before.
    #[arg(long, value_parser = moment)]
    until: Option<String>,
    /// How many at most: 100 if not given, with --csv all.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    #[command(flatten)]
    server: ServerArg,
    /// Print CSV (RFC 4180).
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What the API takes: `24h` becomes the moment that it means.
fn moment(text: &str) -> Result<String, String> {
    let ago = |digits: &str, secs: i64| digits.parse::<i64>().ok().and_then(|count| count.checked_mul(secs));
    let secs = match text.char_indices().last() {
        Some((at, 'm')) => ago(&text[..at], 60),
        Some((at, 'h')) => ago(&text[..at], 3600),
        Some((at, 'd')) => ago(&text[..at], 86_400),
        _ => return Ok(text.to_owned()),
    };
    let secs = secs.ok_or_else(|| format!("'{text}': write 90m, 24h, 7d, or 2026-03-01"))?;
    Ok(Timestamp::of(std::time::SystemTime::now()).plus_secs(-secs).to_string())
}

/// Records asked for at once.
const PAGE: usize = 1000;

impl Records {
    pub async fn run(self) -> anyhow::Result<()> {
        let client = self.server.client()?;
        let mut left = self.limit.map_or(if self.csv { usize::MAX } else { 100 }, |limit| limit as usize);
        let (mut found, mut after) = (Vec::new(), None::<String>);
        if self.csv {
            text(&records::table(&[]));
        }
        while left > 0 {
            let mut path = format!("/api/v1/calls/records?limit={}", left.min(PAGE));
            for (name, value) in [("user", &self.user), ("since", &self.since), ("until", &self.until), ("after", &after)] {
                if let Some(value) = value {
                    path.push_str(&format!("&{name}={}", super::ladder::escaped(value)));
                }
            }
            let CallRecords { records, next } = client.get(&path).await?;
            left = left.saturating_sub(records.len());
            match self.csv {
                // Page by page: there may be very many.
                true => text(&records.iter().map(records::row).collect::<String>()),
                false => found.extend(records),
            }
            after = next;
            if after.is_none() {
                break;
            }
        }
        match (self.csv, self.json) {
            (true, _) => Ok(()),
            (_, true) => json(&found),
            _ => {
                let rows: Vec<_> = found.into_iter().map(row).collect();
                table::print(&["BEGAN", "CALL", "LEG", "FROM", "TO", "TALKED", "CAUSE"], &rows, "nobody has called");
                Ok(())
            }
        }
    }
}

fn row(record: CallRecord) -> Vec<String> {
    let CallRecord { call, leg, direction, from, to, began, talk_secs, cause, trunk, .. } = record;
    let to = match trunk {
        Some(trunk) if direction == "out" => format!("{to} by {trunk}"),
        _ => to,
    };
    let talked = talk_secs.map_or_else(String::new, |secs| format!("{secs:.0} s"));
    vec![began, call, format!("{leg} {direction}"), from, to, talked, cause.unwrap_or_else(|| "up".to_owned())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_ago_or_as_written() {
        assert_eq!(moment("2026-03-01"), Ok("2026-03-01".to_owned()));
        assert!(moment("24h").is_ok_and(|at| at.ends_with('Z') && at.starts_with("20")));
        for wrong in ["xh", "h", "1.5d"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }
}
