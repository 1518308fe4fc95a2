//! The DHCPv6 server, without sockets and clocks: messages in, messages and news out (RFC 8415 §18.3).
//!
//! ```text
//! INFORMATION-REQUEST ─► DhcpInform, REPLY
//! ```
//! Driven with `handle_*`, drained with [`Server::poll_action`]. One message in makes at most one out, to the port of clients at a
//! link-local address or to the port of relays at one of ours: nobody can be flooded through us.

use std::{
    collections::{HashMap, VecDeque},
    net::{Ipv6Addr, SocketAddrV6},
    sync::Arc,
};

use super::{
    CLIENT_PORT, SERVER_PORT,
    class::{Class, Classify, ClientFacts},
    options::{Packet, code, kind},
    reply,
    settings::Config,
};
use crate::{
    dhcp::{limit::Limiter, settings::NonPhones},
    model::{Event, MacAddr, Timestamp},
};

/// Warnings of one kind are told once in this many milliseconds.
const WARN_EVERY_MS: i64 = 10_000;

/// How a message came in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Index of the interface.
    pub link: u32,
    /// Our addresses on that interface.
    pub locals: &'a [Ipv6Addr],
    /// Where it was sent to: one of ours, or a group.
    pub destination: Ipv6Addr,
    pub source: Ipv6Addr,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Send(Outgoing),
    Tell(Event),
}

/// A message to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    pub bytes: Vec<u8>,
    /// With the interface as scope where it is link-local.
    pub to: SocketAddrV6,
    /// The interface that the question came by.
    pub link: u32,
    /// Our address, as the source of the datagram; `None`: any.
    pub from: Option<Ipv6Addr>,
}

/// A message with all that is known about it.
struct Ask<'a> {
    packet: Packet<'a>,
    mac: Option<MacAddr>,
    arrival: Arrival<'a>,
    subnet: usize,
    class: Class,
}

pub struct Server {
    config: Config,
    class: Arc<dyn Classify>,
    /// Our identifier, the same after each restart: clients come back to who has it.
    duid: Vec<u8>,
    actions: VecDeque<Action>,
    limiter: Limiter,
    warned: HashMap<&'static str, Timestamp>,
}

impl Server {
    pub fn new(config: Config, class: Arc<dyn Classify>, duid: Vec<u8>) -> Self {
        Self { config, class, duid, actions: VecDeque::new(), limiter: Limiter::default(), warned: HashMap::new() }
    }

    /// Goes on with other settings.
    pub fn set_config(&mut self, config: Config) {
        self.config = config;
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub fn handle_packet(&mut self, now: Timestamp, arrival: &Arrival<'_>, bytes: &[u8]) {
        let packet = match Packet::parse(bytes) {
            Ok(packet) => packet,
            Err(error) => return self.ignore(now, "malformed", &error.to_string()),
        };
        let Some(name) = name(packet.kind) else { return self.ignore(now, "kind", "not a message from a client") };
        if let Err((what, why)) = self.may_ask(&packet, arrival) {
            return self.ignore(now, what, why);
        }
        let Some((subnet, server)) = self.locate(&packet, arrival) else {
            return self.ignore(now, "no_subnet", "it is in none of `dhcp6.subnets`");
        };
        let mac = packet.mac(arrival.source);
        let class = self.class_of(&packet, mac, subnet, server);
        if self.config.non_phones == NonPhones::Ignore && !class.phone {
            metrics::counter!("plugtone_dhcp6_non_phones_total").increment(1);
            return;
        }
        metrics::counter!("plugtone_dhcp6_received_total", "type" => name).increment(1);
        let ask = Ask { packet, mac, arrival: *arrival, subnet, class };
        if ask.packet.kind == kind::INFORMATION_REQUEST {
            self.inform(now, &ask);
        }
    }

    // --- who asks, and where it belongs

    /// Clients ask by multicast from their link, relays from where they are expected.
    fn may_ask(&self, packet: &Packet<'_>, arrival: &Arrival<'_>) -> Result<(), (&'static str, &'static str)> {
        if packet.relays.is_empty() {
            // §16: who asks by unicast was not told that it may.
            if !arrival.destination.is_multicast() {
                return Err(("unicast", "a client asks by unicast"));
            }
            return if arrival.source.is_unicast_link_local() { Ok(()) } else { Err(("source", "a client of another link")) };
        }
        let allowed = !arrival.source.is_multicast() && !arrival.source.is_unspecified() && self.config.answers_relay(arrival.source);
        if allowed { Ok(()) } else { Err(("relay", "the relay is in none of `dhcp6.relays`")) }
    }

    /// Subnet of the client, and our address for it.
    fn locate(&self, packet: &Packet<'_>, arrival: &Arrival<'_>) -> Option<(usize, Option<Ipv6Addr>)> {
        let subnet_of = |address: &Ipv6Addr| self.config.subnets.iter().position(|subnet| subnet.prefix.contains(address));
        let of_use = |address: &&Ipv6Addr| !address.is_unicast_link_local() && !address.is_multicast() && !address.is_unspecified();
        // §13.1: the relay nearest to the client that names its link.
        let link = packet.relays.iter().rev().map(|relay| &relay.link_address).find(of_use);
        let subnet = match link {
            Some(link) => subnet_of(link)?,
            None => arrival.locals.iter().find_map(subnet_of)?,
        };
        let here = arrival.locals.iter().filter(of_use);
        let reached = Some(&arrival.destination).filter(of_use);
        let in_subnet = here.clone().find(|address| subnet_of(address) == Some(subnet));
        Some((subnet, in_subnet.or(reached).or(here.clone().next()).copied()))
    }

    fn class_of(&self, packet: &Packet<'_>, mac: Option<MacAddr>, subnet: usize, server: Option<Ipv6Addr>) -> Class {
        let Some(subnet) = self.config.subnets.get(subnet) else { return Class::default() };
        let (vendor_classes, user_classes) = (packet.options.vendor_classes(), packet.options.user_classes());
        self.class.class(&ClientFacts {
            mac,
            vendor_classes: &vendor_classes,
            user_classes: &user_classes,
            enterprises: &packet.options.enterprises(),
            asked: &packet.options.asked().unwrap_or_default(),
            subnet: subnet.prefix,
            server,
            address: None,
        })
    }

    /// Is it for us, or for whoever hears it?
    fn is_for_us(&self, packet: &Packet<'_>) -> bool {
        packet.options.get(code::SERVER_ID).is_none_or(|server| server == self.duid)
    }

    // --- what is said

    /// Settings for one that has its address from elsewhere (§18.3.6).
    fn inform(&mut self, now: Timestamp, ask: &Ask<'_>) {
        let options = &ask.packet.options;
        // §16.12
        if !self.is_for_us(&ask.packet) || [code::IA_NA, code::IA_TA, code::IA_PD].iter().any(|code| options.has(*code)) {
            return self.ignore(now, "not_ours", "an INFORMATION-REQUEST for another server, or with addresses");
        }
        if !self.admits(now, ask) {
            return;
        }
        let refresh = (code::REFRESH_TIME, self.config.refresh_secs.to_be_bytes().to_vec());
        self.send(now, ask, kind::REPLY, vec![refresh]);
        if let Some(mac) = ask.mac {
            let address = ask.packet.relays.last().map_or(ask.arrival.source, |relay| relay.peer_address);
            self.tell(Event::DhcpInform { mac, address: address.into(), family: ask.class.family.clone() });
        }
    }

    /// As many new clients as the network may bring.
    fn admits(&mut self, now: Timestamp, ask: &Ask<'_>) -> bool {
        let link = ask.packet.relays.last().map_or(Ipv6Addr::UNSPECIFIED, |relay| relay.link_address);
        let network = [&ask.arrival.link.to_be_bytes()[..], &link.octets()].concat();
        let admitted = self.limiter.admits(now, &network, self.config.new_clients_per_minute);
        if !admitted {
            metrics::counter!("plugtone_dhcp6_limited_total").increment(1);
            let source = ask.arrival.source;
            self.warn(now, "limited", || {
                format!("more new clients than `dhcp6.new_clients_per_minute` allows, such as {source}: not answered")
            });
        }
        admitted
    }

    fn send(&mut self, now: Timestamp, ask: &Ask<'_>, kind: u8, own: Vec<(u16, Vec<u8>)>) {
        let Some(subnet) = self.config.subnets.get(ask.subnet) else { return };
        let (options, dropped) = reply::options(&ask.packet, &self.duid, own, subnet, &ask.class);
        if !dropped.is_empty() {
            metrics::counter!("plugtone_dhcp6_dropped_options_total").increment(dropped.len() as u64);
            self.warn(now, "dropped", || format!("no room for options {dropped:?} of DHCPv6: shorten the lists of the subnet"));
        }
        let arrival = &ask.arrival;
        let port = if ask.packet.relays.is_empty() { CLIENT_PORT } else { SERVER_PORT };
        let scope = if arrival.source.is_unicast_link_local() { arrival.link } else { 0 };
        let to = SocketAddrV6::new(arrival.source, port, 0, scope);
        let from = (!arrival.destination.is_multicast()).then_some(arrival.destination);
        self.actions.push_back(Action::Send(Outgoing { bytes: ask.packet.answer(kind, &options), to, link: arrival.link, from }));
    }

    fn tell(&mut self, event: Event) {
        self.actions.push_back(Action::Tell(event));
    }

    fn ignore(&mut self, now: Timestamp, what: &'static str, why: &str) {
        metrics::counter!("plugtone_dhcp6_ignored_total", "why" => what).increment(1);
        if self.due(now, what) {
            tracing::debug!(what, "a DHCPv6 message was ignored: {why}");
        }
    }

    /// Warns at a bounded rate.
    fn warn(&mut self, now: Timestamp, what: &'static str, text: impl FnOnce() -> String) {
        if self.due(now, what) {
            tracing::warn!("{}", text());
        }
    }

    fn due(&mut self, now: Timestamp, what: &'static str) -> bool {
        let due = self.warned.get(what).is_none_or(|last| (now.0 - last.0).abs() >= WARN_EVERY_MS);
        if due {
            self.warned.insert(what, now);
        }
        due
    }
}

/// Of what clients send.
fn name(kind: u8) -> Option<&'static str> {
    Some(match kind {
        kind::SOLICIT => "solicit",
        kind::REQUEST => "request",
        kind::CONFIRM => "confirm",
        kind::RENEW => "renew",
        kind::REBIND => "rebind",
        kind::RELEASE => "release",
        kind::DECLINE => "decline",
        kind::INFORMATION_REQUEST => "information_request",
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
