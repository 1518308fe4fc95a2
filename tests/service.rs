//! The unit of systemd that is shipped: systemd has nothing to say against it, and what it lets the server do is enough.

use std::{fs, path::Path, process::Command, time::Duration};

use crate::{
    cli::shipped,
    dhcp::{Client, lan},
    netns::{need, within},
};

const PLUGTONE: &str = env!("CARGO_BIN_EXE_plugtone");
const UNIT: &str = "config/plugtone.service";
const PATIENCE: Duration = Duration::from_secs(30);

fn value<'a>(unit: &'a str, key: &str) -> &'a str {
    let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("{UNIT} has no {key}"))
}

#[test]
fn systemd_reads_the_unit() {
    need("systemd-analyze", "systemd");
    let folder = tempfile::tempdir().expect("folder");
    let unit = shipped(UNIT);
    let (program, arguments) = value(&unit, "ExecStart").split_once(' ').expect("arguments");
    assert_eq!(arguments, "serve --config /etc/plugtone/plugtone.yaml");
    // Systemd wants the program where the unit says that it is.
    let path = folder.path().join("plugtone.service");
    fs::write(&path, unit.replace(program, PLUGTONE)).expect("the unit");
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().expect("systemd-analyze");
    let said = String::from_utf8_lossy(&output.stderr);
    // It says so of a word that it does not know, and takes the unit all the same.
    assert!(output.status.success() && !said.contains("plugtone"), "{said}");
}

#[test]
fn what_the_unit_allows_is_enough() {
    need("setpriv", "util-linux");
    need("curl", "curl");
    let unit = shipped(UNIT);
    let allowed = value(&unit, "AmbientCapabilities");
    assert_eq!(allowed, value(&unit, "CapabilityBoundingSet"));
    let allowed: String = allowed.split(' ').map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase())).collect();
    let (bounding, network) = (format!("--bounding-set=-all{allowed}"), lan());
    let may_only = [bounding.as_str(), "--inh-caps=-all"];
    let seen = network.run("setpriv", &[&may_only[..], &["grep", "CapEff", "/proc/self/status"]].concat());
    assert_eq!(seen.split_whitespace().last(), Some("0000000000002400"), "bits 10 and 13, and no other: {seen}");

    let folder = tempfile::tempdir().expect("folder");
    let text = |name: &str| folder.path().join(name).display().to_string();
    let config = "dhcp: { interfaces: [lan], subnets: [{ cidr: 10.77.0.0/24, range: 10.77.0.100-10.77.0.150 }] }\n\
                  directory: { file: { path: users.yaml } }\nstore: { path: plugtone.db }\n";
    fs::write(text("plugtone.yaml"), config).expect("the configuration");
    fs::write(text("users.yaml"), shipped("config/demo/users.yaml")).expect("the users");
    let serve = [PLUGTONE, "serve", "--config", &text("plugtone.yaml")];
    let mut server = network.start("setpriv", &[&may_only[..], &serve].concat());
    assert!(within(PATIENCE, || Path::new(&text("cli.token")).exists()), "the server does not start");
    let phone = Client::new("phone", "00:15:65:00:00:01", &network);
    let _udhcpc = phone.udhcpc(&["-V", "yealink"]);
    assert!(phone.hears("bound").get("ip").is_some_and(|address| address.starts_with("10.77.0.1")));
    for door in ["http://10.77.0.1", "tftp://10.77.0.1", "ftp://PlcmSpIp:PlcmSpIp@10.77.0.1"] {
        let file = phone.namespace.run("curl", &["-sSf", &format!("{door}/001565000001.cfg")]);
        assert!(file.contains("account.1."), "{door}: {file}");
    }
    server.signal(libc::SIGTERM);
    assert!(server.wait(PATIENCE), "it does not end when systemd says so");
}
