//! One leg's audio: what is heard, what is said, and the numbers in between. No sockets, no clock, no thread.
//!
//! Driven by `worker.rs`: packets in by [`Core::handle_packet`], frames of the bridged session by [`Core::handle_frame`],
//! the 20 ms tick by [`Core::handle_timeout`]; drained by [`Core::poll_transmit`] and [`Core::poll_event`] after each. One
//! outgoing stream lasts for the whole session: its SSRC never changes and its timestamps follow the clock, whether a
//! prompt, keys, the bridged session or silence fills it, in this order of precedence.
//!
//! In the steady state nothing is allocated.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

pub use super::outbox::{Channel, Transmit};
use super::{
    Codec, Command, MediaEvent, Remote, Stats,
    codec::Encoder,
    ear::Ear,
    goertzel::Detector,
    listen::Listener,
    outbox::Outbox,
    playback::{KeyTones, Playback},
    presses::{Presses, Way},
    recorder::Recorder,
    relay::Renumber,
    source::Source,
    transcode::{Level, Transcoder},
};
use crate::rtp::{Key, Packet, Reception, packet, rtcp, telephone_event};

/// One frame, and the time between two ticks.
pub const TICK: Duration = Duration::from_millis(20);
/// A frame in timestamp units: 8 kHz for every codec that we speak.
const TICK_UNITS: u32 = 160;
/// The longest payload that is taken: 80 ms of G.711.
pub const MAX_PAYLOAD: usize = 640;
/// Room for a packet.
pub const MAX_PACKET: usize = packet::HEADER + MAX_PAYLOAD;
/// A worker that is later than this does not send what it missed: the phone would only drop it.
const MAX_CATCH_UP: Duration = Duration::from_millis(100);
/// How long the bridged session may give nothing before silence is sent instead.
const RELAY_GAP: Duration = Duration::from_millis(200);
/// While the bridged session gives nothing (its phone is muted, or sends no silence), a packet of silence goes out so often: enough for
/// NAT on the way and for phones that hang up where they hear nothing at all (RFC 6263), and a fiftieth of the work.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// Events that wait to be polled; the worker polls after each call, so that a few suffice.
const MAX_EVENTS: usize = 64;

/// What the worker decides for a session.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Random: of the outgoing stream (RFC 3550 §5.1).
    pub ssrc: u32,
    pub sequence: u16,
    pub timestamp: u32,
    pub silence: Option<Duration>,
    pub inband_dtmf: bool,
}

/// What one session hands to the one that it is bridged to, and to those that overhear it: a packet without its header.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub kind: FrameKind,
    pub ssrc: u32,
    pub sequence: u16,
    pub timestamp: u32,
    pub marker: bool,
    pub payload: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    Audio(Codec),
    /// A telephone-event.
    Event,
}

/// The core of a session.
pub struct Core {
    config: CoreConfig,
    remote: Option<Remote>,
    source: Source,
    reception: Reception,
    /// When a packet last came; before that, since when one was due.
    heard: Instant,
    silence_told: bool,
    ignored: u64,
    level: Level,
    ear: Option<Box<Ear>>,

    bridged: bool,
    /// When silence was last sent for the bridged session.
    alive: Option<Instant>,
    blind: bool,
    relay: Option<Renumber>,
    transcoder: Option<Transcoder>,

    playback: Option<Playback>,
    keys: VecDeque<Key>,
    key_events: telephone_event::Sender,
    key_tones: KeyTones,
    encoder: Encoder,
    out: Stream,
    next_tick: Instant,
    /// When the next RTCP report is due, and where the far end's come from.
    next_report: Instant,
    rtcp_source: Option<SocketAddr>,
    epoch: Instant,

    key_receiver: telephone_event::Receiver,
    /// Presses of the bridged session, to be turned into tones for a far end that knows no telephone-events.
    relayed_keys: telephone_event::Receiver,
    presses: Presses,

    outbox: Outbox,
    events: VecDeque<MediaEvent>,
}

/// Where the outgoing stream stands.
struct Stream {
    next_sequence: u16,
    /// Timestamp of the next tick.
    clock: u32,
    /// Timestamp of the newest packet sent.
    newest: u32,
    /// The next packet begins a talk spurt.
    marker: bool,
    packets: u64,
    octets: u64,
}

impl Core {
    pub fn new(now: Instant, config: CoreConfig) -> Self {
        let out = Stream {
            next_sequence: config.sequence,
            clock: config.timestamp,
            newest: config.timestamp.wrapping_sub(TICK_UNITS),
            marker: true,
            packets: 0,
            octets: 0,
        };
        Self {
            config,
            remote: None,
            source: Source::default(),
            reception: Reception::default(),
            heard: now,
            silence_told: false,
            ignored: 0,
            level: Level::default(),
            ear: None,
            bridged: false,
            alive: None,
            blind: false,
            relay: None,
            transcoder: None,
            playback: None,
            keys: VecDeque::with_capacity(telephone_event::QUEUE),
            key_events: telephone_event::Sender::default(),
            key_tones: KeyTones::default(),
            encoder: Encoder::new(Codec::Pcmu),
            out,
            next_tick: now + TICK,
            next_report: now + rtcp::INTERVAL,
            rtcp_source: None,
            epoch: now,
            key_receiver: telephone_event::Receiver::default(),
            relayed_keys: telephone_event::Receiver::default(),
            presses: Presses::default(),
            outbox: Outbox::default(),
            events: VecDeque::with_capacity(MAX_EVENTS),
        }
    }

    /// Does what it was told. Who is joined with whom, `TellTo` and `Close` concern the worker, which calls [`Self::set_bridged`].
    pub fn handle_command(&mut self, now: Instant, command: Command) {
        match command {
            Command::SetRemote(remote) => self.set_remote(now, remote),
            Command::Play { playback, clips, repeat } => {
                self.stop_play();
                self.playback = Some(Playback::new(playback, clips, repeat));
            }
            Command::StopPlay => self.stop_play(),
            Command::SendKeys(keys) => {
                let room = telephone_event::QUEUE.saturating_sub(self.keys.len());
                self.keys.extend(keys.expose().chars().filter_map(Key::from_char).take(room));
            }
            Command::DetectInband(on) => {
                let on = on && self.config.inband_dtmf;
                self.change_ear(on, |ear| ear.detector = on.then(Detector::default));
            }
            Command::Listen(on) => self.change_ear(on, |ear| ear.listener = on.then(Listener::default)),
            Command::Record(to) => self.change_ear(to.is_some(), |ear| ear.recorder = to.map(Recorder::new)),
            Command::Key(key) => self.note_key(now, key, Way::Signalling),
            Command::Blind(blind) => self.blind = blind,
            Command::Bridge(_) | Command::Overhear(_) | Command::Unbridge | Command::TellTo(_) | Command::Close => {}
        }
    }

    fn set_remote(&mut self, now: Instant, remote: Remote) {
        self.source.signalled(remote.addr);
        if self.encoder.codec() != remote.codec {
            self.encoder = Encoder::new(remote.codec);
            self.transcoder = None;
        }
        // What follows is a new talk spurt, and silence is counted from here on.
        self.out.marker = true;
        self.relay = None;
        self.remote = Some(remote);
        (self.heard, self.silence_told) = (now, false);
    }

    /// Whether frames of another session come in, and ours go there.
    pub fn set_bridged(&mut self, bridged: bool) {
        self.bridged = bridged;
        (self.relay, self.alive) = (None, None);
        self.relayed_keys = telephone_event::Receiver::default();
    }

    /// Makes the ear that `change` needs, and throws away one that nobody needs any more.
    fn change_ear(&mut self, needed: bool, change: impl FnOnce(&mut Ear)) {
        if needed && self.ear.is_none() {
            self.ear = Some(Box::default());
        }
        if let Some(ear) = &mut self.ear {
            change(ear);
            if ear.detector.is_none() && ear.listener.is_none() && ear.recorder.is_none() {
                self.ear = None;
            }
        }
    }

    /// Hears what this tick has to hear.
    fn hear(&mut self, now: Instant) {
        let Some(ear) = &mut self.ear else { return };
        ear.handle_tick();
        while let Some(key) = self.ear.as_mut().and_then(|ear| ear.poll_key()) {
            self.note_key(now, key, Way::Inband);
        }
        while let Some(heard) = self.ear.as_mut().and_then(|ear| ear.poll_heard()) {
            self.tell(MediaEvent::Heard(heard));
        }
    }

    fn stop_play(&mut self) {
        if let Some(playback) = self.playback.take() {
            self.tell(MediaEvent::PlaybackEnded { playback: playback.id, interrupted: true });
        }
    }

    /// Takes a datagram of the RTP port. Gives the frame that the bridged session shall get.
    pub fn handle_packet<'a>(&mut self, now: Instant, from: SocketAddr, bytes: &'a [u8]) -> Option<Frame<'a>> {
        let packet = Packet::parse(bytes).ok().filter(|packet| packet.payload.len() <= MAX_PAYLOAD);
        let (Some(packet), Some(remote)) = (packet, self.remote) else {
            self.ignored += 1;
            return None;
        };
        let kind = if remote.dtmf_payload_type == Some(packet.payload_type) || remote.dtmf_receive_type == Some(packet.payload_type) {
            Some(FrameKind::Event)
        } else {
            Codec::of_payload_type(packet.payload_type).map(FrameKind::Audio)
        };
        if !self.source.accept(now, from, packet.ssrc, packet.sequence) {
            self.ignored += 1;
            return None;
        }
        self.reception.handle_packet(now, packet.ssrc, packet.sequence, packet.timestamp);
        (self.heard, self.silence_told) = (now, false);
        // Comfort noise (RFC 3389) and whatever else was not agreed on: taken note of, not passed on.
        let Some(kind) = kind else {
            self.ignored += 1;
            return None;
        };
        if let Some(ear) = &mut self.ear {
            ear.handle_packet(now, &packet);
        }
        match kind {
            FrameKind::Event => {
                if let Some(key) = self.key_receiver.handle_packet(packet.ssrc, packet.timestamp, packet.payload) {
                    self.note_key(now, key, Way::Event);
                }
            }
            FrameKind::Audio(codec) => self.level.handle(codec, packet.payload),
        }
        // Keys that are heard by their sound must not be heard by others either.
        let hidden = self.blind && (kind == FrameKind::Event || self.ear.as_ref().is_some_and(|ear| ear.detector.is_some()));
        let Packet { ssrc, sequence, timestamp, marker, payload, .. } = packet;
        (self.bridged && remote.direction.receives() && !hidden).then_some(Frame { kind, ssrc, sequence, timestamp, marker, payload })
    }

    /// Takes a datagram of the RTCP port, or RTCP that came on the RTP port.
    pub fn handle_rtcp(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        let believed = self.source.locked().or(self.source.destination()).is_some_and(|source| source.ip() == from.ip());
        match rtcp::parse(bytes) {
            Ok(report) if believed => {
                self.rtcp_source = Some(from);
                if let Some(report) = report {
                    self.reception.handle_sender_report(now, report.ssrc, report.ntp_middle);
                }
            }
            _ => self.ignored += 1,
        }
    }

    /// Reports every five seconds what was sent and received.
    fn report(&mut self, now: Instant) {
        if now < self.next_report {
            return;
        }
        self.next_report = now + rtcp::INTERVAL;
        let (Some(remote), Some(rtp)) = (self.remote, self.source.destination()) else { return };
        let above = SocketAddr::new(rtp.ip(), rtp.port().saturating_add(1));
        let to = self.rtcp_source.filter(|source| source.ip() == rtp.ip()).or(remote.rtcp).unwrap_or(above);
        let since = now.saturating_duration_since(self.epoch);
        let ntp = (since.as_secs() << 32) | ((u64::from(since.subsec_nanos()) << 32) / 1_000_000_000);
        let (timestamp, packets, octets) = (self.out.timestamp(), self.out.packets as u32, self.out.octets as u32);
        let sender = (packets > 0).then_some(rtcp::SenderInfo { ntp, timestamp, packets, octets });
        let block = self.reception.report(now);
        let ssrc = self.config.ssrc;
        self.outbox.push(Channel::Rtcp, to, |bytes| rtcp::write(bytes, ssrc, sender, block));
    }

    fn note_key(&mut self, now: Instant, key: Key, way: Way) {
        if self.presses.is_new(now, key, way) {
            self.tell(MediaEvent::Key { key });
        }
    }

    /// Takes a frame of the bridged session and sends it on, in this leg's codec and numbers.
    pub fn handle_frame(&mut self, now: Instant, frame: &Frame<'_>) {
        let Some(remote) = self.remote.filter(|remote| self.bridged && remote.direction.sends()) else { return };
        if let (FrameKind::Event, None) = (frame.kind, remote.dtmf_payload_type) {
            if let Some(key) = self.relayed_keys.handle_packet(frame.ssrc, frame.timestamp, frame.payload) {
                self.keys.push_back(key);
                self.keys.truncate(telephone_event::QUEUE);
            }
            return;
        }
        if self.speaks_itself() {
            return;
        }
        let Some((sequence, timestamp)) = self.renumber(now, frame) else { return };
        let marker = std::mem::take(&mut self.out.marker) || frame.marker;
        let mut buffer = [0; MAX_PAYLOAD];
        let (payload_type, payload) = match frame.kind {
            FrameKind::Event => (remote.dtmf_payload_type.unwrap_or(101), frame.payload),
            FrameKind::Audio(codec) if codec == remote.codec => (codec.payload_type(), frame.payload),
            FrameKind::Audio(codec) => {
                let transcoder = match self.transcoder.take() {
                    Some(fits) if fits.decoder.codec() == codec => fits,
                    _ => Transcoder::new(codec),
                };
                let transcoder = self.transcoder.insert(transcoder);
                let length = transcoder.run(frame.payload, &mut self.encoder, &mut buffer);
                (remote.codec.payload_type(), buffer.get(..length).unwrap_or_default())
            }
        };
        if (timestamp.wrapping_sub(self.out.newest) as i32) > 0 {
            self.out.newest = timestamp;
        }
        self.send(Packet { payload_type, marker, sequence, timestamp, ssrc: self.config.ssrc, payload });
    }

    /// Whether something of our own has precedence over the bridged session.
    fn speaks_itself(&self) -> bool {
        self.playback.is_some() || !self.keys.is_empty() || !self.key_events.is_idle() || !self.key_tones.is_idle()
    }

    fn renumber(&mut self, now: Instant, frame: &Frame<'_>) -> Option<(u16, u32)> {
        let follows = self.relay.as_ref().is_some_and(|relay| relay.follows(frame));
        if !follows {
            let timestamp = self.out.timestamp();
            self.relay = Some(Renumber::anchor(now, frame, self.out.next_sequence, timestamp));
            self.out.marker = true;
        }
        let relay = self.relay.as_mut()?;
        let numbers = relay.map(now, frame);
        self.out.next_sequence = relay.highest_out().wrapping_add(1);
        numbers
    }

    /// Time has passed; call at [`Self::poll_timeout`], and again until that lies ahead.
    pub fn handle_timeout(&mut self, now: Instant) {
        let late = now.saturating_duration_since(self.next_tick);
        if now < self.next_tick {
            return;
        }
        if late > MAX_CATCH_UP {
            let missed = (late.as_micros() / TICK.as_micros()) as u32;
            self.next_tick += TICK * missed;
            self.out.clock = self.out.clock.wrapping_add(TICK_UNITS.wrapping_mul(missed));
        }
        self.next_tick += TICK;
        self.watch_silence(now);
        self.hear(now);
        self.speak(now);
        self.report(now);
        self.out.clock = self.out.clock.wrapping_add(TICK_UNITS);
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Instant {
        self.next_tick
    }

    fn watch_silence(&mut self, now: Instant) {
        let due = self.remote.is_some_and(|remote| remote.direction.receives());
        let Some(limit) = self.config.silence.filter(|_| due && !self.silence_told) else { return };
        if now.saturating_duration_since(self.heard) >= limit {
            self.silence_told = true;
            self.tell(MediaEvent::Silent { since: self.heard });
        }
    }

    /// Says what this tick has to say: keys, else a prompt, else what the bridged session gave, else silence.
    fn speak(&mut self, now: Instant) {
        let Some(remote) = self.remote.filter(|remote| remote.direction.sends()) else { return };
        if self.source.destination().is_none() {
            return;
        }
        let mut samples = [0i16; 320];
        let samples = samples.get_mut(..remote.codec.frame_samples()).unwrap_or_default();
        if let Some(payload_type) = remote.dtmf_payload_type {
            while self.keys.front().is_some_and(|key| self.key_events.push(*key)) {
                self.keys.pop_front();
            }
            let timestamp = self.out.timestamp();
            let busy = !self.key_events.is_idle();
            if let Some(event) = self.key_events.handle_tick(timestamp) {
                self.out.marker |= event.marker;
                self.say(payload_type, event.timestamp, &event.payload);
                return;
            }
            if busy {
                self.say_samples(remote.codec, samples);
                return;
            }
        } else if self.key_tones.fill(&mut self.keys, remote.codec.sample_rate(), samples) {
            self.say_samples(remote.codec, samples);
            return;
        }
        if let Some(playback) = &mut self.playback {
            let ended = playback.fill(remote.codec.sample_rate(), samples);
            let id = playback.id;
            self.say_samples(remote.codec, samples);
            if ended {
                self.playback = None;
                self.tell(MediaEvent::PlaybackEnded { playback: id, interrupted: false });
            }
            return;
        }
        if self.bridged {
            if self.relay.as_ref().is_some_and(|relay| now.saturating_duration_since(relay.last_at) < RELAY_GAP)
                || self.alive.is_some_and(|at| now.saturating_duration_since(at) < SIGN_OF_LIFE)
            {
                return;
            }
            (self.alive, self.out.marker) = (Some(now), true);
        }
        self.say_samples(remote.codec, samples);
    }

    fn say_samples(&mut self, codec: Codec, samples: &[i16]) {
        let mut buffer = [0; 320];
        let length = self.encoder.encode(samples, &mut buffer);
        let timestamp = self.out.timestamp();
        self.say(codec.payload_type(), timestamp, buffer.get(..length).unwrap_or_default());
    }

    /// Sends a packet of our own, next in the stream.
    fn say(&mut self, payload_type: u8, timestamp: u32, payload: &[u8]) {
        self.relay = None;
        let sequence = self.out.next_sequence;
        self.out.next_sequence = sequence.wrapping_add(1);
        // A key press keeps its first timestamp; time goes on for what follows.
        let newest = self.out.timestamp();
        (self.out.newest, self.out.clock) = (newest, newest);
        let marker = std::mem::take(&mut self.out.marker);
        self.send(Packet { payload_type, marker, sequence, timestamp, ssrc: self.config.ssrc, payload });
    }

    fn send(&mut self, packet: Packet<'_>) {
        let Some(to) = self.source.destination() else { return };
        self.out.packets += 1;
        self.out.octets += packet.payload.len() as u64;
        self.outbox.push(Channel::Rtp, to, |bytes| packet.write(bytes));
    }

    fn tell(&mut self, event: MediaEvent) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        }
    }

    /// The next datagram to send. Drain to `None` after every `handle_*`.
    pub fn poll_transmit(&mut self) -> Option<Transmit<'_>> {
        self.outbox.pop()
    }

    /// The next thing that happened. Drain to `None` after every `handle_*`.
    pub fn poll_event(&mut self) -> Option<MediaEvent> {
        self.events.pop_front()
    }

    /// The figures until now.
    pub fn stats(&self) -> Stats {
        Stats {
            packets_received: self.reception.packets,
            packets_sent: self.out.packets,
            lost: self.reception.lost(),
            ignored: self.ignored,
            jitter: self.reception.jitter(),
            rms_dbfs: self.level.dbfs,
            sound: self.ear.as_ref().and_then(|ear| ear.current()),
            source: self.source.locked(),
        }
    }
}

impl Stream {
    /// Timestamp for what is sent in this tick: never before what was sent, however fast the bridged phone's clock runs.
    fn timestamp(&self) -> u32 {
        let after = self.newest.wrapping_add(TICK_UNITS);
        if (after.wrapping_sub(self.clock) as i32) > 0 && after.wrapping_sub(self.clock) < 8_000 { after } else { self.clock }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Clip, Direction, Heard, PlaybackId, Sound, codec::Decoder, goertzel::Detector},
        *,
    };
    use std::sync::Arc;

    use crate::model::Keys;

    const PHONE: &str = "192.0.2.1:4000";
    const OTHER: &str = "192.0.2.2:5000";
    const THIEF: &str = "203.0.113.66:4000";

    /// A packet as it left.
    #[derive(Clone, Debug, PartialEq)]
    struct Sent {
        payload_type: u8,
        marker: bool,
        sequence: u16,
        timestamp: u32,
        ssrc: u32,
        payload: Vec<u8>,
    }

    /// A session in virtual time, and a phone that sends to it.
    struct Leg {
        core: Core,
        now: Instant,
        phone: SocketAddr,
        codec: Codec,
        encoder: Encoder,
        ticks: u32,
        sequence: u16,
        sent: Vec<Sent>,
        reports: usize,
        events: Vec<MediaEvent>,
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    impl Leg {
        fn new(now: Instant, phone: &str, codec: Codec) -> Self {
            let config = CoreConfig {
                ssrc: 0xabcd,
                sequence: 65_530,
                timestamp: 0u32.wrapping_sub(1000),
                silence: Some(Duration::from_secs(10)),
                inband_dtmf: true,
            };
            let mut leg = Self {
                core: Core::new(now, config),
                now,
                phone: address(phone),
                codec,
                encoder: Encoder::new(codec),
                ticks: 0,
                sequence: 65_500,
                sent: Vec::new(),
                reports: 0,
                events: Vec::new(),
            };
            leg.tell(Command::SetRemote(Remote::new(leg.phone, codec)));
            leg
        }

        fn tell(&mut self, command: Command) {
            self.core.handle_command(self.now, command);
            self.drain();
        }

        fn drain(&mut self) {
            while let Some(transmit) = self.core.poll_transmit() {
                if transmit.channel == Channel::Rtcp {
                    self.reports += 1;
                    continue;
                }
                let Packet { payload_type, marker, sequence, timestamp, ssrc, payload } = Packet::parse(transmit.bytes).expect("RTP");
                self.sent.push(Sent { payload_type, marker, sequence, timestamp, ssrc, payload: payload.to_vec() });
            }
            self.events.extend(std::iter::from_fn(|| self.core.poll_event()));
        }

        /// 20 ms pass.
        fn tick(&mut self) {
            self.now += TICK;
            self.ticks += 1;
            self.core.handle_timeout(self.now);
            self.drain();
        }

        fn ticks(&mut self, count: u32) {
            (0..count).for_each(|_| self.tick());
        }

        /// The phone sends bytes; what its partner gets goes to `to`.
        fn hear(&mut self, from: &str, payload_type: u8, timestamp: u32, payload: &[u8], to: Option<&mut Leg>) {
            let packet = Packet { payload_type, marker: false, sequence: self.sequence, timestamp, ssrc: 77, payload };
            self.sequence = self.sequence.wrapping_add(1);
            let mut bytes = [0; MAX_PACKET];
            let length = packet.write(&mut bytes).expect("fits");
            let frame = self.core.handle_packet(self.now, address(from), &bytes[..length]);
            if let (Some(to), Some(frame)) = (to, frame) {
                to.core.handle_frame(to.now, &frame);
                to.drain();
            }
            self.drain();
        }

        /// The phone sends a frame of a sine.
        fn hear_sine(&mut self, hz: f32, to: Option<&mut Leg>) {
            let rate = self.codec.sample_rate() as f32;
            let count = self.codec.frame_samples();
            let first = self.ticks as usize * count;
            let samples: Vec<i16> =
                (first..first + count).map(|i| (8000.0 * (std::f32::consts::TAU * hz * i as f32 / rate).sin()) as i16).collect();
            let mut payload = [0; 320];
            let length = self.encoder.encode(&samples, &mut payload);
            let from = self.phone.to_string();
            self.hear(&from, self.codec.payload_type(), self.ticks * 160, &payload[..length], to);
        }

        /// What the phone hears of the audio, decoded.
        fn audio(&self) -> Vec<i16> {
            let mut decoder = Decoder::new(self.codec);
            let audio = self.sent.iter().filter(|sent| sent.payload_type == self.codec.payload_type());
            audio
                .flat_map(|sent| {
                    let mut samples = [0; 640];
                    let count = decoder.decode(&sent.payload, &mut samples);
                    samples[..count].to_vec()
                })
                .collect()
        }

        fn keys(&self) -> String {
            self.events.iter().filter_map(|event| if let MediaEvent::Key { key } = event { Some(key.expose()) } else { None }).collect()
        }

        /// One source, numbered without a gap, time never going back.
        fn assert_one_stream(&self, story: &str) {
            for pair in self.sent.windows(2) {
                let [a, b] = pair else { continue };
                assert_eq!((a.ssrc, a.sequence.wrapping_add(1)), (b.ssrc, b.sequence), "{story}");
                assert!(b.timestamp.wrapping_sub(a.timestamp) < 8000, "{story}: {} then {}", a.timestamp, b.timestamp);
            }
        }
    }

    fn two(a: Codec, b: Codec) -> (Leg, Leg) {
        let now = Instant::now();
        let (mut a, mut b) = (Leg::new(now, PHONE, a), Leg::new(now, OTHER, b));
        a.core.set_bridged(true);
        b.core.set_bridged(true);
        (a, b)
    }

    fn tone(secs: f32) -> Arc<Clip> {
        let samples: Vec<i16> = (0..(secs * 8000.0) as usize).map(|i| (8000.0 * (i as f32 * 0.5).sin()) as i16).collect();
        Arc::new(Clip::new("tone", 8000, &samples))
    }

    /// How far a tone stands above all else, in dB, in the last half second.
    fn purity(samples: &[i16], hz: f64, rate: u32) -> f64 {
        let last = &samples[samples.len() - rate as usize / 2..];
        let (mut re, mut im, mut all) = (0.0, 0.0, 0.0);
        for (i, sample) in last.iter().enumerate() {
            let (angle, sample) = (std::f64::consts::TAU * hz * i as f64 / f64::from(rate), f64::from(*sample));
            re += sample * angle.cos();
            im += sample * angle.sin();
            all += sample * sample;
        }
        let tone = 2.0 * (re * re + im * im) / last.len() as f64;
        10.0 * (tone / (all - tone).max(1e-9)).log10()
    }

    #[test]
    fn whoever_speaks_it_is_one_stream() {
        let (mut a, mut b) = two(Codec::Pcmu, Codec::Pcmu);
        let both = |a: &mut Leg, b: &mut Leg, count| {
            for _ in 0..count {
                a.hear_sine(440.0, Some(b));
                a.tick();
                b.tick();
            }
        };
        b.ticks(5);
        both(&mut a, &mut b, 20);
        b.tell(Command::Play { playback: PlaybackId(1), clips: vec![tone(0.1)], repeat: false });
        both(&mut a, &mut b, 20);
        b.tell(Command::SendKeys(Keys::from("1")));
        both(&mut a, &mut b, 30);
        b.ticks(40);
        both(&mut a, &mut b, 20);
        b.assert_one_stream("silence, bridge, prompt, bridge, key, bridge, silence, bridge");
        assert!((90..100).contains(&b.sent.len()), "{} packets: of a phone that sends nothing one tells that the call is up", b.sent.len());
        assert_eq!(b.events, [MediaEvent::PlaybackEnded { playback: PlaybackId(1), interrupted: false }]);
        assert!(b.reports == 0 || b.ticks >= 250);
    }

    #[test]
    fn clips_follow_without_a_gap_and_stop_at_once() {
        let mut leg = Leg::new(Instant::now(), PHONE, Codec::Pcma);
        leg.tell(Command::Play {
            playback: PlaybackId(1),
            clips: vec![tone(0.05), tone(0.035), Arc::new(Clip::new("empty", 8000, &[]))],
            repeat: false,
        });
        leg.ticks(6);
        let loud = leg.audio().iter().filter(|sample| sample.unsigned_abs() > 500).count();
        assert!((600..680).contains(&loud), "85 ms of sound in {loud} samples");
        assert_eq!(leg.events, [MediaEvent::PlaybackEnded { playback: PlaybackId(1), interrupted: false }]);
        leg.tell(Command::Play { playback: PlaybackId(2), clips: vec![tone(1.0)], repeat: true });
        leg.ticks(120);
        leg.tell(Command::Play { playback: PlaybackId(3), clips: vec![tone(1.0)], repeat: false });
        leg.ticks(5);
        leg.tell(Command::StopPlay);
        leg.sent.clear();
        leg.ticks(2);
        assert!(leg.audio().iter().all(|sample| sample.unsigned_abs() < 16), "silence from the next packet on");
        let ended = |id| MediaEvent::PlaybackEnded { playback: PlaybackId(id), interrupted: true };
        assert_eq!(leg.events[1..], [ended(2), ended(3)]);
        leg.tell(Command::Play { playback: PlaybackId(4), clips: vec![], repeat: true });
        leg.ticks(1);
        assert_eq!(leg.events[3..], [MediaEvent::PlaybackEnded { playback: PlaybackId(4), interrupted: false }], "nothing cannot repeat");
    }

    #[test]
    fn every_pair_of_codecs_carries_a_tone() {
        for from in Codec::ALL {
            for to in Codec::ALL {
                let (mut a, mut b) = two(from, to);
                for _ in 0..50 {
                    a.hear_sine(1000.0, Some(&mut b));
                    a.tick();
                }
                let snr = purity(&b.audio(), 1000.0, to.sample_rate());
                // G.711 has some 37 dB of its own, each time it is coded.
                assert!(snr > 30.0, "{from:?} → {to:?}: {snr:.1} dB");
            }
        }
    }

    #[test]
    fn hold_is_respected_both_ways() {
        let (mut a, mut b) = two(Codec::Pcmu, Codec::Pcmu);
        let hold = |direction| Command::SetRemote(Remote { direction, ..Remote::new(address(OTHER), Codec::Pcmu) });
        for (direction, gets, gives) in [
            (Direction::SendRecv, true, true),
            (Direction::SendOnly, true, false),
            (Direction::RecvOnly, false, true),
            (Direction::Inactive, false, false),
        ] {
            b.tell(hold(direction));
            b.tell(Command::Play { playback: PlaybackId(1), clips: vec![tone(9.0)], repeat: false });
            b.ticks(5);
            b.tell(Command::StopPlay);
            (a.sent, b.sent) = (Vec::new(), Vec::new());
            for _ in 0..5 {
                a.hear_sine(440.0, Some(&mut b));
                b.hear_sine(880.0, Some(&mut a));
                b.tick();
            }
            assert_eq!((!b.sent.is_empty(), !a.sent.is_empty()), (gets, gives), "{direction:?}");
        }
        b.tell(Command::SetRemote(Remote::new(address("0.0.0.0:9"), Codec::Pcmu)));
        b.sent.clear();
        b.ticks(5);
        assert_eq!(b.sent, [], "a hold of the old kind");
    }

    #[test]
    fn strangers_are_neither_heard_nor_passed_on() {
        let (mut a, mut b) = two(Codec::Pcmu, Codec::Pcmu);
        a.hear_sine(440.0, Some(&mut b));
        b.sent.clear();
        for _ in 0..50 {
            a.hear(THIEF, 0, 0, &[0; 160], Some(&mut b));
            a.hear(THIEF, 101, 0, &[5, 0, 0, 160], Some(&mut b));
        }
        assert_eq!((b.sent.len(), a.keys(), a.core.stats().ignored), (0, String::new(), 100));
        a.core.handle_rtcp(a.now, address(THIEF), &[0x80, 201, 0, 1, 0, 0, 0, 1]);
        assert_eq!(a.core.stats().ignored, 101);
    }

    #[test]
    fn an_unplugged_phone_is_noticed_once() {
        let mut leg = Leg::new(Instant::now(), PHONE, Codec::Pcmu);
        leg.hear_sine(440.0, None);
        let since = leg.now;
        leg.ticks(2000);
        assert_eq!(leg.events, [MediaEvent::Silent { since }]);
        leg.hear_sine(440.0, None);
        leg.ticks(501);
        assert_eq!(leg.events.len(), 2, "and again after it came back");
        leg.tell(Command::SetRemote(Remote { direction: Direction::SendOnly, ..Remote::new(address(PHONE), Codec::Pcmu) }));
        leg.ticks(600);
        assert_eq!(leg.events.len(), 2, "nobody expects a phone on hold to speak");
    }

    /// A phone keys digits through a line that loses and repeats, across a bridge: the other end's receiver gets each once.
    #[test]
    fn keys_cross_a_bad_line_and_a_bridge_once() {
        let (mut a, mut b) = two(Codec::Pcmu, Codec::Pcma);
        b.tell(Command::SetRemote(Remote { dtmf_payload_type: Some(96), ..Remote::new(address(OTHER), Codec::Pcma) }));
        let mut sender = telephone_event::Sender::default();
        "4711#".chars().for_each(|key| assert!(sender.push(Key::from_char(key).expect("a key"))));
        let mut luck = 7u32;
        while !sender.is_idle() {
            match sender.handle_tick(a.ticks * 160) {
                Some(event) => {
                    luck = luck.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    for _ in 0..luck >> 30 {
                        a.hear(PHONE, 101, event.timestamp, &event.payload, Some(&mut b));
                    }
                }
                None => a.hear_sine(440.0, Some(&mut b)),
            }
            a.tick();
            b.tick();
        }
        let mut receiver = telephone_event::Receiver::default();
        let events = b.sent.iter().filter(|sent| sent.payload_type == 96);
        let got: String =
            events.filter_map(|sent| receiver.handle_packet(sent.ssrc, sent.timestamp, &sent.payload)).map(Key::expose).collect();
        assert_eq!((a.keys().as_str(), got.as_str()), ("4711#", "4711#"));
    }

    #[test]
    fn nobody_else_learns_a_secret() {
        for inband in [false, true] {
            let (mut a, mut b) = two(Codec::Pcmu, Codec::Pcmu);
            a.tell(Command::DetectInband(inband));
            a.tell(Command::Blind(true));
            a.hear(PHONE, 101, 0, &[5, 0, 0, 160], Some(&mut b));
            assert_eq!((a.keys().as_str(), b.sent.len()), ("5", 0), "the event");
            a.hear_sine(697.0, Some(&mut b));
            assert_eq!(b.sent.is_empty(), inband, "its sound");
        }
    }

    /// Keys to a far end without telephone-events are sounds that a detector hears, from `SendKeys` and from the bridge.
    #[test]
    fn keys_become_tones_where_events_are_unknown() {
        for codec in Codec::ALL {
            let (mut a, mut b) = two(Codec::Pcmu, codec);
            b.tell(Command::SetRemote(Remote { dtmf_payload_type: None, ..Remote::new(address(OTHER), codec) }));
            b.tell(Command::SendKeys(Keys::from("12")));
            b.ticks(25);
            a.hear(PHONE, 101, 8000, &[9, 0, 0, 160], Some(&mut b));
            a.hear(PHONE, 101, 8000, &[9, 0x80, 3, 32], Some(&mut b));
            b.ticks(20);
            let mut narrow = b.audio();
            if codec == Codec::G722 {
                narrow = super::super::resample::convert(&narrow, 16_000, 8_000);
            }
            let mut detector = Detector::default();
            detector.push(&narrow);
            let heard: String = std::iter::from_fn(|| detector.poll()).map(Key::expose).collect();
            assert_eq!(heard, "129", "{codec:?}");
            b.assert_one_stream("keys as tones");
        }
    }

    /// A phone that sends both, as some gateways do, and INFO on top: each press counts once.
    #[test]
    fn a_key_heard_several_ways_counts_once() {
        let mut leg = Leg::new(Instant::now(), PHONE, Codec::G722);
        leg.tell(Command::DetectInband(true));
        for key in ['1', '1', '5'] {
            let key = Key::from_char(key).expect("a key");
            let mut tone = super::super::tone::KeyTone::new(key.event(), 16_000);
            let start = leg.ticks * 160;
            for frame in 0..12 {
                let mut samples = [0; 320];
                if frame < 5 {
                    tone.fill(&mut samples);
                }
                let mut payload = [0; 200];
                let length = leg.encoder.encode(&samples, &mut payload);
                leg.hear(PHONE, 9, leg.ticks * 160, &payload[..length], None);
                if frame == 2 && key.expose() == '5' {
                    leg.hear(PHONE, 101, start, &[key.event(), 0, 0, 160], None);
                }
                leg.tick();
            }
            leg.tell(Command::Key(key));
        }
        assert_eq!(leg.keys(), "115");
    }

    #[test]
    fn what_is_heard_is_told_on_request() {
        let mut leg = Leg::new(Instant::now(), PHONE, Codec::Pcmu);
        leg.tell(Command::Listen(true));
        for _ in 0..40 {
            leg.hear_sine(440.0, None);
            leg.tick();
        }
        assert!(matches!(leg.core.stats().sound, Some(Sound::Tone { hz }) if (hz - 440.0).abs() < 2.0), "{:?}", leg.core.stats());
        leg.ticks(40);
        let sounds: Vec<Sound> =
            leg.events.iter().filter_map(|e| if let MediaEvent::Heard(Heard { sound, .. }) = e { Some(*sound) } else { None }).collect();
        assert!(matches!(sounds[..], [.., Sound::Tone { .. }, Sound::Silence]), "{sounds:?}");
    }

    #[test]
    fn a_late_worker_sends_no_flood() {
        let mut leg = Leg::new(Instant::now(), PHONE, Codec::Pcmu);
        leg.ticks(3);
        leg.sent.clear();
        leg.now += Duration::from_secs(3);
        while leg.core.poll_timeout() <= leg.now {
            leg.core.handle_timeout(leg.now);
            leg.drain();
        }
        assert!(leg.sent.len() <= 2, "{} packets", leg.sent.len());
        leg.tick();
        let gap = leg.sent[0].timestamp.wrapping_sub(0u32.wrapping_sub(1000));
        assert!(gap > 23_000, "time went on: {gap}");
    }

    #[test]
    fn gaps_and_order_of_the_network_are_passed_on() {
        let (mut a, mut b) = two(Codec::Pcmu, Codec::Pcmu);
        for sequence in [100u16, 101, 104, 103, 99, 105] {
            a.sequence = sequence;
            a.hear(PHONE, 0, u32::from(sequence) * 160, &[0; 160], Some(&mut b));
        }
        let first = b.sent[0].sequence;
        let steps: Vec<u16> = b.sent.iter().map(|sent| sent.sequence.wrapping_sub(first)).collect();
        assert_eq!(steps, [0, 1, 4, 3, 5], "the one from before the start is dropped");
        assert!(
            b.sent
                .iter()
                .all(|sent| sent.timestamp.wrapping_sub(b.sent[0].timestamp) == u32::from(sent.sequence.wrapping_sub(first)) * 160)
        );
    }

    #[test]
    fn reports_leave_every_five_seconds() {
        let mut leg = Leg::new(Instant::now(), PHONE, Codec::Pcmu);
        leg.ticks(760);
        assert_eq!(leg.reports, 3);
    }

    proptest::proptest! {
        #[test]
        fn no_datagram_panics(datagrams in proptest::collection::vec(proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60), 0..60)) {
            let (mut a, mut b) = two(Codec::G722, Codec::Pcmu);
            a.tell(Command::DetectInband(true));
            for mut bytes in datagrams {
                if let Some([flags, kind]) = bytes.first_chunk_mut::<2>() {
                    (*flags, *kind) = (0x80 | *flags & 0x1f, [0, 8, 9, 13, 101][usize::from(*kind) % 5]);
                }
                if let Some(frame) = a.core.handle_packet(a.now, a.phone, &bytes) {
                    b.core.handle_frame(b.now, &frame);
                }
                a.core.handle_rtcp(a.now, a.phone, &bytes);
                a.tick();
                b.tick();
            }
        }
    }
}
