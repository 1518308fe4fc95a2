//! REFER: the peer asks us to transfer its call, and is told by NOTIFY how that goes (RFC 3515, 4488, 5589).
//!
//! A referral outlives its leg: many phones hang up as soon as their REFER is accepted, and the subscription goes on in the
//! dialog that the BYE has ended for the call (RFC 5057). Not here: REFER outside of a dialog, its refresh by SUBSCRIBE.

use std::time::{Duration, Instant};

use super::{
    LegEvent, LegId, UserAgent,
    leg::{Stage, Timer, Use},
};
use crate::sip::{
    build::{Response, reason_phrase},
    dialog::{Dialog, Replaces},
    endpoint::{Endpoint, ServerTx},
    header::text,
    message::{Message, Method},
    name::Name,
    transport::Flow,
};

/// What a REFER asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refer {
    /// User part of Refer-To, unescaped.
    pub to: String,
    /// Which device of theirs, if it says so (RFC 5627).
    pub gr: Option<String>,
    /// The call that the referrer has there already, to be taken over.
    pub replaces: Option<LegId>,
}

/// One REFER, from its arrival to its last NOTIFY.
pub(super) struct Referral {
    /// Until the owner has said yes or no.
    asked: Option<(ServerTx, Box<Message>)>,
    /// The REFER's CSeq: tells several subscriptions of one dialog apart (RFC 3515 §2.4.6).
    id: u32,
    /// The referrer wants no NOTIFY (RFC 4488).
    quiet: bool,
    expires: Instant,
    /// The dialog, once the leg is gone.
    kept: Option<(Box<Dialog>, Flow)>,
}

/// How long a transfer may take: longer than any phone rings.
const LONGEST: Duration = Duration::from_secs(300);

impl UserAgent {
    /// Asks the peer to call somebody else: what a phone does to transfer. [`LegEvent::ReferProgress`] tells how it goes.
    pub fn refer(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, refer_to: &str) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Stage::Up(dialog) = &mut leg.stage else { return };
        let request = dialog.request(Method::Refer).header(Name::ReferTo, refer_to);
        leg.referring = true;
        let tx = endpoint.request(now, leg.flow, request);
        self.clients.insert(tx, Use::Refer(id));
    }

    /// 202 to the peer's REFER, and the first NOTIFY. [`Self::refer_progress`] must follow, up to a final status.
    pub fn accept_refer(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId) {
        let Some(referral) = self.referrals.get_mut(&id) else { return };
        let Some((tx, request)) = referral.asked.take() else { return };
        let Some(Stage::Up(dialog)) = self.legs.get(&id).map(|leg| &leg.stage) else { return };
        let response = dialog.response(&request, 202);
        let response = if referral.quiet { response.header_named("Refer-Sub", "false") } else { response };
        endpoint.respond(now, tx, response);
        self.schedule.insert((referral.expires, id, Timer::ReferralEnds));
        self.refer_progress(now, endpoint, id, 100);
    }

    pub fn refuse_refer(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, status: u16) {
        let Some((tx, request)) = self.referrals.remove(&id).and_then(|referral| referral.asked) else { return };
        endpoint.respond(now, tx, Response::to(&request, status));
    }

    /// Tells the referrer what the one whom we call has answered: 180, or a final status, which is the last word.
    pub fn refer_progress(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, status: u16) {
        let Some(referral) = self.referrals.get_mut(&id) else { return };
        let leg = self.legs.get_mut(&id);
        let (dialog, flow) = match (&mut referral.kept, leg) {
            (Some((dialog, flow)), _) => (dialog, *flow),
            (None, Some(leg)) => match &mut leg.stage {
                Stage::Up(dialog) | Stage::Leaving(dialog) => (dialog, leg.flow),
                Stage::Calling { .. } | Stage::Offered { .. } => return,
            },
            (None, None) => return,
        };
        let last = status >= 200;
        if !referral.quiet {
            let state = match last {
                true => "terminated;reason=noresource".to_owned(),
                false => format!("active;expires={}", referral.expires.saturating_duration_since(now).as_secs()),
            };
            let notify = dialog
                .request(Method::Notify)
                .header(Name::Event, format_args!("refer;id={}", referral.id))
                .header(Name::SubscriptionState, state)
                .body("message/sipfrag;version=2.0", format!("SIP/2.0 {status} {}\r\n", reason_phrase(status)));
            let tx = endpoint.request(now, flow, notify);
            self.clients.insert(tx, if last { Use::Nobody } else { Use::Notify(id) });
        }
        if last {
            self.end_referral(id);
        }
    }

    pub(super) fn handle_refer(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, tx: ServerTx, request: Message) {
        let Some(leg) = self.legs.get(&id) else { return };
        // One transfer at a time, of a call that is up.
        let busy = self.referrals.contains_key(&id) || !matches!(leg.stage, Stage::Up(_)) || leg.unacked.is_some();
        let refer = match self.read_refer(&request) {
            Ok(_) if !leg.owned => Err(481),
            Ok(_) if busy => Err(491),
            read => read,
        };
        match refer {
            Ok(refer) => {
                let quiet = request.header_named("Refer-Sub").is_some_and(|value| text(value).trim().eq_ignore_ascii_case("false"));
                let cseq = request.cseq().map_or(0, |cseq| cseq.number);
                let referral = Referral { asked: Some((tx, Box::new(request))), id: cseq, quiet, expires: now + LONGEST, kept: None };
                self.referrals.insert(id, referral);
                self.tell(id, LegEvent::Referred { refer });
            }
            Err(status) => endpoint.respond(now, tx, Response::to(&request, status)),
        }
    }

    fn read_refer(&self, request: &Message) -> Result<Refer, u16> {
        let mut all = request.name_addrs(Name::ReferTo);
        // RFC 3515 §2.4.2: exactly one.
        let (Some(Ok(target)), None) = (all.next(), all.next()) else { return Err(400) };
        let uri = target.uri().map_err(|_| 400_u16)?;
        let to = uri.user().ok_or(416_u16)?.into_owned();
        let replaces = match Replaces::in_uri(uri.headers()) {
            None => None,
            Some(Err(_)) => return Err(400),
            Some(Ok(replaces)) => Some(self.find(&replaces).ok_or(481_u16)?),
        };
        let gr = uri.params().value("gr").map(str::to_owned);
        Ok(Refer { to, gr, replaces })
    }

    /// The leg whose dialog that is. Some phones write the tags the other way round: both are looked for.
    pub fn find(&self, replaces: &Replaces) -> Option<LegId> {
        let dialog = &replaces.dialog;
        let mut swapped = dialog.clone();
        std::mem::swap(&mut swapped.local_tag, &mut swapped.remote_tag);
        self.dialogs.get(dialog).or_else(|| self.dialogs.get(&swapped)).copied()
    }

    pub(super) fn handle_refer_final(&mut self, id: LegId, status: u16) {
        if status >= 300 {
            self.handle_refer_progress(id, status, true);
        }
    }

    /// NOTIFY to a REFER of ours. 481 where there was none.
    pub(super) fn handle_notify(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, tx: ServerTx, request: &Message) {
        let of_refer = request.text(Name::Event).is_some_and(|event| event.split(';').next().is_some_and(|e| e.trim() == "refer"));
        if !of_refer || !self.legs.get(&id).is_some_and(|leg| leg.referring) {
            return endpoint.respond(now, tx, Response::to(request, 481));
        }
        endpoint.respond(now, tx, Response::to(request, 200));
        let last = request.text(Name::SubscriptionState).is_some_and(|state| state.trim().to_ascii_lowercase().starts_with("terminated"));
        // `SIP/2.0 180 Ringing`, of which only the status counts (RFC 3515 §2.4.5).
        let line = text(request.body().split(|b| *b == b'\r' || *b == b'\n').next().unwrap_or_default()).into_owned();
        if let Some(status) = line.strip_prefix("SIP/2.0 ").and_then(|rest| rest.get(..3)?.parse().ok()) {
            self.handle_refer_progress(id, status, last);
        }
    }

    fn handle_refer_progress(&mut self, id: LegId, status: u16, last: bool) {
        if let Some(leg) = self.legs.get_mut(&id) {
            leg.referring &= !last;
        }
        self.tell(id, LegEvent::ReferProgress { status });
    }

    /// What the referrer answered to a NOTIFY.
    pub(super) fn handle_notify_final(&mut self, id: LegId, status: u16) {
        // RFC 6665 §4.2.2: it does not want to know any more. The transfer goes on.
        if status >= 300
            && let Some(referral) = self.referrals.get_mut(&id)
        {
            referral.quiet = true;
        }
    }

    /// The leg is about to go: keep what its referral needs.
    pub(super) fn keep_for_referral(&mut self, id: LegId) {
        let Some(referral) = self.referrals.get_mut(&id) else { return };
        if referral.asked.is_some() {
            self.referrals.remove(&id);
            return;
        }
        if let Some(leg) = self.legs.get(&id)
            && let Stage::Up(dialog) | Stage::Leaving(dialog) = &leg.stage
        {
            referral.kept = Some((dialog.clone(), leg.flow));
        }
    }

    pub(super) fn end_referral(&mut self, id: LegId) {
        if let Some(referral) = self.referrals.remove(&id) {
            self.schedule.remove(&(referral.expires, id, Timer::ReferralEnds));
        }
    }
}
