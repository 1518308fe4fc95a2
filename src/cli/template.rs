//! `template diff`: what the templates on disk would change, before they are live. `template why`: where a value comes from.
//! `template learn`: the beginning of a template for a make that is not known.

use anyhow::Context;
use clap::{Args, Subcommand};
use hyper::Method;

use super::{
    ServerArg,
    out::{self, say},
    render::{Seen, Wanted},
};
use crate::{
    api::{
        devices::DeviceDetail,
        templates::{DiffGroup, TemplateDiff},
    },
    model::{Event, MacAddr},
    template::{
        Variable,
        learn::{Shown, stub},
    },
};

/// Looks at what phones get.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone template diff        what the templates on disk would change
  plugtone reload               make them live
  plugtone template why 00:15:65:aa:bb:cc ntp_server
  plugtone template learn 02:11:22:aa:bb:cc > acme.yaml")]
pub struct Template {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Diff(Diff),
    Why(Why),
    Learn(Learn),
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

/// Says where what a phone gets comes from: the template's file and line, and each variable in it with every layer that sets it. From
/// the files on disk; the server need not run.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone template why 00:15:65:aa:bb:cc account.1.user_name        a setting, as the phone's file has it
  plugtone template why 00:15:65:aa:bb:cc ntp_server                 a variable
  plugtone template why 00:15:65:aa:bb:cc P30 --family grandstream --as 2041")]
struct Why {
    /// The phone.
    mac: MacAddr,
    /// A word of the phone's files (a setting, a value), or a variable.
    key: String,
    #[command(flatten)]
    wanted: Wanted,
}

/// Writes the beginning of a template for a make that is not known, from what one of its phones showed: its DHCP class and options, the
/// files that it asked for, its user agent. It loads as it is; the files' bodies are to be written in the make's words.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone template learn 02:11:22:aa:bb:cc
  plugtone template learn 02:11:22:aa:bb:cc > /etc/plugtone/templates/acme.yaml && plugtone check")]
struct Learn {
    /// The phone; it must have been seen.
    mac: MacAddr,
    #[command(flatten)]
    server: ServerArg,
}

/// Phones that are named without `--phones`.
const NAMED: usize = 4;

impl Template {
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Diff(diff) => diff.run().await,
            Command::Why(why) => why.run().await,
            Command::Learn(learn) => learn.run().await,
        }
    }
}

impl Why {
    async fn run(self) -> anyhow::Result<()> {
        let seen = self.wanted.look(self.mac, false).await?;
        let Seen { set, family, subject, .. } = &seen;
        let known = set.family(family).context("the family is gone")?;
        let traces = set.trace(family, subject, &self.key)?;
        let variable = set.variable(known, subject, &self.key);
        if traces.is_empty() && variable.is_none() {
            anyhow::bail!(
                "'{}' is in no file of this {family}, and no variable: `plugtone render --mac {}` shows the files",
                self.key,
                self.mac
            );
        }
        if let Some(variable) = &variable {
            tell(&seen, variable);
        }
        for trace in &traces {
            say!("{}:{}  {}", trace.file, trace.line, seen.masked(trace.text.trim()));
            match &trace.place {
                Some((file, line)) => say!("  written by {file}:{line}"),
                None => say!("  the template's line cannot be told"),
            }
            trace.variables.iter().for_each(|variable| tell(&seen, variable));
        }
        Ok(())
    }
}

impl Learn {
    async fn run(self) -> anyhow::Result<()> {
        let device: DeviceDetail = self.server.client()?.get(&format!("/api/v1/devices/{}", self.mac)).await?;
        let mut shown = Shown::of(self.mac);
        let put = |list: &mut Vec<String>, word: &str| {
            if !list.iter().any(|known| known == word) {
                list.push(word.to_owned());
            }
        };
        for recorded in &device.timeline {
            match &recorded.event {
                Event::DhcpDiscover { vendor_class, asked, .. } => {
                    shown.vendor_class = vendor_class.clone().or(shown.vendor_class);
                    shown.asked.clone_from(asked);
                }
                Event::FileMissing { path, user_agent, .. } => {
                    put(&mut shown.files, path);
                    user_agent.iter().for_each(|agent| put(&mut shown.user_agents, agent));
                }
                Event::FileServed { path, .. } => put(&mut shown.files, path),
                Event::Registered { user_agent: Some(agent), .. } => put(&mut shown.user_agents, agent),
                _ => {}
            }
        }
        out::text(&stub(&shown));
        Ok(())
    }
}

/// A variable, the layer that counts first.
fn tell(seen: &Seen, variable: &Variable) {
    match variable.set.split_last() {
        None => say!("  {}: of the phone and the server", variable.name),
        Some((counts, below)) => {
            say!("  {} = {}    # {}", variable.name, seen.masked(&counts.value.to_string()), counts.origin);
            for hidden in below.iter().rev() {
                say!("    instead of {}    # {}", seen.masked(&hidden.value.to_string()), hidden.origin);
            }
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
