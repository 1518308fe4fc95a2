//! SIP between a phone and the server: whether an OPTIONS is answered, and what happened to it on the way.
//!
//! The answer holds the question's Via, From, To, Call-ID and CSeq as the server got them (RFC 3261 §8.2.6.2), and the address that it came
//! from (`received`, `rport`). STUN on the same port (RFC 5389) tells that address in a form that no helpful router touches: where the
//! two do not agree, somebody reads SIP on the way. Not here: Contact and SDP, which no answer repeats; whoever rewrites one rewrites all.

use std::net::SocketAddr;

use bytes::Bytes;

use super::{Area, Finding};
use crate::sip::{
    Ids,
    build::Request,
    message::{Message, Method},
    name::Name,
};

/// Where the switch for it is found, by maker.
const SWITCH_OFF: &str = "switch \"SIP ALG\" (\"SIP helper\", \"SIP inspection\") off in the router or firewall between: MikroTik `/ip firewall \
    service-port disable sip`; Cisco `no ip nat service sip udp port 5060`, ASA `no inspect sip`; FortiGate `set default-voip-alg-mode \
    kernel-helper-based` and delete the session helper sip; Linux `rmmod nf_nat_sip nf_conntrack_sip`; others have it under NAT, ALG or VoIP. \
    TLS, or another port than 5060, gets past it too";

/// One question and what came back.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// `UDP` or `TCP`.
    pub transport: &'static str,
    pub server: SocketAddr,
    /// Where it was sent from.
    pub local: SocketAddr,
    pub sent: Bytes,
    pub heard: Heard,
    /// As which address STUN says that we are seen; UDP only.
    pub mapped: Option<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    Answer(Bytes),
    Refused,
    Silent,
    Broken(String),
}

/// The question, with our address wherever a phone writes it.
pub fn options(ids: &mut Ids, transport: &str, local: SocketAddr, server: SocketAddr) -> Bytes {
    let (call, tag, branch) = (ids.token(), ids.token(), ids.token());
    Request::new(Method::Options, format!("sip:{server};transport={}", transport.to_lowercase()))
        .header(Name::From, format!("<sip:doctor@{local}>;tag={tag}"))
        .header(Name::To, format!("<sip:{server}>"))
        .header(Name::CallId, format!("{call}@{}", local.ip()))
        .header(Name::CSeq, "1 OPTIONS")
        .header(Name::Contact, format!("<sip:doctor@{local};transport={}>", transport.to_lowercase()))
        .header(Name::Accept, "application/sdp")
        .encode(format_args!("SIP/2.0/{transport} {local};rport;branch=z9hG4bK{branch}"), "Plugtone doctor")
}

pub fn findings(exchange: &Exchange) -> Vec<Finding> {
    let Exchange { transport, server, local, .. } = exchange;
    let area = Area::Sip;
    let port = server.port();
    let bytes = match &exchange.heard {
        Heard::Answer(bytes) => bytes,
        Heard::Refused => {
            return vec![area.wrong(
                format!("nobody listens at {server} for SIP by {transport}: phones cannot register"),
                format!("is `plugtone serve` running there, and `sip.{}` this port?", transport.to_lowercase()),
            )];
        }
        Heard::Silent => {
            return vec![area.wrong(
                format!("SIP by {transport} at {server} does not answer: blocked by a firewall, or the server is not there"),
                format!(
                    "open {transport} {port} from the phones' network to the server, and the UDP ports from `media.first_port` on for sound"
                ),
            )];
        }
        Heard::Broken(said) => {
            return vec![area.wrong(
                format!("SIP by {transport} at {server} breaks off: {said}"),
                "does something between read SIP? A firewall that inspects it ends connections that it dislikes",
            )];
        }
    };
    let (Ok(sent), Ok(answer)) = (Message::parse(exchange.sent.clone()), Message::parse(bytes.clone())) else {
        return vec![area.wrong(format!("what answers at {server} by {transport} does not speak SIP"), "is the port right?")];
    };
    let status = answer.status().unwrap_or_default();
    let mut found = Vec::new();
    let changed = rewritten(&sent, &answer, exchange);
    if !changed.is_empty() {
        found.push(area.wrong(
            format!(
                "a SIP ALG is between here and {server}: it rewrote {} by {transport}; calls then have no sound, or end by themselves",
                changed.join(", ")
            ),
            SWITCH_OFF,
        ));
    }
    let seen = exchange.mapped.or_else(|| answer.via().ok().and_then(|via| via.seen_at())).filter(|_| changed.is_empty());
    match seen {
        Some(seen) if seen.ip() != local.ip() => found.push(area.note(
            format!("NAT is between: {server} sees {local} as {seen} by {transport}"),
            "phones behind it register all the same; their files need `provisioning.url_tokens`, as their address is not the one that was leased",
        )),
        _ => {}
    }
    match status {
        200..=299 if found.is_empty() => {
            found.push(area.good(format!("SIP by {transport} at {server} answers, and nothing on the way touches it")))
        }
        200..=299 => {}
        _ => found.push(area.note(
            format!("SIP by {transport} at {server} answers with {status} {}", answer.reason()),
            "Plugtone answers 200: does another program listen there, or is this address banned (`plugtone sip bans`)?",
        )),
    }
    found
}

/// What of the question came back otherwise than it was sent.
fn rewritten(sent: &Message, answer: &Message, exchange: &Exchange) -> Vec<String> {
    let mut changed = Vec::new();
    let (Ok(ours), Ok(theirs)) = (sent.via(), answer.via()) else { return vec!["Via (it is gone)".into()] };
    if (ours.host(), ours.port) != (theirs.host(), theirs.port) || ours.branch() != theirs.branch() {
        let port = theirs.port.map(|port| format!(":{port}")).unwrap_or_default();
        changed.push(format!("Via ({} became {}{port})", exchange.local, theirs.host()));
    }
    // With NAT the server must have seen another address than the Via had; it did not, so the Via had been changed, and was changed back.
    if let (true, Some(mapped)) = (changed.is_empty(), exchange.mapped)
        && mapped.ip() != exchange.local.ip()
        && theirs.received().is_none_or(|received| received != mapped.ip())
    {
        changed.push(format!("Via there and back (STUN is seen as {mapped}, SIP is not)"));
    }
    for name in [Name::CallId, Name::From, Name::CSeq] {
        if sent.text(name) != answer.text(name) {
            changed.push(name.as_str().to_owned());
        }
    }
    // The answer's has a tag more.
    let to = |message: &Message| message.to().ok().map(|to| to.uri_str().to_owned());
    if to(sent) != to(answer) {
        changed.push("To".into());
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{doctor::tests::told, sip::build::Response};

    #[test]
    fn what_happened_on_the_way_shows_in_the_answer() {
        let (local, server): (SocketAddr, SocketAddr) = ("192.168.1.5:49152".parse().unwrap(), "203.0.113.1:5060".parse().unwrap());
        let outer: SocketAddr = "198.51.100.9:4711".parse().unwrap();
        let sent = options(&mut Ids::new([7; 32]), "UDP", local, server);
        // The server's answer to what arrived from `source`, as it comes back.
        let answer = |arrived: &[u8], source: SocketAddr| {
            let mut request = Message::parse(Bytes::copy_from_slice(arrived)).unwrap();
            request.set_source(source);
            Response::to(&request, 200).to_tag("x").encode()
        };
        let replaced = |bytes: &[u8], from: &str, to: &str| String::from_utf8(bytes.to_vec()).unwrap().replace(from, to).into_bytes();
        let (inner, outside) = (local.to_string(), outer.to_string());
        let via = |address: &str| format!("UDP {address}");
        let rewritten = answer(&replaced(&sent, &via(&inner), &via(&outside)), outer);
        for (story, heard, mapped, says) in [
            ("nothing", Heard::Answer(answer(&sent, local)), Some(local), "Good: SIP by UDP at 203.0.113.1:5060 answers, and nothing"),
            ("nothing, and no STUN", Heard::Answer(answer(&sent, local)), None, "Good: "),
            (
                "NAT",
                Heard::Answer(answer(&sent, outer)),
                Some(outer),
                "Note: NAT is between: 203.0.113.1:5060 sees 192.168.1.5:49152 as 198.51.100.9:4711",
            ),
            ("NAT, and no STUN", Heard::Answer(answer(&sent, outer)), None, "Note: NAT is between"),
            (
                "an ALG",
                Heard::Answer(rewritten.clone()),
                Some(outer),
                "Wrong: a SIP ALG is between here and 203.0.113.1:5060: it rewrote Via (192.168.1.5:49152 became 198.51.100.9:4711)",
            ),
            (
                "an ALG that hides",
                Heard::Answer(
                    replaced(&replaced(&rewritten, &via(&outside), &via(&inner)), ";received=198.51.100.9;rport=4711", "").into(),
                ),
                Some(outer),
                "it rewrote Via there and back",
            ),
            (
                "an ALG that reads everything",
                Heard::Answer(answer(&replaced(&sent, "192.168.1.5", "198.51.100.9"), outer)),
                None,
                "198.51.100.9:49152), Call-ID, From by UDP",
            ),
            ("a firewall", Heard::Silent, None, "blocked by a firewall"),
            ("no server", Heard::Refused, None, "nobody listens at 203.0.113.1:5060"),
            ("no SIP", Heard::Answer(Bytes::from_static(b"HTTP/1.1 400 Bad Request\r\n\r\n")), None, "does not speak SIP"),
        ] {
            let found = told(&findings(&Exchange { transport: "UDP", server, local, sent: sent.clone(), heard, mapped }));
            assert!(found.contains(says), "{story}: {found}");
        }
    }
}
