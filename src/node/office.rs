//! The people, as the SIP engine asks for them and tells of their phones: by onboarding, templates and the directory's groups.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;

use crate::{
    call,
    model::{CallId, MacAddr},
    provisioning::{
        Onboarding,
        onboarding::{Registration, Sighting},
    },
    sip::registrar,
    template::Templates,
};

/// What the SIP engine asks and tells.
pub(super) struct Office {
    pub(super) onboarding: Onboarding,
    pub(super) templates: Templates,
    pub(super) groups: Arc<ArcSwap<Groups>>,
}

/// Groups of the directory, by the extension of who is in them.
pub(super) type Groups = HashMap<String, Vec<String>>;

impl call::Office for Office {
    fn is_extension(&self, number: &str) -> bool {
        !self.onboarding.identities().devices_of(number).is_empty()
    }

    fn display_name(&self, number: &str) -> String {
        let identities = self.onboarding.identities();
        let first = identities.devices_of(number).into_iter().next();
        first.map(|(mac, line)| identities.identity(mac, line)).map(|identity| identity.display_name).unwrap_or_default()
    }

    fn has_mailbox(&self, number: &str) -> bool {
        call::Office::is_extension(self, number)
    }

    fn groups(&self, number: &str) -> Vec<String> {
        self.groups.load().get(number).cloned().unwrap_or_default()
    }

    fn location(&self, mac: MacAddr) -> Option<String> {
        self.onboarding.identities().location(mac)
    }

    fn registered(&self, contact: &registrar::Contact, refreshed: bool) {
        if !refreshed && let Some(user_agent) = &contact.user_agent {
            let recognised = self.templates.current().recognise_user_agent(user_agent.as_bytes()).unwrap_or_default();
            let address = Some(contact.flow.peer.ip());
            let (family, model, firmware) =
                (Some(recognised.family).filter(|family| !family.is_empty()), recognised.model, recognised.firmware);
            self.onboarding.seen(Sighting { family, model, firmware, address, phone: true, ..Sighting::of(contact.mac) });
        }
        self.onboarding.registered(Registration::from(contact));
    }

    fn leg(&self, mac: MacAddr, call: CallId, leg: u32, up: bool) {
        self.onboarding.leg(mac, call, leg, up);
    }

    fn unregistered(&self, contact: &registrar::Contact) {
        self.onboarding.unregistered(contact.mac, contact.line, contact.generation);
    }
}
