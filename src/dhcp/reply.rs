//! What a reply says: the options of the subnet and of the client's kind, chosen and in order (RFC 2131 §4.3.1).
//!
//! 53 first, the mask (1) before the router (3), option 82 as it came and last. Not here: whether there is a reply, and
//! where it goes (`server.rs`).

use std::net::Ipv4Addr;

use super::{
    class::Class,
    options::{self, Encoded, Head, MessageType, Packet, code},
    settings::{Config, Subnet},
};
use crate::model::Timestamp;

/// All that a reply is made of.
pub struct Reply<'a> {
    pub kind: MessageType,
    pub request: &'a Packet,
    pub config: &'a Config,
    pub subnet: &'a Subnet,
    pub class: &'a Class,
    /// Our address, as option 54 and as next server of phones.
    pub server_id: Ipv4Addr,
    pub yiaddr: Ipv4Addr,
    /// `None` in the answer to an INFORM, which has no lease.
    pub lease_secs: Option<u32>,
    pub broadcast: bool,
    pub now: Timestamp,
}

/// Sent to everyone: without them an address is of no use.
const ALWAYS: [u8; 3] = [code::SUBNET_MASK, code::ROUTER, code::DNS];
/// The protocol's own options: no family may set them.
const OURS: [u8; 10] = [
    code::PAD,
    code::LEASE_TIME,
    code::OVERLOAD,
    code::MESSAGE_TYPE,
    code::SERVER_ID,
    code::T1,
    code::T2,
    code::CLIENT_ID,
    code::RELAY_INFO,
    code::END,
];

impl Reply<'_> {
    pub fn encode(&self) -> Encoded {
        options::encode(&self.head(), &self.options(), largest(self.request))
    }

    fn head(&self) -> Head {
        let request = &self.request.head;
        let mut head = Head {
            op: Head::REPLY,
            hops: 0,
            secs: 0,
            // As asked, bit for bit: relays and a CP-7911G behind one fail when the bit is cleared.
            flags: request.flags | if self.broadcast { Head::BROADCAST } else { 0 },
            ciaddr: if self.kind == MessageType::Ack { request.ciaddr } else { Ipv4Addr::UNSPECIFIED },
            yiaddr: self.yiaddr,
            // Avaya and NOE phones read the server from here. A PC's boot ROM would too, so it is for phones only.
            siaddr: self.class.siaddr.unwrap_or(if self.class.phone { self.server_id } else { Ipv4Addr::UNSPECIFIED }),
            sname: [0; 64],
            file: [0; 128],
            ..*request
        };
        if let Some(file) = self.class.file.as_deref().filter(|file| file.len() < 128) {
            head.file[..file.len()].copy_from_slice(file.as_bytes());
        }
        head
    }

    fn options(&self) -> Vec<(u8, Vec<u8>)> {
        let mut list = Vec::with_capacity(24);
        list.push((code::MESSAGE_TYPE, vec![self.kind.into()]));
        list.push((code::SERVER_ID, self.server_id.octets().to_vec()));
        if let Some(lease_secs) = self.lease_secs {
            // T1 and T2 as RFC 2131 §4.4.5 has them by default; some phones renew at no time unless told.
            let (t1, t2) = (lease_secs / 2, (u64::from(lease_secs) * 7 / 8) as u32);
            for (code, secs) in [(code::LEASE_TIME, lease_secs), (code::T1, t1), (code::T2, t2)] {
                list.push((code, secs.to_be_bytes().to_vec()));
            }
        }
        let asked = self.request.options.get(code::PARAMETER_LIST).unwrap_or_default();
        let wanted =
            |code: u8| asked.is_empty() || asked.contains(&code) || ALWAYS.contains(&code) || self.class.always_send.contains(&code);
        let special = |code: u8| self.class.options.iter().any(|(own, _)| *own == code);
        for (code, value) in self.plain() {
            if wanted(code) && !special(code) {
                list.push((code, value));
            }
        }
        for (code, value) in &self.class.options {
            if OURS.contains(code) || !wanted(*code) {
                continue;
            }
            match value.encode() {
                Ok(value) => list.push((*code, value)),
                Err(error) => {
                    metrics::counter!("plugtone_dhcp_unusable_values_total").increment(1);
                    tracing::debug!(code, %error, "an option of the family {:?} was left out", self.class.family);
                }
            }
        }
        list.extend(echoed(self.request));
        list
    }

    /// The subnet's own options, the mask before the router.
    fn plain(&self) -> Vec<(u8, Vec<u8>)> {
        let subnet = self.subnet;
        let octets = |list: &[Ipv4Addr]| list.iter().flat_map(Ipv4Addr::octets).collect::<Vec<u8>>();
        let mut list = vec![(code::SUBNET_MASK, subnet.cidr.netmask().octets().to_vec())];
        list.extend(subnet.router.map(|router| (code::ROUTER, router.octets().to_vec())));
        if !subnet.dns.is_empty() {
            list.push((code::DNS, octets(&subnet.dns)));
        }
        list.extend(subnet.domain.as_ref().map(|name| (code::DOMAIN, name.as_bytes().to_vec())));
        list.push((code::BROADCAST, subnet.cidr.broadcast().octets().to_vec()));
        if !subnet.ntp.is_empty() {
            list.push((code::NTP, octets(&subnet.ntp)));
        }
        if let Some(zone) = &self.config.time_zone {
            if let Ok(now) = jiff::Timestamp::from_millisecond(self.now.0) {
                list.push((code::TIME_OFFSET, zone.to_offset(now).seconds().to_be_bytes().to_vec()));
            }
            list.extend(zone.iana_name().map(|name| (code::TZ_NAME, name.as_bytes().to_vec())));
        }
        list.extend(self.config.posix_time_zone.as_ref().map(|text| (code::POSIX_TZ, text.as_bytes().to_vec())));
        list
    }
}

/// A refusal: no address, no settings, only why (RFC 2131 §4.3.2, table 3).
pub fn nak(request: &Packet, server_id: Ipv4Addr, reason: &str) -> Vec<u8> {
    let none = Ipv4Addr::UNSPECIFIED;
    let relayed = request.head.giaddr != none;
    let head = Head {
        op: Head::REPLY,
        hops: 0,
        secs: 0,
        // The client may have no address that works: the relay must broadcast (§4.1).
        flags: request.head.flags | if relayed { Head::BROADCAST } else { 0 },
        ciaddr: none,
        yiaddr: none,
        siaddr: none,
        sname: [0; 64],
        file: [0; 128],
        ..request.head
    };
    let mut list = vec![
        (code::MESSAGE_TYPE, vec![MessageType::Nak.into()]),
        (code::SERVER_ID, server_id.octets().to_vec()),
        (code::MESSAGE, reason.as_bytes().to_vec()),
    ];
    list.extend(echoed(request));
    options::encode(&head, &list, largest(request)).bytes
}

/// What comes back as it was sent: the client identifier (RFC 6842) and the relay's option (RFC 3046 §2.2).
fn echoed(request: &Packet) -> impl Iterator<Item = (u8, Vec<u8>)> {
    [code::CLIENT_ID, code::RELAY_INFO].into_iter().filter_map(|code| request.options.get(code).map(|value| (code, value.to_vec())))
}

/// The largest reply that the client takes. Option 57 counts the IP and UDP headers, as clients send their MTU in it.
fn largest(request: &Packet) -> usize {
    let claimed = request.options.u16(code::MAX_SIZE).map_or(0, |size| usize::from(size).saturating_sub(28));
    claimed.clamp(options::MIN_MAX_SIZE, 1472)
}
