//! Audio over real sockets on loopback: peers that send and measure tones, through sessions of [`plugtone::media`].

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use plugtone::{
    media::{
        Clip, Codec, Command, Config, Error, Heard, Media, MediaEvent, PlaybackId, Remote, Session, SessionConfig, SessionId, Sound, bench,
        codec::{Decoder, Encoder},
    },
    rtp::{
        Key, Packet,
        telephone_event::{Outgoing, Sender},
    },
};
use tokio::sync::mpsc;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

type Events = mpsc::Receiver<(SessionId, MediaEvent)>;

/// Something with an RTP port: sends a sine, keeps what it hears.
struct Peer {
    socket: UdpSocket,
    codec: Codec,
    encoder: Encoder,
    decoder: Decoder,
    hz: f32,
    sent: u32,
    heard: Vec<i16>,
    packets: Vec<(u16, u32, u32)>,
}

impl Peer {
    fn new(codec: Codec, hz: f32) -> Self {
        let socket = UdpSocket::bind((LOOPBACK, 0)).expect("a port");
        socket.set_nonblocking(true).expect("a socket");
        Self {
            socket,
            codec,
            encoder: Encoder::new(codec),
            decoder: Decoder::new(codec),
            hz,
            sent: 0,
            heard: Vec::new(),
            packets: Vec::new(),
        }
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("bound")
    }

    fn send_frame(&mut self, to: SocketAddr) {
        let rate = self.codec.sample_rate() as f32;
        let first = self.sent as usize * self.codec.frame_samples();
        let samples: Vec<i16> = (first..first + self.codec.frame_samples())
            .map(|i| (8000.0 * (std::f32::consts::TAU * self.hz * i as f32 / rate).sin()) as i16)
            .collect();
        let mut payload = [0; 320];
        let length = self.encoder.encode(&samples, &mut payload);
        let packet = Packet {
            payload_type: self.codec.payload_type(),
            marker: self.sent == 0,
            sequence: 65_500u16.wrapping_add(self.sent as u16),
            timestamp: self.sent * 160,
            ssrc: 77,
            payload: &payload[..length],
        };
        let mut bytes = [0; 400];
        let length = packet.write(&mut bytes).expect("fits");
        self.socket.send_to(&bytes[..length], to).expect("loopback takes it");
        self.sent += 1;
    }

    fn hear(&mut self) {
        let mut bytes = [0; 1500];
        while let Ok((length, _)) = self.socket.recv_from(&mut bytes) {
            let packet = Packet::parse(&bytes[..length]).expect("RTP");
            assert_eq!(packet.payload_type, self.codec.payload_type());
            self.packets.push((packet.sequence, packet.timestamp, packet.ssrc));
            let mut samples = [0; 640];
            let count = self.decoder.decode(packet.payload, &mut samples);
            self.heard.extend_from_slice(&samples[..count]);
        }
    }

    /// Share of the energy of the last `count` samples that lies at a frequency, and the level in dBFS.
    fn measure(&self, hz: f32, count: usize) -> (f32, f32) {
        assert!(self.heard.len() >= count, "only {} samples heard", self.heard.len());
        let last = &self.heard[self.heard.len() - count..];
        let (mut re, mut im, mut all) = (0.0f64, 0.0, 0.0);
        for (i, sample) in last.iter().enumerate() {
            let angle = std::f64::consts::TAU * f64::from(hz) * i as f64 / f64::from(self.codec.sample_rate());
            re += f64::from(*sample) * angle.cos();
            im += f64::from(*sample) * angle.sin();
            all += f64::from(*sample).powi(2);
        }
        let n = count as f64;
        ((2.0 * (re * re + im * im) / n / all) as f32, (10.0 * (all / n / 32768.0f64.powi(2)).log10()) as f32)
    }
}

fn start(threads: usize) -> Media {
    Media::start(Config { threads, ..Config::default() }).expect("threads")
}

fn open(media: &Media) -> (Session, Events) {
    let (events, inbox) = mpsc::channel(64);
    (media.open(SessionConfig::new(LOOPBACK, events)).expect("a port"), inbox)
}

/// Real time in frames of 20 ms.
fn for_frames(count: u32, mut each: impl FnMut()) {
    let begin = Instant::now();
    for i in 0..count {
        each();
        std::thread::sleep((begin + Duration::from_millis(20) * (i + 1)).saturating_duration_since(Instant::now()));
    }
}

fn next(events: &mut Events) -> MediaEvent {
    let limit = Instant::now() + Duration::from_secs(5);
    loop {
        match events.try_recv() {
            Ok((_, event)) => return event,
            Err(_) => assert!(Instant::now() < limit, "no event within five seconds"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Two peers, their sessions bridged, each hears the other's tone at its level: on one thread and on two, and across codecs.
#[test]
fn a_bridge_carries_tones_both_ways() {
    for (threads, codecs) in [(1, (Codec::Pcmu, Codec::Pcmu)), (2, (Codec::Pcma, Codec::Pcma)), (2, (Codec::Pcmu, Codec::G722))] {
        let media = start(threads);
        let ((a, mut a_events), (b, _b_events)) = (open(&media), open(&media));
        let (mut alice, mut bob) = (Peer::new(codecs.0, 440.0), Peer::new(codecs.1, 1000.0));
        media.command(a.id, Command::SetRemote(Remote::new(alice.address(), codecs.0)));
        media.command(b.id, Command::SetRemote(Remote::new(bob.address(), codecs.1)));
        media.command(a.id, Command::Bridge(b.id));
        for_frames(60, || {
            alice.send_frame(a.local);
            bob.send_frame(b.local);
            alice.hear();
            bob.hear();
        });
        for (listener, hz) in [(&alice, 1000.0), (&bob, 440.0)] {
            let (share, dbfs) = listener.measure(hz, listener.codec.sample_rate() as usize / 2);
            // A sine of 8000 is at −15.3 dBFS.
            assert!(
                share > 0.98 && (dbfs + 15.26).abs() < 0.5,
                "{threads} threads, {codecs:?}, {hz} Hz: {share} of the energy, {dbfs} dBFS"
            );
            assert!(listener.packets.windows(2).all(|w| w[0].2 == w[1].2 && w[1].0 == w[0].0.wrapping_add(1)), "one stream, in order");
        }
        media.command(a.id, Command::Close);
        let MediaEvent::Stats(stats) = next(&mut a_events) else { panic!("the figures come last") };
        assert!(stats.packets_received >= 55 && stats.lost == 0 && stats.source == Some(alice.address()), "{stats:?}");
        media.shutdown();
    }
}

/// One speaks, several hear, each in its own sound format and on whatever thread; nobody hears them, and who leaves hears
/// no more.
#[test]
fn one_speaks_and_many_hear() {
    for threads in [1, 3] {
        let media = start(threads);
        let ((speaker, _said), mut alice) = (open(&media), Peer::new(Codec::Pcma, 440.0));
        media.command(speaker.id, Command::SetRemote(Remote::new(alice.address(), Codec::Pcma)));
        let mut listeners: Vec<_> = [Codec::Pcma, Codec::Pcmu, Codec::G722, Codec::Pcma]
            .into_iter()
            .map(|codec| {
                let ((session, events), peer) = (open(&media), Peer::new(codec, 1000.0));
                media.command(session.id, Command::SetRemote(Remote::new(peer.address(), codec)));
                media.command(session.id, Command::Overhear(speaker.id));
                (session, peer, events)
            })
            .collect();
        let mut speak = |listeners: &mut Vec<(Session, Peer, Events)>| {
            for_frames(40, || {
                alice.send_frame(speaker.local);
                alice.hear();
                for (session, peer, _) in listeners.iter_mut() {
                    peer.send_frame(session.local);
                    peer.hear();
                }
            });
            let own = alice.measure(1000.0, alice.heard.len().max(1));
            assert!(own.1 < -60.0, "{threads} threads: who speaks hears nobody: {own:?}");
        };
        speak(&mut listeners);
        for (_, peer, _) in &listeners {
            let (share, dbfs) = peer.measure(440.0, peer.codec.sample_rate() as usize / 3);
            assert!(share > 0.98 && (dbfs + 15.26).abs() < 0.5, "{threads} threads, {:?}: {share} of the energy, {dbfs} dBFS", peer.codec);
            assert!(peer.packets.windows(2).all(|w| w[0].2 == w[1].2 && w[1].0 == w[0].0.wrapping_add(1)), "one stream, in order");
        }
        // One leaves, one talks with another, the rest hears on.
        media.command(listeners[0].0.id, Command::Unbridge);
        media.command(listeners[3].0.id, Command::Bridge(listeners[0].0.id));
        speak(&mut listeners);
        let heard = |peer: &Peer, hz| peer.measure(hz, peer.codec.sample_rate() as usize / 3).0;
        assert!(heard(&listeners[0].1, 1000.0) > 0.98 && heard(&listeners[3].1, 1000.0) > 0.98, "{threads} threads: they talk");
        assert!(heard(&listeners[1].1, 440.0) > 0.98 && heard(&listeners[2].1, 440.0) > 0.98, "{threads} threads: they hear on");
        // The end of who speaks is the end for all.
        media.command(speaker.id, Command::Close);
        for_frames(30, || listeners.iter_mut().for_each(|(_, peer, _)| peer.hear()));
        assert!(listeners[1].1.measure(440.0, 1600).1 < -60.0 && listeners[2].1.measure(440.0, 3200).1 < -60.0);
        media.shutdown();
    }
}

/// A prompt comes through at its level, without gaps, and its end is told once; stopping is immediate.
#[test]
fn a_prompt_is_heard_and_its_end_is_told() {
    let media = start(1);
    let (session, mut events) = open(&media);
    let mut phone = Peer::new(Codec::Pcma, 0.0);
    media.command(session.id, Command::SetRemote(Remote::new(phone.address(), Codec::Pcma)));
    let tone: Vec<i16> = (0..22_050).map(|i| (12_000.0 * (std::f32::consts::TAU * 800.0 * i as f32 / 44_100.0).sin()) as i16).collect();
    let clip = Arc::new(Clip::new("tone", 44_100, &tone));
    media.command(session.id, Command::Play { playback: PlaybackId(1), clips: vec![clip.clone(), clip.clone()], repeat: false });
    for_frames(48, || phone.hear());
    let (share, dbfs) = phone.measure(800.0, 4000);
    assert!(share > 0.97 && (dbfs + 11.7).abs() < 0.5, "{share} of the energy, {dbfs} dBFS");
    assert_eq!(next(&mut events), MediaEvent::PlaybackEnded { playback: PlaybackId(1), interrupted: false });
    media.command(session.id, Command::Play { playback: PlaybackId(2), clips: vec![clip], repeat: true });
    for_frames(40, || phone.hear());
    media.command(session.id, Command::StopPlay);
    assert_eq!(next(&mut events), MediaEvent::PlaybackEnded { playback: PlaybackId(2), interrupted: true });
    for_frames(20, || phone.hear());
    assert!(phone.measure(800.0, 1600).1 < -60.0, "silence, and not nothing");
    media.shutdown();
}

/// A phone's keys reach the one who asked, however lossy the line, and a stranger's do not.
#[test]
fn keys_are_heard_once_and_only_from_the_phone() {
    let media = start(1);
    let (session, mut events) = open(&media);
    let mut phone = Peer::new(Codec::Pcmu, 300.0);
    let stranger = UdpSocket::bind((LOOPBACK, 0)).expect("a port");
    media.command(session.id, Command::SetRemote(Remote::new(phone.address(), Codec::Pcmu)));
    let mut keys = Sender::default();
    "1001#".chars().for_each(|key| assert!(keys.push(Key::from_char(key).expect("a key"))));
    for_frames(70, || {
        phone.send_frame(session.local);
        let timestamp = phone.sent * 160;
        let event = |event: Outgoing, ssrc, sequence| {
            let packet =
                Packet { payload_type: 101, marker: event.marker, sequence, timestamp: event.timestamp, ssrc, payload: &event.payload };
            let mut bytes = [0; 16];
            packet.write(&mut bytes).expect("fits");
            bytes
        };
        if let Some(outgoing) = keys.handle_tick(timestamp) {
            // Every third packet is lost, and the rest come twice.
            for _ in 0..if phone.sent.is_multiple_of(3) { 0 } else { 2 } {
                phone
                    .socket
                    .send_to(&event(outgoing, 77, 65_500u16.wrapping_add(phone.sent as u16)), session.local)
                    .expect("loopback takes it");
            }
        }
        let theirs = Outgoing { marker: true, timestamp, payload: [9, 0, 0, 160] };
        stranger.send_to(&event(theirs, 5, phone.sent as u16), session.local).expect("loopback takes it");
    });
    let mut pressed = String::new();
    while let Ok((_, event)) = events.try_recv() {
        if let MediaEvent::Key { key } = event {
            pressed.push(key.expose());
        }
    }
    assert_eq!(pressed, "1001#");
    media.shutdown();
}

/// A session tells what it hears when asked to: how the simulated phone knows that there is sound.
#[test]
fn a_session_tells_what_it_hears() {
    let media = start(1);
    let (session, mut events) = open(&media);
    let mut phone = Peer::new(Codec::G722, 620.0);
    media.command(session.id, Command::SetRemote(Remote::new(phone.address(), Codec::G722)));
    media.command(session.id, Command::Listen(true));
    for_frames(40, || phone.send_frame(session.local));
    loop {
        if let MediaEvent::Heard(Heard { sound: Sound::Tone { hz }, dbfs }) = next(&mut events) {
            assert!((hz - 620.0).abs() < 3.0 && (dbfs + 15.3).abs() < 1.0, "{hz} Hz at {dbfs} dBFS");
            break;
        }
    }
    media.shutdown();
}

/// Two hundred sessions speak at once, each with its own port, and everyone's stream is whole.
#[test]
fn two_hundred_sessions_speak_at_once() {
    let media = start(2);
    let (events, _inbox) = mpsc::channel(1024);
    let mut phones: Vec<(Peer, Session)> = (0..200)
        .map(|_| {
            let phone = Peer::new(Codec::Pcmu, 0.0);
            let session = media.open(SessionConfig::new(LOOPBACK, events.clone())).expect("a port");
            media.command(session.id, Command::SetRemote(Remote::new(phone.address(), Codec::Pcmu)));
            (phone, session)
        })
        .collect();
    for_frames(100, || phones.iter_mut().for_each(|(phone, _)| phone.hear()));
    for (phone, session) in &phones {
        // What a loaded machine makes late is left out, with its time; what is sent is one stream.
        assert!(phone.packets.len() > 20, "{}: {} packets", session.local, phone.packets.len());
        assert!(phone.packets.windows(2).all(|w| w[1].0 == w[0].0.wrapping_add(1)), "{}: a gap", session.local);
        let (first, last) = (phone.packets[0], phone.packets[phone.packets.len() - 1]);
        let spoken = last.1.wrapping_sub(first.1) / 160;
        assert!(spoken as usize >= phone.packets.len() - 1 && spoken < 200, "{}: {spoken} frames of time", session.local);
    }
    media.shutdown();
}

/// A range that is used up is an error that says what to widen; a closed session gives its ports back.
#[test]
fn used_up_ports_are_an_error_and_come_back() {
    // A range that is free: what the system gave a moment ago.
    let probe = UdpSocket::bind((LOOPBACK, 0)).expect("a port").local_addr().expect("bound").port();
    let first = probe.clamp(2000, 60_000) & !1;
    let media = Media::start(Config { ports: Some((first, first + 15)), ..Config::default() }).expect("threads");
    let (events, mut inbox) = mpsc::channel(64);
    let mut open = Vec::new();
    let fault = loop {
        match media.open(SessionConfig::new(LOOPBACK, events.clone())) {
            Ok(session) => open.push(session),
            Err(fault) => break fault,
        }
        assert!(open.len() <= 8, "eight pairs of ports");
    };
    assert!(matches!(fault, Error::PortsExhausted { .. }) && fault.to_string().contains("widen"), "{fault}");
    assert!(open.iter().all(|session| session.local.port() % 2 == 0));
    let freed = open.pop().expect("some were free");
    media.command(freed.id, Command::Close);
    assert!(matches!(next(&mut inbox), MediaEvent::Stats(_)));
    // The event leaves a moment before the sockets are closed.
    let limit = Instant::now() + Duration::from_secs(5);
    while media.open(SessionConfig::new(LOOPBACK, events.clone())).is_err() {
        assert!(Instant::now() < limit, "the port never came back");
        std::thread::sleep(Duration::from_millis(5));
    }
    media.shutdown();
}

/// The bench itself works; its figures count only in a release build on a quiet machine.
#[test]
fn the_bench_measures_something() {
    let figures = bench::relay(5, Duration::from_millis(400), (Codec::Pcmu, Codec::Pcmu)).expect("loopback");
    assert!(figures.relayed > 100 && figures.cpu > Duration::ZERO, "{figures}");
}
