//! Reads a file of routes and the passwords of its trunks.

use std::{collections::BTreeMap, fs, path::Path};

use super::{Base, Plan, check::check, settings::Settings};
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
    let mut passwords = BTreeMap::new();
    let mut faults = Vec::new();
    for (name, trunk) in &settings.trunks {
        let Some(secret) = &trunk.value.password_file else { continue };
        match fs::read_to_string(folder.join(secret)) {
            Ok(text) => drop(passwords.insert(name.clone(), Secret::new(text.trim_end_matches(['\r', '\n'])))),
            Err(error) => {
                let place = &trunk.referenced;
                let message = format!("the password file {} of '{name}' cannot be read: {error}", folder.join(secret).display());
                faults.push(Fault::at(&file, &text, place.line(), place.column(), message));
            }
        }
    }
    if faults.is_empty() { check(&file, &text, base, &passwords) } else { Err(faults) }
}
