//! Sound that goes from phone to phone, past the server, with SIPp and baresip as the phones.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use plugtone::{
    call::Way,
    media::{self, Sound},
    model::Event,
};

use super::{
    call::{Bed, Sipp, free_port, is_bound_by_udp, mac, password, user_of},
    e2e::{baresip, tap},
    netns::Namespace,
    trunks::{BY_ADDRESS, Office},
};

/// Waits until the server's port that this phone was told of is nobody's any more.
async fn is_let_go(phone: &Sipp) {
    let until = Instant::now() + Duration::from_secs(10);
    let ours = || {
        let log = phone.log();
        let mut ports = log.split("m=audio ").skip(1).filter_map(|rest| rest.split(' ').next()?.parse::<u16>().ok());
        ports.find(|port| ![7000, 7002].contains(port))
    };
    while ours().is_none_or(is_bound_by_udp) {
        assert!(Instant::now() < until, "{:?} is still taken", ours());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Lets a caller go on that talks until it is told an INFO: whatever is looked at before, however slowly, is looked at while it talks.
async fn goes_on(phone: &Sipp, port: u16) {
    let until = Instant::now() + Duration::from_secs(10);
    // It must have got to where it waits: the re-INVITE that sends its sound elsewhere is acknowledged.
    let asked = loop {
        let log = phone.log();
        let (before, asked) = log.rsplit_once("\nINVITE sip:").expect("a re-INVITE");
        if !before.is_empty() && asked.contains("\nACK sip:") {
            break asked.to_string();
        }
        assert!(Instant::now() < until, "no ACK: {log}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let (head, _) = asked.split_once("\r\n\r\n").expect("headers");
    let lines = head.lines().filter(|line| !line.starts_with("Content-"));
    let lines = lines.map(|line| if line.starts_with("CSeq:") { line.replace("INVITE", "INFO") } else { line.to_string() });
    let info = format!("INFO sip:{}\r\nContent-Length: 0\r\n\r\n", lines.collect::<Vec<_>>().join("\r\n"));
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.send_to(info.as_bytes(), ("127.0.0.1", port)).expect("sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_goes_from_phone_to_phone_and_comes_back_for_music_on_hold() {
    let bed = Bed::with(|calls| calls.direct_media = true).await;
    let port = bed.registers(2).await;
    // Ports of theirs that nobody needs to hear on.
    let (callers, callees) = (["[media_port]", "7000"], ["[media_port]", "7002"]);
    let callee = bed.phone(2, port, "uas_direct.xml", "x", &[("CALLER", "2041"), (callees[0], callees[1]), ("OTHER", callers[1])]);
    let at = free_port();
    let caller = bed.phone(1, at, "uac_direct.xml", "2042", &[(callers[0], callers[1]), ("OTHER", callees[1])]);
    // What each was told of the server's ports is void while they talk.
    is_let_go(&callee).await;
    is_let_go(&caller).await;
    assert_eq!(bed.running.handle.list().await.len(), 1, "they talk");
    goes_on(&caller, at).await;
    caller.succeeds().await;
    callee.succeeds().await;
    bed.ended("caller hung up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_goes_from_phone_to_provider_where_its_trunk_lets_it() {
    let office = Office::start("options_secs: 0, direct_media: true, max_calls: 1", BY_ADDRESS).await;
    let callee = [("CALLER", ""), ("[media_port]", "7002"), ("OTHER", "7000")];
    let provider = office.bed.phone(1, office.first, "uas_direct.xml", "x", &callee);
    let (at, caller) = (free_port(), [("[media_port]", "7000"), ("OTHER", "7002")]);
    let caller = office.bed.phone(1, at, "uac_direct.xml", "001712345678", &caller);
    office.bed.tells(|event| matches!(event, Event::CallAnswered { .. })).await;
    is_let_go(&caller).await;
    // The call is still one of the trunk's, of which it may carry one.
    let calls = async || office.bed.running.handle.trunks().await[0].calls;
    assert_eq!(calls().await, 1);
    goes_on(&caller, at).await;
    caller.succeeds().await;
    provider.succeeds().await;
    office.bed.ended("caller hung up").await;
    assert_eq!(calls().await, 0);
}

/// The part of a scenario in which a phone is told that its sound goes to this port.
fn told_of(port: &str, variable: &str) -> String {
    let whole = std::fs::read_to_string("tests/sipp/uac_direct.xml").expect("the scenario");
    let (begin, end) = (whole.find("  <recv request=\"INVITE\">"), whole.find("  <recv request=\"ACK\"/>\n"));
    let part = &whole[begin.expect("an INVITE")..end.expect("an ACK") + "  <recv request=\"ACK\"/>\n".len()];
    part.replace("OTHER", port).replace("assign_to=\"there\"", &format!("assign_to=\"{variable}\""))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_transferred_talks_past_the_server_with_whoever_takes_the_call() {
    let bed = Bed::with(|calls| calls.direct_media = true).await;
    let (one, other) = (bed.registers(2).await, bed.registers(5).await);
    // Told of the first phone, held, told of the other that has the same port at its own place.
    let sent_on = [("CALLER", "2041"), ("[media_port]", "7002"), ("OTHER", "7000")];
    let sent_on = bed.phone(2, one, "uas_direct.xml", "x", &sent_on);
    let talks = format!("  <recv request=\"ACK\"/>\n{}  <pause milliseconds=\"300\"/>", told_of("7002", "there"));
    let takes = [
        ("CALLER", "2042"),
        ("  <recv request=\"ACK\"/>\n  <pause milliseconds=\"300\"/>", &*talks),
        ("variables=\"from\"", "variables=\"from,there\""),
        ("[media_port]", "7000"),
    ];
    let takes = bed.phone(5, other, "uas_bye.xml", "x", &takes);
    let holds = "  <pause milliseconds=\"200\"/>\n  <send retrans=\"500\"><![CDATA[\n\n    INVITE sip:server";
    let sends = format!("{}{holds}", told_of("7002", "there"));
    let sends = [
        ("TARGET", "2043@[remote_ip]"),
        (holds, &*sends),
        ("<Reference variables=\"", "<Reference variables=\"there,"),
        ("[media_port]", "7000"),
    ];
    bed.phone(1, free_port(), "uac_transfer.xml", "2042", &sends).succeeds().await;
    takes.succeeds().await;
    sent_on.succeeds().await;
    bed.ended("callee hung up").await;
}

/// Where the soft phones are, and the server.
const OFFICE: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);

/// Baresip, which we did not write, as a phone that says a tone, takes calls by itself and records what it hears.
struct Baresip {
    child: Child,
    folder: PathBuf,
}

impl Baresip {
    /// `does`: a command of its menu, once it is up.
    fn start(bed: &Bed, last: u8, hz: f32, does: Option<&str>) -> Self {
        let folder = bed.folder.path().join(format!("baresip-{last}"));
        std::fs::create_dir_all(folder.join("heard")).expect("a folder");
        baresip::write_tone(&folder.join("tone.wav"), hz);
        let (at, server) = (folder.display(), bed.running.udp[0]);
        // The jitter buffer of baresip 1.0 takes a new source whose numbers are lower for the old one, and its packets for late.
        let config = format!(
            "jitter_buffer_delay 0-0\nsip_listen {OFFICE}:0\nnet_interface office\naudio_source aufile,{at}/tone.wav\nausrc_srate 8000\nausrc_channels 1\n\
             module_path /usr/lib/baresip/modules\nmodule g711.so\nmodule aufile.so\nmodule sndfile.so\nsnd_path {at}/heard\n\
             module_tmp account.so\nmodule_app menu.so\n"
        );
        std::fs::write(folder.join("config"), config).expect("written");
        let login = format!("auth_user={}-1;auth_pass={}", mac(last).bare(), password(mac(last)));
        let account = format!("<sip:{}@{server}>;{login};regint=60;answermode=auto;audio_codecs=PCMA/8000/1\n", user_of(last));
        std::fs::write(folder.join("accounts"), account).expect("written");
        let log = std::fs::File::create(folder.join("log")).expect("a file");
        let mut command = Command::new("baresip");
        command.args(["-s", "-f", folder.to_str().unwrap()]).args(does.into_iter().flat_map(|does| ["-e", does]));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        let child = command.spawn().expect("cannot run baresip: install the Debian package baresip");
        Self { child, folder }
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.folder.join("log")).unwrap_or_default()).into_owned()
    }

    /// Has it recorded this tone?
    fn has_heard(&self, hz: f32) -> bool {
        let files = std::fs::read_dir(self.folder.join("heard")).expect("a folder").flatten().map(|entry| entry.path());
        let heard = files.filter(|path| path.display().to_string().ends_with("-dec.wav")).filter_map(|path| media::files::load(&path).ok());
        heard.map(|clip| tap::sounds(clip.samples(8000))).any(|sounds| tap::contains(&sounds, Sound::Tone { hz }))
    }
}

impl Drop for Baresip {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// In a network of its own: baresip sends no sound by loopback.
#[test]
fn two_soft_phones_hear_each_other_past_the_server() {
    let network = Namespace::new("direct");
    network.bridge("office", &format!("{OFFICE}/24"));
    let talk = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(two_soft_phones_talk());
    network.enter(talk).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

async fn two_soft_phones_talk() {
    let folder = tempfile::tempdir().expect("a folder");
    let bed = Bed::at(SocketAddr::new(OFFICE.into(), 0), folder, |calls| calls.direct_media = true).await;
    let bos = Baresip::start(&bed, 2, 660.0, None);
    bed.tells(|event| matches!(event, Event::Registered { user, .. } if user == "2042")).await;
    let adas = Baresip::start(&bed, 1, 440.0, Some("/dial 2042"));
    bed.tells(|event| matches!(event, Event::CallAnswered { .. })).await;
    // The port that Bo was offered first.
    let captured = bed.running.handle.captured().await;
    let invites = captured.iter().flat_map(|(_, messages)| messages).filter(|one| one.way == Way::Out && one.bytes.starts_with(b"INVITE"));
    let offer = String::from_utf8(invites.min_by_key(|one| one.at).expect("an INVITE").bytes.to_vec()).expect("text");
    let port: u16 = offer.split("m=audio ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).expect("a port");
    let until = Instant::now() + Duration::from_secs(10);
    while UdpSocket::bind((OFFICE, port)).is_err() {
        assert!(Instant::now() < until, "the server's ports are still taken");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Two seconds more, and what was recorded came from phone to phone.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let call = bed.running.handle.list().await.first().expect("they talk").call;
    assert!(bed.running.handle.hangup(call).await);
    let until = Instant::now() + Duration::from_secs(10);
    while !(bos.has_heard(440.0) && adas.has_heard(660.0)) {
        assert!(Instant::now() < until, "Bo has heard Ada: {}, and she him: {}", bos.has_heard(440.0), adas.has_heard(660.0));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
