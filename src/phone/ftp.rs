//! A phone's FTP client, as Polycom's: log in, passive mode, fetch or bring one file, from a chosen local address.
//!
//! Not here: active mode, listings, TLS.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// For the whole exchange.
const PATIENCE: Duration = Duration::from_secs(60);
const MAX_REPLY_LINES: usize = 64;
const MAX_REPLY_LINE: u64 = 1024;

/// Whom to ask, and as whom.
#[derive(Clone, Debug)]
pub struct Account {
    pub local: IpAddr,
    pub server: SocketAddr,
    pub user: String,
    pub password: crate::model::Secret,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the server refused {command}: {reply}")]
    Refused { command: &'static str, reply: String },
    #[error("the connection to {server} failed")]
    Socket {
        server: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("{server} did not finish within a minute")]
    Slow { server: SocketAddr },
}

impl Account {
    pub async fn get(&self, path: &str) -> Result<Vec<u8>, Error> {
        self.within(async {
            let mut control = Control::open(self).await?;
            let mut data = control.passive(self).await?;
            control.command("RETR", path, 1).await?;
            let mut body = Vec::new();
            data.read_to_end(&mut body).await.map_err(|source| self.fault(source))?;
            // Closing tells the server that all was read.
            drop(data);
            control.reply("RETR", 2).await?;
            Ok(body)
        })
        .await
    }

    pub async fn put(&self, path: &str, body: &[u8]) -> Result<(), Error> {
        self.within(async {
            let mut control = Control::open(self).await?;
            let mut data = control.passive(self).await?;
            control.command("STOR", path, 1).await?;
            let sent = async {
                data.write_all(body).await?;
                data.shutdown().await
            };
            let sent = sent.await;
            // A server that wants no more of it says why.
            control.reply("STOR", 2).await?;
            sent.map_err(|source| self.fault(source))
        })
        .await
    }

    async fn within<T>(&self, exchange: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        timeout(PATIENCE, exchange).await.unwrap_or(Err(Error::Slow { server: self.server }))
    }

    fn fault(&self, source: io::Error) -> Error {
        Error::Socket { server: self.server, source }
    }

    async fn connect(&self, port: u16) -> Result<TcpStream, Error> {
        let connect = async {
            let socket = if self.server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.bind(SocketAddr::new(self.local, 0))?;
            socket.connect(SocketAddr::new(self.server.ip(), port)).await
        };
        connect.await.map_err(|source| self.fault(source))
    }
}

/// The control connection, logged in.
struct Control {
    stream: BufReader<TcpStream>,
    server: SocketAddr,
}

impl Control {
    async fn open(account: &Account) -> Result<Self, Error> {
        let stream = BufReader::new(account.connect(account.server.port()).await?);
        let mut control = Self { stream, server: account.server };
        control.reply("connect", 2).await?;
        control.command("USER", &account.user, 3).await?;
        control.command("PASS", account.password.expose(), 2).await?;
        control.command("TYPE", "I", 2).await?;
        Ok(control)
    }

    async fn passive(&mut self, account: &Account) -> Result<TcpStream, Error> {
        let reply = self.command("EPSV", "", 2).await?;
        let port = reply.rsplit('|').nth(1).and_then(|port| port.parse().ok());
        let port = port.ok_or(Error::Refused { command: "EPSV", reply })?;
        account.connect(port).await
    }

    async fn command(&mut self, command: &'static str, argument: &str, class: u32) -> Result<String, Error> {
        let line = format!("{} {argument}", command);
        let line = format!("{}\r\n", line.trim_end());
        let server = self.server;
        self.stream.write_all(line.as_bytes()).await.map_err(|source| Error::Socket { server, source })?;
        self.reply(command, class).await
    }

    /// The last line of the next reply; an error unless its code begins with `class`.
    async fn reply(&mut self, command: &'static str, class: u32) -> Result<String, Error> {
        let server = self.server;
        for _ in 0..MAX_REPLY_LINES {
            let mut line = Vec::new();
            let mut limited = (&mut self.stream).take(MAX_REPLY_LINE);
            limited.read_until(b'\n', &mut line).await.map_err(|source| Error::Socket { server, source })?;
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if line.is_empty() {
                return Err(Error::Socket { server, source: io::ErrorKind::UnexpectedEof.into() });
            }
            // `123-` goes on, `123 ` is the end (RFC 959 §4.2).
            let code = line.get(..3).filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()));
            if code.is_some() && line.as_bytes().get(3) != Some(&b'-') {
                let right = line.chars().next().and_then(|digit| digit.to_digit(10)) == Some(class);
                return if right { Ok(line) } else { Err(Error::Refused { command, reply: line }) };
            }
        }
        Err(Error::Refused { command, reply: "an endless reply".into() })
    }
}
