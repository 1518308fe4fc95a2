//! Layered YAML and minijinja: (family, variables) → bytes.
//!
//! `loader.rs` reads the shipped files and those that IT put over them; [`TemplateSet::load`] checks and compiles them, and
//! renders sample phones of every family, so that a bad set never goes live; [`TemplateSet::render`] is pure and byte-stable:
//! no clock, no randomness, the same [`Subject`] gives the same bytes (phones compare them to decide whether to restart).
//! [`TemplateSet::recognise_dhcp`] and [`TemplateSet::recognise_user_agent`] tell makes apart by the same files.
//!
//! [`TemplateSet::trace`] says where a line of a phone's file comes from.
//!
//! Not here: who may read a file (`provisioning/access.rs`), which phone asks (`provisioning/identify.rs`), DHCP's wire.

mod family;
mod fault;
pub mod firmware;
mod keys;
mod layers;
pub mod learn;
mod loader;
mod locate;
mod memo;
mod options;
mod pattern;
mod recognise;
mod render;
mod sample;
pub mod schema;
mod search;
mod set;
mod subject;
mod timezone;
mod trace;
pub mod worker;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use family::{Family, FileRef};
pub use fault::{Fault, Faults};
pub use firmware::{Due, Firmware};
pub use layers::{Layer, Layered, Origin};
pub use loader::{Templates, read, read_with, shipped};
pub use locate::UploadRule;
pub use memo::Kept;
pub use options::{Dhcp6Option, DhcpOption, DhcpValue, SendWhen};
pub use recognise::{DhcpFacts, Match, Recognised, Signs};
pub use render::Grammar;
pub use schema::{Capabilities, Readers, Reload};
pub use search::{Query, SearchKeys};
pub use set::{AUTHORITY_FILE, AUTHORITY_FILE_DER, MASK, Rendered, Source, TemplateSet};
pub use subject::{Contacts, Line, Server, SipPorts, Subject};
pub use trace::{Trace, Variable};

/// `templates:` in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// A folder with your own files, as `/etc/plugtone/templates`. A file there replaces the shipped one of the same name
    /// (`yealink.yaml`, `poly/user.xml.j2`), a new name adds a family; what is not there stays as shipped. Without it only
    /// the shipped files are used. Your sites, groups and single devices go into `overrides.yaml` there.
    pub path: Option<PathBuf>,
}
