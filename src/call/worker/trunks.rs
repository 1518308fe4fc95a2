//! The engine's side of the trunks: what they want done, what calls tell of them.

use std::time::Instant;

use super::{Engine, handle::Command, translate};
use crate::{
    call::trunk,
    sip::{
        Method,
        ua::{self, LegId},
    },
};

impl Engine {
    /// What a call by a trunk tells of the trunk.
    pub(super) fn notice_trunk(&mut self, now: Instant, leg: LegId, event: &ua::LegEvent) {
        let ground = &mut self.ground;
        let Some((trunk, lives)) = ground.on_trunk.get_mut(&leg) else { return };
        let trunk = trunk.clone();
        match event {
            ua::LegEvent::Refused { status: 408 | 503, .. } if !*lives => ground.trunks.suspect(now, &trunk),
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

    pub(super) fn apply_trunk(&mut self, now: Instant, action: trunk::Action) {
        let ground = &mut self.ground;
        match action {
            trunk::Action::Resolve { trunk, host, port } => {
                let commands = ground.commands.clone();
                // A name server may be slow; nobody waits for it here.
                tokio::spawn(async move {
                    let found = tokio::net::lookup_host((host.as_str(), port)).await;
                    if let Err(error) = &found {
                        tracing::warn!(%trunk, host, %error, "no address for a trunk");
                    }
                    let addresses = found.map(Iterator::collect).unwrap_or_default();
                    let _ = commands.send(Command::Resolved { trunk, addresses }).await;
                });
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
