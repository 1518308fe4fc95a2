//! ISC dhcpd: a class for each make.

use std::fmt::Write;

use super::{Entry, Make, Match, Sheet, hex};

pub(super) fn write(sheet: &Sheet) -> String {
    let mut out = sheet.head(
        "#",
        &["For ISC dhcpd: save as /etc/dhcp/plugtone.conf, and at the beginning of dhcpd.conf: include \"/etc/dhcp/plugtone.conf\";"],
    );
    let all = sheet.makes.iter().flat_map(|make| &make.options).chain(sheet.others.iter().flat_map(|others| &others.options));
    let mut codes: Vec<u8> = all.map(|entry| entry.code).filter(|code| known(*code).is_none()).collect();
    codes.sort_unstable();
    codes.dedup();
    out.push('\n');
    for code in codes {
        _ = writeln!(out, "option plugtone-{code} code {code} = string;");
    }
    for make in &sheet.makes {
        _ = writeln!(out, "\n# {}\nclass \"plugtone-{}\" {{\n  match if {};", make.title, make.id, condition(make).join("\n        or "));
        for entry in &make.options {
            _ = writeln!(out, "  {}    # {}", option(entry), make.id);
        }
        let forced: Vec<u8> = make.options.iter().filter(|entry| entry.forced).map(|entry| entry.code).collect();
        if !forced.is_empty() {
            // Otherwise what a phone did not list is not sent.
            _ = writeln!(
                out,
                "  if exists dhcp-parameter-request-list {{    # {} reads these also where it does not ask for them\n    \
                 option dhcp-parameter-request-list = concat(option dhcp-parameter-request-list, {});\n  }}",
                make.id,
                hex(&forced, ":")
            );
        }
        out.push_str("}\n");
    }
    if let Some(others) = &sheet.others {
        _ = writeln!(out, "\n# {}: whoever asks, but for what is no phone", others.title);
        let never = others.never.iter().map(|name| begins(name.as_bytes())).collect::<Vec<_>>().join(" or\n        ");
        if !never.is_empty() {
            _ = writeln!(out, "if not ({never}) {{");
        }
        for entry in &others.options {
            _ = writeln!(out, "  {}    # any other phone", option(entry));
        }
        if !never.is_empty() {
            out.push_str("}\n");
        }
    }
    out
}

fn condition(make: &Make) -> Vec<String> {
    let class = make.classes.iter().map(|(how, bytes)| match (how, str::from_utf8(bytes)) {
        (Match::Exact, Ok(text)) => format!("option vendor-class-identifier ~~ \"^{}$\"", pattern(text)),
        (Match::Contains, Ok(text)) => format!("option vendor-class-identifier ~~ \"{}\"", pattern(text)),
        _ => begins(bytes),
    });
    let prefix = |prefix: &Vec<u8>| format!("substring(hardware, 1, {}) = {}", prefix.len(), hex(prefix, ":"));
    class.chain(make.prefixes.iter().map(prefix)).collect()
}

fn begins(bytes: &[u8]) -> String {
    let value = match str::from_utf8(bytes) {
        Ok(text) if text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') => quoted(text),
        _ => hex(bytes, ":"),
    };
    format!("substring(option vendor-class-identifier, 0, {}) = {value}", bytes.len())
}

fn option(entry: &Entry) -> String {
    let name = known(entry.code).map_or_else(|| format!("plugtone-{}", entry.code), str::to_owned);
    match &entry.text {
        Some(text) => format!("option {name} {};", quoted(text)),
        None if known(entry.code).is_some_and(|name| name != "vendor-encapsulated-options") => {
            let octal: String = entry.bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
            format!("option {name} \"{octal}\";")
        }
        None => format!("option {name} {};", hex(&entry.bytes, ":")),
    }
}

/// Options that dhcpd has a name for; a second name for one code would be sent beside the first.
fn known(code: u8) -> Option<&'static str> {
    match code {
        43 => Some("vendor-encapsulated-options"),
        66 => Some("tftp-server-name"),
        67 => Some("bootfile-name"),
        _ => None,
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// As an extended regular expression inside a string.
fn pattern(text: &str) -> String {
    let escaped: String =
        text.chars().flat_map(|c| if c.is_ascii_alphanumeric() || " -_/:".contains(c) { vec![c] } else { vec!['[', c, ']'] }).collect();
    escaped.replace('\\', "\\\\").replace('"', "\\\"")
}
