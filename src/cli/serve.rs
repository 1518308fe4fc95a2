//! `serve`: runs the server until it is told to stop; SIGHUP reads the configuration again. `reload` asks for the same.

use anyhow::Context;
use clap::Args;
use hyper::Method;
use tokio::signal::unix::{SignalKind, signal};
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
  setcap cap_net_bind_service,cap_net_raw+ep $(command -v plugtone)")]
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
        let mut hang_up = signal(SignalKind::hangup())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let node = Node::start(settings, Origin::File(self.config.config.clone())).await?;
        tracing::info!(addresses = ?node.addresses, "ready");
        loop {
            tokio::select! {
                _ = hang_up.recv() => match node.reload().await {
                    Ok(what) => tracing::info!(what, "read again"),
                    Err(faults) => tracing::error!("nothing was changed, the last good configuration stays:\n{faults}"),
                },
                _ = terminate.recv() => break,
                interrupted = tokio::signal::ctrl_c() => {
                    interrupted.context("cannot listen for ctrl-C")?;
                    break;
                }
            }
        }
        tracing::info!("stopping");
        node.stop().await;
        Ok(())
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
