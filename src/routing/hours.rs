//! When an office is open: hours per weekday, holidays, and a switch that overrules both. No clock: the time is passed in.

use std::{fmt, str::FromStr};

use jiff::civil::{Date, DateTime, Time, Weekday};
use serde::{Deserialize, Serialize};

/// Days on which an office is closed, whatever the weekday.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holidays(Vec<Days>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Days {
    /// From and to, both included.
    Once(Date, Date),
    /// Month and day, in any year.
    Yearly(i8, i8),
}

/// Hours of a week, and what interrupts them.
#[derive(Clone, Debug, Default)]
pub struct Hours {
    /// Spans of each day, Monday first; the end is the first moment outside.
    pub week: [Vec<Span>; 7],
    /// Names of the lists of holidays that count here.
    pub closed_on: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Minutes since midnight.
    pub from: u16,
    /// Up to 1440: midnight.
    pub to: u16,
}

/// The night switch of an office: what people set by hand. Where it stands is told by the `Office`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// The hours and the holidays count.
    #[default]
    Auto,
    /// Open, whatever the clock says.
    Day,
    /// Closed, whatever the clock says.
    Night,
}

impl Switch {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Day => "day",
            Self::Night => "night",
        }
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no state of a night switch: write auto, day or night")]
pub struct ParseSwitchError(String);

impl FromStr for Switch {
    type Err = ParseSwitchError;

    fn from_str(text: &str) -> Result<Self, ParseSwitchError> {
        let all = [Self::Auto, Self::Day, Self::Night];
        all.into_iter().find(|switch| switch.as_str() == text).ok_or_else(|| ParseSwitchError(text.to_owned()))
    }
}

/// Whether an office is open, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Open,
    /// Outside of the day's hours.
    Closed,
    Holiday,
    Switched(Switch),
}

impl State {
    pub fn is_open(self) -> bool {
        matches!(self, Self::Open | Self::Switched(Switch::Day))
    }

    pub fn why(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed at this hour",
            Self::Holiday => "closed for a holiday",
            Self::Switched(Switch::Day) => "open, by the night switch",
            Self::Switched(_) => "closed, by the night switch",
        }
    }
}

impl Holidays {
    pub fn contains(&self, date: Date) -> bool {
        self.0.iter().any(|days| match *days {
            Days::Once(from, to) => (from..=to).contains(&date),
            Days::Yearly(month, day) => (date.month(), date.day()) == (month, day),
        })
    }

    /// Adds `12-25`, `2026-04-03` or `2026-12-24/2026-12-31`.
    pub fn add(&mut self, written: &str) -> Result<(), String> {
        let fault = || format!("'{written}' is no day: write 12-25 for every year, 2026-04-03 for once, or 2026-12-24/2026-12-31");
        let days = match written.split_once('/') {
            Some((from, to)) => {
                let days: (Date, Date) = (from.trim().parse().map_err(|_| fault())?, to.trim().parse().map_err(|_| fault())?);
                if days.1 < days.0 {
                    return Err(format!("'{written}' ends before it begins"));
                }
                Days::Once(days.0, days.1)
            }
            // 2024 was a leap year: 02-29 is a day.
            None if written.len() == 5 => {
                let day: Date = format!("2024-{written}").parse().map_err(|_| fault())?;
                Days::Yearly(day.month(), day.day())
            }
            None => written.parse().map(|day| Days::Once(day, day)).map_err(|_| fault())?,
        };
        self.0.push(days);
        Ok(())
    }
}

impl Hours {
    /// Adds hours to days: `mon-fri` or `mon, wed` and `08:00-18:00` or `08:00-12:00, 13:00-17:00`.
    pub fn add(&mut self, days: &str, spans: &str) -> Result<(), String> {
        let days = weekdays(days)?;
        for span in spans.split(',').map(str::trim) {
            let span = parse_span(span)?;
            for &day in &days {
                self.week[day].push(span);
            }
        }
        Ok(())
    }

    /// `holiday`: one of `closed_on` holds this day.
    pub fn state(&self, at: DateTime, holiday: bool, switch: Switch) -> State {
        if switch != Switch::Auto {
            return State::Switched(switch);
        }
        if holiday {
            return State::Holiday;
        }
        let minute = at.hour() as u16 * 60 + at.minute() as u16;
        let today = &self.week[at.date().weekday().to_monday_zero_offset() as usize];
        if today.iter().any(|span| (span.from..span.to).contains(&minute)) { State::Open } else { State::Closed }
    }
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Places in the week, Monday 0. `sat-mon` goes over Sunday.
fn weekdays(written: &str) -> Result<Vec<usize>, String> {
    let day = |text: &str| {
        let text = text.trim().to_lowercase();
        let found = DAYS.iter().position(|day| *day == text);
        found.ok_or_else(|| format!("'{text}' is no day of the week: write mon, tue, wed, thu, fri, sat, sun, or a range as mon-fri"))
    };
    let mut all = Vec::new();
    for part in written.split(',') {
        match part.split_once('-') {
            None => all.push(day(part)?),
            Some((first, last)) => {
                let (mut at, last) = (day(first)?, day(last)?);
                while at != last {
                    all.push(at);
                    at = (at + 1) % 7;
                }
                all.push(last);
            }
        }
    }
    Ok(all)
}

fn parse_span(written: &str) -> Result<Span, String> {
    let fault = || format!("'{written}' is no span of hours: write 08:00-18:00; the day ends at 24:00");
    let minutes = |text: &str| -> Result<u16, String> {
        if text == "24:00" {
            return Ok(1440);
        }
        let time = Time::strptime("%H:%M", text).map_err(|_| fault())?;
        Ok(time.hour() as u16 * 60 + time.minute() as u16)
    };
    let (from, to) = written.split_once('-').ok_or_else(fault)?;
    let span = Span { from: minutes(from.trim())?, to: minutes(to.trim())? };
    if span.from >= span.to {
        return Err(format!("'{written}' ends before it begins: write a night in two parts, as mon: 22:00-24:00 and tue: 00:00-06:00"));
    }
    Ok(span)
}

/// As a person says it.
pub fn weekday_name(day: Weekday) -> &'static str {
    DAYS[day.to_monday_zero_offset() as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime {
        text.parse().unwrap()
    }

    #[test]
    fn an_office_opens_and_closes() {
        let mut hours = Hours::default();
        hours.add("mon-thu", "08:00-12:00, 13:00-18:00").unwrap();
        hours.add("fri", "08:00-24:00").unwrap();
        for (when, state) in [
            ("2026-12-21T07:59:59", State::Closed), // a Monday
            ("2026-12-21T08:00", State::Open),
            ("2026-12-21T12:00", State::Closed),
            ("2026-12-21T13:00", State::Open),
            ("2026-12-24T17:59:59", State::Open),
            ("2026-12-24T18:00", State::Closed),
            ("2026-12-25T23:59", State::Open),
            ("2026-12-26T10:00", State::Closed),
        ] {
            assert_eq!(hours.state(at(when), false, Switch::Auto), state, "{when}");
        }
        let monday = at("2026-12-21T10:00");
        assert_eq!(hours.state(monday, true, Switch::Auto), State::Holiday);
        assert_eq!(hours.state(monday, false, Switch::Night), State::Switched(Switch::Night));
        assert!(hours.state(at("2026-12-27T03:00"), true, Switch::Day).is_open());
    }

    #[test]
    fn weeks_go_round() {
        assert_eq!(weekdays("sat-mon").unwrap(), [5, 6, 0]);
        assert_eq!(weekdays("mon, Wed").unwrap(), [0, 2]);
        assert!(weekdays("monday").unwrap_err().contains("'monday' is no day of the week"));
        assert_eq!(weekday_name(at("2026-12-21T10:00").weekday()), "mon");
    }

    #[test]
    fn holidays_come_once_or_every_year() {
        let mut days = Holidays::default();
        for written in ["12-25", "02-29", "2026-04-03", "2026-12-28/2026-12-31"] {
            days.add(written).unwrap();
        }
        for (date, holiday) in [
            ("2030-12-25", true),
            ("2026-04-03", true),
            ("2027-04-03", false),
            ("2026-12-27", false),
            ("2026-12-28", true),
            ("2026-12-31", true),
            ("2027-12-31", false),
            ("2028-02-29", true),
        ] {
            assert_eq!(days.contains(date.parse().unwrap()), holiday, "{date}");
        }
        assert!(days.add("25.12.").unwrap_err().contains("is no day"));
        assert!(days.add("2026-12-31/2026-12-01").unwrap_err().contains("ends before"));
    }

    #[test]
    fn slips_in_hours_are_explained() {
        let mut hours = Hours::default();
        assert!(hours.add("mon", "8-18").unwrap_err().contains("08:00-18:00"));
        assert!(hours.add("mon", "22:00-06:00").unwrap_err().contains("two parts"));
        assert!(hours.add("mon", "25:00-26:00").is_err());
    }
}
