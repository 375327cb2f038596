//! See [`frontier_fuzz::geminio_session`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frontier_fuzz::geminio_session::run(data));
