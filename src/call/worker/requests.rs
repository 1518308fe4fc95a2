//! What comes in by SIP: who asks, whether they may, and who answers.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Engine, translate};
use crate::{
    call::{LegEvent, inbound, invite, switch::Incoming},
    model::Event,
    sip::{
        Message, Method, Name, Response,
        digest::{Account, Refusal},
        endpoint::{self, ServerTx},
        guard::Verdict,
        transport::Flow,
        ua::{self, LegId},
        uri::Uri,
    },
};

/// Failed log-ins told a second; the rest is counted.
const REFUSALS_PER_SEC: u32 = 20;

impl Engine {
    pub(super) fn handle_endpoint(&mut self, now: Instant, event: endpoint::Event) {
        let Some(event) = self.notifier.handle_event(now, &mut self.ground.endpoint, event) else { return };
        let Some(event) = self.watching.handle_event(now, event) else { return };
        let Some(event) = self.ground.trunks.handle(now, &mut self.ground.endpoint, event) else { return };
        match event {
            endpoint::Event::Request { tx, request, flow } if request.is(&Method::Register) => self.register(now, tx, &request, flow),
            endpoint::Event::Request { tx, request, flow } if request.is(&Method::Subscribe) => self.subscribe(now, tx, &request, flow),
            event => self.ground.agent.handle(now, &mut self.ground.endpoint, event),
        }
    }

    pub(super) fn subscribe(&mut self, now: Instant, tx: ServerTx, request: &Message, flow: Flow) {
        let verified = self.verify(now, request, flow.peer.ip());
        let endpoint = &mut self.ground.endpoint;
        match verified {
            None => endpoint.forget(tx),
            Some(Ok(account)) => self.watching.handle_subscribe(now, endpoint, tx, request, flow, &account),
            Some(Err(refusal)) => {
                let challenge = self.verifier.challenge(now, request, &refusal);
                endpoint.respond_and_forget(tx, challenge);
                if let Refusal::Wrong { user } = refusal
                    && self.may_tell_refusal(now)
                {
                    tracing::info!(%user, peer = %flow.peer, "subscription refused: wrong user name or password");
                }
            }
        }
    }

    pub(super) fn register(&mut self, now: Instant, tx: ServerTx, request: &Message, flow: Flow) {
        let source = flow.peer.ip();
        let response = match self.verify(now, request, source) {
            None => return self.ground.endpoint.forget(tx),
            Some(Ok(account)) => self.ground.registrar.handle_register(now, request, flow, &account),
            Some(Err(refusal)) => {
                if let Refusal::Wrong { user } = &refusal
                    && self.may_tell_refusal(now)
                {
                    tracing::info!(%user, peer = %flow.peer, "registration refused: {refusal}");
                    self.events.tell(Event::RegisterRefused { user: user.clone(), source: flow.peer, reason: refusal.to_string() });
                }
                // Who never answers a challenge leaves nothing behind here.
                let challenge = self.verifier.challenge(now, request, &refusal);
                return self.ground.endpoint.respond_and_forget(tx, challenge);
            }
        };
        self.ground.endpoint.respond(now, tx, response);
    }

    /// Whose request it is. `None`: of somebody who gets no answer.
    pub(super) fn verify(&mut self, now: Instant, request: &Message, source: IpAddr) -> Option<Result<Account, Refusal>> {
        let claims = self.verifier.claims(request);
        let claimed = claims.as_ref().and_then(|claims| claims.user());
        let verdict = self.guard.admits(now, source, claimed);
        if verdict == Verdict::Drop {
            metrics::counter!("plugtone_sip_dropped_total", "reason" => "banned").increment(1);
            return None;
        }
        let verified = self.verifier.verify_claims(now, request, claims.as_ref(), self.accounts.as_ref());
        match &verified {
            Ok(_) => self.guard.handle_success(now, source, claimed.unwrap_or_default()),
            Err(Refusal::Wrong { user }) => {
                for ban in self.guard.handle_failure(now, source, user) {
                    let secs = ban.until.saturating_duration_since(now).as_secs();
                    tracing::warn!(%source, user = ban.user.as_deref(), secs, "too many wrong passwords: no answer for a while");
                    self.events.tell(Event::Banned { source, user: ban.user, secs });
                }
                if verdict == Verdict::LookQuietly {
                    return None;
                }
            }
            Err(_) => {}
        }
        Some(verified)
    }

    pub(super) fn may_tell_refusal(&mut self, now: Instant) -> bool {
        metrics::counter!("plugtone_call_logins_refused_total").increment(1);
        if now.saturating_duration_since(self.refusals.0) > Duration::from_secs(1) {
            self.refusals = (now, 0);
        }
        self.refusals.1 += 1;
        self.refusals.1 <= REFUSALS_PER_SEC
    }

    pub(super) fn handle_agent(&mut self, now: Instant, event: ua::Event) {
        match event {
            ua::Event::Incoming { leg, request, flow } => self.incoming(now, leg, &request, flow),
            ua::Event::Leg { leg, event: ua::LegEvent::FlowFailed { uri, flow } } => {
                if let Some(mac) = self.switch.device_of(leg) {
                    self.ground.registrar.handle_flow_failed(mac, &uri, flow);
                }
            }
            ua::Event::Leg { leg, event: ua::LegEvent::Referred { refer: ua::Refer { to, gr: Some(gr), replaces: None } } } => {
                match self.ground.registrar.device_of_gruu(&to, &gr) {
                    Some(mac) => {
                        let event = LegEvent::Referred { to, only: Some(mac), replaces: None };
                        self.switch.handle_leg(now, &mut self.ground, leg, event);
                    }
                    None => self.ground.agent.refuse_refer(now, &mut self.ground.endpoint, leg, 480),
                }
            }
            ua::Event::Leg { leg, event } => {
                self.notice_trunk(now, leg, &event);
                if let Some(event) = translate::leg_event(event) {
                    self.records.handle_leg(now, leg, &event);
                    self.switch.handle_leg(now, &mut self.ground, leg, event);
                }
            }
            ua::Event::Request { tx, request, .. } => self.outside(now, tx, &request),
            ua::Event::Replied { request, response } => {
                if let Some(trunk) = self.ground.asked.remove(&request) {
                    self.ground.trunks.asked(now, &trunk, response.and_then(|response| response.status()));
                }
            }
        }
    }

    /// A call: who is it? Only who has logged in may place one, and is who the login says.
    pub(super) fn incoming(&mut self, now: Instant, leg: LegId, request: &Message, flow: Flow) {
        let dialled = request.uri().ok().and_then(|uri| uri.user().map(|user| user.into_owned())).unwrap_or_default();
        if let Some(trunk) = self.ground.trunks.whose(&flow) {
            return self.trunk_calls(now, leg, request, flow, &trunk);
        }
        let verified = self.verify(now, request, flow.peer.ip());
        let ground = &mut self.ground;
        match verified {
            // A call must be answered by something: it would be repeated for half a minute.
            None => ground.agent.turn_away(&mut ground.endpoint, leg, Response::to(request, 403)),
            Some(Ok(account)) => {
                let offer = (!request.body().is_empty()).then(|| request.body_bytes());
                let replaces = match ground.replaced(request) {
                    Ok(replaces) => replaces,
                    Err(status) => return ground.agent.reject(now, &mut ground.endpoint, leg, status, &[]),
                };
                let gr = |uri: Option<Uri<'_>>| uri.and_then(|uri| uri.params().value("gr").map(str::to_owned));
                let only = match gr(request.uri().ok()) {
                    None => None,
                    Some(gr) => match ground.registrar.device_of_gruu(&dialled, &gr) {
                        Some(mac) => Some(mac),
                        // RFC 5627 §5.5
                        None => {
                            let status = if ground.office.is_extension(&dialled) { 480 } else { 404 };
                            return ground.agent.reject(now, &mut ground.endpoint, leg, status, &[]);
                        }
                    },
                };
                // A phone that is called back by its GRUU has it in its Contact.
                let gr = gr(request.contact_uri().and_then(|uri| Uri::parse(uri).ok()));
                let (caller, source, origin, hides) = (translate::caller(account), flow.peer, None, invite::hides(request));
                let gr = gr.filter(|gr| ground.registrar.device_of_gruu(&caller.user, gr) == Some(caller.mac));
                let incoming =
                    Incoming { leg, caller, dialled, only, gr, offer, flow, source, replaces, origin, hides, auto_answer: false };
                self.switch.handle_incoming(now, ground, incoming);
            }
            Some(Err(refusal)) => {
                let challenge = self.verifier.challenge(now, request, &refusal);
                ground.agent.turn_away(&mut ground.endpoint, leg, challenge);
                if let Refusal::Wrong { user } = refusal
                    && self.may_tell_refusal(now)
                {
                    tracing::info!(%user, peer = %flow.peer, "call refused: wrong user name or password");
                    let reason = "wrong user name or password".to_owned();
                    self.events.tell(Event::CallRefused { from: user, to: dialled.chars().take(64).collect(), mac: None, reason });
                }
            }
        }
    }

    /// A call from outside: the trunk that it comes by is proved by the address that it comes from.
    pub(super) fn trunk_calls(&mut self, now: Instant, leg: LegId, request: &Message, flow: Flow, trunk: &Arc<str>) {
        let ground = &mut self.ground;
        ground.trunks.lives(now, trunk);
        let settings = ground.trunks.settings(trunk).cloned();
        let Some(settings) = settings.filter(|_| ground.trunks.has_room(trunk)) else {
            return ground.agent.reject(now, &mut ground.endpoint, leg, 503, &[]);
        };
        let called = inbound::read(&settings, self.switch.plan().site(), request);
        let offer = (!request.body().is_empty()).then(|| request.body_bytes());
        let incoming = Incoming {
            leg,
            caller: called.caller,
            dialled: called.number,
            only: None,
            gr: None,
            offer,
            flow,
            source: flow.peer,
            // Nobody outside takes the place of our people's calls.
            replaces: None,
            origin: Some(called.origin),
            // Its caller has no number then.
            hides: false,
            auto_answer: false,
        };
        self.switch.handle_incoming(now, ground, incoming);
    }

    /// Requests that belong to no call and are no REGISTER.
    pub(super) fn outside(&mut self, now: Instant, tx: ServerTx, request: &Message) {
        let endpoint = &mut self.ground.endpoint;
        let response = match request.method() {
            Some(Method::Options) => endpoint.config().abilities.answer_options(request),
            // Nobody here has subscribed to anything (RFC 6665 §4.1.3).
            Some(Method::Notify) => Response::to(request, 481),
            _ => Response::to(request, 405).header(Name::Allow, endpoint.config().abilities.allow()),
        };
        endpoint.respond(now, tx, response);
    }
}
