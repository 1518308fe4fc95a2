//! Trunks in virtual time, and the INVITEs that they write.

use super::*;
use crate::{
    model::Secret,
    routing::{
        Account, Hop, Shown,
        number::Form,
        settings::{CallerIdForm, DivertedShows},
    },
};

/// A trunk and its clock.
struct Bed {
    now: Instant,
    endpoint: Endpoint,
    trunks: Trunks,
    registers: Vec<bytes::Bytes>,
}

fn settings(change: impl FnOnce(&mut Trunk)) -> Trunk {
    let mut trunk = Trunk {
        name: "first".into(),
        host: "192.0.2.5".into(),
        port: None,
        transport: settings::Transport::Udp,
        authorities: None,
        domain: "192.0.2.5".into(),
        account: None,
        register_secs: None,
        accept_from: Vec::new(),
        form: Form::E164,
        caller_id: CallerIdForm::PAssertedIdentity,
        diverted_shows: DivertedShows::User,
        direct_media: false,
        max_calls: 0,
        calls_per_second: 0,
        options_secs: 30,
        silence_secs: 6,
    };
    change(&mut trunk);
    trunk
}

fn peer() -> SocketAddr {
    "192.0.2.5:5060".parse().unwrap()
}

impl Bed {
    fn new(change: impl FnOnce(&mut Trunk)) -> Self {
        let endpoint = Endpoint::new(endpoint::Config::default(), [1; 32]);
        let mut bed = Self { now: Instant::now(), endpoint, trunks: Trunks::default(), registers: Vec::new() };
        bed.configure(settings(change));
        assert!(matches!(bed.trunks.poll_action(), Some(Action::Resolve { .. })));
        bed.resolved(&[peer()], None);
        bed
    }

    fn configure(&mut self, trunk: Trunk) {
        let all = BTreeMap::from([(trunk.name.clone(), Arc::new(trunk))]);
        self.trunks.configure(self.now, &mut self.endpoint, &all);
    }

    fn resolved(&mut self, servers: &[SocketAddr], ttl_secs: Option<u64>) {
        let found = Ok((servers.to_vec(), ttl_secs.map(Duration::from_secs)));
        self.trunks.resolved(self.now, &mut self.endpoint, "first", found);
    }

    /// What is to be done now, in a word or two each.
    fn actions(&mut self) -> Vec<String> {
        let mut words = Vec::new();
        while let Some(action) = self.trunks.poll_action() {
            words.push(match action {
                Action::Resolve { question, .. } => format!("resolve {}", question.host),
                Action::Register { trunk } => {
                    let flow_to = |_, peer| Some(Flow::udp("10.0.0.1:5060".parse().unwrap(), peer));
                    self.trunks.register(self.now, &mut self.endpoint, &trunk, flow_to);
                    let request = self.endpoint.poll_transmit().expect("a REGISTER");
                    self.registers.push(request.bytes);
                    format!("register at {}", request.flow.peer)
                }
                Action::Ask { peer, .. } => format!("ask {peer}"),
                Action::Tell(Event::TrunkUp { .. }) => "up".to_owned(),
                Action::Tell(Event::TrunkDown { reason, .. }) => format!("down: {reason}"),
                Action::Tell(other) => format!("{other:?}"),
            });
        }
        words
    }

    /// Waits for the next thing to do; how long that was, and what it is.
    fn waits(&mut self) -> (u64, Vec<String>) {
        let at = self.trunks.poll_timeout().expect("something to wait for");
        let waited = at.saturating_duration_since(self.now).as_secs();
        self.now = self.now.max(at);
        self.trunks.handle_timeout(self.now, &mut self.endpoint);
        (waited, self.actions())
    }

    fn asked(&mut self, status: Option<u16>) -> Vec<String> {
        self.trunks.asked(self.now, "first", status);
        self.actions()
    }

    fn take(&mut self) -> Result<Way, Unusable> {
        self.trunks.take(self.now, "first", false, 0)
    }
}

#[test]
fn a_trunk_goes_down_after_two_silences_and_comes_back() {
    let mut bed = Bed::new(|_| {});
    assert_eq!(bed.actions(), ["ask 192.0.2.5:5060"]);
    assert!(bed.take().is_ok(), "untried is not down");
    assert_eq!(bed.asked(Some(404)), ["up"], "any answer is an answer");
    assert_eq!(bed.waits(), (30, vec!["ask 192.0.2.5:5060".into()]));
    // One lost packet is no reason.
    assert_eq!(bed.waits(), (6, vec!["ask 192.0.2.5:5060".into()]));
    assert_eq!(bed.waits(), (6, vec!["down: it does not answer".into()]));
    assert_eq!(bed.take(), Err(Unusable::Down));
    assert!(bed.trunks.take(bed.now, "first", true, 0).is_ok(), "for help it is tried all the same");
    for pause in [2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(bed.waits(), (pause, vec!["ask 192.0.2.5:5060".into()]));
        assert_eq!(bed.waits(), (6, vec![]));
    }
    assert_eq!(bed.asked(Some(200)), ["up"], "a late answer counts");
    assert_eq!(bed.asked(Some(503)), [""; 0]);
    assert_eq!(bed.waits(), (0, vec!["ask 192.0.2.5:5060".into()]));
    assert_eq!(bed.asked(Some(503)), ["down: it says that it takes no calls (503)"]);
    // A call comes from there: it lives.
    bed.trunks.lives(bed.now, "first");
    assert_eq!(bed.actions(), ["up"]);
}

#[test]
fn of_several_servers_the_next_is_used_when_one_is_ill() {
    let server = |last: u8| SocketAddr::from(([192, 0, 2, last], 5060));
    let registers = |trunk: &mut Trunk| {
        trunk.account = Some(Account { user: "acct".into(), login: "acct".into(), password: Secret::new("p") });
        trunk.register_secs = Some(600);
    };
    let mut bed = Bed::new(registers);
    bed.actions();
    bed.resolved(&[server(1), server(2)], Some(60));
    assert_eq!(bed.actions(), ["register at 192.0.2.1:5060", "ask 192.0.2.1:5060"]);
    // One call tries one after the other.
    let way = |bed: &mut Bed, tried| bed.trunks.take(bed.now, "first", false, tried).map(|way| (way.peer, way.last));
    assert_eq!((way(&mut bed, 0), way(&mut bed, 1)), (Ok((server(1), false)), Ok((server(2), true))));
    assert_eq!(way(&mut bed, 2), Err(Unusable::NoAddress));
    // Silence: the other is asked, and the registration goes there.
    assert_eq!(bed.asked(None), ["register at 192.0.2.2:5060", "ask 192.0.2.2:5060"]);
    bed.asked(Some(200));
    assert_eq!(way(&mut bed, 0), Ok((server(2), false)));
    // What is in use stays, also when name servers put it last; a new one is taken where it is gone.
    bed.resolved(&[server(1), server(3), server(2)], Some(60));
    assert_eq!((bed.actions(), way(&mut bed, 0), way(&mut bed, 1)), (vec![], Ok((server(2), false)), Ok((server(1), false))));
    bed.resolved(&[server(3)], Some(60));
    assert_eq!(bed.actions(), ["register at 192.0.2.3:5060", "ask 192.0.2.3:5060"]);
    // Nobody asks the one that is never to be asked: its calls find out.
    let mut bed = Bed::new(|trunk| trunk.options_secs = 0);
    bed.resolved(&[server(1), server(2)], Some(1));
    bed.trunks.suspect(bed.now, "first", server(2));
    assert_eq!(way(&mut bed, 0), Ok((server(1), false)));
    bed.trunks.suspect(bed.now, "first", server(1));
    assert_eq!(way(&mut bed, 0), Ok((server(2), false)));
    // What is true for a second only is asked again after half a minute all the same.
    assert_eq!(bed.waits(), (30, vec!["resolve 192.0.2.5".into()]));
    bed.trunks.resolved(bed.now, &mut bed.endpoint, "first", Err("gone".into()));
    assert_eq!((bed.actions(), way(&mut bed, 0)), (vec![], Ok((server(2), false))), "what is known is better than nothing");
    assert_eq!(bed.waits(), (15, vec!["resolve 192.0.2.5".into()]));
}

#[test]
fn why_a_certificate_is_not_believed_is_told() {
    let mut bed = Bed::new(|trunk| trunk.transport = settings::Transport::Tls);
    bed.actions();
    bed.trunks.distrusted(peer(), "its certificate is for somebody else");
    bed.asked(None);
    bed.actions();
    assert_eq!(bed.asked(None), ["down: its certificate is for somebody else"]);
    // By UDP nobody has seen one.
    let mut bed = Bed::new(|_| {});
    bed.actions();
    bed.trunks.distrusted(peer(), "its certificate is for somebody else");
    bed.asked(None);
    bed.actions();
    assert_eq!(bed.asked(None), ["down: it does not answer"]);
}

#[test]
fn a_call_that_meets_silence_makes_us_ask_at_once() {
    let mut bed = Bed::new(|_| {});
    bed.actions();
    bed.asked(Some(200));
    bed.trunks.suspect(bed.now, "first", peer());
    assert_eq!(bed.waits(), (0, vec!["ask 192.0.2.5:5060".into()]));
    // Nobody asks a trunk that is never to be asked.
    let mut bed = Bed::new(|trunk| trunk.options_secs = 0);
    assert_eq!(bed.actions(), [""; 0]);
    bed.trunks.suspect(bed.now, "first", peer());
    assert_eq!(bed.trunks.poll_timeout(), None);
}

#[test]
fn a_trunk_carries_so_many_calls_and_takes_so_many_a_second() {
    let mut bed = Bed::new(|trunk| (trunk.max_calls, trunk.calls_per_second) = (2, 2));
    let name: Arc<str> = "first".into();
    for media in [1, 2] {
        assert!(bed.take().is_ok());
        bed.trunks.hold(&name, SessionId(media));
    }
    assert_eq!(bed.take(), Err(Unusable::Full));
    assert!(!bed.trunks.has_room("first"));
    bed.trunks.leave(SessionId(1));
    bed.trunks.leave(SessionId(1));
    bed.trunks.leave(SessionId(9));
    assert_eq!(bed.trunks.list(bed.now)[0].calls, 1);
    assert_eq!(bed.take(), Err(Unusable::TooFast));
    bed.now += Duration::from_millis(500);
    assert!(bed.take().is_ok());
    // Other settings, the same calls.
    bed.configure(settings(|trunk| trunk.max_calls = 1));
    assert!(!bed.trunks.has_room("first"));
    bed.trunks.leave(SessionId(2));
    assert!(bed.trunks.has_room("first"));
}

#[test]
fn a_call_is_its_trunks_by_where_it_comes_from() {
    let bed = Bed::new(|trunk| trunk.accept_from = vec!["198.51.100.0/28".parse().unwrap()]);
    let whose = |peer: &str, tcp: bool| {
        let (local, peer) = ("10.0.0.1:5060".parse().unwrap(), peer.parse().unwrap());
        bed.trunks.whose(&if tcp { Flow::tcp(local, peer) } else { Flow::udp(local, peer) }).is_some()
    };
    assert!(whose("192.0.2.5:5060", false));
    assert!(!whose("192.0.2.5:40000", false), "a phone may live at the provider's address");
    assert!(!whose("192.0.2.5:40000", true), "the trunk is one by UDP");
    assert!(whose("198.51.100.14:40000", false) && whose("198.51.100.14:40000", true));
    assert!(!whose("198.51.100.16:5060", false));
}

#[test]
fn one_that_must_register_is_up_when_it_has() {
    let mut bed = Bed::new(|trunk| {
        trunk.account = Some(Account { user: "acct".into(), login: "acct".into(), password: Secret::new("p") });
        trunk.register_secs = Some(600);
        trunk.options_secs = 0;
    });
    assert_eq!(bed.actions(), ["register at 192.0.2.5:5060"]);
    let register = crate::sip::Message::parse(bed.registers.remove(0)).unwrap();
    bed.trunks.lives(bed.now, "first");
    assert_eq!(bed.actions(), [""; 0]);
    let answer = |bed: &mut Bed, request: &crate::sip::Message, status| {
        let response = crate::sip::Response::to(request, status).to_tag("t").encode();
        bed.endpoint.handle_message(bed.now, Flow::udp("10.0.0.1:5060".parse().unwrap(), peer()), response);
        while let Some(event) = bed.endpoint.poll_event() {
            assert!(bed.trunks.handle(bed.now, &mut bed.endpoint, event).is_none());
        }
        bed.actions()
    };
    assert_eq!(answer(&mut bed, &register, 403), ["down: it refuses our registration (403)"]);
    assert_eq!(bed.waits().0, 2);
    let again = crate::sip::Message::parse(bed.endpoint.poll_transmit().expect("a REGISTER").bytes).unwrap();
    assert_eq!(answer(&mut bed, &again, 200), ["up"]);
    assert_eq!(bed.trunks.list(bed.now)[0].registered, Some(true));
    // Taken out of the configuration, it says goodbye.
    bed.trunks.configure(bed.now, &mut bed.endpoint, &BTreeMap::new());
    let last = crate::sip::Message::parse(bed.endpoint.poll_transmit().expect("a REGISTER").bytes).unwrap();
    assert_eq!(last.expires(), Some(0));
}

#[test]
fn providers_see_the_caller_where_they_look() {
    let hop = |number: Option<&str>, withheld, geolocation: Option<&str>| Hop {
        trunk: "first".into(),
        number: "+4930999".into(),
        caller: Shown { number: number.map(str::to_owned), withheld },
        geolocation: geolocation.map(str::to_owned),
    };
    let account = |trunk: &mut Trunk, form| {
        trunk.account = Some(Account { user: "acct".into(), login: "acct".into(), password: Secret::new("p") });
        trunk.domain = "provider.example".into();
        trunk.caller_id = form;
    };
    let plain = settings(|_| {});
    let (with_account, asserted) =
        (settings(|trunk| account(trunk, CallerIdForm::Account)), settings(|trunk| account(trunk, CallerIdForm::PPreferredIdentity)));
    for (trunk, hop, from, headers) in [
        (&plain, hop(Some("+49301"), false, None), "Ada sip:+49301@ours", vec!["P-Asserted-Identity: <sip:+49301@ours>"]),
        (&plain, hop(None, false, None), "Ada sip:anonymous@ours", vec![]),
        (
            &plain,
            hop(Some("+49301"), true, None),
            "Anonymous sip:anonymous@anonymous.invalid",
            vec!["P-Asserted-Identity: <sip:+49301@ours>", "Privacy: id"],
        ),
        (
            &with_account,
            hop(Some("+49301"), false, None),
            " sip:acct@provider.example",
            vec!["P-Asserted-Identity: <sip:+49301@provider.example>"],
        ),
        (
            &asserted,
            hop(Some("+49301"), false, None),
            "Ada sip:+49301@provider.example",
            vec!["P-Preferred-Identity: <sip:+49301@provider.example>"],
        ),
        (
            &plain,
            hop(None, false, Some("https://lis/2")),
            "Ada sip:anonymous@ours",
            vec!["Geolocation: <https://lis/2>", "Geolocation-Routing: yes"],
        ),
    ] {
        let flow = Flow::udp("10.0.0.1:5060".parse().unwrap(), peer());
        let invite = invite(trunk, &hop, Presented { display_name: "Ada", ..Presented::default() }, "ours", flow, "v=0".into());
        assert_eq!(format!("{} {}", invite.from.0, invite.from.1), from);
        let told: Vec<_> = invite.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!(told, headers);
        assert_eq!(invite.uri, format!("sip:+4930999@{}", trunk.domain));
    }
}
