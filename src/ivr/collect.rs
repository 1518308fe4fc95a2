//! Collects the digits a caller keys in, from the end of a prompt to `#`: no audio, no clock.
//!
//! Fed with key presses (each press once) and with time, it answers in [`Action`]s. A caller may press while the prompt
//! plays; time counts from its end. Not here: playing prompts (`media`), what the digits mean (`machine.rs`).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::model::Keys;

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub min: usize,
    /// After so many keys the caller is taken to have finished.
    pub max: usize,
    /// The key that ends the input, usually `#`.
    pub terminator: Option<char>,
    /// A key that gives up and starts over, usually `*`.
    pub restart: Option<char>,
    /// How long the caller may think before the first key, counted from the end of the prompt.
    pub first: Duration,
    /// How long between two keys.
    pub between: Duration,
    /// Keys pressed while the prompt plays count, and stop it.
    pub barge_in: bool,
}

#[derive(Debug, PartialEq)]
pub enum Action {
    /// The first key was pressed: stop the prompt (barge-in).
    StopPrompt,
    Done(Result<Keys, Error>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("no key within {0:?}: if the caller did press one, set `dtmf: rfc4733` in the phone's template")]
    Silence(Duration),
    #[error("{got} digits keyed, at least {min} wanted")]
    TooFew { got: usize, min: usize },
    /// The caller pressed the restart key.
    #[error("the caller wants to start over")]
    Restart,
}

pub struct Collector {
    wanted: Wanted,
    keys: Keys,
    prompt: Prompt,
    /// When the caller is taken to have finished; `None` while the prompt plays and once [`Action::Done`] is out.
    deadline: Option<Instant>,
    actions: VecDeque<Action>,
    done: bool,
}

#[derive(PartialEq)]
enum Prompt {
    Playing,
    Over,
}

impl Collector {
    /// While a prompt is about to play; tell its end by [`Self::handle_prompt_ended`].
    pub fn new(wanted: Wanted) -> Self {
        Self { wanted, keys: Keys::default(), prompt: Prompt::Playing, deadline: None, actions: VecDeque::new(), done: false }
    }

    /// The prompt is over: from now on the caller is waited for.
    pub fn handle_prompt_ended(&mut self, now: Instant) {
        self.prompt = Prompt::Over;
        if !self.done && self.deadline.is_none() {
            self.deadline = Some(now + if self.keys.is_empty() { self.wanted.first } else { self.wanted.between });
        }
    }

    /// Takes one press of `0`–`9`, `*`, `#` or `A`–`D` (RFC 4733 §3.2). Ignored once done.
    pub fn handle_key(&mut self, now: Instant, key: char) {
        if self.done || (self.prompt == Prompt::Playing && !self.wanted.barge_in) {
            return;
        }
        if self.prompt == Prompt::Playing {
            self.prompt = Prompt::Over;
            self.actions.push_back(Action::StopPrompt);
        }
        if Some(key) == self.wanted.restart {
            return self.finish(Err(Error::Restart));
        }
        if Some(key) == self.wanted.terminator {
            // A `#` that ended the input before, pressed by habit, is no input of its own.
            if self.keys.is_empty() && self.wanted.min > 0 {
                self.deadline = Some(now + self.wanted.first);
                return;
            }
            return self.complete();
        }
        self.keys.push(key);
        self.deadline = Some(now + self.wanted.between);
        if self.keys.len() >= self.wanted.max {
            self.complete();
        }
    }

    /// Time has passed; call at [`Self::poll_timeout`]. Earlier is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        if self.keys.is_empty() { self.finish(Err(Error::Silence(self.wanted.first))) } else { self.complete() }
    }

    /// The next thing to do, oldest first. Drain to `None` after every `handle_*`.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    fn complete(&mut self) {
        let (got, min) = (self.keys.len(), self.wanted.min);
        let keys = std::mem::take(&mut self.keys);
        self.finish(if got < min { Err(Error::TooFew { got, min }) } else { Ok(keys) });
    }

    fn finish(&mut self, result: Result<Keys, Error>) {
        self.done = true;
        self.deadline = None;
        self.actions.push_back(Action::Done(result));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT_MS: u64 = 3000;

    fn wanted() -> Wanted {
        Wanted {
            min: 2,
            max: 4,
            terminator: Some('#'),
            restart: Some('*'),
            first: Duration::from_secs(5),
            between: Duration::from_secs(3),
            barge_in: true,
        }
    }

    /// Presses keys at milliseconds from the start; the prompt plays for 3 s unless it is stopped.
    fn collect(wanted: Wanted, presses: &[(u64, char)]) -> (Result<Keys, Error>, u64, bool) {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        let mut collector = Collector::new(wanted);
        let mut stopped = false;
        let mut presses = presses.iter().peekable();
        for at in 0..60_000 {
            if at == PROMPT_MS && !stopped {
                collector.handle_prompt_ended(ms(at));
            }
            while let Some((_, key)) = presses.next_if(|(when, _)| *when == at) {
                collector.handle_key(ms(at), *key);
            }
            collector.handle_timeout(ms(at));
            while let Some(action) = collector.poll_action() {
                match action {
                    Action::StopPrompt => stopped = true,
                    Action::Done(result) => return (result, at, stopped),
                }
            }
        }
        panic!("waits for ever");
    }

    #[test]
    fn callers_finish_in_many_ways() {
        let ok = |digits: &str| Ok(Keys::from(digits));
        let few = |got| Err(Error::TooFew { got, min: 2 });
        for (story, presses, result, at, stopped) in [
            ("with #", &[(3100, '1'), (4000, '2'), (5000, '#')][..], ok("12"), 5000, false),
            ("by falling silent", &[(7999, '1'), (10_998, '2')], ok("12"), 13_998, false),
            ("with the last key there is room for", &[(3100, '1'), (3200, '2'), (3300, '3'), (3400, '4')], ok("1234"), 3400, false),
            ("before the prompt has ended", &[(100, '1'), (200, '2'), (300, '#')], ok("12"), 300, true),
            ("a # left over from before", &[(100, '#'), (4000, '1'), (4100, '2'), (4200, '#')], ok("12"), 4200, true),
            ("too early", &[(3100, '1'), (4000, '#')], few(1), 4000, false),
            ("too early, silently", &[(3100, '1')], few(1), 6100, false),
            ("never", &[], Err(Error::Silence(Duration::from_secs(5))), 8000, false),
            ("only with #", &[(4000, '#')], Err(Error::Silence(Duration::from_secs(5))), 9000, false),
            ("by starting over", &[(3100, '1'), (3200, '*')], Err(Error::Restart), 3200, false),
        ] {
            assert_eq!(collect(wanted(), presses), (result, at, stopped), "{story}");
        }
    }

    #[test]
    fn without_barge_in_early_keys_do_not_count() {
        let wanted = Wanted { barge_in: false, ..wanted() };
        assert_eq!(collect(wanted, &[(100, '9'), (3100, '1'), (3200, '2'), (3300, '#')]), (Ok(Keys::from("12")), 3300, false));
    }

    #[test]
    fn nothing_happens_twice() {
        let now = Instant::now();
        let mut collector = Collector::new(Wanted { min: 0, ..wanted() });
        collector.handle_prompt_ended(now);
        collector.handle_key(now, '#');
        assert_eq!(collector.poll_action(), Some(Action::Done(Ok(Keys::default()))));
        collector.handle_key(now, '#');
        collector.handle_timeout(now + Duration::from_secs(99));
        assert_eq!((collector.poll_action(), collector.poll_timeout()), (None, None));
    }
}
