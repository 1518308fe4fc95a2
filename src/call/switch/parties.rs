//! Who is in a call, for those who watch its users: told anew of each call that something has happened to.

use super::{
    CallerId, Switch,
    state::{Call, Side},
};
use crate::{
    call::{
        half::{Half, HalfState},
        presence::{DialogState, End, Lamp, Party},
    },
    model::CallId,
    sdp::Direction,
};

impl Switch {
    /// A call that something has happened to since it was last asked for, and who is in it now: nobody once it is over.
    /// Drain to `None` after every `handle_*`.
    pub fn poll_parties(&mut self) -> Option<(CallId, Vec<Party>)> {
        let id = self.touched.pop_first()?;
        let call = self.calls.get(&id);
        let (parties, lamp) = (call.map(Call::parties).unwrap_or_default(), call.and_then(Call::lamp));
        self.desk.light(id, lamp);
        Some((id, parties))
    }
}

impl Call {
    fn parties(&self) -> Vec<Party> {
        let callee = self.far.one().map_or(self.dialled.as_str(), |half| half.user.as_str());
        let near = self.near.halves().iter().map(|half| {
            // Of a call that the API began, the one who wanted it is called first.
            let initiator = matches!(self.near, Side::One(_));
            let peer = (callee.to_owned(), None);
            self.party(half, End::Near, initiator, peer)
        });
        let far = self.far.halves().iter().map(|half| {
            let peer = (self.shown.user.clone(), Some(self.shown.display_name.clone()));
            self.party(half, End::Far, false, peer)
        });
        near.chain(far).collect()
    }

    /// The lamp that the call lights: of the place where it waits, of the group that it rings at or that hears it.
    fn lamp(&self) -> Option<(String, Lamp)> {
        let state = match &self.far {
            Side::Parked => DialogState::Confirmed,
            Side::Paged(page) if page.is_heard() => DialogState::Confirmed,
            Side::Ringing(_) | Side::Paged(_) => DialogState::Early,
            _ => return None,
        };
        let resource = match (&self.far, &self.parked, &self.seeking) {
            (Side::Paged(page), ..) => page.number.clone(),
            (_, Some(parked), _) if state == DialogState::Confirmed => parked.place.clone(),
            (_, None, Some(seeking)) if seeking.group => seeking.user.clone(),
            _ => return None,
        };
        let CallerId { user, display_name } = self.shown.clone();
        Some((resource, Lamp { state, peer: user, peer_name: display_name }))
    }

    fn party(&self, half: &Half, end: End, initiator: bool, (peer, peer_name): (String, Option<String>)) -> Party {
        let state = match half.state {
            _ if half.is_up() => DialogState::Confirmed,
            // A phone that we call and that is the near side rings for sure: nobody else could.
            HalfState::Called if end == End::Near => DialogState::Early,
            _ if self.rang => DialogState::Early,
            _ => DialogState::Trying,
        };
        let held = half.is_up() && matches!(half.wants, Direction::SendOnly | Direction::Inactive);
        let peer_name = peer_name.filter(|name| !name.is_empty());
        Party { user: half.user.clone(), end, leg: half.leg, state, initiator, peer, peer_name, held }
    }
}
