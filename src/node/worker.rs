//! What runs between the services: a directory that a reload may replace, who is in which group, onboarding's orders to the SIP engine.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::mpsc;

use super::office::Groups;
use crate::{
    call,
    directory::{self, Directory},
    journal::{self, Journal},
    model::{Event, Keys, User},
    provisioning::{Onboarding, onboarding::Output},
    sip::notify,
    store::Store,
    voicemail,
};

/// A directory that a reload may replace.
pub(super) struct Replaceable(pub(super) ArcSwap<Arc<dyn Directory>>);

#[async_trait]
impl Directory for Replaceable {
    async fn authenticate(&self, login: &str, pin: &Keys) -> Result<User, directory::Denied> {
        self.0.load_full().authenticate(login, pin).await
    }

    async fn find(&self, login: &str) -> Result<Option<User>, directory::Denied> {
        self.0.load_full().find(login).await
    }

    async fn list(&self, limit: usize) -> Result<Vec<User>, directory::Denied> {
        self.0.load_full().list(limit).await
    }

    async fn contacts(&self, limit: usize) -> Result<Vec<directory::Contact>, directory::Denied> {
        self.0.load_full().contacts(limit).await
    }
}

/// Onboarding's orders to the SIP engine. A phone that answers slowly holds up nobody.
pub(super) async fn carry_out(mut orders: mpsc::Receiver<Output>, calls: call::Handle, onboarding: Onboarding, store: Arc<dyn Store>) {
    while let Some(order) = orders.recv().await {
        match order {
            Output::DropContacts { mac, keep_generation, keep_lines } => calls.drop_contacts(mac, keep_generation, keep_lines).await,
            Output::Reload(reload) => {
                // What the last owner changed on the phone would win over the new files.
                if let Err(error) = store.remove_uploads(reload.mac).await {
                    tracing::warn!(mac = %reload.mac, %error, "what the phone uploaded stays");
                }
                let (calls, onboarding) = (calls.clone(), onboarding.clone());
                tokio::spawn(async move {
                    let outcome = match reload.order() {
                        Some(order) => calls.notify(order).await,
                        None => notify::Outcome::Unreachable,
                    };
                    onboarding.reload_answered(reload.mac, reload.generation, outcome.status());
                });
            }
        }
    }
}

/// Users whose groups are looked at.
const MOST_USERS: usize = 50_000;
/// How long a change of groups in the directory may take to count for calls.
const GROUPS_AGAIN: Duration = Duration::from_secs(300);

/// Knows which groups the user of each extension is in, and where mail reaches them: asks at the start, when somebody is bound, and
/// every few minutes. While the directory does not answer, what was known last counts.
pub(super) async fn learn_people(
    groups: Arc<ArcSwap<Groups>>,
    addresses: voicemail::worker::Addresses,
    directory: Arc<Replaceable>,
    store: Arc<dyn Store>,
    journal: Journal,
) {
    let mut events = journal.subscribe_live();
    loop {
        if let (Ok(users), Ok(bindings)) = (directory.list(MOST_USERS).await, store.bindings().await) {
            let of: HashMap<_, _> = users.into_iter().map(|user| (user.id, (user.groups, user.mail))).collect();
            let known: Vec<_> =
                bindings.into_iter().filter_map(|one| Some((one.extension.to_string(), of.get(&one.user_id)?.clone()))).collect();
            let mail = known.iter().filter_map(|(extension, (_, mail))| Some((extension.clone(), mail.clone()?)));
            addresses.store(Arc::new(mail.collect()));
            let known = known.into_iter().map(|(extension, (groups, _))| (extension, groups));
            groups.store(Arc::new(known.filter(|(_, groups)| !groups.is_empty()).collect()));
        }
        let bound = async {
            while let Some(delivery) = events.next().await {
                let journal::Delivery::Event(recorded) = delivery else { return };
                if matches!(recorded.event, Event::Bound { .. } | Event::ConfigReloaded { .. }) {
                    return;
                }
            }
            std::future::pending::<()>().await;
        };
        let _ = tokio::time::timeout(GROUPS_AGAIN, bound).await;
    }
}
