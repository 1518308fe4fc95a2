//! Which client has which address: the table that the server decides by, as `dhcp/lease.rs` is for IPv4.
//!
//! A client is known by its DUID and the number of the IA that the address is for (RFC 8415 §12): it gets the address it had, else one
//! that nobody ever had, else the one that has been free for longest. Pools are small enough to be looked through. Not here: what is
//! said on the wire (`server/leasing.rs`), and when a lease counts.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::Ipv6Addr,
};

use super::settings::{Config, Pool, Subnet};
use crate::{
    dhcp::lease::strike,
    model::{Lease6Record, LeaseState, MacAddr, Timestamp},
};

/// An address that nobody has had is free since then.
const NEVER: Timestamp = Timestamp(i64::MIN);

/// One interface of a client, for the purpose of getting the same address again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    pub duid: Vec<u8>,
    pub iaid: u32,
}

impl Client {
    pub fn of(lease: &Lease6Record) -> Self {
        Self { duid: lease.duid.clone(), iaid: lease.iaid }
    }

    fn has(&self, lease: &Lease6Record) -> bool {
        lease.iaid == self.iaid && lease.duid == self.duid
    }
}

/// Is the lease in use at `now`?
pub fn is_alive(lease: &Lease6Record, now: Timestamp) -> bool {
    lease.state == LeaseState::Active && lease.expires > now
}

/// An address that was advertised and not yet asked for.
#[derive(Debug)]
struct Offer {
    client: Client,
    until: Timestamp,
}

/// All addresses of all pools.
#[derive(Debug)]
pub struct Table {
    /// As in the configuration, those without a pool as well.
    subnets: Vec<Addresses>,
    leases: HashMap<Ipv6Addr, Lease6Record>,
    by_client: HashMap<Client, Vec<Ipv6Addr>>,
    by_mac: HashMap<MacAddr, Vec<Ipv6Addr>>,
    offers: HashMap<Ipv6Addr, Offer>,
    offered_to: HashMap<Client, Vec<Ipv6Addr>>,
    /// Ends of live leases, for the event and the view.
    ends: BTreeSet<(Timestamp, Ipv6Addr)>,
    /// Addresses of this machine: nobody else's, wherever they lie.
    own: HashSet<Ipv6Addr>,
}

#[derive(Debug)]
struct Addresses {
    subnet: Subnet,
    /// The next address that perhaps nobody ever had.
    next: Option<Ipv6Addr>,
    /// Addresses that somebody had, by the moment from which they are free: the end of the lease, or when it was given back.
    used: BTreeSet<(Timestamp, Ipv6Addr)>,
}

impl Addresses {
    fn holds(&self, address: Ipv6Addr) -> bool {
        self.subnet.pool.is_some_and(|pool| pool.contains(address))
    }
}

impl Table {
    /// With what the store remembers; leases in networks that are not leased in any more are left out.
    pub fn new(config: &Config, leases: Vec<Lease6Record>, own: &[Ipv6Addr], now: Timestamp) -> Self {
        let addresses =
            |subnet: &Subnet| Addresses { subnet: subnet.clone(), next: subnet.pool.map(|pool| pool.first), used: BTreeSet::new() };
        let mut table = Self {
            subnets: config.subnets.iter().map(addresses).collect(),
            leases: HashMap::new(),
            by_client: HashMap::new(),
            by_mac: HashMap::new(),
            offers: HashMap::new(),
            offered_to: HashMap::new(),
            ends: BTreeSet::new(),
            own: own.iter().copied().collect(),
        };
        leases.into_iter().for_each(|lease| table.put(lease, now));
        table
    }

    /// The addresses of this machine.
    pub fn set_own(&mut self, own: &[Ipv6Addr]) {
        self.own = own.iter().copied().collect();
    }

    pub fn leases(&self) -> impl Iterator<Item = &Lease6Record> {
        self.leases.values()
    }

    pub fn lease(&self, address: Ipv6Addr) -> Option<&Lease6Record> {
        self.leases.get(&address)
    }

    /// The network of an address, where we lease.
    fn subnet_of(&self, address: Ipv6Addr) -> Option<usize> {
        self.subnets.iter().position(|known| known.subnet.pool.is_some() && known.subnet.prefix.contains(&address))
    }

    /// Enters a lease in place of what was known of its address.
    pub fn put(&mut self, lease: Lease6Record, now: Timestamp) {
        let Some(index) = self.subnet_of(lease.address) else { return };
        self.forget(lease.address);
        self.drop_offer(lease.address);
        let addresses = &mut self.subnets[index];
        addresses.used.remove(&(NEVER, lease.address));
        if addresses.holds(lease.address) {
            addresses.used.insert((lease.expires, lease.address));
        }
        if is_alive(&lease, now) {
            self.ends.insert((lease.expires, lease.address));
        }
        self.by_client.entry(Client::of(&lease)).or_default().push(lease.address);
        if let Some(mac) = lease.mac {
            self.by_mac.entry(mac).or_default().push(lease.address);
        }
        self.leases.insert(lease.address, lease);
    }

    /// Takes an entry back to what was known before it; of an address that nobody had, to that.
    pub fn restore(&mut self, address: Ipv6Addr, previous: Option<Lease6Record>, now: Timestamp) {
        match previous {
            Some(lease) => self.put(lease, now),
            None => {
                self.forget(address);
                self.withdraw(address);
            }
        }
    }

    fn forget(&mut self, address: Ipv6Addr) {
        let Some(old) = self.leases.remove(&address) else { return };
        if let Some(index) = self.subnet_of(address) {
            self.subnets[index].used.remove(&(old.expires, address));
        }
        self.ends.remove(&(old.expires, address));
        strike(&mut self.by_client, &Client::of(&old), address);
        if let Some(mac) = old.mac {
            strike(&mut self.by_mac, &mac, address);
        }
    }

    /// What the client has, or had last, in a subnet: live leases first, then the latest.
    pub fn of_client(&self, client: &Client, subnet: usize, now: Timestamp) -> Option<&Lease6Record> {
        let known = self.by_client.get(client)?.iter().filter_map(|address| self.leases.get(address));
        known
            .filter(|lease| self.subnet_of(lease.address) == Some(subnet) && lease.state != LeaseState::Declined)
            .max_by_key(|lease| (is_alive(lease, now), lease.expires))
    }

    /// Another live lease of this MAC in the same subnet, through another port.
    pub fn rival(&self, lease: &Lease6Record, now: Timestamp) -> Option<&Lease6Record> {
        let subnet = self.subnet_of(lease.address);
        let mut same = self.by_mac.get(&lease.mac?)?.iter().filter_map(|address| self.leases.get(address));
        same.find(|other| {
            other.address != lease.address
                && is_alive(other, now)
                && self.subnet_of(other.address) == subnet
                && (other.relay, &other.port) != (lease.relay, &lease.port)
        })
    }

    /// May `client` have this address of this subnet now?
    pub fn may_have(&self, client: &Client, subnet: usize, address: Ipv6Addr, now: Timestamp) -> bool {
        let leased = || {
            self.leases.get(&address).is_some_and(|lease| match lease.state {
                LeaseState::Active => lease.expires > now && !client.has(lease),
                LeaseState::Declined => lease.expires > now,
                LeaseState::Released => false,
            })
        };
        let offered = || self.offers.get(&address).is_some_and(|offer| offer.until > now && offer.client != *client);
        self.subnets.get(subnet).is_some_and(|known| known.holds(address)) && !self.own.contains(&address) && !leased() && !offered()
    }

    /// The address for a client: its own, offered before, wished for, never used, longest free.
    pub fn choose(&mut self, client: &Client, subnet: usize, wishes: &[Ipv6Addr], now: Timestamp) -> Option<Ipv6Addr> {
        let own = self.of_client(client, subnet, now).map(|lease| lease.address);
        let offered = self.offer_to(client, subnet, now);
        let mut first = own.into_iter().chain(offered).chain(wishes.iter().copied());
        first.find(|address| self.may_have(client, subnet, *address, now)).or_else(|| self.never_used(subnet, now)).or_else(|| {
            let used = self.subnets.get(subnet)?.used.iter().take_while(|(free_from, _)| *free_from <= now);
            used.map(|(_, address)| *address).find(|address| self.may_have(client, subnet, *address, now))
        })
    }

    fn never_used(&mut self, subnet: usize, now: Timestamp) -> Option<Ipv6Addr> {
        loop {
            let known = self.subnets.get(subnet)?;
            let (address, last) = (known.next?, known.subnet.pool?.last);
            let free = !self.own.contains(&address) && !self.leases.contains_key(&address);
            if free && self.offers.get(&address).is_none_or(|offer| offer.until <= now) {
                return Some(address);
            }
            // An address under offer is passed over for good only here: should the offer lapse, `withdraw` brings it back.
            self.subnets.get_mut(subnet)?.next = (address < last).then(|| Pool::after(address));
        }
    }

    /// What is under offer to the client in this subnet.
    pub fn offer_to(&self, client: &Client, subnet: usize, now: Timestamp) -> Option<Ipv6Addr> {
        let mut mine = self.offered_to.get(client)?.iter().copied();
        mine.find(|address| self.subnet_of(*address) == Some(subnet) && self.offers.get(address).is_some_and(|offer| offer.until > now))
    }

    /// Keeps an address for the client that it was advertised to.
    pub fn offer(&mut self, address: Ipv6Addr, client: &Client, until: Timestamp) {
        self.drop_offer(address);
        self.offers.insert(address, Offer { client: client.clone(), until });
        self.offered_to.entry(client.clone()).or_default().push(address);
    }

    fn drop_offer(&mut self, address: Ipv6Addr) {
        let Some(offer) = self.offers.remove(&address) else { return };
        strike(&mut self.offered_to, &offer.client, address);
    }

    /// Ends an offer: taken back, or lapsed.
    pub fn withdraw(&mut self, address: Ipv6Addr) {
        self.drop_offer(address);
        if !self.leases.contains_key(&address)
            && let Some(index) = self.subnet_of(address)
        {
            // Nobody had it: it joins those that somebody had, as free since ever.
            let known = &mut self.subnets[index];
            if known.holds(address) && known.next.is_none_or(|next| address < next) {
                known.used.insert((NEVER, address));
            }
        }
    }

    /// Takes back offers that nobody took.
    pub fn lapse_offers(&mut self, now: Timestamp) {
        let lapsed: Vec<_> = self.offers.iter().filter(|(_, offer)| offer.until <= now).map(|(address, _)| *address).collect();
        lapsed.into_iter().for_each(|address| self.withdraw(address));
    }

    pub fn has_offers(&self) -> bool {
        !self.offers.is_empty()
    }

    /// When the next live lease ends.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.ends.first().map(|(at, _)| *at)
    }

    /// A lease that has ended by `now`, each told once.
    pub fn pop_ended(&mut self, now: Timestamp) -> Option<&Lease6Record> {
        let first = self.ends.first().copied().filter(|(at, _)| *at <= now)?;
        self.ends.remove(&first);
        self.leases.get(&first.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::v6::Settings;

    const MIN: i64 = 60_000;

    fn table(pool: &str) -> Table {
        let yaml = format!("mode: server\nsubnets: [{{ prefix: 'fd00::/64', pool: '{pool}' }}, {{ prefix: 'fd01::/64' }}]");
        let config = serde_yaml::from_str::<Settings>(&yaml).unwrap().check().unwrap();
        Table::new(&config, vec![], &[address(2)], Timestamp(0))
    }

    fn address(last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)
    }

    fn client(n: u8) -> Client {
        Client { duid: vec![0, 4, n], iaid: 1 }
    }

    fn lease(n: u8, last: u16, state: LeaseState, expires: i64) -> Lease6Record {
        Lease6Record {
            address: address(last),
            duid: client(n).duid,
            iaid: 1,
            mac: None,
            state,
            starts: Timestamp(0),
            expires: Timestamp(expires),
            family: None,
            peer: Ipv6Addr::UNSPECIFIED,
            relay: None,
            port: None,
        }
    }

    fn choose(table: &mut Table, n: u8, wish: Option<u16>, now: i64) -> Option<u16> {
        let wishes: Vec<_> = wish.map(address).into_iter().collect();
        table.choose(&client(n), 0, &wishes, Timestamp(now)).map(|address| address.segments()[7])
    }

    #[test]
    fn a_client_gets_its_address_back() {
        let mut table = table("fd00::1-fd00::7");
        assert_eq!(choose(&mut table, 1, None, 0), Some(1));
        table.put(lease(1, 1, LeaseState::Active, 10 * MIN), Timestamp(0));
        assert_eq!((choose(&mut table, 1, None, 0), choose(&mut table, 1, Some(5), 99 * MIN)), (Some(1), Some(1)), "alive and expired");
        assert_eq!(choose(&mut table, 2, Some(1), 0), Some(3), "not of another, and not the server's own");
        assert_eq!(choose(&mut table, 2, Some(6), 0), Some(6), "what it wishes for");
        assert_eq!(choose(&mut table, 2, Some(9), 0), Some(3), "but in the pool");
        let other = Client { iaid: 2, ..client(1) };
        assert_eq!(table.choose(&other, 0, &[], Timestamp(0)), Some(address(3)), "another interface has another");
        assert_eq!(table.choose(&client(1), 1, &[], Timestamp(0)), None, "there is no pool");
    }

    #[test]
    fn the_longest_free_is_used_again_first() {
        let mut table = table("fd00::4-fd00::6");
        table.put(lease(1, 4, LeaseState::Active, 10 * MIN), Timestamp(0));
        table.put(lease(2, 5, LeaseState::Released, 5 * MIN), Timestamp(0));
        table.put(lease(3, 6, LeaseState::Declined, 60 * MIN), Timestamp(0));
        assert_eq!((choose(&mut table, 4, None, 4 * MIN), choose(&mut table, 4, None, 5 * MIN)), (None, Some(5)));
        table.offer(address(5), &client(4), Timestamp(50 * MIN));
        assert_eq!(choose(&mut table, 5, None, 9 * MIN), None, "5 is offered, 4 still leased");
        assert_eq!(choose(&mut table, 3, None, 10 * MIN), Some(4), "a declined address is nobody's");
    }

    #[test]
    fn an_offer_that_nobody_takes_is_not_lost() {
        let mut table = table("fd00::4-fd00::5");
        for n in 1..=2 {
            assert_eq!(choose(&mut table, n, None, 0), Some(u16::from(n) + 3));
            table.offer(address(u16::from(n) + 3), &client(n), Timestamp(MIN));
        }
        assert_eq!((choose(&mut table, 3, None, 0), choose(&mut table, 2, None, 0)), (None, Some(5)));
        table.lapse_offers(Timestamp(MIN));
        assert!(!table.has_offers());
        assert_eq!(choose(&mut table, 3, None, MIN), Some(4));
    }

    #[test]
    fn no_two_live_leases_share_an_address() {
        let mut table = table("fd00::1-fd00::14");
        let mut seed = 1u32;
        let mut next = move || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed >> 16
        };
        let mut held: HashMap<u16, (u8, i64)> = HashMap::new();
        for step in 0..5_000i64 {
            let (now, n) = (step * 1000, (next() % 30) as u8);
            let Some(last) = choose(&mut table, n, Some((next() % 25) as u16), now) else { continue };
            let owner = held.get(&last).copied();
            assert!(last != 2 && owner.is_none_or(|(owner, until)| owner == n || until <= now), "{last} is {owner:?}'s, given to {n}");
            let until = now + i64::from(next() % 60) * 1000;
            let state = if next() % 5 == 0 { LeaseState::Released } else { LeaseState::Active };
            table.put(lease(n, last, state, until), Timestamp(now));
            held.insert(last, (n, if state == LeaseState::Active { until } else { now }));
        }
    }
}
