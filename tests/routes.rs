//! Routes as people meet them: the file that we ship, the faults of one that is wrong, and `plugtone route explain`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use plugtone::routing::{Base, loader};
use tempfile::TempDir;

/// A configuration that names a file of routes with this text.
fn office(routes: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("provider.password"), "hunter2\n").expect("written");
    fs::write(folder.path().join("users.yaml"), "users: []\n").expect("written");
    fs::write(folder.path().join("routes.yaml"), routes).expect("written");
    let config = folder.path().join("plugtone.yaml");
    fs::write(&config, "directory: { file: { path: users.yaml } }\ncalls: { routes: routes.yaml, ivr_number: \"*9\" }\n").expect("written");
    (folder, config)
}

fn shipped() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/routes.yaml")).expect("it is there")
}

/// Runs the program; what it printed, and whether it was content.
fn plugtone(config: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plugtone"));
    let output = command.args(arguments).args(["--config".as_ref(), config.as_os_str()]).output().expect("it runs");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), text)
}

#[test]
fn the_shipped_routes_work_as_they_say() {
    let (_folder, config) = office(&shipped());
    let (good, text) = plugtone(&config, &["check"]);
    assert!(good, "{text}");
    let (good, text) = plugtone(&config, &["route", "test"]);
    assert!(good && text.contains("10 tests, all good") && text.contains("unbound calls 112"), "{text}");
}

#[test]
fn a_call_is_explained_rule_by_rule() {
    let (_folder, config) = office(&shipped());
    let explain = |arguments: &[&str]| {
        let (good, text) = plugtone(&config, &[&["route", "explain"], arguments].concat());
        assert!(good, "{arguments:?}: {text}");
        text
    };
    let line = |text: &str| shipped().lines().position(|line| line.contains(text)).expect("the rule") + 1;
    let text = explain(&["--from", "2041", "--to", "0 0171-2345678", "--at", "2026-12-24 18:05"]);
    for part in [
        "- emergency: 001712345678 is no emergency number".to_owned(),
        "01712345678 is read as +491712345678, national".to_owned(),
        format!("routes.yaml:{})", line("name: short numbers")),
        format!(
            "- outbound 'sales show the main number': for sales only  ({}/routes.yaml:{})",
            config.parent().unwrap().display(),
            line("name: sales")
        ),
        "> outbound 'everything else': fits every number".to_owned(),
        "+491712345678 to provider as +493012342041, then 01712345678 to backup as 03012342041.".to_owned(),
    ] {
        assert!(text.contains(&part), "{part} is missing:\n{text}");
    }
    let night = explain(&["--trunk", "provider", "--from", "+491701234567", "--to", "+493012340", "--at", "2026-12-24 10:00"]);
    assert!(night.contains("- inbound 'main number': office is closed for a holiday (thu 10:00)"), "{night}");
    assert!(night.ends_with("2900 rings.\n"), "{night}");
    let switched = explain(&["--trunk", "provider", "--to", "+493012340", "--at", "2026-12-22 10:00", "--switch", "office=night"]);
    assert!(switched.contains("closed, by the night switch") && switched.ends_with("2900 rings.\n"), "{switched}");
    let colleague = explain(&["--from", "2041", "--to", "0 1234-2042"]);
    assert!(colleague.contains("+493012342042 is one of our own: 2042") && colleague.ends_with("2042 rings.\n"), "{colleague}");
    let help = explain(&["--unbound", "--location", "FLOOR2-port7", "--to", "0112"]);
    assert!(
        help.contains("112 to provider as +49301234200 from <https://lis.example.com/hq/floor2>, then 112 to backup as 0301234200"),
        "{help}"
    );
    let trial = explain(&["--unbound", "--to", "*112"]);
    assert!(trial.ends_with("which calls nobody for help: 2000 rings.\n"), "{trial}");
    let json: serde_json::Value = serde_json::from_str(&explain(&["--from", "2041", "--to", "0 0900 1234567", "--json"])).expect("JSON");
    assert_eq!(json["outcome"]["refused"], "not allowed: premium");
    assert!(json["steps"].as_array().is_some_and(|steps| steps.iter().any(|step| step["verdict"] == "won")), "{json}");
}

#[test]
fn slips_are_told_with_line_and_hint() {
    for (right, wrong, told) in [
        ("trunks: [provider, backup]\n  extensions", "trunks: [provder, backup]\n  extensions", "did you mean 'provider'?"),
        (
            "when: { open: office }, to: { extensions: [2000, 2001] } }\n  - { name: porter",
            "when: { open: ofice }, to: { menu } }\n  - { name: porter",
            "there is no set of hours 'ofice'",
        ),
        ("\"116XXX\"", "\"11_XX\"", "'_' means nothing"),
        ("country: DE", "country: Germany", "write its two letters"),
        ("mon-thu: \"08:00-18:00\"", "mon-thu: \"8-18\"", "write 08:00-18:00"),
        ("2026-04-03, ", "03.04.2026, ", "is no day"),
        ("Europe/Berlin", "Berlin", "IANA name"),
        ("numbers: [\"*112\"]", "numbers: [\"112\"]", "112 is a real emergency number"),
        ("password_file: provider.password", "password_file: other.password", "other.password of 'provider' cannot be read"),
        ("    password_file: provider.password\n", "", "has no password"),
        ("silence_secs: 6", "silence_sec: 6", "did you mean 'silence_secs'?"),
        ("{ last_digits: 4 }", "menu", "callers from outside have no business there"),
        ("rule: porter", "rule: reception", "this test fails: the rule is 'porter' and not 'reception'"),
        ("reason: \"not allowed: premium\"", "reason: \"blocked\"", "permissions: the caller may not call premium numbers"),
    ] {
        let text = shipped();
        assert!(text.contains(right), "{right}");
        let line = text[..text.find(right).unwrap()].lines().count();
        let (folder, _) = office(&text.replacen(right, wrong, 1));
        let faults = loader::load(Some(&folder.path().join("routes.yaml")), Base::default()).expect_err(wrong);
        let said: String = faults.iter().map(|fault| format!("{fault}\n")).collect();
        assert!(said.contains(told), "{wrong} should say {told}:\n{said}");
        let near = |line: usize| said.contains(&format!("routes.yaml:{line}:"));
        // The slip's own line, or that of the rule it stands in.
        assert!((line.saturating_sub(10)..=line + 1).any(near), "{wrong} is not told at line {line}:\n{said}");
    }
}
