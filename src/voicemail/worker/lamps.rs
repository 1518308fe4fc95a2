//! The lamps for messages: one task looks what each mailbox has that has changed, and tells the engine.
//!
//! As it is one, and looks after it was told of a change, the last word of a lamp is the truth. Who watches a lamp, and how the
//! phone is told, is the engine's (`call::watching`).

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::mpsc;
use tracing::warn;

use crate::{call, store::Store, voicemail::mailbox};

/// Mailboxes that may wait to be looked at; then whoever changes another waits.
pub const WAITING: usize = 64;

pub struct Lamps {
    pub store: Arc<dyn Store>,
    pub calls: call::Handle,
}

impl Lamps {
    /// Until nobody is left who could change a mailbox.
    pub async fn keep(self, mut changed: mpsc::Receiver<String>) {
        let mut mailboxes = Vec::new();
        while changed.recv_many(&mut mailboxes, WAITING).await > 0 {
            // One that changed several times is looked at once.
            for mailbox in mailboxes.drain(..).collect::<BTreeSet<_>>() {
                self.light(&mailbox).await;
            }
        }
    }

    pub async fn light(&self, mailbox: &str) {
        match self.store.voice_messages(Some(mailbox.to_owned())).await {
            Ok(messages) => self.calls.set_mailbox(mailbox, mailbox::lamp(&messages)).await,
            Err(fault) => warn!(mailbox, %fault, "a lamp for messages may be wrong"),
        }
    }
}
