//! `token`: makes, lists and revokes API tokens. Works on the database, so the server need not run.

use std::time::SystemTime;

use clap::{Args, Subcommand};

use super::{
    ConfigArg,
    out::{self, say},
    table,
};
use crate::{
    api::auth,
    model::Timestamp,
    store::{Store, TokenRecord, sqlite::Sqlite},
};

/// Makes, lists and revokes tokens for the API.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone token create crm --days 365       prints the token once; only its hash is kept
  plugtone token list
  plugtone token revoke crm")]
pub struct Token {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    config: ConfigArg,
}

#[derive(Subcommand)]
enum Action {
    /// Makes a token and prints it once.
    #[command(after_help = "Examples:
  plugtone token create crm
  token=$(plugtone token create crm --days 365 --config plugtone.yaml)")]
    Create {
        /// What it is for; revoke it by this name.
        name: String,
        /// Valid for so many days; for ever if absent.
        #[arg(long)]
        days: Option<u32>,
    },
    /// Lists tokens by name; the tokens themselves are not kept.
    #[command(after_help = "Examples:
  plugtone token list
  plugtone token list --json | jq -r '.[].name'")]
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Ends a token at once.
    #[command(after_help = "Examples:
  plugtone token revoke crm")]
    Revoke {
        /// As `plugtone token list` shows it.
        name: String,
    },
}

impl Token {
    pub async fn run(self) -> anyhow::Result<()> {
        let config = self.config.load()?;
        let store = Sqlite::open(&config.store.path)?;
        match self.action {
            Action::Create { name, days } => {
                if store.tokens().await?.iter().any(|token| token.name == name) {
                    anyhow::bail!("there is a token '{name}' already: revoke it or choose another name");
                }
                let (token, hash) = auth::new_token()?;
                let created = Timestamp::of(SystemTime::now());
                let expires = days.map(|days| created.plus_secs(i64::from(days) * 86_400));
                store.save_token(TokenRecord { name, hash, created, expires }).await?;
                say!("{}", token.expose());
            }
            Action::List { json } => {
                let tokens = store.tokens().await?;
                if json {
                    let shown = tokens.iter().map(|t| serde_json::json!({ "name": t.name, "created": t.created, "expires": t.expires }));
                    return out::json(&shown.collect::<Vec<_>>());
                }
                let row =
                    |t: &TokenRecord| vec![t.name.clone(), t.created.to_string(), t.expires.map_or("never".into(), |at| at.to_string())];
                table::print(
                    &["NAME", "CREATED", "EXPIRES"],
                    &tokens.iter().map(row).collect::<Vec<_>>(),
                    "no tokens; make one with `plugtone token create NAME`",
                );
            }
            Action::Revoke { name } => match store.remove_token(&name).await? {
                true => say!("'{name}' is revoked"),
                false => anyhow::bail!("there is no token '{name}'; `plugtone token list` shows those there are"),
            },
        }
        Ok(())
    }
}
