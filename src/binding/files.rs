//! The master key's file: read, or created at the first start with mode 0600.

use std::{
    fs::{self, File, Permissions},
    io::{ErrorKind, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use zeroize::Zeroize;

use super::{Error, MasterKey};

/// Reads the 32 bytes in `path`, or makes them. A key that others may read is made private, with a warning.
pub fn load_or_create(path: &Path) -> Result<MasterKey, Error> {
    if let Some(key) = load(path)? {
        return Ok(key);
    }
    match create(path) {
        // Another process was faster: its key counts.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => load_or_create(path),
        Err(error) => Err(Error::KeyNotCreated { path: path.to_owned(), reason: error.to_string() }),
        Ok(key) => {
            tracing::info!(path = %path.display(), "a new master key was made; back it up with the database");
            Ok(key)
        }
    }
}

/// The key in `path`, if there is one.
pub fn load(path: &Path) -> Result<Option<MasterKey>, Error> {
    let unreadable = |reason: String| Error::KeyUnreadable { path: path.to_owned(), reason };
    match fs::read(path) {
        Ok(mut bytes) => {
            let key = <[u8; 32]>::try_from(bytes.as_slice()).map(MasterKey::new);
            let found = bytes.len();
            bytes.zeroize();
            let key = key.map_err(|_| unreadable(format!("it has {found} bytes and should have 32")))?;
            keep_private(path).map_err(|e| unreadable(e.to_string()))?;
            Ok(Some(key))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(error.to_string())),
    }
}

/// Whole or not at all, and on disk before the first phone gets a secret of it.
fn create(path: &Path) -> std::io::Result<MasterKey> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|e| std::io::Error::other(e.to_string()))?;
    let key = MasterKey::new(bytes);
    bytes.zeroize();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // `tempfile` creates with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(key.bytes())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|e| e.error)?;
    File::open(folder)?.sync_all()?;
    Ok(key)
}

fn keep_private(path: &Path) -> std::io::Result<()> {
    if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the master key could be read by others; its mode is 0600 now");
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_is_private() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("master.key");
        let first = load_or_create(&path).expect("made");
        assert_eq!(fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("chmod");
        let second = load_or_create(&path).expect("read");
        assert_eq!(first.bytes(), second.bytes());
        assert_eq!(fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_spoilt_key_is_not_replaced() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("master.key");
        fs::write(&path, [1; 31]).expect("written");
        let error = load_or_create(&path).expect_err("31 bytes").to_string();
        assert!(error.contains("31 bytes"), "{error}");
        assert_eq!(fs::read(&path).expect("still there").len(), 31);
        assert!(matches!(load_or_create(Path::new("/nonexistent/master.key")), Err(Error::KeyNotCreated { .. })));
    }
}
