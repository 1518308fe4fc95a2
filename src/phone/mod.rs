//! A desk phone in software: boots, fetches, registers, calls and listens as its make does.
