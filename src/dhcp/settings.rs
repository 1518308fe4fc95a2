//! The `dhcp:` section: as it is written ([`Settings`]) and as the server uses it ([`Config`]).
//!
//! A subnet and a range are enough. [`Settings::check`] finds what cannot work before anything is served. Not here:
//! which interfaces exist (`socket.rs` finds out when it binds).

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    net::{Ipv4Addr, SocketAddrV4},
    str::FromStr,
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::lease::PoolView;
use crate::model::MacAddr;

/// Leases and options.
#[derive(Clone, Debug, PartialEq, Deserialize, schemars::JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `server`: we are the DHCP server of these subnets. `beside`: another server is; we answer phones only: with leases where a subnet
    /// has a `range` (ours alone), else when they ask by DHCPINFORM; `plugtone check` says which makes do. `off`: no DHCP.
    pub mode: Mode,
    /// Network interfaces to serve, as `eth0.20`. Empty: every interface that has an address in one of the subnets, and
    /// relays on any.
    pub interfaces: Vec<String>,
    /// Where to listen. Anything but port 67 is for tests and demonstrations.
    pub listen: SocketAddrV4,
    /// For trying things on one machine, without root: every reply goes back to the address and port that the request
    /// came from. Use it with `listen: 127.0.0.1:6767` and a subnet in 127.64.0.0/16.
    pub loopback: bool,
    /// The networks to serve, each by its own clients or through relays.
    pub subnets: Vec<SubnetSettings>,
    /// How long an address is leased, in seconds, where the subnet does not say. Clients renew after half of it.
    pub lease_secs: u32,
    /// How long an offered address is kept for the client that it was offered to, in seconds.
    pub offer_secs: u32,
    /// How long an address is left alone after a client found it in use, in seconds.
    pub quarantine_secs: u32,
    /// What everything that is not a phone gets: `serve` plain network settings, or `ignore`.
    pub non_phones: NonPhones,
    /// Ask by ARP whether an address is in use before offering it. Not for clients behind relays. Needs CAP_NET_RAW.
    pub conflict_check: bool,
    /// How long to wait for an answer to that question, in milliseconds, at most 2000.
    pub conflict_wait_ms: u32,
    /// New clients served per minute and network (relay or interface); 0 is no limit. Known ones are always served.
    pub new_clients_per_minute: u32,
    /// New clients served per minute and switch port, where relays tell the port (option 82); 0 is no limit.
    pub new_clients_per_port_per_minute: u32,
    /// IANA name, as `Europe/Berlin`: told as options 2 and 101, with daylight saving as of now.
    pub time_zone: Option<String>,
    /// POSIX form of the time zone (option 100), as `CET-1CEST,M3.5.0,M10.5.0/3`, for the few phones that read it.
    pub posix_time_zone: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Server,
            interfaces: Vec::new(),
            listen: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 67),
            loopback: false,
            subnets: Vec::new(),
            lease_secs: 8 * 3600,
            offer_secs: 60,
            quarantine_secs: 3600,
            non_phones: NonPhones::Serve,
            conflict_check: true,
            conflict_wait_ms: 500,
            new_clients_per_minute: 1200,
            new_clients_per_port_per_minute: 30,
            time_zone: None,
            posix_time_zone: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    Server,
    Beside,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NonPhones {
    Serve,
    Ignore,
}

/// One network.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, schemars::JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SubnetSettings {
    /// The network and its mask, as `192.168.20.0/24`.
    #[schemars(with = "String")]
    pub cidr: Ipv4Net,
    /// The addresses to lease, as `192.168.20.100-192.168.20.199`.
    pub range: Option<AddressRange>,
    /// The default gateway.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Domain name.
    pub domain: Option<String>,
    /// Time servers. A phone with a wrong clock refuses certificates and shows the wrong day.
    pub ntp: Vec<Ipv4Addr>,
    /// Instead of `dhcp.lease_secs`.
    pub lease_secs: Option<u32>,
    /// Addresses inside the range that are not leased.
    pub exclude: Vec<AddressRange>,
    /// Addresses that belong to one device.
    pub reservations: Vec<Reservation>,
}

/// A device and the address that only it gets; need not lie in the range.
#[derive(Clone, Debug, PartialEq, Deserialize, schemars::JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    pub mac: MacAddr,
    pub address: Ipv4Addr,
}

/// Addresses from first to last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    pub first: Ipv4Addr,
    pub last: Ipv4Addr,
}

impl AddressRange {
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }

    /// How many addresses.
    pub fn size(&self) -> u64 {
        u64::from(u32::from(self.last)) + 1 - u64::from(u32::from(self.first))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a range of addresses: write the first and the last, as 192.168.20.100-192.168.20.199")]
pub struct ParseRangeError(String);

impl FromStr for AddressRange {
    type Err = ParseRangeError;

    fn from_str(text: &str) -> Result<Self, ParseRangeError> {
        let fault = || ParseRangeError(text.chars().take(60).collect());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let first = first.trim().parse().map_err(|_| fault())?;
        let last = last.trim().parse().map_err(|_| fault())?;
        if first <= last { Ok(Self { first, last }) } else { Err(fault()) }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl Serialize for AddressRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

crate::written_as!(AddressRange, { "type": "string", "pattern": "^ *[0-9.]+ *- *[0-9.]+ *$" });

impl<'de> Deserialize<'de> for AddressRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What cannot work in a `dhcp:` section.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("dhcp.subnets: the subnet {0} has neither `range` nor `reservations`, so nobody could get an address; add `range: FIRST-LAST`")]
    NothingToLease(Ipv4Net),
    #[error("dhcp.subnets: {what} {address} is not in {subnet}; correct it or the subnet's `cidr`")]
    Outside { what: &'static str, address: Ipv4Addr, subnet: Ipv4Net },
    #[error("dhcp.subnets: {0} and {1} overlap: a client could not be told which one it is in")]
    Overlap(Ipv4Net, Ipv4Net),
    #[error("dhcp.subnets: {0} is reserved twice")]
    ReservedTwice(String),
    #[error("dhcp.{what} is {value}, and must be {allowed}")]
    Number { what: &'static str, value: u32, allowed: &'static str },
    #[error("dhcp.time_zone: '{0}' is not a time zone that this machine knows; write a name as Europe/Berlin (is tzdata installed?)")]
    TimeZone(String),
    #[error("dhcp.loopback is meant for 127.0.0.0/8, but dhcp.listen is {0}; on a network leave `loopback` out")]
    LoopbackOutside(SocketAddrV4),
}

/// A checked [`Settings`].
#[derive(Clone, Debug)]
pub struct Config {
    pub mode: Mode,
    pub interfaces: Vec<String>,
    pub listen: SocketAddrV4,
    pub loopback: bool,
    pub subnets: Vec<Subnet>,
    pub offer_secs: u32,
    pub quarantine_secs: u32,
    pub non_phones: NonPhones,
    /// How long to wait for the answer to an ARP probe; `None` is no check.
    pub conflict_wait_ms: Option<u32>,
    pub new_clients_per_minute: u32,
    pub new_clients_per_port_per_minute: u32,
    pub time_zone: Option<jiff::tz::TimeZone>,
    pub posix_time_zone: Option<String>,
}

impl Config {
    /// Is there anything to do?
    pub fn is_active(&self) -> bool {
        self.mode != Mode::Off && !self.subnets.is_empty()
    }
}

/// A checked [`SubnetSettings`].
#[derive(Clone, Debug)]
pub struct Subnet {
    pub cidr: Ipv4Net,
    pub range: Option<AddressRange>,
    pub router: Option<Ipv4Addr>,
    pub dns: Vec<Ipv4Addr>,
    pub domain: Option<String>,
    pub ntp: Vec<Ipv4Addr>,
    pub lease_secs: u32,
    pub exclude: Vec<AddressRange>,
    pub reserved: HashMap<MacAddr, Ipv4Addr>,
    pub reserved_for: HashMap<Ipv4Addr, MacAddr>,
}

impl Subnet {
    /// Has it any address to lease? Beside another server it need not.
    pub fn leases(&self) -> bool {
        self.range.is_some() || !self.reserved.is_empty()
    }

    /// May the address be leased to just anybody?
    pub fn is_free_for_all(&self, address: Ipv4Addr) -> bool {
        self.range.is_some_and(|range| range.contains(address))
            && !self.exclude.iter().any(|range| range.contains(address))
            && !self.reserved_for.contains_key(&address)
            && Some(address) != self.router
            // In 127.64.0.0/16 and in networks of two addresses (RFC 3021) these two are addresses as any other.
            && (self.cidr.prefix_len() >= 31 || (address != self.cidr.network() && address != self.cidr.broadcast()))
    }

    /// What just anybody may get.
    pub fn pool_view(&self) -> Option<PoolView> {
        let range = self.range?;
        let ends = [self.cidr.network(), self.cidr.broadcast()];
        let single = self.reserved_for.keys().copied().chain(self.router).chain(ends).filter(|address| !self.is_free_for_all(*address));
        let excluded = self.exclude.iter().map(|range| (range.first.into(), range.last.into()));
        let kept = excluded.chain(single.map(|address| (address.into(), address.into())));
        Some(PoolView::new(self.cidr.into(), [range.first.into(), range.last.into()], kept))
    }
}

impl Settings {
    pub fn check(&self) -> Result<Config, SettingsError> {
        let number = |what, value, fits: bool, allowed| if fits { Ok(()) } else { Err(SettingsError::Number { what, value, allowed }) };
        number("lease_secs", self.lease_secs, self.lease_secs >= 60, "60 or more")?;
        number("offer_secs", self.offer_secs, (5..=600).contains(&self.offer_secs), "5 to 600")?;
        number("quarantine_secs", self.quarantine_secs, self.quarantine_secs >= 10, "10 or more")?;
        number("conflict_wait_ms", self.conflict_wait_ms, (10..=2000).contains(&self.conflict_wait_ms), "10 to 2000")?;
        if self.loopback && !self.listen.ip().is_loopback() {
            return Err(SettingsError::LoopbackOutside(self.listen));
        }
        let subnets = self.subnets.iter().map(|subnet| subnet.check(self.mode, self.lease_secs)).collect::<Result<Vec<_>, _>>()?;
        for (index, one) in subnets.iter().enumerate() {
            for other in &subnets[index + 1..] {
                if one.cidr.contains(&other.cidr) || other.cidr.contains(&one.cidr) {
                    return Err(SettingsError::Overlap(one.cidr, other.cidr));
                }
            }
        }
        let time_zone = match &self.time_zone {
            Some(name) => Some(jiff::tz::TimeZone::get(name).map_err(|_| SettingsError::TimeZone(name.clone()))?),
            None => None,
        };
        Ok(Config {
            mode: self.mode,
            interfaces: self.interfaces.clone(),
            listen: self.listen,
            loopback: self.loopback,
            subnets,
            offer_secs: self.offer_secs,
            quarantine_secs: self.quarantine_secs,
            non_phones: if self.mode == Mode::Beside { NonPhones::Ignore } else { self.non_phones },
            conflict_wait_ms: (self.conflict_check && !self.loopback).then_some(self.conflict_wait_ms),
            new_clients_per_minute: self.new_clients_per_minute,
            new_clients_per_port_per_minute: self.new_clients_per_port_per_minute,
            time_zone,
            posix_time_zone: self.posix_time_zone.clone(),
        })
    }
}

/// The address of each device, and whose each address is.
type Reserved<A> = (HashMap<MacAddr, A>, HashMap<A, MacAddr>);

/// Which address is kept for whom, and for whom which.
///
/// # Errors
/// The device, or the address, that is named twice.
pub(super) fn reserved<A: Copy + Eq + Hash + fmt::Display>(all: impl Iterator<Item = (MacAddr, A)>) -> Result<Reserved<A>, String> {
    let (mut of, mut whose) = (HashMap::new(), HashMap::new());
    for (mac, address) in all {
        if of.insert(mac, address).is_some() {
            return Err(mac.to_string());
        }
        if whose.insert(address, mac).is_some() {
            return Err(address.to_string());
        }
    }
    Ok((of, whose))
}

impl SubnetSettings {
    fn check(&self, mode: Mode, lease_secs: u32) -> Result<Subnet, SettingsError> {
        let cidr = self.cidr.trunc();
        let inside = |what, address| {
            if cidr.contains(&address) { Ok(()) } else { Err(SettingsError::Outside { what, address, subnet: cidr }) }
        };
        if self.range.is_none() && self.reservations.is_empty() && mode != Mode::Beside {
            return Err(SettingsError::NothingToLease(cidr));
        }
        if let Some(range) = self.range {
            inside("`range` begins at", range.first)?;
            inside("`range` ends at", range.last)?;
        }
        if let Some(router) = self.router {
            inside("`router`", router)?;
        }
        let lease_secs = self.lease_secs.unwrap_or(lease_secs);
        if lease_secs < 60 {
            return Err(SettingsError::Number { what: "subnets: lease_secs", value: lease_secs, allowed: "60 or more" });
        }
        let kept = self.reservations.iter().map(|kept| (kept.mac, kept.address));
        kept.clone().try_for_each(|(_, address)| inside("the reservation of", address))?;
        let (reserved, reserved_for) = reserved(kept).map_err(SettingsError::ReservedTwice)?;
        Ok(Subnet {
            cidr,
            range: self.range,
            router: self.router,
            dns: self.dns.clone(),
            domain: self.domain.clone(),
            ntp: self.ntp.clone(),
            lease_secs,
            exclude: self.exclude.clone(),
            reserved,
            reserved_for,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Settings {
        serde_yaml::from_str(yaml).unwrap()
    }

    #[test]
    fn subnet_and_range_are_enough() {
        let config = read("subnets:\n- cidr: 192.168.20.0/24\n  range: 192.168.20.100-192.168.20.199\n").check().unwrap();
        assert!(config.is_active());
        let subnet = &config.subnets[0];
        assert_eq!((subnet.range.unwrap().size(), subnet.lease_secs), (100, 28800));
        assert!(!read("mode: off").check().unwrap().is_active());
        assert!(!read("mode: beside\nsubnets: [{ cidr: 192.168.20.0/24 }]").check().unwrap().subnets[0].leases(), "another server does");
    }

    #[test]
    fn all_of_it_can_be_said() {
        let text = "
mode: beside
interfaces: [eth0]
time_zone: Europe/Berlin
subnets:
- cidr: 10.1.0.0/16
  range: 10.1.0.1-10.1.0.50
  router: 10.1.0.1
  dns: [10.1.0.2]
  domain: office.example
  ntp: [10.1.0.3]
  lease_secs: 600
  exclude: [10.1.0.10-10.1.0.19, 10.1.0.30]
  reservations: [{mac: 00:15:65:aa:bb:cc, address: 10.1.9.9}]
";
        let settings = read(text);
        let config = settings.check().unwrap();
        assert_eq!(config.non_phones, NonPhones::Ignore, "beside another server only phones are ours");
        let free: Vec<_> = (0..60).filter(|n| config.subnets[0].is_free_for_all(Ipv4Addr::new(10, 1, 0, *n))).collect();
        assert_eq!(free.len(), 50 - 1 - 10 - 1, "router, first and second exclusion");
        assert_eq!(read(&serde_yaml::to_string(&settings).unwrap()), settings);
    }

    #[test]
    fn what_cannot_work_is_said() {
        let subnet = |more: &str| format!("subnets:\n- cidr: 10.0.0.0/24\n{more}");
        for (yaml, text) in [
            (subnet(""), "neither `range` nor"),
            (subnet("  range: 10.0.0.5-10.0.1.9\n"), "`range` ends at 10.0.1.9 is not in 10.0.0.0/24"),
            (subnet("  range: 10.0.0.5-10.0.0.9\n  router: 10.9.9.9\n"), "`router` 10.9.9.9"),
            (subnet("  range: 10.0.0.5-10.0.0.9\n- cidr: 10.0.0.128/25\n  range: 10.0.0.130-10.0.0.140"), "overlap"),
            ("lease_secs: 5".into(), "dhcp.lease_secs is 5"),
            ("time_zone: Europe/Atlantis".into(), "Atlantis"),
            ("loopback: true".into(), "0.0.0.0:67"),
        ] {
            let error = read(&yaml).check().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        assert!(serde_yaml::from_str::<Settings>("leasetime: 5").is_err());
        assert!("10.0.0.9-10.0.0.1".parse::<AddressRange>().is_err());
    }
}
