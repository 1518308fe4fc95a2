//! The folder at work: files come in whole or not at all, and go out in pieces, each compared with what was added.
//!
//! A file is read through once when it is first asked for, and again when its size or times have changed: only if its SHA-256 is the
//! one that was written down may it be opened. Then its pieces are known by a hash each, and one that is another by then breaks the
//! transfer off. So a phone is never given a byte that nobody added, and no file is in memory as a whole.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Error, check_name, pinned, unpinned, with, without};
use crate::{
    model::{Event, Events, Timestamp, hex},
    template::{
        Faults, Firmware,
        firmware::{FILE, FOLDER, Image, Pin},
    },
};

/// How much is read and compared at a time.
const PIECE: usize = 64 << 10;
/// Files that are on their way in, until they have their names.
const INCOMING: &str = ".incoming-";

/// The folder. Cheap to clone.
#[derive(Clone)]
pub struct Depot(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    known: ArcSwap<Firmware>,
    /// For who changes the folder: one at a time.
    changing: Semaphore,
    /// By path, what was looked at.
    looked: Mutex<HashMap<String, Looked>>,
    /// One file is read through at a time: a thousand phones that ask for the same wait for one reading.
    looking: Semaphore,
    events: Events,
}

struct Looked {
    stamp: Stamp,
    /// `None`: it is not what was added.
    good: Option<Arc<Stored>>,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    ino: u64,
    len: u64,
    changed: (i64, i64),
    modified: (i64, i64),
}

/// A file that is what was added, open.
#[derive(Debug)]
pub struct Stored {
    pub image: Image,
    file: File,
    pieces: Vec<blake3::Hash>,
    events: Events,
    told: AtomicBool,
}

/// A file that is being added: write all of it, then [`Depot::finish`]. Dropped, it is gone.
pub struct Incoming {
    image: Image,
    file: NamedTempFile,
    hash: Sha256,
}

impl Depot {
    /// Makes the folder if it is not there, and reads what it says.
    ///
    /// # Errors
    /// `firmware.yaml` cannot be read, or the folder cannot be made.
    pub fn open(folder: PathBuf, events: Events) -> Result<Self, Faults> {
        let told = |error: io::Error| Faults(vec![crate::yaml::Fault::in_file(folder.display().to_string(), error.to_string())]);
        fs::create_dir_all(&folder).map_err(told)?;
        // What a server that was killed did not finish.
        for entry in fs::read_dir(&folder).map_err(told)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(INCOMING) {
                let _ = fs::remove_file(entry.path());
            }
        }
        let known = ArcSwap::from_pointee(read(&folder)?);
        let (changing, looked, looking) = (Semaphore::new(1), Mutex::default(), Semaphore::new(1));
        Ok(Self(Arc::new(Inner { folder, known, changing, looked, looking, events })))
    }

    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Somebody may have edited it.
    ///
    /// # Errors
    /// It has faults, and what was read before stays.
    pub fn read_again(&self) -> Result<(), Faults> {
        self.0.known.store(Arc::new(read(&self.0.folder)?));
        Ok(())
    }

    /// What there is, and who shall run what.
    pub fn known(&self) -> Arc<Firmware> {
        self.0.known.load_full()
    }

    // --- out

    /// The file of that path, open; `None`: there is none, or it is not what was added.
    pub async fn open_file(&self, path: &str) -> Option<Arc<Stored>> {
        let image = self.0.known.load().find(path)?.clone();
        let inner = self.0.clone();
        let _turn = self.0.looking.acquire().await.ok()?;
        tokio::task::spawn_blocking(move || inner.look(image)).await.ok()?
    }

    /// Whether each file is what was added; as it is served, not only as it was looked at last.
    pub async fn verdicts(&self) -> Vec<(Image, bool)> {
        let mut verdicts = Vec::new();
        for image in &self.0.known.load().images {
            verdicts.push((image.clone(), self.open_file(&image.path()).await.is_some()));
        }
        verdicts
    }

    // --- changes

    /// Begins to add a file. `image`: without its size and hash, which follow from what is written.
    pub fn begin(&self, image: Image) -> Result<Incoming, Error> {
        check_name(&image)?;
        let file = tempfile::Builder::new().prefix(INCOMING).tempfile_in(&self.0.folder).map_err(|error| self.0.disk(&error))?;
        Ok(Incoming { image, file, hash: Sha256::new() })
    }

    /// All of it has come: from here on it is there, also after `kill -9`. `wanted`: the SHA-256 that it must have. `true`: it is new.
    pub async fn finish(&self, incoming: Incoming, wanted: Option<String>) -> Result<(Image, bool), Error> {
        let _turn = self.0.turn().await?;
        let inner = self.0.clone();
        let kept = tokio::task::spawn_blocking(move || inner.keep(incoming, wanted.as_deref())).await;
        kept.unwrap_or_else(|error| Err(self.0.disk(&io::Error::other(error))))
    }

    /// Takes a file away, unless it is pinned. `live`: what phones are told now.
    pub async fn remove(&self, path: &str, live: &[Firmware]) -> Result<(), Error> {
        let _turn = self.0.turn().await?;
        self.0.write(without(&self.0.known.load(), path, live)?)?;
        let file = self.0.place(path);
        let removed = fs::remove_file(&file).or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) });
        removed.map_err(|error| self.0.disk(&error))?;
        // Their folders, if nothing else is in them.
        file.ancestors().skip(1).take(2).for_each(|folder| drop(fs::remove_dir(folder)));
        self.0.events.tell(Event::FirmwareRemoved { path: path.to_owned() });
        Ok(())
    }

    /// What [`Self::pin`] or [`Self::unpin`] would write.
    pub fn would_pin(&self, pin: &Pin, unpin: bool) -> Result<Firmware, Error> {
        let known = self.0.known.load();
        if unpin { unpinned(&known, pin) } else { pinned(&known, pin.clone()) }
    }

    /// Pins a version, or takes a pin away. No phone is told by it.
    pub async fn pin(&self, pin: Pin, unpin: bool) -> Result<(), Error> {
        let _turn = self.0.turn().await?;
        self.0.write(self.would_pin(&pin, unpin)?)?;
        let version = (!unpin).then(|| pin.version.clone());
        self.0.events.tell(Event::FirmwarePinned { whom: pin.whom(), version });
        Ok(())
    }
}

impl Incoming {
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hash.update(bytes);
        self.image.bytes += bytes.len() as u64;
        let folder = || self.file.path().parent().unwrap_or(Path::new("")).display().to_string();
        self.file.as_file().write_all(bytes).map_err(|error| Error::Disk { folder: folder(), reason: error.to_string() })
    }
}

impl Inner {
    /// `firmware/yealink/1/a.rom` on disk; its parts were checked when it was added or read.
    fn place(&self, path: &str) -> PathBuf {
        self.folder.join(path.strip_prefix(FOLDER).unwrap_or(path).trim_start_matches('/'))
    }

    async fn turn(&self) -> Result<SemaphorePermit<'_>, Error> {
        self.changing.acquire().await.map_err(|error| self.disk(&io::Error::other(error)))
    }

    fn disk(&self, error: &io::Error) -> Error {
        Error::Disk { folder: self.folder.display().to_string(), reason: error.to_string() }
    }

    fn look(&self, image: Image) -> Option<Arc<Stored>> {
        let path = image.path();
        let corrupt = |reason: String| {
            metrics::counter!("plugtone_firmware_corrupt_total").increment(1);
            tracing::error!(path, reason, "firmware is not served: it is not what was added");
            self.events.tell(Event::FirmwareCorrupt { path: path.clone(), reason });
        };
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = File::open(self.place(&path)).and_then(|file| Ok((Stamp::of(&file)?, file)));
        let (stamp, file) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // Told once, until it is there again.
                let gone = Stamp { ino: 0, len: 0, changed: (0, 0), modified: (0, 0) };
                if looked.insert(path.clone(), Looked { stamp: gone, good: None }).is_none_or(|before| before.stamp != gone) {
                    corrupt(error.to_string());
                }
                return None;
            }
        };
        if let Some(known) = looked.get(&path).filter(|known| known.stamp == stamp) {
            let same = known.good.as_ref().is_none_or(|stored| stored.image.sha256 == image.sha256);
            let sound = known.good.as_ref().is_none_or(|stored| !stored.told.load(Ordering::Relaxed));
            if same && sound {
                return known.good.clone();
            }
        }
        let good = match sums(&file) {
            Ok((sha256, pieces)) if sha256 == image.sha256 => {
                Some(Arc::new(Stored { image, file, pieces, events: self.events.clone(), told: AtomicBool::new(false) }))
            }
            Ok((sha256, _)) => {
                corrupt(format!("its SHA-256 is {sha256}, not {}", image.sha256));
                None
            }
            Err(error) => {
                corrupt(error.to_string());
                None
            }
        };
        looked.insert(path.clone(), Looked { stamp, good: good.clone() });
        good
    }

    fn keep(&self, incoming: Incoming, wanted: Option<&str>) -> Result<(Image, bool), Error> {
        let Incoming { mut image, file, hash } = incoming;
        image.sha256 = hex(&hash.finalize());
        image.added = Timestamp::of(SystemTime::now()).to_string();
        if let Some(wanted) = wanted.filter(|wanted| !wanted.eq_ignore_ascii_case(&image.sha256)) {
            return Err(Error::Damaged { wanted: wanted.to_owned(), got: image.sha256 });
        }
        let changed = with(&self.known.load(), image.clone())?;
        let place = self.place(&image.path());
        let folder = place.parent().unwrap_or(&self.folder);
        let keep = || -> io::Result<()> {
            fs::create_dir_all(folder)?;
            file.as_file().sync_all()?;
            // Others may read it: a server that runs as another user, a backup.
            fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
            // Also over a file of that name which is damaged, or which a server that was killed had not written down.
            fs::rename(file.path(), &place)?;
            folder.ancestors().take(3).try_for_each(|folder| File::open(folder)?.sync_all())
        };
        keep().map_err(|error| self.disk(&error))?;
        let Some(changed) = changed else { return Ok((image, false)) };
        self.write(changed)?;
        let (path, sha256, bytes) = (image.path(), image.sha256.clone(), image.bytes);
        self.events.tell(Event::FirmwareAdded { path, sha256, bytes });
        Ok((image, true))
    }

    /// All of `firmware.yaml`, or nothing of it.
    fn write(&self, firmware: Firmware) -> Result<(), Error> {
        let write = || -> io::Result<()> {
            let mut file = tempfile::Builder::new().prefix(INCOMING).tempfile_in(&self.folder)?;
            file.write_all(firmware.text().as_bytes())?;
            file.as_file().sync_all()?;
            fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
            file.persist(self.folder.join(FILE))?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|error| self.disk(&error))?;
        self.known.store(Arc::new(firmware));
        Ok(())
    }
}

impl Stored {
    pub fn len(&self) -> u64 {
        self.image.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// From here on as far as one piece goes; empty at the end.
    ///
    /// # Errors
    /// The disk fails, or what is there is not what was added.
    pub async fn read(self: &Arc<Self>, offset: u64) -> io::Result<Bytes> {
        let at = offset / PIECE as u64;
        let Some(wanted) = usize::try_from(at).ok().and_then(|at| self.pieces.get(at)).copied() else { return Ok(Bytes::new()) };
        let begins = at * PIECE as u64;
        // Not in the thread that reads: there are more of those the busier the machine is, and each would keep megabytes for the next.
        let piece = vec![0; usize::try_from(self.len().saturating_sub(begins)).unwrap_or(PIECE).min(PIECE)];
        let stored = self.clone();
        let piece = tokio::task::spawn_blocking(move || stored.fill(piece, begins, &wanted)).await.map_err(io::Error::other)??;
        let within = usize::try_from(offset - begins).unwrap_or(PIECE).min(piece.len());
        Ok(Bytes::from(piece).slice(within..))
    }

    fn fill(&self, mut piece: Vec<u8>, begins: u64, wanted: &blake3::Hash) -> io::Result<Vec<u8>> {
        let read = self.file.read_exact_at(&mut piece, begins);
        if let Err(error) = read.and_then(|()| match blake3::hash(&piece) == *wanted {
            true => Ok(()),
            false => Err(io::Error::other("the file on disk is not what was added")),
        }) {
            if !self.told.swap(true, Ordering::Relaxed) {
                metrics::counter!("plugtone_firmware_corrupt_total").increment(1);
                self.events.tell(Event::FirmwareCorrupt { path: self.image.path(), reason: error.to_string() });
            }
            return Err(error);
        }
        Ok(piece)
    }
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        let (changed, modified) = ((meta.ctime(), meta.ctime_nsec()), (meta.mtime(), meta.mtime_nsec()));
        Ok(Self { ino: meta.ino(), len: meta.len(), changed, modified })
    }
}

fn read(folder: &Path) -> Result<Firmware, Faults> {
    let file = folder.join(FILE);
    let origin = file.display().to_string();
    match fs::read_to_string(&file) {
        Ok(text) => Firmware::read(&origin, &text).map_err(Faults),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Firmware::default()),
        Err(error) => Err(Faults(vec![crate::yaml::Fault::in_file(origin, error.to_string())])),
    }
}

/// Of the whole in SHA-256, and of each piece.
fn sums(file: &File) -> io::Result<(String, Vec<blake3::Hash>)> {
    let (mut whole, mut pieces) = (Sha256::new(), Vec::new());
    let mut piece = Vec::with_capacity(PIECE);
    let mut reader = io::BufReader::with_capacity(PIECE, file);
    loop {
        piece.clear();
        if (&mut reader).take(PIECE as u64).read_to_end(&mut piece)? == 0 {
            return Ok((hex(&whole.finalize()), pieces));
        }
        whole.update(&piece);
        pieces.push(blake3::hash(&piece));
    }
}
