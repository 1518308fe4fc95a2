//! The engine's side of the trunks: what they want done, what calls tell of them.

use std::{net::SocketAddr, time::Instant};

use super::{Engine, ground::OnTrunk, handle::Command, translate};
use crate::{
    call::{locate::Found, trunk},
    routing::settings,
    sip::{
        Method,
        transport::{Far, Transport},
        ua::{self, LegId},
    },
};

impl Engine {
    /// What a call by a trunk tells of the trunk.
    pub(super) fn notice_trunk(&mut self, now: Instant, leg: LegId, event: &ua::LegEvent) {
        let ground = &mut self.ground;
        let Some(OnTrunk { trunk, peer, lives }) = ground.on_trunk.get_mut(&leg) else { return };
        let trunk = trunk.clone();
        match event {
            ua::LegEvent::Refused { status: 408 | 503, .. } if !*lives => ground.trunks.suspect(now, &trunk, *peer),
            _ if !std::mem::replace(lives, true) => ground.trunks.lives(now, &trunk),
            _ => {}
        }
        if matches!(event, ua::LegEvent::Refused { .. } | ua::LegEvent::Answered { .. } | ua::LegEvent::Ended { .. }) {
            ground.on_trunk.remove(&leg);
        }
    }

    pub(super) fn configure_trunks(&mut self, now: Instant) {
        let ground = &mut self.ground;
        ground.trunks.configure(now, &mut ground.endpoint, self.switch.plan().trunks());
    }

    /// What name servers say of a trunk's host.
    pub(super) fn resolved(&mut self, now: Instant, trunk: &str, found: Result<Found, String>) {
        let ground = &mut self.ground;
        let Some(settings) = ground.trunks.settings(trunk).cloned() else { return };
        let found = found.map(|found| {
            let ttl = found.ttl;
            let mut servers = found.in_order(|below| (ground.ids.next_u64() % u64::from(below)) as u32);
            // Without a way to IPv6, for one, its addresses are of no use.
            let reached = |at: &SocketAddr| ground.transports.flow_to(Transport::Udp, *at).is_ok();
            if servers.iter().any(reached) {
                servers.retain(reached);
            }
            (servers, ttl)
        });
        if let (Ok((servers, _)), settings::Transport::Tls) = (&found, settings.transport) {
            let far = Far { name: settings.host.clone(), authorities: settings.authorities.clone() };
            servers.iter().for_each(|at| ground.transports.expect(*at, far.clone()));
        }
        ground.trunks.resolved(now, &mut ground.endpoint, trunk, found);
    }

    pub(super) fn apply_trunk(&mut self, now: Instant, action: trunk::Action) {
        let ground = &mut self.ground;
        match action {
            trunk::Action::Resolve { trunk, question } => {
                let (commands, names) = (ground.commands.clone(), self.names.clone());
                // A name server may be slow; nobody waits for it here.
                tokio::spawn(async move {
                    let found = names.find(&question).await;
                    if let Err(reason) = &found {
                        tracing::warn!(%trunk, host = question.host, reason, "no address for a trunk");
                    }
                    let _ = commands.send(Command::Resolved { trunk, found }).await;
                });
            }
            trunk::Action::Register { trunk } => {
                let flow_to = |transport, peer| ground.transports.flow_to(transport, peer).ok();
                ground.trunks.register(now, &mut ground.endpoint, &trunk, flow_to);
            }
            trunk::Action::Ask { trunk, uri, transport, peer } => {
                let Ok(flow) = ground.transports.flow_to(transport, peer) else {
                    return ground.trunks.asked(now, &trunk, None);
                };
                let from = format!("sip:{}", ground.endpoint.sent_by(&flow));
                let outside = ua::Outside {
                    method: Method::Options,
                    to: uri.clone(),
                    uri,
                    flow,
                    from: (String::new(), from),
                    headers: Vec::new(),
                    body: None,
                    credentials: None,
                };
                let request = ground.agent.request(now, &mut ground.endpoint, outside);
                ground.asked.insert(request, trunk);
            }
            trunk::Action::Tell(event) => {
                translate::log(&event);
                self.events.tell(event);
            }
        }
    }
}
