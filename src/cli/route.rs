//! `route`: asks the plan of routes where a call would go, and runs the tests beside it. Needs no running server.

use clap::{Args, Subcommand};

use super::{ConfigArg, out::say};
use crate::{
    config::Settings,
    routing::{self, Decision, Office, Outcome, Party, Plan, Step, Verdict, hours::Switch, loader},
};

/// Tells where a call would go and why, and runs the tests of the routes.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone route explain --from 2041 --to '0 0171 2345678' --at '2026-12-24 18:05'
  plugtone route test")]
pub struct Route {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Tells which rule a call meets, and what each rule before it says.
    Explain(Explain),
    /// Runs the tests beside the routes.
    #[command(after_help = "Examples:
  plugtone route test")]
    Test {
        #[command(flatten)]
        config: ConfigArg,
    },
}

#[derive(Args)]
#[command(after_help = "Examples:
  plugtone route explain --from 2041 --to '0 0171 2345678' --at '2026-12-24 18:05'
  plugtone route explain --from 2041 --group sales --to +14155550123
  plugtone route explain --trunk provider --from +4930999 --to +493012342041 --switch office=night
  plugtone route explain --unbound --location floor2-port7 --to 112 --json")]
struct Explain {
    /// The caller: an extension, or with --trunk a number outside.
    #[arg(long, value_name = "NUMBER", required_unless_present_any = ["unbound", "trunk"])]
    from: Option<String>,
    /// The caller's phone has no owner.
    #[arg(long, conflicts_with_all = ["from", "trunk"])]
    unbound: bool,
    /// The call comes from outside by this trunk; without --from the caller hides.
    #[arg(long, value_name = "NAME")]
    trunk: Option<String>,
    /// What is dialled.
    #[arg(long, value_name = "NUMBER")]
    to: String,
    /// Local time, as '2026-12-24 18:05'; now if absent.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// A group of the directory that the caller is in. Repeat for more.
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// Where the caller's phone is.
    #[arg(long)]
    location: Option<String>,
    /// A night switch that is not at auto, as office=night. Repeat for more.
    #[arg(long, value_name = "HOURS=POSITION", value_parser = switch)]
    switch: Vec<(String, Switch)>,
    #[command(flatten)]
    config: ConfigArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn switch(text: &str) -> Result<(String, Switch), String> {
    let (hours, position) = text.split_once('=').ok_or("write HOURS=POSITION, as office=night")?;
    Ok((hours.to_owned(), position.parse().map_err(|error: routing::hours::ParseSwitchError| error.to_string())?))
}

impl Route {
    pub fn run(self) -> anyhow::Result<()> {
        match self.action {
            Action::Explain(explain) => explain.run(),
            Action::Test { config } => {
                let settings = config.load()?;
                // Loading runs them.
                let plan = load(&settings)?;
                for rehearsal in plan.rehearsals() {
                    say!("good  {}:{}  {}", plan.file(), rehearsal.line(), rehearsal.title());
                }
                say!("{} tests, all good", plan.rehearsals().len());
                Ok(())
            }
        }
    }
}

impl Explain {
    fn run(self) -> anyhow::Result<()> {
        let settings = self.config.load()?;
        let plan = load(&settings)?;
        let at = match &self.at {
            Some(at) => routing::parse_time(at).map_err(anyhow::Error::msg)?,
            None => plan.local(jiff::Timestamp::now()),
        };
        if let Some(trunk) = &self.trunk
            && !plan.trunks().contains_key(trunk.as_str())
        {
            anyhow::bail!("there is no trunk '{trunk}': {}", plan.trunks().keys().map(|name| &**name).collect::<Vec<_>>().join(", "));
        }
        let location = self.location.as_deref();
        let party = match (&self.trunk, &self.from) {
            (Some(trunk), from) => Party::Outside { trunk, number: from.as_deref() },
            (None, Some(number)) => Party::Extension { number, groups: &self.group, location },
            (None, None) => Party::Unbound { location },
        };
        let office = Supposed { settings: &settings, switches: &self.switch };
        let (decision, steps) = plan.explain(&office, party, &self.to, at);
        if self.json {
            return super::out::json(&serde_json::json!({
                "file": plan.file(),
                "at": at.to_string(),
                "steps": steps,
                "outcome": decision.outcome,
                "rule": decision.rule,
            }));
        }
        steps.iter().for_each(|step| say!("{}", sentence(&plan, step)));
        say!("\n{}", conclusion(&decision));
        Ok(())
    }
}

fn load(settings: &Settings) -> anyhow::Result<Plan> {
    loader::load(settings.calls.routes.as_deref(), settings.calls.base())
        .map_err(|faults| anyhow::anyhow!(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n")))
}

/// Without a running server: whoever could have an extension has one.
struct Supposed<'a> {
    settings: &'a Settings,
    switches: &'a [(String, Switch)],
}

impl Office for Supposed<'_> {
    fn is_extension(&self, number: &str) -> bool {
        self.settings.extensions.range.contains(number)
    }

    fn switch(&self, hours: &str) -> Switch {
        self.switches.iter().find(|(name, _)| name == hours).map(|(_, switch)| *switch).unwrap_or_default()
    }
}

fn sentence(plan: &Plan, step: &Step) -> String {
    let sign = match step.verdict {
        Verdict::Passed => '-',
        Verdict::Noted => ' ',
        Verdict::Won => '>',
    };
    let place = if step.line == 0 { String::new() } else { format!("  ({}:{})", plan.file(), step.line) };
    format!("{sign} {}: {}{place}", step.rule, step.why)
}

fn conclusion(decision: &Decision) -> String {
    let ring = |all: &[crate::model::Extension]| all.iter().map(|one| one.as_str()).collect::<Vec<_>>().join(", ");
    let way = |hop: &routing::Hop| {
        let shown = match (&hop.caller.number, hop.caller.withheld) {
            (Some(own), false) => format!(" as {own}"),
            (Some(own), true) => format!(" as nobody (the provider sees {own})"),
            (None, _) => String::new(),
        };
        let place = hop.geolocation.as_ref().map(|uri| format!(" from <{uri}>")).unwrap_or_default();
        format!("{} to {}{shown}{place}", hop.number, hop.trunk)
    };
    let ways = |hops: &[routing::Hop]| hops.iter().map(way).collect::<Vec<_>>().join(", then ");
    match &decision.outcome {
        Outcome::Menu => "The voice menu answers.".to_owned(),
        Outcome::Extensions(all) => format!("{} rings.", ring(all)),
        Outcome::Outside(outside) => format!("A call outside ({}): {}.", outside.class, ways(&outside.hops)),
        Outcome::Emergency(call) => {
            let kind = if call.test { "A trial of an emergency call, which calls nobody for help" } else { "An emergency call" };
            let then = match (call.hops.is_empty(), call.extensions.is_empty()) {
                (true, _) => format!("{} rings", ring(&call.extensions)),
                (false, true) => ways(&call.hops),
                (false, false) => format!("{}, then {} rings", ways(&call.hops), ring(&call.extensions)),
            };
            format!("{kind}: {then}.")
        }
        Outcome::Refused(refusal) => format!("Refused: {refusal}."),
    }
}
