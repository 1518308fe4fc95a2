//! Tells one phone to fetch its configuration again: a NOTIFY outside of any dialog, to one contact over its own flow.
//!
//! The event's value is the family's (`check-sync;reboot=false`, `resync` …) and comes from above. A phone that challenges
//! it gets the line's credentials. The outcome is a value: what to try next is decided above. Driven through an
//! [`Endpoint`]: give every event of that to [`Notifier::handle_event`] first.
//! Never to an address of record: all phones of the extension would restart.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use crate::model::MacAddr;

use super::{
    build::{Request, name_addr},
    digest::{Credentials, Login},
    endpoint::{ClientTx, Endpoint, Event},
    message::Method,
    name::Name,
    registrar::Contact,
    transport::Flow,
};

/// A phone to be told.
#[derive(Clone, Debug)]
pub struct Order {
    pub mac: MacAddr,
    /// The contact's URI and user, for the Request-URI and To.
    pub uri: String,
    pub user: String,
    pub flow: Flow,
    /// The value of Event, with its parameters.
    pub event: String,
    /// What to answer a 401 or 407 with: those of the identity that the phone holds *now*.
    pub credentials: Option<Credentials>,
}

impl Order {
    pub fn to(contact: &Contact, event: impl Into<String>, credentials: Option<Credentials>) -> Self {
        let Contact { mac, uri, user, flow, .. } = contact.clone();
        Self { mac, uri, user, flow, event: event.into(), credentials }
    }
}

/// How the phone took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx: it will fetch, now or when it is idle.
    Taken { status: u16 },
    /// 489, 405, 501: it does not know the event, or no NOTIFY at all. Try the family's other event.
    NotKnown { status: u16 },
    /// 481: it wants a subscription first, as phones do that were told to take NOTIFY from their registrar only.
    NoSubscription,
    /// 401, 407, 403: our credentials are not those that it expects.
    NotTrusted { status: u16 },
    /// Any other answer.
    Refused { status: u16 },
    /// No answer: gone, or behind NAT that has forgotten it.
    TimedOut,
    /// It could not be sent.
    Unreachable,
}

impl Outcome {
    /// The status that the phone gave; 408 and 503 stand for no answer and no way, as RFC 3261 §8.1.3.1 has it.
    pub fn status(self) -> u16 {
        match self {
            Self::Taken { status } | Self::NotKnown { status } | Self::NotTrusted { status } | Self::Refused { status } => status,
            Self::NoSubscription => 481,
            Self::TimedOut => 408,
            Self::Unreachable => 503,
        }
    }

    fn of(status: u16) -> Self {
        match status {
            200..300 => Self::Taken { status },
            405 | 489 | 501 => Self::NotKnown { status },
            401 | 403 | 407 => Self::NotTrusted { status },
            481 => Self::NoSubscription,
            408 => Self::TimedOut,
            _ => Self::Refused { status },
        }
    }
}

/// The end of one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    pub mac: MacAddr,
    pub event: String,
    pub outcome: Outcome,
}

#[derive(Default)]
pub struct Notifier {
    pending: HashMap<ClientTx, Pending>,
    done: VecDeque<Done>,
}

struct Pending {
    order: Order,
    login: Option<Login>,
    call_id: String,
    tag: String,
    cseq: u32,
}

impl Notifier {
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends the NOTIFY. One [`Done`] follows, within 64·T1 or twice that if the phone challenges it.
    pub fn notify(&mut self, now: Instant, endpoint: &mut Endpoint, order: Order) {
        let (call_id, tag) = (endpoint.ids().token(), endpoint.ids().token());
        let login = order.credentials.clone().map(Login::new);
        self.send(now, endpoint, Pending { order, login, call_id, tag, cseq: 0 });
    }

    /// Takes the endpoint's events that belong to it; gives all others back.
    pub fn handle_event(&mut self, now: Instant, endpoint: &mut Endpoint, event: Event) -> Option<Event> {
        let tx = match &event {
            Event::Response { tx, .. } | Event::TimedOut { tx } | Event::TransportFailed { tx } => *tx,
            _ => return Some(event),
        };
        let Some(mut pending) = self.pending.remove(&tx) else { return Some(event) };
        match event {
            Event::Response { response, .. } => match response.status().unwrap_or_default() {
                ..200 => {
                    self.pending.insert(tx, pending);
                }
                401 | 407 if pending.login.as_mut().is_some_and(|login| login.handle_challenge(&response).is_ok()) => {
                    self.send(now, endpoint, pending);
                }
                status => self.finish(pending, Outcome::of(status)),
            },
            Event::TimedOut { .. } => self.finish(pending, Outcome::TimedOut),
            _ => self.finish(pending, Outcome::Unreachable),
        }
        None
    }

    pub fn poll_done(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    fn send(&mut self, now: Instant, endpoint: &mut Endpoint, mut pending: Pending) {
        pending.cseq += 1;
        let Pending { order, call_id, tag, cseq, .. } = &pending;
        let host = endpoint.sent_by(&order.flow);
        let transport = if order.flow.transport.is_reliable() { ";transport=tcp" } else { "" };
        // From names the line's own server and user: some phones obey nobody else.
        let mut request = Request::new(Method::Notify, &order.uri)
            .header(Name::From, format_args!("{};tag={tag}", name_addr("", &format!("sip:{}@{host}", order.user))))
            .header(Name::To, name_addr("", &order.uri))
            .header(Name::CallId, call_id)
            .header(Name::CSeq, format_args!("{cseq} NOTIFY"))
            .header(Name::Contact, format_args!("<sip:{host}{transport}>"))
            .header(Name::Event, &order.event)
            .header(Name::SubscriptionState, "terminated");
        let cnonce = endpoint.ids().token();
        if let Some((name, value)) = pending.login.as_mut().and_then(|login| login.authorize("NOTIFY", &pending.order.uri, &cnonce)) {
            request = request.header(name, value);
        }
        let tx = endpoint.request(now, pending.order.flow, request);
        self.pending.insert(tx, pending);
    }

    fn finish(&mut self, pending: Pending, outcome: Outcome) {
        let Order { mac, event, .. } = pending.order;
        tracing::info!(%mac, %event, status = outcome.status(), "check-sync answered");
        self.done.push_back(Done { mac, event, outcome });
    }
}
