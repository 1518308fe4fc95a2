//! One decision for three doors: a request and what is known of its sender become a [`Verdict`]. Pure; `files.rs` acts on it.
//!
//! ```text
//! path ─► straightened ─► who asks, for what ─► may they? ─► Own · Common · Missing · Refused
//! ```
//! Missing and Refused leave by the same way, after the same work: no store is asked and nothing is rendered before a proof.

use std::net::IpAddr;

use super::{
    access::{Evidence, Proof, Refusal, UrlKey, Window, may_read},
    identify::{Asked, BadPath, Clues, Peer, Wanted, identify, shown},
};
use crate::{
    model::MacAddr,
    template::{FileRef, TemplateSet},
    tls::Certified,
};

/// What our own DHCP server knows of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    pub mac: MacAddr,
    pub family: Option<String>,
    /// The same MAC is at two places.
    pub contested: bool,
}

/// A request as this decision needs it.
pub struct Asking<'a> {
    pub path: &'a str,
    /// What the path says.
    pub asked: &'a Result<Asked, BadPath>,
    pub source: IpAddr,
    pub user_agent: Option<&'a str>,
    /// Who has shown its maker's certificate.
    pub certified: Option<&'a Certified>,
    /// Who holds the source address.
    pub holding: Option<&'a Holding>,
    /// Does a phone hold an address of ours?
    pub leased: &'a dyn Fn(MacAddr) -> bool,
    /// What a key is worth that is said to be this phone's.
    pub key: &'a dyn Fn(MacAddr, &str) -> UrlKey,
    /// How address and phone stand in the open window.
    pub window: &'a dyn Fn(IpAddr, MacAddr) -> Window,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// A proven phone asks for something of its own; whether it is there is seen later.
    Own {
        mac: MacAddr,
        path: String,
        peer: Peer,
        proof: Proof,
    },
    Common {
        file: FileRef,
        path: String,
        peer: Peer,
    },
    Missing {
        mac: Option<MacAddr>,
        path: String,
    },
    /// `mac`: whose file was wanted.
    Refused {
        mac: Option<MacAddr>,
        path: String,
        reason: Why,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error(transparent)]
    Path(#[from] BadPath),
    #[error(transparent)]
    Access(#[from] Refusal),
}

pub fn decide(set: &TemplateSet, asking: &Asking<'_>) -> Verdict {
    let asked = match asking.asked {
        Ok(asked) => asked,
        Err(BadPath::Empty) => return Verdict::Missing { mac: asking.holding.map(|holding| holding.mac), path: "/".into() },
        Err(fault) => {
            return Verdict::Refused { mac: None, path: shown(asking.path), reason: (*fault).into() };
        }
    };
    let clues = Clues {
        user_agent: asking.user_agent,
        holder: asking.holding.map(|holding| holding.mac),
        holder_family: asking.holding.and_then(|holding| holding.family.as_deref()),
        certified: asking.certified.map(|certified| certified.mac),
    };
    let (peer, wanted) = identify(set, asked, &clues);
    let path = asked.path.clone();
    match wanted {
        Wanted::Common(file) => Verdict::Common { file, path, peer },
        Wanted::Nothing => Verdict::Missing { mac: peer.mac, path },
        Wanted::Own(mac) => {
            let token = asked.token.as_ref().map(|token| match token.mac == mac {
                true => (asking.key)(mac, &token.key),
                false => UrlKey::Wrong,
            });
            // A maker says nothing about phones of another's.
            let make = set.forced(mac).map(|forced| forced.family).or_else(|| set.recognise_mac(mac).map(str::to_owned));
            let of_its_maker = |certified: &Certified| certified.mac == mac && make.as_ref().is_none_or(|make| *make == certified.family);
            let evidence = Evidence {
                certified: asking.certified.is_some_and(of_its_maker),
                holder: clues.holder,
                contested: asking.holding.is_some_and(|holding| holding.contested),
                elsewhere: (asking.leased)(mac),
                token,
                window: (asking.window)(asking.source, mac),
            };
            match may_read(mac, &evidence) {
                Ok(proof) => Verdict::Own { mac, path, peer, proof },
                Err(refusal) => Verdict::Refused { mac: Some(mac), path, reason: refusal.into() },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template;

    const MAC: MacAddr = MacAddr([0, 0x15, 0x65, 0xaa, 0xbb, 0xcc]);
    const OTHER: MacAddr = MacAddr([0, 0x15, 0x65, 0xaa, 0xbb, 0xcd]);

    fn verdict(path: &str, holder: Option<MacAddr>) -> Verdict {
        let set = TemplateSet::load(&template::shipped()).expect("the shipped set is good");
        let holding = holder.map(|mac| Holding { mac, family: None, contested: false });
        let asking = Asking {
            path,
            asked: &Asked::parse(path),
            source: "10.0.0.7".parse().unwrap(),
            user_agent: None,
            certified: None,
            holding: holding.as_ref(),
            leased: &|_| false,
            key: &|mac, key| if key == format!("key-of-{}", mac.bare()) { UrlKey::Present } else { UrlKey::Wrong },
            window: &|_, _| Window::Closed,
        };
        decide(&set, &asking)
    }

    #[test]
    fn a_file_goes_to_the_holder_of_its_mac_or_of_its_key() {
        let outcome = |path: &str, holder| match verdict(path, holder) {
            Verdict::Own { mac, proof, .. } => format!("{mac} {proof:?}"),
            Verdict::Common { path, .. } => format!("common {path}"),
            Verdict::Missing { path, .. } => format!("missing {path}"),
            Verdict::Refused { reason, .. } => format!("refused: {reason}"),
        };
        for (path, holder, result) in [
            ("001565AABBCC.cfg", Some(MAC), "00:15:65:aa:bb:cc Lease"),
            ("001565aabbcc.cfg", Some(OTHER), "refused: the address is leased to 00:15:65:aa:bb:cd"),
            ("001565aabbcc.cfg", None, "refused: the address is not leased to that phone"),
            ("t/001565aabbcc-key-of-001565aabbcc/001565aabbcc.cfg", None, "00:15:65:aa:bb:cc Token"),
            ("t/001565aabbcc-key-of-001565aabbcd/001565aabbcc.cfg", None, "refused: the key in the URL is wrong, or another's by now"),
            ("t/001565aabbcd-key-of-001565aabbcd/001565aabbcc.cfg", None, "refused: the key in the URL is wrong, or another's by now"),
            ("t/001565aabbcc-x/000000000000.cfg", None, "common 000000000000.cfg"),
            ("../001565aabbcc.cfg", Some(MAC), "refused: the path climbs out of the root"),
            ("sip.ld", Some(MAC), "missing sip.ld"),
            ("/", Some(MAC), "missing /"),
        ] {
            assert_eq!(outcome(path, holder), result, "{path}");
        }
    }
}
