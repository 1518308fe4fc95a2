//! Numbers as people in one country dial them, made international (E.164) and sorted by what they cost.
//!
//! The tables are libphonenumber's (crate `phonenumber`). A number that they do not know yet is still made international;
//! it just counts as an ordinary one. Not here: which trunk wants it how (`trunk.rs`), who may dial it (`plan.rs`).

use std::fmt;

use phonenumber::{Mode, Type, country, metadata::DATABASE};
use serde::{Deserialize, Serialize};

/// What a call costs, roughly: what permissions are about. Emergency numbers are beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Numbers of the office.
    Internal,
    /// Numbers of the country, mobile and free ones included.
    National,
    International,
    /// Costs more than a talk: 0900 and the like.
    Premium,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Internal => "internal",
            Self::National => "national",
            Self::International => "international",
            Self::Premium => "premium",
        })
    }
}

/// How people dial at one place.
#[derive(Clone, Debug)]
pub struct Site {
    country: country::Id,
    country_code: u16,
    /// Before numbers with an area code, as 0; empty in some countries.
    national_prefix: String,
    /// Before numbers with a country code, as 00.
    international_prefix: String,
    /// Of numbers that are dialled without one; empty: none are.
    area_code: String,
}

/// Why a place cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("'{0}' is no country: write its two letters, as DE or US")]
    Country(String),
    #[error("'{0}' is no area code: write its digits without the national prefix, as 30")]
    AreaCode(String),
}

impl Site {
    pub fn new(code: &str, area_code: &str) -> Result<Self, Error> {
        let fault = || Error::Country(code.to_owned());
        let country: country::Id = code.parse().map_err(|_| fault())?;
        let known = DATABASE.by_id(country.as_ref()).ok_or_else(fault)?;
        if !area_code.bytes().all(|b| b.is_ascii_digit()) || area_code.len() > 6 {
            return Err(Error::AreaCode(area_code.to_owned()));
        }
        let written = known.international_prefix().map(|prefix| prefix.as_str().to_owned()).unwrap_or_default();
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // Where several carriers have one each, the table holds a regular expression and the usual one beside it.
        let international_prefix = match known.preferred_international_prefix() {
            _ if digits(&written) => written,
            Some(usual) if digits(usual) => usual.to_owned(),
            _ => "00".to_owned(),
        };
        Ok(Self {
            country,
            country_code: known.country_code(),
            national_prefix: known.national_prefix().unwrap_or_default().to_owned(),
            international_prefix,
            area_code: area_code.to_owned(),
        })
    }

    /// `+49301234567`, of what was dialled here after any outside line. `None`: a short code, or no number.
    pub fn international(&self, dialled: &str) -> Option<String> {
        if let Some(whole) = dialled.strip_prefix('+') {
            return whole_number(whole);
        }
        if !dialled.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        if let Some(whole) = dialled.strip_prefix(&self.international_prefix) {
            return whole_number(whole);
        }
        let has_prefix = !self.national_prefix.is_empty() && dialled.starts_with(&self.national_prefix);
        // In North America a number with its area code has ten digits, and the 1 before them is optional.
        let is_whole = has_prefix || self.area_code.is_empty() || (self.country_code == 1 && dialled.len() >= 10);
        match is_whole {
            true => self.parse(dialled),
            false => self.parse(&format!("{}{}{dialled}", self.national_prefix, self.area_code)),
        }
    }

    /// A short code, as 115: it goes out as it is where a rule names it.
    pub fn is_short(&self, dialled: &str) -> bool {
        let has_prefix = |prefix: &str| !prefix.is_empty() && dialled.starts_with(prefix);
        dialled.len() <= 6 && !dialled.starts_with('+') && !has_prefix(&self.international_prefix) && !has_prefix(&self.national_prefix)
    }

    /// A number of a telephone provider: international without `+`, or as it is dialled here.
    pub fn international_of(&self, number: &str, form: Form) -> Option<String> {
        match form {
            Form::Digits if !number.starts_with('+') => whole_number(number),
            _ => self.international(number),
        }
    }

    /// `+4930…` in the form that a provider wants.
    pub fn write(&self, e164: &str, form: Form) -> String {
        let digits = e164.trim_start_matches('+');
        match form {
            Form::E164 => e164.to_owned(),
            Form::Digits => digits.to_owned(),
            Form::International => format!("{}{digits}", self.international_prefix),
            Form::National => match digits.strip_prefix(&self.country_code.to_string()) {
                Some(national) => format!("{}{national}", self.national_prefix),
                None => format!("{}{digits}", self.international_prefix),
            },
        }
    }

    /// What a call to this international number costs.
    pub fn class(&self, e164: &str) -> Class {
        let Ok(number) = phonenumber::parse(None, e164) else { return Class::International };
        match number.number_type(&DATABASE) {
            Type::PremiumRate => Class::Premium,
            // Countries that share a code (all of +1) differ by area: abroad is where the table says so.
            _ if number.code().value() != self.country_code => Class::International,
            _ => match number.country().id() {
                Some(id) if id != self.country => Class::International,
                _ => Class::National,
            },
        }
    }

    fn parse(&self, dialled: &str) -> Option<String> {
        let number = phonenumber::parse(Some(self.country), dialled).ok()?;
        long_enough(number.format().mode(Mode::E164).to_string())
    }
}

/// How a provider writes numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// `+49301234567`
    #[default]
    E164,
    /// `49301234567`
    Digits,
    /// `0049301234567`
    International,
    /// `0301234567`; abroad as `international`.
    National,
}

/// Without the country of the site, whose rules would eat the leading zero of a number in Italy.
fn whole_number(digits: &str) -> Option<String> {
    if !(3..=17).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = phonenumber::parse(None, format!("+{digits}")).ok()?;
    long_enough(number.format().mode(Mode::E164).to_string())
}

/// The shortest numbers of the world have seven digits with their country code; E.164 allows 15.
fn long_enough(e164: String) -> Option<String> {
    (8..=16).contains(&e164.len()).then_some(e164)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_international() {
        for (country, area, dialled, e164) in [
            ("DE", "30", "030 1234567", Some("+49301234567")),
            ("DE", "30", "1234567", Some("+49301234567")),
            ("DE", "", "00390612345678", Some("+390612345678")),
            ("DE", "30", "+390612345678", Some("+390612345678")),
            ("DE", "30", "004930123456", Some("+4930123456")),
            ("DE", "30", "016012345678", Some("+4916012345678")),
            ("DE", "30", "09001234567", Some("+499001234567")),
            ("US", "212", "5550123", Some("+12125550123")),
            ("US", "212", "4155550123", Some("+14155550123")),
            ("US", "212", "14155550123", Some("+14155550123")),
            ("US", "212", "011493012345", Some("+493012345")),
            ("FR", "", "0142685300", Some("+33142685300")),
            ("IT", "", "0612345678", Some("+390612345678")),
            ("CH", "44", "0041446681800", Some("+41446681800")),
            ("DE", "30", "*21", None),
            ("DE", "30", "", None),
            ("DE", "30", "+", None),
            ("DE", "30", "+491", None),
            ("DE", "", "115", None),
            ("DE", "", "0000000000000000000000000", None),
        ] {
            let site = Site::new(country, area).unwrap();
            let plain: String = dialled.chars().filter(|c| *c != ' ').collect();
            assert_eq!(site.international(&plain).as_deref(), e164, "{country} {area} {dialled}");
        }
        assert_eq!(Site::new("XX", "").unwrap_err(), Error::Country("XX".into()));
        assert_eq!(Site::new("DE", "030a").unwrap_err(), Error::AreaCode("030a".into()));
    }

    #[test]
    fn what_a_number_costs() {
        let class = |country, e164| Site::new(country, "").unwrap().class(e164);
        assert_eq!(class("DE", "+4930123456"), Class::National);
        assert_eq!(class("DE", "+4916012345678"), Class::National);
        assert_eq!(class("DE", "+498001234567"), Class::National);
        assert_eq!(class("DE", "+499001234567"), Class::Premium);
        assert_eq!(class("DE", "+41446681800"), Class::International);
        assert_eq!(class("DE", "+19002345678"), Class::Premium);
        assert_eq!(class("US", "+14155550123"), Class::National);
        assert_eq!(class("US", "+14165550123"), Class::International, "Toronto");
    }

    #[test]
    fn providers_write_in_four_ways() {
        let site = Site::new("DE", "30").unwrap();
        for (form, national, abroad) in [
            (Form::E164, "+493012345678", "+41446681800"),
            (Form::Digits, "493012345678", "41446681800"),
            (Form::International, "00493012345678", "0041446681800"),
            (Form::National, "03012345678", "0041446681800"),
        ] {
            assert_eq!(site.write("+493012345678", form), national);
            assert_eq!(site.write("+41446681800", form), abroad);
            assert_eq!(site.international_of(national, form).as_deref(), Some("+493012345678"));
            assert_eq!(site.international_of(abroad, form).as_deref(), Some("+41446681800"));
        }
    }
}
