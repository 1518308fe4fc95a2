//! Reads the directory for the phone book: at the start, every few minutes, and when something has changed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{PhoneBook, Settings, entries};
use crate::{directory::Directory, store::Store};

/// People that are looked at.
const MOST_PEOPLE: usize = 50_000;
/// After the directory did not answer.
const AGAIN: Duration = Duration::from_secs(30);

impl PhoneBook {
    /// Keeps it fresh, for ever.
    pub async fn keep(self, settings: Settings, directory: Arc<dyn Directory>, store: Arc<dyn Store>) {
        let usual = Duration::from_secs(u64::from(settings.refresh_minutes) * 60);
        loop {
            let pause = match (directory.contacts(MOST_PEOPLE).await, store.extensions().await) {
                (Ok(people), Ok(extensions)) => {
                    // A user's latest is the one in use.
                    let given: HashMap<_, _> = extensions.into_iter().map(|(extension, user)| (user, extension)).collect();
                    self.set(&entries(people, &given, &settings));
                    usual
                }
                (Err(error), _) => {
                    tracing::warn!(%error, "the phone book stays as it was");
                    AGAIN.min(usual)
                }
                (_, Err(error)) => {
                    tracing::warn!(%error, "the phone book stays as it was");
                    AGAIN.min(usual)
                }
            };
            let _ = tokio::time::timeout(pause, self.0.read_again.notified()).await;
        }
    }
}
