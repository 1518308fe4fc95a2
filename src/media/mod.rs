//! Codecs, tones, players, DTMF detection, the worker threads of the 20 ms tick.
