//! The `directory:` section: what an administrator writes, and what it means after [`Settings::check`].

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::Deserialize;

use super::Error;
use crate::model::Secret;

/// Where users and their PINs are looked up.
///
/// ```yaml
/// directory:
///   ldap:
///     servers: [ldap://ldap1.example.com, ldap://ldap2.example.com]
///     base: ou=people,dc=example,dc=com
/// ```
#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `ldap` or `file`. Needed only when both sections are there.
    pub kind: Option<Kind>,
    pub file: Option<FileSettings>,
    pub ldap: Option<LdapSettings>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Ldap,
    File,
}

/// A YAML file with the users and the argon2id hashes of their PINs.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FileSettings {
    /// The file. Make hashes for it with `plugtone pin hash`.
    pub path: PathBuf,
}

impl Default for FileSettings {
    fn default() -> Self {
        Self { path: "users.yaml".into() }
    }
}

#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LdapSettings {
    /// Servers in order of preference: `ldap://host[:389]` or `ldaps://host[:636]`. The next is asked when one fails.
    pub servers: Vec<String>,
    /// What protects `ldap://`: `starttls`, or `none`, which sends PINs in clear over the network.
    pub tls: Tls,
    /// PEM file of the authority that signed the servers' certificates; without it the system's authorities count.
    pub ca_file: Option<PathBuf>,
    /// `full`, or `none`: any certificate is believed, and whoever sits in between reads the PINs.
    pub verify: Verify,
    /// Who searches: the DN of a service account. Empty: anonymous.
    pub bind_dn: String,
    /// Its password; better in a file (`bind_password_file`) or in the environment (PLUGTONE_LDAP_BIND_PASSWORD).
    pub bind_password: Option<Secret>,
    /// File that holds the password, and nothing else.
    pub bind_password_file: Option<PathBuf>,
    /// Below which DN the users are, as `ou=people,dc=example,dc=com`.
    pub base: String,
    /// What else a user must match, as `(objectClass=person)` or
    /// `(memberOf=cn=phones,ou=groups,dc=example,dc=com)`.
    pub filter: String,
    /// Attributes that the keyed number is looked up in. Exactly one person may match.
    pub login: Vec<String>,
    /// How the PIN is checked: `bind` logs in to the directory as that user with the PIN as password;
    /// `compare` reads `pin_attribute` with the service account.
    pub check: Check,
    /// For `compare`: the attribute with the PIN, hashed (`{ARGON2}`, `{SSHA256}`, `{SSHA512}`) or plain.
    pub pin_attribute: String,
    pub attributes: Attributes,
    /// Longest time for one log-in over all servers, in ms; then the caller hears that the directory does not answer.
    pub timeout_ms: u64,
    /// Longest time for one server, in ms; then the next is asked.
    pub server_timeout_ms: u64,
    /// Connections in use at once; more callers wait.
    pub connections: usize,
}

impl Default for LdapSettings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            tls: Tls::Starttls,
            ca_file: None,
            verify: Verify::Full,
            bind_dn: String::new(),
            bind_password: None,
            bind_password_file: None,
            base: String::new(),
            filter: "(objectClass=person)".into(),
            login: vec!["employeeNumber".into(), "telephoneNumber".into()],
            check: Check::Bind,
            pin_attribute: String::new(),
            attributes: Attributes::default(),
            timeout_ms: 6000,
            server_timeout_ms: 2500,
            connections: 16,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    Starttls,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    Full,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    Bind,
    Compare,
}

/// Which attributes hold what.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Attributes {
    /// The first of these that is there names the user.
    pub display_name: Vec<String>,
    pub mail: String,
    /// The user's extension. Without a value one of `extensions.range` is given.
    pub extension: String,
    /// When the attribute holds whole numbers as `+49 30 1234-2041`: how many of the last digits are the extension.
    pub extension_last_digits: Option<usize>,
    pub groups: String,
    /// Other numbers for the phone book, each kind with its attribute, as `{ mobile: mobile, home: homePhone }`. Everybody with a
    /// phone sees them.
    pub more_numbers: BTreeMap<String, String>,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            display_name: vec!["displayName".into(), "cn".into()],
            mail: "mail".into(),
            extension: "telephoneNumber".into(),
            extension_last_digits: None,
            groups: "memberOf".into(),
            more_numbers: BTreeMap::new(),
        }
    }
}

/// What the section means.
#[derive(Clone, Debug)]
pub enum Config {
    File(FileSettings),
    Ldap(Box<LdapConfig>),
}

/// LDAP settings that make sense together.
#[derive(Clone, Debug)]
pub struct LdapConfig {
    pub settings: LdapSettings,
    pub timeout: Duration,
    pub server_timeout: Duration,
}

impl Settings {
    /// Which directory is meant, or what is missing. Reads no file.
    pub fn check(&self) -> Result<Config, Error> {
        let kind = match (self.kind, &self.ldap, &self.file) {
            (Some(kind), ..) => kind,
            (None, Some(_), Some(_)) => return Err(Error::TwoSources),
            (None, Some(_), None) => Kind::Ldap,
            (None, None, Some(_)) => Kind::File,
            (None, None, None) => return Err(Error::NoSource),
        };
        match kind {
            Kind::Ldap => self.ldap.as_ref().ok_or(Error::SectionMissing { kind: "ldap" })?.check().map(|c| Config::Ldap(Box::new(c))),
            Kind::File => self.file.clone().map(Config::File).ok_or(Error::SectionMissing { kind: "file" }),
        }
    }
}

impl LdapSettings {
    pub fn check(&self) -> Result<LdapConfig, Error> {
        let wrong = |key, reason: &str| Err(Error::Setting { key, reason: reason.to_owned() });
        if self.servers.is_empty() {
            return wrong("ldap.servers", "names no server: write [ldap://ldap.example.com]");
        }
        for server in &self.servers {
            let rest = server.strip_prefix("ldap://").or_else(|| server.strip_prefix("ldaps://"));
            if rest.is_none_or(|host| host.is_empty() || host.contains(['/', ' ', '@'])) {
                return wrong("ldap.servers", &format!("'{server}' is not ldap://host[:port] or ldaps://host[:port]"));
            }
        }
        if self.base.is_empty() {
            return wrong("ldap.base", "is needed: where are the users, as ou=people,dc=example,dc=com?");
        }
        if self.login.is_empty() || self.login.iter().any(|name| !is_attribute(name)) {
            return wrong("ldap.login", "names the attributes that hold what users key in, as [employeeNumber]");
        }
        if !(self.filter.is_empty() || self.filter.starts_with('(') && self.filter.ends_with(')')) {
            return wrong("ldap.filter", "is an LDAP filter in brackets, as (objectClass=person)");
        }
        if self.attributes.more_numbers.values().any(|name| !is_attribute(name)) {
            return wrong("ldap.attributes.more_numbers", "names an attribute for each kind of number, as { mobile: mobile }");
        }
        if self.check == Check::Compare && !is_attribute(&self.pin_attribute) {
            return wrong("ldap.pin_attribute", "is needed for `check: compare`: which attribute holds the PIN?");
        }
        if self.bind_password.is_some() && self.bind_dn.is_empty() {
            return wrong("ldap.bind_dn", "is needed with `bind_password`: whose password is it?");
        }
        if !self.bind_dn.is_empty() && self.bind_password.as_ref().is_none_or(|p| p.expose().is_empty()) {
            return wrong("ldap.bind_password", "is needed with `bind_dn` and may not be empty; or name a `bind_password_file`");
        }
        if self.connections == 0 || self.server_timeout_ms == 0 || self.timeout_ms < self.server_timeout_ms {
            return wrong(
                "ldap.timeout_ms",
                "`connections` and the time limits are at least 1, and timeout_ms is not below server_timeout_ms",
            );
        }
        if self.attributes.extension_last_digits.is_some_and(|n| !(1..=15).contains(&n)) {
            return wrong("ldap.attributes.extension_last_digits", "is 1 to 15");
        }
        Ok(LdapConfig {
            settings: self.clone(),
            timeout: Duration::from_millis(self.timeout_ms),
            server_timeout: Duration::from_millis(self.server_timeout_ms),
        })
    }
}

/// A name or OID with options (RFC 4512 §1.4, §2.5): nothing that could change the meaning of a filter.
fn is_attribute(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.;".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str) -> Result<Config, Error> {
        serde_yaml::from_str::<Settings>(yaml).expect(yaml).check()
    }

    #[test]
    fn two_lines_are_enough_for_ldap() {
        let Config::Ldap(config) = check("ldap: { servers: [ldap://a], base: dc=x }").expect("good") else { panic!("not ldap") };
        assert_eq!(config.settings.tls, Tls::Starttls);
        assert!(matches!(check("file: { path: /etc/users.yaml }"), Ok(Config::File(_))));
    }

    #[test]
    fn faults_name_the_key() {
        for (yaml, word) in [
            ("{}", "names no source"),
            ("{ ldap: {}, file: {} }", "both"),
            ("{ kind: ldap, file: {} }", "no `directory.ldap` section"),
            ("ldap: { base: dc=x }", "ldap.servers"),
            ("ldap: { servers: [http://x], base: dc=x }", "http://x"),
            ("ldap: { servers: [ldap://x] }", "ldap.base"),
            ("ldap: { servers: [ldap://x], base: dc=x, login: ['uid)(x'] }", "ldap.login"),
            ("ldap: { servers: [ldap://x], base: dc=x, filter: objectClass=person }", "in brackets"),
            ("ldap: { servers: [ldap://x], base: dc=x, check: compare }", "pin_attribute"),
            ("ldap: { servers: [ldap://x], base: dc=x, bind_dn: cn=a }", "bind_password"),
            ("ldap: { servers: [ldap://x], base: dc=x, bind_dn: cn=a, bind_password: '' }", "not be empty"),
            ("ldap: { servers: [ldap://x], base: dc=x, timeout_ms: 10 }", "timeout_ms"),
        ] {
            let error = check(yaml).expect_err(yaml).to_string();
            assert!(error.contains(word), "{yaml}: {error}");
        }
    }
}
