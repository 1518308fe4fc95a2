//! One trunk: whether it is there, which of its servers is in use, and how many calls it carries.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Action, State};
use crate::{
    model::Event,
    routing::Trunk,
    sip::register_client::{self, RegisterClient},
};

/// Pauses between questions to a trunk that is down, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Unanswered questions that make a trunk down: one datagram may be lost.
const PATIENCE: u32 = 2;

/// One trunk.
pub(super) struct Line {
    pub(super) trunk: Arc<Trunk>,
    /// Of its servers, in the order in which they are tried; the first is in use.
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) resolve_at: Option<Instant>,
    pub(super) state: State,
    pub(super) since: Instant,
    pub(super) reason: Option<String>,
    /// Why a server's certificate is not believed.
    pub(super) distrust: Option<String>,
    /// Questions in a row that nobody answered.
    pub(super) unanswered: u32,
    pub(super) asking: Option<Asking>,
    pub(super) ask_at: Option<Instant>,
    pub(super) calls: usize,
    bucket: Bucket,
    pub(super) registration: Option<Registration>,
}

pub(super) struct Asking {
    pub(super) give_up: Instant,
}

pub(super) struct Registration {
    pub(super) client: RegisterClient,
    pub(super) registered: bool,
}

/// New calls that may begin now: fills evenly.
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Line {
    pub(super) fn new(now: Instant, trunk: Arc<Trunk>, calls: usize) -> Self {
        Self {
            addresses: Vec::new(),
            resolve_at: Some(now),
            state: State::Untried,
            since: now,
            reason: None,
            distrust: None,
            unanswered: 0,
            asking: None,
            ask_at: None,
            calls,
            bucket: Bucket { tokens: f64::from(trunk.calls_per_second), filled: now },
            registration: None,
            trunk,
        }
    }

    /// Whether a new call may begin in this second; if so, it counts.
    pub(super) fn takes_one_more_now(&mut self, now: Instant) -> bool {
        self.bucket.take(now, self.trunk.calls_per_second)
    }

    pub(super) fn is_full(&self) -> bool {
        self.trunk.max_calls > 0 && self.calls >= self.trunk.max_calls
    }

    /// One that must register is up when it has.
    pub(super) fn may_be_up(&self) -> bool {
        self.trunk.register_secs.is_none() || self.registration.as_ref().is_some_and(|registration| registration.registered)
    }

    pub(super) fn up(&mut self, now: Instant) -> Option<Action> {
        self.unanswered = 0;
        self.reason = None;
        self.distrust = None;
        if self.state == State::Up {
            return None;
        }
        (self.state, self.since) = (State::Up, now);
        Some(Action::Tell(Event::TrunkUp { trunk: self.trunk.name.to_string() }))
    }

    pub(super) fn down(&mut self, now: Instant, reason: &str) -> Option<Action> {
        let news = self.state != State::Down || self.reason.as_deref() != Some(reason);
        if self.state != State::Down {
            (self.state, self.since) = (State::Down, now);
        }
        self.reason = Some(reason.to_owned());
        news.then(|| Action::Tell(Event::TrunkDown { trunk: self.trunk.name.to_string(), reason: reason.to_owned() }))
    }

    /// Goes on with the next server, if there is one.
    pub(super) fn use_next(&mut self) -> Option<Action> {
        if self.addresses.len() < 2 {
            return None;
        }
        self.addresses.rotate_left(1);
        self.register_there()
    }

    pub(super) fn register_there(&self) -> Option<Action> {
        self.trunk.register_secs.map(|_| Action::Register { trunk: self.trunk.name.clone() })
    }

    /// A question was not answered: ask again, and the next server if there is one.
    pub(super) fn missed(&mut self, now: Instant, reason: &str) -> Vec<Action> {
        self.unanswered += 1;
        let mut actions: Vec<_> = self.use_next().into_iter().collect();
        if self.unanswered < PATIENCE {
            self.ask_at = Some(now);
            return actions;
        }
        let pause = FIRST_PAUSE * 2u32.saturating_pow((self.unanswered - PATIENCE).min(6));
        self.ask_at = Some(now + pause.min(LONGEST_PAUSE));
        let reason = self.distrust.take().unwrap_or_else(|| reason.to_owned());
        actions.extend(self.down(now, &reason));
        actions
    }

    pub(super) fn registration_events(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(event) = self.registration.as_mut().and_then(|registration| registration.client.poll_event()) {
            match event {
                register_client::Event::Registered { .. } => {
                    self.registration.iter_mut().for_each(|registration| registration.registered = true);
                    actions.extend(self.up(now));
                }
                register_client::Event::Failed { status, .. } => {
                    self.registration.iter_mut().for_each(|registration| registration.registered = false);
                    let reason = match (status, self.distrust.take()) {
                        (408 | 503, Some(distrust)) => distrust,
                        (408, None) => "it does not answer our registration".to_owned(),
                        (status, _) => format!("it refuses our registration ({status})"),
                    };
                    actions.extend(self.down(now, &reason));
                    if matches!(status, 408 | 503) {
                        actions.extend(self.use_next());
                    }
                }
                register_client::Event::Unregistered => {}
            }
        }
        actions
    }
}

impl Bucket {
    fn take(&mut self, now: Instant, per_second: u32) -> bool {
        if per_second == 0 {
            return true;
        }
        let most = f64::from(per_second);
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + passed * most).min(most);
        let has = self.tokens >= 1.0;
        if has {
            self.tokens -= 1.0;
        }
        has
    }
}
