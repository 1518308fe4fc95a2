//! One call: its two sides, and what is known of it. What happens to it is in the files beside.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{CallerId, direct::Direct, page::Page, park::Parked, reach::Seeking, ringing::Group, transfer::Transfer};
use crate::{
    call::{
        half::{CallState, Cause, Diversion, Half, Snapshot},
        routing::{Caller, Errand, Route, Ways},
    },
    model::{CallId, Extension, MacAddr},
    sdp::Direction,
    sip::ua::LegId,
};

pub(super) struct Call {
    pub(super) caller: Caller,
    /// For a call that the API began: no device asked for it.
    pub(super) mac: Option<MacAddr>,
    pub(super) shown: CallerId,
    pub(super) dialled: String,
    pub(super) labels: Vec<(String, String)>,
    pub(super) source: SocketAddr,
    pub(super) ring_timeout: Duration,
    pub(super) started: Instant,
    pub(super) answered: Option<Instant>,
    pub(super) deadline: Option<Instant>,
    pub(super) rang: bool,
    /// Of the phones that ring, the one that is heard already.
    pub(super) early: Option<LegId>,
    pub(super) near: Side,
    pub(super) far: Side,
    /// What the service that has the call shall do.
    pub(super) errand: Errand,
    /// Where its caller may leave a message if nobody takes it.
    pub(super) mailbox: Option<Extension>,
    /// The menu waits to hear whether its transfer is taken.
    pub(super) lent: bool,
    /// Where an originated call goes once its caller is there.
    pub(super) next: Option<Route>,
    /// Further ways to the outside, while the call is on one of them.
    pub(super) ways: Option<Box<Ways>>,
    /// The trunk that was asked has not shown any sign of life.
    pub(super) no_sign_yet: bool,
    /// Phones that ring when none of those before has taken the call, each group for so long.
    pub(super) later: VecDeque<Group>,
    pub(super) each_rings: Duration,
    /// The best reason so far, of phones that did not answer.
    pub(super) failure: Option<Cause>,
    /// A phone has asked that the other be called away from it.
    pub(super) transfer: Option<Box<Transfer>>,
    /// Who has sent the call elsewhere so far, the first first.
    pub(super) diversions: Vec<Diversion>,
    /// The called phone answers by itself.
    pub(super) auto_answer: bool,
    /// Whom it is for, while nobody has taken it.
    pub(super) seeking: Option<Box<Seeking>>,
    /// Somebody wanted to be called back, and his phone has not rung yet.
    pub(super) call_back: bool,
    /// It waits at a place, or goes back to who parked it.
    pub(super) parked: Option<Parked>,
    pub(super) direct: Direct,
    /// It is for this device of whom it is for.
    pub(super) only: Option<MacAddr>,
    /// What names the caller's device (`gr` of a GRUU).
    pub(super) gr: Option<String>,
}

pub(super) enum Side {
    None,
    /// Phones that we call, all at once.
    Ringing(Vec<Half>),
    One(Box<Half>),
    /// Phones that hear the near side and are not heard.
    Paged(Page),
    /// The voice menu; `handed` once the call is in its inbox.
    Menu {
        handed: bool,
    },
    /// It waits at a number, with music.
    Parked,
    /// A star code whose work is not stored yet. `spoken`: the service is to say what is done; otherwise a beep does.
    Code {
        spoken: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Near,
    Far,
}

impl Call {
    pub(super) fn new(now: Instant, caller: Caller, dialled: String, shown: CallerId, source: SocketAddr) -> Self {
        Self {
            mac: caller.device(),
            caller,
            shown,
            dialled,
            labels: Vec::new(),
            source,
            ring_timeout: Duration::ZERO,
            started: now,
            answered: None,
            deadline: None,
            rang: false,
            early: None,
            near: Side::None,
            far: Side::None,
            errand: Errand::Menu,
            mailbox: None,
            lent: false,
            next: None,
            ways: None,
            no_sign_yet: false,
            later: VecDeque::new(),
            each_rings: Duration::ZERO,
            failure: None,
            transfer: None,
            diversions: Vec::new(),
            auto_answer: false,
            seeking: None,
            call_back: false,
            parked: None,
            direct: Direct::No,
            only: None,
            gr: None,
        }
    }

    /// It is for somebody else now: nobody else's mailbox takes it any more.
    pub(super) fn give_mailbox(&mut self, mailbox: Option<(Extension, Duration)>) {
        if let Some((_, ring)) = &mailbox {
            self.ring_timeout = *ring;
        }
        self.mailbox = mailbox.map(|(mailbox, _)| mailbox);
    }

    /// Who took the call; the menu has no name but what was dialled.
    pub(super) fn answerer(&self) -> String {
        self.far.one().map_or_else(|| self.dialled.clone(), |half| half.user.clone())
    }

    /// Who has sent the call where it goes now.
    pub(super) fn sent_by(&self) -> Option<String> {
        let diverted = self.diversions.last().map(|last| last.by.clone());
        diverted.or_else(|| self.transfer.as_ref().map(|transfer| transfer.user.clone()))
    }

    /// Of both sides.
    pub(super) fn halves(&self) -> impl Iterator<Item = &Half> {
        self.near.halves().iter().chain(self.far.halves())
    }

    pub(super) fn place_of(&self, leg: LegId) -> Option<Place> {
        if self.near.halves().iter().any(|half| half.leg == leg) {
            Some(Place::Near)
        } else if self.far.halves().iter().any(|half| half.leg == leg) {
            Some(Place::Far)
        } else {
            None
        }
    }

    pub(super) fn side(&self, place: Place) -> &Side {
        match place {
            Place::Near => &self.near,
            Place::Far => &self.far,
        }
    }

    pub(super) fn side_mut(&mut self, place: Place) -> &mut Side {
        match place {
            Place::Near => &mut self.near,
            Place::Far => &mut self.far,
        }
    }

    pub(super) fn half(&self, leg: LegId) -> Option<&Half> {
        self.halves().find(|half| half.leg == leg)
    }

    pub(super) fn half_mut(&mut self, leg: LegId) -> Option<&mut Half> {
        let waiting = self.transfer.as_mut().and_then(|transfer| transfer.by.as_deref_mut());
        let sides = [&mut self.near, &mut self.far].into_iter().find_map(|side| side.half_mut(leg));
        sides.or(waiting.filter(|half| half.leg == leg))
    }

    /// The half that this leg talks with.
    pub(super) fn other_of(&self, leg: LegId) -> Option<&Half> {
        match self.place_of(leg)? {
            Place::Near => self.far.one(),
            Place::Far => self.near.one(),
        }
    }

    /// What a leg may do, as the other side wants it: all, while there is none; one that listens is never heard.
    pub(super) fn wanted_of(&self, leg: LegId) -> Direction {
        match self.half(leg) {
            Some(half) if half.listens => Direction::SendOnly,
            _ => self.other_of(leg).map_or(Direction::SendRecv, |other| other.wants),
        }
    }

    pub(super) fn snapshot(&self, call: CallId, now: Instant) -> Snapshot {
        let state = match (&self.near, &self.far) {
            (_, Side::Menu { .. } | Side::Code { .. }) => CallState::Menu,
            (_, Side::Parked) => CallState::Parked,
            (Side::Ringing(_), _) => CallState::RingingCaller,
            (_, Side::One(_)) => CallState::Talking,
            (_, Side::Paged(page)) if page.is_heard() => CallState::Talking,
            _ => CallState::Ringing,
        };
        Snapshot {
            call,
            from: self.caller.user.clone(),
            to: self.dialled.clone(),
            mac: self.mac,
            state,
            age: now.saturating_duration_since(self.started),
            talk: self.answered.map(|since| now.saturating_duration_since(since)),
            labels: self.labels.clone(),
        }
    }
}

impl Side {
    pub(super) fn halves(&self) -> &[Half] {
        match self {
            Self::Ringing(halves) => halves,
            Self::One(half) => std::slice::from_ref(half),
            Self::Paged(page) => &page.halves,
            Self::None | Self::Menu { .. } | Self::Parked | Self::Code { .. } => &[],
        }
    }

    pub(super) fn into_halves(self) -> Vec<Half> {
        match self {
            Self::Ringing(halves) => halves,
            Self::One(half) => vec![*half],
            Self::Paged(page) => page.halves,
            Self::None | Self::Menu { .. } | Self::Parked | Self::Code { .. } => Vec::new(),
        }
    }

    pub(super) fn one(&self) -> Option<&Half> {
        match self {
            Self::One(half) => Some(half),
            _ => None,
        }
    }

    /// The half of this leg, where none is still looked for.
    fn half_mut(&mut self, leg: LegId) -> Option<&mut Half> {
        match self {
            Self::One(half) if half.leg == leg => Some(half),
            Self::Paged(page) => page.halves.iter_mut().find(|half| half.leg == leg),
            _ => None,
        }
    }
}
