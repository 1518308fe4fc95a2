//! One half of a call: the leg to one phone, its media port, and what was agreed with it. The few words that halves exchange.
//!
//! ```text
//!  it calls us   Offered ──answer──► AwaitsAck ──ACK──► Up
//!  we call it    Called ──────────────200─────────────► Up
//! ```
//! Not here: which halves belong together (`switch`), SIP (`sip::ua`).

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    media::SessionId,
    model::{LineNumber, MacAddr},
    sdp::{self, Description, Direction},
    sip::{
        transport::Flow,
        ua::{LegId, Way},
    },
};

/// What a leg tells of itself.
#[derive(Clone, Debug)]
pub enum LegEvent {
    /// Whoever we call works on it (100): only then is there anybody.
    Trying,
    /// The phone that we call rings; with a description there is something to hear already.
    Ringing {
        sdp: Option<Bytes>,
    },
    /// It answered. The ACK is sent by the user agent.
    Answered {
        sdp: Option<Bytes>,
    },
    /// It did not answer: the final status of our INVITE.
    Refused {
        status: u16,
    },
    /// It wants somebody else to be called instead: the number that its 3xx names.
    Redirected {
        to: String,
    },
    /// Our answer arrived; with the phone's answer, if the offer was ours.
    Acked {
        sdp: Option<Bytes>,
    },
    /// The phone changes the session; without an offer it wants ours.
    Reoffered {
        offer: Option<Bytes>,
    },
    /// The phone answered our change.
    ReofferAnswered {
        sdp: Option<Bytes>,
    },
    /// It did not take our change; all stays as it was.
    ReofferFailed {
        status: u16,
    },
    /// The phone wants its call transferred to this number, or to whom it talks with on another leg.
    Referred {
        to: String,
        /// To this device of theirs and no other.
        only: Option<MacAddr>,
        replaces: Option<LegId>,
    },
    /// A key by SIP INFO.
    Key {
        key: char,
    },
    Ended {
        how: LegEnd,
    },
}

/// Why a leg is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegEnd {
    /// BYE.
    HungUp,
    /// CANCEL before we answered.
    Cancelled,
    /// Its peer does not answer any more, or does not know the dialog.
    Lost,
}

/// Which line of which device. The ports of an adapter and the handsets of a base are lines of one device, and call each other.
pub type DeviceLine = (MacAddr, LineNumber);

/// A phone that can be called now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Request URI, as it registered.
    pub uri: String,
    /// By which it is reached.
    pub flow: Flow,
    pub mac: MacAddr,
    pub line: LineNumber,
    /// In thousandths: who has more of it rings first (RFC 3261 §16.6).
    pub q: u16,
    /// Route headers that lead to it, top first (RFC 3327).
    pub path: Vec<String>,
    /// Other ways to the same device, for when this one fails (RFC 5626).
    pub spare: Vec<Way>,
}

impl Contact {
    pub fn device_line(&self) -> DeviceLine {
        (self.mac, self.line)
    }
}

/// Somebody sent a call elsewhere before it was answered (RFC 5806).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diversion {
    /// An extension, or a number of somebody outside.
    pub by: String,
    pub reason: DiversionReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiversionReason {
    /// All calls, by a setting.
    Unconditional,
    Busy,
    NoAnswer,
    /// No phone could be reached.
    Unavailable,
    /// The phone said so when it was called.
    Deflection,
}

impl DiversionReason {
    /// `reason` of a Diversion header (RFC 5806 §4).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unconditional => "unconditional",
            Self::Busy => "user-busy",
            Self::NoAnswer => "no-answer",
            Self::Unavailable => "unavailable",
            Self::Deflection => "deflection",
        }
    }

    /// `cause` of a History-Info entry's URI (RFC 4458 §4.8).
    pub fn cause(self) -> u16 {
        match self {
            Self::Unconditional => 302,
            Self::Busy => 486,
            Self::NoAnswer => 408,
            Self::Unavailable => 503,
            Self::Deflection => 480,
        }
    }
}

/// Where a half's packets arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaPort {
    pub id: SessionId,
    pub address: SocketAddr,
}

/// Whether sound may go past us, between the phone of a half and that of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sound {
    /// It must come to us.
    Here,
    /// A phone of ours, which is seen at this address: one whose description names another is behind NAT.
    Phone(IpAddr),
    /// A trunk whose settings let it.
    Trunk,
}

impl Sound {
    /// Browsers speak to nobody but servers.
    pub fn of_phone(flow: &Flow) -> Self {
        if flow.transport.is_web() { Self::Here } else { Self::Phone(flow.peer.ip().to_canonical()) }
    }
}

/// Where a half stands.
#[derive(Clone, Debug)]
pub(super) enum HalfState {
    /// It called us and has no answer; without a description it wants our offer.
    Offered(Option<Box<Description>>),
    /// We call it; once it rings, its caller hears so.
    Called,
    /// We answered. `ours`: the offer was in our answer, so the ACK brings the answer.
    AwaitsAck {
        ours: bool,
    },
    Up,
}

#[derive(Clone, Debug)]
pub(super) struct Half {
    pub leg: LegId,
    /// Who is there: an extension, or the caller's user part.
    pub user: String,
    /// As a display shows it; empty where it is not known.
    pub name: String,
    /// Does not want to be known.
    pub hides: bool,
    pub mac: MacAddr,
    pub line: LineNumber,
    /// It has an owner: only then may it transfer its call.
    pub owned: bool,
    pub media: MediaPort,
    pub sdp: sdp::Session,
    pub state: HalfState,
    /// It hears and is heard by nobody.
    pub listens: bool,
    /// What the phone itself allows since its last offer: `sendonly` when it holds.
    pub wants: Direction,
    /// What we last told it that it may do, seen from us.
    pub told: Direction,
    /// Our answer, if it went out with a 183, before the call is answered.
    pub early: Option<Bytes>,
    /// Music is played to it, as the other half holds it.
    pub music: bool,
    /// Our change that is on its way to the phone.
    pub reoffered: Option<Direction>,
    /// The other half changed meanwhile: offer again when the phone has answered.
    pub reoffer_again: bool,
    /// Its sound goes elsewhere by now than the phone was told.
    pub moved: bool,
    pub sound: Sound,
}

impl Half {
    pub fn new(leg: LegId, user: &str, mac: MacAddr, media: MediaPort, sdp: sdp::Session, state: HalfState) -> Self {
        Self {
            leg,
            user: user.to_owned(),
            name: String::new(),
            hides: false,
            mac,
            line: 1,
            owned: true,
            listens: false,
            media,
            sdp,
            state,
            wants: Direction::SendRecv,
            told: Direction::SendRecv,
            early: None,
            music: false,
            reoffered: None,
            reoffer_again: false,
            moved: false,
            sound: Sound::Here,
        }
    }

    pub fn device_line(&self) -> DeviceLine {
        (self.mac, self.line)
    }

    /// Answered, by either side.
    pub fn is_up(&self) -> bool {
        matches!(self.state, HalfState::AwaitsAck { .. } | HalfState::Up)
    }
}

/// Why a call ended: the word for events and the API, and what a waiting caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    CallerHungUp,
    CalleeHungUp,
    /// The caller gave up before anybody answered.
    Cancelled,
    NoAnswer,
    Busy,
    Declined,
    /// The caller may not call such numbers.
    NotAllowed,
    /// On a list of blocked numbers.
    Blocked,
    /// The caller hides, and that is not wanted.
    Anonymous,
    /// Nobody is registered there, or no phone could be reached.
    Unavailable,
    Unknown,
    /// Diverted too often, or to somebody who has diverted it already.
    Circle,
    /// No sound format in common.
    NothingInCommon,
    /// A phone has joined this call with another.
    Transferred,
    /// The service has hung up.
    ServiceDone,
    /// Ended through the API.
    Requested,
    /// It was to end by then.
    TooLong,
    /// A phone vanished in the middle.
    Lost,
    /// No media port, or too much to do.
    Overload,
}

impl Cause {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CallerHungUp => "caller hung up",
            Self::CalleeHungUp => "callee hung up",
            Self::Cancelled => "cancelled",
            Self::NoAnswer => "no answer",
            Self::Busy => "busy",
            Self::Declined => "declined",
            Self::NotAllowed => "not allowed",
            Self::Blocked => "blocked",
            Self::Anonymous => "caller hidden",
            Self::Unavailable => "not reachable",
            Self::Unknown => "no such number",
            Self::Circle => "diverted in a circle",
            Self::NothingInCommon => "no sound format in common",
            Self::Transferred => "transferred",
            Self::ServiceDone => "menu done",
            Self::Requested => "ended on request",
            Self::TooLong => "too long",
            Self::Lost => "phone lost",
            Self::Overload => "too much to do",
        }
    }

    /// The final answer to a caller who still waits (RFC 3261 §21).
    pub fn status(self) -> u16 {
        match self {
            Self::CallerHungUp | Self::Cancelled | Self::Transferred => 487,
            Self::CalleeHungUp | Self::NoAnswer | Self::Unavailable | Self::ServiceDone | Self::Requested | Self::TooLong | Self::Lost => {
                480
            }
            // 482 is said of requests that come round, and phones show it as a fault of the network.
            Self::Circle => 480,
            Self::Busy => 486,
            Self::Declined => 603,
            Self::NotAllowed | Self::Blocked => 403,
            // RFC 5079
            Self::Anonymous => 433,
            Self::Unknown => 404,
            Self::NothingInCommon => 488,
            Self::Overload => 503,
        }
    }

    /// What the answer of a called phone means for its caller.
    pub(super) fn of_status(status: u16) -> Self {
        match status {
            486 | 600 => Self::Busy,
            603 => Self::Declined,
            415 | 488 | 606 => Self::NothingInCommon,
            _ => Self::Unavailable,
        }
    }

    /// The same for somebody outside: a provider knows whether a number exists.
    pub(super) fn of_outside(status: u16) -> Self {
        match status {
            404 | 410 | 484 | 604 => Self::Unknown,
            status => Self::of_status(status),
        }
    }

    /// Which of two to tell when phones of one extension fail differently.
    pub(super) fn rank(self) -> u8 {
        match self {
            Self::Declined => 0,
            Self::Busy => 1,
            Self::NothingInCommon => 2,
            Self::NoAnswer => 3,
            _ => 4,
        }
    }
}

/// A call as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub call: crate::model::CallId,
    pub from: String,
    pub to: String,
    pub mac: Option<MacAddr>,
    pub state: CallState,
    /// Since the call began.
    pub age: Duration,
    /// Since it was answered.
    pub talk: Option<Duration>,
    pub labels: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CallState {
    /// An originated call rings at the one who asked for it.
    RingingCaller,
    Ringing,
    /// With the voice menu.
    Menu,
    /// Waits at a number until somebody dials it.
    Parked,
    Talking,
}
