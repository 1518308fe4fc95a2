//! Whether a question to everybody (SIP plug and play, 224.0.1.75) arrives at the server, as makes ask that find it without DHCP.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::{Area, Finding, Server, listed};
use crate::sip::{
    Ids,
    build::Request,
    message::{Message, Method},
    name::Name,
};

/// As a phone asks, but for its hardware address: who names none is told that it was heard, and no more.
pub fn subscribe(ids: &mut Ids, local: SocketAddr) -> Bytes {
    let (call, tag, branch) = (ids.token(), ids.token(), ids.token());
    Request::new(Method::Subscribe, "sip:224.0.1.75")
        .header(Name::From, format!("<sip:doctor@{local}>;tag={tag}"))
        .header(Name::To, "<sip:224.0.1.75>")
        .header(Name::CallId, format!("{call}@{}", local.ip()))
        .header(Name::CSeq, "1 SUBSCRIBE")
        .header(Name::Contact, format!("<sip:doctor@{local}>"))
        .header(Name::Event, "ua-profile;profile-type=\"device\";vendor=\"Plugtone\";model=\"doctor\";version=\"1\"")
        .header(Name::Expires, 0)
        .header(Name::Accept, "application/url")
        .encode(format_args!("SIP/2.0/UDP {local};branch=z9hG4bK{branch}"), "Plugtone doctor")
}

/// Whether a datagram is the answer that says "heard".
pub fn is_heard(datagram: Bytes) -> bool {
    Message::parse(datagram).is_ok_and(|answer| answer.status() == Some(200))
}

/// `answered`: who did. Asked is only where the server listens for it.
pub fn finding(interface: &str, answered: &[IpAddr], server: &Server) -> Finding {
    let strangers: Vec<_> = answered.iter().filter(|address| !server.is_at(**address)).collect();
    if !strangers.is_empty() {
        return Area::Multicast.wrong(
            format!("another server answers phones that ask 224.0.1.75 on {interface}: {}", listed(strangers)),
            "switch plug and play (PnP) off there: phones take the answer that comes first",
        );
    }
    match answered.is_empty() {
        false => Area::Multicast.good(format!("the server hears phones that ask 224.0.1.75 on {interface}")),
        true => Area::Multicast.wrong(
            format!("nobody hears phones that ask 224.0.1.75 on {interface} (SIP plug and play)"),
            "open UDP 5060 to 224.0.1.75 on the server; multicast does not pass routers, so the server needs an interface in this network; and a \
             switch with IGMP snooping needs a querier, or snooping switched off in this VLAN",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::told;

    #[test]
    fn who_answers_shows_whether_it_arrives() {
        let server = Server::at("10.0.0.1".parse().unwrap());
        for (answered, says) in [
            (&["10.0.0.1"][..], "Good: the server hears"),
            (&["10.0.0.1", "10.0.0.9"], "Wrong: another server answers phones that ask 224.0.1.75 on eth0: 10.0.0.9"),
            (&[], "Wrong: nobody hears phones that ask"),
        ] {
            let answered: Vec<IpAddr> = answered.iter().map(|address| address.parse().unwrap()).collect();
            let found = told(&[finding("eth0", &answered, &server)]);
            assert!(found.contains(says), "{found}");
        }
    }
}
