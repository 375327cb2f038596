//! The committed corpus of the fuzz target `gateway_session` through its body, without a fuzzer, and some scripts more.

#![cfg(feature = "testing")]

use std::{fs, path::PathBuf};

use proptest::{collection::vec, prelude::*};

#[path = "../../fuzz/src/gateway_session.rs"]
#[expect(unreachable_pub, reason = "public in the fuzz target's program")]
mod gateway_session;
#[path = "../../fuzz/src/script.rs"]
#[expect(unreachable_pub, dead_code, reason = "public in the crate of the fuzz targets, and used there")]
mod script;

#[test]
fn corpus_passes() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/gateway_session");
    let inputs: Vec<_> =
        fs::read_dir(&dir).expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
    assert!((5..=100).contains(&inputs.len()), "{} inputs", inputs.len());
    for input in inputs {
        // Shown only when the body panics.
        println!("{}", input.display());
        gateway_session::run(&fs::read(input).expect("an input"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_peer_leaves_a_gateway_in_order(script in vec(any::<u8>(), 0..600)) {
        gateway_session::run(&script);
    }
}
