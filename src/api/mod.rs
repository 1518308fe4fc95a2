//! HTTP/JSON for programs and people: calls, devices, users, bindings, events.
