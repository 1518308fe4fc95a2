//! `dhcp`: who has which address of ours, how many are left; and, where ours cannot be the server, what other DHCP servers must say to
//! phones (for which the server need not run).

use std::net::{IpAddr, Ipv4Addr};

use clap::{Args, Subcommand, ValueEnum};

use super::{ConfigArg, ServerArg, out, table};
use crate::{
    api::leases::{Lease, Pool},
    node::{own_address, sip_ports},
    provisioning::{
        Endpoints,
        sheet::{Dialect, Sheet},
    },
    template::Templates,
};

/// Shows the leases, or helps another DHCP server to send phones here.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone dhcp leases
  plugtone dhcp pools
  plugtone dhcp sheet dnsmasq > /etc/dnsmasq.d/plugtone.conf
  plugtone dhcp sheet windows")]
pub struct Dhcp {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Leases(LeasesArgs),
    Pools(PoolsArgs),
    Sheet(SheetArgs),
}

/// Lists who has which address of ours: phones and others, IPv4 and IPv6.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone dhcp leases
  plugtone dhcp leases --all                      also what has expired, was given back, or is used by somebody else
  plugtone dhcp leases --json | jq -r '.[] | select(.family == null) | .mac'    who is no phone that we know")]
struct LeasesArgs {
    /// Not only those in use.
    #[arg(long, short)]
    all: bool,
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Shows how many addresses each pool has, and how many of them are leased.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone dhcp pools
  plugtone dhcp pools --json | jq '.[] | select(.leased > 0.9 * .addresses)'    where it gets tight

The metrics have the same: plugtone_dhcp_pool_addresses and plugtone_dhcp_pool_leased.")]
struct PoolsArgs {
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Prints the options that phones need, ready to paste into a DHCP server that must stay: for each make what it reads, where that
/// server can tell makes apart by vendor class or MAC.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone dhcp sheet dnsmasq > /etc/dnsmasq.d/plugtone.conf
  plugtone dhcp sheet isc --address 192.168.40.2 > /etc/dhcp/plugtone.conf
  plugtone dhcp sheet kea > /etc/kea/plugtone.json
  plugtone dhcp sheet windows                     PowerShell; `netsh` before Server 2012
  plugtone dhcp sheet cisco                       for the pool of the voice VLAN

Phones get no files by a lease of another server: name their network in `provisioning.open.subnets`.")]
struct SheetArgs {
    /// Whose language it is in: ISC dhcpd is `isc`, Windows by PowerShell `windows`, before Server 2012 `netsh`, Cisco IOS `cisco`.
    server: Server,
    /// The address at which phones reach this server; told by the configuration if absent.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<Ipv4Addr>,
    #[command(flatten)]
    config: ConfigArg,
}

#[derive(Clone, Copy, ValueEnum)]
enum Server {
    Dnsmasq,
    Isc,
    Kea,
    Windows,
    Netsh,
    Mikrotik,
    Pfsense,
    Cisco,
}

impl Dhcp {
    pub async fn run(self) -> anyhow::Result<()> {
        match self.action {
            Action::Leases(leases) => leases.run().await,
            Action::Pools(pools) => pools.run().await,
            Action::Sheet(sheet) => sheet.run(),
        }
    }
}

impl LeasesArgs {
    async fn run(self) -> anyhow::Result<()> {
        let path = if self.all { "/api/v1/dhcp/leases" } else { "/api/v1/dhcp/leases?active=true" };
        let row = |lease: &Lease| {
            let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            let state = if lease.state == "active" { format!("until {}", lease.expires) } else { lease.state.clone() };
            let name = lease.hostname.clone().unwrap_or_default();
            vec![lease.address.clone(), or_none(&lease.mac), or_none(&lease.family), state, or_none(&lease.port), name]
        };
        let titles = ["ADDRESS", "MAC", "FAMILY", "STATE", "PORT", "CALLS ITSELF"];
        let none = "nobody has an address of ours: `dhcp.subnets` says who would get one, `plugtone doctor` what phones meet";
        table::list(self.server, path, self.json, &titles, row, none).await
    }
}

impl PoolsArgs {
    async fn run(self) -> anyhow::Result<()> {
        let row = |pool: &Pool| {
            let full = (100 * pool.leased).checked_div(pool.addresses).map_or("-".to_owned(), |percent| format!("{percent} %"));
            let range = format!("{}-{}", pool.first, pool.last);
            vec![pool.subnet.clone(), range, pool.addresses.to_string(), pool.leased.to_string(), full]
        };
        let titles = ["SUBNET", "POOL", "ADDRESSES", "LEASED", "FULL"];
        let none = "no subnet has a `range`, nor a `pool` of IPv6: nobody gets an address unless one is reserved";
        table::list(self.server, "/api/v1/dhcp/pools", self.json, &titles, row, none).await
    }
}

impl SheetArgs {
    fn run(self) -> anyhow::Result<()> {
        let settings = self.config.load()?;
        let address = self.address.map_or_else(|| own_address(&settings), IpAddr::V4);
        anyhow::ensure!(
            !settings.provisioning.url.is_empty() || !address.is_loopback(),
            "nothing says at which address phones reach this server: add `--address 192.168.40.2`, or set `provisioning.url`"
        );
        let mut endpoints = Endpoints {
            address,
            tftp_port: settings.tftp.listen.first().map_or(69, |at| at.port()),
            sip: sip_ports(&settings),
            realm: settings.sip.realm.clone(),
            ..Endpoints::default()
        };
        endpoints.set_http(settings.http.doors());
        let templates = Templates::load(settings.templates.path.as_deref())?;
        let sheet = Sheet::new(&templates.current(), &settings.provisioning, &endpoints)?;
        out::text(&sheet.write(match self.server {
            Server::Dnsmasq => Dialect::Dnsmasq,
            Server::Isc => Dialect::Isc,
            Server::Kea => Dialect::Kea,
            Server::Windows => Dialect::Windows,
            Server::Netsh => Dialect::Netsh,
            Server::Mikrotik => Dialect::Mikrotik,
            Server::Pfsense => Dialect::Pfsense,
            Server::Cisco => Dialect::Cisco,
        }));
        Ok(())
    }
}
