//! From what an unknown phone showed to the beginning of its make's template, for a person to finish. Pure.

use std::fmt::Write;

use super::pattern::FilePattern;
use crate::model::MacAddr;

/// What a phone showed of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub mac: MacAddr,
    /// DHCP option 60, as text.
    pub vendor_class: Option<String>,
    /// What it asked for by DHCP (option 55).
    pub asked: Vec<u8>,
    /// Files that it asked for, in their order, each once.
    pub files: Vec<String>,
    pub user_agents: Vec<String>,
}

impl Shown {
    pub fn of(mac: MacAddr) -> Self {
        Self { mac, vendor_class: None, asked: Vec::new(), files: Vec::new(), user_agents: Vec::new() }
    }
}

/// DHCP options by which phones find their server, and what they are read as.
const SERVER_OPTIONS: &[(u8, &str, &str)] = &[
    (66, "text", "{{ server.url }}"),
    (114, "text", "{{ server.url }}"),
    (150, "addresses", "{{ server.host if server.host is ipv4 else \"\" }}"),
    (159, "text", "{{ server.url }}"),
    (160, "text", "{{ server.url }}"),
];

const ACCOUNT: &str = "\
{% for line in lines %}
line{{ line.number }}_name={{ line.display_name }}
line{{ line.number }}_user={{ line.user }}
line{{ line.number }}_auth_user={{ line.auth_user }}
line{{ line.number }}_password={{ line.secret }}
line{{ line.number }}_server={{ server.host }}:{{ server.sip_port }}
line{{ line.number }}_transport={{ sip_transport }}
{% endfor %}
";

const ACCOUNT_XML: &str = "\
<settings>
{% for line in lines %}
  <line number=\"{{ line.number }}\" name=\"{{ line.display_name }}\" user=\"{{ line.user }}\" auth_user=\"{{ line.auth_user }}\"
        password=\"{{ line.secret }}\" server=\"{{ server.host }}:{{ server.sip_port }}\" transport=\"{{ sip_transport }}\"/>
{% endfor %}
</settings>
";

/// A family's file that loads as it is. What must be written by who knows the make stands in comments.
pub fn stub(shown: &Shown) -> String {
    let mut out = String::new();
    // Writing into memory does not fail.
    let _ = write(&mut out, shown);
    out
}

fn write(out: &mut String, shown: &Shown) -> std::fmt::Result {
    let make = make_of(shown);
    writeln!(out, "# Made by `plugtone template learn {}`: what this phone showed of itself.", shown.mac)?;
    writeln!(out, "# 1. Save it as {}.yaml in the folder that `templates.path` names.", make.to_lowercase())?;
    writeln!(out, "# 2. Write the bodies of the files in the make's own words: its administrator's guide has the settings' names.")?;
    writeln!(out, "# 3. `plugtone check`, `plugtone template diff`, `plugtone reload`.")?;
    writeln!(out, "name: {}\n\nrecognise:", quoted(&make))?;
    writeln!(out, "  # The beginning of its MAC address: whose it is, https://standards-oui.ieee.org tells.")?;
    writeln!(out, "  ouis: [\"{}\"]", shown.mac.bare_upper().get(..6).unwrap_or_default())?;
    match shown.vendor_class.as_deref().filter(|class| !class.is_empty()) {
        Some(class) => {
            writeln!(out, "  # Its DHCP class (option 60). `prefix:` or `contains:` where other models say more.")?;
            writeln!(out, "  vendor_classes:\n    - exact: {}", quoted(class))?;
        }
        None => writeln!(out, "  # It sends no DHCP class (option 60).")?,
    }
    if let Some(agent) = shown.user_agents.first() {
        writeln!(out, "  user_agents:")?;
        for agent in &shown.user_agents {
            writeln!(out, "    # {}", one_line(agent))?;
        }
        writeln!(out, "    - {}", quoted(&pattern(agent)))?;
    }
    let asked: Vec<_> = shown.asked.iter().map(u8::to_string).collect();
    writeln!(out)?;
    if !asked.is_empty() {
        writeln!(out, "# It asked by DHCP for the options {}.", asked.join(", "))?;
    }
    let options: Vec<_> = SERVER_OPTIONS.iter().filter(|(code, ..)| shown.asked.contains(code)).collect();
    if options.is_empty() {
        writeln!(out, "dhcp:\n  # It asked for no option that is known to lead to files; most phones read this one all the same.")?;
        writeln!(out, "  - {{ code: 66, kind: text, value: \"{{{{ server.url }}}}\" }}\n")?;
    } else {
        writeln!(out, "dhcp:")?;
        for (code, kind, value) in options {
            writeln!(out, "  - {{ code: {code}, kind: {kind}, send: asked, value: {} }}", quoted(value))?;
        }
        writeln!(out)?;
    }
    files(out, shown)?;
    writeln!(out, "# How it is told to fetch its files again (Event of the NOTIFY).")?;
    writeln!(out, "reload: {{ soft: check-sync, hard: check-sync;reboot=true }}\n")?;
    writeln!(out, "capabilities: {{ hotline: false, rfc4733: true, poll_minutes_min: 0, lines_max: 1 }}")
}

fn files(out: &mut String, shown: &Shown) -> std::fmt::Result {
    writeln!(out, "files:")?;
    let (mut seen, mut account) = (Vec::new(), false);
    for path in &shown.files {
        let name = named(path, shown.mac);
        let Ok(pattern) = FilePattern::parse(&name) else { continue };
        let plain = name.chars().all(|c| c.is_ascii_graphic());
        if !plain || seen.contains(&name.to_lowercase()) {
            continue;
        }
        seen.push(name.to_lowercase());
        file(out, &name, pattern.names_mac, pattern.names_mac && !account)?;
        account |= pattern.names_mac;
    }
    if !account {
        writeln!(out, "  # It was not seen to ask for a file of its own name: where it does, this is the place.")?;
        file(out, "{mac}.cfg", true, true)?;
    }
    writeln!(out)
}

fn file(out: &mut String, name: &str, own: bool, account: bool) -> std::fmt::Result {
    let xml = name.to_lowercase().ends_with("xml");
    writeln!(out, "  - name: {}", quoted(name))?;
    writeln!(out, "    content_type: {}", if xml { "text/xml" } else { "text/plain" })?;
    writeln!(out, "    grammar: {}", if xml { "xml" } else { "key_value" })?;
    if !own {
        writeln!(out, "    # For every phone of the make, without anything that is somebody's.\n    readers: anyone")?;
    }
    let body = match (account, xml) {
        (true, true) => ACCOUNT_XML,
        (true, false) => ACCOUNT,
        (false, true) => "<settings/>\n",
        (false, false) => "# {{ server.url }}\n",
    };
    if account {
        writeln!(out, "    account: true")?;
    }
    writeln!(out, "    body: |")?;
    body.lines().try_for_each(|line| writeln!(out, "      {line}"))
}

/// The first word of what it says that it is.
fn make_of(shown: &Shown) -> String {
    let said = shown.user_agents.iter().map(String::as_str).chain(shown.vendor_class.as_deref());
    let word = said.filter_map(|text| text.split(|c: char| !c.is_ascii_alphanumeric()).find(|word| word.len() > 2)).next();
    word.map_or_else(|| "newmake".to_owned(), str::to_owned)
}

/// The name with a place for the MAC.
fn named(path: &str, mac: MacAddr) -> String {
    let (lower, upper) = (mac.bare().to_string(), mac.bare_upper().to_string());
    path.trim_start_matches('/').replace(&lower, "{mac}").replace(&upper, "{MAC}")
}

/// For a user agent like `Acme P200 1.2.3.4`: the first word as it is, then a model, then a version where there is one.
fn pattern(agent: &str) -> String {
    let mut words = agent.split_whitespace();
    let make = regex::escape(words.next().unwrap_or_default());
    let mut pattern = format!("(?i)^{make}");
    if words.clone().next().is_some() {
        pattern += r"[ /-]+(?P<model>[A-Z0-9-]+)";
        if words.any(|word| word.starts_with(|c: char| c.is_ascii_digit())) {
            pattern += r".*?(?P<fw>\d+(?:\.\d+)+)";
        }
    }
    pattern
}

/// As YAML in quotes.
fn quoted(text: &str) -> String {
    format!("'{}'", one_line(text).replace('\'', "''"))
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::{DhcpFacts, Readers, Source, TemplateSet, shipped};

    fn shown() -> Shown {
        Shown {
            mac: MacAddr([0x02, 0x11, 0x22, 0xaa, 0xbb, 0xcc]),
            vendor_class: Some("acme: 'P200' phone".into()),
            asked: vec![1, 3, 6, 42, 66, 150],
            files: ["acme.cfg", "021122AABBCC.xml", "021122aabbcc.xml", "/lang/de.xml", "../x", "a b", "{x}"].map(String::from).to_vec(),
            user_agents: vec!["Acme P200 1.2.3.4 (x)".into(), "Acme P200 1.2.4".into()],
        }
    }

    fn loaded(text: &str) -> TemplateSet {
        let mut sources = shipped();
        sources.push(Source { name: "acme.yaml".into(), origin: "acme.yaml".into(), text: text.into() });
        TemplateSet::load(&sources).unwrap_or_else(|faults| panic!("{faults:?}\n{text}"))
    }

    #[test]
    fn a_phone_that_nobody_knew_is_known_by_what_it_showed() {
        let shown = shown();
        let set = loaded(&stub(&shown));
        let facts = DhcpFacts { vendor_class: Some(b"acme: 'P200' phone"), ..Default::default() };
        assert_eq!(set.recognise_dhcp(facts).unwrap().family, "acme");
        assert_eq!(set.recognise_mac(shown.mac), Some("acme"));
        let agent = set.recognise_user_agent(b"Acme P200 1.2.3.4 (x)").unwrap();
        assert_eq!((&*agent.family, agent.model.as_deref(), agent.firmware.as_deref()), ("acme", Some("P200"), Some("1.2.3.4")));
        let own = set.locate("acme", "021122aabbcc.xml").unwrap();
        assert_eq!((own.readers, own.account, own.mac), (Readers::Own, true, Some(shown.mac)));
        for common in ["acme.cfg", "lang/de.xml"] {
            assert_eq!(set.locate("acme", common).unwrap().readers, Readers::Anyone, "{common}");
        }
    }

    #[test]
    fn whatever_a_phone_shows_the_template_loads() {
        let nothing = Shown::of(MacAddr([0x02, 0x11, 0x22, 0xaa, 0xbb, 0xcc]));
        assert!(loaded(&stub(&nothing)).locate("acme", "021122aabbcc.cfg").is_some_and(|file| file.account));
        for nasty in ["'\"\n- x: {", "a: b # c", "(((", "{{ x }}", "%YAML", "\u{0}\u{1b}[31m", "é ü", ""] {
            let one = || Some(nasty.to_owned());
            let shown = Shown {
                vendor_class: one(),
                user_agents: one().into_iter().collect(),
                files: vec![nasty.into(), format!("{nasty}.xml")],
                ..shown()
            };
            loaded(&stub(&shown));
        }
    }
}
