//! The `sip` section of the configuration: what was written, and what it means after a check.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{digest, digest::Algorithm, endpoint, guard, registrar, subscription, transport};

/// SIP: where phones reach the server, and how they log in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Addresses for UDP. `0.0.0.0:5060` is every IPv4 address; add `[::]:5060` for IPv6. Port 0 takes any free one.
    pub udp: Vec<SocketAddr>,
    /// Addresses for TCP; an empty list switches it off.
    pub tcp: Vec<SocketAddr>,
    /// Addresses for TLS, as `0.0.0.0:5061`. The certificate is that of `tls`.
    pub tls: Vec<SocketAddr>,
    /// Addresses for WebSocket (RFC 7118), for soft phones in browsers, as `0.0.0.0:5066`.
    pub ws: Vec<SocketAddr>,
    /// The same over TLS, which browsers want from any page that came by https.
    pub wss: Vec<SocketAddr>,
    /// Web pages whose scripts may connect by WebSocket, as `https://phone.example.com`; an empty list allows all.
    pub ws_origins: Vec<String>,
    /// Host name or address that phones reach the server by, where it is not the address that they talk to: behind a port
    /// forwarding, or for phones that insist on a name. Usually empty.
    pub external: Option<String>,
    /// Names the server in the digest challenge. All passwords change with it: phones then need their files again.
    pub realm: String,
    /// Digest algorithms in the order of the challenges: `MD5`, `SHA-256`, `SHA-512-256`. Old phones look at the first only, some
    /// (baresip 1.0) give up when they see one that they do not know: add `SHA-256` when all of yours know it.
    pub algorithms: Vec<Algorithm>,
    /// How long a nonce may be used, in seconds.
    pub nonce_secs: u32,
    /// The shortest registration, in seconds; a phone that asks for less is told this number.
    pub min_expires_secs: u32,
    /// The longest registration, in seconds; a phone that asks for more gets this.
    pub max_expires_secs: u32,
    /// For phones that ask for nothing, in seconds.
    pub default_expires_secs: u32,
    /// Registrations are granted for up to so many hundredths less than asked for, a little different for each phone, so that
    /// phones that came back together after a power cut do not refresh together for ever. 0 to 50.
    pub expires_jitter_percent: u8,
    /// Wrong passwords of one user name from one address within a minute, after which that name gets no answer there for
    /// `ban_secs`. Never a name that has logged in from there. 0 bans nobody.
    pub max_failures: u32,
    /// The same for all names from one address together. Never an address from which anybody has logged in.
    pub max_failures_per_source: u32,
    /// How long a ban lasts, in seconds.
    pub ban_secs: u32,
    /// Phones per extension that may be registered at once.
    pub max_contacts_per_user: usize,
    /// Registered phones in all.
    pub max_contacts: usize,
    /// What phones watch (busy lamps, messages waiting), in all. The bounds of expiry are those of registrations.
    pub max_subscriptions: usize,
    /// What one phone may watch, its key modules included.
    pub max_subscriptions_per_device: usize,
    /// Requests being worked on or remembered at once; beyond it phones are told to come back later (503).
    pub max_transactions: usize,
    /// Connections at once, of TCP, TLS and WebSocket together.
    pub max_connections: usize,
    /// Connections from one address.
    pub max_connections_per_source: usize,
    /// Messages a second from one address, on average over ten seconds. A phone sends a few. What is more is dropped, or read
    /// later where it comes by a connection. 0: no limit.
    pub max_messages_per_source: u32,
    /// Networks that this limit is not for: gateways, proxies, this computer.
    #[schemars(with = "Vec<String>")]
    pub unlimited_sources: Vec<IpNet>,
    /// A connection without a message or keep-alive for so many seconds is closed.
    pub idle_secs: u32,
}

impl Default for Settings {
    fn default() -> Self {
        let everywhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 5060);
        let (registrar, verifier) = (registrar::Config::default(), digest::verifier::Config::default());
        let subscriptions = subscription::Config::default();
        let guard = guard::Config::default();
        Self {
            udp: vec![everywhere],
            tcp: vec![everywhere],
            tls: vec![],
            ws: vec![],
            wss: vec![],
            ws_origins: vec![],
            external: None,
            realm: verifier.realm,
            algorithms: verifier.algorithms,
            nonce_secs: verifier.nonce_life.as_secs() as u32,
            min_expires_secs: registrar.min_expires.as_secs() as u32,
            max_expires_secs: registrar.max_expires.as_secs() as u32,
            default_expires_secs: registrar.default_expires.as_secs() as u32,
            expires_jitter_percent: registrar.jitter_percent,
            max_failures: guard.failures,
            max_failures_per_source: guard.failures_of_source,
            ban_secs: guard.ban.as_secs() as u32,
            max_contacts_per_user: registrar.max_per_user,
            max_contacts: registrar.max_contacts,
            max_subscriptions: subscriptions.max,
            max_subscriptions_per_device: subscriptions.max_per_device,
            max_transactions: endpoint::Config::default().max_transactions,
            max_connections: 20_000,
            max_connections_per_source: 100,
            max_messages_per_source: 500,
            unlimited_sources: [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)].map(this_computer).into(),
            idle_secs: 3700,
        }
    }
}

fn this_computer(ip: IpAddr) -> IpNet {
    // 127.0.0.0/8 is all of it, ::1 alone is.
    IpNet::new(ip, if ip.is_ipv4() { 8 } else { 128 }).map_or(IpNet::from(ip), |net| net.trunc())
}

/// What of the section cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("sip: there is no address to listen on: write one under `udp` or `tcp`, as 0.0.0.0:5060")]
    NoListener,
    #[error("sip.realm: '{0}' will not do: write a short name without quotes, as plugtone")]
    Realm(String),
    #[error("sip.algorithms: the list is empty: write [MD5]")]
    NoAlgorithm,
    #[error("sip.external: '{0}' is no host: write a name or an address without port, as pbx.example.com")]
    External(String),
    #[error("sip: min_expires_secs ≤ default_expires_secs ≤ max_expires_secs does not hold ({0}, {1}, {2})")]
    Expires(u32, u32, u32),
    #[error("sip.ws_origins: '{0}' is no origin: write scheme and host as browsers do, as https://phone.example.com")]
    Origin(String),
    #[error("sip.expires_jitter_percent: {0} is too much: write 0 to 50")]
    Jitter(u8),
    #[error("sip.{0}: 0 would let nobody in: write at least 1")]
    Zero(&'static str),
}

/// The section, checked and cut up for those who use it.
#[derive(Clone, Debug)]
pub struct Config {
    pub endpoint: endpoint::Config,
    pub verifier: digest::verifier::Config,
    pub registrar: registrar::Config,
    pub subscriptions: subscription::Config,
    pub guard: guard::Config,
    pub transports: transport::Config,
}

/// Proxies and home routers forget a silent connection after a minute.
const WEB_PING: Duration = Duration::from_secs(25);
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
const MESSAGE_TIME: Duration = Duration::from_secs(20);

impl Settings {
    pub fn check(&self) -> Result<Config, SettingsError> {
        if [&self.udp, &self.tcp, &self.tls, &self.ws, &self.wss].into_iter().all(Vec::is_empty) {
            return Err(SettingsError::NoListener);
        }
        if self.realm.is_empty() || self.realm.len() > 64 || self.realm.chars().any(|c| c.is_control() || matches!(c, '"' | '\\')) {
            return Err(SettingsError::Realm(self.realm.clone()));
        }
        if self.algorithms.is_empty() {
            return Err(SettingsError::NoAlgorithm);
        }
        if let Some(host) = &self.external
            && !matches!(super::uri::split_host_port(host), Ok((_, None)))
        {
            return Err(SettingsError::External(host.clone()));
        }
        let is_origin = |origin: &&String| origin.split_once("://").is_some_and(|(_, host)| !host.is_empty() && !host.contains('/'));
        if let Some(origin) = self.ws_origins.iter().find(|origin| !is_origin(origin)) {
            return Err(SettingsError::Origin(origin.clone()));
        }
        let (min, default, max) = (self.min_expires_secs, self.default_expires_secs, self.max_expires_secs);
        if !(1 <= min && min <= default && default <= max) {
            return Err(SettingsError::Expires(min, default, max));
        }
        if self.expires_jitter_percent > 50 {
            return Err(SettingsError::Jitter(self.expires_jitter_percent));
        }
        for (name, value) in [
            ("ban_secs", self.ban_secs as usize),
            ("max_contacts_per_user", self.max_contacts_per_user),
            ("max_contacts", self.max_contacts),
            ("max_subscriptions", self.max_subscriptions),
            ("max_subscriptions_per_device", self.max_subscriptions_per_device),
            ("max_transactions", self.max_transactions),
            ("max_connections", self.max_connections),
            ("max_connections_per_source", self.max_connections_per_source),
            ("nonce_secs", self.nonce_secs as usize),
            ("idle_secs", self.idle_secs as usize),
        ] {
            if value == 0 {
                return Err(SettingsError::Zero(name));
            }
        }
        let secs = |secs: u32| Duration::from_secs(u64::from(secs));
        Ok(Config {
            endpoint: endpoint::Config {
                external: self.external.clone(),
                max_transactions: self.max_transactions,
                ..endpoint::Config::default()
            },
            verifier: digest::verifier::Config {
                realm: self.realm.clone(),
                algorithms: self.algorithms.clone(),
                nonce_life: secs(self.nonce_secs),
                ..digest::verifier::Config::default()
            },
            registrar: registrar::Config {
                min_expires: secs(min),
                max_expires: secs(max),
                default_expires: secs(default),
                jitter_percent: self.expires_jitter_percent,
                max_per_user: self.max_contacts_per_user,
                max_contacts: self.max_contacts,
            },
            subscriptions: subscription::Config {
                packages: Vec::new(),
                min_expires: secs(min),
                max_expires: secs(max),
                // RFC 4235 §3.4 and RFC 3842 §3.4: an hour, and what a phone that names none expects.
                default_expires: secs(max.min(3600)),
                max: self.max_subscriptions,
                max_per_device: self.max_subscriptions_per_device,
            },
            guard: guard::Config {
                // Nobody ever gets there.
                failures: if self.max_failures == 0 { u32::MAX } else { self.max_failures },
                failures_of_source: if self.max_failures_per_source == 0 { u32::MAX } else { self.max_failures_per_source },
                ban: secs(self.ban_secs),
                trust: secs(max) * 2,
                ..guard::Config::default()
            },
            transports: transport::Config {
                udp: self.udp.clone(),
                tcp: self.tcp.clone(),
                tls: self.tls.clone(),
                ws: self.ws.clone(),
                wss: self.wss.clone(),
                group: None,
                identity: None,
                web_origins: self.ws_origins.clone(),
                web_ping: WEB_PING,
                max_connections: self.max_connections,
                max_connections_per_source: self.max_connections_per_source,
                max_messages_per_source: self.max_messages_per_source,
                unlimited: self.unlimited_sources.clone(),
                handshake_time: HANDSHAKE_TIME,
                message_time: MESSAGE_TIME,
                idle: secs(self.idle_secs),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_said_by_name() {
        assert!(Settings::default().check().is_ok());
        for (settings, error) in [
            (Settings { udp: vec![], tcp: vec![], ..Settings::default() }, SettingsError::NoListener),
            (Settings { realm: "a\"b".into(), ..Settings::default() }, SettingsError::Realm("a\"b".into())),
            (Settings { external: Some("a b".into()), ..Settings::default() }, SettingsError::External("a b".into())),
            (Settings { min_expires_secs: 700, ..Settings::default() }, SettingsError::Expires(700, 600, 3600)),
            (Settings { ws_origins: vec!["phone".into()], ..Settings::default() }, SettingsError::Origin("phone".into())),
            (Settings { expires_jitter_percent: 51, ..Settings::default() }, SettingsError::Jitter(51)),
            (Settings { idle_secs: 0, ..Settings::default() }, SettingsError::Zero("idle_secs")),
        ] {
            assert_eq!(settings.check().err(), Some(error));
        }
    }
}
