//! Which phone asks, and for what: from the path, the User-Agent and the lease. Pure; nothing here is a proof (`access.rs`).
//!
//! A MAC stands in the path in any case and any make's spelling; else the phone may name itself in its User-Agent, or its
//! address is leased to it. SPA525G, Linksys and Cisco ATAs give a serial number; a Polycom's MAC is only in the path.

use std::net::IpAddr;

use crate::{
    model::{FamilyName, MacAddr},
    template::{FileRef, Readers, TemplateSet},
};

/// Longer names are nobody's.
const PATH_MAX: usize = 255;

/// A path that a phone may ask for, without tricks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// No slash in front, no `..`, `/` between folders.
    pub path: String,
    /// From `t/<mac>-<key>/` in front of it.
    pub token: Option<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub mac: MacAddr,
    pub key: String,
}

/// Why a path is not even looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    #[error("the path climbs out of the root")]
    Climbs,
    #[error("the path names a drive")]
    Drive,
    #[error("the path has control characters")]
    Control,
    #[error("the path is longer than {PATH_MAX} bytes")]
    TooLong,
    #[error("the path is empty")]
    Empty,
}

impl Asked {
    /// `raw` as the door got it, percent-decoded where the protocol says so.
    pub fn parse(raw: &str) -> Result<Self, BadPath> {
        if raw.len() > PATH_MAX {
            return Err(BadPath::TooLong);
        }
        if raw.chars().any(char::is_control) {
            return Err(BadPath::Control);
        }
        // Cisco's IP Communicator writes back-slashes; SPA and Linksys begin with a slash.
        let path = raw.replace('\\', "/");
        let mut parts = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => return Err(BadPath::Climbs),
                drive if drive.len() == 2 && drive.ends_with(':') => return Err(BadPath::Drive),
                part => parts.push(part),
            }
        }
        let token = match parts[..] {
            ["t", token, ..] => token.split_once('-').and_then(|(mac, key)| Some(Token { mac: mac.parse().ok()?, key: key.to_owned() })),
            _ => None,
        };
        let path = parts[if token.is_some() { 2 } else { 0 }..].join("/");
        if path.is_empty() { Err(BadPath::Empty) } else { Ok(Self { path, token }) }
    }
}

/// What else is known of whoever asks.
#[derive(Clone, Debug, Default)]
pub struct Clues<'a> {
    pub user_agent: Option<&'a str>,
    /// Whom the address is leased to, by us and now.
    pub holder: Option<MacAddr>,
    pub holder_family: Option<&'a str>,
    /// Whose maker's certificate was shown.
    pub certified: Option<MacAddr>,
}

/// The phone that asks, as far as it can be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Whose file is asked for, or who asks for a common one.
    pub mac: Option<MacAddr>,
    /// Likely families, best first.
    pub families: Vec<FamilyName>,
    /// Told by the User-Agent.
    pub family: Option<FamilyName>,
    pub model: Option<String>,
    pub firmware: Option<String>,
}

/// What the path means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A file that everybody may have.
    Common(FileRef),
    /// Something of this phone's: a file, or what it uploaded.
    Own(MacAddr),
    /// No family has such a name.
    Nothing,
}

/// Who asks, and for what.
pub fn identify(set: &TemplateSet, asked: &Asked, clues: &Clues<'_>) -> (Peer, Wanted) {
    let agent = clues.user_agent.and_then(|agent| set.recognise_user_agent(agent.as_bytes()));
    let mut families = Vec::new();
    let mut likely = |family: Option<&str>| {
        if let Some(family) = family.filter(|family| !families.iter().any(|known| known == family)) {
            families.push(family.to_owned());
        }
    };
    let token_mac = asked.token.as_ref().map(|token| token.mac).or(clues.certified);
    let in_path = MacAddr::find_in(&asked.path);
    let known_mac = in_path.or(token_mac).or(clues.holder).or(agent.as_ref().and_then(|agent| agent.mac));
    likely(known_mac.and_then(|mac| set.forced(mac)).map(|forced| forced.family).as_deref());
    likely(agent.as_ref().map(|agent| agent.family.as_str()));
    likely(clues.holder_family.filter(|_| clues.holder.is_some() && (in_path.is_none() || in_path == clues.holder)));
    likely(known_mac.and_then(|mac| set.recognise_mac(mac)));

    let found = families.iter().find_map(|family| set.locate(family, &asked.path)).or_else(|| set.locate_common(&asked.path));
    let wanted = match found {
        Some(file) if file.readers == Readers::Anyone => Wanted::Common(file),
        // A name without a MAC that is still somebody's own: of the phone that the address or the key belongs to.
        Some(file) => file.mac.or(token_mac).or(clues.holder).map_or(Wanted::Nothing, Wanted::Own),
        None => match in_path.filter(|_| set.knows(&asked.path)) {
            Some(mac) => Wanted::Own(mac),
            None => Wanted::Nothing,
        },
    };
    let mac = match wanted {
        Wanted::Own(mac) => Some(mac),
        _ => token_mac.or(clues.holder),
    };
    let (family, model, firmware) = agent.map_or((None, None, None), |agent| (Some(agent.family), agent.model, agent.firmware));
    (Peer { mac, families, family, model, firmware }, wanted)
}

/// The family whose file this is for a phone that proved itself: what is stored of it stands beside what it says now.
pub fn locate(set: &TemplateSet, path: &str, stored: Option<&str>, peer: &Peer) -> Option<FileRef> {
    let told = peer.families.iter().map(String::as_str);
    let forced = peer.mac.and_then(|mac| set.forced(mac)).map(|forced| forced.family);
    // What the phone says of itself now is newer than what is stored; a MAC's prefix is weaker.
    let strong = forced.as_deref().into_iter().chain(peer.family.as_deref()).chain(stored).chain(told).chain(["generic"]);
    let mut tried = Vec::new();
    for family in strong {
        if !tried.contains(&family) {
            tried.push(family);
            if let Some(file) = set.locate(family, path) {
                return Some(file);
            }
        }
    }
    // Nothing tells its make but the name it asks for, if only one make asks so.
    let unknown = tried == ["generic"] || stored == Some("generic");
    let mut fitting = set.families().filter_map(|family| set.locate(&family.id, path)).filter(|_| unknown);
    let only = fitting.next()?;
    fitting.next().is_none().then_some(only)
}

/// IPv4 in IPv6's clothes is IPv4.
pub fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// A path as it may stand in an event: straightened, or at least printable and short.
pub fn shown(raw: &str) -> String {
    match Asked::parse(raw) {
        Ok(asked) => asked.path,
        Err(_) => raw.chars().filter(|c| !c.is_control()).take(80).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template;

    const MAC: MacAddr = MacAddr([0, 0x15, 0x65, 0xaa, 0xbb, 0xcc]);
    const STRANGE: &str = "025566aabbcc";

    fn set() -> TemplateSet {
        TemplateSet::load(&template::shipped()).expect("the shipped set is good")
    }

    #[test]
    fn paths_are_straightened_or_refused() {
        let path = |raw: &str| Asked::parse(raw).map(|asked| asked.path);
        for (raw, straight) in [("/001565aabbcc.cfg", "001565aabbcc.cfg"), ("//a\\b/./c.xml", "a/b/c.xml"), ("x", "x")] {
            assert_eq!(path(raw).as_deref(), Ok(straight));
        }
        for (raw, fault) in [
            ("../etc/passwd", BadPath::Climbs),
            ("a/..\\..\\b", BadPath::Climbs),
            ("c:\\x", BadPath::Drive),
            ("a\0b", BadPath::Control),
            ("///", BadPath::Empty),
            ("t/001565aabbcc-k/", BadPath::Empty),
            (&*"x".repeat(256), BadPath::TooLong),
        ] {
            assert_eq!(path(raw), Err(fault), "{raw}");
        }
    }

    #[test]
    fn a_key_may_stand_in_front() {
        let asked = Asked::parse("/t/001565AABBCC-abc-d_e/001565aabbcc.cfg").unwrap();
        assert_eq!(asked.path, "001565aabbcc.cfg");
        assert_eq!(asked.token, Some(Token { mac: MAC, key: "abc-d_e".into() }));
        assert_eq!(Asked::parse("t/nonsense/x").unwrap().token, None);
    }

    #[test]
    fn every_make_is_known_by_what_it_asks_for() {
        let set = set();
        let wanted = |path: &str, user_agent| identify(&set, &Asked::parse(path).unwrap(), &Clues { user_agent, ..Default::default() }).1;
        let other = |digits: &str| Wanted::Own(digits.parse().unwrap());
        for (path, result) in [
            ("001565AABBCC.cfg", Wanted::Own(MAC)),
            ("/001565aabbcc.boot", Wanted::Own(MAC)),
            ("cfgc074ad010203.xml", other("c074ad010203")),
            ("64167f010203-user.cfg", other("64167f010203")),
            ("64167f010203-phone.cfg", other("64167f010203")),
            ("snomD785-000413010203.htm", other("000413010203")),
            ("000413010203.xml", other("000413010203")),
            ("0C383E010203.cfg", other("0c383e010203")),
            ("1400E9010203.cfg", other("1400e9010203")),
            ("025566aabbcc.cfg", other(STRANGE)),
            ("025566aabbcc.txt", other(STRANGE)),
            ("cfgc074ad010203", Wanted::Nothing),
            ("y000000000000.boot", Wanted::Nothing),
            ("sip.ld", Wanted::Nothing),
            ("cfg.xml", Wanted::Nothing),
            ("001565aabbcc", Wanted::Nothing),
        ] {
            assert_eq!(wanted(path, None), result, "{path}");
        }
        for path in
            ["y000000000028.cfg", "000000000000.cfg", "snomD785.htm", "/spa504G.cfg", "7841-3PCC.xml", "startup.cfg", "KX-HDV130.cfg"]
        {
            assert!(matches!(wanted(path, None), Wanted::Common(_)), "{path}");
        }
    }

    #[test]
    fn the_family_comes_from_the_best_clue() {
        let set = set();
        let strange: MacAddr = STRANGE.parse().unwrap();
        let family = |path: &str, user_agent: Option<&str>, stored: Option<&str>, holder_family: Option<&str>| {
            let clues = Clues { user_agent, holder: holder_family.map(|_| strange), holder_family, certified: None };
            let (peer, _) = identify(&set, &Asked::parse(path).unwrap(), &clues);
            locate(&set, path, stored, &peer).map(|file| file.family)
        };
        let agent = Some("FileTransport PolycomVVX-VVX_400-UA/4.1.4.7430 Type/Application");
        for (story, found, result) in [
            ("a prefix", family("001565aabbcc.cfg", None, None, None), Some("yealink")),
            ("a user agent beats a prefix", family("001565aabbcc.cfg", agent, None, None), Some("poly")),
            ("what is stored beats a prefix", family("001565aabbcc.cfg", None, Some("poly"), None), Some("poly")),
            ("a lease", family("025566aabbcc.cfg", None, None, Some("poly")), Some("poly")),
            ("a name that one make has", family("025566aabbcc-user.cfg", None, None, None), Some("poly")),
            ("a name that several makes have", family("025566aabbcc.cfg", None, None, None), None),
            ("a name that is nobody's but generic", family("025566aabbcc.txt", None, None, None), Some("generic")),
            ("generic beside its own", family("001565aabbcc.txt", None, Some("yealink"), None), Some("generic")),
        ] {
            assert_eq!(found.as_deref(), result, "{story}");
        }
    }
}
