//! The committed corpus of `fuzz/` through the fuzz targets' own bodies, without a fuzzer: what was found once stays found.

#![cfg(test)]

use std::{collections::BTreeSet, fs, path::PathBuf};

use proptest::{collection::vec, prelude::*};

#[path = "../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "public in the crate of the fuzz targets")]
mod fuzz;

/// Inputs of one target: fewer would be no corpus, more would make the repository and the test run heavy.
const INPUTS: std::ops::RangeInclusive<usize> = 5..=300;

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

fn names(dir: PathBuf) -> BTreeSet<String> {
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name")).collect()
}

#[test]
fn every_target_has_a_corpus_and_a_program() {
    let names_of_all = fuzz::TARGETS.iter().map(|(name, _)| name).chain(&fuzz::SESSIONS);
    let targets: BTreeSet<String> = names_of_all.map(|name| (*name).to_owned()).collect();
    assert_eq!(names(corpus()), targets);
    let programs = targets.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names(corpus().join("../fuzz_targets")), programs);
}

#[test]
fn corpus_passes_every_target() {
    for (name, body) in fuzz::TARGETS {
        let dir = corpus().join(name);
        let inputs = names(dir.clone());
        assert!(INPUTS.contains(&inputs.len()), "{name} has {} inputs", inputs.len());
        for input in inputs {
            // Shown only when the body panics.
            println!("{name}/{input}");
            body(&fs::read(dir.join(&input)).expect("an input"));
        }
    }
}

#[test]
fn targets_take_any_input_of_a_pattern() {
    for (_, body) in fuzz::TARGETS {
        body(&[]);
        for byte in 0..=u8::MAX {
            body(&[byte]);
            body(&[byte; 40]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Two connections of geminio and a link that cuts what they say anywhere.
    #[test]
    fn geminio_pairs_get_everything_in_order(script in vec(any::<u8>(), 0..1_500)) {
        fuzz::geminio_session::run(&[&[2][..], &script].concat());
    }

    #[test]
    fn geminio_survives_any_peer(role in 0_u8..2, script in vec(any::<u8>(), 0..1_500)) {
        fuzz::geminio_session::run(&[&[role][..], &script].concat());
    }
}
