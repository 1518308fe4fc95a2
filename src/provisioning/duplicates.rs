//! Finds two boxes that claim one MAC: a phone may move from one address to another, but not to and fro. Pure.
//!
//! Fed with each place that a MAC is heard from, and with each registration: two boxes on one segment are leased the same
//! address, as DHCP knows them by their MAC, and then only the Call-IDs of their REGISTERs tell them apart. Not here: what
//! follows from it. The device keeps its owner, its file goes to the holder of the lease only, and people are told.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::model::LineNumber;

/// Two places that alternate within this time are two boxes.
const ALTERNATES: Duration = Duration::from_secs(300);
/// The same pair is told again after this long.
const DUPLICATE_AGAIN: Duration = Duration::from_secs(600);

/// What a MAC is heard from, to find two boxes with one MAC.
#[derive(Default)]
pub(super) struct Heard {
    places: ToAndFro<IpAddr>,
    /// By Call-ID, of which a number is kept, and place. Few, most often one.
    registrations: Vec<(LineNumber, ToAndFro<(u64, IpAddr)>)>,
    told: Option<Instant>,
}

impl Heard {
    /// The device is heard from `source`. Gives both places when two boxes must be behind it: one box may move, but it
    /// does not go to and fro.
    pub(super) fn at(&mut self, now: Instant, source: IpAddr) -> Option<(IpAddr, IpAddr)> {
        // IPv4 and IPv6 of one phone are not two places.
        if self.places.here.as_ref().is_some_and(|(here, _)| here.is_ipv4() != source.is_ipv4()) {
            return None;
        }
        let here = self.places.at(now, source, Some(ALTERNATES))?;
        self.tells(now).then_some((here, source))
    }

    /// A line registered, or refreshed its registration. Gives where the two boxes are. However long it takes: a Call-ID
    /// that a phone has left never comes back (RFC 3261 §10.2.4).
    pub(super) fn registers(&mut self, now: Instant, line: LineNumber, call_id: &str, source: IpAddr) -> Option<(IpAddr, IpAddr)> {
        let at = match self.registrations.iter().position(|(known, _)| *known == line) {
            Some(at) => at,
            None => {
                self.registrations.reserve_exact(1);
                self.registrations.push((line, ToAndFro::default()));
                self.registrations.len() - 1
            }
        };
        let (_, registrations) = self.registrations.get_mut(at)?;
        let mut hasher = DefaultHasher::new();
        call_id.hash(&mut hasher);
        let (_, other) = registrations.at(now, (hasher.finish(), source), None)?;
        self.tells(now).then_some((other, source))
    }

    /// Not with each packet.
    fn tells(&mut self, now: Instant) -> bool {
        let lately = self.told.is_some_and(|told| now.saturating_duration_since(told) < DUPLICATE_AGAIN);
        if !lately {
            self.told = Some(now);
        }
        !lately
    }
}

/// Something that may change, but not back, again and again.
struct ToAndFro<T> {
    here: Option<(T, Instant)>,
    /// In a box: few have been anywhere else.
    before: Option<Box<(T, Instant)>>,
    /// How often it went back to where it had just been.
    returns: u32,
}

impl<T> Default for ToAndFro<T> {
    fn default() -> Self {
        Self { here: None, before: None, returns: 0 }
    }
}

impl<T: PartialEq + Copy> ToAndFro<T> {
    /// The other of the two, when it has gone back twice; a return counts within so long only.
    fn at(&mut self, now: Instant, place: T, within: Option<Duration>) -> Option<T> {
        let left = self.here.replace((place, now)).filter(|(here, _)| *here != place)?;
        let soon = |at: Instant| within.is_none_or(|within| now.saturating_duration_since(at) < within);
        let returned = self.before.as_ref().is_some_and(|before| before.0 == place && soon(before.1));
        self.returns = if returned { self.returns + 1 } else { 0 };
        self.before = Some(Box::new(left));
        (self.returns >= 2).then_some(left.0)
    }
}
