//! `devices`, `users`, `bindings`, `bind`, `unbind`: what the API knows, as tables or JSON.

use clap::Args;
use hyper::Method;

use super::{
    ServerArg,
    out::{json, say},
    table,
};
use crate::{
    api::devices::{BindRequest, Binding, Device, DeviceDetail, Person},
    model::MacAddr,
};

/// Lists the devices that were ever seen, or shows one with its timeline.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone devices
  plugtone devices 00:15:65:aa:bb:cc       what happened to this phone, step by step
  plugtone devices --search 'berlin t46'   by MAC or part of one, make, model, label, place, site, group, address, owner
  plugtone devices --json | jq '.[] | select(.state != \"in_service\")'")]
pub struct Devices {
    /// Show only this one, with its timeline.
    mac: Option<MacAddr>,
    /// Only those in which every one of these words is found.
    #[arg(long, short, value_name = "WORDS", conflicts_with = "mac")]
    search: Option<String>,
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Lists the users of the directory.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone users
  plugtone users --json | jq -r '.[].mail'")]
pub struct Users {
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Lists which device belongs to whom.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone bindings
  plugtone bindings --json")]
pub struct Bindings {
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Gives a device to a user, as the user could by keying in number and PIN.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone bind 00:15:65:aa:bb:cc 1001
  plugtone bind 00:0b:82:aa:bb:cc 1002 --line 2    the second port of an adapter")]
pub struct Bind {
    /// The device.
    mac: MacAddr,
    /// The user's login: employee number or extension.
    login: String,
    /// Which line: the port of an adapter, the handset of a base.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    line: u8,
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Takes a device from its user: it reloads and reaches only the IVR again.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone unbind 00:15:65:aa:bb:cc
  plugtone unbind 00:0b:82:aa:bb:cc --line 2")]
pub struct Unbind {
    /// The device.
    mac: MacAddr,
    /// Which line: the port of an adapter, the handset of a base.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    line: u8,
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Devices {
    pub async fn run(self) -> anyhow::Result<()> {
        if let Some(mac) = self.mac {
            let detail: DeviceDetail = self.server.client()?.get(&format!("/api/v1/devices/{mac}")).await?;
            if self.json {
                return json(&detail);
            }
            table::print(&DEVICE, &[device_row(&detail.device)], "");
            say!();
            for recorded in &detail.timeline {
                say!("{}  {}", recorded.at, crate::journal::sentence(&recorded.event));
            }
            return Ok(());
        }
        let (path, none) = match &self.search {
            Some(words) => (format!("/api/v1/devices?limit=10000&q={}", super::ladder::escaped(words)), "no device is like that"),
            None => ("/api/v1/devices?limit=10000".to_owned(), "no device was seen yet: plug one in"),
        };
        table::list(self.server, &path, self.json, &DEVICE, device_row, none).await
    }
}

const DEVICE: [&str; 7] = ["MAC", "MAKE", "STATE", "ADDRESS", "OWNER", "LABEL", "LAST SEEN"];

fn device_row(device: &Device) -> Vec<String> {
    let owners = device.binding.iter().chain(&device.further_lines);
    let owner = owners.map(|binding| format!("{} {}", binding.extension, binding.display_name)).collect::<Vec<_>>().join(", ");
    let make = [device.family.as_deref(), device.model.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ");
    vec![
        device.mac.clone(),
        make,
        device.state.clone(),
        device.address.clone().unwrap_or_default(),
        owner,
        device.label.clone().unwrap_or_default(),
        device.last_seen.clone().unwrap_or_else(|| "never".to_owned()),
    ]
}

impl Users {
    pub async fn run(self) -> anyhow::Result<()> {
        let row = |user: &Person| {
            vec![user.login.clone(), user.extension.clone().unwrap_or_default(), user.display_name.clone(), user.id.clone()]
        };
        let titles = ["LOGIN", "EXTENSION", "NAME", "ID"];
        table::list(self.server, "/api/v1/users", self.json, &titles, row, "the directory has no users").await
    }
}

impl Bindings {
    pub async fn run(self) -> anyhow::Result<()> {
        table::list(self.server, "/api/v1/bindings", self.json, &BINDING, binding_row, "nobody has a phone yet").await
    }
}

impl Bind {
    pub async fn run(self) -> anyhow::Result<()> {
        let path = format!("/api/v1/devices/{}/binding", self.mac);
        let binding: Binding =
            self.server.client()?.send_json(Method::PUT, &path, &BindRequest { login: self.login, line: self.line }).await?;
        if self.json {
            return json(&binding);
        }
        table::print(&BINDING, &[binding_row(&binding)], "");
        Ok(())
    }
}

impl Unbind {
    pub async fn run(self) -> anyhow::Result<()> {
        self.server.client()?.delete(&format!("/api/v1/devices/{}/binding?line={}", self.mac, self.line)).await?;
        if self.json {
            return json(&serde_json::json!({ "mac": self.mac, "line": self.line, "bound": false }));
        }
        match self.line {
            1 => say!("{} belongs to nobody now; it was told to reload", self.mac),
            line => say!("line {line} of {} belongs to nobody now; it was told to reload", self.mac),
        }
        Ok(())
    }
}

const BINDING: [&str; 4] = ["EXTENSION", "NAME", "DEVICE", "SINCE"];

fn binding_row(binding: &Binding) -> Vec<String> {
    let device = if binding.line == 1 { binding.mac.clone() } else { format!("{} line {}", binding.mac, binding.line) };
    vec![binding.extension.clone(), binding.display_name.clone(), device, binding.since.clone()]
}
