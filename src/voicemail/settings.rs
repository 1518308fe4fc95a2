//! The `voicemail:` section of the configuration.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::Deserialize;

use super::{machine::Lengths, mailbox::Limits};
use crate::{
    call::config::VoicemailRules,
    model::{Extension, Secret},
};

/// Messages for people who were not reached.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Every extension with an owner has a mailbox.
    pub enabled: bool,
    /// Extensions that have none.
    pub without: Vec<Extension>,
    /// Seconds that an extension with a mailbox rings before a message is taken; 5 to 600.
    pub ring_secs: u64,
    /// What is dialled for one's own mailbox, without a PIN. Empty: off.
    pub code_own: String,
    /// What is dialled for any mailbox, with number and PIN. Empty: off.
    pub code_any: String,
    /// Followed by an extension: a message is left there without its phones ringing. Empty: off.
    pub code_direct: String,
    /// Where the recordings are; `voicemail` beside the database when not set.
    pub path: Option<PathBuf>,
    /// Messages in one mailbox; then callers hear that it is full.
    pub messages: usize,
    /// Seconds that a message may last; 10 to 600.
    pub longest_secs: u64,
    /// Shorter messages are thrown away, and those in which nothing is said. In seconds.
    pub shortest_secs: u64,
    /// Seconds of quiet that end a message; 2 to 60.
    pub silence_secs: u64,
    /// MiB of recordings in all mailboxes together; a minute takes one.
    pub total_mib: u64,
    /// Days that a message is kept, heard or not. 0: for ever.
    pub keep_days: u32,
    /// Callers with voicemail at once.
    pub calls: usize,
    /// Sends each message to its owner by mail as well.
    pub mail: Option<Mail>,
}

/// By which server mail is sent, and to whom.
#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Mail {
    /// The SMTP server, as `smtp.example.com`.
    pub server: String,
    /// 587 for `starttls`, 465 for `tls`, 25 for `none` when not set.
    pub port: Option<u16>,
    /// `starttls`, `tls`, or `none`: clear text, for a server on this machine.
    pub tls: Tls,
    /// PEM file of the authority whose certificates the server shows; those that the system trusts when not set.
    pub ca_file: Option<PathBuf>,
    /// Whom to log in as; nobody when not set.
    pub user: Option<String>,
    /// Its password; better in a file (`password_file`).
    pub password: Option<Secret>,
    /// File that holds the password, and nothing else.
    pub password_file: Option<PathBuf>,
    /// Whom mails are from, as `Voicemail <voicemail@example.com>`.
    pub from: String,
    /// Addresses of extensions, where the directory knows none or another.
    pub addresses: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    #[default]
    Starttls,
    Tls,
    None,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            without: Vec::new(),
            ring_secs: 25,
            code_own: "*97".into(),
            code_any: "*98".into(),
            code_direct: "*99".into(),
            path: None,
            messages: 50,
            longest_secs: 180,
            shortest_secs: 2,
            silence_secs: 5,
            total_mib: 1024,
            keep_days: 60,
            calls: 50,
            mail: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`voicemail.{key}` {reason}")]
pub struct Error {
    key: &'static str,
    reason: String,
}

/// The section after [`Settings::check`].
#[derive(Clone, Debug)]
pub struct Config {
    pub rules: VoicemailRules,
    pub limits: Limits,
    pub lengths: Lengths,
    pub shortest: Duration,
    pub calls: usize,
    pub mail: Option<Mail>,
}

impl Settings {
    /// `None`: there is no voicemail.
    pub fn check(&self) -> Result<Option<Config>, Error> {
        let wrong = |key, reason: &str| Err(Error { key, reason: reason.to_owned() });
        let within = |key, value: u64, from: u64, to: u64| match (from..=to).contains(&value) {
            true => Ok(Duration::from_secs(value)),
            false => Err(Error { key, reason: format!("is {value}: write {from} to {to}") }),
        };
        for (key, code) in [("code_own", &self.code_own), ("code_any", &self.code_any), ("code_direct", &self.code_direct)] {
            let good = code.len() <= 15 && code.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'*' | b'#'));
            if !good {
                return wrong(key, &format!("is '{code}': write digits, `*` or `#`, as *97"));
            }
        }
        if self.messages == 0 || self.calls == 0 {
            return wrong(if self.messages == 0 { "messages" } else { "calls" }, "is 0: write at least 1");
        }
        let config = Config {
            rules: VoicemailRules {
                own: self.code_own.clone(),
                any: self.code_any.clone(),
                direct: self.code_direct.clone(),
                ring: within("ring_secs", self.ring_secs, 5, 600)?,
                without: self.without.clone(),
            },
            limits: Limits { messages: self.messages, bytes: self.total_mib << 20, keep_days: self.keep_days },
            lengths: Lengths {
                longest: within("longest_secs", self.longest_secs, 10, 600)?,
                silence: within("silence_secs", self.silence_secs, 2, 60)?,
            },
            shortest: within("shortest_secs", self.shortest_secs, 0, 60)?,
            calls: self.calls,
            mail: self.mail.clone(),
        };
        if let Some(mail) = &self.mail {
            if mail.server.is_empty() {
                return wrong("mail.server", "is empty: write the name of an SMTP server, as smtp.example.com");
            }
            if mail.ca_file.is_some() && mail.tls == Tls::None {
                return wrong("mail.ca_file", "is for certificates: write `tls: starttls` or `tls: tls`");
            }
            if mail.user.is_some() && mail.password.is_none() && mail.password_file.is_none() {
                return wrong("mail.user", "has no password: name the file that holds it in `password_file`");
            }
            if let Err(reason) = super::client::address(&mail.from) {
                return wrong("mail.from", &format!("is '{}': {reason}; write Voicemail <voicemail@example.com>", mail.from));
            }
            if let Some((extension, address)) = mail.addresses.iter().find(|(_, address)| super::client::address(address).is_err()) {
                return wrong("mail.addresses", &format!("has '{address}' for {extension}, which is no mail address"));
            }
        }
        Ok(self.enabled.then_some(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_and_slips_are_named() {
        assert!(Settings::default().check().is_ok_and(|config| config.is_some()));
        let mail = |from: &str, server: &str| Some(Mail { server: server.into(), from: from.into(), ..Mail::default() });
        let good = || mail("a@example.com", "smtp.example.com").expect("mail");
        for (settings, key) in [
            (Settings { code_own: "mine".into(), ..Settings::default() }, "`voicemail.code_own`"),
            (Settings { ring_secs: 1, ..Settings::default() }, "`voicemail.ring_secs`"),
            (Settings { messages: 0, ..Settings::default() }, "`voicemail.messages`"),
            (Settings { mail: mail("nobody", "x"), ..Settings::default() }, "`voicemail.mail.from`"),
            (Settings { mail: mail("a@example.com", ""), ..Settings::default() }, "`voicemail.mail.server`"),
            (Settings { mail: Some(Mail { user: Some("a".into()), ..good() }), ..Settings::default() }, "`voicemail.mail.user`"),
            (
                Settings { mail: Some(Mail { ca_file: Some("ca.pem".into()), tls: Tls::None, ..good() }), ..Settings::default() },
                "`voicemail.mail.ca_file`",
            ),
        ] {
            let told = settings.check().expect_err(key).to_string();
            assert!(told.starts_with(key), "{told}");
        }
        assert!(Settings { enabled: false, ..Settings::default() }.check().is_ok_and(|config| config.is_none()));
    }
}
