//! What a phone is told of itself when its user dials the code for it: whose it is, where it is, its last fault. Pure.
//!
//! Support needs no laptop for this, and the user on the line no words: the telephone says them.

use std::{net::IpAddr, time::Duration};

use super::speech::Utterance;
use crate::model::Event;

/// What there is to say of the phone that calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Empty while nobody owns it.
    pub extension: String,
    pub display_name: String,
    pub address: IpAddr,
    /// Where it is plugged in, if that is known.
    pub location: Option<String>,
    /// Prompt of its last fault.
    pub fault: Option<&'static str>,
}

/// Everything, in the order in which support asks for it.
pub fn report(facts: &Facts) -> Vec<Utterance> {
    let prompt = |id: &str| Utterance::Prompt(id.to_owned());
    let pause = || Utterance::Pause(Duration::from_millis(400));
    let mut said = vec![pause()];
    match facts.extension.as_str() {
        "" => said.push(prompt("diagnosis-nobodys")),
        extension => {
            said.push(prompt("diagnosis-extension"));
            said.push(Utterance::Digits(extension.to_owned()));
            if !facts.display_name.is_empty() {
                said.extend([pause(), prompt("diagnosis-name"), Utterance::Name(facts.display_name.clone())]);
            }
        }
    }
    said.extend([pause(), prompt("diagnosis-address")]);
    said.extend(address(facts.address));
    if let Some(location) = &facts.location {
        said.extend([pause(), prompt("diagnosis-place"), Utterance::Name(location.clone())]);
    }
    said.push(pause());
    match facts.fault {
        Some(fault) => said.extend([prompt("diagnosis-fault"), prompt(fault)]),
        None => said.push(prompt("diagnosis-no-fault")),
    }
    said.extend([pause(), prompt("goodbye")]);
    said
}

/// `10.0.0.5`: one zero, point, zero, …
fn address(address: IpAddr) -> Vec<Utterance> {
    let IpAddr::V4(address) = address.to_canonical() else { return vec![Utterance::Name(address.to_string())] };
    let parts = address.octets().map(|part| Utterance::Digits(part.to_string()));
    let mut said = Vec::new();
    for part in parts {
        if !said.is_empty() {
            said.push(Utterance::Prompt("diagnosis-point".to_owned()));
        }
        said.push(part);
    }
    said
}

/// The prompt that tells of this event, if it was a fault of the phone's. Files that a phone asks for and nobody has are none:
/// most phones ask for several.
pub fn fault(event: &Event) -> Option<&'static str> {
    Some(match event {
        Event::LeaseRefused { .. } | Event::LeaseDeclined { .. } => "fault-address",
        Event::FileRefused { .. } | Event::FileFailed { .. } | Event::RenderFailed { .. } => "fault-settings",
        Event::DuplicateMac { .. } => "fault-duplicate",
        Event::ReloadOverdue { .. } => "fault-reload",
        Event::LockedOut { .. } => "fault-locked",
        Event::CallRefused { .. } => "fault-call",
        Event::CallEnded { cause, .. } if cause == "phone lost" => "fault-lost",
        _ => return None,
    })
}

/// All prompts that this can want.
pub const PROMPTS: [&str; 15] = [
    "diagnosis-extension",
    "diagnosis-name",
    "diagnosis-nobodys",
    "diagnosis-address",
    "diagnosis-point",
    "diagnosis-place",
    "diagnosis-fault",
    "diagnosis-no-fault",
    "fault-address",
    "fault-settings",
    "fault-duplicate",
    "fault-reload",
    "fault-locked",
    "fault-call",
    "fault-lost",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CallId, MacAddr};

    fn words(facts: &Facts) -> String {
        let words: Vec<_> =
            report(facts).iter().map(|one| one.text(|id| Some(format!("<{id}>")))).filter(|text| !text.is_empty()).collect();
        words.join(" ")
    }

    #[test]
    fn a_phone_says_whose_it_is_and_where_and_what_went_wrong() {
        let facts = Facts {
            extension: "2041".into(),
            display_name: "Ada".into(),
            address: "10.0.20.5".parse().unwrap(),
            location: Some("floor2-port7".into()),
            fault: Some("fault-reload"),
        };
        assert_eq!(
            words(&facts),
            "<diagnosis-extension> 2 0 4 1 <diagnosis-name> Ada <diagnosis-address> 1 0 <diagnosis-point> 0 <diagnosis-point> 2 0 \
             <diagnosis-point> 5 <diagnosis-place> floor2-port7 <diagnosis-fault> <fault-reload> <goodbye>"
        );
        let facts = Facts { extension: String::new(), display_name: String::new(), location: None, fault: None, ..facts };
        assert!(words(&facts).starts_with("<diagnosis-nobodys> <diagnosis-address>") && words(&facts).contains("<diagnosis-no-fault>"));
    }

    #[test]
    fn only_faults_are_faults() {
        let (mac, call) = (Some(MacAddr::NOBODY), CallId(1));
        let refused = Event::CallRefused { from: "2041".into(), to: "9".into(), mac, reason: "not allowed".into() };
        let ended = |cause: &str| Event::CallEnded { call, mac, cause: cause.into(), status: None, talk_ms: 0 };
        assert_eq!((fault(&refused), fault(&ended("phone lost")), fault(&ended("busy"))), (Some("fault-call"), Some("fault-lost"), None));
    }
}
