//! Servers of others beside ours, where they are installed: Kea for addresses, dnsmasq for TFTP, nginx for HTTP. Each in a folder of its
//! own on loopback, with the same load in the same run; those that want a port below 1024 need root.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};

use super::cpu_of;

/// A running server that is not ours.
pub(super) struct Peer {
    child: Child,
    /// Has its files.
    _folder: tempfile::TempDir,
    pub(super) at: SocketAddr,
    /// As `Kea 2.2.0`.
    pub(super) name: String,
}

impl Drop for Peer {
    fn drop(&mut self) {
        super::end(&mut self.child);
    }
}

/// The relay through which Kea hears clients: on loopback it has no broadcasts.
pub(super) const KEA_RELAY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

impl Peer {
    /// Kea with its lease file, the subnet that ours has, and about as many options.
    pub(super) async fn kea() -> anyhow::Result<Option<Self>> {
        let Some(program) = installed("kea-dhcp4") else { return Ok(None) };
        let folder = tempfile::tempdir()?;
        let (path, config) = (folder.path().display().to_string(), folder.path().join("kea.json"));
        let text = serde_json::json!({ "Dhcp4": {
            "interfaces-config": { "interfaces": ["lo"], "dhcp-socket-type": "udp" },
            "lease-database": { "type": "memfile", "persist": true, "name": format!("{path}/leases.csv"), "lfc-interval": 0 },
            "valid-lifetime": 3600,
            "subnet4": [{
                "subnet": "127.64.0.0/16",
                "pools": [{ "pool": "127.64.0.10-127.64.250.250" }],
                "relay": { "ip-addresses": [KEA_RELAY] },
                "option-data": [
                    { "name": "routers", "data": "127.64.0.1" },
                    { "name": "domain-name-servers", "data": "127.64.0.1" },
                    { "name": "ntp-servers", "data": "127.64.0.1" },
                    { "name": "tftp-server-name", "data": "http://127.0.0.1:8080" },
                ],
            }],
            "loggers": [{ "name": "kea-dhcp4", "severity": "ERROR", "output_options": [{ "output": format!("{path}/log") }] }],
        } });
        std::fs::write(&config, text.to_string())?;
        let mut command = Command::new(&program);
        command.arg("-c").arg(&config).envs([("KEA_PIDFILE_DIR", &*path), ("KEA_LOCKFILE_DIR", "none"), ("KEA_DHCP_DATA_DIR", &path)]);
        let name = format!("Kea {}", said(&program, "-v", 0));
        Self::start(command, folder, SocketAddr::from(([127, 0, 0, 1], 67)), name).await.map(Some)
    }

    /// dnsmasq as a TFTP server of these files.
    pub(super) async fn dnsmasq(files: &[(&str, &[u8])]) -> anyhow::Result<Option<Self>> {
        let Some(program) = installed("dnsmasq") else { return Ok(None) };
        let folder = filled(files)?;
        let at = SocketAddr::from(([127, 0, 0, 3], 69));
        let mut command = Command::new(&program);
        command.args(["-k", "--user=root", "--port=0", "--conf-file=/dev/null", "--pid-file=", "--enable-tftp", "--tftp-max=1000"]);
        command.args(["--bind-interfaces", &format!("--listen-address={}", at.ip()), &format!("--tftp-root={}", folder.path().display())]);
        let name = format!("dnsmasq {}", said(&program, "-v", 2));
        Self::start(command, folder, at, name).await.map(Some)
    }

    /// nginx with one worker, serving these files as they lie there.
    pub(super) async fn nginx(at: SocketAddr, files: &[(&str, &[u8])]) -> anyhow::Result<Option<Self>> {
        let Some(program) = installed("nginx") else { return Ok(None) };
        let folder = filled(files)?;
        let (path, config) = (folder.path().display(), folder.path().join("nginx.conf"));
        let text = format!(
            "daemon off; worker_processes 1; pid {path}/pid; error_log {path}/log;\nevents {{ worker_connections 1024; }}\n\
             http {{ access_log off; sendfile on; client_body_temp_path {path}/b; proxy_temp_path {path}/p; fastcgi_temp_path {path}/f; \
             uwsgi_temp_path {path}/u; scgi_temp_path {path}/s; server {{ listen {at}; root {path}; }} }}\n"
        );
        std::fs::write(&config, text)?;
        // Its worker gives up its rights, and must read the folder nevertheless.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let mut command = Command::new(&program);
        command.arg("-c").arg(&config);
        let version = Command::new(&program).arg("-v").output().map(|output| output.stderr).unwrap_or_default();
        let version = String::from_utf8_lossy(&version).rsplit('/').next().unwrap_or_default().trim().to_owned();
        Self::start(command, folder, at, format!("nginx {version}")).await.map(Some)
    }

    async fn start(mut command: Command, folder: tempfile::TempDir, at: SocketAddr, name: String) -> anyhow::Result<Self> {
        // Kea goes on without its port: another's answers would be taken for its own, for no CPU at all.
        is_free(at).with_context(|| format!("{name} cannot be measured at {at}: end what is there first"))?;
        let log = std::fs::File::create(folder.path().join("said"))?;
        let child =
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().with_context(|| format!("cannot start {name}"))?;
        let mut peer = Self { child, _folder: folder, at, name };
        tokio::time::sleep(Duration::from_millis(1500)).await;
        if let Some(status) = peer.child.try_wait()? {
            let said = std::fs::read_to_string(peer._folder.path().join("said")).unwrap_or_default();
            bail!("{} ended with {status}: {}", peer.name, said.lines().last().unwrap_or("it needs root, and its port free"));
        }
        Ok(peer)
    }

    /// CPU of all its processes together.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        let id = self.child.id();
        let workers = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let workers: Result<Vec<_>, _> = workers.split_whitespace().filter_map(|pid| pid.parse().ok()).map(cpu_of).collect();
        Ok(cpu_of(id)? + workers?.into_iter().sum::<Duration>())
    }
}

fn is_free(at: SocketAddr) -> std::io::Result<()> {
    UdpSocket::bind(at)?;
    TcpListener::bind(at).map(drop)
}

fn installed(program: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin"].iter().map(|folder| Path::new(folder).join(program)).find(|path| path.exists())
}

/// A word of what it says of itself.
fn said(program: &Path, question: &str, word: usize) -> String {
    let shown = Command::new(program).arg(question).output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&shown).split_whitespace().nth(word).unwrap_or("of unknown version").to_owned()
}

fn filled(files: &[(&str, &[u8])]) -> anyhow::Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes)?;
    }
    Ok(folder)
}
