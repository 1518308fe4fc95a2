//! What time it is, by whom phones would ask: NTP (RFC 5905), and the server's own answers.
//!
//! A phone with a wrong clock refuses certificates and shows the wrong day. Three clocks are compared: of the time server, of the Plugtone
//! server, of this machine; who is alone against two is wrong. Not here: asking (`worker/clock.rs`).

use std::net::IpAddr;

use super::{Area, Finding, listed};

/// Beyond it certificates and one-time answers are at risk, in milliseconds.
const WRONG_MS: i64 = 60_000;
/// Beyond it a person sees it.
const VISIBLE_MS: i64 = 2_000;
/// From 1900, which NTP counts from, to 1970.
const SECONDS_1900_TO_1970: i64 = 2_208_988_800;

/// What came of asking for the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Time servers that phones are told, and how far each is ahead of this machine, in milliseconds; `None`: no answer.
    pub ntp: Vec<(IpAddr, Result<i64, NoTime>)>,
    /// How far the Plugtone server is ahead of this machine, by the Date of an answer of its; seconds precisely.
    pub server_ms: Option<i64>,
    /// It is this machine.
    pub is_here: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTime {
    Silent,
    Refused,
    /// It answers, and says that it does not know the time itself.
    Unsynchronised,
}

/// A question in the client's mode, version 4; `now` in milliseconds since 1970 comes back in the answer.
pub fn question(now: i64) -> [u8; 48] {
    let mut packet = [0; 48];
    packet[0] = 0b00_100_011;
    packet[40..].copy_from_slice(&stamp(now));
    packet
}

/// How far the far clock is ahead, in milliseconds, of an answer to a question that left at `sent` and came back at `now`.
pub fn offset(answer: &[u8], sent: i64, now: i64) -> Option<Result<i64, NoTime>> {
    let part = |at: usize| answer.get(at..at + 8).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
    let (flags, stratum) = (*answer.first()?, *answer.get(1)?);
    // Mode 4, a server's; and to this very question.
    if flags & 7 != 4 || part(24)? != stamp(sent) {
        return None;
    }
    let (received, transmitted) = (milliseconds(part(32)?), milliseconds(part(40)?));
    if flags >> 6 == 3 || stratum == 0 || stratum >= 16 {
        return Some(Err(NoTime::Unsynchronised));
    }
    Some(Ok(((received - sent) + (transmitted - now)) / 2))
}

fn stamp(at: i64) -> [u8; 8] {
    let (secs, ms) = (at.div_euclid(1000) + SECONDS_1900_TO_1970, at.rem_euclid(1000));
    let fraction = (ms << 32) / 1000;
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&(secs as u32).to_be_bytes());
    bytes[4..].copy_from_slice(&(fraction as u32).to_be_bytes());
    bytes
}

fn milliseconds(stamp: [u8; 8]) -> i64 {
    let [a, b, c, d, e, f, g, h] = stamp;
    let (secs, fraction) = (i64::from(u32::from_be_bytes([a, b, c, d])), i64::from(u32::from_be_bytes([e, f, g, h])));
    // The count of seconds begins again in 2036.
    let secs = if secs < SECONDS_1900_TO_1970 { secs + (1 << 32) } else { secs };
    (secs - SECONDS_1900_TO_1970) * 1000 + ((fraction * 1000) >> 32)
}

pub fn findings(seen: &Seen) -> Vec<Finding> {
    let area = Area::Clock;
    let mut found = Vec::new();
    let right: Vec<_> = seen.ntp.iter().filter_map(|(at, time)| Some((*at, time.ok()?))).collect();
    if seen.ntp.is_empty() {
        found.push(area.note(
            "phones are told no time server (option 42): they take the one in their files, or of their maker",
            "name one in `ntp` of the subnet, or in option 42 of the DHCP server that leases",
        ));
    }
    for (at, time) in &seen.ntp {
        match time {
            Err(NoTime::Silent | NoTime::Refused) => found.push(area.wrong(
                format!(
                    "the time server {at}, which phones are told, does not answer: their clocks stay wrong, and certificates are refused"
                ),
                "open UDP 123 to it, or name one that answers (`ntp` of the subnet; option 42)",
            )),
            Err(NoTime::Unsynchronised) => found.push(area.wrong(
                format!("the time server {at} says that it does not know the time itself"),
                "give it a source (chrony: `pool pool.ntp.org`, or `local stratum 10` where there is no internet)",
            )),
            Ok(ms) if ms.abs() < VISIBLE_MS => found.push(area.good(format!("the time server {at} and this machine agree"))),
            Ok(ms) => found.push(against(*at, *ms, seen)),
        }
    }
    if let Some(ms) = seen.server_ms.filter(|ms| !seen.is_here && ms.abs() >= VISIBLE_MS) {
        let agrees = right.iter().any(|(_, ntp)| (ntp - ms).abs() < VISIBLE_MS);
        let says = format!("the clock of the Plugtone server is {} this machine's", apart(ms));
        found.push(match (agrees, ms.abs() >= WRONG_MS) {
            (true, _) => area
                .note(format!("{says}, and right by the time server: this machine's is wrong"), "let this machine's clock be set (chrony)"),
            (false, true) => area.wrong(says, "let the server's clock be set by NTP (`timedatectl set-ntp true`, or chrony)"),
            (false, false) => area.note(says, "let the server's clock be set by NTP (`timedatectl set-ntp true`, or chrony)"),
        });
    }
    found
}

/// A time server that does not agree with this machine.
fn against(at: IpAddr, ms: i64, seen: &Seen) -> Finding {
    let says = format!("the time server {at} is {} this machine's clock", apart(ms));
    let others: Vec<_> =
        seen.ntp.iter().filter(|(other, time)| *other != at && time.is_ok_and(|time| (time - ms).abs() < VISIBLE_MS)).collect();
    let third = if seen.is_here { None } else { seen.server_ms };
    let (whose, remedy) = match third {
        Some(third) if (third - ms).abs() < VISIBLE_MS => {
            ("; the Plugtone server agrees with it: this machine's is wrong", "let this machine's clock be set")
        }
        Some(third) if third.abs() < VISIBLE_MS => ("; the Plugtone server agrees with this machine: the time server is wrong", REPLACE),
        _ if !others.is_empty() => ("; other time servers agree with it: this machine's is wrong", "let this machine's clock be set"),
        _ => ("; phones would show that time, and refuse certificates if it is wrong", REPLACE),
    };
    let mine = whose.ends_with("this machine's is wrong") && !seen.is_here;
    match ms.abs() >= WRONG_MS && !mine {
        true => Area::Clock.wrong(says + whose, remedy),
        false => Area::Clock.note(says + whose, remedy),
    }
}

const REPLACE: &str = "correct that time server, or name another (`ntp` of the subnet; option 42), and see that the server's own clock is set by NTP \
    (`chronyc tracking`)";

fn apart(ms: i64) -> String {
    let secs = (ms.abs() + 500) / 1000;
    // Of hours nobody counts the seconds.
    let secs = if secs >= 3600 { (secs + 30) / 60 * 60 } else { secs };
    let parts = [(secs / 86_400, "d"), (secs % 86_400 / 3600, "h"), (secs % 3600 / 60, "min"), (secs % 60, "s")];
    let parts: Vec<_> = parts.iter().filter(|(number, _)| *number > 0).take(2).map(|(number, unit)| format!("{number} {unit}")).collect();
    format!("{} {}", listed(parts), if ms < 0 { "behind" } else { "ahead of" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::told;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn an_answer_is_read_as_the_difference_of_two_clocks() {
        let (sent, now) = (1_795_000_000_123, 1_795_000_000_223);
        let mut answer = question(sent + 2 * HOUR + 50);
        (answer[0], answer[1]) = (0b00_100_100, 2);
        answer[24..32].copy_from_slice(&stamp(sent));
        answer[32..40].copy_from_slice(&stamp(sent + 2 * HOUR + 50));
        let ahead = offset(&answer, sent, now).unwrap().unwrap();
        assert!((ahead - 2 * HOUR).abs() <= 2, "{ahead}");
        assert_eq!(offset(&answer, sent + 1, now), None, "an answer to another question");
        answer[1] = 16;
        assert_eq!(offset(&answer, sent, now), Some(Err(NoTime::Unsynchronised)));
        assert_eq!(offset(&answer[..47], sent, now), None);
        // The second era of NTP.
        assert!((milliseconds(stamp(2_085_978_500_000)) - 2_085_978_500_000).abs() <= 1);
    }

    #[test]
    fn who_is_alone_against_two_is_wrong() {
        let (a, b): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        for (story, ntp, server_ms, is_here, says) in [
            ("all agree", vec![(a, Ok(12))], Some(-400), false, "Good: the time server 10.0.0.1 and this machine agree"),
            ("none is told", vec![], Some(0), false, "Note: phones are told no time server"),
            (
                "silent",
                vec![(a, Err(NoTime::Silent))],
                None,
                false,
                "Wrong: the time server 10.0.0.1, which phones are told, does not answer",
            ),
            ("lost", vec![(a, Err(NoTime::Unsynchronised))], None, false, "Wrong: the time server 10.0.0.1 says that it does not know"),
            (
                "off",
                vec![(a, Ok(2 * HOUR - 1_400))],
                Some(0),
                false,
                "Wrong: the time server 10.0.0.1 is 2 h ahead of this machine's clock; the Plugtone server agrees with this machine",
            ),
            (
                "off, on the server",
                vec![(a, Ok(-HOUR - 80_000))],
                Some(0),
                true,
                "Wrong: the time server 10.0.0.1 is 1 h and 1 min behind this machine's clock; phones would",
            ),
            (
                "we are off",
                vec![(a, Ok(HOUR))],
                Some(HOUR),
                false,
                "Note: the time server 10.0.0.1 is 1 h ahead of this machine's clock; the Plugtone server agrees with it",
            ),
            (
                "the server is off",
                vec![(a, Ok(0))],
                Some(HOUR),
                false,
                "Wrong: the clock of the Plugtone server is 1 h ahead of this machine's",
            ),
            (
                "we are off, on the server",
                vec![(a, Ok(HOUR)), (b, Ok(HOUR))],
                Some(0),
                true,
                "Wrong: the time server 10.0.0.1 is 1 h ahead of this machine's clock; other time servers",
            ),
        ] {
            let found = told(&findings(&Seen { ntp, server_ms, is_here }));
            assert!(found.contains(says), "{story}: {found}");
        }
    }
}
