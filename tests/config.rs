//! The commented configuration is true: it works, it names every key, and what it shows as default is the default.

use std::path::{Path, PathBuf};

use plugtone::{config::Settings, node::read_settings};

fn shipped() -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/plugtone.yaml");
    let text = std::fs::read_to_string(&path).expect("it is there");
    (path, text)
}

#[test]
fn it_works_as_it_stands() {
    read_settings(&shipped().0).expect("no faults");
}

/// The text with every "#key: default" in force, but for those that say "not set".
pub fn uncommented(text: &str) -> String {
    let is_key = |rest: &str| {
        let name: String = rest.trim_start().chars().take_while(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_').collect();
        !name.is_empty() && rest.trim_start()[name.len()..].starts_with(':') && !rest.contains("# not set")
    };
    let line = |line: &str| match line.split_once('#') {
        Some((indent, rest)) if indent.trim().is_empty() && is_key(rest) => format!("{indent}{rest}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn what_it_shows_as_default_is_the_default() {
    let text = shipped().1;
    let written = Settings::read("as written", &text).expect("good");
    let mut shown = Settings::read("with every default", &uncommented(&text)).unwrap_or_else(|fault| panic!("{fault}"));
    // Not defaults but examples of the other kind of directory.
    (shown.directory.kind, shown.directory.file) = (None, None);
    assert_eq!(format!("{shown:#?}"), format!("{written:#?}"));
}

#[test]
fn it_names_every_key() {
    let text = shipped().1;
    let mut known = 0;
    for (section, outer) in [
        ("", ""),
        ("extensions", "extensions: { zz: 1 }"),
        ("directory", "directory: { zz: 1 }"),
        ("directory.ldap", "directory: { ldap: { zz: 1 } }"),
        ("directory.ldap.attributes", "directory: { ldap: { attributes: { zz: 1 } } }"),
        ("dhcp", "dhcp: { zz: 1 }"),
        ("dhcp.subnets", "dhcp: { subnets: [{ zz: 1 }] }"),
        ("dhcp6", "dhcp6: { zz: 1 }"),
        ("dhcp6.subnets", "dhcp6: { subnets: [{ zz: 1 }] }"),
        ("tftp", "tftp: { zz: 1 }"),
        ("ftp", "ftp: { zz: 1 }"),
        ("http", "http: { zz: 1 }"),
        ("templates", "templates: { zz: 1 }"),
        ("provisioning", "provisioning: { zz: 1 }"),
        ("provisioning.open", "provisioning: { open: { zz: 1 } }"),
        ("rollout", "rollout: { zz: 1 }"),
        ("bindings", "bindings: { zz: 1 }"),
        ("bindings.reload", "bindings: { reload: { zz: 1 } }"),
        ("bindings.attempts", "bindings: { attempts: { zz: 1 } }"),
        ("sip", "sip: { zz: 1 }"),
        ("tls", "tls: { zz: 1 }"),
        ("tls.acme", "tls: { acme: { zz: 1 } }"),
        ("media", "media: { zz: 1 }"),
        ("calls", "calls: { zz: 1 }"),
        ("features", "features: { zz: 1 }"),
        ("features.codes", "features: { codes: { zz: 1 } }"),
        ("features.groups", "features: { groups: [{ zz: 1 }] }"),
        ("features.paging", "features: { paging: [{ zz: 1 }] }"),
        ("features.park", "features: { park: { zz: 1 } }"),
        ("ivr", "ivr: { zz: 1 }"),
        ("voicemail", "voicemail: { zz: 1 }"),
        ("voicemail.mail", "voicemail: { mail: { zz: 1 } }"),
        ("api", "api: { zz: 1 }"),
        ("store", "store: { zz: 1 }"),
        ("log", "log: { zz: 1 }"),
    ] {
        let wrong = if section.is_empty() { "zz: 1" } else { outer };
        let fault = Settings::read("zz", wrong).expect_err("zz is no key anywhere");
        let hint = fault.hint.expect("it says what is possible");
        let names = hint.strip_prefix("possible here: ").unwrap_or_else(|| panic!("{section}: {hint}"));
        for name in names.split(", ") {
            known += 1;
            assert!(text.contains(&format!("{name}:")), "config/plugtone.yaml does not explain {section}.{name}");
        }
    }
    assert!(known > 100, "{known} keys");
}

#[test]
fn secrets_and_paths_come_from_where_the_file_says() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("secret"), "hunter2\n").expect("written");
    let file = folder.path().join("plugtone.yaml");
    let text =
        "directory:\n  ldap: { servers: [ldap://h], base: dc=x, bind_dn: cn=s, bind_password_file: secret }\nstore: { path: data/p.db }\n";
    std::fs::write(&file, text).expect("written");
    let settings = read_settings(&file).unwrap_or_else(|faults| panic!("{faults:?}"));
    assert_eq!(settings.directory.ldap.expect("ldap").bind_password.expect("read").expose(), "hunter2");
    assert_eq!(settings.store.path, folder.path().join("data/p.db"));

    std::fs::remove_file(folder.path().join("secret")).expect("removed");
    let faults = read_settings(&file).expect_err("the secret is gone");
    assert!(faults[0].file.ends_with("secret") && faults[0].hint.is_some(), "{faults:?}");
}
