//! The API over real HTTP, against a whole Plugtone on loopback with simulated phones: what other people's programs rely on.
//!
//! After a wanted change of its description: `UPDATE_OPENAPI=1 cargo test --test all api::the_description` writes
//! `tests/api/openapi.json` anew; read the diff before you commit.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request, body::Incoming};
use hyper_util::rt::TokioIo;
use plugtone::{
    api::{auth, calls::NewCall},
    model::{Event, MacAddr, Timestamp},
    phone::desk::News,
    provisioning::Identity,
    sip::{
        digest::Credentials,
        endpoint::{self, Endpoint},
        register_client::{self, RegisterClient},
        transport::Flow,
    },
    store::{Sqlite, Store, TokenRecord},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::story::office::{Office, Somebody};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program that talks to the API.
#[derive(Clone)]
struct Program {
    at: SocketAddr,
    token: String,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("visible ASCII"))
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.body).expect("UTF-8")
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The problem details of RFC 9457, which must have their form whatever was wrong.
    fn problem(&self, story: &str) -> Value {
        assert_eq!(self.header("content-type"), "application/problem+json", "{story}: {self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{story}");
        for member in ["title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{story}: no {member}: {problem}");
        }
        problem
    }
}

impl Program {
    fn of(office: &Office) -> Self {
        Self { at: office.node.addresses.api, token: format!("Bearer {}", office.node.local_token.expose()) }
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let whole = async {
            let stream = TcpStream::connect(self.at).await.expect("the API listens");
            let (parts, body) = self.open(stream, method, path, headers, body).await;
            let body = body.collect().await.expect("a whole body").to_bytes();
            Answer { status: parts.status.as_u16(), headers: parts.headers, body }
        };
        tokio::time::timeout(PATIENCE, whole).await.unwrap_or_else(|_| panic!("no answer to {method} {path}"))
    }

    async fn open(
        &self,
        stream: TcpStream,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (hyper::http::response::Parts, Incoming) {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", self.at.to_string());
        if !self.token.is_empty() {
            request = request.header("authorization", &self.token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).expect("a request");
        sender.send_request(request).await.expect("an answer").into_parts()
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, &[], "").await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    /// A request with a JSON body.
    async fn send(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.ask(method, path, &[JSON], &body.to_string()).await
    }

    async fn events(&self, query: &str, headers: &[(&str, &str)]) -> Stream {
        self.events_on(TcpStream::connect(self.at).await.expect("the API listens"), query, headers).await
    }

    async fn events_on(&self, stream: TcpStream, query: &str, headers: &[(&str, &str)]) -> Stream {
        let path = format!("/api/v1/events{query}");
        let (parts, body) = self.open(stream, "GET", &path, headers, "").await;
        assert_eq!(parts.status, 200, "{query}");
        assert_eq!(parts.headers["content-type"], "text/event-stream");
        Stream { body, pending: String::new() }
    }
}

const JSON: (&str, &str) = ("content-type", "application/json");

/// Server-sent events as they come.
struct Stream {
    body: Incoming,
    pending: String,
}

#[derive(Debug)]
struct Frame {
    id: Option<u64>,
    event: String,
    data: Value,
}

impl Stream {
    /// The next event; `None` when the server has ended the stream.
    async fn next(&mut self) -> Option<Frame> {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("an event in time")
    }

    async fn read(&mut self) -> Option<Frame> {
        loop {
            if let Some(end) = self.pending.find("\n\n") {
                let text: String = self.pending.drain(..end + 2).collect();
                let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                let Some(data) = field("data") else { continue };
                let data = serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"));
                return Some(Frame {
                    id: field("id").map(|id| id.parse().expect("a number")),
                    event: field("event").expect("a type").to_owned(),
                    data,
                });
            }
            let chunk = self.body.frame().await?.expect("the stream goes on").into_data().expect("data");
            self.pending += str::from_utf8(&chunk).expect("events of ASCII are not cut within a character");
        }
    }

    async fn numbers(&mut self, count: usize) -> Vec<u64> {
        let mut numbers = Vec::new();
        for _ in 0..count {
            numbers.extend(self.next().await.expect("an event").id);
        }
        numbers
    }
}

/// Something that can be told any time and is kept.
fn milestone(number: u8) -> Event {
    Event::ReloadTaken { mac: MacAddr([0, 0x15, 0x65, 0xee, 0, number]) }
}

/// A database that is in use may be opened once more, as `plugtone token create` does.
fn store_of(office: &Office) -> std::sync::Arc<Sqlite> {
    Sqlite::open(&office.settings.store.path).expect("opens")
}

/// A phone of this make that the API gives to somebody, reloaded and registered as theirs.
async fn colleague(office: &Office, family: &str, number: u32, login: &str, extension: &str) -> Somebody {
    let mut desk = office.plugs_in(family, number);
    desk.until_registered().await.expect("it registers as nobody's");
    let answer = Program::of(office).send("PUT", &format!("/api/v1/devices/{}/binding", desk.phone.mac), &json!({ "login": login })).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    desk.until_registered_as(extension).await.expect("it reloads and is theirs");
    desk
}

async fn two_colleagues(office: &Office) -> (Somebody, Somebody) {
    tokio::join!(colleague(office, "yealink", 0xa1, "1001", "2041"), colleague(office, "poly", 0xa2, "1002", "2042"))
}

/// Ada's phone rings and is lifted, then Alan's.
async fn both_lift(adas: &mut Somebody, alans: &mut Somebody) {
    let lifts = |news: &News| matches!(news, News::Answered).then_some(Ok(()));
    adas.wait("the call", lifts).await.expect("it lifts");
    alans.wait("the call", lifts).await.expect("it lifts");
}

// --- who may ask

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_valid_token_is_refused() {
    let office = Office::opens(|_| {}).await;
    let store = store_of(&office);
    let now = Timestamp::of(SystemTime::now());
    let token = |name: &'static str, expires| {
        let store = store.clone();
        async move {
            let (token, hash) = auth::new_token().expect("random numbers");
            store.save_token(TokenRecord { name: name.into(), hash, created: now, expires }).await.expect("saved");
            format!("Bearer {}", token.expose())
        }
    };
    let (good, lasting) = (token("good", None).await, token("lasting", Some(now.plus_secs(60))).await);
    let (expired, revoked) = (token("expired", Some(now.plus_secs(-1))).await, token("revoked", None).await);
    let as_who = |token: &str| Program { token: token.to_owned(), ..Program::of(&office) };
    let status = async |token: &str| as_who(token).ask("GET", "/api/v1/calls", &[], "").await.status;
    for token in [&good, &lasting, &revoked, &good.replace("Bearer", "bearer")] {
        assert_eq!(status(token).await, 200, "{token}");
    }
    assert!(store.remove_token("revoked").await.expect("removed"));
    for (story, token) in [
        ("none", ""),
        ("another scheme", "Basic dXNlcjpwYXNz"),
        ("a scheme alone", "Bearer"),
        ("an empty one", "Bearer "),
        ("a wrong one", "Bearer ptk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        ("its name", "Bearer good"),
        ("an expired one", &expired),
        ("a revoked one", &revoked),
    ] {
        let answer = as_who(token).ask("GET", "/api/v1/calls", &[], "").await;
        assert_eq!(answer.status, 401, "{story}");
        answer.problem(story);
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"plugtone\"", "{story}");
    }
    // What comes with it is not even looked at.
    let answer = as_who("").ask("POST", "/api/v1/calls", &[JSON], "{").await;
    assert_eq!(answer.status, 401);
    store.close().await;
    office.node.stop().await;
}

// --- errors

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_error_is_a_problem_that_says_what_to_do() {
    let office = Office::opens(|_| {}).await;
    let program = Program::of(&office);
    let long = "x".repeat(129);
    let huge = json!({ "from": "2041", "to": "2042", "labels": { "x": "y".repeat(70_000) } }).to_string();
    let many: serde_json::Map<_, _> = (0..17).map(|number| (number.to_string(), json!("x"))).collect();
    let many = json!({ "from": "2041", "to": "2042", "labels": many }).to_string();
    let call = r#"{"from":"2041","to":"2042"}"#;
    let binding = "/api/v1/devices/00:15:65:00:00:99/binding";
    for (story, method, path, headers, body, status, told) in [
        ("JSON that ends early", "POST", "/api/v1/calls", &[JSON][..], "{", 400, "EOF while parsing"),
        ("no body", "POST", "/api/v1/calls", &[JSON], "", 400, "EOF while parsing"),
        ("an unknown field", "POST", "/api/v1/calls", &[JSON], r#"{"from":"1","too":"2"}"#, 422, "unknown field `too`, expected one of"),
        ("a missing field", "POST", "/api/v1/calls", &[JSON], r#"{"from":"2041"}"#, 422, "missing field `to`"),
        ("a wrong type", "POST", "/api/v1/calls", &[JSON], r#"{"from":2041,"to":"2042"}"#, 422, "expected a string"),
        ("no content type", "POST", "/api/v1/calls", &[], call, 415, "application/json"),
        ("another content type", "POST", "/api/v1/calls", &[("content-type", "text/plain")], call, 415, "application/json"),
        ("too long a body", "POST", "/api/v1/calls", &[JSON], &huge, 413, "limit"),
        ("too many labels", "POST", "/api/v1/calls", &[JSON], &many, 400, "at most 16"),
        ("no extension", "POST", "/api/v1/calls", &[JSON], r#"{"from":"Ada","to":"2042"}"#, 400, "`from`: 'Ada' is not an extension"),
        ("what no keypad has", "POST", "/api/v1/calls", &[JSON], r#"{"from":"2041","to":"sip:x"}"#, 400, "`to`"),
        ("no patience", "POST", "/api/v1/calls", &[JSON], r#"{"from":"2041","to":"2","timeout_secs":1}"#, 400, "5 to 600"),
        ("a long key", "POST", "/api/v1/calls", &[JSON, ("idempotency-key", &long)], call, 400, "1 to 128"),
        ("an empty key", "POST", "/api/v1/calls", &[JSON, ("idempotency-key", "")], call, 400, "1 to 128"),
        ("nobody's phone", "POST", "/api/v1/calls", &[JSON], call, 409, "no phone registered"),
        ("an unknown call", "DELETE", "/api/v1/calls/00000000000004d2", &[], "", 404, "is over, or never was"),
        ("no call's id", "DELETE", "/api/v1/calls/the-last", &[], "", 400, "what POST /calls returned"),
        ("a bad MAC", "GET", "/api/v1/devices/00:15:65", &[], "", 400, "write twelve hex digits"),
        ("a MAC that is no text", "GET", "/api/v1/devices/%ff", &[], "", 400, "UTF-8"),
        ("an unknown device", "GET", "/api/v1/devices/001565000099", &[], "", 404, "00:15:65:00:00:99 was never seen"),
        ("an unknown device's owner", "PUT", binding, &[JSON], r#"{"login":"1001"}"#, 404, "was never seen"),
        ("an unknown owner", "PUT", binding, &[JSON], r#"{"login":"9999"}"#, 404, "login '9999'"),
        ("no owner to take it from", "DELETE", binding, &[], "", 404, "has no owner"),
        ("a limit that is no number", "GET", "/api/v1/devices?limit=all", &[], "", 400, "limit"),
        ("a place that is no number", "GET", "/api/v1/events?after=now", &[], "", 400, "after"),
        ("events of no call", "GET", "/api/v1/events?call=x", &[], "", 400, "`call`"),
        ("events of no device", "GET", "/api/v1/events?mac=x", &[], "", 400, "write twelve hex digits"),
        ("an unknown path", "GET", "/api/v1/phones", &[], "", 404, "/api/v1/openapi.json"),
        ("an unknown version", "GET", "/api/v2/calls", &[], "", 404, "/api/v1/openapi.json"),
        ("a wrong method", "PATCH", "/api/v1/calls", &[], "", 405, "`Allow`"),
        ("a wrong method without a token", "POST", "/healthz", &[], "", 405, "`Allow`"),
    ] {
        let answer = program.ask(method, path, headers, body).await;
        assert_eq!(answer.status, status, "{story}: {answer:?}");
        let problem = answer.problem(story);
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(told)), "{story}: {problem}");
    }
    assert_eq!(program.ask("PATCH", "/api/v1/calls", &[], "").await.header("allow"), "POST,GET,HEAD");
    office.node.stop().await;
}

// --- calls

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_placed_seen_followed_and_ended() {
    let office = Office::opens(|_| {}).await;
    let program = Program::of(&office);
    let (mut adas, mut alans) = two_colleagues(&office).await;
    let mut journal = office.journal();

    let new = json!({ "from": "2041", "to": "2042", "caller_id": "2099", "labels": { "ticket": "4711" } });
    let answer = program.send("POST", "/api/v1/calls", &new).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    let calls = program.get("/api/v1/calls").await;
    assert_eq!((calls[0]["id"].as_str(), calls[0]["state"].as_str()), (Some(&*id), Some("ringing_caller")), "{calls}");
    both_lift(&mut adas, &mut alans).await;
    journal.until("the answer", |event| matches!(event, Event::CallAnswered { to, .. } if to == "2042")).await;

    let calls = program.get("/api/v1/calls").await;
    assert_eq!(calls.as_array().map(Vec::len), Some(1), "{calls}");
    let call = &calls[0];
    for (name, value) in [
        ("id", json!(id)),
        ("from", json!("2041")),
        ("to", json!("2042")),
        ("mac", json!(adas.phone.mac.to_string())),
        ("state", json!("talking")),
        ("labels", json!({ "ticket": "4711" })),
    ] {
        assert_eq!(call[name], value, "{call}");
    }
    let (age, talk) = (call["age_secs"].as_f64().expect("an age"), call["talk_secs"].as_f64().expect("they talk"));
    assert!(0.0 <= talk && talk < age && age < 30.0, "{call}");

    let path = format!("/api/v1/calls/{id}");
    assert_eq!(program.ask("DELETE", &path, &[], "").await.status, 204);
    adas.until_hung_up().await.expect("it ends for Ada");
    alans.until_hung_up().await.expect("it ends for Alan");
    assert_eq!(program.get("/api/v1/calls").await, json!([]));
    assert_eq!(program.ask("DELETE", &path, &[], "").await.status, 404, "once is enough");

    // What was said in it: a side for each phone, by either name, without the passwords; a file that Wireshark reads.
    let captured = program.get("/api/v1/calls/captured").await;
    let sides: Vec<_> = captured.as_array().expect("a list").iter().filter(|side| side["id"] == json!(id)).collect();
    assert_eq!(sides.len(), 2, "{captured}");
    for side in sides {
        assert_eq!(side["last_status"], 200, "{side}");
        let by_side = program.get(&format!("/api/v1/calls/{}/messages", side["sip_call_id"].as_str().expect("a Call-ID"))).await;
        assert_eq!(by_side["messages"].as_array().map(Vec::len), side["messages"].as_u64().map(|count| count as usize), "{side}");
    }
    let messages = program.get(&format!("{path}/messages")).await["messages"].clone();
    let messages = messages.as_array().expect("a list");
    let of = |method: &str, status: Option<u16>| {
        let that = |one: &&Value| one["method"] == method && one["status"] == json!(status);
        messages.iter().filter(that).count()
    };
    assert!(of("INVITE", None) >= 2 && of("INVITE", Some(200)) >= 2 && of("BYE", None) >= 2, "{messages:#?}");
    assert!(messages.iter().all(|one| one["text"].as_str().is_some_and(|text| !text.is_empty()) && one["at_us"].as_u64() > Some(0)));
    let pcap = program.ask("GET", &format!("{path}/pcap"), &[], "").await;
    assert_eq!((pcap.status, pcap.header("content-type")), (200, "application/vnd.tcpdump.pcap"));
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), &pcap.body).expect("written");
    let read = std::process::Command::new("tshark").arg("-r").arg(file.path()).args(["-T", "fields", "-e", "sip.Method"]).output();
    let read = String::from_utf8(read.expect("cannot run tshark: install the Debian package tshark").stdout).expect("text");
    assert_eq!((read.lines().count(), read.lines().filter(|line| *line == "INVITE").count()), (messages.len(), of("INVITE", None)));
    let nothing = program.ask("GET", "/api/v1/calls/00000000000004d2/messages", &[], "").await;
    assert_eq!(nothing.status, 404);
    nothing.problem("a call that never was");

    // Its account: the one who wanted the call was called first.
    let until = Instant::now() + PATIENCE;
    let records = loop {
        let records = program.get("/api/v1/calls/records?user=2042").await["records"].clone();
        if records.as_array().is_some_and(|all| all.len() == 2 && all.iter().all(|record| record["cause"] == "ended on request")) {
            break records;
        }
        assert!(Instant::now() < until, "{records}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    for (record, leg, mac, from) in [(&records[0], 2, alans.phone.mac, "2099"), (&records[1], 1, adas.phone.mac, "2042")] {
        let told = (&record["call"], &record["leg"], &record["mac"], &record["from"], &record["labels"]);
        assert_eq!(told, (&json!(id), &json!(leg), &json!(mac.to_string()), &json!(from), &json!({ "ticket": "4711" })));
        assert!(record["talk_secs"].as_f64().is_some_and(|secs| (0.0..30.0).contains(&secs)), "{record}");
    }
    let page = program.get("/api/v1/calls/records?limit=1").await;
    let next = format!("/api/v1/calls/records?limit=1&after={}", page["next"].as_str().expect("there is more"));
    assert_eq!((&page["records"][0], &program.get(&next).await["records"][0]), (&records[0], &records[1]));
    assert_eq!(program.get("/api/v1/calls/records?until=2020-01-01").await["records"], json!([]));
    let csv = program.ask("GET", "/api/v1/calls/records?limit=1", &[("accept", "text/csv")], "").await;
    assert!(csv.header("content-type").starts_with("text/csv") && csv.header("link").contains("rel=\"next\""), "{csv:?}");
    let lines: Vec<&str> = csv.text().split("\r\n").collect();
    assert!(
        lines[0].starts_with("call,leg,direction,from,to,") && lines[1].starts_with(&format!("{id},2,out,2099,2042,2042,")),
        "{lines:?}"
    );
    for wrong in ["since=yesterday", "limit=0", "after=x", "format=xml"] {
        program.ask("GET", &format!("/api/v1/calls/records?{wrong}"), &[], "").await.problem(wrong);
    }

    // Its events, and nobody else's, with what the caller hung on it.
    let mut stream = program.events(&format!("?after=0&call={id}"), &[]).await;
    let mut types = Vec::new();
    while types.last().is_none_or(|name| name != "call_ended") {
        let frame = stream.next().await.expect("the stream goes on");
        assert_eq!(frame.data["call"], json!(id));
        if frame.event == "call_started" {
            assert_eq!(frame.data["labels"], json!([["ticket", "4711"]]), "{frame:?}");
        }
        types.push(frame.event);
    }
    let told: Vec<&str> = types.iter().map(String::as_str).collect();
    assert!(told.starts_with(&["call_started"]) && told.contains(&"call_answered"), "{told:?}");
    office.node.stop().await;
}

/// What the server cannot do now it may well do a moment later: such an answer is not said again from memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_the_server_had_no_room_for_is_tried_again_under_its_key() {
    let office = Office::opens(|settings| settings.calls.max_calls = 1).await;
    let program = Program::of(&office);
    let (mut adas, mut alans) = two_colleagues(&office).await;
    let new = json!({ "from": "2041", "to": "2042" }).to_string();
    let place = async |key: &str| program.ask("POST", "/api/v1/calls", &[JSON, ("idempotency-key", key)], &new).await;
    let only = place("4715").await;
    assert_eq!(only.status, 201, "{only:?}");
    both_lift(&mut adas, &mut alans).await;
    for _ in 0..2 {
        let full = place("4716").await;
        assert_eq!((full.status, full.header("idempotency-replayed")), (503, ""), "{full:?}");
        full.problem("no room");
    }
    let path = format!("/api/v1/calls/{}", only.json()["id"].as_str().expect("an id"));
    assert_eq!(program.ask("DELETE", &path, &[], "").await.status, 204);
    adas.until_hung_up().await.expect("it ends");
    alans.until_hung_up().await.expect("it ends");
    let until = Instant::now() + PATIENCE;
    while program.get("/api/v1/calls").await.as_array().is_some_and(|calls| !calls.is_empty()) {
        assert!(Instant::now() < until, "the first call never ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let placed = place("4716").await;
    assert_eq!((placed.status, placed.header("idempotency-replayed")), (201, ""), "{placed:?}");
    let again = place("4716").await;
    assert_eq!((again.status, again.header("idempotency-replayed"), again.json()), (201, "true", placed.json()));
    office.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_places_no_second_call() {
    let office = Office::opens(|_| {}).await;
    let program = Program::of(&office);
    let (mut adas, mut alans) = two_colleagues(&office).await;
    let new = json!({ "from": "2041", "to": "2042" });
    let place = |program: &Program, key: &'static str, body: &Value| {
        let (program, body) = (program.clone(), body.to_string());
        async move { program.ask("POST", "/api/v1/calls", &[JSON, ("idempotency-key", key)], &body).await }
    };

    let first = place(&program, "4711", &new).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (201, ""), "{first:?}");
    both_lift(&mut adas, &mut alans).await;
    let again = place(&program, "4711", &new).await;
    assert_eq!((again.status, again.header("idempotency-replayed"), again.json()), (201, "true", first.json()));
    let other = place(&program, "4711", &json!({ "from": "2041", "to": "2043" })).await;
    assert_eq!(other.status, 409);
    assert!(other.problem("another request")["detail"].as_str().is_some_and(|detail| detail.contains("choose a new one")));

    // Impatient: twice at once. One call comes of it, whoever is answered first.
    let path = format!("/api/v1/calls/{}", first.json()["id"].as_str().expect("an id"));
    assert_eq!(program.ask("DELETE", &path, &[], "").await.status, 204);
    adas.until_hung_up().await.expect("it ends");
    alans.until_hung_up().await.expect("it ends");
    let (one, two) = tokio::join!(place(&program, "4712", &new), place(&program, "4712", &new));
    let placed: BTreeSet<String> =
        [&one, &two].iter().filter(|answer| answer.status == 201).map(|answer| answer.text().to_owned()).collect();
    assert_eq!(placed.len(), 1, "{one:?} {two:?}");
    assert!([one.status, two.status].iter().all(|status| [201, 409].contains(status)), "{one:?} {two:?}");

    // A refusal is an answer too.
    let nobody = json!({ "from": "2045", "to": "2042" });
    let refused = place(&program, "4713", &nobody).await;
    assert_eq!(refused.status, 409);
    let again = place(&program, "4713", &nobody).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (409, "true"));
    assert_eq!(again.problem("a refusal again"), refused.problem("a refusal"));

    // The server was cut off between claim and answer: nobody knows whether there was a call, so there is no second one.
    let store = store_of(&office);
    let as_read: NewCall = serde_json::from_value(new.clone()).expect("a call");
    let hash = Sha256::digest(serde_json::to_vec(&as_read).expect("JSON")).into();
    store.claim_action("4714", hash, Timestamp::of(SystemTime::now())).await.expect("claimed");
    store.close().await;
    let unknown = place(&program, "4714", &new).await;
    assert_eq!(unknown.status, 409);
    assert!(unknown.problem("cut off")["detail"].as_str().is_some_and(|detail| detail.contains("GET /calls")));

    drop((adas, alans));
    let office = office.opens_again().await;
    let after = place(&Program::of(&office), "4711", &new).await;
    assert_eq!((after.status, after.json()), (201, first.json()), "a restart forgets no key");
    assert_eq!(place(&Program::of(&office), "4711", &nobody).await.status, 409);
    let mut journal = office.node.journal.subscribe(0);
    let mut started = 0;
    while let Some(delivery) = journal.next_if_any().await {
        let plugtone::journal::Delivery::Event(recorded) = delivery else { panic!("a gap") };
        started += usize::from(matches!(recorded.event, Event::CallStarted { .. }));
    }
    assert_eq!(started, 2, "one with 4711, one with 4712");
    office.node.stop().await;
}

// --- devices and their owners

/// One REGISTER with these credentials from an address that is not the phone's; the final status.
pub async fn register_as(identity: &Identity, registrar: SocketAddr) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let flow = Flow::udp(socket.local_addr().expect("bound"), registrar);
    let mut endpoint = Endpoint::new(endpoint::Config::default(), [7; 32]);
    let config = register_client::Config {
        aor: format!("sip:{}@{}", identity.user, registrar.ip()),
        display_name: String::new(),
        registrar: format!("sip:{registrar}"),
        flow,
        contact_user: identity.user.clone(),
        credentials: Credentials { username: identity.auth_user.clone(), secret: identity.secret.clone() },
        expires_secs: 3600,
    };
    let mut client = RegisterClient::new(&mut endpoint, config);
    client.register(Instant::now(), &mut endpoint);
    let mut datagram = [0; 4096];
    loop {
        while let Some(transmit) = endpoint.poll_transmit() {
            socket.send_to(&transmit.bytes, registrar).await.expect("sent");
        }
        let len = tokio::time::timeout(PATIENCE, socket.recv(&mut datagram)).await.expect("an answer").expect("received");
        let now = Instant::now();
        endpoint.handle_message(now, flow, Bytes::copy_from_slice(&datagram[..len]));
        while let Some(event) = endpoint.poll_event() {
            client.handle(now, &mut endpoint, event);
        }
        match client.poll_event() {
            Some(register_client::Event::Registered { .. }) => return 200,
            Some(register_client::Event::Failed { status, .. }) => return status,
            Some(register_client::Event::Unregistered) => panic!("nobody asked for that"),
            None => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_is_given_to_somebody_and_taken_back() {
    let office = Office::opens(|_| {}).await;
    let program = Program::of(&office);
    assert_eq!(program.get("/api/v1/devices").await, json!([]));
    assert_eq!(program.get("/api/v1/bindings").await, json!([]));

    let mut desk = office.plugs_in("yealink", 0xa3);
    let mac = desk.phone.mac;
    let mut journal = office.journal();
    desk.until_registered().await.expect("it registers as nobody's");
    journal.until("the registration", |event| matches!(event, Event::Registered { mac: of, .. } if *of == mac)).await;
    let device = program.get("/api/v1/devices").await[0].clone();
    for (name, value) in [
        ("mac", json!(mac.to_string())),
        ("family", json!("yealink")),
        ("model", json!("T46S")),
        ("state", json!("provisional")),
        ("binding", json!(null)),
    ] {
        assert_eq!(device[name], value, "{device}");
    }
    assert!(device["address"].as_str().is_some_and(|address| address.starts_with("127.64.")), "{device}");

    let path = format!("/api/v1/devices/{mac}/binding");
    let bound = program.send("PUT", &path, &json!({ "login": "1001" })).await;
    assert_eq!(bound.status, 200, "{bound:?}");
    let binding = bound.json();
    for (name, value) in [("mac", json!(mac.to_string())), ("line", json!(1)), ("extension", json!("2041")), ("user_id", json!("1001"))] {
        assert_eq!(binding[name], value, "{binding}");
    }
    assert_eq!(binding["display_name"], "Ada Lovelace");
    assert_eq!(program.get("/api/v1/bindings").await, json!([binding]));
    desk.until_registered_as("2041").await.expect("it reloads and is Ada's");
    journal.until("the end of the reload", |event| matches!(event, Event::ReloadDone { mac: of, .. } if *of == mac)).await;

    // In any spelling of its MAC.
    for spelling in [mac.to_string(), mac.bare().to_string(), mac.to_string().to_uppercase().replace(':', "-")] {
        let detail = program.get(&format!("/api/v1/devices/{spelling}")).await;
        assert_eq!((&detail["state"], &detail["binding"]), (&json!("in_service"), &binding), "{detail}");
        let timeline = detail["timeline"].as_array().expect("a timeline");
        let types: Vec<&str> = timeline.iter().filter_map(|event| event["type"].as_str()).collect();
        let way =
            ["dhcp_discover", "lease_granted", "file_served", "registered", "bound", "reload_requested", "reload_taken", "reload_done"];
        let places: Vec<_> = way.iter().map(|step| types.iter().position(|name| name == step)).collect();
        assert!(places.is_sorted() && places.iter().all(Option::is_some), "{way:?} at {places:?} in {types:?}");
        assert!(timeline.iter().all(|event| event["mac"] == json!(mac.to_string())), "{timeline:?}");
        assert!(timeline.is_sorted_by_key(|event| event["seq"].as_u64()));
    }

    let old = office.node.account(mac);
    let registrar = office.node.addresses.sip_udp[0];
    assert_eq!(program.ask("DELETE", &path, &[], "").await.status, 204);
    let status = register_as(&old, registrar).await;
    assert!([401, 403].contains(&status), "the old secret is dead when the answer is there: {status}");
    assert_eq!(program.get("/api/v1/bindings").await, json!([]));
    desk.until_registered_as(&format!("new{}", mac.bare())).await.expect("it reloads and is nobody's");
    assert_eq!(program.ask("DELETE", &path, &[], "").await.status, 404, "once is enough");
    assert_eq!(register_as(&old, registrar).await, status, "and stays dead");
    // So it was the secret: with one that is in force the same REGISTER is accepted, until its owner loses the phone.
    let soft = MacAddr([2, 0, 0, 0, 0, 0xa5]);
    office.node.give(soft, "1002").await.expect("given");
    let good = office.node.account(soft);
    assert_eq!(register_as(&good, registrar).await, 200);
    assert_eq!(program.ask("DELETE", &format!("/api/v1/devices/{soft}/binding"), &[], "").await.status, 204);
    assert_eq!(register_as(&good, registrar).await, status);

    // One person, two phones: the first one is a new phone again.
    let mut second = office.plugs_in("grandstream", 0xa4);
    second.until_registered().await.expect("it registers as nobody's");
    for of in [mac, second.phone.mac] {
        let answer = program.send("PUT", &format!("/api/v1/devices/{of}/binding"), &json!({ "login": "2041" })).await;
        assert_eq!((answer.status, &answer.json()["extension"]), (200, &json!("2041")), "the extension will do for the login: {answer:?}");
    }
    let bindings = program.get("/api/v1/bindings").await;
    assert_eq!(bindings.as_array().map(Vec::len), Some(1), "{bindings}");
    assert_eq!(bindings[0]["mac"], json!(second.phone.mac.to_string()));
    second.until_registered_as("2041").await.expect("the new one is Ada's");
    office.node.stop().await;
}

/// Two old telephones at one adapter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ports_of_an_adapter_are_given_to_two_people() {
    let office = Office::opens(|_| {}).await;
    let program = Program::of(&office);
    let mut adapter = office.plugs_in("grandstream_ht", 0xa6);
    let mac = adapter.phone.mac;
    let path = format!("/api/v1/devices/{mac}/binding");
    adapter.until_registered().await.expect("its first port registers as nobody's");
    for (line, login, extension) in [(1, "1001", "2041"), (2, "1002", "2042")] {
        let answer = program.send("PUT", &path, &json!({ "login": login, "line": line })).await;
        assert_eq!(
            (answer.status, &answer.json()["line"], &answer.json()["extension"]),
            (200, &json!(line), &json!(extension)),
            "{answer:?}"
        );
        adapter.until_registered_as("2041").await.expect("it reloads, and its first port is Ada's");
    }
    let device = program.get(&format!("/api/v1/devices/{mac}")).await;
    assert_eq!((&device["binding"]["extension"], &device["further_lines"][0]["extension"]), (&json!("2041"), &json!("2042")), "{device}");

    let port = |line| office.node.onboarding().identities().identity(mac, line);
    let registrar = office.node.addresses.sip_udp[0];
    let old = port(2);
    assert_eq!(program.ask("DELETE", &format!("{path}?line=2"), &[], "").await.status, 204);
    assert_eq!(port(2).extension, None);
    adapter.until_registered_as("2041").await.expect("it reloads, and its first port is Ada's still");
    assert_eq!(program.ask("DELETE", &format!("{path}?line=2"), &[], "").await.status, 404, "once is enough");

    assert_eq!(program.send("PUT", &path, &json!({ "login": "1002", "line": 2 })).await.status, 200);
    adapter.until_registered_as("2041").await.expect("it reloads again");
    assert_ne!(register_as(&old, registrar).await, 200, "what the second port once had is dead");
    assert_eq!(register_as(&port(2), registrar).await, 200);
    assert!(program.send("PUT", &path, &json!({ "login": "1002", "line": 0 })).await.status >= 400, "lines count from 1");
    office.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_guesses_passwords_is_shown_and_pardoned() {
    let office = Office::opens(|_| {}).await;
    let program = Program::of(&office);
    let mut events = program.events("?after=0", &[]).await;
    assert_eq!(program.get("/api/v1/sip/bans").await, json!([]));
    let registrar = office.node.addresses.sip_udp[0];
    let guess = Identity {
        mac: MacAddr([0, 0x15, 0x65, 0, 0, 0xb1]),
        line: 1,
        auth_user: "0015650000b1-1".to_owned(),
        user: "new0015650000b1".to_owned(),
        display_name: String::new(),
        secret: plugtone::model::Secret::new("guess"),
        generation: 1,
        extension: None,
    };
    for _ in 0..10 {
        assert_eq!(register_as(&guess, registrar).await, 401);
    }
    let banned = loop {
        let frame = events.next().await.expect("the stream goes on");
        if frame.event == "banned" {
            break frame.data;
        }
    };
    assert_eq!((&banned["source"], &banned["user"]), (&json!("127.0.0.1"), &json!("0015650000b1-1")), "{banned}");
    let bans = program.get("/api/v1/sip/bans").await;
    assert_eq!((bans.as_array().map(Vec::len), &bans[0]["source"], &bans[0]["user"]), (Some(1), &banned["source"], &banned["user"]));
    assert!(bans[0]["secs"].as_u64().is_some_and(|secs| (200..=300).contains(&secs)), "{bans}");
    for (address, status) in [("nobody", 400), ("192.0.2.9", 404), ("127.0.0.1", 204), ("127.0.0.1", 404)] {
        assert_eq!(program.ask("DELETE", &format!("/api/v1/sip/bans/{address}"), &[], "").await.status, status, "{address}");
    }
    assert_eq!(program.get("/api/v1/sip/bans").await, json!([]));
    assert_eq!(register_as(&guess, registrar).await, 401, "it is answered again, and refused");
    office.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_is_listed() {
    let office = Office::opens(|_| {}).await;
    let program = Program::of(&office);
    let users = program.get("/api/v1/users").await;
    let ada = json!({
        "id": "1001", "login": "1001", "display_name": "Ada Lovelace", "mail": "ada.lovelace@example.com",
        "extension": "2041", "groups": ["engineering"],
    });
    assert_eq!((users.as_array().map(Vec::len), &users[0]), (Some(6), &ada), "{users}");
    assert!(!users.to_string().contains("argon2"), "{users}");
    assert_eq!(program.get("/api/v1/users?limit=2").await.as_array().map(Vec::len), Some(2));
    office.node.stop().await;

    let office = Office::opens(|settings| {
        settings.directory.file = None;
        settings.directory.ldap = Some(plugtone::directory::settings::LdapSettings {
            servers: vec!["ldap://127.99.99.1:389".into()],
            tls: plugtone::directory::settings::Tls::None,
            base: "dc=example,dc=com".into(),
            ..Default::default()
        });
    })
    .await;
    let answer = Program::of(&office).ask("GET", "/api/v1/users", &[], "").await;
    assert_eq!(answer.status, 502, "{answer:?}");
    answer.problem("the directory is down");
    office.node.stop().await;
}

// --- wishes

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_wishes_is_kept_before_it_is_said_so() {
    let office = Office::opens(|_| {}).await;
    let program = Program::of(&office);
    let path = "/api/v1/extensions/2041/wishes";
    assert_eq!(program.get(path).await["do_not_disturb"], false);
    let wanted = json!({ "no_answer": "2042", "ring_secs": 15, "blocked": ["01234"], "speed": { "7": "2042" } });
    let answer = program.send("PUT", path, &wanted).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let office = office.opens_again().await;
    let program = Program::of(&office);
    let kept = program.get(path).await;
    assert!(kept["no_answer"] == "2042" && kept["ring_secs"] == 15 && kept["blocked"] == json!(["01234"]), "{kept}");
    assert_eq!(program.get(path).await["speed"]["7"], "2042");
    for (wrong, says) in [
        (json!({ "always": "20 42" }), "'20 42' cannot be dialled"),
        (json!({ "ring_secs": 1 }), "5 to 600 seconds"),
        (json!({ "speed": { "100": "1" } }), "speed dials are 0 to 99"),
        (json!({ "allways": "2042" }), "unknown field"),
    ] {
        let answer = program.send("PUT", path, &wrong).await;
        assert!((400..=422).contains(&answer.status) && answer.text().contains(says), "{wrong}: {answer:?}");
    }
    // Nothing is wished any more, and nothing is kept.
    assert_eq!(program.send("PUT", path, &json!({})).await.status, 200);
    assert!(program.get(path).await["no_answer"].is_null());
    assert_eq!(program.get("/api/v1/night").await, json!([]));
    assert_eq!(program.send("PUT", "/api/v1/night/office", &json!({ "position": "night" })).await.status, 404);
    office.node.stop().await;
}

// --- events

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_events_goes_on_where_it_stopped() {
    let office = Office::opens(|_| {}).await;
    let program = Program::of(&office);
    let events = office.node.journal.events();
    let mut all = program.events("?after=0", &[]).await;
    let first = all.next().await.expect("an event");
    assert_eq!((first.id, &*first.event, first.data["type"].as_str()), (Some(1), "started", Some("started")), "{first:?}");
    assert!(first.data["at"].as_i64().is_some_and(|at| at > 1_700_000_000_000), "milliseconds since 1970: {first:?}");
    let mut live = program.events("", &[]).await;
    (1..=20).for_each(|number| events.tell(milestone(number)));
    assert_eq!(all.numbers(20).await, (2..=21).collect::<Vec<_>>());
    let first_live = live.next().await.expect("an event");
    assert_eq!((first_live.id, &first_live.data["seq"]), (Some(2), &json!(2)), "what happens now, not what happened");

    for (story, query, headers, next) in [
        ("by its query", "?after=7", &[][..], 8),
        ("as a browser does", "", &[("last-event-id", "7")], 8),
        ("as a browser does that was told where to begin", "?after=3", &[("last-event-id", "7")], 8),
        ("an id that is none", "?after=3", &[("last-event-id", "x")], 4),
    ] {
        let mut stream = program.events(query, headers).await;
        assert_eq!(stream.numbers(3).await, [next, next + 1, next + 2], "{story}");
    }
    for (story, query, numbers) in [
        ("of a device", "?after=0&mac=00-15-65-EE-00-05", vec![6]),
        ("of some types", "?after=0&types=started,%20reload_done", vec![1]),
        ("of a type, from the middle", "?after=19&types=reload_taken", vec![20, 21]),
    ] {
        let mut stream = program.events(query, &[]).await;
        assert_eq!(stream.numbers(numbers.len()).await, numbers, "{story}");
    }

    // It is over with the server, and goes on with the next. The stream ends by itself: one that held the server up until it
    // was cut would be an error below.
    let office = office.opens_again().await;
    let mut last = 21;
    while let Some(frame) = all.next().await {
        last = frame.id.expect("a number");
    }
    let mut rest = Program::of(&office).events("", &[("last-event-id", &last.to_string())]).await;
    let mut types = Vec::new();
    while types.last().is_none_or(|name| name != "started") {
        let frame = rest.next().await.expect("an event");
        last += 1;
        assert_eq!(frame.id, Some(last), "without a gap: {frame:?}");
        types.push(frame.event);
    }
    drop(rest);
    office.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_reading_holds_up_nobody_and_misses_nothing() {
    /// More than sockets buffer, so that the server does wait for this reader: 8 MB.
    const EVENTS: u64 = 4000;
    const BULK: usize = 2000;
    let office = Office::opens(|settings| settings.store.journal_ring = 16).await;
    let program = Program::of(&office);
    let (mut adas, mut alans) = two_colleagues(&office).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let lazy = socket.connect(program.at).await.expect("the API listens");
    let mut lazy = program.events_on(lazy, "?after=0", &[]).await;
    let mut keen = program.events("?types=config_rejected", &[]).await;

    let events = office.node.journal.events();
    for number in 0..EVENTS {
        events.tell(Event::ConfigRejected { what: number.to_string(), error: "x".repeat(BULK) });
        // Not faster than somebody can read: who tells faster than the disk writes loses events by design.
        if number % 500 == 499 {
            for expected in number - 499..=number {
                assert_eq!(keen.next().await.expect("an event").data["what"], json!(expected.to_string()));
            }
        }
    }
    // All are told and read by the other, and still calls are placed, talk and end.
    let answer = program.send("POST", "/api/v1/calls", &json!({ "from": "2041", "to": "2042" })).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    both_lift(&mut adas, &mut alans).await;
    adas.hang_up().await;
    alans.until_hung_up().await.expect("it ends");

    // It wakes up. What it has not got yet is long out of memory, and comes from the store.
    let (mut last, mut bulky) = (0, 0);
    loop {
        let frame = lazy.next().await.expect("the stream goes on");
        assert_eq!(frame.id, Some(last + 1), "without a gap: {:?}", frame.event);
        last += 1;
        bulky += u64::from(frame.event == "config_rejected");
        if frame.event == "call_ended" {
            break;
        }
    }
    assert_eq!(bulky, EVENTS);

    // What is in the store no more is not to be had, and that is told.
    let store = store_of(&office);
    store.prune_events(Timestamp(i64::MAX), Timestamp(i64::MAX)).await.expect("pruned");
    store.close().await;
    let mut late = program.events("?after=10", &[]).await;
    let gap = late.next().await.expect("an event");
    assert_eq!((gap.id, &*gap.event), (None, "lagged"), "{gap:?}");
    let next = late.next().await.expect("an event").id.expect("a number");
    assert_eq!(gap.data["missed"], json!(next - 11));
    office.node.stop().await;
}

// --- the server itself

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_metrics_are_shown_to_whom_they_should() {
    for open in [true, false] {
        let office = Office::opens(|settings| settings.api.open_metrics = open).await;
        let program = Program::of(&office);
        let stranger = Program { token: String::new(), ..program.clone() };
        // The phones' HTTP server shows them too, for who watches from the voice network.
        let from_phones = Program { at: office.node.addresses.http[0], ..stranger.clone() };
        for who in [&program, &stranger, &from_phones] {
            let health = who.get("/healthz").await;
            assert_eq!(health, json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }));
        }
        let metrics = program.ask("GET", "/metrics", &[], "").await;
        assert_eq!((metrics.status, metrics.header("content-type")), (200, "text/plain; version=0.0.4"));
        assert!(metrics.text().lines().any(|line| line.starts_with("# TYPE plugtone_")), "{}", metrics.text());
        let without = stranger.ask("GET", "/metrics", &[], "").await;
        let beside = from_phones.ask("GET", "/metrics", &[], "").await;
        match open {
            true => assert_eq!((without.status, beside.status), (200, 200)),
            false => {
                assert_eq!((without.status, beside.status), (401, 404));
                without.problem("metrics without a token");
                assert!(!beside.text().contains("plugtone_"), "{}", beside.text());
            }
        }
        office.node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_says_what_was_read_or_what_is_wrong() {
    let templates = tempfile::tempdir().expect("a temporary folder");
    let office = Office::opens(|settings| settings.templates.path = Some(templates.path().to_owned())).await;
    let program = Program::of(&office);
    let file = templates.path().join("overrides.yaml");
    fs::write(&file, "sites:\n  all:\n    variables:\n      langauge: de\n").expect("written");
    let answer = program.ask("POST", "/api/v1/reload", &[], "").await;
    assert_eq!(answer.status, 409);
    let problem = answer.problem("a faulty file");
    let detail = problem["detail"].as_str().expect("text");
    assert!(detail.contains("overrides.yaml:4:7:") && detail.contains("did you mean 'language'?"), "{detail}");
    assert_eq!(problem["title"], "the last good configuration stays");
    fs::remove_file(&file).expect("removed");
    let answer = program.ask("POST", "/api/v1/reload", &[], "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.json()["reloaded"].as_str().is_some_and(|what| what.contains("templates")), "{answer:?}");
    office.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_templates_would_change_is_seen_before_they_are_live() {
    let templates = tempfile::tempdir().expect("a temporary folder");
    let office = Office::opens(|settings| settings.templates.path = Some(templates.path().to_owned())).await;
    let program = Program::of(&office);
    let (ada, alan) = two_colleagues(&office).await;
    let diff = async || program.ask("POST", "/api/v1/templates/diff", &[], "").await;
    let nothing = diff().await.json();
    assert_eq!((&nothing["phones"], &nothing["changed"], &nothing["groups"]), (&json!(2), &json!(0), &json!([])), "{nothing}");

    let file = templates.path().join("overrides.yaml");
    fs::write(&file, "sites: { all: { subnets: [0.0.0.0/0], variables: { ntp_server: ntp.example.org } } }").expect("written");
    let both = diff().await;
    let text = both.text();
    let both = both.json();
    assert_eq!((&both["phones"], &both["changed"]), (&json!(2), &json!(2)), "{both}");
    assert!(text.contains("ntp.example.org"), "{text}");
    for phone in [&ada, &alan] {
        assert!(text.contains(&phone.phone.mac.to_string()), "named: {text}");
        let secret = office.node.account(phone.phone.mac).secret;
        assert!(!text.contains(secret.expose()), "no secret is shown");
    }
    let grouped: usize =
        both["groups"].as_array().expect("groups").iter().map(|group| group["phones"].as_array().map_or(0, Vec::len)).sum();
    assert_eq!(grouped, 2, "{both}");

    let faulty = templates.path().join("yealink.yaml");
    fs::write(&faulty, "title: [").expect("written");
    assert_eq!(diff().await.problem("a faulty file")["title"], "the templates on disk have faults");
    fs::remove_file(&faulty).expect("removed");

    assert_eq!(program.ask("POST", "/api/v1/reload", &[], "").await.status, 200);
    assert_eq!(diff().await.json()["changed"], 0, "what is live is not new");
    office.node.stop().await;
}

// --- its description

#[test]
fn the_description_is_as_written_down() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/openapi.json");
    let made = plugtone::api::openapi() + "\n";
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        fs::write(&path, &made).expect("written");
    }
    let written = fs::read_to_string(&path).expect("tests/api/openapi.json");
    let first = made.lines().zip(written.lines()).enumerate().find(|(_, (made, written))| made != written);
    assert!(made == written, "the API's description has changed, first at line {first:?}: read the head of tests/api.rs");
}

/// Every operation of the description: method, path, the operation itself.
fn operations(description: &Value) -> Vec<(String, String, Value)> {
    let paths = description["paths"].as_object().expect("paths");
    let of_path = |(path, methods): (&String, &Value)| {
        let methods = methods.as_object().expect("methods").clone();
        methods.into_iter().map(|(method, operation)| (method.to_uppercase(), path.clone(), operation)).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of_path).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_answers_as_it_is_described() {
    let office = Office::opens(|_| {}).await;
    let program = Program::of(&office);
    let stranger = Program { token: String::new(), ..program.clone() };
    // As served, to everybody.
    let description = stranger.get("/api/v1/openapi.json").await;
    assert_eq!(description, serde_json::from_str::<Value>(&plugtone::api::openapi()).expect("JSON"));
    let operations = operations(&description);
    assert!(operations.len() >= 14, "{}", operations.len());
    let real = |path: &str| {
        path.replace("{mac}", "00:15:65:00:00:99")
            .replace("{id}", "00000000000004d2")
            .replace("{extension}", "2041")
            .replace("{mailbox}", "2041")
            .replace("{address}", "192.0.2.9")
    };
    for (method, path, operation) in &operations {
        let told = format!("{method} {path}");
        let documented = operation["responses"].as_object().expect("responses");
        for (status, response) in documented {
            assert!(response["description"].as_str().is_some_and(|text| !text.is_empty()), "{told}: {status} has no description");
            let kinds: Vec<&String> = response["content"].as_object().into_iter().flat_map(|content| content.keys()).collect();
            let is_error = status.starts_with(['4', '5']) || status == "default";
            assert!(!is_error || kinds == ["application/problem+json"], "{told}: {status} comes as {kinds:?}");
        }
        assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{told}: no summary");

        let is_open = operation["security"].as_array().is_some_and(|ways| ways.contains(&json!({})));
        let body = if operation["requestBody"].is_null() { "" } else { "{}" };
        let path = real(path);
        let without = stranger.ask(method, &path, &[JSON], body).await;
        assert_eq!(without.status == 401, !is_open, "{told}: {without:?}");
        if path.ends_with("/events") {
            // It has no end to wait for.
            program.events("", &[]).await;
            continue;
        }
        let answer = program.ask(method, &path, &[JSON], body).await;
        let status = answer.status.to_string();
        // An empty object is not what was wanted: 422, which is one of "any other error".
        assert!(documented.contains_key(&status) || (body == "{}" && answer.status == 422), "{told}: {status} is not described");
        match answer.status {
            204 => assert_eq!(answer.text(), "", "{told}"),
            200..300 => {
                let kinds = documented[&status]["content"].as_object().expect("a body");
                let kind = answer.header("content-type").split(';').next().unwrap_or_default();
                assert!(kinds.contains_key(kind), "{told} answers with {kind}");
            }
            _ => drop(answer.problem(&told)),
        }
    }

    // And nothing else answers there: what is not described is refused, and `Allow` names what is.
    let paths: BTreeSet<&String> = operations.iter().map(|(_, path, _)| path).collect();
    for path in paths {
        let described: BTreeSet<&str> = operations.iter().filter(|(_, of, _)| of == path).map(|(method, ..)| &**method).collect();
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
            if described.contains(method) {
                continue;
            }
            let answer = program.ask(method, &real(path), &[], "").await;
            assert_eq!(answer.status, 405, "{method} {path}: {answer:?}");
            let allowed: BTreeSet<&str> = answer.header("allow").split(',').filter(|method| *method != "HEAD").collect();
            assert_eq!(allowed, described, "{path}");
        }
    }
    office.node.stop().await;
}

// --- a phone tells of itself

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_says_whose_it_is_where_and_what_went_wrong() {
    let office = Office::opens(|_| {}).await;
    let mut desk = colleague(&office, "yealink", 0xd1, "1001", "2041").await;
    let mut journal = office.journal();
    let mac = desk.phone.mac;
    let says = |words: &'static str| move |event: &Event| matches!(event, Event::IvrPrompt { mac: Some(of), text, .. } if *of == mac && text.contains(words));
    desk.call("*65").await.expect("it is answered");
    desk.hear("the voice", |sound| sound == plugtone::media::listen::Sound::Speech).await.expect("it speaks");
    journal.until("what it says", says("has the extension, 2 0 4 1")).await;
    desk.hang_up().await;
    desk.until_hung_up().await.expect("it is over");
    // Now something goes wrong; a key ends the report.
    assert!(matches!(desk.call("4999").await, Err(plugtone::phone::person::Trouble::Refused(404))), "nobody has this number");
    journal.until("the refusal", |event| matches!(event, Event::CallRefused { .. })).await;
    desk.call("*65").await.expect("it is answered");
    journal.until("its fault", says("Its last fault was this. A call was refused.")).await;
    desk.press("#").await;
    desk.until_hung_up().await.expect("it is hung up");
    office.node.stop().await;
}

/// A question of DHCP as a switch passes it on that knows the port it came from.
fn from_port(kind: u8, mac: MacAddr, port: &str, more: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut packet = vec![0; 236];
    packet[..3].copy_from_slice(&[1, 1, 6]);
    packet[28..34].copy_from_slice(&mac.0);
    packet.extend([99, 130, 83, 99]);
    let circuit = [&[1, port.len() as u8], port.as_bytes()].concat();
    let option_82 = [circuit, b"\x02\x06floor2".to_vec()].concat();
    for (code, value) in [(53, vec![kind]), (60, b"yealink".to_vec())].iter().chain(more).chain(&[(82, option_82)]) {
        packet.extend([*code, value.len() as u8]);
        packet.extend(value);
    }
    packet.push(255);
    packet
}

/// Has a lease given to the phone at this port.
async fn plugged_in_at(office: &Office, mac: MacAddr, port: &str) {
    let switch = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let mut offer = [0; 1500];
    let mut ask = async |packet: Vec<u8>| {
        switch.send_to(&packet, office.node.addresses.dhcp[0]).await.expect("sent");
        let length = tokio::time::timeout(PATIENCE, switch.recv(&mut offer)).await.expect("an answer in time").expect("an answer");
        offer[..length].to_vec()
    };
    let offer = ask(from_port(1, mac, port, &[])).await;
    let mut options = &offer[240..];
    let mut server = Vec::new();
    while let [code, length, rest @ ..] = options {
        let (value, after) = rest.split_at(usize::from(*length));
        if *code == 54 {
            server = value.to_vec();
        }
        options = if after.first() == Some(&255) { &[] } else { after };
    }
    ask(from_port(3, mac, port, &[(50, offer[16..20].to_vec()), (54, server)])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_for_help_tells_where_the_phone_is_plugged_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let routes = folder.path().join("routes.yaml");
    let rules = "emergency:\n  numbers: [\"112\"]\n  extensions: [2042]\n  locations:\n    - { device: \"floor2/*\", name: second floor }\n    \
                 - { device: porter, name: gate }\n";
    fs::write(&routes, rules).expect("written");
    let office = Office::opens(|settings| settings.calls.routes = Some(routes)).await;
    let program = Program::of(&office);
    let mac = plugtone::phone::make::Make::of("yealink").expect("a make").mac(0xa1);
    plugged_in_at(&office, mac, "Gi1/0/7").await;
    let (mut adas, mut alans) = two_colleagues(&office).await;
    assert_eq!(adas.phone.mac, mac);
    let place = async || {
        let device = program.get(&format!("/api/v1/devices/{mac}")).await;
        (device["location"].as_str().map(str::to_owned), device["port"].as_str().map(str::to_owned))
    };
    assert_eq!(place().await, (None, Some("floor2/Gi1/0/7".to_owned())));
    let mut journal = office.journal();
    let mut helps = async |place: &'static str| {
        adas.call("112").await.expect("somebody helps");
        let told = journal.until("the call for help", |event| matches!(event, Event::EmergencyCalled { .. })).await;
        let Event::EmergencyCalled { location, mac: from, .. } = told else { unreachable!() };
        assert_eq!((location.as_deref(), from), (Some(place), Some(mac)));
        adas.hang_up().await;
        adas.until_hung_up().await.expect("it is over");
        alans.until_hung_up().await.expect("it is over");
    };
    helps("second floor").await;
    // Who says where it is knows better, until it is plugged in elsewhere.
    let said = program.send("PUT", &format!("/api/v1/devices/{mac}/location"), &json!({ "location": "porter" })).await;
    assert_eq!(said.status, 200, "{said:?}");
    assert_eq!(place().await, (Some("porter".to_owned()), Some("floor2/Gi1/0/7".to_owned())));
    helps("gate").await;
    plugged_in_at(&office, mac, "Gi1/0/8").await;
    let until = Instant::now() + PATIENCE;
    while place().await != (None, Some("floor2/Gi1/0/8".to_owned())) {
        assert!(Instant::now() < until, "{:?}", place().await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    helps("second floor").await;
    office.node.stop().await;
}
