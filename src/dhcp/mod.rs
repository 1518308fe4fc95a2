//! Leases and options for phones: RFC 2131, 2132, 3046.
