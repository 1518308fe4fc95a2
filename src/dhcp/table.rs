//! Who has which address: the table that a server decides by, of either version of IP.
//!
//! A client gets the address it had, else one that nobody ever had, else the one that has been free for longest. What a client is known by,
//! which addresses a network gives and to whom is said by [`Lease`] and [`Network`]: `lease.rs` and `v6/lease.rs`. Not here: what is said
//! on the wire, and when a lease counts.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt::Debug,
    hash::Hash,
};

use crate::model::{LeaseState, MacAddr, Timestamp};

/// An address that nobody has had is free since then.
const NEVER: Timestamp = Timestamp(i64::MIN);

/// What is noted of an address.
pub trait Lease: Debug {
    type Address: Copy + Debug + Ord + Hash;
    /// Who a client is, for the purpose of getting the same address again.
    type Client: Clone + Debug + Eq + Hash;

    fn address(&self) -> Self::Address;
    fn client(&self) -> Self::Client;
    fn mac(&self) -> Option<MacAddr>;
    fn state(&self) -> LeaseState;
    fn expires(&self) -> Timestamp;
    /// Do both say that their device is plugged in at the same place?
    fn is_beside(&self, other: &Self) -> bool;

    /// Is it in use at `now`?
    fn is_alive(&self, now: Timestamp) -> bool {
        self.state() == LeaseState::Active && self.expires() > now
    }
}

/// A network that addresses are leased in.
pub trait Network: Debug {
    type Lease: Lease;

    /// Is it an address of this network, and do we lease here?
    fn holds(&self, address: Address<Self>) -> bool;
    /// May it be leased to just anybody?
    fn gives(&self, address: Address<Self>) -> bool;
    /// The addresses that are gone through, one after the other; not all of them need be given.
    fn first(&self) -> Option<Address<Self>>;
    fn after(&self, address: Address<Self>) -> Option<Address<Self>>;
}

type Address<N> = <<N as Network>::Lease as Lease>::Address;
type Client<N> = <<N as Network>::Lease as Lease>::Client;

/// An address that was offered and not yet taken.
#[derive(Debug)]
struct Offer<C> {
    client: C,
    until: Timestamp,
    /// Transaction, and how often it was answered: who asks a third time does not hear our unicast.
    xid: u32,
    sent: u32,
}

/// All addresses of all networks.
#[derive(Debug)]
pub struct Table<N: Network> {
    /// As in the configuration.
    networks: Vec<Addresses<N>>,
    leases: HashMap<Address<N>, N::Lease>,
    by_client: HashMap<Client<N>, Vec<Address<N>>>,
    by_mac: HashMap<MacAddr, Vec<Address<N>>>,
    offers: HashMap<Address<N>, Offer<Client<N>>>,
    offered_to: HashMap<Client<N>, Vec<Address<N>>>,
    /// Ends of live leases, for the event and the view.
    ends: BTreeSet<(Timestamp, Address<N>)>,
    /// Addresses of this machine: nobody else's, wherever they lie.
    own: HashSet<Address<N>>,
}

#[derive(Debug)]
struct Addresses<N: Network> {
    network: N,
    /// The next address that perhaps nobody ever had.
    next: Option<Address<N>>,
    /// Addresses that somebody had, by the moment from which they are free: the end of the lease, or when it was given back.
    used: BTreeSet<(Timestamp, Address<N>)>,
}

impl<N: Network> Table<N> {
    /// With what the store remembers; leases in networks that are not served any more are left out.
    pub fn new(networks: Vec<N>, leases: Vec<N::Lease>, own: &[Address<N>], now: Timestamp) -> Self {
        let addresses = |network: N| Addresses { next: network.first(), network, used: BTreeSet::new() };
        let mut table = Self {
            networks: networks.into_iter().map(addresses).collect(),
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
    pub fn set_own(&mut self, own: &[Address<N>]) {
        self.own = own.iter().copied().collect();
    }

    pub fn is_own(&self, address: Address<N>) -> bool {
        self.own.contains(&address)
    }

    pub fn leases(&self) -> impl Iterator<Item = &N::Lease> {
        self.leases.values()
    }

    pub fn lease(&self, address: Address<N>) -> Option<&N::Lease> {
        self.leases.get(&address)
    }

    /// The network of an address.
    pub fn subnet_of(&self, address: Address<N>) -> Option<usize> {
        self.networks.iter().position(|known| known.network.holds(address))
    }

    pub fn subnet(&self, index: usize) -> Option<&N> {
        self.networks.get(index).map(|known| &known.network)
    }

    /// Enters a lease in place of what was known of its address.
    pub fn put(&mut self, lease: N::Lease, now: Timestamp) {
        let address = lease.address();
        let Some(index) = self.subnet_of(address) else { return };
        self.forget(address);
        self.drop_offer(address);
        let known = &mut self.networks[index];
        known.used.remove(&(NEVER, address));
        if known.network.gives(address) {
            known.used.insert((lease.expires(), address));
        }
        if lease.is_alive(now) {
            self.ends.insert((lease.expires(), address));
        }
        self.by_client.entry(lease.client()).or_default().push(address);
        if let Some(mac) = lease.mac() {
            self.by_mac.entry(mac).or_default().push(address);
        }
        self.leases.insert(address, lease);
    }

    /// Takes an entry back to what was known before it; of an address that nobody had, to that.
    pub fn restore(&mut self, address: Address<N>, previous: Option<N::Lease>, now: Timestamp) {
        match previous {
            Some(lease) => self.put(lease, now),
            None => {
                self.forget(address);
                self.withdraw(address);
            }
        }
    }

    fn forget(&mut self, address: Address<N>) {
        let Some(old) = self.leases.remove(&address) else { return };
        if let Some(index) = self.subnet_of(address) {
            self.networks[index].used.remove(&(old.expires(), address));
        }
        self.ends.remove(&(old.expires(), address));
        strike(&mut self.by_client, &old.client(), address);
        if let Some(mac) = old.mac() {
            strike(&mut self.by_mac, &mac, address);
        }
    }

    /// What the client has, or had last, in a subnet: live leases first, then the latest.
    pub fn of_client(&self, client: &Client<N>, subnet: usize, now: Timestamp) -> Option<&N::Lease> {
        let known = self.by_client.get(client)?.iter().filter_map(|address| self.leases.get(address));
        known
            .filter(|lease| self.subnet_of(lease.address()) == Some(subnet) && lease.state() != LeaseState::Declined)
            .max_by_key(|lease| (lease.is_alive(now), lease.expires()))
    }

    /// Another live lease of this MAC in the same subnet, through another port.
    pub fn rival(&self, lease: &N::Lease, now: Timestamp) -> Option<&N::Lease> {
        let subnet = self.subnet_of(lease.address());
        let mut same = self.by_mac.get(&lease.mac()?)?.iter().filter_map(|address| self.leases.get(address));
        same.find(|other| {
            other.address() != lease.address()
                && other.is_alive(now)
                && self.subnet_of(other.address()) == subnet
                && !other.is_beside(lease)
        })
    }

    /// Held by, offered to or kept from somebody: the client itself excepted.
    pub fn is_taken(&self, client: &Client<N>, address: Address<N>, now: Timestamp) -> bool {
        let leased = self.leases.get(&address).is_some_and(|lease| match lease.state() {
            LeaseState::Active => lease.expires() > now && lease.client() != *client,
            LeaseState::Declined => lease.expires() > now,
            LeaseState::Released => false,
        });
        leased || self.offers.get(&address).is_some_and(|offer| offer.until > now && offer.client != *client)
    }

    /// The first of `wanted` that the client may have, else one never used, else the one that has been free for longest.
    pub fn pick(
        &mut self,
        subnet: usize,
        wanted: impl IntoIterator<Item = Address<N>>,
        may_have: impl Fn(&Self, Address<N>) -> bool,
        now: Timestamp,
    ) -> Option<Address<N>> {
        let first = wanted.into_iter().find(|address| may_have(self, *address));
        first.or_else(|| self.never_used(subnet, now)).or_else(|| {
            let used = self.networks.get(subnet)?.used.iter().take_while(|(free_from, _)| *free_from <= now);
            used.map(|(_, address)| *address).find(|address| may_have(self, *address))
        })
    }

    fn never_used(&mut self, subnet: usize, now: Timestamp) -> Option<Address<N>> {
        loop {
            let known = self.networks.get(subnet)?;
            let address = known.next?;
            let free = known.network.gives(address) && !self.own.contains(&address) && !self.leases.contains_key(&address);
            if free && self.offers.get(&address).is_none_or(|offer| offer.until <= now) {
                return Some(address);
            }
            // An address under offer is passed over for good only here: should the offer lapse, `withdraw` brings it back.
            let known = self.networks.get_mut(subnet)?;
            known.next = known.network.after(address);
        }
    }

    /// What is under offer to the client in this subnet.
    pub fn offer_to(&self, client: &Client<N>, subnet: usize, now: Timestamp) -> Option<Address<N>> {
        let mine = self.offered_to.get(client)?.iter().copied();
        mine.filter(|address| self.offers.get(address).is_some_and(|offer| offer.until > now))
            .find(|address| self.subnet_of(*address) == Some(subnet))
    }

    /// Notes an offer and returns how often this transaction was answered, this time included.
    pub fn offer(&mut self, address: Address<N>, client: &Client<N>, xid: u32, until: Timestamp) -> u32 {
        let before = self.offers.get(&address).filter(|offer| offer.client == *client && offer.xid == xid).map_or(0, |offer| offer.sent);
        self.keep(address, Offer { client: client.clone(), until, xid, sent: before + 1 });
        before + 1
    }

    /// Keeps an address for a client, however often it is told.
    pub fn reserve(&mut self, address: Address<N>, client: &Client<N>, until: Timestamp) {
        self.keep(address, Offer { client: client.clone(), until, xid: 0, sent: 0 });
    }

    fn keep(&mut self, address: Address<N>, offer: Offer<Client<N>>) {
        self.drop_offer(address);
        self.offered_to.entry(offer.client.clone()).or_default().push(address);
        self.offers.insert(address, offer);
    }

    fn drop_offer(&mut self, address: Address<N>) {
        let Some(offer) = self.offers.remove(&address) else { return };
        strike(&mut self.offered_to, &offer.client, address);
    }

    /// Ends an offer: taken, refused or lapsed.
    pub fn withdraw(&mut self, address: Address<N>) {
        self.drop_offer(address);
        if !self.leases.contains_key(&address)
            && let Some(index) = self.subnet_of(address)
        {
            // Nobody had it: it joins those that somebody had, as free since ever.
            let known = &mut self.networks[index];
            if known.network.gives(address) && known.next.is_none_or(|next| address < next) {
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
    pub fn pop_ended(&mut self, now: Timestamp) -> Option<&N::Lease> {
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
