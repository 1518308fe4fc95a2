//! The DHCP server, without sockets and clocks: packets and answers in, packets, questions and news out (RFC 2131 §4.3).
//!
//! ```text
//! DISCOVER ─► choose ─► (Probe ─► nobody answers) ─► OFFER
//! REQUEST ─► may it? ─► Commit ─► handle_committed ─► LeaseGranted, ACK      no, and we may say so ─► NAK
//! ```
//! Driven with `handle_*`, drained with [`Server::poll_action`], woken at [`Server::poll_timeout`]. An ACK leaves only
//! after the shell has said that its lease is on disk; of one address one lease is written at a time.
//!
//! Beside another server (`mode: beside`) phones alone are answered. RFC 2131 leaves two ways: an address of our own range, which the
//! client may choose (§4.2), and settings for a client that has its address from elsewhere and asks by INFORM (§3.4).
//!
//! Not here: offers without an address (PXE's proxy), BOOTP clients, media other than Ethernet, rapid commit (RFC 4039), lease query.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

use super::{
    class::{Class, Classify, ClientFacts},
    lease::{ClientKey, LeaseView, Table},
    limit::Limiter,
    options::{MessageType, Packet, code, sub_option},
    reply::{self, Reply},
    settings::{Config, Mode, NonPhones, Subnet},
    table::Lease,
};
use crate::model::{Event, LeaseRecord, LeaseState, MacAddr, Timestamp, hex};

const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;
/// Leases being written at once; beyond that requests are dropped, and clients ask again.
const MOST_COMMITS: usize = 8192;
/// Writes waiting behind one of the same address.
const MOST_QUEUED: usize = 4;
/// Addresses being probed at once; beyond that addresses are offered unprobed.
const MOST_PROBES: usize = 1024;
/// Addresses tried for one DISCOVER when each turns out to be in use.
const MOST_TRIES: u32 = 4;
/// From this answer to the same transaction on the client is taken not to hear unicast.
const DEAF_AFTER: u32 = 3;
/// Warnings of one kind are told once in this many milliseconds.
const WARN_EVERY_MS: i64 = 10_000;

/// How a packet came in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Index of the interface; replies to clients without an address leave by it.
    pub link: u32,
    /// Our addresses on that interface.
    pub locals: &'a [Ipv4Addr],
    /// Where it was sent to: one of ours, or a broadcast address.
    pub destination: Ipv4Addr,
    pub source: SocketAddrV4,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Send(Outgoing),
    /// Write the lease, then call [`Server::handle_committed`].
    Commit(LeaseRecord),
    /// Ask by ARP on `link` who has `address`; give answers to [`Server::handle_probe`]. Silence needs no call.
    Probe {
        link: u32,
        address: Ipv4Addr,
    },
    Tell(Event),
}

/// A packet to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    pub bytes: Vec<u8>,
    pub to: Destination,
    pub link: u32,
    /// Our address, as the source of the datagram.
    pub from: Ipv4Addr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// By ordinary routing: a relay, or a client that uses its address.
    Address(SocketAddrV4),
    /// To an address that does not answer ARP yet: a frame to the MAC.
    Hardware { mac: MacAddr, address: Ipv4Addr },
    /// To 255.255.255.255 on the link.
    Broadcast,
}

/// A request with all that is known about it.
#[derive(Debug)]
struct Ask {
    packet: Packet,
    mac: MacAddr,
    client: ClientKey,
    link: u32,
    source: SocketAddrV4,
    /// Sent to us alone, not to everybody.
    unicast: bool,
    subnet: usize,
    server_id: Ipv4Addr,
    /// Source of replies: `server_id`, unless a relay put its own there (RFC 5107).
    from: Ipv4Addr,
    class: Class,
}

impl Ask {
    fn relay(&self) -> Option<Ipv4Addr> {
        given(self.packet.head.giaddr)
    }

    /// Somebody who wants to see what a phone would be told: no device, and nobody who will take the address.
    fn is_rehearsal(&self) -> bool {
        self.packet.options.get(code::USER_CLASS) == Some(super::class::REHEARSAL)
    }
}

/// A lease on its way to the disk, and what happens once it is there.
#[derive(Debug)]
struct Pending {
    lease: LeaseRecord,
    /// What was known of the address before.
    previous: Option<LeaseRecord>,
    reply: Option<Outgoing>,
    event: Event,
}

/// A question to the network by ARP: who has this address?
#[derive(Debug)]
struct Probe {
    ask: Ask,
    until: Timestamp,
    about: About,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    /// It is to be offered; so many before it were in use.
    Offer { tries: u32 },
    /// Its holder is said to have found it in use by another.
    Decline,
}

pub struct Server {
    config: Config,
    table: Table,
    class: Arc<dyn Classify>,
    view: LeaseView,
    /// All our addresses, to know option 54 by.
    own: Vec<Ipv4Addr>,
    actions: VecDeque<Action>,
    /// By address; the first of each is being written.
    commits: HashMap<Ipv4Addr, VecDeque<Pending>>,
    probes: HashMap<Ipv4Addr, Probe>,
    probe_ends: BTreeSet<(Timestamp, Ipv4Addr)>,
    limiter: Limiter,
    /// When lapsed offers are looked for next.
    lapse_at: Option<Timestamp>,
    warned: HashMap<&'static str, Timestamp>,
}

impl Server {
    /// `leases` as the store has them, `own` the addresses of this machine.
    pub fn new(
        config: Config,
        class: Arc<dyn Classify>,
        leases: Vec<LeaseRecord>,
        own: Vec<Ipv4Addr>,
        view: LeaseView,
        now: Timestamp,
    ) -> Self {
        let server = Self {
            table: Table::new(config.subnets.clone(), leases, &own, now),
            config,
            class,
            view,
            own,
            actions: VecDeque::new(),
            commits: HashMap::new(),
            probes: HashMap::new(),
            probe_ends: BTreeSet::new(),
            limiter: Limiter::default(),
            lapse_at: None,
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
        self.probes.clear();
        self.probe_ends.clear();
        self.show_all(now);
    }

    fn show_all(&self, now: Timestamp) {
        self.view.set_pools(false, self.config.subnets.iter().filter_map(Subnet::pool_view).collect());
        for lease in self.table.leases().filter(|lease| lease.is_alive(now) && !self.commits.contains_key(&lease.address)) {
            self.view.show(lease, self.table.rival(lease, now).is_some());
        }
    }

    /// The addresses of this machine have changed.
    pub fn set_own(&mut self, own: Vec<Ipv4Addr>) {
        self.table.set_own(&own);
        self.own = own;
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Server::handle_timeout`]. It is wall time, which may be set: look at least once a second.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let probe = self.probe_ends.first().map(|(at, _)| *at);
        [probe, self.table.next_end(), self.lapse_at].into_iter().flatten().min()
    }

    pub fn handle_timeout(&mut self, now: Timestamp) {
        while let Some((_, address)) = self.probe_ends.first().copied().filter(|(at, _)| *at <= now) {
            match self.end_probe(address) {
                Some(Probe { ask, about: About::Offer { .. }, .. }) => self.send_offer(now, &ask, address),
                Some(Probe { ask, about: About::Decline, .. }) => self.give_up(now, ask, address),
                None => {}
            }
        }
        while let Some(lease) = self.table.pop_ended(now) {
            let (mac, address) = (lease.mac, lease.address);
            self.view.hide(address);
            self.tell(Event::LeaseExpired { mac, address: address.into() });
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
        if packet.options.damaged {
            metrics::counter!("plugtone_dhcp_damaged_total").increment(1);
        }
        let (Some(kind), Some(mac)) = (packet.message_type(), packet.head.mac()) else {
            return self.ignore(now, "not_ethernet_dhcp", "no message type, or not an Ethernet client");
        };
        // Also our own broadcasts, where the interface hears itself.
        if packet.head.op != crate::dhcp::options::Head::REQUEST {
            return;
        }
        let Some((subnet, server_id, from)) = self.locate(&packet, arrival) else {
            return self.ignore(now, "no_subnet", "it is in none of `dhcp.subnets`");
        };
        let client = ClientKey::new(packet.options.get(code::CLIENT_ID), mac);
        let class = self.class_of(&packet, mac, subnet, server_id);
        if self.config.non_phones == NonPhones::Ignore && !class.phone && kind_is_served_by_policy(kind) {
            metrics::counter!("plugtone_dhcp_non_phones_total").increment(1);
            return;
        }
        let unicast = self.is_ours(arrival, arrival.destination);
        let ask = Ask { packet, mac, client, link: arrival.link, source: arrival.source, unicast, subnet, server_id, from, class };
        metrics::counter!("plugtone_dhcp_received_total", "type" => name(kind)).increment(1);
        match kind {
            MessageType::Discover => self.discover(now, ask, 0),
            MessageType::Request => self.request(now, &ask),
            MessageType::Decline => self.decline(now, ask),
            MessageType::Release => self.release(now, &ask),
            MessageType::Inform => self.inform(now, &ask),
            _ => {}
        }
    }

    /// Somebody answered to ARP for an address under probe. The client itself may.
    pub fn handle_probe(&mut self, now: Timestamp, address: Ipv4Addr, answered: MacAddr) {
        let Some((about, itself)) = self.probes.get(&address).map(|probe| (probe.about, probe.ask.mac == answered)) else { return };
        if itself && about != About::Decline {
            return;
        }
        let Some(Probe { ask, .. }) = self.end_probe(address) else { return };
        let About::Offer { tries } = about else {
            // Who has found its address in use does not use it.
            return match itself {
                true => self.ignore(now, "decline_forged", "a DECLINE in the name of a phone that answers on its address"),
                false => self.give_up(now, ask, address),
            };
        };
        tracing::warn!(mac = %ask.mac, %address, held_by = %answered, "address is in use by a device that we did not lease it to: left alone for {} s", self.config.quarantine_secs);
        self.table.withdraw(address);
        self.quarantine(now, &ask, answered, address);
        self.discover(now, ask, tries + 1);
    }

    /// The lease of `address` is on disk, or could not be written.
    pub fn handle_committed(&mut self, now: Timestamp, address: Ipv4Addr, outcome: Result<(), String>) {
        let Some(queue) = self.commits.get_mut(&address) else { return };
        let Some(done) = queue.pop_front() else { return };
        match queue.front() {
            Some(next) => self.actions.push_back(Action::Commit(next.lease.clone())),
            None => {
                self.commits.remove(&address);
            }
        }
        match outcome {
            Ok(()) => {
                let current = self.table.lease(address) == Some(&done.lease);
                if current && done.lease.is_alive(now) {
                    self.show(now, &done.lease);
                }
                // Told before it is sent: what the client does with it comes after it in the timeline.
                self.tell(done.event);
                self.actions.extend(done.reply.map(Action::Send));
            }
            Err(error) => {
                metrics::counter!("plugtone_dhcp_unwritten_total").increment(1);
                self.warn(now, "store", || format!("lease of {address} could not be written, so nothing was acknowledged: {error}"));
                if self.table.lease(address) == Some(&done.lease) {
                    self.table.restore(address, done.previous, now);
                }
            }
        }
    }

    /// Shows a lease that is durable; two devices that claim one MAC are told apart by where they are.
    fn show(&mut self, now: Timestamp, lease: &LeaseRecord) {
        let rival = self.table.rival(lease, now).cloned();
        self.view.show(lease, rival.is_some());
        if let Some(rival) = rival {
            tracing::warn!(mac = %lease.mac, address = %lease.address, other = %rival.address, "one MAC holds two addresses through two ports: a copied MAC, or a phone that was moved");
            self.view.show(&rival, true);
            let (known, other) = (rival.address.into(), lease.address.into());
            self.tell(Event::DuplicateMac { mac: lease.mac, known, other, reason: "leased to it through two ports at once".into() });
        }
    }

    // --- where a request belongs

    /// Subnet of the client, our identity towards it, and the source of replies.
    fn locate(&self, packet: &Packet, arrival: &Arrival<'_>) -> Option<(usize, Ipv4Addr, Ipv4Addr)> {
        let head = &packet.head;
        let to_us = self.is_ours(arrival, arrival.destination).then_some(arrival.destination);
        let any_local = || arrival.locals.first().copied();
        if let Some(giaddr) = given(head.giaddr) {
            let info = packet.options.get(code::RELAY_INFO).unwrap_or_default();
            let quad = |wanted| sub_option(info, wanted).and_then(|value| <[u8; 4]>::try_from(value).ok()).map(Ipv4Addr::from);
            // RFC 3527: the link may be another than the relay's own; RFC 5107: the relay wants to see renewals.
            let subnet = self.table.subnet_of(quad(5).unwrap_or(giaddr))?;
            let from = to_us.or_else(any_local)?;
            return Some((subnet, quad(11).and_then(given).unwrap_or(from), from));
        }
        let here = arrival.locals.iter().find_map(|local| self.table.subnet_of(*local).map(|subnet| (subnet, *local)));
        // A renewal or an INFORM sent to us alone may come from behind a router: its address says where from.
        if let (Some(ciaddr), Some(local)) = (given(head.ciaddr), to_us)
            && let Some(subnet) = self.table.subnet_of(ciaddr)
        {
            return Some((subnet, local, local));
        }
        let (subnet, local) = match here {
            Some(here) => here,
            // On loopback our address need not lie in the pool's network.
            None if self.config.loopback => (0, to_us.or_else(any_local)?),
            None => return None,
        };
        self.table.subnet(subnet)?;
        Some((subnet, local, local))
    }

    fn is_ours(&self, arrival: &Arrival<'_>, address: Ipv4Addr) -> bool {
        arrival.locals.contains(&address) || self.own.contains(&address)
    }

    fn class_of(&self, packet: &Packet, mac: MacAddr, subnet: usize, server: Ipv4Addr) -> Class {
        let get = |code| packet.options.get(code);
        let info = get(code::RELAY_INFO).unwrap_or_default();
        self.class.class(&ClientFacts {
            mac,
            client_id: get(code::CLIENT_ID),
            vendor_class: get(code::VENDOR_CLASS),
            user_class: get(code::USER_CLASS),
            host_name: get(code::HOST_NAME),
            parameter_list: get(code::PARAMETER_LIST).unwrap_or_default(),
            vendor_identifying: get(125),
            subnet: self.table.subnet(subnet).map(|subnet| subnet.cidr).unwrap_or_default(),
            server,
            address: given(packet.head.ciaddr).or_else(|| packet.options.address(code::REQUESTED_ADDRESS)),
            relay: given(packet.head.giaddr),
            circuit_id: sub_option(info, 1),
            remote_id: sub_option(info, 2),
        })
    }

    // --- the five messages

    fn discover(&mut self, now: Timestamp, ask: Ask, tries: u32) {
        if tries == 0 {
            if !self.admits(now, &ask) {
                return;
            }
            let vendor_class = ask.packet.options.text(code::VENDOR_CLASS).map(|text| printable(&text));
            tracing::info!(mac = %ask.mac, family = ?ask.class.family, relay = ?ask.relay(), "DISCOVER");
            let asked = ask.packet.options.get(code::PARAMETER_LIST).unwrap_or_default().to_vec();
            if !ask.is_rehearsal() {
                self.tell(Event::DhcpDiscover {
                    mac: ask.mac,
                    family: ask.class.family.clone(),
                    vendor_class,
                    relay: ask.relay().map(IpAddr::V4),
                    asked,
                });
            }
        }
        // An offer without an address, as PXE knows it, is read by no phone.
        if !self.leases_here(&ask) {
            return;
        }
        let wish = ask.packet.options.address(code::REQUESTED_ADDRESS);
        let chosen = if tries < MOST_TRIES { self.table.choose(&ask.client, ask.mac, ask.subnet, wish, now) } else { None };
        let Some(address) = chosen else { return self.exhausted(now, &ask) };

        let own = self.table.of_client(&ask.client, ask.subnet, now).is_some_and(|lease| lease.address == address && lease.is_alive(now));
        let offered = self.table.offer_to(&ask.client, ask.subnet, now) == Some(address);
        if let Some(probe) = self.probes.get_mut(&address) {
            // Impatient: the question is out already, the answer will be to this transaction.
            probe.ask = ask;
            return;
        }
        match self.config.conflict_wait_ms {
            Some(wait_ms) if ask.relay().is_none() && !own && !offered && self.probes.len() < MOST_PROBES => {
                let until = Timestamp(now.0 + i64::from(wait_ms));
                // Ours to give until the answer is in.
                self.table.reserve(address, &ask.client, Timestamp(until.0 + 1000));
                self.lapse_at.get_or_insert(now.plus_secs(1));
                self.begin_probe(address, Probe { ask, until, about: About::Offer { tries } });
            }
            _ => self.send_offer(now, &ask, address),
        }
    }

    fn begin_probe(&mut self, address: Ipv4Addr, probe: Probe) {
        self.actions.push_back(Action::Probe { link: probe.ask.link, address });
        self.probe_ends.insert((probe.until, address));
        self.probes.insert(address, probe);
    }

    fn end_probe(&mut self, address: Ipv4Addr) -> Option<Probe> {
        let probe = self.probes.remove(&address)?;
        self.probe_ends.remove(&(probe.until, address));
        Some(probe)
    }

    fn send_offer(&mut self, now: Timestamp, ask: &Ask, address: Ipv4Addr) {
        // A rehearsal asks for many addresses, and takes none.
        let until = now.plus_secs(if ask.is_rehearsal() { 1 } else { self.config.offer_secs.into() });
        let sent = self.table.offer(address, &ask.client, ask.packet.head.xid, until);
        self.lapse_at.get_or_insert(now.plus_secs(1));
        let lease_secs = self.lease_secs(ask);
        // A ciaddr has no place in a DISCOVER; those who send one may or may not use it.
        let broadcast = sent >= DEAF_AFTER || given(ask.packet.head.ciaddr).is_some();
        let Some(reply) = self.reply(now, MessageType::Offer, ask, address, Some(lease_secs), broadcast) else { return };
        self.actions.push_back(Action::Send(reply));
        if !ask.is_rehearsal() {
            self.tell(Event::DhcpOffer { mac: ask.mac, address: address.into() });
        }
    }

    /// RFC 2131 §4.3.2: which of the four kinds of REQUEST it is shows in which fields are filled.
    fn request(&mut self, now: Timestamp, ask: &Ask) {
        let options = &ask.packet.options;
        let (chosen, wish) = (options.address(code::SERVER_ID), options.address(code::REQUESTED_ADDRESS));
        let ciaddr = given(ask.packet.head.ciaddr);
        if chosen.is_some_and(|server| server != ask.server_id && !self.own.contains(&server)) {
            // It took another server's offer.
            if let Some(address) = self.table.offer_to(&ask.client, ask.subnet, now) {
                self.table.withdraw(address);
            }
            return;
        }
        if !self.leases_here(ask) {
            return;
        }
        let Some(address) = ciaddr.or(wish) else { return self.ignore(now, "no_address", "a REQUEST that names no address") };
        tracing::info!(mac = %ask.mac, %address, "REQUEST");
        self.tell(Event::DhcpRequest { mac: ask.mac, address: Some(address.into()) });
        let verdict = match (ciaddr, chosen) {
            (Some(_), _) => self.judge_renewal(now, ask, address),
            (None, Some(_)) => self.judge_selection(now, ask, address),
            (None, None) => self.judge_reboot(now, ask, address),
        };
        match verdict {
            Verdict::Grant => self.grant(now, ask, address),
            Verdict::Refuse(reason) => self.refuse(ask, address, reason),
            Verdict::Silence => metrics::counter!("plugtone_dhcp_unanswered_total").increment(1),
        }
    }

    /// SELECTING: it took our offer. One that we forgot, by a restart say, is as good as long as the address is free.
    fn judge_selection(&mut self, now: Timestamp, ask: &Ask, address: Ipv4Addr) -> Verdict {
        if !self.may_have_here(now, ask, address) {
            return Verdict::Refuse("this address is not free for you");
        }
        if self.admits(now, ask) { Verdict::Grant } else { Verdict::Silence }
    }

    /// INIT-REBOOT: it had the address before it was switched off.
    fn judge_reboot(&self, now: Timestamp, ask: &Ask, address: Ipv4Addr) -> Verdict {
        let alone = self.config.mode == Mode::Server;
        if self.table.subnet_of(address) != Some(ask.subnet) {
            return if alone { Verdict::Refuse("this address belongs to another network") } else { Verdict::Silence };
        }
        match self.table.of_client(&ask.client, ask.subnet, now) {
            Some(_) if self.is_its_own(now, ask, address) => Verdict::Grant,
            Some(_) => Verdict::Refuse("another address is noted for you"),
            None if self.reserved(ask) == Some(address) && self.may_have_here(now, ask, address) => Verdict::Grant,
            None if self.reserved(ask).is_some() => Verdict::Refuse("another address is reserved for you"),
            // Not ours to judge (RFC 2131 §4.3.2), unless we know that it is somebody else's.
            None if alone && self.table.lease(address).is_some_and(|lease| lease.is_alive(now)) => {
                Verdict::Refuse("this address is in use by another")
            }
            None => Verdict::Silence,
        }
    }

    /// RENEWING (to us alone) and REBINDING (to everybody): it uses the address.
    fn judge_renewal(&mut self, now: Timestamp, ask: &Ask, address: Ipv4Addr) -> Verdict {
        let alone = self.config.mode == Mode::Server;
        if self.table.subnet_of(address) != Some(ask.subnet) {
            return if alone { Verdict::Refuse("this address belongs to another network") } else { Verdict::Silence };
        }
        if self.is_its_own(now, ask, address) {
            return Verdict::Grant;
        }
        let known = self.table.lease(address).is_some();
        if !alone && !known && !ask.unicast {
            return Verdict::Silence;
        }
        if self.may_have_here(now, ask, address) {
            // We lost the lease, as with the database: nobody else has it, so it may go on.
            return if self.admits(now, ask) { Verdict::Grant } else { Verdict::Silence };
        }
        let in_our_charge = self.table.subnet(ask.subnet).is_some_and(|subnet| subnet.range.is_some_and(|range| range.contains(address)));
        if ask.unicast || in_our_charge || known { Verdict::Refuse("this address is not yours any more") } else { Verdict::Silence }
    }

    fn may_have_here(&self, now: Timestamp, ask: &Ask, address: Ipv4Addr) -> bool {
        self.table.subnet_of(address) == Some(ask.subnet) && self.table.may_have(&ask.client, ask.mac, address, now)
    }

    /// Is it the client's by our notes, and may it still be?
    fn is_its_own(&self, now: Timestamp, ask: &Ask, address: Ipv4Addr) -> bool {
        self.table.lease(address).is_some_and(|lease| ClientKey::of(lease) == ask.client) && self.may_have_here(now, ask, address)
    }

    fn reserved(&self, ask: &Ask) -> Option<Ipv4Addr> {
        self.table.subnet(ask.subnet)?.reserved.get(&ask.mac).copied()
    }

    fn grant(&mut self, now: Timestamp, ask: &Ask, address: Ipv4Addr) {
        let lease_secs = self.lease_secs(ask);
        let Some(reply) = self.reply(now, MessageType::Ack, ask, address, Some(lease_secs), false) else { return };
        if let Some(offered) = self.table.offer_to(&ask.client, ask.subnet, now) {
            self.table.withdraw(offered);
        }
        // It did not wait for our offer: an OFFER after the ACK would only confuse it.
        self.end_probe(address);
        let lease = LeaseRecord {
            address,
            mac: ask.mac,
            client_id: ask.packet.options.get(code::CLIENT_ID).unwrap_or_default().to_vec(),
            state: LeaseState::Active,
            starts: now,
            expires: now.plus_secs(lease_secs.into()),
            hostname: ask.packet.options.text(code::HOST_NAME).map(|text| printable(&text)).filter(|text| !text.is_empty()),
            family: ask.class.family.clone(),
            relay: ask.relay(),
            relay_info: ask.packet.options.get(code::RELAY_INFO).map(<[u8]>::to_vec),
        };
        let port = ask.packet.options.get(code::RELAY_INFO).and_then(port);
        let event = Event::LeaseGranted { mac: ask.mac, address: address.into(), family: ask.class.family.clone(), lease_secs, port };
        self.commit(now, lease, Some(reply), event);
    }

    fn refuse(&mut self, ask: &Ask, address: Ipv4Addr, reason: &'static str) {
        tracing::info!(mac = %ask.mac, %address, reason, "NAK");
        let bytes = reply::nak(&ask.packet, ask.server_id, reason);
        let to = match ask.relay() {
            _ if self.config.loopback => Destination::Address(ask.source),
            Some(relay) => Destination::Address(SocketAddrV4::new(relay, SERVER_PORT)),
            None => Destination::Broadcast,
        };
        self.actions.push_back(Action::Send(Outgoing { bytes, to, link: ask.link, from: ask.from }));
        self.tell(Event::LeaseRefused { mac: ask.mac, address: Some(address.into()), reason: reason.into() });
    }

    fn decline(&mut self, now: Timestamp, ask: Ask) {
        let Some(address) = ask.packet.options.address(code::REQUESTED_ADDRESS) else { return };
        let offered = self.table.offer_to(&ask.client, ask.subnet, now) == Some(address);
        let leased = self.table.lease(address).is_some_and(|lease| lease.is_alive(now) && ClientKey::of(lease) == ask.client);
        if !(offered || leased) || !self.is_for_us(&ask) {
            return self.ignore(now, "decline", "a DECLINE of an address that the client does not hold");
        }
        if self.table.lease(address).is_some_and(|lease| leased && is_from_elsewhere(&ask, lease)) {
            return self.ignore(now, "decline_forged", "a DECLINE through another switch port than the lease");
        }
        match self.config.conflict_wait_ms {
            // Anybody can say it in a phone's name: the phone is asked.
            Some(wait_ms) if leased && ask.relay().is_none() => {
                if self.probes.len() < MOST_PROBES && !self.probes.contains_key(&address) {
                    self.begin_probe(address, Probe { ask, until: Timestamp(now.0 + i64::from(wait_ms)), about: About::Decline });
                }
            }
            _ => self.give_up(now, ask, address),
        }
    }

    /// The client says that its address is in use by another, and nothing speaks against it.
    fn give_up(&mut self, now: Timestamp, ask: Ask, address: Ipv4Addr) {
        tracing::warn!(mac = %ask.mac, %address, "DECLINE: the client found its address in use; look for a device with a fixed address in the range");
        self.table.withdraw(address);
        self.quarantine(now, &ask, ask.mac, address);
        // It has asked anew meanwhile.
        if ask.packet.message_type() == Some(MessageType::Discover) {
            self.discover(now, ask, 1);
        }
    }

    fn quarantine(&mut self, now: Timestamp, ask: &Ask, holder: MacAddr, address: Ipv4Addr) {
        let lease = LeaseRecord {
            address,
            mac: holder,
            client_id: Vec::new(),
            state: LeaseState::Declined,
            starts: now,
            expires: now.plus_secs(self.config.quarantine_secs.into()),
            hostname: None,
            family: None,
            relay: ask.relay(),
            relay_info: None,
        };
        self.view.hide(address);
        self.commit(now, lease, None, Event::LeaseDeclined { mac: ask.mac, address: address.into() });
    }

    fn release(&mut self, now: Timestamp, ask: &Ask) {
        let address = ask.packet.head.ciaddr;
        let held = self.table.lease(address).filter(|lease| lease.is_alive(now) && ClientKey::of(lease) == ask.client);
        let Some(lease) = held.filter(|_| self.is_for_us(ask)).cloned() else { return };
        // The holder gives it back from it (RFC 2131 §4.4.6), and through its own port.
        let from_it = self.config.loopback || ask.relay().is_some() || *ask.source.ip() == address;
        if !from_it || is_from_elsewhere(ask, &lease) {
            return self.ignore(now, "release_forged", "a RELEASE of an address from another address or switch port than its own");
        }
        tracing::info!(mac = %ask.mac, %address, "RELEASE");
        self.view.hide(address);
        let event = Event::LeaseReleased { mac: lease.mac, address: address.into() };
        self.commit(now, LeaseRecord { state: LeaseState::Released, expires: now, ..lease }, None, event);
    }

    /// Settings for one that has its address from elsewhere. Never refused (RFC 2131 §4.3.5).
    fn inform(&mut self, now: Timestamp, ask: &Ask) {
        let Some(address) = given(ask.packet.head.ciaddr).or(given(*ask.source.ip())) else {
            return self.ignore(now, "no_address", "an INFORM that names no address");
        };
        if !self.config.loopback && self.table.subnet_of(address).is_none() {
            return self.ignore(now, "elsewhere", "an INFORM from an address of none of `dhcp.subnets`");
        }
        if !self.admits(now, ask) {
            return;
        }
        let Some(mut reply) = self.reply(now, MessageType::Ack, ask, Ipv4Addr::UNSPECIFIED, None, false) else { return };
        if !self.config.loopback {
            reply.to = Destination::Address(SocketAddrV4::new(address, CLIENT_PORT));
        }
        tracing::info!(mac = %ask.mac, %address, "INFORM");
        self.actions.push_back(Action::Send(reply));
        self.tell(Event::DhcpInform { mac: ask.mac, address: address.into(), family: ask.class.family.clone() });
    }

    // --- parts of them

    /// Beside another server a subnet may be there only to answer INFORMs.
    fn leases_here(&self, ask: &Ask) -> bool {
        self.table.subnet(ask.subnet).is_some_and(Subnet::leases)
    }

    fn is_for_us(&self, ask: &Ask) -> bool {
        let server = ask.packet.options.address(code::SERVER_ID);
        server.is_none_or(|server| server == ask.server_id || self.own.contains(&server))
    }

    /// Known clients always; new ones as many as the network and the port may bring.
    fn admits(&mut self, now: Timestamp, ask: &Ask) -> bool {
        let known = self.table.of_client(&ask.client, ask.subnet, now).is_some()
            || self.table.offer_to(&ask.client, ask.subnet, now).is_some()
            || self.reserved(ask).is_some();
        if known {
            return true;
        }
        let network = [&ask.link.to_be_bytes()[..], &ask.packet.head.giaddr.octets()].concat();
        let port = ask.packet.options.get(code::RELAY_INFO).filter(|info| sub_option(info, 1).is_some() || sub_option(info, 2).is_some());
        let by_port = port.is_none_or(|port| {
            let key = [&network, port].concat();
            self.limiter.admits(now, &key, self.config.new_clients_per_port_per_minute)
        });
        let admitted = by_port && self.limiter.admits(now, &network, self.config.new_clients_per_minute);
        if !admitted {
            metrics::counter!("plugtone_dhcp_limited_total").increment(1);
            let mac = ask.mac;
            self.warn(now, "limited", || {
                format!("more new clients than `dhcp.new_clients_per_minute` allows, such as {mac}: not answered")
            });
        }
        admitted
    }

    fn exhausted(&mut self, now: Timestamp, ask: &Ask) {
        metrics::counter!("plugtone_dhcp_exhausted_total").increment(1);
        let Some(subnet) = self.table.subnet(ask.subnet).map(|subnet| subnet.cidr.to_string()) else { return };
        let text = || format!("no address is left in {subnet} for {}: widen its `range`, or shorten `lease_secs`", ask.mac);
        if self.warn(now, "exhausted", text) {
            self.tell(Event::PoolExhausted { mac: ask.mac, subnet });
        }
    }

    /// What the subnet or the kind has, or less if the client asks for less.
    fn lease_secs(&self, ask: &Ask) -> u32 {
        let most = ask.class.lease_secs.or(self.table.subnet(ask.subnet).map(|subnet| subnet.lease_secs)).unwrap_or(3600).max(60);
        ask.packet.options.u32(code::LEASE_TIME).map_or(most, |asked| asked.clamp(60, most))
    }

    fn reply(
        &mut self,
        now: Timestamp,
        kind: MessageType,
        ask: &Ask,
        yiaddr: Ipv4Addr,
        lease_secs: Option<u32>,
        broadcast: bool,
    ) -> Option<Outgoing> {
        let broadcast = broadcast || ask.class.always_broadcast;
        let subnet = self.table.subnet(ask.subnet)?;
        let (request, config, class, server_id) = (&ask.packet, &self.config, &ask.class, ask.server_id);
        let encoded = Reply { kind, request, config, subnet, class, server_id, yiaddr, lease_secs, broadcast, now }.encode();
        if !encoded.dropped.is_empty() {
            metrics::counter!("plugtone_dhcp_dropped_options_total").increment(encoded.dropped.len() as u64);
            let (mac, dropped) = (ask.mac, encoded.dropped);
            self.warn(now, "dropped", || {
                format!("no room for options {dropped:?} in the reply to {mac}: shorten the values of its family")
            });
        }
        let head = &ask.packet.head;
        let to = match (ask.relay(), given(head.ciaddr)) {
            _ if self.config.loopback => Destination::Address(ask.source),
            (Some(relay), _) => Destination::Address(SocketAddrV4::new(relay, SERVER_PORT)),
            (None, Some(ciaddr)) if kind == MessageType::Ack => Destination::Address(SocketAddrV4::new(ciaddr, CLIENT_PORT)),
            _ if broadcast || head.wants_broadcast() => Destination::Broadcast,
            _ => Destination::Hardware { mac: ask.mac, address: yiaddr },
        };
        Some(Outgoing { bytes: encoded.bytes, to, link: ask.link, from: ask.from })
    }

    /// Enters a lease and has it written; of one address one write at a time, in order.
    fn commit(&mut self, now: Timestamp, lease: LeaseRecord, reply: Option<Outgoing>, event: Event) {
        let address = lease.address;
        let busy = self.commits.len() >= MOST_COMMITS;
        let queue = match self.commits.get(&address) {
            None if busy => return self.ignore(now, "busy", "too many leases are being written"),
            // The client repeats itself while its lease is being written: the answer is on its way.
            Some(queue) if reply.is_some() && queue.back().is_some_and(|last| last.reply.is_some() && last.lease.mac == lease.mac) => {
                return;
            }
            Some(queue) if queue.len() >= MOST_QUEUED => {
                return self.ignore(now, "busy", "too many changes of one lease are being written");
            }
            _ => self.commits.entry(address).or_default(),
        };
        let previous = self.table.lease(address).cloned();
        if queue.is_empty() {
            self.actions.push_back(Action::Commit(lease.clone()));
        }
        queue.push_back(Pending { lease: lease.clone(), previous, reply, event });
        self.table.put(lease, now);
    }

    fn tell(&mut self, event: Event) {
        self.actions.push_back(Action::Tell(event));
    }

    fn ignore(&mut self, now: Timestamp, what: &'static str, why: &str) {
        metrics::counter!("plugtone_dhcp_ignored_total", "why" => what).increment(1);
        if self.due(now, what) {
            tracing::debug!(what, "a DHCP packet was ignored: {why}");
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

enum Verdict {
    Grant,
    Refuse(&'static str),
    Silence,
}

/// Option 82 tells another switch port than that of the lease. What else relays write there may change from message to message.
fn is_from_elsewhere(ask: &Ask, lease: &LeaseRecord) -> bool {
    let (Some(here), Some(there)) = (ask.packet.options.get(code::RELAY_INFO), lease.relay_info.as_deref()) else { return false };
    [1, 2].iter().any(|part| sub_option(here, *part) != sub_option(there, *part))
}

/// Those that ask for something; who gives back may always do so.
fn kind_is_served_by_policy(kind: MessageType) -> bool {
    matches!(kind, MessageType::Discover | MessageType::Request | MessageType::Inform)
}

fn given(address: Ipv4Addr) -> Option<Ipv4Addr> {
    (!address.is_unspecified()).then_some(address)
}

/// What can be shown and stored of a text from the network.
fn printable(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(64).collect()
}

/// Where a client is plugged in, as the value of option 82 says (RFC 3046): `remote/circuit`, or the one of them that is there.
/// What is no text is written in hexadecimal: makers put numbers there.
pub fn port(info: &[u8]) -> Option<String> {
    port_name(sub_option(info, 2), sub_option(info, 1))
}

/// The same of the two parts.
pub(super) fn port_name(remote: Option<&[u8]>, circuit: Option<&[u8]>) -> Option<String> {
    let word = |id: Option<&[u8]>| {
        let id = id.filter(|id| !id.is_empty())?;
        Some(match str::from_utf8(id) {
            Ok(text) if text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') => text.to_owned(),
            _ => hex(id),
        })
    };
    let port = match (word(remote), word(circuit)) {
        (Some(remote), Some(circuit)) => format!("{remote}/{circuit}"),
        (remote, circuit) => remote.or(circuit)?,
    };
    Some(port.chars().take(128).collect())
}

fn name(kind: MessageType) -> &'static str {
    match kind {
        MessageType::Discover => "discover",
        MessageType::Request => "request",
        MessageType::Decline => "decline",
        MessageType::Release => "release",
        MessageType::Inform => "inform",
        _ => "other",
    }
}

#[cfg(test)]
mod tests;
