//! Request → which device → may it have this file → which variables → bytes; and the device's life driven end to end.
//!
//! Three doors (`fileserver`) ask one [`FileService`]. Not here: TFTP blocks, HTTP headers, minijinja, SIP.

pub mod access;
pub mod beside;
mod calls;
pub mod classify;
mod duplicates;
pub mod encryption;
pub mod files;
pub mod firmware;
pub mod history;
pub mod identify;
pub mod identities;
pub mod inventory;
pub mod links;
pub mod onboarding;
pub mod phone_book;
pub mod pipeline;
pub mod pnp;
pub mod preview;
mod profiles;
pub mod reload;
pub mod rollout;
pub mod settings;
pub mod sheet;
pub mod variables;
mod watch;
pub mod worker;

pub use classify::PhoneClasses;
pub use files::{Devices, Files, Guests, Leases, Neighbours, Seen};
pub use history::History;
pub use identities::{Identities, Identity};
pub use phone_book::PhoneBook;
pub use pipeline::Holding;
pub use profiles::Profile;
pub use rollout::Rollouts;
pub use settings::{OpenSettings, Settings, SettingsError};
pub use variables::{Endpoints, Keys, Known};
pub use worker::Onboarding;

pub use crate::template::Query;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    model::{MacAddr, event::Door},
    tls::Certified,
};

/// A file that somebody asks for, in the words that all doors share.
#[derive(Clone, Debug)]
pub struct FileRequest {
    pub door: Door,
    /// As asked for: any case, any slashes. The pipeline normalises and refuses traversal.
    pub path: String,
    /// What stands behind the `?` of its URL, where its door has such a thing.
    pub query: Query,
    pub source: IpAddr,
    /// Where the request arrived, so that URLs in the file name an address that this phone can reach.
    pub local: Option<SocketAddr>,
    pub user_agent: Option<String>,
    /// The ETags of what it holds already, as `If-None-Match` lists them, where its door has such a thing.
    pub held: Option<String>,
    /// Which phone has shown its maker's certificate to its door.
    pub certified: Option<Certified>,
    /// It wants to know what it would get, and takes nothing (HEAD).
    pub head: bool,
}

impl FileRequest {
    /// RFC 9110 §13.1.2: weak comparison, a list, or `*`.
    pub fn holds(&self, hash: &str) -> bool {
        let held = self.held.as_deref().unwrap_or_default().split(',').map(str::trim);
        let bare = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).strip_prefix('"')?.strip_suffix('"').map(str::to_owned);
        held.into_iter().any(|tag| tag == "*" || bare(tag).is_some_and(|tag| tag == hash))
    }
}

#[derive(Clone, Debug)]
pub enum FileAnswer {
    Found(ServedFile),
    /// There is none, or this source may not have it: the same answer, so that nothing can be learnt.
    NotFound,
    /// It is there and cannot be made now, as a template is at fault. A phone that took it for missing might go on without it, or with
    /// what is meant for everybody.
    Broken,
}

#[derive(Clone, Debug)]
pub struct ServedFile {
    pub body: Body,
    pub content_type: String,
    /// Of the bytes, hex: the ETag. BLAKE3; of firmware SHA-256.
    pub hash: String,
    pub mac: Option<MacAddr>,
}

/// What a file says.
#[derive(Clone, Debug)]
pub enum Body {
    Whole(Bytes),
    /// Too large for memory: [`firmware::Stored::read`] gives piece by piece. Doors tell the end of such a transfer by
    /// [`FileService::ended`], HTTP too.
    Stored(Arc<firmware::Stored>),
}

impl Body {
    pub fn len(&self) -> u64 {
        match self {
            Self::Whole(bytes) => bytes.len() as u64,
            Self::Stored(stored) => stored.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How a transfer ended, told by doors that know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transfer {
    Delivered,
    Failed { reason: String },
}

/// What the doors ask.
#[async_trait]
pub trait FileService: Send + Sync + 'static {
    /// Renders or finds the file. Tells one audit event per request. A file that takes time to make is made elsewhere: a door may ask from
    /// the only thread that it has.
    async fn fetch(&self, request: FileRequest) -> FileAnswer;
    /// May this source upload this name, and how many bytes at most? `None`: no.
    async fn upload_limit(&self, request: &FileRequest) -> Option<usize>;
    /// Keeps an upload. `false` when it was refused after all.
    async fn store(&self, request: FileRequest, body: Bytes) -> bool;
    /// The transfer that `request` began is over.
    fn ended(&self, request: &FileRequest, mac: Option<MacAddr>, transfer: Transfer);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_compare_weakly_and_in_lists() {
        let request = |held: Option<&str>| FileRequest {
            door: Door::Http,
            path: "x".into(),
            query: Query::new(),
            source: [10, 0, 0, 7].into(),
            local: None,
            user_agent: None,
            held: held.map(str::to_owned),
            certified: None,
            head: false,
        };
        for (value, held) in
            [("\"abc\"", true), ("W/\"abc\"", true), ("\"x\", \"abc\"", true), ("*", true), ("\"abd\"", false), ("abc", false)]
        {
            assert_eq!(request(Some(value)).holds("abc"), held, "{value}");
        }
        assert!(!request(None).holds("abc"));
    }
}
