//! What a change of templates does to the phones, before it is live: each phone's files by both sets, grouped by identical change.
//!
//! Pure. The subjects that are given to [`Preview::compare`] carry no secrets. What is a phone's own (its MAC, its numbers and names)
//! is written as `‹mac›` and the like, so that a hundred phones whose files change in the same way are one group.

use std::collections::{BTreeMap, HashMap};

use similar::TextDiff;

use crate::{
    model::MacAddr,
    template::{Subject, TemplateSet},
};

/// Lines of a file's difference that are shown; who wants more has both files.
const MOST_LINES: usize = 400;

/// Phones whose files change in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub phones: Vec<MacAddr>,
    pub files: Vec<Change>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Change {
    /// As the phone asks for it, its MAC as `‹mac›`.
    pub file: String,
    /// In the form of `diff -u`, without its head and the lines' numbers; or in words, for a file that is new, gone or cannot be rendered.
    pub diff: String,
}

/// One phone by one set.
pub struct Side<'a> {
    pub set: &'a TemplateSet,
    pub family: &'a str,
    pub subject: &'a Subject,
}

/// Gathers phone by phone.
#[derive(Default)]
pub struct Preview {
    groups: HashMap<Vec<Change>, Vec<MacAddr>>,
    /// Most phones of a family have the same change: it is made once.
    diffs: HashMap<[u8; 32], String>,
}

impl Preview {
    pub fn compare(&mut self, mac: MacAddr, old: &Side<'_>, new: &Side<'_>) {
        let (before, after) = (rendered(old), rendered(new));
        if before == after {
            return;
        }
        let own = Own::of(mac, new.subject);
        let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
        let mut changes: Vec<_> = names
            .filter_map(|name| {
                let diff = match (before.get(name), after.get(name)) {
                    (Some(old), Some(new)) if old == new => return None,
                    (Some(Ok(old)), Some(Ok(new))) if old.shown == new.shown => "a password in it changes\n".to_owned(),
                    (Some(Ok(old)), Some(Ok(new))) => self.diff(&own.hidden(&old.shown), &own.hidden(&new.shown)),
                    (_, Some(Err(fault))) => format!("cannot be rendered any more: {fault}"),
                    (Some(Err(_)), Some(Ok(_))) => "can be rendered again".to_owned(),
                    (None, Some(Ok(new))) => format!("is new\n{}", self.diff("", &own.hidden(&new.shown))),
                    (Some(_), None) => "is there no more".to_owned(),
                    (None, None) => return None,
                };
                Some(Change { file: own.hidden(name), diff })
            })
            .collect();
        changes.sort();
        if !changes.is_empty() {
            self.groups.entry(changes).or_default().push(mac);
        }
    }

    /// The groups, the largest first.
    pub fn finish(self) -> Vec<Group> {
        let mut groups: Vec<_> = self.groups.into_iter().map(|(files, phones)| Group { phones, files }).collect();
        groups.iter_mut().for_each(|group| group.phones.sort());
        groups.sort_by(|a, b| (b.phones.len(), &a.phones).cmp(&(a.phones.len(), &b.phones)));
        groups
    }

    fn diff(&mut self, old: &str, new: &str) -> String {
        let key = *blake3::Hasher::new()
            .update(&(old.len() as u64).to_le_bytes())
            .update(old.as_bytes())
            .update(new.as_bytes())
            .finalize()
            .as_bytes();
        let made = self.diffs.entry(key).or_insert_with(|| {
            let diff = unified(old, new, 1);
            // Where in the file it is differs between phones of one and of two lines.
            let line = |line: &str| if line.starts_with("@@") { "@@\n".to_owned() } else { format!("{line}\n") };
            let shown: String = diff.lines().take(MOST_LINES).map(line).collect();
            match diff.lines().count().saturating_sub(MOST_LINES) {
                0 => shown,
                more => format!("{shown}… and {more} lines more\n"),
            }
        });
        made.clone()
    }
}

/// As `diff -u` writes it, without its head.
pub fn unified(old: &str, new: &str, around: usize) -> String {
    TextDiff::from_lines(old, new).unified_diff().context_radius(around).to_string()
}

/// A file as the phone gets it, and as people see it.
#[derive(PartialEq, Eq)]
struct Text {
    hash: blake3::Hash,
    shown: String,
}

/// Every file that the phone may ask for, by name.
fn rendered(side: &Side<'_>) -> BTreeMap<String, Result<Text, String>> {
    let files = side.set.files(side.family, side.subject);
    let text = |file| match (side.set.render(file, side.subject), side.set.render_masked(file, side.subject)) {
        (Ok(rendered), Ok(masked)) => {
            let shown = String::from_utf8_lossy(&masked.bytes).into_owned();
            (rendered.name, Ok(Text { hash: blake3::hash(&rendered.bytes), shown }))
        }
        (Err(fault), _) | (_, Err(fault)) => (fault.file.clone(), Err(fault.to_string())),
    };
    files.iter().map(text).collect()
}

/// What is this phone's own, and what is written instead; the longest first, as a number may be part of a name.
struct Own(Vec<(String, String)>);

impl Own {
    fn of(mac: MacAddr, subject: &Subject) -> Self {
        let (bare, colons) = (mac.bare().to_string(), mac.to_string());
        // One word for both cases: some have no letter in it.
        let mut own: Vec<_> =
            [bare, colons].into_iter().flat_map(|mac| [mac.to_uppercase(), mac]).map(|mac| (mac, "‹mac›".to_owned())).collect();
        for line in &subject.lines {
            let name = |what| if line.number == 1 { format!("‹{what}›") } else { format!("‹{what} of line {}›", line.number) };
            own.push((line.auth_user.clone(), name("login")));
            own.push((line.user.clone(), name("number")));
            own.push((line.display_name.clone(), name("name")));
        }
        own.retain(|(value, _)| value.chars().count() > 1);
        own.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        Self(own)
    }

    fn hidden(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (value, word)| if text.contains(value) { replaced(&text, value, word) } else { text })
    }
}

/// Whole words only: 2041 is not in 120415.
fn replaced(text: &str, value: &str, word: &str) -> String {
    let is_part = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let (mut made, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(value) {
        let (before, found) = rest.split_at(at);
        let after = found.split_at(value.len()).1;
        made += before;
        made +=
            if is_part(before.chars().next_back().or(made.chars().next_back())) || is_part(after.chars().next()) { value } else { word };
        rest = after;
    }
    made + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Secret,
        template::{Line, Server, SipPorts, Source, shipped},
    };

    fn subject(mac: MacAddr, number: &str) -> Subject {
        Subject {
            mac: Some(mac),
            model: None,
            bound: true,
            lines: vec![Line {
                number: 1,
                user: number.into(),
                auth_user: format!("{}-1", mac.bare()),
                secret: Secret::new("••••••"),
                display_name: format!("Person {number}"),
                label: Some(number.into()),
                extension: number.parse().ok(),
            }],
            server: Server {
                host: "10.0.0.2".into(),
                sip: SipPorts { udp: Some(5060), ..SipPorts::default() },
                url: "http://10.0.0.2".into(),
                secure_url: None,
                realm: "office".into(),
                authority: None,
            },
            address: None,
            user_id: None,
            inventory: Default::default(),
            contacts: None,
            admin_password: Some(Secret::new("••••••")),
            file_key: None,
            key_only: false,
            firmware: None,
        }
    }

    fn set(change: impl Fn(&mut Vec<Source>)) -> TemplateSet {
        let mut sources = shipped();
        change(&mut sources);
        TemplateSet::load(&sources).unwrap_or_else(|faults| panic!("{faults:?}"))
    }

    fn overrides(text: &'static str) -> impl Fn(&mut Vec<Source>) {
        move |sources| {
            let own = Source { name: "overrides.yaml".into(), origin: "own/overrides.yaml".into(), text: text.into() };
            sources.retain(|source| source.name != own.name);
            sources.push(own);
        }
    }

    fn phone(last: u8) -> (MacAddr, Subject) {
        let mac = MacAddr([0, 0x15, 0x65, 0, 0, last]);
        (mac, subject(mac, &format!("20{last:02}")))
    }

    fn compared(old: &TemplateSet, new: &TemplateSet, phones: impl Iterator<Item = u8>) -> Vec<Group> {
        let mut preview = Preview::default();
        for (mac, subject) in phones.map(phone) {
            let side = |set| Side { set, family: "yealink", subject: &subject };
            preview.compare(mac, &side(old), &side(new));
        }
        preview.finish()
    }

    #[test]
    fn phones_that_change_alike_are_one_group() {
        let old = set(|_| {});
        assert_eq!(compared(&old, &set(|_| {}), 1..40), Vec::new(), "the same templates change nothing");
        let new = set(overrides(
            "sites: { all: { subnets: [0.0.0.0/0], variables: {} } }\nusers: { '2007': { language: de } }\ndevices: { '00:15:65:00:00:09': { variables: { language: de } } }",
        ));
        let groups = compared(&old, &new, 1..40);
        let all: Vec<_> = groups.iter().flat_map(|group| &group.phones).map(|mac| mac.0[5]).collect();
        assert_eq!(all, [7, 9], "those who are named, and nobody else: {groups:?}");
        assert!(groups[0].files.iter().any(|change| change.diff.lines().any(|line| line.starts_with('+'))), "{groups:?}");
    }

    #[test]
    fn what_is_a_phones_own_tells_no_two_phones_apart() {
        let old = set(|_| {});
        let new = set(|sources| {
            let account = sources.iter_mut().find(|source| source.name == "yealink/account.cfg.j2").unwrap();
            account.text += "\n{% for line in lines %}\naccount.{{ line.number }}.alert = {{ line.user }} {{ MAC }} {{ line.display_name }} 120{{ line.user }}5 {{ line.secret }}\n{% endfor %}\n";
        });
        let groups = compared(&old, &new, 1..40);
        let wide: Vec<_> = groups.iter().filter(|group| group.phones.len() > 1).collect();
        assert!(wide.is_empty(), "a number within another is no number");
        assert!(groups[0].files[0].diff.contains("+account.1.alert = ‹number› ‹mac› ‹name› 12020"), "{}", groups[0].files[0].diff);
        assert!(groups.iter().all(|group| group.files.iter().all(|change| change.file.contains("‹mac›"))), "{groups:?}");

        let new = set(|sources| {
            let account = sources.iter_mut().find(|source| source.name == "yealink/account.cfg.j2").unwrap();
            account.text = account.text.replacen("display_name", "user", 1);
        });
        let groups = compared(&old, &new, 1..40);
        assert_eq!(groups.iter().map(|group| group.phones.len()).collect::<Vec<_>>(), [39], "{groups:?}");
    }
}
