//! Aligned columns; the titles are bold on a terminal. And lists of the API, as a table or as JSON.

use serde::{Serialize, de::DeserializeOwned};

use super::{ServerArg, out};

/// Asks the API for a list and prints it: as JSON, or with a row for each under `titles`; says `none` when there is nothing.
pub async fn list<T: Serialize + DeserializeOwned>(
    server: ServerArg,
    path: &str,
    json: bool,
    titles: &[&str],
    row: impl Fn(&T) -> Vec<String>,
    none: &str,
) -> anyhow::Result<()> {
    let all: Vec<T> = server.client()?.get(path).await?;
    if json {
        return out::json(&all);
    }
    print(titles, &all.iter().map(row).collect::<Vec<_>>(), none);
    Ok(())
}

/// Prints `rows` under `titles`; says `none` when there are no rows.
pub fn print(titles: &[&str], rows: &[Vec<String>], none: &str) {
    out::text(&table(titles, rows, none, out::may_colour(&std::io::stdout())));
}

fn table(titles: &[&str], rows: &[Vec<String>], none: &str, colour: bool) -> String {
    if rows.is_empty() {
        return format!("{none}\n");
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
    let head = if colour { format!("\x1b[1m{head}\x1b[0m") } else { head };
    let rows = rows.iter().map(|row| line(&mut row.iter().map(String::as_str)));
    [head].into_iter().chain(rows).map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["00:15".into(), "Ada".into()], vec!["1".into(), "Bo".into()]];
        assert_eq!(table(&["MAC", "WHO"], &rows, "none", false), "MAC    WHO\n00:15  Ada\n1      Bo\n");
    }
}
