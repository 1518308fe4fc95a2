//! What a watcher is shown: who is in which call, what lies in a mailbox, and the documents that say so. No I/O, no clock.
//!
//! Fed by whoever knows: the switch with the parties of each call that has changed ([`Presence::update`]), voicemail with
//! counts ([`Presence::set_mailbox`]), features with lamps of their own, as of a park slot or a ring group
//! ([`Presence::show`]). Asked by the engine, once per NOTIFY, for the document of the moment ([`Presence::document`]).
//!
//! Three packages: `dialog` (RFC 4235, busy lamps), `message-summary` (RFC 3842), `presence` (PIDF, RFC 3863, with the
//! on-the-phone of RFC 4480). Documents are always whole: phones that miss one are right again with the next.
//! Not here: who watches (`sip::subscription`), partial documents, PUBLISH.

use std::{
    collections::{HashMap, VecDeque},
    fmt::Write as _,
};

use bytes::Bytes;

use crate::{
    model::{CallId, NumberHash},
    sip::{subscription::Package, ua::LegId},
};

pub const DIALOG: Package = Package { name: "dialog", content_type: "application/dialog-info+xml" };
pub const MESSAGE_SUMMARY: Package = Package { name: "message-summary", content_type: "application/simple-message-summary" };
pub const PRESENCE: Package = Package { name: "presence", content_type: "application/pidf+xml" };
pub const PACKAGES: [Package; 3] = [DIALOG, MESSAGE_SUMMARY, PRESENCE];

/// How far a dialog is (RFC 4235 §3.7.1). What is over is no dialog any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DialogState {
    Trying,
    Early,
    Confirmed,
}

impl DialogState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Trying => "trying",
            Self::Early => "early",
            Self::Confirmed => "confirmed",
        }
    }
}

/// Which end of a call: a user who calls herself is in it twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    Near,
    Far,
}

/// A user in a call, by one of her phones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    pub user: String,
    pub end: End,
    pub leg: LegId,
    pub state: DialogState,
    /// She began the call.
    pub initiator: bool,
    /// The number at the other end, and its name if the call brought one.
    pub peer: String,
    pub peer_name: Option<String>,
    /// Her phone has put the other on hold.
    pub held: bool,
}

/// A lamp that a feature sets, as of a park slot: on, and who is behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lamp {
    pub state: DialogState,
    /// Number and name of who waits there; empty if nobody in particular.
    pub peer: String,
    pub peer_name: String,
}

/// Voice messages, new and heard, and how many of them are urgent (RFC 3842 §3.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mailbox {
    pub new: u32,
    pub old: u32,
    pub urgent_new: u32,
    pub urgent_old: u32,
}

/// Call-ID and tags of a leg, as the phone has them: what `Replaces` names to pick the call up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialogTags {
    pub call_id: String,
    pub local_tag: Option<String>,
    pub remote_tag: Option<String>,
}

/// What is asked while a document is written.
pub trait Facts {
    /// Can the user be reached by any phone?
    fn is_reachable(&self, user: &str) -> bool;
    /// The name that goes with a number; empty when there is none.
    fn display_name(&self, number: &str) -> String;
    fn tags(&self, leg: LegId) -> Option<DialogTags>;
}

#[derive(Default)]
pub struct Presence {
    calls: HashMap<CallId, Vec<Party>, NumberHash>,
    /// The calls that a user is in, oldest first.
    calls_of: HashMap<String, Vec<CallId>>,
    lamps: HashMap<String, Lamp>,
    mailboxes: HashMap<String, Mailbox>,
    changed: VecDeque<(&'static str, String)>,
}

impl Presence {
    pub fn new() -> Self {
        Self::default()
    }

    /// Who is in this call now; nobody when it is over.
    pub fn update(&mut self, call: CallId, parties: Vec<Party>) {
        let before = match parties.is_empty() {
            true => self.calls.remove(&call).unwrap_or_default(),
            false => {
                let known = self.calls.entry(call).or_default();
                if *known == parties {
                    return;
                }
                std::mem::replace(known, parties)
            }
        };
        let now = self.calls.get(&call).map(Vec::as_slice).unwrap_or_default();
        // Of hundreds that are paged one answers: nothing has changed for those before and behind it.
        let same = before.iter().zip(now).take_while(|(was, is)| was == is).count();
        let behind = before.iter().skip(same).rev().zip(now.iter().skip(same).rev()).take_while(|(was, is)| was == is).count();
        let changed = |parties: &[Party]| same..parties.len() - behind;
        let (gone, come) = (before.get(changed(&before)).unwrap_or_default(), now.get(changed(now)).unwrap_or_default());
        for (nth, party) in gone.iter().chain(come).enumerate() {
            if gone.iter().chain(come).take(nth).any(|other| other.user == party.user) {
                continue;
            }
            let (was, is) = (|| view(&before, &party.user), || view(now, &party.user));
            if is().next().is_none() {
                if let Some(calls) = self.calls_of.get_mut(&party.user) {
                    calls.retain(|other| *other != call);
                    if calls.is_empty() {
                        self.calls_of.remove(&party.user);
                    }
                }
            } else if was().next().is_none() {
                self.calls_of.entry(party.user.clone()).or_default().push(call);
            }
            if !was().eq(is()) {
                self.changed.push_back((DIALOG.name, party.user.clone()));
                self.changed.push_back((PRESENCE.name, party.user.clone()));
            }
        }
    }

    /// A lamp of a feature under a name of its own, as `701`. `None`: dark.
    pub fn show(&mut self, resource: &str, lamp: Option<Lamp>) {
        let before = match &lamp {
            Some(lamp) => self.lamps.insert(resource.to_owned(), lamp.clone()),
            None => self.lamps.remove(resource),
        };
        if before != lamp {
            self.changed.push_back((DIALOG.name, resource.to_owned()));
        }
    }

    /// `true`: that is new.
    pub fn set_mailbox(&mut self, user: &str, mailbox: Mailbox) -> bool {
        let new = self.mailboxes.insert(user.to_owned(), mailbox) != Some(mailbox);
        if new {
            self.changed.push_back((MESSAGE_SUMMARY.name, user.to_owned()));
        }
        new
    }

    /// What there is in a mailbox that has ever had anything.
    pub fn summary(&self, user: &str, entity: &str) -> Option<Bytes> {
        self.mailboxes.get(user)?;
        let mut out = String::new();
        self.write_summary(&mut out, user, entity).ok()?;
        Some(out.into())
    }

    /// A phone of the user has registered, or is gone.
    pub fn reachability_changed(&mut self, user: &str) {
        self.changed.push_back((PRESENCE.name, user.to_owned()));
    }

    /// What changed: package and name. Drain after every call.
    pub fn poll_changed(&mut self) -> Option<(&'static str, String)> {
        self.changed.pop_front()
    }

    /// What is true of `resource` now. `entity`: the URI that the watcher knows it by; `version`: of this watcher's documents.
    pub fn document(&self, package: &str, resource: &str, entity: &str, version: u32, facts: &dyn Facts) -> Bytes {
        let mut out = String::with_capacity(512);
        // Writing into memory does not fail.
        let _ = match package {
            "message-summary" => self.write_summary(&mut out, resource, entity),
            "presence" => self.write_pidf(&mut out, resource, entity, facts),
            _ => self.write_dialogs(&mut out, resource, entity, version, facts),
        };
        out.into()
    }

    /// The user's dialogs: one per call and end, however many of her phones ring.
    fn dialogs(&self, user: &str) -> impl Iterator<Item = (CallId, &Party)> {
        let calls = self.calls_of.get(user).into_iter().flatten();
        calls.filter_map(|id| self.calls.get(id).map(|parties| (*id, parties))).flat_map(move |(id, parties)| {
            [End::Near, End::Far].into_iter().filter_map(move |end| {
                let own = parties.iter().filter(|party| party.user == user && party.end == end);
                // The first of those that are furthest.
                own.reduce(|best, one| if one.state > best.state { one } else { best }).map(|party| (id, party))
            })
        })
    }

    fn write_dialogs(&self, out: &mut String, resource: &str, entity: &str, version: u32, facts: &dyn Facts) -> std::fmt::Result {
        write!(
            out,
            "<?xml version=\"1.0\"?>\n<dialog-info xmlns=\"urn:ietf:params:xml:ns:dialog-info\" version=\"{version}\" \
             state=\"full\" entity=\"{}\">\n",
            Xml(entity)
        )?;
        let host = host_of(entity);
        let mut lit = false;
        for (call, party) in self.dialogs(resource) {
            lit = true;
            let end = if party.end == End::Near { "a" } else { "b" };
            write!(out, "<dialog id=\"{call}{end}\"")?;
            if let Some(tags) = facts.tags(party.leg) {
                write!(out, " call-id=\"{}\"", Xml(&tags.call_id))?;
                for (name, tag) in [("local-tag", &tags.local_tag), ("remote-tag", &tags.remote_tag)] {
                    if let Some(tag) = tag {
                        write!(out, " {name}=\"{}\"", Xml(tag))?;
                    }
                }
            }
            let direction = if party.initiator { "initiator" } else { "recipient" };
            write!(out, " direction=\"{direction}\">\n<state>{}</state>\n<local>", party.state.as_str())?;
            write_identity(out, &facts.display_name(resource), entity, None)?;
            // RFC 5359 §2.1 and RFC 4235 §4.1.7.2: what a lamp shows for a call on hold.
            let rendering = if party.held { "no" } else { "yes" };
            write!(
                out,
                "<target uri=\"{}\"><param pname=\"+sip.rendering\" pval=\"{rendering}\"/></target></local>\n<remote>",
                Xml(entity)
            )?;
            let name = party.peer_name.clone().unwrap_or_else(|| facts.display_name(&party.peer));
            let uri = uri(&party.peer, host);
            write_identity(out, &name, &uri, Some(&uri))?;
            out.push_str("</remote>\n</dialog>\n");
        }
        if let Some(lamp) = self.lamps.get(resource) {
            lit = true;
            write!(out, "<dialog id=\"{}\" direction=\"recipient\">\n<state>{}</state>\n", Xml(resource), lamp.state.as_str())?;
            if !lamp.peer.is_empty() {
                let uri = uri(&lamp.peer, host);
                out.push_str("<remote>");
                write_identity(out, &lamp.peer_name, &uri, Some(&uri))?;
                out.push_str("</remote>\n");
            }
            out.push_str("</dialog>\n");
        }
        if !lit {
            // Some phones keep a lamp lit unless they are told that something has ended.
            write!(out, "<dialog id=\"{}\">\n<state>terminated</state>\n</dialog>\n", Xml(resource))?;
        }
        out.write_str("</dialog-info>\n")
    }

    fn write_summary(&self, out: &mut String, resource: &str, entity: &str) -> std::fmt::Result {
        let Mailbox { new, old, urgent_new, urgent_old } = self.mailboxes.get(resource).copied().unwrap_or_default();
        let waiting = if new > 0 { "yes" } else { "no" };
        write!(
            out,
            "Messages-Waiting: {waiting}\r\nMessage-Account: {entity}\r\nVoice-Message: {new}/{old} ({urgent_new}/{urgent_old})\r\n"
        )
    }

    fn write_pidf(&self, out: &mut String, resource: &str, entity: &str, facts: &dyn Facts) -> std::fmt::Result {
        let basic = if facts.is_reachable(resource) { "open" } else { "closed" };
        let busy = self.dialogs(resource).next().is_some();
        write!(
            out,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<presence xmlns=\"urn:ietf:params:xml:ns:pidf\" \
             xmlns:dm=\"urn:ietf:params:xml:ns:pidf:data-model\" xmlns:rpid=\"urn:ietf:params:xml:ns:pidf:rpid\" entity=\"{0}\">\n\
             <tuple id=\"phone\"><status><basic>{basic}</basic></status><contact>{0}</contact></tuple>\n",
            Xml(entity)
        )?;
        if busy {
            out.push_str("<note>On the phone</note>\n");
        }
        out.push_str("<dm:person id=\"person\"><rpid:activities>");
        out.push_str(if busy { "<rpid:on-the-phone/>" } else { "" });
        out.write_str("</rpid:activities></dm:person>\n</presence>\n")
    }
}

/// What of a call concerns this user's watchers.
fn view<'a>(parties: &'a [Party], user: &'a str) -> impl Iterator<Item = &'a Party> {
    parties.iter().filter(move |party| party.user == user)
}

fn write_identity(out: &mut String, name: &str, uri: &str, target: Option<&str>) -> std::fmt::Result {
    out.push_str("<identity");
    if !name.is_empty() {
        write!(out, " display=\"{}\"", Xml(name))?;
    }
    write!(out, ">{}</identity>", Xml(uri))?;
    match target {
        Some(target) => write!(out, "<target uri=\"{}\"/>", Xml(target)),
        None => Ok(()),
    }
}

fn uri(user: &str, host: &str) -> String {
    format!("sip:{}@{host}", crate::sip::uri::escape_user(user))
}

/// `pbx:5060` of `sip:2041@pbx:5060;transport=tcp`.
fn host_of(uri: &str) -> &str {
    let rest = uri.rsplit_once('@').map_or(uri, |(_, rest)| rest);
    rest.split([';', '?']).next().unwrap_or(rest)
}

/// Text within XML, in content as in an attribute.
struct Xml<'a>(&'a str);

impl std::fmt::Display for Xml<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                // Not allowed in XML 1.0, whatever way it is written.
                c if c.is_control() => f.write_str(" ")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Office;

    impl Facts for Office {
        fn is_reachable(&self, user: &str) -> bool {
            user == "2042"
        }
        fn display_name(&self, number: &str) -> String {
            if number == "2041" { "Ada \"<Lovelace>\"".into() } else { String::new() }
        }
        fn tags(&self, leg: LegId) -> Option<DialogTags> {
            let tag = |name: &str| Some(format!("{name}{}", leg.0));
            Some(DialogTags { call_id: format!("c{}&", leg.0), local_tag: tag("l"), remote_tag: tag("r") })
        }
    }

    fn party(user: &str, end: End, leg: u64, state: DialogState, peer: &str) -> Party {
        let initiator = end == End::Near;
        Party { user: user.into(), end, leg: LegId(leg), state, initiator, peer: peer.into(), peer_name: None, held: false }
    }

    fn call(state: DialogState) -> Vec<Party> {
        vec![party("2041", End::Near, 1, state, "2042"), party("2042", End::Far, 2, state, "2041")]
    }

    fn changed(presence: &mut Presence) -> Vec<String> {
        let mut seen: Vec<_> = std::iter::from_fn(|| presence.poll_changed()).map(|(package, name)| format!("{package} {name}")).collect();
        seen.sort();
        seen
    }

    /// Each dialog as `direction state peer`, from what an XML parser reads.
    fn lamps(presence: &Presence, resource: &str) -> Vec<String> {
        let entity = format!("sip:{resource}@pbx:5060;transport=tcp");
        let text = presence.document("dialog", resource, &entity, 3, &Office);
        let text = String::from_utf8(text.to_vec()).unwrap();
        let document = roxmltree::Document::parse(&text).unwrap_or_else(|error| panic!("{error} in\n{text}"));
        let root = document.root_element();
        assert_eq!((root.attribute("version"), root.attribute("state")), (Some("3"), Some("full")));
        assert_eq!(root.attribute("entity"), Some(entity.as_str()));
        let dialogs = root.children().filter(|node| node.has_tag_name(("urn:ietf:params:xml:ns:dialog-info", "dialog")));
        dialogs
            .map(|dialog| {
                let of = |name: &str| dialog.descendants().find(|node| node.tag_name().name() == name);
                let state = of("state").and_then(|node| node.text()).unwrap_or_default();
                let peer = of("remote").and_then(|node| node.first_element_child()).and_then(|node| node.text()).unwrap_or_default();
                format!("{} {state} {peer}", dialog.attribute("direction").unwrap_or("-"))
            })
            .collect()
    }

    #[test]
    fn whoever_has_another_part_in_a_call_is_told_and_nobody_else() {
        // All calls of up to three parties: two users, ringing or talking.
        let one = |n: usize| party(["2041", "2042"][n % 2], End::Far, 1, [DialogState::Early, DialogState::Confirmed][n / 2], "2043");
        let mut calls = vec![vec![]];
        for n in 0..84 {
            let digits = [n % 4, n / 4 % 4, n / 16 % 4];
            let len = if n < 4 {
                1
            } else if n < 20 {
                2
            } else {
                3
            };
            calls.push(digits[..len].iter().map(|digit| one(*digit)).collect::<Vec<_>>());
        }
        for (was, is) in calls.iter().flat_map(|was| calls.iter().map(move |is| (was, is))) {
            let mut presence = Presence::default();
            presence.update(CallId(1), was.clone());
            changed(&mut presence);
            presence.update(CallId(1), is.clone());
            let told = changed(&mut presence);
            for user in ["2041", "2042"] {
                let differs = !view(was, user).eq(view(is, user));
                let count = told.iter().filter(|line| line.ends_with(user)).count();
                assert_eq!(count, if differs { 2 } else { 0 }, "{user}: {was:?} {is:?}");
                assert_eq!(presence.calls_of.contains_key(user), is.iter().any(|party| party.user == user), "{user}: {was:?} {is:?}");
            }
        }
    }

    #[test]
    fn lamps_follow_a_call() {
        let mut presence = Presence::new();
        assert_eq!(lamps(&presence, "2042"), ["- terminated "]);
        for (state, word) in [(DialogState::Trying, "trying"), (DialogState::Early, "early"), (DialogState::Confirmed, "confirmed")] {
            presence.update(CallId(7), call(state));
            assert_eq!(changed(&mut presence), ["dialog 2041", "dialog 2042", "presence 2041", "presence 2042"]);
            assert_eq!(lamps(&presence, "2042"), [format!("recipient {word} sip:2041@pbx:5060")]);
            assert_eq!(lamps(&presence, "2041"), [format!("initiator {word} sip:2042@pbx:5060")]);
        }
        presence.update(CallId(7), call(DialogState::Confirmed));
        assert!(changed(&mut presence).is_empty(), "nothing new is not told");
        presence.update(CallId(8), vec![party("2042", End::Far, 5, DialogState::Early, "2043")]);
        assert_eq!(changed(&mut presence), ["dialog 2042", "presence 2042"]);
        assert_eq!(lamps(&presence, "2042"), ["recipient confirmed sip:2041@pbx:5060", "recipient early sip:2043@pbx:5060"]);
        presence.update(CallId(7), vec![]);
        presence.update(CallId(8), vec![]);
        assert_eq!(lamps(&presence, "2042"), ["- terminated "]);
        assert!(presence.calls.is_empty() && presence.calls_of.is_empty());
    }

    #[test]
    fn what_pickup_needs_is_in_it() {
        let mut presence = Presence::new();
        let mut ringing = call(DialogState::Early);
        // Two phones of 2042 ring: that is one lamp.
        ringing.push(party("2042", End::Far, 3, DialogState::Early, "2041"));
        presence.update(CallId(7), ringing);
        let text = String::from_utf8(presence.document("dialog", "2042", "sip:2042@pbx", 0, &Office).to_vec()).unwrap();
        for part in [
            "call-id=\"c2&amp;\" local-tag=\"l2\" remote-tag=\"r2\" direction=\"recipient\"",
            "<identity display=\"Ada &quot;&lt;Lovelace&gt;&quot;\">sip:2041@pbx</identity><target uri=\"sip:2041@pbx\"/>",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert_eq!(text.matches("<dialog id").count(), 1);
    }

    #[test]
    fn features_light_lamps_of_their_own() {
        let mut presence = Presence::new();
        let lamp = Lamp { state: DialogState::Confirmed, peer: "2041".into(), peer_name: "Ada".into() };
        presence.show("701", Some(lamp.clone()));
        presence.show("701", Some(lamp));
        assert_eq!(changed(&mut presence), ["dialog 701"]);
        assert_eq!(lamps(&presence, "701"), ["recipient confirmed sip:2041@pbx:5060"]);
        presence.show("701", None);
        assert_eq!(changed(&mut presence), ["dialog 701"]);
        assert_eq!(lamps(&presence, "701"), ["- terminated "]);
    }

    #[test]
    fn mailboxes_and_presence_are_told_in_their_own_form() {
        let mut presence = Presence::new();
        let text = |presence: &Presence, package: &str, user: &str| {
            String::from_utf8(presence.document(package, user, &format!("sip:{user}@pbx"), 0, &Office).to_vec()).unwrap()
        };
        assert_eq!(
            text(&presence, "message-summary", "2042"),
            "Messages-Waiting: no\r\nMessage-Account: sip:2042@pbx\r\nVoice-Message: 0/0 (0/0)\r\n"
        );
        presence.set_mailbox("2042", Mailbox { new: 2, old: 8, ..Mailbox::default() });
        assert_eq!(changed(&mut presence), ["message-summary 2042"]);
        assert!(text(&presence, "message-summary", "2042").starts_with("Messages-Waiting: yes\r\n"));
        assert!(text(&presence, "message-summary", "2042").ends_with("Voice-Message: 2/8 (0/0)\r\n"));
        for (user, basic, busy) in [("2042", "open", false), ("2043", "closed", false), ("2042", "open", true)] {
            if busy {
                presence.update(CallId(1), call(DialogState::Early));
            }
            let text = text(&presence, "presence", user);
            let document = roxmltree::Document::parse(&text).unwrap();
            let told = document.descendants().find(|node| node.tag_name().name() == "basic").and_then(|node| node.text());
            assert_eq!((told, text.contains("<rpid:on-the-phone/>")), (Some(basic), busy));
        }
    }
}
