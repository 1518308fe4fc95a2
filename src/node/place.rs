//! What settings say of this server's place: its addresses, names and ports, as phones are told them, and its folders.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{config::Settings, dhcp, fileserver, provisioning::Endpoints, template::SipPorts, tls};

/// Where phones would reach the services after a restart with these settings.
pub(super) fn reached_by(old: &Settings, new: &Settings, now: Endpoints) -> Endpoints {
    let port = |old: Option<&SocketAddr>, new: Option<&SocketAddr>, now: u16| match new {
        Some(at) if Some(at) != old && at.port() != 0 => at.port(),
        _ => now,
    };
    let sip = |is: fn(&Settings) -> &Vec<SocketAddr>, now: Option<u16>| match (is(new).first(), now) {
        (None, _) => None,
        (at, now) => Some(port(is(old).first(), at, now.unwrap_or(5060))),
    };
    // Port 0, which any free one took the place of, is the port that there is now.
    let mut written = Endpoints::default();
    written.set_http(new.http.doors());
    let same =
        |is: fn(&fileserver::http::Settings) -> &Vec<SocketAddr>| is(&old.http) == is(&new.http) && old.http.enabled == new.http.enabled;
    let (http, https) = (same(|http| &http.listen), same(|http| &http.tls));
    Endpoints {
        address: if own_address(new) == own_address(old) { now.address } else { own_address(new) },
        http_port: if http { now.http_port } else { written.http_port },
        http_port_v6: if http { now.http_port_v6 } else { written.http_port_v6 },
        https_port: if https { now.https_port } else { written.https_port },
        https_port_v6: if https { now.https_port_v6 } else { written.https_port_v6 },
        tftp_port: port(old.tftp.listen.first(), new.tftp.listen.first(), now.tftp_port),
        sip: SipPorts {
            udp: sip(|settings| &settings.sip.udp, now.sip.udp),
            tcp: sip(|settings| &settings.sip.tcp, now.sip.tcp),
            tls: sip(|settings| &settings.sip.tls, now.sip.tls),
        },
        realm: new.sip.realm.clone(),
        authority: authority(new),
    }
}

/// For phones whose request does not tell where it arrived: what we listen on, or our address in the first subnet.
pub fn own_address(settings: &Settings) -> IpAddr {
    let listens = settings.sip.udp.iter().chain(&settings.sip.tcp).map(SocketAddr::ip).find(|ip| !ip.is_unspecified());
    let in_subnet = || {
        let interfaces = dhcp::interfaces().ok()?;
        let addresses = interfaces.into_iter().flat_map(|interface| interface.addresses);
        let subnets = &settings.dhcp.subnets;
        addresses.into_iter().find(|address| subnets.iter().any(|subnet| subnet.cidr.contains(address))).map(IpAddr::V4)
    };
    listens.or_else(in_subnet).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

pub(super) fn folder_of(database: &Path) -> PathBuf {
    database.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// The certificate by these settings: for all names that phones are told.
pub(super) fn certificate_source(settings: &Settings, folder: PathBuf) -> tls::Source {
    settings.tls.source(folder, told_names(settings))
}

/// The names that the settings have for this server.
fn told_names(settings: &Settings) -> Vec<String> {
    let provisioning = &settings.provisioning;
    let of_url = provisioning.url.split_once("://").and_then(|(_, rest)| rest.parse::<axum::http::uri::Authority>().ok());
    let of_url = of_url.map(|authority| authority.host().to_owned());
    let of_sip = Some(provisioning.sip_host.clone()).filter(|host| !host.is_empty());
    settings.sip.external.iter().cloned().chain(of_sip).chain(of_url).collect()
}

/// Where phones reach SIP by these settings.
pub fn sip_ports(settings: &Settings) -> SipPorts {
    sip_ports_of([&settings.sip.udp, &settings.sip.tcp, &settings.sip.tls])
}

pub(super) fn sip_ports_of(listen: [&Vec<SocketAddr>; 3]) -> SipPorts {
    let [udp, tcp, tls] = listen.map(|addresses| addresses.first().map(SocketAddr::port));
    SipPorts { udp, tcp, tls }
}

/// What keeps a certificate that is had by ACME from being of use.
pub fn remarks_acme(settings: &Settings) -> Vec<String> {
    let Some(acme) = &settings.tls.acme else { return Vec::new() };
    let names = acme.certified_names();
    let mut remarks: Vec<String> = told_names(settings)
        .into_iter()
        .filter(|told| !names.contains(&told.trim_matches(['[', ']']).to_ascii_lowercase()))
        .map(|told| format!("phones are told the name {told}, which the certificate of `tls.acme` has not: add it to `tls.acme.names`"))
        .collect();
    if settings.provisioning.sip_host.is_empty()
        && settings.sip.external.is_none()
        && !names.iter().any(|name| name.parse::<IpAddr>().is_ok())
    {
        remarks.push(
            "phones are told the server's address, which the certificate of `tls.acme` has not: name one of its names in \
             `provisioning.sip_host`, and in `provisioning.url` for HTTPS"
                .to_owned(),
        );
    }
    if !settings.http.doors().0.iter().any(|at| at.port() == 80) {
        remarks
            .push("`tls.acme`: the authority asks at port 80, which is not in `http.listen`: forward that port to one that is".to_owned());
    }
    remarks
}

/// The authority that phones are given by these settings, in PEM, as it is on disk.
pub fn authority(settings: &Settings) -> Option<Arc<str>> {
    let doors = [&settings.sip.tls[..], &settings.sip.wss, settings.http.doors().1];
    let is_on = doors.iter().any(|listen| !listen.is_empty());
    is_on.then(|| certificate_source(settings, tls_folder(settings)).known_authority()).flatten().map(Arc::from)
}

/// Where the makers' firmware lies.
pub fn firmware_folder(settings: &Settings) -> PathBuf {
    settings.provisioning.firmware.clone().unwrap_or_else(|| folder_of(&settings.store.path).join("firmware"))
}

/// Where our own certificate authority lives.
pub(super) fn tls_folder(settings: &Settings) -> PathBuf {
    folder_of(&settings.store.path).join("tls")
}
