//! A page: one speaks, and many phones, which take the call by themselves, let it be heard (paging groups).
//!
//! ```text
//!  near       far
//!  Offered    Paged      its phones are called at once; the first that takes the call: answer near, it hears
//!  Up         Paged      all have said yes or no, or 3 s are over: a tone for who speaks; who did not is called off
//!  Up         Paged      phones come to hear no more when they hang up; with the last, and with who speaks, it is over
//! ```
//! The phones are offered a session in which they only hear: no microphone is open. Who is a member: [`crate::features::paging`].
//! Not here: how many hear one (`media`).

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    Action, CallerId, Switch, World,
    ringing::groups,
    state::{Place, Side},
};
use crate::{
    call::half::{Cause, Half, HalfState},
    features::Paging,
    model::{CallId, Event},
    sdp::{self, Description, Direction},
    sip::ua::LegId,
};

/// Phones that are called for one page at most; a member may have several.
const MOST_PHONES: usize = 200;
/// A phone that takes the call by itself does so at once; one that rings until then does not.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);
/// How long the others get once the first has taken the call.
const GATHERED_WITHIN: Duration = Duration::from_secs(3);

/// The far side of a page.
pub(super) struct Page {
    /// The number of the group.
    pub(super) number: String,
    /// Phones that are called, and those that hear.
    pub(super) halves: Vec<Half>,
    /// Who speaks has heard the tone.
    open: bool,
    longest: Duration,
}

impl Page {
    pub(super) fn is_heard(&self) -> bool {
        self.halves.iter().any(Half::is_up)
    }

    fn is_awaited(&self) -> bool {
        self.halves.iter().any(|half| !half.is_up())
    }
}

impl Switch {
    /// The near side of a call speaks to a group.
    pub(super) fn page(&mut self, now: Instant, world: &mut dyn World, id: CallId, group: &Paging) {
        let Some(call) = self.calls.get(&id) else { return };
        let Some(near) = call.near.one() else { return };
        // Nobody outside speaks to all, and nobody because somebody else sent the call there.
        if !near.owned || !call.diversions.is_empty() || call.transfer.is_some() || call.lent || !group.may_speak(&near.user) {
            return self.nobody(now, world, id, Cause::NotAllowed, None);
        }
        let (near_leg, own, speaker) = (near.leg, near.device_line(), near.user.clone());
        let wanted = |member: &str| group.disturbs || self.desk.book.of(member).is_none_or(|wishes| !wishes.do_not_disturb);
        let free = |member: &str| member != speaker && (group.interrupts || !self.is_engaged(member));
        let members: Vec<_> = group.members.iter().filter(|member| wanted(member.as_str()) && free(member.as_str())).cloned().collect();
        let phones: Vec<_> = groups(world, &members, |contact| contact.device_line() != own, MOST_PHONES).into_iter().flatten().collect();
        if phones.is_empty() {
            return self.nobody(now, world, id, if members.is_empty() { Cause::Busy } else { Cause::Unavailable }, None);
        }
        let Some(mut plan) = self.far_plan(id) else { return };
        (plan.auto_answer, plan.direction) = (true, Direction::SendOnly);
        let mut halves = self.ring(world, id, phones, &plan);
        if halves.is_empty() {
            return self.nobody(now, world, id, Cause::Overload, None);
        }
        halves.iter_mut().for_each(|half| half.listens = true);
        let (number, longest) = (group.number.to_string(), Duration::from_secs(group.longest_secs.into()));
        if let Some(call) = self.calls.get_mut(&id) {
            call.far = Side::Paged(Page { number: number.clone(), halves, open: false, longest });
        }
        self.actions.push_back(Action::Identify { leg: near_leg, who: CallerId { user: number, display_name: group.name.clone() } });
        self.set_deadline(id, now + TAKEN_WITHIN);
    }

    /// A phone takes the call: it hears from now on.
    pub(super) fn on_page_answered(&mut self, now: Instant, world: &mut dyn World, id: CallId, leg: LegId, body: Option<Bytes>) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let (Side::One(near), Side::Paged(page)) = (&call.near, &mut call.far) else { return };
        let (near_media, near_up, first) = (near.media.id, near.is_up(), !page.is_heard());
        let Some(half) = page.halves.iter_mut().find(|half| half.leg == leg) else { return };
        let agreed = body
            .ok_or(sdp::Error::NotSdp)
            .and_then(|body| Description::parse(&body))
            .and_then(|answer| half.sdp.accept(&answer, Direction::SendOnly));
        let Ok(params) = agreed else {
            self.actions.push_back(Action::Hangup { leg, elsewhere: false });
            return self.on_page_left(now, world, id, leg, Cause::NothingInCommon);
        };
        (half.state, half.told) = (HalfState::Up, Direction::SendOnly);
        let media = half.media.id;
        self.actions.extend([Action::SetRemote { media, params }, Action::Overhear { media, whom: near_media }]);
        if first {
            self.set_deadline(id, now + GATHERED_WITHIN);
            match near_up {
                true => self.tell_heard(now, id),
                // In the sound format that the speaker likes best: those who hear may have several.
                false if !self.answer_near(now, id, None) => return,
                false => {}
            }
        }
        self.open_page(now, id);
    }

    /// An originated call is a page now.
    fn tell_heard(&mut self, now: Instant, id: CallId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.answered.get_or_insert(now);
        let answered = Event::CallAnswered { call: id, to: call.answerer(), mac: call.mac };
        self.tell(answered);
    }

    /// A phone does not take the call, or hangs up.
    pub(super) fn on_page_left(&mut self, now: Instant, world: &mut dyn World, id: CallId, leg: LegId, cause: Cause) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Side::Paged(page) = &mut call.far else { return };
        let Some(at) = page.halves.iter().position(|half| half.leg == leg) else { return };
        let half = page.halves.swap_remove(at);
        let nobody_left = page.halves.is_empty();
        self.legs.remove(leg);
        self.desk.someone_free = true;
        self.actions.push_back(Action::CloseMedia { media: half.media.id });
        match nobody_left {
            true if half.is_up() => self.end(now, id, Cause::CalleeHungUp, None, None),
            true => self.nobody(now, world, id, cause, None),
            false => self.open_page(now, id),
        }
    }

    /// Who speaks may begin, if nobody is waited for any more.
    fn open_page(&mut self, now: Instant, id: CallId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let (Side::One(near), Side::Paged(page)) = (&call.near, &mut call.far) else { return };
        if page.open || page.is_awaited() || !page.is_heard() {
            return;
        }
        page.open = true;
        let (media, longest) = (near.media.id, page.longest);
        self.actions.push_back(Action::Beep { media });
        self.set_deadline(id, now + longest);
        self.touched.insert(id);
    }

    /// Who has not taken the call by now does not do so by itself. `false`: this is no page.
    pub(super) fn on_page_timeout(&mut self, now: Instant, world: &mut dyn World, id: CallId) -> bool {
        let Some(Side::Paged(page)) = self.calls.get(&id).map(|call| &call.far) else { return false };
        if page.open {
            self.end(now, id, Cause::TooLong, None, None);
            return true;
        }
        let late: Vec<_> = page.halves.iter().filter(|half| !half.is_up()).map(|half| half.leg).collect();
        for leg in late {
            self.actions.push_back(Action::Hangup { leg, elsewhere: false });
            self.on_page_left(now, world, id, leg, Cause::NoAnswer);
        }
        true
    }

    /// Is this leg one of a page's phones?
    pub(super) fn is_paged(&self, id: CallId, leg: LegId) -> bool {
        let call = self.calls.get(&id);
        call.is_some_and(|call| matches!(call.far, Side::Paged(_)) && call.place_of(leg) == Some(Place::Far))
    }
}
