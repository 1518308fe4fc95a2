//! The DHCPv6 server, without sockets and clocks: messages in, messages and news out (RFC 8415 §18.3).
//!
//! ```text
//! INFORMATION-REQUEST ─► DhcpInform, REPLY          of the others: `leasing.rs`
//! ```
//! Driven with `handle_*`, drained with [`Server::poll_action`], woken at [`Server::poll_timeout`]. One message in makes at most one out,
//! to the port of clients at a link-local address or to the port of relays at one of ours: nobody can be flooded through us.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::{Ipv6Addr, SocketAddrV6},
    sync::Arc,
};

use super::{
    CLIENT_PORT, SERVER_PORT,
    class::{Class, Classify, ClientFacts},
    lease::{Client, Table},
    options::{self, Options, Packet, code, kind, status},
    reply,
    settings::{Config, Mode, Subnet},
};
use crate::{
    dhcp::{
        lease::{Holder, LeaseView},
        limit::Limiter,
        server::port_name,
        settings::NonPhones,
        table::Lease,
    },
    model::{Event, Lease6Record, LeaseState, MacAddr, Timestamp},
};

mod leasing;
use leasing::Extension;

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
    /// Write the leases, all or none, then call [`Server::handle_committed`].
    Commit {
        id: u64,
        leases: Vec<Lease6Record>,
    },
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

impl Ask<'_> {
    fn client(&self, iaid: u32) -> Client {
        Client { duid: self.packet.options.client_id().unwrap_or_default().to_vec(), iaid }
    }

    /// The client's own address on its link.
    fn peer(&self) -> Ipv6Addr {
        self.packet.relays.last().map_or(self.arrival.source, |relay| relay.peer_address)
    }

    fn relay(&self) -> Option<Ipv6Addr> {
        link_of(&self.packet)
    }

    /// Where it is plugged in, as the relay that heard it says (RFC 8415 §21.18, RFC 4649): those options as sent.
    fn port(&self) -> Option<Vec<u8>> {
        let relay = self.packet.relays.last()?;
        let id = |code: u16| relay.options.get(code).map(|value| (code, value.to_vec()));
        let ids: Vec<_> = [code::INTERFACE_ID, code::REMOTE_ID].into_iter().filter_map(id).collect();
        (!ids.is_empty()).then(|| options::encoded(&ids))
    }

    fn port_name(&self) -> Option<String> {
        named(&self.packet.relays.last()?.options)
    }
}

fn named(options: &Options) -> Option<String> {
    // After the number of an enterprise.
    let remote = options.get(code::REMOTE_ID).and_then(|value| value.get(4..));
    port_name(remote, options.get(code::INTERFACE_ID))
}

/// Where a client is plugged in, of what a [`Lease6Record`] keeps of it: `remote/interface`, or the one of them that is there.
pub fn port(kept: &[u8]) -> Option<String> {
    named(&Options::parse(kept).ok()?)
}

/// Leases on their way to the disk, each with what was known of its address before, and what happens once they are there.
struct Pending {
    leases: Vec<(Lease6Record, Option<Lease6Record>)>,
    reply: Outgoing,
    events: Vec<Event>,
}

pub struct Server {
    config: Config,
    table: Table,
    view: LeaseView,
    class: Arc<dyn Classify>,
    /// Our identifier, the same after each restart: clients come back to who has it.
    duid: Vec<u8>,
    actions: VecDeque<Action>,
    commits: HashMap<u64, Pending>,
    last_commit: u64,
    /// Their addresses.
    writing: HashSet<Ipv6Addr>,
    /// All our addresses.
    own: Vec<Ipv6Addr>,
    /// When lapsed offers are looked for next.
    lapse_at: Option<Timestamp>,
    limiter: Limiter,
    warned: HashMap<&'static str, Timestamp>,
}

impl Server {
    /// `leases` as the store has them, `own` the addresses of this machine.
    pub fn new(
        config: Config,
        class: Arc<dyn Classify>,
        duid: Vec<u8>,
        leases: Vec<Lease6Record>,
        own: Vec<Ipv6Addr>,
        view: LeaseView,
        now: Timestamp,
    ) -> Self {
        let server = Self {
            table: Table::new(config.subnets.clone(), leases, &own, now),
            config,
            view,
            class,
            duid,
            actions: VecDeque::new(),
            commits: HashMap::new(),
            last_commit: 0,
            writing: HashSet::new(),
            own,
            lapse_at: None,
            limiter: Limiter::default(),
            warned: HashMap::new(),
        };
        server.show_all(now);
        server
    }

    /// Goes on with other settings. Leases stay; those that the new settings do not allow end at their next renewal.
    pub fn set_config(&mut self, now: Timestamp, config: Config) {
        let leases: Vec<_> = self.table.leases().cloned().collect();
        leases.iter().for_each(|lease| self.view.hide(lease.address));
        self.table = Table::new(config.subnets.clone(), leases, &self.own, now);
        self.config = config;
        self.show_all(now);
    }

    /// The addresses of this machine have changed.
    pub fn set_own(&mut self, own: Vec<Ipv6Addr>) {
        self.table.set_own(&own);
        self.own = own;
    }

    fn show_all(&self, now: Timestamp) {
        self.view.set_pools(true, self.config.subnets.iter().filter_map(Subnet::pool_view).collect());
        for lease in self.table.leases().filter(|lease| lease.is_alive(now) && !self.writing.contains(&lease.address)) {
            self.view.put(lease.address, holder(lease, self.table.rival(lease, now).is_some()));
        }
    }

    /// Shows a lease that is durable; two devices that claim one MAC are told apart by where they are.
    fn show(&mut self, now: Timestamp, lease: &Lease6Record) {
        let rival = self.table.rival(lease, now).cloned();
        self.view.put(lease.address, holder(lease, rival.is_some()));
        if let (Some(rival), Some(mac)) = (rival, lease.mac) {
            tracing::warn!(%mac, address = %lease.address, other = %rival.address, "one MAC holds two addresses through two ports: a copied MAC, or a phone that was moved");
            self.view.put(rival.address, holder(&rival, true));
            let (known, other) = (rival.address.into(), lease.address.into());
            self.tell(Event::DuplicateMac { mac, known, other, reason: "leased to it through two ports at once".into() });
        }
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Server::handle_timeout`]. It is wall time, which may be set: look at least once a second.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        [self.table.next_end(), self.lapse_at].into_iter().flatten().min()
    }

    pub fn handle_timeout(&mut self, now: Timestamp) {
        while let Some(lease) = self.table.pop_ended(now) {
            let (mac, address) = (lease.mac, lease.address);
            self.view.hide(address);
            if let Some(mac) = mac {
                self.tell(Event::LeaseExpired { mac, address: address.into() });
            }
        }
        if self.lapse_at.is_some_and(|at| at <= now) {
            self.table.lapse_offers(now);
            self.lapse_at = self.table.has_offers().then(|| now.plus_secs(1));
        }
    }

    pub fn handle_packet(&mut self, now: Timestamp, arrival: &Arrival<'_>, bytes: &[u8]) {
        let packet = match Packet::parse(bytes) {
            Ok(packet) => packet,
            Err(error) => return self.ignore(now, "malformed", &error.to_string()),
        };
        let Some(name) = name(packet.kind) else { return self.ignore(now, "kind", "not a message from a client") };
        if let Err((what, why)) = self.may_ask(&packet, arrival) {
            if what == "unicast" && self.may_be_told(&packet, arrival) {
                let reply = self.bare(&packet, arrival, kind::REPLY, vec![leasing::status_option(status::USE_MULTICAST)]);
                self.actions.push_back(Action::Send(reply));
            }
            return self.ignore(now, what, why);
        }
        let Some((subnet, server)) = self.locate(&packet, arrival) else {
            return self.ignore(now, "no_subnet", "it is in none of `dhcp6.subnets`");
        };
        let mac = packet.mac(arrival.source);
        let class = self.class_of(&packet, mac, subnet, server);
        // Who gives back may always do so.
        let wants = !matches!(packet.kind, kind::RELEASE | kind::DECLINE);
        if self.config.non_phones == NonPhones::Ignore && !class.phone && wants {
            metrics::counter!("plugtone_dhcp6_non_phones_total").increment(1);
            return;
        }
        metrics::counter!("plugtone_dhcp6_received_total", "type" => name).increment(1);
        let ask = Ask { packet, mac, arrival: *arrival, subnet, class };
        match ask.packet.kind {
            kind::INFORMATION_REQUEST => self.inform(now, &ask),
            _ if self.config.mode != Mode::Server => {}
            // §16: it would be nobody's.
            _ if ask.packet.options.client_id().is_none() => self.ignore(now, "nobody", "a message without a client's identifier"),
            kind::REQUEST => self.request(now, &ask),
            kind::RENEW => self.extend(now, &ask, Extension::Renew),
            kind::RELEASE => self.give_back(now, &ask, LeaseState::Released),
            kind::DECLINE => self.give_back(now, &ask, LeaseState::Declined),
            // Those ask everybody.
            _ if self.config.subnets.get(ask.subnet).is_none_or(|subnet| !subnet.leases()) => {}
            kind::SOLICIT => self.solicit(now, &ask),
            kind::REBIND => self.extend(now, &ask, Extension::Rebind),
            kind::CONFIRM => self.confirm(now, &ask),
            _ => {}
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

    /// §18.3.2 and others: who asks us alone without leave, and means us, is told to ask by multicast.
    fn may_be_told(&self, packet: &Packet<'_>, arrival: &Arrival<'_>) -> bool {
        let kind = matches!(packet.kind, kind::REQUEST | kind::RENEW | kind::RELEASE | kind::DECLINE);
        let named = packet.options.get(code::SERVER_ID) == Some(&self.duid) && packet.options.client_id().is_some();
        let source = arrival.source;
        let near =
            source.is_unicast_link_local() || self.config.subnets.iter().any(|known| known.leases() && known.prefix.contains(&source));
        self.config.mode == Mode::Server && kind && named && near
    }

    /// Subnet of the client, and our address for it.
    fn locate(&self, packet: &Packet<'_>, arrival: &Arrival<'_>) -> Option<(usize, Option<Ipv6Addr>)> {
        let subnet_of = |address: &Ipv6Addr| self.config.subnets.iter().position(|subnet| subnet.prefix.contains(address));
        let of_use = |address: &&Ipv6Addr| is_of_use(address);
        let subnet = match link_of(packet) {
            Some(link) => subnet_of(&link)?,
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
        let by_port = ask.port().is_none_or(|port| {
            let key = [&network[..], &port].concat();
            self.limiter.admits(now, &key, self.config.new_clients_per_port_per_minute)
        });
        let admitted = by_port && self.limiter.admits(now, &network, self.config.new_clients_per_minute);
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
        let answer = self.answer(now, ask, kind, own);
        self.actions.extend(answer.map(Action::Send));
    }

    /// With the settings of the subnet.
    fn answer(&mut self, now: Timestamp, ask: &Ask<'_>, kind: u8, own: Vec<(u16, Vec<u8>)>) -> Option<Outgoing> {
        let subnet = self.config.subnets.get(ask.subnet)?;
        let (options, dropped) = reply::options(&ask.packet, &self.duid, own, subnet, &ask.class);
        if !dropped.is_empty() {
            metrics::counter!("plugtone_dhcp6_dropped_options_total").increment(dropped.len() as u64);
            self.warn(now, "dropped", || format!("no room for options {dropped:?} of DHCPv6: shorten the lists of the subnet"));
        }
        Some(outgoing(&ask.packet, &ask.arrival, kind, &options))
    }

    /// Who asked, who answers, and nothing else of ours.
    fn bare(&self, packet: &Packet<'_>, arrival: &Arrival<'_>, kind: u8, own: Vec<(u16, Vec<u8>)>) -> Outgoing {
        let client = packet.options.client_id().map(|duid| (code::CLIENT_ID, duid.to_vec()));
        let options: Vec<_> = client.into_iter().chain([(code::SERVER_ID, self.duid.clone())]).chain(own).collect();
        outgoing(packet, arrival, kind, &options)
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

    /// Warns at a bounded rate; tells whether it did.
    fn warn(&mut self, now: Timestamp, what: &'static str, text: impl FnOnce() -> String) -> bool {
        let due = self.due(now, what);
        if due {
            tracing::warn!("{}", text());
        }
        due
    }

    fn due(&mut self, now: Timestamp, what: &'static str) -> bool {
        let due = self.warned.get(what).is_none_or(|last| (now.0 - last.0).abs() >= WARN_EVERY_MS);
        if due {
            self.warned.insert(what, now);
        }
        due
    }
}

/// An answer the way that the message came.
fn outgoing(packet: &Packet<'_>, arrival: &Arrival<'_>, kind: u8, options: &[(u16, Vec<u8>)]) -> Outgoing {
    let port = if packet.relays.is_empty() { CLIENT_PORT } else { SERVER_PORT };
    let scope = if arrival.source.is_unicast_link_local() { arrival.link } else { 0 };
    let to = SocketAddrV6::new(arrival.source, port, 0, scope);
    let from = (!arrival.destination.is_multicast()).then_some(arrival.destination);
    Outgoing { bytes: packet.answer(kind, options), to, link: arrival.link, from }
}

fn is_of_use(address: &Ipv6Addr) -> bool {
    !address.is_unicast_link_local() && !address.is_multicast() && !address.is_unspecified()
}

/// §13.1: the link of the client, as the relay nearest to it that knows an address there names it.
fn link_of(packet: &Packet<'_>) -> Option<Ipv6Addr> {
    packet.relays.iter().rev().map(|relay| relay.link_address).find(is_of_use)
}

/// The relay tells another switch port than that of the lease.
fn is_elsewhere(ask: &Ask<'_>, lease: &Lease6Record) -> bool {
    ask.port().zip(lease.port.as_ref()).is_some_and(|(here, there)| here != *there)
}

/// As others may know it; nobody, where nobody says which device it is.
fn holder(lease: &Lease6Record, contested: bool) -> Option<Holder> {
    let (relay, relay_info) = (lease.relay.map(Into::into), lease.port.clone());
    Some(Holder { mac: lease.mac?, expires: lease.expires, family: lease.family.clone(), relay, relay_info, contested })
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
