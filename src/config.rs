//! The YAML file as a whole: which sections there are, and what is wrong in them, with file and line.
//!
//! What a section means is its folder's affair: each checks its own. Reading a file is `cli`'s and `node`'s.

use std::{fmt, path::Path, str::FromStr};

use serde::{Deserialize, Deserializer};

use crate::{
    api, binding, call, dhcp, directory, features, fileserver, ivr, media,
    model::Extension,
    provisioning, sip, store, template, tls, voicemail,
    yaml::{self, Fault},
};

/// Everything that can be set. A section or key that is absent has its default; one that is not known is an error.
#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Whose numbers we hand out.
    pub extensions: Extensions,
    /// Who may log in: LDAP, or a file.
    pub directory: directory::Settings,
    /// Addresses for phones.
    pub dhcp: dhcp::Settings,
    /// Options for phones, by IPv6.
    pub dhcp6: dhcp::v6::Settings,
    /// Files for phones over TFTP.
    pub tftp: fileserver::tftp::Settings,
    /// Files for phones over FTP.
    pub ftp: fileserver::ftp::Settings,
    /// Files for phones over HTTP.
    pub http: fileserver::http::Settings,
    /// Where templates are, and values that they may use.
    pub templates: template::Settings,
    /// Who may read which file.
    pub provisioning: provisioning::Settings,
    /// How a change of templates goes over the phones.
    pub rollout: provisioning::rollout::Settings,
    /// Which phone is whose, and how often one may try to log in.
    pub bindings: binding::Settings,
    /// Signalling.
    pub sip: sip::Settings,
    /// Who the server is to those who speak TLS.
    pub tls: tls::Settings,
    /// Sound.
    pub media: media::Settings,
    /// Who may call whom.
    pub calls: call::Settings,
    /// Forwards, groups, park places, star codes.
    pub features: features::Settings,
    /// The voice that asks who you are.
    pub ivr: ivr::settings::Settings,
    /// Messages for people who were not reached.
    pub voicemail: voicemail::Settings,
    /// The web service.
    pub api: api::Settings,
    /// The database.
    pub store: store::Settings,
    /// What is written to standard error.
    pub log: Log,
}

/// Numbers for users whose directory entry names none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Extensions {
    /// First and last, as `2000-2999`, with as many digits each.
    pub range: ExtensionRange,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtensionRange {
    pub first: Extension,
    pub last: Extension,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a range of extensions: write first and last, as 2000-2999, with as many digits each")]
pub struct ParseRangeError(String);

impl Default for ExtensionRange {
    fn default() -> Self {
        "2000-2999".parse().expect("the default is a range")
    }
}

impl FromStr for ExtensionRange {
    type Err = ParseRangeError;

    fn from_str(text: &str) -> Result<Self, ParseRangeError> {
        let fault = || ParseRangeError(text.to_owned());
        let (first, last) = text.split_once('-').ok_or_else(fault)?;
        let first: Extension = first.trim().parse().map_err(|_| fault())?;
        let last: Extension = last.trim().parse().map_err(|_| fault())?;
        if first.as_str().len() == last.as_str().len() && first <= last { Ok(Self { first, last }) } else { Err(fault()) }
    }
}

impl ExtensionRange {
    pub fn contains(&self, number: &str) -> bool {
        number.len() == self.first.as_str().len() && (self.first.as_str()..=self.last.as_str()).contains(&number)
    }
}

impl fmt::Display for ExtensionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

crate::written_as!(ExtensionRange, { "type": "string", "pattern": "^ *[0-9]{1,15} *- *[0-9]{1,15} *$" });

impl<'de> Deserialize<'de> for ExtensionRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What is logged, and how.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`; also per module, as `info,plugtone::dhcp=debug`.
    pub level: String,
    /// One JSON object per line instead of text.
    pub json: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), json: false }
    }
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl Log {
    /// A word that is no level would be taken for a module, and everything else would be silent.
    fn check(&self) -> Result<(), String> {
        let level = |directive: &str| directive.rsplit('=').next().unwrap_or_default().trim().to_owned();
        match self.level.split(',').map(level).find(|level| !LEVELS.contains(&&*level.to_lowercase())) {
            None => Ok(()),
            Some(wrong) => Err(match yaml::closest(&wrong, LEVELS) {
                Some(meant) => format!("`log.level`: there is no level '{wrong}'; did you mean '{meant}'?"),
                None => format!("`log.level`: there is no level '{wrong}': write info, or info,plugtone::dhcp=debug"),
            }),
        }
    }
}

impl Settings {
    /// Reads the text of a configuration file; `file` is how faults name it.
    pub fn read(file: &str, text: &str) -> Result<Self, Fault> {
        yaml::read(file, text)
    }

    /// Paths that were written relative are relative to the file's folder.
    pub fn relative_to(&mut self, folder: &Path) {
        let ldap = self.directory.ldap.as_mut();
        let of_ldap = ldap.into_iter().flat_map(|ldap| [ldap.ca_file.as_mut(), ldap.bind_password_file.as_mut()]).flatten();
        let users = self.directory.file.as_mut().map(|file| &mut file.path);
        let routes = self.calls.routes.as_mut();
        let others = [users, self.templates.path.as_mut(), self.ivr.path.as_mut(), routes, Some(&mut self.store.path)];
        let tls = [&mut self.tls.certificate, &mut self.tls.key, &mut self.tls.authority, &mut self.tls.trust].map(Option::as_mut);
        let mail = self.voicemail.mail.as_mut();
        let of_mail = mail.into_iter().flat_map(|mail| [mail.ca_file.as_mut(), mail.password_file.as_mut()]).flatten();
        // Joining an absolute path gives that path.
        of_ldap
            .chain(tls.into_iter().flatten())
            .chain(others.into_iter().flatten())
            .chain(of_mail)
            .chain(self.tls.makers.values_mut())
            .chain(self.tls.acme.as_mut().and_then(|acme| acme.ca.as_mut()))
            .chain(self.voicemail.path.as_mut())
            .chain(self.provisioning.firmware.as_mut())
            .for_each(|path| *path = folder.join(&*path));
    }

    /// Each section by its name, and what it means; secrets are masked.
    fn sections(&self) -> Vec<(&'static str, String)> {
        let Self { extensions, directory, dhcp, tftp, ftp, http, templates, provisioning, rollout, bindings, sip, tls, media, .. } = self;
        let Self { calls, features, ivr, voicemail, api, store, log, .. } = self;
        let means: [(&'static str, &dyn fmt::Debug); 20] = [
            ("extensions", extensions),
            ("directory", directory),
            ("dhcp", dhcp),
            ("tftp", tftp),
            ("ftp", ftp),
            ("http", http),
            ("templates", templates),
            ("provisioning", provisioning),
            ("rollout", rollout),
            ("bindings", bindings),
            ("sip", sip),
            ("tls", tls),
            ("media", media),
            ("calls", calls),
            ("features", features),
            ("ivr", ivr),
            ("voicemail", voicemail),
            ("api", api),
            ("store", store),
            ("log", log),
        ];
        means.into_iter().map(|(name, means)| (name, format!("{means:?}"))).collect()
    }

    /// What the sections find wrong with themselves, each with the line of the key that it names.
    pub fn check(&self, file: &str, text: &str) -> Result<(), Vec<Fault>> {
        let http = || fileserver::http::Settings::check(&self.http);
        let found: Vec<String> = [
            self.directory.check().err().map(|error| error.to_string()),
            self.dhcp.check().err().map(|error| error.to_string()),
            self.dhcp6.check().err().map(|error| error.to_string()),
            self.tftp.check().err().map(|error| error.to_string()),
            self.ftp.check().err().map(|error| error.to_string()),
            http().err().map(|error| error.to_string()),
            self.provisioning.check().err().map(|error| error.to_string()),
            self.rollout.check().err().map(|error| error.to_string()),
            self.bindings.check().err().map(|error| error.to_string()),
            self.sip.check().err().map(|error| error.to_string()),
            self.tls.check().err().map(|error| error.to_string()),
            (self.tls.acme.is_some() && self.http.doors().0.is_empty()).then(|| {
                "tls.acme: the authority looks for this server by plain HTTP: name an address with port 80 in `http.listen`".to_owned()
            }),
            self.media.check(1).err().map(|error| error.to_string()),
            self.calls.check().err().map(|error| error.to_string()),
            self.features.check().err().map(|error| error.to_string()),
            self.voicemail.check().err().map(|error| error.to_string()),
            self.ivr.check().err().map(|error| error.to_string()),
            self.log.check().err(),
        ]
        .into_iter()
        .flatten()
        .collect();
        match found.is_empty() {
            true => Ok(()),
            false => Err(found.into_iter().map(|message| placed(file, text, message)).collect()),
        }
    }
}

/// A key that is written otherwise in two files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// As `dhcp.lease_secs`.
    pub key: String,
    /// As JSON, secrets masked; `None`: not set.
    pub old: Option<String>,
    pub new: Option<String>,
}

/// Stands where a secret would be.
const MASK: &str = "••••••";

/// What is written otherwise and means something else, by two files with what they mean. A default that is only written out is no
/// change; a list that differs is shown whole.
pub fn changes(old: (&Settings, &str), new: (&Settings, &str)) -> Result<Vec<Change>, Fault> {
    let read = |text: &str| -> Result<Map, Fault> {
        let mut keys = Map::new();
        flatten(String::new(), yaml::read_untyped("plugtone.yaml", text)?, &mut keys);
        Ok(keys)
    };
    let (before, after) = (read(old.1)?, read(new.1)?);
    let (was, is) = (old.0.sections(), new.0.sections());
    let means_another = |key: &str| {
        let section = key.split('.').next().unwrap_or_default();
        is_secret(key) || was.iter().zip(&is).any(|((name, was), (_, is))| *name == section && was != is)
    };
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let changed = keys.into_iter().filter(|key| before.get(*key) != after.get(*key) && means_another(key));
    let shown = |map: &Map, key: &str| map.get(key).map(|value| masked(key, value.clone()).to_string());
    Ok(changed.map(|key| Change { key: key.clone(), old: shown(&before, key), new: shown(&after, key) }).collect())
}

type Map = std::collections::BTreeMap<String, serde_json::Value>;

fn flatten(path: String, value: serde_json::Value, keys: &mut Map) {
    match value {
        serde_json::Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                flatten(if path.is_empty() { name } else { format!("{path}.{name}") }, value, keys);
            }
        }
        value => drop(keys.insert(path, value)),
    }
}

fn is_secret(key: &str) -> bool {
    key.ends_with("password") || key.ends_with("secret")
}

fn masked(key: &str, value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(map) => map.into_iter().map(|(name, value)| (name.clone(), masked(&name, value))).collect(),
        Value::Array(list) => list.into_iter().map(|value| masked(key, value)).collect(),
        _ if is_secret(key) => MASK.into(),
        value => value,
    }
}

/// The fault at the line of the key that its message begins with, as "`calls.codecs` is empty" does.
fn placed(file: &str, text: &str, message: String) -> Fault {
    let key: String = message.trim_start_matches('`').chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.')).collect();
    match line_of(text, &key) {
        Some((line, column)) => Fault::at(file, text, line, column, message),
        None => Fault::in_file(file, message),
    }
}

/// Where `section.key` stands in block style, or its nearest section above; counted from 1.
fn line_of(text: &str, key: &str) -> Option<(u64, u64)> {
    let mut found = None;
    let mut parts = key.split('.').filter(|part| !part.is_empty()).peekable();
    // Deeper than the key found last.
    let mut deeper_than = None;
    for (index, line) in text.lines().enumerate() {
        let Some(part) = parts.peek() else { break };
        let indent = line.len() - line.trim_start().len();
        let content = line.trim_start();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        if deeper_than.is_some_and(|above| indent <= above) {
            break;
        }
        if content.strip_prefix(part).is_some_and(|rest| rest.trim_start().starts_with(':')) {
            found = Some((index as u64 + 1, indent as u64 + 1));
            deeper_than = Some(indent);
            parts.next();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_that_cannot_work_is_told_with_its_line() {
        let text = "# office\ncalls:\n  ivr_number: \"0\"\n  ring_timeout_secs: 1\nsip:\n  realm: \"\"\n";
        let settings = Settings::read("plugtone.yaml", text).expect("well-formed");
        let faults = settings.check("plugtone.yaml", text).expect_err("two faults");
        let lines: Vec<u64> = faults.iter().map(|fault| fault.line).collect();
        assert!(lines.contains(&4) && lines.contains(&6), "{faults:?}");
    }

    #[test]
    fn a_level_that_does_not_exist_is_told() {
        for (level, told) in [
            ("info", None),
            ("warn,plugtone::dhcp=debug", None),
            ("OFF", None),
            ("inof", Some("did you mean 'info'?")),
            ("loud", Some("write info")),
            ("info,plugtone::dhcp=debgu", Some("did you mean 'debug'?")),
            ("", Some("write info")),
        ] {
            let found = Log { level: level.into(), json: false }.check();
            assert!(found.as_ref().err().map(String::as_str).is_none_or(|fault| told.is_some_and(|told| fault.contains(told))), "{level}");
            assert_eq!(found.is_err(), told.is_some(), "{level}");
        }
    }

    #[test]
    fn what_changes_between_two_files_is_named_by_key() {
        let read = |text: &str| Settings::read("plugtone.yaml", text).expect("good");
        let compared = |old: &str, new: &str| {
            let changes = changes((&read(old), old), (&read(new), new)).expect("good");
            changes.into_iter().map(|c| (c.key, c.old.unwrap_or_default(), c.new.unwrap_or_default())).collect::<Vec<_>>()
        };
        let change = |key: &str, old: &str, new: &str| (key.to_owned(), old.to_owned(), new.to_owned());
        let old = "tftp: { retries: 6 }\nftp: { password: one }\nlog: { level: info }\n";
        assert_eq!(compared(old, old), []);
        assert_eq!(compared(old, "ftp: { password: one }\n"), [], "what is only written out is no change");
        assert_eq!(
            compared(old, "tftp: { retries: 9 }\nftp: { password: two }\nlog: { level: info }\nhttp: { listen: ['0.0.0.0:81'] }\n"),
            [
                change("ftp.password", "\"••••••\"", "\"••••••\""),
                change("http.listen", "", "[\"0.0.0.0:81\"]"),
                change("tftp.retries", "6", "9"),
            ]
        );
    }

    #[test]
    fn keys_are_found_at_any_depth() {
        let text = "a:\n  b: 1\nc:\n  # b:\n  d:\n    b: 2\n";
        assert_eq!(line_of(text, "a.b"), Some((2, 3)));
        assert_eq!(line_of(text, "c.d.b"), Some((6, 5)));
        assert_eq!(line_of(text, "c.x"), Some((3, 1)));
        assert_eq!(line_of(text, "z"), None);
    }
}
