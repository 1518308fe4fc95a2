//! Option sheets: what our own DHCP server would say to phones, in the words of a server that must stay.
//!
//! Made of the same families as our own answers (`classify.rs`): signs to tell a make by, and the options it reads. Every
//! value says in a comment for which make it is. Where a server cannot tell makes apart, it gets what suits all of them.
//! Pure. Not here: the key in a phone's URL (`provisioning.url_tokens`), which differs from phone to phone, and the
//! subnet's own options (router, name servers, time), which that server knows better.

use super::{
    classify,
    settings::Settings,
    variables::{Endpoints, common},
};
use crate::{
    model,
    template::{DhcpOption, DhcpValue, Fault, Match, SendWhen, TemplateSet},
};

mod dnsmasq;
mod isc;
mod kea;
mod mikrotik;
mod plain;
mod windows;

/// Whose language a sheet is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Dnsmasq,
    Isc,
    Kea,
    Windows,
    Netsh,
    Mikrotik,
    Pfsense,
    Cisco,
}

/// All that sheets are made of.
#[derive(Debug)]
pub struct Sheet {
    makes: Vec<Make>,
    /// Phones that nothing but their questions tells from computers.
    others: Option<Others>,
    /// For the head of the sheet.
    notes: Vec<String>,
}

#[derive(Debug)]
struct Make {
    id: String,
    title: String,
    prefixes: Vec<Vec<u8>>,
    classes: Vec<(Match, Vec<u8>)>,
    options: Vec<Entry>,
}

#[derive(Debug)]
struct Others {
    title: String,
    /// Beginnings of option 60 that are no phones.
    never: Vec<String>,
    options: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    code: u8,
    bytes: Vec<u8>,
    /// When the bytes are printable ASCII.
    text: Option<String>,
    /// Also to phones that forget to ask for it.
    forced: bool,
}

/// An option for makes that the server cannot tell apart.
#[derive(Debug)]
struct Shared {
    entry: Entry,
    /// The makes that read it.
    readers: Vec<String>,
    /// Those among them that would rather have something else.
    bent: Vec<String>,
}

impl Sheet {
    pub fn new(set: &TemplateSet, settings: &Settings, endpoints: &Endpoints) -> Result<Self, Fault> {
        let subject = common(settings, endpoints, None, Some(endpoints.address), None);
        let (mut makes, mut others) = (Vec::new(), None);
        for family in set.families() {
            let options: Vec<Entry> = set.dhcp_options(&family.id, &subject)?.iter().filter_map(Entry::new).collect();
            let (signs, title) = (family.signs(), one_line(&family.title));
            if options.is_empty() {
                continue;
            }
            let classes: Vec<_> = signs.vendor_classes.iter().map(|(how, bytes)| (*how, bytes.to_vec())).collect();
            if !signs.prefixes.is_empty() || !classes.is_empty() {
                makes.push(Make { id: family.id.to_string(), title, prefixes: signs.prefixes.to_vec(), classes, options });
            } else if !signs.asks_for.is_empty() {
                others = Some(Others { title, never: signs.never.to_vec(), options });
            }
        }
        Ok(Self { makes, others, notes: notes(settings) })
    }

    pub fn write(&self, dialect: Dialect) -> String {
        match dialect {
            Dialect::Dnsmasq => dnsmasq::write(self),
            Dialect::Isc => isc::write(self),
            Dialect::Kea => kea::write(self),
            Dialect::Windows => windows::powershell(self),
            Dialect::Netsh => windows::netsh(self),
            Dialect::Mikrotik => mikrotik::write(self),
            Dialect::Pfsense => plain::pfsense(self),
            Dialect::Cisco => plain::cisco(self),
        }
    }

    /// The first lines of a sheet, each after `mark`.
    fn head(&self, mark: &str, place: &[&str]) -> String {
        let place = place.iter().map(|line| (*line).to_owned());
        let first = "DHCP options for phones, made by `plugtone dhcp sheet`; make it again when templates or addresses change.".to_owned();
        let lines = std::iter::once(first).chain(place).chain(self.notes.iter().cloned());
        lines.map(|line| format!("{mark} {line}\n")).collect()
    }

    /// One value for each option, by which every make finds us: the one for any phone where makes differ. Sorted by code.
    fn shared(&self) -> Vec<Shared> {
        let any: &[Entry] = self.others.as_ref().map_or(&[], |others| &others.options);
        let mut list: Vec<Shared> = Vec::new();
        let makes = self.makes.iter().map(|make| (&*make.id, &make.options[..])).chain([("any other phone", any)]);
        let all = makes.flat_map(|(id, options)| options.iter().map(move |option| (id, option)));
        // What 43 means is each make's own affair (RFC 2132 §8.4): one make's value may harm another.
        for (reader, option) in all.filter(|(_, option)| option.code != 43) {
            let at = list.iter().position(|shared| shared.entry.code == option.code).unwrap_or_else(|| {
                let entry = any.iter().find(|general| general.code == option.code).unwrap_or(option).clone();
                list.push(Shared { entry, readers: Vec::new(), bent: Vec::new() });
                list.len() - 1
            });
            let shared = &mut list[at];
            shared.entry.forced |= option.forced;
            shared.readers.push(reader.to_owned());
            if shared.entry.bytes != option.bytes {
                shared.bent.push(reader.to_owned());
            }
        }
        list.sort_by_key(|shared| shared.entry.code);
        list
    }
}

impl Entry {
    fn new(option: &DhcpOption) -> Option<Self> {
        let bytes = match &option.value {
            DhcpValue::Text(text) => text.clone().into_bytes(),
            other => classify::value(other).encode().ok()?,
        };
        let printable = bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
        let text = printable.then(|| String::from_utf8_lossy(&bytes).into_owned());
        Some(Self { code: option.code, text, bytes, forced: option.when == SendWhen::Always })
    }

    /// The text, unless it has a letter that means something to the server that reads the sheet.
    fn text_without(&self, special: &str) -> Option<&str> {
        self.text.as_deref().filter(|text| !text.contains(|c| special.contains(c)))
    }
}

impl Shared {
    fn remark(&self) -> String {
        let readers = self.readers.join(", ");
        match self.bent.len() {
            0 => format!("for {readers}"),
            _ => format!("for {readers} ({} would get another where makes are told apart)", self.bent.join(", ")),
        }
    }
}

fn notes(settings: &Settings) -> Vec<String> {
    let mut notes = Vec::new();
    match settings.url_tokens {
        true => notes.push(
            "`provisioning.url_tokens` is on, and no sheet can hold a key for each phone: phones that come by these options bring none."
                .to_owned(),
        ),
        false if settings.open.subnets.is_empty() => notes.push(
            "A lease of another server proves nothing to Plugtone: name the phones' network in `provisioning.open.subnets`, or they get no files."
                .to_owned(),
        ),
        false => {}
    }
    notes
}

/// As hexadecimal pairs with `between` them.
fn hex(bytes: &[u8], between: &str) -> String {
    bytes.iter().map(|byte| model::hex(&[*byte])).collect::<Vec<_>>().join(between)
}

/// What is printable of bytes, for comments.
fn shown(bytes: &[u8]) -> String {
    match bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
        true => format!("'{}'", String::from_utf8_lossy(bytes)),
        false => format!("0x{}", hex(bytes, "")),
    }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
