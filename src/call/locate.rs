//! Where the servers of a provider are (RFC 3263): what is asked of name servers, and in which order what they say is tried.
//! Pure; who asks is `worker/names.rs`.
//!
//! ```text
//!  192.0.2.5, sip.example.com:5062     no SRV: that address, that port
//!  sip.example.com                     _sip._udp.sip.example.com, and where there is none, its addresses and the usual port
//! ```
//! How a provider is spoken to is written in its trunk, so that NAPTR is not asked (RFC 3263 §4.1).

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::routing::settings::Transport;

/// Where is this host?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub host: String,
    pub port: Option<u16>,
    pub transport: Transport,
}

/// One server, as an SRV record names it (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Lower is tried first.
    pub priority: u16,
    /// Of those with the same priority each gets so much of the calls.
    pub weight: u16,
    pub port: u16,
    pub addresses: Vec<IpAddr>,
}

/// What name servers say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub servers: Vec<Server>,
    /// How long it may be believed; `None`: for ever, as no name was asked.
    pub ttl: Option<Duration>,
}

impl Question {
    /// The name whose SRV records are asked. `None`: there is a port, or no name (RFC 3263 §4.2).
    pub fn service(&self) -> Option<String> {
        if self.port.is_some() || self.host.parse::<IpAddr>().is_ok() {
            return None;
        }
        let service = match self.transport {
            Transport::Udp => "_sip._udp",
            Transport::Tcp => "_sip._tcp",
            Transport::Tls => "_sips._tcp",
        };
        Some(format!("{service}.{}", self.host))
    }

    /// The answer where no SRV record counts.
    pub fn plain(&self, addresses: Vec<IpAddr>, ttl: Option<Duration>) -> Found {
        let usual = if self.transport == Transport::Tls { 5061 } else { 5060 };
        Found { servers: vec![Server { priority: 0, weight: 0, port: self.port.unwrap_or(usual), addresses }], ttl }
    }
}

impl Found {
    /// In the order in which they are tried. `dice`: a number below the one that it is given.
    pub fn in_order(mut self, mut dice: impl FnMut(u32) -> u32) -> Vec<SocketAddr> {
        // RFC 2782: those with a weight of 0 stand first, so that they are chosen by a 0 only.
        self.servers.sort_by_key(|server| (server.priority, server.weight > 0));
        let mut order = Vec::new();
        while let Some(priority) = self.servers.first().map(|first| first.priority) {
            let same = self.servers.iter().take_while(|server| server.priority == priority);
            let sum = same.map(|server| u32::from(server.weight)).sum::<u32>();
            let chosen = dice(sum + 1);
            let mut running = 0;
            let at = self.servers.iter().position(|server| {
                running += u32::from(server.weight);
                running >= chosen
            });
            let server = self.servers.remove(at.unwrap_or(0));
            order.extend(server.addresses.into_iter().map(|address| SocketAddr::new(address, server.port)));
        }
        let mut seen = Vec::new();
        order.retain(|address| {
            !seen.contains(address) && {
                seen.push(*address);
                true
            }
        });
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_port_is_looked_up_by_its_service() {
        for (host, port, transport, service, usual) in [
            ("192.0.2.5", None, Transport::Udp, None, 5060),
            ("2001:db8::5", None, Transport::Tls, None, 5061),
            ("sip.example.com", Some(5062), Transport::Udp, None, 5062),
            ("example.com", None, Transport::Udp, Some("_sip._udp.example.com"), 5060),
            ("example.com", None, Transport::Tcp, Some("_sip._tcp.example.com"), 5060),
            ("example.com", None, Transport::Tls, Some("_sips._tcp.example.com"), 5061),
        ] {
            let question = Question { host: host.into(), port, transport };
            assert_eq!(question.service().as_deref(), service, "{host}");
            let plain = question.plain(vec![[192, 0, 2, 5].into()], None).in_order(|_| 0);
            assert_eq!(plain, [SocketAddr::from(([192, 0, 2, 5], usual))], "{host}");
        }
    }

    /// Servers as `priority weight last-byte`, and the order for these throws of the dice.
    fn order(servers: &[(u16, u16, u8)], throws: &[u32]) -> Vec<u8> {
        let servers = servers.iter().map(|&(priority, weight, last)| Server {
            priority,
            weight,
            port: 5060,
            addresses: vec![[192, 0, 2, last].into()],
        });
        let mut throws = throws.iter().copied();
        let found = Found { servers: servers.collect(), ttl: None };
        let last = |at: SocketAddr| match at.ip() {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(_) => 0,
        };
        found.in_order(|below| throws.next().unwrap_or(0).min(below - 1)).into_iter().map(last).collect()
    }

    #[test]
    fn servers_are_tried_by_priority_and_chosen_by_weight() {
        for (servers, throws, expected) in [
            // Priority first, whatever the weights.
            (&[(20, 100, 2), (10, 0, 1), (30, 5, 3)][..], &[][..], &[1, 2, 3][..]),
            // 30 of 100, then what is left: 60 of 70, then the last.
            (&[(1, 10, 1), (1, 30, 2), (1, 60, 3)], &[40, 70], &[2, 3, 1]),
            (&[(1, 10, 1), (1, 30, 2), (1, 60, 3)], &[0, 0], &[1, 2, 3]),
            (&[(1, 10, 1), (1, 30, 2), (1, 60, 3)], &[10, 31], &[1, 3, 2]),
            (&[(1, 10, 1), (1, 30, 2), (1, 60, 3)], &[100, 40], &[3, 2, 1]),
            // A weight of 0 has a chance only where the dice shows 0.
            (&[(1, 5, 1), (1, 0, 2)], &[1], &[1, 2]),
            (&[(1, 5, 1), (1, 0, 2)], &[0], &[2, 1]),
            // One server under two names is one server.
            (&[(1, 0, 1), (2, 0, 1), (3, 0, 2)], &[], &[1, 2]),
            (&[], &[], &[]),
        ] {
            assert_eq!(order(servers, throws), expected, "{servers:?} {throws:?}");
        }
    }

    #[test]
    fn calls_are_shared_out_as_weights_say() {
        let mut dice = crate::sip::Ids::new([7; 32]);
        let mut firsts = [0; 3];
        for _ in 0..1000 {
            let server = |weight, last| Server { priority: 1, weight, port: 5060, addresses: vec![[192, 0, 2, last].into()] };
            let found = Found { servers: vec![server(10, 0), server(30, 1), server(60, 2)], ttl: None };
            let first = found.in_order(|below| (dice.next_u64() % u64::from(below)) as u32)[0];
            let IpAddr::V4(ip) = first.ip() else { panic!() };
            firsts[usize::from(ip.octets()[3])] += 1;
        }
        let [few, some, most] = firsts;
        assert!((60..140).contains(&few) && (240..360).contains(&some) && (540..660).contains(&most), "{firsts:?}");
    }
}
