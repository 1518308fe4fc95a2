//! What works, and for which makes, beside a DHCP server that must stay: said before a phone shows it. Pure.

use ipnet::{IpNet, Ipv6Net};

use super::settings::Settings;
use crate::{
    dhcp::{self, settings::Mode},
    template::{Family, TemplateSet},
};

/// For the administrator, one line each; nothing where our server is the one that leases.
pub fn remarks(set: &TemplateSet, dhcp: &dhcp::Config, settings: &Settings) -> Vec<String> {
    if dhcp.mode != Mode::Beside {
        return Vec::new();
    }
    let mut remarks = Vec::new();
    let bare = || dhcp.subnets.iter().filter(|subnet| !subnet.leases()).map(|subnet| subnet.cidr);
    let networks = bare().map(|cidr| cidr.to_string()).collect::<Vec<_>>().join(", ");
    if networks.is_empty() {
        return remarks;
    }
    let makes = |asks: bool| {
        let wanted = |family: &&Family| family.capabilities.inform == asks;
        set.families().filter(wanted).map(|family| &*family.id).collect::<Vec<_>>().join(", ")
    };
    remarks.push(format!("in {networks} no address is leased; phones are answered when they ask by DHCPINFORM"));
    remarks.push(format!(
        "{} ask by DHCPINFORM when the answer of the server that leased names no file server; one server alone may answer them",
        makes(true)
    ));
    remarks.push(format!(
        "{} take options only from the server that leased: give it what `plugtone dhcp sheet` prints, or give the subnet a `range` \
         that is not the other server's, to lease to phones",
        makes(false)
    ));
    let ask = |family: &&Family| family.answers_pnp();
    let asking = set.families().filter(ask).map(|family| &*family.id).collect::<Vec<_>>().join(", ");
    remarks.push(match settings.pnp {
        true => format!("{asking} ask by multicast, too (SIP plug and play), and are answered in the networks that this machine is in"),
        false => format!("{asking} ask by multicast, too (SIP plug and play): `provisioning.pnp` answers them"),
    });
    let closed = bare().any(|cidr| !settings.open.subnets.iter().any(|open| open.contains(&ipnet::IpNet::V4(cidr))));
    remarks.extend(match (closed, settings.url_tokens) {
        (false, _) => None,
        (true, true) => Some(
            "phones without a lease of ours get their files by the key in the URL that DHCPINFORM brings them; those that learn the \
             URL elsewhere need their network in `provisioning.open.subnets`"
                .to_owned(),
        ),
        (true, false) => Some(format!(
            "phones without a lease of ours get no files: switch `provisioning.url_tokens` on, which puts a key into the answers to \
             DHCPINFORM, or name {networks} in `provisioning.open.subnets`"
        )),
    });
    remarks
}

/// The same for DHCPv6: who asks for settings only has an address that proves nothing. `http`: is there HTTP by IPv6?
pub fn remarks_v6(dhcp: &dhcp::v6::Config, settings: &Settings, http: bool) -> Vec<String> {
    use dhcp::v6::settings::Mode;
    let mut remarks = Vec::new();
    if dhcp.mode == Mode::Off {
        return remarks;
    }
    if !http && settings.url.is_empty() {
        remarks.push("`http.listen` names no IPv6 address, so phones are sent to TFTP: add `[::]:80`".to_owned());
    }
    let closed = |prefix: Ipv6Net| !settings.open.subnets.iter().any(|open| open.contains(&IpNet::V6(prefix)));
    let without_pool = dhcp.subnets.iter().filter(|subnet| subnet.pool.is_none());
    let closed = without_pool.map(|subnet| subnet.prefix).filter(|prefix| closed(*prefix));
    let networks = closed.map(|prefix| prefix.to_string()).collect::<Vec<_>>().join(", ");
    if !settings.url_tokens && !networks.is_empty() {
        remarks.push(format!(
            "phones that have their address from a router get no files: switch `provisioning.url_tokens` on, which puts a key into \
             the URL that DHCPv6 tells them, or name {networks} in `provisioning.open.subnets`"
        ));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::shipped;

    #[test]
    fn who_is_found_and_who_gets_files_is_said() {
        let set = TemplateSet::load(&shipped()).unwrap_or_else(|faults| panic!("{faults:?}"));
        let said = |dhcp: &str, provisioning: &str| {
            let dhcp = serde_yaml::from_str::<dhcp::Settings>(dhcp).unwrap().check().unwrap();
            remarks(&set, &dhcp, &serde_yaml::from_str(provisioning).unwrap()).join("\n")
        };
        const BARE: &str = "{ mode: beside, subnets: [{ cidr: 10.0.0.0/24 }] }";
        for (story, dhcp, provisioning, told) in [
            ("the only server", "subnets: [{ cidr: 10.0.0.0/24, range: 10.0.0.9-10.0.0.99 }]", "{}", ""),
            ("a range of our own", "{ mode: beside, subnets: [{ cidr: 10.0.0.0/24, range: 10.0.0.9-10.0.0.99 }] }", "{}", ""),
            ("nothing is open", BARE, "{}", "get no files: switch `provisioning.url_tokens` on"),
            ("another network is open", BARE, "open: { subnets: [10.0.0.0/25] }", "or name 10.0.0.0/24 in `provisioning.open.subnets`"),
            ("keys", BARE, "url_tokens: true", "those that learn the URL elsewhere need their network"),
            ("an open network", BARE, "open: { subnets: [10.0.0.0/16] }", "grandstream"),
        ] {
            let said = said(dhcp, provisioning);
            assert!(if told.is_empty() { said.is_empty() } else { said.contains(told) }, "{story}: {said}");
        }
        let open = said(BARE, "open: { subnets: [10.0.0.0/16] }");
        assert!(open.contains("poly") && open.contains("yealink") && !open.contains("get no files"), "{open}");
    }

    #[test]
    fn phones_that_ask_by_ipv6_need_a_door_and_a_key() {
        let said = |dhcp: &str, provisioning: &str, http: bool| {
            let dhcp = serde_yaml::from_str::<dhcp::v6::Settings>(dhcp).unwrap().check().unwrap();
            remarks_v6(&dhcp, &serde_yaml::from_str(provisioning).unwrap(), http).join("\n")
        };
        let stateless = "{ mode: stateless, subnets: [{ prefix: fd00:40::/64 }] }";
        for (dhcp, provisioning, http, lines, word) in [
            ("{ mode: off }", "{}", false, 0, ""),
            (stateless, "{}", false, 2, "[::]:80"),
            ("{ mode: server, subnets: [{ prefix: 'fd00:40::/64' }] }", "{}", true, 1, "name fd00:40::/64 in"),
            ("{ mode: server, subnets: [{ prefix: 'fd00:40::/64', pool: 'fd00:40::1-fd00:40::9' }] }", "{}", true, 0, ""),
            (stateless, "{}", true, 1, "name fd00:40::/64 in"),
            (stateless, "{ url_tokens: true }", true, 0, ""),
            (stateless, "{ url_tokens: true, url: 'https://files.example' }", false, 0, ""),
            (stateless, "{ open: { subnets: [fd00::/16] } }", true, 0, ""),
        ] {
            let said = said(dhcp, provisioning, http);
            assert!(said.lines().count() == lines && said.contains(word), "{dhcp} {provisioning}: {said}");
        }
    }
}
