//! The command line: one file per subcommand. Reads arguments, calls the library or the API, prints; decides nothing.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::{config::Settings, node::read_settings};

mod bench;
mod check;
mod client;
mod config;
mod demo;
mod dhcp;
mod dial;
mod doctor;
mod firmware;
mod ivr;
mod labels;
mod ladder;
mod lists;
mod manual;
mod out;
mod phone;
mod phones;
mod pin;
mod records;
mod render;
mod rollout;
mod route;
mod schema;
pub(crate) mod serve;
mod sip;
mod table;
mod template;
mod token;
mod trunks;
mod voicemail;
mod watchers;
mod wishes;

/// Plug in a desk phone, dial anything, say who you are: your extension is on it.
#[derive(Parser)]
#[command(name = "plugtone", version, about, arg_required_else_help = true, propagate_version = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  plugtone demo                                 see it all on this machine, without root
  plugtone check --config config/plugtone.yaml  what is wrong, with file, line and a hint
  plugtone serve --config config/plugtone.yaml
  plugtone devices                              what is plugged in, and whose it is";

#[derive(Subcommand)]
enum Command {
    Demo(demo::Demo),
    Serve(serve::Serve),
    Check(check::Check),
    Config(config::Config),
    Doctor(doctor::Doctor),
    Reload(serve::Reload),
    Render(render::Render),
    Template(template::Template),
    Rollout(rollout::Rollout),
    Firmware(firmware::Firmware),
    Dhcp(dhcp::Dhcp),
    Devices(lists::Devices),
    Users(lists::Users),
    Bindings(lists::Bindings),
    Bind(lists::Bind),
    Locate(trunks::Locate),
    Unbind(lists::Unbind),
    Phones(phones::Phones),
    Swap(phones::Swap),
    Labels(labels::Labels),
    Dial(dial::Dial),
    Calls(dial::Calls),
    Trunks(trunks::Trunks),
    Wishes(wishes::Wishes),
    Night(wishes::Night),
    Voicemail(voicemail::Voicemail),
    Sip(sip::Sip),
    Route(route::Route),
    Schema(schema::Schemas),
    Phone(phone::Phone),
    Ivr(ivr::Ivr),
    Token(token::Token),
    Pin(pin::Pin),
    Bench(bench::Bench),
    Completions(manual::Completions),
    Man(manual::Man),
}

impl Cli {
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Demo(command) => command.run().await,
            Command::Serve(command) => command.run().await,
            Command::Check(command) => command.run(),
            Command::Config(command) => command.run().await,
            Command::Doctor(command) => command.run().await,
            Command::Reload(command) => command.run().await,
            Command::Render(command) => command.run().await,
            Command::Template(command) => command.run().await,
            Command::Rollout(command) => command.run().await,
            Command::Firmware(command) => command.run().await,
            Command::Dhcp(command) => command.run().await,
            Command::Devices(command) => command.run().await,
            Command::Users(command) => command.run().await,
            Command::Bindings(command) => command.run().await,
            Command::Bind(command) => command.run().await,
            Command::Locate(command) => command.run().await,
            Command::Unbind(command) => command.run().await,
            Command::Phones(command) => command.run().await,
            Command::Swap(command) => command.run().await,
            Command::Labels(command) => command.run().await,
            Command::Dial(command) => command.run().await,
            Command::Calls(command) => command.run().await,
            Command::Trunks(command) => command.run().await,
            Command::Wishes(command) => command.run().await,
            Command::Night(command) => command.run().await,
            Command::Voicemail(command) => command.run().await,
            Command::Sip(command) => command.run().await,
            Command::Route(command) => command.run(),
            Command::Schema(command) => command.run(),
            Command::Phone(command) => command.run().await,
            Command::Ivr(command) => command.run(),
            Command::Token(command) => command.run().await,
            Command::Pin(command) => command.run(),
            Command::Bench(command) => command.run().await,
            Command::Completions(command) => command.run(),
            Command::Man(command) => command.run(),
        }
    }
}

/// Where the configuration is, for every subcommand that needs it.
#[derive(Args, Clone, Debug)]
pub struct ConfigArg {
    /// The configuration file.
    #[arg(long, short, value_name = "FILE", global = true, default_value = "/etc/plugtone/plugtone.yaml", env = "PLUGTONE_CONFIG")]
    pub config: PathBuf,
}

impl ConfigArg {
    pub fn load(&self) -> anyhow::Result<Settings> {
        read_settings(&self.config)
            .map_err(|faults| anyhow::anyhow!(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n")))
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Which running server to ask.
#[derive(Args, Clone, Debug)]
pub struct ServerArg {
    #[command(flatten)]
    config: ConfigArg,
    /// A server elsewhere, as http://10.0.0.2:8088. Without it: the one on this machine, found by its configuration.
    #[arg(long, value_name = "URL", requires = "token", env = "PLUGTONE_API")]
    api: Option<String>,
    /// A token for it, made there with `plugtone token create`.
    #[arg(long, value_name = "TOKEN", env = "PLUGTONE_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

impl ServerArg {
    pub fn client(&self) -> anyhow::Result<client::Client> {
        if let (Some(url), Some(token)) = (&self.api, &self.token) {
            return client::Client::remote(url, token.clone());
        }
        let settings = self.config.load()?;
        let mut at = settings.api.listen;
        if at.ip().is_unspecified() {
            at.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        client::Client::local(at.to_string(), settings.store.path.parent().unwrap_or(Path::new(".")))
    }
}
