//! What all sheets have in common, and values that mean something to the servers that read them.

use super::*;
use crate::{provisioning::OpenSettings, template::Source};

fn sheet(settings: &Settings) -> Sheet {
    // Some of the families: another that is shipped one day changes nothing here.
    let kept = ["defaults", "overrides", "timezones", "generic", "grandstream", "poly", "yealink"];
    let sources: Vec<_> =
        crate::template::shipped().into_iter().filter(|source| kept.iter().any(|name| source.name.starts_with(name))).collect();
    let set = TemplateSet::load(&sources).unwrap_or_else(|faults| panic!("{faults:?}"));
    let endpoints = Endpoints { address: [10, 0, 0, 2].into(), http_port: Some(8080), ..Default::default() };
    Sheet::new(&set, settings, &endpoints).expect("the shipped set is good")
}

const ALL: [Dialect; 8] =
    [Dialect::Dnsmasq, Dialect::Isc, Dialect::Kea, Dialect::Windows, Dialect::Netsh, Dialect::Mikrotik, Dialect::Pfsense, Dialect::Cisco];

#[test]
fn makes_that_cannot_be_told_apart_share_what_suits_all() {
    let shared = sheet(&Settings::default()).shared();
    let found: Vec<_> = shared.iter().map(|shared| (shared.entry.code, shared.entry.text.as_deref(), shared.bent.join(","))).collect();
    assert_eq!(
        found,
        [(66, Some("http://10.0.0.2:8080"), "poly".to_owned()), (160, Some("http://10.0.0.2:8080"), "poly".to_owned())],
        "what Poly would rather have is for Poly alone"
    );
}

#[test]
fn the_head_says_what_else_phones_need() {
    let open = OpenSettings { subnets: vec!["10.0.0.0/8".parse().unwrap()], ..Default::default() };
    for dialect in ALL {
        let text = |settings: Settings| sheet(&settings).write(dialect);
        assert!(text(Settings::default()).contains("provisioning.open.subnets"), "{dialect:?}");
        assert!(!text(Settings { open: open.clone(), ..Default::default() }).contains("provisioning.open.subnets"), "{dialect:?}");
        assert!(text(Settings { url_tokens: true, ..Default::default() }).contains("url_tokens"), "{dialect:?}");
    }
}

/// Values that mean something to the servers that read the sheets.
#[test]
fn no_value_breaks_out_of_its_quotes() {
    let family = r#"
name: "Acme\nphones"
recognise: { ouis: ["020304"], vendor_classes: [{ contains: 'a"b\c' }, { exact: 'x''y' }] }
dhcp:
  - { code: 66, kind: text, value: 'http://a/"b''\c$MAC?x=1%d' }
  - { code: 161, kind: addresses, value: "10.0.0.1" }
  - { code: 162, kind: u8, value: "7" }
files: [{ name: "acme.txt", grammar: text, readers: anyone, body: "x" }]
reload: { soft: check-sync, hard: check-sync }
"#;
    let mut sources = crate::template::shipped();
    sources.push(Source { name: "acme.yaml".into(), origin: "acme.yaml".into(), text: family.into() });
    let set = TemplateSet::load(&sources).unwrap_or_else(|faults| panic!("{faults:?}"));
    let sheet = Sheet::new(&set, &Settings::default(), &Endpoints::default()).expect("options");
    for (dialect, wanted) in [
        (Dialect::Dnsmasq, r#"plugtone-acme,66,"http://a/\"b'\\c$MAC?x=1%d"    # acme"#),
        (Dialect::Dnsmasq, "plugtone-acme,161,0a:00:00:01    # acme"),
        (Dialect::Dnsmasq, "plugtone-acme,162,7    # acme"),
        (Dialect::Dnsmasq, r#"dhcp-vendorclass=set:plugtone-acme,"a\"b\\c"    # acme"#),
        (Dialect::Isc, r#"option tftp-server-name "http://a/\"b'\\c$MAC?x=1%d";    # acme"#),
        (Dialect::Isc, r#"vendor-class-identifier ~~ "a[\"]b[\\]c""#),
        (Dialect::Isc, "option plugtone-162 07;    # acme"),
        (Dialect::Kea, r#""code": 66, "csv-format": false, "always-send": true, "data": "687474703a2f2f"#),
        (Dialect::Windows, r#"-OptionId 66 -Value 'http://a/"b''\c$MAC?x=1%d'    # acme"#),
        (Dialect::Windows, "-OptionId 161 -Value 0x0A,0x00,0x00,0x01    # acme"),
        (Dialect::Mikrotik, "value=\"0x687474703a2f2f"),
        (Dialect::Cisco, " option 162 hex 07\n"),
        (Dialect::Pfsense, "162  String  07\n"),
        (Dialect::Netsh, "netsh dhcp server set optionvalue 162 BYTE \"7\"\n"),
    ] {
        let text = sheet.write(dialect);
        assert!(text.contains(wanted), "{dialect:?}: no {wanted} in {text}");
        assert!(text.contains("Acme phones") || matches!(dialect, Dialect::Netsh | Dialect::Cisco), "one line: {text}");
    }
}
