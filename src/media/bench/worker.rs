//! Runs bridged calls over loopback on one media thread and reads from the system how much processor time it took.

use std::{
    fmt, fs, io,
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use crate::{
    media::{Codec, Command, Config, Error, Media, Remote, SessionConfig, Stats},
    rtp::Packet,
};

/// What a relay run has shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Relay {
    pub calls: usize,
    pub took: Duration,
    /// Packets that came in and went out again.
    pub relayed: u64,
    /// Sent by the generator and not received: the machine was too slow, or its socket buffers too small.
    pub missed: u64,
    /// Of the media thread alone, in user and system.
    pub cpu: Duration,
}

impl Relay {
    /// Processor time for one packet in and out.
    pub fn cpu_per_packet(&self) -> Duration {
        Duration::from_nanos((self.cpu.as_nanos() as u64).checked_div(self.relayed).unwrap_or(0))
    }

    /// Share of one core that 1,000 calls of two legs at 50 packets a second would take.
    pub fn cores_for_1000_calls(&self) -> f64 {
        self.cpu_per_packet().as_secs_f64() * 100_000.0
    }
}

impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bridged calls for {:.1} s: {} packets relayed, {} missed, {:.2} µs of CPU each; 1,000 calls take {:.2} cores",
            self.calls,
            self.took.as_secs_f64(),
            self.relayed,
            self.missed,
            self.cpu_per_packet().as_secs_f64() * 1e6,
            self.cores_for_1000_calls()
        )
    }
}

/// Bridges `calls` pairs of sessions and sends 50 packets a second to each leg for so long.
pub fn relay(calls: usize, time: Duration, codecs: (Codec, Codec)) -> Result<Relay, Error> {
    let address = Ipv4Addr::LOCALHOST.into();
    let socket_fault = |source| Error::Socket { address, source };
    // One thread sends for everybody, and what comes back is left to the kernel to drop.
    let phones = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(socket_fault)?;
    let here = phones.local_addr().map_err(socket_fault)?;
    let media = Media::start(Config { threads: 1, ..Config::default() })?;
    let (events, _inbox) = tokio::sync::mpsc::channel(1);
    let mut legs = Vec::with_capacity(2 * calls);
    for _ in 0..calls {
        let a = media.open(SessionConfig::new(address, events.clone()))?;
        let b = media.open(SessionConfig::new(address, events.clone()))?;
        media.command(a.id, Command::SetRemote(Remote::new(here, codecs.0)));
        media.command(b.id, Command::SetRemote(Remote::new(here, codecs.1)));
        media.command(a.id, Command::Bridge(b.id));
        legs.extend([(a, codecs.0), (b, codecs.1)]);
    }
    // An answer means that the thread runs and all calls are up.
    if let Some((leg, _)) = legs.last() {
        let _ = media.stats(leg.id).blocking_recv();
    }
    let before = cpu_of(&media).map_err(socket_fault)?;
    let begin = Instant::now();
    let frames = (time.as_millis() / 20) as u32;
    let payload = [0x55; 160];
    for frame in 0..frames {
        for (leg, codec) in &legs {
            let packet = Packet {
                payload_type: codec.payload_type(),
                marker: false,
                sequence: frame as u16,
                timestamp: frame * 160,
                ssrc: 1,
                payload: &payload,
            };
            let mut bytes = [0; 172];
            packet.write(&mut bytes);
            phones.send_to(&bytes, leg.local).map_err(socket_fault)?;
        }
        std::thread::sleep((begin + Duration::from_millis(20) * (frame + 1)).saturating_duration_since(Instant::now()));
    }
    let took = begin.elapsed();
    let cpu = cpu_of(&media).map_err(socket_fault)?.saturating_sub(before);
    let relayed =
        legs.iter().filter_map(|(leg, _)| media.stats(leg.id).blocking_recv().ok()).map(|stats: Stats| stats.packets_received).sum();
    media.shutdown();
    Ok(Relay { calls, took, relayed, missed: (u64::from(frames) * legs.len() as u64).saturating_sub(relayed), cpu })
}

/// Processor time that the one media thread has taken.
fn cpu_of(media: &Media) -> io::Result<Duration> {
    let task = media.tasks().first().copied().unwrap_or(0);
    // The first number is the time on a processor in nanoseconds (the kernel's documentation of sched-stats).
    let times = fs::read_to_string(format!("/proc/self/task/{task}/schedstat"))?;
    Ok(Duration::from_nanos(times.split_whitespace().next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)))
}
