//! From what is to be said to the recorded pieces that say it: digits, numbers, names, by the rules of English. Pure.
//!
//! A piece is the id of a prompt (`prompts/<language>/prompts.yaml`). Not here: the sound, and the optional command that
//! speaks names (`worker.rs`). Other languages need their own rules for numbers; digits and spelling work in all.

use std::time::Duration;

use crate::model::Keys;

/// Something to say, complete: a flow's variables are filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Utterance {
    /// A recorded prompt, by its id.
    Prompt(String),
    /// One after the other: `2041` → two, zero, four, one.
    Digits(String),
    /// What the caller keyed in, one digit after the other; its text is never written down.
    Keyed(Keys),
    /// As a number: 241 → two hundred forty one.
    Number(u64),
    /// Somebody's name.
    Name(String),
    Pause(Duration),
}

/// What the player is given, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Clip(String),
    Silence(Duration),
}

/// Between the words of a spelled name.
const BETWEEN_WORDS: Duration = Duration::from_millis(250);
/// A spelled name ends here: nobody listens longer.
const LETTERS_MOST: usize = 32;

impl Utterance {
    /// The pieces that say it. A name is spelled; the worker may have a voice that reads it instead.
    pub fn pieces(&self) -> Vec<Piece> {
        match self {
            Self::Prompt(id) => vec![Piece::Clip(id.clone())],
            Self::Digits(digits) => digits.chars().filter_map(digit).map(Piece::Clip).collect(),
            Self::Keyed(keys) => keys.expose().chars().filter_map(digit).map(Piece::Clip).collect(),
            Self::Number(number) => number_words(*number).into_iter().map(Piece::Clip).collect(),
            Self::Name(name) => spelled(name),
            Self::Pause(pause) => vec![Piece::Silence(*pause)],
        }
    }

    /// What a caller hears, written down for the timeline. `prompt` gives the words of a prompt.
    pub fn text(&self, prompt: impl Fn(&str) -> Option<String>) -> String {
        match self {
            Self::Prompt(id) => prompt(id).unwrap_or_else(|| format!("[{id}]")),
            Self::Digits(digits) => digits.chars().map(String::from).collect::<Vec<_>>().join(" "),
            Self::Keyed(_) => "…".to_owned(),
            Self::Number(number) => number.to_string(),
            Self::Name(name) => name.clone(),
            Self::Pause(_) => String::new(),
        }
    }
}

/// Every piece that [`Utterance::pieces`] can ask for, prompts aside: a language must have them all.
pub fn all_pieces() -> Vec<String> {
    let digits = ('0'..='9').chain(['*', '#']).filter_map(digit);
    let letters = ('a'..='z').filter_map(letter);
    let numbers = (10..20).chain((20..100).step_by(10)).map(|n| format!("number-{n}"));
    let scales = ["hundred", "thousand", "million", "billion"].map(String::from);
    digits.chain(letters).chain(numbers).chain(scales).collect()
}

fn digit(key: char) -> Option<String> {
    match key {
        '0'..='9' => Some(format!("digit-{key}")),
        '*' => Some("key-star".into()),
        '#' => Some("key-hash".into()),
        'A'..='D' | 'a'..='d' => letter(key),
        _ => None,
    }
}

fn letter(letter: char) -> Option<String> {
    letter.is_ascii_alphabetic().then(|| format!("letter-{}", letter.to_ascii_lowercase()))
}

/// 1_241 → thousand and its neighbours, greatest first.
fn number_words(number: u64) -> Vec<String> {
    if number < 1000 {
        return below_thousand(number);
    }
    for (scale, word) in [(1_000_000_000, "billion"), (1_000_000, "million"), (1000, "thousand")] {
        if number >= scale {
            let mut words = number_words(number / scale);
            words.push(word.to_owned());
            if !number.is_multiple_of(scale) {
                words.extend(number_words(number % scale));
            }
            return words;
        }
    }
    Vec::new()
}

fn below_thousand(number: u64) -> Vec<String> {
    match number {
        0..10 => vec![format!("digit-{number}")],
        10..20 => vec![format!("number-{number}")],
        20..100 => {
            let mut words = vec![format!("number-{}", number / 10 * 10)];
            words.extend((!number.is_multiple_of(10)).then(|| format!("digit-{}", number % 10)));
            words
        }
        _ => {
            let mut words = below_thousand(number / 100);
            words.push("hundred".to_owned());
            if !number.is_multiple_of(100) {
                words.extend(below_thousand(number % 100));
            }
            words
        }
    }
}

fn spelled(name: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let plain = name.chars().flat_map(plain_letters);
    let mut pause_due = false;
    for c in plain.take(LETTERS_MOST * 2) {
        match digit(c).filter(|_| c.is_ascii_digit()).or_else(|| letter(c)) {
            Some(id) => {
                if pause_due && !pieces.is_empty() {
                    pieces.push(Piece::Silence(BETWEEN_WORDS));
                }
                pause_due = false;
                pieces.push(Piece::Clip(id));
            }
            None => pause_due = true,
        }
        if pieces.len() >= LETTERS_MOST {
            break;
        }
    }
    pieces
}

/// A letter as English spells it: `é` → `e`, `ß` → `ss`.
fn plain_letters(c: char) -> impl Iterator<Item = char> {
    let plain: &str = match c.to_lowercase().next().unwrap_or(c) {
        'à' | 'á' | 'â' | 'ã' | 'å' | 'ā' | 'ă' | 'ą' => "a",
        'ä' | 'æ' => "ae",
        'ç' | 'ć' | 'č' => "c",
        'ď' | 'đ' | 'ð' => "d",
        'è' | 'é' | 'ê' | 'ë' | 'ē' | 'ė' | 'ę' | 'ě' => "e",
        'ğ' => "g",
        'ì' | 'í' | 'î' | 'ï' | 'ī' | 'į' | 'ı' => "i",
        'ł' | 'ľ' => "l",
        'ñ' | 'ń' | 'ň' => "n",
        'ò' | 'ó' | 'ô' | 'õ' | 'ō' | 'ő' => "o",
        'ö' | 'ø' | 'œ' => "oe",
        'ř' => "r",
        'ś' | 'š' | 'ş' | 'ș' => "s",
        'ß' => "ss",
        'ť' | 'ț' | 'ţ' => "t",
        'þ' => "th",
        'ù' | 'ú' | 'û' | 'ū' | 'ů' | 'ű' => "u",
        'ü' => "ue",
        'ý' | 'ÿ' => "y",
        'ź' | 'ż' | 'ž' => "z",
        _ => "",
    };
    // An apostrophe parts no words: O'Hara is one.
    let itself = (plain.is_empty() && c != '\'' && c != '’').then_some(c);
    plain.chars().chain(itself)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(utterance: &Utterance) -> String {
        let word = |piece: &Piece| match piece {
            Piece::Clip(id) => id.replace("digit-", "").replace("number-", "").replace("letter-", ""),
            Piece::Silence(_) => "-".to_owned(),
        };
        utterance.pieces().iter().map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn numbers_by_the_rules_of_english() {
        for (number, words) in [
            (0, "0"),
            (7, "7"),
            (13, "13"),
            (20, "20"),
            (42, "40 2"),
            (100, "1 hundred"),
            (241, "2 hundred 40 1"),
            (1000, "1 thousand"),
            (12_017, "12 thousand 17"),
            (300_001, "3 hundred thousand 1"),
            (5_000_000, "5 million"),
            (u64::from(u32::MAX), "4 billion 2 hundred 90 4 million 9 hundred 60 7 thousand 2 hundred 90 5"),
        ] {
            assert_eq!(said(&Utterance::Number(number)), words);
        }
    }

    #[test]
    fn digits_and_names_are_spelled() {
        assert_eq!(said(&Utterance::Digits("2041*#x".into())), "2 0 4 1 key-star key-hash");
        assert_eq!(said(&Utterance::Name("Zoë O'Hara-Weiß".into())), "z o e - o h a r a - w e i s s");
        assert_eq!(said(&Utterance::Name("李".into())), "");
        assert!(said(&Utterance::Name("x".repeat(1000))).len() <= 2 * LETTERS_MOST);
    }

    #[test]
    fn whatever_is_said_is_among_the_pieces() {
        let all = all_pieces();
        for utterance in (0..20_000)
            .step_by(7)
            .map(Utterance::Number)
            .chain([Utterance::Name("abc xyz 09".into()), Utterance::Digits("0123456789*#ABCD".into())])
        {
            for piece in utterance.pieces() {
                assert!(matches!(&piece, Piece::Silence(_)) || matches!(&piece, Piece::Clip(id) if all.contains(id)), "{piece:?}");
            }
        }
    }
}
