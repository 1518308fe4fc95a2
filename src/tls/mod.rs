//! Who this server is to those who speak TLS to it, by SIP or by HTTPS: one certificate for all doors, and the authority behind it.
//!
//! [`certificate`], [`identity`] and [`makers`] are pure; `files.rs` keeps what they make, and renews it. `acme/` has another authority
//! sign for us. Not here: sockets.

pub mod acme;
pub mod certificate;
pub mod files;
pub mod identity;
pub mod makers;

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use files::{Certificates, Source};
pub use identity::{Identity, Tls, TlsError};
pub use makers::Certified;

/// TLS: who the server is to phones and trunks, for `sip.tls`, `sip.wss` and `http.tls`. All is read again at a reload; calls go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// A certificate in PEM that was made elsewhere, with its chain, instead of ours.
    pub certificate: Option<PathBuf>,
    /// Its key in PEM, without a password.
    pub key: Option<PathBuf>,
    /// A certificate that another authority signs by itself, as Let's Encrypt; ours is shown until it does.
    pub acme: Option<acme::Settings>,
    /// The authority in PEM that signed `certificate`, or signs by `acme`, where phones do not know it by themselves: they are given it
    /// as they are given ours.
    pub authority: Option<PathBuf>,
    /// More authorities in PEM whose certificates we believe where we connect by TLS. Ours is believed anyway.
    pub trust: Option<PathBuf>,
    /// Makers' authorities, each by the name of its family of templates: a file in PEM, or a folder of such. A phone that shows a
    /// certificate of its maker's with its MAC in it, by HTTPS, may have its files wherever it is.
    pub makers: BTreeMap<String, PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("tls: `certificate` and `key` belong together: write both, or neither")]
    HalfPair,
    #[error("tls.authority: it goes with a `certificate` or `acme`: phones are given our own authority anyway")]
    LonelyAuthority,
    #[error("tls.acme: it would bring another certificate than that of `tls.certificate`: write one of them")]
    TwoCertificates,
    #[error(transparent)]
    Acme(#[from] acme::SettingsError),
}

impl Settings {
    pub fn check(&self) -> Result<(), SettingsError> {
        if self.certificate.is_some() != self.key.is_some() {
            return Err(SettingsError::HalfPair);
        }
        if self.authority.is_some() && self.certificate.is_none() && self.acme.is_none() {
            return Err(SettingsError::LonelyAuthority);
        }
        if self.acme.is_some() && self.certificate.is_some() {
            return Err(SettingsError::TwoCertificates);
        }
        Ok(self.acme.as_ref().map_or(Ok(()), acme::Settings::check)?)
    }

    /// Where the certificate comes from. `folder` and `names` (what phones may call us, beside host name and addresses) are for
    /// one that we make ourselves.
    pub fn source(&self, folder: PathBuf, names: Vec<String>) -> Source {
        let given = self.certificate.clone().zip(self.key.clone());
        let asked_for = self.acme.iter().flat_map(|acme| acme.names.iter().cloned());
        Source {
            folder,
            given,
            acme: self.acme.clone(),
            authority: self.authority.clone(),
            trust: self.trust.clone(),
            makers: self.makers.clone(),
            names: names.into_iter().chain(asked_for).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_pair_is_a_fault() {
        assert!(Settings::default().check().is_ok());
        assert_eq!(Settings { key: Some("k".into()), ..Settings::default() }.check(), Err(SettingsError::HalfPair));
        assert_eq!(Settings { authority: Some("a".into()), ..Settings::default() }.check(), Err(SettingsError::LonelyAuthority));
        let acme = Some(acme::Settings { names: vec!["pbx.example.com".into()], ..acme::Settings::default() });
        assert!(Settings { authority: Some("a".into()), acme: acme.clone(), ..Settings::default() }.check().is_ok());
        let both = Settings { certificate: Some("c".into()), key: Some("k".into()), acme, ..Settings::default() };
        assert_eq!(both.check(), Err(SettingsError::TwoCertificates));
    }
}
