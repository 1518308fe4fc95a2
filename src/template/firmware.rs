//! `firmware.yaml`: which firmware there is, and which phones shall run which version. Pure.
//!
//! It is one of the set's sources, so that a pin is compared, goes to some phones first and is taken back as any other change.
//! A phone is told only what it does not run: [`TemplateSet::due`](super::TemplateSet::due). Not here: the files themselves
//! (`provisioning/firmware`).

use minijinja::Value;
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_yaml::Spanned;

use super::fault::{Fault, Suggest, fault};
use crate::{model::MacAddr, yaml::read_untyped};

/// What the file is called, as a source and on disk.
pub const FILE: &str = "firmware.yaml";
/// The folder's name in every URL.
pub const FOLDER: &str = "firmware";
/// Longer names are nobody's.
const NAME_MAX: usize = 120;

const HEAD: &str = "# Written by `plugtone firmware`: its files and pins. Remarks of yours are lost at the next change.\n";

#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FirmwareFile {
    /// What lies in the folder beside this file.
    #[schemars(with = "Vec<Image>")]
    files: Vec<Spanned<Image>>,
    /// Which phones shall run what. The closest wins: a device, then a group, then a model, then the whole make.
    #[schemars(with = "Vec<Pin>")]
    pins: Vec<Spanned<Pin>>,
}

/// A file of a maker's firmware.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// A family of templates.
    pub make: String,
    /// As the phone says it in its User-Agent.
    pub version: String,
    pub name: String,
    /// With `*` for any letters; empty: all models of the make.
    #[serde(default)]
    pub models: Vec<String>,
    /// Hex.
    pub sha256: String,
    pub bytes: u64,
    /// When it was added, as 2026-11-21T19:30:00.000Z.
    #[serde(default)]
    pub added: String,
}

/// These phones shall run this version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// A family of templates.
    pub make: String,
    /// With `*` for any letters; without it all models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// A group of overrides.yaml or of the phones' own table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// A MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    pub version: String,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firmware {
    pub images: Vec<Image>,
    pub pins: Vec<Pin>,
}

/// For whom a pin is looked up.
pub(super) struct Whom<'a> {
    pub(super) make: &'a str,
    pub(super) model: &'a str,
    pub(super) groups: Vec<&'a str>,
    /// The phone's own address, and those of phones in whose place it is.
    pub(super) macs: Vec<MacAddr>,
}

/// A phone runs another version than it shall: what it has to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    pub make: String,
    pub version: String,
    /// Of this version and for its model; the first is the one that the phone is told where it is told one.
    pub files: Vec<String>,
}

impl Image {
    /// Below the server's root, as phones ask for it.
    pub fn path(&self) -> String {
        format!("{FOLDER}/{}/{}/{}", self.make, self.version, self.name)
    }

    fn fits(&self, make: &str, model: &str) -> bool {
        self.make == make && (self.models.is_empty() || self.models.iter().any(|pattern| is_like(pattern, model)))
    }
}

impl Pin {
    /// Two pins for the same phones are one.
    pub fn is_for_the_same(&self, other: &Self) -> bool {
        let whom = |pin: &Self| {
            let lower = |text: &Option<String>| text.as_ref().map(|text| text.to_lowercase());
            (pin.make.clone(), lower(&pin.model), pin.group.clone(), pin.device.as_ref().and_then(|mac| mac.parse::<MacAddr>().ok()))
        };
        whom(self) == whom(other)
    }

    /// Whom it is for, in words.
    pub fn whom(&self) -> String {
        let mut words = match &self.device {
            Some(device) => vec![self.make.clone(), device.clone()],
            None => vec![self.make.clone(), self.model.clone().unwrap_or_else(|| "phones".to_owned())],
        };
        words.extend(self.group.as_ref().map(|group| format!("of {group}")));
        words.join(" ")
    }

    fn fits(&self, whom: &Whom<'_>) -> bool {
        let device = self.device.as_ref().map(|mac| mac.parse::<MacAddr>());
        self.make == whom.make
            && self.model.as_ref().is_none_or(|model| is_like(model, whom.model))
            && self.group.as_ref().is_none_or(|group| whom.groups.contains(&group.as_str()))
            && device.is_none_or(|mac| mac.is_ok_and(|mac| whom.macs.contains(&mac)))
    }
}

impl Firmware {
    /// Reads the file. Every name in it is checked: it becomes a part of paths and URLs.
    pub fn read(origin: &str, text: &str) -> Result<Self, Vec<Fault>> {
        let written: FirmwareFile = read_untyped(origin, text).map_err(|fault| vec![fault])?;
        let mut faults = Vec::new();
        for image in &written.files {
            let (line, image) = (image.referenced.line() as u32, &image.value);
            for name in [&image.make, &image.version, &image.name].into_iter().filter(|name| !is_name(name)) {
                faults.push(fault(origin, line, 0, format!("'{name}' cannot be the name of a file or folder")));
            }
        }
        for pin in &written.pins {
            let (line, pin) = (pin.referenced.line() as u32, &pin.value);
            if let Some(Err(error)) = pin.device.as_ref().map(|mac| mac.parse::<MacAddr>()) {
                faults.push(fault(origin, line, 0, error.to_string()));
            }
            let mut versions = written.files.iter().map(|image| &image.value).filter(|image| image.make == pin.make);
            if !versions.clone().any(|image| image.version == pin.version) {
                let missing = fault(origin, line, 0, format!("there is no firmware '{}' of {}", pin.version, pin.make));
                let known: Vec<&str> = versions.by_ref().map(|image| &*image.version).collect();
                faults.push(missing.suggest(&pin.version, known, "`plugtone firmware add` adds it"));
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let images = written.files.into_iter().map(|image| image.value).collect();
        Ok(Self { images, pins: written.pins.into_iter().map(|pin| pin.value).collect() })
    }

    /// The file's text: an entry a line.
    pub fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        let lines = |text: &mut String, name: &str, entries: Vec<String>| {
            *text += &if entries.is_empty() { format!("{name}: []\n") } else { format!("{name}:\n") };
            entries.iter().for_each(|entry| *text += &format!("  - {entry}\n"));
        };
        // JSON in one line is YAML too.
        lines(&mut text, "files", self.images.iter().filter_map(|image| serde_json::to_string(image).ok()).collect());
        lines(&mut text, "pins", self.pins.iter().filter_map(|pin| serde_json::to_string(pin).ok()).collect());
        text
    }

    /// The file that a phone asks for by this path; by its name alone only while that is no other's too, as for makes that know no
    /// folders.
    pub fn find(&self, path: &str) -> Option<&Image> {
        let (make, version, name) = match path.split('/').collect::<Vec<_>>()[..] {
            [FOLDER, make, version, name] => (Some(make), Some(version), name),
            [name] => (None, None, name),
            _ => return None,
        };
        let fits = |image: &&Image| {
            make.is_none_or(|make| make.eq_ignore_ascii_case(&image.make))
                && version.is_none_or(|version| version.eq_ignore_ascii_case(&image.version))
                && name.eq_ignore_ascii_case(&image.name)
        };
        let mut found = self.images.iter().filter(fits);
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }

    pub(super) fn pin(&self, whom: &Whom<'_>) -> Option<&Pin> {
        let fitting = self.pins.iter().enumerate().filter(|(_, pin)| pin.fits(whom));
        fitting.max_by_key(|(at, pin)| (pin.device.is_some(), pin.group.is_some(), pin.model.is_some(), *at)).map(|(_, pin)| pin)
    }

    pub(super) fn due(&self, whom: &Whom<'_>, runs: &str) -> Option<Due> {
        let pin = self.pin(whom).filter(|pin| pin.version != runs)?;
        let images = self.images.iter().filter(|image| image.version == pin.version && image.fits(whom.make, whom.model));
        let mut files: Vec<String> = images.map(|image| image.name.clone()).collect();
        // Of a Cisco's many files one names the others.
        files.sort_by_key(|name| !name.to_lowercase().ends_with(".loads"));
        (!files.is_empty()).then(|| Due { make: pin.make.clone(), version: pin.version.clone(), files })
    }
}

impl Due {
    /// As templates see it.
    pub(super) fn value(&self) -> Value {
        let folder = format!("{FOLDER}/{}/{}", self.make, self.version);
        let file = self.files.first().map(String::as_str).unwrap_or_default();
        Value::from_pairs([
            ("version", Value::from(&self.version)),
            ("file", Value::from(file)),
            // Without what stands behind its last dot.
            ("stem", Value::from(file.rsplit_once('.').map_or(file, |(stem, _)| stem))),
            ("path", Value::from(format!("{folder}/{file}"))),
            ("folder", Value::from(folder)),
        ])
    }
}

/// May it stand in a path: letters, digits and a few marks, and no way up.
pub fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-+(),".contains(c);
    !name.is_empty() && name.len() <= NAME_MAX && name.chars().all(good) && !name.starts_with('.')
}

/// `T4*S`, without case; makers write `SIP-` before it or not.
fn is_like(pattern: &str, model: &str) -> bool {
    let pattern = regex::escape(pattern).replace(r"\*", ".*");
    Regex::new(&format!("(?i)^(?:SIP-)?{pattern}$")).is_ok_and(|regex| regex.is_match(model))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0, 0x15, 0x65, 0xaa, 0xbb, 0xcc]);

    fn image(version: &str, name: &str, models: &[&str]) -> Image {
        let models = models.iter().map(ToString::to_string).collect();
        let (make, sha256) = ("yealink".to_owned(), "00".repeat(32));
        Image { make, version: version.into(), name: name.into(), models, sha256, bytes: 1, added: String::new() }
    }

    fn pin(model: Option<&str>, group: Option<&str>, device: Option<&str>, version: &str) -> Pin {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Pin { make: "yealink".into(), model: own(model), group: own(group), device: own(device), version: version.into() }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let firmware = Firmware {
            images: vec![image("108.86.0.90", "T46U(T43U,T48U)-108.86.0.90.rom", &["T4*U"]), image("1.0", "x.rom", &[])],
            pins: vec![pin(Some("T46U"), None, None, "108.86.0.90"), pin(None, Some("first: ring"), None, "1.0")],
        };
        let text = firmware.text();
        assert_eq!(Firmware::read("f", &text).as_ref(), Ok(&firmware), "{text}");
        assert_eq!(Firmware::read("f", &Firmware::default().text()), Ok(Firmware::default()));
        assert_eq!(Firmware::read("f", ""), Ok(Firmware::default()));
    }

    #[test]
    fn the_closest_pin_wins_and_who_runs_it_is_told_nothing() {
        let all = ["1", "2", "3", "4"];
        let firmware = Firmware {
            images: all.iter().map(|version| image(version, "x.rom", &[])).collect(),
            pins: vec![
                pin(None, None, Some("00:15:65:AA:BB:CC"), "4"),
                pin(None, Some("ring"), None, "3"),
                pin(Some("T46*"), None, None, "2"),
                pin(None, None, None, "1"),
            ],
        };
        let due = |make: &str, model: &str, groups: &[&str], mac: MacAddr, runs: &str| {
            let whom = Whom { make, model, groups: groups.to_vec(), macs: vec![mac] };
            firmware.due(&whom, runs).map(|due| due.version)
        };
        let other = MacAddr([0; 6]);
        for (make, model, groups, mac, runs, version) in [
            ("yealink", "T31G", &[][..], other, "0", Some("1")),
            ("yealink", "T31G", &[], other, "1", None),
            ("yealink", "t46u", &[], other, "0", Some("2")),
            ("yealink", "SIP-T46U", &[], other, "0", Some("2")),
            ("yealink", "T46U", &["hall", "ring"], other, "0", Some("3")),
            ("yealink", "T46U", &["ring"], MAC, "3", Some("4")),
            ("poly", "T46U", &["ring"], MAC, "3", None),
        ] {
            assert_eq!(due(make, model, groups, mac, runs).as_deref(), version, "{make} {model} {groups:?} {runs}");
        }
    }

    #[test]
    fn a_phone_is_told_only_files_for_its_model() {
        let firmware = Firmware {
            images: vec![image("2", "a.rom", &["T31*"]), image("2", "b.rom", &["T46U", "T48U"])],
            pins: vec![pin(None, None, None, "2")],
        };
        let due = |model| firmware.due(&Whom { make: "yealink", model, groups: vec![], macs: vec![] }, "1").map(|due| due.files);
        assert_eq!(due("T48U"), Some(vec!["b.rom".to_owned()]));
        assert_eq!(due("T31G"), Some(vec!["a.rom".to_owned()]));
        assert_eq!(due("T54W"), None, "there is none for it");
    }

    #[test]
    fn files_are_found_by_path_and_by_a_name_that_is_no_other_s() {
        let firmware =
            Firmware { images: vec![image("1", "a.rom", &[]), image("2", "a.rom", &[]), image("2", "B.rom", &[])], pins: vec![] };
        let version = |path: &str| firmware.find(path).map(|image| format!("{} {}", image.version, image.name));
        for (path, found) in [
            ("firmware/yealink/1/a.rom", Some("1 a.rom")),
            ("FIRMWARE/yealink/1/a.rom", None),
            ("firmware/Yealink/2/b.ROM", Some("2 B.rom")),
            ("b.rom", Some("2 B.rom")),
            ("a.rom", None),
            ("firmware/yealink/3/a.rom", None),
            ("firmware/firmware.yaml", None),
            ("firmware/yealink/1/../1/a.rom", None),
        ] {
            assert_eq!(version(path).as_deref(), found, "{path}");
        }
    }

    #[test]
    fn names_that_could_lead_elsewhere_are_refused_with_their_line() {
        for name in ["", ".", "..", ".x", "a/b", "a\\b", "a\0", "ä", " a", "a ", &"x".repeat(121)] {
            assert!(!is_name(name), "{name:?}");
        }
        assert!(is_name("T46U(T43U,T48U)-108.86.0.90.rom") && is_name("sip88xx.12-0-1MPP0001-245.loads"));
        let text = "files:\n  - { make: yealink, version: '../..', name: passwd, sha256: x, bytes: 1 }\npins:\n  - { make: yealink, version: 2 }\n";
        let faults = Firmware::read("f.yaml", text).expect_err("two faults");
        let told: Vec<_> = faults.iter().map(|fault| (fault.line, fault.message.as_str())).collect();
        assert_eq!(told, [(2, "'../..' cannot be the name of a file or folder"), (4, "there is no firmware '2' of yealink")]);
    }
}
