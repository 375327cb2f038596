//! The committed corpus of the fuzz target `sdk_session` through its body, without a fuzzer, and some scripts more.

use std::{fs, path::PathBuf};

use proptest::{collection::vec, prelude::*};

#[path = "../../fuzz/src/script.rs"]
#[expect(unreachable_pub, dead_code, reason = "public in the crate of the fuzz targets, and used there")]
mod script;
#[path = "../../fuzz/src/sdk_session.rs"]
#[expect(unreachable_pub, reason = "public in the fuzz target's program")]
mod sdk_session;

#[test]
fn corpus_passes() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/sdk_session");
    let entries = fs::read_dir(&dir).expect("a corpus");
    let inputs: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    assert!((5..=100).contains(&inputs.len()), "{} inputs", inputs.len());
    for input in inputs {
        // Shown only when the body panics.
        println!("{}", input.display());
        sdk_session::run(&fs::read(input).expect("an input"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_gateway_leaves_a_client_in_order(script in vec(any::<u8>(), 0..600)) {
        sdk_session::run(&script);
    }
}
