//! What SIP and media say, in the words of calls, and back.

use std::net::SocketAddr;

use crate::{
    call::{
        half::{LegEnd, LegEvent},
        routing::Caller,
    },
    media,
    model::Event,
    sdp::{self, MediaParams},
    sip::{
        digest::Account,
        ua::{self, Ended},
    },
};

pub(super) fn caller(account: Account) -> Caller {
    let Account { user, display_name, mac, line, provisional, .. } = account;
    Caller { user, display_name, mac, line, provisional }
}

pub(super) fn leg_event(event: ua::LegEvent) -> Option<LegEvent> {
    Some(match event {
        ua::LegEvent::Trying => LegEvent::Trying,
        ua::LegEvent::Ringing { body, .. } => LegEvent::Ringing { sdp: body },
        ua::LegEvent::Answered { body } => LegEvent::Answered { sdp: body },
        ua::LegEvent::Refused { status, .. } => LegEvent::Refused { status },
        ua::LegEvent::Redirected { to, .. } => LegEvent::Redirected { to },
        ua::LegEvent::Acked { body } => LegEvent::Acked { sdp: body },
        ua::LegEvent::Reoffered { body } => LegEvent::Reoffered { offer: body },
        ua::LegEvent::ReofferAnswered { body } => LegEvent::ReofferAnswered { sdp: body },
        ua::LegEvent::ReofferFailed { status } => LegEvent::ReofferFailed { status },
        ua::LegEvent::Referred { refer } => LegEvent::Referred { to: refer.to, only: None, replaces: refer.replaces },
        // The registrar's affair.
        ua::LegEvent::FlowFailed { .. } => return None,
        // Nobody here asks a phone to call somebody.
        ua::LegEvent::ReferProgress { .. } => return None,
        ua::LegEvent::Info { content_type, body } => LegEvent::Key { key: info_key(&content_type, &body)? },
        ua::LegEvent::Ended { how } => LegEvent::Ended {
            how: match how {
                Ended::HungUp => LegEnd::HungUp,
                Ended::Cancelled => LegEnd::Cancelled,
                Ended::Lost => LegEnd::Lost,
            },
        },
    })
}

/// The key in an INFO: `Signal=5` of application/dtmf-relay, or the bare key of application/dtmf.
pub(super) fn info_key(content_type: &str, body: &[u8]) -> Option<char> {
    let text = std::str::from_utf8(body).ok()?;
    let word = match content_type {
        "application/dtmf-relay" => text.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            name.trim().eq_ignore_ascii_case("signal").then(|| value.trim())
        })?,
        "application/dtmf" => text.trim(),
        _ => return None,
    };
    match word {
        "10" => Some('*'),
        "11" => Some('#'),
        word => word.chars().next().filter(|key| word.len() == 1 && media::Key::from_char(*key).is_some()),
    }
}

pub(super) fn remote(params: MediaParams) -> media::Remote {
    let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
    media::Remote {
        addr: params.remote.unwrap_or(unspecified),
        rtcp: None,
        codec: match params.codec {
            sdp::Codec::Pcmu => media::Codec::Pcmu,
            sdp::Codec::Pcma => media::Codec::Pcma,
            sdp::Codec::G722 => media::Codec::G722,
        },
        dtmf_payload_type: params.dtmf_payload_type,
        dtmf_receive_type: params.dtmf_receive_payload_type,
        direction: match params.direction {
            sdp::Direction::SendRecv => media::Direction::SendRecv,
            sdp::Direction::SendOnly => media::Direction::SendOnly,
            sdp::Direction::RecvOnly => media::Direction::RecvOnly,
            sdp::Direction::Inactive => media::Direction::Inactive,
        },
    }
}

pub(super) fn log(event: &Event) {
    let mac = event.mac().map(tracing::field::display);
    match event {
        Event::CallStarted { call, from, to, .. } => tracing::info!(%call, mac, %from, %to, "call started"),
        Event::CallRinging { call, to, .. } => tracing::info!(%call, mac, %to, "ringing"),
        Event::CallAnswered { call, to, .. } => tracing::info!(%call, mac, %to, "answered"),
        Event::CallDiverted { call, by, to, reason, .. } => tracing::info!(%call, mac, %by, %to, %reason, "diverted"),
        Event::CallTransferred { call, by, to, .. } => tracing::info!(%call, mac, %by, %to, "transferred"),
        Event::CallEnded { call, cause, talk_ms, .. } => tracing::info!(%call, mac, %cause, talk_ms, "call ended"),
        Event::TrunkUp { trunk } => tracing::info!(%trunk, "trunk up"),
        Event::TrunkDown { trunk, reason } => tracing::warn!(%trunk, %reason, "trunk down"),
        Event::EmergencyCalled { call, from, number, location, test, .. } => {
            tracing::warn!(%call, mac, %from, %number, location, test, "emergency call");
        }
        Event::CallRefused { from, to, reason, .. } => tracing::info!(mac, %from, %to, %reason, "call refused"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_by_info_in_two_forms() {
        for (kind, body, key) in [
            ("application/dtmf-relay", "Signal=5\r\nDuration=160\r\n", Some('5')),
            ("application/dtmf-relay", "Duration=160\r\nsignal = # \r\n", Some('#')),
            ("application/dtmf-relay", "Signal=11\r\n", Some('#')),
            ("application/dtmf", "*", Some('*')),
            ("application/dtmf", "10", Some('*')),
            ("application/dtmf", "hello", None),
            ("text/plain", "5", None),
        ] {
            assert_eq!(info_key(kind, body.as_bytes()), key, "{kind} {body}");
        }
    }
}
