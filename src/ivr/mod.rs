//! Call flows as data, the machine that runs them, and how digits are collected.
