//! `phones import`, `phones export`, `phones link`, `phones admit`, `swap`: the list of all phones as a table for a spreadsheet, a soft phone by a link,
//! a phone that is let in, and one in the place of another.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use hyper::Method;
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};

use super::{
    ServerArg,
    ladder::escaped,
    out::{self, json, say},
    table,
};
use crate::{
    api::devices::{Admission, AdmissionRequest},
    api::inventory::{Change, ImportReport, ImportedRow, SwapRequest, Swapped},
    api::links::{LinkRequest, SoftPhoneLink},
    model::MacAddr,
};

/// Reads the list of all phones from a table, or writes it as one: labels, places, groups, notes, and whose they are; makes links for
/// soft phones, and lets phones in.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone phones export > phones.csv
  plugtone phones import phones.csv
  plugtone phones import phones.csv --apply
  plugtone phones link 1001
  plugtone phones admit 00:15:65:aa:bb:cc")]
pub struct Phones {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Import(Import),
    Export(Export),
    Link(Link),
    Admit(Admit),
}

/// Shows what a table of phones would add and change; with --apply does it, all or nothing.
#[derive(Args)]
#[command(
    after_help = "The first row has titles, of which only `mac` is needed: mac, family, model, label, location, user, extension, group, notes.
An empty cell changes nothing, - takes out what is there. A phone that has a user or an extension is theirs from its first start,
without the voice menu; `user` is what they would key in.

Examples:
  plugtone phones import phones.csv            what it would do, and what is wrong with which line
  plugtone phones import phones.csv --apply
  plugtone phones import phones.csv --json | jq '.rows[] | select(.verdict == \"refused\")'"
)]
struct Import {
    /// CSV, as spreadsheets write it: commas, semicolons or tabs.
    file: PathBuf,
    /// Do it.
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Writes all phones as a table that can be imported again.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone phones export > phones.csv
  plugtone phones export --output phones.csv")]
struct Export {
    /// The file to write; without it: standard output.
    #[arg(long, short)]
    output: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArg,
}

/// Makes a link by which somebody's soft phone gets its account, once, and shows it as a picture to scan.
#[derive(Args)]
#[command(
    after_help = "Whoever has the link has the account, until it is used or its time is over; what previews links uses it up. The soft phone counts
as a device: with `binding.devices_per_extension: 1` its owner's desk phone is nobody's as soon as the link is used.

Examples:
  plugtone phones link 1001                        scan it with Linphone, or type it in as the remote configuration
  plugtone phones link 1001 --hours 2 --json | jq -r .url
  plugtone phones link 1001 --app acrobits         a code for Cloud Softphone; what it needs is at the top of templates/acrobits.yaml
  plugtone phones link 1001 --app groundwire       a link to be sent to the mobile phone and touched there
  plugtone phones link 1001 --app zoiper           the page with a code for Zoiper; see templates/zoiper.yaml
  plugtone phones link 1001 --app microsip         the address of a MicroSIP.ini
  plugtone phones link 1001 --app generic          the account as text, for any other"
)]
struct Link {
    /// The user's login: employee number or extension.
    login: String,
    /// The app, as its family of templates is called.
    #[arg(long, default_value = "linphone")]
    app: String,
    /// How long the link waits to be used.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=744))]
    hours: u32,
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Lets a phone have its files that has no lease of ours: the first address that asks for them, for a while.
#[derive(Args)]
#[command(
    after_help = "For a phone behind NAT or another DHCP server whose key in the URL (`provisioning.url_tokens`) is dead, as it was off while its owner
changed, or that never had one. Whoever is faster than the phone gets its file: restart the phone right away. With `url_tokens` it has a
key in its URL from then on.

Examples:
  plugtone phones admit 00:15:65:aa:bb:cc
  plugtone phones admit 00:15:65:aa:bb:cc --for 2h"
)]
struct Admit {
    /// The phone; it need not have been seen.
    mac: MacAddr,
    /// For how long, as 30m or 2h; a day at most.
    #[arg(long = "for", default_value = "30m", value_parser = minutes)]
    minutes: u32,
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// `30m`, `2h`.
fn minutes(text: &str) -> Result<u32, String> {
    let (number, unit) = text.split_at(text.len() - usize::from(text.ends_with(['m', 'h'])));
    let number: u32 = number.parse().map_err(|_| "write it as 30m or 2h".to_owned())?;
    let minutes = number.saturating_mul(if unit == "h" { 60 } else { 1 });
    if (1..=1440).contains(&minutes) { Ok(minutes) } else { Err("a day at most, and a minute at least".to_owned()) }
}

/// Puts a new phone in the place of an old one: owner, lines, label, place, group and settings go over, also between makes.
#[derive(Args)]
#[command(
    after_help = "The new one need not have been seen, and the old one may be dead. Both are told to reload; the old one's secrets are void.

Examples:
  plugtone swap 00:15:65:aa:bb:cc 00:04:f2:00:00:01 --dry-run    what would go over
  plugtone swap 00:15:65:aa:bb:cc 00:04:f2:00:00:01"
)]
pub struct Swap {
    /// The phone that goes.
    old: MacAddr,
    /// The phone that comes, which must be nobody's.
    new: MacAddr,
    /// Only show what would go over.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Phones {
    pub async fn run(self) -> anyhow::Result<()> {
        match self.what {
            What::Import(command) => command.run().await,
            What::Export(command) => command.run().await,
            What::Link(command) => command.run().await,
            What::Admit(command) => command.run().await,
        }
    }
}

impl Admit {
    async fn run(self) -> anyhow::Result<()> {
        let path = format!("/api/v1/devices/{}/admission", self.mac.bare());
        let request = AdmissionRequest { minutes: self.minutes };
        let admission: Admission = self.server.client()?.send_json(Method::PUT, &path, &request).await?;
        if self.json {
            return json(&admission);
        }
        say!("the first address that asks for the files of {} has them, until {}", admission.mac, admission.until);
        Ok(())
    }
}

impl Link {
    async fn run(self) -> anyhow::Result<()> {
        let request = LinkRequest { login: self.login, app: self.app, hours: self.hours };
        let link: SoftPhoneLink = self.server.client()?.send_json(Method::POST, "/api/v1/links", &request).await?;
        if self.json {
            return json(&link);
        }
        say!("{}", picture(&link.url)?);
        say!("{}", link.url);
        say!("for {}, once, until {}", link.display_name, link.until);
        Ok(())
    }
}

/// The text as a QR code for a terminal, two rows in a line. Most terminals are dark: what is written is the light in it.
fn picture(text: &str) -> anyhow::Result<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L)?;
    Ok(code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
}

impl Import {
    async fn run(self) -> anyhow::Result<()> {
        let text = std::fs::read(&self.file).with_context(|| format!("cannot read {}", self.file.display()))?;
        let path = format!("/api/v1/devices/import?dry_run={}&file={}", !self.apply, escaped(&self.file.display().to_string()));
        let report = self.server.client()?.send_as(Method::POST, &path, "text/csv", text).await?;
        let report: ImportReport =
            serde_json::from_slice(&report).context("the server's answer is not what this version of plugtone understands")?;
        let refused = report.rows.iter().filter(|row| row.verdict == "refused").count();
        if self.json {
            json(&report)?;
        } else {
            tell(&report, self.apply);
        }
        if refused > 0 {
            let rows = if refused == 1 { "row is" } else { "rows are" };
            bail!("{refused} {rows} refused: nothing was changed");
        }
        Ok(())
    }
}

/// Every row that means something, and what to do next.
fn tell(report: &ImportReport, apply: bool) {
    for row in &report.rows {
        row.faults.iter().for_each(|fault| say!("{}\n", fault.text));
    }
    let rows: Vec<Vec<String>> =
        report.rows.iter().filter(|row| row.verdict != "unchanged" || !row.remarks.is_empty()).map(cells).collect();
    if !rows.is_empty() {
        table::print(&["LINE", "MAC", "IS", "CHANGES"], &rows, "");
        say!();
    }
    let count = |verdict: &str| report.rows.iter().filter(|row| row.verdict == verdict).count();
    let (added, changed, unchanged, refused) = (count("added"), count("changed"), count("unchanged"), count("refused"));
    say!("{added} added, {changed} changed, {unchanged} unchanged, {refused} refused");
    if refused == 0 && !apply && added + changed > 0 {
        say!("nothing is done yet: --apply does it");
    }
}

fn cells(row: &ImportedRow) -> Vec<String> {
    let changes = row.changes.iter().map(change).chain(row.remarks.iter().map(|remark| format!("({remark})")));
    vec![row.line.to_string(), row.mac.clone().unwrap_or_default(), row.verdict.clone(), changes.collect::<Vec<_>>().join("; ")]
}

fn change(change: &Change) -> String {
    let shown = |text: &str| text.replace('\n', " / ");
    match (&change.from, &change.to) {
        (None, Some(to)) => format!("{}: {}", change.what, shown(to)),
        (Some(from), Some(to)) => format!("{}: {} → {}", change.what, shown(from), shown(to)),
        (Some(from), None) => format!("{}: no longer {}", change.what, shown(from)),
        (None, None) => change.what.clone(),
    }
}

impl Export {
    async fn run(self) -> anyhow::Result<()> {
        let table = self.server.client()?.send(Method::GET, "/api/v1/devices/export", None::<&()>, None).await?;
        match self.output {
            Some(path) => std::fs::write(&path, &table).with_context(|| format!("cannot write {}", path.display())),
            None => {
                out::text(&String::from_utf8_lossy(&table));
                Ok(())
            }
        }
    }
}

impl Swap {
    pub async fn run(self) -> anyhow::Result<()> {
        let path = format!("/api/v1/devices/{}/swap", self.old);
        let request = SwapRequest { with: self.new.to_string(), dry_run: self.dry_run };
        let swapped: Swapped = self.server.client()?.send_json(Method::POST, &path, &request).await?;
        if self.json {
            return json(&swapped);
        }
        for line in &swapped.lines {
            say!("line {}: {} {} goes from {} to {}", line.line, line.extension, line.display_name, swapped.old, swapped.new);
        }
        swapped.changes.iter().for_each(|one| say!("{}", change(one)));
        swapped.remarks.iter().for_each(|remark| say!("note: {remark}"));
        match swapped.applied {
            true => say!("done: {} is in the place of {}; both are told to reload", swapped.new, swapped.old),
            false => say!("nothing is done yet: without --dry-run it is"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_square_and_light_at_its_edges() {
        let picture = picture("http://10.0.0.2:8080/l/AgECAwQFaz.VuYwqs").expect("fits");
        let lines: Vec<Vec<char>> = picture.lines().map(|line| line.chars().collect()).collect();
        let width = lines[0].len();
        assert!(lines.iter().all(|line| line.len() == width) && lines.len() == width.div_ceil(2), "two rows in a line:\n{picture}");
        assert!(lines[..2].concat().iter().all(|c| *c == '█'), "four light rows above:\n{picture}");
        assert!(lines.iter().all(|line| line[..4].iter().all(|c| "█▀".contains(*c))), "four light columns beside:\n{picture}");
    }
}
