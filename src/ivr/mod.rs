//! Call flows as data, the machine that runs them, and how digits are collected.
//!
//! `flow.rs` reads and checks a flow, `machine.rs` runs it, `collect.rs` takes keys, `speech.rs` turns digits, numbers and
//! names into recorded pieces, `simulate.rs` plays a scripted caller against all that without a network. `worker.rs` and
//! `loader.rs` are the shells: audio, directory, disk. Not here: how a call gets here (`call`), what binding means
//! (`binding`, `provisioning`).

pub mod collect;
pub mod confirmation;
pub mod diagnosis;
pub mod flow;
pub mod loader;
pub mod machine;
pub mod prompts;
pub mod settings;
pub mod simulate;
pub mod speech;
pub mod voice;
pub mod worker;
