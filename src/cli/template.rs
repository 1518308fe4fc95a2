//! `template diff`: what the templates on disk would change, before they are live.

use clap::{Args, Subcommand};
use hyper::Method;

use super::{
    ServerArg,
    out::{self, say},
};
use crate::api::templates::{DiffGroup, TemplateDiff};

/// Looks at what phones get.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone template diff        what the templates on disk would change
  plugtone reload               make them live")]
pub struct Template {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Diff(Diff),
}

/// Shows which phones change, and how, if the templates on disk become live: grouped by identical change, secrets masked. Changes
/// nothing.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone template diff
  plugtone template diff --phones          with the phones of each group
  plugtone template diff --json | jq '.groups[].phones | length'
  plugtone template diff && plugtone reload")]
struct Diff {
    /// Name every phone of a group.
    #[arg(long)]
    phones: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArg,
}

/// Phones that are named without `--phones`.
const NAMED: usize = 4;

impl Template {
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Diff(diff) => diff.run().await,
        }
    }
}

impl Diff {
    async fn run(self) -> anyhow::Result<()> {
        let found: TemplateDiff = self.server.client()?.send_json(Method::POST, "/api/v1/templates/diff", &()).await?;
        if self.json {
            return out::json(&found);
        }
        let colour = out::may_colour(&std::io::stdout());
        for group in &found.groups {
            self.show(group, colour);
        }
        match found.changed {
            0 => say!("no file of any of the {} phones changes", found.phones),
            changed => say!("{changed} of {} phones change; nothing is live yet: `plugtone reload` makes it so", found.phones),
        }
        Ok(())
    }

    fn show(&self, group: &DiffGroup, colour: bool) {
        let named = if self.phones { group.phones.len() } else { NAMED };
        let mut phones = group.phones.iter().take(named).map(String::as_str).collect::<Vec<_>>().join(", ");
        if group.phones.len() > named {
            phones += " …";
        }
        let word = if group.phones.len() == 1 { "phone" } else { "phones" };
        say!("──── {} {word}: {phones}", group.phones.len());
        for file in &group.files {
            say!("  {}", file.file);
            for line in file.diff.lines() {
                say!("    {}", painted(line, colour));
            }
        }
        say!();
    }
}

fn painted(line: &str, colour: bool) -> String {
    let code = match line.as_bytes().first() {
        Some(b'+') => 32,
        Some(b'-') => 31,
        Some(b'@') => 36,
        _ => 0,
    };
    if colour && code != 0 { format!("\x1b[{code}m{line}\x1b[0m") } else { line.to_owned() }
}
