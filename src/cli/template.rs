//! `template diff`: what the templates on disk would change, before they are live. `template why`: where a value comes from.
//! `template learn`: the beginning of a template for a make that is not known. `template history`: what a phone was given.

use anyhow::Context;
use clap::{Args, Subcommand};
use hyper::Method;

use super::{
    ServerArg,
    out::{self, say},
    render::{Seen, Wanted},
    table,
};
use crate::{
    api::{
        configs::{Config, ConfigDiff, ConfigText},
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
  plugtone template learn 02:11:22:aa:bb:cc > acme.yaml
  plugtone template history 00:15:65:aa:bb:cc    what it was given, and when")]
pub struct Template {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Diff(Diff),
    Why(Why),
    Learn(Learn),
    History(History),
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

/// Shows every configuration that a phone was given, secrets masked: when, by which hash, one of them, or how two differ.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone template history 00:15:65:aa:bb:cc
  plugtone template history 00:15:65:aa:bb:cc .cfg          of files with that in their name
  plugtone template history 00:15:65:aa:bb:cc --show 9f2c41d0
  plugtone template history 00:15:65:aa:bb:cc --diff 9f2c41d0 07ab33e1")]
struct History {
    /// The phone.
    mac: MacAddr,
    /// Only files with this in their name.
    #[arg(conflicts_with_all = ["show", "diff"])]
    file: Option<String>,
    /// Print the one with this hash, or its first letters.
    #[arg(long, value_name = "HASH", conflicts_with = "diff")]
    show: Option<String>,
    /// Print what has changed from one to the other.
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"])]
    diff: Option<Vec<String>>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArg,
}

/// Letters of a hash that are shown.
const HASH: usize = 12;

/// Phones that are named without `--phones`.
const NAMED: usize = 4;

impl Template {
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Diff(diff) => diff.run().await,
            Command::Why(why) => why.run().await,
            Command::Learn(learn) => learn.run().await,
            Command::History(history) => history.run().await,
        }
    }
}

impl Why {
    async fn run(self) -> anyhow::Result<()> {
        let ground = self.wanted.ground(false)?;
        let seen = self.wanted.look(&ground, self.mac).await?;
        let (set, Seen { family, subject, .. }) = (&ground.set, &seen);
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
                    // DHCPv6 says it in other numbers.
                    if !asked.is_empty() {
                        shown.asked.clone_from(asked);
                    }
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
            show(group, self.phones, colour);
        }
        match found.changed {
            0 => say!("no file of any of the {} phones changes", found.phones),
            changed => say!("{changed} of {} phones change; nothing is live yet: `plugtone reload` makes it so", found.phones),
        }
        Ok(())
    }
}

/// Phones whose files change in the same way, and how; `all`: each by name.
pub(super) fn show(group: &DiffGroup, all: bool, colour: bool) {
    let named = if all { group.phones.len() } else { NAMED };
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

impl History {
    async fn run(self) -> anyhow::Result<()> {
        let path = format!("/api/v1/devices/{}/configs", self.mac);
        let client = self.server.client()?;
        if let Some(hash) = &self.show {
            let found: ConfigText = client.get(&format!("{path}/{}", part(hash)?)).await?;
            return match self.json {
                true => out::json(&found),
                false => {
                    out::text(&found.text);
                    Ok(())
                }
            };
        }
        if let Some([old, new]) = self.diff.as_deref() {
            let found: ConfigDiff = client.get(&format!("{path}/{}/diff/{}", part(old)?, part(new)?)).await?;
            if self.json {
                return out::json(&found);
            }
            let colour = out::may_colour(&std::io::stdout());
            let titled = |sign: &str, config: &Config| {
                say!("{}", painted(&format!("{sign} {} {} since {}", config.file, short(&config.hash), config.first_served), colour));
            };
            titled("---", &found.from);
            titled("+++", &found.to);
            found.diff.lines().for_each(|line| say!("{}", painted(line, colour)));
            return Ok(());
        }
        let configs: Vec<Config> = client.get(&path).await?;
        let wanted = self.file.unwrap_or_default().to_lowercase();
        let configs: Vec<_> = configs.into_iter().filter(|config| config.file.to_lowercase().contains(&wanted)).collect();
        if self.json {
            return out::json(&configs);
        }
        let row = |config: &Config| {
            let last = if config.latest { format!("{}  latest", config.last_served) } else { config.last_served.clone() };
            vec![config.file.clone(), short(&config.hash), config.bytes.to_string(), config.first_served.clone(), last]
        };
        let titles = ["FILE", "HASH", "BYTES", "FIRST SERVED", "LAST SERVED"];
        table::print(&titles, &configs.iter().map(row).collect::<Vec<_>>(), "no file of that name");
        Ok(())
    }
}

fn short(hash: &str) -> String {
    hash.chars().take(HASH).collect()
}

/// A hash goes into a path as it is.
fn part(hash: &str) -> anyhow::Result<&str> {
    anyhow::ensure!(hash.chars().all(|c| c.is_ascii_hexdigit()) && !hash.is_empty(), "'{hash}' is no hash: the list shows them");
    Ok(hash)
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
