//! The whole engine over more transports: a phone in a browser by WebSocket, SIPp by IPv6.

use std::process::Stdio;

use plugtone::{
    sip::{Transport, settings::Settings},
    tls::{Certificates, Source},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{ChildStdin, ChildStdout},
};

use super::*;

impl Bed {
    /// Listens by every transport on loopback, and shows a certificate of an authority of its own.
    async fn everywhere() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let certificates = Certificates::open(Source { folder: folder.path().join("tls"), ..Source::default() }).expect("made");
        let any = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        let [tls, ws, wss] = [(); 3].map(|()| any.clone());
        let mut sip = Settings { udp: any.clone(), tcp: any, tls, ws, wss, ..Settings::default() }.check().unwrap();
        sip.transports.identity = Some(certificates.tls());
        Self::listening(sip, folder, |_| {}).await
    }

    fn authority(&self) -> String {
        self.folder.path().join("tls/ca.pem").display().to_string()
    }

    async fn transports_of(&self, user: &str) -> Vec<Transport> {
        self.running.handle.contacts().await.iter().filter(|contact| contact.user == user).map(|contact| contact.flow.transport).collect()
    }
}

/// What a program says, line by line.
struct Peer {
    // Killed when dropped.
    _child: tokio::process::Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    heard: Vec<String>,
}

impl Peer {
    fn start(program: &str, args: &[&str], package: &str) -> Self {
        let mut child = tokio::process::Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {program}: {error}; install the Debian package {package}"));
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { _child: child, stdin, lines: BufReader::new(stdout).lines(), heard: Vec::new() }
    }

    /// Waits for a line with this word and returns it.
    async fn says(&mut self, word: &str) -> String {
        let waiting = async {
            loop {
                match self.lines.next_line().await.expect("text") {
                    Some(line) if line.contains(word) => return line,
                    Some(line) => self.heard.push(line),
                    None => panic!("it ended without '{word}': {:#?}", self.heard),
                }
            }
        };
        let found = timeout(Duration::from_secs(20), waiting).await;
        found.unwrap_or_else(|_| panic!("it never said '{word}': {:#?}", self.heard))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_in_a_browser_is_called_and_is_gone_with_its_page() {
    let bed = Bed::everywhere().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/browser.py");
    for (url, transport) in [
        (format!("wss://localhost:{}/", bed.running.wss[0].port()), Transport::Wss),
        (format!("ws://{}/", bed.running.ws[0]), Transport::Ws),
    ] {
        let (login, password) = (format!("{}-1", mac(2).bare()), password(mac(2)));
        let args = [script.to_str().unwrap(), &url, &bed.authority(), "2042", &login, &password];
        let mut browser = Peer::start("/usr/bin/python3", &args, "python3-websockets");
        // RFC 5626: its instance and its flow were understood.
        assert!(browser.says("registered").await.contains("outbound"));
        assert_eq!(bed.transports_of("2042").await, [transport]);
        let caller = bed.phone(1, free_port(), "uac_called_off.xml", "2042", &[]);
        assert!(browser.says("rings").await.contains("sip:2041@"));
        browser.says("talks").await;
        browser.stdin.write_all(b"bye\n").await.unwrap();
        browser.says("over").await;
        caller.succeeds().await;
        bed.ended("callee hung up").await;
        drop(browser);
        let gone = |event: &Event| matches!(event, Event::Unregistered { reason, .. } if reason.contains("connection"));
        bed.tells(gone).await;
        assert!(bed.transports_of("2042").await.is_empty());
        bed.events.lock().unwrap().clear();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn phones_register_and_talk_by_ipv6() {
    let folder = tempfile::tempdir().expect("a folder");
    let six = vec!["[::1]:0".parse().unwrap()];
    let sip = Settings { udp: six.clone(), tcp: six, ..Settings::default() }.check().unwrap();
    let bed = Bed::listening(sip, folder, |_| {}).await;
    let edits = [("IN IP4 [local_ip]", "IN IP6 ::1"), ("EXPECTED", "200"), ("PAUSE", "300"), ("CALLER", "2041")];
    for transport in ["u1", "t1"] {
        let port = free_port();
        bed.sipp(2, &password(mac(2)), port, "register.xml", "x", &edits, transport).succeeds().await;
        let contacts = bed.running.handle.contacts().await;
        assert!(contacts.len() == 1 && contacts[0].flow.peer.is_ipv6() && contacts[0].uri.contains("[::1]"), "{contacts:?}");
        let callee = bed.sipp(2, &password(mac(2)), port, "uas_answer.xml", "x", &edits, transport);
        let caller = bed.sipp(1, &password(mac(1)), free_port(), "uac_call.xml", "2042", &edits, transport);
        bed.tells(|event| matches!(event, Event::CallAnswered { to, .. } if to == "2042")).await;
        caller.succeeds().await;
        callee.succeeds().await;
        bed.ended("caller hung up").await;
        bed.events.lock().unwrap().clear();
    }
}
