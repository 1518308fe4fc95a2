//! Standard output: lines, JSON, and whether there may be colour. When nobody reads on, the program ends quietly.

use std::{
    fmt,
    io::{ErrorKind, IsTerminal, Write},
};

use serde::Serialize;

/// `println!` for output that may be piped: a closed pipe (`| head`) is the reader's way to say "enough".
macro_rules! say {
    () => { $crate::cli::out::line(format_args!("")) };
    ($($words:tt)*) => { $crate::cli::out::line(format_args!($($words)*)) };
}
pub(crate) use say;

pub fn line(words: fmt::Arguments<'_>) {
    text(&format!("{words}\n"));
}

/// As it is, in one piece.
pub fn text(text: &str) {
    let mut out = std::io::stdout().lock();
    let error = match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => return,
        Err(error) => error,
    };
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    eprintln!("plugtone: cannot write to standard output: {error}");
    std::process::exit(1);
}

/// Pretty JSON, for an answer as a whole.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    say!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// JSON in one line, for what comes one by one.
pub fn json_line(value: &impl Serialize) -> anyhow::Result<()> {
    say!("{}", serde_json::to_string(value)?);
    Ok(())
}

/// Colour is for terminals, and for who did not say no (<https://no-color.org>).
pub fn may_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty())
}
