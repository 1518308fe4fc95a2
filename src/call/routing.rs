//! Who may reach what: (caller, what was dialled) → [`Route`]. Pure; who is registered where is asked later.
//!
//! A phone without an owner reaches the voice menu, whatever it dials, and emergency numbers: by this rule and not by its
//! good manners. Not here: trunks, dial plans, star codes.

use crate::model::{Extension, LineNumber, MacAddr};

use super::Config;

/// Who calls, as proved by digest. Never taken from the From header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User part of its address of record: the extension, or `new<mac>` without an owner.
    pub user: String,
    pub display_name: String,
    pub mac: MacAddr,
    pub line: LineNumber,
    /// Nobody owns the line yet.
    pub provisional: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// The voice menu.
    Service,
    /// All phones of this extension.
    Extension(Extension),
    /// All phones of all these, unlimited.
    Emergency(Vec<Extension>),
    /// No number of ours: 404.
    Unknown,
}

/// `is_extension` tells whether somebody has this number.
pub fn route(config: &Config, caller: &Caller, dialled: &str, is_extension: impl Fn(&str) -> bool) -> Route {
    let number = plain(dialled);
    if let Some(targets) = config.emergency.get(&number) {
        return Route::Emergency(targets.clone());
    }
    if caller.provisional || number == config.ivr_number {
        return Route::Service;
    }
    match number.parse::<Extension>() {
        Ok(extension) if is_extension(extension.as_str()) => Route::Extension(extension),
        _ => Route::Unknown,
    }
}

/// A number as people write it, without what they write between the digits (RFC 3966 §5.1.1).
fn plain(dialled: &str) -> String {
    dialled.chars().filter(|c| !matches!(c, ' ' | '-' | '.' | '(' | ')')).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Settings;

    #[test]
    fn who_reaches_what() {
        let mut settings = Settings::default();
        settings.emergency.insert("112".to_owned(), vec!["2000".parse().unwrap()]);
        let config = settings.check().unwrap();
        let caller = |provisional| Caller {
            user: "2041".into(),
            display_name: "Ada".into(),
            mac: MacAddr([0, 0x15, 0x65, 1, 2, 3]),
            line: 1,
            provisional,
        };
        let extension = |number: &str| Route::Extension(number.parse().unwrap());
        let emergency = Route::Emergency(vec!["2000".parse().unwrap()]);
        for (provisional, dialled, reached) in [
            (false, "2042", extension("2042")),
            (false, "20-42", extension("2042")),
            (false, "2999", Route::Unknown),
            (false, "alice", Route::Unknown),
            (false, "new001565010203", Route::Unknown),
            (false, "", Route::Unknown),
            (false, "0", Route::Service),
            (false, "112", emergency.clone()),
            (true, "2042", Route::Service),
            (true, "", Route::Service),
            (true, "anything", Route::Service),
            (true, "0", Route::Service),
            (true, "112", emergency.clone()),
            (true, "1-1-2", emergency),
        ] {
            let route = route(&config, &caller(provisional), dialled, |number| ["2041", "2042", "2000"].contains(&number));
            assert_eq!(route, reached, "{dialled} provisional={provisional}");
        }
    }
}
