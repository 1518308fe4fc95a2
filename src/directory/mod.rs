//! Who is this person? [`Directory`] is asked by the IVR and by admins; `ldap.rs` and `files.rs` answer.
//!
//! Not here: extensions, devices, how often one may try (`binding/attempts.rs`).

use async_trait::async_trait;

use crate::model::{Keys, User};

/// Why somebody was not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No such login, wrong PIN, empty PIN, or not allowed: deliberately one answer, given after the same time.
    #[error("the number or the PIN is wrong")]
    Refused,
    #[error("the directory cannot answer: {0}")]
    Unavailable(String),
}

#[async_trait]
pub trait Directory: Send + Sync + 'static {
    /// Checks a log-in. Never takes longer than the configured limit; never sends an empty PIN anywhere.
    async fn authenticate(&self, login: &str, pin: &Keys) -> Result<User, Denied>;
    /// Finds somebody by login, for admins (`plugtone bind`). `None`: nobody.
    async fn find(&self, login: &str) -> Result<Option<User>, Denied>;
    /// The first `limit` users, by login.
    async fn list(&self, limit: usize) -> Result<Vec<User>, Denied>;
}
