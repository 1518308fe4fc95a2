//! The `dhcp6:` section: as it is written ([`Settings`]) and as the server uses it ([`Config`]).
//!
//! [`Settings::check`] finds what cannot work before anything is served. Not here: which interfaces exist (`socket.rs` finds out when it
//! binds).

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};

use super::super::{class::domain, settings::NonPhones};

/// Options for phones, by IPv6.
#[derive(Clone, Debug, PartialEq, Deserialize, schemars::JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Dhcp6")]
pub struct Settings {
    /// `stateless`: routers give the addresses (SLAAC); phones that routers tell to ask (the flag O) hear where their files are, and name
    /// and time servers. `off`: no DHCPv6.
    pub mode: Mode,
    /// Network interfaces to serve, as `eth0.20`. Empty: every interface that has IPv6, and relays on any.
    pub interfaces: Vec<String>,
    /// The networks to serve, each by its own clients or through relays.
    pub subnets: Vec<SubnetSettings>,
    /// Networks of relays, as `2001:db8:1::/48`. Empty: relays with an address in one of the subnets (but for `::/0`), or
    /// next to us.
    #[schemars(with = "Vec<String>")]
    pub relays: Vec<Ipv6Net>,
    /// After how long phones without a lease ask again, in seconds, 600 or more.
    pub refresh_secs: u32,
    /// What everything that is not a phone gets: `serve` plain network settings, or `ignore`.
    pub non_phones: NonPhones,
    /// New clients served per minute and network (relay or interface); 0 is no limit. Those without a lease are new each time.
    pub new_clients_per_minute: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Off,
            interfaces: Vec::new(),
            subnets: Vec::new(),
            relays: Vec::new(),
            refresh_secs: 4 * 3600,
            non_phones: NonPhones::Serve,
            new_clients_per_minute: 1200,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Dhcp6Mode")]
pub enum Mode {
    Off,
    Stateless,
}

/// One network.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, schemars::JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Dhcp6Subnet")]
pub struct SubnetSettings {
    /// Its prefix, as `2001:db8:0:40::/64`. Where the provider changes it: `::/0`, which is everything.
    #[schemars(with = "String")]
    pub prefix: Ipv6Net,
    /// Name servers.
    pub dns: Vec<Ipv6Addr>,
    /// Domains in which names are looked for.
    pub domains: Vec<String>,
    /// Time servers. A phone with a wrong clock refuses certificates and shows the wrong day.
    pub ntp: Vec<Ipv6Addr>,
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
    pub refresh_secs: u32,
    pub non_phones: NonPhones,
    pub new_clients_per_minute: u32,
}

/// A checked [`SubnetSettings`].
#[derive(Clone, Debug)]
pub struct Subnet {
    pub prefix: Ipv6Net,
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

impl Settings {
    pub fn check(&self) -> Result<Config, SettingsError> {
        if self.refresh_secs < 600 {
            return Err(SettingsError::Number { what: "refresh_secs", value: self.refresh_secs, allowed: "600 or more" });
        }
        if self.mode != Mode::Off && self.subnets.is_empty() {
            return Err(SettingsError::NoSubnets);
        }
        let subnets = self.subnets.iter().map(SubnetSettings::check).collect::<Result<Vec<_>, _>>()?;
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
            refresh_secs: self.refresh_secs,
            non_phones: self.non_phones,
            new_clients_per_minute: self.new_clients_per_minute,
        })
    }
}

impl SubnetSettings {
    fn check(&self) -> Result<Subnet, SettingsError> {
        let mut domains = Vec::new();
        for name in &self.domains {
            domain(name, &mut domains).map_err(|_| SettingsError::Domain(name.clone()))?;
        }
        Ok(Subnet { prefix: self.prefix.trunc(), dns: self.dns.clone(), domains, ntp: self.ntp.clone() })
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
        for (yaml, fault) in [
            ("mode: stateless", SettingsError::NoSubnets),
            ("subnets: [{ prefix: '::/0' }, { prefix: fd00::/64 }]", SettingsError::Overlap(net("::/0"), net("fd00::/64"))),
            ("subnets: [{ prefix: fd00::/64, domains: [a..b] }]", SettingsError::Domain("a..b".into())),
            ("refresh_secs: 60", SettingsError::Number { what: "refresh_secs", value: 60, allowed: "600 or more" }),
        ] {
            assert_eq!(checked(yaml).err(), Some(fault), "{yaml}");
        }
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
