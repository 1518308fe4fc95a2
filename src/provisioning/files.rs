//! The pipeline at work: [`Files`] is the one [`FileService`] behind TFTP, FTP and HTTP.
//!
//! Reads the clock, asks leases and devices (`neighbours.rs`), renders (`making.rs`), stores uploads, and tells one event per request.
//! Decisions are in `pipeline.rs`. Soft phones come by a link (`welcome.rs`). A file that could not be rendered is not missing: the phone shall ask again.

mod making;
mod neighbours;
mod welcome;

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::runtime::Handle;

pub use self::neighbours::{Devices, Guests, Leases, Neighbours, Seen};
use super::{
    Body, FileAnswer, FileRequest, FileService, ServedFile, Transfer,
    access::{Claims, FirstBoot, Proof, Refusal, UrlKey, Window},
    identify::{Asked, BadPath, Peer, locate, plain},
    links,
    pipeline::{Asking, Verdict, decide},
    preview::{self, Preview, Side},
    settings::Settings,
    variables::{Endpoints, Keys, Known, Own, common, own},
    watch::Watch,
};
use crate::{
    model::{DeviceRecord, Event, FamilyName, Generation, LineNumber, MacAddr, Secret, Timestamp, event::Door},
    store,
    template::{AUTHORITY_FILE, AUTHORITY_FILE_DER, MASK, Subject, TemplateSet, UploadRule},
    tls,
};

/// Transfers that are under way at most; older ones are forgotten, and their phones fetch again.
const UNDER_WAY_MAX: usize = 8192;
/// First boots at most: whoever makes up phones and addresses fills no disk.
const FIRST_BOOTS_MAX: usize = 100_000;

/// What a phone runs, and what it shall run by a set of templates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub mac: MacAddr,
    pub family: Option<FamilyName>,
    pub model: Option<String>,
    pub runs: Option<String>,
    pub pinned: Option<String>,
    /// The version that it is told, as it runs another.
    pub due: Option<String>,
    /// Where it is, and the groups that it is in, by overrides.yaml and the phones' table.
    pub site: Option<String>,
    pub groups: Vec<String>,
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Files(Arc<Inner>);

struct Inner {
    neighbours: Neighbours,
    settings: Settings,
    endpoints: ArcSwap<Endpoints>,
    started: Timestamp,
    claims: Mutex<Claims>,
    /// Whom an admin lets in, and until when. A restart ends it.
    admitted: Mutex<HashMap<MacAddr, Timestamp>>,
    /// Of all phones that ever had one; the disk has them, too.
    first_boots: Mutex<HashMap<MacAddr, FirstBoot>>,
    watch: Mutex<Watch>,
    /// Whose links are being used now: none is used twice.
    welcoming: Mutex<HashSet<MacAddr>>,
    /// Account files on their way by a door that tells the end of it.
    under_way: Mutex<HashMap<(IpAddr, String), Account>>,
    /// Where files are made.
    shared: Handle,
}

/// Whose account is on its way.
struct Account {
    mac: MacAddr,
    generation: Generation,
    /// By templates that go to some phones first.
    first: bool,
}

impl Files {
    /// Call within a tokio runtime, which is to make the files, wherever they are asked for.
    pub fn new(settings: Settings, endpoints: Endpoints, neighbours: Neighbours) -> Self {
        let claims = Mutex::new(Claims::new(i64::from(settings.open.claim_minutes) * 60));
        let endpoints = ArcSwap::from_pointee(endpoints);
        Self(Arc::new(Inner {
            neighbours,
            settings,
            endpoints,
            started: now(),
            claims,
            admitted: Mutex::default(),
            first_boots: Mutex::default(),
            watch: Mutex::default(),
            welcoming: Default::default(),
            under_way: Mutex::default(),
            shared: Handle::current(),
        }))
    }

    /// Reads what must outlive a restart. To be called before anything is served.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn restore(&self) -> store::Result<()> {
        if self.0.settings.open.first_boot_minutes > 0 {
            let stored = self.0.neighbours.store.first_boots().await?;
            let first_boots = stored.into_iter().map(|(mac, at, address)| (mac, FirstBoot { at, address })).collect();
            *self.0.first_boots.lock().unwrap_or_else(PoisonError::into_inner) = first_boots;
        }
        Ok(())
    }

    /// Where phones reach the services, once the sockets are open.
    pub fn reachable_at(&self, endpoints: Endpoints) {
        self.0.endpoints.store(Arc::new(endpoints));
    }

    /// The URL that proves a phone wherever it is: to be typed in, or put into another DHCP server's option 66.
    pub fn token_url(&self, mac: MacAddr) -> String {
        let inner = &self.0;
        let key = inner.neighbours.keys.url_token(mac, inner.neighbours.devices.generation(mac));
        super::variables::server(&inner.settings, &inner.endpoints.load(), None, Some((mac, &key))).url
    }

    /// The first address that asks for this phone's files has them, for so long: for a phone without a lease of ours whose key is
    /// dead, or that has none.
    pub fn admit(&self, mac: MacAddr, minutes: u32) -> Timestamp {
        let (now, inner) = (now(), &self.0);
        let until = now.plus_secs(i64::from(minutes) * 60);
        let mut admitted = inner.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        admitted.retain(|_, until| *until > now);
        admitted.insert(mac, until);
        drop(admitted);
        inner.claims.lock().unwrap_or_else(PoisonError::into_inner).forget(mac);
        inner.tell(Event::Admitted { mac, minutes });
        until
    }

    /// What this phone would get now, every file of its family: for `plugtone render` and the console. It proves nothing and
    /// tells nobody.
    pub async fn preview(
        &self,
        mac: MacAddr,
        family: Option<&str>,
        model: Option<&str>,
    ) -> Vec<Result<crate::template::Rendered, crate::yaml::Fault>> {
        let inner = &self.0;
        let (set, _) = inner.neighbours.templates.of(mac);
        let known = inner.known(mac).await;
        let family = family.or(known.profile.family.as_deref()).or(set.recognise_mac(mac)).unwrap_or("generic").to_owned();
        let model = model.map(str::to_owned).or(known.profile.model.clone());
        let (firmware, source) = (known.profile.firmware.clone(), inner.endpoints.load().address);
        let subject = inner.own_subject(&set, Own { mac, known: &known, family: &family, model, firmware, source, local: None });
        set.files(&family, &subject).iter().map(|file| set.render(file, &subject)).collect()
    }

    /// Where phones reach the services.
    pub fn endpoints(&self) -> Endpoints {
        Endpoints::clone(&self.0.endpoints.load())
    }

    /// What these phones run, and what they shall run by this set; by their addresses.
    pub async fn firmware_of(&self, set: &TemplateSet, devices: &[DeviceRecord]) -> Vec<Standing> {
        let inner = &self.0;
        let mut standings = Vec::new();
        for device in devices {
            let mut known = inner.known(device.mac).await;
            known.lines.iter_mut().for_each(|line| line.secret = Hidden.secret());
            let source = device.address.map_or(inner.endpoints.load().address, IpAddr::V4);
            let (mac, model, runs) = (device.mac, known.profile.model.clone(), known.profile.firmware.clone());
            let family = set.forced(mac).map(|forced| forced.family).or_else(|| known.profile.family.clone());
            let of = family.as_deref().unwrap_or("generic");
            let phone = Own { mac, known: &known, family: of, model: model.clone(), firmware: runs.clone(), source, local: None };
            let subject = own(set, &inner.settings, &inner.endpoints.load(), &Hidden, phone);
            let pinned = family.as_ref().and_then(|family| set.pin(family, &subject)).map(|pin| pin.version.clone());
            let site = device.address.and_then(|address| set.site(Some(address.into()))).map(str::to_owned);
            let groups = set.groups_of(&subject);
            let due = subject.firmware.map(|due| due.version);
            standings.push(Standing { mac, family, model, runs, pinned, due, site, groups });
        }
        standings.sort_by_key(|standing| standing.mac);
        standings
    }

    /// What each of these phones would get by `new`, beside what it gets now: whose files change how. No secrets are in it.
    pub async fn compare(&self, new: Arc<TemplateSet>, devices: Vec<DeviceRecord>) -> Vec<preview::Group> {
        self.compare_with(new, self.0.settings.clone(), self.endpoints(), devices).await
    }

    /// The same, where the server is another too.
    pub async fn compare_with(
        &self,
        new: Arc<TemplateSet>,
        settings: Settings,
        reached: Endpoints,
        devices: Vec<DeviceRecord>,
    ) -> Vec<preview::Group> {
        let inner = self.0.clone();
        let mut phones = Vec::new();
        for device in devices {
            let mut known = inner.known(device.mac).await;
            known.lines.iter_mut().for_each(|line| line.secret = Hidden.secret());
            phones.push((device, known));
        }
        let compared = tokio::task::spawn_blocking(move || {
            let old = inner.neighbours.templates.current();
            let endpoints = inner.endpoints.load();
            let mut preview = Preview::default();
            for (device, known) in &phones {
                let mac = device.mac;
                let side = |set: &TemplateSet, settings: &Settings, endpoints: &Endpoints| {
                    let source = device.address.map_or(endpoints.address, IpAddr::V4);
                    let forced = set.forced(mac).map(|forced| forced.family);
                    let family = forced.or(known.profile.family.clone()).or_else(|| set.recognise_mac(mac).map(str::to_owned));
                    let family = family.unwrap_or_else(|| "generic".to_owned());
                    let (model, firmware) = (known.profile.model.clone(), known.profile.firmware.clone());
                    let phone = Own { mac, known, family: &family, model, firmware, source, local: None };
                    let subject = own(set, settings, endpoints, &Hidden, phone);
                    (family, subject)
                };
                let (old_family, old_subject) = side(&old, &inner.settings, &endpoints);
                let (new_family, new_subject) = side(&new, &settings, &reached);
                preview.compare(
                    mac,
                    &Side { set: &old, family: &old_family, subject: &old_subject },
                    &Side { set: &new, family: &new_family, subject: &new_subject },
                );
            }
            preview.finish()
        });
        compared.await.unwrap_or_default()
    }
}

fn missing(request: &FileRequest, mac: Option<MacAddr>, path: &str) -> Event {
    // Whoever asks may say anything: as much of it as any phone says.
    let user_agent = request.user_agent.as_deref().map(|said| said.chars().filter(|c| !c.is_control()).take(200).collect());
    Event::FileMissing { mac, door: request.door, path: path.to_owned(), source: plain(request.source), user_agent }
}

/// In the place of every secret, where people look at files.
struct Hidden;

impl Hidden {
    fn secret(&self) -> Secret {
        Secret::new(MASK)
    }
}

impl Keys for Hidden {
    fn seal(&self, _: &[u8]) -> Secret {
        self.secret()
    }

    fn url_token(&self, _: MacAddr, _: Generation) -> Secret {
        self.secret()
    }

    fn admin_password(&self, _: &str) -> Secret {
        self.secret()
    }

    fn file_key(&self, _: MacAddr) -> Secret {
        self.secret()
    }

    fn sip_secret(&self, _: MacAddr, _: LineNumber, _: Generation) -> Secret {
        self.secret()
    }
}

impl Inner {
    fn decide(&self, set: &TemplateSet, request: &FileRequest, asked: &Result<Asked, BadPath>, now: Timestamp) -> Verdict {
        let source = plain(request.source);
        let holding = self.neighbours.leases.holder(source, now);
        decide(
            set,
            &Asking {
                path: &request.path,
                asked,
                source,
                user_agent: request.user_agent.as_deref(),
                certified: request.certified.as_ref(),
                holding: holding.as_ref(),
                leased: &|mac| self.neighbours.leases.is_leased(mac, now),
                key: &|mac, key| self.neighbours.devices.url_key(mac, key, source),
                window: &|source, mac| self.window(now, source, mac),
            },
        )
    }

    /// By the templates of the phone that asks. `true`: they go to some phones first.
    fn verdict(&self, request: &FileRequest, asked: &Result<Asked, BadPath>) -> (Arc<TemplateSet>, bool, Verdict) {
        let templates = &self.neighbours.templates;
        let set = templates.current();
        let verdict = self.decide(&set, request, asked, now());
        let mac = match &verdict {
            Verdict::Own { mac, .. } => Some(*mac),
            Verdict::Common { peer, .. } => peer.mac,
            Verdict::Missing { mac, .. } | Verdict::Refused { mac, .. } => *mac,
        };
        match mac.map(|mac| templates.of(mac)) {
            Some((own, true)) => {
                let verdict = self.decide(&own, request, asked, now());
                (own, true, verdict)
            }
            _ => (set, false, verdict),
        }
    }

    fn window(&self, now: Timestamp, source: IpAddr, mac: MacAddr) -> Window {
        let claimed = || self.claims.lock().unwrap_or_else(PoisonError::into_inner).window(now, source, mac);
        let admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner).get(&mac).is_some_and(|until| now < *until);
        if admitted {
            return if claimed() == Window::Open { Window::Admitted } else { Window::Taken };
        }
        let open = &self.settings.open;
        let ended = open.minutes > 0 && self.started.plus_secs(i64::from(open.minutes) * 60) < now;
        if ended || !open.subnets.iter().any(|subnet| subnet.contains(&source)) {
            return Window::Closed;
        }
        match self.first_boot(now, source, mac) {
            Window::Open => claimed(),
            other => other,
        }
    }

    /// What is left of the open window where only first boots open it.
    fn first_boot(&self, now: Timestamp, source: IpAddr, mac: MacAddr) -> Window {
        match self.settings.open.first_boot_minutes {
            0 => Window::Open,
            _ if self.neighbours.devices.generation(mac) > 0 => Window::Closed,
            minutes => {
                let before = self.first_boots.lock().unwrap_or_else(PoisonError::into_inner).get(&mac).copied();
                FirstBoot::window(now, minutes, before, source)
            }
        }
    }

    /// The phone has its files for its first boot: it is on disk, or it is refused.
    async fn boots_first(&self, now: Timestamp, source: IpAddr, mac: MacAddr) -> Result<(), Refusal> {
        let minutes = self.settings.open.first_boot_minutes;
        if minutes == 0 {
            return Ok(());
        }
        // One that was here before this boot, by DHCP, by a lease of ours or by a key, knows the way.
        let began = now.plus_secs(-60 * i64::from(minutes));
        let is_old = self.neighbours.devices.first_seen(mac).await.is_some_and(|seen| seen < began);
        let opened = {
            let mut first_boots = self.first_boots.lock().unwrap_or_else(PoisonError::into_inner);
            match first_boots.get(&mac) {
                Some(before) if before.address == source => return Ok(()),
                Some(_) => return Err(Refusal::Claimed),
                None if is_old || first_boots.len() >= FIRST_BOOTS_MAX => return Err(Refusal::NoLease),
                None => first_boots.insert(mac, FirstBoot { at: now, address: source }).is_none(),
            }
        };
        if let Err(error) = self.neighbours.store.save_first_boot(mac, now, source).await {
            tracing::warn!(%mac, %error, "the first boot is not on disk: the phone has to ask again");
            self.first_boots.lock().unwrap_or_else(PoisonError::into_inner).remove(&mac);
            return Err(Refusal::NoLease);
        }
        if opened {
            self.tell(Event::FirstBoot { mac, source, minutes });
        }
        Ok(())
    }

    /// Who a phone is now, and the phone book as it is now.
    async fn known(&self, mac: MacAddr) -> Known {
        Known { contacts: self.neighbours.phone_book.contacts(), ..self.neighbours.devices.known(mac).await }
    }

    fn own_subject(&self, set: &TemplateSet, phone: Own<'_>) -> Subject {
        own(set, &self.settings, &self.endpoints.load(), &*self.neighbours.keys, phone)
    }

    fn tell(&self, event: Event) {
        self.neighbours.events.tell(event);
    }

    /// A proven phone's file: rendered, or what it uploaded.
    async fn own(
        self: &Arc<Self>,
        (set, first): (&Arc<TemplateSet>, bool),
        request: &FileRequest,
        mac: MacAddr,
        path: &str,
        peer: &Peer,
        proof: Proof,
    ) -> FileAnswer {
        let source = plain(request.source);
        let elsewhere = match proof {
            Proof::OpenWindow | Proof::Admission => {
                if proof == Proof::OpenWindow
                    && let Err(reason) = self.boots_first(now(), source, mac).await
                {
                    self.refused(request, Some(mac), path, reason.to_string());
                    return FileAnswer::NotFound;
                }
                self.claims.lock().unwrap_or_else(PoisonError::into_inner).claim(now(), source, mac);
                false
            }
            Proof::Token => self.neighbours.devices.came(mac, source, UrlKey::Present),
            Proof::OlderToken => self.neighbours.devices.came(mac, source, UrlKey::Older),
            Proof::Lease | Proof::Certificate => false,
        };
        let known = self.known(mac).await;
        // It moved while its owner changed, or somebody has its key.
        if elsewhere && known.has_owner() {
            let odd = self.watch.lock().unwrap_or_else(PoisonError::into_inner).refused(now(), source, mac, true);
            odd.into_iter().for_each(|event| self.tell(event));
        }
        // An owner's phone: one that is nobody's may be anything yet.
        if let (Some(was), Some(says), true) = (&known.profile.family, &peer.family, known.has_owner())
            && was != says
            && was != "generic"
        {
            let odd = self.watch.lock().unwrap_or_else(PoisonError::into_inner).other_make(now(), source, mac);
            odd.into_iter().for_each(|event| self.tell(event));
        }
        let file = locate(set, path, known.profile.family.as_deref(), peer);
        self.neighbours.devices.seen(Seen {
            mac,
            family: peer.family.clone().or_else(|| file.as_ref().map(|file| file.family.clone()).filter(|family| family != "generic")),
            model: peer.model.clone(),
            firmware: peer.firmware.clone(),
            address: source,
        });
        // What the phone wrote itself comes before what we would write: it has somebody's own contacts.
        if let Some(answer) = self.uploaded(set, request, mac, path, peer, &known).await {
            return answer;
        }
        let Some(file) = file else { return self.missing(request, Some(mac), path) };
        let model = peer.model.clone().or_else(|| known.profile.model.clone());
        let firmware = peer.firmware.clone().or_else(|| known.profile.firmware.clone());
        let phone = Own { mac, known: &known, family: &file.family, model, firmware: firmware.clone(), source, local: request.local };
        let mut subject = self.own_subject(set, phone);
        if let Some(keys) = &file.search {
            subject.contacts = subject.contacts.map(|contacts| contacts.found(keys, &request.query));
        }
        // In clear, where others may listen, only what it takes to fetch the account encrypted.
        subject.key_only = subject.file_key.is_some() && file.encrypts && !file.encrypted && request.door != Door::Https;
        let shown = || {
            let mut known = known.clone();
            known.lines.iter_mut().for_each(|line| line.secret = Hidden.secret());
            let (model, firmware) = (subject.model.clone(), firmware.clone());
            let phone = Own { mac, known: &known, family: &file.family, model, firmware, source, local: request.local };
            own(set, &self.settings, &self.endpoints.load(), &Hidden, phone)
        };
        let answer = self.render(set, request, Some(mac), path, &file, &subject, Some((mac, &shown))).await;
        if file.account && !subject.key_only && matches!(answer, FileAnswer::Found(_)) {
            self.taken(request, Account { mac, generation: known.generation, first });
        }
        answer
    }

    /// The certificate of the authority that phones must believe, for whoever asks.
    fn authority(&self, request: &FileRequest, path: &str) -> Option<FileAnswer> {
        let endpoints = self.endpoints.load();
        let pem = endpoints.authority.as_deref()?;
        let (bytes, content_type) = match &*path.to_ascii_lowercase() {
            AUTHORITY_FILE => (pem.as_bytes().to_vec(), "application/x-pem-file"),
            AUTHORITY_FILE_DER => (tls::identity::der(pem)?, "application/x-x509-ca-cert"),
            _ => return None,
        };
        let hash = blake3::hash(&bytes);
        let mac = self.neighbours.leases.holder(plain(request.source), now()).map(|holding| holding.mac);
        Some(self.found(request, mac, path, bytes.into(), hash, content_type.to_owned(), None))
    }

    /// What the phone wrote and may read back. Of this generation only: what the last owner changed on the phone would
    /// override what the new one's file says.
    async fn uploaded(
        &self,
        set: &TemplateSet,
        request: &FileRequest,
        mac: MacAddr,
        path: &str,
        peer: &Peer,
        known: &Known,
    ) -> Option<FileAnswer> {
        let readable = upload_rule(set, path, peer, known).filter(|rule| rule.serve_back && rule.mac == mac);
        readable?;
        let stored = self.neighbours.store.upload(mac, &upload_name(known.generation, path)).await.unwrap_or_else(|error| {
            tracing::warn!(%mac, path, %error, "cannot read what the phone uploaded");
            None
        });
        let content_type = if path.ends_with(".xml") || path.ends_with(".cfg") { "text/xml" } else { "text/plain" };
        let stored = Bytes::from(stored?);
        let hash = blake3::hash(&stored);
        Some(self.found(request, Some(mac), path, stored, hash, content_type.to_owned(), None))
    }

    /// A maker's firmware, for whoever knows its name: there is nothing of anybody's in it. `None`: it is no such name.
    async fn firmware(&self, request: &FileRequest, path: &str) -> Option<FileAnswer> {
        let image = self.neighbours.firmware.known().find(path)?.path();
        let source = plain(request.source);
        let mac = self.neighbours.leases.holder(source, now()).map(|holding| holding.mac);
        let Some(stored) = self.neighbours.firmware.open_file(&image).await else { return Some(self.missing(request, mac, path)) };
        let (hash, len) = (stored.image.sha256.clone(), stored.len());
        let unchanged = request.holds(&hash);
        metrics::counter!("plugtone_provisioning_files_total", "outcome" => if unchanged { "unchanged" } else { "served" }).increment(1);
        tracing::info!(mac = mac.map(tracing::field::display), path = image, %source, door = ?request.door, bytes = len, "firmware served");
        let bytes = usize::try_from(len).unwrap_or(usize::MAX);
        self.tell(Event::FileServed { mac, door: request.door, path: image, source, bytes, hash: hash.clone(), unchanged });
        let content_type = "application/octet-stream".to_owned();
        Some(FileAnswer::Found(ServedFile { body: Body::Stored(stored), content_type, hash, mac }))
    }

    fn missing(&self, request: &FileRequest, mac: Option<MacAddr>, path: &str) -> FileAnswer {
        metrics::counter!("plugtone_provisioning_files_total", "outcome" => "missing").increment(1);
        let source = plain(request.source);
        tracing::debug!(mac = mac.map(tracing::field::display), path, %source, door = ?request.door, "no such file");
        self.tell(missing(request, mac, path));
        let odd = self.watch.lock().unwrap_or_else(PoisonError::into_inner).missing(now(), source);
        odd.into_iter().for_each(|event| self.tell(event));
        FileAnswer::NotFound
    }

    fn refused(&self, request: &FileRequest, mac: Option<MacAddr>, path: &str, reason: String) {
        metrics::counter!("plugtone_provisioning_files_total", "outcome" => "refused").increment(1);
        let source = plain(request.source);
        tracing::debug!(mac = mac.map(tracing::field::display), path, %source, door = ?request.door, reason, "file refused");
        self.tell(Event::FileRefused { mac, door: request.door, path: path.to_owned(), source, reason });
    }

    /// The account is on its way. Doors that know when the last byte was taken say so by [`FileService::ended`].
    fn taken(&self, request: &FileRequest, account: Account) {
        if request.head {
            return;
        }
        if matches!(request.door, Door::Http | Door::Https) {
            return self.neighbours.devices.fetched(account.mac, account.generation, account.first);
        }
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if under_way.len() >= UNDER_WAY_MAX {
            under_way.clear();
        }
        under_way.insert((request.source, request.path.clone()), account);
    }

    /// Whose upload it would be, by proof and name.
    async fn upload(&self, request: &FileRequest) -> Result<(MacAddr, String, UploadRule, Known), Refused> {
        let (set, _, verdict) = self.verdict(request, &Asked::parse(&request.path));
        let (mac, path, peer) = match verdict {
            Verdict::Own { mac, path, peer, .. } if self.settings.uploads => (mac, path, peer),
            Verdict::Refused { mac, path, reason } => return Err(Refused { mac, path, reason: reason.to_string() }),
            Verdict::Own { mac, path, .. } => return Err(Refused { mac: Some(mac), path, reason: "uploads are switched off".into() }),
            Verdict::Common { path, peer, .. } => return Err(Refused { mac: peer.mac, path, reason: "it is not the phone's own".into() }),
            Verdict::Missing { mac, path } => return Err(Refused { mac, path, reason: "no make uploads that name".into() }),
        };
        let known = self.known(mac).await;
        match upload_rule(&set, &path, &peer, &known).filter(|rule| rule.mac == mac) {
            Some(rule) => Ok((mac, path, rule, known)),
            None => Err(Refused { mac: Some(mac), path, reason: "its make does not upload that name".into() }),
        }
    }
}

struct Refused {
    mac: Option<MacAddr>,
    path: String,
    reason: String,
}

#[async_trait]
impl FileService for Files {
    async fn fetch(&self, request: FileRequest) -> FileAnswer {
        let inner = &self.0;
        if let Some(sealed) = links::sealed(&request.path) {
            let set = inner.neighbours.templates.current();
            return inner.welcomed(&set, &request, sealed).await;
        }
        let asked = Asked::parse(&request.path);
        if let Ok(Asked { path, .. }) = &asked {
            if let Some(answer) = inner.authority(&request, path) {
                return answer;
            }
            if let Some(answer) = inner.firmware(&request, path).await {
                return answer;
            }
        }
        let (set, first, verdict) = inner.verdict(&request, &asked);
        match verdict {
            Verdict::Own { mac, path, peer, proof } => inner.own((&set, first), &request, mac, &path, &peer, proof).await,
            Verdict::Common { file, path, peer } => {
                let model = peer.model.clone().or_else(|| file.model.clone());
                let local = request.local.map(|local: SocketAddr| local.ip());
                let subject = common(&inner.settings, &inner.endpoints.load(), model, Some(plain(request.source)), local);
                // Whose address it is; a name that only its key names is nobody's yet.
                let holder = inner.neighbours.leases.holder(plain(request.source), now()).map(|holding| holding.mac);
                let same = || subject.clone();
                let whose = holder.map(|mac| (mac, &same as &(dyn Fn() -> Subject + Sync)));
                inner.render(&set, &request, peer.mac, &path, &file, &subject, whose).await
            }
            Verdict::Missing { mac, path } => inner.missing(&request, mac, &path),
            Verdict::Refused { mac, path, reason } => {
                inner.refused(&request, mac, &path, reason.to_string());
                if let Some(mac) = mac {
                    let owned = inner.neighbours.devices.known(mac).await.has_owner();
                    let source = plain(request.source);
                    let second = inner.first_boot(now(), source, mac) == Window::Taken;
                    let mut watch = inner.watch.lock().unwrap_or_else(PoisonError::into_inner);
                    let mut odd = watch.refused(now(), source, mac, owned);
                    odd.extend(second.then(|| watch.second_first_boot(now(), source, mac)).flatten());
                    drop(watch);
                    odd.into_iter().for_each(|event| inner.tell(event));
                }
                FileAnswer::NotFound
            }
        }
    }

    async fn upload_limit(&self, request: &FileRequest) -> Option<usize> {
        match self.0.upload(request).await {
            Ok((_, _, rule, _)) => Some(rule.max_bytes),
            Err(refused) => {
                self.0.refused(request, refused.mac, &refused.path, refused.reason);
                None
            }
        }
    }

    async fn store(&self, request: FileRequest, body: Bytes) -> bool {
        let inner = &self.0;
        let source = plain(request.source);
        let (mac, path, rule, known) = match inner.upload(&request).await {
            Ok(upload) => upload,
            Err(refused) => {
                inner.refused(&request, refused.mac, &refused.path, refused.reason);
                return false;
            }
        };
        if body.len() > rule.max_bytes {
            inner.refused(&request, Some(mac), &path, format!("{} bytes, {} are allowed", body.len(), rule.max_bytes));
            return false;
        }
        let bytes = body.len();
        if let Err(error) = inner.neighbours.store.save_upload(mac, &upload_name(known.generation, &path), body.to_vec(), now()).await {
            tracing::warn!(%mac, path, %error, "cannot keep what the phone uploads");
            inner.tell(Event::FileFailed { mac: Some(mac), door: request.door, path, source, reason: error.to_string() });
            return false;
        }
        tracing::info!(%mac, path, bytes, "file uploaded");
        inner.tell(Event::FileUploaded { mac: Some(mac), door: request.door, path, source, bytes });
        true
    }

    fn ended(&self, request: &FileRequest, mac: Option<MacAddr>, transfer: Transfer) {
        let key = (request.source, request.path.clone());
        let account = self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        let (door, path, source) = (request.door, super::identify::shown(&request.path), plain(request.source));
        self.0.tell(match transfer {
            Transfer::Delivered => {
                if let Some(Account { mac, generation, first }) = account {
                    self.0.neighbours.devices.fetched(mac, generation, first);
                }
                let image = self.0.neighbours.firmware.known().find(&path).map(|image| image.path());
                if let Some(path) = image {
                    metrics::counter!("plugtone_firmware_fetched_total").increment(1);
                    self.0.tell(Event::FirmwareFetched { mac, door, path, source });
                }
                Event::FileDelivered { mac, door, path, source }
            }
            Transfer::Failed { reason } => Event::FileFailed { mac, door, path, source, reason },
        });
    }
}

/// The rule for this name in the family that the phone is of.
fn upload_rule(set: &TemplateSet, path: &str, peer: &Peer, known: &Known) -> Option<UploadRule> {
    let families =
        peer.family.as_deref().into_iter().chain(known.profile.family.as_deref()).chain(peer.families.iter().map(String::as_str));
    families.into_iter().find_map(|family| set.upload_rule(family, path))
}

/// Uploads belong to a generation: the next owner's phone does not find what the last one left. Without folders: what a
/// phone puts into a sub-folder is the same file.
fn upload_name(generation: Generation, path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path).to_lowercase();
    format!("{generation}/{name}")
}

fn now() -> Timestamp {
    Timestamp::of(SystemTime::now())
}
