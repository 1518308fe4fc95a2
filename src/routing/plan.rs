//! The plan of a site: (who calls, what was dialled, when) → where the call goes, and why. Pure: no clock, no sockets.
//!
//! ```text
//!  from inside   emergency ─ menu, if nobody owns the phone ─ menu's number ─ extension ─ `dial` ─ outside:
//!                read as international ─ one of ours? ─ blocked ─ may the caller? ─ first `outbound` rule that fits
//!  from outside  read as international ─ caller blocked ─ first `inbound` rule that fits
//! ```
//! The first that fits decides; with [`Plan::explain`] each one that was looked at says why it did or did not. Not here:
//! who is registered, whether a trunk is up (`call/trunk.rs`), star codes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde::Serialize;

use super::{
    hours::{Holidays, Hours, Switch, weekday_name},
    number::{Class, Site},
    pattern::Pattern,
    rehearsal::Rehearsal,
    settings::Reject,
    trunk::Trunk,
};
use crate::{directory::is_group, model::Extension};

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub enum Party<'a> {
    Extension {
        number: &'a str,
        /// Of the directory.
        groups: &'a [String],
        /// Where the phone is.
        location: Option<&'a str>,
    },
    /// A phone that nobody owns.
    Unbound { location: Option<&'a str> },
    /// Somebody outside; without a number if it is hidden.
    Outside { trunk: &'a str, number: Option<&'a str> },
}

/// What the plan asks and must know at once.
pub trait Office {
    /// Has somebody this number, registered or not?
    fn is_extension(&self, number: &str) -> bool;
    /// The night switch of these hours.
    fn switch(&self, hours: &str) -> Switch;
}

/// Where a call goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The voice menu.
    Menu,
    /// All phones of these ring at once.
    Extensions(Vec<Extension>),
    Outside(Outside),
    Emergency(EmergencyCall),
    Refused(Refusal),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outside {
    /// In its international form, where it has one.
    pub e164: Option<String>,
    pub class: Class,
    /// Tried in order.
    pub hops: Vec<Hop>,
}

/// One trunk's part: what is sent there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hop {
    pub trunk: Arc<str>,
    /// As this trunk writes numbers.
    pub number: String,
    pub caller: Shown,
    /// URI of the place of the caller (RFC 6442).
    pub geolocation: Option<String>,
}

/// The caller as people outside see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// As the trunk writes numbers; `None`: there is no number to show.
    pub number: Option<String>,
    /// The provider knows the number, the called do not (RFC 3323).
    pub withheld: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EmergencyCall {
    pub hops: Vec<Hop>,
    /// Ring when no hop takes the call.
    pub extensions: Vec<Extension>,
    /// The name of the place.
    pub location: Option<String>,
    /// Nobody is called for help: it is a trial.
    pub test: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    NoSuchNumber,
    /// The caller may not call such numbers.
    NotAllowed(Class),
    /// On the list of blocked numbers.
    Blocked,
    /// A caller who hides, where that is not wanted.
    Anonymous,
    /// A rule says so.
    Rejected(Reject),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchNumber => f.write_str("no such number"),
            Self::NotAllowed(class) => write!(f, "not allowed: {class}"),
            Self::Blocked => f.write_str("blocked"),
            Self::Anonymous => f.write_str("anonymous callers are not wanted"),
            Self::Rejected(Reject::Busy) => f.write_str("busy"),
            Self::Rejected(Reject::Unavailable) => f.write_str("not reachable"),
            Self::Rejected(Reject::NotFound) => f.write_str("no such number, by rule"),
        }
    }
}

impl Serialize for Refusal {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    pub outcome: Outcome,
    /// The rule that decided.
    pub rule: Option<Arc<str>>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Line of the file, counted from 1; 0 for what is in no file.
    pub line: u64,
    pub rule: String,
    pub verdict: Verdict,
    pub why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Does not fit: the next is looked at.
    Passed,
    /// Something was found out; it goes on.
    Noted,
    /// This decides.
    Won,
}

/// What holds without a file of routes: the numbers of `calls:`, and whose extensions there are.
#[derive(Clone, Debug, Default)]
pub struct Base {
    /// The number of the voice menu; empty: it has none.
    pub ivr_number: String,
    pub emergency: BTreeMap<String, Vec<Extension>>,
}

/// A checked plan.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) file: String,
    pub(super) base: Base,
    pub(super) site: Option<Site>,
    pub(super) zone: TimeZone,
    pub(super) outside_line: String,
    pub(super) main_number: Option<String>,
    pub(super) hours: BTreeMap<String, Hours>,
    pub(super) holidays: BTreeMap<String, Holidays>,
    pub(super) everybody: BTreeSet<Class>,
    pub(super) by_group: Vec<(String, BTreeSet<Class>)>,
    pub(super) classes: Vec<(Class, Pattern)>,
    pub(super) blocked_outgoing: Vec<Placed<Pattern>>,
    pub(super) blocked_incoming: Vec<Placed<Pattern>>,
    pub(super) no_anonymous: bool,
    pub(super) emergency: Emergency,
    pub(super) trunks: BTreeMap<Arc<str>, Arc<Trunk>>,
    pub(super) dial: Vec<Rule>,
    pub(super) inbound: Vec<Rule>,
    pub(super) outbound: Vec<Rule>,
    pub(super) rehearsals: Vec<Rehearsal>,
}

#[derive(Clone, Debug)]
pub(super) struct Placed<T> {
    pub line: u64,
    pub what: T,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Emergency {
    pub line: u64,
    pub numbers: Vec<String>,
    pub trunks: Vec<Arc<str>>,
    pub extensions: Vec<Extension>,
    pub caller_id: Option<String>,
    pub locations: Vec<Location>,
    pub test: Option<Test>,
}

#[derive(Clone, Debug)]
pub(super) struct Test {
    pub numbers: Vec<String>,
    pub to: TestTarget,
    pub instead: bool,
}

#[derive(Clone, Debug)]
pub(super) enum TestTarget {
    Extension(Extension),
    Number(String),
}

#[derive(Clone, Debug)]
pub(super) struct Location {
    /// With `*` for anything.
    pub device: String,
    pub name: String,
    pub caller_id: Option<String>,
    pub geolocation: Option<String>,
}

/// A rule of `dial`, `inbound` or `outbound`; empty lists are no condition.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub line: u64,
    pub name: Arc<str>,
    pub numbers: Vec<Pattern>,
    pub callers: Vec<Pattern>,
    pub trunks: Vec<Arc<str>>,
    pub classes: Vec<Class>,
    pub groups: Vec<String>,
    pub when: When,
    pub to: Target,
}

#[derive(Clone, Debug, Default)]
pub(super) struct When {
    pub open: Option<String>,
    pub closed: Option<String>,
    pub holiday: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Target {
    Extensions(Vec<Extension>),
    LastDigits(usize),
    Number(String),
    Menu,
    Reject(Reject),
    Trunks(Vec<Arc<str>>, CallerId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallerId {
    User,
    Main,
    Withheld,
    Number(String),
}

/// A number that leads to a number that leads to …
const MOST_TURNS: u8 = 4;

impl Plan {
    /// The plan of an office without a file of routes: extensions, the menu, and the emergency numbers of `calls:`.
    pub fn inside_only(base: Base) -> Self {
        Self {
            file: String::new(),
            base,
            site: None,
            zone: TimeZone::UTC,
            outside_line: String::new(),
            main_number: None,
            hours: BTreeMap::new(),
            holidays: BTreeMap::new(),
            everybody: BTreeSet::from([Class::Internal, Class::National]),
            by_group: Vec::new(),
            classes: Vec::new(),
            blocked_outgoing: Vec::new(),
            blocked_incoming: Vec::new(),
            no_anonymous: false,
            emergency: Emergency::default(),
            trunks: BTreeMap::new(),
            dial: Vec::new(),
            inbound: Vec::new(),
            outbound: Vec::new(),
            rehearsals: Vec::new(),
        }
    }

    /// The file that it was read from; empty if none.
    pub fn file(&self) -> &str {
        &self.file
    }

    pub fn trunks(&self) -> &BTreeMap<Arc<str>, Arc<Trunk>> {
        &self.trunks
    }

    /// How people dial here, where the file says so.
    pub fn site(&self) -> Option<&Site> {
        self.site.as_ref()
    }

    /// The names of the hours, each with a night switch of its own.
    pub fn hours(&self) -> impl Iterator<Item = &str> {
        self.hours.keys().map(String::as_str)
    }

    /// Where this number goes.
    pub fn decide(&self, office: &dyn Office, party: Party<'_>, dialled: &str, at: Timestamp) -> Decision {
        self.ask(office, party, dialled, self.local(at), &mut Trace(None))
    }

    /// The same with everything that was looked at, in order; `at` is local time.
    pub fn explain(&self, office: &dyn Office, party: Party<'_>, dialled: &str, at: DateTime) -> (Decision, Vec<Step>) {
        let mut steps = Vec::new();
        let decision = self.ask(office, party, dialled, at, &mut Trace(Some(&mut steps)));
        (decision, steps)
    }

    /// What people have written beside the rules to be tried.
    pub fn rehearsals(&self) -> &[Rehearsal] {
        &self.rehearsals
    }

    /// Local time of the site.
    pub fn local(&self, at: Timestamp) -> DateTime {
        at.to_zoned(self.zone.clone()).datetime()
    }

    /// Whether these hours are open, and why. `None`: there are no such hours.
    pub fn state(&self, hours: &str, at: DateTime, switch: Switch) -> Option<super::hours::State> {
        let hours = self.hours.get(hours)?;
        let holiday = hours.closed_on.iter().any(|list| self.holidays.get(list).is_some_and(|days| days.contains(at.date())));
        Some(hours.state(at, holiday, switch))
    }

    /// The number by which people outside reach this extension directly.
    pub fn direct_number(&self, extension: &str) -> Option<String> {
        let of_rule = |rule: &Rule| match &rule.to {
            Target::Extensions(all) if matches!(&all[..], [one] if one.as_str() == extension) => {
                rule.numbers.iter().find_map(Pattern::exact)
            }
            Target::LastDigits(digits) if *digits == extension.len() => {
                rule.numbers.iter().find_map(|pattern| pattern.ending_with(extension))
            }
            _ => None,
        };
        self.inbound.iter().find_map(of_rule)
    }

    fn ask(&self, office: &dyn Office, party: Party<'_>, dialled: &str, at: DateTime, trace: &mut Trace<'_>) -> Decision {
        let question = Question { plan: self, office, party, at };
        let number = plain(dialled);
        match party {
            Party::Outside { trunk, number: caller } => question.outside(trace, trunk, caller, &number),
            _ => question.inside(trace, &number, 0),
        }
    }
}

/// Where it is noted why; nothing is put together unless somebody wants to read it.
struct Trace<'a>(Option<&'a mut Vec<Step>>);

impl Trace<'_> {
    fn note(&mut self, line: u64, verdict: Verdict, text: impl FnOnce() -> (String, String)) {
        if let Some(steps) = &mut self.0 {
            let (rule, why) = text();
            steps.push(Step { line, rule, verdict, why });
        }
    }
}

/// One call to be decided.
struct Question<'a> {
    plan: &'a Plan,
    office: &'a dyn Office,
    party: Party<'a>,
    at: DateTime,
}

impl Question<'_> {
    fn inside(&self, trace: &mut Trace<'_>, number: &str, turn: u8) -> Decision {
        let plan = self.plan;
        let decided = |outcome| Decision { outcome, rule: None };
        if let Some(call) = self.emergency(trace, number) {
            return Decision { outcome: Outcome::Emergency(call), rule: Some("emergency".into()) };
        }
        if matches!(self.party, Party::Unbound { .. }) {
            trace.note(0, Verdict::Won, || ("unbound".into(), "nobody owns the phone: it reaches the menu only".into()));
            return decided(Outcome::Menu);
        }
        if !plan.base.ivr_number.is_empty() && number == plan.base.ivr_number {
            trace.note(0, Verdict::Won, || ("calls.ivr_number".into(), format!("{number} is the menu's number")));
            return decided(Outcome::Menu);
        }
        if let Ok(extension) = number.parse::<Extension>()
            && self.office.is_extension(number)
        {
            return self.allowed(trace, Class::Internal, || format!("{number} is an extension"), Outcome::Extensions(vec![extension]));
        }
        trace.note(0, Verdict::Passed, || ("extensions".into(), format!("nobody has the extension {number}")));
        for rule in &plan.dial {
            if self.fits(trace, rule, None, number, None) {
                return self.go(trace, rule, number, turn);
            }
        }
        self.to_outside(trace, number)
    }

    fn emergency(&self, trace: &mut Trace<'_>, number: &str) -> Option<EmergencyCall> {
        let plan = self.plan;
        let Emergency { line, numbers, test, .. } = &plan.emergency;
        // With the outside line too: in an emergency people dial as they are used to.
        let bare = number.strip_prefix(plan.outside_line.as_str()).unwrap_or(number);
        let is = |own: &str| own == number || own == bare;
        if let Some(test) = test
            && test.numbers.iter().any(|own| is(own))
        {
            trace.note(*line, Verdict::Won, || ("emergency.test".into(), format!("{number} tries emergency calls out")));
            return Some(self.emergency_call(trace, bare, Some(test)));
        }
        if let Some(own) = numbers.iter().find(|own| is(own)) {
            let test = test.as_ref().filter(|test| test.instead);
            trace.note(*line, Verdict::Won, || {
                let end = if test.is_some() { ", but this is a lab (`emergency.test.instead`)" } else { "" };
                ("emergency".into(), format!("{own} is an emergency number{end}"))
            });
            return Some(self.emergency_call(trace, own, test));
        }
        let targets = plan.base.emergency.get(number).or_else(|| plan.base.emergency.get(bare));
        if let Some(targets) = targets {
            trace.note(0, Verdict::Won, || ("calls.emergency".into(), format!("{number} is an emergency number")));
            return Some(EmergencyCall { hops: Vec::new(), extensions: targets.clone(), location: None, test: false });
        }
        trace.note(*line, Verdict::Passed, || ("emergency".into(), format!("{number} is no emergency number")));
        None
    }

    fn emergency_call(&self, trace: &mut Trace<'_>, number: &str, test: Option<&Test>) -> EmergencyCall {
        let plan = self.plan;
        let emergency = &plan.emergency;
        let place = match self.party {
            Party::Extension { location, .. } | Party::Unbound { location } => location,
            Party::Outside { .. } => None,
        };
        let location = emergency.locations.iter().find(|one| glob(&one.device, place.unwrap_or_default()));
        trace.note(emergency.line, Verdict::Noted, || {
            let place = place.unwrap_or("unknown");
            let why = match location {
                Some(location) => format!("the phone's location is '{place}': {}", location.name),
                None => format!("the phone's location is '{place}', which no rule describes"),
            };
            ("emergency.locations".into(), why)
        });
        let caller = location.and_then(|location| location.caller_id.clone()).or_else(|| emergency.caller_id.clone());
        let caller = caller.or_else(|| self.own_number(&CallerId::User));
        let (number, extensions, by_trunk) = match test.map(|test| &test.to) {
            None => (number, emergency.extensions.clone(), true),
            Some(TestTarget::Extension(extension)) => (number, vec![extension.clone()], false),
            Some(TestTarget::Number(instead)) => (instead.as_str(), Vec::new(), true),
        };
        let trunks = if by_trunk { &emergency.trunks[..] } else { &[] };
        let hop = |trunk: &Arc<str>| {
            let caller = Shown { number: caller.as_deref().map(|own| self.written(trunk, own)), withheld: false };
            let geolocation = location.and_then(|location| location.geolocation.clone());
            Hop { trunk: trunk.clone(), number: number.to_owned(), caller, geolocation }
        };
        let location = location.map(|location| location.name.clone());
        EmergencyCall { hops: trunks.iter().map(hop).collect(), extensions, location, test: test.is_some() }
    }

    fn to_outside(&self, trace: &mut Trace<'_>, number: &str) -> Decision {
        let plan = self.plan;
        let refused = |refusal| Decision { outcome: Outcome::Refused(refusal), rule: None };
        let line = plan.outside_line.as_str();
        // A number with its country code, as from a phone book, needs no outside line.
        let dialled = match number.strip_prefix(line) {
            _ if number.starts_with('+') => number,
            Some(rest) if !rest.is_empty() => rest,
            _ => {
                trace.note(0, Verdict::Won, || {
                    let need = if line.is_empty() { String::new() } else { format!(", and does not begin with {line} for outside") };
                    ("no such number".into(), format!("'{number}' is nobody's{need}"))
                });
                return refused(Refusal::NoSuchNumber);
            }
        };
        let e164 = plan.site.as_ref().and_then(|site| site.international(dialled));
        let class = self.class(dialled, e164.as_deref());
        trace.note(0, Verdict::Noted, || {
            let read = e164.as_deref().unwrap_or("a number without international form");
            ("outside".into(), format!("{dialled} is read as {read}, {class}"))
        });
        // Colleagues' own numbers stay in the house.
        if let Some(ours) = &e164
            && let Some(rule) = plan.inbound.iter().find(|rule| rule.numbers.iter().any(|pattern| pattern.matches(ours)))
            && let Outcome::Extensions(all) = self.arrive(rule, ours)
            && all.iter().all(|one| self.office.is_extension(one.as_str()))
        {
            let why = || format!("{ours} is one of our own: {}", names(&all));
            let decision = self.allowed(trace, Class::Internal, why, Outcome::Extensions(all.clone()));
            return Decision { rule: Some(rule.name.clone()), ..decision };
        }
        let blocked = plan.blocked_outgoing.iter().find(|one| matches(&one.what, dialled, e164.as_deref()));
        if let Some(blocked) = blocked {
            trace.note(blocked.line, Verdict::Won, || ("blocked.outgoing".into(), format!("{} is blocked", blocked.what)));
            return refused(Refusal::Blocked);
        }
        if let Some(refusal) = self.not_allowed(trace, class) {
            return refused(refusal);
        }
        for rule in &plan.outbound {
            if self.fits(trace, rule, Some(class), dialled, e164.as_deref())
                && let Target::Trunks(trunks, caller_id) = &rule.to
            {
                let named = rule.numbers.iter().any(|pattern| !pattern.is_international() && pattern.matches(dialled));
                let short = named && plan.site.as_ref().is_some_and(|site| site.is_short(dialled));
                let e164 = e164.filter(|_| !short);
                let hops = trunks.iter().map(|trunk| self.hop(trunk, caller_id, dialled, e164.as_deref())).collect();
                return Decision { outcome: Outcome::Outside(Outside { e164, class, hops }), rule: Some(rule.name.clone()) };
            }
        }
        trace.note(0, Verdict::Won, || ("no such number".into(), "no rule of `outbound` fits".into()));
        refused(Refusal::NoSuchNumber)
    }

    fn outside(&self, trace: &mut Trace<'_>, trunk: &str, caller: Option<&str>, called: &str) -> Decision {
        let plan = self.plan;
        let refused = |refusal| Decision { outcome: Outcome::Refused(refusal), rule: None };
        let read = |number: &str| {
            let form = plan.trunks.get(trunk).map(|trunk| trunk.form).unwrap_or_default();
            plan.site.as_ref().and_then(|site| site.international_of(number, form))
        };
        let e164 = read(called);
        let caller_e164 = caller.and_then(read);
        trace.note(0, Verdict::Noted, || {
            let read = |number: &str, e164: &Option<String>| match e164 {
                Some(e164) if e164 != number => format!("{number}, read as {e164},"),
                _ => number.to_owned(),
            };
            let why = format!(
                "{} calls {} by {trunk}",
                caller.map_or("somebody who hides".into(), |own| read(own, &caller_e164)),
                read(called, &e164)
            );
            ("from outside".into(), why.trim_end_matches(',').to_owned())
        });
        match caller {
            None if plan.no_anonymous => {
                trace.note(0, Verdict::Won, || ("blocked.anonymous".into(), "the caller hides".into()));
                return refused(Refusal::Anonymous);
            }
            Some(caller) => {
                let blocked = plan.blocked_incoming.iter().find(|one| matches(&one.what, caller, caller_e164.as_deref()));
                if let Some(blocked) = blocked {
                    trace.note(blocked.line, Verdict::Won, || ("blocked.incoming".into(), format!("{} is blocked", blocked.what)));
                    return refused(Refusal::Blocked);
                }
            }
            None => {}
        }
        for rule in &plan.inbound {
            if !rule.trunks.is_empty() && !rule.trunks.iter().any(|one| &**one == trunk) {
                let why = || ("inbound".to_owned() + &label(rule), format!("for other trunks than {trunk}"));
                trace.note(rule.line, Verdict::Passed, why);
                continue;
            }
            let of_caller = |pattern: &Pattern| caller.is_some_and(|caller| matches(pattern, caller, caller_e164.as_deref()));
            if !rule.callers.is_empty() && !rule.callers.iter().any(of_caller) {
                trace.note(rule.line, Verdict::Passed, || ("inbound".to_owned() + &label(rule), "for other callers".to_owned()));
                continue;
            }
            if self.fits(trace, rule, None, called, e164.as_deref()) {
                let outcome = self.arrive(rule, e164.as_deref().unwrap_or(called));
                return Decision { outcome, rule: Some(rule.name.clone()) };
            }
        }
        trace.note(0, Verdict::Won, || ("no such number".into(), "no rule of `inbound` fits".into()));
        refused(Refusal::NoSuchNumber)
    }

    /// Where an inbound rule leads: never out again, and never to the menu that gives phones away.
    fn arrive(&self, rule: &Rule, number: &str) -> Outcome {
        let one = |text: &str| match text.parse::<Extension>() {
            Ok(extension) if self.office.is_extension(text) => Outcome::Extensions(vec![extension]),
            _ => Outcome::Refused(Refusal::NoSuchNumber),
        };
        match &rule.to {
            Target::Extensions(all) => Outcome::Extensions(all.clone()),
            Target::LastDigits(count) => one(number.get(number.len().saturating_sub(*count)..).unwrap_or_default()),
            Target::Number(number) => one(number),
            Target::Reject(how) => Outcome::Refused(Refusal::Rejected(*how)),
            Target::Menu | Target::Trunks(..) => Outcome::Refused(Refusal::NoSuchNumber),
        }
    }

    /// Where a `dial` rule leads.
    fn go(&self, trace: &mut Trace<'_>, rule: &Rule, number: &str, turn: u8) -> Decision {
        let decided = |outcome| Decision { outcome, rule: Some(rule.name.clone()) };
        match &rule.to {
            Target::Extensions(all) => decided(Outcome::Extensions(all.clone())),
            Target::LastDigits(count) => {
                let digits = number.get(number.len().saturating_sub(*count)..).unwrap_or_default();
                match digits.parse::<Extension>() {
                    Ok(extension) if self.office.is_extension(digits) => decided(Outcome::Extensions(vec![extension])),
                    _ => decided(Outcome::Refused(Refusal::NoSuchNumber)),
                }
            }
            Target::Number(other) if turn < MOST_TURNS => {
                trace.note(rule.line, Verdict::Noted, || ("dial".to_owned() + &label(rule), format!("goes on as {other}")));
                self.inside(trace, other, turn + 1)
            }
            Target::Number(_) | Target::Trunks(..) => decided(Outcome::Refused(Refusal::NoSuchNumber)),
            Target::Menu => decided(Outcome::Menu),
            Target::Reject(how) => decided(Outcome::Refused(Refusal::Rejected(*how))),
        }
    }

    fn fits(&self, trace: &mut Trace<'_>, rule: &Rule, class: Option<Class>, dialled: &str, e164: Option<&str>) -> bool {
        let misfit = self.misfit(rule, class, dialled, e164);
        let kind = match (&rule.to, class) {
            (Target::Trunks(..), _) => "outbound",
            _ if matches!(self.party, Party::Outside { .. }) => "inbound",
            _ => "dial",
        };
        let verdict = if misfit.is_some() { Verdict::Passed } else { Verdict::Won };
        let fits = misfit.is_none();
        trace.note(rule.line, verdict, || {
            let why = misfit.unwrap_or_else(|| match rule.numbers.iter().find(|pattern| matches(pattern, dialled, e164)) {
                Some(pattern) => format!("{} fits {pattern}", if pattern.is_international() { e164.unwrap_or(dialled) } else { dialled }),
                None => "fits every number".to_owned(),
            });
            (kind.to_owned() + &label(rule), why)
        });
        fits
    }

    /// Why a rule does not count.
    fn misfit(&self, rule: &Rule, class: Option<Class>, dialled: &str, e164: Option<&str>) -> Option<String> {
        if rule.numbers.is_empty() {
            if e164.is_none() && matches!(rule.to, Target::Trunks(..)) {
                return Some(format!("{dialled} has no international form, and the rule names no numbers"));
            }
        } else if !rule.numbers.iter().any(|pattern| matches(pattern, dialled, e164)) {
            let list: Vec<_> = rule.numbers.iter().take(3).map(ToString::to_string).collect();
            let more = if rule.numbers.len() > 3 { " …" } else { "" };
            return Some(format!("{} does not fit {}{more}", e164.unwrap_or(dialled), list.join(", ")));
        }
        if let Some(class) = class
            && !rule.classes.is_empty()
            && !rule.classes.contains(&class)
        {
            return Some(format!("not for {class} numbers"));
        }
        if !rule.groups.is_empty() && !rule.groups.iter().any(|group| self.is_in(group)) {
            return Some(format!("for {} only", rule.groups.join(", ")));
        }
        self.untimely(&rule.when)
    }

    fn untimely(&self, when: &When) -> Option<String> {
        let state = |hours: &str| self.plan.state(hours, self.at, self.office.switch(hours));
        let at = || format!("{} {:02}:{:02}", weekday_name(self.at.date().weekday()), self.at.hour(), self.at.minute());
        if let Some(hours) = &when.open
            && let Some(state) = state(hours)
            && !state.is_open()
        {
            return Some(format!("{hours} is {} ({})", state.why(), at()));
        }
        if let Some(hours) = &when.closed
            && let Some(state) = state(hours)
            && state.is_open()
        {
            return Some(format!("{hours} is {} ({})", state.why(), at()));
        }
        let holiday = when.holiday.as_ref()?;
        let is = self.plan.holidays.get(holiday).is_some_and(|days| days.contains(self.at.date()));
        (!is).then(|| format!("{} is no holiday of {holiday}", self.at.date()))
    }

    fn class(&self, dialled: &str, e164: Option<&str>) -> Class {
        let written = self.plan.classes.iter().find(|(_, pattern)| matches(pattern, dialled, e164));
        match (written, &self.plan.site, e164) {
            (Some((class, _)), _, _) => *class,
            (None, Some(site), Some(e164)) => site.class(e164),
            // Short codes are the country's own.
            _ => Class::National,
        }
    }

    fn allowed(&self, trace: &mut Trace<'_>, class: Class, why: impl FnOnce() -> String, outcome: Outcome) -> Decision {
        if let Some(refusal) = self.not_allowed(trace, class) {
            return Decision { outcome: Outcome::Refused(refusal), rule: None };
        }
        trace.note(0, Verdict::Won, || ("extensions".into(), why()));
        Decision { outcome, rule: None }
    }

    /// Permissions of everybody and of the caller's groups, added up.
    fn not_allowed(&self, trace: &mut Trace<'_>, class: Class) -> Option<Refusal> {
        let plan = self.plan;
        if plan.everybody.contains(&class) {
            trace.note(0, Verdict::Noted, || ("permissions.default".into(), format!("everybody may call {class} numbers")));
            return None;
        }
        if let Some((group, _)) = plan.by_group.iter().find(|(group, classes)| classes.contains(&class) && self.is_in(group)) {
            trace.note(0, Verdict::Noted, || ("permissions.groups".into(), format!("{group} may call {class} numbers")));
            return None;
        }
        trace.note(0, Verdict::Won, || ("permissions".into(), format!("the caller may not call {class} numbers")));
        Some(Refusal::NotAllowed(class))
    }

    fn is_in(&self, group: &str) -> bool {
        match self.party {
            Party::Extension { groups, .. } => groups.iter().any(|own| is_group(own, group)),
            _ => false,
        }
    }

    fn hop(&self, trunk: &Arc<str>, caller_id: &CallerId, dialled: &str, e164: Option<&str>) -> Hop {
        let number = e164.map_or_else(|| dialled.to_owned(), |e164| self.written(trunk, e164));
        let own = self.own_number(caller_id).map(|own| self.written(trunk, &own));
        let caller = Shown { number: own, withheld: *caller_id == CallerId::Withheld };
        Hop { trunk: trunk.clone(), number, caller, geolocation: None }
    }

    fn own_number(&self, caller_id: &CallerId) -> Option<String> {
        let direct = || match self.party {
            Party::Extension { number, .. } => self.plan.direct_number(number),
            _ => None,
        };
        match caller_id {
            CallerId::Number(number) => Some(number.clone()),
            CallerId::Main => self.plan.main_number.clone(),
            CallerId::User | CallerId::Withheld => direct().or_else(|| self.plan.main_number.clone()),
        }
    }

    fn written(&self, trunk: &str, e164: &str) -> String {
        match (self.plan.trunks.get(trunk), &self.plan.site) {
            (Some(trunk), Some(site)) if e164.starts_with('+') => site.write(e164, trunk.form),
            _ => e164.to_owned(),
        }
    }
}

/// Patterns with a `+` are for the international form, others for what was dialled.
fn matches(pattern: &Pattern, dialled: &str, e164: Option<&str>) -> bool {
    match pattern.is_international() {
        true => e164.is_some_and(|e164| pattern.matches(e164)),
        false => pattern.matches(dialled),
    }
}

/// `*` stands for anything; case does not matter.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_lowercase(), text.to_lowercase());
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<_> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

fn label(rule: &Rule) -> String {
    format!(" '{}'", rule.name)
}

fn names(extensions: &[Extension]) -> String {
    extensions.iter().map(Extension::as_str).collect::<Vec<_>>().join(", ")
}

/// A number as people write it, without what they write between the digits (RFC 3966 §5.1.1).
pub fn plain(dialled: &str) -> String {
    dialled.chars().filter(|c| !matches!(c, ' ' | '-' | '.' | '(' | ')' | '/')).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_matched_with_stars() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("floor2-*", "FLOOR2-port7", true),
            ("floor2-*", "floor20-port7", false),
            ("*port7", "floor2-port7", true),
            ("f*2*7", "floor2-port7", true),
            ("f*2*8", "floor2-port7", false),
            ("floor2", "floor2", true),
            ("floor2", "floor22", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }
}
