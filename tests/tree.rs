//! Holds the picture of ARCHITECTURE.md against the code: who imports whom, where I/O may happen, that every file says what it is.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Folder → the folders it may name. `model`, `yaml`, `thread` and `udp` may be named by all; what is not listed may not be named.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("yaml", &[]),
    ("thread", &[]),
    ("udp", &[]),
    // mechanisms
    ("binding", &[]),
    ("dhcp", &["store"]),
    ("directory", &[]),
    ("rtp", &[]),
    // What a group is called.
    ("routing", &["directory"]),
    ("features", &["routing"]),
    ("sdp", &[]),
    ("sip", &["tls"]),
    ("store", &[]),
    ("template", &[]),
    ("tls", &[]),
    ("journal", &["store"]),
    ("media", &["rtp"]),
    // spines
    ("call", &["features", "media", "routing", "rtp", "sdp", "sip", "store"]),
    ("provisioning", &["binding", "dhcp", "directory", "sip", "store", "template", "tls"]),
    // services
    ("ivr", &["binding", "call", "directory", "features", "media", "provisioning"]),
    // `ivr` lends its voice and its log-in.
    ("voicemail", &["call", "ivr", "media", "store"]),
    // doors
    ("fileserver", &["provisioning", "tls"]),
    ("phone", &["dhcp", "media", "rtp", "sdp", "sip"]),
    // Asks as phones do.
    ("doctor", &["dhcp", "phone", "sip"]),
    // `routing` lends the words of the night switch.
    (
        "api",
        &[
            "binding",
            "call",
            "dhcp",
            "directory",
            "features",
            "journal",
            "provisioning",
            "routing",
            "sip",
            "store",
            "template",
            "voicemail",
        ],
    ),
    // wiring
    (
        "config",
        &[
            "api",
            "call",
            "dhcp",
            "directory",
            "features",
            "fileserver",
            "ivr",
            "media",
            "provisioning",
            "sip",
            "store",
            "template",
            "tls",
            "binding",
            "voicemail",
        ],
    ),
    ("node", &["*"]),
    ("cli", &["*"]),
    ("main", &["*"]),
    ("lib", &["*"]),
];

const FOR_ALL: &[&str] = &["model", "yaml", "thread", "udp"];

/// Files that may do I/O are named for it; these folders do it throughout.
const IO_FILES: &[&str] = &[
    "socket.rs",
    "udp.rs",
    "tcp.rs",
    "websocket.rs",
    "raw.rs",
    "client.rs",
    "ldap.rs",
    "sqlite.rs",
    "files.rs",
    "worker.rs",
    "thread.rs",
    "loader.rs",
    "main.rs",
    "node.rs",
];
const IO_FOLDERS: &[&str] = &["cli", "fileserver", "api", "phone"];
/// Signs of I/O, of clocks and of waiting, none of which belongs into logic.
const IO_SIGNS: &[&str] = &[
    "std::fs",
    "fs::read",
    "std::net::UdpSocket",
    "std::net::TcpStream",
    "tokio::net",
    "tokio::fs",
    "Instant::now()",
    "SystemTime::now()",
    ".await",
    "std::process::Command",
    "thread::sleep",
];

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src is readable") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("source is UTF-8");
                let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
                found.push((path.strip_prefix(root).expect("below src").to_owned(), text));
            }
        }
    }
    assert!(found.len() > 20, "the tests look at the wrong place");
    found
}

/// `sip/digest.rs` → `sip`; `node.rs` → `node`.
fn folder_of(path: &Path) -> String {
    let first = path.components().next().expect("not empty").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The text before its unit tests: those may do as they like, in a file of their own too.
fn without_tests<'a>(path: &Path, text: &'a str) -> &'a str {
    if path.file_name().is_some_and(|name| name == "tests.rs") {
        return "";
    }
    text.find("#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}

/// Code without comments, line by line.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(i, line)| (i + 1, line.split("//").next().unwrap_or("")))
}

#[test]
fn imports_go_down() {
    let allowed: BTreeMap<_, _> = MAY_IMPORT.iter().copied().collect();
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let folder = folder_of(&path);
        let Some(may) = allowed.get(folder.as_str()) else {
            faults.push(format!("{}: the folder '{folder}' is not in the picture", path.display()));
            continue;
        };
        if may.contains(&"*") {
            continue;
        }
        // `use` in one line or in several: line ends say nothing.
        let code: String = code_lines(without_tests(&path, &text)).map(|(_, line)| line).collect::<Vec<_>>().join("\n");
        for (at, _) in code.match_indices("crate::") {
            let number = code[..at].matches('\n').count() + 1;
            for name in named(&code[at + "crate::".len()..]) {
                let known = allowed.contains_key(name.as_str());
                if known && name != folder && !FOR_ALL.contains(&name.as_str()) && !may.contains(&name.as_str()) {
                    faults.push(format!("{}:{number}: '{folder}' must not import '{name}'", path.display()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// `a::b` → a; `{a, b::{c, d}}` → a and b.
fn named(text: &str) -> Vec<String> {
    let Some(list) = text.strip_prefix('{') else { return vec![first_name(text)] };
    let mut names = vec![first_name(list)];
    let mut depth = 1;
    for (at, sign) in list.char_indices() {
        match sign {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(first_name(&list[at + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn first_name(text: &str) -> String {
    text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn only_files_named_for_it_do_io() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let name = path.file_name().expect("file").to_string_lossy().into_owned();
        // What lies in `worker/` is a part of the worker.rs beside it; the same with `files/`.
        let of_another = path.parent().is_some_and(|folder| ["worker", "files"].iter().any(|name| folder.ends_with(name)));
        if of_another || IO_FOLDERS.contains(&folder_of(&path).as_str()) || IO_FILES.contains(&name.as_str()) {
            continue;
        }
        for (number, line) in code_lines(without_tests(&path, &text)) {
            for sign in IO_SIGNS {
                if line.contains(sign) {
                    faults.push(format!("{}:{number}: `{sign}` belongs into a file named for I/O", path.display()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    let faults: Vec<_> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(path, _)| path.display().to_string()).collect();
    assert!(faults.is_empty(), "no `//!` header: {faults:?}");
}

#[test]
fn the_map_names_every_folder() {
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    for (path, _) in sources() {
        let folder = folder_of(&path);
        assert!(
            ["main", "lib"].contains(&folder.as_str()) || map.contains(&format!("`{folder}`")),
            "ARCHITECTURE.md does not name `{folder}`"
        );
    }
}

/// Queues without a bound, and locks that are made to be held while something is awaited.
const OVERLOAD_SIGNS: &[&str] = &[
    "unbounded_channel",
    "unbounded(",
    "UnboundedSender",
    "UnboundedReceiver",
    "std::sync::mpsc::channel",
    "tokio::sync::Mutex",
    "tokio::sync::RwLock",
    "futures_util::lock",
    // Clippy sees a lock of the standard library that is held across an await, and CI takes its word.
    "await_holding_lock",
];

#[test]
fn no_queue_is_without_bound_and_no_lock_is_held_while_waiting() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        // `use` in one line or in several: spaces and line ends say nothing.
        let code: String = code_lines(without_tests(&path, &text)).map(|(_, line)| line).collect::<Vec<_>>().join("\n");
        for sign in OVERLOAD_SIGNS {
            if code.contains(sign) {
                faults.push(format!("{}: `{sign}`", path.display()));
            }
        }
        for part in code.split("tokio::").skip(1).filter(|part| part.starts_with("sync::{") || part.starts_with('{')) {
            let imported = part.split(';').next().unwrap_or_default();
            let of_sync = imported.split("sync::").nth(1).unwrap_or_default();
            let names = of_sync.trim_start_matches('{').split('}').next().unwrap_or_default();
            faults.extend(
                ["Mutex", "RwLock"]
                    .iter()
                    .filter(|name| names.split([',', ' ', '\n']).any(|n| n == **name))
                    .map(|name| format!("{}: {name} of tokio", path.display())),
            );
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    let ci = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/run")).expect(".ci/run");
    assert!(ci.contains("clippy --all-targets -- -D warnings"), "nobody looks for locks that are held across an await");
}
