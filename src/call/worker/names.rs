//! Asks name servers where the servers of a provider are, with `hickory-resolver`. What is asked, and what the answer means, is
//! `locate.rs`'s.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{RData, RecordType},
};

use crate::call::locate::{Found, Question, Server};

/// For one server of names; there are two tries.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);
/// How long an address is believed that the system gives without saying how long it holds.
const BELIEVED: Duration = Duration::from_secs(300);
/// SRV records of one name that are looked at.
const MOST_RECORDS: usize = 32;

/// Whom to ask.
#[derive(Clone)]
pub(super) struct Names {
    /// `None`: the system's settings cannot be read, or make no sense.
    resolver: Option<Arc<TokioResolver>>,
    /// The name servers are the system's: it may know names by other ways, too.
    of_system: bool,
}

impl Names {
    /// `servers`: none for the system's own.
    pub(super) fn new(servers: &[SocketAddr]) -> Self {
        let builder = match servers {
            [] => TokioResolver::builder_tokio(),
            servers => {
                let server = |at: &SocketAddr| {
                    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                        connection.port = at.port();
                        connection
                    });
                    NameServerConfig::new(at.ip(), true, connections.to_vec())
                };
                let config = ResolverConfig::from_name_servers(servers.iter().map(server).collect());
                Ok(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()))
            }
        };
        let resolver = builder.and_then(|mut builder| {
            let options = builder.options_mut();
            options.timeout = ANSWERS_WITHIN;
            // What is asked here is asked when it has run out.
            options.cache_size = 0;
            builder.build()
        });
        let resolver = resolver.inspect_err(|error| tracing::warn!(%error, "no name servers: see /etc/resolv.conf")).ok();
        Self { resolver: resolver.map(Arc::new), of_system: servers.is_empty() }
    }

    /// The servers of a host, or why there are none.
    pub(super) async fn find(&self, question: &Question) -> Result<Found, String> {
        if let Ok(address) = question.host.parse::<IpAddr>() {
            return Ok(question.plain(vec![address], None));
        }
        if let (Some(service), Some(resolver)) = (question.service(), &self.resolver) {
            match self.services(resolver, &service).await {
                Ok(found) if !found.servers.is_empty() => return Ok(found),
                Ok(_) => return Err(format!("{service} says that there is no such service, or its servers have no addresses")),
                Err(error) if error.is_no_records_found() => {}
                // With the service unknown its addresses would be a guess; but better than nothing.
                Err(error) => tracing::warn!(service, %error, "no answer about servers; the addresses of the name are tried"),
            }
        }
        let (addresses, ttl) = self.addresses(&question.host).await?;
        Ok(question.plain(addresses, Some(ttl)))
    }

    async fn services(&self, resolver: &TokioResolver, service: &str) -> Result<Found, NetError> {
        let answer = resolver.lookup(format!("{service}."), RecordType::SRV).await?;
        let mut ttl = answer.valid_until().saturating_duration_since(Instant::now());
        let mut servers = Vec::new();
        for record in answer.answers().iter().take(MOST_RECORDS) {
            // "." for a target: decidedly not available (RFC 2782).
            let RData::SRV(srv) = &record.data else { continue };
            if srv.target.is_root() {
                continue;
            }
            let target = srv.target.to_utf8();
            match self.addresses(&target).await {
                Ok((addresses, holds)) => {
                    ttl = ttl.min(holds);
                    servers.push(Server { priority: srv.priority, weight: srv.weight, port: srv.port, addresses });
                }
                Err(reason) => tracing::warn!(service, reason, "a server is left out"),
            }
        }
        Ok(Found { servers, ttl: Some(ttl) })
    }

    async fn addresses(&self, name: &str) -> Result<(Vec<IpAddr>, Duration), String> {
        let named = match &self.resolver {
            Some(resolver) => match resolver.lookup_ip(name).await {
                Ok(found) => {
                    let ttl = found.valid_until().saturating_duration_since(Instant::now());
                    return Ok((found.iter().collect(), ttl));
                }
                Err(error) => error.to_string(),
            },
            None => "there are no name servers".to_owned(),
        };
        let no_address = format!("{} has no address: {named}", name.trim_end_matches('.'));
        if !self.of_system {
            return Err(no_address);
        }
        let found: Vec<_> = tokio::net::lookup_host((name, 0)).await.map_err(|_| no_address.clone())?.map(|at| at.ip()).collect();
        if found.is_empty() { Err(no_address) } else { Ok((found, BELIEVED)) }
    }
}
