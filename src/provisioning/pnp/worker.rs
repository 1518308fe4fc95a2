//! Listens for phones that ask the group, a task for each network, and answers them from the port that they asked.

use std::{
    collections::HashMap,
    fs, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{sync::Semaphore, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{Ask, owner_in};
use crate::{
    model::{Event, Events, FamilyName, MacAddr},
    sip::{Ids, transport::Beside},
};

/// Phones being answered at once; others ask again after some seconds.
const AT_ONCE: usize = 256;
/// One answer for an address in this time: a phone that repeats its SUBSCRIBE is being answered.
const PAUSE: Duration = Duration::from_secs(2);
/// How long the system may take to find out whose an address is, and how often we look.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Pauses before the NOTIFY is sent again.
const AGAIN: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(1)];
/// Longest datagram that is looked at.
const MOST_BYTES: usize = 8192;

/// Where a phone of this MAC finds its settings.
pub trait Urls: Send + Sync + 'static {
    /// `None`: its make does not find us in this way, or nobody knows it.
    fn url(&self, mac: MacAddr, ask: &Ask, local: Ipv4Addr) -> Option<(FamilyName, String)>;
}

/// Answers phones on these sockets until `shutdown`.
pub async fn serve(sockets: Vec<Beside>, urls: Arc<dyn Urls>, events: Events, ids: Ids, shutdown: CancellationToken) {
    let shared = Arc::new(Shared { urls, events, ids: Mutex::new(ids), room: Arc::new(Semaphore::new(AT_ONCE)), last: Mutex::default() });
    let mut tasks = JoinSet::new();
    for socket in sockets {
        tasks.spawn(listen(socket, shared.clone()));
    }
    shutdown.cancelled().await;
}

struct Shared {
    urls: Arc<dyn Urls>,
    events: Events,
    ids: Mutex<Ids>,
    room: Arc<Semaphore>,
    last: Mutex<HashMap<Ipv4Addr, Instant>>,
}

async fn listen(socket: Beside, shared: Arc<Shared>) {
    let socket = Arc::new(socket);
    let mut answers = JoinSet::new();
    let mut room = vec![0; MOST_BYTES];
    loop {
        while answers.try_join_next().is_some() {}
        let (len, source) = match socket.receive(&mut room).await {
            Ok((len, SocketAddr::V4(source))) => (len, source),
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => return,
            // An ICMP error for something that we sent.
            Err(_) => continue,
        };
        let Some(ask) = Ask::parse(Bytes::copy_from_slice(&room[..len]), source) else {
            metrics::counter!("plugtone_pnp_ignored_total", "reason" => "no_question").increment(1);
            continue;
        };
        let Ok(permit) = shared.room.clone().try_acquire_owned() else {
            metrics::counter!("plugtone_pnp_ignored_total", "reason" => "crowded").increment(1);
            continue;
        };
        if shared.is_being_answered(*source.ip()) {
            continue;
        }
        let (socket, shared) = (socket.clone(), shared.clone());
        answers.spawn(async move {
            shared.answer(&socket, &ask).await;
            drop(permit);
        });
    }
}

impl Shared {
    fn is_being_answered(&self, source: Ipv4Addr) -> bool {
        let (now, mut last) = (Instant::now(), self.last.lock().unwrap_or_else(PoisonError::into_inner));
        last.retain(|_, at| now.duration_since(*at) < PAUSE);
        if last.contains_key(&source) {
            return true;
        }
        last.insert(source, now);
        false
    }

    async fn answer(&self, socket: &Beside, ask: &Ask) {
        let local = socket.local();
        let (tag, branch) = {
            let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
            (ids.token(), format!("z9hG4bK{}", ids.token()))
        };
        // To somebody whom we shall not tell anything either: only so does the system ask whose the address is.
        send(socket, ask.source(), &ask.accepted(local, &tag));
        let Some(mac) = owner(*ask.source().ip()).await else {
            metrics::counter!("plugtone_pnp_ignored_total", "reason" => "no_neighbour").increment(1);
            tracing::debug!(source = %ask.source(), "who asks for its settings by multicast is not in this network");
            return;
        };
        if !ask.is_of(mac) {
            metrics::counter!("plugtone_pnp_ignored_total", "reason" => "other_mac").increment(1);
            let claimed = ask.claims.unwrap_or(mac);
            self.events.tell(Event::PnpRefused { mac: claimed, address: *ask.source().ip(), owner: mac });
            return;
        }
        let Some((family, url)) = self.urls.url(mac, ask, *local.ip()) else {
            metrics::counter!("plugtone_pnp_ignored_total", "reason" => "make").increment(1);
            return;
        };
        self.events.tell(Event::PnpAsked {
            mac,
            address: *ask.source().ip(),
            family,
            model: ask.model.clone(),
            version: ask.version.clone(),
        });
        let notify = ask.told(local, &tag, &branch, &url);
        send(socket, ask.source(), &notify);
        for pause in AGAIN {
            sleep(pause).await;
            send(socket, ask.source(), &notify);
        }
    }
}

fn send(socket: &Beside, to: SocketAddrV4, bytes: &[u8]) {
    if let Err(error) = socket.send(to.into(), bytes) {
        tracing::debug!(%to, %error, "cannot answer a phone that asked by multicast");
    }
}

/// Whose the address is, by the system's neighbour table.
async fn owner(address: Ipv4Addr) -> Option<MacAddr> {
    let until = Instant::now() + KNOWN_WITHIN;
    loop {
        let table = fs::read_to_string("/proc/net/arp").unwrap_or_default();
        match owner_in(&table, address) {
            None if Instant::now() < until => sleep(LOOK_EVERY).await,
            found => return found,
        }
    }
}
