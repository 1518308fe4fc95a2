//! `rollout start|show|pause|resume|abort`: a change of templates that goes to some phones first, and what became of it.

use std::{fmt::Write as _, io::IsTerminal, time::Duration};

use clap::{Args, Subcommand};
use hyper::Method;

use super::{
    ServerArg,
    client::Client,
    out::{self, say},
};
use crate::{
    api::rollout::{Rollout as Progress, RolloutPhone, RolloutRequest},
    model::MacAddr,
};

/// Brings a change of templates to some phones first, then to more, and takes it back when they fail.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone rollout start             bring the templates on disk to the first phones
  plugtone rollout show              how far it is, live on a terminal
  plugtone rollout abort             all get the old files back")]
pub struct Rollout {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Start(Start),
    Show(Show),
    Pause(Pause),
    Resume(Resume),
    Abort(Abort),
}

/// Brings the templates on disk to the phones whose files they change: some first; when those have fetched their files, registered and
/// stayed up, four times as many, and so on. When more than `rollout.max_failed_percent` fail, all get the old files back.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone rollout start                              as many first as `rollout.canary` says, of different models
  plugtone rollout start --canary 10%
  plugtone rollout start --canary 5 --family yealink --model 'T46*'
  plugtone rollout start --group it-department        all phones of the people in it, then the others
  plugtone rollout start --site berlin --canary 3
  plugtone rollout start --phone 00:15:65:aa:bb:cc --phone 00:15:65:aa:bb:cd
  plugtone rollout start --wait && echo good")]
struct Start {
    /// How many phones first: a number, or a share as 10%.
    #[arg(long, value_name = "N|N%")]
    canary: Option<String>,
    /// First phones of this family only.
    #[arg(long)]
    family: Option<String>,
    /// First phones of this model only; `*` stands for anything.
    #[arg(long)]
    model: Option<String>,
    /// First the phones of this group: of the directory, of overrides.yaml or of the phones' table. All of it, or as many as `--canary` says.
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// First the phones of this site of overrides.yaml. All of it, or as many as `--canary` says.
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// Just this phone first; several times for several.
    #[arg(long = "phone", value_name = "MAC", conflicts_with_all = ["canary", "family", "model", "group", "site"])]
    phones: Vec<MacAddr>,
    /// Stay until it is over; the status tells whether the change is with the phones.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    show: Shown,
}

/// Shows how far it is, and which phones are kept by what. On a terminal it stays and shows on until it is over.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone rollout show
  plugtone rollout show --wait && echo good
  plugtone rollout show --json | jq '.phones[] | select(.reason)'")]
struct Show {
    /// Stay until it is over; the status tells whether the change is with the phones.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    show: Shown,
}

/// Tells no more phones until it is resumed; those that were told are looked after.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone rollout pause")]
struct Pause {
    #[command(flatten)]
    show: Shown,
}

/// Goes on with one that is paused.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone rollout resume")]
struct Resume {
    #[command(flatten)]
    show: Shown,
}

/// Gives all phones the old files back. They stay live until `plugtone reload` or another `rollout start`.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone rollout abort")]
struct Abort {
    #[command(flatten)]
    show: Shown,
}

#[derive(Args)]
struct Shown {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArg,
}

const PATH: &str = "/api/v1/rollout";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// Phones that are listed with what keeps them; the rest is counted.
const LISTED: usize = 20;

impl Rollout {
    pub async fn run(self) -> anyhow::Result<()> {
        let order = async |show: Shown, what: &str| {
            let progress: Progress = show.server.client()?.send_json(Method::POST, &format!("{PATH}/{what}"), &()).await?;
            show.print(&progress)
        };
        match self.command {
            Command::Start(start) => start.run().await,
            Command::Show(Show { wait, show }) => {
                let client = show.server.client()?;
                match wait || std::io::stdout().is_terminal() && !show.json {
                    true => follow(&client, &show, wait).await,
                    false => show.print(&client.get(PATH).await?),
                }
            }
            Command::Pause(Pause { show }) => order(show, "pause").await,
            Command::Resume(Resume { show }) => order(show, "resume").await,
            Command::Abort(Abort { show }) => order(show, "abort").await,
        }
    }
}

impl Start {
    async fn run(self) -> anyhow::Result<()> {
        let Self { canary, family, model, group, site, phones, wait, show } = self;
        let phones = phones.iter().map(ToString::to_string).collect();
        let client = show.server.client()?;
        let request = RolloutRequest { canary, family, model, site, group, phones };
        let progress: Progress = client.send_json(Method::POST, PATH, &request).await?;
        match wait {
            true => follow(&client, &show, true).await,
            false => show.print(&progress),
        }
    }
}

impl Shown {
    fn print(&self, progress: &Progress) -> anyhow::Result<()> {
        if self.json {
            return out::json(progress);
        }
        out::text(&words(progress));
        Ok(())
    }
}

/// Until it is over: in place on a terminal, else a line for each change.
async fn follow(client: &Client, show: &Shown, strict: bool) -> anyhow::Result<()> {
    let in_place = std::io::stdout().is_terminal() && !show.json;
    let (mut lines, mut last) = (0, String::new());
    loop {
        let progress: Progress = client.get(PATH).await?;
        let is_over = matches!(progress.stage.as_str(), "done" | "rolled_back");
        if in_place {
            let text = words(&progress);
            let back = if lines > 0 { format!("\x1b[{lines}A\x1b[J") } else { String::new() };
            out::text(&format!("{back}{text}"));
            lines = text.lines().count();
        } else if show.json {
            let line = serde_json::to_string(&progress)?;
            if line != last {
                say!("{line}");
                last = line;
            }
        } else {
            let line = summary(&progress);
            if line != last {
                say!("{line}");
                last = line;
            }
        }
        if is_over {
            anyhow::ensure!(!strict || progress.stage == "done", "the change was taken back: {}", progress.reason.unwrap_or_default());
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn summary(progress: &Progress) -> String {
    let steps: Vec<_> = progress.steps.iter().map(|step| format!("{} {}", step.phones, step.step)).collect();
    let stage = progress.stage.replace('_', " ");
    let reason = progress.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let hours = if progress.stage == "running" && !progress.may_tell { "; waits for the hours of `rollout.only_between`" } else { "" };
    format!("wave {}: {stage}{reason}{hours}; {}", progress.wave, steps.join(", "))
}

fn words(progress: &Progress) -> String {
    let mut text = summary(progress) + "\n";
    let kept: Vec<&RolloutPhone> = progress.phones.iter().filter(|phone| phone.reason.is_some()).collect();
    for phone in kept.iter().take(LISTED) {
        let RolloutPhone { mac, make, wave, step, reason, .. } = phone;
        let _ = writeln!(text, "  {mac}  {make}  wave {wave}  {step}: {}", reason.as_deref().unwrap_or_default());
    }
    if kept.len() > LISTED {
        let _ = writeln!(text, "  and {} more", kept.len() - LISTED);
    }
    if progress.stage == "rolled_back" {
        text += "the old templates are live, not those on disk: `plugtone reload` or `plugtone rollout start` change that\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_phones_is_said_in_words() {
        let phone = |n: usize, reason: Option<&str>| RolloutPhone {
            mac: format!("00:15:65:00:00:{n:02}"),
            make: "yealink T46S".into(),
            wave: 1,
            step: "waits".into(),
            since: String::new(),
            reason: reason.map(str::to_owned),
        };
        let mut progress = Progress {
            stage: "running".into(),
            reason: None,
            began: String::new(),
            wave: 1,
            may_tell: false,
            steps: vec![crate::api::rollout::RolloutStep { step: "waits".into(), phones: 2 }],
            phones: vec![phone(1, Some("in a call")), phone(2, None)],
        };
        let line = "wave 1: running; waits for the hours of `rollout.only_between`; 2 waits\n";
        assert_eq!(words(&progress), format!("{line}  00:15:65:00:00:01  yealink T46S  wave 1  waits: in a call\n"));
        progress.phones = (0..25).map(|n| phone(n, Some("offline"))).collect();
        assert!(words(&progress).ends_with("  and 5 more\n"));
    }
}
