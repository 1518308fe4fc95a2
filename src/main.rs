//! The command line's entrance; everything else is in the library.

fn main() {}
