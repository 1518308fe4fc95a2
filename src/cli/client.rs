//! Talks to the API of a running Plugtone: one request, one answer, and what the problem was.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    Method, Request,
    body::{Bytes, Frame, Incoming},
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::{api::problem::Problem, model::Secret};

/// The API of one server.
pub struct Client {
    /// `host:port`.
    pub authority: String,
    token: Secret,
}

impl Client {
    /// The server on this machine: its address is in the configuration, its token in a file that only its user can read.
    pub fn local(authority: String, data: &Path) -> anyhow::Result<Self> {
        let path = data.join(crate::api::LOCAL_TOKEN_FILE);
        let token = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "cannot read {}: Plugtone is not running here, or runs as another user (try sudo); from elsewhere use --api and --token",
                path.display()
            )
        })?;
        Ok(Self { authority, token: Secret::new(token.trim()) })
    }

    /// A server elsewhere. `url` is `http://host:port`.
    pub fn remote(url: &str, token: String) -> anyhow::Result<Self> {
        let authority = url.strip_prefix("http://").with_context(|| format!("--api takes http://host:port, not '{url}'"))?;
        Ok(Self { authority: authority.trim_end_matches('/').to_owned(), token: Secret::new(token) })
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let body = self.send(Method::GET, path, None::<&()>, None).await?;
        serde_json::from_slice(&body).context("the server's answer is not what this version of plugtone understands")
    }

    pub async fn send_json<B: Serialize, T: DeserializeOwned>(&self, method: Method, path: &str, body: &B) -> anyhow::Result<T> {
        let body = self.send(method, path, Some(body), None).await?;
        serde_json::from_slice(&body).context("the server's answer is not what this version of plugtone understands")
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.send(Method::DELETE, path, None::<&()>, None).await.map(drop)
    }

    /// Follows a stream of server-sent events; `each` gets the data of each and says whether to go on.
    pub async fn follow(&self, path: &str, mut each: impl FnMut(&str) -> bool) -> anyhow::Result<()> {
        let mut stream = self.open(Method::GET, path, None::<&()>, None).await?;
        let mut pending = String::new();
        while let Some(frame) = stream.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            write!(pending, "{}", String::from_utf8_lossy(&data))?;
            while let Some(end) = pending.find("\n\n") {
                let event: String = pending.drain(..end + 2).collect();
                let data: String = event.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim_start).collect();
                if !data.is_empty() && !each(&data) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// One request; `idempotency_key` makes a repetition harmless.
    pub async fn send<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        idempotency_key: Option<&str>,
    ) -> anyhow::Result<Bytes> {
        Ok(self.open(method, path, body, idempotency_key).await?.collect().await?.to_bytes())
    }

    /// A file as the body, read as it goes. It may be larger than memory.
    pub async fn send_file<T: DeserializeOwned>(&self, method: Method, path: &str, file: tokio::fs::File, len: u64) -> anyhow::Result<T> {
        let pieces = futures_util::stream::try_unfold(file, async |mut file| {
            let mut piece = Vec::with_capacity(1 << 16);
            let read = (&mut file).take(1 << 16).read_to_end(&mut piece).await?;
            Ok::<_, std::io::Error>((read > 0).then(|| (Frame::data(Bytes::from(piece)), file)))
        });
        let body = StreamBody::new(pieces);
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request =
            self.request(method, path).header(header::CONTENT_TYPE, "application/octet-stream").header(header::CONTENT_LENGTH, len);
        let answer = good(sender.send_request(request.body(Box::pin(body))?).await?).await?;
        serde_json::from_slice(&answer.collect().await?.to_bytes())
            .context("the server's answer is not what this version of plugtone understands")
    }

    /// One request with a body that is not JSON.
    pub async fn send_as(&self, method: Method, path: &str, kind: &str, body: Vec<u8>) -> anyhow::Result<Bytes> {
        Ok(self.open_as(method, path, Some((kind, body)), None).await?.collect().await?.to_bytes())
    }

    async fn open<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        idempotency_key: Option<&str>,
    ) -> anyhow::Result<Incoming> {
        let body = body.map(serde_json::to_vec).transpose()?.map(|body| ("application/json", body));
        self.open_as(method, path, body, idempotency_key).await
    }

    async fn open_as(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Vec<u8>)>,
        idempotency_key: Option<&str>,
    ) -> anyhow::Result<Incoming> {
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = self.request(method, path);
        if let Some(key) = idempotency_key {
            request = request.header("Idempotency-Key", key);
        }
        let body = match body {
            Some((kind, body)) => {
                request = request.header(header::CONTENT_TYPE, kind);
                body
            }
            None => Vec::new(),
        };
        good(sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?).await
    }

    async fn connect(&self) -> anyhow::Result<TcpStream> {
        let stream = TcpStream::connect(&self.authority).await;
        stream.with_context(|| format!("no Plugtone answers at {}: is it running? (`plugtone serve`)", self.authority))
    }

    fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        let token = format!("Bearer {}", self.token.expose());
        Request::builder().method(method).uri(path).header(header::HOST, &self.authority).header(header::AUTHORIZATION, token)
    }
}

/// Its body, or what the problem was.
async fn good(response: hyper::Response<Incoming>) -> anyhow::Result<Incoming> {
    if response.status().is_success() {
        return Ok(response.into_body());
    }
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => bail!("{}: {}", problem.title, problem.detail),
        Err(_) => bail!("the server answered {status}: {}", String::from_utf8_lossy(&body).trim()),
    }
}
