//! See [`frontier_fuzz::sniff`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frontier_fuzz::sniff::run(data));
