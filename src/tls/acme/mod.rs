//! A certificate from an authority that is asked by ACME (RFC 8555), as Let's Encrypt and many a company's own are.
//!
//! [`renewal`] decides when it is asked, [`failure`] what is told when it refuses; both are pure. `client.rs` speaks to it,
//! `worker.rs` runs it all. It looks whether the names are ours by fetching a text from our plain HTTP door (HTTP-01), which finds it in
//! [`Challenges`]. What it signed is kept by `files.rs`, beside our own, which is shown while there is nothing better.
//! Missing: TLS-ALPN-01 and DNS-01, external account binding, renewal information (RFC 9773).

mod client;
pub mod failure;
pub mod renewal;
pub mod worker;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// A certificate that another authority signs, which is asked by ACME (RFC 8555) and looks at our HTTP door whether the names are ours.
/// Who names it agrees to its terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The authority's directory; Let's Encrypt's when not set.
    pub directory: String,
    /// What phones call this server, as `pbx.example.com`: names that lead here from wherever the authority is. Addresses, where it signs
    /// such.
    pub names: Vec<String>,
    /// An e-mail address to which the authority may write.
    pub contact: Option<String>,
    /// The root in PEM by which the directory's own HTTPS is believed; those that the system trusts when not set.
    pub ca: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { directory: LETS_ENCRYPT.to_owned(), names: vec![], contact: None, ca: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("tls.acme.directory: '{0}' is no https URL, as that of Let's Encrypt is: {LETS_ENCRYPT}")]
    Directory(String),
    #[error("tls.acme.names: which names shall the certificate have? Write those that phones are told, as [pbx.example.com]")]
    NoNames,
    #[error("tls.acme.names: '{0}' is no name that a certificate can be had for by HTTP: write names as pbx.example.com, without `*`")]
    Name(String),
    #[error("tls.acme.contact: '{0}' is no e-mail address")]
    Contact(String),
}

impl Settings {
    pub fn check(&self) -> Result<(), SettingsError> {
        if !self.directory.starts_with("https://") || self.directory.contains(char::is_whitespace) {
            return Err(SettingsError::Directory(self.directory.clone()));
        }
        if self.names.is_empty() {
            return Err(SettingsError::NoNames);
        }
        let is_name = |name: &String| {
            let label = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            name.parse::<std::net::IpAddr>().is_ok() || name.split('.').all(label)
        };
        if let Some(name) = self.names.iter().find(|name| !is_name(name)) {
            return Err(SettingsError::Name(name.clone()));
        }
        match &self.contact {
            Some(contact) if !contact.contains('@') || contact.contains(|c: char| c.is_whitespace() || c == ':') => {
                Err(SettingsError::Contact(contact.clone()))
            }
            _ => Ok(()),
        }
    }

    /// As certificates have them.
    pub fn certified_names(&self) -> Vec<String> {
        let plain = |name: &String| match name.parse::<std::net::IpAddr>() {
            Ok(address) => address.to_string(),
            Err(_) => name.to_ascii_lowercase(),
        };
        self.names.iter().map(plain).collect()
    }
}

/// What the authority shall find at `/.well-known/acme-challenge/` (RFC 8555 §8.3), by token: of an order under way, else empty. Cheap
/// to clone.
#[derive(Clone, Debug, Default)]
pub struct Challenges(Arc<Mutex<HashMap<String, String>>>);

impl Challenges {
    /// For whoever asks.
    pub fn answer(&self, token: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }

    fn put(&self, token: String, text: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(token, text);
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_authority_would_sign_is_a_fault() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let good = Settings { names: names(&["pbx.example.com", "192.0.2.1", "2001:db8::1"]), ..Settings::default() };
        assert_eq!(good.check(), Ok(()));
        assert_eq!(Settings::default().check(), Err(SettingsError::NoNames));
        for name in ["*.example.com", "pbx_1.example.com", "https://pbx.example.com", "", "pbx..com", "büro.example.com"] {
            let wrong = Settings { names: names(&[name]), ..Settings::default() };
            assert_eq!(wrong.check(), Err(SettingsError::Name(name.into())), "{name}");
        }
        for directory in ["http://ca.example.com/dir", "ca.example.com", "https://ca .example.com"] {
            let wrong = Settings { directory: directory.into(), ..good.clone() };
            assert_eq!(wrong.check(), Err(SettingsError::Directory(directory.into())), "{directory}");
        }
        let wrong = Settings { contact: Some("mailto:it@example.com".into()), ..good };
        assert!(matches!(wrong.check(), Err(SettingsError::Contact(_))));
    }
}
