//! Changing what a fleet of phones gets, with the real server: what each was given, and how a change reaches them.

use std::{
    fs,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    cli::{Phones, Server},
    netns::need,
};

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

/// Five phones of three makes with owners, and a server whose rollouts are quick.
fn fleet() -> (Server, Vec<Phones>) {
    let settings = "rollout: { canary: '1', growth: 2, per_minute: 6000, take_secs: 60, register_secs: 60, stay_secs: 2 }\n";
    let server = Server::start(&(TEMPLATES.to_owned() + settings), &[]);
    let phones = [("yealink", "2"), ("grandstream", "2"), ("poly", "1")].map(|(family, count)| {
        let phones = server.phones(family, &["--family", family, "--count", count]);
        let count = count.parse().expect("a number");
        phones.until(count, |news| news["type"] == "registered");
        phones
    });
    let owners = ["1001", "1002", "1003", "1004", "1005"];
    let devices = server.until(&["devices", "--json"], |devices| devices.as_array().is_some_and(|all| all.len() == 5));
    for (device, owner) in devices.as_array().expect("devices").iter().zip(owners) {
        server.ask(&["bind", device["mac"].as_str().expect("a MAC"), owner]).good();
    }
    server.until(&["devices", "--json"], all_in_service);
    (server, phones.into())
}

fn all_in_service(devices: &Value) -> bool {
    devices.as_array().expect("devices").iter().all(|device| device["state"] == "in_service")
}

/// Which phones were told to reload since this event.
fn told_since(server: &Server, seq: u64) -> Vec<String> {
    events(server)
        .into_iter()
        .filter(|event| event["type"] == "reload_requested" && event["seq"].as_u64() > Some(seq))
        .filter_map(|event| Some(event["mac"].as_str()?.to_owned()))
        .collect()
}

/// All of every phone, by their numbers.
fn events(server: &Server) -> Vec<Value> {
    let devices = server.ask(&["devices", "--json"]).json();
    let of = |device: &Value| {
        let device = server.ask(&["devices", device["mac"].as_str().expect("a MAC"), "--json"]).json();
        device["timeline"].as_array().expect("events").clone()
    };
    let mut all: Vec<Value> = devices.as_array().expect("devices").iter().flat_map(of).collect();
    all.sort_by_key(|event| event["seq"].as_u64());
    all
}

fn last_seq(server: &Server) -> u64 {
    events(server).last().and_then(|event| event["seq"].as_u64()).expect("a number")
}

#[test]
fn a_good_change_goes_to_one_phone_then_to_more_and_a_bad_one_comes_back_by_itself() {
    let (server, _phones) = fleet();
    let before = last_seq(&server);
    assert!(server.ask(&["rollout", "show"]).bad().contains("no rollout is under way"));
    assert!(server.ask(&["rollout", "start"]).bad().contains("no phone's files change"));

    // A good one, for the Yealinks and the Poly; the files of the others stay as they are.
    let german = |mac: &str| format!("  '{mac}': {{ variables: {{ language: de }} }}\n");
    let three: String = [PHONE, "00:15:65:00:00:02", "64:16:7f:00:00:01"].map(german).concat();
    fs::write(server.path("tpl/overrides.yaml"), format!("devices:\n{three}")).expect("written");
    let diff = server.ask(&["template", "diff", "--json"]).json();
    let changed: Vec<String> = diff["groups"]
        .as_array()
        .expect("groups")
        .iter()
        .flat_map(|group| group["phones"].as_array().expect("phones"))
        .filter_map(|mac| mac.as_str().map(str::to_owned))
        .collect();
    let told = server.ask(&["rollout", "start", "--canary", "1", "--family", "yealink", "--wait"]).good();
    assert!(told.starts_with("wave 1: running; ") && told.lines().last().is_some_and(|line| line.contains(": done; ")), "{told}");
    assert!(told.contains("wave 2: "), "{told}");
    let shown = server.ask(&["rollout", "show", "--json"]).json();
    assert_eq!(shown["stage"], "done", "{shown}");
    let phones = shown["phones"].as_array().expect("phones");
    assert_eq!((phones.len(), changed.len()), (3, 3), "{shown}");
    assert!(phones.iter().all(|phone| phone["step"] == "through"), "{shown}");
    let mut told = told_since(&server, before);
    told.dedup();
    told.sort();
    let mut wanted = changed.clone();
    wanted.sort();
    assert_eq!(told, wanted, "a phone whose files are the same is not told");
    assert_eq!(server.ask(&["template", "diff", "--json"]).json()["changed"], 0, "it is live");
    let steps: Vec<_> = events(&server).into_iter().filter(|event| event["type"] == "rollout_phone").collect();
    assert_eq!(steps.len(), 4 * changed.len(), "told, fetched, registered, through: {steps:#?}");

    // A bad one: the phones log in with a password that is not theirs.
    let shipped = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/templates/yealink/account.cfg.j2")).expect("shipped");
    let bad = shipped.replace("{{ line.secret }}", "{{ line.secret }}x");
    assert_ne!(bad, shipped);
    fs::create_dir_all(server.path("tpl/yealink")).expect("made");
    fs::write(server.path("tpl/yealink/account.cfg.j2"), &bad).expect("written");
    let before = last_seq(&server);
    let failed = server.ask(&["rollout", "start", "--wait"]);
    assert!(failed.bad().contains("the change was taken back: 1 of 1 phones failed"));
    let shown = server.ask(&["rollout", "show", "--json"]).json();
    assert_eq!(shown["stage"], "rolled_back", "{shown}");
    let steps: Vec<_> = shown["phones"].as_array().expect("phones").iter().map(|phone| phone["step"].as_str().expect("a step")).collect();
    assert!(steps.len() == 2 && steps.contains(&"restored") && steps.contains(&"spared"), "{shown}");
    let mut harmed = told_since(&server, before);
    harmed.sort();
    harmed.dedup();
    assert_eq!(harmed.len(), 1, "only the first was harmed: {harmed:?}");
    server.until(&["devices", "--json"], all_in_service);
    assert!(server.ask(&["rollout", "show"]).good().contains("the old templates are live, not those on disk"));
    assert_eq!(server.ask(&["template", "diff", "--json"]).json()["changed"], 2, "the bad ones are on disk still");

    // And so it is after `kill -9`, until somebody makes those on disk live.
    let server = server.dies_and_starts_again();
    assert!(server.log().contains("the templates from before the last rollout are live, not those on disk"));
    assert_eq!(server.ask(&["template", "diff", "--json"]).json()["changed"], 2);
    fs::remove_file(server.path("tpl/yealink/account.cfg.j2")).expect("removed");
    server.ask(&["reload"]).good();
    assert!(server.ask(&["rollout", "show"]).bad().contains("no rollout is under way"));
}

#[test]
fn a_change_that_is_under_way_survives_kill_9_with_both_sets_of_templates() {
    need("curl", "curl");
    let server = Server::start(TEMPLATES, &[]);
    let phones = server.phones("phones", &["--family", "yealink", "--count", "2"]);
    phones.until(2, |news| news["type"] == "registered");
    let devices = server.until(&["devices", "--json"], |devices| {
        devices.as_array().is_some_and(|all| all.len() == 2 && all.iter().all(|device| device["address"].is_string()))
    });
    let addresses: Vec<String> = (0..2).map(|n| devices[n]["address"].as_str().expect("an address").to_owned()).collect();
    drop(phones);
    let language = |server: &Server| -> Vec<&str> {
        let of = |address: &String| {
            let file = curl(&format!("http://{}/yealink-common.cfg", server.http), address, &[]);
            ["German", "French", "English"].into_iter().find(|language| file.contains(language)).expect("a language")
        };
        addresses.iter().map(of).collect()
    };
    let write = |server: &Server, language: &str| {
        fs::write(server.path("tpl/overrides.yaml"), overrides(&format!("language: {language}"))).expect("written");
    };
    write(&server, "de");
    server.ask(&["rollout", "start", "--phone", PHONE]).good();
    assert!(server.ask(&["rollout", "pause"]).good().starts_with("wave 1: paused (somebody has paused it); "));
    assert_eq!(language(&server), ["German", "English"], "only the first has the new files");
    assert!(server.ask(&["rollout", "start"]).bad().contains("a rollout is under way"));

    // Whatever becomes of the folder: this change is what it was when it began.
    write(&server, "fr");
    assert!(server.ask(&["reload"]).good().contains("not the templates, while a rollout is under way"));
    assert_eq!(language(&server), ["German", "English"]);
    let server = server.dies_and_starts_again();
    assert_eq!(language(&server), ["German", "English"], "after kill -9 too");
    let shown = server.ask(&["rollout", "show", "--json"]).json();
    assert_eq!((&shown["stage"], &shown["wave"], shown["phones"].as_array().map(Vec::len)), (&"paused".into(), &1.into(), Some(2)));

    server.ask(&["rollout", "abort"]).good();
    assert_eq!(language(&server), ["English", "English"], "taken back");
    assert_eq!(server.until(&["rollout", "show", "--json"], |shown| shown["stage"] == "rolled_back")["reason"], "somebody has aborted it");
    let server = server.dies_and_starts_again();
    assert_eq!(language(&server), ["English", "English"], "it stays taken back");
    server.ask(&["reload"]).good();
    assert_eq!(language(&server), ["French", "French"], "until somebody wants what is on disk");
    let server = server.dies_and_starts_again();
    assert_eq!(language(&server), ["French", "French"]);
}

#[test]
fn a_change_goes_to_the_phones_of_a_group_of_people_first() {
    let server = Server::start(TEMPLATES, &[]);
    let (of, more) = ("alan.turing@example.com\n    groups: [engineering]", "alan.turing@example.com\n    groups: [engineering, it]");
    let people = fs::read_to_string(server.path("users.yaml")).expect("read").replacen(of, more, 1);
    server.write("users.yaml", &people);
    server.ask(&["reload"]).good();
    let phones = server.phones("phones", &["--family", "yealink", "--count", "3"]);
    phones.until(3, |news| news["type"] == "registered");
    let devices = server.until(&["devices", "--json"], |devices| devices.as_array().is_some_and(|all| all.len() == 3));
    let macs: Vec<_> = devices.as_array().expect("devices").iter().map(|device| device["mac"].as_str().expect("a MAC")).collect();
    server.ask(&["bind", macs[0], "1001"]).good();
    server.ask(&["bind", macs[1], "1002"]).good();
    let own = format!("groups: {{ lobby: {{ members: ['2041'], variables: {{ }} }} }}\n{}", overrides("language: de"));
    server.write("tpl/overrides.yaml", &own);
    for nobody in [["--group", "nobody"], ["--site", "elsewhere"]] {
        assert!(server.ask(&[&["rollout", "start"], &nobody[..]].concat()).bad().contains("among those that were asked for"));
    }
    // Of the directory, of the overrides, and a place with all that is there.
    for (ring, first) in [(["--group", "IT"], &macs[1..2]), (["--group", "lobby"], &macs[..1]), (["--site", "all"], &macs)] {
        server.ask(&[&["rollout", "start"], &ring[..]].concat()).good();
        let shown = server.ask(&["rollout", "show", "--json"]).json();
        let phones = shown["phones"].as_array().expect("phones").iter();
        let wave: Vec<_> = phones.filter(|phone| phone["wave"] == 1).map(|phone| phone["mac"].as_str().expect("a MAC")).collect();
        assert_eq!((wave, shown["phones"].as_array().map(Vec::len)), (first.to_vec(), Some(3)), "{ring:?}");
        server.ask(&["rollout", "abort"]).good();
        server.until(&["rollout", "show", "--json"], |shown| shown["stage"] == "rolled_back");
    }
}

#[test]
fn what_the_configuration_on_disk_would_change_is_seen_before_it_is_live() {
    let server = Server::start(&(TEMPLATES.to_owned() + "log: { level: info }\n"), &[]);
    let phones = server.phones("phones", &["--family", "yealink", "--count", "2"]);
    phones.until(2, |news| news["type"] == "registered");
    server.until(&["devices", "--json"], |devices| devices.as_array().is_some_and(|all| all.len() == 2));
    assert_eq!(server.ask(&["config", "diff"]).good(), "what is on disk is live\n");

    let text = fs::read_to_string(server.path("plugtone.yaml")).expect("read");
    let changed = text.replace("level: info", "level: debug").replace("\nftp: {", "\nftp: { password: new-secret,")
        + "provisioning: { sip_host: pbx.example.org }\nrollout: { canary: '7' }\nbindings: { devices_per_extension: 1 }\n";
    fs::write(server.path("plugtone.yaml"), &changed).expect("written");
    let keys = || -> Vec<String> {
        let found = server.ask(&["config", "diff", "--json"]).json();
        let key = |change: &Value| format!("{} {}", change["key"].as_str().expect("a key"), change["restart"]);
        found["keys"].as_array().expect("keys").iter().map(key).collect()
    };
    let restart = ["ftp.password true", "log.level true", "provisioning.sip_host true"];
    assert_eq!(keys(), [&restart[..], &["rollout.canary false"]].concat(), "a default that is written out is no change");
    let told = server.ask(&["config", "diff"]).good();
    assert!(told.contains("2 of 2 phones get other files by it") && !told.contains("-secret"), "{told}");
    assert!(told.contains("+account.1.sip_server.1.address = pbx.example.org"), "{told}");
    let canary = told.lines().find(|line| line.starts_with("rollout.canary")).expect("a line");
    assert_eq!(canary.split_whitespace().collect::<Vec<_>>(), ["rollout.canary", "(default)", "\"7\"", "a", "reload"]);

    // What only a restart changes is not live by a reload.
    let told = server.ask(&["reload"]).good();
    let rest = told.split_once("after a restart also: ").expect("it names them").1.trim();
    assert!(["ftp", "provisioning", "log"].iter().all(|section| rest.split(", ").any(|named| named == *section)), "{told}");
    assert_eq!(keys(), restart);
    let server = server.dies_and_starts_again();
    assert_eq!(server.ask(&["config", "diff"]).good(), "what is on disk is live\n");
    fs::write(server.path("plugtone.yaml"), "log: { levle: x }\n").expect("written");
    assert!(server.ask(&["config", "diff"]).bad().contains("the configuration on disk has faults"));
}
