//! `serve`: runs the server until it is told to stop; SIGHUP reads the configuration again. `reload` asks for the same.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use hyper::Method;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use super::{
    ConfigArg, ServerArg, check, doctor,
    out::{self, say},
};
use crate::{
    config::Log,
    node::{Node, Origin},
};

/// Runs the server: DHCP, files, SIP, the voice menu and the API.
#[derive(Args)]
#[command(after_help = "Examples:
  sudo plugtone serve --config /etc/plugtone/plugtone.yaml
  kill -HUP $(pidof plugtone)      read the configuration again; a bad file changes nothing

Ports below 1024 and answers to phones without an address need root, or:
  setcap cap_net_bind_service,cap_net_raw+ep $(command -v plugtone)

It ends with status 1 when a part of it is lost by a fault of its own: let a service manager start it again (Restart=on-failure), as
the unit for systemd in config/plugtone.service does.")]
pub struct Serve {
    #[command(flatten)]
    config: ConfigArg,
}

/// Makes the running server read its configuration, templates, flows and users again; a bad file changes nothing.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone check && plugtone reload
  plugtone reload --json")]
pub struct Reload {
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// How long a server may take to stop of which a part is lost.
const WITHOUT_A_PART: Duration = Duration::from_secs(5);

impl Serve {
    pub async fn run(self) -> anyhow::Result<()> {
        let file = self.config.config.display().to_string();
        let settings = self.config.load()?;
        start_log(&settings.log)?;
        let faults = check::beyond(&file, &settings);
        if !faults.is_empty() {
            let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
            anyhow::bail!("the configuration cannot be used:\n{}", told.join("\n\n"));
        }
        if let Some((says, remedy)) = settings.dhcp.check().ok().as_ref().and_then(doctor::neighbours) {
            tracing::warn!("{says}: {remedy}");
        }
        // Before the start: it may be told to stop while it takes its time.
        let told = Told::listen()?;
        let node = Node::start(settings, Origin::File(self.config.config.clone())).await?;
        told.until_stopped(node).await
    }
}

/// What a server is told by signals.
pub struct Told {
    hang_up: Signal,
    terminate: Signal,
}

impl Told {
    /// From here on signals are kept until [`Self::until_stopped`] looks at them; but for ctrl-C, which ends a start that hangs.
    ///
    /// # Errors
    /// The system has no descriptors left for it.
    pub fn listen() -> anyhow::Result<Self> {
        Ok(Self { hang_up: signal(SignalKind::hangup())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Says that the server is ready, and does what it is told until that is to stop, or until a part of the server is lost.
    ///
    /// # Errors
    /// Which part was lost, or that ctrl-C cannot be heard.
    pub async fn until_stopped(mut self, node: Node) -> anyhow::Result<()> {
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for ctrl-C")?;
        // Who waits for this word may stop it at once.
        tracing::info!(addresses = ?node.addresses, "ready");
        let lost = loop {
            tokio::select! {
                _ = self.hang_up.recv() => match node.reload().await {
                    Ok(what) => tracing::info!(what, "read again"),
                    Err(faults) => tracing::error!("nothing was changed, the last good configuration stays:\n{faults}"),
                },
                part = node.lost_part() => break Some(part),
                _ = self.terminate.recv() => break None,
                _ = interrupt.recv() => break None,
            }
        };
        tracing::info!("stopping");
        let Some(part) = lost else {
            node.stop().await;
            return Ok(());
        };
        // What is left may wait for what is gone.
        let _ = tokio::time::timeout(WITHOUT_A_PART, node.stop()).await;
        anyhow::bail!(
            "{part} has ended by a fault of this program, which the log tells above; start the server again, and report the fault"
        )
    }
}

impl Reload {
    pub async fn run(self) -> anyhow::Result<()> {
        let done: serde_json::Value = self.server.client()?.send_json(Method::POST, "/api/v1/reload", &()).await?;
        if self.json {
            return out::json(&done);
        }
        say!("read again: {}", done["reloaded"].as_str().unwrap_or_default());
        Ok(())
    }
}

/// Logs to standard error; colour only on a terminal. `RUST_LOG` wins over the configuration.
pub fn start_log(log: &Log) -> anyhow::Result<()> {
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_| log.level.clone());
    let filter = EnvFilter::try_new(&directives)
        .with_context(|| format!("`log.level` is '{directives}': write info, or info,plugtone::dhcp=debug"))?;
    let colour = out::may_colour(&std::io::stderr());
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(colour).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    match log.json {
        true => registry.with(layer.json()).try_init()?,
        false => registry.with(layer).try_init()?,
    }
    Ok(())
}
