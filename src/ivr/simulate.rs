//! Rehearses a flow offline: a scripted caller, scripted answers, virtual time, a transcript. Pure.
//!
//! The same machine runs as in a call; only sound, directory and binding are played. A script has one step a line (or
//! parted by `;`):
//!
//! ```text
//! directory accepted Ada Lovelace 2041     what the directory will answer: accepted NAME [EXTENSION], refused, locked,
//! directory refused after 3s               unavailable, silent. Several lines answer one question each, the last all others
//! bind bound 2041                          likewise: bound [EXTENSION], refused, unavailable, silent
//! listen                                   until nothing is being said
//! wait 5s                                  or 300ms
//! keys 1001#                               one after the other, 150 ms apart
//! hang up
//! # a line that begins so is for the reader
//! ```
//!
//! A caller whose script has ended says nothing more, and the rehearsal goes on until the flow ends.

use std::{
    collections::VecDeque,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Serialize, Serializer};

use super::{
    flow::Flow,
    machine::{Action, BindAnswer, Facts, LoginAnswer, Machine, Ticket},
    speech::Utterance,
};
use crate::{
    model::User,
    yaml::{self, Fault},
};

/// Between two keys of one `keys` step.
const KEY_GAP: Duration = Duration::from_millis(150);
/// Steps of one rehearsal, however the flow is written.
const STEPS_MOST: usize = 100_000;

/// What caller and server will do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Script {
    caller: Vec<Step>,
    logins: VecDeque<(LoginPlan, Duration)>,
    binds: VecDeque<(BindPlan, Duration)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Keys(String),
    Wait(Duration),
    Listen,
    HangUp,
}

#[derive(Clone, Debug, PartialEq)]
enum LoginPlan {
    Answer(LoginAnswer),
    Silent,
}

#[derive(Clone, Debug, PartialEq)]
enum BindPlan {
    /// With the extension of the user, or this one.
    Bound(Option<String>),
    Answer(BindAnswer),
    Silent,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Since the call was answered; in JSON as `at_secs`.
    #[serde(rename = "at_secs", serialize_with = "secs")]
    pub at: Duration,
    #[serde(flatten)]
    pub what: What,
}

fn secs<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "what", content = "detail", rename_all = "snake_case")]
pub enum What {
    /// The server speaks.
    Says(String),
    /// It was interrupted.
    Stops,
    /// The caller presses this key.
    Key(char),
    AsksDirectory,
    Directory(&'static str),
    Binds(String),
    Bound(&'static str),
    Transfers(String),
    CallerHangsUp,
    /// The flow is over, with this outcome.
    HangsUp(String),
}

impl Script {
    /// Reads a script; faults name line and what is possible.
    pub fn parse(file: &str, text: &str) -> Result<Self, Fault> {
        let mut script = Self::default();
        for (number, line) in text.lines().enumerate() {
            for step in line.split(';') {
                let step = step.trim();
                if !step.is_empty() && !step.starts_with('#') {
                    script.add(step).map_err(|(message, hint)| Fault { hint, ..Fault::at(file, text, number as u64 + 1, 1, message) })?;
                }
            }
        }
        Ok(script)
    }

    fn add(&mut self, step: &str) -> Result<(), (String, Option<String>)> {
        let (verb, rest) = step.split_once(' ').unwrap_or((step, ""));
        let rest = rest.trim();
        match verb {
            "keys" if !rest.is_empty() && rest.chars().all(|c| c.is_ascii_digit() || "*#ABCD".contains(c)) => {
                self.caller.push(Step::Keys(rest.to_owned()));
            }
            "keys" => return Err((format!("'{rest}' are not keys"), Some("keys 1001#".into()))),
            "wait" => self.caller.push(Step::Wait(duration(rest)?)),
            "listen" => self.caller.push(Step::Listen),
            "hang" | "hangup" => self.caller.push(Step::HangUp),
            "directory" => {
                let (answer, after) = delayed(rest)?;
                self.logins.push_back((login_plan(answer)?, after));
            }
            "bind" => {
                let (answer, after) = delayed(rest)?;
                self.binds.push_back((bind_plan(answer)?, after));
            }
            other => {
                let known = ["keys", "wait", "listen", "hang up", "directory", "bind"];
                let hint = yaml::closest(other, known)
                    .map_or_else(|| format!("possible: {}", known.join(", ")), |k| format!("did you mean '{k}'?"));
                return Err((format!("'{other}' is no step"), Some(hint)));
            }
        }
        Ok(())
    }
}

type StepFault = (String, Option<String>);

fn duration(text: &str) -> Result<Duration, StepFault> {
    let fault = || (format!("'{text}' is no time"), Some("5s or 300ms".to_owned()));
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = digits.parse().map_err(|_| fault())?;
    match unit {
        "s" => Ok(Duration::from_secs(number.min(86_400))),
        "ms" => Ok(Duration::from_millis(number.min(86_400_000))),
        _ => Err(fault()),
    }
}

/// `refused after 3s` → (`refused`, 3 s)
fn delayed(text: &str) -> Result<(&str, Duration), StepFault> {
    match text.rsplit_once(" after ") {
        Some((answer, after)) => Ok((answer.trim(), duration(after.trim())?)),
        None => Ok((text, Duration::from_millis(300))),
    }
}

fn login_plan(text: &str) -> Result<LoginPlan, StepFault> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    Ok(LoginPlan::Answer(match word {
        "accepted" => {
            let mut words: Vec<&str> = rest.split_whitespace().collect();
            let extension = words.last().and_then(|last| last.parse().ok());
            if extension.is_some() {
                words.pop();
            }
            LoginAnswer::Accepted(user(&words.join(" "), extension))
        }
        "refused" => LoginAnswer::Refused,
        "locked" => LoginAnswer::Locked,
        "unavailable" => LoginAnswer::Unavailable,
        "silent" => return Ok(LoginPlan::Silent),
        other => {
            return Err((
                format!("a directory cannot answer '{other}'"),
                Some("accepted NAME [EXTENSION], refused, locked, unavailable, silent".into()),
            ));
        }
    }))
}

fn bind_plan(text: &str) -> Result<BindPlan, StepFault> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    Ok(match word {
        "bound" => BindPlan::Bound(Some(rest.trim().to_owned()).filter(|r| !r.is_empty())),
        "refused" => BindPlan::Answer(BindAnswer::Refused),
        "unavailable" => BindPlan::Answer(BindAnswer::Unavailable),
        "silent" => BindPlan::Silent,
        other => {
            return Err((format!("binding cannot end with '{other}'"), Some("bound [EXTENSION], refused, unavailable, silent".into())));
        }
    })
}

fn user(name: &str, extension: Option<crate::model::Extension>) -> User {
    User { id: "rehearsal".into(), login: String::new(), display_name: name.to_owned(), mail: None, extension, groups: Vec::new() }
}

/// How the sound is played in a rehearsal.
pub struct Stage<'a> {
    /// The words of a prompt.
    pub text: &'a dyn Fn(&str) -> Option<String>,
    /// How long something takes to say.
    pub length: &'a dyn Fn(&Utterance) -> Duration,
}

/// Runs the script against the flow. `start` is any instant; only differences count.
pub fn rehearse(flow: Arc<Flow>, facts: Facts, script: &Script, stage: &Stage<'_>, start: Instant) -> Vec<Line> {
    let mut rehearsal = Rehearsal {
        machine: Machine::new(flow, facts),
        stage,
        script: script.clone(),
        start,
        now: start,
        caller: script.caller.clone().into(),
        caller_at: start,
        playing: None,
        answers: Vec::new(),
        lines: Vec::new(),
    };
    rehearsal.machine.handle_start(start);
    rehearsal.perform();
    for _ in 0..STEPS_MOST {
        if rehearsal.machine.is_over() || !rehearsal.advance() {
            break;
        }
    }
    rehearsal.lines
}

struct Rehearsal<'a> {
    machine: Machine,
    stage: &'a Stage<'a>,
    script: Script,
    start: Instant,
    now: Instant,
    caller: VecDeque<Step>,
    caller_at: Instant,
    playing: Option<(u64, Instant)>,
    answers: Vec<(Instant, Answer)>,
    lines: Vec<Line>,
}

#[derive(Clone)]
enum Answer {
    Login(Ticket, LoginAnswer),
    Bound(Ticket, BindAnswer),
}

impl Rehearsal<'_> {
    fn note(&mut self, what: What) {
        self.lines.push(Line { at: self.now - self.start, what });
    }

    /// Goes to the next moment at which something happens. `false`: nothing ever will.
    fn advance(&mut self) -> bool {
        let caller = match self.caller.front() {
            None => None,
            Some(Step::Listen) if self.playing.is_some() => None,
            Some(_) => Some(self.caller_at.max(self.now)),
        };
        let answer = self.answers.iter().map(|(at, _)| *at).min();
        let times = [caller, answer, self.playing.map(|(_, at)| at), self.machine.poll_timeout()];
        let Some(next) = times.into_iter().flatten().min() else { return false };
        self.now = next.max(self.now);
        if let Some((number, _)) = self.playing.filter(|(_, at)| *at <= self.now) {
            self.playing = None;
            self.machine.handle_playback_ended(self.now, number);
        } else if let Some(place) = self.answers.iter().position(|(at, _)| *at <= self.now) {
            let (_, answer) = self.answers.remove(place);
            self.answer(answer);
        } else if caller.is_some_and(|at| at <= self.now) {
            self.step();
        } else {
            self.machine.handle_timeout(self.now);
        }
        self.perform();
        true
    }

    /// The caller's next step.
    fn step(&mut self) {
        match self.caller.pop_front() {
            Some(Step::Keys(keys)) => {
                let mut keys = keys.chars();
                if let Some(key) = keys.next() {
                    self.note(What::Key(key));
                    self.machine.handle_key(self.now, key);
                    let rest: String = keys.collect();
                    if !rest.is_empty() {
                        self.caller.push_front(Step::Keys(rest));
                    }
                }
                self.caller_at = self.now + KEY_GAP;
            }
            Some(Step::Wait(time)) => self.caller_at = self.now + time,
            Some(Step::Listen) | None => {}
            Some(Step::HangUp) => {
                self.note(What::CallerHangsUp);
                self.machine.handle_hang_up();
            }
        }
    }

    fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Login(ticket, answer) => {
                self.note(What::Directory(match &answer {
                    LoginAnswer::Accepted(_) => "accepted",
                    LoginAnswer::Refused => "refused",
                    LoginAnswer::Locked => "locked",
                    LoginAnswer::Unavailable => "unavailable",
                }));
                self.machine.handle_login(self.now, ticket, answer);
            }
            Answer::Bound(ticket, answer) => {
                self.note(What::Bound(match &answer {
                    BindAnswer::Bound { .. } => "bound",
                    BindAnswer::Refused => "refused",
                    BindAnswer::Unavailable => "unavailable",
                }));
                self.machine.handle_bound(self.now, ticket, answer);
            }
        }
    }

    /// Does what the machine wants.
    fn perform(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Play { playback, speech } => {
                    let words: Vec<String> = speech.iter().map(|u| u.text(self.stage.text)).filter(|text| !text.is_empty()).collect();
                    let length: Duration = speech.iter().map(|u| (self.stage.length)(u)).sum();
                    self.note(What::Says(words.join(" ")));
                    self.playing = Some((playback, self.now + length));
                }
                Action::StopPlay => {
                    self.playing = None;
                    self.note(What::Stops);
                }
                Action::Blind(_) | Action::Keyed { .. } => {}
                Action::Authenticate { ticket, .. } => {
                    self.note(What::AsksDirectory);
                    let plan = next(&mut self.script.logins);
                    let default = LoginPlan::Answer(LoginAnswer::Accepted(user("Ada Lovelace", "2041".parse().ok())));
                    let (plan, after) = plan.unwrap_or((default, Duration::from_millis(300)));
                    if let LoginPlan::Answer(answer) = plan {
                        self.answers.push((self.now + after, Answer::Login(ticket, answer)));
                    }
                }
                Action::Bind { ticket, user, .. } => {
                    self.note(What::Binds(user.display_name.clone()));
                    let (plan, after) = next(&mut self.script.binds).unwrap_or((BindPlan::Bound(None), Duration::from_millis(300)));
                    let answer = match plan {
                        BindPlan::Silent => continue,
                        BindPlan::Answer(answer) => answer,
                        BindPlan::Bound(extension) => match extension.and_then(|e| e.parse().ok()).or(user.extension) {
                            Some(extension) => BindAnswer::Bound { extension, display_name: user.display_name },
                            None => BindAnswer::Refused,
                        },
                    };
                    self.answers.push((self.now + after, Answer::Bound(ticket, answer)));
                }
                Action::Transfer { to } => {
                    self.note(What::Transfers(to.to_string()));
                    self.machine.handle_hang_up();
                }
                Action::HangUp { outcome } => self.note(What::HangsUp(outcome)),
            }
        }
    }
}

/// The next of several answers; the last one stays.
fn next<T: Clone>(plans: &mut VecDeque<T>) -> Option<T> {
    if plans.len() > 1 { plans.pop_front() } else { plans.front().cloned() }
}

/// About as long as a voice needs for this text, where no recording is at hand.
pub fn length_of_text(text: &str) -> Duration {
    Duration::from_millis(65) * u32::try_from(text.chars().count()).unwrap_or(u32::MAX)
}

/// The transcript as people read it. Keys in a row share a line.
pub fn transcript(lines: &[Line]) -> String {
    let mut out = String::new();
    let mut keys: Option<(Duration, String)> = None;
    for line in lines {
        if let What::Key(key) = line.what {
            keys.get_or_insert_with(|| (line.at, String::new())).1.push(key);
            continue;
        }
        // A prompt that its first key stops does not part the keys.
        if line.what == What::Stops && keys.is_some() {
            continue;
        }
        if let Some((at, keys)) = keys.take() {
            out += &format!("{:>6.1}s  caller  keys {keys}\n", at.as_secs_f64());
        }
        out += &format!("{:>6.1}s  {}\n", line.at.as_secs_f64(), line.what);
    }
    if let Some((at, keys)) = keys {
        out += &format!("{:>6.1}s  caller  keys {keys}\n", at.as_secs_f64());
    }
    out
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Says(text) => write!(f, "server  \"{text}\""),
            Self::Stops => write!(f, "server  falls silent"),
            Self::Key(key) => write!(f, "caller  key {key}"),
            Self::AsksDirectory => write!(f, "server  asks the directory"),
            Self::Directory(answer) => write!(f, "server  the directory says: {answer}"),
            Self::Binds(name) => write!(f, "server  binds the phone to {name}"),
            Self::Bound(answer) => write!(f, "server  binding: {answer}"),
            Self::Transfers(to) => write!(f, "server  gives the call to {to}"),
            Self::CallerHangsUp => write!(f, "caller  hangs up"),
            Self::HangsUp(outcome) => write!(f, "server  hangs up: {outcome}"),
        }
    }
}
