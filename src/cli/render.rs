//! `render`: prints what a phone would get, from the configuration and templates on disk; the server need not run.

use std::{net::IpAddr, path::Path, sync::Arc};

use clap::Args;
use serde::Serialize;

use super::{
    ConfigArg,
    out::{self, say},
};
use crate::{
    binding::{self, MasterKey},
    config::Settings,
    model::{Extension, MacAddr, Secret},
    node::{authority, firmware_folder, own_address, sip_ports},
    provisioning::{
        Endpoints, Known, Profile,
        identities::auth_user,
        variables::{self, Own},
    },
    store::{Store, sqlite::Sqlite},
    template::{Contacts, Line, Rendered, Subject, TemplateSet, Templates},
};

/// Prints the files that a phone would get, with secrets masked.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone render --mac 00:15:65:aa:bb:cc               as it is now
  plugtone render --mac 00:15:65:aa:bb:cc --as 2041     as if it were bound
  plugtone render --mac c0:74:ad:00:00:01 --model GRP2614 --unbound
  plugtone render --mac 00:15:65:aa:bb:cc --mac 64:16:7f:00:00:01 --json | jq '.[].name'
  plugtone render --mac 00:15:65:aa:bb:cc --explain     which file each value comes from")]
pub struct Render {
    /// Whose; several times for several.
    #[arg(long = "mac", value_name = "MAC", required = true)]
    macs: Vec<MacAddr>,
    /// Show the secrets too. Who sees them can register as this phone.
    #[arg(long)]
    show_secrets: bool,
    /// Instead of files: every variable with its value and where it was set.
    #[arg(long)]
    explain: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    wanted: Wanted,
}

impl Render {
    pub async fn run(self) -> anyhow::Result<()> {
        let ground = self.wanted.ground(self.show_secrets)?;
        let mut files = Vec::new();
        for mac in &self.macs {
            let seen = self.wanted.look(&ground, *mac).await?;
            let masked = |text: &str| if self.show_secrets { text.to_owned() } else { seen.masked(text) };
            let Seen { family, subject, .. } = &seen;
            if self.explain {
                say!("──── {mac}  ({family})");
                for (name, value) in ground.set.variables(family, subject) {
                    say!("{name} = {}    # {}", masked(&value.value.to_string()), value.origin);
                }
                continue;
            }
            for file in ground.set.files(family, subject) {
                let Rendered { name, bytes, content_type, .. } = ground.set.render(&file, subject)?;
                files.push(Shown { mac: mac.to_string(), name, content_type, text: masked(&String::from_utf8_lossy(&bytes)) });
            }
        }
        if self.json && !self.explain {
            return out::json(&files);
        }
        for Shown { name, content_type, text, .. } in &files {
            say!("──── {name}  ({content_type})");
            say!("{text}");
        }
        Ok(())
    }
}

/// A file, as it is shown.
#[derive(Serialize)]
struct Shown {
    mac: String,
    name: String,
    content_type: String,
    text: String,
}

/// The phone that is looked at, and as what.
#[derive(Args)]
pub(super) struct Wanted {
    /// The family; told by the MAC's prefix if absent.
    #[arg(long)]
    family: Option<String>,
    #[arg(long)]
    model: Option<String>,
    /// As a phone that nobody owns.
    #[arg(long, conflicts_with = "extension")]
    unbound: bool,
    /// As if it were bound to this extension.
    #[arg(long = "as", value_name = "EXTENSION", id = "extension")]
    extension: Option<Extension>,
    #[command(flatten)]
    config: ConfigArg,
}

/// What is read once, for all phones that are looked at.
pub(super) struct Ground {
    settings: Settings,
    pub(super) set: Arc<TemplateSet>,
    key: MasterKey,
}

/// A phone as its templates see it.
pub(super) struct Seen {
    pub(super) family: String,
    pub(super) subject: Subject,
    secrets: Vec<Secret>,
}

impl Seen {
    pub(super) fn masked(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.expose(), "••••••"))
    }
}

impl Wanted {
    /// `secrets`: they are to be shown.
    pub(super) fn ground(&self, secrets: bool) -> anyhow::Result<Ground> {
        let settings = self.config.load()?;
        let templates = Templates::load_with(settings.templates.path.as_deref(), Some(&firmware_folder(&settings)))?;
        let set = templates.current();
        let data = settings.store.path.parent().unwrap_or(Path::new("."));
        let key_file = data.join("master.key");
        let key = match binding::files::load(&key_file)? {
            Some(key) => key,
            None if secrets => {
                anyhow::bail!("there are no secrets yet: the server makes {} at its first start", key_file.display())
            }
            // Nothing of it is shown; the server makes the real one, as its own user.
            None => MasterKey::new([0; 32]),
        };
        Ok(Ground { settings, set, key })
    }

    pub(super) async fn look(&self, ground: &Ground, mac: MacAddr) -> anyhow::Result<Seen> {
        let Ground { settings, set, key } = ground;
        // Who is in it does not matter here.
        let contacts = settings.provisioning.phone_book.enabled.then(|| Contacts::new(std::iter::empty()));
        let (mut known, mut address) = (Known { contacts, ..Known::default() }, None);
        let mut profile = Profile::default();
        let mut owners: Vec<_> =
            self.extension.iter().map(|extension| (1, extension.clone(), format!("Extension {extension}"), 0)).collect();
        if owners.is_empty() && !self.unbound && settings.store.path.exists() {
            let store = Sqlite::open(&settings.store.path)?;
            if let Some(device) = store.device(mac).await? {
                (known.generation, address) = (device.generation, device.address.map(IpAddr::V4));
                (profile.family, profile.model, profile.firmware) = (device.family, device.model, device.firmware);
                profile.inventory = device.inventory;
            }
            let bindings: Vec<_> = store.bindings().await?.into_iter().filter(|binding| binding.mac == mac).collect();
            let first = bindings.iter().find(|binding| binding.line == 1);
            profile.user_id = first.map(|binding| binding.user_id.clone());
            owners = bindings.into_iter().map(|held| (held.line, held.extension, held.display_name, held.generation)).collect();
            store.close().await;
        }
        let owned = owners.into_iter().map(|(number, extension, name, generation)| Line {
            number,
            user: extension.to_string(),
            auth_user: auth_user(mac, number),
            secret: key.sip_secret(mac, number, generation),
            display_name: name,
            label: Some(extension.to_string()),
            extension: Some(extension),
        });
        known.lines = owned.collect();
        known.profile = Arc::new(profile);
        let family = self.family.clone().or(known.profile.family.clone());
        let family = family.as_deref().or(set.recognise_mac(mac)).unwrap_or("generic").to_owned();
        if set.family(&family).is_none() {
            let names: Vec<&str> = set.families().map(|family| &*family.id).collect();
            anyhow::bail!("there is no family '{family}'; there are {}", names.join(", "));
        }
        let mut endpoints = Endpoints {
            address: own_address(settings),
            tftp_port: settings.tftp.listen.first().map_or(69, |at| at.port()),
            sip: sip_ports(settings),
            realm: settings.sip.realm.clone(),
            authority: authority(settings),
            ..Endpoints::default()
        };
        endpoints.set_http(settings.http.doors());
        let model = self.model.clone().or(known.profile.model.clone());
        let (firmware, source) = (known.profile.firmware.clone(), address.unwrap_or(endpoints.address));
        let own = Own { mac, known: &known, family: &family, model, firmware, source, local: None };
        let subject = variables::own(set, &settings.provisioning, &endpoints, key, own);
        let mut secrets: Vec<_> = subject.lines.iter().map(|line| line.secret.clone()).collect();
        secrets.extend([subject.admin_password.clone(), subject.file_key.clone()].into_iter().flatten());
        secrets.push(key.url_token(mac, known.generation));
        // And what people have set: `admin_password`, `dot1x_password`.
        let set_by_people = set.variables(&family, &subject).into_iter().filter(|(name, _)| name.ends_with("password"));
        let written = set_by_people.filter_map(|(_, layered)| Some(Secret::new(layered.value.as_str().filter(|text| !text.is_empty())?)));
        secrets.extend(written);
        Ok(Seen { family, subject, secrets })
    }
}
