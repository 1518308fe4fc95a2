//! Which files a make asks for, in which order, and what it makes of the answers: from a server's name to an account.
//!
//! Sans-I/O: [`Boot::poll_fetch`] names the next file, [`Boot::handle_file`] takes what came back.
//! Not here: the transfers (`http.rs`, `tftp.rs`, `ftp.rs`), the grammars (`settings.rs`).

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    str::FromStr,
};

use super::{
    encrypted,
    keys::{self, Key},
    make::Make,
    settings::{self, Account, Fault, Grammar, PolyFile, Values},
};
use crate::model::MacAddr;

/// Where the files are: scheme, host, port, folder, and perhaps a file name that the make treats as its first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub scheme: Scheme,
    /// `user:password` of the URL, for FTP.
    pub login: Option<(String, String)>,
    pub host: String,
    pub port: u16,
    /// Without slashes at its ends; empty for the root.
    pub folder: String,
    /// The last part of the path when it looks like a file.
    pub file: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Tftp,
    Ftp,
    Http,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tftp => "tftp",
            Self::Ftp => "ftp",
            Self::Http => "http",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' names no server that this make could use: expected a host or a tftp://, ftp:// or http:// URL")]
pub struct ServerError(String);

impl Server {
    /// Reads the value of option 66, 43, 160…, a host or a URL. `default_scheme` is for a value without one.
    pub fn parse(value: &str, default_scheme: &str) -> Result<Self, ServerError> {
        let fault = || ServerError(value.chars().take(120).collect());
        // Avaya's option 242: `HTTPSRVR=10.0.0.2,HTTPPORT=8080,HTTPDIR=/dir`.
        if value.starts_with("HTTPSRVR=") {
            let part = |name: &str| value.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
            let host = part("HTTPSRVR").unwrap_or_default();
            let url = format!("http://{host}:{}{}", part("HTTPPORT").unwrap_or("80"), part("HTTPDIR").unwrap_or_default());
            return Self::parse(&url, "http").map_err(|_| fault());
        }
        let (scheme, rest) = value.trim().split_once("://").unwrap_or((default_scheme, value.trim()));
        let (scheme, usual_port) = match scheme.to_ascii_lowercase().as_str() {
            "tftp" => (Scheme::Tftp, 69),
            "ftp" => (Scheme::Ftp, 21),
            "http" => (Scheme::Http, 80),
            _ => return Err(fault()),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, authority) = match authority.rsplit_once('@') {
            Some((login, authority)) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                (Some((user.to_owned(), password.to_owned())), authority)
            }
            None => (None, authority),
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !host.contains(':') => (host, u16::from_str(port).map_err(|_| fault())?),
            _ => (authority, usual_port),
        };
        if host.is_empty() {
            return Err(fault());
        }
        let path = path.trim_matches('/');
        let (folder, last) = path.rsplit_once('/').unwrap_or(("", path));
        let (folder, file) = if last.contains('.') { (folder, Some(last.to_owned())) } else { (path, None) };
        Ok(Self { scheme, login, host: host.to_owned(), port, folder: folder.to_owned(), file })
    }

    /// The path of `name` on this server, without a leading slash.
    pub fn path(&self, name: &str) -> String {
        let name = name.trim_start_matches('/');
        if self.folder.is_empty() { name.to_owned() } else { format!("{}/{name}", self.folder) }
    }
}

/// How a boot ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Ready(Box<Account>),
    /// Files came, and none describes an account, or one was refused.
    Refused(Fault),
}

/// One boot: from nothing to an account.
pub struct Boot {
    make: Make,
    mac: MacAddr,
    values: Values,
    plan: VecDeque<Want>,
    /// No file is fetched twice, whoever names it.
    asked: BTreeSet<String>,
    waiting: Option<Want>,
    fault: Option<Fault>,
    /// By which files are encrypted, as a rule has told.
    key: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Want {
    name: String,
    role: Role,
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Read into the values; the files that it names come next.
    Values,
    /// If it exists, nothing else is fetched but what it names: boot and master files, and the first hit of several.
    Decides,
    /// A Poly phone book: the first that exists.
    Book,
    /// Gigaset's way to a base's own file: see [`settings::read_records`].
    Record,
    /// Asked for and not read: licences, firmware.
    Extra,
}

impl Boot {
    pub fn new(make: Make, mac: MacAddr, server: &Server) -> Self {
        // A file that the server's URL names comes first, and if it is there, alone.
        let named = server.file.as_deref().map(|name| (name, Role::Decides));
        let plan = named.into_iter().chain(make.files.iter().copied());
        let plan = plan.map(|(name, role)| Want { name: make.fill(name, mac), role }).collect();
        Self { make, mac, values: Values::new(), plan, asked: BTreeSet::new(), waiting: None, fault: None, key: None }
    }

    /// The next file to fetch; `None` when the boot is over and [`Self::outcome`] tells how.
    pub fn poll_fetch(&mut self) -> Option<String> {
        self.waiting = None;
        while let Some(want) = self.plan.pop_front() {
            if self.asked.insert(want.name.clone()) {
                self.waiting = Some(want);
                break;
            }
        }
        self.waiting.as_ref().map(|want| want.name.clone())
    }

    /// What came back for the file named last; `None`: there is none.
    pub fn handle_file(&mut self, bytes: Option<&[u8]>) {
        let (Some(want), Some(bytes)) = (self.waiting.take(), bytes) else { return };
        let readable = match encrypted::is_encrypted(bytes) {
            true => self
                .key
                .as_deref()
                .and_then(|key| encrypted::decrypted(key, bytes))
                .ok_or_else(|| Fault::Encrypted { file: want.name.clone() }),
            false => Ok(bytes.to_vec()),
        };
        if let Err(fault) = readable.and_then(|bytes| self.read(&want, &bytes)) {
            self.fault = Some(fault);
        }
    }

    /// The keys that the files have told so far.
    pub fn keys(&self) -> Vec<Key> {
        keys::read(self.make.family, &self.values)
    }

    /// The accounts of the ports behind the first one; `None` for one that is not in use.
    pub fn ports(&self) -> Vec<Option<Account>> {
        self.make.ports.iter().map(|names| settings::account(names, &self.values).ok()).collect()
    }

    /// Where there is firmware for it, if the files say so.
    pub fn firmware(&self) -> Option<String> {
        settings::firmware(&self.make, &self.values)
    }

    pub fn outcome(self) -> Outcome {
        match (settings::account(&self.make.names, &self.values), self.fault) {
            (_, Some(fault)) | (Err(fault), None) => Outcome::Refused(fault),
            (Ok(account), None) => Outcome::Ready(Box::new(account)),
        }
    }

    fn read(&mut self, want: &Want, bytes: &[u8]) -> Result<(), Fault> {
        let name = want.name.as_str();
        let wants = |names: Vec<String>| names.into_iter().map(|name| Want { name, role: Role::Values });
        if want.role == Role::Extra {
            return Ok(());
        }
        if want.role == Role::Book {
            settings::read_poly_directory(name, bytes, &mut self.values)?;
            // The one for everybody is asked for only where there is none of its own.
            self.plan.retain(|want| want.role != Role::Book);
            return Ok(());
        }
        if want.role == Role::Record {
            for named in settings::read_records(name, bytes)?.into_iter().rev() {
                self.plan.push_front(match named {
                    settings::Named::Record(name) => Want { name, role: Role::Record },
                    // Ours all lie in one folder.
                    settings::Named::Own(url) => {
                        Want { name: self.make.fill(url.rsplit('/').next().unwrap_or_default(), self.mac), role: Role::Values }
                    }
                });
            }
            return Ok(());
        }
        let mut named = match self.make.grammar {
            Grammar::Yealink => settings::read_yealink(name, bytes, &mut self.values)?,
            Grammar::Poly => match settings::read_poly(name, bytes, self.mac, self.make.model, &mut self.values)? {
                PolyFile::Master { config_files } => config_files,
                PolyFile::Parameters => Vec::new(),
            },
            Grammar::Grandstream => {
                settings::read_grandstream(name, bytes, self.mac, &mut self.values)?;
                let told = |name: &str| self.values.get(name).filter(|value| !value.is_empty()).cloned();
                self.key = told("P1359");
                // With another setting for option 66 it starts again, and asks for what begins so.
                told("P234")
                    .filter(|_| told("P145").as_deref() == Some("0"))
                    .map(|prefix| format!("{prefix}cfg{{mac}}.xml"))
                    .into_iter()
                    .collect()
            }
            Grammar::Xml { roots } => settings::read_xml(name, bytes, roots, &mut self.values)?,
            Grammar::Lines { first, prefix, between } => settings::read_lines(name, bytes, (first, prefix, between), &mut self.values)?,
            Grammar::Json => {
                settings::read_generic(name, bytes, &mut self.values)?;
                Vec::new()
            }
        };
        if let Some(next) = self.values.get(self.make.names.next) {
            let (key, url) = encrypted::rule(next);
            named.push(url.to_owned());
            self.key = key;
        }
        // They name whole URLs; ours all lie in one folder.
        let own = |name: String| self.make.fill(name.rsplit('/').next().unwrap_or_default(), self.mac);
        let named: Vec<String> = named.into_iter().map(own).filter(|name| !name.is_empty()).collect();
        if want.role == Role::Decides {
            let after = self.make.after.iter().map(|(name, role)| Want { name: self.make.fill(name, self.mac), role: *role });
            self.plan = after.collect();
        }
        wants(named).rev().for_each(|want| self.plan.push_front(want));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_in_many_ways() {
        for (value, default, scheme, host, port, path) in [
            ("10.0.0.1", "tftp", Scheme::Tftp, "10.0.0.1", 69, "x.cfg"),
            ("http://10.0.0.1:8080", "tftp", Scheme::Http, "10.0.0.1", 8080, "x.cfg"),
            ("http://prov.example/a/b/", "tftp", Scheme::Http, "prov.example", 80, "a/b/x.cfg"),
            ("10.0.0.1/dir", "http", Scheme::Http, "10.0.0.1", 80, "dir/x.cfg"),
            ("HTTPSRVR=10.0.0.1,HTTPPORT=8080,HTTPDIR=/dir", "http", Scheme::Http, "10.0.0.1", 8080, "dir/x.cfg"),
            ("ftp://PlcmSpIp:pw@10.0.0.1/000000000000.cfg", "ftp", Scheme::Ftp, "10.0.0.1", 21, "x.cfg"),
        ] {
            let server = Server::parse(value, default).expect(value);
            assert_eq!(
                (server.scheme, server.host.as_str(), server.port, server.path("x.cfg").as_str()),
                (scheme, host, port, path),
                "{value}"
            );
        }
        for value in ["", "gopher://x", "http://", "http://host:port/"] {
            assert!(Server::parse(value, "http").is_err(), "{value}");
        }
    }

    /// Plays a server that has `files`; returns what was asked for.
    fn boot(family: &str, files: &[(&str, &str)]) -> (Vec<String>, Outcome) {
        let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
        boot_at("http://s", family, &files)
    }

    fn boot_at(server: &str, family: &str, files: &[(&str, &[u8])]) -> (Vec<String>, Outcome) {
        let make = Make::of(family).expect("family");
        let mac = make.mac(1);
        let mut boot = Boot::new(make, mac, &Server::parse(server, "http").expect("server"));
        let mut asked = Vec::new();
        while let Some(name) = boot.poll_fetch() {
            boot.handle_file(files.iter().find(|(n, _)| *n == name).map(|(_, bytes)| *bytes));
            asked.push(name);
        }
        (asked, boot.outcome())
    }

    const YEALINK: &str =
        "#!version:1.0.0.1\naccount.1.enable = 1\naccount.1.user_name = 2041\naccount.1.password = s\naccount.1.sip_server.1.address = h\n";

    #[test]
    fn a_yealink_boot_file_replaces_the_rest() {
        let (asked, outcome) = boot("yealink", &[("001565000001.cfg", YEALINK)]);
        assert_eq!(asked, ["001565000001.boot", "y000000000000.boot", "y000000000066.cfg", "001565000001.cfg"]);
        assert!(matches!(outcome, Outcome::Ready(_)));
        let boot_file = "#!version:1.0.0.1\ninclude:config \"mine.cfg\"\n";
        let (asked, outcome) = boot("yealink", &[("001565000001.boot", boot_file), ("mine.cfg", YEALINK)]);
        assert_eq!(asked, ["001565000001.boot", "mine.cfg"]);
        assert!(matches!(outcome, Outcome::Ready(_)));
    }

    #[test]
    fn a_poly_follows_the_chain() {
        let master = r#"<APPLICATION CONFIG_FILES="[PHONE_MAC_ADDRESS]-user.cfg"/>"#;
        let user = r#"<c reg.1.address="2041" reg.1.auth.password="s" reg.1.server.1.address="h"/>"#;
        let (asked, outcome) = boot("poly", &[("000000000000.cfg", master), ("64167f000001-user.cfg", user)]);
        assert_eq!(asked[..3], ["64167f000001.cfg", "000000000000.cfg", "64167f000001-user.cfg"]);
        assert!(asked.contains(&"64167f000001-phone.cfg".to_owned()));
        assert!(matches!(outcome, Outcome::Ready(account) if account.user == "2041"));
    }

    #[test]
    fn nothing_served_is_no_account() {
        for family in super::super::make::names() {
            assert!(matches!(boot(family, &[]).1, Outcome::Refused(Fault::NoAccount { .. })), "{family}");
        }
    }

    #[test]
    fn a_cisco_reads_an_encrypted_file_once_it_has_the_key() {
        let rule =
            |key: &str| format!("<flat-profile><Profile_Rule>[--key &quot;{key}&quot;] http://s/$MA.enc</Profile_Rule></flat-profile>");
        let own = "<flat-profile><Line_Enable_1_>Yes</Line_Enable_1_><Proxy_1_>h</Proxy_1_><User_ID_1_>2041</User_ID_1_><Password_1_>s</Password_1_></flat-profile>";
        let key = crate::model::Secret::new("0123456789abcdef");
        let encrypted = crate::provisioning::encryption::salted(&key, own.as_bytes());
        let boots = |key: &str| {
            boot_at("http://s/$MA.xml", "cisco_mpp", &[("d0ec35000001.xml", rule(key).as_bytes()), ("d0ec35000001.enc", &encrypted)])
        };
        let (asked, outcome) = boots(key.expose());
        assert!(asked.ends_with(&["d0ec35000001.xml".into(), "d0ec35000001.enc".into()]), "{asked:?}");
        assert!(matches!(outcome, Outcome::Ready(account) if account.user == "2041"));
        assert!(matches!(boots("another").1, Outcome::Refused(_)));
    }

    #[test]
    fn a_grandstream_reads_an_encrypted_file_once_it_has_the_key() {
        let file = |body: &str| format!("<gs_provision><config>{body}</config></gs_provision>");
        let told = |key: &str| file(&format!("<P145>0</P145><P1359>{key}</P1359><P234>enc-</P234>"));
        let own = file("<P271>1</P271><P47>h</P47><P35>2041</P35><P34>s</P34>");
        let key = crate::model::Secret::new("0123456789abcdef");
        let encrypted = crate::provisioning::encryption::salted(&key, own.as_bytes());
        let boots = |key: &str| {
            boot_at("http://s", "grandstream", &[("cfgc074ad000001.xml", told(key).as_bytes()), ("enc-cfgc074ad000001.xml", &encrypted)])
        };
        let (asked, outcome) = boots(key.expose());
        assert_eq!(asked, ["cfgc074ad000001", "cfgc074ad000001.xml", "enc-cfgc074ad000001.xml"]);
        assert!(matches!(outcome, Outcome::Ready(account) if account.user == "2041"), "{asked:?}");
        assert!(matches!(boots("another").1, Outcome::Refused(_)));
    }

    #[test]
    fn a_cisco_goes_where_its_profile_rule_says() {
        let rule = "<flat-profile><Profile_Rule>http://s/$MA.xml</Profile_Rule></flat-profile>";
        let own = "<flat-profile><Line_Enable_1_>Yes</Line_Enable_1_><Proxy_1_>h</Proxy_1_><User_ID_1_>2041</User_ID_1_><Password_1_>s</Password_1_><Profile_Rule>http://s/$MA.xml</Profile_Rule></flat-profile>";
        let (asked, outcome) = boot("cisco_mpp", &[("7841-3PCC.xml", rule), ("d0ec35000001.xml", own)]);
        assert_eq!(asked, ["7841-3PCC.xml", "d0ec35000001.xml"], "and not again what it names itself");
        assert!(matches!(outcome, Outcome::Ready(account) if account.user == "2041"));
    }

    #[test]
    fn a_snom_fetches_what_its_lists_name() {
        let list = r#"<setting-files><file url="http://s/000413000001.xml"/></setting-files>"#;
        let own = r#"<settings><phone-settings><user_active idx="1">on</user_active><user_name idx="1">2041</user_name><user_pass idx="1">s</user_pass><user_outbound idx="1">h:5060;transport=udp</user_outbound></phone-settings></settings>"#;
        let (asked, outcome) = boot("snom", &[("snomD785-000413000001.htm", list), ("000413000001.xml", own)]);
        assert_eq!(asked, ["snomD785.htm", "snomD785-000413000001.htm", "000413000001.xml"]);
        assert!(matches!(outcome, Outcome::Ready(account) if !account.tcp));
    }
}
