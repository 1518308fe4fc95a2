//! `demo`: the whole product on loopback, simulated phones of three makes plugged into it, and what happens, live.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use tokio::task::JoinSet;

use super::{
    out::{self, say},
    table,
};
use crate::{
    config::Settings,
    journal::{self, Delivery, Subscription},
    model::{Event, MacAddr},
    node::{Node, Origin},
    phone::{
        audio::Say,
        desk::{Config, Network, News, Phone},
        make::Make,
        person::{Person, Trouble},
    },
};

/// Shows it all on this machine: no root, no network, nothing to configure.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone demo            stays up afterwards, to be tried by hand
  plugtone demo --once     ends with status 0 if every phone made its call and heard the other")]
pub struct Demo {
    /// End when the phones have called, with a status.
    #[arg(long)]
    once: bool,
    /// Also show what the server logs.
    #[arg(long)]
    verbose: bool,
}

/// Who unpacks which phone. The people and their PINs are those of config/demo/users.yaml.
const CAST: [Role; 3] = [
    Role { family: "yealink", who: "Ada Lovelace", login: "1001", pin: "1815", extension: "2041", tone_hz: 440.0 },
    Role { family: "poly", who: "Alan Turing", login: "1002", pin: "1912", extension: "2042", tone_hz: 660.0 },
    Role { family: "grandstream", who: "Grace Hopper", login: "1003", pin: "1906", extension: "2043", tone_hz: 880.0 },
];

/// A soft phone that somebody registers by hand: one is nobody's, one is Claude Shannon's.
const GUEST: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x01]);
const CLAUDES: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x02]);
const CLAUDE: &str = "1005";

const SETTINGS: &str = include_str!("../../config/demo/plugtone.yaml");
const USERS: &str = include_str!("../../config/demo/users.yaml");

struct Role {
    family: &'static str,
    who: &'static str,
    login: &'static str,
    pin: &'static str,
    extension: &'static str,
    /// What its user hums into the receiver, by which the other side can tell whom it hears.
    tone_hz: f32,
}

type Actor = Person<Box<dyn FnMut(&News) + Send>>;

/// How one phone fared.
#[derive(Default, Clone)]
struct Score {
    in_service: Option<Duration>,
    first_call: Option<Duration>,
    heard: Option<String>,
    trouble: Option<String>,
}

impl Demo {
    pub async fn run(self) -> anyhow::Result<()> {
        let folder = tempfile::tempdir().context("no temporary folder can be made")?;
        let mut settings = Settings::read("config/demo/plugtone.yaml", SETTINGS)?;
        let users = folder.path().join("users.yaml");
        std::fs::write(&users, USERS)?;
        settings.directory.file = Some(crate::directory::settings::FileSettings { path: users });
        settings.store.path = folder.path().join("plugtone.db");
        choose_ports(&mut settings);
        if self.verbose {
            settings.log.level = "info".to_owned();
        }
        crate::cli::serve::start_log(&settings.log)?;

        say!("Plugtone demo: starting the server, then plugging in {} phones …\n", CAST.len());
        let node = Node::start(settings, Origin::Embedded).await?;
        let screen = Screen::new();
        let timeline = tokio::spawn(screen.clone().follow(node.journal.subscribe_live()));

        let (mut actors, mut scores) = plug_in(&node, &screen).await;
        let complete = actors.iter().all(Option::is_some);
        if complete {
            call_around(&mut actors, &mut scores, &screen).await;
        }
        // What the server tells of the last call is still on its way.
        tokio::time::sleep(Duration::from_millis(300)).await;
        show(&scores);
        let good = scores.iter().all(|score| score.first_call.is_some());

        if self.once {
            drop(actors);
            timeline.abort();
            node.stop().await;
            return if good { Ok(()) } else { anyhow::bail!("not every phone made its call") };
        }
        invite(&node).await?;
        let keep_alive = async {
            let mut lives = JoinSet::new();
            for mut actor in actors.into_iter().flatten() {
                lives.spawn(async move { while actor.stay().await {} });
            }
            while lives.join_next().await.is_some() {}
            std::future::pending::<()>().await
        };
        tokio::select! {
            () = keep_alive => {}
            signal = tokio::signal::ctrl_c() => signal?,
        }
        say!("\nstopping …");
        timeline.abort();
        node.stop().await;
        Ok(())
    }
}

/// The ports of the shipped file where they are free, any free ones elsewhere.
fn choose_ports(settings: &mut Settings) {
    let udp = |at: &mut SocketAddr| {
        if std::net::UdpSocket::bind(*at).is_err() {
            at.set_port(0);
        }
    };
    let tcp = |at: &mut SocketAddr| {
        if std::net::TcpListener::bind(*at).is_err() {
            at.set_port(0);
        }
    };
    if std::net::UdpSocket::bind(settings.dhcp.listen).is_err() {
        settings.dhcp.listen.set_port(0);
    }
    settings.tftp.listen.iter_mut().for_each(udp);
    settings.sip.udp.iter_mut().for_each(udp);
    settings.sip.tcp.iter_mut().for_each(tcp);
    settings.ftp.listen.iter_mut().for_each(tcp);
    settings.http.listen.iter_mut().for_each(tcp);
    tcp(&mut settings.api.listen);
}

/// Plugs all phones in at once and lets their users sign in.
async fn plug_in(node: &Node, screen: &Screen) -> (Vec<Option<Actor>>, Vec<Score>) {
    let dhcp = node.addresses.dhcp[0];
    let mut starts = JoinSet::new();
    for (index, role) in CAST.iter().enumerate() {
        let Some(make) = Make::of(role.family) else { continue };
        let mac = make.mac(0x0a_00_01 + index as u32);
        screen.name(mac, role.family);
        let config = Config { make, mac, network: Network::Loopback { dhcp }, answer_after: Some(Duration::from_millis(800)) };
        let screen = screen.clone();
        starts.spawn(async move {
            let watcher = screen.clone();
            let watch: Box<dyn FnMut(&News) + Send> = Box::new(move |news| watcher.news(mac, news));
            let mut actor = Person::new(Phone::plug_in(config), watch);
            let result = async {
                actor.until_registered().await?;
                actor.sign_in("0", role.login, role.pin, role.extension).await
            };
            let result = result.await;
            (index, actor, result, screen.elapsed())
        });
    }
    let mut actors: Vec<Option<Actor>> = CAST.iter().map(|_| None).collect();
    let mut scores = vec![Score::default(); CAST.len()];
    while let Some(Ok((index, actor, result, at))) = starts.join_next().await {
        match result {
            Ok(()) => {
                scores[index].in_service = Some(at);
                actors[index] = Some(actor);
            }
            Err(trouble) => scores[index].trouble = Some(trouble.to_string()),
        }
    }
    (actors, scores)
}

/// Each calls the next; both hum, and each must hear the other's tone.
async fn call_around(actors: &mut [Option<Actor>], scores: &mut [Score], screen: &Screen) {
    for from in 0..CAST.len() {
        let to = (from + 1) % CAST.len();
        let (Some(mut caller), Some(mut called)) = (actors[from].take(), actors[to].take()) else { continue };
        let result = converse(&mut caller, &mut called, &CAST[from], &CAST[to]).await;
        match result {
            Ok(heard) => {
                scores[from].first_call = Some(screen.elapsed());
                scores[from].heard = Some(heard);
            }
            Err(trouble) => scores[from].trouble = Some(trouble.to_string()),
        }
        (actors[from], actors[to]) = (Some(caller), Some(called));
    }
}

async fn converse(caller: &mut Actor, called: &mut Actor, from: &Role, to: &Role) -> Result<String, Trouble> {
    let near = async {
        caller.call(to.extension).await?;
        caller.say(Say::Tone { hz: from.tone_hz }).await;
        caller.hear("the other side's tone", |sound| is_tone(sound, to.tone_hz)).await
    };
    let far = async {
        called.wait("a call", |news| matches!(news, News::Answered).then_some(Ok(()))).await?;
        called.say(Say::Tone { hz: to.tone_hz }).await;
        called.hear("the caller's tone", |sound| is_tone(sound, from.tone_hz)).await
    };
    let (near, far) = tokio::try_join!(near, far)?;
    // Long enough for the phones to hear that it lasts.
    tokio::time::sleep(Duration::from_secs(1)).await;
    caller.hang_up().await;
    called.until_hung_up().await?;
    caller.until_hung_up().await?;
    Ok(format!("{} / {}", super::phone::sound(near), super::phone::sound(far)))
}

fn is_tone(sound: crate::media::listen::Sound, hz: f32) -> bool {
    sound.is_like(crate::media::listen::Sound::Tone { hz })
}

fn show(scores: &[Score]) {
    let seconds = |time: Option<Duration>| time.map_or("–".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()));
    let rows: Vec<Vec<String>> = CAST
        .iter()
        .zip(scores)
        .map(|(role, score)| {
            let heard = score.heard.clone().or(score.trouble.clone()).unwrap_or_default();
            vec![role.family.into(), role.who.into(), role.extension.into(), seconds(score.in_service), seconds(score.first_call), heard]
        })
        .collect();
    say!();
    table::print(&["PHONE", "NOW OWNED BY", "AS", "IN SERVICE AFTER", "FIRST CALL AFTER", "CALLER HEARD / CALLED HEARD"], &rows, "");
    say!("\nSeconds count from plugging in. What was heard is measured in the decoded audio at each phone.");
}

/// How to try it by hand.
async fn invite(node: &Node) -> anyhow::Result<()> {
    let sip = node.addresses.sip_udp.first().context("SIP does not listen")?;
    let api = node.addresses.api;
    let guest = node.account(GUEST);
    node.give(CLAUDES, CLAUDE).await?;
    let claude = node.account(CLAUDES);
    say!("\nIt stays up until ctrl-C. Try it by hand with any soft phone (SIP over UDP or TCP, server {sip}):\n");
    for (what, account) in [
        ("a phone that nobody owns: dial anything, sign in as 1004 with the PIN 1914", guest),
        ("Claude Shannon's phone: dial 2041, 2042 or 2043 (they lift by themselves), or 0", claude),
    ] {
        say!("  {what}");
        say!("    user {}   auth user {}   password {}\n", account.user, account.auth_user, account.secret.expose());
    }
    let token = node.local_token.expose();
    say!("The API: http://{api}/api/v1/openapi.json");
    say!("    curl -H 'Authorization: Bearer {token}' http://{api}/api/v1/devices");
    say!("    curl -N -H 'Authorization: Bearer {token}' 'http://{api}/api/v1/events?after=0'");
    // As it was called, so that the line can be copied.
    let this = std::env::args().next().unwrap_or_else(|| "plugtone".to_owned());
    say!("    {this} dial 2042 --from 2041 --api http://{api} --token {token}\n");
    Ok(())
}

/// The live timeline.
#[derive(Clone)]
struct Screen {
    began: Instant,
    colour: bool,
    names: std::sync::Arc<std::sync::Mutex<Vec<(MacAddr, &'static str)>>>,
}

impl Screen {
    fn new() -> Self {
        Self { began: Instant::now(), colour: out::may_colour(&std::io::stdout()), names: Default::default() }
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn name(&self, mac: MacAddr, family: &'static str) {
        self.names.lock().expect("nobody panics with it").push((mac, family));
    }

    async fn follow(self, mut events: Subscription) {
        while let Some(delivery) = events.next().await {
            let Delivery::Event(recorded) = delivery else { continue };
            // Phones ask for many files that are not there: that is no news.
            if !matches!(
                recorded.event,
                Event::FileMissing { .. } | Event::DeviceSeen { .. } | Event::DeviceChanged { .. } | Event::Started { .. }
            ) {
                self.line(recorded.event.mac(), &journal::sentence(&recorded.event));
            }
        }
    }

    /// Of what the phones tell, the timeline shows what only they can know: what they hear.
    fn news(&self, mac: MacAddr, news: &News) {
        if let News::Heard(heard) = news
            && matches!(heard.sound, crate::media::listen::Sound::Tone { .. })
        {
            self.line(Some(mac), &super::phone::sentence(news));
        }
    }

    fn line(&self, mac: Option<MacAddr>, text: &str) {
        let names = self.names.lock().expect("nobody panics with it");
        let place = mac.and_then(|mac| names.iter().position(|(known, _)| *known == mac));
        let name = place.map_or("", |place| names[place].1);
        let at = self.elapsed().as_secs_f64();
        match (self.colour, place) {
            (true, Some(place)) => say!("{at:7.2} s  \x1b[{}m{name:<12}\x1b[0m {text}", 36 - place % 6),
            _ => say!("{at:7.2} s  {name:<12} {text}"),
        }
    }
}
