//! Which client of IPv4 has which address, and the view of all leases that others read.
//!
//! A client is known by its client identifier, else by its MAC (RFC 2131 §4.2). Who has a reservation gets that, and nobody else does.
//! How addresses are given and come back is in `table.rs`. Not here: what is said on the wire (`server.rs`), and when a lease counts: a
//! lease is shown in the [`LeaseView`] once it is durable.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, PoisonError, RwLock},
};

use ipnet::IpNet;

use super::{
    settings::Subnet,
    table::{self, Lease, Network, strike},
};
use crate::model::{FamilyName, LeaseRecord, LeaseState, MacAddr, Timestamp};

/// All addresses of all subnets.
pub type Table = table::Table<Subnet>;

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

impl Lease for LeaseRecord {
    type Address = Ipv4Addr;
    type Client = ClientKey;

    fn address(&self) -> Ipv4Addr {
        self.address
    }

    fn client(&self) -> ClientKey {
        ClientKey::of(self)
    }

    fn mac(&self) -> Option<MacAddr> {
        Some(self.mac)
    }

    fn state(&self) -> LeaseState {
        self.state
    }

    fn expires(&self) -> Timestamp {
        self.expires
    }

    fn is_beside(&self, other: &Self) -> bool {
        (self.relay, &self.relay_info) == (other.relay, &other.relay_info)
    }
}

impl Network for Subnet {
    type Lease = LeaseRecord;

    fn holds(&self, address: Ipv4Addr) -> bool {
        self.cidr.contains(&address)
    }

    fn gives(&self, address: Ipv4Addr) -> bool {
        self.is_free_for_all(address)
    }

    fn first(&self) -> Option<Ipv4Addr> {
        self.range.map(|range| range.first)
    }

    fn after(&self, address: Ipv4Addr) -> Option<Ipv4Addr> {
        self.range.filter(|range| address < range.last).map(|_| Ipv4Addr::from(u32::from(address) + 1))
    }
}

impl Table {
    /// May `client` have this address now?
    pub fn may_have(&self, client: &ClientKey, mac: MacAddr, address: Ipv4Addr, now: Timestamp) -> bool {
        let Some(subnet) = self.subnet_of(address).and_then(|index| self.subnet(index)) else { return false };
        let allowed = match subnet.reserved_for.get(&address) {
            Some(owner) => *owner == mac,
            // Who has a reservation gets no second address, unless somebody still sits on the reserved one.
            None => subnet.is_free_for_all(address) && subnet.reserved.get(&mac).is_none_or(|own| self.is_taken(client, *own, now)),
        };
        allowed && !self.is_own(address) && !self.is_taken(client, address, now)
    }

    /// The address for a client: reserved, its own, offered before, wished for, never used, longest free.
    pub fn choose(&mut self, client: &ClientKey, mac: MacAddr, subnet: usize, wish: Option<Ipv4Addr>, now: Timestamp) -> Option<Ipv4Addr> {
        let reserved = self.subnet(subnet)?.reserved.get(&mac).copied();
        let own = self.of_client(client, subnet, now).map(|lease| lease.address);
        let wanted = [reserved, own, self.offer_to(client, subnet, now), wish].into_iter().flatten();
        let here = |table: &Self, address| table.subnet_of(address) == Some(subnet) && table.may_have(client, mac, address, now);
        self.pick(subnet, wanted, here, now)
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
    /// Of IPv4 and IPv6.
    pools: [Vec<PoolView>; 2],
}

/// The addresses of a network that anybody may get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolView {
    pub subnet: IpNet,
    pub first: IpAddr,
    pub last: IpAddr,
    /// What is not given of them (excluded, reserved, the router's): from and to, in order and apart from each other.
    kept: Vec<(IpAddr, IpAddr)>,
}

impl PoolView {
    /// From `first` to `last` but for what is `kept`, from and to, which may overlap and lie elsewhere.
    pub(super) fn new(subnet: IpNet, [first, last]: [IpAddr; 2], kept: impl IntoIterator<Item = (IpAddr, IpAddr)>) -> Self {
        let mut inside: Vec<_> =
            kept.into_iter().map(|(from, to)| (from.max(first), to.min(last))).filter(|(from, to)| from <= to).collect();
        inside.sort_unstable();
        let mut kept: Vec<(IpAddr, IpAddr)> = Vec::new();
        for (from, to) in inside {
            match kept.last_mut().filter(|(_, end)| from <= *end) {
                Some((_, end)) => *end = to.max(*end),
                None => kept.push((from, to)),
            }
        }
        Self { subnet, first, last, kept }
    }

    fn gives(&self, address: IpAddr) -> bool {
        let within = |(from, to): &(IpAddr, IpAddr)| (*from..=*to).contains(&address);
        within(&(self.first, self.last)) && !self.kept.iter().any(within)
    }

    /// How many addresses.
    pub fn size(&self) -> u64 {
        let kept: u64 = self.kept.iter().map(|(from, to)| count(*from, *to)).sum();
        count(self.first, self.last).saturating_sub(kept)
    }
}

/// How many addresses there are from one to another.
fn count(from: IpAddr, to: IpAddr) -> u64 {
    let number = |address| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    u64::try_from(number(to).saturating_sub(number(from)).saturating_add(1)).unwrap_or(u64::MAX)
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

    /// The pools, and how many addresses of each are leased at `now`.
    pub fn pools(&self, now: Timestamp) -> Vec<(PoolView, usize)> {
        let shown = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let living = || shown.holders.iter().filter(|(_, holder)| holder.expires > now).map(|(address, _)| *address);
        shown.pools.iter().flatten().map(|pool| (pool.clone(), living().filter(|address| pool.gives(*address)).count())).collect()
    }

    /// Tells the metrics how full the pools are.
    pub fn report(&self, now: Timestamp) {
        for (pool, leased) in self.pools(now) {
            let subnet = pool.subnet.to_string();
            metrics::gauge!("plugtone_dhcp_pool_addresses", "subnet" => subnet.clone()).set(pool.size() as f64);
            metrics::gauge!("plugtone_dhcp_pool_leased", "subnet" => subnet).set(leased as f64);
        }
    }

    /// The pools of IPv4, or those of IPv6, from now on.
    pub(super) fn set_pools(&self, ipv6: bool, pools: Vec<PoolView>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).pools[usize::from(ipv6)] = pools;
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
        Table::new(serde_yaml::from_str::<Settings>(&yaml).unwrap().check().unwrap().subnets, vec![], &[], Timestamp(0))
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
    fn the_view_counts_what_anybody_may_have() {
        let yaml = "subnets: [{ cidr: 10.0.0.0/24, router: 10.0.0.1, range: 10.0.0.0-10.0.0.19, exclude: [10.0.0.8-10.0.0.9, 10.0.0.9-10.0.0.30], \
                    reservations: [{ mac: 00:00:00:00:00:99, address: 10.0.0.5 }, { mac: 00:00:00:00:00:98, address: 10.0.0.99 }] }]";
        let [subnet] = serde_yaml::from_str::<Settings>(yaml).unwrap().check().unwrap().subnets.try_into().expect("one");
        let view = LeaseView::default();
        view.set_pools(false, vec![subnet.pool_view().expect("a range")]);
        for (n, last) in [(1, 2), (2, 3), (0x99, 5), (3, 12)] {
            view.show(&lease(n, last, LeaseState::Active, if n == 2 { MIN } else { 2 * MIN }), false);
        }
        let count = |now| view.pools(Timestamp(now)).iter().map(|(pool, leased)| (pool.size(), *leased)).collect::<Vec<_>>();
        // Of 20 not the network, the router, 5, and 8 to 19; whoever sits on one of these is not counted.
        assert_eq!((count(0), count(MIN)), (vec![(5, 2)], vec![(5, 1)]));
        let net = "fd00::/64".parse().expect("a network");
        let [first, last] = ["fd00::1", "fd00::ffff"].map(|address| address.parse().expect("an address"));
        view.set_pools(true, vec![PoolView::new(net, [first, last], [])]);
        assert_eq!(count(0), [(5, 2), (65_535, 0)]);
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
