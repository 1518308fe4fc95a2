//! Three times as many calls as the engine can take: those that are too many are told so at once, and those that are up go on.

use std::{
    collections::{HashMap, VecDeque},
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use plugtone::sip::{Message, Method, Name};
use tokio::time::sleep;

use super::phone::{Draft, Phone, status};
use crate::call::Bed;

/// Calls that are up.
const CALLS: usize = 4;
/// New ones that wait for their answer at a time while the sustainable rate is looked for.
const AT_ONCE: usize = 32;
const MEASURED: Duration = Duration::from_millis(1500);
const STORM: Duration = Duration::from_secs(3);
/// So many of the storm wait for their answer at least: three times what the engine lets wait before it says that it is too much.
/// Other tests may have had the machine while the sustainable rate was looked for, and it would not be too much by the rate alone.
const WAITING: usize = 3 * 2048;
/// Calls of a storm, whatever the rate: fewer would not all wait at once, and more take a slow machine too long.
const STORM_CALLS: (usize, usize) = (8_000, 24_000);
/// The last answers may take so long, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(15);

/// Both ends of the sound of some calls: each sends a packet every 20 ms and counts what it gets.
struct Sound {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Heard>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    packets: usize,
    /// Longest time without one.
    gap: Duration,
}

impl Sound {
    /// Pairs of our port and the engine's.
    fn start(ends: Vec<(UdpSocket, SocketAddr)>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut heard = vec![(Heard::default(), Instant::now()); ends.len()];
            let (began, mut sent) = (Instant::now(), 0u32);
            let mut packet = [0xd5; 172];
            packet[..2].copy_from_slice(&[0x80, 8]);
            while !stopped.load(Ordering::Relaxed) {
                while began.elapsed() >= Duration::from_millis(20) * sent {
                    sent += 1;
                    packet[2..4].copy_from_slice(&(sent as u16).to_be_bytes());
                    packet[4..8].copy_from_slice(&(sent * 160).to_be_bytes());
                    for (number, (socket, engine)) in ends.iter().enumerate() {
                        packet[8..12].copy_from_slice(&(number as u32 + 1).to_be_bytes());
                        let _ = socket.send_to(&packet, engine);
                    }
                }
                for ((socket, _), (heard, last)) in ends.iter().zip(&mut heard) {
                    while socket.recv(&mut [0; 2000]).is_ok() {
                        heard.packets += 1;
                        heard.gap = heard.gap.max(last.elapsed());
                        *last = Instant::now();
                    }
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            heard.into_iter().map(|(heard, _)| heard).collect()
        });
        Self { stop, thread }
    }

    fn stop(self) -> Vec<Heard> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the sound's thread")
    }
}

fn sound_port() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_nonblocking(true).expect("a socket");
    socket
}

/// Where the engine wants sound.
fn sound_of(message: &Message) -> SocketAddr {
    let body = String::from_utf8_lossy(message.body()).into_owned();
    let port = body.lines().find_map(|line| line.strip_prefix("m=audio ")).and_then(|rest| rest.split(' ').next()).expect("a stream");
    SocketAddr::from(([127, 0, 0, 1], port.parse().expect("a port")))
}

/// Calls to a number where no phone is registered, each of which is a call for the engine until it answers 480.
struct Flood {
    socket: Arc<UdpSocket>,
    drafts: Vec<Draft>,
}

/// What became of a call: its answer, and how long that took.
type Answers = HashMap<String, (u16, bool, Duration)>;

impl Flood {
    fn new(phone: &mut Phone, socket: &Arc<UdpSocket>, count: usize) -> Self {
        let at = socket.local_addr().expect("bound");
        let drafts = (0..count).map(|_| {
            let mut draft = phone.invitation("2043", 9);
            phone.signs(&mut draft);
            draft.via = draft.via.replace(&phone.at().to_string(), &at.to_string());
            draft
        });
        Self { socket: socket.clone(), drafts: drafts.collect() }
    }

    /// Sends them as `due` says: how many there may be by a time, with so many answered. Each that is not answered within half a
    /// second is sent again, as phones do. Ends when all are answered, or the time is over; gives how many were begun, too.
    fn run(self, server: SocketAddr, lasts: Duration, due: impl Fn(Duration, usize) -> usize) -> (usize, Answers) {
        let (mut answers, mut buffer) = (Answers::new(), [0; 8192]);
        let mut waiting: VecDeque<(Instant, usize)> = VecDeque::new();
        let mut began_at = HashMap::new();
        let by_id: HashMap<_, _> = self.drafts.iter().map(|draft| (draft.call_id.clone(), draft)).collect();
        let began = Instant::now();
        let mut sent = 0;
        while began.elapsed() < lasts && answers.len() < self.drafts.len() {
            let due = due(began.elapsed(), answers.len()).min(self.drafts.len());
            while sent < due {
                let draft = &self.drafts[sent];
                began_at.insert(draft.call_id.clone(), Instant::now());
                let _ = self.socket.send_to(draft.text().as_bytes(), server);
                waiting.push_back((Instant::now(), sent));
                sent += 1;
                if sent.is_multiple_of(16) {
                    break;
                }
            }
            while let Some((_, number)) = waiting.front().copied().filter(|(at, _)| at.elapsed() > Duration::from_millis(500)) {
                waiting.pop_front();
                if !answers.contains_key(&self.drafts[number].call_id) {
                    let _ = self.socket.send_to(self.drafts[number].text().as_bytes(), server);
                    waiting.push_back((Instant::now(), number));
                }
            }
            let mut quiet = true;
            while let Ok(len) = self.socket.recv(&mut buffer) {
                quiet = false;
                let Ok(answer) = Message::parse(Bytes::copy_from_slice(&buffer[..len])) else { continue };
                let (Some(status @ 200..), Ok(id)) = (answer.status(), answer.call_id()) else { continue };
                let Some(draft) = by_id.get(id) else { continue };
                let to = answer.text(Name::To).expect("a To").into_owned();
                let ack = Draft { method: "ACK", to, more: String::new(), body: String::new(), ..(*draft).clone() };
                let _ = self.socket.send_to(ack.text().as_bytes(), server);
                let took = began_at.get(id).map_or(Duration::ZERO, Instant::elapsed);
                answers.entry(id.to_owned()).or_insert((status, answer.header(Name::RetryAfter).is_some(), took));
            }
            if quiet && sent >= due {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        (sent, answers)
    }
}

/// Asks within a call as a phone does: again after half a second, a second, and so on. How long the answer took.
async fn asks_within(phone: &mut Phone, request: &Draft) -> Duration {
    let began = Instant::now();
    let mut pause = Duration::from_millis(500);
    loop {
        phone.send(request.text()).await;
        if let Ok(answer) = tokio::time::timeout(pause, phone.answer_to(request)).await {
            assert_eq!(status(&answer), 200, "within a call that is up");
            return began.elapsed();
        }
        assert!(began.elapsed() < Duration::from_secs(32), "no answer within a call that is up");
        pause *= 2;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_up_do_not_notice_three_times_too_many() {
    let bed = Bed::start().await;
    let (mut caller, mut callee) = (Phone::new(&bed, 1).await, Phone::new(&bed, 2).await);
    callee.registers().await;
    let (mut calls, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..CALLS {
        let (near, far) = (sound_port(), sound_port());
        let mut call = caller.invitation("2042", near.local_addr().expect("bound").port());
        caller.prepares(&mut call).await;
        caller.send(call.text()).await;
        let mut rings = callee.is_asked().await;
        while !rings.is(&Method::Invite) {
            rings = callee.is_asked().await;
        }
        callee.answers(&rings, 200, Some(far.local_addr().expect("bound").port())).await;
        let accepted = caller.answer_to(&call).await;
        ends.extend([(near, sound_of(&accepted)), (far, sound_of(&rings))]);
        calls.push((call, accepted));
    }
    let server = caller.server;
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("a port"));
    socket2::SockRef::from(&*socket).set_recv_buffer_size(8 << 20).expect("a buffer");
    socket.set_nonblocking(true).expect("a socket");
    let mut loader = Phone::new(&bed, 5).await;
    let mut first = loader.registration();
    loader.prepares(&mut first).await;

    // How many calls a second it takes when each caller waits for its answer.
    let flood = Flood::new(&mut loader, &socket, 12_000);
    let measured = tokio::task::spawn_blocking(move || flood.run(server, MEASURED, |_, answered| answered + AT_ONCE));
    let (_, answers) = measured.await.expect("measured");
    assert!(answers.values().all(|(status, ..)| *status == 480), "nothing is refused that can be done");
    let sustainable = answers.len() as f64 / MEASURED.as_secs_f64();
    assert!(sustainable > 50.0, "{sustainable}/s");

    let rate = sustainable * 3.0;
    let storm_calls = ((rate * STORM.as_secs_f64()) as usize).clamp(STORM_CALLS.0, STORM_CALLS.1);
    let flood = Flood::new(&mut loader, &socket, storm_calls);
    let sound = Sound::start(ends);
    let began = Instant::now();
    let due = move |elapsed: Duration, answered| ((elapsed.as_secs_f64() * rate) as usize).max(answered + WAITING);
    let storm = tokio::task::spawn_blocking(move || flood.run(server, STORM + PATIENCE, due));
    let mut waits = Vec::new();
    while !storm.is_finished() {
        for (number, (call, accepted)) in calls.iter().enumerate() {
            let mut info = caller.within(call, accepted, "INFO");
            info.cseq += 1 + (waits.len() / CALLS) as u32;
            waits.push(asks_within(&mut caller, &info).await);
            assert!(waits.len() % CALLS == (number + 1) % CALLS);
        }
        sleep(Duration::from_millis(50)).await;
    }
    let (sent, answers) = storm.await.expect("the storm");
    let lasted = began.elapsed();
    let heard = sound.stop();
    let refused = answers.values().filter(|(status, ..)| *status == 503).count();
    let served = answers.values().filter(|(status, ..)| *status == 480).count();
    // All sign over one nonce: one that the kernel had no room for and that is repeated after 64 later ones were taken is told that
    // its count is stale. The engine has taken it all the same.
    let late = answers.values().filter(|(status, ..)| *status == 401).count();
    waits.sort();
    let mut refusals: Vec<_> = answers.values().filter(|(status, ..)| *status == 503).map(|(.., took)| *took).collect();
    refusals.sort();
    let middle = |waits: &[Duration]| waits.get(waits.len() / 2).copied().unwrap_or_default();
    let figures = format!(
        "{sustainable:.0}/s are sustainable; of {sent} calls at {rate:.0}/s {served} were served, {late} late, {refused} refused after {:?} in the middle, {:?} \
         at most; requests within calls took {:?}, {:?} at most, {} of them; sound: {heard:?}",
        middle(&refusals),
        refusals.last(),
        middle(&waits),
        waits.last(),
        waits.len()
    );
    println!("{figures}");
    assert!(refused > 0 && answers.values().all(|(status, retry, _)| matches!(status, 401 | 480) || *status == 503 && *retry), "{figures}");
    assert_eq!(served + refused + late, sent, "told, not ignored: {figures}");
    // One in eight is taken at the worst.
    assert!(served + late > sent / 10, "it does not stop working: {figures}");
    // The calls that were up: every request answered long before its sender gives up (32 s), sound both ways, and all still there.
    assert!(*waits.last().expect("asked") < Duration::from_secs(8), "{figures}");
    let expected = (lasted.as_secs_f64() * 50.0) as usize;
    assert!(heard.iter().all(|heard| heard.packets > expected * 9 / 10), "{expected} packets expected: {figures}");
    let up = bed.running.handle.list().await;
    assert_eq!(up.len(), CALLS, "{up:?}");
    // And when it is over, calls are taken again.
    let mut call = caller.invitation("2043", 9);
    assert_eq!(status(&caller.does(&mut call).await), 480);
}
