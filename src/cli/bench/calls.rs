//! The load of `bench calls`: phones that call each other through the server at a given rate, over one socket, without sound.
//!
//! One thread, one [`Endpoint`] and one [`UserAgent`] for both ends of every call. A caller's INVITE is challenged and comes
//! again, the callee rings and answers, both talk for a while, the caller hangs up.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::register::{Identity, socket};
use crate::sip::{
    endpoint::{self, Endpoint},
    register_client::{self, RegisterClient},
    transport::Flow,
    ua::{self, Invite, LegEvent, LegId, UserAgent},
};

/// Calls that come, are answered and end.
pub(super) struct Load<'a> {
    pub(super) server: SocketAddr,
    /// Phones; the first half calls the second.
    pub(super) phones: u32,
    pub(super) identity: &'a dyn Fn(u32) -> Identity,
    pub(super) calls: usize,
    /// Calls that begin in a second.
    pub(super) rate: u32,
    /// From a call's answer to its end.
    pub(super) talk: Duration,
    /// Called when the phones are registered, when as many calls are up as will be, and when all are over.
    pub(super) mark: &'a mut dyn FnMut(),
}

#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) answered: usize,
    pub(super) failed: usize,
    /// The status of the first that failed.
    pub(super) first_failure: Option<u16>,
    pub(super) took: Duration,
    /// From the caller's first INVITE to its 200, sorted.
    setups: Vec<Duration>,
    /// Calls up at once at most.
    pub(super) most: usize,
}

impl Report {
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let at = (self.setups.len() * percent / 100).min(self.setups.len().saturating_sub(1));
        self.setups.get(at).copied().unwrap_or_default()
    }
}

const SDP: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 8 101\r\n\
                   a=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\n";

struct Loader {
    endpoint: Endpoint,
    agent: UserAgent,
    flow: Flow,
    socket: std::net::UdpSocket,
    /// Callers that wait for an answer, since when.
    calling: HashMap<LegId, Instant>,
    /// Callers that talk, and until when.
    talking: BTreeSet<(Instant, LegId)>,
    up: usize,
    report: Report,
}

impl Load<'_> {
    /// Registers the phones, places the calls and returns when the last is over. Blocks.
    pub(super) fn run(self) -> anyhow::Result<Report> {
        let socket = socket(self.server)?;
        let flow = Flow::udp(socket.local_addr()?, self.server);
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("{error}"))?;
        let config = endpoint::Config { max_transactions: usize::MAX, ..endpoint::Config::default() };
        let agent = UserAgent::new(ua::Config { max_legs: usize::MAX, ..ua::Config::default() });
        let endpoint = Endpoint::new(config, seed);
        let (calling, talking, report) = (HashMap::new(), BTreeSet::new(), Report::default());
        let mut loader = Loader { endpoint, agent, flow, socket, calling, talking, up: 0, report };
        for number in 0..self.phones {
            loader.register((self.identity)(number))?;
        }
        (self.mark)();
        let began = Instant::now();
        let (mut placed, mut middle) = (0, false);
        let half = (self.phones / 2).max(1);
        while placed < self.calls || loader.up > 0 || !loader.calling.is_empty() {
            let now = Instant::now();
            let due = began + Duration::from_secs_f64(placed as f64 / f64::from(self.rate));
            if placed < self.calls && due <= now {
                let caller = placed as u32 % half;
                let (from, to) = ((self.identity)(caller), (self.identity)(half + caller).user);
                loader.call(now, from, &to);
                placed += 1;
                loader.settle(self.talk);
                continue;
            }
            if !middle && placed * 3 > self.calls {
                middle = true;
                (self.mark)();
            }
            if began.elapsed() > Duration::from_secs_f64(self.calls as f64 / f64::from(self.rate) + 60.0) {
                anyhow::bail!("{} calls hang", loader.up + loader.calling.len());
            }
            let next = (placed < self.calls).then_some(due);
            loader.wait(next)?;
            loader.settle(self.talk);
        }
        loader.report.took = began.elapsed();
        (self.mark)();
        loader.report.setups.sort_unstable();
        Ok(loader.report)
    }
}

impl Loader {
    fn register(&mut self, identity: Identity) -> anyhow::Result<()> {
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
        client.register(Instant::now(), &mut self.endpoint);
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            self.flush();
            self.receive(Some(Instant::now() + Duration::from_millis(100)))?;
            while let Some(event) = self.endpoint.poll_event() {
                client.handle(Instant::now(), &mut self.endpoint, event);
            }
            match client.poll_event() {
                Some(register_client::Event::Registered { .. }) => return Ok(()),
                Some(register_client::Event::Failed { .. }) => anyhow::bail!("a phone may not register"),
                _ => {}
            }
        }
        anyhow::bail!("the server does not let a phone register")
    }

    fn call(&mut self, now: Instant, from: Identity, to: &str) {
        let server = self.flow.peer;
        let uri = format!("sip:{to}@{server}");
        let leg = self.agent.new_leg();
        let invite = Invite {
            to: uri.clone(),
            uri,
            from: (String::new(), format!("sip:{}@{server}", from.user)),
            flow: self.flow,
            contact_user: from.user,
            offer: Some(Bytes::from_static(SDP.as_bytes())),
            credentials: Some(from.credentials),
            routes: Vec::new(),
            headers: Vec::new(),
            spare: Vec::new(),
            gr: None,
        };
        self.calling.insert(leg, now);
        self.agent.invite(now, &mut self.endpoint, leg, invite);
    }

    /// Takes what has arrived; waits for it until something is to be done.
    fn wait(&mut self, next: Option<Instant>) -> anyhow::Result<()> {
        let own = self.endpoint.poll_timeout().into_iter().chain(self.agent.poll_timeout());
        let wake = own.chain(next).chain(self.talking.first().map(|(at, _)| *at)).min();
        self.receive(wake)
    }

    fn receive(&mut self, until: Option<Instant>) -> anyhow::Result<()> {
        let pause = until.map_or(Duration::from_millis(100), |until| until.saturating_duration_since(Instant::now()));
        self.socket.set_read_timeout(Some(pause.clamp(Duration::from_micros(50), Duration::from_millis(100))))?;
        let mut datagram = [0; 8192];
        let mut wait = true;
        for _ in 0..64 {
            let Ok(len) = self.socket.recv(&mut datagram) else { break };
            let bytes = Bytes::copy_from_slice(datagram.get(..len).unwrap_or_default());
            self.endpoint.handle_message(Instant::now(), self.flow, bytes);
            if std::mem::take(&mut wait) {
                self.socket.set_nonblocking(true)?;
            }
        }
        self.socket.set_nonblocking(false)?;
        Ok(())
    }

    fn settle(&mut self, talk: Duration) {
        let now = Instant::now();
        self.endpoint.handle_timeout(now);
        self.agent.handle_timeout(now, &mut self.endpoint);
        while let Some((_, leg)) = self.talking.first().copied().filter(|(at, _)| *at <= now) {
            self.talking.pop_first();
            self.agent.hangup(now, &mut self.endpoint, leg, None);
            self.up -= 1;
        }
        while let Some(event) = self.endpoint.poll_event() {
            self.agent.handle(now, &mut self.endpoint, event);
        }
        while let Some(event) = self.agent.poll_event() {
            match event {
                ua::Event::Incoming { leg, .. } => {
                    self.agent.ring(now, &mut self.endpoint, leg);
                    self.agent.answer(now, &mut self.endpoint, leg, Bytes::from_static(SDP.as_bytes()));
                }
                ua::Event::Leg { leg, event } => self.handle(now, leg, &event, talk),
                ua::Event::Request { .. } | ua::Event::Replied { .. } => {}
            }
        }
        self.flush();
    }

    fn handle(&mut self, now: Instant, leg: LegId, event: &LegEvent, talk: Duration) {
        match event {
            LegEvent::Answered { .. } => {
                let Some(since) = self.calling.remove(&leg) else { return };
                self.report.setups.push(now - since);
                self.report.answered += 1;
                self.up += 1;
                self.report.most = self.report.most.max(self.up);
                self.talking.insert((now + talk, leg));
            }
            LegEvent::Refused { status, .. } if self.calling.remove(&leg).is_some() => {
                self.report.failed += 1;
                self.report.first_failure.get_or_insert(*status);
            }
            LegEvent::Ended { .. } => {
                if self.calling.remove(&leg).is_some() {
                    self.report.failed += 1;
                }
                let before = self.talking.len();
                self.talking.retain(|(_, other)| *other != leg);
                self.up -= before - self.talking.len();
            }
            _ => {}
        }
    }

    fn flush(&mut self) {
        while let Some(transmit) = self.endpoint.poll_transmit() {
            // What does not fit is lost, as on the network, and comes again.
            let _ = self.socket.send(&transmit.bytes);
        }
    }
}
