//! Phones ring: which, for how long, and what is said when nobody takes the call.

use std::{collections::VecDeque, mem, time::Instant};

use bytes::Bytes;

use super::{
    Action, CallerId, LegBegins, Purpose, Switch, World,
    state::{Place, Side},
};
use crate::{
    call::half::{Cause, Contact, Diversion, Half, HalfState, Sound},
    model::{CallId, Event, Extension},
    sdp::{self, Attribute, Codec, Description, Direction, Terms},
    sip::ua::LegId,
    store::LegDirection,
};

/// How phones are to be called.
pub(super) struct Plan {
    pub(super) shown: CallerId,
    pub(super) referred_by: Option<String>,
    pub(super) diversions: Vec<Diversion>,
    pub(super) auto_answer: bool,
    /// What names the caller's device.
    pub(super) gr: Option<String>,
    /// Who may speak, seen from us.
    pub(super) direction: Direction,
    pub(super) codecs: Vec<Codec>,
    pub(super) foreign: Vec<Attribute>,
    pub(super) purpose: Purpose,
    /// Of a call that the API began: the one who wanted it.
    pub(super) near: bool,
}

/// Phones that ring at once, each with the extension that it rings for.
pub(super) type Group = Vec<(Extension, Contact)>;

impl Switch {
    /// Rings the far side of a call whose near side is there.
    pub(super) fn ring_far(&mut self, now: Instant, world: &mut dyn World, id: CallId, targets: &[Extension]) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Some(near) = call.near.one() else { return };
        // Who was given something to hear already would hear nothing now.
        let (near_media, near_hears) = (near.media.id, near.is_up() || near.early.is_some());
        // The caller's own line does not ring for its own call.
        let (own, only) = (near.device_line(), call.only);
        let rings = |contact: &Contact| contact.device_line() != own && only.is_none_or(|only| contact.mac == only);
        call.later = groups(world, targets, rings, self.config.max_contacts);
        let ring_timeout = call.seeking.as_ref().and_then(|seeking| seeking.ring).unwrap_or(call.ring_timeout);
        // There are phones, but no port to talk with them: others would not help.
        let why_not = if call.later.is_empty() { Cause::Unavailable } else { Cause::Overload };
        call.each_rings = ring_timeout / u32::try_from(call.later.len()).unwrap_or(1).max(1);
        call.rang = false;
        call.early = None;
        call.failure = None;
        if !self.ring_next(now, world, id) {
            return self.nobody(now, world, id, why_not, None);
        }
        if near_hears {
            self.actions.push_back(Action::RingBack { media: near_media, on: true });
        }
    }

    /// Calls the next phones of the far side; nobody rings there now. `false`: there are none.
    fn ring_next(&mut self, now: Instant, world: &mut dyn World, id: CallId) -> bool {
        while let Some(group) = self.calls.get_mut(&id).and_then(|call| call.later.pop_front()) {
            let Some(plan) = self.far_plan(id) else { return false };
            let halves = self.ring(world, id, group, &plan);
            if let Some(call) = self.calls.get_mut(&id)
                && !halves.is_empty()
            {
                call.far = Side::Ringing(halves);
                let at = now + call.each_rings;
                self.set_deadline(id, at);
                return true;
            }
        }
        false
    }

    /// None of the phones that ring takes the call: the next ones are tried (RFC 3261 §16.6). `false`: there are none.
    pub(super) fn ring_later(&mut self, now: Instant, world: &mut dyn World, id: CallId) -> bool {
        let Some(call) = self.calls.get_mut(&id).filter(|call| !call.later.is_empty()) else { return false };
        let later = mem::take(&mut call.later);
        let hears = call.near.one().filter(|near| near.is_up() || near.early.is_some()).map(|near| near.media.id);
        self.stop_ringing(id, Side::None);
        let Some(call) = self.calls.get_mut(&id) else { return false };
        call.later = later;
        let rings = self.ring_next(now, world, id);
        if let Some(media) = hears.filter(|_| rings) {
            self.actions.push_back(Action::RingBack { media, on: true });
        }
        rings
    }

    pub(super) fn far_plan(&self, id: CallId) -> Option<Plan> {
        let call = self.calls.get(&id)?;
        let near = call.near.one()?;
        let (codecs, foreign) = self.far_codecs(id);
        Some(Plan {
            shown: call.shown.clone(),
            referred_by: call.transfer.as_ref().map(|transfer| transfer.user.clone()),
            diversions: call.diversions.clone(),
            auto_answer: call.auto_answer && call.diversions.is_empty(),
            gr: call.gr.clone(),
            direction: Direction::SendRecv,
            codecs,
            foreign,
            purpose: Purpose::Bridge { near: Some(near.media.id) },
            near: false,
        })
    }

    /// Calls these phones.
    pub(super) fn ring(&mut self, world: &mut dyn World, id: CallId, group: Group, plan: &Plan) -> Vec<Half> {
        let mut halves = Vec::new();
        for (target, contact) in group {
            let Some(media) = world.open_media(&contact.flow, plan.purpose) else { break };
            let leg = world.new_leg();
            let mut sdp = sdp::Session::new(world.random(), media.address, &plan.codecs);
            let offer = sdp.offer(plan.direction, None, &plan.foreign);
            self.legs.insert(leg, id, target.as_str());
            let mut half = Half::new(leg, target.as_str(), contact.mac, media, sdp, HalfState::Called);
            half.line = contact.line;
            half.sound = Sound::of_phone(&contact.flow);
            half.name = world.display_name(target.as_str());
            halves.push(half);
            self.actions.push_back(Action::LegBegins(Box::new(LegBegins {
                call: id,
                leg,
                media: media.id,
                direction: LegDirection::Out,
                near: plan.near,
                mac: contact.mac,
                from: plan.shown.user.clone(),
                to: target.to_string(),
                diverted_by: plan.diversions.last().map(|last| last.by.clone()).or_else(|| plan.referred_by.clone()),
            })));
            let (caller, referred_by) = (plan.shown.clone(), plan.referred_by.clone());
            let (diversions, auto_answer, gr) = (plan.diversions.clone(), plan.auto_answer, plan.gr.clone());
            self.actions.push_back(Action::Invite { leg, contact, caller, referred_by, diversions, auto_answer, gr, offer });
        }
        halves
    }

    pub(super) fn on_ringing(&mut self, now: Instant, id: CallId, leg: LegId, sdp: Option<Bytes>) {
        self.on_trying(now, id);
        self.call_back_rings(id);
        self.identify_callee(id, leg);
        let heard = sdp.is_some_and(|sdp| self.hear_early(id, leg, &sdp).is_some());
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.place_of(leg) != Some(Place::Far) || mem::replace(&mut call.rang, true) {
            return;
        }
        if let Some(near) = call.near.one().filter(|_| !heard)
            && matches!(near.state, HalfState::Offered(_))
        {
            self.actions.push_back(Action::Ring { leg: near.leg });
        }
        if let Some(transfer) = &call.transfer {
            self.actions.push_back(Action::ReferProgress { leg: transfer.leg, status: 180 });
        }
        let ringing = Event::CallRinging { call: id, to: call.dialled.clone(), mac: call.mac };
        self.tell(ringing);
    }

    /// Lets the caller hear the far side before its answer, as the announcements of a carrier. Of several phones, and of
    /// several descriptions of one, the first is heard. A caller without an offer hears nothing before the answer.
    fn hear_early(&mut self, id: CallId, leg: LegId, sdp: &[u8]) -> Option<()> {
        let call = self.calls.get_mut(&id)?;
        let (Side::One(near), Side::Ringing(halves)) = (&mut call.near, &mut call.far) else { return None };
        let far = halves.iter_mut().find(|half| half.leg == leg)?;
        // Taken down also where it is not heard: what was said reliably is not said again in the 200.
        let params = match far.sdp.agreed() {
            Some(agreed) => *agreed,
            None => far.sdp.accept(&Description::parse(sdp).ok()?, Direction::SendRecv).ok()?,
        };
        if call.early.is_some() || matches!(near.state, HalfState::Offered(None)) {
            return None;
        }
        let (near_media, far_media) = (near.media.id, far.media.id);
        let mut said = None;
        if let HalfState::Offered(Some(offer)) = &near.state
            && near.early.is_none()
        {
            let terms = Terms { prefer: Some(params.codec), ..Terms::default() };
            let (sdp, params) = near.sdp.answer(offer, terms).ok()?;
            near.early = Some(sdp.clone());
            said = Some((Action::SetRemote { media: near_media, params }, Action::Progress { leg: near.leg, sdp }));
        }
        call.early = Some(leg);
        self.actions.push_back(Action::SetRemote { media: far_media, params });
        match said {
            Some((remote, progress)) => self.actions.extend([remote, progress]),
            // It hears our own ring-back.
            None => self.actions.push_back(Action::RingBack { media: near_media, on: false }),
        }
        self.actions.push_back(Action::Bridge { near: near_media, far: far_media });
        Some(())
    }

    /// A phone that we call did not take the call.
    pub(super) fn on_refused(&mut self, now: Instant, world: &mut dyn World, id: CallId, leg: LegId, cause: Cause, status: Option<u16>) {
        let Some(place) = self.calls.get(&id).and_then(|call| call.place_of(leg)) else { return };
        if self.is_paged(id, leg) {
            return self.on_page_left(now, world, id, leg, cause);
        }
        let Some(call) = self.calls.get_mut(&id) else { return };
        let side = call.side_mut(place);
        let Side::Ringing(halves) = side else { return };
        let Some(at) = halves.iter().position(|half| half.leg == leg) else { return };
        let half = halves.swap_remove(at);
        let left = halves.len();
        self.legs.remove(leg);
        self.actions.push_back(Action::CloseMedia { media: half.media.id });
        let Some(call) = self.calls.get_mut(&id) else { return };
        // What was heard of it is over; the others ring on.
        if call.early.take_if(|early| *early == leg).is_some()
            && left > 0
            && let Some(near) = call.near.one()
        {
            self.actions.push_back(Action::RingBack { media: near.media.id, on: true });
        }
        let worst = call.failure.map_or(cause, |known| if known.rank() <= cause.rank() { known } else { cause });
        call.failure = Some(worst);
        // "Decline" is said for the person, not for one phone (RFC 3261 §21.6.2).
        if left == 0 || cause == Cause::Declined {
            if place == Place::Far && Self::may_go_elsewhere(call, status) && self.next_way(now, world, id) {
                return;
            }
            if place == Place::Far && cause != Cause::Declined && self.ring_later(now, world, id) {
                return;
            }
            self.nobody(now, world, id, worst, status);
        }
    }

    /// Nobody took the call: it is over, or goes back to the menu that wanted it transferred.
    pub(super) fn nobody(&mut self, now: Instant, world: &mut dyn World, id: CallId, cause: Cause, status: Option<u16>) {
        if self.go_on(now, world, id, cause) {
            return;
        }
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.transfer.is_some() {
            return self.transfer_failed(now, world, id, cause, status);
        }
        if !mem::take(&mut call.lent) {
            if self.offer_mailbox(now, world, id, cause) {
                return;
            }
            return self.end(now, id, cause, None, status);
        }
        self.stop_ringing(id, Side::Menu { handed: true });
        self.actions.push_back(Action::Transferred { call: id, taken: false });
    }

    /// The phones of the far side ring no more, and who waits for them hears no ring-back.
    pub(super) fn stop_ringing(&mut self, id: CallId, then: Side) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if let Some(at) = call.deadline.take() {
            self.deadlines.remove(&(at, id));
        }
        call.early = None;
        call.later.clear();
        for half in mem::replace(&mut call.far, then).into_halves() {
            self.legs.remove(half.leg);
            self.actions.push_back(Action::Hangup { leg: half.leg, elsewhere: false });
            self.actions.push_back(Action::CloseMedia { media: half.media.id });
        }
        if let Some(near) = call.near.one() {
            self.actions.push_back(Action::RingBack { media: near.media.id, on: false });
        }
    }
}

/// The phones of these extensions, those first that want to be tried first: of each extension the contacts with the highest
/// `q`, then the next (RFC 3261 §16.6). `rings`: which of them may.
pub(super) fn groups(world: &dyn World, targets: &[Extension], rings: impl Fn(&Contact) -> bool, most: usize) -> VecDeque<Group> {
    let mut groups: VecDeque<Group> = VecDeque::new();
    let mut count = 0;
    for target in targets {
        let (mut last_q, mut at) = (None, 0);
        for contact in world.contacts(target.as_str()).into_iter().filter(|contact| rings(contact)) {
            at += usize::from(last_q.is_some_and(|last| last > contact.q));
            last_q = Some(contact.q);
            if count >= most {
                return groups;
            }
            count += 1;
            if groups.len() <= at {
                groups.push_back(Group::new());
            }
            if let Some(group) = groups.get_mut(at) {
                group.push((target.clone(), contact));
            }
        }
    }
    groups
}
