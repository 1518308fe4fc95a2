//! `check`: reads configuration, templates, flows and users as `serve` would, and tells everything that is wrong.

use std::net::SocketAddr;

use clap::Args;

use super::{
    ConfigArg, doctor,
    out::{self, say},
};
use crate::{
    config::Settings,
    directory,
    ivr::{self, loader},
    node::{firmware_folder, read_settings, remarks_acme},
    provisioning::{
        beside,
        settings::{remark_https, remark_sips},
    },
    routing,
    template::{TemplateSet, Templates},
    voicemail::client::Mailer,
    yaml::Fault,
};

/// Tells what is wrong with the configuration, templates, flows, routes and users: file, line, column, and what to do. Runs the
/// tests beside the routes. Beside another DHCP server it notes which makes find us, and what the
/// others need; and whether this machine's table of neighbours has room for the phones.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone check --config config/plugtone.yaml
  plugtone check --json | jq -r '.[].file'")]
pub struct Check {
    #[command(flatten)]
    config: ConfigArg,
    /// Print the faults as JSON.
    #[arg(long)]
    json: bool,
}

impl Check {
    pub fn run(self) -> anyhow::Result<()> {
        let file = self.config.config.display().to_string();
        let faults = match read_settings(&self.config.config) {
            Err(faults) => faults,
            Ok(settings) => beyond(&file, &settings),
        };
        if self.json {
            let row =
                |f: &Fault| serde_json::json!({ "file": f.file, "line": f.line, "column": f.column, "message": f.message, "hint": f.hint });
            out::json(&faults.iter().map(row).collect::<Vec<_>>())?;
        } else {
            faults.iter().for_each(|fault| eprintln!("{fault}\n"));
        }
        match faults.len() {
            0 if self.json => Ok(()),
            0 => {
                say!("{file}: good; templates, flows, routes and users too");
                let settings = self.config.load()?;
                let templates = Templates::load_with(settings.templates.path.as_deref(), Some(&firmware_folder(&settings)))?;
                let remarks = beside::remarks(&templates.current(), &settings.dhcp.check()?, &settings.provisioning);
                let (http, https) = settings.http.doors();
                let by_v6 = http.iter().chain(https).any(SocketAddr::is_ipv6);
                let remarks_v6 = beside::remarks_v6(&settings.dhcp6.check()?, &settings.provisioning, by_v6);
                remarks.iter().chain(&remarks_v6).for_each(|remark| say!("  note: {remark}"));
                let remark = remark_https(&templates.current(), &settings.provisioning, !https.is_empty());
                remark.iter().for_each(|remark| say!("  note: {remark}"));
                let remark = remark_sips(&templates.current(), !settings.sip.tls.is_empty());
                remark.iter().for_each(|remark| say!("  note: {remark}"));
                remarks_acme(&settings).iter().for_each(|remark| say!("  note: {remark}"));
                if let Some((says, remedy)) = doctor::neighbours(&settings.dhcp.check()?) {
                    say!("  note: {says}: {remedy}");
                }
                Ok(())
            }
            1 => anyhow::bail!("1 fault"),
            many => anyhow::bail!("{many} faults"),
        }
    }
}

/// What else can be known without serving: templates, flows, routes, users, whom the sender of mails trusts.
pub fn beyond(file: &str, settings: &Settings) -> Vec<Fault> {
    let mut faults = Vec::new();
    match crate::template::read_with(settings.templates.path.as_deref(), Some(&firmware_folder(settings))) {
        Ok(sources) => match TemplateSet::load(&sources) {
            Ok(set) => {
                let known = || set.families().map(|family| &*family.id).collect::<Vec<_>>().join(", ");
                let strange = settings.tls.makers.keys().filter(|name| set.family(name).is_none());
                let fault = |name: &String| {
                    Fault::in_file(file, format!("tls.makers: there is no family '{name}'")).hint(format!("there are {}", known()))
                };
                faults.extend(strange.map(fault));
            }
            Err(more) => faults.extend(more),
        },
        Err(more) => faults.extend(more.0),
    }
    match loader::load_all(&settings.ivr) {
        Ok(_) => {}
        Err(ivr::settings::Error::Faults { faults: more }) => faults.extend(more),
        // Told by the section's own check.
        Err(ivr::settings::Error::Setting { .. }) => {}
    }
    faults.extend(routing::loader::load(settings.calls.routes.as_deref(), settings.calls.base()).err().unwrap_or_default());
    if let Some(mail) = settings.voicemail.mail.as_ref().filter(|_| settings.voicemail.enabled) {
        faults.extend(Mailer::new(mail).err().map(|error| Fault::in_file(file, error.to_string())));
    }
    if let Ok(directory::Config::File(config)) = settings.directory.check() {
        match directory::files::Files::open(config) {
            Ok(_) => {}
            Err(directory::Error::Users(fault)) => faults.push(fault),
            Err(other) => faults.push(Fault::in_file(file, other.to_string())),
        }
    }
    faults
}
