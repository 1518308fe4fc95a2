//! Messages, transports, transactions, dialogs, digest, registrar: RFC 3261 and friends.
