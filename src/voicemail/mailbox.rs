//! What lies in a mailbox, in which order it is heard, and whether another message fits. No I/O, no clock.

use crate::{call::presence, model::Timestamp, store::VoiceMessage};

/// Bounds of a mailbox, and of all together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub messages: usize,
    /// Of all mailboxes.
    pub bytes: u64,
    /// Days that a message is kept; 0: for ever.
    pub keep_days: u32,
}

/// Why there is no room for another message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    Mailbox,
    /// All mailboxes together take all the room that they may.
    Disk,
}

impl Limits {
    /// May another message be left? `bytes` is what all mailboxes hold.
    pub fn admit(&self, messages: usize, bytes: u64) -> Result<(), Full> {
        match () {
            () if messages >= self.messages => Err(Full::Mailbox),
            () if bytes >= self.bytes => Err(Full::Disk),
            () => Ok(()),
        }
    }

    /// Messages from before this moment are forgotten.
    pub fn oldest(&self, now: Timestamp) -> Option<Timestamp> {
        (self.keep_days > 0).then(|| now.plus_secs(-i64::from(self.keep_days) * 86_400))
    }
}

/// What the lamp shows.
pub fn lamp(messages: &[VoiceMessage]) -> presence::Mailbox {
    let new = messages.iter().filter(|message| message.heard.is_none()).count();
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    presence::Mailbox { new: count(new), old: count(messages.len() - new), ..presence::Mailbox::default() }
}

/// New ones first; of each kind the one that was left first.
pub fn sort(messages: &mut [VoiceMessage]) {
    messages.sort_by(|a, b| (a.heard.is_some(), a.left, &a.id).cmp(&(b.heard.is_some(), b.left, &b.id)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: &str, left: i64, heard: bool) -> VoiceMessage {
        let heard = heard.then_some(Timestamp(left + 1));
        VoiceMessage { id: id.into(), left: Timestamp(left), heard, ..VoiceMessage::default() }
    }

    #[test]
    fn new_messages_come_first_and_light_the_lamp() {
        let mut all = vec![message("a", 1, true), message("b", 9, false), message("c", 5, false), message("d", 0, true)];
        sort(&mut all);
        assert_eq!(all.iter().map(|message| message.id.as_str()).collect::<String>(), "cbda");
        assert_eq!(lamp(&all), presence::Mailbox { new: 2, old: 2, ..presence::Mailbox::default() });
    }

    #[test]
    fn a_box_is_full_at_its_limit() {
        let limits = Limits { messages: 2, bytes: 100, keep_days: 1 };
        for (messages, bytes, admitted) in [(0, 0, Ok(())), (1, 99, Ok(())), (2, 0, Err(Full::Mailbox)), (0, 100, Err(Full::Disk))] {
            assert_eq!(limits.admit(messages, bytes), admitted, "{messages} {bytes}");
        }
        assert_eq!(limits.oldest(Timestamp(86_400_000)), Some(Timestamp(0)));
        assert_eq!(Limits { keep_days: 0, ..limits }.oldest(Timestamp(1)), None);
    }
}
