//! Offer and answer: RFC 4566, 3264.
