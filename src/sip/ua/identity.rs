//! Who is at our end of a call, told to the peer by P-Asserted-Identity (RFC 3325): in what we answer, and while the call is up
//! as soon as it changes, so that a phone shows with whom it talks after a transfer (RFC 4916, without its From).
//!
//! A change that is on its way anyhow takes it along; otherwise an UPDATE does. Peers that know no UPDATE are left alone.

use std::time::{Duration, Instant};

use super::{
    LegId, UserAgent,
    leg::{Stage, Timer},
};
use crate::sip::{build::Response, endpoint::Endpoint, name::Name};

/// What changes the session comes along with the news: long enough for it, too short for a person to wonder.
const WAIT: Duration = Duration::from_millis(300);

impl UserAgent {
    /// `identity`: a name-addr. The owner answers for it that the peer may know.
    pub fn identify(&mut self, now: Instant, id: LegId, identity: String) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        if leg.identity.as_ref() == Some(&identity) {
            return;
        }
        leg.identity = Some(identity);
        if matches!(leg.stage, Stage::Up(_)) && leg.updates && leg.untold.is_none() {
            leg.untold = Some(now + WAIT);
            self.schedule.insert((now + WAIT, id, Timer::Identity));
        }
    }

    pub(super) fn tell_identity(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id).filter(|leg| matches!(leg.stage, Stage::Up(_))) else { return };
        if leg.ours.is_some() || leg.theirs.is_some() || leg.unacked.is_some() {
            leg.untold = Some(now + WAIT);
            self.schedule.insert((now + WAIT, id, Timer::Identity));
        } else {
            leg.untold = None;
            self.refresh(now, endpoint, id);
        }
    }

    /// The peer is told, or there is nobody any more to be told.
    pub(super) fn identity_is_told(&mut self, id: LegId) {
        if let Some(at) = self.legs.get_mut(&id).and_then(|leg| leg.untold.take()) {
            self.schedule.remove(&(at, id, Timer::Identity));
        }
    }
}

/// An answer that says who we are.
pub(super) fn identified(response: Response, identity: Option<&String>) -> Response {
    match identity {
        Some(identity) => response.header(Name::PAssertedIdentity, identity),
        None => response,
    }
}
