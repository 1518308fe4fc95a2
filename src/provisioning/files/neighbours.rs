//! Whom [`Files`](super::Files) asks and tells: who holds an address, who a phone is, whose a soft phone becomes.

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;

use crate::{
    directory::Directory,
    model::{DeviceRecord, Events, FamilyName, Generation, MacAddr, Timestamp},
    provisioning::{
        History, Identity, Onboarding, PhoneBook,
        access::UrlKey,
        firmware::Depot,
        onboarding::Sighting,
        pipeline::Holding,
        variables::{Keys, Known},
    },
    store::Store,
    template::{Line, Templates},
};

/// Everybody that it works with.
pub struct Neighbours {
    pub templates: Templates,
    pub leases: Arc<dyn Leases>,
    pub devices: Arc<dyn Devices>,
    pub guests: Arc<dyn Guests>,
    pub keys: Arc<dyn Keys>,
    pub store: Arc<dyn Store>,
    pub history: History,
    pub firmware: Depot,
    pub phone_book: PhoneBook,
    pub events: Events,
}

/// What our DHCP server knows. From memory: it is asked for every request.
pub trait Leases: Send + Sync + 'static {
    fn holder(&self, address: IpAddr, now: Timestamp) -> Option<Holding>;
    /// Does the phone hold any address of ours?
    fn is_leased(&self, mac: MacAddr, now: Timestamp) -> bool;
}

/// Those who keep track of phones.
#[async_trait]
pub trait Devices: Send + Sync + 'static {
    /// A phone that proved itself asked for a file.
    fn seen(&self, seen: Seen);
    /// It has every byte of the file with its account, of this generation.
    /// `first`: by templates that go to some phones first.
    fn fetched(&self, mac: MacAddr, generation: Generation, first: bool);
    /// Of its secrets, and of the key in its URL.
    fn generation(&self, mac: MacAddr) -> Generation;
    /// What a key in its URL is worth that comes from there.
    fn url_key(&self, mac: MacAddr, key: &str, source: IpAddr) -> UrlKey;
    /// It has its file by this key. `true`: by an older one, and from elsewhere than before.
    fn came(&self, mac: MacAddr, source: IpAddr, key: UrlKey) -> bool;
    /// Who it is now. A phone that nobody knows is provisional.
    async fn known(&self, mac: MacAddr) -> Known;
    /// When it was on the network first; `None`: never yet.
    async fn first_seen(&self, mac: MacAddr) -> Option<Timestamp>;
}

/// Those who give a device that comes by a link to its owner.
#[async_trait]
pub trait Guests: Send + Sync + 'static {
    /// Gives the device, which reads this family's files, to whoever has this login.
    ///
    /// # Errors
    /// In words: nobody has the login, or the directory or the store does not answer.
    async fn welcome(&self, mac: MacAddr, family: &str, login: &str) -> Result<(), String>;
}

/// What a phone showed of itself when it asked for a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub mac: MacAddr,
    pub family: Option<FamilyName>,
    pub model: Option<String>,
    pub firmware: Option<String>,
    pub address: IpAddr,
}

/// By the directory, into the hands of onboarding.
#[async_trait]
impl Guests for (Onboarding, Arc<dyn Directory>) {
    async fn welcome(&self, mac: MacAddr, family: &str, login: &str) -> Result<(), String> {
        let (onboarding, directory) = self;
        let user = directory.find(login).await.map_err(|denied| denied.to_string())?;
        let user = user.ok_or_else(|| format!("nobody in the directory has the login '{login}'"))?;
        onboarding.seen(Sighting { family: Some(family.to_owned()), phone: true, ..Sighting::of(mac) });
        onboarding.bind(mac, 1, user, "a link").await.map(drop).map_err(|error| error.to_string())
    }
}

#[async_trait]
impl Devices for Onboarding {
    fn seen(&self, seen: Seen) {
        let Seen { mac, family, model, firmware, address } = seen;
        Onboarding::seen(self, Sighting { family, model, firmware, address: Some(address), phone: true, ..Sighting::of(mac) });
    }

    fn fetched(&self, mac: MacAddr, generation: Generation, first: bool) {
        self.file_fetched(mac, generation, first);
    }

    fn generation(&self, mac: MacAddr) -> Generation {
        self.identities().generation(mac)
    }

    fn url_key(&self, mac: MacAddr, key: &str, source: IpAddr) -> UrlKey {
        self.identities().url_key(mac, key, source)
    }

    fn came(&self, mac: MacAddr, source: IpAddr, key: UrlKey) -> bool {
        self.identities().came(mac, source, key)
    }

    async fn first_seen(&self, mac: MacAddr) -> Option<Timestamp> {
        Some(self.device(mac).await.ok().flatten()?.first_seen).filter(|at| *at != DeviceRecord::NEVER)
    }

    async fn known(&self, mac: MacAddr) -> Known {
        // In this order: a new owner's name comes with that owner's settings. (The other way round, a reload follows.)
        let (generation, identities) = self.identities().lines(mac);
        let profile = self.profile(mac).await;
        let line = |identity: Identity| Line {
            number: identity.line,
            user: identity.user,
            auth_user: identity.auth_user,
            secret: identity.secret,
            display_name: identity.display_name,
            label: None,
            extension: identity.extension,
        };
        Known {
            profile,
            // With the secrets that are in the file, not with those of a moment later.
            generation,
            lines: identities.into_iter().map(line).collect(),
            contacts: None,
        }
    }
}
