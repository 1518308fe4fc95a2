//! The `dhcp6:` section: as it is written ([`Settings`]) and as the server uses it ([`Config`]).
//!
//! [`Settings::check`] finds what cannot work before anything is served. Not here: which interfaces exist (`socket.rs` finds out when it
//! binds).

use std::{collections::HashMap, fmt, net::Ipv6Addr, str::FromStr};

use ipnet::Ipv6Net;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::super::{
    class::domain,
    lease::PoolView,
    settings::{NonPhones, reserved},
};
use crate::model::MacAddr;

/// Addresses of a pool at most. Each that was ever leased is remembered, and looked at when none is left.
const LARGEST_POOL: u128 = 65_536;

/// Addresses and options for phones, by IPv6.
#[derive(Clone, Debug, PartialEq, Deserialize, schemars::JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Dhcp6")]
pub struct Settings {
    /// `stateless`: routers give the addresses (SLAAC); phones that routers tell to ask (the flag O) hear where their files are, and name
    /// and time servers. `server`: the same, and phones that routers tell to (the flag M) get addresses in subnets with a `pool`. `off`:
    /// no DHCPv6.
    pub mode: Mode,
    /// Network interfaces to serve, as `eth0.20`. Empty: every interface that has IPv6, and relays on any.
    pub interfaces: Vec<String>,
    /// The networks to serve, each by its own clients or through relays.
    pub subnets: Vec<SubnetSettings>,
    /// Networks of relays, as `2001:db8:1::/48`. Empty: relays with an address in one of the subnets (but for `::/0`), or
    /// next to us.
    #[schemars(with = "Vec<String>")]
    pub relays: Vec<Ipv6Net>,
    /// How long an address is leased, in seconds, 60 or more, where the subnet does not say. Clients renew after half of it.
    pub lease_secs: u32,
    /// A client that asks for it (rapid commit) gets its address with the first answer. Not where two servers lease: both would.
    pub rapid_commit: bool,
    /// Which of several servers clients take: that with the highest, 0 to 255; with 255 they do not wait for others.
    pub preference: u8,
    /// After how long phones without a lease ask again, in seconds, 600 or more.
    pub refresh_secs: u32,
    /// What everything that is not a phone gets: `serve` plain network settings, or `ignore`.
    pub non_phones: NonPhones,
    /// New clients served per minute and network (relay or interface); 0 is no limit. Those without a lease are new each time.
    pub new_clients_per_minute: u32,
    /// New clients served per minute and switch port, where relays tell the port (options 18 and 37); 0 is no limit.
    pub new_clients_per_port_per_minute: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Off,
            interfaces: Vec::new(),
            subnets: Vec::new(),
            relays: Vec::new(),
            lease_secs: 8 * 3600,
            rapid_commit: true,
            preference: 0,
            refresh_secs: 4 * 3600,
            non_phones: NonPhones::Serve,
            new_clients_per_minute: 1200,
            new_clients_per_port_per_minute: 30,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Dhcp6Mode")]
pub enum Mode {
    Off,
    Stateless,
    Server,
}

/// One network.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, schemars::JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Dhcp6Subnet")]
pub struct SubnetSettings {
    /// Its prefix, as `2001:db8:0:40::/64`. Where the provider changes it: `::/0`, which is everything.
    #[schemars(with = "String")]
    pub prefix: Ipv6Net,
    /// The addresses to lease, as `2001:db8:0:40::1000-2001:db8:0:40::1fff`, 65536 at most. Without: none.
    pub pool: Option<Pool>,
    /// Addresses that belong to one device.
    pub reservations: Vec<Reservation>,
    /// Instead of `dhcp6.lease_secs`.
    pub lease_secs: Option<u32>,
    /// Name servers.
    pub dns: Vec<Ipv6Addr>,
    /// Domains in which names are looked for.
    pub domains: Vec<String>,
    /// Time servers. A phone with a wrong clock refuses certificates and shows the wrong day.
    pub ntp: Vec<Ipv6Addr>,
}

/// A device and the address that only it gets; need not lie in the pool. It is known by its MAC as its relay, its link-local address or its
/// DUID says; one that gives none of them cannot be known.
#[derive(Clone, Debug, PartialEq, Deserialize, schemars::JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Dhcp6Reservation")]
pub struct Reservation {
    pub mac: MacAddr,
    pub address: Ipv6Addr,
}

/// Addresses from first to last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    pub first: Ipv6Addr,
    pub last: Ipv6Addr,
}

impl Pool {
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }

    /// The address behind one; of the very last itself.
    pub fn after(address: Ipv6Addr) -> Ipv6Addr {
        u128::from(address).saturating_add(1).into()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a range of addresses: write the first and the last, as 2001:db8:0:40::1000-2001:db8:0:40::1fff")]
pub struct ParsePoolError(String);

impl FromStr for Pool {
    type Err = ParsePoolError;

    fn from_str(text: &str) -> Result<Self, ParsePoolError> {
        let fault = || ParsePoolError(text.chars().take(100).collect());
        let (first, last) = text.split_once('-').ok_or_else(fault)?;
        let first = first.trim().parse().map_err(|_| fault())?;
        let last = last.trim().parse().map_err(|_| fault())?;
        if first <= last { Ok(Self { first, last }) } else { Err(fault()) }
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl Serialize for Pool {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

crate::written_as!(Pool, { "type": "string", "pattern": "^ *[0-9a-fA-F:.]+ *- *[0-9a-fA-F:.]+ *$" });

impl<'de> Deserialize<'de> for Pool {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What cannot work in a `dhcp6:` section.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("dhcp6.subnets: {0} and {1} overlap: a client could not be told which one it is in")]
    Overlap(Ipv6Net, Ipv6Net),
    #[error("dhcp6.subnets is empty, so nobody would be answered: name a `prefix`; `::/0` is everything")]
    NoSubnets,
    #[error("dhcp6.subnets: '{0}' is not a domain name: labels are 1 to 63 bytes")]
    Domain(String),
    #[error("dhcp6.subnets: the pool {pool} does not lie in {prefix}; correct it or the subnet's `prefix`")]
    Outside { pool: Pool, prefix: Ipv6Net },
    #[error("dhcp6.subnets: the pool {0} has more than 65536 addresses: name fewer, as FIRST:0-FIRST:ffff")]
    TooLarge(Pool),
    #[error(
        "dhcp6.subnets: {0} has a `pool` or `reservations`, but that a client is on its link could not be told: name the link's own prefix, as a /64"
    )]
    NoLink(Ipv6Net),
    #[error("dhcp6.subnets: {0} has a `pool` or `reservations`, which `dhcp6.mode: server` leases, and `stateless` does not")]
    NotLeased(Ipv6Net),
    #[error("dhcp6.subnets: the reservation of {address} does not lie in {prefix}; correct it or the subnet's `prefix`")]
    ReservedOutside { address: Ipv6Addr, prefix: Ipv6Net },
    #[error("dhcp6.subnets: {0} has two reservations: delete one")]
    ReservedTwice(String),
    #[error("dhcp6.{what} is {value}, and must be {allowed}")]
    Number { what: &'static str, value: u32, allowed: &'static str },
}

/// A checked [`Settings`].
#[derive(Clone, Debug)]
pub struct Config {
    pub mode: Mode,
    pub interfaces: Vec<String>,
    pub subnets: Vec<Subnet>,
    pub relays: Vec<Ipv6Net>,
    pub rapid_commit: bool,
    pub preference: u8,
    pub refresh_secs: u32,
    pub non_phones: NonPhones,
    pub new_clients_per_minute: u32,
    pub new_clients_per_port_per_minute: u32,
}

/// A checked [`SubnetSettings`].
#[derive(Clone, Debug)]
pub struct Subnet {
    pub prefix: Ipv6Net,
    pub pool: Option<Pool>,
    /// The address of a device, and whose an address is.
    pub reserved: HashMap<MacAddr, Ipv6Addr>,
    pub reserved_for: HashMap<Ipv6Addr, MacAddr>,
    pub lease_secs: u32,
    pub dns: Vec<Ipv6Addr>,
    /// As on the wire.
    pub domains: Vec<u8>,
    pub ntp: Vec<Ipv6Addr>,
}

impl Config {
    /// Is a relay at this address one of ours?
    pub fn answers_relay(&self, address: Ipv6Addr) -> bool {
        match self.relays.is_empty() {
            true => {
                let in_subnet = |subnet: &Subnet| subnet.prefix.prefix_len() > 0 && subnet.prefix.contains(&address);
                address.is_unicast_link_local() || self.subnets.iter().any(in_subnet)
            }
            false => self.relays.iter().any(|relays| relays.contains(&address)),
        }
    }
}

impl Subnet {
    /// Does anybody get an address here?
    pub fn leases(&self) -> bool {
        self.pool.is_some() || !self.reserved.is_empty()
    }

    /// What just anybody may get.
    pub fn pool_view(&self) -> Option<PoolView> {
        let pool = self.pool?;
        let kept = self.reserved_for.keys().map(|address| ((*address).into(), (*address).into()));
        Some(PoolView::new(self.prefix.into(), [pool.first.into(), pool.last.into()], kept))
    }
}

impl Settings {
    pub fn check(&self) -> Result<Config, SettingsError> {
        if self.refresh_secs < 600 {
            return Err(SettingsError::Number { what: "refresh_secs", value: self.refresh_secs, allowed: "600 or more" });
        }
        if self.mode != Mode::Off && self.subnets.is_empty() {
            return Err(SettingsError::NoSubnets);
        }
        let subnets = self.subnets.iter().map(|subnet| subnet.check(self.mode, self.lease_secs)).collect::<Result<Vec<_>, _>>()?;
        for (index, one) in subnets.iter().enumerate() {
            for other in &subnets[index + 1..] {
                if one.prefix.contains(&other.prefix) || other.prefix.contains(&one.prefix) {
                    return Err(SettingsError::Overlap(one.prefix, other.prefix));
                }
            }
        }
        Ok(Config {
            mode: self.mode,
            interfaces: self.interfaces.clone(),
            subnets,
            relays: self.relays.clone(),
            rapid_commit: self.rapid_commit,
            preference: self.preference,
            refresh_secs: self.refresh_secs,
            non_phones: self.non_phones,
            new_clients_per_minute: self.new_clients_per_minute,
            new_clients_per_port_per_minute: self.new_clients_per_port_per_minute,
        })
    }
}

impl SubnetSettings {
    fn check(&self, mode: Mode, lease_secs: u32) -> Result<Subnet, SettingsError> {
        let (prefix, lease_secs) = (self.prefix.trunc(), self.lease_secs.unwrap_or(lease_secs));
        if lease_secs < 60 {
            return Err(SettingsError::Number { what: "lease_secs", value: lease_secs, allowed: "60 or more" });
        }
        if self.pool.is_some() || !self.reservations.is_empty() {
            // A provider gives a site no shorter one.
            if prefix.prefix_len() < 32 {
                return Err(SettingsError::NoLink(prefix));
            }
            if mode == Mode::Stateless {
                return Err(SettingsError::NotLeased(prefix));
            }
        }
        if let Some(pool) = self.pool {
            if !prefix.contains(&pool.first) || !prefix.contains(&pool.last) {
                return Err(SettingsError::Outside { pool, prefix });
            }
            if u128::from(pool.last) - u128::from(pool.first) >= LARGEST_POOL {
                return Err(SettingsError::TooLarge(pool));
            }
        }
        let kept = self.reservations.iter().map(|kept| (kept.mac, kept.address));
        if let Some((_, address)) = kept.clone().find(|(_, address)| !prefix.contains(address)) {
            return Err(SettingsError::ReservedOutside { address, prefix });
        }
        let (reserved, reserved_for) = reserved(kept).map_err(SettingsError::ReservedTwice)?;
        let mut domains = Vec::new();
        for name in &self.domains {
            domain(name, &mut domains).map_err(|_| SettingsError::Domain(name.clone()))?;
        }
        let (pool, dns, ntp) = (self.pool, self.dns.clone(), self.ntp.clone());
        Ok(Subnet { prefix, pool, reserved, reserved_for, lease_secs, dns, domains, ntp })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(yaml: &str) -> Result<Config, SettingsError> {
        serde_yaml::from_str::<Settings>(yaml).unwrap().check()
    }

    #[test]
    fn what_cannot_work_is_told() {
        let net = |text: &str| text.parse().unwrap();
        let pool = |text: &str| text.parse::<Pool>().unwrap();
        let outside = |text: &str| SettingsError::Outside { pool: pool(text), prefix: net("fd00::/64") };
        for (yaml, fault) in [
            ("mode: stateless", SettingsError::NoSubnets),
            ("subnets: [{ prefix: '::/0' }, { prefix: fd00::/64 }]", SettingsError::Overlap(net("::/0"), net("fd00::/64"))),
            ("subnets: [{ prefix: fd00::/64, domains: [a..b] }]", SettingsError::Domain("a..b".into())),
            ("mode: server\nsubnets: [{ prefix: '::/0', pool: fd00::1-fd00::9 }]", SettingsError::NoLink(net("::/0"))),
            ("mode: server\nsubnets: [{ prefix: fd00::/64, pool: fd01::1-fd01::9 }]", outside("fd01::1-fd01::9")),
            ("mode: server\nsubnets: [{ prefix: fd00::/64, pool: 'fd00::1-fd01::' }]", outside("fd00::1-fd01::")),
            (
                "mode: server\nsubnets: [{ prefix: fd00::/64, pool: 'fd00::0-fd00::1:0' }]",
                SettingsError::TooLarge(pool("fd00::-fd00::1:0")),
            ),
            ("mode: stateless\nsubnets: [{ prefix: fd00::/64, pool: fd00::1-fd00::9 }]", SettingsError::NotLeased(net("fd00::/64"))),
            (
                "mode: stateless\nsubnets: [{ prefix: fd00::/64, reservations: [{ mac: 00:15:65:00:00:01, address: fd00::9 }] }]",
                SettingsError::NotLeased(net("fd00::/64")),
            ),
            (
                "subnets: [{ prefix: fd00::/64, reservations: [{ mac: 00:15:65:00:00:01, address: fd01::9 }] }]",
                SettingsError::ReservedOutside { address: "fd01::9".parse().unwrap(), prefix: net("fd00::/64") },
            ),
            (
                "subnets: [{ prefix: fd00::/64, reservations: [{ mac: 00:15:65:00:00:01, address: fd00::9 }, \
                 { mac: 00:15:65:00:00:02, address: fd00::9 }] }]",
                SettingsError::ReservedTwice("fd00::9".into()),
            ),
            (
                "mode: server\nsubnets: [{ prefix: fd00::/64, lease_secs: 59 }]",
                SettingsError::Number { what: "lease_secs", value: 59, allowed: "60 or more" },
            ),
            ("refresh_secs: 60", SettingsError::Number { what: "refresh_secs", value: 60, allowed: "600 or more" }),
        ] {
            assert_eq!(checked(yaml).err(), Some(fault), "{yaml}");
        }
        for text in ["fd00::1", "fd00::9-fd00::1", "10.0.0.1-10.0.0.9", "fd00::1-"] {
            assert!(text.parse::<Pool>().is_err(), "{text}");
        }
        let config = checked("mode: server\nsubnets: [{ prefix: fd00::/64, pool: 'fd00::-fd00::ffff' }, { prefix: fd01::/64 }]").unwrap();
        assert_eq!(config.subnets.iter().map(|subnet| subnet.pool.is_some()).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn relays_are_ours_or_next_to_us() {
        let is_answered = |config: &Config, address: &str| config.answers_relay(address.parse().unwrap());
        let config = checked("mode: stateless\nsubnets: [{ prefix: fd00:40::1/64 }]").unwrap();
        assert_eq!(["fd00:40::9", "fe80::1", "fd00:41::1"].map(|address| is_answered(&config, address)), [true, true, false]);
        let config = checked("mode: stateless\nsubnets: [{ prefix: '::/0' }]").unwrap();
        assert_eq!(["2001:db8::1", "fe80::1"].map(|address| is_answered(&config, address)), [false, true], "not everybody's");
        let config = checked("subnets: [{ prefix: fd00:40::/64 }]\nrelays: [fd00:41::/64]").unwrap();
        assert_eq!(["fd00:40::9", "fe80::1", "fd00:41::1"].map(|address| is_answered(&config, address)), [false, false, true]);
    }
}
