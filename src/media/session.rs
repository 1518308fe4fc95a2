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
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Clip, Codec, Command, MediaEvent, PlaybackId, Remote, Stats,
    codec::{Decoder, Encoder, decode_g711},
    ear::Ear,
    goertzel::Detector,
    listen::Listener,
    presses::{Presses, Way},
    relay::Renumber,
    resample::{Doubler, Halver},
    source::Source,
    tone::KeyTone,
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

/// What one session hands to the one it is bridged to: a packet without its header.
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

/// Which of the session's two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Rtp,
    Rtcp,
}

/// A datagram to send.
#[derive(Debug)]
pub struct Transmit<'a> {
    pub channel: Channel,
    pub to: SocketAddr,
    pub bytes: &'a [u8],
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

    /// Does what it was told. `Bridge`, `Unbridge` and `Close` concern the worker, which calls [`Self::set_bridged`].
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
            Command::Key(key) => self.note_key(now, key, Way::Signalling),
            Command::Blind(blind) => self.blind = blind,
            Command::Bridge(_) | Command::Unbridge | Command::Close => {}
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
        self.relay = None;
        self.relayed_keys = telephone_event::Receiver::default();
    }

    /// Makes the ear that `change` needs, and throws away one that nobody needs any more.
    fn change_ear(&mut self, needed: bool, change: impl FnOnce(&mut Ear)) {
        if needed && self.ear.is_none() {
            self.ear = Some(Box::default());
        }
        if let Some(ear) = &mut self.ear {
            change(ear);
            if ear.detector.is_none() && ear.listener.is_none() {
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
        let ntp = since.as_secs() << 32 | (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
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
        if self.bridged && self.relay.as_ref().is_some_and(|relay| now.saturating_duration_since(relay.last_at) < RELAY_GAP) {
            return;
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

/// Clips one after the other.
struct Playback {
    id: PlaybackId,
    clips: Vec<Arc<Clip>>,
    repeat: bool,
    clip: usize,
    /// Within the clip, in samples of 16 kHz, so that a codec may change in the middle.
    offset: usize,
}

impl Playback {
    fn new(id: PlaybackId, clips: Vec<Arc<Clip>>, repeat: bool) -> Self {
        // Repeating nothing would never give a sample.
        let repeat = repeat && clips.iter().any(|clip| !clip.samples(8_000).is_empty());
        Self { id, clips, repeat, clip: 0, offset: 0 }
    }

    /// Fills a frame, with silence after the end; true when that was the end.
    fn fill(&mut self, rate_hz: u32, out: &mut [i16]) -> bool {
        let scale = if rate_hz == 16_000 { 1 } else { 2 };
        let mut room = out.iter_mut().peekable();
        while room.peek().is_some() {
            let Some(clip) = self.clips.get(self.clip) else {
                if !self.repeat {
                    break;
                }
                (self.clip, self.offset) = (0, 0);
                continue;
            };
            let samples = clip.samples(rate_hz).get(self.offset / scale..).unwrap_or_default();
            if samples.is_empty() {
                (self.clip, self.offset) = (self.clip + 1, 0);
                continue;
            }
            for sample in samples {
                let Some(slot) = room.next() else { break };
                *slot = *sample;
                self.offset += scale;
            }
        }
        room.for_each(|slot| *slot = 0);
        !self.repeat
            && self.clips.iter().skip(self.clip + 1).all(|clip| clip.samples(rate_hz).is_empty())
            && self.clips.get(self.clip).is_none_or(|clip| self.offset / scale >= clip.samples(rate_hz).len())
    }
}

/// Keys as sound, for a far end that knows no telephone-events.
#[derive(Default)]
struct KeyTones {
    tone: Option<(KeyTone, Duration)>,
    gap: Duration,
}

impl KeyTones {
    fn is_idle(&self) -> bool {
        self.tone.is_none() && self.gap.is_zero()
    }

    /// Fills one frame if a key sounds or has just done so.
    fn fill(&mut self, keys: &mut VecDeque<Key>, rate_hz: u32, out: &mut [i16]) -> bool {
        if self.is_idle() {
            self.tone = keys.pop_front().map(|key| (KeyTone::new(key.event(), rate_hz), telephone_event::PRESS));
        }
        if let Some((tone, left)) = &mut self.tone {
            tone.fill(out);
            *left = left.saturating_sub(TICK);
            if left.is_zero() {
                (self.tone, self.gap) = (None, telephone_event::GAP);
            }
            return true;
        }
        let gap = !self.gap.is_zero();
        self.gap = self.gap.saturating_sub(TICK);
        gap
    }
}

/// From the bridged session's codec to this one's.
struct Transcoder {
    decoder: Decoder,
    doubler: Doubler,
    halver: Halver,
}

impl Transcoder {
    fn new(from: Codec) -> Self {
        Self { decoder: Decoder::new(from), doubler: Doubler::default(), halver: Halver::default() }
    }

    fn run(&mut self, payload: &[u8], encoder: &mut Encoder, out: &mut [u8]) -> usize {
        let (mut decoded, mut other) = ([0i16; 2 * MAX_PAYLOAD], [0i16; 2 * MAX_PAYLOAD]);
        let count = self.decoder.decode(payload, &mut decoded);
        let decoded = decoded.get(..count).unwrap_or_default();
        match (self.decoder.codec().sample_rate(), encoder.codec().sample_rate()) {
            (8_000, 16_000) => {
                let count = self.doubler.run(decoded, &mut other);
                encoder.encode(other.get(..count).unwrap_or_default(), out)
            }
            (16_000, 8_000) => {
                let count = self.halver.run(decoded, &mut other);
                encoder.encode(other.get(..count).unwrap_or_default(), out)
            }
            _ => encoder.encode(decoded, out),
        }
    }
}

/// Loudness of G.711 as it passes by; a table look-up a sample.
#[derive(Default)]
struct Level {
    squares: f64,
    count: u32,
    dbfs: Option<f32>,
}

impl Level {
    fn handle(&mut self, codec: Codec, payload: &[u8]) {
        if codec == Codec::G722 {
            return;
        }
        let squares: i64 = payload.iter().map(|byte| i64::from(decode_g711(codec, *byte)).pow(2)).sum();
        self.add(squares as f64, payload.len() as u32, 8_000);
    }

    fn add(&mut self, squares: f64, count: u32, per_second: u32) {
        self.squares += squares;
        self.count += count;
        if self.count >= per_second {
            let rms = (self.squares / f64::from(self.count)).sqrt() / 32_768.0;
            self.dbfs = Some((20.0 * rms.max(1e-5).log10()) as f32);
            (self.squares, self.count) = (0.0, 0);
        }
    }
}

/// Datagrams between `handle_*` and `poll_transmit`: at most one of RTP and one of RTCP at a time.
struct Outbox {
    slots: Box<[Slot; SLOTS]>,
    first: usize,
    count: usize,
}

const SLOTS: usize = 3;

struct Slot {
    channel: Channel,
    to: SocketAddr,
    length: usize,
    bytes: [u8; MAX_PACKET],
}

impl Default for Outbox {
    fn default() -> Self {
        let empty = || Slot { channel: Channel::Rtp, to: SocketAddr::from(([0, 0, 0, 0], 0)), length: 0, bytes: [0; MAX_PACKET] };
        Self { slots: Box::new(std::array::from_fn(|_| empty())), first: 0, count: 0 }
    }
}

impl Outbox {
    fn push(&mut self, channel: Channel, to: SocketAddr, write: impl FnOnce(&mut [u8]) -> Option<usize>) {
        let at = (self.first + self.count) % SLOTS;
        if let Some(slot) = self.slots.get_mut(at).filter(|_| self.count < SLOTS)
            && let Some(length) = write(&mut slot.bytes)
        {
            (slot.channel, slot.to, slot.length) = (channel, to, length);
            self.count += 1;
        }
    }

    fn pop(&mut self) -> Option<Transmit<'_>> {
        self.count = self.count.checked_sub(1)?;
        let at = self.first;
        self.first = (at + 1) % SLOTS;
        let slot = self.slots.get(at)?;
        Some(Transmit { channel: slot.channel, to: slot.to, bytes: slot.bytes.get(..slot.length)? })
    }
}
