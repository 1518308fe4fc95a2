//! Audio over real sockets on loopback: peers that send and measure tones, through sessions of [`plugtone::media`].

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use plugtone::{
    media::{
        Clip, Codec, Command, Config, Media, MediaEvent, PlaybackId, Remote, Session, SessionConfig, SessionId,
        codec::{Decoder, Encoder},
    },
    rtp::Packet,
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
