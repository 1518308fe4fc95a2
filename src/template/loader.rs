//! Reads templates from the binary and from IT's folder, and holds the set that is live.
//!
//! [`Templates::reload`] swaps the whole set in one step; when anything is wrong with the new one, the last good stays.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use rust_embed::RustEmbed;

use super::fault::{Fault, Faults, fault};
use super::firmware;
use super::set::{Source, TemplateSet};
use crate::model::MacAddr;

#[derive(RustEmbed)]
#[folder = "templates/"]
#[include = "*.yaml"]
#[include = "*.j2"]
struct Shipped;

/// A template longer than this is a mistake, or somebody's trick.
const FILE_MAX: u64 = 1 << 20;
const FILES_MAX: usize = 2000;
/// `poly/user.xml.j2` is two deep.
const DEPTH_MAX: usize = 4;

/// The live set. Cheap to clone.
#[derive(Clone)]
pub struct Templates(Arc<Live>);

struct Live {
    path: Option<PathBuf>,
    /// Where [`firmware::FILE`] is.
    firmware: Option<PathBuf>,
    set: ArcSwap<TemplateSet>,
    /// Phones that have another set already.
    ring: ArcSwapOption<Ring>,
}

struct Ring {
    set: Arc<TemplateSet>,
    phones: BTreeSet<MacAddr>,
}

impl Templates {
    /// The shipped templates, with those in `path` over them.
    pub fn load(path: Option<&Path>) -> Result<Self, Faults> {
        Self::load_with(path, None)
    }

    /// The same, and what is pinned in the firmware's folder.
    pub fn load_with(path: Option<&Path>, firmware: Option<&Path>) -> Result<Self, Faults> {
        let set = TemplateSet::load(&read_with(path, firmware)?).map_err(Faults)?;
        let (path, firmware) = (path.map(Path::to_owned), firmware.map(Path::to_owned));
        Ok(Self(Arc::new(Live { path, firmware, set: ArcSwap::from_pointee(set), ring: ArcSwapOption::empty() })))
    }

    /// The set that is live now. Hold it for one request: all of a request comes from one set.
    pub fn current(&self) -> Arc<TemplateSet> {
        self.0.set.load_full()
    }

    /// The set for this phone: the live one, or the one that goes to some phones first. `true`: the latter.
    pub fn of(&self, mac: MacAddr) -> (Arc<TemplateSet>, bool) {
        match self.0.ring.load().as_deref() {
            Some(ring) if ring.phones.contains(&mac) => (ring.set.clone(), true),
            _ => (self.current(), false),
        }
    }

    /// Every set that phones have now.
    pub fn live(&self) -> Vec<Arc<TemplateSet>> {
        let ring = self.0.ring.load().as_ref().map(|ring| ring.set.clone());
        ring.into_iter().chain([self.current()]).collect()
    }

    /// From now on these phones have this set, and only they.
    pub fn serve_ring(&self, ring: Option<(Arc<TemplateSet>, BTreeSet<MacAddr>)>) {
        self.0.ring.store(ring.map(|(set, phones)| Arc::new(Ring { set, phones })));
    }

    /// Makes it live for all.
    pub fn replace(&self, set: Arc<TemplateSet>) {
        self.0.set.store(set);
    }

    /// Reads everything again. With any fault the last good set stays live.
    pub fn reload(&self) -> Result<(), Faults> {
        self.0.set.store(Arc::new(self.on_disk()?));
        Ok(())
    }

    /// What is on disk now, checked and compiled as [`Self::reload`] would, but not live.
    pub fn on_disk(&self) -> Result<TemplateSet, Faults> {
        let sources = read_with(self.0.path.as_deref(), self.0.firmware.as_deref())?;
        TemplateSet::load(&sources).map_err(Faults)
    }

    /// The same, with this text in the place of [`firmware::FILE`].
    pub fn with_firmware(&self, text: String) -> Result<TemplateSet, Faults> {
        let mut sources = read(self.0.path.as_deref())?;
        put_firmware(&mut sources, Source { name: firmware::FILE.into(), origin: firmware::FILE.into(), text });
        TemplateSet::load(&sources).map_err(Faults)
    }
}

/// The shipped files alone.
pub fn shipped() -> Vec<Source> {
    let mut sources: Vec<_> = Shipped::iter()
        .filter_map(|name| {
            let text = String::from_utf8(Shipped::get(&name)?.data.into_owned()).ok()?;
            Some(Source { origin: format!("{name} (shipped)"), name: name.into_owned(), text })
        })
        .collect();
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    sources
}

/// The shipped files, and those of the folder in their place or beside them.
pub fn read(path: Option<&Path>) -> Result<Vec<Source>, Faults> {
    let mut sources = shipped();
    if let Some(root) = path {
        let mut faults = Vec::new();
        let mut own = Vec::new();
        match root.canonicalize() {
            Ok(root) => read_folder(&root, &root, 0, &mut own, &mut faults),
            Err(error) => faults.push(
                fault(&root.display().to_string(), 0, 0, format!("cannot read the folder: {error}"))
                    .hint("create it, or take `templates.path` out of the configuration to use the shipped templates"),
            ),
        }
        if !faults.is_empty() {
            return Err(Faults(faults));
        }
        for source in own {
            match sources.iter_mut().find(|shipped| shipped.name == source.name) {
                Some(shipped) => *shipped = source,
                None => sources.push(source),
            }
        }
    }
    Ok(sources)
}

/// The same, and what is pinned in the firmware's folder, if there is anything.
pub fn read_with(path: Option<&Path>, firmware: Option<&Path>) -> Result<Vec<Source>, Faults> {
    let mut sources = read(path)?;
    let file = firmware.map(|folder| folder.join(firmware::FILE)).filter(|file| file.exists());
    if let Some(file) = file {
        let origin = file.display().to_string();
        let text = read_file(&file).map_err(|message| Faults(vec![fault(&origin, 0, 0, message)]))?;
        put_firmware(&mut sources, Source { name: firmware::FILE.into(), origin, text });
    }
    Ok(sources)
}

fn put_firmware(sources: &mut Vec<Source>, source: Source) {
    sources.retain(|source| source.name != firmware::FILE);
    sources.push(source);
}

fn read_folder(root: &Path, folder: &Path, depth: usize, found: &mut Vec<Source>, faults: &mut Vec<Fault>) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return faults.push(fault(&folder.display().to_string(), 0, 0, format!("cannot read the folder: {error}"))),
    };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        // A link may lead within the folder (a ConfigMap of Kubernetes is made of links), never out of it.
        let real = match path.canonicalize() {
            Ok(real) if real.starts_with(root) => real,
            Ok(real) => {
                faults.push(
                    fault(&path.display().to_string(), 0, 0, format!("leads out of the templates' folder, to {}", real.display()))
                        .hint("copy the file into the folder"),
                );
                continue;
            }
            Err(error) => {
                faults.push(fault(&path.display().to_string(), 0, 0, format!("cannot read it: {error}")));
                continue;
            }
        };
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if hidden || found.len() >= FILES_MAX {
            continue;
        }
        if real.is_dir() {
            if depth < DEPTH_MAX {
                read_folder(root, &path, depth + 1, found, faults);
            }
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "j2") {
            match read_file(&real) {
                Ok(text) => {
                    let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
                    found.push(Source { name, origin: path.display().to_string(), text });
                }
                Err(message) => faults.push(fault(&path.display().to_string(), 0, 0, message)),
            }
        }
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let length = fs::metadata(path).map_err(|error| format!("cannot read it: {error}"))?.len();
    if length > FILE_MAX {
        return Err(format!("has {length} bytes; a template has {FILE_MAX} at most"));
    }
    let bytes = fs::read(path).map_err(|error| format!("cannot read it: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8: save it as UTF-8".to_owned())?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_set_is_good() {
        let templates = Templates::load(None).unwrap_or_else(|faults| panic!("{faults}"));
        let set = templates.current();
        let names: Vec<_> = set.families().map(|family| family.id.clone()).collect();
        let all = "avaya_j cisco_mpp cisco_spa digium fanvil generic grandstream htek mitel panasonic poly snom yealink";
        for family in all.split(' ') {
            assert!(names.iter().any(|name| name == family), "{names:?}");
        }
    }

    #[test]
    fn a_broken_file_keeps_the_last_good_set() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("overrides.yaml");
        fs::write(&file, "sites: { all: { subnets: [0.0.0.0/0], variables: { language: de } } }").unwrap();
        let templates = Templates::load(Some(folder.path())).unwrap_or_else(|faults| panic!("{faults}"));
        let before = templates.current();

        fs::write(&file, "sites:\n  all:\n    variables:\n      langauge: de\n").unwrap();
        let faults = templates.reload().unwrap_err().0;
        assert_eq!((faults[0].line, faults[0].message.as_str()), (4, "no template reads a variable 'langauge'"));
        assert_eq!(faults[0].hint.as_deref(), Some("did you mean 'language'?"));
        assert!(faults[0].file.ends_with("overrides.yaml"));
        assert!(Arc::ptr_eq(&before, &templates.current()), "the last good one stays");

        fs::write(&file, "sites: {}").unwrap();
        templates.reload().unwrap();
        assert!(!Arc::ptr_eq(&before, &templates.current()));
    }

    #[test]
    fn nothing_is_read_from_outside_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("passwd.j2")).unwrap();
        let faults = Templates::load(Some(folder.path())).err().unwrap();
        assert!(faults.to_string().contains("leads out of the templates' folder"), "{faults}");
    }
}
