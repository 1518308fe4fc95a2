//! The makers' firmware: a folder of files that are what was added, to be served by their names, and which phones shall run what.
//!
//! ```text
//! firmware/firmware.yaml            what there is, with its SHA-256, and the pins
//! firmware/<make>/<version>/<name>  the files, as phones ask for them
//! ```
//! What may be added, taken away and pinned is decided here; `worker.rs` keeps the folder, and gives out no byte that was not added.
//! `firmware.yaml` is one of the templates' sources: a pin reaches phones by `plugtone reload`, or by a rollout some first. Not here:
//! how a make is told (its template), who is told (`template/firmware.rs`).

pub mod worker;

pub use worker::{Depot, Incoming, Stored};

use crate::template::{
    Firmware,
    firmware::{Image, Pin, is_name},
};

/// Why the folder stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("'{0}' cannot be a name here: letters, digits and ._-+(), at most 120 of them, and no dot in front")]
    Name(String),
    #[error("another file is there as {path}, with SHA-256 {sha256}: remove it first, or add this one as another version")]
    Another { path: String, sha256: String },
    #[error("there is no {0}: `plugtone firmware list` says what there is")]
    NoFile(String),
    #[error("{path} is pinned for {whom}: unpin it first")]
    Pinned { path: String, whom: String },
    #[error("{path} is pinned by what is live: `plugtone reload` first, or let the rollout end")]
    Live { path: String },
    #[error("there is no firmware '{version}' of {make}: `plugtone firmware add` adds it{known}")]
    NoVersion { make: String, version: String, known: String },
    #[error("nothing is pinned for {0}")]
    NotPinned(String),
    #[error("'{0}' is no MAC address")]
    Device(String),
    #[error("a pin for a device has no group and no model")]
    TooNarrow,
    #[error("it came with SHA-256 {got}, not {wanted}: it was changed or cut on the way")]
    Damaged { wanted: String, got: String },
    #[error("cannot keep it in {folder}: {reason}")]
    Disk { folder: String, reason: String },
}

/// With this file too. `Ok(None)`: it is there already, for these models.
pub fn with(firmware: &Firmware, image: Image) -> Result<Option<Firmware>, Error> {
    check_name(&image)?;
    let mut firmware = firmware.clone();
    match firmware.images.iter_mut().find(|known| known.path().eq_ignore_ascii_case(&image.path())) {
        Some(known) if known.sha256 != image.sha256 => {
            return Err(Error::Another { path: known.path(), sha256: known.sha256.clone() });
        }
        Some(known) if known.models == image.models => return Ok(None),
        Some(known) => known.models = image.models,
        None => firmware.images.push(image),
    }
    Ok(Some(firmware))
}

/// May it be called so?
pub fn check_name(image: &Image) -> Result<(), Error> {
    match [&image.make, &image.version, &image.name].into_iter().find(|name| !is_name(name)) {
        Some(name) => Err(Error::Name(name.clone())),
        None => Ok(()),
    }
}

/// Without this file. `live`: what phones are told now, which may be behind.
pub fn without(firmware: &Firmware, path: &str, live: &[Firmware]) -> Result<Firmware, Error> {
    let mut firmware = firmware.clone();
    let at = firmware.images.iter().position(|image| image.path() == path).ok_or_else(|| Error::NoFile(path.to_owned()))?;
    let image = firmware.images.remove(at);
    let of_it = |pin: &&Pin| pin.make == image.make && pin.version == image.version;
    if let Some(pin) = firmware.pins.iter().find(of_it) {
        return Err(Error::Pinned { path: path.to_owned(), whom: pin.whom() });
    }
    if live.iter().any(|live| live.pins.iter().any(|pin| of_it(&pin))) {
        return Err(Error::Live { path: path.to_owned() });
    }
    Ok(firmware)
}

/// With this pin, in the place of one for the same phones.
pub fn pinned(firmware: &Firmware, pin: Pin) -> Result<Firmware, Error> {
    check_whom(&pin)?;
    let mut firmware = firmware.clone();
    if !firmware.images.iter().any(|image| image.make == pin.make && image.version == pin.version) {
        let mut known: Vec<_> = firmware.images.iter().filter(|image| image.make == pin.make).map(|image| &*image.version).collect();
        known.dedup();
        let known = if known.is_empty() { String::new() } else { format!("; there is {}", known.join(", ")) };
        return Err(Error::NoVersion { make: pin.make, version: pin.version, known });
    }
    firmware.pins.retain(|other| !other.is_for_the_same(&pin));
    firmware.pins.push(pin);
    Ok(firmware)
}

/// Without the pin for these phones, whatever its version.
pub fn unpinned(firmware: &Firmware, whom: &Pin) -> Result<Firmware, Error> {
    check_whom(whom)?;
    let mut firmware = firmware.clone();
    let before = firmware.pins.len();
    firmware.pins.retain(|other| !other.is_for_the_same(whom));
    if firmware.pins.len() == before { Err(Error::NotPinned(whom.whom())) } else { Ok(firmware) }
}

fn check_whom(pin: &Pin) -> Result<(), Error> {
    match &pin.device {
        Some(device) if device.parse::<crate::model::MacAddr>().is_err() => Err(Error::Device(device.clone())),
        Some(_) if pin.group.is_some() || pin.model.is_some() => Err(Error::TooNarrow),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(version: &str, name: &str, sha256: &str) -> Image {
        let (make, sha256) = ("yealink".to_owned(), sha256.to_owned());
        Image { make, version: version.into(), name: name.into(), models: vec![], sha256, bytes: 1, added: String::new() }
    }

    fn pin(model: &str, version: &str) -> Pin {
        Pin { make: "yealink".into(), model: Some(model.into()), group: None, device: None, version: version.into() }
    }

    #[test]
    fn a_name_stands_for_one_content_only() {
        let one = with(&Firmware::default(), image("1", "a.rom", "aa")).unwrap().expect("new");
        assert_eq!(with(&one, image("1", "a.rom", "aa")), Ok(None), "it is there");
        assert!(matches!(with(&one, image("1", "A.rom", "bb")), Err(Error::Another { .. })));
        assert!(matches!(with(&one, image("1", "../a.rom", "bb")), Err(Error::Name(_))));
        let models = Image { models: vec!["T46U".into()], ..image("1", "a.rom", "aa") };
        assert_eq!(with(&one, models).unwrap().expect("changed").images[0].models, ["T46U"]);
        assert_eq!(with(&one, image("2", "a.rom", "bb")).unwrap().expect("new").images.len(), 2, "of another version");
    }

    #[test]
    fn what_is_pinned_stays() {
        let both = |firmware: Firmware| with(&firmware, image("2", "b.rom", "bb")).unwrap().expect("new");
        let firmware = both(with(&Firmware::default(), image("1", "a.rom", "aa")).unwrap().expect("new"));
        assert!(matches!(pinned(&firmware, pin("T46U", "3")), Err(Error::NoVersion { .. })));
        let one = pinned(&firmware, pin("T46U", "1")).expect("pinned");
        let two = pinned(&one, pin("t46u", "2")).expect("pinned");
        assert_eq!(two.pins.len(), 1, "for the same phones");
        assert_eq!(
            without(&two, "firmware/yealink/2/b.rom", &[]),
            Err(Error::Pinned { path: "firmware/yealink/2/b.rom".into(), whom: "yealink t46u".into() })
        );
        let old = "firmware/yealink/1/a.rom";
        assert_eq!(without(&two, old, &[one]), Err(Error::Live { path: old.into() }));
        assert_eq!(without(&two, old, &[]).map(|left| left.images.len()), Ok(1));
        assert!(matches!(unpinned(&two, &pin("T31G", "")), Err(Error::NotPinned(_))));
        assert_eq!(unpinned(&two, &pin("T46U", "")).map(|left| left.pins.len()), Ok(0));
    }
}
