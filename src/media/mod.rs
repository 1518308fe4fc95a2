//! Codecs, tones, players, DTMF detection, the worker threads of the 20 ms tick.
//!
//! [`Media::open`] gives a session: one leg's port and everything that is heard and said on it. [`Media::command`] tells it
//! what to do and never blocks; it answers with [`MediaEvent`]s. Inside, `worker.rs` owns sockets and clock, and
//! `session.rs` decides, without either. Not here: SIP and SDP, what a call means, files of recordings, mixing, SRTP.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::model::Keys;

pub mod bench;
pub mod clip;
pub mod codec;
pub mod ear;
pub mod files;
pub mod goertzel;
pub mod listen;
mod outbox;
mod playback;
pub mod presses;
mod recorder;
pub mod relay;
pub mod resample;
pub mod session;
pub mod source;
#[cfg(test)]
mod synthetic;
pub mod tone;
mod transcode;
pub mod worker;

pub use crate::rtp::Key;
pub use clip::Clip;
pub use codec::Codec;
pub use listen::{Heard, Sound};
pub use tone::{Country, Tones};
pub use worker::Media;

/// The `media` section of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// First UDP port for audio. Each leg takes an even port for RTP and the odd one above it for RTCP; open the range in
    /// the firewall. 0: whatever ports the system gives (for tests and demos).
    pub first_port: u16,
    /// Last UDP port for audio, inclusive: two ports a leg, so four a call.
    pub last_port: u16,
    /// Threads that move audio. 0: one for each two processor cores. One thread carries hundreds of calls.
    pub threads: usize,
    /// After this many seconds without any packet from a phone its call is ended: the phone was unplugged. 0: never.
    pub silence_secs: u64,
    /// Whether keys are also recognised by their sound, for phones and gateways that send no telephone-events.
    pub inband_dtmf: bool,
    /// Whose ring-back, busy and congestion tones callers hear: `eu`, `us`, `uk` or `de`.
    pub tones: Country,
    /// DiffServ code point that audio is marked with, so that switches and routers prefer it: 46 (expedited forwarding,
    /// RFC 4594) unless your network says otherwise. 0: unmarked.
    pub dscp: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self { first_port: 16_384, last_port: 32_767, threads: 0, silence_secs: 60, inband_dtmf: true, tones: Country::Eu, dscp: 46 }
    }
}

/// What the settings mean.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// First and last port; `None` leaves the choice to the system.
    pub ports: Option<(u16, u16)>,
    /// At least 1.
    pub threads: usize,
    /// How long a phone may be silent before [`MediaEvent::Silent`]; `None`: for ever.
    pub silence: Option<Duration>,
    pub inband_dtmf: bool,
    pub tones: Country,
    pub dscp: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self { ports: None, threads: 1, silence: Some(Duration::from_secs(60)), inband_dtmf: true, tones: Country::Eu, dscp: 46 }
    }
}

impl Settings {
    /// Checks what was written. `cores` is how many processor cores there are.
    pub fn check(&self, cores: usize) -> Result<Config, Error> {
        let (first, last) = (self.first_port, self.last_port);
        if first != 0 && (first < 1024 || last <= first) {
            return Err(Error::Ports { first, last });
        }
        if self.dscp > 63 {
            return Err(Error::Dscp(self.dscp));
        }
        Ok(Config {
            ports: (first != 0).then_some((first, last)),
            threads: if self.threads == 0 { (cores / 2).clamp(1, 8) } else { self.threads.min(64) },
            silence: (self.silence_secs > 0).then(|| Duration::from_secs(self.silence_secs)),
            inband_dtmf: self.inband_dtmf,
            tones: self.tones,
            dscp: self.dscp,
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "media.first_port {first} and media.last_port {last} are no range: write an even port of 1024 or more and a larger one, as 16384 and 32767"
    )]
    Ports { first: u16, last: u16 },
    #[error("media.dscp is {0}, and there are only 0 to 63: 46 is what voice uses")]
    Dscp(u8),
    #[error("all audio ports from {first} to {last} are in use: widen media.first_port … media.last_port (two ports a leg)")]
    PortsExhausted { first: u16, last: u16 },
    #[error("cannot open a port for audio on {address}: is this an address of this machine?")]
    Socket {
        address: IpAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot start a thread for audio")]
    Thread(#[source] std::io::Error),
    #[error("audio has been shut down")]
    Stopped,
    #[error("the audio thread is overloaded: {0} commands wait")]
    Overloaded(usize),
}

/// Names a session for its whole life; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub(crate) u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a session needs to be opened.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Address to receive on and send from; the unspecified address takes whatever the route says.
    pub local_ip: IpAddr,
    /// Where its events go. A full channel loses events (counted); the audio never waits.
    pub events: tokio::sync::mpsc::Sender<(SessionId, MediaEvent)>,
    /// A session that this one will be bridged to: both then live on one thread, which is cheaper. `None` is always right.
    pub near: Option<SessionId>,
}

impl SessionConfig {
    pub fn new(local_ip: IpAddr, events: tokio::sync::mpsc::Sender<(SessionId, MediaEvent)>) -> Self {
        Self { local_ip, events, near: None }
    }
}

/// An open session. It lives until [`Command::Close`], not until this value is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    pub id: SessionId,
    /// Address and RTP port, as SDP shall tell them; the address is unspecified if `local_ip` was. RTCP is on the next port.
    pub local: SocketAddr,
}

/// The far end, as SDP negotiated it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Where its SDP says that it listens. The unspecified address is a hold of the old kind (RFC 2543): nothing is sent.
    pub addr: SocketAddr,
    /// Where it wants RTCP (RFC 3605); `None`: the port above.
    pub rtcp: Option<SocketAddr>,
    /// The codec that we send. Any that we know is understood when received.
    pub codec: Codec,
    /// Type to send key presses with; `None`: it knows no telephone-events and gets keys as tones.
    pub dtmf_payload_type: Option<u8>,
    /// Type that we told it to send key presses with, where that is another one.
    pub dtmf_receive_type: Option<u8>,
    pub direction: Direction,
}

impl Remote {
    /// Both ways, keys by telephone-event 101 unless changed.
    pub fn new(addr: SocketAddr, codec: Codec) -> Self {
        Self { addr, rtcp: None, codec, dtmf_payload_type: Some(101), dtmf_receive_type: None, direction: Direction::SendRecv }
    }
}

/// Who may speak, seen from us (RFC 3264 §5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    #[default]
    SendRecv,
    /// We speak, it listens.
    SendOnly,
    /// It speaks, we listen.
    RecvOnly,
    Inactive,
}

impl Direction {
    pub fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }

    pub fn receives(self) -> bool {
        matches!(self, Self::SendRecv | Self::RecvOnly)
    }
}

/// Chosen by who plays, so that a late [`MediaEvent::PlaybackEnded`] is not taken for another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlaybackId(pub u64);

/// What a session can be told.
#[derive(Clone, Debug)]
pub enum Command {
    /// The far end is known, or has changed.
    SetRemote(Remote),
    /// Plays clips one after the other without a gap, instead of what plays now (which ends as interrupted).
    Play {
        playback: PlaybackId,
        clips: Vec<Arc<Clip>>,
        /// From the start again when the last has ended, until stopped.
        repeat: bool,
    },
    /// Falls silent at once.
    StopPlay,
    /// Joins two sessions: each hears the other. Given to one of them it counts for both.
    Bridge(SessionId),
    /// Hears what that session hears, and is heard by nobody: one speaks, many listen. Instead of whoever it was joined with;
    /// over with [`Self::Unbridge`], and when that session is closed.
    Overhear(SessionId),
    /// Parts them again; given to one of them it counts for both. Who overhears a session goes on doing so.
    Unbridge,
    /// Presses keys: by telephone-event, or as tones if the far end knows none.
    SendKeys(Keys),
    /// Whether keys are also recognised by their sound, for a far end that sends no telephone-events. Costs decoding; off
    /// until asked for, and for ever if the settings forbid it.
    DetectInband(bool),
    /// Whether to tell what the far end sounds like by [`MediaEvent::Heard`]. Costs decoding; off until asked for.
    Listen(bool),
    /// Gives what is heard from now on, decoded, at 8 kHz, in pieces; `None`: no more. What finds no room is lost, and counted.
    Record(Option<tokio::sync::mpsc::Sender<Vec<i16>>>),
    /// From now on its events go there.
    TellTo(tokio::sync::mpsc::Sender<(SessionId, MediaEvent)>),
    /// A key press that came another way (SIP INFO). It counts once even if it was also heard.
    Key(Key),
    /// While true, keys are being keyed that nobody may learn: they are told to the events' receiver and nobody else, and
    /// do not reach the bridged session.
    Blind(bool),
    /// Ends the session. Its last event is [`MediaEvent::Stats`].
    Close,
}

/// What a session tells.
#[derive(Clone, Debug, PartialEq)]
pub enum MediaEvent {
    /// A key was pressed; told at the start of the press, once.
    Key { key: Key },
    /// A playback came to its end, or was stopped or replaced.
    PlaybackEnded { playback: PlaybackId, interrupted: bool },
    /// No packet has come since then, for longer than the settings allow. Told once for each silence.
    Silent { since: Instant },
    /// Another sound has begun: speech, a tone, silence. Only after [`Command::Listen`].
    Heard(Heard),
    /// The figures at the end.
    Stats(Stats),
}

/// What went over the wire, from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    pub packets_received: u64,
    pub packets_sent: u64,
    /// Packets of the far end that never came.
    pub lost: u64,
    /// Packets that were no RTP, of an unknown type, or from somebody else.
    pub ignored: u64,
    pub jitter: Duration,
    /// Loudness of what was heard in the last second, 0 being the loudest square wave; `None` if nothing was.
    pub rms_dbfs: Option<f32>,
    /// What is heard just now, if somebody listens.
    pub sound: Option<Sound>,
    /// Where packets come from, once that is certain.
    pub source: Option<SocketAddr>,
}
