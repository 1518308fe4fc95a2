//! A trunk as configured and checked: where the provider is, what it wants to see, how much it takes. Pure data.
//!
//! Not here: whether it is up (`call/trunk.rs`), SIP.

use std::sync::Arc;

use ipnet::IpNet;

use super::{
    number::Form,
    settings::{CallerIdForm, DivertedShows, Transport},
};
use crate::model::Secret;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trunk {
    pub name: Arc<str>,
    /// Name or address.
    pub host: String,
    /// `None`: what the SRV records of the name say, or else the usual one.
    pub port: Option<u16>,
    pub transport: Transport,
    /// Authorities in PEM that the provider's certificate is believed by, instead of the usual ones.
    pub authorities: Option<Arc<str>>,
    /// Host part of the account and of the numbers that are called.
    pub domain: String,
    pub account: Option<Account>,
    /// Register, and again before it expires after so many seconds.
    pub register_secs: Option<u32>,
    /// Networks that calls may come from without a log-in, beside the addresses of `host`.
    pub accept_from: Vec<IpNet>,
    pub form: Form,
    pub caller_id: CallerIdForm,
    pub diverted_shows: DivertedShows,
    /// Sound may go past us.
    pub direct_media: bool,
    /// 0: no limit.
    pub max_calls: usize,
    /// 0: no limit.
    pub calls_per_second: u32,
    /// 0: it is never asked.
    pub options_secs: u32,
    pub silence_secs: u32,
}

/// What the provider knows us by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// User part of our address of record.
    pub user: String,
    /// What the digest names.
    pub login: String,
    pub password: Secret,
}
