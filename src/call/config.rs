//! What an admin may set about calls, and what it means.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    features::Rules,
    model::Extension,
    routing::{self, Plan},
    sdp::Codec,
    sip::{capture::Limits, ua},
};

/// The `calls` section of the configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What anybody dials to reach the voice menu. A phone without an owner reaches it by dialling anything.
    pub ivr_number: String,
    /// Emergency numbers and the extensions that ring for each, all at once. They work from every phone,
    /// also from one that nobody owns yet, and are never limited.
    pub emergency: BTreeMap<String, Vec<Extension>>,
    /// The file of routes: numbers inside and outside, hours, who may call what, trunks; as config/routes.yaml. Without it
    /// people call inside only.
    pub routes: Option<PathBuf>,
    /// Name servers that know where providers are, as `192.168.40.1` or `192.168.40.1:5353`. None: those of /etc/resolv.conf.
    pub name_servers: Vec<String>,
    /// Seconds that a called extension rings before the caller is told that nobody answers; 5 to 600.
    pub ring_timeout_secs: u64,
    /// Seconds after which a call must have been confirmed by one side or the other, or it is taken for dead and ended
    /// (RFC 4028): 90 to 86400. With a phone or trunk that knows nothing of this it is not done. 0: only where they ask for it.
    pub session_expires_secs: u32,
    /// Who asks for less is told to ask for this; 90 or more.
    pub session_min_secs: u32,
    /// Sound formats that may be used, best first: `pcma`, `pcmu`, `g722`.
    pub codecs: Vec<String>,
    /// The sound of calls between phones goes past the server, from phone to phone, where both can, once they talk; it comes back
    /// for music on hold and transfers. For large sites or thin lines: keys and recordings, silence and quality are not seen then,
    /// and a phone must take sound whose source has changed: try it with yours. Of calls by a trunk
    /// the trunk says the same (`direct_media` of the routes).
    pub direct_media: bool,
    /// What a caller on hold hears: `tune`, our own; `silence`; or the path of a WAV file (PCM, mono or stereo, any usual rate).
    pub hold_music: String,
    /// Calls at once. Beyond it new ones are refused with 503 and told to try later; those that are up are not harmed.
    pub max_calls: usize,
    /// Calls at once of one phone that has no owner.
    pub max_calls_unbound: usize,
    /// Calls at once of one extension.
    pub max_calls_extension: usize,
    /// Phones of one extension that ring at once.
    pub max_contacts: usize,
    /// KiB of SIP messages kept of one side of a call, to be looked at with `plugtone calls ladder`.
    pub capture_side_kib: usize,
    /// MiB of them in all; 0 keeps nothing.
    pub capture_mib: usize,
    /// Minutes that they are kept after the call, if there is room.
    pub capture_minutes: u64,
    /// Seconds told in `Retry-After` when there is too much to do.
    pub retry_after_secs: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ivr_number: "0".to_owned(),
            emergency: BTreeMap::new(),
            routes: None,
            name_servers: Vec::new(),
            ring_timeout_secs: 45,
            session_expires_secs: ua::Session::default().expires_secs,
            session_min_secs: ua::Session::default().min_secs,
            codecs: vec!["pcma".to_owned(), "pcmu".to_owned()],
            direct_media: false,
            hold_music: "tune".to_owned(),
            max_calls: 2000,
            max_calls_unbound: 2,
            max_calls_extension: 8,
            max_contacts: 8,
            capture_side_kib: 128,
            capture_mib: 64,
            capture_minutes: 60,
            retry_after_secs: 10,
        }
    }
}

/// What is wrong with the section: the key, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("`calls.ivr_number` is '{0}': write 1 to 15 digits, `*` or `#`, as 0 or *99")]
    IvrNumber(String),
    #[error("`calls.emergency` has the number '{0}': write 2 to 15 digits, as 112")]
    EmergencyNumber(String),
    #[error("`calls.emergency` names nobody for {0}: list at least one extension")]
    EmergencyTarget(String),
    #[error("`calls.emergency` has {0}, which is `calls.ivr_number`: choose another number for the voice menu")]
    EmergencyIsIvr(String),
    #[error("`calls.ring_timeout_secs` is {0}: write 5 to 600")]
    RingTimeout(u64),
    #[error("`calls.session_expires_secs` is {0}: write 90 to 86400, not less than `calls.session_min_secs`, or 0")]
    SessionExpires(u32),
    #[error("`calls.session_min_secs` is {0}: write 90 to 86400")]
    SessionMin(u32),
    #[error("`calls.codecs` has '{0}': known are pcma, pcmu and g722")]
    Codec(String),
    #[error("`calls.hold_music` is empty: write tune, silence, or the path of a WAV file")]
    NoMusic,
    #[error("`calls.codecs` is empty: list at least pcma or pcmu")]
    NoCodec,
    #[error("`calls.name_servers` has '{0}': write an address, as 192.168.40.1 or 192.168.40.1:5353")]
    NameServer(String),
    #[error("`calls.{0}` is 0: write at least 1")]
    Zero(&'static str),
}

/// What a caller on hold hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldMusic {
    Silence,
    /// Made by ourselves.
    Tune,
    File(PathBuf),
}

/// The section after [`Settings::check`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Where calls go.
    pub plan: Arc<Plan>,
    pub ring_timeout: Duration,
    pub session: ua::Session,
    pub codecs: Vec<Codec>,
    pub direct_media: bool,
    pub hold_music: HoldMusic,
    pub max_calls: usize,
    pub max_calls_unbound: usize,
    pub max_calls_extension: usize,
    pub max_contacts: usize,
    pub retry_after_secs: u32,
    /// None: the system's.
    pub name_servers: Vec<SocketAddr>,
    pub capture: Limits,
    /// Groups, park places, star codes.
    pub features: Arc<Rules>,
    /// Whoever reads the whole file puts it there; `None`: there is no voicemail.
    pub voicemail: Option<VoicemailRules>,
}

/// How voicemail is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoicemailRules {
    /// Dialled for one's own mailbox, for any with a PIN, and with an extension to leave a message there. Empty: off.
    pub own: String,
    pub any: String,
    pub direct: String,
    /// How long an extension with a mailbox rings.
    pub ring: Duration,
    /// Extensions that have no mailbox.
    pub without: Vec<Extension>,
}

impl Settings {
    /// What a plan of routes stands on.
    pub fn base(&self) -> routing::Base {
        routing::Base { ivr_number: self.ivr_number.clone(), emergency: self.emergency.clone() }
    }

    /// The rules of this section alone. Whoever reads files puts the plan of `routes` into [`Config::plan`],
    /// and the section `features` into [`Config::features`].
    pub fn check(&self) -> Result<Config, Error> {
        if !is_dialable(&self.ivr_number, 1) {
            return Err(Error::IvrNumber(self.ivr_number.clone()));
        }
        for (number, targets) in &self.emergency {
            if !is_dialable(number, 2) || !number.bytes().all(|b| b.is_ascii_digit()) {
                return Err(Error::EmergencyNumber(number.clone()));
            }
            if targets.is_empty() {
                return Err(Error::EmergencyTarget(number.clone()));
            }
            if *number == self.ivr_number {
                return Err(Error::EmergencyIsIvr(number.clone()));
            }
        }
        if !(5..=600).contains(&self.ring_timeout_secs) {
            return Err(Error::RingTimeout(self.ring_timeout_secs));
        }
        let session = ua::Session { expires_secs: self.session_expires_secs, min_secs: self.session_min_secs };
        if !(ua::LEAST_SESSION_SECS..=86_400).contains(&session.min_secs) {
            return Err(Error::SessionMin(session.min_secs));
        }
        if session.expires_secs != 0 && !(session.min_secs..=86_400).contains(&session.expires_secs) {
            return Err(Error::SessionExpires(session.expires_secs));
        }
        let mut codecs = Vec::new();
        for word in &self.codecs {
            let codec = Codec::ALL.into_iter().find(|codec| codec.name().eq_ignore_ascii_case(word));
            let codec = codec.ok_or_else(|| Error::Codec(word.clone()))?;
            if !codecs.contains(&codec) {
                codecs.push(codec);
            }
        }
        if codecs.is_empty() {
            return Err(Error::NoCodec);
        }
        let hold_music = match self.hold_music.as_str() {
            "" => return Err(Error::NoMusic),
            "tune" => HoldMusic::Tune,
            "silence" => HoldMusic::Silence,
            path => HoldMusic::File(path.into()),
        };
        let server = |text: &String| {
            let at = text.parse().or_else(|_| text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53)));
            at.map_err(|_| Error::NameServer(text.clone()))
        };
        let name_servers = self.name_servers.iter().map(server).collect::<Result<_, _>>()?;
        for (key, value) in [
            ("max_calls", self.max_calls),
            ("max_calls_unbound", self.max_calls_unbound),
            ("max_calls_extension", self.max_calls_extension),
            ("max_contacts", self.max_contacts),
        ] {
            if value == 0 {
                return Err(Error::Zero(key));
            }
        }
        Ok(Config {
            plan: Arc::new(Plan::inside_only(self.base())),
            ring_timeout: Duration::from_secs(self.ring_timeout_secs),
            session,
            codecs,
            direct_media: self.direct_media,
            hold_music,
            max_calls: self.max_calls,
            max_calls_unbound: self.max_calls_unbound,
            max_calls_extension: self.max_calls_extension,
            max_contacts: self.max_contacts,
            retry_after_secs: self.retry_after_secs,
            name_servers,
            features: Arc::default(),
            capture: Limits {
                per_side: self.capture_side_kib << 10,
                total: self.capture_mib << 20,
                keep: Duration::from_secs(self.capture_minutes * 60),
            },
            voicemail: None,
        })
    }
}

fn is_dialable(number: &str, least: usize) -> bool {
    (least..=15).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'*' | b'#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_and_slips_are_named() {
        assert!(Settings::default().check().is_ok());
        let with = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.check().map(|_| ()).unwrap_err()
        };
        assert_eq!(with(|s| s.ivr_number = "ivr".into()), Error::IvrNumber("ivr".into()));
        assert_eq!(with(|s| s.codecs = vec!["opus".into()]), Error::Codec("opus".into()));
        assert_eq!(with(|s| s.codecs.clear()), Error::NoCodec);
        assert_eq!(with(|s| s.hold_music.clear()), Error::NoMusic);
        assert_eq!(with(|s| s.ring_timeout_secs = 1), Error::RingTimeout(1));
        assert_eq!(with(|s| s.session_expires_secs = 89), Error::SessionExpires(89));
        assert_eq!(with(|s| s.session_min_secs = 30), Error::SessionMin(30));
        assert_eq!(with(|s| s.max_calls = 0), Error::Zero("max_calls"));
        assert_eq!(with(|s| s.name_servers = vec!["dns".into()]), Error::NameServer("dns".into()));
        assert_eq!(with(|s| drop(s.emergency.insert("112".into(), vec![]))), Error::EmergencyTarget("112".into()));
        assert_eq!(with(|s| drop(s.emergency.insert("11x".into(), vec!["1".parse().unwrap()]))), Error::EmergencyNumber("11x".into()));
    }
}
