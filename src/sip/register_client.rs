//! The phone's side of REGISTER: registers one contact, keeps it registered, and takes it back (RFC 3261 §10.2).
//!
//! Stands on an [`Endpoint`] like `ua`; the owner offers it each endpoint event first ([`RegisterClient::handle`]).
//! Here: digest on 401 and 407 with fresh nonces, 423 with its Min-Expires, refresh at nine tenths of what was granted,
//! pauses that grow after a failure. Not here: GRUU, outbound, which server.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    build::{Request, name_addr},
    digest::{Credentials, Login},
    endpoint::{ClientTx, Endpoint, Event as EndpointEvent},
    header::Contact,
    message::{Message, Method},
    name::Name,
    transport::Flow,
    uri::Uri,
};

#[derive(Clone, Debug)]
pub struct Config {
    /// Address of record, as `sip:2041@10.0.0.1`.
    pub aor: String,
    pub display_name: String,
    /// Request-URI: the server, as `sip:10.0.0.1`.
    pub registrar: String,
    pub flow: Flow,
    /// User part of our Contact.
    pub contact_user: String,
    pub credentials: Credentials,
    /// Asked for; the server may grant less.
    pub expires_secs: u32,
}

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Registered, or registered again, for so many seconds.
    Registered { expires_secs: u32 },
    /// Refused, or no answer (408, 503). It is tried again after `again`.
    Failed { status: u16, again: Duration },
    /// Taken back; nothing more happens until [`RegisterClient::register`].
    Unregistered,
}

pub struct RegisterClient {
    config: Config,
    call_id: String,
    tag: String,
    cseq: u32,
    expires_secs: u32,
    waits_for: Option<ClientTx>,
    login: Login,
    /// Challenges within the present attempt.
    challenged: u8,
    /// Attempts that failed in a row.
    failures: u32,
    leaving: bool,
    next: Option<Instant>,
    events: VecDeque<Event>,
}

const MOST_CHALLENGES: u8 = 3;
/// Pauses after a failure: 2 s, doubled up to 2 minutes, as desk phones do.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// No server may make us silent for longer.
const LONGEST_EXPIRES: u32 = 86_400;

impl RegisterClient {
    pub fn new(endpoint: &mut Endpoint, config: Config) -> Self {
        Self {
            call_id: endpoint.ids().token(),
            tag: endpoint.ids().token(),
            cseq: 0,
            expires_secs: config.expires_secs,
            login: Login::new(config.credentials.clone()),
            config,
            waits_for: None,
            challenged: 0,
            failures: 0,
            leaving: false,
            next: None,
            events: VecDeque::new(),
        }
    }

    /// Registers now, and again whenever it is time.
    pub fn register(&mut self, now: Instant, endpoint: &mut Endpoint) {
        self.leaving = false;
        self.challenged = 0;
        self.send(now, endpoint);
    }

    /// Takes our contact back.
    pub fn unregister(&mut self, now: Instant, endpoint: &mut Endpoint) {
        self.leaving = true;
        self.challenged = 0;
        self.send(now, endpoint);
    }

    /// Takes the event if it is about our REGISTER; gives it back otherwise.
    pub fn handle(&mut self, now: Instant, endpoint: &mut Endpoint, event: EndpointEvent) -> Option<EndpointEvent> {
        match event {
            EndpointEvent::Response { tx, response, .. } if self.waits_for == Some(tx) => self.handle_response(now, endpoint, &response),
            EndpointEvent::TimedOut { tx } if self.waits_for == Some(tx) => self.fail(now, 408, None),
            EndpointEvent::TransportFailed { tx } if self.waits_for == Some(tx) => self.fail(now, 503, None),
            other => return Some(other),
        }
        None
    }

    /// Time has passed; call at [`Self::poll_timeout`]. Earlier is harmless.
    pub fn handle_timeout(&mut self, now: Instant, endpoint: &mut Endpoint) {
        if self.next.is_some_and(|next| next <= now) && self.waits_for.is_none() {
            self.challenged = 0;
            self.send(now, endpoint);
        }
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The REGISTER that is not answered yet: who has many clients on one endpoint finds whose event it is.
    pub fn waits_for(&self) -> Option<ClientTx> {
        self.waits_for
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next.filter(|_| self.waits_for.is_none())
    }

    fn send(&mut self, now: Instant, endpoint: &mut Endpoint) {
        self.cseq += 1;
        // With a nonce that the server gave before, there is no need for a challenge.
        let cnonce = endpoint.ids().token();
        let authorization = self.login.authorize("REGISTER", &self.config.registrar, &cnonce);
        let config = &self.config;
        let transport = config.flow.transport.as_uri_param();
        let contact = format!("<sip:{}@{}{transport}>", config.contact_user, endpoint.sent_by(&config.flow));
        let request = Request::new(Method::Register, config.registrar.as_str())
            .header(Name::From, format_args!("{};tag={}", name_addr(&config.display_name, &config.aor), self.tag))
            .header(Name::To, format_args!("<{}>", config.aor))
            .header(Name::CallId, &self.call_id)
            .header(Name::CSeq, format_args!("{} REGISTER", self.cseq))
            .header(Name::Contact, contact)
            .header(Name::Expires, if self.leaving { 0 } else { self.expires_secs })
            .header(Name::Allow, endpoint.config().abilities.allow());
        let request = match authorization {
            Some((name, value)) => request.header(name, value),
            None => request,
        };
        self.next = None;
        self.waits_for = Some(endpoint.request(now, config.flow, request));
    }

    fn handle_response(&mut self, now: Instant, endpoint: &mut Endpoint, response: &Message) {
        let status = response.status().unwrap_or(500);
        match status {
            ..200 => {}
            200..300 => self.succeed(now, endpoint, response),
            401 | 407 if self.challenged < MOST_CHALLENGES => {
                // The same password again would only count against us: `Login` knows, unless the server says "stale".
                match self.login.handle_challenge(response) {
                    Ok(()) => {
                        self.challenged += 1;
                        self.send(now, endpoint);
                    }
                    Err(_) => self.fail(now, status, None),
                }
            }
            423 => match response.number(Name::MinExpires) {
                Ok(Some(least)) if least > self.expires_secs && least <= LONGEST_EXPIRES => {
                    self.expires_secs = least;
                    self.challenged = 0;
                    self.send(now, endpoint);
                }
                _ => self.fail(now, status, None),
            },
            _ => {
                let after = response.number(Name::RetryAfter).ok().flatten().map(|secs| Duration::from_secs(u64::from(secs.min(3600))));
                self.fail(now, status, after);
            }
        }
    }

    fn succeed(&mut self, now: Instant, endpoint: &Endpoint, response: &Message) {
        self.waits_for = None;
        self.failures = 0;
        self.login.handle_success();
        if self.leaving {
            return self.events.push_back(Event::Unregistered);
        }
        let granted = self.granted(endpoint, response).clamp(1, LONGEST_EXPIRES);
        self.next = Some(now + Duration::from_millis(u64::from(granted) * 900));
        self.events.push_back(Event::Registered { expires_secs: granted });
    }

    /// Seconds granted to our contact: its own parameter, the Expires header, or what we asked for.
    fn granted(&self, endpoint: &Endpoint, response: &Message) -> u32 {
        let ours = format!("sip:{}@{}", self.config.contact_user, endpoint.sent_by(&self.config.flow));
        let of_contact = response.contacts().flatten().find_map(|contact| match contact {
            Contact::One(address) if same(address.uri_str(), &ours) => address.params().value("expires")?.parse().ok(),
            _ => None,
        });
        of_contact.or_else(|| response.expires()).unwrap_or(self.expires_secs)
    }

    fn fail(&mut self, now: Instant, status: u16, after: Option<Duration>) {
        self.waits_for = None;
        if self.leaving {
            // The server is gone or refuses: the contact will expire there.
            return self.events.push_back(Event::Unregistered);
        }
        let again = after.unwrap_or_else(|| (FIRST_PAUSE * 2u32.saturating_pow(self.failures.min(6))).min(LONGEST_PAUSE));
        self.failures += 1;
        self.next = Some(now + again);
        self.events.push_back(Event::Failed { status, again });
    }
}

/// Without parameters, which servers add and drop.
fn same(a: &str, b: &str) -> bool {
    match (Uri::parse(a), Uri::parse(b)) {
        (Ok(a), Ok(b)) => a.user() == b.user() && a.host().eq_ignore_ascii_case(b.host()) && a.port == b.port,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Secret, sip::endpoint};

    struct Phone {
        now: Instant,
        endpoint: Endpoint,
        client: RegisterClient,
    }

    impl Phone {
        fn new() -> Self {
            let mut endpoint = Endpoint::new(endpoint::Config::default(), [1; 32]);
            let flow = Flow::udp("10.0.0.5:5060".parse().unwrap(), "10.0.0.1:5060".parse().unwrap());
            let config = Config {
                aor: "sip:2041@10.0.0.1".into(),
                display_name: "Ada".into(),
                registrar: "sip:10.0.0.1".into(),
                flow,
                contact_user: "2041".into(),
                credentials: Credentials { username: "001565aabbcc-1".into(), secret: Secret::new("p") },
                expires_secs: 60,
            };
            let client = RegisterClient::new(&mut endpoint, config);
            Self { now: Instant::now(), endpoint, client }
        }

        /// The REGISTER that went out.
        fn sent(&mut self) -> Message {
            let transmit = self.endpoint.poll_transmit().expect("a REGISTER");
            Message::parse(transmit.bytes).unwrap()
        }

        fn answer(&mut self, request: &Message, status: u16, headers: &[(Name, &str)]) {
            let response = super::super::build::Response::to(request, status).to_tag("t");
            let response = headers.iter().fold(response, |r, (name, value)| r.header(*name, value));
            let flow = self.client.config.flow;
            self.endpoint.handle_message(self.now, flow, response.encode());
            self.settle();
        }

        fn settle(&mut self) {
            while let Some(event) = self.endpoint.poll_event() {
                assert!(self.client.handle(self.now, &mut self.endpoint, event).is_none());
            }
        }

        fn wait_for_timeout(&mut self) {
            self.now = self.client.poll_timeout().expect("something to do");
            self.client.handle_timeout(self.now, &mut self.endpoint);
        }
    }

    const CHALLENGE: (Name, &str) = (Name::WwwAuthenticate, "Digest realm=\"r\", nonce=\"n\", qop=\"auth\"");

    #[test]
    fn registers_refreshes_and_leaves() {
        let mut phone = Phone::new();
        phone.client.register(phone.now, &mut phone.endpoint);
        let first = phone.sent();
        phone.answer(&first, 401, &[CHALLENGE]);
        let second = phone.sent();
        assert!(second.header(Name::Authorization).is_some());
        assert_eq!((first.call_id(), first.cseq().unwrap().number + 1), (second.call_id(), second.cseq().unwrap().number));
        phone.answer(&second, 200, &[(Name::Contact, "<sip:other@10.0.0.9>;expires=9, <sip:2041@10.0.0.5:5060>;expires=50")]);
        assert_eq!(phone.client.poll_event(), Some(Event::Registered { expires_secs: 50 }));
        assert_eq!(phone.client.poll_timeout(), Some(phone.now + Duration::from_secs(45)));
        phone.wait_for_timeout();
        let refresh = phone.sent();
        phone.answer(&refresh, 401, &[(Name::WwwAuthenticate, "Digest realm=\"r\", nonce=\"n2\", stale=true")]);
        let again = phone.sent();
        phone.answer(&again, 200, &[(Name::Expires, "60")]);
        assert_eq!(phone.client.poll_event(), Some(Event::Registered { expires_secs: 60 }));
        phone.client.unregister(phone.now, &mut phone.endpoint);
        let last = phone.sent();
        assert_eq!(last.expires(), Some(0));
        phone.answer(&last, 200, &[]);
        assert_eq!(phone.client.poll_event(), Some(Event::Unregistered));
        assert_eq!(phone.client.poll_timeout(), None);
    }

    #[test]
    fn a_wrong_password_is_not_hammered() {
        let mut phone = Phone::new();
        phone.client.register(phone.now, &mut phone.endpoint);
        for pause_secs in [2, 4, 8] {
            let first = phone.sent();
            phone.answer(&first, 401, &[CHALLENGE]);
            let second = phone.sent();
            phone.answer(&second, 401, &[CHALLENGE]);
            let again = Duration::from_secs(pause_secs);
            assert_eq!(phone.client.poll_event(), Some(Event::Failed { status: 401, again }));
            assert_eq!(phone.client.poll_timeout(), Some(phone.now + again));
            phone.wait_for_timeout();
        }
    }

    #[test]
    fn too_brief_is_asked_longer() {
        let mut phone = Phone::new();
        phone.client.register(phone.now, &mut phone.endpoint);
        let first = phone.sent();
        phone.answer(&first, 423, &[(Name::MinExpires, "120")]);
        let second = phone.sent();
        assert_eq!(second.expires(), Some(120));
        // A server that asks for less than it was offered makes no sense.
        phone.answer(&second, 423, &[(Name::MinExpires, "60")]);
        assert!(matches!(phone.client.poll_event(), Some(Event::Failed { status: 423, .. })));
    }

    #[test]
    fn a_server_that_is_away_is_asked_again() {
        let mut phone = Phone::new();
        phone.client.register(phone.now, &mut phone.endpoint);
        let first = phone.sent();
        phone.answer(&first, 503, &[(Name::RetryAfter, "7")]);
        assert_eq!(phone.client.poll_event(), Some(Event::Failed { status: 503, again: Duration::from_secs(7) }));
        phone.wait_for_timeout();
        phone.sent();
        while let Some(at) = phone.endpoint.poll_timeout() {
            phone.now = at;
            phone.endpoint.handle_timeout(at);
        }
        phone.settle();
        assert!(matches!(phone.client.poll_event(), Some(Event::Failed { status: 408, .. })));
    }
}
