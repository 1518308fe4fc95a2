//! Fleets that are imagined, in virtual time: phones that do as they are told, and such as do not.

use std::collections::BTreeMap;

use super::*;
use crate::model::Timestamp;

/// How a phone takes the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Fetches after two seconds, registers a second later.
    Good,
    /// With the new files its password is wrong.
    Refused,
    /// With the new files it is gone.
    Lost,
    /// Registers and is gone after ten seconds.
    Crashes,
    /// Never fetches.
    Deaf,
    /// Registers, then is away for two minutes, says that it runs the new firmware, and registers two seconds later.
    Installs,
    /// Registers, and runs what it ran.
    Keeps,
}

struct Fleet {
    rollout: Rollout,
    at: i64,
    quiet: bool,
    manners: BTreeMap<MacAddr, Manner>,
    standings: BTreeMap<MacAddr, Standing>,
    /// Told to fetch at that time.
    told: BTreeMap<MacAddr, i64>,
    ring: BTreeSet<MacAddr>,
    /// When who was told.
    log: Vec<(i64, u8)>,
    events: Vec<Event>,
}

fn mac(n: u8) -> MacAddr {
    MacAddr([0, 0x15, 0x65, 0, 0, n])
}

const PACE: Pace =
    Pace { growth: 3, per_minute: 600, take_secs: 120, register_secs: 60, firmware_secs: 300, stay_secs: 30, max_failed_percent: 10 };

impl Fleet {
    fn new(phones: u8, first: &[u8], pace: Pace, change: impl Fn(u8, &mut Standing) -> Manner) -> Self {
        let (mut manners, mut standings, mut candidates) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for n in 1..=phones {
            let times = Times { registered_at: Some(Timestamp(-5)), ..Times::default() };
            let mut standing = Standing { registered: true, times, ..Standing::default() };
            manners.insert(mac(n), change(n, &mut standing));
            standings.insert(mac(n), standing.clone());
            let firmware = matches!(manners[&mac(n)], Manner::Installs | Manner::Keeps).then(|| "2".to_owned());
            candidates.push(Candidate {
                mac: mac(n),
                family: "yealink".into(),
                model: None,
                firmware,
                site: None,
                groups: Vec::new(),
                standing,
            });
        }
        let first: Vec<_> = first.iter().map(|n| mac(*n)).collect();
        let now = Now { at: Timestamp(0), quiet: true };
        let rollout = Rollout::start(now, pace, candidates, &first);
        let mut fleet = Self {
            rollout,
            at: 0,
            quiet: true,
            manners,
            standings,
            told: BTreeMap::new(),
            ring: BTreeSet::new(),
            log: Vec::new(),
            events: Vec::new(),
        };
        fleet.act();
        fleet
    }

    fn now(&self) -> Now {
        Now { at: Timestamp(self.at), quiet: self.quiet }
    }

    fn act(&mut self) {
        while let Some(action) = self.rollout.poll_action() {
            match action {
                Action::Serve => self.ring = self.rollout.ring(),
                Action::TellPhone(mac) => {
                    self.log.push((self.at, mac.0[5]));
                    self.told.insert(mac, self.at);
                }
                Action::Finish => self.ring = self.standings.keys().copied().collect(),
                Action::Tell(event) => self.events.push(event),
            }
        }
    }

    /// So many seconds later, by halves.
    fn pass(&mut self, secs: i64) -> &mut Self {
        for _ in 0..secs * 2 {
            self.at += 500;
            self.phones_live();
            let standings: Vec<_> = self.standings.iter().map(|(mac, standing)| (*mac, standing.clone())).collect();
            self.rollout.handle_standings(self.now(), standings);
            self.act();
        }
        self
    }

    fn phones_live(&mut self) {
        let at = Timestamp(self.at);
        for (mac, standing) in &mut self.standings {
            let manner = self.manners[mac];
            if let Some(told) = self.told.get(mac).copied().filter(|_| manner != Manner::Deaf)
                && self.at - told >= 2000
            {
                self.told.remove(mac);
                let fetched = if self.ring.contains(mac) { &mut standing.times.fetched_new_at } else { &mut standing.times.fetched_old_at };
                *fetched = Some(at);
            }
            let has_new = standing.times.fetched_new_at > standing.times.fetched_old_at;
            let Some(fetched) = standing.times.fetched_new_at.max(standing.times.fetched_old_at) else { continue };
            let since = self.at - fetched.0;
            match manner {
                Manner::Refused if has_new => (standing.registered, standing.times.refused_at) = (false, Some(Timestamp(fetched.0 + 1))),
                Manner::Lost if has_new => standing.registered = false,
                Manner::Crashes if has_new && since >= 10_000 => standing.registered = false,
                Manner::Installs if has_new && since == 5000 => standing.registered = false,
                Manner::Installs if has_new && since == 120_000 => {
                    (standing.firmware, standing.times.firmware_at) = (Some("2".to_owned()), Some(at));
                }
                Manner::Installs if has_new && since == 122_000 => (standing.registered, standing.times.registered_at) = (true, Some(at)),
                _ if since == 1000 => (standing.registered, standing.times.registered_at) = (true, Some(at)),
                _ => {}
            }
        }
    }

    fn stands(&mut self, n: u8, change: impl Fn(&mut Standing)) {
        change(self.standings.get_mut(&mac(n)).expect("a phone"));
    }

    fn steps(&self) -> Vec<&'static str> {
        self.rollout.phones().map(|(_, phone)| phone.step.as_str()).collect()
    }

    fn told_macs(&self) -> Vec<u8> {
        self.log.iter().map(|(_, n)| *n).collect()
    }

    fn waves(&self) -> Vec<usize> {
        let wave = |event: &Event| if let Event::RolloutWave { phones, .. } = event { Some(*phones) } else { None };
        self.events.iter().filter_map(wave).collect()
    }
}

#[test]
fn a_good_change_goes_on_in_growing_waves() {
    let mut fleet = Fleet::new(20, &[7, 3], PACE, |_, _| Manner::Good);
    assert_eq!(fleet.ring, [mac(3), mac(7)].into(), "who boots now gets it");
    fleet.pass(20);
    assert_eq!(fleet.told_macs(), [3, 7], "and nobody else, until they have stayed up");
    fleet.pass(20);
    assert_eq!((fleet.ring.len(), fleet.waves()), (8, vec![2, 6]));
    fleet.pass(120);
    assert_eq!((&fleet.rollout.stage, fleet.waves()), (&Stage::Done, vec![2, 6, 12]));
    assert_eq!(fleet.log.len(), 20, "each is told once");
    assert!(fleet.steps().iter().all(|step| *step == "through"), "{:?}", fleet.steps());
    assert!(fleet.events.contains(&Event::RolloutEnded { outcome: "done".into(), well: 20, left: 0 }));
}

#[test]
fn a_bad_change_goes_back_and_harms_only_the_first() {
    for (story, manner, reason) in [
        ("a wrong password", Manner::Refused, "its password is wrong"),
        ("no way to the server", Manner::Lost, "does not register"),
        ("a phone that dies of it", Manner::Crashes, "is gone again"),
    ] {
        let mut fleet = Fleet::new(20, &[1, 2, 3], PACE, |_, _| manner);
        fleet.pass(90);
        let Stage::RolledBack { reason: told } = &fleet.rollout.stage else { panic!("{story}: {:?}", fleet.rollout.stage) };
        assert!(told.contains(reason), "{story}: {told}");
        assert!(fleet.told_macs().iter().all(|n| *n <= 3), "{story}: {:?}", fleet.log);
        assert_eq!(fleet.ring, BTreeSet::new(), "{story}");
        assert_eq!(fleet.steps()[..3], ["restored"; 3], "{story}");
        assert_eq!(fleet.steps()[3..], ["spared"; 17], "{story}");
        assert!(fleet.standings.values().all(|standing| standing.registered), "{story}: all work");
        assert_eq!(fleet.waves(), [3], "{story}");
    }
}

#[test]
fn some_may_fail() {
    let pace = Pace { max_failed_percent: 20, ..PACE };
    let mut fleet = Fleet::new(20, &[1, 2, 3, 4, 5], pace, |n, _| if n == 2 { Manner::Lost } else { Manner::Good });
    fleet.pass(300);
    assert_eq!(fleet.rollout.stage, Stage::Done, "one of five is not more than 20 %");
    assert_eq!(fleet.steps().iter().filter(|step| **step == "failed").count(), 1);

    let pace = Pace { max_failed_percent: 20, ..PACE };
    let mut fleet = Fleet::new(20, &[1, 2, 3, 4, 5], pace, |n, _| if n > 12 { Manner::Lost } else { Manner::Good });
    fleet.pass(300);
    assert!(matches!(fleet.rollout.stage, Stage::RolledBack { .. }), "in the second wave too: {:?}", fleet.rollout.stage);
    let has = |step: &str| fleet.steps().iter().filter(|s| **s == step).count();
    assert_eq!((has("restored"), has("spared")), (20, 0), "{:?}", fleet.steps());
}

#[test]
fn nobody_is_told_during_a_call_and_stragglers_are_named() {
    let mut fleet = Fleet::new(8, &[1, 2, 3, 4], PACE, |n, standing| {
        (standing.in_call, standing.registered) = (n == 1, n != 2);
        if n == 3 { Manner::Deaf } else { Manner::Good }
    });
    fleet.pass(20);
    assert_eq!(fleet.told_macs(), [3, 4]);
    let why = |fleet: &Fleet, n: u8| {
        let (_, phone) = fleet.rollout.phones().find(|(found, _)| *found == mac(n)).expect("a phone");
        fleet.rollout.hindrance(Timestamp(fleet.at), phone).unwrap_or_default()
    };
    assert_eq!(why(&fleet, 1), "in a call");
    assert!(why(&fleet, 2).starts_with("offline"), "{}", why(&fleet, 2));
    assert!(why(&fleet, 3).contains("has not fetched its files"), "{}", why(&fleet, 3));
    // The others do not wait for them.
    fleet.pass(200);
    assert_eq!(fleet.waves(), [4, 4]);
    assert_eq!(fleet.steps(), ["waits", "waits", "late", "through", "through", "through", "through", "through"]);
    assert_eq!(fleet.rollout.stage, Stage::Running, "at the end one waits for the call");
    fleet.stands(1, |standing| standing.in_call = false);
    fleet.pass(60);
    assert_eq!(fleet.rollout.stage, Stage::Done);
    assert_eq!((fleet.steps()[0], fleet.steps()[1]), ("through", "waits"), "who is away gets it when it comes back");
    assert!(fleet.events.contains(&Event::RolloutEnded { outcome: "done".into(), well: 6, left: 2 }));
}

#[test]
fn phones_are_told_at_a_bounded_rate_and_in_quiet_hours() {
    let pace = Pace { per_minute: 12, ..PACE };
    let mut fleet = Fleet::new(6, &[1, 2, 3, 4, 5, 6], pace, |_, _| Manner::Good);
    fleet.quiet = false;
    fleet.pass(60);
    assert_eq!(fleet.log, [], "the office is open");
    fleet.quiet = true;
    fleet.pass(60);
    let times: Vec<i64> = fleet.log.iter().map(|(at, _)| *at).collect();
    assert_eq!(times.len(), 6);
    assert!(times.windows(2).all(|two| two[1] - two[0] >= 5000), "{times:?}");
}

#[test]
fn it_is_paused_resumed_and_aborted() {
    let mut fleet = Fleet::new(20, &[1, 2], PACE, |_, _| Manner::Good);
    fleet.pass(1);
    assert!(fleet.rollout.pause("lunch".into()) && !fleet.rollout.pause("again".into()));
    fleet.pass(60);
    assert_eq!((fleet.steps()[0], fleet.waves()), ("through", vec![2]), "who was told is looked after, and no wave follows");
    let now = fleet.now();
    assert!(fleet.rollout.resume(now) && !fleet.rollout.resume(now));
    fleet.pass(5);
    assert_eq!(fleet.waves(), [2, 6]);
    let now = fleet.now();
    assert!(fleet.rollout.roll_back(now, "no".into()) && !fleet.rollout.roll_back(now, "no".into()));
    fleet.pass(60);
    assert_eq!(fleet.rollout.stage, Stage::RolledBack { reason: "no".into() });
    assert!(
        fleet.standings.values().all(|standing| standing.times.fetched_new_at <= standing.times.fetched_old_at),
        "nobody keeps the new files"
    );
}

#[test]
fn what_nobody_could_show_is_not_believed() {
    let mut fleet = Fleet::new(8, &[1, 2], PACE, |n, _| if n < 3 { Manner::Deaf } else { Manner::Good });
    fleet.pass(200);
    assert!(matches!(fleet.rollout.stage, Stage::Paused { .. }), "{:?}", fleet.rollout.stage);
    let now = fleet.now();
    fleet.rollout.resume(now);
    fleet.pass(200);
    assert_eq!(fleet.rollout.stage, Stage::Done, "somebody knew better");
}

#[test]
fn it_goes_on_after_a_restart_of_the_server() {
    for secs in [0, 1, 3, 10, 33, 40, 50] {
        let mut fleet = Fleet::new(20, &[1, 2], PACE, |_, _| Manner::Good);
        fleet.pass(secs);
        let kept = serde_json::to_string(&fleet.rollout).expect("JSON");
        fleet.rollout = serde_json::from_str(&kept).expect("it can be read again");
        // What was known in memory is gone, and half a minute with it.
        fleet.at += 30_000;
        for standing in fleet.standings.values_mut() {
            *standing = Standing { registered: true, ..Standing::default() };
        }
        fleet.told.clear();
        let now = fleet.now();
        fleet.rollout.restored(now);
        fleet.act();
        fleet.pass(300);
        assert_eq!(fleet.rollout.stage, Stage::Done, "killed after {secs} s: {:?}", fleet.steps());
    }
}

#[test]
fn a_phone_is_done_when_it_registers_with_the_new_firmware() {
    let runs_1 = |standing: &mut Standing| standing.firmware = Some("1".into());
    let mut fleet = Fleet::new(3, &[1], PACE, |_, standing| {
        runs_1(standing);
        Manner::Installs
    });
    fleet.pass(60);
    assert_eq!(fleet.steps(), ["fetched", "waits", "waits"], "it is registered, and loads what it shall run");
    let (_, phone) = fleet.rollout.phones().next().expect("a phone");
    let told = fleet.rollout.hindrance(fleet.now().at, phone).expect("something keeps it");
    assert!(told.contains("runs 1, is to come back with 2"), "{told}");
    fleet.pass(400);
    assert_eq!((&fleet.rollout.stage, fleet.waves()), (&Stage::Done, vec![1, 2]));

    // One that never does: it is named with what it runs, and the others are spared.
    let mut fleet = Fleet::new(4, &[1, 2], PACE, |n, standing| {
        runs_1(standing);
        if n == 1 { Manner::Keeps } else { Manner::Installs }
    });
    fleet.pass(400);
    let failed = |event: &Event| match event {
        Event::RolloutPhone { mac: of, reason: Some(reason), .. } => Some((of.0[5], reason.clone())),
        _ => None,
    };
    let failed: Vec<_> = fleet.events.iter().filter_map(failed).collect();
    assert_eq!(failed, [(1, "runs 1 still, not 2".to_owned())]);
    assert!(matches!(fleet.rollout.stage, Stage::RolledBack { .. }), "{:?}", fleet.rollout.stage);
    assert_eq!(fleet.steps()[2..], ["spared", "spared"]);
}
