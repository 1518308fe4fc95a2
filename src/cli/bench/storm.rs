//! The morning after a power cut: phones of all makes are switched on at once, and all want an address, their files and a registration.

use std::{
    collections::HashMap,
    io::Write,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::bail;
use tokio::task::JoinSet;

use super::{Server, ms, tell};
use crate::{
    cli::out::say,
    model::{LeaseState, MacAddr},
    phone::{
        desk::{Config, Network, News, Phone},
        make::MAKES,
        person::Person,
    },
    store::{Store, sqlite::Sqlite},
};

/// When the last phone must be in service.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a phone had reached, in time since the power came back.
#[derive(Clone, Copy, Default)]
struct Reached {
    leased: Option<(Duration, IpAddr)>,
    registered: Option<Duration>,
}

/// `kill`: the server is killed when a third of the phones is in service, and started again.
pub(super) async fn run(count: u32, kill: bool) -> anyhow::Result<()> {
    allow_many_files(u64::from(count) * 3 + 1000)?;
    let mut server = Server::start().await?;
    let before = server.cpu()?;
    // Those would ask at port 69, where the bench's server is not.
    let makes: Vec<_> = MAKES.iter().filter(|make| !make.knows_tftp_alone()).copied().collect();
    let (began, told) = (Instant::now(), std::sync::Arc::new(std::sync::Mutex::new(HashMap::<MacAddr, Reached>::new())));
    let mut phones = JoinSet::new();
    for number in 0..count {
        let make = makes[number as usize % makes.len()];
        let mac = make.mac(number);
        let config = Config { make, mac, network: Network::Loopback { dhcp: server.dhcp }, answer_after: None };
        let told = told.clone();
        let note = move |news: &News| {
            let mut told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let reached = told.entry(mac).or_default();
            match news {
                News::Leased { address, .. } => reached.leased = Some((began.elapsed(), IpAddr::V4(*address))),
                News::Registered { .. } => reached.registered = reached.registered.or(Some(began.elapsed())),
                _ => {}
            }
        };
        let mut person = Person::new(Phone::plug_in(config), note);
        person.patience = PATIENCE;
        phones.spawn(async move {
            let outcome = person.until_registered().await.map(drop);
            (person, outcome)
        });
    }
    let registered =
        || told.lock().unwrap_or_else(std::sync::PoisonError::into_inner).values().filter(|one| one.registered.is_some()).count();
    let (mut done, mut failed, mut killed, mut spent) = (Vec::new(), 0, None, Duration::ZERO);
    let mut look = tokio::time::interval(Duration::from_millis(50));
    while !phones.is_empty() {
        tokio::select! {
            Some(ended) = phones.join_next() => match ended? {
                (person, Ok(())) => done.push(person),
                (_, Err(trouble)) => {
                    failed += 1;
                    if failed == 1 {
                        say!("  the first that did not get there: {trouble}");
                    }
                }
            },
            _ = look.tick() => {
                if kill && killed.is_none() && registered() * 3 > count as usize {
                    spent = server.cpu()? - before;
                    killed = Some((registered(), began.elapsed()));
                    server.is_killed_and_started_again().await?;
                }
                progress(registered(), count, began);
            }
        }
    }
    progress(registered(), count, began);
    eprintln!();
    let (took, cpu) = (began.elapsed(), if killed.is_some() { spent + server.cpu()? } else { server.cpu()? - before });
    let told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let sorted = |time: fn(&Reached) -> Option<Duration>| {
        let mut times: Vec<_> = told.values().filter_map(time).collect();
        times.sort_unstable();
        times
    };
    let (leased, registered) = (sorted(|one| one.leased.map(|(at, _)| at)), sorted(|one| one.registered));
    let at = |times: &[Duration], percent: usize| {
        times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied().map_or(0.0, ms)
    };
    let more = format!(
        "; addresses p50 {:.0} ms, p99 {:.0} ms; in service p50 {:.0} ms, p99 {:.0} ms, last {:.0} ms; {failed} failed",
        at(&leased, 50),
        at(&leased, 99),
        at(&registered, 50),
        at(&registered, 99),
        at(&registered, 100)
    );
    let name = if kill { "boot storm, server killed" } else { "boot storm" };
    tell(name, registered.len(), took, cpu, &more);
    if let Some((had, when)) = killed {
        say!("  killed after {:.1} s with {had} of {count} phones in service", when.as_secs_f64());
    }
    nothing_is_lost(&server, &told).await?;
    drop(done);
    Ok(())
}

/// Every address that a phone has is leased to it on disk, and to nobody else.
async fn nothing_is_lost(server: &Server, told: &HashMap<MacAddr, Reached>) -> anyhow::Result<()> {
    let leases = Sqlite::open(server.folder.path().join("plugtone.db"))?.leases().await?;
    let held: HashMap<_, _> =
        leases.into_iter().filter(|lease| lease.state == LeaseState::Active).map(|lease| (IpAddr::V4(lease.address), lease.mac)).collect();
    let mut owners = HashMap::new();
    for (mac, reached) in told {
        let Some((_, address)) = reached.leased else { continue };
        if held.get(&address) != Some(mac) {
            bail!("{mac} has {address}, and on disk that is {:?}'s", held.get(&address));
        }
        if let Some(other) = owners.insert(address, mac) {
            bail!("{address} was leased to {mac} and to {other}");
        }
    }
    say!("  every address of {} phones is on disk as theirs, and nobody else's", owners.len());
    Ok(())
}

/// A line that is written over, for people who wait.
fn progress(registered: usize, count: u32, began: Instant) {
    if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        eprint!("\r  {registered} of {count} in service after {:.0} s ", began.elapsed().as_secs_f64());
        let _ = std::io::stderr().flush();
    }
}

/// Each phone has some sockets.
fn allow_many_files(count: u64) -> anyhow::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a structure of ours that lives.
    anyhow::ensure!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0, "the system tells no limit of open files");
    if limit.rlim_cur < count {
        let allowed = limit.rlim_max;
        anyhow::ensure!(allowed >= count, "{count} open files are needed and {allowed} allowed: `ulimit -Hn {count}`, or fewer phones");
        limit.rlim_cur = count;
        // SAFETY: as above.
        anyhow::ensure!(
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } == 0,
            "the limit of open files cannot be raised to {count}"
        );
    }
    Ok(())
}
