//! The vocabulary: ids, records and events that several folders speak of. No behaviour beyond parse, check and display, and how tables
//! find what is a number.

/// The JSON Schema (draft 2020-12) of a type that has no shape of its own for serde to tell, for editors of YAML files.
#[macro_export]
macro_rules! written_as {
    ($type:ty, $schema:tt) => {
        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!($schema)
            }
        }
    };
}

pub mod device;
pub mod event;
pub mod hash;
pub mod ids;
pub mod mac;
pub mod secret;

pub use device::{BindingRecord, DeviceRecord, DeviceState, Inventory, Lease6Record, LeaseRecord, LeaseState, User};
pub use event::{Event, Events, Recorded};
pub use hash::NumberHash;
pub use ids::{CallId, Extension, FamilyName, Generation, LineNumber, ParseExtensionError, Timestamp};
pub use mac::{MacAddr, ParseMacError};
pub use secret::{Keys, Secret};

/// Bytes in hexadecimal, two small digits each.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
