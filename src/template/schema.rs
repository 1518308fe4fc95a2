//! The YAML files as written: shapes only. Unknown keys are errors with a suggestion; every setting keeps its line.

use std::{borrow::Cow, collections::BTreeMap};

use minijinja::Value;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};
use serde_yaml::Spanned;

use super::keys::{self, Keys};
use super::{render::Grammar, search::SearchKeys};

/// The JSON Schemas of the files, for editors.
pub fn family() -> Schema {
    SchemaGenerator::default().into_root_schema_for::<FamilyFile>()
}

pub fn defaults() -> Schema {
    SchemaGenerator::default().into_root_schema_for::<DefaultsFile>()
}

pub fn overrides() -> Schema {
    SchemaGenerator::default().into_root_schema_for::<OverridesFile>()
}

pub fn firmware() -> Schema {
    SchemaGenerator::default().into_root_schema_for::<super::firmware::FirmwareFile>()
}

pub fn timezones() -> Schema {
    SchemaGenerator::default().into_root_schema_for::<ZonesFile>()
}

/// `templates/<family>.yaml`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FamilyFile {
    /// For people: `Yealink T2 to T8, CP, W`.
    pub(super) name: String,
    #[serde(default)]
    pub(super) recognise: Recognise,
    /// Numbers that a make writes into file names instead of its models' names.
    #[serde(default)]
    pub(super) model_codes: BTreeMap<u32, Vec<String>>,
    #[serde(default)]
    #[schemars(with = "Vec<DhcpEntry>")]
    pub(super) dhcp: Vec<Spanned<DhcpEntry>>,
    /// What DHCPv6 tells them in its vendor options (17). Where their files are it tells in option 59 by itself.
    #[serde(default)]
    #[schemars(with = "Vec<Dhcp6Entry>")]
    pub(super) dhcp6: Vec<Spanned<Dhcp6Entry>>,
    /// Where phones that ask by multicast (SIP plug and play) are sent to, in minijinja; without it they are not answered.
    #[schemars(with = "Option<String>")]
    pub(super) pnp: Option<Spanned<String>>,
    /// What a soft phone's link looks like (`plugtone phones link`), in minijinja: it sees `link.url`, `link.token` (the URL's last part)
    /// and `link.login`. Without it the link is the URL. If it makes nothing, a setting is missing that the top of this file names.
    #[schemars(with = "Option<String>")]
    pub(super) link: Option<Spanned<String>>,
    #[schemars(with = "Vec<FileEntry>")]
    pub(super) files: Vec<Spanned<FileEntry>>,
    #[serde(default)]
    #[schemars(with = "Vec<UploadEntry>")]
    pub(super) uploads: Vec<Spanned<UploadEntry>>,
    pub(super) reload: Reload,
    #[serde(default)]
    pub(super) capabilities: Capabilities,
    #[serde(default)]
    pub(super) variables: Variables,
    #[serde(default)]
    pub(super) models: Vec<ModelEntry>,
}

#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Recognise {
    /// First three bytes of the MAC (or more, for a part of a range): `001565`.
    #[schemars(with = "Vec<String>")]
    pub(super) ouis: Vec<Spanned<String>>,
    #[schemars(with = "Vec<VendorClass>")]
    pub(super) vendor_classes: Vec<Spanned<VendorClass>>,
    #[schemars(with = "Vec<String>")]
    pub(super) host_names: Vec<Spanned<String>>,
    /// The maker's numbers (IANA's private enterprise numbers), as option 16 of DHCPv6 begins with: for makers of phones.
    pub(super) enterprises: Vec<u32>,
    /// Options that only phones ask for (in option 55): the last resort, for makes that nothing else tells.
    pub(super) asks_for: Vec<u8>,
    /// What asks for them and is no phone, by the beginning of option 60.
    pub(super) never: Vec<String>,
    /// Regular expressions over the User-Agent; the groups `model`, `fw` and `mac` are taken from it.
    #[schemars(with = "Vec<String>")]
    pub(super) user_agents: Vec<Spanned<String>>,
}

/// One way to know a make by DHCP option 60. Compared as bytes, trailing NULs ignored.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct VendorClass {
    pub(super) exact: Option<String>,
    pub(super) prefix: Option<String>,
    pub(super) contains: Option<String>,
    /// First bytes in hex, for makes that send binary.
    pub(super) hex_prefix: Option<String>,
    /// Finds the model in it: a regular expression over bytes with a group `model`.
    pub(super) model: Option<String>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DhcpEntry {
    pub(super) code: u8,
    pub(super) kind: OptionKind,
    /// minijinja; an empty result leaves the option out.
    #[serde(default)]
    pub(super) value: String,
    /// For kind `nested`: code → text.
    #[serde(default)]
    pub(super) nested: BTreeMap<u8, String>,
    #[serde(default)]
    pub(super) send: Send,
}

/// One value in a vendor option of DHCPv6 (RFC 8415 §21.17).
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Dhcp6Entry {
    /// Whose codes they are: IANA's private enterprise number.
    pub(super) enterprise: u32,
    pub(super) code: u16,
    pub(super) kind: Option6Kind,
    /// minijinja; an empty result leaves it out.
    pub(super) value: String,
    #[serde(default)]
    pub(super) send: Send,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Option6Kind {
    Text,
    /// IPv6 addresses with blanks or commas between them.
    Addresses,
    U8,
    U16,
    U32,
    Hex,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum OptionKind {
    Text,
    /// IPv4 addresses with blanks or commas between them.
    Addresses,
    U8,
    U16,
    U32,
    I32,
    Hex,
    /// Option 120 (RFC 3361): addresses, or domain names.
    SipServers,
    /// Options in an option, as snom reads 43: the texts of `nested`.
    Nested,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Send {
    /// Even when the phone did not list it in option 55 (6 of DHCPv6).
    #[default]
    Always,
    Asked,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FileEntry {
    pub(super) name: String,
    #[serde(default = "plain")]
    pub(super) content_type: String,
    pub(super) grammar: Grammar,
    #[serde(default)]
    pub(super) readers: Readers,
    /// Carries the account: fetching it is what a reload after binding waits for.
    #[serde(default)]
    pub(super) account: bool,
    /// The name under which the account is given encrypted, as `{mac}.enc`: AES-256-CBC by a key of the phone's own (`file_key`), in the
    /// form of OpenSSL's `enc`. By ways that others may listen to a phone that wants it so (`file_encryption`) then gets the plain file
    /// with `key_only`.
    pub(super) encrypted_name: Option<String>,
    /// Is, or has in it, the phone book: it sees `contacts`, and who was given it is not kept.
    #[serde(default)]
    pub(super) phone_book: bool,
    /// Of a phone book that is searched: by which words behind the `?` of its URL. `contact_numbers` are the found ones then, and `found`
    /// says how many there are.
    pub(super) search: Option<SearchKeys>,
    /// minijinja, here …
    #[schemars(with = "Option<String>")]
    pub(super) body: Option<Spanned<String>>,
    /// … or in a file beside, as `yealink/account.cfg.j2`.
    #[schemars(with = "Option<String>")]
    pub(super) template: Option<Spanned<String>>,
    /// What stands for "nothing" after `key =`, as Yealink's `%NULL%`.
    pub(super) empty: Option<String>,
}

fn plain() -> String {
    "text/plain".to_owned()
}

/// Who may read a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Readers {
    /// The phone that it is about, and only after it proved itself.
    #[default]
    Own,
    /// Everybody: such a file is rendered without MAC, lines and passwords, so that it cannot leak what it does not have.
    Anyone,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UploadEntry {
    pub(super) name: String,
    pub(super) max_bytes: usize,
    /// The phone reads back what it wrote (Poly's overrides and directory).
    #[serde(default)]
    pub(super) serve_back: bool,
}

/// How a running phone is made to fetch its files again: values of the NOTIFY's Event header (RFC 6665 §8.2.1).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reload {
    /// Without restart, where the make can.
    pub soft: String,
    /// With restart.
    pub hard: String,
    /// The phone answers 401 and wants the line's own digest credentials.
    #[serde(default)]
    pub challenge: bool,
}

/// What the make's template can set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Capabilities {
    /// Lifting the receiver calls the IVR while nobody owns the phone.
    pub hotline: bool,
    /// Keys are sent as RFC 4733 events.
    pub rfc4733: bool,
    /// The shortest time between two fetches that the phone can be told, minutes; 0: it does not poll.
    pub poll_minutes_min: u32,
    pub lines_max: u8,
    /// Its template tells the phone where its firmware is.
    pub firmware: bool,
    /// Asks by DHCPINFORM where the answer of the server that leased names no file server.
    pub inform: bool,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelEntry {
    /// A name with `*` for any letters: `T4?S` is written `T4*S`.
    pub(super) model: String,
    #[serde(default)]
    pub(super) variables: Variables,
}

/// `templates/defaults.yaml`.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DefaultsFile {
    pub(super) variables: Variables,
}

/// `templates/overrides.yaml`: what an office sets for its sites, groups, people and single devices.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct OverridesFile {
    pub(super) sites: BTreeMap<String, SiteEntry>,
    pub(super) groups: BTreeMap<String, GroupEntry>,
    /// By extension or by the directory's id.
    pub(super) users: BTreeMap<String, Variables>,
    /// By MAC address.
    #[schemars(with = "BTreeMap<String, DeviceEntry>")]
    pub(super) devices: BTreeMap<String, Spanned<DeviceEntry>>,
}

#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SiteEntry {
    #[schemars(with = "Vec<String>")]
    pub(super) subnets: Vec<ipnet::IpNet>,
    pub(super) variables: Variables,
}

#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct GroupEntry {
    /// Extensions or the directory's ids.
    pub(super) members: Vec<String>,
    pub(super) variables: Variables,
}

#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DeviceEntry {
    /// For a rebadged phone that is taken for another make.
    pub(super) family: Option<String>,
    pub(super) model: Option<String>,
    pub(super) variables: Variables,
}

/// `templates/timezones.yaml`: name → POSIX `TZ` string.
pub(super) type ZonesFile = BTreeMap<String, String>;

/// Name → value. Keys of phones have a shape of their own, so that a fault in one is told with its line.
#[derive(Debug, Default)]
pub(super) struct Variables(pub(super) BTreeMap<String, Spanned<Setting>>);

impl JsonSchema for Variables {
    fn schema_name() -> Cow<'static, str> {
        "Variables".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let keys = generator.subschema_for::<Keys>();
        let keys: BTreeMap<_, _> = keys::NAMES.iter().map(|name| (*name, &keys)).collect();
        json_schema!({
            "type": "object",
            "description": "variables as name: value",
            "properties": keys,
            "additionalProperties": { "type": ["string", "number", "boolean", "array", "object"] }
        })
    }
}

impl<'de> Deserialize<'de> for Variables {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Variables;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("variables as `name: value`")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Variables, A::Error> {
                let mut variables = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let written = if keys::NAMES.contains(&&*name) {
                        let Spanned { value, referenced, defined } = map.next_value::<Spanned<Keys>>()?;
                        Spanned { value: Setting(value.into()), referenced, defined }
                    } else {
                        map.next_value()?
                    };
                    variables.insert(name, written);
                }
                Ok(Variables(variables))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// A value as YAML has it: text, number, yes or no, list or map.
#[derive(Clone, Debug)]
pub(super) struct Setting(pub(super) Value);

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Setting;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("text, a number, true or false, a list or a map (for nothing write \"\")")
            }

            fn visit_bool<E>(self, v: bool) -> Result<Setting, E> {
                Ok(Setting(v.into()))
            }

            fn visit_i64<E>(self, v: i64) -> Result<Setting, E> {
                Ok(Setting(v.into()))
            }

            fn visit_u64<E>(self, v: u64) -> Result<Setting, E> {
                Ok(Setting(v.into()))
            }

            fn visit_f64<E>(self, v: f64) -> Result<Setting, E> {
                Ok(Setting(v.into()))
            }

            fn visit_str<E>(self, v: &str) -> Result<Setting, E> {
                Ok(Setting(v.into()))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Setting, A::Error> {
                let mut list = Vec::new();
                while let Some(Setting(value)) = seq.next_element()? {
                    list.push(value);
                }
                Ok(Setting(list.into()))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Setting, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((key, Setting(value))) = map.next_entry::<String, Setting>()? {
                    entries.insert(key, value);
                }
                Ok(Setting(Value::from(entries)))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
