//! What is known of a device, a user, a lease and a binding: the rows that the store keeps.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{Extension, FamilyName, Generation, LineNumber, MacAddr, Timestamp};

/// Where a device stands between the box and the first call (`binding/state.rs` holds the rules).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// Seen on the network, nothing given yet but perhaps an address.
    Unknown,
    /// Has, or is about to have, an identity that reaches only the IVR and emergency numbers.
    Provisional,
    /// Its user is talking to the IVR.
    Authenticating,
    /// An owner is stored; the phone does not know yet.
    Bound,
    /// The phone was told to reload and has not come back as its owner.
    Reloading,
    /// Registered with the secret of its present binding.
    InService,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRecord {
    pub mac: MacAddr,
    pub family: Option<FamilyName>,
    pub model: Option<String>,
    pub firmware: Option<String>,
    pub state: DeviceState,
    /// Counts up at each bind and unbind of any line.
    pub generation: Generation,
    /// [`DeviceRecord::NEVER`]: it was written down before it came.
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
    pub address: Option<Ipv4Addr>,
    /// Where it is, as an admin has written.
    pub location: Option<String>,
    /// The switch port that it is plugged into, as its DHCP relay or its switch says (option 82): its place where nobody wrote
    /// another.
    pub port: Option<String>,
    pub inventory: Inventory,
}

impl DeviceRecord {
    /// Of a device that was written down before anybody saw it.
    pub const NEVER: Timestamp = Timestamp(i64::MIN);
}

/// What an admin has written of a device, beside its place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// What people call it, as `reception`.
    pub label: Option<String>,
    /// A group of `overrides.yaml` that the device itself is in, whoever owns it.
    pub group: Option<String>,
    pub notes: Option<String>,
    /// Devices that it stands for, as it has replaced them: what `overrides.yaml` sets for those holds for it too, the last above.
    pub stands_for: Vec<MacAddr>,
}

/// Somebody in the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Stable name in the directory: the DN for LDAP, the key for the file.
    pub id: String,
    /// What the user keys in to say who they are: an employee number or the extension.
    pub login: String,
    pub display_name: String,
    pub mail: Option<String>,
    /// From the directory; `None` when one of the range is to be given.
    pub extension: Option<Extension>,
    pub groups: Vec<String>,
}

/// Whose line it is. At most one per device and line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingRecord {
    pub mac: MacAddr,
    pub line: LineNumber,
    pub user_id: String,
    pub display_name: String,
    pub extension: Extension,
    pub generation: Generation,
    pub since: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// In use until it expires.
    Active,
    /// Given back by the client; kept so that it gets the same address again.
    Released,
    /// Somebody else answered on it: not handed out before it expires.
    Declined,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    pub address: Ipv4Addr,
    pub mac: MacAddr,
    /// Option 61 as sent; empty when the client sent none and is known by its MAC.
    pub client_id: Vec<u8>,
    pub state: LeaseState,
    pub starts: Timestamp,
    pub expires: Timestamp,
    /// As the client named itself (option 12), printable part only.
    pub hostname: Option<String>,
    /// Recognised from the request.
    pub family: Option<FamilyName>,
    /// Relay that the request came through (giaddr), and its option 82 as sent.
    pub relay: Option<Ipv4Addr>,
    pub relay_info: Option<Vec<u8>>,
}

/// An address of IPv6 that a client has for one of its interfaces (an IA of RFC 8415 §12).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease6Record {
    pub address: Ipv6Addr,
    /// Who the client is, by its own word, and its number for the IA.
    pub duid: Vec<u8>,
    pub iaid: u32,
    /// As its relay, its link-local address or its DUID say; some say none.
    pub mac: Option<MacAddr>,
    pub state: LeaseState,
    pub starts: Timestamp,
    pub expires: Timestamp,
    /// Recognised from the request.
    pub family: Option<FamilyName>,
    /// Its own address on its link.
    pub peer: Ipv6Addr,
    /// The link that a relay heard it on, and what that says of the switch port: its options 18 and 37 as sent.
    pub relay: Option<Ipv6Addr>,
    pub port: Option<Vec<u8>>,
}
