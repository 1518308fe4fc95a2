//! DHCP options that a family wants, as values without a wire: `dhcp` encodes them, `provisioning/classify.rs` stands between. What is
//! said in the vendor options of DHCPv6 has no shape but its maker's, and is bytes already.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::recognise::hex;
use super::schema::{Option6Kind, OptionKind, Send};

/// One option for one phone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpOption {
    pub code: u8,
    pub value: DhcpValue,
    pub when: SendWhen,
}

/// One value in option 17 of DHCPv6 for one phone (RFC 8415 §21.17).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dhcp6Option {
    /// Whose codes they are.
    pub enterprise: u32,
    pub code: u16,
    pub value: Vec<u8>,
    pub when: SendWhen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendWhen {
    /// Even when option 55 does not list it: some phones read 66 and forget to ask.
    Always,
    Asked,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DhcpValue {
    Text(String),
    Addresses(Vec<Ipv4Addr>),
    U8(u8),
    U16(u16),
    U32(u32),
    I32(i32),
    Bytes(Vec<u8>),
}

impl From<Send> for SendWhen {
    fn from(send: Send) -> Self {
        match send {
            Send::Always => Self::Always,
            Send::Asked => Self::Asked,
        }
    }
}

/// Rendered text → value. `None` where the text is empty: the option is left out.
pub(super) fn value(kind: OptionKind, text: &str) -> Result<Option<DhcpValue>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    fn number<T: std::str::FromStr>(text: &str, wanted: &str) -> Result<T, String> {
        text.parse().map_err(|_| format!("'{text}' is not {wanted}"))
    }
    Ok(Some(match kind {
        OptionKind::Text | OptionKind::Nested => DhcpValue::Text(text.to_owned()),
        OptionKind::Addresses => DhcpValue::Addresses(addresses(text)?),
        OptionKind::U8 => DhcpValue::U8(number(text, "a number from 0 to 255")?),
        OptionKind::U16 => DhcpValue::U16(number(text, "a number from 0 to 65535")?),
        OptionKind::U32 => DhcpValue::U32(number(text, "a number from 0 to 4294967295")?),
        OptionKind::I32 => DhcpValue::I32(number(text, "a whole number")?),
        OptionKind::Hex => DhcpValue::Bytes(hex(text).ok_or(format!("'{text}' is not pairs of hex digits"))?),
        OptionKind::SipServers => DhcpValue::Bytes(sip_servers(text)?),
    }))
}

/// Code, length, value of each, without an end mark.
pub(super) fn nested(parts: &[(u8, String)]) -> Result<Option<DhcpValue>, String> {
    let mut bytes = Vec::new();
    for (code, text) in parts.iter().filter(|(_, text)| !text.is_empty()) {
        let length = u8::try_from(text.len()).map_err(|_| format!("the nested option {code} is longer than 255 bytes"))?;
        bytes.extend([*code, length]);
        bytes.extend(text.as_bytes());
    }
    Ok((!bytes.is_empty()).then_some(DhcpValue::Bytes(bytes)))
}

/// The same in a vendor option of DHCPv6: texts as they are, numbers with the highest byte first.
pub(super) fn value6(kind: Option6Kind, text: &str) -> Result<Option<Vec<u8>>, String> {
    let plain = match kind {
        Option6Kind::Addresses => {
            let addresses: Vec<Ipv6Addr> = listed(text, "an IPv6 address")?;
            let bytes: Vec<u8> = addresses.iter().flat_map(Ipv6Addr::octets).collect();
            return Ok(Some(bytes).filter(|bytes| !bytes.is_empty()));
        }
        Option6Kind::Text => OptionKind::Text,
        Option6Kind::U8 => OptionKind::U8,
        Option6Kind::U16 => OptionKind::U16,
        Option6Kind::U32 => OptionKind::U32,
        Option6Kind::Hex => OptionKind::Hex,
    };
    Ok(value(plain, text)?.and_then(|value| match value {
        DhcpValue::Text(text) => Some(text.into_bytes()),
        DhcpValue::U8(number) => Some(vec![number]),
        DhcpValue::U16(number) => Some(number.to_be_bytes().to_vec()),
        DhcpValue::U32(number) => Some(number.to_be_bytes().to_vec()),
        DhcpValue::Bytes(bytes) => Some(bytes),
        DhcpValue::Addresses(_) | DhcpValue::I32(_) => None,
    }))
}

fn addresses(text: &str) -> Result<Vec<Ipv4Addr>, String> {
    listed(text, "an IPv4 address")
}

/// With blanks or commas between them.
fn listed<T: std::str::FromStr>(text: &str, wanted: &str) -> Result<Vec<T>, String> {
    let parts = text.split([',', ' ', '\n']).filter(|part| !part.is_empty());
    parts.map(|part| part.parse().map_err(|_| format!("'{part}' is not {wanted}"))).collect()
}

/// RFC 3361 §3: encoding byte 1 and addresses, or 0 and domain names as RFC 1035 writes them, uncompressed.
fn sip_servers(text: &str) -> Result<Vec<u8>, String> {
    if let Ok(addresses) = addresses(text) {
        return Ok(std::iter::once(1).chain(addresses.iter().flat_map(|a| a.octets())).collect());
    }
    let mut bytes = vec![0];
    for name in text.split([',', ' ']).filter(|part| !part.is_empty()) {
        for label in name.trim_end_matches('.').split('.') {
            if label.is_empty() || label.len() > 63 {
                return Err(format!("'{name}' is not a domain name"));
            }
            bytes.push(label.len() as u8);
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_values() {
        let some = |value| Ok(Some(value));
        for (kind, text, result) in [
            (OptionKind::Text, " http://10.0.0.2 ", some(DhcpValue::Text("http://10.0.0.2".into()))),
            (OptionKind::Text, "  ", Ok(None)),
            (OptionKind::Addresses, "10.0.0.1, 10.0.0.2", some(DhcpValue::Addresses(vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()]))),
            (OptionKind::I32, "-18000", some(DhcpValue::I32(-18000))),
            (OptionKind::Hex, "01:02 ff", some(DhcpValue::Bytes(vec![1, 2, 255]))),
            (OptionKind::SipServers, "10.0.0.1", some(DhcpValue::Bytes(vec![1, 10, 0, 0, 1]))),
            (OptionKind::SipServers, "a.bc", some(DhcpValue::Bytes(b"\x00\x01a\x02bc\x00".to_vec()))),
        ] {
            assert_eq!(value(kind, text), result, "{text}");
        }
        assert!(value(OptionKind::U8, "256").is_err());
        assert!(value(OptionKind::Addresses, "pool.ntp.org").is_err());
    }

    #[test]
    fn texts_become_values_of_vendor_options() {
        let some = |bytes: &[u8]| Ok(Some(bytes.to_vec()));
        for (kind, text, result) in [
            (Option6Kind::Text, " HTTPSRVR=fd00::1 ", some(b"HTTPSRVR=fd00::1")),
            (Option6Kind::Text, "", Ok(None)),
            (Option6Kind::Addresses, "fd00::1 ::2", some(b"\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02")),
            (Option6Kind::Addresses, " ", Ok(None)),
            (Option6Kind::Addresses, "10.0.0.1", Err("'10.0.0.1' is not an IPv6 address".into())),
            (Option6Kind::U16, "258", some(&[1, 2])),
            (Option6Kind::U32, "258", some(&[0, 0, 1, 2])),
            (Option6Kind::Hex, "01:02", some(&[1, 2])),
        ] {
            assert_eq!(value6(kind, text), result, "{text}");
        }
        assert!(value6(Option6Kind::U8, "256").is_err());
    }
}
