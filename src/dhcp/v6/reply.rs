//! What an answer says: who asked, who answers, and the options of the subnet and of the client's kind.
//!
//! A client gets what it asks for (option 6), all of it when it does not say; a phone gets its URL in any case, and its maker's own
//! options where its family says so. Not here: addresses, and
//! whether there is an answer (`server.rs`).

use std::net::Ipv6Addr;

use super::{
    class::{Class, VendorOption},
    options::{self, Packet, code},
    settings::Subnet,
};

/// No more than fits into the least packet that every IPv6 link carries, with relays around it: no answer comes in fragments.
const LARGEST: usize = 1000;
/// Sub-option of option 56: a server by its address (RFC 5908 §4.1).
const NTP_ADDRESS: u16 = 1;

/// The options of an answer, and which of them had no room.
pub fn options(
    packet: &Packet<'_>,
    server_id: &[u8],
    own: Vec<(u16, Vec<u8>)>,
    subnet: &Subnet,
    class: &Class,
) -> (Vec<(u16, Vec<u8>)>, Vec<u16>) {
    let asked = packet.options.asked();
    let wants = |code: u16| asked.as_ref().is_none_or(|asked| asked.contains(&code));
    let wants_vendor = wants(code::VENDOR_OPTIONS);
    let vendor = class.vendor_options.iter().filter(|option| option.always || wants_vendor);
    let ntp = subnet.ntp.iter().map(|address| (NTP_ADDRESS, address.octets().to_vec())).collect::<Vec<_>>();
    // The most needed first.
    let mut settings = vec![(code::BOOT_FILE_URL, class.boot_file_url.clone().unwrap_or_default().into_bytes())];
    settings.extend(by_maker(vendor).into_iter().map(|value| (code::VENDOR_OPTIONS, value)));
    settings.extend([
        (code::DNS, octets(&subnet.dns)),
        (code::NTP, options::encoded(&ntp)),
        (code::SNTP, octets(&subnet.ntp)),
        (code::DOMAINS, subnet.domains.clone()),
        (code::SIP_ADDRESSES, octets(&class.sip_addresses)),
        (code::SIP_DOMAINS, domains(&class.sip_domains)),
    ]);
    let mut list: Vec<(u16, Vec<u8>)> = Vec::new();
    list.extend(packet.options.client_id().map(|duid| (code::CLIENT_ID, duid.to_vec())));
    list.push((code::SERVER_ID, server_id.to_vec()));
    list.extend(own);
    let mut room = LARGEST.saturating_sub(options::encoded(&list).len());
    let mut dropped = Vec::new();
    for (code, value) in settings {
        if value.is_empty() || !(wants(code) || code == code::BOOT_FILE_URL || code == code::VENDOR_OPTIONS) {
            continue;
        }
        match room.checked_sub(value.len() + 4) {
            Some(left) => {
                room = left;
                list.push((code, value));
            }
            None => dropped.push(code),
        }
    }
    (list, dropped)
}

/// Option 17 for each maker: its number, then its options.
fn by_maker<'a>(list: impl Iterator<Item = &'a VendorOption>) -> Vec<Vec<u8>> {
    let mut makers: Vec<(u32, Vec<u8>)> = Vec::new();
    for VendorOption { enterprise, code, value, .. } in list {
        let option = options::encoded(&[(*code, value.clone())]);
        match makers.iter_mut().find(|(known, _)| known == enterprise) {
            Some((_, bytes)) => bytes.extend(option),
            None => makers.push((*enterprise, option)),
        }
    }
    makers.into_iter().map(|(enterprise, bytes)| [enterprise.to_be_bytes().to_vec(), bytes].concat()).collect()
}

fn octets(list: &[Ipv6Addr]) -> Vec<u8> {
    list.iter().flat_map(Ipv6Addr::octets).collect()
}

/// Names that cannot be written so are left out: they come from the configuration, where phones are told them in other ways too.
fn domains(names: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in names {
        let mut labels = Vec::new();
        if super::super::class::domain(name, &mut labels).is_ok() {
            bytes.extend(labels);
        }
    }
    bytes
}
