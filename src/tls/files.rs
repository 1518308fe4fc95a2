//! Where certificates are kept: `tls/` beside the database, or wherever the administrator has those that were bought.
//!
//! Ours: `ca.pem` and `ca.key` are made once, at the first start with TLS; `server.pem` and `server.key` are made of them anew when
//! they end soon or an address is new. `acme.pem` is what another authority signed for us (`acme/`), with its key, and `acme.key` is the
//! account there; while there is no `acme.pem` that is valid, ours is shown. All are readable by the owner only. Phones are given
//! `ca.pem`, or `tls.authority`, whichever of the two certificates is shown: their files do not change with it. What certificates say is
//! not decided here (`certificate.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use jiff::civil::Date;
use tokio::sync::{Notify, futures::Notified};

use super::{
    acme::{self, renewal::Life},
    certificate::{self, CertificateError, Pair},
    identity::{Identity, Tls, TlsError},
    makers::Makers,
};
use crate::model::{Secret, Timestamp};

/// How often it is looked whether our certificate ends soon.
const LOOK_EVERY: Duration = Duration::from_secs(6 * 3600);

/// Our authority's certificate.
const AUTHORITY: &str = "ca.pem";
/// What another authority signed, and the key: one file, so that the two belong together whenever the power goes.
const OBTAINED: &str = "acme.pem";
/// The account at that authority.
const ACCOUNT: &str = "acme.key";
/// The first line of [`OBTAINED`]; readers of PEM pass over it.
const OBTAINED_FROM: &str = "# signed by ";

/// What a certificate is made of, or where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The folder for ours.
    pub folder: PathBuf,
    /// Certificate with its chain, and key, that were made elsewhere.
    pub given: Option<(PathBuf, PathBuf)>,
    /// Who is asked to sign another.
    pub acme: Option<acme::Settings>,
    /// The authority that signed it, where phones are to be given it.
    pub authority: Option<PathBuf>,
    /// More authorities that far ends are believed by when we connect.
    pub trust: Option<PathBuf>,
    /// Authorities of makers, by family: files or folders.
    pub makers: BTreeMap<String, PathBuf>,
    /// The names that phones know us by, beside the host's own and its addresses.
    pub names: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(
        "{path}: {source}; `tls.certificate`, `tls.key`, `tls.authority`, `tls.trust` and `tls.makers` name files that the server may read"
    )]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Unwritable { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Unusable { path: PathBuf, source: TlsError },
    #[error(transparent)]
    NotMade(#[from] CertificateError),
}

impl Source {
    /// Reads the identity, and makes what there is not.
    pub fn load(&self) -> Result<Identity, FileError> {
        let (path, pair, mut trusted, authority) = match &self.given {
            Some((certificate, key)) => {
                let pair = Pair { certificate: read(certificate)?, key: Secret::new(read(key)?) };
                let authority = self.authority.as_ref().map(|path| read(path).map(|text| (path.clone(), text))).transpose()?;
                (certificate.clone(), pair, String::new(), authority)
            }
            None => {
                let ours = self.authority(today())?;
                let server = self.server(&ours, today())?;
                let shown = self.obtained(Timestamp::of(SystemTime::now()));
                let (path, shown) =
                    shown.map_or_else(|| (self.folder.join("server.pem"), server), |pair| (self.folder.join(OBTAINED), pair));
                let for_phones = match &self.authority {
                    Some(path) => (path.clone(), read(path)?),
                    None => (self.folder.join(AUTHORITY), ours.certificate.clone()),
                };
                (path, shown, ours.certificate, Some(for_phones))
            }
        };
        if let Some(path) = &self.trust {
            trusted.push_str(&read(path)?);
        }
        let identity = Identity::read(&pair.certificate, &pair.key, &trusted).map_err(|source| FileError::Unusable { path, source })?;
        let identity = identity.with_makers(self.makers()?);
        match authority {
            Some((path, authority)) => identity.signed_by(&authority).map_err(|source| FileError::Unusable { path, source }),
            None => Ok(identity),
        }
    }

    fn makers(&self) -> Result<Makers, FileError> {
        let mut makers = Makers::default();
        for (family, path) in &self.makers {
            makers.add(family, &read_all(path)?).map_err(|source| FileError::Unusable { path: path.clone(), source })?;
        }
        Ok(makers)
    }

    /// The authority that phones are given, in PEM, as it is on disk. Makes nothing.
    pub fn known_authority(&self) -> Option<String> {
        let path = match (&self.authority, &self.given) {
            (Some(path), _) => path.clone(),
            (None, Some(_)) => return None,
            (None, None) => self.folder.join(AUTHORITY),
        };
        fs::read_to_string(path).ok()
    }

    fn authority(&self, today: Date) -> Result<Pair, FileError> {
        let (certificate, key) = (self.folder.join(AUTHORITY), self.folder.join("ca.key"));
        if certificate.exists() || key.exists() {
            // Half of it is a fault to be mended by hand: phones trust the one that there was.
            return Ok(Pair { certificate: read(&certificate)?, key: Secret::new(read(&key)?) });
        }
        let made = certificate::new_authority(today)?;
        let unwritable = |source| FileError::Unwritable { path: self.folder.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(unwritable)?;
        write(&key, made.key.expose())?;
        write(&certificate, &made.certificate)?;
        tracing::info!(path = %certificate.display(), "a certificate authority was made; give this certificate to phones that shall use TLS");
        Ok(made)
    }

    /// What the authority of the settings signed last, while it is valid. What cannot be read is told, and asked for anew.
    fn obtained(&self, now: Timestamp) -> Option<Pair> {
        let text = self.obtained_text(self.acme.as_ref()?)?;
        let facts = certificate::facts(&text)?;
        let pair = Pair { key: Secret::new(text.clone()), certificate: text };
        if let Err(error) = Identity::read(&pair.certificate, &pair.key, "") {
            tracing::error!(path = %self.folder.join(OBTAINED).display(), %error, "the certificate cannot be used; ours is shown");
            return None;
        }
        (now < facts.life.ends).then_some(pair)
    }

    fn obtained_text(&self, settings: &acme::Settings) -> Option<String> {
        let text = fs::read_to_string(self.folder.join(OBTAINED)).ok()?;
        let from = text.lines().next()?.strip_prefix(OBTAINED_FROM)?;
        (from == settings.directory).then_some(text)
    }

    /// Of what the authority signed last, if it is for all names that it is to be for.
    pub fn obtained_life(&self, settings: &acme::Settings) -> Option<Life> {
        let text = self.obtained_text(settings)?;
        let facts = certificate::facts(&text)?;
        let whole = settings.certified_names().iter().all(|name| facts.names.contains(name));
        let usable = || Identity::read(&text, &Secret::new(text.clone()), "").is_ok();
        (whole && usable()).then_some(facts.life)
    }

    /// On disk when it returns.
    pub fn keep_obtained(&self, settings: &acme::Settings, pair: &Pair) -> Result<(), FileError> {
        let text = format!("{OBTAINED_FROM}{}\n{}\n{}", settings.directory, pair.certificate.trim_end(), pair.key.expose());
        write(&self.folder.join(OBTAINED), &text)
    }

    /// The key of the account; made once, and on disk when it returns.
    pub fn account_key(&self) -> Result<Secret, FileError> {
        let path = self.folder.join(ACCOUNT);
        if path.exists() {
            return read(&path).map(Secret::new);
        }
        let key = certificate::new_key()?;
        write(&path, key.expose())?;
        Ok(key)
    }

    fn server(&self, authority: &Pair, today: Date) -> Result<Pair, FileError> {
        let (certificate, key) = (self.folder.join("server.pem"), self.folder.join("server.key"));
        let names = names(&self.names);
        if let (Ok(certificate), Ok(key)) = (fs::read_to_string(&certificate), fs::read_to_string(&key))
            && !certificate::is_due(&certificate, &authority.certificate, &names, today)
        {
            return Ok(Pair { certificate, key: Secret::new(key) });
        }
        let made = certificate::issue(authority, &names, today)?;
        write(&key, made.key.expose())?;
        write(&certificate, &made.certificate)?;
        tracing::info!(path = %certificate.display(), ?names, "a certificate for this server was made");
        Ok(made)
    }
}

/// The identity in use and where it came from: to be read again.
pub struct Certificates {
    tls: Arc<Tls>,
    source: ArcSwap<Source>,
    changed: Notify,
}

impl Certificates {
    pub fn open(source: Source) -> Result<Arc<Self>, FileError> {
        let path = source.given.as_ref().map_or(&source.folder, |(certificate, _)| certificate).clone();
        let tls = Tls::new(source.load()?).map_err(|source| FileError::Unusable { path, source })?;
        let opened = Self { tls, source: ArcSwap::from_pointee(source), changed: Notify::new() };
        opened.measure();
        Ok(Arc::new(opened))
    }

    /// What listeners show; it changes by itself.
    pub fn tls(&self) -> Arc<Tls> {
        self.tls.clone()
    }

    /// For handshakes from now on: what [`Source::load`] gave.
    pub fn replace(&self, source: Source, identity: Identity) {
        self.tls.replace(identity);
        self.measure();
        self.source.store(Arc::new(source));
        self.changed.notify_waiters();
    }

    /// Where the certificate comes from.
    pub fn source(&self) -> Arc<Source> {
        self.source.load_full()
    }

    /// Until that is replaced, counted from the call.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Reads, and where it is ours renews, what may have changed. A fault leaves all as it was.
    pub fn refresh(&self) -> Result<(), FileError> {
        self.tls.replace(self.source.load().load()?);
        self.measure();
        Ok(())
    }

    fn measure(&self) {
        if let Some(facts) = self.tls.shown().and_then(|der| certificate::facts_of(&der)) {
            metrics::gauge!("plugtone_certificate_ends_seconds").set(facts.life.ends.0 as f64 / 1000.0);
        }
    }

    /// Renews our certificate in time. Never ends.
    pub async fn keep_fresh(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Err(error) = self.refresh() {
                tracing::error!(%error, "the certificate for TLS cannot be renewed; the old one stays");
            }
        }
    }
}

/// What phones may call us: the names that were written, the host's own, its addresses.
fn names(written: &[String]) -> Vec<String> {
    let bare = |name: &str| name.trim_matches(['[', ']']).to_owned();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let is_name = |name: &String| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| std::net::IpAddr::V4(address.ip()));
        let v6 = || address.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::ip);
        // Nobody writes a link's own address into a phone.
        v4.or_else(|| v6().filter(|ip| !ip.is_unicast_link_local()).map(std::net::IpAddr::V6)).map(|ip| ip.to_string())
    });
    let mut seen = BTreeSet::new();
    let first = written.iter().map(|name| bare(name)).chain(Some(host).filter(is_name));
    first.chain(addresses).chain(["localhost".to_owned()]).filter(|name| seen.insert(name.clone())).collect()
}

fn today() -> Date {
    jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date()
}

fn read(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(|source| FileError::Unreadable { path: path.to_owned(), source })
}

/// A file, or all of a folder's that end as certificates in PEM do.
fn read_all(path: &Path) -> Result<String, FileError> {
    if !path.is_dir() {
        return read(path);
    }
    let unreadable = |source| FileError::Unreadable { path: path.to_owned(), source };
    let mut text = String::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        if file.extension().is_some_and(|end| ["pem", "crt", "cer"].iter().any(|known| end.eq_ignore_ascii_case(known))) {
            text += &read(&file)?;
            text.push('\n');
        }
    }
    Ok(text)
}

/// Whole or not at all, and for the owner only.
fn write(path: &Path, text: &str) -> Result<(), FileError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let done = || {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        // The name, too.
        fs::File::open(folder)?.sync_all()
    };
    done().map_err(|source| FileError::Unwritable { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_is_made_once_and_the_certificate_when_it_is_due() {
        let folder = tempfile::tempdir().expect("a folder");
        let source = Source { folder: folder.path().join("tls"), names: vec!["pbx.example.com".into()], ..Source::default() };
        source.load().expect("made");
        let text = |name: &str| fs::read_to_string(source.folder.join(name)).expect("there");
        for name in ["ca.pem", "ca.key", "server.pem", "server.key"] {
            let mode = fs::metadata(source.folder.join(name)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let (authority, server) = (text("ca.pem"), text("server.pem"));
        source.load().expect("read");
        assert_eq!((text("ca.pem"), text("server.pem")), (authority.clone(), server.clone()), "the same again");
        // Eleven months later, and under another name.
        let pair = Pair { certificate: authority.clone(), key: Secret::new(text("ca.key")) };
        source.server(&pair, today().checked_add(jiff::ToSpan::days(340)).unwrap()).expect("renewed");
        assert_ne!(text("server.pem"), server);
        let renewed = text("server.pem");
        Source { names: vec!["sip.example.com".into()], ..source.clone() }.load().expect("made for the new name");
        assert_ne!(text("server.pem"), renewed);
        assert_eq!(text("ca.pem"), authority, "phones need not be told");
        // Another has signed, and is believed while that is valid.
        let acme = acme::Settings { names: vec!["pbx.example.com".into()], ..acme::Settings::default() };
        let asking = Source { acme: Some(acme.clone()), ..source.clone() };
        let shown = |source: &Source| Tls::new(source.load().expect("good")).expect("good").shown().expect("shown").to_vec();
        let der = |pem: &str| super::super::identity::der(pem).expect("one");
        assert_eq!(shown(&asking), der(&text("server.pem")), "ours, until there is another");
        let other = certificate::new_authority(today()).expect("made");
        let signed = certificate::issue(&other, &acme.names, today()).expect("made");
        asking.keep_obtained(&acme, &signed).expect("written");
        assert_eq!(shown(&asking), der(&signed.certificate));
        let life = asking.obtained_life(&acme).expect("for all names");
        assert!(asking.obtained(life.ends).is_none() && asking.obtained(Timestamp(life.ends.0 - 1)).is_some());
        assert_eq!(shown(&source), der(&text("server.pem")), "it is asked for no more");
        let more = acme::Settings { names: vec!["pbx.example.com".into(), "sip.example.com".into()], ..acme.clone() };
        assert_eq!(asking.obtained_life(&more), None, "a name is new");
        let elsewhere = acme::Settings { directory: "https://ca.example.com/dir".into(), ..acme };
        assert_eq!(shown(&Source { acme: Some(elsewhere), ..source.clone() }), der(&text("server.pem")), "of another authority");
        fs::write(source.folder.join(OBTAINED), "spoilt").expect("written");
        assert_eq!(shown(&asking), der(&text("server.pem")));
        let account = asking.account_key().expect("made");
        assert_eq!(asking.account_key().expect("read"), account, "one account");
        // Half an authority is no reason to make another, which no phone would trust.
        fs::remove_file(source.folder.join("ca.key")).expect("removed");
        assert!(matches!(source.load(), Err(FileError::Unreadable { .. })));
        assert_eq!(text("ca.pem"), authority);
    }
}
