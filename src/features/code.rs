//! Star codes: what a phone dials to change or ask something, in place of a number.

use serde::{Deserialize, Serialize};

use super::book::When;

/// What was dialled, if it is a star code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Code {
    /// `None`: off.
    Forward {
        when: When,
        to: Option<String>,
    },
    DoNotDisturb(bool),
    /// On if it is off, off if it is on.
    ToggleDoNotDisturb,
    /// A second call rings while the user talks.
    CallWaiting(bool),
    RefuseHidden(bool),
    Block(String),
    Unblock(String),
    /// Whoever called last.
    BlockLast,
    /// Takes the call that rings at this extension.
    Pickup(String),
    /// Takes a call that rings in one's own pick-up group.
    GroupPickup,
    /// Calls an extension whose phone answers by itself.
    Intercom(String),
    /// Calls this number without telling one's own.
    Hidden(String),
    /// The number dialled last.
    Redial,
    /// Whoever called last.
    CallReturn,
    /// Calls back when the number dialled last is free.
    CallBack,
    CancelCallBack,
    SpeedDial(u8),
    SetSpeedDial {
        key: u8,
        to: Option<String>,
    },
    /// Turns the night switch with this digit.
    Night(String),
    /// The phone tells of itself.
    Diagnosis,
}

/// The codes of an office. An empty one is off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Codes {
    /// Followed by the number; the same for the other forwards.
    pub forward_always: String,
    pub forward_always_off: String,
    pub forward_busy: String,
    pub forward_busy_off: String,
    pub forward_no_answer: String,
    pub forward_no_answer_off: String,
    pub forward_unreachable: String,
    pub forward_unreachable_off: String,
    pub do_not_disturb: String,
    pub do_not_disturb_off: String,
    pub do_not_disturb_toggle: String,
    pub call_waiting: String,
    pub call_waiting_off: String,
    pub refuse_hidden: String,
    pub refuse_hidden_off: String,
    /// Followed by the number.
    pub block: String,
    pub unblock: String,
    pub block_last: String,
    /// Followed by the extension that rings.
    pub pickup: String,
    pub group_pickup: String,
    /// Followed by the extension.
    pub intercom: String,
    /// Followed by the number.
    pub hide_number: String,
    pub redial: String,
    pub call_return: String,
    pub call_back: String,
    pub call_back_off: String,
    /// Followed by the key, 0 to 99.
    pub speed_dial: String,
    /// Followed by the key in two digits, and the number; without a number the key is free again.
    pub set_speed_dial: String,
    /// Followed by a key of `night`.
    pub night: String,
    pub diagnosis: String,
}

impl Default for Codes {
    fn default() -> Self {
        let code = str::to_owned;
        Self {
            forward_always: code("*72"),
            forward_always_off: code("*73"),
            forward_busy: code("*90"),
            forward_busy_off: code("*91"),
            forward_no_answer: code("*92"),
            forward_no_answer_off: code("*93"),
            forward_unreachable: code("*94"),
            forward_unreachable_off: code("*95"),
            do_not_disturb: code("*78"),
            do_not_disturb_off: code("*79"),
            do_not_disturb_toggle: code("*76"),
            call_waiting: code("*70"),
            call_waiting_off: code("*71"),
            refuse_hidden: code("*77"),
            refuse_hidden_off: code("*87"),
            block: code("*30"),
            unblock: code("*31"),
            block_last: code("*32"),
            pickup: code("**"),
            group_pickup: code("*8"),
            intercom: code("*80"),
            hide_number: code("*67"),
            redial: code("*66"),
            call_return: code("*69"),
            call_back: code("*37"),
            call_back_off: code("*38"),
            speed_dial: code("*0"),
            set_speed_dial: code("*75"),
            night: code("*28"),
            diagnosis: code("*65"),
        }
    }
}

/// What follows a code: nothing, or something.
type Made = fn(&str) -> Option<Code>;

impl Codes {
    /// Key of the settings, code, and what it makes of what follows it.
    fn table(&self) -> [(&'static str, &str, Made); 30] {
        fn bare(rest: &str, code: Code) -> Option<Code> {
            rest.is_empty().then_some(code)
        }
        fn to(rest: &str) -> Option<String> {
            super::book::check_number(rest).is_ok().then(|| rest.to_owned())
        }
        fn forward(rest: &str, when: When) -> Option<Code> {
            to(rest).map(|to| Code::Forward { when, to: Some(to) })
        }
        fn no_forward(rest: &str, when: When) -> Option<Code> {
            bare(rest, Code::Forward { when, to: None })
        }
        fn key(rest: &str) -> Option<u8> {
            rest.parse().ok().filter(|key| *key <= 99 && rest.len() <= 2)
        }
        fn set_speed(rest: &str) -> Option<Code> {
            let (digits, number) = rest.split_at_checked(2)?;
            let to = if number.is_empty() { None } else { Some(to(number)?) };
            Some(Code::SetSpeedDial { key: key(digits)?, to })
        }
        [
            ("forward_always", &self.forward_always, |rest| forward(rest, When::Always)),
            ("forward_always_off", &self.forward_always_off, |rest| no_forward(rest, When::Always)),
            ("forward_busy", &self.forward_busy, |rest| forward(rest, When::Busy)),
            ("forward_busy_off", &self.forward_busy_off, |rest| no_forward(rest, When::Busy)),
            ("forward_no_answer", &self.forward_no_answer, |rest| forward(rest, When::NoAnswer)),
            ("forward_no_answer_off", &self.forward_no_answer_off, |rest| no_forward(rest, When::NoAnswer)),
            ("forward_unreachable", &self.forward_unreachable, |rest| forward(rest, When::Unreachable)),
            ("forward_unreachable_off", &self.forward_unreachable_off, |rest| no_forward(rest, When::Unreachable)),
            ("do_not_disturb", &self.do_not_disturb, |rest| bare(rest, Code::DoNotDisturb(true))),
            ("do_not_disturb_off", &self.do_not_disturb_off, |rest| bare(rest, Code::DoNotDisturb(false))),
            ("do_not_disturb_toggle", &self.do_not_disturb_toggle, |rest| bare(rest, Code::ToggleDoNotDisturb)),
            ("call_waiting", &self.call_waiting, |rest| bare(rest, Code::CallWaiting(true))),
            ("call_waiting_off", &self.call_waiting_off, |rest| bare(rest, Code::CallWaiting(false))),
            ("refuse_hidden", &self.refuse_hidden, |rest| bare(rest, Code::RefuseHidden(true))),
            ("refuse_hidden_off", &self.refuse_hidden_off, |rest| bare(rest, Code::RefuseHidden(false))),
            ("block", &self.block, |rest| to(rest).map(Code::Block)),
            ("unblock", &self.unblock, |rest| to(rest).map(Code::Unblock)),
            ("block_last", &self.block_last, |rest| bare(rest, Code::BlockLast)),
            ("pickup", &self.pickup, |rest| to(rest).map(Code::Pickup)),
            ("group_pickup", &self.group_pickup, |rest| bare(rest, Code::GroupPickup)),
            ("intercom", &self.intercom, |rest| to(rest).map(Code::Intercom)),
            ("hide_number", &self.hide_number, |rest| to(rest).map(Code::Hidden)),
            ("redial", &self.redial, |rest| bare(rest, Code::Redial)),
            ("call_return", &self.call_return, |rest| bare(rest, Code::CallReturn)),
            ("call_back", &self.call_back, |rest| bare(rest, Code::CallBack)),
            ("call_back_off", &self.call_back_off, |rest| bare(rest, Code::CancelCallBack)),
            ("speed_dial", &self.speed_dial, |rest| key(rest).map(Code::SpeedDial)),
            ("set_speed_dial", &self.set_speed_dial, set_speed),
            ("night", &self.night, |rest| to(rest).map(Code::Night)),
            ("diagnosis", &self.diagnosis, |rest| bare(rest, Code::Diagnosis)),
        ]
    }

    /// What was dialled, if it is a code; the longest counts. Phones may end it with `#`.
    pub fn read(&self, dialled: &str) -> Option<Code> {
        if !dialled.starts_with(['*', '#']) {
            return None;
        }
        let dialled = dialled.strip_suffix('#').unwrap_or(dialled);
        let table = self.table();
        let fitting = table.iter().filter(|(_, code, _)| !code.is_empty());
        let best = fitting.filter_map(|(_, code, make)| Some((code.len(), make(dialled.strip_prefix(code)?)?)));
        best.max_by_key(|(length, _)| *length).map(|(_, code)| code)
    }

    /// The first code that is no code, or is there twice: both keys.
    pub(super) fn fault(&self) -> Option<(&'static str, Option<&'static str>)> {
        let table = self.table();
        for (at, (key, code, _)) in table.iter().enumerate().filter(|(_, (_, code, _))| !code.is_empty()) {
            let fits = code.starts_with(['*', '#']) && code.len() <= 8 && code.bytes().all(|b| b.is_ascii_digit() || b"*#".contains(&b));
            if !fits {
                return Some((key, None));
            }
            if let Some((other, ..)) = table[..at].iter().find(|(_, other, _)| other == code) {
                return Some((key, Some(other)));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_the_longest_first() {
        let codes = Codes::default();
        let number = |text: &str| text.to_owned();
        for (dialled, code) in [
            ("*722050", Some(Code::Forward { when: When::Always, to: Some(number("2050")) })),
            ("*72", None),
            ("*73", Some(Code::Forward { when: When::Always, to: None })),
            ("*73#", Some(Code::Forward { when: When::Always, to: None })),
            ("*7312", None),
            ("*92+4930123456", Some(Code::Forward { when: When::NoAnswer, to: Some(number("+4930123456")) })),
            ("*78", Some(Code::DoNotDisturb(true))),
            ("*8", Some(Code::GroupPickup)),
            ("*802042", Some(Code::Intercom(number("2042")))),
            ("**2042", Some(Code::Pickup(number("2042")))),
            ("*07", Some(Code::SpeedDial(7))),
            ("*099", Some(Code::SpeedDial(99))),
            ("*0100", None),
            ("*7507030123", Some(Code::SetSpeedDial { key: 7, to: Some(number("030123")) })),
            ("*7507", Some(Code::SetSpeedDial { key: 7, to: None })),
            ("*280", Some(Code::Night(number("0")))),
            ("2042", None),
            ("*", None),
            ("#", None),
            ("", None),
        ] {
            assert_eq!(codes.read(dialled), code, "{dialled}");
        }
    }

    #[test]
    fn a_code_can_be_another_one_or_off_but_not_twice() {
        let codes = Codes { do_not_disturb: "*25".into(), redial: String::new(), ..Codes::default() };
        assert_eq!((codes.read("*25"), codes.read("*78"), codes.read("*66")), (Some(Code::DoNotDisturb(true)), None, None));
        assert_eq!(codes.fault(), None);
        assert_eq!(Codes { do_not_disturb: "25".into(), ..Codes::default() }.fault(), Some(("do_not_disturb", None)));
        assert_eq!(Codes { redial: "*78".into(), ..Codes::default() }.fault(), Some(("redial", Some("do_not_disturb"))));
    }
}
