//! What the switch stands on: the user agent, the registrar, media, trunks; and what it may ask of them at once.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use super::{
    Office,
    handle::{Command, ServiceCall},
};
use crate::{
    call::{
        half::{Cause, Contact, MediaPort},
        routing::Errand,
        switch::{Purpose, Replaced, Seat, World},
        trunk::{Trunks, Unusable},
    },
    media::{Media, MediaEvent, SessionConfig, SessionId},
    model::{CallId, MacAddr, NumberHash},
    sip::{
        self, Endpoint, Ids, Message, Name,
        dialog::Replaces,
        registrar::Registrar,
        transport::{Flow, Transports},
        ua::{LegId, RequestId, UserAgent, Way},
    },
};

/// Events of one call that may wait for the voice menu.
pub(super) const SERVICE_EVENTS: usize = 64;

/// What the switch stands on: all but the switch itself.
pub(super) struct Ground {
    pub(super) agent: UserAgent,
    pub(super) endpoint: Endpoint,
    pub(super) registrar: Registrar,
    pub(super) transports: Transports,
    pub(super) ids: Ids,
    pub(super) media: Media,
    pub(super) office: Arc<dyn Office>,
    pub(super) service: mpsc::Sender<ServiceCall>,
    pub(super) voicemail: mpsc::Sender<ServiceCall>,
    pub(super) media_events: mpsc::Sender<(SessionId, MediaEvent)>,
    pub(super) commands: mpsc::Sender<Command>,
    /// Calls that are with the voice menu, or on their way there.
    pub(super) taps: HashMap<CallId, Tap, NumberHash>,
    pub(super) trunks: Trunks,
    /// Legs that we call by a trunk.
    pub(super) on_trunk: HashMap<LegId, OnTrunk, NumberHash>,
    /// Trunks that were asked whether they are there.
    pub(super) asked: HashMap<RequestId, Arc<str>, NumberHash>,
}

pub(super) struct OnTrunk {
    pub(super) trunk: Arc<str>,
    pub(super) peer: SocketAddr,
    /// The provider has shown a sign of life.
    pub(super) lives: bool,
}

pub(super) struct Tap {
    /// Its place in the menu's inbox, until it is handed over.
    pub(super) permit: Option<mpsc::OwnedPermit<ServiceCall>>,
    pub(super) events: Option<mpsc::Receiver<(SessionId, MediaEvent)>>,
    pub(super) ended: Option<oneshot::Sender<Cause>>,
    pub(super) transfer: Option<oneshot::Sender<bool>>,
}

impl World for Ground {
    fn contacts(&self, user: &str) -> Vec<Contact> {
        // A contact of a phone without an owner is nobody's extension.
        let bound = |flows: &Vec<&sip::registrar::Contact>| flows.first().is_some_and(|first| !first.provisional);
        let plain = |flows: Vec<&sip::registrar::Contact>| {
            let (first, others) = flows.split_first()?;
            let way = |c: &&sip::registrar::Contact| Way { uri: c.uri.clone(), flow: self.with_local(c.flow), routes: c.path.clone() };
            Some(Contact {
                uri: first.uri.clone(),
                flow: first.flow,
                mac: first.mac,
                line: first.line,
                q: first.q,
                path: first.path.clone(),
                spare: others.iter().map(way).collect(),
            })
        };
        self.registrar.devices(user).into_iter().filter(bound).filter_map(plain).collect()
    }

    fn is_extension(&self, number: &str) -> bool {
        self.office.is_extension(number)
    }

    fn display_name(&self, extension: &str) -> String {
        self.office.display_name(extension)
    }

    fn new_leg(&mut self) -> LegId {
        self.agent.new_leg()
    }

    fn open_media(&mut self, flow: &Flow, purpose: Purpose) -> Option<MediaPort> {
        let local_ip = self.local_ip(flow)?;
        let (events, near) = match purpose {
            Purpose::Bridge { near } => (self.media_events.clone(), near),
            Purpose::Service(call) => {
                let (events, inbox) = mpsc::channel(SERVICE_EVENTS);
                self.taps.get_mut(&call)?.events = Some(inbox);
                (events, None)
            }
        };
        match self.media.open(SessionConfig { near, ..SessionConfig::new(local_ip, events) }) {
            Ok(session) => Some(MediaPort { id: session.id, address: SocketAddr::new(local_ip, session.local.port()) }),
            Err(fault) => {
                metrics::counter!("plugtone_call_media_refused_total").increment(1);
                tracing::warn!(%fault, "no audio port for a call");
                None
            }
        }
    }

    fn reopen_media(&mut self, local: IpAddr, near: Option<SessionId>) -> Option<MediaPort> {
        let config = SessionConfig { near, ..SessionConfig::new(local, self.media_events.clone()) };
        let session = self.media.open(config).inspect_err(|fault| tracing::warn!(%fault, "no audio port for a call")).ok()?;
        Some(MediaPort { id: session.id, address: SocketAddr::new(local, session.local.port()) })
    }

    fn has_mailbox(&self, number: &str) -> bool {
        self.office.has_mailbox(number)
    }

    fn reserve_service(&mut self, call: CallId, errand: &Errand) -> bool {
        let inbox = if errand.is_of_voicemail() { &self.voicemail } else { &self.service };
        let Ok(permit) = inbox.clone().try_reserve_owned() else {
            metrics::counter!("plugtone_call_service_full_total").increment(1);
            return false;
        };
        self.taps.insert(call, Tap { permit: Some(permit), events: None, ended: None, transfer: None });
        true
    }

    fn take_trunk(&mut self, now: Instant, trunk: &str, emergency: bool, tried: usize) -> Result<Seat, Unusable> {
        let way = self.trunks.take(now, trunk, emergency, tried)?;
        let silence = self.trunks.settings(trunk).map_or(6, |trunk| trunk.silence_secs);
        let flow = self.transports.flow_to(way.transport, way.peer).map_err(|_| Unusable::NoAddress)?;
        Ok(Seat { flow, silence: Duration::from_secs(u64::from(silence)), last: way.last })
    }

    fn groups(&self, extension: &str) -> Vec<String> {
        self.office.groups(extension)
    }

    fn location(&self, mac: MacAddr) -> Option<String> {
        self.office.location(mac)
    }

    fn wall(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }

    fn random(&mut self) -> u64 {
        self.ids.next_u64()
    }
}
impl Ground {
    /// Our address that the far end of this flow reaches.
    pub(super) fn local_ip(&self, flow: &Flow) -> Option<IpAddr> {
        if !flow.local.ip().is_unspecified() {
            return Some(flow.local.ip());
        }
        self.transports.flow_to(flow.transport, flow.peer).ok().map(|flow| flow.local.ip())
    }

    /// The call whose place an INVITE wants to take (RFC 3891 §3).
    pub(super) fn replaced(&self, request: &Message) -> Result<Option<Replaced>, u16> {
        let mut all = request.all(Name::Replaces);
        let Some(value) = all.next() else { return Ok(None) };
        let replaces = Replaces::parse(&sip::header::text(value)).filter(|_| all.next().is_none()).ok_or(400_u16)?;
        let leg = self.agent.find(&replaces).ok_or(481_u16)?;
        Ok(Some(Replaced { leg, early_only: replaces.early_only }))
    }

    /// The flow with our own address in it, so that Via and Contact can name it.
    pub(super) fn with_local(&self, flow: Flow) -> Flow {
        if !flow.local.ip().is_unspecified() && flow.local.port() != 0 {
            return flow;
        }
        match self.transports.flow_to(flow.transport, flow.peer) {
            Ok(found) => Flow { id: flow.id, ..found },
            Err(_) => flow,
        }
    }
}
