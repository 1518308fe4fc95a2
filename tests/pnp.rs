//! SIP plug and play with SIPp as the phone, in an office where somebody else gives addresses: from the question to the phone's own file.

use std::{
    fs,
    process::{Child, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use super::netns::{Namespace, need, within};

const PATIENCE: Duration = Duration::from_secs(30);
const PLUGTONE: &str = env!("CARGO_BIN_EXE_plugtone");
const MAC: &str = "001565aabbcc";

/// The server in a network of its own; addresses are given by nobody of ours.
struct Office {
    child: Child,
    folder: TempDir,
    network: Namespace,
}

impl Office {
    fn open() -> Self {
        let network = Namespace::new("office");
        network.bridge("lan", "10.77.0.1/24");
        // Another network of the machine, in which the phone is not.
        network.bridge("dmz", "10.78.0.1/24");
        let folder = tempfile::tempdir().expect("a folder");
        let office = Self { child: network.command("true").spawn().expect("true"), folder, network };
        fs::write(office.path("users.yaml"), "users: []\n").expect("written");
        let config = "extensions: { range: 2041-2099 }\ndirectory: { file: { path: users.yaml } }\ndhcp: { mode: 'off' }\n\
                      http: { listen: ['0.0.0.0:8080'] }\nprovisioning: { pnp: true, url_tokens: true }\nstore: { path: data/plugtone.db }\n";
        fs::write(office.path("plugtone.yaml"), config).expect("written");
        office.served()
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn served(mut self) -> Self {
        let log = fs::File::create(self.path("log")).expect("a log");
        let mut command = self.network.command(PLUGTONE);
        command.args(["serve", "--config", &self.path("plugtone.yaml")]).stdout(Stdio::null()).stderr(log);
        let _ = self.child.wait();
        self.child = command.spawn().expect("the server starts");
        assert!(within(PATIENCE, || self.log().contains("ready")), "{}", self.log());
        self
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// What the server says of the phone, as JSON.
    fn timeline(&self) -> String {
        let output = self.network.command(PLUGTONE).args(["devices", MAC, "--json", "--config", &self.path("plugtone.yaml")]).output();
        String::from_utf8_lossy(&output.expect("it runs").stdout).into_owned()
    }

    /// A machine with this network card.
    fn machine(&self, mac: &str, address: &str) -> Namespace {
        let machine = Namespace::new("machine");
        self.network.plug("lan", &machine);
        for command in
            [&format!("link set eth0 address {mac}")[..], &format!("addr add {address}/24 dev eth0"), "route add 224.0.0.0/4 dev eth0"]
        {
            machine.ip(command);
        }
        machine
    }

    /// Asks the group in the name of the phone; gives whether it was told, and all messages.
    fn asks(&self, machine: &Namespace, address: &str) -> (bool, String) {
        need("sipp", "sip-tester");
        let scenario = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sipp/pnp.xml");
        let messages = self.path(&format!("messages-{address}"));
        let mut command = machine.command("timeout");
        command.args(["60", "sipp", "224.0.1.75:5060", "-sf", scenario, "-i", address, "-p", "5059", "-m", "1", "-nostdin"]);
        command.args(["-key", "mac", MAC, "-timeout", "6", "-timeout_error", "-trace_msg", "-message_file", &messages]);
        let output = command.env("TERM", "dumb").current_dir(self.folder.path()).output().expect("sipp runs");
        (output.status.success(), fs::read_to_string(messages).unwrap_or_default())
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the server's log\n{}", self.log());
        }
    }
}

#[test]
fn a_phone_that_asks_the_group_gets_its_own_file_and_nobody_else_does() {
    let office = Office::open();

    // The phone is told a URL with its key, and gets its file by it.
    let phone = office.machine("00:15:65:aa:bb:cc", "10.77.0.20");
    let (told, messages) = office.asks(&phone, "10.77.0.20");
    assert!(told, "{messages}");
    let url = messages.split("\r\n\r\nhttp://").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("a URL");
    assert!(url.starts_with(&format!("10.77.0.1:8080/t/{MAC}-")), "{url}");
    let file = phone.run("curl", &["-sS", "-f", &format!("http://{url}/{MAC}.cfg")]);
    assert!(file.contains(&format!("{MAC}-1")), "{file}");
    assert!(within(PATIENCE, || office.timeline().contains("pnp_asked")), "{}", office.timeline());

    // Somebody who says to be the phone is heard, as all are, and told nothing.
    let other = office.machine("02:00:00:00:00:99", "10.77.0.99");
    let (told, messages) = office.asks(&other, "10.77.0.99");
    assert!(!told && messages.contains("SIP/2.0 200 OK") && !messages.contains("NOTIFY sip:"), "{messages}");
    assert!(within(PATIENCE, || office.timeline().contains("pnp_refused")), "{}", office.timeline());

    // The port is shared with nobody but the group: calls go on by it, and nobody can take it.
    let shared = office.network.command("timeout").args(["10", "socat", "-u", "UDP4-RECV:5060,reuseaddr", "-"]).output().expect("socat");
    let said = String::from_utf8_lossy(&shared.stderr).into_owned();
    assert!(said.contains("Address already in use"), "{said}");
}
