//! What a client is, and what its kind reads: the words between the server and those who know phones, as in `dhcp/class.rs`.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

use crate::model::{FamilyName, MacAddr};

/// What a message says of its sender, and where it came in.
#[derive(Clone, Debug)]
pub struct ClientFacts<'a> {
    /// By its relay, its address or its DUID; some say none.
    pub mac: Option<MacAddr>,
    /// Texts of option 16 and of option 15: compare bytes.
    pub vendor_classes: &'a [&'a [u8]],
    pub user_classes: &'a [&'a [u8]],
    /// Numbers of its makers, before those texts in option 16.
    pub enterprises: &'a [u32],
    /// What it asks for (option 6); empty when it does not say.
    pub asked: &'a [u16],
    /// The subnet it is in, and our address there: what URLs for it should name. `None`: we have none that it could reach.
    pub subnet: Ipv6Net,
    pub server: Option<Ipv6Addr>,
    /// Its address, where we lease it.
    pub address: Option<Ipv6Addr>,
}

/// What the sender of a message is and reads. The default is a device that is no phone and reads nothing special.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Class {
    pub family: Option<FamilyName>,
    /// Served even when `non_phones: ignore`.
    pub phone: bool,
    /// Where it finds its files (option 59, RFC 5970): sent even when it was not asked for.
    pub boot_file_url: Option<String>,
    /// Where it registers (options 22 and 21, RFC 3319): sent when asked for.
    pub sip_addresses: Vec<Ipv6Addr>,
    pub sip_domains: Vec<String>,
    pub vendor_options: Vec<VendorOption>,
}

/// A value in option 17 (RFC 8415 §21.17).
#[derive(Clone, Debug, PartialEq)]
pub struct VendorOption {
    /// Whose codes they are; those of one maker go together.
    pub enterprise: u32,
    pub code: u16,
    pub value: Vec<u8>,
    /// Even when it was not asked for.
    pub always: bool,
}

/// Knows kinds of devices. Called for each message, on the server's task: answer from memory.
pub trait Classify: Send + Sync + 'static {
    fn class(&self, facts: &ClientFacts<'_>) -> Class;
}

impl<F: Fn(&ClientFacts<'_>) -> Class + Send + Sync + 'static> Classify for F {
    fn class(&self, facts: &ClientFacts<'_>) -> Class {
        self(facts)
    }
}
