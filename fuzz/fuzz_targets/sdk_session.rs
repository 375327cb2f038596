//! See `src/sdk_session.rs`.
#![no_main]

#[path = "../src/sdk_session.rs"]
mod sdk_session;
use frontier_fuzz::script;

libfuzzer_sys::fuzz_target!(|data: &[u8]| sdk_session::run(data));
