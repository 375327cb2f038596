//! See `src/gateway_session.rs`.
#![no_main]

#[path = "../src/gateway_session.rs"]
mod gateway_session;
use frontier_fuzz::script;

libfuzzer_sys::fuzz_target!(|data: &[u8]| gateway_session::run(data));
