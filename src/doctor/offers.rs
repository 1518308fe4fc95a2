//! Who answers a DISCOVER, and whether each make learns from it where its files are.
//!
//! Judged are offers as they came, by what a make reads first ([`Make::server_options`]); of which address and network they speak; and
//! whether one server answers, or a second that nobody knows of. Not here: asking (`worker/dhcp.rs`), a server that answers NAK.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::Ipv4Net;

use super::{Area, Finding, Server, Service, Severity, listed};
use crate::{
    dhcp::options::{Packet, code},
    model::{MacAddr, hex},
    phone::{boot, make::Make},
};

/// Cisco's list of TFTP servers.
const TFTP_SERVERS: u8 = 150;
const SHORT_LEASE_SECS: u32 = 120;
const LONG_LEASE_SECS: u32 = 14 * 86_400;

/// What came of asking on one interface.
#[derive(Clone, Debug)]
pub struct Seen {
    pub interface: String,
    pub makes: Vec<Make>,
    pub offers: Vec<Offer>,
}

#[derive(Clone, Debug)]
pub struct Offer {
    /// As what was asked; `None`: as this computer, by its own hardware address.
    pub make: Option<Make>,
    /// Whose frame it was: the server's, or its relay's.
    pub hardware: MacAddr,
    pub packet: Packet,
}

impl Offer {
    /// Option 54; the router of a relayed answer has no other name either.
    pub fn server(&self) -> Ipv4Addr {
        self.packet.options.address(code::SERVER_ID).unwrap_or(self.packet.head.siaddr)
    }
}

/// Who shall be the DHCP server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leases {
    Ours,
    Another,
    /// Nobody has told.
    Unknown,
}

/// What the offers are held against.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub server: &'a Server,
    pub leases: Leases,
    /// Of the configuration; empty if there is none.
    pub subnets: &'a [Ipv4Net],
    /// What the names of [`hosts`] lead to here.
    pub resolved: &'a HashMap<String, Vec<IpAddr>>,
    /// The offset from UTC that option 2 should tell, in seconds.
    pub offset_secs: Option<i32>,
}

/// Host names in offers, to be looked up.
pub fn hosts(seen: &Seen) -> BTreeSet<String> {
    let named = seen.offers.iter().filter_map(|offer| {
        let (_, value) = first_option(offer.make.as_ref()?, &offer.packet)?;
        let host = Place::read(&text_of(&value)?, offer.make.as_ref()?.default_scheme)?.host;
        host.parse::<IpAddr>().is_err().then_some(host)
    });
    named.collect()
}

pub fn findings(seen: &Seen, expected: &Expected<'_>) -> Vec<Finding> {
    let mut servers: BTreeMap<Ipv4Addr, Vec<&Offer>> = BTreeMap::new();
    for offer in &seen.offers {
        servers.entry(offer.server()).or_default().push(offer);
    }
    if servers.is_empty() {
        return vec![nobody(seen, expected)];
    }
    let mut found = who(seen, &servers, expected);
    for (server, offers) in &servers {
        // Of a stranger it is enough that it is there.
        if expected.leases == Leases::Ours && !expected.server.is_at(IpAddr::V4(*server)) {
            continue;
        }
        let complaints =
            [unanswered(seen, *server, offers), network(*server, offers, expected), options(*server, offers, expected)].concat();
        if complaints.iter().all(|complaint| complaint.severity < Severity::Wrong) {
            found.push(Area::Dhcp.good(format!("{server} tells all {} makes of phones where their files are", seen.makes.len())));
        }
        found.extend(complaints);
    }
    found
}

fn nobody(seen: &Seen, expected: &Expected<'_>) -> Finding {
    let remedy = match expected.leases {
        Leases::Ours => {
            "is `plugtone serve` running, `dhcp.interfaces` right, and UDP 67 open in this machine's firewall? On another host: is it in the \
             phones' VLAN, or does the router there relay DHCP to the server (`ip helper-address`)? Switches with DHCP snooping let answers \
             pass from trusted ports only"
        }
        _ => {
            "is this host in the phones' VLAN, and does a DHCP server or a relay stand there? Switches with DHCP snooping let answers pass \
             from trusted ports only, and drop questions whose hardware address is not the sender's"
        }
    };
    Area::Dhcp.wrong(format!("nobody answers a DISCOVER on {}: a phone would get no address", seen.interface), remedy)
}

/// One server, or more than one.
fn who(seen: &Seen, servers: &BTreeMap<Ipv4Addr, Vec<&Offer>>, expected: &Expected<'_>) -> Vec<Finding> {
    let on = &seen.interface;
    let ours = servers.keys().find(|server| expected.server.is_at(IpAddr::V4(**server)));
    let named = |server: Ipv4Addr, offers: &[&Offer]| {
        let hardware: BTreeSet<_> = offers.iter().map(|offer| offer.hardware).collect();
        format!("{server} (hardware address {})", listed(hardware))
    };
    let find = "the switch knows the port of that hardware address (`show mac address-table address …`)";
    let stranger = |server: &Ipv4Addr, offers: &Vec<&Offer>| {
        let named = named(*server, offers);
        match ours {
            Some(ours) => Area::Dhcp.wrong(
                format!("a second DHCP server answers on {on} beside {ours}: {named}; phones that hear it first get what it says"),
                format!("switch its DHCP off: {find}. If it must stay, set `dhcp.mode: beside` and give it what `plugtone dhcp sheet` prints"),
            ),
            None => Area::Dhcp.wrong(
                format!("another DHCP server answers on {on}, and ours does not: {named}"),
                format!(
                    "start `plugtone serve` (or look why it is silent there), and switch the other's DHCP off: {find}. If it must stay, set \
                     `dhcp.mode: beside` and give it what `plugtone dhcp sheet` prints"
                ),
            ),
        }
    };
    let strangers = || servers.iter().filter(|(server, _)| !expected.server.is_at(IpAddr::V4(**server)));
    let one = |server: &Ipv4Addr, offers: &Vec<&Offer>| {
        let addresses: BTreeSet<_> = offers.iter().filter_map(|offer| network_of(&offer.packet)).collect();
        Area::Dhcp.good(format!("{} answers on {on} and leases in {}", named(*server, offers), listed(addresses)))
    };
    match expected.leases {
        Leases::Ours => {
            let good = ours.and_then(|ours| Some(one(ours, servers.get(ours)?)));
            good.into_iter().chain(strangers().map(|(server, offers)| stranger(server, offers))).collect()
        }
        // We may have a small range of our own beside the other.
        Leases::Another | Leases::Unknown
            if strangers().count() + usize::from(expected.leases == Leases::Unknown && ours.is_some()) > 1 =>
        {
            let all = listed(servers.iter().map(|(server, offers)| named(*server, offers)));
            vec![Area::Dhcp.wrong(
                format!("more than one DHCP server answers on {on}: {all}; what a phone gets is a matter of luck"),
                format!("leave one of them on: {find}"),
            )]
        }
        Leases::Another | Leases::Unknown => servers.iter().map(|(server, offers)| one(server, offers)).collect(),
    }
}

/// What is wrong for one make. The same for many makes is told once.
struct Complaint {
    severity: Severity,
    says: String,
    remedy: &'static str,
    make: &'static str,
    /// Of this make only.
    detail: String,
}

fn gather(complaints: Vec<Complaint>) -> Vec<Finding> {
    let mut groups: Vec<(Complaint, Vec<String>)> = Vec::new();
    for complaint in complaints {
        let who =
            if complaint.detail.is_empty() { complaint.make.to_owned() } else { format!("{} ({})", complaint.make, complaint.detail) };
        match groups.iter_mut().find(|(first, _)| first.says == complaint.says && first.severity == complaint.severity) {
            Some((_, makes)) if !makes.contains(&who) => makes.push(who),
            Some(_) => {}
            None => groups.push((complaint, vec![who])),
        }
    }
    let finding = |(complaint, makes): (Complaint, Vec<String>)| Finding {
        area: Area::Dhcp,
        severity: complaint.severity,
        says: format!("{}: {}", complaint.says, makes.join(", ")),
        remedy: Some(complaint.remedy.to_owned()),
    };
    groups.into_iter().map(finding).collect()
}

fn unanswered(seen: &Seen, server: Ipv4Addr, offers: &[&Offer]) -> Vec<Finding> {
    let answered = |name: &str| offers.iter().any(|offer| offer.make.is_some_and(|make| make.name == name));
    let without: Vec<_> = seen.makes.iter().map(|make| make.name).filter(|name| !answered(name)).collect();
    if without.is_empty() {
        return Vec::new();
    }
    if without.len() == seen.makes.len() {
        return vec![Area::Dhcp.wrong(
            format!("{server} answers this computer and no make of phone"),
            "does it lease to known hardware addresses only? Or a switch with DHCP snooping drops questions whose hardware address is not \
             the sender's (Cisco: `no ip dhcp snooping verify mac-address`)",
        )];
    }
    vec![Area::Dhcp.wrong(
        format!("{server} answers other makes, and not {}", listed(without)),
        "are its addresses used up, or do its classes or policies leave these out?",
    )]
}

// --- the address and its network

fn mask_of(packet: &Packet) -> Option<Ipv4Addr> {
    packet.options.address(code::SUBNET_MASK)
}

fn network_of(packet: &Packet) -> Option<Ipv4Net> {
    Ipv4Net::with_netmask(packet.head.yiaddr, mask_of(packet)?).ok().map(|network| network.trunc())
}

fn network(server: Ipv4Addr, offers: &[&Offer], expected: &Expected<'_>) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    for offer in offers {
        for finding in one_network(server, &offer.packet, expected) {
            if !found.contains(&finding) {
                found.push(finding);
            }
        }
    }
    found
}

fn one_network(server: Ipv4Addr, packet: &Packet, expected: &Expected<'_>) -> Vec<Finding> {
    let (options, address) = (&packet.options, packet.head.yiaddr);
    let mut found = Vec::new();
    let mut wrong = |says: String, remedy: &str| found.push(Area::Dhcp.wrong(says, remedy));
    if options.damaged {
        wrong(
            format!("{server} sends a packet in which an option is longer than what is left"),
            "look at the options that were written as hex there",
        );
    }
    for (option, name) in
        [(code::ROUTER, "router"), (code::DNS, "name servers"), (code::NTP, "time servers"), (TFTP_SERVERS, "TFTP servers")]
    {
        if options.get(option).is_some_and(|value| value.is_empty() || value.len() % 4 != 0) {
            wrong(
                format!("{server} sends option {option} ({name}) which is no list of addresses"),
                "write addresses there, four bytes each",
            );
        }
    }
    let Some(network) = network_of(packet) else {
        wrong(format!("{server} offers {address} without a valid mask (option 1): phones then guess one"), "add the subnet mask there");
        return found;
    };
    if !expected.subnets.is_empty() && !expected.subnets.iter().any(|subnet| subnet.contains(&address)) {
        wrong(
            format!("{server} offers an address of {network}, which is none of `dhcp.subnets` ({})", listed(expected.subnets)),
            "is this the wrong VLAN? Set the voice VLAN on the switch port, or add the network to `dhcp.subnets`",
        );
    }
    let router = options.addresses(code::ROUTER).first().copied();
    let far = |address: &IpAddr| matches!(address, IpAddr::V4(address) if !network.contains(address) && !address.is_loopback());
    match router {
        Some(router) if !network.contains(&router) => {
            wrong(
                format!("{server} names the router {router}, which is not in {network}: phones cannot reach it"),
                "correct the router (option 3) there",
            );
        }
        Some(router) if router == address => {
            wrong(format!("{server} offers {address}, the router's own address"), "exclude it from the range there")
        }
        None if expected.server.addresses.first().is_some_and(|_| expected.server.addresses.iter().all(far)) => {
            let at = listed(expected.server.addresses.first());
            wrong(
                format!("{server} names no router, and {at} is not in {network}: phones cannot reach it"),
                "add the router (option 3) there",
            );
        }
        _ => {}
    }
    match options.u32(code::LEASE_TIME) {
        None => wrong(format!("{server} offers {address} without a time (option 51): many phones refuse that"), "add the lease time there"),
        Some(secs) if secs < SHORT_LEASE_SECS => found.push(Area::Dhcp.note(
            format!("{server} leases for {secs} s: every phone asks again each {} s", secs / 2),
            "some hours are usual; minutes only where many strangers come and go",
        )),
        Some(secs) if secs > LONG_LEASE_SECS => found.push(Area::Dhcp.note(
            format!(
                "{server} leases for {} days: phones hear of changed options only after half of that, or when they are restarted",
                secs / 86_400
            ),
            "8 hours are usual",
        )),
        Some(_) => {}
    }
    if let (Some(told), Some(offset)) = (options.u32(code::TIME_OFFSET), expected.offset_secs)
        && told as i32 != offset
    {
        found.push(Area::Clock.wrong(
            format!("{server} tells phones a time zone {} from UTC (option 2), and it is {} here", hours(told as i32), hours(offset)),
            "correct option 2 there, twice a year where there is daylight saving; or leave it out, as phones' files have the time zone",
        ));
    }
    found
}

fn hours(secs: i32) -> String {
    format!("{}{}:{:02} h", if secs < 0 { '-' } else { '+' }, secs.abs() / 3600, secs.abs() % 3600 / 60)
}

// --- where the files are

/// The option that a make reads first of those that are there.
fn first_option(make: &Make, packet: &Packet) -> Option<(u8, Vec<u8>)> {
    let value = |code: &u8| packet.options.get(*code).filter(|value| !value.is_empty()).map(|value| (*code, value.to_vec()));
    // The simulated phone leaves 150 out, which has no port; a real one reads it first.
    let first: &[u8] = if make.knows_tftp_alone() { &[TFTP_SERVERS] } else { &[] };
    first.iter().chain(make.server_options).find_map(value)
}

/// As a phone reads it, without NUL at the end; `None` if it is no text.
fn text_of(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?.trim_end_matches('\0');
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// Where an option leads.
struct Place {
    scheme: &'static str,
    host: String,
    port: u16,
}

impl Place {
    fn read(value: &str, default_scheme: &str) -> Option<Self> {
        // The simulated phones speak no HTTPS; real ones do.
        let (plain, secure) = match (value.trim().strip_prefix("https://"), value.trim().starts_with("TLSSRVR=")) {
            (Some(rest), _) => (format!("http://{rest}"), true),
            // Avaya's option 242.
            (None, true) => {
                (value.trim().replace("TLSSRVR=", "HTTPSRVR=").replace("TLSPORT=", "HTTPPORT=").replace("TLSDIR=", "HTTPDIR="), true)
            }
            (None, false) => (value.to_owned(), false),
        };
        let server = boot::Server::parse(&plain, default_scheme).ok()?;
        let in_host = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        if !server.host.chars().all(in_host) {
            return None;
        }
        let scheme = match (server.scheme, secure) {
            (_, true) => "https",
            (boot::Scheme::Http, _) => "http",
            (boot::Scheme::Tftp, _) => "tftp",
            (boot::Scheme::Ftp, _) => "ftp",
        };
        let port = if secure && server.port == 80 { 443 } else { server.port };
        Some(Self { scheme, host: server.host, port })
    }
}

fn options(server: Ipv4Addr, offers: &[&Offer], expected: &Expected<'_>) -> Vec<Finding> {
    let of_make = offers.iter().filter_map(|offer| Some((offer.make?, &offer.packet)));
    gather(of_make.flat_map(|(make, packet)| of_one_make(server, &make, packet, expected)).collect())
}

fn of_one_make(server: Ipv4Addr, make: &Make, packet: &Packet, expected: &Expected<'_>) -> Vec<Complaint> {
    let complaint =
        |says: String, remedy: &'static str, detail: String| Complaint { severity: Severity::Wrong, says, remedy, make: make.name, detail };
    let Some((code, value)) = first_option(make, packet) else {
        let wanted: Vec<_> = make.server_options.iter().map(u8::to_string).collect();
        return vec![complaint(
            format!("{server} does not tell where the files are; these makes find no server by DHCP"),
            "give it the options that `plugtone dhcp sheet` prints for it (dnsmasq, ISC, Kea, Windows, MikroTik, pfSense, Cisco IOS)",
            format!("option {}", wanted.join(" or ")),
        )];
    };
    let no_url = |shown: String| {
        complaint(
            format!("option {code} of {server} is neither a host nor a URL: {shown}"),
            "write it without quotes, as http://192.168.40.2:8080; `plugtone dhcp sheet` prints it for your DHCP server",
            String::new(),
        )
    };
    if code == TFTP_SERVERS {
        let list = packet.options.addresses(code);
        let strange = list.iter().find(|address| !expected.server.is_at(IpAddr::V4(**address)));
        let told = strange.map(|address| elsewhere(server, make, code, &address.to_string()));
        return told.into_iter().collect();
    }
    let Some(text) = text_of(&value) else { return vec![no_url(hex(&value[..value.len().min(40)]))] };
    let mut found = Vec::new();
    if value.ends_with(&[0]) {
        found.push(Complaint {
            severity: Severity::Note,
            ..complaint(
                format!("option {code} of {server} ends with a NUL byte, as dnsmasq always writes it; firmware that does not cut it off asks for wrong names"),
                "good if phones find their files; else write the option as plain text in a server that sends it so",
                String::new(),
            )
        });
    }
    let Some(place) = Place::read(&text, make.default_scheme) else {
        found.push(no_url(format!("'{}'", text.chars().take(80).collect::<String>())));
        return found;
    };
    let led = match place.host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) if expected.server.names.iter().any(|name| name.eq_ignore_ascii_case(&place.host)) => expected.server.addresses.clone(),
        Err(_) => expected.resolved.get(&place.host).cloned().unwrap_or_default(),
    };
    if led.is_empty() {
        found.push(complaint(
            format!("option {code} of {server} names the host {}, which no name server knows", place.host),
            "write the address instead, or enter the name in the name server that phones are told (option 6)",
            String::new(),
        ));
    } else if !led.iter().any(|address| expected.server.is_at(*address)) {
        found.push(elsewhere(server, make, code, &text));
    } else if let Some(service) = service(expected.server, place.scheme)
        && service.sure
        && !service.ports.contains(&place.port)
    {
        let says = match service.ports.is_empty() {
            true => format!(
                "option {code} of {server} sends phones to {text}, and files are not served by {} here",
                place.scheme.to_uppercase()
            ),
            false => format!(
                "option {code} of {server} sends phones to port {} by {}, and files are at {}",
                place.port,
                place.scheme.to_uppercase(),
                listed(&service.ports)
            ),
        };
        found.push(complaint(says, "correct the option there, or `listen` of that service in the configuration", String::new()));
    }
    found
}

/// `None`: not ours to know, as a proxy before us may speak it.
fn service<'a>(server: &'a Server, scheme: &str) -> Option<&'a Service> {
    match scheme {
        "tftp" => Some(&server.tftp),
        "ftp" => Some(&server.ftp),
        "http" => Some(&server.http),
        "https" => Some(&server.https).filter(|https| !https.ports.is_empty()),
        _ => None,
    }
}

fn elsewhere(server: Ipv4Addr, make: &Make, code: u8, to: &str) -> Complaint {
    Complaint {
        severity: Severity::Wrong,
        says: format!("option {code} of {server} sends phones to {to}, which is not the Plugtone server"),
        remedy: "correct the option there; `plugtone dhcp sheet` prints what it should be",
        make: make.name,
        detail: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dhcp::options::{Head, encode},
        doctor::tests::told,
        phone::make::MAKES,
    };

    const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

    /// What a server with everything in order offers.
    fn options(server: Ipv4Addr, make: &Make) -> Vec<(u8, Vec<u8>)> {
        let address = |address: Ipv4Addr| address.octets().to_vec();
        let mut list = vec![
            (code::MESSAGE_TYPE, vec![2]),
            (code::SUBNET_MASK, vec![255, 255, 255, 0]),
            (code::ROUTER, address(US)),
            (code::LEASE_TIME, 28_800u32.to_be_bytes().to_vec()),
            (code::SERVER_ID, address(server)),
        ];
        let url = if make.family == "avaya_j" { "HTTPSRVR=10.0.0.1,HTTPPORT=8080" } else { "http://10.0.0.1:8080" };
        list.push((make.server_options[0], url.into()));
        list
    }

    fn offer(make: &Make, options: &[(u8, Vec<u8>)]) -> Offer {
        let mut head = Head::request(7, make.mac(1));
        (head.op, head.yiaddr) = (Head::REPLY, Ipv4Addr::new(10, 0, 0, 100));
        let packet = Packet::parse(&encode(&head, options, 1500).bytes).unwrap();
        Offer { make: Some(*make), hardware: MacAddr([2, 0, 0, 0, 0, 9]), packet }
    }

    fn office() -> Server {
        Server {
            addresses: vec![US.into()],
            names: vec!["prov.example".into()],
            tftp: Service::sure([69]),
            http: Service::sure([80, 8080]),
            https: Service::sure([]),
            ..Server::at(US.into())
        }
    }

    fn judge(leases: Leases, offers: Vec<Offer>) -> Vec<Finding> {
        let resolved = HashMap::from([("www.example".to_owned(), vec!["10.0.0.77".parse().unwrap()])]);
        let (server, subnets) = (office(), ["10.0.0.0/24".parse().unwrap()]);
        let expected = Expected { server: &server, leases, subnets: &subnets, resolved: &resolved, offset_secs: Some(3600) };
        findings(&Seen { interface: "eth0".into(), makes: MAKES.to_vec(), offers }, &expected)
    }

    fn from(server: Ipv4Addr) -> Vec<Offer> {
        MAKES.iter().map(|make| offer(make, &options(server, make))).collect()
    }

    #[test]
    fn one_server_that_tells_everybody_is_good() {
        let found = judge(Leases::Ours, from(US));
        assert!(found.len() == 2 && found.iter().all(|finding| finding.severity == Severity::Good), "{}", told(&found));
        assert!(told(&found).contains("10.0.0.1 (hardware address 02:00:00:00:00:09) answers on eth0 and leases in 10.0.0.0/24"));
    }

    #[test]
    fn who_answers_is_as_it_should_be_or_not() {
        for (story, leases, offers, says) in [
            ("nobody", Leases::Ours, vec![], "nobody answers a DISCOVER on eth0"),
            (
                "a second",
                Leases::Ours,
                [from(US), from(OTHER)].concat(),
                "a second DHCP server answers on eth0 beside 10.0.0.1: 10.0.0.9 (hardware",
            ),
            ("only another", Leases::Ours, from(OTHER), "another DHCP server answers on eth0, and ours does not: 10.0.0.9"),
            ("two others", Leases::Another, [from(Ipv4Addr::new(10, 0, 0, 8)), from(OTHER)].concat(), "more than one DHCP server"),
            ("two, and nobody knows whose", Leases::Unknown, [from(US), from(OTHER)].concat(), "more than one DHCP server"),
            ("all but one make", Leases::Ours, from(US).split_off(1), "10.0.0.1 answers other makes, and not yealink"),
        ] {
            let found = told(&judge(leases, offers));
            assert!(found.contains(says) && found.contains("Wrong"), "{story}: {found}");
        }
        for (story, leases, offers) in [
            ("the other that must stay", Leases::Another, from(OTHER)),
            ("and we beside it", Leases::Another, [from(US), from(OTHER)].concat()),
            ("the only one", Leases::Unknown, from(OTHER)),
        ] {
            let found = judge(leases, offers);
            assert!(found.iter().all(|finding| finding.severity == Severity::Good), "{story}: {}", told(&found));
        }
    }

    #[test]
    fn what_an_offer_lacks_or_says_wrongly_is_named() {
        let yealink = Make::of("yealink").unwrap();
        let url = |url: &str| Some(url.as_bytes().to_vec());
        for (story, code, value, says) in [
            (
                "no file server",
                66,
                None,
                "does not tell where the files are; these makes find no server by DHCP: yealink (option 66 or 43)",
            ),
            ("a NUL", 66, url("http://10.0.0.1:8080\0"), "Note: option 66 of 10.0.0.1 ends with a NUL byte"),
            ("quotes", 66, url("\"http://10.0.0.1:8080\""), "neither a host nor a URL: '\"http"),
            ("hex of something", 66, Some(vec![1, 4, 10, 0, 0, 1]), "neither a host nor a URL: 01040a000001"),
            ("another host", 66, url("http://10.9.9.9"), "sends phones to http://10.9.9.9, which is not the Plugtone server: yealink"),
            ("a name for another host", 66, url("http://www.example"), "sends phones to http://www.example, which is not"),
            ("a name that nobody knows", 66, url("http://nowhere.example"), "the host nowhere.example, which no name server knows"),
            ("another port", 66, url("http://10.0.0.1:8081/"), "to port 8081 by HTTP, and files are at 80 and 8080"),
            ("no mask", code::SUBNET_MASK, None, "without a valid mask"),
            ("a router elsewhere", code::ROUTER, Some(vec![10, 0, 1, 1]), "the router 10.0.1.1, which is not in 10.0.0.0/24"),
            ("half a router", code::ROUTER, Some(vec![10, 0]), "option 3 (router) which is no list of addresses"),
            ("no time", code::LEASE_TIME, None, "without a time (option 51)"),
            ("a short time", code::LEASE_TIME, Some(vec![0, 0, 0, 60]), "Note: 10.0.0.1 leases for 60 s"),
            ("a long time", code::LEASE_TIME, Some(vec![255; 4]), "Note: 10.0.0.1 leases for 49710 days"),
            (
                "another time zone",
                code::TIME_OFFSET,
                Some((-18_000i32).to_be_bytes().to_vec()),
                "-5:00 h from UTC (option 2), and it is +1:00 h",
            ),
        ] {
            let mut list = options(US, &yealink);
            list.retain(|(option, _)| *option != code);
            list.extend(value.map(|value| (code, value)));
            let offers = from(US).into_iter().skip(1).chain([offer(&yealink, &list)]).collect();
            let found = told(&judge(Leases::Ours, offers));
            assert!(found.contains(says), "{story}: {found}");
        }
        for good in ["http://prov.example:8080/x", "10.0.0.1", "https://10.0.0.1", "tftp://10.0.0.1/", "TLSSRVR=10.0.0.1,TLSPORT=443"] {
            let mut list = options(US, &yealink);
            list.retain(|(option, _)| *option != 66);
            list.push((66, good.into()));
            let offers = from(US).into_iter().skip(1).chain([offer(&yealink, &list)]).collect();
            assert!(judge(Leases::Ours, offers).iter().all(|finding| finding.severity == Severity::Good), "{good}");
        }
    }

    #[test]
    fn an_address_of_another_network_is_the_wrong_vlan() {
        let mut offers = from(US);
        for offer in &mut offers {
            offer.packet.head.yiaddr = Ipv4Addr::new(192, 168, 1, 50);
        }
        let found = told(&judge(Leases::Another, offers));
        assert!(found.contains("an address of 192.168.1.0/24, which is none of `dhcp.subnets` (10.0.0.0/24)"), "{found}");
    }

    #[test]
    fn makes_with_the_same_complaint_are_told_once() {
        let bare = MAKES.iter().map(|make| {
            let mut list = options(US, make);
            list.pop();
            offer(make, &list)
        });
        let found = judge(Leases::Unknown, bare.collect());
        let wrong: Vec<_> = found.iter().filter(|finding| finding.severity == Severity::Wrong).collect();
        assert_eq!(wrong.len(), 1, "{}", told(&found));
        assert!(wrong[0].says.contains("yealink (option 66 or 43), poly (option 160 or 66)"), "{}", wrong[0].says);
    }
}
