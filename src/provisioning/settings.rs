//! `provisioning:` in the configuration: what phones are told of the server, and who may read their files.

use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::phone_book;
use crate::template::TemplateSet;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where phones fetch their files, as `http://prov.example.org:8080`. Empty: the address at which the phone reached us
    /// and the port of the HTTP server.
    pub url: String,
    /// Name or address at which phones register. Empty: the address at which the phone reached us.
    pub sip_host: String,
    /// Puts a key of the phone's own into its URL (`…/t/001565aabbcc-…/`), which proves the phone where its address cannot:
    /// behind NAT, or where another DHCP server leases. `plugtone render` shows the URL, to be typed in once; with each change of owner the
    /// phone gets the next key in its file. One that was off meanwhile, and is elsewhere now, is let in by `plugtone phones admit`.
    pub url_tokens: bool,
    /// Answers phones that ask by multicast where their settings are (SIP plug and play), in networks that this machine is in. For
    /// offices where another DHCP server leases; phones that belong to another system would be taken over, too.
    pub pnp: bool,
    /// Fallback for networks where another DHCP server gives the addresses.
    pub open: OpenSettings,
    /// Take what phones upload: their menu's settings, phone books, call lists, logs.
    pub uploads: bool,
    /// A phone book from the directory, in the words of each make that is known to read one.
    pub phone_book: phone_book::Settings,
    /// A folder for the makers' firmware (`plugtone firmware`). Without it: `firmware` beside the database.
    pub firmware: Option<PathBuf>,
}

/// An address of these networks may have the files of one phone: of the first whose files it asks for. It is weaker than a
/// lease of ours: whoever is faster than the phone gets its provisional identity. Empty `subnets` closes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OpenSettings {
    /// As `10.20.0.0/16`.
    #[schemars(with = "Vec<String>")]
    pub subnets: Vec<IpNet>,
    /// For how many minutes after the start of the server; 0: as long as it runs.
    pub minutes: u32,
    /// How long, in minutes, phone and address belong together after the last file.
    pub claim_minutes: u32,
    /// Where it is not 0: only a phone that was never here has its files so, from the address at which it asks first, for so many minutes,
    /// once, and while nobody owns it; after that by the key in its URL, for which `url_tokens` must be on. A second address that asks for
    /// the phone meanwhile is told (`odd_fetches`). `plugtone phones admit` lets in whoever needs it again.
    pub first_boot_minutes: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            url: String::new(),
            sip_host: String::new(),
            url_tokens: false,
            pnp: false,
            open: OpenSettings::default(),
            uploads: true,
            phone_book: phone_book::Settings::default(),
            firmware: None,
        }
    }
}

impl Default for OpenSettings {
    fn default() -> Self {
        Self { subnets: Vec::new(), minutes: 0, claim_minutes: 60, first_boot_minutes: 0 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("provisioning.url: '{0}' is not a URL that phones can use: write http://prov.example.org:8080, or leave it empty")]
    Url(String),
    #[error("provisioning.open.claim_minutes is 0: an address could then ask for one phone's files after the other's; 60 is usual")]
    Claim,
    #[error(
        "provisioning.open.first_boot_minutes: when its first boot is over, a phone has its files by the key in its URL: write `provisioning.url_tokens: true` as well"
    )]
    FirstBoot,
    #[error("provisioning.phone_book.{key}: {reason}")]
    PhoneBook { key: &'static str, reason: String },
}

impl Settings {
    pub fn check(&self) -> Result<(), SettingsError> {
        let known = ["http://", "https://", "tftp://", "ftp://"].iter().any(|scheme| self.url.starts_with(scheme));
        if !self.url.is_empty() && (!known || self.url.contains(char::is_whitespace)) {
            return Err(SettingsError::Url(self.url.clone()));
        }
        if self.open.claim_minutes == 0 {
            return Err(SettingsError::Claim);
        }
        if self.open.first_boot_minutes > 0 && !self.url_tokens {
            return Err(SettingsError::FirstBoot);
        }
        self.phone_book.check().map_err(|(key, reason)| SettingsError::PhoneBook { key, reason })
    }
}

/// What `sip_transport: tls` in the templates cannot do as things are. `served`: do we speak SIP over TLS?
pub fn remark_sips(set: &TemplateSet, served: bool) -> Option<&'static str> {
    (!served && set.is_somewhere("sip_transport", "tls")).then_some(
        "templates send phones to SIP over TLS, which is off: name an address in `sip.tls`; until then they are told another transport",
    )
}

/// What `https: true` in the templates cannot do as things are. `served`: do we speak HTTPS?
pub fn remark_https(set: &TemplateSet, settings: &Settings, served: bool) -> Option<&'static str> {
    match (set.is_on_somewhere("https"), served) {
        (true, false) if settings.url.is_empty() => {
            Some("templates send phones to HTTPS, which is off: name an address in `http.tls`; until then they are told the usual URL")
        }
        (true, _) if !settings.url.is_empty() && !settings.url.starts_with("https:") => {
            Some("templates send phones to HTTPS, and `provisioning.url` names another URL, which is what they are told")
        }
        _ => None,
    }
}
