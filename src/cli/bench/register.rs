//! The load of `bench register`: phones that register over one socket, so many at a time, each as stubborn as a real one.
//!
//! One thread, one [`Endpoint`], a [`RegisterClient`] per phone: what is lost is repeated by its transaction, what is refused is tried
//! again after the pause that the server named. The same load is put on Kamailio (`kamailio.rs`), so that figures compare.

use std::{
    collections::{BTreeSet, HashMap},
    net::{Ipv4Addr, SocketAddr},
    ops::Range,
    time::{Duration, Instant},
};

use bytes::Bytes;
use socket2::{Domain, Protocol, Socket, Type};

use crate::sip::{
    digest::Credentials,
    endpoint::{self, ClientTx, Endpoint, Event},
    register_client::{self, RegisterClient},
    transport::Flow,
};

/// Who a phone of the load is.
pub(super) struct Identity {
    /// User part of its address of record.
    pub(super) user: String,
    pub(super) credentials: Credentials,
}

pub(super) struct Load<'a> {
    pub(super) server: SocketAddr,
    pub(super) phones: Range<u32>,
    /// Phones that are registering at a time.
    pub(super) at_once: usize,
    pub(super) identity: &'a dyn Fn(u32) -> Identity,
    /// When to give up on those that are not in service yet.
    pub(super) patience: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) registered: usize,
    /// Not in service when the patience was over.
    pub(super) missing: usize,
    /// Refusals and silences on the way; each was tried again.
    pub(super) setbacks: usize,
    /// Until the last one was in service.
    pub(super) took: Duration,
    /// From a phone's first REGISTER to its 200, sorted.
    waits: Vec<Duration>,
}

impl Report {
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let at = (self.waits.len() * percent / 100).min(self.waits.len().saturating_sub(1));
        self.waits.get(at).copied().unwrap_or_default()
    }
}

struct Phone {
    client: RegisterClient,
    began: Instant,
}

struct Loader {
    endpoint: Endpoint,
    flow: Flow,
    phones: Vec<Phone>,
    waiting: HashMap<ClientTx, usize>,
    /// Phones that pause after a refusal.
    pauses: BTreeSet<(Instant, usize)>,
    under_way: usize,
    report: Report,
}

impl Load<'_> {
    /// Registers every phone once and returns when all are in service, or the patience is over. Blocks.
    pub(super) fn run(self) -> anyhow::Result<Report> {
        let socket = socket(self.server)?;
        let flow = Flow::udp(socket.local_addr()?, self.server);
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("{error}"))?;
        let config = endpoint::Config { max_transactions: usize::MAX, ..endpoint::Config::default() };
        let mut loader = Loader {
            endpoint: Endpoint::new(config, seed),
            flow,
            phones: Vec::with_capacity(self.phones.len()),
            waiting: HashMap::new(),
            pauses: BTreeSet::new(),
            under_way: 0,
            report: Report::default(),
        };
        let began = Instant::now();
        let mut next = self.phones.clone();
        let mut datagram = vec![0; 65_535];
        while loader.report.registered < self.phones.len() && began.elapsed() < self.patience {
            while loader.under_way < self.at_once
                && let Some(number) = next.next()
            {
                loader.begin((self.identity)(number));
                // Answers must not overflow our own socket while ten thousand phones wake up.
                loader.flush(&socket);
                if loader.phones.len().is_multiple_of(16) {
                    loader.take(&socket, &mut datagram);
                }
            }
            let wake = loader.endpoint.poll_timeout().into_iter().chain(loader.pauses.first().map(|(at, _)| *at)).min();
            let pause = wake.map_or(Duration::from_millis(100), |wake| wake.saturating_duration_since(Instant::now()));
            socket.set_read_timeout(Some(pause.clamp(Duration::from_millis(1), Duration::from_millis(100))))?;
            if let Ok(len) = socket.recv(&mut datagram) {
                loader.handle(datagram.get(..len).unwrap_or_default());
                loader.take(&socket, &mut datagram);
            }
            loader.handle_timeout(Instant::now());
            loader.flush(&socket);
        }
        loader.report.took = began.elapsed();
        loader.report.missing = self.phones.len() - loader.report.registered;
        loader.report.waits.sort_unstable();
        Ok(loader.report)
    }
}

impl Loader {
    fn begin(&mut self, identity: Identity) {
        let Identity { user, credentials } = identity;
        let server = self.flow.peer;
        let config = register_client::Config {
            aor: format!("sip:{user}@{}", server.ip()),
            display_name: String::new(),
            registrar: format!("sip:{server}"),
            flow: self.flow,
            contact_user: user,
            credentials,
            expires_secs: 3600,
        };
        let mut client = RegisterClient::new(&mut self.endpoint, config);
        let now = Instant::now();
        client.register(now, &mut self.endpoint);
        self.under_way += 1;
        self.phones.push(Phone { client, began: now });
        self.note(self.phones.len() - 1);
    }

    /// Everything that has arrived, without waiting.
    fn take(&mut self, socket: &std::net::UdpSocket, datagram: &mut [u8]) {
        let _ = socket.set_nonblocking(true);
        for _ in 0..256 {
            let Ok(len) = socket.recv(datagram) else { break };
            self.handle(datagram.get(..len).unwrap_or_default());
        }
        let _ = socket.set_nonblocking(false);
        self.flush(socket);
    }

    fn handle(&mut self, datagram: &[u8]) {
        self.endpoint.handle_message(Instant::now(), self.flow, Bytes::copy_from_slice(datagram));
        self.settle();
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.endpoint.handle_timeout(now);
        while let Some((_, index)) = self.pauses.first().copied().filter(|(at, _)| *at <= now) {
            self.pauses.pop_first();
            if let Some(phone) = self.phones.get_mut(index) {
                phone.client.handle_timeout(now, &mut self.endpoint);
            }
            self.note(index);
        }
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            let (Event::Response { tx, .. } | Event::TimedOut { tx } | Event::TransportFailed { tx }) = event else { continue };
            let Some(index) = self.waiting.remove(&tx) else { continue };
            let Some(phone) = self.phones.get_mut(index) else { continue };
            let now = Instant::now();
            phone.client.handle(now, &mut self.endpoint, event);
            match phone.client.poll_event() {
                Some(register_client::Event::Registered { .. }) => {
                    self.report.registered += 1;
                    self.under_way -= 1;
                    self.report.waits.push(now - phone.began);
                }
                Some(register_client::Event::Failed { .. }) => {
                    self.report.setbacks += 1;
                    self.pauses.extend(phone.client.poll_timeout().map(|at| (at, index)));
                }
                _ => self.note(index),
            }
        }
    }

    fn note(&mut self, index: usize) {
        if let Some(tx) = self.phones.get(index).and_then(|phone| phone.client.waits_for()) {
            self.waiting.insert(tx, index);
        }
    }

    fn flush(&mut self, socket: &std::net::UdpSocket) {
        while let Some(transmit) = self.endpoint.poll_transmit() {
            // What does not fit is lost, as on the network, and comes again.
            let _ = socket.send(&transmit.bytes);
        }
    }
}

pub(super) fn socket(server: SocketAddr) -> std::io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // As ten thousand phones have between them: ours is the only socket for all.
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(16 << 20))
        .or_else(|_| socket.set_recv_buffer_size(16 << 20))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.connect(&server.into())?;
    Ok(socket.into())
}
