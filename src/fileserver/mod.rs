//! TFTP, FTP and HTTP, with TLS and without: doors onto one provisioning pipeline.
//!
//! Each door turns its protocol into one [`FileRequest`] and carries the bytes back; all ask one [`FileService`].
//! Not here: what a phone is, which file it may have, what the file says (`provisioning`).

pub mod ftp;
pub mod http;
pub mod limits;
pub mod tftp;

use std::{io, net::SocketAddr, sync::Arc};

use serde::Deserialize;
use tokio_util::task::TaskTracker;

use crate::provisioning::{FileAnswer, FileRequest, FileService};

/// The sections `tftp`, `ftp` and `http` of the configuration, as one.
#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The TFTP server.
    pub tftp: tftp::Settings,
    /// The FTP server.
    pub ftp: ftp::Settings,
    /// The HTTP server.
    pub http: http::Settings,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen for {door} on {at}: {hint}")]
    Bind {
        door: &'static str,
        at: SocketAddr,
        hint: String,
        #[source]
        source: io::Error,
    },
    #[error("{section}.listen is empty: name an address such as 0.0.0.0:{port}, or set `{section}.enabled: false`")]
    NowhereToListen { section: &'static str, port: u16 },
    #[error("{section}.{key}: {fault}")]
    Setting { section: &'static str, key: &'static str, fault: String },
    #[error("cannot start the thread that serves TFTP")]
    Thread(#[source] io::Error),
}

impl Error {
    /// Why the operating system refuses an address, and what the administrator can do about it.
    pub(crate) fn bind(door: &'static str, section: &str, at: SocketAddr, source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::PermissionDenied => format!(
                "ports below 1024 need CAP_NET_BIND_SERVICE: run as root, `setcap cap_net_bind_service+ep` the binary, \
                 set AmbientCapabilities in the systemd unit, or choose another port in `{section}.listen`"
            ),
            io::ErrorKind::AddrInUse => {
                format!("another server holds the port (`ss -lnp | grep :{}` names it): stop it, or change `{section}.listen`", at.port())
            }
            io::ErrorKind::AddrNotAvailable => {
                format!("no interface of this host has the address {}: correct `{section}.listen`, or use 0.0.0.0", at.ip())
            }
            _ => format!("check `{section}.listen`"),
        };
        Self::Bind { door, at, hint, source }
    }
}

/// A door that is open. It closes when the token given at its start is cancelled.
#[derive(Debug)]
pub struct Running {
    addrs: Vec<SocketAddr>,
    /// Those with TLS.
    secure: Vec<SocketAddr>,
    tasks: TaskTracker,
}

impl Running {
    pub(crate) fn new(addrs: Vec<SocketAddr>, tasks: TaskTracker) -> Self {
        tasks.close();
        Self { addrs, secure: Vec::new(), tasks }
    }

    /// And by TLS at these addresses.
    pub(crate) fn with_secure(self, secure: Vec<SocketAddr>) -> Self {
        Self { secure, ..self }
    }

    /// Where it listens for TLS.
    pub fn secure(&self) -> &[SocketAddr] {
        &self.secure
    }

    /// Where it listens; with the port that was got where port 0 was asked for. Empty when the door is disabled.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// The first address of [`Self::addrs`].
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addrs.first().copied()
    }

    /// Returns when the listener and every transfer have ended: soon after the token was cancelled.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}

/// Asks the pipeline. It refuses traversal itself; should it ever not, what it found for such a name stays here.
async fn ask(service: &Arc<dyn FileService>, request: FileRequest) -> FileAnswer {
    let climbs = climbs(&request.path);
    let answer = service.fetch(request).await;
    if climbs {
        metrics::counter!("plugtone_fileserver_traversal_total").increment(1);
        return FileAnswer::NotFound;
    }
    answer
}

/// Does the name try to leave its folder, or carry bytes that no file name has?
fn climbs(path: &str) -> bool {
    path.split(['/', '\\']).any(|part| part == "..") || path.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_climb_are_seen() {
        for bad in ["../x", "a/../b", "..\\x", "a\\..", "/..", "x\0.cfg", "x\r\ny"] {
            assert!(climbs(bad), "{bad:?}");
        }
        for good in ["", "/a.cfg", "Communicator\\x.cnf", "..cfg", "a..b/c", "000000000000.cfg"] {
            assert!(!climbs(good), "{good:?}");
        }
    }

    #[test]
    fn bind_errors_say_what_to_do() {
        let at = "0.0.0.0:69".parse().expect("address");
        let text = Error::bind("TFTP", "tftp", at, io::ErrorKind::PermissionDenied.into()).to_string();
        assert!(text.contains("CAP_NET_BIND_SERVICE") && text.contains("0.0.0.0:69"), "{text}");
        let text = Error::bind("TFTP", "tftp", at, io::ErrorKind::AddrInUse.into()).to_string();
        assert!(text.contains("another server"), "{text}");
    }
}
