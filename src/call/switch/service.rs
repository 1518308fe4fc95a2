//! A call goes to a service: to the voice menu, to voicemail. Where somebody dials it, and where nobody has taken a call.

use std::time::{Duration, Instant};

use super::{Action, Incoming, Purpose, Switch, World, state::Side};
use crate::{
    call::{
        half::Cause,
        routing::{Errand, Route},
    },
    model::{CallId, Extension},
    sdp::Description,
};

impl Switch {
    /// A caller is answered for a service.
    pub(super) fn enter_service(
        &mut self,
        now: Instant,
        world: &mut dyn World,
        id: CallId,
        incoming: Incoming,
        offer: Option<Description>,
        errand: Errand,
    ) {
        if !world.reserve_service(id, &errand) {
            return self.refuse(&incoming, Cause::Overload);
        }
        let Some(half) = self.near_half(world, &incoming, offer, Purpose::Service(id)) else {
            self.actions.push_back(Action::ServiceEnded { call: id, cause: Cause::Overload });
            return self.refuse(&incoming, Cause::Overload);
        };
        let mut call = self.new_call(now, &incoming);
        call.near = Side::One(Box::new(half));
        call.far = Side::Menu { handed: false };
        call.errand = errand;
        self.insert(now, id, call);
        self.answer_near(now, id, None);
    }

    /// A call whose near side is there goes to a service; whoever rings for it rings no more. `false`: there is no room, and
    /// nothing has changed.
    pub(super) fn go_to_service(&mut self, now: Instant, world: &mut dyn World, id: CallId, errand: Errand) -> bool {
        let near_up = match self.calls.get(&id).and_then(|call| call.near.one()) {
            Some(near) => near.is_up(),
            None => return false,
        };
        if !world.reserve_service(id, &errand) {
            return false;
        }
        self.stop_ringing(id, Side::Menu { handed: false });
        let Some(call) = self.calls.get_mut(&id) else { return false };
        call.errand = errand;
        call.ways = None;
        if near_up {
            call.answered.get_or_insert(now);
            self.hand_over(id);
            self.transfer_done(id);
        } else {
            self.answer_near(now, id, None);
        }
        true
    }

    /// Whose mailbox takes a call that these do not take, and how long they ring before it does.
    pub(super) fn mailbox_of(&self, world: &dyn World, targets: &[Extension]) -> Option<(Extension, Duration)> {
        let ([one], Some(rules)) = (targets, &self.config.voicemail) else { return None };
        (!rules.without.contains(one) && world.has_mailbox(one.as_str())).then(|| (one.clone(), rules.ring))
    }

    /// Does whoever calls want to leave a message then?
    pub(super) fn is_for_mailbox(cause: Cause) -> bool {
        matches!(cause, Cause::NoAnswer | Cause::Busy | Cause::Declined | Cause::Unavailable)
    }

    /// Nobody took the call: its caller may leave a message. `false`: there is no mailbox for it.
    pub(super) fn offer_mailbox(&mut self, now: Instant, world: &mut dyn World, id: CallId, cause: Cause) -> bool {
        let mailbox = self.calls.get(&id).and_then(|call| call.mailbox.clone()).filter(|_| Self::is_for_mailbox(cause));
        mailbox.is_some_and(|mailbox| self.go_to_service(now, world, id, Errand::Leave { mailbox }))
    }

    /// The service wants a number rung for its caller.
    pub(super) fn dial_for_service(&mut self, now: Instant, world: &mut dyn World, id: CallId, to: String) {
        let Some(call) = self.calls.get(&id) else { return };
        let caller = call.caller.clone();
        let route = self.route(world, &caller, None, &to);
        if matches!(route, Route::Service | Route::Mailbox(_) | Route::Refused(_)) {
            return self.actions.push_back(Action::Transferred { call: id, taken: false });
        }
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.far = Side::None;
        call.lent = true;
        call.dialled = to;
        self.head_for(now, world, id, route);
    }
}
