//! What the switch wants done, by legs, media and the voice menu.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;

use crate::{
    call::{
        half::{Cause, Contact, Diversion, MediaPort},
        inbound::HIDDEN,
        routing::{Caller, Errand},
    },
    features::book::Row,
    media::SessionId,
    model::{CallId, Event, MacAddr},
    routing::Hop,
    sdp::MediaParams,
    sip::{transport::Flow, ua::LegId},
    store::LegDirection,
};

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    // --- legs
    /// For the account of who called whom.
    LegBegins(Box<LegBegins>),
    Invite {
        leg: LegId,
        contact: Contact,
        caller: CallerId,
        /// Who has transferred the call there.
        referred_by: Option<String>,
        /// Who has sent the call elsewhere before, the first first.
        diversions: Vec<Diversion>,
        /// The phone shall take the call by itself, as an intercom does.
        auto_answer: bool,
        /// What names the caller's device.
        gr: Option<String>,
        offer: Bytes,
    },
    /// A call to the outside by a trunk, as its settings want it.
    InviteOutside {
        leg: LegId,
        hop: Box<Hop>,
        display_name: String,
        /// The caller, where somebody outside calls: the number, international.
        caller: Option<String>,
        diversions: Vec<Diversion>,
        flow: Flow,
        offer: Bytes,
    },
    /// The call with this sound is on the trunk until [`Self::CloseMedia`].
    HoldTrunk {
        trunk: Arc<str>,
        media: SessionId,
    },
    /// Who is at the other end, for the phone to show; nobody who hides.
    Identify {
        leg: LegId,
        who: CallerId,
    },
    Ring {
        leg: LegId,
    },
    /// 183: what comes from the far side before its answer is to be heard.
    Progress {
        leg: LegId,
        sdp: Bytes,
    },
    Answer {
        leg: LegId,
        sdp: Bytes,
    },
    /// A final answer to a call that nobody took.
    Refuse {
        leg: LegId,
        status: u16,
        retry_after_secs: Option<u32>,
    },
    /// CANCEL or BYE, as its state wants. `elsewhere`: another phone of the extension took the call (RFC 3326).
    Hangup {
        leg: LegId,
        elsewhere: bool,
    },
    Reoffer {
        leg: LegId,
        sdp: Bytes,
    },
    AnswerReoffer {
        leg: LegId,
        sdp: Bytes,
    },
    RefuseReoffer {
        leg: LegId,
        status: u16,
    },
    /// The phone that wants its call transferred may; how it goes is told by [`Self::ReferProgress`].
    AcceptRefer {
        leg: LegId,
    },
    RefuseRefer {
        leg: LegId,
        status: u16,
    },
    /// A final status is the last word.
    ReferProgress {
        leg: LegId,
        status: u16,
    },
    /// A key for a phone whose sound goes past us, by INFO.
    SendKey {
        leg: LegId,
        key: char,
    },
    // --- media
    SetRemote {
        media: SessionId,
        params: MediaParams,
    },
    Bridge {
        near: SessionId,
        far: SessionId,
    },
    /// It hears what `whom` hears, and is heard by nobody.
    Overhear {
        media: SessionId,
        whom: SessionId,
    },
    /// Both stay open and hear nothing of each other.
    Unbridge {
        media: SessionId,
    },
    /// A key that came by SIP INFO: counts as if the phone had sent it by RTP.
    Key {
        media: SessionId,
        key: char,
    },
    /// The caller waits while somebody rings: let it hear so.
    RingBack {
        media: SessionId,
        on: bool,
    },
    /// Once: it is done, or it is time to speak.
    Beep {
        media: SessionId,
    },
    /// Whoever is on hold hears music.
    HoldMusic {
        media: SessionId,
        on: bool,
    },
    CloseMedia {
        media: SessionId,
    },
    /// Its port is free; the call goes on without.
    ReleaseMedia {
        media: SessionId,
    },
    /// A call that had given its port back has another.
    Reopened {
        was: SessionId,
        media: SessionId,
    },
    // --- the voice menu
    HandOver {
        call: CallId,
        leg: LegId,
        caller: Caller,
        media: MediaPort,
        source: SocketAddr,
        errand: Errand,
    },
    ServiceEnded {
        call: CallId,
        cause: Cause,
    },
    /// How a transfer that the menu asked for went. If nobody took the call, the menu has it again.
    Transferred {
        call: CallId,
        taken: bool,
    },
    /// Store this, and tell the call of a star code ([`super::Switch::kept`]), if one waits for it.
    Keep {
        row: Row,
        call: Option<CallId>,
    },
    Tell(Event),
}

/// A leg that is one from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegBegins {
    pub call: CallId,
    pub leg: LegId,
    pub media: SessionId,
    pub direction: LegDirection,
    /// The side of the one who called.
    pub near: bool,
    /// Who is there; [`MacAddr::NOBODY`] outside.
    pub mac: MacAddr,
    pub from: String,
    pub to: String,
    /// Who has sent the call there.
    pub diverted_by: Option<String>,
}

/// Who is shown to the phone that rings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerId {
    pub user: String,
    pub display_name: String,
}

impl CallerId {
    /// Somebody who does not want to be known.
    pub fn hidden() -> Self {
        Self { user: HIDDEN.to_owned(), display_name: String::new() }
    }

    pub fn is_hidden(&self) -> bool {
        self.user == HIDDEN
    }
}
