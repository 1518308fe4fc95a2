//! The life of a device as a pure machine: (state, fact) → (state, effects). Every pair is written down.
//!
//! ```text
//! unknown ─is a phone─► provisional ─calls the IVR─► authenticating ─owner stored─► bound(n) ─told─► reloading ─registers with n─► in service
//!                          ▲  ▲                          │ hangs up                    ▲ ▲                              │ registration ends
//!                          │  └─────────◄────────────────┘                             │ └──────────────◄───────────────┘
//!                          └───────────────────◄──────── unbound ────────◄─────────────┴── another line bound or unbound
//! ```
//! The machine is fed after the store has acknowledged: [`Fact::OwnerStored`] means that the binding *is* on disk. Not
//! here: timers and fallbacks of a reload (`provisioning/onboarding.rs`), secrets (`secret.rs`).

use crate::model::{DeviceState, Generation};

use DeviceState::{Authenticating, Bound, InService, Provisional, Reloading, Unknown};

/// Where a device stands, and which of its secrets is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub state: DeviceState,
    pub generation: Generation,
}

/// What happened to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// It is on the network; nothing says that it is a phone.
    Seen,
    /// It is a phone: its make is known, it asked for a phone's file, or it speaks SIP.
    Recognised,
    /// Its user reached the IVR.
    CallBegan,
    /// The last call to the IVR is over, for whatever reason.
    CallEnded,
    /// A binding of one of its lines is on disk, with this generation.
    OwnerStored { generation: Generation },
    /// The binding of one line is gone from the disk. `others`: another line still has an owner.
    OwnerRemoved { generation: Generation, others: bool },
    /// It was told to reload.
    ReloadSent,
    /// It fetched its own file, rendered for this generation.
    FileTaken { generation: Generation },
    /// It registered with a secret of this generation.
    Registered { generation: Generation },
    /// Its registration ended: withdrawn or expired.
    Unregistered,
    /// The server began to run and found the device in its store.
    Restarted,
}

/// What is to be done. The new state itself is always stored and published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Contacts registered with earlier secrets are forgotten at once.
    DropContacts,
    /// The phone must fetch its file again, as soon as it is idle.
    Reload,
    /// It fetched the file that it should.
    Taken,
    /// It is back with the present secret.
    Done,
}

/// The outcome of a fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub life: Life,
    pub effects: &'static [Effect],
    /// The fact cannot be true in this state: it is late, forged or a fault of ours. Nothing changes.
    pub impossible: bool,
}

impl Life {
    /// Of a device that nobody saw before.
    pub const UNSEEN: Self = Self { state: Unknown, generation: 0 };

    /// What follows from a fact.
    pub fn apply(self, fact: Fact) -> Step {
        match fact {
            Fact::Seen => self.stays(),
            Fact::Recognised => self.recognised(),
            Fact::CallBegan => self.call_began(),
            Fact::CallEnded => self.call_ended(),
            Fact::OwnerStored { generation } => self.owner_stored(generation),
            Fact::OwnerRemoved { generation, others } => self.owner_removed(generation, others),
            Fact::ReloadSent => self.reload_sent(),
            Fact::FileTaken { generation } => self.file_taken(generation),
            Fact::Registered { generation } => self.registered(generation),
            Fact::Unregistered => self.unregistered(),
            Fact::Restarted => self.restarted(),
        }
    }

    fn recognised(self) -> Step {
        match self.state {
            Unknown => self.to(Provisional, &[]),
            Provisional | Authenticating | Bound | Reloading | InService => self.stays(),
        }
    }

    fn call_began(self) -> Step {
        match self.state {
            // It called, so it is a phone, whatever we missed before.
            Unknown | Provisional => self.to(Authenticating, &[]),
            // A second call of the same phone.
            Authenticating => self.stays(),
            // An owner's phone may call too, to give the phone to somebody else; it stays the owner's until then.
            Bound | Reloading | InService => self.stays(),
        }
    }

    fn call_ended(self) -> Step {
        match self.state {
            Authenticating => self.to(Provisional, &[]),
            // Bound during the call, or of an owner's phone.
            Bound | Reloading | InService => self.stays(),
            // Unbound by an admin, or the server restarted, during the call.
            Unknown | Provisional => self.stays(),
        }
    }

    fn owner_stored(self, generation: Generation) -> Step {
        if generation <= self.generation {
            return self.impossible();
        }
        match self.state {
            // By the IVR in `authenticating`; by an admin, perhaps before the phone is unpacked, in the others. A second
            // line, or another owner, where there was one: there is a new file, with a new secret of that line.
            Unknown | Provisional | Authenticating | Bound | Reloading | InService => {
                Self { generation, ..self }.to(Bound, &[Effect::DropContacts, Effect::Reload])
            }
        }
    }

    fn owner_removed(self, generation: Generation, others: bool) -> Step {
        if generation <= self.generation {
            return self.impossible();
        }
        match self.state {
            Bound | Reloading | InService => {
                let state = if others { Bound } else { Provisional };
                Self { generation, ..self }.to(state, &[Effect::DropContacts, Effect::Reload])
            }
            // There was no owner to remove.
            Unknown | Provisional | Authenticating => self.impossible(),
        }
    }

    fn reload_sent(self) -> Step {
        match self.state {
            Bound => self.to(Reloading, &[]),
            Reloading => self.stays(),
            // Unbound, and told to become a new phone again; or told by an admin.
            Unknown | Provisional | Authenticating | InService => self.stays(),
        }
    }

    fn file_taken(self, generation: Generation) -> Step {
        if generation != self.generation {
            // A slow transfer that began before the bind. It holds dead secrets.
            return self.impossible();
        }
        match self.state {
            Unknown => self.to(Provisional, &[Effect::Taken]),
            // By its own polling, before it was told.
            Bound => self.to(Reloading, &[Effect::Taken]),
            Reloading | Provisional => self.to(self.state, &[Effect::Taken]),
            // Its daily look, or because an admin asked.
            Authenticating | InService => self.to(self.state, &[Effect::Taken]),
        }
    }

    fn registered(self, generation: Generation) -> Step {
        if generation != self.generation {
            // The digest check refuses dead secrets, so this was under way while the generation changed.
            return self.impossible();
        }
        match self.state {
            Unknown => self.to(Provisional, &[Effect::Done]),
            Provisional => self.to(Provisional, &[Effect::Done]),
            // Refreshed during the call.
            Authenticating => self.stays(),
            Bound | Reloading => self.to(InService, &[Effect::Done]),
            InService => self.stays(),
        }
    }

    fn unregistered(self) -> Step {
        match self.state {
            // Unplugged or restarting. It has its file: nothing to tell it, and it will be back.
            InService => self.to(Bound, &[]),
            // The contact of an earlier generation.
            Bound | Reloading => self.stays(),
            Unknown | Provisional | Authenticating => self.stays(),
        }
    }

    fn restarted(self) -> Step {
        match self.state {
            // Its call died with the server.
            Authenticating => self.to(Provisional, &[]),
            // Stopped between the bind and the reload, or during it: once more from the beginning.
            Bound | Reloading => self.to(Bound, &[Effect::DropContacts, Effect::Reload]),
            // Was it unbound and not yet told? Telling it twice does no harm.
            Provisional if self.generation > 0 => self.to(Provisional, &[Effect::DropContacts, Effect::Reload]),
            Unknown | Provisional => self.stays(),
            // Its contact was stored, and it registers again by itself.
            InService => self.stays(),
        }
    }

    fn to(self, state: DeviceState, effects: &'static [Effect]) -> Step {
        Step { life: Self { state, ..self }, effects, impossible: false }
    }

    fn stays(self) -> Step {
        self.to(self.state, &[])
    }

    fn impossible(self) -> Step {
        Step { impossible: true, ..self.stays() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STATES: [DeviceState; 6] = [Unknown, Provisional, Authenticating, Bound, Reloading, InService];

    /// The whole table at generation 5: for each fact, the state that follows each of [`STATES`]; `!` impossible.
    #[test]
    fn every_pair_of_state_and_fact() {
        for (fact, row) in [
            (Fact::Seen, "U P A B R S"),
            (Fact::Recognised, "P P A B R S"),
            (Fact::CallBegan, "A A A B R S"),
            (Fact::CallEnded, "U P P B R S"),
            (Fact::OwnerStored { generation: 6 }, "B B B B B B"),
            (Fact::OwnerStored { generation: 5 }, "! ! ! ! ! !"),
            (Fact::OwnerRemoved { generation: 6, others: false }, "! ! ! P P P"),
            (Fact::OwnerRemoved { generation: 6, others: true }, "! ! ! B B B"),
            (Fact::OwnerRemoved { generation: 4, others: false }, "! ! ! ! ! !"),
            (Fact::ReloadSent, "U P A R R S"),
            (Fact::FileTaken { generation: 5 }, "P P A R R S"),
            (Fact::FileTaken { generation: 4 }, "! ! ! ! ! !"),
            (Fact::Registered { generation: 5 }, "P P A S S S"),
            (Fact::Registered { generation: 4 }, "! ! ! ! ! !"),
            (Fact::Registered { generation: 6 }, "! ! ! ! ! !"),
            (Fact::Unregistered, "U P A B R B"),
            (Fact::Restarted, "U P P B B S"),
        ] {
            for (state, expected) in STATES.into_iter().zip(row.split(' ')) {
                let step = Life { state, generation: 5 }.apply(fact);
                let got = if step.impossible { "!" } else { letter(step.life.state) };
                assert_eq!(got, expected, "{state:?} and {fact:?}");
            }
        }
    }

    fn letter(state: DeviceState) -> &'static str {
        match state {
            Unknown => "U",
            Provisional => "P",
            Authenticating => "A",
            Bound => "B",
            Reloading => "R",
            InService => "S",
        }
    }

    #[test]
    fn from_the_box_to_the_first_call() {
        let mut life = Life::UNSEEN;
        for (fact, state, effects) in [
            (Fact::Seen, Unknown, &[][..]),
            (Fact::Recognised, Provisional, &[]),
            (Fact::FileTaken { generation: 0 }, Provisional, &[Effect::Taken]),
            (Fact::Registered { generation: 0 }, Provisional, &[Effect::Done]),
            (Fact::CallBegan, Authenticating, &[]),
            (Fact::OwnerStored { generation: 1 }, Bound, &[Effect::DropContacts, Effect::Reload]),
            (Fact::CallEnded, Bound, &[]),
            (Fact::ReloadSent, Reloading, &[]),
            (Fact::FileTaken { generation: 1 }, Reloading, &[Effect::Taken]),
            (Fact::Registered { generation: 1 }, InService, &[Effect::Done]),
            (Fact::OwnerRemoved { generation: 2, others: false }, Provisional, &[Effect::DropContacts, Effect::Reload]),
        ] {
            let step = life.apply(fact);
            assert_eq!((step.life.state, step.effects, step.impossible), (state, effects, false), "{fact:?}");
            life = step.life;
        }
    }

    fn facts() -> impl Strategy<Value = Fact> {
        let generation = 0u32..6;
        prop_oneof![
            Just(Fact::Seen),
            Just(Fact::Recognised),
            Just(Fact::CallBegan),
            Just(Fact::CallEnded),
            generation.clone().prop_map(|generation| Fact::OwnerStored { generation }),
            (generation.clone(), any::<bool>()).prop_map(|(generation, others)| Fact::OwnerRemoved { generation, others }),
            Just(Fact::ReloadSent),
            generation.clone().prop_map(|generation| Fact::FileTaken { generation }),
            generation.prop_map(|generation| Fact::Registered { generation }),
            Just(Fact::Unregistered),
            Just(Fact::Restarted),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens(story in prop::collection::vec(facts(), 0..60)) {
            let mut life = Life::UNSEEN;
            for fact in story {
                let before = life;
                let step = before.apply(fact);
                life = step.life;
                prop_assert!(life.generation >= before.generation, "a generation never goes back");
                if step.impossible {
                    prop_assert!(life == before && step.effects.is_empty(), "what cannot be changes nothing");
                }
                if life.generation != before.generation {
                    prop_assert!(step.effects.contains(&Effect::DropContacts) && step.effects.contains(&Effect::Reload));
                    prop_assert!(life.state != InService, "nobody is in service with a secret that is dead");
                }
                if life.state == InService && before.state != InService {
                    prop_assert_eq!(fact, Fact::Registered { generation: life.generation }, "only this is done");
                }
                let owned = |state| matches!(state, Bound | Reloading | InService);
                if owned(life.state) && !owned(before.state) {
                    let stored = matches!(fact, Fact::OwnerStored { .. });
                    prop_assert!(stored, "an owner comes from the store only");
                }
                if !owned(life.state) && owned(before.state) {
                    let removed = matches!(fact, Fact::OwnerRemoved { others: false, .. });
                    prop_assert!(removed, "an owner goes by the store only");
                }
            }
        }
    }
}
