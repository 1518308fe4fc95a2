//! The phone book from a real directory to phones: each make finds its address in its own file and reads it from its own network
//! address, as the phone would; with names that break what is careless.

use std::{collections::HashMap, process::Command, time::Duration};

use plugtone::{directory::settings::LdapSettings, phone::make::Make, provisioning::phone_book::More};
use roxmltree::Document;

use crate::{
    ldap::{BASE, SERVICE, Slapd},
    story::office::Office,
};

/// People with names that somebody has typed into a form, sorted as phones show them.
const TORTURE: [(&str, &str, &str); 6] = [
    ("amp", "A & B <c> \"d\" 'e'", "2201"),
    ("cdata", "B ]]> {{ 7 * 7 }} {% raw %}", "2202"),
    ("lines", "C two lines", "2203"),
    ("emoji", "D 🎉 Zoë Μαρία", "2204"),
    ("rtl", "E gnp.exe", "2205"),
    ("entity", "F &amp; &#10; &bogus;", "2206"),
];

fn entries() -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let written = |id: &str, name: &str| match id {
        "lines" => "C two\r\n\u{7}lines".to_owned(),
        "rtl" => "E \u{202e}gnp.exe".to_owned(),
        _ => name.to_owned(),
    };
    let entry = |(id, name, number): &(&str, &str, &str)| {
        format!(
            "dn: uid={id},ou=people,{BASE}\nobjectClass: inetOrgPerson\nuid: {id}\ncn: {id}\nsn: {id}\ndisplayName:: {}\n\
             telephoneNumber: {number}\nmobile: +49 (171) {number}\n\n",
            STANDARD.encode(written(id, name))
        )
    };
    TORTURE.iter().map(entry).collect()
}

/// The makes that get one, and where in its file the phone finds the address: what stands before and after it.
const MAKES: [(&str, &str, &str); 14] = [
    ("yealink", "remote_phonebook.data.1.url = ", "\n"),
    ("grandstream", "<P331>", "</P331>"),
    ("cisco_spa", "<XML_Directory_Service_URL>", "</"),
    ("cisco_mpp", "<XML_Directory_Service_URL>", "</"),
    ("fanvil", "<Addr>", "</Addr>"),
    ("snom", "<dkey_directory perm=\"R\">url ", "</"),
    ("mitel", "directory script: ", "\n"),
    ("digium", "<contacts url=\"", "\""),
    ("htek", "<P4401>", "</P4401>"),
    ("avaya_j", "SET DOWNLOADABLE_DIRECTORY ", "\n"),
    ("gigaset", "\"XMLDir.1.ServerURL\" value=\"", "\""),
    ("gigaset_n510", "aucServerURL\" class=\"symb_item\" value='\"", "\"'"),
    ("gigaset_n720", "aucServerURL[%]\" class=\"symb_item\" value='\"", "\"'"),
    ("panasonic", "XMLAPP_LDAP_URL=\"", "\""),
];

/// What curl gets as the phone at this address: status and body.
fn curl(address: &str, url: &str) -> (String, String) {
    let output = Command::new("curl").args(["-sS", "-w", "\n%{http_code}", "--interface", address, url]).output().expect("curl");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let (body, status) = text.rsplit_once('\n').expect("a status");
    (status.to_owned(), body.to_owned())
}

/// Name and number of every entry, on this page and those behind it, as the make writes them.
fn read(family: &str, address: &str, first: &str) -> Vec<(String, String)> {
    // What a handset of Gigaset's asks for: so many from there on.
    let from = |place: usize| format!("{first}?command=get_list&type=pb&fn=*&ln=*&hm=*&mb=*&first={place}&count=8&reqid=9B0E3&limit=2048");
    let begins = if family.starts_with("gigaset") { from(1) } else { first.to_owned() };
    let (mut url, mut all) = (Some(begins), Vec::new());
    while let Some(at) = url.take() {
        let (status, body) = curl(address, &at);
        assert_eq!(status, "200", "{family}: {at}");
        let page = Document::parse(&body).unwrap_or_else(|error| panic!("{family}: {at}: {error}\n{body}"));
        let text = |node: roxmltree::Node<'_, '_>, name: &str| {
            node.children().find(|child| child.has_tag_name(name)).and_then(|child| child.text()).unwrap_or_default().to_owned()
        };
        let root = page.root_element();
        let (entry, name, numbers): (_, _, &[&str]) = match (family, root.tag_name().name()) {
            ("yealink", "YealinkIPPhoneDirectory") => ("DirectoryEntry", "Name", &["Telephone"]),
            ("cisco_spa" | "cisco_mpp", "CiscoIPPhoneDirectory") => ("DirectoryEntry", "Name", &["Telephone"]),
            ("snom", "SnomIPPhoneDirectory") => ("DirectoryEntry", "Name", &["Telephone"]),
            ("htek", "PhoneDirectory") => ("DirectoryEntry", "Name", &["Telephone"]),
            ("avaya_j", "IPPhoneDirectory") => ("DirectoryEntry", "LastName", &["Number"]),
            ("fanvil", "FanvilIPPhoneDirectory") => ("DirectoryEntry", "Name", &["Telephone", "Mobile", "Other"]),
            ("grandstream", "AddressBook") => ("Contact", "FirstName", &["phonenumber"]),
            ("mitel", "AastraIPPhoneDirectory") => ("MenuItem", "Prompt", &["URI"]),
            ("digium", "phonebooks") => ("contact", "last_name", &[]),
            ("gigaset" | "gigaset_n510" | "gigaset_n720", "list") => ("entry", "ln", &["hm", "mb"]),
            ("panasonic", "ppxml") => ("Personnel", "Name", &["PhoneNum"]),
            ("poly", "directory") => ("item", "fn", &["ct"]),
            (family, root) => panic!("{family} reads no <{root}>"),
        };
        let mut count = 0;
        for node in root.descendants().filter(|node| node.has_tag_name(entry)) {
            count += 1;
            if family == "digium" {
                let dials = node.descendants().filter_map(|node| node.attribute("dial"));
                all.extend(dials.map(|dial| (node.attribute("last_name").unwrap_or_default().to_owned(), dial.to_owned())));
            }
            for number in node.descendants().filter(|node| numbers.contains(&node.tag_name().name())) {
                all.push((text(node, name), number.text().unwrap_or_default().to_owned()));
            }
        }
        match family {
            "cisco_spa" | "cisco_mpp" => assert!(count <= 32, "{family}: {count} on a page"),
            "mitel" => assert!(count <= 15, "{count} on a page"),
            "panasonic" => assert!(count <= 20, "{count} on a page"),
            _ => {}
        }
        let place = |name: &str| root.attribute(name).and_then(|place| place.parse::<usize>().ok());
        if let (Some(total), Some(_), Some(last), "9B0E3") =
            (place("total"), place("first"), place("last"), root.attribute("reqid").unwrap_or_default())
        {
            assert!((1..=8).contains(&count), "{count} on a page");
            url = (last < total).then(|| from(last + 1));
            continue;
        }
        let next = root.children().find(|key| text(*key, "Label") == "Next" || text(*key, "Name") == "Next").map(|key| text(key, "URL"));
        url = next.or_else(|| root.attribute("next").map(str::to_owned));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_make_reads_the_directory_in_its_own_words() {
    let mut slapd = Slapd::holding(&entries());
    let plain = slapd.plain;
    let office = Office::opens(|settings| {
        let yaml = format!(
            "{{ servers: ['ldap://{plain}'], tls: none, bind_dn: '{SERVICE}', bind_password: 'service secret', base: 'ou=people,{BASE}', \
             attributes: {{ more_numbers: {{ mobile: mobile }} }} }}"
        );
        settings.directory.file = None;
        settings.directory.kind = None;
        settings.directory.ldap = Some(plugtone::yaml::read::<LdapSettings>("ldap", &yaml).expect("good"));
        settings.bindings.devices_per_extension = 16;
        settings.sip.max_contacts_per_user = 16;
        settings.provisioning.phone_book.more = vec![More { name: "A porter".into(), number: "*0".into() }];
    })
    .await;
    // Theirs before they are plugged in: so they come up once.
    let families: Vec<&str> = MAKES.iter().map(|(family, ..)| *family).chain(["poly"]).collect();
    // Some makers have several makes.
    let number = |family: &str| 0xb00 + families.iter().position(|one| *one == family).expect("one of them") as u32;
    let mac = |family: &str| Make::of(family).expect("a make").mac(number(family));
    for family in &families {
        office.node.give(mac(family), "1001").await.expect("given");
    }
    let mut phones: Vec<_> = families.iter().map(|family| office.plugs_in(family, number(family))).collect();
    let mut stranger = office.plugs_in("yealink", 0xbff);
    for phone in &mut phones {
        phone.until_registered_as("2041").await.expect("it is somebody's");
    }
    stranger.until_registered().await.expect("it is nobody's");
    let mut addresses = HashMap::new();
    for of in families.iter().map(|family| mac(family)).chain([stranger.phone.mac]) {
        let address = office.node.onboarding().device(of).await.expect("asked").and_then(|device| device.address).expect("it has one");
        addresses.insert(of, address.to_string());
    }

    // What the directory has: twenty people by number, two without one, and those with strange names; and the porter, who is in none.
    let mut expected: Vec<(String, String)> = vec![("A porter".into(), "*0".into())];
    expected.extend((1..=20).map(|n| (format!("Person {n}"), (2040 + n).to_string())));
    for (_, name, number) in TORTURE {
        expected.push((name.to_owned(), number.to_owned()));
        expected.push((format!("{name} (mobile)"), format!("+49171{number}")));
    }
    expected.sort();
    let base = format!("http://{}", office.node.addresses.http[0]);
    let mut urls = HashMap::new();
    for (family, before, after) in MAKES {
        let own = &addresses[&mac(family)];
        let files = office.files_of(mac(family)).await;
        let found = files.iter().find_map(|file| Some(file.split_once(before)?.1.split_once(after)?.0.to_owned()));
        let found = found.unwrap_or_else(|| panic!("{family} is not told of a phone book: {files:#?}"));
        let url = if family == "grandstream" { format!("http://{found}/phonebook.xml") } else { found };
        let mut got = match family {
            // It knows no way to those behind the first but to search.
            "panasonic" => {
                let begins = ["A", "B", "C", "D", "E", "F"].map(str::to_owned).into_iter().chain((1..=9).map(|n| format!("Person%20{n}")));
                begins.flat_map(|begins| read(family, own, &format!("{url}?userid={}&name={begins}", mac(family).bare()))).collect()
            }
            _ => read(family, own, &url),
        };
        if matches!(family, "yealink" | "fanvil" | "grandstream" | "htek" | "gigaset" | "gigaset_n510" | "gigaset_n720") {
            // The kind of number is not in the name.
            got.iter_mut().filter(|(_, number)| number.starts_with('+')).for_each(|(name, _)| name.push_str(" (mobile)"));
        }
        got.sort();
        if family == "panasonic" {
            // Who is found by two beginnings.
            got.dedup();
            assert_eq!(read(family, own, &url).len(), 16, "the first of all, when nothing is keyed in");
        }
        let mut expected = expected.clone();
        if family == "fanvil" {
            expected.iter_mut().for_each(|(name, _)| *name = name.replace('&', "+"));
            expected.sort();
        }
        if family == "panasonic" {
            let written = |name: &str| {
                let plain = name.replace('&', "+").replace('<', "(").replace('>', ")").replace(['"', '\''], "");
                plain.chars().take(24).collect()
            };
            expected.iter_mut().for_each(|(name, number)| {
                (*name, *number) = (written(name.trim_end_matches(" (mobile)")), number.replace('+', "00"));
            });
            expected.sort();
        }
        assert_eq!(got, expected, "{family}");
        urls.insert(family, url);
    }
    let poly = format!("{base}/{}-directory.xml", mac("poly").bare());
    let mut got = read("poly", &addresses[&mac("poly")], &poly);
    got.sort();
    assert_eq!(got, expected, "poly");

    // Who a base searches for: by name, and by the number of who calls.
    let (own, url) = (&addresses[&mac("gigaset_n510")], &urls["gigaset_n510"]);
    for (asked, found) in [
        ("type=pb&ln=por*&hm=*&first=1&count=4", r#"total="1" first="1" last="1">"#),
        ("type=pb&ln=*&hm=2041&first=1&count=1&reqsrc=auto", "<ln>Person 1</ln>"),
        ("type=pb&ln=%2a&hm=%32041&last=-1&count=1", "<ln>Person 1</ln>"),
        ("type=pb&ln=*&hm=9999", r#"<list response="get_list" type="pb" notfound="hm" total="0"/>"#),
        ("type=%22%3E%3Cx/%3E&ln=nobody", r#"type="&quot;&gt;&lt;x/&gt;" notfound="ln" total="0"/>"#),
    ] {
        let (status, body) = curl(own, &format!("{url}?command=get_list&{asked}"));
        assert!(status == "200" && body.contains(found), "{asked}: {status} {body}");
    }

    // Only to phones, to each its own, and nobody's phone has nobody's friends.
    for (who, of) in [("another phone", mac("snom")), ("nobody's phone", stranger.phone.mac)] {
        assert_eq!(curl(&addresses[&of], &urls["yealink"]).0, "404", "{who}");
    }
    assert_eq!(curl("127.0.0.1", &urls["yealink"]).0, "404", "no phone");
    let empty = read("yealink", &addresses[&stranger.phone.mac], &format!("{base}/{}-phonebook.xml", stranger.phone.mac.bare()));
    assert_eq!(empty, []);

    // The directory is down: phones get what was read before, and do not wait.
    slapd.down();
    let began = std::time::Instant::now();
    assert_eq!(read("yealink", &addresses[&mac("yealink")], &urls["yealink"]).len(), expected.len());
    assert!(began.elapsed() < Duration::from_secs(2), "a phone waited for the directory");
    office.node.stop().await;
}
