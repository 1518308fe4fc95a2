//! Who may reach what: (caller, what was dialled) → [`Route`], as the plan says. Who is registered where is asked later.
//!
//! A phone without an owner reaches the voice menu, whatever it dials, and emergency numbers: by this rule and not by its
//! good manners. Not here: how a number is found (`crate::routing`), whether a trunk is up (`trunk.rs`), star codes
//! (`switch/codes.rs`).

use std::{collections::VecDeque, sync::Arc};

use super::{
    Config,
    config::VoicemailRules,
    half::{Cause, DeviceLine, Diversion},
    switch::World,
};
use crate::{
    features::{Book, Confirmation},
    model::{Extension, LineNumber, MacAddr},
    routing::{Decision, Hop, Office, Outcome, Party, Refusal, hours::Switch, settings::Reject},
};

/// Who calls, as proved by digest or by the trunk that the call comes from. Never taken from a phone's From header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User part of its address of record: the extension, or `new<mac>` without an owner; a number of somebody outside.
    pub user: String,
    pub display_name: String,
    /// [`MacAddr::NOBODY`] for somebody outside.
    pub mac: MacAddr,
    pub line: LineNumber,
    /// Nobody owns the line yet.
    pub provisional: bool,
}

impl Caller {
    pub fn device_line(&self) -> DeviceLine {
        (self.mac, self.line)
    }

    /// The device that calls; `None` for somebody outside.
    pub fn device(&self) -> Option<MacAddr> {
        (self.mac != MacAddr::NOBODY).then_some(self.mac)
    }
}

/// By which trunk a call came, and what it says of the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub trunk: Arc<str>,
    /// As the provider writes it; `None`: hidden.
    pub number: Option<String>,
    /// Who has sent the call elsewhere before it came here, the first first.
    pub diversions: Vec<Diversion>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// The voice menu.
    Service,
    /// Voicemail.
    Mailbox(Errand),
    /// All phones of this extension.
    Extension(Extension),
    /// All phones of all these, at once.
    Extensions(Vec<Extension>),
    /// Somebody outside, or help.
    Outside(Ways),
    /// A final answer.
    Refused(Cause),
}

/// What a service shall do with a call that it is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Errand {
    /// The voice menu.
    #[default]
    Menu,
    /// Tell the phone of itself.
    Diagnosis,
    /// Tell it what a star code has done.
    Confirm(Confirmation),
    /// Tell it at which place its other call will wait if it is transferred there.
    Park { place: String },
    /// Take a message for somebody.
    Leave { mailbox: Extension },
    /// Play what is in a mailbox: of the one who calls from his own phone, or of whoever proves to be its owner.
    Listen { mailbox: Option<Extension> },
}

impl Errand {
    /// Voicemail does it, and not the voice menu.
    pub fn is_of_voicemail(&self) -> bool {
        matches!(self, Self::Leave { .. } | Self::Listen { .. })
    }
}

impl Route {
    /// What is to be done, if a service has the call.
    pub fn errand(&self) -> Option<Errand> {
        match self {
            Self::Service => Some(Errand::Menu),
            Self::Mailbox(errand) => Some(errand.clone()),
            _ => None,
        }
    }
}

/// One after the other until one takes the call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    pub hops: VecDeque<Hop>,
    /// Servers of the first hop's trunk that were asked already.
    pub tried: usize,
    /// Ring when no hop takes the call.
    pub then: Vec<Extension>,
    /// It is a call for help.
    pub help: Option<Help>,
}

impl Ways {
    /// The trunk has been tried.
    pub fn leave_trunk(&mut self) {
        self.tried = 0;
        self.hops.pop_front();
    }
}

/// A call for help: unlimited, and each way is tried whatever its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Help {
    /// The name of the place that it comes from.
    pub location: Option<String>,
    /// A trial: nobody is called for help.
    pub test: bool,
}

/// What the plan of the configuration says.
pub fn route(config: &Config, book: &Book, world: &dyn World, caller: &Caller, origin: Option<&Origin>, dialled: &str) -> Route {
    if origin.is_none()
        && !caller.provisional
        && let Some(route) = config.voicemail.as_ref().and_then(|rules| mailbox(rules, world, caller, dialled))
    {
        return route;
    }
    let (groups, location);
    let party = match origin {
        Some(origin) => Party::Outside { trunk: &origin.trunk, number: origin.number.as_deref() },
        None => {
            location = world.location(caller.mac);
            match caller.provisional {
                true => Party::Unbound { location: location.as_deref() },
                false => {
                    groups = world.groups(&caller.user);
                    Party::Extension { number: &caller.user, groups: &groups, location: location.as_deref() }
                }
            }
        }
    };
    let decision = config.plan.decide(&Asked { config, book, world }, party, dialled, world.wall());
    tracing::debug!(caller = %caller.user, rule = decision.rule.as_deref(), outcome = ?decision.outcome, "routed");
    Route::from(decision)
}

/// What a code of voicemail stands for. `None`: it is none.
fn mailbox(rules: &VoicemailRules, world: &dyn World, caller: &Caller, dialled: &str) -> Option<Route> {
    let known = |number: &str| {
        number.parse::<Extension>().ok().filter(|number| !rules.without.contains(number) && world.has_mailbox(number.as_str()))
    };
    let errand = if dialled == rules.own {
        known(&caller.user).map(|mailbox| Errand::Listen { mailbox: Some(mailbox) })
    } else if dialled == rules.any {
        Some(Errand::Listen { mailbox: None })
    } else {
        let number = dialled.strip_prefix(&rules.direct).filter(|_| !rules.direct.is_empty())?;
        known(number).map(|mailbox| Errand::Leave { mailbox })
    };
    Some(errand.map_or(Route::Refused(Cause::Unknown), Route::Mailbox))
}

struct Asked<'a> {
    config: &'a Config,
    book: &'a Book,
    world: &'a dyn World,
}

impl Office for Asked<'_> {
    fn is_extension(&self, number: &str) -> bool {
        self.config.features.has(number) || self.world.is_extension(number)
    }

    fn switch(&self, hours: &str) -> Switch {
        self.book.night(hours)
    }
}

impl From<Decision> for Route {
    fn from(decision: Decision) -> Self {
        match decision.outcome {
            Outcome::Menu => Self::Service,
            Outcome::Extensions(mut all) if all.len() == 1 => Self::Extension(all.remove(0)),
            Outcome::Extensions(all) => Self::Extensions(all),
            Outcome::Outside(outside) => Self::Outside(Ways { hops: outside.hops.into(), ..Ways::default() }),
            Outcome::Emergency(call) => {
                let help = Some(Help { location: call.location, test: call.test });
                Self::Outside(Ways { hops: call.hops.into(), then: call.extensions, help, tried: 0 })
            }
            Outcome::Refused(refusal) => Self::Refused(match refusal {
                Refusal::NoSuchNumber | Refusal::Rejected(Reject::NotFound) => Cause::Unknown,
                Refusal::NotAllowed(_) => Cause::NotAllowed,
                Refusal::Blocked => Cause::Blocked,
                Refusal::Anonymous => Cause::Anonymous,
                Refusal::Rejected(Reject::Busy) => Cause::Busy,
                Refusal::Rejected(Reject::Unavailable) => Cause::Unavailable,
            }),
        }
    }
}
