//! `phone`: plays desk phones of a make against any server, so that an office can be rehearsed before the boxes arrive.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use clap::Args;
use serde::Serialize;
use tokio::task::JoinSet;

use super::out::{self, say};
use crate::{
    model::{MacAddr, Secret},
    phone::{
        desk::{Config, Network, News, Phone as DeskPhone},
        make::{Make, names},
        person::Person,
    },
};

/// Plays a desk phone: boots as its make does, registers, and, if told who is at it, signs in and calls.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone phone --family yealink --mac 00:15:65:00:00:07 --server http://10.0.0.2
  plugtone phone --family poly --dhcp 127.0.0.1:6767 --sign-in 1001 --pin-file pin.txt --as 2041
  plugtone phone --family grandstream --dhcp 127.0.0.1:6767 --count 50 --seconds 60
  plugtone phone --dhcp 127.0.0.1:6767 --count 3 --json | jq -r 'select(.type == \"registered\") | .mac'")]
pub struct Phone {
    /// The make to play.
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(names()), default_value = "generic")]
    family: String,
    /// The first phone's MAC; the others count up. An address of the make's own if absent.
    #[arg(long)]
    mac: Option<MacAddr>,
    /// Where its files are, as option 66 would say it: a host or a URL. The phone then uses this machine's address.
    #[arg(long, value_name = "URL", conflicts_with = "dhcp", required_unless_present = "dhcp")]
    server: Option<String>,
    /// A DHCP server that listens with `dhcp.loopback`; the phone takes the address that it is leased.
    #[arg(long, value_name = "HOST:PORT")]
    dhcp: Option<SocketAddr>,
    /// Use this address of this machine, with --server.
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    address: IpAddr,
    /// How many phones.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
    /// Call the voice menu and key in this number (one phone only).
    #[arg(long, value_name = "LOGIN", requires = "pin_file", requires = "extension")]
    sign_in: Option<String>,
    /// File with the PIN, so that it is in no process list.
    #[arg(long, value_name = "FILE")]
    pin_file: Option<std::path::PathBuf>,
    /// The extension that the phone shall come back as.
    #[arg(long = "as", value_name = "EXTENSION", id = "extension")]
    extension: Option<String>,
    /// What reaches the voice menu.
    #[arg(long, default_value = "0")]
    menu: String,
    /// Then call this number.
    #[arg(long, value_name = "NUMBER")]
    call: Option<String>,
    /// Lift the receiver by itself when called.
    #[arg(long)]
    answer: bool,
    /// Stop after so long, 0 for never; the status tells whether every phone was registered at the end.
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
}

/// News as `--json` prints them.
#[derive(Serialize)]
struct Told<'a> {
    /// Since the phones were plugged in.
    at_secs: f64,
    mac: MacAddr,
    #[serde(flatten)]
    news: &'a News,
}

impl Phone {
    pub async fn run(self) -> anyhow::Result<()> {
        let make = Make::of(&self.family).ok_or_else(|| anyhow::anyhow!("no such family"))?;
        let first = self.mac.unwrap_or_else(|| make.mac(1));
        let network = match (self.dhcp, &self.server) {
            (Some(dhcp), _) => Network::Loopback { dhcp },
            (None, Some(server)) => Network::Given { address: self.address, server: server.clone() },
            (None, None) => anyhow::bail!("give --server or --dhcp"),
        };
        if self.count > 1 && (self.sign_in.is_some() || self.call.is_some()) {
            anyhow::bail!("--sign-in and --call are for one phone");
        }
        let began = Instant::now();
        let mut phones = JoinSet::new();
        for number in 0..self.count {
            let mac = next(first, number);
            let answer_after = self.answer.then_some(Duration::from_secs(2));
            let phone = DeskPhone::plug_in(Config { make, mac, network: network.clone(), answer_after });
            let json = self.json;
            let person = Person::new(phone, move |news: &News| {
                let at_secs = began.elapsed().as_secs_f64();
                match json {
                    // News are numbers and words: they have a form in JSON.
                    true => out::json_line(&Told { at_secs, mac, news }).unwrap_or_default(),
                    false => say!("{at_secs:8.3}  {mac}  {}", sentence(news)),
                }
            });
            let wish =
                Wish { sign_in: self.sign_in.clone(), extension: self.extension.clone(), menu: self.menu.clone(), call: self.call.clone() };
            let pin = match &self.pin_file {
                Some(path) => Some(Secret::new(std::fs::read_to_string(path)?.trim())),
                None => None,
            };
            let lifetime = (self.seconds > 0).then(|| Duration::from_secs(self.seconds));
            phones.spawn(play(person, wish, pin, lifetime));
        }
        let mut failed = 0;
        while let Some(done) = phones.join_next().await {
            if let Err(trouble) = done? {
                failed += 1;
                eprintln!("{trouble}");
            }
        }
        match failed {
            0 => Ok(()),
            failed => anyhow::bail!("{failed} of {} phones did not get there", self.count),
        }
    }
}

struct Wish {
    sign_in: Option<String>,
    extension: Option<String>,
    menu: String,
    call: Option<String>,
}

async fn play<W: FnMut(&News) + Send>(
    mut person: Person<W>,
    wish: Wish,
    pin: Option<Secret>,
    lifetime: Option<Duration>,
) -> Result<(), crate::phone::person::Trouble> {
    let end = lifetime.map(|lifetime| tokio::time::Instant::now() + lifetime);
    if let Some(lifetime) = lifetime {
        person.patience = lifetime;
    }
    let user = person.until_registered().await?;
    if let (Some(login), Some(pin), Some(extension)) = (&wish.sign_in, &pin, &wish.extension)
        && &user != extension
    {
        person.sign_in(&wish.menu, login, pin.expose(), extension).await?;
    }
    if let Some(to) = &wish.call {
        person.call(to).await?;
    }
    let stay = async { while person.stay().await {} };
    match end {
        Some(end) => drop(tokio::time::timeout_at(end, stay).await),
        None => stay.await,
    }
    Ok(())
}

/// The MAC `number` after `first`, within the maker's prefix.
fn next(first: MacAddr, number: u32) -> MacAddr {
    let [a, b, c, d, e, f] = first.0;
    let [_, d, e, f] = (u32::from_be_bytes([0, d, e, f]).wrapping_add(number)).to_be_bytes();
    MacAddr([a, b, c, d, e, f])
}

/// News as a line of a timeline.
pub fn sentence(news: &News) -> String {
    match news {
        News::Discovering => "DHCP: asks for an address".into(),
        News::Offered { address } => format!("DHCP: is offered {address}"),
        News::Leased { address, server } => format!("DHCP: has {address}, looks for its files at {server}"),
        News::NoAddress { reason } => format!("no address: {reason}"),
        News::Fetched { name, bytes } => format!("fetched {name}, {bytes} bytes"),
        News::Missing { name } => format!("no {name} there"),
        News::FetchFailed { name, reason } => format!("could not fetch {name}: {reason}"),
        News::Installing { name, bytes, from, to } => format!("has {name}, {bytes} bytes: installs {to} in the place of {from}"),
        News::FirmwareRefused { name, reason } => format!("does not install {name}: {reason}"),
        News::Booted { user, .. } => format!("booted, has the account {user}"),
        News::BootFailed { reason } => format!("cannot use what it got: {reason}"),
        News::Registered { user } => format!("registered as {user}"),
        News::RegisterRefused { user, status } => format!("{user} was refused with {status}"),
        News::Calling { to } => format!("calls {to}"),
        News::Ringing => "hears it ring".into(),
        News::Incoming { from } => format!("rings: {from} calls"),
        News::Answered => "in a call".into(),
        News::CallRefused { status } => format!("the call was refused with {status}"),
        News::CallEnded { how } => format!("call over: {how}"),
        News::Heard(heard) => format!("hears {}", sound(heard.sound)),
        News::Keyed { count } => format!("presses {count} keys (hidden)"),
        News::CheckSync { event } => format!("is told to reload: {event}"),
        News::Reloading { why } => format!("reloads ({why})"),
    }
}

/// A sound in words.
pub fn sound(sound: crate::media::listen::Sound) -> String {
    use crate::media::listen::Sound::*;
    match sound {
        Silence => "silence".into(),
        Tone { hz } => format!("a tone of {hz:.0} Hz"),
        Tones { low_hz, high_hz } => format!("two tones, {low_hz:.0} and {high_hz:.0} Hz"),
        Speech => "speech".into(),
        Noise => "noise".into(),
    }
}
