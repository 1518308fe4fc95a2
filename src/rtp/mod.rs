//! RTP packets and telephone-events: RFC 3550, 4733.
