//! `config diff`: what the configuration on disk would change, before it is live.

use clap::{Args, Subcommand};
use hyper::Method;

use super::{
    ServerArg,
    out::{self, say},
    table, template,
};
use crate::api::config::{ConfigChanges, KeyChange};

/// Looks at the configuration.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone config diff          what plugtone.yaml on disk would change")]
pub struct Config {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Diff(Diff),
}

/// Shows which keys of plugtone.yaml on disk differ from those that are live, which of them want a restart, and which phones' files
/// change by them; secrets masked. Changes nothing. Templates are another matter: `plugtone template diff`.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone config diff
  plugtone config diff --phones          with the phones of each group
  plugtone config diff --json | jq '.keys[] | select(.restart) | .key'")]
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

impl Config {
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Diff(diff) => diff.run().await,
        }
    }
}

impl Diff {
    async fn run(self) -> anyhow::Result<()> {
        let found: ConfigChanges = self.server.client()?.send_json(Method::POST, "/api/v1/config/diff", &()).await?;
        if self.json {
            return out::json(&found);
        }
        let or = |value: &Option<String>| value.clone().unwrap_or_else(|| "(default)".to_owned());
        let when = |change: &KeyChange| if change.restart { "a restart" } else { "a reload" };
        let row = |change: &KeyChange| vec![change.key.clone(), or(&change.old), or(&change.new), when(change).to_owned()];
        let rows: Vec<_> = found.keys.iter().map(row).collect();
        table::print(&["KEY", "LIVE", "ON DISK", "BY"], &rows, "what is on disk is live");
        if found.keys.is_empty() {
            return Ok(());
        }
        say!();
        let colour = out::may_colour(&std::io::stdout());
        found.groups.iter().for_each(|group| template::show(group, self.phones, colour));
        match found.changed {
            0 => say!("no file of any of the {} phones changes by it", found.phones),
            changed => say!("{changed} of {} phones get other files by it", found.phones),
        }
        Ok(())
    }
}
