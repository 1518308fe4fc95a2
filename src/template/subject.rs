//! For whom a file is rendered: a phone, its lines and the server as that phone reaches it.

use std::{net::IpAddr, sync::Arc};

use minijinja::{Value, context};

use super::{firmware::Due, search::Query};
use crate::model::{Extension, Inventory, LineNumber, MacAddr, Secret};

/// Everything a template may see beside its layered variables.
#[derive(Clone, Debug)]
pub struct Subject {
    /// `None` only where a common file is rendered for somebody unknown.
    pub mac: Option<MacAddr>,
    pub model: Option<String>,
    /// Whether somebody owns a line of it.
    pub bound: bool,
    /// In the order of their numbers; empty for common files and DHCP options.
    pub lines: Vec<Line>,
    pub server: Server,
    /// Where the phone is, to choose its site.
    pub address: Option<IpAddr>,
    /// Of the owner, to choose their groups.
    pub user_id: Option<String>,
    /// What is written of it: its own group, and the devices whose overrides hold for it too.
    pub inventory: Inventory,
    /// The phone book; `None` where there is none.
    pub contacts: Option<Contacts>,
    /// For the phone's own web page and menus, when no layer sets `admin_password`.
    pub admin_password: Option<Secret>,
    /// By which its account is encrypted, where it shall be.
    pub file_key: Option<Secret>,
    /// Of its file nothing is told but that key, and where to go with it.
    pub key_only: bool,
    /// What it shall run and does not.
    pub firmware: Option<Due>,
}

/// The phone book as templates see it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Contacts {
    /// A list of people: `.name`, and `.numbers`, each with `.kind` and `.number`.
    pub(super) people: Value,
    /// A list of numbers: `.name`, `.kind`, `.number`; for makes that know one number for each entry, and have pages.
    pub(super) numbers: Value,
    /// `.total`, `.first`, `.last`: how many numbers there are, and which of them are listed; `.asked`: the words of the phone that searches.
    pub(super) found: Value,
    /// Of all of it.
    pub(super) hash: blake3::Hash,
}

impl Contacts {
    /// Name by name, with kind and number of each of its numbers.
    pub fn new<'a>(people: impl Iterator<Item = (&'a str, Vec<(&'a str, &'a str)>)>) -> Self {
        let (mut listed, mut flat, mut hash) = (Vec::new(), Vec::new(), blake3::Hasher::new());
        for (name, numbers) in people {
            for text in [name].into_iter().chain(numbers.iter().flat_map(|(kind, number)| [*kind, *number])) {
                hash.update(&(text.len() as u64).to_le_bytes());
                hash.update(text.as_bytes());
            }
            hash.update(&u64::MAX.to_le_bytes());
            let name = Value::from(name);
            flat.extend(numbers.iter().map(|(kind, number)| context! { name => name.clone(), kind => *kind, number => *number }));
            let numbers: Vec<Value> = numbers.iter().map(|(kind, number)| context! { kind => *kind, number => *number }).collect();
            listed.push(context! { name => name, numbers => numbers });
        }
        let (total, asked) = (flat.len(), Query::new());
        let found = context! { total, first => 1, last => total, asked };
        Self { people: listed.into(), numbers: flat.into(), found, hash: hash.finalize() }
    }
}

/// One line as the phone is to register it.
#[derive(Clone, Debug)]
pub struct Line {
    pub number: LineNumber,
    /// User part of the address of record: `new001565aabbcc`, or the extension.
    pub user: String,
    /// Digest user name: `001565aabbcc-1`.
    pub auth_user: String,
    pub secret: Secret,
    pub display_name: String,
    /// What the phone shows beside the key: the extension, or a word on what to do.
    pub label: Option<String>,
    pub extension: Option<Extension>,
}

/// The server in the words that this phone can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Address or name for SIP and files.
    pub host: String,
    pub sip: SipPorts,
    /// Where the phone fetches files, with scheme and without slash at the end: `http://10.0.0.2:8080`, perhaps with `/t/<token>`.
    pub url: String,
    /// The same by HTTPS, for phones that `https` sends there; `None`: there is none.
    pub secure_url: Option<String>,
    /// Name of the realm, for phones that must know it.
    pub realm: String,
    /// Whom the phone must believe to believe us, in PEM; `None`: nobody whom it does not know.
    pub authority: Option<Arc<str>>,
}

/// Where SIP is spoken; `None`: it is not, by this transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SipPorts {
    pub udp: Option<u16>,
    pub tcp: Option<u16>,
    pub tls: Option<u16>,
}

impl SipPorts {
    /// Of the transports, in the words of `sip_transport`.
    pub const TRANSPORTS: [&str; 3] = ["udp", "tcp", "tls"];

    /// The transport that a phone is told which wants this one, and its port: another where the server or the phone's make does not
    /// speak it.
    pub(super) fn told(&self, wanted: &str, speaks: impl Fn(&str) -> bool) -> (&'static str, u16) {
        let of = |transport: &'static str| {
            let port = match transport {
                "udp" => self.udp,
                "tcp" => self.tcp,
                _ => self.tls,
            };
            port.filter(|_| speaks(transport)).map(|port| (transport, port))
        };
        let first = Self::TRANSPORTS.into_iter().find(|known| *known == wanted);
        first.into_iter().chain(Self::TRANSPORTS).find_map(of).unwrap_or(("udp", 5060))
    }
}

impl Server {
    /// The URL that a phone is told, which wants HTTPS or not: its scheme (`http`, `https`, `tftp` or `ftp`), and the rest as
    /// Grandstream writes it, `10.0.0.2:8080/t/…`.
    pub(super) fn told(&self, https: bool) -> (&str, &str) {
        let url = self.secure_url.as_deref().filter(|_| https).unwrap_or(&self.url);
        url.split_once("://").unwrap_or(("http", url))
    }
}
