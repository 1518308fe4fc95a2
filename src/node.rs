//! Builds every service, hands each its neighbours, stops all in order. The one module that sees everyone, and decides nothing.
//!
//! ```text
//!  store ─► journal ─► events            master key ─► identities ─► onboarding ⇄ SIP engine ⇄ media
//!  templates ─► files ─► TFTP, FTP, HTTP     leases ◄─ DHCP             directory ─► menu ◄──┘
//! ```

mod office;
mod place;
mod restart;
mod worker;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    thread::available_parallelism,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use arc_swap::ArcSwap;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api, binding, call,
    config::{self, Settings},
    dhcp, directory,
    directory::Directory,
    fileserver::{self, ftp, http, tftp},
    ivr::{loader, worker::Ivr},
    journal::{self, Journal},
    media::Media,
    model::{BindingRecord, Event, Events, MacAddr, Secret, Timestamp},
    provisioning::{
        self, Endpoints, Files, History, Identities, Identity, Neighbours, Onboarding, PhoneBook, PhoneClasses, Rollouts, beside, classify,
        firmware,
        onboarding::{self, CallKind, Sighting},
        pnp, rollout,
    },
    routing, sip,
    store::{Store, sqlite::Sqlite},
    template::Templates,
    tls::{self, Certificates},
    voicemail::{self, Voicemail},
    yaml::Fault,
};

pub use self::place::{authority, firmware_folder, own_address, remarks_acme, sip_ports};
use self::{
    office::Office,
    place::{certificate_source, folder_of, reached_by, sip_ports_of, tls_folder},
    restart::{left_for_restart, needs_restart},
    worker::{Replaceable, carry_out, learn_people},
};

/// Where the settings came from, and so where they are read from again.
#[derive(Clone, Debug)]
pub enum Origin {
    File(PathBuf),
    /// Made by a program; there is nothing to read again but templates and flows.
    Embedded,
}

/// Where the services listen, with the ports that were got where port 0 was asked for.
#[derive(Clone, Debug)]
pub struct Addresses {
    pub dhcp: Vec<SocketAddr>,
    pub tftp: Vec<SocketAddr>,
    pub ftp: Vec<SocketAddr>,
    pub http: Vec<SocketAddr>,
    pub https: Vec<SocketAddr>,
    pub sip_udp: Vec<SocketAddr>,
    pub sip_tcp: Vec<SocketAddr>,
    pub sip_tls: Vec<SocketAddr>,
    pub sip_ws: Vec<SocketAddr>,
    pub sip_wss: Vec<SocketAddr>,
    pub api: SocketAddr,
}

/// A running Plugtone.
pub struct Node {
    pub addresses: Addresses,
    pub journal: Journal,
    /// What the API takes as its own; also in a file beside the database.
    pub local_token: Secret,
    live: Arc<Live>,
    store: Arc<Sqlite>,
    history: History,
    media: Media,
    shutdown: CancellationToken,
    doors: Vec<fileserver::Running>,
    api: TaskTracker,
    engine: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
}

/// What a reload of the configuration reaches.
struct Live {
    origin: Origin,
    events: Events,
    templates: Templates,
    directory: Arc<Replaceable>,
    ivr: Ivr,
    voicemail: Option<Voicemail>,
    calls: call::Handle,
    onboarding: Onboarding,
    phone_book: PhoneBook,
    files: Files,
    dhcp: Option<dhcp::socket::Running>,
    dhcp6: Option<dhcp::v6::socket::Running>,
    certificates: Option<Arc<Certificates>>,
    rollouts: Rollouts,
    depot: firmware::Depot,
    settings: ArcSwap<Settings>,
    /// The text that they were read from.
    written: ArcSwap<String>,
    /// Both as they were at the start: what only a restart changes is still so.
    started: (Settings, String),
}

/// How often it is looked whether every part of the server runs.
const LOOK_AT_PARTS: Duration = Duration::from_secs(1);

/// Overrides `directory.ldap.bind_password`, so that the password need be in no file.
const LDAP_PASSWORD: &str = "PLUGTONE_LDAP_BIND_PASSWORD";

/// Reads a configuration file whole: secrets from files and the environment, paths relative to its folder, every section
/// checked.
pub fn read_settings(path: &Path) -> Result<Settings, Vec<Fault>> {
    read_written(path).map(|(settings, _)| settings)
}

/// The same, and the text.
fn read_written(path: &Path) -> Result<(Settings, String), Vec<Fault>> {
    let file = path.display().to_string();
    let unreadable = |error: std::io::Error| {
        vec![Fault::in_file(&*file, format!("cannot be read: {error}")).hint("name the configuration with --config")]
    };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let mut settings = Settings::read(&file, &text).map_err(|fault| vec![fault])?;
    settings.relative_to(path.parent().unwrap_or(Path::new("")));
    if let Some(ldap) = &mut settings.directory.ldap {
        if let Ok(password) = std::env::var(LDAP_PASSWORD) {
            ldap.bind_password = Some(Secret::new(password));
            ldap.bind_password_file = None;
        } else if let Some(secret) = ldap.bind_password_file.take() {
            let fault = |error| {
                vec![
                    Fault::in_file(secret.display().to_string(), format!("cannot be read: {error}"))
                        .hint("`directory.ldap.bind_password_file` names it"),
                ]
            };
            ldap.bind_password = Some(Secret::new(std::fs::read_to_string(&secret).map_err(fault)?.trim_end_matches(['\r', '\n'])));
        }
    }
    if let Some(mail) = &mut settings.voicemail.mail
        && let Some(secret) = mail.password_file.take()
    {
        let fault = |error| {
            let fault = Fault::in_file(secret.display().to_string(), format!("cannot be read: {error}"));
            vec![fault.hint("`voicemail.mail.password_file` names it")]
        };
        mail.password = Some(Secret::new(std::fs::read_to_string(&secret).map_err(fault)?.trim_end_matches(['\r', '\n'])));
    }
    settings.check(&file, &text)?;
    Ok((settings, text))
}

/// The first line of a device, the one that is bound.
const FIRST_LINE: u8 = 1;
/// Connections of programs to the API.
const API_LIMITS: http::Limits = http::Limits {
    connections: 1024,
    connections_per_source: 256,
    header_timeout: Duration::from_secs(15),
    stall_timeout: Duration::from_secs(60),
    head_bytes: 16 * 1024,
};

impl Node {
    /// Starts everything, from the store up; an error names what could not start and what to do.
    pub async fn start(settings: Settings, origin: Origin) -> anyhow::Result<Self> {
        let data = folder_of(&settings.store.path);
        std::fs::create_dir_all(&data).with_context(|| format!("cannot make the folder {}", data.display()))?;
        let metrics = recorder();
        let shutdown = CancellationToken::new();

        // --- what is known
        let store = Sqlite::open(&settings.store.path)?;
        let shared: Arc<dyn Store> = store.clone();
        let keep = (settings.store.journal_days > 0).then(|| Duration::from_secs(u64::from(settings.store.journal_days) * 86_400));
        let journal =
            Journal::start(shared.clone(), journal::Config { ring: settings.store.journal_ring, keep, ..Default::default() }).await?;
        let told = journal.events();
        let key = binding::files::load_or_create(&data.join("master.key"))?;
        let identities = Identities::new(key.clone());
        let depot = firmware::Depot::open(firmware_folder(&settings), told.clone())?;
        let templates = Templates::load_with(settings.templates.path.as_deref(), Some(depot.folder()))?;
        let restored = rollout::worker::restore(&*shared, &templates).await?;
        let config = onboarding::Config {
            devices_per_extension: settings.bindings.devices_per_extension,
            extensions: (settings.extensions.range.first.clone(), settings.extensions.range.last.clone()),
            reload: settings.bindings.reload.clone(),
            limits: settings.bindings.attempts.limits(),
        };
        let methods = classify::reload_methods(templates.clone());
        let (onboarding, orders) = Onboarding::start(shared.clone(), identities.clone(), told.clone(), config, methods).await?;
        let events = noticing(told, onboarding.clone());
        let directory = Arc::new(Replaceable(ArcSwap::from_pointee(directory::open(settings.directory.check()?, events.clone())?)));

        // --- calls
        let cores = available_parallelism().map_or(1, usize::from);
        let media = Media::start(settings.media.check(cores)?)?;
        let (service, service_inbox) = mpsc::channel(settings.ivr.calls.clamp(1, 10_000));
        let (voicemail_calls, voicemail_inbox) = mpsc::channel(settings.voicemail.calls.clamp(1, 1000));
        let (groups, addresses) = (Arc::new(ArcSwap::from_pointee(office::Groups::new())), voicemail::worker::Addresses::default());
        let office = Office { onboarding: onboarding.clone(), templates: templates.clone(), groups: groups.clone() };
        let mut sip = settings.sip.check()?;
        let certificates = match sip.transports.needs_identity() || !settings.http.doors().1.is_empty() {
            true => Some(Certificates::open(certificate_source(&settings, tls_folder(&settings)))?),
            false => None,
        };
        sip.transports.identity = certificates.as_ref().map(|certificates| certificates.tls());
        sip.transports.group = settings.provisioning.pnp.then_some(pnp::GROUP);
        let engine = call::worker::start(
            sip,
            call_rules(&settings).map_err(|faults| anyhow::anyhow!(listed(&faults)))?,
            call::Neighbours {
                media: media.clone(),
                accounts: Arc::new(identities.clone()),
                office: Arc::new(office),
                store: shared.clone(),
                events: events.clone(),
                tones: settings.media.tones,
                service,
                voicemail: voicemail_calls,
            },
        )
        .await?;
        let loaded = loader::load(&settings.ivr)?;
        let ivr = Ivr::new(&settings.ivr, loaded, media.clone(), onboarding.clone(), directory.clone(), events.clone());
        let voicemail = match settings.voicemail.check()? {
            None => None,
            Some(config) => {
                let folder = settings.voicemail.path.clone().unwrap_or_else(|| data.join("voicemail"));
                let files = voicemail::files::Files::open(folder.clone())
                    .with_context(|| format!("cannot make the folder {}", folder.display()))?;
                let with = voicemail::worker::Neighbours {
                    media: media.clone(),
                    tones: settings.media.tones,
                    ivr: ivr.clone(),
                    store: shared.clone(),
                    files,
                    calls: engine.handle.clone(),
                    events: events.clone(),
                    addresses: addresses.clone(),
                };
                Some(Voicemail::start(config, with).await?)
            }
        };
        let mut tasks = vec![
            tokio::spawn({
                let ivr = ivr.clone();
                async move { ivr.serve(service_inbox).await }
            }),
            tokio::spawn(learn_people(groups, addresses, directory.clone(), shared.clone(), journal.clone())),
            tokio::spawn(carry_out(orders, engine.handle.clone(), onboarding.clone(), shared.clone())),
        ];
        if settings.store.call_records_days > 0 {
            let keep = Duration::from_secs(u64::from(settings.store.call_records_days) * 86_400);
            tasks.push(tokio::spawn(call::worker::forget_records(shared.clone(), keep)));
        }
        if let Some(voicemail) = &voicemail {
            let serving = voicemail.clone();
            tasks.push(tokio::spawn(async move { serving.serve(voicemail_inbox).await }));
            tasks.push(tokio::spawn(voicemail.clone().forget()));
            tasks.push(tokio::spawn(voicemail.clone().send_mails()));
        }
        tasks.extend(certificates.clone().map(|certificates| tokio::spawn(certificates.keep_fresh())));

        // --- files
        let lease_view = dhcp::LeaseView::default();
        let mut endpoints = Endpoints {
            address: own_address(&settings),
            sip: sip_ports_of([&engine.udp, &engine.tcp, &engine.tls]),
            realm: settings.sip.realm.clone(),
            ..Endpoints::default()
        };
        let history = History::start(shared.clone(), u64::from(settings.store.config_history_mb) << 20).await?;
        let phone_book = PhoneBook::default();
        let book = settings.provisioning.phone_book.clone();
        if book.enabled {
            // Phones learn where it is even before it was read.
            phone_book.set(&[]);
            tasks.push(tokio::spawn(phone_book.clone().keep(book, directory.clone(), shared.clone())));
        }
        let neighbours = Neighbours {
            phone_book: phone_book.clone(),
            templates: templates.clone(),
            leases: Arc::new(lease_view.clone()),
            devices: Arc::new(onboarding.clone()),
            guests: Arc::new((onboarding.clone(), directory.clone() as Arc<dyn Directory>)),
            keys: Arc::new(key.clone()),
            store: shared.clone(),
            history: history.clone(),
            firmware: depot.clone(),
            events: events.clone(),
        };
        let files = Files::new(settings.provisioning.clone(), endpoints.clone(), neighbours);
        files.restore().await?;
        let with = rollout::worker::Neighbours {
            templates: templates.clone(),
            onboarding: onboarding.clone(),
            files: files.clone(),
            directory: directory.clone(),
            store: shared.clone(),
            events: events.clone(),
        };
        let rollouts = Rollouts::start(settings.rollout.check()?, with, restored);
        let service: Arc<dyn provisioning::FileService> = Arc::new(files.clone());
        let tftp = tftp::start(&settings.tftp, service.clone(), shutdown.clone())?;
        let ftp = ftp::start(&settings.ftp, service.clone(), shutdown.clone())?;
        let challenges = tls::acme::Challenges::default();
        let probes = api::probes(shared.clone(), metrics.clone(), settings.api.open_metrics);
        let beside = probes.merge(http::challenge::router(challenges.clone()));
        let identity = certificates.as_ref().map(|certificates| certificates.tls());
        let http = http::start(&settings.http, service, beside, identity, shutdown.clone())?;
        // Not before the door is open that the authority knocks at.
        tasks.extend(certificates.clone().map(|certificates| {
            tokio::spawn(tls::acme::worker::keep(certificates, challenges, events.clone(), tls::acme::worker::wall_clock()))
        }));
        endpoints.set_http((http.addrs(), http.secure()));
        endpoints.authority = certificates.as_ref().and_then(|certificates| certificates.tls().authority());
        endpoints.tftp_port = tftp.addrs().first().map_or(69, SocketAddr::port);
        files.reachable_at(endpoints.clone());

        if let Some(remark) = provisioning::settings::remark_https(&templates.current(), &settings.provisioning, !http.secure().is_empty())
        {
            tracing::warn!("{remark}");
        }
        if let Some(remark) = provisioning::settings::remark_sips(&templates.current(), endpoints.sip.tls.is_some()) {
            tracing::warn!("{remark}");
        }
        remarks_acme(&settings).iter().for_each(|remark| tracing::warn!("{remark}"));

        // --- addresses: last, as a phone that has one comes for everything else
        let duid = key.server_duid();
        let classes = Arc::new(PhoneClasses::new(templates.clone(), settings.provisioning.clone(), endpoints, identities));
        if settings.provisioning.pnp {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("the system gives no random numbers: {error}"))?;
            if engine.beside.is_empty() {
                tracing::warn!(
                    "`provisioning.pnp` is on, but no address of `sip.udp` is in a network that has multicast: no phone is heard"
                );
            }
            let ids = sip::Ids::new(seed);
            tasks.push(tokio::spawn(pnp::worker::serve(engine.beside, classes.clone(), events.clone(), ids, shutdown.clone())));
        }
        let dhcp = match settings.dhcp.mode {
            dhcp::settings::Mode::Off => None,
            _ => {
                let config = settings.dhcp.check()?;
                for remark in beside::remarks(&templates.current(), &config, &settings.provisioning) {
                    tracing::warn!("dhcp.mode is `beside`: {remark}");
                }
                Some(
                    dhcp::socket::serve(config, classes.clone(), shared.clone(), events.clone(), lease_view.clone(), shutdown.clone())
                        .await?,
                )
            }
        };
        let dhcp6 = match settings.dhcp6.mode {
            dhcp::v6::settings::Mode::Off => None,
            _ => {
                let config = settings.dhcp6.check()?;
                let by_v6 = http.addrs().iter().chain(http.secure()).any(SocketAddr::is_ipv6);
                for remark in beside::remarks_v6(&config, &settings.provisioning, by_v6) {
                    tracing::warn!("dhcp6: {remark}");
                }
                Some(
                    dhcp::v6::socket::serve(config, classes, duid, shared.clone(), events.clone(), lease_view.clone(), shutdown.clone())
                        .await?,
                )
            }
        };

        // --- programs and people
        let (local_token, local_hash) =
            api::auth::new_token().map_err(|error| anyhow::anyhow!("the system gives no random numbers: {error}"))?;
        write_private(&data.join(api::LOCAL_TOKEN_FILE), local_token.expose())?;
        let addresses_dhcp = dhcp.as_ref().map(|dhcp| dhcp.addresses.clone()).unwrap_or_default();
        let written = match &origin {
            Origin::File(path) => std::fs::read_to_string(path).unwrap_or_default(),
            Origin::Embedded => String::new(),
        };
        let live = Arc::new(Live {
            origin,
            events: events.clone(),
            templates: templates.clone(),
            directory: directory.clone(),
            ivr,
            voicemail: voicemail.clone(),
            calls: engine.handle.clone(),
            onboarding: onboarding.clone(),
            phone_book,
            files: files.clone(),
            dhcp,
            dhcp6,
            certificates,
            rollouts: rollouts.clone(),
            depot: depot.clone(),
            settings: ArcSwap::from_pointee(settings.clone()),
            written: ArcSwap::from_pointee(written.clone()),
            started: (settings.clone(), written),
        });
        let reload: api::Reload = {
            let live = live.clone();
            Arc::new(move || {
                let live = live.clone();
                Box::pin(async move { live.reload().await })
            })
        };
        let differs: api::config::Differs = {
            let live = live.clone();
            Arc::new(move || {
                let live = live.clone();
                Box::pin(async move { live.differs().await })
            })
        };
        let listener = http::bind("API", "api", settings.api.listen)?;
        let api_address = listener.local_addr()?;
        let context = api::Context {
            store: shared,
            leases: lease_view.clone(),
            directory,
            journal: journal.clone(),
            owners: onboarding.clone(),
            files: files.clone(),
            templates,
            rollouts,
            firmware: depot,
            calls: engine.handle.clone(),
            voicemail,
            reload,
            differs,
            metrics: metrics.clone(),
            local_token: local_hash,
            open_metrics: settings.api.open_metrics,
            shutdown: shutdown.clone(),
        };
        let api = TaskTracker::new();
        api.spawn(http::serve(listener, api::router(context), API_LIMITS, shutdown.clone()));
        api.close();
        tasks.push(tokio::spawn(upkeep(metrics, lease_view)));

        let addresses = Addresses {
            dhcp: addresses_dhcp,
            tftp: tftp.addrs().to_vec(),
            ftp: ftp.addrs().to_vec(),
            http: http.addrs().to_vec(),
            https: http.secure().to_vec(),
            sip_udp: engine.udp,
            sip_tcp: engine.tcp,
            sip_tls: engine.tls,
            sip_ws: engine.ws,
            sip_wss: engine.wss,
            api: api_address,
        };
        events.tell(Event::Started { version: env!("CARGO_PKG_VERSION").to_owned() });
        let doors = vec![tftp, ftp, http];
        Ok(Self { addresses, journal, local_token, live, store, history, media, shutdown, doors, api, engine: engine.task, tasks })
    }

    /// Reads configuration, templates, flows and users again. With any fault all stays as it was.
    pub async fn reload(&self) -> Result<String, String> {
        self.live.reload().await
    }

    /// What a device logs in with, for a soft phone that is set up by hand.
    pub fn account(&self, mac: MacAddr) -> Identity {
        self.live.onboarding.identities().identity(mac, FIRST_LINE)
    }

    /// Gives a device to somebody, as the menu would; the account is the new one.
    pub async fn give(&self, mac: MacAddr, login: &str) -> anyhow::Result<BindingRecord> {
        let user = self.live.directory.find(login).await?.with_context(|| format!("nobody has the login {login}"))?;
        self.live.onboarding.seen(Sighting { phone: true, ..Sighting::of(mac) });
        Ok(self.live.onboarding.bind(mac, FIRST_LINE, user, "the command line").await?)
    }

    pub fn calls(&self) -> &call::Handle {
        &self.live.calls
    }

    pub fn files(&self) -> &Files {
        &self.live.files
    }

    pub fn onboarding(&self) -> &Onboarding {
        &self.live.onboarding
    }

    /// Waits until a part of the server has ended though nobody told it to, by a fault of ours, and says which. The log has it, and what
    /// is left does half of what phones need: the server should end and start anew.
    pub async fn lost_part(&self) -> &'static str {
        loop {
            if let Some((part, _)) = self.parts().into_iter().find(|(_, runs)| !runs) {
                return part;
            }
            tokio::time::sleep(LOOK_AT_PARTS).await;
        }
    }

    /// Those that the office cannot be without, and whether each runs.
    fn parts(&self) -> [(&'static str, bool); 7] {
        let live = &self.live;
        [
            ("the database's writer", self.store.is_running()),
            ("the journal", self.journal.is_running()),
            ("DHCP", live.dhcp.as_ref().is_none_or(dhcp::socket::Running::is_running)),
            ("DHCPv6", live.dhcp6.as_ref().is_none_or(dhcp::v6::socket::Running::is_running)),
            ("the keeper of devices", live.onboarding.is_running()),
            ("SIP", !self.engine.is_finished()),
            ("sound", self.media.is_running()),
        ]
    }

    /// Stops in order: no new work, then what is under way, then what is kept.
    pub async fn stop(self) {
        self.live.events.tell(Event::Stopping);
        self.shutdown.cancel();
        self.live.calls.stop().await;
        let _ = self.engine.await;
        for door in &self.doors {
            door.stopped().await;
        }
        self.api.wait().await;
        if let Some(voicemail) = &self.live.voicemail {
            voicemail.stop().await;
        }
        self.media.shutdown();
        self.live.rollouts.stop().await;
        self.live.onboarding.stop().await;
        self.history.stop().await;
        self.tasks.iter().for_each(JoinHandle::abort);
        self.journal.stop().await;
        self.store.close().await;
    }
}

impl Live {
    async fn reload(&self) -> Result<String, String> {
        let result = self.try_reload().await;
        self.events.tell(match &result {
            Ok(what) => Event::ConfigReloaded { what: what.clone() },
            Err(error) => Event::ConfigRejected { what: "configuration".to_owned(), error: error.clone() },
        });
        result
    }

    fn on_disk(&self) -> Result<(Settings, String), String> {
        match &self.origin {
            Origin::Embedded => Ok((Settings::clone(&self.settings.load()), self.written.load().to_string())),
            Origin::File(path) => read_written(path).map_err(|faults| listed(&faults)),
        }
    }

    /// What a reload or a restart would change, and what phones would get by it.
    async fn differs(&self) -> Result<api::config::Difference, String> {
        let (new, written) = self.on_disk()?;
        let (live, text) = (self.settings.load_full(), self.written.load_full());
        let told = |fault: Fault| fault.to_string();
        let since_start = config::changes((&self.started.0, &self.started.1), (&new, &written)).map_err(told)?;
        let since_reload = config::changes((&live, &text), (&new, &written)).map_err(told)?;
        let key = |config::Change { key, old, new }| api::config::Key { key, old, new };
        let mut keys: Vec<_> =
            since_start.into_iter().filter(|change| needs_restart(&change.key)).map(|change| (key(change), true)).collect();
        keys.extend(since_reload.into_iter().filter(|change| !needs_restart(&change.key)).map(|change| (key(change), false)));
        keys.sort_by(|(a, _), (b, _)| a.key.cmp(&b.key));
        let set = match new.templates == self.started.0.templates {
            true => self.templates.current(),
            false => {
                let folder = self.depot.folder();
                Templates::load_with(new.templates.path.as_deref(), Some(folder)).map_err(|faults| faults.to_string())?.current()
            }
        };
        let devices = self.onboarding.devices().await.map_err(|error| error.to_string())?;
        let (phones, reached) = (devices.len(), reached_by(&self.started.0, &new, self.files.endpoints()));
        let groups = self.files.compare_with(set, new.provisioning.clone(), reached, devices).await;
        Ok(api::config::Difference { keys, phones, groups })
    }

    /// Everything is read and checked before anything changes.
    async fn try_reload(&self) -> Result<String, String> {
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let old = self.settings.load_full();
        let (new, written) = self.on_disk()?;
        let loaded = loader::load(&new.ivr).map_err(|error| told(&error))?;
        let people = new.directory.check().and_then(|config| directory::open(config, self.events.clone())).map_err(|error| told(&error))?;
        let dhcp = new.dhcp.check().map_err(|error| told(&error))?;
        let dhcp6 = new.dhcp6.check().map_err(|error| told(&error))?;
        let mut calls = call_rules(&new).map_err(|faults| listed(&faults))?;
        let voicemail = new.voicemail.check().map_err(|error| told(&error))?;
        calls.voicemail = calls.voicemail.filter(|_| self.voicemail.is_some());
        let source = certificate_source(&new, tls_folder(&old));
        let identity = self.certificates.as_ref().map(|_| source.load()).transpose().map_err(|error| told(&error))?;
        let rollout = new.rollout.clone();
        // The phones of a rollout have its templates, and all others the old ones, until it is over.
        let held = self.rollouts.is_under_way();
        match held {
            true => drop(self.templates.on_disk().map_err(|faults| told(&faults))?),
            false => self.templates.reload().map_err(|faults| told(&faults))?,
        }
        self.rollouts.reloaded(rollout).await;
        self.depot.read_again().map_err(|faults| told(&faults))?;

        self.directory.0.store(Arc::new(people));
        self.phone_book.read_again();
        self.ivr.replace_flow(&new.ivr, loaded);
        self.calls.reload(calls).await;
        if let (Some(running), Some(config)) = (&self.voicemail, voicemail) {
            running.reload(config);
        }
        if let Some(running) = &self.dhcp {
            running.reload(dhcp).await;
        }
        if let Some(running) = &self.dhcp6 {
            running.reload(dhcp6).await;
        }
        if let (Some(certificates), Some(identity)) = (&self.certificates, identity) {
            certificates.replace(source, identity);
            self.files.reachable_at(Endpoints { authority: certificates.tls().authority(), ..self.files.endpoints() });
        }
        let rest = left_for_restart(&self.started.0, &new);
        self.settings.store(Arc::new(new));
        self.written.store(Arc::new(written));
        let done = if held {
            "flows, prompts, users, DHCP's subnets, call rules, routes, certificates; not the templates, while a rollout is under way"
        } else {
            "templates, flows, prompts, users, DHCP's subnets, call rules, routes, certificates"
        };
        Ok(if rest.is_empty() { done.to_owned() } else { format!("{done}; after a restart also: {}", rest.join(", ")) })
    }
}

/// The section `calls` and the file of routes that it names.
fn call_rules(settings: &Settings) -> Result<call::Config, Vec<Fault>> {
    let config = settings.calls.check().map_err(|error| vec![Fault::in_file("calls", error.to_string())])?;
    let plan = routing::loader::load(settings.calls.routes.as_deref(), settings.calls.base())?;
    let features = settings.features.check().map_err(|error| vec![Fault::in_file("features", error.to_string())])?;
    if let Some(hours) = features.night.values().find(|hours| !plan.hours().any(|known| known == hours.as_str())) {
        let known = plan.hours().collect::<Vec<_>>().join(", ");
        let fault = format!("`features.night` names the hours '{hours}', which the routes do not have (they have: {known})");
        return Err(vec![Fault::in_file("features", fault)]);
    }
    let voicemail = settings.voicemail.check().map_err(|error| vec![Fault::in_file("voicemail", error.to_string())])?;
    Ok(call::Config { plan: Arc::new(plan), features: Arc::new(features), voicemail: voicemail.map(|voicemail| voicemail.rules), ..config })
}

fn listed(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Lets onboarding see what concerns it on its way to the journal.
fn noticing(told: Events, onboarding: Onboarding) -> Events {
    Events::new(move |event| {
        match &event {
            Event::DhcpDiscover { mac, family, .. } => {
                onboarding.seen(Sighting { family: family.clone(), phone: family.is_some(), ..Sighting::of(*mac) });
            }
            Event::DhcpInform { mac, family: Some(family), .. } => {
                onboarding.seen(Sighting { family: Some(family.clone()), phone: true, ..Sighting::of(*mac) });
            }
            Event::LeaseGranted { mac, address, family, port, .. } => {
                let (address, family, port) = (Some(*address), family.clone(), port.clone());
                onboarding.seen(Sighting { phone: family.is_some(), family, address, port, ..Sighting::of(*mac) });
            }
            Event::PnpAsked { mac, address, family, model, .. } => {
                let (family, address) = (Some(family.clone()), Some(IpAddr::V4(*address)));
                onboarding.seen(Sighting { phone: true, family, model: model.clone(), address, ..Sighting::of(*mac) });
            }
            Event::CallStarted { mac: Some(mac), call, .. } => onboarding.call_began(*mac, *call, CallKind::Other),
            Event::CallEnded { mac: Some(mac), call, .. } => onboarding.call_ended(*mac, *call),
            Event::RegisterRefused { user, source, .. } => {
                if let Some(mac) = MacAddr::find_in(user) {
                    onboarding.refused(mac, *source);
                }
            }
            _ => {}
        }
        told.tell(event);
    })
}

/// One for the process, however many nodes a test starts.
fn recorder() -> PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER
        .get_or_init(|| match PrometheusBuilder::new().install_recorder() {
            Ok(handle) => handle,
            // Somebody else records: ours shows nothing.
            Err(_) => PrometheusBuilder::new().build_recorder().handle(),
        })
        .clone()
}

/// Histograms grow until somebody looks.
async fn upkeep(metrics: PrometheusHandle, leases: dhcp::LeaseView) {
    loop {
        tokio::time::sleep(Duration::from_secs(10)).await;
        leases.report(Timestamp::of(SystemTime::now()));
        metrics.run_upkeep();
    }
}

/// A file that only its owner can read.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let _ = std::fs::remove_file(path);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = file.as_mut().map_err(|error| anyhow::anyhow!("cannot write {}: {error}", path.display()))?;
    Ok(writeln!(file, "{text}")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::serve::Told;

    const OFFICE: &str = "extensions: { range: 2041-2099 }\n\
        dhcp: { listen: '127.0.0.1:0', loopback: true, conflict_check: false, subnets: [{ cidr: 127.64.0.0/16, range: 127.64.8.10-127.64.8.250 }] }\n\
        tftp: { listen: ['127.0.0.1:0'] }\nftp: { listen: ['127.0.0.1:0'] }\nhttp: { listen: ['127.0.0.1:0'] }\n\
        sip: { udp: ['127.0.0.1:0'], tcp: ['127.0.0.1:0'] }\nmedia: { first_port: 0 }\napi: { listen: '127.0.0.1:0' }\n\
        store: { path: plugtone.db }\ndirectory: { file: { path: users.yaml } }\n";

    #[tokio::test(flavor = "multi_thread")]
    async fn a_part_that_is_lost_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("plugtone.yaml");
        std::fs::write(&path, OFFICE).expect("written");
        std::fs::write(folder.path().join("users.yaml"), include_str!("../config/demo/users.yaml")).expect("written");
        let settings = read_settings(&path).expect("good");
        let node = Node::start(settings, Origin::File(path)).await.expect("it starts");
        assert!(node.parts().iter().all(|(_, runs)| *runs), "{:?}", node.parts());
        let lost = tokio::time::timeout(2 * LOOK_AT_PARTS, node.lost_part()).await;
        assert_eq!(lost.ok(), None);
        // As a fault of ours would end them.
        node.calls().stop().await;
        assert_eq!(node.lost_part().await, "SIP");
        node.media.shutdown();
        let lost: Vec<_> = node.parts().into_iter().filter(|(_, runs)| !runs).map(|(part, _)| part).collect();
        assert_eq!(lost, ["SIP", "sound"]);
        // What is left stops, and why is said.
        let told = Told::listen().expect("signals").until_stopped(node).await.expect_err("a part is lost").to_string();
        assert!(told.starts_with("SIP has ended by a fault"), "{told}");
    }
}
