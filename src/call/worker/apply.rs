//! What the switch decided is done here.

use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::{
    Engine, ServiceCall, ServiceControl,
    contacts::Kept,
    ground::{Ground, OnTrunk, SERVICE_EVENTS},
    translate,
};
use crate::{
    call::{invite, switch::Action, trunk},
    media::{self, PlaybackId},
    sip::{Name, transport::Flow},
};

impl Engine {
    pub(super) fn apply(&mut self, now: Instant, action: Action) {
        let Ground { agent, endpoint, media, taps, commands, transports, trunks, on_trunk, .. } = &mut self.ground;
        // Asking the system for a route costs three calls: only where the flow does not tell our address.
        let local = |flow: Flow| match flow.local.ip().is_unspecified() {
            true => transports.flow_to(flow.transport, flow.peer).map_or(flow, |found| Flow { id: flow.id, ..found }),
            false => flow,
        };
        match action {
            Action::LegBegins(_) => {}
            Action::Invite { leg, contact, caller, referred_by, diversions, auto_answer, gr, offer } => {
                let flow = local(contact.flow);
                let told = invite::Told { referred_by, diversions, auto_answer, gr };
                let invite = invite::to_phone(&endpoint.sent_by(&flow).to_string(), flow, contact, caller, told, offer);
                agent.invite(now, endpoint, leg, invite);
            }
            Action::InviteOutside { leg, hop, display_name, caller, diversions, flow, offer } => {
                let Some(settings) = trunks.settings(&hop.trunk) else { return };
                let own = endpoint.sent_by(&flow).to_string();
                let as_written = |e164: String| self.switch.plan().site().map(|site| site.write(&e164, settings.form));
                let caller = caller.filter(|caller| caller.starts_with('+')).and_then(as_written);
                let shown = trunk::Presented { display_name: &display_name, caller: caller.as_deref(), diversions: &diversions };
                let invite = trunk::invite(settings, &hop, shown, &own, flow, offer);
                on_trunk.insert(leg, OnTrunk { trunk: hop.trunk.clone(), peer: flow.peer, lives: false });
                agent.invite(now, endpoint, leg, invite);
            }
            Action::HoldTrunk { trunk, media } => trunks.hold(&trunk, media),
            Action::Identify { leg, who } => {
                if let Some(flow) = agent.flow(leg) {
                    let flow = local(flow);
                    agent.identify(now, leg, invite::identity(&endpoint.sent_by(&flow).to_string(), &who));
                }
            }
            Action::Ring { leg } => agent.ring(now, endpoint, leg),
            Action::Progress { leg, sdp } => agent.progress(now, endpoint, leg, sdp),
            Action::Answer { leg, sdp } => agent.answer(now, endpoint, leg, sdp),
            Action::Refuse { leg, status, retry_after_secs } => {
                let headers: Vec<_> = retry_after_secs.map(|secs| (Name::RetryAfter, secs.to_string())).into_iter().collect();
                agent.reject(now, endpoint, leg, status, &headers);
            }
            Action::Hangup { leg, elsewhere } => {
                if let Some(OnTrunk { trunk, peer, lives: false }) = on_trunk.remove(&leg) {
                    trunks.suspect(now, &trunk, peer);
                }
                let reason = elsewhere.then_some("SIP;cause=200;text=\"Call completed elsewhere\"");
                agent.hangup(now, endpoint, leg, reason);
            }
            Action::Reoffer { leg, sdp } => agent.reoffer(now, endpoint, leg, sdp),
            Action::AnswerReoffer { leg, sdp } => agent.answer_reoffer(now, endpoint, leg, sdp),
            Action::RefuseReoffer { leg, status } => agent.reject_reoffer(now, endpoint, leg, status),
            Action::AcceptRefer { leg } => agent.accept_refer(now, endpoint, leg),
            Action::RefuseRefer { leg, status } => agent.refuse_refer(now, endpoint, leg, status),
            Action::ReferProgress { leg, status } => agent.refer_progress(now, endpoint, leg, status),
            Action::SetRemote { media: id, params } => media.command(id, media::Command::SetRemote(translate::remote(params))),
            Action::Bridge { near, far } => media.command(near, media::Command::Bridge(far)),
            Action::Overhear { media: id, whom } => media.command(id, media::Command::Overhear(whom)),
            Action::Unbridge { media: id } => media.command(id, media::Command::Unbridge),
            Action::Key { media: id, key } => {
                if let Some(key) = media::Key::from_char(key) {
                    media.command(id, media::Command::Key(key));
                }
            }
            Action::RingBack { media: id, on: true } => {
                let clips = vec![self.ring_back.clone()];
                media.command(id, media::Command::Play { playback: PlaybackId(0), clips, repeat: true });
            }
            Action::RingBack { media: id, on: false } => media.command(id, media::Command::StopPlay),
            Action::HoldMusic { media: id, on: true } => {
                let clips = self.hold_music.iter().cloned().collect();
                media.command(id, media::Command::Play { playback: PlaybackId(0), clips, repeat: true });
            }
            Action::HoldMusic { media: id, on: false } => media.command(id, media::Command::StopPlay),
            Action::Beep { media: id } => {
                let clips = vec![self.beep.clone()];
                media.command(id, media::Command::Play { playback: PlaybackId(0), clips, repeat: false });
            }
            Action::Keep { row, call } => self.keep(row, call.map_or(Kept::Nobody, Kept::Call)),
            Action::CloseMedia { media: id } => {
                trunks.leave(id);
                media.command(id, media::Command::Close);
            }
            Action::ReleaseMedia { media: id } => media.command(id, media::Command::Close),
            Action::Reopened { was, media: id } => trunks.go_on_as(was, id),
            Action::SendKey { leg, key } => {
                let body = format!("Signal={key}\r\nDuration=160\r\n");
                agent.info(now, endpoint, leg, "application/dtmf-relay", body.into());
            }
            Action::HandOver { call, caller, media: port, source, errand, .. } => {
                let Some(tap) = taps.get_mut(&call) else { return };
                let Some(permit) = tap.permit.take() else { return };
                // A call that was somebody else's first has its events sent elsewhere.
                let events = tap.events.take().unwrap_or_else(|| {
                    let (events, inbox) = mpsc::channel(SERVICE_EVENTS);
                    media.command(port.id, media::Command::TellTo(events));
                    inbox
                });
                let (ended, ended_inbox) = oneshot::channel();
                tap.ended = Some(ended);
                tracing::info!(%call, mac = %caller.mac, user = %caller.user, ?errand, "call handed to a service");
                let control = ServiceControl { call, commands: commands.clone() };
                permit.send(ServiceCall { call, caller, errand, source, session: port.id, events, ended: ended_inbox, control });
            }
            Action::ServiceEnded { call, cause } => {
                if let Some(ended) = taps.remove(&call).and_then(|tap| tap.ended) {
                    let _ = ended.send(cause);
                }
            }
            Action::Transferred { call, taken } => {
                let answer = taps.get_mut(&call).and_then(|tap| tap.transfer.take());
                if taken {
                    taps.remove(&call);
                }
                if let Some(answer) = answer {
                    let _ = answer.send(taken);
                }
            }
            Action::Tell(event) => {
                translate::log(&event);
                self.events.tell(event);
            }
        }
    }
}
