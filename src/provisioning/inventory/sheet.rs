//! A list of phones as a table that people edit in a spreadsheet: CSV in and out. Pure.
//!
//! Read is what spreadsheets make of it: a byte order mark, UTF-16 or Windows' own letters, commas, semicolons or tabs, quoted
//! cells, `sep=;` before the titles, empty rows, numbers that were protected as `="0041"` or `'0041`. What they spoil (a MAC
//! that became a number) is refused with a hint. Every fault has its line and column. Not here: what a row changes (`mod.rs`).

use std::collections::{BTreeMap, HashMap};

use csv::{ReaderBuilder, StringRecord, Terminator, WriterBuilder};

use crate::{
    model::MacAddr,
    yaml::{Fault, closest},
};

/// A sheet has at most so many rows.
pub const MOST_ROWS: usize = 20_000;
/// Written in a cell to take out what is there; an empty one changes nothing.
const NOTHING: &str = "-";

/// A column, by its title.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Column {
    Mac,
    Family,
    Model,
    Label,
    Location,
    User,
    Extension,
    Group,
    Notes,
}

impl Column {
    pub const ALL: [Self; 9] =
        [Self::Mac, Self::Family, Self::Model, Self::Label, Self::Location, Self::User, Self::Extension, Self::Group, Self::Notes];

    pub fn title(self) -> &'static str {
        match self {
            Self::Mac => "mac",
            Self::Family => "family",
            Self::Model => "model",
            Self::Label => "label",
            Self::Location => "location",
            Self::User => "user",
            Self::Extension => "extension",
            Self::Group => "group",
            Self::Notes => "notes",
        }
    }

    /// As people call it, too.
    fn of(title: &str) -> Option<Self> {
        Some(match title {
            "mac" | "mac address" | "mac-address" | "macaddress" | "mac_address" => Self::Mac,
            "family" | "make" | "vendor" | "brand" => Self::Family,
            "model" | "type" => Self::Model,
            "label" | "name" => Self::Label,
            "location" | "place" | "room" => Self::Location,
            "user" | "login" | "employee" => Self::User,
            "extension" | "ext" | "number" => Self::Extension,
            "group" => Self::Group,
            "notes" | "note" | "comment" | "remark" | "remarks" => Self::Notes,
            _ => return None,
        })
    }

    /// Characters at most.
    fn longest(self) -> usize {
        match self {
            Self::Mac | Self::Family | Self::Model | Self::Label | Self::Group => 64,
            Self::Location | Self::User | Self::Extension => 128,
            Self::Notes => 1000,
        }
    }
}

/// What a row says of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// Nothing: what there is stays.
    Keep,
    Clear,
    Set(&'a str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Cell {
    text: String,
    line: u64,
    column: u64,
}

/// One phone.
#[derive(Clone, Debug)]
pub struct Row {
    /// Where it begins, counted from 1.
    pub line: u64,
    /// Nobody, where there is a fault.
    pub mac: MacAddr,
    cells: BTreeMap<Column, Cell>,
    pub faults: Vec<Fault>,
}

impl Row {
    pub fn entry(&self, column: Column) -> Entry<'_> {
        match self.cells.get(&column).map(|cell| cell.text.as_str()) {
            None | Some("") => Entry::Keep,
            Some(NOTHING) => Entry::Clear,
            Some(text) => Entry::Set(text),
        }
    }
}

/// A table that was read.
#[derive(Clone, Debug)]
pub struct Sheet {
    file: String,
    text: String,
    pub rows: Vec<Row>,
}

/// Names that a row may use.
#[derive(Clone, Debug, Default)]
pub struct Names<'a> {
    pub families: Vec<&'a str>,
    pub groups: Vec<&'a str>,
}

impl Sheet {
    /// Reads a table. What is wrong with a row is in the row.
    ///
    /// # Errors
    /// The titles are not understood, or there is too much.
    pub fn read(file: &str, bytes: &[u8], names: &Names<'_>) -> Result<Self, Fault> {
        let mut sheet = Self { file: file.to_owned(), text: decode(bytes), rows: Vec::new() };
        let (start, delimiter) = beginning(&sheet.text);
        // Lines and columns are counted here: a record may go over several lines, and the crate tells where none of its cells is.
        let mut reader =
            ReaderBuilder::new().has_headers(false).flexible(true).delimiter(delimiter).from_reader(&sheet.text.as_bytes()[start..]);
        let mut place = Place { text: &sheet.text, at: 0, line: 1, column: 1 };
        let mut titles: Option<Vec<Option<Column>>> = None;
        let (mut rows, mut record) = (Vec::new(), StringRecord::new());
        loop {
            let byte = start + reader.position().byte() as usize;
            match reader.read_record(&mut record) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return Err(Fault::in_file(file, format!("is no table: {error}"))),
            }
            place.move_to(byte);
            place.skip_line_ends();
            let line = place.line;
            let cells: Vec<Cell> =
                place.cells(delimiter, record.len()).into_iter().zip(&record).map(|(at, text)| Cell { text: plain(text), ..at }).collect();
            let Some(titles) = &titles else {
                titles = Some(sheet.titles(&cells)?);
                continue;
            };
            if cells.iter().all(|cell| cell.text.is_empty()) {
                continue;
            }
            if rows.len() >= MOST_ROWS {
                return Err(
                    Fault::at(file, &sheet.text, line, 1, format!("more than {MOST_ROWS} rows")).hint("import them in several files")
                );
            }
            rows.push(sheet.row(line, titles, cells, names));
        }
        if titles.is_none() {
            return Err(Fault::in_file(file, "is empty").hint(format!("begin with a row of titles: {}", titles_in_words())));
        }
        let mut seen: HashMap<MacAddr, u64> = HashMap::new();
        for row in &mut rows {
            if row.mac != MacAddr::NOBODY
                && let Some(before) = seen.insert(row.mac, row.line)
            {
                let fault = sheet.fault_at(row, Column::Mac, format!("{} is in line {before} already", row.mac));
                row.faults.push(fault.hint("keep one of the two rows"));
            }
        }
        sheet.rows = rows;
        Ok(sheet)
    }

    /// A fault of what the row says in this column, or of the row where the column is empty.
    pub fn fault_at(&self, row: &Row, column: Column, message: impl Into<String>) -> Fault {
        let (line, column) = row.cells.get(&column).map_or((row.line, 0), |cell| (cell.line, cell.column));
        Fault::at(&self.file, &self.text, line, column, message)
    }

    fn titles(&self, cells: &[Cell]) -> Result<Vec<Option<Column>>, Fault> {
        let mut titles: Vec<Option<Column>> = Vec::new();
        for cell in cells {
            let title = cell.text.to_lowercase();
            let column = Column::of(&title);
            let fault = |message: String| Fault::at(&self.file, &self.text, cell.line, cell.column, message);
            if column.is_none() && !title.is_empty() {
                let meant = closest(&title, Column::ALL.map(Column::title));
                let hint = meant.map_or_else(|| format!("possible are {}", titles_in_words()), |meant| format!("did you mean '{meant}'?"));
                return Err(fault(format!("there is no column '{}'", cell.text)).hint(hint));
            }
            if column.is_some() && titles.contains(&column) {
                return Err(fault(format!("the column '{}' is there twice", cell.text)).hint("keep one of them"));
            }
            titles.push(column);
        }
        if titles.contains(&Some(Column::Mac)) {
            return Ok(titles);
        }
        let fault = Fault::at(&self.file, &self.text, cells.first().map_or(1, |cell| cell.line), 1, "there is no column 'mac'");
        Err(fault.hint(format!("begin with a row of titles: {}", titles_in_words())))
    }

    fn row(&self, line: u64, titles: &[Option<Column>], cells: Vec<Cell>, names: &Names<'_>) -> Row {
        let mut row = Row { line, mac: MacAddr::NOBODY, cells: BTreeMap::new(), faults: Vec::new() };
        for (number, cell) in cells.into_iter().enumerate() {
            match titles.get(number).copied().flatten() {
                Some(column) => drop(row.cells.insert(column, cell)),
                None if cell.text.is_empty() => {}
                None => {
                    let fault = Fault::at(
                        &self.file,
                        &self.text,
                        cell.line,
                        cell.column,
                        format!("'{}' stands under no title", shortened(&cell.text)),
                    );
                    row.faults.push(fault.hint("a cell with a comma or a semicolon in it belongs in quotes"));
                }
            }
        }
        let faults: Vec<Fault> = Column::ALL.into_iter().filter_map(|column| self.check(&row, column, names)).collect();
        row.faults.extend(faults);
        if let Entry::Set(mac) = row.entry(Column::Mac) {
            row.mac = mac.parse().unwrap_or(MacAddr::NOBODY);
        }
        row
    }

    fn check(&self, row: &Row, column: Column, names: &Names<'_>) -> Option<Fault> {
        let fault = |message: String| self.fault_at(row, column, message);
        let text = match (column, row.entry(column)) {
            (Column::Mac, Entry::Keep | Entry::Clear) => return Some(fault("the MAC address is missing".to_owned())),
            (_, Entry::Keep | Entry::Clear) => return None,
            (_, Entry::Set(text)) => text,
        };
        let unknown = |what: &str, known: &[&str], otherwise: &str| {
            let meant = closest(text, known.iter().copied());
            fault(format!("there is no {what} '{}'", shortened(text)))
                .hint(meant.map_or_else(|| otherwise.to_owned(), |meant| format!("did you mean '{meant}'?")))
        };
        if text.chars().count() > column.longest() {
            return Some(fault(format!("longer than {} characters", column.longest())));
        }
        if text.chars().any(|c| c.is_control() && !(column == Column::Notes && c == '\n')) {
            return Some(fault("has a line end or another control character in it".to_owned()));
        }
        match column {
            Column::Mac => match text.parse::<MacAddr>() {
                Ok(mac) if mac == MacAddr::NOBODY || mac.0[0] & 1 == 1 => Some(fault(format!("{mac} is no device's own address"))),
                Ok(_) => None,
                Err(error) => {
                    let fault = fault(error.to_string());
                    Some(if is_number(text) { fault.hint(number_hint(text)) } else { fault })
                }
            },
            Column::Family if !names.families.contains(&text) => {
                Some(unknown("family", &names.families, &format!("there are {}", names.families.join(", "))))
            }
            Column::Group if !names.groups.contains(&text) => {
                Some(unknown("group", &names.groups, "write it into `groups` of overrides.yaml in your templates' folder first"))
            }
            _ => None,
        }
    }
}

/// Writes a table that reads again as it is: one row for each phone, a cell for each of [`Column::ALL`].
pub fn write(rows: impl Iterator<Item = [String; 9]>) -> Vec<u8> {
    // Spreadsheets want the mark to see UTF-8, and Windows' line ends are understood everywhere.
    let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer("\u{feff}".as_bytes().to_vec());
    let titles = Column::ALL.map(|column| column.title().to_owned());
    for row in std::iter::once(titles).chain(rows) {
        // Writing into memory does not fail.
        let _ = writer.write_record(row.iter().map(|cell| harmless(cell)));
    }
    writer.into_inner().unwrap_or_default()
}

/// What a phone says of itself must not become a formula in somebody's spreadsheet.
fn harmless(cell: &str) -> String {
    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\'']);
    if formula { format!("'{cell}") } else { cell.to_owned() }
}

/// Without what protects it in a spreadsheet: `="0041"`, `'0041`.
fn plain(text: &str) -> String {
    let text = text.trim();
    let formula = text.strip_prefix("=\"").and_then(|text| text.strip_suffix('"'));
    let text = formula.or_else(|| text.strip_prefix('\'')).unwrap_or(text);
    text.replace("\r\n", "\n")
}

fn titles_in_words() -> String {
    Column::ALL.map(Column::title).join(", ")
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

/// `1.565E+09`, `1565000001`: what a spreadsheet makes of a MAC without letters.
fn is_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || b".,+eE".contains(&b)) && text.starts_with(|c: char| c.is_ascii_digit())
}

fn number_hint(text: &str) -> String {
    let whole = text.bytes().all(|b| b.is_ascii_digit()) && text.len() < 12;
    let perhaps = whole.then(|| format!("{text:0>12}").parse::<MacAddr>().ok()).flatten();
    let meant = perhaps.map(|mac| format!(": was it {mac}?")).unwrap_or_default();
    format!("the spreadsheet took it for a number; write it with colons, or make the column text before you type{meant}")
}

/// Whatever the spreadsheet wrote, as text.
fn decode(bytes: &[u8]) -> String {
    let wide = |bytes: &[u8], number: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes.as_chunks().0.iter().map(|pair| number(*pair)).collect();
        String::from_utf16_lossy(&units)
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        _ => String::from_utf8(bytes.to_vec()).unwrap_or_else(|_| bytes.iter().map(|byte| windows_1252(*byte)).collect()),
    }
}

/// The letters of Western Windows, in which Excel's plain "CSV" is written: Latin-1 but for 32 of them.
fn windows_1252(byte: u8) -> char {
    const OTHERS: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘', '’', '“', '”', '•',
        '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    match byte {
        0x80..=0x9f => OTHERS[usize::from(byte - 0x80)],
        _ => char::from(byte),
    }
}

/// Where the titles begin, and what stands between cells: what `sep=` says, or what is most frequent in the titles.
fn beginning(text: &str) -> (usize, u8) {
    let first = text.lines().next().unwrap_or_default();
    if let Some(said) = first.trim_end().strip_prefix("sep=").and_then(|said| said.bytes().next()) {
        return (text.find('\n').map_or(text.len(), |end| end + 1), said);
    }
    let titles = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let count = |delimiter: &u8| titles.bytes().filter(|byte| byte == delimiter).count();
    // The comma where it is a tie.
    (0, b"\t;,".iter().copied().max_by_key(count).unwrap_or(b','))
}

/// Somewhere in the text.
struct Place<'a> {
    text: &'a str,
    at: usize,
    line: u64,
    column: u64,
}

impl Place<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.text[self.at..].chars().next()?;
        self.at += c.len_utf8();
        match c {
            '\n' => (self.line, self.column) = (self.line + 1, 1),
            _ => self.column += 1,
        }
        Some(c)
    }

    fn move_to(&mut self, byte: usize) {
        while self.at < byte && self.next().is_some() {}
    }

    fn skip_line_ends(&mut self) {
        while self.text[self.at..].starts_with(['\r', '\n']) {
            self.next();
        }
    }

    /// Where the cells of the record that begins here are, with no text yet.
    fn cells(&mut self, delimiter: u8, count: usize) -> Vec<Cell> {
        let mut cells = Vec::with_capacity(count);
        let (mut quoted, mut first) = (false, true);
        while cells.len() < count {
            if first {
                cells.push(Cell { text: String::new(), line: self.line, column: self.column });
            }
            let opens = first;
            first = false;
            match self.next() {
                None => break,
                // Quotes inside a cell that is not quoted are letters as others.
                Some('"') if opens || quoted => quoted = !quoted,
                Some('"') if self.text[..self.at - 1].ends_with('"') => quoted = true,
                Some(c) if !quoted && c == char::from(delimiter) => first = true,
                Some('\r' | '\n') if !quoted => break,
                Some(_) => {}
            }
        }
        cells.resize(count, Cell { text: String::new(), line: self.line, column: self.column });
        cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Sheet, Fault> {
        Sheet::read("phones.csv", bytes, &Names { families: vec!["yealink", "poly"], groups: vec!["reception"] })
    }

    fn rows(bytes: &[u8]) -> Vec<(u64, String, String)> {
        let sheet = read(bytes).unwrap_or_else(|fault| panic!("{fault}"));
        let text = |row: &Row, column| match row.entry(column) {
            Entry::Set(text) => text.to_owned(),
            other => format!("{other:?}"),
        };
        let clean = |row: &Row| assert!(row.faults.is_empty(), "{:?}", row.faults);
        sheet.rows.iter().inspect(|row| clean(row)).map(|row| (row.line, row.mac.bare(), text(row, Column::Label))).collect()
    }

    #[test]
    fn what_spreadsheets_write_is_read() {
        let utf16 = |text: &str| [0xff, 0xfe].into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect::<Vec<u8>>();
        let one = |line: u64, label: &str| vec![(line, "001565aabbcc".to_owned(), label.to_owned())];
        for (story, bytes, result) in [
            ("as it should be", b"mac,label\n00:15:65:aa:bb:cc,Front\n".to_vec(), one(2, "Front")),
            ("a mark, semicolons, CRLF", "\u{feff}MAC;Label\r\n0015.65aa.bbcc;Empfänger\r\n".into(), one(2, "Empfänger")),
            ("Excel's own letters", b"mac;label\r\n00-15-65-AA-BB-CC;Empf\xe4nger \x96 K\xfcche\r\n".to_vec(), one(2, "Empfänger – Küche")),
            ("Excel's Unicode text", utf16("MAC\tlabel\r\n001565AABBCC\tKüche\r\n"), one(2, "Küche")),
            ("a line that says what stands between", b"sep=;\r\nmac;label\r\n001565aabbcc;a,b\r\n".to_vec(), one(3, "a,b")),
            ("quotes, a comma and a quote in them", b"mac,label\n001565aabbcc,\"a, \"\"b\"\"\"\n".to_vec(), one(2, "a, \"b\"")),
            ("empty rows before and between", b"\n\nmac,label,\n,,\n\n001565aabbcc,Front,\n,,\n".to_vec(), one(6, "Front")),
            ("other titles, another order", b"Name , MAC address\nFront,001565aabbcc".to_vec(), one(2, "Front")),
            ("a number that was protected", b"mac,label\n=\"001565aabbcc\",\"=\"\"0041\"\"\"\n".to_vec(), one(2, "0041")),
            ("a number behind an apostrophe", b"mac,label\n'001565aabbcc,'0041\n".to_vec(), one(2, "0041")),
            ("nothing of it, and out with it", b"mac,label\n001565aabbcc\n001565aabbcd,-\n".to_vec(), {
                vec![(2, "001565aabbcc".into(), "Keep".into()), (3, "001565aabbcd".into(), "Clear".into())]
            }),
        ] {
            assert_eq!(rows(&bytes), result, "{story}");
        }
    }

    #[test]
    fn faults_have_their_place_and_a_hint() {
        for (text, told) in [
            ("", "phones.csv: is empty\n    hint: begin with a row of titles: mac, family,"),
            ("label,room\n", "phones.csv:1:1: there is no column 'mac'"),
            ("mac,lable\n", "phones.csv:1:5: there is no column 'lable'\n    mac,lable\n        ^\n    hint: did you mean 'label'?"),
            ("mac,label,name\n", "phones.csv:1:11: the column 'name' is there twice"),
            ("mac,label\n,x\n", "phones.csv:2:1: the MAC address is missing"),
            ("label;mac\r\n\"a\nb\";zz\r\n", "phones.csv:3:4: 'zz' is not a MAC address: write twelve hex digits"),
            ("mac\n1.565E+09\n", "phones.csv:2:1: '1.565E+09' is not a MAC address: "),
            (
                "mac\n1565000001\n",
                "took it for a number; write it with colons, or make the column text before you type: was it 00:15:65:00:00:01?",
            ),
            ("mac\nff:ff:ff:ff:ff:ff\n", "phones.csv:2:1: ff:ff:ff:ff:ff:ff is no device's own address"),
            ("mac\n001565aabbcc\n00:15:65:AA:BB:CC\n", "phones.csv:3:1: 00:15:65:aa:bb:cc is in line 2 already"),
            (
                "mac,make\n001565aabbcc,yealing\n",
                "phones.csv:2:14: there is no family 'yealing'\n    001565aabbcc,yealing\n                 ^\n    hint: did you mean 'yealink'?",
            ),
            ("mac,group\n001565aabbcc,sales\n", "hint: write it into `groups` of overrides.yaml"),
            ("mac,label\n001565aabbcc,a,b\n", "phones.csv:2:16: 'b' stands under no title"),
            ("label,mac\n\"a\nb\",001565aabbcc\n", "phones.csv:2:1: has a line end or another control character in it"),
        ] {
            let all = match read(text.as_bytes()) {
                Err(fault) => fault.to_string(),
                Ok(sheet) => sheet.rows.iter().flat_map(|row| &row.faults).map(|fault| fault.to_string()).collect::<Vec<_>>().join("\n"),
            };
            assert!(all.contains(told), "{text:?}: wanted\n{told}\ngot\n{all}");
        }
    }

    #[test]
    fn what_is_written_reads_again_and_no_cell_is_a_formula() {
        let row = |mac: &str, model: &str, label: &str| {
            [mac, "", model, label, "Küche; links", "", "0041", "", "two\nlines, \"quoted\""].map(str::to_owned)
        };
        let table = write([row("00:15:65:aa:bb:cc", "=cmd|'/c calc'!A1", "'tis"), row("00:15:65:aa:bb:cd", "T46S", "-")].into_iter());
        let text = String::from_utf8(table.clone()).expect("UTF-8");
        assert!(text.starts_with("\u{feff}mac,family,") && text.contains(",'=cmd|"), "{text}");
        let sheet = read(&table).unwrap_or_else(|fault| panic!("{fault}"));
        let [first, second] = &sheet.rows[..] else { panic!("{sheet:?}") };
        assert!(first.faults.is_empty() && second.faults.is_empty(), "{sheet:?}");
        for (column, text) in [
            (Column::Model, "=cmd|'/c calc'!A1"),
            (Column::Label, "'tis"),
            (Column::Location, "Küche; links"),
            (Column::Extension, "0041"),
            (Column::Notes, "two\nlines, \"quoted\""),
        ] {
            assert_eq!(first.entry(column), Entry::Set(text));
        }
        assert_eq!((first.entry(Column::Family), second.line), (Entry::Keep, 4));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic_and_places_are_in_the_text(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let mut table = b"mac,label\n".to_vec();
            table.extend(bytes);
            for row in read(&table).iter().flat_map(|sheet| &sheet.rows) {
                proptest::prop_assert!(row.line >= 2);
            }
            let _ = read(&table[10..]);
        }
    }
}
