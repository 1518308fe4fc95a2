//! `sip`: who was banned for wrong passwords, and their pardon.

use std::net::IpAddr;

use clap::{Args, Subcommand};

use super::{
    ServerArg,
    out::{json, say},
    table,
};
use crate::api::bans::Ban;

/// Shows and lifts bans: who guesses passwords gets no answer for a while.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone sip bans
  plugtone sip pardon 192.168.40.17")]
pub struct Sip {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Bans(Bans),
    Pardon(Pardon),
}

/// Lists who gets no answer for too many wrong passwords, and how long still.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone sip bans
  plugtone sip bans --json | jq -r '.[].source'")]
struct Bans {
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Lifts every ban of an address: after its phones have been given the right password.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone sip pardon 192.168.40.17")]
struct Pardon {
    /// The address, as `plugtone sip bans` shows it.
    address: IpAddr,
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Sip {
    pub async fn run(self) -> anyhow::Result<()> {
        match self.what {
            What::Bans(bans) => bans.run().await,
            What::Pardon(pardon) => pardon.run().await,
        }
    }
}

impl Bans {
    async fn run(self) -> anyhow::Result<()> {
        let row = |ban: &Ban| {
            let user = ban.user.clone().unwrap_or_else(|| "all".to_owned());
            vec![ban.source.clone(), user, ban.until.clone(), format!("{} s", ban.secs)]
        };
        table::list(self.server, "/api/v1/sip/bans", self.json, &["FROM", "USER NAME", "UNTIL", "LEFT"], row, "nobody is banned").await
    }
}

impl Pardon {
    async fn run(self) -> anyhow::Result<()> {
        self.server.client()?.delete(&format!("/api/v1/sip/bans/{}", self.address)).await?;
        if self.json {
            return json(&serde_json::json!({ "source": self.address.to_string(), "banned": false }));
        }
        say!("{} is answered again", self.address);
        Ok(())
    }
}
