//! What a make of desk phone says and asks for: its DHCP fingerprint, its user agent, where it looks for its server.
//!
//! Pure data, gathered from public guides and provisioning projects (README of `templates/` names them per family).
//! Not here: the order of files (`boot.rs`), their grammar (`settings.rs`).

use crate::model::MacAddr;

/// A make as the simulated phone plays it.
#[derive(Clone, Debug)]
pub struct Make {
    /// The family's name in `templates/`.
    pub family: &'static str,
    /// A prefix that the maker owns.
    pub oui: [u8; 3],
    pub model: &'static str,
    pub firmware: &'static str,
    /// Option 60 as sent; `None`: the make sends none.
    pub vendor_class: Option<Vec<u8>>,
    /// Option 55 as sent.
    pub asks_for: &'static [u8],
    /// Options that may name the server, first wins.
    pub server_options: &'static [u8],
    /// For a server named without a scheme.
    pub default_scheme: &'static str,
}

/// The makes that can be played.
pub const FAMILIES: &[&str] = &["yealink", "poly", "grandstream", "generic"];

impl Make {
    /// `None` for a family that cannot be played; [`FAMILIES`] has those that can.
    pub fn of(family: &str) -> Option<Self> {
        Some(match family {
            "yealink" => Self {
                family: "yealink",
                oui: [0x00, 0x15, 0x65],
                model: "T46S",
                firmware: "66.86.0.15",
                vendor_class: Some(b"yealink".to_vec()),
                asks_for: &[1, 2, 3, 4, 6, 7, 12, 15, 28, 42, 66, 67, 43, 120],
                server_options: &[66, 43],
                default_scheme: "tftp",
            },
            "poly" => Self {
                family: "poly",
                oui: [0x64, 0x16, 0x7f],
                model: "VVX_450",
                firmware: "6.4.3.5156",
                vendor_class: Some(poly_vendor_class("VVX-VVX_450", "3111-48450-001")),
                asks_for: &[1, 28, 160, 66, 43, 3, 4, 42, 2, 6, 15],
                server_options: &[160, 66],
                default_scheme: "ftp",
            },
            "grandstream" => Self {
                family: "grandstream",
                oui: [0xc0, 0x74, 0xad],
                model: "GRP2614",
                firmware: "1.0.11.64",
                // No guide or capture that we know shows one.
                vendor_class: None,
                asks_for: &[1, 3, 6, 12, 15, 28, 42, 43, 66, 160],
                server_options: &[66, 43, 150, 160, 161],
                default_scheme: "http",
            },
            "generic" => Self {
                family: "generic",
                // Locally administered: no maker owns it.
                oui: [0x02, 0x70, 0x67],
                model: "softphone",
                firmware: "1.0",
                vendor_class: None,
                asks_for: &[1, 3, 6, 15, 66],
                server_options: &[66],
                default_scheme: "http",
            },
            _ => return None,
        })
    }

    /// What it says over HTTP and in SIP.
    pub fn user_agent(&self, mac: MacAddr) -> String {
        match self.family {
            "yealink" => format!("Yealink SIP-{} {} {mac}", self.model, self.firmware),
            "poly" => format!("FileTransport PolycomVVX-{}-UA/{} Type/Application", self.model, self.firmware),
            "grandstream" => format!("Grandstream Model HW {} SW {} DevId {}", self.model, self.firmware, mac.bare()),
            _ => format!("plugtone-phone/{}", self.firmware),
        }
    }

    /// The make's own address number `number`: the maker's prefix and three bytes.
    pub fn mac(&self, number: u32) -> MacAddr {
        let [_, b, c, d] = number.to_be_bytes();
        MacAddr([self.oui[0], self.oui[1], self.oui[2], b, c, d])
    }
}

/// Polycom puts the layout of RFC 3925 into option 60: its enterprise number 13885, then type-length-value fields.
fn poly_vendor_class(model: &str, part: &str) -> Vec<u8> {
    let mut fields = Vec::new();
    for (code, text) in [(1u8, "Polycom"), (2, model), (3, part)] {
        fields.extend([code, text.len() as u8]);
        fields.extend(text.as_bytes());
    }
    let mut class = 13885u32.to_be_bytes().to_vec();
    class.push(fields.len() as u8);
    class.extend(fields);
    class
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_can_be_played() {
        for family in FAMILIES {
            let make = Make::of(family).expect(family);
            let mac = make.mac(0x010203);
            assert_eq!(mac.oui(), make.oui);
            assert_eq!(mac.0[3..], [1, 2, 3]);
            assert!(!make.user_agent(mac).is_empty());
        }
        assert!(Make::of("teapot").is_none());
    }
}
