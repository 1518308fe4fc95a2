//! Which client has which address: the table that the server decides by, and the view of it that others read.
//!
//! A client is known by its client identifier, else by its MAC (RFC 2131 §4.2). It gets the address it had, else one
//! that nobody ever had, else the one that has been free for longest. Not here: what is said on the wire
//! (`server.rs`), and when a lease counts: a lease is shown in the [`LeaseView`] once it is durable.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::Hash,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, PoisonError, RwLock},
};

use super::settings::{Config, Subnet};
use crate::model::{FamilyName, LeaseRecord, LeaseState, MacAddr, Timestamp};

/// An address that nobody has had is free since then.
const NEVER: Timestamp = Timestamp(i64::MIN);

/// Who a client is, for the purpose of getting the same address again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClientKey {
    /// Option 61, as sent.
    Id(Vec<u8>),
    Mac(MacAddr),
}

impl ClientKey {
    pub fn new(client_id: Option<&[u8]>, mac: MacAddr) -> Self {
        match client_id {
            // RFC 2132 §9.14 asks for two bytes or more; some send one or none.
            Some(id) if id.len() >= 2 => Self::Id(id.to_vec()),
            _ => Self::Mac(mac),
        }
    }

    pub fn of(lease: &LeaseRecord) -> Self {
        Self::new(Some(&lease.client_id), lease.mac)
    }
}

/// Is the lease in use at `now`?
pub fn is_alive(lease: &LeaseRecord, now: Timestamp) -> bool {
    lease.state == LeaseState::Active && lease.expires > now
}

/// An address that was offered and not yet taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    pub client: ClientKey,
    pub until: Timestamp,
    /// Transaction, and how often it was answered: who asks a third time does not hear our unicast.
    pub xid: u32,
    pub sent: u32,
}

/// All addresses of all subnets.
#[derive(Debug)]
pub struct Table {
    subnets: Vec<Pool>,
    leases: HashMap<Ipv4Addr, LeaseRecord>,
    by_client: HashMap<ClientKey, Vec<Ipv4Addr>>,
    by_mac: HashMap<MacAddr, Vec<Ipv4Addr>>,
    offers: HashMap<Ipv4Addr, Offer>,
    offered_to: HashMap<ClientKey, Vec<Ipv4Addr>>,
    /// Ends of live leases, for the event and the view.
    ends: BTreeSet<(Timestamp, Ipv4Addr)>,
    /// Addresses of this machine: nobody else's, wherever they lie.
    own: HashSet<Ipv4Addr>,
}

#[derive(Debug)]
struct Pool {
    subnet: Subnet,
    /// The next address that perhaps nobody ever had.
    next: Option<Ipv4Addr>,
    /// Addresses that somebody had, by the moment from which they are free: the end of the lease, or when it was given back.
    used: BTreeSet<(Timestamp, Ipv4Addr)>,
}

impl Table {
    /// With what the store remembers; leases in networks that are not served any more are left out.
    pub fn new(config: &Config, leases: Vec<LeaseRecord>, now: Timestamp) -> Self {
        let subnets = config
            .subnets
            .iter()
            .map(|subnet| Pool { subnet: subnet.clone(), next: subnet.range.map(|range| range.first), used: BTreeSet::new() })
            .collect();
        let mut table = Self {
            subnets,
            leases: HashMap::new(),
            by_client: HashMap::new(),
            by_mac: HashMap::new(),
            offers: HashMap::new(),
            offered_to: HashMap::new(),
            ends: BTreeSet::new(),
            own: HashSet::new(),
        };
        leases.into_iter().for_each(|lease| table.put(lease, now));
        table
    }

    /// The addresses of this machine.
    pub fn set_own(&mut self, own: Vec<Ipv4Addr>) {
        self.own = own.into_iter().collect();
    }

    pub fn leases(&self) -> impl Iterator<Item = &LeaseRecord> {
        self.leases.values()
    }

    pub fn lease(&self, address: Ipv4Addr) -> Option<&LeaseRecord> {
        self.leases.get(&address)
    }

    pub fn subnet_of(&self, address: Ipv4Addr) -> Option<usize> {
        self.subnets.iter().position(|pool| pool.subnet.cidr.contains(&address))
    }

    pub fn subnet(&self, index: usize) -> Option<&Subnet> {
        self.subnets.get(index).map(|pool| &pool.subnet)
    }

    /// Enters a lease in place of what was known of its address.
    pub fn put(&mut self, lease: LeaseRecord, now: Timestamp) {
        let Some(index) = self.subnet_of(lease.address) else { return };
        self.forget(lease.address);
        self.subnets[index].used.remove(&(NEVER, lease.address));
        self.subnets[index].used.insert((lease.expires, lease.address));
        if is_alive(&lease, now) {
            self.ends.insert((lease.expires, lease.address));
        }
        self.by_client.entry(ClientKey::of(&lease)).or_default().push(lease.address);
        self.by_mac.entry(lease.mac).or_default().push(lease.address);
        self.leases.insert(lease.address, lease);
    }

    /// Takes an entry back to what was known before it; of an address that nobody had, to that.
    pub fn restore(&mut self, address: Ipv4Addr, previous: Option<LeaseRecord>, now: Timestamp) {
        match previous {
            Some(lease) => self.put(lease, now),
            None => {
                self.forget(address);
                self.withdraw(address);
            }
        }
    }

    fn forget(&mut self, address: Ipv4Addr) {
        let Some(old) = self.leases.remove(&address) else { return };
        if let Some(index) = self.subnet_of(address) {
            self.subnets[index].used.remove(&(old.expires, address));
        }
        self.ends.remove(&(old.expires, address));
        strike(&mut self.by_client, &ClientKey::of(&old), address);
        strike(&mut self.by_mac, &old.mac, address);
    }

    /// What the client has, or had last, in a subnet: live leases first, then the latest.
    pub fn of_client(&self, client: &ClientKey, subnet: usize, now: Timestamp) -> Option<&LeaseRecord> {
        let known = self.by_client.get(client)?.iter().filter_map(|address| self.leases.get(address));
        known
            .filter(|lease| self.subnet_of(lease.address) == Some(subnet) && lease.state != LeaseState::Declined)
            .max_by_key(|lease| (is_alive(lease, now), lease.expires))
    }

    /// Another live lease of this MAC in the same subnet, not of this client.
    pub fn rival(&self, lease: &LeaseRecord, now: Timestamp) -> Option<&LeaseRecord> {
        let subnet = self.subnet_of(lease.address);
        let mut same = self.by_mac.get(&lease.mac)?.iter().filter_map(|address| self.leases.get(address));
        same.find(|other| {
            other.address != lease.address
                && is_alive(other, now)
                && self.subnet_of(other.address) == subnet
                && (other.relay, &other.relay_info) != (lease.relay, &lease.relay_info)
        })
    }

    /// May `client` have this address now?
    pub fn may_have(&self, client: &ClientKey, mac: MacAddr, address: Ipv4Addr, now: Timestamp) -> bool {
        let Some(subnet) = self.subnet_of(address).and_then(|index| self.subnet(index)) else { return false };
        let allowed = match subnet.reserved_for.get(&address) {
            Some(owner) => *owner == mac,
            // Who has a reservation gets no second address, unless somebody still sits on the reserved one.
            None => subnet.is_free_for_all(address) && subnet.reserved.get(&mac).is_none_or(|own| self.is_taken(client, *own, now)),
        };
        allowed && !self.own.contains(&address) && !self.is_taken(client, address, now)
    }

    /// Held by, offered to or kept from somebody: the client itself excepted.
    fn is_taken(&self, client: &ClientKey, address: Ipv4Addr, now: Timestamp) -> bool {
        let leased = self.leases.get(&address).is_some_and(|lease| match lease.state {
            LeaseState::Active => lease.expires > now && ClientKey::of(lease) != *client,
            LeaseState::Declined => lease.expires > now,
            LeaseState::Released => false,
        });
        leased || self.offers.get(&address).is_some_and(|offer| offer.until > now && offer.client != *client)
    }

    /// The address for a client: reserved, its own, offered before, wished for, never used, longest free.
    pub fn choose(&mut self, client: &ClientKey, mac: MacAddr, subnet: usize, wish: Option<Ipv4Addr>, now: Timestamp) -> Option<Ipv4Addr> {
        let here =
            |table: &Self, address: &Ipv4Addr| table.subnet_of(*address) == Some(subnet) && table.may_have(client, mac, *address, now);
        let reserved = self.subnet(subnet)?.reserved.get(&mac).copied();
        let own = self.of_client(client, subnet, now).map(|lease| lease.address);
        let offered = self.offer_to(client, subnet, now);
        let first = [reserved, own, offered, wish].into_iter().flatten().find(|address| here(self, address));
        first.or_else(|| self.never_used(subnet, now)).or_else(|| {
            let used = self.subnets.get(subnet)?.used.iter();
            used.take_while(|(free_from, _)| *free_from <= now).map(|(_, address)| *address).find(|address| here(self, address))
        })
    }

    fn never_used(&mut self, subnet: usize, now: Timestamp) -> Option<Ipv4Addr> {
        loop {
            let pool = self.subnets.get(subnet)?;
            let (address, last) = (pool.next?, pool.subnet.range?.last);
            let free = pool.subnet.is_free_for_all(address) && !self.own.contains(&address) && !self.leases.contains_key(&address);
            if free && self.offers.get(&address).is_none_or(|offer| offer.until <= now) {
                return Some(address);
            }
            // An address under offer is passed over for good only here: should the offer lapse, `withdraw` brings it back.
            let pool = self.subnets.get_mut(subnet)?;
            pool.next = (address < last).then(|| Ipv4Addr::from(u32::from(address) + 1));
        }
    }

    /// What is under offer to the client in this subnet.
    pub fn offer_to(&self, client: &ClientKey, subnet: usize, now: Timestamp) -> Option<Ipv4Addr> {
        let mine = self.offered_to.get(client)?.iter().copied();
        mine.filter(|address| self.offers.get(address).is_some_and(|offer| offer.until > now))
            .find(|address| self.subnet_of(*address) == Some(subnet))
    }

    /// Notes an offer and returns how often this transaction was answered, this time included.
    pub fn offer(&mut self, address: Ipv4Addr, client: &ClientKey, xid: u32, until: Timestamp) -> u32 {
        let before = self.offers.get(&address).filter(|offer| offer.client == *client && offer.xid == xid).map_or(0, |offer| offer.sent);
        self.drop_offer(address);
        self.offers.insert(address, Offer { client: client.clone(), until, xid, sent: before + 1 });
        self.offered_to.entry(client.clone()).or_default().push(address);
        before + 1
    }

    /// Keeps an address for a client that is not yet offered it.
    pub fn reserve(&mut self, address: Ipv4Addr, client: &ClientKey, until: Timestamp) {
        self.drop_offer(address);
        self.offers.insert(address, Offer { client: client.clone(), until, xid: 0, sent: 0 });
        self.offered_to.entry(client.clone()).or_default().push(address);
    }

    fn drop_offer(&mut self, address: Ipv4Addr) {
        let Some(offer) = self.offers.remove(&address) else { return };
        strike(&mut self.offered_to, &offer.client, address);
    }

    /// Ends an offer: taken, refused or lapsed.
    pub fn withdraw(&mut self, address: Ipv4Addr) {
        self.drop_offer(address);
        if !self.leases.contains_key(&address)
            && let Some(index) = self.subnet_of(address)
        {
            // Nobody had it: it joins those that somebody had, as free since ever.
            let pool = &mut self.subnets[index];
            if pool.subnet.is_free_for_all(address) && pool.next.is_none_or(|next| address < next) {
                pool.used.insert((NEVER, address));
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
    pub fn pop_ended(&mut self, now: Timestamp) -> Option<&LeaseRecord> {
        let first = self.ends.first().copied().filter(|(at, _)| *at <= now)?;
        self.ends.remove(&first);
        self.leases.get(&first.1)
    }
}

/// Takes an address out of the list of its owner.
pub(super) fn strike<K: Eq + Hash, A: PartialEq>(lists: &mut HashMap<K, Vec<A>>, key: &K, address: A) {
    if let Some(list) = lists.get_mut(key) {
        list.retain(|known| *known != address);
        if list.is_empty() {
            lists.remove(key);
        }
    }
}

/// Who holds an address, as the rest of the product may know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub mac: MacAddr,
    pub expires: Timestamp,
    pub family: Option<FamilyName>,
    /// Relay that the lease was asked through, and its option 82 as sent (18 and 37 of DHCPv6): where the device is.
    pub relay: Option<IpAddr>,
    pub relay_info: Option<Vec<u8>>,
    /// The same MAC holds another address of this subnet through another port: one of the two is not what it says.
    pub contested: bool,
}

/// The durable, living leases of both servers, for everyone: cheap to clone, cheap to ask, never blocks for I/O.
#[derive(Clone, Debug, Default)]
pub struct LeaseView(Arc<RwLock<Shown>>);

#[derive(Debug, Default)]
struct Shown {
    holders: HashMap<IpAddr, Holder>,
    addresses: HashMap<MacAddr, Vec<IpAddr>>,
}

impl LeaseView {
    /// Whose address this is at `now`, if we leased it and the lease lives.
    pub fn holder(&self, address: impl Into<IpAddr>, now: Timestamp) -> Option<Holder> {
        let shown = self.0.read().unwrap_or_else(PoisonError::into_inner);
        shown.holders.get(&address.into()).filter(|holder| holder.expires > now).cloned()
    }

    /// The address of a device at `now`; of several (data and voice VLAN, IPv4 and IPv6) the one granted last.
    pub fn address_of(&self, mac: MacAddr, now: Timestamp) -> Option<IpAddr> {
        let shown = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let alive = |address: &&IpAddr| shown.holders.get(address).is_some_and(|holder| holder.expires > now);
        shown.addresses.get(&mac)?.iter().rev().find(alive).copied()
    }

    /// How many leases live.
    pub fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).holders.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The server calls this when the lease is on disk.
    pub(super) fn show(&self, lease: &LeaseRecord, contested: bool) {
        let (family, relay, relay_info) = (lease.family.clone(), lease.relay.map(IpAddr::V4), lease.relay_info.clone());
        self.put(lease.address, Some(Holder { mac: lease.mac, expires: lease.expires, family, relay, relay_info, contested }));
    }

    /// Whose address it is from now on.
    pub(super) fn put(&self, address: impl Into<IpAddr>, holder: Option<Holder>) {
        let (address, mut shown) = (address.into(), self.0.write().unwrap_or_else(PoisonError::into_inner));
        shown.hide(address);
        if let Some(holder) = holder {
            shown.addresses.entry(holder.mac).or_default().push(address);
            shown.holders.insert(address, holder);
        }
    }

    pub(super) fn hide(&self, address: impl Into<IpAddr>) {
        self.put(address, None);
    }
}

impl Shown {
    fn hide(&mut self, address: IpAddr) {
        if let Some(old) = self.holders.remove(&address) {
            strike(&mut self.addresses, &old.mac, address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::settings::Settings;

    const MIN: i64 = 60_000;

    fn table(range: &str) -> Table {
        let yaml = format!(
            "subnets:\n- cidr: 10.0.0.0/24\n  range: {range}\n  reservations: [{{mac: 00:00:00:00:00:99, address: 10.0.0.5}}]\n- cidr: 10.1.0.0/24\n  range: 10.1.0.1-10.1.0.9\n"
        );
        Table::new(&serde_yaml::from_str::<Settings>(&yaml).unwrap().check().unwrap(), vec![], Timestamp(0))
    }

    fn mac(n: u8) -> MacAddr {
        MacAddr([0, 0, 0, 0, 0, n])
    }

    fn lease(n: u8, last: u8, state: LeaseState, expires: i64) -> LeaseRecord {
        LeaseRecord {
            address: Ipv4Addr::new(10, 0, 0, last),
            mac: mac(n),
            client_id: vec![],
            state,
            starts: Timestamp(0),
            expires: Timestamp(expires),
            hostname: None,
            family: None,
            relay: None,
            relay_info: None,
        }
    }

    fn choose(table: &mut Table, n: u8, wish: Option<u8>, now: i64) -> Option<u8> {
        let wish = wish.map(|last| Ipv4Addr::new(10, 0, 0, last));
        let chosen = table.choose(&ClientKey::Mac(mac(n)), mac(n), 0, wish, Timestamp(now));
        chosen.map(|address| address.octets()[3])
    }

    #[test]
    fn a_client_gets_its_address_back() {
        let mut table = table("10.0.0.3-10.0.0.7");
        assert_eq!(choose(&mut table, 1, None, 0), Some(3));
        table.put(lease(1, 3, LeaseState::Active, 10 * MIN), Timestamp(0));
        assert_eq!(choose(&mut table, 1, None, 0), Some(3), "alive");
        assert_eq!(choose(&mut table, 1, None, 99 * MIN), Some(3), "expired");
        assert_eq!(choose(&mut table, 2, Some(3), 0), Some(4), "not of another");
        assert_eq!(choose(&mut table, 2, Some(6), 0), Some(6), "what it wishes for");
        assert_eq!(choose(&mut table, 2, Some(5), 0), Some(4), "but not what is reserved");
        assert_eq!(choose(&mut table, 0x99, Some(4), 0), Some(5), "the reserved one");
    }

    #[test]
    fn the_longest_free_is_used_again_first() {
        let mut table = table("10.0.0.1-10.0.0.3");
        table.put(lease(1, 1, LeaseState::Active, 10 * MIN), Timestamp(0));
        table.put(lease(2, 2, LeaseState::Released, 5 * MIN), Timestamp(0));
        table.put(lease(3, 3, LeaseState::Declined, 60 * MIN), Timestamp(0));
        assert_eq!(choose(&mut table, 4, None, 4 * MIN), None);
        assert_eq!(choose(&mut table, 4, None, 5 * MIN), Some(2));
        table.offer(Ipv4Addr::new(10, 0, 0, 2), &ClientKey::Mac(mac(4)), 1, Timestamp(50 * MIN));
        assert_eq!(choose(&mut table, 5, None, 9 * MIN), None, "2 is offered, 1 still leased");
        assert_eq!(choose(&mut table, 5, None, 10 * MIN), Some(1));
        assert_eq!(choose(&mut table, 3, None, 10 * MIN), Some(1), "a declined address is nobody's");
    }

    #[test]
    fn an_offer_that_nobody_takes_is_not_lost() {
        let mut table = table("10.0.0.1-10.0.0.2");
        for n in 1..=2 {
            let client = ClientKey::Mac(mac(n));
            assert_eq!(choose(&mut table, n, None, 0), Some(n));
            assert_eq!(table.offer(Ipv4Addr::new(10, 0, 0, n), &client, 7, Timestamp(MIN)), 1);
        }
        assert_eq!(choose(&mut table, 3, None, 0), None);
        assert_eq!(table.offer(Ipv4Addr::new(10, 0, 0, 1), &ClientKey::Mac(mac(1)), 7, Timestamp(MIN)), 2, "counts a retransmission");
        table.lapse_offers(Timestamp(MIN));
        assert!(!table.has_offers());
        assert_eq!((choose(&mut table, 3, None, MIN), choose(&mut table, 2, None, MIN)), (Some(1), Some(1)));
        table.put(lease(3, 1, LeaseState::Active, 10 * MIN), Timestamp(MIN));
        assert_eq!(choose(&mut table, 2, None, MIN), Some(2));
    }

    #[test]
    fn the_view_shows_who_lives() {
        let view = LeaseView::default();
        let one = lease(1, 3, LeaseState::Active, MIN);
        view.show(&one, false);
        let two = LeaseRecord { address: Ipv4Addr::new(10, 1, 0, 3), expires: Timestamp(2 * MIN), ..one.clone() };
        view.show(&two, false);
        assert_eq!(view.holder(one.address, Timestamp(0)).map(|holder| holder.mac), Some(mac(1)));
        assert_eq!(view.address_of(mac(1), Timestamp(0)), Some(two.address.into()));
        assert_eq!(view.holder(one.address, Timestamp(MIN)), None, "not a moment longer");
        view.show(&LeaseRecord { mac: mac(2), ..two.clone() }, true);
        assert_eq!((view.address_of(mac(1), Timestamp(0)), view.len()), (Some(one.address.into()), 2));
        view.hide(one.address);
        assert_eq!(view.address_of(mac(1), Timestamp(0)), None);
    }

    #[test]
    fn no_two_live_leases_share_an_address() {
        let mut table = table("10.0.0.1-10.0.0.20");
        let mut seed = 1u32;
        let mut next = move || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed >> 16
        };
        let mut held: HashMap<u8, (u8, i64)> = HashMap::new();
        for step in 0..5_000i64 {
            let now = step * 1000;
            let n = (next() % 30) as u8;
            let Some(last) = choose(&mut table, n, Some((next() % 25) as u8), now) else { continue };
            let owner = held.get(&last).copied();
            assert!(owner.is_none_or(|(owner, until)| owner == n || until <= now), "{last} is {owner:?}'s, given to {n} at {now}");
            let until = now + i64::from(next() % 60) * 1000;
            let state = if next() % 5 == 0 { LeaseState::Released } else { LeaseState::Active };
            table.put(lease(n, last, state, until), Timestamp(now));
            held.insert(last, (n, if state == LeaseState::Active { until } else { now }));
        }
    }
}
