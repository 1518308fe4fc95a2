//! dnsmasq: tags by option 60 and by MAC, forced options.

use std::fmt::Write;

use super::{Entry, Make, Match, Sheet, hex};

/// Options that dnsmasq knows as lists of addresses, and takes in no other form.
const ADDRESSES: [u8; 15] = [3, 6, 7, 9, 41, 42, 44, 45, 48, 49, 65, 68, 69, 70, 150];

pub(super) fn write(sheet: &Sheet) -> String {
    let mut out = sheet.head("#", &["For dnsmasq: save as /etc/dnsmasq.d/plugtone.conf and restart it."]);
    for make in &sheet.makes {
        let tag = format!("plugtone-{}", make.id);
        _ = writeln!(out, "\n# {}", make.title);
        signs(&mut out, make, &tag);
        for entry in &make.options {
            option(&mut out, entry, &format!("tag:{tag}"), &make.id);
        }
    }
    if let Some(others) = &sheet.others {
        _ = writeln!(out, "\n# {}: whoever asks, but for what is no phone", others.title);
        for name in &others.never {
            _ = writeln!(out, "dhcp-vendorclass=set:plugtone-never,{}    # no phone", quoted(name));
        }
        let makes = sheet.makes.iter().map(|make| format!(",tag:!plugtone-{}", make.id)).collect::<String>();
        for entry in &others.options {
            option(&mut out, entry, &format!("tag:!plugtone-never{makes}"), "any other phone");
        }
    }
    out
}

fn signs(out: &mut String, make: &Make, tag: &str) {
    for (how, bytes) in &make.classes {
        let printable = bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
        _ = match (how, printable) {
            // Everything is looked for anywhere in option 60.
            (_, true) => writeln!(out, "dhcp-vendorclass=set:{tag},{}    # {}", quoted(&String::from_utf8_lossy(bytes)), make.id),
            (Match::Contains, false) => writeln!(out, "# not to be told here: option 60 with 0x{} in it", hex(bytes, "")),
            (_, false) => writeln!(out, "dhcp-match=set:{tag},60,{}    # {}", hex(bytes, ":"), make.id),
        };
    }
    for prefix in &make.prefixes {
        _ = writeln!(out, "dhcp-mac=set:{tag},{}{}    # {}", hex(prefix, ":"), ":*".repeat(6 - prefix.len()), make.id);
    }
}

fn option(out: &mut String, entry: &Entry, tags: &str, make: &str) {
    let name = if entry.forced { "dhcp-option-force" } else { "dhcp-option" };
    let value = match (&entry.text, &*entry.bytes) {
        (Some(text), _) => quoted(text),
        // Two digits alone would be read as a decimal number.
        (None, [byte]) => byte.to_string(),
        (None, bytes) if ADDRESSES.contains(&entry.code) => dotted(bytes),
        (None, bytes) => hex(bytes, ":"),
    };
    _ = writeln!(out, "{name}={tags},{},{value}    # {make}", entry.code);
}

fn dotted(bytes: &[u8]) -> String {
    let address = |part: &[u8]| part.iter().map(u8::to_string).collect::<Vec<_>>().join(".");
    bytes.chunks(4).map(address).collect::<Vec<_>>().join(",")
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
