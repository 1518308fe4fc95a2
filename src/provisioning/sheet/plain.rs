//! pfSense, whose pools tell makes by MAC prefix, in words for its pages; and Cisco IOS, which cannot tell makes apart.

use std::fmt::Write;

use super::{Entry, Sheet, hex};

pub(super) fn pfsense(sheet: &Sheet) -> String {
    let place = [
        "For pfSense: Services > DHCP Server > the phones' interface. Nothing can be pasted as a whole there: copy field by field.",
        "A network of phones alone needs the first table. In a mixed one make a pool for each make (Address Pools > Add Address Pool),",
        "with its prefixes in \"MAC Allow\", and fill in the options of that pool; it cannot tell makes by option 60.",
    ];
    let mut out = sheet.head("#", &place);
    out.push_str("\n# One value for all makes. Additional BOOTP/DHCP Options (Custom DHCP Options), each: Number, Type, Value\n");
    for shared in sheet.shared() {
        _ = writeln!(out, "# {}\n{}", shared.remark(), row(&shared.entry));
    }
    for make in sheet.makes.iter().filter(|make| !make.prefixes.is_empty()) {
        let prefixes: Vec<String> = make.prefixes.iter().map(|prefix| hex(prefix, ":")).collect();
        _ = writeln!(out, "\n# A pool for {}\n# {}: MAC Allow\n{}", make.title, make.id, prefixes.join(","));
        for entry in &make.options {
            _ = writeln!(out, "# {}\n{}", make.id, row(entry));
        }
    }
    out
}

fn row(entry: &Entry) -> String {
    match entry.text_without("\"") {
        Some(text) => format!("{:<5}Text    {text}", entry.code),
        None => format!("{:<5}String  {}", entry.code, hex(&entry.bytes, ":")),
    }
}

pub(super) fn cisco(sheet: &Sheet) -> String {
    let place = [
        "For Cisco IOS: in configuration mode. A pool gives the same options to all of its clients, so let it be the voice VLAN's;",
        "write its name instead of VOICE.",
    ];
    let mut out = sheet.head("!", &place);
    out.push_str("!\nip dhcp pool VOICE\n");
    for shared in sheet.shared() {
        _ = writeln!(out, " ! {}", shared.remark());
        // A question mark would ask the console for help.
        _ = match shared.entry.text_without("?\"") {
            Some(text) if text.contains(' ') => writeln!(out, " option {} ascii \"{text}\"", shared.entry.code),
            Some(text) => writeln!(out, " option {} ascii {text}", shared.entry.code),
            None => writeln!(out, " option {} hex {}", shared.entry.code, hex(&shared.entry.bytes, "")),
        };
    }
    out.push_str("!\n");
    out
}
