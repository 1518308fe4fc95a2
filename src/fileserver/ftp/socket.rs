//! The sockets of FTP: control connections, and a data connection for each transfer. Decisions are in `session.rs`.
//!
//! A data connection is taken only from the client's own address and opened only to it. While one runs, the control
//! connection is listened to for ABOR and for its end.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Settings,
    command::{Command, MAX_LINE},
    session::{Session, Step},
};
use crate::{
    fileserver::{
        Error, Running, ask, climbs,
        http::serve::bind,
        limits::{LogBudget, Slot, Slots},
    },
    model::event::Door,
    provisioning::{Body, FileAnswer, FileRequest, FileService, ServedFile, Transfer},
};

/// For logging in; who only holds a connection open is gone after it.
const LOGIN_TIME: Duration = Duration::from_secs(30);
/// What SIZE or MDTM found serves the RETR after it, so that one download is one request to the pipeline.
const FOUND_FOR: Duration = Duration::from_secs(10);
const CHUNK: usize = 64 * 1024;
/// Contents whose age is remembered.
const MAX_AGES: usize = 4096;

static LOG: LogBudget = LogBudget::new();

/// Opens the door. Call within a tokio runtime; stops when `shutdown` is cancelled.
pub fn start(settings: &Settings, service: Arc<dyn FileService>, shutdown: CancellationToken) -> Result<Running, Error> {
    settings.check()?;
    let tasks = TaskTracker::new();
    let mut addrs = Vec::new();
    if settings.enabled {
        let door = Arc::new(Ftp {
            slots: Slots::new(settings.max_connections, settings.max_connections_per_client),
            settings: settings.clone(),
            service,
            ages: Mutex::default(),
            next_port: AtomicUsize::new(0),
            tasks: tasks.clone(),
            shutdown,
        });
        let mut listeners = Vec::new();
        for at in &settings.listen {
            let listener = bind("FTP", "ftp", *at)?;
            addrs.push(listener.local_addr().map_err(|source| Error::bind("FTP", "ftp", *at, source))?);
            listeners.push(listener);
        }
        for listener in listeners {
            tasks.spawn(door.clone().accept(listener));
        }
        for at in &addrs {
            tracing::info!(%at, "ftp: listening");
        }
    }
    Ok(Running::new(addrs, tasks))
}

/// What all connections share.
struct Ftp {
    settings: Settings,
    service: Arc<dyn FileService>,
    slots: Slots,
    /// When each content (by hash) was first seen: rendered files have no other time.
    ages: Mutex<HashMap<String, jiff::Timestamp>>,
    next_port: AtomicUsize,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Ftp {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => match self.slots.take(peer.ip()) {
                    Ok(slot) => drop(self.tasks.spawn(self.clone().connection(stream, peer, slot))),
                    Err(full) => {
                        metrics::counter!("plugtone_ftp_refused_total").increment(1);
                        if LOG.allows(Instant::now()) {
                            tracing::warn!(%peer, ?full, "ftp: too many connections");
                        }
                        let _ = stream.try_write(b"421 Too many connections, try again later\r\n");
                    }
                },
                Err(error) => {
                    if LOG.allows(Instant::now()) {
                        tracing::warn!(%error, "ftp: cannot accept (are there enough file descriptors?)");
                    }
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, _slot: Slot) {
        let Ok(local) = stream.local_addr() else { return };
        let _ = stream.set_nodelay(true);
        let shutdown = self.shutdown.clone();
        let (reader, writer) = stream.into_split();
        let mut connection = Connection {
            session: Session::new(&self.settings.user, &self.settings.password, peer.ip()),
            door: self,
            lines: Lines { reader, buffer: BytesMut::new() },
            writer,
            peer,
            local,
            data: Data::None,
            found: None,
            waiting: None,
        };
        let ended = tokio::select! {
            ended = connection.run() => ended,
            () = shutdown.cancelled() => connection.reply("421 The server is stopping").await,
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "ftp: connection ended");
        }
    }

    fn age(&self, hash: &str) -> jiff::Timestamp {
        let mut ages = self.ages.lock().unwrap_or_else(PoisonError::into_inner);
        if ages.len() >= MAX_AGES && !ages.contains_key(hash) {
            // Whoever compares will fetch once more; nothing worse.
            ages.clear();
        }
        *ages.entry(hash.to_owned()).or_insert_with(jiff::Timestamp::now)
    }

    /// A listener for a passive data connection, on the address that the client came to.
    fn passive_listener(&self, local: IpAddr) -> io::Result<TcpListener> {
        let Some(range) = self.settings.passive_ports else {
            return listen_once(SocketAddr::new(local, 0));
        };
        let count = usize::from(range.last - range.first) + 1;
        let mut result = Err(io::ErrorKind::AddrInUse.into());
        for _ in 0..count {
            let step = self.next_port.fetch_add(1, Ordering::Relaxed) % count;
            let port = range.first + u16::try_from(step).unwrap_or(0);
            result = listen_once(SocketAddr::new(local, port));
            if result.is_ok() {
                break;
            }
        }
        result
    }
}

fn listen_once(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A port of a small range is wanted again while its last connection is in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(4)
}

/// How the next data connection comes about.
enum Data {
    None,
    Passive(TcpListener),
    Active(SocketAddr),
}

struct Connection {
    door: Arc<Ftp>,
    session: Session,
    lines: Lines,
    writer: OwnedWriteHalf,
    peer: SocketAddr,
    local: SocketAddr,
    data: Data,
    found: Option<(String, ServedFile, Instant)>,
    /// A command that came during a transfer.
    waiting: Option<Command>,
}

impl Connection {
    async fn run(&mut self) -> io::Result<()> {
        self.reply("220 Telephone files").await?;
        let login_by = Instant::now() + LOGIN_TIME;
        loop {
            let command = match self.waiting.take() {
                Some(command) => command,
                None => {
                    let idle = Duration::from_secs(self.door.settings.idle_timeout_secs);
                    let patience =
                        if self.session.is_logged_in() { idle } else { login_by.saturating_duration_since(Instant::now()).min(idle) };
                    match timeout(patience, self.lines.next()).await {
                        Ok(Ok(Some(command))) => command,
                        Ok(Ok(None)) => return Ok(()),
                        Ok(Err(error)) => {
                            self.reply("500 Line too long").await?;
                            return Err(error);
                        }
                        Err(_) => return self.reply("421 Idle for too long").await,
                    }
                }
            };
            match self.session.handle(command) {
                Step::Close(text) => return self.reply(text).await,
                step => self.perform(step).await?,
            }
        }
    }

    async fn perform(&mut self, step: Step) -> io::Result<()> {
        match step {
            Step::Reply(text) | Step::Close(text) => self.reply(text).await,
            Step::Say(text) => self.reply(&text).await,
            Step::SlowReply(pause, text) => {
                metrics::counter!("plugtone_ftp_wrong_passwords_total").increment(1);
                if LOG.allows(Instant::now()) {
                    tracing::info!(peer = %self.peer, "ftp: wrong user or password");
                }
                sleep(pause).await;
                self.reply(text).await
            }
            Step::Listen { extended } => self.listen(extended).await,
            Step::Active(at) => {
                self.data = Data::Active(at);
                self.reply("200 I will connect to you").await
            }
            Step::Size { path } => match self.find(path).await {
                Ok(file) => self.reply(&format!("213 {}", file.body.len())).await,
                Err(reply) => self.reply(reply).await,
            },
            Step::ModifiedAt { path } => match self.find(path).await {
                Ok(file) => self.reply(&format!("213 {}", self.door.age(&file.hash).strftime("%Y%m%d%H%M%S"))).await,
                Err(reply) => self.reply(reply).await,
            },
            Step::List => self.list().await,
            Step::Retrieve { path, offset, ascii } => self.retrieve(path, offset, ascii).await,
            Step::Store { path, ascii } => self.store(path, ascii).await,
        }
    }

    async fn reply(&mut self, text: &str) -> io::Result<()> {
        let line = format!("{text}\r\n");
        let patience = Duration::from_secs(self.door.settings.stall_timeout_secs);
        timeout(patience, self.writer.write_all(line.as_bytes())).await?
    }

    async fn listen(&mut self, extended: bool) -> io::Result<()> {
        let listener = match self.door.passive_listener(self.local.ip()) {
            Ok(listener) => listener,
            Err(error) => {
                if LOG.allows(Instant::now()) {
                    tracing::warn!(%error, "ftp: no port for a passive data connection: widen `ftp.passive_ports`");
                }
                return self.reply("425 No port is free").await;
            }
        };
        let port = listener.local_addr()?.port();
        self.data = Data::Passive(listener);
        if extended {
            return self.reply(&format!("229 Entering extended passive mode (|||{port}|)")).await;
        }
        let local = self.local.ip().to_canonical();
        let shown = self.door.settings.passive_address.map_or(local, IpAddr::V4);
        let IpAddr::V4(shown) = shown else {
            self.data = Data::None;
            return self.reply("522 Over IPv6 it is EPSV").await;
        };
        let [a, b, c, d] = shown.octets();
        let [high, low] = port.to_be_bytes();
        self.reply(&format!("227 Entering passive mode ({a},{b},{c},{d},{high},{low})")).await
    }

    fn request(&self, path: String) -> FileRequest {
        FileRequest {
            door: Door::Ftp,
            path,
            query: Default::default(),
            source: self.peer.ip().to_canonical(),
            local: Some(self.local),
            user_agent: None,
            held: None,
            certified: None,
            head: false,
        }
    }

    /// Or what is replied.
    async fn find(&mut self, path: String) -> Result<ServedFile, &'static str> {
        if let Some((name, file, since)) = &self.found
            && *name == path
            && since.elapsed() < FOUND_FOR
        {
            return Ok(file.clone());
        }
        self.found = None;
        let file = match ask(&self.door.service, self.request(path.clone())).await {
            FileAnswer::Found(file) => file,
            FileAnswer::NotFound => return Err("550 No such file"),
            FileAnswer::Broken => return Err("451 The file cannot be made now"),
        };
        self.found = Some((path, file.clone(), Instant::now()));
        Ok(file)
    }

    /// Opens the data connection that the client prepared, and answers 150 or 425.
    async fn open(&mut self) -> io::Result<Option<TcpStream>> {
        let patience = Duration::from_secs(self.door.settings.stall_timeout_secs);
        let opened = match std::mem::replace(&mut self.data, Data::None) {
            Data::None => {
                self.reply("425 PASV, EPSV or PORT comes first").await?;
                return Ok(None);
            }
            Data::Passive(listener) => timeout(patience, accept_from(&listener, self.peer.ip())).await,
            Data::Active(at) => timeout(patience, connect_from(self.local.ip(), at)).await,
        };
        match opened {
            Ok(Ok(stream)) => {
                self.reply("150 Here it comes").await?;
                Ok(Some(stream))
            }
            _ => {
                self.reply("425 The data connection did not open").await?;
                Ok(None)
            }
        }
    }

    async fn list(&mut self) -> io::Result<()> {
        let Some(mut stream) = self.open().await? else { return Ok(()) };
        let _ = stream.shutdown().await;
        self.reply("226 Names are not listed").await
    }

    async fn retrieve(&mut self, path: String, offset: u64, ascii: bool) -> io::Result<()> {
        let request = self.request(path.clone());
        let file = match self.find(path).await {
            Ok(file) => file,
            Err(reply) => return self.reply(reply).await,
        };
        self.found = None;
        let body = match &file.body {
            Body::Whole(bytes) if ascii => Body::Whole(to_network_lines(bytes)),
            // Firmware has no lines, whatever the client thinks.
            other => other.clone(),
        };
        if offset > body.len() {
            return self.reply("554 The file is not that long").await;
        }
        let patience = Duration::from_secs(self.door.settings.stall_timeout_secs);
        let sent = match self.open().await? {
            None => Ended::Failed("the data connection did not open".into(), None),
            Some(stream) => self.beside_control(send(stream, body, offset, patience)).await,
        };
        let (reply, transfer) = match sent {
            Ended::Done(()) => (Some("226 Done"), Transfer::Delivered),
            Ended::Failed(reason, reply) => (reply, Transfer::Failed { reason }),
        };
        let counter = if transfer == Transfer::Delivered { "plugtone_ftp_delivered_total" } else { "plugtone_ftp_failed_total" };
        metrics::counter!(counter).increment(1);
        self.door.service.ended(&request, file.mac, transfer);
        match reply {
            Some(reply) => self.reply(reply).await,
            None => Ok(()),
        }
    }

    async fn store(&mut self, path: String, ascii: bool) -> io::Result<()> {
        let request = self.request(path);
        self.found = None;
        let Some(limit) = self.door.service.upload_limit(&request).await.filter(|_| !climbs(&request.path)) else {
            return self.reply("550 Uploads of this name are not allowed").await;
        };
        let patience = Duration::from_secs(self.door.settings.stall_timeout_secs);
        let Some(stream) = self.open().await? else { return Ok(()) };
        match self.beside_control(take(stream, limit, patience)).await {
            Ended::Done(Some(body)) => {
                let body = if ascii { from_network_lines(body) } else { body };
                let kept = self.door.service.store(request, body).await;
                self.reply(if kept { "226 Kept" } else { "550 Not kept" }).await
            }
            Ended::Done(None) => {
                let reason = format!("the upload is larger than the {limit} bytes that are allowed");
                self.door.service.ended(&request, None, Transfer::Failed { reason });
                self.reply("552 Larger than allowed").await
            }
            Ended::Failed(reason, reply) => {
                self.door.service.ended(&request, None, Transfer::Failed { reason });
                match reply {
                    Some(reply) => self.reply(reply).await,
                    None => Ok(()),
                }
            }
        }
    }

    /// Runs a transfer and hears ABOR, QUIT and the end of the control connection meanwhile.
    async fn beside_control<T>(&mut self, transfer: impl Future<Output = io::Result<T>>) -> Ended<T> {
        let mut transfer = std::pin::pin!(transfer);
        loop {
            tokio::select! {
                result = transfer.as_mut() => return match result {
                    Ok(value) => Ended::Done(value),
                    Err(error) => Ended::Failed(format!("the data connection broke: {error}"), Some("426 The data connection broke")),
                },
                line = self.lines.next(), if self.waiting.is_none() => match line {
                    Ok(Some(Command::Abor)) => return Ended::Failed("the client aborted".into(), Some("426 Aborted\r\n226 Aborted")),
                    Ok(Some(command)) => self.waiting = Some(command),
                    // A client may close in haste; what is under way is still finished if it listens.
                    Ok(None) | Err(_) => {
                        self.waiting = Some(Command::Quit);
                    }
                },
            }
        }
    }
}

enum Ended<T> {
    Done(T),
    /// Why, for the record; and what the client is told if there is something to tell.
    Failed(String, Option<&'static str>),
}

/// The data connection of `peer`; whoever else knocks at the port is sent away.
async fn accept_from(listener: &TcpListener, peer: IpAddr) -> io::Result<TcpStream> {
    loop {
        let (stream, from) = listener.accept().await?;
        if from.ip().to_canonical() == peer.to_canonical() {
            return Ok(stream);
        }
        metrics::counter!("plugtone_ftp_foreign_data_connections_total").increment(1);
    }
}

async fn connect_from(local: IpAddr, at: SocketAddr) -> io::Result<TcpStream> {
    // A client on a dual-stack socket names its IPv4 address: so do we.
    let local = if at.is_ipv4() { local.to_canonical() } else { local };
    let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(local, 0))?;
    socket.connect(at).await
}

async fn send(mut stream: TcpStream, body: Body, mut offset: u64, patience: Duration) -> io::Result<()> {
    while offset < body.len() {
        let piece = match &body {
            Body::Whole(bytes) => bytes.slice(usize::try_from(offset).unwrap_or(bytes.len())..),
            Body::Stored(stored) => stored.read(offset).await?,
        };
        for chunk in piece.chunks(CHUNK) {
            timeout(patience, stream.write_all(chunk)).await??;
        }
        offset += piece.len() as u64;
    }
    stream.shutdown().await?;
    // The client closes when it has read all: then it is delivered, not only handed to the kernel.
    let mut rest = [0; 256];
    while timeout(patience, stream.read(&mut rest)).await?? > 0 {}
    Ok(())
}

/// All that comes; `None` when it is more than `limit` bytes.
async fn take(mut stream: TcpStream, limit: usize, patience: Duration) -> io::Result<Option<Bytes>> {
    let mut body = BytesMut::new();
    loop {
        body.reserve(CHUNK);
        if timeout(patience, stream.read_buf(&mut body)).await?? == 0 {
            return Ok(Some(body.freeze()));
        }
        if body.len() > limit {
            return Ok(None);
        }
    }
}

/// TYPE A on the way out: a bare LF becomes CR LF (RFC 959 §3.1.1.1); line ends that are right already stay.
fn to_network_lines(bytes: &Bytes) -> Bytes {
    let mut lines = Vec::with_capacity(bytes.len() + bytes.len() / 16);
    let mut last = 0;
    for byte in bytes {
        if *byte == b'\n' && last != b'\r' {
            lines.push(b'\r');
        }
        lines.push(*byte);
        last = *byte;
    }
    lines.into()
}

/// TYPE A on the way in.
fn from_network_lines(bytes: Bytes) -> Bytes {
    let mut kept = Vec::with_capacity(bytes.len());
    let mut bytes = bytes.into_iter().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\r' || bytes.peek() != Some(&b'\n') {
            kept.push(byte);
        }
    }
    kept.into()
}

/// Lines of the control connection.
struct Lines {
    reader: OwnedReadHalf,
    buffer: BytesMut,
}

impl Lines {
    /// The next command; `None` at the end. Cancel-safe: what was read stays in the buffer.
    async fn next(&mut self) -> io::Result<Option<Command>> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer) {
                let line = self.buffer.split_to(end + 1);
                let line = line.strip_suffix(b"\n").unwrap_or(&line);
                return Ok(Some(Command::parse(line.strip_suffix(b"\r").unwrap_or(line))));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.buffer.reserve(512);
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_lines_both_ways() {
        let wire = to_network_lines(&Bytes::from_static(b"a\nb\r\nc\rd\n"));
        assert_eq!(wire, &b"a\r\nb\r\nc\rd\r\n"[..]);
        assert_eq!(from_network_lines(wire), &b"a\nb\nc\rd\n"[..]);
    }
}
