//! Phones show with whom they talk: who is called, who has answered, and who it is after a transfer or a pick-up.
//!
//! Phones of ours only: to the outside a call shows what its trunk wants shown.

use super::{
    Action, CallerId, Switch,
    state::{Place, Side},
};
use crate::{call::half::Half, model::CallId, sip::ua::LegId};

impl Switch {
    /// Tells the phone of this leg who is at the other end by now.
    pub(super) fn identify(&mut self, id: CallId, leg: LegId) {
        let Some(call) = self.calls.get(&id) else { return };
        let Some(half) = call.place_of(leg).and_then(|place| call.side(place).one()).filter(|half| half.owned) else { return };
        if let Some(who) = call.other_of(half.leg).map(shown) {
            self.actions.push_back(Action::Identify { leg, who });
        }
    }

    /// The caller sees whose phone rings.
    pub(super) fn identify_callee(&mut self, id: CallId, callee: LegId) {
        let Some(call) =
            self.calls.get(&id).filter(|call| call.place_of(callee) == Some(Place::Far) && !matches!(call.far, Side::Paged(_)))
        else {
            return;
        };
        let (Side::One(near), Some(far)) = (&call.near, call.far.halves().iter().find(|half| half.leg == callee)) else { return };
        if near.owned {
            self.actions.push_back(Action::Identify { leg: near.leg, who: shown(far) });
        }
    }
}

pub(super) fn shown(half: &Half) -> CallerId {
    match half.hides {
        true => CallerId::hidden(),
        false => CallerId { user: half.user.clone(), display_name: half.name.clone() },
    }
}
