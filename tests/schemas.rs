//! The JSON Schemas that editors read: they are those of the code, and a validator that is not ours takes every shipped file, with its
//! defaults in force, and points at what is wrong.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::config::uncommented;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Writes all schemas into `folder`.
fn write_schemas(folder: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_plugtone")).args(["schema", "--into"]).arg(folder).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// What Debian's jsonschema says of the files, each by the schema that its first line names.
fn validated(files: &[PathBuf]) -> String {
    let output = Command::new("python3").arg(root().join("tests/peers/validate_yaml.py")).args(files).output();
    let output = output.expect("cannot run python3: install the Debian packages python3-jsonschema and python3-yaml");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// All YAML files that we ship.
fn shipped() -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), ["config", "templates", "ivr"].map(|name| root().join(name)).to_vec());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "yaml") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 20, "{found:?}");
    found
}

/// `UPDATE_SCHEMAS=1` writes them anew.
#[test]
fn those_that_are_shipped_are_those_of_the_code() {
    let kept = root().join("config/schemas");
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        write_schemas(&kept);
    }
    let made = tempfile::tempdir().expect("a folder");
    let told = write_schemas(made.path());
    let names = |folder: &Path| {
        let mut names: Vec<_> = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&kept), names(made.path()));
    for name in names(&kept) {
        let text = |folder: &Path| fs::read_to_string(folder.join(&name)).expect("text");
        assert!(text(&kept) == text(made.path()), "{name:?} is old: UPDATE_SCHEMAS=1 cargo test --test all schemas");
        assert!(told.contains(&format!("$schema={}/{}\n", made.path().display(), name.display())), "{told}");
    }
}

#[test]
fn every_shipped_file_names_its_schema_and_is_good_by_it() {
    let files = shipped();
    let said = validated(&files);
    let expected: String = files.iter().map(|path| format!("{}: looked at\n", path.display())).collect();
    assert_eq!(said, expected);
}

#[test]
fn an_editor_takes_every_default_and_points_at_what_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    write_schemas(&folder.path().join("schemas"));
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        path
    };
    let config = fs::read_to_string(root().join("config/plugtone.yaml")).expect("the configuration");
    let all = file("all.yaml", &uncommented(&config));
    assert_eq!(validated(&[all]), format!("{}/all.yaml: looked at\n", folder.path().display()));
    let line = |kind: &str| format!("# yaml-language-server: $schema=schemas/{kind}.json\n");
    for (kind, text, place, word) in [
        ("plugtone", "dhcp: { mode: besides }", "$.dhcp.mode", "besides"),
        ("plugtone", "dhcp: { lease_sec: 3 }", "$.dhcp", "lease_sec"),
        ("plugtone", "sip: { udp: 5060 }", "$.sip.udp", "5060"),
        ("plugtone", "extensions: { range: all }", "$.extensions.range", "all"),
        ("family", "name: X\nfiles: []", "$", "reload"),
        ("overrides", "devices: { \"001565aabbcc\": { variables: { keys: [{ type: lamp }] } } }", "variables.keys", "lamp"),
        ("flow", "start: a\nstates: { a: { say: [{ digit: x }] } }", "states.a", "digit"),
        ("routes", "outbound: [{ nam: x }]", "$.outbound[0]", "nam"),
        ("users", "users: [{ login: ada }]", "$.users[0]", "display_name"),
    ] {
        let said = validated(&[file("wrong.yaml", &format!("{}{text}\n", line(kind)))]);
        assert!(said.contains(place) && said.contains(word) && said.lines().count() >= 2, "{kind}: {text}: {said}");
    }
}
