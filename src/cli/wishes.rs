//! `wishes`: forwards, do not disturb and the like of an extension. `night`: the night switches.

use clap::{Args, Subcommand};
use hyper::Method;

use super::{
    ServerArg,
    out::{json, say},
    table,
};
use crate::{
    api::features::{NightSwitch, Position},
    features::Wishes as Wished,
    model::Extension,
};

/// Shows or sets what an extension wishes of calls to it: forwards, do not disturb, blocked numbers, speed dials.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone wishes 2041
  plugtone wishes 2041 --always 2050
  plugtone wishes 2041 --no-answer +4930123456 --ring-secs 20
  plugtone wishes 2041 --always '' --do-not-disturb off
  plugtone wishes 2041 --block 01701234567 --speed 7=2050")]
pub struct Wishes {
    /// Whose.
    extension: Extension,
    /// Where all calls go instead; '' for nowhere. The same for the other forwards.
    #[arg(long, value_name = "NUMBER")]
    always: Option<String>,
    /// Where calls go while the user talks.
    #[arg(long, value_name = "NUMBER")]
    busy: Option<String>,
    /// Where calls go that nobody has taken.
    #[arg(long, value_name = "NUMBER")]
    no_answer: Option<String>,
    /// Where calls go while no phone can be reached.
    #[arg(long, value_name = "NUMBER")]
    unreachable: Option<String>,
    /// Seconds that calls ring before --no-answer counts; 0: as everybody's.
    #[arg(long, value_name = "SECONDS")]
    ring_secs: Option<u16>,
    /// Nothing rings.
    #[arg(long, value_name = "on|off", value_parser = switch)]
    do_not_disturb: Option<bool>,
    /// A second call rings while the user talks.
    #[arg(long, value_name = "on|off", value_parser = switch)]
    call_waiting: Option<bool>,
    /// Callers who hide their number are refused.
    #[arg(long, value_name = "on|off", value_parser = switch)]
    refuse_hidden: Option<bool>,
    /// Refuse calls from this number.
    #[arg(long, value_name = "NUMBER")]
    block: Vec<String>,
    /// Refuse them no more.
    #[arg(long, value_name = "NUMBER")]
    unblock: Vec<String>,
    /// A speed dial, as 7=2050; 7= to free the key.
    #[arg(long, value_name = "KEY=NUMBER", value_parser = speed)]
    speed: Vec<(u8, String)>,
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Shows the night switches, or turns one.
#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  plugtone night
  plugtone night turn office night
  plugtone night turn office auto"
)]
pub struct Night {
    #[command(subcommand)]
    command: Option<NightCommand>,
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum NightCommand {
    Turn(Turn),
}

/// Turns the night switch of some hours.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone night turn office night")]
struct Turn {
    /// Name of the hours in the routes.
    hours: String,
    /// `auto`: as the clock says; `day`: open; `night`: closed.
    #[arg(value_parser = ["auto", "day", "night"])]
    position: String,
    #[command(flatten)]
    server: ServerArg,
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(format!("'{other}': write on or off")),
    }
}

fn speed(text: &str) -> Result<(u8, String), String> {
    let (key, number) = text.split_once('=').ok_or("write KEY=NUMBER, as 7=2050")?;
    let key = key.parse().ok().filter(|key| *key <= 99).ok_or("speed dials are 0 to 99")?;
    Ok((key, number.to_owned()))
}

impl Wishes {
    pub async fn run(self) -> anyhow::Result<()> {
        let client = self.server.client()?;
        let path = format!("/api/v1/extensions/{}/wishes", self.extension);
        let before: Wished = client.get(&path).await?;
        let wanted = self.changed(before.clone());
        let wishes = if wanted == before { before } else { client.send_json(Method::PUT, &path, &wanted).await? };
        if self.json {
            return json(&wishes);
        }
        show(&self.extension, &wishes);
        Ok(())
    }

    fn changed(&self, mut wishes: Wished) -> Wished {
        let forwards = [
            (&self.always, &mut wishes.always),
            (&self.busy, &mut wishes.busy),
            (&self.no_answer, &mut wishes.no_answer),
            (&self.unreachable, &mut wishes.unreachable),
        ];
        for (wanted, now) in forwards {
            if let Some(wanted) = wanted {
                *now = Some(wanted.clone()).filter(|number| !number.is_empty());
            }
        }
        if let Some(secs) = self.ring_secs {
            wishes.ring_secs = Some(secs).filter(|secs| *secs > 0);
        }
        wishes.do_not_disturb = self.do_not_disturb.unwrap_or(wishes.do_not_disturb);
        wishes.one_call_only = self.call_waiting.map_or(wishes.one_call_only, |on| !on);
        wishes.refuse_hidden = self.refuse_hidden.unwrap_or(wishes.refuse_hidden);
        wishes.blocked.extend(self.block.iter().cloned());
        wishes.blocked.retain(|number| !self.unblock.contains(number));
        for (key, number) in &self.speed {
            match number.is_empty() {
                true => wishes.speed.remove(key),
                false => wishes.speed.insert(*key, number.clone()),
            };
        }
        wishes
    }
}

fn show(extension: &Extension, wishes: &Wished) {
    let mut lines = Vec::new();
    let forwards = [
        ("all calls go to", &wishes.always),
        ("while busy, calls go to", &wishes.busy),
        ("calls that nobody takes go to", &wishes.no_answer),
        ("while no phone can be reached, calls go to", &wishes.unreachable),
    ];
    lines.extend(forwards.into_iter().filter_map(|(what, to)| to.as_ref().map(|to| format!("{what} {to}"))));
    lines.extend(wishes.ring_secs.map(|secs| format!("calls ring for {secs} s")));
    let flags = [
        (wishes.do_not_disturb, "do not disturb"),
        (wishes.one_call_only, "one call only"),
        (wishes.refuse_hidden, "callers who hide are refused"),
    ];
    lines.extend(flags.into_iter().filter(|(on, _)| *on).map(|(_, what)| what.to_owned()));
    lines.extend(wishes.blocked.iter().map(|number| format!("{number} is blocked")));
    lines.extend(wishes.speed.iter().map(|(key, number)| format!("speed dial {key} is {number}")));
    if lines.is_empty() {
        say!("{extension} wishes nothing: calls ring");
    }
    for line in lines {
        say!("{extension}: {line}");
    }
}

impl Night {
    pub async fn run(self) -> anyhow::Result<()> {
        if let Some(NightCommand::Turn(turn)) = self.command {
            let path = format!("/api/v1/night/{}", turn.hours);
            let turned: NightSwitch = turn.server.client()?.send_json(Method::PUT, &path, &Position { position: turn.position }).await?;
            say!("{} is at {}", turned.hours, turned.position);
            return Ok(());
        }
        let row = |one: &NightSwitch| vec![one.hours.clone(), one.position.clone()];
        let none = "no night switches: the routes have no hours";
        table::list(self.server, "/api/v1/night", self.json, &["HOURS", "NIGHT SWITCH"], row, none).await
    }
}
