//! Time zones as POSIX `TZ` strings (IEEE Std 1003.1 §8.3): `CET-1CEST,M3.5.0,M10.5.0/3`, taken apart for phones that want
//! offset and rules one by one.
//!
//! Only the `Mm.w.d` form of the rules is understood: it is the only one in use in the tz database's footers but for two
//! zones without daylight-saving rules worth having on a phone.

/// A zone, with the signs as people say them: east of Greenwich is positive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Zone {
    /// Standard time's offset, seconds east.
    pub(super) offset_secs: i32,
    pub(super) daylight: Option<Daylight>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Daylight {
    /// Summer time's offset, seconds east.
    pub(super) offset_secs: i32,
    pub(super) start: Rule,
    pub(super) stop: Rule,
}

/// The `week`th (5: last) `weekday` (0: Sunday) of `month`, at `secs` after midnight of the time in force before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) month: u8,
    pub(super) week: u8,
    pub(super) weekday: u8,
    pub(super) secs: i32,
}

impl Zone {
    pub(super) fn parse(posix: &str) -> Option<Self> {
        let mut parts = posix.split(',');
        let names = parts.next()?;
        let (_, rest) = name(names)?;
        let (west, rest) = hours(rest)?;
        if rest.is_empty() {
            return parts.next().is_none().then_some(Self { offset_secs: -west, daylight: None });
        }
        let (_, rest) = name(rest)?;
        let summer = if rest.is_empty() {
            3600 - west
        } else {
            let (summer_west, rest) = hours(rest)?;
            if !rest.is_empty() {
                return None;
            }
            -summer_west
        };
        let (start, stop) = (Rule::parse(parts.next()?)?, Rule::parse(parts.next()?)?);
        let daylight = Some(Daylight { offset_secs: summer, start, stop });
        parts.next().is_none().then_some(Self { offset_secs: -west, daylight })
    }
}

impl Rule {
    fn parse(text: &str) -> Option<Self> {
        let (day, time) = text.split_once('/').unwrap_or((text, "2"));
        let mut numbers = day.strip_prefix('M')?.split('.');
        let mut next = |range: std::ops::RangeInclusive<u8>| numbers.next()?.parse().ok().filter(|n| range.contains(n));
        let (month, week, weekday) = (next(1..=12)?, next(1..=5)?, next(0..=6)?);
        let (secs, rest) = hours(time)?;
        rest.is_empty().then_some(Self { month, week, weekday, secs })
    }
}

/// `CET` or `<+0330>`, and what follows it.
fn name(text: &str) -> Option<(&str, &str)> {
    let end = match text.strip_prefix('<') {
        Some(quoted) => quoted.find('>')? + 2,
        None => text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len()),
    };
    (end >= 3).then(|| text.split_at(end))
}

/// `-1`, `5:30`, `+03:30:00` in seconds, and what follows it. Hours up to 167 (tz database's extension of POSIX).
fn hours(text: &str) -> Option<(i32, &str)> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != ':').unwrap_or(unsigned.len());
    let (digits, rest) = unsigned.split_at(end);
    let mut secs = 0i32;
    let mut weight = 3600;
    for part in digits.split(':') {
        let number: i32 = part.parse().ok().filter(|n| *n <= 167)?;
        secs += number * weight;
        weight /= 60;
    }
    Some((if text.starts_with('-') { -secs } else { secs }, rest))
}

/// An offset as hours with sign: `+1`, `-5`, `+5:30`, `0`.
pub(super) fn hours_text(offset_secs: i32) -> String {
    let (hours, minutes) = (offset_secs.abs() / 3600, offset_secs.abs() % 3600 / 60);
    let sign = match offset_secs {
        0 => "",
        1.. => "+",
        _ => "-",
    };
    if minutes == 0 { format!("{sign}{hours}") } else { format!("{sign}{hours}:{minutes:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_come_apart() {
        let berlin = Zone::parse("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        assert_eq!(berlin.offset_secs, 3600);
        let daylight = berlin.daylight.unwrap();
        assert_eq!(daylight.offset_secs, 7200);
        assert_eq!(daylight.start, Rule { month: 3, week: 5, weekday: 0, secs: 7200 });
        assert_eq!(daylight.stop, Rule { month: 10, week: 5, weekday: 0, secs: 10800 });
        for (posix, offset, summer) in [
            ("UTC0", 0, None),
            ("IST-5:30", 19800, None),
            ("<+0330>-3:30", 12600, None),
            ("EST5EDT,M3.2.0,M11.1.0", -18000, Some(-14400)),
            ("IST-1GMT0,M10.5.0,M3.5.0/1", 3600, Some(0)),
            ("<-02>2<-01>,M3.5.0/-1,M10.5.0/0", -7200, Some(-3600)),
        ] {
            let zone = Zone::parse(posix).unwrap_or_else(|| panic!("{posix}"));
            assert_eq!((zone.offset_secs, zone.daylight.map(|d| d.offset_secs)), (offset, summer), "{posix}");
        }
        for bad in ["", "CET", "CET-1CEST", "CET-1CEST,M13.1.0,M1.1.0", "CET-1x", "CET-1CEST,M3.5.0,M10.5.0,M1.1.1", "CET99999999999"] {
            assert_eq!(Zone::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn offsets_read_as_people_write_them() {
        for (secs, text) in [(0, "0"), (3600, "+1"), (-18000, "-5"), (19800, "+5:30"), (-12600, "-3:30")] {
            assert_eq!(hours_text(secs), text);
        }
    }
}
