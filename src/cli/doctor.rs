//! `doctor`: looks at the network as phones do, and says in plain words what is wrong and how to mend it.

use std::{
    io::{IsTerminal, Write},
    net::{IpAddr, SocketAddr},
    path::Path,
    time::SystemTime,
};

use anyhow::Context;
use clap::Args;

use super::{
    ConfigArg,
    out::{self, say},
};
use crate::{
    config::Settings,
    dhcp::{self, Interface, settings::Mode},
    doctor::{
        Area, Finding, Server, Service, Severity, machine,
        offers::Leases,
        worker::{Examination, Progress, examine, interface_to, thresholds},
    },
    model::Secret,
    node::own_address,
};

/// Looks at the network as a phone of each make would, and says what is wrong and how to mend it: who answers DHCP and what it tells,
/// whether files and SIP get through, NAT, SIP ALG, certificates, clocks, and, on the server's machine, its system. Takes no address
/// and leaves nothing behind. Ends with status 1 where something is wrong.
#[derive(Args)]
#[command(after_help = "Examples:
  sudo plugtone doctor                                         on the server, by its configuration
  sudo plugtone doctor --server 192.168.40.2                   on any host in the phones' network
  sudo plugtone doctor --server 192.168.40.2 --interface eth0.40
  sudo plugtone doctor --json | jq -r '.[] | select(.severity == \"wrong\") | .says'

It hears DHCP as root only (CAP_NET_RAW); the rest works without.")]
pub struct Doctor {
    #[command(flatten)]
    config: ConfigArg,
    /// Where the Plugtone server is; no configuration is read then. Without it: on this machine.
    #[arg(long, value_name = "ADDRESS")]
    server: Option<IpAddr>,
    /// Ask for addresses on this interface only. Without it: on those in `dhcp.subnets`, or on the one that leads to the server.
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Print what was found as JSON.
    #[arg(long)]
    json: bool,
}

/// The remark on the table of neighbours, where it is too small for the networks of the configuration.
pub fn neighbours(config: &dhcp::Config) -> Option<(String, String)> {
    machine::neighbours(machine::addresses(config), thresholds()?)
}

impl Doctor {
    pub async fn run(self) -> anyhow::Result<()> {
        let all = dhcp::interfaces().context("cannot list the network interfaces")?;
        let mut examination = match self.server {
            Some(server) => elsewhere(server, &all).await,
            None => here(&self.config.load()?, &self.config.config, &all)?,
        };
        if let Some(name) = &self.interface {
            let found = all.iter().find(|interface| interface.name == *name);
            let names = || all.iter().map(|interface| interface.name.as_str()).collect::<Vec<_>>().join(", ");
            examination.interfaces = vec![found.with_context(|| format!("there is no interface '{name}'; there are {}", names()))?.clone()];
        }
        let mut report = Report::new(self.json);
        if examination.interfaces.is_empty() {
            report.take(Progress::Found(Finding {
                area: Area::Dhcp,
                severity: Severity::Note,
                says: "no address was asked for: the phones are on this machine only, or no interface leads to them".into(),
                remedy: Some("name one by `--interface`".into()),
            }));
        }
        examine(&examination, &mut |progress| report.take(progress)).await;
        report.end()
    }
}

/// By an address alone.
async fn elsewhere(server: IpAddr, all: &[Interface]) -> Examination {
    let interface = interface_to(server, all).await.filter(|interface| !interface.addresses.iter().any(|address| address.is_loopback()));
    Examination {
        server: Server::at(server),
        is_here: false,
        interfaces: interface.into_iter().collect(),
        leases: Leases::Unknown,
        subnets: Vec::new(),
        addresses: 0,
        ntp: Vec::new(),
        offset_secs: None,
        login: ("PlcmSpIp".into(), Secret::new("PlcmSpIp")),
        pnp: false,
        folder: None,
        connections: 0,
    }
}

/// By the configuration of the server on this machine.
fn here(settings: &Settings, file: &Path, all: &[Interface]) -> anyhow::Result<Examination> {
    let dhcp = settings.dhcp.check().with_context(|| format!("{}", file.display()))?;
    let own = own_address(settings);
    let addresses = all.iter().flat_map(|interface| interface.addresses.iter().copied()).map(IpAddr::V4);
    let addresses = std::iter::once(own).chain(addresses.filter(|address| *address != own)).collect();
    let ports = |enabled: bool, listen: &[SocketAddr]| Service::sure(listen.iter().filter(|_| enabled).map(SocketAddr::port));
    let url_host = settings.provisioning.url.parse::<hyper::Uri>().ok().and_then(|url| url.host().map(str::to_owned));
    let names = url_host.into_iter().chain([settings.provisioning.sip_host.clone()]).chain(settings.sip.external.clone());
    let server = Server {
        addresses,
        names: names.filter(|name| !name.is_empty()).collect(),
        tftp: ports(settings.tftp.enabled, &settings.tftp.listen),
        http: ports(true, settings.http.doors().0),
        https: ports(true, settings.http.doors().1),
        ftp: ports(settings.ftp.enabled, &settings.ftp.listen),
        sip_udp: ports(true, &settings.sip.udp),
        sip_tcp: ports(true, &settings.sip.tcp),
        sip_tls: ports(true, &settings.sip.tls),
    };
    let offset = dhcp.time_zone.as_ref().and_then(|zone| {
        let now = jiff::Timestamp::try_from(SystemTime::now()).ok()?;
        Some(zone.to_offset(now).seconds())
    });
    let connections = settings.sip.max_connections + settings.http.max_connections + settings.ftp.max_connections;
    Ok(Examination {
        server,
        is_here: true,
        interfaces: interfaces_of(&dhcp, all),
        leases: if dhcp.mode == Mode::Server && dhcp.is_active() { Leases::Ours } else { Leases::Another },
        subnets: dhcp.subnets.iter().map(|subnet| subnet.cidr).collect(),
        addresses: machine::addresses(&dhcp),
        ntp: dhcp.subnets.iter().flat_map(|subnet| subnet.ntp.iter().copied()).collect(),
        offset_secs: offset,
        login: (settings.ftp.user.clone(), settings.ftp.password.clone()),
        pnp: settings.provisioning.pnp,
        folder: settings.store.path.parent().map(Path::to_owned),
        connections: connections as u64,
    })
}

/// Those that phones are behind: in a subnet of the configuration; else all that lead anywhere.
fn interfaces_of(dhcp: &dhcp::Config, all: &[Interface]) -> Vec<Interface> {
    if dhcp.loopback {
        return Vec::new();
    }
    if !dhcp.interfaces.is_empty() {
        return all.iter().filter(|interface| dhcp.interfaces.contains(&interface.name)).cloned().collect();
    }
    let in_subnet =
        |interface: &&Interface| interface.addresses.iter().any(|address| dhcp.subnets.iter().any(|subnet| subnet.cidr.contains(address)));
    let found: Vec<_> = all.iter().filter(in_subnet).cloned().collect();
    if !found.is_empty() {
        return found;
    }
    let leads = |interface: &&Interface| interface.addresses.iter().any(|address| !address.is_loopback());
    all.iter().filter(leads).cloned().collect()
}

/// Prints findings as they come; or all at the end, as JSON.
struct Report {
    json: bool,
    /// Where something is waited for is shown to who watches.
    watched: bool,
    colour: bool,
    found: Vec<Finding>,
}

impl Report {
    fn new(json: bool) -> Self {
        Self { json, watched: std::io::stderr().is_terminal(), colour: out::may_colour(&std::io::stdout()), found: Vec::new() }
    }

    fn take(&mut self, progress: Progress) {
        match progress {
            Progress::Looking(at) => self.show(&format!("… {at}")),
            Progress::Found(finding) => {
                if !self.json {
                    self.show("");
                    say!("{}", line(&finding, self.colour));
                    if let Some(remedy) = &finding.remedy {
                        say!("                 {remedy}");
                    }
                }
                self.found.push(finding);
            }
        }
    }

    /// On a line that the next one takes the place of.
    fn show(&self, text: &str) {
        if self.watched {
            eprint!("\r\x1b[K{text}");
            let _ = std::io::stderr().flush();
        }
    }

    fn end(self) -> anyhow::Result<()> {
        self.show("");
        if self.json {
            out::json(&self.found)?;
        }
        match self.found.iter().filter(|finding| finding.severity == Severity::Wrong).count() {
            0 if self.json => Ok(()),
            0 => {
                say!("all is well");
                Ok(())
            }
            1 => anyhow::bail!("1 thing is wrong"),
            many => anyhow::bail!("{many} things are wrong"),
        }
    }
}

fn line(finding: &Finding, colour: bool) -> String {
    let (word, code) = match finding.severity {
        Severity::Good => ("good", 32),
        Severity::Note => ("note", 33),
        Severity::Wrong => ("wrong", 31),
    };
    let word = if colour { format!("\x1b[{code}m{word:<5}\x1b[0m") } else { format!("{word:<5}") };
    format!("{:<9}  {word}  {}", finding.area.as_str(), finding.says)
}
