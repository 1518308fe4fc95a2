//! Session timers (RFC 4028): a call whose far end has vanished without a BYE ends by itself, at both ends.
//!
//! Each answer to an INVITE says how long the session lasts and who refreshes it. Whoever does sends an UPDATE, or a re-INVITE
//! where the peer knows no UPDATE, at half of it; the other hangs up a little before its end. With a peer that knows nothing of
//! this there is no timer: it would not miss the refresh, and some old phones take one for a hold.

use std::time::{Duration, Instant};

use super::{
    Ended, LegEvent, LegId, UserAgent,
    leg::{Leg, Ours, Stage, Timer, Use},
    second_try,
};
use crate::sip::{
    build::{Request, Response},
    endpoint::Endpoint,
    message::{Message, Method},
    name::Name,
};

/// The option tag.
pub(super) const TIMER: &str = "timer";
/// RFC 4028 §4: nobody may ask for less.
pub const LEAST_SESSION_SECS: u32 = 90;
/// A refresh that met something else is tried again after this.
const AGAIN: Duration = Duration::from_secs(5);

/// What we want of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// How long one lasts without a refresh; 0: we ask for nothing, and do what peers ask for.
    pub expires_secs: u32,
    /// Who asks for less is told this (422); 90 or more.
    pub min_secs: u32,
}

impl Default for Session {
    fn default() -> Self {
        Self { expires_secs: 1800, min_secs: LEAST_SESSION_SECS }
    }
}

/// 422: asks for what the peer wants at least. `false`: it wants no more than was offered.
pub(super) fn raise(secs: &mut u32, response: &Message) -> bool {
    let wanted = response.number(Name::MinSe).ok().flatten().unwrap_or(0);
    let raised = response.status() == Some(422) && wanted > *secs;
    if raised {
        *secs = wanted;
    }
    raised
}

/// A session that is timed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timed {
    pub(super) secs: u32,
    pub(super) we_refresh: bool,
    /// When the timer fires that is set.
    pub(super) at: Instant,
}

/// Session-Expires, as it stands in a message.
struct Written {
    secs: u32,
    /// Who sent the request shall refresh. `None`: it is left open.
    by_caller: Option<bool>,
}

fn written(message: &Message) -> Option<Written> {
    let text = message.text(Name::SessionExpires)?;
    let (secs, params) = text.split_once(';').unwrap_or((&text, ""));
    let refresher = params.split(';').find_map(|param| {
        let (name, value) = param.split_once('=')?;
        name.trim().eq_ignore_ascii_case("refresher").then(|| value.trim().eq_ignore_ascii_case("uac"))
    });
    Some(Written { secs: secs.trim().parse().ok()?, by_caller: refresher })
}

impl Session {
    /// What the first INVITE of a call asks for: `secs`, which a 422 may have raised. Who refreshes is for the other to say.
    pub(super) fn ask(self, secs: u32, request: Request) -> Request {
        match secs {
            0 => request,
            secs => request.header(Name::SessionExpires, secs).header(Name::MinSe, secs.min(self.min_secs)),
        }
    }

    /// A request that asks for a shorter session than we have: Min-SE for the 422. Only to whom understands it (RFC 4028 §9).
    pub(super) fn too_short(self, request: &Message) -> Option<u32> {
        let min = self.min_secs.max(LEAST_SESSION_SECS);
        written(request).filter(|asked| asked.secs < min && request.lists(Name::Supported, TIMER)).map(|_| min)
    }

    /// What a request that is accepted makes of the session: how long it lasts, and whether we refresh it (RFC 4028 §9).
    pub(super) fn of_request(self, request: &Message) -> Option<(u32, bool)> {
        let supports = request.lists(Name::Supported, TIMER) || request.lists(Name::Require, TIMER);
        let least = request.number(Name::MinSe).ok().flatten().unwrap_or(0).max(self.min_secs);
        match (written(request), self.expires_secs) {
            // A proxy in between asks, and its phone cannot: then it is for us to do.
            (Some(asked), _) if asked.secs < self.min_secs.max(LEAST_SESSION_SECS) => None,
            (Some(asked), 0) => Some((asked.secs, asked.by_caller.map_or(!supports, |by_caller| !by_caller))),
            (Some(asked), ours) => Some((asked.secs.min(ours.max(least)), asked.by_caller.map_or(!supports, |by_caller| !by_caller))),
            (None, 0) => None,
            (None, ours) => supports.then_some((ours.max(least), false)),
        }
    }
}

impl UserAgent {
    /// New terms, for calls that begin or are refreshed from now on.
    pub fn set_session(&mut self, session: Session) {
        self.config.session = session;
    }

    /// Completes a 200 to an INVITE or UPDATE, and times the session by it.
    pub(super) fn time_as_called(&mut self, now: Instant, id: LegId, request: &Message, response: Response) -> Response {
        // Before the answer there is no session yet.
        if !self.legs.get(&id).is_some_and(|leg| matches!(leg.stage, Stage::Up(_))) {
            return response;
        }
        let agreed = self.config.session.of_request(request);
        self.set_timed(now, id, agreed);
        let Some((secs, we_refresh)) = agreed else { return response };
        let refresher = if we_refresh { "uas" } else { "uac" };
        let response = response.header(Name::SessionExpires, format_args!("{secs};refresher={refresher}"));
        // RFC 4028 §9: who must refresh must know how.
        if we_refresh { response } else { response.header(Name::Require, TIMER) }
    }

    /// The peer's 200 to an INVITE or UPDATE of ours says how the session is timed.
    pub(super) fn time_as_caller(&mut self, now: Instant, id: LegId, response: &Message) {
        if let Some(leg) = self.legs.get_mut(&id) {
            leg.note_methods(response);
        }
        let agreed = written(response).filter(|agreed| agreed.secs > 0);
        self.set_timed(now, id, agreed.map(|agreed| (agreed.secs, agreed.by_caller.unwrap_or(true))));
    }

    /// Starts the timer anew, or stops it.
    pub(super) fn set_timed(&mut self, now: Instant, id: LegId, agreed: Option<(u32, bool)>) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let timed = agreed.map(|(secs, we_refresh)| {
            let whole = Duration::from_secs(secs.into());
            // RFC 4028 §10: half of it, or the end less 32 s, or less a third.
            let wait = if we_refresh { whole / 2 } else { whole - (whole / 3).min(Duration::from_secs(32)) };
            Timed { secs, we_refresh, at: now + wait }
        });
        if let Some(before) = std::mem::replace(&mut leg.timed, timed) {
            self.schedule.remove(&(before.at, id, Timer::Session));
        }
        self.schedule.extend(timed.map(|timed| (timed.at, id, Timer::Session)));
    }

    /// Time to refresh, or nobody has.
    pub(super) fn session_is_due(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId) {
        let Some(timed) = self.legs.get_mut(&id).and_then(|leg| leg.timed) else { return };
        if timed.we_refresh {
            return self.refresh(now, endpoint, id);
        }
        metrics::counter!("plugtone_sip_sessions_expired_total").increment(1);
        self.tell(id, LegEvent::Ended { how: Ended::Lost });
        self.send_bye(now, endpoint, id, Some("SIP;cause=408;text=\"Session expired\""));
    }

    pub(super) fn refresh(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        // A change that is on its way refreshes too; look again when it should be done.
        if leg.ours.is_some() || leg.theirs.is_some() || leg.unacked.is_some() {
            return self.refresh_again(now, id);
        }
        leg.calm();
        let asked = leg.asks_again(endpoint);
        let Stage::Up(dialog) = &mut leg.stage else { return };
        if leg.updates {
            let tx = endpoint.request(now, leg.flow, asked(dialog.request(Method::Update)));
            self.clients.insert(tx, Use::Refresh(id));
        } else if let Some(body) = leg.said.clone() {
            leg.ours = Some(Ours { body, tx: None, cseq: 0, tries: 0, refresh: true });
            self.send_reoffer(now, endpoint, id);
        }
    }

    /// Looks again at a refresh that could not be, and did not fail either.
    pub(super) fn refresh_again(&mut self, now: Instant, id: LegId) {
        if let Some(timed) = self.legs.get_mut(&id).and_then(|leg| leg.timed.as_mut()) {
            timed.at = now + AGAIN;
            self.schedule.insert((timed.at, id, Timer::Session));
        }
    }

    /// The answer to our UPDATE.
    pub(super) fn handle_refresh_final(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, status: u16, response: &Message) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let flow = leg.flow;
        let Stage::Up(dialog) = &mut leg.stage else { return };
        match status {
            200..300 => {
                dialog.refresh_target(response);
                self.time_as_caller(now, id, response);
            }
            401 | 407 | 422 => {
                let secs = leg.timed.as_mut().map(|timed| &mut timed.secs);
                let more = second_try(&mut leg.login, &mut leg.challenged, secs, response, &Method::Update, dialog.target(), endpoint);
                let Some(more) = more else { return self.refresh_again(now, id) };
                let asked = leg.asks_again(endpoint);
                let Stage::Up(dialog) = &mut leg.stage else { return };
                let request =
                    more.into_iter().fold(asked(dialog.request(Method::Update)), |request, (name, value)| request.header(name, value));
                let tx = endpoint.request(now, flow, request);
                self.clients.insert(tx, Use::Refresh(id));
            }
            408 | 481 => {
                self.tell(id, LegEvent::Ended { how: Ended::Lost });
                self.send_bye(now, endpoint, id, None);
            }
            491 | 500 | 503 => self.refresh_again(now, id),
            // It said that it knows UPDATE and does not.
            _ => {
                leg.updates = false;
                self.refresh(now, endpoint, id);
            }
        }
    }
}

impl Leg {
    /// What the peer can do, as its INVITE or its answer says.
    pub(super) fn note_methods(&mut self, message: &Message) {
        if message.header(Name::Allow).is_some() {
            self.updates = message.lists(Name::Allow, "UPDATE");
        }
    }

    /// What a change or refresh of ours says of itself: who refreshes goes on doing so.
    pub(super) fn asks_again(&self, endpoint: &Endpoint) -> impl Fn(Request) -> Request + use<> {
        let (timed, abilities) = (self.timed, &endpoint.config().abilities);
        let (allow, supported, identity) = (abilities.allow(), abilities.supported(), self.identity.clone());
        move |request| {
            let request = request.header(Name::Allow, &allow).header(Name::Supported, &supported);
            let request = identity.iter().fold(request, |request, identity| request.header(Name::PAssertedIdentity, identity));
            match timed {
                None => request,
                Some(Timed { secs, we_refresh, .. }) => {
                    let refresher = if we_refresh { "uac" } else { "uas" };
                    request.header(Name::SessionExpires, format_args!("{secs};refresher={refresher}"))
                }
            }
        }
    }
}
