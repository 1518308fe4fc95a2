//! Aligned columns for a terminal, plain tabs and no colour for anything else.

use std::io::{IsTerminal, Write};

/// Prints `rows` under `titles`; says `none` when there are no rows.
pub fn print(titles: &[&str], rows: &[Vec<String>], none: &str) {
    let mut out = std::io::stdout().lock();
    // A closed pipe (`| head`) is the reader's way to say "enough".
    let _ = write(&mut out, titles, rows, none, std::io::stdout().is_terminal());
}

fn write(out: &mut impl Write, titles: &[&str], rows: &[Vec<String>], none: &str, terminal: bool) -> std::io::Result<()> {
    if rows.is_empty() {
        return writeln!(out, "{none}");
    }
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([titles[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let head = line(&mut titles.iter().copied());
    writeln!(out, "{}", if terminal { format!("\x1b[1m{head}\x1b[0m") } else { head })?;
    for row in rows {
        writeln!(out, "{}", line(&mut row.iter().map(String::as_str)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut out = Vec::new();
        write(&mut out, &["MAC", "WHO"], &[vec!["00:15".into(), "Ada".into()], vec!["1".into(), "Bo".into()]], "none", false).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "MAC    WHO\n00:15  Ada\n1      Bo\n");
    }
}
