//! A phone's HTTP client: one request per connection, as boot loaders do it, from a chosen local address.
//!
//! Not here: TLS, redirects, cookies.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, Uri,
    body::Incoming,
    header::{ETAG, HOST, HeaderName, IF_NONE_MATCH, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpSocket, time::timeout};

/// A phone has no more memory for a file, firmware included.
const MAX_BODY: usize = 256 << 20;

/// Who asks, and how long they wait.
#[derive(Clone, Debug)]
pub struct Client {
    /// The address that the phone was leased.
    pub local: IpAddr,
    pub user_agent: String,
    /// For the whole exchange.
    pub patience: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub etag: Option<String>,
    pub content_type: Option<String>,
    pub body: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{url:?} is not http://address[:port]/path")]
    Url { url: String },
    #[error("cannot reach {server} from {local}")]
    Connect {
        server: SocketAddr,
        local: IpAddr,
        #[source]
        source: io::Error,
    },
    #[error("{server} broke off")]
    Exchange {
        server: SocketAddr,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{server} did not answer within {patience:?}")]
    Slow { server: SocketAddr, patience: Duration },
}

impl Client {
    pub fn new(local: IpAddr, user_agent: &str) -> Self {
        Self { local, user_agent: user_agent.to_owned(), patience: Duration::from_secs(30) }
    }

    /// GET; with `held`, the ETag of what the phone has: status 304 if that still holds.
    pub async fn get(&self, url: &str, held: Option<&str>) -> Result<Answer, Error> {
        self.request(Method::GET, url, held.map(|etag| (IF_NONE_MATCH, etag)), Bytes::new()).await
    }

    /// PUT, as phones upload logs and overrides.
    pub async fn put(&self, url: &str, body: Bytes) -> Result<Answer, Error> {
        self.request(Method::PUT, url, None, body).await
    }

    async fn request(&self, method: Method, url: &str, header: Option<(HeaderName, &str)>, body: Bytes) -> Result<Answer, Error> {
        let bad = || Error::Url { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let server = server_of(&uri).ok_or_else(bad)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(HOST, uri.authority().map_or("", |authority| authority.as_str())).header(USER_AGENT, &self.user_agent);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body)).map_err(|_| bad())?;
        match timeout(self.patience, self.exchange(server, request)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Slow { server, patience: self.patience }),
        }
    }

    async fn exchange(&self, server: SocketAddr, request: Request<Full<Bytes>>) -> Result<Answer, Error> {
        let connect = async {
            let socket = if server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.bind(SocketAddr::new(self.local, 0))?;
            let stream = socket.connect(server).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let stream = connect.await.map_err(|source| Error::Connect { server, local: self.local, source })?;
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| Error::Exchange { server, source };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|source| broken(source.into()))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|source| broken(source.into()))?;
            read(response).await.map_err(broken)
        };
        // Both in one task: when the phone gives up, its connection goes with it.
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            answer = exchange.as_mut() => answer,
            ended = connection => match ended {
                Ok(()) => exchange.await,
                Err(source) => Err(broken(source.into())),
            },
        }
    }
}

async fn read(response: Response<Incoming>) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (status, etag, content_type) = (response.status().as_u16(), text(ETAG), text(hyper::header::CONTENT_TYPE));
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await?.to_bytes();
    Ok(Answer { status, etag, content_type, body })
}

/// Phones are given addresses, not names.
fn server_of(uri: &Uri) -> Option<SocketAddr> {
    if uri.scheme_str() != Some("http") {
        return None;
    }
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    Some(SocketAddr::new(host.parse().ok()?, uri.port_u16().unwrap_or(80)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_addresses() {
        let server = |url: &str| server_of(&url.parse().expect("a URI"));
        assert_eq!(server("http://192.0.2.1/x"), "192.0.2.1:80".parse().ok());
        assert_eq!(server("http://[::1]:8080/x"), "[::1]:8080".parse().ok());
        assert_eq!(server("https://192.0.2.1/x"), None);
        assert_eq!(server("http://example.net/x"), None);
    }
}
