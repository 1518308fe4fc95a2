//! The list of all phones in an admin's hands: a table in and out of a real server, phones that come out of their boxes with an
//! owner, and a phone in the place of another of another make.

use std::{fs, path::Path, process::Command};

use plugtone::model::{DeviceState, Event, MacAddr};
use serde_json::{Value, json};

use crate::{
    api::register_as,
    cli::{ITS, Run, Server, USERS, folder, office, plugtone, shipped},
    story::office::Office,
};

const OVERRIDES: &str = "groups:\n  reception: { members: [], variables: { ntp_server: 10.9.9.1 } }\n  \
                         by_id: { members: ['1002'], variables: { ntp_server: 10.9.9.2 } }\n\
                         sites:\n  berlin: { subnets: [127.64.0.0/16] }\n";

fn a_server() -> Server {
    let config = office(&format!("{USERS}templates: {{ path: tpl }}\n"));
    let users = shipped("config/demo/users.yaml");
    Server::start_in(folder(&[(ITS, &config), ("users.yaml", &users), ("tpl/overrides.yaml", OVERRIDES)]), &[])
}

#[test]
fn a_list_of_phones_is_looked_at_then_imported_and_its_phones_are_their_owners_from_the_box() {
    let server = a_server();
    // As a spreadsheet on Windows writes it, with what people get wrong.
    let spoilt = "\u{feff}MAC;Make;Label;Room;User;Extension;Group;Notes\r\n\
                  00-15-65-00-00-01;yealink;Empfang;Berlin 1;1001;;reception;\"bought\r\nin May\"\r\n\
                  0015.6500.0002;yealing;Küche;;1002;;;\r\n\
                  001565000003;yealink;;;9999;;;\r\n\
                  00:15:65:00:00:04;yealink;;;;2041;;\r\n\
                  00:15:65:00:00:05;;;;1003;2044;recepton;\r\n";
    server.write("phones.csv", spoilt);
    for apply in [&[][..], &["--apply"]] {
        let run = server.ask(&[&["phones", "import", "phones.csv"], apply].concat());
        assert_eq!(run.status, Some(1), "{run:#?}");
        assert!(run.err.contains("4 rows are refused: nothing was changed"), "{run:#?}");
        for told in [
            "phones.csv:4:16: there is no family 'yealing'\n    0015.6500.0002;yealing;Küche;;1002;;;\n                   ^\n    hint: did you mean 'yealink'?",
            "phones.csv:5:24: nobody in the directory has the login '9999'\n",
            "phones.csv:6:30: 2041 has gone to 00:15:65:00:00:01 in this very list",
            "phones.csv:7:32: there is no group 'recepton'\n",
            "phones.csv:7:27: Grace Hopper has 2043, as the directory says\n",
            "2     00:15:65:00:00:01  added    family: yealink; label: Empfang; location: Berlin 1; group: reception; notes: bought / in May; owner: 2041 Ada Lovelace",
            "1 added, 0 changed, 0 unchanged, 4 refused",
        ] {
            assert!(run.out.contains(told), "wanted\n{told}\ngot\n{}", run.out);
        }
        assert_eq!(server.ask(&["devices", "--json"]).json(), json!([]), "nothing was done");
    }

    let good =
        spoilt.replace("yealing", "yealink").replace("9999", "").replace(";;;;2041;;", ";;;;;;").replace(";1003;2044;recepton", ";;2043;");
    server.write("phones.csv", &good);
    let shown = server.ask(&["phones", "import", "phones.csv"]).good();
    assert!(shown.contains("5 added, 0 changed, 0 unchanged, 0 refused\nnothing is done yet: --apply does it\n"), "{shown}");
    assert_eq!(server.ask(&["devices", "--json"]).json(), json!([]), "a look changes nothing");
    assert!(server.ask(&["phones", "import", "phones.csv", "--apply"]).good().ends_with("5 added, 0 changed, 0 unchanged, 0 refused\n"));
    let devices = server.ask(&["devices", "--json"]).json();
    let first = &devices[0];
    for (name, value) in [
        ("label", json!("Empfang")),
        ("location", json!("Berlin 1")),
        ("group", json!("reception")),
        ("notes", json!("bought\nin May")),
        ("state", json!("bound")),
        ("first_seen", Value::Null),
    ] {
        assert_eq!(first[name], value, "{name}: {first}");
    }
    assert!(server.ask(&["devices"]).good().contains("2041 Ada Lovelace  Empfang  never"), "nobody has seen it");

    // What comes out is what went in.
    let exported = server.ask(&["phones", "export"]).good();
    assert!(exported.contains("00:15:65:00:00:01,yealink,,Empfang,Berlin 1,1001,2041,reception,\"bought\nin May\"\r\n"), "{exported}");
    server.ask(&["phones", "export", "--output", "again.csv"]).good();
    assert_eq!(fs::read_to_string(server.path("again.csv")).expect("written"), exported);
    let again = server.ask(&["phones", "import", "again.csv", "--apply", "--json"]).json();
    assert!(again["applied"] == true && again["rows"].as_array().is_some_and(|rows| rows.len() == 5), "{again}");
    assert!(again["rows"].as_array().into_iter().flatten().all(|row| row["verdict"] == "unchanged"), "{again}");

    // Out of the box: the phone is Ada's without anybody calling the menu. Its own group and the groups of its owner count.
    let phones = server.phones("phones", &["--family", "yealink", "--count", "2"]);
    let registered = phones.until(2, |news| news["type"] == "registered");
    let mut users: Vec<&str> = registered.iter().filter_map(|news| news["user"].as_str()).collect();
    users.sort_unstable();
    assert_eq!(users, ["2041", "2042"], "{registered:?}");
    server.until(&["devices", "--search", "berlin in_may empfang", "--json"], |found| found == &json!([]));
    let found = server.until(&["devices", "--search", "BERLIN empfang t46 65000001", "--json"], |found| found[0]["state"] == "in_service");
    assert!(found[0]["first_seen"].is_string() && found[0]["site"] == "berlin" && found[1].is_null(), "{found}");
    assert_eq!(server.ask(&["devices", "--search", "nowhere"]).good(), "no device is like that\n");
    let leases = server.ask(&["dhcp", "leases", "--json"]).json();
    let has_its_address = |lease: &Value| lease["address"] == found[0]["address"] && lease["mac"] == "00:15:65:00:00:01";
    let leases = leases.as_array().expect("a list");
    assert!(leases.len() == 2 && leases.iter().any(has_its_address), "{leases:?}");
    assert!(leases.iter().all(|lease| lease["state"] == "active" && lease["family"] == "yealink"), "{leases:?}");
    for (mac, ntp) in [("001565000001", "10.9.9.1"), ("001565000002", "10.9.9.2"), ("001565000004", "pool.ntp.org")] {
        let explained = server.ask(&["render", "--mac", mac, "--explain"]).good();
        assert!(explained.contains(&format!("ntp_server = {ntp} ")), "{mac}: {explained}");
    }

    // The table may change things too, take them out, and move people; who has the phone is told what it means for others.
    server.write("phones.csv", "mac,label,group,extension\n001565000001,-,-,\n001565000002,Lager,,-\n001565000003,,,2041\n");
    let changed = server.ask(&["phones", "import", "phones.csv", "--apply"]).good();
    for told in [
        "changed  label: no longer Empfang; group: no longer reception\n",
        "changed  label: Küche → Lager; owner: no longer 2042 Alan Turing\n",
        "changed  owner: 2041 Ada Lovelace; (2041 leaves 00:15:65:00:00:01, which is nobody's then)\n",
    ] {
        assert!(changed.contains(told), "wanted {told} in\n{changed}");
    }
    phones.until(1, |news| news["type"] == "registered" && news["user"] == "new001565000001");
    phones.until(1, |news| news["type"] == "registered" && news["user"] == "new001565000002");
    let timeline = server.ask(&["devices", "001565000001"]).good();
    assert!(timeline.contains("is no longer extension 2041: the extension went to 00:15:65:00:00:03"), "{timeline}");
    assert!(timeline.contains("is written down with label -, group -"), "{timeline}");
    // A phone that was seen knows better what it is.
    server.write("phones.csv", "mac,family,model\n001565000001,poly,\n001565000002,,SIP-T48\n");
    let run = server.ask(&["phones", "import", "phones.csv"]);
    assert!(run.status == Some(1) && run.out.contains("phones.csv:2:14: it is a yealink, as it says of itself"), "{run:#?}");
    assert!(run.out.contains("(it calls itself T46S, which counts)"), "{run:#?}");
}

/// The command line as somebody uses it elsewhere.
fn ask(office: &Office, arguments: &[&str]) -> Run {
    let (url, token) = (format!("http://{}", office.node.addresses.api), office.node.local_token.expose().to_owned());
    plugtone(Path::new("/"), &[arguments, &["--api", &url, "--token", &token]].concat())
}

/// A phone's own file, asked for from its own address.
fn file_of(office: &Office, address: &str, name: &str) -> String {
    let url = format!("http://{}/{name}", office.node.addresses.http[0]);
    let output = Command::new("curl").args(["-sS", "--interface", address, &url]).output().expect("curl");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_phone_of_another_make_takes_the_place_of_an_old_one() {
    let templates = tempfile::tempdir().expect("a folder");
    let overrides = "groups:\n  reception: { members: [], variables: { syslog_server: 10.9.9.3 } }\n\
                     devices:\n  '001565000e01': { family: yealink, variables: { ntp_server: 10.9.9.4 } }\n";
    fs::write(templates.path().join("overrides.yaml"), overrides).expect("written");
    let office = Office::opens(|settings| settings.templates.path = Some(templates.path().to_owned())).await;
    let mut old = office.plugs_in("yealink", 0xe01);
    let mut new = office.plugs_in("poly", 0xe02);
    let (old_mac, new_mac) = (old.phone.mac, new.phone.mac);
    assert_eq!(old_mac, "001565000e01".parse::<MacAddr>().expect("a MAC"));
    for phone in [&mut old, &mut new] {
        phone.until_registered().await.expect("it registers as nobody's");
    }
    let table = templates.path().join("phones.csv");
    fs::write(&table, format!("mac,label,room,group,user,notes\n{old_mac},Front,Hall,reception,1001,in use since 2019\n"))
        .expect("written");
    ask(&office, &["phones", "import", &table.display().to_string(), "--apply"]).good();
    old.until_registered_as("2041").await.expect("it is Ada's");
    let dead = office.node.account(old_mac);

    let (old_name, new_name) = (old_mac.to_string(), new_mac.to_string());
    let swap = ["swap", &old_name, &new_name];
    let shown = ask(&office, &[&swap[..], &["--dry-run"]].concat()).good();
    let notes = format!("note: `devices` of overrides.yaml has {old_name}: it holds for both; call it {new_name} there, or");
    for told in [
        &*format!("line 1: 2041 Ada Lovelace goes from {old_name} to {new_name}\n"),
        "label: Front\n",
        "location: Hall\n",
        "group: reception\n",
        &format!("settings: those of {old_name}\n"),
        &notes,
        "nothing is done yet: without --dry-run it is\n",
    ] {
        assert!(shown.contains(told), "wanted {told} in\n{shown}");
    }
    assert_eq!(office.owner(old_mac).map(|owner| owner.to_string()), Some("2041".to_owned()), "nothing was done");

    let done = ask(&office, &swap).good();
    assert!(done.ends_with(&format!("done: {new_name} is in the place of {old_name}; both are told to reload\n")), "{done}");
    new.until_registered_as("2041").await.expect("the new one is Ada's");
    old.until_registered_as(&format!("new{}", old_mac.bare())).await.expect("the old one is nobody's");
    let status = register_as(&dead, office.node.addresses.sip_udp[0]).await;
    assert!([401, 403].contains(&status), "the old secret is dead: {status}");
    let devices = ask(&office, &["devices", "--json"]).json();
    let of = |mac: &str| devices.as_array().into_iter().flatten().find(|device| device["mac"] == mac).expect("listed").clone();
    let (was, is) = (of(&old_name), of(&new_name));
    assert_eq!((&is["label"], &is["location"], &is["group"]), (&json!("Front"), &json!("Hall"), &json!("reception")), "{is}");
    assert_eq!((&was["label"], &was["location"], &was["group"]), (&Value::Null, &Value::Null, &Value::Null), "{was}");
    assert_eq!((&was["notes"], &is["notes"]), (&json!("in use since 2019"), &Value::Null), "notes are of the box");
    assert_eq!(is["stands_for"], json!([old_name]));
    assert!(was["binding"].is_null() && is["binding"]["extension"] == "2041", "{was} {is}");

    // What was set for the old one is in the new one's file, in the words of its own make.
    let address = is["address"].as_str().expect("an address");
    let file = file_of(&office, address, &format!("{}-user.cfg", new_mac.bare()));
    assert!(file.contains("10.9.9.4") && file.contains("10.9.9.3"), "no time server of the old one, no log of its group: {file}");

    // No second time, not to oneself, not from nowhere, not over somebody's head.
    for (arguments, told) in [
        (["swap", &old_name, &new_name], "belongs to 2041 Ada Lovelace: take it from them first"),
        (["swap", &new_name, &new_name], "a phone cannot replace itself"),
        (["swap", "02:00:00:00:00:77", &old_name], "02:00:00:00:00:77 was never seen here"),
    ] {
        let told_us = ask(&office, &arguments).bad();
        assert!(told_us.contains(told), "{arguments:?}: {told_us}");
    }

    // The next one is still in its box, and the one before has died: what follows, follows through both.
    drop(new);
    let third = "02:00:00:00:00:78";
    let shown = ask(&office, &["swap", &new_name, third]).good();
    assert!(shown.contains("was not seen yet: it is theirs as soon as it is plugged in"), "{shown}");
    let nothing = ask(&office, &["swap", &new_name, "02:00:00:00:00:79"]).bad();
    assert!(nothing.contains("has no owner, label, place, group or settings"), "{nothing}");
    let detail = ask(&office, &["devices", third, "--json"]).json();
    assert_eq!((&detail["binding"]["extension"], &detail["stands_for"]), (&json!("2041"), &json!([old_name])), "{detail}");
    let state = serde_json::to_value(DeviceState::Bound).expect("JSON");
    assert_eq!((&detail["state"], &detail["first_seen"]), (&state, &Value::Null));
    let told = office.events_of(third.parse().expect("a MAC")).await;
    assert!(told.iter().any(|event| matches!(event, Event::Bound { .. })), "{told:?}");
    assert!(!told.iter().any(|event| matches!(event, Event::ReloadRequested { .. })), "nobody tells a box to reload: {told:?}");
    office.node.stop().await;
}

/// `UPDATE_LABELS=1` writes the sheets anew; look at them in a browser before you commit.
#[test]
fn cards_and_labels_are_printed_from_what_is_known() {
    let server = a_server();
    let table = "mac,family,model,label,room,user\n00:15:65:00:00:21,yealink,T46S,Front <desk> & bell,Hall,1001\n00:15:65:00:00:22,,,,,\n";
    server.write("phones.csv", table);
    server.ask(&["phones", "import", "phones.csv", "--apply"]).good();
    let pin = "in your letter of welcome";
    let users = ["labels", "users", "--only", "1001", "--only", "2042", "--pin", pin, "--title", "Müller & Söhne"];
    for (name, arguments) in [("users.html", &users[..]), ("phones.html", &["labels", "phones"])] {
        let sheet = server.ask(arguments).good();
        assert_eq!(sheet.matches("<article>").count(), 2, "{sheet}");
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/labels").join(name);
        if std::env::var_os("UPDATE_LABELS").is_some() {
            fs::write(&kept, &sheet).expect("written");
        }
        assert_eq!(sheet, fs::read_to_string(&kept).expect("kept"), "{name}: if it should be so, UPDATE_LABELS=1");
    }
    let cards = server.ask(&users).good();
    for word in ["Ada Lovelace", "2041", "<code>1001</code>", "Müller &amp; Söhne", pin] {
        assert!(cards.contains(word), "no {word} in {cards}");
    }
    for word in ["1815", "1912", "argon2", "Grace"] {
        assert!(!cards.contains(word), "{word} is in {cards}");
    }
    let found = server.ask(&["labels", "phones", "--search", "front", "--output", "labels.html"]).good();
    assert_eq!((found.as_str(), fs::read_to_string(server.path("labels.html")).expect("written").matches("<article>").count()), ("", 1));
    // Of one's own.
    server.write("ours.j2", "{% for card in cards %}{{ card.name }}: {{ card.extension }}\n{% endfor %}");
    assert_eq!(server.ask(&[&users[..], &["--template", "ours.j2"]].concat()).good(), "Ada Lovelace: 2041\nAlan Turing: 2042\n");
    server.write("ours.j2", "{{ nothing }}");
    assert!(server.ask(&[&users[..], &["--template", "ours.j2"]].concat()).bad().contains("ours.j2 cannot be rendered"));
}
