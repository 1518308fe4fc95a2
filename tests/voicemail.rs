//! Voicemail, with SIPp's phones that speak, press keys and watch their lamps, sox that looks at what was recorded, and a mail
//! server that is not ours.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use plugtone::{
    binding::{Limits, MasterKey, ReloadSettings},
    call,
    directory::{
        Directory,
        files::{Files as Users, hash_pin},
    },
    ivr::{loader, settings::Settings as IvrSettings, worker::Ivr},
    media::{self, Clip, Codec, Media, MediaEvent, PlaybackId, SessionConfig, SessionId, codec::Encoder, listen::Sound},
    model::{
        Extension, Keys, Secret, Timestamp,
        event::{Event, Events},
    },
    provisioning::{
        Identities, Onboarding,
        onboarding::{Config as Onboards, ReloadMethod},
    },
    store::{Store, VoiceMessage},
    voicemail::{
        Settings, Voicemail,
        client::{Error as Unsent, Mailer},
        files::Files,
        settings::{Mail, Tls},
        worker::{Addresses, Neighbours},
    },
};
use tokio::{sync::mpsc, time::timeout};

use super::{
    call::{Bed, Sipp, free_port, named_port},
    ldap::certificates,
    netns::need,
};

/// Whoever keys this may hear the messages of 2041.
const NUMBER: &str = "9021077";
const PIN: &str = "73519428";
/// Debian's, which has the mail server.
const PYTHON: &str = "/usr/bin/python3";
const PATIENCE: Duration = Duration::from_secs(20);

/// Where events of this office go.
fn events(bed: &Bed) -> Events {
    let told = bed.events.clone();
    Events::new(move |event| told.lock().unwrap().push(event))
}

/// The voice of an office.
pub async fn voice(bed: &Bed, menu: &IvrSettings) -> Ivr {
    let limits = Limits {
        per_device: 3,
        per_user: 10,
        per_source: 30,
        pause_ms: 50,
        longest_pause_ms: 1000,
        lockout_ms: 600_000,
        forget_ms: 3_600_000,
    };
    let events = events(bed);
    let range = ("2001".parse::<Extension>().unwrap(), "2099".parse().unwrap());
    let config = Onboards { devices_per_extension: 1, extensions: range, reload: ReloadSettings::default(), limits };
    let methods = Arc::new(|_: Option<&str>, _: Option<&str>| ReloadMethod::default());
    let identities = Identities::new(MasterKey::new([7; 32]));
    let started = Onboarding::start(bed.store.clone(), identities, events.clone(), config, methods).await;
    let (onboarding, mut orders) = started.expect("starts");
    tokio::spawn(async move { while orders.recv().await.is_some() {} });
    let hash = hash_pin(&Keys::from(PIN)).expect("hashes");
    let users = format!("users: [{{ login: '{NUMBER}', display_name: Ada Lovelace, extension: '2041', pin_hash: '{hash}' }}]\n");
    let directory: Arc<dyn Directory> = Arc::new(Users::parse(&users, Path::new("users.yaml")).expect("users"));
    Ivr::new(menu, loader::load(menu).expect("prompts"), bed.media.clone(), onboarding, directory, events)
}

struct Office {
    bed: Bed,
    voicemail: Voicemail,
}

impl Office {
    async fn opens(change: impl FnOnce(&mut Settings)) -> Self {
        let mut bed = Bed::start().await;
        let inbox = std::mem::replace(&mut bed.voicemail, mpsc::channel(1).1);
        let events = events(&bed);
        let ivr = voice(&bed, &IvrSettings::default()).await;
        let mut settings = Settings { shortest_secs: 1, ..Settings::default() };
        change(&mut settings);
        let config = settings.check().expect("good settings").expect("switched on");
        // SIPp is patient for twenty seconds only.
        let rules = call::config::VoicemailRules { ring: Duration::from_secs(1), ..config.rules.clone() };
        let calls = call::Config { voicemail: Some(rules), ..call::Settings::default().check().unwrap() };
        bed.running.handle.reload(calls).await;
        let with = Neighbours {
            media: bed.media.clone(),
            tones: media::Country::Eu,
            ivr,
            store: bed.store.clone(),
            files: Files::open(bed.folder.path().join("voicemail")).expect("a folder"),
            calls: bed.running.handle.clone(),
            events,
            addresses: Addresses::default(),
        };
        let voicemail = Voicemail::start(config, with).await.expect("starts");
        let serving = voicemail.clone();
        tokio::spawn(async move { serving.serve(inbox).await });
        tokio::spawn(voicemail.clone().send_mails());
        Self { bed, voicemail }
    }

    /// SIPp calls and says a tone, from the greeting on, for so many seconds; then it hangs up.
    fn speaks(&self, last: u8, dials: &str, secs: u32) -> Sipp {
        let tone = self.bed.folder.path().join("tone.alaw");
        let samples: Vec<i16> = (0..24_000).map(|n| (9000.0 * (n as f32 * 660.0 * std::f32::consts::TAU / 8000.0).sin()) as i16).collect();
        let mut bytes = vec![0; samples.len()];
        Encoder::new(Codec::Pcma).encode(&samples, &mut bytes);
        std::fs::write(&tone, bytes).expect("written");
        let says =
            format!("<nop><action><exec rtp_stream=\"{},-1,8\"/></action></nop><pause milliseconds=\"{}\"/>", tone.display(), secs * 1000);
        let edits = [("<pause milliseconds=\"PAUSE\"/>", says.as_str()), ("[media_port]", "[rtpstream_audio_port]")];
        self.bed.phone(last, free_port(), "uac_call.xml", dials, &edits)
    }

    /// SIPp calls and presses keys as telephone-events, each time with so many seconds after it; then it hangs up.
    fn presses(&self, last: u8, dials: &str, presses: &[(&str, u32)]) -> Sipp {
        let one = |(keys, secs): &(&str, u32)| {
            format!("<nop><action><exec play_dtmf=\"{keys}\"/></action></nop><pause milliseconds=\"{}\"/>", secs * 1000)
        };
        let pressed = format!("<pause milliseconds=\"1000\"/>{}", presses.iter().map(one).collect::<String>());
        // SIPp's own payload type.
        let edits = [
            ("<pause milliseconds=\"PAUSE\"/>", pressed.as_str()),
            ("RTP/AVP 8 0 101", "RTP/AVP 8 0 96"),
            ("RTP/AVP 8 101", "RTP/AVP 8 96"),
            ("rtpmap:101", "rtpmap:96"),
            ("fmtp:101", "fmtp:96"),
        ];
        self.bed.phone(last, free_port(), "uac_call.xml", dials, &edits)
    }

    fn watches(&self, last: u8, whom: &str, first: &str, last_seen: &str) -> Sipp {
        let edits = [("PACKAGE", "message-summary"), ("FIRST", first), ("LAST", last_seen)];
        self.bed.phone(last, free_port(), "watch.xml", whom, &edits)
    }

    async fn until_left(&self, mailbox: &str) -> VoiceMessage {
        self.bed.tells(|event| matches!(event, Event::MessageLeft { mailbox: of, .. } if of == mailbox)).await;
        self.voicemail.messages(mailbox).await.expect("listed").pop().expect("a message")
    }

    async fn until_messages(&self, mailbox: &str, count: usize) {
        let until = Instant::now() + PATIENCE;
        while self.voicemail.messages(mailbox).await.expect("listed").len() != count {
            assert!(Instant::now() < until, "there are not {count} messages for {mailbox}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn is_told(&self, words: &str) {
        self.bed.tells(|event| matches!(event, Event::IvrPrompt { text, .. } if text.contains(words))).await;
    }

    /// Waits until somebody's words for this mailbox go to disk.
    async fn until_recording(&self, mailbox: &str) {
        let folder = self.bed.folder.path().join("voicemail").join(mailbox);
        let until = Instant::now() + PATIENCE;
        while !fs::read_dir(&folder).into_iter().flatten().flatten().any(|file| file.path().extension().is_some_and(|end| end == "part")) {
            assert!(Instant::now() < until, "nothing is recorded for {mailbox}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Three seconds of a tone, from the phone of 2041 to the mailbox of 2042.
    async fn is_left_a_message(&self) -> VoiceMessage {
        let caller = Talker::calls(self, 1, "*992042").await;
        self.is_told("after the tone").await;
        caller.presses("#");
        self.until_recording("2042").await;
        caller.leaves(440.0).await;
        self.until_left("2042").await
    }
}

/// Somebody on the phone. SIPp speaks SIP for him; mouth and ears are a media session of the test.
struct Talker {
    media: Media,
    session: SessionId,
    port: u16,
    hears: mpsc::Receiver<(SessionId, MediaEvent)>,
    sipp: Sipp,
}

impl Talker {
    /// `sipp` is given the port of his sound.
    fn new(sipp: impl FnOnce(&str) -> Sipp) -> Self {
        let media = Media::start(media::Config::default()).expect("media");
        let (told, hears) = mpsc::channel(1024);
        let session = media.open(SessionConfig::new(Ipv4Addr::LOCALHOST.into(), told)).expect("a session");
        let port = session.local.port();
        Self { media, session: session.id, port, hears, sipp: sipp(&port.to_string()) }
    }

    /// Calls, and is hung up on at the end.
    async fn calls(office: &Office, last: u8, dials: &str) -> Self {
        let caller = Self::new(|port| office.bed.phone(last, free_port(), "uac_called_off.xml", dials, &[("[media_port]", port)]));
        caller.is_connected().await;
        caller
    }

    async fn is_connected(&self) {
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, named_port(&self.sipp, self.port).await));
        self.media.command(self.session, media::Command::SetRemote(media::Remote::new(server, Codec::Pcma)));
        self.media.command(self.session, media::Command::Listen(true));
    }

    fn presses(&self, keys: &str) {
        self.media.command(self.session, media::Command::SendKeys(keys.into()));
    }

    fn plays(&self, hz: f32, repeat: bool) {
        let wave: Vec<i16> = (0..24_000).map(|n| (9000.0 * (n as f32 * hz * std::f32::consts::TAU / 8000.0).sin()) as i16).collect();
        let clips = vec![Arc::new(Clip::new("tone", 8000, &wave))];
        self.media.command(self.session, media::Command::Play { playback: PlaybackId(1), clips, repeat });
    }

    /// Three seconds of it.
    async fn says(&mut self, hz: f32) {
        self.plays(hz, false);
        self.until("the end", |event| matches!(event, MediaEvent::PlaybackEnded { .. })).await;
    }

    async fn hears(&mut self, hz: f32) {
        let tone = |event: &MediaEvent| matches!(event, MediaEvent::Heard(heard) if heard.sound.is_like(Sound::Tone { hz }));
        self.until(&format!("{hz} Hz"), tone).await;
    }

    async fn until(&mut self, what: &str, mut wanted: impl FnMut(&MediaEvent) -> bool) {
        let mut heard = Vec::new();
        let search = async {
            loop {
                let (_, event) = self.hears.recv().await.expect("an event");
                if wanted(&event) {
                    break;
                }
                heard.push(event);
            }
        };
        let found = timeout(PATIENCE, search).await;
        assert!(found.is_ok(), "{what} never comes; but {heard:?}");
    }

    /// Says it for three seconds and ends the message with `#`; then the server hangs up.
    async fn leaves(mut self, hz: f32) {
        self.says(hz).await;
        self.presses("#");
        self.sipp.succeeds().await;
    }
}

/// What sox finds in a recording: seconds, and the pitch of what is loudest.
fn by_sox(wav: &[u8]) -> (f32, f32) {
    need("sox", "sox");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("message.wav");
    std::fs::write(&file, wav).expect("written");
    let output = Command::new("sox").arg(&file).args(["-n", "stat"]).output().expect("sox runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let figure = |name: &str| {
        let line = text.lines().find(|line| line.split_whitespace().collect::<Vec<_>>().join(" ").starts_with(name));
        line.and_then(|line| line.split_whitespace().last()?.parse().ok()).unwrap_or_else(|| panic!("no {name}: {text}"))
    };
    (figure("Length (seconds)"), figure("Rough frequency"))
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_answered_leaves_a_message_that_lights_the_lamp_and_is_heard() {
    let office = Office::opens(|_| {}).await;
    let bed = &office.bed;
    let port = bed.registers(2).await;
    let lamp = office.watches(2, "2042", "Messages-Waiting: no", "Voice-Message: 1/0");
    bed.watched("2042").await;
    // It rings for a second; the greeting lasts some seconds more, then there is a tone, and ours is recorded.
    let rings = bed.phone(2, port, "uas_cancelled.xml", "x", &[("CALLER", "2041")]);
    let caller = office.speaks(1, "2042", 14);
    rings.succeeds().await;
    caller.succeeds().await;
    let message = office.until_left("2042").await;
    assert_eq!((message.from.as_str(), message.from_name.as_str(), message.heard), ("2041", "Ada", None));
    lamp.succeeds().await;
    let wav = office.voicemail.audio("2042", &message.id).await.expect("read").expect("there");
    let (secs, hz) = by_sox(&wav);
    assert!((1.0..12.0).contains(&secs) && (secs * 1000.0 - message.length_ms as f32).abs() < 50.0, "{secs} s, {message:?}");
    assert!((650.0..670.0).contains(&hz), "{hz} Hz");

    // Its owner dials, from his own phone, and hears the same tone. SIPp speaks SIP; the ear is a media session of the test.
    let ears = Media::start(media::Config::default()).expect("media");
    let (told, mut heard) = mpsc::channel(256);
    let ear = ears.open(SessionConfig::new(Ipv4Addr::LOCALHOST.into(), told)).expect("a session");
    let own = ear.local.port();
    let owner = bed.phone(2, free_port(), "uac_call.xml", "*97", &[("PAUSE", "9000"), ("[media_port]", &own.to_string())]);
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, named_port(&owner, own).await));
    ears.command(ear.id, media::Command::SetRemote(media::Remote::new(server, Codec::Pcma)));
    ears.command(ear.id, media::Command::Listen(true));
    let tone = async {
        loop {
            match heard.recv().await.expect("an event").1 {
                MediaEvent::Heard(heard) if heard.sound.is_like(Sound::Tone { hz: 660.0 }) => break,
                _ => {}
            }
        }
    };
    timeout(PATIENCE, tone).await.expect("the message is heard");
    owner.succeeds().await;

    // Keys as telephone-events: it is deleted, and the lamp goes out.
    let lamp = office.watches(2, "2042", "Voice-Message: ", "Voice-Message: 0/0");
    let owner = office.presses(2, "*97", &[("3", 2)]);
    office.until_messages("2042", 0).await;
    lamp.succeeds().await;
    owner.succeeds().await;
    assert!(office.voicemail.audio("2042", &message.id).await.expect("looked up").is_none());
    let left = std::fs::read_dir(bed.folder.path().join("voicemail/2042")).expect("a folder").count();
    assert_eq!(left, 0, "the recording is gone too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_is_reached_directly_is_opened_with_a_pin_and_can_be_full() {
    let office = Office::opens(|settings| settings.messages = 1).await;
    // 2041 has no phone at all.
    office.speaks(2, "*992041", 13).succeeds().await;
    let message = office.until_left("2041").await;
    assert_eq!((message.from.as_str(), message.mailbox.as_str()), ("2042", "2041"));
    // Another does not fit: the caller is told so, and nothing is kept.
    let refused = office.speaks(2, "2041", 3);
    office.is_told("no room for another message").await;
    refused.succeeds().await;
    // From anybody's phone, with number and PIN; a wrong PIN first.
    let wrong = office.presses(5, "*98", &[(&format!("{NUMBER}#0000#"), 9)]);
    office.is_told("is not right").await;
    wrong.succeeds().await;
    assert!(!office.bed.happened(|event| matches!(event, Event::IvrPrompt { text, .. } if text.contains("You have"))));
    let right = office.presses(5, "*98", &[(&format!("{NUMBER}#{PIN}#"), 11), ("2", 2)]);
    office.is_told("You have, 1 new message.").await;
    office.is_told("Saved.").await;
    right.succeeds().await;
    let messages = office.voicemail.messages("2041").await.expect("listed");
    assert!(messages.len() == 1 && messages[0].heard.is_some(), "{messages:?}");
    // What was keyed is nowhere.
    let told = format!("{:?}", office.bed.events.lock().unwrap());
    assert!(!told.contains(PIN), "a PIN was told");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_records_a_greeting_is_heard_by_the_next_caller() {
    let office = Office::opens(|_| {}).await;
    let mut owner = Talker::calls(&office, 2, "*97").await;
    office.is_told("To record your greeting, press nine.").await;
    owner.presses("9");
    office.until_recording("2042").await;
    owner.says(660.0).await;
    owner.presses("#");
    office.is_told("Your greeting has been saved.").await;
    let greeting = office.bed.folder.path().join("voicemail/2042/greeting.wav");
    let recorded = fs::read(&greeting).expect("it is on disk when it is said so");
    let (secs, hz) = by_sox(&recorded);
    assert!((2.5..6.0).contains(&secs) && (650.0..670.0).contains(&hz), "{secs} s of {hz} Hz");
    // Thinks better of it, and says nothing: the one before stays.
    owner.presses("9");
    office.until_recording("2042").await;
    owner.presses("#");
    office.is_told("Nothing was recorded.").await;
    owner.presses("*");
    owner.sipp.succeeds().await;
    assert_eq!(fs::read(&greeting).expect("still there"), recorded);

    let mut caller = Talker::calls(&office, 1, "*992042").await;
    caller.hears(660.0).await;
    office.until_recording("2042").await;
    caller.leaves(440.0).await;
    let message = office.until_left("2042").await;
    let (_, hz) = by_sox(&office.voicemail.audio("2042", &message.id).await.expect("read").expect("there"));
    assert!((430.0..450.0).contains(&hz), "what the caller said, not what he heard: {hz} Hz");
    let words = |event: &Event| matches!(event, Event::IvrPrompt { text, .. } if text.contains("The person at extension"));
    assert!(!office.bed.happened(words), "the office does not speak for him");
    // Others have the office's.
    let other = Talker::calls(&office, 2, "*992041").await;
    office.bed.tells(words).await;
    let calls = office.bed.running.handle.list().await;
    let his = calls.iter().find(|call| call.from == "2042").expect("his call");
    assert!(office.bed.running.handle.hangup(his.call).await);
    other.sipp.succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_calls_back_whoever_left_the_message_and_may_try_again() {
    let office = Office::opens(|_| {}).await;
    let bed = &office.bed;
    let left = office.is_left_a_message().await;
    let port = bed.registers(1).await;
    let mut owner = Talker::calls(&office, 2, "*97").await;
    office.is_told("You have, 1 new message.").await;
    // Nobody has time for him at first.
    let busy = bed.phone(1, port, "uas_refuse.xml", "x", &[("STATUS", "486 Busy Here"), ("CALLER", "2042")]);
    owner.presses("4");
    busy.succeeds().await;
    office.is_told("Nobody can take your call at the moment. To hear it again").await;
    let mut ada = Talker::new(|own| bed.phone(1, port, "uas_answer.xml", "x", &[("CALLER", "2042"), ("[media_port]", own)]));
    owner.presses("4");
    ada.is_connected().await;
    // SIPp takes the call a moment after it rings.
    bed.tells(|event| matches!(event, Event::CallAnswered { to, .. } if to == "2041")).await;
    owner.plays(520.0, true);
    ada.plays(700.0, true);
    ada.hears(520.0).await;
    owner.hears(700.0).await;
    let calls = bed.running.handle.list().await;
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert!(bed.running.handle.hangup(calls[0].call).await);
    owner.sipp.succeeds().await;
    ada.sipp.succeeds().await;
    let message = office.voicemail.message("2042", &left.id).await.expect("read").expect("it is still there");
    assert!(message.heard.is_some(), "whoever calls back knows of it");
}

/// The mails that came so far: each one's head, and its attachment.
fn mails(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let read = "import email, sys\nm = email.message_from_binary_file(open(sys.argv[1], 'rb'))\n\
                sys.stdout.buffer.write([p for p in m.walk() if p.get_filename()][0].get_payload(decode=True))";
    let new = std::fs::read_dir(folder.join("new")).into_iter().flatten().flatten();
    new.map(|entry| {
        let text = String::from_utf8_lossy(&std::fs::read(entry.path()).expect("read")).into_owned();
        let head = text.split("\n\n").next().unwrap_or_default().to_owned();
        let attached = Command::new(PYTHON).args(["-c", read]).arg(entry.path()).output().expect("python3 runs");
        (head, attached.stdout)
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_comes_by_mail_even_if_the_mail_server_is_away_at_first() {
    need("python3", "python3-aiosmtpd");
    // A port that nobody listens at, until the mail server does.
    let at = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port").local_addr().expect("bound");
    let mail = Mail {
        server: at.ip().to_string(),
        port: Some(at.port()),
        tls: Tls::None,
        from: "Voicemail <voicemail@example.com>".into(),
        addresses: [("2042".to_owned(), "bo@example.com".to_owned())].into(),
        ..Mail::default()
    };
    let office = Office::opens(|settings| settings.mail = Some(mail)).await;
    office.speaks(1, "*992042", 13).succeeds().await;
    let message = office.until_left("2042").await;
    let due = || office.bed.store.voice_mails(Timestamp(i64::MAX - 1), 10);
    let until = Instant::now() + PATIENCE;
    while due().await.expect("read").0.first().is_none_or(|mail| mail.tries == 0) {
        assert!(Instant::now() < until, "it is not tried, or was not kept");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let folder = office.bed.folder.path().join("mail");
    let mut server = Command::new(PYTHON)
        .args(["-m", "aiosmtpd", "-n", "-l", &at.to_string(), "-c", "aiosmtpd.handlers.Mailbox"])
        .arg(&folder)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("cannot run aiosmtpd: install the Debian package python3-aiosmtpd");
    let until = Instant::now() + PATIENCE;
    let came = loop {
        if let Some(mail) = mails(&folder).pop() {
            break mail;
        }
        assert!(Instant::now() < until, "no mail came");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let (head, attached) = came;
    assert!(head.contains("bo@example.com") && head.contains("Subject: Voice message from Ada (2041)"), "{head}");
    let wav = office.voicemail.audio("2042", &message.id).await.expect("read").expect("there");
    assert!(attached == wav, "{} bytes of {}", attached.len(), wav.len());
    let until = Instant::now() + PATIENCE;
    while !due().await.expect("read").0.is_empty() {
        assert!(Instant::now() < until, "it would be sent again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.kill().and_then(|()| server.wait()).expect("ended");
    assert_eq!(mails(&folder).len(), 1, "once");
}

/// A mail server that speaks TLS and wants a log-in. What its password is, may change.
struct MailServer {
    folder: tempfile::TempDir,
    child: Child,
    port: u16,
}

impl MailServer {
    fn starts(mode: &str) -> Self {
        need("python3", "python3-aiosmtpd");
        let folder = tempfile::tempdir().expect("a folder");
        certificates(folder.path());
        let at = |name: &str| folder.path().join(name);
        fs::write(at("password"), "sesame").expect("written");
        let mut child = Command::new(PYTHON)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/mail.py"))
            .arg(mode)
            .args([at("mail"), at("server.pem"), at("server.key"), at("password")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cannot run python3");
        let mut port = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut port).expect("it says its port");
        let port = port.trim().parse().expect("cannot run aiosmtpd: install the Debian package python3-aiosmtpd");
        Self { folder, child, port }
    }

    /// Settings with which it takes mails.
    fn mail(&self, tls: Tls) -> Mail {
        Mail {
            server: Ipv4Addr::LOCALHOST.to_string(),
            port: Some(self.port),
            tls,
            ca_file: Some(self.folder.path().join("ca.pem")),
            user: Some("plugtone".into()),
            password: Some(Secret::new("sesame")),
            from: "Voicemail <voicemail@example.com>".into(),
            addresses: [("2042".to_owned(), "bo@example.com".to_owned())].into(),
            ..Mail::default()
        }
    }

    fn mails(&self) -> Vec<(String, Vec<u8>)> {
        mails(&self.folder.path().join("mail"))
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_goes_out_by_tls_with_a_log_in_and_what_is_in_its_way_is_named() {
    let message = VoiceMessage { id: "7".into(), mailbox: "2042".into(), from: "2041".into(), ..VoiceMessage::default() };
    let send = async |mail: Mail| Mailer::new(&mail)?.send("bo@example.com", &message, b"RIFF\xff".to_vec()).await;
    for (mode, tls, other) in [("starttls", Tls::Starttls, Tls::Tls), ("tls", Tls::Tls, Tls::None)] {
        let server = MailServer::starts(mode);
        let good = || server.mail(tls);
        let file = |name: &str| Some(server.folder.path().join(name));
        for (story, mail, named) in [
            ("a wrong password", Mail { password: Some(Secret::new("open")), ..good() }, "`voicemail.mail.password`"),
            ("nobody logs in", Mail { user: None, password: None, ..good() }, "`voicemail.mail.user`"),
            ("the system does not know the authority", Mail { ca_file: None, ..good() }, "`voicemail.mail.ca_file`"),
            ("another authority", Mail { ca_file: file("other.pem"), ..good() }, "`voicemail.mail.ca_file`"),
            ("a name that is not in the certificate", Mail { server: "localhost".into(), ..good() }, "`voicemail.mail.server`"),
        ] {
            let fault = send(mail).await.expect_err(story);
            assert!(matches!(&fault, Unsent::Misfit(text) if text.contains(named)), "{mode}, {story}: {fault}");
            assert!(!fault.to_string().contains("open"), "a password was told: {fault}");
        }
        if mode == "starttls" {
            let fault = send(Mail { tls: other, ..good() }).await.expect_err("not TLS from the start");
            assert!(matches!(&fault, Unsent::Misfit(text) if text.contains("`voicemail.mail.tls`")), "{fault}");
            let fault = send(Mail { tls: Tls::None, ca_file: None, ..good() }).await.expect_err("a password in clear text");
            assert!(matches!(&fault, Unsent::Misfit(text) if text.contains("`voicemail.mail.")), "{fault}");
        }
        for (ca_file, reason) in [("nowhere.pem", "No such file"), ("password", "no PEM certificate")] {
            let fault = send(Mail { ca_file: file(ca_file), ..good() }).await.expect_err(reason);
            assert!(matches!(&fault, Unsent::Settings(text) if text.contains("ca_file") && text.contains(reason)), "{fault}");
        }
        assert!(server.mails().is_empty(), "{mode}");
        send(good()).await.unwrap_or_else(|fault| panic!("{mode}: {fault}"));
        let came = server.mails();
        assert_eq!(came.len(), 1, "{mode}");
        assert!(came[0].0.contains("bo@example.com") && came[0].1 == b"RIFF\xff", "{mode}: {came:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_waits_while_the_server_does_not_take_the_password() {
    let server = MailServer::starts("starttls");
    fs::write(server.folder.path().join("password"), "changed").expect("written");
    let office = Office::opens(|settings| settings.mail = Some(server.mail(Tls::Starttls))).await;
    let message = office.is_left_a_message().await;
    let due = || office.bed.store.voice_mails(Timestamp(i64::MAX - 1), 10);
    let until = Instant::now() + PATIENCE;
    while due().await.expect("read").0.first().is_none_or(|mail| mail.tries == 0) {
        assert!(Instant::now() < until, "it is not tried, or was not kept");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(server.mails().is_empty());
    // Some seconds later it is tried again, and now the server knows us.
    fs::write(server.folder.path().join("password"), "sesame").expect("written");
    let until = Instant::now() + PATIENCE;
    while !due().await.expect("read").0.is_empty() {
        assert!(Instant::now() < until, "it is not tried again, or not taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let wav = office.voicemail.audio("2042", &message.id).await.expect("read").expect("there");
    let came = server.mails();
    assert!(came.len() == 1 && came[0].1 == wav, "{} mails", came.len());
}
