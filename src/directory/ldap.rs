//! Users in an LDAP directory: OpenLDAP, 389 Directory Server, Active Directory. ldap3 stays behind this file.
//!
//! A log-in is a search for the keyed number and then, by `check`, a bind as the one user found or a comparison with
//! an attribute. What ldap3 leaves to its user is done here: a pool of connections per server and their renewal, a time
//! limit around everything (a connection that met it is dropped, so a late answer meets nobody), a task of its own for
//! each operation because a broken answer panics in its caller, several servers with fail-over and back-off, and no
//! bind with an empty password (RFC 4513 §5.1.2: servers answer those with success).
//!
//! Every refusal is given at a multiple of [`REFUSAL_STEP`] after the question, and a user who does not exist costs a
//! bind like one who does. Not here: referrals are not followed; SASL.

use std::{
    collections::HashMap,
    fs,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry, SearchOptions, adapters::EntriesOnly, ldap_escape};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::{
    Contact, Denied, Directory, Error,
    pin::StoredPin,
    plausible_login,
    settings::{Attributes, Check, LdapConfig, LdapSettings, Tls, Verify},
};
use crate::model::{
    Extension, Keys, User,
    event::{Event, Events},
};

/// Refusals are given at multiples of this after the question, so that their time tells nothing.
const REFUSAL_STEP: Duration = Duration::from_millis(300);
/// Idle connections older than this are not used again: servers and firewalls drop them after ten minutes or so.
const IDLE_MOST: Duration = Duration::from_secs(240);
/// Pause before a server that failed is tried again in the background: doubles from the first to the second.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Entries that one question may bring back, whatever a server sends.
const ENTRIES_MOST: usize = 10_000;

/// A directory behind LDAP. Needs a running tokio runtime.
pub struct LdapDirectory {
    inner: Arc<Inner>,
}

struct Inner {
    config: LdapConfig,
    servers: Vec<Server>,
    connection: LdapConnSettings,
    turns: Semaphore,
    events: Events,
}

struct Server {
    url: String,
    /// Connections bound as the service account (or anonymous).
    searchers: Mutex<Vec<Link>>,
    /// Connections that users are bound on, one after the other: never searched with.
    binders: Mutex<Vec<Link>>,
    /// Failed last time; a background task looks after it.
    down: AtomicBool,
    failures: AtomicU32,
}

/// A connection. Dropping it closes it.
struct Link {
    ldap: Ldap,
    _driver: AbortOnDropHandle<()>,
    used: Instant,
}

#[derive(Clone, Copy)]
enum Use {
    Search,
    Bind,
}

/// Why an operation brought nothing.
#[derive(Debug)]
enum Fault {
    /// The connection or the server: another may do better.
    Server(String),
    /// What the server said about the question: asking another brings the same.
    Question(String),
}

/// One person found, as far as needed.
#[derive(Clone)]
struct Found {
    user: User,
    pin: Option<String>,
}

enum Match {
    Nobody,
    One(Box<Found>),
    Several,
}

impl LdapDirectory {
    /// Reads the CA file; connects to nothing yet.
    pub fn new(config: LdapConfig, events: Events) -> Result<Self, Error> {
        let connection = connection_settings(&config.settings)?;
        let server = |url: &String| Server {
            url: url.clone(),
            searchers: Mutex::default(),
            binders: Mutex::default(),
            down: AtomicBool::new(false),
            failures: AtomicU32::new(0),
        };
        let servers = config.settings.servers.iter().map(server).collect();
        let turns = Semaphore::new(config.settings.connections);
        Ok(Self { inner: Arc::new(Inner { config, servers, connection, turns, events }) })
    }

    /// Runs a question within the limit for all servers.
    async fn within<T>(&self, question: impl Future<Output = Result<T, Denied>>) -> Result<T, Denied> {
        let limit = self.inner.config.timeout;
        let asked = async {
            let _turn = self.inner.turns.acquire().await.map_err(|_| Denied::Unavailable("stopped".into()))?;
            question.await
        };
        match timeout(limit, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(Denied::Unavailable(format!("no answer within {limit:?}"))),
        }
    }
}

#[async_trait]
impl Directory for LdapDirectory {
    async fn authenticate(&self, login: &str, pin: &Keys) -> Result<User, Denied> {
        let start = Instant::now();
        let answer = self.within(self.inner.log_in(login, pin)).await;
        let outcome = match &answer {
            Ok(_) => "accepted",
            Err(Denied::Refused) => "refused",
            Err(Denied::Unavailable(_)) => "unavailable",
        };
        metrics::counter!("plugtone_directory_logins_total", "outcome" => outcome).increment(1);
        metrics::histogram!("plugtone_directory_login_seconds").record(start.elapsed().as_secs_f64());
        if let Err(Denied::Refused) = answer {
            let steps = start.elapsed().as_millis() / REFUSAL_STEP.as_millis() + 1;
            let at = start + REFUSAL_STEP * u32::try_from(steps).unwrap_or(1);
            tokio::time::sleep_until(at.into()).await;
        }
        answer
    }

    async fn find(&self, login: &str) -> Result<Option<User>, Denied> {
        if !plausible_login(login) {
            return Ok(None);
        }
        self.within(async {
            match self.inner.look_up(login).await? {
                Match::One(found) => Ok(Some(found.user)),
                Match::Nobody => Ok(None),
                Match::Several => {
                    Err(Denied::Unavailable(format!("several people have the number {login}: `directory.ldap.login` must be unique")))
                }
            }
        })
        .await
    }

    async fn contacts(&self, limit: usize) -> Result<Vec<Contact>, Denied> {
        self.within(async {
            let settings = &self.inner.config.settings;
            let entries = self.inner.search(settings.filter_for_contacts(), limit).await?;
            Ok(entries.into_iter().map(|entry| to_contact(settings, entry)).collect())
        })
        .await
    }

    async fn list(&self, limit: usize) -> Result<Vec<User>, Denied> {
        self.within(async {
            let entries = self.inner.search(self.inner.config.settings.filter_for_all(), limit).await?;
            let mut users: Vec<User> =
                entries.into_iter().filter_map(|entry| to_found(&self.inner.config.settings, entry, "")).map(|found| found.user).collect();
            users.sort_by(|a, b| a.login.cmp(&b.login));
            users.truncate(limit);
            Ok(users)
        })
        .await
    }
}

impl Inner {
    async fn log_in(self: &Arc<Self>, login: &str, pin: &Keys) -> Result<User, Denied> {
        if pin.is_empty() || !plausible_login(login) {
            return Err(Denied::Refused);
        }
        let found = match self.look_up(login).await? {
            Match::One(found) => Some(*found),
            Match::Nobody => None,
            Match::Several => {
                warn!("several people have the number that was keyed in: refused; `directory.ldap.login` must name unique attributes");
                None
            }
        };
        let right = match self.config.settings.check {
            Check::Bind => {
                let dn = found.as_ref().map_or_else(|| self.nobody(), |found| found.user.id.clone());
                self.bind_as(dn, pin.clone()).await?
            }
            Check::Compare => self.compare(found.as_ref(), pin).await?,
        };
        found.filter(|_| right).map(|found| found.user).ok_or(Denied::Refused)
    }

    /// A DN that nobody has, to spend the time of a bind on.
    fn nobody(&self) -> String {
        format!("cn=plugtone-nobody,{}", self.config.settings.base)
    }

    async fn compare(&self, found: Option<&Found>, pin: &Keys) -> Result<bool, Denied> {
        let stored = match found {
            None => StoredPin::Plain(Keys::default()),
            Some(found) => {
                let Some(text) = &found.pin else {
                    debug!(user = %found.user.id, "has no `directory.ldap.pin_attribute`, or the service account may not read it: refused");
                    return Ok(false);
                };
                match StoredPin::parse(text) {
                    Ok(stored) => stored,
                    Err(error) => {
                        warn!(user = %found.user.id, "the PIN in the directory cannot be checked, refused: {error}");
                        return Ok(false);
                    }
                }
            }
        };
        let keyed = pin.clone();
        let check = tokio::task::spawn_blocking(move || stored.verify(&keyed));
        check.await.map_err(|_| Denied::Unavailable("the check of a PIN failed".into()))
    }

    /// Who has this number?
    async fn look_up(self: &Arc<Self>, login: &str) -> Result<Match, Denied> {
        let mut entries = self.search(self.config.settings.filter_for(login), 2).await?;
        Ok(match (entries.pop(), entries.is_empty()) {
            (None, _) => Match::Nobody,
            (Some(entry), true) => to_found(&self.config.settings, entry, login).map_or(Match::Nobody, |found| Match::One(Box::new(found))),
            (Some(_), false) => Match::Several,
        })
    }

    /// At most `limit` entries, or one more when there are more and `limit` is small.
    async fn search(self: &Arc<Self>, filter: String, limit: usize) -> Result<Vec<SearchEntry>, Denied> {
        let settings = &self.config.settings;
        let (base, attributes) = (settings.base.clone(), settings.wanted_attributes());
        let seconds = i32::try_from(self.config.server_timeout.as_secs().max(1)).unwrap_or(i32::MAX);
        let limit = limit.min(ENTRIES_MOST);
        let options = SearchOptions::new().sizelimit(i32::try_from(limit).unwrap_or(0)).timelimit(seconds);
        let outcome = self.ask(Use::Search, move |mut ldap: Ldap| {
            let (base, filter, attributes, options) = (base.clone(), filter.clone(), attributes.clone(), options.clone());
            async move {
                ldap.with_search_options(options);
                let mut stream =
                    ldap.streaming_search_with(EntriesOnly::new(), &base, Scope::Subtree, &filter, attributes).await.map_err(broken)?;
                let mut entries = Vec::new();
                while let Some(entry) = stream.next().await.map_err(broken)? {
                    entries.push(SearchEntry::construct(entry));
                    if entries.len() > limit {
                        return Err(Fault::Server("sends more entries than it was asked for".into()));
                    }
                }
                let result = stream.finish().await;
                match result.rc {
                    // 4: there are more than asked for (RFC 4511 §4.1.9), and these are the first of them.
                    0 | 4 => Ok(entries),
                    32 => Err(Fault::Question(format!("there is no '{base}': check `directory.ldap.base`"))),
                    _ => Err(refused("the search", &result)),
                }
            }
        });
        outcome.await
    }

    /// Is this the password of `dn`?
    async fn bind_as(self: &Arc<Self>, dn: String, pin: Keys) -> Result<bool, Denied> {
        let outcome = self.ask(Use::Bind, move |mut ldap: Ldap| {
            let (dn, pin) = (dn.clone(), pin.clone());
            async move {
                let result = ldap.simple_bind(&dn, pin.expose()).await.map_err(broken)?;
                match result.rc {
                    0 => Ok(true),
                    // Wrong password, no such entry, no password there, locked or not allowed: all of them mean no.
                    19 | 32 | 34 | 48 | 49 | 50 | 53 => Ok(false),
                    _ => Err(refused("to log a user in", &result)),
                }
            }
        });
        outcome.await
    }

    /// Asks the servers in turn, those that work first.
    async fn ask<T, O, F>(self: &Arc<Self>, usage: Use, operation: O) -> Result<T, Denied>
    where
        T: Send + 'static,
        O: Fn(Ldap) -> F + Send + Sync,
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let mut faults = Vec::new();
        let (down, up): (Vec<_>, Vec<_>) = self.servers.iter().partition(|server| server.down.load(Ordering::Relaxed));
        for server in up.into_iter().chain(down) {
            match self.ask_one(server, usage, &operation).await {
                Ok(value) => {
                    self.works(server);
                    return Ok(value);
                }
                Err(Fault::Question(text)) => {
                    self.works(server);
                    warn!(server = %server.url, "{text}");
                    return Err(Denied::Unavailable(text));
                }
                Err(Fault::Server(text)) => {
                    self.fails(server, &text);
                    faults.push(format!("{}: {text}", server.url));
                }
            }
        }
        Err(Denied::Unavailable(faults.join("; ")))
    }

    async fn ask_one<T, O, F>(&self, server: &Server, usage: Use, operation: &O) -> Result<T, Fault>
    where
        T: Send + 'static,
        O: Fn(Ldap) -> F,
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        // A kept connection may have died since: its failure says nothing about the server, so a new one is tried.
        if let Some(link) = server.take(usage) {
            match self.run(operation(link.ldap.clone())).await {
                Ok(value) => {
                    server.put(usage, link);
                    return Ok(value);
                }
                Err(fault @ Fault::Question(_)) => {
                    server.put(usage, link);
                    return Err(fault);
                }
                Err(Fault::Server(text)) => {
                    debug!(server = %server.url, "a kept connection failed, making a new one: {text}");
                    server.forget();
                }
            }
        }
        let link = self.connect(server, usage).await?;
        let answer = self.run(operation(link.ldap.clone())).await;
        if !matches!(answer, Err(Fault::Server(_))) {
            server.put(usage, link);
        }
        answer
    }

    /// One operation: in a task of its own, because ldap3 panics on answers that it cannot read, and not for ever.
    async fn run<T: Send + 'static>(&self, operation: impl Future<Output = Result<T, Fault>> + Send + 'static) -> Result<T, Fault> {
        let limit = self.config.server_timeout;
        let task = AbortOnDropHandle::new(tokio::spawn(operation));
        match timeout(limit, task).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Fault::Server("sent an answer that is not LDAP".into())),
            Err(_) => Err(Fault::Server(format!("did not answer within {limit:?}"))),
        }
    }

    async fn connect(&self, server: &Server, usage: Use) -> Result<Link, Fault> {
        let (settings, url) = (self.connection.clone(), server.url.clone());
        let account = match usage {
            Use::Search => self.config.settings.bind_password.clone().map(|password| (self.config.settings.bind_dn.clone(), password)),
            Use::Bind => None,
        };
        self.run(async move {
            let (connection, mut ldap) = LdapConnAsync::with_settings(settings, &url).await.map_err(broken)?;
            let driver = AbortOnDropHandle::new(tokio::spawn(async move {
                if let Err(error) = connection.drive().await {
                    debug!("an LDAP connection ended: {error}");
                }
            }));
            if let Some((dn, password)) = account {
                let result = ldap.simple_bind(&dn, password.expose()).await.map_err(broken)?;
                if result.rc != 0 {
                    return Err(refused("to log in `directory.ldap.bind_dn`", &result));
                }
            }
            Ok(Link { ldap, _driver: driver, used: Instant::now() })
        })
        .await
    }

    fn works(&self, server: &Server) {
        server.failures.store(0, Ordering::Relaxed);
        if server.down.swap(false, Ordering::Relaxed) {
            info!(server = %server.url, "the directory answers again");
            self.events.tell(Event::DirectoryAvailable { server: server.url.clone() });
        }
    }

    fn fails(self: &Arc<Self>, server: &Server, error: &str) {
        server.forget();
        metrics::counter!("plugtone_directory_failures_total", "server" => server.url.clone()).increment(1);
        server.failures.fetch_add(1, Ordering::Relaxed);
        if server.down.swap(true, Ordering::Relaxed) {
            return;
        }
        warn!(server = %server.url, "the directory cannot be used: {error}");
        self.events.tell(Event::DirectoryUnavailable { server: server.url.clone(), error: error.to_owned() });
        if let Some(place) = self.servers.iter().position(|other| std::ptr::eq(other, server)) {
            tokio::spawn(look_after(Arc::downgrade(self), place));
        }
    }
}

/// Tries a server that failed until it works, slower and slower, or until the directory is gone.
async fn look_after(inner: std::sync::Weak<Inner>, place: usize) {
    let mut pause = BACK_OFF.0;
    loop {
        tokio::time::sleep(pause).await;
        let Some(inner) = inner.upgrade() else { return };
        let Some(server) = inner.servers.get(place) else { return };
        if !server.down.load(Ordering::Relaxed) {
            return;
        }
        match inner.connect(server, Use::Search).await {
            Ok(link) => {
                server.put(Use::Search, link);
                inner.works(server);
                return;
            }
            Err(Fault::Server(error) | Fault::Question(error)) => debug!(server = %server.url, "still cannot be used: {error}"),
        }
        pause = (pause * 2).min(BACK_OFF.1);
    }
}

impl Server {
    fn idle(&self, usage: Use) -> std::sync::MutexGuard<'_, Vec<Link>> {
        let idle = match usage {
            Use::Search => &self.searchers,
            Use::Bind => &self.binders,
        };
        idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, usage: Use) -> Option<Link> {
        let mut idle = self.idle(usage);
        while let Some(mut link) = idle.pop() {
            if link.used.elapsed() < IDLE_MOST && !link.ldap.is_closed() {
                return Some(link);
            }
        }
        None
    }

    fn put(&self, usage: Use, mut link: Link) {
        link.used = Instant::now();
        let mut idle = self.idle(usage);
        if idle.len() < 8 {
            idle.push(link);
        }
    }

    /// Closes what is kept: after a failure none of it is trusted.
    fn forget(&self) {
        self.idle(Use::Search).clear();
        self.idle(Use::Bind).clear();
    }
}

/// An error of ldap3, in words. Never its `Debug`, which holds what was to be sent.
fn broken(error: LdapError) -> Fault {
    Fault::Server(match error {
        LdapError::Io { source } => format!("connection failed: {source}"),
        LdapError::LdapResult { result } => return refused("StartTLS (`directory.ldap.tls`)", &result),
        LdapError::ResultRecv { .. } | LdapError::EndOfStream | LdapError::OpSend { .. } => {
            "closed the connection or sent what is not LDAP".into()
        }
        other => other.to_string(),
    })
}

fn refused(what: &str, result: &ldap3::LdapResult) -> Fault {
    let hint = match result.rc {
        8 | 13 => "; it wants TLS: set `directory.ldap.tls: starttls` or use ldaps://",
        49 => "; check `directory.ldap.bind_dn` and its password",
        50 | 53 => "; may this account do that? Set `directory.ldap.bind_dn`",
        _ => "",
    };
    let text: String = result.text.chars().filter(|c| !c.is_control()).take(200).collect();
    Fault::Server(format!("refused {what}: result {} '{text}'{hint}", result.rc))
}

fn connection_settings(settings: &LdapSettings) -> Result<LdapConnSettings, Error> {
    let mut connection = LdapConnSettings::new().set_starttls(settings.tls == Tls::Starttls);
    if settings.verify == Verify::None {
        warn!("`directory.ldap.verify: none`: whoever sits between this server and the directory can read PINs");
        return Ok(connection.set_no_tls_verify(true));
    }
    if let Some(path) = &settings.ca_file {
        let key = "ldap.ca_file";
        let pem = fs::read(path).map_err(|source| Error::Unreadable { key, path: path.clone(), source })?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let added = certificate.map_err(|e| e.to_string()).and_then(|c| roots.add(c).map_err(|e| e.to_string()));
            added.map_err(|reason| Error::Setting { key, reason: format!("{}: {reason}", path.display()) })?;
        }
        if roots.is_empty() {
            return Err(Error::Setting { key, reason: format!("{} holds no PEM certificate", path.display()) });
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Setting { key, reason: error.to_string() })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        connection = connection.set_config(Arc::new(config));
    }
    Ok(connection)
}

impl LdapSettings {
    /// Finds one number. What was keyed in is escaped (RFC 4515 §3): it can mean only itself.
    fn filter_for(&self, login: &str) -> String {
        let value = ldap_escape(login);
        let any: String = self.login.iter().map(|name| format!("({name}={value})")).collect();
        format!("(&{}(|{any}))", self.filter)
    }

    fn filter_for_all(&self) -> String {
        let any: String = self.login.iter().map(|name| format!("({name}=*)")).collect();
        format!("(&{}(|{any}))", self.filter)
    }

    /// Whoever may log in, and whoever has a number.
    fn filter_for_contacts(&self) -> String {
        let numbers = std::iter::once(&self.attributes.extension).chain(self.attributes.more_numbers.values());
        let any: String = self.login.iter().chain(numbers).filter(|name| !name.is_empty()).map(|name| format!("({name}=*)")).collect();
        format!("(&{}(|{any}))", self.filter)
    }

    fn wanted_attributes(&self) -> Vec<String> {
        let a = &self.attributes;
        let mut wanted: Vec<String> = self.login.iter().chain(&a.display_name).chain([&a.mail, &a.extension, &a.groups]).cloned().collect();
        wanted.extend(a.more_numbers.values().cloned());
        if self.check == Check::Compare {
            wanted.push(self.pin_attribute.clone());
        }
        wanted.retain(|name| !name.is_empty());
        wanted.sort();
        wanted.dedup();
        wanted
    }
}

/// An entry as a user; `None` when it has no number to log in with.
fn to_found(settings: &LdapSettings, entry: SearchEntry, login: &str) -> Option<Found> {
    let values: HashMap<String, Vec<String>> = entry.attrs.into_iter().map(|(name, values)| (name.to_ascii_lowercase(), values)).collect();
    // An attribute comes back as the server spells it (RFC 4512 §2.5: names do not differ by case).
    let all = |name: &str| values.get(&name.to_ascii_lowercase()).cloned().unwrap_or_default();
    let first = |name: &str| all(name).into_iter().next().filter(|value| !value.is_empty());
    let names = &settings.attributes;
    let user = User {
        login: settings.login.iter().find_map(|name| first(name)).or_else(|| Some(login.to_owned()).filter(|l| !l.is_empty()))?,
        display_name: names.display_name.iter().find_map(|name| first(name)).unwrap_or_else(|| entry.dn.clone()),
        mail: first(&names.mail),
        extension: first(&names.extension).and_then(|value| to_extension(names, &value, &entry.dn)),
        groups: all(&names.groups),
        id: entry.dn,
    };
    Some(Found { pin: first(&settings.pin_attribute).filter(|_| settings.check == Check::Compare), user })
}

/// An entry as somebody in the phone book.
fn to_contact(settings: &LdapSettings, entry: SearchEntry) -> Contact {
    let first = |name: &str| {
        let held = entry.attrs.iter().find(|(held, _)| held.eq_ignore_ascii_case(name));
        held.and_then(|(_, values)| values.first()).filter(|value| !value.is_empty()).cloned()
    };
    let names = &settings.attributes;
    Contact {
        name: names.display_name.iter().find_map(|name| first(name)).unwrap_or_else(|| entry.dn.clone()),
        extension: first(&names.extension).and_then(|value| to_extension(names, &value, &entry.dn)),
        numbers: names.more_numbers.iter().filter_map(|(kind, name)| Some((kind.clone(), first(name)?))).collect(),
        id: entry.dn,
    }
}

fn to_extension(names: &Attributes, value: &str, dn: &str) -> Option<Extension> {
    let mut digits: String = value.chars().filter(|c| !matches!(c, ' ' | '-' | '.' | '/' | '(' | ')')).collect();
    if let Some(last) = names.extension_last_digits {
        digits.retain(|c| c.is_ascii_digit());
        digits = digits.split_off(digits.len().saturating_sub(last));
    }
    let extension = digits.parse().ok();
    if extension.is_none() {
        debug!(user = dn, "'{}' is not an extension: set `directory.ldap.attributes.extension_last_digits`", names.extension);
    }
    extension
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_keyed_in_means_only_itself() {
        let settings = LdapSettings { login: vec!["uid".into()], ..LdapSettings::default() };
        for (keyed, filter) in [
            ("1001", "(&(objectClass=person)(|(uid=1001)))"),
            ("*)(uid=*", "(&(objectClass=person)(|(uid=\\2a\\29\\28uid=\\2a)))"),
            ("a\\b\0", "(&(objectClass=person)(|(uid=a\\5cb\\00)))"),
        ] {
            assert_eq!(settings.filter_for(keyed), filter);
        }
    }

    #[test]
    fn entries_become_users() {
        let entry = |attrs: &[(&str, &str)]| SearchEntry {
            dn: "cn=ada,dc=x".into(),
            attrs: attrs.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()])).collect(),
            bin_attrs: HashMap::new(),
        };
        let mut settings = LdapSettings::default();
        let user = |settings: &LdapSettings, attrs: &[(&str, &str)]| to_found(settings, entry(attrs), "17").expect("a user").user;
        // Active Directory answers in its own spelling.
        let ada = user(&settings, &[("EmployeeNumber", "1001"), ("CN", "Ada"), ("telephonenumber", "20-41"), ("MAIL", "ada@x")]);
        assert_eq!((ada.login.as_str(), ada.display_name.as_str(), ada.mail.as_deref()), ("1001", "Ada", Some("ada@x")));
        assert_eq!(ada.extension.expect("one").as_str(), "2041");
        assert_eq!(user(&settings, &[]).display_name, "cn=ada,dc=x");
        assert_eq!(user(&settings, &[("telephoneNumber", "+49 30 1234-2041")]).extension, None);
        settings.attributes.extension_last_digits = Some(4);
        assert_eq!(user(&settings, &[("telephoneNumber", "+49 30 1234-2041")]).extension.expect("one").as_str(), "2041");
    }
}
