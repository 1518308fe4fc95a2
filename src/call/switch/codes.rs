//! Star codes: a phone dials one, and something of its user's is changed, taken or called. What changes is stored before
//! the phone hears so. The service says what is set now ([`Confirmation`]); where it has no room, a beep says that it is done.

use std::time::{Duration, Instant};

use super::{
    Action, Incoming, Purpose, Switch, World,
    desk::wall,
    state::{Place, Side},
};
use crate::{
    call::{
        half::{Cause, HalfState},
        routing::Errand,
    },
    features::{CallBack, Change, Code, Confirmation, book::Row},
    model::{CallId, Event, Extension},
    routing::hours::Switch as Night,
    sdp::Description,
};

/// How long the beep is listened to.
const HEARD: Duration = Duration::from_millis(1500);
/// How long the disk may take.
const STORED_WITHIN: Duration = Duration::from_secs(10);

/// The number that a code stands for, and how it is called.
pub(super) struct Coded {
    pub(super) dialled: String,
    /// The caller does not want to be known.
    pub(super) hides: bool,
    /// The called phone answers by itself.
    pub(super) auto_answer: bool,
}

impl Switch {
    /// A code was dialled by somebody who has an extension. `Some`: it stands for a number to be called.
    pub(super) fn handle_code(&mut self, now: Instant, world: &mut dyn World, incoming: &Incoming, code: Code) -> Option<Coded> {
        let user = incoming.caller.user.clone();
        let last = self.desk.last.get(&user).cloned().unwrap_or_default();
        let plain = |number: Option<String>| number.map(|dialled| Coded { dialled, hides: false, auto_answer: false });
        let change = match code {
            Code::Forward { when, to } => Change::Forward { when, to },
            Code::DoNotDisturb(on) => Change::DoNotDisturb(on),
            Code::ToggleDoNotDisturb => Change::DoNotDisturb(!self.desk.book.of(&user).is_some_and(|wishes| wishes.do_not_disturb)),
            Code::CallWaiting(on) => Change::OneCallOnly(!on),
            Code::RefuseHidden(on) => Change::RefuseHidden(on),
            Code::Block(number) => Change::Block(number),
            Code::Unblock(number) => Change::Unblock(number),
            Code::SetSpeedDial { key, to } => Change::Speed { key, to },
            Code::BlockLast => match last.caller {
                Some(caller) => Change::Block(caller),
                None => return self.no_such(incoming),
            },
            Code::Pickup(at) => return self.pick_up(now, world, incoming, |user| user == at),
            Code::GroupPickup => {
                let rules = self.config.features.clone();
                return self.pick_up(now, world, incoming, |at| rules.picks_up(&user, at));
            }
            Code::Intercom(to) => return Some(Coded { dialled: to, hides: false, auto_answer: true }),
            Code::Hidden(to) => return Some(Coded { dialled: to, hides: true, auto_answer: false }),
            Code::Redial => return plain(last.dialled).or_else(|| self.no_such(incoming)),
            Code::CallReturn => return plain(last.caller).or_else(|| self.no_such(incoming)),
            Code::SpeedDial(key) => {
                let number = self.desk.book.of(&user).and_then(|wishes| wishes.speed.get(&key).cloned());
                return plain(number).or_else(|| self.no_such(incoming));
            }
            Code::CallBack => return self.want_call_back(now, world, incoming, last.dialled),
            Code::CancelCallBack => {
                let row = self.desk.call_backs.remove(&user);
                return self.confirm(now, world, incoming, row, Confirmation::CallBack { to: None });
            }
            Code::Diagnosis => {
                let Ok(offer) = incoming.offer.as_deref().map(Description::parse).transpose() else {
                    return self.no(incoming, Cause::NothingInCommon);
                };
                let id = self.new_id(world);
                self.enter_service(now, world, id, incoming.clone(), offer, Errand::Diagnosis);
                return None;
            }
            Code::Night(key) => {
                let Some(hours) = self.config.features.night.get(&key).cloned() else { return self.no_such(incoming) };
                if !self.config.features.may_turn_night(&user) {
                    return self.confirm(now, world, incoming, None, Confirmation::NotAllowed);
                }
                let to = if self.desk.book.night(&hours) == Night::Auto { Night::Night } else { Night::Auto };
                let Some(row) = self.turn_night(&hours, to) else { return self.no_such(incoming) };
                tracing::info!(%user, %hours, to = to.as_str(), "night switch turned");
                return self.confirm(now, world, incoming, Some(row), Confirmation::Night { closed: to == Night::Night });
            }
        };
        match self.desk.book.change(&user, change.clone()) {
            Ok(row) => self.confirm(now, world, incoming, Some(row), Confirmation::Changed(change)),
            Err(fault) => {
                tracing::info!(%user, %fault, "a star code is refused");
                self.confirm(now, world, incoming, None, Confirmation::Impossible)
            }
        }
    }

    fn no(&mut self, incoming: &Incoming, cause: Cause) -> Option<Coded> {
        self.refuse(incoming, cause);
        None
    }

    fn no_such(&mut self, incoming: &Incoming) -> Option<Coded> {
        self.no(incoming, Cause::Unknown)
    }

    fn want_call_back(&mut self, now: Instant, world: &mut dyn World, incoming: &Incoming, to: Option<String>) -> Option<Coded> {
        let from = incoming.caller.user.parse::<Extension>();
        let to = to.filter(|to| world.is_extension(to)).and_then(|to| to.parse::<Extension>().ok());
        let (Ok(from), Some(to)) = (from, to) else { return self.no_such(incoming) };
        let done = Confirmation::CallBack { to: Some(to.to_string()) };
        let patience = i64::try_from(self.config.features.call_back.as_secs()).unwrap_or(i64::MAX);
        let wanted = CallBack { from, to, until: wall(world).plus_secs(patience) };
        tracing::info!(from = %wanted.from, to = %wanted.to, "wants to be called back");
        let Some(row) = self.desk.call_backs.add(wanted) else { return self.no(incoming, Cause::Overload) };
        self.confirm(now, world, incoming, Some(row), done)
    }

    /// Answers once the row, if there is one, is stored, and has the service say what is done. Without a row and a place there it
    /// is refused if nothing was done.
    fn confirm(&mut self, now: Instant, world: &mut dyn World, incoming: &Incoming, row: Option<Row>, done: Confirmation) -> Option<Coded> {
        let Ok(offer) = incoming.offer.as_deref().map(Description::parse).transpose() else {
            return self.no(incoming, Cause::NothingInCommon);
        };
        let id = self.new_id(world);
        let errand = Errand::Confirm(done);
        let spoken = world.reserve_service(id, &errand);
        if !spoken && matches!(errand, Errand::Confirm(Confirmation::NotAllowed | Confirmation::Impossible)) {
            return self.no(incoming, Cause::NotAllowed);
        }
        let purpose = if spoken { Purpose::Service(id) } else { Purpose::Bridge { near: None } };
        let Some(half) = self.near_half(world, incoming, offer, purpose) else {
            if spoken {
                self.actions.push_back(Action::ServiceEnded { call: id, cause: Cause::Overload });
            }
            return self.no(incoming, Cause::Overload);
        };
        let mut call = self.new_call(now, incoming);
        call.near = Side::One(Box::new(half));
        call.far = Side::Code { spoken };
        call.errand = errand;
        self.insert(now, id, call);
        self.set_deadline(id, now + STORED_WITHIN);
        match row {
            Some(row) => self.actions.push_back(Action::Keep { row, call: Some(id) }),
            None => self.kept(now, id, true),
        }
        None
    }

    /// What a star code has changed is stored, or cannot be.
    pub fn kept(&mut self, now: Instant, id: CallId, stored: bool) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Side::Code { spoken } = call.far else { return };
        if !stored {
            return self.end(now, id, Cause::Overload, None, None);
        }
        if spoken {
            call.far = Side::Menu { handed: false };
            if let Some(at) = call.deadline.take() {
                self.deadlines.remove(&(at, id));
            }
            self.answer_near(now, id, None);
        } else if self.answer_near(now, id, None)
            && let Some(near) = self.calls.get(&id).and_then(|call| call.near.one())
        {
            self.actions.push_back(Action::Beep { media: near.media.id });
            self.set_deadline(id, now + HEARD);
        }
    }

    /// The one who calls takes a call that rings elsewhere, the oldest first.
    fn pick_up(&mut self, now: Instant, world: &mut dyn World, incoming: &Incoming, may: impl Fn(&str) -> bool) -> Option<Coded> {
        let rings = self.calls.iter().filter(|(_, call)| {
            let group = call.seeking.as_ref().is_some_and(|seeking| seeking.group && may(&seeking.user));
            let Side::Ringing(halves) = &call.far else { return false };
            call.caller.user != incoming.caller.user
                && call.ways.is_none()
                && call.near.one().is_some()
                && (group || halves.iter().any(|half| may(&half.user) && matches!(half.state, HalfState::Called)))
        });
        let Some(id) = rings.min_by_key(|(_, call)| call.started).map(|(id, _)| *id) else { return self.no_such(incoming) };
        match self.put_through(now, world, incoming, id, Place::Far, true) {
            Ok(()) => tracing::info!(call = %id, by = %incoming.caller.user, "picked up"),
            Err(status) => self.refuse_with(incoming, status),
        }
        None
    }

    /// Says no with this status.
    pub(super) fn refuse_with(&mut self, incoming: &Incoming, status: u16) {
        self.actions.push_back(Action::Refuse { leg: incoming.leg, status, retry_after_secs: None });
    }

    /// Somebody has taken a call that was up already.
    pub(super) fn tell_answered(&mut self, id: CallId) {
        let Some(call) = self.calls.get(&id) else { return };
        let answered = Event::CallAnswered { call: id, to: call.answerer(), mac: call.mac };
        self.tell(answered);
    }
}
