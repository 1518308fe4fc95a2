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

mod line;

use std::{
    mem,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use line::Line;

use super::{
    audio::Say,
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
