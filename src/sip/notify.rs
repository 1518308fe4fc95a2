//! Tells one phone to fetch its configuration again: a NOTIFY outside of any dialog, to one contact over its own flow.
//!
//! The event's value is the family's (`check-sync;reboot=false`, `resync` …) and comes from above. A phone that challenges
//! it gets the line's credentials. The outcome is a value: what to try next is decided above. Driven through an
//! [`Endpoint`]: give every event of that to [`Notifier::handle_event`] first.
//! Messages that wait are told the same way to phones that have not asked.
//! Never to an address of record: all phones of the extension would restart.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use bytes::Bytes;

use crate::model::{MacAddr, NumberHash};

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
    /// What it says, with its media type. `None`: the event says all.
    pub body: Option<(&'static str, Bytes)>,
}

impl Order {
    pub fn to(contact: &Contact, event: impl Into<String>, credentials: Option<Credentials>) -> Self {
        let Contact { mac, uri, user, flow, .. } = contact.clone();
        Self { mac, uri, user, flow, event: event.into(), credentials, body: None }
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
    pending: HashMap<ClientTx, Pending, NumberHash>,
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
        let transport = order.flow.transport.as_uri_param();
        // From names the line's own server and user: some phones obey nobody else.
        let mut request = Request::new(Method::Notify, &order.uri)
            .header(Name::From, format_args!("{};tag={tag}", name_addr("", &format!("sip:{}@{host}", order.user))))
            .header(Name::To, name_addr("", &order.uri))
            .header(Name::CallId, call_id)
            .header(Name::CSeq, format_args!("{cseq} NOTIFY"))
            .header(Name::Contact, format_args!("<sip:{host}{transport}>"))
            .header(Name::Event, &order.event)
            .header(Name::SubscriptionState, if order.body.is_some() { "active" } else { "terminated" });
        let cnonce = endpoint.ids().token();
        if let Some((name, value)) = pending.login.as_mut().and_then(|login| login.authorize("NOTIFY", &pending.order.uri, &cnonce)) {
            request = request.header(name, value);
        }
        if let Some((kind, body)) = &pending.order.body {
            request = request.body(kind, body.clone());
        }
        let tx = endpoint.request(now, pending.order.flow, request);
        self.pending.insert(tx, pending);
    }

    fn finish(&mut self, pending: Pending, outcome: Outcome) {
        let Order { mac, event, .. } = pending.order;
        tracing::info!(%mac, %event, status = outcome.status(), "NOTIFY answered");
        self.done.push_back(Done { mac, event, outcome });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        model::Secret,
        sip::{Message, Response, endpoint},
    };

    /// Sends the order and lets `phone` answer each NOTIFY that goes out; time passes when it does not.
    fn outcome(credentials: Option<Credentials>, phone: impl Fn(&Message) -> Option<Response>) -> (Outcome, Vec<Message>) {
        let mut now = Instant::now();
        let mut endpoint = Endpoint::new(endpoint::Config::default(), [3; 32]);
        let mut notifier = Notifier::new();
        let flow = Flow::udp("10.0.0.1:5060".parse().unwrap(), "10.0.0.5:1024".parse().unwrap());
        let order = Order {
            mac: MacAddr([0; 6]),
            uri: "sip:2041@192.168.1.5:5060".into(),
            user: "2041".into(),
            flow,
            event: "check-sync;reboot=false".into(),
            credentials,
            body: None,
        };
        notifier.notify(now, &mut endpoint, order);
        let mut seen = Vec::new();
        loop {
            let mut quiet = true;
            while let Some(transmit) = endpoint.poll_transmit() {
                assert_eq!(transmit.flow, flow, "over the registered flow, not to the address in the URI");
                let notify = Message::parse(transmit.bytes).unwrap();
                if let Some(answer) = phone(&notify) {
                    endpoint.handle_message(now, flow, answer.to_tag("p").encode());
                }
                seen.push(notify);
            }
            while let Some(event) = endpoint.poll_event() {
                assert!(notifier.handle_event(now, &mut endpoint, event).is_none(), "all events are the notifier's");
                quiet = false;
            }
            if let Some(done) = notifier.poll_done() {
                assert!(notifier.pending.is_empty() && notifier.poll_done().is_none());
                return (done.outcome, seen);
            }
            if quiet {
                now = endpoint.poll_timeout().unwrap_or(now);
                endpoint.handle_timeout(now);
            }
        }
    }

    #[test]
    fn each_answer_is_a_result_of_its_own() {
        for (status, expected) in [
            (200, Outcome::Taken { status: 200 }),
            (202, Outcome::Taken { status: 202 }),
            (481, Outcome::NoSubscription),
            (489, Outcome::NotKnown { status: 489 }),
            (405, Outcome::NotKnown { status: 405 }),
            (403, Outcome::NotTrusted { status: 403 }),
            (401, Outcome::NotTrusted { status: 401 }),
            (500, Outcome::Refused { status: 500 }),
        ] {
            let (outcome, seen) = outcome(None, |notify| Some(Response::to(notify, status)));
            assert_eq!((outcome, seen.len()), (expected, 1));
            assert_eq!(seen[0].header(Name::Event), Some(&b"check-sync;reboot=false"[..]));
            assert_eq!(seen[0].raw_uri(), b"sip:2041@192.168.1.5:5060");
            assert!(seen[0].check().is_ok());
        }
        let (outcome, seen) = outcome(None, |_| None);
        assert_eq!((outcome, seen.len()), (Outcome::TimedOut, 11));
    }

    #[test]
    fn a_phone_that_challenges_is_answered_once() {
        let credentials = |secret: &str| Some(Credentials { username: "001565aabbcc-1".into(), secret: Secret::new(secret) });
        // The phone is a verifier of its own, with the line's account.
        let challenge = |notify: &Message| {
            let value = "Digest realm=\"phone\", nonce=\"n1\", algorithm=MD5, qop=\"auth\"";
            let answered = notify.header(Name::Authorization).map(Bytes::copy_from_slice);
            match answered {
                None => Some(Response::to(notify, 401).header(Name::WwwAuthenticate, value)),
                Some(value) if value.starts_with(b"Digest username=\"001565aabbcc-1\", realm=\"phone\", nonce=\"n1\"") => {
                    Some(Response::to(notify, 200))
                }
                Some(_) => Some(Response::to(notify, 401).header(Name::WwwAuthenticate, value)),
            }
        };
        let (outcome_of, seen) = outcome(credentials("s"), challenge);
        assert_eq!(outcome_of, Outcome::Taken { status: 200 });
        let cseqs: Vec<_> = seen.iter().map(|notify| notify.cseq().unwrap().number).collect();
        assert_eq!(cseqs, [1, 2]);
        assert_eq!(seen[0].call_id(), seen[1].call_id());
        let always = |notify: &Message| {
            let value = "Digest realm=\"phone\", nonce=\"n2\", qop=\"auth\"";
            Some(Response::to(notify, 407).header(Name::ProxyAuthenticate, value))
        };
        let (outcome, seen) = outcome(credentials("s"), always);
        assert_eq!((outcome, seen.len()), (Outcome::NotTrusted { status: 407 }, 2));
    }
}
