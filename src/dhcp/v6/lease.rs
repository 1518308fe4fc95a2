//! Which client of IPv6 has which address.
//!
//! A client is known by its DUID and the number of the IA that the address is for (RFC 8415 §12). How addresses are given and come back is
//! in `dhcp/table.rs`. Pools are small enough to be looked through. Not here: what is said on the wire (`server/leasing.rs`), and when a
//! lease counts.

use std::net::Ipv6Addr;

use super::settings::{Pool, Subnet};
use crate::{
    dhcp::table::{self, Lease, Network},
    model::{Lease6Record, LeaseState, MacAddr, Timestamp},
};

/// All addresses of all pools.
pub type Table = table::Table<Subnet>;

/// One interface of a client, for the purpose of getting the same address again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    pub duid: Vec<u8>,
    pub iaid: u32,
}

impl Lease for Lease6Record {
    type Address = Ipv6Addr;
    type Client = Client;

    fn address(&self) -> Ipv6Addr {
        self.address
    }

    fn client(&self) -> Client {
        Client { duid: self.duid.clone(), iaid: self.iaid }
    }

    fn mac(&self) -> Option<MacAddr> {
        self.mac
    }

    fn state(&self) -> LeaseState {
        self.state
    }

    fn expires(&self) -> Timestamp {
        self.expires
    }

    fn is_beside(&self, other: &Self) -> bool {
        (self.relay, &self.port) == (other.relay, &other.port)
    }
}

impl Network for Subnet {
    type Lease = Lease6Record;

    fn holds(&self, address: Ipv6Addr) -> bool {
        self.leases() && self.prefix.contains(&address)
    }

    fn gives(&self, address: Ipv6Addr) -> bool {
        self.pool.is_some_and(|pool| pool.contains(address)) && !self.reserved_for.contains_key(&address)
    }

    fn first(&self) -> Option<Ipv6Addr> {
        self.pool.map(|pool| pool.first)
    }

    fn after(&self, address: Ipv6Addr) -> Option<Ipv6Addr> {
        self.pool.filter(|pool| address < pool.last).map(|_| Pool::after(address))
    }
}

impl Table {
    /// May `client` have this address of this subnet now?
    pub fn may_have(&self, client: &Client, mac: Option<MacAddr>, subnet: usize, address: Ipv6Addr, now: Timestamp) -> bool {
        let Some(known) = self.subnet(subnet) else { return false };
        let allowed = match known.reserved_for.get(&address) {
            Some(owner) => mac == Some(*owner),
            // Who has a reservation gets no second address, unless somebody sits on the reserved one: another of its own interfaces, too.
            None => known.gives(address) && reserved(known, mac).is_none_or(|own| self.is_taken(client, own, now)),
        };
        allowed && !self.is_own(address) && !self.is_taken(client, address, now)
    }

    /// What is kept for the client in this subnet, if it can have it now.
    pub fn reserved(&self, client: &Client, mac: Option<MacAddr>, subnet: usize, now: Timestamp) -> Option<Ipv6Addr> {
        reserved(self.subnet(subnet)?, mac).filter(|address| self.may_have(client, mac, subnet, *address, now))
    }

    /// The address for a client: reserved, its own, offered before, wished for, never used, longest free.
    pub fn choose(
        &mut self,
        client: &Client,
        mac: Option<MacAddr>,
        subnet: usize,
        wishes: &[Ipv6Addr],
        now: Timestamp,
    ) -> Option<Ipv6Addr> {
        let reserved = reserved(self.subnet(subnet)?, mac);
        let own = self.of_client(client, subnet, now).map(|lease| lease.address);
        let wanted = reserved.into_iter().chain(own).chain(self.offer_to(client, subnet, now)).chain(wishes.iter().copied());
        self.pick(subnet, wanted, |table, address| table.may_have(client, mac, subnet, address, now), now)
    }
}

fn reserved(subnet: &Subnet, mac: Option<MacAddr>) -> Option<Ipv6Addr> {
    subnet.reserved.get(&mac?).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::dhcp::v6::Settings;

    const MIN: i64 = 60_000;

    fn table(pool: &str) -> Table {
        let yaml = format!(
            "mode: server\nsubnets: [{{ prefix: 'fd00::/64', pool: '{pool}', reservations: [{{ mac: 00:00:00:00:00:99, address: 'fd00::6:6' }}] }}, \
             {{ prefix: 'fd01::/64' }}]"
        );
        let config = serde_yaml::from_str::<Settings>(&yaml).unwrap().check().unwrap();
        Table::new(config.subnets, vec![], &[address(2)], Timestamp(0))
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
        table.choose(&client(n), None, 0, &wishes, Timestamp(now)).map(|address| address.segments()[7])
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
        assert_eq!(table.choose(&other, None, 0, &[], Timestamp(0)), Some(address(3)), "another interface has another");
        assert_eq!(table.choose(&client(1), None, 1, &[], Timestamp(0)), None, "there is no pool");
    }

    #[test]
    fn who_has_a_reservation_gets_that_and_nobody_else_does() {
        let mut table = table("fd00::6:5-fd00::6:7");
        let (mac, kept): (Option<MacAddr>, Ipv6Addr) = (Some(MacAddr([0, 0, 0, 0, 0, 0x99])), "fd00::6:6".parse().unwrap());
        let choose = |table: &mut Table, n: u8, mac, wish: &[Ipv6Addr]| table.choose(&client(n), mac, 0, wish, Timestamp(0));
        assert_eq!(choose(&mut table, 1, None, &[kept]), Some("fd00::6:5".parse().unwrap()));
        table.put(Lease6Record { address: "fd00::6:5".parse().unwrap(), ..lease(1, 5, LeaseState::Active, MIN) }, Timestamp(0));
        assert_eq!(choose(&mut table, 2, None, &[]), Some("fd00::6:7".parse().unwrap()), "it is gone round");
        assert_eq!(choose(&mut table, 3, mac, &["fd00::6:7".parse().unwrap()]), Some(kept), "whatever it wishes for");
        table.put(Lease6Record { address: kept, mac, ..lease(3, 6, LeaseState::Active, MIN) }, Timestamp(0));
        let second = Client { iaid: 2, ..client(3) };
        assert_eq!(table.choose(&second, mac, 0, &[], Timestamp(0)), Some("fd00::6:7".parse().unwrap()), "its other interface");
        assert!(!table.may_have(&client(3), mac, 0, "fd00::6:7".parse().unwrap(), Timestamp(0)));
    }

    #[test]
    fn the_longest_free_is_used_again_first() {
        let mut table = table("fd00::4-fd00::6");
        table.put(lease(1, 4, LeaseState::Active, 10 * MIN), Timestamp(0));
        table.put(lease(2, 5, LeaseState::Released, 5 * MIN), Timestamp(0));
        table.put(lease(3, 6, LeaseState::Declined, 60 * MIN), Timestamp(0));
        assert_eq!((choose(&mut table, 4, None, 4 * MIN), choose(&mut table, 4, None, 5 * MIN)), (None, Some(5)));
        table.reserve(address(5), &client(4), Timestamp(50 * MIN));
        assert_eq!(choose(&mut table, 5, None, 9 * MIN), None, "5 is offered, 4 still leased");
        assert_eq!(choose(&mut table, 3, None, 10 * MIN), Some(4), "a declined address is nobody's");
    }

    #[test]
    fn an_offer_that_nobody_takes_is_not_lost() {
        let mut table = table("fd00::4-fd00::5");
        for n in 1..=2 {
            assert_eq!(choose(&mut table, n, None, 0), Some(u16::from(n) + 3));
            table.reserve(address(u16::from(n) + 3), &client(n), Timestamp(MIN));
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
