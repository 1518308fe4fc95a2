//! Addresses: what is answered to those that want one, keep one, and give one back (RFC 8415 §18.3.1 to §18.3.8).
//!
//! ```text
//! SOLICIT ─► choose ─► ADVERTISE            with rapid commit as a REQUEST
//! REQUEST, RENEW, REBIND ─► may it? ─► Commit ─► handle_committed ─► LeaseGranted, REPLY
//! RELEASE, DECLINE ─► is it its own? ─► Commit ─► handle_committed ─► REPLY
//! CONFIRM ─► is it of this link? ─► (Commit what we forgot) ─► REPLY
//! ```
//! A message may be about several IAs, each with a status of its own. What it changes is on disk in one piece before the REPLY leaves; of
//! one address one lease is written at a time.
//!
//! Where a subnet has no pool nothing is leased and nobody refused: another server may. Not here: prefixes (IA_PD) and temporary addresses
//! (IA_TA), which are refused to those that ask for an address as well.

use std::net::Ipv6Addr;

use super::{Action, Ask, Pending, Server, is_elsewhere};
use crate::{
    dhcp::{
        table::Lease,
        v6::{
            lease::{Client, Table},
            options::{self, Options, Packet, code, kind, status},
        },
    },
    model::{Event, Lease6Record, LeaseState, Timestamp},
};

/// IAs that are looked at in one message: phones have one.
const MOST_IAS: usize = 4;
/// Messages whose leases are being written at once; beyond that they are dropped, and clients ask again.
const MOST_COMMITS: usize = 8192;
/// How long an advertised address is kept for the client that it was advertised to.
const OFFER_SECS: i64 = 60;
/// How long an address is left alone after a client found it in use.
const QUARANTINE_SECS: i64 = 3600;

/// An IA_NA as it was sent: a client's interface, and the addresses that it wishes for or has.
struct Ia {
    iaid: u32,
    addresses: Vec<Ipv6Addr>,
}

/// What is said and what is written.
#[derive(Default)]
struct Draft {
    options: Vec<(u16, Vec<u8>)>,
    leases: Vec<Lease6Record>,
    events: Vec<Event>,
}

/// Whether it still uses an address that we may not know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Extension {
    /// It asks the server that leased it: us.
    Renew,
    /// It asks everybody.
    Rebind,
}

impl Server {
    pub(super) fn solicit(&mut self, now: Timestamp, ask: &Ask<'_>) {
        let (options, ias) = (&ask.packet.options, ias(&ask.packet));
        if options.has(code::SERVER_ID) || ias.is_empty() || !self.admits_all(now, ask, &ias) {
            return self.ignore(now, "solicit", "a SOLICIT for another server, without an IA, or of one client too many");
        }
        if let Some(mac) = ask.mac {
            let vendor_class = options.vendor_classes().first().map(|text| printable(text));
            let relay = ask.relay().map(Into::into);
            self.tell(Event::DhcpDiscover { mac, family: ask.class.family.clone(), vendor_class, relay, asked: Vec::new() });
        }
        let rapid = self.config.rapid_commit && options.has(code::RAPID_COMMIT);
        let mut draft = Draft::default();
        for ia in &ias {
            let client = ask.client(ia.iaid);
            match self.table.choose(&client, ask.mac, ask.subnet, &ia.addresses, now) {
                Some(address) if rapid => self.grant(now, ask, &client, address, &[], &mut draft),
                Some(address) => {
                    self.table.reserve(address, &client, now.plus_secs(OFFER_SECS));
                    self.lapse_at.get_or_insert(now.plus_secs(1));
                    draft.options.push(self.ia(ask, ia.iaid, Some(address), &[]));
                    draft.events.extend(ask.mac.map(|mac| Event::DhcpOffer { mac, address: address.into() }));
                }
                None => {
                    self.exhausted(now, ask);
                    draft.options.push(refused(ia.iaid, status::NO_ADDRESSES));
                }
            }
        }
        draft.options.extend(not_ours(&ask.packet));
        if !draft.leases.is_empty() {
            draft.options.push((code::RAPID_COMMIT, Vec::new()));
            return self.commit(now, ask, draft, Settings::All);
        }
        if self.config.preference > 0 {
            draft.options.push((code::PREFERENCE, vec![self.config.preference]));
        }
        self.send(now, ask, kind::ADVERTISE, draft.options);
        draft.events.into_iter().for_each(|event| self.tell(event));
    }

    pub(super) fn request(&mut self, now: Timestamp, ask: &Ask<'_>) {
        let ias = ias(&ask.packet);
        if !self.is_named(&ask.packet) {
            // It took another server's offer.
            let offered = ias.iter().filter_map(|ia| self.table.offer_to(&ask.client(ia.iaid), ask.subnet, now)).collect::<Vec<_>>();
            return offered.into_iter().for_each(|address| self.table.withdraw(address));
        }
        if !self.admits_all(now, ask, &ias) {
            return;
        }
        let mut draft = Draft::default();
        for ia in &ias {
            let client = ask.client(ia.iaid);
            if ia.addresses.iter().any(|address| !self.is_on_link(ask, *address)) {
                draft.options.push(refused(ia.iaid, status::NOT_ON_LINK));
                continue;
            }
            match self.table.choose(&client, ask.mac, ask.subnet, &ia.addresses, now) {
                Some(address) => self.grant(now, ask, &client, address, &[], &mut draft),
                None => {
                    self.exhausted(now, ask);
                    draft.options.push(refused(ia.iaid, status::NO_ADDRESSES));
                }
            }
        }
        draft.options.extend(not_ours(&ask.packet));
        self.commit(now, ask, draft, Settings::All);
    }

    /// RENEW and REBIND: it has an address and would like to keep it.
    pub(super) fn extend(&mut self, now: Timestamp, ask: &Ask<'_>, how: Extension) {
        let named = ask.packet.options.has(code::SERVER_ID);
        if (how == Extension::Renew && !self.is_named(&ask.packet)) || (how == Extension::Rebind && named) {
            return self.ignore(now, "not_ours", "a RENEW for another server, or a REBIND that names one");
        }
        let mut draft = Draft::default();
        for ia in ias(&ask.packet) {
            let client = ask.client(ia.iaid);
            let noted = self.table.of_client(&client, ask.subnet, now).map(|lease| lease.address);
            let own = noted.filter(|address| self.table.may_have(&client, ask.mac, ask.subnet, *address, now));
            // We lost the lease, as with the database: nobody else has it, so it may go on.
            let lost = || ia.addresses.iter().copied().find(|address| self.table.may_have(&client, ask.mac, ask.subnet, *address, now));
            // What it has is in the pool, and since then another is kept for it.
            let reserved = || noted.and_then(|_| self.table.reserved(&client, ask.mac, ask.subnet, now));
            let kept = own.or_else(reserved).or_else(lost);
            if kept.is_some() && own.is_none() && !self.admits(now, ask) {
                return;
            }
            let elsewhere = |address: &Ipv6Addr| !self.is_on_link(ask, *address);
            let others = ia.addresses.iter().copied().filter(|address| Some(*address) != kept);
            match (kept, how) {
                (Some(address), _) => self.grant(now, ask, &client, address, &others.collect::<Vec<_>>(), &mut draft),
                (None, Extension::Renew) if !ia.addresses.iter().any(elsewhere) => {
                    draft.options.push(refused(ia.iaid, status::NO_BINDING));
                }
                (None, _) => {
                    // What another server leased is for it to judge.
                    let wrong = |address: &Ipv6Addr| elsewhere(address) || self.table.lease(*address).is_some();
                    let wrong: Vec<_> = others.filter(wrong).collect();
                    if !wrong.is_empty() {
                        draft.options.push(self.ia(ask, ia.iaid, None, &wrong));
                    }
                }
            }
        }
        if !draft.options.is_empty() {
            self.commit(now, ask, draft, Settings::All);
        }
    }

    /// It was switched off, or plugged in elsewhere: has it still the right addresses for this link? One that we have forgotten, as with
    /// the database, is noted again: without a lease of ours a phone would have no files until it renews.
    pub(super) fn confirm(&mut self, now: Timestamp, ask: &Ask<'_>) {
        let held = ias(&ask.packet).into_iter().flat_map(|ia| ia.addresses.into_iter().map(move |address| (ia.iaid, address)));
        let held: Vec<_> = held.map(|(iaid, address)| (ask.client(iaid), address)).collect();
        if held.is_empty() || ask.packet.options.has(code::SERVER_ID) {
            return self.ignore(now, "confirm", "a CONFIRM of no address, or for another server");
        }
        let mut draft = Draft::default();
        let mut all = held.iter().all(|(_, address)| self.is_on_link(ask, *address));
        let looked_at = if all { held } else { Vec::new() };
        for (client, address) in looked_at {
            match self.table.lease(address).filter(|lease| lease.is_alive(now)) {
                Some(lease) => all &= lease.client() == client,
                None if self.table.may_have(&client, ask.mac, ask.subnet, address, now) => {
                    if !self.admits(now, ask) {
                        return;
                    }
                    self.note(now, ask, &client, address, &mut draft);
                }
                // Nothing that we lease.
                None => {}
            }
        }
        if !all {
            draft = Draft::default();
        }
        draft.options.push(status_option(if all { status::SUCCESS } else { status::NOT_ON_LINK }));
        self.commit(now, ask, draft, Settings::None);
    }

    /// RELEASE and DECLINE: it does not use the addresses any more, or never could.
    pub(super) fn give_back(&mut self, now: Timestamp, ask: &Ask<'_>, state: LeaseState) {
        if !self.is_named(&ask.packet) {
            return self.ignore(now, "not_ours", "it is given back to another server");
        }
        let mut draft = Draft { options: vec![status_option(status::SUCCESS)], ..Draft::default() };
        for ia in ias(&ask.packet) {
            let client = ask.client(ia.iaid);
            let held =
                |address: &Ipv6Addr| self.table.lease(*address).filter(|lease| lease.is_alive(now) && lease.client() == client).cloned();
            let held: Vec<_> = ia.addresses.iter().filter_map(held).collect();
            // Anybody can say it in a phone's name, but not from its own address and switch port.
            if held.iter().any(|lease| lease.peer != ask.peer() || is_elsewhere(ask, lease)) {
                return self.ignore(now, "forged", "an address is given back from another address or switch port than its own");
            }
            if held.is_empty() {
                draft.options.push(refused(ia.iaid, status::NO_BINDING));
            }
            for lease in held {
                let address = lease.address.into();
                let (expires, event) = match state {
                    LeaseState::Declined => {
                        tracing::warn!(%address, "DECLINE: the client found its address in use; look for a device with a fixed address in the pool");
                        (now.plus_secs(QUARANTINE_SECS), lease.mac.map(|mac| Event::LeaseDeclined { mac, address }))
                    }
                    _ => (now, lease.mac.map(|mac| Event::LeaseReleased { mac, address })),
                };
                draft.events.extend(event);
                draft.leases.push(Lease6Record { state, expires, ..lease });
            }
        }
        self.commit(now, ask, draft, Settings::None);
    }

    /// The leases of a message are on disk, or could not be written.
    pub fn handle_committed(&mut self, now: Timestamp, id: u64, outcome: Result<(), String>) {
        let Some(done) = self.commits.remove(&id) else { return };
        for (lease, _) in &done.leases {
            self.writing.remove(&lease.address);
        }
        match outcome {
            Ok(()) => {
                for (lease, _) in &done.leases {
                    if self.table.lease(lease.address) == Some(lease) && lease.is_alive(now) {
                        self.show(now, lease);
                    }
                }
                // Told before it is sent: what the client does with it comes after it in the timeline.
                done.events.into_iter().for_each(|event| self.tell(event));
                self.actions.push_back(Action::Send(done.reply));
            }
            Err(error) => {
                metrics::counter!("plugtone_dhcp6_unwritten_total").increment(1);
                self.warn(now, "store", || format!("leases of DHCPv6 could not be written, so nothing was acknowledged: {error}"));
                for (lease, previous) in done.leases {
                    if self.table.lease(lease.address) == Some(&lease) {
                        let before = previous.clone().filter(|before| before.is_alive(now));
                        self.table.restore(lease.address, previous, now);
                        before.into_iter().for_each(|before| self.show(now, &before));
                    }
                }
            }
        }
    }

    // --- parts of them

    /// It is for us, by name.
    fn is_named(&self, packet: &Packet<'_>) -> bool {
        packet.options.get(code::SERVER_ID) == Some(&self.duid)
    }

    fn is_on_link(&self, ask: &Ask<'_>, address: Ipv6Addr) -> bool {
        self.config.subnets.get(ask.subnet).is_some_and(|subnet| subnet.prefix.contains(&address))
    }

    /// Known IAs always; new ones as many as the network and the port may bring.
    fn admits_all(&mut self, now: Timestamp, ask: &Ask<'_>, ias: &[Ia]) -> bool {
        let is_new = |table: &Table, ia: &&Ia| {
            let client = ask.client(ia.iaid);
            table.of_client(&client, ask.subnet, now).is_none() && table.offer_to(&client, ask.subnet, now).is_none()
        };
        let new = ias.iter().filter(|ia| is_new(&self.table, ia)).count();
        (0..new).all(|_| self.admits(now, ask))
    }

    fn exhausted(&mut self, now: Timestamp, ask: &Ask<'_>) {
        // Where addresses are only kept for some, others are not meant to get one.
        let subnet = self.config.subnets.get(ask.subnet).filter(|subnet| subnet.pool.is_some());
        let Some(subnet) = subnet.map(|subnet| subnet.prefix.to_string()) else { return };
        metrics::counter!("plugtone_dhcp6_exhausted_total").increment(1);
        let text = || format!("no address is left in {subnet}: widen its `pool`, or shorten `lease_secs`");
        if self.warn(now, "exhausted", text)
            && let Some(mac) = ask.mac
        {
            self.tell(Event::PoolExhausted { mac, subnet });
        }
    }

    fn lease_secs(&self, ask: &Ask<'_>) -> u32 {
        self.config.subnets.get(ask.subnet).map_or(3600, |subnet| subnet.lease_secs)
    }

    /// Gives an address to the client, in place of `others` that it named.
    fn grant(&mut self, now: Timestamp, ask: &Ask<'_>, client: &Client, address: Ipv6Addr, others: &[Ipv6Addr], draft: &mut Draft) {
        draft.options.push(self.ia(ask, client.iaid, Some(address), others));
        self.note(now, ask, client, address, draft);
    }

    fn note(&mut self, now: Timestamp, ask: &Ask<'_>, client: &Client, address: Ipv6Addr, draft: &mut Draft) {
        // So that no other IA of this message gets it.
        self.table.reserve(address, client, now.plus_secs(OFFER_SECS));
        self.lapse_at.get_or_insert(now.plus_secs(1));
        let (lease_secs, family) = (self.lease_secs(ask), ask.class.family.clone());
        draft.events.extend(ask.mac.map(|mac| Event::LeaseGranted {
            mac,
            address: address.into(),
            family: family.clone(),
            lease_secs,
            port: ask.port_name(),
        }));
        draft.leases.push(Lease6Record {
            address,
            duid: client.duid.clone(),
            iaid: client.iaid,
            mac: ask.mac,
            state: LeaseState::Active,
            starts: now,
            expires: now.plus_secs(lease_secs.into()),
            family,
            peer: ask.peer(),
            relay: ask.relay(),
            port: ask.port(),
        });
    }

    /// An IA_NA with its address, and with those that are not its own (any more).
    fn ia(&self, ask: &Ask<'_>, iaid: u32, address: Option<Ipv6Addr>, gone: &[Ipv6Addr]) -> (u16, Vec<u8>) {
        let secs = self.lease_secs(ask);
        // An address is as good until its end: T1 and T2 as §21.4 recommends.
        let (t1, t2) = (secs / 2, (u64::from(secs) * 4 / 5) as u32);
        let address = address.map(|address| ia_address(address, secs));
        let addresses: Vec<_> = address.into_iter().chain(gone.iter().map(|address| ia_address(*address, 0))).collect();
        (code::IA_NA, [&iaid.to_be_bytes()[..], &t1.to_be_bytes(), &t2.to_be_bytes(), &options::encoded(&addresses)].concat())
    }

    /// Enters leases and has them written, then answers. Where there is nothing to write it answers at once.
    fn commit(&mut self, now: Timestamp, ask: &Ask<'_>, draft: Draft, settings: Settings) {
        let Draft { options, leases, events } = draft;
        if leases.iter().any(|lease| self.writing.contains(&lease.address)) || self.commits.len() >= MOST_COMMITS {
            // The client repeats itself while its lease is being written: the answer is on its way.
            return self.ignore(now, "busy", "the lease is being written, or too many are");
        }
        let reply = match settings {
            Settings::All => self.answer(now, ask, kind::REPLY, options),
            Settings::None => Some(self.bare(&ask.packet, &ask.arrival, kind::REPLY, options)),
        };
        let Some(reply) = reply else { return };
        if leases.is_empty() {
            return self.actions.push_back(Action::Send(reply));
        }
        self.last_commit += 1;
        self.actions.push_back(Action::Commit { id: self.last_commit, leases: leases.clone() });
        let mut pending = Pending { leases: Vec::new(), reply, events };
        for lease in leases {
            if let Some(offered) = self.table.offer_to(&lease.client(), ask.subnet, now) {
                self.table.withdraw(offered);
            }
            if lease.state != LeaseState::Active {
                self.view.hide(lease.address);
            }
            self.writing.insert(lease.address);
            pending.leases.push((lease.clone(), self.table.lease(lease.address).cloned()));
            self.table.put(lease, now);
        }
        self.commits.insert(self.last_commit, pending);
    }
}

/// Whether the settings of the subnet go along.
#[derive(Clone, Copy)]
enum Settings {
    All,
    None,
}

/// The IAs of a message, each once; what is cut off is left out.
fn ias(packet: &Packet<'_>) -> Vec<Ia> {
    let mut list: Vec<Ia> = Vec::new();
    for value in packet.options.all(code::IA_NA) {
        let Some((head, rest)) = value.split_at_checked(12) else { continue };
        let (Some(iaid), Ok(inner)) = (head.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)), Options::parse(rest)) else { continue };
        let address = |value: &[u8]| value.first_chunk().map(|octets: &[u8; 16]| Ipv6Addr::from(*octets));
        if list.len() < MOST_IAS && list.iter().all(|known| known.iaid != iaid) {
            list.push(Ia { iaid, addresses: inner.all(code::IA_ADDRESS).filter_map(address).take(MOST_IAS).collect() });
        }
    }
    list
}

/// How we refuse what we never give: temporary addresses and prefixes.
fn not_ours(packet: &Packet<'_>) -> Vec<(u16, Vec<u8>)> {
    let refused = |code: u16, head: usize, status: u16| {
        let heads = packet.options.all(code).filter_map(move |value| value.get(..head)).take(MOST_IAS);
        heads.map(move |head| (code, [head, &options::encoded(&[status_option(status)])].concat())).collect::<Vec<_>>()
    };
    [refused(code::IA_TA, 4, status::NO_ADDRESSES), refused(code::IA_PD, 12, status::NO_PREFIX)].concat()
}

/// An IA_NA without an address.
fn refused(iaid: u32, status: u16) -> (u16, Vec<u8>) {
    (code::IA_NA, [&iaid.to_be_bytes()[..], &[0; 8], &options::encoded(&[status_option(status)])].concat())
}

/// Preferred and valid for so many seconds.
fn ia_address(address: Ipv6Addr, secs: u32) -> (u16, Vec<u8>) {
    (code::IA_ADDRESS, [&address.octets()[..], &secs.to_be_bytes(), &secs.to_be_bytes()].concat())
}

pub(super) fn status_option(status: u16) -> (u16, Vec<u8>) {
    (code::STATUS, status.to_be_bytes().to_vec())
}

/// What can be shown and stored of a text from the network.
fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(64).collect()
}
