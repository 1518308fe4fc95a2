//! A phone on a desk: takes an address, boots, registers, calls and is called, obeys check-sync. One task per phone.
//! Of a server that is gone it does not despair: it asks again for a file that did not come, lives on with the account
//! that it has, registers again, and gives up an address that nobody renews.
//!
//! ```text
//!  plugged in ─► DHCP ─► files ─► REGISTER ─► on the desk ──check-sync, poll──► files ─► …
//!                  ▲                              │
//!                  └──────── reboot ──────────────┘
//! ```
//! [`Phone`] is its handle: orders in, [`News`] out. What a person does with it is `person.rs`. An adapter has a handle for each port
//! where an old telephone is plugged in: one address, one boot, and a line for each.

use std::{
    mem,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::join_all;
use serde::Serialize;
use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::sleep_until,
};

use super::{
    audio::{Handset, Say},
    boot::{Boot, Outcome, Scheme, Server},
    ftp, http,
    make::Make,
    settings::{Account, Fault},
    tftp,
};
use crate::{
    dhcp::{
        client::LoopbackClient,
        client_core::{ClientConfig, ClientEvent, Lease},
    },
    media::listen::Heard,
    model::{Keys, MacAddr, Secret},
    sdp::{self, Description, Direction, Session, Terms},
    sip::{
        build::Response,
        digest::Credentials,
        endpoint::{self, Endpoint},
        message::{Message, Method},
        name::Name,
        register_client::{self, RegisterClient},
        transport::Flow,
        ua::{self, Ended, Invite, LegEvent, LegId, UserAgent},
    },
};

/// How a phone that could not boot or register waits before it tries again.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// A file that did not come, as the server is gone or broke off, is asked for so often, with pauses of so long.
const FETCH_TRIES: u32 = 3;
const FETCH_AGAIN: Duration = Duration::from_secs(1);
/// Longest wait for an address before the phone says that there is none.
const DHCP_PATIENCE: Duration = Duration::from_secs(60);

/// A phone in its box.
#[derive(Clone, Debug)]
pub struct Config {
    pub make: Make,
    pub mac: MacAddr,
    pub network: Network,
    /// Lifts the receiver by itself when called, after so long. `None`: rings until told.
    pub answer_after: Option<Duration>,
}

/// What the phone's cable ends in.
#[derive(Clone, Debug)]
pub enum Network {
    /// A DHCP server on loopback: the phone really takes the address that it is leased, if that is in 127.0.0.0/8.
    Loopback { dhcp: SocketAddr },
    /// The address is there already, and files are at `server`: a host or a URL, as option 66 would say it.
    Given { address: IpAddr, server: String },
}

/// What the phone can be told.
#[derive(Clone, Debug)]
pub enum Order {
    Call {
        to: String,
    },
    /// Lifts the receiver of a phone that rings.
    Answer,
    Press(Keys),
    Say(Say),
    HangUp,
    /// Fetches its files again, as from its menu.
    Reload,
}

/// What happened, seen from the phone.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum News {
    Discovering,
    Offered {
        address: Ipv4Addr,
    },
    Leased {
        address: Ipv4Addr,
        server: String,
    },
    NoAddress {
        reason: String,
    },
    Fetched {
        name: String,
        bytes: usize,
    },
    Missing {
        name: String,
    },
    FetchFailed {
        name: String,
        reason: String,
    },
    /// It has all of a firmware, and runs it when it is up again.
    Installing {
        name: String,
        bytes: usize,
        from: String,
        to: String,
    },
    FirmwareRefused {
        name: String,
        reason: String,
    },
    Booted {
        user: String,
        hotline: Option<String>,
    },
    BootFailed {
        reason: String,
    },
    Registered {
        user: String,
    },
    RegisterRefused {
        user: String,
        status: u16,
    },
    Calling {
        to: String,
    },
    Ringing,
    Incoming {
        from: String,
    },
    Answered,
    CallRefused {
        status: u16,
    },
    CallEnded {
        how: String,
    },
    Heard(Heard),
    Keyed {
        count: usize,
    },
    CheckSync {
        event: String,
    },
    Reloading {
        why: &'static str,
    },
}

/// A phone that is plugged in. Dropping it, of an adapter all its ports, pulls the plug: nothing is said to anybody.
pub struct Phone {
    pub mac: MacAddr,
    pub make: Make,
    orders: mpsc::Sender<Order>,
    news: mpsc::Receiver<News>,
    _plug: Arc<Plug>,
}

struct Plug(JoinHandle<()>);

impl Drop for Plug {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Phone {
    /// Plugs it in; of an adapter there is somebody at the first port only.
    pub fn plug_in(config: Config) -> Self {
        Self::plug_in_ports(config).swap_remove(0)
    }

    /// Plugs it in, with somebody at each of its ports.
    pub fn plug_in_ports(config: Config) -> Vec<Self> {
        let (mac, make) = (config.mac, config.make);
        let count = 1 + make.ports.len();
        let (orders, inboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(64)).unzip();
        let (tell, news): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(4096)).unzip();
        let desk = Desk { firmware: make.firmware.to_owned(), config, tell, last_address: None, accounts: Vec::new() };
        let plug = Arc::new(Plug(tokio::spawn(desk.run(inboxes))));
        let ports = orders.into_iter().zip(news);
        ports.map(|(orders, news)| Self { mac, make, orders, news, _plug: plug.clone() }).collect()
    }

    /// The next thing that happens. `None`: the phone is broken.
    pub async fn news(&mut self) -> Option<News> {
        self.news.recv().await
    }

    pub async fn order(&self, order: Order) {
        // A phone that is gone obeys nobody.
        let _ = self.orders.send(order).await;
    }
}

struct Desk {
    config: Config,
    /// Of each port; a phone has one.
    tell: Vec<mpsc::Sender<News>>,
    last_address: Option<Ipv4Addr>,
    /// What its last good files said of each port, as a phone keeps it in flash.
    accounts: Vec<Option<Account>>,
    /// What it runs.
    firmware: String,
}

/// Why the phone left the desk's ordinary life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    Files,
    /// From the beginning, address included.
    Reboot,
}

/// An address, the server's name, and who renews the lease.
struct Connected {
    address: IpAddr,
    server: Server,
    lease: Option<LoopbackClient>,
}

impl Desk {
    async fn run(mut self, mut orders: Vec<mpsc::Receiver<Order>>) {
        loop {
            let mut connected = match self.connect().await {
                Ok(connected) => connected,
                Err(reason) => {
                    self.say(News::NoAddress { reason });
                    tokio::time::sleep(TRY_AGAIN).await;
                    continue;
                }
            };
            loop {
                let (booted, firmware) = self.boot(&connected).await;
                if let Some(firmware) = firmware
                    && self.install(&connected, &firmware).await
                {
                    break;
                }
                self.accounts = match (booted, mem::take(&mut self.accounts)) {
                    (Ok(accounts), _) => accounts,
                    (Err(fault), mut kept) => {
                        self.say(News::BootFailed { reason: fault.to_string() });
                        let Some(Some(first)) = kept.first_mut() else {
                            tokio::time::sleep(TRY_AGAIN).await;
                            continue;
                        };
                        // It goes on with what it has, and looks again soon.
                        first.poll_secs = Some(TRY_AGAIN.as_secs() as u32);
                        kept
                    }
                };
                if self.live(&mut connected, &mut orders).await == Again::Reboot {
                    break;
                }
            }
        }
    }

    /// All its ports at once, until it has to leave for its files or its address and is in no call.
    async fn live(&self, connected: &mut Connected, orders: &mut [mpsc::Receiver<Order>]) -> Again {
        let leave = watch::Sender::new(None);
        let (address, leaving) = (connected.address, &leave);
        let ports = self.accounts.iter().zip(&self.tell).zip(orders);
        let in_use = ports.filter_map(|((account, tell), orders)| Some((account.clone()?, tell, orders)));
        let lines = in_use.map(async |(account, tell, orders)| {
            say(tell, News::Booted { user: account.user.clone(), hotline: account.hotline.clone() });
            match Line::open(self, tell, leaving, account, address).await {
                Ok(mut line) => line.live(orders).await,
                Err(reason) => {
                    say(tell, News::BootFailed { reason });
                    tokio::time::sleep(TRY_AGAIN).await;
                    leaving.send_if_modified(|why| why.replace(why.unwrap_or(Again::Files)).is_none());
                }
            }
        });
        let mut lines = pin!(join_all(lines));
        loop {
            tokio::select! {
                _ = &mut lines => return leave.borrow().unwrap_or(Again::Files),
                () = lost(&mut connected.lease) => leave.send_replace(Some(Again::Reboot)),
            };
        }
    }

    fn say(&self, news: News) {
        self.tell.iter().for_each(|tell| say(tell, news.clone()));
    }

    async fn connect(&mut self) -> Result<Connected, String> {
        let make = &self.config.make;
        let dhcp = match &self.config.network {
            Network::Given { address, server } => {
                let server = Server::parse(server, make.default_scheme).map_err(|error| error.to_string())?;
                return Ok(Connected { address: *address, server, lease: None });
            }
            Network::Loopback { dhcp } => *dhcp,
        };
        let client = ClientConfig {
            vendor_class: make.vendor_class.map(<[u8]>::to_vec),
            parameter_list: make.asks_for.to_vec(),
            last_address: self.last_address,
            ..ClientConfig::new(self.config.mac)
        };
        let mut seed = [0u8; 8];
        getrandom::fill(&mut seed).map_err(|error| error.to_string())?;
        let mut client =
            LoopbackClient::new(dhcp, Ipv4Addr::LOCALHOST, client, u64::from_ne_bytes(seed)).await.map_err(|error| error.to_string())?;
        client.start();
        let lease = tokio::time::timeout(DHCP_PATIENCE, self.lease(&mut client))
            .await
            .map_err(|_| format!("no DHCP server answered within {} s", DHCP_PATIENCE.as_secs()))??;
        self.last_address = Some(lease.address);
        let server = self.server_of(&lease)?;
        let shown = format!("{}://{}:{}", server.scheme, server.host, server.port);
        self.say(News::Leased { address: lease.address, server: shown });
        // Outside of loopback the address would have to be configured first: then the files are asked from any address.
        let address = if lease.address.is_loopback() { lease.address } else { Ipv4Addr::UNSPECIFIED };
        Ok(Connected { address: address.into(), server, lease: Some(client) })
    }

    async fn lease(&self, client: &mut LoopbackClient) -> Result<Lease, String> {
        loop {
            match client.event().await.map_err(|error| error.to_string())? {
                ClientEvent::Discovering => self.say(News::Discovering),
                ClientEvent::Offered { address, .. } => self.say(News::Offered { address }),
                ClientEvent::Bound(lease) | ClientEvent::Renewed(lease) => return Ok(lease),
                ClientEvent::Refused { .. } | ClientEvent::Expired => {}
            }
        }
    }

    /// The first of the make's options that the lease carries.
    fn server_of(&self, lease: &Lease) -> Result<Server, String> {
        let make = &self.config.make;
        let named = make.server_options.iter().find_map(|code| lease.options.get(*code));
        let Some(value) = named else { return Err(format!("the lease names no server in the options {:?}", make.server_options)) };
        let text = String::from_utf8_lossy(value);
        Server::parse(text.trim_end_matches('\0'), make.default_scheme).map_err(|error| error.to_string())
    }

    /// Fetches the firmware that its files name, and takes it if it is another than it has. `true`: it starts anew with it.
    async fn install(&mut self, connected: &Connected, wanted: &str) -> bool {
        let refused = |reason: String| News::FirmwareRefused { name: wanted.to_owned(), reason };
        let (server, path) = match wanted.contains("://").then(|| Server::parse(wanted, self.config.make.default_scheme)) {
            Some(Ok(server)) => {
                let path = server.path(server.file.as_deref().unwrap_or_default());
                (server, path)
            }
            Some(Err(error)) => {
                self.say(refused(error.to_string()));
                return false;
            }
            None => (connected.server.clone(), connected.server.path(wanted)),
        };
        let fetched = self.fetch(connected.address, &server, &path).await;
        let image = match fetched {
            Ok(Some(image)) => image,
            Ok(None) => {
                self.say(News::Missing { name: wanted.to_owned() });
                return false;
            }
            Err(reason) => {
                self.say(News::FetchFailed { name: wanted.to_owned(), reason });
                return false;
            }
        };
        let Some(to) = version_in(&image) else {
            self.say(refused("it is no firmware for this phone".to_owned()));
            return false;
        };
        if to == self.firmware {
            return false;
        }
        let from = std::mem::replace(&mut self.firmware, to.clone());
        self.say(News::Installing { name: wanted.to_owned(), bytes: image.len(), from, to });
        true
    }

    fn user_agent(&self) -> String {
        self.config.make.user_agent_with(&self.firmware, self.config.mac)
    }

    /// The accounts of its ports, the first of which it must have; and where there is firmware for it.
    async fn boot(&self, connected: &Connected) -> (Result<Vec<Option<Account>>, Fault>, Option<String>) {
        let mut boot = Boot::new(self.config.make, self.config.mac, &connected.server);
        while let Some(name) = boot.poll_fetch() {
            match self.fetch_stubbornly(connected, &name).await {
                Ok(Some(bytes)) => {
                    self.say(News::Fetched { name, bytes: bytes.len() });
                    boot.handle_file(Some(&bytes));
                }
                Ok(None) => {
                    self.say(News::Missing { name });
                    boot.handle_file(None);
                }
                Err(_) => boot.handle_file(None),
            }
        }
        let (further, firmware) = (boot.ports(), boot.firmware());
        let accounts = match boot.outcome() {
            Outcome::Ready(first) => Ok(std::iter::once(Some(*first)).chain(further).collect()),
            Outcome::Refused(fault) => Err(fault),
        };
        (accounts, firmware)
    }

    async fn fetch_stubbornly(&self, connected: &Connected, name: &str) -> Result<Option<Vec<u8>>, String> {
        let path = connected.server.path(name);
        let mut tries = 1;
        loop {
            let fetched = self.fetch(connected.address, &connected.server, &path).await;
            let Err(reason) = &fetched else { return fetched };
            self.say(News::FetchFailed { name: name.to_owned(), reason: reason.clone() });
            if tries == FETCH_TRIES {
                return fetched;
            }
            tries += 1;
            tokio::time::sleep(FETCH_AGAIN).await;
        }
    }

    /// `None`: the server has no such file.
    async fn fetch(&self, address: IpAddr, server: &Server, path: &str) -> Result<Option<Vec<u8>>, String> {
        match server.scheme {
            Scheme::Http => {
                let client = http::Client::new(address, &self.user_agent());
                let url = format!("http://{}:{}/{path}", server.host, server.port);
                let answer = client.get(&url, None).await.map_err(|error| error.to_string())?;
                match answer.status {
                    200 => Ok(Some(answer.body.to_vec())),
                    404 => Ok(None),
                    status => Err(format!("HTTP {status}")),
                }
            }
            Scheme::Tftp => fetch_tftp(address, server, path).await,
            Scheme::Ftp => fetch_ftp(address, server, path).await,
        }
    }
}

fn say(tell: &mpsc::Sender<News>, news: News) {
    // Nobody reads: the phone goes on.
    let _ = tell.try_send(news);
}

/// A line of the phone: registered, in a call or not.
struct Line<'a> {
    desk: &'a Desk,
    tell: &'a mpsc::Sender<News>,
    /// What the phone, with all its lines, is about to leave the desk for.
    leave: &'a watch::Sender<Option<Again>>,
    account: Account,
    address: IpAddr,
    server: SocketAddr,
    local: SocketAddr,
    socket: UdpSocket,
    endpoint: Endpoint,
    agent: UserAgent,
    registration: RegisterClient,
    registered: bool,
    call: Option<Call>,
    /// Heard in the present call.
    ear: mpsc::Receiver<Heard>,
    mouth: mpsc::Sender<Heard>,
    poll_at: Option<Instant>,
}

struct Call {
    leg: LegId,
    handset: Handset,
    session: Session,
    offer: Option<Description>,
    up: bool,
    answer_at: Option<Instant>,
    say: Say,
}

impl<'a> Line<'a> {
    async fn open(
        desk: &'a Desk,
        tell: &'a mpsc::Sender<News>,
        leave: &'a watch::Sender<Option<Again>>,
        account: Account,
        address: IpAddr,
    ) -> Result<Self, String> {
        if account.tcp {
            return Err("the simulated phone speaks SIP over UDP only: set `sip_transport: udp` for it".to_owned());
        }
        let server = tokio::net::lookup_host((account.server.as_str(), account.port))
            .await
            .map_err(|error| format!("cannot find {}: {error}", account.server))?
            .next()
            .ok_or_else(|| format!("{} has no address", account.server))?;
        let socket = UdpSocket::bind((address, 0)).await.map_err(|error| format!("cannot open a port on {address}: {error}"))?;
        // An unspecified address is no use in a Contact: ask the routing table which one leads to the server.
        let local = if address.is_unspecified() {
            let probe = UdpSocket::bind((address, 0)).await.map_err(|error| error.to_string())?;
            probe.connect(server).await.map_err(|error| error.to_string())?;
            let ip = probe.local_addr().map_err(|error| error.to_string())?.ip();
            SocketAddr::new(ip, socket.local_addr().map_err(|error| error.to_string())?.port())
        } else {
            socket.local_addr().map_err(|error| error.to_string())?
        };
        let mut seed = [0u8; 32];
        getrandom::fill(&mut seed).map_err(|error| error.to_string())?;
        let product = desk.user_agent().trim_start_matches("FileTransport ").to_owned();
        let mut endpoint = Endpoint::new(endpoint::Config { product, ..endpoint::Config::default() }, seed);
        let Account { user, port, .. } = &account;
        let host = &account.server;
        let config = register_client::Config {
            aor: format!("sip:{user}@{host}"),
            display_name: account.display_name.clone(),
            registrar: format!("sip:{host}:{port}"),
            flow: Flow::udp(local, server),
            contact_user: user.clone(),
            credentials: credentials(&account),
            expires_secs: account.expires_secs,
        };
        let mut registration = RegisterClient::new(&mut endpoint, config);
        let (mouth, ear) = mpsc::channel(64);
        let now = Instant::now();
        registration.register(now, &mut endpoint);
        Ok(Self {
            desk,
            tell,
            leave,
            address: local.ip(),
            server,
            local,
            socket,
            endpoint,
            agent: UserAgent::new(ua::Config::default()),
            registration,
            registered: false,
            call: None,
            ear,
            mouth,
            poll_at: account.poll_secs.map(|secs| now + Duration::from_secs(u64::from(secs))),
            account,
        })
    }

    fn say(&self, news: News) {
        say(self.tell, news);
    }

    fn leave_for(&self, why: Again) {
        self.leave.send_modify(|held| *held = held.filter(|held| *held == Again::Reboot).or(Some(why)));
    }

    async fn live(&mut self, orders: &mut mpsc::Receiver<Order>) {
        let mut datagram = vec![0u8; 65_536];
        let mut leaving = self.leave.subscribe();
        loop {
            let now = Instant::now();
            self.handle_timers(now);
            self.drain(now).await;
            if self.call.is_none()
                && let Some(again) = *leaving.borrow_and_update()
            {
                return self.say(News::Reloading { why: if again == Again::Reboot { "reboot" } else { "files" } });
            }
            let wake = self.wake().into();
            tokio::select! {
                received = self.socket.recv_from(&mut datagram) => {
                    if let Ok((length, peer)) = received {
                        let flow = Flow::udp(self.local, peer);
                        self.endpoint.handle_message(Instant::now(), flow, Bytes::copy_from_slice(&datagram[..length]));
                    }
                }
                // Where nobody is at this port, none comes.
                Some(order) = orders.recv() => self.obey(Instant::now(), order).await,
                Some(heard) = self.ear.recv() => self.say(News::Heard(heard)),
                Ok(()) = leaving.changed() => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    fn wake(&self) -> Instant {
        let answer = self.call.as_ref().and_then(|call| call.answer_at);
        let known = [self.endpoint.poll_timeout(), self.agent.poll_timeout(), self.registration.poll_timeout(), answer, self.poll_at];
        known.into_iter().flatten().min().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))
    }

    fn handle_timers(&mut self, now: Instant) {
        self.endpoint.handle_timeout(now);
        self.agent.handle_timeout(now, &mut self.endpoint);
        self.registration.handle_timeout(now, &mut self.endpoint);
        if self.poll_at.is_some_and(|at| now >= at) {
            self.poll_at = None;
            self.leave_for(Again::Files);
        }
        if self.call.as_ref().and_then(|call| call.answer_at).is_some_and(|at| now >= at) {
            self.lift(now);
        }
    }

    /// Moves events and packets until nothing is left to do.
    async fn drain(&mut self, now: Instant) {
        loop {
            while let Some(event) = self.endpoint.poll_event() {
                if let Some(event) = self.registration.handle(now, &mut self.endpoint, event) {
                    self.agent.handle(now, &mut self.endpoint, event);
                }
            }
            while let Some(event) = self.registration.poll_event() {
                self.registration_news(event);
            }
            let Some(event) = self.agent.poll_event() else { break };
            self.handle(now, event).await;
        }
        while let Some(transmit) = self.endpoint.poll_transmit() {
            let _ = self.socket.send_to(&transmit.bytes, transmit.flow.peer).await;
        }
    }

    async fn handle(&mut self, now: Instant, event: ua::Event) {
        match event {
            ua::Event::Incoming { leg, request, .. } => self.incoming(now, leg, &request).await,
            ua::Event::Leg { leg, event } if self.call.as_ref().is_some_and(|call| call.leg == leg) => self.leg(now, event),
            ua::Event::Leg { .. } => {}
            ua::Event::Request { tx, request, .. } => {
                let status = match request.method() {
                    Some(Method::Notify) => self.notified(&request),
                    Some(Method::Options) => 200,
                    _ => 405,
                };
                self.endpoint.respond(now, tx, Response::to(&request, status));
            }
            ua::Event::Replied { .. } => {}
        }
    }

    fn registration_news(&mut self, event: register_client::Event) {
        let user = self.account.user.clone();
        match event {
            register_client::Event::Registered { .. } => {
                if !std::mem::replace(&mut self.registered, true) {
                    self.say(News::Registered { user });
                }
            }
            register_client::Event::Failed { status, .. } => {
                self.registered = false;
                self.say(News::RegisterRefused { user, status });
            }
            register_client::Event::Unregistered => {}
        }
    }

    fn flow(&self) -> Flow {
        Flow::udp(self.local, self.server)
    }

    /// Is it "check-sync"? Then the files are fetched again, when the phone is idle.
    fn notified(&mut self, request: &Message) -> u16 {
        let Some(event) = request.text(Name::Event).map(|event| event.into_owned()) else { return 489 };
        let name = event.split(';').next().unwrap_or_default().trim();
        if !matches!(name, "check-sync" | "resync") {
            return 489;
        }
        // A Poly restarts its application; the others fetch their files in place unless told to reboot.
        let reboot = event.contains("reboot=true") || self.desk.config.make.family == "poly";
        self.leave_for(if reboot { Again::Reboot } else { Again::Files });
        self.say(News::CheckSync { event });
        200
    }

    // --- calls

    async fn obey(&mut self, now: Instant, order: Order) {
        match order {
            Order::Call { to } => {
                if let Err(reason) = self.dial(now, &to).await {
                    self.say(News::CallEnded { how: reason });
                }
            }
            Order::Answer => self.lift(now),
            Order::Press(keys) => {
                if let Some(call) = &self.call {
                    self.say(News::Keyed { count: keys.len() });
                    call.handset.press(keys);
                }
            }
            Order::Say(what) => {
                if let Some(call) = &mut self.call {
                    call.say = what.clone();
                    call.handset.say(what);
                }
            }
            Order::HangUp => {
                if let Some(call) = self.call.take() {
                    self.agent.hangup(now, &mut self.endpoint, call.leg, None);
                    self.say(News::CallEnded { how: "hung up here".to_owned() });
                }
            }
            Order::Reload => self.leave_for(Again::Files),
        }
    }

    async fn dial(&mut self, now: Instant, to: &str) -> Result<(), String> {
        if self.call.is_some() {
            return Err("the line is in use".to_owned());
        }
        let handset = Handset::open(self.address, self.mouth.clone()).await.map_err(|error| error.to_string())?;
        let leg = self.agent.new_leg();
        let mut session = Session::new(leg.0, handset.local, &sdp::Codec::ALL);
        let offer = session.offer(Direction::SendRecv, None, &[]);
        let Account { user, server, port, display_name, .. } = &self.account;
        let invite = Invite {
            uri: format!("sip:{to}@{server}:{port}"),
            flow: self.flow(),
            from: (display_name.clone(), format!("sip:{user}@{server}")),
            to: format!("sip:{to}@{server}"),
            contact_user: user.clone(),
            offer: Some(offer),
            credentials: Some(credentials(&self.account)),
            routes: Vec::new(),
            headers: Vec::new(),
            spare: Vec::new(),
            gr: None,
        };
        self.agent.invite(now, &mut self.endpoint, leg, invite);
        self.call = Some(Call { leg, handset, session, offer: None, up: false, answer_at: None, say: Say::Nothing });
        self.say(News::Calling { to: to.to_owned() });
        Ok(())
    }

    async fn incoming(&mut self, now: Instant, leg: LegId, request: &Message) {
        let offer = Description::parse(request.body()).ok();
        if self.call.is_some() || self.leave.borrow().is_some() {
            return self.agent.reject(now, &mut self.endpoint, leg, 486, &[]);
        }
        let Ok(handset) = Handset::open(self.address, self.mouth.clone()).await else {
            return self.agent.reject(now, &mut self.endpoint, leg, 500, &[]);
        };
        self.agent.ring(now, &mut self.endpoint, leg);
        let from = request.from().map(|from| from.uri_str().to_owned()).unwrap_or_default();
        let answer_at = self.desk.config.answer_after.map(|after| now + after);
        let session = Session::new(leg.0, handset.local, &sdp::Codec::ALL);
        self.call = Some(Call { leg, handset, session, offer, up: false, answer_at, say: Say::Nothing });
        self.say(News::Incoming { from });
    }

    fn lift(&mut self, now: Instant) {
        let Some(call) = self.call.as_mut().filter(|call| !call.up) else { return };
        call.answer_at = None;
        let body = match &call.offer {
            Some(offer) => match call.session.answer(offer, Terms::default()) {
                Ok((body, params)) => {
                    call.handset.talk_to(params);
                    body
                }
                Err(_) => {
                    let leg = call.leg;
                    self.call = None;
                    return self.agent.reject(now, &mut self.endpoint, leg, 488, &[]);
                }
            },
            None => call.session.offer(Direction::SendRecv, None, &[]),
        };
        call.up = true;
        self.agent.answer(now, &mut self.endpoint, call.leg, body);
        self.say(News::Answered);
    }

    fn leg(&mut self, now: Instant, event: LegEvent) {
        let Some(call) = &mut self.call else { return };
        let mut accept = |body: Option<Bytes>| {
            let answer = body.and_then(|body| Description::parse(&body).ok());
            if let Some(params) = answer.and_then(|answer| call.session.accept(&answer, Direction::SendRecv).ok()) {
                call.handset.talk_to(params);
            }
        };
        match event {
            LegEvent::Trying => {}
            LegEvent::Ringing { body, .. } => {
                accept(body);
                self.say(News::Ringing);
            }
            LegEvent::Answered { body } => {
                accept(body);
                call.up = true;
                self.say(News::Answered);
            }
            LegEvent::Acked { body } => {
                if call.offer.is_none() {
                    accept(body);
                }
            }
            LegEvent::Reoffered { body } => {
                let answer = match body.and_then(|body| Description::parse(&body).ok()) {
                    Some(offer) => call.session.answer(&offer, Terms::default()).map(|(body, params)| {
                        call.handset.talk_to(params);
                        body
                    }),
                    None => Ok(call.session.offer(Direction::SendRecv, None, &[])),
                };
                match answer {
                    Ok(body) => self.agent.answer_reoffer(now, &mut self.endpoint, call.leg, body),
                    Err(_) => self.agent.reject_reoffer(now, &mut self.endpoint, call.leg, 488),
                }
            }
            // It calls whom it was told to, and nobody else.
            LegEvent::Refused { status, .. } | LegEvent::Redirected { status, .. } => {
                self.call = None;
                self.say(News::CallRefused { status });
            }
            LegEvent::Ended { how } => {
                self.call = None;
                let how = match how {
                    Ended::HungUp => "the other side hung up",
                    Ended::Cancelled => "the caller gave up",
                    Ended::Lost => "the other side is gone",
                };
                self.say(News::CallEnded { how: how.to_owned() });
            }
            LegEvent::Referred { .. } => self.agent.refuse_refer(now, &mut self.endpoint, call.leg, 603),
            LegEvent::FlowFailed { .. }
            | LegEvent::ReofferAnswered { .. }
            | LegEvent::ReofferFailed { .. }
            | LegEvent::ReferProgress { .. }
            | LegEvent::Info { .. } => {}
        }
    }
}

fn credentials(account: &Account) -> Credentials {
    let username = if account.auth_user.is_empty() { &account.user } else { &account.auth_user };
    Credentials { username: username.clone(), secret: account.password.clone() }
}

/// Keeps the lease alive while the phone does other things. Ends when the address is not the phone's any more.
async fn lost(lease: &mut Option<LoopbackClient>) {
    if let Some(client) = lease {
        while let Ok(event) = client.event().await {
            if matches!(event, ClientEvent::Refused { .. } | ClientEvent::Expired) {
                return;
            }
        }
    }
    std::future::pending().await
}

/// What a simulated phone takes for firmware begins with a line `firmware VERSION`; makers' own files it cannot read.
fn version_in(image: &[u8]) -> Option<String> {
    let line = image.get(..image.len().min(100))?.split(|byte| *byte == b'\n').next()?;
    let version = std::str::from_utf8(line).ok()?.strip_prefix("firmware ")?.trim();
    (!version.is_empty()).then(|| version.to_owned())
}

async fn fetch_tftp(local: IpAddr, server: &Server, path: &str) -> Result<Option<Vec<u8>>, String> {
    let at = address_of(server).await?;
    match tftp::get(local, at, path, tftp::Options::default()).await {
        Ok(bytes) => Ok(Some(bytes)),
        // 1: no such file, or not for us (RFC 1350).
        Err(tftp::Error::Refused { code: 1, .. }) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

async fn fetch_ftp(local: IpAddr, server: &Server, path: &str) -> Result<Option<Vec<u8>>, String> {
    let at = address_of(server).await?;
    let (user, password) = server.login.clone().unwrap_or(("PlcmSpIp".to_owned(), "PlcmSpIp".to_owned()));
    match (ftp::Account { local, server: at, user, password: Secret::new(password) }).get(path).await {
        Ok(bytes) => Ok(Some(bytes)),
        // 550: no such file, or not for us.
        Err(ftp::Error::Refused { command: "RETR", .. }) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

async fn address_of(server: &Server) -> Result<SocketAddr, String> {
    let mut found = tokio::net::lookup_host((server.host.as_str(), server.port))
        .await
        .map_err(|error| format!("cannot find {}: {error}", server.host))?;
    found.next().ok_or_else(|| format!("{} has no address", server.host))
}
