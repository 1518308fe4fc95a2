//! Reads a file of routes, and the passwords and certificates of its trunks.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::{
    Base, Plan,
    check::{Files, check},
    settings::Settings,
};
use crate::{
    model::Secret,
    yaml::{self, Fault},
};

/// The plan of a file; without one, that of an office that calls inside only.
pub fn load(path: Option<&Path>, base: Base) -> Result<Plan, Vec<Fault>> {
    let Some(path) = path else { return Ok(Plan::inside_only(base)) };
    let file = path.display().to_string();
    let text = fs::read_to_string(path)
        .map_err(|error| vec![Fault::in_file(&*file, format!("cannot be read: {error}")).hint("`calls.routes` names it")])?;
    let settings: Settings = yaml::read(&file, &text).map_err(|fault| vec![fault])?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut files: BTreeMap<String, Files> = BTreeMap::new();
    let mut faults = Vec::new();
    for (name, trunk) in &settings.trunks {
        let mut read = |what: &str, path: &Option<PathBuf>| {
            let path = folder.join(path.as_ref()?);
            fs::read_to_string(&path)
                .map_err(|error| {
                    let message = format!("the {what} file {} of '{name}' cannot be read: {error}", path.display());
                    faults.push(Fault::at(&file, &text, trunk.referenced.line(), trunk.referenced.column(), message));
                })
                .ok()
        };
        let password = read("password", &trunk.value.password_file).map(|text| Secret::new(text.trim_end_matches(['\r', '\n'])));
        let authorities = read("certificate", &trunk.value.ca_file);
        files.insert(name.clone(), Files { password, authorities });
    }
    if faults.is_empty() { check(&file, &text, base, &files) } else { Err(faults) }
}
