//! Messages and exchanges that a standard prints, a file per standard; the bytes are in `tests/vectors/`.

pub mod rfc4475;
