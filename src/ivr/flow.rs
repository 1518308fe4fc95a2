//! A call flow as data: read from YAML, checked, and then known to be whole. Pure; `machine.rs` runs it.
//!
//! A flow is a set of states. Each does one thing and names the state that follows, one for each way it can end:
//!
//! | what | ends | meaning |
//! |---|---|---|
//! | `say: [pieces]` | `then` | plays; a key stops it and counts for what follows, unless `barge_in: false` |
//! | `collect: { into, prompt, min, max, end, … }` | `done` `failed` (`star`) | digits into a variable; `failed` after `tries` |
//! | `menu: { prompt, keys, … }` | each key, `failed` | one key |
//! | `branch: variable` | its values, `otherwise` | |
//! | `authenticate: { number, pin, tries, wait }` | `accepted` `refused` `exhausted` `locked` `unavailable` | asks the directory; fills `user.*` |
//! | `bind: { wait }` | `bound` `refused` `unavailable` | gives this phone to `user`; fills `bound.*` |
//! | `transfer: extension` | `failed` | gives the call away; `failed` if nobody takes it over |
//! | `hang_up: word` | | ends it; the word tells the timeline how |
//!
//! Pieces: the id of a prompt, `{ digits: variable }`, `{ number: variable }`, `{ name: variable }`, `{ pause_ms: 300 }`.
//! Not here: which prompts there are (given to [`Flow::parse`]), sound.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};
use serde_yaml::{Location, Spanned};

use super::collect::Wanted;
use crate::{
    model::Extension,
    yaml::{self, Fault},
};

/// Variables that every flow has, besides those it collects into.
pub const VARIABLES: &[&str] =
    &["device.state", "device.extension", "user.display_name", "user.extension", "bound.display_name", "bound.extension"];

/// A flow that is whole: every state, prompt and variable it names exists, every state can be reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    pub name: String,
    pub description: String,
    /// A call longer than this is ended.
    pub limit: Duration,
    pub(super) start: StateId,
    pub(super) states: Vec<State>,
}

/// Place in [`Flow::states`].
pub(super) type StateId = usize;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    pub name: String,
    pub step: Step,
    /// Outcome → what follows. `say` has one outcome, [`THEN`].
    pub next: BTreeMap<String, StateId>,
}

/// The one outcome of `say`.
pub(super) const THEN: &str = "then";

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Say { pieces: Vec<Piece>, barge_in: bool },
    Collect { into: String, secret: bool, wanted: Wanted, words: Words },
    Menu { keys: BTreeSet<char>, first: Duration, words: Words },
    Branch { on: String },
    Authenticate { number: String, pin: String, tries: u32, wait: Vec<Piece>, limit: Duration },
    Bind { wait: Vec<Piece>, limit: Duration },
    Transfer { to: Extension },
    HangUp { outcome: String },
}

/// What is said around an input, and how often.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Words {
    pub prompt: Vec<Piece>,
    /// Before the prompt, when nothing was keyed.
    pub silent: Vec<Piece>,
    /// Before the prompt, when what was keyed will not do.
    pub invalid: Vec<Piece>,
    pub tries: u32,
}

/// Something to say, with variables still open.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    Prompt(String),
    Digits(String),
    Number(String),
    Name(String),
    Pause(Duration),
}

impl Flow {
    /// Reads and checks a flow. `file` names it in faults, `prompts` are the ids there are. All faults are told at once.
    pub fn parse(name: &str, file: &str, text: &str, prompts: &BTreeSet<String>) -> Result<Self, Vec<Fault>> {
        let written: FlowFile = yaml::read(file, text).map_err(|fault| vec![fault])?;
        let names: Vec<String> = written.states.keys().cloned().collect();
        let mut check = Checker { file, text, prompts, variables: BTreeSet::new(), names: &names, faults: Vec::new() };
        check.variables = VARIABLES.iter().map(|v| (*v).to_owned()).collect();
        check.variables.extend(written.states.values().filter_map(|state| state.value.collect.as_ref()).map(|c| c.into.value.clone()));
        let start = check.state(&written.start);
        let states: Vec<State> = written.states.iter().filter_map(|(name, state)| check.one(name, state)).collect();
        if let (Some(start), true) = (start, check.faults.is_empty()) {
            check.reachable(start, &states, &written);
        }
        match (start, check.faults) {
            (Some(start), faults) if faults.is_empty() => Ok(Self {
                name: name.to_owned(),
                description: written.description,
                limit: Duration::from_secs(written.limit_secs),
                start,
                states,
            }),
            (_, mut faults) => {
                faults.sort_by_key(|fault| (fault.line, fault.column));
                Err(faults)
            }
        }
    }

    /// The prompts that this flow plays.
    pub fn prompts(&self) -> BTreeSet<&str> {
        let pieces = self.states.iter().flat_map(|state| match &state.step {
            Step::Say { pieces, .. } => vec![pieces],
            Step::Collect { words, .. } | Step::Menu { words, .. } => vec![&words.prompt, &words.silent, &words.invalid],
            Step::Authenticate { wait, .. } | Step::Bind { wait, .. } => vec![wait],
            Step::Branch { .. } | Step::Transfer { .. } | Step::HangUp { .. } => vec![],
        });
        pieces.flatten().filter_map(|piece| if let Piece::Prompt(id) = piece { Some(id.as_str()) } else { None }).collect()
    }
}

/// The JSON Schema of the file, for editors.
pub fn schema() -> schemars::Schema {
    schemars::SchemaGenerator::default().into_root_schema_for::<FlowFile>()
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct FlowFile {
    #[serde(default)]
    description: String,
    #[schemars(with = "String")]
    start: Spanned<String>,
    #[serde(default = "five_minutes")]
    limit_secs: u64,
    #[schemars(with = "BTreeMap<String, StateFile>")]
    states: BTreeMap<String, Spanned<StateFile>>,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct StateFile {
    #[schemars(with = "Option<Vec<PieceFile>>")]
    say: Option<Vec<Spanned<PieceFile>>>,
    barge_in: Option<bool>,
    collect: Option<CollectFile>,
    menu: Option<MenuFile>,
    #[schemars(with = "Option<String>")]
    branch: Option<Spanned<String>>,
    authenticate: Option<AuthenticateFile>,
    bind: Option<BindFile>,
    #[schemars(with = "Option<String>")]
    transfer: Option<Spanned<String>>,
    hang_up: Option<String>,
    #[schemars(with = "Option<String>")]
    then: Option<Spanned<String>>,
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    next: Option<BTreeMap<String, Spanned<String>>>,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct CollectFile {
    #[schemars(with = "String")]
    into: Spanned<String>,
    #[schemars(with = "Vec<PieceFile>")]
    prompt: Vec<Spanned<PieceFile>>,
    #[serde(default)]
    #[schemars(with = "Vec<PieceFile>")]
    silent: Vec<Spanned<PieceFile>>,
    #[serde(default)]
    #[schemars(with = "Vec<PieceFile>")]
    invalid: Vec<Spanned<PieceFile>>,
    /// What is keyed is never recorded, whatever else is.
    #[serde(default = "yes")]
    secret: bool,
    #[serde(default = "one")]
    min: usize,
    #[serde(default = "fifteen")]
    max: usize,
    #[serde(default = "hash")]
    #[schemars(with = "String")]
    end: Spanned<String>,
    #[serde(default = "eight_seconds")]
    first_ms: u64,
    #[serde(default = "four_seconds")]
    between_ms: u64,
    #[serde(default = "yes")]
    barge_in: bool,
    #[serde(default = "three")]
    tries: u32,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct MenuFile {
    #[schemars(with = "Vec<PieceFile>")]
    prompt: Vec<Spanned<PieceFile>>,
    #[serde(default)]
    #[schemars(with = "Vec<PieceFile>")]
    silent: Vec<Spanned<PieceFile>>,
    #[serde(default)]
    #[schemars(with = "Vec<PieceFile>")]
    invalid: Vec<Spanned<PieceFile>>,
    #[serde(default = "eight_seconds")]
    first_ms: u64,
    #[serde(default = "three")]
    tries: u32,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct AuthenticateFile {
    #[schemars(with = "String")]
    number: Spanned<String>,
    #[schemars(with = "String")]
    pin: Spanned<String>,
    #[serde(default = "three")]
    tries: u32,
    #[serde(default)]
    #[schemars(with = "Vec<PieceFile>")]
    wait: Vec<Spanned<PieceFile>>,
    #[serde(default = "ten_seconds")]
    limit_ms: u64,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct BindFile {
    #[serde(default)]
    #[schemars(with = "Vec<PieceFile>")]
    wait: Vec<Spanned<PieceFile>>,
    #[serde(default = "ten_seconds")]
    limit_ms: u64,
}

enum PieceFile {
    Prompt(String),
    Digits(String),
    Number(String),
    Name(String),
    PauseMs(u64),
}

const fn five_minutes() -> u64 {
    300
}
const fn yes() -> bool {
    true
}
const fn one() -> usize {
    1
}
const fn three() -> u32 {
    3
}
const fn fifteen() -> usize {
    15
}
const fn eight_seconds() -> u64 {
    8000
}
const fn four_seconds() -> u64 {
    4000
}
const fn ten_seconds() -> u64 {
    10_000
}
fn hash() -> Spanned<String> {
    Spanned::new("#".to_owned(), Location::UNKNOWN, Location::UNKNOWN)
}

crate::written_as!(PieceFile, {
    "description": "the id of a prompt, or what is said of a variable",
    "oneOf": [
        { "type": "string" },
        { "type": "object", "additionalProperties": false, "minProperties": 1, "maxProperties": 1, "properties": {
            "digits": { "type": "string" }, "number": { "type": "string" }, "name": { "type": "string" },
            "pause_ms": { "type": "integer", "minimum": 0 }
        } }
    ]
});

impl<'de> Deserialize<'de> for PieceFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PieceVisitor;
        impl<'de> Visitor<'de> for PieceVisitor {
            type Value = PieceFile;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the id of a prompt, or { digits: … }, { number: … }, { name: … }, { pause_ms: … }")
            }

            fn visit_str<E: de::Error>(self, id: &str) -> Result<PieceFile, E> {
                Ok(PieceFile::Prompt(id.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PieceFile, A::Error> {
                const KINDS: &[&str] = &["digits", "number", "name", "pause_ms"];
                let piece = match map.next_key::<String>()?.as_deref() {
                    Some("digits") => PieceFile::Digits(map.next_value()?),
                    Some("number") => PieceFile::Number(map.next_value()?),
                    Some("name") => PieceFile::Name(map.next_value()?),
                    Some("pause_ms") => PieceFile::PauseMs(map.next_value()?),
                    Some(other) => return Err(de::Error::unknown_field(other, KINDS)),
                    None => return Err(de::Error::invalid_length(0, &self)),
                };
                match map.next_key::<String>()? {
                    None => Ok(piece),
                    Some(_) => Err(de::Error::custom("one thing for each piece: write the next as a piece of its own")),
                }
            }
        }
        deserializer.deserialize_any(PieceVisitor)
    }
}

struct Checker<'a> {
    file: &'a str,
    text: &'a str,
    prompts: &'a BTreeSet<String>,
    variables: BTreeSet<String>,
    names: &'a [String],
    faults: Vec<Fault>,
}

impl Checker<'_> {
    fn fault(&mut self, at: &Location, message: impl Into<String>, hint: Option<String>) {
        self.faults.push(Fault { hint, ..Fault::at(self.file, self.text, at.line(), at.column(), message) });
    }

    /// The state of that name.
    fn state(&mut self, name: &Spanned<String>) -> Option<StateId> {
        let found = self.names.iter().position(|known| *known == name.value);
        if found.is_none() {
            let hint = nearest(&name.value, self.names.iter().map(String::as_str));
            self.fault(&name.referenced, format!("there is no state '{}'", name.value), hint);
        }
        found
    }

    fn variable(&mut self, name: &str, at: &Location) -> String {
        if !self.variables.contains(name) {
            let hint = nearest(name, self.variables.iter().map(String::as_str));
            self.fault(at, format!("there is no variable '{name}'"), hint);
        }
        name.to_owned()
    }

    fn pieces(&mut self, pieces: &[Spanned<PieceFile>]) -> Vec<Piece> {
        pieces.iter().map(|piece| self.piece(piece)).collect()
    }

    fn piece(&mut self, piece: &Spanned<PieceFile>) -> Piece {
        let at = &piece.referenced;
        match &piece.value {
            PieceFile::Prompt(id) => {
                if !self.prompts.contains(id) {
                    let hint = nearest(id, self.prompts.iter().map(String::as_str));
                    self.fault(
                        at,
                        format!("there is no prompt '{id}'"),
                        hint.or_else(|| Some("add it to prompts.yaml and record it".into())),
                    );
                }
                Piece::Prompt(id.clone())
            }
            PieceFile::Digits(name) => Piece::Digits(self.variable(name, at)),
            PieceFile::Number(name) => Piece::Number(self.variable(name, at)),
            PieceFile::Name(name) => {
                if !name.ends_with(".display_name") {
                    self.fault(at, format!("'{name}' is not a name"), Some("user.display_name or bound.display_name".into()));
                }
                Piece::Name(self.variable(name, at))
            }
            PieceFile::PauseMs(ms) => {
                if *ms > 10_000 {
                    self.fault(at, "a pause is at most 10000 ms", None);
                }
                Piece::Pause(Duration::from_millis(*ms))
            }
        }
    }

    fn one(&mut self, name: &str, written: &Spanned<StateFile>) -> Option<State> {
        let at = &written.referenced;
        let file = &written.value;
        let step = self.step(name, file, at)?;
        let next = self.next(name, file, &step, at);
        if file.barge_in.is_some() && !matches!(step, Step::Say { .. }) {
            self.fault(at, format!("'{name}': `barge_in` beside `say` only; `collect` has its own"), None);
        }
        Some(State { name: name.to_owned(), step, next })
    }

    fn step(&mut self, name: &str, file: &StateFile, at: &Location) -> Option<Step> {
        let there = [
            file.say.is_some(),
            file.collect.is_some(),
            file.menu.is_some(),
            file.branch.is_some(),
            file.authenticate.is_some(),
            file.bind.is_some(),
            file.transfer.is_some(),
            file.hang_up.is_some(),
        ];
        if there.iter().filter(|t| **t).count() != 1 {
            let hint = "one of say, collect, menu, branch, authenticate, bind, transfer, hang_up".to_owned();
            self.fault(at, format!("the state '{name}' must do exactly one thing"), Some(hint));
            return None;
        }
        Some(if let Some(pieces) = &file.say {
            Step::Say { pieces: self.pieces(pieces), barge_in: file.barge_in.unwrap_or(true) }
        } else if let Some(collect) = &file.collect {
            self.collect(name, collect, file.next.as_ref().is_some_and(|next| next.contains_key("star")), at)
        } else if let Some(menu) = &file.menu {
            let keys = file.next.iter().flat_map(BTreeMap::keys).filter_map(|key| one_key(key)).collect();
            let words = self.words(&menu.prompt, &menu.silent, &menu.invalid, menu.tries, at);
            Step::Menu { keys, first: Duration::from_millis(menu.first_ms), words }
        } else if let Some(on) = &file.branch {
            Step::Branch { on: self.variable(&on.value, &on.referenced) }
        } else if let Some(ask) = &file.authenticate {
            if ask.tries == 0 {
                self.fault(at, format!("'{name}': `tries` is at least 1"), None);
            }
            Step::Authenticate {
                number: self.variable(&ask.number.value, &ask.number.referenced),
                pin: self.variable(&ask.pin.value, &ask.pin.referenced),
                tries: ask.tries,
                wait: self.pieces(&ask.wait),
                limit: Duration::from_millis(ask.limit_ms),
            }
        } else if let Some(bind) = &file.bind {
            Step::Bind { wait: self.pieces(&bind.wait), limit: Duration::from_millis(bind.limit_ms) }
        } else if let Some(to) = &file.transfer {
            match to.value.parse() {
                Ok(to) => Step::Transfer { to },
                Err(error) => {
                    self.fault(&to.referenced, format!("{error}"), None);
                    return None;
                }
            }
        } else {
            Step::HangUp { outcome: file.hang_up.clone().unwrap_or_default() }
        })
    }

    fn collect(&mut self, name: &str, file: &CollectFile, star: bool, at: &Location) -> Step {
        let terminator = one_key(&file.end.value);
        if !file.end.value.is_empty() && terminator.is_none() {
            self.fault(&file.end.referenced, format!("'{}' is not a key: write '#', '*', a digit, or '' for none", file.end.value), None);
        }
        if file.max == 0 || file.max > 32 || file.min > file.max {
            self.fault(at, format!("'{name}': `min` is at most `max`, and `max` is 1 to 32"), None);
        }
        if VARIABLES.contains(&file.into.value.as_str()) {
            self.fault(&file.into.referenced, format!("'{}' is filled by the server: choose another name", file.into.value), None);
        }
        Step::Collect {
            into: file.into.value.clone(),
            secret: file.secret,
            wanted: Wanted {
                min: file.min,
                max: file.max,
                terminator,
                restart: star.then_some('*'),
                first: Duration::from_millis(file.first_ms),
                between: Duration::from_millis(file.between_ms),
                barge_in: file.barge_in,
            },
            words: self.words(&file.prompt, &file.silent, &file.invalid, file.tries, at),
        }
    }

    fn words(
        &mut self,
        prompt: &[Spanned<PieceFile>],
        silent: &[Spanned<PieceFile>],
        invalid: &[Spanned<PieceFile>],
        tries: u32,
        at: &Location,
    ) -> Words {
        if tries == 0 {
            self.fault(at, "`tries` is at least 1", None);
        }
        Words { prompt: self.pieces(prompt), silent: self.pieces(silent), invalid: self.pieces(invalid), tries }
    }

    /// The states that follow: every outcome that must have one has one, and no others.
    fn next(&mut self, name: &str, file: &StateFile, step: &Step, at: &Location) -> BTreeMap<String, StateId> {
        let (needed, allowed) = outcomes(step);
        let mut next = BTreeMap::new();
        if needed == [THEN] {
            match &file.then {
                Some(then) => next.extend(self.state(then).map(|id| (THEN.to_owned(), id))),
                None => self.fault(at, format!("'{name}' says something and then? `then:` is missing"), None),
            }
            if file.next.is_some() {
                self.fault(at, format!("'{name}' has one way to end: `then:`, not `next:`"), None);
            }
            return next;
        }
        if let Some(then) = &file.then {
            self.fault(&then.referenced, format!("'{name}' has several ways to end: `next: {{ … }}`, not `then:`"), None);
        }
        for (outcome, state) in file.next.iter().flatten() {
            let possible = needed.contains(&outcome.as_str()) || allowed.may(outcome);
            if !possible {
                let known = needed.iter().copied().chain(allowed.words());
                let hint = nearest(outcome, known.clone()).or_else(|| Some(format!("it can: {}", known.collect::<Vec<_>>().join(", "))));
                self.fault(&state.referenced, format!("'{name}' cannot end with '{outcome}'"), hint);
            }
            next.extend(self.state(state).map(|id| (outcome.clone(), id)));
        }
        let given = |outcome: &str| file.next.as_ref().is_some_and(|next| next.contains_key(outcome));
        for outcome in needed.iter().filter(|outcome| !given(outcome)) {
            self.fault(at, format!("'{name}' can end with '{outcome}': what follows then?"), Some(format!("next: {{ {outcome}: … }}")));
        }
        if matches!(step, Step::Menu { keys, .. } if keys.is_empty()) {
            self.fault(at, format!("the menu '{name}' has no keys"), Some("next: { '1': …, failed: … }".into()));
        }
        next
    }

    fn reachable(&mut self, start: StateId, states: &[State], written: &FlowFile) {
        let mut seen = BTreeSet::from([start]);
        let mut todo = vec![start];
        while let Some(state) = todo.pop().and_then(|id| states.get(id)) {
            todo.extend(state.next.values().filter(|id| seen.insert(**id)));
        }
        for (id, state) in states.iter().enumerate().filter(|(id, _)| !seen.contains(id)) {
            let at = written.states.get(&state.name).map_or(Location::UNKNOWN, |s| s.referenced);
            self.fault(&at, format!("no way leads to the state '{}'", states.get(id).map_or("", |s| &s.name)), None);
        }
    }
}

/// Which outcomes a step may have besides those it must have.
enum Allowed {
    These(&'static [&'static str]),
    Keys,
    Anything,
}

impl Allowed {
    fn may(&self, outcome: &str) -> bool {
        match self {
            Self::These(these) => these.contains(&outcome),
            Self::Keys => one_key(outcome).is_some(),
            Self::Anything => true,
        }
    }

    fn words(&self) -> impl Iterator<Item = &'static str> + Clone + use<> {
        match self {
            Self::These(these) => these.iter().copied(),
            Self::Keys => ["a key in quotes"].iter().copied(),
            Self::Anything => [].iter().copied(),
        }
    }
}

/// Outcomes that need a state to follow, and those that may have one.
fn outcomes(step: &Step) -> (&'static [&'static str], Allowed) {
    match step {
        Step::Say { .. } => (&[THEN], Allowed::These(&[])),
        Step::Collect { .. } => (&["done", "failed"], Allowed::These(&["star"])),
        Step::Menu { .. } => (&["failed"], Allowed::Keys),
        Step::Branch { .. } => (&["otherwise"], Allowed::Anything),
        Step::Authenticate { .. } => (&["accepted", "refused", "exhausted", "locked", "unavailable"], Allowed::These(&[])),
        Step::Bind { .. } => (&["bound", "refused", "unavailable"], Allowed::These(&[])),
        Step::Transfer { .. } => (&["failed"], Allowed::These(&[])),
        Step::HangUp { .. } => (&[], Allowed::These(&[])),
    }
}

fn one_key(text: &str) -> Option<char> {
    let mut chars = text.chars();
    chars.next().filter(|c| c.is_ascii_digit() || "*#ABCD".contains(*c)).filter(|_| chars.next().is_none())
}

fn nearest<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    yaml::closest(written, known).map(|name| format!("did you mean '{name}'?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Flow, String> {
        let prompts = ["hello", "number", "goodbye"].map(String::from).into();
        Flow::parse("t", "t.yaml", text, &prompts).map_err(|faults| faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n"))
    }

    const GOOD: &str = "start: hello
states:
  hello: { say: [hello, { pause_ms: 200 }], then: number }
  number:
    collect: { into: number, prompt: [number] }
    next: { done: check, failed: bye, star: hello }
  check:
    branch: number
    next: { '1': bye, otherwise: number }
  bye: { hang_up: enough }
";

    #[test]
    fn a_good_flow_is_whole() {
        let flow = parse(GOOD).expect("good");
        assert_eq!(flow.prompts(), BTreeSet::from(["hello", "number"]));
        assert_eq!(flow.limit, Duration::from_secs(300));
    }

    #[test]
    fn faults_say_where_and_what_to_do() {
        for (from, to, place, words) in [
            ("then: number", "then: nummer", "t.yaml:3:", &["no state 'nummer'", "did you mean 'number'?"][..]),
            ("say: [hello,", "say: [helo,", "t.yaml:3:18", &["no prompt 'helo'", "did you mean 'hello'?"]),
            ("say:", "sy:", "t.yaml:3:12", &["'sy'", "did you mean 'say'?"]),
            ("pause_ms", "pausems", "t.yaml:3:", &["pausems", "pause_ms"]),
            ("branch: number", "branch: user.name", "t.yaml:8:13", &["no variable 'user.name'"]),
            (", otherwise: number", "", "t.yaml:", &["'check' can end with 'otherwise'"]),
            ("failed: bye", "fialed: bye", "t.yaml:6:", &["cannot end with 'fialed'", "did you mean 'failed'?"]),
            ("then: number }", "then: bye }", "t.yaml:5:", &["no way leads to the state 'number'"]),
            ("hang_up: enough", "hang_up: enough, say: [goodbye]", "t.yaml:10:", &["exactly one thing"]),
            ("into: number", "into: number, end: '##'", "t.yaml:5:", &["'##' is not a key"]),
            ("into: number", "into: user.extension", "t.yaml:5:", &["filled by the server"]),
            ("into: number", "into: number, min: 9, max: 3", "t.yaml:", &["`min` is at most `max`"]),
            ("start: hello", "strat: hello", "t.yaml:1:", &["'strat'", "start"]),
        ] {
            let error = parse(&GOOD.replacen(from, to, 1)).expect_err(to);
            assert!(error.contains(place) && words.iter().all(|word| error.contains(word)), "{to}:\n{error}");
        }
    }

    #[test]
    fn a_menu_needs_keys() {
        let error = parse("start: m\nstates:\n  m: { menu: { prompt: [hello] }, next: { failed: bye } }\n  bye: { hang_up: x }\n")
            .expect_err("no keys");
        assert!(error.contains("no keys"), "{error}");
    }
}
