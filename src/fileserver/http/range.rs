//! The `Range` header, as far as phones and download tools use it: one range of bytes (RFC 9110 §14).
//!
//! Several ranges at once are answered with the whole file, as §14.2 allows. Pure.

use std::ops::Range;

/// What a `Range` header asks of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Whole,
    Part(Range<usize>),
    /// 416: nothing of the file lies in it.
    Unsatisfiable,
}

/// Reads the header for a file of `len` bytes. What is not understood is as if not sent.
pub fn wanted(header: Option<&str>, len: usize) -> Wanted {
    let Some((unit, ranges)) = header.and_then(|header| header.split_once('=')) else {
        return Wanted::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") || ranges.contains(',') {
        return Wanted::Whole;
    }
    let Some((first, last)) = ranges.trim().split_once('-') else {
        return Wanted::Whole;
    };
    match (number(first), number(last)) {
        (Number::Is(first), Number::None) if first < len => Wanted::Part(first..len),
        (Number::Is(first), Number::Is(last)) if last < first => Wanted::Whole,
        (Number::Is(first), Number::Is(last)) if first < len => Wanted::Part(first..last.saturating_add(1).min(len)),
        (Number::None, Number::Is(suffix)) if suffix > 0 && len > 0 => Wanted::Part(len.saturating_sub(suffix)..len),
        (Number::Junk, _) | (_, Number::Junk) | (Number::None, Number::None) => Wanted::Whole,
        _ => Wanted::Unsatisfiable,
    }
}

enum Number {
    None,
    Is(usize),
    Junk,
}

fn number(text: &str) -> Number {
    if text.is_empty() {
        Number::None
    } else if text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit lie behind the end of every file.
        Number::Is(text.parse().unwrap_or(usize::MAX))
    } else {
        Number::Junk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_thousand_bytes() {
        for (header, expected) in [
            ("bytes=0-499", Wanted::Part(0..500)),
            ("bytes=500-", Wanted::Part(500..1000)),
            ("bytes=-200", Wanted::Part(800..1000)),
            ("bytes=-2000", Wanted::Part(0..1000)),
            ("bytes=999-5000", Wanted::Part(999..1000)),
            ("bytes=0-99999999999999999999999999", Wanted::Part(0..1000)),
            ("Bytes=0-0", Wanted::Part(0..1)),
            ("bytes=1000-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=99999999999999999999999999-", Wanted::Unsatisfiable),
            ("bytes=5-2", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=0-1,5-6", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            ("junk", Wanted::Whole),
        ] {
            assert_eq!(wanted(Some(header), 1000), expected, "{header}");
        }
        assert_eq!(wanted(None, 1000), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Unsatisfiable);
    }
}
