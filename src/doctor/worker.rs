//! Looks at the network, one thing after the other, and tells each finding when it is there. Decides nothing.
//!
//! A part for each kind of looking in `worker/`; what was seen is judged beside this file.

mod certificate;
mod clock;
mod dhcp;
mod doors;
mod machine;
mod multicast;
mod sip;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use ipnet::Ipv4Net;

pub use machine::thresholds;

use super::{Area, Finding, Server, clock as times, doors::Door, multicast as everybody, offers, offers::Leases, signalling};
use crate::{dhcp::Interface, phone::make::MAKES, sip::Ids};

/// How long an answer is waited for that comes at once where all is well.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is looked at, and what is known of it beforehand.
#[derive(Clone, Debug)]
pub struct Examination {
    pub server: Server,
    /// The server runs on this machine.
    pub is_here: bool,
    /// Where DISCOVERs are sent.
    pub interfaces: Vec<Interface>,
    pub leases: Leases,
    /// The networks of the configuration, and how many addresses they lease.
    pub subnets: Vec<Ipv4Net>,
    pub addresses: u64,
    /// Time servers that the configuration names.
    pub ntp: Vec<Ipv4Addr>,
    /// What option 2 should say.
    pub offset_secs: Option<i32>,
    /// For FTP.
    pub login: (String, crate::model::Secret),
    /// The server listens for SIP plug and play.
    pub pnp: bool,
    /// Folder of the database, on the server's machine.
    pub folder: Option<PathBuf>,
    /// Connections that the configuration allows.
    pub connections: u64,
}

/// News of an examination.
#[derive(Clone, Debug)]
pub enum Progress {
    /// What is waited for now.
    Looking(String),
    Found(Finding),
}

/// Runs all checks; `tell` hears what happens.
pub async fn examine(examination: &Examination, tell: &mut dyn FnMut(Progress)) {
    let mut told = Vec::new();
    for interface in &examination.interfaces {
        told.extend(ask_for_addresses(examination, interface, tell).await);
    }
    look_at_files(examination, tell).await;
    let server_ms = look_at_signalling(examination, tell).await;
    look_at_clocks(examination, told, server_ms, tell).await;
    if examination.pnp {
        for interface in &examination.interfaces {
            tell(Progress::Looking(format!("asks everybody on {} where its settings are", interface.name)));
            match multicast::ask(interface).await {
                Ok(answered) => tell(Progress::Found(everybody::finding(&interface.name, &answered, &examination.server))),
                Err(error) => tell(Progress::Found(not_looked(Area::Multicast, &interface.name, &error))),
            }
        }
    }
    if examination.is_here {
        let seen = machine::look(examination);
        super::machine::findings(&seen).into_iter().for_each(|finding| tell(Progress::Found(finding)));
    }
}

fn not_looked(area: Area, what: &str, error: &std::io::Error) -> Finding {
    let remedy = match error.kind() {
        std::io::ErrorKind::PermissionDenied => "run this as root (CAP_NET_RAW)",
        _ => "say which interface by `--interface`; `ip link` lists them",
    };
    area.note(format!("{what} was not looked at: {error}"), remedy)
}

/// DISCOVERs on one interface; gives the time servers that phones are told.
async fn ask_for_addresses(examination: &Examination, interface: &Interface, tell: &mut dyn FnMut(Progress)) -> Vec<Ipv4Addr> {
    tell(Progress::Looking(format!("asks for an address on {}, as {} makes of phones", interface.name, MAKES.len())));
    let seen = match dhcp::discover(interface, MAKES).await {
        Ok(seen) => seen,
        Err(error) => {
            tell(Progress::Found(not_looked(Area::Dhcp, &format!("DHCP on {}", interface.name), &error)));
            return Vec::new();
        }
    };
    let mut resolved = HashMap::new();
    for host in offers::hosts(&seen) {
        let found = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host.as_str(), 0))).await;
        let addresses: Vec<IpAddr> = found.ok().and_then(Result::ok).map(|list| list.map(|at| at.ip()).collect()).unwrap_or_default();
        resolved.insert(host, addresses);
    }
    let expected = offers::Expected {
        server: &examination.server,
        leases: examination.leases,
        subnets: &examination.subnets,
        resolved: &resolved,
        offset_secs: examination.offset_secs,
    };
    offers::findings(&seen, &expected).into_iter().for_each(|finding| tell(Progress::Found(finding)));
    seen.offers.iter().flat_map(|offer| offer.packet.options.addresses(crate::dhcp::options::code::NTP)).collect()
}

/// Ports to try: all that are sure, or those of a guess until one answers.
async fn look_at_files(examination: &Examination, tell: &mut dyn FnMut(Progress)) {
    let server = &examination.server;
    let Some(address) = server.addresses.first().copied() else { return };
    for (door, service) in [(Door::Tftp, &server.tftp), (Door::Http, &server.http), (Door::Ftp, &server.ftp)] {
        let mut last = None;
        for port in &service.ports {
            tell(Progress::Looking(format!("fetches a file by {door} from {address} port {port}")));
            let fetch = doors::fetch(door, SocketAddr::new(address, *port), &examination.login).await;
            let finding = super::doors::finding(door, address, *port, service.sure, &fetch);
            let good = finding.severity != super::Severity::Wrong;
            match (service.sure, good) {
                (true, _) => tell(Progress::Found(finding)),
                (false, true) => {
                    last = Some(finding);
                    break;
                }
                (false, false) => last = last.or(Some(finding)),
            }
        }
        last.into_iter().for_each(|finding| tell(Progress::Found(finding)));
    }
}

/// SIP and TLS.
async fn look_at_signalling(examination: &Examination, tell: &mut dyn FnMut(Progress)) -> Option<i64> {
    let server = &examination.server;
    let address = server.addresses.first().copied()?;
    let mut ids = Ids::new(random());
    for (transport, service) in [("UDP", &server.sip_udp), ("TCP", &server.sip_tcp)] {
        for port in &service.ports {
            let at = SocketAddr::new(address, *port);
            tell(Progress::Looking(format!("asks for the abilities of {at} by SIP over {transport}")));
            let exchange = match transport {
                "UDP" => sip::ask_by_udp(at, &mut ids).await,
                _ => sip::ask_by_tcp(at, &mut ids).await,
            };
            match exchange {
                Ok(exchange) => signalling::findings(&exchange).into_iter().for_each(|finding| tell(Progress::Found(finding))),
                Err(error) => tell(Progress::Found(not_looked(Area::Sip, &format!("SIP by {transport} at {at}"), &error))),
            }
        }
    }
    for (key, service) in [("sip.tls", &server.sip_tls), ("http.tls", &server.https)] {
        for port in &service.ports {
            let at = SocketAddr::new(address, *port);
            tell(Progress::Looking(format!("looks at the certificate of {at}")));
            let shown = certificate::shown(at).await;
            let found = super::certificate::findings(at, &shown, now_ms() / 1000, server, (key, service.sure));
            found.into_iter().for_each(|finding| tell(Progress::Found(finding)));
        }
    }
    for port in &server.http.ports {
        if let Some(ms) = clock::of_http(SocketAddr::new(address, *port)).await {
            return Some(ms);
        }
    }
    None
}

async fn look_at_clocks(examination: &Examination, told: Vec<Ipv4Addr>, server_ms: Option<i64>, tell: &mut dyn FnMut(Progress)) {
    let mut asked: Vec<Ipv4Addr> = Vec::new();
    for address in told.into_iter().chain(examination.ntp.iter().copied()) {
        if !asked.contains(&address) {
            asked.push(address);
        }
    }
    let mut ntp = Vec::new();
    for address in asked {
        tell(Progress::Looking(format!("asks {address} for the time")));
        ntp.push((IpAddr::V4(address), clock::of_ntp(SocketAddr::from((address, 123))).await));
    }
    let seen = times::Seen { ntp, server_ms, is_here: examination.is_here };
    times::findings(&seen).into_iter().for_each(|finding| tell(Progress::Found(finding)));
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

fn random() -> [u8; 32] {
    let mut seed = [0; 32];
    // Without randomness of the system ids repeat, which is no harm for a few questions.
    let _ = getrandom::fill(&mut seed);
    seed
}

/// The address that packets to `server` leave from.
async fn local_for(server: SocketAddr) -> std::io::Result<IpAddr> {
    let any: SocketAddr = if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (std::net::Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = tokio::net::UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    Ok(socket.local_addr()?.ip())
}

/// The interface that leads to `server`.
pub async fn interface_to(server: IpAddr, interfaces: &[Interface]) -> Option<Interface> {
    let local = local_for(SocketAddr::new(server, 9)).await.ok()?;
    interfaces.iter().find(|interface| interface.addresses.iter().any(|address| IpAddr::V4(*address) == local)).cloned()
}
