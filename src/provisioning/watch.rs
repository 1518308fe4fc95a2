//! Looks for fetches that no phone does: names tried one after the other, a person's phone asked for from elsewhere, a phone that says to
//! be of another make than it was. Pure; it only tells: what may be read is `access.rs`'s affair, and was refused already.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use crate::model::{Event, MacAddr, Timestamp, event::Oddity};

/// Within this time things belong together, and are told once.
const TOGETHER_SECS: i64 = 600;
/// Phones that one address asked for in vain when it is told first; then at ten times as many, and so on. A phone that was moved asks for
/// one, a relay's forgotten phone for two.
const FIRST: usize = 3;
/// Names that lead nowhere, from one address. A phone asks for some ten that we do not have, at each boot.
const NAMES_FIRST: usize = 100;
/// Addresses that are watched at once. TFTP's can be made up: when there are too many, those that did little are forgotten.
const SOURCES_MAX: usize = 4096;
/// Phones asked for, of all addresses together.
const MACS_MAX: usize = 100_000;
/// Events in that time, whatever happens: they are kept longer than what others tell by the thousand.
const EVENTS_MAX: usize = 50;

/// What was refused and missed lately, by address.
#[derive(Debug, Default)]
pub(super) struct Watch {
    sources: HashMap<IpAddr, Source>,
    macs: usize,
    /// Phones of which something was told, and when.
    told: HashMap<(MacAddr, Oddity), Timestamp>,
    /// Since when events are counted, and how many there were.
    events: (Timestamp, usize),
}

#[derive(Debug)]
struct Source {
    began: Timestamp,
    macs: HashSet<MacAddr>,
    names: usize,
    /// What is told next.
    next: usize,
    next_names: usize,
}

impl Watch {
    /// A file of this phone was refused. `owned`: somebody's extension is on it.
    pub(super) fn refused(&mut self, now: Timestamp, source: IpAddr, mac: MacAddr, owned: bool) -> Vec<Event> {
        let foreign = owned && self.is_news(now, mac, Oddity::ForeignAddress);
        let room = self.macs < MACS_MAX;
        let seen = self.source(now, source);
        let new = room && seen.macs.insert(mac);
        let count = seen.macs.len();
        let many = new && count >= seen.next;
        if many {
            seen.next = count * 10;
        }
        self.macs += usize::from(new);
        let foreign = foreign.then_some(Event::OddFetches { mac: Some(mac), source, what: Oddity::ForeignAddress, count: 1 });
        let many = many.then_some(Event::OddFetches { mac: None, source, what: Oddity::Enumeration, count });
        foreign.into_iter().chain(many).filter(|_| self.may_tell(now)).collect()
    }

    /// A name that leads nowhere.
    pub(super) fn missing(&mut self, now: Timestamp, source: IpAddr) -> Option<Event> {
        let seen = self.source(now, source);
        seen.names += 1;
        let count = seen.names;
        if count < seen.next_names {
            return None;
        }
        seen.next_names = count * 10;
        self.may_tell(now).then_some(Event::OddFetches { mac: None, source, what: Oddity::Enumeration, count })
    }

    /// A phone that proved itself says to be of another make than it is known to be.
    pub(super) fn other_make(&mut self, now: Timestamp, source: IpAddr, mac: MacAddr) -> Option<Event> {
        let news = self.is_news(now, mac, Oddity::OtherMake) && self.may_tell(now);
        news.then_some(Event::OddFetches { mac: Some(mac), source, what: Oddity::OtherMake, count: 1 })
    }

    /// Another address than the first asks for the files of a phone that is here for the first time.
    pub(super) fn second_first_boot(&mut self, now: Timestamp, source: IpAddr, mac: MacAddr) -> Option<Event> {
        let news = self.is_news(now, mac, Oddity::SecondFirstBoot) && self.may_tell(now);
        news.then_some(Event::OddFetches { mac: Some(mac), source, what: Oddity::SecondFirstBoot, count: 1 })
    }

    /// Of phones that exist, so that there are not more of them than devices.
    fn is_news(&mut self, now: Timestamp, mac: MacAddr, what: Oddity) -> bool {
        let news = self.told.get(&(mac, what)).is_none_or(|at| at.plus_secs(TOGETHER_SECS) <= now);
        if news {
            self.told.insert((mac, what), now);
        }
        news
    }

    fn may_tell(&mut self, now: Timestamp) -> bool {
        if self.events.0.plus_secs(TOGETHER_SECS) <= now {
            self.events = (now, 0);
        }
        self.events.1 += 1;
        metrics::counter!("plugtone_provisioning_odd_fetches_total").increment(1);
        self.events.1 <= EVENTS_MAX
    }

    fn source(&mut self, now: Timestamp, source: IpAddr) -> &mut Source {
        let over = |seen: &Source| seen.began.plus_secs(TOGETHER_SECS) <= now;
        if self.sources.get(&source).is_some_and(over) {
            self.forget(|at, _| *at == source);
        }
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&source) {
            self.forget(|_, seen| over(seen) || seen.macs.len() < FIRST && seen.names < NAMES_FIRST);
            if self.sources.len() > SOURCES_MAX / 2 {
                self.forget(|_, _| true);
            }
        }
        let new = || Source { began: now, macs: HashSet::new(), names: 0, next: FIRST, next_names: NAMES_FIRST };
        self.sources.entry(source).or_insert_with(new)
    }

    fn forget(&mut self, which: impl Fn(&IpAddr, &Source) -> bool) {
        let macs = &mut self.macs;
        self.sources.retain(|at, seen| {
            let goes = which(at, seen);
            *macs -= if goes { seen.macs.len() } else { 0 };
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));

    fn mac(number: u32) -> MacAddr {
        let [_, a, b, c] = number.to_be_bytes();
        MacAddr([0, 0x15, 0x65, a, b, c])
    }

    fn counts(events: &[Event]) -> Vec<(Oddity, usize)> {
        let count = |event: &Event| match event {
            Event::OddFetches { what, count, .. } => (*what, *count),
            other => panic!("{other:?}"),
        };
        events.iter().map(count).collect()
    }

    #[test]
    fn who_tries_one_name_after_the_other_is_told_ever_less_often() {
        let mut watch = Watch::default();
        let refused: Vec<_> = (0..1000).flat_map(|number| watch.refused(Timestamp(0), SOURCE, mac(number), false)).collect();
        assert_eq!(counts(&refused), [(Oddity::Enumeration, 3), (Oddity::Enumeration, 30), (Oddity::Enumeration, 300)]);
        let again: Vec<_> = (0..1000).flat_map(|_| watch.refused(Timestamp(0), SOURCE, mac(1), false)).collect();
        assert_eq!(again, [], "one phone, however often");
        let missing: Vec<_> = (0..5000).filter_map(|_| watch.missing(Timestamp(0), SOURCE)).collect();
        assert_eq!(counts(&missing), [(Oddity::Enumeration, 100), (Oddity::Enumeration, 1000)]);
        let later = Timestamp(TOGETHER_SECS * 1000);
        let later: Vec<_> = (0..3).flat_map(|number| watch.refused(later, SOURCE, mac(number), false)).collect();
        assert_eq!(counts(&later), [(Oddity::Enumeration, 3)], "another evening");
    }

    #[test]
    fn a_persons_phone_that_is_asked_for_from_elsewhere_is_told_at_once_and_not_again() {
        let mut watch = Watch::default();
        assert_eq!(counts(&watch.refused(Timestamp(0), SOURCE, mac(1), true)), [(Oddity::ForeignAddress, 1)]);
        assert_eq!(watch.refused(Timestamp(1000), SOURCE, mac(1), true), []);
        assert!(watch.other_make(Timestamp(2000), SOURCE, mac(1)).is_some(), "that is something else");
        assert_eq!(watch.other_make(Timestamp(3000), SOURCE, mac(1)), None);
        assert_eq!(counts(&watch.refused(Timestamp(TOGETHER_SECS * 1000), SOURCE, mac(1), true)), [(Oddity::ForeignAddress, 1)]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut watch = Watch::default();
        let mut told = 0;
        for number in 0..150_000u32 {
            let source = IpAddr::from((number / 4).to_be_bytes());
            told += watch.refused(Timestamp(0), source, mac(number), false).len();
            told += watch.refused(Timestamp(0), SOURCE, mac(number), false).len();
        }
        let macs: usize = watch.sources.values().map(|seen| seen.macs.len()).sum();
        assert!(watch.sources.len() <= SOURCES_MAX && macs <= MACS_MAX && macs == watch.macs, "{} {macs}", watch.sources.len());
        assert_eq!(told, EVENTS_MAX, "told in ten minutes, of tens of thousands of made-up addresses");
    }
}
