//! A desk phone in software: boots, fetches, registers, calls and listens as its make does, over real sockets.
//!
//! Used by `plugtone phone`, the demo, the story tests and load. It never calls inside the server.

pub mod audio;
pub mod boot;
pub mod desk;
mod encrypted;
pub mod ftp;
pub mod http;
pub mod keys;
pub mod make;
pub mod person;
pub mod settings;
pub mod tftp;
