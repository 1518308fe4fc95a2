//! Gets flows and prompts from the folder that `ivr.path` names, and else from the program itself.

use std::{borrow::Cow, collections::BTreeSet, fs, io::Cursor, path::Path, sync::Arc};

use rust_embed::Embed;

use super::{
    flow::Flow,
    prompts::{Prompts, Recording},
    settings::{Error, Settings},
};
use crate::yaml::Fault;

#[derive(Embed)]
#[folder = "ivr/"]
#[include = "flows/*.yaml"]
#[include = "prompts/*/*.yaml"]
#[include = "prompts/*/*.wav"]
struct Shipped;

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
    let text = str::from_utf8(&bytes).map_err(|_| one_fault(&file, "is not UTF-8 text".into()))?;
    let short = Path::new(name).file_stem().map_or(name.into(), |stem| stem.to_string_lossy());
    Flow::parse(&short, &file, text, &prompts.ids()).map_err(|faults| Error::Faults { faults })
}

pub fn load_prompts(path: Option<&Path>, language: &str) -> Result<Prompts, Error> {
    let inside = format!("prompts/{language}/prompts.yaml");
    let (file, bytes) = read(path, &inside)?.ok_or_else(|| one_fault(&inside, format!("there are no prompts in '{language}'")))?;
    let text = str::from_utf8(&bytes).map_err(|_| one_fault(&file, "is not UTF-8 text".into()))?;
    let sound = |id: &str| {
        let inside = format!("prompts/{language}/{id}.wav");
        match read(path, &inside) {
            Ok(Some((_, bytes))) => wav(&bytes),
            Ok(None) => Err(format!("{inside} is missing")),
            Err(error) => Err(error.to_string()),
        }
    };
    Prompts::new(language, &file, text, sound).map_err(|faults| Error::Faults { faults })
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
    let samples = reader.into_samples::<i16>().collect::<Result<Vec<_>, _>>().map_err(|error| how(error.to_string()))?;
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
    if let Some(path) = path {
        let file = path.join(inside);
        match fs::read(&file) {
            Ok(bytes) => return Ok(Some((file.display().to_string(), Cow::Owned(bytes)))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(one_fault(&file.display().to_string(), format!("cannot be read: {error}"))),
        }
    }
    Ok(Shipped::get(inside).map(|file| (format!("ivr/{inside}"), file.data)))
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
        assert!(wanted.into_iter().all(|id| loaded.prompts.recording(id).is_some()));
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
