//! Kamailio beside ours, where it is installed: the same load on a registrar that keeps contacts in memory, and on a proxy that
//! passes a call's messages on, and does nothing else.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context;

use super::{cpu_of, register::Identity};
use crate::{model::Secret, sip::digest::Credentials};

const CONFIG: &str = include_str!("../../../benches/kamailio.cfg");

/// A running Kamailio: the process that we started, and its workers.
pub(super) struct Kamailio {
    child: Child,
    folder: tempfile::TempDir,
    pub(super) sip: SocketAddr,
}

impl Kamailio {
    /// `None` where it is not installed.
    pub(super) async fn start(sip: SocketAddr) -> anyhow::Result<Option<Self>> {
        let program = ["/usr/sbin/kamailio", "/usr/local/sbin/kamailio"].into_iter().find(|program| Path::new(program).exists());
        let Some(program) = program else { return Ok(None) };
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("kamailio.cfg");
        std::fs::write(&config, CONFIG.replace("BENCH_LISTEN", &sip.to_string()))?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        // In the foreground (-DD), so that it ends with us; 512 MB for contacts.
        let child = Command::new(program)
            .args(["-DD", "-E", "-m", "512", "-M", "16", "-Y"])
            .arg(folder.path())
            .arg("-f")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start kamailio")?;
        let mut kamailio = Self { child, folder, sip };
        tokio::time::sleep(Duration::from_millis(1500)).await;
        if let Some(status) = kamailio.child.try_wait()? {
            let log = std::fs::read_to_string(kamailio.folder.path().join("log")).unwrap_or_default();
            anyhow::bail!("kamailio ended with {status}: {}", log.lines().last().unwrap_or_default());
        }
        Ok(Some(kamailio))
    }

    /// Its version, as `5.6.3`.
    pub(super) fn version() -> String {
        let shown = Command::new("/usr/sbin/kamailio").arg("-v").output().map(|output| output.stdout).unwrap_or_default();
        let shown = String::from_utf8_lossy(&shown).into_owned();
        shown.split_whitespace().nth(2).unwrap_or("of unknown version").to_owned()
    }

    /// CPU of all its processes together.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        let mut sum = cpu_of(self.child.id())?;
        for worker in self.workers() {
            sum += cpu_of(worker)?;
        }
        Ok(sum)
    }

    fn workers(&self) -> Vec<u32> {
        let id = self.child.id();
        let text = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }
}

impl Drop for Kamailio {
    fn drop(&mut self) {
        super::end(&mut self.child);
    }
}

/// Phones as [`CONFIG`] lets them in: any name, one password.
pub(super) fn identity(number: u32) -> Identity {
    let user = format!("new0220{number:08x}");
    Identity { credentials: Credentials { username: user.clone(), secret: Secret::new("open sesame") }, user }
}
