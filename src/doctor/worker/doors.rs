//! Fetches a file that everybody may have, by the clients of the simulated phones.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use tokio::{
    net::UdpSocket,
    time::{timeout, timeout_at},
};

use super::{PATIENCE, local_for};
use crate::{
    doctor::doors::{Door, Fetch},
    model::Secret,
    phone::{ftp, http, tftp},
};

/// The common file of a make that all editions of the templates have.
const FILE: &str = "y000000000066.cfg";
/// A slow server repeats its first packet by itself.
const TFTP: tftp::Options =
    tftp::Options { block_bytes: None, window_blocks: None, tsize: false, timeout_secs: None, wait: Duration::from_secs(1), retries: 2 };

pub async fn fetch(door: Door, server: SocketAddr, login: &(String, Secret)) -> Fetch {
    match door {
        Door::Tftp => by_tftp(server).await.unwrap_or_else(|error| failed(&error)),
        Door::Http => by_http(server).await,
        Door::Ftp => by_ftp(server, login).await,
    }
}

fn failed(error: &io::Error) -> Fetch {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Fetch::Refused,
        io::ErrorKind::TimedOut => Fetch::Silent,
        _ => Fetch::Stuck(error.to_string()),
    }
}

async fn by_tftp(server: SocketAddr) -> io::Result<Fetch> {
    let socket = UdpSocket::bind((local_for(server).await?, 0)).await?;
    // Whether somebody listens at all: a connected socket hears the machine refuse.
    let probe = UdpSocket::bind((local_for(server).await?, 0)).await?;
    probe.connect(server).await?;
    let mut download = tftp::Download::new(FILE, TFTP);
    let (mut peer, mut buffer) = (None, vec![0; 2048]);
    loop {
        while let Some(packet) = download.poll_transmit(Instant::now()) {
            match peer {
                None => socket.send_to(&packet, server).await?,
                Some(peer) => socket.send_to(&packet, peer).await?,
            };
        }
        let Some(deadline) = download.poll_timeout() else { break };
        match timeout_at(deadline.into(), socket.recv_from(&mut buffer)).await {
            Ok(received) => {
                let (length, from) = received?;
                if from.ip() != server.ip() {
                    return Ok(Fetch::From(from.ip()));
                }
                peer.get_or_insert(from);
                download.handle_packet(&buffer[..length]);
            }
            Err(_) => {
                if peer.is_none() && is_refused(&probe).await {
                    return Ok(Fetch::Refused);
                }
                download.handle_timeout(Instant::now());
            }
        }
    }
    Ok(match (download.into_result(), peer) {
        (Ok(file), _) => Fetch::Got { bytes: file.len() },
        (Err(tftp::Error::Refused { message, .. }), _) => Fetch::Missing(message),
        (Err(_), None) => Fetch::Silent,
        (Err(error), Some(_)) => Fetch::Stuck(error.to_string()),
    })
}

/// An acknowledgement that nobody waits for: the machine answers it only if nobody listens.
async fn is_refused(probe: &UdpSocket) -> bool {
    const ACK: [u8; 4] = [0, 4, 0, 0];
    let mut buffer = [0; 64];
    let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if probe.send(&ACK).await.as_ref().is_err_and(refused) {
        return true;
    }
    timeout(Duration::from_millis(300), probe.recv(&mut buffer)).await.is_ok_and(|received| received.as_ref().is_err_and(refused))
}

async fn by_http(server: SocketAddr) -> Fetch {
    let client = http::Client { local: any(), user_agent: "Plugtone doctor".into(), patience: PATIENCE };
    match client.get(&format!("http://{server}/{FILE}"), None).await {
        Ok(answer) if answer.status == 200 => Fetch::Got { bytes: answer.body.len() },
        Ok(answer) => Fetch::Missing(format!("status {}", answer.status)),
        Err(http::Error::Connect { source, .. }) => failed(&source),
        Err(http::Error::Slow { .. }) if connects(server).await => Fetch::Stuck(format!("no answer within {PATIENCE:?}")),
        Err(http::Error::Slow { .. }) => Fetch::Silent,
        Err(http::Error::Exchange { source, .. }) => Fetch::Stuck(source.to_string()),
        Err(error) => Fetch::Stuck(error.to_string()),
    }
}

async fn connects(server: SocketAddr) -> bool {
    timeout(PATIENCE, tokio::net::TcpStream::connect(server)).await.is_ok_and(|connected| connected.is_ok())
}

async fn by_ftp(server: SocketAddr, (user, password): &(String, Secret)) -> Fetch {
    match timeout(PATIENCE, tokio::net::TcpStream::connect(server)).await {
        Err(_) => return Fetch::Silent,
        Ok(Err(error)) => return failed(&error),
        Ok(Ok(_)) => {}
    }
    let account = ftp::Account { local: any(), server, user: user.clone(), password: password.clone() };
    match timeout(PATIENCE, account.get(FILE)).await {
        Ok(Ok(file)) => Fetch::Got { bytes: file.len() },
        Ok(Err(ftp::Error::Refused { command, reply })) => Fetch::Missing(format!("{command}: {reply}")),
        Ok(Err(error)) => Fetch::Stuck(error.to_string()),
        Err(_) => Fetch::Stuck("no data connection".into()),
    }
}

fn any() -> std::net::IpAddr {
    Ipv4Addr::UNSPECIFIED.into()
}
