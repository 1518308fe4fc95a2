//! Reads a served configuration as the make would, to learn the SIP account: lines, XML of several shapes, JSON.
//!
//! What is read becomes [`Values`] by the make's own names; [`Names`] says which of them make up the account.
//! Deliberately strict where phones are strict (a Grandstream refuses a file for another MAC) and lax where they are lax.

use std::collections::BTreeMap;

use super::make::Make;
use crate::model::{MacAddr, Secret};

/// How a make writes its files.
#[derive(Clone, Copy, Debug)]
pub enum Grammar {
    Yealink,
    Poly,
    Grandstream,
    /// A setting per element, named by its path below the root: `sip.line.1.EnableReg`. A root that is not listed is refused.
    Xml {
        roots: &'static [&'static str],
    },
    /// A setting per line behind `prefix`, name and value with `between` in the middle. `first` is the line that the make
    /// insists on; empty for none.
    Lines {
        first: &'static str,
        prefix: &'static str,
        between: &'static str,
    },
    Json,
}

/// By which names the files of a make say what the account is. An empty name: the make has no such setting.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// A setting and the value without which there is no account.
    pub enable: (&'static str, &'static str),
    pub user: &'static str,
    pub auth_user: &'static str,
    pub password: &'static str,
    /// A host, `host:port`, or `host:port;transport=tcp`.
    pub server: &'static str,
    pub port: &'static str,
    /// A setting and its value for TCP.
    pub transport: (&'static str, &'static str),
    /// A setting and its unit in seconds.
    pub expires: (&'static str, u32),
    pub display_name: &'static str,
    pub label: &'static str,
    pub hotline: Hotline,
    pub poll: Poll,
    /// Names another file that the make fetches next.
    pub next: &'static str,
}

/// How a make is told to dial by itself when the receiver is lifted.
#[derive(Clone, Copy, Debug)]
pub enum Hotline {
    /// It cannot be told, or no source says how.
    None,
    Number(&'static str),
    Switched {
        number: &'static str,
        switch: &'static str,
    },
    /// A dial plan that needs no key: `(S0<:1000>)`.
    DialPlan(&'static str),
}

/// How a make is told to look for new files by itself.
#[derive(Clone, Copy, Debug)]
pub struct Poll {
    pub every: &'static str,
    pub unit_secs: u32,
    /// Must be on for it; empty where there is no such switch.
    pub switch: &'static str,
}

impl Poll {
    pub const NEVER: Self = Self { every: "", unit_secs: 0, switch: "" };
}

/// What a phone ends up with after all its files: setting → value, by the make's own names.
pub type Values = BTreeMap<String, String>;

/// A line that the files describe.
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
    #[error("{file} is encrypted, and not by the key that this phone was told")]
    Encrypted { file: String },
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
    #[error("{file} is no record: kind, length, 3, length, name, 0")]
    NotRecords { file: String },
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
        values.insert("APP_FILE_PATH".to_owned(), root.attribute("APP_FILE_PATH").unwrap_or_default().to_owned());
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

/// Poly: the directory's entries that have a place among the speed dials.
pub fn read_poly_directory(file: &str, bytes: &[u8], values: &mut Values) -> Result<(), Fault> {
    let document = xml_of(file, text_of(file, bytes)?)?;
    let root = document.root_element();
    if !root.has_tag_name("directory") {
        return Err(Fault::WrongRoot { file: file.into(), root: root.tag_name().name().into(), wanted: "<directory>" });
    }
    for item in document.descendants().filter(|node| node.has_tag_name("item")) {
        let part = |name| item.children().find(|node| node.has_tag_name(name)).and_then(|node| node.text()).unwrap_or_default();
        for name in ["fn", "ct"] {
            values.entry(format!("directory.{}.{name}", part("sd"))).or_insert_with(|| part(name).to_owned());
        }
    }
    Ok(())
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

/// Attributes that tell elements of one name apart.
const INDICES: [&str; 4] = ["idx", "index", "id", "button"];
/// Elements whose `url` is a file to fetch next: snom's lists, and Digium's contacts and keys. With a `version` it is firmware.
const FILES: [&str; 3] = ["file", "contacts", "blf_items"];

/// A setting per element or, where it has both, `id` or `name` → `value`; named by the path below the root, with `idx`, `index`
/// or `id` behind an element's name. Gives the files that it says to fetch.
pub fn read_xml(file: &str, bytes: &[u8], roots: &'static [&'static str], values: &mut Values) -> Result<Vec<String>, Fault> {
    let text = text_of(file, bytes)?;
    let document = xml_of(file, text)?;
    let root = document.root_element();
    if !roots.contains(&root.tag_name().name()) {
        return Err(Fault::WrongRoot { file: file.into(), root: root.tag_name().name().into(), wanted: roots[0] });
    }
    let mut files = Vec::new();
    for element in root.descendants().filter(|node| node.is_element() && *node != root) {
        if let (true, Some(url)) =
            (FILES.contains(&element.tag_name().name()) && !element.has_attribute("version"), element.attribute("url"))
        {
            files.push(url.to_owned());
            continue;
        }
        // Gigaset's texts have quotation marks of their own.
        if let (Some(name), Some(value)) = (element.attribute("ID"), element.attribute("value")) {
            let text = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            values.insert(name.to_owned(), text.unwrap_or(value).to_owned());
            continue;
        }
        if let (Some(name), Some(value)) = (element.attribute("id").or(element.attribute("name")), element.attribute("value")) {
            values.insert(name.to_owned(), value.to_owned());
            continue;
        }
        let mut steps: Vec<String> = element.ancestors().take_while(|node| *node != root).map(step).collect();
        steps.reverse();
        let path = steps.join(".");
        for attribute in element.attributes().filter(|attribute| !INDICES.contains(&attribute.name())) {
            values.insert(format!("{path}.{}", attribute.name()), attribute.value().to_owned());
        }
        if !element.children().any(|child| child.is_element()) {
            values.insert(path, element.text().unwrap_or_default().to_owned());
        }
    }
    Ok(files)
}

/// Gigaset's way to a base's own file: each record names the next (kind 3 or 4), from where it lies itself, or the file (kind 0).
pub fn read_records(file: &str, bytes: &[u8]) -> Result<Vec<Named>, Fault> {
    let fault = || Fault::NotRecords { file: file.into() };
    let (folder, _) = file.rsplit_once('/').unwrap_or_default();
    let (mut named, mut rest) = (Vec::new(), bytes);
    while let [kind, len, body @ ..] = rest {
        let (record, more) = body.split_at_checked(usize::from(*len)).ok_or_else(fault)?;
        let [3, len, name @ .., 0] = record else { return Err(fault()) };
        if usize::from(*len) != name.len() + 1 {
            return Err(fault());
        }
        let name = text_of(file, name)?;
        named.push(match kind {
            0 => Named::Own(name.replace("%MACD", "{MAC}")),
            _ => Named::Record(if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }),
        });
        rest = more;
    }
    Ok(named)
}

/// What a record names.
#[derive(Debug, PartialEq, Eq)]
pub enum Named {
    /// The next record, by its path on the server.
    Record(String),
    /// The URL of the base's own file.
    Own(String),
}

fn step(node: roxmltree::Node<'_, '_>) -> String {
    let name = node.tag_name().name();
    match INDICES.iter().find_map(|index| node.attribute(*index)) {
        Some(index) => format!("{name}.{index}"),
        None => name.to_owned(),
    }
}

/// A setting per line; lines that begin with `#` say nothing, and so do those without `prefix`. Quotes around a value go.
/// Gives the files that a line `GET name` fetches.
pub fn read_lines(
    file: &str,
    bytes: &[u8],
    (first, prefix, between): (&'static str, &str, &str),
    values: &mut Values,
) -> Result<Vec<String>, Fault> {
    let text = text_of(file, bytes)?;
    if !text.starts_with(first) {
        return Err(Fault::NoHeader { file: file.into(), wanted: first });
    }
    let mut files = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let (false, Some(name)) = (prefix.is_empty(), line.strip_prefix("GET ")) {
            files.push(name.trim().to_owned());
        }
        let Some(setting) = line.strip_prefix(prefix).filter(|_| !line.is_empty() && !line.starts_with('#')) else { continue };
        let Some((key, value)) = setting.split_once(between) else {
            return Err(Fault::NotKeyValue { file: file.into(), line: index + 1, text: line.chars().take(60).collect() });
        };
        let value = value.trim();
        let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        // Avaya has one name for all keys, and the number of each in its value.
        let name = match bare.strip_prefix("Key=").and_then(|value| value.split_once(';')) {
            Some((number, _)) => format!("{}.{number}", key.trim()),
            None => key.trim().to_owned(),
        };
        values.insert(name, bare.to_owned());
    }
    Ok(files)
}

/// Where the files say that firmware is: a URL, or a path on the server that they are from. `None`: the phone keeps what it has.
pub fn firmware(make: &Make, values: &Values) -> Option<String> {
    let get = |key: &str| values.get(key).cloned().filter(|value| !value.is_empty());
    let model = make.model.to_lowercase();
    match make.family {
        "yealink" => get("static.firmware.url"),
        "poly" => get("APP_FILE_PATH"),
        // The folder without a scheme; the name is the phone's own.
        "grandstream" => {
            let scheme = ["tftp", "http", "https"].get(get("P212")?.parse::<usize>().ok()?)?;
            Some(format!("{scheme}://{}/{model}fw.bin", get("P192")?))
        }
        "snom" => get("firmware-settings.firmware"),
        "cisco_mpp" | "cisco_spa" => get("Upgrade_Rule").filter(|_| get("Upgrade_Enable").as_deref() == Some("Yes")),
        "fanvil" => get("AUTOUPDATE_CONFIG_MODULE.Auto_Image_URL"),
        "panasonic" => get("FIRM_FILE_PATH").filter(|_| get("FIRM_UPGRADE_ENABLE").as_deref() == Some("Y")),
        "mitel" => Some(format!("{}/{model}.st", get("firmware server")?)),
        // Without a scheme: below the folder that option 242 names.
        "avaya_j" => get("APPNAME"),
        "digium" => get("firmwares.firmware.url").filter(|_| get("firmwares.firmware.model").as_deref() == Some(make.model)),
        "gigaset" => get("firmware.file.url"),
        // The folder, which ends with a slash.
        "audiocodes" => Some(format!("{}{}.img", get("provisioning/firmware/url")?, make.model)),
        "htek" => Some(format!("{}/fw{}.rom", get("config.P192").filter(|_| get("config.P212").as_deref() == Some("1"))?, &model[2..])),
        "cisco_79xx" => Some(format!("{}.loads", get("loadInformation")?)),
        _ => None,
    }
}

/// A line's account, by the make's names of its settings.
pub fn account(names: &Names, values: &Values) -> Result<Account, Fault> {
    let get = |key: &str| values.get(key).map(String::as_str).filter(|value| !value.is_empty());
    let need = |key: &'static str| get(key).map(str::to_owned).ok_or(Fault::NoAccount { missing: key });
    let number = |key: &'static str, otherwise: u32| match get(key) {
        None => Ok(otherwise),
        Some(value) => value.parse().map_err(|_| Fault::BadValue { key, value: value.to_owned() }),
    };
    let on = |key: &str| matches!(get(key), Some("1" | "Yes" | "yes" | "true" | "on" | "Y"));
    let text = |key: &str| get(key).unwrap_or_default().to_owned();
    let (enable, enabled) = names.enable;
    if !enable.is_empty() && get(enable) != Some(enabled) {
        return Err(Fault::NoAccount { missing: enable });
    }
    let written = need(names.server)?;
    let (server, parameters) = written.split_once(';').unwrap_or((&written, ""));
    let (server, port) = match server.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().map_err(|_| Fault::BadValue { key: names.server, value: written.clone() })?)
        }
        _ => (server, number(names.port, 5060)? as u16),
    };
    let (transport, tcp) = names.transport;
    let (expires, unit_secs) = names.expires;
    let poll = number(names.poll.every, 0)? * names.poll.unit_secs;
    Ok(Account {
        user: need(names.user)?,
        auth_user: text(names.auth_user),
        password: Secret::new(need(names.password)?),
        server: server.to_owned(),
        port,
        tcp: get(transport) == Some(tcp) || parameters == "transport=tcp",
        expires_secs: number(expires, 3600 / unit_secs)? * unit_secs,
        display_name: text(names.display_name),
        label: text(names.label),
        hotline: match names.hotline {
            Hotline::None => None,
            Hotline::Number(number) => get(number),
            Hotline::Switched { number, switch } => get(number).filter(|_| on(switch)),
            Hotline::DialPlan(plan) => get(plan).and_then(|plan| plan.strip_prefix("(S0<:")?.strip_suffix(">)")),
        }
        .map(str::to_owned),
        poll_secs: Some(poll).filter(|poll| *poll > 0 && (names.poll.switch.is_empty() || on(names.poll.switch))),
    })
}

fn text_of<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| Fault::NotText { file: file.into() })
}

fn xml_of<'a>(file: &str, text: &'a str) -> Result<roxmltree::Document<'a>, Fault> {
    roxmltree::Document::parse(text).map_err(|error| Fault::NotXml { file: file.into(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::{super::make::Make, *};

    const MAC: MacAddr = MacAddr([0xc0, 0x74, 0xad, 1, 2, 3]);

    fn make(family: &str) -> Make {
        Make::of(family).expect("a make")
    }

    #[test]
    fn records_name_the_next_file() {
        let read = |file: &str, bytes: &[u8]| read_records(file, bytes);
        let next = Named::Record("42/2/sih_4xx.bin".into());
        assert_eq!(read("42/2/sifsroot.bin", b"\x04\x0e\x03\x0csih_4xx.bin\0"), Ok(vec![next]));
        let two = b"\x05\x07\x03\x05sht/\0\x00\x19\x03\x17http://%DURL/%MACD.xml\0";
        let named = vec![Named::Record("sht/".into()), Named::Own("http://%DURL/{MAC}.xml".into())];
        assert_eq!(read("x.bin", two), Ok(named));
        for broken in
            [&b"\x04\x0e\x03\x0csih_4xx.bin"[..], b"\x04\x0e\x03\x0bsih_4xx.bin\0", b"\x04\x0e\x02\x0csih_4xx.bin\0", b"\x04\xff\x03\x01\0"]
        {
            assert_eq!(read("x.bin", broken), Err(Fault::NotRecords { file: "x.bin".into() }), "{broken:?}");
        }
    }

    #[test]
    fn a_yealink_reads_lines_and_clears_with_null() {
        let mut values = Values::new();
        let first = b"#!version:1.0.0.1\naccount.1.enable = 1\naccount.1.user_name = 2041\naccount.1.label = Old\n";
        assert_eq!(read_yealink("a.cfg", first, &mut values), Ok(vec![]));
        let second = b"#!version:1.0.0.1\r\ninclude:config \"b.cfg\"\r\naccount.1.label = %NULL%\r\naccount.1.password = x=y\r\naccount.1.sip_server.1.address = 10.0.0.1\r\n";
        assert_eq!(read_yealink("b.boot", second, &mut values), Ok(vec!["b.cfg".to_owned()]));
        let account = account(&make("yealink").names, &values).expect("account");
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
        let account = account(&make("generic").names, &values).expect("account");
        assert_eq!((account.user.as_str(), account.port, account.tcp, account.hotline.as_deref()), ("new1", 5070, true, Some("0")));
    }

    #[test]
    fn a_grandstream_refuses_anothers_file() {
        let mut values = Values::new();
        let own = br#"<gs_provision version="1"><mac>c074ad010203</mac><config version="1"><P271>1</P271><P47>10.0.0.1:5070</P47><P35>2041</P35><P34>s</P34><P32>5</P32></config></gs_provision>"#;
        assert_eq!(read_grandstream("x", own, MAC, &mut values), Ok(()));
        let account = account(&make("grandstream").names, &values).expect("account");
        assert_eq!((account.server.as_str(), account.port, account.expires_secs), ("10.0.0.1", 5070, 300));
        let other = br#"<gs_provision version="1"><mac>c074ad999999</mac><config version="1"/></gs_provision>"#;
        assert!(matches!(read_grandstream("x", other, MAC, &mut values), Err(Fault::WrongDevice { .. })));
    }

    #[test]
    fn xml_is_read_by_paths_and_lists_name_files() {
        let mut values = Values::new();
        let read = |text: &str, values: &mut Values| read_xml("x", text.as_bytes(), &["settings", "setting-files"], values);
        let list = r#"<setting-files><file url="http://h/0004130A0B0C.xml"/></setting-files>"#;
        assert_eq!(read(list, &mut values), Ok(vec!["http://h/0004130A0B0C.xml".to_owned()]));
        let own = r#"<settings><phone-settings><user_active idx="1" perm="R">on</user_active><user_name idx="1">2041</user_name>
            <user_pass idx="1">s</user_pass><user_outbound idx="1">10.0.0.1:5070;transport=tcp</user_outbound></phone-settings>
            <setting id="ntp" value="h"/></settings>"#;
        assert_eq!(read(own, &mut values), Ok(vec![]));
        assert_eq!(values["ntp"], "h");
        let account = account(&make("snom").names, &values).expect("account");
        assert_eq!((account.server.as_str(), account.port, account.tcp), ("10.0.0.1", 5070, true));
        assert!(matches!(read("<html/>", &mut values), Err(Fault::WrongRoot { .. })));
    }

    #[test]
    fn lines_may_have_a_word_in_front_and_quotes() {
        let mut values = Values::new();
        let colons = b"# a comment\nsip line1 user name: 2041\r\nsip line1 display name: a: b\n";
        assert_eq!(read_lines("x", colons, ("", "", ":"), &mut values), Ok(vec![]));
        assert_eq!((values["sip line1 user name"].as_str(), values["sip line1 display name"].as_str()), ("2041", "a: b"));
        let words = b"IF $MODEL4 SEQ J179 GOTO J\nSET SNTPSRVR \"a b\"\nGET $MACADDR.cfg\n";
        assert_eq!(read_lines("x", words, ("", "SET ", " "), &mut values), Ok(vec!["$MACADDR.cfg".to_owned()]));
        assert_eq!(values["SNTPSRVR"], "a b");
        assert!(matches!(read_lines("x", b"a=b", ("# head", "", "="), &mut values), Err(Fault::NoHeader { .. })));
        assert!(matches!(read_lines("x", b"\nnonsense\n", ("", "", "="), &mut values), Err(Fault::NotKeyValue { line: 2, .. })));
    }

    #[test]
    fn a_dial_plan_that_needs_no_key_is_a_hotline() {
        let profile = |plan: &str| {
            format!(
                "<flat-profile><Line_Enable_1_>Yes</Line_Enable_1_><Proxy_1_>h</Proxy_1_><User_ID_1_>u</User_ID_1_><Password_1_>s</Password_1_><Dial_Plan_1_>{plan}</Dial_Plan_1_></flat-profile>"
            )
        };
        for (plan, hotline) in [("(S0&lt;:0&gt;)", Some("0")), ("(**x.|*x.|x.)", None)] {
            let mut values = Values::new();
            read_xml("x", profile(plan).as_bytes(), &["flat-profile"], &mut values).expect("read");
            assert_eq!(account(&make("cisco_spa").names, &values).expect("account").hotline.as_deref(), hotline, "{plan}");
        }
    }
}
