//! The loop that serves a router: accepts, shakes hands where there is TLS, limits, times out, ends in order. HTTP/1.1 and 1.0, which is
//! what phones speak.
//!
//! A request finds out who asks by the extension [`Peer`] (or axum's `ConnectInfo<SocketAddr>`), and by
//! [`Certified`] which phone it is where it has shown its maker's certificate.
//! Slow clients are cut off in each direction: a handshake or a head that trickles (slow-loris) and idle connections by a
//! time-out, an answer that nobody takes by [`Timed`]; bodies that trickle by whoever reads them.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{Router, body::Body, extract::ConnectInfo, http::Request};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Sleep, sleep},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    fileserver::{
        Error,
        limits::{LogBudget, Slot, Slots},
    },
    tls::{Certified, Tls},
};

/// How long open connections may finish what they do once the server stops.
const GRACE: Duration = Duration::from_secs(5);
const MAX_HEADERS: usize = 100;

static LOG: LogBudget = LogBudget::new();

/// Both ends of the connection that a request came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub remote: SocketAddr,
    pub local: SocketAddr,
    /// By TLS.
    pub secure: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connections: usize,
    pub connections_per_source: usize,
    /// For TLS's handshake, for the head of a request, and for an idle connection.
    pub header_timeout: Duration,
    /// For an answer of which the client takes nothing.
    pub stall_timeout: Duration,
    /// For the head of a request: 8192 at least.
    pub head_bytes: usize,
}

impl Limits {
    /// The count of connections that these limits allow; to be shared by several listeners.
    pub fn slots(&self) -> Slots {
        Slots::new(self.connections, self.connections_per_source)
    }
}

/// Listens on `at`; `door` and `section` are for the error's text. Call within a tokio runtime.
pub fn bind(door: &'static str, section: &str, at: SocketAddr) -> Result<TcpListener, Error> {
    listen(at).map_err(|source| Error::bind(door, section, at, source))
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of before a restart linger in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

/// Serves `app` on `listener` until `shutdown` is cancelled; returns when the last connection is closed.
pub async fn serve(listener: TcpListener, app: Router, limits: Limits, shutdown: CancellationToken) {
    let slots = limits.slots();
    serve_within(listener, None, app, limits, slots, shutdown).await;
}

/// [`serve`] with an allowance that several listeners share, by TLS where we are somebody there.
pub async fn serve_within(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    app: Router,
    limits: Limits,
    slots: Slots,
    shutdown: CancellationToken,
) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, remote)) => match slots.take(remote.ip()) {
                Ok(slot) => {
                    connections.spawn(welcome(stream, remote, tls.clone(), app.clone(), limits, slot, shutdown.clone()));
                }
                Err(full) => {
                    metrics::counter!("plugtone_http_refused_total").increment(1);
                    if LOG.allows(Instant::now()) {
                        tracing::warn!(peer = %remote, ?full, "http: too many connections");
                    }
                }
            },
            Err(error) => {
                if LOG.allows(Instant::now()) {
                    tracing::warn!(%error, "http: cannot accept (are there enough file descriptors?)");
                }
                // Out of descriptors: without a pause this would spin until one is free.
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

async fn welcome(
    stream: TcpStream,
    remote: SocketAddr,
    tls: Option<Arc<Tls>>,
    app: Router,
    limits: Limits,
    _slot: Slot,
    shutdown: CancellationToken,
) {
    let Ok(local) = stream.local_addr() else { return };
    // Answers are small and awaited: never hold one back for company.
    let _ = stream.set_nodelay(true);
    let peer = Peer { remote, local, secure: tls.is_some() };
    let stream = Timed::new(stream, limits.stall_timeout);
    let Some(tls) = tls else { return connection(stream, peer, None, app, limits, shutdown).await };
    let handshake = tokio::time::timeout(limits.header_timeout, TlsAcceptor::from(tls.of_phones()).accept(stream));
    let shaken = tokio::select! {
        shaken = handshake => shaken,
        () = shutdown.cancelled() => return,
    };
    match shaken {
        Ok(Ok(stream)) => {
            let certified = stream.get_ref().1.peer_certificates().and_then(|shown| tls.certified(shown));
            connection(stream, peer, certified, app, limits, shutdown).await;
        }
        Ok(Err(error)) => {
            metrics::counter!("plugtone_http_handshakes_failed_total").increment(1);
            if LOG.allows(Instant::now()) {
                let hint = if is_distrust(&error) { "; was it given the authority's certificate, and is its clock right?" } else { "" };
                tracing::warn!(peer = %remote, %error, "https: no handshake comes about{hint}");
            }
        }
        Err(_) => metrics::counter!("plugtone_http_timeouts_total").increment(1),
    }
}

/// The client hung up because of our certificate.
fn is_distrust(error: &io::Error) -> bool {
    use rustls::{AlertDescription as Alert, Error};
    let alert = error.get_ref().and_then(|inner| inner.downcast_ref());
    let Some(Error::AlertReceived(alert)) = alert else { return false };
    matches!(
        alert,
        Alert::UnknownCA | Alert::BadCertificate | Alert::CertificateUnknown | Alert::CertificateExpired | Alert::UnsupportedCertificate
    )
}

/// The requests of one client, one after the other.
async fn connection<S>(stream: S, peer: Peer, certified: Option<Certified>, app: Router, limits: Limits, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(app);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        if let Some(certified) = &certified {
            request.extensions_mut().insert(certified.clone());
        }
        request.extensions_mut().insert(ConnectInfo(peer.remote));
        hyper::service::Service::call(&service, request)
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.head_bytes.max(8192))
        .max_headers(MAX_HEADERS);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    // With upgrades: the API's WebSockets live on the same loop.
    let mut connection = std::pin::pin!(connection.with_upgrades());
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(GRACE, connection).await {
                Ok(result) => result,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = result {
        if error.is_timeout() {
            metrics::counter!("plugtone_http_timeouts_total").increment(1);
        }
        if LOG.allows(Instant::now()) {
            tracing::debug!(peer = %peer.remote, error = %chain(&error), "http: connection ended");
        }
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> Arc<str> {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.into()
}

/// A stream whose writes fail when the other end takes nothing for a while.
struct Timed {
    stream: TcpStream,
    patience: Duration,
    /// Running while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Timed {
    fn new(stream: TcpStream, patience: Duration) -> Self {
        Self { stream, patience, waiting: None }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl AsyncRead for Timed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Timed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
