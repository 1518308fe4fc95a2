//! A DHCP client, without sockets and clocks: what a simulated phone and a load run speak (RFC 2131 §4.4, figure 5).
//!
//! ```text
//! start ─► Selecting ─OFFER─► Requesting ─ACK─► Bound ─T1─► Renewing ─T2─► Rebinding ─► expired: start again
//! start with an address ─► Rebooting ─ACK─► Bound            NAK anywhere: start again
//! ```
//! It takes the first offer. Driven with `start`, `handle_packet` and `handle_timeout`; drained with `poll_transmit` and
//! `poll_event`; woken at `poll_timeout`. Not here: setting the address on an interface, ARP before use (`decline` is
//! there for who did it).

use std::{
    collections::VecDeque,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use super::options::{self, Head, MessageType, Options, Packet, code};
use crate::model::MacAddr;

/// Times that a message is sent before the client starts over.
const TRIES: u32 = 5;
/// Between renewals that stay unanswered (RFC 2131 §4.4.5).
const SHORTEST_RENEWAL: Duration = Duration::from_secs(60);

/// What the client says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    pub mac: MacAddr,
    /// Option 61.
    pub client_id: Option<Vec<u8>>,
    /// Option 60.
    pub vendor_class: Option<Vec<u8>>,
    /// Option 77.
    pub user_class: Option<Vec<u8>>,
    /// Option 55.
    pub parameter_list: Vec<u8>,
    /// Option 12.
    pub host_name: Option<String>,
    /// Ask for replies by broadcast.
    pub broadcast: bool,
    /// An address it had before: the client begins with INIT-REBOOT.
    pub last_address: Option<Ipv4Addr>,
    /// Until the first retransmission; doubled for each further one. RFC 2131 §4.1 has 4 s.
    pub first_retry: Duration,
}

impl ClientConfig {
    /// A client that says no more than its MAC.
    pub fn new(mac: MacAddr) -> Self {
        Self {
            mac,
            client_id: None,
            vendor_class: None,
            user_class: None,
            parameter_list: Vec::new(),
            host_name: None,
            broadcast: false,
            last_address: None,
            first_retry: Duration::from_secs(4),
        }
    }
}

/// What the server granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub address: Ipv4Addr,
    /// Option 54: renewals go there.
    pub server: Ipv4Addr,
    /// Next server of the BOOTP header, zero if none.
    pub siaddr: Ipv4Addr,
    pub duration: Duration,
    pub t1: Duration,
    pub t2: Duration,
    /// Everything the ACK said.
    pub options: Options,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Init,
    Selecting,
    Requesting { address: Ipv4Addr, server: Ipv4Addr },
    Rebooting { address: Ipv4Addr },
    Bound,
    Renewing,
    Rebinding,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    Discovering,
    Offered {
        address: Ipv4Addr,
        server: Ipv4Addr,
    },
    /// It has an address now.
    Bound(Lease),
    /// The same address for longer.
    Renewed(Lease),
    /// A NAK: the address may not be used any more; the client starts over.
    Refused {
        reason: String,
    },
    /// Nobody renewed the lease: the address may not be used any more; the client starts over.
    Expired,
}

/// A packet to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    pub bytes: Vec<u8>,
    pub to: Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// From 0.0.0.0 (or its address when rebinding) to 255.255.255.255, port 67.
    Broadcast,
    /// From its address to the server's, port 67.
    Server(Ipv4Addr),
}

pub struct Client {
    config: ClientConfig,
    state: State,
    xid: u32,
    random: u64,
    /// Sent in this state so far, and when to send again.
    tries: u32,
    retry_at: Option<Instant>,
    /// When the present exchange began, for `secs`.
    began: Instant,
    lease: Option<Held>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<ClientEvent>,
}

struct Held {
    lease: Lease,
    renew_at: Instant,
    rebind_at: Instant,
    ends_at: Instant,
}

impl Client {
    /// `seed` makes transaction ids and the jitter of retransmissions: different for each client.
    pub fn new(config: ClientConfig, seed: u64, now: Instant) -> Self {
        Self {
            config,
            state: State::Init,
            xid: 0,
            // A xorshift of zero stays zero; neighbouring seeds are pulled apart.
            random: seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            tries: 0,
            retry_at: None,
            began: now,
            lease: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref().map(|held| &held.lease)
    }

    /// Transaction in progress, to tell clients that share a socket apart.
    pub fn xid(&self) -> u32 {
        self.xid
    }

    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let lease = self.lease.as_ref().and_then(|held| match self.state {
            State::Bound => Some(held.renew_at),
            State::Renewing => Some(held.rebind_at),
            State::Rebinding => Some(held.ends_at),
            _ => None,
        });
        [self.retry_at, lease].into_iter().flatten().min()
    }

    /// Begins: with the address it had, else from nothing.
    pub fn start(&mut self, now: Instant) {
        self.lease = None;
        match self.config.last_address {
            Some(address) => self.enter(now, State::Rebooting { address }),
            None => self.enter(now, State::Selecting),
        }
    }

    /// Gives the address back and stops.
    pub fn release(&mut self) {
        if let Some(held) = self.lease.take() {
            self.xid = self.next();
            let mut head = Head::request(self.xid, self.config.mac);
            head.ciaddr = held.lease.address;
            self.send(
                head,
                MessageType::Release,
                vec![(code::SERVER_ID, held.lease.server.octets().to_vec())],
                Target::Server(held.lease.server),
            );
        }
        self.stop();
    }

    /// Somebody else uses the address: says so and starts over, after the ten seconds of RFC 2131 §3.1.
    pub fn decline(&mut self, now: Instant) {
        if let Some(held) = self.lease.take() {
            self.xid = self.next();
            let head = Head::request(self.xid, self.config.mac);
            let more = vec![
                (code::REQUESTED_ADDRESS, held.lease.address.octets().to_vec()),
                (code::SERVER_ID, held.lease.server.octets().to_vec()),
            ];
            self.send(head, MessageType::Decline, more, Target::Broadcast);
        }
        self.stop();
        self.config.last_address = None;
        self.retry_at = Some(now + Duration::from_secs(10));
    }

    /// Asks for settings only, for an address that it has from elsewhere. The answer comes as `Renewed`, without times.
    pub fn inform(&mut self, address: Ipv4Addr) {
        self.xid = self.next();
        let mut head = Head::request(self.xid, self.config.mac);
        head.ciaddr = address;
        self.send(head, MessageType::Inform, vec![], Target::Broadcast);
    }

    /// Renews now rather than at T1, as a phone does when told to.
    pub fn renew(&mut self, now: Instant) {
        if self.state == State::Bound {
            self.enter(now, State::Renewing);
        }
    }

    fn stop(&mut self) {
        self.state = State::Init;
        self.retry_at = None;
        self.tries = 0;
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(held) = &self.lease {
            let (rebind_at, ends_at, renew_at) = (held.rebind_at, held.ends_at, held.renew_at);
            match self.state {
                State::Bound if now >= renew_at => self.enter(now, State::Renewing),
                State::Renewing if now >= rebind_at => self.enter(now, State::Rebinding),
                State::Rebinding if now >= ends_at => {
                    self.events.push_back(ClientEvent::Expired);
                    self.config.last_address = None;
                    self.start(now);
                }
                _ => {}
            }
        }
        if self.retry_at.is_none_or(|at| at > now) {
            return;
        }
        match self.state {
            State::Init => self.start(now),
            State::Requesting { .. } | State::Rebooting { .. } if self.tries >= TRIES => {
                self.config.last_address = None;
                self.enter(now, State::Selecting);
            }
            State::Bound => self.retry_at = None,
            _ => self.ask(now),
        }
    }

    pub fn handle_packet(&mut self, now: Instant, bytes: &[u8]) {
        let Ok(packet) = Packet::parse(bytes) else { return };
        if packet.head.op != Head::REPLY || packet.head.xid != self.xid || packet.head.mac() != Some(self.config.mac) {
            return;
        }
        match (self.state, packet.message_type()) {
            (State::Selecting, Some(MessageType::Offer)) => {
                let Some(server) = packet.options.address(code::SERVER_ID) else { return };
                let address = packet.head.yiaddr;
                self.events.push_back(ClientEvent::Offered { address, server });
                self.enter(now, State::Requesting { address, server });
            }
            (State::Requesting { .. } | State::Rebooting { .. }, Some(MessageType::Ack)) => {
                if let Some(lease) = self.take(now, packet) {
                    self.events.push_back(ClientEvent::Bound(lease));
                }
            }
            (State::Renewing | State::Rebinding, Some(MessageType::Ack)) => {
                if let Some(lease) = self.take(now, packet) {
                    self.events.push_back(ClientEvent::Renewed(lease));
                }
            }
            (State::Init | State::Bound, Some(MessageType::Ack)) => {
                let (address, none) = (packet.head.ciaddr, Duration::ZERO);
                let server = packet.options.address(code::SERVER_ID).unwrap_or(Ipv4Addr::UNSPECIFIED);
                let siaddr = packet.head.siaddr;
                let lease = Lease { address, server, siaddr, duration: none, t1: none, t2: none, options: packet.options };
                self.events.push_back(ClientEvent::Renewed(lease));
            }
            (State::Init | State::Selecting | State::Bound, _) => {}
            (_, Some(MessageType::Nak)) => {
                self.events.push_back(ClientEvent::Refused { reason: packet.options.text(code::MESSAGE).unwrap_or_default() });
                self.config.last_address = None;
                self.start(now);
            }
            _ => {}
        }
    }

    fn take(&mut self, now: Instant, packet: Packet) -> Option<Lease> {
        let secs = |code| packet.options.u32(code).map(|secs| Duration::from_secs(secs.into()));
        let duration = secs(code::LEASE_TIME)?;
        let lease = Lease {
            address: packet.head.yiaddr,
            server: packet.options.address(code::SERVER_ID)?,
            siaddr: packet.head.siaddr,
            duration,
            t1: secs(code::T1).unwrap_or(duration / 2),
            t2: secs(code::T2).unwrap_or(duration * 7 / 8),
            options: packet.options,
        };
        self.lease = Some(Held { renew_at: now + lease.t1, rebind_at: now + lease.t2, ends_at: now + duration, lease: lease.clone() });
        self.config.last_address = Some(lease.address);
        self.state = State::Bound;
        self.retry_at = None;
        Some(lease)
    }

    fn enter(&mut self, now: Instant, state: State) {
        // RFC 2131 §4.4.1: the REQUEST after an OFFER keeps its transaction.
        if !matches!(state, State::Requesting { .. }) {
            self.xid = self.next();
            self.began = now;
        }
        if state == State::Selecting {
            self.events.push_back(ClientEvent::Discovering);
        }
        self.state = state;
        self.tries = 0;
        self.ask(now);
    }

    /// Sends what the state is about, and sets the time to do so again.
    fn ask(&mut self, now: Instant) {
        let mut head = Head::request(self.xid, self.config.mac);
        head.secs = (now - self.began).as_secs().min(u16::MAX.into()) as u16;
        let octets = |address: Ipv4Addr| address.octets().to_vec();
        let held = self.lease.as_ref().map(|held| (held.lease.address, held.lease.server, held.rebind_at, held.ends_at));
        let (kind, more, to, until) = match (self.state, held) {
            (State::Selecting, _) => (MessageType::Discover, vec![], Target::Broadcast, None),
            (State::Requesting { address, server }, _) => {
                let more = vec![(code::REQUESTED_ADDRESS, octets(address)), (code::SERVER_ID, octets(server))];
                (MessageType::Request, more, Target::Broadcast, None)
            }
            (State::Rebooting { address }, _) => {
                (MessageType::Request, vec![(code::REQUESTED_ADDRESS, octets(address))], Target::Broadcast, None)
            }
            (State::Renewing, Some((address, server, rebind_at, _))) => {
                head.ciaddr = address;
                (MessageType::Request, vec![], Target::Server(server), Some(rebind_at))
            }
            (State::Rebinding, Some((address, _, _, ends_at))) => {
                head.ciaddr = address;
                (MessageType::Request, vec![], Target::Broadcast, Some(ends_at))
            }
            _ => return self.retry_at = None,
        };
        self.send(head, kind, more, to);
        self.tries += 1;
        self.retry_at = Some(match until {
            // Half of what is left (RFC 2131 §4.4.5).
            Some(until) => now + (until.saturating_duration_since(now) / 2).max(SHORTEST_RENEWAL),
            None => {
                // 4, 8, 16, 32, 64 s, each a quarter more or less at random.
                let base = self.config.first_retry * 2u32.pow((self.tries - 1).min(4));
                now + base * 3 / 4 + base / 2 * (self.next() % 1024) / 1024
            }
        });
    }

    fn send(&mut self, mut head: Head, kind: MessageType, more: Vec<(u8, Vec<u8>)>, to: Target) {
        let config = &self.config;
        if config.broadcast && head.ciaddr.is_unspecified() {
            head.flags |= Head::BROADCAST;
        }
        let mut list = vec![(code::MESSAGE_TYPE, vec![kind.into()])];
        list.extend(more);
        list.extend(config.client_id.clone().map(|value| (code::CLIENT_ID, value)));
        if !matches!(kind, MessageType::Release | MessageType::Decline) {
            let text = |code, value: &Option<Vec<u8>>| value.clone().map(|value| (code, value));
            list.extend(text(code::VENDOR_CLASS, &config.vendor_class));
            list.extend(text(code::USER_CLASS, &config.user_class));
            list.extend(config.host_name.as_ref().map(|name| (code::HOST_NAME, name.as_bytes().to_vec())));
            if !config.parameter_list.is_empty() {
                list.push((code::PARAMETER_LIST, config.parameter_list.clone()));
            }
        }
        self.transmits.push_back(Transmit { bytes: options::encode(&head, &list, options::MIN_MAX_SIZE).bytes, to });
    }

    /// xorshift64*: good enough for ids that only tell neighbours apart.
    fn next(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const MAC: MacAddr = MacAddr([0, 0x15, 0x65, 1, 2, 3]);

    struct Story {
        client: Client,
        began: Instant,
    }

    impl Story {
        fn new(change: impl FnOnce(&mut ClientConfig)) -> Self {
            let began = Instant::now();
            let mut config = ClientConfig::new(MAC);
            config.vendor_class = Some(b"yealink".to_vec());
            config.parameter_list = vec![1, 3, 66];
            change(&mut config);
            Self { client: Client::new(config, 7, began), began }
        }

        fn at(&self, secs: u64) -> Instant {
            self.began + Duration::from_secs(secs)
        }

        fn sent(&mut self) -> Option<(Packet, Target)> {
            self.client.poll_transmit().map(|transmit| (Packet::parse(&transmit.bytes).unwrap(), transmit.to))
        }

        fn hears(&mut self, secs: u64, kind: MessageType, yiaddr: Ipv4Addr) {
            let mut head = Head::request(self.client.xid(), MAC);
            head.op = Head::REPLY;
            head.yiaddr = yiaddr;
            let list =
                [(53, vec![kind.into()]), (54, SERVER.octets().to_vec()), (51, 1000u32.to_be_bytes().to_vec()), (66, b"tftp".to_vec())];
            let at = self.at(secs);
            self.client.handle_packet(at, &options::encode(&head, &list, 0).bytes);
        }
    }

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 50);

    #[test]
    fn from_nothing_to_a_lease_and_on() {
        let mut story = Story::new(|_| {});
        story.client.start(story.at(0));
        let (discover, to) = story.sent().unwrap();
        assert_eq!((discover.message_type(), to), (Some(MessageType::Discover), Target::Broadcast));
        assert_eq!(discover.options.get(60), Some(&b"yealink"[..]));

        story.client.handle_timeout(story.at(2));
        assert!(story.sent().is_none(), "too early to repeat");
        story.client.handle_timeout(story.at(6));
        let (again, _) = story.sent().unwrap();
        assert_eq!((again.head.xid, again.head.secs), (discover.head.xid, 6));

        story.hears(6, MessageType::Offer, ADDRESS);
        let (request, to) = story.sent().unwrap();
        assert_eq!((request.options.address(50), request.options.address(54), to), (Some(ADDRESS), Some(SERVER), Target::Broadcast));
        assert_eq!(request.head.xid, discover.head.xid);
        story.hears(7, MessageType::Ack, ADDRESS);
        let events: Vec<_> = std::iter::from_fn(|| story.client.poll_event()).collect();
        assert!(
            matches!(&events[..], [ClientEvent::Discovering, ClientEvent::Offered { .. }, ClientEvent::Bound(lease)]
            if lease.address == ADDRESS && lease.options.text(66).as_deref() == Some("tftp")),
            "{events:?}"
        );

        assert_eq!(story.client.poll_timeout(), Some(story.at(507)));
        story.client.handle_timeout(story.at(507));
        let (renewal, to) = story.sent().unwrap();
        assert_eq!((renewal.head.ciaddr, renewal.options.address(54), to), (ADDRESS, None, Target::Server(SERVER)));
        story.client.handle_timeout(story.at(882));
        assert_eq!(story.sent().map(|(_, to)| to), Some(Target::Broadcast), "rebinding");
        story.hears(900, MessageType::Ack, ADDRESS);
        assert!(matches!(story.client.poll_event(), Some(ClientEvent::Renewed(_))));
        story.client.release();
        let (release, _) = story.sent().unwrap();
        assert_eq!((release.message_type(), release.head.ciaddr), (Some(MessageType::Release), ADDRESS));
        assert_eq!((story.client.state(), story.client.poll_timeout()), (State::Init, None));
    }

    #[test]
    fn nobody_renews() {
        let mut story = Story::new(|config| config.last_address = Some(ADDRESS));
        story.client.start(story.at(0));
        let (reboot, _) = story.sent().unwrap();
        assert_eq!((reboot.options.address(50), reboot.options.address(54)), (Some(ADDRESS), None));
        story.hears(0, MessageType::Ack, ADDRESS);
        for secs in [500, 875, 1000] {
            story.client.handle_timeout(story.at(secs));
        }
        let events: Vec<_> = std::iter::from_fn(|| story.client.poll_event()).collect();
        assert!(matches!(&events[..], [ClientEvent::Bound(_), ClientEvent::Expired, ClientEvent::Discovering]), "{events:?}");
        assert!(story.client.lease().is_none());
    }

    #[test]
    fn a_nak_starts_over_and_silence_too() {
        let mut story = Story::new(|config| config.last_address = Some(ADDRESS));
        story.client.start(story.at(0));
        story.hears(0, MessageType::Nak, Ipv4Addr::UNSPECIFIED);
        assert!(matches!(story.client.poll_event(), Some(ClientEvent::Refused { .. })));
        assert_eq!(story.client.state(), State::Selecting);
        story.hears(0, MessageType::Offer, ADDRESS);
        for secs in (0..200).step_by(10) {
            story.client.handle_timeout(story.at(secs));
        }
        assert_eq!(story.client.state(), State::Selecting, "the server that offered fell silent");
    }
}
