//! Links for soft phones: whose account, in which app, until when. Sealed, so that nothing has to be kept. Pure.
//!
//! `l/<said>.<seal>`, where what is said is base64url of: the MAC of a device that there is not yet, the end of the link (seconds since
//! 1970, u32 big-endian), the length of the family's name (u8), the name, the login. With its first use that device gets its owner
//! and with it a generation, by which the link is dead, also after a restart. Not here: giving the device away (`files.rs`).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq;

use super::variables::Keys;
use crate::model::{FamilyName, MacAddr, Timestamp};

/// In front of every link; no make's file begins so.
const FOLDER: &str = "l/";

/// What a link promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Of the device that it becomes.
    pub mac: MacAddr,
    /// The family of templates that the app reads.
    pub family: FamilyName,
    /// As its owner would key it in.
    pub login: String,
    pub until: Timestamp,
}

/// Why a link opens nothing; for the event, never for the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeadLink {
    #[error("the link is not one of ours")]
    Foreign,
    #[error("the link's time is over")]
    Late,
    #[error("the link was used")]
    Used,
    #[error("a program looks what the link is, as chats do for a preview: it is as good as before")]
    Looked,
}

/// Whether it is no soft phone that asks, but a chat that shows what a link leads to: those name themselves, many with the address of
/// who runs them. A browser that is sent in their place cannot be told from somebody's own.
pub fn is_preview(user_agent: Option<&str>) -> bool {
    const MARKS: [&str; 7] = ["bot", "preview", "externalhit", "whatsapp", "crawler", "http://", "https://"];
    let said = user_agent.unwrap_or_default().to_ascii_lowercase();
    MARKS.iter().any(|mark| said.contains(mark))
}

/// What stands behind `l/`, if the path is a link's.
pub fn sealed(path: &str) -> Option<&str> {
    path.trim_start_matches('/').strip_prefix(FOLDER)
}

impl Link {
    /// What stands behind `l/`.
    pub fn token(&self, keys: &dyn Keys) -> String {
        let mut said = self.mac.0.to_vec();
        said.extend(u32::try_from(self.until.0 / 1000).unwrap_or(u32::MAX).to_be_bytes());
        said.push(u8::try_from(self.family.len()).unwrap_or(u8::MAX));
        said.extend(self.family.as_bytes());
        said.extend(self.login.as_bytes());
        format!("{}.{}", URL_SAFE_NO_PAD.encode(&said), keys.seal(&said).expose())
    }

    /// The path of the link, without a slash in front.
    pub fn path(&self, keys: &dyn Keys) -> String {
        format!("{FOLDER}{}", self.token(keys))
    }

    /// Reads what stands behind `l/`.
    pub fn open(sealed: &str, keys: &dyn Keys, now: Timestamp) -> Result<Self, DeadLink> {
        let (said, seal) = sealed.split_once('.').ok_or(DeadLink::Foreign)?;
        let said = URL_SAFE_NO_PAD.decode(said).map_err(|_| DeadLink::Foreign)?;
        if !bool::from(keys.seal(&said).expose().as_bytes().ct_eq(seal.as_bytes())) {
            return Err(DeadLink::Foreign);
        }
        let link = Self::read(&said).ok_or(DeadLink::Foreign)?;
        if link.until <= now { Err(DeadLink::Late) } else { Ok(link) }
    }

    fn read(said: &[u8]) -> Option<Self> {
        let (mac, rest) = said.split_first_chunk::<6>()?;
        let (until, rest) = rest.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first()?;
        let (family, login) = rest.split_at_checked(usize::from(*length))?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let until = Timestamp(i64::from(u32::from_be_bytes(*until)) * 1000);
        Some(Self { mac: MacAddr(*mac), family: text(family)?, login: text(login)?, until })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::MasterKey;

    #[test]
    fn chats_that_show_what_a_link_is_are_told_from_soft_phones() {
        for (agent, preview) in [
            ("Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)", true),
            ("WhatsApp/2.23.20.0 A", true),
            ("TelegramBot (like TwitterBot)", true),
            ("facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)", true),
            ("Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5", true),
            ("Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)", true),
            ("Synapse (bot; +https://github.com/matrix-org/synapse)", true),
            ("Nextcloud Server Crawler", true),
            ("Linphonec/5.2.64 (belle-sip/5.2.37)", false),
            ("LinphoneiOS/5.2.3 (iPhone) LinphoneSDK/5.3.47", false),
            ("baresip v1.1.0 (x86_64/linux)", false),
            ("curl/8.14.1", false),
            ("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", false),
        ] {
            assert_eq!(is_preview(Some(agent)), preview, "{agent}");
        }
        assert!(!is_preview(None));
    }

    #[test]
    fn a_link_opens_until_its_end_and_only_as_it_was_said() {
        let key = MasterKey::new([7; 32]);
        let link = Link {
            mac: MacAddr([2, 1, 2, 3, 4, 5]),
            family: "linphone".into(),
            login: "ada@example.com".into(),
            until: Timestamp(2_000_000_000_000),
        };
        let path = link.path(&key);
        let text = sealed(&path).expect("a link");
        assert_eq!(sealed(&format!("/{path}")), Some(text));
        assert_eq!(sealed("001565aabbcc.cfg"), None);
        let before = Timestamp(1_999_999_999_000);
        assert_eq!(Link::open(text, &key, before), Ok(link));
        assert_eq!(Link::open(text, &key, Timestamp(2_000_000_000_000)), Err(DeadLink::Late));
        assert_eq!(Link::open(text, &MasterKey::new([8; 32]), before), Err(DeadLink::Foreign), "another server's");
        for at in 0..text.len() {
            let mut changed = text.to_owned();
            let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
            changed.replace_range(at..=at, other);
            assert_eq!(Link::open(&changed, &key, before), Err(DeadLink::Foreign), "{changed}");
        }
        for junk in ["", ".", "a.b", "AAAA", text.split_once('.').expect("two parts").0] {
            assert_eq!(Link::open(junk, &key, before), Err(DeadLink::Foreign), "{junk}");
        }
    }
}
