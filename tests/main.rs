//! The integration tests: one binary, so that they link once. `scripts/test` runs them all.

mod api;
mod call;
mod call_transfer;
mod cli;
mod config;
mod dhcp;
mod doors;
mod e2e;
mod files;
mod ivr;
mod ivr_calls;
mod journal;
mod ldap;
mod media;
mod netns;
mod onboarding;
mod render;
mod rfc;
mod routes;
mod sip_differential;
mod sip_tls;
mod sip_transport;
mod sip_ws;
mod store;
mod story;
mod tree;
