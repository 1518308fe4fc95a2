//! `voicemail list`, `fetch`, `delete`: messages that were left for somebody.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};

use super::{ServerArg, out::say, table};
use crate::api::voicemail::Message;

/// Lists the messages in a mailbox, fetches one as a WAV file, or deletes one.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone voicemail list 2041
  plugtone voicemail fetch 2041 019e0c2b5a10-5f1e2d3c4b5a -o message.wav")]
pub struct Voicemail {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    List(List),
    Fetch(Fetch),
    Delete(Delete),
}

/// Lists the messages in a mailbox, new ones first.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone voicemail list 2041
  plugtone voicemail list 2041 --json | jq '.[] | select(.heard == null)'")]
struct List {
    /// The extension.
    mailbox: String,
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Writes a message as a WAV file. It stays new if it is.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone voicemail fetch 2041 019e0c2b5a10-5f1e2d3c4b5a -o message.wav")]
struct Fetch {
    /// The extension.
    mailbox: String,
    /// Which message, as `voicemail list` has it.
    id: String,
    /// The file to write.
    #[arg(long, short)]
    output: PathBuf,
    #[command(flatten)]
    server: ServerArg,
}

/// Deletes a message.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone voicemail delete 2041 019e0c2b5a10-5f1e2d3c4b5a")]
struct Delete {
    /// The extension.
    mailbox: String,
    /// Which message.
    id: String,
    #[command(flatten)]
    server: ServerArg,
}

impl Voicemail {
    pub async fn run(self) -> anyhow::Result<()> {
        match self.what {
            What::List(command) => command.run().await,
            What::Fetch(command) => command.run().await,
            What::Delete(command) => command.run().await,
        }
    }
}

fn path(mailbox: &str, id: &str) -> String {
    format!("/api/v1/voicemail/{}/{}", super::ladder::escaped(mailbox), super::ladder::escaped(id))
}

impl List {
    async fn run(self) -> anyhow::Result<()> {
        let path = format!("/api/v1/voicemail/{}", super::ladder::escaped(&self.mailbox));
        let row = |message: &Message| {
            let state = if message.heard.is_some() { "heard" } else { "new" };
            let from = format!("{} {}", message.from, message.from_name).trim().to_owned();
            vec![message.id.clone(), state.to_owned(), message.left.clone(), format!("{:.0} s", message.secs), from]
        };
        table::list(self.server, &path, self.json, &["ID", "STATE", "LEFT", "LENGTH", "FROM"], row, "there are no messages").await
    }
}

impl Fetch {
    async fn run(self) -> anyhow::Result<()> {
        let client = self.server.client()?;
        let wav = client.send(hyper::Method::GET, &format!("{}/audio", path(&self.mailbox, &self.id)), None::<&()>, None).await?;
        std::fs::write(&self.output, &wav).with_context(|| format!("cannot write {}", self.output.display()))?;
        say!("{} bytes are in {}", wav.len(), self.output.display());
        Ok(())
    }
}

impl Delete {
    async fn run(self) -> anyhow::Result<()> {
        self.server.client()?.delete(&path(&self.mailbox, &self.id)).await?;
        say!("the message is deleted");
        Ok(())
    }
}
