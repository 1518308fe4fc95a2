//! What a phone hears once a star code has done its work: what is set now; and at which place a call will wait. Pure.

use std::time::Duration;

use super::speech::Utterance;
use crate::features::{Change, Confirmation, book::When};

/// In words.
pub fn report(done: &Confirmation) -> Vec<Utterance> {
    let prompt = |id: &str| Utterance::Prompt(id.to_owned());
    let digits = |number: &str| Utterance::Digits(number.to_owned());
    let either = |on: bool, yes: &str, no: &str| vec![prompt(if on { yes } else { no })];
    let said = match done {
        Confirmation::Changed(Change::Forward { when, to }) => {
            let which = prompt(match when {
                When::Always => "set-always",
                When::Busy => "set-busy",
                When::NoAnswer => "set-no-answer",
                When::Unreachable => "set-unreachable",
            });
            match to {
                Some(to) => vec![which, prompt("set-go-to"), digits(to)],
                None => vec![which, prompt("set-not-forwarded")],
            }
        }
        Confirmation::Changed(Change::DoNotDisturb(on)) => either(*on, "set-do-not-disturb", "set-disturb"),
        Confirmation::Changed(Change::OneCallOnly(on)) => either(*on, "set-one-call", "set-call-waiting"),
        Confirmation::Changed(Change::RefuseHidden(on)) => either(*on, "set-hidden-refused", "set-hidden-taken"),
        Confirmation::Changed(Change::Block(number)) => vec![prompt("set-blocked"), digits(number)],
        Confirmation::Changed(Change::Unblock(number)) => vec![prompt("set-unblocked"), digits(number)],
        Confirmation::Changed(Change::Speed { key, to }) => {
            let key = [prompt("set-speed-dial"), Utterance::Number(u64::from(*key))];
            match to {
                Some(to) => key.into_iter().chain([prompt("set-is-now"), digits(to)]).collect(),
                None => key.into_iter().chain([prompt("set-is-free")]).collect(),
            }
        }
        // No code does these.
        Confirmation::Changed(Change::RingSecs(_) | Change::All(_)) => Vec::new(),
        Confirmation::Night { closed } => either(*closed, "set-night", "set-by-the-clock"),
        Confirmation::CallBack { to: Some(to) } => vec![prompt("set-call-back"), digits(to), prompt("set-when-free")],
        Confirmation::CallBack { to: None } => vec![prompt("set-no-call-back")],
        Confirmation::NotAllowed => vec![prompt("set-not-allowed")],
        Confirmation::Impossible => vec![prompt("set-impossible")],
    };
    // The sound of some phones needs a moment to be there.
    std::iter::once(Utterance::Pause(Duration::from_millis(300))).chain(said).collect()
}

/// Where a call will wait if it is transferred; said again and again, as there is time until it is.
pub fn place(place: &str) -> Vec<Utterance> {
    let said = [Utterance::Prompt("park-place".to_owned()), Utterance::Digits(place.to_owned())];
    let (before, after) = (Utterance::Pause(Duration::from_millis(300)), Utterance::Pause(Duration::from_secs(2)));
    std::iter::once(before).chain(said).chain([after]).collect()
}

/// All prompts that this can want.
pub const PROMPTS: [&str; 25] = [
    "park-place",
    "set-always",
    "set-busy",
    "set-no-answer",
    "set-unreachable",
    "set-go-to",
    "set-not-forwarded",
    "set-do-not-disturb",
    "set-disturb",
    "set-one-call",
    "set-call-waiting",
    "set-hidden-refused",
    "set-hidden-taken",
    "set-blocked",
    "set-unblocked",
    "set-speed-dial",
    "set-is-now",
    "set-is-free",
    "set-night",
    "set-by-the-clock",
    "set-call-back",
    "set-when-free",
    "set-no-call-back",
    "set-not-allowed",
    "set-impossible",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_said() {
        let forward = |when, to: Option<&str>| Confirmation::Changed(Change::Forward { when, to: to.map(str::to_owned) });
        let speed = |to: Option<&str>| Confirmation::Changed(Change::Speed { key: 17, to: to.map(str::to_owned) });
        for (done, words) in [
            (forward(When::Always, Some("2043")), "<set-always> <set-go-to> 2 0 4 3"),
            (forward(When::NoAnswer, None), "<set-no-answer> <set-not-forwarded>"),
            (Confirmation::Changed(Change::DoNotDisturb(true)), "<set-do-not-disturb>"),
            (Confirmation::Changed(Change::OneCallOnly(false)), "<set-call-waiting>"),
            (Confirmation::Changed(Change::Block("0170".into())), "<set-blocked> 0 1 7 0"),
            (speed(Some("2043")), "<set-speed-dial> 17 <set-is-now> 2 0 4 3"),
            (speed(None), "<set-speed-dial> 17 <set-is-free>"),
            (Confirmation::Night { closed: true }, "<set-night>"),
            (Confirmation::CallBack { to: Some("2042".into()) }, "<set-call-back> 2 0 4 2 <set-when-free>"),
            (Confirmation::NotAllowed, "<set-not-allowed>"),
        ] {
            let said = report(&done);
            let text: Vec<_> = said.iter().map(|one| one.text(|id| Some(format!("<{id}>")))).filter(|text| !text.is_empty()).collect();
            assert_eq!(text.join(" "), words);
            let wanted = said.iter().filter_map(|one| if let Utterance::Prompt(id) = one { Some(id.as_str()) } else { None });
            assert!(wanted.into_iter().all(|id| PROMPTS.contains(&id)), "{words}");
        }
    }
}
