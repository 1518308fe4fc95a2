//! Imports, exports and swaps asked for by people: looks owners up in the directory, then has onboarding do all of it or nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    FIRST_LINE, Owner, Report, exported,
    sheet::{self, Column, Entry, Names, Row, Sheet},
    swap::Swapped,
};
use crate::{
    directory::{Denied, Directory},
    model::{BindingRecord, Extension, MacAddr, ParseExtensionError, User},
    provisioning::{Onboarding, onboarding},
    template::TemplateSet,
    yaml::Fault,
};

/// Questions to the directory at once.
const AT_ONCE: usize = 8;
/// Users whose log-ins are looked up for an export.
const MOST_USERS: usize = 50_000;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Sheet(Fault),
    #[error(transparent)]
    Directory(#[from] Denied),
    #[error(transparent)]
    Onboarding(#[from] onboarding::Error),
}

impl Onboarding {
    /// Reads a table of phones (`file` names it in faults) and does what it says, all or nothing; with `dry_run` only says what
    /// that would be.
    pub async fn import(
        &self,
        directory: &dyn Directory,
        set: &TemplateSet,
        file: &str,
        table: &[u8],
        dry_run: bool,
    ) -> Result<Report, Error> {
        let names = Names { families: set.families().map(|family| family.id.as_str()).collect(), groups: set.groups().collect() };
        let sheet = Sheet::read(file, table, &names).map_err(Error::Sheet)?;
        let owners = self.owners_of(directory, &sheet).await?;
        let (rows, applied) = self.enter(sheet, owners, dry_run).await?;
        Ok(Report { applied, rows })
    }

    /// The table of all phones.
    pub async fn export(&self, directory: &dyn Directory) -> Result<Vec<u8>, onboarding::Error> {
        let mut devices = self.devices().await?;
        devices.sort_unstable_by_key(|device| device.mac);
        let owners: HashMap<MacAddr, BindingRecord> = self.first_lines().await?;
        // Without it the extension has to do, and does.
        let logins: HashMap<String, String> =
            directory.list(MOST_USERS).await.unwrap_or_default().into_iter().map(|user| (user.id, user.login)).collect();
        let row = |device| {
            let owner = owners.get(&(device as &crate::model::DeviceRecord).mac);
            exported(device, owner, owner.and_then(|owner| logins.get(&owner.user_id)).map(String::as_str))
        };
        Ok(sheet::write(devices.iter().map(row)))
    }

    /// Puts `new` in the place of `old`; with `dry_run` only says what would go over.
    pub async fn swap(&self, set: &TemplateSet, old: MacAddr, new: MacAddr, dry_run: bool) -> Result<Swapped, onboarding::Error> {
        self.put_in_place(old, new, set.sets_for(old), dry_run).await
    }

    async fn first_lines(&self) -> Result<HashMap<MacAddr, BindingRecord>, onboarding::Error> {
        let all = self.bindings().await?.into_iter().filter(|binding| binding.line == FIRST_LINE);
        Ok(all.map(|binding| (binding.mac, binding)).collect())
    }

    /// Whose each row says that its phone is.
    async fn owners_of(&self, directory: &dyn Directory, sheet: &Sheet) -> Result<Vec<Owner>, Error> {
        let digits = self.extension_digits();
        let mut asked = BTreeSet::new();
        for row in &sheet.rows {
            match (row.entry(Column::User), row.entry(Column::Extension)) {
                (Entry::Set(login), _) => drop(asked.insert(login.to_owned())),
                (_, Entry::Set(extension)) => asked.extend(spellings(extension, digits)),
                _ => {}
            }
        }
        let find = |text: String| async { Ok::<_, Denied>((directory.find(&text).await?, text)) };
        let answers: Vec<(Option<User>, String)> = stream::iter(asked.into_iter().map(find)).buffered(AT_ONCE).try_collect().await?;
        let people = People {
            by_number: answers.into_iter().filter_map(|(user, text)| Some((text, user?))).collect(),
            by_extension: self.bindings().await?.into_iter().map(|binding| (binding.extension.to_string(), binding)).collect(),
            digits,
        };
        Ok(sheet.rows.iter().map(|row| people.owner(row)).collect())
    }
}

/// Who is known, by what a row may call them.
struct People {
    by_number: BTreeMap<String, User>,
    by_extension: HashMap<String, BindingRecord>,
    /// See [`spellings`].
    digits: usize,
}

/// A number, and as it was before a spreadsheet took its zeros: where extensions begin with one, they have `digits`.
fn spellings(number: &str, digits: usize) -> Vec<String> {
    let padded = format!("{number:0>digits$}");
    let differs = padded != number && number.bytes().all(|b| b.is_ascii_digit());
    std::iter::once(number.to_owned()).chain(differs.then_some(padded)).collect()
}

impl People {
    fn owner(&self, row: &Row) -> Owner {
        match (row.entry(Column::User), row.entry(Column::Extension)) {
            (Entry::Clear, _) | (_, Entry::Clear) => Owner::Nobody,
            (Entry::Keep, Entry::Keep) => Owner::Keep,
            (Entry::Set(login), extension) => self.with_login(login, extension),
            (Entry::Keep, Entry::Set(extension)) => self.with_extension(extension),
        }
    }

    fn with_login(&self, login: &str, extension: Entry<'_>) -> Owner {
        let Some(user) = self.by_number.get(login).cloned() else {
            let hint = "`plugtone users` lists who there is";
            return unknown(Column::User, format!("nobody in the directory has the login '{login}'"), Some(hint.to_owned()));
        };
        let Entry::Set(written) = extension else { return Owner::User { user, remark: None } };
        let spellings = spellings(written, self.digits);
        match &user.extension {
            Some(own) if spellings.iter().any(|spelling| spelling == own.as_str()) => {
                let remark = remark(written, own);
                Owner::User { user, remark }
            }
            Some(own) => {
                let message = format!("{} has {own}, as the directory says", user.display_name);
                unknown(Column::Extension, message, Some("leave the cell empty".to_owned()))
            }
            None => match spellings.last().map_or(written, String::as_str).parse::<Extension>() {
                Ok(wanted) => Owner::User { remark: remark(written, &wanted), user: User { extension: Some(wanted), ..user } },
                Err(error) => unknown(Column::Extension, ParseExtensionError::to_string(&error), None),
            },
        }
    }

    fn with_extension(&self, written: &str) -> Owner {
        let spellings = spellings(written, self.digits);
        for spelling in &spellings {
            match self.by_number.get(spelling) {
                Some(user) if user.extension.as_ref().is_some_and(|own| own.as_str() == spelling) => {
                    let remark = user.extension.as_ref().and_then(|own| remark(written, own));
                    return Owner::User { user: user.clone(), remark };
                }
                Some(user) => {
                    let has = user.extension.as_ref().map(|own| format!(", whose extension is {own}")).unwrap_or_default();
                    let message = format!("{spelling} is the login of {}{has}", user.display_name);
                    return unknown(Column::Extension, message, Some("write it into the column 'user'".to_owned()));
                }
                None => {}
            }
        }
        // One that was given here is in no directory.
        if let Some(held) = spellings.iter().find_map(|spelling| self.by_extension.get(spelling)) {
            let BindingRecord { user_id, display_name, extension, .. } = held.clone();
            let remark = remark(written, &extension);
            let user = User { id: user_id, login: String::new(), display_name, mail: None, extension: Some(extension), groups: Vec::new() };
            return Owner::User { user, remark };
        }
        unknown(Column::Extension, format!("nobody has the extension {written}"), Some("write its owner into the column 'user'".to_owned()))
    }
}

fn remark(written: &str, read: &Extension) -> Option<String> {
    (written != read.as_str()).then(|| format!("{written} is read as {read}: a spreadsheet takes zeros away"))
}

fn unknown(column: Column, message: String, hint: Option<String>) -> Owner {
    Owner::Unknown { column, message, hint }
}
