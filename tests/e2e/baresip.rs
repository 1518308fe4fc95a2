//! A soft phone that is not ours: baresip, set up by hand from the file that the server renders for it, worked through its
//! control port. It speaks a tone, and records what it hears.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    path::PathBuf,
    time::Duration,
};

use plugtone::media::{Sound, files};
use serde_json::{Value, json};

use super::{PATIENCE, tap};
use crate::{
    dhcp::Client,
    netns::{Running, within},
};

/// From key to key, as a person presses them: to baresip a press is a few packets long, and the next one would cut it off.
const KEY_PAUSE: Duration = Duration::from_millis(250);

pub struct Baresip<'a> {
    pub client: &'a Client,
    control: TcpStream,
    /// Of the control connection, what is no whole message yet.
    bytes: Vec<u8>,
    /// Messages that nobody has waited for yet.
    inbox: Vec<Value>,
    _program: Running,
}

impl<'a> Baresip<'a> {
    /// Starts it with this `accounts` file. It says a tone of `hz`.
    pub fn start(client: &'a Client, account: &str, hz: f32) -> Self {
        let folder = client.path("baresip");
        let at = folder.display();
        fs::create_dir_all(folder.join("heard")).expect("a folder");
        fs::write(folder.join("accounts"), account).expect("written");
        write_tone(&folder.join("tone.wav"), hz);
        let config = format!(
            "sip_listen 0.0.0.0:5060\naudio_source aufile,{at}/tone.wav\nausrc_srate 8000\nausrc_channels 1\n\
             module_path /usr/lib/baresip/modules\nmodule g711.so\nmodule g722.so\nmodule aufile.so\nmodule sndfile.so\n\
             snd_path {at}/heard\nmodule_tmp account.so\nmodule_app menu.so\nmodule_app ctrl_tcp.so\nctrl_tcp_listen 127.0.0.1:4444\n"
        );
        fs::write(folder.join("config"), config).expect("written");
        let program = client.namespace.start("sh", &["-c", &format!("exec baresip -s -f {at} > {at}/log 2>&1")]);
        let connect = || TcpStream::connect("127.0.0.1:4444");
        let mut control = None;
        assert!(
            within(PATIENCE, || {
                control = client.namespace.enter(connect).join().expect("no panic").ok();
                control.is_some()
            }),
            "baresip has no control port"
        );
        let control = control.expect("connected");
        control.set_read_timeout(Some(Duration::from_millis(20))).expect("a socket");
        Self { client, control, bytes: Vec::new(), inbox: Vec::new(), _program: program }
    }

    /// A command of its menu, as `dial 2042`; it must be obeyed.
    pub fn order(&mut self, command: &str, parameter: &str) {
        let text = json!({ "command": command, "params": parameter, "token": command }).to_string();
        write!(self.control, "{}:{text},", text.len()).expect("baresip listens");
        let answer = self.message(command, |message| message["response"] == true && message["token"] == command);
        assert_eq!(answer["ok"], true, "{command} {parameter}: {answer}");
    }

    pub fn press(&mut self, keys: &str) {
        for key in keys.chars() {
            self.order("sndcode", &key.to_string());
            std::thread::sleep(KEY_PAUSE);
        }
    }

    /// Waits for an event of a call, as `CALL_ESTABLISHED`.
    pub fn until(&mut self, kind: &str) {
        self.message(kind, |message| message["type"] == kind);
    }

    fn message(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        let there = within(PATIENCE, || {
            self.receive();
            let place = self.inbox.iter().position(&wanted);
            found = place.map(|place| self.inbox.remove(place));
            found.is_some()
        });
        assert!(there, "baresip never told {what}, but {:?}", self.inbox);
        found.expect("found")
    }

    /// Takes in what has come: netstrings, `12:{"json":"…"},`.
    fn receive(&mut self) {
        let mut chunk = [0; 4096];
        match self.control.read(&mut chunk) {
            Ok(count) => self.bytes.extend_from_slice(&chunk[..count]),
            // Other tests have children, whose ends are signals to this process.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(error) => panic!("baresip's control port: {error}"),
        }
        while let Some(colon) = self.bytes.iter().position(|byte| *byte == b':') {
            let length: usize = String::from_utf8_lossy(&self.bytes[..colon]).parse().expect("a length");
            let (start, end) = (colon + 1, colon + 1 + length);
            if self.bytes.len() <= end {
                return;
            }
            self.inbox.push(serde_json::from_slice(&self.bytes[start..end]).expect("JSON"));
            self.bytes.drain(..=end);
        }
    }

    /// Waits until its own recording of the last call has this sound, and forgets the recording.
    pub fn has_recorded(&self, sound: Sound) {
        let mut heard = Vec::new();
        let there = within(PATIENCE, || {
            heard = self
                .recordings()
                .iter()
                .filter_map(|path| files::load(path).ok())
                .flat_map(|clip| tap::sounds(clip.samples(8000)))
                .collect();
            tap::contains(&heard, sound)
        });
        assert!(there, "baresip has not recorded {sound:?}, but {heard:?}");
        self.recordings().iter().for_each(|path| fs::remove_file(path).expect("removed"));
    }

    /// What it decoded; what it sent is beside it as `…-enc.wav`.
    fn recordings(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.client.path("baresip").join("heard")).expect("a folder");
        files.flatten().map(|file| file.path()).filter(|path| path.display().to_string().ends_with("-dec.wav")).collect()
    }

    /// Its log, with every SIP message.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.client.path("baresip").join("log")).unwrap_or_default()).into_owned()
    }
}

impl Drop for Baresip<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- baresip's last words\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}

/// Two minutes of a tone: more than any call here takes.
pub fn write_tone(path: &std::path::Path, hz: f32) {
    let spec = hound::WavSpec { channels: 1, sample_rate: 8000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut file = hound::WavWriter::create(path, spec).expect("a file");
    tap::tone(hz, 120).for_each(|sample| file.write_sample(sample).expect("space"));
    file.finalize().expect("space");
}
