//! The list of all phones: read from a table and compared with what there is, written as a table, searched. Pure but `worker.rs`.
//!
//! `sheet.rs` is the table, `draft.rs` many changes as one, `swap.rs` a phone in the place of another. An empty cell changes nothing,
//! `-` takes out what is there. Nothing happens unless every row is good: what is to be given to whom by hand is soon half done.

pub mod draft;
pub mod sheet;
pub mod swap;
pub mod worker;

use draft::{Draft, Refusal};
use sheet::{Column, Entry, Row, Sheet};

use crate::{
    model::{BindingRecord, DeviceRecord, LineNumber, MacAddr, User},
    yaml::Fault,
};

/// The line that a table gives to somebody.
const FIRST_LINE: LineNumber = 1;

/// What an import did, or would do.
#[derive(Clone, Debug)]
pub struct Report {
    /// It was done. Not in a dry run, nor where anything was refused.
    pub applied: bool,
    pub rows: Vec<Outcome>,
}

/// What becomes of a row.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub line: u64,
    /// Nobody, where it cannot be read.
    pub mac: MacAddr,
    pub verdict: Verdict,
    pub changes: Vec<Change>,
    /// What else is to be known.
    pub remarks: Vec<String>,
    pub faults: Vec<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The device was not known.
    Added,
    Changed,
    Unchanged,
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub what: &'static str,
    pub from: Option<String>,
    pub to: Option<String>,
}

/// Whose a row says that the phone is.
#[derive(Clone, Debug)]
pub enum Owner {
    /// It does not say.
    Keep,
    Nobody,
    User {
        user: User,
        remark: Option<String>,
    },
    /// Nobody can be that.
    Unknown {
        column: Column,
        message: String,
        hint: Option<String>,
    },
}

/// Enters rows into a draft.
pub fn enter(draft: &mut Draft<'_>, sheet: &Sheet, owners: &[Owner]) -> Vec<Outcome> {
    sheet.rows.iter().zip(owners).map(|(row, owner)| enter_row(draft, sheet, row, owner)).collect()
}

fn enter_row(draft: &mut Draft<'_>, sheet: &Sheet, row: &Row, owner: &Owner) -> Outcome {
    let mac = row.mac;
    let mut outcome =
        Outcome { line: row.line, mac, verdict: Verdict::Unchanged, changes: Vec::new(), remarks: Vec::new(), faults: row.faults.clone() };
    if let Owner::Unknown { column, message, hint } = owner {
        let fault = sheet.fault_at(row, *column, message.clone());
        outcome.faults.push(Fault { hint: hint.clone(), ..fault });
    }
    if outcome.faults.is_empty() {
        let known = draft.knows(mac);
        write_down(draft, sheet, row, &mut outcome);
        give(draft, sheet, row, owner, &mut outcome);
        outcome.verdict = match known {
            false => Verdict::Added,
            true if outcome.changes.is_empty() => Verdict::Unchanged,
            true => Verdict::Changed,
        };
    }
    if !outcome.faults.is_empty() {
        (outcome.verdict, outcome.changes) = (Verdict::Refused, Vec::new());
    }
    outcome
}

/// Everything but whose it is.
fn write_down(draft: &mut Draft<'_>, sheet: &Sheet, row: &Row, outcome: &mut Outcome) {
    let device = draft.device(row.mac);
    let seen = device.first_seen != DeviceRecord::NEVER;
    // What a phone says of itself counts more than what somebody has copied from its box.
    let family = match (row.entry(Column::Family), &device.family) {
        (Entry::Set(written), Some(said)) if seen && written != said => {
            let fault = sheet.fault_at(row, Column::Family, format!("it is a {said}, as it says of itself"));
            outcome.faults.push(fault.hint("leave the cell empty; a phone that lies is set right under `devices` in overrides.yaml"));
            return;
        }
        (_, Some(_)) if seen => Entry::Keep,
        (entry, _) => entry,
    };
    let model = match (row.entry(Column::Model), &device.model) {
        (Entry::Set(written), Some(said)) if seen && written != said => {
            outcome.remarks.push(format!("it calls itself {said}, which counts"));
            Entry::Keep
        }
        (_, Some(_)) if seen => Entry::Keep,
        (entry, _) => entry,
    };
    for (column, entry, held) in [
        (Column::Family, family, &mut device.family),
        (Column::Model, model, &mut device.model),
        (Column::Label, row.entry(Column::Label), &mut device.inventory.label),
        (Column::Location, row.entry(Column::Location), &mut device.location),
        (Column::Group, row.entry(Column::Group), &mut device.inventory.group),
        (Column::Notes, row.entry(Column::Notes), &mut device.inventory.notes),
    ] {
        let to = match entry {
            Entry::Keep => continue,
            Entry::Clear => None,
            Entry::Set(text) => Some(text.to_owned()),
        };
        if *held != to {
            let from = std::mem::replace(held, to.clone());
            outcome.changes.push(Change { what: column.title(), from, to });
        }
    }
}

fn give(draft: &mut Draft<'_>, sheet: &Sheet, row: &Row, owner: &Owner, outcome: &mut Outcome) {
    let mac = row.mac;
    let before = draft.owner(mac, FIRST_LINE).cloned();
    let from = before.as_ref().map(whose);
    match owner {
        Owner::Keep | Owner::Unknown { .. } => {}
        Owner::Nobody => {
            if before.is_some() {
                draft.take(mac, FIRST_LINE, "the list of phones says so".to_owned());
                outcome.changes.push(Change { what: "owner", from, to: None });
            }
        }
        Owner::User { user, remark } => {
            outcome.remarks.extend(remark.clone());
            let same =
                |before: &BindingRecord| before.user_id == user.id && user.extension.as_ref().is_none_or(|own| *own == before.extension);
            if before.as_ref().is_some_and(same) {
                return;
            }
            match draft.give(mac, FIRST_LINE, user) {
                Ok((extension, ended)) => {
                    let to = Some(format!("{extension} {}", user.display_name));
                    outcome.changes.push(Change { what: "owner", from, to });
                    let left = ended.iter().map(|old| format!("{extension} leaves {}, which is nobody's then", old.mac));
                    outcome.remarks.extend(left);
                }
                Err(refusal) => {
                    let column = if row.entry(Column::Extension) == Entry::Keep { Column::User } else { Column::Extension };
                    let fault = sheet.fault_at(row, column, refusal.to_string());
                    outcome.faults.push(match refusal {
                        Refusal::GivenAlready { .. } => fault.hint("give it to somebody else, or let an extension have more devices"),
                        Refusal::Extension(_) => fault,
                    });
                }
            }
        }
    }
}

fn whose(binding: &BindingRecord) -> String {
    format!("{} {}", binding.extension, binding.display_name)
}

/// What a search looks at.
pub struct Searched<'a> {
    pub device: &'a DeviceRecord,
    pub bindings: &'a [BindingRecord],
    pub site: Option<&'a str>,
}

impl Searched<'_> {
    /// Every word is somewhere in it, in any case; a MAC in any spelling, or a part of one.
    pub fn matches(&self, query: &str) -> bool {
        let (device, inventory) = (self.device, &self.device.inventory);
        let written = [
            &device.family,
            &device.model,
            &device.firmware,
            &device.location,
            &device.port,
            &inventory.label,
            &inventory.group,
            &inventory.notes,
        ];
        let mut texts: Vec<String> = written.into_iter().flatten().map(|text| text.to_lowercase()).collect();
        texts.extend(device.address.map(|address| address.to_string()));
        texts.extend(self.site.map(str::to_lowercase));
        for binding in self.bindings {
            texts.extend([binding.extension.to_string(), binding.display_name.to_lowercase(), binding.user_id.to_lowercase()]);
        }
        let bare = device.mac.bare();
        query.to_lowercase().split_whitespace().all(|word| {
            let digits: String = word.chars().filter(|c| !matches!(c, ':' | '-' | '.')).collect();
            let part_of_mac = digits.len() >= 3 && digits.bytes().all(|b| b.is_ascii_hexdigit()) && bare.contains(&digits);
            part_of_mac || texts.iter().any(|text| text.contains(word))
        })
    }
}

/// A row of the table: `login` is what its owner keys in, where that is known.
pub fn exported(device: &DeviceRecord, owner: Option<&BindingRecord>, login: Option<&str>) -> [String; 9] {
    let inventory = &device.inventory;
    let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
    [
        device.mac.to_string(),
        or_empty(&device.family),
        or_empty(&device.model),
        or_empty(&inventory.label),
        or_empty(&device.location),
        login.unwrap_or_default().to_owned(),
        owner.map(|owner| owner.extension.to_string()).unwrap_or_default(),
        or_empty(&inventory.group),
        or_empty(&inventory.notes),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeviceState, Inventory, Timestamp};

    #[test]
    fn a_phone_is_found_by_whatever_is_known_of_it() {
        let device = DeviceRecord {
            mac: MacAddr([0, 0x15, 0x65, 0xaa, 0xbb, 0xcc]),
            family: Some("yealink".into()),
            model: Some("T46S".into()),
            firmware: None,
            state: DeviceState::InService,
            generation: 1,
            first_seen: Timestamp(1),
            last_seen: Timestamp(1),
            address: Some([10, 1, 0, 7].into()),
            location: Some("Floor 2".into()),
            port: None,
            inventory: Inventory { label: Some("Empfang Ost".into()), ..Default::default() },
        };
        let binding = BindingRecord {
            mac: device.mac,
            line: 1,
            user_id: "uid=ada,ou=people".into(),
            display_name: "Ada Lovelace".into(),
            extension: "2041".parse().unwrap(),
            generation: 1,
            since: Timestamp(1),
        };
        let searched = Searched { device: &device, bindings: &[binding], site: Some("Berlin") };
        for query in [
            "",
            "00:15:65:AA:BB:CC",
            "0015.65aa.bbcc",
            "aabbcc",
            "bb-cc",
            "t46",
            "lovelace",
            "2041",
            "UID=ADA",
            "empfang",
            "floor",
            "10.1.0.7",
            "berlin ada t46s",
        ] {
            assert!(searched.matches(query), "{query}");
        }
        for query in ["001565aabbcd", "boston", "ada t48", "2042", "cc-dd"] {
            assert!(!searched.matches(query), "{query}");
        }
    }
}
