//! Messages that were valid before a seeded generator spoiled them, by datagram and by connection, to a running engine: requests of
//! all methods, signed where a phone would sign, and answers to what the engine asks. Calls come up and are ended in between.
//!
//! In the suite a share; all of a million, with figures and the bound on memory, by
//!
//! ```sh
//! PLUGTONE_MUTATIONS=1000000 cargo test --release --test all mutations -- --nocapture
//! ```

use std::{
    collections::BTreeMap,
    fs,
    sync::{Mutex, Once},
    time::Instant,
};

use bytes::Bytes;
use plugtone::sip::{Message, Method, Name};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    bed_with, forgets,
    mutator::{Random, mutate},
    phone::{Draft, Phone, offer},
};
use crate::{
    call::Bed,
    rfc::rfc4475::{TABLE, vector},
};

const SHARE: usize = 30_000;
/// Sent before the engine is asked whether it is still there; what a socket holds easily.
const BATCH: usize = 40;
/// One in so many goes by TCP.
const BY_TCP: usize = 25;
/// Challenges are used for so many messages: counts of a nonce come late when messages are spoiled.
const SIGN_WITH: usize = 2000;
/// What the process may have grown by when all is forgotten, once it is warm; the rest is what the allocator keeps.
const GROWTH_KIB: usize = 32 << 10;

/// Panics in the product, whoever catches them.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.location().is_some_and(|at| at.file().starts_with("src/")) {
                PANICS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(panic.to_string());
            }
            before(panic);
        }));
    });
}

/// Resident memory of this process.
fn resident_kib() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

struct Storm {
    random: Random,
    caller: Phone,
    callee: Phone,
    menu: Phone,
    stream: Option<TcpStream>,
    /// What is mixed in.
    spare: Vec<u8>,
    /// A call of the caller's that is up, or was.
    dialog: Option<(Draft, Message)>,
    last_invite: Option<Draft>,
    signed: usize,
    /// What came, by first word or status.
    heard: BTreeMap<String, usize>,
    vectors: Vec<Bytes>,
}

const METHODS: &[&str] = &[
    "REGISTER",
    "REGISTER",
    "INVITE",
    "INVITE",
    "INVITE",
    "SUBSCRIBE",
    "SUBSCRIBE",
    "REFER",
    "PRACK",
    "OPTIONS",
    "INFO",
    "UPDATE",
    "MESSAGE",
    "NOTIFY",
    "BYE",
    "CANCEL",
    "ACK",
    "PUBLISH",
];

impl Storm {
    async fn new(bed: &Bed, seed: u64) -> Self {
        let (mut caller, mut callee, mut menu) = (Phone::new(bed, 1).await, Phone::new(bed, 2).await, Phone::new(bed, 4).await);
        caller.registers().await;
        callee.registers().await;
        // A name that has logged in is never banned for what others do in it.
        menu.registers().await;
        Self {
            random: Random(seed),
            caller,
            callee,
            menu,
            stream: None,
            spare: Vec::new(),
            dialog: None,
            last_invite: None,
            signed: SIGN_WITH,
            heard: BTreeMap::new(),
            vectors: TABLE.iter().map(|(name, ..)| vector(name)).collect(),
        }
    }

    /// A valid message of any kind.
    fn good(&mut self) -> Vec<u8> {
        let method = *self.random.of(METHODS);
        let within = self.random.one_in(2);
        let random = &mut self.random;
        if random.one_in(20) {
            return random.of(&self.vectors).to_vec();
        }
        let phone = if random.one_in(8) { &mut self.menu } else { &mut self.caller };
        let to = *random.of(&["2042", "2042", "2042", "0", "2043", "2041", "112", "", "*97", "999"]);
        let mut draft = match (&self.dialog, method) {
            (Some((invite, accepted)), "INVITE" | "REFER" | "PRACK" | "INFO" | "UPDATE" | "BYE" | "ACK" | "OPTIONS" | "NOTIFY")
                if within =>
            {
                let mut draft = phone.within(invite, accepted, method);
                draft.cseq += random.below(50) as u32;
                draft.more.push_str(&format!("Contact: <sip:2041@{}>\r\n", phone.at()));
                draft
            }
            _ => match (method, &self.last_invite) {
                ("CANCEL" | "ACK", Some(invite)) => Draft { method, more: String::new(), body: String::new(), ..invite.clone() },
                ("REGISTER", _) => phone.registration(),
                _ => phone.draft(method, to),
            },
        };
        draft = match method {
            "INVITE" | "UPDATE" => draft.carrying("application/sdp", &offer(20_000)),
            "SUBSCRIBE" => {
                let event = *random.of(&["Event: dialog", "Event: presence", "Event: message-summary"]);
                draft.with(event).with("Expires: 120")
            }
            "REFER" => draft.with("Refer-To: <sip:2043@127.0.0.1>").with("Referred-By: <sip:2041@127.0.0.1>"),
            "PRACK" => draft.with("RAck: 1 1 INVITE"),
            "INFO" => draft.carrying("application/dtmf-relay", "Signal=5\r\nDuration=160\r\n"),
            "NOTIFY" => draft.with("Event: refer").with("Subscription-State: active").carrying("message/sipfrag", "SIP/2.0 200 OK"),
            "MESSAGE" => draft.carrying("text/plain", "hello"),
            _ => draft,
        };
        if method == "INVITE" && random.one_in(6) {
            draft = draft
                .with("Replaces: 1@x;to-tag=a;from-tag=b")
                .with("Supported: replaces, timer, 100rel")
                .with("Session-Expires: 90;refresher=uac");
        }
        if !matches!(method, "ACK" | "CANCEL") && !random.one_in(5) {
            let via = draft.via.clone();
            phone.signs(&mut draft);
            if random.one_in(4) {
                // A repetition of something, perhaps.
                draft.via = via;
            }
        }
        if method == "INVITE" {
            self.last_invite = Some(draft.clone());
        }
        draft.text().into_bytes()
    }

    async fn challenge(&mut self) {
        for phone in [&mut self.caller, &mut self.menu] {
            let mut registration = phone.registration();
            // Its answer may be one that came for something else: the next one is as good.
            phone.prepares(&mut registration).await;
        }
        for request in self.caller.was_asked() {
            self.answer(request.bytes().clone(), false).await;
        }
        self.menu.was_asked();
        self.signed = 0;
    }

    async fn send(&mut self, count: usize) {
        if self.signed >= SIGN_WITH {
            self.challenge().await;
        }
        for _ in 0..count {
            let good = self.good();
            let bytes = if self.random.one_in(10) { good.clone() } else { mutate(&mut self.random, &good, &self.spare) };
            if self.random.one_in(BY_TCP) {
                self.send_by_tcp(&bytes).await;
            } else {
                self.caller.send(&bytes).await;
            }
            self.spare = good;
        }
        self.signed += count;
        self.answer_all().await;
    }

    /// Connections are used until they break.
    async fn send_by_tcp(&mut self, bytes: &[u8]) {
        let broken = match &mut self.stream {
            Some(stream) => {
                let _ = stream.try_read(&mut [0; 65_535]);
                stream.write_all(bytes).await.is_err()
            }
            None => true,
        };
        if broken || self.random.one_in(4) {
            self.stream = TcpStream::connect(self.caller.tcp).await.ok();
        }
    }

    /// Takes what came, and answers it as a phone would, mostly.
    async fn answer_all(&mut self) {
        while let Some(bytes) = self.callee.hears_now() {
            self.answer(bytes, true).await;
        }
        while let Some(bytes) = self.caller.hears_now() {
            self.answer(bytes, false).await;
        }
        while self.menu.hears_now().is_some() {}
    }

    async fn answer(&mut self, bytes: Bytes, callee: bool) {
        let message =
            Message::parse(bytes.clone()).unwrap_or_else(|fault| panic!("the engine sent what cannot be read: {fault}: {bytes:?}"));
        let word = message.status().map_or_else(|| message.method().expect("a request").to_string(), |status| status.to_string());
        *self.heard.entry(word).or_default() += 1;
        let phone = if callee { &mut self.callee } else { &mut self.caller };
        let spoil = |random: &mut Random, bytes: Bytes| if random.one_in(2) { mutate(random, &bytes, &bytes) } else { bytes.to_vec() };
        let (status, sound) = match message.method() {
            Some(Method::Invite) => match self.random.below(6) {
                0 => (180, None),
                1 => (486, None),
                2 => (603, None),
                3 => (302, None),
                _ => (200, Some(20_002)),
            },
            Some(Method::Ack) => {
                // It has what it wanted: the callee hangs up.
                let mut bye = phone.within_theirs(&message, "BYE");
                phone.send(spoil(&mut self.random, bye.text().into())).await;
                bye.cseq += 1;
                bye.via = phone.via();
                return phone.send(bye.text()).await;
            }
            Some(_) => (200, None),
            None => return self.acknowledge(&message).await,
        };
        let answer = phone.answer(&message, status, sound);
        let spoiled = spoil(&mut self.random, answer.clone());
        phone.send(spoiled).await;
        if self.random.one_in(2) {
            phone.send(answer).await;
        }
    }

    async fn acknowledge(&mut self, answer: &Message) {
        let of_invite = answer.cseq().is_ok_and(|cseq| cseq.method == "INVITE");
        let Some(invite) = self.last_invite.clone().filter(|_| of_invite && answer.status().is_some_and(|status| status >= 200)) else {
            return;
        };
        if answer.call_id() != Ok(invite.call_id.as_str()) || answer.header(Name::To).is_none() || self.random.one_in(4) {
            return;
        }
        if answer.status().is_some_and(|status| status < 300) && answer.contact_uri().is_some() {
            let ack = Draft { cseq: invite.cseq, ..self.caller.within(&invite, answer, "ACK") };
            self.caller.send(ack.text()).await;
            self.dialog = Some((invite, answer.clone()));
        } else {
            let to = answer.text(Name::To).expect("a To").into_owned();
            self.caller.send(Draft { method: "ACK", to, more: String::new(), body: String::new(), ..invite }.text()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_takes_messages_however_they_are_spoiled() {
    watch_panics();
    let all: Option<usize> = std::env::var("PLUGTONE_MUTATIONS").ok().map(|count| count.parse().expect("PLUGTONE_MUTATIONS: a number"));
    let count = all.unwrap_or(SHARE);
    let mut bed = bed_with(|calls| (calls.max_calls_extension, calls.capture_mib) = (1000, 8)).await;
    // The menu answers and hangs up.
    let (_, none) = tokio::sync::mpsc::channel(1);
    let mut calls = std::mem::replace(&mut bed.service, none);
    tokio::spawn(async move { while calls.recv().await.is_some() {} });
    let mut storm = Storm::new(&bed, 0x5157_0f0f).await;
    let began = Instant::now();
    let (mut sent, mut warm_kib, mut most) = (0, 0, 0);
    while sent < count {
        storm.send(BATCH).await;
        sent += BATCH;
        // It still answers, and has taken all that came before.
        for message in storm.caller.is_answered().await {
            storm.answer(message.bytes().clone(), false).await;
        }
        most = most.max(bed.running.handle.load().await.calls);
        if sent / (count / 10) != (sent - BATCH) / (count / 10) {
            if warm_kib == 0 {
                warm_kib = resident_kib();
            }
            if all.is_some() {
                let rate = sent as f64 / began.elapsed().as_secs_f64();
                println!("{sent} sent, {rate:.0}/s; {} KiB resident; {:?}", resident_kib(), bed.running.handle.load().await);
            }
        }
    }
    drop(storm.stream.take());
    for call in bed.running.handle.list().await {
        bed.running.handle.hangup(call.call).await;
    }
    forgets(&bed).await;
    storm.caller.is_answered().await;
    assert!(!bed.running.task.is_finished());
    assert_eq!(*PANICS.lock().unwrap(), [""; 0]);
    // It was not all refused at the door: calls came up, phones were rung and told of them.
    for word in ["INVITE", "ACK", "BYE", "NOTIFY", "200", "400", "401", "481"] {
        assert!(storm.heard.contains_key(word), "no {word} was heard, but {:?}", storm.heard);
    }
    assert!(most > 0);
    let contacts = bed.running.handle.contacts().await;
    assert!(contacts.len() <= 30, "{contacts:?}");
    if all.is_some() {
        let grown = resident_kib().saturating_sub(warm_kib);
        println!(
            "{sent} in {:.0} s; heard {:?}; {grown} KiB more than when warm ({warm_kib} KiB)",
            began.elapsed().as_secs_f64(),
            storm.heard
        );
        assert!(grown < GROWTH_KIB, "grown by {grown} KiB");
    }
}
