//! The handset: sends a tone, speech or silence every 20 ms, presses keys, and tells what it hears.
//!
//! One small task per call, with a socket of its own and none of the server's media code but codecs and the listener.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use crate::{
    media::{
        clip::Clip,
        codec::{Codec, Decoder, Encoder},
        listen::{Heard, Listener},
    },
    model::Keys,
    rtp::{Packet, packet::HEADER, telephone_event},
    sdp::MediaParams,
};

const TICK: Duration = Duration::from_millis(20);
/// Larger than any frame of a codec that we know.
const MAX_FRAME: usize = 320;

/// What the person says into the handset.
#[derive(Clone, Debug)]
pub enum Say {
    Nothing,
    /// A steady tone, by which the far end can tell whom it hears.
    Tone {
        hz: f32,
    },
    /// From the beginning to the end, once.
    Speech(Arc<Clip>),
}

enum Order {
    Peer(MediaParams),
    Say(Say),
    Keys(Keys),
}

/// A handset that is lifted. Dropping it hangs up its audio.
pub struct Handset {
    pub local: SocketAddr,
    orders: mpsc::Sender<Order>,
}

impl Handset {
    /// Opens a port on `address`. What it hears goes to `heard`, with what was sent and received so far.
    pub async fn open(address: IpAddr, heard: mpsc::Sender<Heard>) -> std::io::Result<Self> {
        let socket = UdpSocket::bind((address, 0)).await?;
        let local = socket.local_addr()?;
        let (orders, inbox) = mpsc::channel(16);
        tokio::spawn(Task::new(socket, heard).run(inbox));
        Ok(Self { local, orders })
    }

    /// The far end is known, or has changed.
    pub fn talk_to(&self, params: MediaParams) {
        self.order(Order::Peer(params));
    }

    pub fn say(&self, what: Say) {
        self.order(Order::Say(what));
    }

    pub fn press(&self, keys: Keys) {
        self.order(Order::Keys(keys));
    }

    fn order(&self, order: Order) {
        if self.orders.try_send(order).is_err() {
            tracing::warn!("the simulated handset is too busy to obey");
        }
    }
}

struct Task {
    socket: UdpSocket,
    heard: mpsc::Sender<Heard>,
    listener: Listener,
    peer: Option<(MediaParams, Encoder, Decoder)>,
    say: Say,
    /// Samples of the tone or speech that were said.
    said: usize,
    keys: telephone_event::Sender,
    sequence: u16,
    timestamp: u32,
    ssrc: u32,
    started: bool,
}

impl Task {
    fn new(socket: UdpSocket, heard: mpsc::Sender<Heard>) -> Self {
        let mut random = [0u8; 10];
        // Without chance a stream starts at zero, which is legal.
        let _ = getrandom::fill(&mut random);
        let [a, b, c, d, e, f, g, h, i, j] = random;
        Self {
            socket,
            heard,
            listener: Listener::default(),
            peer: None,
            say: Say::Nothing,
            said: 0,
            keys: telephone_event::Sender::default(),
            sequence: u16::from_be_bytes([a, b]),
            timestamp: u32::from_be_bytes([c, d, e, f]),
            ssrc: u32::from_be_bytes([g, h, i, j]),
            started: false,
        }
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Order>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut datagram = [0u8; 2048];
        loop {
            tokio::select! {
                order = inbox.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                received = self.socket.recv_from(&mut datagram) => {
                    if let Ok((length, _)) = received {
                        self.hear(&datagram[..length]);
                    }
                }
                _ = tick.tick() => self.speak().await,
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Peer(params) => {
                if let Some(codec) = Codec::of_payload_type(params.codec.static_payload_type()) {
                    self.peer = Some((params, Encoder::new(codec), Decoder::new(codec)));
                }
            }
            Order::Say(what) => {
                self.say = what;
                self.said = 0;
            }
            Order::Keys(keys) => {
                for key in keys.expose().chars().filter_map(telephone_event::Key::from_char) {
                    self.keys.push(key);
                }
            }
        }
    }

    fn hear(&mut self, datagram: &[u8]) {
        let Some((params, _, decoder)) = &mut self.peer else { return };
        let Ok(packet) = Packet::parse(datagram) else { return };
        if packet.payload_type != params.payload_type && Codec::of_payload_type(packet.payload_type) != Some(decoder.codec()) {
            return;
        }
        let mut samples = [0i16; 4 * MAX_FRAME];
        let decoded = decoder.decode(&packet.payload[..packet.payload.len().min(2 * MAX_FRAME)], &mut samples);
        // The listener works at 8 kHz: of wide-band audio every second sample is enough to tell tones from speech.
        match decoder.codec().sample_rate() {
            16_000 => {
                let narrow: Vec<i16> = samples[..decoded].iter().step_by(2).copied().collect();
                self.listener.push(&narrow);
            }
            _ => self.listener.push(&samples[..decoded]),
        }
        while let Some(heard) = self.listener.poll() {
            let _ = self.heard.try_send(heard);
        }
    }

    async fn speak(&mut self) {
        let Some((params, ..)) = &self.peer else { return };
        let (Some(remote), true) = (params.remote, params.direction.sends()) else { return };
        let (payload_type, dtmf) = (params.payload_type, params.dtmf_payload_type);
        let mut out = [0u8; HEADER + MAX_FRAME];
        let pressed = self.keys.handle_tick(self.timestamp);
        let length = match (pressed, dtmf) {
            (Some(event), Some(payload_type)) => {
                let packet =
                    Packet { marker: event.marker, timestamp: event.timestamp, payload: &event.payload, ..self.packet(payload_type) };
                packet.write(&mut out)
            }
            _ => {
                let mut frame = [0u8; MAX_FRAME];
                let encoded = self.encode(&mut frame);
                Packet { payload: &frame[..encoded], ..self.packet(payload_type) }.write(&mut out)
            }
        };
        if let Some(length) = length {
            // An unreachable peer is heard as silence by the other side; nothing to do here.
            let _ = self.socket.send_to(&out[..length], remote).await;
        }
        self.started = true;
        self.sequence = self.sequence.wrapping_add(1);
        // G.722's RTP clock runs at 8 kHz too (RFC 3551 §4.5.2).
        self.timestamp = self.timestamp.wrapping_add(160);
    }

    fn packet(&self, payload_type: u8) -> Packet<'static> {
        Packet { payload_type, marker: !self.started, sequence: self.sequence, timestamp: self.timestamp, ssrc: self.ssrc, payload: &[] }
    }

    fn encode(&mut self, frame: &mut [u8]) -> usize {
        let Some((_, encoder, _)) = &mut self.peer else { return 0 };
        let rate = encoder.codec().sample_rate();
        let count = encoder.codec().frame_samples();
        let said = self.said;
        let mut samples = [0i16; MAX_FRAME];
        match &self.say {
            Say::Nothing => {}
            Say::Tone { hz } => {
                for (index, sample) in samples[..count].iter_mut().enumerate() {
                    let phase = (said + index) as f32 * hz / rate as f32;
                    *sample = (8000.0 * (phase.fract() * std::f32::consts::TAU).sin()) as i16;
                }
            }
            Say::Speech(clip) => {
                let rest = clip.samples(rate).get(said..).unwrap_or_default();
                let length = rest.len().min(count);
                samples[..length].copy_from_slice(&rest[..length]);
            }
        }
        self.said += count;
        encoder.encode(&samples[..count], frame)
    }
}
