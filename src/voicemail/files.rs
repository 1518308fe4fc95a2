//! Recordings as WAV files, a folder for each mailbox: written to a name that ends in `.part`, synced, then renamed.
//!
//! A file under its own name is whole. Which of them are messages, the store says; what it does not know is swept at the
//! start. Functions here block: call them where that harms nobody.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, BufWriter},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;

use crate::media::{self, Clip};

/// Samples a second, as they come from `media`.
const RATE: u32 = 8_000;
const SPEC: hound::WavSpec =
    hound::WavSpec { channels: 1, sample_rate: RATE, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
/// Quieter pieces are silence: 1/316 of the loudest, −50 dBFS.
const QUIET: f64 = 104.0;
/// So much must be louder for a recording to be one.
const SAID: Duration = Duration::from_millis(300);
const GREETING: &str = "greeting";

#[derive(Clone, Debug)]
pub struct Files {
    folder: PathBuf,
}

/// A recording that is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub length: Duration,
    pub bytes: u64,
}

impl Files {
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// Mailbox and name are digits, letters and `-`.
    fn path(&self, mailbox: &str, name: &str) -> PathBuf {
        self.folder.join(mailbox).join(format!("{name}.wav"))
    }

    pub fn read(&self, mailbox: &str, id: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path(mailbox, id))
    }

    pub fn clip(&self, mailbox: &str, id: &str) -> Result<Arc<Clip>, media::files::ClipError> {
        media::files::load(&self.path(mailbox, id)).map(Arc::new)
    }

    pub fn greeting(&self, mailbox: &str) -> Option<Arc<Clip>> {
        let path = self.path(mailbox, GREETING);
        if !path.exists() {
            return None;
        }
        media::files::load(&path).inspect_err(|fault| tracing::warn!(%fault, "a greeting cannot be played")).ok().map(Arc::new)
    }

    pub fn remove(&self, mailbox: &str, id: &str) -> io::Result<()> {
        match fs::remove_file(self.path(mailbox, id)) {
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Writes what comes until the channel closes. `None`: it is too short, or nothing is said in it. `id`: none for a greeting.
    pub fn record(
        &self,
        mailbox: &str,
        id: Option<&str>,
        mut from: mpsc::Receiver<Vec<i16>>,
        shortest: Duration,
    ) -> io::Result<Option<Recorded>> {
        let path = self.path(mailbox, id.unwrap_or(GREETING));
        let folder = path.parent().unwrap_or(Path::new("."));
        if !folder.exists() {
            fs::create_dir_all(folder)?;
            File::open(&self.folder)?.sync_all()?;
        }
        let part = Part(path.with_extension("part"));
        let mut wav = hound::WavWriter::new(BufWriter::new(File::create(&part.0)?), SPEC).map_err(io::Error::other)?;
        let (mut samples, mut loud) = (0u64, 0u64);
        while let Some(piece) = from.blocking_recv() {
            for sample in &piece {
                wav.write_sample(*sample).map_err(io::Error::other)?;
            }
            samples += piece.len() as u64;
            let square: f64 = piece.iter().map(|sample| f64::from(*sample).powi(2)).sum();
            if (square / piece.len().max(1) as f64).sqrt() > QUIET {
                loud += piece.len() as u64;
            }
        }
        wav.finalize().map_err(io::Error::other)?;
        let length = |samples: u64| Duration::from_micros(samples * 1_000_000 / u64::from(RATE));
        if length(samples) < shortest || length(loud) < SAID {
            return Ok(None);
        }
        let file = File::open(&part.0)?;
        file.sync_all()?;
        let bytes = file.metadata()?.len();
        fs::rename(&part.0, &path)?;
        // The new name is on disk when the folder is.
        File::open(folder)?.sync_all()?;
        Ok(Some(Recorded { length: length(samples), bytes }))
    }

    /// Removes what no row knows; gives the rows, as mailbox and id, that have no file.
    pub fn sweep(&self, known: &HashSet<(String, String)>) -> io::Result<Vec<(String, String)>> {
        let mut found = HashSet::new();
        for mailbox in fs::read_dir(&self.folder)?.flatten().filter(|entry| entry.path().is_dir()) {
            let name = mailbox.file_name().to_string_lossy().into_owned();
            for file in fs::read_dir(mailbox.path())?.flatten() {
                let path = file.path();
                let id = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
                let whole = path.extension().is_some_and(|ending| ending == "wav");
                if whole && (id == GREETING || known.contains(&(name.clone(), id.clone()))) {
                    found.insert((name.clone(), id));
                } else if whole || path.extension().is_some_and(|ending| ending == "part") {
                    tracing::warn!(path = %path.display(), "the rest of a message whose caller was cut off is removed");
                    fs::remove_file(&path)?;
                }
            }
        }
        Ok(known.difference(&found).cloned().collect())
    }
}

/// A file that is not whole yet; gone unless it was renamed.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoken(secs: usize) -> mpsc::Receiver<Vec<i16>> {
        let (to, from) = mpsc::channel(100);
        for _ in 0..secs * 10 {
            to.try_send((0..800).map(|n| if n % 8 < 4 { 5000 } else { -5000 }).collect()).expect("room");
        }
        from
    }

    #[test]
    fn a_recording_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = Files::open(folder.path().join("voicemail")).expect("opened");
        let secs = Duration::from_secs;
        let names = || -> Vec<_> {
            let all = fs::read_dir(folder.path().join("voicemail/2041")).expect("a folder").flatten();
            all.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        };
        assert_eq!(files.record("2041", Some("a"), spoken(1), secs(2)).expect("written"), None, "too short");
        let (_, silent) = mpsc::channel(1);
        assert_eq!(files.record("2041", Some("b"), silent, secs(0)).expect("written"), None, "nothing is said");
        assert_eq!(names(), [""; 0]);
        let recorded = files.record("2041", Some("c"), spoken(3), secs(2)).expect("written").expect("kept");
        assert_eq!(recorded, Recorded { length: secs(3), bytes: 48_044 });
        assert_eq!(files.clip("2041", "c").expect("it plays").duration(), secs(3));
        files.record("2041", None, spoken(1), secs(0)).expect("written");
        assert!(files.greeting("2041").is_some() && files.greeting("2042").is_none());
        // What a dead server left.
        fs::write(folder.path().join("voicemail/2041/d.part"), "x").expect("written");
        fs::write(folder.path().join("voicemail/2041/e.wav"), "x").expect("written");
        let row = |id: &str| ("2041".to_owned(), id.to_owned());
        let lost = files.sweep(&HashSet::from([row("c"), row("f")])).expect("swept");
        assert_eq!(lost, [row("f")]);
        let mut left = names();
        left.sort();
        assert_eq!(left, ["c.wav", "greeting.wav"]);
        files.remove("2041", "c").expect("removed");
        files.remove("2041", "c").expect("once more harms nobody");
    }
}
