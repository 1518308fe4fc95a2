//! The vocabulary: ids, records and events that several folders speak of. No behaviour beyond parse, check and display.

pub mod device;
pub mod event;
pub mod ids;
pub mod mac;
pub mod secret;

pub use device::{BindingRecord, DeviceRecord, DeviceState, LeaseRecord, LeaseState, User};
pub use event::{Event, Events, Recorded};
pub use ids::{CallId, Extension, FamilyName, Generation, LineNumber, ParseExtensionError, Timestamp};
pub use mac::{MacAddr, ParseMacError};
pub use secret::{Keys, Secret};
