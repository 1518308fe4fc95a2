//! HTTP/1.1 for phones, with TLS and without, and the loop that serves any axum router behind limits (the API's too).
//!
//! `serve.rs` listens, limits and times; `files.rs` answers GET, HEAD and PUT from the pipeline; `range.rs` reads `Range`;
//! `challenge.rs` answers authorities that look whether a name is ours.
//! Not here: certificates (`tls`); which file a phone may have (`provisioning`); the API's resources (`api`).

pub mod challenge;
pub mod files;
pub mod range;
pub mod serve;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use serde::Deserialize;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use serve::{Limits, Peer, bind, serve};

use super::{Error, Running};
use crate::{provisioning::FileService, tls::Tls};

/// `http:` the door that most phones use.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Serve files over HTTP.
    pub enabled: bool,
    /// Addresses and ports to listen on. Cisco's later loads ask at 6970 first: add it where there are any.
    pub listen: Vec<SocketAddr>,
    /// Addresses for HTTPS, as `0.0.0.0:443`; the same files, the same limits. `https: true` in the templates' overrides sends phones
    /// there; what they must know of our certificate is said at `tls`.
    pub tls: Vec<SocketAddr>,
    /// Connections at once; one beyond is closed unanswered.
    pub max_connections: usize,
    /// Connections at once from one address; one beyond is closed unanswered.
    pub max_connections_per_client: usize,
    /// How long TLS's handshake may take, how long a request's head, and how long an idle connection is kept.
    pub header_timeout_secs: u64,
    /// How long a client may take nothing of an answer, or bring nothing of an upload, before it is cut off.
    pub stall_timeout_secs: u64,
    /// Largest head of a request, in bytes (8192 at least).
    pub max_head_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 80)), SocketAddr::from(([0, 0, 0, 0], 8080))],
            tls: vec![],
            max_connections: 4096,
            max_connections_per_client: 64,
            header_timeout_secs: 15,
            stall_timeout_secs: 30,
            max_head_bytes: 16 * 1024,
        }
    }
}

impl Settings {
    /// Refuses what could not work.
    pub fn check(&self) -> Result<(), Error> {
        let fault = |key, fault: &str| Err(Error::Setting { section: "http", key, fault: fault.into() });
        if self.max_connections == 0 || self.max_connections_per_client == 0 {
            return fault("max_connections", "0 would let nobody in: set `http.enabled: false` to close the door");
        }
        if self.header_timeout_secs == 0 || self.stall_timeout_secs == 0 {
            return fault("header_timeout_secs", "0 would cut off everybody: 1 second or more");
        }
        if self.max_head_bytes < 8192 {
            return fault("max_head_bytes", "less than 8192 refuses honest requests");
        }
        if self.enabled && self.listen.is_empty() && self.tls.is_empty() {
            return Err(Error::NowhereToListen { section: "http", port: 80 });
        }
        Ok(())
    }

    /// Where it is to listen: without TLS, and with it.
    pub fn doors(&self) -> (&[SocketAddr], &[SocketAddr]) {
        if self.enabled { (&self.listen, &self.tls) } else { (&[], &[]) }
    }

    /// The limits of [`serve`] in these settings.
    pub fn limits(&self) -> Limits {
        Limits {
            connections: self.max_connections,
            connections_per_source: self.max_connections_per_client,
            header_timeout: Duration::from_secs(self.header_timeout_secs),
            stall_timeout: Duration::from_secs(self.stall_timeout_secs),
            head_bytes: self.max_head_bytes,
        }
    }
}

/// Opens the door. `beside` is served along with the files and goes first: `/healthz`, `/metrics`.
/// `tls`: who we are at `settings.tls`. Call within a tokio runtime; stops when `shutdown` is cancelled.
pub fn start(
    settings: &Settings,
    service: Arc<dyn FileService>,
    beside: Router,
    tls: Option<Arc<Tls>>,
    shutdown: CancellationToken,
) -> Result<Running, Error> {
    settings.check()?;
    let tasks = TaskTracker::new();
    let (mut addrs, mut secure) = (Vec::new(), Vec::new());
    if settings.enabled {
        let app = beside.merge(files::router(service, Duration::from_secs(settings.stall_timeout_secs)));
        let mut listeners = Vec::new();
        let plain = settings.listen.iter().map(|at| (*at, None));
        for (at, tls) in plain.chain(settings.tls.iter().map(|at| (*at, tls.clone()))) {
            let door = if tls.is_some() { "HTTPS" } else { "HTTP" };
            let listener = bind(door, "http", at)?;
            let bound = listener.local_addr().map_err(|source| Error::bind(door, "http", at, source))?;
            if tls.is_some() { &mut secure } else { &mut addrs }.push(bound);
            tracing::info!(at = %bound, "{}: listening", door.to_lowercase());
            listeners.push((listener, tls));
        }
        // One allowance for all ports: a client gets no more by knocking at two.
        let slots = settings.limits().slots();
        for (listener, tls) in listeners {
            tasks.spawn(serve::serve_within(listener, tls, app.clone(), settings.limits(), slots.clone(), shutdown.clone()));
        }
    }
    Ok(Running::new(addrs, tasks).with_secure(secure))
}
