//! `bench`: what the server costs. It runs as a process of its own, so that its CPU is told apart from that of the load.

mod calls;
mod files;
mod kamailio;
mod peers;
mod register;
mod storm;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::task::JoinSet;

use self::{
    kamailio::Kamailio,
    peers::{KEA_RELAY, Peer},
    register::{Identity, Load},
};
use super::{
    out::say,
    watchers::{self, Watchers},
};
use crate::{
    api::{
        calls::{NewCall, Placed},
        templates::TemplateDiff,
    },
    binding::{self, MasterKey},
    dhcp, media,
    media::listen::Sound,
    model::{BindingRecord, DeviceRecord, DeviceState, MacAddr, Timestamp},
    phone::{
        desk::{Config, Network, Phone},
        make::{MAKES, Make},
        person::Person,
    },
    provisioning::identities::{auth_user, provisional_user},
    sip::digest::Credentials,
    store::{Store, sqlite::Sqlite, worker::durable_leases},
    template::Templates,
};

/// Measures what the server costs on this machine: rate, and CPU per unit of work.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone bench dhcp                 four-way exchanges with durable leases
  plugtone bench register --count 20000
  plugtone bench all

Use a release build on a quiet machine. The server is a child process on loopback; its CPU is read from /proc.")]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Everything, one after the other.
    #[command(after_help = "Examples:
  plugtone bench all")]
    All,
    /// DISCOVER to ACK, each lease on disk before its ACK; beside Kea where it is installed.
    #[command(after_help = "Examples:
  plugtone bench dhcp --count 20000")]
    Dhcp {
        #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
        count: u32,
    },
    /// Rendered files over TFTP, a short and a long one; beside dnsmasq where it is installed.
    #[command(after_help = "Examples:
  plugtone bench tftp --count 20000")]
    Tftp {
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
        count: u32,
    },
    /// Rendered files over HTTP, sent whole and held already; beside nginx where it is installed.
    #[command(after_help = "Examples:
  plugtone bench http --count 20000")]
    Http {
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
        count: u32,
    },
    /// What a change of templates would do to so many phones of all makes, before it is live.
    #[command(after_help = "Examples:
  plugtone bench diff --phones 10000")]
    Diff {
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        phones: u32,
    },
    /// Phones of all makes switched on at once: address, files, registration; the server is killed in the midst of it.
    #[command(after_help = "Examples:
  plugtone bench storm --count 5000
  plugtone bench storm --count 1000 --leave-alone")]
    Storm {
        #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
        count: u32,
        /// Do not kill the server.
        #[arg(long)]
        leave_alone: bool,
    },
    /// REGISTER, challenge, REGISTER, 200; beside Kamailio where it is installed.
    #[command(after_help = "Examples:
  plugtone bench register --count 20000")]
    Register {
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        count: u32,
    },
    /// Phones that all come back at once.
    #[command(after_help = "Examples:
  plugtone bench power-cut --count 10000")]
    PowerCut {
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        count: u32,
    },
    /// INVITE to BYE through the server, without sound.
    #[command(after_help = "Examples:
  plugtone bench calls --rate 300 --secs 30")]
    Calls {
        /// Calls that begin in a second.
        #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=5_000))]
        rate: u32,
        /// How long calls come, in seconds.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
        secs: u32,
    },
    /// Callers in the voice menu at once, each hearing the voice.
    #[command(after_help = "Examples:
  plugtone bench ivr --count 190")]
    Ivr {
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=190))]
        count: u32,
    },
    /// NOTIFYs to phones that watch each other's lamps while calls come and go.
    #[command(after_help = "Examples:
  plugtone bench notify --phones 500 --keys 20")]
    Notify {
        #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(2..=2_000))]
        phones: u32,
        /// Lamps that each watches.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
        keys: u32,
        /// How long calls come, in seconds.
        #[arg(long, default_value_t = 5)]
        secs: u64,
    },
    /// Files of all families, in memory.
    #[command(after_help = "Examples:
  plugtone bench render")]
    Render,
    /// Durable leases, in the store alone.
    #[command(after_help = "Examples:
  plugtone bench store")]
    Store,
    /// Bridged calls' sound, in the media threads alone.
    #[command(after_help = "Examples:
  plugtone bench relay --calls 500")]
    Relay {
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        calls: u32,
    },
}

impl Bench {
    pub async fn run(self) -> anyhow::Result<()> {
        say!("{}", machine());
        match self.what {
            What::All => {
                bench_dhcp(5_000).await?;
                files::tftp(10_000).await?;
                files::http(10_000).await?;
                storm::run(5_000, false).await?;
                storm::run(5_000, true).await?;
                bench_register(10_000).await?;
                bench_power_cut(10_000).await?;
                bench_calls(300, 10).await?;
                bench_ivr(100).await?;
                bench_notify(500, 20, 5).await?;
                bench_render()?;
                bench_diff(10_000).await?;
                bench_store().await?;
                bench_relay(200).await
            }
            What::Dhcp { count } => bench_dhcp(count).await,
            What::Tftp { count } => files::tftp(count).await,
            What::Http { count } => files::http(count).await,
            What::Storm { count, leave_alone } => storm::run(count, !leave_alone).await,
            What::Register { count } => bench_register(count).await,
            What::PowerCut { count } => bench_power_cut(count).await,
            What::Calls { rate, secs } => bench_calls(rate, secs).await,
            What::Ivr { count } => bench_ivr(count).await,
            What::Notify { phones, keys, secs } => bench_notify(phones, keys, secs).await,
            What::Render => bench_render(),
            What::Diff { phones } => bench_diff(phones).await,
            What::Store => bench_store().await,
            What::Relay { calls } => bench_relay(calls).await,
        }
    }
}

/// Processor, cores, kernel, and how this program was built.
fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let build = if cfg!(debug_assertions) { "debug build: do not quote" } else { "release build" };
    format!("machine: {cores} × {model}, Linux {}; {build}", kernel.trim())
}

/// A server in a folder of its own.
struct Server {
    child: Child,
    folder: tempfile::TempDir,
    dhcp: SocketAddr,
    tftp: SocketAddr,
    http: SocketAddr,
    sip: SocketAddr,
    api: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// How long a server may take to end by itself.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// Ends a server as a service is ended: its workers end with it.
fn end(server: &mut Child) {
    let told = kill(Pid::from_raw(server.id() as i32), Signal::SIGTERM);
    let until = Instant::now() + ENDS_WITHIN;
    while told.is_ok() && matches!(server.try_wait(), Ok(None)) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = server.kill();
    let _ = server.wait();
}

impl Server {
    async fn start() -> anyhow::Result<Self> {
        Self::start_in(tempfile::tempdir()?).await
    }

    /// The same with what somebody has put into its folder before.
    async fn start_in(folder: tempfile::TempDir) -> anyhow::Result<Self> {
        let (dhcp, tftp, ftp, http, sip, api) = (free()?, free()?, free()?, free()?, free()?, free()?);
        std::fs::write(folder.path().join("users.yaml"), include_str!("../../../config/demo/users.yaml"))?;
        std::fs::create_dir(folder.path().join("templates"))?;
        std::fs::write(folder.path().join("templates/bench.yaml"), files::long_family())?;
        let text = format!(
            "directory: {{ file: {{ path: users.yaml }} }}\n\
             dhcp: {{ listen: {dhcp}, loopback: true, conflict_check: false, new_clients_per_minute: 0, subnets: [{{ cidr: 127.64.0.0/16, range: 127.64.0.10-127.64.250.250 }}] }}\n\
             tftp: {{ listen: ['{tftp}'], max_transfers_per_client: 1000 }}\nftp: {{ listen: ['{ftp}'] }}\nhttp: {{ listen: ['{http}'], max_connections_per_client: 1000 }}\n\
             sip: {{ udp: ['{sip}'], tcp: ['{sip}'] }}\napi: {{ listen: '{api}' }}\ntemplates: {{ path: templates }}\nstore: {{ path: plugtone.db }}\nlog: {{ level: error }}\n"
        );
        let config = folder.path().join("plugtone.yaml");
        std::fs::write(&config, text)?;
        let mut server = Self { child: serve(&config)?, folder, dhcp, tftp, http, sip, api };
        server.is_ready().await?;
        Ok(server)
    }

    /// Kills it without a word, and starts it again with what it has on disk.
    async fn is_killed_and_started_again(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        std::fs::remove_file(self.folder.path().join(crate::api::LOCAL_TOKEN_FILE))?;
        self.child = serve(&self.folder.path().join("plugtone.yaml"))?;
        self.is_ready().await
    }

    async fn is_ready(&mut self) -> anyhow::Result<()> {
        // The token is written when everything listens.
        let token = self.folder.path().join(crate::api::LOCAL_TOKEN_FILE);
        for _ in 0..1200 {
            if token.exists() {
                tokio::time::sleep(Duration::from_millis(200)).await;
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the server to be measured ended with {status}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("the server to be measured did not start within 60 s")
    }

    fn key(&self) -> anyhow::Result<MasterKey> {
        Ok(binding::files::load_or_create(&self.folder.path().join("master.key"))?)
    }

    fn cpu(&self) -> anyhow::Result<Duration> {
        cpu_of(self.child.id())
    }

    fn memory_kb(&self) -> anyhow::Result<u64> {
        memory_kb_of(self.child.id())
    }
}

fn serve(config: &Path) -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?).arg("serve").arg("--config").arg(config).stdin(Stdio::null()).spawn()
}

/// A port that is free now, for UDP and for TCP.
fn free() -> std::io::Result<SocketAddr> {
    loop {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let at = socket.local_addr()?;
        if TcpListener::bind(at).is_ok() {
            return Ok(at);
        }
    }
}

/// CPU that a process has used, user and system (proc(5), fields 14 and 15).
fn cpu_of(pid: u32) -> anyhow::Result<Duration> {
    cpu_in(&std::fs::read_to_string(format!("/proc/{pid}/stat"))?)
}

fn cpu_in(stat: &str) -> anyhow::Result<Duration> {
    let after_name = stat.rsplit_once(") ").context("/proc/…/stat has another form")?.1;
    let mut fields = after_name.split(' ').skip(11);
    let mut ticks = || fields.next().and_then(|field| field.parse::<u64>().ok()).context("/proc/…/stat has another form");
    let ticks = ticks()? + ticks()?;
    // SAFETY: asks for a constant of the system.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    Ok(Duration::from_micros(ticks * 1_000_000 / per_second))
}

/// CPU that a server has used: by its tasks, by its writer of the disk, by its threads of sound.
fn cpu_by_work(pid: u32) -> anyhow::Result<[Duration; 3]> {
    let mut used = [Duration::ZERO; 3];
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = std::fs::read_to_string(thread?.path().join("stat"))?;
        let work = match stat.split_once('(').map(|(_, rest)| rest) {
            Some(name) if name.starts_with("store") => 1,
            Some(name) if name.starts_with("media") => 2,
            _ => 0,
        };
        used[work] += cpu_in(&stat)?;
    }
    Ok(used)
}

/// What a process has in memory.
fn memory_kb_of(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("/proc/…/status has another form")?;
    Ok(line.split_whitespace().next().context("/proc/…/status has another form")?.parse()?)
}

/// One line of result.
fn tell(what: &str, done: usize, took: Duration, cpu: Duration, more: &str) {
    let each = cpu.as_secs_f64() * 1e6 / done.max(1) as f64;
    say!(
        "{what:<34} {:>9.0}/s   server CPU {each:>8.1} µs each   {done} in {:.2} s{more}",
        done as f64 / took.as_secs_f64(),
        took.as_secs_f64()
    );
}

async fn bench_dhcp(count: u32) -> anyhow::Result<()> {
    const AT_ONCE: usize = 64;
    let (first, patience) = (MacAddr([0x02, 0x10, 0, 0, 0, 0]), Duration::from_secs(60));
    let told = |who: &str, report: &dhcp::client::LoadReport, cpu| {
        let (p50, p99) = (ms(report.median), ms(report.p99));
        let more = format!("; p50 {p50:.1} ms, p99 {p99:.1} ms, {} sent again, {} failed", report.retransmissions, report.failed);
        tell(&format!("{who}, DORA, {AT_ONCE} at once"), report.clients - report.failed, report.elapsed, cpu, &more);
    };
    let server = Server::start().await?;
    let (before, empty) = (server.cpu()?, server.memory_kb()?);
    let report = dhcp::client::load(server.dhcp, count as usize, AT_ONCE, first, patience).await?;
    told("DHCP", &report, server.cpu()? - before);
    let full = server.memory_kb()?;
    let each = full.saturating_sub(empty) as f64 / f64::from(count);
    say!("  memory {} MB before, {} MB after: {each:.2} kB for each of {count} leases", empty / 1024, full / 1024);
    drop(server);
    let Some(kea) = Peer::kea().await? else {
        say!("  Kea is not installed (Debian package kea-dhcp4-server): nothing to compare with");
        return Ok(());
    };
    let before = kea.cpu()?;
    let report = dhcp::client::load_relayed(kea.at, KEA_RELAY, count as usize, AT_ONCE, first, patience).await?;
    told(&kea.name, &report, kea.cpu()? - before);
    Ok(())
}

/// Registrations, 32 at once, then the same phones again, then Kamailio under the same load where it is installed.
async fn bench_register(count: u32) -> anyhow::Result<()> {
    const AT_ONCE: usize = 32;
    let server = Server::start().await?;
    let key = server.key()?;
    let empty = server.memory_kb()?;
    for what in ["REGISTER of new phones", "REGISTER of known phones"] {
        let before = server.cpu()?;
        let (key, sip) = (key.clone(), server.sip);
        let report = tokio::task::spawn_blocking(move || {
            let identity = move |number| identity(&key, number);
            Load { server: sip, phones: 0..count, at_once: AT_ONCE, identity: &identity, patience: Duration::from_secs(120) }.run()
        })
        .await??;
        // What is written behind belongs to it.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        tell(what, report.registered, report.took, server.cpu()? - before, &registrations(&report));
    }
    let full = server.memory_kb()?;
    // Each transaction is remembered for 32 seconds (RFC 3261 §17.2.2): what is left then is what contacts take.
    tokio::time::sleep(Duration::from_secs(34)).await;
    let rest = server.memory_kb()?;
    let each = rest.saturating_sub(empty) as f64 / f64::from(count);
    say!(
        "  memory {} MB before, {} MB at the end, {} MB half a minute later: {each:.2} kB for each of {count} contacts",
        empty / 1024,
        full / 1024,
        rest / 1024
    );
    drop(server);
    let Some(kamailio) = Kamailio::start(free()?).await? else {
        say!("  kamailio is not installed: nothing to compare with");
        return Ok(());
    };
    let version = Kamailio::version();
    for what in ["new", "known"] {
        let before = kamailio.cpu()?;
        let sip = kamailio.sip;
        let report = tokio::task::spawn_blocking(move || {
            let patience = Duration::from_secs(120);
            Load { server: sip, phones: 0..count, at_once: AT_ONCE, identity: &kamailio::identity, patience }.run()
        })
        .await??;
        tell(
            &format!("Kamailio {version}, {what} phones"),
            report.registered,
            report.took,
            kamailio.cpu()? - before,
            &registrations(&report),
        );
    }
    Ok(())
}

/// Every phone of a large site at once, as after a power cut.
async fn bench_power_cut(count: u32) -> anyhow::Result<()> {
    let server = Server::start().await?;
    let key = server.key()?;
    for what in ["new phones, all at once", "power cut: known phones, all at once"] {
        let before = server.cpu()?;
        let (key, sip) = (key.clone(), server.sip);
        let report = tokio::task::spawn_blocking(move || {
            let identity = move |number| identity(&key, number);
            let patience = Duration::from_secs(120);
            Load { server: sip, phones: 0..count, at_once: usize::MAX, identity: &identity, patience }.run()
        })
        .await??;
        tell(what, report.registered, report.took, server.cpu()? - before, &registrations(&report));
    }
    Ok(())
}

fn registrations(report: &register::Report) -> String {
    let (p50, p99) = (ms(report.percentile(50)), ms(report.percentile(99)));
    format!("; p50 {p50:.1} ms, p99 {p99:.1} ms, {} set back, {} failed", report.setbacks, report.missing)
}

/// A phone that nobody owns.
fn identity(key: &MasterKey, number: u32) -> Identity {
    let [_, b, c, d] = number.to_be_bytes();
    let mac = MacAddr([0x02, 0x20, 0, b, c, d]);
    Identity { user: provisional_user(mac, 1), credentials: Credentials { username: auth_user(mac, 1), secret: key.sip_secret(mac, 1, 0) } }
}

/// Phones of the load; half of them call.
const TALKERS: u32 = 400;

/// Calls through the server, at a rate, each up for a second.
async fn bench_calls(rate: u32, secs: u32) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    give_phones(folder.path(), TALKERS).await?;
    let server = Server::start_in(folder).await?;
    let (key, sip) = (server.key()?, server.sip);
    let pid = server.child.id();
    let (report, marks) = tokio::task::spawn_blocking(move || {
        let identity = move |number| {
            let mac = watchers::mac(number);
            let secret = key.sip_secret(mac, 1, watchers::GENERATION);
            Identity { user: watchers::extension(number), credentials: Credentials { username: auth_user(mac, 1), secret } }
        };
        call_load(sip, rate, secs, &identity, || anyhow::Ok((cpu_by_work(pid)?, memory_kb_of(pid)?)))
    })
    .await??;
    let [(begin, before), (_, middle), (end, after)] = marks[..] else { bail!("the load has not marked its three points") };
    let [calls, disk, sound] = [0, 1, 2].map(|work| end[work].saturating_sub(begin[work]));
    tell(&format!("calls, {rate} a second"), report.answered, report.took, calls + disk, &setups(&report));
    let each = |used: Duration| used.as_secs_f64() * 1e6 / report.answered.max(1) as f64;
    say!(
        "  of it {:.0} µs for signalling and {:.0} µs for the disk; besides {:.0} µs for sound, which is silence here",
        each(calls),
        each(disk),
        each(sound)
    );
    let each = middle.saturating_sub(before) as f64 / report.most.max(1) as f64;
    say!(
        "  memory {} MB before, {} MB with calls ({each:.1} kB for each that is up), {} MB after",
        before / 1024,
        middle / 1024,
        after / 1024
    );
    drop(server);
    let Some(kamailio) = Kamailio::start(free()?).await? else {
        say!("  kamailio is not installed: nothing to compare with");
        return Ok(());
    };
    let load = move || call_load(kamailio.sip, rate, secs, &kamailio::identity, || kamailio.cpu());
    let (report, cpu) = tokio::task::spawn_blocking(load).await??;
    let [begin, _, end] = cpu[..] else { bail!("the load has not marked its three points") };
    let what = format!("Kamailio {}, a proxy", Kamailio::version());
    tell(&what, report.answered, report.took, end.saturating_sub(begin), &setups(&report));
    Ok(())
}

/// Calls at a rate, and what `look` saw when the phones were registered, when most calls were up, and when all were over.
fn call_load<T>(
    server: SocketAddr,
    rate: u32,
    secs: u32,
    identity: &dyn Fn(u32) -> Identity,
    look: impl Fn() -> anyhow::Result<T>,
) -> anyhow::Result<(calls::Report, Vec<T>)> {
    let mut seen = Vec::new();
    let mut mark = || seen.push(look());
    let (calls, talk) = ((rate * secs) as usize, Duration::from_secs(1));
    let report = calls::Load { server, phones: TALKERS, identity, calls, rate, talk, mark: &mut mark }.run()?;
    Ok((report, seen.into_iter().collect::<Result<_, _>>()?))
}

fn setups(report: &calls::Report) -> String {
    let (p50, p99) = (ms(report.percentile(50)), ms(report.percentile(99)));
    let failure = report.first_failure.map_or(String::new(), |status| format!(" (the first: {status})"));
    format!("; set up in p50 {p50:.2} ms, p99 {p99:.2} ms, {} at once, {} failed{failure}", report.most, report.failed)
}

async fn bench_ivr(count: u32) -> anyhow::Result<()> {
    let server = Server::start().await?;
    let make = Make::of("yealink").context("a make")?;
    let mut callers = JoinSet::new();
    for number in 0..count {
        let (make, dhcp) = (make, server.dhcp);
        callers.spawn(async move {
            let mac = make.mac(number);
            let config = Config { make, mac, network: Network::Loopback { dhcp }, answer_after: None };
            let mut person = Person::new(Phone::plug_in(config), |_: &_| {});
            person.until_registered().await?;
            person.call("0").await?;
            person.hear("the voice", |sound| sound == Sound::Speech).await?;
            Ok::<_, crate::phone::person::Trouble>(person)
        });
    }
    let mut hearing = Vec::new();
    let mut failed = 0;
    while let Some(done) = callers.join_next().await {
        match done? {
            Ok(person) => hearing.push(person),
            Err(_) => failed += 1,
        }
    }
    let (before, began) = (server.cpu()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (cpu, took) = (server.cpu()? - before, began.elapsed());
    let share = cpu.as_secs_f64() / took.as_secs_f64() / hearing.len().max(1) as f64 * 100.0;
    say!(
        "{:<34} {:>9} heard the voice, {failed} did not   server CPU {share:.3} % of a core each",
        "callers in the menu at once",
        hearing.len()
    );
    Ok(())
}

/// Calls that come and go at once.
const DIALLERS: u32 = 8;

async fn bench_notify(phones: u32, keys: u32, secs: u64) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    give_phones(folder.path(), phones).await?;
    let server = Server::start_in(folder).await?;
    let (key, told) = (server.key()?, Arc::new(AtomicUsize::new(0)));
    let key = Arc::new(key);
    let mut watchers = JoinSet::new();
    for first in 0..DIALLERS {
        let (key, watcher) = (key.clone(), Watchers::new(server.sip, told.clone()).await?);
        watchers.spawn(async move {
            for number in (first..phones).step_by(DIALLERS as usize) {
                watcher.plug_in(&key, number, keys, phones).await?;
            }
            Ok::<_, anyhow::Error>(watcher)
        });
    }
    let mut serving = JoinSet::new();
    while let Some(watcher) = watchers.join_next().await {
        let watcher = watcher??;
        serving.spawn(async move { watcher.serve().await });
    }
    let (before, told_before, began) = (server.cpu()?, told.load(Ordering::Relaxed), Instant::now());
    let mut diallers = JoinSet::new();
    for first in 0..DIALLERS {
        let client = super::client::Client::local(server.api.to_string(), server.folder.path())?;
        diallers.spawn(async move {
            let mut calls = 0;
            for number in (first..phones).step_by(DIALLERS as usize).cycle() {
                if began.elapsed().as_secs() >= secs {
                    break;
                }
                let (from, to) = (watchers::extension(number), watchers::extension((number + 1) % phones));
                let new = NewCall { from, to, caller_id: None, timeout_secs: None, labels: Default::default() };
                let placed: anyhow::Result<Placed> = client.send_json(hyper::Method::POST, "/api/v1/calls", &new).await;
                calls += usize::from(placed.is_ok());
            }
            calls
        });
    }
    let mut calls = 0;
    while let Some(done) = diallers.join_next().await {
        calls += done?;
    }
    let (took, count) = (began.elapsed(), told.load(Ordering::Relaxed) - told_before);
    let cpu = server.cpu()? - before;
    let what = format!("NOTIFY, {phones} phones with {keys} keys");
    tell(&what, count, took, cpu, &format!("; {calls} calls came and went, their CPU is in it"));
    Ok(())
}

/// A database in which so many phones belong to somebody.
async fn give_phones(folder: &Path, phones: u32) -> anyhow::Result<()> {
    let store = Sqlite::open(folder.join("plugtone.db"))?;
    for number in 0..phones {
        let (mac, at) = (watchers::mac(number), Timestamp(0));
        let device = DeviceRecord {
            mac,
            family: None,
            model: None,
            firmware: None,
            state: DeviceState::InService,
            generation: watchers::GENERATION,
            first_seen: at,
            last_seen: at,
            address: None,
            location: None,
            port: None,
            inventory: Default::default(),
        };
        let binding = BindingRecord {
            mac,
            line: 1,
            user_id: format!("u{number}"),
            display_name: format!("User {number}"),
            extension: watchers::extension(number).parse()?,
            generation: watchers::GENERATION,
            since: at,
        };
        store.bind(device, binding, Vec::new(), 1).await?;
    }
    store.close().await;
    Ok(())
}

/// From the question to the answer of `plugtone template diff`, when a default of all makes was changed on disk.
async fn bench_diff(phones: u32) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let store = Sqlite::open(folder.path().join("plugtone.db"))?;
    let device = |number: u32| {
        let make = MAKES[number as usize % MAKES.len()];
        DeviceRecord {
            mac: make.mac(number),
            family: Some(make.family.to_owned()),
            model: Some(make.model.to_owned()),
            firmware: None,
            state: DeviceState::Provisional,
            generation: 0,
            first_seen: Timestamp(0),
            last_seen: Timestamp(0),
            address: None,
            location: None,
            port: None,
            inventory: Default::default(),
        }
    };
    store.save_devices((0..phones).map(device).collect()).await?;
    store.close().await;
    let server = Server::start_in(folder).await?;
    let (was, is) = ("unbound_label: \"Lift to sign in\"", "unbound_label: \"Sign in\"");
    let defaults = include_str!("../../../templates/defaults.yaml");
    anyhow::ensure!(defaults.contains(was), "defaults.yaml has no {was}");
    std::fs::write(server.folder.path().join("templates/defaults.yaml"), defaults.replace(was, is))?;
    let client = super::client::Client::local(server.api.to_string(), server.folder.path())?;
    let (before, began) = (server.cpu()?, Instant::now());
    let found: TemplateDiff = client.send_json(hyper::Method::POST, "/api/v1/templates/diff", &()).await?;
    let more = format!("; {} of {} phones change, in {} groups", found.changed, found.phones, found.groups.len());
    tell("template diff", phones as usize, began.elapsed(), server.cpu()? - before, &more);
    Ok(())
}

fn bench_render() -> anyhow::Result<()> {
    let templates = Templates::load(None)?;
    let set = templates.current();
    let began = Instant::now();
    let (mut files, mut bytes) = (0, 0);
    while began.elapsed() < Duration::from_secs(3) {
        let (more_files, more_bytes) = set.render_samples();
        files += more_files;
        bytes += more_bytes;
    }
    let took = began.elapsed();
    tell("renders, one thread", files, took, took, &format!("; {} bytes on average", bytes / files.max(1)));
    Ok(())
}

async fn bench_store() -> anyhow::Result<()> {
    for clients in [1, 64] {
        let folder = tempfile::tempdir()?;
        let store = Sqlite::open(folder.path().join("plugtone.db"))?;
        let rate = durable_leases(store.clone(), clients, if clients == 1 { 500 } else { 200 }).await?;
        say!(
            "{:<34} {:>9.0}/s   {} in {:.2} s",
            format!("durable leases, {clients} at once"),
            rate.per_second(),
            rate.leases,
            rate.took.as_secs_f64()
        );
        store.close().await;
    }
    Ok(())
}

async fn bench_relay(calls: u32) -> anyhow::Result<()> {
    let report = tokio::task::spawn_blocking(move || {
        media::bench::relay(calls as usize, Duration::from_secs(5), (media::Codec::Pcma, media::Codec::Pcma))
    })
    .await??;
    say!("{report}");
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
