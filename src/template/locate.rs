//! Which file of which family a name means: the names of a set's files, read the other way round. What is in it: `set.rs`.

use super::{
    family::{Family, File, FileRef},
    pattern::{Captured, FilePattern},
    schema::Readers,
    set::TemplateSet,
    subject::Subject,
};
use crate::model::MacAddr;

/// A name that a phone may upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadRule {
    /// Whose, by the name.
    pub mac: MacAddr,
    pub max_bytes: usize,
    /// The phone may read it back.
    pub serve_back: bool,
}

impl TemplateSet {
    /// The family's file of that name. `path` is normalised: no slash in front, no `..`.
    pub fn locate(&self, family: &str, path: &str) -> Option<FileRef> {
        let family = self.families.get(family)?;
        let by = |pattern: fn(&File) -> Option<&FilePattern>| {
            family.files.iter().enumerate().find_map(|(index, file)| Some(family.refer(index, file, pattern(file)?.captures(path)?)))
        };
        let encrypted = || by(|file| file.encrypted.as_ref()).map(|file| FileRef { encrypted: true, ..file });
        by(|file| Some(&file.pattern)).or_else(encrypted)
    }

    /// The file of that name in whichever family has one that everybody may read. Remembered: where another server leases the addresses,
    /// nothing but the name says of which make a phone is that asks by TFTP.
    pub fn locate_common(&self, path: &str) -> Option<FileRef> {
        self.common.get(path.as_bytes(), || self.find_common(path))
    }

    fn find_common(&self, path: &str) -> Option<FileRef> {
        // Most files of a family are somebody's own: their patterns are not looked at.
        let may_have = |family: &Family| family.files.iter().any(|file| file.readers == Readers::Anyone && file.is_called(path));
        let families = self.families.iter().filter(|(_, family)| may_have(family));
        families.filter_map(|(id, _)| self.locate(id, path)).find(|file| file.readers == Readers::Anyone)
    }

    /// Whether any family has a file of that name.
    pub fn knows(&self, path: &str) -> bool {
        self.families.keys().any(|id| self.locate(id, path).is_some() || self.upload_rule(id, path).is_some())
    }

    /// May a phone of this family upload that name?
    pub fn upload_rule(&self, family: &str, path: &str) -> Option<UploadRule> {
        let family = self.families.get(family)?;
        family.uploads.iter().find_map(|upload| {
            let mac = upload.pattern.captures(path)?.mac?;
            Some(UploadRule { mac, max_bytes: upload.max_bytes, serve_back: upload.serve_back })
        })
    }

    /// Every file that this family would give to this phone.
    pub fn files(&self, family: &str, subject: &Subject) -> Vec<FileRef> {
        let Some(family) = self.families.get(family) else { return Vec::new() };
        let named = family.files.iter().enumerate().filter_map(|(index, file)| {
            let captured = Captured {
                mac: file.pattern.names_mac.then_some(subject.mac?),
                model: subject.model.clone(),
                model_code: None,
                page: None,
            };
            family.name_of(file, subject).map(|_| family.refer(index, file, captured))
        });
        named.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::shipped;

    #[test]
    fn a_common_file_is_the_one_that_a_look_at_every_file_finds() {
        let set = TemplateSet::load(&shipped()).unwrap();
        let mac = Some("001565aabbcc".parse().unwrap());
        let mut common = 0;
        for file in set.families.values().flat_map(|family| &family.files) {
            for pattern in std::iter::once(&file.pattern).chain(&file.encrypted) {
                let name = pattern.expand(mac, Some("T46S"), Some(66)).unwrap();
                let mut all = set.families.keys().filter_map(|id| set.locate(id, &name));
                let expected = all.find(|file| file.readers == Readers::Anyone);
                let (found, again) = (set.locate_common(&name), set.locate_common(&name));
                assert_eq!((&found, &again), (&expected, &expected), "{name}");
                common += usize::from(expected.is_some());
            }
        }
        assert!(common > 10, "{common}");
    }
}
