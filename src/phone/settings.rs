//! Reads a served configuration as the make would, to learn the SIP account: key=value, XML attributes, P-values, JSON.
//!
//! Deliberately strict where phones are strict (a Grandstream refuses a file for another MAC) and lax where they are lax.

use std::collections::BTreeMap;

use crate::model::{MacAddr, Secret};

/// What a phone ends up with after all its files: setting → value, by the make's own names.
pub type Values = BTreeMap<String, String>;

/// The line that the files describe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub user: String,
    pub auth_user: String,
    pub password: Secret,
    pub server: String,
    pub port: u16,
    pub tcp: bool,
    pub expires_secs: u32,
    pub display_name: String,
    pub label: String,
    /// Dialled by itself when the handset is lifted.
    pub hotline: Option<String>,
    /// How soon it looks for new files by itself.
    pub poll_secs: Option<u32>,
}

/// A file that the make would not take, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("{file} is not UTF-8")]
    NotText { file: String },
    #[error("{file} lacks the first line '{wanted}'")]
    NoHeader { file: String, wanted: &'static str },
    #[error("{file}:{line}: '{text}' is not 'key = value'")]
    NotKeyValue { file: String, line: usize, text: String },
    #[error("{file} is not well-formed XML: {reason}")]
    NotXml { file: String, reason: String },
    #[error("{file} is not JSON: {reason}")]
    NotJson { file: String, reason: String },
    #[error("{file} has the root <{root}>, this make wants {wanted}")]
    WrongRoot { file: String, root: String, wanted: &'static str },
    #[error("{file} is for {found}, not for {own}")]
    WrongDevice { file: String, found: String, own: MacAddr },
    #[error("the files name no account: '{missing}' is missing or empty")]
    NoAccount { missing: &'static str },
    #[error("'{key}' is '{value}', which this make does not understand")]
    BadValue { key: &'static str, value: String },
}

/// Yealink: `#!version:` first, then `key = value`; later files win; `%NULL%` clears. Returns the files a boot file includes.
pub fn read_yealink(file: &str, bytes: &[u8], values: &mut Values) -> Result<Vec<String>, Fault> {
    let text = text_of(file, bytes)?;
    let mut lines = text.lines();
    if !lines.next().is_some_and(|first| first.trim_start_matches('\u{feff}').starts_with("#!version:")) {
        return Err(Fault::NoHeader { file: file.into(), wanted: "#!version:1.0.0.1" });
    }
    let mut includes = Vec::new();
    for (index, line) in lines.enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("include:config") {
            includes.push(name.trim().trim_matches(|c| matches!(c, '"' | '<' | '>')).to_owned());
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(Fault::NotKeyValue { file: file.into(), line: index + 2, text: line.chars().take(60).collect() });
        };
        match value.trim() {
            "%NULL%" | "%EMPTY%" => values.remove(key.trim()),
            value => values.insert(key.trim().to_owned(), value.to_owned()),
        };
    }
    Ok(includes)
}

/// What a Polycom master file says.
#[derive(Debug, PartialEq, Eq)]
pub enum PolyFile {
    /// `<APPLICATION …>`: the files to fetch, with the macros filled in.
    Master { config_files: Vec<String> },
    /// Parameters as attributes of any element.
    Parameters,
}

/// Poly: a master names files; in parameter files the value met first wins.
pub fn read_poly(file: &str, bytes: &[u8], mac: MacAddr, model: &str, values: &mut Values) -> Result<PolyFile, Fault> {
    let text = text_of(file, bytes)?;
    let document = xml_of(file, text)?;
    let root = document.root_element();
    if root.has_tag_name("APPLICATION") {
        let names = root.attribute("CONFIG_FILES").unwrap_or_default();
        let fill = |name: &str| name.trim().replace("[PHONE_MAC_ADDRESS]", &mac.bare()).replace("[PHONE_MODEL]", model);
        return Ok(PolyFile::Master { config_files: names.split(',').map(fill).filter(|name| !name.is_empty()).collect() });
    }
    for element in document.descendants().filter(|node| node.is_element()) {
        for attribute in element.attributes() {
            values.entry(attribute.name().to_owned()).or_insert_with(|| attribute.value().to_owned());
        }
    }
    Ok(PolyFile::Parameters)
}

/// Grandstream: `<gs_provision>`, P-values or named items; a `<mac>` of another phone makes it refuse the file.
pub fn read_grandstream(file: &str, bytes: &[u8], mac: MacAddr, values: &mut Values) -> Result<(), Fault> {
    let text = text_of(file, bytes)?;
    let document = xml_of(file, text)?;
    let root = document.root_element();
    if !root.has_tag_name("gs_provision") {
        return Err(Fault::WrongRoot { file: file.into(), root: root.tag_name().name().into(), wanted: "<gs_provision>" });
    }
    let named = root.children().find(|node| node.has_tag_name("mac")).and_then(|node| node.text());
    if let Some(found) = named.filter(|named| named.parse() != Ok(mac)) {
        return Err(Fault::WrongDevice { file: file.into(), found: found.into(), own: mac });
    }
    for config in root.children().filter(|node| node.has_tag_name("config")) {
        for element in config.children().filter(|node| node.is_element()) {
            let name = element.attribute("name").unwrap_or(element.tag_name().name());
            values.insert(name.to_owned(), element.text().unwrap_or_default().to_owned());
        }
    }
    Ok(())
}

/// Anything else: the account as JSON, its first line.
pub fn read_generic(file: &str, bytes: &[u8], values: &mut Values) -> Result<(), Fault> {
    let json: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| Fault::NotJson { file: file.into(), reason: error.to_string() })?;
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let line = json["lines"][0].as_object();
    values.extend(line.into_iter().flatten().map(|(key, value)| (key.clone(), text(value))));
    if json["bound"] == false {
        values.insert("ivr_number".to_owned(), text(&json["ivr_number"]));
    }
    Ok(())
}

/// The first line's account, by the make's names of settings.
pub fn account(family: &str, values: &Values) -> Result<Account, Fault> {
    let get = |key: &str| values.get(key).map(String::as_str).filter(|value| !value.is_empty());
    let need = |key: &'static str| get(key).map(str::to_owned).ok_or(Fault::NoAccount { missing: key });
    let number = |key: &'static str, otherwise: u32| match get(key) {
        None => Ok(otherwise),
        Some(value) => value.parse().map_err(|_| Fault::BadValue { key, value: value.to_owned() }),
    };
    let on = |key: &str| matches!(get(key), Some("1" | "Yes" | "yes" | "true"));
    let text = |key: &str| get(key).unwrap_or_default().to_owned();
    match family {
        "yealink" => {
            if !on("account.1.enable") {
                return Err(Fault::NoAccount { missing: "account.1.enable" });
            }
            let minutes = number("static.auto_provision.repeat.minutes", 0)?;
            Ok(Account {
                user: need("account.1.user_name")?,
                auth_user: text("account.1.auth_name"),
                password: Secret::new(need("account.1.password")?),
                server: need("account.1.sip_server.1.address")?,
                port: number("account.1.sip_server.1.port", 5060)? as u16,
                tcp: get("account.1.sip_server.1.transport_type") == Some("1"),
                expires_secs: number("account.1.sip_server.1.expires", 3600)?,
                display_name: text("account.1.display_name"),
                label: text("account.1.label"),
                hotline: get("account.1.auto_dial_num").filter(|_| on("account.1.auto_dial_enable")).map(str::to_owned),
                poll_secs: (on("static.auto_provision.repeat.enable") && minutes > 0).then_some(minutes * 60),
            })
        }
        "poly" => Ok(Account {
            user: need("reg.1.address")?,
            auth_user: text("reg.1.auth.userId"),
            password: Secret::new(need("reg.1.auth.password")?),
            server: need("reg.1.server.1.address")?,
            port: number("reg.1.server.1.port", 5060)? as u16,
            tcp: get("reg.1.server.1.transport") == Some("TCPOnly"),
            expires_secs: number("reg.1.server.1.expires", 3600)?,
            display_name: text("reg.1.displayName"),
            label: text("reg.1.label"),
            hotline: get("call.autoOffHook.1.contact").filter(|_| on("call.autoOffHook.1.enabled")).map(str::to_owned),
            poll_secs: match on("prov.polling.enabled") {
                true => Some(number("prov.polling.period", 86400)?),
                false => None,
            },
        }),
        "grandstream" => {
            if !on("P271") {
                return Err(Fault::NoAccount { missing: "P271" });
            }
            let server = need("P47")?;
            let (host, port) = match server.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                    (host.to_owned(), port.parse().map_err(|_| Fault::BadValue { key: "P47", value: server.clone() })?)
                }
                _ => (server, 5060),
            };
            Ok(Account {
                user: need("P35")?,
                auth_user: text("P36"),
                password: Secret::new(need("P34")?),
                server: host,
                port,
                tcp: get("P130") == Some("1"),
                // This make counts register expiry in minutes.
                expires_secs: number("P32", 60)? * 60,
                display_name: text("P3"),
                label: text("P270"),
                hotline: get("P71").map(str::to_owned),
                poll_secs: match on("P194") {
                    true => Some(number("P193", 10080)? * 60),
                    false => None,
                },
            })
        }
        _ => Ok(Account {
            user: need("user")?,
            auth_user: text("auth_user"),
            password: Secret::new(need("password")?),
            server: need("server")?,
            port: number("port", 5060)? as u16,
            tcp: get("transport") == Some("tcp"),
            expires_secs: number("expires_secs", 300)?,
            display_name: text("display_name"),
            label: text("user"),
            hotline: get("ivr_number").map(str::to_owned),
            poll_secs: None,
        }),
    }
}

fn text_of<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| Fault::NotText { file: file.into() })
}

fn xml_of<'a>(file: &str, text: &'a str) -> Result<roxmltree::Document<'a>, Fault> {
    roxmltree::Document::parse(text).map_err(|error| Fault::NotXml { file: file.into(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0xc0, 0x74, 0xad, 1, 2, 3]);

    #[test]
    fn a_yealink_reads_lines_and_clears_with_null() {
        let mut values = Values::new();
        let first = b"#!version:1.0.0.1\naccount.1.enable = 1\naccount.1.user_name = 2041\naccount.1.label = Old\n";
        assert_eq!(read_yealink("a.cfg", first, &mut values), Ok(vec![]));
        let second = b"#!version:1.0.0.1\r\ninclude:config \"b.cfg\"\r\naccount.1.label = %NULL%\r\naccount.1.password = x=y\r\naccount.1.sip_server.1.address = 10.0.0.1\r\n";
        assert_eq!(read_yealink("b.boot", second, &mut values), Ok(vec!["b.cfg".to_owned()]));
        let account = account("yealink", &values).expect("account");
        assert_eq!((account.user.as_str(), account.label.as_str(), account.password.expose()), ("2041", "", "x=y"));
        assert!(matches!(read_yealink("c.cfg", b"key = value\n", &mut values), Err(Fault::NoHeader { .. })));
        assert!(matches!(read_yealink("c.cfg", b"#!version:1\nnonsense\n", &mut values), Err(Fault::NotKeyValue { line: 2, .. })));
    }

    #[test]
    fn a_poly_follows_its_master_and_keeps_the_first_value() {
        let mut values = Values::new();
        let master = br#"<APPLICATION CONFIG_FILES="[PHONE_MAC_ADDRESS]-user.cfg, common.cfg"/>"#;
        let files = vec!["c074ad010203-user.cfg".to_owned(), "common.cfg".to_owned()];
        assert_eq!(read_poly("m", master, MAC, "VVX", &mut values), Ok(PolyFile::Master { config_files: files }));
        for file in [
            &br#"<polycomConfig reg.1.address="2041"/>"#[..],
            br#"<polycomConfig><reg reg.1.address="9999" reg.1.label="L&amp;R"/></polycomConfig>"#,
        ] {
            assert_eq!(read_poly("u", file, MAC, "VVX", &mut values), Ok(PolyFile::Parameters));
        }
        assert_eq!((values["reg.1.address"].as_str(), values["reg.1.label"].as_str()), ("2041", "L&R"));
    }

    #[test]
    fn a_soft_phone_reads_json() {
        let mut values = Values::new();
        let file = br#"{"bound": false, "ivr_number": "0", "lines": [{"user": "new1", "password": "s", "server": "h", "port": 5070, "transport": "tcp"}]}"#;
        assert_eq!(read_generic("x", file, &mut values), Ok(()));
        let account = account("generic", &values).expect("account");
        assert_eq!((account.user.as_str(), account.port, account.tcp, account.hotline.as_deref()), ("new1", 5070, true, Some("0")));
    }

    #[test]
    fn a_grandstream_refuses_anothers_file() {
        let mut values = Values::new();
        let own = br#"<gs_provision version="1"><mac>c074ad010203</mac><config version="1"><P271>1</P271><P47>10.0.0.1:5070</P47><P35>2041</P35><P34>s</P34><P32>5</P32></config></gs_provision>"#;
        assert_eq!(read_grandstream("x", own, MAC, &mut values), Ok(()));
        let account = account("grandstream", &values).expect("account");
        assert_eq!((account.server.as_str(), account.port, account.expires_secs), ("10.0.0.1", 5070, 300));
        let other = br#"<gs_provision version="1"><mac>c074ad999999</mac><config version="1"/></gs_provision>"#;
        assert!(matches!(read_grandstream("x", other, MAC, &mut values), Err(Fault::WrongDevice { .. })));
    }
}
