//! Calls that we place: INVITE, its answers, digest, and the copies of a 2xx that come late or from a second phone.

use std::time::Instant;

use bytes::Bytes;

use super::{
    LegEvent, LegId, UserAgent, body_of, contact,
    leg::{Calling, Early, Leg, RepeatedAccept, SentAck, Stage, Use},
    second_try,
};
use crate::sip::{
    dialog::Dialog,
    digest::{Credentials, Login},
    endpoint::{ClientTx, Endpoint},
    message::{Message, Method},
    name::Name,
    transport::Flow,
    uri::Uri,
};

/// A call to be made.
#[derive(Clone, Debug)]
pub struct Invite {
    /// Request-URI.
    pub uri: String,
    pub flow: Flow,
    /// Display name and URI for From.
    pub from: (String, String),
    /// URI for To.
    pub to: String,
    /// User part for our Contact.
    pub contact_user: String,
    /// `gr` for our Contact: whoever calls back reaches the caller's device (RFC 5627).
    pub gr: Option<String>,
    /// A session description.
    pub offer: Option<Bytes>,
    pub credentials: Option<Credentials>,
    /// Route headers, top first.
    pub routes: Vec<String>,
    /// More headers: name and value.
    pub headers: Vec<(String, String)>,
    /// Further flows of the same device, each used when the one before fails (RFC 5626 §5.3).
    pub spare: Vec<Way>,
}

/// One way to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Request-URI.
    pub uri: String,
    pub flow: Flow,
    /// Route headers, top first.
    pub routes: Vec<String>,
}

/// Early dialogs of one call beyond which the others cannot send requests before one is answered.
const MOST_FORKS: usize = 8;

impl UserAgent {
    /// Calls somebody.
    pub fn invite(&mut self, now: Instant, endpoint: &mut Endpoint, leg: LegId, invite: Invite) {
        let call_id = endpoint.ids().token();
        let tag = endpoint.ids().token();
        let contact = own_contact(endpoint, &invite);
        let (flow, login) = (invite.flow, invite.credentials.clone().map(Login::new));
        let session_secs = self.config.session.expires_secs;
        let calling =
            Calling { invite, call_id, tag, contact, cseq: 1, session_secs, cancelled: false, early: Vec::new(), pracks: Vec::new() };
        let request = calling.request(endpoint, self.config.session);
        let tx = endpoint.request(now, flow, request);
        self.clients.insert(tx, Use::Invite(leg));
        self.legs.insert(leg, Leg::new(flow, Stage::Calling { tx, calling: Box::new(calling) }, login));
    }

    pub(super) fn handle_invite_final(
        &mut self,
        now: Instant,
        endpoint: &mut Endpoint,
        id: LegId,
        tx: ClientTx,
        status: u16,
        response: &Message,
    ) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Stage::Calling { tx: current, calling } = &mut leg.stage else { return };
        if status >= 300 {
            let (uri, secs) = (&calling.invite.uri, Some(&mut calling.session_secs));
            let more = second_try(&mut leg.login, &mut leg.challenged, secs, response, &Method::Invite, uri, endpoint);
            if let Some(more) = more.filter(|_| !calling.cancelled) {
                calling.cseq += 1;
                let request = calling.request(endpoint, self.config.session);
                let request = more.into_iter().fold(request, |request, (name, value)| request.header(name, value));
                *current = endpoint.request(now, leg.flow, request);
                self.clients.insert(*current, Use::Invite(id));
                return;
            }
            if status == 430 {
                let (uri, flow) = (calling.invite.uri.clone(), leg.flow);
                self.tell(id, LegEvent::FlowFailed { uri, flow });
            }
            if matches!(status, 408 | 430) && self.go_on_by_spare(now, endpoint, id) {
                return;
            }
            self.tell(
                id,
                match redirected_to(status, response) {
                    Some(to) => LegEvent::Redirected { status, to },
                    None => LegEvent::Refused { status, reason: response.reason().into_owned() },
                },
            );
            return self.forget(id);
        }
        let (local, local_tag, contact, cseq) = (calling.local(), calling.tag.clone(), calling.contact.clone(), calling.cseq);
        let (cancelled, said) = (calling.cancelled, calling.invite.offer.clone());
        let mut early = std::mem::take(&mut calling.early);
        for one in &early {
            self.dialogs.remove(&one.dialog.id);
        }
        let Ok(mut dialog) = Dialog::from_response(response, &local, &local_tag, cseq, &contact) else {
            self.tell(id, LegEvent::Refused { status: 502, reason: "answer without a dialog".to_owned() });
            return self.forget(id);
        };
        if let Some(early) = early.iter_mut().find(|early| early.dialog.id == dialog.id) {
            dialog.go_on_from(&early.dialog);
        }
        let transmit = endpoint.send(leg.flow, dialog.ack(cseq));
        let to_tag = dialog.id.remote_tag.clone();
        self.dialogs.insert(dialog.id.clone(), id);
        leg.stage = Stage::Up(Box::new(dialog));
        // An UPDATE may have said something else since.
        leg.said = leg.said.take().or(said);
        leg.calm();
        self.remember_ack(now, endpoint, tx, SentAck { to_tag, transmit, local, local_tag, contact, cseq });
        if cancelled {
            // Our CANCEL and their answer have crossed.
            return self.send_bye(now, endpoint, id, None);
        }
        self.time_as_caller(now, id, response);
        self.tell(id, LegEvent::Answered { body: body_of(response) });
    }

    /// The flow has failed: the call goes on by the next one of the same device. `false`: there is none.
    pub(super) fn go_on_by_spare(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId) -> bool {
        let Some(leg) = self.legs.get_mut(&id) else { return false };
        let Stage::Calling { tx, calling } = &mut leg.stage else { return false };
        if calling.cancelled || calling.invite.spare.is_empty() {
            return false;
        }
        let Way { uri, flow, routes } = calling.invite.spare.remove(0);
        for early in calling.early.drain(..) {
            self.dialogs.remove(&early.dialog.id);
        }
        for prack in calling.pracks.drain(..) {
            self.clients.remove(&prack.tx);
        }
        // The same call, as after a challenge: a device that got the first INVITE all the same can see that.
        calling.cseq += 1;
        (leg.flow, calling.invite.flow, calling.invite.uri, calling.invite.routes) = (flow, flow, uri, routes);
        calling.contact = own_contact(endpoint, &calling.invite);
        *tx = endpoint.request(now, flow, calling.request(endpoint, self.config.session));
        self.clients.insert(*tx, Use::Invite(id));
        true
    }

    /// A provisional answer with a tag makes an early dialog (RFC 3261 §12.1.2).
    pub(super) fn handle_invite_provisional(&mut self, now: Instant, endpoint: &mut Endpoint, id: LegId, status: u16, response: &Message) {
        let Some(Stage::Calling { calling, .. }) = self.legs.get_mut(&id).map(|leg| &mut leg.stage) else { return };
        if response.to().is_ok_and(|to| to.tag().is_some())
            && calling.early.len() < MOST_FORKS
            && let Ok(dialog) = Dialog::from_response(response, &calling.local(), &calling.tag, calling.cseq, &calling.contact)
            && !calling.early.iter().any(|known| known.dialog.id == dialog.id)
        {
            self.dialogs.insert(dialog.id.clone(), id);
            calling.early.push(Early { dialog, rseq: None, described: false });
        }
        if !self.acknowledge(now, endpoint, id, response) {
            return;
        }
        self.tell(id, LegEvent::Ringing { status, body: body_of(response) });
    }

    pub(super) fn remember_ack(&mut self, now: Instant, endpoint: &Endpoint, tx: ClientTx, ack: SentAck) {
        self.acks.insert(tx, Box::new(ack));
        self.acks_end.push_back((now + endpoint.config().timers.patience(), tx));
    }

    /// A copy of a 2xx, or the 2xx of another phone behind a forking proxy, which is too late.
    pub(super) fn handle_repeated_accept(
        &mut self,
        now: Instant,
        endpoint: &mut Endpoint,
        answer: RepeatedAccept,
        tx: ClientTx,
        response: &Message,
    ) {
        match answer {
            RepeatedAccept::Ack(transmit) => endpoint.transmit(transmit),
            RepeatedAccept::Ignore => {}
            RepeatedAccept::Other => {
                let Some(ack) = self.acks.get(&tx) else { return };
                let flow = ack.transmit.flow;
                let Ok(mut dialog) = Dialog::from_response(response, &ack.local, &ack.local_tag, ack.cseq, &ack.contact) else { return };
                endpoint.send(flow, dialog.ack(ack.cseq));
                let bye = endpoint.request(now, flow, dialog.request(Method::Bye));
                self.clients.insert(bye, Use::Nobody);
            }
        }
    }
}

fn own_contact(endpoint: &Endpoint, invite: &Invite) -> String {
    let contact = contact(endpoint, &invite.flow, &invite.contact_user, invite.uri.as_bytes());
    match (&invite.gr, contact.strip_suffix('>')) {
        (Some(gr), Some(open)) => format!("{open};gr={gr}>"),
        _ => contact,
    }
}

/// Whom a 300, 301 or 302 names instead: of several the one with the highest q (RFC 3261 §8.1.3.4).
fn redirected_to(status: u16, response: &Message) -> Option<String> {
    if !matches!(status, 300..=302) {
        return None;
    }
    let all = response.name_addrs(Name::Contact).flatten().filter_map(|one| {
        let q = one.params().value("q").and_then(|q| q.parse::<f32>().ok()).unwrap_or(1.0);
        Some((q, number_of(one.uri_str())?))
    });
    all.reduce(|best, one| if one.0 > best.0 { one } else { best }).map(|(_, number)| number)
}

/// The user part of a SIP URI, or the number of a `tel:` one.
fn number_of(uri: &str) -> Option<String> {
    let number = match uri.split_once(':') {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("tel") => rest.split(';').next()?.to_owned(),
        _ => Uri::parse(uri).ok()?.user()?.into_owned(),
    };
    (!number.is_empty()).then_some(number)
}
