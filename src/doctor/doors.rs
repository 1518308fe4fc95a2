//! The doors to the files, TFTP, HTTP and FTP, by a file that everybody may have: what an answer, or none, means.
//!
//! "Not found" is an answer too: the way is open. Not here: fetching (`worker/doors.rs`).

use std::{fmt, net::IpAddr};

use super::{Area, Finding};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Tftp,
    Http,
    Ftp,
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tftp => "TFTP",
            Self::Http => "HTTP",
            Self::Ftp => "FTP",
        })
    }
}

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetch {
    Got {
        bytes: usize,
    },
    /// Answered, without the file: what was said.
    Missing(String),
    /// By the machine: nobody listens there, or a firewall says so.
    Refused,
    Silent,
    /// TFTP by another address than the one that was asked.
    From(IpAddr),
    /// The question came through, what it was about did not.
    Stuck(String),
}

/// `sure`: the configuration says that it is there.
pub fn finding(door: Door, server: IpAddr, port: u16, sure: bool, fetch: &Fetch) -> Finding {
    let area = Area::Files;
    let (protocol, key) = match door {
        Door::Tftp => ("UDP", "tftp"),
        Door::Http => ("TCP", "http"),
        Door::Ftp => ("TCP", "ftp"),
    };
    let more = match door {
        // RFC 1350 §4: each transfer has a port of its own.
        Door::Tftp => {
            ", and UDP from any port of the server back: data comes from another port than 69, which a firewall knows by its helper for TFTP"
        }
        Door::Ftp => ", and the ports of `ftp.passive_ports`",
        Door::Http => "",
    };
    match fetch {
        Fetch::Got { bytes } => area.good(format!("{door} at {server} port {port} gives files ({bytes} bytes came)")),
        Fetch::Missing(said) => area.note(
            format!("{door} at {server} port {port} answers, and has no file of those that everybody may have: {said}"),
            "good where templates of your own name files otherwise; else: is it Plugtone that listens there?",
        ),
        Fetch::Refused => area.wrong(
            format!("nobody listens at {server} port {port} for {door}"),
            match sure {
                true => format!("is `plugtone serve` running there? `ss -lnp sport = :{port}` on the server says who listens"),
                false => format!(
                    "is `{key}.enabled` true in the server's configuration, and its `listen` this port? Else say here which, by `--config`"
                ),
            },
        ),
        Fetch::Silent => area.wrong(
            format!("{door} at {server} port {port} does not answer: blocked by a firewall, or the server is not there"),
            format!("open {protocol} {port} from the phones' network to {server}{more}"),
        ),
        Fetch::From(other) => area.wrong(
            format!("{door} was asked at {server} and answers from {other}: phones drop that"),
            "does NAT or a load balancer stand between? Name the address that answers in the options, or let TFTP be served there directly",
        ),
        Fetch::Stuck(said) => area.wrong(
            format!("{door} at {server} port {port} answers, and then nothing comes: {said}"),
            format!("open {protocol} {port}{more}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{Severity, tests::told};

    #[test]
    fn each_outcome_says_what_to_open_or_to_start() {
        for (door, port, sure, fetch, severity, says, remedy) in [
            (Door::Tftp, 69, true, Fetch::Got { bytes: 12 }, Severity::Good, "TFTP at 10.0.0.1 port 69 gives files (12 bytes came)", None),
            (Door::Tftp, 69, true, Fetch::Silent, Severity::Wrong, "blocked by a firewall", Some("open UDP 69")),
            (Door::Tftp, 69, true, Fetch::From("10.0.0.2".parse().unwrap()), Severity::Wrong, "answers from 10.0.0.2", Some("NAT")),
            (Door::Http, 8080, true, Fetch::Refused, Severity::Wrong, "nobody listens at 10.0.0.1 port 8080", Some("plugtone serve")),
            (Door::Http, 80, false, Fetch::Refused, Severity::Wrong, "nobody listens", Some("`http.enabled`")),
            (Door::Ftp, 21, true, Fetch::Stuck("227".into()), Severity::Wrong, "then nothing comes: 227", Some("`ftp.passive_ports`")),
            (
                Door::Http,
                80,
                true,
                Fetch::Missing("404".into()),
                Severity::Note,
                "no file of those that everybody may have: 404",
                Some("Plugtone"),
            ),
        ] {
            let found = finding(door, "10.0.0.1".parse().unwrap(), port, sure, &fetch);
            let fits = found.severity == severity && found.says.contains(says);
            assert!(fits && remedy.is_none_or(|part| found.remedy.as_ref().is_some_and(|text| text.contains(part))), "{}", told(&[found]));
        }
    }
}
