//! What a client is, and what its kind reads: the words between the server and those who know phones.
//!
//! The server asks a [`Classify`] about each request that it will answer, with the [`ClientFacts`] of that request, and
//! sends of the [`Class`] it gets what the client asked for and what its kind is known to need. Not here: the families
//! themselves and how their values are rendered; whoever builds the server provides them.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::model::{FamilyName, MacAddr};

/// Option 77 of `plugtone doctor`, which asks as a phone and is none.
pub const REHEARSAL: &[u8] = b"plugtone-doctor";

/// What a request says of its sender, and where it came in.
#[derive(Clone, Debug)]
pub struct ClientFacts<'a> {
    pub mac: MacAddr,
    /// Option 61.
    pub client_id: Option<&'a [u8]>,
    /// Option 60: compare bytes, not text. Cisco appends a NUL, Poly sends binary.
    pub vendor_class: Option<&'a [u8]>,
    /// Option 77.
    pub user_class: Option<&'a [u8]>,
    /// Option 12.
    pub host_name: Option<&'a [u8]>,
    /// Option 55, in the client's order; empty when it sent none.
    pub parameter_list: &'a [u8],
    /// Option 125.
    pub vendor_identifying: Option<&'a [u8]>,
    /// The subnet it gets an address of, and our address there: what URLs for it should name.
    pub subnet: Ipv4Net,
    pub server: Ipv4Addr,
    /// Its address, if it has one or is about to be given one.
    pub address: Option<Ipv4Addr>,
    /// The relay that passed the request on, and where it says the client is plugged in (option 82, sub-options 1 and 2).
    pub relay: Option<Ipv4Addr>,
    pub circuit_id: Option<&'a [u8]>,
    pub remote_id: Option<&'a [u8]>,
}

/// What the sender of a request is and reads. The default is a device that is no phone and reads nothing special.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Class {
    pub family: Option<FamilyName>,
    /// Served even when `non_phones: ignore`; padded, with `siaddr`, with time options.
    pub phone: bool,
    /// Values for options of its kind. They win over the subnet's; sent when asked for (option 55), or when the client
    /// sent no option 55, or when `always_send` names them.
    pub options: Vec<(u8, OptionValue)>,
    /// Codes to send even when the client did not list them. Names the subnet's own options (42, 2 …) too.
    pub always_send: Vec<u8>,
    /// For stacks that lose a unicast reply and do not set the broadcast flag.
    pub always_broadcast: bool,
    /// Instead of the subnet's, as for a phone that only passes through the data VLAN.
    pub lease_secs: Option<u32>,
    /// Next server of the BOOTP header; our own address for phones when `None`.
    pub siaddr: Option<Ipv4Addr>,
    /// Boot file of the BOOTP header, at most 127 bytes; for kinds that do not read option 67.
    pub file: Option<String>,
}

/// Knows kinds of devices. Called for each request, on the server's task: answer from memory.
pub trait Classify: Send + Sync + 'static {
    fn class(&self, facts: &ClientFacts<'_>) -> Class;
}

impl<F: Fn(&ClientFacts<'_>) -> Class + Send + Sync + 'static> Classify for F {
    fn class(&self, facts: &ClientFacts<'_>) -> Class {
        self(facts)
    }
}

/// An option's value before it is bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionValue {
    /// As is, without NUL: phones take one at the end of option 66 for a part of the name.
    Text(String),
    Addresses(Vec<Ipv4Addr>),
    U8(u8),
    U16(u16),
    U32(u32),
    I32(i32),
    Bytes(Vec<u8>),
    /// Sub-options, as in option 43.
    Tlv(Vec<(u8, Vec<u8>)>),
    /// Option 125 (RFC 3925): enterprise number and its sub-options.
    Enterprise(u32, Vec<(u8, Vec<u8>)>),
    /// Option 120 by name (RFC 3361, encoding 0).
    SipDomains(Vec<String>),
    /// Option 120 by address (RFC 3361, encoding 1).
    SipAddresses(Vec<Ipv4Addr>),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    #[error("sub-option {code} has {length} bytes and may have 255")]
    SubOptionTooLong { code: u8, length: usize },
    #[error("'{0}' is not a domain name: labels are 1 to 63 bytes")]
    DomainName(String),
}

impl OptionValue {
    /// The bytes on the wire, without code and length.
    pub fn encode(&self) -> Result<Vec<u8>, ValueError> {
        Ok(match self {
            Self::Text(text) => text.as_bytes().to_vec(),
            Self::Addresses(list) => octets(list),
            Self::U8(value) => vec![*value],
            Self::U16(value) => value.to_be_bytes().to_vec(),
            Self::U32(value) => value.to_be_bytes().to_vec(),
            Self::I32(value) => value.to_be_bytes().to_vec(),
            Self::Bytes(bytes) => bytes.clone(),
            Self::Tlv(parts) => tlv(parts)?,
            Self::Enterprise(number, parts) => {
                let inner = tlv(parts)?;
                let length = u8::try_from(inner.len()).map_err(|_| ValueError::SubOptionTooLong { code: 125, length: inner.len() })?;
                [&number.to_be_bytes()[..], &[length], &inner].concat()
            }
            Self::SipDomains(names) => {
                let mut out = vec![0];
                for name in names {
                    domain(name, &mut out)?;
                }
                out
            }
            Self::SipAddresses(list) => [&[1][..], &octets(list)].concat(),
        })
    }
}

fn octets(list: &[Ipv4Addr]) -> Vec<u8> {
    list.iter().flat_map(Ipv4Addr::octets).collect()
}

fn tlv(parts: &[(u8, Vec<u8>)]) -> Result<Vec<u8>, ValueError> {
    let mut out = Vec::new();
    for (code, value) in parts {
        let length = u8::try_from(value.len()).map_err(|_| ValueError::SubOptionTooLong { code: *code, length: value.len() })?;
        out.extend_from_slice(&[*code, length]);
        out.extend_from_slice(value);
    }
    Ok(out)
}

/// A name as labels (RFC 1035 §3.1).
pub(super) fn domain(name: &str, out: &mut Vec<u8>) -> Result<(), ValueError> {
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length));
        out.push(length.ok_or_else(|| ValueError::DomainName(name.to_owned()))?);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_form_that_phones_read() {
        let server = Ipv4Addr::new(10, 0, 0, 5);
        for (value, wire) in [
            (OptionValue::Text("http://10.0.0.5".into()), b"http://10.0.0.5".to_vec()),
            (OptionValue::Addresses(vec![server, server]), vec![10, 0, 0, 5, 10, 0, 0, 5]),
            (OptionValue::I32(-3600), vec![0xff, 0xff, 0xf1, 0xf0]),
            (OptionValue::Tlv(vec![(66, b"a\0".to_vec()), (2, vec![])]), vec![66, 2, b'a', 0, 2, 0]),
            (OptionValue::Enterprise(9, vec![(1, b"u".to_vec())]), vec![0, 0, 0, 9, 3, 1, 1, b'u']),
            (OptionValue::SipAddresses(vec![server]), vec![1, 10, 0, 0, 5]),
            // RFC 3361 §3.1 gives this example's shape.
            (OptionValue::SipDomains(vec!["example.com".into()]), b"\0\x07example\x03com\0".to_vec()),
        ] {
            assert_eq!(value.encode().as_deref(), Ok(&wire[..]), "{value:?}");
        }
        assert!(OptionValue::Tlv(vec![(1, vec![0; 256])]).encode().is_err());
        assert!(OptionValue::SipDomains(vec!["a..b".into()]).encode().is_err());
    }
}
