//! MikroTik RouterOS: option sets, and matchers on option 60. It cannot match a MAC's prefix but on leases that are there.

use std::fmt::Write;

use super::{Entry, Match, Sheet, hex};

pub(super) fn write(sheet: &Sheet) -> String {
    let place = [
        "For a MikroTik with RouterOS 7 (`/ip dhcp-server matcher`): paste into a terminal.",
        "Makes that send no option 60 of their own are found among the leases: run the last block again when new phones came.",
    ];
    let mut out = sheet.head("#", &place);
    let others = sheet.others.iter().map(|others| ("other", "any other phone", &*others.title, &others.options[..]));
    let makes = sheet.makes.iter().map(|make| (&*make.id, &*make.id, &*make.title, &make.options[..]));
    for (id, make, title, options) in makes.chain(others) {
        _ = writeln!(out, "\n# {title}");
        for entry in options {
            let force = if entry.forced { " force=yes" } else { "" };
            let code = entry.code;
            _ = writeln!(
                out,
                "# {make}\n/ip dhcp-server option add name=plugtone-{id}-{code} code={code} value=\"{}\"{force}",
                value(entry)
            );
        }
        let names: Vec<String> = options.iter().map(|entry| format!("plugtone-{id}-{}", entry.code)).collect();
        _ = writeln!(out, "# {make}\n/ip dhcp-server option sets add name=plugtone-{id} options={}", names.join(","));
    }
    out.push_str("\n# Which make it is, by option 60\n");
    for make in &sheet.makes {
        for (index, (how, bytes)) in make.classes.iter().enumerate().filter(|(_, (_, bytes))| printable(bytes)) {
            let kind = if *how == Match::Exact { "exact" } else { "substring" };
            _ = writeln!(
                out,
                "# {}\n/ip dhcp-server matcher add name=plugtone-{}-{} server=all code=60 matching-type={kind} value=\"{}\" option-set=plugtone-{}",
                make.id,
                make.id,
                index + 1,
                escaped(&String::from_utf8_lossy(bytes)),
                make.id
            );
        }
    }
    out.push_str("\n# Which make it is, by the MAC of leases that are there\n");
    for make in sheet.makes.iter().filter(|make| !make.prefixes.is_empty()) {
        let prefixes: Vec<String> = make.prefixes.iter().map(|prefix| hex(prefix, ":").to_uppercase()).collect();
        _ = writeln!(
            out,
            "# {}\n:foreach lease in=[/ip dhcp-server lease find where mac-address~\"^({})\"] do={{ \
             :if ([/ip dhcp-server lease get $lease dynamic]) do={{ /ip dhcp-server lease make-static $lease }}; \
             /ip dhcp-server lease set $lease dhcp-option-set=plugtone-{} }}",
            make.id,
            prefixes.join("|"),
            make.id
        );
    }
    if sheet.others.is_some() {
        out.push_str(
            "\n# Any other phone: take the # away if no computer of this network boots from it\n\
             # /ip dhcp-server network set [find] dhcp-option-set=plugtone-other\n",
        );
    }
    out
}

fn value(entry: &Entry) -> String {
    match entry.text_without("'") {
        // `s` keeps a text that looks like an address a text.
        Some(text) => format!("s'{}'", escaped(text)),
        None => format!("0x{}", hex(&entry.bytes, "")),
    }
}

fn printable(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ')
}

/// Inside double quotes; a question mark would ask the terminal for help.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$").replace('?', "\\3F")
}
