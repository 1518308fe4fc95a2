//! What an administrator writes in the file of routes, as written: `check.rs` makes a plan of it.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_yaml::Spanned;

use super::{number::Class, number::Form};
use crate::model::Extension;

type Text = Spanned<String>;

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Two letters: how people here dial, as `DE`.
    #[schemars(with = "Option<String>")]
    pub country: Option<Text>,
    /// Of numbers that are dialled without one, without the national prefix.
    #[schemars(with = "Option<String>")]
    pub area_code: Option<Text>,
    /// Dialled before every number outside, as `0`.
    #[schemars(with = "Option<String>")]
    pub outside_line: Option<Text>,
    /// IANA name; without it hours are those of the machine.
    #[schemars(with = "Option<String>")]
    pub time_zone: Option<Text>,
    /// Shown to people outside for who has no number of their own.
    #[schemars(with = "Option<String>")]
    pub main_number: Option<Text>,
    #[schemars(with = "BTreeMap<String, Vec<String>>")]
    pub holidays: BTreeMap<String, Vec<Text>>,
    #[schemars(with = "BTreeMap<String, HoursSettings>")]
    pub hours: BTreeMap<String, Spanned<HoursSettings>>,
    pub permissions: Permissions,
    /// Numbers that cost otherwise than libphonenumber's tables say.
    #[schemars(with = "BTreeMap<Class, Vec<String>>")]
    pub classes: BTreeMap<Class, Vec<Text>>,
    pub blocked: Blocked,
    pub emergency: Emergency,
    #[schemars(with = "BTreeMap<String, TrunkSettings>")]
    pub trunks: BTreeMap<String, Spanned<TrunkSettings>>,
    /// Short numbers from inside.
    #[schemars(with = "Vec<DialRule>")]
    pub dial: Vec<Spanned<DialRule>>,
    #[schemars(with = "Vec<InboundRule>")]
    pub inbound: Vec<Spanned<InboundRule>>,
    #[schemars(with = "Vec<OutboundRule>")]
    pub outbound: Vec<Spanned<OutboundRule>>,
    #[schemars(with = "Vec<Test>")]
    pub tests: Vec<Spanned<Test>>,
}

#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HoursSettings {
    /// Days and their hours, as `mon-thu: 08:00-12:00, 13:00-18:00`.
    #[schemars(with = "BTreeMap<String, String>")]
    pub open: BTreeMap<String, Text>,
    /// Lists of holidays on which it is closed.
    #[schemars(with = "Vec<String>")]
    pub closed_on: Vec<Text>,
}

/// Who may call what.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Permissions {
    /// Everybody.
    pub default: Vec<Class>,
    /// Members of a group of the directory, beside what everybody may.
    pub groups: BTreeMap<String, Vec<Class>>,
}

impl Default for Permissions {
    fn default() -> Self {
        Self { default: vec![Class::Internal, Class::National], groups: BTreeMap::new() }
    }
}

#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Blocked {
    /// Numbers that nobody may call.
    #[schemars(with = "Vec<String>")]
    pub outgoing: Vec<Text>,
    /// Callers from outside who reach nobody.
    #[schemars(with = "Vec<String>")]
    pub incoming: Vec<Text>,
    /// Callers from outside who hide their number reach nobody.
    pub anonymous: bool,
}

#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Emergency {
    #[schemars(with = "Vec<String>")]
    pub numbers: Vec<Text>,
    /// Tried in order, however busy or ill they are.
    #[schemars(with = "Vec<String>")]
    pub trunks: Vec<Text>,
    /// Ring when no trunk takes the call, or where there is none.
    pub extensions: Vec<Extension>,
    /// Shown to the emergency service where no location says otherwise: it calls back there.
    #[schemars(with = "Option<String>")]
    pub caller_id: Option<Text>,
    #[schemars(with = "Vec<LocationRule>")]
    pub locations: Vec<Spanned<LocationRule>>,
    #[schemars(with = "Option<EmergencyTest>")]
    pub test: Option<Spanned<EmergencyTest>>,
}

/// What the emergency service is told of the place of a phone.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocationRule {
    /// Locations of devices, as `plugtone devices` shows them; `*` stands for anything.
    #[schemars(with = "String")]
    pub device: Text,
    /// For people: logs and events.
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub caller_id: Option<Text>,
    /// URI for the Geolocation header (RFC 6442).
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub geolocation: Option<Text>,
}

/// How emergency calls are tried out without calling anybody for help.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmergencyTest {
    /// Dialled instead of the real number, as `*112`.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub numbers: Vec<Text>,
    /// Where such calls go: an extension, or another number by the same trunks.
    pub to: TestTarget,
    /// The real numbers go there too: for a lab, never for an office.
    #[serde(default)]
    pub instead: bool,
}

#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TestTarget {
    Extension(Extension),
    Number(#[schemars(with = "String")] Text),
}

/// A short number from inside.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DialRule {
    #[serde(default)]
    pub name: Option<String>,
    #[schemars(with = "Vec<String>")]
    pub numbers: Vec<Text>,
    #[serde(default)]
    pub when: When,
    pub to: Target,
}

/// Calls from outside.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InboundRule {
    #[serde(default)]
    pub name: Option<String>,
    /// Called numbers; without any: all.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub numbers: Vec<Text>,
    /// Trunks that it counts for; without any: all.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub trunks: Vec<Text>,
    /// Callers that it counts for; without any: all.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub callers: Vec<Text>,
    #[serde(default)]
    pub when: When,
    pub to: Target,
}

/// Calls to the outside.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutboundRule {
    #[serde(default)]
    pub name: Option<String>,
    /// `+49…` is held against the international number, anything else against what was dialled after the outside line.
    /// Without any: all numbers that can be made international.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub numbers: Vec<Text>,
    /// What the call costs; without any: whatever.
    #[serde(default)]
    pub classes: Vec<Class>,
    /// Groups of the directory; without any: everybody.
    #[serde(default)]
    pub groups: Vec<String>,
    #[serde(default)]
    pub when: When,
    /// In order: the next is tried when one fails, is full or is not there.
    #[schemars(with = "Vec<String>")]
    pub trunks: Vec<Text>,
    /// What people outside see: `user`, `main`, `withheld`, or a number.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub caller_id: Option<Text>,
}

/// When a rule counts. More than one: all must hold.
#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct When {
    /// Within these hours.
    #[schemars(with = "Option<String>")]
    pub open: Option<Text>,
    /// Outside of these hours.
    #[schemars(with = "Option<String>")]
    pub closed: Option<Text>,
    /// On days of this list of holidays.
    #[schemars(with = "Option<String>")]
    pub holiday: Option<Text>,
}

/// Where a call goes.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    Extension(Extension),
    /// All at once.
    Extensions(Vec<Extension>),
    /// The extension that these last digits of the number are.
    LastDigits(u8),
    /// A number as a user dials it, which is looked at from the beginning.
    Number(#[schemars(with = "String")] Text),
    /// The voice menu that asks who you are: for callers from inside only.
    Menu,
    Reject(Reject),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reject {
    Busy,
    Unavailable,
    NotFound,
}

/// A way to the outside.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrunkSettings {
    /// The provider: a name or address, with a port where it is not the usual one. A name without a port is looked up by its SRV
    /// records (RFC 3263), then by its addresses.
    #[schemars(with = "String")]
    pub host: Text,
    #[serde(default)]
    pub transport: Transport,
    /// For `tls`: PEM file of the authority that signed the provider's certificate, where it is none of `tls.trust`.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The domain of the account, where it is not `host`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub domain: Option<Text>,
    /// Account, for providers that want a log-in. Without it the provider knows us by our address.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub user: Option<Text>,
    /// What the digest names, where it is not `user`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub login: Option<Text>,
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Register there, so that calls find us.
    #[serde(default)]
    pub register: bool,
    #[serde(default = "default_expires_secs")]
    pub expires_secs: u32,
    /// Networks that calls may come from without a log-in, beside the addresses of `host`.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub accept_from: Vec<Text>,
    /// How numbers are written on this trunk.
    #[serde(default)]
    pub numbers: Form,
    #[serde(default)]
    pub caller_id: CallerIdForm,
    #[serde(default)]
    pub diverted_shows: DivertedShows,
    /// The sound of its calls goes from phone to provider, past the server, where both can: phones must reach the provider.
    #[serde(default)]
    pub direct_media: bool,
    /// Calls at once, both ways; 0: no limit.
    #[serde(default)]
    pub max_calls: usize,
    /// New calls a second to the outside; 0: no limit.
    #[serde(default)]
    pub calls_per_second: u32,
    /// Seconds between two OPTIONS that ask whether it is there; 0: it is never asked.
    #[serde(default = "default_options_secs")]
    pub options_secs: u32,
    /// Seconds that it may be silent after an INVITE before the next trunk is tried.
    #[serde(default = "default_silence_secs")]
    pub silence_secs: u32,
}

fn default_expires_secs() -> u32 {
    600
}

fn default_options_secs() -> u32 {
    30
}

fn default_silence_secs() -> u32 {
    6
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    #[default]
    Udp,
    Tcp,
    /// The provider's certificate must be one for `host` (RFC 5922). Needs `sip.tls`.
    Tls,
}

/// Where a trunk reads and writes who calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CallerIdForm {
    /// P-Asserted-Identity (RFC 3325) and From.
    #[default]
    PAssertedIdentity,
    /// P-Preferred-Identity and From.
    PPreferredIdentity,
    /// From alone.
    From,
    /// The account in From, the caller in P-Asserted-Identity: for providers that check From against the account.
    Account,
}

/// Whom a call from outside shows that one of our users has diverted to the outside again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DivertedShows {
    /// The user, as any call of theirs: every provider takes it.
    #[default]
    User,
    /// The first caller in From, and the user beside it: where the provider lets foreign numbers pass (CLIP no screening).
    Caller,
}

/// A call that is tried when the file is checked.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Test {
    /// An extension, `unbound` for a phone without owner, or with `trunk` the number of somebody outside.
    #[serde(default)]
    pub from: Option<String>,
    /// Groups of the directory that the caller is in.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Where the caller's phone is.
    #[serde(default)]
    pub location: Option<String>,
    /// The call comes from outside, by this trunk.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub trunk: Option<Text>,
    pub to: String,
    /// Local time, as `2026-12-24 18:05`; a Wednesday at ten if absent.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub at: Option<Text>,
    /// Positions of the night switches that are not `auto`.
    #[serde(default)]
    pub switches: BTreeMap<String, super::hours::Switch>,
    pub expect: Expect,
}

/// What must come of it. What is absent may be anything.
#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// `menu`, `extensions`, `outside`, `emergency`, or `refused`.
    pub outcome: Option<String>,
    /// The name of the rule that wins.
    pub rule: Option<String>,
    pub extensions: Option<Vec<Extension>>,
    /// Trunks in order.
    pub trunks: Option<Vec<String>>,
    /// The number as the first trunk gets it.
    pub number: Option<String>,
    /// What people outside see; `withheld` for nothing.
    pub caller_id: Option<String>,
    pub class: Option<Class>,
    /// The beginning of why it is refused.
    pub reason: Option<String>,
    /// The name of the location that the emergency service is told.
    pub location: Option<String>,
}
