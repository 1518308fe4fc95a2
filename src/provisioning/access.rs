//! Who may read a phone's file: whoever holds the lease of its MAC, its maker's certificate, or its key in the URL, or claimed it in an
//! open window.
//!
//! The rule of design: files carry passwords, and names can be guessed (16.7 million MACs for each maker's prefix). So a
//! refusal looks like a missing file, and only the event tells the two apart. Loopback is no exception, and neither is an
//! administrator's address: they have `plugtone render`. Pure.

use std::{collections::HashMap, net::IpAddr};

use crate::model::{MacAddr, Timestamp};

/// Claims that are remembered at most; more phones than that boot within one claim's time nowhere.
const CLAIMS_MAX: usize = 20_000;

/// What speaks for or against a reader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Whom the reader's address is leased to, by us and now.
    pub holder: Option<MacAddr>,
    /// Two ports claim to be that MAC.
    pub contested: bool,
    /// The phone whose file is wanted holds another address of ours.
    pub elsewhere: bool,
    /// It has shown its maker's certificate, with the MAC of the phone whose file is wanted.
    pub certified: bool,
    /// What the key in the URL is worth for the phone whose file is wanted.
    pub token: Option<UrlKey>,
    pub window: Window,
}

/// What a key in a URL is worth. Each generation of a phone has its own; a phone that changes hands comes by the one that it has, to be
/// given the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlKey {
    /// Of this generation.
    Present,
    /// Of one before, from where it still opens: the phone's own address, or, until the phone has come back since its owner changed, the
    /// first address that brings the last one.
    Older,
    Wrong,
}

/// What the open window says of reader and phone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Window {
    /// The reader is not in an open network, or its time is over.
    #[default]
    Closed,
    /// The two belong together, or nobody claimed either yet.
    Open,
    /// The same, and an admin said that this phone is to be let in.
    Admitted,
    /// The phone belongs to another address, or the address to another phone.
    Taken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    Lease,
    /// The maker's.
    Certificate,
    Token,
    /// By the key of a generation before.
    OlderToken,
    OpenWindow,
    /// By an admin.
    Admission,
}

/// Why not; for the event and the log, never for the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the address is not leased to that phone")]
    NoLease,
    #[error("the address is leased to {0}")]
    LeasedTo(MacAddr),
    #[error("two devices claim to be this phone")]
    Contested,
    #[error("the key in the URL is wrong, or another's by now")]
    WrongToken,
    #[error("in the open window that phone and this address belong to others")]
    Claimed,
}

/// May this reader have the file of `mac`?
pub fn may_read(mac: MacAddr, evidence: &Evidence) -> Result<Proof, Refusal> {
    // Who is at two ports is told apart by it, too.
    if evidence.certified {
        return Ok(Proof::Certificate);
    }
    match evidence.token {
        Some(UrlKey::Present) => return Ok(Proof::Token),
        Some(UrlKey::Older) => return Ok(Proof::OlderToken),
        Some(UrlKey::Wrong) | None => {}
    }
    match evidence.holder {
        Some(holder) if holder == mac && evidence.contested => Err(Refusal::Contested),
        Some(holder) if holder == mac => Ok(Proof::Lease),
        Some(holder) => Err(Refusal::LeasedTo(holder)),
        // A phone whose key is dead is one that is let in.
        None if evidence.window == Window::Admitted && !evidence.elsewhere => Ok(Proof::Admission),
        None if evidence.token.is_some() => Err(Refusal::WrongToken),
        None if evidence.elsewhere => Err(Refusal::NoLease),
        None => match evidence.window {
            Window::Open | Window::Admitted => Ok(Proof::OpenWindow),
            Window::Taken => Err(Refusal::Claimed),
            Window::Closed => Err(Refusal::NoLease),
        },
    }
}

/// When a phone asked for its files for the first time, by which it has them for a while, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstBoot {
    pub at: Timestamp,
    pub address: IpAddr,
}

impl FirstBoot {
    /// What an address may have of a phone that nobody ever owned. `before`: the first boot that it has had; a phone has one.
    pub fn window(now: Timestamp, minutes: u32, before: Option<Self>, address: IpAddr) -> Window {
        match before {
            None => Window::Open,
            Some(before) if before.at.plus_secs(i64::from(minutes) * 60) <= now => Window::Closed,
            Some(before) if before.address == address => Window::Open,
            Some(_) => Window::Taken,
        }
    }
}

/// Which address belongs to which phone in the open window: the first to ask, until it has been silent for a while.
#[derive(Debug)]
pub struct Claims {
    lifetime_secs: i64,
    by_address: HashMap<IpAddr, (MacAddr, Timestamp)>,
    by_mac: HashMap<MacAddr, IpAddr>,
}

impl Claims {
    pub fn new(lifetime_secs: i64) -> Self {
        Self { lifetime_secs, by_address: HashMap::new(), by_mac: HashMap::new() }
    }

    /// How the two stand to each other. Changes nothing.
    pub fn window(&self, now: Timestamp, address: IpAddr, mac: MacAddr) -> Window {
        let alive = |address: &IpAddr| self.by_address.get(address).filter(|(_, until)| *until > now).map(|(mac, _)| *mac);
        let own = alive(&address).is_none_or(|claimed| claimed == mac);
        let free = self.by_mac.get(&mac).is_none_or(|claimer| *claimer == address || alive(claimer) != Some(mac));
        if own && free { Window::Open } else { Window::Taken }
    }

    /// The phone belongs to no address.
    pub fn forget(&mut self, mac: MacAddr) {
        let Some(address) = self.by_mac.remove(&mac) else { return };
        if self.by_address.get(&address).is_some_and(|(claimed, _)| *claimed == mac) {
            self.by_address.remove(&address);
        }
    }

    /// The two belong together from now on. Call when a file was given because of the window.
    pub fn claim(&mut self, now: Timestamp, address: IpAddr, mac: MacAddr) {
        if self.by_address.len() >= CLAIMS_MAX && !self.by_address.contains_key(&address) {
            self.by_address.retain(|_, (_, until)| *until > now);
            let by_address = &self.by_address;
            self.by_mac.retain(|_, claimer| by_address.contains_key(claimer));
            if self.by_address.len() >= CLAIMS_MAX {
                return;
            }
        }
        let before = self.by_address.insert(address, (mac, now.plus_secs(self.lifetime_secs)));
        if let Some((before, _)) = before.filter(|(before, _)| *before != mac && self.by_mac.get(before) == Some(&address)) {
            self.by_mac.remove(&before);
        }
        self.by_mac.insert(mac, address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0, 0x15, 0x65, 0xaa, 0xbb, 0xcc]);
    const OTHER: MacAddr = MacAddr([0, 0x15, 0x65, 0xaa, 0xbb, 0xcd]);

    #[test]
    fn only_a_proof_opens() {
        let none = Evidence::default();
        for (story, evidence, result) in [
            ("nothing", none.clone(), Err(Refusal::NoLease)),
            ("its lease", Evidence { holder: Some(MAC), ..none.clone() }, Ok(Proof::Lease)),
            ("another's lease", Evidence { holder: Some(OTHER), ..none.clone() }, Err(Refusal::LeasedTo(OTHER))),
            (
                "another's lease in a window",
                Evidence { holder: Some(OTHER), window: Window::Open, ..none.clone() },
                Err(Refusal::LeasedTo(OTHER)),
            ),
            ("two of them", Evidence { holder: Some(MAC), contested: true, ..none.clone() }, Err(Refusal::Contested)),
            ("its key", Evidence { token: Some(UrlKey::Present), ..none.clone() }, Ok(Proof::Token)),
            ("the key that it had", Evidence { token: Some(UrlKey::Older), ..none.clone() }, Ok(Proof::OlderToken)),
            ("let in", Evidence { window: Window::Admitted, ..none.clone() }, Ok(Proof::Admission)),
            (
                "let in with a dead key",
                Evidence { token: Some(UrlKey::Wrong), window: Window::Admitted, ..none.clone() },
                Ok(Proof::Admission),
            ),
            (
                "let in, behind another's address",
                Evidence { holder: Some(OTHER), window: Window::Admitted, ..none.clone() },
                Err(Refusal::LeasedTo(OTHER)),
            ),
            (
                "its key behind another's address",
                Evidence { token: Some(UrlKey::Present), holder: Some(OTHER), ..none.clone() },
                Ok(Proof::Token),
            ),
            ("a wrong key", Evidence { token: Some(UrlKey::Wrong), window: Window::Open, ..none.clone() }, Err(Refusal::WrongToken)),
            ("a wrong key and its lease", Evidence { token: Some(UrlKey::Wrong), holder: Some(MAC), ..none.clone() }, Ok(Proof::Lease)),
            ("its maker's certificate", Evidence { certified: true, ..none.clone() }, Ok(Proof::Certificate)),
            (
                "its maker's certificate, behind another's address",
                Evidence { certified: true, holder: Some(OTHER), ..none.clone() },
                Ok(Proof::Certificate),
            ),
            ("a window", Evidence { window: Window::Open, ..none.clone() }, Ok(Proof::OpenWindow)),
            ("a window, leased elsewhere", Evidence { window: Window::Open, elsewhere: true, ..none.clone() }, Err(Refusal::NoLease)),
            ("a window, claimed", Evidence { window: Window::Taken, ..none }, Err(Refusal::Claimed)),
        ] {
            assert_eq!(may_read(MAC, &evidence), result, "{story}");
        }
    }

    #[test]
    fn a_first_boot_is_open_to_its_address_for_a_while() {
        let [a, b]: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let at = |secs: i64| Timestamp(secs * 1000);
        let before = Some(FirstBoot { at: at(100), address: a });
        for (story, now, before, address, window) in [
            ("never here", 100, None, a, Window::Open),
            ("the same address", 999, before, a, Window::Open),
            ("another address", 101, before, b, Window::Taken),
            ("its time is over", 1000, before, a, Window::Closed),
            ("a later boot", 90_000, before, a, Window::Closed),
            ("another address, later", 1000, before, b, Window::Closed),
        ] {
            assert_eq!(FirstBoot::window(at(now), 15, before, address), window, "{story}");
        }
    }

    #[test]
    fn an_address_claims_one_phone_and_a_phone_one_address() {
        let [a, b]: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let at = |secs: i64| Timestamp(secs * 1000);
        let mut claims = Claims::new(60);
        assert_eq!(claims.window(at(0), a, MAC), Window::Open);
        claims.claim(at(0), a, MAC);
        assert_eq!(claims.window(at(1), a, MAC), Window::Open);
        assert_eq!(claims.window(at(1), b, MAC), Window::Taken, "the phone has an address");
        assert_eq!(claims.window(at(1), a, OTHER), Window::Taken, "the address has a phone");
        claims.claim(at(50), a, MAC);
        assert_eq!(claims.window(at(109), b, MAC), Window::Taken, "kept alive");
        assert_eq!(claims.window(at(111), b, MAC), Window::Open, "silent for a minute");
        claims.claim(at(111), a, OTHER);
        assert_eq!(claims.window(at(112), b, MAC), Window::Open, "the address went to another phone");
    }
}
