//! Windows: policies by PowerShell (Server 2012 and later), or one value for all by netsh.

use std::fmt::Write;

use super::{Entry, Match, Sheet, hex};

/// Options that Windows defines itself; others must be defined before they are set.
const DEFINED: [u8; 12] = [2, 4, 6, 7, 12, 15, 26, 28, 42, 43, 66, 67];

pub(super) fn powershell(sheet: &Sheet) -> String {
    let place = [
        "For Windows Server 2012 or later: PowerShell as administrator, on the DHCP server. Policies of the whole server, each for one make.",
        "Windows compares the beginning of option 60 with a vendor class; binary ones it is not given: MAC prefixes do for those.",
    ];
    let mut out = sheet.head("#", &place);
    let (texts, others) = by_kind(sheet);
    out.push('\n');
    for (code, kind) in texts.iter().map(|code| (code, "String")).chain(others.iter().map(|code| (code, "Byte"))) {
        let name = quoted(&format!("Plugtone {code}"));
        let more = if kind == "Byte" { " -MultiValued" } else { "" };
        _ = writeln!(
            out,
            "Add-DhcpServerv4OptionDefinition -OptionId {code} -Name {name} -Type {kind}{more} -ErrorAction SilentlyContinue    # {}",
            readers(sheet, *code)
        );
    }
    for make in &sheet.makes {
        let policy = quoted(&format!("Plugtone {}", make.id));
        _ = writeln!(out, "\n# {}", make.title);
        let mut classes = Vec::new();
        for (how, bytes) in &make.classes {
            let printable = bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
            if *how == Match::Contains || !printable {
                continue;
            }
            let text = String::from_utf8_lossy(bytes);
            let class = format!("Plugtone {} {text}", make.id);
            _ = writeln!(out, "Add-DhcpServerv4Class -Name {} -Type Vendor -Data {}    # {}", quoted(&class), quoted(&text), make.id);
            classes.push(quoted(&format!("{class}*")));
        }
        let mut conditions = String::new();
        if !classes.is_empty() {
            _ = write!(conditions, " -VendorClass EQ,{}", classes.join(","));
        }
        if !make.prefixes.is_empty() {
            let prefixes: Vec<String> =
                make.prefixes.iter().map(|prefix| quoted(&format!("{}*", hex(prefix, "").to_uppercase()))).collect();
            _ = write!(conditions, " -MacAddress EQ,{}", prefixes.join(","));
        }
        if conditions.is_empty() {
            out.push_str("# has only signs that Windows cannot compare\n");
            continue;
        }
        _ = writeln!(out, "Add-DhcpServerv4Policy -Name {policy} -Condition OR{conditions}    # {}", make.id);
        for entry in &make.options {
            _ = writeln!(
                out,
                "Set-DhcpServerv4OptionValue -PolicyName {policy} -OptionId {} -Value {}    # {}",
                entry.code,
                value(entry),
                make.id
            );
        }
    }
    if let Some(others) = &sheet.others {
        _ = writeln!(out, "\n# {}: take the # away if no computer of this server's networks boots from it", others.title);
        for entry in &others.options {
            _ = writeln!(out, "# Set-DhcpServerv4OptionValue -OptionId {} -Value {}    # any other phone", entry.code, value(entry));
        }
    }
    out
}

pub(super) fn netsh(sheet: &Sheet) -> String {
    let place = [
        "For Windows servers without policies (before 2012): a command prompt as administrator. One value for all makes, and for",
        "computers that boot from the network too: set them for the phones' scope alone (netsh dhcp server scope ADDRESS set optionvalue).",
    ];
    let mut out = sheet.head("rem", &place);
    for shared in sheet.shared() {
        let Entry { code, text, bytes, .. } = &shared.entry;
        _ = writeln!(out, "\nrem {}", shared.remark());
        let kind = if text.is_some() { "STRING" } else { "BYTE" };
        if !DEFINED.contains(code) {
            _ = writeln!(out, "netsh dhcp server add optiondef {code} \"Plugtone {code}\" {kind} {}", u8::from(text.is_none()));
        }
        _ = match shared.entry.text_without("\"%") {
            Some(text) => writeln!(out, "netsh dhcp server set optionvalue {code} STRING \"{text}\""),
            None => {
                let numbers: Vec<String> = bytes.iter().map(|byte| format!("\"{byte}\"")).collect();
                writeln!(out, "netsh dhcp server set optionvalue {code} BYTE {}", numbers.join(" "))
            }
        };
    }
    out
}

/// Codes to define, as text and as bytes.
fn by_kind(sheet: &Sheet) -> (Vec<u8>, Vec<u8>) {
    let all = sheet.makes.iter().flat_map(|make| &make.options).chain(sheet.others.iter().flat_map(|others| &others.options));
    let mut codes: Vec<(u8, bool)> =
        all.filter(|entry| !DEFINED.contains(&entry.code)).map(|entry| (entry.code, entry.text.is_some())).collect();
    codes.sort_unstable();
    codes.dedup_by_key(|(code, _)| *code);
    let pick = |wanted: bool| codes.iter().filter(|(_, text)| *text == wanted).map(|(code, _)| *code).collect();
    (pick(true), pick(false))
}

fn readers(sheet: &Sheet, code: u8) -> String {
    let makes = sheet.makes.iter().filter(|make| make.options.iter().any(|entry| entry.code == code)).map(|make| make.id.clone());
    let any =
        sheet.others.iter().filter(|others| others.options.iter().any(|entry| entry.code == code)).map(|_| "any other phone".to_owned());
    makes.chain(any).collect::<Vec<_>>().join(", ")
}

fn value(entry: &Entry) -> String {
    match &entry.text {
        Some(text) => quoted(text),
        None => entry.bytes.iter().map(|byte| format!("0x{byte:02X}")).collect::<Vec<_>>().join(","),
    }
}

/// Single quotes: nothing inside is special but the quote itself.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
