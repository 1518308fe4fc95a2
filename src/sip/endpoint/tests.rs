//! Two endpoints on a link that loses what the test says, in virtual time; and one alone, fed with bytes.

use std::time::Duration;

use super::*;

/// Two endpoints, a phone and a server, over a link in virtual time that may lose datagrams.
struct Link {
    now: Instant,
    start: Instant,
    ends: [Endpoint; 2],
    flows: [Flow; 2],
    /// Of each end, oldest first.
    events: [Vec<Event>; 2],
    /// Start lines that went over the link, with the millisecond and the sender.
    log: Vec<(u64, usize, String)>,
    /// Whether the n-th message is lost.
    lost: Box<dyn FnMut(u64) -> bool>,
    sent: u64,
}

const PHONE: usize = 0;
const SERVER: usize = 1;

impl Link {
    fn new(transport: super::super::Transport) -> Self {
        let now = Instant::now();
        let (phone, server) = ("10.0.0.5:5060".parse().unwrap(), "10.0.0.1:5060".parse().unwrap());
        let flow = |local, peer| Flow { transport, ..Flow::udp(local, peer) };
        Self {
            now,
            start: now,
            ends: [1, 2].map(|n| Endpoint::new(Config::default(), [n; 32])),
            flows: [flow(phone, server), flow(server, phone)],
            events: [vec![], vec![]],
            log: vec![],
            lost: Box::new(|_| false),
            sent: 0,
        }
    }

    fn udp() -> Self {
        Self::new(super::super::Transport::Udp)
    }

    /// Delivers what is due now, then lets time pass up to `ms` after the start.
    fn run_to(&mut self, ms: u64) {
        let until = self.start + Duration::from_millis(ms);
        loop {
            self.deliver();
            let next = self.ends.iter().filter_map(Endpoint::poll_timeout).min().filter(|at| *at <= until);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            for end in &mut self.ends {
                end.handle_timeout(self.now);
            }
        }
        self.now = until;
    }

    fn deliver(&mut self) {
        loop {
            let mut quiet = true;
            for from in [PHONE, SERVER] {
                while let Some(event) = self.ends[from].poll_event() {
                    self.events[from].push(event);
                }
                let Some(transmit) = self.ends[from].poll_transmit() else { continue };
                quiet = false;
                let line = String::from_utf8_lossy(&transmit.bytes).lines().next().unwrap_or_default().to_owned();
                self.sent += 1;
                let lost = (self.lost)(self.sent);
                self.log.push(((self.now - self.start).as_millis() as u64, from, line));
                if !lost {
                    self.ends[1 - from].handle_message(self.now, self.flows[1 - from], transmit.bytes);
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn send(&mut self, request: Request) -> ClientTx {
        let (now, flow) = (self.now, self.flows[PHONE]);
        self.ends[PHONE].request(now, flow, request)
    }

    /// What reached the server as a request.
    fn requests(&mut self) -> Vec<(ServerTx, Message)> {
        let events = std::mem::take(&mut self.events[SERVER]);
        let (requests, others): (Vec<_>, Vec<_>) = events.into_iter().partition(|e| matches!(e, Event::Request { .. }));
        self.events[SERVER] = others;
        let take = |event| if let Event::Request { tx, request, .. } = event { Some((tx, request)) } else { None };
        requests.into_iter().filter_map(take).collect()
    }

    fn respond(&mut self, tx: ServerTx, request: &Message, status: u16) {
        let now = self.now;
        self.ends[SERVER].respond(now, tx, Response::to(request, status));
    }

    /// Statuses and ends that the phone heard of.
    fn heard(&mut self) -> Vec<String> {
        let word = |event| match event {
            Event::Response { response, .. } => response.status().unwrap().to_string(),
            Event::TimedOut { .. } => "timed out".into(),
            Event::TransportFailed { .. } => "failed".into(),
            other => format!("{other:?}"),
        };
        std::mem::take(&mut self.events[PHONE]).into_iter().map(word).collect()
    }

    fn lines(&self, from: usize) -> Vec<(u64, &str)> {
        self.log.iter().filter(|(_, f, _)| *f == from).map(|(ms, _, line)| (*ms, line.as_str())).collect()
    }
}

fn request(method: Method) -> Request {
    Request::new(method.clone(), "sip:2042@10.0.0.1")
        .header(Name::From, "<sip:2041@10.0.0.1>;tag=a")
        .header(Name::To, "<sip:2042@10.0.0.1>")
        .header(Name::CallId, "call-1")
        .header(Name::CSeq, format_args!("7 {method}"))
        .header(Name::Contact, "<sip:2041@10.0.0.5>")
}

#[test]
fn a_refused_call_is_acknowledged_by_itself() {
    let mut link = Link::udp();
    link.send(request(Method::Invite));
    link.run_to(1000);
    let (tx, invite) = link.requests().pop().expect("the INVITE");
    link.respond(tx, &invite, 180);
    link.run_to(2000);
    link.respond(tx, &invite, 486);
    link.run_to(3000);
    assert_eq!(link.heard(), ["100", "180", "486"]);
    assert_eq!(
        link.log.iter().map(|(ms, from, line)| (*ms, *from, line.as_str())).collect::<Vec<_>>(),
        [
            (0, PHONE, "INVITE sip:2042@10.0.0.1 SIP/2.0"),
            (200, SERVER, "SIP/2.0 100 Trying"),
            (1000, SERVER, "SIP/2.0 180 Ringing"),
            (2000, SERVER, "SIP/2.0 486 Busy Here"),
            (2000, PHONE, "ACK sip:2042@10.0.0.1 SIP/2.0"),
        ]
    );
    assert!(link.events[SERVER].is_empty(), "nobody is bothered with that ACK");
    link.run_to(60_000);
    assert_eq!((link.ends[PHONE].transactions(), link.ends[SERVER].transactions()), ((0, 0), (0, 0)));
}

#[test]
fn an_answered_call_tells_each_2xx_and_its_ack() {
    let mut link = Link::udp();
    link.send(request(Method::Invite));
    link.run_to(10);
    let (tx, invite) = link.requests().pop().unwrap();
    link.respond(tx, &invite, 200);
    link.run_to(20);
    link.respond(tx, &invite, 200);
    link.run_to(30);
    assert_eq!(link.heard(), ["200", "200"]);
    let (flow, ack) = (link.flows[PHONE], request(Method::Ack));
    let ack = link.ends[PHONE].send(flow, ack);
    link.ends[PHONE].transmit(ack);
    link.run_to(40);
    assert_eq!(link.events[SERVER].iter().filter(|e| matches!(e, Event::Ack { .. })).count(), 2);
    link.run_to(60_000);
    assert_eq!((link.ends[PHONE].transactions(), link.ends[SERVER].transactions()), ((0, 0), (0, 0)));
}

#[test]
fn a_cancel_waits_for_the_first_answer_and_reaches_the_invite() {
    let mut link = Link::udp();
    let call = link.send(request(Method::Invite));
    let now = link.now;
    link.ends[PHONE].cancel(now, call, None);
    link.run_to(100);
    assert_eq!(link.lines(PHONE).len(), 1, "nothing was heard yet");
    link.run_to(300);
    let (tx, invite) = link.requests().pop().unwrap();
    assert!(matches!(link.events[SERVER].pop(), Some(Event::Cancel { tx: cancelled, .. }) if cancelled == tx));
    link.respond(tx, &invite, 487);
    link.run_to(400);
    assert_eq!(link.heard(), ["100", "487"]);
    let sent: Vec<_> = link.lines(PHONE).iter().map(|(_, line)| line.split(' ').next().unwrap()).collect();
    assert_eq!(sent, ["INVITE", "CANCEL", "ACK"]);
    let answers: Vec<_> = link.lines(SERVER).iter().map(|(_, line)| &line[8..11]).collect();
    assert_eq!(answers, ["100", "200", "487"]);
    link.run_to(60_000);
    assert_eq!((link.ends[PHONE].transactions(), link.ends[SERVER].transactions()), ((0, 0), (0, 0)));
}

#[test]
fn repetitions_are_absorbed_and_answered_alike() {
    let mut link = Link::udp();
    // The first answer is lost.
    link.lost = Box::new(|n| n == 2);
    link.send(request(Method::Options));
    link.run_to(10);
    let (tx, options) = link.requests().pop().unwrap();
    link.respond(tx, &options, 200);
    link.run_to(1000);
    assert_eq!(link.heard(), ["200"]);
    assert!(link.requests().is_empty(), "told once");
    assert_eq!(link.lines(SERVER).len(), 2);
}

#[test]
fn whatever_the_link_loses_both_sides_agree_in_the_end() {
    for seed in 1..200u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut link = Link::udp();
        // Every third is lost, but not for ever.
        link.lost = Box::new(move |n| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            n < 20 && random.is_multiple_of(3)
        });
        link.send(request(Method::Invite));
        link.send(request(Method::Info));
        for second in 1..200 {
            link.run_to(second * 1000);
            for (tx, message) in link.requests() {
                let status = if message.is(&Method::Invite) { 603 } else { 200 };
                link.respond(tx, &message, status);
            }
        }
        let mut heard = link.heard();
        heard.retain(|word| word != "100");
        heard.sort();
        assert_eq!(heard, ["200", "603"], "seed {seed}: {:?}", link.log);
        assert_eq!((link.ends[PHONE].transactions(), link.ends[SERVER].transactions()), ((0, 0), (0, 0)), "seed {seed}");
    }
}

#[test]
fn silence_and_broken_connections_are_told() {
    let mut link = Link::udp();
    link.lost = Box::new(|_| true);
    link.send(request(Method::Invite));
    link.send(request(Method::Options));
    link.run_to(40_000);
    assert_eq!(link.heard(), ["timed out", "timed out"]);
    let mut link = Link::new(super::super::Transport::Tcp);
    link.lost = Box::new(|_| true);
    link.send(request(Method::Options));
    let (now, flow) = (link.now, Flow { id: super::super::FlowId(9), ..link.flows[PHONE] });
    link.ends[PHONE].handle_transport_error(now, flow);
    link.run_to(40_000);
    assert_eq!(link.heard(), ["failed"]);
    assert_eq!(link.lines(PHONE).len(), 1, "TCP repeats by itself");
}

#[test]
fn a_long_request_goes_by_tcp_where_there_is_some() {
    let flow = Flow::udp("10.0.0.1:5060".parse().unwrap(), "10.0.0.5:5060".parse().unwrap());
    let long = "x".repeat(1300);
    let by = |endpoint: &mut Endpoint| {
        let sent = std::iter::from_fn(|| endpoint.poll_transmit());
        sent.map(|t| {
            let via = String::from_utf8_lossy(&t.bytes).contains(&format!("Via: SIP/2.0/{} ", t.flow.transport.as_via()));
            assert!(via, "Via says how it is sent");
            t.flow.transport.as_str()
        })
        .collect::<Vec<_>>()
    };
    let now = Instant::now();
    let start = || {
        let ports = Ports { tcp: Some(5060), ..Ports::default() };
        Endpoint::new(Config { ports, ..Config::default() }, [1; 32])
    };
    let send = |endpoint: &mut Endpoint, uri: &str, subject: &str| {
        let mut request = request(Method::Invite).header_named("Subject", subject);
        request.uri = uri.into();
        endpoint.request(now, flow, request);
        by(endpoint)
    };
    for (uri, subject, transport) in [
        ("sip:2042@10.0.0.5", "short", "udp"),
        ("sip:2042@10.0.0.5", &long, "tcp"),
        ("sip:2042@10.0.0.5:5060", &long, "tcp"),
        ("sip:2042@10.0.0.5;transport=UDP", &long, "udp"),
        ("sip:2042@192.168.1.9", &long, "udp"),
        ("sip:2042@phone.example.com", &long, "udp"),
    ] {
        assert_eq!(send(&mut start(), uri, subject), [transport], "{uri} {subject:.5}");
    }
    // Refused: by UDP after all, with its repetitions; the next one at once, but not for ever.
    let mut endpoint = start();
    assert_eq!(send(&mut endpoint, "sip:2042@10.0.0.5", &long), ["tcp"]);
    endpoint.handle_transport_error(now, Flow { id: super::super::FlowId(3), ..Flow::tcp(flow.local, flow.peer) });
    assert_eq!(by(&mut endpoint), ["udp"]);
    endpoint.handle_timeout(now + Duration::from_millis(500));
    assert_eq!(by(&mut endpoint), ["udp"]);
    assert_eq!(send(&mut endpoint, "sip:2042@10.0.0.5", &long), ["udp"]);
    assert!(endpoint.poll_event().is_none(), "the owner is not bothered");
    endpoint.handle_transport_error(now, flow);
    assert_eq!(std::iter::from_fn(|| endpoint.poll_event()).filter(|e| matches!(e, Event::TransportFailed { .. })).count(), 2);
    let mut request = request(Method::Options).header_named("Subject", &long);
    request.uri = "sip:2042@10.0.0.5".into();
    endpoint.request(now + Duration::from_secs(3601), flow, request);
    assert_eq!(by(&mut endpoint), ["tcp"]);
}

/// An endpoint alone, and what it answers to bytes.
fn answers(endpoint: &mut Endpoint, text: &str) -> Vec<String> {
    let flow = Flow::udp("10.0.0.1:5060".parse().unwrap(), "10.0.0.5:40000".parse().unwrap());
    endpoint.handle_message(Instant::now(), flow, Bytes::from(text.to_owned()));
    std::iter::from_fn(|| endpoint.poll_transmit())
        .map(|t| format!("{} {}", &String::from_utf8_lossy(&t.bytes)[8..11], t.flow.peer))
        .collect()
}

fn text(method: &str, via: &str, more: &str) -> String {
    format!(
        "{method} sip:2042@10.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {via}\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\n\
         Call-ID: x\r\nCSeq: 1 {method}\r\n{more}\r\n"
    )
}

#[test]
fn a_final_answer_is_kept_for_half_a_minute_and_a_request_without_one_no_longer() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let options = Bytes::from(text("OPTIONS", "10.0.0.5;branch=z9hG4bK1;rport", ""));
    for (transport, status, kept) in
        [(Transport::Udp, Some(200), 1), (Transport::Tcp, Some(200), 0), (Transport::Udp, Some(100), 1), (Transport::Udp, None, 1)]
    {
        let mut server = Endpoint::new(Config::default(), [0; 32]);
        let flow = Flow { transport, ..Flow::udp("10.0.0.1:5060".parse().unwrap(), "10.0.0.5:40000".parse().unwrap()) };
        server.handle_message(at(0), flow, options.clone());
        let Some(Event::Request { tx, request, .. }) = server.poll_event() else { panic!("not told") };
        assert_eq!(server.poll_timeout(), Some(at(32_000)), "its user has so long to answer");
        if let Some(status) = status {
            server.respond(at(100), tx, Response::to(&request, status));
        }
        let first = server.poll_transmit().map(|transmit| transmit.bytes);
        assert_eq!((first.is_some(), server.transactions().0), (status.is_some(), kept), "{transport} {status:?}");
        if kept == 1 {
            server.handle_message(at(200), flow, options.clone());
            assert!(server.poll_event().is_none(), "told once");
            assert_eq!(server.poll_transmit().map(|transmit| transmit.bytes), first, "the same, with its tag");
        }
        let answered = status == Some(200);
        if answered {
            server.respond(at(300), tx, Response::to(&request, 500));
            assert!(server.poll_transmit().is_none(), "one final answer only");
        }
        let kept = usize::from(answered && transport == Transport::Udp);
        server.handle_timeout(at(32_000));
        assert_eq!((server.poll_timeout(), server.transactions().0), ((kept == 1).then_some(at(32_100)), kept), "{status:?}");
        server.handle_timeout(at(32_100));
        assert_eq!((server.poll_timeout(), server.transactions().0), (None, 0));
        server.respond(at(32_200), tx, Response::to(&request, 200));
        assert!(server.poll_transmit().is_none(), "nobody waits for it");
    }
}

#[test]
fn what_was_answered_leaves_no_timer_behind_whoever_is_slow() {
    let (mut server, now) = (Endpoint::new(Config::default(), [0; 32]), Instant::now());
    let flow = Flow::tcp("10.0.0.1:5060".parse().unwrap(), "10.0.0.5:40000".parse().unwrap());
    let ask = |server: &mut Endpoint, n: u32| {
        server.handle_message(now, flow, text("OPTIONS", &format!("10.0.0.5;branch=z9hG4bK{n}"), "").into());
        let Some(Event::Request { tx, request, .. }) = server.poll_event() else { panic!("not told") };
        (tx, Response::to(&request, 200))
    };
    for n in 0..100 {
        let (tx, answer) = ask(&mut server, n);
        server.respond(now, tx, answer);
    }
    assert_eq!((server.unanswered.len(), server.transactions().0), (1, 0));
    let (slow, answer) = ask(&mut server, 100);
    assert_eq!(server.unanswered.len(), 1, "those before it are gone");
    server.respond(now, slow, answer);
    assert_eq!(server.transactions().0, 0);
}

#[test]
fn answers_find_their_way_back() {
    for (via, to) in [
        ("10.0.0.5;branch=z9hG4bK1;rport", "10.0.0.5:40000"),
        ("10.0.0.5;branch=z9hG4bK1", "10.0.0.5:5060"),
        ("10.0.0.5:5070;branch=z9hG4bK1", "10.0.0.5:5070"),
        ("192.168.1.9:5070;branch=z9hG4bK1", "10.0.0.5:40000"),
        ("10.0.0.5;branch=z9hG4bK1;maddr=10.9.9.9", "10.0.0.5:5060"),
    ] {
        let mut endpoint = Endpoint::new(Config::default(), [0; 32]);
        assert_eq!(answers(&mut endpoint, &text("NOSUCH", via, "")), [format!("501 {to}")], "{via}");
        assert_eq!(endpoint.transactions(), (0, 0), "nothing is kept");
    }
}

#[test]
fn copies_by_another_way_are_refused_and_old_clients_are_matched() {
    let mut endpoint = Endpoint::new(Config::default(), [0; 32]);
    let via = |branch: &str| format!("10.0.0.5;rport;branch={branch}");
    assert!(answers(&mut endpoint, &text("INVITE", &via("z9hG4bK1"), "")).is_empty());
    assert!(answers(&mut endpoint, &text("INVITE", &via("z9hG4bK1"), "")).is_empty(), "repeated");
    assert_eq!(answers(&mut endpoint, &text("INVITE", &via("z9hG4bK2"), "")), ["482 10.0.0.5:40000"]);
    assert_eq!(answers(&mut endpoint, &text("CANCEL", &via("z9hG4bK1"), "")), ["200 10.0.0.5:40000"]);
    assert_eq!(answers(&mut endpoint, &text("CANCEL", &via("z9hG4bK3"), "")), ["481 10.0.0.5:40000"]);
    let mut old = Endpoint::new(Config::default(), [0; 32]);
    for _ in 0..3 {
        answers(&mut old, &text("INVITE", "10.0.0.5", ""));
    }
    assert_eq!(old.transactions().0, 1);
    assert_eq!(answers(&mut old, &text("CANCEL", "10.0.0.5", "")), ["200 10.0.0.5:5060"]);
    let mut full = Endpoint::new(Config { max_transactions: 1, ..Config::default() }, [0; 32]);
    answers(&mut full, &text("INVITE", &via("z9hG4bK1"), ""));
    assert_eq!(answers(&mut full, &text("INVITE", &via("z9hG4bK1"), "").replace("ID: x", "ID: y")), [""; 0], "the same branch");
    let other = text("INVITE", &via("z9hG4bK2"), "").replace("ID: x", "ID: y");
    assert_eq!(answers(&mut full, &other), ["503 10.0.0.5:40000"]);
}

#[test]
fn in_a_storm_some_get_through() {
    let mut endpoint = Endpoint::new(Config::default(), [0; 32]);
    endpoint.set_crowded(Some(5));
    let invite = |call: usize, branch: &str| {
        text("INVITE", &format!("10.0.0.5;rport;branch=z9hG4bK{branch}{call}"), "").replace("ID: x", &format!("ID: {call}"))
    };
    let refused = |endpoint: &mut Endpoint, invite: &str| match answers(endpoint, invite).as_slice() {
        [] => false,
        [one] if one.starts_with("503") => true,
        other => panic!("{other:?}"),
    };
    let through: Vec<_> = (0..800).filter(|call| !refused(&mut endpoint, &invite(*call, "a"))).collect();
    assert!((40..200).contains(&through.len()), "{}", through.len());
    // Each is a transaction; who was told to wait has left nothing. With credentials it comes by another branch.
    assert_eq!(endpoint.transactions().0, through.len());
    let again: Vec<_> = (0..800).filter(|call| answers(&mut endpoint, &invite(*call, "b")) != ["503 10.0.0.5:40000"]).collect();
    assert_eq!(again, through);
    endpoint.set_crowded(None);
    assert!(!refused(&mut endpoint, &invite(900, "a")));
}

#[test]
fn strays_change_nothing() {
    let mut link = Link::udp();
    link.send(request(Method::Options));
    link.run_to(1);
    let branch = |b: &str| {
        format!(
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 10.0.0.5:5060;branch={b}\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=2\r\n\
             Call-ID: call-1\r\nCSeq: 7 OPTIONS\r\n\r\n"
        )
    };
    for b in ["z9hG4bK1-0000000000000000", "z9hG4bK1", "z9hG4bK-", "z9hG4bKzz-1", "x", "z9hG4bKffffffffffffffffff-1"] {
        let (now, flow) = (link.now, link.flows[PHONE]);
        link.ends[PHONE].handle_message(now, flow, branch(b).into());
    }
    link.deliver();
    assert!(link.heard().is_empty());
}
