//! The integration tests: one binary, so that they link once. `scripts/test` runs them all.

mod ivr;
mod media;
mod store;
mod tree;
