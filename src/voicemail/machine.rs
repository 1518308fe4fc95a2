//! What a caller of voicemail hears, and what the keys do. No sound, no clock, no disk.
//!
//! Three machines with one vocabulary: [`Leave`] takes a message from somebody who could not be put through, [`SignIn`] asks
//! who wants to listen, [`Listen`] plays an owner what is there. Fed with keys, ends of playbacks, sounds and time, they
//! answer in [`Action`]s.
//!
//! ```text
//!  SignIn   number? ──#──► PIN? ──#──► asks ──yes──► Listen; no ──► number? … ──► over
//!  Leave    greeting + beep ──end, #──► recording ──#, silence, too long──► thanks ──► over
//!  Listen   how many ──► message ──end──► which key? ──2 3 5──► the next one … ──► no more ──► over
//! ```
//! Not here: who may listen (`worker.rs`), files.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    ivr::speech::Utterance,
    media::Sound,
    model::{Keys, Timestamp},
    store::VoiceMessage,
};

/// A playback whose end is not told within this time is taken to have ended.
const PLAYBACK_MOST: Duration = Duration::from_secs(600);
/// How long an owner may think about which key to press; then the choice is said again.
const THINKING: Duration = Duration::from_secs(6);
/// So often; then the call is over.
const REMINDERS: u32 = 2;
/// Keys of a number or of a PIN.
const MOST_KEYS: usize = 32;
/// Wrong PINs in one call.
const TRIES: u32 = 3;
/// A greeting of one's own.
const LONGEST_GREETING: Duration = Duration::from_secs(60);

/// A piece of what is played.
#[derive(Clone, Debug, PartialEq)]
pub enum Say {
    Words(Utterance),
    /// The owner's own greeting, or the office's if there is none.
    Greeting,
    Beep,
    /// A message, by its id.
    Message(String),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Instead of what plays now; its end is told with the same number.
    Play {
        playback: u64,
        what: Vec<Say>,
    },
    StopPlay,
    /// From now on what the caller says is kept, until [`Self::StopRecording`] or the end of the call.
    Record(Recording),
    /// Answered by [`Leave::handle_kept`] or [`Listen::handle_kept`] once it is on disk, or thrown away as too short.
    StopRecording,
    /// Are they whose mailbox that is? Answered by [`SignIn::handle_answer`].
    LogIn {
        number: Keys,
        pin: Keys,
    },
    MarkHeard(String),
    Delete(String),
    /// Rings whoever left the message; if nobody takes it: [`Listen::handle_not_taken`].
    CallBack {
        to: String,
    },
    HangUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recording {
    Message,
    Greeting,
}

/// What became of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    Stored,
    TooShort,
    /// The disk does not take it.
    Failed,
}

/// How long a message may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    pub longest: Duration,
    /// So much quiet ends a message.
    pub silence: Duration,
}

/// Playbacks and their numbers.
#[derive(Default)]
struct Voice {
    last: u64,
    playing: Option<u64>,
    actions: VecDeque<Action>,
}

impl Voice {
    fn play(&mut self, what: Vec<Say>) {
        self.last += 1;
        self.playing = Some(self.last);
        self.actions.push_back(Action::Play { playback: self.last, what });
    }

    fn stop(&mut self) {
        if self.playing.take().is_some() {
            self.actions.push_back(Action::StopPlay);
        }
    }

    /// Whether it is the end of what plays now.
    fn ended(&mut self, playback: u64) -> bool {
        self.playing.take_if(|playing| *playing == playback).is_some()
    }
}

fn prompt(id: &str) -> Say {
    Say::Words(Utterance::Prompt(id.to_owned()))
}

// --- leaving a message

pub struct Leave {
    voice: Voice,
    lengths: Lengths,
    state: Leaving,
    deadline: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    Greeting,
    /// Until when at the latest.
    Recording {
        until: Instant,
    },
    /// The disk has it.
    Storing,
    Goodbye,
}

impl Leave {
    /// `full`: there is no room for another message.
    pub fn new(now: Instant, lengths: Lengths, full: bool) -> Self {
        let mut voice = Voice::default();
        voice.play(if full { vec![prompt("vm-full")] } else { vec![Say::Greeting, Say::Beep] });
        let state = if full { Leaving::Goodbye } else { Leaving::Greeting };
        Self { voice, lengths, state, deadline: Some(now + PLAYBACK_MOST) }
    }

    /// `#` skips the greeting and ends the message. Others mean nothing: a caller may lean on the phone.
    pub fn handle_key(&mut self, now: Instant, key: char) {
        match (self.state, key) {
            (Leaving::Greeting, '#') => {
                // The beep only.
                self.voice.play(vec![Say::Beep]);
                self.deadline = Some(now + PLAYBACK_MOST);
            }
            (Leaving::Recording { .. }, '#') => self.store(),
            _ => {}
        }
    }

    pub fn handle_playback_ended(&mut self, now: Instant, playback: u64) {
        if !self.voice.ended(playback) {
            return;
        }
        match self.state {
            Leaving::Greeting => {
                let until = now + self.lengths.longest;
                self.state = Leaving::Recording { until };
                // Whoever says nothing at all is not waited for.
                self.deadline = Some((now + self.lengths.silence).min(until));
                self.voice.actions.push_back(Action::Record(Recording::Message));
            }
            Leaving::Goodbye => self.hang_up(),
            Leaving::Recording { .. } | Leaving::Storing => {}
        }
    }

    /// What the caller sounds like from now on.
    pub fn handle_sound(&mut self, now: Instant, sound: Sound) {
        if let Leaving::Recording { until } = self.state {
            self.deadline = Some(if sound == Sound::Silence { (now + self.lengths.silence).min(until) } else { until });
        }
    }

    pub fn handle_kept(&mut self, now: Instant, kept: Kept) {
        if self.state == Leaving::Storing {
            self.state = Leaving::Goodbye;
            self.deadline = Some(now + PLAYBACK_MOST);
            self.voice.play(vec![prompt(match kept {
                Kept::Stored => "vm-thank-you",
                Kept::TooShort => "vm-too-short",
                Kept::Failed => "vm-failed",
            })]);
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.take_if(|at| *at <= now).is_none() {
            return;
        }
        match self.state {
            Leaving::Greeting => {
                let playing = self.voice.playing.unwrap_or(0);
                self.handle_playback_ended(now, playing);
            }
            Leaving::Recording { .. } => self.store(),
            Leaving::Storing => {}
            Leaving::Goodbye => self.hang_up(),
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.voice.actions.pop_front()
    }

    fn store(&mut self) {
        self.state = Leaving::Storing;
        self.deadline = None;
        self.voice.actions.push_back(Action::StopRecording);
    }

    fn hang_up(&mut self) {
        self.deadline = None;
        self.voice.actions.push_back(Action::HangUp);
    }
}

// --- who wants to listen

pub struct SignIn {
    voice: Voice,
    keyed: String,
    number: Option<String>,
    state: Signing,
    refused: u32,
    deadline: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signing {
    Keys,
    Asking,
    Goodbye,
}

/// What the directory says of a log-in; who is accepted goes on to [`Listen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Wrong,
    Locked,
    Unavailable,
}

impl SignIn {
    pub fn new(now: Instant) -> Self {
        let mut new =
            Self { voice: Voice::default(), keyed: String::new(), number: None, state: Signing::Keys, refused: 0, deadline: None };
        new.ask(now, vec![prompt("ask-number")]);
        new
    }

    pub fn handle_key(&mut self, now: Instant, key: char) {
        if self.state != Signing::Keys {
            return;
        }
        self.voice.stop();
        self.deadline = Some(now + THINKING);
        match key {
            '#' => self.keyed(now),
            '*' => self.keyed.clear(),
            key if self.keyed.len() < MOST_KEYS => self.keyed.push(key),
            _ => {}
        }
    }

    fn keyed(&mut self, now: Instant) {
        let keyed = std::mem::take(&mut self.keyed);
        match self.number.take() {
            _ if keyed.is_empty() => {
                self.number = None;
                self.ask(now, vec![prompt("too-short"), prompt("ask-number")]);
            }
            None => {
                self.number = Some(keyed);
                self.ask(now, vec![prompt("ask-pin")]);
            }
            Some(number) => {
                self.state = Signing::Asking;
                self.deadline = None;
                self.voice.actions.push_back(Action::LogIn { number: Keys::from(number.as_str()), pin: Keys::from(keyed.as_str()) });
            }
        }
    }

    pub fn handle_answer(&mut self, now: Instant, refusal: Refusal) {
        if self.state != Signing::Asking {
            return;
        }
        self.refused += 1;
        match refusal {
            Refusal::Wrong if self.refused < TRIES => self.ask(now, vec![prompt("not-right"), prompt("ask-number")]),
            Refusal::Wrong => self.goodbye(now, "not-right-enough"),
            Refusal::Locked => self.goodbye(now, "locked"),
            Refusal::Unavailable => self.goodbye(now, "directory-unavailable"),
        }
    }

    pub fn handle_playback_ended(&mut self, now: Instant, playback: u64) {
        if !self.voice.ended(playback) {
            return;
        }
        match self.state {
            Signing::Keys => self.deadline = Some(now + THINKING),
            Signing::Goodbye => self.voice.actions.push_back(Action::HangUp),
            Signing::Asking => {}
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.take_if(|at| *at <= now).is_none() {
            return;
        }
        match self.state {
            // Some do not know about #.
            Signing::Keys if !self.keyed.is_empty() => self.keyed(now),
            Signing::Keys => self.goodbye(now, "goodbye"),
            Signing::Goodbye => self.voice.actions.push_back(Action::HangUp),
            Signing::Asking => {}
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.voice.actions.pop_front()
    }

    fn ask(&mut self, now: Instant, what: Vec<Say>) {
        self.state = Signing::Keys;
        self.deadline = Some(now + PLAYBACK_MOST);
        self.voice.play(what);
    }

    fn goodbye(&mut self, now: Instant, what: &str) {
        self.state = Signing::Goodbye;
        self.deadline = Some(now + PLAYBACK_MOST);
        self.voice.play(vec![prompt(what)]);
    }
}

// --- listening

pub struct Listen {
    voice: Voice,
    messages: Vec<Heard>,
    /// Which is heard now.
    at: usize,
    state: Listening,
    reminders: u32,
    deadline: Option<Instant>,
}

struct Heard {
    message: VoiceMessage,
    deleted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listening {
    /// How many there are; then the first one, if there is one.
    Counts,
    Message,
    /// Which key?
    Choice,
    /// What a key has done is said; then the next message.
    Done,
    CallingBack,
    /// "Speak after the tone".
    GreetingAsked,
    RecordingGreeting,
    StoringGreeting,
    Goodbye,
}

impl Listen {
    /// `messages` in the order in which they are heard.
    pub fn new(now: Instant, messages: Vec<VoiceMessage>) -> Self {
        let mut voice = Voice::default();
        let new = messages.iter().filter(|message| message.heard.is_none()).count();
        voice.play(counts(new, messages.len() - new));
        let messages = messages.into_iter().map(|message| Heard { message, deleted: false }).collect();
        Self { voice, messages, at: 0, state: Listening::Counts, reminders: 0, deadline: Some(now + PLAYBACK_MOST) }
    }

    pub fn handle_key(&mut self, now: Instant, key: char) {
        self.reminders = 0;
        match self.state {
            Listening::Goodbye | Listening::StoringGreeting | Listening::CallingBack => return,
            Listening::RecordingGreeting => {
                if key == '#' {
                    self.store_greeting();
                }
                return;
            }
            _ => {}
        }
        let here = self.messages.get(self.at).filter(|here| !here.deleted).map(|here| here.message.clone());
        match (key, here) {
            ('*', _) => self.goodbye(now, Vec::new()),
            ('9', _) => self.say(now, Listening::GreetingAsked, vec![prompt("vm-record-greeting"), Say::Beep]),
            ('1', Some(_)) => self.play_message(now),
            ('2', Some(message)) => {
                self.mark_heard(&message.id);
                self.done(now, "vm-saved");
            }
            ('3', Some(message)) => {
                self.voice.actions.push_back(Action::Delete(message.id));
                if let Some(here) = self.messages.get_mut(self.at) {
                    here.deleted = true;
                }
                self.done(now, "vm-deleted");
            }
            ('4', Some(message)) if can_be_called(&message.from) => {
                self.mark_heard(&message.id);
                self.voice.stop();
                self.state = Listening::CallingBack;
                self.deadline = None;
                self.voice.actions.push_back(Action::CallBack { to: message.from });
            }
            ('4', Some(_)) => self.say(now, Listening::Choice, vec![prompt("vm-no-number")]),
            ('5' | '#', Some(_)) => self.next(now),
            _ => self.say(now, Listening::Choice, vec![prompt("vm-help")]),
        }
    }

    pub fn handle_playback_ended(&mut self, now: Instant, playback: u64) {
        if !self.voice.ended(playback) {
            return;
        }
        match self.state {
            Listening::Counts if self.messages.is_empty() => self.think(now),
            Listening::Counts => self.play_message(now),
            Listening::Message => {
                // It was heard to its end.
                if let Some(id) = self.messages.get(self.at).map(|here| here.message.id.clone()) {
                    self.mark_heard(&id);
                }
                self.say(now, Listening::Choice, vec![prompt("vm-choice")]);
            }
            Listening::Choice => self.think(now),
            Listening::Done => self.next(now),
            Listening::GreetingAsked => {
                self.state = Listening::RecordingGreeting;
                self.deadline = Some(now + LONGEST_GREETING);
                self.voice.actions.push_back(Action::Record(Recording::Greeting));
            }
            Listening::Goodbye => self.voice.actions.push_back(Action::HangUp),
            Listening::CallingBack | Listening::RecordingGreeting | Listening::StoringGreeting => {}
        }
    }

    pub fn handle_kept(&mut self, now: Instant, kept: Kept) {
        if self.state == Listening::StoringGreeting {
            let said = match kept {
                Kept::Stored => "vm-greeting-saved",
                Kept::TooShort => "vm-too-short",
                Kept::Failed => "vm-failed",
            };
            self.say(now, Listening::Choice, vec![prompt(said), prompt("vm-help")]);
        }
    }

    /// Nobody took the call back.
    pub fn handle_not_taken(&mut self, now: Instant) {
        if self.state == Listening::CallingBack {
            self.say(now, Listening::Choice, vec![prompt("transfer-failed"), prompt("vm-choice")]);
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.take_if(|at| *at <= now).is_none() {
            return;
        }
        match (self.state, self.voice.playing) {
            (Listening::RecordingGreeting, _) => self.store_greeting(),
            (_, Some(playing)) => self.handle_playback_ended(now, playing),
            (Listening::Choice | Listening::Counts, None) if self.reminders < REMINDERS => {
                self.reminders += 1;
                self.say(now, Listening::Choice, vec![prompt("vm-help")]);
            }
            _ => self.goodbye(now, Vec::new()),
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.voice.actions.pop_front()
    }

    fn say(&mut self, now: Instant, state: Listening, what: Vec<Say>) {
        self.state = state;
        self.deadline = Some(now + PLAYBACK_MOST);
        self.voice.play(what);
    }

    fn think(&mut self, now: Instant) {
        self.state = Listening::Choice;
        self.deadline = Some(now + THINKING);
    }

    fn done(&mut self, now: Instant, what: &str) {
        self.say(now, Listening::Done, vec![prompt(what)]);
    }

    fn play_message(&mut self, now: Instant) {
        let Some(here) = self.messages.get(self.at) else { return };
        let number = self.messages[..self.at].iter().filter(|before| !before.deleted).count() + 1;
        let mut what = vec![prompt("vm-message"), Say::Words(Utterance::Number(number as u64))];
        if can_be_called(&here.message.from) {
            what.extend([prompt("vm-from"), Say::Words(Utterance::Digits(here.message.from.clone()))]);
        }
        what.push(Say::Message(here.message.id.clone()));
        self.say(now, Listening::Message, what);
    }

    fn next(&mut self, now: Instant) {
        self.at += 1;
        while self.messages.get(self.at).is_some_and(|next| next.deleted) {
            self.at += 1;
        }
        match self.messages.get(self.at) {
            Some(_) => self.play_message(now),
            None => self.goodbye(now, vec![prompt("vm-no-more")]),
        }
    }

    fn mark_heard(&mut self, id: &str) {
        if let Some(here) = self.messages.iter_mut().find(|here| here.message.id == id)
            && here.message.heard.is_none()
        {
            // When exactly is the store's to say.
            here.message.heard = Some(Timestamp::default());
            self.voice.actions.push_back(Action::MarkHeard(id.to_owned()));
        }
    }

    fn store_greeting(&mut self) {
        self.state = Listening::StoringGreeting;
        self.deadline = None;
        self.voice.actions.push_back(Action::StopRecording);
    }

    fn goodbye(&mut self, now: Instant, mut what: Vec<Say>) {
        what.push(prompt("goodbye"));
        self.say(now, Listening::Goodbye, what);
    }
}

/// "You have two new messages and one saved message."
fn counts(new: usize, old: usize) -> Vec<Say> {
    let of =
        |count: usize, one: &str, many: &str| [Say::Words(Utterance::Number(count as u64)), prompt(if count == 1 { one } else { many })];
    let mut what = vec![prompt("vm-you-have")];
    match (new, old) {
        (0, 0) => return vec![prompt("vm-none")],
        (new, 0) => what.extend(of(new, "vm-new-message", "vm-new-messages")),
        (0, old) => what.extend(of(old, "vm-saved-message", "vm-saved-messages")),
        (new, old) => {
            what.extend(of(new, "vm-new-message", "vm-new-messages"));
            what.push(prompt("vm-and"));
            what.extend(of(old, "vm-saved-message", "vm-saved-messages"));
        }
    }
    what
}

/// Whether it is a number, and not the name of somebody who hides it.
fn can_be_called(number: &str) -> bool {
    !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'+')
}

/// Every prompt that these machines can ask for. What a folder of one's own has not is heard as it is shipped.
pub const PROMPTS: &[&str] = &[
    "vm-full",
    "vm-leave",
    "vm-after-tone",
    "vm-thank-you",
    "vm-too-short",
    "vm-failed",
    "vm-none",
    "vm-you-have",
    "vm-and",
    "vm-new-message",
    "vm-new-messages",
    "vm-saved-message",
    "vm-saved-messages",
    "vm-message",
    "vm-from",
    "vm-choice",
    "vm-help",
    "vm-saved",
    "vm-deleted",
    "vm-no-more",
    "vm-no-number",
    "vm-record-greeting",
    "vm-greeting-saved",
    "transfer-failed",
    "goodbye",
    "ask-number",
    "ask-pin",
    "too-short",
    "not-right",
    "not-right-enough",
    "locked",
    "directory-unavailable",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// In a word each.
    fn word(action: &Action) -> String {
        let say = |say: &Say| match say {
            Say::Words(Utterance::Prompt(id)) => id.trim_start_matches("vm-").to_owned(),
            Say::Words(Utterance::Number(number)) => number.to_string(),
            Say::Words(Utterance::Digits(digits)) => digits.clone(),
            Say::Words(other) => format!("{other:?}"),
            Say::Greeting => "greeting".into(),
            Say::Beep => "beep".into(),
            Say::Message(id) => format!("<{id}>"),
        };
        match action {
            Action::Play { what, .. } => what.iter().map(say).collect::<Vec<_>>().join(" "),
            Action::StopPlay => "quiet".into(),
            Action::Record(what) => format!("record {what:?}"),
            Action::StopRecording => "stop".into(),
            Action::LogIn { number, pin } => format!("log in {} {}", number.expose(), pin.expose()),
            Action::MarkHeard(id) => format!("heard {id}"),
            Action::Delete(id) => format!("delete {id}"),
            Action::CallBack { to } => format!("call {to}"),
            Action::HangUp => "hang up".into(),
        }
    }

    const LENGTHS: Lengths = Lengths { longest: Duration::from_secs(120), silence: Duration::from_secs(4) };

    fn drain(mut poll: impl FnMut() -> Option<Action>) -> Vec<String> {
        std::iter::from_fn(&mut poll).map(|action| word(&action)).collect()
    }

    /// What a caller does: a key, `.` what plays ends, `~` falls silent, `!` speaks, `t` nothing until the next deadline,
    /// `k` it is kept, `s` it was too short.
    fn leave(script: &str, full: bool) -> (Vec<String>, Duration) {
        let start = Instant::now();
        let mut now = start;
        let mut machine = Leave::new(now, LENGTHS, full);
        let mut told = drain(|| machine.poll_action());
        for step in script.chars() {
            match step {
                '.' => machine.handle_playback_ended(now, machine.voice.last),
                '~' => machine.handle_sound(now, Sound::Silence),
                '!' => machine.handle_sound(now, Sound::Speech),
                'k' => machine.handle_kept(now, Kept::Stored),
                's' => machine.handle_kept(now, Kept::TooShort),
                't' => {
                    now = machine.poll_timeout().expect("a deadline");
                    machine.handle_timeout(now);
                }
                key => machine.handle_key(now, key),
            }
            told.extend(drain(|| machine.poll_action()));
        }
        (told, now - start)
    }

    #[test]
    fn messages_are_left_in_many_ways() {
        for (story, script, told, secs) in [
            ("with #", ".!#k.", vec!["greeting beep", "record Message", "stop", "thank-you", "hang up"], 0),
            ("the greeting is skipped", "#.!#k.", vec!["greeting beep", "beep", "record Message", "stop", "thank-you", "hang up"], 0),
            ("by falling silent", ".!~tk", vec!["greeting beep", "record Message", "stop", "thank-you"], 4),
            ("too long", ".!tk", vec!["greeting beep", "record Message", "stop", "thank-you"], 120),
            ("a pause is no end", ".!~!~!t", vec!["greeting beep", "record Message", "stop"], 120),
            ("nothing is said", ".ts.", vec!["greeting beep", "record Message", "stop", "too-short", "hang up"], 4),
            ("other keys mean nothing", "1.!3*#k", vec!["greeting beep", "record Message", "stop", "thank-you"], 0),
            ("the greeting never ends", "t", vec!["greeting beep", "record Message"], 600),
        ] {
            let (did, took) = leave(script, false);
            assert_eq!((did, took.as_secs()), (told.into_iter().map(str::to_owned).collect(), secs), "{story}");
        }
        assert_eq!(leave(".", true).0, ["full", "hang up"], "no room");
    }

    fn message(id: &str, from: &str, heard: bool) -> VoiceMessage {
        VoiceMessage { id: id.into(), from: from.into(), heard: heard.then(Timestamp::default), ..VoiceMessage::default() }
    }

    fn listen(script: &str, messages: Vec<VoiceMessage>) -> Vec<String> {
        let mut now = Instant::now();
        let mut machine = Listen::new(now, messages);
        let mut told = drain(|| machine.poll_action());
        for step in script.chars() {
            match step {
                '.' => machine.handle_playback_ended(now, machine.voice.last),
                'k' => machine.handle_kept(now, Kept::Stored),
                'n' => machine.handle_not_taken(now),
                't' => {
                    now = machine.poll_timeout().expect("a deadline");
                    machine.handle_timeout(now);
                }
                key => machine.handle_key(now, key),
            }
            told.extend(drain(|| machine.poll_action()));
        }
        told
    }

    #[test]
    fn messages_are_heard_saved_deleted_and_answered() {
        let two = || vec![message("a", "2042", false), message("b", "anonymous", true)];
        for (story, script, told) in [
            ("to their ends", "..", vec!["you-have 1 new-message and 1 saved-message", "message 1 from 2042 <a>", "heard a", "choice"]),
            ("a key before that", "1", vec!["you-have 1 new-message and 1 saved-message", "message 1 from 2042 <a>"]),
            (
                "saved, and the next",
                ".2..2.",
                vec![
                    "you-have 1 new-message and 1 saved-message",
                    "message 1 from 2042 <a>",
                    "heard a",
                    "saved",
                    "message 2 <b>",
                    "choice",
                    "saved",
                    "no-more goodbye",
                ],
            ),
            (
                "deleted: the next is the first",
                ".3..",
                vec![
                    "you-have 1 new-message and 1 saved-message",
                    "message 1 from 2042 <a>",
                    "delete a",
                    "deleted",
                    "message 1 <b>",
                    "choice",
                ],
            ),
            (
                "skipped, and it stays new",
                ".5",
                vec!["you-have 1 new-message and 1 saved-message", "message 1 from 2042 <a>", "message 2 <b>"],
            ),
            (
                "called back",
                ".4n",
                vec![
                    "you-have 1 new-message and 1 saved-message",
                    "message 1 from 2042 <a>",
                    "heard a",
                    "quiet",
                    "call 2042",
                    "transfer-failed choice",
                ],
            ),
            (
                "nobody to call",
                ".54",
                vec!["you-have 1 new-message and 1 saved-message", "message 1 from 2042 <a>", "message 2 <b>", "no-number"],
            ),
            ("help, and out", "0*.", vec!["you-have 1 new-message and 1 saved-message", "help", "goodbye", "hang up"]),
            (
                "an own greeting",
                "9.#k",
                vec![
                    "you-have 1 new-message and 1 saved-message",
                    "record-greeting beep",
                    "record Greeting",
                    "stop",
                    "greeting-saved help",
                ],
            ),
        ] {
            assert_eq!(listen(script, two()), told.into_iter().map(str::to_owned).collect::<Vec<_>>(), "{story}");
        }
    }

    #[test]
    fn who_presses_nothing_is_reminded_and_let_go() {
        assert_eq!(listen(".t.t.t.", vec![]), ["none", "help", "help", "goodbye", "hang up"]);
        assert_eq!(listen("2", vec![]), ["none", "help"], "there is nothing to save");
        assert_eq!(listen("5", vec![message("a", "2042", true); 1])[1..], ["no-more goodbye"]);
        assert_eq!(listen("", vec![message("a", "2042", true); 2]), ["you-have 2 saved-messages"]);
    }

    fn signs_in(script: &str) -> Vec<String> {
        let mut now = Instant::now();
        let mut machine = SignIn::new(now);
        let mut told = drain(|| machine.poll_action());
        for step in script.chars() {
            match step {
                '.' => machine.handle_playback_ended(now, machine.voice.last),
                'w' => machine.handle_answer(now, Refusal::Wrong),
                'l' => machine.handle_answer(now, Refusal::Locked),
                't' => {
                    now = machine.poll_timeout().expect("a deadline");
                    machine.handle_timeout(now);
                }
                key => machine.handle_key(now, key),
            }
            told.extend(drain(|| machine.poll_action()));
        }
        told
    }

    #[test]
    fn an_owner_says_who_he_is() {
        for (story, script, told) in [
            ("with #", "1001#1815#", vec!["ask-number", "quiet", "ask-pin", "quiet", "log in 1001 1815"]),
            ("without #", "1001t1815t", vec!["ask-number", "quiet", "ask-pin", "quiet", "log in 1001 1815"]),
            ("begun anew", "99*1#2#", vec!["ask-number", "quiet", "ask-pin", "quiet", "log in 1 2"]),
            ("wrong", "1#2#w", vec!["ask-number", "quiet", "ask-pin", "quiet", "log in 1 2", "not-right ask-number"]),
            ("locked out", "1#2#l.", vec!["ask-number", "quiet", "ask-pin", "quiet", "log in 1 2", "locked", "hang up"]),
            ("nobody there", ".t.", vec!["ask-number", "goodbye", "hang up"]),
        ] {
            assert_eq!(signs_in(script), told.into_iter().map(str::to_owned).collect::<Vec<_>>(), "{story}");
        }
        assert_eq!(signs_in("1#2#w1#2#w1#2#w.").last().map(String::as_str), Some("hang up"), "three times is enough");
    }

    #[test]
    fn the_words_are_among_the_prompts() {
        let mut ids = Vec::new();
        let all = [(1, 1), (2, 2), (0, 0)].map(|(new, old)| counts(new, old));
        for say in all.into_iter().flatten() {
            if let Say::Words(Utterance::Prompt(id)) = say {
                ids.push(id);
            }
        }
        assert!(ids.iter().all(|id| PROMPTS.contains(&id.as_str())), "{ids:?}");
    }
}
