//! What the switch remembers for the features of an office: wishes, turns, park places, last numbers, call-backs, lamps.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use super::{Action, Switch, World};
use crate::{
    call::{
        inbound::HIDDEN,
        presence::{DialogState, Lamp},
    },
    features::{
        Book, CallBacks, Change, Places, Wishes,
        book::{self, Row},
        group::Turns,
    },
    model::{CallId, NumberHash, Timestamp},
    routing::hours::Switch as Night,
    store::{CallLeg, LegDirection},
};

#[derive(Default)]
pub(super) struct Desk {
    pub(super) book: Book,
    pub(super) turns: Turns,
    pub(super) places: Places,
    /// Of each extension that has called or was called.
    pub(super) last: HashMap<String, Last>,
    pub(super) call_backs: CallBacks,
    /// A call has ended, or a phone has come, since call-backs were looked at.
    pub(super) someone_free: bool,
    /// The lamp of a number that each call lights: of its group, of its park place.
    lit: HashMap<CallId, (String, Lamp), NumberHash>,
    /// Who lights each lamp, oldest first.
    lighting: HashMap<String, Vec<CallId>>,
    lamps: VecDeque<(String, Option<Lamp>)>,
}

/// The last numbers of an extension.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Last {
    pub(super) dialled: Option<String>,
    pub(super) caller: Option<String>,
}

impl Desk {
    #[cfg(test)]
    pub(super) fn is_dark(&self) -> bool {
        self.lit.is_empty() && self.lighting.is_empty()
    }

    /// What this call lights now.
    pub(super) fn light(&mut self, call: CallId, now: Option<(String, Lamp)>) {
        let before = match now.clone() {
            Some(now) => self.lit.insert(call, now),
            None => self.lit.remove(&call),
        };
        if before == now {
            return;
        }
        let now = now.map(|(resource, _)| resource);
        // One that it lights already is told once.
        let resources = [before.map(|(resource, _)| resource).filter(|before| Some(before) != now.as_ref()), now];
        for resource in resources.into_iter().flatten() {
            let calls = self.lighting.entry(resource.clone()).or_default();
            calls.retain(|one| *one != call);
            if self.lit.get(&call).is_some_and(|(own, _)| *own == resource) {
                calls.push(call);
            }
            // What rings is of more interest than what is taken.
            let lamps = calls.iter().filter_map(|call| self.lit.get(call)).map(|(_, lamp)| lamp);
            let shown = lamps.min_by_key(|lamp| lamp.state != DialogState::Early).cloned();
            if calls.is_empty() {
                self.lighting.remove(&resource);
            }
            self.lamps.push_back((resource, shown));
        }
    }
}

impl Switch {
    /// A lamp that has changed. Drain to `None` after [`Self::poll_parties`].
    pub fn poll_lamp(&mut self) -> Option<(String, Option<Lamp>)> {
        self.desk.lamps.pop_front()
    }

    /// What an extension wishes.
    pub fn wishes(&self, extension: &str) -> Wishes {
        self.desk.book.of(extension).cloned().unwrap_or_default()
    }

    /// Changes what an extension wishes. It counts at once; say so to nobody before the row is stored.
    pub fn wish(&mut self, extension: &str, change: Change) -> Result<Row, book::Error> {
        self.desk.book.change(extension, change)
    }

    /// Every night switch that the plan has.
    pub fn nights(&self) -> Vec<(String, Night)> {
        self.config.plan.hours().map(|hours| (hours.to_owned(), self.desk.book.night(hours))).collect()
    }

    /// Turns a night switch. `None`: there are no such hours.
    pub fn turn_night(&mut self, hours: &str, to: Night) -> Option<Row> {
        self.config.plan.hours().any(|known| known == hours).then_some(())?;
        let lamp = Lamp { state: DialogState::Confirmed, peer: String::new(), peer_name: hours.to_owned() };
        for (key, _) in self.config.features.night.iter().filter(|(_, own)| *own == hours) {
            let resource = format!("{}{key}", self.config.features.codes.night);
            self.desk.lamps.push_back((resource, (to != Night::Auto).then(|| lamp.clone())));
        }
        Some(self.desk.book.set_night(hours, to))
    }

    /// Puts back what was stored of wishes, switches and call-backs.
    pub fn restore(&mut self, rows: Vec<(String, String)>) {
        self.desk.someone_free = true;
        for (key, value) in rows {
            if !self.desk.book.restore(&key, &value) && !self.desk.call_backs.restore(&key, &value) {
                tracing::warn!(key, "what is stored of the office's wishes cannot be read: it does not count");
            }
        }
        for (hours, to) in self.nights() {
            if to != Night::Auto {
                self.turn_night(&hours, to);
            }
        }
    }

    /// Takes the last numbers from the account of who called whom, the newest first. `known`: is this an extension? Of a call
    /// that was refused before a phone rang, the called has no record: whoever called so is forgotten at a restart.
    pub fn remember(&mut self, legs: Vec<CallLeg>, known: impl Fn(&str) -> bool) {
        let rules = self.config.features.clone();
        let is_number = |dialled: &str| {
            rules.codes.read(dialled).is_none() && !rules.is_place(dialled) && rules.park_number.as_deref() != Some(dialled)
        };
        for CallLeg { leg, direction, from, to, dialled, .. } in legs.into_iter().filter(|leg| leg.mac.is_some()) {
            match direction {
                LegDirection::In if known(&from) && is_number(&to) => {
                    self.desk.last.entry(from).or_default().dialled.get_or_insert(to);
                }
                // The first leg of a call that a program began is of the one who wanted it; those of a group are nobody's own.
                LegDirection::Out if leg > 1 && from != HIDDEN && !rules.has(&dialled) => {
                    let called = if known(&dialled) { dialled } else { to };
                    if known(&called) {
                        self.desk.last.entry(called).or_default().caller.get_or_insert(from);
                    }
                }
                LegDirection::In | LegDirection::Out => {}
            }
        }
    }

    /// A phone is there that was not.
    pub fn handle_phone_came(&mut self) {
        self.desk.someone_free = true;
        self.desk.call_backs.try_again();
    }

    /// Calls those who wanted to be called when somebody is free, and she is. Cheap when nothing has happened.
    pub fn handle_free(&mut self, now: Instant, world: &mut dyn World) {
        if !std::mem::take(&mut self.desk.someone_free) || self.desk.call_backs.is_empty() {
            return;
        }
        for row in self.desk.call_backs.expire(wall(world)) {
            self.actions.push_back(Action::Keep { row, call: None });
        }
        // Each one makes two busy.
        while let Some(one) =
            self.desk.call_backs.due(|user| !self.legs.is_engaged(user.as_str()) && !world.contacts(user.as_str()).is_empty())
        {
            let labels = vec![("call-back".to_owned(), one.to.to_string())];
            let wanted = super::Originate { from: one.from.clone(), to: one.to.to_string(), caller_id: None, timeout: None, labels };
            match self.originate(now, world, wanted) {
                Ok(id) => self.calls.get_mut(&id).into_iter().for_each(|call| call.call_back = true),
                Err(error) => tracing::info!(from = %one.from, to = %one.to, %error, "no call-back"),
            }
        }
    }

    /// The phone of the one who wanted a call-back rings: it is done.
    pub(super) fn call_back_rings(&mut self, id: CallId) {
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.call_back) else { return };
        call.call_back = false;
        if let Some(row) = self.desk.call_backs.remove(&call.caller.user) {
            self.actions.push_back(Action::Keep { row, call: None });
        }
    }
}

/// What the clock on the wall says, as it is stored.
pub(super) fn wall(world: &dyn World) -> Timestamp {
    Timestamp(world.wall().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lamp_shows_what_rings_first_and_goes_out_with_the_last() {
        let mut desk = Desk::default();
        let lamp = |state, peer: &str| Lamp { state, peer: peer.into(), peer_name: String::new() };
        let shown = |desk: &mut Desk| desk.lamps.drain(..).map(|(_, lamp)| lamp.map(|lamp| lamp.peer)).collect::<Vec<_>>();
        desk.light(CallId(1), Some(("600".into(), lamp(DialogState::Confirmed, "a"))));
        desk.light(CallId(1), Some(("600".into(), lamp(DialogState::Confirmed, "a"))));
        assert_eq!(shown(&mut desk), [Some("a".to_owned())]);
        desk.light(CallId(2), Some(("600".into(), lamp(DialogState::Early, "b"))));
        desk.light(CallId(2), None);
        assert_eq!(shown(&mut desk), [Some("b".to_owned()), Some("a".to_owned())]);
        desk.light(CallId(1), None);
        assert_eq!((shown(&mut desk), desk.lighting.len(), desk.lit.len()), (vec![None], 0, 0));
    }
}
