//! The tests that people write beside their rules: who calls whom when, and what must come of it.

use std::collections::BTreeMap;

use jiff::civil::DateTime;
use serde_yaml::Location as Place;

use super::{
    hours::Switch,
    plan::{Decision, Office, Outcome, Party, Plan},
    settings::{Expect, Test},
};
use crate::{
    model::Extension,
    yaml::{Fault, closest},
};

/// A test that can be run.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    line: u64,
    column: u64,
    test: Test,
    at: DateTime,
}

/// Where nobody says when: an ordinary Wednesday at ten.
const ORDINARY: DateTime = DateTime::constant(2026, 6, 10, 10, 0, 0, 0);
const OUTCOMES: [&str; 5] = ["menu", "extensions", "outside", "emergency", "refused"];

impl Rehearsal {
    pub(super) fn new(test: &Test, line: u64, column: u64) -> Result<Self, (Option<Place>, String)> {
        let at = match &test.at {
            None => ORDINARY,
            Some(at) => parse_time(&at.value).map_err(|why| (Some(at.referenced), why))?,
        };
        if test.from.is_none() && test.trunk.is_none() {
            return Err((None, "nobody calls: write `from: 2041`, `from: unbound`, or `trunk: …` for somebody outside".to_owned()));
        }
        if let Some(outcome) = &test.expect.outcome
            && !OUTCOMES.contains(&outcome.as_str())
        {
            let hint = closest(outcome, OUTCOMES)
                .map_or_else(|| format!("possible: {}", OUTCOMES.join(", ")), |it| format!("did you mean '{it}'?"));
            return Err((None, format!("there is no outcome '{outcome}': {hint}")));
        }
        Ok(Self { line, column, test: test.clone(), at })
    }

    /// What went otherwise than expected, with how it came about.
    pub fn run(&self, plan: &Plan) -> Result<(), String> {
        let test = &self.test;
        let from = test.from.as_deref();
        let party = match (&test.trunk, from) {
            (Some(trunk), number) => Party::Outside { trunk: &trunk.value, number },
            (None, Some("unbound")) => Party::Unbound { location: test.location.as_deref() },
            (None, number) => {
                Party::Extension { number: number.unwrap_or_default(), groups: &test.groups, location: test.location.as_deref() }
            }
        };
        let office = Imagined { caller: from, expect: &test.expect, switches: &test.switches };
        let (decision, steps) = plan.explain(&office, party, &test.to, self.at);
        let wrong = differences(&test.expect, &decision);
        if wrong.is_empty() {
            return Ok(());
        }
        let ways = steps.iter().map(|step| match step.line {
            0 => format!("\n      {}: {}", step.rule, step.why),
            line => format!("\n      line {line}, {}: {}", step.rule, step.why),
        });
        Err(format!("this test fails: {}{}", wrong.join("; "), ways.collect::<String>()))
    }

    pub fn line(&self) -> u64 {
        self.line
    }

    /// `2041 calls 112`
    pub fn title(&self) -> String {
        let from = self.test.from.as_deref().unwrap_or("somebody who hides");
        let by = self.test.trunk.as_ref().map(|trunk| format!(" by {}", trunk.value)).unwrap_or_default();
        format!("{from} calls {}{by}", self.test.to)
    }

    pub(super) fn fault(&self, file: &str, text: &str, why: String) -> Fault {
        Fault::at(file, text, self.line, self.column, why)
    }
}

/// `2026-12-24 18:05`, local.
pub fn parse_time(written: &str) -> Result<DateTime, String> {
    written.trim().replace(' ', "T").parse().map_err(|_| format!("'{written}' is no time: write 2026-12-24 18:05"))
}

/// An office in which those have a number that the test names.
struct Imagined<'a> {
    caller: Option<&'a str>,
    expect: &'a Expect,
    switches: &'a BTreeMap<String, Switch>,
}

impl Office for Imagined<'_> {
    fn is_extension(&self, number: &str) -> bool {
        let expected = self.expect.extensions.iter().flatten().any(|one| one.as_str() == number);
        expected || self.caller == Some(number)
    }

    fn switch(&self, hours: &str) -> Switch {
        self.switches.get(hours).copied().unwrap_or_default()
    }
}

fn differences(expect: &Expect, decision: &Decision) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut differs = |what: &str, wanted: Option<String>, found: String| {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            let found = if found.is_empty() { "nothing".to_owned() } else { format!("'{found}'") };
            wrong.push(format!("{what} is {found} and not '{wanted}'"));
        }
    };
    let found = Found::of(decision);
    differs("the outcome", expect.outcome.clone(), found.outcome.to_owned());
    differs("the rule", expect.rule.clone(), decision.rule.as_deref().unwrap_or_default().to_owned());
    let list = |all: &[Extension]| all.iter().map(Extension::as_str).collect::<Vec<_>>().join(", ");
    differs("who rings", expect.extensions.as_deref().map(list), list(found.extensions));
    differs("the way out", expect.trunks.as_ref().map(|all| all.join(", ")), found.trunks.join(", "));
    differs("the number sent", expect.number.clone(), found.number);
    differs("the caller shown", expect.caller_id.clone(), found.caller_id);
    differs("the class", expect.class.map(|class| class.to_string()), found.class);
    differs("the location", expect.location.clone(), found.location);
    if let Some(reason) = expect.reason.as_ref().filter(|reason| !found.reason.starts_with(reason.as_str())) {
        wrong.push(format!("the reason is '{}' and not '{reason}'", found.reason));
    }
    wrong
}

/// An outcome in the words of `expect`.
#[derive(Default)]
struct Found<'a> {
    outcome: &'static str,
    extensions: &'a [Extension],
    trunks: Vec<String>,
    number: String,
    caller_id: String,
    class: String,
    reason: String,
    location: String,
}

impl<'a> Found<'a> {
    fn of(decision: &'a Decision) -> Self {
        let hops = match &decision.outcome {
            Outcome::Outside(outside) => &outside.hops[..],
            Outcome::Emergency(call) => &call.hops,
            _ => &[],
        };
        let caller_id =
            hops.first().map(|hop| if hop.caller.withheld { "withheld" } else { hop.caller.number.as_deref().unwrap_or_default() });
        let found = Self {
            trunks: hops.iter().map(|hop| hop.trunk.to_string()).collect(),
            number: hops.first().map(|hop| hop.number.clone()).unwrap_or_default(),
            caller_id: caller_id.unwrap_or_default().to_owned(),
            ..Self::default()
        };
        match &decision.outcome {
            Outcome::Menu => Self { outcome: "menu", ..found },
            Outcome::Extensions(all) => Self { outcome: "extensions", extensions: all, ..found },
            Outcome::Outside(outside) => Self { outcome: "outside", class: outside.class.to_string(), ..found },
            Outcome::Emergency(call) => {
                Self { outcome: "emergency", extensions: &call.extensions, location: call.location.clone().unwrap_or_default(), ..found }
            }
            Outcome::Refused(refusal) => Self { outcome: "refused", reason: refusal.to_string(), ..found },
        }
    }
}
