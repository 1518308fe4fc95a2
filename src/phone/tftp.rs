//! A phone's TFTP client: RFC 1350 with blksize, tsize and windowsize, from a chosen local address.
//!
//! [`Download`] and [`Upload`] are sans-I/O (`handle_*(now, …)`, `poll_*`); [`get`] and [`put`] drive them on a socket;
//! [`load`] is many clients at once, for benchmarks. Written apart from the server on purpose: each is the other's test.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use tokio::{net::UdpSocket, task::JoinSet, time::timeout_at};

/// How a phone asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `blksize`, 8–65464 bytes (RFC 2348); 512 without the option.
    pub block_bytes: Option<u16>,
    /// `windowsize` in blocks (RFC 7440); 1 without the option.
    pub window_blocks: Option<u16>,
    /// Ask for the file's size (RFC 2349).
    pub tsize: bool,
    /// `timeout`: after how many seconds the server shall repeat, whatever it measures (RFC 2349).
    pub timeout_secs: Option<u8>,
    /// How long an answer is awaited before the last packet is repeated.
    pub wait: Duration,
    /// How often it is repeated.
    pub retries: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { block_bytes: None, window_blocks: None, tsize: false, timeout_secs: None, wait: Duration::from_secs(1), retries: 5 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the server answered with error {code}: {message}")]
    Refused { code: u16, message: String },
    #[error("no answer though it was asked {tries} times: is the server's address right, and UDP let through both ways?")]
    Silent { tries: u32 },
    #[error("the server granted an option that was not asked for, or not on these terms: {0}")]
    Option(String),
    #[error("the socket at {local} failed")]
    Socket {
        local: IpAddr,
        #[source]
        source: io::Error,
    },
}

const RRQ: u16 = 1;
const WRQ: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OACK: u16 = 6;

/// What both directions share: options, repetition, the end.
struct Common {
    options: Options,
    block_bytes: usize,
    window: u16,
    /// What was sent last, to be repeated.
    due: bool,
    deadline: Option<Instant>,
    tries: u32,
    failed: Option<Error>,
}

impl Common {
    fn new(options: Options) -> Self {
        Self { options, block_bytes: 512, window: 1, due: true, deadline: None, tries: 0, failed: None }
    }

    fn request(&self, opcode: u16, path: &str, tsize: usize) -> Vec<u8> {
        let mut packet = opcode.to_be_bytes().to_vec();
        let mut field = |text: &str| {
            packet.extend_from_slice(text.as_bytes());
            packet.push(0);
        };
        field(path);
        field("octet");
        let numbers = [
            ("blksize", self.options.block_bytes.map(usize::from)),
            ("tsize", self.options.tsize.then_some(tsize)),
            ("timeout", self.options.timeout_secs.map(usize::from)),
            ("windowsize", self.options.window_blocks.map(usize::from)),
        ];
        for (name, value) in numbers {
            if let Some(value) = value {
                field(name);
                field(&value.to_string());
            }
        }
        packet
    }

    /// Reads an OACK; `tsize` if it told one.
    fn grant(&mut self, options: &[u8]) -> Option<usize> {
        let mut fields = options.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let mut tsize = None;
        while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
            let number: Option<usize> = value.parse().ok();
            let asked = match name.to_ascii_lowercase().as_str() {
                "blksize" => number
                    .filter(|n| *n >= 8 && self.options.block_bytes.is_some_and(|asked| *n <= usize::from(asked)))
                    .map(|n| self.block_bytes = n),
                "windowsize" => {
                    let granted = number.and_then(|n| u16::try_from(n).ok());
                    granted.filter(|n| *n >= 1 && self.options.window_blocks.is_some_and(|asked| *n <= asked)).map(|n| self.window = n)
                }
                "tsize" => number.filter(|_| self.options.tsize).map(|n| tsize = Some(n)),
                // As asked, or not at all.
                "timeout" => number.filter(|n| self.options.timeout_secs.map(usize::from) == Some(*n)).map(|_| ()),
                _ => None,
            };
            if asked.is_none() {
                self.failed = Some(Error::Option(format!("{name}={value}")));
            }
        }
        tsize
    }

    fn handle_error(&mut self, code: u16, text: &[u8]) {
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        self.failed = Some(Error::Refused { code, message: String::from_utf8_lossy(text).into_owned() });
    }

    fn progressed(&mut self) {
        self.tries = 0;
        self.due = true;
    }

    fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return false;
        }
        self.deadline = None;
        if self.tries >= self.options.retries {
            self.failed = Some(Error::Silent { tries: self.tries + 1 });
            return false;
        }
        self.tries += 1;
        self.due = true;
        true
    }

    fn sent(&mut self, now: Instant) {
        self.deadline = Some(now + self.options.wait);
    }
}

fn split_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*head), rest))
}

/// A file being fetched.
pub struct Download {
    common: Common,
    path: String,
    answered: bool,
    tsize: Option<usize>,
    body: Vec<u8>,
    /// Blocks received in order, counted without wrapping.
    received: u64,
    unanswered: u16,
    gap_told: bool,
    complete: bool,
}

impl Download {
    pub fn new(path: &str, options: Options) -> Self {
        Self {
            common: Common::new(options),
            path: path.to_owned(),
            answered: false,
            tsize: None,
            body: Vec::new(),
            received: 0,
            unanswered: 0,
            gap_told: false,
            complete: false,
        }
    }

    /// A datagram from the server. The first fixes the port that the rest goes to; the shell sees to that.
    pub fn handle_packet(&mut self, datagram: &[u8]) {
        let Some((opcode, rest)) = split_u16(datagram) else { return };
        match (opcode, split_u16(rest)) {
            (OACK, _) if self.received == 0 => {
                if !self.answered {
                    self.tsize = self.common.grant(rest);
                }
                self.answered = true;
                self.common.progressed();
            }
            (DATA, Some((block, bytes))) => self.handle_data(block, bytes),
            (ERROR, Some((code, text))) => self.common.handle_error(code, text),
            _ => {}
        }
    }

    fn handle_data(&mut self, block: u16, bytes: &[u8]) {
        self.answered = true;
        let next = self.received.wrapping_add(1) as u16;
        match block.wrapping_sub(next) as i16 {
            0 if !self.complete => {
                self.body.extend_from_slice(bytes);
                self.received += 1;
                self.unanswered += 1;
                self.gap_told = false;
                self.common.tries = 0;
                self.complete = bytes.len() < self.common.block_bytes;
                if self.complete || self.unanswered >= self.common.window {
                    self.common.progressed();
                }
            }
            // A block is missing: say once which was the last (RFC 7440 §4).
            1.. => self.common.due |= !std::mem::replace(&mut self.gap_told, true),
            // Our ACK was lost.
            -1 => self.common.due = true,
            _ => {}
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.is_over() {
            self.common.handle_timeout(now);
        }
    }

    pub fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.common.failed.is_some() || !std::mem::take(&mut self.common.due) {
            return None;
        }
        self.unanswered = 0;
        self.common.sent(now);
        if !self.answered {
            return Some(self.common.request(RRQ, &self.path, 0));
        }
        let [high, low] = (self.received as u16).to_be_bytes();
        Some(vec![0, ACK as u8, high, low])
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_over() { None } else { self.common.deadline }
    }

    /// The size that the server announced.
    pub fn tsize(&self) -> Option<usize> {
        self.tsize
    }

    pub fn is_over(&self) -> bool {
        self.complete || self.common.failed.is_some()
    }

    /// The file, when [`Self::is_over`] and the last [`Self::poll_transmit`] is on its way.
    pub fn into_result(self) -> Result<Vec<u8>, Error> {
        self.common.failed.map_or(Ok(self.body), Err)
    }
}

/// A file being brought.
pub struct Upload {
    common: Common,
    path: String,
    body: Vec<u8>,
    answered: bool,
    acked: u64,
    next: u64,
}

impl Upload {
    pub fn new(path: &str, body: Vec<u8>, options: Options) -> Self {
        Self { common: Common::new(options), path: path.to_owned(), body, answered: false, acked: 0, next: 1 }
    }

    fn last(&self) -> u64 {
        (self.body.len() / self.common.block_bytes) as u64 + 1
    }

    pub fn handle_packet(&mut self, datagram: &[u8]) {
        let Some((opcode, rest)) = split_u16(datagram) else { return };
        match (opcode, split_u16(rest)) {
            (OACK, _) if !self.answered => {
                self.common.grant(rest);
                self.answered = true;
                self.common.progressed();
            }
            (ACK, Some((0, _))) if !self.answered => {
                self.answered = true;
                self.common.progressed();
            }
            (ACK, Some((block, _))) if self.answered => {
                let ahead = u64::from(block.wrapping_sub(self.acked as u16));
                if ahead > 0 && ahead < self.next - self.acked {
                    self.acked += ahead;
                    self.next = self.acked + 1;
                    self.common.progressed();
                }
            }
            (ERROR, Some((code, text))) => self.common.handle_error(code, text),
            _ => {}
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.is_over() && self.common.handle_timeout(now) {
            self.next = self.acked + 1;
        }
    }

    pub fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.is_over() {
            return None;
        }
        if !self.answered {
            if !std::mem::take(&mut self.common.due) {
                return None;
            }
            self.common.sent(now);
            return Some(self.common.request(WRQ, &self.path, self.body.len()));
        }
        if self.next > self.last() || self.next > self.acked + u64::from(self.common.window) {
            return None;
        }
        let start = (self.next - 1) as usize * self.common.block_bytes;
        let end = (start + self.common.block_bytes).min(self.body.len());
        let mut packet = DATA.to_be_bytes().to_vec();
        packet.extend_from_slice(&(self.next as u16).to_be_bytes());
        packet.extend_from_slice(self.body.get(start..end).unwrap_or_default());
        self.next += 1;
        self.common.sent(now);
        Some(packet)
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_over() { None } else { self.common.deadline }
    }

    pub fn is_over(&self) -> bool {
        self.common.failed.is_some() || (self.answered && self.acked >= self.last())
    }

    pub fn into_result(self) -> Result<(), Error> {
        self.common.failed.map_or(Ok(()), Err)
    }
}

/// Fetches a file from `server` (its port is 69 on a real one), asking from the address `local`.
pub async fn get(local: IpAddr, server: SocketAddr, path: &str, options: Options) -> Result<Vec<u8>, Error> {
    let socket = Client::bind(local, server).await?;
    get_with(socket, path, options).await
}

async fn get_with(mut client: Client, path: &str, options: Options) -> Result<Vec<u8>, Error> {
    let mut download = Download::new(path, options);
    let mut buffer = vec![0; usize::from(options.block_bytes.unwrap_or(512)) + 64];
    loop {
        while let Some(packet) = download.poll_transmit(Instant::now()) {
            client.send(&packet).await?;
        }
        if download.is_over() {
            return download.into_result();
        }
        match client.receive(&mut buffer, download.poll_timeout()).await? {
            Some(datagram) => download.handle_packet(datagram),
            None => download.handle_timeout(Instant::now()),
        }
    }
}

/// Brings a file to `server`.
pub async fn put(local: IpAddr, server: SocketAddr, path: &str, body: Vec<u8>, options: Options) -> Result<(), Error> {
    let mut client = Client::bind(local, server).await?;
    let mut upload = Upload::new(path, body, options);
    let mut buffer = vec![0; 1024];
    loop {
        while let Some(packet) = upload.poll_transmit(Instant::now()) {
            client.send(&packet).await?;
        }
        if upload.is_over() {
            return upload.into_result();
        }
        match client.receive(&mut buffer, upload.poll_timeout()).await? {
            Some(datagram) => upload.handle_packet(datagram),
            None => upload.handle_timeout(Instant::now()),
        }
    }
}

/// A socket that talks to the first port of the server that answered.
struct Client {
    socket: UdpSocket,
    server: SocketAddr,
    fixed: bool,
}

impl Client {
    async fn bind(local: IpAddr, server: SocketAddr) -> Result<Self, Error> {
        let socket = UdpSocket::bind((local, 0)).await.map_err(|source| Error::Socket { local, source })?;
        Ok(Self { socket, server, fixed: false })
    }

    fn fault(&self, source: io::Error) -> Error {
        let local = self.socket.local_addr().map_or(IpAddr::from([0, 0, 0, 0]), |at| at.ip());
        Error::Socket { local, source }
    }

    async fn send(&self, packet: &[u8]) -> Result<(), Error> {
        self.socket.send_to(packet, self.server).await.map_err(|source| self.fault(source))?;
        Ok(())
    }

    /// The next datagram of our transfer; `None` at the deadline.
    async fn receive<'a>(&mut self, buffer: &'a mut [u8], deadline: Option<Instant>) -> Result<Option<&'a [u8]>, Error> {
        let deadline = deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(1));
        loop {
            let received = match timeout_at(deadline.into(), self.socket.recv_from(buffer)).await {
                Err(_) => return Ok(None),
                Ok(received) => received.map_err(|source| self.fault(source))?,
            };
            let (len, from) = received;
            // The answer comes from the address that was asked, or it is not the answer (RFC 1123 §4.2.3.4 apart: a phone is strict).
            if from.ip() != self.server.ip() || (self.fixed && from.port() != self.server.port()) {
                continue;
            }
            self.fixed = true;
            self.server = from;
            return Ok(Some(buffer.get(..len).unwrap_or_default()));
        }
    }
}

/// What [`load`] is to do.
#[derive(Clone, Debug)]
pub struct Load {
    pub server: SocketAddr,
    /// Where clients ask from; they take turns.
    pub locals: Vec<IpAddr>,
    /// Clients at once.
    pub clients: usize,
    /// Files that each fetches, one after the other.
    pub files: usize,
    pub path: String,
    pub options: Options,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    pub fetched: usize,
    pub failed: usize,
    pub bytes: u64,
    pub took: Duration,
    /// From request to last block, sorted.
    pub latencies: Vec<Duration>,
    /// The first failure, as text.
    pub first_failure: Option<String>,
}

impl LoadReport {
    pub fn files_per_second(&self) -> f64 {
        self.fetched as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// `percent` of the files took at most this long.
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        self.latencies.get((self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1))).copied()
    }
}

/// Many clients at once, each fetching one file after the other.
pub async fn load(load: Load) -> LoadReport {
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for number in 0..load.clients {
        let load = load.clone();
        clients.spawn(async move {
            let local = load.locals.get(number % load.locals.len().max(1)).copied().unwrap_or(IpAddr::from([0, 0, 0, 0]));
            let mut report = LoadReport::default();
            for _ in 0..load.files {
                let asked = Instant::now();
                match get(local, load.server, &load.path, load.options).await {
                    Ok(body) => {
                        report.fetched += 1;
                        report.bytes += body.len() as u64;
                        report.latencies.push(asked.elapsed());
                    }
                    Err(error) => {
                        report.failed += 1;
                        report.first_failure.get_or_insert(error.to_string());
                    }
                }
            }
            report
        });
    }
    let mut total = LoadReport::default();
    while let Some(report) = clients.join_next().await {
        let Ok(report) = report else { continue };
        total.fetched += report.fetched;
        total.failed += report.failed;
        total.bytes += report.bytes;
        total.latencies.extend(report.latencies);
        total.first_failure = total.first_failure.or(report.first_failure);
    }
    total.took = started.elapsed();
    total.latencies.sort_unstable();
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(block: u16, len: usize) -> Vec<u8> {
        let mut packet = DATA.to_be_bytes().to_vec();
        packet.extend_from_slice(&block.to_be_bytes());
        packet.resize(len + 4, block as u8);
        packet
    }

    #[test]
    fn a_request_as_rfc_2347_prints_it() {
        let now = Instant::now();
        let options = Options { block_bytes: Some(1432), tsize: true, ..Options::default() };
        let mut download = Download::new("foobar", options);
        assert_eq!(download.poll_transmit(now).as_deref(), Some(&b"\0\x01foobar\0octet\0blksize\x001432\0tsize\x000\0"[..]));
        download.handle_packet(b"\0\x06blksize\x001024\0tsize\x005\0");
        assert_eq!(download.poll_transmit(now).as_deref(), Some(&b"\0\x04\0\0"[..]));
        download.handle_packet(&data(1, 5));
        assert_eq!(download.poll_transmit(now).as_deref(), Some(&b"\0\x04\0\x01"[..]));
        assert_eq!((download.tsize(), download.into_result().map(|body| body.len()).ok()), (Some(5), Some(5)));
    }

    #[test]
    fn options_that_were_not_asked_for_are_refused() {
        let mut download = Download::new("x", Options::default());
        download.poll_transmit(Instant::now());
        download.handle_packet(b"\0\x06tsize\x005\0");
        assert!(matches!(download.into_result(), Err(Error::Option(_))));
    }

    #[test]
    fn silence_is_asked_into_and_then_reported() {
        let mut now = Instant::now();
        let mut download = Download::new("x", Options::default());
        let mut asked = 0;
        while !download.is_over() {
            asked += usize::from(download.poll_transmit(now).is_some());
            now += Duration::from_secs(1);
            download.handle_timeout(now);
        }
        assert_eq!(asked, 6);
        assert!(matches!(download.into_result(), Err(Error::Silent { tries: 6 })));
    }

    #[test]
    fn blocks_out_of_order_and_twice() {
        let now = Instant::now();
        let mut download = Download::new("x", Options { window_blocks: Some(3), ..Options::default() });
        download.poll_transmit(now);
        download.handle_packet(b"\0\x06windowsize\x003\0");
        download.poll_transmit(now);
        download.handle_packet(&data(1, 512));
        download.handle_packet(&data(3, 512));
        assert_eq!(download.poll_transmit(now).as_deref(), Some(&b"\0\x04\0\x01"[..]));
        for block in [2, 2, 3] {
            download.handle_packet(&data(block, 512));
        }
        download.poll_transmit(now);
        download.handle_packet(&data(4, 0));
        assert_eq!(download.into_result().map(|body| body.len()).ok(), Some(3 * 512));
    }
}
