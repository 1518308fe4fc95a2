//! Legs, bridges, routing: what a call means.
