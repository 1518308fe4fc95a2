//! The load of `bench notify`: phones that register, watch each other's lamps and answer what they are told.
//!
//! One socket stands for many phones, as the server sees them by what they log in with. A call to one of them is refused, so
//! that its watchers see it ring and stop.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use tokio::net::UdpSocket;

use crate::{
    binding::MasterKey,
    model::{Generation, MacAddr},
    provisioning::identities::auth_user,
    sip::{Credentials, Login, Message, Method, Name, Request, Response},
};

/// All of them are bound once: their secrets are of this generation.
pub const GENERATION: Generation = 1;

pub fn mac(number: u32) -> MacAddr {
    let [_, b, c, d] = number.to_be_bytes();
    MacAddr([0x02, 0x30, 0, b, c, d])
}

pub fn extension(number: u32) -> String {
    (20_000 + number).to_string()
}

/// Phones behind one socket.
pub struct Watchers {
    socket: UdpSocket,
    server: SocketAddr,
    told: Arc<AtomicUsize>,
}

impl Watchers {
    /// `told` counts NOTIFYs.
    pub async fn new(server: SocketAddr, told: Arc<AtomicUsize>) -> anyhow::Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
        socket.set_recv_buffer_size(4 << 20)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, server, told })
    }

    /// The phone registers and watches the `keys` phones after it, of `of` in all.
    pub async fn plug_in(&self, key: &MasterKey, number: u32, keys: u32, of: u32) -> anyhow::Result<()> {
        let mac = mac(number);
        let mut login = Login::new(Credentials { username: auth_user(mac, 1), secret: key.sip_secret(mac, 1, GENERATION) });
        let own = extension(number);
        let registrar = format!("sip:{}", self.server);
        let status = self.ask(&mut login, Method::Register, &registrar, &own, &own, &format!("r{number}"), "").await?;
        if status != 200 {
            bail!("a phone may not register: {status}");
        }
        for step in 1..=keys {
            let whom = extension((number + step) % of);
            let uri = format!("sip:{whom}@{}", self.server);
            let status = self.ask(&mut login, Method::Subscribe, &uri, &own, &whom, &format!("s{number}-{step}"), "dialog").await?;
            if status != 200 {
                bail!("a phone may not watch: {status}");
            }
        }
        Ok(())
    }

    /// Answers whatever comes, for ever.
    pub async fn serve(&self) -> anyhow::Result<()> {
        loop {
            self.receive().await?;
        }
    }

    /// Sends a request until it is let in; returns the final status.
    #[allow(clippy::too_many_arguments)]
    async fn ask(
        &self,
        login: &mut Login,
        method: Method,
        uri: &str,
        from: &str,
        to: &str,
        call_id: &str,
        event: &str,
    ) -> anyhow::Result<u16> {
        let local = self.socket.local_addr()?;
        for cseq in 1..=4u32 {
            let host = self.server;
            let mut request = Request::new(method.clone(), uri)
                .header(Name::From, format_args!("<sip:{from}@{host}>;tag={call_id}"))
                .header(Name::To, format_args!("<sip:{to}@{host}>"))
                .header(Name::CallId, call_id)
                .header(Name::CSeq, format_args!("{cseq} {method}"))
                .header(Name::Contact, format_args!("<sip:{from}@{local}>"))
                .header(Name::Expires, 3600);
            if !event.is_empty() {
                request = request.header(Name::Event, event);
            }
            if let Some((name, value)) = login.authorize(method.as_str(), uri, call_id) {
                request = request.header(name, value);
            }
            let via = format!("SIP/2.0/UDP {local};branch=z9hG4bK{call_id}.{cseq}");
            self.socket.send_to(&request.encode(&via, ""), self.server).await?;
            let answer = tokio::time::timeout(Duration::from_secs(10), self.answer_to(call_id, cseq)).await;
            let answer = answer.context("the server does not answer")??;
            match answer.status() {
                Some(401) => login.handle_challenge(&answer)?,
                status => {
                    login.handle_success();
                    return Ok(status.unwrap_or_default());
                }
            }
        }
        Ok(401)
    }

    async fn answer_to(&self, call_id: &str, cseq: u32) -> anyhow::Result<Message> {
        loop {
            if let Some(answer) = self.receive().await?
                && answer.call_id() == Ok(call_id)
                && answer.cseq().is_ok_and(|one| one.number == cseq)
                && answer.status() >= Some(200)
            {
                return Ok(answer);
            }
        }
    }

    /// Takes one message: answers a request, returns a response.
    async fn receive(&self) -> anyhow::Result<Option<Message>> {
        let mut datagram = [0; 8192];
        let length = self.socket.recv(&mut datagram).await?;
        let message = Message::parse(Bytes::copy_from_slice(datagram.get(..length).unwrap_or_default()))?;
        let answer = match message.method() {
            None => return Ok(Some(message)),
            Some(Method::Ack) => return Ok(None),
            Some(Method::Invite) => Response::to(&message, 486).to_tag("busy"),
            Some(Method::Notify) => {
                self.told.fetch_add(1, Ordering::Relaxed);
                Response::to(&message, 200)
            }
            Some(_) => Response::to(&message, 200).to_tag("ok"),
        };
        self.socket.send_to(&answer.encode(), self.server).await?;
        Ok(None)
    }
}
