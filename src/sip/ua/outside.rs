//! Requests outside of any dialog, as NOTIFY or OPTIONS: sent, challenged, answered.

use std::time::Instant;

use bytes::Bytes;

use super::{Event, UserAgent, answer_to, leg::Use};
use crate::sip::{
    build::{Request, name_addr},
    digest::{Credentials, Login},
    endpoint::Endpoint,
    message::{Message, Method},
    name::Name,
    transport::Flow,
};

/// A request outside of any dialog that we sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub(super) u64);

/// A request outside of any dialog.
#[derive(Clone, Debug)]
pub struct Outside {
    pub method: Method,
    pub uri: String,
    pub flow: Flow,
    pub from: (String, String),
    pub to: String,
    pub headers: Vec<(String, String)>,
    /// Content type and bytes.
    pub body: Option<(String, Bytes)>,
    pub credentials: Option<Credentials>,
}

pub(super) struct OutsideState {
    pub(super) outside: Outside,
    pub(super) call_id: String,
    pub(super) tag: String,
    pub(super) cseq: u32,
    pub(super) login: Option<Login>,
    pub(super) challenged: u8,
}

impl UserAgent {
    /// Sends a request outside of any dialog; a challenge is answered once there are credentials.
    pub fn request(&mut self, now: Instant, endpoint: &mut Endpoint, outside: Outside) -> RequestId {
        self.next += 1;
        let id = RequestId(self.next);
        let (call_id, tag) = (endpoint.ids().token(), endpoint.ids().token());
        let login = outside.credentials.clone().map(Login::new);
        let state = OutsideState { outside, call_id, tag, cseq: 1, login, challenged: 0 };
        let tx = endpoint.request(now, state.outside.flow, state.request());
        self.outsides.insert(id, state);
        self.clients.insert(tx, Use::Outside(id));
        id
    }

    pub(super) fn handle_outside_final(&mut self, now: Instant, endpoint: &mut Endpoint, id: RequestId, status: u16, response: &Message) {
        if matches!(status, 401 | 407)
            && let Some(state) = self.outsides.get_mut(&id)
            && let (method, uri) = (&state.outside.method, &state.outside.uri)
            && let Some((name, value)) = answer_to(&mut state.login, &mut state.challenged, response, method, uri, endpoint)
        {
            state.cseq += 1;
            let tx = endpoint.request(now, state.outside.flow, state.request().header(name, value));
            self.clients.insert(tx, Use::Outside(id));
            return;
        }
        self.outsides.remove(&id);
        self.events.push_back(Event::Replied { request: id, response: Some(response.clone()) });
    }
}

impl OutsideState {
    fn request(&self) -> Request {
        let outside = &self.outside;
        let request = Request::new(outside.method.clone(), outside.uri.as_str())
            .header(Name::From, format_args!("{};tag={}", name_addr(&outside.from.0, &outside.from.1), self.tag))
            .header(Name::To, format_args!("<{}>", outside.to))
            .header(Name::CallId, &self.call_id)
            .header(Name::CSeq, format_args!("{} {}", self.cseq, outside.method));
        let request = outside.headers.iter().fold(request, |request, (name, value)| request.header_named(name, value));
        match &outside.body {
            Some((kind, body)) => request.body(kind, body.clone()),
            None => request,
        }
    }
}
