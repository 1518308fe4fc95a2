//! The rules unbound → authenticating → bound → in service; pure.
