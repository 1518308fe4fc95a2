//! A phone of a few lines over one UDP port: it says what a test wants said, right or wrong, and hides nothing of the answers.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use plugtone::{
    model::Secret,
    sip::{Credentials, Login, Message, Name, Response},
};
use tokio::{
    net::UdpSocket,
    time::{Instant, timeout, timeout_at},
};

use crate::call::{Bed, mac, password, user_of};

/// When a phone asks again.
const REPEAT: Duration = Duration::from_millis(500);

pub struct Phone {
    socket: UdpSocket,
    pub server: SocketAddr,
    /// Where the server takes connections.
    pub tcp: SocketAddr,
    pub user: &'static str,
    auth_user: String,
    secret: String,
    pub login: Login,
    /// Makes branches, tags and Call-IDs differ.
    next: u64,
    /// Requests that came while an answer was waited for.
    asked: VecDeque<Message>,
}

/// A request before it is sent: a test bends what it likes.
#[derive(Clone, Debug)]
pub struct Draft {
    pub method: &'static str,
    pub uri: String,
    pub via: String,
    pub from: String,
    pub to: String,
    pub call_id: String,
    pub cseq: u32,
    /// Whole lines, each with its line end.
    pub more: String,
    pub body: String,
}

impl Draft {
    pub fn text(&self) -> String {
        let Self { method, uri, via, from, to, call_id, cseq, more, body } = self;
        format!(
            "{method} {uri} SIP/2.0\r\nVia: {via}\r\nMax-Forwards: 70\r\nFrom: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\n\
             CSeq: {cseq} {method}\r\n{more}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    pub fn with(mut self, header: &str) -> Self {
        self.more.push_str(header);
        self.more.push_str("\r\n");
        self
    }

    pub fn carrying(mut self, kind: &str, body: &str) -> Self {
        self.body = body.to_owned();
        self.with(&format!("Content-Type: {kind}"))
    }
}

impl Phone {
    pub async fn new(bed: &Bed, last: u8) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let (auth_user, secret) = (format!("{}-1", mac(last).bare()), password(mac(last)));
        let login = Login::new(Credentials { username: auth_user.clone(), secret: Secret::new(secret.clone()) });
        let (server, tcp) = (bed.running.udp[0], bed.running.tcp[0]);
        Self { socket, server, tcp, user: user_of(last), auth_user, secret, login, next: u64::from(last) << 32, asked: VecDeque::new() }
    }

    pub fn at(&self) -> SocketAddr {
        self.socket.local_addr().expect("bound")
    }

    /// The same phone behind another port, as after a NAT forgot it.
    pub async fn moves(&mut self) {
        self.socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    }

    /// Something that was not there before.
    pub fn new_word(&mut self) -> String {
        self.next += 1;
        format!("{:x}", self.next)
    }

    pub fn via(&mut self) -> String {
        format!("SIP/2.0/UDP {};rport;branch=z9hG4bK{}", self.at(), self.new_word())
    }

    /// A new request to a user of the server; to the server itself where `to` is empty.
    pub fn draft(&mut self, method: &'static str, to: &str) -> Draft {
        let server = self.server;
        let target = if to.is_empty() { format!("sip:{server}") } else { format!("sip:{to}@{server}") };
        let (user, at) = (self.user, self.at());
        Draft {
            method,
            uri: target.clone(),
            via: self.via(),
            from: format!("<sip:{user}@{server}>;tag={}", self.new_word()),
            to: format!("<{target}>"),
            call_id: self.new_word(),
            cseq: 1,
            more: format!("Contact: <sip:{user}@{at}>\r\n"),
            body: String::new(),
        }
    }

    /// A REGISTER of its own number.
    pub fn registration(&mut self) -> Draft {
        let mut draft = self.draft("REGISTER", "");
        draft.to = format!("<sip:{}@{}>", self.user, self.server);
        draft.with("Expires: 300")
    }

    /// A call with a session description that names this port for its sound.
    pub fn invitation(&mut self, to: &str, sound: u16) -> Draft {
        self.draft("INVITE", to).carrying("application/sdp", &offer(sound))
    }

    pub async fn send(&self, text: impl AsRef<[u8]>) {
        self.socket.send_to(text.as_ref(), self.server).await.expect("sent");
    }

    /// The next message, whatever it is.
    pub async fn hears(&self) -> Message {
        let mut buffer = vec![0; 65_535];
        let heard = timeout(Duration::from_secs(10), self.socket.recv_from(&mut buffer)).await.expect("nothing is heard");
        let (len, _) = heard.expect("received");
        Message::parse(Bytes::copy_from_slice(&buffer[..len])).expect("a message")
    }

    /// What has come by now.
    pub fn hears_now(&self) -> Option<Bytes> {
        let mut buffer = vec![0; 65_535];
        let (len, _) = self.socket.try_recv_from(&mut buffer).ok()?;
        Some(Bytes::copy_from_slice(&buffer[..len]))
    }

    /// The final answer to what has this Call-ID and CSeq.
    pub async fn answer_to(&mut self, draft: &Draft) -> Message {
        loop {
            let message = self.hears().await;
            if message.is_request() {
                self.asked.push_back(message);
            } else if message.call_id() == Ok(draft.call_id.as_str())
                && message.cseq().is_ok_and(|cseq| (cseq.number, cseq.method) == (draft.cseq, draft.method))
                && message.status().is_some_and(|status| status >= 200)
            {
                if draft.method == "INVITE" {
                    self.acknowledges(draft, &message).await;
                }
                return message;
            }
        }
    }

    /// Requests that came while something else was waited for.
    pub fn was_asked(&mut self) -> Vec<Message> {
        self.asked.drain(..).collect()
    }

    /// The next request that comes, whenever it came.
    pub async fn is_asked(&mut self) -> Message {
        if let Some(request) = self.asked.pop_front() {
            return request;
        }
        loop {
            let message = self.hears().await;
            if message.is_request() {
                return message;
            }
        }
    }

    /// Sends it as it is, again where it or the answer was lost: sockets of ours may be full.
    pub async fn asks(&mut self, draft: &Draft) -> Message {
        for _ in 0..20 {
            self.send(draft.text()).await;
            if let Ok(answer) = timeout(REPEAT, self.answer_to(draft)).await {
                return answer;
            }
        }
        panic!("no answer to {draft:?}");
    }

    /// Sends it, and once more with its password when that is wanted.
    pub async fn does(&mut self, draft: &mut Draft) -> Message {
        let first = self.asks(draft).await;
        if first.status() != Some(401) {
            return first;
        }
        self.takes(&first, draft);
        self.asks(draft).await
    }

    /// Sends it, and signs it for the challenge that comes.
    pub async fn prepares(&mut self, draft: &mut Draft) {
        let challenge = self.asks(draft).await;
        self.takes(&challenge, draft);
    }

    fn takes(&mut self, challenge: &Message, draft: &mut Draft) {
        self.login = Login::new(Credentials { username: self.auth_user.clone(), secret: Secret::new(self.secret.clone()) });
        self.login.handle_challenge(challenge).expect("a challenge");
        self.signs(draft);
    }

    /// Puts credentials for the last challenge in, and makes it another request than before.
    pub fn signs(&mut self, draft: &mut Draft) {
        let (_, value) = self.login.authorize(draft.method, &draft.uri, "cnonce").expect("was challenged");
        draft.more = draft.more.split_inclusive("\r\n").filter(|line| !line.starts_with("Authorization")).collect();
        draft.more.push_str(&format!("Authorization: {value}\r\n"));
        draft.via = self.via();
        draft.cseq += 1;
    }

    async fn acknowledges(&mut self, invite: &Draft, answer: &Message) {
        let accepted = answer.status().is_some_and(|status| status < 300);
        let mut ack = Draft { method: "ACK", more: String::new(), body: String::new(), ..invite.clone() };
        ack.to = answer.text(Name::To).expect("a To").into_owned();
        if accepted {
            ack.via = self.via();
            ack.uri = answer.contact_uri().expect("a Contact").to_owned();
        }
        self.send(ack.text()).await;
    }

    /// Answers a request, with a session description where there is a port for sound.
    pub async fn answers(&self, request: &Message, status: u16, sound: Option<u16>) {
        self.send(self.answer(request, status, sound)).await;
    }

    /// The same, to be sent.
    pub fn answer(&self, request: &Message, status: u16, sound: Option<u16>) -> Bytes {
        let response = Response::to(request, status).to_tag("theirs").header(Name::Contact, format!("<sip:{}@{}>", self.user, self.at()));
        match sound {
            Some(port) => response.body("application/sdp", offer(port)),
            None => response,
        }
        .encode()
    }

    /// A request within the dialog in which the engine has sent an ACK to an answer of ours.
    pub fn within_theirs(&mut self, ack: &Message, method: &'static str) -> Draft {
        let text = |name| ack.text(name).unwrap_or_default().into_owned();
        let mut draft = self.draft(method, "");
        (draft.from, draft.to, draft.call_id) = (text(Name::To), text(Name::From), text(Name::CallId));
        draft
    }

    /// Registers and is let in.
    pub async fn registers(&mut self) {
        let mut registration = self.registration();
        assert_eq!(self.does(&mut registration).await.status(), Some(200));
    }

    /// A request within the dialog that an answered INVITE of ours has made.
    pub fn within(&mut self, invite: &Draft, accepted: &Message, method: &'static str) -> Draft {
        Draft {
            method,
            uri: accepted.contact_uri().expect("a Contact").to_owned(),
            via: self.via(),
            to: accepted.text(Name::To).expect("a To").into_owned(),
            cseq: invite.cseq + 1,
            more: String::new(),
            body: String::new(),
            ..invite.clone()
        }
    }

    /// The server is well: it answers an OPTIONS, and what it says before that is all it had to say.
    pub async fn is_answered(&mut self) -> Vec<Message> {
        let options = self.draft("OPTIONS", "");
        let mut before = Vec::new();
        self.send(options.text()).await;
        let (mut repeated, mut due) = (0, Instant::now() + REPEAT);
        loop {
            let Ok(message) = timeout_at(due, self.hears()).await else {
                (repeated, due) = (repeated + 1, Instant::now() + REPEAT);
                assert!(repeated < 20, "OPTIONS goes unanswered");
                self.send(options.text()).await;
                continue;
            };
            // A spoiled message may have had this Call-ID before: the branch says what is answered (RFC 3261 §17.1.3).
            let branch = message.via().ok().and_then(|via| via.branch().map(|branch| format!("branch={branch}")));
            let ours =
                branch.is_some_and(|branch| options.via.ends_with(&branch)) && message.cseq().is_ok_and(|cseq| cseq.method == "OPTIONS");
            if !message.is_request() && ours {
                assert_eq!(message.status(), Some(200));
                assert!(message.header(Name::Allow).is_some());
                return before;
            }
            before.push(message);
        }
    }
}

pub fn offer(sound: u16) -> String {
    format!("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {sound} RTP/AVP 8 0\r\na=sendrecv\r\n")
}

/// Status of an answer.
pub fn status(message: &Message) -> u16 {
    message.status().expect("an answer")
}
