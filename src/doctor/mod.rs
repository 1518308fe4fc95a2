//! The network as a phone meets it: what is looked at, what that means, and how it is mended.
//!
//! Each check is a function of what was seen: `offers.rs` of the answers to a DISCOVER, `doors.rs` of a file that everybody may have,
//! `signalling.rs` of a SIP OPTIONS, `certificate.rs` of a handshake, `clock.rs` of times, `multicast.rs` of a SUBSCRIBE to everybody,
//! `machine.rs` of the server's own system. `worker.rs` looks. Nothing is left behind: an address is never taken (DISCOVER, no REQUEST).

pub mod certificate;
pub mod clock;
pub mod doors;
pub mod machine;
pub mod multicast;
pub mod offers;
pub mod signalling;
pub mod worker;

use std::net::IpAddr;

use serde::Serialize;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub area: Area,
    pub severity: Severity,
    /// What was seen, and what that means for phones; one line.
    pub says: String,
    /// What to do.
    pub remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    Dhcp,
    Files,
    Sip,
    Tls,
    Clock,
    Multicast,
    Machine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Good,
    /// May be meant so; or could not be looked at.
    Note,
    Wrong,
}

impl Area {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dhcp => "dhcp",
            Self::Files => "files",
            Self::Sip => "sip",
            Self::Tls => "tls",
            Self::Clock => "clock",
            Self::Multicast => "multicast",
            Self::Machine => "machine",
        }
    }

    fn good(self, says: impl Into<String>) -> Finding {
        Finding { area: self, severity: Severity::Good, says: says.into(), remedy: None }
    }

    fn note(self, says: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { area: self, severity: Severity::Note, says: says.into(), remedy: Some(remedy.into()) }
    }

    fn wrong(self, says: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { area: self, severity: Severity::Wrong, says: says.into(), remedy: Some(remedy.into()) }
    }
}

/// The Plugtone server that phones shall find: as its configuration says, or with the usual ports where that cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// All that are its own; the first is asked.
    pub addresses: Vec<IpAddr>,
    /// Host names that lead to it, as phones are told them.
    pub names: Vec<String>,
    pub tftp: Service,
    pub http: Service,
    pub https: Service,
    pub ftp: Service,
    pub sip_udp: Service,
    pub sip_tcp: Service,
    pub sip_tls: Service,
}

/// Ports of a service; none if it is off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    pub ports: Vec<u16>,
    /// They are of the configuration. Else they are a guess.
    pub sure: bool,
}

impl Service {
    pub fn sure(ports: impl IntoIterator<Item = u16>) -> Self {
        Self { ports: ports.into_iter().collect(), sure: true }
    }

    pub fn usual(ports: &[u16]) -> Self {
        Self { ports: ports.to_vec(), sure: false }
    }
}

impl Server {
    /// One of which nothing but the address is known.
    pub fn at(address: IpAddr) -> Self {
        Self {
            addresses: vec![address],
            names: Vec::new(),
            tftp: Service::usual(&[69]),
            http: Service::usual(&[80, 8080]),
            https: Service::usual(&[443]),
            ftp: Service::usual(&[21]),
            sip_udp: Service::usual(&[5060]),
            sip_tcp: Service::usual(&[5060]),
            sip_tls: Service::usual(&[5061]),
        }
    }

    pub fn is_at(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }
}

/// `a`, `a and b`, `a, b and c`.
fn listed<T: ToString>(list: impl IntoIterator<Item = T>) -> String {
    let mut words: Vec<String> = list.into_iter().map(|word| word.to_string()).collect();
    match words.pop() {
        None => String::new(),
        Some(last) if words.is_empty() => last,
        Some(last) => format!("{} and {last}", words.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Severity and text of each finding, for tables.
    pub fn told(findings: &[Finding]) -> String {
        findings.iter().map(|finding| format!("{:?}: {} / {:?}\n", finding.severity, finding.says, finding.remedy)).collect()
    }

    #[test]
    fn lists_read_as_people_write_them() {
        assert_eq!([listed([1]), listed([1, 2]), listed([1, 2, 3])], ["1", "1 and 2", "1, 2 and 3"]);
    }
}
