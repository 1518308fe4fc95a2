//! Who is this person? [`Directory`] is asked by the IVR and by admins; `ldap.rs` and `files.rs` answer.
//!
//! `settings.rs` is the `directory:` section of the configuration, `pin.rs` compares a keyed PIN with what is stored.
//! Not here: extensions, devices, how often one may try (`binding/attempts.rs`).

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;

use crate::model::{Extension, Keys, User, event::Events};

/// A YAML file with argon2id hashes: labs, the demo, small offices.
pub mod files;
/// OpenLDAP, 389 Directory Server, Active Directory.
pub mod ldap;
/// PIN hashes as directories store them.
pub mod pin;
/// What an administrator writes.
pub mod settings;

pub use settings::{Config, Settings};

/// Why somebody was not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No such login, wrong PIN, empty PIN, or not allowed: deliberately one answer, given after the same time.
    #[error("the number or the PIN is wrong")]
    Refused,
    #[error("the directory cannot answer: {0}")]
    Unavailable(String),
}

/// What is wrong with the configuration of a directory, for the administrator who wrote it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "`directory` names no source: write `directory: {{ ldap: {{ servers: [ldap://…], base: … }} }}` or `directory: {{ file: {{ path: users.yaml }} }}`"
    )]
    NoSource,
    #[error("`directory` has both `ldap` and `file`: say which one counts with `directory.kind`")]
    TwoSources,
    #[error("`directory.kind` is '{kind}' but there is no `directory.{kind}` section")]
    SectionMissing { kind: &'static str },
    #[error("`directory.{key}`: {reason}")]
    Setting { key: &'static str, reason: String },
    #[error("cannot read {path}: {source}; `directory.{key}` names it")]
    Unreadable {
        key: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Something in the users' file.
    #[error(transparent)]
    Users(crate::yaml::Fault),
}

/// Somebody for the phone book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// As [`User::id`].
    pub id: String,
    pub name: String,
    pub extension: Option<Extension>,
    /// Kind and number as the directory has it, as `mobile` and `+49 171 1234567`.
    pub numbers: Vec<(String, String)>,
}

impl From<User> for Contact {
    fn from(user: User) -> Self {
        Self { id: user.id, name: user.display_name, extension: user.extension, numbers: Vec::new() }
    }
}

#[async_trait]
pub trait Directory: Send + Sync + 'static {
    /// Checks a log-in. Never takes longer than the configured limit; never sends an empty PIN anywhere.
    async fn authenticate(&self, login: &str, pin: &Keys) -> Result<User, Denied>;
    /// Finds somebody by login, for admins (`plugtone bind`). `None`: nobody.
    async fn find(&self, login: &str) -> Result<Option<User>, Denied>;
    /// The first `limit` users, by login.
    async fn list(&self, limit: usize) -> Result<Vec<User>, Denied>;
    /// The first `limit` people of the phone book, in no order: users, and others who have a number.
    async fn contacts(&self, limit: usize) -> Result<Vec<Contact>, Denied>;
}

/// Makes the configured directory. Needs a running tokio runtime.
///
/// A file is read now and its faults are told now; an LDAP server may be down: it is asked when somebody logs in.
pub fn open(config: Config, events: Events) -> Result<Arc<dyn Directory>, Error> {
    Ok(match config {
        Config::File(config) => Arc::new(files::Files::open(config)?),
        Config::Ldap(config) => Arc::new(ldap::LdapDirectory::new(*config, events)?),
    })
}

/// May this be looked up at all? Keeps empty and endless names from every directory.
fn plausible_login(login: &str) -> bool {
    (1..=128).contains(&login.len()) && !login.chars().any(char::is_control)
}

/// A directory tells groups by DN; people write the name.
pub fn is_group(own: &str, written: &str) -> bool {
    let first = own.split(',').next().and_then(|rdn| rdn.split_once('=')).map(|(_, value)| value.trim());
    own.eq_ignore_ascii_case(written) || first.is_some_and(|name| name.eq_ignore_ascii_case(written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_told_by_name_or_whole() {
        assert!(is_group("cn=Sales,ou=groups,dc=x", "sales"));
        assert!(is_group("cn=Sales,ou=groups,dc=x", "CN=sales,ou=groups,dc=x"));
        assert!(is_group("sales", "Sales"));
        assert!(!is_group("cn=Sales Berlin,dc=x", "sales"));
    }
}
