//! DHCP: packets that were valid before a seeded generator spoiled them, and floods of phones that are not there.
//!
//! In the suite a share; all of a million by
//!
//! ```sh
//! PLUGTONE_MUTATIONS=1000000 cargo test --release --test all mutations -- --nocapture
//! ```

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant, SystemTime},
};

use plugtone::{
    dhcp::{
        client::LoopbackClient,
        client_core::ClientConfig,
        options::{self, Head, Packet},
        socket::Running as Server,
    },
    model::{LeaseState, MacAddr, Timestamp},
    store::Store,
};
use tokio::{net::UdpSocket, time::timeout};
use tokio_util::sync::CancellationToken;

use super::super::{
    dhcp::{Office, bound, settings},
    sip_abuse::mutator::{Random, mutate},
};

const SHARE: usize = 20_000;
/// Sent before an honest phone asks; what a socket holds easily.
const BATCH: usize = 50;
const OFFER: u8 = 2;
const SECOND: Duration = Duration::from_secs(1);

/// A server on loopback that takes so many new clients a minute, and a phone that it knows.
struct Lan {
    office: Office,
    server: Server,
    stop: CancellationToken,
    phone: LoopbackClient,
    address: Ipv4Addr,
}

/// Far from all others, so that no bit that falls over makes one of them it.
const PHONE: MacAddr = MacAddr([0x80, 0x5e, 0xc0, 0x5a, 0xa5, 0x99]);

impl Lan {
    async fn open(new_clients: u32) -> Self {
        let yaml = format!(
            "loopback: true\nlisten: 127.0.0.1:0\nnew_clients_per_minute: {new_clients}\nnew_clients_per_port_per_minute: 30\n\
             subnets: [{{ cidr: 127.64.0.0/16, range: 127.64.1.0-127.64.9.255 }}]\n"
        );
        let (office, stop) = (Office::new(), CancellationToken::new());
        let server = office.start(&settings(&yaml), stop.clone()).await;
        let mut phone = client(server.addresses[0], PHONE).await;
        let address = bound(&mut phone).await.address;
        Self { office, server, stop, phone, address }
    }

    /// The phone that was there before still has its address, and what the server says of it is on disk.
    async fn is_served(&mut self) {
        self.phone.core().renew(Instant::now());
        assert_eq!(bound(&mut self.phone).await.address, self.address);
        assert_eq!(self.office.holder(&self.address.to_string()), Some(PHONE));
    }

    async fn close(self) {
        self.stop.cancel();
        self.server.stopped().await;
    }
}

async fn client(server: SocketAddr, mac: MacAddr) -> LoopbackClient {
    let mut config = ClientConfig::new(mac);
    config.vendor_class = Some(b"yealink".to_vec());
    config.parameter_list = vec![1, 3, 6, 66];
    let mut client = LoopbackClient::new(server, Ipv4Addr::LOCALHOST, config, 7).await.expect("a client");
    client.start();
    client
}

/// A packet of a client, as bytes.
fn packet(kind: u8, mac: MacAddr, ciaddr: Ipv4Addr, more: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let head = Head { ciaddr, ..Head::request(0x5157_0f0f, mac) };
    options::encode(&head, &[&[(53, vec![kind])], more].concat(), 576).bytes
}

/// Kinds of the answers that have come by now.
async fn answers(socket: &UdpSocket, wait: Duration) -> Vec<(u8, Ipv4Addr)> {
    let (mut got, mut room) = (Vec::new(), [0; 2048]);
    while let Ok(Ok(len)) = timeout(wait, socket.recv(&mut room)).await {
        let answer = Packet::parse(&room[..len]).expect("what a server says can be read");
        got.push((answer.options.get(53).expect("a kind")[0], answer.head.yiaddr));
    }
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn mutations_of_good_packets_harm_nobody() {
    let all: Option<usize> = std::env::var("PLUGTONE_MUTATIONS").ok().map(|count| count.parse().expect("PLUGTONE_MUTATIONS: a number"));
    let mut lan = Lan::open(0).await;
    let wish = |address: Ipv4Addr| (50, address.octets().to_vec());
    let us = (54, Ipv4Addr::LOCALHOST.octets().to_vec());
    let asks = (55, vec![1, 3, 6, 15, 42, 66, 43, 160]);
    let relay = (82, b"\x01\x04gi/1\x02\x06switch".to_vec());
    let nobody = Ipv4Addr::UNSPECIFIED;
    let seeds: Vec<Vec<u8>> = (2..12u8)
        .flat_map(|last| {
            let (mac, own) = (MacAddr([0x00, 0x15, 0x65, 0, 0, last]), Ipv4Addr::new(127, 64, 1, last));
            [
                packet(1, mac, nobody, &[(60, b"yealink".to_vec()), asks.clone(), (57, vec![2, 64])]),
                packet(1, mac, nobody, &[(61, vec![0, 1, 2, last]), wish(own), relay.clone()]),
                packet(3, mac, nobody, &[wish(own), us.clone(), asks.clone()]),
                packet(3, mac, own, std::slice::from_ref(&asks)),
                packet(4, mac, nobody, &[wish(own), us.clone()]),
                packet(7, mac, own, std::slice::from_ref(&us)),
                packet(8, mac, own, std::slice::from_ref(&asks)),
            ]
        })
        .collect();
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    socket.connect(lan.server.addresses[0]).await.expect("connected");
    let (mut random, count, began) = (Random(0x5157_0f0f), all.unwrap_or(SHARE), Instant::now());
    let (mut heard, mut room) = ([0usize; 9], [0; 2048]);
    for sent in (0..count).step_by(BATCH) {
        for _ in 0..BATCH {
            let (one, other) = (random.of(&seeds), random.of(&seeds));
            // Some whole, so that there are leases to spoil.
            let bytes = if random.one_in(4) { one.clone() } else { mutate(&mut random, one, other) };
            socket.send(&bytes).await.expect("sent");
        }
        lan.is_served().await;
        while let Ok(len) = socket.try_recv(&mut room) {
            let answer = Packet::parse(&room[..len]).expect("what a server says can be read");
            assert_ne!(answer.head.yiaddr, lan.address, "the phone's address is given to somebody");
            heard[usize::from(answer.options.get(53).expect("a kind")[0])] += 1;
        }
        if all.is_some() && sent % 100_000 == 0 {
            println!("{sent} sent, {:.0}/s", sent as f64 / began.elapsed().as_secs_f64());
        }
    }
    // Offers, ACKs and NAKs were among the answers: it was not all thrown away at the door.
    assert!(heard[2] > 0 && heard[5] > 0 && heard[6] > 0, "{heard:?}");
    let now = Timestamp::of(SystemTime::now());
    let leases = lan.office.store.leases().await.expect("leases");
    let living: Vec<_> = leases.iter().filter(|lease| lease.state == LeaseState::Active && lease.expires > now).collect();
    assert_eq!(living.iter().filter(|lease| lease.mac == PHONE).map(|lease| lease.address).collect::<Vec<_>>(), [lan.address]);
    if all.is_some() {
        println!(
            "{count} in {:.0} s; offers, ACKs, NAKs: {}, {}, {}; {} leases",
            began.elapsed().as_secs_f64(),
            heard[2],
            heard[5],
            heard[6],
            living.len()
        );
    }
    lan.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_macs_take_few_addresses_and_nobodys_place() {
    let mut lan = Lan::open(100).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    socket.connect(lan.server.addresses[0]).await.expect("connected");
    // One switch port makes up phones, each of which wants an address.
    let port = |name: &str| (82, [&[1, name.len() as u8], name.as_bytes()].concat());
    let mut offered = Vec::new();
    for number in 0..5000u32 {
        let [_, a, b, c] = number.to_be_bytes();
        let forged = packet(1, MacAddr([2, 0, 0, a, b, c]), Ipv4Addr::UNSPECIFIED, &[(60, b"yealink".to_vec()), port("flood")]);
        socket.send(&forged).await.expect("sent");
        if number % 100 == 99 {
            lan.is_served().await;
        }
    }
    offered.extend(answers(&socket, SECOND / 2).await);
    assert!((1..=40).contains(&offered.len()), "{} offers for 30 a minute", offered.len());
    // A new phone behind another port of the same network gets one.
    let honest = packet(1, MacAddr([0x00, 0x15, 0x65, 0, 9, 9]), Ipv4Addr::UNSPECIFIED, &[(60, b"yealink".to_vec()), port("desk 7")]);
    socket.send(&honest).await.expect("sent");
    let answered = answers(&socket, SECOND).await;
    assert!(matches!(answered[..], [(OFFER, _)]), "{answered:?}");
    lan.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_back_or_spoils_anothers_address() {
    let mut lan = Lan::open(0).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    socket.connect(lan.server.addresses[0]).await.expect("connected");
    let us = (54, Ipv4Addr::LOCALHOST.octets().to_vec());
    let wish = (50, lan.address.octets().to_vec());
    for last in 2..100 {
        let stranger = MacAddr([2, 0, 0, 0, 0, last]);
        for bytes in [
            packet(7, stranger, lan.address, std::slice::from_ref(&us)),
            packet(4, stranger, Ipv4Addr::UNSPECIFIED, &[wish.clone(), us.clone()]),
            packet(3, stranger, Ipv4Addr::UNSPECIFIED, &[wish.clone(), us.clone()]),
            packet(3, stranger, lan.address, &[]),
            // In the phone's name, but to another server.
            packet(7, PHONE, lan.address, &[(54, vec![10, 9, 9, 9])]),
            packet(4, PHONE, Ipv4Addr::UNSPECIFIED, &[wish.clone(), (54, vec![10, 9, 9, 9])]),
        ] {
            socket.send(&bytes).await.expect("sent");
        }
        lan.is_served().await;
    }
    assert!(answers(&socket, SECOND / 5).await.iter().all(|(kind, address)| *kind != 5 && *address != lan.address));
    let lease = lan.office.store.leases().await.expect("leases").into_iter().find(|lease| lease.address == lan.address).expect("a lease");
    assert_eq!((lease.mac, lease.state), (PHONE, LeaseState::Active));
    lan.close().await;
}
