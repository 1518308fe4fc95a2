//! A line of the phone: registers, calls, is called, and obeys check-sync when it is idle.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    time::sleep_until,
};

use super::{
    super::{
        audio::{Handset, Say},
        settings::Account,
    },
    Again, Desk, News, Order, say,
};
use crate::{
    media::listen::Heard,
    sdp::{self, Description, Direction, Session, Terms},
    sip::{
        build::Response,
        digest::Credentials,
        endpoint::{self, Endpoint},
        message::{Message, Method},
        name::Name,
        register_client::{self, RegisterClient},
        transport::Flow,
        ua::{self, Ended, Invite, LegEvent, LegId, UserAgent},
    },
};

/// A line of the phone: registered, in a call or not.
pub(super) struct Line<'a> {
    desk: &'a Desk,
    tell: &'a mpsc::Sender<News>,
    /// What the phone, with all its lines, is about to leave the desk for.
    leave: &'a watch::Sender<Option<Again>>,
    account: Account,
    address: IpAddr,
    server: SocketAddr,
    local: SocketAddr,
    socket: UdpSocket,
    endpoint: Endpoint,
    agent: UserAgent,
    registration: RegisterClient,
    registered: bool,
    call: Option<Call>,
    /// Heard in the present call.
    ear: mpsc::Receiver<Heard>,
    mouth: mpsc::Sender<Heard>,
    poll_at: Option<Instant>,
}

struct Call {
    leg: LegId,
    handset: Handset,
    session: Session,
    offer: Option<Description>,
    up: bool,
    answer_at: Option<Instant>,
    say: Say,
}

impl<'a> Line<'a> {
    pub(super) async fn open(
        desk: &'a Desk,
        tell: &'a mpsc::Sender<News>,
        leave: &'a watch::Sender<Option<Again>>,
        account: Account,
        address: IpAddr,
    ) -> Result<Self, String> {
        if account.tcp {
            return Err("the simulated phone speaks SIP over UDP only: set `sip_transport: udp` for it".to_owned());
        }
        let server = tokio::net::lookup_host((account.server.as_str(), account.port))
            .await
            .map_err(|error| format!("cannot find {}: {error}", account.server))?
            .next()
            .ok_or_else(|| format!("{} has no address", account.server))?;
        let socket = UdpSocket::bind((address, 0)).await.map_err(|error| format!("cannot open a port on {address}: {error}"))?;
        // An unspecified address is no use in a Contact: ask the routing table which one leads to the server.
        let local = if address.is_unspecified() {
            let probe = UdpSocket::bind((address, 0)).await.map_err(|error| error.to_string())?;
            probe.connect(server).await.map_err(|error| error.to_string())?;
            let ip = probe.local_addr().map_err(|error| error.to_string())?.ip();
            SocketAddr::new(ip, socket.local_addr().map_err(|error| error.to_string())?.port())
        } else {
            socket.local_addr().map_err(|error| error.to_string())?
        };
        let mut seed = [0u8; 32];
        getrandom::fill(&mut seed).map_err(|error| error.to_string())?;
        let product = desk.user_agent().trim_start_matches("FileTransport ").to_owned();
        let mut endpoint = Endpoint::new(endpoint::Config { product, ..endpoint::Config::default() }, seed);
        let Account { user, port, .. } = &account;
        let host = &account.server;
        let config = register_client::Config {
            aor: format!("sip:{user}@{host}"),
            display_name: account.display_name.clone(),
            registrar: format!("sip:{host}:{port}"),
            flow: Flow::udp(local, server),
            contact_user: user.clone(),
            credentials: credentials(&account),
            expires_secs: account.expires_secs,
        };
        let mut registration = RegisterClient::new(&mut endpoint, config);
        let (mouth, ear) = mpsc::channel(64);
        let now = Instant::now();
        registration.register(now, &mut endpoint);
        Ok(Self {
            desk,
            tell,
            leave,
            address: local.ip(),
            server,
            local,
            socket,
            endpoint,
            agent: UserAgent::new(ua::Config::default()),
            registration,
            registered: false,
            call: None,
            ear,
            mouth,
            poll_at: account.poll_secs.map(|secs| now + Duration::from_secs(u64::from(secs))),
            account,
        })
    }

    fn say(&self, news: News) {
        say(self.tell, news);
    }

    fn leave_for(&self, why: Again) {
        self.leave.send_modify(|held| *held = held.filter(|held| *held == Again::Reboot).or(Some(why)));
    }

    /// Until the phone has to leave the desk.
    pub(super) async fn live(&mut self, orders: &mut mpsc::Receiver<Order>) {
        let mut datagram = vec![0u8; 65_536];
        let mut leaving = self.leave.subscribe();
        loop {
            let now = Instant::now();
            self.handle_timers(now);
            self.drain(now).await;
            if self.call.is_none()
                && let Some(again) = *leaving.borrow_and_update()
            {
                return self.say(News::Reloading { why: if again == Again::Reboot { "reboot" } else { "files" } });
            }
            let wake = self.wake().into();
            tokio::select! {
                received = self.socket.recv_from(&mut datagram) => {
                    if let Ok((length, peer)) = received {
                        let flow = Flow::udp(self.local, peer);
                        self.endpoint.handle_message(Instant::now(), flow, Bytes::copy_from_slice(&datagram[..length]));
                    }
                }
                // Where nobody is at this port, none comes.
                Some(order) = orders.recv() => self.obey(Instant::now(), order).await,
                Some(heard) = self.ear.recv() => self.say(News::Heard(heard)),
                Ok(()) = leaving.changed() => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    fn wake(&self) -> Instant {
        let answer = self.call.as_ref().and_then(|call| call.answer_at);
        let known = [self.endpoint.poll_timeout(), self.agent.poll_timeout(), self.registration.poll_timeout(), answer, self.poll_at];
        known.into_iter().flatten().min().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))
    }

    fn handle_timers(&mut self, now: Instant) {
        self.endpoint.handle_timeout(now);
        self.agent.handle_timeout(now, &mut self.endpoint);
        self.registration.handle_timeout(now, &mut self.endpoint);
        if self.poll_at.is_some_and(|at| now >= at) {
            self.poll_at = None;
            self.leave_for(Again::Files);
        }
        if self.call.as_ref().and_then(|call| call.answer_at).is_some_and(|at| now >= at) {
            self.lift(now);
        }
    }

    /// Moves events and packets until nothing is left to do.
    async fn drain(&mut self, now: Instant) {
        loop {
            while let Some(event) = self.endpoint.poll_event() {
                if let Some(event) = self.registration.handle(now, &mut self.endpoint, event) {
                    self.agent.handle(now, &mut self.endpoint, event);
                }
            }
            while let Some(event) = self.registration.poll_event() {
                self.registration_news(event);
            }
            let Some(event) = self.agent.poll_event() else { break };
            self.handle(now, event).await;
        }
        while let Some(transmit) = self.endpoint.poll_transmit() {
            let _ = self.socket.send_to(&transmit.bytes, transmit.flow.peer).await;
        }
    }

    async fn handle(&mut self, now: Instant, event: ua::Event) {
        match event {
            ua::Event::Incoming { leg, request, .. } => self.incoming(now, leg, &request).await,
            ua::Event::Leg { leg, event } if self.call.as_ref().is_some_and(|call| call.leg == leg) => self.leg(now, event),
            ua::Event::Leg { .. } => {}
            ua::Event::Request { tx, request, .. } => {
                let status = match request.method() {
                    Some(Method::Notify) => self.notified(&request),
                    Some(Method::Options) => 200,
                    _ => 405,
                };
                self.endpoint.respond(now, tx, Response::to(&request, status));
            }
            ua::Event::Replied { .. } => {}
        }
    }

    fn registration_news(&mut self, event: register_client::Event) {
        let user = self.account.user.clone();
        match event {
            register_client::Event::Registered { .. } => {
                if !std::mem::replace(&mut self.registered, true) {
                    self.say(News::Registered { user });
                }
            }
            register_client::Event::Failed { status, .. } => {
                self.registered = false;
                self.say(News::RegisterRefused { user, status });
            }
            register_client::Event::Unregistered => {}
        }
    }

    fn flow(&self) -> Flow {
        Flow::udp(self.local, self.server)
    }

    /// Is it "check-sync"? Then the files are fetched again, when the phone is idle.
    fn notified(&mut self, request: &Message) -> u16 {
        let Some(event) = request.text(Name::Event).map(|event| event.into_owned()) else { return 489 };
        let name = event.split(';').next().unwrap_or_default().trim();
        if !matches!(name, "check-sync" | "resync") {
            return 489;
        }
        // A Poly restarts its application; the others fetch their files in place unless told to reboot.
        let reboot = event.contains("reboot=true") || self.desk.config.make.family == "poly";
        self.leave_for(if reboot { Again::Reboot } else { Again::Files });
        self.say(News::CheckSync { event });
        200
    }

    // --- calls

    async fn obey(&mut self, now: Instant, order: Order) {
        match order {
            Order::Call { to } => {
                if let Err(reason) = self.dial(now, &to).await {
                    self.say(News::CallEnded { how: reason });
                }
            }
            Order::Answer => self.lift(now),
            Order::Press(keys) => {
                if let Some(call) = &self.call {
                    self.say(News::Keyed { count: keys.len() });
                    call.handset.press(keys);
                }
            }
            Order::Say(what) => {
                if let Some(call) = &mut self.call {
                    call.say = what.clone();
                    call.handset.say(what);
                }
            }
            Order::HangUp => {
                if let Some(call) = self.call.take() {
                    self.agent.hangup(now, &mut self.endpoint, call.leg, None);
                    self.say(News::CallEnded { how: "hung up here".to_owned() });
                }
            }
            Order::Reload => self.leave_for(Again::Files),
        }
    }

    async fn dial(&mut self, now: Instant, to: &str) -> Result<(), String> {
        if self.call.is_some() {
            return Err("the line is in use".to_owned());
        }
        let handset = Handset::open(self.address, self.mouth.clone()).await.map_err(|error| error.to_string())?;
        let leg = self.agent.new_leg();
        let mut session = Session::new(leg.0, handset.local, &sdp::Codec::ALL);
        let offer = session.offer(Direction::SendRecv, None, &[]);
        let Account { user, server, port, display_name, .. } = &self.account;
        let invite = Invite {
            uri: format!("sip:{to}@{server}:{port}"),
            flow: self.flow(),
            from: (display_name.clone(), format!("sip:{user}@{server}")),
            to: format!("sip:{to}@{server}"),
            contact_user: user.clone(),
            offer: Some(offer),
            credentials: Some(credentials(&self.account)),
            routes: Vec::new(),
            headers: Vec::new(),
            spare: Vec::new(),
            gr: None,
        };
        self.agent.invite(now, &mut self.endpoint, leg, invite);
        self.call = Some(Call { leg, handset, session, offer: None, up: false, answer_at: None, say: Say::Nothing });
        self.say(News::Calling { to: to.to_owned() });
        Ok(())
    }

    async fn incoming(&mut self, now: Instant, leg: LegId, request: &Message) {
        let offer = Description::parse(request.body()).ok();
        if self.call.is_some() || self.leave.borrow().is_some() {
            return self.agent.reject(now, &mut self.endpoint, leg, 486, &[]);
        }
        let Ok(handset) = Handset::open(self.address, self.mouth.clone()).await else {
            return self.agent.reject(now, &mut self.endpoint, leg, 500, &[]);
        };
        self.agent.ring(now, &mut self.endpoint, leg);
        let from = request.from().map(|from| from.uri_str().to_owned()).unwrap_or_default();
        let answer_at = self.desk.config.answer_after.map(|after| now + after);
        let session = Session::new(leg.0, handset.local, &sdp::Codec::ALL);
        self.call = Some(Call { leg, handset, session, offer, up: false, answer_at, say: Say::Nothing });
        self.say(News::Incoming { from });
    }

    fn lift(&mut self, now: Instant) {
        let Some(call) = self.call.as_mut().filter(|call| !call.up) else { return };
        call.answer_at = None;
        let body = match &call.offer {
            Some(offer) => match call.session.answer(offer, Terms::default()) {
                Ok((body, params)) => {
                    call.handset.talk_to(params);
                    body
                }
                Err(_) => {
                    let leg = call.leg;
                    self.call = None;
                    return self.agent.reject(now, &mut self.endpoint, leg, 488, &[]);
                }
            },
            None => call.session.offer(Direction::SendRecv, None, &[]),
        };
        call.up = true;
        self.agent.answer(now, &mut self.endpoint, call.leg, body);
        self.say(News::Answered);
    }

    fn leg(&mut self, now: Instant, event: LegEvent) {
        let Some(call) = &mut self.call else { return };
        let mut accept = |body: Option<Bytes>| {
            let answer = body.and_then(|body| Description::parse(&body).ok());
            if let Some(params) = answer.and_then(|answer| call.session.accept(&answer, Direction::SendRecv).ok()) {
                call.handset.talk_to(params);
            }
        };
        match event {
            LegEvent::Trying => {}
            LegEvent::Ringing { body, .. } => {
                accept(body);
                self.say(News::Ringing);
            }
            LegEvent::Answered { body } => {
                accept(body);
                call.up = true;
                self.say(News::Answered);
            }
            LegEvent::Acked { body } => {
                if call.offer.is_none() {
                    accept(body);
                }
            }
            LegEvent::Reoffered { body } => {
                let answer = match body.and_then(|body| Description::parse(&body).ok()) {
                    Some(offer) => call.session.answer(&offer, Terms::default()).map(|(body, params)| {
                        call.handset.talk_to(params);
                        body
                    }),
                    None => Ok(call.session.offer(Direction::SendRecv, None, &[])),
                };
                match answer {
                    Ok(body) => self.agent.answer_reoffer(now, &mut self.endpoint, call.leg, body),
                    Err(_) => self.agent.reject_reoffer(now, &mut self.endpoint, call.leg, 488),
                }
            }
            // It calls whom it was told to, and nobody else.
            LegEvent::Refused { status, .. } | LegEvent::Redirected { status, .. } => {
                self.call = None;
                self.say(News::CallRefused { status });
            }
            LegEvent::Ended { how } => {
                self.call = None;
                let how = match how {
                    Ended::HungUp => "the other side hung up",
                    Ended::Cancelled => "the caller gave up",
                    Ended::Lost => "the other side is gone",
                };
                self.say(News::CallEnded { how: how.to_owned() });
            }
            LegEvent::Referred { .. } => self.agent.refuse_refer(now, &mut self.endpoint, call.leg, 603),
            LegEvent::FlowFailed { .. }
            | LegEvent::ReofferAnswered { .. }
            | LegEvent::ReofferFailed { .. }
            | LegEvent::ReferProgress { .. }
            | LegEvent::Info { .. } => {}
        }
    }
}

fn credentials(account: &Account) -> Credentials {
    let username = if account.auth_user.is_empty() { &account.user } else { &account.auth_user };
    Credentials { username: username.clone(), secret: account.password.clone() }
}
