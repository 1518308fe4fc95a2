//! Providers that have names: dnsmasq knows their servers, SIPp is these, and OpenSSL makes and shows their certificates.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use plugtone::{
    model::Event,
    sip::settings::Settings,
    tls::{Certificates, Source},
};

use super::call::{Bed, Sipp, free_port, is_bound};

/// A program that the tests started and that ends with them.
struct Program(Child);

impl Program {
    /// Starts it, and waits until it has bound the port.
    fn start(name: &str, package: &str, args: &[String], port: u16) -> Self {
        let mut command = Command::new(name);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot run {name}: {error}; install the Debian package {package}"));
        let until = Instant::now() + Duration::from_secs(10);
        while !is_bound(port) {
            assert!(Instant::now() < until, "{name} does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self(child)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A name server that knows these: options of dnsmasq.
fn name_server(knows: &[String]) -> (Program, SocketAddr) {
    let port = free_port();
    let fixed =
        ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces", "--user=root", "--pid-file="];
    let mut args: Vec<_> = fixed.map(str::to_owned).to_vec();
    args.extend([format!("--port={port}"), "--listen-address=127.0.0.1".to_owned(), "--local=/example/".to_owned()]);
    args.extend_from_slice(knows);
    (Program::start("dnsmasq", "dnsmasq-base", &args, port), SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

/// An office with a trunk of these settings, which asks this name server, and speaks TLS.
async fn office(names: SocketAddr, trunk: &str, files: &Path) -> Bed {
    let folder = tempfile::tempdir().expect("a folder");
    let certificates = Certificates::open(Source { folder: folder.path().join("tls"), ..Source::default() }).expect("made");
    let any = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    let mut sip = Settings { udp: any.clone(), tcp: any.clone(), tls: any, ..Settings::default() }.check().unwrap();
    sip.transports.identity = Some(certificates.tls());
    let routes = files.join(format!("routes-{}.yaml", free_port()));
    let rules = format!(
        "country: DE\noutside_line: \"0\"\npermissions: {{ default: [national] }}\ntrunks: {{ provider: {{ silence_secs: 1, {trunk} }} }}\n\
         outbound: [{{ trunks: [provider] }}]\n"
    );
    std::fs::write(&routes, rules).expect("written");
    Bed::listening(sip, folder, |calls| {
        calls.routes = Some(routes);
        calls.name_servers = vec![names.to_string()];
    })
    .await
}

async fn address(bed: &Bed) -> SocketAddr {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(address) = bed.running.handle.trunks().await[0].address {
            return address;
        }
        assert!(Instant::now() < until, "nobody says where the trunk is");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn provider(bed: &Bed, port: u16, transport: &str) -> Sipp {
    let edits = [("NUMBER", ".491712345678"), ("EXPECTED", "From: .Ada"), ("ALSO", "INVITE")];
    bed.sipp(1, "x", port, "provider_answers.xml", "x", &edits, transport)
}

async fn dials(bed: &Bed) {
    bed.phone(1, free_port(), "uac_call.xml", "001712345678", &[("PAUSE", "200")]).succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_of_a_provider_are_found_by_name_and_the_next_takes_the_call() {
    let (dead, alive) = (free_port(), free_port());
    let (_dnsmasq, names) = name_server(&[
        format!("--srv-host=_sip._udp.provider.example,first.provider.example,{dead},10,50"),
        format!("--srv-host=_sip._udp.provider.example,second.provider.example,{alive},20,0"),
        "--address=/provider.example/127.0.0.1".to_owned(),
        "--address=/plain.example/127.9.8.7".to_owned(),
        // Decidedly not available.
        "--srv-host=_sip._udp.none.example".to_owned(),
    ]);
    let files = tempfile::tempdir().expect("a folder");
    let bed = office(names, "host: provider.example, options_secs: 0", files.path()).await;
    assert_eq!(address(&bed).await.port(), dead);
    let second = provider(&bed, alive, "u1");
    dials(&bed).await;
    second.succeeds().await;
    bed.ended("caller hung up").await;
    // The next call need not find out again.
    assert_eq!(address(&bed).await.port(), alive);

    // Without SRV records it is the address of the name, and the usual port.
    let bed = office(names, "host: plain.example, options_secs: 0", files.path()).await;
    assert_eq!(address(&bed).await, "127.9.8.7:5060".parse().unwrap());
    for (host, reason) in [("nowhere.example", "nowhere.example has no address"), ("none.example", "there is no such service")] {
        let bed = office(names, &format!("host: {host}"), files.path()).await;
        bed.tells(|event| matches!(event, Event::TrunkDown { reason: told, .. } if told.contains(reason))).await;
    }
}

/// Certificates by OpenSSL, all in one folder.
struct Certified(tempfile::TempDir);

impl Certified {
    fn new() -> Self {
        let made = Self(tempfile::tempdir().expect("a folder"));
        for authority in ["ca", "stranger"] {
            made.openssl(&[
                &[
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:prime256v1",
                    "-nodes",
                    "-days",
                    "2",
                    "-subj",
                    &format!("/CN={authority}"),
                ][..],
                &["-keyout", &format!("{authority}.key"), "-out", &format!("{authority}.pem")],
            ]);
        }
        made
    }

    fn openssl(&self, args: &[&[&str]]) {
        let status = Command::new("openssl").args(args.concat()).current_dir(self.0.path()).stderr(Stdio::null()).status();
        assert!(status.expect("cannot run openssl: install the Debian package openssl").success(), "{args:?}");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A certificate for these names, as `DNS:sip.example,URI:sip:example`; it ends when the days are over.
    fn issue(&self, file: &str, names: &str, days: &str) {
        std::fs::write(self.path("names"), format!("subjectAltName={names}\n")).expect("written");
        let (key, request, out) = (format!("{file}.key"), format!("{file}.csr"), format!("{file}.pem"));
        self.openssl(&[&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            "/CN=x",
            "-keyout",
            &key,
            "-out",
            &request,
        ]]);
        let sign = ["x509", "-req", "-in", &request, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names"];
        self.openssl(&[&sign, &["-days", days, "-out", &out]]);
    }

    /// A server that shows this certificate and hands on to `port` what it hears.
    fn shows(&self, file: &str, port: u16) -> (Program, u16) {
        let (at, path) = (free_port(), |end: &str| self.path(&format!("{file}.{end}")).display().to_string());
        let listen = format!("OPENSSL-LISTEN:{at},bind=127.0.0.1,reuseaddr,fork,verify=0,cert={},key={}", path("pem"), path("key"));
        (Program::start("socat", "socat", &[listen, format!("TCP:127.0.0.1:{port}")], at), at)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_by_tls_must_show_a_certificate_for_its_name() {
    let certified = Certified::new();
    let (_dnsmasq, names) = name_server(&["--address=/provider.example/127.0.0.1".to_owned()]);
    let trunk = |port: u16, more: &str| format!("host: \"sip.provider.example:{port}\", transport: tls, {more}");
    // By the name of a host, in whatever case, by a wildcard, and by a SIP URI, which then is what counts.
    for (file, names_in_it) in [
        ("host", "DNS:other.example,DNS:SIP.provider.example"),
        ("wildcard", "DNS:*.provider.example"),
        ("uri", "URI:sip:sip.provider.example,DNS:other.example"),
    ] {
        certified.issue(file, names_in_it, "2");
        let behind = free_port();
        let (_server, port) = certified.shows(file, behind);
        let bed = office(names, &trunk(port, "ca_file: ca.pem, options_secs: 0"), certified.0.path()).await;
        assert_eq!(address(&bed).await.port(), port);
        let answers = provider(&bed, behind, "t1");
        dials(&bed).await;
        answers.succeeds().await;
    }
    // None of these is told anything.
    certified.issue("other", "DNS:other.example,IP:127.0.0.1", "2");
    certified.issue("foreign", "URI:sip:other.example,DNS:sip.provider.example", "2");
    certified.issue("over", "DNS:sip.provider.example", "-1");
    for (file, settings, why) in [
        ("other", "ca_file: ca.pem", "not for sip.provider.example: write `host`"),
        ("foreign", "ca_file: ca.pem", "is for other.example, not for sip.provider.example"),
        ("host", "ca_file: stranger.pem", "an authority that is not believed"),
        ("host", "domain: provider.example", "`ca_file` of the trunk"),
        ("over", "ca_file: ca.pem", "has expired"),
    ] {
        let (_server, port) = certified.shows(file, free_port());
        let bed = office(names, &trunk(port, settings), certified.0.path()).await;
        bed.tells(|event| matches!(event, Event::TrunkDown { reason, .. } if reason.contains(why))).await;
    }
}
