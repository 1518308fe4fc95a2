//! `trunks`: the ways to the outside, and how they stand. `locate`: where a phone is, for calls for help.

use clap::Args;
use hyper::Method;

use super::{ServerArg, out::say, table};
use crate::{
    api::{
        devices::{Device, Place},
        trunks::Trunk,
    },
    model::MacAddr,
};

/// Lists the trunks: which are up, and how many calls they carry.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone trunks
  plugtone trunks --json | jq -r '.[] | select(.state == \"down\") | .reason'")]
pub struct Trunks {
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Says, or shows, where a phone is: what `emergency.locations` of the routes matches, and the emergency service is told.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone locate 00:15:65:aa:bb:cc
  plugtone locate 00:15:65:aa:bb:cc floor2-port7")]
pub struct Locate {
    /// The device.
    mac: MacAddr,
    /// Where it is; without it, where it is thought to be is shown.
    location: Option<String>,
    #[command(flatten)]
    server: ServerArg,
}

impl Trunks {
    pub async fn run(self) -> anyhow::Result<()> {
        let row = |trunk: &Trunk| {
            let calls = if trunk.max_calls == 0 { trunk.calls.to_string() } else { format!("{} of {}", trunk.calls, trunk.max_calls) };
            let registered = trunk.registered.map_or("-", |registered| if registered { "yes" } else { "no" });
            vec![
                trunk.name.clone(),
                trunk.state.clone(),
                trunk.address.clone().unwrap_or_else(|| trunk.host.clone()),
                registered.to_owned(),
                calls,
                trunk.reason.clone().unwrap_or_default(),
            ]
        };
        let titles = ["TRUNK", "STATE", "AT", "REGISTERED", "CALLS", "WHY"];
        let none = "no trunks: `calls.routes` names a file that describes them";
        table::list(self.server, "/api/v1/trunks", self.json, &titles, row, none).await
    }
}

impl Locate {
    pub async fn run(self) -> anyhow::Result<()> {
        let (mac, client) = (self.mac, self.server.client()?);
        let Some(location) = self.location else {
            let device: Device = client.get(&format!("/api/v1/devices/{mac}")).await?;
            match (device.location, device.port) {
                (Some(location), _) => say!("{mac} is at {location}, as somebody said"),
                (None, Some(port)) => say!("{mac} is at {port}, as its switch or DHCP relay says"),
                (None, None) => say!("nobody knows where {mac} is: say it, or have the switches tell DHCP (option 82)"),
            }
            return Ok(());
        };
        let place: Place = client.send_json(Method::PUT, &format!("/api/v1/devices/{mac}/location"), &Place { location }).await?;
        say!("{mac} is at {}", place.location);
        Ok(())
    }
}
