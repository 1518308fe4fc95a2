//! `dial` and `calls`: place a call for somebody through the API, see and end those that are up.

use clap::Args;
use hyper::Method;

use super::{
    ServerArg,
    ladder::Look,
    out::{self, say},
    table,
};
use crate::{
    api::calls::{Call, NewCall, Placed},
    model::{Event, Recorded},
};

/// Rings your phone, then the far end.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone dial 2042 --from 2041
  plugtone dial 2042 --from 2041 --label ticket=4711 --no-wait")]
pub struct Dial {
    /// Whom to call.
    to: String,
    /// Whose phone rings first.
    #[arg(long, env = "PLUGTONE_EXTENSION")]
    from: String,
    /// Shown to the far end instead of --from.
    #[arg(long)]
    caller_id: Option<String>,
    /// How long each side may ring, in seconds.
    #[arg(long)]
    timeout: Option<u64>,
    /// Kept with the call: NAME=VALUE. Repeat for more.
    #[arg(long, value_parser = label)]
    label: Vec<(String, String)>,
    /// Do not wait for the end of the call.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON, one object a line: the call's id, then its events.
    #[arg(long)]
    json: bool,
}

/// Lists the calls that are up, ends one, shows who called whom, or the SIP of one.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:
  plugtone calls
  plugtone calls --hang-up 00000000000004d2
  plugtone calls records --since 24h         who called whom
  plugtone calls ladder 00000000000004d2     who sent what to whom")]
pub struct Calls {
    #[command(subcommand)]
    look: Option<Look>,
    /// End this one.
    #[arg(long, value_name = "ID")]
    hang_up: Option<String>,
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Dial {
    pub async fn run(self) -> anyhow::Result<()> {
        let client = self.server.client()?;
        let new = NewCall {
            from: self.from,
            to: self.to,
            caller_id: self.caller_id,
            timeout_secs: self.timeout,
            labels: self.label.into_iter().collect(),
        };
        let placed: Placed = client.send_json(Method::POST, "/api/v1/calls", &new).await?;
        if self.json {
            out::json_line(&placed)?;
        } else {
            say!("call {}: your phone rings", placed.id);
        }
        if self.no_wait {
            return Ok(());
        }
        // From the beginning: the call may have gone on before we listen.
        let path = format!("/api/v1/events?call={}&after=0", placed.id);
        let mut end = None;
        client
            .follow(&path, |data| {
                let Ok(recorded) = serde_json::from_str::<Recorded>(data) else { return true };
                if !self.json {
                    say!("{}", crate::journal::sentence(&recorded.event));
                } else {
                    say!("{data}");
                }
                match recorded.event {
                    Event::CallEnded { talk_ms, cause, .. } => {
                        end = Some((talk_ms, cause));
                        false
                    }
                    _ => true,
                }
            })
            .await?;
        match end {
            Some((0, cause)) => anyhow::bail!("nobody talked: {cause}"),
            Some(_) => Ok(()),
            None => anyhow::bail!("the server stopped before the call {} ended", placed.id),
        }
    }
}

impl Calls {
    pub async fn run(self) -> anyhow::Result<()> {
        if let Some(look) = self.look {
            return look.run().await;
        }
        let client = self.server.client()?;
        if let Some(id) = self.hang_up {
            client.delete(&format!("/api/v1/calls/{id}")).await?;
            if self.json {
                return out::json(&serde_json::json!({ "id": id, "ended": true }));
            }
            say!("call {id} has ended");
            return Ok(());
        }
        let calls: Vec<Call> = client.get("/api/v1/calls").await?;
        if self.json {
            return out::json(&calls);
        }
        let row = |call: &Call| {
            let talk = call.talk_secs.map_or_else(String::new, |secs| format!("{secs:.0} s"));
            vec![call.id.clone(), call.from.clone(), call.to.clone(), call.state.clone(), talk]
        };
        table::print(&["ID", "FROM", "TO", "STATE", "TALKING"], &calls.iter().map(row).collect::<Vec<_>>(), "nobody is in a call");
        Ok(())
    }
}
