//! Where a call goes: numbers, hours, permissions and ways to the outside, as a plan that can be asked and can say why.
//!
//! `settings.rs` is the file as written, `check.rs` makes a [`Plan`] of it, `plan.rs` decides. Pure: who is registered and
//! what a night switch stands at is asked of the [`Office`], the time is passed in. Not here: SIP, calls, whether a trunk is up.

mod check;
pub mod hours;
pub mod loader;
pub mod number;
pub mod pattern;
mod plan;
mod rehearsal;
pub mod settings;
mod trunk;

pub use check::check;
pub use plan::{Base, Decision, EmergencyCall, Hop, Office, Outcome, Outside, Party, Plan, Refusal, Shown, Step, Verdict, plain};
pub use rehearsal::{Rehearsal, parse_time};
pub use trunk::{Account, Trunk};
