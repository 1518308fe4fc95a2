//! Asks for addresses as phones of each make would, and hears who answers. Never takes one: DISCOVER, no REQUEST.
//!
//! A question leaves by UDP with the hardware address of this computer on the frame and the made-up one of a phone inside: so a switch
//! that counts addresses at its ports sees no stranger, and servers on this machine hear it too. The answers, to everybody as phones without an
//! address want them, are read where they come in, whoever holds port 68.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::UdpSocket,
    time::{Instant, timeout_at},
};

use super::random;
use crate::{
    dhcp::{
        Interface, Replies,
        class::REHEARSAL,
        options::{Head, MessageType, Packet, code, encode},
    },
    doctor::offers::{Offer, Seen},
    model::MacAddr,
    phone::make::Make,
};

/// A second server may be slow.
const LISTEN: Duration = Duration::from_secs(4);
/// Some servers try each address by ping before they offer it, one after the other, three seconds each.
const LONGEST: Duration = Duration::from_secs(25);
const NOBODY: Duration = Duration::from_secs(9);
const AGAIN: Duration = Duration::from_secs(2);
/// The last three bytes of the made-up phones: the same each time, so that servers that remember remember a few.
const NUMBER: u32 = 0xd0_c702;

struct Question {
    make: Option<Make>,
    xid: u32,
    bytes: Vec<u8>,
}

pub async fn discover(interface: &Interface, makes: &[Make]) -> io::Result<Seen> {
    let replies = Replies::open(interface.index)?;
    let socket = open(&interface.name)?;
    let questions = questions(interface, makes);
    let mut seen = Seen { interface: interface.name.clone(), makes: makes.to_vec(), offers: Vec::new() };
    let (began, mut again) = (Instant::now(), Instant::now());
    let (mut heard, mut rounds) = (BTreeSet::new(), 0);
    loop {
        let now = Instant::now();
        let all = makes.iter().all(|make| seen.offers.iter().any(|offer| offer.make.is_some_and(|asked| asked.name == make.name)));
        let ends = began
            + if all {
                LISTEN
            } else if seen.offers.is_empty() {
                NOBODY
            } else {
                LONGEST
            };
        if now >= ends {
            return Ok(seen);
        }
        if now >= again {
            // Twice in any case: where one has answered, a second may have missed it.
            let unheard = |question: &&Question| rounds < 2 || !heard.iter().any(|(xid, _)| *xid == question.xid);
            for question in questions.iter().filter(unheard) {
                socket.send_to(&question.bytes, SocketAddrV4::new(Ipv4Addr::BROADCAST, 67)).await?;
            }
            again = now + AGAIN;
            rounds += 1;
        }
        let Ok(reply) = timeout_at(ends.min(again), replies.heard()).await else { continue };
        let (hardware, bytes) = reply?;
        let Ok(packet) = Packet::parse(&bytes) else { continue };
        let Some(question) = questions.iter().find(|question| question.xid == packet.head.xid) else { continue };
        let offer = Offer { make: question.make, hardware, packet };
        // On the server's own machine an answer is seen as it leaves, and as it comes back.
        if offer.packet.head.op == Head::REPLY
            && offer.packet.message_type() == Some(MessageType::Offer)
            && heard.insert((question.xid, offer.server()))
        {
            seen.offers.push(offer);
        }
    }
}

fn open(interface: &str) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_broadcast(true)?;
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    let port_68: SocketAddr = (Ipv4Addr::UNSPECIFIED, 68).into();
    // A DHCP client of this computer may hold the port; servers answer to 68 all the same.
    if socket.bind(&port_68.into()).is_err() {
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
    }
    UdpSocket::from_std(socket.into())
}

/// One for each make, and one of this computer.
fn questions(interface: &Interface, makes: &[Make]) -> Vec<Question> {
    let seed = random();
    let first = u32::from_be_bytes([seed[0], seed[1], seed[2], seed[3]]);
    // Makes of one maker have addresses of their own each.
    let alike = |index: usize| makes.iter().take(index).filter(|make| make.oui == makes[index].oui).count() as u32;
    let makes = makes.iter().enumerate().map(|(index, make)| (Some(*make), make.mac(NUMBER + alike(index))));
    let own = interface.mac.filter(|mac| mac.0 != [0; 6]).map(|mac| (None, mac));
    let numbered = makes.chain(own).zip(0u32..);
    numbered.map(|((make, mac), number)| question(make, mac, first.wrapping_add(number))).collect()
}

fn question(make: Option<Make>, mac: MacAddr, xid: u32) -> Question {
    let mut head = Head::request(xid, mac);
    head.flags = Head::BROADCAST;
    let mut options = vec![(code::MESSAGE_TYPE, vec![MessageType::Discover.into()])];
    if let Some(class) = make.and_then(|make| make.vendor_class) {
        options.push((code::VENDOR_CLASS, class.to_vec()));
    }
    // Without an option to be told of a make would learn no time either.
    let asks_for = make.map_or(vec![code::SUBNET_MASK, code::ROUTER, code::DNS], |make| make.asks_for.to_vec());
    options.push((code::PARAMETER_LIST, asks_for));
    options.push((code::MAX_SIZE, 1500u16.to_be_bytes().to_vec()));
    options.push((code::USER_CLASS, REHEARSAL.to_vec()));
    Question { make, xid, bytes: encode(&head, &options, 1500).bytes }
}
