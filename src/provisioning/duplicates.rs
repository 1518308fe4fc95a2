//! Finds two boxes that claim one MAC: a phone may move from one address to another, but not to and fro. Pure.
//!
//! Fed with each place that a MAC is heard from. Not here: what follows from it. The device keeps its owner, its file goes
//! to the holder of the lease only, and people are told.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

/// Two places that alternate within this time are two boxes.
const ALTERNATES: Duration = Duration::from_secs(300);
/// The same pair is told again after this long.
const DUPLICATE_AGAIN: Duration = Duration::from_secs(600);

/// The places that a MAC is heard from, to find two boxes with one MAC.
#[derive(Default)]
pub(super) struct Heard {
    here: Option<(IpAddr, Instant)>,
    before: Option<(IpAddr, Instant)>,
    /// How often it went back to where it had just been.
    returns: u32,
    told: Option<Instant>,
}

impl Heard {
    /// The device is heard from `source`. Gives both places when two boxes must be behind it: one box may move, but it
    /// does not go to and fro.
    pub(super) fn at(&mut self, now: Instant, source: IpAddr) -> Option<(IpAddr, IpAddr)> {
        let Some((here, _)) = self.here.filter(|(here, _)| here.is_ipv4() == source.is_ipv4()) else {
            // IPv4 and IPv6 of one phone are not two places.
            if self.here.is_none() {
                self.here = Some((source, now));
            }
            return None;
        };
        if here == source {
            self.here = Some((source, now));
            return None;
        }
        let returned = self.before.is_some_and(|(place, at)| place == source && now.saturating_duration_since(at) < ALTERNATES);
        self.returns = if returned { self.returns + 1 } else { 0 };
        self.before = self.here.replace((source, now));
        let told_lately = self.told.is_some_and(|told| now.saturating_duration_since(told) < DUPLICATE_AGAIN);
        if self.returns < 2 || told_lately {
            return None;
        }
        self.told = Some(now);
        Some((here, source))
    }
}
