//! Plugtone: a desk phone is plugged in, gets its address and files, asks its user who they are, and is theirs.
//!
//! The map, top down; `tests/tree.rs` holds who may import whom, ARCHITECTURE.md says why.

/// One file per subcommand: reads arguments, calls the library or the API, prints.
pub mod cli;
/// The YAML file as a whole: defaults, secrets, errors with line numbers.
pub mod config;
/// Builds every service, hands each its neighbours, stops all in order.
pub mod node;

/// HTTP/JSON for programs and people: calls, devices, users, bindings, events.
pub mod api;
/// The network as a phone meets it: what is wrong with it, and how it is mended.
pub mod doctor;
/// TFTP, FTP and HTTP: three doors onto one provisioning pipeline.
pub mod fileserver;
/// A desk phone in software: boots, fetches, registers, calls and listens as its make does.
pub mod phone;

/// Call flows as data, the machine that runs them, and how digits are collected.
pub mod ivr;
/// Voice messages: left by callers, heard by phone, by mail or by the API.
pub mod voicemail;

/// Legs, bridges, routing: what a call means.
pub mod call;
/// Request → which phone → may it → which variables → which file; the life of a device driven end to end.
pub mod provisioning;

/// The rules unbound → authenticating → bound → in service; pure.
pub mod binding;
/// Leases and options for phones: RFC 2131, 2132, 3046.
pub mod dhcp;
/// Who is this person? LDAP, and a YAML file for labs and small offices.
pub mod directory;
/// Forwards, do not disturb, ring groups, park places, star codes: what an office asks of its telephones; pure.
pub mod features;
/// Gives every event its number, keeps the recent ones, fans them out, writes the timelines.
pub mod journal;
/// Codecs, tones, players, DTMF detection, the worker threads of the 20 ms tick.
pub mod media;
/// Where a call goes: dial plan, numbers, hours, permissions, ways to the outside; a plan that says why.
pub mod routing;
/// RTP packets and telephone-events: RFC 3550, 4733.
pub mod rtp;
/// Offer and answer: RFC 4566, 3264.
pub mod sdp;
/// Messages, transports, transactions, dialogs, digest, registrar: RFC 3261 and friends.
pub mod sip;
/// What is kept on disk, and how to ask for it.
pub mod store;
/// Layered YAML and minijinja: (family, variables) → bytes.
pub mod template;
/// Who this server is to those who speak TLS: its certificate, and the authority behind it.
pub mod tls;

/// A thread with an event loop of its own, for a server that must not wait for others.
pub mod thread;
/// Datagrams by the system's own calls: many at once, each with the address of ours that it came to.
pub mod udp;
/// YAML that people edit → types, with faults that say where and what to do.
pub mod yaml;

/// The words everybody uses: MAC, extension, device, secret, event.
pub mod model;
