//! Runs a flow for one call: what the caller and the server do goes in, what is to be done comes out. No sound, no clock.
//!
//! Fed with [`Machine::handle_start`], keys, ends of playbacks, answers and time, it says what to do in [`Action`]s. Each
//! question to the outside carries a [`Ticket`] and has a deadline; when that has passed the flow takes its
//! `unavailable` way, and an answer that comes after all is dropped. Not here: the directory, audio, lock-outs.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    collect::{self, Collector},
    flow::{Flow, Piece, StateId, Step, THEN, VARIABLES, Words},
    speech::Utterance,
};
use crate::model::{Extension, Keys, User};

/// A playback whose end is not told within this time is taken to have ended: the caller is not left in silence.
const PLAYBACK_MOST: Duration = Duration::from_secs(90);
/// States entered without anything happening in between: more is a circle in the flow.
const STEPS_MOST: u32 = 100;

/// Names one question, so that a late answer is known as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Play this instead of what plays now, and tell its end with the same number.
    Play {
        playback: u64,
        speech: Vec<Utterance>,
    },
    StopPlay,
    /// While true nothing keyed may be recorded.
    Blind(bool),
    /// So many keys were taken; for the timeline.
    Keyed {
        count: usize,
    },
    /// Check a log-in, answer by [`Machine::handle_login`].
    Authenticate {
        ticket: Ticket,
        number: Keys,
        pin: Keys,
        within: Duration,
    },
    /// Give the phone to this user, answer by [`Machine::handle_bound`].
    Bind {
        ticket: Ticket,
        user: User,
        within: Duration,
    },
    /// Give the call away. If that cannot be done: [`Machine::handle_transfer_failed`].
    Transfer {
        to: Extension,
    },
    /// The flow is over.
    HangUp {
        outcome: String,
    },
}

/// What the directory said, after the rules about attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginAnswer {
    /// With the extension that the user has or will have.
    Accepted(User),
    Refused,
    /// Too many attempts: not even asked.
    Locked,
    Unavailable,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindAnswer {
    Bound {
        extension: Extension,
        display_name: String,
    },
    /// The rules say no: the extension is somebody else's, or none is free.
    Refused,
    Unavailable,
}

/// What is known when the call comes in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `provisional` or `bound`: `device.state`.
    pub device_state: String,
    /// Its extension, if it has one: `device.extension`.
    pub device_extension: Option<Extension>,
}

/// One call in a flow.
pub struct Machine {
    flow: Arc<Flow>,
    variables: HashMap<String, Keys>,
    user: Option<User>,
    /// Refused log-ins in each state.
    refused: BTreeMap<StateId, u32>,
    state: StateId,
    doing: Doing,
    playback: Option<Playback>,
    blind: bool,
    /// Last playback and ticket given out.
    playbacks: u64,
    tickets: u64,
    steps: u32,
    ends: Option<Instant>,
    actions: VecDeque<Action>,
}

struct Playback {
    number: u64,
    given_up: Instant,
}

enum Doing {
    /// Not started yet.
    Nothing,
    Saying,
    Collecting {
        collector: Collector,
        tries: u32,
    },
    Choosing {
        tries: u32,
        deadline: Option<Instant>,
    },
    /// A question is out. Its answer waits for the end of what is being said.
    Awaiting {
        ticket: Ticket,
        deadline: Instant,
        outcome: Option<&'static str>,
    },
    Transferring,
    Over,
}

impl Machine {
    pub fn new(flow: Arc<Flow>, facts: Facts) -> Self {
        let mut variables = HashMap::from([("device.state".to_owned(), Keys::from(facts.device_state.as_str()))]);
        variables.extend(facts.device_extension.map(|e| ("device.extension".to_owned(), Keys::from(e.as_str()))));
        Self {
            state: flow.start,
            flow,
            variables,
            user: None,
            refused: BTreeMap::new(),
            doing: Doing::Nothing,
            playback: None,
            blind: false,
            playbacks: 0,
            tickets: 0,
            steps: 0,
            ends: None,
            actions: VecDeque::new(),
        }
    }

    /// The call is answered and audio can flow.
    pub fn handle_start(&mut self, now: Instant) {
        if matches!(self.doing, Doing::Nothing) {
            self.ends = Some(now + self.flow.limit);
            self.enter(now, self.flow.start);
        }
    }

    /// A key was pressed: `0`–`9`, `*`, `#` or `A`–`D`.
    pub fn handle_key(&mut self, now: Instant, key: char) {
        self.steps = 0;
        self.key(now, key);
    }

    /// A playback came to its end by itself.
    pub fn handle_playback_ended(&mut self, now: Instant, number: u64) {
        self.steps = 0;
        if self.playback.as_ref().is_some_and(|playback| playback.number == number) {
            self.playback = None;
            self.quiet(now);
        }
    }

    /// The directory answered. Late answers, and those to questions never asked, are dropped.
    pub fn handle_login(&mut self, now: Instant, ticket: Ticket, answer: LoginAnswer) {
        self.steps = 0;
        if !self.expects(ticket) {
            return;
        }
        let outcome = match answer {
            LoginAnswer::Accepted(user) => {
                self.user = Some(user);
                "accepted"
            }
            LoginAnswer::Refused => self.count_refused(),
            LoginAnswer::Locked => "locked",
            LoginAnswer::Unavailable => "unavailable",
        };
        self.answered(now, outcome);
    }

    /// The binding is stored, or is not. Late answers are dropped.
    pub fn handle_bound(&mut self, now: Instant, ticket: Ticket, answer: BindAnswer) {
        self.steps = 0;
        if !self.expects(ticket) {
            return;
        }
        let outcome = match answer {
            BindAnswer::Bound { extension, display_name } => {
                self.variables.insert("bound.extension".into(), Keys::from(extension.as_str()));
                if let Some(user) = &mut self.user {
                    user.extension = Some(extension);
                    user.display_name = display_name;
                }
                "bound"
            }
            BindAnswer::Refused => "refused",
            BindAnswer::Unavailable => "unavailable",
        };
        self.answered(now, outcome);
    }

    /// Nobody took the call over.
    pub fn handle_transfer_failed(&mut self, now: Instant) {
        self.steps = 0;
        if matches!(self.doing, Doing::Transferring) {
            self.leave(now, "failed");
        }
    }

    /// The caller is gone. Nothing more is asked for; a binding that was asked for stands.
    pub fn handle_hang_up(&mut self) {
        self.doing = Doing::Over;
        self.playback = None;
        self.ends = None;
        self.actions.clear();
    }

    /// Time has passed; call at [`Self::poll_timeout`]. Earlier is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.steps = 0;
        if self.ends.is_some_and(|ends| ends <= now) {
            return self.end("time limit");
        }
        if self.playback.as_ref().is_some_and(|playback| playback.given_up <= now) {
            self.playback = None;
            self.quiet(now);
        }
        match &mut self.doing {
            Doing::Collecting { collector, .. } => {
                collector.handle_timeout(now);
                self.collected(now);
            }
            Doing::Choosing { deadline: Some(deadline), .. } if *deadline <= now => self.choose_again(now, Why::Silent),
            Doing::Awaiting { deadline, outcome: None, .. } if *deadline <= now => self.answered(now, "unavailable"),
            _ => {}
        }
    }

    /// The next thing to do, oldest first. Drain to `None` after every `handle_*`.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called next; `None` once the flow is over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = match &self.doing {
            Doing::Collecting { collector, .. } => collector.poll_timeout(),
            Doing::Choosing { deadline, .. } => *deadline,
            Doing::Awaiting { deadline, outcome: None, .. } => Some(*deadline),
            _ => None,
        };
        [own, self.playback.as_ref().map(|p| p.given_up), self.ends].into_iter().flatten().min()
    }

    pub fn is_over(&self) -> bool {
        matches!(self.doing, Doing::Over)
    }

    /// Name of the state it is in, for logs and transcripts.
    pub fn state(&self) -> &str {
        self.flow.states.get(self.state).map_or("", |state| &state.name)
    }

    // --- states

    fn enter(&mut self, now: Instant, state: StateId) {
        self.state = state;
        self.steps += 1;
        if self.steps > STEPS_MOST {
            return self.end("the flow runs in a circle");
        }
        let flow = self.flow.clone();
        let Some(state) = flow.states.get(state) else { return self.end("the flow is broken") };
        match &state.step {
            Step::Say { pieces, .. } => {
                self.doing = Doing::Saying;
                if !self.play(now, [pieces]) {
                    self.leave(now, THEN);
                }
            }
            Step::Collect { wanted, words, secret, .. } => {
                self.set_blind(*secret);
                self.doing = Doing::Collecting { collector: Collector::new(wanted.clone()), tries: 1 };
                self.prompt(now, [&words.prompt]);
            }
            Step::Menu { words, .. } => {
                self.doing = Doing::Choosing { tries: 1, deadline: None };
                self.prompt(now, [&words.prompt]);
            }
            Step::Branch { on } => {
                let value = self.value(on);
                let outcome = Some(value.expose()).filter(|value| state.next.contains_key(*value)).unwrap_or("otherwise");
                self.leave(now, outcome);
            }
            Step::Authenticate { number, pin, wait, limit, .. } => {
                let (number, pin) = (self.value(number), self.value(pin));
                let ticket = self.ask(now, *limit, wait);
                self.actions.push_back(Action::Authenticate { ticket, number, pin, within: *limit });
            }
            Step::Bind { wait, limit } => match self.user.clone() {
                Some(user) => {
                    let ticket = self.ask(now, *limit, wait);
                    self.actions.push_back(Action::Bind { ticket, user, within: *limit });
                }
                None => self.leave(now, "refused"),
            },
            Step::Transfer { to } => {
                self.doing = Doing::Transferring;
                self.actions.push_back(Action::Transfer { to: to.clone() });
            }
            Step::HangUp { outcome } => self.end(outcome),
        }
    }

    /// Goes where this outcome leads.
    fn leave(&mut self, now: Instant, outcome: &str) {
        self.set_blind(false);
        let next = self.flow.states.get(self.state).and_then(|state| state.next.get(outcome)).copied();
        match next {
            Some(next) => self.enter(now, next),
            None => self.end("the flow is broken"),
        }
    }

    fn end(&mut self, outcome: &str) {
        self.stop_playing();
        self.set_blind(false);
        self.doing = Doing::Over;
        self.ends = None;
        self.actions.push_back(Action::HangUp { outcome: outcome.to_owned() });
    }

    // --- keys

    fn key(&mut self, now: Instant, key: char) {
        let flow = self.flow.clone();
        let step = flow.states.get(self.state).map(|state| &state.step);
        match (&mut self.doing, step) {
            (Doing::Saying, Some(Step::Say { barge_in: true, .. })) => {
                // An impatient caller's key belongs to what is asked next.
                self.stop_playing();
                self.leave(now, THEN);
                self.key(now, key);
            }
            (Doing::Collecting { collector, .. }, _) => {
                collector.handle_key(now, key);
                self.collected(now);
            }
            (Doing::Choosing { .. }, Some(Step::Menu { keys, .. })) => {
                self.stop_playing();
                self.actions.push_back(Action::Keyed { count: 1 });
                if keys.contains(&key) { self.leave(now, &key.to_string()) } else { self.choose_again(now, Why::Invalid) }
            }
            _ => {}
        }
    }

    fn collected(&mut self, now: Instant) {
        let Doing::Collecting { collector, .. } = &mut self.doing else { return };
        let mut done = None;
        let mut stop = false;
        while let Some(action) = collector.poll_action() {
            match action {
                collect::Action::StopPrompt => stop = true,
                collect::Action::Done(result) => done = Some(result),
            }
        }
        if stop {
            self.stop_playing();
        }
        match done {
            None => {}
            Some(Ok(keys)) => {
                self.actions.push_back(Action::Keyed { count: keys.len() });
                if let Some(Step::Collect { into, .. }) = self.flow.states.get(self.state).map(|state| &state.step) {
                    self.variables.insert(into.clone(), keys);
                }
                self.leave(now, "done");
            }
            Some(Err(collect::Error::Restart)) => self.leave(now, "star"),
            Some(Err(collect::Error::Silence(_))) => self.collect_again(now, Why::Silent),
            Some(Err(collect::Error::TooFew { .. })) => self.collect_again(now, Why::Invalid),
        }
    }

    fn collect_again(&mut self, now: Instant, why: Why) {
        let flow = self.flow.clone();
        let Some(Step::Collect { wanted, words, .. }) = flow.states.get(self.state).map(|state| &state.step) else { return };
        let Doing::Collecting { collector, tries } = &mut self.doing else { return };
        if *tries >= words.tries {
            return self.leave(now, "failed");
        }
        *tries += 1;
        *collector = Collector::new(wanted.clone());
        self.prompt(now, [why.words(words), &words.prompt]);
    }

    fn choose_again(&mut self, now: Instant, why: Why) {
        let flow = self.flow.clone();
        let Some(Step::Menu { words, .. }) = flow.states.get(self.state).map(|state| &state.step) else { return };
        let Doing::Choosing { tries, deadline } = &mut self.doing else { return };
        if *tries >= words.tries {
            return self.leave(now, "failed");
        }
        *tries += 1;
        *deadline = None;
        self.prompt(now, [why.words(words), &words.prompt]);
    }

    // --- questions to the outside

    fn ask(&mut self, now: Instant, limit: Duration, wait: &[Piece]) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.doing = Doing::Awaiting { ticket, deadline: now + limit, outcome: None };
        self.play(now, [wait]);
        ticket
    }

    fn expects(&self, wanted: Ticket) -> bool {
        matches!(self.doing, Doing::Awaiting { ticket, outcome: None, .. } if ticket == wanted)
    }

    /// Goes on, when what is being said has ended: nobody is interrupted by an answer.
    fn answered(&mut self, now: Instant, result: &'static str) {
        if self.playback.is_none() {
            return self.leave(now, result);
        }
        if let Doing::Awaiting { outcome, .. } = &mut self.doing {
            *outcome = Some(result);
        }
    }

    fn count_refused(&mut self) -> &'static str {
        let count = self.refused.entry(self.state).or_default();
        *count += 1;
        match self.flow.states.get(self.state).map(|state| &state.step) {
            Some(Step::Authenticate { tries, .. }) if *count >= *tries => "exhausted",
            _ => "refused",
        }
    }

    // --- speech

    /// Plays what asks for input; without words the caller is waited for at once.
    fn prompt<'p>(&mut self, now: Instant, pieces: impl IntoIterator<Item = &'p Vec<Piece>>) {
        if !self.play(now, pieces) {
            self.quiet(now);
        }
    }

    /// `false`: there was nothing to say.
    fn play<'p, P: AsRef<[Piece]> + ?Sized + 'p>(&mut self, now: Instant, pieces: impl IntoIterator<Item = &'p P>) -> bool {
        let speech: Vec<Utterance> = pieces.into_iter().flat_map(AsRef::as_ref).filter_map(|piece| self.utterance(piece)).collect();
        if speech.is_empty() {
            return false;
        }
        self.playbacks += 1;
        self.playback = Some(Playback { number: self.playbacks, given_up: now + PLAYBACK_MOST });
        self.actions.push_back(Action::Play { playback: self.playbacks, speech });
        true
    }

    fn stop_playing(&mut self) {
        if self.playback.take().is_some() {
            self.actions.push_back(Action::StopPlay);
        }
    }

    /// Nothing plays any more.
    fn quiet(&mut self, now: Instant) {
        let flow = self.flow.clone();
        match &mut self.doing {
            Doing::Saying => self.leave(now, THEN),
            Doing::Collecting { collector, .. } => collector.handle_prompt_ended(now),
            Doing::Choosing { deadline, .. } => {
                if let Some(Step::Menu { first, .. }) = flow.states.get(self.state).map(|state| &state.step) {
                    *deadline = Some(now + *first);
                }
            }
            Doing::Awaiting { outcome: Some(outcome), .. } => {
                let outcome = *outcome;
                self.leave(now, outcome);
            }
            Doing::Awaiting { outcome: None, .. } | Doing::Nothing | Doing::Transferring | Doing::Over => {}
        }
    }

    fn utterance(&self, piece: &Piece) -> Option<Utterance> {
        let value = |name: &str| Some(self.value(name)).filter(|value| !value.is_empty());
        match piece {
            Piece::Prompt(id) => Some(Utterance::Prompt(id.clone())),
            // What was keyed in may be read back to its caller, and to nobody else.
            Piece::Digits(name) | Piece::Number(name) | Piece::Name(name) if !VARIABLES.contains(&name.as_str()) => {
                value(name).map(Utterance::Keyed)
            }
            Piece::Digits(name) => value(name).map(|value| Utterance::Digits(value.expose().to_owned())),
            Piece::Number(name) => value(name).and_then(|value| value.expose().parse().ok()).map(Utterance::Number),
            Piece::Name(_) => self.user.as_ref().map(|user| Utterance::Name(user.display_name.clone())),
            Piece::Pause(pause) => Some(Utterance::Pause(*pause)),
        }
    }

    /// A variable's value, empty if it has none.
    fn value(&self, name: &str) -> Keys {
        match (name, &self.user) {
            ("user.display_name" | "bound.display_name", Some(user)) => Keys::from(user.display_name.as_str()),
            ("user.extension", Some(user)) => user.extension.as_ref().map(|e| Keys::from(e.as_str())).unwrap_or_default(),
            _ => self.variables.get(name).cloned().unwrap_or_default(),
        }
    }

    fn set_blind(&mut self, blind: bool) {
        if self.blind != blind {
            self.blind = blind;
            self.actions.push_back(Action::Blind(blind));
        }
    }
}

enum Why {
    Silent,
    Invalid,
}

impl Why {
    fn words(self, words: &Words) -> &Vec<Piece> {
        match self {
            Self::Silent => &words.silent,
            Self::Invalid => &words.invalid,
        }
    }
}
