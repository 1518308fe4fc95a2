//! Which files a make asks for, in which order, and what it makes of the answers: from a server's name to an account.
//!
//! Sans-I/O: [`Boot::poll_fetch`] names the next file, [`Boot::handle_file`] takes what came back.
//! Not here: the transfers (`http.rs`, `tftp.rs`, `ftp.rs`), the grammars (`settings.rs`).

use std::{collections::VecDeque, fmt, str::FromStr};

use super::{
    make::Make,
    settings::{self, Account, Fault, PolyFile, Values},
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
    waiting: Option<Want>,
    fault: Option<Fault>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Want {
    name: String,
    role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Read into the values; nothing else depends on it.
    Values,
    /// A Yealink boot file: if it exists, only what it includes is fetched.
    YealinkBoot,
    /// A Poly master candidate: the first that exists decides.
    PolyMaster,
    /// The first of these that exists ends the search.
    FirstHit,
    /// Asked for and not read: directories, licences, firmware.
    Extra,
}

impl Boot {
    pub fn new(make: Make, mac: MacAddr, server: &Server) -> Self {
        let bare = mac.bare();
        let plan = match make.family {
            "yealink" => vec![
                (format!("{bare}.boot"), Role::YealinkBoot),
                ("y000000000000.boot".into(), Role::YealinkBoot),
                // The code of the T46S; each model has its own.
                ("y000000000066.cfg".into(), Role::Values),
                (format!("{bare}.cfg"), Role::Values),
            ],
            "poly" => {
                let named = server.file.clone().map(|name| (name, Role::PolyMaster));
                let usual = [(format!("{bare}.cfg"), Role::PolyMaster), ("000000000000.cfg".into(), Role::PolyMaster)];
                named.into_iter().chain(usual).collect()
            }
            "grandstream" => vec![
                // The binary form, which a server that renders XML does not have.
                (format!("cfg{bare}"), Role::Extra),
                (format!("cfg{bare}.xml"), Role::FirstHit),
                (format!("cfg{}.xml", make.model.to_lowercase()), Role::FirstHit),
                ("cfg.xml".into(), Role::FirstHit),
            ],
            _ => vec![(format!("{bare}.json"), Role::Values)],
        };
        let plan = plan.into_iter().map(|(name, role)| Want { name, role }).collect();
        Self { make, mac, values: Values::new(), plan, waiting: None, fault: None }
    }

    /// The next file to fetch; `None` when the boot is over and [`Self::outcome`] tells how.
    pub fn poll_fetch(&mut self) -> Option<String> {
        self.waiting = self.plan.pop_front();
        self.waiting.as_ref().map(|want| want.name.clone())
    }

    /// What came back for the file named last; `None`: there is none.
    pub fn handle_file(&mut self, bytes: Option<&[u8]>) {
        let (Some(want), Some(bytes)) = (self.waiting.take(), bytes) else { return };
        if let Err(fault) = self.read(&want, bytes) {
            self.fault = Some(fault);
        }
    }

    pub fn outcome(self) -> Outcome {
        match (settings::account(self.make.family, &self.values), self.fault) {
            (_, Some(fault)) | (Err(fault), None) => Outcome::Refused(fault),
            (Ok(account), None) => Outcome::Ready(Box::new(account)),
        }
    }

    fn read(&mut self, want: &Want, bytes: &[u8]) -> Result<(), Fault> {
        let name = want.name.as_str();
        match (self.make.family, want.role) {
            (_, Role::Extra) => {}
            ("yealink", role) => {
                let includes = settings::read_yealink(name, bytes, &mut self.values)?;
                if role == Role::YealinkBoot {
                    let wants = includes.into_iter().map(|name| Want { name, role: Role::Values });
                    self.plan = wants.collect();
                }
            }
            ("poly", role) => {
                let file = settings::read_poly(name, bytes, self.mac, self.make.model, &mut self.values)?;
                if role == Role::PolyMaster {
                    let listed = match file {
                        PolyFile::Master { config_files } => config_files,
                        PolyFile::Parameters => Vec::new(),
                    };
                    let bare = self.mac.bare();
                    // What the user and the web page changed on the phone, then the phone books.
                    let own = [format!("{bare}-phone.cfg"), format!("{bare}-web.cfg")];
                    let extra = [format!("{bare}-directory.xml"), "000000000000-directory.xml".into()];
                    let values = listed.into_iter().chain(own).map(|name| Want { name, role: Role::Values });
                    self.plan = values.chain(extra.map(|name| Want { name, role: Role::Extra })).collect();
                }
            }
            ("grandstream", _) => {
                settings::read_grandstream(name, bytes, self.mac, &mut self.values)?;
                self.plan.clear();
            }
            _ => settings::read_generic(name, bytes, &mut self.values)?,
        }
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
        let make = Make::of(family).expect("family");
        let mac = make.mac(1);
        let mut boot = Boot::new(make, mac, &Server::parse("http://s", "http").expect("server"));
        let mut asked = Vec::new();
        while let Some(name) = boot.poll_fetch() {
            boot.handle_file(files.iter().find(|(n, _)| *n == name).map(|(_, text)| text.as_bytes()));
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
        for family in super::super::make::FAMILIES {
            assert!(matches!(boot(family, &[]).1, Outcome::Refused(Fault::NoAccount { .. })), "{family}");
        }
    }
}
