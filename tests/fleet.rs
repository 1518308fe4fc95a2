//! Changing what a fleet of phones gets, with the real server: what each was given, and how a change reaches them.

use std::{
    fs,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{cli::Server, netns::need};

const PHONE: &str = "00:15:65:00:00:01";
const FILE: &str = "001565000001.cfg";
const TEMPLATES: &str = "directory: { file: { path: users.yaml } }\ntemplates: { path: tpl }\n";

/// A file by a client that is not ours, from the address of the phone.
fn curl(url: &str, source: &str, more: &[&str]) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-m", "20", "--interface", source, url]).args(more).stdin(Stdio::null());
    let output = curl.output().expect("curl runs");
    assert!(output.status.success(), "{url}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn overrides(variables: &str) -> String {
    format!("sites: {{ all: {{ subnets: [0.0.0.0/0], variables: {{ {variables} }} }} }}\n")
}

#[test]
fn every_configuration_that_a_phone_was_given_is_shown_and_compared() {
    need("curl", "curl");
    let server = Server::start(TEMPLATES, &[]);
    let phones = server.phones("phones", &["--family", "yealink"]);
    phones.until(1, |news| news["type"] == "registered");
    let device = server.until(&["devices", PHONE, "--json"], |device| device["address"].is_string());
    let address = device["address"].as_str().expect("an address").to_owned();
    drop(phones);
    let history = |server: &Server, more: &[&str]| server.ask(&[&["template", "history", PHONE][..], more].concat());
    let hashes = |server: &Server| -> Vec<String> {
        let list = history(server, &[FILE, "--json"]).json();
        list.as_array().expect("a list").iter().map(|config| config["hash"].as_str().expect("a hash").to_owned()).collect()
    };
    let by_http = |server: &Server, more: &[&str]| curl(&format!("http://{}/{FILE}", server.http), &address, more);
    let provisional = server.until(&["template", "history", PHONE, FILE, "--json"], |list| list.as_array().is_some_and(|l| l.len() == 1));
    assert_eq!(provisional[0]["latest"], true, "{provisional}");

    // A new owner, then a new template: by HTTP and by TFTP.
    server.ask(&["bind", PHONE, "1001"]).good();
    let owned = by_http(&server, &[]);
    assert!(owned.contains("account.1.user_name = 2041"), "{owned}");
    let etag = by_http(&server, &["-I"]).lines().find_map(|line| line.strip_prefix("etag: ")).expect("an ETag").trim().to_owned();
    by_http(&server, &["-H", &format!("If-None-Match: {etag}")]);
    fs::write(server.path("tpl/overrides.yaml"), overrides("register_expires_secs: 777, admin_password: hunter2hunter2")).expect("written");
    server.ask(&["reload"]).good();
    let by_tftp = curl(&format!("tftp://{}/{FILE}", server.tftp), &address, &[]);
    assert!(by_tftp.contains("hunter2hunter2"), "{by_tftp}");
    server.until(&["template", "history", PHONE, FILE, "--json"], |list| list.as_array().is_some_and(|l| l.len() == 3));
    let [new, middle, old] = hashes(&server).try_into().expect("three");

    let table = history(&server, &[FILE]).good();
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.lines().nth(1).is_some_and(|line| line.contains(&new[..12]) && line.ends_with("latest")), "{table}");
    let diff = history(&server, &["--diff", &old[..8], &middle]).good();
    assert!(diff.contains("+account.1.user_name = 2041") && diff.contains("-account.1.user_name = new001565000001"), "{diff}");
    let diff = history(&server, &["--diff", &middle, &new]).good();
    assert!(diff.starts_with("--- ") && diff.contains("+account.1.sip_server.1.expires = 777"), "{diff}");
    let secret = owned.split("account.1.password = ").nth(1).expect("a password").lines().next().expect("a line");
    assert!(!diff.contains("password"), "that a password has changed shows nothing of it: {diff}");
    for hash in [&old, &middle, &new] {
        let text = history(&server, &["--show", hash]).good();
        assert!(text.contains("account.1.password = ••••••") && !text.contains(secret) && !text.contains("hunter2"), "{text}");
    }
    assert!(history(&server, &["--show", "0000"]).bad().contains("no such configuration"));
    assert!(server.ask(&["template", "history", "00:15:65:00:00:99"]).bad().contains("was given no file yet"));

    // The audit says who, by which door, what, and how it ended.
    let told = |server: &Server, count: usize, wanted: &dyn Fn(&Value) -> bool| {
        server.until(&["devices", PHONE, "--json"], |device| {
            device["timeline"].as_array().expect("events").iter().filter(|event| wanted(event)).count() == count
        });
    };
    let served = |door: &'static str, hash: &str, unchanged: bool| {
        let (hash, address) = (hash.to_owned(), address.clone());
        move |event: &Value| {
            event["type"] == "file_served"
                && event["door"] == door
                && event["hash"] == *hash
                && event["source"] == *address
                && event["unchanged"] == unchanged
        }
    };
    told(&server, 2, &served("http", &middle, false));
    told(&server, 1, &served("http", &middle, true));
    told(&server, 1, &served("tftp", &new, false));
    let whole = |event: &Value| event["type"] == "file_delivered" && event["path"] == FILE && event["door"] == "tftp";
    told(&server, 1, &whole);

    // After `kill -9` it is all there. What is served again is nothing new; but this server has other ports.
    let common = history(&server, &["yealink-common.cfg", "--json"]).json();
    let server = server.dies_and_starts_again();
    let again = curl(&format!("http://{}/yealink-common.cfg", server.http), &address, &[]);
    assert!(!again.is_empty());
    by_http(&server, &[]);
    server.until(&["template", "history", PHONE, FILE, "--json"], |list| list.as_array().is_some_and(|l| l.len() == 4));
    let after = hashes(&server);
    assert_eq!(after[1..], [new.clone(), middle, old]);
    let diff = history(&server, &["--diff", &new, &after[0]]).good();
    let changed: Vec<_> = diff.lines().skip(2).filter(|line| line.starts_with(['-', '+'])).collect();
    assert!(!changed.is_empty() && changed.iter().all(|line| line.contains("port = ") || line.contains("http://127.")), "{diff}");
    let still = history(&server, &["yealink-common.cfg", "--json"]).json();
    assert_eq!((still.as_array().map(Vec::len), &still[0]["hash"]), (Some(1), &common[0]["hash"]), "{still}");
}
