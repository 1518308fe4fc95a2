//! Gets flows and prompts from the folder that `ivr.path` names, and else from the program itself.

use std::{borrow::Cow, collections::BTreeSet, fs, io::Cursor, path::Path, sync::Arc};

use rust_embed::Embed;
use tracing::warn;

use super::{
    flow::Flow,
    prompts::{Prompts, Recording},
    settings::{Error, Settings},
};
use crate::{media, yaml::Fault};

#[derive(Embed)]
#[folder = "ivr/"]
#[include = "flows/*.yaml"]
#[include = "prompts/*/*.yaml"]
#[include = "prompts/*/*.wav"]
struct Shipped;

/// The language whose prompts are heard where another has none.
const FALLBACK: &str = "en";

/// A prompt longer than this is most likely the wrong file.
const LONGEST_SECS: u32 = 120;

/// A flow and the prompts it is spoken with.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub flow: Arc<Flow>,
    pub prompts: Arc<Prompts>,
}

/// Loads and checks the configured flow with its prompts.
pub fn load(settings: &Settings) -> Result<Loaded, Error> {
    settings.check()?;
    let prompts = load_prompts(settings.path.as_deref(), &settings.language)?;
    let flow = load_flow(settings.path.as_deref(), &settings.flow, &prompts)?;
    Ok(Loaded { flow: Arc::new(flow), prompts: Arc::new(prompts) })
}

/// Loads every flow there is, shipped and own, so that `plugtone check` tells all faults.
pub fn load_all(settings: &Settings) -> Result<Vec<Flow>, Error> {
    settings.check()?;
    let prompts = load_prompts(settings.path.as_deref(), &settings.language)?;
    let mut flows = Vec::new();
    let mut faults = Vec::new();
    for name in flow_names(settings.path.as_deref()) {
        match load_flow(settings.path.as_deref(), &name, &prompts) {
            Ok(flow) => flows.push(flow),
            Err(Error::Faults { faults: more }) => faults.extend(more),
            Err(other) => return Err(other),
        }
    }
    if faults.is_empty() { Ok(flows) } else { Err(Error::Faults { faults }) }
}

/// Loads one flow: a name in `flows/`, or a path to a YAML file.
pub fn load_flow(path: Option<&Path>, name: &str, prompts: &Prompts) -> Result<Flow, Error> {
    let (file, bytes) = if name.ends_with(".yaml") {
        let bytes = fs::read(name).map_err(|error| one_fault(name, format!("cannot be read: {error}")))?;
        (name.to_owned(), Cow::Owned(bytes))
    } else {
        let inside = format!("flows/{name}.yaml");
        read(path, &inside)?.ok_or_else(|| {
            let known = flow_names(path);
            let hint = crate::yaml::closest(name, known.iter().map(String::as_str)).map(|n| format!("did you mean '{n}'?"));
            let hint = hint.unwrap_or_else(|| format!("there are: {}", known.into_iter().collect::<Vec<_>>().join(", ")));
            Error::Faults { faults: vec![Fault::in_file(inside, "there is no such flow").hint(hint)] }
        })?
    };
    let text = utf8(&file, &bytes)?;
    let short = Path::new(name).file_stem().map_or(name.into(), |stem| stem.to_string_lossy());
    Flow::parse(&short, &file, text, &prompts.ids()).map_err(|faults| Error::Faults { faults })
}

/// Loads the prompts of a language. A folder of one's own may know nothing of prompts that a newer Plugtone says: then the
/// shipped ones are heard, in English where none are shipped in its language.
pub fn load_prompts(path: Option<&Path>, language: &str) -> Result<Prompts, Error> {
    let list = |language: &str| format!("prompts/{language}/prompts.yaml");
    let faults = |faults| Error::Faults { faults };
    let spare = if Shipped::get(&list(language)).is_some() { language } else { FALLBACK };
    let sound_in = |languages: &[&str], id: &str| {
        for language in languages {
            match read(path, &format!("prompts/{language}/{id}.wav")) {
                Ok(None) => {}
                Ok(Some((_, bytes))) => return wav(&bytes),
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(format!("prompts/{language}/{id}.wav is missing"))
    };
    let mut prompts = Prompts::new(language);
    let own = own(path, &list(language))?;
    if let Some((file, bytes)) = &own {
        prompts.add(file, utf8(file, bytes)?, |id| sound_in(&[language], id)).map_err(faults)?;
    } else if spare != language {
        return Err(one_fault(&list(language), format!("there are no prompts in '{language}'")));
    }
    let (file, bytes) = shipped(&list(spare)).ok_or_else(|| one_fault(&list(spare), "is not in the program".into()))?;
    let lent = prompts.add(&file, utf8(&file, &bytes)?, |id| sound_in(&[language, spare], id)).map_err(faults)?;
    if let (Some((file, _)), Some(first)) = (&own, lent.first()) {
        warn!(
            "{file} lacks {} prompts that Plugtone says, '{first}' among them: those that come with it are heard instead. Add their texts \
             there, and record each beside it, as {first}.wav; all: {}",
            lent.len(),
            lent.join(", ")
        );
    }
    Ok(prompts)
}

fn utf8<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str, Error> {
    str::from_utf8(bytes).map_err(|_| one_fault(file, "is not UTF-8 text".into()))
}

/// A WAV file: 16 bits, mono, 8 to 48 kHz.
pub fn wav(bytes: &[u8]) -> Result<Recording, String> {
    let how = |reason: String| format!("{reason}; convert it with `sox IN -b 16 -c 1 -r 16000 OUT.wav`");
    let reader = hound::WavReader::new(Cursor::new(bytes)).map_err(|error| how(error.to_string()))?;
    let spec = reader.spec();
    if spec.channels != 1 || spec.bits_per_sample != 16 || spec.sample_format != hound::SampleFormat::Int {
        return Err(how(format!("{} channels of {} bits where one of 16 bits is wanted", spec.channels, spec.bits_per_sample)));
    }
    if !(8000..=48_000).contains(&spec.sample_rate) {
        return Err(how(format!("{} samples per second where 8000 to 48000 are wanted", spec.sample_rate)));
    }
    if reader.duration() / spec.sample_rate > LONGEST_SECS {
        return Err(format!("it plays for more than {LONGEST_SECS} s: is it the right file?"));
    }
    let samples = media::files::samples_16(reader).map_err(|error| how(error.to_string()))?;
    Ok(Recording::new(spec.sample_rate, samples))
}

/// The flows there are, by name.
pub fn flow_names(path: Option<&Path>) -> BTreeSet<String> {
    let shipped = Shipped::iter().filter_map(|name| flow_name(&name));
    let own = path.and_then(|path| fs::read_dir(path.join("flows")).ok()).into_iter().flatten();
    let own = own.flatten().filter_map(|entry| flow_name(&format!("flows/{}", entry.file_name().to_string_lossy())));
    shipped.chain(own).collect()
}

fn flow_name(path: &str) -> Option<String> {
    path.strip_prefix("flows/")?.strip_suffix(".yaml").map(str::to_owned)
}

type Found = (String, Cow<'static, [u8]>);

/// A file of the administrator's folder or else of the program, with the name to call it by.
fn read(path: Option<&Path>, inside: &str) -> Result<Option<Found>, Error> {
    Ok(own(path, inside)?.or_else(|| shipped(inside)))
}

/// A file of the administrator's folder.
fn own(path: Option<&Path>, inside: &str) -> Result<Option<Found>, Error> {
    let Some(file) = path.map(|path| path.join(inside)) else { return Ok(None) };
    match fs::read(&file) {
        Ok(bytes) => Ok(Some((file.display().to_string(), Cow::Owned(bytes)))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(one_fault(&file.display().to_string(), format!("cannot be read: {error}"))),
    }
}

fn shipped(inside: &str) -> Option<Found> {
    Shipped::get(inside).map(|file| (format!("ivr/{inside}"), file.data))
}

fn one_fault(file: &str, message: String) -> Error {
    Error::Faults { faults: vec![Fault::in_file(file, message)] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ivr::speech;

    #[test]
    fn the_shipped_flow_and_every_piece_are_there_and_can_be_heard() {
        let loaded = load(&Settings::default()).expect("shipped");
        for id in loaded.prompts.ids() {
            let clip = loaded.prompts.recording(&id).expect("a sound");
            let loudest = clip.samples().iter().map(|s| s.unsigned_abs()).max().unwrap_or(0);
            assert!(loudest > 8000, "{id} is too quiet: {loudest}");
            assert!(clip.duration().as_millis() > 120, "{id} is too short: {:?}", clip.duration());
        }
        assert!(loaded.flow.prompts().into_iter().all(|id| loaded.prompts.recording(id).is_some()));
        let wanted = crate::ivr::diagnosis::PROMPTS.into_iter().chain(crate::ivr::confirmation::PROMPTS);
        for id in wanted.chain(crate::voicemail::machine::PROMPTS.iter().copied()) {
            assert!(loaded.prompts.recording(id).is_some(), "{id}");
        }
        assert!(speech::all_pieces().iter().all(|id| loaded.prompts.recording(id).is_some()));
        assert!(load_all(&Settings::default()).expect("all good").iter().any(|flow| flow.name == "welcome"));
    }

    #[test]
    fn an_own_folder_comes_first_and_its_faults_name_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("flows")).expect("created");
        let write = |name: &str, text: &str| fs::write(folder.path().join("flows").join(name), text).expect("written");
        write("welcome.yaml", "start: bye\nstates: { bye: { hang_up: mine } }\n");
        write("night.yaml", "start: bye\nstates: { bye: { say: [goodby], then: bye } }\n");
        let mut settings = Settings { path: Some(folder.path().to_owned()), ..Settings::default() };
        assert_eq!(load(&settings).expect("mine").flow.prompts().len(), 0);
        settings.flow = "night".into();
        let error = load(&settings).expect_err("a fault").to_string();
        assert!(error.contains("night.yaml:2:") && error.contains("did you mean 'goodbye'?"), "{error}");
        assert!(load_all(&settings).is_err());
        settings.flow = "nihgt".into();
        let error = load(&settings).expect_err("a fault").to_string();
        assert!(error.contains("did you mean 'night'?"), "{error}");
    }

    /// Their prompts were recorded for an older Plugtone, which had no voicemail.
    #[test]
    fn prompts_that_own_ones_lack_are_lent_and_the_log_names_the_file() {
        let sound = |pitch: i16| {
            let mut bytes = Cursor::new(Vec::new());
            let spec = hound::WavSpec { channels: 1, sample_rate: 8000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
            let mut wav = hound::WavWriter::new(&mut bytes, spec).expect("a WAV");
            (0..8).for_each(|_| wav.write_sample(pitch).expect("written"));
            wav.finalize().expect("written");
            bytes.into_inner()
        };
        let shipped = load_prompts(None, "en").expect("shipped");
        for (language, texts) in [("en", "hello: Welcome to Acme.\n"), ("de", "hello: Willkommen.\n")] {
            let folder = tempfile::tempdir().expect("a folder");
            let prompts = folder.path().join("prompts").join(language);
            fs::create_dir_all(&prompts).expect("created");
            fs::write(prompts.join("prompts.yaml"), texts).expect("written");
            fs::write(prompts.join("hello.wav"), sound(7)).expect("written");
            fs::write(prompts.join("vm-full.wav"), sound(8)).expect("written");
            let log = Log::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
            let settings = Settings { path: Some(folder.path().to_owned()), language: language.into(), ..Settings::default() };
            let loaded = tracing::subscriber::with_default(subscriber, || load(&settings)).expect("it starts");
            let heard = |id: &str| loaded.prompts.recording(id).expect("a sound").samples()[0];
            assert_eq!((heard("hello"), heard("vm-full")), (7, 8), "{language}: file by file, one's own first");
            assert_eq!(loaded.prompts.ids(), shipped.ids(), "{language}");
            assert_eq!(loaded.prompts.text("vm-none"), shipped.text("vm-none"), "{language}");
            let lent = loaded.prompts.recording("vm-none").expect("lent").samples();
            assert_eq!(lent, shipped.recording("vm-none").expect("shipped").samples(), "{language}");
            let log = String::from_utf8(log.0.lock().unwrap().clone()).expect("text");
            let (file, first) = (prompts.join("prompts.yaml").display().to_string(), "'ask-number'");
            assert!(log.contains("WARN") && log.contains(&file) && log.contains(first) && log.contains("vm-none"), "{language}: {log}");
            // What they list and did not record is a slip, which is told.
            fs::write(prompts.join("prompts.yaml"), "hello: Hello.\nlunch: We are out.\n").expect("written");
            let fault = load(&settings).expect_err("no sound").to_string();
            assert!(fault.contains(&file) && fault.contains("'lunch' has no sound"), "{language}: {fault}");
        }
        assert!(load_prompts(None, "de").expect_err("no German").to_string().contains("no prompts in 'de'"));
    }

    #[derive(Clone, Default)]
    struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn settings_are_checked() {
        for (settings, word) in [
            (Settings { flow: "../x".into(), ..Settings::default() }, "ivr.flow"),
            (Settings { tts_command: vec!["say".into()], ..Settings::default() }, "{file}"),
            (Settings { calls: 0, ..Settings::default() }, "ivr.calls"),
        ] {
            assert!(load(&settings).expect_err(word).to_string().contains(word));
        }
        assert!(wav(b"RIFFxxxx").expect_err("no WAV").contains("sox"));
    }
}
