//! A leg's memory, as the user agent keeps it: its stage, and what waits for an answer. What happens to it is in the files beside.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    Invite, LegId, RequestId, SDP, Session,
    reliable::{Reliable, SentPrack},
    session::Timed,
};
use crate::sip::{
    build::{Request, Response, name_addr},
    dialog::{Dialog, DialogId},
    digest::Login,
    endpoint::{ClientTx, Endpoint, ServerTx},
    message::{Message, Method},
    name::Name,
    transport::{Flow, Transmit},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The 2xx is sent again, or given up.
    Unacknowledged,
    /// A provisional answer that must arrive is sent again, or the call is given up.
    Unheard,
    /// After 491: our change is tried again (RFC 3261 §14.1).
    ReofferAgain,
    /// A transfer that nobody has finished is forgotten.
    ReferralEnds,
    /// The session is to be refreshed, or nobody has.
    Session,
    /// The peer is to hear who is at our end now.
    Identity,
}

/// What an answer is to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Use {
    Invite(LegId),
    Reinvite(LegId),
    /// UPDATE that changes nothing.
    Refresh(LegId),
    Bye(LegId),
    Info(LegId),
    Prack(LegId),
    Refer(LegId),
    /// How a transfer goes.
    Notify(LegId),
    Outside(RequestId),
    /// BYE to a phone that answered second: nobody waits for the answer.
    Nobody,
}

pub(super) struct Leg {
    pub(super) flow: Flow,
    pub(super) stage: Stage,
    /// The owner still wants to hear of it.
    pub(super) owned: bool,
    pub(super) login: Option<Login>,
    pub(super) unacked: Option<Unacked>,
    /// A change of the peer that the owner has to answer.
    pub(super) theirs: Option<Theirs>,
    /// A change of ours that the peer has to answer.
    pub(super) ours: Option<Ours>,
    /// Hang up as soon as the ACK is here: before it, the called side may not (RFC 3261 §15).
    pub(super) bye_wanted: bool,
    /// The peer was asked to call somebody else and has not told the end of it.
    pub(super) referring: bool,
    /// Times that the present request was challenged.
    pub(super) challenged: u8,
    pub(super) timed: Option<Timed>,
    /// The peer knows UPDATE.
    pub(super) updates: bool,
    /// Who is at our end, for P-Asserted-Identity.
    pub(super) identity: Option<String>,
    /// When the peer hears of that at the latest.
    pub(super) untold: Option<Instant>,
    /// The session description that we told last and that holds.
    pub(super) said: Option<Bytes>,
    /// What the caller is told before our answer must arrive.
    pub(super) reliable: Option<Box<Reliable>>,
}

pub(super) enum Stage {
    Calling { tx: ClientTx, calling: Box<Calling> },
    Offered { tx: ServerTx, invite: Box<Message>, dialog: Box<Dialog> },
    Up(Box<Dialog>),
    Leaving(Box<Dialog>),
}

pub(super) struct Calling {
    pub(super) invite: Invite,
    pub(super) call_id: String,
    pub(super) tag: String,
    pub(super) contact: String,
    pub(super) cseq: u32,
    /// The session that is asked for, in seconds.
    pub(super) session_secs: u32,
    /// The owner has given up.
    pub(super) cancelled: bool,
    /// One per phone that has told of itself, behind a forking proxy several.
    pub(super) early: Vec<Early>,
    pub(super) pracks: Vec<SentPrack>,
}

pub(super) struct Early {
    pub(super) dialog: Dialog,
    /// Number of the last answer that came reliably.
    pub(super) rseq: Option<u32>,
    /// One of these has described the session: it may be changed already.
    pub(super) described: bool,
}

/// A 2xx of ours whose ACK is not here.
pub(super) struct Unacked {
    pub(super) tx: ServerTx,
    pub(super) response: Response,
    pub(super) cseq: u32,
    pub(super) next: Instant,
    pub(super) interval: Duration,
    pub(super) give_up: Instant,
}

pub(super) struct Theirs {
    pub(super) tx: ServerTx,
    pub(super) request: Box<Message>,
}

pub(super) struct Ours {
    pub(super) body: Bytes,
    /// `None` while it waits for its turn or after a 491.
    pub(super) tx: Option<ClientTx>,
    pub(super) cseq: u32,
    pub(super) tries: u8,
    /// Nobody but us wants it: what is said is what was said before.
    pub(super) refresh: bool,
}

pub(super) struct SentAck {
    pub(super) to_tag: String,
    pub(super) transmit: Transmit,
    /// To make a dialog of another phone's 2xx.
    pub(super) local: String,
    pub(super) local_tag: String,
    pub(super) contact: String,
    pub(super) cseq: u32,
}

pub(super) enum RepeatedAccept {
    /// The same phone again: it did not get our ACK.
    Ack(Transmit),
    /// Another phone.
    Other,
    Ignore,
}

impl SentAck {
    pub(super) fn answer_to(&self, response: &Message) -> RepeatedAccept {
        let tag = response.to().ok().and_then(|to| to.tag()).unwrap_or_default();
        match response.status() {
            Some(200..300) if tag == self.to_tag => RepeatedAccept::Ack(self.transmit.clone()),
            Some(200..300) if !self.local.is_empty() => RepeatedAccept::Other,
            _ => RepeatedAccept::Ignore,
        }
    }
}

impl Leg {
    pub(super) fn new(flow: Flow, stage: Stage, login: Option<Login>) -> Self {
        Self {
            flow,
            stage,
            owned: true,
            login,
            unacked: None,
            theirs: None,
            ours: None,
            bye_wanted: false,
            referring: false,
            challenged: 0,
            timed: None,
            updates: false,
            identity: None,
            untold: None,
            said: None,
            reliable: None,
        }
    }

    pub(super) fn dialog_mut(&mut self, id: &DialogId) -> Option<&mut Dialog> {
        match &mut self.stage {
            Stage::Calling { calling, .. } => calling.early.iter_mut().map(|early| &mut early.dialog).find(|dialog| dialog.id == *id),
            Stage::Offered { dialog, .. } | Stage::Up(dialog) | Stage::Leaving(dialog) => Some(dialog),
        }
    }

    /// A new request begins, or the last was accepted: a challenge is again the first.
    pub(super) fn calm(&mut self) {
        self.challenged = 0;
        if let Some(login) = &mut self.login {
            login.handle_success();
        }
    }

    /// Our offer, or the peer's, has its answer before the call has: an UPDATE may change the session (RFC 3311 §5.1).
    pub(super) fn is_described(&self, id: &DialogId) -> bool {
        match &self.stage {
            Stage::Calling { calling, .. } => calling.early.iter().any(|early| early.dialog.id == *id && early.described),
            Stage::Offered { .. } => self.reliable.as_ref().is_some_and(|reliable| reliable.described),
            Stage::Up(_) | Stage::Leaving(_) => true,
        }
    }

    /// Whether the Call-ID is ours.
    pub(super) fn we_called(&self) -> bool {
        match &self.stage {
            Stage::Calling { .. } => true,
            Stage::Offered { .. } => false,
            Stage::Up(dialog) | Stage::Leaving(dialog) => dialog.we_called(),
        }
    }
}

impl Calling {
    /// From, with our tag.
    pub(super) fn local(&self) -> String {
        format!("{};tag={}", name_addr(&self.invite.from.0, &self.invite.from.1), self.tag)
    }

    pub(super) fn request(&self, endpoint: &Endpoint, session: Session) -> Request {
        let request = Request::new(Method::Invite, self.invite.uri.as_str());
        let request = self.invite.routes.iter().fold(request, |request, route| request.header(Name::Route, route));
        let request = request
            .header(Name::From, self.local())
            .header(Name::To, format_args!("<{}>", self.invite.to))
            .header(Name::CallId, &self.call_id)
            .header(Name::CSeq, format_args!("{} INVITE", self.cseq))
            .header(Name::Contact, &self.contact)
            .header(Name::Allow, endpoint.config().abilities.allow())
            .header(Name::Supported, endpoint.config().abilities.supported());
        let request = session.ask(self.session_secs, request);
        let request = self.invite.headers.iter().fold(request, |request, (name, value)| request.header_named(name, value));
        match &self.invite.offer {
            Some(offer) => request.body(SDP, offer.clone()),
            None => request,
        }
    }
}
