//! Files over TFTP and HTTP, beside the servers that are known for them. The load has a thread of its own: on those that are shared each
//! answer would wake two, on the processors that the server under it needs.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::{Server, free, ms, peers::Peer, tell};
use crate::{
    cli::out::say,
    phone::{http::Client, tftp},
    thread,
};

/// A family of the bench's own, for a file as long as those of phones with a whole keypad of settings.
const LONG_FILE: &str = "bench.cfg";
const LONG_FILE_LINES: usize = 320;

/// 20 KB, 64 bytes a line; every tenth has a value to be filled in, as in real templates most is text.
pub(super) fn long_family() -> String {
    let line = |number: usize| match number % 10 {
        0 => format!("setting.{number:04}.server = {{{{ \"%-41s\"|format(server.host) }}}}\n"),
        _ => format!("setting.{number:04}.text = {:<43}\n", "as it stands in the template"),
    };
    let body: String = (0..LONG_FILE_LINES).map(|number| format!("      {}", line(number))).collect();
    format!(
        "name: Bench\nreload: {{ soft: check-sync, hard: check-sync }}\nfiles:\n  - name: {LONG_FILE}\n    grammar: key_value\n    \
         readers: anyone\n    body: |\n{body}"
    )
}

/// The short file of the benches: of a family, and without a phone's own settings.
const SHORT_FILE: &str = "y000000000066.cfg";

/// Files over TFTP, from us and from dnsmasq.
pub(super) async fn tftp(count: u32) -> anyhow::Result<()> {
    let server = Server::start().await?;
    tftp_loads("TFTP", server.tftp, || server.cpu(), count).await?;
    let files = [(SHORT_FILE, fetched(server.http, SHORT_FILE).await?), (LONG_FILE, fetched(server.http, LONG_FILE).await?)];
    drop(server);
    let Some(peer) = Peer::dnsmasq(&files.each_ref().map(|(name, bytes)| (*name, &bytes[..]))).await? else {
        say!("  dnsmasq is not installed (Debian package dnsmasq-base): nothing to compare with");
        return Ok(());
    };
    tftp_loads(&peer.name, peer.at, || peer.cpu(), count).await
}

async fn tftp_loads(who: &str, server: SocketAddr, cpu: impl Fn() -> anyhow::Result<Duration>, count: u32) -> anyhow::Result<()> {
    // A long file is forty round trips with blocks of 512. Half as many: of fewer the steps in which the system counts would show.
    let long = count / 2;
    for (what, path, count, clients, block_bytes) in [
        ("short", SHORT_FILE, count, 50, None),
        ("short", SHORT_FILE, count, 50, Some(1428)),
        ("20 KB", LONG_FILE, long, 50, None),
        ("20 KB", LONG_FILE, long, 50, Some(1428)),
        ("20 KB", LONG_FILE, long, 200, None),
    ] {
        tftp_load(who, what, server, &cpu, path, count, clients, block_bytes).await?;
    }
    Ok(())
}

/// One line of result of files over TFTP.
#[allow(clippy::too_many_arguments)]
async fn tftp_load(
    who: &str,
    what: &str,
    server: SocketAddr,
    cpu: impl Fn() -> anyhow::Result<Duration>,
    path: &str,
    count: u32,
    clients: usize,
    block_bytes: Option<u16>,
) -> anyhow::Result<()> {
    let before = cpu()?;
    let load = tftp::Load {
        server,
        locals: vec![Ipv4Addr::LOCALHOST.into()],
        clients,
        files: (count as usize / clients).max(1),
        path: path.to_owned(),
        options: tftp::Options { block_bytes, ..Default::default() },
    };
    let report = thread::alone("load", tftp::load(load)).await?;
    let used = cpu()? - before;
    let size = report.bytes / report.fetched.max(1) as u64;
    let [p50, p99] = [50, 99].map(|percent| report.percentile(percent).map_or(0.0, ms));
    let name = format!("{who}, {what}, blocks of {}", block_bytes.unwrap_or(512));
    let more = format!("; {size} bytes each, {clients} at once, p50 {p50:.1} ms, p99 {p99:.1} ms, {} failed", report.failed);
    tell(&name, report.fetched, report.took, used, &more);
    if let Some(failure) = report.first_failure {
        say!("  the first failure: {failure}");
    }
    Ok(())
}

/// A file as our server renders it, for servers that only have files.
async fn fetched(http: SocketAddr, name: &str) -> anyhow::Result<Vec<u8>> {
    let answer = Client::new(Ipv4Addr::LOCALHOST.into(), "bench").get(&format!("http://{http}/{name}"), None).await?;
    anyhow::ensure!(answer.status == 200, "{name}: {}", answer.status);
    Ok(answer.body.to_vec())
}

/// Clients at once over HTTP.
const AT_ONCE: u32 = 32;

/// Each file by a connection of its own, as phones fetch it: rendered and sent, then held already by its ETag.
pub(super) async fn http(count: u32) -> anyhow::Result<()> {
    let server = Server::start().await?;
    let long = fetched(server.http, LONG_FILE).await?;
    http_load("HTTP, 20 KB", server.http, || server.cpu(), count).await?;
    let at = free()?;
    drop(server);
    let Some(peer) = Peer::nginx(at, &[(LONG_FILE, &long)]).await? else {
        say!("  nginx is not installed (Debian package nginx-light): nothing to compare with");
        return Ok(());
    };
    http_load(&format!("{}, 20 KB", peer.name), peer.at, || peer.cpu(), count).await
}

async fn http_load(who: &str, server: SocketAddr, cpu: impl Fn() -> anyhow::Result<Duration>, count: u32) -> anyhow::Result<()> {
    let url = format!("http://{server}/{LONG_FILE}");
    let etag = Client::new(Ipv4Addr::LOCALHOST.into(), "bench").get(&url, None).await?.etag;
    for (what, held) in [("sent", None), ("held already", etag)] {
        let (before, began) = (cpu()?, Instant::now());
        let (mut times, failed) = thread::alone("load", fetched_by_all(url.clone(), held, count / AT_ONCE)).await?;
        let (took, used) = (began.elapsed(), cpu()? - before);
        times.sort_unstable();
        let [p50, p99] = [50, 99].map(|percent| times.get(times.len() * percent / 100).copied().map_or(0.0, ms));
        let more = format!("; {AT_ONCE} at once, p50 {p50:.1} ms, p99 {p99:.1} ms, {failed} failed");
        tell(&format!("{who}, {what}"), times.len(), took, used, &more);
    }
    Ok(())
}

/// How long each file took, and how many did not come.
async fn fetched_by_all(url: String, held: Option<String>, each: u32) -> (Vec<Duration>, usize) {
    let wanted = if held.is_some() { 304 } else { 200 };
    let mut clients = JoinSet::new();
    for number in 1..=AT_ONCE as u8 {
        let (url, held) = (url.clone(), held.clone());
        clients.spawn(async move {
            // An address of its own: the ports of one would not do for a minute's connections.
            let client = Client::new(Ipv4Addr::new(127, 0, 1, number).into(), "bench");
            let mut times = Vec::new();
            for _ in 0..each {
                let began = Instant::now();
                if client.get(&url, held.as_deref()).await.is_ok_and(|answer| answer.status == wanted) {
                    times.push(began.elapsed());
                }
            }
            times
        });
    }
    let times = clients.join_all().await.concat();
    let failed = (each * AT_ONCE) as usize - times.len();
    (times, failed)
}
