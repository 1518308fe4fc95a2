//! Reads prompts from disk: WAV with PCM samples, mono or stereo, of any usual rate.
//!
//! A bad file is an error that names it and says what to do; nothing is guessed.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::clip::Clip;

/// A prompt may be this long; a longer one is most likely the wrong file.
const LONGEST_SECS: u32 = 600;

#[derive(Debug, thiserror::Error)]
pub enum ClipError {
    #[error("cannot read the prompt {path}: check that it exists and that the server may read it ({reason})")]
    Read { path: PathBuf, reason: String },
    #[error("{path} is not a WAV file that we can play ({reason}): convert it with `sox {path} -b 16 -c 1 -r 16000 out.wav`")]
    Format { path: PathBuf, reason: String },
    #[error("{path} plays for {secs} s, and a prompt may take {LONGEST_SECS}: is it the right file?")]
    TooLong { path: PathBuf, secs: u32 },
}

/// Loads one prompt. Stereo becomes the mean of both sides.
pub fn load(path: &Path) -> Result<Clip, ClipError> {
    let format = |reason: String| ClipError::Format { path: path.to_owned(), reason };
    let file = std::fs::File::open(path).map_err(|fault| ClipError::Read { path: path.to_owned(), reason: fault.to_string() })?;
    let reader = hound::WavReader::new(std::io::BufReader::new(file)).map_err(|fault| format(fault.to_string()))?;
    let spec = reader.spec();
    if !(4_000..=192_000).contains(&spec.sample_rate) {
        return Err(format(format!("{} samples per second", spec.sample_rate)));
    }
    if !(1..=2).contains(&spec.channels) {
        return Err(format(format!("{} channels", spec.channels)));
    }
    if spec.sample_format != hound::SampleFormat::Int || spec.bits_per_sample != 16 {
        return Err(format(format!("{} bits {:?} where 16 bits Int are wanted", spec.bits_per_sample, spec.sample_format)));
    }
    let secs = reader.duration() / spec.sample_rate;
    if secs > LONGEST_SECS {
        return Err(ClipError::TooLong { path: path.to_owned(), secs });
    }
    let samples = samples_16(reader).map_err(|fault| format(fault.to_string()))?;
    let mono = match spec.channels {
        2 => samples.chunks_exact(2).map(|pair| ((i32::from(pair[0]) + i32::from(pair[1])) / 2) as i16).collect(),
        _ => samples,
    };
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Clip::new(name, spec.sample_rate, &mono))
}

/// All samples of a file of 16 bits, of all channels in turn. In one piece: one by one takes seconds at each start where the program
/// is built for debugging.
pub fn samples_16(reader: hound::WavReader<impl Read>) -> io::Result<Vec<i16>> {
    let mut bytes = vec![0; reader.len() as usize * 2];
    reader.into_inner().read_exact(&mut bytes)?;
    Ok(bytes.as_chunks().0.iter().map(|sample| i16::from_le_bytes(*sample)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, spec: hound::WavSpec, count: usize) {
        let mut writer = hound::WavWriter::create(path, spec).expect("a temporary file");
        (0..count).for_each(|_| {
            if spec.bits_per_sample == 16 { writer.write_sample(1000i16) } else { writer.write_sample(0i32) }.expect("space")
        });
        writer.finalize().expect("space");
    }

    #[test]
    fn stereo_at_44100_becomes_a_clip() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("welcome.wav");
        let spec = hound::WavSpec { channels: 2, sample_rate: 44_100, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
        write(&path, spec, 88_200);
        let clip = load(&path).expect("a good file");
        assert_eq!((clip.name(), clip.duration().as_millis()), ("welcome", 1000));
        assert_eq!((clip.samples(8000)[4000], clip.samples(16_000).len()), (1000, 16_000));
    }

    #[test]
    fn bad_files_are_named_and_explained() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("text.wav"), "hello").expect("space");
        std::fs::write(at("empty.wav"), "").expect("space");
        write(
            &at("deep.wav"),
            hound::WavSpec { channels: 1, sample_rate: 8000, bits_per_sample: 24, sample_format: hound::SampleFormat::Int },
            8,
        );
        for (name, hint) in [("none.wav", "check that it exists"), ("text.wav", "sox"), ("empty.wav", "sox"), ("deep.wav", "24 bits")] {
            let text = load(&at(name)).expect_err(name).to_string();
            assert!(text.contains(name) && text.contains(hint), "{text}");
        }
    }
}
