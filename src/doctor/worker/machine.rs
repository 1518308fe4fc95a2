//! Reads what the system says of itself, where the server runs.

use std::{fs, path::Path};

use super::Examination;
use crate::doctor::machine::{self, Seen};

pub fn look(examination: &Examination) -> Seen {
    Seen {
        neighbours: thresholds(),
        addresses: examination.addresses,
        rmem_max: number("/proc/sys/net/core/rmem_max"),
        open_files: running_server().and_then(|limits| machine::open_files(&limits)),
        connections: examination.connections,
        free: examination.folder.as_deref().and_then(free),
        folder: examination.folder.as_ref().map(|folder| folder.display().to_string()).unwrap_or_default(),
    }
}

/// net.ipv4.neigh.default.gc_thresh1, 2, 3; `None` where the system does not say.
pub fn thresholds() -> Option<[u64; 3]> {
    let read = |n: u8| fs::read_to_string(format!("/proc/sys/net/ipv4/neigh/default/gc_thresh{n}")).unwrap_or_default();
    let (one, two, three) = (read(1), read(2), read(3));
    machine::thresholds([&one, &two, &three])
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The limits of a `plugtone serve` that runs here.
fn running_server() -> Option<String> {
    let own = std::env::current_exe().ok()?;
    let name = own.file_name()?.to_owned();
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let mut words = line.split(|byte| *byte == 0);
        let program = String::from_utf8_lossy(words.next()?).into_owned();
        let serves = Path::new(&program).file_name() == Some(&name) && words.next() == Some(b"serve");
        serves.then(|| fs::read_to_string(entry.path().join("limits")).ok()).flatten()
    })
}

/// Bytes that are free where `folder` lies.
fn free(folder: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes()).ok()?;
    // SAFETY: zeros are a valid structure, and the path ends with NUL.
    let (failed, told) = unsafe {
        let mut told: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &raw mut told) != 0, told)
    };
    (!failed).then(|| told.f_bavail.saturating_mul(told.f_frsize))
}
