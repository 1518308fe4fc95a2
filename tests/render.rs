//! What phones get, to the letter. One text file per case in `tests/render/`: what is asked, `---`, what comes.
//!
//! After a wanted change: `UPDATE_RENDERS=1 cargo test --test all render::` writes them anew; read the diff before you commit.
//! The same files are then read by the simulated phones' own parsers, which know nothing of the templates.

use std::{collections::HashMap, fs, path::Path};

use plugtone::{
    model::{MacAddr, Secret},
    phone::{
        boot::{Boot, Outcome, Server as BootServer},
        keys::KeyUse,
        make::{MAKES, Make, names},
        settings::Hotline,
    },
    template::{DhcpFacts, Line, Readers, Server, SipPorts, Source, Subject, TemplateSet, shipped},
};
use serde::Deserialize;

const SECRET: &str = "0123456789abcdefGHIJ_-45";

/// The part of a case above its `---`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// Further lines that are nobody's, to sign in at.
    #[serde(default)]
    free: Vec<u8>,
    /// Why this case is there.
    #[serde(default, rename = "why")]
    _why: String,
    family: String,
    file: String,
    mac: MacAddr,
    #[serde(default)]
    model: Option<String>,
    /// The owner's extension and name; none: unbound.
    #[serde(default)]
    extension: Option<String>,
    #[serde(default)]
    name: Option<String>,
    /// The extension of a second line.
    #[serde(default)]
    second: Option<String>,
    /// The server speaks HTTPS, by an authority of its own.
    #[serde(default)]
    tls: bool,
    /// The account goes encrypted, and this is what is told in clear.
    #[serde(default)]
    key_only: bool,
    #[serde(default)]
    overrides: String,
}

fn set(overrides: &str) -> TemplateSet {
    let mut sources = shipped();
    if !overrides.is_empty() {
        sources.retain(|source| source.name != "overrides.yaml");
        sources.push(Source { name: "overrides.yaml".into(), origin: "overrides.yaml".into(), text: overrides.into() });
    }
    TemplateSet::load(&sources).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn subject(mac: MacAddr, model: Option<&str>, owner: Option<(&str, &str)>) -> Subject {
    let line = Line {
        number: 1,
        user: owner.map_or_else(|| format!("new{}", mac.bare()), |(extension, _)| extension.into()),
        auth_user: format!("{}-1", mac.bare()),
        secret: Secret::new(SECRET),
        display_name: owner.map_or("New phone", |(_, name)| name).into(),
        label: None,
        extension: owner.map(|(extension, _)| extension.parse().expect("extension")),
    };
    Subject {
        mac: Some(mac),
        model: model.map(str::to_owned),
        bound: owner.is_some(),
        lines: vec![line],
        server: Server {
            host: "10.0.0.2".into(),
            sip: SipPorts { udp: Some(5060), tcp: Some(5060), tls: None },
            url: "http://10.0.0.2:8080".into(),
            secure_url: None,
            realm: "plugtone".into(),
            authority: None,
        },
        address: "10.0.1.7".parse().ok(),
        user_id: None,
        inventory: Default::default(),
        contacts: None,
        admin_password: Some(Secret::new("admin23456ab")),
        file_key: None,
        key_only: false,
        firmware: None,
    }
}

const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----\nMIIBhDCCASqgAwIBAgIU\nZm9yIHRlc3RzIG9ubHk=\n-----END CERTIFICATE-----\n";

fn rendered(set: &TemplateSet, family: &str, file: &str, subject: &Subject) -> Option<String> {
    let file = set.locate(family, file)?;
    let rendered = set.render(&file, subject).unwrap_or_else(|fault| panic!("{fault}"));
    Some(String::from_utf8(rendered.bytes).expect("UTF-8"))
}

#[test]
fn files_are_as_written_down() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/render");
    let update = std::env::var_os("UPDATE_RENDERS").is_some();
    let mut wrong = Vec::new();
    let mut sets: HashMap<String, TemplateSet> = HashMap::new();
    let mut count = 0;
    for entry in fs::read_dir(folder).expect("tests/render") {
        let path = entry.expect("entry").path();
        let text = fs::read_to_string(&path).expect("a case is text");
        let (input, expected) = text.split_once("\n---\n").unwrap_or((text.trim_end(), ""));
        let case: Case = serde_yaml::from_str(input).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()));
        let name = case.name.as_deref().unwrap_or("Ann Example");
        let mut subject = subject(case.mac, case.model.as_deref(), case.extension.as_deref().map(|extension| (extension, name)));
        subject.lines.extend(case.second.map(|extension| Line {
            number: 2,
            user: extension.clone(),
            auth_user: format!("{}-2", case.mac.bare()),
            secret: Secret::new("another-SECRET_of_24-abc"),
            display_name: "Bob Example".into(),
            label: None,
            extension: Some(extension.parse().expect("extension")),
        }));
        subject.lines.extend(case.free.into_iter().map(|number| Line {
            number,
            user: format!("new{}-{number}", case.mac.bare()),
            auth_user: format!("{}-{number}", case.mac.bare()),
            secret: Secret::new(format!("free-SECRET_of_line-{number}")),
            display_name: "New phone".into(),
            label: None,
            extension: None,
        }));
        if case.tls {
            subject.server.secure_url = Some("https://10.0.0.2:8443".into());
            subject.server.authority = Some(AUTHORITY.into());
            subject.server.sip.tls = Some(5061);
        }
        if case.key_only {
            (subject.file_key, subject.key_only) = (Some(Secret::new("0123456789abcdef0123456789abcdef")), true);
        }
        let set = sets.entry(case.overrides).or_insert_with_key(|overrides| set(overrides));
        let made = rendered(set, &case.family, &case.file, &subject).unwrap_or_else(|| "(no such file)\n".into());
        if update {
            fs::write(&path, format!("{input}\n---\n{made}")).expect("written");
        } else if made != expected {
            wrong.push(format!("{}: wanted\n{expected}\ngot\n{made}", path.display()));
        }
        count += 1;
    }
    assert!(count >= 16, "only {count} cases: do the tests look at the wrong place?");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// In a value of XML a line end is kept as makes' parsers read it.
#[test]
fn the_authority_arrives_as_it_is() {
    let set = set("");
    for (family, mac, name) in [("poly", "64167f0a0b0c", "64167f0a0b0c-user.cfg"), ("grandstream", "c074ad0a0b0c", "cfgc074ad0a0b0c.xml")] {
        let mut subject = subject(mac.parse().expect("MAC"), None, None);
        subject.server.authority = Some(AUTHORITY.into());
        let text = rendered(&set, family, name, &subject).expect("a file");
        let read = roxmltree::Document::parse(&text).expect("XML");
        let of_attribute = read.root_element().attribute("device.sec.TLS.customCaCert1");
        let of_element = read.descendants().find(|node| node.has_tag_name("P8433")).and_then(|node| node.text());
        assert_eq!(of_attribute.or(of_element), Some(AUTHORITY), "{family}");
    }
}

#[test]
fn the_makes_own_parsers_learn_the_account() {
    let set = set("");
    let nasty = "O'Neil & <Söhne> \"x\" 100%\r\naccount.1.password = 1";
    // Without line ends, which no file can hold; the baresip and XML quoting is undone by the parser.
    let shown = nasty.replace(['\r', '\n'], " ");
    for family in names() {
        for owner in [None, Some(("2041", nasty))] {
            let make = Make::of(family).expect("known");
            let mac = make.mac(0x0a0b0c);
            let subject = subject(mac, Some(make.model), owner);
            let mut boot = Boot::new(make, mac, &BootServer::parse("http://10.0.0.2:8080", "http").expect("server"));
            while let Some(name) = boot.poll_fetch() {
                boot.handle_file(rendered(&set, make.family, &name, &subject).as_deref().map(str::as_bytes));
            }
            let Outcome::Ready(account) = boot.outcome() else { panic!("{family} {owner:?}: no account") };
            let by_hand = matches!(make.names.hotline, Hotline::None);
            let invitation = if by_hand { "Call 0 to sign in" } else { "Lift to sign in" };
            let (user, display_name, label) = match owner {
                Some((extension, _)) => (extension.to_owned(), shown.as_str(), "2041"),
                None => (format!("new{}", mac.bare()), "New phone", invitation),
            };
            // The soft phone reads JSON, which can hold a line end and has no label. A quotation mark would end others' values.
            let quoted = shown.replace('"', "'");
            let apostrophes = shown.replace(['"', '\''], "’");
            let (display_name, label) = match (family, owner) {
                ("generic", Some((_, name))) => (name, user.as_str()),
                ("generic", None) => (display_name, user.as_str()),
                ("mitel" | "panasonic" | "cisco_7940", Some(_)) => (quoted.as_str(), label),
                ("gigaset_n510" | "gigaset_n720", Some(_)) => (apostrophes.as_str(), label),
                _ => (display_name, label),
            };
            let names = make.names;
            let display_name = if names.display_name.is_empty() { "" } else { display_name };
            let label = if names.label.is_empty() { "" } else { label };
            let expires = if owner.is_some() || names.expires.0.is_empty() { 3600 } else { 120 };
            let hotline = if owner.is_some() || by_hand { None } else { Some("0") };
            let polls = set.family(make.family).expect("a family").capabilities.poll_minutes_min;
            assert_eq!(account.user, user, "{family}");
            assert_eq!(account.auth_user, format!("{}-1", mac.bare()), "{family}");
            assert_eq!(account.password.expose(), SECRET, "{family}");
            assert_eq!((account.server.as_str(), account.port, account.tcp), ("10.0.0.2", 5060, false), "{family}");
            assert_eq!(account.display_name, display_name, "{family}");
            assert_eq!(account.label, label, "{family}");
            assert_eq!(account.expires_secs, expires, "{family}");
            assert_eq!(account.hotline.as_deref(), hotline, "{family}");
            let poll_minutes = if owner.is_some() { 1440 } else { 1 };
            let poll_secs = Some(poll_minutes.max(polls) * 60).filter(|_| !make.names.poll.every.is_empty());
            assert_eq!(account.poll_secs, poll_secs, "{family}");
        }
    }
}

/// A key with a lamp, one that dials, a park place: each make's phone understands them, with labels, and on a side-car too.
#[test]
fn the_makes_own_parsers_learn_the_keys() {
    let set = set(
        "sites:\n  all:\n    subnets: [10.0.0.0/8]\n    variables:\n      keys:\n        - {type: line}\n        - {type: blf, value: '2042', label: 'Bob & \"Co\"; <1>'}\n        - {type: park, value: '701', label: Park}\n        - {type: voicemail, label: Mail}\n      side_car_keys:\n        - {type: blf, value: '2043'}\n        - {type: none}\n        - {type: intercom, value: '2044'}\nusers:\n  '2041':\n    keys: { 3: { type: speed_dial, value: '+4930', label: Home } }\n",
    );
    let dial = |number: &str| KeyUse::Dial(number.into());
    // Before the number of a lamp that blinks, and of a park place: it is dialled as it is, whether or not somebody waits there,
    // and makes that put the code before every number that rings put it before none that does not. Side-car, and the number of its
    // first key: some makes count on behind the phone's own. What a line's key is called: "" leaves it to the account.
    let none = (None, 0);
    let beside = (Some(1), 0);
    for (family, pickup, park, side_car, line) in [
        ("yealink", "**", "", beside, ""),
        ("poly", "**", "**", (None, 4), ""),
        ("grandstream", "**", "**", beside, ""),
        // A D785 has 24 keys of its own.
        ("snom", "**", "", (None, 24), ""),
        ("cisco_mpp", "**", "**", beside, "{}"),
        ("cisco_spa", "**", "**", beside, "{}"),
        ("fanvil", "**", "", beside, ""),
        ("mitel", "**", "**", beside, ""),
        ("htek", "**", "", none, ""),
        // It is not known how it would take what rings.
        ("digium", "", "", none, "{}"),
        ("panasonic", "**", "**", beside, ""),
        ("avaya_j", "", "", beside, ""),
        ("cisco_79xx", "", "", none, "{}"),
    ] {
        let lamp = |number: &str, pickup: &str| KeyUse::Lamp { number: number.into(), pickup: pickup.into() };
        let make = Make::of(family).expect("known");
        let mac = make.mac(0x0a0b0c);
        let told = |owner: Option<(&str, &str)>| {
            let subject = subject(mac, Some(make.model), owner);
            let mut boot = Boot::new(make, mac, &BootServer::parse("http://10.0.0.2:8080", "http").expect("server"));
            while let Some(name) = boot.poll_fetch() {
                boot.handle_file(rendered(&set, family, &name, &subject).as_deref().map(str::as_bytes));
            }
            let keys = boot.keys().into_iter().map(|key| (key.side_car, key.position, key.label, key.does)).collect::<Vec<_>>();
            assert!(matches!(boot.outcome(), Outcome::Ready(_)), "{family}");
            keys
        };
        let nobodys = told(None);
        assert!(nobodys.iter().all(|(_, _, _, does)| *does == KeyUse::Line(1)), "{family}: nobody's phone has nobody's keys: {nobodys:?}");
        let wanted = |extension: &str, third: (&str, KeyUse)| {
            // What would end the value of another setting is told apart by the phone, or written otherwise.
            let bob = r#"Bob & "Co"; <1>"#;
            let bob = if matches!(family, "mitel" | "panasonic" | "avaya_j") { bob.replace('"', "'") } else { bob.into() };
            let bob = if matches!(family, "cisco_mpp" | "cisco_spa" | "avaya_j") { bob.replace(';', ",") } else { bob };
            let mut keys = vec![
                (None, 1, line.replace("{}", extension), KeyUse::Line(1)),
                (None, 2, bob, lamp("2042", pickup)),
                (None, 3, third.0.into(), third.1),
                (None, 4, "Mail".into(), dial("*97")),
            ];
            if side_car != none {
                keys.push((side_car.0, side_car.1 + 1, "2043".into(), lamp("2043", pickup)));
                keys.push((side_car.0, side_car.1 + 3, "2044".into(), dial("*802044")));
            }
            keys
        };
        assert_eq!(told(Some(("2045", "Eve"))), wanted("2045", ("Park", lamp("701", park))), "{family}");
        assert_eq!(told(Some(("2041", "Ann"))), wanted("2041", ("Home", dial("+4930"))), "{family}: Ann has another third key");
    }
}

/// Which makes can be told their firmware, in the words of each; and nothing is said to a phone that runs what it shall.
#[test]
fn the_makes_own_parsers_learn_where_their_firmware_is() {
    let whole = |family: &str| format!("http://10.0.0.2:8080/firmware/{family}/9.9/new.loads");
    let folder = |family: &str, name: &str| format!("http://10.0.0.2:8080/firmware/{family}/9.9/{name}");
    let wanted = HashMap::from([
        ("yealink", whole("yealink")),
        ("snom", whole("snom")),
        ("cisco_mpp", whole("cisco_mpp")),
        ("cisco_spa", whole("cisco_spa")),
        ("fanvil", whole("fanvil")),
        ("panasonic", whole("panasonic")),
        ("poly", "firmware/poly/9.9/sip.ld".to_owned()),
        ("grandstream", folder("grandstream", "grp2614fw.bin")),
        ("mitel", folder("mitel", "6920.st")),
        ("cisco_79xx", "new.loads".to_owned()),
        ("avaya_j", "firmware/avaya_j/9.9/new.loads".to_owned()),
        ("digium", whole("digium")),
        ("gigaset", whole("gigaset")),
        ("audiocodes", folder("audiocodes", "440HDG.img")),
        ("htek", folder("htek", "fw926.rom")),
    ]);
    let plain = set("");
    for family in plain.families() {
        let Some(make) = MAKES.iter().find(|make| make.name == family.id) else { continue };
        let entry = |version: &str, name: &str| {
            format!("  - {{ make: {}, version: '{version}', name: {name}, sha256: '00', bytes: 1 }}\n", family.id)
        };
        let text = format!(
            "files:\n{}{}pins:\n  - {{ make: {}, version: '9.9' }}\n",
            entry("9.9", "more.sbn"),
            entry("9.9", "new.loads"),
            family.id
        );
        let firmware = Source { name: "firmware.yaml".into(), origin: "firmware.yaml".into(), text };
        let pinned = TemplateSet::load(&shipped().into_iter().chain([firmware]).collect::<Vec<_>>()).expect("good");
        let learnt = |set: &TemplateSet, runs: Option<&str>| {
            let mut subject = subject(make.mac(1), Some(make.model), Some(("2041", "Ann Example")));
            subject.firmware = set.due(&family.id, &subject, runs);
            let mut boot = Boot::new(*make, make.mac(1), &BootServer::parse("http://10.0.0.2:8080", "http").expect("a server"));
            while let Some(name) = boot.poll_fetch() {
                boot.handle_file(rendered(set, &family.id, &name, &subject).as_deref().map(str::as_bytes));
            }
            boot.firmware()
        };
        let told = wanted.get(&*family.id).cloned();
        assert_eq!(family.capabilities.firmware, told.is_some(), "{}", family.id);
        assert_eq!(learnt(&pinned, Some("1.0")), told, "{}", family.id);
        for (set, runs, story) in
            [(&pinned, Some("9.9"), "it has it"), (&pinned, None, "nobody knows"), (&plain, Some("1.0"), "nothing is pinned")]
        {
            assert_eq!(learnt(set, runs), None, "{}: {story}", family.id);
        }
    }
}

/// What keys dial is what the server takes; whoever changes one of the two sees it here.
#[test]
fn the_codes_of_the_templates_are_the_servers() {
    let set = set("");
    let variables = set.variables("yealink", &subject(MacAddr([2, 0, 0, 0, 0, 1]), None, None));
    let codes = plugtone::features::Settings::default().codes;
    for (variable, code) in [("pickup_code", &codes.pickup), ("group_pickup_code", &codes.group_pickup), ("intercom_code", &codes.intercom)]
    {
        assert_eq!(variables[variable].value.as_str(), Some(code.as_str()), "{variable}");
    }
}

#[test]
fn the_same_phone_gets_the_same_bytes() {
    let (one, other) = (set(""), set(""));
    for family in one.families() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let subject = subject(mac, Some("T46S"), Some(("2041", "Ann")));
        for file in one.files(&family.id, &subject) {
            let first = one.render(&file, &subject).expect("renders");
            assert_eq!(first, one.render(&file, &subject.clone()).expect("renders"));
            assert_eq!(first, other.render(&file, &subject).expect("renders"), "a restart changes nothing");
        }
    }
}

#[test]
fn common_files_hold_nothing_of_anybody() {
    let set = set("");
    let mut common = 0;
    for family in set.families() {
        let subject = subject(MacAddr([2, 0xab, 0xcd, 0xef, 0x98, 0x76]), Some("T46S"), Some(("204199", "Ann Example")));
        for file in set.files(&family.id, &subject).into_iter().filter(|file| file.readers == Readers::Anyone) {
            let text = String::from_utf8(set.render(&file, &subject).expect("renders").bytes).expect("UTF-8").to_lowercase();
            for secret in [SECRET, "admin23456ab", "204199", "ann example", "02abcdef9876"] {
                assert!(!text.contains(&secret.to_lowercase()), "{} holds {secret}", file.family);
            }
            common += 1;
        }
    }
    assert!(common >= 3, "{common}");
}

/// What the makes are known by: the class and the address by DHCP, the class alone, the User-Agent alone.
#[test]
fn every_make_that_can_be_played_is_recognised() {
    let set = set("");
    for make in MAKES {
        let mac = make.mac(0x0a0b0c);
        let facts = |mac| DhcpFacts { mac, vendor_class: make.vendor_class, host_name: None, parameter_list: make.asks_for };
        let found = set.recognise_dhcp(facts(Some(mac))).unwrap_or_else(|| panic!("{} is not recognised", make.family));
        assert_eq!(found.family, make.family);
        if make.vendor_class.is_some() {
            let found = set.recognise_dhcp(facts(Some(MacAddr([2, 0, 0, 0, 0, 1])))).expect("by its class");
            assert_eq!(found.family, make.family);
            let model = found.model.filter(|_| make.family != "poly");
            assert!(model.is_none_or(|model| model == make.model), "{}", make.family);
        }
        let by_agent = set.recognise_user_agent(make.user_agent(mac).as_bytes());
        let known = by_agent.map(|found| (found.family, found.model.unwrap_or_default(), found.firmware.unwrap_or_default()));
        let wanted = (make.family.to_owned(), make.model.to_owned(), make.firmware.to_owned());
        assert_eq!(known, Some(wanted).filter(|_| !matches!(make.family, "algo" | "generic")), "{}", make.family);
    }
}

/// User agents as makes send them; the shapes are public, the last three bytes of the addresses are not.
#[test]
fn user_agents_are_recognised() {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Agent {
        agent: String,
        family: Option<String>,
        #[serde(default)]
        model: Option<String>,
        #[serde(default)]
        firmware: Option<String>,
        #[serde(default)]
        mac: Option<MacAddr>,
    }
    let set = set("");
    let text = include_str!("vectors/user_agents.yaml");
    let agents: Vec<Agent> = serde_yaml::from_str(text).expect("vectors");
    assert!(agents.len() > 20);
    for Agent { agent, family, model, firmware, mac } in agents {
        let found = set.recognise_user_agent(agent.as_bytes());
        let parts = found.map(|found| (Some(found.family), found.model, found.firmware, found.mac));
        assert_eq!(parts.unwrap_or_default(), (family, model, firmware, mac), "{agent}");
    }
    for junk in [&b""[..], b"\xff\xfe\x00", &[b'a'; 100_000], b"AVAYA/SIP12x0\x17/04.00.04.00", "Yealink SIP-T46G \u{1f600}".as_bytes()] {
        assert!(set.recognise_user_agent(junk).is_none());
    }
}
