//! Option sheets (`plugtone dhcp sheet`) in the servers that they are for: dnsmasq, ISC dhcpd and Kea take them as they are, and
//! ISC dhclient, asking as phones and computers do, is told what each should be. What no server here reads is compared with files.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use plugtone::{
    provisioning::{
        Endpoints, OpenSettings, Settings,
        sheet::{Dialect, Sheet},
    },
    template::{TemplateSet, shipped},
};
use tempfile::TempDir;

use crate::{
    dhcp::{Client, POLY_CLASS},
    netns::{Namespace, Running, need},
};

const BASE: &str = "http://10.77.0.1:8080";
const POLY: &str = "http://10.77.0.1:8080/000000000000.cfg";

/// As an administrator has it printed.
fn sheet(server: &str) -> String {
    let folder = tempfile::tempdir().expect("folder");
    let config = folder.path().join("plugtone.yaml");
    fs::write(&config, "extensions: { range: 2041-2099 }\ndirectory: { file: { path: users.yaml } }\nhttp: { listen: ['0.0.0.0:8080'] }\n")
        .expect("written");
    fs::write(folder.path().join("users.yaml"), "users: []\n").expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_plugtone"));
    command.args(["dhcp", "sheet", server, "--address", "10.77.0.1", "--config"]).arg(&config).stdin(Stdio::null());
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A server that must stay, at 10.77.0.1, and where its files are.
fn network() -> (Namespace, TempDir) {
    let network = Namespace::new("lan");
    network.bridge("lan", "10.77.0.1/24");
    (network, tempfile::tempdir().expect("folder"))
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

/// Everybody gets an address from that server, and of options what is theirs.
fn each_is_told_what_it_reads(network: &Namespace) {
    let list = "subnet-mask, broadcast-address, routers";
    for (story, mac, says, asks, option_66, option_160) in [
        // Told by option 60, under a prefix that nobody knows.
        ("a Yealink", "02:00:00:00:00:01", "send vendor-class-identifier \"yealink\";", ", tftp-server-name", Some(BASE), None),
        ("a Yealink that forgets to ask", "02:00:00:00:00:02", "send vendor-class-identifier \"yealink\";", "", Some(BASE), None),
        ("a Yealink that does not say so", "00:15:65:00:00:03", "", "", Some(BASE), None),
        (
            "a Poly",
            "02:00:00:00:00:04",
            &*format!("send vendor-class-identifier {POLY_CLASS};"),
            ", poly-url, tftp-server-name",
            Some(POLY),
            Some(POLY),
        ),
        ("any other phone", "02:00:00:00:00:05", "", ", tftp-server-name", Some(BASE), None),
        ("Windows", "02:00:00:00:00:06", "send vendor-class-identifier \"MSFT 5.0\";", ", tftp-server-name, poly-url", None, None),
        (
            "a computer that boots from the network",
            "02:00:00:00:00:07",
            "send vendor-class-identifier \"PXEClient:Arch:00000\";",
            ", tftp-server-name",
            None,
            None,
        ),
        ("a printer", "02:00:00:00:00:08", "", "", None, None),
    ] {
        let client = Client::new("client", mac, network);
        let config = format!(
            "option poly-url code 160 = text;\n{says}\nrequest {list}{asks};\ntimeout 20; retry 2; initial-interval 1; backoff-cutoff 2;\n"
        );
        let _dhclient = client.dhclient(&config);
        let told = client.hears("BOUND");
        let value = |name: &str| told.get(name).map(String::as_str);
        assert!(value("new_ip_address").is_some_and(|address| address.starts_with("10.77.0.1")), "{story}: {told:?}");
        assert_eq!((value("new_tftp_server_name"), value("new_poly_url")), (option_66, option_160), "{story}: {told:?}");
    }
}

#[test]
fn dnsmasq_tells_phones_what_the_sheet_says() {
    need("dnsmasq", "dnsmasq-base");
    let (network, folder) = network();
    fs::write(folder.path().join("plugtone.conf"), sheet("dnsmasq")).expect("written");
    let test = format!("--conf-file={}", path(&folder, "plugtone.conf"));
    let said = network.run("dnsmasq", &["--test", &test]);
    assert!(said.contains("syntax check OK"), "{said}");
    let leases = format!("--dhcp-leasefile={}", path(&folder, "leases"));
    let arguments =
        ["-k", "--user=root", "--port=0", "--no-ping", "--pid-file=", "--interface=lan", "--dhcp-range=10.77.0.100,10.77.0.150,10m"];
    let _dnsmasq = network.start("dnsmasq", &[&arguments[..], &[&test, &leases]].concat());
    each_is_told_what_it_reads(&network);
}

#[test]
fn dhcpd_of_isc_tells_phones_what_the_sheet_says() {
    need("dhcpd", "isc-dhcp-server");
    let (network, folder) = network();
    fs::write(folder.path().join("plugtone.conf"), sheet("isc")).expect("written");
    fs::write(folder.path().join("leases"), "").expect("written");
    let config = format!(
        "include \"{}\";\nauthoritative;\nping-check false;\nddns-update-style none;\n\
         subnet 10.77.0.0 netmask 255.255.255.0 {{ range 10.77.0.100 10.77.0.150; option routers 10.77.0.1; }}\n",
        path(&folder, "plugtone.conf")
    );
    fs::write(folder.path().join("dhcpd.conf"), config).expect("written");
    let (config, leases) = (path(&folder, "dhcpd.conf"), path(&folder, "leases"));
    network.run("dhcpd", &["-t", "-cf", &config]);
    let _dhcpd: Running = network.start("dhcpd", &["-f", "--no-pid", "-cf", &config, "-lf", &leases, "lan"]);
    each_is_told_what_it_reads(&network);
}

#[test]
fn kea_tells_phones_what_the_sheet_says() {
    need("kea-dhcp4", "kea-dhcp4-server");
    let (network, folder) = network();
    fs::write(folder.path().join("plugtone.json"), sheet("kea")).expect("written");
    let config = format!(
        r#"{{ "Dhcp4": {{
            <?include "{}"?>,
            "interfaces-config": {{ "interfaces": ["lan"] }},
            "lease-database": {{ "type": "memfile", "persist": false }},
            "subnet4": [{{ "subnet": "10.77.0.0/24", "pools": [{{ "pool": "10.77.0.100-10.77.0.150" }}] }}]
        }} }}"#,
        path(&folder, "plugtone.json")
    );
    fs::write(folder.path().join("kea.json"), config).expect("written");
    let (config, here) = (path(&folder, "kea.json"), format!("KEA_PIDFILE_DIR={}", folder.path().display()));
    let place = [&*here, "KEA_LOCKFILE_DIR=none", "kea-dhcp4"];
    network.run("env", &[&place[..], &["-t", &config]].concat());
    let _kea = network.start("env", &[&place[..], &["-c", &config]].concat());
    each_is_told_what_it_reads(&network);
}

/// `UPDATE_SHEETS=1` writes the files anew, to be read by a person who has such a server.
#[test]
fn sheets_for_servers_that_are_not_here_are_as_they_were() {
    // Some of the families: another that is shipped one day changes nothing here.
    let kept = ["defaults", "overrides", "timezones", "generic", "poly", "yealink"];
    let sources: Vec<_> = shipped().into_iter().filter(|source| kept.iter().any(|name| source.name.starts_with(name))).collect();
    let set = TemplateSet::load(&sources).unwrap_or_else(|faults| panic!("{faults:?}"));
    let endpoints = Endpoints { address: [10, 77, 0, 1].into(), http_port: Some(8080), ..Default::default() };
    let open = OpenSettings { subnets: vec!["10.77.0.0/24".parse().expect("a network")], ..Default::default() };
    let sheet = Sheet::new(&set, &Settings { open, ..Default::default() }, &endpoints).expect("options");
    for (name, dialect) in [
        ("windows.ps1", Dialect::Windows),
        ("netsh.txt", Dialect::Netsh),
        ("mikrotik.rsc", Dialect::Mikrotik),
        ("pfsense.txt", Dialect::Pfsense),
        ("cisco.txt", Dialect::Cisco),
    ] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sheets").join(name);
        let text = sheet.write(dialect);
        if std::env::var_os("UPDATE_SHEETS").is_some() {
            fs::write(&file, &text).expect("written");
        }
        let before = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(text, before, "{name}: if it should be so, run `UPDATE_SHEETS=1 cargo test --test all sheets_for`");
    }
}
