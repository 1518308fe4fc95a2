//! A call goes elsewhere on behalf of the user whom it was for: the phone says so by a 302, or the user's settings do.
//!
//! The target is found by the plan as if that user had dialled it: whoever may not call abroad diverts nobody there. A call
//! goes on so at most [`MOST`] times, and never to somebody who has sent it away already. Who did is shown to the next
//! phone or trunk (RFC 5806, RFC 7044); whom a trunk shows as the caller is its own setting. Not here: how a 302 is read (`sip::ua`), settings of users.

use std::time::Instant;

use super::{
    Action, Switch, World,
    state::{Place, Side},
};
use crate::{
    call::{
        half::{Cause, Diversion, DiversionReason, Half},
        routing::{Caller, Errand, Route},
    },
    model::{CallId, Event, Extension, LineNumber, MacAddr},
    sip::ua::LegId,
};

/// A call that is diverted so often goes round in circles, or is meant to annoy.
const MOST: usize = 5;

/// A call is to go elsewhere.
#[derive(Clone, Debug)]
pub(super) struct Divert {
    /// The user whom it was for, and who may call the target.
    pub(super) by: String,
    /// The leg that said so and is over with it; `None` where it is a setting.
    pub(super) leg: Option<LegId>,
    /// The phone that said so; [`MacAddr::NOBODY`] where it is a setting.
    pub(super) mac: MacAddr,
    pub(super) line: LineNumber,
    /// A number as that user would dial it.
    pub(super) to: String,
    pub(super) reason: DiversionReason,
}

impl Switch {
    /// Sends a call whose caller waits elsewhere: its phones stop ringing, and those of the target ring. An error changes
    /// nothing.
    pub(super) fn divert(&mut self, now: Instant, world: &mut dyn World, id: CallId, wanted: Divert) -> Result<(), Cause> {
        let target = self.diversion(world, id, &wanted)?;
        if let Some(leg) = wanted.leg {
            self.forget_ringing(id, leg);
        }
        if self.calls.get(&id).is_some_and(|call| matches!(call.far, Side::Ringing(_))) {
            self.stop_ringing(id, Side::None);
        }
        self.go_elsewhere(now, world, id, wanted, target);
        Ok(())
    }

    /// A phone that we call names somebody else instead (302).
    pub(super) fn on_redirected(&mut self, now: Instant, world: &mut dyn World, id: CallId, leg: LegId, to: String) {
        let wanted = match self.calls.get(&id) {
            // A page goes nowhere else, nor does who has answered.
            Some(call) if call.place_of(leg) == Some(Place::Far) && matches!(call.far, Side::Ringing(_)) => {
                let half = call.far.halves().iter().find(|half| half.leg == leg);
                // Of several people who are called at once, one does not decide for the others.
                let alone = |half: &Half| call.far.halves().iter().all(|other| other.user == half.user);
                half.filter(|half| half.owned && alone(half)).map(|half| Divert {
                    by: half.user.clone(),
                    leg: Some(leg),
                    mac: half.mac,
                    line: half.line,
                    to,
                    reason: DiversionReason::Deflection,
                })
            }
            _ => None,
        };
        let diverted = wanted.ok_or(Cause::Unavailable).and_then(|wanted| self.divert(now, world, id, wanted));
        if let Err(cause) = diverted {
            self.on_refused(now, world, id, leg, cause, None);
        }
    }

    /// Where the call goes then, if it may.
    fn diversion(&self, world: &dyn World, id: CallId, wanted: &Divert) -> Result<Route, Cause> {
        let call = self.calls.get(&id).ok_or(Cause::Unavailable)?;
        if call.diversions.len() >= MOST {
            return Err(Cause::Circle);
        }
        let Divert { by, mac, line, to, .. } = wanted;
        let caller = Caller { user: by.clone(), display_name: String::new(), mac: *mac, line: *line, provisional: false };
        let been = |number: &Extension| number.as_str() == by || call.diversions.iter().any(|one| one.by == number.as_str());
        match self.route(world, &caller, None, to) {
            // The menu asks its callers who they are: nobody is sent there by somebody else.
            Route::Service | Route::Mailbox(Errand::Listen { .. } | Errand::Menu) => Err(Cause::NotAllowed),
            // Who calls for help does so himself.
            Route::Outside(ways) if ways.help.is_some() => Err(Cause::NotAllowed),
            Route::Refused(cause) => Err(cause),
            Route::Extension(number) if been(&number) => Err(Cause::Circle),
            Route::Extensions(mut all) => {
                all.retain(|number| !been(number));
                if all.is_empty() { Err(Cause::Circle) } else { Ok(Route::Extensions(all)) }
            }
            target => Ok(target),
        }
    }

    fn go_elsewhere(&mut self, now: Instant, world: &mut dyn World, id: CallId, wanted: Divert, target: Route) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Divert { by, to, reason, .. } = wanted;
        call.ways = None;
        call.seeking = None;
        call.only = None;
        call.no_sign_yet = false;
        call.dialled.clone_from(&to);
        call.diversions.push(Diversion { by: by.clone(), reason });
        let told = Event::CallDiverted { call: id, by, to, reason: reason.as_str().to_owned(), mac: call.mac };
        self.tell(told);
        self.head_for(now, world, id, target);
    }

    /// A phone that has given its final answer rings no more.
    fn forget_ringing(&mut self, id: CallId, leg: LegId) {
        let Some(Side::Ringing(halves)) = self.calls.get_mut(&id).map(|call| &mut call.far) else { return };
        let Some(at) = halves.iter().position(|half| half.leg == leg) else { return };
        let half = halves.swap_remove(at);
        self.legs.remove(leg);
        self.actions.push_back(Action::CloseMedia { media: half.media.id });
    }
}
