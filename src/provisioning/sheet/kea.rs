//! Kea: a client class for each make.

use std::fmt::Write;

use super::{Entry, Make, Match, Sheet, hex, shown};

pub(super) fn write(sheet: &Sheet) -> String {
    let place = [
        "For Kea: save as /etc/kea/plugtone.json, and inside \"Dhcp4\" write: <?include \"/etc/kea/plugtone.json\"?>,",
        "If you have \"client-classes\" of your own, paste these between them instead.",
    ];
    let mut out = sheet.head("//", &place);
    let mut classes: Vec<String> =
        sheet.makes.iter().map(|make| class(&make.id, &make.id, &make.title, condition(make), &make.options)).collect();
    if let Some(others) = &sheet.others {
        let never: Vec<String> = others.never.iter().map(|name| begins(name.as_bytes())).collect();
        let test = if never.is_empty() { Vec::new() } else { vec![format!("not ({})", never.join(" or "))] };
        // Last: of several classes the first one's value counts.
        classes.push(class(
            "other",
            "any other phone",
            &format!("{}: whoever asks, but for what is no phone", others.title),
            test,
            &others.options,
        ));
    }
    _ = write!(out, "\"client-classes\": [\n{}\n]\n", classes.join(",\n"));
    out
}

fn class(id: &str, make: &str, title: &str, test: Vec<String>, options: &[Entry]) -> String {
    let mut out = format!("  // {title}\n  {{\n    \"name\": \"plugtone-{id}\",\n");
    if !test.is_empty() {
        _ = writeln!(out, "    \"test\": \"{}\",    // {make}", test.join(" or ").replace('\\', "\\\\").replace('"', "\\\""));
    }
    out.push_str("    \"option-data\": [\n");
    for (index, entry) in options.iter().enumerate() {
        let comma = if index + 1 < options.len() { "," } else { "" };
        // A quoted text stands for its bytes, so that nobody need tell Kea what kind of option it is.
        let data = match entry.text_without("'") {
            Some(text) => format!("'{}'", text.replace('\\', "\\\\").replace('"', "\\\"")),
            None => hex(&entry.bytes, ""),
        };
        _ = writeln!(
            out,
            "      {{ \"code\": {}, \"csv-format\": false, \"always-send\": {}, \"data\": \"{data}\" }}{comma}    // {make}",
            entry.code, entry.forced
        );
    }
    out.push_str("    ]\n  }");
    out
}

fn condition(make: &Make) -> Vec<String> {
    // Kea looks for a text at a place, not anywhere; the other signs of such a make must do.
    let class = make.classes.iter().filter(|(how, _)| *how != Match::Contains).map(|(_, bytes)| begins(bytes));
    let prefix = |prefix: &Vec<u8>| format!("substring(pkt4.mac, 0, {}) == 0x{}", prefix.len(), hex(prefix, ""));
    class.chain(make.prefixes.iter().map(prefix)).collect()
}

fn begins(bytes: &[u8]) -> String {
    format!("substring(option[60].hex, 0, {}) == {}", bytes.len(), shown(bytes))
}
