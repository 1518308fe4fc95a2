//! Gives every event its number, keeps the recent ones, fans them out, writes the timelines.
