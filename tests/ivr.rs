//! The shipped flow, in virtual time: each way a caller, the directory and the server can behave has its sentence.
//!
//! Each file of `tests/ivr/` is a script, a line `---`, and the transcript of its rehearsal. To write the transcripts
//! anew after a change of words: `BLESS=1 cargo test --test all ivr::`, then read the difference.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use plugtone::ivr::{
    flow::Flow,
    machine::Facts,
    simulate::{Line, Script, Stage, What, length_of_text, rehearse, transcript},
    speech::Utterance,
};

fn root(inside: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(inside)
}

fn texts() -> BTreeMap<String, String> {
    let text = fs::read_to_string(root("ivr/prompts/en/prompts.yaml")).expect("prompts");
    plugtone::yaml::read("prompts.yaml", &text).expect("prompts are YAML")
}

fn welcome() -> Arc<Flow> {
    let ids: BTreeSet<String> = texts().into_keys().collect();
    let text = fs::read_to_string(root("ivr/flows/welcome.yaml")).expect("the flow");
    Arc::new(Flow::parse("welcome", "welcome.yaml", &text, &ids).expect("the shipped flow is whole"))
}

fn rehearsed(flow: &Arc<Flow>, script: &str) -> Vec<Line> {
    let texts = texts();
    let text = |id: &str| texts.get(id).cloned();
    let length = |utterance: &Utterance| match utterance {
        Utterance::Pause(pause) => *pause,
        Utterance::Digits(digits) => Duration::from_millis(400) * digits.len() as u32,
        other => length_of_text(&other.text(text)),
    };
    let script = Script::parse("script", script).expect("a script");
    let facts = Facts { device_state: "provisional".into(), device_extension: None };
    rehearse(flow.clone(), facts, &script, &Stage { text: &text, length: &length }, Instant::now())
}

#[test]
fn every_story_is_told_as_it_was() {
    let flow = welcome();
    let mut stories = 0;
    for entry in fs::read_dir(root("tests/ivr")).expect("stories").flatten() {
        let path = entry.path();
        let whole = fs::read_to_string(&path).expect("a story");
        let (script, expected) = whole.split_once("---\n").expect("script, ---, transcript");
        let told = transcript(&rehearsed(&flow, script));
        if std::env::var_os("BLESS").is_some() {
            fs::write(&path, format!("{script}---\n{told}")).expect("written");
        } else {
            assert_eq!(told, expected, "{}", path.display());
        }
        stories += 1;
    }
    assert!(stories >= 12, "only {stories} stories");
}

/// What the caller heard and how it ended.
fn heard(lines: &[Line]) -> (String, String) {
    let said = lines.iter().filter_map(|line| if let What::Says(text) = &line.what { Some(text.as_str()) } else { None });
    let end = lines.iter().rev().find_map(|line| match &line.what {
        What::HangsUp(outcome) => Some(outcome.clone()),
        What::CallerHangsUp => Some("caller".to_owned()),
        _ => None,
    });
    (said.collect::<Vec<_>>().join(" | "), end.unwrap_or_default())
}

#[test]
fn a_wrong_number_and_a_wrong_pin_sound_the_same() {
    // The directory says "refused" for both; the flow has no way to tell them apart, whatever was keyed.
    let flow = welcome();
    let known = rehearsed(&flow, "directory refused\nlisten\nkeys 1001#\nlisten\nkeys 0000#\nlisten\nhang up");
    let unknown = rehearsed(&flow, "directory refused\nlisten\nkeys 9999#\nlisten\nkeys 0000#\nlisten\nhang up");
    assert_eq!(heard(&known), heard(&unknown));
}

#[test]
fn whoever_hangs_up_at_any_moment_leaves_nothing_running() {
    let flow = welcome();
    let good = "listen; keys 1001#; listen; keys 4711#; listen; keys 1";
    for tenths in 0..400 {
        // The same caller, unplugged at every tenth of a second.
        let lines = rehearsed(&flow, &format!("wait {}ms; hang up", tenths * 100));
        let (_, end) = heard(&lines);
        assert!(end == "caller" || end == "gave up", "at {tenths}: {end}");
    }
    let (said, end) = heard(&rehearsed(&flow, good));
    assert_eq!(end, "bound");
    assert!(said.contains("Hello. Ada Lovelace") && said.contains("2 0 4 1"), "{said}");
}

#[test]
fn a_flow_that_runs_in_a_circle_ends() {
    let text =
        "start: a\nstates:\n  a: { branch: device.state, next: { otherwise: b } }\n  b: { say: [{ digits: device.extension }], then: a }\n";
    let flow = Arc::new(Flow::parse("circle", "circle.yaml", text, &BTreeSet::new()).expect("whole"));
    assert_eq!(heard(&rehearsed(&flow, "")).1, "the flow runs in a circle");
}

#[test]
fn scripts_say_what_is_wrong_with_them() {
    for (script, word) in [
        ("listen\nkyes 1", "did you mean 'keys'?"),
        ("keys hello", "not keys"),
        ("wait long", "5s or 300ms"),
        ("directory perhaps", "accepted NAME"),
        ("bind perhaps", "bound [EXTENSION]"),
    ] {
        let error = Script::parse("s", script).expect_err(script).to_string();
        assert!(error.contains(word), "{error}");
    }
}
