//! The fuzzing targets without a fuzzer: each over its corpus, and over seeded mutations of it. `scripts/fuzz` looks further.

use std::{fs, path::Path};

use super::{
    fuzz_targets::TARGETS,
    sip_abuse::mutator::{Random, mutate},
};

const MUTATIONS: usize = 4_000;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("fuzz/corpus").join(target)];
    if target == "message" {
        folders.push(root.join("tests/vectors/rfc4475"));
    }
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap_or_else(|fault| panic!("{}: {fault}", folder.display())));
    let mut paths: Vec<_> = files.map(|file| file.expect("an entry").path()).filter(|path| path.is_file()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a seed")).collect()
}

#[test]
fn nothing_that_comes_from_the_network_panics() {
    for (name, target) in TARGETS {
        let seeds = corpus(name);
        assert!(seeds.len() >= 3, "{name} has {} seeds", seeds.len());
        seeds.iter().for_each(|seed| target(seed));
        let mut random = Random(0x5157_0f0f);
        for _ in 0..MUTATIONS {
            let (one, other) = (random.of(&seeds), random.of(&seeds));
            let bytes = mutate(&mut random, one, other);
            let outcome = std::panic::catch_unwind(|| target(&bytes));
            assert!(outcome.is_ok(), "{name} panics over {:?}", bytes.escape_ascii().to_string());
        }
    }
}

#[test]
fn every_target_is_one_of_the_fuzzer_too() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("fuzz/Cargo.toml");
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")) && folder.join(format!("targets/{name}.rs")).exists(), "{name}");
    }
}
