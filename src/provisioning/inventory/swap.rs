//! A phone in the place of another: owners, label, place, group and what `overrides.yaml` sets for it go over, also to another make.
//!
//! Secrets do not: the new phone's are its own, and those of the old one are dead. What is of the box and not of its place (family,
//! model, notes) stays. Pure: it is drawn up here and done as any [`Draft`].

use super::{Change, draft::Draft, whose};
use crate::model::{BindingRecord, DeviceRecord, MacAddr};

/// What went over, or would.
#[derive(Clone, Debug)]
pub struct Swapped {
    pub applied: bool,
    pub old: MacAddr,
    pub new: MacAddr,
    /// Lines that change phones, with their owners.
    pub lines: Vec<BindingRecord>,
    /// Of the new phone.
    pub changes: Vec<Change>,
    /// What else is to be known.
    pub remarks: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("a phone cannot replace itself")]
    Same,
    #[error("{0} was never seen here: `plugtone devices` lists those that were")]
    OldUnknown(MacAddr),
    #[error("{new} belongs to {owner}: take it from them first, `plugtone unbind {new}`")]
    NewOwned { new: MacAddr, owner: String },
    #[error("{0} has no owner, label, place, group or settings that could go to another")]
    Nothing(MacAddr),
}

/// `has_settings`: `overrides.yaml` sets something for the old device itself.
pub fn swap(draft: &mut Draft<'_>, old: MacAddr, new: MacAddr, has_settings: bool) -> Result<Swapped, Refusal> {
    if old == new {
        return Err(Refusal::Same);
    }
    if !draft.knows(old) {
        return Err(Refusal::OldUnknown(old));
    }
    if let Some(owner) = draft.bindings(new).and_then(|bindings| bindings.values().next()) {
        return Err(Refusal::NewOwned { new, owner: whose(owner) });
    }
    let known = draft.knows(new);
    let lines: Vec<BindingRecord> =
        draft.bindings(old).into_iter().flat_map(|all| all.values()).map(|line| BindingRecord::clone(line)).collect();
    for line in &lines {
        draft.move_line(line, new, format!("{new} is in its place now"));
    }

    let from = draft.device(old);
    let was = from.clone();
    let mut stands_for = std::mem::take(&mut from.inventory.stands_for);
    (from.inventory.label, from.inventory.group, from.location) = (None, None, None);
    if has_settings {
        stands_for.push(old);
    }
    stands_for.retain(|mac| *mac != new);

    let to = draft.device(new);
    let mut changes = Vec::new();
    for (what, going, held) in [
        ("label", &was.inventory.label, &mut to.inventory.label),
        ("location", &was.location, &mut to.location),
        ("group", &was.inventory.group, &mut to.inventory.group),
    ] {
        if going.is_some() && going != held {
            changes.push(Change { what, from: held.clone(), to: going.clone() });
            held.clone_from(going);
        }
    }
    if !stands_for.is_empty() {
        let settings: Vec<_> = stands_for.iter().map(MacAddr::to_string).collect();
        changes.push(Change { what: "settings", from: None, to: Some(format!("those of {}", settings.join(", "))) });
        to.inventory.stands_for = stands_for;
    }
    if lines.is_empty() && changes.is_empty() {
        return Err(Refusal::Nothing(old));
    }
    let to = to.clone();
    Ok(Swapped { applied: false, old, new, lines, changes, remarks: remarks(&was, &to, known, has_settings) })
}

fn remarks(old: &DeviceRecord, new: &DeviceRecord, known: bool, has_settings: bool) -> Vec<String> {
    let mut remarks = Vec::new();
    if !known || new.first_seen == DeviceRecord::NEVER {
        remarks.push(format!("{} was not seen yet: it is theirs as soon as it is plugged in", new.mac));
    }
    if has_settings {
        remarks.push(format!(
            "`devices` of overrides.yaml has {old}: it holds for both; call it {new} there, or {old} keeps those settings on another desk",
            old = old.mac,
            new = new.mac
        ));
    }
    if let (Some(before), Some(now), true) = (&old.port, &new.port, old.location.is_some())
        && before != now
    {
        remarks.push(format!("it is plugged in at {now}, not {before}: when it moves there, say again where it is (`plugtone locate`)"));
    }
    remarks
}
