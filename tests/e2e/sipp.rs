//! A phone made of SIPp and scenarios (`tests/sipp/`), with the account that the server renders as JSON.

use std::{
    fs::{self, File},
    process::{Child, Stdio},
    time::Duration,
};

use plugtone::media::{Codec, codec::Encoder};
use serde_json::Value;
use tempfile::TempDir;

use super::{PATIENCE, SERVER, tap};
use crate::{dhcp::Client, netns::within};

/// Longer than any scenario waits: SIPp then ends by itself, and says so.
const LIMIT: Duration = Duration::from_secs(90);

pub struct Phone<'a> {
    pub client: &'a Client,
    address: String,
    account: Value,
}

impl<'a> Phone<'a> {
    /// Of a phone that was leased `address` and has fetched this file.
    pub fn new(client: &'a Client, address: &str, file: &str) -> Self {
        let file: Value = serde_json::from_str(file).expect("JSON");
        Self { client, address: address.to_owned(), account: file["lines"][0].clone() }
    }

    pub fn user(&self) -> &str {
        self.account["user"].as_str().expect("a user")
    }

    /// Logs in from the port that it is called at.
    pub fn registers(&self) {
        self.run("register.xml", 5060, "", &[("EXPECTED", "200")]).succeeds();
    }

    /// Plays a scenario at the port that the phone is called at; returns when it listens.
    pub fn waits(&self, scenario: &str, edits: &[(&str, &str)]) -> Sipp {
        let sipp = self.run(scenario, 5060, "", edits);
        let listens = || self.client.namespace.run("cat", &["/proc/net/udp"]).contains(":13C4 ");
        assert!(within(PATIENCE, listens), "sipp does not listen");
        sipp
    }

    /// Plays a scenario that calls.
    pub fn calls(&self, scenario: &str, dials: &str, edits: &[(&str, &str)]) -> Sipp {
        self.run(scenario, 5070, dials, edits)
    }

    /// `edits` are replaced in the scenario.
    fn run(&self, scenario: &str, port: u16, dials: &str, edits: &[(&str, &str)]) -> Sipp {
        let source = format!("{}/tests/sipp/{scenario}", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(source).expect("the scenario");
        let text = edits.iter().fold(text, |text, (from, to)| text.replace(from, to));
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("scenario.xml");
        fs::write(&file, text).expect("written");
        fs::write(folder.path().join("tone.alaw"), alaw_tone(660.0)).expect("written");
        let field = |name: &str| self.account[name].as_str().expect("a text").to_owned();
        // SIPp would sign for the server's URI and not for the one that it calls.
        let (server, signs_for) = (format!("{SERVER}:{}", self.account["port"]), if dials.is_empty() { "" } else { "@" });
        let signs_for = format!("{dials}{signs_for}{server}");
        let output = File::create(folder.path().join("output.log")).expect("a file");
        let child = self
            .client
            .namespace
            .command("sipp")
            .arg(&server)
            .args([
                "-sf",
                &file.display().to_string(),
                "-i",
                &self.address,
                "-p",
                &port.to_string(),
                "-mp",
                &(port + 1000).to_string(),
                "-m",
                "1",
            ])
            .args(["-nostdin", "-timeout", &LIMIT.as_secs().to_string(), "-timeout_error", "-trace_err", "-trace_msg"])
            .args(["-au", &field("auth_user"), "-ap", &field("password"), "-key", "user", &field("user")])
            .args(["-s", dials, "-auth_uri", &signs_for])
            .current_dir(folder.path())
            .env("TERM", "dumb")
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .expect("sipp starts");
        Sipp { child, folder, what: format!("{scenario} as {}", self.user()) }
    }
}

/// A scenario that is being played.
pub struct Sipp {
    child: Child,
    folder: TempDir,
    what: String,
}

impl Sipp {
    /// Waits until the scenario is over; it must have gone as written.
    pub fn succeeds(mut self) {
        let status = self.child.wait().expect("sipp");
        if status.success() {
            return;
        }
        let logs = fs::read_dir(self.folder.path())
            .expect("a folder")
            .flatten()
            .filter(|file| file.path().extension().is_some_and(|e| e == "log"));
        let logs: Vec<String> = logs.map(|file| fs::read_to_string(file.path()).unwrap_or_default()).collect();
        panic!("{} failed with {status}:\n{}", self.what, logs.join("\n"));
    }
}

impl Drop for Sipp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Three seconds of a tone, as SIPp's rtp_stream reads it: A-law bytes and nothing else.
fn alaw_tone(hz: f32) -> Vec<u8> {
    let samples: Vec<i16> = tap::tone(hz, 3).collect();
    let mut bytes = vec![0; samples.len()];
    let count = Encoder::new(Codec::Pcma).encode(&samples, &mut bytes);
    assert_eq!(count, bytes.len());
    bytes
}
